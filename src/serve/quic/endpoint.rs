//! QUIC listeners: the endpoint and its connections, for DNS over QUIC and HTTP/3, by quinn.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, TransportConfig, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::doq;
use crate::chain::{Client, Transport};
use crate::serve::http::https3;
use crate::serve::pending::PendingLimit;
use crate::serve::tcp::accept::Acceptor;
use crate::serve::tcp::limits::ConnectionPermit;
use crate::serve::{LEAVE_TIME, ListenerKind, ListenerPhase, Service, Settings};

/// The maximum number of unread bytes of a stream.
const STREAM_WINDOW: u32 = 16 * 1024;
/// The maximum number of unread bytes of a connection.
const WINDOW: u32 = 128 * 1024;
/// The maximum number of unacknowledged bytes of a connection.
const SEND_WINDOW: u64 = 512 * 1024;
/// The time after the last query for which a closing connection still reads, since queries may be in the kernel's
/// buffers.
const LAST: Duration = Duration::from_millis(50);
/// The interval of checks whether the certificate has changed, while there are no new connections.
const CONFIGURE: Duration = Duration::from_secs(1);
/// The maximum number of connections that have not been accepted yet.
const MAX_INCOMING: usize = 1_000;
/// The maximum number of streams of a connection without a configured limit.
const MAX_STREAMS: u32 = 10_000;
/// The maximum number of HTTP/3 streams that are not requests: control, compression, and reserved ones.
const UNIDIRECTIONAL: u32 = 8;

/// Creates an endpoint on a socket. It accepts no connections before [`serve`].
pub(crate) fn bind(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(quinn::TokioRuntime))
}

/// The state that the connections of a listener share.
pub(crate) struct QuicListener {
    /// The limits on the connections.
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) service: Arc<Service>,
    transport: Transport,
    /// The address of the endpoint.
    local: SocketAddr,
    /// The limit on the pending queries of this listener, if there is one.
    pub(crate) pending: Option<Arc<PendingLimit>>,
}

/// Accepts connections until the server stops.
pub(crate) async fn serve(
    endpoint: Endpoint, local: SocketAddr, service: Arc<Service>, acceptor: Arc<Acceptor>,
    mut phase: watch::Receiver<ListenerPhase>,
) {
    let transport = if service.kind() == ListenerKind::Https3 { Transport::Https3 } else { Transport::Quic };
    let pending = service.settings().at_once.map(|most| PendingLimit::new(most as usize));
    let listener = Arc::new(QuicListener { acceptor, service, transport, local, pending });
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
        if let Some((connecting, permit)) = listener.admit(incoming) {
            connections.spawn(listener.clone().serve_connection(connecting, permit, phase.clone()));
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
            .max_concurrent_bidi_streams(settings.streams.unwrap_or(MAX_STREAMS).into())
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
    fn admit(&self, incoming: Incoming) -> Option<(quinn::Connecting, ConnectionPermit)> {
        let limit = self.service.settings().connections;
        // Connections with forged addresses must not use up the limit (RFC 9000 8.1.2).
        if !incoming.remote_address_validated() && self.acceptor.open() >= limit / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            return None;
        }
        let address = incoming.remote_address().ip().to_canonical();
        let Some(permit) = self.acceptor.acquire(limit, address, false) else {
            incoming.refuse();
            return None;
        };
        Some((incoming.accept().ok()?, permit))
    }

    async fn serve_connection(
        self: Arc<Self>, connecting: quinn::Connecting, permit: ConnectionPermit, phase: watch::Receiver<ListenerPhase>,
    ) {
        let time = self.service.settings().timeouts.read;
        let Some(connection) = self.acceptor.handshake(&permit, connecting, time, &phase).await else { return };
        match self.transport {
            Transport::Https3 => https3::serve(self, connection, permit, phase).await,
            _ => doq::serve(self, connection, permit, phase).await,
        }
    }

    /// Returns the client of a connection.
    pub(crate) fn client(&self, connection: &Connection) -> Client {
        let remote = connection.remote_address();
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let ip = connection.local_ip().unwrap_or(self.local.ip()).to_canonical();
        Client { remote, local: SocketAddr::new(ip, self.local.port()), transport: self.transport }
    }
}

/// The state of a connection when the server stops.
#[derive(Default)]
pub(crate) struct Stopping {
    /// The time until which new queries are answered; `None` while the server runs.
    until: Option<Instant>,
    is_quiet: bool,
}

impl Stopping {
    /// Called when the server stops.
    pub(crate) fn begin(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + LEAVE_TIME);
    }

    /// Returns whether new queries are still answered. The time is limited, so that a client that continues to send
    /// does not delay the end.
    pub(crate) fn accepts(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Waits for [`LAST`], or for ever while the server runs.
    pub(crate) async fn wait(&self) {
        match self.until {
            Some(_) => tokio::time::sleep(LAST).await,
            None => std::future::pending().await,
        }
    }

    /// Called when nothing has arrived for [`LAST`].
    pub(crate) fn set_quiet(&mut self) {
        self.is_quiet = true;
    }

    /// Returns whether the connection can be closed. `is_idle`: no query is pending.
    pub(crate) fn is_over(&mut self, is_idle: bool) -> bool {
        let is_quiet = std::mem::take(&mut self.is_quiet);
        is_idle && (is_quiet || !self.accepts())
    }
}

/// Converts an error code of HTTP/3.
pub(crate) const fn code(code: u32) -> VarInt {
    VarInt::from_u32(code)
}
