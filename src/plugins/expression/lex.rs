//! Splits the text of an expression into tokens (expr-lang `parser/lexer`).

use super::error::CompileError;

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lexeme {
    Identifier,
    Number,
    String,
    Bytes,
    Operator,
    Bracket,
    End,
    /// An error; the token's text is the message.
    Error,
}

/// A token.
#[derive(Clone, Debug)]
pub(super) struct ExprToken {
    pub kind: Lexeme,
    /// The text of the token; of a string, its value.
    pub text: String,
    /// The value of bytes.
    pub bytes: Vec<u8>,
    /// The character where it starts.
    pub at: usize,
}

impl ExprToken {
    /// Whether it is this operator or bracket.
    pub(super) fn is(&self, kind: Lexeme, text: &str) -> bool {
        self.kind == kind && self.text == text
    }
}

/// Splits a text into tokens, of which the last is `End` or `Error`. The parser reports an error of the lexer when it
/// reaches it: an error before it comes first, as in expr-lang.
pub(super) fn lex(text: &str) -> Vec<ExprToken> {
    let characters: Vec<char> = text.chars().collect();
    let mut lexer = ExprLexer { characters: &characters, at: 0, start: 0, tokens: Vec::new() };
    if let Err(CompileError { at, message }) = lexer.run() {
        lexer.tokens.push(ExprToken { kind: Lexeme::Error, text: message, bytes: Vec::new(), at });
    }
    lexer.tokens
}

struct ExprLexer<'a> {
    characters: &'a [char],
    /// The next character.
    at: usize,
    /// The first character of the current token.
    start: usize,
    tokens: Vec<ExprToken>,
}

impl ExprLexer<'_> {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn accept(&mut self, allowed: &str) -> bool {
        let found = self.peek().is_some_and(|next| allowed.contains(next));
        self.at += usize::from(found);
        found
    }

    fn word(&self) -> String {
        self.characters[self.start..self.at].iter().collect()
    }

    fn emit(&mut self, kind: Lexeme) {
        let text = self.word();
        self.emit_value(kind, text);
    }

    fn emit_value(&mut self, kind: Lexeme, text: String) {
        self.tokens.push(ExprToken { kind, text, bytes: Vec::new(), at: self.start });
        self.start = self.at;
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError { at: self.at.saturating_sub(1), message: message.into() })
    }

    /// Returns an error about a token that the end of the text may have cut off.
    fn unterminated<T>(&self, message: &str) -> Result<T, CompileError> {
        let at = if self.at == self.characters.len() { self.at } else { self.at.saturating_sub(1) };
        Err(CompileError { at, message: message.into() })
    }

    fn run(&mut self) -> Result<(), CompileError> {
        while let Some(first) = self.next() {
            match first {
                _ if first.is_whitespace() => self.start = self.at,
                '\'' | '"' => {
                    let value = self.string(first)?;
                    let text = String::from_utf8_lossy(&value).into_owned();
                    self.emit_value(Lexeme::String, text);
                }
                '`' => self.raw_string()?,
                'b' | 'B' if matches!(self.peek(), Some('\'' | '"')) => {
                    let quote = self.next().unwrap_or('"');
                    let bytes = self.string(quote)?;
                    self.tokens.push(ExprToken { kind: Lexeme::Bytes, text: String::new(), bytes, at: self.start });
                    self.start = self.at;
                }
                '0'..='9' => {
                    self.at -= 1;
                    self.number()?;
                }
                '?' => {
                    self.accept(".?");
                    self.emit(Lexeme::Operator);
                }
                '/' if self.accept("/") => {
                    while self.next().is_some_and(|next| next != '\n') {}
                    self.start = self.at;
                }
                '/' if self.accept("*") => self.comment()?,
                '#' => self.pointer(),
                '|' => {
                    self.accept("|");
                    self.emit(Lexeme::Operator);
                }
                ':' => {
                    self.accept(":");
                    self.emit(Lexeme::Operator);
                }
                '(' | '[' | '{' | ')' | ']' | '}' => self.emit(Lexeme::Bracket),
                '/' | ',' | ';' | '%' | '+' | '-' | '^' => self.emit(Lexeme::Operator),
                '&' | '!' | '=' | '*' | '<' | '>' => {
                    self.accept("&=*");
                    self.emit(Lexeme::Operator);
                }
                '.' if self.peek().is_some_and(|next| next.is_ascii_digit()) => {
                    self.at -= 1;
                    self.number()?;
                }
                '.' => {
                    self.accept(".");
                    self.emit(Lexeme::Operator);
                }
                _ if is_alphanumeric(first) => self.identifier(),
                _ => return self.error(format!("unrecognized character: U+{:04X} '{first}'", u32::from(first))),
            }
        }
        self.start = self.characters.len().saturating_sub(1);
        self.emit_value(Lexeme::End, String::new());
        Ok(())
    }

    fn comment(&mut self) -> Result<(), CompileError> {
        loop {
            match self.next() {
                None => return self.unterminated("unclosed comment"),
                Some('*') if self.accept("/") => break,
                Some(_) => {}
            }
        }
        self.start = self.at;
        Ok(())
    }

    /// Reads `#`, or `#name` as two tokens.
    fn pointer(&mut self) {
        self.accept("#");
        self.emit(Lexeme::Operator);
        while self.peek().is_some_and(is_alphanumeric) {
            self.at += 1;
        }
        if self.at > self.start {
            self.emit(Lexeme::Identifier);
        }
    }

    fn identifier(&mut self) {
        while self.peek().is_some_and(is_alphanumeric) {
            self.at += 1;
        }
        let word = self.word();
        match word.as_str() {
            "not" => {
                self.emit(Lexeme::Operator);
                self.after_not();
            }
            "in" | "or" | "and" | "matches" | "contains" | "startsWith" | "endsWith" | "let" | "if" | "else" => {
                self.emit(Lexeme::Operator);
            }
            _ => self.emit(Lexeme::Identifier),
        }
    }

    /// Reads a word after `not` that forms one operator with it.
    fn after_not(&mut self) {
        while self.accept(" ") {}
        self.start = self.at;
        let end = self.at;
        while self.peek().is_some_and(is_alphanumeric) {
            self.at += 1;
        }
        match self.word().as_str() {
            "in" | "matches" | "contains" | "startsWith" | "endsWith" => self.emit(Lexeme::Operator),
            _ => self.at = end,
        }
    }

    fn number(&mut self) -> Result<(), CompileError> {
        const DECIMAL: &str = "0123456789_";
        let mut digits = DECIMAL;
        if self.accept("0") {
            if self.accept("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        while self.accept(digits) {}
        // Two dots are a range.
        if self.peek() == Some('.') && self.characters.get(self.at + 1) != Some(&'.') {
            self.at += 1;
            while self.accept(digits) {}
        }
        if self.accept("eE") {
            self.accept("+-");
            while self.accept(digits) {}
        }
        if self.peek().is_some_and(is_alphanumeric) {
            self.at += 1;
            return self.error(format!("bad number syntax: {:?}", self.word()));
        }
        self.emit(Lexeme::Number);
        Ok(())
    }

    /// Reads the value of a string after its opening quote.
    fn string(&mut self, quote: char) -> Result<Vec<u8>, CompileError> {
        let mut value = Vec::new();
        let push = |value: &mut Vec<u8>, character: char| {
            value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        };
        loop {
            match self.next() {
                None | Some('\n') => return self.unterminated("literal not terminated"),
                Some(character) if character == quote => return Ok(value),
                Some('\\') => match self.next() {
                    Some('a') => value.push(7),
                    Some('b') => value.push(8),
                    Some('f') => value.push(12),
                    Some('n') => value.push(b'\n'),
                    Some('r') => value.push(b'\r'),
                    Some('t') => value.push(b'\t'),
                    Some('v') => value.push(11),
                    Some('\\') => value.push(b'\\'),
                    Some(character) if character == quote => push(&mut value, quote),
                    Some('x') => push(&mut value, self.digits(2, 16)?),
                    Some('u') if self.accept("{") => {
                        let end = self.characters[self.at..].iter().take(7).position(|character| *character == '}');
                        let Some(count) = end.filter(|count| *count > 0) else {
                            return self.error("invalid char escape");
                        };
                        push(&mut value, self.digits(count, 16)?);
                        self.at += 1;
                    }
                    Some('u') => push(&mut value, self.digits(4, 16)?),
                    Some('U') => push(&mut value, self.digits(8, 16)?),
                    Some('0'..='7') => {
                        self.at -= 1;
                        push(&mut value, self.digits(3, 8)?);
                    }
                    _ => return self.error("invalid char escape"),
                },
                Some(character) => push(&mut value, character),
            }
        }
    }

    fn digits(&mut self, count: usize, radix: u32) -> Result<char, CompileError> {
        let digits = self.characters.get(self.at..self.at + count).unwrap_or_default();
        let number = digits
            .iter()
            .try_fold(0_u32, |number, digit| number.checked_mul(radix)?.checked_add(digit.to_digit(radix)?));
        match number.filter(|_| digits.len() == count).and_then(char::from_u32) {
            Some(character) => {
                self.at += count;
                Ok(character)
            }
            None => self.error("invalid char escape"),
        }
    }

    /// Reads a string in backticks, in which two backticks are one.
    fn raw_string(&mut self) -> Result<(), CompileError> {
        let mut value = String::new();
        loop {
            match self.next() {
                None => return self.unterminated("literal not terminated"),
                Some('`') if self.accept("`") => value.push('`'),
                Some('`') => break,
                Some(character) => value.push(character),
            }
        }
        self.emit_value(Lexeme::String, value);
        Ok(())
    }
}

fn is_alphanumeric(character: char) -> bool {
    matches!(character, '_' | '$') || character.is_alphanumeric()
}
