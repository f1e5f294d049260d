//! The program's life: what it prints, what it starts, and how it ends.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::{Handle, Runtime};
use tracing_subscriber::layer::SubscriberExt as _;

use super::args::{Args, ArgsError, Task};
use super::build::{self, Kept, Listener, World};
use super::follow::Follow;
use super::operations::{Metrics, Running};
use super::reload::Reloads;
use super::serving::{Program, Serving, apart};
use super::signals::{Cut, End, Event, Signals};
use super::{COREDNS, VERSION, configuration, machine};
use crate::chain::Surroundings;
use crate::chain::pending::BoxFuture;
use crate::corefile::{
    Diagnostic, Diagnostics, GoDuration, RealFiles, Severity, read_source, render_json, render_text,
};
use crate::plugins::DIRECTIVES;
use crate::telemetry::log::{self, Format, LogLayer, Logger, Severity as LogSeverity};
use crate::upstream::{Dispatcher, UpstreamRegistry};

/// How long the end of listeners may take.
const GRACE: Duration = Duration::from_secs(5);
/// How much may run at once that no client waits for, such as refreshes of a cache.
const BESIDE: usize = 1_024;
/// Threads that follow the cluster. One hands an event from socket to index without waking another, which would cost a
/// tenth of it.
const BACKGROUND_THREADS: usize = 1;
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
            return serve(&args).unwrap_or_else(|error| {
                let mut text = with_causes(&error);
                if args.log_format == Format::Json {
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
fn print(text: std::fmt::Arguments<'_>) {
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

/// `-check`: everything that is wrong with the Corefile, exit status 0 or 1.
fn check(args: &Args) -> ExitCode {
    let mut diagnostics = Diagnostics::default();
    let configuration = configuration::read(args, &RealFiles, read_stdin, &mut diagnostics);
    // What is not on this machine may be on the one that will serve; blocks in each other's way are so everywhere.
    let mut here = Diagnostics::default();
    build::listen_addresses(&configuration, args.port, &machine::interfaces(), &mut here);
    for found in &here {
        let of_machine = found.plugin.as_deref() == Some("bind");
        let severity = if of_machine { Severity::Warning } else { found.severity };
        diagnostics.push(Diagnostic { severity, ..found.clone() });
    }
    diagnostics.sort();
    let sources = &configuration.corefile.sources;
    if args.task == Task::CheckJson {
        print(format_args!("{}\n", render_json(&diagnostics, sources)));
    } else {
        print(format_args!("{}", render_text(&diagnostics, sources)));
        let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error).count();
        let warnings = diagnostics.iter().count() - errors;
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
        print(format_args!("{}: {errors}, {warnings}\n", args.conf_name()));
    }
    if diagnostics.has_errors() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// The Corefile on standard input.
fn read_stdin() -> std::io::Result<String> {
    read_source(std::io::stdin())
}

/// Serves until a signal ends it; gives the exit status.
fn serve(args: &Args) -> anyhow::Result<ExitCode> {
    let logger = Logger::start(args.log_format, std::io::stdout());
    let debug = Arc::new(AtomicBool::new(false));
    let layer = LogLayer::new(logger.clone(), debug.clone());
    // Another subscriber is there only in a program that calls this twice.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
    let result = serve_with(args, &logger, &debug);
    logger.flush(FLUSH);
    result
}

fn serve_with(args: &Args, logger: &Logger, debug: &Arc<AtomicBool>) -> anyhow::Result<ExitCode> {
    machine::raise_descriptor_limit();
    let mut diagnostics = Diagnostics::default();
    let configuration = configuration::read(args, &RealFiles, read_stdin, &mut diagnostics);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let metrics = Metrics::default();
    let follow = Follow::new(&metrics.registry);
    let world = World {
        logger: logger.clone(),
        hostname: machine::hostname(),
        interfaces: machine::interfaces(),
        debug: debug.clone(),
        servers: Arc::new(UpstreamRegistry::new(runtime.handle().clone(), metrics.upstreams.clone())),
        metrics,
        dispatcher: Dispatcher::default(),
        surroundings: surroundings(runtime.handle()),
        kept: Kept::default(),
    };
    // Apart from the answers and from each other: neither a list of the cluster delays a page, nor either an answer.
    let (background, pages) = (apart("background", BACKGROUND_THREADS)?, apart("pages", 1)?);
    let mut program = Program { args, logger: logger.clone(), world, runtime, background, pages, follow };
    let mut serving = Serving::default();
    let pidfile = args.pidfile.as_deref();
    let _pidfile = if diagnostics.has_errors() { None } else { pidfile.map(Pidfile::write).transpose()? };
    // Until the cluster is loaded, which may take a while, a signal simply ends the program.
    let mut reloads = Reloads::new(&configuration, &program.world.metrics.registry);
    let listeners = program.take_up(&configuration, diagnostics, &mut serving)?;
    let mut signals = Signals::new(&program.runtime)?;
    // In CoreDNS's order.
    announce(args, logger, &zones(&listeners, &serving));
    reloads.announce();
    let program_line = format!("{VERSION} ({COREDNS} compatible)");
    announce(args, logger, &[program_line, format!("{}, pid {}", platform(), std::process::id())]);

    let end = loop {
        match program.runtime.block_on(signals.wait(reloads.next())) {
            Event::Reload => reloads.reload(&mut program, &mut serving),
            Event::Look => reloads.look(&mut program, &mut serving),
            Event::End(end) => break end,
        }
    };
    let lameduck = || serving.pages().map_or(Duration::ZERO, Running::ending);
    let cut = match end {
        // Clients are sent away first; SIGTERM answers what has come then, SIGINT ends.
        End::Graceful | End::Interrupted => linger(lameduck(), &mut signals, &program.runtime),
        End::Now => None,
    };
    if let (End::Graceful, None) = (&end, &cut) {
        serving.drain(GRACE);
    }
    serving.end();
    program.end();
    Ok(match cut {
        Some(Cut::Interrupted) => ExitCode::from(2),
        Some(Cut::Quit) | None => ExitCode::SUCCESS,
    })
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
fn linger(lameduck: Duration, signals: &mut Signals, runtime: &Runtime) -> Option<Cut> {
    if lameduck.is_zero() {
        return None;
    }
    tracing::info!(plugin = "health", "Going into lameduck mode for {}", GoDuration(lameduck));
    runtime.block_on(async {
        tokio::select! {
            () = tokio::time::sleep(lameduck) => None,
            cut = signals.wait_for_cut() => Some(cut),
        }
    })
}

/// The file with this process's ID; gone when dropped.
struct Pidfile<'a>(&'a Path);

impl Pidfile<'_> {
    fn write(path: &Path) -> anyhow::Result<Pidfile<'_>> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .with_context(|| format!("pidfile: cannot write {}", path.display()))?;
        Ok(Pidfile(path))
    }
}

impl Drop for Pidfile<'_> {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(self.0);
    }
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
