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
mod family;
mod per_server;
mod process;
mod register;
mod shared;
pub mod table;

use prometheus::TextEncoder;

pub use cells::{CELL_SLOTS, Cells, Mine, cell_slot};
pub use family::{Family, Observed, number};
pub use per_server::{ServerCounter, ServerCounters, ServerMetric};
pub use prometheus::proto::MetricFamily;
pub use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry};
pub use register::register;
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
