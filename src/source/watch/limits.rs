//! How often, and how many at once, requests may be made: `apiserver_qps`, `apiserver_burst`, `apiserver_max_inflight`.
//!
//! Lists count, page by page, and streaming lists until their end; watches never do, as in client-go.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// client-go's burst, where only a rate is set.
const DEFAULT_BURST: u32 = 10;

/// What is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Requests a second; as many as come where `None` or 0.
    pub qps: Option<f32>,
    /// Requests at once above that rate; 10 where `None`.
    pub burst: Option<u32>,
    /// Requests that may wait for an answer at once; 0 for no limit.
    pub max_inflight: u32,
}

/// Holds requests to their limits.
#[derive(Debug)]
pub struct Limiter {
    /// Seconds between requests, and how many may come at once; `None` where there is no limit.
    rate: Option<(Duration, u32)>,
    /// The time at which the bucket is full again (the "theoretical arrival time" of the generic cell rate algorithm).
    full: Mutex<Option<Instant>>,
    in_flight: Option<Semaphore>,
}

impl Limiter {
    /// A limiter for these limits.
    pub fn new(limits: Limits) -> Limiter {
        let qps = limits.qps.filter(|qps| *qps > 0.0);
        let interval = qps.map(|qps| Duration::try_from_secs_f32(1.0 / qps).unwrap_or(Duration::MAX / 4));
        let burst = limits.burst.unwrap_or(DEFAULT_BURST).max(1);
        let in_flight = (limits.max_inflight > 0).then(|| Semaphore::new(limits.max_inflight as usize));
        Limiter { rate: interval.map(|interval| (interval, burst)), full: Mutex::new(None), in_flight }
    }

    /// Waits until a request may be made; it is under way until the permit is dropped. Says how long that took.
    pub async fn admit(&self) -> (Option<SemaphorePermit<'_>>, Duration) {
        let asked = Instant::now();
        if let Some(until) = self.reserve(asked) {
            tokio::time::sleep_until(until).await;
        }
        let permit = match &self.in_flight {
            // It is never closed.
            Some(semaphore) => semaphore.acquire().await.ok(),
            None => None,
        };
        (permit, asked.elapsed())
    }

    /// Takes one from the bucket; the time to wait for, if it was empty.
    fn reserve(&self, now: Instant) -> Option<Instant> {
        let (interval, burst) = self.rate?;
        let mut full = self.full.lock();
        let at = full.map_or(now, |full| full.max(now));
        let next = at.checked_add(interval).unwrap_or(at);
        *full = Some(next);
        let earliest = next.checked_sub(interval.saturating_mul(burst))?;
        (earliest > now).then_some(earliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(Limits { qps: Some(2.0), burst: Some(3), max_inflight: 0 });
        let mut waits = Vec::new();
        for _ in 0..5 {
            waits.push(limiter.admit().await.1.as_millis());
        }
        assert_eq!(waits, [0, 0, 0, 500, 500]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(limiter.admit().await.1, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_under_way_than_may_be() {
        let limiter = Limiter::new(Limits { max_inflight: 1, ..Limits::default() });
        let (first, _) = limiter.admit().await;
        assert!(tokio::time::timeout(Duration::from_secs(9), limiter.admit()).await.is_err());
        drop(first);
        assert_eq!(limiter.admit().await.1, Duration::ZERO);
    }

    #[tokio::test]
    async fn without_limits_nothing_waits() {
        let limiter = Limiter::new(Limits { qps: Some(0.0), ..Limits::default() });
        for _ in 0..1_000 {
            assert!(limiter.reserve(Instant::now()).is_none());
        }
    }
}
