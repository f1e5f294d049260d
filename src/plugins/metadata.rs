//! *metadata*: lets other plugins show what is known of a query, as `{/kubernetes/namespace}` in a log line.
//!
//! Nothing is collected ahead: a plugin is asked for a value when it is shown ([`crate::chain::Plugin::metadata`]).
//! It makes no plugin but is a property of its chain.

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, zones_or_block_or_none};
use crate::corefile::{Arguments, Directive};
use crate::wire::NameBuf;

/// The names for which metadata is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Their zones.
    pub zones: Vec<NameBuf>,
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.enable_metadata(self.zones.clone());
        Ok(())
    }
}

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let (first, rest) = stanzas.split_first()?;
    for again in rest {
        Arguments::of(again, context.diagnostics).error(&again.name, "metadata can only be used once per Server Block");
    }
    let mut line = Arguments::of(first, context.diagnostics);
    let zones = zones_or_block_or_none(&mut line, context.zones);
    line.finish();
    Some(Config { zones })
}
