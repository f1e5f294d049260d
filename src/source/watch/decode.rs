//! From the API server's JSON to the cluster's model: one event of a watch, or one page of a list.
//!
//! Both are deserialised in one pass into the few fields that DNS needs, whatever stands in those
//! ([`crate::source::convert::field`]). Only what fails even so is read again, to let the objects beside it through.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{Key, Kind, Object};
use crate::source::convert::{self, Field, Ignored, Invalid, Metadata};
use crate::source::watch::error::{Refusal, bounded};

/// One event of a watch.
#[derive(Debug)]
pub enum Said {
    /// ADDED, MODIFIED or DELETED.
    Change {
        /// What became of the object.
        change: Change,
        /// The state of the cluster after it.
        version: String,
    },
    /// BOOKMARK: nothing has changed up to this version.
    Bookmark {
        /// The version.
        version: String,
        /// It ends the initial events of a streaming list.
        initial_events_end: bool,
    },
    /// ERROR.
    Refused(Refusal),
}

/// What became of one object.
#[derive(Debug)]
pub enum Change {
    /// It is there, new or changed. `last_change`: when what it tells of has changed, RFC 3339, of slices.
    Upsert {
        /// The object.
        object: Object,
        /// `endpoints.kubernetes.io/last-change-trigger-time`.
        last_change: Option<String>,
        /// Values that are passed over, while the rest is served.
        ignored: Ignored,
    },
    /// It is there, and what was known of it stays.
    Retain(Key, Ignored),
    /// It is gone, or of no interest to DNS.
    Remove(Key, Ignored),
    /// It cannot be read: the key where that is known.
    Bad {
        /// Namespace and name.
        key: Option<Key>,
        /// Why.
        invalid: Invalid,
    },
}

/// Where a page of a list stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The state of the cluster that the list is of.
    pub version: String,
    /// What to ask for the next page; `None` after the last.
    pub next: Option<String>,
}

/// A line that is no event, or a page that is no list.
#[derive(Debug)]
pub struct NotJson(pub String);

/// An event as it comes. The type stands first, so that both are read in one pass.
#[derive(Deserialize)]
struct Line<T> {
    #[serde(rename = "type")]
    what: What,
    object: T,
}

/// The type of an event.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum What {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// A page as it comes.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(deserialize_with = "null_is_empty")]
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMetadata {
    #[serde(deserialize_with = "null_is_empty")]
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Reads one event. Of endpoints it has what is to be kept.
pub fn event(kind: Kind, keep: EndpointFields, line: &[u8]) -> Result<Said, NotJson> {
    let line = text(line)?;
    match kind {
        Kind::Namespace => event_of::<convert::Namespace>(keep, line),
        Kind::Service => event_of::<convert::Service>(keep, line),
        Kind::EndpointSlice => event_of::<convert::EndpointSlice<'_>>(keep, line),
        Kind::Pod => event_of::<convert::Pod>(keep, line),
    }
}

/// Reads one page; `each` is given its objects in their order.
pub fn page(kind: Kind, keep: EndpointFields, body: &[u8], each: impl FnMut(Change)) -> Result<Page, NotJson> {
    let body = text(body)?;
    match kind {
        Kind::Namespace => page_of::<convert::Namespace>(keep, body, each),
        Kind::Service => page_of::<convert::Service>(keep, body, each),
        Kind::EndpointSlice => page_of::<convert::EndpointSlice<'_>>(keep, body, each),
        Kind::Pod => page_of::<convert::Pod>(keep, body, each),
    }
}

/// As text: to look at all octets at once is faster than at each string by itself.
fn text(octets: &[u8]) -> Result<&str, NotJson> {
    std::str::from_utf8(octets).map_err(|error| NotJson(error.to_string()))
}

fn event_of<'a, T: Resource<'a>>(keep: EndpointFields, line: &'a str) -> Result<Said, NotJson> {
    match serde_json::from_str::<Line<T>>(line) {
        Ok(Line { what: What::Error, .. }) | Err(_) => {}
        Ok(Line { what: What::Bookmark, mut object }) => {
            let metadata = object.metadata_mut();
            let initial_events_end = metadata.take_annotations().initial_events_end;
            return Ok(Said::Bookmark { version: metadata.take_version(), initial_events_end });
        }
        Ok(Line { what, mut object }) => {
            let version = object.metadata_mut().take_version();
            return Ok(Said::Change { change: change(what, keep, object), version });
        }
    }
    let Line { what, object } = serde_json::from_str::<Line<&RawValue>>(line).map_err(not_json)?;
    if what == What::Error {
        return Ok(Said::Refused(Refusal::parse(object.get().as_bytes(), (500, "an ERROR event without a reason"))));
    }
    let (change, version) = again(T::KIND, what, keep, object);
    Ok(Said::Change { change, version })
}

fn page_of<'a, T: Resource<'a>>(
    keep: EndpointFields, body: &'a str, mut each: impl FnMut(Change),
) -> Result<Page, NotJson> {
    let metadata = match serde_json::from_str::<List<T>>(body) {
        Ok(List { metadata, items }) => {
            items.into_iter().for_each(|object| each(there(keep, object)));
            metadata
        }
        Err(_) => {
            let List { metadata, items } = serde_json::from_str::<List<&RawValue>>(body).map_err(not_json)?;
            for item in items {
                each(match serde_json::from_str::<T>(item.get()) {
                    Ok(object) => there(keep, object),
                    Err(_) => again(T::KIND, What::Added, keep, item).0,
                });
            }
            metadata
        }
    };
    if metadata.resource_version.is_empty() {
        return Err(NotJson("a list without metadata.resourceVersion".to_owned()));
    }
    Ok(Page { version: metadata.resource_version, next: metadata.next.filter(|next| !next.is_empty()) })
}

fn not_json(error: serde_json::Error) -> NotJson {
    NotJson(bounded(error.to_string()))
}

/// What an event of this type says of an object.
fn change<'a, T: Resource<'a>>(what: What, keep: EndpointFields, object: T) -> Change {
    if what == What::Deleted { gone(&object) } else { there(keep, object) }
}

/// An object that exists.
fn there<'a, T: Resource<'a>>(keep: EndpointFields, mut object: T) -> Change {
    let mut ignored = Ignored::default();
    let last_change = object.metadata_mut().take_annotations().last_change;
    let key = key_of(&object);
    match object.into_model(keep, &mut ignored) {
        Ok(Model::Object(object)) => Change::Upsert { object, last_change, ignored },
        Ok(Model::AsItWas(key)) => Change::Retain(key, ignored),
        Ok(Model::Nothing(key)) => Change::Remove(key, ignored),
        Err(invalid) => Change::Bad { key, invalid },
    }
}

/// An object that is gone.
fn gone<'a, T: Resource<'a>>(object: &T) -> Change {
    match key_of(object) {
        Some(key) => Change::Remove(key, Ignored::default()),
        None => Change::Bad { key: None, invalid: Invalid::Missing("metadata.name") },
    }
}

/// An object that cannot be read in place, since a key stands in it twice or a text holds what no text holds; and its
/// version. As a tree of values, of which the last of a key counts, it may be read nevertheless.
fn again(kind: Kind, what: What, keep: EndpointFields, object: &RawValue) -> (Change, String) {
    fn read<'a, T: Resource<'a>>(what: What, keep: EndpointFields, value: &'a serde_json::Value) -> (Change, String) {
        match T::deserialize(value) {
            Ok(mut object) => {
                let version = object.metadata_mut().take_version();
                (change(what, keep, object), version)
            }
            Err(error) => (Change::Bad { key: None, invalid: unreadable(&error) }, String::new()),
        }
    }
    let value: serde_json::Value = match serde_json::from_str(object.get()) {
        Ok(value) => value,
        Err(error) => {
            let stub: Stub = serde_json::from_str(object.get()).unwrap_or_default();
            let text = |field: Option<&String>| field.cloned().unwrap_or_default();
            let (name, namespace) = (text(stub.metadata.name.get()), text(stub.metadata.namespace.get()));
            let change = Change::Bad { key: key(kind, &namespace, &name), invalid: unreadable(&error) };
            return (change, text(stub.metadata.resource_version.get()));
        }
    };
    match kind {
        Kind::Namespace => read::<convert::Namespace>(what, keep, &value),
        Kind::Service => read::<convert::Service>(what, keep, &value),
        Kind::EndpointSlice => read::<convert::EndpointSlice<'_>>(what, keep, &value),
        Kind::Pod => read::<convert::Pod>(what, keep, &value),
    }
}

fn unreadable(error: &serde_json::Error) -> Invalid {
    Invalid::Unreadable(bounded(error.to_string()))
}

/// The identity of an object that cannot be read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stub {
    metadata: StubMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StubMetadata {
    name: Field<String>,
    namespace: Field<String>,
    resource_version: Field<String>,
}

/// The key that metadata gives, whatever else is wrong.
fn key_of<'a, T: Resource<'a>>(object: &T) -> Option<Key> {
    key(T::KIND, object.metadata().namespace(), object.metadata().name())
}

/// A key, if namespace and name are as the kind has them.
fn key(kind: Kind, ns: &str, name: &str) -> Option<Key> {
    let namespaced = kind != Kind::Namespace;
    (!name.is_empty() && namespaced != ns.is_empty()).then(|| Key::new(ns, name))
}

/// What the index is told of an object.
enum Model {
    /// This.
    Object(Object),
    /// Nothing new: what it knows stays.
    AsItWas(Key),
    /// That it has no names.
    Nothing(Key),
}

/// A kind of objects, as the API server sends them.
trait Resource<'a>: Deserialize<'a> {
    const KIND: Kind;
    fn metadata(&self) -> &Metadata;
    fn metadata_mut(&mut self) -> &mut Metadata;
    fn into_model(self, keep: EndpointFields, ignored: &mut Ignored) -> Result<Model, Invalid>;
}

/// The parts that are the same for every kind.
macro_rules! metadata {
    ($kind:expr) => {
        const KIND: Kind = $kind;
        fn metadata(&self) -> &Metadata {
            &self.metadata
        }
        fn metadata_mut(&mut self) -> &mut Metadata {
            &mut self.metadata
        }
    };
}

impl Resource<'_> for convert::Namespace {
    metadata!(Kind::Namespace);
    fn into_model(self, _: EndpointFields, ignored: &mut Ignored) -> Result<Model, Invalid> {
        Ok(Model::Object(Object::Namespace(self.convert(ignored)?)))
    }
}

impl Resource<'_> for convert::Service {
    metadata!(Kind::Service);
    fn into_model(self, _: EndpointFields, ignored: &mut Ignored) -> Result<Model, Invalid> {
        Ok(Model::Object(Object::Service(self.convert(ignored)?)))
    }
}

impl<'a> Resource<'a> for convert::EndpointSlice<'a> {
    metadata!(Kind::EndpointSlice);
    fn into_model(self, keep: EndpointFields, ignored: &mut Ignored) -> Result<Model, Invalid> {
        Ok(match self.convert(keep, ignored)? {
            Some(slice) => Model::Object(Object::EndpointSlice(slice)),
            None => Model::Nothing(self.key()?),
        })
    }
}

impl Resource<'_> for convert::Pod {
    metadata!(Kind::Pod);
    fn into_model(self, _: EndpointFields, ignored: &mut Ignored) -> Result<Model, Invalid> {
        Ok(match self.convert(ignored)? {
            Some(pod) => Model::Object(Object::Pod(pod)),
            // CoreDNS passes over a Pod that is being deleted until it is gone: its connections are drained under the
            // name that it had (object/pod.go).
            None if self.metadata.terminating() => Model::AsItWas(self.key()?),
            None => Model::Nothing(self.key()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: EndpointFields = EndpointFields { pods: true, zones: true };

    /// An object of each kind, with all fields that are read.
    fn objects() -> [(Kind, &'static str); 4] {
        [
            (
                Kind::Namespace,
                r#"{"kind":"Namespace","metadata":{"name":"a","resourceVersion":"7","labels":{"x":"y"}}}"#,
            ),
            (
                Kind::Service,
                r#"{"metadata":{"name":"web","namespace":"a","resourceVersion":"7","annotations":{"b":"c"}},"spec":{"type":"ClusterIP","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],"ports":[{"name":"http","port":80,"protocol":"TCP"}],"externalName":null}}"#,
            ),
            (
                Kind::EndpointSlice,
                r#"{"metadata":{"name":"web-1","namespace":"a","resourceVersion":"7","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","endpoints":[{"addresses":["10.1.0.1"],"conditions":{"ready":true},"hostname":"h","targetRef":{"kind":"Pod","name":"p"},"zone":"z"}],"ports":[{"name":"","port":null}]}"#,
            ),
            (
                Kind::Pod,
                r#"{"metadata":{"name":"p","namespace":"a","resourceVersion":"7","deletionTimestamp":null},"status":{"phase":"Running","podIP":"10.1.0.1","podIPs":[{"ip":"10.1.0.1"}]}}"#,
            ),
        ]
    }

    fn said(kind: Kind, line: &str) -> Said {
        event(kind, ALL, line.as_bytes()).unwrap_or_else(|NotJson(error)| panic!("{line}: {error}"))
    }

    #[test]
    fn objects_come_and_go() {
        for (kind, object) in objects() {
            for (what, comes) in [("ADDED", true), ("MODIFIED", true), ("DELETED", false)] {
                let Said::Change { change, version } = said(kind, &format!(r#"{{"type":"{what}","object":{object}}}"#))
                else {
                    panic!("{kind:?} {what}");
                };
                assert_eq!(version, "7");
                assert!(
                    matches!((&change, comes), (Change::Upsert { .. }, true) | (Change::Remove(..), false)),
                    "{change:?}"
                );
            }
        }
    }

    #[test]
    fn an_object_is_there_without_its_bad_values() {
        let object = r#"{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":"http"},{"port":80}]}}"#;
        let Said::Change { change: Change::Upsert { object, ignored, .. }, version } =
            said(Kind::Service, &format!(r#"{{"type":"ADDED","object":{object}}}"#))
        else {
            panic!()
        };
        assert_eq!((object.key(), &*version), (&Key::new("a", "s"), "9"));
        assert_eq!(ignored.count(), 1, "{ignored:?}");
        assert!(matches!(object, Object::Service(service) if service.ports.len() == 1));
    }

    #[test]
    fn a_bad_object_is_named_with_its_field_and_version() {
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"type":"ExternalName"}}}"#;
        let Said::Change { change: Change::Bad { key, invalid }, version } = said(Kind::Service, line) else {
            panic!()
        };
        assert_eq!((key, &*version), (Some(Key::new("a", "s")), "9"));
        assert_eq!(invalid.to_string(), "spec.externalName is missing");
    }

    #[test]
    fn what_cannot_be_read_in_place_is_read_again_or_named() {
        // Of a key that stands twice, the last one counts, as in Go.
        let twice = r#"{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"clusterIP":"10.0.0.1","clusterIP":"10.0.0.2"}}"#;
        let alone =
            r#"{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"clusterIP":"10.0.0.2"}}"#;
        let event = |what: &str, object: &str| {
            let Said::Change { change, version } =
                said(Kind::Service, &format!(r#"{{"type":"{what}","object":{object}}}"#))
            else {
                panic!()
            };
            format!("{change:?} {version}")
        };
        for what in ["ADDED", "DELETED"] {
            assert_eq!(event(what, twice), event(what, alone));
        }
        // Half a surrogate is no text. What was known of the object stays.
        let half = alone.replace("10.0.0.2", r"\ud800");
        assert!(event("ADDED", &half).starts_with(r#"Bad { key: Some(Key { ns: "a", name: "s" })"#));
        assert!(event("ADDED", &half).ends_with(" 9"));
        let list = format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{half},{twice}]}}"#);
        let mut changes = Vec::new();
        page(Kind::Service, ALL, list.as_bytes(), |change| changes.push(format!("{change:?}"))).unwrap();
        assert!(changes[0].starts_with("Bad") && format!("{} 9", changes[1]) == event("ADDED", alone), "{changes:?}");
    }

    #[test]
    fn bookmarks_and_errors_are_no_changes() {
        let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        for (kind, _) in objects() {
            let bookmark = said(kind, end);
            assert!(matches!(bookmark, Said::Bookmark { version, initial_events_end: true } if version == "8"));
            let error = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"gone","code":410}}"#;
            assert!(
                matches!(said(kind, error), Said::Refused(refusal) if refusal.code == 410 && refusal.message == "gone")
            );
        }
    }

    proptest! {
        // Nothing that an API server sends makes it panic.
        #[test]
        fn any_octets_are_read(
            of in 0_usize..4, cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            random in prop::collection::vec(any::<u8>(), 0..64), listed: bool,
        ) {
            let (kind, object) = objects()[of];
            let whole = match listed {
                true => format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{object},{object}]}}"#),
                false => format!(r#"{{"type":"ADDED","object":{object}}}"#),
            };
            let mut octets = whole.into_bytes();
            for (at, octet) in cuts {
                let at = at.index(octets.len());
                octets[at] = octet;
            }
            for octets in [octets, random] {
                let _ = event(kind, ALL, &octets);
                let mut changes = 0;
                let _ = page(kind, ALL, &octets, |_| changes += 1);
                prop_assert!(changes <= 2);
            }
        }
    }
}
