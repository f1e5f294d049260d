//! Domain names in wire form: labels, each after its length, and a final zero byte.

use std::fmt;

/// The maximum length of a name in bytes, with its final zero byte (RFC 1035 2.3.4).
pub const MAX_LEN: usize = 255;
/// The maximum length of a label in bytes (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// An error in bytes or text that should be a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bytes end before the name.
    #[error("the name is cut off")]
    Short,
    /// The length of a label is above 63, or is a compression pointer where none is allowed.
    #[error("a label is longer than 63 bytes")]
    Label,
    /// The name is longer than 255 bytes.
    #[error("the name is longer than 255 bytes")]
    Long,
    /// The text has an empty label.
    #[error("the name has an empty label")]
    Empty,
    /// The text has an invalid escape.
    #[error("the name has an invalid escape")]
    Escape,
}

/// A borrowed name, valid and uncompressed.
#[derive(Clone, Copy)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The root.
    pub const ROOT: Name<'static> = Name(&[0]);

    /// Checks that `bytes` are exactly one name.
    pub fn from_wire(bytes: &'a [u8]) -> Result<Name<'a>, NameError> {
        let (name, rest) = Name::split_from(bytes)?;
        if rest.is_empty() { Ok(name) } else { Err(NameError::Long) }
    }

    /// Reads the name at the start of `bytes`, and returns it with the bytes after it. A pointer is an error.
    pub fn split_from(bytes: &'a [u8]) -> Result<(Name<'a>, &'a [u8]), NameError> {
        let mut at = 0;
        loop {
            let len = usize::from(*bytes.get(at).ok_or(NameError::Short)?);
            if len > MAX_LABEL {
                return Err(NameError::Label);
            }
            at += 1 + len;
            if at > MAX_LEN {
                return Err(NameError::Long);
            }
            if len == 0 {
                let (name, rest) = bytes.split_at(at);
                return Ok((Name(name), rest));
            }
        }
    }

    /// Parses presentation form into `wire`, as [`NameBuf::from_text`] does.
    pub fn from_text<'b>(text: &str, wire: &'b mut [u8; MAX_LEN]) -> Result<Name<'b>, NameError> {
        if text == "." {
            return Ok(Name::ROOT);
        }
        if let Some(len) = read_plain(text.as_bytes(), wire) {
            return Ok(Name(&wire[..len]));
        }
        // The label that is being read starts at `start`; `at` is the offset of the next byte.
        let (mut start, mut at) = (0, 1);
        let mut bytes = text.bytes();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        while let Some(byte) = bytes.next() {
            let byte = match byte {
                b'.' => {
                    wire[start] = label_len(start, at)?;
                    (start, at) = (at, at + 1);
                    // One byte is left for the root.
                    if at > MAX_LEN {
                        return Err(NameError::Long);
                    }
                    continue;
                }
                b'\\' => unescape(&mut bytes)?,
                byte => byte,
            };
            if at - start > MAX_LABEL {
                return Err(NameError::Label);
            }
            *wire.get_mut(at).ok_or(NameError::Long)? = byte;
            at += 1;
        }
        if at > start + 1 {
            wire[start] = label_len(start, at)?;
            start = at;
        }
        *wire.get_mut(start).ok_or(NameError::Long)? = 0;
        Ok(Name(&wire[..=start]))
    }

    /// Returns the name in bytes that are known to be valid, such as a suffix of another name.
    pub(crate) fn trusted(bytes: &'a [u8]) -> Name<'a> {
        debug_assert!(Name::from_wire(bytes).is_ok());
        Name(bytes)
    }

    /// Returns the wire form.
    pub fn as_wire(self) -> &'a [u8] {
        self.0
    }

    /// Returns whether this is the root.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// Returns the labels from left to right, without the root.
    pub fn labels(self) -> Labels<'a> {
        Labels(self.0)
    }

    /// Returns the name without its first label, or `None` for the root.
    pub fn parent(self) -> Option<Name<'a>> {
        let len = usize::from(self.0[0]);
        if len == 0 { None } else { Some(Name(&self.0[1 + len..])) }
    }

    /// Compares as DNS does, ignoring the case of ASCII letters (RFC 4343). Length bytes are below `A`, so folding them
    /// changes nothing.
    pub fn eq_ignore_case(self, other: Name<'_>) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }

    /// Returns whether this is `zone` or a name below it.
    pub fn is_within(self, zone: Name<'_>) -> bool {
        let Some(at) = self.0.len().checked_sub(zone.0.len()) else { return false };
        // Equal bytes are no zone if they start in the middle of a label. This is checked last, since few names get
        // here.
        self.0[at..].eq_ignore_ascii_case(zone.0) && self.has_label_at(at)
    }

    /// Returns whether a label starts at this offset; the root counts as a label.
    pub(crate) fn has_label_at(self, offset: usize) -> bool {
        let mut at = 0;
        while at < offset {
            at += 1 + usize::from(self.0[at]);
        }
        at == offset
    }

    /// Returns an owned copy.
    pub fn to_owned(self) -> NameBuf {
        NameBuf(self.0.into())
    }
}

/// Parses the text of a name that ends in a dot, if it has no escape and no error. Returns the length of the wire form.
fn read_plain(text: &[u8], wire: &mut [u8; MAX_LEN]) -> Option<usize> {
    // Each length takes the place of the dot before its label, and the root that of the last dot.
    wire.get_mut(1..=text.len())?.copy_from_slice(text);
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte == b'.' {
            let len = at - start;
            if len == 0 || len > MAX_LABEL {
                return None;
            }
            wire[start] = len as u8;
            start = at + 1;
        } else if byte == b'\\' {
            return None;
        }
    }
    if start != text.len() || text.is_empty() {
        return None;
    }
    wire[start] = 0;
    Some(start + 1)
}

/// Returns the length of a label whose length byte is at `start` and which ends before `end`.
fn label_len(start: usize, end: usize) -> Result<u8, NameError> {
    match end - start - 1 {
        0 => Err(NameError::Empty),
        len @ 1..=MAX_LABEL => Ok(len as u8),
        _ => Err(NameError::Label),
    }
}

/// Reads what follows a backslash: three digits, or one byte that stands for itself (RFC 1035 5.1).
fn unescape(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut number = u16::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape)?;
        number = number * 10 + u16::from(digit - b'0');
    }
    u8::try_from(number).map_err(|_| NameError::Escape)
}

/// Returns whether the presentation form shows this byte of a label with an escape: the bytes that miekg/dns escapes,
/// so that log lines and expressions see the same text.
const fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'\'') || byte <= b' ' || byte > b'~'
}

/// 1 for each byte that is escaped.
const ESCAPED: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_escaped(byte as u8) as u8;
        byte += 1;
    }
    table
};

impl fmt::Display for Name<'_> {
    /// Writes the presentation form with its final dot (RFC 1035 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b' '..=b'~' if is_escaped(byte) => write!(f, "\\{}", char::from(byte))?,
                    b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name in presentation form. Most names have no byte to be escaped, and are written without an allocation.
pub struct NameText {
    /// The text of such a name, valid up to `len`.
    plain: [u8; MAX_LEN + 1],
    len: usize,
    /// The text of any other name.
    escaped: Option<String>,
}

impl NameText {
    /// Writes the presentation form of a name, with its final dot.
    pub fn new(name: Name<'_>) -> NameText {
        let mut text = NameText { plain: [b'.'; MAX_LEN + 1], len: 1, escaped: None };
        text.write(name);
        text
    }

    /// Writes the presentation form of another name.
    pub fn write(&mut self, name: Name<'_>) {
        let wire = name.as_wire();
        if wire.len() == 1 {
            (self.plain[0], self.len, self.escaped) = (b'.', 1, None);
            return;
        }
        // The dot after a label takes the place of the length of the next one.
        let len = wire.len() - 1;
        self.plain[..len].copy_from_slice(&wire[1..]);
        (self.len, self.escaped) = (len, None);
        let mut at = 0;
        while at < len {
            let end = at + usize::from(wire[at]);
            if wire[at + 1..=end].iter().fold(0, |any, &byte| any | ESCAPED[usize::from(byte)]) != 0 {
                self.escaped = Some(name.to_string());
                return;
            }
            self.plain[end] = b'.';
            at = end + 1;
        }
    }

    /// Returns whether no byte of the name is escaped.
    pub fn is_plain(&self) -> bool {
        self.escaped.is_none()
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        let plain = || std::str::from_utf8(&self.plain[..self.len]).expect("bytes that are not escaped are ASCII");
        self.escaped.as_deref().unwrap_or_else(plain)
    }
}

/// The labels of a name.
#[derive(Clone)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&len, rest) = self.0.split_first()?;
        if len == 0 {
            return None;
        }
        let (label, rest) = rest.split_at(usize::from(len));
        self.0 = rest;
        Some(label)
    }
}

/// An owned name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameBuf(Box<[u8]>);

impl NameBuf {
    /// Parses presentation form, with or without the final dot; `\.` and `\DDD` are escapes. `""` is an error, `.` is
    /// the root.
    pub fn from_text(text: &str) -> Result<NameBuf, NameError> {
        let mut wire = [0; MAX_LEN];
        Ok(Name::from_text(text, &mut wire)?.to_owned())
    }

    /// Returns the name in lower case.
    pub fn to_lower(&self) -> NameBuf {
        NameBuf(self.0.to_ascii_lowercase().into())
    }

    /// Returns a borrowed view.
    pub fn as_name(&self) -> Name<'_> {
        Name(&self.0)
    }

    /// Returns the wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_name(), f)
    }
}

impl fmt::Debug for NameBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(text: &str) -> NameBuf {
        NameBuf::from_text(text).expect("a name")
    }

    #[test]
    fn text_and_wire_round_trip() {
        let every = (1..=255).map(|byte| format!("\\{byte:03}")).collect::<Vec<_>>();
        for label in every.chunks(63) {
            let name = n(&label.concat());
            assert_eq!(NameText::new(name.as_name()).as_str(), name.to_string());
        }
        for text in [".", "a.", "web.default.svc.cluster.local.", r"a\.b.c.", r"\000\255.x."] {
            assert_eq!(n(text).to_string(), text);
            assert!(Name::from_wire(n(text).as_wire()).is_ok());
        }
        assert_eq!(n("a.b"), n("a.b."));
    }

    #[test]
    fn the_text_of_a_name_is_its_presentation_form() {
        let mut text = NameText::new(Name::ROOT);
        assert_eq!(text.as_str(), ".");
        let long = format!("{0}.{0}.{0}.{1}.", "x".repeat(63), "y".repeat(61));
        for name in ["a.", "web.default.svc.cluster.local.", r"a\.b.c.", r"\000\255.x.", r"a\@b.c.", ".", &long, r"\(."]
        {
            text.write(n(name).as_name());
            assert_eq!(text.as_str(), name);
        }
        // Lengths of labels that are the codes of a dot and of a quotation mark.
        for len in [46, 34, 40, 59, 63] {
            let name = format!("{}.{}.b.", "a".repeat(len), "c".repeat(len));
            assert_eq!(NameText::new(n(&name).as_name()).as_str(), name);
        }
        for byte in 0..=255 {
            let wire = [2, b'a', byte, 1, b'b', 0];
            let name = Name::from_wire(&wire).expect("a name");
            assert_eq!(NameText::new(name).as_str(), name.to_string());
        }
    }

    #[test]
    fn text_that_is_not_a_name_is_an_error() {
        assert_eq!(NameBuf::from_text(""), Err(NameError::Empty));
        assert_eq!(NameBuf::from_text("a..b"), Err(NameError::Empty));
        assert_eq!(NameBuf::from_text(".a"), Err(NameError::Empty));
        assert_eq!(NameBuf::from_text(&"a".repeat(64)), Err(NameError::Label));
        assert_eq!(NameBuf::from_text(&"a.".repeat(128)), Err(NameError::Long));
        assert_eq!(NameBuf::from_text(r"a\2"), Err(NameError::Escape));
        assert_eq!(NameBuf::from_text(r"a\256"), Err(NameError::Escape));
        assert!(NameBuf::from_text(&"a.".repeat(127)).is_ok());
    }

    #[test]
    fn a_zone_contains_itself_and_names_below_it() {
        assert!(n("a.B.c").as_name().is_within(n("b.C").as_name()));
        assert!(n("b.c").as_name().is_within(n("b.c").as_name()));
        assert!(n("b.c").as_name().is_within(Name::ROOT));
        assert!(!n("xb.c").as_name().is_within(n("b.c").as_name()));
        assert!(!n("c").as_name().is_within(n("b.c").as_name()));
    }
}
