//! The annotations of an object: the few that are read. The others are passed over without being stored.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::field::{Field, Value};

/// On the bookmark that ends the initial events of a streaming list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// When what a slice tells of has changed, as the endpoint controller saw it.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Annotations that count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// `k8s.io/initial-events-end` is `true`.
    pub initial_events_end: bool,
    /// `endpoints.kubernetes.io/last-change-trigger-time`, RFC 3339.
    pub last_change: Option<String>,
}

/// A key.
enum Key {
    InitialEventsEnd,
    LastChange,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Key, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an annotation's key")
            }
            fn visit_str<E>(self, text: &str) -> Result<Key, E> {
                Ok(match text {
                    INITIAL_EVENTS_END => Key::InitialEventsEnd,
                    LAST_CHANGE => Key::LastChange,
                    _ => Key::Other,
                })
            }
        }
        from.deserialize_str(Text)
    }
}

impl<'de> Value<'de> for Annotations {
    const EXPECTED: &'static str = "a map of strings";
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Annotations>, A::Error> {
        let mut found = Annotations::default();
        while let Some(key) = map.next_key()? {
            let mut value = match key {
                Key::InitialEventsEnd | Key::LastChange => map.next_value::<Field<String>>()?,
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            match key {
                Key::InitialEventsEnd => found.initial_events_end = value.take().as_deref() == Some("true"),
                _ => found.last_change = value.take(),
            }
        }
        Ok(Some(found))
    }
}
