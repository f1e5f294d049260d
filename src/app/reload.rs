//! Reloads: the program loads the Corefile again at SIGUSR1, and, with *reload*, when the file has changed.
//!
//! A change is a change of the text of the Corefile or of a file that it imports, so that the symbolic links that a
//! ConfigMap replaces are noticed too. A text that failed is not tried again until it changes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::args::{Args, Conf};
use super::configuration::{self, Configuration};
use super::serving::Program;
use super::standard_io::format_with_causes;
use crate::corefile::{Diagnostic, Diagnostics, RealFiles, Sources, Stage, one_line};
use crate::plugins::build::ReloadTiming;
use crate::telemetry::metrics::{self, Family, IntCounter, Observed, Registry, table};

/// A file without a server block is reported at this check in a row.
const REPORTED_CHECK: u32 = 2;

/// Loads the Corefile again, and knows which text was loaded last.
pub(super) struct Reloader {
    /// The settings of *reload*, if a block has it.
    config: Option<ReloadTiming>,
    /// The digest of the text that was tried last.
    last_digest: String,
    /// The digest in the metrics, from the first reload on.
    digest_in_metrics: Arc<Mutex<Option<String>>>,
    failed: IntCounter,
    /// How many checks in a row have found no server block.
    checks_without_blocks: u32,
}

impl Reloader {
    /// Creates a reloader that follows the first configuration.
    pub(super) fn new(configuration: &Configuration, registry: &Registry) -> Reloader {
        let digest_in_metrics: Arc<Mutex<Option<String>>> = Arc::default();
        let value = digest_in_metrics.clone();
        metrics::register(
            registry,
            Observed::new(&[&table::RELOAD_VERSION], move || {
                let mut family = Family::new(&table::RELOAD_VERSION);
                if let Some(value) = &*value.lock() {
                    family.value(&["sha512", value], 1.0);
                }
                vec![family.done()]
            }),
        );
        let failed = table::RELOAD_FAILED.counter(registry);
        Reloader {
            config: reload_config(configuration),
            last_digest: digest(&configuration.corefile.sources),
            digest_in_metrics,
            failed,
            checks_without_blocks: 0,
        }
    }

    /// Logs which configuration is in use, as CoreDNS does.
    pub(super) fn log_digest(&self) {
        if self.config.is_some() {
            tracing::info!(plugin = "reload", "Running configuration SHA512 = {}", self.last_digest);
        }
    }

    /// Returns the delay until the next check of the file; `None` without *reload*.
    pub(super) fn check_delay(&self) -> Option<Duration> {
        self.config.map(|config| config.delay(fastrand::f64()))
    }

    /// Checks whether the file has changed, and loads it if it has.
    pub(super) fn reload_if_changed(&mut self, program: &mut Program) {
        let (configuration, diagnostics) = read(&program.args);
        // A file that cannot be read, or is empty, may be in the middle of being written: it is reported if it is so at
        // the next check too.
        if configuration.corefile.sources.files().next().is_none() || configuration.is_built_in() {
            self.checks_without_blocks = self.checks_without_blocks.saturating_add(1);
            if self.checks_without_blocks == REPORTED_CHECK {
                self.failed.inc();
                // `read` reports which of the two it is.
                let reasons: Vec<String> =
                    diagnostics.iter().map(|found| one_line(found, &configuration.corefile.sources)).collect();
                tracing::error!(
                    plugin = "reload",
                    "Corefile changed but reload failed: {}; the configuration is unchanged",
                    reasons.join("; ")
                );
            }
            return;
        }
        self.checks_without_blocks = 0;
        let digest = digest(&configuration.corefile.sources);
        if digest != self.last_digest
            && let Err(error) = self.apply(&configuration, diagnostics, digest, program)
        {
            tracing::error!(plugin = "reload", "Corefile changed but reload failed: {}", format_with_causes(&error));
        }
    }

    /// Loads the file, changed or not.
    pub(super) fn reload(&mut self, program: &mut Program) {
        if matches!(program.args.conf, Some(Conf::Stdin)) {
            tracing::warn!(
                "SIGUSR1: a Corefile from standard input cannot be read again; the configuration is unchanged"
            );
            return;
        }
        let (configuration, diagnostics) = read(&program.args);
        let digest = digest(&configuration.corefile.sources);
        if let Err(error) = self.apply(&configuration, diagnostics, digest, program) {
            tracing::error!("SIGUSR1: reload failed: {}", format_with_causes(&error));
        }
    }

    /// Replaces the configuration in use by this one.
    fn apply(
        &mut self, configuration: &Configuration, diagnostics: Diagnostics, digest: String, program: &mut Program,
    ) -> anyhow::Result<()> {
        tracing::info!("Reloading");
        self.last_digest.clone_from(&digest);
        program.refresh_interfaces();
        match program.apply(configuration, diagnostics) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                self.config = reload_config(configuration);
                self.log_digest();
                *self.digest_in_metrics.lock() = Some(digest);
                tracing::info!("Reloading complete");
                Ok(())
            }
            Err(error) => {
                self.failed.inc();
                *self.digest_in_metrics.lock() = Some(digest);
                Err(error)
            }
        }
    }
}

/// Reads the Corefile again.
fn read(args: &Args) -> (Configuration, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let nothing = || Err(std::io::ErrorKind::Unsupported.into());
    let configuration = configuration::read(args, &RealFiles, nothing, &mut diagnostics);
    if configuration.is_built_in() && !diagnostics.has_errors() {
        // At start, this means whoami on port 53. During a reload it is an error: such a file is probably in the middle
        // of being written.
        let message = format!("{} has no server block", args.conf_name());
        diagnostics.push(Diagnostic::error(Stage::Setup, None, message));
    }
    (configuration, diagnostics)
}

/// Returns the settings of *reload*, from the first block that has it.
fn reload_config(configuration: &Configuration) -> Option<ReloadTiming> {
    configuration.blocks.iter().find_map(|block| block.options.reload)
}

/// Returns the SHA-512 of all texts in hexadecimal digits.
fn digest(sources: &Sources) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA512);
    for file in sources.files() {
        context.update(sources.name(file).as_bytes());
        context.update(&[0]);
        context.update(sources.text(file).as_bytes());
        context.update(&[0]);
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
