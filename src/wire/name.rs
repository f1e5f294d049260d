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

    /// Returns the name in bytes that are known to be valid, such as a suffix of another name.
    pub(super) fn trusted(bytes: &'a [u8]) -> Name<'a> {
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
    fn has_label_at(self, offset: usize) -> bool {
        let mut at = 0;
        while at < offset {
            at += 1 + usize::from(self.0[at]);
        }
        at == offset
    }

    /// Appends the presentation form with its final dot (RFC 1035 5.1), as [`fmt::Display`] writes it but without
    /// formatting. The text is ASCII.
    pub fn append_text(self, text: &mut Vec<u8>) {
        if self.is_root() {
            text.push(b'.');
        }
        for label in self.labels() {
            if label.iter().all(|byte| is_plain(*byte)) {
                text.extend_from_slice(label);
            } else {
                for &byte in label {
                    match byte {
                        _ if is_plain(byte) => text.push(byte),
                        // The same bytes as miekg/dns escapes, so that log lines are alike.
                        b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b' ' | b'\'' => text.extend([b'\\', byte]),
                        _ => text.extend([b'\\', b'0' + byte / 100, b'0' + byte / 10 % 10, b'0' + byte % 10]),
                    }
                }
            }
            text.push(b'.');
        }
    }

    /// Returns an owned copy.
    pub fn to_owned(self) -> NameBuf {
        NameBuf(self.0.into())
    }
}

impl fmt::Display for Name<'_> {
    /// Writes the presentation form with its final dot (RFC 1035 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    // The bytes that miekg/dns escapes, so that log lines are the same.
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b' ' | b'\'' => {
                        write!(f, "\\{}", char::from(byte))?
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
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

/// Whether a byte of a label is written without an escape in presentation form.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'\'')
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
        if text == "." {
            return Ok(Name::ROOT.to_owned());
        }
        let mut wire = vec![0];
        let mut label_at = 0;
        let mut bytes = text.bytes().peekable();
        if bytes.peek().is_none() {
            return Err(NameError::Empty);
        }
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => {
                    close_label(&mut wire, label_at)?;
                    label_at = wire.len();
                    wire.push(0);
                }
                b'\\' => {
                    let first = bytes.next().ok_or(NameError::Escape)?;
                    if first.is_ascii_digit() {
                        let mut number = u16::from(first - b'0');
                        for _ in 0..2 {
                            let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape)?;
                            number = number * 10 + u16::from(digit - b'0');
                        }
                        wire.push(u8::try_from(number).map_err(|_| NameError::Escape)?);
                    } else {
                        wire.push(first);
                    }
                }
                _ => wire.push(byte),
            }
        }
        if label_at + 1 != wire.len() {
            close_label(&mut wire, label_at)?;
            wire.push(0);
        }
        if wire.len() > MAX_LEN { Err(NameError::Long) } else { Ok(NameBuf(wire.into())) }
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

/// Writes the length of the label that starts at `label_at` and ends at the end of `wire`.
fn close_label(wire: &mut [u8], label_at: usize) -> Result<(), NameError> {
    let len = wire.len() - label_at - 1;
    if len == 0 {
        return Err(NameError::Empty);
    }
    if len > MAX_LABEL {
        return Err(NameError::Label);
    }
    wire[label_at] = u8::try_from(len).map_err(|_| NameError::Label)?;
    Ok(())
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
            let mut text = Vec::new();
            name.as_name().append_text(&mut text);
            assert_eq!(String::from_utf8(text).expect("ASCII"), name.to_string());
        }
        for text in [".", "a.", "web.default.svc.cluster.local.", r"a\.b.c.", r"\000\255.x."] {
            assert_eq!(n(text).to_string(), text);
            assert!(Name::from_wire(n(text).as_wire()).is_ok());
        }
        assert_eq!(n("a.b"), n("a.b."));
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
