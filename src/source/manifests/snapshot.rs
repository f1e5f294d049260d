//! The merged state of all manifests, and the events that describe it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::files::Manifest;
use super::object::{DerivationRole, ManifestObject};
use super::warning::{Problem, Warning};
use crate::cluster::Event;
use crate::cluster::model::{Kind, Object, ObjectKey};
use crate::source::{Selection, derive};

/// A state of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The objects with records of each kind, sorted by key. Shared with the files that contain them.
    objects: BTreeMap<Kind, Vec<Arc<ManifestObject>>>,
    /// The problems of the files, in their order.
    warnings: Vec<Warning>,
}

impl Snapshot {
    /// Merges the objects of files, of which later ones have precedence.
    pub fn merge<'a>(
        files: impl Iterator<Item = (&'a Path, &'a [Arc<ManifestObject>])>, mut warnings: Vec<Warning>,
    ) -> Snapshot {
        let mut merged: BTreeMap<(Kind, &ObjectKey), (&Path, &Arc<ManifestObject>)> = BTreeMap::new();
        for (file, items) in files {
            for item in items {
                if let Some((first, _)) = merged.insert((item.kind, &item.key), (file, item)) {
                    let problem = Problem::Duplicate { first: first.to_owned() };
                    warnings.push(warning(file, item, problem));
                }
            }
        }
        let mut objects: BTreeMap<Kind, Vec<Arc<ManifestObject>>> = BTreeMap::new();
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
                let ns = ObjectKey::new("", item.key.ns.clone());
                if !merged.contains_key(&(Kind::Namespace, &ns)) && missing.insert(ns.clone()) {
                    let object = Some((Kind::Namespace, ns));
                    let (file, problem) = (file.to_path_buf(), Problem::NoSuchNamespace);
                    warnings.push(Warning { file, object, problem, serves_previous: false });
                }
            }
        } else {
            // Manifests rarely list Namespaces only to have names in them: without any, those that objects are in
            // exist.
            let used: BTreeSet<&str> = merged.values().map(|(_, item)| &*item.key.ns).collect();
            objects
                .insert(Kind::Namespace, used.into_iter().map(|ns| Arc::new(ManifestObject::namespace(ns))).collect());
        }
        Snapshot { objects, warnings }
    }

    /// Returns the state of a text, which is parsed like the file of that name (JSON by its extension, otherwise YAML).
    pub fn of_text(name: &Path, text: &str) -> Snapshot {
        let Manifest { path, items, problems, fault, .. } = Manifest::of_text(name.to_owned(), text);
        let fault = fault.map(|fault| (None, fault));
        let problems = fault.into_iter().chain(problems);
        let warn = |(object, problem)| Warning { file: path.clone(), object, problem, serves_previous: false };
        Snapshot::merge([(path.as_path(), items.as_slice())].into_iter(), problems.map(warn).collect())
    }

    /// Returns the problems of the files.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the complete state for an index: a complete list of each selected kind.
    pub fn events<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = Event> + 'a {
        selection.kinds().flat_map(|kind| self.list(selection, kind))
    }

    /// Returns the changes for an index since `previous`: a complete list of each kind with any change. An index
    /// applies a complete list in place, so the result is the same as with a list of differences.
    pub fn changes<'a>(&'a self, previous: &'a Snapshot, selection: &'a Selection) -> impl Iterator<Item = Event> + 'a {
        let changed = |kind: &Kind| !self.selected(selection, *kind).eq(previous.selected(selection, *kind));
        selection.kinds().filter(changed).flat_map(|kind| self.list(selection, kind))
    }

    /// Returns a complete list of a kind.
    fn list<'a>(&'a self, selection: &'a Selection, kind: Kind) -> impl Iterator<Item = Event> + 'a {
        let upserts = self.selected(selection, kind).cloned().map(Event::Upsert);
        std::iter::once(Event::Begin(kind)).chain(upserts).chain([Event::End(kind)])
    }

    /// Returns the selected objects of a kind.
    fn selected<'a>(&'a self, selection: &'a Selection, kind: Kind) -> impl Iterator<Item = &'a Object> {
        let selector = selection.selector(kind);
        let is_selected = move |item: &&Arc<ManifestObject>| {
            selector.is_none_or(|selector| selector.matches(|key| item.labels.get(key)))
        };
        self.objects.get(&kind).into_iter().flatten().filter(is_selected).filter_map(|item| item.object.as_ref())
    }
}

/// Returns a warning about an object.
fn warning(file: &Path, item: &ManifestObject, problem: Problem) -> Warning {
    Warning { file: file.to_owned(), object: Some((item.kind, item.key.clone())), problem, serves_previous: false }
}

/// Derives the slices of Services that select Pods and have no slice in the manifests.
fn derive_slices<'a>(items: impl Iterator<Item = &'a ManifestObject>) -> Vec<Arc<ManifestObject>> {
    let mut services = Vec::new();
    let mut pods: BTreeMap<&str, Vec<&derive::CandidatePod>> = BTreeMap::new();
    let mut existing: BTreeSet<(&str, &str)> = BTreeSet::new();
    for item in items {
        match (&item.role, &item.object) {
            (DerivationRole::Selector(selector), Some(Object::Service(service))) => {
                services.push((item, selector, service))
            }
            (DerivationRole::Candidate(pod), _) => pods.entry(&item.key.ns).or_default().push(pod),
            (DerivationRole::SliceOf(service), _) => drop(existing.insert((&item.key.ns, service))),
            _ => {}
        }
    }
    let mut derived = Vec::new();
    for (item, selector, service) in services {
        let ObjectKey { ns, name } = &service.key;
        if existing.contains(&(&**ns, &**name)) {
            continue;
        }
        let pods = pods.get(&**ns).into_iter().flatten().copied();
        for slice in selector.slices(service, pods) {
            let (kind, key) = (Kind::EndpointSlice, slice.key.clone());
            let labels = derive::slice_labels(service, &item.labels);
            let object = Some(Object::EndpointSlice(slice));
            derived.push(Arc::new(ManifestObject { kind, key, labels, object, role: DerivationRole::None }));
        }
    }
    derived
}
