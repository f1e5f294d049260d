//! The queue between the threads that answer queries and the task that writes messages. No query waits for it: a
//! message over a limit is dropped and counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::frames;

/// The size of a chunk in bytes, unless one message is longer.
const CHUNK: usize = 64 * 1024;
/// The memory limit for each 10,000 messages, in bytes. Most messages have a few hundred bytes.
pub(super) const BYTES_PER_UNIT: usize = 16 * 1024 * 1024;
/// The messages of a unit of the `queue` argument.
pub(super) const MESSAGES_PER_UNIT: usize = 10_000;

/// A bounded queue of messages.
pub(super) struct Queue {
    /// Messages that are not taken. Locked by each query for a copy of its message, and by the writer to take a chunk.
    chunks: Mutex<Chunks>,
    max_messages: usize,
    max_bytes: usize,
    /// A reader is connected, or may be soon. Written by the writer, read by each query.
    is_open: AtomicBool,
    /// Messages that were dropped since the last report.
    dropped: AtomicU64,
    /// Messages that were dropped by all queues.
    all_dropped: Arc<AtomicU64>,
    /// Notified when there is a message after there was none.
    pub(super) ready: Notify,
    /// Notified when there is a whole chunk.
    pub(super) full: Notify,
}

#[derive(Default)]
struct Chunks {
    waiting: VecDeque<Chunk>,
    /// Messages and bytes that wait or are being written.
    messages: usize,
    bytes: usize,
}

/// Messages that are written together.
#[derive(Default)]
pub(super) struct Chunk {
    /// Their frames.
    pub(super) frames: Vec<u8>,
    /// Their number.
    pub(super) messages: usize,
}

impl Queue {
    /// Creates an empty queue of this number of units, that is open. Dropped messages are added to `all_dropped`.
    pub(super) fn new(units: usize, all_dropped: Arc<AtomicU64>) -> Queue {
        Queue {
            chunks: Mutex::default(),
            max_messages: units * MESSAGES_PER_UNIT,
            max_bytes: units * BYTES_PER_UNIT,
            is_open: AtomicBool::new(true),
            dropped: AtomicU64::new(0),
            all_dropped,
            ready: Notify::new(),
            full: Notify::new(),
        }
    }

    /// Returns whether messages are accepted. If not, the message that the caller would have pushed is counted as
    /// dropped.
    pub(super) fn accepts(&self) -> bool {
        let is_open = self.is_open.load(Ordering::Relaxed);
        if !is_open {
            self.count_dropped(1);
        }
        is_open
    }

    /// Adds an encoded message, or drops it.
    pub(super) fn push(&self, message: &[u8]) {
        let len = message.len() + frames::OVERHEAD;
        let mut chunks = self.chunks.lock();
        if chunks.messages >= self.max_messages || chunks.bytes + len > self.max_bytes {
            drop(chunks);
            return self.count_dropped(1);
        }
        (chunks.messages, chunks.bytes) = (chunks.messages + 1, chunks.bytes + len);
        let waiting = &mut chunks.waiting;
        let was_empty = waiting.is_empty();
        let has_space = |chunk: &Chunk| chunk.frames.capacity() - chunk.frames.len() >= len;
        let is_new = !waiting.back().is_some_and(has_space);
        if is_new {
            waiting.push_back(Chunk { frames: Vec::with_capacity(CHUNK.max(len)), messages: 0 });
        }
        if let Some(chunk) = waiting.back_mut() {
            frames::append(&mut chunk.frames, message);
            chunk.messages += 1;
        }
        drop(chunks);
        if was_empty {
            self.ready.notify_one();
        } else if is_new {
            self.full.notify_one();
        }
    }

    /// Takes the oldest chunk. It counts until [`Queue::settle`] is called with it.
    pub(super) fn take(&self) -> Option<Chunk> {
        self.chunks.lock().waiting.pop_front()
    }

    /// Releases what a chunk has taken of the limits, after it was written or dropped.
    pub(super) fn settle(&self, chunk: &Chunk, is_written: bool) {
        self.release(chunk.messages, chunk.frames.len());
        if !is_written {
            self.count_dropped(chunk.messages as u64);
        }
    }

    /// Releases this number of messages with this number of bytes, which belonged to a chunk that was taken.
    pub(super) fn release(&self, messages: usize, bytes: usize) {
        let mut chunks = self.chunks.lock();
        chunks.messages = chunks.messages.saturating_sub(messages);
        chunks.bytes = chunks.bytes.saturating_sub(bytes);
    }

    /// Accepts messages from now on.
    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Accepts no messages from now on, and drops those that wait.
    pub(super) fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
        while let Some(chunk) = self.take() {
            self.settle(&chunk, false);
        }
    }

    /// Counts dropped messages.
    pub(super) fn count_dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.all_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the number of dropped messages since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_over_a_limit_are_dropped_until_others_are_written() {
        let total = Arc::new(AtomicU64::new(0));
        let queue = Queue::new(1, total.clone());
        (0..MESSAGES_PER_UNIT + 5).for_each(|_| queue.push(b"0123456789"));
        assert_eq!(queue.take_dropped(), 5);
        let chunk = queue.take().expect("a chunk");
        assert_eq!(chunk.frames.len(), chunk.messages * 14);
        assert_eq!(chunk.frames[..14], *b"\0\0\0\x0a0123456789");
        // A chunk that is being written counts.
        queue.push(b"x");
        assert_eq!(queue.take_dropped(), 1);
        queue.settle(&chunk, true);
        (0..chunk.messages).for_each(|_| queue.push(b"x"));
        assert_eq!(queue.take_dropped(), 0);
        queue.push(b"x");
        assert_eq!(queue.take_dropped(), 1);
        queue.close();
        assert_eq!(queue.take_dropped(), MESSAGES_PER_UNIT as u64);
        assert!(!queue.accepts() && queue.take().is_none());
        assert_eq!((queue.take_dropped(), total.load(Ordering::Relaxed)), (1, 8 + MESSAGES_PER_UNIT as u64));
    }

    #[test]
    fn long_messages_reach_the_limit_of_memory() {
        let queue = Queue::new(1, Arc::default());
        let message = vec![7; 65_000];
        let fit = BYTES_PER_UNIT / (message.len() + 4);
        (0..fit + 3).for_each(|_| queue.push(&message));
        assert_eq!(queue.take_dropped(), 3);
        queue.close();
        queue.open();
        (0..fit + 1).for_each(|_| queue.push(&message));
        assert_eq!(queue.take_dropped(), fit as u64 + 1);
    }
}
