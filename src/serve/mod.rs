//! Sockets: from a packet off the wire to its answer on the wire.
//!
//! ```text
//!  ListenSpec ─ bind ─┬─► UDP: one thread a core, each with its own socket of each listener ─┐
//!                     ├─► TCP, TLS: an accept loop a listener, a task a connection ──────────┼─► Router::answer
//!                     └─► HTTPS, QUIC, HTTP/3: likewise, and a task a request ───────────────┤
//!                                                                     late answers on tokio ◄┘
//! ```
//!
//! What is served at a listener is a [`Service`], whose router can be replaced between two queries.

mod bind;
mod counts;
pub mod framing;
pub mod http;
mod pending;
mod quic;
mod request;
mod shares;
mod statuses;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::chain::{Client, Router};
use crate::net::Credentials;
use crate::upstream::Carriers;
use bind::Wish;
use counts::Counters;
use pending::{PendingLimit, PendingPermit};
use request::Room;
use statuses::Replies;
use tcp::accept::Acceptor;
use tcp::limits::{Connections, descriptor_limit};
use udp::forward::Forwarding;
use udp::mailbox::{Job, Mailbox, Workers};
use udp::worker::UdpWorker;

pub use bind::ServeError;
pub use counts::Counts;
pub use tcp::limits::TcpLimits;

/// How queries come to a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Over UDP and TCP.
    #[default]
    Dns,
    /// Over TLS (RFC 7858).
    Tls,
    /// Over HTTPS (RFC 8484).
    Https,
    /// Over QUIC (RFC 9250).
    Quic,
    /// Over HTTP/3.
    Https3,
}

impl Kind {
    /// The protocols of the socket layer that it takes a port of.
    pub const fn takes(self) -> (bool, bool) {
        let (mut udp, mut tcp) = (true, true);
        match self {
            Kind::Dns => {}
            Kind::Tls | Kind::Https => udp = false,
            Kind::Quic | Kind::Https3 => tcp = false,
        }
        (udp, tcp)
    }

    /// The names of its protocols in a handshake (RFC 7301); none where it takes any.
    pub const fn protocols(self) -> &'static [&'static str] {
        match self {
            Kind::Dns | Kind::Tls => &[],
            Kind::Https => &["h2", "http/1.1"],
            Kind::Quic => &["doq"],
            Kind::Https3 => &["h3"],
        }
    }
}

/// What is served at one listener.
pub struct Service {
    kind: Kind,
    /// Who answers. Written by a reload; read once for each batch and each read of a connection.
    router: ArcSwap<Router>,
    /// How. Written by a reload; read when a connection starts, or a plugin panics.
    settings: ArcSwap<Settings>,
    /// Who we are to clients of an encrypted transport. Written by a reload, read when a connection starts.
    credentials: ArcSwapOption<Credentials>,
    /// How requests of HTTP and streams of QUIC ended.
    replies: Replies,
}

impl Service {
    /// A service of UDP and TCP with these router.
    pub fn new(router: Arc<Router>, settings: Settings) -> Arc<Service> {
        Service::of(Kind::Dns, router, settings, None)
    }

    /// A service of a transport. QUIC cannot be without credentials; others are plain then.
    pub fn of(
        kind: Kind, router: Arc<Router>, settings: Settings, credentials: Option<Arc<Credentials>>,
    ) -> Arc<Service> {
        Arc::new(Service {
            kind,
            router: ArcSwap::new(router),
            settings: ArcSwap::from_pointee(settings),
            credentials: ArcSwapOption::new(credentials),
            replies: Replies::of(kind),
        })
    }

    /// Answers by other router from the next batch on. Queries that wait end by those that they came to, and
    /// connections go on as they began.
    pub fn replace(&self, router: Arc<Router>, settings: Settings, credentials: Option<Arc<Credentials>>) {
        self.credentials.store(credentials);
        self.settings.store(Arc::new(settings));
        self.router.store(router);
    }

    /// How often requests of HTTP ended with each status, streams of QUIC with each code; as CoreDNS writes those.
    pub fn replies(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.replies.counts()
    }

    /// The credentials now.
    fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.load_full()
    }

    /// The router now.
    fn router(&self) -> Guard<Arc<Router>> {
        self.router.load()
    }

    /// The settings now.
    fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What directives say of a listener's transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a TCP client may take.
    pub timeouts: Timeouts,
    /// How many queries a TCP connection may bring before it is closed, so that long-lived ones spread over replicas;
    /// nothing for any number (CoreDNS's −1).
    pub queries_per_connection: Option<NonZeroU32>,
    /// Answer SERVFAIL where a plugin panics. Where not (*debug*), the process ends.
    pub recover: bool,
    /// Connections to a listener of HTTPS, QUIC or HTTP/3. 200.
    pub connections: usize,
    /// Requests that one of these may have open; as many as the library takes, without.
    pub streams: Option<u32>,
    /// Queries that a listener of QUIC answers at once; more wait.
    pub at_once: Option<u32>,
}

impl Settings {
    /// The defaults.
    pub const DEFAULT: Settings = Settings {
        timeouts: Timeouts::DEFAULT,
        queries_per_connection: None,
        recover: true,
        connections: 200,
        streams: Some(250),
        at_once: None,
    };
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::DEFAULT
    }
}

/// How long a TCP client may take; the defaults are CoreDNS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the first query, and for the rest of a query whose first octet has come. 3 s.
    pub read: Duration,
    /// To take what it is sent. 5 s.
    pub write: Duration,
    /// Between an answer and the next query. 10 s.
    pub idle: Duration,
}

impl Timeouts {
    /// The defaults.
    pub const DEFAULT: Timeouts =
        Timeouts { read: Duration::from_secs(3), write: Duration::from_secs(5), idle: Duration::from_secs(10) };
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// Where. An unspecified address of either family means every address of both families, as in Go, or IPv4 alone
    /// where the kernel has no IPv6. Port 0 means any port, the same for UDP and TCP.
    pub address: SocketAddr,
    /// What is served there.
    pub service: Arc<Service>,
}

/// How UDP packets find a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By the addresses and ports of both sides: a client's queries from one port meet in one worker.
    Flow,
    /// At random, so that few flows, too, keep all workers busy.
    Random,
}

/// What is the same for all listeners of a server.
#[derive(Clone)]
pub struct Options {
    /// Where TCP and late answers run. It needs its I/O and time drivers.
    pub runtime: Handle,
    /// How many UDP workers; by default as many as there are cores to run on, or sockets where those are fewer.
    pub workers: Option<NonZeroUsize>,
    /// How many UDP sockets each listener has, at least one for each worker, which is the default. A worker serves
    /// several when there are more.
    pub sockets: Option<NonZeroUsize>,
    /// How UDP packets find a worker.
    pub spread: Spread,
    /// Set to what carries queries to other servers for those who are no UDP clients.
    pub carriers: Carriers,
    /// How many queries of each UDP worker may wait for other servers; some 700 octets each, when they do. 8,192.
    pub forwarded: usize,
    /// How many other queries may be pending over all listeners and transports. For a query over the limit the client
    /// with the most of them loses its oldest one, which is answered at once, as its directive says. 4,096.
    pub waiting: usize,
    /// The octets that each UDP socket may hold unread; the kernel grants up to `net.core.rmem_max`. 4 MiB.
    pub receive_buffer: usize,
    /// Limits on TCP connections.
    pub tcp: TcpLimits,
    /// How many descriptors the process may have open, from which the limits on connections are derived; by default its
    /// soft limit.
    pub descriptors: Option<usize>,
    /// Another process of this user may have the same port, and the kernel spreads queries over both. Otherwise a port
    /// in use is an error.
    pub share_port: bool,
}

impl Options {
    /// The defaults.
    pub fn new(runtime: Handle) -> Options {
        Options {
            runtime,
            workers: None,
            sockets: None,
            spread: Spread::Flow,
            carriers: Carriers::default(),
            forwarded: 8_192,
            waiting: 4_096,
            receive_buffer: 4 << 20,
            tcp: TcpLimits::default(),
            descriptors: None,
            share_port: false,
        }
    }
}

impl Options {
    /// How many workers to start.
    fn workers(&self) -> usize {
        let workers = self.workers.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        match (self.workers, self.sockets) {
            (None, Some(sockets)) => workers.min(sockets.get()),
            _ => workers,
        }
    }

    /// How many UDP sockets each listener has. Every worker has one of each listener, so that it can answer the queries
    /// that other workers hand over.
    fn sockets(&self) -> usize {
        self.workers().max(self.sockets.map_or(0, NonZeroUsize::get))
    }
}

/// What workers and connections have in common.
struct Shared {
    /// Where late answers run.
    runtime: Handle,
    /// The limit on pending queries that are in no worker's in-flight table.
    pending: Arc<PendingLimit>,
    /// Workers read no new queries. Written once, by [`Server::stop`].
    stopping: AtomicBool,
    /// How many workers have read all that had come when they were told to stop.
    drained: AtomicUsize,
    /// Workers end. Written once, likewise.
    ended: AtomicBool,
    /// Which worker has a query on its way to another server.
    flights: udp::forward::Flights,
    /// What others have for a worker.
    mailboxes: Vec<Arc<Mailbox>>,
    /// What tokio's side has counted, TCP and late answers.
    counters: Counters,
}

impl Shared {
    /// Takes a permit for a pending query of a client, within a limit of the listener's own, too, if there is one.
    /// Another query may lose its permit for it, which `counters` count.
    fn permit(&self, client: Client, own: Option<&Arc<PendingLimit>>, counters: &Counters) -> PendingPermit {
        let (permit, revoked) = PendingPermit::acquire(client.remote.ip(), [Some(&self.pending), own]);
        counters.overloads.add(revoked);
        permit
    }

    /// The workers' mailboxes, in their order.
    fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pending", &self.pending.held()).finish_non_exhaustive()
    }
}

/// How far TCP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It serves.
    Serving,
    /// It answers what it has read, and closes.
    Ending,
    /// It closes.
    Ended,
}

/// How long a client's next query is waited for when the server stops: the connection is closed behind the answer to
/// it, when the client is least likely to be sending. A query that crosses the end of a connection is lost (E01). Tests
/// run on machines that are busy.
const LEAVE_TIME: Duration = Duration::from_millis(if cfg!(test) { 1_500 } else { 250 });

/// A server at work. Dropping it stops it without waiting.
pub struct Server {
    options: Options,
    /// Listeners by number, those included that have been closed and are not at their end.
    listeners: BTreeMap<usize, Listening>,
    /// The next listener's number.
    next: usize,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    counters: Vec<Arc<Counters>>,
    /// All client connections.
    connections: Arc<Connections>,
    /// Who accepts those of DNS over TCP and TLS.
    tcp: Arc<Acceptor>,
    /// Who accepts those of HTTPS, QUIC and HTTP/3, by listener.
    others: Vec<Arc<Acceptor>>,
    /// What encrypted transports may hold of queries and answers.
    room: Arc<Room>,
}

/// What encrypted transports may hold of queries and answers that are on their way, in octets.
const ROOM: usize = 64 << 20;

/// What a new listener finds at its address, in the order in which listeners are bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    /// Nothing.
    Nothing,
    /// A listener whose end has to be waited for.
    Closing,
    /// A listener with an address that overlaps. Both may be open at once, as during a reload that goes from one
    /// address to every address.
    Overlapping,
}

/// A listener.
struct Listening {
    /// With its real port.
    address: SocketAddr,
    kind: Kind,
    /// At least one for each worker, as long as they are open.
    sockets: Vec<Weak<UdpSocket>>,
    /// It is served no more.
    closed: bool,
    /// How far its TCP side is.
    phase: watch::Sender<Phase>,
}

/// How long a listener that was closed may be in the way of another at its port: as long as other servers are waited
/// for.
const MOST_CLOSING: Duration = Duration::from_secs(7);

impl Listening {
    /// Whether it was closed and nothing is left of it: no socket, nobody who accepts connections, and none of those.
    fn is_over(&self) -> bool {
        self.closed && self.phase.receiver_count() == 0 && self.sockets.iter().all(|socket| socket.strong_count() == 0)
    }
}

/// The sockets of a listener, and what is served there.
struct Prepared {
    address: SocketAddr,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Option<tokio::net::TcpListener>,
    quic: Option<quinn::Endpoint>,
    service: Arc<Service>,
}

impl Server {
    /// Binds every listener and starts to serve; all or nothing.
    pub fn start(specs: Vec<ListenSpec>, options: Options) -> Result<Server, ServeError> {
        let workers = if specs.is_empty() { 0 } else { options.workers() };
        let mailboxes = (0..workers).map(|_| Mailbox::new()).collect::<Result<Vec<_>, _>>();
        let mailboxes = mailboxes.map_err(|source| ServeError::Worker { worker: 0, source })?;
        options.carriers.set(Arc::new(Workers { mailboxes: mailboxes.clone(), turn: AtomicUsize::new(0) }));
        let shared = Arc::new(Shared {
            runtime: options.runtime.clone(),
            pending: PendingLimit::new(options.waiting),
            stopping: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            flights: udp::forward::Flights::default(),
            mailboxes,
            counters: Counters::default(),
        });
        let room = Room::new(ROOM, None);
        let connections = Connections::new(options.tcp);
        let tcp = Arc::new(Acceptor::new(connections.clone(), shared.clone(), room.clone()));
        let mut server = Server {
            options,
            listeners: BTreeMap::new(),
            next: 0,
            shared,
            workers: Vec::new(),
            counters: Vec::new(),
            connections,
            tcp,
            others: Vec::new(),
            room,
        };
        let prepared = server.prepare(&specs)?;
        let hasher = foldhash::fast::RandomState::default();
        for worker in 0..workers {
            let counters = Arc::new(Counters::default());
            server.counters.push(counters.clone());
            let mailbox = server.shared.mailboxes[worker].clone();
            let forwarding = Forwarding::new(worker, workers > 1, server.options.forwarded, mailbox, hasher.clone());
            let thread = UdpWorker::new(server.shared.clone(), counters, forwarding)
                .and_then(|udp| std::thread::Builder::new().name(format!("udp-{worker}")).spawn(move || udp.run()));
            server.workers.push(thread.map_err(|source| ServeError::Worker { worker, source })?);
        }
        server.listen(prepared);
        tracing::debug!(addresses = ?server.local_addresses(), workers, "serving");
        Ok(server)
    }

    /// Binds more listeners and serves them, all or none; gives the number of the first.
    pub fn open(&mut self, specs: &[ListenSpec]) -> Result<usize, ServeError> {
        self.listeners.retain(|_, listening| !listening.is_over());
        let prepared = self.prepare(specs)?;
        let first = self.next;
        self.listen(prepared);
        Ok(first)
    }

    /// Closes a listener, once what has come is answered. Its number is not given again.
    pub fn close(&mut self, listener: usize) {
        let Some(listening) = self.listeners.get_mut(&listener) else { return };
        listening.phase.send_replace(Phase::Ending);
        if !std::mem::replace(&mut listening.closed, true) && !listening.sockets.is_empty() {
            self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Close(listener)));
        }
    }

    /// Binds sockets.
    fn prepare(&self, specs: &[ListenSpec]) -> Result<Vec<Prepared>, ServeError> {
        // Sockets of tokio and quinn are made within a runtime.
        let _inside = self.options.runtime.enter();
        let mut order: Vec<usize> = (0..specs.len()).collect();
        // Those last that take queries from a listener at work: if another cannot be bound, they have not.
        order.sort_by_key(|&index| self.obstacle(&specs[index]));
        let mut prepared: Vec<(usize, Prepared)> = Vec::new();
        for index in order {
            let spec = &specs[index];
            let mut others = specs.iter().enumerate().filter(|&(other, _)| other != index);
            let at = |spec: &ListenSpec| (spec.address, spec.service.kind);
            let shared = others.any(|(_, other)| overlap(at(spec), at(other)));
            prepared.push((index, self.prepare_one(spec, shared)?));
        }
        prepared.sort_by_key(|(index, _)| *index);
        Ok(prepared.into_iter().map(|(_, prepared)| prepared).collect())
    }

    /// Binds the sockets of one listener. `shared`: another one that is bound with it has an address that overlaps.
    fn prepare_one(&self, spec: &ListenSpec, shared: bool) -> Result<Prepared, ServeError> {
        let Options { share_port, receive_buffer, spread, .. } = &self.options;
        let kind = spec.service.kind;
        let (udp, tcp) = kind.takes();
        let sockets = match (kind, udp) {
            (Kind::Dns, _) => self.options.sockets(),
            (_, udp) => usize::from(udp),
        };
        let shared = shared || *share_port || self.obstacle(spec) == Obstacle::Overlapping;
        let wish = Wish { address: spec.address, sockets, tcp, receive_buffer: *receive_buffer, shared };
        let bound = self.bind(&wish)?;
        let address = bound.address;
        let mut prepared = Prepared { address, udp: Vec::new(), tcp: None, quic: None, service: spec.service.clone() };
        if let Some(listener) = bound.tcp {
            let listener = tokio::net::TcpListener::from_std(listener);
            let failed = |source| ServeError::Listen { transport: "tcp", address, source };
            prepared.tcp = Some(listener.map_err(failed)?);
        }
        if kind == Kind::Dns {
            if *spread == Spread::Random
                && let Err(error) = bind::spread_at_random(&bound.udp)
            {
                tracing::warn!(%address, %error, "UDP packets are spread over workers by flow, not at random");
            }
            prepared.udp = bound.udp.into_iter().map(Arc::new).collect();
        } else if let Some(socket) = bound.udp.into_iter().next() {
            let failed = |source| ServeError::Listen { transport: "udp", address, source };
            prepared.quic = Some(quic::endpoint::endpoint(socket).map_err(failed)?);
        }
        Ok(prepared)
    }

    /// What of this server a new listener finds at its address.
    fn obstacle(&self, spec: &ListenSpec) -> Obstacle {
        let at = (spec.address, spec.service.kind);
        let others = self.listeners.values();
        let others = others.filter(|other| !other.is_over() && overlap(at, (other.address, other.kind)));
        // The kernel gives packets to all sockets of an address in turn. Those of UDP workers refuse them once they are
        // closed; the end of a QUIC endpoint has to be waited for.
        let is_waited_for = |listening: &Listening| {
            let is_quic = matches!(listening.kind, Kind::Quic | Kind::Https3);
            listening.closed && is_quic && listening.address.ip() == spec.address.ip()
        };
        let obstacles = others.map(|listening| match is_waited_for(listening) {
            true => Obstacle::Closing,
            false => Obstacle::Overlapping,
        });
        obstacles.min().unwrap_or(Obstacle::Nothing)
    }

    /// Binds one listener. Where another of this server has just been closed at that port, its end is waited for.
    fn bind(&self, wish: &Wish) -> Result<bind::Bound, ServeError> {
        let deadline = Instant::now() + MOST_CLOSING;
        loop {
            let is_closing = |listening: &Listening| {
                listening.closed && listening.address.port() == wish.address.port() && !listening.is_over()
            };
            // Looked at before: what ends in between may be in the way of the attempt.
            let may_end = self.listeners.values().any(is_closing);
            match bind::bind(wish) {
                Err(ServeError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse && may_end && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                bound => return bound,
            }
        }
    }

    /// Gives sockets to those who serve them.
    fn listen(&mut self, prepared: Vec<Prepared>) {
        // Now that the descriptors of all listeners are open.
        self.connections.fit(self.options.tcp, self.options.descriptors.unwrap_or_else(descriptor_limit));
        for Prepared { address, udp, tcp, quic, service } in prepared {
            let number = self.next;
            self.next += 1;
            let sockets = udp.iter().map(Arc::downgrade).collect();
            let workers = self.shared.mailboxes.len();
            for (worker, mailbox) in self.shared.mailboxes.iter().enumerate() {
                let mut own = udp.iter().skip(worker).step_by(workers).cloned();
                // A listener of QUIC has none.
                let Some(socket) = own.next() else { break };
                let (more, service) = (own.collect(), service.clone());
                mailbox.send(Job::Open(number, udp::worker::Listener { socket, more, address, service }));
            }
            let phase = watch::Sender::new(Phase::Serving);
            let kind = service.kind;
            let acceptor = self.acceptor_of(kind);
            if let Some(listener) = tcp {
                acceptor.serve(listener, service.clone(), phase.subscribe());
            }
            if let Some(endpoint) = quic {
                acceptor.begun();
                let serving = quic::endpoint::serve(endpoint, address, service, acceptor, phase.subscribe());
                self.shared.runtime.spawn(serving);
            }
            self.listeners.insert(number, Listening { address, kind, sockets, closed: false, phase });
        }
    }

    /// Who accepts the connections of a new listener.
    fn acceptor_of(&mut self, kind: Kind) -> Arc<Acceptor> {
        if matches!(kind, Kind::Dns | Kind::Tls) {
            return self.tcp.clone();
        }
        let acceptor = Arc::new(Acceptor::new(self.connections.clone(), self.shared.clone(), self.room.clone()));
        // Those of closed listeners are gone with their last connection.
        self.others.retain(|other| other.busy());
        self.others.push(acceptor.clone());
        acceptor
    }

    /// Where it listens, with real ports, in the order of the listeners.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let open = self.listeners.values().filter(|listening| !listening.closed);
        open.map(|listening| listening.address).collect()
    }

    /// Where a listener is, with its real port.
    pub fn local_address(&self, listener: usize) -> Option<SocketAddr> {
        self.listeners.get(&listener).map(|listening| listening.address)
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        self.counter()()
    }

    /// What says how much has been counted so far, for somebody who does not hold the server.
    pub fn counter(&self) -> impl Fn() -> Counts + Send + Sync + 'static + use<> {
        let (counters, shared) = (self.counters.clone(), self.shared.clone());
        move || {
            let mut counts = Counts::default();
            counters.iter().for_each(|counters| counts.add(counters));
            counts.add(&shared.counters);
            counts
        }
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> usize {
        self.acceptors().map(|acceptor| acceptor.open()).sum()
    }

    fn acceptors(&self) -> impl Iterator<Item = &Arc<Acceptor>> {
        std::iter::once(&self.tcp).chain(&self.others)
    }

    /// How many answers wait, those of other servers included.
    pub fn waiting(&self) -> usize {
        let forwarded = self.shared.mailboxes.iter().map(|mailbox| mailbox.waiting.load(Ordering::Relaxed));
        self.shared.pending.held() + forwarded.sum::<usize>()
    }

    /// Takes nothing new, answers what has come, and ends; what has not ended after `grace` is cut off. It blocks.
    ///
    /// UDP is answered until all else has ended: who asks does not know of the end, and nobody else would answer.
    pub fn stop(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.enter(Phase::Ending);
        let is_busy = || self.acceptors().any(|acceptor| acceptor.busy());
        while is_busy() && Instant::now() < deadline - grace / 4 {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.end_reading();
        let has_drained = || self.shared.drained.load(Ordering::Acquire) == self.workers.len();
        while (!has_drained() || self.waiting() > 0 || is_busy()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.enter(Phase::Ended);
        self.end_workers();
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a UDP worker had ended before");
            }
        }
        tracing::debug!(waiting = self.waiting(), connections = self.open_connections(), "stopped");
    }

    /// Tells TCP how far the end is.
    fn enter(&self, phase: Phase) {
        for listening in self.listeners.values() {
            listening.phase.send_replace(phase);
        }
    }

    /// Tells the workers to read no more than has come.
    fn end_reading(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Wake));
    }

    /// Tells the workers to end.
    fn end_workers(&self) {
        self.end_reading();
        self.shared.ended.store(true, Ordering::Release);
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Wake));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_workers();
        self.enter(Phase::Ended);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.local_addresses()).finish_non_exhaustive()
    }
}

/// Whether two listeners share addresses, port and protocol.
fn overlap((a, kind): (SocketAddr, Kind), (b, other): (SocketAddr, Kind)) -> bool {
    let ((udp, tcp), (other_udp, other_tcp)) = (kind.takes(), other.takes());
    a.port() != 0
        && a.port() == b.port()
        && (udp && other_udp || tcp && other_tcp)
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
