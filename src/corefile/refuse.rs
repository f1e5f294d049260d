//! The words of the parser's refusals, apart from the grammar so that both can be read.

use super::Known;
use super::diagnostic::{Diagnostic, Stage};
use super::parse::{BRACE_ON_NEXT_LINE, Parser};
use super::source::Span;
use super::stream::Ahead;
use super::token::Token;

impl Parser<'_> {
    /// A name that is not a directive of this server.
    pub(super) fn error_unknown(&mut self, name: &Token, known: &Known, braced: bool) {
        let text = &name.text;
        let message = match known {
            Known::Yes => return,
            Known::No(_) => format!("Unknown directive '{text}'"),
            Known::Unsupported(_) => format!("Unsupported directive '{text}': CoreDNS has it, this server does not"),
            Known::External(_) => format!("Unknown directive '{text}': a plugin that is not part of CoreDNS itself"),
        };
        let mut diagnostic = Diagnostic::error(Stage::Parse, Some(name.span), message);
        match known {
            Known::Unsupported(Some(hint)) | Known::External(Some(hint)) => {
                diagnostic = diagnostic.expected(hint);
            }
            Known::No(_) if text.len() > 1 && text.ends_with('{') => {
                diagnostic = diagnostic.expected("white space before '{'");
            }
            Known::No(Some(suggestion)) => diagnostic.suggestion = Some(suggestion.clone()),
            // A zone where a directive must stand: the block before it lacks its end.
            _ if text.contains(['.', ':']) => {
                diagnostic = diagnostic.expected(if braced {
                    "a directive; if this starts a server block, the '}' of the one before it is missing"
                } else {
                    "a directive; a block without braces is the last of its file"
                });
            }
            _ => {}
        }
        self.stream.diagnostics.push(diagnostic);
    }

    /// A directive's `{` on the line after it.
    pub(super) fn brace_on_next_line(&mut self, name: &str, span: Span) {
        let message = format!("the '{{' of '{name}' is not on its line");
        let diagnostic = if BRACE_ON_NEXT_LINE.contains(&name) {
            Diagnostic::warning(Stage::Syntax, Some(span), message + "; CoreDNS takes it for something else")
        } else {
            Diagnostic::error(Stage::Syntax, Some(span), message)
        };
        self.stream.diagnostics.push(diagnostic.expected(format!("'{{' on the line of '{name}'")));
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
            let message = format!("Unexpected token '{}', expecting '}}'", self.stream.sources.snippet(last));
            let position = self.stream.sources.position(open);
            let expected = format!("'}}' to close the '{{' of line {}", position.line);
            let diagnostic = Diagnostic::error(Stage::Syntax, Some(last), message);
            self.stream.diagnostics.push(diagnostic.expected(expected));
            self.stream.stopped = true;
        }
    }

    /// A word where `expecting` must be.
    pub(super) fn error_syntax(&mut self, span: Span, expecting: &str) {
        let found = self.stream.sources.snippet(span);
        let message = format!("Unexpected token '{found}', expecting '{expecting}'");
        self.stream.diagnostics.push(Diagnostic::error(Stage::Syntax, Some(span), message));
    }
}
