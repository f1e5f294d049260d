//! Log lines, metrics, who asks what, and the time of day of records.

pub mod log;
pub mod metrics;
pub mod top;
pub mod wall_clock;
