//! Health checks of upstreams, and the registry in which each upstream exists once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use super::config::{HealthCheck, UpstreamConfig};
use super::{BoxFuture, Error};
use crate::upstream::doh::DohClient;
use crate::upstream::encrypted::EncryptedClient;
use crate::upstream::exchange_limit::ExchangeLimit;
use crate::upstream::group::{DropReason, Upstream, UpstreamDriver, UpstreamTransport};
use crate::upstream::grpc::GrpcClient;
use crate::upstream::http2::Http2Config;
use crate::upstream::metrics::{Metrics, UpstreamMetrics};
use crate::upstream::tcp_pool::TcpPool;
use crate::upstream::trust::TrustError;
use crate::wire::{Rcode, Type};

/// The time that a health check has for an answer (CoreDNS plugin/pkg/proxy `setDefaultTimeout`).
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// The shortest interval of health checks, whatever is configured.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Creates upstreams, each once.
pub struct UpstreamRegistry {
    runtime: Handle,
    metrics: Arc<Metrics>,
    known: parking_lot::Mutex<Vec<(UpstreamConfig, Weak<Upstream>)>>,
}

impl UpstreamRegistry {
    /// Creates an empty registry. Exchanges over streams and health checks run on this runtime.
    pub fn new(runtime: Handle, metrics: Arc<Metrics>) -> UpstreamRegistry {
        UpstreamRegistry { runtime, metrics, known: parking_lot::Mutex::default() }
    }

    /// Creates a client of gRPC for a server.
    pub fn grpc(&self, config: &Http2Config) -> Result<GrpcClient, TrustError> {
        GrpcClient::new(config, self.runtime.clone())
    }

    /// Returns the metrics of all upstreams.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns every upstream that is in use.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.known.lock().iter().filter_map(|(_, upstream)| upstream.upgrade()).collect()
    }

    /// Returns the upstream with this configuration, a new one if there is none.
    pub fn upstream(&self, config: &UpstreamConfig) -> Result<Arc<Upstream>, TrustError> {
        let mut known = self.known.lock();
        known.retain(|(_, upstream)| upstream.strong_count() > 0);
        if let Some(found) = known.iter().find(|(of, _)| of == config).and_then(|(_, upstream)| upstream.upgrade()) {
            return Ok(found);
        }
        let UpstreamConfig { address, transport, source, reuse, .. } = *config;
        let metrics = self.metrics.upstream(&address.to_string());
        let runtime = self.runtime.clone();
        let streams = match transport {
            UpstreamTransport::Dns => {
                StreamClient::Tcp(Arc::new(TcpPool::new(address, source, reuse, runtime, metrics.clone())))
            }
            UpstreamTransport::Https => StreamClient::Https(DohClient::new(config, runtime, metrics.clone())?),
            UpstreamTransport::Tls | UpstreamTransport::Quic => {
                StreamClient::Encrypted(EncryptedClient::new(config, runtime, metrics.clone())?)
            }
        };
        let fails = Arc::new(AtomicU32::new(0));
        let client = Arc::new(UpstreamClient {
            config: config.clone(),
            streams,
            exchanges: ExchangeLimit::of_process(),
            fails: fails.clone(),
            is_checking: AtomicBool::new(false),
            metrics,
        });
        let driver = Box::new(RuntimeDriver { client, runtime: self.runtime.clone() });
        let upstream = Arc::new(Upstream::new(address, transport, source, fails, driver));
        known.push((config.clone(), Arc::downgrade(&upstream)));
        Ok(upstream)
    }
}

/// The client of an upstream over streams.
enum StreamClient {
    Tcp(Arc<TcpPool>),
    Encrypted(EncryptedClient),
    Https(DohClient),
}

/// What exchanges and health checks of an upstream share.
struct UpstreamClient {
    config: UpstreamConfig,
    streams: StreamClient,
    /// The limit on exchanges; health checks do not count.
    exchanges: ExchangeLimit,
    fails: Arc<AtomicU32>,
    /// Health checks are running. Set when an attempt fails, cleared when a check succeeds.
    is_checking: AtomicBool,
    metrics: Arc<UpstreamMetrics>,
}

/// Belongs to the upstream. Health checks stop when it is dropped.
struct RuntimeDriver {
    client: Arc<UpstreamClient>,
    runtime: Handle,
}

impl UpstreamDriver for RuntimeDriver {
    fn exchange(&self, packet: Vec<u8>, client: IpAddr, read_timeout: Duration) -> BoxFuture<Result<Vec<u8>, Error>> {
        let upstream = self.client.clone();
        Box::pin(async move { upstream.exchanges.run(client, upstream.exchange(packet, read_timeout)).await })
    }

    fn record_answer(&self, rcode: Rcode, took: Duration) {
        self.client.metrics.record_answer(rcode, took);
    }

    fn record_failure(&self) {
        if self.client.is_checking.swap(true, Ordering::AcqRel) {
            return;
        }
        let client = Arc::downgrade(&self.client);
        self.runtime.spawn(async move {
            while let Some(client) = client.upgrade() {
                if client.check().await {
                    client.fails.store(0, Ordering::Relaxed);
                    client.is_checking.store(false, Ordering::Release);
                    return;
                }
                client.fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fails| fails.checked_add(1)).ok();
                client.metrics.record_failed_check();
                let interval = client.config.check.interval.max(MIN_INTERVAL);
                drop(client);
                tokio::time::sleep(interval).await;
            }
        });
    }

    fn has_answered(&self) -> bool {
        self.client.metrics.has_answered()
    }

    fn record_socket(&self, reused: bool) {
        self.client.metrics.record_socket(reused);
    }

    fn record_dropped(&self, reason: DropReason) {
        self.client.metrics.record_dropped(reason);
    }
}

impl UpstreamClient {
    async fn exchange(&self, packet: Vec<u8>, read_timeout: Duration) -> Result<Vec<u8>, Error> {
        match &self.streams {
            StreamClient::Tcp(pool) => pool.exchange(packet, read_timeout).await,
            StreamClient::Encrypted(client) => client.exchange(packet, read_timeout).await,
            StreamClient::Https(client) => client.exchange(packet, read_timeout).await,
        }
    }

    /// Sends the query of a health check. Returns whether a response came, whatever its code.
    async fn check(&self) -> bool {
        let HealthCheck { recursion, domain, tcp, .. } = &self.config.check;
        let mut packet = vec![0, 0, u8::from(*recursion), 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(domain.as_name().as_wire());
        packet.extend(Type::NS.0.to_be_bytes());
        packet.extend([0, 1]);
        if self.config.transport != UpstreamTransport::Dns || *tcp {
            return self.exchange(packet, CHECK_TIMEOUT).await.is_ok();
        }
        let over_udp = self.exchange_over_udp(packet);
        tokio::time::timeout(CHECK_TIMEOUT, over_udp).await.is_ok_and(|answered| answered.is_ok())
    }

    async fn exchange_over_udp(&self, mut packet: Vec<u8>) -> std::io::Result<()> {
        let any: IpAddr = match self.config.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((self.config.source.unwrap_or(any), 0)).await?;
        socket.connect(self.config.address).await?;
        getrandom::fill(&mut packet[..2]).map_err(|_| std::io::ErrorKind::Other)?;
        socket.send(&packet).await?;
        let mut answer = [0; 512];
        loop {
            let len = socket.recv(&mut answer).await?;
            if len >= 12 && answer[..2] == packet[..2] && answer[2] & 0x80 != 0 {
                return Ok(());
            }
        }
    }
}
