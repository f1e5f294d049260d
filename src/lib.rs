//! clusterdns
pub mod wire;
pub mod cluster;
pub mod chain;
pub mod serve;
