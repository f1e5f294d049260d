//! The time of day of moments that were measured with the monotonic clock, for records of queries.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The interval at which the two clocks are compared, in nanoseconds.
const INTERVAL: i64 = 1_000_000_000;
/// A smaller difference, in nanoseconds, is not corrected, so that two records of a query have the same time.
const TOLERANCE: i64 = 5_000_000;

/// The start of the monotonic time.
static START: OnceLock<Instant> = OnceLock::new();
/// The time of day of [`START`], in nanoseconds since 1970. Written by the thread that compares the clocks; every
/// thread reads it.
static OFFSET: AtomicI64 = AtomicI64::new(i64::MIN);
/// The monotonic time of the last comparison.
static COMPARED: AtomicI64 = AtomicI64::new(i64::MIN);

/// Returns the time of day of a moment, as the time since 1970. The same moment has the same time each time, unless the
/// clock of the machine was set in between.
pub fn since_1970(moment: Instant) -> Duration {
    let start = *START.get_or_init(Instant::now);
    let elapsed = signed(start, moment);
    let now = signed(start, Instant::now());
    let compared = COMPARED.load(Ordering::Relaxed);
    if compared == i64::MIN || now - compared >= INTERVAL {
        let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let offset = i64::try_from(today.as_nanos()).unwrap_or(i64::MAX).saturating_sub(now);
        let before = OFFSET.load(Ordering::Relaxed);
        if before == i64::MIN || offset.abs_diff(before) > TOLERANCE as u64 {
            OFFSET.store(offset, Ordering::Relaxed);
        }
        COMPARED.store(now, Ordering::Relaxed);
    }
    let nanoseconds = OFFSET.load(Ordering::Relaxed).saturating_add(elapsed);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// Returns the nanoseconds from `start` to `moment`, which may be negative.
fn signed(start: Instant, moment: Instant) -> i64 {
    let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match moment.checked_duration_since(start) {
        Some(after) => nanoseconds(after),
        None => -nanoseconds(start.duration_since(moment)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_the_time_of_day() {
        let (before, moment) = (SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"), Instant::now());
        let time = since_1970(moment);
        assert!(time.abs_diff(before) < Duration::from_secs(1), "{time:?}, {before:?}");
        assert_eq!(since_1970(moment), time);
        assert_eq!(since_1970(moment + Duration::from_millis(1_500)) - time, Duration::from_millis(1_500));
        let earlier = moment.checked_sub(Duration::from_secs(1)).expect("a moment");
        assert_eq!(time - since_1970(earlier), Duration::from_secs(1));
    }
}
