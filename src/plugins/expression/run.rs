//! Evaluates a tree (expr-lang `vm`).

use std::sync::Arc;

use super::error::{EvaluationError, MAX_ITEMS, MAX_STEPS, MAX_TEXT};
use super::functions::{Builtin, compare, descends, sort};
use super::scope::ExprScope;
use super::tree::{Binary, ExprKind, ExprNode, MemberAccess, Unary};
use super::value::ExprValue;
use crate::plugins::regexp;

/// The limit on the length of a regular expression that is not a constant: it is compiled each time.
const MAX_PATTERN: usize = 100;

/// Evaluates a tree.
pub(super) fn run(node: &ExprNode, scope: &dyn ExprScope) -> Result<ExprValue, EvaluationError> {
    Evaluation { scope, locals: Vec::new(), items: Vec::new(), steps: MAX_STEPS }.node(node)
}

/// The item of an array that a predicate is evaluated for.
struct PredicateItem {
    value: ExprValue,
    index: usize,
    /// The accumulator of `reduce`.
    acc: ExprValue,
}

struct Evaluation<'a> {
    scope: &'a dyn ExprScope,
    locals: Vec<(&'a str, ExprValue)>,
    items: Vec<PredicateItem>,
    steps: u32,
}

/// The result of a chain, which `?.` may end early.
enum Chained {
    Value(ExprValue),
    Nothing,
}

impl<'a> Evaluation<'a> {
    fn node(&mut self, node: &'a ExprNode) -> Result<ExprValue, EvaluationError> {
        self.steps = self.steps.checked_sub(1).ok_or(EvaluationError::Steps)?;
        match &node.kind {
            ExprKind::Constant(value) => Ok(value.clone()),
            ExprKind::Name(name) => Ok(match self.locals.iter().rev().find(|(known, _)| **known == **name) {
                Some((_, value)) => value.clone(),
                None => self.scope.variable(name),
            }),
            ExprKind::Unary(unary, inner) => {
                let value = self.node(inner)?;
                unary_value(*unary, &value)
            }
            ExprKind::Binary(binary, left, right) => self.binary(*binary, left, right),
            ExprKind::Matches(left, right, compiled) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                let text = match &left {
                    ExprValue::Nil => return Ok(ExprValue::Bool(false)),
                    ExprValue::Text(text) => text.clone(),
                    ExprValue::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
                    other => return conversion(other, "string"),
                };
                match (compiled, &right) {
                    (Some(regex), _) => Ok(ExprValue::Bool(regex.is_match(&text))),
                    (None, ExprValue::Nil) => Ok(ExprValue::Bool(false)),
                    (None, ExprValue::Text(pattern)) if pattern.len() > MAX_PATTERN => Err(EvaluationError::Memory),
                    (None, ExprValue::Text(pattern)) => match regexp::compile(pattern) {
                        Ok(regex) => Ok(ExprValue::Bool(regex.is_match(&text))),
                        Err(error) => EvaluationError::words(error.to_string()),
                    },
                    (None, other) => conversion(other, "string"),
                }
            }
            ExprKind::Chain(inner) => match self.chain(inner)? {
                Chained::Value(value) => Ok(value),
                Chained::Nothing => Ok(ExprValue::Nil),
            },
            ExprKind::Member(member) => {
                let of = self.node(&member.of)?;
                let property = self.node(&member.property)?;
                fetch(&of, &property)
            }
            ExprKind::Slice(inner, from, to) => {
                let value = self.node(inner)?;
                let to = to.as_deref().map(|to| self.whole(to)).transpose()?;
                let from = from.as_deref().map(|from| self.whole(from)).transpose()?;
                slice(&value, from, to)
            }
            ExprKind::Call(callee, arguments) => {
                let ExprKind::Name(name) = &callee.kind else {
                    return EvaluationError::words("invalid operation: cannot call");
                };
                let arguments = self.all(arguments)?;
                self.scope.call(name, &arguments)
            }
            ExprKind::Builtin(builtin, arguments) if builtin.predicate_arguments().is_some() => {
                self.with_predicate(*builtin, arguments)
            }
            ExprKind::Builtin(builtin, arguments) => {
                let arguments = self.all(arguments)?;
                builtin.call(&arguments)
            }
            ExprKind::Predicate(inner) => self.node(inner),
            ExprKind::Pointer(name) => {
                let Some(item) = self.items.last() else { return EvaluationError::words("no item") };
                Ok(match &**name {
                    "index" => ExprValue::Int(item.index as i64),
                    "acc" => item.acc.clone(),
                    _ => item.value.clone(),
                })
            }
            ExprKind::Let(name, value, rest) => {
                let value = self.node(value)?;
                self.locals.push((name, value));
                let result = self.node(rest);
                self.locals.pop();
                result
            }
            ExprKind::Sequence(nodes) => {
                let mut last = ExprValue::Nil;
                for node in nodes {
                    last = self.node(node)?;
                }
                Ok(last)
            }
            ExprKind::If(condition, first, second) => {
                let node = if self.truth(condition)? { first } else { second };
                self.node(node)
            }
            ExprKind::Or(condition, second) => match self.node(condition)? {
                ExprValue::Bool(false) => self.node(second),
                value @ ExprValue::Bool(true) => Ok(value),
                other => conversion(&other, "bool"),
            },
            ExprKind::Array(nodes) => Ok(ExprValue::Array(self.all(nodes)?.into())),
            ExprKind::Map(pairs) => {
                let mut entries = Vec::new();
                for (key, value) in pairs {
                    let key = match self.node(key)? {
                        key @ ExprValue::Text(_) => key,
                        other => return conversion(&other, "string"),
                    };
                    entries.push((key, self.node(value)?));
                }
                Ok(ExprValue::map(entries))
            }
        }
    }

    fn all(&mut self, nodes: &'a [ExprNode]) -> Result<Vec<ExprValue>, EvaluationError> {
        nodes.iter().map(|node| self.node(node)).collect()
    }

    fn truth(&mut self, node: &'a ExprNode) -> Result<bool, EvaluationError> {
        match self.node(node)? {
            ExprValue::Bool(value) => Ok(value),
            other => conversion(&other, "bool"),
        }
    }

    fn whole(&mut self, node: &'a ExprNode) -> Result<i64, EvaluationError> {
        match self.node(node)? {
            ExprValue::Int(number) => Ok(number),
            ExprValue::Float(number) => Ok(number as i64),
            other => EvaluationError::words(format!("invalid operation: int({})", other.type_name())),
        }
    }

    /// Evaluates a member within a chain. What follows `?.` on nil is not evaluated.
    fn chain(&mut self, node: &'a ExprNode) -> Result<Chained, EvaluationError> {
        let ExprKind::Member(member) = &node.kind else { return self.node(node).map(Chained::Value) };
        let MemberAccess { of, property, optional, .. } = &**member;
        let inner = match &of.kind {
            ExprKind::Chain(inner) => inner,
            _ => of,
        };
        let Chained::Value(value) = self.chain(inner)? else { return Ok(Chained::Nothing) };
        if *optional && value == ExprValue::Nil {
            return Ok(Chained::Nothing);
        }
        let property = self.node(property)?;
        fetch(&value, &property).map(Chained::Value)
    }

    fn binary(
        &mut self, binary: Binary, left: &'a ExprNode, right: &'a ExprNode,
    ) -> Result<ExprValue, EvaluationError> {
        match binary {
            Binary::Or => return Ok(ExprValue::Bool(self.truth(left)? || self.truth(right)?)),
            Binary::And => return Ok(ExprValue::Bool(self.truth(left)? && self.truth(right)?)),
            Binary::Coalesce => {
                let value = self.node(left)?;
                return if value == ExprValue::Nil { self.node(right) } else { Ok(value) };
            }
            _ => {}
        }
        let (left, right) = (self.node(left)?, self.node(right)?);
        if let (Binary::Range, ExprValue::Int(from), ExprValue::Int(to)) = (binary, &left, &right) {
            return self.range(*from, *to);
        }
        if let Some(holds) = relation(binary, &left, &right)? {
            return Ok(ExprValue::Bool(holds));
        }
        arithmetic(binary, &left, &right)
    }

    fn range(&mut self, from: i64, to: i64) -> Result<ExprValue, EvaluationError> {
        let count = to.checked_sub(from).and_then(|count| count.checked_add(1)).unwrap_or(i64::MAX).max(0);
        if count > MAX_ITEMS as i64 {
            return Err(EvaluationError::Memory);
        }
        self.steps = self.steps.checked_sub(count as u32).ok_or(EvaluationError::Steps)?;
        Ok(ExprValue::Array((from..from + count).map(ExprValue::Int).collect()))
    }

    /// Calls a function that has a predicate for the items of an array.
    fn with_predicate(&mut self, builtin: Builtin, arguments: &'a [ExprNode]) -> Result<ExprValue, EvaluationError> {
        let Some((collection, rest)) = arguments.split_first() else { return Ok(ExprValue::Nil) };
        let items: Arc<[ExprValue]> = match self.node(collection)? {
            ExprValue::Array(items) => items,
            ExprValue::Bytes(bytes) => bytes.iter().map(|byte| ExprValue::Int((*byte).into())).collect(),
            other => return EvaluationError::words(format!("cannot {} {}", builtin.name(), other.type_name())),
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
            let holds = match self.item(&items, at, ExprValue::Nil, predicate)? {
                ExprValue::Bool(holds) => holds,
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
            Builtin::All | Builtin::None => ExprValue::Bool(found.is_empty()),
            Builtin::Any => ExprValue::Bool(!found.is_empty()),
            Builtin::One => ExprValue::Bool(found.len() == 1),
            Builtin::Count => ExprValue::Int(found.len() as i64),
            Builtin::FindIndex | Builtin::FindLastIndex => place.map_or(ExprValue::Nil, |at| ExprValue::Int(at as i64)),
            Builtin::Find | Builtin::FindLast => place.map_or(ExprValue::Nil, |at| items[at].clone()),
            _ => ExprValue::Array(found.into_iter().map(|at| items[at].clone()).collect()),
        })
    }

    /// Evaluates a predicate for an item. Without a predicate the value is the item.
    fn item(
        &mut self, items: &[ExprValue], at: usize, acc: ExprValue, predicate: Option<&'a ExprNode>,
    ) -> Result<ExprValue, EvaluationError> {
        let value = items[at].clone();
        let Some(predicate) = predicate else { return Ok(value) };
        self.items.push(PredicateItem { value, index: at, acc });
        let result = self.node(predicate);
        self.items.pop();
        result
    }

    fn reduce(
        &mut self, items: &[ExprValue], predicate: Option<&'a ExprNode>, first: Option<&'a ExprNode>,
    ) -> Result<ExprValue, EvaluationError> {
        let (mut acc, from) = match first {
            Some(first) => (self.node(first)?, 0),
            None if items.is_empty() => return EvaluationError::words("reduce of empty array with no initial value"),
            None => (items[0].clone(), 1),
        };
        for at in from..items.len() {
            acc = self.item(items, at, acc, predicate)?;
        }
        Ok(acc)
    }

    fn collect(
        &mut self, builtin: Builtin, items: &[ExprValue], predicate: Option<&'a ExprNode>, extra: Option<&'a ExprNode>,
    ) -> Result<ExprValue, EvaluationError> {
        let mut made = Vec::with_capacity(items.len());
        for at in 0..items.len() {
            made.push((self.item(items, at, ExprValue::Nil, predicate)?, items[at].clone()));
        }
        match builtin {
            Builtin::Map => Ok(ExprValue::Array(made.into_iter().map(|(value, _)| value).collect())),
            Builtin::Sum => {
                let mut sum = ExprValue::Int(0);
                for (value, _) in made {
                    sum = match (&sum, &value) {
                        (ExprValue::Int(sum), ExprValue::Int(value)) => ExprValue::Int(sum.wrapping_add(*value)),
                        _ => match sum.as_float().zip(value.as_float()) {
                            Some((sum, value)) => ExprValue::Float(sum + value),
                            None => {
                                return EvaluationError::words(format!(
                                    "invalid operation: int + {}",
                                    value.type_name()
                                ));
                            }
                        },
                    };
                }
                Ok(sum)
            }
            Builtin::GroupBy => {
                let mut groups: Vec<(ExprValue, Vec<ExprValue>)> = Vec::new();
                for (key, item) in made {
                    match groups.iter_mut().find(|(known, _)| known.equals(&key)) {
                        Some((_, group)) => group.push(item),
                        None => groups.push((key, vec![item])),
                    }
                }
                Ok(ExprValue::map(groups.into_iter().map(|(key, group)| (key, ExprValue::Array(group.into())))))
            }
            _ => {
                let order = extra.map(|extra| self.node(extra)).transpose()?;
                sort(&mut made, |(value, _)| value, descends(order.as_ref())?)?;
                Ok(ExprValue::Array(made.into_iter().map(|(_, item)| item).collect()))
            }
        }
    }
}

fn conversion<T>(value: &ExprValue, wanted: &str) -> Result<T, EvaluationError> {
    EvaluationError::words(format!("interface conversion: interface {{}} is {}, not {wanted}", value.type_name()))
}

fn invalid<T>(binary: Binary, left: &ExprValue, right: &ExprValue) -> Result<T, EvaluationError> {
    EvaluationError::words(format!(
        "invalid operation: {} {} {}",
        left.type_name(),
        binary.written(),
        right.type_name()
    ))
}

/// Returns whether a relation holds between two values, or `None` if the operator is not a relation.
fn relation(binary: Binary, left: &ExprValue, right: &ExprValue) -> Result<Option<bool>, EvaluationError> {
    let order = || compare(left, right).or_else(|_| invalid(binary, left, right));
    let texts: Option<(&str, &str)> = match (left, right) {
        (ExprValue::Text(whole), ExprValue::Text(part)) => Some((whole, part)),
        (ExprValue::Nil, _) | (_, ExprValue::Nil) => Some(("", "-")),
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
        // Nil contains nothing, not even nil.
        (Binary::Contains, Some((whole, part))) => whole.contains(part),
        (Binary::StartsWith, Some((whole, part))) => whole.starts_with(part),
        (Binary::EndsWith, Some((whole, part))) => whole.ends_with(part),
        (Binary::Contains | Binary::StartsWith | Binary::EndsWith, None) => return invalid(binary, left, right),
        _ => return Ok(None),
    }))
}

fn arithmetic(binary: Binary, left: &ExprValue, right: &ExprValue) -> Result<ExprValue, EvaluationError> {
    match (binary, left, right) {
        (Binary::Add, ExprValue::Int(one), ExprValue::Int(other)) => {
            return Ok(ExprValue::Int(one.wrapping_add(*other)));
        }
        (Binary::Subtract, ExprValue::Int(one), ExprValue::Int(other)) => {
            return Ok(ExprValue::Int(one.wrapping_sub(*other)));
        }
        (Binary::Multiply, ExprValue::Int(one), ExprValue::Int(other)) => {
            return Ok(ExprValue::Int(one.wrapping_mul(*other)));
        }
        (Binary::Modulo, ExprValue::Int(_), ExprValue::Int(0)) => {
            return EvaluationError::words("runtime error: integer divide by zero");
        }
        (Binary::Modulo, ExprValue::Int(one), ExprValue::Int(other)) => {
            return Ok(ExprValue::Int(one.wrapping_rem(*other)));
        }
        (Binary::Add, ExprValue::Text(one), ExprValue::Text(other)) if one.len() + other.len() <= MAX_TEXT => {
            return Ok(ExprValue::text(format!("{one}{other}")));
        }
        (Binary::Add, ExprValue::Text(_), ExprValue::Text(_)) => return Err(EvaluationError::Memory),
        _ => {}
    }
    let Some((one, other)) = left.as_float().zip(right.as_float()) else { return invalid(binary, left, right) };
    Ok(ExprValue::Float(match binary {
        Binary::Add => one + other,
        Binary::Subtract => one - other,
        Binary::Multiply => one * other,
        Binary::Divide => one / other,
        Binary::Power => one.powf(other),
        _ => return invalid(binary, left, right),
    }))
}

fn unary_value(unary: Unary, value: &ExprValue) -> Result<ExprValue, EvaluationError> {
    match (unary, value) {
        (Unary::Not, ExprValue::Bool(value)) => Ok(ExprValue::Bool(!value)),
        (Unary::Not, other) => conversion(other, "bool"),
        (Unary::Plus, value) => Ok(value.clone()),
        (Unary::Minus, ExprValue::Int(number)) => Ok(ExprValue::Int(number.wrapping_neg())),
        (Unary::Minus, ExprValue::Float(number)) => Ok(ExprValue::Float(-number)),
        (Unary::Minus, other) => EvaluationError::words(format!("invalid operation: - {}", other.type_name())),
    }
}

/// Returns an item of an array, or the value of a key.
fn fetch(of: &ExprValue, property: &ExprValue) -> Result<ExprValue, EvaluationError> {
    match (of, property) {
        (ExprValue::Map(_), key) => Ok(of.get(key).cloned().unwrap_or(ExprValue::Nil)),
        (ExprValue::Array(items), ExprValue::Int(index)) => {
            let at = if *index < 0 { index + items.len() as i64 } else { *index };
            match usize::try_from(at).ok().and_then(|at| items.get(at)) {
                Some(item) => Ok(item.clone()),
                None => EvaluationError::words(format!("index out of range: {at} (array length is {})", items.len())),
            }
        }
        (ExprValue::Text(_) | ExprValue::Bytes(_), ExprValue::Int(index)) => {
            let bytes = match of {
                ExprValue::Text(text) => text.as_bytes(),
                ExprValue::Bytes(bytes) => bytes,
                _ => &[],
            };
            let at = if *index < 0 { index + bytes.len() as i64 } else { *index };
            match usize::try_from(at).ok().and_then(|at| bytes.get(at)) {
                Some(byte) => Ok(ExprValue::Int((*byte).into())),
                None => EvaluationError::words(format!("index out of range: {at} (array length is {})", bytes.len())),
            }
        }
        _ => EvaluationError::words(format!("cannot fetch {property} from {}", of.type_name())),
    }
}

/// Returns a part of a value. Bounds outside of the value are moved to its ends.
fn slice(value: &ExprValue, from: Option<i64>, to: Option<i64>) -> Result<ExprValue, EvaluationError> {
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
        ExprValue::Array(items) => {
            let (from, to) = bounds(items.len());
            ExprValue::Array(items[from..to].into())
        }
        ExprValue::Bytes(bytes) => {
            let (from, to) = bounds(bytes.len());
            ExprValue::Bytes(bytes[from..to].into())
        }
        ExprValue::Text(text) => {
            let (from, to) = bounds(text.len());
            // A part of a character is replaced.
            ExprValue::text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned())
        }
        _ => return EvaluationError::words("cannot slice"),
    })
}

fn is_within(needle: &ExprValue, of: &ExprValue) -> Result<bool, EvaluationError> {
    match of {
        ExprValue::Nil => Ok(false),
        ExprValue::Array(items) => Ok(items.iter().any(|item| item.equals(needle))),
        ExprValue::Map(_) => Ok(of.get(needle).is_some()),
        ExprValue::Bytes(bytes) => Ok(bytes.iter().any(|byte| ExprValue::Int((*byte).into()).equals(needle))),
        other => EvaluationError::words(format!("operator \"in\" not defined on {}", other.type_name())),
    }
}
