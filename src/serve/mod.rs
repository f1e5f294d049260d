//! Sockets: from a packet off the wire to its answer on the wire.
//!
//! ```text
//!  ListenSpec ─ bind ─┬─► UDP: a thread per core, each with its own sockets of each listener ────┐
//!                     ├─► TCP, TLS: an accept loop per listener, a task per connection ──────────┼─► Service::answer
//!                     └─► HTTPS, QUIC, HTTP/3: the same, and a task per request ─────────────────┤
//!                                                                      pending queries on tokio ◄┘
//! ```
//!
//! A listener has a [`Service`], whose router can be replaced between two queries.

mod bind;
mod counts;
pub mod framing;
pub mod http;
mod log_limiter;
mod pending;
mod proxied_datagram;
mod quic;
mod request;
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
