//! Formats values as Go's `fmt.Sprint`, `fmt.Sprintln` and `fmt.Sprintf` do, also for invalid verbs.
//!
//! Not supported: `%b` and `%x` of floating-point numbers, and `#` for them.

use std::fmt::Write as _;

use super::output::{MAX_OUTPUT, Stopped};
use super::quote::{is_printable, quote, quote_character};
use super::value::TemplateValue;

/// The limit on width, precision and argument number.
const MAX_NUMBER: usize = 1_000_000;

/// Appends a value as an action does.
pub(super) fn write_value(out: &mut Vec<u8>, value: &TemplateValue<'_>) -> Result<(), Stopped> {
    match value {
        TemplateValue::Text(text) => put(out, text),
        TemplateValue::Missing | TemplateValue::Nil => put(out, b"<no value>"),
        value => Printer { out, flags: Flags::default() }.print(value, 'v'),
    }
}

/// Appends values as `fmt.Sprint` does: with spaces between two that are not strings.
pub(super) fn print(out: &mut Vec<u8>, values: &[TemplateValue<'_>]) -> Result<(), Stopped> {
    let is_text = |value: &TemplateValue<'_>| matches!(value, TemplateValue::Text(_));
    for (at, value) in values.iter().enumerate() {
        if at > 0 && !is_text(value) && !is_text(&values[at - 1]) {
            put(out, b" ")?;
        }
        Printer { out, flags: Flags::default() }.print(value, 'v')?;
    }
    Ok(())
}

/// Appends values as `fmt.Sprintln` does: with spaces between all, and a newline.
pub(super) fn println(out: &mut Vec<u8>, values: &[TemplateValue<'_>]) -> Result<(), Stopped> {
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            put(out, b" ")?;
        }
        Printer { out, flags: Flags::default() }.print(value, 'v')?;
    }
    put(out, b"\n")
}

/// Appends values as `fmt.Sprintf` does.
pub(super) fn printf(out: &mut Vec<u8>, format: &[u8], values: &[TemplateValue<'_>]) -> Result<(), Stopped> {
    let mut printer = Printer { out, flags: Flags::default() };
    let mut directive = Printf { format, at: 0, argument: 0, reordered: false, good: true, values };
    while directive.at < format.len() {
        let rest = &format[directive.at..];
        let text = rest.iter().position(|byte| *byte == b'%').unwrap_or(rest.len());
        put(printer.out, &rest[..text])?;
        directive.at += text + 1;
        if text < rest.len() {
            printer.directive(&mut directive)?;
        }
    }
    if directive.reordered || directive.argument >= values.len() {
        return Ok(());
    }
    put(printer.out, b"%!(EXTRA ")?;
    for (at, value) in values[directive.argument..].iter().enumerate() {
        if at > 0 {
            put(printer.out, b", ")?;
        }
        printer.flags = Flags::default();
        printer.typed(value)?;
    }
    put(printer.out, b")")
}

/// Appends bytes up to the limit.
fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Stopped> {
    if out.len() + bytes.len() > MAX_OUTPUT {
        return Err(Stopped::Output);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// The flags, width and precision between the percent sign and the verb.
#[derive(Clone, Copy, Default)]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    /// `%#v`: Go syntax.
    go: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// The state of `printf`.
struct Printf<'f, 'v> {
    format: &'f [u8],
    at: usize,
    argument: usize,
    reordered: bool,
    /// Whether the argument's number in brackets is valid.
    good: bool,
    values: &'f [TemplateValue<'v>],
}

impl Printf<'_, '_> {
    fn peek(&self) -> Option<u8> {
        self.format.get(self.at).copied()
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = None;
        while let Some(digit) = self.peek().filter(u8::is_ascii_digit) {
            let value = number.unwrap_or(0);
            if value > MAX_NUMBER {
                self.at = self.format.len();
                return None;
            }
            number = Some(value * 10 + usize::from(digit - b'0'));
            self.at += 1;
        }
        number
    }

    /// Reads `[n]` and returns whether there is one.
    fn index(&mut self) -> bool {
        if self.peek() != Some(b'[') {
            return false;
        }
        self.reordered = true;
        let start = self.at;
        let Some(length) = self.format[start..].iter().position(|byte| *byte == b']').filter(|at| *at > 1) else {
            self.good = false;
            self.at = match self.format[start..].iter().position(|byte| *byte == b']') {
                Some(length) if self.format.len() - start >= 3 => start + length + 1,
                _ => start + 1,
            };
            return false;
        };
        self.at = start + 1;
        let number = self.number().filter(|_| self.at == start + length);
        self.at = start + length + 1;
        match number {
            Some(number) if (1..=self.values.len()).contains(&number) => self.argument = number - 1,
            _ => self.good = false,
        }
        number.is_some()
    }

    /// Returns a width or precision that an argument supplies.
    fn take_number(&mut self) -> Option<i64> {
        let value = self.values.get(self.argument)?;
        self.argument += 1;
        let number = match value {
            TemplateValue::Int(number) => *number,
            TemplateValue::Uint(number, _) => i64::try_from(*number).ok()?,
            _ => return None,
        };
        (number.unsigned_abs() <= MAX_NUMBER as u64).then_some(number)
    }
}

/// Formats values one by one.
struct Printer<'o> {
    out: &'o mut Vec<u8>,
    flags: Flags,
}

impl Printer<'_> {
    /// Formats a verb, after the percent sign.
    fn directive(&mut self, directive: &mut Printf<'_, '_>) -> Result<(), Stopped> {
        self.flags = Flags::default();
        directive.good = true;
        loop {
            let flag = match directive.peek() {
                Some(b'#') => &mut self.flags.sharp,
                Some(b'0') => &mut self.flags.zero,
                Some(b'+') => &mut self.flags.plus,
                Some(b'-') => &mut self.flags.minus,
                Some(b' ') => &mut self.flags.space,
                _ => break,
            };
            *flag = true;
            directive.at += 1;
        }
        let mut after_index = directive.index();
        if directive.peek() == Some(b'*') {
            directive.at += 1;
            match directive.take_number() {
                Some(width) => {
                    self.flags.width = Some(width.unsigned_abs() as usize);
                    if width < 0 {
                        (self.flags.minus, self.flags.zero) = (true, false);
                    }
                }
                None => put(self.out, b"%!(BADWIDTH)")?,
            }
            after_index = false;
        } else {
            self.flags.width = directive.number();
            directive.good &= !(after_index && self.flags.width.is_some());
        }
        if directive.peek() == Some(b'.') && directive.at + 1 < directive.format.len() {
            directive.at += 1;
            directive.good &= !after_index;
            after_index = directive.index();
            if directive.peek() == Some(b'*') {
                directive.at += 1;
                match directive.take_number() {
                    Some(precision) => self.flags.precision = usize::try_from(precision).ok(),
                    None => put(self.out, b"%!(BADPREC)")?,
                }
                after_index = false;
            } else {
                self.flags.precision = Some(directive.number().unwrap_or(0));
            }
        }
        if !after_index {
            directive.index();
        }
        self.verb(directive)
    }

    fn verb(&mut self, directive: &mut Printf<'_, '_>) -> Result<(), Stopped> {
        let rest = &directive.format[directive.at.min(directive.format.len())..];
        let Some(first) = rest.first() else { return put(self.out, b"%!(NOVERB)") };
        let verb = match rest.utf8_chunks().next().and_then(|chunk| chunk.valid().chars().next()) {
            Some(verb) => verb,
            None if first.is_ascii() => char::from(*first),
            None => char::REPLACEMENT_CHARACTER,
        };
        directive.at += if verb == char::REPLACEMENT_CHARACTER && *first != 0xef { 1 } else { verb.len_utf8() };
        let wrong = |what: &str| format!("%!{verb}({what})").into_bytes();
        if verb == '%' {
            return put(self.out, b"%");
        }
        if !directive.good {
            return put(self.out, &wrong("BADINDEX"));
        }
        let Some(value) = directive.values.get(directive.argument) else {
            return put(self.out, &wrong("MISSING"));
        };
        directive.argument += 1;
        if matches!(verb, 'v' | 'w') {
            self.flags.go = std::mem::take(&mut self.flags.sharp);
            self.flags.plus = false;
        }
        self.print(value, verb)
    }

    /// Appends a value as `%v` with its type, as in messages about invalid verbs.
    fn typed(&mut self, value: &TemplateValue<'_>) -> Result<(), Stopped> {
        if value.is_nil() {
            return put(self.out, b"<nil>");
        }
        put(self.out, value.type_name().as_bytes())?;
        put(self.out, b"=")?;
        self.print(value, 'v')
    }

    fn bad_verb(&mut self, value: &TemplateValue<'_>, verb: char) -> Result<(), Stopped> {
        put(self.out, format!("%!{verb}(").as_bytes())?;
        self.typed(value)?;
        put(self.out, b")")
    }

    fn print(&mut self, value: &TemplateValue<'_>, verb: char) -> Result<(), Stopped> {
        if verb == 'T' {
            return self.pad(value.type_name().as_bytes());
        }
        match (value, verb) {
            (TemplateValue::Missing | TemplateValue::Nil, 'v') => self.pad(b"<nil>"),
            (TemplateValue::Bool(value), 'v' | 't') => self.pad(if *value { b"true" } else { b"false" }),
            (TemplateValue::Int(number), _) => self.integer(number.unsigned_abs(), *number < 0, true, value, verb),
            (TemplateValue::Uint(number, _), _) => self.integer(*number, false, false, value, verb),
            (TemplateValue::Float(number), 'v' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G') => self.float(*number, verb),
            (TemplateValue::Text(text), 'v' | 's' | 'x' | 'X' | 'q') => self.text(text, verb),
            (TemplateValue::Printed(printed), 'v' | 's' | 'x' | 'X' | 'q') => self.text(printed.text.as_bytes(), verb),
            (TemplateValue::Object(object), 'v' | 's' | 'x' | 'X' | 'q') => {
                let mut text = Vec::new();
                object.text(&mut text);
                self.text(&text, verb)
            }
            (TemplateValue::List(list), _) if verb != 'p' => {
                let items = list.items().map(|item| (None, item));
                self.items(value, items, verb, if self.flags.go { ("{", "}") } else { ("[", "]") })
            }
            (TemplateValue::Map(map), _) if verb != 'p' => {
                let items = map.entries().into_iter().map(|(key, value)| (Some(key), value));
                self.items(value, items, verb, if self.flags.go { ("{", "}") } else { ("map[", "]") })
            }
            _ => self.bad_verb(value, verb),
        }
    }

    /// Appends the items of a list or map.
    fn items<'v>(
        &mut self, value: &TemplateValue<'_>,
        items: impl Iterator<Item = (Option<TemplateValue<'v>>, TemplateValue<'v>)>, verb: char,
        (open, close): (&str, &str),
    ) -> Result<(), Stopped> {
        if self.flags.go {
            put(self.out, value.type_name().as_bytes())?;
        }
        put(self.out, open.as_bytes())?;
        for (at, (key, item)) in items.enumerate() {
            if at > 0 {
                put(self.out, if self.flags.go { b", " } else { b" " })?;
            }
            if let Some(key) = key {
                self.print(&key, verb)?;
                put(self.out, b":")?;
            }
            match item {
                TemplateValue::Missing | TemplateValue::Nil if self.flags.go => put(self.out, b"interface {}(nil)")?,
                // Within a list or map, every verb is valid for nil.
                TemplateValue::Missing | TemplateValue::Nil => put(self.out, b"<nil>")?,
                item => self.print(&item, verb)?,
            }
        }
        put(self.out, close.as_bytes())
    }

    /// Appends text with spaces, or zeros, up to the width.
    fn pad(&mut self, text: &[u8]) -> Result<(), Stopped> {
        let missing = self.flags.width.map_or(0, |width| width.saturating_sub(characters(text)));
        if !self.flags.minus {
            self.padding(missing)?;
        }
        put(self.out, text)?;
        if self.flags.minus { self.padding(missing) } else { Ok(()) }
    }

    fn padding(&mut self, count: usize) -> Result<(), Stopped> {
        if self.out.len() + count > MAX_OUTPUT {
            return Err(Stopped::Output);
        }
        let padding = if self.flags.zero && !self.flags.minus { b'0' } else { b' ' };
        self.out.resize(self.out.len() + count, padding);
        Ok(())
    }

    /// Appends text with spaces up to the width.
    fn pad_with_spaces(&mut self, text: &[u8]) -> Result<(), Stopped> {
        let zero = std::mem::take(&mut self.flags.zero);
        let done = self.pad(text);
        self.flags.zero = zero;
        done
    }

    fn text(&mut self, text: &[u8], verb: char) -> Result<(), Stopped> {
        let cut = match self.flags.precision {
            Some(precision) => &text[..character_end(text, precision)],
            None => text,
        };
        match verb {
            'x' | 'X' => self.bytes_in_hexadecimal(text, verb),
            'v' if self.flags.go => self.pad(quote(cut).as_bytes()),
            'q' if self.flags.sharp && can_be_raw(cut) => self.pad(&[b"`", cut, b"`"].concat()),
            'q' if self.flags.plus => self.pad(in_ascii(&quote(cut)).as_bytes()),
            'q' => self.pad(quote(cut).as_bytes()),
            _ => self.pad(cut),
        }
    }

    fn bytes_in_hexadecimal(&mut self, text: &[u8], verb: char) -> Result<(), Stopped> {
        let text = &text[..text.len().min(self.flags.precision.unwrap_or(usize::MAX))];
        let prefix = if !self.flags.sharp || text.is_empty() {
            ""
        } else if verb == 'x' {
            "0x"
        } else {
            "0X"
        };
        let mut out = String::from(prefix);
        for (at, byte) in text.iter().enumerate() {
            if self.flags.space && at > 0 {
                let _ = write!(out, " {prefix}");
            }
            let _ = if verb == 'x' { write!(out, "{byte:02x}") } else { write!(out, "{byte:02X}") };
        }
        self.pad(out.as_bytes())
    }

    fn integer(
        &mut self, number: u64, negative: bool, signed: bool, value: &TemplateValue<'_>, verb: char,
    ) -> Result<(), Stopped> {
        let character = (!negative).then_some(number).and_then(|number| u32::try_from(number).ok());
        let character = character.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
        let digits = match verb {
            'v' if self.flags.go && !signed => {
                self.flags.sharp = true;
                format!("{number:x}")
            }
            'v' | 'd' => number.to_string(),
            'b' => format!("{number:b}"),
            'o' | 'O' => format!("{number:o}"),
            'x' => format!("{number:x}"),
            'X' => format!("{number:X}"),
            'c' => return self.pad(character.encode_utf8(&mut [0; 4]).as_bytes()),
            'q' if self.flags.plus => return self.pad(in_ascii(&quote_character(character)).as_bytes()),
            'q' => return self.pad(quote_character(character).as_bytes()),
            'U' => {
                let number = if negative { number.wrapping_neg() } else { number };
                return self.unicode(number, character);
            }
            _ => return self.bad_verb(value, verb),
        };
        if self.flags.precision == Some(0) && number == 0 {
            let missing = self.flags.width.unwrap_or(0);
            let zero = std::mem::take(&mut self.flags.zero);
            let done = self.padding(missing);
            self.flags.zero = zero;
            return done;
        }
        let sign = match () {
            () if negative => "-",
            () if self.flags.plus => "+",
            () if self.flags.space => " ",
            () => "",
        };
        let least = match (self.flags.precision, self.flags.width) {
            (Some(precision), _) => precision,
            (None, Some(width)) if self.flags.zero && !self.flags.minus => width.saturating_sub(sign.len()),
            _ => 0,
        };
        let zeros = least.saturating_sub(digits.len());
        if zeros > MAX_OUTPUT {
            return Err(Stopped::Output);
        }
        let digits = format!("{}{digits}", "0".repeat(zeros));
        let prefix = match verb {
            'O' if self.flags.sharp && !digits.starts_with('0') => "0o0",
            'O' => "0o",
            'b' if self.flags.sharp => "0b",
            'o' if self.flags.sharp && !digits.starts_with('0') => "0",
            'x' | 'v' if self.flags.sharp => "0x",
            'X' if self.flags.sharp => "0X",
            _ => "",
        };
        self.pad_with_spaces(format!("{sign}{prefix}{digits}").as_bytes())
    }

    fn unicode(&mut self, number: u64, character: char) -> Result<(), Stopped> {
        let least = self.flags.precision.unwrap_or(4).max(4);
        if least > MAX_OUTPUT {
            return Err(Stopped::Output);
        }
        let mut text = format!("U+{number:0least$X}");
        if self.flags.sharp && u64::from(u32::from(character)) == number && is_printable(character) {
            let _ = write!(text, " '{character}'");
        }
        self.pad_with_spaces(text.as_bytes())
    }

    fn float(&mut self, number: f64, verb: char) -> Result<(), Stopped> {
        let digits = match verb {
            'e' | 'E' => exponential(number.abs(), self.flags.precision.unwrap_or(6).min(MAX_DIGITS)),
            'f' | 'F' => format!("{:.*}", self.flags.precision.unwrap_or(6).min(MAX_DIGITS), number.abs()),
            _ => shortest(number.abs(), self.flags.precision.map(|precision| precision.min(MAX_DIGITS))),
        };
        let digits = if verb == 'E' || verb == 'G' { digits.to_uppercase() } else { digits };
        let (digits, is_number) = match number {
            _ if number.is_nan() => ("NaN".to_owned(), false),
            _ if number.is_infinite() => ("Inf".to_owned(), false),
            _ => (digits, true),
        };
        let sign = match () {
            () if number.is_sign_negative() && !number.is_nan() => "-",
            () if self.flags.plus || number.is_infinite() => "+",
            () if self.flags.space => " ",
            () => "",
        };
        let text = format!("{sign}{digits}");
        if !is_number {
            return self.pad_with_spaces(text.as_bytes());
        }
        if self.flags.zero && !self.flags.minus && !sign.is_empty() {
            put(self.out, sign.as_bytes())?;
            self.padding(self.flags.width.map_or(0, |width| width.saturating_sub(text.len())))?;
            return put(self.out, digits.as_bytes());
        }
        self.pad(text.as_bytes())
    }
}

/// No number has more digits.
const MAX_DIGITS: usize = 1_100;

/// Formats as `%e` with this number of digits after the point.
fn exponential(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{mantissa}e{sign}{exponent:0>2}")
}

/// Formats as `%g` with this number of digits, or with as many as identify the number.
fn shortest(number: f64, precision: Option<usize>) -> String {
    let text = match precision {
        Some(precision) => format!("{number:.*e}", precision.max(1) - 1),
        None => format!("{number:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    let count = digits.len() as i32;
    let limit = match precision {
        None => 6,
        Some(precision) if precision as i32 > count && count > exponent => count,
        Some(precision) => precision.max(1) as i32,
    };
    if exponent < -4 || exponent >= limit {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{first}{point}{rest}e{sign}{:02}", exponent.abs());
    }
    match exponent + 1 {
        point @ 1.. if point >= count => format!("{digits}{}", "0".repeat((point - count) as usize)),
        point @ 1.. => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
        point => format!("0.{}{digits}", "0".repeat(-point as usize)),
    }
}

/// Returns the number of characters; an invalid byte counts as one.
fn characters(text: &[u8]) -> usize {
    text.utf8_chunks().map(|chunk| chunk.valid().chars().count() + chunk.invalid().len()).sum()
}

/// Returns the end of the first `count` characters.
fn character_end(text: &[u8], count: usize) -> usize {
    let mut at = 0;
    let mut left = count;
    for chunk in text.utf8_chunks() {
        for length in chunk.valid().chars().map(char::len_utf8).chain(chunk.invalid().iter().map(|_| 1)) {
            if left == 0 {
                return at;
            }
            left -= 1;
            at += length;
        }
    }
    at
}

/// Whether a string can be written in backquotes (Go `strconv.CanBackquote`).
fn can_be_raw(text: &[u8]) -> bool {
    std::str::from_utf8(text)
        .is_ok_and(|text| !text.chars().any(|c| c < ' ' && c != '\t' || matches!(c, '`' | '\u{7f}' | '\u{feff}')))
}

/// Escapes the characters of a literal that are not ASCII.
fn in_ascii(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    for character in literal.chars() {
        match u32::from(character) {
            0..0x80 => out.push(character),
            value @ 0x80..0x1_0000 => {
                let _ = write!(out, "\\u{value:04x}");
            }
            value => {
                let _ = write!(out, "\\U{value:08x}");
            }
        }
    }
    out
}
