//! The state of the cluster: one writer applies events, many readers look up.
//!
//! ```text
//! Event ─► IndexWriter::apply ─► services: \3web\7default → Arc<ServiceEntry>   ◄─ Index::lookup (many threads)
//!                             ├► namespaces, pods: dashmaps
//!                             └► reverse: address → Services
//! ```
//!
//! A reader takes a reference to an entry and releases the map at once. So no guard is held while another look-up
//! starts, and a long answer does not delay the writer.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::RwLock;

use super::entry::{EndpointFields, IndexedService, ServiceEntry, Shape, Slice};
use super::event::Event;
use super::model::{Kind, Object, ObjectKey, Pod};
use super::reverse::{AddressRole, ReverseIndex, ServiceKey};

type Hasher = foldhash::fast::RandomState;

/// The time for which the namespace of an address is uncertain after a Pod of another namespace had it. Events of the
/// two Pods, and their last packets, may be late by less than that.
const FORMER_POD: Duration = Duration::from_secs(60);

/// A few keys. Few addresses belong to more Services than fit without an allocation.
pub type ServiceKeys = smallvec::SmallVec<[ServiceKey; 4]>;

/// The read side of the index. Every method may be called from any thread.
#[derive(Debug, Default)]
pub struct Index {
    /// `\3web\7default` → the entry of the Service. Only the writer writes; queries read under the lock of one shard,
    /// for the time of raising a reference count.
    services: DashMap<Box<[u8]>, Arc<ServiceEntry>, Hasher>,
    /// The existing namespaces, by label.
    namespaces: DashMap<Box<[u8]>, (), Hasher>,
    /// Pods by address. Pods that use the address of their node share it.
    pods: DashMap<IpAddr, Box<[Arc<Pod>]>, Hasher>,
    /// The addresses that Pods had until a short time ago. The writer adds and removes; read only by
    /// [`Index::client_pod`].
    former_pods: DashMap<IpAddr, FormerPod, Hasher>,
    /// Services by address. Read for PTR and for the server's own names; the writer holds the lock while it changes one
    /// Service.
    reverse: RwLock<ReverseIndex>,
    /// A bit for each kind whose first list is complete.
    synced: AtomicU8,
    /// The bits of the kinds that must be listed before the index is synced.
    wanted: u8,
    /// The time of the last change of a record, in Unix seconds; 0 before the first.
    serial: AtomicU32,
}

/// A Pod that had an address.
#[derive(Debug)]
struct FormerPod {
    /// Its namespace; empty for Pods of several namespaces.
    ns: Box<str>,
    /// When it lost the address, in Unix seconds.
    since: u32,
    /// The first look-up since then. Readers have another clock than the writer.
    seen: OnceLock<Instant>,
}

/// The options of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kinds that the source lists.
    pub kinds: Vec<Kind>,
    /// The fields of endpoints to store.
    pub endpoint_fields: EndpointFields,
}

/// The write side of the index.
#[derive(Debug)]
pub struct IndexWriter {
    index: Arc<Index>,
    endpoint_fields: EndpointFields,
    /// The current or last list of each kind. Objects that a list does not contain still have the number of an older
    /// list when it is complete.
    lists: [ListProgress; 4],
    /// The existing objects by key, with the number of the last list that contained them.
    namespaces: HashMap<ObjectKey, u32, Hasher>,
    services: HashMap<ObjectKey, u32, Hasher>,
    slices: HashMap<ObjectKey, SliceRecord, Hasher>,
    pods: HashMap<ObjectKey, (u32, Arc<Pod>), Hasher>,
    /// The addresses of `Index::former_pods` with the times when they were added, the oldest first.
    former_addresses: VecDeque<(u32, IpAddr)>,
    /// The time of the current event, in Unix seconds.
    now: u32,
}

/// The progress of the lists of a kind.
#[derive(Clone, Copy, Debug, Default)]
struct ListProgress {
    /// The number of the current or last list.
    number: u32,
    /// Whether the list is not complete yet.
    is_in_progress: bool,
}

/// A known slice.
#[derive(Debug)]
struct SliceRecord {
    list: u32,
    /// The key of the entry of its Service.
    service: Box<[u8]>,
    slice: Arc<Slice>,
}

/// The changes by an event, for metrics, cached answers and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The keys of the Services whose answers may have changed, as in the index (`\3web\7default`).
    pub services: Vec<Box<[u8]>>,
    /// The addresses whose reverse names may have changed.
    pub addresses: Vec<IpAddr>,
    /// The namespaces that were added or removed.
    pub namespaces: Vec<Box<str>>,
}

impl Changes {
    /// Returns whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.addresses.is_empty() && self.namespaces.is_empty()
    }
}

impl Index {
    /// Creates an empty index and its writer.
    pub fn new(options: &Options) -> (Arc<Index>, IndexWriter) {
        let wanted = options.kinds.iter().fold(0, |bits, &kind| bits | bit(kind));
        let index = Arc::new(Index { wanted, ..Index::default() });
        let writer = IndexWriter {
            index: index.clone(),
            endpoint_fields: options.endpoint_fields,
            lists: Default::default(),
            namespaces: HashMap::default(),
            services: HashMap::default(),
            slices: HashMap::default(),
            pods: HashMap::default(),
            former_addresses: VecDeque::new(),
            now: 0,
        };
        (index, writer)
    }

    /// Returns whether every wanted kind has been listed once.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) & self.wanted == self.wanted
    }

    /// Returns whether objects of this kind are listed at all.
    pub fn lists(&self, kind: Kind) -> bool {
        self.wanted & bit(kind) != 0
    }

    /// Returns the wanted kinds that have not been listed yet.
    pub fn unsynced(&self) -> impl Iterator<Item = Kind> {
        let missing = self.wanted & !self.synced.load(Ordering::Acquire);
        Kind::ALL.into_iter().filter(move |&kind| missing & bit(kind) != 0)
    }

    /// Returns the time of the last change of a record, in Unix seconds; 0 before the first.
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Returns whether a namespace exists.
    pub fn has_namespace(&self, ns: &[u8]) -> bool {
        self.namespaces.contains_key(ns)
    }

    /// Returns the entry of a key.
    pub fn entry(&self, key: &[u8]) -> Option<Arc<ServiceEntry>> {
        self.services.get(key).map(|entry| entry.clone())
    }

    /// Calls `visit` with the name and the namespace of each Service. A shard of the map is locked for reading
    /// meanwhile, so this is for explanations, not for queries.
    pub fn for_each_service(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        for entry in self.services.iter().filter(|entry| entry.service.is_some()) {
            let (name, rest) = entry.key()[1..].split_at(usize::from(entry.key()[0]));
            visit(name, &rest[1..]);
        }
    }

    /// Calls `visit` with each namespace.
    pub fn for_each_namespace(&self, mut visit: impl FnMut(&[u8])) {
        self.namespaces.iter().for_each(|entry| visit(entry.key()));
    }

    /// Calls `visit` for each live Pod that has this address.
    pub fn pods_at(&self, address: IpAddr, mut visit: impl FnMut(&Pod)) {
        if let Some(pods) = self.pods.get(&address) {
            pods.iter().for_each(|pod| visit(pod));
        }
    }

    /// Returns the Pod of a client with this address at `now`, if that is certain: exactly one Pod has the address, it
    /// is not that of a Node, the Pod is not being deleted, and no Pod of another namespace had the address until a
    /// short time ago.
    pub fn client_pod(&self, address: IpAddr, now: Instant) -> Option<Arc<Pod>> {
        let pod = match &**self.pods.get(&address)? {
            [pod] if !pod.host_network && !pod.is_terminating => pod.clone(),
            _ => return None,
        };
        let is_other = |former: &FormerPod| {
            let seen = *former.seen.get_or_init(|| now);
            *former.ns != *pod.key.ns && now.saturating_duration_since(seen) < FORMER_POD
        };
        if self.former_pods.get(&address).is_some_and(|former| is_other(&former)) { None } else { Some(pod) }
    }

    /// Returns the key of the Service that has this cluster address. If manifests give an address to several Services,
    /// this is the first one in order, whichever was added first.
    pub fn cluster_owner(&self, address: IpAddr, mut is_exposed: impl FnMut(&[u8]) -> bool) -> Option<ServiceKey> {
        let reverse = self.reverse.read();
        reverse.owners(AddressRole::Cluster, address).filter(|key| is_exposed(key)).min().cloned()
    }

    /// Returns the keys of the Services that have an endpoint with this address, in order.
    pub fn endpoint_owners(&self, address: IpAddr) -> ServiceKeys {
        let mut keys: ServiceKeys = self.reverse.read().owners(AddressRole::Endpoint, address).cloned().collect();
        keys.sort_unstable();
        keys
    }

    /// Returns whether any known address is in this range.
    pub fn has_address_within(&self, first: IpAddr, last: IpAddr) -> bool {
        self.reverse.read().has_within(first, last)
    }

    /// Returns whether the index is empty: no Service, slice, namespace, Pod or address.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.namespaces.is_empty() && self.pods.is_empty() && self.reverse.read().is_empty()
    }
}

/// Returns the bit of a kind.
const fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

/// Returns the key of a Service in the index: its label and its namespace's label in wire form. `None` if one of them
/// is not a valid label.
pub fn service_key(ns: &str, name: &str) -> Option<Box<[u8]>> {
    let mut key = Vec::with_capacity(ns.len() + name.len() + 2);
    for label in [name, ns] {
        if label.is_empty() || label.len() > crate::wire::name::MAX_LABEL {
            return None;
        }
        key.push(label.len() as u8);
        key.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    Some(key.into())
}

impl IndexWriter {
    /// Returns the read side.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Returns the fields of endpoints that are stored.
    pub fn endpoint_fields(&self) -> EndpointFields {
        self.endpoint_fields
    }

    /// Returns the number of known objects of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Pod => self.pods.len(),
        }
    }

    /// Applies an event that was received at `now` (Unix seconds), and returns the changes.
    pub fn apply(&mut self, event: Event, now: u32) -> Changes {
        let mut changes = Changes::default();
        self.now = now;
        self.forget_former_pods();
        match event {
            Event::Begin(kind) => {
                let list = &mut self.lists[kind as usize];
                list.number = list.number.wrapping_add(1);
                list.is_in_progress = true;
            }
            Event::Upsert(object) => self.upsert(object, &mut changes),
            Event::Retain(kind, key) => self.retain(kind, &key),
            Event::Terminate(key) => self.terminate(&key),
            Event::Remove(kind, key) => self.remove(kind, &key, &mut changes),
            Event::End(kind) => self.complete_list(kind, &mut changes),
        }
        // A Namespace changes which names exist but no record of the zone (CoreDNS does not change the serial for it
        // either).
        if !changes.services.is_empty() || !changes.addresses.is_empty() {
            self.index.serial.store(now, Ordering::Relaxed);
        }
        changes
    }

    /// Completes a list: objects that it did not contain are removed.
    fn complete_list(&mut self, kind: Kind, changes: &mut Changes) {
        let list = &mut self.lists[kind as usize];
        // An end without a beginning is ignored: it would remove objects that a later list is about to contain.
        if !std::mem::take(&mut list.is_in_progress) {
            return;
        }
        let number = list.number;
        let is_stale = |&(_, list): &(&ObjectKey, u32)| list != number;
        let keys: Vec<ObjectKey> = match kind {
            Kind::Namespace => stale_keys(self.namespaces.iter().map(|(key, &list)| (key, list)), is_stale),
            Kind::Service => stale_keys(self.services.iter().map(|(key, &list)| (key, list)), is_stale),
            Kind::EndpointSlice => stale_keys(self.slices.iter().map(|(key, record)| (key, record.list)), is_stale),
            Kind::Pod => stale_keys(self.pods.iter().map(|(key, record)| (key, record.0)), is_stale),
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
                let new = IndexedService::new(&service);
                self.services.insert(service.key, list);
                let old = self.index.entry(&key);
                if old.as_ref().and_then(|entry| entry.service.as_deref()) != Some(&new) {
                    self.publish(&key, old.as_deref(), Some(Arc::new(new)), None, changes);
                }
            }
            Object::EndpointSlice(slice) => {
                let Some(service) = service_key(&slice.key.ns, &slice.service) else {
                    // The slice belonged to a Service before, and no longer does.
                    return self.remove(Kind::EndpointSlice, &slice.key, changes);
                };
                let new = Slice::new(&slice, self.endpoint_fields);
                if let Some(old) = self.slices.get_mut(&slice.key)
                    && old.service == service
                    && *old.slice == new
                {
                    // The entry has the old slice, and a list must not create a second copy of it.
                    old.list = list;
                    return;
                }
                let new = Arc::new(new);
                let record = SliceRecord { list, service: service.clone(), slice: new.clone() };
                match self.slices.insert(slice.key, record) {
                    // The slice now belongs to another Service.
                    Some(old) if old.service != service => {
                        self.replace_slice(&old.service, &old.slice.name, None, changes)
                    }
                    _ => {}
                }
                self.replace_slice(&service, &new.name.clone(), Some(new), changes);
            }
            Object::Pod(pod) => {
                if let Some((last_list, old)) = self.pods.get_mut(&pod.key)
                    && **old == pod
                {
                    *last_list = list;
                    return;
                }
                let pod = Arc::new(pod);
                let old = self.pods.insert(pod.key.clone(), (list, pod.clone()));
                for &address in &pod.addresses {
                    let mut pods = self.index.pods.entry(address).or_default();
                    // An address that the Pod still has is never without it, not even between two look-ups.
                    let mut all: Vec<Arc<Pod>> = pods.iter().filter(|have| have.key != pod.key).cloned().collect();
                    all.push(pod.clone());
                    // The answer does not depend on the order of events.
                    all.sort_by(|a, b| a.key.cmp(&b.key));
                    *pods = all.into();
                    changes.addresses.push(address);
                }
                if let Some((_, old)) = old {
                    removed_addresses(old.addresses.iter().copied(), pod.addresses.iter().copied())
                        .for_each(|address| self.remove_pod_address(&old.key, address, changes));
                }
            }
        }
    }

    /// Marks an object as contained in the current list.
    fn retain(&mut self, kind: Kind, key: &ObjectKey) {
        let list = self.lists[kind as usize].number;
        let last_list = match kind {
            Kind::Namespace => self.namespaces.get_mut(key),
            Kind::Service => self.services.get_mut(key),
            Kind::EndpointSlice => self.slices.get_mut(key).map(|record| &mut record.list),
            Kind::Pod => self.pods.get_mut(key).map(|(last_list, _)| last_list),
        };
        if let Some(last_list) = last_list {
            *last_list = list;
        }
    }

    /// Marks a Pod as being deleted, and as contained in the current list.
    fn terminate(&mut self, key: &ObjectKey) {
        self.retain(Kind::Pod, key);
        let Some((_, pod)) = self.pods.get_mut(key).filter(|(_, pod)| !pod.is_terminating) else { return };
        *pod = Arc::new(Pod { is_terminating: true, ..Pod::clone(pod) });
        for address in &pod.addresses {
            if let Some(mut pods) = self.index.pods.get_mut(address) {
                pods.iter_mut().filter(|have| have.key == *key).for_each(|have| *have = pod.clone());
            }
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey, changes: &mut Changes) {
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

    /// Replaces the slice with this name in the entry of its Service, or removes it if `slice` is `None`.
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

    /// Replaces an entry. Names change before addresses, so that a reverse name never refers to a name that does not
    /// exist.
    fn publish(
        &mut self, key: &[u8], old: Option<&ServiceEntry>, service: Option<Arc<IndexedService>>,
        slices: Option<Vec<Arc<Slice>>>, changes: &mut Changes,
    ) {
        let vacant = ServiceEntry::default();
        let old = old.unwrap_or(&vacant);
        let slices = slices.unwrap_or_else(|| old.slices.to_vec());
        let new = Arc::new(ServiceEntry::new(service, slices));
        if new.is_vacant() {
            self.index.services.remove(key);
        } else if let Some(mut entry) = self.index.services.get_mut(key) {
            *entry = new.clone();
        } else {
            self.index.services.insert(key.into(), new.clone());
        }
        changes.services.push(key.into());

        let mut reverse = self.index.reverse.write();
        // A Service or slice that both entries share need not be compared.
        if old.service.as_ref().map(Arc::as_ptr) != new.service.as_ref().map(Arc::as_ptr) {
            for address in removed_addresses(cluster_addresses(old), cluster_addresses(&new)) {
                reverse.remove(AddressRole::Cluster, address, key);
                changes.addresses.push(address);
            }
            for address in cluster_addresses(&new) {
                if reverse.add(AddressRole::Cluster, address, key) {
                    changes.addresses.push(address);
                }
            }
        }
        // The same holds for an address that is still in its slice.
        let has_address = |slices: &[Arc<Slice>], slice: &Slice, address| {
            find_slice(slices, &slice.name).is_some_and(|at| slices[at].has_address(address))
        };
        for slice in difference(&old.slices, &new.slices) {
            for address in slice.addresses().filter(|&address| !has_address(&new.slices, slice, address)) {
                if !new.has_address(address) {
                    reverse.remove(AddressRole::Endpoint, address, key);
                    changes.addresses.push(address);
                }
            }
        }
        for slice in difference(&new.slices, &old.slices) {
            for address in slice.addresses().filter(|&address| !has_address(&old.slices, slice, address)) {
                if reverse.add(AddressRole::Endpoint, address, key) {
                    changes.addresses.push(address);
                }
            }
        }
    }

    /// Removes a Pod from an address.
    fn remove_pod_address(&mut self, key: &ObjectKey, address: IpAddr, changes: &mut Changes) {
        self.add_former_pod(&key.ns, address);
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

    /// Records that a Pod of this namespace no longer has an address.
    fn add_former_pod(&mut self, ns: &str, address: IpAddr) {
        let is_same = self.index.former_pods.get(&address).is_none_or(|former| *former.ns == *ns);
        let ns = if is_same { ns } else { "" };
        self.index.former_pods.insert(address, FormerPod { ns: ns.into(), since: self.now, seen: OnceLock::new() });
        self.former_addresses.push_back((self.now, address));
    }

    /// Forgets the Pods that lost their addresses long ago.
    fn forget_former_pods(&mut self) {
        let oldest = self.now.saturating_sub(FORMER_POD.as_secs() as u32);
        while let Some(&(since, address)) = self.former_addresses.front()
            && since < oldest
        {
            self.former_addresses.pop_front();
            self.index.former_pods.remove_if(&address, |_, former| former.since == since);
        }
        if self.former_addresses.is_empty() {
            self.former_addresses.shrink_to(1_024);
        }
    }
}

/// Returns the keys of stale objects.
fn stale_keys<'a>(
    objects: impl Iterator<Item = (&'a ObjectKey, u32)>, is_stale: impl Fn(&(&'a ObjectKey, u32)) -> bool,
) -> Vec<ObjectKey> {
    objects.filter(is_stale).map(|(key, _)| key.clone()).collect()
}

/// Returns the position of the slice with this name.
fn find_slice(slices: &[Arc<Slice>], name: &str) -> Option<usize> {
    slices.binary_search_by(|have| (*have.name).cmp(name)).ok()
}

/// Returns the slices of `these` that are not in `those`.
fn difference<'a>(these: &'a [Arc<Slice>], those: &'a [Arc<Slice>]) -> impl Iterator<Item = &'a Arc<Slice>> {
    these.iter().filter(move |slice| !find_slice(those, &slice.name).is_some_and(|at| Arc::ptr_eq(&those[at], slice)))
}

/// Returns the addresses of `old` that are not in `new`.
fn removed_addresses(
    old: impl Iterator<Item = IpAddr>, new: impl Iterator<Item = IpAddr>,
) -> impl Iterator<Item = IpAddr> {
    let mut new: Vec<IpAddr> = new.collect();
    new.sort_unstable();
    old.filter(move |address| new.binary_search(address).is_err())
}

/// Returns the cluster addresses of the Service of an entry.
fn cluster_addresses(entry: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
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
        Index::new(&Options { kinds: Kind::ALL.to_vec(), endpoint_fields: EndpointFields::default() }).1
    }

    fn slice(service: &str) -> Event {
        let addresses = [IpAddr::from([10, 0, 0, 1])].into_iter().collect();
        let endpoints = vec![Endpoint { addresses, hostname: None, pod: None, zone: None }];
        let key = ObjectKey::new("a", "s");
        let ports = Vec::new();
        Event::Upsert(Object::EndpointSlice(EndpointSlice { key, service: service.into(), endpoints, ports }))
    }

    fn pod(label: &str) -> Event {
        let labels = vec![("app".into(), label.into())];
        Event::Upsert(Object::Pod(Pod {
            key: ObjectKey::new("a", "p"),
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            labels,
            host_network: false,
            is_terminating: false,
        }))
    }

    #[test]
    fn a_list_of_known_objects_creates_no_second_copy() {
        let mut writer = writer();
        for event in [slice("web"), pod("x")] {
            writer.apply(event.clone(), 1);
            assert!(writer.apply(event, 2).is_empty());
        }
        // One reference in the writer and one in the read side.
        assert!(writer.slices.values().all(|record| Arc::strong_count(&record.slice) == 2));
        assert!(writer.pods.values().all(|(_, pod)| Arc::strong_count(pod) == 2));
    }

    #[test]
    fn a_slice_that_no_longer_has_a_service_is_removed() {
        let mut writer = writer();
        writer.apply(slice("web"), 1);
        assert_eq!(writer.apply(slice(""), 2).addresses, [IpAddr::from([10, 0, 0, 1])]);
        assert!(writer.index().is_empty());
    }

    #[test]
    fn a_pod_that_changes_has_one_entry() {
        let mut writer = writer();
        writer.apply(pod("x"), 1);
        writer.apply(pod("y"), 2);
        let mut labels = Vec::new();
        writer.index().pods_at(IpAddr::from([10, 0, 0, 1]), |pod| labels.push(pod.labels[0].1.clone()));
        assert_eq!(labels, ["y".into()]);
    }

    #[test]
    fn a_list_removes_pods_that_it_does_not_retain() {
        let pods_after_list = |retain: bool| {
            let mut writer = writer();
            writer.apply(pod("x"), 1);
            writer.apply(Event::Begin(Kind::Pod), 2);
            if retain {
                assert!(writer.apply(Event::Retain(Kind::Pod, ObjectKey::new("a", "p")), 2).is_empty());
            }
            writer.apply(Event::Retain(Kind::Pod, ObjectKey::new("a", "unknown")), 2);
            writer.apply(Event::End(Kind::Pod), 2);
            writer.count(Kind::Pod)
        };
        assert_eq!((pods_after_list(true), pods_after_list(false)), (1, 0));
    }

    #[test]
    fn the_pod_of_a_client_is_certain_or_unknown() {
        let (address, start) = (IpAddr::from([10, 0, 0, 1]), Instant::now());
        let pod = |ns: &str, name: &str, host_network| {
            let (key, labels) = (ObjectKey::new(ns, name), Vec::new());
            let pod = Pod { key, addresses: vec![address], labels, host_network, is_terminating: false };
            Event::Upsert(Object::Pod(pod))
        };
        let remove = |ns: &str, name: &str| Event::Remove(Kind::Pod, ObjectKey::new(ns, name));
        let mut writer = writer();
        let mut after = |event: Event, now: u32, seconds: u64| {
            writer.apply(event, now);
            let pod = writer.index().client_pod(address, start + Duration::from_secs(seconds));
            (
                pod.map_or("-".to_owned(), |pod| format!("{}/{}", pod.key.ns, pod.key.name)),
                writer.former_addresses.len(),
            )
        };
        let mut seen = Vec::new();
        for (event, now, seconds) in [
            (pod("a", "p", false), 100, 0),
            (Event::Terminate(ObjectKey::new("a", "p")), 101, 1),
            (Event::Terminate(ObjectKey::new("a", "unknown")), 101, 1),
            // A Pod of the same name is another one.
            (remove("a", "p"), 102, 2),
            (pod("a", "p", false), 103, 3),
            (pod("a", "q", false), 104, 4),
            (remove("a", "p"), 105, 5),
            (pod("b", "r", false), 106, 6),
            (remove("a", "q"), 107, 7),
            // The writer has no event for long, and the readers' clock decides.
            (Event::Retain(Kind::Pod, ObjectKey::new("b", "r")), 107, 66),
            (Event::Retain(Kind::Pod, ObjectKey::new("b", "r")), 107, 67),
            // It had been of two namespaces within a minute.
            (pod("a", "s", false), 108, 68),
            (remove("b", "r"), 109, 69),
            (Event::Begin(Kind::Service), 168, 70),
            (Event::Begin(Kind::Service), 170, 71),
            (pod("a", "s", true), 171, 72),
        ] {
            seen.push(after(event, now, seconds));
        }
        let seen: Vec<String> = seen.iter().map(|(pod, former)| format!("{pod} {former}")).collect();
        let expected = [
            "a/p 0", "- 0", "- 0", "- 1", "a/p 1", "- 1", "a/q 2", "- 2", "- 3", "- 3", "b/r 3", "- 3", "- 4", "- 1",
            "a/s 0", "- 0",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn names_in_capitals_are_added_and_removed() {
        let mut writer = writer();
        writer.apply(Event::Upsert(Object::Namespace(ObjectKey::new("", "A"))), 1);
        assert!(writer.index().has_namespace(b"a"));
        writer.apply(Event::Remove(Kind::Namespace, ObjectKey::new("", "A")), 2);
        assert!(writer.index().is_empty());
    }
}
