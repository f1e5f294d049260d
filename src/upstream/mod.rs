//! Other name servers: which of them is asked next, and what belongs together of what they say.
//!
//! ```text
//! forward ─► Group::begin ─► Attempts ─ next ─► NextStep: over UDP, over a stream, or the end
//!                              ▲ failed, judge    │
//!                              └──────────────────┘  by whoever carries it: a UDP worker, with a InFlight of its own
//! ```
//!
//! A [`Attempts`] and a [`InFlight`] do no I/O and know no clock: they are told octets and times. Who has sockets carries them
//! ([`Carrier`]): each UDP worker, for its own clients and for those of TCP and of inner look-ups.

mod attempts;
mod encrypted;
mod group;
mod health;
pub mod inflight;
mod metrics;
mod tcp_pool;
#[cfg(test)]
pub mod testing;
mod timer_wheel;
mod trust;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::wire::{QueryChange, Reply};

pub use attempts::{Answered, Attempts, NextStep, Verdict};
pub use group::{Care, Counts, Dropped, Group, Policy, Rules, Shed, Transport, Upstream};
pub use health::{Check, Server, Servers};
pub use inflight::{InFlight, Waiter};
pub use metrics::{Metrics, UpstreamMetrics};
pub use tcp_pool::{Keeping, read_answer};
pub use trust::{Trust, TrustError};

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The most servers that a group may have. A resolv.conf names three, and some that machines write sixteen.
pub const MAX_UPSTREAMS: usize = 32;

/// How long a connection to an upstream may take to be made, TLS included; the time for the answer starts behind it
/// (CoreDNS plugin/forward `tlsConnectTimeout`, half of its `defaultTimeout`).
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(2_500);

/// The longest time that an exchange over a stream takes: a connection that was kept may turn out to be dead just before
/// the time for the answer is over; then a new one is made.
pub fn max_exchange_time(read_timeout: Duration) -> Duration {
    read_timeout.saturating_mul(2) + CONNECT_TIMEOUT + Duration::from_millis(250)
}

/// Why there is no answer. The words are those that CoreDNS's users look for in its log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Every server is down, and *failfast_all_unhealthy_upstreams* is on; or there is none.
    #[error("no healthy proxies")]
    NoHealthy,
    /// *max_concurrent* is reached.
    #[error("concurrent queries exceeded maximum {0}")]
    Limit(usize),
    /// So many queries wait that this one has no place.
    #[error("too many queries wait for upstreams")]
    Full,
    /// No answer came in time.
    #[error("{0}: i/o timeout")]
    Timeout(Arc<str>),
    /// The connection was refused or broke.
    #[error("{0}: {reason}", reason = reason(*.1))]
    Connection(Arc<str>, std::io::ErrorKind),
    /// What came is no message, or answers something else.
    #[error("{0}: malformed answer")]
    Malformed(Arc<str>),
    /// A TLS handshake, an HTTP status or the like.
    #[error("{0}: {1}")]
    Protocol(Arc<str>, String),
    /// The server cannot be asked such a thing.
    #[error("{0}: zone transfers do not go over QUIC")]
    Unsupported(Arc<str>),
    /// Nobody carries queries to upstreams, since the server ends.
    #[error("the server ends")]
    Ending,
}

/// What happened to a connection, in the words of Go, which patterns of *errors* and scripts look for.
fn reason(kind: std::io::ErrorKind) -> String {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        ErrorKind::ConnectionAborted => "software caused connection abort".to_owned(),
        ErrorKind::HostUnreachable => "no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        ErrorKind::NetworkDown => "network is down".to_owned(),
        ErrorKind::AddrNotAvailable => "cannot assign requested address".to_owned(),
        ErrorKind::UnexpectedEof => "EOF".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        // "connection refused", "broken pipe" and others are the same.
        other => other.to_string(),
    }
}

/// An answer, or why there is none.
pub type Outcome = Result<Box<Reply>, Error>;

/// Carries queries that come from no UDP client: those of TCP clients, of inner look-ups and of refreshes.
pub trait Carrier: Send + Sync {
    /// Sends a query of a client, which is a whole packet that was parsed before, on its attempts, with this change.
    fn carry(&self, packet: Box<[u8]>, change: QueryChange, client: IpAddr, attempts: Attempts) -> BoxFuture<Outcome>;
}

/// The carrier of a process: there once the sockets are.
#[derive(Clone, Default)]
pub struct Carriers(Arc<OnceLock<Arc<dyn Carrier>>>);

impl Carriers {
    /// Sets the carrier. The first one stays.
    pub fn set(&self, carrier: Arc<dyn Carrier>) {
        let _ = self.0.set(carrier);
    }

    /// Sends a query on its attempts, see [`Carrier::carry`].
    pub async fn carry(&self, packet: Box<[u8]>, change: QueryChange, client: IpAddr, attempts: Attempts) -> Outcome {
        match self.0.get() {
            Some(carrier) => carrier.carry(packet, change, client, attempts).await,
            None => Err(Error::Ending),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_in_the_words_that_go_has_for_them() {
        let told = |code| Error::Connection("192.0.2.1:53".into(), std::io::Error::from_raw_os_error(code).kind());
        for (code, words) in [
            (nix::libc::ECONNREFUSED, "connection refused"),
            (nix::libc::ECONNRESET, "connection reset by peer"),
            (nix::libc::EHOSTUNREACH, "no route to host"),
            (nix::libc::ENETUNREACH, "network is unreachable"),
            (nix::libc::EPIPE, "broken pipe"),
        ] {
            assert_eq!(told(code).to_string(), format!("192.0.2.1:53: {words}"));
        }
        assert_eq!(Error::Timeout("192.0.2.1:53".into()).to_string(), "192.0.2.1:53: i/o timeout");
    }
}
