//! The body of an answer: line by line for a watch, whole for a page of a list.

use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::time::Instant;

use crate::source::watch::error::{Awaited, WatchError, causes};

/// The longest event that is taken, in octets. An object has at most 1.5 MiB in etcd, and some times that as JSON.
pub const MAX_EVENT: usize = 8 << 20;
/// The longest page of a list, in octets: some hundred objects.
pub const MAX_PAGE: usize = 32 << 20;
/// The longest whole list, in octets.
pub const MAX_LIST: usize = 256 << 20;
/// A buffer that has grown larger than this is given back when it is empty, in bytes.
const RETAINED: usize = 64 << 10;

/// The bytes of a body that have come and are not consumed, as lines.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// The unconsumed bytes start at `from`; up to `searched` there is no line end.
    from: usize,
    searched: usize,
    most: usize,
}

/// More bytes than the buffer may hold, without a line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl LineBuffer {
    /// Creates a buffer that holds at most `most` bytes.
    pub fn new(most: usize) -> LineBuffer {
        LineBuffer { bytes: Vec::new(), from: 0, searched: 0, most }
    }

    /// Looks for the end of the next line, each byte once.
    fn has_line(&mut self) -> bool {
        let end = memchr::memchr(b'\n', &self.bytes[self.searched..]);
        self.searched = end.map_or(self.bytes.len(), |end| self.searched + end);
        end.is_some()
    }

    /// Returns the next whole line, without its end.
    pub fn next_line(&mut self) -> Option<&[u8]> {
        if !self.has_line() {
            return None;
        }
        let (start, end) = (self.from, self.searched);
        (self.from, self.searched) = (end + 1, end + 1);
        Some(&self.bytes[start..end])
    }

    /// Adds bytes, in place of those that were consumed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.bytes.drain(..self.from);
        self.searched -= std::mem::take(&mut self.from);
        if self.bytes.is_empty() && self.bytes.capacity() > RETAINED {
            self.bytes = Vec::new();
        }
        if self.bytes.len() + bytes.len() > self.most {
            return Err(TooLong);
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
    /// A reader of a body that takes at most `most` bytes at once.
    pub fn new(body: Body, most: usize) -> Lines {
        Lines { body, buffer: LineBuffer::new(most) }
    }

    /// The next line, without its end; `None` at the end of the body. What follows the last line end is lost: it is half
    /// an event. It may take as long as `limit`, however its bytes drip.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<&[u8]>, WatchError> {
        let deadline = Instant::now() + limit;
        // A line that is returned borrows the buffer, so that the loop only looks whether there is one.
        while !self.buffer.has_line() {
            if !self.fill(deadline, limit, Awaited::Event).await? {
                return Ok(None);
            }
        }
        Ok(self.buffer.next_line())
    }

    /// The whole body, which may take as long as `limit`.
    pub async fn all(mut self, limit: Duration) -> Result<Vec<u8>, WatchError> {
        let deadline = Instant::now() + limit;
        while self.fill(deadline, limit, Awaited::PageEnd).await? {}
        Ok(self.buffer.bytes)
    }

    /// Reads some more; whether there was more.
    async fn fill(&mut self, deadline: Instant, limit: Duration, what: Awaited) -> Result<bool, WatchError> {
        loop {
            let frame = tokio::time::timeout_at(deadline, self.body.frame()).await;
            match frame.map_err(|_| WatchError::Silence { what, limit })? {
                None => return Ok(false),
                Some(Err(error)) => return Err(WatchError::Connection(causes(&error))),
                Some(Ok(frame)) => {
                    let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) else { continue };
                    self.buffer.push(data).map_err(|TooLong| WatchError::TooLong(self.buffer.most))?;
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

    async fn lines(text: &str, most: usize) -> (Vec<String>, Option<WatchError>) {
        let mut reader = Lines::new(Body::from(text.as_bytes().to_vec()), most);
        let mut lines = Vec::new();
        loop {
            match reader.next(SOON).await {
                Ok(Some(line)) => lines.push(String::from_utf8(line.to_vec()).unwrap()),
                Ok(None) => return (lines, None),
                Err(error) => return (lines, Some(error)),
            }
        }
    }

    #[tokio::test]
    async fn lines_come_one_by_one_and_half_a_line_does_not() {
        assert_eq!(lines("a\n\nbc\nhalf", 99).await.0, ["a", "", "bc"]);
        assert!(lines("", 99).await.0.is_empty());
    }

    #[tokio::test]
    async fn what_never_ends_is_refused() {
        let (lines, error) = lines(&"x".repeat(100), 99).await;
        assert!(lines.is_empty() && matches!(error, Some(WatchError::TooLong(99))));
    }
}
