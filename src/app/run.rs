//! The program's life: what it prints, what it starts, and how it ends.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::unbounded_channel;
use tracing_subscriber::layer::SubscriberExt as _;

use super::args::{Args, ArgsError, Task};
use super::build::{Listener, World};
use super::check::check;
use super::follow::Follow;
use super::indexes::KnownIndexes;
use super::reload::Reloads;
use super::serving::{Program, Serving, apart};
use super::signals::{Cut, End, Event, Signals};
use super::{COREDNS, VERSION, configuration, machine, metrics};
use crate::chain::Surroundings;
use crate::chain::pending::BoxFuture;
use crate::corefile::{Diagnostics, GoDuration, RealFiles, read_source};
use crate::plugins::DIRECTIVES;
use crate::plugins::build::{CarriedOver, Resources};
use crate::telemetry::log::{self, Format, LogLayer, Logger, Severity as LogSeverity};
use crate::upstream::{Dispatcher, UpstreamRegistry};

/// How long the end of listeners may take.
const GRACE: Duration = Duration::from_secs(5);
/// How much may run at once that no client waits for, such as refreshes of a cache.
const BESIDE: usize = 1_024;
/// Threads that follow the cluster. One hands an event from socket to index without waking another, which would cost a
/// tenth of it.
const BACKGROUND_THREADS: usize = 1;
/// How often an index whose predecessor answers is checked for being synced.
const SETTLING: Duration = Duration::from_secs(1);
/// How long an end at once waits for a configuration that is being taken up.
const LOCKED: Duration = Duration::from_millis(100);
/// The stack of the thread that loads configurations: the parser of manifests needs a good part of the usual 2 MiB at
/// its deepest.
const STACK: usize = 8 << 20;
/// How long lines may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// The program. `words` are those behind its name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::parse(words) {
        Ok(args) => args,
        Err(error) => {
            print_error(format_args!("{error}\n"));
            // Go's flag package prints the flags and exits with 2; CoreDNS itself refuses extra words with 1.
            if matches!(error, ArgsError::Extra(_)) {
                return ExitCode::from(1);
            }
            print_error(format_args!("{}", Args::help()));
            return ExitCode::from(2);
        }
    };
    match args.task {
        Task::Help => print(format_args!("{}", Args::help())),
        Task::Version => print(format_args!("{VERSION}\n{COREDNS} compatible\n{}\n", platform())),
        Task::Plugins => print_directives(),
        Task::Check | Task::CheckJson => return check(&args),
        Task::Serve => {
            let log_format = args.log_format;
            return serve(args).unwrap_or_else(|error| {
                let mut text = with_causes(&error);
                if log_format == Format::Json {
                    text = log::line(Format::Json, LogSeverity::Fatal, None, &text, &[]);
                }
                print_error(format_args!(
                    "{text}
"
                ));
                ExitCode::from(1)
            });
        }
    }
    ExitCode::SUCCESS
}

/// An error with its causes, but for those that it tells of itself.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // "address already in use" and "Address already in use (os error 98)" are one thing to say.
        let said = cause.split(" (os error").next().unwrap_or(&cause).to_lowercase();
        if !text.to_lowercase().contains(&said) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Writes to standard output. Whoever has closed it does not want to know.
pub fn print(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stdout().write_fmt(text);
}

/// Writes to standard error, likewise.
fn print_error(text: std::fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// The system that this was built for.
fn platform() -> String {
    format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Every directive, and which are built.
fn print_directives() {
    print(format_args!("Directives, in the order in which their plugins run:\n"));
    for entry in DIRECTIVES {
        print(format_args!("  {}{}\n", entry.name, if entry.read.is_some() { "" } else { " (not built yet)" }));
    }
}

/// The Corefile on standard input.
pub fn read_stdin() -> std::io::Result<String> {
    read_source(std::io::stdin())
}

/// Serves until a signal ends it; gives the exit status.
fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let signals = Signals::new()?;
    let logger = Logger::start(args.log_format, std::io::stdout());
    let debug = Arc::new(AtomicBool::new(false));
    let layer = LogLayer::new(logger.clone(), debug.clone());
    // Another subscriber is there only in a program that calls this twice.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    let result = serve_with(args, &logger, debug, signals);
    logger.flush(FLUSH);
    result
}

/// Loads configurations on a thread of its own, and does what signals say.
fn serve_with(args: Args, logger: &Logger, debug: Arc<AtomicBool>, mut signals: Signals) -> anyhow::Result<ExitCode> {
    machine::raise_descriptor_limit();
    let (serving, pidfile) = (Arc::default(), Arc::default());
    // One reload that waits is enough: it reads what is there when its turn comes.
    let (reload, reloads) = mpsc::sync_channel(1);
    let (failed, mut failure) = unbounded_channel();
    let loader = Loader {
        args,
        logger: logger.clone(),
        debug,
        serving: Arc::clone(&serving),
        pidfile: Arc::clone(&pidfile),
        reloads,
    };
    let load = move || {
        let error = loader.run();
        let _ = failed.send(error);
    };
    std::thread::Builder::new()
        .name("configuration".into())
        .stack_size(STACK)
        .spawn(load)
        .context("cannot start threads")?;
    let end = loop {
        match signals.wait(&mut failure) {
            // Where it is full, one waits.
            Event::Reload => drop(reload.try_send(())),
            Event::End(end) => break end,
            Event::Sent(Some(error)) => {
                remove(&pidfile);
                return Err(error);
            }
            Event::Sent(None) => bail!("the thread that loads configurations has panicked"),
        }
    };
    let status = end_by(end, &serving, &mut signals);
    remove(&pidfile);
    Ok(status)
}

/// Ends the program as a signal says; gives the exit status.
fn end_by(end: End, serving: &Arc<Mutex<Serving>>, signals: &mut Signals) -> ExitCode {
    let cut = match end {
        End::Now => Some(Cut::Quit),
        // Clients are sent away first; SIGTERM answers what has come then, SIGINT ends.
        End::Graceful | End::Interrupted => {
            let lameduck = serving.lock().begin_end();
            linger(lameduck, signals).or_else(|| {
                let serving = serving.clone();
                (end == End::Graceful).then(|| signals.run(move || serving.lock().drain(GRACE)))?
            })
        }
    };
    // An end at once does not wait.
    if let Some(mut serving) = serving.try_lock_for(LOCKED) {
        serving.end_chores();
    }
    match cut {
        Some(Cut::Interrupted) => ExitCode::from(2),
        Some(Cut::Quit) | None => ExitCode::SUCCESS,
    }
}

/// The thread that loads configurations: the first, and those of reloads. It may take its time.
struct Loader {
    args: Args,
    logger: Logger,
    debug: Arc<AtomicBool>,
    serving: Arc<Mutex<Serving>>,
    pidfile: Arc<Mutex<Option<PathBuf>>>,
    /// Something comes for each SIGUSR1.
    reloads: Receiver<()>,
}

impl Loader {
    /// Loads the first configuration and others after it; gives why the first cannot be served. It ends with the
    /// program: its runtimes answer until then.
    fn run(self) -> anyhow::Error {
        let (mut program, mut reloads) = match self.start() {
            Ok(Some(started)) => started,
            Ok(None) => loop {
                std::thread::park();
            },
            Err(error) => return error,
        };
        let mut look = reloads.next().map(|time| Instant::now() + time);
        let mut is_settling = false;
        loop {
            let settled = is_settling.then(|| Instant::now() + SETTLING);
            let next = look.into_iter().chain(settled).min();
            let wait = next.map_or(Duration::MAX, |next| next.saturating_duration_since(Instant::now()));
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
            match self.reloads.recv_timeout(wait) {
                Ok(()) => reloads.reload(&mut program),
                Err(RecvTimeoutError::Timeout) if is_due(look) => reloads.look(&mut program),
                Err(RecvTimeoutError::Timeout) => {
                    is_settling = program.serving.lock().settle();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => loop {
                    std::thread::park();
                },
            }
            look = reloads.next().map(|time| Instant::now() + time);
            is_settling = program.serving.lock().settle();
        }
    }

    /// Serves the first configuration; `None` where the program ends before it does.
    fn start(&self) -> anyhow::Result<Option<(Program, Reloads)>> {
        let Loader { args, logger, .. } = self;
        let mut diagnostics = Diagnostics::default();
        let configuration = configuration::read(args, &RealFiles, read_stdin, &mut diagnostics);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
        let metrics = metrics::create();
        let follow = Follow::new(metrics.registry());
        let upstreams = UpstreamRegistry::new(runtime.handle().clone(), metrics.get());
        let resources = Resources {
            logger: logger.clone(),
            hostname: machine::hostname(),
            version: VERSION,
            interfaces: machine::interfaces(),
            debug: self.debug.clone(),
            metrics,
            upstreams: Arc::new(upstreams),
            dispatcher: Dispatcher::default(),
            lifecycle: self.serving.lock().lifecycle(),
            carried_over: CarriedOver::default(),
        };
        let world = World { resources, surroundings: surroundings(runtime.handle()), indexes: KnownIndexes::default() };
        // Apart from the answers and from each other: neither a list of the cluster delays a page, nor either an
        // answer.
        let (background, pages) = (apart("background", BACKGROUND_THREADS)?, apart("pages", 1)?);
        let (args, logger, serving) = (args.clone(), logger.clone(), self.serving.clone());
        let program = Program { args, logger, serving, world, runtime, background, pages, follow };
        if let Some(path) = self.args.pidfile.as_deref().filter(|_| !diagnostics.has_errors()) {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| format!("pidfile: cannot write {}", path.display()))?;
            *self.pidfile.lock() = Some(path.to_owned());
        }
        if let Some(text) = configuration.built_in_for_manifests() {
            tracing::info!("no server block is configured: the manifests are served by the built-in Corefile {text:?}");
        }
        let reloads = Reloads::new(&configuration, program.world.resources.metrics.registry());
        let Some(listeners) = program.take_up(&configuration, diagnostics)? else { return Ok(None) };
        // In CoreDNS's order.
        announce(&self.args, &self.logger, &zones(&listeners, &program.serving.lock()));
        reloads.announce();
        let program_line = format!("{VERSION} ({COREDNS} compatible)");
        let lines = [program_line, format!("{}, pid {}", platform(), std::process::id())];
        announce(&self.args, &self.logger, &lines);
        Ok(Some((program, reloads)))
    }
}

/// Removes the file with this process's ID.
fn remove(pidfile: &Mutex<Option<PathBuf>>) {
    if let Some(path) = pidfile.lock().take() {
        // Another process may have removed it.
        let _ = std::fs::remove_file(path);
    }
}

/// This process's clock, and a runtime for what no client waits for.
fn surroundings(runtime: &Handle) -> Surroundings {
    let (runtime, running) = (runtime.clone(), Arc::new(AtomicUsize::new(0)));
    let spawner = move |future: BoxFuture<()>| {
        let place = Place::take(&running);
        if let Some(place) = place {
            runtime.spawn(async move {
                future.await;
                drop(place);
            });
        }
    };
    // What waits so runs on a runtime.
    let timer = |time| -> BoxFuture<()> { Box::pin(tokio::time::sleep(time)) };
    Surroundings { clock: Arc::new(Instant::now), spawner: Arc::new(spawner), timer: Arc::new(timer) }
}

/// A place among what runs that no client waits for; free again when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(running: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(running.clone());
        (running.fetch_add(1, Ordering::Relaxed) < BESIDE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Goes on as before for the time of *lameduck*, but for `/ready`, so that clients find other servers first. Gives the
/// signal that has cut it short.
fn linger(lameduck: Duration, signals: &mut Signals) -> Option<Cut> {
    if lameduck.is_zero() {
        return None;
    }
    tracing::info!(plugin = "health", "Going into lameduck mode for {}", GoDuration(lameduck));
    signals.sleep(lameduck)
}

/// What is served, a line for each zone as CoreDNS has it.
fn zones(listeners: &[Listener], serving: &Serving) -> Vec<String> {
    let lines = listeners.iter().filter_map(|listener| {
        let port = serving.bound(listener.place)?.port();
        Some(listener.zones.iter().map(move |zone| listener.place.line(zone, port)))
    });
    lines.flatten().collect()
}

/// Says at start what is served, and by whom: plain lines, or one JSON object with them (CoreDNS's onstartup.go).
fn announce(args: &Args, logger: &Logger, lines: &[String]) {
    match args.log_format {
        _ if args.quiet || lines.is_empty() => {}
        Format::Text => lines.iter().for_each(|line| logger.raw(line)),
        Format::Json => logger.line(LogSeverity::Info, None, &lines.join("\n")),
    }
}
