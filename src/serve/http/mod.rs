//! DNS over HTTPS (RFC 8484), by HTTP/1.1, HTTP/2 and HTTP/3.

pub mod doh;
pub(in crate::serve) mod https;
pub(in crate::serve) mod https3;
