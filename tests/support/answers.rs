//! A server over a small cluster, every relevant query, and properties of its answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use clusterdns::chain::{Answer, Block, Chain, Client, Router, State, Transport};
use clusterdns::cluster::address::Dashed;
use clusterdns::cluster::{Index, View};
use clusterdns::plugins::kubernetes::{Answers, Kubernetes};
use clusterdns::wire::{MAX_MESSAGE, NameBuf, Rcode, Type};

use super::cluster::{HOSTNAMES, NAMESPACES, POD_NAMES, SERVICES, addresses, v4};
use super::decoded::{self, DecodedRecord};

/// The zones of the stanza.
const ZONES: [&str; 3] = ["cluster.local", "in-addr.arpa", "ip6.arpa"];

/// A server with one stanza.
pub struct Subject {
    router: Arc<Router>,
    pub(super) view: View,
}

impl Subject {
    /// Creates a server that answers from an index.
    pub fn new(index: &Arc<Index>, view: View) -> Subject {
        Subject::with_classes(index, view, false)
    }

    /// Creates a server that may handle classes other than IN.
    pub fn with_classes(index: &Arc<Index>, view: View, other_classes: bool) -> Subject {
        let zones: Vec<NameBuf> = ZONES.iter().map(|zone| n(zone)).collect();
        let answers = Answers { zones: zones.clone(), view: view.clone(), ttl: 5, fallthrough: Default::default() };
        let plugin = Kubernetes::new(answers, index.clone(), vec![v4(1), v4(9)]);
        let block = Block { zones, chain: Chain::new(vec![Arc::new(plugin)]) };
        Subject { router: Arc::new(Router::new(vec![block], other_classes)), view }
    }

    /// Answers a packet and returns the length of the response; 0 without a response.
    pub fn answer(&self, packet: &[u8], transport: Transport, state: &mut State, out: &mut [u8]) -> usize {
        static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);
        let client = Client {
            remote: SocketAddr::from(([10, 0, 0, 1], 53_000)),
            local: SocketAddr::from(([10, 0, 0, 9], 53)),
            transport,
        };
        match self.router.answer(packet, client, *NOW, state, out) {
            Answer::Send(len) => len,
            Answer::Drop => 0,
            Answer::Pending(_) => panic!("no plugin of this server waits"),
        }
    }
}

/// Returns a name.
pub fn n(text: &str) -> NameBuf {
    NameBuf::from_text(text).expect("a name")
}

/// Returns a query packet, with an OPT if a size is given.
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

/// Every name that a small cluster may have, in every form, and some that none has; parents before children.
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

/// Returns the reverse name of an address.
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits: Vec<char> =
                address.octets().iter().flat_map(|byte| format!("{byte:02x}").chars().collect::<Vec<_>>()).collect();
            digits.into_iter().rev().map(|digit| format!("{digit}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// A response: the code and the sorted records, without the serial of an SOA.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    rcode: u16,
    authoritative: bool,
    records: Vec<DecodedRecord>,
}

impl Response {
    fn new(bytes: &[u8]) -> Response {
        let message = decoded::decode(bytes);
        let mut records = decoded::records(&message);
        for record in &mut records {
            if record.rtype == Type::SOA.0 {
                let at = record.data.len() - 20;
                record.data[at..at + 4].fill(0);
            }
        }
        records.sort();
        let metadata = &message.metadata;
        Response { rcode: metadata.response_code.into(), authoritative: metadata.authoritative, records }
    }

    fn of(&self, section: usize, rtype: Type) -> impl Iterator<Item = &DecodedRecord> {
        self.records.iter().filter(move |record| record.section == section && record.rtype == rtype.0)
    }

    fn exists(&self) -> bool {
        self.rcode != Rcode::NXDOMAIN.0
    }
}

/// Every name with every type, and the query packet.
static QUERIES: LazyLock<Vec<(NameBuf, Type, Vec<u8>)>> = LazyLock::new(|| {
    let each = |name: &NameBuf| TYPES.map(|qtype| (name.clone(), qtype, packet(name, qtype, None)));
    NAMES.iter().flat_map(each).collect()
});

/// Compares all answers of two servers.
pub(super) fn check_same_answers(updated: &Subject, fresh: &Subject) {
    let mut state = State::default();
    let mut buffers = [vec![0; MAX_MESSAGE], vec![0; MAX_MESSAGE]];
    for (name, qtype, query) in QUERIES.iter() {
        let [updated_out, fresh_out] = &mut buffers;
        let updated_len = updated.answer(query, Transport::Tcp, &mut state, updated_out);
        let fresh_len = fresh.answer(query, Transport::Tcp, &mut state, fresh_out);
        let (updated_out, fresh_out) = (&updated_out[..updated_len], &fresh_out[..fresh_len]);
        if updated_out != fresh_out {
            assert_eq!(
                Response::new(updated_out),
                Response::new(fresh_out),
                "updated and fresh index differ: {name} {qtype} {:?}",
                updated.view
            );
        }
    }
}

/// Checks that all answers of a server are consistent.
pub(super) fn check_consistency(server: &Subject) {
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let mut responses: BTreeMap<(&[u8], Type), Response> = BTreeMap::new();
    for (name, qtype, query) in QUERIES.iter() {
        let len = server.answer(query, Transport::Tcp, &mut state, &mut out);
        let answer = Response::new(&out[..len]);
        check_alone(name, *qtype, &answer);
        responses.insert((name.as_wire(), *qtype), answer);
    }
    for name in NAMES.iter() {
        check_types_agree(name, &responses);
        check_parents_exist(name, &responses, &server.view);
    }
    check_targets(&responses, server);
}

/// Checks a single answer.
fn check_alone(name: &NameBuf, qtype: Type, response: &Response) {
    assert!(response.authoritative && matches!(response.rcode, 0 | 3), "{name} {qtype} {response:?}");
    // RFC 2181 5: a record set contains a record once.
    let again = response.records.windows(2).find(|two| two[0] == two[1]);
    assert!(again.is_none(), "{name} {qtype} has a record twice: {again:?}");
    let answers = response.records.iter().filter(|record| record.section == 0).count();
    let denies = response.of(1, Type::SOA).count() == 1;
    assert!(denies || answers > 0, "{name} {qtype} has neither answers nor an SOA: {response:?}");
}

/// Checks that the existence of a name does not depend on the type (RFC 8020).
fn check_types_agree(name: &NameBuf, responses: &BTreeMap<(&[u8], Type), Response>) {
    let of = |qtype| &responses[&(name.as_wire(), qtype)];
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

/// Checks that the parents of a name that exists do exist (RFC 8020).
fn check_parents_exist(name: &NameBuf, responses: &BTreeMap<(&[u8], Type), Response>, view: &View) {
    if !responses[&(name.as_wire(), Type::TXT)].exists() {
        return;
    }
    // Zonal names exist below a headless Service without endpoints, as in CoreDNS.
    if view.zonal && name.as_name().labels().any(|label| label == b"_zone") {
        return;
    }
    let mut parent = name.as_name().parent();
    while let Some(above) = parent {
        if let Some(response) = responses.get(&(above.as_wire(), Type::TXT)) {
            assert!(response.exists(), "{name} exists but {above} does not");
        }
        parent = above.parent();
    }
}

/// Checks that targets of SRV and PTR records have the right addresses.
fn check_targets(responses: &BTreeMap<(&[u8], Type), Response>, server: &Subject) {
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let mut ask = |target: &[u8], qtype: Type| {
        let target = clusterdns::wire::Name::from_wire(target).expect("a name").to_owned();
        let len = server.answer(&packet(&target, qtype, None), Transport::Tcp, &mut state, &mut out);
        Response::new(&out[..len])
    };
    for ((name, _), response) in responses {
        for srv in response.of(0, Type::SRV) {
            let target = &srv.data[6..];
            for qtype in [Type::A, Type::AAAA] {
                let alone: BTreeSet<Vec<u8>> =
                    ask(target, qtype).of(0, qtype).map(|record| record.data.clone()).collect();
                for extra in response.of(2, qtype).filter(|record| record.owner == target) {
                    assert!(
                        alone.contains(&extra.data),
                        "an SRV target of {name:?} has an address that its name does not have: {extra:?} {alone:?}"
                    );
                }
            }
            let extras = response.records.iter().any(|record| record.section == 2 && record.owner == target);
            assert!(extras, "an SRV target without addresses: {srv:?}");
        }
    }
    for address in addresses() {
        let name = n(&reverse_name(address));
        let Some(response) = responses.get(&(name.as_wire(), Type::PTR)) else { continue };
        for pointer in response.of(0, Type::PTR) {
            let back = ask(&pointer.data, Type::A).records.into_iter().chain(ask(&pointer.data, Type::AAAA).records);
            let addresses: Vec<Vec<u8>> = back.filter(|record| record.section == 0).map(|record| record.data).collect();
            let bytes = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            // A slice without its Service or namespace has a reverse name only, as in CoreDNS.
            assert!(
                addresses.is_empty() || addresses.contains(&bytes),
                "{address} points to {pointer:?}, which has {addresses:?}"
            );
        }
    }
}
