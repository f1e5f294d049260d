//! clusterdns
pub mod cluster;
pub mod corefile;
