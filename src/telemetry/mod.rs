//! What the server tells of itself.

pub mod http;
pub mod log;
pub mod metrics;
