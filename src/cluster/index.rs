//! The cluster's state: one writer applies events, many readers look up.
//!
//! ```text
//! Event ─► IndexWriter::apply ─► services: dashmap of \3web\7default → Arc<Entry>   ◄─ Index::lookup (many threads)
//!                             ├► namespaces, pods: dashmaps
//!                             └► reverse: address → Services
//! ```
//!
//! A reader takes a whole entry by its reference count and lets go of the map at once, so that no guard is ever held
//! while another look-up starts, and a long answer never makes the writer wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use dashmap::DashMap;
use parking_lot::RwLock;

use super::entry::{Entry, Keep, Service, Shape, Slice};
use super::event::Event;
use super::model::{Key, Kind, Object, Pod};
use super::reverse::{Reverse, Role, ServiceKey};

type Hasher = foldhash::fast::RandomState;

/// A few keys. An address seldom belongs to more Services than fit without an allocation.
pub type ServiceKeys = smallvec::SmallVec<[ServiceKey; 4]>;

/// The read side. Cheap to share; every method may be called from any thread.
#[derive(Debug, Default)]
pub struct Index {
    /// `\3web\7default` → what is known of it. Written by the writer only; read on the path of a query under the lock of
    /// one shard, for as long as it takes to raise a reference count.
    services: DashMap<Box<[u8]>, Arc<Entry>, Hasher>,
    /// The namespaces that exist, by label.
    namespaces: DashMap<Box<[u8]>, (), Hasher>,
    /// Pods by address; several where they share their node's.
    pods: DashMap<IpAddr, Box<[Arc<Pod>]>, Hasher>,
    /// Addresses. Read for PTR and for the server's own names; the writer holds the lock for one Service's change.
    reverse: RwLock<Reverse>,
    /// A bit for each kind whose first full list is complete.
    synced: AtomicU8,
    /// The kinds that must be, before the state counts as known.
    wanted: u8,
    /// Unix seconds of the last change that an answer depends on; 0 before the first.
    serial: AtomicU32,
}

/// How an index is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kinds that its source lists.
    pub kinds: Vec<Kind>,
    /// What is kept of an endpoint.
    pub keep: Keep,
}

/// The write side.
#[derive(Debug)]
pub struct IndexWriter {
    index: Arc<Index>,
    keep: Keep,
    /// For each kind, the number of the list that is under way or was last. An object that a list did not name still has
    /// an older number when it ends.
    lists: [List; 4],
    /// What exists by key, with the number of the list that named it last.
    namespaces: HashMap<Key, u32, Hasher>,
    services: HashMap<Key, u32, Hasher>,
    slices: HashMap<Key, SliceRecord, Hasher>,
    pods: HashMap<Key, (u32, Arc<Pod>), Hasher>,
}

/// Where the lists of a kind stand.
#[derive(Clone, Copy, Debug, Default)]
struct List {
    number: u32,
    under_way: bool,
}

/// A slice that exists.
#[derive(Debug)]
struct SliceRecord {
    list: u32,
    /// The key of its Service's entry.
    service: Box<[u8]>,
    slice: Arc<Slice>,
}

/// What an event changed, for metrics, cached answers and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The keys of the Services whose answers may have changed, as the index has them (`\3web\7default`).
    pub services: Vec<Box<[u8]>>,
    /// The addresses whose reverse names may have changed.
    pub addresses: Vec<IpAddr>,
    /// The namespaces that came or went.
    pub namespaces: Vec<Box<str>>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.addresses.is_empty() && self.namespaces.is_empty()
    }
}

impl Index {
    /// An empty index and its writer.
    pub fn new(options: &Options) -> (Arc<Index>, IndexWriter) {
        let wanted = options.kinds.iter().fold(0, |bits, &kind| bits | bit(kind));
        let index = Arc::new(Index { wanted, ..Index::default() });
        let writer = IndexWriter {
            index: index.clone(),
            keep: options.keep,
            lists: Default::default(),
            namespaces: HashMap::default(),
            services: HashMap::default(),
            slices: HashMap::default(),
            pods: HashMap::default(),
        };
        (index, writer)
    }

    /// Whether each wanted kind has been listed once.
    pub fn synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) & self.wanted == self.wanted
    }

    /// Whether objects of this kind are listed at all.
    pub fn lists(&self, kind: Kind) -> bool {
        self.wanted & bit(kind) != 0
    }

    /// The wanted kinds that have not been listed yet.
    pub fn unsynced(&self) -> impl Iterator<Item = Kind> {
        let missing = self.wanted & !self.synced.load(Ordering::Acquire);
        Kind::ALL.into_iter().filter(move |&kind| missing & bit(kind) != 0)
    }

    /// Unix seconds of the last change that an answer depends on; 0 before the first.
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, ns: &[u8]) -> bool {
        self.namespaces.contains_key(ns)
    }

    /// What is known under a key.
    pub fn entry(&self, key: &[u8]) -> Option<Arc<Entry>> {
        self.services.get(key).map(|entry| entry.clone())
    }

    /// Calls `visit` for each live Pod that has this address.
    pub fn pods_at(&self, address: IpAddr, mut visit: impl FnMut(&Pod)) {
        if let Some(pods) = self.pods.get(&address) {
            pods.iter().for_each(|pod| visit(pod));
        }
    }

    /// The key of the Service that has this cluster address. Where hand-written manifests give one address to several,
    /// it is the first in order, whatever came first.
    pub fn cluster_owner(&self, address: IpAddr, mut exposed: impl FnMut(&[u8]) -> bool) -> Option<ServiceKey> {
        let reverse = self.reverse.read();
        reverse.owners(Role::Cluster, address).filter(|key| exposed(key)).min().cloned()
    }

    /// The keys of the Services that have an endpoint with this address, in order.
    pub fn endpoint_owners(&self, address: IpAddr) -> ServiceKeys {
        let mut keys: ServiceKeys = self.reverse.read().owners(Role::Endpoint, address).cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// Whether any known address lies in this range.
    pub fn has_address_within(&self, first: IpAddr, last: IpAddr) -> bool {
        self.reverse.read().has_within(first, last)
    }

    /// Whether nothing at all is known: no Service, slice, namespace, Pod or address.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty() && self.pods.is_empty() && self.reverse.read().is_empty()
    }
}

/// A kind's bit.
const fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

/// The key of a Service in the index: its label and its namespace's, in wire form. `None` where one is no label.
pub fn service_key(ns: &str, name: &str) -> Option<Box<[u8]>> {
    let mut key = Vec::with_capacity(ns.len() + name.len() + 2);
    for label in [name, ns] {
        if label.is_empty() || label.len() > crate::wire::name::MAX_LABEL {
            return None;
        }
        key.push(label.len() as u8);
        key.extend(label.bytes().map(|octet| octet.to_ascii_lowercase()));
    }
    Some(key.into())
}

impl IndexWriter {
    /// The read side.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// What it keeps of an endpoint.
    pub fn keeps(&self) -> Keep {
        self.keep
    }

    /// How many objects of a kind are known.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Pod => self.pods.len(),
        }
    }

    /// Applies an event that was seen at `now` (Unix seconds), and says what it changed.
    pub fn apply(&mut self, event: Event, now: u32) -> Changes {
        let mut changes = Changes::default();
        match event {
            Event::Begin(kind) => {
                let list = &mut self.lists[kind as usize];
                list.number = list.number.wrapping_add(1);
                list.under_way = true;
            }
            Event::Upsert(object) => self.upsert(object, &mut changes),
            Event::Keep(kind, key) => self.keep(kind, &key),
            Event::Remove(kind, key) => self.remove(kind, &key, &mut changes),
            Event::End(kind) => self.end(kind, &mut changes),
        }
        // A Namespace changes which names exist but no record of the zone (CoreDNS moves no serial for it either).
        if !changes.services.is_empty() || !changes.addresses.is_empty() {
            self.index.serial.store(now, Ordering::Relaxed);
        }
        changes
    }

    /// Ends a list: what it did not name is gone.
    fn end(&mut self, kind: Kind, changes: &mut Changes) {
        let list = &mut self.lists[kind as usize];
        // Without a beginning it is no list, and would sweep what a later one is about to name.
        if !std::mem::take(&mut list.under_way) {
            return;
        }
        let number = list.number;
        let gone = |&(_, list): &(&Key, u32)| list != number;
        let keys: Vec<Key> = match kind {
            Kind::Namespace => stale(self.namespaces.iter().map(|(key, &list)| (key, list)), gone),
            Kind::Service => stale(self.services.iter().map(|(key, &list)| (key, list)), gone),
            Kind::EndpointSlice => stale(self.slices.iter().map(|(key, record)| (key, record.list)), gone),
            Kind::Pod => stale(self.pods.iter().map(|(key, record)| (key, record.0)), gone),
        };
        for key in keys {
            self.remove(kind, &key, changes);
        }
        self.index.synced.fetch_or(bit(kind), Ordering::Release);
    }

    fn upsert(&mut self, object: Object, changes: &mut Changes) {
        let list = self.lists[object.kind() as usize].number;
        match object {
            Object::Namespace(key) => {
                let label = key.name.as_bytes().to_ascii_lowercase().into_boxed_slice();
                if self.namespaces.insert(key.clone(), list).is_none() {
                    self.index.namespaces.insert(label, ());
                    changes.namespaces.push(key.name);
                }
            }
            Object::Service(service) => {
                let Some(key) = service_key(&service.key.ns, &service.key.name) else { return };
                let new = Service::new(&service);
                self.services.insert(service.key, list);
                let old = self.index.entry(&key);
                if old.as_ref().and_then(|entry| entry.service.as_deref()) != Some(&new) {
                    self.publish(&key, old.as_deref(), Some(Arc::new(new)), None, changes);
                }
            }
            Object::EndpointSlice(slice) => {
                let Some(service) = service_key(&slice.key.ns, &slice.service) else {
                    // Whatever it was, it belongs to nobody now.
                    return self.remove(Kind::EndpointSlice, &slice.key, changes);
                };
                let new = Slice::new(&slice, self.keep);
                if let Some(old) = self.slices.get_mut(&slice.key)
                    && old.service == service
                    && *old.slice == new
                {
                    // The entry holds the old one, and a list must not leave a second beside it.
                    old.list = list;
                    return;
                }
                let new = Arc::new(new);
                let record = SliceRecord { list, service: service.clone(), slice: new.clone() };
                match self.slices.insert(slice.key, record) {
                    // Its label names another Service now.
                    Some(old) if old.service != service => {
                        self.replace_slice(&old.service, &old.slice.name, None, changes)
                    }
                    _ => {}
                }
                self.replace_slice(&service, &new.name.clone(), Some(new), changes);
            }
            Object::Pod(pod) => {
                if let Some((named, old)) = self.pods.get_mut(&pod.key)
                    && **old == pod
                {
                    *named = list;
                    return;
                }
                let pod = Arc::new(pod);
                let old = self.pods.insert(pod.key.clone(), (list, pod.clone()));
                for &address in &pod.addresses {
                    let mut pods = self.index.pods.entry(address).or_default();
                    // An address that it keeps is never without it, not even between two look-ups.
                    let mut all: Vec<Arc<Pod>> = pods.iter().filter(|have| have.key != pod.key).cloned().collect();
                    all.push(pod.clone());
                    // Whatever came first, the answer is the same.
                    all.sort_by(|a, b| a.key.cmp(&b.key));
                    *pods = all.into();
                    changes.addresses.push(address);
                }
                if let Some((_, old)) = old {
                    gone(old.addresses.iter().copied(), pod.addresses.iter().copied())
                        .for_each(|address| self.remove_pod_address(&old.key, address, changes));
                }
            }
        }
    }

    /// Counts an object as named by the list that is under way.
    fn keep(&mut self, kind: Kind, key: &Key) {
        let list = self.lists[kind as usize].number;
        let named = match kind {
            Kind::Namespace => self.namespaces.get_mut(key),
            Kind::Service => self.services.get_mut(key),
            Kind::EndpointSlice => self.slices.get_mut(key).map(|record| &mut record.list),
            Kind::Pod => self.pods.get_mut(key).map(|(named, _)| named),
        };
        if let Some(named) = named {
            *named = list;
        }
    }

    fn remove(&mut self, kind: Kind, key: &Key, changes: &mut Changes) {
        match kind {
            Kind::Namespace => {
                if self.namespaces.remove(key).is_some() {
                    self.index.namespaces.remove(&key.name.as_bytes().to_ascii_lowercase()[..]);
                    changes.namespaces.push(key.name.clone());
                }
            }
            Kind::Service => {
                if self.services.remove(key).is_some()
                    && let Some(key) = service_key(&key.ns, &key.name)
                {
                    let old = self.index.entry(&key);
                    self.publish(&key, old.as_deref(), None, None, changes);
                }
            }
            Kind::EndpointSlice => {
                if let Some(record) = self.slices.remove(key) {
                    self.replace_slice(&record.service, &record.slice.name, None, changes);
                }
            }
            Kind::Pod => {
                if let Some((_, pod)) = self.pods.remove(key) {
                    pod.addresses.iter().for_each(|&address| self.remove_pod_address(key, address, changes));
                }
            }
        }
    }

    /// Puts a slice into its Service's entry in the place of the one with this name, or takes that one out.
    fn replace_slice(&mut self, key: &[u8], name: &str, slice: Option<Arc<Slice>>, changes: &mut Changes) {
        let old = self.index.entry(key);
        let service = old.as_ref().and_then(|entry| entry.service.clone());
        let mut slices = old.as_ref().map(|entry| entry.slices.to_vec()).unwrap_or_default();
        match (slices.binary_search_by(|have| (*have.name).cmp(name)), slice) {
            (Ok(at), Some(slice)) => slices[at] = slice,
            (Ok(at), None) => drop(slices.remove(at)),
            (Err(at), Some(slice)) => slices.insert(at, slice),
            (Err(_), None) => {}
        }
        self.publish(key, old.as_deref(), service, Some(slices), changes);
    }

    /// Replaces an entry whole. Names follow before addresses, so that a reverse name never leads to a missing one.
    fn publish(
        &mut self, key: &[u8], old: Option<&Entry>, service: Option<Arc<Service>>, slices: Option<Vec<Arc<Slice>>>,
        changes: &mut Changes,
    ) {
        let vacant = Entry::default();
        let old = old.unwrap_or(&vacant);
        let slices = slices.unwrap_or_else(|| old.slices.to_vec());
        let new = Arc::new(Entry::new(service, slices));
        if new.is_vacant() {
            self.index.services.remove(key);
        } else if let Some(mut entry) = self.index.services.get_mut(key) {
            *entry = new.clone();
        } else {
            self.index.services.insert(key.into(), new.clone());
        }
        changes.services.push(key.into());

        let mut reverse = self.index.reverse.write();
        // What both entries share needs no look, a Service or a slice.
        if old.service.as_ref().map(Arc::as_ptr) != new.service.as_ref().map(Arc::as_ptr) {
            for address in gone(cluster_addresses(old), cluster_addresses(&new)) {
                reverse.remove(Role::Cluster, address, key);
                changes.addresses.push(address);
            }
            for address in cluster_addresses(&new) {
                if reverse.add(Role::Cluster, address, key) {
                    changes.addresses.push(address);
                }
            }
        }
        // Nor does an address that its slice keeps.
        let kept = |slices: &[Arc<Slice>], slice: &Slice, address| {
            named(slices, &slice.name).is_some_and(|at| slices[at].has_address(address))
        };
        for slice in changed(&old.slices, &new.slices) {
            for address in slice.addresses().filter(|&address| !kept(&new.slices, slice, address)) {
                if !new.has_address(address) {
                    reverse.remove(Role::Endpoint, address, key);
                    changes.addresses.push(address);
                }
            }
        }
        for slice in changed(&new.slices, &old.slices) {
            for address in slice.addresses().filter(|&address| !kept(&old.slices, slice, address)) {
                if reverse.add(Role::Endpoint, address, key) {
                    changes.addresses.push(address);
                }
            }
        }
    }

    /// Takes a Pod away from an address.
    fn remove_pod_address(&self, key: &Key, address: IpAddr, changes: &mut Changes) {
        let mut left = 0;
        if let Some(mut pods) = self.index.pods.get_mut(&address) {
            let others: Vec<Arc<Pod>> = pods.iter().filter(|have| have.key != *key).cloned().collect();
            left = others.len();
            *pods = others.into();
        }
        if left == 0 {
            self.index.pods.remove(&address);
        }
        changes.addresses.push(address);
    }
}

/// The keys of what is gone.
fn stale<'a>(objects: impl Iterator<Item = (&'a Key, u32)>, gone: impl Fn(&(&'a Key, u32)) -> bool) -> Vec<Key> {
    objects.filter(gone).map(|(key, _)| key.clone()).collect()
}

/// Where the slice with this name is.
fn named(slices: &[Arc<Slice>], name: &str) -> Option<usize> {
    slices.binary_search_by(|have| (*have.name).cmp(name)).ok()
}

/// The slices of `these` that are not in `those`.
fn changed<'a>(these: &'a [Arc<Slice>], those: &'a [Arc<Slice>]) -> impl Iterator<Item = &'a Arc<Slice>> {
    these.iter().filter(move |slice| !named(those, &slice.name).is_some_and(|at| Arc::ptr_eq(&those[at], slice)))
}

/// The addresses of `old` that are not in `new`.
fn gone(old: impl Iterator<Item = IpAddr>, new: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = IpAddr> {
    let mut new: Vec<IpAddr> = new.collect();
    new.sort_unstable();
    old.filter(move |address| new.binary_search(address).is_err())
}

/// The cluster addresses of an entry's Service.
fn cluster_addresses(entry: &Entry) -> impl Iterator<Item = IpAddr> {
    let (v4, v6) = match entry.service.as_deref().map(|service| &service.shape) {
        Some(Shape::ClusterIp { v4, v6 }) => (&**v4, &**v6),
        _ => Default::default(),
    };
    v4.iter().copied().map(IpAddr::V4).chain(v6.iter().copied().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use super::super::model::{Endpoint, EndpointSlice};
    use super::*;

    fn writer() -> IndexWriter {
        Index::new(&Options { kinds: Kind::ALL.to_vec(), keep: Keep::default() }).1
    }

    fn slice(service: &str) -> Event {
        let addresses = [IpAddr::from([10, 0, 0, 1])].into_iter().collect();
        let endpoints = vec![Endpoint { addresses, hostname: None, pod: None, zone: None }];
        let (key, ports) = (Key::new("a", "s"), Vec::new());
        Event::Upsert(Object::EndpointSlice(EndpointSlice { key, service: service.into(), endpoints, ports }))
    }

    fn pod(label: &str) -> Event {
        let labels = vec![("app".into(), label.into())];
        Event::Upsert(Object::Pod(Pod {
            key: Key::new("a", "p"),
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            labels,
        }))
    }

    #[test]
    fn a_list_of_what_is_known_leaves_no_second_copy() {
        let mut writer = writer();
        for event in [slice("web"), pod("x")] {
            writer.apply(event.clone(), 1);
            assert!(writer.apply(event, 2).is_empty());
        }
        // One count in the writer, one in what readers see.
        assert!(writer.slices.values().all(|record| Arc::strong_count(&record.slice) == 2));
        assert!(writer.pods.values().all(|(_, pod)| Arc::strong_count(pod) == 2));
    }

    #[test]
    fn a_slice_that_belongs_to_nobody_any_more_is_gone() {
        let mut writer = writer();
        writer.apply(slice("web"), 1);
        assert_eq!(writer.apply(slice(""), 2).addresses, [IpAddr::from([10, 0, 0, 1])]);
        assert!(writer.index().is_empty());
    }

    #[test]
    fn a_pod_that_changes_is_known_once() {
        let mut writer = writer();
        writer.apply(pod("x"), 1);
        writer.apply(pod("y"), 2);
        let mut labels = Vec::new();
        writer.index().pods_at(IpAddr::from([10, 0, 0, 1]), |pod| labels.push(pod.labels[0].1.clone()));
        assert_eq!(labels, ["y".into()]);
    }

    #[test]
    fn a_pod_that_is_kept_outlives_a_list_and_one_that_is_not_does_not() {
        let kept = |keep: bool| {
            let mut writer = writer();
            writer.apply(pod("x"), 1);
            writer.apply(Event::Begin(Kind::Pod), 2);
            if keep {
                assert!(writer.apply(Event::Keep(Kind::Pod, Key::new("a", "p")), 2).is_empty());
            }
            writer.apply(Event::Keep(Kind::Pod, Key::new("a", "unknown")), 2);
            writer.apply(Event::End(Kind::Pod), 2);
            writer.count(Kind::Pod)
        };
        assert_eq!((kept(true), kept(false)), (1, 0));
    }

    #[test]
    fn names_in_capitals_come_and_go_alike() {
        let mut writer = writer();
        writer.apply(Event::Upsert(Object::Namespace(Key::new("", "A"))), 1);
        assert!(writer.index().has_namespace(b"a"));
        writer.apply(Event::Remove(Kind::Namespace, Key::new("", "A")), 2);
        assert!(writer.index().is_empty());
    }
}
