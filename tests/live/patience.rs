//! Waiting for what is to come. No test says how fast something has to be: a deadline is only there to end a test that
//! would wait for ever.

use std::time::{Duration, Instant};

/// For what takes moments on a quiet machine.
pub const SOON: Duration = Duration::from_secs(60);
/// For what waits for somebody else's clock, such as a client that tries again at longer and longer intervals.
pub const LATER: Duration = Duration::from_secs(240);

/// Tries until it succeeds; past the deadline the last failure ends the test.
pub fn eventually<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > deadline => panic!("{what}: not within {deadline:?}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
