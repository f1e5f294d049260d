//! The annotations of an object that are used. All others are skipped without being stored.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::field::{Field, FieldValue};

/// The annotation of the bookmark after the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// The time of the change that a slice reflects, as the endpoint controller saw it.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The annotations that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `k8s.io/initial-events-end` is `true`.
    pub initial_events_end: bool,
    /// `endpoints.kubernetes.io/last-change-trigger-time`, RFC 3339.
    pub last_change: Option<String>,
}

/// The key of an annotation.
enum AnnotationKey {
    InitialEventsEnd,
    LastChange,
    Other,
}

impl<'de> Deserialize<'de> for AnnotationKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<AnnotationKey, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = AnnotationKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the key of an annotation")
            }
            fn visit_str<E>(self, text: &str) -> Result<AnnotationKey, E> {
                Ok(match text {
                    INITIAL_EVENTS_END => AnnotationKey::InitialEventsEnd,
                    LAST_CHANGE => AnnotationKey::LastChange,
                    _ => AnnotationKey::Other,
                })
            }
        }
        from.deserialize_str(KeyVisitor)
    }
}

impl<'de> FieldValue<'de> for Annotations {
    const EXPECTED: &'static str = "a map of strings";
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Annotations>, A::Error> {
        let mut found = Annotations::default();
        while let Some(key) = map.next_key()? {
            let mut value = match key {
                AnnotationKey::InitialEventsEnd | AnnotationKey::LastChange => map.next_value::<Field<String>>()?,
                AnnotationKey::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            match key {
                AnnotationKey::InitialEventsEnd => found.initial_events_end = value.take().as_deref() == Some("true"),
                _ => found.last_change = value.take(),
            }
        }
        Ok(Some(found))
    }
}
