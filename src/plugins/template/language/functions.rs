//! The functions of templates: those of Go's `text/template`, and CoreDNS's `parseInt`.

use std::borrow::Cow;

use super::format;
use super::output::{MAX_OUTPUT, Stopped};
use super::quote::{is_printable, quote};
use super::value::{Parameter, TemplateValue, Unsigned};

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TemplateFunction {
    And,
    Call,
    Eq,
    Ge,
    Gt,
    Html,
    Index,
    Js,
    Le,
    Len,
    Lt,
    Ne,
    Not,
    Or,
    ParseInt,
    Print,
    Printf,
    Println,
    Slice,
    UrlQuery,
}

/// The parameters of a function: the required ones by type, and the type of further ones.
pub(super) struct Signature {
    pub fixed: &'static [Parameter],
    pub variadic: bool,
}

const FUNCTIONS: &[(&str, TemplateFunction)] = &[
    ("and", TemplateFunction::And),
    ("call", TemplateFunction::Call),
    ("eq", TemplateFunction::Eq),
    ("ge", TemplateFunction::Ge),
    ("gt", TemplateFunction::Gt),
    ("html", TemplateFunction::Html),
    ("index", TemplateFunction::Index),
    ("js", TemplateFunction::Js),
    ("le", TemplateFunction::Le),
    ("len", TemplateFunction::Len),
    ("lt", TemplateFunction::Lt),
    ("ne", TemplateFunction::Ne),
    ("not", TemplateFunction::Not),
    ("or", TemplateFunction::Or),
    ("parseInt", TemplateFunction::ParseInt),
    ("print", TemplateFunction::Print),
    ("printf", TemplateFunction::Printf),
    ("println", TemplateFunction::Println),
    ("slice", TemplateFunction::Slice),
    ("urlquery", TemplateFunction::UrlQuery),
];

/// An error of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// The text of the function.
    Function(String),
    /// A limit is reached.
    Stopped(Stopped),
}

impl From<Stopped> for CallError {
    fn from(stopped: Stopped) -> CallError {
        CallError::Stopped(stopped)
    }
}

fn error<T>(text: impl Into<String>) -> Result<T, CallError> {
    Err(CallError::Function(text.into()))
}

impl TemplateFunction {
    /// Returns the function of this name.
    pub(super) fn named(name: &str) -> Option<TemplateFunction> {
        FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
    }

    /// Returns the name.
    pub(super) fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }

    /// Returns the parameters.
    pub(super) fn signature(self) -> Signature {
        use Parameter::{Any, Int, Text};
        let (fixed, variadic): (&'static [Parameter], bool) = match self {
            TemplateFunction::And
            | TemplateFunction::Or
            | TemplateFunction::Call
            | TemplateFunction::Eq
            | TemplateFunction::Index
            | TemplateFunction::Slice => (&[Any], true),
            TemplateFunction::Ge
            | TemplateFunction::Gt
            | TemplateFunction::Le
            | TemplateFunction::Lt
            | TemplateFunction::Ne => (&[Any, Any], false),
            TemplateFunction::Html
            | TemplateFunction::Js
            | TemplateFunction::Print
            | TemplateFunction::Println
            | TemplateFunction::UrlQuery => (&[], true),
            TemplateFunction::Len | TemplateFunction::Not => (&[Any], false),
            TemplateFunction::ParseInt => (&[Text, Int, Int], false),
            TemplateFunction::Printf => (&[Text], true),
        };
        Signature { fixed, variadic }
    }

    /// Calls the function. `and` and `or` are evaluated elsewhere: they may need only some of their arguments.
    pub(super) fn call<'a>(self, arguments: &[TemplateValue<'a>]) -> Result<TemplateValue<'a>, CallError> {
        match (self, arguments) {
            (TemplateFunction::Len, [item]) => len(item),
            (TemplateFunction::Not, [item]) => Ok(TemplateValue::Bool(!item.is_true())),
            (TemplateFunction::Index, [item, indexes @ ..]) => index(item, indexes),
            (TemplateFunction::Slice, [item, indexes @ ..]) => slice(item, indexes),
            (TemplateFunction::Eq, [first, others @ ..]) => equal_any(first, others).map(TemplateValue::Bool),
            (TemplateFunction::Ne, [one, other]) => equal(one, other).map(|equal| TemplateValue::Bool(!equal)),
            (TemplateFunction::Lt, [one, other]) => less(one, other).map(TemplateValue::Bool),
            (TemplateFunction::Le, [one, other]) => less_or_equal(one, other).map(TemplateValue::Bool),
            (TemplateFunction::Gt, [one, other]) => less_or_equal(one, other).map(|less| TemplateValue::Bool(!less)),
            (TemplateFunction::Ge, [one, other]) => less(one, other).map(|less| TemplateValue::Bool(!less)),
            (
                TemplateFunction::ParseInt,
                [TemplateValue::Text(text), TemplateValue::Int(base), TemplateValue::Int(bits)],
            ) => parse_uint(text, *base, *bits).map(|number| TemplateValue::Uint(number, Unsigned::Long)),
            (TemplateFunction::Print, values) => made(|out| format::print(out, values)),
            (TemplateFunction::Println, values) => made(|out| format::println(out, values)),
            (TemplateFunction::Printf, [TemplateValue::Text(text), values @ ..]) => {
                made(|out| format::printf(out, text, values))
            }
            (TemplateFunction::Html, values) => escaped(values, html),
            (TemplateFunction::Js, values) => escaped(values, js),
            (TemplateFunction::UrlQuery, values) => escaped(values, url_query),
            (TemplateFunction::Call, [function, ..]) if function.is_nil() => error("call of nil"),
            // No value of a template is a function.
            (TemplateFunction::Call, [function, ..]) => error(format!("non-function of type {}", function.type_name())),
            _ => error("wrong arguments"),
        }
    }
}

/// Returns a string that `write` writes.
fn made<'a>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), Stopped>) -> Result<TemplateValue<'a>, CallError> {
    let mut out = Vec::new();
    write(&mut out)?;
    Ok(TemplateValue::Text(Cow::Owned(out)))
}

//--- Parts

fn len<'a>(item: &TemplateValue<'a>) -> Result<TemplateValue<'a>, CallError> {
    Ok(TemplateValue::Int(match item {
        TemplateValue::Text(text) => text.len() as i64,
        TemplateValue::List(list) => list.len() as i64,
        TemplateValue::Map(map) => map.len() as i64,
        TemplateValue::Missing => return error("reflect: call of reflect.Value.Type on zero Value"),
        TemplateValue::Nil => return error("len of nil pointer"),
        TemplateValue::Object(object) => {
            return error(format!("len of type {}", object.type_name().trim_start_matches('*')));
        }
        other => return error(format!("len of type {}", other.type_name())),
    }))
}

/// Returns a position in a value with this capacity.
fn position(index: &TemplateValue<'_>, capacity: usize) -> Result<usize, CallError> {
    let number = match index {
        TemplateValue::Int(number) => *number,
        TemplateValue::Uint(number, _) => *number as i64,
        TemplateValue::Missing | TemplateValue::Nil => return error("cannot index slice/array with nil"),
        other => return error(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match usize::try_from(number) {
        Ok(at) if at <= capacity => Ok(at),
        _ => error(format!("index out of range: {number}")),
    }
}

fn index<'a>(item: &TemplateValue<'a>, indexes: &[TemplateValue<'a>]) -> Result<TemplateValue<'a>, CallError> {
    if item.is_nil() {
        return error("index of untyped nil");
    }
    let mut item = item.clone();
    for index in indexes {
        item = match &item {
            TemplateValue::Missing | TemplateValue::Nil => return error("index of nil pointer"),
            TemplateValue::Text(text) => {
                let at = position(index, text.len())?;
                match text.get(at) {
                    Some(byte) => TemplateValue::Uint((*byte).into(), Unsigned::Byte),
                    None => return error("reflect: string index out of range"),
                }
            }
            TemplateValue::List(list) => {
                let at = position(index, list.len())?;
                match list.get(at) {
                    Some(item) => item,
                    None => return error("reflect: slice index out of range"),
                }
            }
            TemplateValue::Map(map) => match index {
                TemplateValue::Text(key) => map.get(key).unwrap_or_else(|| map.zero()),
                TemplateValue::Missing | TemplateValue::Nil => return error("value is nil; should be of type string"),
                other => return error(format!("value has type {}; should be string", other.type_name())),
            },
            TemplateValue::Object(object) => {
                return error(format!("can't index item of type {}", object.type_name().trim_start_matches('*')));
            }
            other => return error(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

fn slice<'a>(item: &TemplateValue<'a>, indexes: &[TemplateValue<'a>]) -> Result<TemplateValue<'a>, CallError> {
    if item.is_nil() {
        return error("slice of untyped nil");
    }
    if indexes.len() > 3 {
        return error(format!("too many slice indexes: {}", indexes.len()));
    }
    let (length, capacity) = match item {
        TemplateValue::Text(_) if indexes.len() == 3 => return error("cannot 3-index slice a string"),
        TemplateValue::Text(text) => (text.len(), text.len()),
        TemplateValue::List(list) => (list.len(), list.capacity()),
        TemplateValue::Object(object) => {
            return error(format!("can't slice item of type {}", object.type_name().trim_start_matches('*')));
        }
        other => return error(format!("can't slice item of type {}", other.type_name())),
    };
    let mut places = [0, length, capacity];
    for (place, index) in places.iter_mut().zip(indexes) {
        *place = position(index, capacity)?;
    }
    let [from, to, most] = places;
    if from > to {
        return error(format!("invalid slice index: {from} > {to}"));
    }
    if indexes.len() == 3 && to > most {
        return error(format!("invalid slice index: {to} > {most}"));
    }
    match item {
        TemplateValue::Text(Cow::Borrowed(text)) => Ok(TemplateValue::Text(Cow::Borrowed(&text[from..to]))),
        TemplateValue::Text(text) => Ok(TemplateValue::Text(Cow::Owned(text[from..to].to_vec()))),
        TemplateValue::List(list) => match list.slice(from, to) {
            Some(list) => Ok(TemplateValue::List(list)),
            None => error("reflect: slice index out of bounds"),
        },
        _ => error("can't slice"),
    }
}

//--- Comparisons

const BAD_TYPE: &str = "invalid type for comparison";

/// Returns the kind of a value, by which Go decides whether two can be compared; `None` if it is not a basic kind.
fn kind(value: &TemplateValue<'_>) -> Option<u8> {
    match value {
        TemplateValue::Bool(_) => Some(0),
        TemplateValue::Int(_) | TemplateValue::Uint(..) => Some(1),
        TemplateValue::Float(_) => Some(2),
        TemplateValue::Text(_) => Some(3),
        _ => None,
    }
}

/// Returns a signed or unsigned number.
fn whole(value: &TemplateValue<'_>) -> Option<i128> {
    match value {
        TemplateValue::Int(number) => Some((*number).into()),
        TemplateValue::Uint(number, _) => Some((*number).into()),
        _ => None,
    }
}

fn equal_any(first: &TemplateValue<'_>, others: &[TemplateValue<'_>]) -> Result<bool, CallError> {
    if others.is_empty() {
        return error("missing argument for comparison");
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn incompatible<T>(one: &TemplateValue<'_>, other: &TemplateValue<'_>) -> Result<T, CallError> {
    error(format!("incompatible types for comparison: {} and {}", one.type_name(), other.type_name()))
}

fn equal(one: &TemplateValue<'_>, other: &TemplateValue<'_>) -> Result<bool, CallError> {
    Ok(match (one, other) {
        (TemplateValue::Bool(one), TemplateValue::Bool(other)) => one == other,
        (TemplateValue::Float(one), TemplateValue::Float(other)) => one == other,
        (TemplateValue::Text(one), TemplateValue::Text(other)) => one == other,
        _ if whole(one).is_some() && whole(other).is_some() => whole(one) == whole(other),
        _ if one.is_nil() || other.is_nil() => one.is_nil() && other.is_nil(),
        _ if kind(one) != kind(other) => return incompatible(one, other),
        (TemplateValue::Object(one), TemplateValue::Object(other)) => std::ptr::addr_eq(*one, *other),
        (TemplateValue::Printed(one), TemplateValue::Printed(other)) => one == other,
        (TemplateValue::List(_) | TemplateValue::Map(_), _) | (_, TemplateValue::List(_) | TemplateValue::Map(_)) => {
            return error(format!("non-comparable type: {}", other.type_name()));
        }
        _ => false,
    })
}

fn less(one: &TemplateValue<'_>, other: &TemplateValue<'_>) -> Result<bool, CallError> {
    let (Some(first), Some(second)) = (kind(one), kind(other)) else { return error(BAD_TYPE) };
    if first != second {
        return incompatible(one, other);
    }
    Ok(match (one, other) {
        (TemplateValue::Float(one), TemplateValue::Float(other)) => one < other,
        (TemplateValue::Text(one), TemplateValue::Text(other)) => one < other,
        _ if whole(one).is_some() => whole(one) < whole(other),
        _ => return error(BAD_TYPE),
    })
}

fn less_or_equal(one: &TemplateValue<'_>, other: &TemplateValue<'_>) -> Result<bool, CallError> {
    Ok(less(one, other)? || equal(one, other)?)
}

//--- Numbers

/// Parses as Go's `strconv.ParseUint`.
fn parse_uint(text: &[u8], base: i64, bits: i64) -> Result<u64, CallError> {
    let fail = |reason: &str| error(format!("strconv.ParseUint: parsing {}: {reason}", quote(text)));
    if text.is_empty() {
        return fail("invalid syntax");
    }
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match (base, lower.as_slice()) {
        (2..=36, _) => (base as u64, &lower[..]),
        (0, [b'0', prefix @ (b'x' | b'o' | b'b'), _, ..]) => {
            let radix = if *prefix == b'x' {
                16
            } else if *prefix == b'o' {
                8
            } else {
                2
            };
            (radix, &lower[2..])
        }
        (0, [b'0', ..]) => (8, &lower[1..]),
        (0, _) => (10, &lower[..]),
        _ => return fail(&format!("invalid base {base}")),
    };
    let most = match bits {
        0 | 64 => u64::MAX,
        1..64 => (1 << bits) - 1,
        _ => return fail(&format!("invalid bit size {bits}")),
    };
    let mut value: u64 = 0;
    for byte in digits {
        let digit = match byte {
            // Underscores are allowed between digits with base 0.
            b'_' if base == 0 => continue,
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return fail("invalid syntax"),
        };
        if u64::from(digit) >= radix {
            return fail("invalid syntax");
        }
        let next = value.checked_mul(radix).and_then(|value| value.checked_add(digit.into()));
        match next.filter(|value| *value <= most) {
            Some(next) => value = next,
            None => return fail("value out of range"),
        }
    }
    if base == 0 && !are_underscores_good(&lower) {
        return fail("invalid syntax");
    }
    Ok(value)
}

/// Whether each underscore is between digits, or between a prefix and a digit.
fn are_underscores_good(text: &[u8]) -> bool {
    text.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(at, _)| {
        let is_digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        is_digit(at.checked_sub(1)) && is_digit(Some(at + 1))
    })
}

//--- Escapes

/// Returns the arguments as `print` writes them, escaped.
fn escaped<'a>(values: &[TemplateValue<'a>], escape: fn(&[u8], &mut Vec<u8>)) -> Result<TemplateValue<'a>, CallError> {
    let mut text = Vec::new();
    match values {
        [TemplateValue::Text(only)] => text.extend_from_slice(only),
        _ => {
            let shown: Vec<TemplateValue<'_>> = values
                .iter()
                .map(
                    |value| {
                        if value.is_nil() { TemplateValue::Text(Cow::Borrowed(b"<no value>")) } else { value.clone() }
                    },
                )
                .collect();
            format::print(&mut text, &shown)?;
        }
    }
    let mut out = Vec::with_capacity(text.len());
    escape(&text, &mut out);
    if out.len() > MAX_OUTPUT { Err(Stopped::Output.into()) } else { Ok(TemplateValue::Text(Cow::Owned(out))) }
}

fn html(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            0 => out.extend_from_slice("\u{fffd}".as_bytes()),
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            _ => out.push(*byte),
        }
    }
}

fn js(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            let value = u32::from(character);
            match character {
                '\\' | '\'' | '"' => out.extend([b'\\', value as u8]),
                '<' | '>' | '&' | '=' | '\0'..' ' => out.extend_from_slice(format!("\\u{value:04X}").as_bytes()),
                _ if character.is_ascii() || is_printable(character) => {
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => out.extend_from_slice(format!("\\u{value:04X}").as_bytes()),
            }
        }
        out.extend_from_slice(chunk.invalid());
    }
}

fn url_query(text: &[u8], out: &mut Vec<u8>) {
    const HEXADECIMAL: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            b' ' => out.push(b'+'),
            _ => out.extend([b'%', HEXADECIMAL[usize::from(byte >> 4)], HEXADECIMAL[usize::from(byte & 15)]]),
        }
    }
}
