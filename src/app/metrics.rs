//! The metrics of the process that no directive owns.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::sockets::ListenerAddress;
use super::version::{REVISION, VERSION};
use crate::plugins;
use crate::plugins::build::ActivePlugins;
use crate::serve::{ListenerKind, Service};
use crate::telemetry::log::Logger;
use crate::telemetry::metrics::{self, Collected, Family, SharedMetrics, number, register, table};
use crate::upstream;

/// Creates the metrics of the process, with everything that is shown from the start.
pub fn create() -> SharedMetrics {
    let metrics = SharedMetrics::new(metrics::registry(VERSION, REVISION));
    metrics.get::<upstream::Metrics>();
    metrics.get::<OpenListeners>();
    metrics.get::<ActivePlugins>();
    plugins::register_metrics(&metrics);
    metrics
}

/// Shows how many lines a log has dropped.
pub fn show_dropped_lines(metrics: &SharedMetrics, logger: Logger) {
    register(metrics.registry(), number(&table::LOG_DROPPED, move || logger.dropped() as f64));
}

/// The open listeners: the results of their requests over HTTP and of their QUIC streams, and their certificates.
#[derive(Default)]
pub struct OpenListeners(Mutex<Vec<(ListenerAddress, Arc<Service>)>>);

impl OpenListeners {
    /// Replaces the listeners.
    pub fn replace(&self, services: impl Iterator<Item = (ListenerAddress, Arc<Service>)>) {
        *self.0.lock() = services.collect();
    }
}

impl Collected for OpenListeners {
    const METRICS: &'static [&'static metrics::Metric] =
        &[&table::HTTPS_RESPONSES, &table::HTTPS3_RESPONSES, &table::QUIC_RESPONSES, &table::CERTIFICATE_EXPIRY];

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
        // Listeners of a server block have the same file.
        let credentials = services.iter().filter_map(|(_, service)| service.credentials());
        let expiries: BTreeMap<_, _> = credentials.map(|credentials| credentials.expiry()).collect();
        let mut family = Family::new(&table::CERTIFICATE_EXPIRY);
        for (file, expiry) in expiries {
            if let Some(expiry) = expiry {
                family.value(&[&file.to_string_lossy()], expiry as f64);
            }
        }
        families.chain([family.done()]).collect()
    }
}
