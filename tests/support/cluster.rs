//! Small clusters: objects with names and addresses that collide on purpose, views, and a few fixed clusters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use clusterdns::cluster::entry::EndpointFields;
use clusterdns::cluster::model::{
    Endpoint, EndpointSlice, Kind, Object, ObjectKey, Pod, Port, Protocol, Service, ServiceKind,
};
use clusterdns::cluster::{Event, Index, IndexWriter, Options, PodMode, View};

use super::Choices;

pub(super) const NAMESPACES: [&str; 2] = ["a", "b"];
pub(super) const SERVICES: [&str; 2] = ["x", "web"];
const SLICES: [&str; 3] = ["s0", "s1", "s2"];
const PODS: [&str; 2] = ["p0", "p1"];
/// One is the name of another Service, and two are the names of endpoints without a host name.
pub(super) const HOSTNAMES: [&str; 4] = ["h", "web", "10-0-0-1", "fd00--0"];
pub(super) const POD_NAMES: [&str; 3] = ["p0", "h", "10-0-0-2"];
const TOPOLOGY_ZONES: [&str; 2] = ["z", "z.eu"];
const TARGETS: [&str; 8] = [
    "example.org",
    "x.a.svc.cluster.local",
    "web.a.svc.cluster.local",
    "x.b.svc.cluster.local",
    "h.x.a.svc.cluster.local",
    "nope.a.svc.cluster.local",
    "10.0.0.9",
    "no..name",
];
/// The time of every change, so that serials rarely differ.
pub(super) const NOW: u32 = 1_700_000_000;

pub(super) fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// Returns addresses: `fd00::` as a label ends in a dash, and the last one is an IPv4-mapped address.
pub(super) fn addresses() -> [IpAddr; 7] {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().expect("an address").into();
    [v4(1), v4(2), v4(3), v4(4), v6("fd00::"), v6("fd00::1"), v6("::ffff:10.0.0.1")]
}

fn port(choices: &mut Choices<'_>) -> Port {
    let (name, protocol, number) = choices.pick(&[
        ("http", Protocol::Tcp, 80),
        ("http", Protocol::Udp, 80),
        ("dns", Protocol::Udp, 53),
        ("", Protocol::Tcp, 80),
        ("", Protocol::Sctp, 9),
    ]);
    Port { name: name.into(), protocol, number: Some(number) }
}

fn ports(choices: &mut Choices<'_>) -> Vec<Port> {
    (0..choices.below(4)).map(|_| port(choices)).collect()
}

fn some_addresses(choices: &mut Choices<'_>, most: usize) -> Vec<IpAddr> {
    (0..choices.below(most + 1)).map(|_| choices.pick(&addresses())).collect()
}

pub(super) fn key(choices: &mut Choices<'_>, kind: Kind) -> ObjectKey {
    let ns = choices.pick(&NAMESPACES);
    match kind {
        Kind::Namespace => ObjectKey::new("", ns),
        Kind::Service => ObjectKey::new(ns, choices.pick(&SERVICES)),
        Kind::EndpointSlice => ObjectKey::new(ns, choices.pick(&SLICES)),
        Kind::Pod => ObjectKey::new(ns, choices.pick(&PODS)),
    }
}

pub(super) fn object(choices: &mut Choices<'_>, kind: Kind) -> Object {
    let key = key(choices, kind);
    match kind {
        Kind::Namespace => Object::Namespace(key),
        Kind::Service => {
            let kind = match choices.below(4) {
                0 => ServiceKind::Headless,
                1 => ServiceKind::ExternalName(choices.pick(&TARGETS).into()),
                _ => ServiceKind::ClusterIp(some_addresses(choices, 3)),
            };
            Object::Service(Service { key, kind, ports: ports(choices) })
        }
        Kind::EndpointSlice => {
            let service = choices.pick(&SERVICES).into();
            let mut ports = ports(choices);
            if choices.below(8) == 7 {
                ports.push(Port { name: "all".into(), protocol: Protocol::Tcp, number: None });
            }
            let endpoints = (0..choices.below(4)).map(|_| endpoint(choices)).collect();
            Object::EndpointSlice(EndpointSlice { key, service, endpoints, ports })
        }
        Kind::Pod => {
            let addresses = some_addresses(choices, 3);
            let labels = if choices.flag() { vec![("app".into(), "x".into())] } else { Vec::new() };
            let host_network = choices.below(8) == 0;
            Object::Pod(Pod { key, addresses, labels, host_network, is_terminating: false })
        }
    }
}

fn endpoint(choices: &mut Choices<'_>) -> Endpoint {
    let mut addresses = vec![choices.pick(&addresses())];
    addresses.extend(some_addresses(choices, 1));
    let mut text = |these: &[&str]| choices.maybe(these).map(Into::into);
    Endpoint {
        addresses: addresses.into(),
        hostname: text(&HOSTNAMES),
        pod: text(&POD_NAMES),
        zone: text(&TOPOLOGY_ZONES),
    }
}

/// Returns a view.
pub fn view(choices: &mut Choices<'_>) -> View {
    let bits = choices.byte();
    View {
        pods: choices.pick(&[PodMode::Disabled, PodMode::Insecure, PodMode::Verified]),
        namespaces: choices.maybe(&NAMESPACES).map(|ns| vec![ns.as_bytes().into()]),
        filtered_namespaces: bits & 1 != 0,
        endpoint_pod_names: bits & 2 != 0,
        // On by default.
        endpoints: bits & 0x14 != 0x14,
        ignore_empty_service: bits & 8 != 0,
        // A Corefile may not have it together with `noendpoints`.
        zonal: bits & 0x34 == 0x20,
    }
}

/// Creates an index from events.
pub(super) fn new_index(keep: EndpointFields, events: impl IntoIterator<Item = Event>) -> IndexWriter {
    let (_, mut writer) = Index::new(&Options { kinds: Kind::ALL.to_vec(), endpoint_fields: keep });
    for event in events {
        writer.apply(event, NOW);
    }
    writer
}

//--- Fixed clusters

/// Returns a cluster with a Service of each kind.
pub fn sample() -> Arc<Index> {
    let endpoint = |last, hostname: Option<&str>| Endpoint {
        addresses: vec![v4(last)].into(),
        hostname: hostname.map(Into::into),
        pod: Some("p0".into()),
        zone: Some("z".into()),
    };
    let http = Port { name: "http".into(), protocol: Protocol::Tcp, number: Some(80) };
    let service =
        |name: &str, kind| Object::Service(Service { key: ObjectKey::new("a", name), kind, ports: vec![http.clone()] });
    let slice = |service: &str, endpoints| {
        let key = ObjectKey::new("a", format!("{service}-1"));
        Object::EndpointSlice(EndpointSlice { key, service: service.into(), endpoints, ports: vec![http.clone()] })
    };
    let many = (1..=200).map(|last| endpoint(last, None)).collect();
    let objects = vec![
        Object::Namespace(ObjectKey::new("", "a")),
        service("web", ServiceKind::ClusterIp(vec![v4(9), addresses()[5]])),
        service("x", ServiceKind::Headless),
        service("many", ServiceKind::Headless),
        service("out", ServiceKind::ExternalName("example.org".into())),
        service("in", ServiceKind::ExternalName("web.a.svc.cluster.local".into())),
        service("loop", ServiceKind::ExternalName("loop.a.svc.cluster.local".into())),
        slice("web", vec![endpoint(1, None)]),
        slice("x", vec![endpoint(2, Some("h")), endpoint(3, None)]),
        slice("many", many),
        Object::Pod(Pod {
            key: ObjectKey::new("a", "p0"),
            addresses: vec![v4(1)],
            labels: Vec::new(),
            host_network: false,
            is_terminating: false,
        }),
    ];
    indexed(objects)
}

/// Returns a headless Service `many.a` with `count` endpoints, every third one with a host name.
pub fn headless(count: u16) -> Arc<Index> {
    let endpoints = (0..count).map(|at| Endpoint {
        addresses: vec![IpAddr::from([10, 1, (at >> 8) as u8, at as u8])].into(),
        hostname: (at % 3 == 0).then(|| format!("many-{at}").into()),
        pod: None,
        zone: None,
    });
    let key = ObjectKey::new("a", "many");
    let ports = vec![Port { name: "http".into(), protocol: Protocol::Tcp, number: Some(80) }];
    let service = Service { key: key.clone(), kind: ServiceKind::Headless, ports: ports.clone() };
    let slice = EndpointSlice { key, service: "many".into(), endpoints: endpoints.collect(), ports };
    indexed(vec![Object::Namespace(ObjectKey::new("", "a")), Object::Service(service), Object::EndpointSlice(slice)])
}

fn indexed(objects: Vec<Object>) -> Arc<Index> {
    let all = |event: fn(Kind) -> Event| Kind::ALL.into_iter().map(event);
    let events = all(Event::Begin).chain(objects.into_iter().map(Event::Upsert)).chain(all(Event::End));
    new_index(EndpointFields { pods: true, zones: true }, events).index().clone()
}
