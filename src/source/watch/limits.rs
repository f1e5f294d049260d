//! The rate and the concurrency of requests: `apiserver_qps`, `apiserver_burst`, `apiserver_max_inflight`.
//!
//! Each page of a list counts, and a streaming list until its end; watches do not count, as in client-go.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The burst of client-go, if only a rate is configured.
const DEFAULT_BURST: u32 = 10;

/// The configured limits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestLimits {
    /// Requests per second; unlimited if `None` or 0.
    pub qps: Option<f32>,
    /// The number of requests that may exceed the rate at once; 10 if `None`.
    pub burst: Option<u32>,
    /// The number of requests in flight; 0 for no limit.
    pub max_inflight: u32,
}

/// Enforces limits of requests.
#[derive(Debug)]
pub struct Limiter {
    /// The interval between requests and the burst, or `None` for no limit.
    rate: Option<(Duration, u32)>,
    /// The time at which the bucket is full again (the "theoretical arrival time" of the generic cell rate algorithm).
    full: Mutex<Option<Instant>>,
    /// A permit for each request that may be in flight, or `None` for no limit.
    in_flight: Option<Semaphore>,
}

impl Limiter {
    /// Creates a limiter.
    pub fn new(limits: RequestLimits) -> Limiter {
        let qps = limits.qps.filter(|qps| *qps > 0.0);
        let interval = qps.map(|qps| Duration::try_from_secs_f32(1.0 / qps).unwrap_or(Duration::MAX / 4));
        let burst = limits.burst.unwrap_or(DEFAULT_BURST).max(1);
        let in_flight = (limits.max_inflight > 0).then(|| Semaphore::new(limits.max_inflight as usize));
        Limiter { rate: interval.map(|interval| (interval, burst)), full: Mutex::new(None), in_flight }
    }

    /// Waits until a request is allowed. The request counts as in flight until the permit is dropped. Returns the time
    /// waited, too.
    pub async fn admit(&self) -> (Option<SemaphorePermit<'_>>, Duration) {
        let start = Instant::now();
        if let Some(until) = self.reserve(start) {
            tokio::time::sleep_until(until).await;
        }
        let permit = match &self.in_flight {
            // The semaphore is never closed.
            Some(semaphore) => semaphore.acquire().await.ok(),
            None => None,
        };
        (permit, start.elapsed())
    }

    /// Takes a token from the bucket. Returns the time to wait for, if it was empty.
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
    async fn a_burst_is_admitted_at_once_and_the_rest_at_the_rate() {
        let limiter = Limiter::new(RequestLimits { qps: Some(2.0), burst: Some(3), max_inflight: 0 });
        let mut waits = Vec::new();
        for _ in 0..5 {
            waits.push(limiter.admit().await.1.as_millis());
        }
        assert_eq!(waits, [0, 0, 0, 500, 500]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(limiter.admit().await.1, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_are_limited() {
        let limiter = Limiter::new(RequestLimits { max_inflight: 1, ..RequestLimits::default() });
        let (first, _) = limiter.admit().await;
        assert!(tokio::time::timeout(Duration::from_secs(9), limiter.admit()).await.is_err());
        drop(first);
        assert_eq!(limiter.admit().await.1, Duration::ZERO);
    }

    #[tokio::test]
    async fn without_limits_nothing_waits() {
        let limiter = Limiter::new(RequestLimits { qps: Some(0.0), ..RequestLimits::default() });
        for _ in 0..1_000 {
            assert!(limiter.reserve(Instant::now()).is_none());
        }
    }
}
