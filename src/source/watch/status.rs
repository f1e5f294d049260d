//! What operators see of the watches: metrics, and log lines that do not flood.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tokio::time::Instant;

use super::trouble::Trouble;
use crate::cluster::model::Kind;

/// A lasting trouble is told of this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What CoreDNS calls the API client's metrics, and what there is beside them.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    request_duration: HistogramVec,
    rate_limiter: HistogramVec,
    programming: HistogramVec,
    relists: IntCounterVec,
    errors: IntCounterVec,
    bad_objects: IntCounterVec,
    watches: Watches,
}

impl Metrics {
    /// Metrics, shown by `registry`.
    pub fn register(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: Vec<f64>| {
            let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        // Names, labels and buckets as in CoreDNS's plugin/kubernetes/metrics.go and object/metrics.go.
        let request_duration = histogram(
            "coredns_kubernetes_rest_client_request_duration_seconds",
            "Request latency in seconds. Broken down by verb and host.",
            &["verb", "host"],
            prometheus::DEFAULT_BUCKETS.to_vec(),
        )?;
        let rate_limiter = histogram(
            "coredns_kubernetes_rest_client_rate_limiter_duration_seconds",
            "Client side rate limiter latency in seconds. Broken down by verb and host.",
            &["verb", "host"],
            prometheus::DEFAULT_BUCKETS.to_vec(),
        )?;
        let programming = histogram(
            "coredns_kubernetes_dns_programming_duration_seconds",
            "Histogram of the time (in seconds) it took to program a dns instance.",
            &["service_kind"],
            prometheus::exponential_buckets(0.001, 2.0, 20)?,
        )?;
        let requests = counter(
            "coredns_kubernetes_rest_client_requests_total",
            "Number of HTTP requests, partitioned by status code, method, and host.",
            &["code", "method", "host"],
        )?;
        let relists = counter(
            "clusterdns_kubernetes_relists_total",
            "Full lists of a kind after the first, by what made them necessary.",
            &["kind", "reason"],
        )?;
        let errors = counter(
            "clusterdns_kubernetes_errors_total",
            "Lists and watches of a kind that failed, by cause.",
            &["kind", "reason"],
        )?;
        let bad_objects = counter(
            "clusterdns_kubernetes_bad_objects_total",
            "Objects that could not be read and have no names.",
            &["kind"],
        )?;
        let watches = Watches::new()?;
        registry.register(Box::new(watches.clone()))?;
        Ok(Metrics { requests, request_duration, rate_limiter, programming, relists, errors, bad_objects, watches })
    }

    /// A request waited for its turn.
    pub fn waited(&self, host: &str, duration: Duration) {
        self.rate_limiter.with_label_values(&["GET", host]).observe(duration.as_secs_f64());
    }

    /// A request was answered; `took` of those that have a duration.
    pub fn answered(&self, host: &str, status: StatusCode, took: Option<Duration>) {
        self.requests.with_label_values(&[status.as_str(), "GET", host]).inc();
        if let Some(took) = took {
            self.request_duration.with_label_values(&["GET", host]).observe(took.as_secs_f64());
        }
    }

    /// A request had no answer; client-go's word for its code.
    pub fn failed(&self, host: &str) {
        self.requests.with_label_values(&["<error>", "GET", host]).inc();
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
        self.watches.all.lock().push((kind, Arc::downgrade(&shared)));
        Status { kind, metrics: self.clone(), shared, log, born: Instant::now() }
    }
}

/// Where one kind of one selection stands.
#[derive(Debug)]
pub struct Status {
    kind: Kind,
    metrics: Metrics,
    shared: Arc<Shared>,
    log: Arc<Complaints>,
    born: Instant,
}

/// What a scrape reads.
#[derive(Debug, Default)]
struct Shared {
    synced: AtomicBool,
    /// When the API server was last heard of, in milliseconds; `None` before.
    seen: Mutex<Option<Instant>>,
    objects: AtomicU64,
}

impl Status {
    /// Something came from the API server.
    pub fn seen(&self) {
        *self.shared.seen.lock() = Some(Instant::now());
    }

    /// So many objects are known.
    pub fn objects(&self, count: usize) {
        self.shared.objects.store(count as u64, Ordering::Relaxed);
    }

    /// A list is complete.
    pub fn synced(&self) {
        self.shared.synced.store(true, Ordering::Relaxed);
        self.log.ended(self.kind);
    }

    /// Whether a list has been complete.
    pub fn is_synced(&self) -> bool {
        self.shared.synced.load(Ordering::Relaxed)
    }

    /// A list is complete that was not the first.
    pub fn relisted(&self, reason: &str) {
        self.metrics.relists.with_label_values(&[self.kind.name(), reason]).inc();
    }

    /// A list or watch has failed.
    pub fn failed(&self, trouble: &Trouble, host: Option<String>) {
        self.metrics.errors.with_label_values(&[self.kind.name(), trouble.reason()]).inc();
        let age = self.shared.seen.lock().unwrap_or(self.born).elapsed();
        self.log.trouble(self.kind, trouble, host, self.is_synced().then_some(age));
    }

    /// An object could not be read.
    pub fn bad_object(&self, text: impl FnOnce() -> String) {
        self.metrics.bad_objects.with_label_values(&[self.kind.name()]).inc();
        self.log.bad_object(self.kind, text);
    }

    /// A part of an object is of no use.
    pub fn ignored(&self, text: impl FnOnce() -> String) {
        self.log.bad_object(self.kind, text);
    }

    /// The metrics of all.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// What has been told of, so that a lasting trouble is one line a minute. Shared by all that one API server is asked for.
#[derive(Debug, Default)]
pub struct Complaints {
    /// Short: kinds times causes.
    told: Mutex<Vec<Told>>,
}

#[derive(Debug)]
struct Told {
    /// What it is about; `None` where it concerns the connection, which all kinds share.
    kind: Option<Kind>,
    reason: &'static str,
    at: Instant,
    /// The kinds that have this trouble now.
    kinds: Vec<Kind>,
    since: Instant,
}

impl Complaints {
    /// Tells of a trouble, if it has not been told of within the last minute. `age`: of the state that is served on.
    fn trouble(&self, kind: Kind, trouble: &Trouble, host: Option<String>, age: Option<Duration>) {
        // A refusal is about a resource; a broken connection is the same for all of them.
        let of = trouble.code().map(|_| kind);
        if !self.due(of, trouble.reason(), kind) {
            return;
        }
        let resource = super::resource(kind);
        let meanwhile = match age {
            Some(age) => format!("serving the last known state, {} s old", age.as_secs()),
            None => "cluster names are SERVFAIL until a list is complete".to_owned(),
        };
        let host = host.as_deref().unwrap_or("the API server");
        match trouble {
            Trouble::Configuration(error) => {
                tracing::error!(plugin = "kubernetes", "{error}; {meanwhile}; trying again");
            }
            Trouble::Refused(refusal) => {
                tracing::error!(plugin = "kubernetes", "{host}: {resource}: {refusal}; {meanwhile}; trying again");
            }
            _ => tracing::warn!(plugin = "kubernetes", "{host}: {trouble}; {meanwhile}; trying again"),
        }
    }

    /// Tells of an object that is of no use, unless one of its kind has been told of within the last minute.
    fn bad_object(&self, kind: Kind, text: impl FnOnce() -> String) {
        if self.due(Some(kind), "bad object", kind) {
            tracing::warn!(plugin = "kubernetes", "{}", text());
        }
    }

    /// Whether it is time to tell.
    fn due(&self, of: Option<Kind>, reason: &'static str, kind: Kind) -> bool {
        let (mut told, now) = (self.told.lock(), Instant::now());
        match told.iter_mut().find(|told| told.kind == of && told.reason == reason) {
            Some(told) => {
                if !told.kinds.contains(&kind) {
                    told.kinds.push(kind);
                }
                let due = now - told.at >= TOLD_EVERY;
                if due {
                    told.at = now;
                }
                due
            }
            None => {
                told.push(Told { kind: of, reason, at: now, kinds: vec![kind], since: now });
                true
            }
        }
    }

    /// A kind is in step: what troubled it has ended.
    fn ended(&self, kind: Kind) {
        let mut told = self.told.lock();
        let mut since: Option<Instant> = None;
        told.retain_mut(|told| {
            let troubled = told.reason != "bad object" && told.kinds.contains(&kind);
            if troubled {
                told.kinds.retain(|&other| other != kind);
                // The last of those that share a trouble says that it is over.
                if told.kinds.is_empty() {
                    since = Some(since.map_or(told.since, |since| since.min(told.since)));
                }
            }
            !troubled || !told.kinds.is_empty()
        });
        if let Some(since) = since {
            let resource = super::resource(kind);
            tracing::info!(plugin = "kubernetes", "{resource} in step again after {} s", since.elapsed().as_secs());
        }
    }
}

/// A watch that may have ended.
type Watched = (Kind, Weak<Shared>);

/// All that is followed, for the scrape.
#[derive(Clone, Debug)]
struct Watches {
    /// Written when a watch is added; those that have ended are taken out at a scrape.
    all: Arc<Mutex<Vec<Watched>>>,
    synced: IntGaugeVec,
    age: GaugeVec,
    objects: IntGaugeVec,
}

impl Watches {
    fn new() -> Result<Watches, prometheus::Error> {
        let synced = Opts::new("clusterdns_kubernetes_synced", "1 once every watch of the kind has had a full list.");
        let age = "Seconds since the API server was last heard of, by event, bookmark or list.";
        let age = Opts::new("clusterdns_kubernetes_last_seen_age_seconds", age);
        let objects = Opts::new("clusterdns_kubernetes_objects", "Objects that answers are made of.");
        Ok(Watches {
            all: Arc::default(),
            synced: IntGaugeVec::new(synced, &["kind"])?,
            age: GaugeVec::new(age, &["kind"])?,
            objects: IntGaugeVec::new(objects, &["kind"])?,
        })
    }
}

impl Collector for Watches {
    fn desc(&self) -> Vec<&Desc> {
        [self.synced.desc(), self.age.desc(), self.objects.desc()].concat()
    }

    /// Of several watches of a kind, the worst is shown, and the sum of their objects.
    fn collect(&self) -> Vec<MetricFamily> {
        let mut all = self.all.lock();
        all.retain(|(_, shared)| shared.strong_count() > 0);
        for kind in Kind::ALL {
            let of = |vec: &IntGaugeVec| -> IntGauge { vec.with_label_values(&[kind.name()]) };
            let live: Vec<Arc<Shared>> =
                all.iter().filter(|(of, _)| *of == kind).filter_map(|(_, shared)| shared.upgrade()).collect();
            if live.is_empty() {
                continue;
            }
            of(&self.synced).set(live.iter().all(|shared| shared.synced.load(Ordering::Relaxed)).into());
            of(&self.objects).set(live.iter().map(|shared| shared.objects.load(Ordering::Relaxed)).sum::<u64>() as i64);
            // Before anything was heard there is no age.
            let seen = live.iter().map(|shared| *shared.seen.lock()).collect::<Option<Vec<Instant>>>();
            if let Some(oldest) = seen.and_then(|seen| seen.into_iter().min()) {
                let age: Gauge = self.age.with_label_values(&[kind.name()]);
                age.set(oldest.elapsed().as_secs_f64());
            }
        }
        [self.synced.collect(), self.age.collect(), self.objects.collect()].concat()
    }
}
