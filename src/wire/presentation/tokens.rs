//! The words of a record in presentation form (RFC 1035 5.1), split as miekg/dns's `zlexer` splits them.
//!
//! Escapes stay in the words: what reads a word gives them their meaning. Parentheses join lines, and like there a line
//! end within them does not end a word.

use smallvec::SmallVec;

use crate::wire::{Class, Type};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first word of a line.
    Owner,
    /// A word that begins with a dollar sign and stands where an owner would.
    Directive(Directive),
    Word,
    /// A type, before the data.
    Type(Type),
    /// A class, before the data.
    Class(Class),
    Blank,
    Quote,
    LineEnd,
    End,
    /// Something that no record holds; the text says what.
    Error(&'static str),
}

/// A line that is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directive {
    Ttl,
    Origin,
    Include,
    Generate,
}

/// The text of a word; most are short.
pub(super) type Text = SmallVec<[u8; 64]>;

/// A token with its place.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub text: Text,
    pub line: u32,
    pub column: u32,
}

/// Reads tokens from left to right.
pub(super) struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
    line: u32,
    column: u32,
    /// The last byte ended a line.
    at_line_end: bool,
    /// How many parentheses are open.
    open: u32,
    quoted: bool,
    /// The last token was blank.
    spaced: bool,
    in_comment: bool,
    /// A comment within parentheses was read.
    has_comment: bool,
    /// The type has been read; what follows is data.
    typed: bool,
    /// The next word is the owner.
    at_owner: bool,
    /// Read already: what comes behind the token that was returned last, and what was looked at.
    behind: Option<Token>,
    peeked: Option<Token>,
    failed: bool,
}

impl<'t> Tokens<'t> {
    /// The tokens of a text, behind which a line end is thought where there is none.
    pub fn new(text: &'t [u8]) -> Tokens<'t> {
        Tokens {
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

    /// The next token; after an error, and behind the last one, [`Kind::End`].
    pub fn next(&mut self) -> Token {
        if let Some(token) = self.peeked.take() {
            return token;
        }
        self.read()
    }

    /// The next token, left in its place.
    pub fn peek(&mut self) -> &Token {
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

    fn token(&self, kind: Kind, text: Text) -> Token {
        Token { kind, text, line: self.line, column: self.column }
    }

    fn small(&self, kind: Kind, text: &[u8]) -> Token {
        self.token(kind, Text::from_slice(text))
    }

    fn fail(&mut self, reason: &'static str) -> Token {
        self.failed = true;
        self.small(Kind::Error(reason), reason.as_bytes())
    }

    fn end(&self) -> Token {
        self.token(Kind::End, Text::new())
    }

    fn read(&mut self) -> Token {
        if let Some(token) = self.behind.take() {
            return token;
        }
        if self.failed {
            return self.end();
        }
        let mut word = Text::new();
        let mut escaped = false;
        let mut has_comment = std::mem::take(&mut self.has_comment);
        loop {
            // Most bytes are part of a word and nothing else.
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
            // Within quotes, and behind a backslash, these are as good as letters.
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
                        return self.token(Kind::Word, word);
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
                            return self.small(Kind::LineEnd, b"\n");
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
                    let quote = self.small(Kind::Quote, b"\"");
                    if word.is_empty() {
                        return quote;
                    }
                    let token = self.token(Kind::Word, word);
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
            let token = self.token(Kind::Word, word);
            if has_comment {
                self.behind = Some(self.small(Kind::LineEnd, b"\n"));
            }
            return token;
        }
        match () {
            () if has_comment => self.small(Kind::LineEnd, b"\n"),
            () if self.open > 0 => self.fail("unbalanced brace"),
            () => self.end(),
        }
    }

    /// White space: the word before it ends. Several spaces are one blank.
    fn blank(&mut self, word: &mut Text) -> Option<Token> {
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
        let blank = self.small(Kind::Blank, b" ");
        if token.is_some() {
            self.behind = Some(blank);
            return token;
        }
        Some(blank)
    }

    /// What a word is, which before the data may be a type or class.
    fn word_kind(&mut self, text: &[u8]) -> Result<Kind, &'static str> {
        if self.typed {
            return Ok(Kind::Word);
        }
        let mut kind = Kind::Word;
        let upper =
            |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
        if let Some(rtype) = mnemonic(text).and_then(Type::named) {
            (kind, self.typed) = (Kind::Type(rtype), true);
        } else if upper("TYPE") {
            let number = mnemonic(&text[4..]).and_then(|number| decimal(number.as_bytes(), u16::MAX.into()));
            kind = Kind::Type(Type(number.ok_or("unknown RR type")? as u16));
            self.typed = true;
        }
        if let Some(class) = mnemonic(text).and_then(Class::named) {
            kind = Kind::Class(class);
        } else if upper("CLASS") {
            let number = mnemonic(&text[5..]).and_then(|number| decimal(number.as_bytes(), u16::MAX.into()));
            kind = Kind::Class(Class(number.ok_or("unknown class")? as u16));
        }
        Ok(kind)
    }

    /// The end of a line; the word before it may be a type, but no owner.
    fn line_end(&mut self, word: Text) -> Token {
        let rtype = mnemonic(&word).filter(|_| !self.typed).and_then(Type::named);
        (self.typed, self.at_owner) = (false, true);
        let end = self.small(Kind::LineEnd, b"\n");
        if word.is_empty() {
            return end;
        }
        self.behind = Some(end);
        self.token(rtype.map_or(Kind::Word, Kind::Type), word)
    }
}

/// Bytes with a meaning of their own.
const IS_SPECIAL: [bool; 256] = {
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

fn owner_kind(text: &[u8]) -> Kind {
    if text.first() != Some(&b'$') {
        return Kind::Owner;
    }
    match text.to_ascii_uppercase().as_slice() {
        b"$TTL" => Kind::Directive(Directive::Ttl),
        b"$ORIGIN" => Kind::Directive(Directive::Origin),
        b"$INCLUDE" => Kind::Directive(Directive::Include),
        b"$GENERATE" => Kind::Directive(Directive::Generate),
        _ => Kind::Owner,
    }
}

/// Digits as a number of at most `most`.
pub(super) fn decimal(text: &[u8], most: u64) -> Option<u64> {
    let mut value: u64 = 0;
    for byte in text {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    (!text.is_empty() && value <= most).then_some(value)
}
