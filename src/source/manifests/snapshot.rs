//! All manifests together: one state of the cluster, and the events that tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::files::Manifest;
use super::item::{Item, Role};
use super::warning::{Problem, Warning};
use crate::cluster::Event;
use crate::cluster::model::{Key, Kind, Object};
use crate::source::{Selection, derive};

/// One state of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The objects of each kind that DNS sees, sorted by key. Shared with the files that they are from.
    objects: BTreeMap<Kind, Vec<Arc<Item>>>,
    /// What is wrong with the files, in their order.
    warnings: Vec<Warning>,
}

impl Snapshot {
    /// Merges the objects of files, in the order in which later files win.
    pub fn merge<'a>(files: impl Iterator<Item = (&'a Path, &'a [Arc<Item>])>, mut warnings: Vec<Warning>) -> Snapshot {
        let mut merged: BTreeMap<(Kind, &Key), (&Path, &Arc<Item>)> = BTreeMap::new();
        for (file, items) in files {
            for item in items {
                if let Some((first, _)) = merged.insert((item.kind, &item.key), (file, item)) {
                    let problem = Problem::Again { first: first.to_owned() };
                    warnings.push(warning(file, item, problem));
                }
            }
        }
        let mut objects: BTreeMap<Kind, Vec<Arc<Item>>> = BTreeMap::new();
        for ((kind, _), (_, item)) in merged.iter().filter(|(_, (_, item))| item.object.is_some()) {
            objects.entry(*kind).or_default().push(Arc::clone(item));
        }
        let derived = derive_slices(merged.values().map(|(_, item)| &***item));
        if !derived.is_empty() {
            let slices = objects.entry(Kind::EndpointSlice).or_default();
            slices.extend(derived);
            slices.sort_by(|a, b| a.key.cmp(&b.key));
        }
        let listed = objects.contains_key(&Kind::Namespace);
        if listed {
            let mut missing = BTreeSet::new();
            for (file, item) in merged.values().filter(|(_, item)| item.kind != Kind::Namespace) {
                let ns = Key::new("", item.key.ns.clone());
                if !merged.contains_key(&(Kind::Namespace, &ns)) && missing.insert(ns.clone()) {
                    let object = Some((Kind::Namespace, ns));
                    let (file, problem) = (file.to_path_buf(), Problem::NoSuchNamespace);
                    warnings.push(Warning { file, object, problem, kept: false });
                }
            }
        } else {
            // Nobody writes Namespaces by hand only to have names in them: without any, those that are used exist.
            let used: BTreeSet<&str> = merged.values().map(|(_, item)| &*item.key.ns).collect();
            objects.insert(Kind::Namespace, used.into_iter().map(|ns| Arc::new(Item::namespace(ns))).collect());
        }
        Snapshot { objects, warnings }
    }

    /// What one text says, read as the file of that name would be (JSON by its ending, else YAML).
    pub fn of_text(name: &Path, text: &str) -> Snapshot {
        let Manifest { path, items, troubles, fault, .. } = Manifest::of_text(name.to_owned(), text);
        let fault = fault.map(|fault| (None, fault));
        let troubles = fault.into_iter().chain(troubles);
        let warn = |(object, problem)| Warning { file: path.clone(), object, problem, kept: false };
        Snapshot::merge([(path.as_path(), items.as_slice())].into_iter(), troubles.map(warn).collect())
    }

    /// What is wrong with the files.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The whole of it for one index: a full list of each kind that is wanted.
    pub fn events<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = Event> + 'a {
        selection.kinds().flat_map(|kind| self.list(selection, kind))
    }

    /// What changed for one index since `previous`: a full list of each kind in which anything did. An index takes a
    /// full list in place, so this is as right as a list of differences, and nothing can drift.
    pub fn changes<'a>(&'a self, previous: &'a Snapshot, selection: &'a Selection) -> impl Iterator<Item = Event> + 'a {
        let changed = |kind: &Kind| !self.selected(selection, *kind).eq(previous.selected(selection, *kind));
        selection.kinds().filter(changed).flat_map(|kind| self.list(selection, kind))
    }

    /// A full list of one kind.
    fn list<'a>(&'a self, selection: &'a Selection, kind: Kind) -> impl Iterator<Item = Event> + 'a {
        let upserts = self.selected(selection, kind).cloned().map(Event::Upsert);
        std::iter::once(Event::Begin(kind)).chain(upserts).chain([Event::End(kind)])
    }

    /// The objects of one kind that one index wants.
    fn selected<'a>(&'a self, selection: &'a Selection, kind: Kind) -> impl Iterator<Item = &'a Object> {
        let selector = selection.selector(kind);
        let picked =
            move |item: &&Arc<Item>| selector.is_none_or(|selector| selector.matches(|key| item.labels.get(key)));
        self.objects.get(&kind).into_iter().flatten().filter(picked).filter_map(|item| item.object.as_ref())
    }
}

/// A warning about an object.
fn warning(file: &Path, item: &Item, problem: Problem) -> Warning {
    Warning { file: file.to_owned(), object: Some((item.kind, item.key.clone())), problem, kept: false }
}

/// The slices of the Services that select Pods and have no slice in the manifests.
fn derive_slices<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<Arc<Item>> {
    let mut services = Vec::new();
    let mut pods: BTreeMap<&str, Vec<&derive::CandidatePod>> = BTreeMap::new();
    let mut given: BTreeSet<(&str, &str)> = BTreeSet::new();
    for item in items {
        match (&item.role, &item.object) {
            (Role::Selecting(selecting), Some(Object::Service(service))) => services.push((item, selecting, service)),
            (Role::Selectable(pod), _) => pods.entry(&item.key.ns).or_default().push(pod),
            (Role::SliceOf(service), _) => drop(given.insert((&item.key.ns, service))),
            _ => {}
        }
    }
    let mut derived = Vec::new();
    for (item, selecting, service) in services {
        let Key { ns, name } = &service.key;
        if given.contains(&(&**ns, &**name)) {
            continue;
        }
        let pods = pods.get(&**ns).into_iter().flatten().copied();
        for slice in selecting.slices(service, pods) {
            let (kind, key) = (Kind::EndpointSlice, slice.key.clone());
            let labels = derive::slice_labels(service, &item.labels);
            let object = Some(Object::EndpointSlice(slice));
            derived.push(Arc::new(Item { kind, key, labels, object, role: Role::None }));
        }
    }
    derived
}
