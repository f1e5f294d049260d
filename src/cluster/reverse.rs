//! From an address to the Services that have it.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The key of a Service in the index: its label and its namespace's in wire form, `\3web\7default`.
pub type ServiceKey = Arc<[u8]>;

/// Which Services have which address, in order, so that inner nodes of the reverse tree can be told from names that do
/// not exist (RFC 8020). A Service is a number here: twelve octets an IPv4 address all told.
#[derive(Debug, Default)]
pub(super) struct Reverse {
    /// Cluster addresses.
    clusters: Owners,
    /// Addresses of endpoints.
    endpoints: Owners,
    /// The keys of Services by number; empty where a number is free.
    keys: Vec<ServiceKey>,
    /// The numbers of Services in use.
    numbers: HashMap<ServiceKey, (u32, usize), foldhash::fast::RandomState>,
    /// Numbers to use again.
    free: Vec<u32>,
}

/// Pairs of an address and the number of a Service that has it.
#[derive(Debug, Default)]
struct Owners {
    v4: BTreeSet<(Ipv4Addr, u32)>,
    v6: BTreeSet<(Ipv6Addr, u32)>,
}

/// What an address is to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Its cluster address.
    Cluster,
    /// An endpoint's address.
    Endpoint,
}

impl Reverse {
    /// Notes that a Service has an address. Says whether that is new.
    pub fn add(&mut self, role: Role, address: IpAddr, key: &[u8]) -> bool {
        let number = self.take_number(key);
        let added = self.owners_mut(role).add(address, number);
        if added {
            // The number is held once for each address.
            if let Some((_, uses)) = self.numbers.get_mut(key) {
                *uses += 1;
            }
        } else {
            self.drop_unused(key);
        }
        added
    }

    /// Notes that a Service has an address no longer.
    pub fn remove(&mut self, role: Role, address: IpAddr, key: &[u8]) {
        let Some(&(number, _)) = self.numbers.get(key) else { return };
        if self.owners_mut(role).remove(address, number) {
            if let Some((_, uses)) = self.numbers.get_mut(key) {
                *uses -= 1;
            }
            self.drop_unused(key);
        }
    }

    /// The keys of the Services that have this address.
    pub fn owners(&self, role: Role, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.owners_of(role).of(address).map(|number| &self.keys[number as usize])
    }

    /// Whether any address lies in this range.
    pub fn has_within(&self, first: IpAddr, last: IpAddr) -> bool {
        self.clusters.has_within(first, last) || self.endpoints.has_within(first, last)
    }

    /// Whether no address is known and no number is in use.
    pub fn is_empty(&self) -> bool {
        let owners = [&self.clusters, &self.endpoints];
        owners.iter().all(|owners| owners.v4.is_empty() && owners.v6.is_empty())
            && self.numbers.is_empty()
            && self.free.len() == self.keys.len()
    }

    fn owners_of(&self, role: Role) -> &Owners {
        match role {
            Role::Cluster => &self.clusters,
            Role::Endpoint => &self.endpoints,
        }
    }

    fn owners_mut(&mut self, role: Role) -> &mut Owners {
        match role {
            Role::Cluster => &mut self.clusters,
            Role::Endpoint => &mut self.endpoints,
        }
    }

    /// The Service's number, or a new one.
    fn take_number(&mut self, key: &[u8]) -> u32 {
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

    /// Frees the Service's number once it has no address.
    fn drop_unused(&mut self, key: &[u8]) {
        if let Some(&(number, 0)) = self.numbers.get(key) {
            self.numbers.remove(key);
            self.keys[number as usize] = ServiceKey::from([]);
            self.free.push(number);
        }
    }
}

impl Owners {
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

    fn of(&self, address: IpAddr) -> impl Iterator<Item = u32> {
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
