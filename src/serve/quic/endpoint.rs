//! QUIC: the endpoint and its connections, for DNS over QUIC and HTTP/3, by quinn; and DNS over QUIC itself (RFC 9250),
//! where each query has a stream of its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_server::net::quic::DoqErrorCode;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, TransportConfig, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::chain::{Client, Transport};
use crate::serve::http::https3;
use crate::serve::request::{self, Room};
use crate::serve::tcp::accept::{Seat, Tcp};
use crate::serve::udp::mmsg::MAX_QUESTION;
use crate::serve::{Kind, Phase, Service, Settings};
use crate::wire::{Query, header};

/// The octets in front of a message, its length.
const PREFIX: usize = 2;
/// What one connection may have on its way in and out, in octets.
pub(in crate::serve) const ROOM: usize = 1 << 20;
/// What a stream, and a connection, may bring before it has been looked at, in octets.
const STREAM_WINDOW: u32 = 16 * 1024;
const WINDOW: u32 = 128 * 1024;
/// What a connection may have unacknowledged, in octets.
const SEND_WINDOW: u64 = 512 * 1024;
/// How long after the last query a connection that ends is still listened to: what is in the kernel's buffers comes then.
const LAST: Duration = Duration::from_millis(50);
/// Streams of HTTP/3 that are no requests: control and compression, and some that mean nothing.
const UNIDIRECTIONAL: u32 = 8;
/// EDNS's TCP keepalive (RFC 7828), which is not for QUIC.
const KEEPALIVE: u16 = 11;

/// An endpoint on a socket. It accepts nobody before [`serve`].
pub(in crate::serve) fn endpoint(socket: UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(quinn::TokioRuntime))
}

/// Who serves connections: what they have in common.
pub(in crate::serve) struct Host {
    /// The bounds, and the connections.
    pub(in crate::serve) tcp: Arc<Tcp>,
    pub(in crate::serve) service: Arc<Service>,
    pub(in crate::serve) transport: Transport,
    /// Where the endpoint is bound.
    local: SocketAddr,
    /// Queries that are answered at once over all connections, where there is a bound of their own.
    places: Option<Semaphore>,
}

/// Accepts connections until the server stops.
pub(in crate::serve) async fn serve(
    endpoint: Endpoint, local: SocketAddr, service: Arc<Service>, tcp: Arc<Tcp>, mut phase: watch::Receiver<Phase>,
) {
    let transport = if service.kind == Kind::Https3 { Transport::Https3 } else { Transport::Quic };
    let places = service.settings().at_once.map(|most| Semaphore::new(most as usize));
    let host = Arc::new(Host { tcp, service, transport, local, places });
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
        if let Some((connecting, seat)) = host.admit(incoming) {
            connections.spawn(host.clone().connection(connecting, seat, phase.clone()));
        }
    }
    endpoint.set_server_config(None);
    let ended = async {
        while connections.join_next().await.is_some() {}
        // Farewells are on their way.
        let _ = timeout(LAST, endpoint.wait_idle()).await;
    };
    tokio::select! {
        () = ended => {}
        _ = phase.wait_for(|&phase| phase == Phase::Ended) => {}
    }
    host.tcp.ended();
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
                config.max_incoming(self.tcp.limits.connections.min(1_000));
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

    /// Lets a connection in, if there is room, and its address is its own.
    fn admit(&self, incoming: Incoming) -> Option<(quinn::Connecting, Seat)> {
        let counters = &self.tcp.shared.counters;
        let most = self.service.settings().connections;
        // Half full: addresses that are made up must not fill the rest (RFC 9000 8.1.2).
        if !incoming.remote_address_validated() && self.tcp.open() >= most / 2 && incoming.may_retry() {
            let _ = incoming.retry();
            return None;
        }
        let Some(seat) = Seat::take(&self.tcp, incoming.remote_address().ip().to_canonical(), most) else {
            counters.connections_refused.add(1);
            incoming.refuse();
            return None;
        };
        counters.connections.add(1);
        Some((incoming.accept().ok()?, seat))
    }

    async fn connection(self: Arc<Self>, connecting: quinn::Connecting, seat: Seat, phase: watch::Receiver<Phase>) {
        let time = self.service.settings().timeouts.read;
        let Some(connection) = seat.handshake(connecting, time, &phase).await else { return };
        match self.transport {
            Transport::Https3 => https3::serve(self, connection, seat, phase).await,
            _ => self.streams(connection, seat, phase).await,
        }
    }

    /// The client of a connection.
    pub(in crate::serve) fn client(&self, connection: &Connection) -> Client {
        let remote = connection.remote_address();
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let ip = connection.local_ip().unwrap_or(self.local.ip()).to_canonical();
        Client { remote, local: SocketAddr::new(ip, self.local.port()), transport: self.transport }
    }

    /// Answers the queries of a connection, each on its stream.
    async fn streams(self: Arc<Self>, connection: Connection, seat: Seat, mut phase: watch::Receiver<Phase>) {
        let client = self.client(&connection);
        let room = Room::new(ROOM, Some(self.tcp.room.clone()));
        let mut queries = JoinSet::new();
        // Whatever the phase is now is news.
        phase.mark_changed();
        let (mut is_ending, mut is_over) = (false, false);
        while !is_over {
            seat.ticket.at_work.store(!queries.is_empty(), Ordering::Relaxed);
            tokio::select! {
                biased;
                changed = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Ended => return,
                    current => (is_ending, is_over) = (current == Phase::Ending, changed.is_err()),
                },
                () = seat.ticket.evicted.notified() => {
                    return connection.close(DoqErrorCode::ExcessiveLoad.into(), b"too many connections");
                }
                Some(ended) = queries.join_next() => {
                    if let Ok(Err(Fault)) = ended {
                        self.service.replies.count(2);
                        return connection.close(DoqErrorCode::ProtocolError.into(), b"");
                    }
                }
                accepted = connection.accept_bi() => match accepted {
                    Ok((send, receive)) => {
                        let (host, room) = (self.clone(), room.clone());
                        queries.spawn(async move { host.stream(send, receive, client, &room).await });
                    }
                    Err(_) => return,
                },
                () = tokio::time::sleep(LAST), if is_ending => is_over = queries.is_empty(),
            }
        }
        connection.close(DoqErrorCode::NoError.into(), b"");
    }

    /// Answers the query of a stream.
    async fn stream(
        &self, mut send: SendStream, mut receive: RecvStream, client: Client, room: &Arc<Room>,
    ) -> Result<(), Fault> {
        let Settings { timeouts, .. } = *self.service.settings().as_ref();
        let abandon = |send: &mut SendStream, code: DoqErrorCode| {
            self.service.replies.count(1);
            let _ = send.reset(code.into());
        };
        let (place, held) = match &self.places {
            Some(places) => (places.acquire().await.ok(), room.take(MAX_QUESTION)),
            None => (None, room.take(MAX_QUESTION)),
        };
        let Some(mut held) = held else {
            abandon(&mut send, DoqErrorCode::ExcessiveLoad);
            return Ok(());
        };
        let packet = match timeout(timeouts.read, read(&mut receive)).await {
            Ok(Ok(packet)) => packet,
            // A client that has thought better of it (RFC 9250 4.3.1) has done no wrong, nor has one that is slow.
            Ok(Err(Reading::Reset)) | Err(_) => {
                abandon(&mut send, DoqErrorCode::InternalError);
                return Ok(());
            }
            Ok(Err(Reading::Fault)) => return Err(Fault),
        };
        // RFC 9250 4.3.3.
        if packet[..2] != [0, 0] || header::accept(&packet) != header::Accept::Parse || wants_keepalive(&packet) {
            return Err(Fault);
        }
        let answer = request::answer(&packet, client, &self.service, &self.tcp.shared).await;
        drop(place);
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
}

/// Reads the query of a stream.
async fn read(receive: &mut RecvStream) -> Result<Vec<u8>, Reading> {
    let mut prefix = [0; PREFIX];
    receive.read_exact(&mut prefix).await.map_err(reading)?;
    let len = usize::from(u16::from_be_bytes(prefix));
    if !(header::LEN..=MAX_QUESTION).contains(&len) {
        return Err(Reading::Fault);
    }
    let mut packet = vec![0; len];
    receive.read_exact(&mut packet).await.map_err(reading)?;
    Ok(packet)
}

fn reading(error: quinn::ReadExactError) -> Reading {
    match error {
        quinn::ReadExactError::FinishedEarly(_) => Reading::Fault,
        quinn::ReadExactError::ReadError(_) => Reading::Reset,
    }
}

/// Whether a query has an option that must not be there.
fn wants_keepalive(packet: &[u8]) -> bool {
    let query = Query::parse(packet);
    query.is_ok_and(|query| query.edns.is_some_and(|edns| edns.option(KEEPALIVE).is_some()))
}

/// A code of HTTP/3.
pub(in crate::serve) const fn code(code: u32) -> VarInt {
    VarInt::from_u32(code)
}
