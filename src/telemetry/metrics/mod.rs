//! Numbers for Prometheus: one table of names, and counters that cost a query next to nothing.
//!
//! ```text
//! worker 1 ─ load, add, store ─► its cells ─┐
//! worker 2 ─ load, add, store ─► its cells ─┼─ summed by a Collector ─► Registry ─ gather ─► text
//!               seldom events ─► IntCounter ─┘      only when someone asks
//! ```
//!
//! The registry is handed around by the app; there is none of the process's. What a label may say is bounded by the
//! configuration, never by what clients ask.

mod cells;
mod process;
pub mod table;

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricType};
use prometheus::{HistogramOpts, Opts, TextEncoder};

pub use cells::{Cells, Mine};
pub use prometheus::proto::MetricFamily;
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};
pub use table::{Kind, Metric};

/// The type of the text that [`text`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry that tells of the process and of this build: `version`, and the `revision` that it was made of.
pub fn registry(version: &str, revision: &str) -> Registry {
    let registry = Registry::new();
    register(&registry, process::Process::new());
    // Dashboards group by the three labels. No Go version made this.
    let mut build = Family::new(&table::BUILD_INFO);
    build.value(&["", revision, version], 1.0);
    let build = build.done();
    register(&registry, Observed::new(&[&table::BUILD_INFO], move || vec![build.clone()]));
    registry
}

/// Everything that is registered, as text.
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
        tracing::error!(%error, "metrics cannot be written");
    }
    text
}

/// Registers a collector. A name that is registered already keeps its first collector, as in CoreDNS
/// `Metrics.MustRegister`.
pub fn register(registry: &Registry, collector: impl Collector + 'static) {
    if let Err(error) = registry.register(Box::new(collector)) {
        tracing::error!(%error, "a metric cannot be registered");
    }
}

impl Metric {
    /// A counter of something seldom; registered.
    pub fn counter(&self, registry: &Registry) -> IntCounter {
        let counter = IntCounter::new(self.name, self.help).expect("a name of the table is a good name");
        register(registry, counter.clone());
        counter
    }

    /// A histogram of something seldom; registered.
    pub fn histogram(&self, registry: &Registry) -> Histogram {
        let histogram = Histogram::with_opts(self.histogram_opts()).expect("a metric of the table is a good one");
        register(registry, histogram.clone());
        histogram
    }

    /// Counters of something seldom, one for each set of labels; registered.
    pub fn counters(&self, registry: &Registry) -> IntCounterVec {
        let opts = Opts::new(self.name, self.help);
        let counters = IntCounterVec::new(opts, self.labels).expect("a metric of the table is a good one");
        register(registry, counters.clone());
        counters
    }

    /// Histograms of something seldom, one for each set of labels; registered.
    pub fn histograms(&self, registry: &Registry) -> HistogramVec {
        let histograms =
            HistogramVec::new(self.histogram_opts(), self.labels).expect("a metric of the table is a good one");
        register(registry, histograms.clone());
        histograms
    }

    fn histogram_opts(&self) -> HistogramOpts {
        let opts = HistogramOpts::new(self.name, self.help);
        match self.kind {
            Kind::Histogram(bounds) => opts.buckets(bounds.to_vec()),
            Kind::Counter | Kind::Gauge => opts,
        }
    }

    /// Its description.
    pub fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
            .expect("a metric of the table is a good one")
    }
}

/// Metrics that are made when somebody asks.
pub struct Observed<F> {
    descs: Vec<Desc>,
    read: F,
}

impl<F: Fn() -> Vec<MetricFamily> + Send + Sync> Observed<F> {
    /// Families of these metrics, by a function.
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

/// A metric without labels whose number is kept elsewhere.
pub fn number(metric: &'static Metric, read: impl Fn() -> f64 + Send + Sync + 'static) -> impl Collector + 'static {
    Observed::new(&[metric], move || {
        let mut family = Family::new(metric);
        family.value(&[], read());
        vec![family.done()]
    })
}

/// A family in the making.
pub struct Family {
    metric: &'static Metric,
    samples: Vec<proto::Metric>,
}

impl Family {
    /// Without samples.
    pub fn new(metric: &'static Metric) -> Family {
        Family { metric, samples: Vec::new() }
    }

    /// Adds a counter's or gauge's value. `labels` are the values of the metric's labels.
    pub fn value(&mut self, labels: &[&str], value: f64) {
        let mut sample = self.sample(labels);
        match self.metric.kind {
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
            Kind::Counter | Kind::Histogram(_) => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
        }
        self.samples.push(sample);
    }

    /// Adds a histogram: how many fell into each bucket, the last being that above all bounds, and their sum.
    pub fn buckets(&mut self, labels: &[&str], counts: &[u64], sum: f64) {
        let Kind::Histogram(bounds) = self.metric.kind else { return };
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

    /// The family as the registry takes it.
    pub fn done(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(match self.metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram(_) => MetricType::HISTOGRAM,
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
    fn a_registry_tells_of_the_process_and_the_build() {
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
