//! Decodes JSON of the API server into the model of the cluster: an event of a watch, or a page of a list.
//!
//! Both are deserialized in one pass into the few fields that DNS needs, whatever their values are
//! ([`crate::source::convert::field`]). Only if that fails is the text parsed again, so that other objects of it are
//! used.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{Kind, Object, ObjectKey};
use crate::source::convert::{self, Field, Ignored, Invalid, Metadata};
use crate::source::watch::error::{Refusal, truncate_text};

/// An event of a watch.
#[derive(Debug)]
pub enum WatchEvent {
    /// ADDED, MODIFIED or DELETED.
    Change {
        /// The object after the change, or its key if it was deleted or is invalid.
        change: ObjectChange,
        /// The resource version after the change.
        version: String,
    },
    /// BOOKMARK: there are no other changes up to this version.
    Bookmark {
        /// The version.
        version: String,
        /// Whether it ends the initial events of a streaming list.
        initial_events_end: bool,
    },
    /// ERROR.
    Refused(Refusal),
}

/// A change of an object.
#[derive(Debug)]
pub enum ObjectChange {
    /// The object exists and is new or changed.
    Upsert {
        /// The object.
        object: Object,
        /// `endpoints.kubernetes.io/last-change-trigger-time` of a slice, RFC 3339.
        last_change: Option<String>,
        /// The ignored values of the object.
        ignored: Ignored,
    },
    /// The object is being deleted, and its known state remains until then.
    Terminate(ObjectKey, Ignored),
    /// The object was deleted, or has no records.
    Remove(ObjectKey, Ignored),
    /// The object is invalid.
    Bad {
        /// Namespace and name, if they are known.
        key: Option<ObjectKey>,
        /// The error.
        invalid: Invalid,
    },
}

/// The metadata of a page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The resource version of the list.
    pub version: String,
    /// The continue token for the next page, or `None` after the last one.
    pub next: Option<String>,
}

/// The error of a line that is not an event, or of a page that is not a list.
#[derive(Debug)]
pub struct DecodeError(pub String);

/// The JSON of an event. The type is first, so that both fields are parsed in one pass.
#[derive(Deserialize)]
struct EventLine<T> {
    #[serde(rename = "type")]
    event_type: EventType,
    object: T,
}

/// The type of an event.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// The JSON of a page.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct ListBody<T> {
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

/// Decodes an event. Of endpoints, `fields` are converted.
pub fn decode_event(kind: Kind, fields: EndpointFields, line: &[u8]) -> Result<WatchEvent, DecodeError> {
    let line = check_utf8(line)?;
    match kind {
        Kind::Namespace => decode_event_of::<convert::ApiNamespace>(fields, line),
        Kind::Service => decode_event_of::<convert::ApiService>(fields, line),
        Kind::EndpointSlice => decode_event_of::<convert::ApiEndpointSlice<'_>>(fields, line),
        Kind::Pod => decode_event_of::<convert::ApiPod>(fields, line),
    }
}

/// Decodes a page and calls `each` with its objects in their order.
pub fn decode_page(
    kind: Kind, fields: EndpointFields, body: &[u8], each: impl FnMut(ObjectChange),
) -> Result<ListPage, DecodeError> {
    let body = check_utf8(body)?;
    match kind {
        Kind::Namespace => decode_page_of::<convert::ApiNamespace>(fields, body, each),
        Kind::Service => decode_page_of::<convert::ApiService>(fields, body, each),
        Kind::EndpointSlice => decode_page_of::<convert::ApiEndpointSlice<'_>>(fields, body, each),
        Kind::Pod => decode_page_of::<convert::ApiPod>(fields, body, each),
    }
}

/// Checks that bytes are UTF-8: to check all bytes at once is faster than to check each string.
fn check_utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|error| DecodeError(error.to_string()))
}

fn decode_event_of<'a, T: Resource<'a>>(fields: EndpointFields, line: &'a str) -> Result<WatchEvent, DecodeError> {
    match serde_json::from_str::<EventLine<T>>(line) {
        Ok(EventLine { event_type: EventType::Error, .. }) | Err(_) => {}
        Ok(EventLine { event_type: EventType::Bookmark, mut object }) => {
            let metadata = object.metadata_mut();
            let initial_events_end = metadata.take_annotations().initial_events_end;
            return Ok(WatchEvent::Bookmark { version: metadata.take_version(), initial_events_end });
        }
        Ok(EventLine { event_type, mut object }) => {
            let version = object.metadata_mut().take_version();
            return Ok(WatchEvent::Change { change: convert_object(event_type, fields, object), version });
        }
    }
    let EventLine { event_type, object } = serde_json::from_str::<EventLine<&RawValue>>(line).map_err(decode_error)?;
    if event_type == EventType::Error {
        return Ok(WatchEvent::Refused(Refusal::parse(
            object.get().as_bytes(),
            (500, "an ERROR event without a reason"),
        )));
    }
    let (change, version) = convert_leniently(T::KIND, event_type, fields, object);
    Ok(WatchEvent::Change { change, version })
}

fn decode_page_of<'a, T: Resource<'a>>(
    fields: EndpointFields, body: &'a str, mut each: impl FnMut(ObjectChange),
) -> Result<ListPage, DecodeError> {
    let metadata = match serde_json::from_str::<ListBody<T>>(body) {
        Ok(ListBody { metadata, items }) => {
            items.into_iter().for_each(|object| each(convert_existing(fields, object)));
            metadata
        }
        Err(_) => {
            let ListBody { metadata, items } =
                serde_json::from_str::<ListBody<&RawValue>>(body).map_err(decode_error)?;
            for item in items {
                each(match serde_json::from_str::<T>(item.get()) {
                    Ok(object) => convert_existing(fields, object),
                    Err(_) => convert_leniently(T::KIND, EventType::Added, fields, item).0,
                });
            }
            metadata
        }
    };
    if metadata.resource_version.is_empty() {
        return Err(DecodeError("a list without metadata.resourceVersion".to_owned()));
    }
    Ok(ListPage { version: metadata.resource_version, next: metadata.next.filter(|next| !next.is_empty()) })
}

fn decode_error(error: serde_json::Error) -> DecodeError {
    DecodeError(truncate_text(error.to_string()))
}

/// Converts the object of an event of this type.
fn convert_object<'a, T: Resource<'a>>(event_type: EventType, fields: EndpointFields, object: T) -> ObjectChange {
    if event_type == EventType::Deleted { convert_deleted(&object) } else { convert_existing(fields, object) }
}

/// Converts an object that exists.
fn convert_existing<'a, T: Resource<'a>>(fields: EndpointFields, mut object: T) -> ObjectChange {
    let mut ignored = Ignored::default();
    let last_change = object.metadata_mut().take_annotations().last_change;
    let key = key_of(&object);
    match object.into_model(fields, &mut ignored) {
        Ok(Conversion::Object(object)) => ObjectChange::Upsert { object, last_change, ignored },
        Ok(Conversion::Terminating(key)) => ObjectChange::Terminate(key, ignored),
        Ok(Conversion::NoRecords(key)) => ObjectChange::Remove(key, ignored),
        Err(invalid) => ObjectChange::Bad { key, invalid },
    }
}

/// Converts an object that was deleted.
fn convert_deleted<'a, T: Resource<'a>>(object: &T) -> ObjectChange {
    match key_of(object) {
        Some(key) => ObjectChange::Remove(key, Ignored::default()),
        None => ObjectChange::Bad { key: None, invalid: Invalid::Missing("metadata.name") },
    }
}

/// Converts an object whose text cannot be deserialized in one pass, because a key is repeated or a string is not valid
/// Unicode, and returns its version, too. As a tree of values, in which the last one of a repeated key counts, it may
/// be valid.
fn convert_leniently(
    kind: Kind, event_type: EventType, fields: EndpointFields, object: &RawValue,
) -> (ObjectChange, String) {
    fn read<'a, T: Resource<'a>>(
        event_type: EventType, fields: EndpointFields, value: &'a serde_json::Value,
    ) -> (ObjectChange, String) {
        match T::deserialize(value) {
            Ok(mut object) => {
                let version = object.metadata_mut().take_version();
                (convert_object(event_type, fields, object), version)
            }
            Err(error) => (ObjectChange::Bad { key: None, invalid: unreadable(&error) }, String::new()),
        }
    }
    let value: serde_json::Value = match serde_json::from_str(object.get()) {
        Ok(value) => value,
        Err(error) => {
            let stub: Stub = serde_json::from_str(object.get()).unwrap_or_default();
            let text = |field: Option<&String>| field.cloned().unwrap_or_default();
            let (name, namespace) = (text(stub.metadata.name.get()), text(stub.metadata.namespace.get()));
            let change = ObjectChange::Bad { key: key(kind, &namespace, &name), invalid: unreadable(&error) };
            return (change, text(stub.metadata.resource_version.get()));
        }
    };
    match kind {
        Kind::Namespace => read::<convert::ApiNamespace>(event_type, fields, &value),
        Kind::Service => read::<convert::ApiService>(event_type, fields, &value),
        Kind::EndpointSlice => read::<convert::ApiEndpointSlice<'_>>(event_type, fields, &value),
        Kind::Pod => read::<convert::ApiPod>(event_type, fields, &value),
    }
}

fn unreadable(error: &serde_json::Error) -> Invalid {
    Invalid::Unreadable(truncate_text(error.to_string()))
}

/// The identity of an object that cannot be deserialized.
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

/// Returns the key in the metadata, whatever else is invalid.
fn key_of<'a, T: Resource<'a>>(object: &T) -> Option<ObjectKey> {
    key(T::KIND, object.metadata().namespace(), object.metadata().name())
}

/// Returns a key if namespace and name are as required for the kind.
fn key(kind: Kind, ns: &str, name: &str) -> Option<ObjectKey> {
    let is_namespaced = kind != Kind::Namespace;
    (!name.is_empty() && is_namespaced != ns.is_empty()).then(|| ObjectKey::new(ns, name))
}

/// The result of the conversion of an object.
enum Conversion {
    /// An object with records.
    Object(Object),
    /// The object is being deleted, and its known state remains.
    Terminating(ObjectKey),
    /// The object has no records.
    NoRecords(ObjectKey),
}

/// An object of the API.
trait Resource<'a>: Deserialize<'a> {
    const KIND: Kind;
    fn metadata(&self) -> &Metadata;
    fn metadata_mut(&mut self) -> &mut Metadata;
    fn into_model(self, fields: EndpointFields, ignored: &mut Ignored) -> Result<Conversion, Invalid>;
}

/// The items that are the same for every kind.
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

impl Resource<'_> for convert::ApiNamespace {
    metadata!(Kind::Namespace);
    fn into_model(self, _: EndpointFields, ignored: &mut Ignored) -> Result<Conversion, Invalid> {
        Ok(Conversion::Object(Object::Namespace(self.convert(ignored)?)))
    }
}

impl Resource<'_> for convert::ApiService {
    metadata!(Kind::Service);
    fn into_model(self, _: EndpointFields, ignored: &mut Ignored) -> Result<Conversion, Invalid> {
        Ok(Conversion::Object(Object::Service(self.convert(ignored)?)))
    }
}

impl<'a> Resource<'a> for convert::ApiEndpointSlice<'a> {
    metadata!(Kind::EndpointSlice);
    fn into_model(self, fields: EndpointFields, ignored: &mut Ignored) -> Result<Conversion, Invalid> {
        Ok(match self.convert(fields, ignored)? {
            Some(slice) => Conversion::Object(Object::EndpointSlice(slice)),
            None => Conversion::NoRecords(self.key()?),
        })
    }
}

impl Resource<'_> for convert::ApiPod {
    metadata!(Kind::Pod);
    fn into_model(self, _: EndpointFields, ignored: &mut Ignored) -> Result<Conversion, Invalid> {
        Ok(match self.convert(ignored)? {
            Some(pod) => Conversion::Object(Object::Pod(pod)),
            // CoreDNS ignores changes of a Pod that is being deleted until it is deleted, so that its connections are
            // drained under its name (object/pod.go).
            None if self.metadata.is_terminating() => Conversion::Terminating(self.key()?),
            None => Conversion::NoRecords(self.key()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: EndpointFields = EndpointFields { pods: true, zones: true };

    /// Returns an object of each kind with all fields that are read.
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

    fn decoded(kind: Kind, line: &str) -> WatchEvent {
        decode_event(kind, ALL, line.as_bytes()).unwrap_or_else(|DecodeError(error)| panic!("{line}: {error}"))
    }

    #[test]
    fn objects_are_added_and_deleted() {
        for (kind, object) in objects() {
            for (event_type, comes) in [("ADDED", true), ("MODIFIED", true), ("DELETED", false)] {
                let WatchEvent::Change { change, version } =
                    decoded(kind, &format!(r#"{{"type":"{event_type}","object":{object}}}"#))
                else {
                    panic!("{kind:?} {event_type}");
                };
                assert_eq!(version, "7");
                assert!(
                    matches!((&change, comes), (ObjectChange::Upsert { .. }, true) | (ObjectChange::Remove(..), false)),
                    "{change:?}"
                );
            }
        }
    }

    #[test]
    fn an_object_is_used_without_its_invalid_values() {
        let object = r#"{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":"http"},{"port":80}]}}"#;
        let WatchEvent::Change { change: ObjectChange::Upsert { object, ignored, .. }, version } =
            decoded(Kind::Service, &format!(r#"{{"type":"ADDED","object":{object}}}"#))
        else {
            panic!()
        };
        assert_eq!((object.key(), &*version), (&ObjectKey::new("a", "s"), "9"));
        assert_eq!(ignored.count(), 1, "{ignored:?}");
        assert!(matches!(object, Object::Service(service) if service.ports.len() == 1));
    }

    #[test]
    fn an_invalid_object_is_reported_with_its_key_and_version() {
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"type":"ExternalName"}}}"#;
        let WatchEvent::Change { change: ObjectChange::Bad { key, invalid }, version } = decoded(Kind::Service, line)
        else {
            panic!()
        };
        assert_eq!((key, &*version), (Some(ObjectKey::new("a", "s")), "9"));
        assert_eq!(invalid.to_string(), "spec.externalName is missing");
    }

    #[test]
    fn an_object_that_fails_in_one_pass_is_parsed_again() {
        // The last one of a repeated key counts, as in Go.
        let repeated = r#"{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"clusterIP":"10.0.0.1","clusterIP":"10.0.0.2"}}"#;
        let single =
            r#"{"metadata":{"name":"s","namespace":"a","resourceVersion":"9"},"spec":{"clusterIP":"10.0.0.2"}}"#;
        let event = |event_type: &str, object: &str| {
            let WatchEvent::Change { change, version } =
                decoded(Kind::Service, &format!(r#"{{"type":"{event_type}","object":{object}}}"#))
            else {
                panic!()
            };
            format!("{change:?} {version}")
        };
        for event_type in ["ADDED", "DELETED"] {
            assert_eq!(event(event_type, repeated), event(event_type, single));
        }
        // Half a surrogate pair is not valid. The known state of the object remains.
        let half = single.replace("10.0.0.2", r"\ud800");
        assert!(event("ADDED", &half).starts_with(r#"Bad { key: Some(ObjectKey { ns: "a", name: "s" })"#));
        assert!(event("ADDED", &half).ends_with(" 9"));
        let list = format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{half},{repeated}]}}"#);
        let mut changes = Vec::new();
        decode_page(Kind::Service, ALL, list.as_bytes(), |change| changes.push(format!("{change:?}"))).unwrap();
        assert!(changes[0].starts_with("Bad") && format!("{} 9", changes[1]) == event("ADDED", single), "{changes:?}");
    }

    #[test]
    fn bookmarks_and_errors_are_not_changes() {
        let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"8","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        for (kind, _) in objects() {
            let bookmark = decoded(kind, end);
            assert!(matches!(bookmark, WatchEvent::Bookmark { version, initial_events_end: true } if version == "8"));
            let error = r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","message":"gone","code":410}}"#;
            assert!(
                matches!(decoded(kind, error), WatchEvent::Refused(refusal) if refusal.code == 410 && refusal.message == "gone")
            );
        }
    }

    proptest! {
        // No bytes of an API server cause a panic.
        #[test]
        fn no_bytes_cause_a_panic(
            of in 0_usize..4, cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            random in prop::collection::vec(any::<u8>(), 0..64), listed: bool,
        ) {
            let (kind, object) = objects()[of];
            let whole = if listed {
                format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{object},{object}]}}"#)
            } else {
                format!(r#"{{"type":"ADDED","object":{object}}}"#)
            };
            let mut bytes = whole.into_bytes();
            for (at, byte) in cuts {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            for bytes in [bytes, random] {
                let _ = decode_event(kind, ALL, &bytes);
                let mut changes = 0;
                let _ = decode_page(kind, ALL, &bytes, |_| changes += 1);
                prop_assert!(changes <= 2);
            }
        }
    }
}
