//! Sends messages to a reader to which this server connects (CoreDNS `plugin/dnstap/io.go`).

use std::io;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::config::TapEndpoint;
use super::queue::Queue;
use super::stream::{FrameStream, STOP_TIMEOUT, connect, stopped};

/// The delay before the second attempt to connect; it doubles.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest delay between two attempts (CoreDNS `errorCheckInterval`).
const MAX_DELAY: Duration = Duration::from_secs(10);
/// After a connection that lasted longer than this, the next attempt is made at once.
const STABLE: Duration = Duration::from_secs(10);
/// The time for which messages are collected, unless there are many.
const FLUSH: Duration = Duration::from_millis(100);

/// Sends the messages of a queue.
pub(super) struct Sender<'a> {
    /// The reader.
    pub(super) endpoint: &'a TapEndpoint,
    /// The size of the send buffer, in MiB.
    pub(super) write_buffer: usize,
    /// The certificate of the reader is verified.
    pub(super) is_verified: bool,
    /// The messages.
    pub(super) queue: &'a Queue,
}

impl Sender<'_> {
    /// Connects, sends, and connects again, until the order to stop. Without a connection, messages are dropped.
    pub(super) async fn run(&self, mut stop: watch::Receiver<bool>) {
        let Sender { endpoint, write_buffer, is_verified, queue } = *self;
        let mut delay = FIRST_DELAY;
        let mut has_failed = false;
        loop {
            let connected = tokio::select! {
                biased;
                () = stopped(&mut stop) => return queue.close(),
                connected = connect(endpoint, write_buffer, is_verified) => connected,
            };
            match connected {
                Ok(link) => {
                    if has_failed {
                        tracing::info!(plugin = "dnstap", "connected to {endpoint}");
                    }
                    queue.open();
                    let since = Instant::now();
                    match self.write(link, &mut stop).await {
                        Ok(()) => return queue.close(),
                        Err(error) => tracing::warn!(plugin = "dnstap", "lost the connection to {endpoint}: {error}"),
                    }
                    has_failed = true;
                    if since.elapsed() >= STABLE {
                        delay = FIRST_DELAY;
                        continue;
                    }
                }
                Err(error) => {
                    if !has_failed {
                        tracing::error!(plugin = "dnstap", "No connection to dnstap endpoint: {endpoint}: {error}");
                    }
                    has_failed = true;
                }
            }
            queue.close();
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = sleep(delay) => {}
            }
            delay = (delay * 2).min(MAX_DELAY);
        }
    }

    /// Writes messages until the connection breaks, or until the order to stop, after which the messages are written
    /// that were accepted before it.
    async fn write(&self, mut link: FrameStream, stop: &mut watch::Receiver<bool>) -> io::Result<()> {
        let mut end: Option<Instant> = None;
        loop {
            while let Some(chunk) = self.queue.take() {
                let written = link.write(&chunk.frames).await;
                self.queue.settle(&chunk, written.is_ok());
                written?;
                if end.is_some_and(|end| Instant::now() >= end) {
                    return Ok(());
                }
            }
            if end.is_some() {
                // A reader that does not finish the stream has read it nevertheless.
                let _ = link.end().await;
                return Ok(());
            }
            tokio::select! {
                () = stopped(stop) => {
                    end = Some(Instant::now() + STOP_TIMEOUT);
                    continue;
                }
                error = link.closed() => return Err(error),
                () = self.queue.ready.notified() => {}
            }
            tokio::select! {
                () = stopped(stop) => end = Some(Instant::now() + STOP_TIMEOUT),
                () = self.queue.full.notified() => {}
                () = sleep(FLUSH) => {}
            }
        }
    }
}
