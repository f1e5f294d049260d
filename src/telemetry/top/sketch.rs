//! A sketch of fixed size that finds the most frequent keys of a stream: the space-saving algorithm, which evicts half
//! of the counters at a time (Anderson and others, "A High-Performance Algorithm for Identifying Frequent Items in Data
//! Streams", 2017).

use std::collections::HashMap;

/// Counts the most frequent keys.
///
/// With `k` counters and a total weight `W`, an evicted key has a weight of at most `2 W / k`, and so a heavier key is
/// always there. What its counter lacks is at most [`SketchCount::missed`].
#[derive(Debug)]
pub(super) struct Sketch {
    counters: HashMap<u64, SketchCount, foldhash::fast::FixedState>,
    /// The maximum number of counters.
    capacity: usize,
    /// The largest weight that a key without a counter can have.
    floor: u32,
    /// The weight of all keys.
    total: u64,
}

/// The weight of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SketchCount {
    /// The weight since the key got its counter.
    pub(super) count: u32,
    /// The most that the key can have had before that.
    pub(super) missed: u32,
}

impl SketchCount {
    fn upper(self) -> u32 {
        self.count.saturating_add(self.missed)
    }
}

impl Sketch {
    /// Creates a sketch with at most this number of counters.
    pub(super) fn new(capacity: usize) -> Sketch {
        let counters = HashMap::with_hasher(foldhash::fast::FixedState::default());
        Sketch { counters, capacity: capacity.max(2), floor: 0, total: 0 }
    }

    /// Adds to the weight of a key, which is a hash. Returns whether the key had no counter.
    pub(super) fn add(&mut self, key: u64, weight: u32) -> bool {
        self.total += u64::from(weight);
        if let Some(counter) = self.counters.get_mut(&key) {
            counter.count = counter.count.saturating_add(weight);
            return false;
        }
        if self.counters.len() >= self.capacity {
            self.evict();
        }
        self.counters.insert(key, SketchCount { count: weight, missed: self.floor });
        true
    }

    /// Adds the weights of another sketch.
    pub(super) fn merge(&mut self, other: &Sketch) {
        self.total += other.total;
        for (_, counter) in self.counters.iter_mut().filter(|(key, _)| !other.counters.contains_key(key)) {
            counter.missed = counter.missed.saturating_add(other.floor);
        }
        // What a key without a counter here can have had before the weights of the other sketch.
        let mut before = self.floor;
        self.floor = self.floor.saturating_add(other.floor);
        for (key, &SketchCount { count, missed }) in &other.counters {
            if let Some(counter) = self.counters.get_mut(key) {
                counter.count = counter.count.saturating_add(count);
                counter.missed = counter.missed.saturating_add(missed);
                continue;
            }
            if self.counters.len() >= self.capacity {
                self.evict();
                before = self.floor;
            }
            self.counters.insert(*key, SketchCount { count, missed: missed.saturating_add(before) });
        }
    }

    /// Removes the lighter half of the counters.
    #[cold]
    fn evict(&mut self) {
        let mut uppers: Vec<u32> = self.counters.values().map(|counter| counter.upper()).collect();
        let middle = uppers.len() / 2;
        let (_, median, _) = uppers.select_nth_unstable(middle);
        self.floor = self.floor.max(*median);
        let floor = self.floor;
        let rest: Vec<_> = self.counters.drain().filter(|(_, counter)| counter.upper() > floor).collect();
        // Into the emptied table, since entries that are removed one by one leave marks that make it grow.
        self.counters.extend(rest);
    }

    /// Returns the weight of all keys.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the keys that have a counter.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u64, SketchCount)> {
        self.counters.iter().map(|(key, counter)| (*key, *counter))
    }

    /// Returns the largest weight that a key without a counter can have.
    pub(super) fn floor(&self) -> u32 {
        self.floor
    }

    /// Returns the heaviest keys.
    pub(super) fn heaviest(&self, number: usize) -> impl Iterator<Item = u64> {
        let mut all: Vec<(u32, u64)> = self.counters.iter().map(|(key, counter)| (counter.upper(), *key)).collect();
        if all.len() > number {
            all.select_nth_unstable_by(number, |one, other| other.cmp(one));
            all.truncate(number);
        }
        all.into_iter().map(|(_, key)| key)
    }

    /// Returns the size of the table, in counters.
    #[cfg(test)]
    pub(super) fn table(&self) -> usize {
        self.counters.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_while_every_key_has_a_counter() {
        let mut sketch = Sketch::new(8);
        for number in 0..100 {
            sketch.add(number % 8, 3);
        }
        let mut counts: Vec<_> = sketch.counts().collect();
        counts.sort_by_key(|(key, _)| *key);
        let expected = |key| SketchCount { count: if key < 4 { 39 } else { 36 }, missed: 0 };
        assert_eq!(counts, (0..8).map(|key| (key, expected(key))).collect::<Vec<_>>());
        assert_eq!((sketch.total(), sketch.floor()), (300, 0));
    }

    /// What a counter lacks is never more than it says, also after sketches of different keys were merged.
    #[test]
    fn merged_sketches_bound_the_error() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut all, mut exact) = (Sketch::new(16), HashMap::new());
            for _ in 0..10 {
                let mut part = Sketch::new(16);
                for _ in 0..400 {
                    let key = random.u64(0..200) * random.u64(0..200) / 40;
                    part.add(key, 1);
                    *exact.entry(key).or_insert(0_u32) += 1;
                }
                all.merge(&part);
            }
            assert_eq!(all.total(), 4_000);
            assert!(all.counts().count() <= 16);
            for (key, found) in all.counts() {
                let exact = exact[&key];
                assert!(found.count <= exact && exact <= found.upper(), "seed {seed}: {found:?} {exact}");
            }
            let without = exact.iter().filter(|(key, _)| all.counts().all(|(of, _)| of != **key));
            assert!(without.map(|(_, exact)| *exact).max().unwrap_or(0) <= all.floor(), "seed {seed}");
        }
    }

    /// Ten million different keys and some heavy ones among them.
    #[test]
    fn any_number_of_keys_takes_the_same_memory() {
        let mut sketch = Sketch::new(896);
        let distinct: u64 = 10_000_000;
        for number in 0..distinct {
            sketch.add((number + 1) << 8, 1);
            // One key in hundred queries, another one in two hundred.
            if number % 100 == 0 {
                sketch.add(1, 1);
            }
            if number % 200 == 0 {
                sketch.add(2, 1);
            }
        }
        assert!(sketch.counts().count() <= 896 && sketch.table() <= 896, "{}", sketch.table());
        for (key, expected) in [(1, distinct / 100), (2, distinct / 200)] {
            let (_, found) = sketch.counts().find(|(of, _)| *of == key).expect("it is heavy");
            assert!(u64::from(found.upper()) >= expected, "{key}: {found:?} of {expected}");
            assert!(u64::from(found.count).abs_diff(expected) * 10 <= expected, "{key}: {found:?} of {expected}");
        }
        assert!(u64::from(sketch.floor()) <= 2 * sketch.total() / 896, "{}", sketch.floor());
    }
}
