//! Objects far larger than a cluster has: their answers end where no message could hold more. Whatever takes more than
//! a step for each part of them would be noticed here by how long it takes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::{Answers, Kubernetes};
use crate::chain::Plugin;
use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{Endpoint, EndpointSlice, Key, Kind, Object, Port, Protocol, Service, ServiceKind};
use crate::cluster::{Event, Index, Options, View};
use crate::plugins::testing::{client, n, packet, send};
use crate::wire::reply::MAX_RECORDS;
use crate::wire::{Rdata, Record, Reply, Section, Type};

/// The server's own address, which is an endpoint's too.
const OWN: [u8; 4] = [10, 0, 0, 1];

/// How many of a kind of thing an object has.
const MANY: u16 = 20_000;

/// [`OWN`] and those that follow.
fn address(number: u16) -> IpAddr {
    IpAddr::from((u32::from_be_bytes(OWN) + u32::from(number)).to_be_bytes())
}

fn port(number: u16) -> Port {
    Port { name: format!("p{number}").into(), protocol: Protocol::Tcp, number: Some(number) }
}

/// What a stanza for `cluster.local` says where these are all that there is.
fn ask(objects: Vec<Object>, name: &str, qtype: Type) -> Reply {
    let (index, mut writer) =
        Index::new(&Options { kinds: Kind::ALL.to_vec(), endpoint_fields: EndpointFields::default() });
    let all = |event: fn(Kind) -> Event| Kind::ALL.into_iter().map(event);
    let objects = [Object::Namespace(Key::new("", "a"))].into_iter().chain(objects);
    for event in all(Event::Begin).chain(objects.map(Event::Upsert)).chain(all(Event::End)) {
        writer.apply(event, 1);
    }
    let zones = vec![n("cluster.local.")];
    let answers = Answers { zones, view: View::default(), ttl: 5, fallthrough: Default::default() };
    let plugin: Arc<dyn Plugin> = Arc::new(Kubernetes::new(answers, index, vec![IpAddr::from(OWN)]));
    send(vec![plugin], &packet(name, qtype, None), client("10.0.0.2:4000"), Instant::now()).reply
}

/// A headless Service `web` with an endpoint for each address.
fn headless(
    ports: Vec<Port>, hostname: impl Fn(IpAddr) -> Option<Box<str>>, addresses: impl Iterator<Item = IpAddr>,
) -> Vec<Object> {
    let service = Service { key: Key::new("a", "web"), kind: ServiceKind::Headless, ports: ports.clone() };
    let endpoint =
        |address| Endpoint { addresses: vec![address].into(), hostname: hostname(address), pod: None, zone: None };
    let endpoints = addresses.map(endpoint).collect();
    let slice = EndpointSlice { key: Key::new("a", "web-1"), service: "web".into(), endpoints, ports };
    vec![Object::Service(service), Object::EndpointSlice(slice)]
}

/// As many records as a message may have, of which so many are answers.
fn check_full(reply: &Reply, answers: usize) {
    assert!(reply.is_full());
    assert_eq!((reply.records().len(), reply.section(Section::Answer).count()), (MAX_RECORDS, answers));
}

#[test]
fn the_ports_of_a_service_fill_a_reply() {
    let ports = (1..=MANY).map(port).collect();
    let service = Service { key: Key::new("a", "web"), kind: ServiceKind::ClusterIp(vec![address(0)]), ports };
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
fn an_address_that_repeats_takes_no_room_from_others() {
    let endpoints = std::iter::repeat_n(address(0), 30_000).chain([address(1)]);
    let reply = ask(headless(vec![port(80)], |_| None, endpoints), "cluster.local.", Type::NS);
    assert!(!reply.truncated);
    assert_eq!(reply.records().len(), 4);
}

/// The ports of the SRV records of an answer, in their order.
fn ports(reply: &Reply) -> Vec<u16> {
    let port = |record: &Record| match record.rdata {
        Rdata::Srv { port, .. } => Some(port),
        _ => None,
    };
    reply.section(Section::Answer).filter_map(port).collect()
}

#[test]
fn ports_that_repeat_make_one_record_each() {
    // Every number twice in a row, then all of them again many times over.
    let twice = (1..=2_000).flat_map(|number| [port(number), port(number)]);
    let again = (0..60).flat_map(|_| (1..=2_000).rev().map(port));
    let all: Vec<Port> = twice.chain(again).collect();
    let want: Vec<u16> = (1..=2_000).collect();
    let service =
        Service { key: Key::new("a", "web"), kind: ServiceKind::ClusterIp(vec![address(0)]), ports: all.clone() };
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
    // The addresses of one host name stand in two slices in turn.
    let mut cluster =
        headless((1..=2_000).map(port).collect(), |_| Some("h".into()), (0..MANY).step_by(2).map(address));
    let other = headless((1_000..=3_000).map(port).collect(), |_| Some("h".into()), (1..MANY).step_by(2).map(address));
    cluster.extend(other.into_iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => {
            Some(Object::EndpointSlice(EndpointSlice { key: Key::new("a", "web-2"), ..slice }))
        }
        _ => None,
    }));
    let reply = ask(cluster, "web.a.svc.cluster.local.", Type::SRV);
    assert_eq!(ports(&reply), (1..=3_000).collect::<Vec<u16>>());
    check_full(&reply, 3_000);
}
