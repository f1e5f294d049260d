//! A client of HTTP/2 for one server, whose requests share a connection, or several if a server would not answer
//! them at once over one.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, Request, Uri, response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::Error;
use super::exchange_limit::MAX_EXCHANGES;
use super::shared_connection::{Connector, ExchangeFailure, ExchangeTime, SharedConnection};
use super::tcp_pool::{ConnectionReuse, connect_tcp};
use super::trust::{Trust, TrustError, Verifier};
use crate::net::{MemoryLimit, MemoryPermit, find_tls_error, tls_reason, tls_reason_of_text};

/// The maximum number of unread bytes of one response, and of all responses.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The maximum number of bytes of requests that wait to be sent, for each request.
const SEND_BUFFER: usize = 64 * 1024;
/// The maximum size of the head of a response, in bytes.
const HEAD: u32 = 16 * 1024;
/// The maximum number of requests at once over one connection. Servers allow at least 100 streams (RFC 9113 6.5.2
/// recommends it), and a request over a limit of the server would wait behind those of other clients.
const STREAMS: usize = 100;
/// The maximum number of connections: enough for all exchanges that have a permit.
const CONNECTIONS: usize = MAX_EXCHANGES.div_ceil(STREAMS);

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Http2Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A host name and a port. The name is looked up by the system whenever a connection is made.
    Host(String, u16),
    /// The path of a Unix domain socket.
    Unix(PathBuf),
}

/// The configuration of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Http2Config {
    /// The server.
    pub address: Http2Address,
    /// The local address of connections, if it is configured.
    pub source: Option<IpAddr>,
    /// The certificates; without, connections are not encrypted.
    pub trust: Option<Trust>,
    /// How long the connection is used.
    pub reuse: ConnectionReuse,
    /// After a failure to connect, requests fail at once for this time.
    pub pause: Duration,
}

/// A response, complete.
pub(super) struct Http2Response {
    /// The status and the headers.
    pub(super) head: response::Parts,
    /// The body.
    pub(super) body: Vec<u8>,
    /// The trailers.
    pub(super) trailers: HeaderMap,
    /// The permit for the memory of the body, if it is limited.
    pub(super) held: Option<MemoryPermit>,
}

/// A client of one server.
pub(super) struct Http2Client {
    connector: Arc<Http2Connector>,
    /// A request uses the first one with less than [`STREAMS`] requests, so that most are never opened.
    connections: Box<[CountedConnection]>,
}

/// A connection, and how many requests use it.
struct CountedConnection {
    connection: Arc<SharedConnection<Arc<Http2Connector>>>,
    requests: AtomicUsize,
}

/// The use of a connection by a request.
struct ConnectionUse<'a>(&'a CountedConnection);

/// A connection.
#[derive(Clone)]
struct Http2Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The error that has ended the connection. Written when it ends; read for requests that end with it.
    ended: watch::Receiver<Option<Error>>,
}

/// Makes connections to one server.
struct Http2Connector {
    address: Http2Address,
    source: Option<IpAddr>,
    label: Arc<str>,
    tls: Option<TlsSetup>,
    runtime: Handle,
    record: Box<dyn Fn(bool) + Send + Sync>,
}

/// What connections with TLS need.
struct TlsSetup {
    connector: TlsConnector,
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
}

impl Http2Address {
    /// Returns the address in logs, errors and metrics.
    pub fn label(&self) -> String {
        match self {
            Http2Address::Socket(address) => address.to_string(),
            Http2Address::Host(name, port) => format!("{name}:{port}"),
            Http2Address::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// Returns the host of this address for a URI.
    fn authority(&self) -> String {
        match self {
            Http2Address::Socket(_) | Http2Address::Host(..) => self.label(),
            Http2Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Returns the name that a certificate must have, without a configured one.
    fn server_name(&self) -> Result<ServerName<'static>, TrustError> {
        let name = match self {
            Http2Address::Socket(address) => return Ok(ServerName::IpAddress(address.ip().into())),
            Http2Address::Host(name, _) => name.clone(),
            Http2Address::Unix(_) => "localhost".to_owned(),
        };
        ServerName::try_from(name.clone()).map_err(|_| TrustError::ServerName(name))
    }
}

impl Http2Client {
    /// Creates a client without a connection. `record` is called with each request, see [`Connector::record_use`].
    pub(super) fn new(
        config: &Http2Config, runtime: Handle, record: impl Fn(bool) + Send + Sync + 'static,
    ) -> Result<Http2Client, TrustError> {
        let Http2Config { address, source, trust, reuse, pause } = config;
        let tls = match trust {
            None => None,
            Some(trust) => {
                let (mut tls, verifier): (ClientConfig, _) = trust.client_config()?;
                tls.alpn_protocols = vec![b"h2".to_vec()];
                let name = match &trust.server_name {
                    Some(name) => {
                        ServerName::try_from(name.clone()).map_err(|_| TrustError::ServerName(name.clone()))?
                    }
                    None => address.server_name()?,
                };
                Some(TlsSetup { connector: TlsConnector::from(Arc::new(tls)), name, verifier })
            }
        };
        let connector = Http2Connector {
            address: address.clone(),
            source: *source,
            label: address.label().into(),
            tls,
            runtime: runtime.clone(),
            record: Box::new(record),
        };
        let connector = Arc::new(connector);
        let connections = (0..CONNECTIONS).map(|_| CountedConnection {
            connection: Arc::new(SharedConnection::new(connector.clone(), *reuse, *pause, runtime.clone())),
            requests: AtomicUsize::new(0),
        });
        let connections = connections.collect();
        Ok(Http2Client { connector, connections })
    }

    /// Returns the name of the server in errors.
    pub(super) fn label(&self) -> &Arc<str> {
        &self.connector.label
    }

    /// Returns a connection that may get another request; if all have many, the one with the fewest.
    fn choose(&self) -> ConnectionUse<'_> {
        let mut connections = self.connections.iter();
        if let Some(free) = connections.find(|connection| connection.count_unless_full()) {
            return ConnectionUse(free);
        }
        let fewest = self.connections.iter().min_by_key(|connection| connection.requests.load(Ordering::Relaxed));
        let chosen = fewest.unwrap_or(&self.connections[0]);
        chosen.requests.fetch_add(1, Ordering::Relaxed);
        ConnectionUse(chosen)
    }

    /// Returns the URI of a path on the server, whose host is the name in the certificate if one is configured.
    pub(super) fn uri(&self, host: Option<&str>, path: &str) -> Result<Uri, Error> {
        let connector = &self.connector;
        let scheme = if connector.tls.is_some() { "https" } else { "http" };
        let authority = host.map_or_else(|| connector.address.authority(), str::to_owned);
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
        uri.map_err(|error| Error::Protocol(connector.label.clone(), error.to_string()))
    }

    /// Sends a request, and returns its response, whose body has at most `limit` bytes, of `memory` if there is one.
    pub(super) async fn request(
        &self, request: Request<Full<Bytes>>, limit: usize, memory: Option<&Arc<MemoryLimit>>, time: ExchangeTime,
    ) -> Result<Http2Response, Error> {
        let connector = &self.connector;
        let send = |mut connection: Http2Connection| {
            let request = request.clone();
            async move {
                let sent = match connection.sender.ready().await {
                    Ok(()) => connection.sender.send_request(request).await,
                    Err(error) => Err(error),
                };
                match sent {
                    Ok(response) => connector.read(response, limit, memory).await,
                    // Requests that are waiting when the connection ends do not get the reason, such as a certificate
                    // that the server does not accept, which it says after its own handshake.
                    Err(error) => Err(connection.reason(&error).await.unwrap_or_else(|| connector.failure(&error))),
                }
            }
        };
        let chosen = self.choose();
        chosen.0.connection.exchange(time, send).await
    }
}

impl Http2Connection {
    /// Returns why a connection has ended whose end was the error of a request.
    async fn reason(&mut self, error: &hyper::Error) -> Option<ExchangeFailure> {
        if !error.is_canceled() && !error.is_closed() {
            return None;
        }
        // An error means that the connection has ended without one.
        let ended = self.ended.wait_for(Option::is_some).await.ok()?;
        ended.clone().map(|error| ExchangeFailure { error, is_broken: true })
    }
}

impl CountedConnection {
    /// Counts another request, unless there are [`STREAMS`].
    fn count_unless_full(&self) -> bool {
        let more = |requests| (requests < STREAMS).then_some(requests + 1);
        self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl Drop for ConnectionUse<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connector for Arc<Http2Connector> {
    type Connection = Http2Connection;

    fn label(&self) -> &Arc<str> {
        &self.label
    }

    async fn open(&self) -> Result<Http2Connection, Error> {
        match &self.address {
            Http2Address::Unix(path) => self.handshake(UnixStream::connect(path).await.map_err(|e| self.io(&e))?).await,
            Http2Address::Socket(address) => self.connect([*address]).await,
            Http2Address::Host(name, port) => {
                let found = tokio::net::lookup_host((name.as_str(), *port)).await;
                let found = found.map_err(|error| Error::Protocol(self.label.clone(), error.to_string()))?;
                self.connect(found).await
            }
        }
    }

    fn is_closed(&self, connection: &Http2Connection) -> bool {
        connection.sender.is_closed()
    }

    fn record_use(&self, was_open: bool) {
        (self.record)(was_open);
    }
}

impl Http2Connector {
    /// Connects to the first of these addresses that accepts the connection.
    async fn connect(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Result<Http2Connection, Error> {
        let mut failed = Error::Connection(self.label.clone(), io::ErrorKind::NotFound);
        for address in addresses {
            match connect_tcp(address, self.source).await {
                Ok(stream) => return self.handshake(stream).await,
                Err(error) => failed = self.io(&error),
            }
        }
        Err(failed)
    }

    /// Starts HTTP/2 on a stream, within TLS if it is configured.
    async fn handshake(
        &self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Http2Connection, Error> {
        let Some(TlsSetup { connector, name, verifier }) = &self.tls else { return self.start(stream).await };
        let stream = connector.connect(name.clone(), stream).await.map_err(|error| match verifier.take_reason() {
            Some(reason) => Error::Protocol(self.label.clone(), reason),
            None => self.io(&error),
        })?;
        self.start(stream).await
    }

    async fn start(
        &self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Http2Connection, Error> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failure(&self.label, &error).error)?;
        // It ends when the last sender is dropped, or by an error, which its requests get.
        let (end, ended) = watch::channel(None);
        let label = self.label.clone();
        self.runtime.spawn(async move {
            if let Err(error) = connection.await {
                end.send_replace(Some(failure(&label, &error).error));
            }
        });
        Ok(Http2Connection { sender, ended })
    }

    /// Reads the response.
    async fn read(
        &self, response: http::Response<Incoming>, limit: usize, memory: Option<&Arc<MemoryLimit>>,
    ) -> Result<Http2Response, ExchangeFailure> {
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut held = memory.map(MemoryLimit::permit);
        while let Some(frame) = incoming.frame().await {
            match frame.map_err(|error| self.failure(&error))?.into_data() {
                Ok(piece) if body.len() + piece.len() > limit => {
                    let error = Error::TooLarge(self.label.clone(), limit);
                    return Err(ExchangeFailure { error, is_broken: false });
                }
                Ok(piece) if held.as_mut().is_some_and(|held| !held.resize(body.len() + piece.len())) => {
                    return Err(ExchangeFailure { error: Error::Full, is_broken: false });
                }
                Ok(piece) => body.extend_from_slice(&piece),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        Ok(Http2Response { head, body, trailers, held })
    }

    fn io(&self, error: &io::Error) -> Error {
        io_error(&self.label, error)
    }

    fn failure(&self, error: &hyper::Error) -> ExchangeFailure {
        failure(&self.label, error)
    }
}

fn io_error(label: &Arc<str>, error: &io::Error) -> Error {
    match find_tls_error(error) {
        Some(error) => Error::Protocol(label.clone(), tls_reason(error)),
        // HTTP/2 keeps the text of an error of TLS only.
        None if error.kind() == io::ErrorKind::InvalidData => match error.get_ref() {
            Some(error) => Error::Protocol(label.clone(), tls_reason_of_text(&error.to_string())),
            None => Error::Connection(label.clone(), io::ErrorKind::InvalidData),
        },
        None => Error::Connection(label.clone(), error.kind()),
    }
}

/// Returns why a request or a connection has failed. A stream that was reset concerns only its request.
fn failure(label: &Arc<str>, error: &hyper::Error) -> ExchangeFailure {
    let mut source = StdError::source(error);
    let mut is_broken = true;
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return ExchangeFailure { error: io_error(label, error), is_broken };
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            is_broken = !error.is_reset();
            if let Some(error) = error.get_io() {
                return ExchangeFailure { error: io_error(label, error), is_broken };
            }
        }
        source = cause.source();
    }
    let cause = StdError::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    ExchangeFailure { error: Error::Protocol(label.clone(), cause), is_broken }
}
