//! The delays between attempts.

use std::time::Duration;

/// The parameters of delays.
#[derive(Clone, Copy, Debug)]
pub struct BackoffConfig {
    /// The delay before the first attempt after an error.
    pub first: Duration,
    /// The maximum delay.
    pub max: Duration,
    /// The maximum delay while there is no connection: a failed connection attempt costs the API server nothing.
    pub reconnect: Duration,
    /// The time for which a watch must be healthy before delays are reset. A successful list is not enough: if lists
    /// succeed and watches fail, complete lists would follow each other closely without end.
    pub healthy_after: Duration,
    /// The range of the random delay after watches were closed together, so that replicas do not reconnect together.
    pub jitter: Duration,
}

impl Default for BackoffConfig {
    fn default() -> BackoffConfig {
        BackoffConfig {
            first: Duration::from_millis(800),
            max: Duration::from_secs(30),
            reconnect: Duration::from_secs(8),
            healthy_after: Duration::from_secs(60),
            jitter: Duration::from_secs(1),
        }
    }
}

/// Computes delays that double.
#[derive(Debug)]
pub(super) struct Backoff {
    config: BackoffConfig,
    step: u32,
}

impl Backoff {
    /// Creates a backoff with the first delay.
    pub(super) fn new(config: BackoffConfig) -> Backoff {
        Backoff { config, step: 0 }
    }

    /// Returns the next delay: between half of the step and the step, but at least what the API server requested.
    pub(super) fn next_delay(&mut self, requested: Option<Duration>) -> Duration {
        self.step(self.config.max, requested)
    }

    /// Returns the next delay while there is no connection.
    pub(super) fn next_reconnect_delay(&mut self) -> Duration {
        self.step(self.config.reconnect, None)
    }

    fn step(&mut self, max: Duration, requested: Option<Duration>) -> Duration {
        let whole = self.config.first.saturating_mul(1 << self.step.min(16)).min(max);
        self.step = self.step.saturating_add(1);
        let wait = whole.mul_f64(0.5 + 0.5 * fastrand::f64());
        // An overloaded server knows the right delay; a limit protects against unreasonable ones.
        wait.max(requested.unwrap_or_default().min(self.config.max.saturating_mul(4)))
    }

    /// Records that a watch has been healthy for `duration`.
    pub(super) fn record_healthy(&mut self, duration: Duration) {
        if duration >= self.config.healthy_after {
            self.step = 0;
        }
    }

    /// Returns a short random delay, which differs between replicas.
    pub(super) fn jitter(&self) -> Duration {
        self.config.jitter.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_are_reset_after_a_healthy_watch() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        let bounds = [800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
        for max in bounds {
            let wait = backoff.next_delay(None).as_millis();
            assert!((max / 2..=max).contains(&wait), "{wait} of {max}");
            backoff.record_healthy(Duration::from_secs(59));
        }
        backoff.record_healthy(Duration::from_secs(60));
        assert!(backoff.next_delay(None) <= Duration::from_millis(800));
    }

    #[test]
    fn a_requested_delay_is_obeyed_up_to_a_limit() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        assert_eq!(backoff.next_delay(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.next_delay(Some(Duration::from_secs(1 << 40))), Duration::from_secs(120));
    }
}
