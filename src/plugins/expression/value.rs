//! The values of expressions.

use std::fmt;
use std::sync::Arc;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprValue {
    /// `nil`.
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
    Array(Arc<[ExprValue]>),
    /// A map: keys and values, in the order of the keys where they are strings.
    Map(Arc<[(ExprValue, ExprValue)]>),
}

impl ExprValue {
    /// A string.
    pub fn text(text: impl Into<Arc<str>>) -> ExprValue {
        ExprValue::Text(text.into())
    }

    /// Creates a map of entries; a later entry replaces an earlier one with the same key.
    pub(super) fn map(entries: impl IntoIterator<Item = (ExprValue, ExprValue)>) -> ExprValue {
        let mut map: Vec<(ExprValue, ExprValue)> = Vec::new();
        for (key, value) in entries {
            match map.iter_mut().find(|(known, _)| known.equals(&key)) {
                Some((_, old)) => *old = value,
                None => map.push((key, value)),
            }
        }
        map.sort_by_key(|(key, _)| key.to_string());
        ExprValue::Map(map.into())
    }

    /// Returns its Go type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            ExprValue::Nil => "<nil>",
            ExprValue::Bool(_) => "bool",
            ExprValue::Int(_) => "int",
            ExprValue::Float(_) => "float64",
            ExprValue::Text(_) => "string",
            ExprValue::Bytes(_) => "[]uint8",
            ExprValue::Array(_) => "[]interface {}",
            ExprValue::Map(_) => "map[string]interface {}",
        }
    }

    /// Returns a number as floating-point.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            ExprValue::Int(number) => Some(*number as f64),
            ExprValue::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Compares as `==` does: an integer may equal a floating-point number.
    pub(super) fn equals(&self, other: &ExprValue) -> bool {
        match (self, other) {
            (ExprValue::Int(one), ExprValue::Int(other)) => one == other,
            (ExprValue::Array(one), ExprValue::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other.iter()).all(|(one, other)| one.equals(other))
            }
            _ => match (self.as_float(), other.as_float()) {
                (Some(one), Some(other)) => one == other,
                _ => self == other,
            },
        }
    }

    /// Returns the value of a key of a map.
    pub(super) fn get(&self, key: &ExprValue) -> Option<&ExprValue> {
        let ExprValue::Map(entries) = self else { return None };
        entries.iter().find(|(known, _)| known.equals(key)).map(|(_, value)| value)
    }
}

impl fmt::Display for ExprValue {
    /// Formats as Go does with `%v`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |open: &str, items: &mut dyn Iterator<Item = String>| {
            f.write_str(open)?;
            for (at, item) in items.enumerate() {
                write!(f, "{}{item}", if at > 0 { " " } else { "" })?;
            }
            f.write_str("]")
        };
        match self {
            ExprValue::Nil => f.write_str("<nil>"),
            ExprValue::Bool(value) => write!(f, "{value}"),
            ExprValue::Int(number) => write!(f, "{number}"),
            ExprValue::Float(number) => f.write_str(&float(*number)),
            ExprValue::Text(text) => f.write_str(text),
            ExprValue::Bytes(bytes) => list("[", &mut bytes.iter().map(u8::to_string)),
            ExprValue::Array(items) => list("[", &mut items.iter().map(ExprValue::to_string)),
            ExprValue::Map(entries) => list("map[", &mut entries.iter().map(|(key, value)| format!("{key}:{value}"))),
        }
    }
}

/// Formats a number as Go does with `%v`: the fewest digits that identify it, with an exponent below -4 and from 6 on.
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
