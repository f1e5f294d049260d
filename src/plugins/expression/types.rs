//! The types of values, and the names that an expression may use.

use std::fmt;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Not known before the expression runs.
    Unknown,
    /// Not known, of a variable. As in CoreDNS, `x[0]`, `x.y` and `upper(x)` are errors.
    Opaque,
    /// `nil`.
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
    /// An array of any values, which the checker knows to be of a type.
    Array(Box<Type>),
    /// An array whose Go type is that of its items.
    Typed(Box<Type>),
    /// A map with strings as keys.
    Map,
    /// A map that `groupBy` returns: its values are arrays of a type.
    Groups(Box<Type>),
    /// A function, where it is not called.
    Function(&'static ExprFunction),
}

/// A function of the environment.
#[derive(Debug, PartialEq, Eq)]
pub struct ExprFunction {
    /// Its name.
    pub name: &'static str,
    /// The types of its arguments.
    pub parameters: &'static [Simple],
    /// The type of its result.
    pub result: Simple,
}

/// The types of parameters and results of functions of the environment.
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
pub struct KnownNames {
    functions: Vec<&'static ExprFunction>,
    variables: Vec<(Box<str>, Type)>,
}

impl KnownNames {
    /// Creates names with these functions.
    pub fn of(functions: impl IntoIterator<Item = &'static ExprFunction>) -> KnownNames {
        KnownNames { functions: functions.into_iter().collect(), variables: Vec::new() }
    }

    /// Adds a variable.
    pub fn add(&mut self, name: &str, of: Type) {
        // `nil` and unknown values may be of any type later.
        let of = if matches!(of, Type::Nil | Type::Unknown) { Type::Opaque } else { of };
        self.variables.push((name.into(), of));
    }

    /// Returns the type of a name.
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
    /// Formats the type as Go does.
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
    /// Returns the type of arrays with items of this type.
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

    /// Returns the type of the items of an array, or of the values of a map.
    pub(super) fn item(&self) -> Type {
        match self {
            Type::Array(item) | Type::Typed(item) => (**item).clone(),
            Type::Groups(items) => (**items).clone().array(),
            Type::Bytes => Type::Int,
            _ => Type::Unknown,
        }
    }

    /// Whether a value of this type can be used where another type is expected.
    pub(super) fn is_assignable_to(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::Unknown | Type::Opaque, _) => false,
            (_, Type::Unknown | Type::Opaque) => true,
            (Type::Nil, other) => other.is_array() || other.is_map(),
            (Type::Array(_), Type::Array(_)) => true,
            _ => self == other,
        }
    }

    pub(super) fn is_comparable_to(&self, other: &Type) -> bool {
        self.is_unknown()
            || other.is_unknown()
            || *self == Type::Nil
            || *other == Type::Nil
            || self.is_number() && other.is_number()
            || self.is_array() && other.is_array()
            || self.is_assignable_to(other)
    }

    /// Whether at least one of two types is unknown, and each of them is unknown or passes a check.
    pub(super) fn may_fit(&self, other: &Type, check: impl Fn(&Type) -> bool) -> bool {
        match (self.is_unknown(), other.is_unknown()) {
            (true, true) => true,
            (true, false) => check(other),
            (false, true) => check(self),
            (false, false) => false,
        }
    }
}
