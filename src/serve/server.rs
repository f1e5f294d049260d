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
use super::memory::{self, MemoryLimit};
use super::pending::PendingLimit;
use super::quic::endpoint;
use super::tcp::accept::Acceptor;
use super::tcp::limits::{Connections, TcpLimits, descriptor_limit};
use super::udp::forward::{Forwarding, QueryOwners};
use super::udp::listener::UdpListener;
use super::udp::mailbox::{Job, Mailbox, Workers};
use super::udp::worker::UdpWorker;
use super::{ListenerKind, ListenerPhase, Ports, ServeError, Service, Shared};
use crate::upstream::Dispatcher;

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// Its address. An unspecified one of either family means every address of both families, as in Go, or of IPv4
    /// alone where the kernel has no IPv6. Port 0 means any port, the same for UDP and TCP.
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
pub struct ServerOptions {
    /// Where connections and pending queries run. It needs its I/O and time drivers.
    pub runtime: Handle,
    /// How many UDP workers; by default as many as there are cores to run on, or sockets where those are fewer.
    pub workers: Option<NonZeroUsize>,
    /// How many UDP sockets each listener has, at least one for each worker, which is the default. A worker serves
    /// several when there are more.
    pub sockets: Option<NonZeroUsize>,
    /// How UDP packets find a worker.
    pub spread: Spread,
    /// Set to what sends queries to upstreams for all that are no UDP clients.
    pub dispatcher: Dispatcher,
    /// How many queries each UDP worker may have in flight to upstreams; some 700 bytes each, when it has. 8,192.
    pub forwarded: usize,
    /// How many other queries may be pending over all listeners and transports. For a query over the limit the client
    /// with the most of them loses its oldest one, which is answered at once, as its directive says. 4,096.
    pub waiting: usize,
    /// The bytes that each UDP socket may hold unread; the kernel grants up to `net.core.rmem_max`. 4 MiB.
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

impl ServerOptions {
    /// The defaults.
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

/// A running server. Dropping it stops it without waiting.
pub struct Server {
    options: ServerOptions,
    /// Listeners by number, with those that are closing.
    listeners: BTreeMap<usize, Listening>,
    /// The next listener's number.
    next: usize,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// What each worker counts.
    counters: Vec<Arc<Counters>>,
    /// All client connections.
    connections: Arc<Connections>,
    /// Accepts those of DNS over TCP and TLS.
    tcp: Arc<Acceptor>,
    /// Accept those of HTTPS, QUIC and HTTP/3, by listener.
    others: Vec<Arc<Acceptor>>,
    /// What encrypted transports may hold of queries and answers.
    memory: Arc<MemoryLimit>,
}

/// What a new listener finds at its address, in the order in which listeners are bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    /// Nothing.
    Nothing,
    /// A listener whose end has to be waited for.
    Closing,
    /// A listener with an address that overlaps. Both may be open at once, as during a reload that goes from one address
    /// to every address.
    Overlapping,
}

/// A listener that is open or closing.
struct Listening {
    /// With its real port.
    address: SocketAddr,
    kind: ListenerKind,
    /// At least one for each worker, as long as they are open.
    sockets: Vec<Weak<UdpSocket>>,
    /// It is no longer served.
    closed: bool,
    /// How far its connections are on their way to the end.
    phase: watch::Sender<ListenerPhase>,
}

/// How long a closed listener may be in the way of another at its port: as long as an upstream's response may take.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(7);
/// How often is looked whether something has ended.
const POLL: Duration = Duration::from_millis(2);

impl Listening {
    /// Whether it is closed with its last socket, accept loop and connection.
    fn is_over(&self) -> bool {
        self.closed && self.phase.receiver_count() == 0 && self.sockets.iter().all(|socket| socket.strong_count() == 0)
    }
}

/// The sockets of a listener, and what is served there.
struct BoundListener {
    address: SocketAddr,
    udp: Vec<Arc<UdpSocket>>,
    tcp: Option<tokio::net::TcpListener>,
    quic: Option<quinn::Endpoint>,
    service: Arc<Service>,
}

impl Server {
    /// Binds every listener and starts to serve; all or none.
    pub fn start(specs: Vec<ListenSpec>, options: ServerOptions) -> Result<Server, ServeError> {
        let workers = if specs.is_empty() { 0 } else { options.workers() };
        let mailboxes = (0..workers).map(|_| Mailbox::new()).collect::<Result<Vec<_>, _>>();
        let mailboxes = mailboxes.map_err(|source| ServeError::Worker { worker: 0, source })?;
        options.dispatcher.set(Arc::new(Workers { mailboxes: mailboxes.clone(), turn: AtomicUsize::new(0) }));
        let shared = Arc::new(Shared {
            runtime: options.runtime.clone(),
            pending: PendingLimit::new(options.waiting),
            stopping: AtomicBool::new(false),
            drained: AtomicUsize::new(0),
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

    /// Binds more listeners and serves them, all or none. Returns the number of the first.
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
        listening.phase.send_replace(ListenerPhase::Ending);
        if !std::mem::replace(&mut listening.closed, true) && !listening.sockets.is_empty() {
            self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Close(listener)));
        }
    }

    /// Binds sockets.
    fn prepare(&self, specs: &[ListenSpec]) -> Result<Vec<BoundListener>, ServeError> {
        // Sockets of tokio and quinn are made within a runtime.
        let _inside = self.options.runtime.enter();
        let mut order: Vec<usize> = (0..specs.len()).collect();
        // Those last that take queries from an open listener: if another one cannot be bound, they have not.
        order.sort_by_key(|&index| self.obstacle(&specs[index]));
        let mut prepared: Vec<(usize, BoundListener)> = Vec::new();
        for index in order {
            let spec = &specs[index];
            let mut others = specs.iter().enumerate().filter(|&(other, _)| other != index);
            let shared = others.any(|(_, other)| overlap(spec, (other.address, other.service.kind())));
            prepared.push((index, self.prepare_one(spec, shared)?));
        }
        prepared.sort_by_key(|(index, _)| *index);
        Ok(prepared.into_iter().map(|(_, prepared)| prepared).collect())
    }

    /// Binds the sockets of one listener. `shared`: another one that is bound with it has an address that overlaps.
    fn prepare_one(&self, spec: &ListenSpec, shared: bool) -> Result<BoundListener, ServeError> {
        let ServerOptions { share_port, receive_buffer, spread, .. } = &self.options;
        let kind = spec.service.kind();
        let Ports { udp, tcp } = kind.ports();
        let sockets = match (kind, udp) {
            (ListenerKind::Dns, _) => self.options.sockets(),
            (_, udp) => usize::from(udp),
        };
        let shared = shared || *share_port || self.obstacle(spec) == Obstacle::Overlapping;
        let wanted = WantedSockets { address: spec.address, sockets, tcp, receive_buffer: *receive_buffer, shared };
        let bound = self.bind(&wanted)?;
        let address = bound.address;
        let mut prepared =
            BoundListener { address, udp: Vec::new(), tcp: None, quic: None, service: spec.service.clone() };
        if let Some(listener) = bound.tcp {
            let listener = tokio::net::TcpListener::from_std(listener);
            let failed = |source| ServeError::Listen { transport: "tcp", address, source };
            prepared.tcp = Some(listener.map_err(failed)?);
        }
        if kind == ListenerKind::Dns {
            if *spread == Spread::Random
                && let Err(error) = bind::spread_at_random(&bound.udp)
            {
                tracing::warn!(%address, %error, "UDP packets are spread over workers by flow, not at random");
            }
            prepared.udp = bound.udp.into_iter().map(Arc::new).collect();
        } else if let Some(socket) = bound.udp.into_iter().next() {
            let failed = |source| ServeError::Listen { transport: "udp", address, source };
            prepared.quic = Some(endpoint::bind(socket).map_err(failed)?);
        }
        Ok(prepared)
    }

    /// What of this server a new listener finds at its address.
    fn obstacle(&self, spec: &ListenSpec) -> Obstacle {
        let others = self.listeners.values();
        let others = others.filter(|other| !other.is_over() && overlap(spec, (other.address, other.kind)));
        // The kernel gives packets to all sockets of an address in turn. Those of UDP workers refuse them once they are
        // closed; the end of a QUIC endpoint has to be waited for.
        let is_waited_for = |listening: &Listening| {
            let is_quic = matches!(listening.kind, ListenerKind::Quic | ListenerKind::Https3);
            listening.closed && is_quic && listening.address.ip() == spec.address.ip()
        };
        let obstacles = others.map(|listening| match is_waited_for(listening) {
            true => Obstacle::Closing,
            false => Obstacle::Overlapping,
        });
        obstacles.min().unwrap_or(Obstacle::Nothing)
    }

    /// Binds one listener. Where another of this server has just been closed at that port, waits for its end: it may have
    /// pending queries.
    fn bind(&self, wanted: &WantedSockets) -> Result<bind::Bound, ServeError> {
        let deadline = Instant::now() + CLOSING_TIMEOUT;
        loop {
            let is_closing = |listening: &Listening| {
                listening.closed && listening.address.port() == wanted.address.port() && !listening.is_over()
            };
            // Looked at before the attempt: a listener that ends in between may be in its way.
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
        // Now that the descriptors of all listeners are open.
        self.connections.fit(self.options.tcp, self.options.descriptors.unwrap_or_else(descriptor_limit));
        for BoundListener { address, udp, tcp, quic, service } in prepared {
            let number = self.next;
            self.next += 1;
            let sockets = udp.iter().map(Arc::downgrade).collect();
            let workers = self.shared.mailboxes.len();
            for (worker, mailbox) in self.shared.mailboxes.iter().enumerate() {
                let mut own = udp.iter().skip(worker).step_by(workers).cloned();
                // A listener of TLS, HTTPS or QUIC has none.
                let Some(socket) = own.next() else { break };
                let (more, service) = (own.collect(), service.clone());
                mailbox.send(Job::Open(number, UdpListener { socket, more, address, service }));
            }
            let phase = watch::Sender::new(ListenerPhase::Serving);
            let kind = service.kind();
            let acceptor = self.acceptor_of(kind);
            if let Some(listener) = tcp {
                acceptor.serve(listener, service.clone(), phase.subscribe());
            }
            if let Some(endpoint) = quic {
                acceptor.begun();
                let serving = endpoint::serve(endpoint, address, service, acceptor, phase.subscribe());
                self.shared.runtime.spawn(serving);
            }
            self.listeners.insert(number, Listening { address, kind, sockets, closed: false, phase });
        }
    }

    /// Returns what accepts the connections of a new listener.
    fn acceptor_of(&mut self, kind: ListenerKind) -> Arc<Acceptor> {
        if matches!(kind, ListenerKind::Dns | ListenerKind::Tls) {
            return self.tcp.clone();
        }
        let acceptor = Arc::new(Acceptor::new(self.connections.clone(), self.shared.clone(), self.memory.clone()));
        // Those of closed listeners are gone with their last connection.
        self.others.retain(|other| other.is_busy());
        self.others.push(acceptor.clone());
        acceptor
    }

    /// The addresses of its listeners, with real ports, in the order of the listeners.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let open = self.listeners.values().filter(|listening| !listening.closed);
        open.map(|listening| listening.address).collect()
    }

    /// The address of a listener, with its real port.
    pub fn local_address(&self, listener: usize) -> Option<SocketAddr> {
        self.listeners.get(&listener).map(|listening| listening.address)
    }

    /// What has been counted so far.
    pub fn counts(&self) -> ServerCounts {
        self.counter()()
    }

    /// Returns a function that sums up what has been counted, for a caller that does not hold the server.
    pub fn counter(&self) -> impl Fn() -> ServerCounts + Send + Sync + 'static + use<> {
        let (counters, shared) = (self.counters.clone(), self.shared.clone());
        move || {
            let mut counts = ServerCounts::default();
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

    /// How many queries are pending, those in flight to upstreams included.
    pub fn waiting(&self) -> usize {
        let forwarded = self.shared.mailboxes.iter().map(|mailbox| mailbox.waiting.load(Ordering::Relaxed));
        self.shared.pending.held() + forwarded.sum::<usize>()
    }

    /// Accepts nothing new, answers what has come, and stops; what has not ended after `grace` is cut off. It blocks.
    ///
    /// UDP is answered until all else has ended: clients do not know that the server stops, and their queries would be
    /// lost.
    pub fn stop(mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.enter(ListenerPhase::Ending);
        let is_busy = || self.acceptors().any(|acceptor| acceptor.is_busy());
        while is_busy() && Instant::now() < deadline - grace / 4 {
            std::thread::sleep(POLL);
        }
        self.end_reading();
        let has_drained = || self.shared.drained.load(Ordering::Acquire) == self.workers.len();
        while (!has_drained() || self.waiting() > 0 || is_busy()) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
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

    /// Has the workers read no more than has come.
    fn end_reading(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.send(Job::Wake));
    }

    /// Has the workers exit.
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

/// Whether a listener shares addresses, port and protocol with another one.
fn overlap(spec: &ListenSpec, (b, kind): (SocketAddr, ListenerKind)) -> bool {
    let a = spec.address;
    a.port() != 0
        && a.port() == b.port()
        && spec.service.kind().ports().overlap(kind.ports())
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
