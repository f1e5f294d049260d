//! What a template works with. Go's templates look at Go values by reflection; these are the kinds that can occur.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// A value, which may borrow from the template and from the data that the template is run with.
#[derive(Clone)]
pub enum Value<'a> {
    /// There is none: Go's zero `reflect.Value`.
    Missing,
    /// A nil interface.
    Nil,
    /// A boolean.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number, and its Go type.
    Uint(u64, Unsigned),
    /// A floating-point number.
    Float(f64),
    /// A string, which in Go may be any bytes.
    Text(Cow<'a, [u8]>),
    /// A slice.
    List(List<'a>),
    /// A map with strings as keys.
    Map(Map<'a>),
    /// A pointer to a struct.
    Object(&'a dyn Object<'a>),
    /// What can be printed and nothing else.
    Printed(Rc<Printed>),
}

/// The types of unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// A byte of a string.
    Byte,
    /// Types, classes and IDs.
    Short,
    /// What `parseInt` returns.
    Long,
}

/// A value of a type that has no operations here.
#[derive(Debug, PartialEq)]
pub struct Printed {
    /// Its Go type.
    pub type_name: &'static str,
    /// Its text.
    pub text: Box<str>,
}

/// What a template can look into by name.
pub trait Object<'a> {
    /// The Go type, for messages.
    fn type_name(&self) -> &'static str;
    /// What is behind a name.
    fn member(&'a self, name: &str) -> Member<'a>;
    /// Calls a method that `member` has named, with as many arguments as it takes.
    fn call(&'a self, _name: &str, _arguments: &[Value<'a>]) -> Value<'a> {
        Value::Missing
    }
    /// What is printed for it.
    fn text(&self, out: &mut Vec<u8>);
}

/// What an object has behind a name.
pub enum Member<'a> {
    /// A field or a method without arguments.
    Value(Value<'a>),
    /// A method with arguments of these types.
    Method(&'static [Parameter]),
    /// A field that Go does not show.
    Hidden,
    /// Nothing.
    None,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Anything.
    Any,
    /// A string.
    Text,
    /// An `int`.
    Int,
}

impl Parameter {
    /// Its Go type, for messages.
    pub fn type_name(self) -> &'static str {
        match self {
            Parameter::Any => "interface {}",
            Parameter::Text => "string",
            Parameter::Int => "int",
        }
    }
}

impl Unsigned {
    /// Its Go type.
    pub fn type_name(self) -> &'static str {
        match self {
            Unsigned::Byte => "uint8",
            Unsigned::Short => "uint16",
            Unsigned::Long => "uint64",
        }
    }
}

/// A slice: items, and the Go type of each.
#[derive(Clone)]
pub struct List<'a> {
    items: Items<'a>,
    range: Range<usize>,
    /// The Go type of an item.
    pub of: &'static str,
}

#[derive(Clone)]
enum Items<'a> {
    Given(&'a dyn Sequence<'a>),
    Shared(Rc<[Value<'a>]>),
}

/// What has items by number.
pub trait Sequence<'a> {
    /// How many there are.
    fn count(&self) -> usize;
    /// The item at a place below `count`.
    fn item(&'a self, at: usize) -> Value<'a>;
}

impl<'a> List<'a> {
    /// The items of something.
    pub fn given(items: &'a dyn Sequence<'a>, of: &'static str) -> List<'a> {
        List { range: 0..items.count(), items: Items::Given(items), of }
    }

    /// These items.
    pub fn shared(items: Rc<[Value<'a>]>, of: &'static str) -> List<'a> {
        List { range: 0..items.len(), items: Items::Shared(items), of }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// An item.
    pub fn get(&self, at: usize) -> Option<Value<'a>> {
        let at = self.range.start.checked_add(at).filter(|at| self.range.contains(at))?;
        Some(match &self.items {
            Items::Given(items) => items.item(at),
            Items::Shared(items) => items.get(at)?.clone(),
        })
    }

    /// All items.
    pub fn items(&self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// How long a part of it may become, as Go's `cap`.
    pub fn capacity(&self) -> usize {
        let all = match &self.items {
            Items::Given(items) => items.count(),
            Items::Shared(items) => items.len(),
        };
        all - self.range.start
    }

    /// A part; `None` where there is no such.
    pub fn slice(&self, from: usize, to: usize) -> Option<List<'a>> {
        let range = self.range.start + from..self.range.start + to;
        (from <= to && to <= self.capacity()).then(|| List { range, ..self.clone() })
    }
}

/// A map with strings as keys.
#[derive(Clone)]
pub enum Map<'a> {
    /// Something that looks keys up itself, with strings as values.
    Texts(&'a dyn Texts<'a>),
    /// Anything as values.
    Values(Rc<BTreeMap<Box<str>, Value<'a>>>),
}

/// A map of strings to strings.
pub trait Texts<'a> {
    /// What is behind a key.
    fn get(&'a self, key: &[u8]) -> Option<Cow<'a, [u8]>>;
    /// The keys, sorted.
    fn keys(&'a self) -> Vec<Cow<'a, str>>;
}

impl<'a> Map<'a> {
    /// What is behind a key.
    pub fn get(&self, key: &[u8]) -> Option<Value<'a>> {
        match self {
            Map::Texts(texts) => texts.get(key).map(Value::Text),
            Map::Values(values) => values.get(std::str::from_utf8(key).ok()?).cloned(),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Texts(texts) => texts.keys().len(),
            Map::Values(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries in the order of their keys.
    pub fn entries(&self) -> Vec<(Value<'a>, Value<'a>)> {
        match self {
            Map::Texts(texts) => {
                let keys = texts.keys().into_iter();
                keys.map(|key| {
                    let value = texts.get(key.as_bytes()).map_or(Value::Missing, Value::Text);
                    (Value::text(key), value)
                })
                .collect()
            }
            Map::Values(values) => values
                .iter()
                .map(|(key, value)| (Value::Text(Cow::Owned(key.as_bytes().to_vec())), value.clone()))
                .collect(),
        }
    }

    /// What the index of a missing key gives: the zero of the values' type.
    pub fn zero(&self) -> Value<'a> {
        match self {
            Map::Texts(_) => Value::Text(Cow::Borrowed(b"")),
            Map::Values(_) => Value::Nil,
        }
    }

    /// The Go type of values.
    pub fn of(&self) -> &'static str {
        match self {
            Map::Texts(_) => "string",
            Map::Values(_) => "interface {}",
        }
    }
}

impl<'a> Value<'a> {
    /// A string.
    pub fn text(text: impl Into<Cow<'a, str>>) -> Value<'a> {
        Value::Text(match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }

    /// The Go type, for messages.
    pub fn type_name(&self) -> Cow<'static, str> {
        match self {
            Value::Missing | Value::Nil => "<nil>".into(),
            Value::Bool(_) => "bool".into(),
            Value::Int(_) => "int".into(),
            Value::Uint(_, unsigned) => unsigned.type_name().into(),
            Value::Float(_) => "float64".into(),
            Value::Text(_) => "string".into(),
            Value::List(list) => format!("[]{}", list.of).into(),
            Value::Map(map) => format!("map[string]{}", map.of()).into(),
            Value::Object(object) => object.type_name().into(),
            Value::Printed(printed) => printed.type_name.into(),
        }
    }

    /// Whether it counts as true: it is not the zero of its type.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Missing | Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Uint(value, _) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) => !list.is_empty(),
            Value::Map(map) => !map.is_empty(),
            Value::Object(_) | Value::Printed(_) => true,
        }
    }

    /// Whether there is nothing.
    pub fn is_nil(&self) -> bool {
        matches!(self, Value::Missing | Value::Nil)
    }
}
