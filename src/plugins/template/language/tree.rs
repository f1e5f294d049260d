//! The tree of a template. Its text is a template again, with the spaces and names of Go's
//! `text/template/parse` `Node.String`: a label of metrics has this text.

use std::fmt::{self, Display, Formatter};

use super::functions::TemplateFunction;
use super::quote::quote;

/// A template's text or part of it.
pub(super) type NodeList = Box<[TemplateNode]>;
/// The names of fields, from left to right.
pub(super) type FieldPath = Box<[Box<str>]>;

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TemplateNode {
    /// Plain text.
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

/// The arms of a condition; the first whose pipeline is true is used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arms {
    pub arms: Box<[(Pipe, NodeList)]>,
    pub otherwise: Option<NodeList>,
}

/// A loop.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub pipe: Pipe,
    pub list: NodeList,
    pub otherwise: Option<NodeList>,
}

/// A call of a template that is defined in the same text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub at: u32,
    pub name: Box<str>,
    pub pipe: Option<Pipe>,
}

/// Commands. The value of each is the last argument of the next.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pipe {
    pub at: u32,
    /// Whether the variables are assigned, not declared.
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

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operand {
    /// The position in the text, in bytes.
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
    Function(TemplateFunction),
    /// `.A.B`
    Field(FieldPath),
    /// `$x.A.B`: its name with the dollar sign, and fields.
    Variable(Box<str>, FieldPath),
    /// `(pipeline)`
    Pipe(Box<Pipe>),
    /// `(pipeline).A.B`
    Chain(Box<Operand>, FieldPath),
}

/// A string: its text and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Literal {
    pub written: Box<str>,
    pub value: Box<[u8]>,
}

/// A number: its text and its value as each kind that it can be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    pub written: Box<str>,
    pub int: Option<i64>,
    pub uint: Option<u64>,
    pub float: Option<f64>,
}

impl Display for TemplateNode {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            TemplateNode::Text(text) => f.write_str(text),
            TemplateNode::Action(pipe) => write!(f, "{{{{{pipe}}}}}"),
            TemplateNode::If(arms) => arms.write(f, "if"),
            TemplateNode::With(arms) => arms.write(f, "with"),
            TemplateNode::Range(range) => {
                write!(f, "{{{{range {}}}}}{}", range.pipe, Written(&range.list))?;
                write_otherwise(f, range.otherwise.as_ref())?;
                f.write_str("{{end}}")
            }
            TemplateNode::Template(call) => {
                write!(f, "{{{{template {}", quote(call.name.as_bytes()))?;
                if let Some(pipe) = &call.pipe {
                    write!(f, " {pipe}")?;
                }
                f.write_str("}}")
            }
            TemplateNode::Break => f.write_str("{{break}}"),
            TemplateNode::Continue => f.write_str("{{continue}}"),
        }
    }
}

/// Formats a list.
pub(super) struct Written<'a>(pub &'a [TemplateNode]);

impl Display for Written<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|node| write!(f, "{node}"))
    }
}

fn write_otherwise(f: &mut Formatter<'_>, otherwise: Option<&NodeList>) -> fmt::Result {
    otherwise.map_or(Ok(()), |list| write!(f, "{{{{else}}}}{}", Written(list)))
}

impl Arms {
    /// Formats arms as Go does, which nests those after the first in its `else`.
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
    /// Formats an operand within an expression: a pipeline is in parentheses.
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
