//! What an operator sees: the pages of *health*, *ready* and *prometheus*, and the time between the order to end and the
//! end.
//!
//! ```text
//! blocks ─► Operations (what is wanted, where) ─ start ─► Running: one listener an address, on a runtime of their own
//! ```
//!
//! Stanzas that name the same address share its listener, each with its page.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use super::VERSION;
use super::configuration::Block;
use super::sockets::Place;
use crate::admin::{self, Page, PageContent, Site, probe};
use crate::chain::Chain;
use crate::net::{self, Credentials};
use crate::plugins::Setting;
use crate::plugins::acl::{self, Acl, AllCounts};
use crate::plugins::cache::{BlockCache, Cache, CacheMetrics};
use crate::plugins::dns64::{self, Dns64};
use crate::plugins::endpoint::Endpoint;
use crate::plugins::hosts::AllHosts;
use crate::plugins::local;
use crate::plugins::prometheus::{Enabled, Prometheus, Queries};
use crate::plugins::ready::Readiness;
use crate::serve::{ListenerKind, Service};
use crate::telemetry::metrics::{self, Family, Histogram, IntCounter, Observed, Registry, table};
use crate::upstream;
use crate::wire::NameBuf;

/// How often the server asks itself for `/health`; CoreDNS's.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A local answer that takes longer is told of.
const SLOW: Duration = Duration::from_secs(1);
/// The revision that this was built of, where the builder says it.
const REVISION: &str = match option_env!("CLUSTERDNS_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// The numbers of this server. They outlive a reload.
#[derive(Clone)]
pub struct Metrics {
    /// Where other modules register their collectors.
    pub registry: Registry,
    /// Counts of queries.
    pub queries: Arc<Queries>,
    /// Counts of *acl*.
    pub acls: Arc<AllCounts>,
    /// Counts of exchanges with other servers.
    pub upstreams: Arc<upstream::Metrics>,
    /// Counts of caches.
    pub caches: Arc<CacheMetrics>,
    /// Counts of *dns64*.
    pub translations: Arc<dns64::AllCounts>,
    /// Counts of *local*.
    pub locals: Arc<local::Counts>,
    /// The *hosts* of the configuration.
    pub hosts: Arc<AllHosts>,
    /// Counts of what encrypted listeners said below DNS.
    pub replies: Arc<Replies>,
    health_duration: Histogram,
    health_failures: IntCounter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let registry = metrics::registry(VERSION, REVISION);
        let queries = Arc::new(Queries::default());
        let collected = queries.clone();
        metrics::register(&registry, Observed::new(Queries::METRICS, move || collected.families()));
        let upstreams = Arc::new(upstream::Metrics::default());
        let told = upstreams.clone();
        metrics::register(&registry, Observed::new(upstream::Metrics::METRICS, move || told.families()));
        let caches = Arc::new(CacheMetrics::default());
        let collected = caches.clone();
        metrics::register(&registry, Observed::new(CacheMetrics::METRICS, move || collected.families()));
        let translations = Arc::new(dns64::AllCounts::default());
        let collected = translations.clone();
        metrics::register(&registry, Observed::new(dns64::AllCounts::METRICS, move || collected.families()));
        let locals = Arc::new(local::Counts::default());
        let collected = locals.clone();
        metrics::register(&registry, Observed::new(local::Counts::METRICS, move || collected.families()));
        let hosts = Arc::new(AllHosts::default());
        let collected = hosts.clone();
        metrics::register(&registry, Observed::new(AllHosts::METRICS, move || collected.families()));
        let replies = Arc::new(Replies::default());
        let collected = replies.clone();
        metrics::register(&registry, Observed::new(Replies::METRICS, move || collected.families()));
        let acls = Arc::new(AllCounts::default());
        let collected = acls.clone();
        metrics::register(&registry, Observed::new(AllCounts::METRICS, move || collected.families()));
        Metrics {
            queries,
            acls,
            upstreams,
            caches,
            translations,
            locals,
            hosts,
            replies,
            health_duration: table::HEALTH_DURATION.histogram(&registry),
            health_failures: table::HEALTH_FAILURES.counter(&registry),
            registry,
        }
    }
}

impl Metrics {
    /// A block's chain on a socket with *prometheus* in it, as its `at`th plugin.
    pub fn counted(&self, chain: &Chain, at: usize, server: &str, zones: &[NameBuf]) -> Chain {
        let behind = chain.plugins().get(at).map_or("", |plugin| plugin.name());
        chain.clone().with_plugin(at, Arc::new(Prometheus::new(&self.queries, server, zones, behind)))
    }

    /// A block's chain on a socket with *dns64* in it, as its `at`th plugin.
    pub fn translated(&self, chain: &Chain, at: usize, server: &str, config: dns64::Config) -> Chain {
        chain.clone().with_plugin(at, Arc::new(Dns64::new(config, self.translations.counts(server))))
    }

    /// A block's chain on a socket with *acl* in it, as its `at`th plugin.
    pub fn guarded(&self, chain: &Chain, at: usize, server: &str, config: &acl::Config) -> Chain {
        chain.clone().with_plugin(at, Arc::new(Acl::new(config.clone(), self.acls.counts(config, server))))
    }

    /// A block's chain on a socket with *cache* in it, as its `at`th plugin.
    pub fn cached(&self, chain: &Chain, at: usize, server: &str, memory: &Arc<BlockCache>) -> Chain {
        let counters = memory.counters(&self.caches, server);
        chain.clone().with_plugin(at, Arc::new(Cache::new(memory.clone(), counters)))
    }
}

/// How requests of HTTP and streams of QUIC ended, at each listener of now.
#[derive(Default)]
pub struct Replies(Mutex<Vec<(Place, Arc<Service>)>>);

impl Replies {
    const METRICS: &[&metrics::Metric] = &[&table::HTTPS_RESPONSES, &table::HTTPS3_RESPONSES, &table::QUIC_RESPONSES];

    /// Counts these from now on.
    pub fn of(&self, services: impl Iterator<Item = (Place, Arc<Service>)>) {
        *self.0.lock() = services.collect();
    }

    fn families(&self) -> Vec<metrics::MetricFamily> {
        let kinds = [ListenerKind::Https, ListenerKind::Https3, ListenerKind::Quic];
        let services = self.0.lock();
        let families = kinds.into_iter().zip(Self::METRICS).map(|(kind, metric)| {
            let mut family = Family::new(metric);
            for (place, service) in services.iter().filter(|(place, _)| place.kind() == kind) {
                let server = server_name(*place);
                service.replies().for_each(|(status, count)| family.value(&[&server, status], count as f64));
            }
            family.done()
        });
        families.collect()
    }
}

/// The plugins of a chain, for `coredns_plugin_enabled`.
pub fn enabled<'a>(chain: &'a Chain, server: &'a str, zones: &'a [NameBuf]) -> impl Iterator<Item = Enabled> + 'a {
    zones.iter().flat_map(move |zone| {
        chain.plugins().iter().map(move |plugin| Enabled {
            name: plugin.name(),
            server: server.to_owned(),
            zone: zone.to_string(),
        })
    })
}

/// A socket as metrics name it: `dns://:53`, `tls://[::1]:853`.
pub fn server_name(place: Place) -> String {
    let Place { scheme, address, port } = place;
    let scheme = scheme.name();
    match address {
        None => format!("{scheme}://:{port}"),
        Some(address) if address.ip.is_ipv6() => format!("{scheme}://[{address}]:{port}"),
        Some(address) => format!("{scheme}://{address}:{port}"),
    }
}

/// What the blocks want.
#[derive(Default)]
pub struct Operations {
    wanted: Vec<Wanted>,
    readiness: Arc<Readiness>,
    /// The longest of all *health* directives.
    lameduck: Duration,
}

/// A page at an address.
struct Wanted {
    directive: &'static str,
    address: Endpoint,
    path: &'static str,
    page: Page,
    tls: Option<PathBuf>,
}

impl Operations {
    /// Adds what a block wants; `chain` has its plugins.
    pub fn add(&mut self, block: &Block, chain: &Chain, metrics: &Metrics) {
        for setting in &block.settings {
            let wanted = match setting {
                Setting::Health(config) => {
                    self.lameduck = self.lameduck.max(config.lameduck);
                    // A process that can say so lives.
                    let page = Arc::new(PageContent::ok);
                    Wanted { directive: "health", address: config.address.clone(), path: "/health", page, tls: None }
                }
                Setting::Ready(config) => {
                    self.readiness.add(config, chain.plugins());
                    let readiness = self.readiness.clone();
                    let page =
                        Arc::new(move || readiness.unready().map_or_else(PageContent::ok, PageContent::unavailable));
                    Wanted { directive: "ready", address: config.address.clone(), path: "/ready", page, tls: None }
                }
                Setting::Prometheus(config) => {
                    let registry = metrics.registry.clone();
                    let page = Arc::new(move || PageContent {
                        status: 200,
                        content_type: metrics::CONTENT_TYPE,
                        body: metrics::text(&registry),
                    });
                    let (address, tls) = (config.address.clone(), config.tls.clone());
                    Wanted { directive: "prometheus", address, path: "/metrics", page, tls }
                }
                _ => continue,
            };
            self.wanted.push(wanted);
        }
    }

    /// Opens the listeners that are not among those `before`, all or none.
    pub fn listen(self, runtime: &Runtime, before: &[ListenerKey]) -> anyhow::Result<Pages> {
        let Operations { wanted, readiness, lameduck } = self;
        let mut sites: Vec<Prepared> = Vec::new();
        for Wanted { directive, address: text, path, page, tls } in wanted {
            let address = text.resolve().with_context(|| format!("plugin/{directive}: cannot look up {text}"))?;
            // Any port is another one each time.
            let same = |site: &&mut Prepared| address.port() != 0 && site.address == address;
            let site = match sites.iter_mut().find(same) {
                Some(site) if site.tls != tls => {
                    bail!("plugin/{directive}: {} listens at {text} too, and not with the same 'tls'", site.directive)
                }
                Some(site) => site,
                None => {
                    let (site, probed, opened) = (Site::default(), false, None);
                    sites.push(Prepared { directive, text, address, site, tls, probed, opened });
                    let last = sites.len() - 1;
                    &mut sites[last]
                }
            };
            site.site.add(path, page);
            site.probed |= directive == "health";
        }
        let _inside = runtime.enter();
        let ports: Vec<u16> = sites.iter().map(|site| site.address.port()).collect();
        for site in &mut sites {
            let Prepared { directive, text, address, tls, .. } = &*site;
            if before.iter().any(|(at, with)| address.port() != 0 && at == address && with == tls) {
                continue;
            }
            let is_at = |port: u16| port != 0 && port == address.port();
            let several =
                ports.iter().filter(|&&port| is_at(port)).count() > 1 || before.iter().any(|(at, _)| is_at(at.port()));
            let failed = |error: io::Error| anyhow!("plugin/{directive}: listen tcp {text}: {}", net::reason(&error));
            let listener = admin::listen(*address, several).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            if address.port() == 0 {
                // Nobody could know.
                tracing::info!(plugin = directive, "listening at {bound}");
            }
            let tls = tls.as_ref().map(|path| admin::load_tls(path)).transpose();
            let tls = tls.with_context(|| format!("plugin/{directive}: tls"))?.flatten().map(Arc::new);
            site.opened = Some((listener, bound, tls));
        }
        Ok(Pages { sites, readiness, lameduck })
    }
}

/// Where a listener of pages is, and its TLS configuration.
pub type ListenerKey = (SocketAddr, Option<PathBuf>);

/// Pages whose listeners are open.
pub struct Pages {
    sites: Vec<Prepared>,
    readiness: Arc<Readiness>,
    lameduck: Duration,
}

/// A listener in the making.
struct Prepared {
    /// The first that wants it.
    directive: &'static str,
    text: Endpoint,
    address: SocketAddr,
    site: Site,
    tls: Option<PathBuf>,
    /// *health* is there.
    probed: bool,
    /// The listener, where it is bound, and its TLS; nothing where one that is at work is to be taken over.
    opened: Option<(TcpListener, SocketAddr, Option<Arc<Credentials>>)>,
}

impl Pages {
    /// Serves them on this runtime. Listeners of `before` go on with the new pages, or end.
    pub fn start(self, runtime: &Runtime, metrics: &Metrics, before: Option<Running>) -> Running {
        let Pages { sites, readiness, lameduck } = self;
        if before.is_some() {
            // The sockets are open already: not for a moment is it not ready.
            readiness.set_serving();
        }
        let mut before = before.map(|mut before| std::mem::take(&mut before.sites)).unwrap_or_default();
        let sites = sites.into_iter().filter_map(|Prepared { text, address, site, tls, probed, opened, .. }| {
            let at_work = before.iter().position(|open| open.is(address, tls.as_ref()));
            let mut open = match (opened, at_work) {
                (Some((listener, bound, secured)), _) => {
                    let site = Arc::new(site);
                    let task = runtime.spawn(admin::serve(listener, site.clone(), secured)).abort_handle();
                    OpenSite { address, bound, tls, site, task: Ending(task), probe: None }
                }
                (None, Some(at)) => {
                    let open = before.swap_remove(at);
                    open.site.replace(site);
                    open
                }
                // It was there a moment ago.
                (None, None) => return None,
            };
            open.probe = probed.then(|| {
                let at = admin::reachable(open.bound);
                Ending(runtime.spawn(ask_itself(at, text, metrics.clone())).abort_handle())
            });
            Some(open)
        });
        let sites = sites.collect();
        Running { sites, readiness, lameduck }
    }
}

/// A task that ends when this is dropped.
struct Ending(AbortHandle);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A listener at work.
struct OpenSite {
    address: SocketAddr,
    bound: SocketAddr,
    tls: Option<PathBuf>,
    site: Arc<Site>,
    #[expect(dead_code, reason = "held for its end")]
    task: Ending,
    probe: Option<Ending>,
}

impl OpenSite {
    fn is(&self, address: SocketAddr, tls: Option<&PathBuf>) -> bool {
        address.port() != 0 && self.address == address && self.tls.as_ref() == tls
    }
}

/// Asks for `/health` once a second, as CoreDNS does: a server that is slow to answer itself is overloaded.
async fn ask_itself(address: SocketAddr, text: Endpoint, metrics: Metrics) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let start = Instant::now();
        let result = probe::probe(address, "/health").await;
        let took = start.elapsed();
        metrics.health_duration.observe(took.as_secs_f64());
        if let Err(error) = result {
            metrics.health_failures.inc();
            tracing::warn!(plugin = "health", "Local health request to \"http://{text}/health\" failed: {error}");
        } else if took > SLOW {
            let text = format!("Local health request to \"http://{text}/health\" took more than 1s: {took:?}");
            tracing::warn!(plugin = "health", "{text}");
        }
    }
}

/// The pages at work, until this is dropped.
pub struct Running {
    sites: Vec<OpenSite>,
    readiness: Arc<Readiness>,
    lameduck: Duration,
}

impl Running {
    /// The listeners at work.
    pub fn listeners(&self) -> Vec<ListenerKey> {
        self.sites.iter().map(|open| (open.address, open.tls.clone())).collect()
    }

    /// The DNS sockets are open.
    pub fn serving(&self) {
        self.readiness.set_serving();
    }

    /// The order to end has come: `/ready` says no from now on. Gives how long everything else goes on.
    pub fn ending(&self) -> Duration {
        self.readiness.set_stopping();
        self.lameduck
    }
}
