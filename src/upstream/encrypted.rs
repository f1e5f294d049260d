//! DNS over TLS and QUIC to an upstream, by hickory's clients: one connection, which many queries share.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::proto::op::{DnsRequest, DnsRequestOptions, Message};
use hickory_server::net::quic::QuicClientStream;
use hickory_server::net::runtime::{RuntimeProvider, Spawn, TokioRuntimeProvider};
use hickory_server::net::xfer::{DnsExchange, DnsHandle, FirstAnswer};
use hickory_server::net::{NetError, tls};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::runtime::Handle;

use super::Error;
use super::config::UpstreamConfig;
use super::exchange_limit::MAX_EXCHANGES;
use super::group::UpstreamTransport;
use super::metrics::UpstreamMetrics;
use super::shared_connection::{Connector, ExchangeFailure, ExchangeTime, SharedConnection};
use super::trust::{TrustError, Verifier};
use crate::net::{find_tls_error, tls_reason};
use crate::wire::Type;

/// The library times queries over TLS out, too. The configured time, which counts, is shorter.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A client of one upstream.
pub(super) struct EncryptedClient {
    connection: Arc<SharedConnection<EncryptedConnector>>,
}

/// Makes connections to one upstream.
struct EncryptedConnector {
    address: SocketAddr,
    transport: UpstreamTransport,
    source: Option<IpAddr>,
    label: Arc<str>,
    server_name: ServerName<'static>,
    tls: ClientConfig,
    verifier: Arc<Verifier>,
    /// Runs connections; they end with it.
    provider: TokioRuntimeProvider,
    metrics: Arc<UpstreamMetrics>,
}

impl EncryptedClient {
    /// Creates a client without a connection.
    pub(super) fn new(
        config: &UpstreamConfig, runtime: Handle, metrics: Arc<UpstreamMetrics>,
    ) -> Result<EncryptedClient, TrustError> {
        let UpstreamConfig { address, transport, source, reuse, trust, .. } = config;
        let (tls, verifier) = trust.client_config()?;
        let connector = EncryptedConnector {
            address: *address,
            transport: *transport,
            source: *source,
            label: address.to_string().into(),
            server_name: trust.name(address.ip())?,
            tls,
            verifier,
            provider: TokioRuntimeProvider::new(),
            metrics,
        };
        let connection = SharedConnection::new(connector, *reuse, Duration::ZERO, runtime);
        Ok(EncryptedClient { connection: Arc::new(connection) })
    }

    /// Exchanges a query. `read_timeout` starts when it is sent.
    pub(super) async fn exchange(&self, packet: Vec<u8>, read_timeout: Duration) -> Result<Vec<u8>, Error> {
        let connector = self.connection.connector();
        let message = Message::from_vec(&packet).map_err(|_| Error::Malformed(connector.label.clone()))?;
        let is_transfer = message.queries.iter().any(|query| {
            let qtype = u16::from(query.query_type());
            qtype == Type::AXFR.0 || qtype == Type::IXFR.0
        });
        if is_transfer && connector.transport == UpstreamTransport::Quic {
            return Err(Error::Unsupported(connector.label.clone()));
        }
        let send = |exchange: DnsExchange<TokioRuntimeProvider>| {
            let request = DnsRequest::new(message.clone(), DnsRequestOptions::default());
            async move {
                let answer = exchange.send(request).first_answer().await;
                answer.map(|answer| answer.into_buffer()).map_err(|error| ExchangeFailure {
                    error: connector.error(&error),
                    is_broken: !concerns_one_query(&error),
                })
            }
        };
        self.connection.exchange(ExchangeTime::Response(read_timeout), send).await
    }
}

impl Connector for EncryptedConnector {
    type Connection = DnsExchange<TokioRuntimeProvider>;

    fn label(&self) -> &Arc<str> {
        &self.label
    }

    async fn open(&self) -> Result<DnsExchange<TokioRuntimeProvider>, Error> {
        self.handshake().await.map_err(|error| match self.verifier.take_reason() {
            Some(reason) => Error::Protocol(self.label.clone(), reason),
            None => self.error(&error),
        })
    }

    fn record_use(&self, was_open: bool) {
        self.metrics.record_stream(was_open);
    }
}

impl EncryptedConnector {
    fn error(&self, error: &NetError) -> Error {
        let label = self.label.clone();
        match error {
            NetError::Timeout => Error::Timeout(label),
            NetError::Io(error) => match find_tls_error(&**error) {
                Some(error) => Error::Protocol(label, tls_reason(error)),
                // An error of QUIC, for one.
                None if error.kind() == std::io::ErrorKind::Other => Error::Protocol(label, error.to_string()),
                None => Error::Connection(label, error.kind()),
            },
            NetError::RustlsError(error) => Error::Protocol(label, tls_reason(error)),
            error => Error::Protocol(label, error.to_string()),
        }
    }

    async fn handshake(&self) -> Result<DnsExchange<TokioRuntimeProvider>, NetError> {
        let provider = self.provider.clone();
        let source = self.source.map(|ip| SocketAddr::new(ip, 0));
        if self.transport == UpstreamTransport::Quic {
            let mut builder = QuicClientStream::builder().crypto_config(self.tls.clone());
            if let Some(source) = source {
                builder = builder.bind_addr(source);
            }
            let name: Arc<str> = self.server_name.to_str().into();
            let stream = builder.build(self.address, name).await?;
            let (exchange, background) = DnsExchange::from_stream(stream);
            provider.create_handle().spawn_bg(background);
            return Ok(exchange);
        }
        let (name, config, most) = (self.server_name.clone(), self.tls.clone(), Some(MAX_EXCHANGES));
        tls::tls_exchange_with_bind_addr(self.address, source, name, config, LIBRARY_TIMEOUT, most, provider).await
    }
}

/// Returns whether an error concerns one query and not the connection: a stream that was reset, or a message that
/// cannot be parsed. Any other error may mean that the connection is broken.
fn concerns_one_query(error: &NetError) -> bool {
    match error {
        NetError::Proto(_) | NetError::ParseInt(_) | NetError::QuicMessageIdNot0(_) => true,
        NetError::QuinnReadError(error) => !error.to_string().contains("connection lost"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::upstream::tcp_pool::ConnectionReuse;
    use crate::upstream::{HealthCheck, Metrics, Trust};
    use crate::wire::{Name, NameBuf};

    /// An upstream that speaks DNS over TLS.
    #[derive(Default)]
    struct Upstream {
        handshakes: AtomicUsize,
        queries: AtomicUsize,
        /// It answers nothing, not only names that begin with `slow`.
        is_unresponsive: AtomicBool,
    }

    /// A certificate for `dns.example` and loopback with its key.
    struct Identity {
        certificate: rcgen::Certificate,
        key: KeyPair,
    }

    fn params() -> CertificateParams {
        CertificateParams::new(["dns.example".to_owned(), "127.0.0.1".to_owned()]).expect("names")
    }

    fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = params();
        let key = KeyPair::generate().expect("a key");
        change(&mut params);
        Identity { certificate: params.self_signed(&key).expect("a certificate"), key }
    }

    /// Starts an upstream with this certificate. Returns its address.
    fn start(runtime: &tokio::runtime::Runtime, identity: &Identity) -> (SocketAddr, Arc<Upstream>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(identity.key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.der().clone()], key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let upstream = Arc::new(Upstream::default());
        let shared = upstream.clone();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                shared.handshakes.fetch_add(1, Ordering::Relaxed);
                let shared = shared.clone();
                tokio::spawn(async move {
                    while let Ok(len) = stream.read_u16().await {
                        let mut message = vec![0; usize::from(len)];
                        stream.read_exact(&mut message).await.expect("a query");
                        shared.queries.fetch_add(1, Ordering::Relaxed);
                        message[2] |= 0x80;
                        if !shared.is_unresponsive.load(Ordering::Relaxed) && !message[13..].starts_with(b"slow") {
                            stream.write_all(&[&len.to_be_bytes()[..], &message].concat()).await.expect("sent");
                        }
                    }
                });
            }
        });
        (address, upstream)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    }

    /// A client of an upstream that trusts this file, and asks for the certificate of `dns.example`.
    fn client(runtime: &tokio::runtime::Runtime, address: SocketAddr, trusted: &str, name: &str) -> EncryptedClient {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("clusterdns-trust-{}-{number}.pem", std::process::id()));
        std::fs::write(&path, trusted).expect("a file");
        let trust = Trust { server_name: Some(name.to_owned()), authorities: Some(path.clone()), identity: None };
        let check = HealthCheck {
            interval: Duration::from_secs(1),
            recursion: true,
            domain: Name::ROOT.to_owned(),
            tcp: false,
        };
        let transport = UpstreamTransport::Tls;
        let reuse = ConnectionReuse::default();
        let server = UpstreamConfig { address, transport, source: None, reuse, check, trust, get: false };
        let metrics = Metrics::default().upstream("x");
        let client = EncryptedClient::new(&server, runtime.handle().clone(), metrics).expect("a certificate");
        std::fs::remove_file::<PathBuf>(path).expect("removed");
        client
    }

    fn query(name: &str) -> Vec<u8> {
        let name = NameBuf::from_text(name).expect("a name");
        [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
    }

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn a_query_that_times_out_closes_only_a_connection_that_brings_nothing() {
        let runtime = runtime();
        let identity = self_signed(|_| ());
        let (address, upstream) = start(&runtime, &identity);
        let client = client(&runtime, address, &identity.certificate.pem(), "dns.example");
        runtime.block_on(async {
            // Queries that come together share one handshake.
            let (one, other) =
                tokio::join!(client.exchange(query("a.example."), LONG), client.exchange(query("b.example."), LONG));
            assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
            for _ in 0..3 {
                let slow = client.exchange(query("slow.example."), Duration::from_millis(200));
                let others = async {
                    // One that is sent after the slow one and answered before that is given up.
                    while upstream.queries.load(Ordering::Relaxed) % 2 == 0 {
                        tokio::task::yield_now().await;
                    }
                    client.exchange(query("a.example."), LONG).await
                };
                let (slow, other) = tokio::join!(slow, others);
                assert!(matches!(slow, Err(Error::Timeout(_))) && other.is_ok(), "{slow:?} {other:?}");
            }
            assert_eq!(upstream.handshakes.load(Ordering::Relaxed), 1);
            // A query that waits on the connection is not concerned when it is given up.
            upstream.is_unresponsive.store(true, Ordering::Relaxed);
            let unanswered = client.exchange(query("a.example."), Duration::from_millis(50)).await;
            assert!(matches!(unanswered, Err(Error::Timeout(_))), "{unanswered:?}");
            upstream.is_unresponsive.store(false, Ordering::Relaxed);
            client.exchange(query("a.example."), LONG).await.expect("an answer over a new connection");
            assert_eq!(upstream.handshakes.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_slow_handshake_has_a_time_of_its_own() {
        let runtime = runtime();
        let identity = self_signed(|_| ());
        let (address, upstream) = start(&runtime, &identity);
        // What is between takes the connection and passes nothing on for a while.
        let between = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a socket");
        let at = between.local_addr().expect("an address");
        runtime.spawn(async move {
            let (mut client, _) = between.accept().await.expect("a connection");
            tokio::time::sleep(Duration::from_millis(600)).await;
            let mut server = tokio::net::TcpStream::connect(address).await.expect("connected");
            tokio::io::copy_bidirectional(&mut client, &mut server).await.expect("copied");
        });
        let client = client(&runtime, at, &identity.certificate.pem(), "dns.example");
        let answer = runtime.block_on(client.exchange(query("a.example."), Duration::from_millis(300)));
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(upstream.handshakes.load(Ordering::Relaxed), 1);
    }

    /// What becomes of a query to an upstream with this certificate.
    fn outcome(identity: &Identity, trusted: &str, name: &str) -> Result<(), String> {
        let runtime = runtime();
        let (address, _) = start(&runtime, identity);
        let client = client(&runtime, address, trusted, name);
        let answer = runtime.block_on(client.exchange(query("a.example."), LONG));
        answer.map(drop).map_err(|error| error.to_string().replace(&format!("{address}: "), ""))
    }

    #[test]
    fn a_certificate_that_the_file_holds_is_accepted_whatever_it_is_for() {
        let unknown = "certificate signed by unknown authority";
        let marked = "certificate is marked as one of an authority (CA:TRUE) and not trusted itself";
        for (ca, reason) in
            [(IsCa::NoCa, unknown), (IsCa::ExplicitNoCa, unknown), (IsCa::Ca(BasicConstraints::Unconstrained), marked)]
        {
            let identity = self_signed(|params| params.is_ca = ca);
            let pem = identity.certificate.pem();
            assert_eq!(outcome(&identity, &pem, "dns.example"), Ok(()));
            assert_eq!(
                outcome(&identity, &pem, "other.example").expect_err("another name"),
                "tls: failed to verify certificate: x509: certificate is valid for dns.example, 127.0.0.1, not other.example"
            );
            let mut other = params();
            other.distinguished_name.push(rcgen::DnType::CommonName, "another");
            let other = other.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem();
            let refused = outcome(&identity, &other, "dns.example").expect_err("another authority");
            assert_eq!(refused, format!("tls: failed to verify certificate: x509: {reason}"));
        }
        let expired = self_signed(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        });
        assert_eq!(
            outcome(&expired, &expired.certificate.pem(), "dns.example").expect_err("an old one"),
            "tls: failed to verify certificate: x509: certificate has expired"
        );
    }

    #[test]
    fn a_certificate_of_an_authority_that_the_file_holds_is_accepted() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = self::params().signed_by(&key, &authority).expect("a certificate");
        assert_eq!(outcome(&Identity { certificate, key }, &authority.pem(), "dns.example"), Ok(()));
    }
}
