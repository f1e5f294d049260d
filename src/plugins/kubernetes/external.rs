//! ExternalName: the CNAME, and behind it the addresses that its target has.
//!
//! A stub resolver does not chase (RFC 1034 5.3.1), so the chain is followed here: inside the zone through the index,
//! outside through this whole server, which may have to wait for an upstream.

use std::sync::Arc;

use super::{Said, Stanza, Zone};
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Failure, Inner, State, Wait, Work};
use crate::cluster::entry::Entry;
use crate::cluster::{ClusterName, Lookup};
use crate::wire::{Class, Name, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// How many links a chain inside the zone may have (CoreDNS `maxCnameChainLength`, which counts those before).
const MAX_LINKS: usize = 11;

impl Stanza {
    /// Answers for a name that is an ExternalName Service's.
    pub(super) fn external_name(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone, entry: &Arc<Entry>,
    ) -> Said {
        let Some(target) = entry.external_name() else { return Said::NoData };
        match question.qtype {
            Type::CNAME => {
                let target = exchange.reply().whole_name(target);
                self.link(exchange.reply(), NameRef::QUESTION, target);
                Said::Records
            }
            Type::A | Type::AAAA => self.chase(exchange, question, zone, entry.clone()),
            _ => Said::NoData,
        }
    }

    /// Follows the chain.
    fn chase(
        self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone, mut entry: Arc<Entry>,
    ) -> Said {
        let (qtype, tail) = (question.qtype, question.suffix_at(zone.labels));
        let mut owner = NameRef::QUESTION;
        let first = exchange.reply().records().len();
        loop {
            let Some(target) = entry.external_name() else { return Said::Records };
            // A chain that comes back, or that is too long, ends here; what there is of it is told.
            let reply = exchange.reply();
            let stored = reply.whole_name(target);
            let links = &reply.records()[first..];
            let leads_to = |link: &Record| matches!(link.rdata, Rdata::Name(name) if reply.same_name(name, stored));
            if links.len() >= MAX_LINKS || question.name().eq_ignore_case(target) || links.iter().any(leads_to) {
                return if owner == NameRef::QUESTION { Said::NoData } else { Said::Records };
            }
            self.link(reply, owner, stored);
            owner = stored;
            if !target.is_within(zone.name.as_name()) {
                return self.outside(exchange, target, qtype);
            }
            let inner = Question::new(target, qtype, Class::IN);
            let name = ClusterName::parse(&inner, zone.labels);
            match self.index.get().lookup(&name, &self.answers.view) {
                Lookup::ExternalName(next) => entry = next,
                Lookup::Missing(_) => {
                    // RFC 6604 3: the code is that of the last name of the chain.
                    let reply = exchange.reply();
                    reply.rcode = Rcode::NXDOMAIN;
                    self.soa_of_denial(reply, tail);
                    return Said::Records;
                }
                found => {
                    let before = exchange.reply().records().len();
                    self.addresses(exchange.state, owner, qtype, &found);
                    if exchange.reply().records().len() == before {
                        self.soa_of_denial(exchange.reply(), tail);
                    }
                    return Said::Records;
                }
            }
        }
    }

    /// Adds a CNAME.
    fn link(&self, reply: &mut Reply, owner: NameRef, target: NameRef) {
        let (rtype, class, ttl) = (Type::CNAME, Class::IN, self.answers.ttl);
        reply.push(Record { section: Section::Answer, owner, rtype, class, ttl, rdata: Rdata::Name(target) });
    }

    /// Asks this server for a target outside the zone. Whatever comes of it, the CNAME itself is an answer.
    fn outside(&self, exchange: &mut Exchange<'_>, target: Name<'_>, qtype: Type) -> Said {
        match exchange.resolve(target, qtype) {
            Inner::Done(inner) => append(exchange.reply(), &inner, target, qtype),
            Inner::None => {
                exchange.state.failure = Some(Failure::TooDeep("kubernetes"));
            }
            Inner::Pending(inner) => {
                let target = target.to_owned();
                let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                    Box::pin(async move {
                        let inner = inner.await;
                        append(&mut state.reply, &inner, target.as_name(), qtype);
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

/// Takes over the answers of the look-up of `target`.
fn append(reply: &mut Reply, inner: &Reply, target: Name<'_>, qtype: Type) {
    reply.truncated |= inner.truncated;
    let question = Question::new(target, qtype, Class::IN);
    reply.append(inner, &question, Section::Answer, Section::Answer);
}
