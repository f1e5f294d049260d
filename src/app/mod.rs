//! The program: command line, configuration, start, reload and stop. The only module that uses all others.
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
/// The version of CoreDNS that this server is compatible with.
pub const COREDNS: &str = "CoreDNS-1.15.0";
