//! *ready*: the HTTP page for readiness probes: whether this server can answer queries, and if not, what is missing.
//!
//! It adds no plugin to the chain. The server is ready if all plugins of the server blocks with this directive are
//! ready, its sockets are open, and it is not shutting down.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Context;
use super::build::{BlockBuilder, BuildError, Lifecycle, PageRequest, Phase, Setting};
use super::page_address::PageAddress;
use crate::admin::{PageContent, PageVisit};
use crate::chain::Plugin;
use crate::corefile::{Arguments, Directive};

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address of the page.
    pub address: PageAddress,
    /// Whether a plugin that has been ready is checked again.
    pub continuously: bool,
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let address = PageAddress::read(&mut line, ":8181");
    let mut continuously = Some(false);
    for property in line.body() {
        let mut inner = line.enter(property);
        match inner.name() {
            "monitor" => continuously = inner.one_of(&[("until-ready", false), ("continuously", true)]),
            _ => inner.unknown(["monitor"]),
        }
        inner.finish();
    }
    line.finish();
    let config = Config { address: address?, continuously: continuously? };
    (errors == context.diagnostics.has_errors()).then_some(config)
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let readiness = block.configuration_state::<Readiness>();
        let (checked, config) = (readiness.clone(), self.clone());
        block.when_complete(move |plugins| checked.add(&config, plugins));
        let lifecycle: Arc<Lifecycle> = block.resources().lifecycle.clone();
        let page = Arc::new(move |_: &PageVisit<'_>| {
            readiness.unready(lifecycle.phase()).map_or_else(PageContent::ok, PageContent::unavailable)
        });
        block.page(PageRequest::new("ready", self.address.clone(), "/ready", page));
        Ok(())
    }
}

/// The plugins that must be ready. All pages of a configuration share it.
#[derive(Default)]
pub struct Readiness {
    /// The plugins that are checked. Locked during a check, which does not block.
    checks: Mutex<Vec<Check>>,
}

/// A plugin that may not be ready.
struct Check {
    plugin: Arc<dyn Plugin>,
    continuously: bool,
}

impl Readiness {
    /// Adds the plugins of a server block to those that are checked.
    pub fn add(&self, config: &Config, plugins: &[Arc<dyn Plugin>]) {
        let continuously = config.continuously;
        self.checks.lock().extend(plugins.iter().map(|plugin| Check { plugin: plugin.clone(), continuously }));
    }

    /// Returns `None` if everything is ready. Otherwise returns the text of the page: the names of the plugins that are
    /// not ready, as in CoreDNS, and a line for each with what is missing.
    pub fn unready(&self, phase: Phase) -> Option<String> {
        if phase == Phase::Ending {
            return Some("Shutting down".to_owned());
        }
        let mut missing: Vec<(&'static str, String)> = Vec::new();
        self.checks.lock().retain(|check| {
            let reason = check.plugin.unready();
            let is_checked_again = check.continuously || reason.is_some();
            missing.extend(reason.map(|reason| (check.plugin.name(), reason)));
            is_checked_again
        });
        if missing.is_empty() {
            return (phase == Phase::Starting).then(|| "Starting".to_owned());
        }
        missing.sort_unstable();
        missing.dedup();
        let reasons: Vec<String> = missing.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        let mut names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        names.dedup();
        let names = names.join(",");
        tracing::info!(plugin = "ready", "Plugins not ready: {names:?}");
        Some(format!("{names}\n{}", reasons.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::testing::{config, read};
    use super::*;
    use crate::chain::{Exchange, Step};

    #[test]
    fn the_directive_is_parsed() {
        let text = |lines: &str| {
            let config = config(lines, parse);
            format!("{} {}", config.address, config.continuously)
        };
        assert_eq!(text("ready"), ":8181 false");
        assert_eq!(text("ready 127.0.0.1:1 {\n monitor continuously\n}"), "127.0.0.1:1 true");
        assert_eq!(text("ready {\n monitor until-ready\n}"), ":8181 false");
        for (lines, message) in [
            ("ready x", "address x: missing port in address"),
            ("ready :1 :2", "Wrong argument count or unexpected line ending after ':2'"),
            ("ready {\n monitor\n}", "Wrong argument count or unexpected line ending after 'monitor'"),
            ("ready {\n monitor always\n}", "unexpected 'always'"),
            ("ready {\n monitr continuously\n}", "unknown property 'monitr' (monitor?)"),
        ] {
            assert_eq!(read(lines, parse).1, [message], "{lines}");
        }
    }

    /// A plugin with this name that is ready when the flag is set.
    struct Switched(&'static str, Arc<AtomicBool>);

    impl Plugin for Switched {
        fn name(&self) -> &'static str {
            self.0
        }

        fn query(&self, _: &mut Exchange<'_>) -> Step {
            Step::Next
        }

        fn unready(&self) -> Option<String> {
            (!self.1.load(Ordering::Relaxed)).then(|| "all of it".to_owned())
        }
    }

    #[test]
    fn a_plugin_that_has_been_ready_is_checked_again_only_with_continuously() {
        let one = Arc::new(AtomicBool::new(false));
        let other = Arc::new(AtomicBool::new(false));
        let readiness = Readiness::default();
        let plugin = |name, ready: &Arc<AtomicBool>| -> Arc<dyn Plugin> { Arc::new(Switched(name, ready.clone())) };
        readiness.add(&config("ready", parse), &[plugin("one", &one), plugin("one", &one)]);
        readiness.add(&config("ready {\n monitor continuously\n}", parse), &[plugin("another", &other)]);
        let unready = || readiness.unready(Phase::Serving).unwrap_or_default();
        assert_eq!(unready(), "another,one\nanother: all of it\none: all of it");
        one.store(true, Ordering::Relaxed);
        assert_eq!(unready(), "another\nanother: all of it");
        other.store(true, Ordering::Relaxed);
        assert_eq!(readiness.unready(Phase::Serving), None);
        one.store(false, Ordering::Relaxed);
        assert_eq!(readiness.unready(Phase::Serving), None, "it has been ready");
        other.store(false, Ordering::Relaxed);
        assert_eq!(unready(), "another\nanother: all of it");
        assert_eq!(readiness.unready(Phase::Ending).as_deref(), Some("Shutting down"));
    }

    #[test]
    fn it_is_not_ready_before_the_sockets_are_open() {
        let readiness = Readiness::default();
        assert_eq!(readiness.unready(Phase::Starting).as_deref(), Some("Starting"));
        assert_eq!(readiness.unready(Phase::Serving), None);
    }
}
