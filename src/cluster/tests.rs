//! Examples of look-ups in the index; `tests/properties.rs` has the general rule.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::ReverseName;
use super::entry::EndpointFields;
use super::index::{Changes, Options, service_key};
use super::model::{Endpoint, EndpointSlice, Kind, Object, ObjectKey, Port, Protocol, Service, ServiceKind};
use super::*;
use crate::wire::{Class, NameBuf, Question, Type};

struct TestIndex {
    index: Arc<Index>,
    writer: IndexWriter,
    now: u32,
}

fn test_index() -> TestIndex {
    let kinds = vec![Kind::Namespace, Kind::Service, Kind::EndpointSlice];
    let (index, writer) = Index::new(&Options { kinds, endpoint_fields: EndpointFields { pods: true, zones: true } });
    let mut test_index = TestIndex { index, writer, now: 100 };
    test_index.apply(Event::Upsert(Object::Namespace(ObjectKey::new("", "a"))));
    test_index
}

impl TestIndex {
    fn apply(&mut self, event: Event) -> Changes {
        self.now += 1;
        self.writer.apply(event, self.now)
    }

    /// Describes what a name below cluster.local resolves to.
    fn lookup(&self, name: &str, view: &View) -> String {
        let name = NameBuf::from_text(&format!("{name}.cluster.local.")).expect("a name");
        let question = Question::new(name.as_name(), Type::A, Class::IN);
        let name = ClusterName::parse(&question, 2);
        match self.index.lookup(&name, view) {
            Lookup::Missing(reason) => format!("missing: {}", reason.text()),
            Lookup::Endpoints(found) => {
                let mut rows = Vec::new();
                found.for_each_row(|row| rows.push(row.address().to_string()));
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
    Event::Upsert(Object::Service(Service { key: ObjectKey::new("a", name), kind, ports }))
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
    let key = ObjectKey::new("a", name);
    let endpoints = endpoints.iter().map(endpoint).collect();
    Event::Upsert(Object::EndpointSlice(EndpointSlice { key, service: service.into(), endpoints, ports }))
}

#[test]
fn endpoints_may_be_known_before_their_service() {
    let mut test_index = test_index();
    test_index.apply(slice("db-1", "db", &[("10.0.0.1", Some("db-0"))]));
    assert_eq!(test_index.lookup("db.a.svc", &View::default()), "missing: no such Service");
    // The reverse name does not depend on the Service (CoreDNS `serviceRecordForIP`).
    assert!(matches!(test_index.owners("10.0.0.1"), ReverseLookup::Endpoints(_)));
    test_index.apply(service("db", ServiceKind::Headless));
    assert_eq!(test_index.lookup("db.a.svc", &View::default()), "endpoints 10.0.0.1");
    assert_eq!(test_index.lookup("db-0.db.a.svc", &View::default()), "endpoints 10.0.0.1");
    assert_eq!(test_index.lookup("10-0-0-1.db.a.svc", &View::default()), "missing: no ready endpoint has this name");
}

/// B10, I07; benches/index.rs and benches/cluster.py measure the cost.
#[test]
fn a_relist_removes_missing_objects_at_its_end_and_not_before() {
    let mut test_index = test_index();
    test_index.apply(cluster_ip("web", &["10.96.0.1"]));
    test_index.apply(cluster_ip("old", &["10.96.0.2"]));
    test_index.apply(Event::Begin(Kind::Service));
    assert!(test_index.apply(cluster_ip("web", &["10.96.0.1"])).is_empty());
    assert_eq!(test_index.lookup("old.a.svc", &View::default()), "cluster address");
    let changes = test_index.apply(Event::End(Kind::Service));
    assert_eq!(changes.services, [service_key("a", "old").expect("a key")]);
    assert_eq!(changes.addresses, [ip("10.96.0.2")]);
    assert_eq!(test_index.lookup("old.a.svc", &View::default()), "missing: no such Service");
    assert_eq!(test_index.lookup("web.a.svc", &View::default()), "cluster address");
}

#[test]
fn an_end_without_a_beginning_is_ignored() {
    let mut test_index = test_index();
    test_index.apply(cluster_ip("web", &["10.96.0.1"]));
    assert!(test_index.apply(Event::End(Kind::Service)).is_empty());
    assert_eq!(test_index.lookup("web.a.svc", &View::default()), "cluster address");
    assert!(!test_index.index.is_synced());
}

#[test]
fn the_index_is_synced_once_each_wanted_kind_has_been_listed() {
    let mut test_index = test_index();
    for kind in [Kind::Namespace, Kind::EndpointSlice, Kind::Service] {
        assert!(!test_index.index.is_synced());
        assert!(test_index.index.unsynced().any(|missing| missing == kind));
        test_index.apply(Event::Begin(kind));
        test_index.apply(Event::End(kind));
    }
    assert!(test_index.index.is_synced());
    test_index.apply(Event::Begin(Kind::Service));
    assert!(test_index.index.is_synced(), "a later list does not change this");
}

#[test]
fn an_address_is_removed_with_its_last_slice() {
    let mut test_index = test_index();
    test_index.apply(service("db", ServiceKind::Headless));
    test_index.apply(slice("one", "db", &[("10.0.0.1", None)]));
    test_index.apply(slice("two", "db", &[("10.0.0.1", None), ("10.0.0.2", None)]));
    test_index.apply(Event::Remove(Kind::EndpointSlice, ObjectKey::new("a", "two")));
    assert!(matches!(test_index.owners("10.0.0.1"), ReverseLookup::Endpoints(_)));
    assert_eq!(test_index.owners("10.0.0.2"), ReverseLookup::Missing(Reason::NoSuchAddress));
    test_index.apply(Event::Remove(Kind::EndpointSlice, ObjectKey::new("a", "one")));
    assert_eq!(test_index.owners("10.0.0.1"), ReverseLookup::Missing(Reason::NoSuchAddress));
    assert_eq!(test_index.lookup("db.a.svc", &View::default()), "missing: the headless Service has no ready endpoint");
}

#[test]
fn a_slice_may_move_to_another_service() {
    let mut test_index = test_index();
    test_index.apply(service("x", ServiceKind::Headless));
    test_index.apply(service("y", ServiceKind::Headless));
    test_index.apply(slice("s", "x", &[("10.0.0.1", None)]));
    test_index.apply(slice("s", "y", &[("10.0.0.1", None)]));
    assert_eq!(test_index.lookup("x.a.svc", &View::default()), "missing: the headless Service has no ready endpoint");
    assert_eq!(test_index.lookup("y.a.svc", &View::default()), "endpoints 10.0.0.1");
}

#[test]
fn the_serial_moves_with_records_only() {
    let mut test_index = test_index();
    assert_eq!(test_index.index.serial(), 0, "a Namespace changes no record");
    test_index.apply(cluster_ip("web", &["10.96.0.1"]));
    let first = test_index.index.serial();
    test_index.apply(cluster_ip("web", &["10.96.0.1"]));
    assert_eq!(test_index.index.serial(), first, "an equal object is no change");
    test_index.apply(cluster_ip("web", &["10.96.0.2"]));
    assert!(test_index.index.serial() > first);
}

#[test]
fn views_of_the_same_index_differ() {
    let mut test_index = test_index();
    test_index.apply(service("db", ServiceKind::Headless));
    test_index.apply(slice("one", "db", &[("10.0.0.1", None)]));
    test_index.apply(cluster_ip("web", &["10.96.0.1"]));
    let pod_names = View { endpoint_pod_names: true, ..View::default() };
    assert_eq!(test_index.lookup("pod-10-0-0-1.db.a.svc", &pod_names), "endpoints 10.0.0.1");
    assert_eq!(test_index.lookup("10-0-0-1.db.a.svc", &pod_names), "missing: no ready endpoint has this name");
    assert_eq!(test_index.lookup("10-0-0-1.db.a.svc", &View::default()), "endpoints 10.0.0.1");
    let without = View { endpoints: false, ..View::default() };
    assert_eq!(test_index.lookup("db.a.svc", &without), "missing: the headless Service has no ready endpoint");
    let strict = View { ignore_empty_service: true, ..View::default() };
    assert_eq!(test_index.lookup("web.a.svc", &strict), "missing: the Service has no ready endpoint");
    let zonal = View { zonal: true, ..View::default() };
    assert_eq!(test_index.lookup("eu.1.pin._zone.db.a.svc", &zonal), "endpoints 10.0.0.1");
    assert_eq!(test_index.lookup("us.pin._zone.db.a.svc", &zonal), "endpoints ");
    assert_eq!(test_index.lookup("us.prefer._zone.db.a.svc", &zonal), "endpoints 10.0.0.1");
    assert!(test_index.lookup("us.pin._zone.db.a.svc", &View::default()).starts_with("missing"));
    let hidden = View { namespaces: Some(vec![b"b"[..].into()]), ..View::default() };
    assert_eq!(test_index.lookup("web.a.svc", &hidden), "missing: no such namespace");
}

#[test]
fn a_protocol_above_a_port_is_an_empty_non_terminal() {
    let mut test_index = test_index();
    test_index.apply(cluster_ip("web", &["10.96.0.1"]));
    assert_eq!(test_index.lookup("_tcp.web.a.svc", &View::default()), "node");
    assert_eq!(test_index.lookup("_udp.web.a.svc", &View::default()), "missing: the Service has no such port");
    assert_eq!(test_index.lookup("_http._tcp.web.a.svc", &View::default()), "cluster address");
    assert_eq!(test_index.lookup("_http._udp.web.a.svc", &View::default()), "missing: the Service has no such port");
}

#[test]
fn a_cluster_address_has_one_name_whatever_the_order_of_events() {
    for names in [["b", "c"], ["c", "b"]] {
        let mut test_index = test_index();
        for name in names {
            test_index.apply(cluster_ip(name, &["10.96.0.9"]));
        }
        assert_eq!(test_index.owners("10.96.0.9"), ReverseLookup::Service(b"\x01b\x01a"[..].into()));
    }
}

#[test]
fn very_many_cluster_addresses_are_added_and_removed() {
    let mut test_index = test_index();
    let address = |number: u32| IpAddr::from((0x0a00_0000 + number).to_be_bytes());
    let mut apply = |numbers: std::ops::Range<u32>| {
        let twice = numbers.clone().chain(numbers).map(address).collect();
        test_index.apply(service("web", ServiceKind::ClusterIp(twice))).addresses.len()
    };
    // A comparison of each with each would take minutes.
    assert_eq!(apply(0..100_000), 100_000);
    assert_eq!(apply(50_000..150_000), 100_000);
    let gone = test_index.apply(Event::Remove(Kind::Service, ObjectKey::new("a", "web")));
    assert_eq!(gone.addresses.len(), 100_000);
}
