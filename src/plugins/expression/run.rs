//! Evaluates a tree (expr-lang `vm`).

use std::sync::Arc;

use super::Scope;
use super::functions::{Builtin, compare, descends, sort};
use super::tree::{Binary, Kind, Member, Node, Unary};
use super::value::Value;
use crate::plugins::regexp;

/// How many nodes are evaluated at most.
const MAX_STEPS: u32 = 10_000;
/// The most items of an array.
pub(super) const MAX_ITEMS: usize = 4_096;
/// The longest string, in bytes.
pub(super) const MAX_TEXT: usize = 64 * 1024;
/// The longest regular expression that is not a constant, and is compiled each time.
const MAX_PATTERN: usize = 100;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// What is wrong.
    #[error("{0}")]
    Words(String),
    /// It takes too many steps.
    #[error("expression takes more than {MAX_STEPS} steps")]
    Steps,
    /// A string or array is too large.
    #[error("memory budget exceeded")]
    Memory,
}

impl RunError {
    /// An error of these words.
    pub(super) fn words<T>(words: impl Into<String>) -> Result<T> {
        Err(RunError::Words(words.into()))
    }
}

type Result<T> = std::result::Result<T, RunError>;

/// The value of a tree.
pub(super) fn run(node: &Node, scope: &dyn Scope) -> Result<Value> {
    Run { scope, locals: Vec::new(), items: Vec::new(), steps: MAX_STEPS }.node(node)
}

/// An item that a predicate looks at.
struct Item {
    value: Value,
    index: usize,
    /// What `reduce` has made so far.
    acc: Value,
}

struct Run<'a> {
    scope: &'a dyn Scope,
    locals: Vec<(&'a str, Value)>,
    items: Vec<Item>,
    steps: u32,
}

/// What `?.` ends early: the rest of its chain.
enum Chained {
    Value(Value),
    Nothing,
}

impl<'a> Run<'a> {
    fn node(&mut self, node: &'a Node) -> Result<Value> {
        self.steps = self.steps.checked_sub(1).ok_or(RunError::Steps)?;
        match &node.kind {
            Kind::Constant(value) => Ok(value.clone()),
            Kind::Name(name) => Ok(match self.locals.iter().rev().find(|(known, _)| **known == **name) {
                Some((_, value)) => value.clone(),
                None => self.scope.variable(name),
            }),
            Kind::Unary(unary, inner) => {
                let value = self.node(inner)?;
                unary_value(*unary, &value)
            }
            Kind::Binary(binary, left, right) => self.binary(*binary, left, right),
            Kind::Matches(left, right, compiled) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                let text = match &left {
                    Value::Nil => return Ok(Value::Bool(false)),
                    Value::Text(text) => text.clone(),
                    Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
                    other => return conversion(other, "string"),
                };
                match (compiled, &right) {
                    (Some(regex), _) => Ok(Value::Bool(regex.is_match(&text))),
                    (None, Value::Nil) => Ok(Value::Bool(false)),
                    (None, Value::Text(pattern)) if pattern.len() > MAX_PATTERN => Err(RunError::Memory),
                    (None, Value::Text(pattern)) => match regexp::compile(pattern) {
                        Ok(regex) => Ok(Value::Bool(regex.is_match(&text))),
                        Err(error) => RunError::words(error.to_string()),
                    },
                    (None, other) => conversion(other, "string"),
                }
            }
            Kind::Chain(inner) => match self.chain(inner)? {
                Chained::Value(value) => Ok(value),
                Chained::Nothing => Ok(Value::Nil),
            },
            Kind::Member(member) => {
                let of = self.node(&member.of)?;
                let property = self.node(&member.property)?;
                fetch(&of, &property)
            }
            Kind::Slice(inner, from, to) => {
                let value = self.node(inner)?;
                let to = to.as_deref().map(|to| self.whole(to)).transpose()?;
                let from = from.as_deref().map(|from| self.whole(from)).transpose()?;
                slice(&value, from, to)
            }
            Kind::Call(callee, arguments) => {
                let Kind::Name(name) = &callee.kind else { return RunError::words("invalid operation: cannot call") };
                let arguments = self.all(arguments)?;
                self.scope.call(name, &arguments).map_err(RunError::Words)
            }
            Kind::Builtin(builtin, arguments) if builtin.predicate_arguments().is_some() => {
                self.with_predicate(*builtin, arguments)
            }
            Kind::Builtin(builtin, arguments) => {
                let arguments = self.all(arguments)?;
                builtin.call(&arguments)
            }
            Kind::Predicate(inner) => self.node(inner),
            Kind::Pointer(name) => {
                let Some(item) = self.items.last() else { return RunError::words("no item") };
                Ok(match &**name {
                    "index" => Value::Int(item.index as i64),
                    "acc" => item.acc.clone(),
                    _ => item.value.clone(),
                })
            }
            Kind::Let(name, value, rest) => {
                let value = self.node(value)?;
                self.locals.push((name, value));
                let result = self.node(rest);
                self.locals.pop();
                result
            }
            Kind::Sequence(nodes) => {
                let mut last = Value::Nil;
                for node in nodes {
                    last = self.node(node)?;
                }
                Ok(last)
            }
            Kind::If(condition, first, second) => {
                let node = if self.truth(condition)? { first } else { second };
                self.node(node)
            }
            Kind::Or(condition, second) => match self.node(condition)? {
                Value::Bool(false) => self.node(second),
                value @ Value::Bool(true) => Ok(value),
                other => conversion(&other, "bool"),
            },
            Kind::Array(nodes) => Ok(Value::Array(self.all(nodes)?.into())),
            Kind::Map(pairs) => {
                let mut entries = Vec::new();
                for (key, value) in pairs {
                    let key = match self.node(key)? {
                        key @ Value::Text(_) => key,
                        other => return conversion(&other, "string"),
                    };
                    entries.push((key, self.node(value)?));
                }
                Ok(Value::map(entries))
            }
        }
    }

    fn all(&mut self, nodes: &'a [Node]) -> Result<Vec<Value>> {
        nodes.iter().map(|node| self.node(node)).collect()
    }

    fn truth(&mut self, node: &'a Node) -> Result<bool> {
        match self.node(node)? {
            Value::Bool(value) => Ok(value),
            other => conversion(&other, "bool"),
        }
    }

    fn whole(&mut self, node: &'a Node) -> Result<i64> {
        match self.node(node)? {
            Value::Int(number) => Ok(number),
            Value::Float(number) => Ok(number as i64),
            other => RunError::words(format!("invalid operation: int({})", other.type_name())),
        }
    }

    /// A member within a chain: nothing behind `?.` on nothing is evaluated.
    fn chain(&mut self, node: &'a Node) -> Result<Chained> {
        let Kind::Member(member) = &node.kind else { return self.node(node).map(Chained::Value) };
        let Member { of, property, optional, .. } = &**member;
        let inner = match &of.kind {
            Kind::Chain(inner) => inner,
            _ => of,
        };
        let Chained::Value(value) = self.chain(inner)? else { return Ok(Chained::Nothing) };
        if *optional && value == Value::Nil {
            return Ok(Chained::Nothing);
        }
        let property = self.node(property)?;
        fetch(&value, &property).map(Chained::Value)
    }

    fn binary(&mut self, binary: Binary, left: &'a Node, right: &'a Node) -> Result<Value> {
        match binary {
            Binary::Or => return Ok(Value::Bool(self.truth(left)? || self.truth(right)?)),
            Binary::And => return Ok(Value::Bool(self.truth(left)? && self.truth(right)?)),
            Binary::Coalesce => {
                let value = self.node(left)?;
                return if value == Value::Nil { self.node(right) } else { Ok(value) };
            }
            _ => {}
        }
        let (left, right) = (self.node(left)?, self.node(right)?);
        if let (Binary::Range, Value::Int(from), Value::Int(to)) = (binary, &left, &right) {
            return self.range(*from, *to);
        }
        if let Some(holds) = relation(binary, &left, &right)? {
            return Ok(Value::Bool(holds));
        }
        arithmetic(binary, &left, &right)
    }

    fn range(&mut self, from: i64, to: i64) -> Result<Value> {
        let count = to.checked_sub(from).and_then(|count| count.checked_add(1)).unwrap_or(i64::MAX).max(0);
        if count > MAX_ITEMS as i64 {
            return Err(RunError::Memory);
        }
        self.steps = self.steps.checked_sub(count as u32).ok_or(RunError::Steps)?;
        Ok(Value::Array((from..from + count).map(Value::Int).collect()))
    }

    /// A function that does something with each item of an array.
    fn with_predicate(&mut self, builtin: Builtin, arguments: &'a [Node]) -> Result<Value> {
        let Some((collection, rest)) = arguments.split_first() else { return Ok(Value::Nil) };
        let items: Arc<[Value]> = match self.node(collection)? {
            Value::Array(items) => items,
            Value::Bytes(bytes) => bytes.iter().map(|byte| Value::Int((*byte).into())).collect(),
            other => return RunError::words(format!("cannot {} {}", builtin.name(), other.type_name())),
        };
        let predicate = rest.first();
        match builtin {
            Builtin::Reduce => return self.reduce(&items, predicate, rest.get(1)),
            Builtin::SortBy | Builtin::GroupBy | Builtin::Sum | Builtin::Map => {
                return self.collect(builtin, &items, predicate, rest.get(1));
            }
            _ => {}
        }
        let mut found = Vec::new();
        let backwards = matches!(builtin, Builtin::FindLast | Builtin::FindLastIndex);
        let stops = !matches!(builtin, Builtin::Filter | Builtin::Count | Builtin::One);
        for place in 0..items.len() {
            let at = if backwards { items.len() - 1 - place } else { place };
            let holds = match self.item(&items, at, Value::Nil, predicate)? {
                Value::Bool(holds) => holds,
                other => return conversion(&other, "bool"),
            };
            if holds != (builtin == Builtin::All) {
                found.push(at);
                if stops {
                    break;
                }
            }
        }
        let place = found.first().copied();
        Ok(match builtin {
            Builtin::All | Builtin::None => Value::Bool(found.is_empty()),
            Builtin::Any => Value::Bool(!found.is_empty()),
            Builtin::One => Value::Bool(found.len() == 1),
            Builtin::Count => Value::Int(found.len() as i64),
            Builtin::FindIndex | Builtin::FindLastIndex => place.map_or(Value::Nil, |at| Value::Int(at as i64)),
            Builtin::Find | Builtin::FindLast => place.map_or(Value::Nil, |at| items[at].clone()),
            _ => Value::Array(found.into_iter().map(|at| items[at].clone()).collect()),
        })
    }

    /// What a predicate makes of an item; of none, the item.
    fn item(&mut self, items: &[Value], at: usize, acc: Value, predicate: Option<&'a Node>) -> Result<Value> {
        let value = items[at].clone();
        let Some(predicate) = predicate else { return Ok(value) };
        self.items.push(Item { value, index: at, acc });
        let result = self.node(predicate);
        self.items.pop();
        result
    }

    fn reduce(&mut self, items: &[Value], predicate: Option<&'a Node>, first: Option<&'a Node>) -> Result<Value> {
        let (mut acc, from) = match first {
            Some(first) => (self.node(first)?, 0),
            None if items.is_empty() => return RunError::words("reduce of empty array with no initial value"),
            None => (items[0].clone(), 1),
        };
        for at in from..items.len() {
            acc = self.item(items, at, acc, predicate)?;
        }
        Ok(acc)
    }

    fn collect(
        &mut self, builtin: Builtin, items: &[Value], predicate: Option<&'a Node>, extra: Option<&'a Node>,
    ) -> Result<Value> {
        let mut made = Vec::with_capacity(items.len());
        for at in 0..items.len() {
            made.push((self.item(items, at, Value::Nil, predicate)?, items[at].clone()));
        }
        match builtin {
            Builtin::Map => Ok(Value::Array(made.into_iter().map(|(value, _)| value).collect())),
            Builtin::Sum => {
                let mut sum = Value::Int(0);
                for (value, _) in made {
                    sum = match (&sum, &value) {
                        (Value::Int(sum), Value::Int(value)) => Value::Int(sum.wrapping_add(*value)),
                        _ => match sum.as_float().zip(value.as_float()) {
                            Some((sum, value)) => Value::Float(sum + value),
                            None => return RunError::words(format!("invalid operation: int + {}", value.type_name())),
                        },
                    };
                }
                Ok(sum)
            }
            Builtin::GroupBy => {
                let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
                for (key, item) in made {
                    match groups.iter_mut().find(|(known, _)| known.equals(&key)) {
                        Some((_, group)) => group.push(item),
                        None => groups.push((key, vec![item])),
                    }
                }
                Ok(Value::map(groups.into_iter().map(|(key, group)| (key, Value::Array(group.into())))))
            }
            _ => {
                let order = extra.map(|extra| self.node(extra)).transpose()?;
                sort(&mut made, |(value, _)| value, descends(order.as_ref())?)?;
                Ok(Value::Array(made.into_iter().map(|(_, item)| item).collect()))
            }
        }
    }
}

fn conversion<T>(value: &Value, wanted: &str) -> Result<T> {
    RunError::words(format!("interface conversion: interface {{}} is {}, not {wanted}", value.type_name()))
}

fn invalid<T>(binary: Binary, left: &Value, right: &Value) -> Result<T> {
    RunError::words(format!("invalid operation: {} {} {}", left.type_name(), binary.written(), right.type_name()))
}

/// Whether two values stand in a relation; `None` where the operator is none.
fn relation(binary: Binary, left: &Value, right: &Value) -> Result<Option<bool>> {
    let order = || compare(left, right).or_else(|_| invalid(binary, left, right));
    let texts: Option<(&str, &str)> = match (left, right) {
        (Value::Text(whole), Value::Text(part)) => Some((whole, part)),
        (Value::Nil, _) | (_, Value::Nil) => Some(("", "-")),
        _ => None,
    };
    Ok(Some(match (binary, texts) {
        (Binary::Equal, _) => left.equals(right),
        (Binary::NotEqual, _) => !left.equals(right),
        (Binary::Less, _) => order()?.is_lt(),
        (Binary::More, _) => order()?.is_gt(),
        (Binary::LessOrEqual, _) => order()?.is_le(),
        (Binary::MoreOrEqual, _) => order()?.is_ge(),
        (Binary::In, _) => is_within(left, right)?,
        // Nothing contains nothing.
        (Binary::Contains, Some((whole, part))) => whole.contains(part),
        (Binary::StartsWith, Some((whole, part))) => whole.starts_with(part),
        (Binary::EndsWith, Some((whole, part))) => whole.ends_with(part),
        (Binary::Contains | Binary::StartsWith | Binary::EndsWith, None) => return invalid(binary, left, right),
        _ => return Ok(None),
    }))
}

fn arithmetic(binary: Binary, left: &Value, right: &Value) -> Result<Value> {
    match (binary, left, right) {
        (Binary::Add, Value::Int(one), Value::Int(other)) => return Ok(Value::Int(one.wrapping_add(*other))),
        (Binary::Subtract, Value::Int(one), Value::Int(other)) => return Ok(Value::Int(one.wrapping_sub(*other))),
        (Binary::Multiply, Value::Int(one), Value::Int(other)) => return Ok(Value::Int(one.wrapping_mul(*other))),
        (Binary::Modulo, Value::Int(_), Value::Int(0)) => {
            return RunError::words("runtime error: integer divide by zero");
        }
        (Binary::Modulo, Value::Int(one), Value::Int(other)) => return Ok(Value::Int(one.wrapping_rem(*other))),
        (Binary::Add, Value::Text(one), Value::Text(other)) if one.len() + other.len() <= MAX_TEXT => {
            return Ok(Value::text(format!("{one}{other}")));
        }
        (Binary::Add, Value::Text(_), Value::Text(_)) => return Err(RunError::Memory),
        _ => {}
    }
    let Some((one, other)) = left.as_float().zip(right.as_float()) else { return invalid(binary, left, right) };
    Ok(Value::Float(match binary {
        Binary::Add => one + other,
        Binary::Subtract => one - other,
        Binary::Multiply => one * other,
        Binary::Divide => one / other,
        Binary::Power => one.powf(other),
        _ => return invalid(binary, left, right),
    }))
}

fn unary_value(unary: Unary, value: &Value) -> Result<Value> {
    match (unary, value) {
        (Unary::Not, Value::Bool(value)) => Ok(Value::Bool(!value)),
        (Unary::Not, other) => conversion(other, "bool"),
        (Unary::Plus, value) => Ok(value.clone()),
        (Unary::Minus, Value::Int(number)) => Ok(Value::Int(number.wrapping_neg())),
        (Unary::Minus, Value::Float(number)) => Ok(Value::Float(-number)),
        (Unary::Minus, other) => RunError::words(format!("invalid operation: - {}", other.type_name())),
    }
}

/// An item or a value behind a key.
fn fetch(of: &Value, property: &Value) -> Result<Value> {
    match (of, property) {
        (Value::Map(_), key) => Ok(of.get(key).cloned().unwrap_or(Value::Nil)),
        (Value::Array(items), Value::Int(index)) => {
            let at = if *index < 0 { index + items.len() as i64 } else { *index };
            match usize::try_from(at).ok().and_then(|at| items.get(at)) {
                Some(item) => Ok(item.clone()),
                None => RunError::words(format!("index out of range: {at} (array length is {})", items.len())),
            }
        }
        (Value::Text(_) | Value::Bytes(_), Value::Int(index)) => {
            let bytes = match of {
                Value::Text(text) => text.as_bytes(),
                Value::Bytes(bytes) => bytes,
                _ => &[],
            };
            let at = if *index < 0 { index + bytes.len() as i64 } else { *index };
            match usize::try_from(at).ok().and_then(|at| bytes.get(at)) {
                Some(byte) => Ok(Value::Int((*byte).into())),
                None => RunError::words(format!("index out of range: {at} (array length is {})", bytes.len())),
            }
        }
        _ => RunError::words(format!("cannot fetch {property} from {}", of.type_name())),
    }
}

/// A part, of which the bounds are moved to where the whole ends.
fn slice(value: &Value, from: Option<i64>, to: Option<i64>) -> Result<Value> {
    let bounds = |length: usize| {
        let place = |at: Option<i64>, otherwise: usize| match at {
            None => otherwise,
            Some(at) if at < 0 => usize::try_from(at + length as i64).unwrap_or(0),
            Some(at) => usize::try_from(at).unwrap_or(length).min(length),
        };
        let to = place(to, length);
        (place(from, 0).min(to), to)
    };
    Ok(match value {
        Value::Array(items) => {
            let (from, to) = bounds(items.len());
            Value::Array(items[from..to].into())
        }
        Value::Bytes(bytes) => {
            let (from, to) = bounds(bytes.len());
            Value::Bytes(bytes[from..to].into())
        }
        Value::Text(text) => {
            let (from, to) = bounds(text.len());
            // A part of a character is none.
            Value::text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        _ => return RunError::words("cannot slice"),
    })
}

fn is_within(needle: &Value, of: &Value) -> Result<bool> {
    match of {
        Value::Nil => Ok(false),
        Value::Array(items) => Ok(items.iter().any(|item| item.equals(needle))),
        Value::Map(_) => Ok(of.get(needle).is_some()),
        Value::Bytes(bytes) => Ok(bytes.iter().any(|byte| Value::Int((*byte).into()).equals(needle))),
        other => RunError::words(format!("operator \"in\" not defined on {}", other.type_name())),
    }
}
