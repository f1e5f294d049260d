//! The stanzas of *rewrite* (CoreDNS `plugin/rewrite`, `newRule`).

use std::sync::Arc;

use super::matching::Expression;
use super::{Rule, RuleKind, cname, edns0, name, question, rcode, ttl};
use crate::corefile::{Arguments, Directive, Property, Token};
use crate::plugins::Context;
use crate::plugins::regexp::{self, Pattern};
use crate::wire::NameBuf;

/// The maximum number of rules of a server block. Each query is compared with all of them.
const MAX_RULES: usize = 100_000;
/// The sizes in bytes that a compiled expression is tried with, and counted as.
const SIZES: [usize; 4] = [16 * 1024, 128 * 1024, 1024 * 1024, 4 * 1024 * 1024];
/// The maximum size in bytes of all compiled expressions of a server block.
const MAX_EXPRESSIONS: usize = 64 * 1024 * 1024;

/// The rules of a server block, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Shared with the plugins of all sockets.
    pub(super) rules: Arc<[Rule]>,
}

/// An error in a rule.
#[derive(Clone, Debug)]
pub(super) struct RuleError {
    /// The index of the word, among those after the name of the rule; beyond the last one: a word is missing there.
    at: usize,
    pub(super) message: String,
    expected: String,
}

/// The words of a rule.
pub(super) struct Words<'a> {
    /// All words of the stanza.
    all: Vec<&'a Token>,
    /// The index of the first word after the name of the rule.
    start: usize,
    /// The bytes that compiled expressions may still take.
    left: &'a mut usize,
}

/// Reads the stanzas.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut rules = Vec::new();
    let mut left = MAX_EXPRESSIONS;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if rules.len() == MAX_RULES {
            line.ignore_rest();
            line.error_expected(&stanza.name, format!("more than {MAX_RULES} rules"), "fewer rules");
            break;
        }
        let mut all: Vec<&Token> = line.rest().iter().collect();
        // CoreDNS looks into the braces only where the line has no rule.
        if all.len() < 2 {
            line.body().iter().for_each(|property| flatten(property, &mut all));
        }
        let mut words = Words::new(all, &mut left);
        match rule(&mut words) {
            Ok(rule) => rules.push(rule),
            Err(error) => {
                let at = words.all.get(words.start + error.at).or(words.all.last());
                line.error_expected(at.copied().unwrap_or(&stanza.name), error.message, &error.expected);
                line.ignore_rest();
            }
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then(|| Config { rules: rules.into() })
}

/// Adds the words of a line and of the lines in its braces.
fn flatten<'a>(property: &'a Property, all: &mut Vec<&'a Token>) {
    all.push(&property.name);
    all.extend(&property.args);
    property.body.iter().flatten().for_each(|property| flatten(property, all));
}

/// Reads one rule (CoreDNS `newRule`).
fn rule(words: &mut Words<'_>) -> Result<Rule, RuleError> {
    const KINDS: &str = "name, type, class, ttl, rcode, cname or edns0";
    let Some(first) = words.all.first() else {
        return Err(words.missing("no rule type specified for rewrite", KINDS));
    };
    let mode = first.text.to_lowercase();
    let (stops, kind) = match mode.as_str() {
        "continue" | "stop" => {
            let Some(kind) = words.all.get(1) else {
                return Err(words.missing(&format!("{mode} rule must begin with a rule type"), KINDS));
            };
            words.start = 2;
            (mode == "stop", kind.text.to_lowercase())
        }
        _ => {
            words.start = 1;
            (true, mode)
        }
    };
    let kind = match kind.as_str() {
        "name" => RuleKind::Name(Box::new(name::parse(words)?)),
        "type" => RuleKind::Type(question::parse_type(words)?),
        "class" => RuleKind::Class(question::parse_class(words)?),
        "ttl" => RuleKind::Ttl(ttl::parse(words)?),
        "rcode" => RuleKind::Rcode(rcode::parse(words)?),
        "cname" => RuleKind::Cname(Box::new(cname::parse(words)?)),
        "edns0" => RuleKind::Edns(Box::new(edns0::parse(words)?)),
        "answer" => {
            words.start -= 1;
            return Err(words.wrong(0, "response rewrites must begin with a name rule", KINDS));
        }
        _ => {
            let message = format!("invalid rule type \"{}\"", words.all[0].text);
            words.start -= 1;
            return Err(words.wrong(0, message, KINDS));
        }
    };
    Ok(Rule { stops, kind })
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
    pub(super) fn expression(&mut self, at: usize) -> Result<Expression, RuleError> {
        let text = self.text(at);
        self.expression_of(at, text)
    }

    /// Compiles an expression; a word is its place for errors.
    pub(super) fn expression_of(&mut self, at: usize, text: &str) -> Result<Expression, RuleError> {
        const EXPECTED: &str = "a regular expression";
        let mut last = None;
        for size in SIZES {
            match regexp::compile_within(text, size) {
                Ok(_) if size > *self.left => {
                    let message = format!(
                        "the regular expressions of 'rewrite' take more than {MAX_EXPRESSIONS} bytes when compiled"
                    );
                    return Err(self.wrong(at, message, "fewer or simpler expressions"));
                }
                Ok(regex) => {
                    *self.left -= size;
                    return Ok(Expression::new(Pattern { text: text.to_owned(), regex }));
                }
                Err(error @ regexp::RegexpError::Large) => last = Some(error),
                Err(error) => return Err(self.wrong(at, error.to_string(), EXPECTED)),
            }
        }
        let message = last.map_or_else(String::new, |error| error.to_string());
        Err(self.wrong(at, message, EXPECTED))
    }
}
