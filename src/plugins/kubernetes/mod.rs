//! *kubernetes*: the names of a cluster, from its index.
//!
//! ```text
//! question ─► zone of the stanza ─► ClusterName / ReverseName ─► Index::lookup ─► records.rs, external.rs ─► reply
//!                                                                              └► a denial with the zone's SOA
//! ```
//!
//! The rules of what exists are in [`crate::cluster::lookup`]; here they become records.

pub mod config;
mod external;
mod metadata;
mod records;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use crate::chain::{Exchange, Fallthrough, Origin, Plugin, Step, Wait};
use crate::cluster::address::ReverseName;
use crate::cluster::{ClusterName, Index, Lookup, PodMode, Reason, ReverseLookup, View};
pub use config::Config;

use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{NameBuf, Question, Rcode, Type};

/// What a stanza answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The zones, in the order of the stanza; not empty.
    pub zones: Vec<NameBuf>,
    /// Those of them whose Services are the ServiceImports of several clusters, of which none is known yet.
    pub multicluster: Vec<NameBuf>,
    /// What of the cluster is shown.
    pub view: View,
    /// Seconds that an answer may be kept: 0–3600.
    pub ttl: u32,
    /// Which names that do not exist go on to the next plugin.
    pub fallthrough: Fallthrough,
}

/// The plugin.
pub struct Kubernetes {
    /// Shared with the futures of ExternalName look-ups that wait.
    stanza: Arc<Stanza>,
}

/// What a stanza needs to answer.
struct Stanza {
    answers: Answers,
    /// The zones, those with more labels first.
    zones: Vec<Zone>,
    /// Labels of the zone that PTR records point into: the first that is no reverse zone.
    primary: NameBuf,
    index: Arc<Index>,
    /// This server's own addresses, which are those of the name server.
    own: Vec<IpAddr>,
}

/// A zone of the stanza.
struct Zone {
    name: NameBuf,
    labels: usize,
    reverse: bool,
    /// Which of its names that do not exist go on.
    fallthrough: Fallthrough,
    multicluster: bool,
}

/// What is said of a name.
enum Said {
    /// The answer section has been filled.
    Records,
    /// The name exists and has no such record.
    NoData,
    /// The name does not exist.
    NameError(Reason),
    /// The code in the reply, with the zone's SOA.
    Code(Rcode),
    /// It depends on a look-up that waits.
    Pending(Wait),
}

impl Kubernetes {
    /// The plugin for a stanza. `own`: this server's addresses.
    pub fn new(answers: Answers, index: Arc<Index>, own: Vec<IpAddr>) -> Kubernetes {
        let mut zones: Vec<Zone> = answers.zones.iter().map(|zone| Zone::new(zone, &answers)).collect();
        let primary = zones.iter().find(|zone| !zone.reverse).or(zones.first());
        let primary = primary.map_or_else(|| crate::wire::Name::ROOT.to_owned(), |zone| zone.name.clone());
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.labels));
        Kubernetes { stanza: Arc::new(Stanza { answers, zones, primary, index, own }) }
    }

    /// The index that it answers from.
    pub fn index(&self) -> &Arc<Index> {
        &self.stanza.index
    }
}

impl Zone {
    fn new(name: &NameBuf, answers: &Answers) -> Zone {
        let multicluster = answers.multicluster.contains(name);
        let name = name.to_lower();
        // The bare trees are reverse zones too; CoreDNS only takes what is below them for such.
        let reverse = ["in-addr.arpa", "ip6.arpa"]
            .into_iter()
            .any(|tree| NameBuf::from_text(tree).is_ok_and(|tree| name.as_name().is_within(tree.as_name())));
        let fallthrough = answers.fallthrough.for_zone(&name);
        Zone { labels: name.as_name().labels().count(), name, reverse, fallthrough, multicluster }
    }
}

impl Plugin for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let question = exchange.question();
        let Some(zone) = self.stanza.zone_of(question) else { return Step::Next };
        let said = self.stanza.say(exchange, question, zone);
        let step = self.stanza.conclude(exchange.reply(), question, zone, said);
        if !matches!(step, Step::Next) {
            // What is said of the cluster is never older than its last event.
            exchange.state.origin = Origin::Live;
        }
        step
    }

    fn unready(&self) -> Option<String> {
        let missing: Vec<&str> = self.stanza.index.unsynced().map(crate::cluster::model::Kind::name).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    fn metadata(&self, exchange: &Exchange<'_>, label: &str) -> Option<String> {
        metadata::value(&self.stanza, exchange, label)
    }
}

impl Stanza {
    /// The longest zone that the question is in.
    fn zone_of(&self, question: &Question) -> Option<&Zone> {
        let within = |zone: &&Zone| {
            question.labels() >= zone.labels && question.suffix(zone.labels).as_wire() == zone.name.as_wire()
        };
        self.zones.iter().find(within)
    }

    /// Finds what there is to say and puts the records into the reply.
    fn say(self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone) -> Said {
        let (qtype, tail) = (question.qtype, question.suffix_at(zone.labels));
        if matches!(qtype, Type::AXFR | Type::IXFR) {
            // Transfers are the *transfer* plugin's, which stands earlier in the chain.
            return Said::Code(Rcode::REFUSED);
        }
        let name = ClusterName::parse(question, zone.labels);
        match name {
            ClusterName::Apex => return self.apex(exchange.reply(), qtype, tail, zone),
            ClusterName::Dns => return Said::NoData,
            ClusterName::NameServer => return self.name_server(exchange.reply(), qtype),
            ClusterName::SchemaVersion if qtype == Type::TXT => return records::schema_version(exchange.reply()),
            // CoreDNS knows the name for no other type.
            ClusterName::SchemaVersion => return Said::NameError(Reason::NoSuchForm),
            _ => {}
        }
        if zone.reverse {
            let Some(reverse) = ReverseName::parse(question) else { return Said::NameError(Reason::NotReverse) };
            if !self.index.synced() {
                return Said::Code(Rcode::SERVFAIL);
            }
            return match self.index.lookup_reverse(reverse, &self.answers.view) {
                ReverseLookup::Missing(reason) => Said::NameError(reason),
                ReverseLookup::Service(key) if qtype == Type::PTR => self.service_pointer(exchange.reply(), &key),
                ReverseLookup::Endpoints(keys) if qtype == Type::PTR => {
                    self.endpoint_pointers(exchange.reply(), reverse, &keys)
                }
                ReverseLookup::Service(_) | ReverseLookup::Endpoints(_) | ReverseLookup::Node => Said::NoData,
            };
        }
        if matches!(name, ClusterName::ServiceTree | ClusterName::PodTree) {
            return Said::NoData;
        }
        // Names that no cluster can have are denied even before its state is known, so that a resolver's search goes on;
        // but they do not leave the cluster then either.
        if !self.index.synced() && (name != ClusterName::Other || zone.fallthrough.covers(question)) {
            return Said::Code(Rcode::SERVFAIL);
        }
        if zone.multicluster && records::service_name(&name).is_some() {
            return Said::NameError(Reason::NoSuchService);
        }
        match self.index.lookup(&name, &self.answers.view) {
            Lookup::Missing(reason) => Said::NameError(reason),
            Lookup::ExternalName(entry) => self.external_name(exchange, question, zone, &entry),
            found => self.records(exchange.state, question, &name, tail, &found),
        }
    }

    /// Makes the reply of what was said.
    fn conclude(&self, reply: &mut crate::wire::Reply, question: &Question, zone: &Zone, said: Said) -> Step {
        let tail = question.suffix_at(zone.labels);
        match said {
            Said::Records => {}
            Said::NoData => self.soa_of_denial(reply, tail),
            Said::NameError(_) if zone.fallthrough.covers(question) => return Step::Next,
            Said::NameError(reason) => {
                reply.rcode = Rcode::NXDOMAIN;
                // RFC 8914 4.1: "Other", with a text for a person.
                reply.extended_error = Some(ExtendedError { code: 0, text: ErrorText::Fixed(reason.text()) });
                self.soa_of_denial(reply, tail);
            }
            Said::Code(rcode) => {
                reply.rcode = rcode;
                if rcode == Rcode::REFUSED {
                    return Step::Answered;
                }
                // RFC 8914 4.15: "Not Ready".
                let text = ErrorText::Fixed("the cluster's state is not in step yet");
                reply.extended_error = Some(ExtendedError { code: 14, text });
                self.soa_of_denial(reply, tail);
            }
            Said::Pending(later) => return Step::Pending(later),
        }
        reply.authoritative = true;
        Step::Answered
    }
}

/// Whether names below `pod` are answered from Pods.
pub fn wants_pods(view: &View) -> bool {
    view.pods == PodMode::Verified
}
