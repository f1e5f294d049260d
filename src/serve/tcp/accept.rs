//! Accept loops of TCP listeners.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::Connection;
use super::limits::{ConnectionPermit, Connections};
use super::stream::Stream;
use crate::chain::{Client, Transport};
use crate::serve::bind::BACKLOG;
use crate::serve::http::https;
use crate::serve::memory::MemoryLimit;
use crate::serve::pending::Seldom;
use crate::serve::{LEAVE_TIME, ListenerKind, ListenerPhase, Service, Shared};

/// Accepts connections that share limits: those of DNS over TCP and over TLS, or those of another encrypted listener.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) connections: Arc<Connections>,
    /// Which group of connections these are.
    group: usize,
    pub(crate) shared: Arc<Shared>,
    /// The limit on what encrypted transports hold of queries and answers.
    pub(crate) memory: Arc<MemoryLimit>,
    /// Accept loops that run.
    loops: AtomicUsize,
}

/// When a failed `accept` was last logged.
static ACCEPT_LOGGED: Seldom = Seldom::new();
/// When a refused connection was last logged.
static REFUSED_LOGGED: Seldom = Seldom::new();

impl Acceptor {
    /// No connections yet.
    pub(crate) fn new(connections: Arc<Connections>, shared: Arc<Shared>, memory: Arc<MemoryLimit>) -> Acceptor {
        let group = connections.add_group();
        Acceptor { connections, group, shared, memory, loops: AtomicUsize::new(0) }
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.connections.open(self.group)
    }

    /// Takes a permit for one more connection of an address, among so many at most. See [`Connections::acquire`].
    pub(crate) fn acquire(&self, most: usize, address: IpAddr, has_socket: bool) -> Option<ConnectionPermit> {
        let (permit, evicted) = self.connections.acquire(self.group, most, address, has_socket);
        let counters = &self.shared.counters;
        counters.connections_evicted.add(evicted);
        match &permit {
            Some(_) => counters.connections.add(1),
            None => {
                counters.connections_refused.add(1);
                if REFUSED_LOGGED.now() {
                    tracing::warn!(client = %address, limits = ?self.connections.limits(), "too many connections; this one is closed");
                }
            }
        }
        permit
    }

    /// Whether an accept loop runs or a connection is open.
    pub(crate) fn is_busy(&self) -> bool {
        self.loops.load(Ordering::Acquire) > 0 || self.open() > 0
    }

    /// Serves a listener on the server's runtime.
    pub(crate) fn serve(
        self: &Arc<Self>, listener: TcpListener, service: Arc<Service>, phase: watch::Receiver<ListenerPhase>,
    ) {
        self.begun();
        self.shared.runtime.spawn(self.clone().accept(listener, service, phase));
    }

    /// Notes that an accept loop runs. To be called before its task starts, which may be later than the server stops.
    pub(crate) fn begun(&self) {
        self.loops.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that an accept loop has ended.
    pub(crate) fn ended(&self) {
        self.loops.fetch_sub(1, Ordering::AcqRel);
    }

    /// Accepts connections until the server stops, whatever errors there are.
    async fn accept(
        self: Arc<Self>, listener: TcpListener, service: Arc<Service>, mut phase: watch::Receiver<ListenerPhase>,
    ) {
        let mut failures = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|&phase| phase > ListenerPhase::Serving) => break,
            };
            match accepted {
                Ok((stream, remote)) => {
                    failures = 0;
                    self.start(stream, remote, &service, &phase);
                }
                Err(error) => {
                    failures += 1;
                    self.failed(&error, listener.local_addr().ok());
                    if let Some(pause) = self.pause_after(&error, failures) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
        // Connections that the kernel has made are served, too: their queries may have come already. This asks the
        // kernel, not the runtime, whose notice may be late.
        for _ in 0..BACKLOG {
            // A client that connects again and again does not hold up the end.
            let Ok((socket, remote)) = SockRef::from(&listener).accept() else { break };
            let stream = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket.into()));
            if let (Ok(stream), Some(remote)) = (stream, remote.as_socket()) {
                self.start(stream, remote, &service, &phase);
            }
        }
        self.ended();
    }

    /// Starts to serve a connection, or closes it if it gets no permit.
    fn start(
        self: &Arc<Self>, stream: TcpStream, remote: SocketAddr, service: &Arc<Service>,
        phase: &watch::Receiver<ListenerPhase>,
    ) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let most = match service.kind() {
            ListenerKind::Https => service.settings().connections,
            _ => self.connections.limits().connections,
        };
        let Some(permit) = self.acquire(most, remote.ip(), true) else { return };
        // An answer is written whole; to wait for more would only delay it.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let mut phase = phase.clone();
        // The connection looks at the phase once at its start.
        phase.mark_changed();
        let service = service.clone();
        if service.kind() == ListenerKind::Https {
            let client = Client { remote, local, transport: Transport::Https };
            tokio::spawn(https::serve(stream, client, service, self.clone(), permit, phase));
            return;
        }
        let stream = match service.credentials() {
            None => Stream::Tcp(stream),
            Some(credentials) => match Stream::tls(stream, credentials.now()) {
                Ok(stream) => stream,
                Err(error) => return tracing::error!(%error, "cannot start TLS for a connection"),
            },
        };
        tokio::spawn(Connection::new(stream, remote, local, service, self.clone(), permit).run(phase));
    }

    /// Counts and logs a failure of `accept`.
    fn failed(&self, error: &io::Error, address: Option<SocketAddr>) {
        self.shared.counters.accept_failed.add(1);
        if ACCEPT_LOGGED.now() {
            tracing::warn!(?address, %error, "TCP accept failed");
        }
    }

    /// How long to wait after a failed `accept`. Without descriptors or memory the same connection fails at once again,
    /// unless another can make room; other errors are of that one connection (accept(2): "treat them like EAGAIN"),
    /// unless they go on and on.
    fn pause_after(&self, error: &io::Error, failures: u32) -> Option<Duration> {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                // The connection that is evicted takes a moment to close.
                let has_freed = self.connections.free_descriptor();
                self.shared.counters.connections_evicted.add(has_freed.into());
                Some(Duration::from_millis(if has_freed { 2 } else { 50 }))
            }
            _ if failures > 16 => Some(Duration::from_millis(50)),
            _ => None,
        }
    }

    /// Waits for a client's handshake, as long as it may take and has its permit; when the server stops, no longer than
    /// [`LEAVE_TIME`]. A handshake that fails yields nothing: it has told its client why.
    pub(crate) async fn handshake<T, E>(
        &self, permit: &ConnectionPermit, handshake: impl Future<Output = Result<T, E>>, time: Duration,
        phase: &watch::Receiver<ListenerPhase>,
    ) -> Option<T> {
        let mut phase = phase.clone();
        let end = async {
            let _ = phase.wait_for(|&phase| phase > ListenerPhase::Serving).await;
            let _ = tokio::time::timeout(LEAVE_TIME, phase.wait_for(|&phase| phase == ListenerPhase::Ended)).await;
        };
        tokio::select! {
            done = handshake => done.ok(),
            () = permit.activity.evicted() => None,
            () = end => None,
            () = tokio::time::sleep(time) => {
                self.shared.counters.connections_timed_out.add(1);
                None
            }
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.connections.remove_group(self.group);
    }
}
