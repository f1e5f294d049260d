//! The metrics of the process that no directive owns.

use std::sync::Arc;

use parking_lot::Mutex;

use super::sockets::ListenerAddress;
use super::version::VERSION;
use crate::plugins;
use crate::plugins::build::ActivePlugins;
use crate::serve::{ListenerKind, Service};
use crate::telemetry::metrics::{self, Collected, Family, SharedMetrics, table};
use crate::upstream;

/// The revision of the source, if it was known when this was built.
const REVISION: &str = match option_env!("CLUSTERDNS_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// Creates the metrics of the process, with everything that is shown from the start.
pub fn create() -> SharedMetrics {
    let metrics = SharedMetrics::new(metrics::registry(VERSION, REVISION));
    metrics.get::<upstream::Metrics>();
    metrics.get::<HttpReplies>();
    metrics.get::<ActivePlugins>();
    plugins::register_metrics(&metrics);
    metrics
}

/// The results of requests over HTTP and of QUIC streams, for each open listener.
#[derive(Default)]
pub struct HttpReplies(Mutex<Vec<(ListenerAddress, Arc<Service>)>>);

impl HttpReplies {
    /// Replaces the listeners.
    pub fn replace(&self, services: impl Iterator<Item = (ListenerAddress, Arc<Service>)>) {
        *self.0.lock() = services.collect();
    }
}

impl Collected for HttpReplies {
    const METRICS: &'static [&'static metrics::Metric] =
        &[&table::HTTPS_RESPONSES, &table::HTTPS3_RESPONSES, &table::QUIC_RESPONSES];

    fn families(&self) -> Vec<metrics::MetricFamily> {
        let kinds = [ListenerKind::Https, ListenerKind::Https3, ListenerKind::Quic];
        let services = self.0.lock();
        let families = kinds.into_iter().zip(Self::METRICS).map(|(kind, metric)| {
            let mut family = Family::new(metric);
            for (address, service) in services.iter().filter(|(address, _)| address.kind() == kind) {
                let server = address.server_name();
                service.replies().for_each(|(status, count)| family.value(&[&server, status], count as f64));
            }
            family.done()
        });
        families.collect()
    }
}
