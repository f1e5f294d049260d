//! The explanation of an answer: what a name means in the cluster, why it has no record, and which names are similar.

use std::fmt::Write as _;

use super::stanza::{Stanza, Zone};
use super::{Finding, Kubernetes};
use crate::chain::{Exchange, ExplainNotes, Explained, Plugin as _, Subject, TraceDenial};
use crate::cluster::address::ReverseName;
use crate::cluster::model::Kind;
use crate::cluster::name::{PortName, ServiceName};
use crate::cluster::{ClusterName, Index, Lookup, Reason};
use crate::wire::{Question, Type};

impl Kubernetes {
    /// Implements [`crate::chain::Plugin::explain`].
    pub(super) fn explain_query(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        let (stanza, question) = (&self.stanza, exchange.question());
        let Some(zone) = stanza.zone_of(question) else { return Explained::Next };
        let name = ClusterName::parse(question, zone.labels);
        notes.subject = subject(&name, zone);
        let finding = stanza.find(question, &name, zone);
        let index = stanza.index.get();
        let unsynced: Vec<&str> = stanza.index.get().unsynced().map(Kind::name).collect();
        match &finding {
            Finding::Missing(reason) => {
                let found = describe_missing(stanza, &index, question, &name, zone, *reason);
                notes.lines.push(format!("zone {}: {}", zone.name, found.text));
                notes.denial = Some(found);
                if zone.fallthrough.covers(question) {
                    notes.lines.push("passes the name to the next plugin (fallthrough)".to_owned());
                    return Explained::Next;
                }
            }
            Finding::Forward(Lookup::ExternalName(entry)) => {
                let Some(target) = entry.external_name().filter(|_| is_address_type(question.qtype)) else {
                    let explained = self.query(exchange).into();
                    notes.denial = denial_of(exchange);
                    return explained;
                };
                notes.lines.push(format!("zone {}: an ExternalName Service, an alias of {target}", zone.name));
                notes.alias = Some(target.to_string());
                return Explained::Alias;
            }
            Finding::Forward(found) => notes.lines.push(format!("zone {}: {}", zone.name, describe(found))),
            Finding::Reverse(..) => notes.lines.push(format!("zone {}: an address of the cluster", zone.name)),
            Finding::Code(_) if !unsynced.is_empty() => {
                let text = format!("the cluster state is not synced yet: no full list of {}", unsynced.join(", "));
                notes.lines.push(format!("zone {}: {text}", zone.name));
                notes.denial = Some(denial("not-synced", text));
            }
            Finding::Code(rcode) => notes.lines.push(format!("zone {}: answers {rcode}", zone.name)),
            Finding::Apex | Finding::NameServer | Finding::SchemaVersion | Finding::Node => {
                notes.lines.push(format!("zone {}: a name of the zone itself", zone.name));
            }
        }
        let explained = self.query(exchange).into();
        notes.denial = notes.denial.take().or_else(|| denial_of(exchange));
        explained
    }
}

/// Returns the reason that the client gets.
fn denial_of(exchange: &mut Exchange<'_>) -> Option<TraceDenial> {
    let reply = exchange.reply();
    let error = reply.extended_error?;
    Some(denial(error.reason, text(reply.error_text(error))))
}

fn is_address_type(qtype: Type) -> bool {
    matches!(qtype, Type::A | Type::AAAA)
}

fn denial(reason: &str, text: String) -> TraceDenial {
    TraceDenial { reason: reason.to_owned(), text, nearest: Vec::new() }
}

fn text(label: &[u8]) -> String {
    String::from_utf8_lossy(label).into_owned()
}

/// Returns the name of a Service: the first label of its key.
fn service_label(service: ServiceName<'_>) -> String {
    text(&service.key[1..=usize::from(service.key[0])])
}

/// Returns the object that a name belongs to.
fn subject(name: &ClusterName<'_>, zone: &Zone) -> Option<Subject> {
    let of = |ns: &[u8]| Subject { zone: zone.name.to_string(), namespace: text(ns), ..Subject::default() };
    let of_service = |service: ServiceName<'_>| Subject { service: Some(service_label(service)), ..of(service.ns) };
    Some(match *name {
        ClusterName::Namespace(ns) | ClusterName::PodNamespace(ns) | ClusterName::Pod { ns, .. } => of(ns),
        ClusterName::Service(service) | ClusterName::Zonal(service, _) => of_service(service),
        ClusterName::Endpoint(service, endpoint) => Subject { endpoint: Some(text(endpoint)), ..of_service(service) },
        ClusterName::Port(service, PortName { name, protocol }) => {
            Subject { port: Some((text(name), text(protocol))), ..of_service(service) }
        }
        _ => return None,
    })
}

/// Returns a description of a name that exists.
fn describe(found: &Lookup<'_>) -> String {
    match found {
        Lookup::ClusterIp(_) => "a Service with a cluster address".to_owned(),
        Lookup::Endpoints(found) => {
            let mut count = 0;
            found.for_each_row(|_| count += 1);
            match count {
                1 => "1 ready endpoint of a Service".to_owned(),
                _ => format!("{count} ready endpoints of a Service"),
            }
        }
        Lookup::Pod(address, _) => format!("the address {address} of a Pod"),
        Lookup::Node => "a name that exists and has no record of its own".to_owned(),
        _ => "a name of the cluster".to_owned(),
    }
}

/// Returns why a name does not exist, with similar names that do.
fn describe_missing(
    stanza: &Stanza, index: &Index, question: &Question, name: &ClusterName<'_>, zone: &Zone, reason: Reason,
) -> TraceDenial {
    let view = &stanza.answers.view;
    let zone_name = zone.name.to_string();
    let bare_zone = zone_name.trim_end_matches('.');
    let full = |name: &str, ns: &str| format!("{name}.{ns}.svc.{zone_name}");
    let mut found = denial(reason.code(), reason.text().to_owned());
    let service = super::records::service_name(name);
    let entry = service.and_then(|service| index.entry(service.key));
    let ns = match *name {
        ClusterName::Namespace(ns) | ClusterName::PodNamespace(ns) | ClusterName::Pod { ns, .. } => text(ns),
        _ => service.map(|service| text(service.ns)).unwrap_or_default(),
    };
    match reason {
        Reason::NoSuchNamespace => {
            if view.namespaces.is_some() && index.has_namespace(ns.as_bytes()) {
                found.reason = "namespace-not-exposed".to_owned();
                found.text = format!("the option 'namespaces' of the stanza does not expose namespace {ns}");
                return found;
            }
            found.text = format!("no such namespace: {ns}");
            if ns.contains('_') {
                found.text.push_str("; names of namespaces have no '_'");
            }
            let services = service.map(|service| index.nearest_services(&service_label(service), &ns, view));
            found.nearest.extend(services.unwrap_or_default().iter().map(|(name, ns)| full(name, ns)));
            if service.is_none() {
                let near = index.nearest_namespaces(&ns, view);
                let tree = if matches!(name, ClusterName::Namespace(_)) { "svc" } else { "pod" };
                found.nearest.extend(near.iter().map(|ns| format!("{ns}.{tree}.{zone_name}")));
            }
        }
        Reason::NoSuchService => {
            let label = service.map(service_label).unwrap_or_default();
            found.text = format!("no such Service: {label} in namespace {ns}");
            if matches!(&*label, "_tcp" | "_udp" | "_sctp") {
                let _ = write!(found.text, "; expected _PORT.{label}.SERVICE.{ns}.svc.{bare_zone} for a port");
            } else if label.contains('_') {
                found.text.push_str("; names of Services have no '_'");
            }
            found.nearest.extend(index.nearest_services(&label, &ns, view).iter().map(|(name, ns)| full(name, ns)));
        }
        Reason::NoSuchEndpoint => {
            if let (ClusterName::Endpoint(service, label), Some(entry)) = (name, &entry) {
                let label = text(label);
                let service = service_label(*service);
                found.text = format!("no ready endpoint of Service {ns}/{service} is named {label}");
                let near = entry.nearest_endpoints(&label, view.endpoint_pod_names);
                let service = full(&service, &ns);
                found.nearest.extend(near.iter().map(|label| format!("{label}.{service}")));
            }
        }
        // `_http.web.shop`: the protocol is missing, or the port before it.
        Reason::NoSuchPort if matches!(name, ClusterName::Endpoint(..)) => {
            if let (ClusterName::Endpoint(service, label), Some(entry)) = (name, &entry) {
                let (label, service) = (text(label), service_label(*service));
                let word = label.trim_start_matches('_');
                found.text = format!(
                    "Service {ns}/{service} has no port for protocol {word}; expected \
                     _PORT._PROTOCOL.{service}.{ns}.svc.{bare_zone} for a port"
                );
                let (near, full) = (entry.nearest_ports(word, "tcp").into_iter(), full(&service, &ns));
                found.nearest.extend(near.map(|(port, protocol)| format!("_{port}._{protocol}.{full}")));
            }
        }
        Reason::NoSuchPort => {
            if let (ClusterName::Port(service, wanted), Some(entry)) = (name, &entry) {
                let (port, protocol) = (text(wanted.name), text(wanted.protocol));
                let label = service_label(*service);
                found.text = format!("Service {ns}/{label} has no port named {port} for protocol {protocol}");
                let near = entry.nearest_ports(&port, &protocol).into_iter();
                found.nearest.extend(near.map(|(port, protocol)| format!("_{port}._{protocol}.{}", full(&label, &ns))));
            }
        }
        Reason::NoReadyEndpoint | Reason::EmptyService if !view.endpoints => {
            found.reason = "endpoints-disabled".to_owned();
            found.text = "the option 'noendpoints' of the stanza hides all endpoints".to_owned();
        }
        Reason::NoSuchForm => {
            found.text = format!("names of zone {zone_name} end with svc.{zone_name} or pod.{zone_name}");
            // `web.shop` without `svc`, and more labels than a name has.
            let labels: Vec<String> = (0..question.labels() - zone.labels).map(|at| text(question.label(at))).collect();
            let labels: Vec<&str> = labels.iter().map(String::as_str).filter(|label| *label != "svc").collect();
            if let [.., name, ns] = labels[..] {
                let exists = crate::cluster::index::service_key(ns, name).and_then(|key| index.entry(&key));
                if exists.is_some_and(|entry| entry.service.is_some()) {
                    found.nearest.push(full(name, ns));
                }
            }
        }
        Reason::BadExternalName => {
            found.text =
                "externalName of the Service is an address or not a DNS name, so that it has no alias".to_owned()
        }
        Reason::NoSuchAddress => {
            if let Some(ReverseName::Address(address)) = ReverseName::parse(question) {
                found.text = format!("no Service or ready endpoint has the address {address}");
            }
        }
        _ => {}
    }
    found
}
