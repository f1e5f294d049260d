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
use crate::serve::pending::LogLimiter;
use crate::serve::{LEAVE_TIME, ListenerKind, ListenerPhase, Service, Shared};

/// Accepts the connections of a group with limits of its own: DNS over TCP and TLS, or another encrypted listener.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) connections: Arc<Connections>,
    /// The group of the connections in the registry.
    group: usize,
    pub(crate) shared: Arc<Shared>,
    /// The limit on the memory for queries and responses of encrypted transports.
    pub(crate) memory: Arc<MemoryLimit>,
    /// The number of running accept loops.
    loops: AtomicUsize,
}

/// How many connections are accepted before the open ones have their turn: a client that opens one after the other must
/// not delay their queries.
const ACCEPTED_AT_ONCE: usize = 16;
/// Limits the log lines about failures of `accept`.
static ACCEPT_LOGGED: LogLimiter = LogLimiter::new();
/// Limits the log lines about refused connections.
static REFUSED_LOGGED: LogLimiter = LogLimiter::new();

impl Acceptor {
    /// Creates an acceptor without connections.
    pub(crate) fn new(connections: Arc<Connections>, shared: Arc<Shared>, memory: Arc<MemoryLimit>) -> Acceptor {
        let group = connections.add_group();
        Acceptor { connections, group, shared, memory, loops: AtomicUsize::new(0) }
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.connections.open(self.group)
    }

    /// Acquires a permit for a connection of an address, where the group has at most `limit` connections. See
    /// [`Connections::acquire`].
    pub(crate) fn acquire(&self, limit: usize, address: IpAddr, has_socket: bool) -> Option<ConnectionPermit> {
        let (permit, evicted) = self.connections.acquire(self.group, limit, address, has_socket);
        let counters = &self.shared.counters;
        counters.connections_evicted.add(evicted);
        match &permit {
            Some(_) => counters.connections.add(1),
            None => {
                counters.connections_refused.add(1);
                if REFUSED_LOGGED.is_due() {
                    tracing::warn!(client = %address, limits = ?self.connections.limits(), "too many connections; this one is closed");
                }
            }
        }
        permit
    }

    /// Returns whether an accept loop runs or a connection is open.
    pub(crate) fn is_busy(&self) -> bool {
        self.loops.load(Ordering::Acquire) > 0 || self.open() > 0
    }

    /// Serves a listener on the server's runtime.
    pub(crate) fn serve(
        self: &Arc<Self>, listener: TcpListener, service: Arc<Service>, phase: watch::Receiver<ListenerPhase>,
    ) {
        self.record_start();
        self.shared.runtime.spawn(self.clone().accept(listener, service, phase));
    }

    /// Counts a running accept loop. Called before its task is spawned, since the server may stop before the task runs.
    pub(crate) fn record_start(&self) {
        self.loops.fetch_add(1, Ordering::AcqRel);
    }

    /// Called when an accept loop has stopped.
    pub(crate) fn record_end(&self) {
        self.loops.fetch_sub(1, Ordering::AcqRel);
    }

    /// Accepts connections until the server stops. No error ends the loop.
    async fn accept(
        self: Arc<Self>, listener: TcpListener, service: Arc<Service>, mut phase: watch::Receiver<ListenerPhase>,
    ) {
        let (mut failures, mut accepted_at_once) = (0, 0);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|&phase| phase > ListenerPhase::Serving) => break,
            };
            match accepted {
                Ok((stream, remote)) => {
                    failures = 0;
                    self.start_connection(stream, remote, &service, &phase);
                    accepted_at_once += 1;
                    if accepted_at_once == ACCEPTED_AT_ONCE {
                        accepted_at_once = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.record_failure(&error, listener.local_addr().ok());
                    if let Some(pause) = self.pause_after(&error, failures) {
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
        // Connections in the backlog are served, too, since their queries may have arrived. This accepts from the
        // socket even if the runtime does not yet know that it is readable. The number is limited, so that a client
        // that connects again and again does not delay the end.
        for _ in 0..BACKLOG {
            let Ok((socket, remote)) = SockRef::from(&listener).accept() else { break };
            let stream = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket.into()));
            if let (Ok(stream), Some(remote)) = (stream, remote.as_socket()) {
                self.start_connection(stream, remote, &service, &phase);
            }
        }
        self.record_end();
    }

    /// Starts to serve a connection, or closes it if there is no permit.
    fn start_connection(
        self: &Arc<Self>, stream: TcpStream, remote: SocketAddr, service: &Arc<Service>,
        phase: &watch::Receiver<ListenerPhase>,
    ) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let limit = match service.kind() {
            ListenerKind::Https => service.settings().connections,
            _ => self.connections.limits().connections,
        };
        let Some(permit) = self.acquire(limit, remote.ip(), true) else { return };
        // A response is written at once; the kernel would only delay it.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let mut phase = phase.clone();
        // The connection reads the phase once at its start.
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
    fn record_failure(&self, error: &io::Error, address: Option<SocketAddr>) {
        self.shared.counters.accept_failed.add(1);
        if ACCEPT_LOGGED.is_due() {
            tracing::warn!(?address, %error, "TCP accept failed");
        }
    }

    /// Returns how long to wait after a failed `accept`. Without descriptors or memory, the same connection would fail
    /// again at once, unless another one is evicted. Other errors concern that one connection (accept(2): "treat them
    /// like EAGAIN"), unless they continue.
    fn pause_after(&self, error: &io::Error, failures: u32) -> Option<Duration> {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                // It takes a moment to close an evicted connection.
                let has_freed = self.connections.free_descriptor();
                self.shared.counters.connections_evicted.add(has_freed.into());
                Some(Duration::from_millis(if has_freed { 2 } else { 50 }))
            }
            _ if failures > 16 => Some(Duration::from_millis(50)),
            _ => None,
        }
    }

    /// Waits for the handshake of a client until the timeout `time` or the eviction of the connection; when the server
    /// stops, at most for [`LEAVE_TIME`]. Returns `None` if the handshake fails, after which the client has the reason.
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
