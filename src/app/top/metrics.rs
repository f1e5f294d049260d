//! The most frequent keys as metrics: only with the flag `-top.metrics`, since each new key is a series.

use std::sync::Arc;

use super::live::LiveTop;
use super::report::TopAsk;
use crate::telemetry::metrics::{Family, Observed, Registry, register, table};
use crate::telemetry::top::TopWindow;

/// Shows the `number` most frequent keys of each dimension.
pub(crate) fn show(registry: &Registry, top: Arc<LiveTop>, number: usize) {
    let families = move || {
        let report = top.report(&TopAsk { window: TopWindow::Minute, by: None, number });
        let mut family = Family::new(&table::TOP_QUERIES);
        for (by, rows) in &report.lists {
            for row in rows {
                family.value(&[by.name(), &row.key, row.pod.as_deref().unwrap_or_default()], row.per_second);
            }
        }
        vec![family.done()]
    };
    register(registry, Observed::new(&[&table::TOP_QUERIES], families));
}
