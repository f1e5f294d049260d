//! The index by example; `tests/properties.rs` has the general rule.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::ReverseName;
use super::entry::Keep;
use super::index::{Changes, Options, service_key};
use super::model::{Endpoint, EndpointSlice, Key, Kind, Object, Port, Protocol, Service, ServiceKind};
use super::*;
use crate::wire::{Class, NameBuf, Question, Type};

struct Bench {
    index: Arc<Index>,
    writer: IndexWriter,
    now: u32,
}

fn bench() -> Bench {
    let kinds = vec![Kind::Namespace, Kind::Service, Kind::EndpointSlice];
    let (index, writer) = Index::new(&Options { kinds, keep: Keep { pods: true, zones: true } });
    let mut bench = Bench { index, writer, now: 100 };
    bench.apply(Event::Upsert(Object::Namespace(Key::new("", "a"))));
    bench
}

impl Bench {
    fn apply(&mut self, event: Event) -> Changes {
        self.now += 1;
        self.writer.apply(event, self.now)
    }

    /// What a name below cluster.local stands for, in a word or two.
    fn look(&self, name: &str, view: &View) -> String {
        let name = NameBuf::from_text(&format!("{name}.cluster.local.")).expect("a name");
        let question = Question::new(name.as_name(), Type::A, Class::IN);
        let name = ClusterName::parse(&question, 2);
        match self.index.lookup(&name, view) {
            Lookup::Missing(reason) => format!("missing: {}", reason.text()),
            Lookup::Endpoints(found) => {
                let mut rows = Vec::new();
                found.rows(|row| rows.push(row.address().to_string()));
                format!("endpoints {}", rows.join(" "))
            }
            Lookup::ClusterIp(_) => "cluster address".to_owned(),
            Lookup::Node => "node".to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn owners(&self, address: &str) -> ReverseLookup {
        self.index.lookup_reverse(ReverseName::Address(ip(address)), &View::default())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service(name: &str, kind: ServiceKind) -> Event {
    let ports = vec![Port { name: "http".into(), protocol: Protocol::Tcp, number: Some(80) }];
    Event::Upsert(Object::Service(Service { key: Key::new("a", name), kind, ports }))
}

fn cluster_ip(name: &str, addresses: &[&str]) -> Event {
    service(name, ServiceKind::ClusterIp(addresses.iter().map(|text| ip(text)).collect()))
}

fn slice(name: &str, service: &str, endpoints: &[(&str, Option<&str>)]) -> Event {
    let endpoint = |&(address, hostname): &(&str, Option<&str>)| Endpoint {
        addresses: vec![ip(address)].into(),
        hostname: hostname.map(Into::into),
        pod: Some(format!("pod-{address}").replace('.', "-").into()),
        zone: Some("eu.1".into()),
    };
    let ports = vec![Port { name: "http".into(), protocol: Protocol::Tcp, number: Some(8080) }];
    let (key, endpoints) = (Key::new("a", name), endpoints.iter().map(endpoint).collect());
    Event::Upsert(Object::EndpointSlice(EndpointSlice { key, service: service.into(), endpoints, ports }))
}

#[test]
fn endpoints_before_their_service_are_kept() {
    let mut bench = bench();
    bench.apply(slice("db-1", "db", &[("10.0.0.1", Some("db-0"))]));
    assert_eq!(bench.look("db.a.svc", &View::default()), "missing: no such Service");
    // The reverse name does not ask for the Service (CoreDNS `serviceRecordForIP`).
    assert!(matches!(bench.owners("10.0.0.1"), ReverseLookup::Endpoints(_)));
    bench.apply(service("db", ServiceKind::Headless));
    assert_eq!(bench.look("db.a.svc", &View::default()), "endpoints 10.0.0.1");
    assert_eq!(bench.look("db-0.db.a.svc", &View::default()), "endpoints 10.0.0.1");
    assert_eq!(bench.look("10-0-0-1.db.a.svc", &View::default()), "missing: no ready endpoint has this name");
}

/// B10, I07; benches/index.rs and benches/cluster.py measure what it takes.
#[test]
fn a_relist_sweeps_what_it_did_not_name_and_nothing_before_its_end() {
    let mut bench = bench();
    bench.apply(cluster_ip("web", &["10.96.0.1"]));
    bench.apply(cluster_ip("old", &["10.96.0.2"]));
    bench.apply(Event::Begin(Kind::Service));
    assert!(bench.apply(cluster_ip("web", &["10.96.0.1"])).is_empty());
    assert_eq!(bench.look("old.a.svc", &View::default()), "cluster address");
    let changes = bench.apply(Event::End(Kind::Service));
    assert_eq!(changes.services, [service_key("a", "old").expect("a key")]);
    assert_eq!(changes.addresses, [ip("10.96.0.2")]);
    assert_eq!(bench.look("old.a.svc", &View::default()), "missing: no such Service");
    assert_eq!(bench.look("web.a.svc", &View::default()), "cluster address");
}

#[test]
fn an_end_without_a_beginning_is_no_list() {
    let mut bench = bench();
    bench.apply(cluster_ip("web", &["10.96.0.1"]));
    assert!(bench.apply(Event::End(Kind::Service)).is_empty());
    assert_eq!(bench.look("web.a.svc", &View::default()), "cluster address");
    assert!(!bench.index.synced());
}

#[test]
fn it_is_in_step_once_each_wanted_kind_has_been_listed() {
    let mut bench = bench();
    for kind in [Kind::Namespace, Kind::EndpointSlice, Kind::Service] {
        assert!(!bench.index.synced());
        assert!(bench.index.unsynced().any(|missing| missing == kind));
        bench.apply(Event::Begin(kind));
        bench.apply(Event::End(kind));
    }
    assert!(bench.index.synced());
    bench.apply(Event::Begin(Kind::Service));
    assert!(bench.index.synced(), "a later list takes nothing back");
}

#[test]
fn an_address_goes_when_its_last_slice_does() {
    let mut bench = bench();
    bench.apply(service("db", ServiceKind::Headless));
    bench.apply(slice("one", "db", &[("10.0.0.1", None)]));
    bench.apply(slice("two", "db", &[("10.0.0.1", None), ("10.0.0.2", None)]));
    bench.apply(Event::Remove(Kind::EndpointSlice, Key::new("a", "two")));
    assert!(matches!(bench.owners("10.0.0.1"), ReverseLookup::Endpoints(_)));
    assert_eq!(bench.owners("10.0.0.2"), ReverseLookup::Missing(Reason::NoSuchAddress));
    bench.apply(Event::Remove(Kind::EndpointSlice, Key::new("a", "one")));
    assert_eq!(bench.owners("10.0.0.1"), ReverseLookup::Missing(Reason::NoSuchAddress));
    assert_eq!(bench.look("db.a.svc", &View::default()), "missing: the headless Service has no ready endpoint");
}

#[test]
fn a_slice_may_move_to_another_service() {
    let mut bench = bench();
    bench.apply(service("x", ServiceKind::Headless));
    bench.apply(service("y", ServiceKind::Headless));
    bench.apply(slice("s", "x", &[("10.0.0.1", None)]));
    bench.apply(slice("s", "y", &[("10.0.0.1", None)]));
    assert_eq!(bench.look("x.a.svc", &View::default()), "missing: the headless Service has no ready endpoint");
    assert_eq!(bench.look("y.a.svc", &View::default()), "endpoints 10.0.0.1");
}

#[test]
fn the_serial_moves_with_records_only() {
    let mut bench = bench();
    assert_eq!(bench.index.serial(), 0, "a Namespace changes no record");
    bench.apply(cluster_ip("web", &["10.96.0.1"]));
    let first = bench.index.serial();
    bench.apply(cluster_ip("web", &["10.96.0.1"]));
    assert_eq!(bench.index.serial(), first, "the same again is no change");
    bench.apply(cluster_ip("web", &["10.96.0.2"]));
    assert!(bench.index.serial() > first);
}

#[test]
fn views_look_at_one_index_each_in_its_own_way() {
    let mut bench = bench();
    bench.apply(service("db", ServiceKind::Headless));
    bench.apply(slice("one", "db", &[("10.0.0.1", None)]));
    bench.apply(cluster_ip("web", &["10.96.0.1"]));
    let pod_names = View { endpoint_pod_names: true, ..View::default() };
    assert_eq!(bench.look("pod-10-0-0-1.db.a.svc", &pod_names), "endpoints 10.0.0.1");
    assert_eq!(bench.look("10-0-0-1.db.a.svc", &pod_names), "missing: no ready endpoint has this name");
    assert_eq!(bench.look("10-0-0-1.db.a.svc", &View::default()), "endpoints 10.0.0.1");
    let without = View { endpoints: false, ..View::default() };
    assert_eq!(bench.look("db.a.svc", &without), "missing: the headless Service has no ready endpoint");
    let strict = View { ignore_empty_service: true, ..View::default() };
    assert_eq!(bench.look("web.a.svc", &strict), "missing: the Service has no ready endpoint");
    let zonal = View { zonal: true, ..View::default() };
    assert_eq!(bench.look("eu.1.pin._zone.db.a.svc", &zonal), "endpoints 10.0.0.1");
    assert_eq!(bench.look("us.pin._zone.db.a.svc", &zonal), "endpoints ");
    assert_eq!(bench.look("us.prefer._zone.db.a.svc", &zonal), "endpoints 10.0.0.1");
    assert!(bench.look("us.pin._zone.db.a.svc", &View::default()).starts_with("missing"));
    let hidden = View { namespaces: Some(vec![b"b"[..].into()]), ..View::default() };
    assert_eq!(bench.look("web.a.svc", &hidden), "missing: no such namespace");
}

#[test]
fn a_protocol_above_a_port_is_an_empty_non_terminal() {
    let mut bench = bench();
    bench.apply(cluster_ip("web", &["10.96.0.1"]));
    assert_eq!(bench.look("_tcp.web.a.svc", &View::default()), "node");
    assert_eq!(bench.look("_udp.web.a.svc", &View::default()), "missing: the Service has no such port");
    assert_eq!(bench.look("_http._tcp.web.a.svc", &View::default()), "cluster address");
    assert_eq!(bench.look("_http._udp.web.a.svc", &View::default()), "missing: the Service has no such port");
}

#[test]
fn one_cluster_address_has_one_name_whatever_came_first() {
    for names in [["b", "c"], ["c", "b"]] {
        let mut bench = bench();
        for name in names {
            bench.apply(cluster_ip(name, &["10.96.0.9"]));
        }
        assert_eq!(bench.owners("10.96.0.9"), ReverseLookup::Service(b"\x01b\x01a"[..].into()));
    }
}

#[test]
fn very_many_cluster_addresses_come_and_go() {
    let mut bench = bench();
    let address = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    let mut apply = |numbers: std::ops::Range<u32>| {
        let twice = numbers.clone().chain(numbers).map(address).collect();
        bench.apply(service("web", ServiceKind::ClusterIp(twice))).addresses.len()
    };
    // So many that comparing each with each would take minutes.
    assert_eq!(apply(0..100_000), 100_000);
    assert_eq!(apply(50_000..150_000), 100_000);
    let gone = bench.apply(Event::Remove(Kind::Service, Key::new("a", "web")));
    assert_eq!(gone.addresses.len(), 100_000);
}
