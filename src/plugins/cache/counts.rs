//! What is counted of caches, and how the registry collects it.

use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::store::{Place, Store};
use crate::telemetry::metrics::{Cells, Family, Metric, MetricFamily, table};

/// Where each number stands in the cells.
pub(super) const REQUESTS: usize = 0;
pub(super) const MISSES: usize = 1;
pub(super) const PREFETCHES: usize = 2;
pub(super) const DROPS: usize = 3;
pub(super) const SERVED_STALE: usize = 4;
/// Two each, by place.
const HITS: usize = 5;
const EVICTIONS: usize = 7;
const ALL: usize = 9;

/// The places with their names in labels.
const PLACES: [(Place, &str); 2] = [(Place::Success, "success"), (Place::Denial, "denial")];

/// The number of hits in a place.
pub(super) const fn hits(place: Place) -> usize {
    HITS + place as usize
}

/// The number of items that had to go from a place.
pub(super) const fn evictions(place: Place) -> usize {
    EVICTIONS + place as usize
}

/// The counts of a block's cache on a socket.
pub struct Counts {
    /// The socket, `dns://:53`.
    server: String,
    /// The zones of the stanza, `example.,example.org.`.
    zones: String,
    pub(super) cells: Cells<ALL>,
    /// Whose items these are: one, unless blocks share their socket and zones, or a reload has just made another.
    /// Written when a configuration is built, read when somebody asks.
    stores: Mutex<Vec<Weak<Store>>>,
}

/// The counts of all caches. They outlive a reload.
#[derive(Default)]
pub struct Caches {
    /// Written when a configuration is built, read when somebody asks. No query touches it.
    all: RwLock<Vec<Arc<Counts>>>,
}

impl Caches {
    /// The families that [`Caches::families`] makes.
    pub const METRICS: &'static [&'static Metric] = &[
        &table::CACHE_ENTRIES,
        &table::CACHE_REQUESTS,
        &table::CACHE_HITS,
        &table::CACHE_MISSES,
        &table::CACHE_PREFETCHES,
        &table::CACHE_DROPS,
        &table::CACHE_SERVED_STALE,
        &table::CACHE_EVICTIONS,
    ];

    /// The counts with these labels, for these items.
    pub(super) fn counts(&self, server: &str, zones: &str, store: &Arc<Store>) -> Arc<Counts> {
        let mut all = self.all.write();
        let found = all.iter().find(|counts| counts.server == server && counts.zones == zones).cloned();
        let counts = found.unwrap_or_else(|| {
            let (server, zones) = (server.to_owned(), zones.to_owned());
            let counts = Counts { server, zones, cells: Cells::default(), stores: Mutex::default() };
            all.push(Arc::new(counts));
            all[all.len() - 1].clone()
        });
        let mut stores = counts.stores.lock();
        stores.retain(|store| store.strong_count() > 0);
        stores.push(Arc::downgrade(store));
        drop(stores);
        counts
    }

    /// What has been counted, for the registry.
    pub fn families(&self) -> Vec<MetricFamily> {
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
        all.sort_by(|one, other| (&one.server, &one.zones).cmp(&(&other.server, &other.zones)));
        for counts in all {
            let sums = counts.cells.sums();
            let Counts { server, zones, stores, .. } = &*counts;
            // What has not happened is not shown, as in CoreDNS.
            for (at, family) in &mut plain {
                if sums[*at] > 0 {
                    family.value(&[server, "", zones], sums[*at] as f64);
                }
            }
            let stores: Vec<Arc<Store>> = stores.lock().iter().filter_map(Weak::upgrade).collect();
            for (place, name) in PLACES {
                let labels = [server, name, "", zones];
                if sums[MISSES] > 0 {
                    entries.value(&labels, stores.iter().map(|store| store.len(place)).sum::<usize>() as f64);
                }
                for (at, family) in [(hits(place), &mut hits_total), (evictions(place), &mut evictions_total)] {
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
