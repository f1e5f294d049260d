//! Upstreams: which one a query goes to next, what is in flight, and which query a response belongs to.
//!
//! ```text
//! forward ─► Group::begin ─► Attempts ─ next ─► NextStep: over UDP, over a stream, or the end
//!                              ▲ record_failure, │
//!                              │ judge           │
//!                              └─────────────────┘  driven by a UDP worker, with an InFlight of its own
//! ```
//!
//! [`Attempts`] and [`InFlight`] do no I/O and have no clock: they get bytes and times as arguments. The UDP workers
//! have the sockets, for their own clients and, through [`Dispatch`], for those of other transports and for inner
//! look-ups.

mod attempts;
mod config;
mod doh;
mod encrypted;
mod exchange_limit;
mod group;
mod grpc;
mod health;
mod http2;
pub mod inflight;
mod metrics;
mod permits;
mod query_permit;
mod shared_connection;
mod tap;
mod tcp_pool;
#[cfg(test)]
pub mod testing;
mod timer_wheel;
mod trust;

use std::future::Future;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::wire::{QueryChange, Rcode, Reply};

pub use attempts::{Answered, Attempts, NextStep, PlainTransport, Verdict};
pub use config::{HealthCheck, UpstreamConfig};
pub use group::{
    DropReason, Group, GroupCounters, GroupRules, ShedReason, Upstream, UpstreamDriver, UpstreamPolicy,
    UpstreamTransport,
};
pub use grpc::{GrpcCall, GrpcClient, GrpcMessage};
pub use health::UpstreamRegistry;
pub use http2::{Http2Address, Http2Config};
pub use inflight::{InFlight, Waiter};
pub use metrics::{AnswerCounts, Metrics, UpstreamMetrics};
pub use permits::WaiterPlace;
pub use query_permit::RevokedPermit;
pub use tap::{AttemptTap, TappedAttempt};
pub use tcp_pool::{ConnectionReuse, read_answer};
pub use trust::{Trust, TrustError};

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The most servers that a group may have. A resolv.conf names three, and some that machines write sixteen.
pub const MAX_UPSTREAMS: usize = 32;

/// The time for a connection to an upstream, with its TLS handshake. The time for the answer starts after it (CoreDNS
/// plugin/forward `tlsConnectTimeout`, half of its `defaultTimeout`).
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(2_500);

/// Returns the maximum time of an exchange over a stream: an idle connection may turn out to be dead just before the
/// timeout, and then a new one is opened.
pub fn max_exchange_time(read_timeout: Duration) -> Duration {
    read_timeout.saturating_mul(2) + CONNECT_TIMEOUT + Duration::from_millis(250)
}

/// Why a query has no answer. The words are those of CoreDNS, for which its users search logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Every upstream is down, and *failfast_all_unhealthy_upstreams* is set; or there is no upstream.
    #[error("no healthy proxies")]
    NoHealthy,
    /// *max_concurrent* is reached: the query was refused, or evicted for another client's.
    #[error("concurrent queries exceeded maximum {0}")]
    Limit(usize),
    /// A limit on pending queries or exchanges was reached, see [`ShedReason`].
    #[error("too many pending queries")]
    Full,
    /// No answer came within the timeout.
    #[error("{0}: i/o timeout")]
    Timeout(Arc<str>),
    /// The connection was refused or broke.
    #[error("{0}: {reason}", reason = reason(*.1))]
    Connection(Arc<str>, ErrorKind),
    /// The answer cannot be parsed, or answers another question.
    #[error("{0}: malformed answer")]
    Malformed(Arc<str>),
    /// The response is longer than this number of bytes.
    #[error("{0}: the response has more than {1} bytes")]
    TooLarge(Arc<str>, usize),
    /// An error of TLS, HTTP or QUIC.
    #[error("{0}: {1}")]
    Protocol(Arc<str>, String),
    /// The client for this transport does not support the query.
    #[error("{0}: zone transfers over QUIC are not supported")]
    Unsupported(Arc<str>),
    /// The server stops: the query is not sent, or no longer waited for.
    #[error("the server stops")]
    Ending,
}

impl Error {
    /// Returns the reason as one word, for log lines.
    pub const fn reason(&self) -> &'static str {
        match self {
            Error::NoHealthy => "upstreams-down",
            Error::Limit(_) => "max-concurrent",
            Error::Full => "overload",
            Error::Timeout(_) => "upstream-timeout",
            Error::Connection(..) => "upstream-connection",
            Error::Malformed(_) | Error::TooLarge(..) => "upstream-malformed",
            Error::Protocol(..) => "upstream-protocol",
            Error::Unsupported(_) => "upstream-unsupported",
            Error::Ending => "server-stops",
        }
    }

    /// Returns the address of the upstream, if the error is about one.
    pub fn upstream(&self) -> Option<&str> {
        match self {
            Error::Timeout(label)
            | Error::Connection(label, _)
            | Error::Malformed(label)
            | Error::TooLarge(label, _)
            | Error::Protocol(label, _)
            | Error::Unsupported(label) => Some(label),
            Error::NoHealthy | Error::Limit(_) | Error::Full | Error::Ending => None,
        }
    }

    /// Returns the code of the extended DNS error of the response (RFC 8914): "No Reachable Authority" (22) without a
    /// response, "Network Error" (23) for a connection that failed or a wrong answer, "Other" (0) for limits of this
    /// server.
    pub const fn extended_code(&self) -> u16 {
        match self {
            Error::NoHealthy | Error::Timeout(_) => 22,
            Error::Connection(..) | Error::Malformed(_) | Error::TooLarge(..) | Error::Protocol(..) => 23,
            Error::Limit(_) | Error::Full | Error::Unsupported(_) | Error::Ending => 0,
        }
    }

    /// Returns the code of the response to the client.
    pub fn rcode(&self) -> Rcode {
        match self {
            Error::Limit(_) => Rcode::REFUSED,
            Error::Unsupported(_) => Rcode::NOTIMP,
            Error::NoHealthy
            | Error::Full
            | Error::Timeout(_)
            | Error::Connection(..)
            | Error::Malformed(_)
            | Error::TooLarge(..)
            | Error::Protocol(..)
            | Error::Ending => Rcode::SERVFAIL,
        }
    }
}

/// Returns the error of a connection in the words of Go, which patterns of *errors* and scripts match.
fn reason(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        ErrorKind::ConnectionAborted => "software caused connection abort".to_owned(),
        ErrorKind::HostUnreachable => "no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        ErrorKind::NetworkDown => "network is down".to_owned(),
        ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        ErrorKind::UnexpectedEof => "EOF".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        // "connection refused", "broken pipe" and others are the same words.
        other => other.to_string(),
    }
}

/// The reply to a query, or why there is none.
pub type ReplyResult = Result<Box<Reply>, Error>;

/// Sends queries that no UDP worker has read: those of TCP clients, of inner look-ups and of refreshes.
pub trait Dispatch: Send + Sync {
    /// Sends a query of a client with this change. `packet` is a whole packet that was parsed before.
    fn dispatch(
        &self, packet: Box<[u8]>, change: QueryChange, client: IpAddr, attempts: Attempts,
    ) -> BoxFuture<ReplyResult>;
}

/// The [`Dispatch`] of a process. It is set when the sockets exist.
#[derive(Clone, Default)]
pub struct Dispatcher(Arc<OnceLock<Arc<dyn Dispatch>>>);

impl Dispatcher {
    /// Sets it. Only the first call has an effect.
    pub fn set(&self, workers: Arc<dyn Dispatch>) {
        let _ = self.0.set(workers);
    }

    /// Sends a query, see [`Dispatch::dispatch`].
    pub async fn dispatch(
        &self, packet: Box<[u8]>, change: QueryChange, client: IpAddr, attempts: Attempts,
    ) -> ReplyResult {
        match self.0.get() {
            Some(workers) => workers.dispatch(packet, change, client, attempts).await,
            None => Err(Error::Ending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_words_of_go() {
        let error = |code| Error::Connection("192.0.2.1:53".into(), std::io::Error::from_raw_os_error(code).kind());
        for (code, words) in [
            (nix::libc::ECONNREFUSED, "connection refused"),
            (nix::libc::ECONNRESET, "connection reset by peer"),
            (nix::libc::EHOSTUNREACH, "no route to host"),
            (nix::libc::ENETUNREACH, "network is unreachable"),
            (nix::libc::EPIPE, "broken pipe"),
        ] {
            assert_eq!(error(code).to_string(), format!("192.0.2.1:53: {words}"));
        }
        assert_eq!(Error::Timeout("192.0.2.1:53".into()).to_string(), "192.0.2.1:53: i/o timeout");
    }
}
