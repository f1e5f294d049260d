//! Waits for conditions. No test requires a speed: a deadline only ends a test that would wait forever.

use std::time::{Duration, Instant};

/// For conditions that take moments on an idle machine.
pub const SOON: Duration = Duration::from_secs(60);
/// For conditions that depend on other timers, such as the back-off of a client.
pub const LATER: Duration = Duration::from_secs(240);

/// Repeats an attempt until it succeeds; after the deadline the last error fails the test.
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
