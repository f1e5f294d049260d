//! ExternalName: the CNAME and the addresses of its target.
//!
//! A stub resolver does not follow aliases (RFC 1034 5.3.1), so the chain is followed here: within the zone through the
//! index, and outside through the router of this server, which may have to wait for an upstream.

use std::sync::Arc;

use super::no_data::NoData;
use super::stanza::{AnswerResult, Stanza, Zone};
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Failure, Inner, State, Wait, Work};
use crate::cluster::entry::ServiceEntry;
use crate::cluster::{ClusterName, Lookup};
use crate::wire::{Class, Name, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// The maximum length of a chain within the zone (CoreDNS `maxCnameChainLength`, which counts the links before).
const MAX_LINKS: usize = 11;

impl Stanza {
    /// Answers the name of an ExternalName Service.
    pub(super) fn answer_external_name(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone, entry: &Arc<ServiceEntry>,
    ) -> AnswerResult {
        let Some(target) = entry.external_name() else { return AnswerResult::NoData(NoData::Type) };
        match question.qtype {
            Type::CNAME => {
                let target = exchange.reply().store_name(target);
                self.add_cname(exchange.reply(), NameRef::QUESTION, target);
                AnswerResult::Records
            }
            Type::A | Type::AAAA => self.follow_chain(exchange, question, zone, entry.clone()),
            _ => AnswerResult::NoData(NoData::Type),
        }
    }

    /// Follows the chain.
    fn follow_chain(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone, mut entry: Arc<ServiceEntry>,
    ) -> AnswerResult {
        let (qtype, tail) = (question.qtype, question.suffix_at(zone.labels));
        let mut owner = NameRef::QUESTION;
        let first = exchange.reply().records().len();
        loop {
            let Some(target) = entry.external_name() else { return AnswerResult::Records };
            let reply = exchange.reply();
            let stored = reply.store_name(target);
            let links = &reply.records()[first..];
            if links.len() >= MAX_LINKS {
                return AnswerResult::Records;
            }
            let has_target =
                |link: &Record| matches!(link.rdata, Rdata::Name(name) if reply.names_are_equal(name, stored));
            let is_loop = question.name().eq_ignore_case(target) || links.iter().any(has_target);
            self.add_cname(reply, owner, stored);
            if is_loop {
                // Every name of the loop is in the answer, and the SOA shows that none has an address.
                self.add_soa_of_denial(reply, tail);
                return AnswerResult::Records;
            }
            owner = stored;
            let inner = Question::new(target, qtype, Class::IN);
            if !self.zone_of(&inner).is_some_and(|its| std::ptr::eq(its, zone)) {
                return self.resolve_target(exchange, target, qtype, Denial::Ignored);
            }
            let name = ClusterName::parse(&inner, zone.labels);
            match self.index.get().lookup(&name, &self.answers.view) {
                Lookup::ExternalName(next) => entry = next,
                found @ (Lookup::ClusterIp(_) | Lookup::Endpoints(_) | Lookup::Pod(..)) => {
                    let before = exchange.reply().records().len();
                    self.add_addresses(exchange.state, owner, qtype, &found);
                    if exchange.reply().records().len() == before {
                        self.add_soa_of_denial(exchange.reply(), tail);
                    }
                    return AnswerResult::Records;
                }
                // Another plugin or block may have the name, or it is one of the zone's own.
                Lookup::Missing(_) | Lookup::Node | Lookup::NameServer | Lookup::SchemaVersion => {
                    let falls_through = zone.fallthrough.covers(&inner);
                    let denial = if falls_through { Denial::OfTarget } else { Denial::OfZone(tail) };
                    return self.resolve_target(exchange, target, qtype, denial);
                }
            }
        }
    }

    /// Adds a CNAME.
    fn add_cname(&self, reply: &mut Reply, owner: NameRef, target: NameRef) {
        let (rtype, class, ttl) = (Type::CNAME, Class::IN, self.answers.ttl);
        reply.push(Record { section: Section::Answer, owner, rtype, class, ttl, rdata: Rdata::Name(target) });
    }

    /// Resolves a target through the router and all plugins. Whatever the result, the CNAME itself is an answer.
    fn resolve_target(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, target: Name<'_>, qtype: Type, denial: Denial,
    ) -> AnswerResult {
        match exchange.resolve(target, qtype) {
            Inner::Done(inner) => self.append(exchange.reply(), &inner, target, qtype, denial),
            Inner::None => {
                exchange.state.failure = Some(Failure::TooDeep("kubernetes"));
            }
            Inner::Pending(inner) => {
                let (stanza, target) = (self.clone(), target.to_owned());
                let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                    Box::pin(async move {
                        let inner = inner.await;
                        stanza.append(&mut state.reply, &inner, target.as_name(), qtype, denial);
                        state.reply.authoritative = true;
                        (state, Continue::Answered)
                    })
                };
                return AnswerResult::Pending(Wait::Work(Work {
                    future: Box::new(future),
                    overload: Rcode::SERVFAIL,
                    plugin: "kubernetes",
                }));
            }
        }
        AnswerResult::Records
    }

    /// Appends the answers of the look-up of `target`, and its denial.
    fn append(&self, reply: &mut Reply, inner: &Reply, target: Name<'_>, qtype: Type, denial: Denial) {
        reply.truncated |= inner.truncated;
        let question = Question::new(target, qtype, Class::IN);
        reply.append(inner, &question, Section::Answer, Section::Answer);
        let is_denied = inner.section(Section::Authority).any(|record| record.rtype == Type::SOA);
        if !is_denied || !matches!(inner.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
            return;
        }
        match denial {
            Denial::Ignored => return,
            Denial::OfTarget => reply.append(inner, &question, Section::Authority, Section::Authority),
            Denial::OfZone(tail) => self.add_soa_of_denial(reply, tail),
        }
        reply.rcode = inner.rcode;
    }
}

/// What the denial of a target means for the answer.
#[derive(Clone, Copy)]
enum Denial {
    /// Nothing: the target is in another zone.
    Ignored,
    /// The target is in the zone of the question, so that its code is that of the answer (RFC 6604 3). The SOA is that
    /// of the target's look-up: another plugin may have made it.
    OfTarget,
    /// The same, and the SOA is the zone's own, written with the question's letter case from this label on.
    OfZone(u8),
}
