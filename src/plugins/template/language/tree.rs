//! What a template says, as a tree. Written out, it is a template again, with the spaces and names that Go gives it
//! (`text/template/parse` `Node.String`): a label of metrics has that text.

use std::fmt::{self, Display, Formatter};

use super::functions::Function;
use super::quote::quote;

/// A template's text or part of it.
pub(super) type List = Box<[Node]>;
/// The names of fields, from left to right.
pub(super) type Fields = Box<[Box<str>]>;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// Text as it stands.
    Text(Box<str>),
    /// `{{pipeline}}`
    Action(Pipe),
    /// `{{if …}}…{{else if …}}…{{else}}…{{end}}`
    If(Arms),
    /// The same with `with`, which sets the dot.
    With(Arms),
    /// `{{range …}}…{{else}}…{{end}}`
    Range(Box<Range>),
    /// `{{template "name" pipeline}}`, or a block.
    Template(Box<Call>),
    /// `{{break}}`
    Break,
    /// `{{continue}}`
    Continue,
}

/// The arms of a condition; the first that is true counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arms {
    pub arms: Box<[(Pipe, List)]>,
    pub otherwise: Option<List>,
}

/// A loop.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub pipe: Pipe,
    pub list: List,
    pub otherwise: Option<List>,
}

/// A call of a template that is defined in the same text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub at: u32,
    pub name: Box<str>,
    pub pipe: Option<Pipe>,
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pipe {
    pub at: u32,
    /// The variables are set, not declared.
    pub assigns: bool,
    pub variables: Box<[Box<str>]>,
    pub commands: Box<[Command]>,
}

/// A function or value with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Command {
    pub at: u32,
    pub first: Operand,
    pub arguments: Box<[Operand]>,
}

/// A value, or what one is made from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operand {
    /// The byte where it stands in the text.
    pub at: u32,
    pub term: Term,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Number(Box<Number>),
    Text(Box<Literal>),
    Function(Function),
    /// `.A.B`
    Field(Fields),
    /// `$x.A.B`: its name with the dollar sign, and fields.
    Variable(Box<str>, Fields),
    /// `(pipeline)`
    Pipe(Box<Pipe>),
    /// `(pipeline).A.B`
    Chain(Box<Operand>, Fields),
}

/// A string, as written and as meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    pub written: Box<str>,
    pub value: Box<[u8]>,
}

/// A number, as written and as the kinds of number that it can be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    pub written: Box<str>,
    pub int: Option<i64>,
    pub uint: Option<u64>,
    pub float: Option<f64>,
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Node::Text(text) => f.write_str(text),
            Node::Action(pipe) => write!(f, "{{{{{pipe}}}}}"),
            Node::If(arms) => arms.write(f, "if"),
            Node::With(arms) => arms.write(f, "with"),
            Node::Range(range) => {
                write!(f, "{{{{range {}}}}}{}", range.pipe, Written(&range.list))?;
                write_otherwise(f, range.otherwise.as_ref())?;
                f.write_str("{{end}}")
            }
            Node::Template(call) => {
                write!(f, "{{{{template {}", quote(call.name.as_bytes()))?;
                if let Some(pipe) = &call.pipe {
                    write!(f, " {pipe}")?;
                }
                f.write_str("}}")
            }
            Node::Break => f.write_str("{{break}}"),
            Node::Continue => f.write_str("{{continue}}"),
        }
    }
}

/// A list, written out.
pub(super) struct Written<'a>(pub &'a [Node]);

impl Display for Written<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|node| write!(f, "{node}"))
    }
}

fn write_otherwise(f: &mut Formatter<'_>, otherwise: Option<&List>) -> fmt::Result {
    otherwise.map_or(Ok(()), |list| write!(f, "{{{{else}}}}{}", Written(list)))
}

impl Arms {
    /// Go nests what follows the first arm in its `else`.
    fn write(&self, f: &mut Formatter<'_>, word: &str) -> fmt::Result {
        for (at, (pipe, list)) in self.arms.iter().enumerate() {
            if at > 0 {
                f.write_str("{{else}}")?;
            }
            write!(f, "{{{{{word} {pipe}}}}}{}", Written(list))?;
        }
        write_otherwise(f, self.otherwise.as_ref())?;
        self.arms.iter().try_for_each(|_| f.write_str("{{end}}"))
    }
}

impl Display for Pipe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, variable) in self.variables.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{variable}")?;
        }
        if !self.variables.is_empty() {
            f.write_str(if self.assigns { " = " } else { " := " })?;
        }
        for (at, command) in self.commands.iter().enumerate() {
            let bar = if at > 0 { " | " } else { "" };
            write!(f, "{bar}{command}")?;
        }
        Ok(())
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.first.write_within(f)?;
        for argument in &self.arguments {
            f.write_str(" ")?;
            argument.write_within(f)?;
        }
        Ok(())
    }
}

impl Operand {
    /// Writes it as part of something; a pipeline is then in parentheses.
    fn write_within(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.term {
            Term::Pipe(pipe) => write!(f, "({pipe})"),
            _ => write!(f, "{self}"),
        }
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut fields: &[Box<str>] = &[];
        match &self.term {
            Term::Dot => f.write_str(".")?,
            Term::Nil => f.write_str("nil")?,
            Term::Bool(value) => write!(f, "{value}")?,
            Term::Number(number) => f.write_str(&number.written)?,
            Term::Text(literal) => f.write_str(&literal.written)?,
            Term::Function(function) => f.write_str(function.name())?,
            Term::Field(names) => fields = names,
            Term::Variable(name, names) => {
                f.write_str(name)?;
                fields = names;
            }
            Term::Pipe(pipe) => write!(f, "{pipe}")?,
            Term::Chain(operand, names) => {
                operand.write_within(f)?;
                fields = names;
            }
        }
        fields.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}
