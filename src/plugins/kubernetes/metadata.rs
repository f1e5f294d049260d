//! What the *metadata* plugin may show of a query: `{/kubernetes/namespace}` in a log line, for instance.

use super::Stanza;
use crate::chain::Exchange;
use crate::cluster::model::Pod;
use crate::cluster::{ClusterName, PodMode};

/// The value of a label, as CoreDNS gives it: an empty text where the name has no such part.
pub(super) fn value(stanza: &Stanza, exchange: &Exchange<'_>, label: &str) -> Option<String> {
    let label = label.strip_prefix("kubernetes/")?;
    if let Some(of_client) = label.strip_prefix("client-") {
        return client_value(stanza, exchange, of_client);
    }
    let question = exchange.question();
    let zone = stanza.zone_of(question)?;
    let parts = Parts::of(&ClusterName::parse(question, zone.labels));
    let part = match (&parts, label) {
        (None, "parse-error") => return Some("invalid request".to_owned()),
        (Some(parts), "kind") => parts.kind.as_bytes(),
        (Some(parts), "namespace") => parts.namespace,
        (Some(parts), "service") => parts.service,
        (Some(parts), "endpoint") => parts.endpoint,
        (Some(parts), "port-name") => parts.port,
        (Some(parts), "protocol") => parts.protocol,
        (Some(parts), "zone") if stanza.answers.view.zonal => return Some(dotted(parts.zone)),
        _ => return None,
    };
    Some(String::from_utf8_lossy(part).into_owned())
}

/// What is known of the Pod that asks; only with `pods verified`.
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

/// The parts of a name; empty where it has none.
#[derive(Default)]
struct Parts<'a> {
    kind: &'static str,
    namespace: &'a [u8],
    service: &'a [u8],
    endpoint: &'a [u8],
    port: &'a [u8],
    protocol: &'a [u8],
    zone: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(name: &ClusterName<'a>) -> Option<Parts<'a>> {
        let service = |service: crate::cluster::name::ServiceName<'a>| Parts {
            kind: "svc",
            namespace: service.ns,
            service: &service.key[1..=usize::from(service.key[0])],
            ..Parts::default()
        };
        Some(match *name {
            ClusterName::Apex => Parts::default(),
            ClusterName::ServiceTree => Parts { kind: "svc", ..Parts::default() },
            ClusterName::PodTree => Parts { kind: "pod", ..Parts::default() },
            ClusterName::Namespace(namespace) => Parts { kind: "svc", namespace, ..Parts::default() },
            ClusterName::PodNamespace(namespace) => Parts { kind: "pod", namespace, ..Parts::default() },
            ClusterName::Pod { ns, address } => {
                Parts { kind: "pod", namespace: ns, service: address, ..Parts::default() }
            }
            ClusterName::Service(name) => service(name),
            ClusterName::Endpoint(name, endpoint) => Parts { endpoint, ..service(name) },
            ClusterName::Port(name, port) => Parts { port: port.name, protocol: port.protocol, ..service(name) },
            ClusterName::Zonal(name, zone) => Parts { zone: zone.zone, ..service(name) },
            ClusterName::SchemaVersion | ClusterName::Dns | ClusterName::NameServer | ClusterName::Other => {
                return None;
            }
        })
    }
}

/// Labels in wire form, with dots between them.
fn dotted(mut labels: &[u8]) -> String {
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
