//! *local*: answers `localhost` and its reverse zones itself (RFC 6303, RFC 6761 6.3), so that no such query leaves.

use std::sync::Arc;

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{Cells, Collected, Family, Metric, MetricFamily, table};
use crate::wire::reply::SoaNumbers;
use crate::wire::{Class, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// Seconds that an answer may be kept: a week.
const TTL: u32 = 604_800;
/// The zones, in wire form without a final zero.
const LOCALHOST: &[u8] = b"\x09localhost";
const REVERSE: [&[u8]; 3] = [b"\x010\x07in-addr\x04arpa", b"\x03127\x07in-addr\x04arpa", b"\x03255\x07in-addr\x04arpa"];
/// The only name with a PTR record.
const LOOPBACK: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa";

/// How *local* answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Answer `localhost.<anything>` too: what a resolver's search path makes of `localhost`.
    pub localhost_prefix: bool,
}

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let mut config = Config { localhost_prefix: true };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "localhost_prefix" => {
                    if let Some(on) = inner.one_of(&[("on", true), ("off", false)]) {
                        config.localhost_prefix = on;
                    }
                }
                _ => inner.unknown(["localhost_prefix"]),
            }
            inner.finish();
        }
        line.finish();
    }
    Some(config)
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let counts = block.resources().metrics.get();
        block.plugin(Local { config: self.clone(), counts });
        Ok(())
    }
}

/// The plugin.
pub struct Local {
    /// How it answers.
    pub config: Config,
    /// Counts what it answers that is more than `localhost` itself.
    pub counts: Arc<Counts>,
}

/// How many queries were for more than `localhost` itself; one number for all blocks, as in CoreDNS.
#[derive(Default)]
pub struct Counts(Cells<1>);

impl Collected for Counts {
    const METRICS: &'static [&'static Metric] = &[&table::LOCALHOST_REQUESTS];

    fn families(&self) -> Vec<MetricFamily> {
        let mut family = Family::new(&table::LOCALHOST_REQUESTS);
        family.value(&[], self.0.sums()[0] as f64);
        vec![family.done()]
    }
}

impl Plugin for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let question = exchange.question();
        let wire = question.name().as_wire();
        let name = &wire[..wire.len() - 1];
        let labels = question.labels();
        let reply = exchange.reply();
        if labels > 1
            && (question.label(labels - 1) == b"localhost"
                || self.config.localhost_prefix && question.label(0) == b"localhost")
        {
            self.counts.0.mine().add(0, 1);
            if !loopback(reply, question.qtype) {
                soa(reply, Section::Authority, 0);
            }
            return Step::Answered;
        }
        let is_within = |zone: &[u8], labels_of_zone: usize| {
            labels >= labels_of_zone && name[usize::from(question.suffix_at(labels_of_zone))..] == *zone
        };
        let (zone, is_localhost) = if is_within(LOCALHOST, 1) {
            (question.suffix_at(1), true)
        } else if REVERSE.iter().any(|zone| is_within(zone, 3)) {
            (question.suffix_at(3), false)
        } else {
            return Step::Next;
        };
        answer(reply, question, zone, is_localhost, name == LOOPBACK);
        Step::Answered
    }
}

/// Answers for a name in one of the zones, which starts at `zone` in the question.
fn answer(reply: &mut Reply, question: &Question, zone: u8, is_localhost: bool, is_loopback: bool) {
    let apex = zone == 0;
    match question.qtype {
        Type::A | Type::AAAA if apex && is_localhost => {
            loopback(reply, question.qtype);
        }
        Type::SOA if apex => soa(reply, Section::Answer, zone),
        Type::NS if apex => {
            let host = reply.store_labels(&[LOCALHOST], None);
            reply.answer(Type::NS, TTL, Rdata::Name(host));
        }
        Type::PTR if is_loopback => {
            let host = reply.store_labels(&[LOCALHOST], None);
            reply.answer(Type::PTR, TTL, Rdata::Name(host));
        }
        _ if apex || is_loopback => soa(reply, Section::Authority, zone),
        _ => {
            reply.rcode = Rcode::NXDOMAIN;
            soa(reply, Section::Authority, zone);
        }
    }
}

/// The loopback address of the family asked for; says whether there is one.
fn loopback(reply: &mut Reply, qtype: Type) -> bool {
    let rdata = match qtype {
        Type::A => Rdata::A([127, 0, 0, 1]),
        Type::AAAA => Rdata::Aaaa(std::net::Ipv6Addr::LOCALHOST.octets()),
        _ => return false,
    };
    reply.answer(qtype, TTL, rdata);
    true
}

/// The SOA of the zone that starts at `zone` in the question.
fn soa(reply: &mut Reply, section: Section, zone: u8) {
    let mname = reply.store_labels(&[LOCALHOST], None);
    let rname = reply.store_labels(&[b"\x04root", LOCALHOST], None);
    let numbers = reply.store_soa_numbers(SoaNumbers { serial: 1, refresh: 0, retry: 0, expire: 0, minimum: TTL });
    let rdata = Rdata::Soa { mname, rname, numbers };
    let owner = NameRef::question(zone);
    reply.push(Record { section, owner, rtype: Type::SOA, class: Class::IN, ttl: TTL, rdata });
}
