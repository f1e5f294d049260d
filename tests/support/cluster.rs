//! Small clusters whose objects collide on purpose, their histories, and what every history must end in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use clusterdns::chain::{Answer, Block, Chains, Client, Plan, State, Transport};
use clusterdns::cluster::address::Dashed;
use clusterdns::cluster::entry::Keep;
use clusterdns::cluster::model::{
    Endpoint, EndpointSlice, Key, Kind, Object, Pod, Port, Protocol, Service, ServiceKind,
};
use clusterdns::cluster::{Event, Index, IndexWriter, Options, PodMode, View};
use clusterdns::plugins::kubernetes::{Answers, Kubernetes};
use clusterdns::wire::{MAX_MESSAGE, NameBuf, Rcode, Type};

use super::Choices;
use super::told::{self, Told};

/// The zones of the stanza.
const ZONES: [&str; 3] = ["cluster.local", "in-addr.arpa", "ip6.arpa"];
const NAMESPACES: [&str; 2] = ["a", "b"];
const SERVICES: [&str; 2] = ["x", "web"];
const SLICES: [&str; 3] = ["s0", "s1", "s2"];
const PODS: [&str; 2] = ["p0", "p1"];
/// One is another Service's name, and two are the names that other endpoints have for want of one.
const HOSTNAMES: [&str; 4] = ["h", "web", "10-0-0-1", "fd00--0"];
const POD_NAMES: [&str; 3] = ["p0", "h", "10-0-0-2"];
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
/// What an object is changed at; the same for all, so that serials seldom differ.
const NOW: u32 = 1_700_000_000;

fn v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

/// `fd00::` ends in a dash as a label, the last is an IPv4 address in disguise.
fn addresses() -> [IpAddr; 7] {
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

fn key(choices: &mut Choices<'_>, kind: Kind) -> Key {
    let ns = choices.pick(&NAMESPACES);
    match kind {
        Kind::Namespace => Key::new("", ns),
        Kind::Service => Key::new(ns, choices.pick(&SERVICES)),
        Kind::EndpointSlice => Key::new(ns, choices.pick(&SLICES)),
        Kind::Pod => Key::new(ns, choices.pick(&PODS)),
    }
}

fn object(choices: &mut Choices<'_>, kind: Kind) -> Object {
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
            Object::Pod(Pod { key, addresses, labels })
        }
    }
}

fn endpoint(choices: &mut Choices<'_>) -> Endpoint {
    let mut addresses = vec![choices.pick(&addresses())];
    addresses.extend(some_addresses(choices, 1));
    let mut text = |these: &[&str]| choices.maybe(these).map(Into::into);
    Endpoint { addresses, hostname: text(&HOSTNAMES), pod: text(&POD_NAMES), zone: text(&TOPOLOGY_ZONES) }
}

/// What a stanza shows.
pub fn view(choices: &mut Choices<'_>) -> View {
    let bits = choices.octet();
    View {
        pods: choices.pick(&[PodMode::Disabled, PodMode::Insecure, PodMode::Verified]),
        namespaces: choices.maybe(&NAMESPACES).map(|ns| vec![ns.as_bytes().into()]),
        filtered_namespaces: bits & 1 != 0,
        endpoint_pod_names: bits & 2 != 0,
        // Shown where nothing else is chosen.
        endpoints: bits & 0x14 != 0x14,
        ignore_empty_service: bits & 8 != 0,
        // The Corefile refuses it together with `noendpoints`.
        zonal: bits & 0x34 == 0x20,
    }
}

//--- Histories

/// How many octets a step of a history is made of.
pub const STEP: usize = 24;

/// A step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    /// One event.
    Event(Event),
    /// A full list of what there is at the time.
    Relist(Kind),
}

impl Step {
    /// The step that these octets stand for.
    pub fn new(octets: &[u8]) -> Step {
        let mut choices = Choices::new(octets);
        let act = choices.below(16);
        let kind = choices.pick(&[
            Kind::EndpointSlice,
            Kind::Service,
            Kind::Namespace,
            Kind::Pod,
            Kind::EndpointSlice,
            Kind::Service,
        ]);
        match act {
            0..=8 => Step::Event(Event::Upsert(object(&mut choices, kind))),
            9..=11 => Step::Event(Event::Remove(kind, key(&mut choices, kind))),
            12 => Step::Event(Event::Begin(kind)),
            13 => Step::Event(Event::End(kind)),
            _ => Step::Relist(kind),
        }
    }
}

/// What exists, kept in the most obvious way.
#[derive(Default)]
struct Model {
    objects: BTreeMap<(Kind, Key), Object>,
    /// What a list that is under way has named so far.
    named: BTreeMap<Kind, BTreeSet<Key>>,
}

impl Model {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Begin(kind) => drop(self.named.insert(*kind, BTreeSet::new())),
            Event::Upsert(object) => {
                let (kind, key) = (object.kind(), object.key().clone());
                if let Some(named) = self.named.get_mut(&kind) {
                    named.insert(key.clone());
                }
                self.objects.insert((kind, key), object.clone());
            }
            Event::Remove(kind, key) => drop(self.objects.remove(&(*kind, key.clone()))),
            Event::End(kind) => {
                if let Some(named) = self.named.remove(kind) {
                    self.objects.retain(|(have, key), _| have != kind || named.contains(key));
                }
            }
        }
    }

    /// One full list of a kind.
    fn list(&self, kind: Kind) -> Vec<Event> {
        let objects = self.objects.iter().filter(|((have, _), _)| *have == kind);
        let upserts = objects.map(|(_, object)| Event::Upsert(object.clone()));
        [Event::Begin(kind)].into_iter().chain(upserts).chain([Event::End(kind)]).collect()
    }
}

/// Full lists of everything.
fn full_lists(model: &Model) -> impl Iterator<Item = Event> {
    Kind::ALL.into_iter().flat_map(|kind| model.list(kind))
}

fn new_index(keep: Keep, events: impl IntoIterator<Item = Event>) -> IndexWriter {
    let (_, mut writer) = Index::new(&Options { kinds: Kind::ALL.to_vec(), keep });
    for event in events {
        writer.apply(event, NOW);
    }
    writer
}

/// However a state was reached, the answers are those of one full list of it; and nothing is left of what is gone.
/// `settings` choose the views and the order in which all is removed at the end.
pub fn check_history(steps: &[Step], settings: &[u8]) {
    let mut choices = Choices::new(settings);
    let keep = Keep { pods: !choices.flag(), zones: !choices.flag() };
    let mut model = Model::default();
    // Both are in step from the start, so that names are not refused for want of a list.
    let mut writer = new_index(keep, full_lists(&model));
    for step in steps {
        let events = match step {
            Step::Event(event) => vec![event.clone()],
            Step::Relist(kind) => model.list(*kind),
        };
        for event in events {
            model.apply(&event);
            writer.apply(event, NOW);
        }
    }
    let fresh = new_index(keep, full_lists(&model));
    let kept = Subject::new(writer.index(), view(&mut choices));
    let fresh_subject = Subject::new(fresh.index(), kept.view.clone());
    check_same_answers(&kept, &fresh_subject);
    // Reading every answer takes long, so that not each case does it.
    if choices.below(4) == 0 {
        check_sense(&fresh_subject);
    }
    check_removal(writer, model, choices);
    let mut all_at_once = fresh;
    for event in full_lists(&Model::default()) {
        all_at_once.apply(event, NOW);
    }
    assert!(all_at_once.index().is_empty(), "left after empty lists: {:?}", all_at_once.index());
}

/// Takes away one object after the other.
fn check_removal(mut writer: IndexWriter, model: Model, mut choices: Choices<'_>) {
    let mut keys: Vec<(Kind, Key)> = model.objects.into_keys().collect();
    while !keys.is_empty() {
        let (kind, key) = keys.remove(choices.below(keys.len().min(256)));
        writer.apply(Event::Remove(kind, key), NOW);
    }
    assert!(writer.index().is_empty(), "left after everything is removed: {:?}", writer.index());
}

//--- Answers

/// A server with one stanza, to be asked.
pub struct Subject {
    chains: Arc<Chains>,
    view: View,
}

impl Subject {
    /// A server that answers from this index.
    pub fn new(index: &Arc<Index>, view: View) -> Subject {
        Subject::with_classes(index, view, false)
    }

    /// A server that may take other classes than IN.
    pub fn with_classes(index: &Arc<Index>, view: View, other_classes: bool) -> Subject {
        let zones: Vec<NameBuf> = ZONES.iter().map(|zone| n(zone)).collect();
        let answers = Answers {
            zones: zones.clone(),
            multicluster: Vec::new(),
            view: view.clone(),
            ttl: 5,
            fallthrough: Default::default(),
        };
        let plugin = Kubernetes::new(answers, index.clone(), vec![v4(1), v4(9)]);
        let block = Block { zones, plan: Plan::new(vec![Arc::new(plugin)]) };
        Subject { chains: Arc::new(Chains::new(vec![block], other_classes)), view }
    }

    /// The answer to a packet; empty where there is none.
    pub fn answer(&self, packet: &[u8], transport: Transport, state: &mut State, out: &mut [u8]) -> usize {
        static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);
        let client = Client {
            remote: SocketAddr::from(([10, 0, 0, 1], 53_000)),
            local: SocketAddr::from(([10, 0, 0, 9], 53)),
            transport,
        };
        match self.chains.answer(packet, client, *NOW, state, out) {
            Answer::Send(len) => len,
            Answer::Silent => 0,
            Answer::Later(_) => panic!("nothing in this server waits"),
        }
    }
}

/// A name.
pub fn n(text: &str) -> NameBuf {
    NameBuf::from_text(text).expect("a name")
}

/// A query packet, with an OPT where a size is given.
pub fn packet(name: &NameBuf, qtype: Type, edns_size: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns_size.is_some())];
    packet.extend(name.as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend([0, 1]);
    if let Some(size) = edns_size {
        packet.extend([0, 0, 41]);
        packet.extend(size.to_be_bytes());
        packet.extend([0; 6]);
    }
    packet
}

const TYPES: [Type; 8] = [Type::A, Type::AAAA, Type::SRV, Type::PTR, Type::CNAME, Type::TXT, Type::NS, Type::SOA];

/// Every name that a small cluster may have, in every form, and some that none has; parents stand before children.
static NAMES: LazyLock<Vec<NameBuf>> = LazyLock::new(|| {
    let mut names: Vec<String> = ["", "svc.", "pod.", "dns.", "ns.dns.", "dns-version.", "c.svc.", "x.c.svc.", "nope."]
        .map(str::to_owned)
        .into();
    let dashed: Vec<String> =
        addresses().map(|address| String::from_utf8_lossy(Dashed::endpoint(address).as_label()).into_owned()).into();
    for ns in NAMESPACES {
        names.extend([format!("{ns}.svc."), format!("{ns}.pod."), format!("nope.{ns}.svc."), format!("x.{ns}.pod.")]);
        names.extend(dashed.iter().map(|label| format!("{label}.{ns}.pod.")));
        names.push(format!("l.10-0-0-1.{ns}.pod."));
        for svc in SERVICES {
            let service = format!("{svc}.{ns}.svc.");
            let endpoints = HOSTNAMES.iter().chain(&POD_NAMES).copied().chain(dashed.iter().map(String::as_str));
            let ports = [
                "_",
                "_tcp",
                "_udp",
                "_sctp",
                "_http._tcp",
                "_http._udp",
                "_dns._udp",
                "_all._tcp",
                "_._",
                "_._tcp",
                "_http._",
                "_zone",
                "pin._zone",
                "prefer._zone",
                "z.pin._zone",
                "z.prefer._zone",
                "z.eu.pin._zone",
                "q.pin._zone",
                "q.prefer._zone",
                "1.2.3.4",
            ];
            names.push(service.clone());
            names.extend(endpoints.chain(ports).map(|labels| format!("{labels}.{service}")));
        }
    }
    let reverse = addresses().map(reverse_name);
    let inner = reverse.iter().flat_map(|name| {
        let dots = name.match_indices('.').map(|(at, _)| &name[at + 1..]).collect::<Vec<_>>();
        dots.into_iter().step_by(3).filter(|rest| rest.ends_with("arpa") && rest.matches('.').count() > 1)
    });
    let forward = names.into_iter().map(|name| format!("{name}cluster.local"));
    let all = forward.chain(reverse.iter().map(String::as_str).chain(inner).map(str::to_owned));
    let all: BTreeSet<String> = all.chain(["9.0.0.10.in-addr.arpa".to_owned(), "in-addr.arpa".to_owned()]).collect();
    let mut all: Vec<NameBuf> = all.iter().map(|name| n(name)).collect();
    all.sort_by_key(|name| name.as_wire().len());
    all
});

/// The reverse name of an address.
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits: Vec<char> =
                address.octets().iter().flat_map(|octet| format!("{octet:02x}").chars().collect::<Vec<_>>()).collect();
            digits.into_iter().rev().map(|digit| format!("{digit}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// What was said of a name: the code and the records, sorted, with the serial of an SOA left out.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    rcode: u16,
    authoritative: bool,
    records: Vec<Told>,
}

impl Said {
    fn new(bytes: &[u8]) -> Said {
        let message = told::decode(bytes);
        let mut records = told::told(&message);
        for record in &mut records {
            if record.rtype == Type::SOA.0 {
                let at = record.data.len() - 20;
                record.data[at..at + 4].fill(0);
            }
        }
        records.sort();
        let metadata = &message.metadata;
        Said { rcode: metadata.response_code.into(), authoritative: metadata.authoritative, records }
    }

    fn of(&self, section: usize, rtype: Type) -> impl Iterator<Item = &Told> {
        self.records.iter().filter(move |record| record.section == section && record.rtype == rtype.0)
    }

    fn exists(&self) -> bool {
        self.rcode != Rcode::NXDOMAIN.0
    }
}

/// Every name with every type, and the packet that asks for them.
static QUERIES: LazyLock<Vec<(NameBuf, Type, Vec<u8>)>> = LazyLock::new(|| {
    let each = |name: &NameBuf| TYPES.map(|qtype| (name.clone(), qtype, packet(name, qtype, None)));
    NAMES.iter().flat_map(each).collect()
});

/// Compares all answers of two servers.
fn check_same_answers(kept: &Subject, fresh: &Subject) {
    let (mut state, mut buffers) = (State::default(), [vec![0; MAX_MESSAGE], vec![0; MAX_MESSAGE]]);
    for (name, qtype, query) in QUERIES.iter() {
        let [kept_out, fresh_out] = &mut buffers;
        let kept_len = kept.answer(query, Transport::Tcp, &mut state, kept_out);
        let fresh_len = fresh.answer(query, Transport::Tcp, &mut state, fresh_out);
        let (kept_out, fresh_out) = (&kept_out[..kept_len], &fresh_out[..fresh_len]);
        if kept_out != fresh_out {
            assert_eq!(
                Said::new(kept_out),
                Said::new(fresh_out),
                "kept and fresh differ: {name} {qtype} {:?}",
                kept.view
            );
        }
    }
}

/// Checks that all answers of a server make sense together.
fn check_sense(server: &Subject) {
    let (mut state, mut out) = (State::default(), vec![0; MAX_MESSAGE]);
    let mut said: BTreeMap<(&[u8], Type), Said> = BTreeMap::new();
    for (name, qtype, query) in QUERIES.iter() {
        let len = server.answer(query, Transport::Tcp, &mut state, &mut out);
        let answer = Said::new(&out[..len]);
        check_alone(name, *qtype, &answer);
        said.insert((name.as_wire(), *qtype), answer);
    }
    for name in NAMES.iter() {
        check_types_agree(name, &said);
        check_parents_exist(name, &said, &server.view);
    }
    check_targets(&said, server);
}

/// What holds for one answer.
fn check_alone(name: &NameBuf, qtype: Type, said: &Said) {
    assert!(said.authoritative && matches!(said.rcode, 0 | 3), "{name} {qtype} {said:?}");
    // RFC 2181 5: a record set holds a record once.
    let again = said.records.windows(2).find(|two| two[0] == two[1]);
    assert!(again.is_none(), "{name} {qtype} has a record twice: {again:?}");
    let answers = said.records.iter().filter(|record| record.section == 0).count();
    let denies = said.of(1, Type::SOA).count() == 1;
    assert!(denies || answers > 0, "{name} {qtype} says nothing: {said:?}");
}

/// RFC 8020: whether a name exists does not depend on the type.
fn check_types_agree(name: &NameBuf, said: &BTreeMap<(&[u8], Type), Said>) {
    let of = |qtype| &said[&(name.as_wire(), qtype)];
    // As CoreDNS: `dns-version` exists as TXT only. And a CNAME's rcode is its target's (RFC 6604).
    if name.as_name().labels().next() == Some(b"dns-version") || of(Type::CNAME).of(0, Type::CNAME).count() > 0 {
        return;
    }
    for qtype in TYPES {
        assert_eq!(
            of(qtype).exists(),
            of(Type::A).exists(),
            "{name} {qtype} and A disagree: {:?} {:?}",
            of(qtype),
            of(Type::A)
        );
    }
}

/// RFC 8020: what is above a name that exists, exists.
fn check_parents_exist(name: &NameBuf, said: &BTreeMap<(&[u8], Type), Said>, view: &View) {
    if !said[&(name.as_wire(), Type::TXT)].exists() {
        return;
    }
    // Zonal names exist below a headless Service without endpoints, as in CoreDNS.
    if view.zonal && name.as_name().labels().any(|label| label == b"_zone") {
        return;
    }
    let mut parent = name.as_name().parent();
    while let Some(above) = parent {
        if let Some(said) = said.get(&(above.as_wire(), Type::TXT)) {
            assert!(said.exists(), "{name} exists but {above} does not");
        }
        parent = above.parent();
    }
}

/// What an answer points to has the addresses that it should.
fn check_targets(said: &BTreeMap<(&[u8], Type), Said>, server: &Subject) {
    let (mut state, mut out) = (State::default(), vec![0; MAX_MESSAGE]);
    let mut ask = |target: &[u8], qtype: Type| {
        let target = clusterdns::wire::Name::from_wire(target).expect("a name").to_owned();
        let len = server.answer(&packet(&target, qtype, None), Transport::Tcp, &mut state, &mut out);
        Said::new(&out[..len])
    };
    for ((name, _), said) in said {
        for srv in said.of(0, Type::SRV) {
            let target = &srv.data[6..];
            for qtype in [Type::A, Type::AAAA] {
                let alone: BTreeSet<Vec<u8>> =
                    ask(target, qtype).of(0, qtype).map(|record| record.data.clone()).collect();
                for extra in said.of(2, qtype).filter(|record| record.owner == target) {
                    assert!(
                        alone.contains(&extra.data),
                        "an SRV target of {name:?} has another address than its name: {extra:?} {alone:?}"
                    );
                }
            }
            let extras = said.records.iter().any(|record| record.section == 2 && record.owner == target);
            assert!(extras, "an SRV target without addresses: {srv:?}");
        }
    }
    for address in addresses() {
        let name = n(&reverse_name(address));
        let Some(said) = said.get(&(name.as_wire(), Type::PTR)) else { continue };
        for pointer in said.of(0, Type::PTR) {
            let back = ask(&pointer.data, Type::A).records.into_iter().chain(ask(&pointer.data, Type::AAAA).records);
            let addresses: Vec<Vec<u8>> = back.filter(|record| record.section == 0).map(|record| record.data).collect();
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            // A slice may be there without its Service or its namespace, and then has a reverse name only, as in CoreDNS.
            assert!(
                addresses.is_empty() || addresses.contains(&octets),
                "{address} points to {pointer:?}, which has {addresses:?}"
            );
        }
    }
}

//--- Fixed clusters

/// A cluster with a Service of each sort.
pub fn sample() -> Arc<Index> {
    let endpoint = |last, hostname: Option<&str>| Endpoint {
        addresses: vec![v4(last)],
        hostname: hostname.map(Into::into),
        pod: Some("p0".into()),
        zone: Some("z".into()),
    };
    let http = Port { name: "http".into(), protocol: Protocol::Tcp, number: Some(80) };
    let service =
        |name: &str, kind| Object::Service(Service { key: Key::new("a", name), kind, ports: vec![http.clone()] });
    let slice = |service: &str, endpoints| {
        let key = Key::new("a", format!("{service}-1"));
        Object::EndpointSlice(EndpointSlice { key, service: service.into(), endpoints, ports: vec![http.clone()] })
    };
    let many = (1..=200).map(|last| endpoint(last, None)).collect();
    let objects = vec![
        Object::Namespace(Key::new("", "a")),
        service("web", ServiceKind::ClusterIp(vec![v4(9), addresses()[5]])),
        service("x", ServiceKind::Headless),
        service("many", ServiceKind::Headless),
        service("out", ServiceKind::ExternalName("example.org".into())),
        service("in", ServiceKind::ExternalName("web.a.svc.cluster.local".into())),
        service("loop", ServiceKind::ExternalName("loop.a.svc.cluster.local".into())),
        slice("web", vec![endpoint(1, None)]),
        slice("x", vec![endpoint(2, Some("h")), endpoint(3, None)]),
        slice("many", many),
        Object::Pod(Pod { key: Key::new("a", "p0"), addresses: vec![v4(1)], labels: Vec::new() }),
    ];
    indexed(objects)
}

/// A headless Service `many.a` with this many endpoints, every third with a host name.
pub fn headless(count: u16) -> Arc<Index> {
    let endpoints = (0..count).map(|at| Endpoint {
        addresses: vec![IpAddr::from([10, 1, (at >> 8) as u8, at as u8])],
        hostname: (at % 3 == 0).then(|| format!("many-{at}").into()),
        pod: None,
        zone: None,
    });
    let key = Key::new("a", "many");
    let ports = vec![Port { name: "http".into(), protocol: Protocol::Tcp, number: Some(80) }];
    let service = Service { key: key.clone(), kind: ServiceKind::Headless, ports: ports.clone() };
    let slice = EndpointSlice { key, service: "many".into(), endpoints: endpoints.collect(), ports };
    indexed(vec![Object::Namespace(Key::new("", "a")), Object::Service(service), Object::EndpointSlice(slice)])
}

fn indexed(objects: Vec<Object>) -> Arc<Index> {
    let mut model = Model::default();
    objects.into_iter().for_each(|object| model.apply(&Event::Upsert(object)));
    new_index(Keep { pods: true, zones: true }, full_lists(&model)).index().clone()
}
