//! A timer wheel: which of many numbered things is due, without a heap and without a clock.

use std::time::{Duration, Instant};

/// How fine time is told.
const TICK: Duration = Duration::from_millis(8);
/// Ticks of a round, some four seconds. What is due later waits in the last bucket and is put off there.
const BUCKETS: usize = 512;
/// No thing.
const NONE: u32 = u32::MAX;

/// Things are numbers below those that [`TimerWheel::set`] has seen; each is due once or never.
pub(super) struct TimerWheel {
    start: Instant,
    /// The first tick that was not looked at yet.
    tick: u64,
    /// The first thing of each bucket.
    heads: Box<[u32]>,
    links: Vec<Link>,
    /// How many things are set.
    len: usize,
}

/// A thing's place.
#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// Its bucket; [`NONE`] while it is not set.
    bucket: u32,
    due: Instant,
}

impl TimerWheel {
    /// Nothing is set.
    pub(super) fn new(start: Instant) -> TimerWheel {
        TimerWheel { start, tick: 0, heads: vec![NONE; BUCKETS].into(), links: Vec::new(), len: 0 }
    }

    /// Sets when a thing is due, once more or anew.
    pub(super) fn set(&mut self, thing: u32, due: Instant) {
        self.clear(thing);
        let at = thing as usize;
        if at >= self.links.len() {
            self.links.resize(at + 1, Link { next: NONE, previous: NONE, bucket: NONE, due });
        }
        let ticks = self.ticks(due).max(self.tick).min(self.tick + BUCKETS as u64 - 1);
        let bucket = (ticks % BUCKETS as u64) as usize;
        let next = std::mem::replace(&mut self.heads[bucket], thing);
        self.links[at] = Link { next, previous: NONE, bucket: bucket as u32, due };
        if next != NONE {
            self.links[next as usize].previous = thing;
        }
        self.len += 1;
    }

    /// A thing is not due any more.
    pub(super) fn clear(&mut self, thing: u32) {
        let Some(&Link { next, previous, bucket, .. }) = self.links.get(thing as usize) else { return };
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
        self.links[thing as usize].bucket = NONE;
        self.len -= 1;
    }

    /// A thing that is due, which then is set no more. To be called until there is none.
    pub(super) fn due(&mut self, now: Instant) -> Option<u32> {
        let last = self.ticks(now);
        while self.tick <= last {
            if self.len == 0 {
                self.tick = last + 1;
                break;
            }
            let bucket = (self.tick % BUCKETS as u64) as usize;
            let mut thing = self.heads[bucket];
            while thing != NONE {
                let Link { next, due, .. } = self.links[thing as usize];
                if due <= now {
                    self.clear(thing);
                    return Some(thing);
                }
                // Due in a later round, or within this tick but not yet.
                if self.ticks(due) > self.tick {
                    self.set(thing, due);
                }
                thing = next;
            }
            if self.tick == last {
                break;
            }
            self.tick += 1;
        }
        None
    }

    /// How long it takes until something may be due; nothing where nothing is set.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.len == 0 {
            return None;
        }
        let buckets = (self.tick..self.tick + BUCKETS as u64).find(|tick| {
            let bucket = (tick % BUCKETS as u64) as usize;
            self.heads[bucket] != NONE
        });
        let at = self.start + TICK * (buckets.unwrap_or(self.tick) as u32 + 1);
        Some(at.saturating_duration_since(now))
    }

    fn ticks(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.start).as_nanos() / TICK.as_nanos()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_due_at_their_time_and_once() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut wheel = TimerWheel::new(start);
        assert_eq!((wheel.wait(start), wheel.due(at(9_999))), (None, None));
        for (thing, milliseconds) in [(0, 10_100), (1, 10_050), (2, 20_000), (3, 10_000), (4, 10_050)] {
            wheel.set(thing, at(milliseconds));
        }
        wheel.clear(4);
        wheel.clear(4);
        assert_eq!(wheel.due(at(10_049)), Some(3));
        assert_eq!(wheel.due(at(10_049)), None);
        assert!(wheel.wait(at(10_049)).expect("something") < Duration::from_millis(12));
        wheel.set(1, at(10_060));
        assert_eq!(wheel.due(at(10_059)), None);
        assert_eq!(wheel.due(at(10_060)), Some(1));
        assert_eq!(wheel.due(at(10_200)), Some(0));
        let mut now = 10_200;
        // Further away than a round.
        while wheel.due(at(now)).is_none() {
            let wait = wheel.wait(at(now)).expect("something");
            assert!(wait <= Duration::from_millis(4_104), "{wait:?}");
            now += wait.as_millis() as u64 + 1;
        }
        assert!((20_000..20_012).contains(&now), "{now}");
        assert_eq!((wheel.wait(at(now)), wheel.due(at(99_999))), (None, None));
    }

    #[test]
    fn many_things_are_all_due() {
        let start = Instant::now();
        let mut wheel = TimerWheel::new(start);
        let mut random = fastrand::Rng::with_seed(1);
        let dues: Vec<Instant> = (0..2_000).map(|_| start + Duration::from_micros(random.u64(..9_000_000))).collect();
        dues.iter().enumerate().for_each(|(thing, &due)| wheel.set(thing as u32, due));
        let (mut seen, mut now) = (0, start);
        while let Some(wait) = wheel.wait(now) {
            now += wait;
            while let Some(thing) = wheel.due(now) {
                let late = now - dues[thing as usize];
                assert!(late <= Duration::from_millis(17), "{late:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 2_000);
    }
}
