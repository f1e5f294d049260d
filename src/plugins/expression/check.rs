//! The types of an expression (expr-lang `checker`): what cannot work is an error when the Corefile is read.

use std::fmt;

use super::CompileError;
use super::functions::Builtin;
use super::tree::{Binary, Kind, Member, Node, Unary};
use super::value::Value;
use crate::plugins::regexp;

/// How many nodes are checked. A comparison of three values holds one of them twice.
const MAX_NODES: usize = 10_000;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Not known before the expression is run.
    Unknown,
    /// The same of a variable. As in CoreDNS, `x[0]`, `x.y` and `upper(x)` are errors then.
    Opaque,
    /// Nothing.
    Nil,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A floating-point number.
    Float,
    /// A string.
    Text,
    /// Bytes.
    Bytes,
    /// An array of any values, of which these are known to be of a type.
    Array(Box<Type>),
    /// An array whose Go type is that of its items.
    Typed(Box<Type>),
    /// A map with strings as keys.
    Map,
    /// A map that `groupBy` makes: arrays of a type behind any keys.
    Groups(Box<Type>),
    /// A function that is not called.
    Function(&'static Function),
}

/// A function of the environment.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments.
    pub parameters: &'static [Simple],
    /// What it returns.
    pub result: Simple,
}

/// The types that functions of the environment take and return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simple {
    /// Any.
    Any,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A string.
    Text,
}

/// The names that an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Names {
    functions: Vec<&'static Function>,
    variables: Vec<(Box<str>, Type)>,
}

impl Names {
    /// These functions.
    pub fn of(functions: impl IntoIterator<Item = &'static Function>) -> Names {
        Names { functions: functions.into_iter().collect(), variables: Vec::new() }
    }

    /// Adds a variable.
    pub fn add(&mut self, name: &str, of: Type) {
        // Of nothing, and of what is not known, anything may come.
        let of = if matches!(of, Type::Nil | Type::Unknown) { Type::Opaque } else { of };
        self.variables.push((name.into(), of));
    }

    /// The type of a name.
    pub(super) fn get(&self, name: &str) -> Option<Type> {
        let variable = self.variables.iter().find(|(known, _)| **known == *name).map(|(_, of)| of.clone());
        variable.or_else(|| self.functions.iter().find(|known| known.name == name).map(|known| Type::Function(known)))
    }
}

impl From<Simple> for Type {
    fn from(simple: Simple) -> Type {
        match simple {
            Simple::Any => Type::Unknown,
            Simple::Bool => Type::Bool,
            Simple::Int => Type::Int,
            Simple::Text => Type::Text,
        }
    }
}

impl fmt::Display for Type {
    /// As Go writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Unknown => f.write_str("unknown"),
            Type::Opaque => f.write_str("interface {}"),
            Type::Nil => f.write_str("nil"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Float => f.write_str("float64"),
            Type::Text => f.write_str("string"),
            Type::Bytes => f.write_str("[]uint8"),
            Type::Array(_) => f.write_str("[]interface {}"),
            Type::Typed(item) => write!(f, "[]{item}"),
            Type::Map => f.write_str("map[string]interface {}"),
            Type::Groups(_) => f.write_str("map[interface {}][]interface {}"),
            Type::Function(function) => {
                f.write_str("func(")?;
                for (at, parameter) in function.parameters.iter().enumerate() {
                    write!(f, "{}{}", if at > 0 { ", " } else { "" }, go_name(*parameter))?;
                }
                write!(f, ") {}", go_name(function.result))
            }
        }
    }
}

fn go_name(simple: Simple) -> String {
    if simple == Simple::Any { "interface {}".into() } else { Type::from(simple).to_string() }
}

impl Type {
    /// The array whose items are of a type.
    pub(super) fn array(self) -> Type {
        Type::Array(Box::new(self))
    }

    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Type::Unknown | Type::Opaque)
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Float)
    }

    pub(super) fn is_array(&self) -> bool {
        matches!(self, Type::Array(_) | Type::Typed(_) | Type::Bytes)
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self, Type::Map | Type::Groups(_))
    }

    /// What the items of an array, or the values of a map, are.
    pub(super) fn item(&self) -> Type {
        match self {
            Type::Array(item) | Type::Typed(item) => (**item).clone(),
            Type::Groups(items) => (**items).clone().array(),
            Type::Bytes => Type::Int,
            _ => Type::Unknown,
        }
    }

    /// Whether a value of this type may stand where one of another is wanted.
    pub(super) fn is_assignable_to(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Unknown | Type::Opaque, _) => false,
            (_, Type::Unknown | Type::Opaque) => true,
            (Type::Nil, other) => other.is_array() || other.is_map(),
            (Type::Array(_), Type::Array(_)) => true,
            _ => self == other,
        }
    }

    fn is_comparable_to(&self, other: &Type) -> bool {
        self.is_unknown()
            || other.is_unknown()
            || *self == Type::Nil
            || *other == Type::Nil
            || self.is_number() && other.is_number()
            || self.is_array() && other.is_array()
            || self.is_assignable_to(other)
    }

    /// Whether one of two types is not known, and the other passes a check or is not known either.
    fn may_fit(&self, other: &Type, check: impl Fn(&Type) -> bool) -> bool {
        match (self.is_unknown(), other.is_unknown()) {
            (true, true) => true,
            (true, false) => check(other),
            (false, true) => check(self),
            (false, false) => false,
        }
    }
}

type Result<T> = std::result::Result<T, CompileError>;

/// Checks a tree, prepares its regular expressions, and returns the type of its value.
pub(super) fn check(node: &mut Node, names: &Names) -> Result<Type> {
    compile_patterns(node)?;
    let mut checker = Checker { names, locals: Vec::new(), predicates: Vec::new(), nodes: 0 };
    let of = checker.node(node)?;
    match of {
        Type::Function(function) => {
            Err(CompileError { at: node.at, message: format!("{} is a function and has to be called", function.name) })
        }
        of => Ok(of),
    }
}

/// Compiles each pattern that is a constant.
fn compile_patterns(node: &mut Node) -> Result<()> {
    if let Kind::Matches(_, pattern, compiled) = &mut node.kind
        && let Kind::Constant(Value::Text(text)) = &pattern.kind
    {
        let regex = regexp::compile(text).map_err(|error| CompileError { at: pattern.at, message: error.to_string() });
        *compiled = Some(regex?);
    }
    node.kind.children_mut().try_for_each(compile_patterns)
}

/// What is known within a predicate.
struct Scope {
    array: Type,
    /// `#index` is known, and perhaps `#acc`.
    pointers: &'static [(&'static str, Type)],
}

struct Checker<'a> {
    names: &'a Names,
    /// Variables of `let`.
    locals: Vec<(std::sync::Arc<str>, Type)>,
    predicates: Vec<Scope>,
    nodes: usize,
}

fn error<T>(node: &Node, message: impl Into<String>) -> Result<T> {
    Err(CompileError { at: node.at, message: message.into() })
}

impl Checker<'_> {
    fn node(&mut self, node: &Node) -> Result<Type> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return error(node, "compilation failed: expression exceeds maximum allowed nodes");
        }
        match &node.kind {
            Kind::Constant(value) => Ok(match value {
                Value::Nil => Type::Nil,
                Value::Bool(_) => Type::Bool,
                Value::Int(_) => Type::Int,
                Value::Float(_) => Type::Float,
                Value::Text(_) => Type::Text,
                Value::Bytes(_) => Type::Bytes,
                Value::Array(_) => Type::Unknown.array(),
                Value::Map(_) => Type::Map,
            }),
            Kind::Name(name) => self.name(node, name),
            Kind::Unary(unary, inner) => self.unary(node, *unary, inner),
            Kind::Binary(binary, left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                self.binary(node, *binary, &left, &right)
            }
            Kind::Matches(left, right, _) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                let is_text = |of: &Type| *of == Type::Text;
                match matches!(left, Type::Text | Type::Bytes) && right == Type::Text || left.may_fit(&right, is_text) {
                    true => Ok(Type::Bool),
                    false => mismatch(node, "matches", &left, &right),
                }
            }
            Kind::Chain(inner) => self.node(inner),
            Kind::Member(member) => self.member(node, member),
            Kind::Slice(inner, from, to) => self.slice(node, inner, from.as_deref(), to.as_deref()),
            Kind::Call(callee, arguments) => self.call(node, callee, arguments),
            Kind::Builtin(builtin, arguments) => self.builtin(node, *builtin, arguments),
            Kind::Predicate(inner) => self.node(inner),
            Kind::Pointer(name) => self.pointer(node, name),
            Kind::Let(name, value, rest) => self.declaration(node, name, value, rest),
            Kind::Sequence(nodes) => {
                let mut last = Type::Unknown;
                for node in nodes {
                    last = self.node(node)?;
                }
                Ok(last)
            }
            Kind::If(condition, first, second) => {
                let of = self.node(condition)?;
                let (first, second) = (self.node(first)?, self.node(second)?);
                choice(condition, &of, first, second)
            }
            Kind::Or(condition, second) => {
                let of = self.node(condition)?;
                let second = self.node(second)?;
                choice(condition, &of, of.clone(), second)
            }
            Kind::Array(nodes) => {
                let mut item: Option<Type> = None;
                let mut is_same = true;
                for node in nodes {
                    let of = self.node(node)?;
                    is_same &=
                        item.as_ref().is_none_or(|item| std::mem::discriminant(item) == std::mem::discriminant(&of));
                    item = Some(of);
                }
                Ok(item.filter(|_| is_same).unwrap_or(Type::Unknown).array())
            }
            Kind::Map(pairs) => {
                for (key, value) in pairs {
                    self.node(key)?;
                    self.node(value)?;
                }
                Ok(Type::Map)
            }
        }
    }

    fn name(&self, node: &Node, name: &str) -> Result<Type> {
        if let Some((_, of)) = self.locals.iter().rev().find(|(known, _)| **known == *name) {
            return Ok(of.clone());
        }
        match self.names.get(name) {
            Some(of) => Ok(of),
            None if name == "$env" => error(node, "$env is not supported by this server"),
            None => error(node, format!("unknown name {name}")),
        }
    }

    fn unary(&mut self, node: &Node, unary: Unary, inner: &Node) -> Result<Type> {
        let of = self.node(inner)?;
        match unary {
            Unary::Not if of == Type::Bool || of.is_unknown() => Ok(Type::Bool),
            Unary::Plus | Unary::Minus if of.is_number() || of.is_unknown() => Ok(of),
            _ => error(node, format!("invalid operation: {} (mismatched type {of})", unary.written())),
        }
    }

    fn binary(&self, node: &Node, binary: Binary, left: &Type, right: &Type) -> Result<Type> {
        use Type::{Bool, Float, Int, Nil, Text, Unknown};
        let numbers = left.is_number() && right.is_number();
        let texts = (left, right) == (&Text, &Text);
        let number = |of: &Type| of.is_number();
        let text = |of: &Type| *of == Text;
        let found = match binary {
            Binary::Equal | Binary::NotEqual if left.is_comparable_to(right) => Some(Bool),
            Binary::Or | Binary::And => {
                let fits = (left, right) == (&Bool, &Bool) || left.may_fit(right, |of| *of == Bool);
                fits.then_some(Bool)
            }
            Binary::Less | Binary::More | Binary::LessOrEqual | Binary::MoreOrEqual => {
                let fits = numbers || texts || left.may_fit(right, |of| number(of) || text(of));
                fits.then_some(Bool)
            }
            Binary::Subtract | Binary::Multiply | Binary::Add if numbers => {
                Some(if (left, right) == (&Int, &Int) { Int } else { Float })
            }
            Binary::Add if texts => Some(Text),
            Binary::Add => left.may_fit(right, |of| number(of) || text(of)).then_some(Unknown),
            Binary::Subtract | Binary::Multiply => left.may_fit(right, number).then_some(Unknown),
            Binary::Divide | Binary::Power => (numbers || left.may_fit(right, number)).then_some(Float),
            Binary::Modulo => ((left, right) == (&Int, &Int) || left.may_fit(right, |of| *of == Int)).then_some(Int),
            Binary::Contains | Binary::StartsWith | Binary::EndsWith => {
                (texts || left.may_fit(right, text)).then_some(Bool)
            }
            Binary::Range => {
                let fits = (left, right) == (&Int, &Int) || left.may_fit(right, |of| *of == Int);
                fits.then(|| Int.array())
            }
            Binary::Coalesce => Some(match (left, right) {
                (Nil, right) => right.clone(),
                (left, Nil) => left.clone(),
                (left, right) if right.is_assignable_to(left) => left.clone(),
                _ => Unknown,
            }),
            Binary::In => return self.within(node, left, right),
            _ => None,
        };
        match found {
            Some(of) => Ok(of),
            None => mismatch(node, binary.written(), left, right),
        }
    }

    fn within(&self, node: &Node, left: &Type, right: &Type) -> Result<Type> {
        match right {
            Type::Map if !left.is_unknown() && *left != Type::Text => {
                error(node, format!("cannot use {left} as type string in map key"))
            }
            Type::Map | Type::Groups(_) | Type::Unknown | Type::Opaque => Ok(Type::Bool),
            array if array.is_array() => match left.is_comparable_to(&array.item()) {
                true => Ok(Type::Bool),
                false => error(node, format!("cannot use {left} as type {} in array", array.item())),
            },
            Type::Text if left.is_unknown() => Ok(Type::Bool),
            _ => mismatch(node, "in", left, right),
        }
    }

    fn member(&mut self, node: &Node, member: &Member) -> Result<Type> {
        let base = self.node(&member.of)?;
        let property = self.node(&member.property)?;
        let name = match &member.property.kind {
            Kind::Constant(Value::Text(name)) => Some(name),
            _ => None,
        };
        match (&base, name) {
            (Type::Unknown, _) => Ok(Type::Unknown),
            (Type::Nil, Some(name)) => error(node, format!("type nil has no field {name}")),
            (base, _) if base.is_map() => {
                let fits = property == Type::Text || property.is_unknown() || matches!(base, Type::Groups(_));
                match fits {
                    true => Ok(base.item()),
                    false => error(&member.property, format!("cannot use {property} to get an element from {base}")),
                }
            }
            (base, _) if base.is_array() => match property == Type::Int || property.is_unknown() {
                true => Ok(base.item()),
                false => {
                    let message = format!("array elements can only be selected using an integer (got {property})");
                    error(&member.property, message)
                }
            },
            (base, Some(name)) => {
                let what = if member.method { "method" } else { "field" };
                error(node, format!("type {base} has no {what} {name}"))
            }
            (base, None) => error(node, format!("type {base}[{property}] is undefined")),
        }
    }

    fn slice(&mut self, node: &Node, inner: &Node, from: Option<&Node>, to: Option<&Node>) -> Result<Type> {
        let of = self.node(inner)?;
        if of != Type::Unknown && !of.is_array() && of != Type::Text {
            return error(node, format!("cannot slice {of}"));
        }
        for place in [from, to].into_iter().flatten() {
            let index = self.node(place)?;
            if index != Type::Int && !index.is_unknown() {
                return error(place, format!("non-integer slice index {index}"));
            }
        }
        Ok(of)
    }

    fn call(&mut self, node: &Node, callee: &Node, arguments: &[Node]) -> Result<Type> {
        let of = self.node(callee)?;
        let Type::Function(function) = of else {
            return match of {
                of if of.is_unknown() => error(node, "methods are not supported by this server"),
                of => error(node, format!("{of} is not callable")),
            };
        };
        let parameters: Vec<Type> = function.parameters.iter().map(|parameter| Type::from(*parameter)).collect();
        let types = self.arguments(arguments)?;
        fit(node, function.name, &parameters, arguments, &types)?;
        Ok(function.result.into())
    }

    fn arguments(&mut self, arguments: &[Node]) -> Result<Vec<Type>> {
        arguments.iter().map(|argument| self.node(argument)).collect()
    }

    fn builtin(&mut self, node: &Node, builtin: Builtin, arguments: &[Node]) -> Result<Type> {
        if builtin.predicate_arguments().is_some() {
            return self.with_predicate(builtin, arguments);
        }
        let types = self.arguments(arguments)?;
        if let Some(overloads) = builtin.overloads() {
            let mut last = Ok(());
            for (parameters, result) in overloads {
                last = fit(node, builtin.name(), &parameters, arguments, &types);
                if last.is_ok() {
                    return Ok(result);
                }
            }
            return last.map(|()| Type::Unknown);
        }
        builtin.validate(&types).map_err(|message| CompileError { at: node.at, message })
    }

    /// A builtin that does something with each item of an array.
    fn with_predicate(&mut self, builtin: Builtin, arguments: &[Node]) -> Result<Type> {
        let Some((collection, rest)) = arguments.split_first() else { return Ok(Type::Unknown) };
        let array = self.node(collection)?;
        if !array.is_array() && !array.is_unknown() {
            return error(collection, format!("builtin {} takes only array (got {array})", builtin.name()));
        }
        let mut of = None;
        if let Some(predicate) = rest.first() {
            self.predicates.push(Scope { array: array.clone(), pointers: builtin.pointers() });
            let found = self.node(predicate);
            self.predicates.pop();
            let found = found?;
            if builtin.wants_bool() && found != Type::Bool && !found.is_unknown() {
                return error(predicate, format!("predicate should return boolean (got {found})"));
            }
            of = Some(found);
        }
        if let Some(extra) = rest.get(1) {
            let found = self.node(extra)?;
            if builtin == Builtin::SortBy && found != Type::Text && !found.is_unknown() {
                return error(extra, format!("sortBy order argument must be a string (got {found})"));
            }
        }
        Ok(builtin.predicate_result(&array, of))
    }

    fn pointer(&self, node: &Node, name: &str) -> Result<Type> {
        let Some(scope) = self.predicates.last() else {
            return error(node, "cannot use pointer accessor outside predicate");
        };
        if name.is_empty() {
            return Ok(scope.array.item());
        }
        match scope.pointers.iter().find(|(known, _)| *known == name) {
            Some((_, of)) => Ok(of.clone()),
            None => error(node, format!("unknown pointer #{name}")),
        }
    }

    fn declaration(&mut self, node: &Node, name: &std::sync::Arc<str>, value: &Node, rest: &Node) -> Result<Type> {
        if self.names.get(name).is_some() {
            return error(node, format!("cannot redeclare {name}"));
        }
        if Builtin::named(name).is_some() {
            return error(node, format!("cannot redeclare builtin {name}"));
        }
        if self.locals.iter().any(|(known, _)| known == name) {
            return error(node, format!("cannot redeclare variable {name}"));
        }
        let of = self.node(value)?;
        self.locals.push((name.clone(), of));
        let result = self.node(rest);
        self.locals.pop();
        result
    }
}

fn mismatch<T>(node: &Node, operator: &str, left: &Type, right: &Type) -> Result<T> {
    error(node, format!("invalid operation: {operator} (mismatched types {left} and {right})"))
}

/// The type of one of two values.
fn choice(condition: &Node, of: &Type, first: Type, second: Type) -> Result<Type> {
    if *of != Type::Bool && !of.is_unknown() {
        return error(condition, format!("non-bool expression (type {of}) used as condition"));
    }
    Ok(match (first, second) {
        (Type::Nil, second) => second,
        (first, Type::Nil) => first,
        (first, second) if first.is_assignable_to(&second) => match (&first, &second) {
            (Type::Array(one), Type::Array(other)) if one != other => Type::Unknown.array(),
            _ => first,
        },
        _ => Type::Unknown,
    })
}

/// Whether arguments are as many, and of such types, as a function takes.
fn fit(node: &Node, name: &str, parameters: &[Type], arguments: &[Node], types: &[Type]) -> Result<()> {
    if arguments.len() != parameters.len() {
        let what = if arguments.len() > parameters.len() { "too many" } else { "not enough" };
        return error(node, format!("{what} arguments to call {name}"));
    }
    for ((parameter, argument), of) in parameters.iter().zip(arguments).zip(types) {
        let wanted = if parameter.is_unknown() { "interface {}".to_owned() } else { parameter.to_string() };
        match of {
            _ if parameter.is_unknown() => {}
            Type::Nil => return error(argument, format!("cannot use nil as argument (type {wanted}) to call {name}")),
            Type::Unknown => {}
            Type::Opaque => {
                return error(
                    argument,
                    format!("cannot use *interface {{}} as argument (type {wanted}) to call {name} "),
                );
            }
            of if of.is_assignable_to(parameter) => {}
            of => return error(argument, format!("cannot use {of} as argument (type {wanted}) to call {name} ")),
        }
    }
    Ok(())
}
