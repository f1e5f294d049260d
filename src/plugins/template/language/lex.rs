//! Splits the text of a template into tokens (Go `text/template/parse/lex.go`).

/// The delimiters of an action.
const LEFT: &str = "{{";
const RIGHT: &str = "}}";
const LEFT_COMMENT: &str = "/*";
const RIGHT_COMMENT: &str = "*/";
/// The length of a trim marker and its space.
const MARKER: usize = 2;

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ActionToken {
    /// An error; the token's text is the message.
    Error,
    Bool,
    /// A character without a meaning of its own, such as a comma.
    Character,
    CharacterConstant,
    Complex,
    /// `=`
    Assign,
    /// `:=`
    Declare,
    End,
    Field,
    Identifier,
    LeftDelimiter,
    LeftParenthesis,
    Number,
    Pipe,
    RawString,
    RightDelimiter,
    RightParenthesis,
    Space,
    String,
    Text,
    Variable,
    Dot,
    Nil,
    Keyword(Keyword),
}

/// A word that begins an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
}

/// A token.
#[derive(Clone, Debug)]
pub(super) struct TemplateToken<'a> {
    pub kind: ActionToken,
    /// Its first byte.
    pub at: usize,
    pub text: std::borrow::Cow<'a, str>,
    /// Its line, from 1.
    pub line: usize,
}

/// Splits a text into tokens; the last one is `End` or `Error`.
pub(super) fn lex(text: &str) -> Vec<TemplateToken<'_>> {
    let mut lexer = TemplateLexer { text, at: 0, start: 0, line: 1, start_line: 1, parentheses: 0, tokens: Vec::new() };
    if let Err(message) = lexer.run() {
        let (at, line) = (lexer.start, lexer.start_line);
        lexer.tokens.push(TemplateToken { kind: ActionToken::Error, at, text: message.into(), line });
    }
    lexer.tokens
}

struct TemplateLexer<'a> {
    text: &'a str,
    /// The next byte.
    at: usize,
    /// The first byte of the current token.
    start: usize,
    line: usize,
    start_line: usize,
    /// The number of open parentheses.
    parentheses: usize,
    tokens: Vec<TemplateToken<'a>>,
}

impl<'a> TemplateLexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        self.line += usize::from(next == '\n');
        Some(next)
    }

    fn token(&mut self, kind: ActionToken) {
        let text = self.text[self.start..self.at].into();
        self.tokens.push(TemplateToken { kind, at: self.start, text, line: self.start_line });
        self.start = self.at;
        self.start_line = self.line;
    }

    /// Skips bytes that belong to no token.
    fn skip(&mut self, bytes: usize) {
        let end = self.at + bytes;
        self.line += self.text[self.at..end].matches('\n').count();
        self.at = end;
        self.start = end;
        self.start_line = self.line;
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            let Some(length) = self.rest().find(LEFT) else {
                let length = self.rest().len();
                self.text_token(length);
                self.token(ActionToken::End);
                return Ok(());
            };
            let before = &self.rest()[..length];
            let trimmed = match has_left_marker(&self.rest()[length + LEFT.len()..]) {
                true => before.trim_end_matches(is_space).len(),
                false => length,
            };
            self.text_token(trimmed);
            self.skip(length - trimmed);
            self.at += LEFT.len();
            let marker = if has_left_marker(self.rest()) { MARKER } else { 0 };
            if self.rest()[marker..].starts_with(LEFT_COMMENT) {
                self.skip(marker);
                self.comment()?;
                continue;
            }
            self.token(ActionToken::LeftDelimiter);
            self.skip(marker);
            self.parentheses = 0;
            while self.inside()? {}
        }
    }

    fn text_token(&mut self, length: usize) {
        if length > 0 {
            self.line += self.rest()[..length].matches('\n').count();
            self.at += length;
            self.token(ActionToken::Text);
        }
    }

    fn comment(&mut self) -> Result<(), String> {
        let length = self.rest().find(RIGHT_COMMENT).ok_or("unclosed comment")?;
        self.at += length + RIGHT_COMMENT.len();
        let marker = self.right_delimiter().ok_or("comment ends before closing delimiter")?;
        self.line += self.text[self.start..self.at].matches('\n').count();
        self.skip(marker + RIGHT.len());
        if marker > 0 {
            self.skip_spaces();
        }
        Ok(())
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.skip(rest.len() - rest.trim_start_matches(is_space).len());
    }

    /// Returns the length of the trim marker of the right delimiter that follows, or `None` if none does.
    fn right_delimiter(&self) -> Option<usize> {
        if has_right_marker(self.rest()) && self.rest()[MARKER..].starts_with(RIGHT) {
            return Some(MARKER);
        }
        self.rest().starts_with(RIGHT).then_some(0)
    }

    /// Reads a token of an action; returns whether the action continues.
    fn inside(&mut self) -> Result<bool, String> {
        if let Some(marker) = self.right_delimiter() {
            if self.parentheses > 0 {
                return Err("unclosed left paren".into());
            }
            self.skip(marker);
            self.at += RIGHT.len();
            self.token(ActionToken::RightDelimiter);
            if marker > 0 {
                self.skip_spaces();
            }
            return Ok(false);
        }
        let first = self.next().ok_or("unclosed action")?;
        match first {
            _ if is_space(first) => self.space(),
            '=' => self.token(ActionToken::Assign),
            ':' => {
                if self.next() != Some('=') {
                    return Err("expected :=".into());
                }
                self.token(ActionToken::Declare);
            }
            '|' => self.token(ActionToken::Pipe),
            '"' => self.quoted('"', "unterminated quoted string", ActionToken::String)?,
            '`' => {
                loop {
                    match self.next() {
                        None => return Err("unterminated raw quoted string".into()),
                        Some('`') => break,
                        Some(_) => {}
                    }
                }
                self.token(ActionToken::RawString);
            }
            '\'' => self.quoted('\'', "unterminated character constant", ActionToken::CharacterConstant)?,
            '$' => self.field(ActionToken::Variable, ActionToken::Variable)?,
            '.' if self.peek().is_some_and(|next| !next.is_ascii_digit()) => {
                self.field(ActionToken::Field, ActionToken::Dot)?
            }
            '.' | '+' | '-' | '0'..='9' => {
                self.at = self.start;
                self.number()?;
            }
            '(' => {
                self.parentheses += 1;
                self.token(ActionToken::LeftParenthesis);
            }
            ')' => {
                self.parentheses = self.parentheses.checked_sub(1).ok_or("unexpected right paren")?;
                self.token(ActionToken::RightParenthesis);
            }
            _ if is_alphanumeric(first) => {
                self.at = self.start;
                self.identifier()?;
            }
            ' '..='~' => self.token(ActionToken::Character),
            _ => return Err(format!("unrecognized character in action: {}", unicode(first))),
        }
        Ok(true)
    }

    /// Reads white space. A trim marker before the right delimiter includes the last space.
    fn space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.next();
        }
        let spaces = self.at - self.start;
        let last = &self.text[self.at - 1..];
        if has_right_marker(last) && last[MARKER..].starts_with(RIGHT) {
            self.at -= 1;
            self.line -= usize::from(last.starts_with('\n'));
            if spaces == 1 {
                self.start = self.at;
                return;
            }
        }
        self.token(ActionToken::Space);
    }

    fn quoted(&mut self, quote: char, unterminated: &str, kind: ActionToken) -> Result<(), String> {
        loop {
            match self.next() {
                Some('\\') if self.next().is_some_and(|next| next != '\n') => {}
                None | Some('\n' | '\\') => return Err(unterminated.into()),
                Some(next) if next == quote => break,
                Some(_) => {}
            }
        }
        self.token(kind);
        Ok(())
    }

    /// Reads `.field` or `$variable` after its first character; `bare` is the kind if nothing follows.
    fn field(&mut self, kind: ActionToken, bare: ActionToken) -> Result<(), String> {
        if self.at_terminator() {
            self.token(bare);
            return Ok(());
        }
        self.word()?;
        self.token(kind);
        Ok(())
    }

    /// Reads letters and digits, after which a word must end.
    fn word(&mut self) -> Result<(), String> {
        while self.peek().is_some_and(is_alphanumeric) {
            self.next();
        }
        match self.peek() {
            Some(next) if !self.at_terminator() => Err(format!("bad character {}", unicode(next))),
            _ => Ok(()),
        }
    }

    fn identifier(&mut self) -> Result<(), String> {
        self.word()?;
        let kind = match &self.text[self.start..self.at] {
            "true" | "false" => ActionToken::Bool,
            "nil" => ActionToken::Nil,
            "block" => ActionToken::Keyword(Keyword::Block),
            "break" => ActionToken::Keyword(Keyword::Break),
            "continue" => ActionToken::Keyword(Keyword::Continue),
            "define" => ActionToken::Keyword(Keyword::Define),
            "else" => ActionToken::Keyword(Keyword::Else),
            "end" => ActionToken::Keyword(Keyword::End),
            "if" => ActionToken::Keyword(Keyword::If),
            "range" => ActionToken::Keyword(Keyword::Range),
            "template" => ActionToken::Keyword(Keyword::Template),
            "with" => ActionToken::Keyword(Keyword::With),
            _ => ActionToken::Identifier,
        };
        self.token(kind);
        Ok(())
    }

    /// Whether the next character may follow a word.
    fn at_terminator(&self) -> bool {
        match self.peek() {
            None | Some('.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(next) => is_space(next) || self.rest().starts_with(RIGHT),
        }
    }

    fn number(&mut self) -> Result<(), String> {
        let is_good = self.scan_number();
        if !is_good {
            return Err(self.bad_number());
        }
        if matches!(self.peek(), Some('+' | '-')) {
            // `1+2i`, without spaces.
            if !self.scan_number() || !self.text[..self.at].ends_with('i') {
                return Err(self.bad_number());
            }
            self.token(ActionToken::Complex);
        } else {
            self.token(ActionToken::Number);
        }
        Ok(())
    }

    fn bad_number(&self) -> String {
        let text = &self.text[self.start..self.at];
        format!("bad number syntax: {}", super::quote::quote(text.as_bytes()))
    }

    fn accept(&mut self, allowed: &str) -> bool {
        let found = self.peek().is_some_and(|next| allowed.contains(next));
        self.at += usize::from(found);
        found
    }

    fn accept_all(&mut self, allowed: &str) {
        while self.accept(allowed) {}
    }

    /// Reads the characters of a number. The parser checks whether they are one.
    fn scan_number(&mut self) -> bool {
        const DECIMAL: &str = "0123456789_";
        const HEXADECIMAL: &str = "0123456789abcdefABCDEF_";
        self.accept("+-");
        let mut digits = DECIMAL;
        if self.accept("0") {
            if self.accept("xX") {
                digits = HEXADECIMAL;
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        self.accept_all(digits);
        if self.accept(".") {
            self.accept_all(digits);
        }
        if digits == DECIMAL && self.accept("eE") || digits == HEXADECIMAL && self.accept("pP") {
            self.accept("+-");
            self.accept_all(DECIMAL);
        }
        self.accept("i");
        if self.peek().is_some_and(is_alphanumeric) {
            self.next();
            return false;
        }
        true
    }
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

fn is_alphanumeric(character: char) -> bool {
    character == '_' || character.is_alphanumeric()
}

fn has_left_marker(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next() == Some('-') && characters.next().is_some_and(is_space)
}

fn has_right_marker(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(is_space) && characters.next() == Some('-')
}

/// Formats a character as Go's `%#U`.
fn unicode(character: char) -> String {
    let value = u32::from(character);
    match super::quote::is_printable(character) {
        true => format!("U+{value:04X} '{character}'"),
        false => format!("U+{value:04X}"),
    }
}
