//! *minimal*: removes the authority and additional sections of positive replies.

use super::{Context, no_arguments};
use crate::chain::{Exchange, Plugin, Step, Wait};
use crate::corefile::Directive;
use crate::wire::Section;
use crate::wire::reply::ReplyKind;

/// Parses the directive, which has no arguments.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<()> {
    no_arguments(stanzas, context);
    Some(())
}

/// Removes sections of replies.
pub struct Minimal;

impl Plugin for Minimal {
    fn name(&self) -> &'static str {
        "minimal"
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
