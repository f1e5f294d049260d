//! A field of an object: a value of the type of the field, nothing, or something else.
//!
//! One invalid value must not invalidate the whole object: a value of another type counts as absent. Deserialization
//! never fails because of it; the code that reads the field reports it with its path ([`Field::read`]).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;

use super::invalid::{Ignored, Invalid, JsonType};

/// A field. `null` is equivalent to absence, as for the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// The field is absent or `null`.
    #[default]
    Absent,
    /// A value of the type of the field.
    Valid(T),
    /// A value of another type, or one that the field cannot have.
    Unexpected(JsonType),
}

/// A type of the value of a field. An implementation has the methods for the JSON types that it is read from; a value
/// of another JSON type is skipped.
pub trait FieldValue<'de>: Sized {
    /// Describes the expected value in messages.
    const EXPECTED: &'static str;

    /// Returns the value of a string.
    fn from_text(_text: Cow<'de, str>) -> Option<Self> {
        None
    }

    /// Returns the value of an integer.
    fn from_number(_number: i64) -> Option<Self> {
        None
    }

    /// Returns the value of a boolean.
    fn from_bool(_value: bool) -> Option<Self> {
        None
    }

    /// Deserializes a map.
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// Deserializes a list.
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<T> Field<T> {
    /// Returns the value, if it is valid.
    pub fn get(&self) -> Option<&T> {
        match self {
            Field::Valid(value) => Some(value),
            Field::Absent | Field::Unexpected(_) => None,
        }
    }

    /// Takes the value, if it is valid.
    pub fn take(&mut self) -> Option<T> {
        match std::mem::take(self) {
            Field::Valid(value) => Some(value),
            Field::Absent | Field::Unexpected(_) => None,
        }
    }
}

impl<'de, T: FieldValue<'de>> Field<T> {
    /// Returns the value. An unexpected one is reported under the path of the field.
    pub fn read(&self, path: impl FnOnce() -> String, ignored: &mut Ignored) -> Option<&T> {
        if let Some(invalid) = self.error(path) {
            ignored.push(|| invalid);
        }
        self.get()
    }

    /// Returns the error of a field with an unexpected value.
    pub fn error(&self, path: impl FnOnce() -> String) -> Option<Invalid> {
        let Field::Unexpected(found) = *self else { return None };
        Some(Invalid::Type { field: path(), expected: T::EXPECTED, found })
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Field<T> {
        value.map_or(Field::Absent, Field::Valid)
    }
}

impl<'de, T: FieldValue<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Field<T>, D::Error> {
        from.deserialize_any(FieldVisitor(PhantomData))
    }
}

/// Deserializes any value.
struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: FieldValue<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Field<T>, E> {
        Ok(valid_or_unexpected(T::from_text(Cow::Borrowed(text)), JsonType::String))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Field<T>, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Field<T>, E> {
        Ok(valid_or_unexpected(T::from_text(Cow::Owned(text)), JsonType::String))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Field<T>, E> {
        Ok(valid_or_unexpected(T::from_number(number), JsonType::Number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Field<T>, E> {
        Ok(valid_or_unexpected(i64::try_from(number).ok().and_then(T::from_number), JsonType::Number))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Field<T>, E> {
        Ok(Field::Unexpected(JsonType::Number))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Field<T>, E> {
        Ok(valid_or_unexpected(T::from_bool(value), JsonType::Boolean))
    }

    fn visit_unit<E: Error>(self) -> Result<Field<T>, E> {
        Ok(Field::Absent)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<T>, A::Error> {
        Ok(valid_or_unexpected(T::from_map(map)?, JsonType::Map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<T>, A::Error> {
        Ok(valid_or_unexpected(T::from_list(list)?, JsonType::List))
    }
}

fn valid_or_unexpected<T>(value: Option<T>, found: JsonType) -> Field<T> {
    value.map_or(Field::Unexpected(found), Field::Valid)
}

//--- Types of values

/// Text, borrowed from its JSON where possible: endpoints are many, and most of their fields are read once.
pub type Text<'a> = Cow<'a, str>;

impl<'de: 'a, 'a> FieldValue<'de> for Text<'a> {
    const EXPECTED: &'static str = "a string";
    fn from_text(text: Cow<'de, str>) -> Option<Text<'a>> {
        Some(text)
    }
}

impl FieldValue<'_> for String {
    const EXPECTED: &'static str = "a string";
    fn from_text(text: Cow<'_, str>) -> Option<String> {
        Some(text.into_owned())
    }
}

impl FieldValue<'_> for i64 {
    const EXPECTED: &'static str = "a whole number";
    fn from_number(number: i64) -> Option<i64> {
        Some(number)
    }
}

impl FieldValue<'_> for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_bool(value: bool) -> Option<bool> {
        Some(value)
    }
}

/// A valid time (RFC 3339); only its presence matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time;

impl FieldValue<'_> for Time {
    const EXPECTED: &'static str = "a time (RFC 3339)";
    fn from_text(text: Cow<'_, str>) -> Option<Time> {
        text.parse::<k8s_openapi::jiff::Timestamp>().ok().map(|_| Time)
    }
}

impl<'de, T: Deserialize<'de>> FieldValue<'de> for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Vec<T>>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

impl<'de, T: Deserialize<'de>> FieldValue<'de> for SmallVec<[T; 1]> {
    const EXPECTED: &'static str = "a list";
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<SmallVec<[T; 1]>>, A::Error> {
        let mut elements = SmallVec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

/// Deserializes a map into a struct.
pub fn from_map<'de, T: Deserialize<'de>, A: MapAccess<'de>>(map: A) -> Result<Option<T>, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map)).map(Some)
}

/// Implements [`FieldValue`] for structs whose fields are all [`Field`]s.
macro_rules! impl_map_values {
    ($($name:ty),* $(,)?) => {$(
        impl<'de: 'a, 'a> $crate::source::convert::field::FieldValue<'de> for $name {
            const EXPECTED: &'static str = "a map";
            fn from_map<A: serde::de::MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
                $crate::source::convert::field::from_map(map)
            }
        }
    )*};
}
pub(crate) use impl_map_values;

/// Deserializes a struct. Anything but a map results in the default, for structs whose absence is detected later.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + FieldValue<'de>>(from: D) -> Result<T, D::Error> {
    Field::deserialize(from).map(|mut field: Field<T>| field.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_of_a_field_is_read() {
        fn read<T: for<'a> FieldValue<'a> + fmt::Debug>(json: &str) -> String {
            let fields: Vec<Field<T>> = serde_json::from_str(json).unwrap();
            format!("{fields:?}")
        }
        let json = r#"["80", 80, 80.5, -1, 18446744073709551615, true, null, {"a": [{}]}, [1, {"b": 2}]]"#;
        assert_eq!(
            read::<i64>(json),
            "[Unexpected(String), Valid(80), Unexpected(Number), Valid(-1), Unexpected(Number), Unexpected(Boolean), Absent, Unexpected(Map), Unexpected(List)]"
        );
        assert_eq!(
            read::<String>(json),
            "[Valid(\"80\"), Unexpected(Number), Unexpected(Number), Unexpected(Number), Unexpected(Number), Unexpected(Boolean), Absent, Unexpected(Map), Unexpected(List)]"
        );
        assert_eq!(read::<bool>("[true, 1]"), "[Valid(true), Unexpected(Number)]");
        assert_eq!(
            read::<Time>(r#"["2026-01-01T00:00:00Z", "soon", 1]"#),
            "[Valid(Time), Unexpected(String), Unexpected(Number)]"
        );
        assert_eq!(
            read::<Vec<Field<i64>>>(r#"[[1, "x"], {}]"#),
            "[Valid([Valid(1), Unexpected(String)]), Unexpected(Map)]"
        );
    }

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        let texts: Vec<Field<Text<'_>>> = serde_json::from_str(r#"["plain", "a\nb"]"#).unwrap();
        assert!(matches!(texts[..], [Field::Valid(Cow::Borrowed("plain")), Field::Valid(Cow::Owned(_))]));
    }
}
