//! QUIC listeners: DNS over QUIC (RFC 9250), and the connections of HTTP/3.

pub(in crate::serve) mod endpoint;
