//! Metrics of *grpc* (CoreDNS `plugin/grpc/metrics.go`).

use std::sync::Arc;

use parking_lot::RwLock;

use crate::telemetry::metrics::{Collected, Family, Metric, MetricFamily, table};
use crate::upstream::UpstreamMetrics;

/// The metrics of all upstreams. They outlive a reload.
#[derive(Default)]
pub struct GrpcMetrics(
    /// Written when a configuration is built, read by a scrape.
    RwLock<Vec<Arc<UpstreamMetrics>>>,
);

impl GrpcMetrics {
    /// Returns the metrics of the upstream with this label.
    pub fn upstream(&self, to: &str) -> Arc<UpstreamMetrics> {
        let mut upstreams = self.0.write();
        if let Some(found) = upstreams.iter().find(|metrics| metrics.to() == to) {
            return found.clone();
        }
        let metrics = Arc::new(UpstreamMetrics::new(to));
        upstreams.push(metrics.clone());
        metrics
    }
}

impl Collected for GrpcMetrics {
    const METRICS: &'static [&'static Metric] = &[&table::GRPC_REQUESTS, &table::GRPC_RESPONSES, &table::GRPC_DURATION];

    fn families(&self) -> Vec<MetricFamily> {
        let [mut requests, mut responses, mut durations] =
            [&table::GRPC_REQUESTS, &table::GRPC_RESPONSES, &table::GRPC_DURATION].map(Family::new);
        for metrics in self.0.read().iter() {
            let (mut buckets, mut sum) = (Vec::new(), 0.0);
            for answers in metrics.answers() {
                let count: u64 = answers.buckets.iter().sum();
                responses.value(&[&answers.rcode.to_string(), metrics.to()], count as f64);
                buckets.resize(answers.buckets.len(), 0);
                buckets.iter_mut().zip(&answers.buckets).for_each(|(all, of_code)| *all += of_code);
                sum += answers.seconds;
            }
            if !buckets.is_empty() {
                requests.value(&[metrics.to()], buckets.iter().sum::<u64>() as f64);
                durations.buckets(&[metrics.to()], &buckets, sum);
            }
        }
        [requests, responses, durations].map(Family::done).into()
    }
}
