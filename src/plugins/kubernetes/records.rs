//! What was found, as records.

use std::net::IpAddr;
use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::{Said, Stanza, Zone};
use crate::chain::State;
use crate::cluster::address::{Dashed, ReverseName, parse_dashed};
use crate::cluster::entry::{EndpointLabel, Row, Shape};
use crate::cluster::lookup::ServiceMatch;
use crate::cluster::model::Port;
use crate::cluster::name::ServiceName;
use crate::cluster::{ClusterName, Lookup, ServiceKey};
use crate::wire::name::MAX_LEN;
use crate::wire::reply::SoaNumbers;
use crate::wire::{Class, NameRef, Rdata, Record, Reply, Section, Type};

/// The version of the naming schema that is served (specification 2.2), as TXT data.
const SCHEMA_VERSION: &[u8] = b"\x051.1.0";
/// Seconds that the schema's version may be kept; the specification's example.
const SCHEMA_VERSION_TTL: u32 = 28_800;
/// The most seconds that an SOA may be kept (CoreDNS `plugin.SOA`).
const MAX_SOA_TTL: u32 = 300;
/// `svc`, in wire form.
const SVC: &[u8] = b"\x03svc";

/// `dns-version TXT`.
pub(super) fn schema_version(reply: &mut Reply) -> Said {
    let data = reply.store(SCHEMA_VERSION);
    reply.answer(Type::TXT, SCHEMA_VERSION_TTL, Rdata::Bytes(data));
    Said::Records
}

/// An address as a record's type and data.
fn address_data(address: IpAddr) -> (Type, Rdata) {
    match address {
        IpAddr::V4(address) => (Type::A, Rdata::A(address.octets())),
        IpAddr::V6(address) => (Type::AAAA, Rdata::Aaaa(address.octets())),
    }
}

/// The address that a Pod's or endpoint's record holds. CoreDNS prints what it parsed, so that an IPv4 address mapped
/// into IPv6 makes an A record.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// `Records` if any was made.
fn said(reply: &Reply) -> Said {
    if reply.has_answer() { Said::Records } else { Said::NoData }
}

impl Stanza {
    //--- Services, endpoints, Pods

    /// The records of a name that exists, for the question's type. `tail`: where the zone starts in the question.
    pub(super) fn records(
        &self, state: &mut State, question: &crate::wire::Question, name: &ClusterName<'_>, tail: u8,
        found: &Lookup<'_>,
    ) -> Said {
        match question.qtype {
            Type::A | Type::AAAA => self.addresses(state, NameRef::QUESTION, question.qtype, found),
            Type::SRV => self.services(state, question, name, tail, found),
            _ => {}
        }
        said(&state.reply)
    }

    /// The addresses of one family of what was found.
    pub(super) fn addresses(&self, state: &mut State, owner: NameRef, rtype: Type, found: &Lookup<'_>) {
        let ttl = self.answers.ttl;
        let (reply, scratch) = (&mut state.reply, &mut state.scratch);
        let mut push = |rdata| {
            reply.push(Record { section: Section::Answer, owner, rtype, class: Class::IN, ttl, rdata });
        };
        let (v4, v6) = match found {
            Lookup::ClusterIp(found) => match found.entry.service.as_deref().map(|service| &service.shape) {
                Some(Shape::ClusterIp { v4, v6 }) => (&**v4, &**v6),
                _ => return,
            },
            Lookup::Endpoints(found) if found.is_whole() && !found.entry.v4.is_empty() | !found.entry.v6.is_empty() => {
                (&*found.entry.v4, &*found.entry.v6)
            }
            Lookup::Endpoints(found) => {
                collect_rows(found, scratch);
                scratch.sort_unstable_by_key(|&packed| row(found, packed).address());
                scratch.dedup_by_key(|packed| row(found, *packed).address());
                for &packed in scratch.iter() {
                    let (family, rdata) = address_data(row(found, packed).address());
                    if family == rtype {
                        push(rdata);
                    }
                }
                return;
            }
            Lookup::Pod(address) => {
                let (family, rdata) = address_data(unmapped(*address));
                if family == rtype {
                    push(rdata);
                }
                return;
            }
            _ => return,
        };
        match rtype {
            Type::A => v4.iter().for_each(|address| push(Rdata::A(address.octets()))),
            _ => v6.iter().for_each(|address| push(Rdata::Aaaa(address.octets()))),
        }
    }

    /// SRV records and the addresses of their targets, both families.
    fn services(
        &self, state: &mut State, question: &crate::wire::Question, name: &ClusterName<'_>, tail: u8,
        found: &Lookup<'_>,
    ) {
        let State { reply, scratch, .. } = state;
        match (found, service_name(name)) {
            (Lookup::ClusterIp(found), Some(service)) => self.cluster_services(reply, service, tail, found),
            (Lookup::Endpoints(found), Some(service)) => {
                let zone_len = question.name().as_wire().len() - usize::from(tail);
                self.endpoint_services(reply, scratch, service, tail, zone_len, found);
            }
            (Lookup::Pod(address), None) => {
                // CoreDNS gives a Pod a record with port 0, at the name without the labels that it passes over.
                let target = reply.store_labels(&[question.slice(pod_label(question, tail), 3)], Some(tail));
                self.service(reply, 100, 0, target);
                self.target_address(reply, target, unmapped(*address));
            }
            _ => {}
        }
    }

    /// One record for each port; the target is the Service.
    fn cluster_services(&self, reply: &mut Reply, name: ServiceName<'_>, tail: u8, found: &ServiceMatch<'_>) {
        let Some(service) = found.entry.service.as_deref() else { return };
        let Shape::ClusterIp { v4, v6 } = &service.shape else { return };
        let addresses = v4.len() + v6.len();
        let weight = weight(found.count_ports(&service.ports) * addresses);
        // A port that stands once for TCP and once for UDP makes one record.
        let mut numbers = Numbers::new();
        append_numbers(&mut numbers, &service.ports, found);
        keep_first(&mut numbers, 0);
        if addresses == 0 || numbers.is_empty() {
            return;
        }
        let target = reply.store_labels(&[name.key, SVC], Some(tail));
        for number in numbers {
            if reply.is_full() {
                return;
            }
            self.service(reply, weight, number, target);
        }
        for &address in v4 {
            self.target_address(reply, target, IpAddr::V4(address));
        }
        for &address in v6 {
            self.target_address(reply, target, IpAddr::V6(address));
        }
    }

    /// One record for each endpoint name and port; the targets are the endpoints.
    fn endpoint_services(
        &self, reply: &mut Reply, scratch: &mut Vec<u64>, name: ServiceName<'_>, tail: u8, zone_len: usize,
        found: &ServiceMatch<'_>,
    ) {
        collect_rows(found, scratch);
        // They stand slice by slice as yet, and a slice's rows have the same ports.
        let (mut candidates, mut numbers) = (0, Numbers::new());
        let mut of_slice: SmallVec<[Range<usize>; 16]> = smallvec![0..0; found.entry.slices.len()];
        for rows in scratch.chunk_by(|a, b| a >> 32 == b >> 32) {
            let (ports, first) = (&row(found, rows[0]).slice().ports, numbers.len());
            candidates += rows.len() * found.count_ports(ports);
            append_numbers(&mut numbers, ports, found);
            keep_first(&mut numbers, first);
            of_slice[(rows[0] >> 32) as usize] = first..numbers.len();
        }
        let numbers_of = |packed: u64| &numbers[of_slice[(packed >> 32) as usize].clone()];
        let weight = weight(candidates);
        let pod_names = self.answers.view.endpoint_pod_names;
        // Rows of one endpoint name come together, so that no record is made twice.
        let name_key = |packed: u64| EndpointKey::new(row(found, packed), pod_names);
        let address = |packed: u64| row(found, packed).address();
        scratch.sort_unstable_by(|&a, &b| (name_key(a), address(a)).cmp(&(name_key(b), address(b))));
        for group in scratch.chunk_by(|&a, &b| name_key(a) == name_key(b)) {
            // Without a port that has a number there is no record to make.
            if group.iter().all(|&packed| numbers_of(packed).is_empty()) {
                continue;
            }
            if reply.is_full() {
                return;
            }
            let label = row(found, group[0]).label(pod_names);
            let label = label.as_bytes();
            // As for a pointer, a long zone may leave no room for the target.
            if 1 + label.len() + name.key.len() + SVC.len() + zone_len > MAX_LEN {
                continue;
            }
            let target = reply.store_labels(&[&[label.len() as u8], label, name.key, SVC], Some(tail));
            let mut make = |number| {
                if !reply.is_full() {
                    self.service(reply, weight, number, target);
                }
            };
            match group {
                [one] => numbers_of(*one).iter().copied().for_each(&mut make),
                group => of_slices(group, numbers_of).into_iter().for_each(&mut make),
            }
            let mut earlier = None;
            for &packed in group {
                if reply.is_full() {
                    return;
                }
                // Rows are sorted by address, so that the same one in another slice comes next. It may have a port with a
                // number there.
                let address = address(packed);
                if earlier != Some(address) && !numbers_of(packed).is_empty() {
                    self.target_address(reply, target, address);
                    earlier = Some(address);
                }
            }
        }
    }

    fn service(&self, reply: &mut Reply, weight: u16, port: u16, target: NameRef) {
        reply.answer(Type::SRV, self.answers.ttl, Rdata::Srv { priority: 0, weight, port, target });
    }

    fn target_address(&self, reply: &mut Reply, owner: NameRef, address: IpAddr) {
        let (rtype, rdata) = address_data(address);
        let (class, ttl) = (Class::IN, self.answers.ttl);
        reply.push(Record { section: Section::Additional, owner, rtype, class, ttl, rdata });
    }

    //--- Reverse names

    /// The one name of a cluster address.
    pub(super) fn service_pointer(&self, reply: &mut Reply, key: &ServiceKey) -> Said {
        self.pointer(reply, &[key, SVC]);
        Said::Records
    }

    /// The names of an endpoint's address: those with a host name first, as a client that looks at one record wants,
    /// then by name.
    pub(super) fn endpoint_pointers(&self, reply: &mut Reply, reverse: ReverseName, keys: &[ServiceKey]) -> Said {
        let ReverseName::Address(address) = reverse else { return Said::NoData };
        // A host name that is the address with dashes is the name of an endpoint without one.
        let unnamed = Dashed::endpoint(address);
        for given in [true, false] {
            let first = reply.records().len();
            for key in keys {
                let Some(entry) = self.index.get().entry(key) else { continue };
                for slice in &entry.slices {
                    for number in slice.rows_with_address(address) {
                        let label = Row::new(slice, number).label(self.answers.view.endpoint_pod_names);
                        let label = label.as_bytes();
                        if (label != unnamed.as_label()) == given {
                            self.pointer(reply, &[&[label.len() as u8], label, key, SVC]);
                        }
                    }
                }
            }
            reply.sort_names(first);
        }
        said(reply)
    }

    fn pointer(&self, reply: &mut Reply, labels: &[&[u8]]) {
        let zone = self.primary.as_wire();
        let mut parts: smallvec::SmallVec<[&[u8]; 5]> = labels.into();
        parts.push(&zone[..zone.len() - 1]);
        // A host name of 63 octets in a Service and namespace of 63 each may leave no room for a long zone.
        if parts.iter().map(|part| part.len()).sum::<usize>() < MAX_LEN {
            let target = reply.store_labels(&parts, None);
            reply.answer(Type::PTR, self.answers.ttl, Rdata::Name(target));
        }
    }

    //--- The zone's own records

    /// The zone itself.
    pub(super) fn apex(&self, reply: &mut Reply, qtype: Type, tail: u8, zone: &Zone) -> Said {
        match qtype {
            Type::SOA => self.soa(reply, Section::Answer, tail),
            Type::NS => self.name_servers(reply, tail, zone),
            _ => {}
        }
        said(reply)
    }

    /// The SOA that a denial carries (RFC 2308 3).
    pub(super) fn soa_of_denial(&self, reply: &mut Reply, tail: u8) {
        self.soa(reply, Section::Authority, tail);
    }

    fn soa(&self, reply: &mut Reply, section: Section, tail: u8) {
        let mname = reply.store_labels(&[b"\x02ns\x03dns"], Some(tail));
        let rname = reply.store_labels(&[b"\x0ahostmaster"], Some(tail));
        let index = self.index.get();
        let serial = if index.synced() { index.serial() } else { 0 };
        let (ttl, minimum) = (self.answers.ttl.min(MAX_SOA_TTL), self.answers.ttl);
        let numbers =
            reply.store_soa_numbers(SoaNumbers { serial, refresh: 7_200, retry: 1_800, expire: 86_400, minimum });
        let rdata = Rdata::Soa { mname, rname, numbers };
        reply.push(Record { section, owner: NameRef::question(tail), rtype: Type::SOA, class: Class::IN, ttl, rdata });
    }

    /// The zone's NS records: the Services in front of this server, or `ns.dns` where no endpoint has its address.
    fn name_servers(&self, reply: &mut Reply, tail: u8, zone: &Zone) {
        self.own_names(reply, |reply, labels, address| {
            if labels.iter().map(|part| part.len()).sum::<usize>() + zone.name.as_wire().len() > MAX_LEN {
                return;
            }
            let (_, rdata) = address_data(address);
            let made = reply.data_name(labels, Some(tail));
            let name = made.unwrap_or_else(|| reply.store_labels(labels, Some(tail)));
            if made.is_none() {
                reply.answer(Type::NS, self.answers.ttl, Rdata::Name(name));
            }
            let is_same = |record: &Record| record.owner == name && record.rdata == rdata;
            if made.is_none() || !reply.section(Section::Additional).any(is_same) {
                self.target_address(reply, name, address);
            }
        });
    }

    /// `ns.dns`.
    pub(super) fn name_server(&self, reply: &mut Reply, qtype: Type) -> Said {
        self.own_names(reply, |reply, _, address| {
            let (rtype, rdata) = address_data(address);
            if rtype == qtype && !reply.records().iter().any(|record| record.rdata == rdata) {
                reply.answer(rtype, self.answers.ttl, rdata);
            }
        });
        said(reply)
    }

    /// Makes records of the name server's names (labels below the zone, in wire form) and addresses (CoreDNS `nsAddrs`),
    /// for as long as the reply takes more.
    fn own_names(&self, reply: &mut Reply, mut make: impl FnMut(&mut Reply, &[&[u8]], IpAddr)) {
        let mut visit = |labels: &[&[u8]], address| {
            if !reply.is_full() {
                make(reply, labels, address);
            }
        };
        let mut found = false;
        for &own in &self.own {
            for key in self.index.get().endpoint_owners(own) {
                let Some(entry) = self.index.get().entry(&key).filter(|_| self.answers.view.endpoints) else {
                    continue;
                };
                match entry.service.as_deref().map(|service| &service.shape) {
                    Some(Shape::ClusterIp { v4, v6 }) => {
                        found = true;
                        v4.iter().for_each(|&address| visit(&[&key, SVC], IpAddr::V4(address)));
                        v6.iter().for_each(|&address| visit(&[&key, SVC], IpAddr::V6(address)));
                    }
                    Some(Shape::Headless) => {
                        found = true;
                        let slices = entry.slices.iter().filter(|slice| slice.has_address(own));
                        for row in slices.flat_map(|slice| slice.rows()) {
                            let label = row.label(self.answers.view.endpoint_pod_names);
                            let label = label.as_bytes();
                            visit(&[&[label.len() as u8], label, &key, SVC], row.address());
                        }
                    }
                    Some(Shape::ExternalName(_)) | None => {}
                }
            }
        }
        if !found {
            self.own.iter().for_each(|&own| visit(&[b"\x02ns\x03dns"], own));
        }
    }
}

/// The Service that a name is about.
pub(super) fn service_name<'a>(name: &ClusterName<'a>) -> Option<ServiceName<'a>> {
    match *name {
        ClusterName::Service(service)
        | ClusterName::Endpoint(service, _)
        | ClusterName::Port(service, _)
        | ClusterName::Zonal(service, _) => Some(service),
        _ => None,
    }
}

/// Where a Pod's name starts in the question: three labels in front of the zone, address, namespace and `pod`.
fn pod_label(question: &crate::wire::Question, tail: u8) -> usize {
    let zone = (0..=question.labels()).find(|&labels| question.suffix_at(labels) == tail).unwrap_or_default();
    question.labels() - zone - 3
}

/// An even share of 100, at least 1: some clients never choose a record of weight 0.
fn weight(candidates: usize) -> u16 {
    (100 / candidates.max(1)).max(1) as u16
}

/// Numbers of ports.
type Numbers = SmallVec<[u16; 64]>;

/// Up to so many numbers are compared with each other.
const FEW: usize = 16;

/// Appends the numbers of the ports that are meant.
fn append_numbers(numbers: &mut Numbers, ports: &[Port], found: &ServiceMatch<'_>) {
    numbers.extend(ports.iter().filter(|port| found.includes_port(port)).filter_map(|port| port.number));
}

/// Of equal numbers from `first` on, keeps the first. Takes a step for each.
fn keep_first(numbers: &mut Numbers, first: usize) {
    let mut len = first;
    if numbers.len() - first <= FEW {
        for at in first..numbers.len() {
            let number = numbers[at];
            if !numbers[first..len].contains(&number) {
                numbers[len] = number;
                len += 1;
            }
        }
    } else {
        let mut seen = [0_u64; 1 << 10];
        for at in first..numbers.len() {
            let number = numbers[at];
            let (word, bit) = (&mut seen[usize::from(number >> 6)], 1 << (number & 63));
            if *word & bit == 0 {
                *word |= bit;
                numbers[len] = number;
                len += 1;
            }
        }
    }
    numbers.truncate(len);
}

/// The numbers of all slices that these rows are in, each once.
fn of_slices<'a>(rows: &[u64], numbers_of: impl Fn(u64) -> &'a [u16]) -> Numbers {
    let mut slices: SmallVec<[u64; 8]> = SmallVec::new();
    for &row in rows {
        if slices.last().is_none_or(|last| last >> 32 != row >> 32) {
            slices.push(row);
        }
    }
    slices.sort_unstable();
    slices.dedup_by_key(|row| *row >> 32);
    let mut numbers = Numbers::new();
    slices.iter().for_each(|&row| numbers.extend_from_slice(numbers_of(row)));
    if slices.len() > 1 {
        keep_first(&mut numbers, 0);
    }
    numbers
}

/// What tells the names of endpoints from each other without their labels being written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum EndpointKey<'a> {
    /// The address that the label spells in the form that an endpoint without a name has.
    Address(IpAddr),
    /// Any other label.
    Label(&'a [u8]),
}

impl<'a> EndpointKey<'a> {
    fn new(row: Row<'a>, pod_names: bool) -> EndpointKey<'a> {
        match row.label(pod_names) {
            EndpointLabel::Address(_) => EndpointKey::Address(row.address()),
            EndpointLabel::Given(label) => match parse_dashed(label) {
                Some(address) if Dashed::endpoint(address).as_label() == label => EndpointKey::Address(address),
                _ => EndpointKey::Label(label),
            },
        }
    }
}

/// Puts the endpoints that are meant into the worker's scratch list: the slice's number above, the row's below.
fn collect_rows(found: &ServiceMatch<'_>, scratch: &mut Vec<u64>) {
    scratch.clear();
    let mut slice_number = 0;
    let slices = &found.entry.slices;
    found.for_each_row(|row| {
        while !std::ptr::eq(&*slices[slice_number], row.slice()) {
            slice_number += 1;
        }
        scratch.push((slice_number as u64) << 32 | row.number() as u64);
    });
}

/// The row that a number of the scratch list stands for.
fn row<'a>(found: &'a ServiceMatch<'_>, packed: u64) -> Row<'a> {
    Row::new(&found.entry.slices[(packed >> 32) as usize], (packed & 0xffff_ffff) as usize)
}
