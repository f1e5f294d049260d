//! The words of a rule, and errors that refer to them.

use super::matching::MatchExpression;
use crate::corefile::Token;
use crate::plugins::regexp::{self, Pattern};
use crate::wire::NameBuf;

/// The sizes in bytes that a compiled expression is tried with, and counted as.
const SIZES: [usize; 4] = [16 * 1024, 128 * 1024, 1024 * 1024, 4 * 1024 * 1024];
/// The maximum size in bytes of all compiled expressions of a server block.
pub(super) const MAX_EXPRESSIONS: usize = 64 * 1024 * 1024;

/// An error in a rule.
#[derive(Clone, Debug)]
pub(super) struct RuleError {
    /// The index of the word, among those after the name of the rule; beyond the last one: a word is missing there.
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) expected: String,
}

/// The words of a rule.
pub(super) struct Words<'a> {
    /// All words of the stanza.
    pub(super) all: Vec<&'a Token>,
    /// The index of the first word after the name of the rule.
    pub(super) start: usize,
    /// The bytes that compiled expressions may still take.
    left: &'a mut usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(all: Vec<&'a Token>, left: &'a mut usize) -> Words<'a> {
        Words { all, start: 0, left }
    }

    /// Returns the words after the name of the rule.
    pub(super) fn rest(&self) -> &[&'a Token] {
        self.all.get(self.start..).unwrap_or_default()
    }

    /// Returns the text of one of them; empty if there are fewer.
    pub(super) fn text(&self, at: usize) -> &'a str {
        self.all.get(self.start + at).map_or("", |word| &word.text)
    }

    /// Returns the error that a word is wrong.
    pub(super) fn wrong(&self, at: usize, message: impl Into<String>, expected: &str) -> RuleError {
        RuleError { at, message: message.into(), expected: expected.to_owned() }
    }

    /// Returns the error that words are missing after the last one.
    pub(super) fn missing(&self, message: &str, expected: &str) -> RuleError {
        self.wrong(self.rest().len(), message, expected)
    }

    /// Returns the error that there are more or fewer words than `count`.
    pub(super) fn wrong_count(&self, count: usize, message: impl Into<String>, expected: &str) -> RuleError {
        self.wrong(count.min(self.rest().len()), message, expected)
    }

    /// Checks that a word is a name: queries that match the rule would all fail.
    pub(super) fn check_name(&self, at: usize, name: &str) -> Result<(), RuleError> {
        match NameBuf::from_text(name) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.wrong(at, format!("invalid name '{}': {error}", self.text(at)), "a domain name")),
        }
    }

    /// Compiles a word as an expression.
    pub(super) fn expression(&mut self, at: usize) -> Result<MatchExpression, RuleError> {
        let text = self.text(at);
        self.expression_of(at, text)
    }

    /// Compiles an expression; a word is its place for errors.
    pub(super) fn expression_of(&mut self, at: usize, text: &str) -> Result<MatchExpression, RuleError> {
        const EXPECTED: &str = "a regular expression";
        let mut last = None;
        for size in SIZES {
            if size > *self.left {
                let message = format!(
                    "the regular expressions of 'rewrite' take more than {MAX_EXPRESSIONS} bytes when compiled"
                );
                return Err(self.wrong(at, message, "fewer or simpler expressions"));
            }
            match regexp::compile_within(text, size) {
                Ok(regex) => {
                    *self.left -= size;
                    return Ok(MatchExpression::new(Pattern::new(text.to_owned(), regex)));
                }
                Err(error @ regexp::RegexpError::Large) => last = Some(error),
                Err(error) => return Err(self.wrong(at, error.to_string(), EXPECTED)),
            }
        }
        // What is refused counts too, so that thousands of such expressions take no time.
        *self.left -= SIZES.last().copied().unwrap_or_default().min(*self.left);
        let message = last.map_or_else(String::new, |error| error.to_string());
        Err(self.wrong(at, message, EXPECTED))
    }
}
