//! *loop*: detects at start whether forwarded queries come back to this server (CoreDNS `plugin/loop`).
//!
//! The server sends itself a query for a random name, the probe, and the plugin counts the queries for that name. More
//! than one query is a suspicion, but not yet a loop: a program on the network may replay queries that it sees. A loop
//! is reported only if several probes in a row, each with a new random name, come back.
//!
//! This file does no I/O and reads no clock: `probe.rs` sends the probes and calls [`Watch`].

mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, no_arguments};
use crate::chain::{Client, Exchange, Plugin, Step};
use crate::corefile::Directive;
use crate::wire::{NameBuf, Type};

/// The number of probes in a row that must come back before a loop is reported.
const PROOF: u32 = 3;

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

/// The state of the detection, shared by the plugin and the sender of the probes.
pub struct Watch {
    /// The zone in which probes have their names.
    pub zone: NameBuf,
    /// Whether queries are compared with the probe. Written by the sender; read for each HINFO query, which are rare.
    is_armed: AtomicBool,
    /// Written by the sender, and by the plugin when it sees the probe.
    probe: Mutex<Probe>,
}

/// The current probe.
#[derive(Default)]
struct Probe {
    /// The name; `None` once it has come back.
    name: Option<NameBuf>,
    /// The number of queries for the name.
    seen: u32,
    /// The client of the last one.
    from: Option<Client>,
    /// The number of probes in a row that came back.
    suspicions: u32,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It has not come back.
    Nothing,
    /// It has come back, which a replay can explain; another probe is needed.
    Suspicion,
    /// It has come back, and so did the probes before it. The client that sent it last, and its name.
    Loop(Client, NameBuf),
}

impl Loop {
    /// Creates the plugin of a server block, and the state for the sender of the probes.
    pub fn new(zone: NameBuf) -> (Loop, Arc<Watch>) {
        let watch = Arc::new(Watch { zone, is_armed: AtomicBool::new(false), probe: Mutex::default() });
        (Loop { watch: watch.clone() }, watch)
    }
}

impl Plugin for Loop {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.question().qtype == Type::HINFO && self.watch.is_armed.load(Ordering::Relaxed) {
            let mut probe = self.watch.probe.lock();
            if probe.name.as_ref().is_some_and(|name| exchange.question().name().eq_ignore_case(name.as_name())) {
                probe.seen += 1;
                probe.from = Some(exchange.client);
            }
        }
        Step::Next
    }
}

impl Watch {
    /// Starts a probe with a new name, and returns the name. `random` must be unpredictable.
    pub fn arm(&self, random: [u64; 2]) -> NameBuf {
        let zone = self.zone.to_string();
        let zone = if zone == "." { "" } else { &zone };
        let text = format!("{}.{}.{zone}", random[0] >> 2, random[1] >> 2);
        // In a zone of more than 215 bytes there is no space for two labels: the probe has the name of the zone.
        let name = NameBuf::from_text(&text).unwrap_or_else(|_| self.zone.clone());
        let mut probe = self.probe.lock();
        probe.name = Some(name.clone());
        probe.seen = 0;
        probe.from = None;
        self.is_armed.store(true, Ordering::Relaxed);
        name
    }

    /// Returns what the current probe has shown so far. A probe that has come back is reported once.
    pub fn look(&self) -> Finding {
        let mut probe = self.probe.lock();
        // The server itself has sent the first query.
        let (Some(name), Some(from), 2..) = (probe.name.clone(), probe.from, probe.seen) else {
            return Finding::Nothing;
        };
        probe.name = None;
        probe.suspicions += 1;
        if probe.suspicions < PROOF { Finding::Suspicion } else { Finding::Loop(from, name) }
    }

    /// Clears the suspicions: called when a probe has not come back in time.
    pub fn clear(&self) {
        self.probe.lock().suspicions = 0;
    }

    /// Stops comparing queries with the probe.
    pub fn disarm(&self) {
        self.is_armed.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::plugins::testing::{client, code, n, packet, send};
    use crate::wire::Rcode;

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
            assert_eq!(watch.look(), Finding::Nothing);
            // However often a client replays it, it is one suspicion.
            (0..5).for_each(|_| query(&plugin, &name, Type::HINFO));
            assert_eq!(watch.look(), Finding::Suspicion);
            query(&plugin, &name, Type::HINFO);
            assert_eq!(watch.look(), Finding::Nothing);
            last = Some(name);
        }
        // A third probe that does not come back clears the suspicions; names of earlier probes are ignored.
        let name = watch.arm([1, 2]);
        query(&plugin, &name, Type::HINFO);
        query(&plugin, &name, Type::A);
        query(&plugin, &last.expect("a name"), Type::HINFO);
        assert_eq!(watch.look(), Finding::Nothing);
        watch.clear();
        for round in 0..3 {
            let name = watch.arm([round << 8, 9]);
            (0..2).for_each(|_| query(&plugin, &name, Type::HINFO));
            let expected = if round == 2 { Finding::Loop(client("10.0.0.1:99"), name) } else { Finding::Suspicion };
            assert_eq!(watch.look(), expected);
        }
        watch.disarm();
        let name = watch.arm([1, 1]);
        watch.disarm();
        (0..2).for_each(|_| query(&plugin, &name, Type::HINFO));
        assert_eq!(watch.look(), Finding::Nothing);
    }
}
