//! *bufsize*: lowers the UDP payload size that a client offers, for its own answer and towards upstreams, so that no
//! answer is fragmented (CoreDNS `plugin/bufsize`).

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};

/// The size without an argument, of DNS flag day 2020.
const DEFAULT: u16 = 1_232;

/// The size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most octets of a UDP answer, 512–4096.
    pub size: u16,
}

/// Reads the directive; the first of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let size = if line.more() { line.number(512..=4_096) } else { Some(DEFAULT) };
    if let Some(property) = line.body().first() {
        line.warning(&property.name, "'bufsize' has no properties; they do nothing");
    }
    line.finish();
    size.map(|size| Config { size })
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(Bufsize { config: *self });
        Ok(())
    }
}

/// The plugin.
pub struct Bufsize {
    /// The size.
    pub config: Config,
}

impl Plugin for Bufsize {
    fn name(&self) -> &'static str {
        "bufsize"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.state.max_udp = Some(self.config.size);
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        exchange.reply().max_udp = Some(self.config.size);
        None
    }
}
