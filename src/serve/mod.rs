//! Sockets: from a packet off the wire to its answer on the wire.
//!
//! ```text
//!  ListenSpec ─ bind ─┬─► UDP: one thread a core, each with sockets of its own of each listener ─┐
//!                     ├─► TCP, TLS: an accept loop a listener, a task a connection ──────────────┼─► Service::answer
//!                     └─► HTTPS, QUIC, HTTP/3: likewise, and a task a request ───────────────────┤
//!                                                                      pending queries on tokio ◄┘
//! ```
//!
//! What is served at a listener is a [`Service`], whose router can be replaced between two queries.

mod bind;
mod counts;
pub mod framing;
pub mod http;
mod memory;
mod pending;
mod quic;
mod server;
mod service;
mod shared;
mod statuses;
mod tcp;
mod transport;
mod udp;

#[cfg(test)]
mod tests;

pub use bind::ServeError;
pub use counts::ServerCounts;
pub use server::{ListenSpec, Server, ServerOptions, Spread};
pub use service::{Service, Settings, Timeouts};
pub use tcp::limits::TcpLimits;
pub use transport::{ListenerKind, Ports};

use shared::{LEAVE_TIME, ListenerPhase, Shared};
