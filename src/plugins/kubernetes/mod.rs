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
use crate::cluster::model::Kind;
use crate::cluster::{ClusterName, CurrentIndex, Lookup, PodMode, Reason, ReverseLookup, View};
pub use config::Config;

use crate::wire::reply::ExtendedError;
use crate::wire::{NameBuf, Question, Rcode, Type};

/// What a stanza answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The zones, in the order of the stanza; not empty.
    pub zones: Vec<NameBuf>,
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
    index: CurrentIndex,
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
}

/// What a name stands for.
enum Finding<'q> {
    /// The zone itself.
    Apex,
    /// `ns.dns`.
    NameServer,
    /// `dns-version`, asked for TXT.
    SchemaVersion,
    /// A name that exists and has no record.
    Node,
    /// A reverse name.
    Reverse(ReverseName, ReverseLookup),
    /// Any other name that exists.
    Forward(Lookup<'q>),
    /// The name does not exist.
    Missing(Reason),
    /// There is nothing to say but this code.
    Code(Rcode),
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
    pub fn new(answers: Answers, index: impl Into<CurrentIndex>, own: Vec<IpAddr>) -> Kubernetes {
        let mut zones: Vec<Zone> = answers.zones.iter().map(|zone| Zone::new(zone, &answers)).collect();
        let primary = zones.iter().find(|zone| !zone.reverse).or(zones.first());
        let primary = primary.map_or_else(|| crate::wire::Name::ROOT.to_owned(), |zone| zone.name.clone());
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.labels));
        Kubernetes { stanza: Arc::new(Stanza { answers, zones, primary, index: index.into(), own }) }
    }
}

impl Zone {
    fn new(name: &NameBuf, answers: &Answers) -> Zone {
        let name = name.to_lower();
        // The bare trees are reverse zones too; CoreDNS only takes what is below them for such.
        let reverse = ["in-addr.arpa", "ip6.arpa"]
            .into_iter()
            .any(|tree| NameBuf::from_text(tree).is_ok_and(|tree| name.as_name().is_within(tree.as_name())));
        let fallthrough = answers.fallthrough.for_zone(&name);
        Zone { labels: name.as_name().labels().count(), name, reverse, fallthrough }
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

    fn claims(&self, question: &Question) -> bool {
        let Some(zone) = self.stanza.zone_of(question) else { return false };
        let name = ClusterName::parse(question, zone.labels);
        let is_missing = matches!(self.stanza.find(question, &name, zone), Finding::Missing(_));
        !is_missing || !zone.fallthrough.covers(question)
    }

    fn unready(&self) -> Option<String> {
        let missing: Vec<&str> = self.stanza.index.get().unsynced().map(Kind::name).collect();
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
        let name = ClusterName::parse(question, zone.labels);
        match self.find(question, &name, zone) {
            Finding::Apex => self.apex(exchange.reply(), qtype, tail, zone),
            Finding::NameServer => self.name_server(exchange.reply(), qtype),
            Finding::SchemaVersion => records::schema_version(exchange.reply()),
            Finding::Node => Said::NoData,
            Finding::Missing(reason) => Said::NameError(reason),
            Finding::Code(rcode) => Said::Code(rcode),
            Finding::Reverse(_, ReverseLookup::Service(key)) if qtype == Type::PTR => {
                self.service_pointer(exchange.reply(), &key)
            }
            Finding::Reverse(reverse, ReverseLookup::Endpoints(keys)) if qtype == Type::PTR => {
                self.endpoint_pointers(exchange.reply(), reverse, &keys)
            }
            Finding::Reverse(..) => Said::NoData,
            Finding::Forward(Lookup::ExternalName(entry)) => self.external_name(exchange, question, zone, &entry),
            Finding::Forward(found) => self.records(exchange.state, question, &name, tail, &found),
        }
    }

    /// What a name of the zone stands for. The one place that decides whether it exists.
    #[inline(always)]
    fn find<'q>(&self, question: &Question, name: &ClusterName<'q>, zone: &Zone) -> Finding<'q> {
        if matches!(question.qtype, Type::AXFR | Type::IXFR) {
            // Transfers are the *transfer* plugin's, which stands earlier in the chain.
            return Finding::Code(Rcode::REFUSED);
        }
        match name {
            ClusterName::Apex => return Finding::Apex,
            ClusterName::Dns => return Finding::Node,
            ClusterName::NameServer => return Finding::NameServer,
            ClusterName::SchemaVersion if question.qtype == Type::TXT => return Finding::SchemaVersion,
            // CoreDNS knows the name for no other type.
            ClusterName::SchemaVersion => return Finding::Missing(Reason::NoSuchForm),
            _ => {}
        }
        if zone.reverse {
            let Some(reverse) = ReverseName::parse(question) else { return Finding::Missing(Reason::NotReverse) };
            let index = self.index.get();
            if !index.synced() {
                return Finding::Code(Rcode::SERVFAIL);
            }
            return match index.lookup_reverse(reverse, &self.answers.view) {
                ReverseLookup::Missing(reason) => Finding::Missing(reason),
                found => Finding::Reverse(reverse, found),
            };
        }
        if matches!(name, ClusterName::ServiceTree | ClusterName::PodTree) {
            return Finding::Node;
        }
        // Names that no cluster can have are denied even before its state is known, so that a resolver's search goes
        // on; but they do not leave the cluster then either.
        let index = self.index.get();
        if !index.synced() && (*name != ClusterName::Other || zone.fallthrough.covers(question)) {
            return Finding::Code(Rcode::SERVFAIL);
        }
        // The index before this one may not know Pods, which is no reason to deny them.
        let is_pod = matches!(name, ClusterName::Pod { .. });
        if is_pod && wants_pods(&self.answers.view) && !index.lists(Kind::Pod) {
            return Finding::Code(Rcode::SERVFAIL);
        }
        match index.lookup(name, &self.answers.view) {
            Lookup::Missing(reason) => Finding::Missing(reason),
            found => Finding::Forward(found),
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
                reply.extended_error = Some(ExtendedError { code: 0, text: reason.text() });
                self.soa_of_denial(reply, tail);
            }
            Said::Code(rcode) => {
                reply.rcode = rcode;
                if rcode == Rcode::REFUSED {
                    return Step::Answered;
                }
                // RFC 8914 4.15: "Not Ready".
                reply.extended_error = Some(ExtendedError { code: 14, text: "the cluster's state is not in step yet" });
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
