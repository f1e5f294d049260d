//! The values of templates. Go's templates use reflection; these are the kinds of values that can occur.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// A value, which may borrow from the template and from its data.
#[derive(Clone)]
pub enum TemplateValue<'a> {
    /// No value: Go's zero `reflect.Value`.
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
    /// A string, which may be any bytes in Go.
    Text(Cow<'a, [u8]>),
    /// A slice.
    List(ListValue<'a>),
    /// A map with strings as keys.
    Map(Map<'a>),
    /// A pointer to a struct.
    Object(&'a dyn Structure<'a>),
    /// A value that can only be printed.
    Printed(Rc<Printed>),
}

/// The types of unsigned numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// A byte of a string.
    Byte,
    /// Types, classes and IDs.
    Short,
    /// Results of `parseInt`.
    Long,
}

/// A value of a type without operations.
#[derive(Debug, PartialEq)]
pub struct Printed {
    /// Returns its Go type.
    pub type_name: &'static str,
    /// Its text.
    pub text: Box<str>,
}

/// A value with members that have names.
pub trait Structure<'a> {
    /// Returns the Go type, for messages.
    fn type_name(&self) -> &'static str;
    /// Returns the member of a name.
    fn member(&'a self, name: &str) -> ObjectMember<'a>;
    /// Calls a method of `member`. The number and types of the arguments have been checked.
    fn call(&'a self, _name: &str, _arguments: &[TemplateValue<'a>]) -> TemplateValue<'a> {
        TemplateValue::Missing
    }
    /// Appends the text that is printed for it.
    fn text(&self, out: &mut Vec<u8>);
}

/// A member of an object.
pub enum ObjectMember<'a> {
    /// A field or a method without arguments.
    Value(TemplateValue<'a>),
    /// A method with arguments of these types.
    Method(&'static [Parameter]),
    /// An unexported field.
    Hidden,
    /// There is none.
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
    /// Returns its Go type, for messages.
    pub fn type_name(self) -> &'static str {
        match self {
            Parameter::Any => "interface {}",
            Parameter::Text => "string",
            Parameter::Int => "int",
        }
    }
}

impl Unsigned {
    /// Returns its Go type.
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
pub struct ListValue<'a> {
    items: Items<'a>,
    range: Range<usize>,
    /// The Go type of an item.
    pub of: &'static str,
}

#[derive(Clone)]
enum Items<'a> {
    Given(&'a dyn Sequence<'a>),
    Shared(Rc<[TemplateValue<'a>]>),
}

/// A value with items that have numbers.
pub trait Sequence<'a> {
    /// Returns the number of items.
    fn count(&self) -> usize;
    /// Returns an item; `at` is below `count`.
    fn item(&'a self, at: usize) -> TemplateValue<'a>;
}

impl<'a> ListValue<'a> {
    /// Creates a list of the items of a sequence.
    pub fn given(items: &'a dyn Sequence<'a>, of: &'static str) -> ListValue<'a> {
        ListValue { range: 0..items.count(), items: Items::Given(items), of }
    }

    /// Creates a list of these items.
    pub fn shared(items: Rc<[TemplateValue<'a>]>, of: &'static str) -> ListValue<'a> {
        ListValue { range: 0..items.len(), items: Items::Shared(items), of }
    }

    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Returns an item.
    pub fn get(&self, at: usize) -> Option<TemplateValue<'a>> {
        let at = self.range.start.checked_add(at).filter(|at| self.range.contains(at))?;
        Some(match &self.items {
            Items::Given(items) => items.item(at),
            Items::Shared(items) => items.get(at)?.clone(),
        })
    }

    /// Returns all items.
    pub fn items(&self) -> impl Iterator<Item = TemplateValue<'a>> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// Returns Go's `cap`: the limit for the end of a part.
    pub fn capacity(&self) -> usize {
        let all = match &self.items {
            Items::Given(items) => items.count(),
            Items::Shared(items) => items.len(),
        };
        all - self.range.start
    }

    /// Returns a part, or `None` if the bounds are invalid.
    pub fn slice(&self, from: usize, to: usize) -> Option<ListValue<'a>> {
        let range = self.range.start + from..self.range.start + to;
        (from <= to && to <= self.capacity()).then(|| ListValue { range, ..self.clone() })
    }
}

/// A map with strings as keys.
#[derive(Clone)]
pub enum Map<'a> {
    /// A source of keys with strings as values.
    Texts(&'a dyn TextMap<'a>),
    /// Any values.
    Values(Rc<BTreeMap<Box<str>, TemplateValue<'a>>>),
}

/// A map of strings to strings.
pub trait TextMap<'a> {
    /// Returns the value of a key.
    fn get(&'a self, key: &[u8]) -> Option<Cow<'a, [u8]>>;
    /// Returns the keys, sorted.
    fn keys(&'a self) -> Vec<Cow<'a, str>>;
}

impl<'a> Map<'a> {
    /// Returns the value of a key.
    pub fn get(&self, key: &[u8]) -> Option<TemplateValue<'a>> {
        match self {
            Map::Texts(texts) => texts.get(key).map(TemplateValue::Text),
            Map::Values(values) => values.get(std::str::from_utf8(key).ok()?).cloned(),
        }
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Texts(texts) => texts.keys().len(),
            Map::Values(values) => values.len(),
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the entries in the order of their keys.
    pub fn entries(&self) -> Vec<(TemplateValue<'a>, TemplateValue<'a>)> {
        match self {
            Map::Texts(texts) => {
                let keys = texts.keys().into_iter();
                keys.map(|key| {
                    let value = texts.get(key.as_bytes()).map_or(TemplateValue::Missing, TemplateValue::Text);
                    (TemplateValue::text(key), value)
                })
                .collect()
            }
            Map::Values(values) => values
                .iter()
                .map(|(key, value)| (TemplateValue::Text(Cow::Owned(key.as_bytes().to_vec())), value.clone()))
                .collect(),
        }
    }

    /// Returns the value of a missing key: the zero value of the values' type.
    pub fn zero(&self) -> TemplateValue<'a> {
        match self {
            Map::Texts(_) => TemplateValue::Text(Cow::Borrowed(b"")),
            Map::Values(_) => TemplateValue::Nil,
        }
    }

    /// Returns the Go type of the values.
    pub fn of(&self) -> &'static str {
        match self {
            Map::Texts(_) => "string",
            Map::Values(_) => "interface {}",
        }
    }
}

impl<'a> TemplateValue<'a> {
    /// A string.
    pub fn text(text: impl Into<Cow<'a, str>>) -> TemplateValue<'a> {
        TemplateValue::Text(match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }

    /// Returns the Go type, for messages.
    pub fn type_name(&self) -> Cow<'static, str> {
        match self {
            TemplateValue::Missing | TemplateValue::Nil => "<nil>".into(),
            TemplateValue::Bool(_) => "bool".into(),
            TemplateValue::Int(_) => "int".into(),
            TemplateValue::Uint(_, unsigned) => unsigned.type_name().into(),
            TemplateValue::Float(_) => "float64".into(),
            TemplateValue::Text(_) => "string".into(),
            TemplateValue::List(list) => format!("[]{}", list.of).into(),
            TemplateValue::Map(map) => format!("map[string]{}", map.of()).into(),
            TemplateValue::Object(object) => object.type_name().into(),
            TemplateValue::Printed(printed) => printed.type_name.into(),
        }
    }

    /// Whether the value is true in a condition: it is not the zero value of its type.
    pub fn is_true(&self) -> bool {
        match self {
            TemplateValue::Missing | TemplateValue::Nil => false,
            TemplateValue::Bool(value) => *value,
            TemplateValue::Int(value) => *value != 0,
            TemplateValue::Uint(value, _) => *value != 0,
            TemplateValue::Float(value) => *value != 0.0,
            TemplateValue::Text(text) => !text.is_empty(),
            TemplateValue::List(list) => !list.is_empty(),
            TemplateValue::Map(map) => !map.is_empty(),
            TemplateValue::Object(_) | TemplateValue::Printed(_) => true,
        }
    }

    /// Whether the value is absent or nil.
    pub fn is_nil(&self) -> bool {
        matches!(self, TemplateValue::Missing | TemplateValue::Nil)
    }
}
