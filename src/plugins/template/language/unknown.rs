//! Looks for fields that the data of a template does not have, as far as its text tells: a warning is better than queries
//! that fail.

use super::tree::{Arms, Command, Node, Operand, Pipe, Term};

/// The first unknown field of the data in a list whose dot is the data.
pub(super) fn field(list: &[Node], known: &[&str]) -> Option<String> {
    list.iter().find_map(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => None,
        Node::Action(pipe) => in_pipe(pipe, known),
        Node::If(Arms { arms, otherwise }) => {
            let arms = arms.iter().find_map(|(pipe, list)| in_pipe(pipe, known).or_else(|| field(list, known)));
            arms.or_else(|| field(otherwise.as_deref().unwrap_or_default(), known))
        }
        // Within these the dot is something else.
        Node::With(Arms { arms, otherwise }) => {
            let pipes = arms.iter().find_map(|(pipe, _)| in_pipe(pipe, known));
            pipes.or_else(|| field(otherwise.as_deref().unwrap_or_default(), known))
        }
        Node::Range(range) => {
            in_pipe(&range.pipe, known).or_else(|| field(range.otherwise.as_deref().unwrap_or_default(), known))
        }
        Node::Template(call) => call.pipe.as_ref().and_then(|pipe| in_pipe(pipe, known)),
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
