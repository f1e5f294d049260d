//! Log lines, metrics, and the time of day of records.

pub mod log;
pub mod metrics;
pub mod wall_clock;
