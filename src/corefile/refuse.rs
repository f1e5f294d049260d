//! The words of the parser's refusals, apart from the grammar so that both can be read.

use super::Known;
use super::diagnostic::{Diagnostic, Stage};
use super::parse::Parser;
use super::source::Span;
use super::stream::Ahead;
use super::token::Token;

/// The most of a word that a message repeats, in characters.
const MAX_QUOTED: usize = 60;

/// Directives that may come several times in a block and for which CoreDNS takes almost any words for another of their
/// kind. So it accepts braces on the line after them, and words behind their braces, without what was meant.
const ANY_STANZA: [&str; 11] =
    ["acl", "any", "bufsize", "cancel", "chaos", "debug", "dns64", "log", "minimal", "reload", "whoami"];

/// Directives with which it does so as long as the braces are empty.
const EMPTY_STANZA: [&str; 3] = ["health", "loadbalance", "local"];

impl Parser<'_> {
    /// A name that is not a directive of this server.
    pub(super) fn error_unknown(&mut self, name: &Token, known: &Known, braced: bool) {
        let text = &cut(&name.text);
        let (message, hint) = match known {
            Known::Yes => return,
            Known::No(_) => (format!("Unknown directive '{text}'"), &None),
            Known::Unsupported(hint) => {
                (format!("Unsupported directive '{text}': CoreDNS has it, this server does not have it yet"), hint)
            }
            Known::External(hint) => {
                (format!("Unknown directive '{text}': a plugin that is not part of CoreDNS itself"), hint)
            }
        };
        let message = hint.as_ref().map_or(message.clone(), |hint| format!("{message}; {hint}"));
        let mut diagnostic = Diagnostic::error(Stage::Parse, Some(name.span), message);
        match known {
            Known::No(_) if text.len() > 1 && text.ends_with('{') => {
                diagnostic = diagnostic.expected("white space before '{'");
            }
            Known::No(Some(suggestion)) => diagnostic.suggestion = Some(suggestion.clone()),
            // A zone where a directive must stand: the block before it lacks its end.
            Known::No(None) if text.contains(['.', ':']) => {
                diagnostic = diagnostic.expected(if braced {
                    "a directive; if this starts a server block, the '}' of the one before it is missing"
                } else {
                    "a directive; a block without braces is the last of its file"
                });
            }
            Known::No(None) | Known::Yes | Known::Unsupported(_) | Known::External(_) => {}
        }
        self.stream.diagnostics.push(diagnostic);
    }

    /// A directive's `{` on the line after it, with what its braces held already read.
    pub(super) fn brace_on_next_line(&mut self, name: &str, open: Span, is_empty: bool) {
        let forgiven = ANY_STANZA.contains(&name) || is_empty && EMPTY_STANZA.contains(&name);
        let message = format!("the '{{' of '{name}' is not on its line");
        let diagnostic = if forgiven {
            let message = message + "; as in CoreDNS, what the braces hold has no effect";
            Diagnostic::warning(Stage::Syntax, Some(open), message)
        } else {
            Diagnostic::error(Stage::Syntax, Some(open), message)
        };
        self.stream.diagnostics.push(diagnostic.expected(format!("'{{' on the line of '{name}'")));
    }

    /// Words behind a directive's closing brace.
    pub(super) fn words_after_brace(&mut self, name: &str, span: Span) {
        let message = format!("Unexpected token '{}', expecting 'end of line'", self.quote(span));
        let forgiven = ANY_STANZA.contains(&name) || EMPTY_STANZA.contains(&name);
        self.stream.diagnostics.push(if forgiven {
            let message = message + "; as in CoreDNS, the rest of the line has no effect";
            Diagnostic::warning(Stage::Syntax, Some(span), message)
        } else {
            Diagnostic::error(Stage::Syntax, Some(span), message)
        });
    }

    /// A word as it is written, cut if it is long.
    fn quote(&self, span: Span) -> String {
        cut(self.stream.sources.snippet(span))
    }

    /// A `}` that closes nothing.
    pub(super) fn error_unopened(&mut self, at: Ahead) {
        let message = "Unexpected '}' because no matching opening brace";
        let diagnostic = Diagnostic::error(Stage::Parse, Some(at.span), message);
        self.stream.diagnostics.push(if at.line_start {
            diagnostic
        } else {
            diagnostic.expected("'}' on a line of its own")
        });
    }

    /// The file ends where `expected` is still missing; `span` is what asks for it.
    pub(super) fn error_eof(&mut self, span: Span, expected: impl Into<String>) {
        if !self.stream.stopped {
            let diagnostic = Diagnostic::error(Stage::Parse, Some(span), "Unexpected EOF");
            self.stream.diagnostics.push(diagnostic.expected(expected));
            self.stream.stopped = true;
        }
    }

    /// The file ends within the braces of a block or snippet.
    pub(super) fn error_unclosed(&mut self, open: Span) {
        if !self.stream.stopped {
            let last = self.stream.last.map_or(open, |last| last.span);
            let message = format!("Unexpected token '{}', expecting '}}'", self.quote(last));
            let position = self.stream.sources.position(open);
            let expected = format!("'}}' to close the '{{' of line {}", position.line);
            let diagnostic = Diagnostic::error(Stage::Syntax, Some(last), message);
            self.stream.diagnostics.push(diagnostic.expected(expected));
            self.stream.stopped = true;
        }
    }

    /// A word where `expecting` must be.
    pub(super) fn error_syntax(&mut self, span: Span, expecting: &str) {
        let message = format!("Unexpected token '{}', expecting '{expecting}'", self.quote(span));
        self.stream.diagnostics.push(Diagnostic::error(Stage::Syntax, Some(span), message));
    }
}

/// A text, cut if it is long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
