//! A limit on log lines about a problem that may recur for each packet.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Limits log lines about a problem that may recur for each packet to one in ten seconds.
pub(crate) struct LogLimiter(Mutex<Option<Instant>>);

impl LogLimiter {
    /// Creates a limit that allows the first line at once.
    pub(crate) const fn new() -> LogLimiter {
        LogLimiter(Mutex::new(None))
    }

    /// Returns whether to log now. If so, the next line is due in ten seconds.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let now = Instant::now();
        let is_due = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(10));
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}
