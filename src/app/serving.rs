//! What serves, from a configuration: at start, and again for another one while queries come.
//!
//! ```text
//! Configuration ─ build ─► Built ─┬ indexes ─ follow, wait ─┐
//!                                 ├ pages ────── listen ────┼─► taken up at once: router between two queries, pages, chores
//!                                 └ sockets ──── bind ──────┘   then what is not wanted any more ends
//! ```
//!
//! All that may fail comes first. A configuration that fails leaves the one before it as it was.

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
use super::follow::{Follow, Following};
use super::metrics::HttpReplies;
use super::pages::{self, OpenPages, Running};
use super::sockets::Place;
use crate::cluster::CurrentIndex;
use crate::corefile::{self, Diagnostics, Scheme, headline, render_text};
use crate::files;
use crate::plugins::build::{ActivePlugins, Chore, Lifecycle, ListenerLimits, Phase, TimeoutOptions};
use crate::serve::{Counts, ListenSpec, Options, Server, Service, Settings, Timeouts};
use crate::telemetry::log::{Logger, Severity};
use crate::telemetry::metrics::{self, table};

/// What is there as long as the program, on the thread that loads configurations.
pub struct Program {
    pub args: Args,
    pub logger: Logger,
    /// What serves; the thread that ends the program has it, too.
    pub serving: Arc<Mutex<Serving>>,
    pub world: World,
    /// Answers over TCP, and what waits.
    pub runtime: Runtime,
    /// Follows the cluster.
    pub background: Runtime,
    /// Pages for operators.
    pub pages: Runtime,
    pub follow: Follow,
}

/// What serves. Locked while a configuration is taken up, which is short: what takes time comes before that.
#[derive(Default)]
pub struct Serving {
    /// What fills the indexes.
    following: Vec<Following>,
    /// The indexes that are answered from.
    used: Vec<CurrentIndex>,
    /// The program ends: no configuration is taken up any more.
    is_ending: bool,
    pages: Option<Running>,
    /// How long everything continues after the order to end.
    lameduck: Duration,
    /// The phase of the process.
    lifecycle: Arc<Lifecycle>,
    chores: Vec<(Arc<Chore>, AbortHandle)>,
    sockets: Vec<Open>,
    /// Who has them; from the first configuration on.
    server: Option<Server>,
    /// Work that started when a listener was bound.
    bound_tasks: Vec<AbortHandle>,
}

/// A socket, or one for UDP and one for TCP.
struct Open {
    place: Place,
    service: Arc<Service>,
    /// Which of the server's listeners it is.
    listener: usize,
}

impl Program {
    /// Serves this configuration, in the place of what serves now. Returns its listeners, or `None` where the program
    /// ends and nothing was taken up.
    pub fn take_up(
        &self, configuration: &Configuration, mut diagnostics: Diagnostics,
    ) -> anyhow::Result<Option<Vec<Listener>>> {
        let built = build(configuration, self.args.port, &self.world, &mut diagnostics);
        let sources = &configuration.corefile.sources;
        let pages_before = self.serving.lock().pages.as_ref().map(Running::listeners);
        let is_first = pages_before.is_none();
        if diagnostics.has_errors() && is_first {
            bail!("{}", render_text(&diagnostics, sources).trim_end());
        } else if diagnostics.has_errors() {
            // For a log, whose lines are one line.
            let errors = diagnostics.iter().filter(|found| found.severity == corefile::Severity::Error);
            let lines: Vec<String> = errors.map(|error| headline(error, sources)).collect();
            bail!("{}", lines.join("; "));
        }
        // Through the log, which nobody can hold up by not reading it.
        for warning in &diagnostics {
            self.logger.line(Severity::Warning, None, &headline(warning, sources));
        }
        let Built { listeners, indexes, used, debug, chores, pages, bound_tasks, plugins, sockets, lameduck } = built;
        let pages = pages::open(pages, &self.pages, &pages_before.unwrap_or_default())?;
        // At start before anything that takes time: the process lives, and it is not ready. Later after it: it is.
        let mut pages = Some(pages);
        if is_first {
            self.serving.lock().pages = pages.take().map(|pages| self.start_pages(pages, None));
        }
        if is_first {
            Follow::check_manifests(&self.args, &used)?;
        }
        let following = self.follow.start(&self.args, indexes, sources, self.background.handle())?;
        // Sockets open only once the cluster is known, so that no early query is told SERVFAIL.
        following.wait(&used);

        let mut serving = self.serving.lock();
        let serving = &mut *serving;
        if serving.is_ending {
            return Ok(None);
        }
        let settings = |listener: &Listener| settings(listener, !debug);
        let is_open = |listener: &&Listener| serving.socket(listener.place).is_some();
        let new: Vec<&Listener> = listeners.iter().filter(|listener| !is_open(listener)).collect();
        let service = |listener: &&Listener| {
            let Listener { place, router, credentials, .. } = listener;
            Service::of(place.kind(), router.clone(), settings(listener), credentials.clone())
        };
        let services: Vec<Arc<Service>> = new.iter().map(service).collect();
        let first = self.open(&new, &services, sockets, &mut serving.server)?;

        // Nothing fails from here on.
        for listener in &listeners {
            if let Some(open) = serving.socket(listener.place) {
                open.service.replace(listener.router.clone(), settings(listener), listener.credentials.clone());
            }
        }
        serving.sockets.extend(new.iter().zip(services).enumerate().map(|(number, (listener, service))| Open {
            place: listener.place,
            service,
            listener: first + number,
        }));
        self.world
            .resources
            .metrics
            .get::<HttpReplies>()
            .replace(serving.sockets.iter().map(|open| (open.place, open.service.clone())));
        self.world.resources.debug.store(debug, Ordering::Relaxed);
        self.world.resources.metrics.get::<ActivePlugins>().replace(plugins);
        if let Some(pages) = pages {
            serving.pages = Some(self.start_pages(pages, serving.pages.take()));
        }
        serving.lameduck = lameduck;
        self.world.resources.lifecycle.enter(Phase::Serving);
        serving.end_chores();
        serving.chores = chores.into_iter().map(|chore| self.start_chore(Arc::new(chore))).collect();
        serving.bound_tasks.drain(..).for_each(|task| task.abort());
        for (listener, task) in bound_tasks {
            if let Some(address) = serving.bound(listeners[listener].place) {
                serving.bound_tasks.push(self.runtime.spawn(task(address)).abort_handle());
            }
        }
        serving.following.push(following);
        serving.used = used;
        serving.drop_unused();
        serving.close(&listeners);
        Ok(Some(listeners))
    }

    /// Opens sockets, all or none; gives the number of the first.
    fn open(
        &self, new: &[&Listener], services: &[Arc<Service>], sockets: Option<NonZeroUsize>, server: &mut Option<Server>,
    ) -> anyhow::Result<usize> {
        let specs = new.iter().zip(services).map(|(listener, service)| ListenSpec {
            address: listener.place.socket_address(),
            service: service.clone(),
        });
        let specs: Vec<ListenSpec> = specs.collect();
        if let Some(server) = server {
            return Ok(server.open(&specs)?);
        }
        let dispatcher = self.world.resources.dispatcher.clone();
        let options = Options { dispatcher, sockets, ..Options::new(self.runtime.handle().clone()) };
        let started = Server::start(specs, options)?;
        let register = |metric, number: fn(Counts) -> u64| {
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

    /// Looks at the machine anew.
    pub fn refresh(&mut self) {
        self.world.resources.interfaces = super::machine::interfaces();
    }

    fn start_pages(&self, pages: OpenPages, before: Option<Running>) -> Running {
        pages.start(&self.pages, before)
    }

    fn start_chore(&self, chore: Arc<Chore>) -> (Arc<Chore>, AbortHandle) {
        let task = self.runtime.spawn(repeat(chore.clone())).abort_handle();
        (chore, task)
    }
}

impl Serving {
    /// Returns the phase of the process.
    pub fn lifecycle(&self) -> Arc<Lifecycle> {
        self.lifecycle.clone()
    }

    fn socket(&self, place: Place) -> Option<&Open> {
        // Any port is another one each time.
        self.sockets.iter().find(|open| place.port != 0 && open.place == place)
    }

    /// Where a socket is bound, with its real port.
    pub fn bound(&self, place: Place) -> Option<std::net::SocketAddr> {
        let open = self.sockets.iter().find(|open| open.place == place)?;
        self.server.as_ref()?.local_address(open.listener)
    }

    /// Closes what no listener wants, once what has come is answered.
    fn close(&mut self, wanted: &[Listener]) {
        let Serving { sockets, server, .. } = self;
        sockets.retain(|open| {
            let is_wanted = wanted.iter().any(|listener| listener.place == open.place);
            if let Some(server) = server.as_mut().filter(|_| !is_wanted) {
                server.close(open.listener);
            }
            is_wanted
        });
    }

    /// Ends what is done beside the answers.
    pub fn end_chores(&mut self) {
        for (chore, task) in self.chores.drain(..) {
            task.abort();
            if let Some(stop) = &chore.stop {
                stop();
            }
        }
    }

    /// Lets go of indexes that have been in another's place, once that one is synced. Returns whether some are left.
    pub fn settle(&mut self) -> bool {
        // Not `any`: each has its turn.
        if self.used.iter().fold(false, |settled, index| index.settle() | settled) {
            tracing::info!(plugin = "kubernetes", "synced with the Kubernetes API after the reload");
            self.drop_unused();
        }
        self.used.iter().any(CurrentIndex::is_settling)
    }

    fn drop_unused(&mut self) {
        let Serving { following, used, .. } = self;
        following.retain(|following| following.is_used(used));
    }

    /// The order to end has come: `/ready` says no, and no configuration is taken up any more. Returns how long
    /// everything else goes on, for clients to find other servers; where no socket was open yet, there are none.
    pub fn begin_end(&mut self) -> Duration {
        self.is_ending = true;
        self.lifecycle.enter(Phase::Ending);
        if self.server.is_some() { self.lameduck } else { Duration::ZERO }
    }

    /// Takes nothing new, and answers what has come; blocks, at most so long.
    pub fn drain(&mut self, grace: Duration) {
        if let Some(server) = self.server.take() {
            server.stop(grace);
        }
    }
}

/// How a listener is served.
fn settings(listener: &Listener, recover: bool) -> Settings {
    let usual = Settings::default();
    let TimeoutOptions { read, write, idle, queries } = listener.timeouts;
    let timeouts = Timeouts {
        read: read.unwrap_or(usual.timeouts.read),
        write: write.unwrap_or(usual.timeouts.write),
        idle: idle.unwrap_or(usual.timeouts.idle),
    };
    let ListenerLimits { connections, streams, at_once } = listener.limits;
    // CoreDNS's defaults.
    let (usual_streams, usual_at_once) = match listener.place.scheme {
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
            Some(0) => MOST,
            Some(connections) => connections as usize,
        },
        streams: Some(streams.unwrap_or(usual_streams)).filter(|&streams| streams > 0),
        at_once: at_once.or(usual_at_once),
    }
}

/// Connections of an encrypted listener where its directive has no bound.
const MOST: usize = 10_000;

/// Does a chore again and again, beside the threads that answer.
async fn repeat(chore: Arc<Chore>) {
    let mut pause = chore.every;
    loop {
        tokio::time::sleep(pause).await;
        let round = chore.clone();
        // A chore that panics has been reported; the next round may go well.
        let again = tokio::task::spawn_blocking(move || (round.run)(SystemTime::now())).await.unwrap_or(false);
        pause = if again { chore.every.min(files::SOON) } else { chore.every };
    }
}

/// A small runtime of its own.
pub fn apart(name: &'static str, threads: usize) -> anyhow::Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(threads).thread_name(name).enable_all().build().context("cannot start threads")
}
