//! ExternalName: the CNAME, and behind it the addresses that its target has.
//!
//! A stub resolver does not chase (RFC 1034 5.3.1), so the chain is followed here: inside the zone through the index,
//! outside through this whole server, which may have to wait for an upstream.

use std::sync::Arc;

use super::{Said, Stanza, Zone};
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Failure, Inner, State, Wait, Work};
use crate::cluster::entry::ServiceEntry;
use crate::cluster::{ClusterName, Lookup};
use crate::wire::{Class, Name, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// How many links a chain inside the zone may have (CoreDNS `maxCnameChainLength`, which counts those before).
const MAX_LINKS: usize = 11;

impl Stanza {
    /// Answers for a name that is an ExternalName Service's.
    pub(super) fn external_name(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone, entry: &Arc<ServiceEntry>,
    ) -> Said {
        let Some(target) = entry.external_name() else { return Said::NoData };
        match question.qtype {
            Type::CNAME => {
                let target = exchange.reply().store_name(target);
                self.link(exchange.reply(), NameRef::QUESTION, target);
                Said::Records
            }
            Type::A | Type::AAAA => self.chase(exchange, question, zone, entry.clone()),
            _ => Said::NoData,
        }
    }

    /// Follows the chain.
    fn chase(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone, mut entry: Arc<ServiceEntry>,
    ) -> Said {
        let (qtype, tail) = (question.qtype, question.suffix_at(zone.labels));
        let mut owner = NameRef::QUESTION;
        let first = exchange.reply().records().len();
        loop {
            let Some(target) = entry.external_name() else { return Said::Records };
            let reply = exchange.reply();
            let stored = reply.store_name(target);
            let links = &reply.records()[first..];
            if links.len() >= MAX_LINKS {
                return Said::Records;
            }
            let leads_to =
                |link: &Record| matches!(link.rdata, Rdata::Name(name) if reply.names_are_equal(name, stored));
            let comes_back = question.name().eq_ignore_case(target) || links.iter().any(leads_to);
            self.link(reply, owner, stored);
            if comes_back {
                // Each name of the loop is told, and that none has an address.
                self.soa_of_denial(reply, tail);
                return Said::Records;
            }
            owner = stored;
            let inner = Question::new(target, qtype, Class::IN);
            if !self.zone_of(&inner).is_some_and(|its| std::ptr::eq(its, zone)) {
                return self.elsewhere(exchange, target, qtype, false);
            }
            let name = ClusterName::parse(&inner, zone.labels);
            match self.index.get().lookup(&name, &self.answers.view) {
                Lookup::ExternalName(next) => entry = next,
                found @ (Lookup::ClusterIp(_) | Lookup::Endpoints(_) | Lookup::Pod(_)) => {
                    let before = exchange.reply().records().len();
                    self.addresses(exchange.state, owner, qtype, &found);
                    if exchange.reply().records().len() == before {
                        self.soa_of_denial(exchange.reply(), tail);
                    }
                    return Said::Records;
                }
                // Another plugin or block may know the name, or it is one of the zone's own.
                Lookup::Missing(_) | Lookup::Node | Lookup::NameServer | Lookup::SchemaVersion => {
                    return self.elsewhere(exchange, target, qtype, true);
                }
            }
        }
    }

    /// Adds a CNAME.
    fn link(&self, reply: &mut Reply, owner: NameRef, target: NameRef) {
        let (rtype, class, ttl) = (Type::CNAME, Class::IN, self.answers.ttl);
        reply.push(Record { section: Section::Answer, owner, rtype, class, ttl, rdata: Rdata::Name(target) });
    }

    /// Asks this server for a target, through the router and every plugin. Whatever comes of it, the CNAME itself is an
    /// answer. `in_zone`: the target is in the zone of the question, so that its code is the answer's (RFC 6604 3).
    fn elsewhere(&self, exchange: &mut Exchange<'_>, target: Name<'_>, qtype: Type, in_zone: bool) -> Said {
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
                return Said::Pending(Wait::Work(Work {
                    future: Box::new(future),
                    overload: Rcode::SERVFAIL,
                    plugin: "kubernetes",
                }));
            }
        }
        Said::Records
    }
}

/// Takes over the answers of the look-up of `target`, and of a target in the same zone the denial.
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
