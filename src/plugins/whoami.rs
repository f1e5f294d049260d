//! *whoami*: answers with the address, port and transport of the client, in the additional section.

use std::net::IpAddr;

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, no_arguments};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::Directive;
use crate::wire::{NameRef, Rdata, Record, Section, Type, name};

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
        block.plugin(Whoami);
        Ok(())
    }
}

/// Answers each query with the address of its client.
pub struct Whoami;

impl Plugin for Whoami {
    fn name(&self) -> &'static str {
        "whoami"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let client = exchange.client;
        let question = exchange.question();
        let reply = exchange.reply();
        reply.authoritative = true;
        let (rtype, rdata) = match client.remote.ip().to_canonical() {
            IpAddr::V4(address) => (Type::A, Rdata::A(address.octets())),
            IpAddr::V6(address) => (Type::AAAA, Rdata::Aaaa(address.octets())),
        };
        let class = question.qclass;
        reply.push(Record { section: Section::Additional, owner: NameRef::QUESTION, rtype, class, ttl: 0, rdata });

        let transport = client.transport.name().as_bytes();
        // There is no SRV record if the name is too long for one more label.
        if question.name().as_wire().len() + transport.len() + 2 <= name::MAX_LEN {
            let owner = reply.store_labels(&[&[transport.len() as u8 + 1], b"_", transport], Some(0));
            let target = reply.store_labels(&[], None);
            let rdata = Rdata::Srv { priority: 0, weight: 0, port: client.remote.port(), target };
            reply.push(Record { section: Section::Additional, owner, rtype: Type::SRV, class, ttl: 0, rdata });
        }
        Step::Answered
    }
}
