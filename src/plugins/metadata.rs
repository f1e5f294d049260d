//! *metadata*: lets plugins use values that other plugins define for a query, such as `{/kubernetes/namespace}` in a
//! line of *log*.
//!
//! Values are not collected in advance: a plugin computes one when another plugin uses it
//! ([`crate::chain::Plugin::metadata`]). The directive adds no plugin; it sets a property of the chain.

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, zones_or_block_or_none};
use crate::corefile::{Arguments, Directive};
use crate::wire::NameBuf;

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The zones in which names have metadata.
    pub zones: Vec<NameBuf>,
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.enable_metadata(self.zones.clone());
        Ok(())
    }
}

/// Parses the directive.
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
