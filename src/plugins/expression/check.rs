//! The types of an expression (expr-lang `checker`): what cannot work is an error when the Corefile is read.

use super::error::CompileError;
use super::functions::Builtin;
use super::tree::{Binary, ExprKind, ExprNode, MemberAccess, Unary};
use super::types::{KnownNames, Type};
use super::value::ExprValue;
use crate::plugins::regexp;

/// The largest number of nodes to check. A comparison of three values has one of them twice.
const MAX_NODES: usize = 10_000;

/// Checks a tree, prepares its regular expressions, and returns the type of its value.
pub(super) fn check(node: &mut ExprNode, names: &KnownNames) -> Result<Type, CompileError> {
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
fn compile_patterns(node: &mut ExprNode) -> Result<(), CompileError> {
    if let ExprKind::Matches(_, pattern, compiled) = &mut node.kind
        && let ExprKind::Constant(ExprValue::Text(text)) = &pattern.kind
    {
        let regex = regexp::compile(text).map_err(|error| CompileError { at: pattern.at, message: error.to_string() });
        *compiled = Some(regex?);
    }
    node.kind.children_mut().try_for_each(compile_patterns)
}

/// The types within a predicate.
struct PredicateScope {
    array: Type,
    /// `#index`, and in `reduce` also `#acc`.
    pointers: &'static [(&'static str, Type)],
}

struct Checker<'a> {
    names: &'a KnownNames,
    /// Variables of `let`.
    locals: Vec<(std::sync::Arc<str>, Type)>,
    predicates: Vec<PredicateScope>,
    nodes: usize,
}

fn error<T>(node: &ExprNode, message: impl Into<String>) -> Result<T, CompileError> {
    Err(CompileError { at: node.at, message: message.into() })
}

impl Checker<'_> {
    fn node(&mut self, node: &ExprNode) -> Result<Type, CompileError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return error(node, "compilation failed: expression exceeds maximum allowed nodes");
        }
        match &node.kind {
            ExprKind::Constant(value) => Ok(match value {
                ExprValue::Nil => Type::Nil,
                ExprValue::Bool(_) => Type::Bool,
                ExprValue::Int(_) => Type::Int,
                ExprValue::Float(_) => Type::Float,
                ExprValue::Text(_) => Type::Text,
                ExprValue::Bytes(_) => Type::Bytes,
                ExprValue::Array(_) => Type::Unknown.array(),
                ExprValue::Map(_) => Type::Map,
            }),
            ExprKind::Name(name) => self.name(node, name),
            ExprKind::Unary(unary, inner) => self.unary(node, *unary, inner),
            ExprKind::Binary(binary, left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                self.binary(node, *binary, &left, &right)
            }
            ExprKind::Matches(left, right, _) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                let is_text = |of: &Type| *of == Type::Text;
                match matches!(left, Type::Text | Type::Bytes) && right == Type::Text || left.may_fit(&right, is_text) {
                    true => Ok(Type::Bool),
                    false => mismatch(node, "matches", &left, &right),
                }
            }
            ExprKind::Chain(inner) => self.node(inner),
            ExprKind::Member(member) => self.member(node, member),
            ExprKind::Slice(inner, from, to) => self.slice(node, inner, from.as_deref(), to.as_deref()),
            ExprKind::Call(callee, arguments) => self.call(node, callee, arguments),
            ExprKind::Builtin(builtin, arguments) => self.builtin(node, *builtin, arguments),
            ExprKind::Predicate(inner) => self.node(inner),
            ExprKind::Pointer(name) => self.pointer(node, name),
            ExprKind::Let(name, value, rest) => self.declaration(node, name, value, rest),
            ExprKind::Sequence(nodes) => {
                let mut last = Type::Unknown;
                for node in nodes {
                    last = self.node(node)?;
                }
                Ok(last)
            }
            ExprKind::If(condition, first, second) => {
                let of = self.node(condition)?;
                let (first, second) = (self.node(first)?, self.node(second)?);
                choice(condition, &of, first, second)
            }
            ExprKind::Or(condition, second) => {
                let of = self.node(condition)?;
                let second = self.node(second)?;
                choice(condition, &of, of.clone(), second)
            }
            ExprKind::Array(nodes) => {
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
            ExprKind::Map(pairs) => {
                for (key, value) in pairs {
                    self.node(key)?;
                    self.node(value)?;
                }
                Ok(Type::Map)
            }
        }
    }

    fn name(&self, node: &ExprNode, name: &str) -> Result<Type, CompileError> {
        if let Some((_, of)) = self.locals.iter().rev().find(|(known, _)| **known == *name) {
            return Ok(of.clone());
        }
        match self.names.get(name) {
            Some(of) => Ok(of),
            None if name == "$env" => error(node, "$env is not supported by this server"),
            None => error(node, format!("unknown name {name}")),
        }
    }

    fn unary(&mut self, node: &ExprNode, unary: Unary, inner: &ExprNode) -> Result<Type, CompileError> {
        let of = self.node(inner)?;
        match unary {
            Unary::Not if of == Type::Bool || of.is_unknown() => Ok(Type::Bool),
            Unary::Plus | Unary::Minus if of.is_number() || of.is_unknown() => Ok(of),
            _ => error(node, format!("invalid operation: {} (mismatched type {of})", unary.written())),
        }
    }

    fn binary(&self, node: &ExprNode, binary: Binary, left: &Type, right: &Type) -> Result<Type, CompileError> {
        use Type::{Bool, Float, Int, Nil, Text, Unknown};
        let numbers = left.is_number() && right.is_number();
        let texts = (left, right) == (&Text, &Text);
        let number = |of: &Type| of.is_number();
        let text = |of: &Type| *of == Text;
        // CoreDNS's library calculates with constants when it compiles.
        if let ExprKind::Binary(Binary::Modulo, one, other) = &node.kind
            && constant(one).is_some()
            && constant(other) == Some(0)
        {
            return error(node, "integer divide by zero");
        }
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

    fn within(&self, node: &ExprNode, left: &Type, right: &Type) -> Result<Type, CompileError> {
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

    fn member(&mut self, node: &ExprNode, member: &MemberAccess) -> Result<Type, CompileError> {
        let base = self.node(&member.of)?;
        let property = self.node(&member.property)?;
        let name = match &member.property.kind {
            ExprKind::Constant(ExprValue::Text(name)) => Some(name),
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

    fn slice(
        &mut self, node: &ExprNode, inner: &ExprNode, from: Option<&ExprNode>, to: Option<&ExprNode>,
    ) -> Result<Type, CompileError> {
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

    fn call(&mut self, node: &ExprNode, callee: &ExprNode, arguments: &[ExprNode]) -> Result<Type, CompileError> {
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

    fn arguments(&mut self, arguments: &[ExprNode]) -> Result<Vec<Type>, CompileError> {
        arguments.iter().map(|argument| self.node(argument)).collect()
    }

    fn builtin(&mut self, node: &ExprNode, builtin: Builtin, arguments: &[ExprNode]) -> Result<Type, CompileError> {
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

    /// Checks a call of a builtin that has a predicate for the items of an array.
    fn with_predicate(&mut self, builtin: Builtin, arguments: &[ExprNode]) -> Result<Type, CompileError> {
        let Some((collection, rest)) = arguments.split_first() else { return Ok(Type::Unknown) };
        let array = self.node(collection)?;
        if !array.is_array() && !array.is_unknown() {
            return error(collection, format!("builtin {} takes only array (got {array})", builtin.name()));
        }
        let mut of = None;
        if let Some(predicate) = rest.first() {
            self.predicates.push(PredicateScope { array: array.clone(), pointers: builtin.pointers() });
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

    fn pointer(&self, node: &ExprNode, name: &str) -> Result<Type, CompileError> {
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

    fn declaration(
        &mut self, node: &ExprNode, name: &std::sync::Arc<str>, value: &ExprNode, rest: &ExprNode,
    ) -> Result<Type, CompileError> {
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

fn mismatch<T>(node: &ExprNode, operator: &str, left: &Type, right: &Type) -> Result<T, CompileError> {
    error(node, format!("invalid operation: {operator} (mismatched types {left} and {right})"))
}

/// Returns the type of a value that is one of two.
fn choice(condition: &ExprNode, of: &Type, first: Type, second: Type) -> Result<Type, CompileError> {
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

/// Checks the number and the types of arguments against the parameters of a function.
fn fit(
    node: &ExprNode, name: &str, parameters: &[Type], arguments: &[ExprNode], types: &[Type],
) -> Result<(), CompileError> {
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

/// Returns the value of a whole number that is calculated from constants only.
fn constant(node: &ExprNode) -> Option<i64> {
    match &node.kind {
        ExprKind::Constant(ExprValue::Int(number)) => Some(*number),
        ExprKind::Unary(Unary::Minus, inner) => Some(constant(inner)?.wrapping_neg()),
        ExprKind::Binary(binary, left, right) => {
            let (left, right) = (constant(left)?, constant(right)?);
            match binary {
                Binary::Add => Some(left.wrapping_add(right)),
                Binary::Subtract => Some(left.wrapping_sub(right)),
                Binary::Multiply => Some(left.wrapping_mul(right)),
                Binary::Modulo => left.checked_rem(right),
                _ => None,
            }
        }
        _ => None,
    }
}
