//! Maps addresses to the Services that have them.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The key of a Service in the index: its label and its namespace's label in wire form, `\3web\7default`.
pub type ServiceKey = Arc<[u8]>;

/// The Services of each address. Addresses are sorted, so that inner nodes of the reverse tree can be distinguished
/// from names that do not exist (RFC 8020). Services are represented by numbers: an IPv4 address takes twelve bytes in
/// total.
#[derive(Debug, Default)]
pub(super) struct ReverseIndex {
    /// The owners of cluster addresses.
    clusters: AddressOwners,
    /// The owners of endpoint addresses.
    endpoints: AddressOwners,
    /// The keys of Services by number; empty for a free number.
    keys: Vec<ServiceKey>,
    /// The number of each Service, and the number of its addresses.
    numbers: HashMap<ServiceKey, (u32, usize), foldhash::fast::RandomState>,
    /// Free numbers.
    free: Vec<u32>,
}

/// Pairs of an address and the number of a Service that has it.
#[derive(Debug, Default)]
struct AddressOwners {
    v4: BTreeSet<(Ipv4Addr, u32)>,
    v6: BTreeSet<(Ipv6Addr, u32)>,
}

/// The role of an address for a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressRole {
    /// The address is a cluster address of the Service.
    Cluster,
    /// The address belongs to an endpoint of the Service.
    Endpoint,
}

impl ReverseIndex {
    /// Adds an address of a Service. Returns whether it is new.
    pub(super) fn add(&mut self, role: AddressRole, address: IpAddr, key: &[u8]) -> bool {
        let number = self.allocate_number(key);
        let added = self.owners_mut(role).add(address, number);
        if added {
            // The number is used once for each address.
            if let Some((_, uses)) = self.numbers.get_mut(key) {
                *uses += 1;
            }
        } else {
            self.free_unused(key);
        }
        added
    }

    /// Removes an address of a Service.
    pub(super) fn remove(&mut self, role: AddressRole, address: IpAddr, key: &[u8]) {
        let Some(&(number, _)) = self.numbers.get(key) else { return };
        if self.owners_mut(role).remove(address, number) {
            if let Some((_, uses)) = self.numbers.get_mut(key) {
                *uses -= 1;
            }
            self.free_unused(key);
        }
    }

    /// Returns the keys of the Services that have this address.
    pub(super) fn owners(&self, role: AddressRole, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.owners_with(role).services_at(address).map(|number| &self.keys[number as usize])
    }

    /// Returns whether any address is in this range.
    pub(super) fn has_within(&self, first: IpAddr, last: IpAddr) -> bool {
        self.clusters.has_within(first, last) || self.endpoints.has_within(first, last)
    }

    /// Returns whether no address is known and no number is in use.
    pub(super) fn is_empty(&self) -> bool {
        let owners = [&self.clusters, &self.endpoints];
        owners.iter().all(|owners| owners.v4.is_empty() && owners.v6.is_empty())
            && self.numbers.is_empty()
            && self.free.len() == self.keys.len()
    }

    fn owners_with(&self, role: AddressRole) -> &AddressOwners {
        match role {
            AddressRole::Cluster => &self.clusters,
            AddressRole::Endpoint => &self.endpoints,
        }
    }

    fn owners_mut(&mut self, role: AddressRole) -> &mut AddressOwners {
        match role {
            AddressRole::Cluster => &mut self.clusters,
            AddressRole::Endpoint => &mut self.endpoints,
        }
    }

    /// Returns the number of a Service, which is allocated if there is none.
    fn allocate_number(&mut self, key: &[u8]) -> u32 {
        if let Some(&(number, _)) = self.numbers.get(key) {
            return number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.keys.push(ServiceKey::from([]));
            self.keys.len() as u32 - 1
        });
        let key = ServiceKey::from(key);
        self.keys[number as usize] = key.clone();
        self.numbers.insert(key, (number, 0));
        number
    }

    /// Frees the number of a Service that has no address.
    fn free_unused(&mut self, key: &[u8]) {
        if let Some(&(number, 0)) = self.numbers.get(key) {
            self.numbers.remove(key);
            self.keys[number as usize] = ServiceKey::from([]);
            self.free.push(number);
        }
    }
}

impl AddressOwners {
    fn add(&mut self, address: IpAddr, number: u32) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.insert((address, number)),
            IpAddr::V6(address) => self.v6.insert((address, number)),
        }
    }

    fn remove(&mut self, address: IpAddr, number: u32) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.remove(&(address, number)),
            IpAddr::V6(address) => self.v6.remove(&(address, number)),
        }
    }

    /// Returns the numbers of the Services that have this address.
    fn services_at(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let (v4, v6) = match address {
            IpAddr::V4(address) => (Some(self.v4.range((address, 0)..=(address, u32::MAX))), None),
            IpAddr::V6(address) => (None, Some(self.v6.range((address, 0)..=(address, u32::MAX)))),
        };
        let v4 = v4.into_iter().flatten().map(|&(_, number)| number);
        v4.chain(v6.into_iter().flatten().map(|&(_, number)| number))
    }

    fn has_within(&self, first: IpAddr, last: IpAddr) -> bool {
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4.range((first, 0)..=(last, u32::MAX)).next().is_some(),
            (IpAddr::V6(first), IpAddr::V6(last)) => self.v6.range((first, 0)..=(last, u32::MAX)).next().is_some(),
            _ => false,
        }
    }
}
