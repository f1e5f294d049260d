//! DNS over TCP and TLS: accepting connections, their limits, and what each of them reads and writes.

pub(in crate::serve) mod accept;
pub(in crate::serve) mod connection;
pub(in crate::serve) mod stream;
