//! Applies a configuration: at start, and at a reload in the place of the one in use, while queries are answered.
//!
//! ```text
//! Configuration ─ build ─► Built ─┬ indexes ─ start source, wait ─┐
//!                                 ├ pages ─── listen ─────────────┼─► applied: routers, pages, chores;
//!                                 └ sockets ─ bind ───────────────┘   then what is no longer used stops
//! ```
//!
//! Everything that can fail happens before anything changes: a configuration that fails leaves the one in use as it is.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use super::args::Args;
use super::build::{Built, Listener, World, build};
use super::configuration::Configuration;
use super::explain::{Engine, SharedEngine};
use super::follow::{RunningSource, SourceStarter};
use super::metrics::OpenListeners;
use super::pages::{self, OpenPages, Running};
use super::sockets::ListenerAddress;
use super::status_page::StatusPage;
use super::top::LiveTop;
use crate::cluster::CurrentIndex;
use crate::corefile::{self, Diagnostics, Scheme, headline, one_line, render_text};
use crate::files;
use crate::plugins::build::{ActivePlugins, Chore, Hook, Lifecycle, ListenerLimits, Phase, TimeoutOptions};
use crate::serve::{ListenSpec, Server, ServerCounts, ServerOptions, Service, Settings, Timeouts};
use crate::telemetry::log::{Logger, Severity};
use crate::telemetry::metrics::{self, table};

/// What lives as long as the process, on the thread that loads configurations.
pub(super) struct Program {
    pub args: Args,
    /// What `clusterdns explain` asks.
    pub engine: SharedEngine,
    /// Who asks what, if it is counted.
    pub top: Option<Arc<LiveTop>>,
    /// The page for people.
    pub status_page: Arc<StatusPage>,
    pub logger: Logger,
    /// The state of the configuration in use; shared with the main thread, which stops it.
    pub serving: Arc<Mutex<Serving>>,
    pub world: World,
    /// Runs streams and pending queries.
    pub runtime: Runtime,
    /// Runs the sources of the cluster's state.
    pub background: Runtime,
    /// Runs the HTTP pages for operators.
    pub pages: Runtime,
    pub sources: SourceStarter,
}

/// The state of the configuration in use. It is locked while a configuration is applied, which is short: everything
/// that takes time happens before.
#[derive(Default)]
pub(super) struct Serving {
    sources: Vec<RunningSource>,
    /// The indexes that answer.
    used: Vec<CurrentIndex>,
    /// The program stops, so that no configuration is applied any more.
    is_stopping: bool,
    pages: Option<Running>,
    /// How long everything continues after the order to end.
    lameduck: Duration,
    /// The phase of the process.
    lifecycle: Arc<Lifecycle>,
    chores: Vec<(Arc<Chore>, AbortHandle)>,
    sockets: Vec<OpenSocket>,
    /// The owner of the sockets; `None` before the first configuration.
    server: Option<Server>,
    /// Work that started when a listener was bound.
    bound_tasks: Vec<AbortHandle>,
    /// Work when the process is about to stop.
    at_stop: Vec<Hook>,
}

/// An open listening address: a socket, or one for UDP and one for TCP.
struct OpenSocket {
    address: ListenerAddress,
    service: Arc<Service>,
    /// The number of the server's listener.
    listener: usize,
}

impl Program {
    /// Replaces the configuration in use by this one. Returns its listeners, or `None` if the program stops and nothing
    /// has changed.
    pub(super) fn apply(
        &self, configuration: &Configuration, mut diagnostics: Diagnostics,
    ) -> anyhow::Result<Option<Vec<Listener>>> {
        let built = build(configuration, self.args.port, &self.world, &mut diagnostics);
        let sources = &configuration.corefile.sources;
        let pages_before = self.serving.lock().pages.as_ref().map(Running::listeners);
        let is_first = pages_before.is_none();
        if diagnostics.has_errors() && is_first {
            bail!("{}", render_text(&diagnostics, sources).trim_end());
        } else if diagnostics.has_errors() {
            // One line, since it goes to the log.
            let errors = diagnostics.iter().filter(|found| found.severity == corefile::DiagnosticSeverity::Error);
            let lines: Vec<String> = errors.map(|error| one_line(error, sources)).collect();
            bail!("{}", lines.join("; "));
        }
        // The log never blocks, even if its reader does not read.
        for warning in &diagnostics {
            self.logger.line(Severity::Warning, None, &headline(warning, sources));
        }
        let Built {
            listeners,
            indexes,
            used,
            debug,
            chores,
            mut pages,
            bound_tasks,
            tasks,
            plugins,
            sockets,
            lameduck,
            ..
        } = built;
        let (at_start, at_stop) = (built.at_start, built.at_stop);
        self.status_page.add_to(&mut pages);
        let pages = pages::open(pages, &self.pages, &pages_before.unwrap_or_default())?;
        // At start, pages open before anything that takes time, since the process is alive and not ready. At a reload,
        // they change at the end, since the server is ready all the time.
        let mut pages = Some(pages);
        if is_first {
            self.serving.lock().pages = pages.take().map(|pages| self.start_pages(pages, None));
        }
        if is_first {
            SourceStarter::check_manifests(&self.args, &used)?;
        }
        let source = self.sources.start(&self.args, indexes, sources, self.background.handle())?;
        // Sockets open when the indexes are synced, so that no early query gets SERVFAIL.
        source.wait_until_synced(&used);

        let mut serving = self.serving.lock();
        let serving = &mut *serving;
        if serving.is_stopping {
            return Ok(None);
        }
        let settings = |listener: &Listener| listener_settings(listener, !debug);
        let is_open = |listener: &&Listener| serving.socket(listener.address).is_some();
        let new: Vec<&Listener> = listeners.iter().filter(|listener| !is_open(listener)).collect();
        let service = |listener: &&Listener| {
            let Listener { address, router, credentials, .. } = listener;
            let service = Service::of(address.kind(), router.clone(), settings(listener), credentials.clone());
            service.set_proxy(listener.proxy.as_ref());
            service
        };
        let services: Vec<Arc<Service>> = new.iter().map(service).collect();
        let first = self.open(&new, &services, sockets, &mut serving.server)?;

        // Nothing fails from here on.
        let routers = listeners.iter().map(|listener| (listener.address, listener.router.clone()));
        let engine = Engine::new(configuration, routers, &self.args.manifests, None);
        *self.engine.write() = Some(Engine { top: self.top.clone(), ..engine });
        if let Some(top) = &self.top {
            top.follow(&used);
        }
        let served = listeners.iter().map(|listener| (listener.address, &*listener.zones));
        self.status_page.apply(served, &used);
        for listener in &listeners {
            if let Some(open) = serving.socket(listener.address) {
                open.service.replace(listener.router.clone(), settings(listener), listener.credentials.clone());
                open.service.set_proxy(listener.proxy.as_ref());
            }
        }
        serving.sockets.extend(new.iter().zip(services).enumerate().map(|(number, (listener, service))| OpenSocket {
            address: listener.address,
            service,
            listener: first + number,
        }));
        self.world
            .resources
            .metrics
            .get::<OpenListeners>()
            .replace(serving.sockets.iter().map(|open| (open.address, open.service.clone())));
        self.world.resources.debug.store(debug, Ordering::Relaxed);
        self.world.resources.metrics.get::<ActivePlugins>().replace(plugins);
        if let Some(pages) = pages {
            serving.pages = Some(self.start_pages(pages, serving.pages.take()));
        }
        serving.lameduck = lameduck;
        self.world.resources.lifecycle.enter(Phase::Serving);
        serving.stop_chores();
        serving.chores = chores.into_iter().map(|chore| self.start_chore(Arc::new(chore))).collect();
        tasks.into_iter().for_each(|task| drop(self.runtime.spawn(task())));
        serving.bound_tasks.drain(..).for_each(|task| task.abort());
        for (listener, task) in bound_tasks {
            if let Some(address) = serving.bound_address(listeners[listener].address) {
                serving.bound_tasks.push(self.runtime.spawn(task(address)).abort_handle());
            }
        }
        serving.at_stop = at_stop;
        run_at_start(at_start);
        serving.sources.push(source);
        serving.used = used;
        serving.drop_unused_sources();
        serving.close_unused(&listeners);
        Ok(Some(listeners))
    }

    /// Opens the sockets of new listeners: all of them, or none. Returns the number of the first listener.
    fn open(
        &self, new: &[&Listener], services: &[Arc<Service>], sockets: Option<NonZeroUsize>, server: &mut Option<Server>,
    ) -> anyhow::Result<usize> {
        let specs = new.iter().zip(services).map(|(listener, service)| ListenSpec {
            address: listener.address.socket_address(),
            service: service.clone(),
        });
        let specs: Vec<ListenSpec> = specs.collect();
        if let Some(server) = server {
            return Ok(server.open(&specs)?);
        }
        let dispatcher = self.world.resources.dispatcher.clone();
        let options = ServerOptions { dispatcher, sockets, ..ServerOptions::new(self.runtime.handle().clone()) };
        let started = Server::start(specs, options)?;
        let register = |metric, number: fn(ServerCounts) -> u64| {
            let counts = started.counter();
            let collector = metrics::number(metric, move || number(counts()) as f64);
            metrics::register(self.world.resources.metrics.registry(), collector);
        };
        register(&table::PANICS, |counts| counts.panics);
        register(&table::CONNECTIONS_EVICTED, |counts| counts.connections_evicted);
        register(&table::CONNECTIONS_REFUSED, |counts| counts.connections_refused);
        register(&table::PENDING_SHED, |counts| counts.overloads);
        *server = Some(started);
        Ok(0)
    }

    /// Reads the interfaces of this machine again.
    pub(super) fn refresh_interfaces(&mut self) {
        self.world.resources.interfaces = super::machine::interfaces();
    }

    fn start_pages(&self, pages: OpenPages, before: Option<Running>) -> Running {
        pages.start(&self.pages, before)
    }

    fn start_chore(&self, chore: Arc<Chore>) -> (Arc<Chore>, AbortHandle) {
        let task = self.runtime.spawn(run_periodically(chore.clone())).abort_handle();
        (chore, task)
    }
}

impl Serving {
    /// Returns the phase of the process.
    pub(super) fn lifecycle(&self) -> Arc<Lifecycle> {
        self.lifecycle.clone()
    }

    fn socket(&self, address: ListenerAddress) -> Option<&OpenSocket> {
        // Port 0 is another port each time.
        self.sockets.iter().find(|open| address.port != 0 && open.address == address)
    }

    /// Returns the address of an open socket, with its real port.
    pub(super) fn bound_address(&self, address: ListenerAddress) -> Option<std::net::SocketAddr> {
        let open = self.sockets.iter().find(|open| open.address == address)?;
        self.server.as_ref()?.local_address(open.listener)
    }

    /// Closes sockets that no listener uses, after their received queries are answered.
    fn close_unused(&mut self, wanted: &[Listener]) {
        let Serving { sockets, server, .. } = self;
        sockets.retain(|open| {
            let is_wanted = wanted.iter().any(|listener| listener.address == open.address);
            if let Some(server) = server.as_mut().filter(|_| !is_wanted) {
                server.close(open.listener);
            }
            is_wanted
        });
    }

    /// Stops all chores.
    pub(super) fn stop_chores(&mut self) {
        for (chore, task) in self.chores.drain(..) {
            task.abort();
            if let Some(stop) = &chore.stop {
                stop();
            }
        }
    }

    /// Drops each previous index whose successor is synced. Returns whether some are left.
    pub(super) fn settle(&mut self) -> bool {
        // Not `any`, which would stop at the first.
        if self.used.iter().fold(false, |settled, index| index.settle() | settled) {
            tracing::info!(plugin = "kubernetes", "synced with the Kubernetes API after the reload");
            self.drop_unused_sources();
        }
        self.used.iter().any(CurrentIndex::is_settling)
    }

    fn drop_unused_sources(&mut self) {
        let Serving { sources, used, .. } = self;
        sources.retain(|source| source.is_used(used));
    }

    /// Begins to stop: `/ready` becomes 503, and no configuration is applied any more. Returns how long the server
    /// continues to answer, so that clients switch to another server; zero if no socket is open yet, since then it has
    /// no clients.
    pub(super) fn begin_stop(&mut self) -> Duration {
        self.is_stopping = true;
        self.lifecycle.enter(Phase::Ending);
        if self.server.is_some() { self.lameduck } else { Duration::ZERO }
    }

    /// Takes the work that is to be done before the process stops.
    pub(super) fn take_stop_hooks(&mut self) -> Vec<Hook> {
        std::mem::take(&mut self.at_stop)
    }

    /// Stops to receive, and answers the queries that were received. Blocks for at most `timeout`.
    pub(super) fn drain(&mut self, timeout: Duration) {
        if let Some(server) = self.server.take() {
            server.stop(timeout);
        }
    }
}

/// Does the work of a configuration that is in use now, on a thread of its own.
fn run_at_start(hooks: Vec<Hook>) {
    if hooks.is_empty() {
        return;
    }
    let run = move || hooks.iter().for_each(|hook| hook(START_HOOK_TIMEOUT));
    if let Err(error) = std::thread::Builder::new().name("start".into()).spawn(run) {
        tracing::error!(%error, "cannot start a thread for the work at the start");
    }
}

/// Returns the settings of a listener, with CoreDNS's defaults where the Corefile has none.
fn listener_settings(listener: &Listener, recover: bool) -> Settings {
    let usual = Settings::default();
    let TimeoutOptions { read, write, idle, queries } = listener.timeouts;
    let timeouts = Timeouts {
        read: read.unwrap_or(usual.timeouts.read),
        write: write.unwrap_or(usual.timeouts.write),
        idle: idle.unwrap_or(usual.timeouts.idle),
    };
    let ListenerLimits { connections, streams, at_once } = listener.limits;
    // CoreDNS's defaults.
    let (usual_streams, usual_at_once) = match listener.address.scheme {
        Scheme::Https => (250, None),
        Scheme::Quic => (256, Some(1_024)),
        _ => (256, None),
    };
    Settings {
        timeouts,
        queries_per_connection: queries.unwrap_or(usual.queries_per_connection),
        recover,
        connections: match connections {
            None => usual.connections,
            Some(0) => MAX_CONNECTIONS,
            Some(connections) => connections as usize,
        },
        streams: Some(streams.unwrap_or(usual_streams)).filter(|&streams| streams > 0),
        at_once: at_once.or(usual_at_once),
    }
}

/// The time that each piece of work at the start may take.
const START_HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// The limit on connections of an encrypted listener whose directive sets no limit.
const MAX_CONNECTIONS: usize = 10_000;

/// Runs a chore periodically, on a thread that answers no queries.
async fn run_periodically(chore: Arc<Chore>) {
    let mut pause = chore.every;
    loop {
        tokio::time::sleep(pause).await;
        let round = chore.clone();
        // A panic has been logged; the next round may succeed.
        let again = tokio::task::spawn_blocking(move || (round.run)(SystemTime::now())).await.unwrap_or(false);
        pause = if again { chore.every.min(files::SOON) } else { chore.every };
    }
}

/// Builds a runtime with this number of threads.
pub(super) fn build_runtime(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(threads).thread_name(name).enable_all().build().context("cannot start threads")
}
