//! The expression language of *template* and *view*: expr-lang, of which CoreDNS 1.15.0 has version 1.17.
//!
//! ```text
//! text ─ lex ─► tokens ─ parse ─► tree ─ check(names) ─► Expression ─ run(scope) ─► Value
//! ```
//!
//! Names and types are checked when the Corefile is read, with the texts of expr-lang's errors. Not here: times, dates and
//! durations, `$env`, and values that are functions. A run takes a bounded number of steps, and makes arrays and strings of
//! bounded size.

mod check;
pub mod environment;
mod functions;
mod lex;
mod parse;
mod run;
#[cfg(test)]
mod tests;
mod tree;
mod value;

pub use check::{Function, Names, Simple, Type};
pub use run::RunError;
pub use value::{Value, float};

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (1:{})", at + 1)]
pub struct CompileError {
    /// The character of the text, from 0.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Box<str>,
    node: tree::Node,
    /// What it evaluates to.
    pub result: Type,
}

impl PartialEq for Expression {
    /// Expressions are equal when their texts are.
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

/// Where an expression finds the values of names.
pub trait Scope {
    /// The value of a variable that [`Names`] has.
    fn variable(&self, name: &str) -> Value;
    /// Calls a function that [`Names`] has, with as many arguments of such types as it takes.
    fn call(&self, name: &str, arguments: &[Value]) -> Result<Value, String>;
}

impl Expression {
    /// Compiles an expression.
    pub fn compile(text: &str, names: &Names) -> Result<Expression, CompileError> {
        let mut node = parse::parse(text)?;
        let result = check::check(&mut node, names)?;
        Ok(Expression { text: text.into(), node, result })
    }

    /// Evaluates it.
    pub fn run(&self, scope: &dyn Scope) -> Result<Value, RunError> {
        run::run(&self.node, scope)
    }
}

/// Whether a word can be the name of a variable: an identifier that is neither a function nor a word of the language.
pub fn is_free_name(word: &str, names: &Names) -> bool {
    names.get(word).is_none() && !functions::is_reserved(word) && parse::is_name(word)
}
