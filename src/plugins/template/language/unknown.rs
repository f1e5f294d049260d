//! Finds fields that the data of a template does not have, so that there is a warning when the Corefile is read, before
//! queries fail.

use super::tree::{Arms, Command, Operand, Pipe, TemplateNode, Term};

/// Returns the first unknown field of the data in a list whose dot is the data.
pub(super) fn field(list: &[TemplateNode], known: &[&str]) -> Option<String> {
    list.iter().find_map(|node| match node {
        TemplateNode::Text(_) | TemplateNode::Break | TemplateNode::Continue => None,
        TemplateNode::Action(pipe) => in_pipe(pipe, known),
        TemplateNode::If(Arms { arms, otherwise }) => {
            let arms = arms.iter().find_map(|(pipe, list)| in_pipe(pipe, known).or_else(|| field(list, known)));
            arms.or_else(|| field(otherwise.as_deref().unwrap_or_default(), known))
        }
        // Within these the dot is another value.
        TemplateNode::With(Arms { arms, otherwise }) => {
            let pipes = arms.iter().find_map(|(pipe, _)| in_pipe(pipe, known));
            pipes.or_else(|| field(otherwise.as_deref().unwrap_or_default(), known))
        }
        TemplateNode::Range(range) => {
            in_pipe(&range.pipe, known).or_else(|| field(range.otherwise.as_deref().unwrap_or_default(), known))
        }
        TemplateNode::Template(call) => call.pipe.as_ref().and_then(|pipe| in_pipe(pipe, known)),
    })
}

fn in_pipe(pipe: &Pipe, known: &[&str]) -> Option<String> {
    pipe.commands.iter().find_map(|Command { first, arguments, .. }| {
        std::iter::once(first).chain(arguments).find_map(|operand| in_operand(operand, known))
    })
}

fn in_operand(operand: &Operand, known: &[&str]) -> Option<String> {
    match &operand.term {
        Term::Field(fields) => {
            fields.first().filter(|first| !known.contains(&&***first)).map(|first| first.to_string())
        }
        Term::Pipe(pipe) => in_pipe(pipe, known),
        Term::Chain(inner, _) => in_operand(inner, known),
        _ => None,
    }
}
