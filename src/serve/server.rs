//! A server: it binds listeners, starts workers and accept loops, and stops them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::bind::{self, WantedSockets};
use super::counts::{Counters, ServerCounts};
use super::pending::PendingLimit;
use super::quic::endpoint::{self, QuicEndpoint};
use super::shared::QueryOwners;
use super::tcp::acceptor::Acceptor;
use super::tcp::limits::{Connections, TcpLimits};
use super::udp::forward::Forwarding;
use super::udp::listener::UdpListener;
use super::udp::mailbox::{Job, Mailbox, Workers};
use super::udp::worker::UdpWorker;
use super::{ListenerKind, ListenerPhase, Ports, ServeError, Service, Shared};
use crate::net::descriptor_limit;
use crate::net::memory::{self, MemoryLimit};
use crate::upstream::Dispatcher;

/// The address and the service of a listener.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// The address. The unspecified address of either family means all addresses of both families, as in Go, or those
    /// of IPv4 only if the kernel has no IPv6. Port 0 means any port, the same for UDP and TCP.
    pub address: SocketAddr,
    /// The service.
    pub service: Arc<Service>,
}

/// How UDP packets are distributed over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By the addresses and ports of both sides: queries from one port of a client reach the same worker.
    Flow,
    /// At random, so that all workers are used even if there are few flows.
    Random,
}

/// The options of a server, which apply to all its listeners.
#[derive(Clone)]
pub struct ServerOptions {
    /// The runtime for connections and pending queries, with I/O and time drivers.
    pub runtime: Handle,
    /// The number of UDP workers. Default: the number of available cores, or of sockets if there are fewer.
    pub workers: Option<NonZeroUsize>,
    /// The number of UDP sockets of each listener, at least one for each worker, which is the default. With more, a
    /// worker serves several.
    pub sockets: Option<NonZeroUsize>,
    /// How UDP packets are distributed over workers.
    pub spread: Spread,
    /// Set to the workers when the server starts: they send the upstream queries of clients of other transports.
    pub dispatcher: Dispatcher,
    /// The maximum number of queries in flight to upstreams of each UDP worker, with about 700 bytes each. Default:
    /// 8,192.
    pub forwarded: usize,
    /// The maximum number of other pending queries, over all listeners and transports. At the limit, the oldest query
    /// of the client with the most of them is answered at once, as its directive defines. Default: 4,096.
    pub waiting: usize,
    /// The receive buffer of each UDP socket in bytes, which the kernel limits to `net.core.rmem_max`. Default: 4 MiB.
    pub receive_buffer: usize,
    /// The limits on TCP connections.
    pub tcp: TcpLimits,
    /// The maximum number of open descriptors of the process, from which the limits on connections are derived.
    /// Default: its soft limit.
    pub descriptors: Option<usize>,
    /// Another process of this user may have the same port, and the kernel distributes queries over both. Otherwise a
    /// port in use is an error.
    pub share_port: bool,
}

impl ServerOptions {
    /// Returns the default options.
    pub fn new(runtime: Handle) -> ServerOptions {
        ServerOptions {
            runtime,
            workers: None,
            sockets: None,
            spread: Spread::Flow,
            dispatcher: Dispatcher::default(),
            forwarded: 8_192,
            waiting: 4_096,
            receive_buffer: 4 << 20,
            tcp: TcpLimits::default(),
            descriptors: None,
            share_port: false,
        }
    }

    /// Returns the number of workers to start.
    fn workers(&self) -> usize {
        let workers = self.workers.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        match (self.workers, self.sockets) {
            (None, Some(sockets)) => workers.min(sockets.get()),
            _ => workers,
        }
    }

    /// Returns the number of UDP sockets of each listener. Every worker has at least one, so that it can answer the
    /// queries that other workers hand over.
    fn sockets(&self) -> usize {
        self.workers().max(self.sockets.map_or(0, NonZeroUsize::get))
    }
}

/// A running server. Dropping it stops it without waiting.
pub struct Server {
    options: ServerOptions,
    /// Listeners by number, with those that are closing.
    listeners: BTreeMap<usize, Listening>,
    /// The next listener's number.
    next: usize,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The counters of each worker.
    counters: Vec<Arc<Counters>>,
    /// All client connections.
    connections: Arc<Connections>,
    /// The acceptor of DNS over TCP and TLS.
    tcp: Arc<Acceptor>,
    /// The acceptors of HTTPS, QUIC and HTTP/3, one for each listener.
    others: Vec<Arc<Acceptor>>,
    /// The limit on the memory for queries and responses of encrypted transports.
    memory: Arc<MemoryLimit>,
}

/// The listeners of this server at the address of a new listener, in the order in which listeners are bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    /// There is no other listener.
    Nothing,
    /// A closing listener; the new one has to wait for its end.
    Closing,
    /// A listener with an overlapping address. Both may be open at the same time, as in a reload from one address to
    /// all addresses.
    Overlapping,
}

/// A listener that is open or closing.
struct Listening {
    /// The address, with the port that was bound.
    address: SocketAddr,
    kind: ListenerKind,
    /// The UDP sockets, which workers own: at least one for each worker while the listener is open.
    sockets: Vec<Weak<UdpSocket>>,
    /// The listener was closed.
    closed: bool,
    /// The phase, which connections follow.
    phase: watch::Sender<ListenerPhase>,
}

/// The maximum time to wait for the end of a closed listener at the port of a new one: that of an upstream query.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(7);
/// The limit on requests over HTTP and streams of QUIC that have come in part, over all listeners; some 3 KB each.
/// Whole ones count as pending queries.
const MAX_UNREAD: usize = 1_024;
/// The interval of checks whether something has ended.
const POLL: Duration = Duration::from_millis(2);

impl Listening {
    /// Returns whether the listener is closed with its last socket, accept loop and connection.
    fn is_over(&self) -> bool {
        self.closed && self.phase.receiver_count() == 0 && self.sockets.iter().all(|socket| socket.strong_count() == 0)
    }
}

/// The sockets of a listener, and its service.
struct BoundListener {
    address: SocketAddr,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Vec<tokio::net::TcpListener>,
    quic: Option<QuicEndpoint>,
    service: Arc<Service>,
}

impl Server {
    /// Binds all listeners and starts to serve. After an error none is served.
    pub fn start(specs: Vec<ListenSpec>, options: ServerOptions) -> Result<Server, ServeError> {
        let workers = if specs.is_empty() { 0 } else { options.workers() };
        let mailboxes = (0..workers).map(|_| Mailbox::new()).collect::<Result<Vec<_>, _>>();
        let mailboxes = mailboxes.map_err(|source| ServeError::Worker { worker: 0, source })?;
        options.dispatcher.set(Arc::new(Workers { mailboxes: mailboxes.clone(), turn: AtomicUsize::new(0) }));
        let shared = Arc::new(Shared {
            runtime: options.runtime.clone(),
            pending: PendingLimit::new(options.waiting),
            unread: PendingLimit::new(MAX_UNREAD),
            stopping: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            owners: QueryOwners::default(),
            mailboxes,
            counters: Counters::default(),
        });
        let memory = MemoryLimit::of_all(memory::ALL_CONNECTIONS);
        let connections = Connections::new(options.tcp);
        let tcp = Arc::new(Acceptor::new(connections.clone(), shared.clone(), memory.clone()));
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
            memory,
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

    /// Binds more listeners and serves them. Returns the number of the first one. After an error none is served.
    pub fn open(&mut self, specs: &[ListenSpec]) -> Result<usize, ServeError> {
        self.listeners.retain(|_, listening| !listening.is_over());
        let prepared = self.prepare(specs)?;
        let first = self.next;
        self.listen(prepared);
        Ok(first)
    }

    /// Closes a listener after the queries that have arrived are answered. Its number is not reused.
    pub fn close(&mut self, listener: usize) {
        let Some(listening) = self.listeners.get_mut(&listener) else { return };
        listening.phase.send_replace(ListenerPhase::Ending);
        if !std::mem::replace(&mut listening.closed, true) && !listening.sockets.is_empty() {
            self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Close(listener)));
        }
    }

    /// Binds sockets.
    fn prepare(&self, specs: &[ListenSpec]) -> Result<Vec<BoundListener>, ServeError> {
        // Sockets of tokio and quinn have to be created within a runtime.
        let _inside = self.options.runtime.enter();
        let mut order: Vec<usize> = (0..specs.len()).collect();
        let queues = bind::accept_queues(self.listeners.len() + specs.len(), self.descriptors());
        // Listeners that take packets from open ones are bound last, so that they take none if another cannot be bound.
        order.sort_by_key(|&index| self.obstacle(&specs[index]));
        let mut prepared: Vec<(usize, BoundListener)> = Vec::new();
        for index in order {
            let spec = &specs[index];
            let mut others = specs.iter().enumerate().filter(|&(other, _)| other != index);
            let shared = others.any(|(_, other)| overlap(spec, (other.address, other.service.kind())));
            prepared.push((index, self.prepare_one(spec, shared, queues)?));
        }
        prepared.sort_by_key(|(index, _)| *index);
        Ok(prepared.into_iter().map(|(_, prepared)| prepared).collect())
    }

    /// Binds the sockets of a listener. `shared`: another listener of the same call has an overlapping address;
    /// `queues`: the number of sockets for TCP.
    fn prepare_one(&self, spec: &ListenSpec, shared: bool, queues: usize) -> Result<BoundListener, ServeError> {
        let ServerOptions { share_port, receive_buffer, spread, .. } = &self.options;
        let kind = spec.service.kind();
        let Ports { udp, tcp } = kind.ports();
        let sockets = match (kind, udp) {
            (ListenerKind::Dns, _) => self.options.sockets(),
            (_, udp) => usize::from(udp),
        };
        let shared = shared || *share_port || self.obstacle(spec) == Obstacle::Overlapping;
        let accept_queues = if tcp { queues } else { 0 };
        let (address, receive_buffer) = (spec.address, *receive_buffer);
        let wanted = WantedSockets { address, sockets, accept_queues, receive_buffer, shared };
        let bound = self.bind(&wanted)?;
        let address = bound.address;
        let mut prepared =
            BoundListener { address, udp: Vec::new(), tcp: Vec::new(), quic: None, service: spec.service.clone() };
        // With sockets of another process at the port, only the first of all sockets would be chosen.
        if !*share_port && let Err(error) = bind::spread_by_source(&bound.tcp) {
            tracing::warn!(%address, %error, "one client may delay TCP connections of others: no accept queue by address");
        }
        for listener in bound.tcp {
            let listener = tokio::net::TcpListener::from_std(listener);
            let failed = |source| ServeError::Listen { transport: "tcp", address, source };
            prepared.tcp.push(listener.map_err(failed)?);
        }
        if kind == ListenerKind::Dns {
            if *spread == Spread::Random
                && let Err(error) = bind::spread_at_random(&bound.udp)
            {
                tracing::warn!(%address, %error, "UDP packets are distributed over workers by flow, not at random");
            }
            prepared.udp = bound.udp.into_iter().map(Arc::new).collect();
        } else if let Some(socket) = bound.udp.into_iter().next() {
            let failed = |source| ServeError::Listen { transport: "udp", address, source };
            prepared.quic = Some(endpoint::bind(socket, spec.service.clone()).map_err(failed)?);
        }
        Ok(prepared)
    }

    /// Returns the obstacle for a new listener at its address.
    fn obstacle(&self, spec: &ListenSpec) -> Obstacle {
        let others = self.listeners.values();
        let others = others.filter(|other| !other.is_over() && overlap(spec, (other.address, other.kind)));
        // The kernel distributes packets over all sockets of an address. Those of UDP workers refuse packets once they
        // are closed, but the socket of a QUIC endpoint receives them until its end.
        let must_end = |listening: &Listening| {
            let is_quic = matches!(listening.kind, ListenerKind::Quic | ListenerKind::Https3);
            listening.closed && is_quic && listening.address.ip() == spec.address.ip()
        };
        let obstacle =
            |listening: &Listening| if must_end(listening) { Obstacle::Closing } else { Obstacle::Overlapping };
        let obstacles = others.map(obstacle);
        obstacles.min().unwrap_or(Obstacle::Nothing)
    }

    /// Binds a listener. If another listener of this server at that port is closing, waits for its end: it may have
    /// pending queries.
    fn bind(&self, wanted: &WantedSockets) -> Result<bind::Bound, ServeError> {
        let deadline = Instant::now() + CLOSING_TIMEOUT;
        loop {
            let is_closing = |listening: &Listening| {
                listening.closed && listening.address.port() == wanted.address.port() && !listening.is_over()
            };
            // Checked before the attempt, since a listener may end in between.
            let may_end = self.listeners.values().any(is_closing);
            match bind::bind(wanted) {
                Err(ServeError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse && may_end && Instant::now() < deadline =>
                {
                    std::thread::sleep(POLL);
                }
                bound => return bound,
            }
        }
    }

    /// Hands sockets to workers and accept loops.
    fn listen(&mut self, prepared: Vec<BoundListener>) {
        // The descriptors of all listeners are open now.
        self.connections.fit(self.options.tcp, self.descriptors());
        for BoundListener { address, udp, tcp, quic, service } in prepared {
            let number = self.next;
            self.next += 1;
            let sockets = udp.iter().map(Arc::downgrade).collect();
            let workers = self.shared.mailboxes.len();
            for (worker, mailbox) in self.shared.mailboxes.iter().enumerate() {
                let mut own = udp.iter().skip(worker).step_by(workers).cloned();
                // A listener of TLS, HTTPS or QUIC has no sockets of workers.
                let Some(socket) = own.next() else { break };
                let more = own.collect();
                let service = service.clone();
                mailbox.send(Job::Open(number, UdpListener { socket, more, address, service }));
            }
            let phase = watch::Sender::new(ListenerPhase::Serving);
            let kind = service.kind();
            let acceptor = self.acceptor_of(kind);
            for listener in tcp {
                acceptor.serve(listener, service.clone(), phase.subscribe());
            }
            if let Some(endpoint) = quic {
                acceptor.record_start();
                let serving = endpoint::serve(endpoint, address, service, acceptor, phase.subscribe());
                self.shared.runtime.spawn(serving);
            }
            self.listeners.insert(number, Listening { address, kind, sockets, closed: false, phase });
        }
    }

    /// Returns how many descriptors the process may open.
    fn descriptors(&self) -> usize {
        self.options.descriptors.unwrap_or_else(descriptor_limit)
    }

    /// Returns the acceptor for the connections of a new listener.
    fn acceptor_of(&mut self, kind: ListenerKind) -> Arc<Acceptor> {
        if matches!(kind, ListenerKind::Dns | ListenerKind::Tls) {
            return self.tcp.clone();
        }
        let acceptor = Arc::new(Acceptor::new(self.connections.clone(), self.shared.clone(), self.memory.clone()));
        // The acceptors of closed listeners are dropped after their last connection.
        self.others.retain(|other| other.is_busy());
        self.others.push(acceptor.clone());
        acceptor
    }

    /// Returns the addresses of the open listeners, with the ports that were bound, in the order of the listeners.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let open = self.listeners.values().filter(|listening| !listening.closed);
        open.map(|listening| listening.address).collect()
    }

    /// Returns the address of a listener, with the port that was bound.
    pub fn local_address(&self, listener: usize) -> Option<SocketAddr> {
        self.listeners.get(&listener).map(|listening| listening.address)
    }

    /// Returns the current sums of all counters.
    pub fn counts(&self) -> ServerCounts {
        self.counter()()
    }

    /// Returns a function that sums up all counters, for a caller that does not own the server.
    pub fn counter(&self) -> impl Fn() -> ServerCounts + Send + Sync + 'static + use<> {
        let counters = self.counters.clone();
        let shared = self.shared.clone();
        move || {
            let mut counts = ServerCounts::default();
            counters.iter().for_each(|counters| counts.add(counters));
            counts.add(&shared.counters);
            counts
        }
    }

    /// Returns the number of open connections.
    pub fn open_connections(&self) -> usize {
        self.acceptors().map(|acceptor| acceptor.open()).sum()
    }

    fn acceptors(&self) -> impl Iterator<Item = &Arc<Acceptor>> {
        std::iter::once(&self.tcp).chain(&self.others)
    }

    /// Returns the number of pending queries, including those in flight to upstreams.
    pub fn waiting(&self) -> usize {
        let forwarded = self.shared.mailboxes.iter().map(|mailbox| mailbox.waiting.load(Ordering::Relaxed));
        self.shared.pending.held() + forwarded.sum::<usize>()
    }

    /// Accepts no new connections, answers the queries that have arrived, and stops. Blocks until everything has ended,
    /// at most for `grace`. Queries that are pending near its end get SERVFAIL.
    ///
    /// UDP is answered until everything else has ended: clients do not know that the server stops, and their queries
    /// would be lost.
    pub fn stop(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.enter(ListenerPhase::Ending);
        let is_busy = || self.acceptors().any(|acceptor| acceptor.is_busy());
        while is_busy() && Instant::now() < deadline - grace / 4 {
            std::thread::sleep(POLL);
        }
        self.end_reading();
        let has_drained = || self.shared.drained.load(Ordering::Acquire) == self.workers.len();
        let wait_until = |end, at_each_poll: &dyn Fn()| {
            while (!has_drained() || self.waiting() > 0 || is_busy()) && Instant::now() < end {
                at_each_poll();
                std::thread::sleep(POLL);
            }
        };
        wait_until(deadline - grace / 8, &|| ());
        self.fail_in_flight();
        wait_until(deadline - grace / 16, &|| ());
        // A connection may still have a query that waited for another one.
        wait_until(deadline, &|| self.shared.pending.revoke_all());
        self.enter(ListenerPhase::Ended);
        self.end_workers();
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a UDP worker had exited before");
            }
        }
        tracing::debug!(pending = self.waiting(), connections = self.open_connections(), "stopped");
    }

    /// Sets the phase of all listeners.
    fn enter(&self, phase: ListenerPhase) {
        for listening in self.listeners.values() {
            listening.phase.send_replace(phase);
        }
    }

    /// Makes the workers read only the packets that have arrived.
    fn end_reading(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Wake));
    }

    /// Makes the workers end their queries in flight.
    fn fail_in_flight(&self) {
        self.shared.failing.store(true, Ordering::Release);
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Wake));
    }

    /// Makes the workers exit.
    fn end_workers(&self) {
        self.end_reading();
        self.shared.ended.store(true, Ordering::Release);
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Wake));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_workers();
        self.enter(ListenerPhase::Ended);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.local_addresses()).finish_non_exhaustive()
    }
}

/// Returns whether a listener shares an address, a port and a protocol with another one.
fn overlap(spec: &ListenSpec, (b, kind): (SocketAddr, ListenerKind)) -> bool {
    let a = spec.address;
    a.port() != 0
        && a.port() == b.port()
        && spec.service.kind().ports().overlap(kind.ports())
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
