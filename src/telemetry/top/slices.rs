//! A sliding window: sketches of slices of time. The oldest slice is dropped when a new one begins.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::sketch::{Sketch, SketchCount};

/// A window of time.
#[derive(Debug)]
pub(super) struct Slices {
    /// The length of a slice.
    length: Duration,
    /// The number of slices, with the current one.
    number: u64,
    /// The maximum number of counters of a slice.
    capacity: usize,
    /// The slices in which something was counted, oldest first, each with its number.
    slices: VecDeque<(u64, Sketch)>,
    /// The end of the last slice, since it is compared for each key.
    until: Duration,
}

/// The sum of the slices.
#[derive(Debug, Default)]
pub(super) struct WindowSum {
    /// The weight of all keys.
    pub(super) total: u64,
    /// The weights of keys.
    pub(super) counts: HashMap<u64, WindowCount>,
}

/// The weight of a key in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WindowCount {
    pub(super) count: u64,
    /// The most that `count` can lack.
    pub(super) missed: u64,
}

impl Slices {
    /// Creates a window of this number of slices, the current one included.
    pub(super) fn new(length: Duration, number: u64, capacity: usize) -> Slices {
        Slices { length, number, capacity, slices: VecDeque::new(), until: Duration::ZERO }
    }

    fn slice_at(&self, now: Duration) -> u64 {
        (now.as_nanos() / self.length.as_nanos().max(1)) as u64
    }

    /// Removes the slices that have left the window.
    fn expire(&mut self, current: u64) {
        while self.slices.front().is_some_and(|(slice, _)| slice + self.number <= current) {
            self.slices.pop_front();
        }
    }

    /// Returns the start of a slice.
    fn start_of(&self, slice: u64) -> Duration {
        self.length.saturating_mul(u32::try_from(slice).unwrap_or(u32::MAX))
    }

    /// Returns whether the last slice is over at `now`, or there is none.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }

    /// Returns the last slice, if there is one, and its start.
    pub(super) fn last(&self) -> Option<(Duration, &Sketch)> {
        self.slices.back().map(|(slice, sketch)| (self.start_of(*slice), sketch))
    }

    /// Returns the sketch of the slice at `now`, the time since the start.
    fn sketch_at(&mut self, now: Duration) -> Option<&mut Sketch> {
        if self.is_over(now) {
            let current = self.slice_at(now);
            self.expire(current);
            self.slices.push_back((current, Sketch::new(self.capacity)));
            self.until = self.start_of(current + 1);
        }
        self.slices.back_mut().map(|(_, sketch)| sketch)
    }

    /// Adds to the weight of a key. Returns whether the key is new in the slice at `now`, the time since the start.
    pub(super) fn add(&mut self, key: u64, weight: u32, now: Duration) -> bool {
        self.sketch_at(now).is_some_and(|sketch| sketch.add(key, weight))
    }

    /// Adds the weights of a sketch to the slice at `now`.
    pub(super) fn merge(&mut self, sketch: &Sketch, now: Duration) {
        if let Some(slice) = self.sketch_at(now) {
            slice.merge(sketch);
        }
    }

    /// Returns the time that the window covers at `now`.
    pub(super) fn covered(&self, now: Duration) -> Duration {
        let oldest = (self.slice_at(now) + 1).saturating_sub(self.number);
        now.saturating_sub(self.start_of(oldest))
    }

    /// Returns the sum of the slices at `now`, and of a sketch that none of them has yet.
    pub(super) fn sum(&mut self, now: Duration, open: Option<&Sketch>) -> WindowSum {
        self.expire(self.slice_at(now));
        let mut sum = WindowSum::default();
        let sketches = || self.slices.iter().map(|(_, sketch)| sketch).chain(open);
        let floors: u64 = sketches().map(|sketch| u64::from(sketch.floor())).sum();
        for sketch in sketches() {
            sum.total += sketch.total();
            for (key, SketchCount { count, missed }) in sketch.counts() {
                // A slice without a counter for the key may have missed its floor.
                let all = sum.counts.entry(key).or_insert(WindowCount { count: 0, missed: floors });
                all.count += u64::from(count);
                all.missed = all.missed - u64::from(sketch.floor()) + u64::from(missed);
            }
        }
        sum
    }

    /// Returns the size of all tables, in counters.
    #[cfg(test)]
    pub(super) fn slices_table(&self) -> usize {
        self.slices.iter().map(|(_, sketch)| sketch.table()).sum()
    }

    /// Calls `visit` with the heaviest keys of each slice.
    pub(super) fn for_heaviest(&self, number: usize, mut visit: impl FnMut(u64)) {
        for (_, sketch) in &self.slices {
            sketch.heaviest(number).for_each(&mut visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn old_slices_leave_the_window() {
        let mut window = Slices::new(seconds(20), 4, 8);
        for at in [0, 19, 20, 79] {
            window.add(1, 1, seconds(at));
        }
        let count =
            |window: &mut Slices, at| window.sum(seconds(at), None).counts.get(&1).map_or(0, |count| count.count);
        assert_eq!((count(&mut window, 79), window.covered(seconds(79))), (4, seconds(79)));
        assert_eq!((count(&mut window, 80), window.covered(seconds(80))), (2, seconds(60)));
        assert_eq!((count(&mut window, 100), window.covered(seconds(119))), (1, seconds(79)));
        assert_eq!(count(&mut window, 139), 1);
        assert_eq!((count(&mut window, 140), window.sum(seconds(140), None).total), (0, 0));
        // A long time without a query.
        window.add(2, 5, seconds(1_000_000));
        assert_eq!(window.sum(seconds(1_000_001), None).total, 5);
    }

    /// What the counter of a key lacks is never more than the sum says, whatever the order.
    #[test]
    fn the_sum_of_slices_bounds_the_error() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut window = Slices::new(seconds(1), 4, 16);
            let mut exact: HashMap<u64, u64> = HashMap::new();
            for number in 0..4_000 {
                let key = random.u64(0..200) * random.u64(0..200) / 40;
                window.add(key, 1, Duration::from_millis(number));
                *exact.entry(key).or_default() += 1;
            }
            let sum = window.sum(Duration::from_millis(3_999), None);
            assert_eq!(sum.total, 4_000);
            for (key, WindowCount { count, missed }) in sum.counts {
                let exact = exact[&key];
                assert!(count <= exact && exact <= count + missed, "seed {seed}: {count} {exact} {missed}");
            }
        }
    }
}
