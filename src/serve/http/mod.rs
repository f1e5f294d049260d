//! Requests over HTTP: DNS over HTTPS (RFC 8484), by HTTP/1.1, HTTP/2 and HTTP/3, and gRPC, by HTTP/2.

pub mod doh;
pub(crate) mod grpc;
pub(crate) mod https;
pub(crate) mod https3;
pub(crate) mod limited;
pub mod message;
