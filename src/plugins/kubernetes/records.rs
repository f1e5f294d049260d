//! Records of the results of look-ups.

use std::net::IpAddr;
use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::no_data::NoData;
use super::stanza::{AnswerResult, Stanza, Zone};
use crate::chain::State;
use crate::cluster::address::{Dashed, ReverseName, parse_dashed};
use crate::cluster::entry::{EndpointLabel, Row, Shape};
use crate::cluster::lookup::ServiceMatch;
use crate::cluster::model::Port;
use crate::cluster::name::ServiceName;
use crate::cluster::{ClusterName, Index, Lookup, ServiceKey};
use crate::wire::name::MAX_LEN;
use crate::wire::record::SoaNumbers;
use crate::wire::{Class, NameRef, Rdata, Record, Reply, Section, Type};

/// The version of the naming schema (specification 2.2), as TXT data.
const SCHEMA_VERSION: &[u8] = b"\x051.1.0";
/// The TTL of the schema version in seconds, as in the example of the specification.
const SCHEMA_VERSION_TTL: u32 = 28_800;
/// The maximum TTL of the SOA in seconds (CoreDNS `plugin.SOA`).
const MAX_SOA_TTL: u32 = 300;
/// `svc`, in wire form.
const SVC: &[u8] = b"\x03svc";

/// Answers `dns-version TXT`.
pub(super) fn answer_schema_version(reply: &mut Reply) -> AnswerResult {
    let data = reply.store(SCHEMA_VERSION);
    reply.answer(Type::TXT, SCHEMA_VERSION_TTL, Rdata::Bytes(data));
    AnswerResult::Records
}

/// Returns type and data of the record of an address.
fn address_data(address: IpAddr) -> (Type, Rdata) {
    match address {
        IpAddr::V4(address) => (Type::A, Rdata::A(address.octets())),
        IpAddr::V6(address) => (Type::AAAA, Rdata::Aaaa(address.octets())),
    }
}

/// Returns the address of the record of a Pod. CoreDNS prints the parsed address, so that an IPv4 address mapped into
/// IPv6 results in an A record.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Returns `Records` if there is an answer, or `NoData`.
fn answer_result(reply: &Reply) -> AnswerResult {
    if reply.has_answer() { AnswerResult::Records } else { AnswerResult::NoData(NoData::Type) }
}

impl Stanza {
    //--- Services, endpoints, Pods

    /// Adds the records of a name that exists, for the query type. `tail` is the offset of the zone in the question.
    pub(super) fn answer_records(
        &self, state: &mut State, question: &crate::wire::Question, name: &ClusterName<'_>, tail: u8,
        found: &Lookup<'_>,
    ) -> AnswerResult {
        match question.qtype {
            Type::A | Type::AAAA => self.add_addresses(state, NameRef::QUESTION, question.qtype, found),
            Type::SRV => self.add_services(state, question, name, tail, found),
            _ => {}
        }
        if state.reply.has_answer() {
            AnswerResult::Records
        } else {
            AnswerResult::NoData(NoData::of(question.qtype, found))
        }
    }

    /// Adds the addresses of one family of the result.
    pub(super) fn add_addresses(&self, state: &mut State, owner: NameRef, rtype: Type, found: &Lookup<'_>) {
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
            Lookup::Pod(address, _) => {
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

    /// Adds SRV records and the addresses of their targets, of both families.
    fn add_services(
        &self, state: &mut State, question: &crate::wire::Question, name: &ClusterName<'_>, tail: u8,
        found: &Lookup<'_>,
    ) {
        let State { reply, scratch, .. } = state;
        match (found, service_name(name)) {
            (Lookup::ClusterIp(found), Some(service)) => self.add_cluster_services(reply, service, tail, found),
            (Lookup::Endpoints(found), Some(service)) => {
                let zone_len = question.name().as_wire().len() - usize::from(tail);
                self.add_endpoint_services(reply, scratch, service, tail, zone_len, found);
            }
            (Lookup::Pod(address, pods), None) => {
                // CoreDNS returns a record with port 0 for a Pod, at the name without the labels that are ignored. Pods
                // with the same address, such as one that has ended, share its weight.
                let target = reply.store_labels(&[question.slice(pod_label(question, tail), 3)], Some(tail));
                self.add_srv(reply, weight(*pods), 0, target);
                self.add_target_address(reply, target, unmapped(*address));
            }
            _ => {}
        }
    }

    /// Adds one record for each port; the target is the Service.
    fn add_cluster_services(&self, reply: &mut Reply, name: ServiceName<'_>, tail: u8, found: &ServiceMatch<'_>) {
        let Some(service) = found.entry.service.as_deref() else { return };
        let Shape::ClusterIp { v4, v6 } = &service.shape else { return };
        let addresses = v4.len() + v6.len();
        let weight = weight(found.count_ports(&service.ports) * addresses);
        // A port for TCP and UDP results in one record.
        let mut numbers = PortNumbers::new();
        append_numbers(&mut numbers, &service.ports, found);
        if addresses == 0 || numbers.is_empty() {
            return;
        }
        let target = reply.store_labels(&[name.key, SVC], Some(tail));
        for number in numbers {
            if reply.is_full() {
                return;
            }
            self.add_srv(reply, weight, number, target);
        }
        for &address in v4 {
            self.add_target_address(reply, target, IpAddr::V4(address));
        }
        for &address in v6 {
            self.add_target_address(reply, target, IpAddr::V6(address));
        }
    }

    /// Adds one record for each endpoint name and port; the targets are the endpoints.
    fn add_endpoint_services(
        &self, reply: &mut Reply, scratch: &mut Vec<u64>, name: ServiceName<'_>, tail: u8, zone_len: usize,
        found: &ServiceMatch<'_>,
    ) {
        collect_rows(found, scratch);
        // Rows are in the order of their slices here, and those of a slice have the same ports.
        let (mut candidates, mut numbers) = (0, PortNumbers::new());
        let mut slice_ranges: SmallVec<[Range<usize>; 16]> = smallvec![0..0; found.entry.slices.len()];
        for rows in scratch.chunk_by(|a, b| a >> 32 == b >> 32) {
            let (ports, first) = (&row(found, rows[0]).slice().ports, numbers.len());
            candidates += rows.len() * found.count_ports(ports);
            append_numbers(&mut numbers, ports, found);
            slice_ranges[(rows[0] >> 32) as usize] = first..numbers.len();
        }
        let numbers_of = |packed: u64| &numbers[slice_ranges[(packed >> 32) as usize].clone()];
        let weight = weight(candidates);
        let pod_names = self.answers.view.endpoint_pod_names;
        // Rows of one endpoint name are adjacent, so that no record is repeated.
        let name_key = |packed: u64| EndpointKey::new(row(found, packed), pod_names);
        let address = |packed: u64| row(found, packed).address();
        scratch.sort_unstable_by(|&a, &b| (name_key(a), address(a)).cmp(&(name_key(b), address(b))));
        for group in scratch.chunk_by(|&a, &b| name_key(a) == name_key(b)) {
            // Without a port that has a number there is no record.
            if group.iter().all(|&packed| numbers_of(packed).is_empty()) {
                continue;
            }
            if reply.is_full() {
                return;
            }
            let label = row(found, group[0]).label(pod_names);
            let label = label.as_bytes();
            // As for a pointer, the target may be too long for a name below a long zone.
            if 1 + label.len() + name.key.len() + SVC.len() + zone_len > MAX_LEN {
                continue;
            }
            let target = reply.store_labels(&[&[label.len() as u8], label, name.key, SVC], Some(tail));
            let mut add = |number| {
                if !reply.is_full() {
                    self.add_srv(reply, weight, number, target);
                }
            };
            match group {
                // One endpoint, or one in slices of two families.
                [first, rest @ ..] if rest.iter().all(|&packed| numbers_of(packed) == numbers_of(*first)) => {
                    numbers_of(*first).iter().copied().for_each(&mut add);
                }
                group => merge_numbers(group, numbers_of).into_iter().for_each(&mut add),
            }
            let mut earlier = None;
            for &packed in group {
                if reply.is_full() {
                    return;
                }
                // Rows are sorted by address, so that the same address in another slice is the next one. It may have a
                // port with a number there.
                let address = address(packed);
                if earlier != Some(address) && !numbers_of(packed).is_empty() {
                    self.add_target_address(reply, target, address);
                    earlier = Some(address);
                }
            }
        }
    }

    fn add_srv(&self, reply: &mut Reply, weight: u16, port: u16, target: NameRef) {
        reply.answer(Type::SRV, self.answers.ttl, Rdata::Srv { priority: 0, weight, port, target });
    }

    fn add_target_address(&self, reply: &mut Reply, owner: NameRef, address: IpAddr) {
        let (rtype, rdata) = address_data(address);
        let (class, ttl) = (Class::IN, self.answers.ttl);
        reply.push(Record { section: Section::Additional, owner, rtype, class, ttl, rdata });
    }

    //--- Reverse names

    /// Adds the name of a cluster address.
    pub(super) fn answer_service_ptr(&self, reply: &mut Reply, key: &ServiceKey) -> AnswerResult {
        self.add_ptr(reply, &[key, SVC]);
        AnswerResult::Records
    }

    /// Adds the names of an endpoint address: those with a host name first, for clients that use one record, then by
    /// name.
    pub(super) fn answer_endpoint_ptr(
        &self, reply: &mut Reply, reverse: ReverseName, keys: &[ServiceKey],
    ) -> AnswerResult {
        let ReverseName::Address(address) = reverse else { return AnswerResult::NoData(NoData::Type) };
        // A host name that equals the address with dashes is the name of an endpoint without one.
        let unnamed = Dashed::endpoint(address);
        for has_hostname in [true, false] {
            let first = reply.records().len();
            for key in keys {
                let synced = self.index.synced();
                let entry = synced.map_or_else(|| self.index.get().entry(key), |index| index.entry(key));
                let Some(entry) = entry else { continue };
                for slice in &entry.slices {
                    for number in slice.rows_with_address(address) {
                        let label = Row::new(slice, number).label(self.answers.view.endpoint_pod_names);
                        let label = label.as_bytes();
                        if (label != unnamed.as_label()) == has_hostname {
                            self.add_ptr(reply, &[&[label.len() as u8], label, key, SVC]);
                        }
                    }
                }
            }
            reply.sort_names(first);
        }
        answer_result(reply)
    }

    fn add_ptr(&self, reply: &mut Reply, labels: &[&[u8]]) {
        let zone = self.primary.as_wire();
        let mut parts: smallvec::SmallVec<[&[u8]; 5]> = labels.into();
        parts.push(&zone[..zone.len() - 1]);
        // With a host name, Service and namespace of 63 bytes each, the name may be too long below a long zone.
        if parts.iter().map(|part| part.len()).sum::<usize>() < MAX_LEN {
            let target = reply.store_labels(&parts, None);
            reply.answer(Type::PTR, self.answers.ttl, Rdata::Name(target));
        }
    }

    //--- Records of the zone

    /// Answers the zone itself.
    pub(super) fn answer_apex(&self, reply: &mut Reply, qtype: Type, tail: u8, zone: &Zone) -> AnswerResult {
        match qtype {
            Type::SOA => self.add_soa(reply, Section::Answer, tail),
            Type::NS => self.add_name_servers(reply, tail, zone),
            _ => {}
        }
        answer_result(reply)
    }

    /// Adds the SOA of a denial (RFC 2308 3).
    pub(super) fn add_soa_of_denial(&self, reply: &mut Reply, tail: u8) {
        self.add_soa(reply, Section::Authority, tail);
    }

    fn add_soa(&self, reply: &mut Reply, section: Section, tail: u8) {
        let serial = self.index.synced().map_or_else(|| self.previous_serial(), Index::serial);
        let (ttl, minimum) = (self.answers.ttl.min(MAX_SOA_TTL), self.answers.ttl);
        let numbers = SoaNumbers { serial, refresh: 7_200, retry: 1_800, expire: 86_400, minimum };
        let rdata = reply.store_soa(b"\x02ns\x03dns", b"\x0ahostmaster", tail, numbers);
        reply.push(Record { section, owner: NameRef::question(tail), rtype: Type::SOA, class: Class::IN, ttl, rdata });
    }

    /// Returns the serial of the previous index; 0 without one.
    #[cold]
    fn previous_serial(&self) -> u32 {
        let index = self.index.get();
        if index.is_synced() { index.serial() } else { 0 }
    }

    /// Adds the NS records of the zone: the Services in front of this server, or `ns.dns` if no endpoint has its
    /// address.
    fn add_name_servers(&self, reply: &mut Reply, tail: u8, zone: &Zone) {
        self.for_each_own_name(reply, |reply, labels, address| {
            if labels.iter().map(|part| part.len()).sum::<usize>() + zone.name.as_wire().len() > MAX_LEN {
                return;
            }
            let (_, rdata) = address_data(address);
            let existing = reply.data_name(labels, Some(tail));
            let name = existing.unwrap_or_else(|| reply.store_labels(labels, Some(tail)));
            if existing.is_none() {
                reply.answer(Type::NS, self.answers.ttl, Rdata::Name(name));
            }
            let is_same = |record: &Record| record.owner == name && record.rdata == rdata;
            if existing.is_none() || !reply.section(Section::Additional).any(is_same) {
                self.add_target_address(reply, name, address);
            }
        });
    }

    /// Answers `ns.dns`.
    pub(super) fn answer_name_server(&self, reply: &mut Reply, qtype: Type) -> AnswerResult {
        self.for_each_own_name(reply, |reply, _, address| {
            let (rtype, rdata) = address_data(address);
            if rtype == qtype && !reply.records().iter().any(|record| record.rdata == rdata) {
                reply.answer(rtype, self.answers.ttl, rdata);
            }
        });
        answer_result(reply)
    }

    /// Calls `add` for each name (labels below the zone, in wire form) and address of the name server (CoreDNS
    /// `nsAddrs`), until the reply is full.
    fn for_each_own_name(&self, reply: &mut Reply, mut add: impl FnMut(&mut Reply, &[&[u8]], IpAddr)) {
        let mut visit = |labels: &[&[u8]], address| {
            if !reply.is_full() {
                add(reply, labels, address);
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

/// Returns the Service of a name.
pub(super) fn service_name<'a>(name: &ClusterName<'a>) -> Option<ServiceName<'a>> {
    match *name {
        ClusterName::Service(service)
        | ClusterName::Endpoint(service, _)
        | ClusterName::Port(service, _)
        | ClusterName::Zonal(service, _) => Some(service),
        _ => None,
    }
}

/// Returns the index of the first label of the name of a Pod in the question: three labels before the zone, address,
/// namespace and `pod`.
fn pod_label(question: &crate::wire::Question, tail: u8) -> usize {
    let zone = (0..=question.labels()).find(|&labels| question.suffix_at(labels) == tail).unwrap_or_default();
    question.labels() - zone - 3
}

/// Returns an even share of 100, at least 1: some clients never choose a record of weight 0.
fn weight(candidates: usize) -> u16 {
    (100 / candidates.max(1)).max(1) as u16
}

/// Port numbers.
type PortNumbers = SmallVec<[u16; 64]>;

/// The number of ports up to which repeated numbers are found by comparing each with each.
const MAX_COMPARED: usize = 16;

/// Appends the numbers of the selected ports, each once.
fn append_numbers(numbers: &mut PortNumbers, ports: &[Port], found: &ServiceMatch<'_>) {
    if ports.len() > MAX_COMPARED {
        let selected = ports.iter().filter(|port| found.includes_port(port)).filter_map(|port| port.number);
        return append_distinct(numbers, selected);
    }
    let first = numbers.len();
    for port in ports {
        if let Some(number) = port.number
            && found.includes_port(port)
        {
            push_distinct(numbers, first, number);
        }
    }
}

/// Appends a number, unless it is among those from `first` on.
#[inline(always)]
fn push_distinct(numbers: &mut PortNumbers, first: usize, number: u16) {
    if numbers[first..].iter().all(|earlier| *earlier != number) {
        numbers.push(number);
    }
}

/// Appends numbers, each once. It takes one step for each of them, and a set of 8 KiB.
fn append_distinct(numbers: &mut PortNumbers, more: impl Iterator<Item = u16>) {
    let mut seen = [0_u64; 1 << 10];
    for number in more {
        let (word, bit) = (&mut seen[usize::from(number >> 6)], 1 << (number & 63));
        if *word & bit == 0 {
            *word |= bit;
            numbers.push(number);
        }
    }
}

/// Returns the numbers of all slices of these rows, without duplicates.
fn merge_numbers<'a>(rows: &[u64], numbers_of: impl Fn(u64) -> &'a [u16]) -> PortNumbers {
    let mut slices: SmallVec<[u64; 8]> = SmallVec::new();
    for &row in rows {
        if slices.last().is_none_or(|last| last >> 32 != row >> 32) {
            slices.push(row);
        }
    }
    slices.sort_unstable();
    slices.dedup_by_key(|row| *row >> 32);
    let mut numbers = PortNumbers::new();
    match slices.as_slice() {
        [only] => numbers.extend_from_slice(numbers_of(*only)),
        slices => {
            let count: usize = slices.iter().map(|&row| numbers_of(row).len()).sum();
            let all = slices.iter().flat_map(|&row| numbers_of(row)).copied();
            if count > MAX_COMPARED {
                append_distinct(&mut numbers, all);
            } else {
                all.for_each(|number| push_distinct(&mut numbers, 0, number));
            }
        }
    }
    numbers
}

/// The identity of the name of an endpoint, without its label being written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum EndpointKey<'a> {
    /// The address of a label that has the form of an endpoint without a name.
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

/// Collects the selected endpoints in the scratch list of the worker: the number of the slice in the upper half, that
/// of the row in the lower half.
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

/// Returns the row of a number of the scratch list.
fn row<'a>(found: &'a ServiceMatch<'_>, packed: u64) -> Row<'a> {
    Row::new(&found.entry.slices[(packed >> 32) as usize], (packed & 0xffff_ffff) as usize)
}
