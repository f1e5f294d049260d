//! `type` and `class`: change the type or the class of a query. The client gets its own question back.

use super::words::{RuleError, Words};
use crate::wire::{Class, Type};

/// A change of one value into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QuestionChange<T> {
    from: T,
    to: T,
}

impl<T: Copy + PartialEq> QuestionChange<T> {
    /// Changes the value if it is the one. Returns whether it is.
    pub(super) fn apply(&self, value: &mut T) -> bool {
        let applies = *value == self.from;
        if applies {
            *value = self.to;
        }
        applies
    }
}

/// Reads the words after `type` (CoreDNS `newTypeRule`).
pub(super) fn parse_type(words: &mut Words<'_>) -> Result<QuestionChange<Type>, RuleError> {
    // Only names: CoreDNS knows no TYPE65280.
    let read =
        |text: &str| Type::from_mnemonic(text).filter(|rtype| rtype.mnemonic().is_some_and(|name| same(name, text)));
    parse(words, "type", "a record type, such as AAAA", read)
}

/// Reads the words after `class` (CoreDNS `newClassRule`).
pub(super) fn parse_class(words: &mut Words<'_>) -> Result<QuestionChange<Class>, RuleError> {
    let read =
        |text: &str| Class::from_mnemonic(text).filter(|class| class.mnemonic().is_some_and(|name| same(name, text)));
    parse(words, "class", "IN, CS, CH, HS, NONE or ANY", read)
}

fn same(name: &str, text: &str) -> bool {
    name.eq_ignore_ascii_case(text)
}

fn parse<T>(
    words: &mut Words<'_>, what: &str, expected: &str, read: impl Fn(&str) -> Option<T>,
) -> Result<QuestionChange<T>, RuleError> {
    if words.rest().len() != 2 {
        let message = format!("{what} rules must have exactly two arguments");
        return Err(words.wrong_count(2, message, expected));
    }
    let value = |at| {
        let text = words.text(at);
        read(text).ok_or_else(|| words.wrong(at, format!("invalid {what} \"{}\"", text.to_uppercase()), expected))
    };
    Ok(QuestionChange { from: value(0)?, to: value(1)? })
}
