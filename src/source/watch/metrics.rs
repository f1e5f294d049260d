//! What Prometheus sees of the watches.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::status::{Complaints, Shared, Status};
use crate::cluster::model::Kind;
use crate::telemetry::metrics::{
    Family, HistogramVec, IntCounterVec, MetricFamily, Observed, Registry, register, table,
};

/// Numbers of all watches of this process.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    request_duration: HistogramVec,
    waits: HistogramVec,
    programming: HistogramVec,
    /// Full lists after the first, by kind and reason.
    pub(super) relists: IntCounterVec,
    /// Failures, by kind and cause.
    pub(super) errors: IntCounterVec,
    /// Objects that could not be read, by kind.
    pub(super) bad_objects: IntCounterVec,
    /// Values that were passed over in objects that are served, by kind.
    pub(super) bad_values: IntCounterVec,
    /// Written when a watch begins; those that have ended are taken out at a scrape.
    watches: Arc<Mutex<Vec<Watched>>>,
}

/// A watch that may have ended.
type Watched = (Kind, Weak<Shared>);

impl Metrics {
    /// Metrics, shown by `registry`.
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
        let shown = metrics.clone();
        let observed = &[&table::SYNCED, &table::LAST_SEEN, &table::OBJECTS];
        register(registry, Observed::new(observed, move || shown.observe()));
        metrics
    }

    /// A request waited for its turn.
    pub fn waited(&self, host: &str, duration: Duration) {
        self.waits.with_label_values(&[host, "GET"]).observe(duration.as_secs_f64());
    }

    /// A request was answered; `took` of those that have a duration.
    pub fn answered(&self, host: &str, status: StatusCode, took: Option<Duration>) {
        self.requests.with_label_values(&[status.as_str(), host, "GET"]).inc();
        if let Some(took) = took {
            self.request_duration.with_label_values(&[host, "GET"]).observe(took.as_secs_f64());
        }
    }

    /// A request had no answer; client-go's word for its code.
    pub fn failed(&self, host: &str) {
        self.requests.with_label_values(&["<error>", host, "GET"]).inc();
    }

    /// A change of endpoints has reached the answers.
    pub fn programmed(&self, headless: bool, since: Duration) {
        // As CoreDNS's EndpointLatencyRecorder.record names them.
        let kind = if headless { "headless_with_selector" } else { "cluster_ip" };
        self.programming.with_label_values(&[kind]).observe(since.as_secs_f64());
    }

    /// The status of one more kind that is followed.
    pub fn watch(&self, kind: Kind, log: Arc<Complaints>) -> Status {
        let shared = Arc::new(Shared::default());
        self.watches.lock().push((kind, Arc::downgrade(&shared)));
        Status::new(kind, self.clone(), shared, log)
    }

    /// Of several watches of a kind the worst is shown, and the sum of their objects.
    fn observe(&self) -> Vec<MetricFamily> {
        let mut watches = self.watches.lock();
        watches.retain(|(_, shared)| shared.strong_count() > 0);
        let (mut synced, mut seen, mut objects) =
            (Family::new(&table::SYNCED), Family::new(&table::LAST_SEEN), Family::new(&table::OBJECTS));
        for kind in Kind::ALL {
            let of_kind = watches.iter().filter(|(of, _)| *of == kind);
            let all: Vec<Arc<Shared>> = of_kind.filter_map(|(_, shared)| shared.upgrade()).collect();
            if all.is_empty() {
                continue;
            }
            let labels = &[kind.name()];
            let in_step = all.iter().all(|shared| shared.synced.load(Ordering::Relaxed));
            synced.value(labels, if in_step { 1.0 } else { 0.0 });
            objects.value(labels, all.iter().map(|shared| shared.objects.load(Ordering::Relaxed)).sum::<u64>() as f64);
            // Before anything was heard there is no age.
            let heard: Option<Vec<Instant>> = all.iter().map(|shared| *shared.seen.lock()).collect();
            if let Some(oldest) = heard.and_then(|heard| heard.into_iter().min()) {
                seen.value(labels, oldest.elapsed().as_secs_f64());
            }
        }
        vec![synced.done(), seen.done(), objects.done()]
    }
}
