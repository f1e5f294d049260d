//! *any*: answers queries of type ANY with a small HINFO record (RFC 8482 4.2), so that they do not amplify attacks.

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, no_arguments};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::Directive;
use crate::wire::{Rdata, Type};

/// The TTL of the record in seconds: the number of the RFC, as in CoreDNS.
const TTL: u32 = 8482;
/// The data of the record: CPU and OS, each a character string.
const HINFO: &[u8] = b"\x0dANY obsoleted\x0cSee RFC 8482";

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
        block.plugin(Any);
        Ok(())
    }
}

/// Answers queries of type ANY.
pub struct Any;

impl Plugin for Any {
    fn name(&self) -> &'static str {
        "any"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.question().qtype != Type::ANY {
            return Step::Next;
        }
        let reply = exchange.reply();
        let data = reply.store(HINFO);
        reply.answer(Type::HINFO, TTL, Rdata::Bytes(data));
        Step::Answered
    }
}
