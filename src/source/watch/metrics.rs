//! The Prometheus metrics of watches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cluster::model::Kind;
use crate::telemetry::metrics::{
    Family, HistogramVec, IntCounterVec, MetricFamily, Observed, Registry, register, table,
};

/// The metrics of all watches of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    request_duration: HistogramVec,
    waits: HistogramVec,
    programming: HistogramVec,
    /// Complete lists after the first, by kind and reason.
    pub(super) relists: IntCounterVec,
    /// Failures, by kind and cause.
    pub(super) errors: IntCounterVec,
    /// Invalid objects, by kind.
    pub(super) bad_objects: IntCounterVec,
    /// Ignored values of objects that are served, by kind.
    pub(super) bad_values: IntCounterVec,
    /// The watches. Written when one starts; stopped ones are removed at a scrape.
    watches: Arc<Mutex<Vec<WeakWatch>>>,
}

/// The state of a watch that a scrape reads.
#[derive(Debug, Default)]
pub struct WatchState {
    /// Whether a list has been completed.
    pub synced: AtomicBool,
    /// The time of the last data from the API server, or `None` before the first. Written for each piece of a body,
    /// read by a scrape.
    pub seen: Mutex<Option<Instant>>,
    /// The number of known objects.
    pub objects: AtomicU64,
}

/// A watch that may have stopped.
type WeakWatch = (Kind, Weak<WatchState>);

impl Metrics {
    /// Creates the metrics and registers them.
    pub fn new(registry: &Registry) -> Metrics {
        let metrics = Metrics {
            requests: table::API_REQUESTS.counters(registry),
            request_duration: table::API_DURATION.histograms(registry),
            waits: table::API_WAIT.histograms(registry),
            programming: table::PROGRAMMING.histograms(registry),
            relists: table::RELISTS.counters(registry),
            errors: table::API_ERRORS.counters(registry),
            bad_objects: table::BAD_OBJECTS.counters(registry),
            bad_values: table::BAD_VALUES.counters(registry),
            watches: Arc::default(),
        };
        let observed_metrics = metrics.clone();
        let observed = &[&table::SYNCED, &table::LAST_SEEN, &table::OBJECTS];
        register(registry, Observed::new(observed, move || observed_metrics.collect()));
        metrics
    }

    /// Records the time that a request waited for a permit.
    pub fn observe_wait(&self, host: &str, duration: Duration) {
        self.waits.with_label_values(&[host, "GET"]).observe(duration.as_secs_f64());
    }

    /// Counts a response. `duration` is that of requests that have one.
    pub fn count_response(&self, host: &str, status: StatusCode, duration: Option<Duration>) {
        self.requests.with_label_values(&[status.as_str(), host, "GET"]).inc();
        if let Some(duration) = duration {
            self.request_duration.with_label_values(&[host, "GET"]).observe(duration.as_secs_f64());
        }
    }

    /// Counts a request without a response. The label is that of client-go.
    pub fn count_failure(&self, host: &str) {
        self.requests.with_label_values(&["<error>", host, "GET"]).inc();
    }

    /// Records the time after which a change of endpoints was in the answers.
    pub fn observe_programming(&self, headless: bool, since: Duration) {
        // As CoreDNS's EndpointLatencyRecorder.record names them.
        let kind = if headless { "headless_with_selector" } else { "cluster_ip" };
        self.programming.with_label_values(&[kind]).observe(since.as_secs_f64());
    }

    /// Adds a watch, and returns the state that a scrape reads.
    pub fn add_watch(&self, kind: Kind) -> Arc<WatchState> {
        let shared = Arc::new(WatchState::default());
        self.watches.lock().push((kind, Arc::downgrade(&shared)));
        shared
    }

    /// Collects the metrics. Of several watches of a kind the worst values count, and the sum of their objects.
    fn collect(&self) -> Vec<MetricFamily> {
        let mut watches = self.watches.lock();
        watches.retain(|(_, shared)| shared.strong_count() > 0);
        let (mut synced, mut seen, mut objects) =
            (Family::new(&table::SYNCED), Family::new(&table::LAST_SEEN), Family::new(&table::OBJECTS));
        for kind in Kind::ALL {
            let of_kind = watches.iter().filter(|(of, _)| *of == kind);
            let all: Vec<Arc<WatchState>> = of_kind.filter_map(|(_, shared)| shared.upgrade()).collect();
            if all.is_empty() {
                continue;
            }
            let labels = &[kind.name()];
            let is_synced = all.iter().all(|shared| shared.synced.load(Ordering::Relaxed));
            synced.value(labels, if is_synced { 1.0 } else { 0.0 });
            objects.value(labels, all.iter().map(|shared| shared.objects.load(Ordering::Relaxed)).sum::<u64>() as f64);
            // There is no age before the first response.
            let responses: Option<Vec<Instant>> = all.iter().map(|shared| *shared.seen.lock()).collect();
            if let Some(oldest) = responses.and_then(|responses| responses.into_iter().min()) {
                seen.value(labels, oldest.elapsed().as_secs_f64());
            }
        }
        vec![synced.done(), seen.done(), objects.done()]
    }
}
