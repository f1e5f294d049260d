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
/// A buffer that has grown larger than this is given back when it is empty, in octets.
const KEEP: usize = 64 << 10;

/// Reads a body.
pub struct Lines {
    body: Body,
    /// What has come and has not been given away yet starts at `from`; up to `searched` there is no line end.
    buffer: Vec<u8>,
    from: usize,
    searched: usize,
    most: usize,
}

impl Lines {
    /// A reader of a body that takes at most `most` octets at once.
    pub fn new(body: Body, most: usize) -> Lines {
        Lines { body, buffer: Vec::new(), from: 0, searched: 0, most }
    }

    /// The next line, without its end; `None` at the end of the body. What follows the last line end is lost: it is half
    /// an event. It may take as long as `limit`, however its octets drip.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<&[u8]>, WatchError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let (start, end) = (self.from, self.searched + end);
                self.from = end + 1;
                self.searched = self.from;
                return Ok(Some(&self.buffer[start..end]));
            }
            self.buffer.drain(..self.from);
            self.from = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > KEEP {
                self.buffer = Vec::new();
            }
            self.searched = self.buffer.len();
            if !self.fill(deadline, limit, Awaited::Event).await? {
                return Ok(None);
            }
        }
    }

    /// The whole body, which may take as long as `limit`.
    pub async fn all(mut self, limit: Duration) -> Result<Vec<u8>, WatchError> {
        let deadline = Instant::now() + limit;
        while self.fill(deadline, limit, Awaited::PageEnd).await? {}
        Ok(self.buffer)
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
                    if self.buffer.len() + data.len() > self.most {
                        return Err(WatchError::TooLong(self.most));
                    }
                    self.buffer.extend_from_slice(data);
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
