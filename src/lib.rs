//! clusterdns
pub mod cluster;
