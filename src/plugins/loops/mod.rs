//! *loop*: detects at start whether forwarded queries come back to this server (CoreDNS `plugin/loop`).
//!
//! The server sends itself a query for a random name, the probe, and the plugin counts the queries for that name. More
//! than one query is a suspicion, but not yet a loop: a program on the network may replay queries that it sees. A loop
//! is reported only if several probes in a row, each with a new random name, come back.
//!
//! `probe.rs` sends the probes, `watch.rs` compares queries with them.

mod probe;
mod watch;

use std::sync::Arc;

use watch::Watch;

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, no_arguments};
use crate::chain::{Exchange, Explained, Findings, Plugin, Step};
use crate::corefile::Directive;
use crate::wire::NameBuf;

/// The configuration, which has no options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config;

/// Parses the directive, which has no arguments.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    no_arguments(stanzas, context);
    Some(Config)
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (plugin, watch) = Loop::new(block.first_zone());
        let logger = block.resources().logger.clone();
        block.plugin(plugin);
        block.when_bound(move |address| Box::pin(probe::look_for_loop(watch, address, logger)));
        Ok(())
    }
}

/// Counts the queries for the current probe.
pub struct Loop {
    watch: Arc<Watch>,
}

impl Loop {
    /// Creates the plugin of a server block, and the state for the sender of the probes.
    fn new(zone: NameBuf) -> (Loop, Arc<Watch>) {
        let watch = Arc::new(Watch::new(zone));
        (Loop { watch: watch.clone() }, watch)
    }
}

impl Plugin for Loop {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn explain(&self, _: &mut Exchange<'_>, _: &mut Findings) -> Explained {
        Explained::Next
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.watch.count_query(exchange.question(), exchange.client);
        Step::Next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::watch::ProbeResult;
    use super::*;
    use crate::plugins::testing::{client, code, n, packet, send};
    use crate::wire::{Rcode, Type};

    /// Sends a query of this type for a name through the plugin.
    fn query(plugin: &Arc<Loop>, name: &NameBuf, qtype: Type) {
        let plugins: Vec<Arc<dyn Plugin>> = vec![plugin.clone(), code(Rcode::NXDOMAIN, None)];
        send(plugins, &packet(&name.to_string(), qtype, None), client("10.0.0.1:99"), Instant::now());
    }

    /// D21: a client that replays the name of a probe is not a loop.
    #[test]
    fn only_fresh_names_that_come_back_in_a_row_are_a_loop() {
        let (plugin, watch) = Loop::new(n("Example.org"));
        let plugin = Arc::new(plugin);
        let mut last = None;
        for number in 0..2 {
            let name = watch.arm([u64::MAX, number << 2]);
            assert_eq!(name.to_string(), format!("4611686018427387903.{number}.Example.org."));
            query(&plugin, &name, Type::HINFO);
            assert_eq!(watch.look(), ProbeResult::Nothing);
            // However often a client replays it, it is one suspicion.
            (0..5).for_each(|_| query(&plugin, &name, Type::HINFO));
            assert_eq!(watch.look(), ProbeResult::Suspicion);
            query(&plugin, &name, Type::HINFO);
            assert_eq!(watch.look(), ProbeResult::Nothing);
            last = Some(name);
        }
        // A third probe that does not come back clears the suspicions; names of earlier probes are ignored.
        let name = watch.arm([1, 2]);
        query(&plugin, &name, Type::HINFO);
        query(&plugin, &name, Type::A);
        query(&plugin, &last.expect("a name"), Type::HINFO);
        assert_eq!(watch.look(), ProbeResult::Nothing);
        watch.clear();
        for round in 0..3 {
            let name = watch.arm([round << 8, 9]);
            (0..2).for_each(|_| query(&plugin, &name, Type::HINFO));
            let expected =
                if round == 2 { ProbeResult::Loop(client("10.0.0.1:99"), name) } else { ProbeResult::Suspicion };
            assert_eq!(watch.look(), expected);
        }
        watch.disarm();
        let name = watch.arm([1, 1]);
        watch.disarm();
        (0..2).for_each(|_| query(&plugin, &name, Type::HINFO));
        assert_eq!(watch.look(), ProbeResult::Nothing);
    }
}
