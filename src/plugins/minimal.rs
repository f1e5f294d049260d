//! *minimal*: removes the authority and additional sections of positive replies.

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, no_arguments};
use crate::chain::{Calls, Exchange, Plugin, Step, Wait};
use crate::corefile::Directive;
use crate::wire::Section;
use crate::wire::reply::ReplyKind;

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
        block.plugin(Minimal);
        Ok(())
    }
}

/// Removes sections of replies.
pub struct Minimal;

impl Plugin for Minimal {
    fn name(&self) -> &'static str {
        "minimal"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: true, sent: false }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        // A denial needs its SOA, and a delegation its NS records.
        if exchange.reply().kind() == ReplyKind::NoError {
            exchange.reply().records_mut().retain(|record| record.section == Section::Answer);
        }
        None
    }
}
