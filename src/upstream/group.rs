//! The upstreams of a *forward* stanza, and the rules by which they are queried.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::permits::Permits;
use super::{BoxFuture, Dispatcher, Error};
use crate::wire::Rcode;

/// The next number of an upstream. Workers find their sockets by it.
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// The protocol that an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamTransport {
    /// Plain DNS, over UDP or TCP.
    Dns,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl UpstreamTransport {
    /// Returns the name for people.
    pub const fn name(self) -> &'static str {
        match self {
            UpstreamTransport::Dns => "DNS",
            UpstreamTransport::Tls => "DNS over TLS",
            UpstreamTransport::Https => "DNS over HTTPS",
            UpstreamTransport::Quic => "DNS over QUIC",
        }
    }
}

/// The side of an upstream that needs a clock and a runtime: exchanges over streams, health checks and metrics.
pub trait UpstreamDriver: Send + Sync {
    /// Exchanges a query of a client over a stream: TCP, TLS, HTTPS or QUIC. `read_timeout` starts when the query is
    /// sent; in all it takes no longer than [`super::max_exchange_time`].
    fn exchange(&self, packet: Vec<u8>, client: IpAddr, read_timeout: Duration) -> BoxFuture<Result<Vec<u8>, Error>>;

    /// Records an answer and the time since its query was sent.
    fn record_answer(&self, rcode: Rcode, took: Duration);

    /// Records that an attempt failed. Starts health checks, unless they are running.
    fn record_failure(&self);

    /// Returns whether the upstream has answered a query since this program started.
    fn has_answered(&self) -> bool;

    /// Records that a query used a UDP socket that was open already (`true`), or a new one.
    fn record_socket(&self, reused: bool);

    /// Records a datagram that answers no query in flight.
    fn record_dropped(&self, reason: DropReason);
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No query in flight has its ID: it is late, or forged.
    NoQuery,
    /// It has another question than the query with its ID, or is no response.
    OtherQuestion,
}

/// One upstream.
pub struct Upstream {
    /// Unique in this process.
    pub number: u32,
    /// Its address.
    pub address: SocketAddr,
    /// Its protocol.
    pub transport: UpstreamTransport,
    /// The local address of connections to it.
    pub source: Option<IpAddr>,
    /// Its address in logs and errors.
    pub label: Arc<str>,
    /// The number of health checks that failed since the last successful one. Written by the health check.
    pub fails: Arc<AtomicU32>,
    /// Its exchanges over streams, health checks and metrics.
    pub driver: Box<dyn UpstreamDriver>,
}

impl Upstream {
    /// Creates an upstream. `fails` is what its health check writes.
    pub fn new(
        address: SocketAddr, transport: UpstreamTransport, source: Option<IpAddr>, fails: Arc<AtomicU32>,
        driver: Box<dyn UpstreamDriver>,
    ) -> Upstream {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Upstream { number, address, transport, source, label: address.to_string().into(), fails, driver }
    }
}

/// The order in which upstreams are queried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamPolicy {
    /// A random order for each query.
    #[default]
    Random,
    /// Each upstream is first in its turn.
    RoundRobin,
    /// The order of the configuration.
    Sequential,
}

impl UpstreamPolicy {
    /// Returns the word of a Corefile.
    pub const fn name(self) -> &'static str {
        match self {
            UpstreamPolicy::Random => "random",
            UpstreamPolicy::RoundRobin => "round_robin",
            UpstreamPolicy::Sequential => "sequential",
        }
    }

    /// Returns the order in which `len` upstreams are queried. `turn` counts the queries.
    pub fn order(self, len: usize, turn: &AtomicUsize) -> [u8; super::MAX_UPSTREAMS] {
        let mut order = std::array::from_fn(|at| at as u8);
        match self {
            UpstreamPolicy::Sequential => {}
            UpstreamPolicy::Random => fastrand::shuffle(&mut order[..len]),
            UpstreamPolicy::RoundRobin if len > 1 => {
                // One moves to the front in its turn, the others keep their order (CoreDNS `roundRobin.List`).
                let first = turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1) % len;
                order[..=first].rotate_right(1);
            }
            UpstreamPolicy::RoundRobin => {}
        }
        order
    }
}

/// How the upstreams of a group are queried. The defaults are CoreDNS's.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRules {
    /// The order of upstreams.
    pub policy: UpstreamPolicy,
    /// Plain DNS goes over TCP, whatever the client uses.
    pub force_tcp: bool,
    /// Plain DNS goes over UDP, whatever the client uses, and again over TCP when the answer is truncated.
    pub prefer_udp: bool,
    /// The time that an attempt has for an answer. 2 s.
    pub read_timeout: Duration,
    /// An upstream is down after more failed health checks than this; 0 is never. 2.
    pub max_fails: u32,
    /// The number of failed attempts with which a query fails; 0 is no limit. `None` is twice the number of upstreams.
    pub max_attempts: Option<u32>,
    /// The most queries of this group in flight, with those that wait for an identical one; 0 is no limit.
    pub max_concurrent: usize,
    /// Queries fail at once when every upstream is down.
    pub failfast: bool,
    /// Response codes with which the next upstream is queried.
    pub failover: Vec<Rcode>,
}

impl Default for GroupRules {
    fn default() -> GroupRules {
        GroupRules {
            policy: UpstreamPolicy::Random,
            force_tcp: false,
            prefer_udp: false,
            read_timeout: Duration::from_secs(2),
            max_fails: 2,
            max_attempts: None,
            max_concurrent: 0,
            failfast: false,
            failover: Vec::new(),
        }
    }
}

/// The counters of groups.
pub trait GroupCounters: Send + Sync {
    /// Counts a query for which every upstream was down.
    fn record_all_down(&self);

    /// Counts a query that *max_concurrent* refused, or that was evicted for another client's.
    fn record_over_limit(&self);

    /// Counts a query that was not sent, or was evicted, because of another limit.
    fn record_shed(&self, reason: ShedReason);
}

/// The limit because of which a query was not sent, or was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedReason {
    /// A worker had too many waiting clients, and this was the oldest query of the client with the most.
    Evicted,
    /// Too many queries of other workers and transports were waiting for a worker.
    Full,
    /// Too many exchanges over streams were running at the upstream.
    Exchanges,
}

/// The upstreams of a stanza.
pub struct Group {
    /// How they are queried.
    pub rules: GroupRules,
    /// Sends queries that no UDP worker has read.
    pub dispatcher: Dispatcher,
    /// The counters.
    pub counters: Box<dyn GroupCounters>,
    /// At most [`super::MAX_UPSTREAMS`]. Written when a file that names them changes.
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    /// The number of turns, for [`UpstreamPolicy::RoundRobin`].
    turn: AtomicUsize,
    /// The permits of [`GroupRules::max_concurrent`].
    pub(super) permits: Option<Permits>,
}

impl Group {
    /// Creates a group. Upstreams over [`super::MAX_UPSTREAMS`] are ignored.
    pub fn new(
        mut upstreams: Vec<Arc<Upstream>>, rules: GroupRules, dispatcher: Dispatcher, counters: Box<dyn GroupCounters>,
    ) -> Group {
        upstreams.truncate(super::MAX_UPSTREAMS);
        let permits = Permits::new(rules.max_concurrent);
        Group {
            rules,
            dispatcher,
            counters,
            upstreams: ArcSwap::from_pointee(upstreams),
            turn: AtomicUsize::new(0),
            permits,
        }
    }

    /// Returns the current upstreams.
    pub fn upstreams(&self) -> Arc<Vec<Arc<Upstream>>> {
        self.upstreams.load_full()
    }

    /// Replaces the upstreams for queries that start from now on.
    pub fn replace(&self, mut upstreams: Vec<Arc<Upstream>>) {
        upstreams.truncate(super::MAX_UPSTREAMS);
        self.upstreams.store(Arc::new(upstreams));
    }

    /// Counts a query over the limit, and returns its error.
    pub fn refuse(&self) -> Error {
        self.counters.record_over_limit();
        Error::Limit(self.rules.max_concurrent)
    }

    /// Returns the order in which `len` upstreams are queried.
    pub(super) fn order(&self, len: usize) -> [u8; super::MAX_UPSTREAMS] {
        self.rules.policy.order(len, &self.turn)
    }
}
