//! DNS over TLS, HTTPS and QUIC to another server, by hickory's client: one connection that many queries share.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_server::net::h2::HttpsClientStream;
use hickory_server::net::proto::op::{DnsRequest, DnsRequestOptions, Message};
use hickory_server::net::quic::QuicClientStream;
use hickory_server::net::runtime::{RuntimeProvider, Spawn, TokioRuntimeProvider};
use hickory_server::net::xfer::{DnsExchange, DnsHandle, FirstAnswer};
use hickory_server::net::{NetError, tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout_at;

use super::Error;
use super::group::Transport;
use super::health::Server;
use super::metrics::UpstreamMetrics;
use super::tcp_pool::Keeping;
use crate::wire::Type;

/// Exchanges that one server may have at once; past it a query fails.
const MOST: usize = 1_000;
/// Where queries over HTTPS go (RFC 8484 4.1.1's example, and everybody's choice).
const PATH: &str = "/dns-query";
/// How often it is looked whether a connection is used.
const SWEEP: Duration = Duration::from_secs(1);

/// Whom an encrypted server must be, and who we are to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The name in its certificate; its address without.
    pub server_name: Option<String>,
    /// The authorities that it may have its certificate from; this machine's without.
    pub authorities: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Trust {
    /// Reads the files. An error names the one that is no certificate or key.
    pub fn check(&self) -> Result<(), String> {
        client_config(self).map(drop)
    }
}

/// The connection to one server.
pub(super) struct Secure {
    address: SocketAddr,
    transport: Transport,
    source: Option<IpAddr>,
    label: Arc<str>,
    keeping: Keeping,
    server_name: ServerName<'static>,
    config: ClientConfig,
    /// What runs connections; they end with it.
    provider: TokioRuntimeProvider,
    runtime: Handle,
    metrics: Arc<UpstreamMetrics>,
    places: Semaphore,
    /// Held while a connection is made, so that those who need one wait for the same.
    connection: Mutex<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    exchange: DnsExchange<TokioRuntimeProvider>,
    number: u64,
    opened: Instant,
    used: Instant,
    /// It has failed somebody.
    dead: bool,
}

impl Secure {
    /// Nothing is connected yet. An error names the file that is no certificate or key.
    pub(super) fn new(server: &Server, runtime: Handle, metrics: Arc<UpstreamMetrics>) -> Result<Secure, String> {
        let Server { address, transport, source, keeping, trust, .. } = server;
        let server_name = match &trust.server_name {
            Some(name) => ServerName::try_from(name.clone()).map_err(|_| format!("'{name}' is no server name"))?,
            None => ServerName::IpAddress(address.ip().into()),
        };
        Ok(Secure {
            address: *address,
            transport: *transport,
            source: *source,
            label: address.to_string().into(),
            keeping: *keeping,
            server_name,
            config: client_config(trust)?,
            provider: TokioRuntimeProvider::new(),
            runtime,
            metrics,
            places: Semaphore::new(MOST),
            connection: Mutex::default(),
        })
    }

    /// Sends a query and gives the answer.
    pub(super) async fn exchange(self: &Arc<Self>, packet: Vec<u8>, deadline: Instant) -> Result<Vec<u8>, Error> {
        let Ok(_place) = self.places.try_acquire() else { return Err(Error::Full) };
        let message = Message::from_vec(&packet).map_err(|_| Error::Malformed(self.label.clone()))?;
        let is_transfer = message.queries.iter().any(|query| {
            let qtype = u16::from(query.query_type());
            qtype == Type::AXFR.0 || qtype == Type::IXFR.0
        });
        if is_transfer && self.transport == Transport::Quic {
            return Err(Error::Unsupported(self.label.clone()));
        }
        match timeout_at(deadline.into(), self.exchange_kept(&message)).await {
            Ok(result) => result,
            Err(_) => {
                // Whoever does not answer gets a new connection next time.
                self.forget(None).await;
                Err(Error::Timeout(self.label.clone()))
            }
        }
    }

    /// The same on the connection there is, and once more on a fresh one where that is dead.
    async fn exchange_kept(self: &Arc<Self>, message: &Message) -> Result<Vec<u8>, Error> {
        loop {
            let (connection, kept) = self.connection().await?;
            let request = DnsRequest::new(message.clone(), DnsRequestOptions::default());
            match connection.exchange.send(request).first_answer().await {
                Ok(answer) => return Ok(answer.into_buffer()),
                Err(error) => {
                    self.forget(Some(connection.number)).await;
                    if !kept {
                        return Err(self.failed(&error));
                    }
                }
            }
        }
    }

    fn failed(&self, error: &NetError) -> Error {
        match error {
            NetError::Timeout => Error::Timeout(self.label.clone()),
            NetError::Io(error) => Error::Connection(self.label.clone(), error.kind()),
            error => Error::Protocol(self.label.clone(), error.to_string()),
        }
    }

    /// The connection, and whether it was there already.
    async fn connection(self: &Arc<Self>) -> Result<(Connection, bool), Error> {
        let mut held = self.connection.lock().await;
        let now = Instant::now();
        if let Some(connection) = held.as_mut().filter(|connection| self.is_good(connection, now)) {
            connection.used = now;
            self.metrics.stream(true);
            return Ok((connection.clone(), true));
        }
        self.metrics.stream(false);
        let number = held.take().map_or(0, |connection| connection.number + 1);
        let exchange = self.connect().await.map_err(|error| self.failed(&error))?;
        let connection = Connection { exchange, number, opened: now, used: now, dead: false };
        *held = Some(connection.clone());
        self.watch(number);
        Ok((connection, false))
    }

    fn is_good(&self, connection: &Connection, now: Instant) -> bool {
        let Keeping { expire, max_age, .. } = self.keeping;
        !connection.dead
            && now.saturating_duration_since(connection.used) < expire
            && (max_age.is_zero() || now.saturating_duration_since(connection.opened) < max_age)
    }

    /// Makes the next query open a new connection, unless that has happened since.
    async fn forget(&self, number: Option<u64>) {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_mut().filter(|of| number.is_none_or(|number| of.number == number)) {
            // It stays for those who wait on it, and for its number.
            connection.dead = true;
        }
    }

    /// Closes a connection that nobody uses.
    fn watch(self: &Arc<Self>, number: u64) {
        let secure = Arc::downgrade(self);
        self.runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(secure) = secure.upgrade() else { return };
                let mut held = secure.connection.lock().await;
                match held.as_ref() {
                    Some(connection) if connection.number == number => {
                        if !secure.is_good(connection, Instant::now()) {
                            *held = None;
                            return;
                        }
                    }
                    _ => return,
                }
            }
        });
    }

    async fn connect(&self) -> Result<DnsExchange<TokioRuntimeProvider>, NetError> {
        let (provider, source) = (self.provider.clone(), self.source.map(|ip| SocketAddr::new(ip, 0)));
        let name: Arc<str> = self.server_name.to_str().into();
        match self.transport {
            Transport::Https => {
                let mut builder = HttpsClientStream::builder(Arc::new(self.config.clone()), provider);
                if let Some(source) = source {
                    builder.bind_addr(source);
                }
                builder.exchange(self.address, name, PATH.into()).await
            }
            Transport::Quic => {
                let mut builder = QuicClientStream::builder().crypto_config(self.config.clone());
                if let Some(source) = source {
                    builder = builder.bind_addr(source);
                }
                let stream = builder.build(self.address, name).await?;
                let (exchange, background) = DnsExchange::from_stream(stream);
                provider.create_handle().spawn_bg(background);
                Ok(exchange)
            }
            Transport::Tls | Transport::Dns => {
                let (name, config) = (self.server_name.clone(), self.config.clone());
                let time = super::attempts::PATIENCE;
                tls::tls_exchange_with_bind_addr(self.address, source, name, config, time, Some(MOST), provider).await
            }
        }
    }
}

/// What TLS needs of a trust. An error names the file.
fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &trust.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            // Certificates that cannot be read are no authorities; a machine without any trusts nobody.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match &trust.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let read = fs::read(key).map_err(|error| format!("cannot read {}: {error}", key.display()))?;
            let private =
                PrivateKeyDer::from_pem_slice(&read).map_err(|_| format!("{} holds no private key", key.display()))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| format!("{}: {error}", certificate.display()))
        }
    }
}

/// The certificates of a PEM file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(|| format!("{} holds no certificate", path.display()))
}
