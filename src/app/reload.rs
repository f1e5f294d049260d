//! Another configuration while queries come: when the Corefile has changed, where *reload* says so, or when told by SIGUSR1.
//!
//! What a Corefile is, is its text and that of all that it imports: by that a change is seen, and with it links that
//! ConfigMaps change. A text that failed is not tried again before it changes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::args::{Args, Conf};
use super::configuration::{self, Configuration};
use super::run::with_causes;
use super::serving::Program;
use crate::corefile::{Diagnostic, Diagnostics, RealFiles, Sources, Stage};
use crate::plugins::build::ReloadTiming;
use crate::telemetry::metrics::{self, Family, IntCounter, Observed, Registry, table};

/// What is known of the configuration that serves.
pub struct Reloads {
    /// What *reload* says, if it is there.
    wanted: Option<ReloadTiming>,
    /// The digest of the text that was last tried.
    tried: String,
    /// The digest that metrics tell of, once a file has been loaded anew.
    shown: Arc<Mutex<Option<String>>>,
    failed: IntCounter,
}

impl Reloads {
    /// For the first configuration.
    pub fn new(configuration: &Configuration, registry: &Registry) -> Reloads {
        let shown: Arc<Mutex<Option<String>>> = Arc::default();
        let told = shown.clone();
        metrics::register(
            registry,
            Observed::new(&[&table::RELOAD_VERSION], move || {
                let mut family = Family::new(&table::RELOAD_VERSION);
                if let Some(value) = &*told.lock() {
                    family.value(&["sha512", value], 1.0);
                }
                vec![family.done()]
            }),
        );
        let failed = table::RELOAD_FAILED.counter(registry);
        Reloads { wanted: wanted(configuration), tried: digest(&configuration.corefile.sources), shown, failed }
    }

    /// Tells which configuration serves (CoreDNS's words).
    pub fn announce(&self) {
        if self.wanted.is_some() {
            tracing::info!(plugin = "reload", "Running configuration SHA512 = {}", self.tried);
        }
    }

    /// When the file is looked at next, if it is.
    pub fn next(&self) -> Option<Duration> {
        self.wanted.map(|config| config.next(fastrand::f64()))
    }

    /// Looks whether the file has changed.
    pub fn look(&mut self, program: &mut Program) {
        let (configuration, diagnostics) = read(&program.args);
        // A file that cannot be read, or is empty, may be about to be written.
        if configuration.corefile.sources.files().next().is_none() || configuration.is_built_in() {
            return;
        }
        let digest = digest(&configuration.corefile.sources);
        if digest != self.tried
            && let Err(error) = self.take_up(&configuration, diagnostics, digest, program)
        {
            tracing::error!(plugin = "reload", "Corefile changed but reload failed: {error}");
        }
    }

    /// Loads the file, changed or not.
    pub fn reload(&mut self, program: &mut Program) {
        if matches!(program.args.conf, Some(Conf::Stdin)) {
            tracing::warn!("SIGUSR1: a Corefile from standard input cannot be read again; nothing has changed");
            return;
        }
        let (configuration, diagnostics) = read(&program.args);
        let digest = digest(&configuration.corefile.sources);
        if let Err(error) = self.take_up(&configuration, diagnostics, digest, program) {
            tracing::error!("SIGUSR1: reload failed: {error}");
        }
    }

    /// Serves this configuration; gives what is wrong with it in one line.
    fn take_up(
        &mut self, configuration: &Configuration, diagnostics: Diagnostics, digest: String, program: &mut Program,
    ) -> Result<(), String> {
        tracing::info!("Reloading");
        self.tried.clone_from(&digest);
        program.refresh();
        match program.take_up(configuration, diagnostics) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                self.wanted = wanted(configuration);
                self.announce();
                *self.shown.lock() = Some(digest);
                tracing::info!("Reloading complete");
                Ok(())
            }
            Err(error) => {
                self.failed.inc();
                *self.shown.lock() = Some(digest);
                Err(with_causes(&error))
            }
        }
    }
}

/// Reads the Corefile once more.
fn read(args: &Args) -> (Configuration, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let nothing = || Err(std::io::ErrorKind::Unsupported.into());
    let configuration = configuration::read(args, &RealFiles, nothing, &mut diagnostics);
    if configuration.is_built_in() && !diagnostics.has_errors() {
        // At start it means whoami on port 53. To put that in the place of what serves is nobody's wish: such a file is
        // about to be written.
        let message = format!("{} has no server block", args.conf_name());
        diagnostics.push(Diagnostic::error(Stage::Setup, None, message));
    }
    (configuration, diagnostics)
}

/// What *reload* says; the first block that has it counts.
fn wanted(configuration: &Configuration) -> Option<ReloadTiming> {
    configuration.blocks.iter().find_map(|block| block.options.reload)
}

/// The SHA-512 of all texts, in hexadecimal digits.
fn digest(sources: &Sources) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA512);
    for file in sources.files() {
        context.update(sources.name(file).as_bytes());
        context.update(&[0]);
        context.update(sources.text(file).as_bytes());
        context.update(&[0]);
    }
    context.finish().as_ref().iter().map(|octet| format!("{octet:02x}")).collect()
}
