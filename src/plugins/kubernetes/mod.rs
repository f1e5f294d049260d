//! *kubernetes*: answers names of a cluster from its index.
//!
//! ```text
//! question ─► zone of the stanza ─► ClusterName / ReverseName ─► Index::lookup ─► records.rs, external.rs ─► reply
//!                                                                              └► a denial with the SOA of the zone
//! ```
//!
//! The rules for the existence of names are in [`crate::cluster::lookup`]; here the results become records.

pub mod config;
mod denials;
mod explain;
mod external;
mod metadata;
mod no_data;
mod records;
mod stanza;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use denials::DenialCounts;
pub use stanza::Answers;

use std::net::IpAddr;
use std::sync::Arc;

use no_data::NoData;
use stanza::{AnswerResult, Stanza, Zone};

use crate::chain::{Exchange, ExplainNotes, Explained, Fallthrough, Origin, Plugin, Step};
use crate::cluster::address::ReverseName;
use crate::cluster::model::Kind;
use crate::cluster::{ClusterName, CurrentIndex, Index, Lookup, PodMode, Reason, ReverseLookup};
use crate::plugins::build::{BlockBuilder, BuildError, IndexRequest, LiveZone, Setting};
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{Name, NameBuf, Question, Rcode, Type};

impl Setting for Config {
    fn index_request(&self) -> Option<IndexRequest> {
        let view = &self.answers.view;
        Some(IndexRequest {
            api: self.api.clone(),
            labels: self.labels.clone(),
            namespace_labels: self.namespace_labels.clone(),
            pods: view.pods == PodMode::Verified,
            endpoints: view.endpoints,
            endpoint_pod_names: view.endpoint_pod_names,
            endpoint_zones: view.zonal,
        })
    }

    fn live_zones(&self) -> Vec<LiveZone> {
        let Answers { zones, fallthrough, .. } = &self.answers;
        let is_whole = |zone: &NameBuf| fallthrough.for_zone(zone) == Fallthrough::Never;
        zones.iter().map(|zone| LiveZone { zone: zone.clone(), is_whole: is_whole(zone) }).collect()
    }

    fn ended_zones(&self) -> Vec<NameBuf> {
        let Answers { zones, fallthrough, .. } = &self.answers;
        zones.iter().filter(|zone| fallthrough.for_zone(zone) == Fallthrough::Never).cloned().collect()
    }

    fn check(&self) -> Vec<BuildError> {
        let server = &self.api.server;
        let kubeconfig = server.kubeconfig.iter().map(|(path, _)| path);
        let files = kubeconfig.chain(server.tls.iter().flatten());
        let unreadable = files.filter_map(|path| {
            let error = std::fs::File::open(path).err()?;
            Some(BuildError(format!("cannot read {}: {error}; it has to exist when the server starts", path.display())))
        });
        unreadable.collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let Some(request) = self.index_request() else { return Ok(()) };
        let plugin = Kubernetes::new(self.answers.clone(), block.index(&request), block.server_addresses())
            .with_search_list(&block.resources().search_list)
            .counted_by(block.resources().metrics.get());
        block.plugin(plugin);
        Ok(())
    }
}

/// The plugin.
pub struct Kubernetes {
    /// Shared with the futures of pending ExternalName look-ups.
    stanza: Arc<Stanza>,
}

/// The result of the look-up of a name.
enum Finding<'q> {
    /// The zone itself.
    Apex,
    /// `ns.dns`.
    NameServer,
    /// `dns-version`, for type TXT.
    SchemaVersion,
    /// A name that exists without a record.
    Node,
    /// A reverse name.
    Reverse(ReverseName, ReverseLookup),
    /// Any other name that exists.
    Forward(Lookup<'q>),
    /// The name does not exist.
    Missing(Reason),
    /// The response has this code only.
    Code(Rcode),
}

impl Kubernetes {
    /// Creates the plugin for a stanza. `own` are the addresses of this server.
    pub fn new(answers: Answers, index: impl Into<CurrentIndex>, own: Vec<IpAddr>) -> Kubernetes {
        let mut zones: Vec<Zone> = answers.zones.iter().map(|zone| Zone::new(zone, &answers)).collect();
        let primary = zones.iter().find(|zone| !zone.is_reverse).or(zones.first());
        let primary = primary.map_or_else(|| crate::wire::Name::ROOT.to_owned(), |zone| zone.name.clone());
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.labels));
        let (index, search_list, denials) = (index.into(), Vec::new(), Arc::default());
        Kubernetes { stanza: Arc::new(Stanza { answers, zones, primary, index, own, search_list, denials }) }
    }

    /// Sets the counters of denials.
    pub fn counted_by(mut self, denials: Arc<DenialCounts>) -> Kubernetes {
        if let Some(stanza) = Arc::get_mut(&mut self.stanza) {
            stanza.denials = denials;
        }
        self
    }

    /// Sets the search list of this machine, with which the search lists of clients end.
    pub fn with_search_list(mut self, search_list: &[NameBuf]) -> Kubernetes {
        if let Some(stanza) = Arc::get_mut(&mut self.stanza) {
            stanza.search_list = search_list.to_vec();
        }
        self
    }
}

impl Plugin for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        self.explain_query(exchange, notes)
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let question = exchange.question();
        let Some(zone) = self.stanza.zone_of(question) else { return Step::Next };
        let result = self.stanza.answer(exchange, question, zone);
        match result {
            AnswerResult::NoData(reason) if !exchange.state.is_dry_run() => {
                self.stanza.denials.count_no_data(reason);
            }
            // A name that falls through to the next plugin is not denied.
            AnswerResult::NameError(reason) if !exchange.state.is_dry_run() && !zone.fallthrough.covers(question) => {
                self.stanza.denials.count_name_error(reason);
            }
            _ => {}
        }
        let step = self.stanza.finish_reply(exchange.reply(), question, zone, result);
        if !matches!(step, Step::Next) {
            // Answers from the cluster are as current as its last event.
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

    fn search_list(&self, exchange: &Exchange<'_>) -> Option<Vec<NameBuf>> {
        self.stanza.search_list(exchange)
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
    /// Returns the search list of the client (CoreDNS `Kubernetes.AutoPath`), if the name of the question is below
    /// `NAMESPACE.svc.ZONE` and a Pod of that namespace has certainly sent it.
    fn search_list(&self, exchange: &Exchange<'_>) -> Option<Vec<NameBuf>> {
        /// `NAMESPACE.svc`, and at least one label in front of it.
        const LABELS: usize = 3;
        let question = exchange.question();
        let zone = self.zone_of(question).filter(|_| self.answers.view.pods == PodMode::Verified)?;
        let front = question.labels() - zone.labels;
        if front < LABELS || question.label(front - 1) != b"svc" {
            return None;
        }
        let client = exchange.client.remote.ip().to_canonical();
        let pod = self.index.synced()?.client_pod(client, exchange.now)?;
        if !pod.key.ns.as_bytes().eq_ignore_ascii_case(question.label(front - 2)) {
            return None;
        }
        let suffixes = [zone.labels + 2, zone.labels + 1, zone.labels];
        let own = suffixes.map(|labels| question.suffix(labels).to_owned());
        Some(own.into_iter().chain(self.search_list.iter().cloned()).chain([Name::ROOT.to_owned()]).collect())
    }

    /// Returns the longest zone of the question.
    fn zone_of(&self, question: &Question) -> Option<&Zone> {
        let within = |zone: &&Zone| {
            question.labels() >= zone.labels && question.suffix(zone.labels).as_wire() == zone.name.as_wire()
        };
        self.zones.iter().find(within)
    }

    /// Resolves the question and adds records to the reply. It has one caller.
    #[inline(always)]
    fn answer(self: &Arc<Self>, exchange: &mut Exchange<'_>, question: &Question, zone: &Zone) -> AnswerResult {
        let (qtype, tail) = (question.qtype, question.suffix_at(zone.labels));
        let name = ClusterName::parse(question, zone.labels);
        match self.find(question, &name, zone) {
            Finding::Apex => self.answer_apex(exchange.reply(), qtype, tail, zone),
            Finding::NameServer => self.answer_name_server(exchange.reply(), qtype),
            Finding::SchemaVersion => records::answer_schema_version(exchange.reply()),
            Finding::Node => AnswerResult::NoData(NoData::Node),
            Finding::Missing(reason) => AnswerResult::NameError(reason),
            Finding::Code(rcode) => AnswerResult::Code(rcode),
            Finding::Reverse(_, ReverseLookup::Service(key)) if qtype == Type::PTR => {
                self.answer_service_ptr(exchange.reply(), &key)
            }
            Finding::Reverse(reverse, ReverseLookup::Endpoints(keys)) if qtype == Type::PTR => {
                self.answer_endpoint_ptr(exchange.reply(), reverse, &keys)
            }
            Finding::Reverse(..) => AnswerResult::NoData(NoData::Type),
            Finding::Forward(Lookup::ExternalName(entry)) => {
                self.answer_external_name(exchange, question, zone, &entry)
            }
            Finding::Forward(found) => self.answer_records(exchange.state, question, &name, tail, &found),
        }
    }

    /// Resolves a name of the zone. This is the only place that decides whether it exists.
    #[inline(always)]
    fn find<'q>(&self, question: &Question, name: &ClusterName<'q>, zone: &Zone) -> Finding<'q> {
        if matches!(question.qtype, Type::AXFR | Type::IXFR) {
            // Transfers belong to the *transfer* plugin, which is earlier in the chain.
            return Finding::Code(Rcode::REFUSED);
        }
        match name {
            ClusterName::Apex => return Finding::Apex,
            ClusterName::Dns => return Finding::Node,
            ClusterName::NameServer => return Finding::NameServer,
            ClusterName::SchemaVersion if question.qtype == Type::TXT => return Finding::SchemaVersion,
            // The name does not exist for other types in CoreDNS.
            ClusterName::SchemaVersion => return Finding::Missing(Reason::NoSuchForm),
            _ => {}
        }
        if zone.is_reverse {
            let Some(reverse) = ReverseName::parse(question) else { return Finding::Missing(Reason::NotReverse) };
            return match self.index.synced() {
                Some(index) => self.look_up_reverse(index, reverse),
                None => self.look_up_reverse_unsynced(reverse),
            };
        }
        if matches!(name, ClusterName::ServiceTree | ClusterName::PodTree) {
            return Finding::Node;
        }
        match self.index.synced() {
            Some(index) => self.look_up(index, name),
            None => self.look_up_unsynced(question, name, zone),
        }
    }

    #[inline(always)]
    fn look_up_reverse<'q>(&self, index: &Index, reverse: ReverseName) -> Finding<'q> {
        match index.lookup_reverse(reverse, &self.answers.view) {
            ReverseLookup::Missing(reason) => Finding::Missing(reason),
            found => Finding::Reverse(reverse, found),
        }
    }

    #[cold]
    fn look_up_reverse_unsynced<'q>(&self, reverse: ReverseName) -> Finding<'q> {
        let index = self.index.get();
        if index.is_synced() { self.look_up_reverse(&index, reverse) } else { Finding::Code(Rcode::SERVFAIL) }
    }

    /// Looks up a name that depends on the objects of the cluster, before the index is synced.
    #[cold]
    fn look_up_unsynced<'q>(&self, question: &Question, name: &ClusterName<'q>, zone: &Zone) -> Finding<'q> {
        // Names that no cluster can have are denied even before its state is synced, so that the search list of a
        // resolver continues; but they do not fall through then either.
        let index = self.index.get();
        if !index.is_synced() && (*name != ClusterName::Other || zone.fallthrough.covers(question)) {
            return Finding::Code(Rcode::SERVFAIL);
        }
        // The previous index may not contain Pods, which is no reason to deny them.
        let is_pod = matches!(name, ClusterName::Pod { .. });
        if is_pod && self.answers.view.pods == PodMode::Verified && !index.lists(Kind::Pod) {
            return Finding::Code(Rcode::SERVFAIL);
        }
        self.look_up(&index, name)
    }

    #[inline(always)]
    fn look_up<'q>(&self, index: &Index, name: &ClusterName<'q>) -> Finding<'q> {
        match index.lookup(name, &self.answers.view) {
            Lookup::Missing(reason) => Finding::Missing(reason),
            found => Finding::Forward(found),
        }
    }

    /// Completes the reply for a result.
    fn finish_reply(
        &self, reply: &mut crate::wire::Reply, question: &Question, zone: &Zone, result: AnswerResult,
    ) -> Step {
        let tail = question.suffix_at(zone.labels);
        match result {
            AnswerResult::Records => {}
            AnswerResult::NoData(reason) => {
                let text = ErrorText::Fixed(reason.text());
                reply.extended_error = Some(ExtendedError { code: 0, reason: reason.code(), text });
                self.add_soa_of_denial(reply, tail);
            }
            AnswerResult::NameError(_) if zone.fallthrough.covers(question) => return Step::Next,
            AnswerResult::NameError(reason) => {
                reply.rcode = Rcode::NXDOMAIN;
                // RFC 8914 4.1: "Other", with a text for people.
                reply.extended_error =
                    Some(ExtendedError { code: 0, reason: reason.code(), text: ErrorText::Fixed(reason.text()) });
                self.add_soa_of_denial(reply, tail);
            }
            AnswerResult::Code(rcode) => {
                reply.rcode = rcode;
                if rcode == Rcode::REFUSED {
                    return Step::Answered;
                }
                // RFC 8914 4.15: "Not Ready".
                let text = ErrorText::Fixed("the cluster state is not synced yet");
                reply.extended_error = Some(ExtendedError { code: 14, reason: "not-synced", text });
                self.add_soa_of_denial(reply, tail);
            }
            AnswerResult::Pending(wait) => return Step::Pending(wait),
        }
        reply.authoritative = true;
        Step::Answered
    }
}
