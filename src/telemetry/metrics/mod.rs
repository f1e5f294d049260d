//! Metrics for Prometheus: one table of names, and counters that cost a query almost nothing.
//!
//! ```text
//! worker 1 ─ load, add, store ─► its cells ─┐
//! worker 2 ─ load, add, store ─► its cells ─┼─ summed by a Collector ─► Registry ─ gather ─► text
//!                rare events ─► IntCounter ─┘      only at a scrape
//! ```
//!
//! `app` passes the registry to other modules; there is no global one. Values of labels come from the configuration,
//! never from queries.

mod cells;
mod process;
mod shared;
pub mod table;

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricType};
use prometheus::{HistogramOpts, Opts, TextEncoder};

pub use cells::{Cells, Mine};
pub use prometheus::proto::MetricFamily;
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};
pub use shared::{Collected, SharedMetrics};
pub use table::{Metric, MetricKind};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The labels that identify a server block on a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockLabels {
    /// The socket, `dns://:53`.
    pub server: String,
    /// The name of the block's *view*; empty without one.
    pub view: String,
}

impl BlockLabels {
    /// Creates the labels.
    pub fn new(server: &str, view: &str) -> BlockLabels {
        BlockLabels { server: server.to_owned(), view: view.to_owned() }
    }
}

/// Creates a registry with metrics of the process, and with the `version` and `revision` of this build.
pub fn registry(version: &str, revision: &str) -> Registry {
    let registry = Registry::new();
    register(&registry, process::Process::new());
    // Dashboards group by these three labels. There is no Go version.
    let mut build = Family::new(&table::BUILD_INFO);
    build.value(&["", revision, version], 1.0);
    let build = build.done();
    register(&registry, Observed::new(&[&table::BUILD_INFO], move || vec![build.clone()]));
    registry
}

/// Returns all registered metrics in the text format.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
        tracing::error!(%error, "failed to encode metrics");
    }
    text
}

/// Registers a collector. A name that is already registered stays with its first collector, as in CoreDNS
/// `Metrics.MustRegister`.
pub fn register(registry: &Registry, collector: impl Collector + 'static) {
    if let Err(error) = registry.register(Box::new(collector)) {
        tracing::error!(%error, "failed to register a metric");
    }
}

impl Metric {
    /// Creates and registers a counter of rare events.
    pub fn counter(&self, registry: &Registry) -> IntCounter {
        let counter = IntCounter::new(self.name, self.help).expect("metrics of the table are valid");
        register(registry, counter.clone());
        counter
    }

    /// Creates and registers a histogram of rare events.
    pub fn histogram(&self, registry: &Registry) -> Histogram {
        let histogram = Histogram::with_opts(self.histogram_opts()).expect("metrics of the table are valid");
        register(registry, histogram.clone());
        histogram
    }

    /// Creates and registers counters of rare events, one for each set of label values.
    pub fn counters(&self, registry: &Registry) -> IntCounterVec {
        let opts = Opts::new(self.name, self.help);
        let counters = IntCounterVec::new(opts, self.labels).expect("metrics of the table are valid");
        register(registry, counters.clone());
        counters
    }

    /// Creates and registers histograms of rare events, one for each set of label values.
    pub fn histograms(&self, registry: &Registry) -> HistogramVec {
        let histograms = HistogramVec::new(self.histogram_opts(), self.labels).expect("metrics of the table are valid");
        register(registry, histograms.clone());
        histograms
    }

    fn histogram_opts(&self) -> HistogramOpts {
        let opts = HistogramOpts::new(self.name, self.help);
        match self.kind {
            MetricKind::Histogram(bounds) => opts.buckets(bounds.to_vec()),
            MetricKind::Counter | MetricKind::Gauge => opts,
        }
    }

    /// Returns the description for a collector.
    pub fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
            .expect("metrics of the table are valid")
    }
}

/// Metrics that are computed at a scrape.
pub struct Observed<F> {
    descs: Vec<Desc>,
    read: F,
}

impl<F: Fn() -> Vec<MetricFamily> + Send + Sync> Observed<F> {
    /// Creates a collector whose families are returned by `read`.
    pub fn new(metrics: &[&Metric], read: F) -> Observed<F> {
        Observed { descs: metrics.iter().map(|metric| metric.desc()).collect(), read }
    }
}

impl<F: Fn() -> Vec<MetricFamily> + Send + Sync> Collector for Observed<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.read)()
    }
}

/// Creates a collector of a metric without labels, whose value `read` returns.
pub fn number(metric: &'static Metric, read: impl Fn() -> f64 + Send + Sync + 'static) -> impl Collector + 'static {
    Observed::new(&[metric], move || {
        let mut family = Family::new(metric);
        family.value(&[], read());
        vec![family.done()]
    })
}

/// Builds a metric family.
pub struct Family {
    metric: &'static Metric,
    samples: Vec<proto::Metric>,
}

impl Family {
    /// Starts a family without samples.
    pub fn new(metric: &'static Metric) -> Family {
        Family { metric, samples: Vec::new() }
    }

    /// Adds a value of a counter or gauge. `labels` are the values of the metric's labels.
    pub fn value(&mut self, labels: &[&str], value: f64) {
        let mut sample = self.sample(labels);
        match self.metric.kind {
            MetricKind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
            MetricKind::Counter | MetricKind::Histogram(_) => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
        }
        self.samples.push(sample);
    }

    /// Adds a histogram: the count of each bucket, the last one above all bounds, and the sum of the values.
    pub fn buckets(&mut self, labels: &[&str], counts: &[u64], sum: f64) {
        let MetricKind::Histogram(bounds) = self.metric.kind else { return };
        let mut histogram = proto::Histogram::default();
        let mut count = 0;
        let below = bounds.iter().zip(counts).map(|(&bound, &more)| {
            count += more;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        histogram.set_bucket(below.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        let mut sample = self.sample(labels);
        sample.set_histogram(histogram);
        self.samples.push(sample);
    }

    /// Returns the family for the registry.
    pub fn done(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(match self.metric.kind {
            MetricKind::Counter => MetricType::COUNTER,
            MetricKind::Gauge => MetricType::GAUGE,
            MetricKind::Histogram(_) => MetricType::HISTOGRAM,
        });
        family.set_metric(self.samples);
        family
    }

    fn sample(&self, values: &[&str]) -> proto::Metric {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "{}", self.metric.name);
        let pairs = self.metric.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        proto::Metric::from_label(pairs.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_metrics_of_the_process_and_the_build() {
        let text = text(&registry("1", "abc"));
        for line in [
            "coredns_build_info{goversion=\"\",revision=\"abc\",version=\"1\"} 1\n",
            "# TYPE process_cpu_seconds_total counter\n",
            "# TYPE process_resident_memory_bytes gauge\n",
            "# TYPE process_start_time_seconds gauge\n",
            "# TYPE process_open_fds gauge\n",
            "# TYPE process_max_fds gauge\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn buckets_are_cumulative_in_the_text() {
        let registry = Registry::new();
        register(
            &registry,
            Observed::new(&[&table::HEALTH_DURATION], || {
                let mut family = Family::new(&table::HEALTH_DURATION);
                family.buckets(&[], &[1, 0, 2, 0, 0, 4], 1.5);
                vec![family.done()]
            }),
        );
        let text = text(&registry);
        let name = "coredns_health_request_duration_seconds";
        for line in ["_bucket{le=\"0.00025\"} 1", "_bucket{le=\"0.025\"} 3", "_bucket{le=\"+Inf\"} 7", "_sum 1.5"] {
            assert!(text.contains(&format!("{name}{line}\n")), "{line} in {text}");
        }
    }
}
