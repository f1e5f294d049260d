//! The tree of an expression.

use std::sync::Arc;

use regex::Regex;

use super::functions::Builtin;
use super::value::ExprValue;

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct ExprNode {
    /// The position in the text, in characters, for messages.
    pub at: usize,
    /// The depth of the tree below, with this node.
    pub depth: usize,
    pub kind: ExprKind,
}

impl ExprNode {
    /// Creates a node at a position.
    pub(super) fn new(at: usize, kind: ExprKind) -> ExprNode {
        let depth = 1 + kind.children().map(|child| child.depth).max().unwrap_or(0);
        ExprNode { at, depth, kind }
    }
}

#[derive(Clone, Debug)]
pub(super) enum ExprKind {
    Constant(ExprValue),
    /// A variable, or a function that is not called.
    Name(Arc<str>),
    Unary(Unary, Box<ExprNode>),
    /// Operands may be shared: `a < b < c` has `b` twice.
    Binary(Binary, Arc<ExprNode>, Arc<ExprNode>),
    /// `a matches b`, with the regular expression if `b` is a constant.
    Matches(Box<ExprNode>, Box<ExprNode>, Option<Regex>),
    /// A chain of members, which `?.` may end early.
    Chain(Box<ExprNode>),
    Member(Box<MemberAccess>),
    Slice(Box<ExprNode>, Option<Box<ExprNode>>, Option<Box<ExprNode>>),
    /// A function of the environment with its arguments.
    Call(Box<ExprNode>, Vec<ExprNode>),
    Builtin(Builtin, Vec<ExprNode>),
    /// An expression that a builtin evaluates for each item of an array.
    Predicate(Box<ExprNode>),
    /// `#`, `#index` or `#acc`.
    Pointer(Arc<str>),
    Let(Arc<str>, Box<ExprNode>, Box<ExprNode>),
    Sequence(Vec<ExprNode>),
    If(Box<ExprNode>, Box<ExprNode>, Box<ExprNode>),
    /// `a ?: b`
    Or(Box<ExprNode>, Box<ExprNode>),
    Array(Vec<ExprNode>),
    Map(Vec<(ExprNode, ExprNode)>),
}

impl ExprKind {
    fn children(&self) -> Box<dyn Iterator<Item = &ExprNode> + '_> {
        match self {
            ExprKind::Constant(_) | ExprKind::Name(_) | ExprKind::Pointer(_) => Box::new(std::iter::empty()),
            ExprKind::Unary(_, node) | ExprKind::Chain(node) | ExprKind::Predicate(node) => {
                Box::new(std::iter::once(&**node))
            }
            ExprKind::Binary(_, left, right) => Box::new([&**left, &**right].into_iter()),
            ExprKind::Matches(left, right, _) | ExprKind::Let(_, left, right) | ExprKind::Or(left, right) => {
                Box::new([&**left, &**right].into_iter())
            }
            ExprKind::Member(member) => Box::new([&member.of, &member.property].into_iter()),
            ExprKind::Slice(node, from, to) => {
                Box::new(std::iter::once(&**node).chain(from.as_deref()).chain(to.as_deref()))
            }
            ExprKind::Call(callee, arguments) => Box::new(std::iter::once(&**callee).chain(arguments)),
            ExprKind::Builtin(_, nodes) | ExprKind::Sequence(nodes) | ExprKind::Array(nodes) => Box::new(nodes.iter()),
            ExprKind::If(condition, first, second) => Box::new([&**condition, &**first, &**second].into_iter()),
            ExprKind::Map(pairs) => Box::new(pairs.iter().flat_map(|(key, value)| [key, value])),
        }
    }

    /// Returns the nodes below this one for changes, except operands that are shared.
    pub(super) fn children_mut(&mut self) -> Box<dyn Iterator<Item = &mut ExprNode> + '_> {
        match self {
            ExprKind::Constant(_) | ExprKind::Name(_) | ExprKind::Pointer(_) => Box::new(std::iter::empty()),
            ExprKind::Unary(_, node) | ExprKind::Chain(node) | ExprKind::Predicate(node) => {
                Box::new(std::iter::once(&mut **node))
            }
            ExprKind::Binary(_, left, right) => {
                Box::new([Arc::get_mut(left), Arc::get_mut(right)].into_iter().flatten())
            }
            ExprKind::Matches(left, right, _) | ExprKind::Let(_, left, right) | ExprKind::Or(left, right) => {
                Box::new([&mut **left, &mut **right].into_iter())
            }
            ExprKind::Member(member) => {
                let MemberAccess { of, property, .. } = &mut **member;
                Box::new([of, property].into_iter())
            }
            ExprKind::Slice(node, from, to) => {
                Box::new(std::iter::once(&mut **node).chain(from.as_deref_mut()).chain(to.as_deref_mut()))
            }
            ExprKind::Call(callee, arguments) => Box::new(std::iter::once(&mut **callee).chain(arguments)),
            ExprKind::Builtin(_, nodes) | ExprKind::Sequence(nodes) | ExprKind::Array(nodes) => {
                Box::new(nodes.iter_mut())
            }
            ExprKind::If(condition, first, second) => {
                Box::new([&mut **condition, &mut **first, &mut **second].into_iter())
            }
            ExprKind::Map(pairs) => Box::new(pairs.iter_mut().flat_map(|(key, value)| [key, value])),
        }
    }
}

/// A member of a value, by name or number.
#[derive(Clone, Debug)]
pub(super) struct MemberAccess {
    pub of: ExprNode,
    pub property: ExprNode,
    /// Whether it is written `?.`.
    pub optional: bool,
    /// Whether it is called.
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

/// An operator between two values. `binary` is `None` for operators with a node of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operator {
    pub precedence: u16,
    pub binary: Option<Binary>,
}

/// Returns the operator of a text. All operators except powers group from left to right.
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
    /// Returns the operator as messages have it.
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

    /// Whether several in a row apply together: `a < b < c`.
    pub(super) const fn is_comparison(self) -> bool {
        matches!(self, Binary::Less | Binary::More | Binary::LessOrEqual | Binary::MoreOrEqual)
    }
}

impl Unary {
    /// Returns the operator as messages have it.
    pub(super) const fn written(self) -> &'static str {
        match self {
            Unary::Not => "!",
            Unary::Minus => "-",
            Unary::Plus => "+",
        }
    }
}
