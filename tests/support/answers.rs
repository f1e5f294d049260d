//! A server over a small cluster, every question that one may ask it, and what its answers have in common.

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
use super::told::{self, Told};

/// The zones of the stanza.
const ZONES: [&str; 3] = ["cluster.local", "in-addr.arpa", "ip6.arpa"];
/// A server with one stanza, to be asked.
pub struct Subject {
    router: Arc<Router>,
    pub(super) view: View,
}

impl Subject {
    /// A server that answers from this index.
    pub fn new(index: &Arc<Index>, view: View) -> Subject {
        Subject::with_classes(index, view, false)
    }

    /// A server that may take other classes than IN.
    pub fn with_classes(index: &Arc<Index>, view: View, other_classes: bool) -> Subject {
        let zones: Vec<NameBuf> = ZONES.iter().map(|zone| n(zone)).collect();
        let answers = Answers { zones: zones.clone(), view: view.clone(), ttl: 5, fallthrough: Default::default() };
        let plugin = Kubernetes::new(answers, index.clone(), vec![v4(1), v4(9)]);
        let block = Block { zones, chain: Chain::new(vec![Arc::new(plugin)]) };
        Subject { router: Arc::new(Router::new(vec![block], other_classes)), view }
    }

    /// The answer to a packet; empty where there is none.
    pub fn answer(&self, packet: &[u8], transport: Transport, state: &mut State, out: &mut [u8]) -> usize {
        static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);
        let client = Client {
            remote: SocketAddr::from(([10, 0, 0, 1], 53_000)),
            local: SocketAddr::from(([10, 0, 0, 9], 53)),
            transport,
        };
        match self.router.answer(packet, client, *NOW, state, out) {
            Answer::Send(len) => len,
            Answer::Silent => 0,
            Answer::Pending(_) => panic!("nothing in this server waits"),
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
pub(super) fn check_same_answers(kept: &Subject, fresh: &Subject) {
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
pub(super) fn check_sense(server: &Subject) {
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
