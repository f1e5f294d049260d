//! QUIC: the endpoint and its connections, for DNS over QUIC and HTTP/3, by quinn; and DNS over QUIC itself (RFC 9250),
//! where each query has a stream of its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::net::quic::DoqErrorCode;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::chain::{Client, Transport};
use crate::serve::framing::{PREFIX, is_quic_query, quic_query_len};
use crate::serve::http::https3;
use crate::serve::pending::PendingLimit;
use crate::serve::request::{self, Held, Room};
use crate::serve::tcp::accept::Acceptor;
use crate::serve::tcp::limits::{Activity, ConnectionPermit};
use crate::serve::{Kind, LEAVE_TIME, Phase, Service, Settings};

/// What one connection may have on its way in and out, in octets.
pub(crate) const ROOM: usize = 1 << 20;
/// What a stream, and a connection, may bring before it has been looked at, in octets.
const STREAM_WINDOW: u32 = 16 * 1024;
const WINDOW: u32 = 128 * 1024;
/// What a connection may have unacknowledged, in octets.
const SEND_WINDOW: u64 = 512 * 1024;
/// How long after the last query a connection that ends is still listened to: what is in the kernel's buffers comes then.
const LAST: Duration = Duration::from_millis(50);
/// Connections that have not been accepted yet.
const MAX_INCOMING: usize = 1_000;
/// Streams of HTTP/3 that are no requests: control and compression, and some that mean nothing.
const UNIDIRECTIONAL: u32 = 8;

/// An endpoint on a socket. It accepts nobody before [`serve`].
pub(crate) fn endpoint(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(quinn::TokioRuntime))
}

/// Who serves connections: what they have in common.
pub(crate) struct Host {
    /// Limits and books of the connections.
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) service: Arc<Service>,
    pub(crate) transport: Transport,
    /// Where the endpoint is bound.
    local: SocketAddr,
    /// The limit on queries that are pending at once over all connections, if they have one of their own.
    pending: Option<Arc<PendingLimit>>,
}

/// Accepts connections until the server stops.
pub(crate) async fn serve(
    endpoint: Endpoint, local: SocketAddr, service: Arc<Service>, acceptor: Arc<Acceptor>,
    mut phase: watch::Receiver<Phase>,
) {
    let transport = if service.kind == Kind::Https3 { Transport::Https3 } else { Transport::Quic };
    let pending = service.settings().at_once.map(|most| PendingLimit::new(most as usize));
    let host = Arc::new(Host { acceptor, service, transport, local, pending });
    let mut configured: Option<(Arc<rustls::ServerConfig>, Settings)> = None;
    let mut connections = JoinSet::new();
    loop {
        host.configure(&endpoint, &mut configured);
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = connections.join_next() => continue,
            _ = phase.wait_for(|&phase| phase > Phase::Serving) => break,
            // The certificate may have changed since, and what comes next is met with the new one.
            () = tokio::time::sleep(Duration::from_secs(1)) => continue,
        };
        let Some(incoming) = incoming else { break };
        if let Some((connecting, permit)) = host.admit(incoming) {
            connections.spawn(host.clone().connection(connecting, permit, phase.clone()));
        }
    }
    endpoint.set_server_config(None);
    let ended = async {
        while connections.join_next().await.is_some() {}
        // The last packets of connections are on their way.
        let _ = timeout(LAST, endpoint.wait_idle()).await;
    };
    tokio::select! {
        () = ended => {}
        _ = phase.wait_for(|&phase| phase == Phase::Ended) => {}
    }
    host.acceptor.ended();
}

impl Host {
    /// Meets new connections with the credentials and settings of now.
    fn configure(&self, endpoint: &Endpoint, configured: &mut Option<(Arc<rustls::ServerConfig>, Settings)>) {
        let (Some(credentials), settings) = (self.service.credentials(), *self.service.settings().as_ref()) else {
            return;
        };
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
            // It was looked at when it was read.
            Err(error) => tracing::error!(%error, "the certificate is of no use for QUIC"),
        }
        *configured = Some((tls, settings));
    }

    fn transport_config(&self, settings: &Settings) -> TransportConfig {
        let mut config = TransportConfig::default();
        let unidirectional = if self.transport == Transport::Https3 { UNIDIRECTIONAL } else { 0 };
        config
            .max_concurrent_bidi_streams(settings.streams.unwrap_or(10_000).into())
            .max_concurrent_uni_streams(unidirectional.into())
            .stream_receive_window(STREAM_WINDOW.into())
            .receive_window(WINDOW.into())
            .send_window(SEND_WINDOW)
            .datagram_receive_buffer_size(None)
            .max_idle_timeout(settings.timeouts.idle.try_into().ok());
        config
    }

    /// Accepts a connection, if it gets a permit and its address is its own.
    fn admit(&self, incoming: Incoming) -> Option<(quinn::Connecting, ConnectionPermit)> {
        let most = self.service.settings().connections;
        // Half full: addresses that are made up must not fill the rest (RFC 9000 8.1.2).
        if !incoming.remote_address_validated() && self.acceptor.open() >= most / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            return None;
        }
        let address = incoming.remote_address().ip().to_canonical();
        let Some(permit) = self.acceptor.acquire(most, address, false) else {
            incoming.refuse();
            return None;
        };
        Some((incoming.accept().ok()?, permit))
    }

    async fn connection(
        self: Arc<Self>, connecting: quinn::Connecting, permit: ConnectionPermit, phase: watch::Receiver<Phase>,
    ) {
        let time = self.service.settings().timeouts.read;
        let Some(connection) = self.acceptor.handshake(&permit, connecting, time, &phase).await else { return };
        match self.transport {
            Transport::Https3 => https3::serve(self, connection, permit, phase).await,
            _ => self.streams(connection, permit, phase).await,
        }
    }

    /// The client of a connection.
    pub(crate) fn client(&self, connection: &Connection) -> Client {
        let remote = connection.remote_address();
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let ip = connection.local_ip().unwrap_or(self.local.ip()).to_canonical();
        Client { remote, local: SocketAddr::new(ip, self.local.port()), transport: self.transport }
    }

    /// Answers the queries of a connection, each on its stream.
    async fn streams(
        self: Arc<Self>, connection: Connection, permit: ConnectionPermit, mut phase: watch::Receiver<Phase>,
    ) {
        let client = self.client(&connection);
        let room = Room::new(ROOM, Some(self.acceptor.room.clone()));
        let mut queries = JoinSet::new();
        // Whatever the phase is now is news.
        phase.mark_changed();
        let mut stopping = Stopping::default();
        while !stopping.is_over(queries.is_empty()) {
            tokio::select! {
                biased;
                changed = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Serving if changed.is_ok() => {}
                    Phase::Ending if changed.is_ok() => stopping.begin(),
                    _ => return,
                },
                () = permit.activity.evicted() => {
                    return connection.close(DoqErrorCode::ExcessiveLoad.into(), b"too many connections");
                }
                Some(ended) = queries.join_next() => {
                    if let Ok(Err(Fault)) = ended {
                        self.service.replies.count(2);
                        return connection.close(DoqErrorCode::ProtocolError.into(), b"");
                    }
                }
                accepted = connection.accept_bi(), if stopping.accepts() => match accepted {
                    Ok((send, receive)) => {
                        let (host, room, activity) = (self.clone(), room.clone(), permit.activity.clone());
                        queries.spawn(async move { host.stream(send, receive, client, &room, &activity).await });
                    }
                    Err(_) => return,
                },
                () = stopping.next() => stopping.is_quiet(),
            }
        }
        connection.close(DoqErrorCode::NoError.into(), b"");
    }

    /// Answers the query of a stream.
    async fn stream(
        &self, mut send: SendStream, mut receive: RecvStream, client: Client, room: &Arc<Room>,
        activity: &Arc<Activity>,
    ) -> Result<(), Fault> {
        let Settings { timeouts, .. } = *self.service.settings().as_ref();
        let abandon = |send: &mut SendStream, code: DoqErrorCode| {
            self.service.replies.count(1);
            let _ = send.reset(code.into());
        };
        let Some(mut held) = room.take(0) else {
            abandon(&mut send, DoqErrorCode::ExcessiveLoad);
            return Ok(());
        };
        let packet = match timeout(timeouts.read, read(&mut receive, &mut held)).await {
            Ok(Ok(packet)) => packet,
            // A client that has thought better of it (RFC 9250 4.3.1) has done no wrong, nor has one that is slow.
            Ok(Err(Reading::Reset)) | Err(_) => {
                abandon(&mut send, DoqErrorCode::InternalError);
                return Ok(());
            }
            Ok(Err(Reading::Full)) => {
                abandon(&mut send, DoqErrorCode::ExcessiveLoad);
                return Ok(());
            }
            Ok(Err(Reading::Fault)) => return Err(Fault),
        };
        // RFC 9250 4.3.3.
        if !is_quic_query(&packet) {
            return Err(Fault);
        }
        let busy = activity.query();
        let pending = self.pending.as_ref();
        let answer = request::answer_within(&packet, client, &self.service, &self.acceptor.shared, pending).await;
        drop(busy);
        let Some(answer) = answer.filter(|answer| held.resize(answer.len())) else {
            abandon(&mut send, DoqErrorCode::InternalError);
            return Ok(());
        };
        let written = timeout(timeouts.write, async {
            send.write_all(&(answer.len() as u16).to_be_bytes()).await?;
            send.write_all(&answer).await?;
            Ok::<_, quinn::WriteError>(())
        });
        if !matches!(written.await, Ok(Ok(()))) {
            abandon(&mut send, DoqErrorCode::InternalError);
            return Ok(());
        }
        self.service.replies.count(0);
        // The room is given back when the client has the answer.
        if send.finish().is_ok() {
            let _ = timeout(timeouts.write, send.stopped()).await;
        }
        Ok(())
    }
}

/// The client does not keep to the protocol; the connection is of no use any more.
struct Fault;

/// Why there is no query on a stream.
enum Reading {
    /// The client has taken it back, or the connection is gone.
    Reset,
    /// It is no query.
    Fault,
    /// The connection, or all of them, hold too much already.
    Full,
}

/// Reads the query of a stream. What has come of it is held, and no more.
async fn read(receive: &mut RecvStream, held: &mut Held) -> Result<Vec<u8>, Reading> {
    let mut prefix = [0; PREFIX];
    receive.read_exact(&mut prefix).await.map_err(reading)?;
    let len = quic_query_len(prefix).ok_or(Reading::Fault)?;
    let mut packet = Vec::new();
    while packet.len() < len {
        let piece = receive.read_chunk(len - packet.len(), true).await.map_err(|_| Reading::Reset)?;
        packet.extend_from_slice(&piece.ok_or(Reading::Fault)?.bytes);
        if !held.resize(packet.len()) {
            return Err(Reading::Full);
        }
    }
    Ok(packet)
}

/// How far a connection is on its way to the end, once the server stops.
#[derive(Default)]
pub(crate) struct Stopping {
    /// Until when queries that come are still answered.
    until: Option<Instant>,
    is_quiet: bool,
}

impl Stopping {
    /// The server stops.
    pub(crate) fn begin(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + LEAVE_TIME);
    }

    /// Whether queries that come are still answered. A client that sends more and more does not hold up the end.
    pub(crate) fn accepts(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Waits until nothing has come for [`LAST`], which is never as long as the server goes on.
    pub(crate) async fn next(&self) {
        match self.until {
            Some(_) => tokio::time::sleep(LAST).await,
            None => std::future::pending().await,
        }
    }

    /// Nothing has come for [`LAST`].
    pub(crate) fn is_quiet(&mut self) {
        self.is_quiet = true;
    }

    /// Whether the connection is over, given that no query waits for its answer.
    pub(crate) fn is_over(&mut self, is_idle: bool) -> bool {
        let is_quiet = std::mem::take(&mut self.is_quiet);
        is_idle && (is_quiet || !self.accepts())
    }
}

fn reading(error: quinn::ReadExactError) -> Reading {
    match error {
        quinn::ReadExactError::FinishedEarly(_) => Reading::Fault,
        quinn::ReadExactError::ReadError(_) => Reading::Reset,
    }
}

/// A code of HTTP/3.
pub(crate) const fn code(code: u32) -> VarInt {
    VarInt::from_u32(code)
}
