//! The lexer: splits text into tokens, which are words or quoted texts, and skips comments. Braces are ordinary tokens
//! here.
//!
//! The rules are those of Caddy 1's `caddyfile/lexer.go`, including its oddities: a comment directly after a word ends
//! at the next white space, carriage returns are dropped everywhere, and a quote is special only as the first character
//! of a token.

use super::source::{FileId, Span};

/// A token of a Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The text without quotes; in the tree, with environment variables expanded.
    pub text: String,
    /// The place in the source, including quotes. An expanded variable has the place of its `{$NAME}`.
    pub span: Span,
    /// The offset of the text in the source, if it is written as it reads: without escapes and variables.
    pub written_at: Option<u32>,
    /// Whether it is the first token of a line, or of an import.
    pub line_start: bool,
}

impl Token {
    /// Returns whether the word begins a comment in other languages, but not in a Corefile.
    pub(super) fn is_foreign_comment(&self) -> bool {
        ["//", "/*", ";"].iter().any(|start| self.text.starts_with(start))
    }

    /// Returns the place of the character at a byte of the text, or of the whole token if it is not written as it
    /// reads. The end of the text is shown at its last character.
    pub fn span_at(&self, at: usize) -> Span {
        let (span, Some(start)) = (self.span, self.written_at) else { return self.span };
        let last = self.text.char_indices().next_back().map_or(0, |(at, _)| at);
        let at = at.min(last);
        let end = self.text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |first| at + first.len_utf8());
        let offset = |at: usize| start + at as u32;
        Span { start: offset(at), end: offset(end).max(offset(at)), ..span }
    }

    /// Returns the place of a byte of words that are joined with spaces; `None` without words.
    pub fn span_in_words(words: &[Token], at: usize) -> Option<Span> {
        let mut rest = at;
        for word in words {
            if rest <= word.text.len() {
                return Some(word.span_at(rest));
            }
            rest -= word.text.len() + 1;
        }
        words.last().map(|word| word.span)
    }
}

/// The result of [`lex`].
pub(super) struct Lexed {
    /// The tokens, in order.
    pub tokens: Vec<Token>,
    /// The span from an unclosed quote to the end of the text.
    pub open_quote: Option<Span>,
    /// The text has more tokens than allowed; the rest is missing.
    pub overflow: bool,
    /// Comments that begin within a word.
    pub glued_comments: Vec<Span>,
}

/// Splits `text` into at most `limit` tokens.
pub(super) fn lex(file: FileId, text: &str, limit: usize) -> Lexed {
    let mut lexer = Lexer { text, at: 0, end: 0, line_start: true, open_quote: None, glued_comment: None };
    if text.starts_with('\u{feff}') {
        lexer.at = '\u{feff}'.len_utf8();
    }
    let mut tokens = Vec::new();
    let mut glued_comments = Vec::new();
    while let Some((word, start, line_start)) = lexer.word() {
        if tokens.len() >= limit {
            return Lexed { tokens, open_quote: None, overflow: true, glued_comments };
        }
        glued_comments.extend(lexer.glued_comment.take().map(|(start, end)| span(file, start, end)));
        let text_start = start + usize::from(text[start..].starts_with('"'));
        let is_as_written = text[text_start..].starts_with(&word);
        let span = span(file, start, lexer.end);
        let written_at = is_as_written.then_some(span.start + (text_start - start) as u32);
        tokens.push(Token { text: word, span, written_at, line_start });
    }
    let open_quote = lexer.open_quote.map(|start| span(file, start, text.len()));
    Lexed { tokens, open_quote, overflow: false, glued_comments }
}

/// Creates a span from offsets; [`super::Sources`] has no text whose offsets exceed 32 bits.
fn span(file: FileId, start: usize, end: usize) -> Span {
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Span { file, start: offset(start), end: offset(end) }
}

/// The state of the lexer.
struct Lexer<'a> {
    /// The whole text.
    text: &'a str,
    /// The offset of the next character.
    at: usize,
    /// The end of the last token, without a comment directly after it.
    end: usize,
    /// Whether a line ended since the last token.
    line_start: bool,
    /// The offset of an unclosed quote.
    open_quote: Option<usize>,
    /// The offsets of a comment within the last token.
    glued_comment: Option<(usize, usize)>,
}

impl Lexer<'_> {
    /// Returns the next token, its offset, and whether it is the first of its line.
    fn word(&mut self) -> Option<(String, usize, bool)> {
        self.skip_blank();
        let start = self.at;
        let line_start = std::mem::replace(&mut self.line_start, false);
        let word = match self.peek()? {
            '"' => self.quoted()?,
            _ => self.plain(),
        };
        Some((word, start, line_start))
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) {
        let mut comment = false;
        while let Some(next) = self.peek() {
            match next {
                '\n' => {
                    comment = false;
                    self.line_start = true;
                }
                '#' => comment = true,
                _ if comment || next.is_whitespace() => {}
                _ => return,
            }
            self.at += next.len_utf8();
        }
    }

    /// Reads a token without quotes. From `#` on it is a comment, but only to the next white space. Sets `end`.
    fn plain(&mut self) -> String {
        let mut word = String::new();
        let mut comment = false;
        while let Some(next) = self.peek() {
            if next.is_whitespace() && next != '\r' {
                break;
            }
            if next == '#' && !comment {
                comment = true;
                self.glued_comment = Some((self.at, self.at));
            }
            self.at += next.len_utf8();
            if let Some((_, end)) = self.glued_comment.as_mut().filter(|_| next != '\r') {
                *end = self.at;
            }
            if !comment && next != '\r' {
                word.push(next);
                self.end = self.at;
            }
        }
        word
    }

    /// Reads a quoted token. Returns `None` if the text ends right after the quote.
    fn quoted(&mut self) -> Option<String> {
        let start = self.at;
        let mut word = String::new();
        let mut escaped = false;
        self.at += 1;
        while let Some(next) = self.peek() {
            self.at += next.len_utf8();
            self.end = self.at;
            match next {
                '\\' if !escaped => {
                    escaped = true;
                    continue;
                }
                '"' if !escaped => return Some(word),
                '"' => {}
                _ if escaped => word.push('\\'),
                _ => {}
            }
            word.push(next);
            escaped = false;
        }
        self.open_quote = Some(start);
        (!word.is_empty()).then_some(word)
    }

    /// Returns the next character.
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }
}
