//! The syntax tree of a Corefile. Every token has its span. Environment variables, imports and snippets are already
//! expanded.

use std::fmt::Write as _;

use super::key::BlockKey;
use super::source::{Sources, Span};
use super::token::Token;

/// A parsed Corefile.
#[derive(Clone, Debug, Default)]
pub struct Corefile {
    /// The server blocks, in file order, without snippets.
    pub blocks: Vec<Block>,
    /// The texts that spans refer to.
    pub sources: Sources,
}

/// A server block: keys and directives.
#[derive(Clone, Debug)]
pub struct Block {
    /// At least one.
    pub keys: Vec<BlockKey>,
    /// In file order; a name may occur several times. Only names that are [`super::Known::Yes`].
    pub directives: Vec<Directive>,
    /// From the first key to the closing brace.
    pub span: Span,
}

/// A directive: a line of a server block, and its body.
#[derive(Clone, Debug)]
pub struct Directive {
    /// The name of the plugin.
    pub name: Token,
    /// The rest of the line.
    pub args: Vec<Token>,
    /// The lines in braces; `None` without braces.
    pub body: Option<Vec<Property>>,
    /// From the name to the closing brace or last argument.
    pub span: Span,
}

/// A line in the body of a directive or of another property.
#[derive(Clone, Debug)]
pub struct Property {
    /// The first word of the line.
    pub name: Token,
    /// The rest of the line.
    pub args: Vec<Token>,
    /// Whether the first word is the name of a directive, so that a line that its directive does not know belongs to
    /// the server block.
    pub is_directive: bool,
    /// The lines in braces, one level deeper; `None` without braces.
    pub body: Option<Vec<Property>>,
}

impl Block {
    /// Returns the zones of all keys, in order.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().flat_map(|key| &key.zones).map(String::as_str)
    }

    /// Returns the directives with a name, in order.
    pub fn directives_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.directives.iter().filter(move |directive| directive.name.text == name)
    }
}

impl Corefile {
    /// Returns the configuration without spans, comments and spacing: Corefiles with equal canonical text are
    /// equivalent. For the digest that a reload compares, and for tests. The result is not a Corefile, since every
    /// token is escaped.
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

/// Writes the properties of a body, if any, and the closing brace.
fn write_body(out: &mut String, depth: usize, body: Option<&[Property]>) {
    let Some(properties) = body else { return };
    for Property { name, args, body, .. } in properties {
        write_line(out, depth + 1, std::iter::once(name).chain(args), body.is_some());
        write_body(out, depth + 1, body.as_deref());
    }
    out.extend(std::iter::repeat_n("  ", depth));
    out.push_str("}\n");
}

/// Writes tokens on one line, with an opening brace if `brace`.
fn write_line<'a>(out: &mut String, depth: usize, words: impl Iterator<Item = &'a Token>, brace: bool) {
    out.extend(std::iter::repeat_n("  ", depth));
    for (index, word) in words.enumerate() {
        let separator = if index > 0 { " " } else { "" };
        let needs_escape = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\\' | '#');
        if word.text.is_empty() || matches!(word.text.as_str(), "{" | "}") || word.text.contains(needs_escape) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{separator}{:?}", word.text);
        } else {
            let _ = write!(out, "{separator}{}", word.text);
        }
    }
    out.push_str(if brace { " {\n" } else { "\n" });
}
