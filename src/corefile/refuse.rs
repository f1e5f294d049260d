//! The parser's error messages, separate from the grammar.

use super::diagnostic::{Diagnostic, DiagnosticSeverity, Stage};
use super::parse::Known;
use super::parse::Parser;
use super::source::Span;
use super::stream::Lookahead;
use super::token::Token;

/// What is expected instead of a comment as in other languages.
pub(super) const FOREIGN_COMMENT_EXPECTED: &str = "'#' in front of a comment";

/// The maximum number of characters of a token in a message.
const MAX_QUOTED: usize = 60;

/// Directives that may be used several times in a block, and for which CoreDNS parses almost any tokens as another use.
/// Therefore it accepts braces on the line after them, and tokens after their braces, both without an effect.
const ANY_STANZA: [&str; 11] =
    ["acl", "any", "bufsize", "cancel", "chaos", "debug", "dns64", "log", "minimal", "reload", "whoami"];

/// Directives for which it does so if the braces are empty.
const EMPTY_STANZA: [&str; 3] = ["health", "loadbalance", "local"];

impl Parser<'_> {
    /// Reports a name that is not a directive of this server.
    pub(super) fn error_unknown(&mut self, name: &Token, known: &Known, braced: bool) {
        let text = &shorten(&name.text);
        let (message, hint) = match known {
            Known::Yes => return,
            Known::No(_) | Known::Property(_) => (format!("Unknown directive '{text}'"), &None),
            Known::Removed(hint) => (format!("Unknown directive '{text}': {hint}"), &None),
            Known::Unsupported(hint) => {
                (format!("Unsupported directive '{text}': this server does not implement it"), hint)
            }
            Known::External(hint) => {
                (format!("Unknown directive '{text}': an external plugin, not part of CoreDNS"), hint)
            }
        };
        let message = hint.as_ref().map_or(message.clone(), |hint| format!("{message}; {hint}"));
        let mut diagnostic = Diagnostic::error(Stage::Parse, Some(name.span), message);
        let diagnostics = &mut *self.stream.diagnostics;
        match known {
            Known::No(_) if text.len() > 1 && text.ends_with('{') => {
                diagnostic = diagnostic.expected("white space before '{'");
            }
            Known::No(similar) if text.len() > 1 && text.ends_with(';') => {
                diagnostic = diagnostic.expected("one directive a line, without ';'");
                diagnostic.suggestion = diagnostics.suggestion_for(&diagnostic, || similar(&name.text));
            }
            Known::No(_) if text.contains('=') => diagnostic = diagnostic.expected("white space in the place of '='"),
            Known::No(similar) => {
                diagnostic.suggestion = diagnostics.suggestion_for(&diagnostic, || similar(&name.text));
                // A zone in the place of a directive: the closing brace of the previous block is missing.
                if diagnostic.suggestion.is_none() && text.contains(['.', ':']) {
                    diagnostic = diagnostic.expected(if braced {
                        "a directive; if this starts a server block, the '}' of the previous one is missing"
                    } else {
                        "a directive; a block without braces must be the last one of its file"
                    });
                }
            }
            Known::Property(of) => diagnostic = diagnostic.expected(format!("'{text}' within the braces of {of}")),
            Known::Yes | Known::Removed(_) | Known::Unsupported(_) | Known::External(_) => {}
        }
        diagnostics.push(diagnostic);
    }

    /// Reports a line that begins as comments of other languages do, and skips it. CoreDNS reads it as zones or as a
    /// directive, which is harmless only at the end of the file.
    pub(super) fn report_foreign_comment(&mut self, word: &Token) {
        while self.stream.peek().is_some_and(|ahead| !ahead.line_start) && self.stream.next_raw().is_some() {}
        let start = if word.text.starts_with(';') { ";" } else { &word.text[..2] };
        let message = format!("'{start}' does not begin a comment");
        let is_last = self.stream.peek().is_none();
        let severity = if is_last { DiagnosticSeverity::Warning } else { DiagnosticSeverity::Error };
        let diagnostic = Diagnostic { severity, ..Diagnostic::error(Stage::Parse, Some(word.span), message) };
        self.stream.diagnostics.push(diagnostic.expected(FOREIGN_COMMENT_EXPECTED));
    }

    /// Reports a directive in the place of the keys of a block without braces. CoreDNS serves a zone of this name: at
    /// the start of the file, where no block precedes it, this is an error.
    pub(super) fn report_directive_as_zone(&mut self, directive: &Token, is_first: bool) {
        let text = &shorten(&directive.text);
        let (severity, message, place) = if is_first {
            let message = format!("'{text}' is a directive, not a zone");
            let place = "a line such as '.:53 {' before it, and '}' after the last directive";
            (DiagnosticSeverity::Error, message, place)
        } else {
            let message = format!("the directive '{text}' is outside of a server block, and is read as a zone");
            let place = "this line within the braces of a server block: the '}' before it may be too early";
            (DiagnosticSeverity::Warning, message, place)
        };
        let diagnostic = Diagnostic { severity, ..Diagnostic::error(Stage::Parse, Some(directive.span), message) };
        let expected = format!("{place}; a zone of this name is written '{text}.'");
        self.stream.diagnostics.push(diagnostic.expected(expected));
    }

    /// Warns of a directive in the place of the keys of a block with braces, which seem to be those of the directive.
    pub(super) fn warn_of_braced_directive_as_zone(&mut self, directive: &Token) {
        let text = &shorten(&directive.text);
        let message = format!("the directive '{text}' is outside of a server block, and is read as a zone");
        let warning = Diagnostic::warning(Stage::Parse, Some(directive.span), message);
        let expected = format!("a line such as '.:53 {{' before it; a zone of this name is written '{text}.'");
        self.stream.diagnostics.push(warning.expected(expected));
    }

    /// Reports the `{` of a directive on the next line. The body has been parsed already.
    pub(super) fn report_brace_on_next_line(&mut self, name: &str, open: Span, is_empty: bool) {
        let tolerated = ANY_STANZA.contains(&name) || is_empty && EMPTY_STANZA.contains(&name);
        let message = format!("the '{{' of '{name}' must be on the same line");
        let diagnostic = if tolerated {
            let message = message + "; as in CoreDNS, the block has no effect";
            Diagnostic::warning(Stage::Syntax, Some(open), message)
        } else {
            Diagnostic::error(Stage::Syntax, Some(open), message)
        };
        self.stream.diagnostics.push(diagnostic.expected(format!("'{{' on the line of '{name}'")));
    }

    /// Reports tokens after a directive's closing brace.
    pub(super) fn report_words_after_brace(&mut self, name: &str, span: Span) {
        let message = format!("Unexpected token '{}', expecting 'end of line'", self.quote(span));
        let tolerated = ANY_STANZA.contains(&name) || EMPTY_STANZA.contains(&name);
        self.stream.diagnostics.push(if tolerated {
            let message = message + "; as in CoreDNS, the rest of the line has no effect";
            Diagnostic::warning(Stage::Syntax, Some(span), message)
        } else {
            Diagnostic::error(Stage::Syntax, Some(span), message)
        });
    }

    /// Warns of the first of these words with quotes that a word processor has replaced.
    pub(super) fn warn_of_quotes(&mut self, words: &[Token]) {
        let is_quote = |c: char| matches!(c, '\u{2018}'..='\u{201f}');
        let Some(word) = words.iter().find(|word| word.text.starts_with(is_quote) || word.text.ends_with(is_quote))
        else {
            return;
        };
        let message = format!("the quotes in '{}' are a part of the word", shorten(&word.text));
        let warning = Diagnostic::warning(Stage::Syntax, Some(word.span), message);
        let suggestion = format!("\"{}\"", word.text.trim_matches(is_quote));
        self.stream.diagnostics.push(warning.expected("straight quotes").suggestion(Some(suggestion)));
    }

    /// Returns the text of a span, shortened if it is long.
    fn quote(&self, span: Span) -> String {
        shorten(self.stream.sources.snippet(span))
    }

    /// Reports an unmatched `}`.
    pub(super) fn error_unopened(&mut self, at: Lookahead) {
        let message = "Unexpected '}' because no matching opening brace";
        let diagnostic = Diagnostic::error(Stage::Parse, Some(at.span), message);
        self.stream.diagnostics.push(if at.line_start {
            diagnostic
        } else {
            diagnostic.expected("'}' on a line of its own")
        });
    }

    /// Reports that the file ends before `expected`, which `span` requires.
    pub(super) fn error_eof(&mut self, span: Span, expected: impl Into<String>) {
        if !self.stream.stopped {
            let diagnostic = Diagnostic::error(Stage::Parse, Some(span), "Unexpected EOF");
            self.stream.diagnostics.push(diagnostic.expected(expected));
            self.stream.stopped = true;
        }
    }

    /// Reports that the file ends within the braces of a block or snippet.
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

    /// Reports a token in the place of `expecting`.
    pub(super) fn error_syntax(&mut self, span: Span, expecting: &str) {
        let message = format!("Unexpected token '{}', expecting '{expecting}'", self.quote(span));
        self.stream.diagnostics.push(Diagnostic::error(Stage::Syntax, Some(span), message));
    }
}

/// Shortens a text to [`MAX_QUOTED`] characters.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
