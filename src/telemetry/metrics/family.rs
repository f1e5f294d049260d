//! Metrics that are computed at a scrape: their collector, and the families that it returns.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, MetricFamily, MetricType};

use super::table::{Metric, MetricKind};

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
