//! What the server tells of itself.

pub mod log;
