//! Datagrams with headers of proxies (*proxyproto*), for the sockets of DNS and of QUIC.

use std::net::SocketAddr;
use std::time::Instant;

use super::log_limiter::LogLimiter;
use crate::net::{Proxied, ProxiedDatagram, ProxyProtocol};

/// Limits the log lines about invalid headers.
static LOGGED: LogLimiter = LogLimiter::new();

/// Reads the header of a proxy. Returns where the message starts and the client, or `None` if the datagram is dropped.
#[inline(never)]
pub(super) fn read_proxied(
    proxy: &ProxyProtocol, bytes: &[u8], remote: SocketAddr, now: Instant,
) -> Option<(usize, Option<Proxied>)> {
    match proxy.read_datagram(bytes, remote, now) {
        ProxiedDatagram::Message(start, proxied) => Some((start, proxied)),
        ProxiedDatagram::Empty => None,
        ProxiedDatagram::Invalid(error) => {
            if LOGGED.is_due() {
                tracing::warn!("dropping invalid Proxy Protocol packet from {remote}: {error}");
            }
            None
        }
    }
}
