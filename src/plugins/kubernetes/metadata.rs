//! The metadata of a query for the *metadata* plugin, for instance `{/kubernetes/namespace}` in a log line.

use super::stanza::Stanza;
use crate::chain::Exchange;
use crate::cluster::model::Pod;
use crate::cluster::{ClusterName, PodMode};

/// Returns the value of a label as in CoreDNS: an empty text if the name has no such part.
pub(super) fn value(stanza: &Stanza, exchange: &Exchange<'_>, label: &str) -> Option<String> {
    let label = label.strip_prefix("kubernetes/")?;
    if let Some(of_client) = label.strip_prefix("client-") {
        return client_value(stanza, exchange, of_client);
    }
    let question = &exchange.received.question;
    let zone = stanza.zone_of(question)?;
    let parts = NameParts::of(&ClusterName::parse(question, zone.labels));
    let part = match (&parts, label) {
        (None, "parse-error") => return Some("invalid request".to_owned()),
        (Some(parts), "kind") => parts.kind.as_bytes(),
        (Some(parts), "namespace") => parts.namespace,
        (Some(parts), "service") => parts.service,
        (Some(parts), "endpoint") => parts.endpoint,
        (Some(parts), "port-name") => parts.port,
        (Some(parts), "protocol") => parts.protocol,
        (Some(parts), "zone") if stanza.answers.view.zonal => return Some(format_labels(parts.zone)),
        _ => return None,
    };
    Some(String::from_utf8_lossy(part).into_owned())
}

/// Returns the value of a label about the Pod of the client; only with `pods verified`.
fn client_value(stanza: &Stanza, exchange: &Exchange<'_>, label: &str) -> Option<String> {
    if stanza.answers.view.pods != PodMode::Verified {
        return None;
    }
    let mut found = None;
    stanza.index.get().pods_at(exchange.client.remote.ip().to_canonical(), |pod: &Pod| {
        let value = match label.strip_prefix("label/") {
            Some(key) => pod.labels.iter().find(|(have, _)| **have == *key).map(|(_, value)| &**value),
            None if label == "namespace" => Some(&*pod.key.ns),
            None if label == "pod-name" => Some(&*pod.key.name),
            None => None,
        };
        found = found.take().or(value.map(str::to_owned));
    });
    found
}

/// The parts of a name; empty if it has none.
#[derive(Default)]
struct NameParts<'a> {
    kind: &'static str,
    namespace: &'a [u8],
    service: &'a [u8],
    endpoint: &'a [u8],
    port: &'a [u8],
    protocol: &'a [u8],
    zone: &'a [u8],
}

impl<'a> NameParts<'a> {
    fn of(name: &ClusterName<'a>) -> Option<NameParts<'a>> {
        let service = |service: crate::cluster::name::ServiceName<'a>| NameParts {
            kind: "svc",
            namespace: service.ns,
            service: &service.key[1..=usize::from(service.key[0])],
            ..NameParts::default()
        };
        Some(match *name {
            ClusterName::Apex => NameParts::default(),
            ClusterName::ServiceTree => NameParts { kind: "svc", ..NameParts::default() },
            ClusterName::PodTree => NameParts { kind: "pod", ..NameParts::default() },
            ClusterName::Namespace(namespace) => NameParts { kind: "svc", namespace, ..NameParts::default() },
            ClusterName::PodNamespace(namespace) => NameParts { kind: "pod", namespace, ..NameParts::default() },
            ClusterName::Pod { ns, address } => {
                NameParts { kind: "pod", namespace: ns, service: address, ..NameParts::default() }
            }
            ClusterName::Service(name) => service(name),
            ClusterName::Endpoint(name, endpoint) => NameParts { endpoint, ..service(name) },
            ClusterName::Port(name, port) => NameParts { port: port.name, protocol: port.protocol, ..service(name) },
            ClusterName::Zonal(name, zone) => NameParts { zone: zone.zone, ..service(name) },
            ClusterName::SchemaVersion | ClusterName::Dns | ClusterName::NameServer | ClusterName::Other => {
                return None;
            }
        })
    }
}

/// Formats labels in wire form, separated by dots.
fn format_labels(mut labels: &[u8]) -> String {
    let mut text = String::new();
    while let Some((&len, rest)) = labels.split_first() {
        let (label, rest) = rest.split_at(usize::from(len));
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&String::from_utf8_lossy(label));
        labels = rest;
    }
    text
}
