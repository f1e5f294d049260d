//! Accept loops of TCP listeners.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::acceptor::Acceptor;
use super::connection::Connection;
use super::limits::ConnectionPermit;
use super::stream::Stream;
use crate::chain::{Client, Transport};
use crate::net::{FoundHeader, MAX_HEADER, Proxied, ProxyHeader, ProxyPolicy, ProxyProtocol, Tlvs, read_proxy_header};
use crate::serve::bind::BACKLOG;
use crate::serve::http::https;
use crate::serve::log_limiter::LogLimiter;
use crate::serve::request::Requester;
use crate::serve::{ListenerKind, ListenerPhase, Service};

/// How many connections of a queue are accepted before other queues and the open connections have their turn: a client
/// that opens one after the other must not delay their queries.
const ACCEPTED_AT_ONCE: usize = 4;
/// Limits the log lines about failures of `accept`.
static ACCEPT_LOGGED: LogLimiter = LogLimiter::new();
/// The pause before the bytes of a header are looked at again that has come in part.
const HEADER_PAUSE: Duration = Duration::from_millis(10);

/// A connection that is accepted.
struct Accepted {
    stream: TcpStream,
    remote: SocketAddr,
    local: SocketAddr,
    service: Arc<Service>,
    permit: ConnectionPermit,
    phase: watch::Receiver<ListenerPhase>,
    /// The TLVs of the header of a proxy.
    tlvs: Option<Arc<Tlvs>>,
}

/// Reads the header of a proxy, if there is one, and no byte after it.
async fn read_proxied(stream: &mut TcpStream) -> io::Result<Option<ProxyHeader>> {
    let mut bytes = vec![0; MAX_HEADER];
    loop {
        let len = stream.peek(&mut bytes).await?;
        match read_proxy_header(&bytes[..len]).map_err(io::Error::other)? {
            FoundHeader::None => return Ok(None),
            FoundHeader::Whole(header, len) => {
                stream.read_exact(&mut bytes[..len]).await?;
                return Ok(Some(header));
            }
            // The client has closed its side.
            FoundHeader::Undecided(_) if len == 0 => return Ok(None),
            // The same bytes would be there again at once. A header usually comes whole.
            FoundHeader::Undecided(_) | FoundHeader::Partial(_) => tokio::time::sleep(HEADER_PAUSE).await,
        }
    }
}

impl Acceptor {
    /// Serves a listener on the server's runtime.
    pub(crate) fn serve(
        self: &Arc<Self>, listener: TcpListener, service: Arc<Service>, phase: watch::Receiver<ListenerPhase>,
    ) {
        self.record_start();
        self.shared.runtime.spawn(self.clone().accept(listener, service, phase));
    }

    /// Accepts connections until the server stops. No error ends the loop.
    async fn accept(
        self: Arc<Self>, listener: TcpListener, service: Arc<Service>, mut phase: watch::Receiver<ListenerPhase>,
    ) {
        let (mut failures, mut accepted_at_once) = (0, 0);
        let bound = listener.local_addr().ok();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = phase.wait_for(|&phase| phase > ListenerPhase::Serving) => break,
            };
            match accepted {
                Ok((stream, remote)) => {
                    failures = 0;
                    self.start_connection(stream, remote, bound, &service, &phase);
                    accepted_at_once += 1;
                    if accepted_at_once == ACCEPTED_AT_ONCE {
                        accepted_at_once = 0;
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    self.record_failure(&error, bound);
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
                self.start_connection(stream, remote, bound, &service, &phase);
            }
        }
        self.record_end();
    }

    /// Starts to serve a connection of a listener with the address `bound`, or closes it if there is no permit.
    fn start_connection(
        self: &Arc<Self>, stream: TcpStream, remote: SocketAddr, bound: Option<SocketAddr>, service: &Arc<Service>,
        phase: &watch::Receiver<ListenerPhase>,
    ) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let limit = match service.kind() {
            ListenerKind::Https | ListenerKind::Grpc => service.settings().connections,
            _ => self.connections.limits().connections,
        };
        let Some(permit) = self.acquire(limit, remote.ip(), true) else { return };
        let bound = bound.filter(|bound| !bound.ip().is_unspecified());
        let Some(local) = bound.or_else(|| stream.local_addr().ok()) else { return };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        let service = service.clone();
        let proxy = service.proxy();
        let accepted = Accepted { stream, remote, local, service, permit, phase: phase.clone(), tlvs: None };
        match proxy.map(|proxy| (proxy.rules().policy(remote.ip()), proxy)) {
            None | Some((ProxyPolicy::Skip, _)) => self.serve_connection(accepted),
            Some((policy, proxy)) => {
                tokio::spawn(self.clone().read_header(accepted, policy, proxy, limit));
            }
        }
    }

    /// Reads the header of a proxy, and serves the connection for the client of the header.
    async fn read_header(
        self: Arc<Self>, mut accepted: Accepted, policy: ProxyPolicy, proxy: Arc<ProxyProtocol>, limit: usize,
    ) {
        let reading = read_proxied(&mut accepted.stream);
        let time = accepted.service.settings().timeouts.read;
        let Some(header) = self.handshake(&accepted.permit, reading, time, &accepted.phase).await else { return };
        match (policy, header) {
            (ProxyPolicy::Reject, Some(_)) => return,
            (ProxyPolicy::Use, Some(header)) => {
                if let Some(Proxied { client, server, tlvs }) = proxy.proxied(&header) {
                    // The limits of a client are those of this one, not of the proxy.
                    let Some(permit) = self.acquire(limit, client.ip(), true) else { return };
                    (accepted.remote, accepted.local, accepted.permit) = (client, server, permit);
                    accepted.tlvs = tlvs;
                }
            }
            _ => {}
        }
        self.serve_connection(accepted);
    }

    /// Serves a connection.
    fn serve_connection(self: &Arc<Self>, accepted: Accepted) {
        let Accepted { stream, remote, local, service, permit, mut phase, tlvs } = accepted;
        // The connection reads the phase once at its start.
        phase.mark_changed();
        let http = match service.kind() {
            ListenerKind::Https => Some(Transport::Https),
            ListenerKind::Grpc => Some(Transport::Grpc),
            ListenerKind::Dns | ListenerKind::Tls | ListenerKind::Quic | ListenerKind::Https3 => None,
        };
        if let Some(transport) = http {
            let client = Client { remote, local, transport };
            tokio::spawn(https::serve(
                stream,
                Requester { client, tlvs, span: None },
                service,
                self.clone(),
                permit,
                phase,
            ));
            return;
        }
        let stream = match service.credentials() {
            None => Stream::Tcp(stream),
            Some(credentials) => match Stream::tls(stream, credentials.now()) {
                Ok(stream) => stream,
                Err(error) => return tracing::error!(%error, "cannot start TLS for a connection"),
            },
        };
        let connection = Connection::new(stream, remote, local, service, self.clone(), permit).with_tlvs(tlvs);
        tokio::spawn(connection.run(phase));
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
}
