//! The language of templates: Go's `text/template`, without Go values.
//!
//! ```text
//! text ─ lex ─► tokens ─ parse ─► tree ─ run(data) ─► bytes
//! ```
//!
//! The syntax is complete: actions, pipelines, variables, conditions, loops, definitions and blocks, trim markers,
//! comments. Not supported: complex numbers, and values that are functions. The steps, the output and the nesting of a
//! run are limited.

mod format;
mod functions;
mod lex;
mod output;
mod parse;
mod parsed;
mod quote;
mod run;
mod simple;
#[cfg(test)]
mod tests;
mod tree;
mod unknown;
mod value;

pub use output::{MAX_OUTPUT, MAX_STEPS};
pub use parse::ParseError;
pub use parsed::{GoTemplate, TemplateError};
pub use simple::SimplePart;
pub use value::{
    ListValue, Map, ObjectMember, Parameter, Printed, Sequence, Structure, TemplateValue, TextMap, Unsigned,
};

use tree::Written;

impl PartialEq for GoTemplate {
    /// Compares names and texts.
    fn eq(&self, other: &GoTemplate) -> bool {
        (&self.name, &self.text) == (&other.name, &other.text)
    }
}

impl GoTemplate {
    /// Parses a template. Errors contain `name`.
    pub fn parse(name: &str, text: &str) -> Result<GoTemplate, ParseError> {
        let parse::Parsed { list, defined } = parse::parse(name, text)?;
        Ok(GoTemplate { name: name.into(), text: text.into(), list, defined })
    }

    /// Runs the template with `data` as its dot, and appends its output to `out`.
    pub fn run<'a>(&'a self, data: TemplateValue<'a>, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        run::run(self, data, out)
    }

    /// Returns the output, if it is the same for all data.
    pub fn constant(&self) -> Option<&str> {
        match &*self.list {
            [] => Some(""),
            [tree::TemplateNode::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns the first field of the data that the template uses and that is not among these.
    pub fn unknown_field(&self, known: &[&str]) -> Option<String> {
        unknown::field(&self.list, known)
    }

    /// Returns the text in Go's spelling of the tree, which is a label of metrics.
    pub fn written(&self) -> String {
        Written(&self.list).to_string()
    }
}
