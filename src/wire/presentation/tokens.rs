//! Splits a record in presentation form (RFC 1035 5.1) into words, as miekg/dns's `zlexer` does.
//!
//! Escapes remain in the words; the reader of a word resolves them. Parentheses join lines; as in `zlexer`, a newline
//! within parentheses does not end a word.

use smallvec::SmallVec;

use crate::wire::{Class, Type};

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WordKind {
    /// The first word of a line.
    Owner,
    /// A word that begins with a dollar sign, in place of an owner.
    Directive(ZoneDirective),
    Word,
    /// A type, before the data.
    Type(Type),
    /// A class, before the data.
    Class(Class),
    Blank,
    Quote,
    LineEnd,
    End,
    /// An error; the text is the message.
    Error(&'static str),
}

/// A directive line, which is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZoneDirective {
    Ttl,
    Origin,
    Include,
    Generate,
}

/// The text of a word; most are short.
pub(super) type TokenText = SmallVec<[u8; 64]>;

/// A token with its place.
#[derive(Clone, Debug)]
pub(super) struct RecordToken {
    pub kind: WordKind,
    pub text: TokenText,
    pub line: u32,
    pub column: u32,
}

/// Reads tokens from left to right.
pub(super) struct RecordTokens<'t> {
    text: &'t [u8],
    at: usize,
    line: u32,
    column: u32,
    /// Whether the last byte ended a line.
    at_line_end: bool,
    /// The number of open parentheses.
    open: u32,
    quoted: bool,
    /// Whether the last token was blank.
    spaced: bool,
    in_comment: bool,
    /// Whether a comment within parentheses was read.
    has_comment: bool,
    /// Whether the type has been read; data follow.
    typed: bool,
    /// Whether the next word is the owner.
    at_owner: bool,
    /// Tokens that have been read in advance: one that follows the last token, and one that was peeked at.
    behind: Option<RecordToken>,
    peeked: Option<RecordToken>,
    failed: bool,
}

impl<'t> RecordTokens<'t> {
    /// Creates a reader of a text. A text without a final newline is read as if it had one.
    pub(super) fn new(text: &'t [u8]) -> RecordTokens<'t> {
        RecordTokens {
            text,
            at: 0,
            line: 1,
            column: 0,
            at_line_end: false,
            open: 0,
            quoted: false,
            spaced: false,
            in_comment: false,
            has_comment: false,
            typed: false,
            at_owner: true,
            behind: None,
            peeked: None,
            failed: false,
        }
    }

    /// Returns the next token; after an error and at the end, [`WordKind::End`].
    pub(super) fn next(&mut self) -> RecordToken {
        if let Some(token) = self.peeked.take() {
            return token;
        }
        self.read()
    }

    /// Returns the next token without consuming it.
    pub(super) fn peek(&mut self) -> &RecordToken {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.read(),
        };
        self.peeked.insert(token)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = match self.text.get(self.at) {
            Some(byte) => *byte,
            None if self.at == self.text.len() && self.text.last().is_some_and(|last| *last != b'\n') => b'\n',
            None => return None,
        };
        self.at += 1;
        if self.at_line_end {
            (self.line, self.column, self.at_line_end) = (self.line + 1, 0, false);
        }
        if byte == b'\n' {
            self.at_line_end = true
        } else {
            self.column += 1
        }
        Some(byte)
    }

    fn token(&self, kind: WordKind, text: TokenText) -> RecordToken {
        RecordToken { kind, text, line: self.line, column: self.column }
    }

    fn small(&self, kind: WordKind, text: &[u8]) -> RecordToken {
        self.token(kind, TokenText::from_slice(text))
    }

    fn fail(&mut self, reason: &'static str) -> RecordToken {
        self.failed = true;
        self.small(WordKind::Error(reason), reason.as_bytes())
    }

    fn end(&self) -> RecordToken {
        self.token(WordKind::End, TokenText::new())
    }

    fn read(&mut self) -> RecordToken {
        if let Some(token) = self.behind.take() {
            return token;
        }
        if self.failed {
            return self.end();
        }
        let mut word = TokenText::new();
        let mut escaped = false;
        let mut has_comment = std::mem::take(&mut self.has_comment);
        loop {
            // Most bytes are ordinary parts of words.
            if !self.in_comment && !self.at_line_end {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let run = rest.iter().position(|byte| IS_SPECIAL[usize::from(*byte)]).unwrap_or(rest.len());
                if run > 0 {
                    word.extend_from_slice(&rest[..run]);
                    self.at += run;
                    self.column += run as u32;
                    (escaped, self.spaced) = (false, false);
                }
            }
            let Some(byte) = self.byte() else { break };
            // Within quotes and after a backslash, these are ordinary characters.
            let is_literal = (escaped || self.quoted) && matches!(byte, b' ' | b'\t' | b';' | b'(' | b')');
            if is_literal && !self.in_comment {
                word.push(byte);
                escaped = false;
                continue;
            }
            match byte {
                b' ' | b'\t' if self.in_comment => {}
                b' ' | b'\t' => {
                    if let Some(token) = self.blank(&mut word) {
                        return token;
                    }
                }
                b';' => {
                    let was_comment = std::mem::replace(&mut self.in_comment, true);
                    self.has_comment = false;
                    has_comment = true;
                    if !word.is_empty() && !was_comment {
                        self.has_comment = true;
                        return self.token(WordKind::Word, word);
                    }
                }
                b'\r' => {
                    escaped = false;
                    if self.quoted {
                        word.push(byte);
                    }
                }
                b'\n' => {
                    escaped = false;
                    if self.quoted {
                        word.push(byte);
                    } else if std::mem::take(&mut self.in_comment) {
                        self.typed = false;
                        if self.open == 0 {
                            self.at_owner = true;
                            return self.small(WordKind::LineEnd, b"\n");
                        }
                        self.has_comment = has_comment;
                    } else if self.open == 0 {
                        return self.line_end(word);
                    }
                }
                _ if self.in_comment => {}
                b'\\' => {
                    word.push(byte);
                    escaped = !escaped;
                }
                b'"' if escaped => {
                    word.push(byte);
                    escaped = false;
                }
                b'"' => {
                    self.spaced = false;
                    self.quoted = !self.quoted;
                    let quote = self.small(WordKind::Quote, b"\"");
                    if word.is_empty() {
                        return quote;
                    }
                    let token = self.token(WordKind::Word, word);
                    self.behind = Some(quote);
                    return token;
                }
                b'(' => self.open += 1,
                b')' => match self.open.checked_sub(1) {
                    Some(open) => self.open = open,
                    None => return self.fail("extra closing brace"),
                },
                _ => {
                    word.push(byte);
                    (escaped, self.spaced) = (false, false);
                }
            }
        }
        if !word.is_empty() {
            let token = self.token(WordKind::Word, word);
            if has_comment {
                self.behind = Some(self.small(WordKind::LineEnd, b"\n"));
            }
            return token;
        }
        match () {
            () if has_comment => self.small(WordKind::LineEnd, b"\n"),
            () if self.open > 0 => self.fail("unbalanced brace"),
            () => self.end(),
        }
    }

    /// Handles white space, which ends a word. Several spaces are one blank.
    fn blank(&mut self, word: &mut TokenText) -> Option<RecordToken> {
        let text = std::mem::take(word);
        let was_owner = std::mem::replace(&mut self.at_owner, false);
        let token = if text.is_empty() {
            None
        } else if was_owner {
            Some(self.token(owner_kind(&text), text))
        } else {
            match self.word_kind(&text) {
                Ok(kind) => Some(self.token(kind, text)),
                Err(reason) => return Some(self.fail(reason)),
            }
        };
        if self.spaced {
            return token;
        }
        self.spaced = true;
        let blank = self.small(WordKind::Blank, b" ");
        if token.is_some() {
            self.behind = Some(blank);
            return token;
        }
        Some(blank)
    }

    /// Returns the kind of a word, which may be a type or class before the data.
    fn word_kind(&mut self, text: &[u8]) -> Result<WordKind, &'static str> {
        if self.typed {
            return Ok(WordKind::Word);
        }
        let mut kind = WordKind::Word;
        let upper =
            |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
        if let Some(rtype) = mnemonic(text).and_then(Type::named) {
            (kind, self.typed) = (WordKind::Type(rtype), true);
        } else if upper("TYPE") {
            let number = mnemonic(&text[4..]).and_then(|number| decimal(number.as_bytes(), u16::MAX.into()));
            kind = WordKind::Type(Type(number.ok_or("unknown RR type")? as u16));
            self.typed = true;
        }
        if let Some(class) = mnemonic(text).and_then(Class::named) {
            kind = WordKind::Class(class);
        } else if upper("CLASS") {
            let number = mnemonic(&text[5..]).and_then(|number| decimal(number.as_bytes(), u16::MAX.into()));
            kind = WordKind::Class(Class(number.ok_or("unknown class")? as u16));
        }
        Ok(kind)
    }

    /// Handles the end of a line; the word before it may be a type, but not an owner.
    fn line_end(&mut self, word: TokenText) -> RecordToken {
        let rtype = mnemonic(&word).filter(|_| !self.typed).and_then(Type::named);
        (self.typed, self.at_owner) = (false, true);
        let end = self.small(WordKind::LineEnd, b"\n");
        if word.is_empty() {
            return end;
        }
        self.behind = Some(end);
        self.token(rtype.map_or(WordKind::Word, WordKind::Type), word)
    }
}

/// Whether a byte has a special meaning.
pub(super) const IS_SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let bytes = b" \t\r\n;\\\"()";
    let mut at = 0;
    while at < bytes.len() {
        special[bytes[at] as usize] = true;
        at += 1;
    }
    special
};

fn mnemonic(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

fn owner_kind(text: &[u8]) -> WordKind {
    if text.first() != Some(&b'$') {
        return WordKind::Owner;
    }
    match text.to_ascii_uppercase().as_slice() {
        b"$TTL" => WordKind::Directive(ZoneDirective::Ttl),
        b"$ORIGIN" => WordKind::Directive(ZoneDirective::Origin),
        b"$INCLUDE" => WordKind::Directive(ZoneDirective::Include),
        b"$GENERATE" => WordKind::Directive(ZoneDirective::Generate),
        _ => WordKind::Owner,
    }
}

/// Parses digits as a number of at most `most`.
pub(super) fn decimal(text: &[u8], most: u64) -> Option<u64> {
    let mut value: u64 = 0;
    for byte in text {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    (!text.is_empty() && value <= most).then_some(value)
}
