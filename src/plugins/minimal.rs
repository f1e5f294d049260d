//! *minimal*: leaves out what a positive answer need not have, the authority and additional sections.

use super::{Context, no_arguments};
use crate::chain::{Exchange, Plugin, Step, Wait};
use crate::corefile::Directive;
use crate::wire::Section;
use crate::wire::reply::ReplyKind;

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<()> {
    no_arguments(stanzas, context);
    Some(())
}

/// The plugin.
pub struct Minimal;

impl Plugin for Minimal {
    fn name(&self) -> &'static str {
        "minimal"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        // A denial needs its SOA and a delegation its servers.
        if exchange.reply().kind() == ReplyKind::NoError {
            exchange.reply().records_mut().retain(|record| record.section == Section::Answer);
        }
        None
    }
}
