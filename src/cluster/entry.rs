//! The entry of a Service in the index: typed arrays, small and immutable.
//!
//! There are many endpoints, so each is small: an address, and, if any endpoint of the slice has a name, an offset into
//! the names of the slice. The entry of a Service is replaced as a whole when any part of it changes; the old and the
//! new entry share its slices.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::address::{Dashed, parse_dashed};
use super::model::{self, Port};
use crate::wire::{Name, NameBuf};

/// All that is known about a `(namespace, Service)` key. Entries are equal if all answers from them are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The Service, or `None` while only its slices are known.
    pub service: Option<Arc<IndexedService>>,
    /// The slices of the Service, sorted by name.
    pub slices: Box<[Arc<Slice>]>,
    /// The IPv4 addresses of all slices of a headless Service, sorted and without duplicates.
    pub v4: Box<[Ipv4Addr]>,
    /// The IPv6 addresses of all slices of a headless Service, sorted and without duplicates.
    pub v6: Box<[Ipv6Addr]>,
}

/// A Service in the form that answers are built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexedService {
    /// What the name resolves to.
    pub shape: Shape,
    /// The ports, in their order.
    pub ports: Box<[Port]>,
}

/// What the name of a Service resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The cluster addresses, in their order and without duplicates.
    ClusterIp {
        /// The IPv4 addresses.
        v4: Box<[Ipv4Addr]>,
        /// The IPv6 addresses.
        v6: Box<[Ipv6Addr]>,
    },
    /// The ready endpoints.
    Headless,
    /// Another name. `None` if `externalName` is an address or not a name, so that there is no answer.
    ExternalName(Option<NameBuf>),
}

impl IndexedService {
    /// Converts from the model.
    pub fn new(service: &model::Service) -> IndexedService {
        let shape = match &service.kind {
            model::ServiceKind::ClusterIp(addresses) => {
                let (v4, v6) = split_families(addresses.iter().copied());
                Shape::ClusterIp { v4: v4.into(), v6: v6.into() }
            }
            model::ServiceKind::Headless => Shape::Headless,
            model::ServiceKind::ExternalName(target) => {
                // An address cannot be the target of a CNAME; CoreDNS then acts as if the Service did not exist.
                let is_address = target.parse::<IpAddr>().is_ok();
                Shape::ExternalName(NameBuf::from_text(target).ok().filter(|_| !is_address).map(|name| name.to_lower()))
            }
        };
        IndexedService { shape, ports: service.ports.clone().into() }
    }
}

/// Returns addresses by family, in their order and without duplicates.
fn split_families(addresses: impl Iterator<Item = IpAddr>) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    // The API server allows two addresses; a manifest may contain any number.
    let mut seen = HashSet::with_hasher(foldhash::fast::RandomState::default());
    for address in addresses.filter(|&address| seen.insert(address)) {
        match address {
            IpAddr::V4(address) => v4.push(address),
            IpAddr::V6(address) => v6.push(address),
        }
    }
    (v4, v6)
}

/// A packed EndpointSlice. A row is an address of a ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The name of the slice, by which it is found in the entry of its Service.
    pub name: Box<str>,
    /// The ports of every row; empty for a slice without ports.
    pub ports: Box<[Port]>,
    /// IPv4 rows, sorted by address. An address of two endpoints has two rows.
    v4: Box<[Ipv4Addr]>,
    /// IPv6 rows, which follow the IPv4 rows, sorted by address.
    v6: Box<[Ipv6Addr]>,
    /// Host names, Pod names and topology zones.
    hostnames: Column,
    pods: Column,
    zones: Column,
    /// Row numbers sorted by host name; empty if no row has one.
    by_hostname: Box<[u32]>,
    /// The text of all columns, each value after its length (at most 255); offset 0 is unused.
    text: Box<[u8]>,
}

/// An optional text for each row: an offset in [`Slice::text`], or 0 for none. Empty if no row has one.
type Column = Box<[u32]>;

/// The fields of an endpoint that the index stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointFields {
    /// Pod names (`endpoint_pod_names`).
    pub pods: bool,
    /// Topology zones (`zonal`).
    pub zones: bool,
}

impl Slice {
    /// Converts from the model.
    pub fn new(slice: &model::EndpointSlice, fields: EndpointFields) -> Slice {
        let mut rows: Vec<(IpAddr, &model::Endpoint)> = Vec::new();
        for endpoint in &slice.endpoints {
            rows.extend(endpoint.addresses.iter().map(|&address| (address, endpoint)));
        }
        // The zone is that of the address: if a slice lists an address more than once, the last entry with a zone
        // decides, as in CoreDNS.
        let zoned = rows.iter().filter(|_| fields.zones).filter_map(|row| Some((row.0, row.1.zone.as_deref()?)));
        let zone_of: HashMap<IpAddr, &str> = zoned.collect();
        // IPv4 sorts before IPv6.
        rows.sort_by(|a, b| (a.0, &a.1.hostname, &a.1.pod).cmp(&(b.0, &b.1.hostname, &b.1.pod)));
        let mut text = TextBuilder { bytes: vec![0] };
        let hostnames = text.column(rows.iter().map(|row| row.1.hostname.as_deref()));
        let pods = text.column(rows.iter().map(|row| row.1.pod.as_deref().filter(|_| fields.pods)));
        let zones = text.column(rows.iter().map(|row| zone_of.get(&row.0).copied()));
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
            text: text.bytes.into(),
        }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Returns whether no endpoint is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the IPv4 addresses, sorted.
    pub fn v4(&self) -> &[Ipv4Addr] {
        &self.v4
    }

    /// Returns the IPv6 addresses, sorted.
    pub fn v6(&self) -> &[Ipv6Addr] {
        &self.v6
    }

    /// Returns all addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        (0..self.len()).map(|row| self.address(row))
    }

    /// Returns whether a row has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        !self.rows_with_address(address).is_empty()
    }

    /// Returns all rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len()).map(|row| Row { slice: self, row })
    }

    /// Returns the range of the rows with this address.
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

    /// Returns the rows of the endpoint with this name.
    pub fn rows_named<'a>(&'a self, endpoint: &'a EndpointName<'_>) -> impl Iterator<Item = Row<'a>> {
        let hostname = |row: &u32| self.get(&self.hostnames, *row as usize).unwrap_or_default();
        let from = self.by_hostname.partition_point(|row| hostname(row) < endpoint.label);
        let named = self.by_hostname[from..].iter().take_while(move |row| hostname(row) == endpoint.label);
        let by_hostname = named.map(|&row| row as usize);
        let by_address = endpoint.address.map_or(0..0, |address| self.rows_with_address(address));
        let found_by_address = by_address.clone();
        // Pod names are not sorted: they are searched only if a stanza has `endpoint_pod_names`.
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

/// Builds the text of a slice.
struct TextBuilder {
    bytes: Vec<u8>,
}

impl TextBuilder {
    /// Stores a column; equal texts in adjacent rows are stored once.
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
            let at = self.bytes.len() as u32;
            self.bytes.push(text.len() as u8);
            self.bytes.extend(text.bytes());
            previous = Some((text, at));
            at
        })
        .collect()
    }

    fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        &self.bytes[at + 1..at + 1 + usize::from(self.bytes[at])]
    }
}

/// A row of a slice: an address of a ready endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    slice: &'a Slice,
    row: usize,
}

impl<'a> Row<'a> {
    /// Returns row number `row` of a slice.
    pub fn new(slice: &'a Slice, row: usize) -> Row<'a> {
        Row { slice, row }
    }

    /// Returns the slice of the row.
    pub fn slice(self) -> &'a Slice {
        self.slice
    }

    /// Returns the number of the row in its slice.
    pub fn number(self) -> usize {
        self.row
    }

    /// Returns the address.
    pub fn address(self) -> IpAddr {
        self.slice.address(self.row)
    }

    /// Returns the name of the endpoint: its host name; otherwise the name of its Pod, if `pod_names` is set; otherwise
    /// its address with dashes.
    pub fn label(self, pod_names: bool) -> EndpointLabel<'a> {
        let pod = || self.slice.get(&self.slice.pods, self.row).filter(|_| pod_names);
        match self.slice.get(&self.slice.hostnames, self.row).or_else(pod) {
            Some(label) => EndpointLabel::Given(label),
            None => EndpointLabel::Address(Dashed::endpoint(self.address())),
        }
    }

    /// Returns whether the endpoint is in this topology zone, given as labels in wire form.
    pub fn is_in_zone(self, zone: &[u8]) -> bool {
        let Some(text) = self.slice.get(&self.slice.zones, self.row) else { return false };
        let mut rest = zone;
        let mut parts = text.split(|&byte| byte == b'.');
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
    /// The dashed address.
    Address(Dashed),
}

impl EndpointLabel<'_> {
    /// Returns the bytes of the label.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            EndpointLabel::Given(label) => label,
            EndpointLabel::Address(dashed) => dashed.as_label(),
        }
    }
}

/// The name of an endpoint in a query.
#[derive(Clone, Copy, Debug)]
pub struct EndpointName<'a> {
    label: &'a [u8],
    /// The address, if the label is a valid one.
    address: Option<IpAddr>,
    pod_names: bool,
}

impl<'a> EndpointName<'a> {
    /// Creates a name from a label in lower case. `pod_names` selects whether names of Pods match.
    pub fn new(label: &'a [u8], pod_names: bool) -> EndpointName<'a> {
        EndpointName { label, address: parse_dashed(label), pod_names }
    }
}

impl ServiceEntry {
    /// Creates an entry.
    pub fn new(service: Option<Arc<IndexedService>>, slices: Vec<Arc<Slice>>) -> ServiceEntry {
        let headless = service.as_ref().is_some_and(|service| service.shape == Shape::Headless);
        let (v4, v6) = if headless {
            (union(slices.iter().map(|slice| slice.v4())), union(slices.iter().map(|slice| slice.v6())))
        } else {
            Default::default()
        };
        ServiceEntry { service, slices: slices.into(), v4, v6 }
    }

    /// Returns whether neither the Service nor a slice is known.
    pub fn is_vacant(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }

    /// Returns whether an endpoint is ready.
    pub fn has_endpoints(&self) -> bool {
        self.slices.iter().any(|slice| !slice.is_empty())
    }

    /// Returns whether an endpoint has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.slices.iter().any(|slice| slice.has_address(address))
    }

    /// Returns the target of an ExternalName, in lower case.
    pub fn external_name(&self) -> Option<Name<'_>> {
        match &self.service.as_ref()?.shape {
            Shape::ExternalName(Some(target)) => Some(target.as_name()),
            _ => None,
        }
    }
}

/// Merges lists into a sorted one without duplicates.
fn union<'a, T: Ord + Copy + 'a>(lists: impl Iterator<Item = &'a [T]>) -> Box<[T]> {
    let mut all: Vec<T> = lists.flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}
