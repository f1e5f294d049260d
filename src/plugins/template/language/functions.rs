//! The functions that a template may call: those of Go's `text/template`, and CoreDNS's `parseInt`.

use std::borrow::Cow;

use super::format;
use super::output::{MAX_OUTPUT, Stopped};
use super::quote::{is_printable, quote};
use super::value::{Parameter, Unsigned, Value};

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
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

/// What it takes: so many arguments of these types, and then any number of the last type.
pub(super) struct Signature {
    pub fixed: &'static [Parameter],
    pub variadic: bool,
}

const FUNCTIONS: &[(&str, Function)] = &[
    ("and", Function::And),
    ("call", Function::Call),
    ("eq", Function::Eq),
    ("ge", Function::Ge),
    ("gt", Function::Gt),
    ("html", Function::Html),
    ("index", Function::Index),
    ("js", Function::Js),
    ("le", Function::Le),
    ("len", Function::Len),
    ("lt", Function::Lt),
    ("ne", Function::Ne),
    ("not", Function::Not),
    ("or", Function::Or),
    ("parseInt", Function::ParseInt),
    ("print", Function::Print),
    ("printf", Function::Printf),
    ("println", Function::Println),
    ("slice", Function::Slice),
    ("urlquery", Function::UrlQuery),
];

/// Why a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// The function's own words.
    Function(String),
    /// The template is stopped.
    Stopped(Stopped),
}

impl From<Stopped> for CallError {
    fn from(stopped: Stopped) -> CallError {
        CallError::Stopped(stopped)
    }
}

type Result<T> = std::result::Result<T, CallError>;

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(CallError::Function(text.into()))
}

impl Function {
    /// The function of this name.
    pub fn named(name: &str) -> Option<Function> {
        FUNCTIONS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(_, function)| *function == self).map_or("", |(name, _)| name)
    }

    /// What it takes.
    pub(super) fn signature(self) -> Signature {
        use Parameter::{Any, Int, Text};
        let (fixed, variadic): (&'static [Parameter], bool) = match self {
            Function::And | Function::Or | Function::Call | Function::Eq | Function::Index | Function::Slice => {
                (&[Any], true)
            }
            Function::Ge | Function::Gt | Function::Le | Function::Lt | Function::Ne => (&[Any, Any], false),
            Function::Html | Function::Js | Function::Print | Function::Println | Function::UrlQuery => (&[], true),
            Function::Len | Function::Not => (&[Any], false),
            Function::ParseInt => (&[Text, Int, Int], false),
            Function::Printf => (&[Text], true),
        };
        Signature { fixed, variadic }
    }

    /// Calls it. `and` and `or` are not called: they take only as many of their arguments as they need.
    pub(super) fn call<'a>(self, arguments: &[Value<'a>]) -> Result<Value<'a>> {
        match (self, arguments) {
            (Function::Len, [item]) => len(item),
            (Function::Not, [item]) => Ok(Value::Bool(!item.is_true())),
            (Function::Index, [item, indexes @ ..]) => index(item, indexes),
            (Function::Slice, [item, indexes @ ..]) => slice(item, indexes),
            (Function::Eq, [first, others @ ..]) => equal_any(first, others).map(Value::Bool),
            (Function::Ne, [one, other]) => equal(one, other).map(|equal| Value::Bool(!equal)),
            (Function::Lt, [one, other]) => less(one, other).map(Value::Bool),
            (Function::Le, [one, other]) => less_or_equal(one, other).map(Value::Bool),
            (Function::Gt, [one, other]) => less_or_equal(one, other).map(|less| Value::Bool(!less)),
            (Function::Ge, [one, other]) => less(one, other).map(|less| Value::Bool(!less)),
            (Function::ParseInt, [Value::Text(text), Value::Int(base), Value::Int(bits)]) => {
                parse_uint(text, *base, *bits).map(|number| Value::Uint(number, Unsigned::Long))
            }
            (Function::Print, values) => made(|out| format::print(out, values)),
            (Function::Println, values) => made(|out| format::println(out, values)),
            (Function::Printf, [Value::Text(text), values @ ..]) => made(|out| format::printf(out, text, values)),
            (Function::Html, values) => escaped(values, html),
            (Function::Js, values) => escaped(values, js),
            (Function::UrlQuery, values) => escaped(values, url_query),
            (Function::Call, [function, ..]) if function.is_nil() => error("call of nil"),
            // No value that a template can have is a function.
            (Function::Call, [function, ..]) => error(format!("non-function of type {}", function.type_name())),
            _ => error("wrong arguments"),
        }
    }
}

/// A string that is written by `write`.
fn made<'a>(write: impl FnOnce(&mut Vec<u8>) -> std::result::Result<(), Stopped>) -> Result<Value<'a>> {
    let mut out = Vec::new();
    write(&mut out)?;
    Ok(Value::Text(Cow::Owned(out)))
}

//--- Parts

fn len<'a>(item: &Value<'a>) -> Result<Value<'a>> {
    Ok(Value::Int(match item {
        Value::Text(text) => text.len() as i64,
        Value::List(list) => list.len() as i64,
        Value::Map(map) => map.len() as i64,
        Value::Missing => return error("reflect: call of reflect.Value.Type on zero Value"),
        Value::Nil => return error("len of nil pointer"),
        Value::Object(object) => return error(format!("len of type {}", object.type_name().trim_start_matches('*'))),
        other => return error(format!("len of type {}", other.type_name())),
    }))
}

/// A position in something with `capacity` places.
fn position(index: &Value<'_>, capacity: usize) -> Result<usize> {
    let number = match index {
        Value::Int(number) => *number,
        Value::Uint(number, _) => *number as i64,
        Value::Missing | Value::Nil => return error("cannot index slice/array with nil"),
        other => return error(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match usize::try_from(number) {
        Ok(at) if at <= capacity => Ok(at),
        _ => error(format!("index out of range: {number}")),
    }
}

fn index<'a>(item: &Value<'a>, indexes: &[Value<'a>]) -> Result<Value<'a>> {
    if item.is_nil() {
        return error("index of untyped nil");
    }
    let mut item = item.clone();
    for index in indexes {
        item = match &item {
            Value::Missing | Value::Nil => return error("index of nil pointer"),
            Value::Text(text) => {
                let at = position(index, text.len())?;
                match text.get(at) {
                    Some(byte) => Value::Uint((*byte).into(), Unsigned::Byte),
                    None => return error("reflect: string index out of range"),
                }
            }
            Value::List(list) => {
                let at = position(index, list.len())?;
                match list.get(at) {
                    Some(item) => item,
                    None => return error("reflect: slice index out of range"),
                }
            }
            Value::Map(map) => match index {
                Value::Text(key) => map.get(key).unwrap_or_else(|| map.zero()),
                Value::Missing | Value::Nil => return error("value is nil; should be of type string"),
                other => return error(format!("value has type {}; should be string", other.type_name())),
            },
            Value::Object(object) => {
                return error(format!("can't index item of type {}", object.type_name().trim_start_matches('*')));
            }
            other => return error(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

fn slice<'a>(item: &Value<'a>, indexes: &[Value<'a>]) -> Result<Value<'a>> {
    if item.is_nil() {
        return error("slice of untyped nil");
    }
    if indexes.len() > 3 {
        return error(format!("too many slice indexes: {}", indexes.len()));
    }
    let (length, capacity) = match item {
        Value::Text(_) if indexes.len() == 3 => return error("cannot 3-index slice a string"),
        Value::Text(text) => (text.len(), text.len()),
        Value::List(list) => (list.len(), list.capacity()),
        Value::Object(object) => {
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
        Value::Text(Cow::Borrowed(text)) => Ok(Value::Text(Cow::Borrowed(&text[from..to]))),
        Value::Text(text) => Ok(Value::Text(Cow::Owned(text[from..to].to_vec()))),
        Value::List(list) => match list.slice(from, to) {
            Some(list) => Ok(Value::List(list)),
            None => error("reflect: slice index out of bounds"),
        },
        _ => error("can't slice"),
    }
}

//--- Comparisons

const BAD_TYPE: &str = "invalid type for comparison";

/// Whether two types can be compared: Go's kinds, where `None` is no basic one.
fn kind(value: &Value<'_>) -> Option<u8> {
    match value {
        Value::Bool(_) => Some(0),
        Value::Int(_) | Value::Uint(..) => Some(1),
        Value::Float(_) => Some(2),
        Value::Text(_) => Some(3),
        _ => None,
    }
}

/// A whole number of either sort.
fn whole(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(number) => Some((*number).into()),
        Value::Uint(number, _) => Some((*number).into()),
        _ => None,
    }
}

fn equal_any(first: &Value<'_>, others: &[Value<'_>]) -> Result<bool> {
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

fn incompatible<T>(one: &Value<'_>, other: &Value<'_>) -> Result<T> {
    error(format!("incompatible types for comparison: {} and {}", one.type_name(), other.type_name()))
}

fn equal(one: &Value<'_>, other: &Value<'_>) -> Result<bool> {
    Ok(match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::Float(one), Value::Float(other)) => one == other,
        (Value::Text(one), Value::Text(other)) => one == other,
        _ if whole(one).is_some() && whole(other).is_some() => whole(one) == whole(other),
        _ if one.is_nil() || other.is_nil() => one.is_nil() && other.is_nil(),
        _ if kind(one) != kind(other) => return incompatible(one, other),
        (Value::Object(one), Value::Object(other)) => std::ptr::addr_eq(*one, *other),
        (Value::Printed(one), Value::Printed(other)) => one == other,
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => {
            return error(format!("non-comparable type: {}", other.type_name()));
        }
        _ => false,
    })
}

fn less(one: &Value<'_>, other: &Value<'_>) -> Result<bool> {
    let (Some(first), Some(second)) = (kind(one), kind(other)) else { return error(BAD_TYPE) };
    if first != second {
        return incompatible(one, other);
    }
    Ok(match (one, other) {
        (Value::Float(one), Value::Float(other)) => one < other,
        (Value::Text(one), Value::Text(other)) => one < other,
        _ if whole(one).is_some() => whole(one) < whole(other),
        _ => return error(BAD_TYPE),
    })
}

fn less_or_equal(one: &Value<'_>, other: &Value<'_>) -> Result<bool> {
    Ok(less(one, other)? || equal(one, other)?)
}

//--- Numbers

/// Go's `strconv.ParseUint`.
fn parse_uint(text: &[u8], base: i64, bits: i64) -> Result<u64> {
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
            // Between digits, with a base of 0 only.
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

/// Whether each underscore stands between digits, or between a prefix and a digit.
fn are_underscores_good(text: &[u8]) -> bool {
    text.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(at, _)| {
        let is_digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        is_digit(at.checked_sub(1)) && is_digit(Some(at + 1))
    })
}

//--- Escapes

/// The arguments as `print` writes them, escaped.
fn escaped<'a>(values: &[Value<'a>], escape: fn(&[u8], &mut Vec<u8>)) -> Result<Value<'a>> {
    let mut text = Vec::new();
    match values {
        [Value::Text(only)] => text.extend_from_slice(only),
        _ => {
            let shown: Vec<Value<'_>> = values
                .iter()
                .map(|value| if value.is_nil() { Value::Text(Cow::Borrowed(b"<no value>")) } else { value.clone() })
                .collect();
            format::print(&mut text, &shown)?;
        }
    }
    let mut out = Vec::with_capacity(text.len());
    escape(&text, &mut out);
    if out.len() > MAX_OUTPUT { Err(Stopped::Output.into()) } else { Ok(Value::Text(Cow::Owned(out))) }
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
