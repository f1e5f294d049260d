//! The configuration of an upstream, and of its health check.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::group::UpstreamTransport;
use super::tcp_pool::ConnectionReuse;
use super::trust::Trust;
use crate::wire::NameBuf;

/// How an upstream is checked after a failure.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// The time between two checks, until one succeeds.
    pub interval: Duration,
    /// The query has RD.
    pub recursion: bool,
    /// The name of the query, whose type is NS.
    pub domain: NameBuf,
    /// The query goes over TCP, if the upstream speaks plain DNS.
    pub tcp: bool,
}

/// The configuration of an upstream. Upstreams with equal ones are the same.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// The address.
    pub address: SocketAddr,
    /// The transport.
    pub transport: UpstreamTransport,
    /// The source address of queries, if it is configured.
    pub source: Option<IpAddr>,
    /// How long connections stay open for reuse, and how many.
    pub reuse: ConnectionReuse,
    /// The health check.
    pub check: HealthCheck,
    /// The certificates, for encrypted transports.
    pub trust: Trust,
    /// Queries over HTTPS are sent by GET (`doh_method`), not by POST.
    pub get: bool,
}
