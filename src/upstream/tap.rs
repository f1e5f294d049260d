//! Observers of attempts at upstreams, for plugins that report them.

use std::net::SocketAddr;
use std::time::Instant;

use super::Upstream;

/// An attempt at an upstream.
#[derive(Clone, Copy)]
pub struct TappedAttempt<'a> {
    /// The upstream.
    pub upstream: &'a Upstream,
    /// The attempt uses a stream: TCP, TLS, HTTPS or QUIC.
    pub is_stream: bool,
    /// The address of this server; `None` for a stream.
    pub local: Option<SocketAddr>,
    /// When the query was sent.
    pub started: Instant,
}

/// Notified of the attempts of one query. It must not block.
pub trait AttemptTap: Send + Sync {
    /// Called with the query as it is sent.
    fn sent(&self, attempt: &TappedAttempt<'_>, query: &[u8]);

    /// Called with the response, or with `None` if the attempt has failed. A response may still arrive after that.
    fn ended(&self, attempt: &TappedAttempt<'_>, response: Option<&[u8]>, now: Instant);
}
