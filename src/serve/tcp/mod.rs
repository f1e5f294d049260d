//! DNS over TCP and TLS: accepting connections, their limits, and what each of them reads and writes.

pub(crate) mod accept;
pub(crate) mod acceptor;
pub(crate) mod connection;
pub(crate) mod limits;
pub(crate) mod stream;
