//! Who looks after a server: its streams, its health checks and its numbers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use super::{BoxFuture, Error};
use crate::upstream::encrypted::Secure;
use crate::upstream::group::{Care, Dropped, Transport, Upstream};
use crate::upstream::metrics::{Metrics, UpstreamMetrics};
use crate::upstream::tcp_pool::{Keeping, Pool};
use crate::upstream::trust::{Trust, TrustError};
use crate::wire::{NameBuf, Rcode, Type};

/// How long a health check may take (CoreDNS plugin/pkg/proxy `setDefaultTimeout`).
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Checks come no faster than this, whatever is configured.
const CHECK_LEAST: Duration = Duration::from_millis(10);

/// How a server is checked that has failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// How often, until it answers.
    pub interval: Duration,
    /// With RD.
    pub recursion: bool,
    /// The name whose NS are asked for.
    pub domain: NameBuf,
    /// Over TCP, where the server is spoken to in plain DNS.
    pub tcp: bool,
}

/// All that is to be known of a server. Servers that are equal in it are one.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// The address that queries come from.
    pub source: Option<IpAddr>,
    /// How connections are kept.
    pub keeping: Keeping,
    /// How it is checked.
    pub check: Check,
    /// Whom an encrypted one must be, and how it is told who we are.
    pub trust: Trust,
    /// A query over HTTPS is a GET, not a POST.
    pub get: bool,
}

/// Makes servers, each once.
pub struct Servers {
    runtime: Handle,
    metrics: Arc<Metrics>,
    known: parking_lot::Mutex<Vec<(Server, std::sync::Weak<Upstream>)>>,
}

impl Servers {
    /// None yet. Streams and checks run on this runtime.
    pub fn new(runtime: Handle, metrics: Arc<Metrics>) -> Servers {
        Servers { runtime, metrics, known: parking_lot::Mutex::default() }
    }

    /// The counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A server: the one that is there already, if there is one. An error says which file is no certificate or key.
    pub fn server(&self, server: &Server) -> Result<Arc<Upstream>, TrustError> {
        let mut known = self.known.lock();
        known.retain(|(_, upstream)| upstream.strong_count() > 0);
        if let Some(found) = known.iter().find(|(of, _)| of == server).and_then(|(_, upstream)| upstream.upgrade()) {
            return Ok(found);
        }
        let metrics = self.metrics.upstream(&server.address.to_string());
        let fails = Arc::new(AtomicU32::new(0));
        let streams = match server.transport {
            Transport::Dns => {
                let (keeping, runtime) = (server.keeping, self.runtime.clone());
                Streams::Tcp(Arc::new(Pool::new(server.address, server.source, keeping, runtime, metrics.clone())))
            }
            _ => Streams::Secure(Arc::new(Secure::new(server, self.runtime.clone(), metrics.clone())?)),
        };
        let checking = AtomicBool::new(false);
        let carer = Arc::new(Carer { server: server.clone(), streams, fails: fails.clone(), checking, metrics });
        let care = Box::new(Cared { carer, runtime: self.runtime.clone() });
        let upstream = Arc::new(Upstream::new(server.address, server.transport, server.source, fails, care));
        known.push((server.clone(), Arc::downgrade(&upstream)));
        Ok(upstream)
    }
}

/// What carries queries that need a connection.
enum Streams {
    Tcp(Arc<Pool>),
    Secure(Arc<Secure>),
}

/// What checks and exchanges share.
struct Carer {
    server: Server,
    streams: Streams,
    fails: Arc<AtomicU32>,
    /// Checks are under way.
    checking: AtomicBool,
    metrics: Arc<UpstreamMetrics>,
}

/// Belongs to the upstream. When it is gone, checks end.
struct Cared {
    carer: Arc<Carer>,
    runtime: Handle,
}

impl Care for Cared {
    fn exchange(&self, packet: Vec<u8>, read_timeout: Duration) -> BoxFuture<Result<Vec<u8>, Error>> {
        let carer = self.carer.clone();
        Box::pin(async move { carer.exchange(packet, read_timeout).await })
    }

    fn answered(&self, rcode: Rcode, took: Duration) {
        self.carer.metrics.answered(rcode, took);
    }

    fn failed(&self) {
        if self.carer.checking.swap(true, Ordering::AcqRel) {
            return;
        }
        let carer = Arc::downgrade(&self.carer);
        self.runtime.spawn(async move {
            while let Some(carer) = carer.upgrade() {
                if carer.check().await {
                    carer.fails.store(0, Ordering::Relaxed);
                    carer.checking.store(false, Ordering::Release);
                    return;
                }
                carer.fails.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fails| fails.checked_add(1)).ok();
                carer.metrics.check_failed();
                let interval = carer.server.check.interval.max(CHECK_LEAST);
                drop(carer);
                tokio::time::sleep(interval).await;
            }
        });
    }

    fn socket(&self, kept: bool) {
        self.carer.metrics.socket(kept);
    }

    fn dropped(&self, why: Dropped) {
        self.carer.metrics.dropped(why);
    }
}

impl Carer {
    async fn exchange(&self, packet: Vec<u8>, read_timeout: Duration) -> Result<Vec<u8>, Error> {
        match &self.streams {
            Streams::Tcp(pool) => pool.exchange(packet, read_timeout).await,
            Streams::Secure(secure) => secure.exchange(packet, read_timeout).await,
        }
    }

    /// Asks the server for something; says whether anything came back.
    async fn check(&self) -> bool {
        let Check { recursion, domain, tcp, .. } = &self.server.check;
        let mut packet = vec![0, 0, u8::from(*recursion), 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(domain.as_name().as_wire());
        packet.extend(Type::NS.0.to_be_bytes());
        packet.extend([0, 1]);
        if self.server.transport != Transport::Dns || *tcp {
            return self.exchange(packet, CHECK_TIMEOUT).await.is_ok();
        }
        let over_udp = self.exchange_over_udp(packet);
        tokio::time::timeout(CHECK_TIMEOUT, over_udp).await.is_ok_and(|answered| answered.is_ok())
    }

    async fn exchange_over_udp(&self, mut packet: Vec<u8>) -> std::io::Result<()> {
        let any: IpAddr = match self.server.address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((self.server.source.unwrap_or(any), 0)).await?;
        socket.connect(self.server.address).await?;
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
