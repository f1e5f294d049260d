//! The body of a response: line by line for a watch, complete for a page of a list.

use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::time::Instant;

use crate::source::watch::error::{WaitTarget, WatchError, describe_error};

/// The maximum length of an event in bytes. An object has at most 1.5 MiB in etcd, and a multiple of that as JSON.
pub const MAX_EVENT: usize = 8 << 20;
/// The maximum length of a page of a list in bytes: some hundred objects.
pub const MAX_PAGE: usize = 32 << 20;
/// The maximum length of an unpaged list in bytes.
pub const MAX_LIST: usize = 256 << 20;
/// The capacity in bytes above which an empty buffer is released.
const RETAINED: usize = 64 << 10;

/// The received and not yet consumed bytes of a body, as lines.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// The offset of the first unconsumed byte, and the offset up to which there is no line end.
    from: usize,
    searched: usize,
    max: usize,
}

/// A line exceeds the size of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferFull;

impl LineBuffer {
    /// Creates a buffer that holds at most `max` bytes.
    pub fn new(max: usize) -> LineBuffer {
        LineBuffer { bytes: Vec::new(), from: 0, searched: 0, max }
    }

    /// Returns whether there is a complete line. Each byte is searched once.
    fn has_line(&mut self) -> bool {
        let end = memchr::memchr(b'\n', &self.bytes[self.searched..]);
        self.searched = end.map_or(self.bytes.len(), |end| self.searched + end);
        end.is_some()
    }

    /// Returns the next complete line, without its end.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        if !self.has_line() {
            return None;
        }
        let (start, end) = (self.from, self.searched);
        (self.from, self.searched) = (end + 1, end + 1);
        Some(&self.bytes[start..end])
    }

    /// Adds bytes, after consumed bytes are removed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BufferFull> {
        self.bytes.drain(..self.from);
        self.searched -= std::mem::take(&mut self.from);
        if self.bytes.is_empty() && self.bytes.capacity() > RETAINED {
            self.bytes = Vec::new();
        }
        if self.bytes.len() + bytes.len() > self.max {
            return Err(BufferFull);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// Reads a body.
pub struct Lines {
    body: Body,
    buffer: LineBuffer,
}

impl Lines {
    /// Creates a reader that buffers at most `max` bytes.
    pub fn new(body: Body, max: usize) -> Lines {
        Lines { body, buffer: LineBuffer::new(max) }
    }

    /// Returns the next line without its end, or `None` at the end of the body. Bytes after the last line end are
    /// discarded: they are an incomplete event. The timeout `limit` is for the whole line, however slowly its bytes
    /// arrive.
    pub async fn next_line(&mut self, limit: Duration) -> Result<Option<&[u8]>, WatchError> {
        let deadline = Instant::now() + limit;
        // A returned line borrows the buffer, so the loop only checks that there is one.
        while !self.buffer.has_line() {
            if !self.read_more(deadline, limit, WaitTarget::Event).await? {
                return Ok(None);
            }
        }
        Ok(self.buffer.next_line())
    }

    /// Returns the complete body, within the timeout `limit`.
    pub async fn read_all(mut self, limit: Duration) -> Result<Vec<u8>, WatchError> {
        let deadline = Instant::now() + limit;
        while self.read_more(deadline, limit, WaitTarget::PageEnd).await? {}
        Ok(self.buffer.bytes)
    }

    /// Reads more bytes. Returns false at the end of the body.
    async fn read_more(
        &mut self, deadline: Instant, limit: Duration, waiting_for: WaitTarget,
    ) -> Result<bool, WatchError> {
        loop {
            let frame = tokio::time::timeout_at(deadline, self.body.frame()).await;
            match frame.map_err(|_| WatchError::Timeout { waiting_for, limit })? {
                None => return Ok(false),
                Some(Err(error)) => return Err(WatchError::Connection(describe_error(&error))),
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
                    self.buffer.push(data).map_err(|BufferFull| WatchError::TooLong(self.buffer.max))?;
                    return Ok(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    async fn lines(text: &str, max: usize) -> (Vec<String>, Option<WatchError>) {
        let mut reader = Lines::new(Body::from(text.as_bytes().to_vec()), max);
        let mut lines = Vec::new();
        loop {
            match reader.next_line(SOON).await {
                Ok(Some(line)) => lines.push(String::from_utf8(line.to_vec()).unwrap()),
                Ok(None) => return (lines, None),
                Err(error) => return (lines, Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn complete_lines_are_returned_one_by_one() {
        assert_eq!(lines("a\n\nbc\nhalf", 99).await.0, ["a", "", "bc"]);
        assert!(lines("", 99).await.0.is_empty());
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_an_error() {
        let (lines, error) = lines(&"x".repeat(100), 99).await;
        assert!(lines.is_empty() && matches!(error, Some(WatchError::TooLong(99))));
    }
}
