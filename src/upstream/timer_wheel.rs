//! A timer wheel: which of many numbered timers has expired, without a heap and without a clock.

use std::time::{Duration, Instant};

/// The resolution.
const TICK: Duration = Duration::from_millis(8);
/// Ticks of a round, some four seconds. A timer that expires later is put into the last bucket and moved on there.
const BUCKETS: usize = 512;
/// No timer.
const NONE: u32 = u32::MAX;

/// Timers are numbered from 0. Each expires once, unless it is cleared before.
pub(super) struct TimerWheel {
    start: Instant,
    /// The first tick that was not looked at yet.
    tick: u64,
    /// The first timer of each bucket.
    heads: Box<[u32]>,
    links: Vec<Link>,
    /// How many timers are set.
    len: usize,
}

/// A timer's place in its bucket.
#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// [`NONE`] while the timer is not set.
    bucket: u32,
    due: Instant,
}

impl TimerWheel {
    /// Creates a wheel without timers.
    pub(super) fn new(start: Instant) -> TimerWheel {
        TimerWheel { start, tick: 0, heads: vec![NONE; BUCKETS].into(), links: Vec::new(), len: 0 }
    }

    /// Sets a timer, or changes it if it is set.
    pub(super) fn set(&mut self, timer: u32, due: Instant, now: Instant) {
        self.clear(timer);
        if self.len == 0 {
            // Nothing has turned the wheel since it was empty, for days perhaps.
            self.tick = self.tick.max(self.ticks(now));
        }
        self.insert(timer, due);
    }

    fn insert(&mut self, timer: u32, due: Instant) {
        let at = timer as usize;
        if at >= self.links.len() {
            self.links.resize(at + 1, Link { next: NONE, previous: NONE, bucket: NONE, due });
        }
        let ticks = self.ticks(due).max(self.tick).min(self.tick + BUCKETS as u64 - 1);
        let bucket = (ticks % BUCKETS as u64) as usize;
        let next = std::mem::replace(&mut self.heads[bucket], timer);
        self.links[at] = Link { next, previous: NONE, bucket: bucket as u32, due };
        if next != NONE {
            self.links[next as usize].previous = timer;
        }
        self.len += 1;
    }

    /// Clears a timer, if it is set.
    pub(super) fn clear(&mut self, timer: u32) {
        let Some(&Link { next, previous, bucket, .. }) = self.links.get(timer as usize) else { return };
        if bucket == NONE {
            return;
        }
        match previous {
            NONE => self.heads[bucket as usize] = next,
            previous => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.links[timer as usize].bucket = NONE;
        self.len -= 1;
    }

    /// Clears and returns a timer that has expired. To be called until there is none.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        let last = self.ticks(now);
        while self.tick <= last {
            if self.len == 0 {
                self.tick = last + 1;
                break;
            }
            let bucket = (self.tick % BUCKETS as u64) as usize;
            let mut timer = self.heads[bucket];
            while timer != NONE {
                let Link { next, due, .. } = self.links[timer as usize];
                if due <= now {
                    self.clear(timer);
                    return Some(timer);
                }
                // It expires in a later round, or within this tick but not yet.
                if self.ticks(due) > self.tick {
                    self.clear(timer);
                    self.insert(timer, due);
                }
                timer = next;
            }
            if self.tick == last {
                break;
            }
            self.tick += 1;
        }
        None
    }

    /// Returns the time until a timer may have expired; `None` while none is set.
    pub(super) fn time_to_next(&self, now: Instant) -> Option<Duration> {
        if self.len == 0 {
            return None;
        }
        let occupied = (self.tick..self.tick + BUCKETS as u64).find(|tick| {
            let bucket = (tick % BUCKETS as u64) as usize;
            self.heads[bucket] != NONE
        });
        let end = occupied.unwrap_or(self.tick) + 1;
        let since_start = Duration::from_nanos(end.saturating_mul(TICK.as_nanos() as u64));
        Some((self.start + since_start).saturating_duration_since(now))
    }

    fn ticks(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.start).as_nanos() / TICK.as_nanos()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_expire_at_their_time_and_once() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut wheel = TimerWheel::new(start);
        assert_eq!((wheel.time_to_next(start), wheel.pop_expired(at(9_999))), (None, None));
        for (timer, milliseconds) in [(0, 10_100), (1, 10_050), (2, 20_000), (3, 10_000), (4, 10_050)] {
            wheel.set(timer, at(milliseconds), start);
        }
        wheel.clear(4);
        wheel.clear(4);
        assert_eq!(wheel.pop_expired(at(10_049)), Some(3));
        assert_eq!(wheel.pop_expired(at(10_049)), None);
        assert!(wheel.time_to_next(at(10_049)).expect("something") < Duration::from_millis(12));
        wheel.set(1, at(10_060), at(10_049));
        assert_eq!(wheel.pop_expired(at(10_059)), None);
        assert_eq!(wheel.pop_expired(at(10_060)), Some(1));
        assert_eq!(wheel.pop_expired(at(10_200)), Some(0));
        let mut now = 10_200;
        // It is further away than a round.
        while wheel.pop_expired(at(now)).is_none() {
            let wait = wheel.time_to_next(at(now)).expect("something");
            assert!(wait <= Duration::from_millis(4_104), "{wait:?}");
            now += wait.as_millis() as u64 + 1;
        }
        assert!((20_000..20_012).contains(&now), "{now}");
        assert_eq!((wheel.time_to_next(at(now)), wheel.pop_expired(at(99_999))), (None, None));
    }

    #[test]
    fn many_timers_all_expire() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start);
        let mut random = fastrand::Rng::with_seed(1);
        let dues: Vec<Instant> = (0..2_000).map(|_| start + Duration::from_micros(random.u64(..9_000_000))).collect();
        dues.iter().enumerate().for_each(|(timer, &due)| wheel.set(timer as u32, due, start));
        let mut seen = 0;
        let mut now = start;
        while let Some(wait) = wheel.time_to_next(now) {
            now += wait;
            while let Some(timer) = wheel.pop_expired(now) {
                let late = now - dues[timer as usize];
                assert!(late <= Duration::from_millis(17), "{late:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 2_000);
    }
    #[test]
    fn a_wheel_turns_on_after_years_and_after_a_long_rest() {
        const DAY: Duration = Duration::from_secs(86_400);
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start);
        // More than 2³² ticks are 397 days.
        for days in [1, 398, 4_000] {
            let now = start + DAY * days;
            wheel.set(7, now + Duration::from_millis(500), now);
            let wait = wheel.time_to_next(now).expect("a timer");
            assert!((500..=516).contains(&wait.as_millis()), "{days} days: {wait:?}");
            assert!(wheel.ticks(now) - wheel.tick < 2, "the ticks of the rest are not looked at one by one");
            assert_eq!((wheel.pop_expired(now), wheel.pop_expired(now + wait)), (None, Some(7)));
        }
    }
}
