//! What the index holds for one Service: typed arrays, small and whole.
//!
//! Endpoints are many, so they are small: an address, and where any endpoint of the slice has a name, an offset into the
//! slice's names. A Service's entry is replaced whole when anything of it changes; its slices are shared between the
//! old entry and the new.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::address::{Dashed, parse_dashed};
use super::model::{self, Port};
use crate::wire::{Name, NameBuf};

/// Everything that is known under one `(namespace, Service)` key. Equal where every answer from it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The Service; `None` while only its slices are known.
    pub service: Option<Arc<Service>>,
    /// Its slices, sorted by name.
    pub slices: Box<[Arc<Slice>]>,
    /// Headless only: the IPv4 addresses of all slices, sorted, each once.
    pub v4: Box<[Ipv4Addr]>,
    /// Headless only: the IPv6 addresses of all slices, sorted, each once.
    pub v6: Box<[Ipv6Addr]>,
}

/// A Service, ready to be answered from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What its name stands for.
    pub shape: Shape,
    /// Its ports, in their order.
    pub ports: Box<[Port]>,
}

/// What the name of a Service stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Its cluster addresses, each once, in their order.
    ClusterIp {
        /// IPv4.
        v4: Box<[Ipv4Addr]>,
        /// IPv6.
        v6: Box<[Ipv6Addr]>,
    },
    /// Its ready endpoints.
    Headless,
    /// Another name; `None` where `externalName` is an address or no name at all, so that there is nothing to answer.
    ExternalName(Option<NameBuf>),
}

impl Service {
    /// From the model.
    pub fn new(service: &model::Service) -> Service {
        let shape = match &service.kind {
            model::ServiceKind::ClusterIp(addresses) => {
                let (v4, v6) = families(addresses.iter().copied());
                Shape::ClusterIp { v4: v4.into(), v6: v6.into() }
            }
            model::ServiceKind::Headless => Shape::Headless,
            model::ServiceKind::ExternalName(target) => {
                // An address is no CNAME target; CoreDNS then treats the Service as not there.
                let is_address = target.parse::<IpAddr>().is_ok();
                Shape::ExternalName(NameBuf::from_text(target).ok().filter(|_| !is_address).map(|name| name.to_lower()))
            }
        };
        Service { shape, ports: service.ports.clone().into() }
    }
}

/// Addresses by family, each once, in their order.
fn families(addresses: impl Iterator<Item = IpAddr>) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    // The API server allows two; a manifest may hold any number.
    let mut seen = HashSet::with_hasher(foldhash::fast::RandomState::default());
    for address in addresses.filter(|&address| seen.insert(address)) {
        match address {
            IpAddr::V4(address) => v4.push(address),
            IpAddr::V6(address) => v6.push(address),
        }
    }
    (v4, v6)
}

/// One EndpointSlice, packed. A row is one address of one ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The slice's own name, by which its Service's entry finds it.
    pub name: Box<str>,
    /// The ports of every row; empty for a slice without ports.
    pub ports: Box<[Port]>,
    /// IPv4 rows, sorted by address; an address of two endpoints stands twice.
    v4: Box<[Ipv4Addr]>,
    /// IPv6 rows behind the IPv4 ones, sorted by address.
    v6: Box<[Ipv6Addr]>,
    /// Host names, Pod names and topology zones.
    hostnames: Column,
    pods: Column,
    zones: Column,
    /// Row numbers sorted by host name; empty where no row has one.
    by_hostname: Box<[u32]>,
    /// The text of all columns, each piece with its length (at most 255) in front; offset 0 is unused.
    text: Box<[u8]>,
}

/// An optional text for each row: offsets into [`Slice::text`], 0 for none. Empty where no row has any.
type Column = Box<[u32]>;

/// Which fields of an endpoint are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Pod names (`endpoint_pod_names`).
    pub pods: bool,
    /// Topology zones (`zonal`).
    pub zones: bool,
}

impl Slice {
    /// From the model.
    pub fn new(slice: &model::EndpointSlice, keep: Keep) -> Slice {
        let mut rows: Vec<(IpAddr, &model::Endpoint)> = Vec::new();
        for endpoint in &slice.endpoints {
            rows.extend(endpoint.addresses.iter().map(|&address| (address, endpoint)));
        }
        // IPv4 sorts before IPv6.
        rows.sort_by(|a, b| (a.0, &a.1.hostname, &a.1.pod).cmp(&(b.0, &b.1.hostname, &b.1.pod)));
        let mut text = Text { octets: vec![0] };
        let hostnames = text.column(rows.iter().map(|row| row.1.hostname.as_deref()));
        let pods = text.column(rows.iter().map(|row| row.1.pod.as_deref().filter(|_| keep.pods)));
        let zones = text.column(rows.iter().map(|row| row.1.zone.as_deref().filter(|_| keep.zones)));
        let mut by_hostname: Vec<u32> = (0..hostnames.len() as u32).collect();
        by_hostname.sort_by_key(|&row| (text.get(hostnames[row as usize]), row));
        let v4 = rows.iter().filter_map(|row| if let IpAddr::V4(address) = row.0 { Some(address) } else { None });
        let v6 = rows.iter().filter_map(|row| if let IpAddr::V6(address) = row.0 { Some(address) } else { None });
        Slice {
            name: slice.key.name.clone(),
            ports: slice.ports.clone().into(),
            v4: v4.collect(),
            v6: v6.collect(),
            hostnames,
            pods,
            zones,
            by_hostname: by_hostname.into(),
            text: text.octets.into(),
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether no endpoint is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The IPv4 addresses, sorted.
    pub fn v4(&self) -> &[Ipv4Addr] {
        &self.v4
    }

    /// The IPv6 addresses, sorted.
    pub fn v6(&self) -> &[Ipv6Addr] {
        &self.v6
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        (0..self.len()).map(|row| self.address(row))
    }

    /// Whether some row has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        !self.rows_with_address(address).is_empty()
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len()).map(|row| Row { slice: self, row })
    }

    /// The rows with this address.
    pub fn rows_with_address(&self, address: IpAddr) -> std::ops::Range<usize> {
        fn range<T: Ord>(sorted: &[T], wanted: &T) -> std::ops::Range<usize> {
            sorted.partition_point(|have| have < wanted)..sorted.partition_point(|have| have <= wanted)
        }
        match address {
            IpAddr::V4(address) => range(&self.v4, &address),
            IpAddr::V6(address) => {
                let rows = range(&self.v6, &address);
                rows.start + self.v4.len()..rows.end + self.v4.len()
            }
        }
    }

    /// The rows of the endpoint with this name.
    pub fn rows_named<'a>(&'a self, endpoint: &'a EndpointName<'_>) -> impl Iterator<Item = Row<'a>> {
        let hostname = |row: &u32| self.get(&self.hostnames, *row as usize).unwrap_or_default();
        let from = self.by_hostname.partition_point(|row| hostname(row) < endpoint.label);
        let to = self.by_hostname.partition_point(|row| hostname(row) <= endpoint.label);
        let by_hostname = self.by_hostname[from..to].iter().map(|&row| row as usize);
        let by_address = endpoint.address.map_or(0..0, |address| self.rows_with_address(address));
        let found_by_address = by_address.clone();
        // Pod names are not sorted: only a stanza with `endpoint_pod_names` looks for them.
        let by_pod = if endpoint.pod_names { 0..self.pods.len() } else { 0..0 };
        by_hostname
            .chain(by_address.filter(|&row| self.get(&self.hostnames, row).is_none()))
            .chain(by_pod.filter(move |row| {
                let given =
                    self.get(&self.hostnames, *row).is_none() && self.get(&self.pods, *row) == Some(endpoint.label);
                given && !found_by_address.contains(row)
            }))
            .map(|row| Row { slice: self, row })
            .filter(move |row| row.label(endpoint.pod_names).as_bytes() == endpoint.label)
    }

    fn address(&self, row: usize) -> IpAddr {
        match self.v4.get(row) {
            Some(&address) => IpAddr::V4(address),
            None => IpAddr::V6(self.v6[row - self.v4.len()]),
        }
    }

    fn get(&self, column: &Column, row: usize) -> Option<&[u8]> {
        let at = *column.get(row)? as usize;
        if at == 0 { None } else { Some(&self.text[at + 1..at + 1 + usize::from(self.text[at])]) }
    }
}

/// Text of a slice in the making.
struct Text {
    octets: Vec<u8>,
}

impl Text {
    /// Stores a column; one text that stands in neighbouring rows is stored once.
    fn column<'a>(&mut self, rows: impl Iterator<Item = Option<&'a str>> + Clone) -> Column {
        if rows.clone().all(|text| text.is_none()) {
            return Box::default();
        }
        let mut previous: Option<(&str, u32)> = None;
        rows.map(|text| {
            let Some(text) = text.filter(|text| text.len() <= 255) else { return 0 };
            if let Some((same, at)) = previous
                && same == text
            {
                return at;
            }
            let at = self.octets.len() as u32;
            self.octets.push(text.len() as u8);
            self.octets.extend(text.bytes());
            previous = Some((text, at));
            at
        })
        .collect()
    }

    fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        &self.octets[at + 1..at + 1 + usize::from(self.octets[at])]
    }
}

/// One address of one ready endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    slice: &'a Slice,
    row: usize,
}

impl<'a> Row<'a> {
    /// Row number `row` of a slice.
    pub fn new(slice: &'a Slice, row: usize) -> Row<'a> {
        Row { slice, row }
    }

    /// The slice that it is in.
    pub fn slice(self) -> &'a Slice {
        self.slice
    }

    /// Its number in its slice.
    pub fn number(self) -> usize {
        self.row
    }

    /// Its address.
    pub fn address(self) -> IpAddr {
        self.slice.address(self.row)
    }

    /// The endpoint's name: its host name; else, if such are wanted, its Pod's name; else its address with dashes.
    pub fn label(self, pod_names: bool) -> EndpointLabel<'a> {
        let pod = || self.slice.get(&self.slice.pods, self.row).filter(|_| pod_names);
        match self.slice.get(&self.slice.hostnames, self.row).or_else(pod) {
            Some(label) => EndpointLabel::Given(label),
            None => EndpointLabel::Address(Dashed::endpoint(self.address())),
        }
    }

    /// Whether it is in this topology zone, given as labels in wire form.
    pub fn is_in_zone(self, zone: &[u8]) -> bool {
        let Some(text) = self.slice.get(&self.slice.zones, self.row) else { return false };
        let mut rest = zone;
        let mut parts = text.split(|&octet| octet == b'.');
        while let Some((&len, tail)) = rest.split_first() {
            let (label, tail) = tail.split_at(usize::from(len));
            if parts.next() != Some(label) {
                return false;
            }
            rest = tail;
        }
        parts.next().is_none()
    }
}

/// The label of an endpoint.
#[derive(Clone, Copy, Debug)]
pub enum EndpointLabel<'a> {
    /// A host name or Pod name.
    Given(&'a [u8]),
    /// Its address.
    Address(Dashed),
}

impl EndpointLabel<'_> {
    /// The label's octets.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            EndpointLabel::Given(label) => label,
            EndpointLabel::Address(dashed) => dashed.as_label(),
        }
    }
}

/// The name of an endpoint that is looked for.
#[derive(Clone, Copy, Debug)]
pub struct EndpointName<'a> {
    label: &'a [u8],
    /// The address, if the label may be one.
    address: Option<IpAddr>,
    pod_names: bool,
}

impl<'a> EndpointName<'a> {
    /// A name in lower case; `pod_names`: Pod names count.
    pub fn new(label: &'a [u8], pod_names: bool) -> EndpointName<'a> {
        EndpointName { label, address: parse_dashed(label), pod_names }
    }
}

impl Entry {
    /// An entry of these parts.
    pub fn new(service: Option<Arc<Service>>, slices: Vec<Arc<Slice>>) -> Entry {
        let headless = service.as_ref().is_some_and(|service| service.shape == Shape::Headless);
        let (v4, v6) = if headless {
            (union(slices.iter().map(|slice| slice.v4())), union(slices.iter().map(|slice| slice.v6())))
        } else {
            Default::default()
        };
        Entry { service, slices: slices.into(), v4, v6 }
    }

    /// Whether nothing is known.
    pub fn is_vacant(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }

    /// Whether some endpoint is ready.
    pub fn has_endpoints(&self) -> bool {
        self.slices.iter().any(|slice| !slice.is_empty())
    }

    /// Whether some endpoint has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.slices.iter().any(|slice| slice.has_address(address))
    }

    /// The target of an ExternalName, in lower case.
    pub fn external_name(&self) -> Option<Name<'_>> {
        match &self.service.as_ref()?.shape {
            Shape::ExternalName(Some(target)) => Some(target.as_name()),
            _ => None,
        }
    }
}

/// Sorted lists as one, each value once.
fn union<'a, T: Ord + Copy + 'a>(lists: impl Iterator<Item = &'a [T]>) -> Box<[T]> {
    let mut all: Vec<T> = lists.flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}
