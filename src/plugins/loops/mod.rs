//! *loop*: finds out at start whether what is forwarded comes back (CoreDNS `plugin/loop`).
//!
//! The server asks itself for a random name, and the plugin counts how often that name is seen. It should be once. A name
//! that is seen again may still be no loop: somebody may repeat names that pass by. So a suspicion counts only if fresh
//! names, of which nobody can know, come back as well, one after another.
//!
//! The rules have no I/O and no clock: `probe.rs` sends the probes and drives a [`Watch`].

mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, no_arguments};
use crate::chain::{Client, Exchange, Plugin, Step};
use crate::corefile::Directive;
use crate::wire::{NameBuf, Type};

/// Names that must come back in a row.
const PROOF: u32 = 3;

/// The configuration, which has no options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config;

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    no_arguments(stanzas, context);
    Some(Config)
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (plugin, watch) = Loop::new(block.first_zone());
        let logger = block.resources().logger.clone();
        block.plugin(plugin);
        block.when_bound(move |address| Box::pin(probe::probe(watch, address, logger)));
        Ok(())
    }
}

/// The plugin.
pub struct Loop {
    watch: Arc<Watch>,
}

/// What is known of a loop so far.
pub struct Watch {
    /// The zone whose names may come back.
    pub zone: NameBuf,
    /// A name is looked for. Read for each HINFO query, which are few.
    armed: AtomicBool,
    /// Written when a probe is sent and when one is seen.
    probe: Mutex<Probe>,
}

#[derive(Default)]
struct Probe {
    name: Option<NameBuf>,
    seen: u32,
    /// Who sent it the last time.
    from: Option<Client>,
    /// Names in a row that came back.
    suspicions: u32,
}

/// What a probe has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It did not come back.
    Nothing,
    /// It came back, as a replayed name might; a fresh one will tell.
    Suspicion,
    /// So did those before it: who sent it the last time, and its name.
    Loop(Client, NameBuf),
}

impl Loop {
    /// The plugin of a block, and what drives it.
    pub fn new(zone: NameBuf) -> (Loop, Arc<Watch>) {
        let watch = Arc::new(Watch { zone, armed: AtomicBool::new(false), probe: Mutex::default() });
        (Loop { watch: watch.clone() }, watch)
    }
}

impl Plugin for Loop {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.question().qtype == Type::HINFO && self.watch.armed.load(Ordering::Relaxed) {
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
    /// Looks for another name from now on; gives it. `random` is from a source that nobody can guess.
    pub fn arm(&self, random: [u64; 2]) -> NameBuf {
        let zone = self.zone.to_string();
        let zone = if zone == "." { "" } else { &zone };
        let text = format!("{}.{}.{zone}", random[0] >> 2, random[1] >> 2);
        // A zone of more than 215 octets leaves no room; its own name is asked for then.
        let name = NameBuf::from_text(&text).unwrap_or_else(|_| self.zone.clone());
        let mut probe = self.probe.lock();
        (probe.name, probe.seen, probe.from) = (Some(name.clone()), 0, None);
        self.armed.store(true, Ordering::Relaxed);
        name
    }

    /// What the probe has shown by now. A probe that is sent once is seen once.
    pub fn look(&self) -> Finding {
        let mut probe = self.probe.lock();
        let (Some(name), Some(from), 2..) = (probe.name.clone(), probe.from, probe.seen) else {
            return Finding::Nothing;
        };
        // The next look is about another name.
        probe.name = None;
        probe.suspicions += 1;
        if probe.suspicions < PROOF { Finding::Suspicion } else { Finding::Loop(from, name) }
    }

    /// A probe has not come back within its time: nothing speaks for a loop any more.
    pub fn clear(&self) {
        self.probe.lock().suspicions = 0;
    }

    /// Looks for nothing any more.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::plugins::testing::{client, code, n, packet, send};
    use crate::wire::Rcode;

    /// Sends a query of this type for a name through the plugin.
    fn ask(plugin: &Arc<Loop>, name: &NameBuf, qtype: Type) {
        let plugins: Vec<Arc<dyn Plugin>> = vec![plugin.clone(), code(Rcode::NXDOMAIN, None)];
        send(plugins, &packet(&name.to_string(), qtype, None), client("10.0.0.1:99"), Instant::now());
    }

    /// D21: an answer that comes twice, or a client that replays the name, is no loop.
    #[test]
    fn only_fresh_names_that_come_back_in_a_row_are_a_loop() {
        let (plugin, watch) = Loop::new(n("Example.org"));
        let plugin = Arc::new(plugin);
        let mut last = None;
        for number in 0..2 {
            let name = watch.arm([u64::MAX, number << 2]);
            assert_eq!(name.to_string(), format!("4611686018427387903.{number}.Example.org."));
            ask(&plugin, &name, Type::HINFO);
            assert_eq!(watch.look(), Finding::Nothing);
            // Replayed again and again, it is one suspicion.
            (0..5).for_each(|_| ask(&plugin, &name, Type::HINFO));
            assert_eq!(watch.look(), Finding::Suspicion);
            ask(&plugin, &name, Type::HINFO);
            assert_eq!(watch.look(), Finding::Nothing);
            last = Some(name);
        }
        // A third that does not come back ends the suspicion, and the names before it are of no interest.
        let name = watch.arm([1, 2]);
        ask(&plugin, &name, Type::HINFO);
        ask(&plugin, &name, Type::A);
        ask(&plugin, &last.expect("a name"), Type::HINFO);
        assert_eq!(watch.look(), Finding::Nothing);
        watch.clear();
        for round in 0..3 {
            let name = watch.arm([round << 8, 9]);
            (0..2).for_each(|_| ask(&plugin, &name, Type::HINFO));
            let expected = if round == 2 { Finding::Loop(client("10.0.0.1:99"), name) } else { Finding::Suspicion };
            assert_eq!(watch.look(), expected);
        }
        watch.disarm();
        let name = watch.arm([1, 1]);
        watch.disarm();
        (0..2).for_each(|_| ask(&plugin, &name, Type::HINFO));
        assert_eq!(watch.look(), Finding::Nothing);
    }
}
