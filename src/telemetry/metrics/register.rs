//! The registration of collectors, and the metrics of the table that count rare events.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use super::table::{Metric, MetricKind};

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
