//! String literals of Go, as `strconv.Unquote` reads and `strconv.Quote` writes them.

use std::fmt::Write;

/// Reads a Go string literal with its quotes; returns `None` if its syntax is invalid.
pub(super) fn unquote(text: &str) -> Option<Vec<u8>> {
    let quote = text.chars().next()?;
    let inner = text.get(1..)?.strip_suffix(quote)?;
    if quote == '`' {
        // Raw strings do not include carriage returns.
        return (!inner.contains('`')).then(|| inner.bytes().filter(|byte| *byte != b'\r').collect());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while !rest.is_empty() {
        let (character, after) = unquote_character(rest, quote)?;
        character.push_to(&mut out);
        rest = after;
    }
    Some(out)
}

/// A character of a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Character {
    /// A character, written as UTF-8.
    Unicode(char),
    /// A byte, from `\xFF` or `\377`.
    Byte(u8),
}

impl Character {
    /// Returns the value as a Go rune.
    pub(super) fn value(self) -> u32 {
        match self {
            Character::Unicode(character) => character.into(),
            Character::Byte(byte) => byte.into(),
        }
    }

    fn push_to(self, out: &mut Vec<u8>) {
        match self {
            Character::Unicode(character) => out.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            Character::Byte(byte) => out.push(byte),
        }
    }
}

/// Reads the first character between quotes; returns it and the rest (`strconv.UnquoteChar`).
pub(super) fn unquote_character(text: &str, quote: char) -> Option<(Character, &str)> {
    let mut characters = text.chars();
    let first = characters.next()?;
    if first == quote || first == '\n' {
        return None;
    }
    if first != '\\' {
        return Some((Character::Unicode(first), characters.as_str()));
    }
    let escape = characters.next()?;
    let rest = characters.as_str();
    let simple = |character| Some((Character::Unicode(character), rest));
    match escape {
        'a' => simple('\u{7}'),
        'b' => simple('\u{8}'),
        'f' => simple('\u{c}'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\u{b}'),
        '\\' => simple('\\'),
        '\'' | '"' => {
            if escape == quote {
                simple(escape)
            } else {
                None
            }
        }
        'x' => {
            let (value, rest) = digits(rest, 2, 16)?;
            Some((Character::Byte(value as u8), rest))
        }
        'u' | 'U' => {
            let (value, rest) = digits(rest, if escape == 'u' { 4 } else { 8 }, 16)?;
            Some((Character::Unicode(char::from_u32(value)?), rest))
        }
        '0'..='7' => {
            let (value, rest) = digits(&text[1..], 3, 8)?;
            Some((Character::Byte(u8::try_from(value).ok()?), rest))
        }
        _ => None,
    }
}

/// Reads exactly `count` digits.
fn digits(text: &str, count: usize, radix: u32) -> Option<(u32, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    if !number.bytes().all(|byte| char::from(byte).is_digit(radix)) {
        return None;
    }
    Some((u32::from_str_radix(number, radix).ok()?, rest))
}

/// Writes bytes as a Go string literal (`strconv.Quote`).
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            escape_into(&mut out, character, '"');
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// Writes a character as a Go character literal (`strconv.QuoteRune`).
pub(super) fn quote_character(character: char) -> String {
    let mut out = String::from("'");
    escape_into(&mut out, character, '\'');
    out.push('\'');
    out
}

fn escape_into(out: &mut String, character: char, quote: char) {
    match character {
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        _ if character == quote => out.extend(['\\', character]),
        _ if is_printable(character) => out.push(character),
        _ => {
            let value = u32::from(character);
            let _ = match value {
                0..0x80 => write!(out, "\\x{value:02x}"),
                0x80..0x10000 => write!(out, "\\u{value:04x}"),
                _ => write!(out, "\\U{value:08x}"),
            };
        }
    }
}

/// Whether a character is printed unescaped. Beyond ASCII this is Rust's table, not Go's.
pub(super) fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\0'..='\u{a0}' | '\u{ad}' => false,
        _ => character.escape_debug().len() == 1 || is_combining(character),
    }
}

/// Whether Rust escapes a character only because it combines with the one before.
fn is_combining(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_and_written_as_go_does() {
        for (literal, bytes) in [
            (r#""""#, &b""[..]),
            (r#""a\tb\\c\"d""#, b"a\tb\\c\"d"),
            (r#""\x41\101\u00e9\U0001F600""#, "AA\u{e9}\u{1f600}".as_bytes()),
            (r#""\xff\377""#, b"\xff\xff"),
            ("`a\\n\r\nb`", b"a\\n\nb"),
            (r#""it's""#, b"it's"),
        ] {
            assert_eq!(unquote(literal).as_deref(), Some(bytes), "{literal}");
        }
        for literal in
            [r#"""#, r#""a"#, r#""\q""#, r#""\x4""#, r#""\400""#, r#""\ud800""#, r#""\'""#, "\"a\nb\"", r#""\x+1""#]
        {
            assert_eq!(unquote(literal), None, "{literal}");
        }
        assert_eq!(quote("a\"\\\n\u{7f}\u{e9}\u{200b}".as_bytes()), r#""a\"\\\n\x7fé\u200b""#);
        assert_eq!(quote(b"\xff"), r#""\xff""#);
        assert_eq!((quote_character('\''), quote_character('"')), (r"'\''".to_owned(), "'\"'".to_owned()));
    }
}
