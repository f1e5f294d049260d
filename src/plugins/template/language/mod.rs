//! The language of templates: Go's `text/template`, without its dependence on Go values.
//!
//! ```text
//! text ─ lex ─► tokens ─ parse ─► tree ─ run(data) ─► bytes
//! ```
//!
//! All of the syntax is here: actions, pipelines, variables, conditions, loops, definitions and blocks, trim markers,
//! comments. Not here: complex numbers, and values that are functions. Whatever a template says, a run takes a bounded
//! number of steps, writes a bounded number of bytes and is nested to a bounded depth.

mod format;
mod functions;
mod lex;
mod output;
mod parse;
mod quote;
mod run;
#[cfg(test)]
mod tests;
mod tree;
mod unknown;
mod value;

pub use output::{MAX_OUTPUT, MAX_STEPS};
pub use parse::ParseError;
pub use value::{List, Map, Member, Object, Parameter, Printed, Sequence, Texts, Unsigned, Value};

use tree::{List as Nodes, Written};

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    name: Box<str>,
    text: Box<str>,
    list: Nodes,
    /// Templates that the text defines, by name.
    defined: Vec<(Box<str>, Nodes)>,
}

/// Why a run ended early, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

impl PartialEq for Template {
    /// Templates are equal when their names and texts are.
    fn eq(&self, other: &Template) -> bool {
        (&self.name, &self.text) == (&other.name, &other.text)
    }
}

impl Template {
    /// Parses a template, which errors call `name`.
    pub fn parse(name: &str, text: &str) -> Result<Template, ParseError> {
        let parse::Parsed { list, defined } = parse::parse(name, text)?;
        Ok(Template { name: name.into(), text: text.into(), list, defined })
    }

    /// Runs it with `data` as its dot, and adds what it writes to `out`.
    pub fn run<'a>(&'a self, data: Value<'a>, out: &mut Vec<u8>) -> Result<(), RunError> {
        run::run(self, data, out)
    }

    /// The text, where it is the same whatever the data.
    pub fn constant(&self) -> Option<&str> {
        match &*self.list {
            [] => Some(""),
            [tree::Node::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The first field of the data that the template uses and that is none of these.
    pub fn unknown_field(&self, known: &[&str]) -> Option<String> {
        unknown::field(&self.list, known)
    }

    /// The text as Go writes the tree out, which is a label of metrics.
    pub fn written(&self) -> String {
        Written(&self.list).to_string()
    }

    /// The template of a name: one that is defined here, or this one.
    fn defined(&self, name: &str) -> Option<(&str, &Nodes)> {
        if *self.name == *name {
            return Some((&self.name, &self.list));
        }
        self.defined.iter().find(|(defined, _)| **defined == *name).map(|(name, list)| (&**name, list))
    }
}
