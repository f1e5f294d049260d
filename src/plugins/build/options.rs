//! What the directives of a block say about its listeners and about the process.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use crate::corefile::Scheme;
use crate::net::{ProxyRules, TlsFiles};

/// The options of a block. What no directive mentions keeps the server's default.
#[derive(Clone, Debug, Default)]
pub struct BlockOptions {
    /// The certificate of the encrypted listeners.
    pub tls: Option<TlsFiles>,
    /// The timeouts of TCP connections.
    pub timeouts: Option<TimeoutOptions>,
    /// The rules for headers of the PROXY protocol.
    pub proxy: Option<ProxyRules>,
    /// The limits of encrypted listeners.
    pub limits: BTreeMap<Scheme, ListenerLimits>,
    /// Some plugin answers classes other than IN.
    pub answers_other_classes: bool,
    /// The number of UDP sockets of each address.
    pub sockets: Option<NonZeroUsize>,
    /// How often the Corefile is checked for changes.
    pub reload: Option<ReloadTiming>,
    /// Lines of level debug are logged, and a panic of a plugin ends the process.
    pub is_debug: bool,
    /// The name of the view, if the block selects its queries ([`crate::chain::Filter`]).
    pub view: Option<String>,
    /// How long the server continues to answer after the order to end.
    pub lameduck: Duration,
}

/// The timeouts and limits of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeoutOptions {
    /// The time until the first query is complete.
    pub read: Option<Duration>,
    /// The time until a response is written.
    pub write: Option<Duration>,
    /// The time between a response and the next query.
    pub idle: Option<Duration>,
    /// The number of queries of a connection; `Some(None)` for no limit.
    pub queries: Option<Option<NonZeroU32>>,
}

/// The limits of an encrypted listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerLimits {
    /// The number of open connections; 0 for no limit.
    pub connections: Option<u32>,
    /// The number of open streams of a connection; 0 for no limit.
    pub streams: Option<u32>,
    /// The number of queries that are answered at the same time.
    pub at_once: Option<u32>,
}

/// How often the Corefile is checked for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadTiming {
    /// The mean time between two checks.
    pub interval: Duration,
    /// The range of the interval, half of it above and half below; at most half of the interval.
    pub jitter: Duration,
}

impl ReloadTiming {
    /// Returns the delay until the next check; `random` is from 0 to 1.
    pub fn delay(&self, random: f64) -> Duration {
        (self.interval + self.jitter.mul_f64(random)).saturating_sub(self.jitter / 2)
    }
}
