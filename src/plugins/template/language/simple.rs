//! Templates that only insert fields: a list of texts and fields, which needs no run.

use super::GoTemplate;
use super::functions::TemplateFunction;
use super::tree::{Operand, Pipe, TemplateNode, Term};

/// A part of such a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimplePart<'t> {
    /// A text.
    Text(&'t str),
    /// `.A.B`
    Field(&'t [Box<str>]),
    /// `index .A.B NUMBER`
    Index(&'t [Box<str>], usize),
}

impl GoTemplate {
    /// Returns the parts of the template, if it only inserts fields.
    pub fn simple_parts(&self) -> Option<Vec<SimplePart<'_>>> {
        let part = |node| match node {
            &TemplateNode::Text(ref text) => Some(SimplePart::Text(text)),
            TemplateNode::Action(pipe) => simple(pipe),
            _ => None,
        };
        self.list.iter().map(part).collect()
    }
}

fn simple(pipe: &Pipe) -> Option<SimplePart<'_>> {
    let ([command], []) = (&*pipe.commands, &*pipe.variables) else { return None };
    match (&command.first.term, &*command.arguments) {
        (Term::Field(fields), []) => Some(SimplePart::Field(fields)),
        (
            Term::Function(TemplateFunction::Index),
            [Operand { term: Term::Field(fields), .. }, Operand { term: Term::Number(number), .. }],
        ) => {
            let is_decimal = number.written.bytes().all(|byte| byte.is_ascii_digit());
            Some(SimplePart::Index(fields, number.written.parse().ok().filter(|_| is_decimal)?))
        }
        _ => None,
    }
}
