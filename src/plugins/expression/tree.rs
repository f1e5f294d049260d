//! What an expression says, as a tree.

use std::sync::Arc;

use regex::Regex;

use super::functions::Builtin;
use super::value::Value;

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The character of the text where it stands, for messages.
    pub at: usize,
    /// How many nodes stand in each other here.
    pub depth: usize,
    pub kind: Kind,
}

impl Node {
    /// A node at a place.
    pub(super) fn new(at: usize, kind: Kind) -> Node {
        let depth = 1 + kind.children().map(|child| child.depth).max().unwrap_or(0);
        Node { at, depth, kind }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Constant(Value),
    /// A variable, or a function that is not called.
    Name(Arc<str>),
    Unary(Unary, Box<Node>),
    /// Operands may be shared: `a < b < c` holds `b` twice.
    Binary(Binary, Arc<Node>, Arc<Node>),
    /// `a matches b`; the expression, where `b` is a constant.
    Matches(Box<Node>, Box<Node>, Option<Regex>),
    /// What `?.` may end early.
    Chain(Box<Node>),
    Member(Box<Member>),
    Slice(Box<Node>, Option<Box<Node>>, Option<Box<Node>>),
    /// A function of the environment with its arguments.
    Call(Box<Node>, Vec<Node>),
    Builtin(Builtin, Vec<Node>),
    /// What a builtin does with each item of an array.
    Predicate(Box<Node>),
    /// `#`, `#index` or `#acc`.
    Pointer(Arc<str>),
    Let(Arc<str>, Box<Node>, Box<Node>),
    Sequence(Vec<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    /// `a ?: b`
    Or(Box<Node>, Box<Node>),
    Array(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Kind {
    fn children(&self) -> Box<dyn Iterator<Item = &Node> + '_> {
        match self {
            Kind::Constant(_) | Kind::Name(_) | Kind::Pointer(_) => Box::new(std::iter::empty()),
            Kind::Unary(_, node) | Kind::Chain(node) | Kind::Predicate(node) => Box::new(std::iter::once(&**node)),
            Kind::Binary(_, left, right) => Box::new([&**left, &**right].into_iter()),
            Kind::Matches(left, right, _) | Kind::Let(_, left, right) | Kind::Or(left, right) => {
                Box::new([&**left, &**right].into_iter())
            }
            Kind::Member(member) => Box::new([&member.of, &member.property].into_iter()),
            Kind::Slice(node, from, to) => {
                Box::new(std::iter::once(&**node).chain(from.as_deref()).chain(to.as_deref()))
            }
            Kind::Call(callee, arguments) => Box::new(std::iter::once(&**callee).chain(arguments)),
            Kind::Builtin(_, nodes) | Kind::Sequence(nodes) | Kind::Array(nodes) => Box::new(nodes.iter()),
            Kind::If(condition, first, second) => Box::new([&**condition, &**first, &**second].into_iter()),
            Kind::Map(pairs) => Box::new(pairs.iter().flat_map(|(key, value)| [key, value])),
        }
    }

    /// The nodes that this one is made of, to be changed; but for operands that may be shared.
    pub(super) fn children_mut(&mut self) -> Box<dyn Iterator<Item = &mut Node> + '_> {
        match self {
            Kind::Constant(_) | Kind::Name(_) | Kind::Pointer(_) => Box::new(std::iter::empty()),
            Kind::Unary(_, node) | Kind::Chain(node) | Kind::Predicate(node) => Box::new(std::iter::once(&mut **node)),
            Kind::Binary(_, left, right) => Box::new([Arc::get_mut(left), Arc::get_mut(right)].into_iter().flatten()),
            Kind::Matches(left, right, _) | Kind::Let(_, left, right) | Kind::Or(left, right) => {
                Box::new([&mut **left, &mut **right].into_iter())
            }
            Kind::Member(member) => {
                let Member { of, property, .. } = &mut **member;
                Box::new([of, property].into_iter())
            }
            Kind::Slice(node, from, to) => {
                Box::new(std::iter::once(&mut **node).chain(from.as_deref_mut()).chain(to.as_deref_mut()))
            }
            Kind::Call(callee, arguments) => Box::new(std::iter::once(&mut **callee).chain(arguments)),
            Kind::Builtin(_, nodes) | Kind::Sequence(nodes) | Kind::Array(nodes) => Box::new(nodes.iter_mut()),
            Kind::If(condition, first, second) => Box::new([&mut **condition, &mut **first, &mut **second].into_iter()),
            Kind::Map(pairs) => Box::new(pairs.iter_mut().flat_map(|(key, value)| [key, value])),
        }
    }
}

/// A part of something, by name or number.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub of: Node,
    pub property: Node,
    /// `?.`
    pub optional: bool,
    /// It is called.
    pub method: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Minus,
    Plus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    More,
    LessOrEqual,
    MoreOrEqual,
    In,
    Contains,
    StartsWith,
    EndsWith,
    Range,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Coalesce,
}

/// An operator between two values, how tightly it binds, and what it is; `None` for those that have a node of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    pub precedence: u16,
    pub binary: Option<Binary>,
}

/// The operators. All but powers group from left to right.
pub(super) fn operator(text: &str) -> Option<Operator> {
    let (precedence, binary) = match text {
        "|" => (0, None),
        "or" | "||" => (10, Some(Binary::Or)),
        "and" | "&&" => (15, Some(Binary::And)),
        "==" => (20, Some(Binary::Equal)),
        "!=" => (20, Some(Binary::NotEqual)),
        "<" => (20, Some(Binary::Less)),
        ">" => (20, Some(Binary::More)),
        "<=" => (20, Some(Binary::LessOrEqual)),
        ">=" => (20, Some(Binary::MoreOrEqual)),
        "in" => (20, Some(Binary::In)),
        "matches" => (20, None),
        "contains" => (20, Some(Binary::Contains)),
        "startsWith" => (20, Some(Binary::StartsWith)),
        "endsWith" => (20, Some(Binary::EndsWith)),
        ".." => (25, Some(Binary::Range)),
        "+" => (30, Some(Binary::Add)),
        "-" => (30, Some(Binary::Subtract)),
        "*" => (60, Some(Binary::Multiply)),
        "/" => (60, Some(Binary::Divide)),
        "%" => (60, Some(Binary::Modulo)),
        "**" | "^" => (100, Some(Binary::Power)),
        "??" => (500, Some(Binary::Coalesce)),
        _ => return None,
    };
    Some(Operator { precedence, binary })
}

impl Binary {
    /// As it is written in messages.
    pub(super) const fn written(self) -> &'static str {
        match self {
            Binary::Or => "||",
            Binary::And => "&&",
            Binary::Equal => "==",
            Binary::NotEqual => "!=",
            Binary::Less => "<",
            Binary::More => ">",
            Binary::LessOrEqual => "<=",
            Binary::MoreOrEqual => ">=",
            Binary::In => "in",
            Binary::Contains => "contains",
            Binary::StartsWith => "startsWith",
            Binary::EndsWith => "endsWith",
            Binary::Range => "..",
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Modulo => "%",
            Binary::Power => "**",
            Binary::Coalesce => "??",
        }
    }

    /// Whether several in a row mean all of them: `a < b < c`.
    pub(super) const fn is_comparison(self) -> bool {
        matches!(self, Binary::Less | Binary::More | Binary::LessOrEqual | Binary::MoreOrEqual)
    }
}

impl Unary {
    /// As it is written in messages.
    pub(super) const fn written(self) -> &'static str {
        match self {
            Unary::Not => "!",
            Unary::Minus => "-",
            Unary::Plus => "+",
        }
    }
}
