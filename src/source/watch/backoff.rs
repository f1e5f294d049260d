//! How long to wait before the next attempt.

use std::time::Duration;

/// The shape of waiting.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before the first attempt after a error.
    pub first: Duration,
    /// At most.
    pub most: Duration,
    /// At most where nobody answers: to ask again costs nobody anything.
    pub reconnect: Duration,
    /// A watch has to be healthy for this long before the waits start small again. A list that ends well is not enough:
    /// where lists succeed and watches fail, full lists would follow each other closely for ever.
    pub calm: Duration,
    /// How long all of those whose watch was ended at once may spread, so that not all replicas ask together.
    pub spread: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            first: Duration::from_millis(800),
            most: Duration::from_secs(30),
            reconnect: Duration::from_secs(8),
            calm: Duration::from_secs(60),
            spread: Duration::from_secs(1),
        }
    }
}

/// Waits that double.
#[derive(Debug)]
pub struct Backoff {
    pace: Pace,
    step: u32,
}

impl Backoff {
    /// At its start.
    pub fn new(pace: Pace) -> Backoff {
        Backoff { pace, step: 0 }
    }

    /// The next wait: between a half and the whole of the step, and at least what the API server asked for.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        self.step(self.pace.most, asked)
    }

    /// The next wait where nobody answers.
    pub fn reconnect(&mut self) -> Duration {
        self.step(self.pace.reconnect, None)
    }

    fn step(&mut self, most: Duration, asked: Option<Duration>) -> Duration {
        let whole = self.pace.first.saturating_mul(1 << self.step.min(16)).min(most);
        self.step = self.step.saturating_add(1);
        let wait = whole.mul_f64(0.5 + 0.5 * fastrand::f64());
        // A server that is overloaded knows best; one that says "in a week" does not.
        wait.max(asked.unwrap_or_default().min(self.pace.most.saturating_mul(4)))
    }

    /// A watch has been healthy for `lived`.
    pub fn lived(&mut self, lived: Duration) {
        if lived >= self.pace.calm {
            self.step = 0;
        }
    }

    /// A short wait that differs from replica to replica.
    pub fn spread(&self) -> Duration {
        self.pace.spread.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_start_small_only_after_calm() {
        let mut backoff = Backoff::new(Pace::default());
        let bounds = [800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000];
        for most in bounds {
            let wait = backoff.next(None).as_millis();
            assert!((most / 2..=most).contains(&wait), "{wait} of {most}");
            backoff.lived(Duration::from_secs(59));
        }
        backoff.lived(Duration::from_secs(60));
        assert!(backoff.next(None) <= Duration::from_millis(800));
    }

    #[test]
    fn what_the_api_server_asks_for_is_obeyed_within_reason() {
        let mut backoff = Backoff::new(Pace::default());
        assert_eq!(backoff.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.next(Some(Duration::from_secs(1 << 40))), Duration::from_secs(120));
    }
}
