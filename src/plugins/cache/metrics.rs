//! The metrics of caches.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::store::{Partition, Store};
use crate::telemetry::metrics::{BlockLabels, Cells, Collected, Family, Metric, MetricFamily, table};

/// The indexes of the cells.
pub(super) const REQUESTS: usize = 0;
pub(super) const MISSES: usize = 1;
pub(super) const PREFETCHES: usize = 2;
pub(super) const DROPS: usize = 3;
pub(super) const SERVED_STALE: usize = 4;
/// The first of two, by partition.
const HITS: usize = 5;
const EVICTIONS: usize = 7;
const CELLS: usize = 9;

/// The partitions and their labels.
const PARTITIONS: [(Partition, &str); 2] = [(Partition::Success, "success"), (Partition::Denial, "denial")];

/// Returns the index of the hits of a partition.
pub(super) const fn hits(partition: Partition) -> usize {
    HITS + partition as usize
}

/// Returns the index of the evictions of a partition.
pub(super) const fn evictions(partition: Partition) -> usize {
    EVICTIONS + partition as usize
}

/// The counters of the cache of a block on a socket.
pub struct CacheCounters {
    /// The socket and the view.
    labels: BlockLabels,
    /// The zones of the stanza, `example.,example.org.`.
    zones: String,
    pub(super) cells: Cells<CELLS>,
    /// The stores with these labels: one, unless blocks share their socket and zones, or a reload has just created
    /// another. Written when a configuration is built, read by a scrape.
    stores: Mutex<Vec<Weak<Store>>>,
}

/// The counters of all caches, which outlive a reload.
#[derive(Default)]
pub struct CacheMetrics {
    /// Written when a configuration is built, read by a scrape. Not used by queries.
    all: RwLock<Vec<Arc<CacheCounters>>>,
}

impl CacheMetrics {
    /// Returns the counters with these labels, for this store.
    pub(super) fn counters(&self, labels: &BlockLabels, zones: &str, store: &Arc<Store>) -> Arc<CacheCounters> {
        let mut all = self.all.write();
        let found = all.iter().find(|counters| counters.labels == *labels && counters.zones == zones).cloned();
        let counters = found.unwrap_or_else(|| {
            let (labels, zones) = (labels.clone(), zones.to_owned());
            let counters = CacheCounters { labels, zones, cells: Cells::default(), stores: Mutex::default() };
            all.push(Arc::new(counters));
            all[all.len() - 1].clone()
        });
        let mut stores = counters.stores.lock();
        stores.retain(|store| store.strong_count() > 0);
        // A reload that leaves the cache as it is keeps its store.
        if !stores.iter().any(|known| known.as_ptr() == Arc::as_ptr(store)) {
            stores.push(Arc::downgrade(store));
        }
        drop(stores);
        counters
    }
}

impl Collected for CacheMetrics {
    const METRICS: &'static [&'static Metric] = &[
        &table::CACHE_ENTRIES,
        &table::CACHE_REQUESTS,
        &table::CACHE_HITS,
        &table::CACHE_MISSES,
        &table::CACHE_PREFETCHES,
        &table::CACHE_DROPS,
        &table::CACHE_SERVED_STALE,
        &table::CACHE_EVICTIONS,
    ];

    fn families(&self) -> Vec<MetricFamily> {
        let [mut entries, mut hits_total, mut evictions_total] =
            [&table::CACHE_ENTRIES, &table::CACHE_HITS, &table::CACHE_EVICTIONS].map(Family::new);
        let mut plain = [
            (REQUESTS, Family::new(&table::CACHE_REQUESTS)),
            (MISSES, Family::new(&table::CACHE_MISSES)),
            (PREFETCHES, Family::new(&table::CACHE_PREFETCHES)),
            (DROPS, Family::new(&table::CACHE_DROPS)),
            (SERVED_STALE, Family::new(&table::CACHE_SERVED_STALE)),
        ];
        let mut all = self.all.read().clone();
        all.sort_by(|one, other| (&one.labels, &one.zones).cmp(&(&other.labels, &other.zones)));
        for counters in all {
            let sums = counters.cells.sums();
            let CacheCounters { labels: BlockLabels { server, view }, zones, stores, .. } = &*counters;
            // Counters that are zero are left out, as in CoreDNS.
            for (at, family) in &mut plain {
                if sums[*at] > 0 {
                    family.value(&[server, view, zones], sums[*at] as f64);
                }
            }
            let stores: Vec<Arc<Store>> = stores.lock().iter().filter_map(Weak::upgrade).collect();
            for (partition, name) in PARTITIONS {
                let labels = [server, name, view, zones];
                if sums[MISSES] > 0 {
                    entries.value(&labels, stores.iter().map(|store| store.len(partition)).sum::<usize>() as f64);
                }
                for (at, family) in [(hits(partition), &mut hits_total), (evictions(partition), &mut evictions_total)] {
                    if sums[at] > 0 {
                        family.value(&labels, sums[at] as f64);
                    }
                }
            }
        }
        let plain = plain.map(|(_, family)| family.done());
        [entries, hits_total, evictions_total].map(Family::done).into_iter().chain(plain).collect()
    }
}
