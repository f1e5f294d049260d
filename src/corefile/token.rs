//! Text to tokens: words, quotes, comments. Braces are words like others here; the parser gives them their meaning.
//!
//! The rules are those of Caddy 1's `caddyfile/lexer.go`, oddities included: a comment glued to a word ends at the next
//! white space, a carriage return vanishes wherever it stands, and a quote counts only as the first character of a word.

use super::source::{FileId, Span};

/// A word of a Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it says: unquoted, and in the tree with the environment filled in.
    pub text: String,
    /// Where it is written, quotes included. Text from the environment keeps the place of its `{$NAME}`.
    pub span: Span,
    /// Whether it is the first of its line, or of an import.
    pub line_start: bool,
}

/// What [`lex`] found.
pub(super) struct Lexed {
    /// The words, in order.
    pub tokens: Vec<Token>,
    /// A quote that never closes: the span from it to the end of the text.
    pub open_quote: Option<Span>,
    /// The text had more words than allowed, and the rest was left away.
    pub overflow: bool,
}

/// Splits `text` into at most `limit` words.
pub(super) fn lex(file: FileId, text: &str, limit: usize) -> Lexed {
    let mut lexer = Lexer { text, at: 0, end: 0, line_start: true, open_quote: None };
    if text.starts_with('\u{feff}') {
        lexer.at = '\u{feff}'.len_utf8();
    }
    let mut tokens = Vec::new();
    while let Some((word, start, line_start)) = lexer.word() {
        if tokens.len() >= limit {
            return Lexed { tokens, open_quote: None, overflow: true };
        }
        tokens.push(Token { text: word, span: span(file, start, lexer.end), line_start });
    }
    let open_quote = lexer.open_quote.map(|start| span(file, start, text.len()));
    Lexed { tokens, open_quote, overflow: false }
}

/// A span from byte counts; [`super::Sources`] holds no text longer than 32 bits can count.
fn span(file: FileId, start: usize, end: usize) -> Span {
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Span { file, start: offset(start), end: offset(end) }
}

/// The state of [`lex`].
struct Lexer<'a> {
    /// The whole text.
    text: &'a str,
    /// The byte to read next.
    at: usize,
    /// One past the last word, without a comment that is glued to it.
    end: usize,
    /// Whether a line ended since the last word.
    line_start: bool,
    /// Where a quote opened that did not close.
    open_quote: Option<usize>,
}

impl Lexer<'_> {
    /// The next word, the byte at which it starts, and whether it is the first of its line.
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

    /// Passes white space and comments.
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

    /// A word without quotes. From `#` on it is a comment, but only to the next white space. Sets `end`.
    fn plain(&mut self) -> String {
        let mut word = String::new();
        let mut comment = false;
        while let Some(next) = self.peek() {
            if next.is_whitespace() && next != '\r' {
                break;
            }
            self.at += next.len_utf8();
            comment |= next == '#';
            if !comment && next != '\r' {
                word.push(next);
                self.end = self.at;
            }
        }
        word
    }

    /// A quoted word. None when the text ends within it before anything was said.
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

    /// The character to read next.
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }
}
