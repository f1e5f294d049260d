//! ExternalName: the CNAME and the addresses of its target.
//!
//! A stub resolver does not follow aliases (RFC 1034 5.3.1), so the chain is followed here: within the zone through the
//! index, and outside through the router of this server, which may have to wait for an upstream.

use std::sync::Arc;

use super::{AnswerResult, Stanza, Zone};
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
        let Some(target) = entry.external_name() else { return AnswerResult::NoData };
        match question.qtype {
            Type::CNAME => {
                let target = exchange.reply().store_name(target);
                self.add_cname(exchange.reply(), NameRef::QUESTION, target);
                AnswerResult::Records
            }
            Type::A | Type::AAAA => self.follow_chain(exchange, question, zone, entry.clone()),
            _ => AnswerResult::NoData,
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
                return self.resolve_target(exchange, target, qtype, false);
            }
            let name = ClusterName::parse(&inner, zone.labels);
            match self.index.get().lookup(&name, &self.answers.view) {
                Lookup::ExternalName(next) => entry = next,
                found @ (Lookup::ClusterIp(_) | Lookup::Endpoints(_) | Lookup::Pod(_)) => {
                    let before = exchange.reply().records().len();
                    self.add_addresses(exchange.state, owner, qtype, &found);
                    if exchange.reply().records().len() == before {
                        self.add_soa_of_denial(exchange.reply(), tail);
                    }
                    return AnswerResult::Records;
                }
                // Another plugin or block may have the name, or it is one of the zone's own.
                Lookup::Missing(_) | Lookup::Node | Lookup::NameServer | Lookup::SchemaVersion => {
                    return self.resolve_target(exchange, target, qtype, true);
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
    /// `in_zone`: the target is in the zone of the question, so that its code is that of the answer (RFC 6604 3).
    fn resolve_target(
        &self, exchange: &mut Exchange<'_>, target: Name<'_>, qtype: Type, in_zone: bool,
    ) -> AnswerResult {
        match exchange.resolve(target, qtype) {
            Inner::Done(inner) => append(exchange.reply(), &inner, target, qtype, in_zone),
            Inner::None => {
                exchange.state.failure = Some(Failure::TooDeep("kubernetes"));
            }
            Inner::Pending(inner) => {
                let target = target.to_owned();
                let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                    Box::pin(async move {
                        let inner = inner.await;
                        append(&mut state.reply, &inner, target.as_name(), qtype, in_zone);
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
}

/// Appends the answers of the look-up of `target`, and for a target in the same zone the denial.
fn append(reply: &mut Reply, inner: &Reply, target: Name<'_>, qtype: Type, in_zone: bool) {
    reply.truncated |= inner.truncated;
    let question = Question::new(target, qtype, Class::IN);
    reply.append(inner, &question, Section::Answer, Section::Answer);
    let is_denied = inner.section(Section::Authority).any(|record| record.rtype == Type::SOA);
    if in_zone && is_denied && matches!(inner.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
        reply.rcode = inner.rcode;
        reply.append(inner, &question, Section::Authority, Section::Authority);
    }
}
