//! Who asks what: the counts of the running server, `clusterdns top`, and the page `/top`.
//!
//! ```text
//! chain ─ sample ─► live.rs, on a thread of its own ─► telemetry::top ─ report.rs ─┬─ local socket ─► command.rs
//!                                                                                  └─ pages, metrics
//! ```

mod command;
mod live;
mod metrics;
mod report;

pub(super) use command::main;
pub(super) use live::LiveTop;
pub(super) use metrics::show;
pub(super) use report::{MAX_ROWS, TopAsk, TopReport, parse_rows};
