//! Histories of a small cluster, and what every one of them must end in.

use std::collections::{BTreeMap, BTreeSet};

use clusterdns::cluster::entry::Keep;
use clusterdns::cluster::model::{Key, Kind, Object};
use clusterdns::cluster::{Event, IndexWriter};

use super::Choices;
use super::answers::{Subject, check_same_answers, check_sense};
use super::cluster::{NOW, key, new_index, object, view};

/// How many octets a step of a history is made of.
pub const STEP: usize = 24;

/// A step of a history.
#[derive(Clone, Debug)]
pub enum Step {
    /// One event.
    Event(Event),
    /// A full list of what there is at the time.
    Relist(Kind),
}

impl Step {
    /// The step that these octets stand for.
    pub fn new(octets: &[u8]) -> Step {
        let mut choices = Choices::new(octets);
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
            8 => Step::Event(Event::Keep(kind, key(&mut choices, kind))),
            9..=11 => Step::Event(Event::Remove(kind, key(&mut choices, kind))),
            12 => Step::Event(Event::Begin(kind)),
            13 => Step::Event(Event::End(kind)),
            _ => Step::Relist(kind),
        }
    }
}

/// What exists, kept in the most obvious way.
#[derive(Default)]
struct Model {
    objects: BTreeMap<(Kind, Key), Object>,
    /// What a list that is under way has named so far.
    named: BTreeMap<Kind, BTreeSet<Key>>,
}

impl Model {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Begin(kind) => drop(self.named.insert(*kind, BTreeSet::new())),
            Event::Upsert(object) => {
                let (kind, key) = (object.kind(), object.key().clone());
                if let Some(named) = self.named.get_mut(&kind) {
                    named.insert(key.clone());
                }
                self.objects.insert((kind, key), object.clone());
            }
            Event::Keep(kind, key) => {
                if let Some(named) = self.named.get_mut(kind) {
                    named.insert(key.clone());
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

    /// One full list of a kind.
    fn list(&self, kind: Kind) -> Vec<Event> {
        let objects = self.objects.iter().filter(|((have, _), _)| *have == kind);
        let upserts = objects.map(|(_, object)| Event::Upsert(object.clone()));
        [Event::Begin(kind)].into_iter().chain(upserts).chain([Event::End(kind)]).collect()
    }
}

/// Full lists of everything.
fn full_lists(model: &Model) -> impl Iterator<Item = Event> {
    Kind::ALL.into_iter().flat_map(|kind| model.list(kind))
}

/// However a state was reached, the answers are those of one full list of it; and nothing is left of what is gone.
/// `settings` choose the views and the order in which all is removed at the end.
pub fn check_history(steps: &[Step], settings: &[u8]) {
    let mut choices = Choices::new(settings);
    let keep = Keep { pods: !choices.flag(), zones: !choices.flag() };
    let mut model = Model::default();
    // Both are in step from the start, so that names are not refused for want of a list.
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
    let kept = Subject::new(writer.index(), view(&mut choices));
    let fresh_subject = Subject::new(fresh.index(), kept.view.clone());
    check_same_answers(&kept, &fresh_subject);
    // Reading every answer takes long, so that not each case does it.
    if choices.below(4) == 0 {
        check_sense(&fresh_subject);
    }
    check_removal(writer, model, choices);
    let mut all_at_once = fresh;
    for event in full_lists(&Model::default()) {
        all_at_once.apply(event, NOW);
    }
    assert!(all_at_once.index().is_empty(), "left after empty lists: {:?}", all_at_once.index());
}

/// Takes away one object after the other.
fn check_removal(mut writer: IndexWriter, model: Model, mut choices: Choices<'_>) {
    let mut keys: Vec<(Kind, Key)> = model.objects.into_keys().collect();
    while !keys.is_empty() {
        let (kind, key) = keys.remove(choices.below(keys.len().min(256)));
        writer.apply(Event::Remove(kind, key), NOW);
    }
    assert!(writer.index().is_empty(), "left after everything is removed: {:?}", writer.index());
}
