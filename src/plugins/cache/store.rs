//! The storage of entries: a partition for answers and one for denials and failures, each with its limits.
//!
//! The partitions are divided into shards, each with a lock that is held while an entry is found, linked or evicted
//! (`quick_cache`, a relative of S3-FIFO); entries are created and freed outside of it. The weight of an entry is its
//! size in KiB, rounded up, so that a capacity limits both the number of entries and their size in bytes.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use super::config::PartitionLimits;
use super::entry::{CacheEntry, KeyFlags};
use crate::wire::Question;

/// The number of bytes of weight 1.
const UNIT: usize = 1_024;
/// The minimum weight of a shard: four times the largest answer.
const MIN_SHARD: usize = 256;
/// The maximum number of shards.
const MAX_SHARDS: usize = 64;

/// A partition of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partition {
    /// Answers.
    Success,
    /// Denials and failures.
    Denial,
}

/// Both partitions.
pub(super) struct Store {
    success: Entries,
    denial: Entries,
    /// The random state of the hash, so that clients cannot construct collisions.
    hasher: foldhash::fast::RandomState,
}

type Entries = Cache<u64, Arc<CacheEntry>, EntryWeight, DefaultHashBuilder, EvictedEntries>;

/// Computes the weight of an entry.
#[derive(Clone)]
struct EntryWeight;

impl Weighter<u64, Arc<CacheEntry>> for EntryWeight {
    fn weight(&self, _: &u64, entry: &Arc<CacheEntry>) -> u64 {
        entry.size().div_ceil(UNIT) as u64
    }
}

/// Collects the entries that an insertion evicted, to be freed outside of the lock.
#[derive(Clone)]
struct EvictedEntries;

impl Lifecycle<u64, Arc<CacheEntry>> for EvictedEntries {
    type RequestState = SmallVec<[(u64, Arc<CacheEntry>); 2]>;

    fn on_evict(&self, evicted: &mut Self::RequestState, key: u64, entry: Arc<CacheEntry>) {
        evicted.push((key, entry));
    }
}

impl Store {
    /// Creates empty partitions of these sizes.
    pub(super) fn new(success: &PartitionLimits, denial: &PartitionLimits) -> Store {
        Store {
            success: new_partition(success.capacity),
            denial: new_partition(denial.capacity),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Returns the hash of a key. Different keys may have the same hash, so the entry has the key.
    pub(super) fn hash(&self, question: &Question, flags: KeyFlags) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(question.name().as_wire());
        hasher.write_u64(u64::from(question.qtype.0) << 24 | u64::from(question.qclass.0) << 8 | flags.number());
        hasher.finish()
    }

    /// Returns the entry with a hash.
    pub(super) fn get(&self, partition: Partition, hash: u64) -> Option<Arc<CacheEntry>> {
        self.entries(partition).get(&hash)
    }

    /// Stores an entry, and returns the number of other entries that were evicted.
    pub(super) fn put(&self, partition: Partition, hash: u64, entry: CacheEntry) -> u64 {
        let mut evicted = SmallVec::new();
        self.entries(partition).insert_with_lifecycle(hash, Arc::new(entry), &mut evicted);
        // The entry that it replaces does not count.
        evicted.iter().filter(|(other, _)| *other != hash).count() as u64
    }

    /// Removes an entry.
    pub(super) fn remove(&self, partition: Partition, hash: u64) {
        self.entries(partition).remove(&hash);
    }

    /// Returns the number of entries.
    pub(super) fn len(&self, partition: Partition) -> usize {
        self.entries(partition).len()
    }

    /// Returns the size of all messages in bytes.
    #[cfg(test)]
    pub(super) fn message_bytes(&self, partition: Partition) -> usize {
        self.entries(partition).iter().map(|(_, entry)| entry.size()).sum()
    }

    /// Returns the size of everything else in bytes: entries with their counters, tables and lists.
    #[cfg(test)]
    pub(super) fn overhead(&self, partition: Partition) -> usize {
        let entry = size_of::<CacheEntry>() + 2 * size_of::<usize>();
        self.entries(partition).memory_used().total() + self.len(partition) * entry
    }

    fn entries(&self, partition: Partition) -> &Entries {
        match partition {
            Partition::Success => &self.success,
            Partition::Denial => &self.denial,
        }
    }
}

/// Creates a partition for this number of entries.
fn new_partition(capacity: usize) -> Entries {
    let shards = (capacity / MIN_SHARD).clamp(1, MAX_SHARDS);
    let options = OptionsBuilder::new()
        // Rounded down, since the crate rounds up.
        .shards(1 << shards.ilog2())
        .estimated_items_capacity(capacity)
        .weight_capacity(capacity as u64)
        .build()
        .expect("both capacities are set");
    Cache::with_options(options, EntryWeight, DefaultHashBuilder::default(), EvictedEntries)
}
