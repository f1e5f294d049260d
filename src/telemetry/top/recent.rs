//! Sums of weights of recent keys, so that equal keys of a batch are counted together.

/// The number of keys.
const PLACES: usize = 16;

/// The weights of the last keys of a batch, each at one of a few places.
pub(super) struct Recent<K>([Option<(K, u32)>; PLACES]);

impl<K: Copy> Default for Recent<K> {
    fn default() -> Recent<K> {
        Recent([None; PLACES])
    }
}

impl<K: Copy + PartialEq> Recent<K> {
    /// Adds to the weight of a key. `place` is a number of the key. Returns the key that was at its place before, with
    /// its weight.
    #[inline]
    pub(super) fn add(&mut self, key: K, place: usize, weight: u32) -> Option<(K, u32)> {
        let place = &mut self.0[place % PLACES];
        match place {
            Some((known, sum)) if *known == key => {
                *sum = sum.saturating_add(weight);
                None
            }
            _ => place.replace((key, weight)),
        }
    }

    /// Returns the keys that are left.
    pub(super) fn rest(self) -> impl Iterator<Item = (K, u32)> {
        self.0.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_weight_is_lost() {
        let (mut recent, mut sums) = (Recent::default(), [0; 40]);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..1_000 {
            let key = random.usize(0..40);
            if let Some((key, weight)) = recent.add(key, key, 2) {
                sums[key] += weight;
            }
        }
        recent.rest().for_each(|(key, weight)| sums[key] += weight);
        assert_eq!(sums.iter().sum::<u32>(), 2_000);
        let mut same = Recent::default();
        assert!((0..10).all(|_| same.add("a", 1, 1).is_none()));
        assert_eq!(same.rest().collect::<Vec<_>>(), [("a", 10)]);
    }
}
