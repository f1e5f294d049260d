//! The tree that a Corefile is read into. Each word knows its place; the environment is already filled in, imports and
//! snippets are already in their places.

use std::fmt::Write as _;

use super::key::Key;
use super::source::{Sources, Span};
use super::token::Token;

/// A whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Corefile {
    /// The server blocks, in file order. Snippets are not among them.
    pub blocks: Vec<Block>,
    /// The texts that spans point into.
    pub sources: Sources,
}

/// A server block: what it serves and how.
#[derive(Clone, Debug)]
pub struct Block {
    /// At least one.
    pub keys: Vec<Key>,
    /// In file order; the same name may come several times. Only names that the caller knows.
    pub directives: Vec<Directive>,
    /// From the first key to the closing brace.
    pub span: Span,
}

/// A line of a server block with what belongs to it.
#[derive(Clone, Debug)]
pub struct Directive {
    /// The name of the plugin.
    pub name: Token,
    /// The rest of its line.
    pub args: Vec<Token>,
    /// What stands in its braces; none without braces.
    pub body: Option<Vec<Property>>,
    /// From the name to the closing brace or last argument.
    pub span: Span,
}

/// A line within the braces of a directive or of another property.
#[derive(Clone, Debug)]
pub struct Property {
    /// The first word of the line.
    pub name: Token,
    /// The rest of the line.
    pub args: Vec<Token>,
    /// What stands in its braces, one level deeper; none without braces.
    pub body: Option<Vec<Property>>,
}

impl Block {
    /// The zones of all keys, in order.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().flat_map(|key| &key.zones).map(String::as_str)
    }

    /// The directives of one name, in order.
    pub fn directives_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.directives.iter().filter(move |directive| directive.name.text == name)
    }
}

impl Corefile {
    /// The configuration without its spans, comments and spacing: two Corefiles with the same canonical text mean the
    /// same. For the hash that decides about a reload, and for tests. Not a Corefile itself: each word is escaped.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        for block in &self.blocks {
            let keys = block.keys.iter().map(|key| &key.token);
            write_line(&mut out, 0, keys, true);
            for Directive { name, args, body, .. } in &block.directives {
                write_line(&mut out, 1, std::iter::once(name).chain(args), body.is_some());
                write_body(&mut out, 1, body.as_deref());
            }
            out.push_str("}\n");
        }
        out
    }
}

/// Writes the properties of a body, if there is one, and its closing brace.
fn write_body(out: &mut String, depth: usize, body: Option<&[Property]>) {
    let Some(properties) = body else { return };
    for Property { name, args, body } in properties {
        write_line(out, depth + 1, std::iter::once(name).chain(args), body.is_some());
        write_body(out, depth + 1, body.as_deref());
    }
    out.extend(std::iter::repeat_n("  ", depth));
    out.push_str("}\n");
}

/// Writes words in one line, with an opening brace if asked.
fn write_line<'a>(out: &mut String, depth: usize, words: impl Iterator<Item = &'a Token>, brace: bool) {
    out.extend(std::iter::repeat_n("  ", depth));
    for (index, word) in words.enumerate() {
        let separator = if index > 0 { " " } else { "" };
        let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\' | '#');
        if word.text.is_empty() || matches!(word.text.as_str(), "{" | "}") || word.text.contains(odd) {
            // Writing to a String does not fail.
            let _ = write!(out, "{separator}{:?}", word.text);
        } else {
            let _ = write!(out, "{separator}{}", word.text);
        }
    }
    out.push_str(if brace { " {\n" } else { "\n" });
}
