//! QUIC listeners: the endpoint and its connections, for DNS over QUIC and HTTP/3, by quinn.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, Runtime as _, TransportConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::doq;
use super::listener::{LAST, QuicListener};
use super::proxied::{ConnectionOrigin, ProxiedSocket};
use super::streams::StreamLimit;
use crate::chain::Transport;
use crate::serve::http::https3;
use crate::serve::pending::PendingLimit;
use crate::serve::tcp::acceptor::Acceptor;
use crate::serve::tcp::limits::ConnectionPermit;
use crate::serve::{ListenerKind, ListenerPhase, Service, Settings};

/// The maximum number of unread bytes of a stream.
const STREAM_WINDOW: u32 = 16 * 1024;
/// The maximum number of unread bytes of a connection.
const WINDOW: u32 = 128 * 1024;
/// The maximum number of unacknowledged bytes of a connection.
const SEND_WINDOW: u64 = 512 * 1024;
/// The interval of checks whether the certificate has changed, while there are no new connections.
const CONFIGURE: Duration = Duration::from_secs(1);
/// The maximum number of connections that have not been accepted yet.
const MAX_INCOMING: usize = 1_000;
/// The maximum number of HTTP/3 streams that are not requests: control, compression, and reserved ones.
const UNIDIRECTIONAL: u32 = 8;

/// An endpoint and its socket.
pub(crate) struct QuicEndpoint {
    endpoint: Endpoint,
    socket: Arc<ProxiedSocket>,
}

/// Creates the endpoint of a service on a socket. It accepts no connections before [`serve`].
pub(crate) fn bind(socket: UdpSocket, service: Arc<Service>) -> io::Result<QuicEndpoint> {
    let runtime = Arc::new(quinn::TokioRuntime);
    let socket = Arc::new(ProxiedSocket::new(runtime.wrap_udp_socket(socket)?, service)?);
    let config = EndpointConfig::default();
    let endpoint = Endpoint::new_with_abstract_socket(config, None, socket.clone(), runtime)?;
    Ok(QuicEndpoint { endpoint, socket })
}

/// Accepts connections until the server stops.
pub(crate) async fn serve(
    bound: QuicEndpoint, local: SocketAddr, service: Arc<Service>, acceptor: Arc<Acceptor>,
    mut phase: watch::Receiver<ListenerPhase>,
) {
    let QuicEndpoint { endpoint, socket } = bound;
    let transport = if service.kind() == ListenerKind::Https3 { Transport::Https3 } else { Transport::Quic };
    let pending = service.settings().at_once.map(|most| PendingLimit::new(most as usize));
    let listener = Arc::new(QuicListener { acceptor, service, transport, socket, local, pending });
    let mut configured: Option<(Arc<rustls::ServerConfig>, Settings)> = None;
    let mut connections = JoinSet::new();
    loop {
        listener.configure(&endpoint, &mut configured);
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = connections.join_next() => continue,
            _ = phase.wait_for(|&phase| phase > ListenerPhase::Serving) => break,
            () = tokio::time::sleep(CONFIGURE) => continue,
        };
        let Some(incoming) = incoming else { break };
        if let Some(admitted) = listener.admit(incoming) {
            connections.spawn(listener.clone().serve_connection(admitted, phase.clone()));
        }
    }
    endpoint.set_server_config(None);
    let ended = async {
        while connections.join_next().await.is_some() {}
        // The last packets of connections are still being sent.
        let _ = timeout(LAST, endpoint.wait_idle()).await;
    };
    tokio::select! {
        () = ended => {}
        _ = phase.wait_for(|&phase| phase == ListenerPhase::Ended) => {}
    }
    listener.acceptor.record_end();
}

/// Returns whether the token of a Retry has the whole of an address. It has no flow label and no scope: a client behind
/// a proxy, whose header is trusted, and one of this link could never return it.
fn is_in_tokens(address: SocketAddr) -> bool {
    SocketAddr::new(address.ip(), address.port()) == address
}

/// A connection with a permit.
struct AdmittedConnection {
    connecting: quinn::Connecting,
    origin: ConnectionOrigin,
    permit: ConnectionPermit,
}

impl QuicListener {
    /// Sets the current credentials and settings for new connections.
    fn configure(&self, endpoint: &Endpoint, configured: &mut Option<(Arc<rustls::ServerConfig>, Settings)>) {
        let (Some(credentials), settings) = (self.service.credentials(), *self.service.settings()) else { return };
        let tls = credentials.now();
        if configured.as_ref().is_some_and(|(of, with)| Arc::ptr_eq(of, &tls) && *with == settings) {
            return;
        }
        match QuicServerConfig::try_from(tls.clone()) {
            Ok(crypto) => {
                let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
                config.transport_config(Arc::new(self.transport_config(&settings)));
                config.max_incoming(MAX_INCOMING);
                endpoint.set_server_config(Some(config));
            }
            // The certificate was checked when it was read, so that this is not expected.
            Err(error) => tracing::error!(%error, "the certificate cannot be used for QUIC"),
        }
        *configured = Some((tls, settings));
    }

    fn transport_config(&self, settings: &Settings) -> TransportConfig {
        let mut config = TransportConfig::default();
        let unidirectional = if self.transport == Transport::Https3 { UNIDIRECTIONAL } else { 0 };
        config
            .max_concurrent_bidi_streams(StreamLimit::new(settings).current().into())
            .max_concurrent_uni_streams(unidirectional.into())
            .stream_receive_window(STREAM_WINDOW.into())
            .receive_window(WINDOW.into())
            .send_window(SEND_WINDOW)
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(settings.timeouts.idle.try_into().ok());
        config
    }

    /// Accepts a connection if there is a permit. From half the limit on, the client first has to show that its address
    /// is not forged.
    fn admit(&self, incoming: Incoming) -> Option<AdmittedConnection> {
        let limit = self.service.settings().connections;
        // Connections with forged addresses must not use up the limit (RFC 9000 8.1.2).
        let is_checked = incoming.remote_address_validated() || !is_in_tokens(incoming.remote_address());
        if !is_checked && self.acceptor.open() >= limit / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            return None;
        }
        // The limits of a client are those of the client that the header of a proxy names.
        let origin = self.socket.origin(incoming.remote_address());
        let permit = origin.as_ref().and_then(|origin| self.acceptor.acquire(limit, origin.ip(), false));
        let (Some(origin), Some(permit)) = (origin, permit) else {
            incoming.refuse();
            return None;
        };
        Some(AdmittedConnection { connecting: incoming.accept().ok()?, origin, permit })
    }

    async fn serve_connection(self: Arc<Self>, admitted: AdmittedConnection, phase: watch::Receiver<ListenerPhase>) {
        let AdmittedConnection { connecting, origin, permit } = admitted;
        let time = self.service.settings().timeouts.read;
        let Some(connection) = self.acceptor.handshake(&permit, connecting, time, &phase).await else { return };
        let requester = self.requester(&connection, origin);
        match self.transport {
            Transport::Https3 => https3::serve(self, connection, requester, permit, phase).await,
            _ => doq::serve(self, connection, requester, permit, phase).await,
        }
    }
}
