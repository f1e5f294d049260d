//! Objects far larger than those of real clusters: answers end where no message could contain more. An implementation
//! that takes more than one step for each part is noticed here by its duration.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Answers, Kubernetes};
use crate::chain::Plugin;
use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{Endpoint, EndpointSlice, Kind, Object, ObjectKey, Port, Protocol, Service, ServiceKind};
use crate::cluster::{Event, Index, Options, View};
use crate::plugins::testing::{client, n, packet, send};
use crate::wire::reply::MAX_RECORDS;
use crate::wire::{Rdata, Record, Reply, Section, Type};

/// The address of the server, which is that of an endpoint, too.
const OWN: [u8; 4] = [10, 0, 0, 1];

/// The number of parts of an object.
const MANY: u16 = 20_000;

/// Returns [`OWN`] and the addresses after it.
fn address(number: u16) -> IpAddr {
    IpAddr::from((u32::from_be_bytes(OWN) + u32::from(number)).to_be_bytes())
}

fn port(number: u16) -> Port {
    Port { name: format!("p{number}").into(), protocol: Protocol::Tcp, number: Some(number) }
}

/// Returns the reply of a stanza for `cluster.local` with these objects only.
fn ask(objects: Vec<Object>, name: &str, qtype: Type) -> Reply {
    let (index, mut writer) =
        Index::new(&Options { kinds: Kind::ALL.to_vec(), endpoint_fields: EndpointFields::default() });
    let all = |event: fn(Kind) -> Event| Kind::ALL.into_iter().map(event);
    let objects = [Object::Namespace(ObjectKey::new("", "a"))].into_iter().chain(objects);
    for event in all(Event::Begin).chain(objects.map(Event::Upsert)).chain(all(Event::End)) {
        writer.apply(event, 1);
    }
    let zones = vec![n("cluster.local.")];
    let answers = Answers { zones, view: View::default(), ttl: 5, fallthrough: Default::default() };
    let plugin: Arc<dyn Plugin> = Arc::new(Kubernetes::new(answers, index, vec![IpAddr::from(OWN)]));
    send(vec![plugin], &packet(name, qtype, None), client("10.0.0.2:4000"), Instant::now()).reply
}

/// Returns a headless Service `web` with an endpoint for each address.
fn headless(
    ports: Vec<Port>, hostname: impl Fn(IpAddr) -> Option<Box<str>>, addresses: impl Iterator<Item = IpAddr>,
) -> Vec<Object> {
    let service = Service { key: ObjectKey::new("a", "web"), kind: ServiceKind::Headless, ports: ports.clone() };
    let endpoint =
        |address| Endpoint { addresses: vec![address].into(), hostname: hostname(address), pod: None, zone: None };
    let endpoints = addresses.map(endpoint).collect();
    let slice = EndpointSlice { key: ObjectKey::new("a", "web-1"), service: "web".into(), endpoints, ports };
    vec![Object::Service(service), Object::EndpointSlice(slice)]
}

/// Checks that a reply has the maximum number of records, of which `answers` are answers.
fn check_full(reply: &Reply, answers: usize) {
    assert!(reply.is_full());
    assert_eq!((reply.records().len(), reply.section(Section::Answer).count()), (MAX_RECORDS, answers));
}

#[test]
fn the_ports_of_a_service_fill_a_reply() {
    let ports = (1..=MANY).map(port).collect();
    let service = Service { key: ObjectKey::new("a", "web"), kind: ServiceKind::ClusterIp(vec![address(0)]), ports };
    let reply = ask(vec![Object::Service(service)], "web.a.svc.cluster.local.", Type::SRV);
    check_full(&reply, MAX_RECORDS);
}

#[test]
fn the_endpoints_of_one_host_name_fill_a_reply() {
    let ports = (1..=100).map(port).collect();
    let cluster = headless(ports, |_| Some("h".into()), (0..MANY).map(address));
    check_full(&ask(cluster, "web.a.svc.cluster.local.", Type::SRV), 100);
}

#[test]
fn the_endpoints_beside_this_server_fill_a_reply() {
    let cluster = |hostname: fn(IpAddr) -> _| headless(vec![port(80)], hostname, (0..MANY).map(address));
    check_full(&ask(cluster(|_| None), "cluster.local.", Type::NS), MAX_RECORDS / 2);
    check_full(&ask(cluster(|_| Some("h".into())), "cluster.local.", Type::NS), 1);
    check_full(&ask(cluster(|_| None), "ns.dns.cluster.local.", Type::A), MAX_RECORDS);
}

#[test]
fn a_repeated_address_does_not_displace_others() {
    let endpoints = std::iter::repeat_n(address(0), 30_000).chain([address(1)]);
    let reply = ask(headless(vec![port(80)], |_| None, endpoints), "cluster.local.", Type::NS);
    assert!(!reply.truncated);
    assert_eq!(reply.records().len(), 4);
}

/// Returns the ports of the SRV records of an answer, in their order.
fn ports(reply: &Reply) -> Vec<u16> {
    let port = |record: &Record| match record.rdata {
        Rdata::Srv { port, .. } => Some(port),
        _ => None,
    };
    reply.section(Section::Answer).filter_map(port).collect()
}

#[test]
fn repeated_ports_have_one_record_each() {
    // Every number twice in a row, then all of them again many times.
    let twice = (1..=2_000).flat_map(|number| [port(number), port(number)]);
    let again = (0..60).flat_map(|_| (1..=2_000).rev().map(port));
    let all: Vec<Port> = twice.chain(again).collect();
    let want: Vec<u16> = (1..=2_000).collect();
    let service =
        Service { key: ObjectKey::new("a", "web"), kind: ServiceKind::ClusterIp(vec![address(0)]), ports: all.clone() };
    let reply = ask(vec![Object::Service(service)], "web.a.svc.cluster.local.", Type::SRV);
    assert_eq!((ports(&reply), reply.records().len()), (want.clone(), 2_001));
    let reply = ask(headless(all, |_| None, [address(0)].into_iter()), "web.a.svc.cluster.local.", Type::SRV);
    assert_eq!((ports(&reply), reply.records().len()), (want, 2_001));
}

#[test]
fn one_port_of_many_is_found_once_for_all_endpoints() {
    let cluster = headless((1..=MANY).map(port).collect(), |_| None, (0..MANY).map(address));
    let last = format!("_p{MANY}._tcp.web.a.svc.cluster.local.");
    check_full(&ask(cluster.clone(), &last, Type::SRV), MAX_RECORDS / 2);
    assert_eq!(ask(cluster, "_q._tcp.web.a.svc.cluster.local.", Type::SRV).records().len(), 1, "an SOA");
}

#[test]
fn slices_of_one_endpoint_name_are_merged() {
    // The addresses of one host name alternate between two slices.
    let mut cluster =
        headless((1..=2_000).map(port).collect(), |_| Some("h".into()), (0..MANY).step_by(2).map(address));
    let other = headless((1_000..=3_000).map(port).collect(), |_| Some("h".into()), (1..MANY).step_by(2).map(address));
    cluster.extend(other.into_iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => {
            Some(Object::EndpointSlice(EndpointSlice { key: ObjectKey::new("a", "web-2"), ..slice }))
        }
        _ => None,
    }));
    let reply = ask(cluster, "web.a.svc.cluster.local.", Type::SRV);
    assert_eq!(ports(&reply), (1..=3_000).collect::<Vec<u16>>());
    check_full(&reply, 3_000);
}
