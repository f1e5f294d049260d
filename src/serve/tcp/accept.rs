//! TCP: the accept loop and the bounds on connections.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::connection::Connection;
use super::stream::Stream;
use crate::chain::{Client, Transport};
use crate::serve::http::https;
use crate::serve::pending::Seldom;
use crate::serve::request::Room;
use crate::serve::{FAREWELL, Kind, Phase, Service, Shared};

/// Bounds on TCP connections. A connection past a bound takes the place of the oldest one, of its own address if it can,
/// that we owe no answer: clients that are silent, or that do not read, do not keep others out. Where every connection is
/// at work, the new one is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections in all. 10,000: some 20 MB when all of them idle.
    pub connections: usize,
    /// Connections of one client address. 1,000. Addresses are counted singly in IPv6, too: the Pods of a node share a
    /// /64.
    pub connections_per_address: usize,
    /// Answers of one connection that may wait; past it nothing more is read from it. 256.
    pub waiting_per_connection: usize,
}

impl Default for TcpLimits {
    fn default() -> TcpLimits {
        TcpLimits { connections: 10_000, connections_per_address: 1_000, waiting_per_connection: 256 }
    }
}

/// All connections that share bounds: those of DNS over TCP and over TLS, or those of another encrypted listener.
#[derive(Debug)]
pub(in crate::serve) struct Tcp {
    pub(in crate::serve) limits: TcpLimits,
    pub(in crate::serve) shared: Arc<Shared>,
    /// For queries and answers on their way through encrypted transports.
    pub(in crate::serve) room: Arc<Room>,
    /// Accept loops at work.
    loops: AtomicUsize,
    /// How many connections each address has. Locked when a connection starts and when it ends.
    open: Mutex<Open>,
}

/// Open connections.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Those of each address, oldest first.
    by_address: HashMap<IpAddr, VecDeque<Arc<Ticket>>, foldhash::fast::RandomState>,
}

/// What others may know of a connection.
#[derive(Debug, Default)]
pub(in crate::serve) struct Ticket {
    /// We owe it answers, and it does not owe us reading. Written by the connection.
    pub(in crate::serve) at_work: AtomicBool,
    /// It must make room.
    pub(in crate::serve) evicted: Notify,
}

impl Open {
    /// Makes room by ending the oldest connection of an address that no answer is due to; says whether there was one.
    fn evict(&mut self, address: IpAddr) -> bool {
        let Some(tickets) = self.by_address.get_mut(&address) else { return false };
        let idle = tickets.iter().position(|ticket| !ticket.at_work.load(Ordering::Relaxed));
        let Some(ticket) = idle.and_then(|at| tickets.remove(at)) else { return false };
        ticket.evicted.notify_one();
        self.all -= 1;
        self.drop_vacant(address);
        true
    }

    /// The address with the most connections.
    fn busiest(&self) -> Option<IpAddr> {
        self.by_address.iter().max_by_key(|(_, tickets)| tickets.len()).map(|(&address, _)| address)
    }

    fn drop_vacant(&mut self, address: IpAddr) {
        if self.by_address.get(&address).is_some_and(VecDeque::is_empty) {
            self.by_address.remove(&address);
        }
    }
}

/// When a failed `accept` was last logged.
static ACCEPT_LOGGED: Seldom = Seldom::new();
/// When a refused connection was last logged.
static REFUSED_LOGGED: Seldom = Seldom::new();

impl Tcp {
    /// None yet.
    pub(in crate::serve) fn new(limits: TcpLimits, shared: Arc<Shared>, room: Arc<Room>) -> Tcp {
        Tcp { limits, shared, room, loops: AtomicUsize::new(0), open: Mutex::default() }
    }

    /// How many connections are open.
    pub(in crate::serve) fn open(&self) -> usize {
        self.open.lock().all
    }

    /// Whether anything goes on.
    pub(in crate::serve) fn busy(&self) -> bool {
        self.loops.load(Ordering::Acquire) > 0 || self.open() > 0
    }

    /// Serves a listener on the server's runtime.
    pub(in crate::serve) fn serve(
        self: &Arc<Self>, listener: TcpListener, service: Arc<Service>, phase: watch::Receiver<Phase>,
    ) {
        self.begun();
        self.shared.runtime.spawn(self.clone().accept(listener, service, phase));
    }

    /// Somebody accepts connections. Said before the task starts, which may be later than the server stops.
    pub(in crate::serve) fn begun(&self) {
        self.loops.fetch_add(1, Ordering::AcqRel);
    }

    /// Somebody does so no more.
    pub(in crate::serve) fn ended(&self) {
        self.loops.fetch_sub(1, Ordering::AcqRel);
    }

    /// Accepts connections until the server stops. No error ends it.
    async fn accept(self: Arc<Self>, listener: TcpListener, service: Arc<Service>, mut phase: watch::Receiver<Phase>) {
        let mut failures = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|&phase| phase > Phase::Serving) => break,
            };
            match accepted {
                Ok((stream, remote)) => {
                    failures = 0;
                    self.start(stream, remote, &service, &phase);
                }
                Err(error) => {
                    failures += 1;
                    self.failed(&error, listener.local_addr().ok());
                    if let Some(rest) = rest_after(&error, failures) {
                        tokio::time::sleep(rest).await;
                    }
                }
            }
        }
        // Connections that the kernel has made are served, too: their queries may have come already. The kernel is asked,
        // not the runtime, whose notice may be late.
        while let Ok((socket, remote)) = SockRef::from(&listener).accept() {
            let stream = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket.into()));
            if let (Ok(stream), Some(remote)) = (stream, remote.as_socket()) {
                self.start(stream, remote, &service, &phase);
            }
        }
        self.ended();
    }

    /// Starts to serve a connection, or closes it where there are too many.
    fn start(
        self: &Arc<Self>, stream: TcpStream, remote: SocketAddr, service: &Arc<Service>, phase: &watch::Receiver<Phase>,
    ) {
        let counters = &self.shared.counters;
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let most = if service.kind == Kind::Https { service.settings().connections } else { self.limits.connections };
        let Some(seat) = Seat::take(self, remote.ip(), most) else {
            counters.connections_refused.add(1);
            if REFUSED_LOGGED.now() {
                tracing::warn!(client = %remote.ip(), limits = ?self.limits, "too many TCP connections; this one is closed");
            }
            return;
        };
        counters.connections.add(1);
        // An answer is written whole; waiting for more to send only delays it.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let mut phase = phase.clone();
        // Whatever the phase is now is news to the connection.
        phase.mark_changed();
        let service = service.clone();
        if service.kind == Kind::Https {
            let client = Client { remote, local, transport: Transport::Https };
            tokio::spawn(https::serve(stream, client, service, seat, phase));
            return;
        }
        let stream = match service.credentials() {
            None => Stream::Tcp(stream),
            Some(credentials) => match Stream::tls(stream, credentials.now()) {
                Ok(stream) => stream,
                Err(error) => return tracing::error!(%error, "no TLS for a connection"),
            },
        };
        tokio::spawn(Connection::new(stream, remote, local, service, seat).run(phase));
    }

    /// Counts and logs a failure of `accept`.
    fn failed(&self, error: &io::Error, address: Option<SocketAddr>) {
        self.shared.counters.accept_failed.add(1);
        if ACCEPT_LOGGED.now() {
            tracing::warn!(?address, %error, "TCP accept failed");
        }
    }
}

/// How long to wait after a failed `accept`. Without descriptors or memory the same connection fails at once again;
/// other errors are of that one connection (accept(2): "treat them like EAGAIN"), unless they go on and on.
fn rest_after(error: &io::Error, failures: u32) -> Option<Duration> {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Some(Duration::from_millis(50)),
        _ if failures > 16 => Some(Duration::from_millis(50)),
        _ => None,
    }
}

/// A connection's place within the bounds; given back when dropped.
pub(in crate::serve) struct Seat {
    pub(in crate::serve) tcp: Arc<Tcp>,
    pub(in crate::serve) ticket: Arc<Ticket>,
    address: IpAddr,
}

impl Seat {
    /// A place for one more connection of an address among so many, if there is one or one can be had.
    pub(in crate::serve) fn take(tcp: &Arc<Tcp>, address: IpAddr, most: usize) -> Option<Seat> {
        let open = &mut *tcp.open.lock();
        let of_address = open.by_address.get(&address).map_or(0, VecDeque::len);
        let evicted = if of_address >= tcp.limits.connections_per_address.max(1) {
            open.evict(address)
        } else if open.all >= most {
            open.evict(address) || open.busiest().is_some_and(|busiest| open.evict(busiest))
        } else {
            true
        };
        if !evicted {
            return None;
        }
        let ticket = Arc::new(Ticket::default());
        open.by_address.entry(address).or_default().push_back(ticket.clone());
        open.all += 1;
        Some(Seat { tcp: tcp.clone(), ticket, address })
    }

    /// Waits for a client's handshake, for as long as it may take and has its place; when the server ends, no longer
    /// than for a farewell. Nothing comes of one that fails: whoever does not get through has been told why by it.
    pub(in crate::serve) async fn handshake<T, E>(
        &self, handshake: impl Future<Output = Result<T, E>>, time: Duration, phase: &watch::Receiver<Phase>,
    ) -> Option<T> {
        let mut phase = phase.clone();
        let end = async {
            let _ = phase.wait_for(|&phase| phase > Phase::Serving).await;
            let _ = tokio::time::timeout(FAREWELL, phase.wait_for(|&phase| phase == Phase::Ended)).await;
        };
        tokio::select! {
            done = handshake => done.ok(),
            () = self.ticket.evicted.notified() => None,
            () = end => None,
            () = tokio::time::sleep(time) => {
                self.tcp.shared.counters.connections_timed_out.add(1);
                None
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let open = &mut *self.tcp.open.lock();
        let Some(tickets) = open.by_address.get_mut(&self.address) else { return };
        // One that made room has been taken out already.
        let Some(at) = tickets.iter().position(|ticket| Arc::ptr_eq(ticket, &self.ticket)) else { return };
        tickets.remove(at);
        open.all -= 1;
        open.drop_vacant(self.address);
    }
}
