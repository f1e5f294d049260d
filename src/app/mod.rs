//! The program: command line, configuration, start, reload and stop. The only module that uses all others.
//!
//! ```text
//! args ─► configuration (read, check) ─► build (router, indexes) ─► run (pages, sources, sockets, signals)
//! ```

pub mod args;
pub mod build;
mod check;
mod command;
pub mod configuration;
pub mod explain;
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
mod standard_io;
mod status_page;
mod top;
mod version;

pub use run::main;
pub use version::VERSION;
