//! clusterdns
pub mod wire;
pub mod telemetry;
pub mod cluster;
pub mod chain;
pub mod plugins;
