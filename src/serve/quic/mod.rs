//! QUIC listeners: the endpoint with its connections, and DNS over QUIC (RFC 9250). HTTP/3 is in `http`.

pub(crate) mod doq;
pub(crate) mod endpoint;
pub(crate) mod listener;
mod proxied;
pub(crate) mod streams;
