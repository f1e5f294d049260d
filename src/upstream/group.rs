//! The servers that a *forward* stanza names, and how they are asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::attempts::Attempts;
use super::{BoxFuture, Carriers, Error};
use crate::wire::Rcode;

/// Numbers of upstreams, by which workers find their sockets.
static NEXT_NUMBER: AtomicU32 = AtomicU32::new(0);

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Plain DNS, over UDP or TCP.
    Dns,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

/// What follows an exchange: counts it, and looks after a server that fails. Implemented where there is a clock and a
/// runtime.
pub trait Care: Send + Sync {
    /// Exchanges a query over a stream: TCP, TLS, HTTPS or QUIC. The answer may take so long once the query was sent; all
    /// together it takes no longer than [`super::max_exchange_time`].
    fn exchange(&self, packet: Vec<u8>, read_timeout: Duration) -> BoxFuture<Result<Vec<u8>, Error>>;

    /// An answer came after so long.
    fn answered(&self, rcode: Rcode, took: Duration);

    /// An exchange failed: health checks begin, unless they have.
    fn failed(&self);

    /// A UDP socket was there already (`true`), or had to be opened.
    fn socket(&self, kept: bool);

    /// A datagram came that is nobody's answer.
    fn dropped(&self, why: Dropped);
}

/// Why a datagram is nobody's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// No query waits that has this ID: it comes too late, or is forged.
    Unknown,
    /// It repeats another question than was asked, or is no answer at all.
    Stranger,
}

/// One server.
pub struct Upstream {
    /// Unique in this process.
    pub number: u32,
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// The address that queries to it come from.
    pub source: Option<std::net::IpAddr>,
    /// How logs and errors name it.
    pub label: Arc<str>,
    /// How many health checks have failed since it last answered one. Written by its health check.
    pub fails: Arc<AtomicU32>,
    /// Who looks after it.
    pub care: Box<dyn Care>,
}

impl Upstream {
    /// A server of which nothing is known yet.
    pub fn new(
        address: SocketAddr, transport: Transport, source: Option<std::net::IpAddr>, fails: Arc<AtomicU32>,
        care: Box<dyn Care>,
    ) -> Upstream {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Upstream { number, address, transport, source, label: address.to_string().into(), fails, care }
    }
}

/// In which order servers are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// Each in its turn first.
    RoundRobin,
    /// As written.
    Sequential,
}

/// How a group is asked. The defaults are CoreDNS's.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The order.
    pub policy: Policy,
    /// Over TCP, whatever the client uses.
    pub force_tcp: bool,
    /// Over UDP first, whatever the client uses, and over TCP what is cut.
    pub prefer_udp: bool,
    /// How long one server may take. 2 s.
    pub read_timeout: Duration,
    /// A server is down after more failed health checks than this; 0 is never. 2.
    pub max_fails: u32,
    /// Failed attempts after which a query ends; 0 is any number. Twice the number of servers where it is `None`.
    pub max_attempts: Option<u32>,
    /// Queries that may wait at once; 0 is any number.
    pub max_concurrent: usize,
    /// Where every server is down, ask none.
    pub failfast: bool,
    /// Codes that make the next server be asked.
    pub failover: Vec<Rcode>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            policy: Policy::Random,
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

/// What a group counts.
pub trait Counts: Send + Sync {
    /// Every server is down.
    fn all_down(&self);
    /// *max_concurrent* was reached.
    fn over_limit(&self);
    /// A query was not sent, or is waited for no more, since too many wait.
    fn shed(&self, why: Shed);
}

/// The limit because of which a query was not sent, or is waited for no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Too many queries were waiting, and it was the oldest one of the client that had the most.
    Evicted,
    /// A worker had too many queries of other workers and transports to begin.
    Full,
    /// The upstream had too many exchanges over streams.
    Exchanges,
}

/// Servers that are asked for the same names.
pub struct Group {
    /// How.
    pub rules: Rules,
    /// Who carries queries that no UDP worker has read.
    pub carriers: Carriers,
    /// What is counted.
    pub counts: Box<dyn Counts>,
    /// The servers, at most [`super::MAX_UPSTREAMS`]. Written when a file that names them changes.
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    /// How many queries wait. Counted only where there is a limit.
    waiting: AtomicUsize,
}

impl Group {
    /// A group of these servers, of which more than [`super::MAX_UPSTREAMS`] are left out.
    pub fn new(mut upstreams: Vec<Arc<Upstream>>, rules: Rules, carriers: Carriers, counts: Box<dyn Counts>) -> Group {
        upstreams.truncate(super::MAX_UPSTREAMS);
        let (upstreams, turn, waiting) = (ArcSwap::from_pointee(upstreams), AtomicUsize::new(0), AtomicUsize::new(0));
        Group { rules, carriers, counts, upstreams, turn, waiting }
    }

    /// The servers now.
    pub fn upstreams(&self) -> Arc<Vec<Arc<Upstream>>> {
        self.upstreams.load_full()
    }

    /// Asks others from now on.
    pub fn replace(&self, mut upstreams: Vec<Arc<Upstream>>) {
        upstreams.truncate(super::MAX_UPSTREAMS);
        self.upstreams.store(Arc::new(upstreams));
    }

    /// Starts a query. `stream`: its client uses a stream, and so do we unless the rules say otherwise.
    pub fn begin(self: &Arc<Self>, stream: bool, now: Instant) -> Result<Attempts, Error> {
        let limit = self.rules.max_concurrent;
        if limit > 0 && self.waiting.fetch_add(1, Ordering::Relaxed) >= limit {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.over_limit();
            return Err(Error::Limit(limit));
        }
        let upstreams = self.upstreams();
        let order = self.order(upstreams.len());
        Ok(Attempts::new(self.clone(), upstreams, order, stream, now))
    }

    /// Ends a query that was begun.
    pub(super) fn end(&self) {
        if self.rules.max_concurrent > 0 {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The order in which so many servers are asked.
    fn order(&self, len: usize) -> [u8; super::MAX_UPSTREAMS] {
        let mut order = std::array::from_fn(|at| at as u8);
        match self.rules.policy {
            Policy::Sequential => {}
            Policy::Random => fastrand::shuffle(&mut order[..len]),
            Policy::RoundRobin if len > 1 => {
                // The one whose turn it is goes first, the others stay as they are (CoreDNS `roundRobin.List`).
                let first = self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1) % len;
                order[..=first].rotate_right(1);
            }
            Policy::RoundRobin => {}
        }
        order
    }
}
