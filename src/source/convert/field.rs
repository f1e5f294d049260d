//! A field of an object as it stands there: a value of the field's type, nothing, or something else.
//!
//! One odd value must not cost the whole object: a value that does not fit its field counts as absent. Deserialising
//! never fails because of it; whoever reads the field reports it with its path ([`Field::read`]).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;

use super::invalid::{Ignored, Invalid};

/// A field. `null` is as good as absent, as the API server has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// Nothing.
    #[default]
    Absent,
    /// A value of the field's type.
    Is(T),
    /// Something else.
    Odd(Found),
}

/// What stands in a field that should hold something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// A string.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list.
    List,
    /// A map.
    Map,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Found::Text => "this string",
            Found::Number => "this number",
            Found::Boolean => "true or false",
            Found::List => "a list",
            Found::Map => "a map",
        })
    }
}

/// What a field may hold. Of the methods a type has those that make it; what no method takes is passed over.
pub trait Value<'de>: Sized {
    /// What belongs there, for a person.
    const EXPECTED: &'static str;

    /// The value that a string stands for.
    fn from_text(_text: Cow<'de, str>) -> Option<Self> {
        None
    }

    /// The value that a whole number stands for.
    fn from_number(_number: i64) -> Option<Self> {
        None
    }

    /// The value that `true` or `false` stands for.
    fn from_bool(_value: bool) -> Option<Self> {
        None
    }

    /// Reads a map.
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// Reads a list.
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl<T> Field<T> {
    /// The value, if there is one of the field's type.
    pub fn get(&self) -> Option<&T> {
        match self {
            Field::Is(value) => Some(value),
            Field::Absent | Field::Odd(_) => None,
        }
    }

    /// Takes the value out.
    pub fn take(&mut self) -> Option<T> {
        match std::mem::take(self) {
            Field::Is(value) => Some(value),
            Field::Absent | Field::Odd(_) => None,
        }
    }
}

impl<'de, T: Value<'de>> Field<T> {
    /// The value; something else is reported under the path of the field.
    pub fn read(&self, path: impl FnOnce() -> String, ignored: &mut Ignored) -> Option<&T> {
        if let Some(invalid) = self.odd(path) {
            ignored.push(|| invalid);
        }
        self.get()
    }

    /// What is wrong with the field, if something is.
    pub fn odd(&self, path: impl FnOnce() -> String) -> Option<Invalid> {
        let Field::Odd(found) = *self else { return None };
        Some(Invalid::Type { field: path(), expected: T::EXPECTED, found })
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Field<T> {
        value.map_or(Field::Absent, Field::Is)
    }
}

impl<'de, T: Value<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Field<T>, D::Error> {
        from.deserialize_any(Any(PhantomData))
    }
}

/// Takes any value.
struct Any<T>(PhantomData<T>);

impl<'de, T: Value<'de>> Visitor<'de> for Any<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Field<T>, E> {
        Ok(or_odd(T::from_text(Cow::Borrowed(text)), Found::Text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Field<T>, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Field<T>, E> {
        Ok(or_odd(T::from_text(Cow::Owned(text)), Found::Text))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Field<T>, E> {
        Ok(or_odd(T::from_number(number), Found::Number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Field<T>, E> {
        Ok(or_odd(i64::try_from(number).ok().and_then(T::from_number), Found::Number))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Field<T>, E> {
        Ok(Field::Odd(Found::Number))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Field<T>, E> {
        Ok(or_odd(T::from_bool(value), Found::Boolean))
    }

    fn visit_unit<E: Error>(self) -> Result<Field<T>, E> {
        Ok(Field::Absent)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<T>, A::Error> {
        Ok(or_odd(T::from_map(map)?, Found::Map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<T>, A::Error> {
        Ok(or_odd(T::from_list(list)?, Found::List))
    }
}

fn or_odd<T>(value: Option<T>, found: Found) -> Field<T> {
    value.map_or(Field::Odd(found), Field::Is)
}

//--- What fields hold

/// Text, borrowed from its JSON where that is possible: endpoints are many, and most of what they say is looked at once.
pub type Text<'a> = Cow<'a, str>;

impl<'de: 'a, 'a> Value<'de> for Text<'a> {
    const EXPECTED: &'static str = "a string";
    fn from_text(text: Cow<'de, str>) -> Option<Text<'a>> {
        Some(text)
    }
}

impl Value<'_> for String {
    const EXPECTED: &'static str = "a string";
    fn from_text(text: Cow<'_, str>) -> Option<String> {
        Some(text.into_owned())
    }
}

impl Value<'_> for i64 {
    const EXPECTED: &'static str = "a whole number";
    fn from_number(number: i64) -> Option<i64> {
        Some(number)
    }
}

impl Value<'_> for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_bool(value: bool) -> Option<bool> {
        Some(value)
    }
}

/// A time that is set (RFC 3339); which one is of no interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time;

impl Value<'_> for Time {
    const EXPECTED: &'static str = "a time (RFC 3339)";
    fn from_text(text: Cow<'_, str>) -> Option<Time> {
        text.parse::<k8s_openapi::jiff::Timestamp>().ok().map(|_| Time)
    }
}

impl<'de, T: Deserialize<'de>> Value<'de> for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Vec<T>>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

impl<'de, T: Deserialize<'de>> Value<'de> for SmallVec<[T; 1]> {
    const EXPECTED: &'static str = "a list";
    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<SmallVec<[T; 1]>>, A::Error> {
        let mut elements = SmallVec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Some(elements))
    }
}

/// Reads a map into a struct.
pub fn from_map<'de, T: Deserialize<'de>, A: MapAccess<'de>>(map: A) -> Result<Option<T>, A::Error> {
    T::deserialize(MapAccessDeserializer::new(map)).map(Some)
}

/// Makes structs whose fields all are [`Field`]s what a field may hold.
macro_rules! maps {
    ($($name:ty),* $(,)?) => {$(
        impl<'de: 'a, 'a> $crate::source::convert::field::Value<'de> for $name {
            const EXPECTED: &'static str = "a map";
            fn from_map<A: serde::de::MapAccess<'de>>(map: A) -> Result<Option<Self>, A::Error> {
                $crate::source::convert::field::from_map(map)
            }
        }
    )*};
}
pub(crate) use maps;

/// Reads a struct; anything but a map is as good as absent. For what is missed when it is absent.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + Value<'de>>(from: D) -> Result<T, D::Error> {
    Field::deserialize(from).map(|mut field: Field<T>| field.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_field_is_read() {
        fn read<T: for<'a> Value<'a> + fmt::Debug>(json: &str) -> String {
            let fields: Vec<Field<T>> = serde_json::from_str(json).unwrap();
            format!("{fields:?}")
        }
        let json = r#"["80", 80, 80.5, -1, 18446744073709551615, true, null, {"a": [{}]}, [1, {"b": 2}]]"#;
        assert_eq!(
            read::<i64>(json),
            "[Odd(Text), Is(80), Odd(Number), Is(-1), Odd(Number), Odd(Boolean), Absent, Odd(Map), Odd(List)]"
        );
        assert_eq!(
            read::<String>(json),
            "[Is(\"80\"), Odd(Number), Odd(Number), Odd(Number), Odd(Number), Odd(Boolean), Absent, Odd(Map), Odd(List)]"
        );
        assert_eq!(read::<bool>("[true, 1]"), "[Is(true), Odd(Number)]");
        assert_eq!(read::<Time>(r#"["2026-01-01T00:00:00Z", "soon", 1]"#), "[Is(Time), Odd(Text), Odd(Number)]");
        assert_eq!(read::<Vec<Field<i64>>>(r#"[[1, "x"], {}]"#), "[Is([Is(1), Odd(Text)]), Odd(Map)]");
    }

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        let texts: Vec<Field<Text<'_>>> = serde_json::from_str(r#"["plain", "a\nb"]"#).unwrap();
        assert!(matches!(texts[..], [Field::Is(Cow::Borrowed("plain")), Field::Is(Cow::Owned(_))]));
    }
}
