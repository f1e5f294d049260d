//! The expression language of *template* and *view*: expr-lang, of which CoreDNS 1.15.0 has version 1.17.
//!
//! ```text
//! text ─ lex ─► tokens ─ parse ─► tree ─ check(names) ─► Expression ─ run(scope) ─► Value
//! ```
//!
//! Names and types are checked when the Corefile is read; errors have expr-lang's texts. Not supported: times, dates
//! and durations, `$env`, and values that are functions. The steps of a run and the sizes of its arrays and strings are
//! limited.

mod check;
mod condition;
pub mod environment;
mod error;
mod functions;
mod lex;
mod parse;
mod run;
mod scope;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;

pub use condition::QueryCondition;
pub use error::{CompileError, EvaluationError};
pub use scope::ExprScope;
pub use types::{ExprFunction, KnownNames, Simple, Type};
pub use value::{ExprValue, float};

use crate::corefile::{Arguments, Diagnostic, Stage, Token};

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Box<str>,
    node: tree::ExprNode,
    /// The type of its value.
    pub result: Type,
}

impl PartialEq for Expression {
    /// Compares the texts.
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

impl Expression {
    /// Compiles an expression.
    pub fn compile(text: &str, names: &KnownNames) -> Result<Expression, CompileError> {
        let mut node = parse::parse(text)?;
        let result = check::check(&mut node, names)?;
        Ok(Expression { text: text.into(), node, result })
    }

    /// Compiles the expression that the words of a line form. An error is reported at its place; its message starts
    /// with `context`.
    pub fn read(
        words: &[Token], names: &KnownNames, context: &str, line: &mut Arguments<'_, '_>,
    ) -> Option<Expression> {
        let text = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        match Expression::compile(&text, names) {
            Ok(expression) => Some(expression),
            Err(CompileError { at, message }) => {
                let at = text.char_indices().nth(at).map_or(text.len(), |(at, _)| at);
                let span = Token::span_in_words(words, at).unwrap_or(line.name_token().span);
                line.push(Diagnostic::error(Stage::Parse, Some(span), format!("{context}{message}")));
                None
            }
        }
    }

    /// Evaluates the expression.
    pub fn run(&self, scope: &dyn ExprScope) -> Result<ExprValue, EvaluationError> {
        run::run(&self.node, scope)
    }
}

/// Whether a word can be the name of a variable: an identifier that is neither a function nor a word of the language.
pub fn is_free_name(word: &str, names: &KnownNames) -> bool {
    names.get(word).is_none() && !functions::is_reserved(word) && parse::is_name(word)
}
