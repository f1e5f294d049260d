//! The life of the process: starts what the command line asks for, reacts to signals, and stops.
//!
//! The main thread only waits for signals. A thread of its own loads the configuration at start and at each reload.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;
use tracing_subscriber::layer::SubscriberExt as _;

use super::args::{Args, ArgsError, Task};
use super::build::{Listener, World};
use super::check::check;
use super::follow::SourceStarter;
use super::indexes::KnownIndexes;
use super::reload::Reloader;
use super::serving::{Program, Serving, build_runtime};
use super::signals::{ForcedStop, MainEvent, Signals, StopMode};
use super::standard_io::{finish, format_with_causes, print_error, read_stdin};
use super::status_page::{StatusPage, StatusPageParts};
use super::top::{self, LiveTop};
use super::version::{self, COREDNS, VERSION, platform};
use super::{configuration, explain, machine, metrics};
use crate::admin;
use crate::chain::pending::BoxFuture;
use crate::chain::{QueryTap, Surroundings};
use crate::corefile::{Diagnostics, GoDuration, RealFiles};
use crate::explain::printable;
use crate::plugins::DIRECTIVES;
use crate::plugins::build::{CarriedOver, Hook, Resources};
use crate::telemetry::log::{self, LogFormat, LogLayer, Logger, Severity};
use crate::upstream::{Dispatcher, UpstreamRegistry};

/// How long a graceful stop waits for pending queries.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for all work before the stop, such as commands of *on*.
const STOP_HOOKS_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on tasks that no client waits for, such as refreshes of cache entries.
const MAX_BACKGROUND_TASKS: usize = 1_024;
/// Threads that follow the cluster. With one, an event goes from the socket to the index without waking another thread,
/// which saves a tenth of the time.
const BACKGROUND_THREADS: usize = 1;
/// How often an index whose predecessor still answers is checked for being synced.
const SETTLE_INTERVAL: Duration = Duration::from_secs(1);
/// How long an immediate stop waits for a configuration that is being applied.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// The stack of the thread that loads configurations, in bytes. The parser of manifests, at its deepest, needs a large
/// part of the usual 2 MiB.
const LOADER_STACK: usize = 8 << 20;
/// How long the exit waits for log lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the program. `words` are the command line without the program's name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter().peekable();
    if words.next_if(|word| word == "explain").is_some() {
        return explain::main(words);
    }
    if words.next_if(|word| word == "resolve").is_some() {
        return explain::resolve::main(words);
    }
    if words.next_if(|word| word == "top").is_some() {
        return top::main(words);
    }
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(error) => {
            print_error(format_args!("{}\n", printable(&error.to_string())));
            // Go's flag package prints the flags and exits with 2; CoreDNS itself refuses extra words with 1.
            if matches!(error, ArgsError::Extra { .. }) {
                return ExitCode::from(1);
            }
            print_error(format_args!("{}", Args::help()));
            return ExitCode::from(2);
        }
    };
    match args.task {
        Task::Help => finish(Ok(Args::help())),
        Task::Version => finish(Ok(version::text())),
        Task::Plugins => finish(Ok(directives())),
        Task::Check | Task::CheckJson => check(&args),
        Task::Serve => {
            let log_format = args.log_format;
            serve(args).unwrap_or_else(|error| {
                let mut text = format_with_causes(&error);
                if log_format == LogFormat::Json {
                    text = log::line(LogFormat::Json, Severity::Fatal, None, &text, &[]);
                }
                print_error(format_args!("{text}\n"));
                ExitCode::from(1)
            })
        }
    }
}

/// Returns every directive, and marks those that are not implemented.
fn directives() -> String {
    let lines = DIRECTIVES
        .iter()
        .map(|entry| format!("  {}{}\n", entry.name, if entry.read.is_some() { "" } else { " (not implemented)" }));
    "Directives, in the order in which their plugins run:\n".to_owned() + &lines.collect::<String>()
}

/// Serves until a signal stops the program. Returns the exit status.
fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let signals = Signals::new()?;
    let logger = Logger::start(args.log_format, std::io::stdout());
    let debug = Arc::new(AtomicBool::new(false));
    let layer = LogLayer::new(logger.clone(), debug.clone());
    // This fails only if the process calls it twice.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    let result = serve_with(args, &logger, debug, signals);
    logger.flush(FLUSH_TIMEOUT);
    result
}

/// Starts the thread that loads configurations, and reacts to signals.
fn serve_with(args: Args, logger: &Logger, debug: Arc<AtomicBool>, mut signals: Signals) -> anyhow::Result<ExitCode> {
    machine::raise_descriptor_limit();
    let serving = Arc::default();
    let pidfile = Arc::default();
    // One waiting request is enough: the reload reads the file as it is then.
    let (reload_sender, reload_requests) = mpsc::sync_channel(1);
    let (error_sender, mut errors) = unbounded_channel();
    let loader = Loader {
        args,
        logger: logger.clone(),
        debug,
        serving: Arc::clone(&serving),
        pidfile: Arc::clone(&pidfile),
        reload_requests,
    };
    let load = move || {
        let error = loader.run();
        let _ = error_sender.send(error);
    };
    std::thread::Builder::new()
        .name("configuration".into())
        .stack_size(LOADER_STACK)
        .spawn(load)
        .context("cannot start threads")?;
    let mode = loop {
        match signals.wait(&mut errors) {
            // If the channel is full, a request is waiting already.
            MainEvent::Reload => drop(reload_sender.try_send(())),
            MainEvent::Stop(mode) => break mode,
            MainEvent::Received(Some(error)) => {
                remove_pidfile(&pidfile);
                return Err(error);
            }
            MainEvent::Received(None) => bail!("the thread that loads configurations has panicked"),
        }
    };
    let status = stop(mode, &serving, &mut signals);
    remove_pidfile(&pidfile);
    Ok(status)
}

/// Stops serving. Returns the exit status.
fn stop(mode: StopMode, serving: &Arc<Mutex<Serving>>, signals: &mut Signals) -> ExitCode {
    let forced = match mode {
        StopMode::Immediate => Some(ForcedStop::Quit),
        // First, clients get time to switch to another server. Then SIGTERM answers all received queries; SIGINT does
        // not.
        StopMode::Graceful | StopMode::Interrupted => {
            let (lameduck, hooks) = {
                let mut serving = serving.lock();
                (serving.begin_stop(), serving.take_stop_hooks())
            };
            let forced = if hooks.is_empty() { None } else { signals.run(move || run_at_stop(&hooks)) };
            forced.or_else(|| wait_lameduck(lameduck, signals)).or_else(|| {
                let serving = serving.clone();
                (mode == StopMode::Graceful).then(|| signals.run(move || serving.lock().drain(DRAIN_TIMEOUT)))?
            })
        }
    };
    // An immediate stop does not wait for a long reload.
    if let Some(mut serving) = serving.try_lock_for(LOCK_TIMEOUT) {
        serving.stop_chores();
    }
    match forced {
        Some(ForcedStop::Interrupted) => ExitCode::from(2),
        Some(ForcedStop::Quit) | None => ExitCode::SUCCESS,
    }
}

/// Does the work before the stop. All of it together has a limit.
fn run_at_stop(hooks: &[Hook]) {
    let until = Instant::now() + STOP_HOOKS_TIMEOUT;
    for hook in hooks {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::warn!("the time before the stop is over, and some work is left out");
            return;
        }
        hook(left);
    }
}

/// The thread that loads configurations: the first one, and those of reloads. Nothing else waits for it.
struct Loader {
    args: Args,
    logger: Logger,
    debug: Arc<AtomicBool>,
    serving: Arc<Mutex<Serving>>,
    pidfile: Arc<Mutex<Option<PathBuf>>>,
    /// Receives a message for SIGUSR1.
    reload_requests: Receiver<()>,
}

impl Loader {
    /// Loads the first configuration and then all others. Returns the error of the first one. If there is none, it runs
    /// until the process exits, since its runtimes answer until then.
    fn run(self) -> anyhow::Error {
        let (mut program, mut reloader) = match self.start() {
            Ok(Some(started)) => started,
            Ok(None) => loop {
                std::thread::park();
            },
            Err(error) => return error,
        };
        let mut next_check = reloader.check_delay().map(|delay| Instant::now() + delay);
        let mut is_settling = false;
        loop {
            let next_settle = is_settling.then(|| Instant::now() + SETTLE_INTERVAL);
            let next = next_check.into_iter().chain(next_settle).min();
            let wait = next.map_or(Duration::MAX, |next| next.saturating_duration_since(Instant::now()));
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
            match self.reload_requests.recv_timeout(wait) {
                Ok(()) => reloader.reload(&mut program),
                Err(RecvTimeoutError::Timeout) if is_due(next_check) => reloader.reload_if_changed(&mut program),
                Err(RecvTimeoutError::Timeout) => {
                    is_settling = program.serving.lock().settle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => loop {
                    std::thread::park();
                },
            }
            next_check = reloader.check_delay().map(|delay| Instant::now() + delay);
            is_settling = program.serving.lock().settle();
        }
    }

    /// Serves the first configuration. Returns `None` if the program stops before that.
    fn start(&self) -> anyhow::Result<Option<(Program, Reloader)>> {
        let Loader { args, logger, .. } = self;
        let mut diagnostics = Diagnostics::default();
        let configuration = configuration::read(args, &RealFiles, read_stdin, &mut diagnostics);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        let metrics = metrics::create();
        metrics::show_dropped_lines(&metrics, logger.clone());
        let top = args.top.then(|| LiveTop::start(metrics.get()));
        if let Some(top) = top.as_ref().filter(|_| args.top_metrics > 0) {
            top::show(metrics.registry(), top.clone(), args.top_metrics);
        }
        let sources = SourceStarter::new(metrics.registry());
        let upstreams = UpstreamRegistry::new(runtime.handle().clone(), metrics.get());
        let resources = Resources {
            logger: logger.clone(),
            hostname: machine::hostname(),
            search_list: machine::search_list(),
            version: VERSION,
            interfaces: machine::interfaces(),
            debug: self.debug.clone(),
            metrics,
            upstreams: Arc::new(upstreams),
            dispatcher: Dispatcher::default(),
            lifecycle: self.serving.lock().lifecycle(),
            carried_over: CarriedOver::default(),
        };
        let world = World {
            resources,
            surroundings: build_surroundings(runtime.handle(), &top),
            indexes: KnownIndexes::default(),
        };
        let status_page = StatusPage::new(StatusPageParts {
            host: world.resources.hostname.clone(),
            logger: logger.clone(),
            registry: world.resources.metrics.registry().clone(),
            lifecycle: world.resources.lifecycle.clone(),
            upstreams: world.resources.upstreams.clone(),
            top: top.clone(),
        });
        // Runtimes of their own: a list of the cluster delays no page, and neither delays an answer.
        let background = build_runtime("background", BACKGROUND_THREADS)?;
        let pages = build_runtime("pages", admin::THREADS)?;
        let engine = explain::SharedEngine::default();
        explain::serve(engine.clone(), pages.handle());
        let program = Program {
            args: args.clone(),
            engine,
            top,
            status_page,
            logger: logger.clone(),
            serving: self.serving.clone(),
            world,
            runtime,
            background,
            pages,
            sources,
        };
        if let Some(path) = self.args.pidfile.as_deref().filter(|_| !diagnostics.has_errors()) {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("pidfile: cannot write {}", path.display()))?;
            *self.pidfile.lock() = Some(path.to_owned());
        }
        if let Some(text) = configuration.built_in_for_manifests() {
            tracing::info!("no server block is configured: the manifests are served by the built-in Corefile {text:?}");
        }
        if let Some(text) = configuration.without_cluster(&self.args) {
            tracing::warn!("{text}; expected {}", configuration::BLOCK_EXPECTED);
        }
        let reloader = Reloader::new(&configuration, program.world.resources.metrics.registry());
        let Some(listeners) = program.apply(&configuration, diagnostics)? else { return Ok(None) };
        // In CoreDNS's order.
        log_start_lines(&self.args, &self.logger, &zone_lines(&listeners, &program.serving.lock()));
        reloader.log_digest();
        let program_line = format!("{VERSION} ({COREDNS} compatible)");
        let lines = [program_line, format!("{}, pid {}", platform(), std::process::id())];
        log_start_lines(&self.args, &self.logger, &lines);
        Ok(Some((program, reloader)))
    }
}

/// Removes the file with the process ID.
fn remove_pidfile(pidfile: &Mutex<Option<PathBuf>>) {
    if let Some(path) = pidfile.lock().take() {
        // Another process may have removed it.
        let _ = std::fs::remove_file(path);
    }
}

/// Returns the clock, the timer, a spawner for tasks that no client waits for, and what records queries.
fn build_surroundings(runtime: &Handle, top: &Option<Arc<LiveTop>>) -> Surroundings {
    let runtime = runtime.clone();
    let permits = Arc::new(Semaphore::new(MAX_BACKGROUND_TASKS));
    let spawner = move |future: BoxFuture<()>| {
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            runtime.spawn(async move {
                future.await;
                drop(permit);
            });
        }
    };
    // The future of a timer is polled on a runtime.
    let timer = |time| -> BoxFuture<()> { Box::pin(async move { tokio::time::sleep(time).await }) };
    let tap = top.clone().map(|top| -> Arc<dyn QueryTap> { top });
    Surroundings { clock: Arc::new(Instant::now), spawner: Arc::new(spawner), timer: Arc::new(timer), tap }
}

/// Waits for the time of *lameduck*, while the server answers as before, so that clients switch to another server.
/// Returns the signal that has ended the wait early.
fn wait_lameduck(lameduck: Duration, signals: &mut Signals) -> Option<ForcedStop> {
    if lameduck.is_zero() {
        return None;
    }
    tracing::info!(plugin = "health", "Going into lameduck mode for {}", GoDuration(lameduck));
    signals.sleep(lameduck)
}

/// Returns a line for each zone on each listener, as CoreDNS prints it.
fn zone_lines(listeners: &[Listener], serving: &Serving) -> Vec<String> {
    let lines = listeners.iter().filter_map(|listener| {
        let port = serving.bound_address(listener.address)?.port();
        Some(listener.zones.iter().map(move |zone| listener.address.line(zone, port)))
    });
    lines.flatten().collect()
}

/// Prints lines at start: plain lines, or one JSON object with all of them (CoreDNS's onstartup.go).
fn log_start_lines(args: &Args, logger: &Logger, lines: &[String]) {
    match args.log_format {
        _ if args.quiet || lines.is_empty() => {}
        LogFormat::Text => lines.iter().for_each(|line| logger.raw(line)),
        LogFormat::Json => logger.line(Severity::Info, None, &lines.join("\n")),
    }
}
