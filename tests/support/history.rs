//! Histories of a small cluster, and the state in which each of them must end.

use std::collections::{BTreeMap, BTreeSet};

use clusterdns::cluster::entry::EndpointFields;
use clusterdns::cluster::index::service_key;
use clusterdns::cluster::model::{Kind, Object, ObjectKey};
use clusterdns::cluster::{Event, Index, IndexWriter};

use super::Choices;
use super::answers::{Subject, check_consistency, check_same_answers};
use super::cluster::{NAMESPACES, NOW, SERVICES, addresses, key, new_index, object, view};

/// The number of bytes that a step of a history is generated from.
pub const STEP: usize = 24;

/// A step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    /// An event.
    Event(Event),
    /// A complete list of the current objects.
    Relist(Kind),
}

impl Step {
    /// Generates a step from bytes.
    pub fn new(bytes: &[u8]) -> Step {
        let mut choices = Choices::new(bytes);
        let act = choices.below(16);
        let kind = choices.pick(&[
            Kind::EndpointSlice,
            Kind::Service,
            Kind::Namespace,
            Kind::Pod,
            Kind::EndpointSlice,
            Kind::Service,
        ]);
        match act {
            0..=7 => Step::Event(Event::Upsert(object(&mut choices, kind))),
            8 => Step::Event(match kind {
                Kind::Pod => Event::Terminate(key(&mut choices, kind)),
                _ => Event::Retain(kind, key(&mut choices, kind)),
            }),
            9..=11 => Step::Event(Event::Remove(kind, key(&mut choices, kind))),
            12 => Step::Event(Event::Begin(kind)),
            13 => Step::Event(Event::End(kind)),
            _ => Step::Relist(kind),
        }
    }
}

/// The existing objects, in the simplest form.
#[derive(Default)]
struct Model {
    objects: BTreeMap<(Kind, ObjectKey), Object>,
    /// The objects that an unfinished list has named so far.
    named: BTreeMap<Kind, BTreeSet<ObjectKey>>,
}

impl Model {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Begin(kind) => drop(self.named.insert(*kind, BTreeSet::new())),
            Event::Upsert(object) => {
                let kind = object.kind();
                let key = object.key().clone();
                if let Some(named) = self.named.get_mut(&kind) {
                    named.insert(key.clone());
                }
                self.objects.insert((kind, key), object.clone());
            }
            Event::Retain(kind, key) => {
                if let Some(named) = self.named.get_mut(kind) {
                    named.insert(key.clone());
                }
            }
            Event::Terminate(key) => {
                if let Some(named) = self.named.get_mut(&Kind::Pod) {
                    named.insert(key.clone());
                }
                if let Some(Object::Pod(pod)) = self.objects.get_mut(&(Kind::Pod, key.clone())) {
                    pod.is_terminating = true;
                }
            }
            Event::Remove(kind, key) => drop(self.objects.remove(&(*kind, key.clone()))),
            Event::End(kind) => {
                if let Some(named) = self.named.remove(kind) {
                    self.objects.retain(|(have, key), _| have != kind || named.contains(key));
                }
            }
        }
    }

    /// Returns the events of a complete list of a kind.
    fn list(&self, kind: Kind) -> Vec<Event> {
        let objects = self.objects.iter().filter(|((have, _), _)| *have == kind);
        let upserts = objects.map(|(_, object)| Event::Upsert(object.clone()));
        [Event::Begin(kind)].into_iter().chain(upserts).chain([Event::End(kind)]).collect()
    }
}

/// Returns the events of complete lists of all kinds.
fn full_lists(model: &Model) -> impl Iterator<Item = Event> {
    Kind::ALL.into_iter().flat_map(|kind| model.list(kind))
}

/// How closely the answers of a history are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The state of the index, from which every answer is made.
    State,
    /// Every answer, too. Thousands of answers take a hundred times as long as the history itself.
    Answers,
}

/// Checks that the state after `steps` is that of one complete list, and that the index is empty when everything is
/// removed. `settings` choose the views and the order of removal.
pub fn check_history(steps: &[Step], settings: &[u8], depth: Depth) {
    let mut choices = Choices::new(settings);
    let keep = EndpointFields { pods: !choices.flag(), zones: !choices.flag() };
    let mut model = Model::default();
    // Both are synced from the start, so that no name is SERVFAIL because a list is missing.
    let mut writer = new_index(keep, full_lists(&model));
    for step in steps {
        let events = match step {
            Step::Event(event) => vec![event.clone()],
            Step::Relist(kind) => model.list(*kind),
        };
        for event in events {
            model.apply(&event);
            writer.apply(event, NOW);
        }
    }
    let fresh = new_index(keep, full_lists(&model));
    check_same_state(writer.index(), fresh.index());
    let view = view(&mut choices);
    let reads_every_answer = choices.below(4) == 0;
    if depth == Depth::Answers {
        let updated = Subject::new(writer.index(), view.clone());
        let fresh = Subject::new(fresh.index(), view);
        check_same_answers(&updated, &fresh);
        // Decoding every answer takes long, so that not every case does it.
        if reads_every_answer {
            check_consistency(&fresh);
        }
    }
    check_removal(writer, model, choices);
    let mut all_at_once = fresh;
    for event in full_lists(&Model::default()) {
        all_at_once.apply(event, NOW);
    }
    assert!(all_at_once.index().is_empty(), "left after empty lists: {:?}", all_at_once.index());
}

/// Checks that two indexes have the same entries, namespaces, Pods and owners of addresses.
fn check_same_state(updated: &Index, fresh: &Index) {
    for ns in NAMESPACES {
        assert_eq!(updated.has_namespace(ns.as_bytes()), fresh.has_namespace(ns.as_bytes()), "namespace {ns}");
        for service in SERVICES {
            let key = service_key(ns, service).expect("two labels");
            assert_eq!(updated.entry(&key), fresh.entry(&key), "updated and fresh entry of {service}.{ns}");
        }
    }
    for address in addresses() {
        let pods = |index: &Index| {
            let mut pods = Vec::new();
            index.pods_at(address, |pod| pods.push(pod.clone()));
            pods
        };
        assert_eq!(pods(updated), pods(fresh), "Pods at {address}");
        let owner = |index: &Index| index.cluster_owner(address, |_| true);
        assert_eq!(owner(updated), owner(fresh), "Service of {address}");
        assert_eq!(updated.endpoint_owners(address), fresh.endpoint_owners(address), "endpoints at {address}");
        let is_known = |index: &Index| index.has_address_within(address, address);
        assert_eq!(is_known(updated), is_known(fresh), "{address}");
    }
}

/// Removes one object after the other.
fn check_removal(mut writer: IndexWriter, model: Model, mut choices: Choices<'_>) {
    let mut keys: Vec<(Kind, ObjectKey)> = model.objects.into_keys().collect();
    while !keys.is_empty() {
        let (kind, key) = keys.remove(choices.below(keys.len().min(256)));
        writer.apply(Event::Remove(kind, key), NOW);
    }
    assert!(writer.index().is_empty(), "left after everything is removed: {:?}", writer.index());
}
