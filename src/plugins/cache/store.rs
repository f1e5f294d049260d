//! Where items are kept: answers in one place, denials and failures in another, each with its bounds.
//!
//! The places are divided into parts with a lock of their own, held for as long as an item is found, linked or thrown
//! out (`quick_cache`, S3-FIFO's kin); making an item and freeing it happen outside. An item weighs 1 for each KiB begun,
//! so that a capacity bounds the items by their number and by their octets.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use super::config::Limits;
use super::item::{Bits, Item};
use crate::wire::Question;

/// The octets that weigh 1.
const UNIT: usize = 1_024;
/// The smallest weight that a part is bounded by: four times the largest answer.
const PART: usize = 256;
/// The most parts.
const PARTS: usize = 64;

/// Which of the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Answers.
    Success,
    /// Denials and failures.
    Denial,
}

/// Both places.
pub(super) struct Store {
    success: Items,
    denial: Items,
    /// Nobody outside knows which names share a key.
    hasher: foldhash::fast::RandomState,
}

type Items = Cache<u64, Arc<Item>, Weight, DefaultHashBuilder, Gone>;

/// The weight of an item.
#[derive(Clone)]
struct Weight;

impl Weighter<u64, Arc<Item>> for Weight {
    fn weight(&self, _: &u64, item: &Arc<Item>) -> u64 {
        item.size().div_ceil(UNIT) as u64
    }
}

/// Collects what an insertion has thrown out, to be freed outside of the lock.
#[derive(Clone)]
struct Gone;

impl Lifecycle<u64, Arc<Item>> for Gone {
    type RequestState = SmallVec<[(u64, Arc<Item>); 2]>;

    fn on_evict(&self, gone: &mut Self::RequestState, key: u64, item: Arc<Item>) {
        gone.push((key, item));
    }
}

impl Store {
    /// Empty places of these sizes.
    pub(super) fn new(success: &Limits, denial: &Limits) -> Store {
        Store {
            success: items(success.capacity),
            denial: items(denial.capacity),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// The key of a question. Another one may have the same; the item tells.
    pub(super) fn key(&self, question: &Question, bits: Bits) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(question.name().as_wire());
        hasher.write_u64(u64::from(question.qtype.0) << 24 | u64::from(question.qclass.0) << 8 | bits.number());
        hasher.finish()
    }

    /// The item of a key, if it is there.
    pub(super) fn get(&self, place: Place, key: u64) -> Option<Arc<Item>> {
        self.items(place).get(&key)
    }

    /// Puts an item in; gives how many others had to go.
    pub(super) fn put(&self, place: Place, key: u64, item: Item) -> u64 {
        let mut gone = SmallVec::new();
        self.items(place).insert_with_lifecycle(key, Arc::new(item), &mut gone);
        // The one whose place it takes is none of them.
        gone.iter().filter(|(other, _)| *other != key).count() as u64
    }

    /// Takes an item out.
    pub(super) fn remove(&self, place: Place, key: u64) {
        self.items(place).remove(&key);
    }

    /// How many items there are.
    pub(super) fn len(&self, place: Place) -> usize {
        self.items(place).len()
    }

    /// The octets of all messages.
    #[cfg(test)]
    pub(super) fn octets(&self, place: Place) -> usize {
        self.items(place).iter().map(|(_, item)| item.size()).sum()
    }

    /// The octets of everything else: items with their counts, tables and lists.
    #[cfg(test)]
    pub(super) fn overhead(&self, place: Place) -> usize {
        let item = size_of::<Item>() + 2 * size_of::<usize>();
        self.items(place).memory_used().total() + self.len(place) * item
    }

    fn items(&self, place: Place) -> &Items {
        match place {
            Place::Success => &self.success,
            Place::Denial => &self.denial,
        }
    }
}

/// A place for so many items.
fn items(capacity: usize) -> Items {
    let parts = (capacity / PART).clamp(1, PARTS);
    let options = OptionsBuilder::new()
        // Rounded down, for the crate rounds up.
        .shards(1 << parts.ilog2())
        .estimated_items_capacity(capacity)
        .weight_capacity(capacity as u64)
        .build()
        .expect("both capacities are set");
    Cache::with_options(options, Weight, DefaultHashBuilder::default(), Gone)
}
