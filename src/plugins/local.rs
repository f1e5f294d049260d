//! *local*: answers `localhost` and its reverse zones (RFC 6303, RFC 6761 6.3), so that such queries are not sent to
//! upstreams.

use std::net::Ipv6Addr;
use std::sync::Arc;

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{Cells, Collected, Family, Metric, MetricFamily, table};
use crate::wire::record::SoaNumbers;
use crate::wire::{Class, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// The TTL of answers in seconds: a week.
const TTL: u32 = 604_800;
/// The zones, in wire form without the final zero byte.
const LOCALHOST: &[u8] = b"\x09localhost";
const REVERSE: [&[u8]; 3] = [b"\x010\x07in-addr\x04arpa", b"\x03127\x07in-addr\x04arpa", b"\x03255\x07in-addr\x04arpa"];
/// The only name with a PTR record.
const LOOPBACK: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa";

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Answer `localhost.ANYTHING` too: a resolver's search list appends domains to `localhost`.
    pub localhost_prefix: bool,
}

/// Parses the directive.
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

/// Answers names in the local zones.
pub struct Local {
    /// The configuration.
    pub config: Config,
    /// The counter, shared with the registry.
    pub counts: Arc<Counts>,
}

/// The counter of queries for names that begin or end with the label `localhost`, but have further labels. All server
/// blocks share it, as in CoreDNS.
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
        if labels > 1
            && (question.label(labels - 1) == b"localhost"
                || self.config.localhost_prefix && question.label(0) == b"localhost")
        {
            if !exchange.state.is_dry_run() {
                self.counts.0.mine().add(0, 1);
            }
            let reply = exchange.reply();
            if !push_loopback(reply, question.qtype) {
                push_soa(reply, Section::Authority, 0);
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
        answer(exchange.reply(), question, zone, is_localhost, name == LOOPBACK);
        Step::Answered
    }
}

/// Answers a query for a name in one of the zones. `zone` is the offset of the zone in the question, `is_localhost`
/// whether it is `localhost`, and `is_loopback` whether the name is the one with a PTR record.
fn answer(reply: &mut Reply, question: &Question, zone: u8, is_localhost: bool, is_loopback: bool) {
    let is_apex = zone == 0;
    match question.qtype {
        Type::A | Type::AAAA if is_apex && is_localhost => {
            push_loopback(reply, question.qtype);
        }
        Type::SOA if is_apex => push_soa(reply, Section::Answer, zone),
        Type::NS if is_apex => {
            let host = reply.store_labels(&[LOCALHOST], None);
            reply.answer(Type::NS, TTL, Rdata::Name(host));
        }
        Type::PTR if is_loopback => {
            let host = reply.store_labels(&[LOCALHOST], None);
            reply.answer(Type::PTR, TTL, Rdata::Name(host));
        }
        _ if is_apex || is_loopback => push_soa(reply, Section::Authority, zone),
        _ => {
            reply.rcode = Rcode::NXDOMAIN;
            push_soa(reply, Section::Authority, zone);
        }
    }
}

/// Adds the loopback address if the type is A or AAAA. Returns whether it is.
fn push_loopback(reply: &mut Reply, qtype: Type) -> bool {
    let rdata = match qtype {
        Type::A => Rdata::A([127, 0, 0, 1]),
        Type::AAAA => Rdata::Aaaa(Ipv6Addr::LOCALHOST.octets()),
        _ => return false,
    };
    reply.answer(qtype, TTL, rdata);
    true
}

/// Adds the SOA of the zone at offset `zone` in the question.
fn push_soa(reply: &mut Reply, section: Section, zone: u8) {
    let mname = reply.store_labels(&[LOCALHOST], None);
    let rname = reply.store_labels(&[b"\x04root", LOCALHOST], None);
    let numbers = reply.store_soa_numbers(SoaNumbers { serial: 1, refresh: 0, retry: 0, expire: 0, minimum: TTL });
    let rdata = Rdata::Soa { mname, rname, numbers };
    let owner = NameRef::question(zone);
    reply.push(Record { section, owner, rtype: Type::SOA, class: Class::IN, ttl: TTL, rdata });
}
