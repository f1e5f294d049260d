//! The program: command line, configuration, start and stop. The only place that knows every module.
//!
//! ```text
//! args ─► configuration (read, check) ─► build (router, indexes) ─► run (pages, sources, sockets, signals)
//! ```

pub mod args;
pub mod build;
mod check;
pub mod configuration;
mod follow;
pub mod indexes;
mod machine;
pub mod metrics;
mod pages;
mod reload;
mod run;
mod serving;
mod signals;
pub mod sockets;

pub use run::main;

/// This server's name and version.
pub const VERSION: &str = concat!("clusterdns-", env!("CARGO_PKG_VERSION"));
/// The version of CoreDNS whose behaviour this server has.
pub const COREDNS: &str = "CoreDNS-1.15.0";
