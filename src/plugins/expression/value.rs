//! What an expression works with.

use std::fmt;
use std::sync::Arc;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A string.
    Text(Arc<str>),
    /// Bytes, from `b"…"`.
    Bytes(Arc<[u8]>),
    /// An array.
    Array(Arc<[Value]>),
    /// A map: keys and values, in the order of the keys where they are strings.
    Map(Arc<[(Value, Value)]>),
}

impl Value {
    /// A string.
    pub fn text(text: impl Into<Arc<str>>) -> Value {
        Value::Text(text.into())
    }

    /// A map of these entries; a later one replaces an earlier one with the same key.
    pub(super) fn map(entries: impl IntoIterator<Item = (Value, Value)>) -> Value {
        let mut map: Vec<(Value, Value)> = Vec::new();
        for (key, value) in entries {
            match map.iter_mut().find(|(known, _)| known.equals(&key)) {
                Some((_, old)) => *old = value,
                None => map.push((key, value)),
            }
        }
        map.sort_by_key(|(key, _)| key.to_string());
        Value::Map(map.into())
    }

    /// Its Go type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "<nil>",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::Bytes(_) => "[]uint8",
            Value::Array(_) => "[]interface {}",
            Value::Map(_) => "map[string]interface {}",
        }
    }

    /// A number as floating-point.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Equality as `==` means it: numbers are compared whatever their kind.
    pub(super) fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Int(one), Value::Int(other)) => one == other,
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other.iter()).all(|(one, other)| one.equals(other))
            }
            _ => match (self.as_float(), other.as_float()) {
                (Some(one), Some(other)) => one == other,
                _ => self == other,
            },
        }
    }

    /// What is behind a key of a map.
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        let Value::Map(entries) = self else { return None };
        entries.iter().find(|(known, _)| known.equals(key)).map(|(_, value)| value)
    }
}

impl fmt::Display for Value {
    /// As Go prints it with `%v`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |open: &str, items: &mut dyn Iterator<Item = String>| {
            f.write_str(open)?;
            for (at, item) in items.enumerate() {
                write!(f, "{}{item}", if at > 0 { " " } else { "" })?;
            }
            f.write_str("]")
        };
        match self {
            Value::Nil => f.write_str("<nil>"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(number) => write!(f, "{number}"),
            Value::Float(number) => f.write_str(&float(*number)),
            Value::Text(text) => f.write_str(text),
            Value::Bytes(bytes) => list("[", &mut bytes.iter().map(u8::to_string)),
            Value::Array(items) => list("[", &mut items.iter().map(Value::to_string)),
            Value::Map(entries) => list("map[", &mut entries.iter().map(|(key, value)| format!("{key}:{value}"))),
        }
    }
}

/// A number as Go prints it with `%v`: the fewest digits that tell it apart, with an exponent below -4 and from 6 on.
pub fn float(number: f64) -> String {
    let magnitude = number.abs();
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    if magnitude != 0.0 && !(-4..6).contains(&exponent.parse().unwrap_or(0)) {
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{mantissa}e{sign}{exponent:0>2}");
    }
    format!("{number}")
}
