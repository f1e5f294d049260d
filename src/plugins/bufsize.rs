//! *bufsize*: limits the UDP payload size, of responses and in queries to upstreams, so that no response is fragmented
//! (CoreDNS `plugin/bufsize`).

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Calls, Exchange, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};

/// The default size in bytes, that of DNS flag day 2020.
const DEFAULT: u16 = 1_232;

/// The configuration of the directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The maximum UDP payload size in bytes, 512 to 4096.
    pub size: u16,
}

/// Parses the directive; the first stanza of a server block is used.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let size = if line.more() { line.number(512..=4_096) } else { Some(DEFAULT) };
    if let Some(property) = line.body().first() {
        line.warning(&property.name, "'bufsize' has no properties; this one has no effect");
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

/// Limits the UDP payload size.
pub struct Bufsize {
    /// The configuration.
    pub config: Config,
}

impl Plugin for Bufsize {
    fn name(&self) -> &'static str {
        "bufsize"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, sent: false }
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
