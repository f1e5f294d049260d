//! DNS over HTTPS (RFC 8484), by HTTP/1.1, HTTP/2 and HTTP/3.

pub mod doh;
pub(crate) mod https;
pub(crate) mod https3;
pub(crate) mod limited;
