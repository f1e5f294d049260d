//! Domain names in wire form: labels, each with its length in front, and a zero octet at the end.

use std::fmt;

/// The longest name, with its final zero octet (RFC 1035 2.3.4).
pub const MAX_LEN: usize = 255;
/// The longest label (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// Why bytes or text are no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The bytes end before the name does.
    #[error("the name is cut off")]
    Short,
    /// A label has a length above 63, or is a compression pointer where none may be.
    #[error("a label is longer than 63 octets")]
    Label,
    /// The whole is longer than 255 octets.
    #[error("the name is longer than 255 octets")]
    Long,
    /// Text holds an empty label.
    #[error("the name has an empty label")]
    Empty,
    /// Text holds a bad escape.
    #[error("the name has a bad escape")]
    Escape,
}

/// A borrowed, valid, uncompressed name.
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

    /// Reads the name that `bytes` start with; gives it and what follows. A pointer is refused.
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

    /// A name from bytes that are known to be one, such as the rest of a name behind one of its labels.
    pub(super) fn trusted(bytes: &'a [u8]) -> Name<'a> {
        debug_assert!(Name::from_wire(bytes).is_ok());
        Name(bytes)
    }

    /// The wire form.
    pub fn as_wire(self) -> &'a [u8] {
        self.0
    }

    /// Whether it is the root.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// The labels, leftmost first, without the root's.
    pub fn labels(self) -> Labels<'a> {
        Labels(self.0)
    }

    /// The name without its first label; `None` at the root.
    pub fn parent(self) -> Option<Name<'a>> {
        let len = usize::from(self.0[0]);
        if len == 0 { None } else { Some(Name(&self.0[1 + len..])) }
    }

    /// Equality as DNS means it (RFC 4343): ASCII letters in any case. Length octets are below `A`, so folding them
    /// changes nothing.
    pub fn eq_ignore_case(self, other: Name<'_>) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }

    /// Whether it is `zone` or below it.
    pub fn is_within(self, zone: Name<'_>) -> bool {
        let Some(at) = self.0.len().checked_sub(zone.0.len()) else { return false };
        // The same octets are no zone where they start in the middle of a label. Few names get that far.
        self.0[at..].eq_ignore_ascii_case(zone.0) && self.has_label_at(at)
    }

    /// Whether a label starts at this offset; the root's counts.
    fn has_label_at(self, offset: usize) -> bool {
        let mut at = 0;
        while at < offset {
            at += 1 + usize::from(self.0[at]);
        }
        at == offset
    }

    /// Adds presentation form with its final dot (RFC 1035 5.1), as [`fmt::Display`] writes it but without formatting.
    /// It is ASCII.
    pub fn append_text(self, text: &mut Vec<u8>) {
        if self.is_root() {
            text.push(b'.');
        }
        for label in self.labels() {
            if label.iter().all(|octet| is_plain(*octet)) {
                text.extend_from_slice(label);
            } else {
                for &octet in label {
                    match octet {
                        _ if is_plain(octet) => text.push(octet),
                        // The same octets as miekg/dns escapes, so that log lines are alike.
                        b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b' ' | b'\'' => text.extend([b'\\', octet]),
                        _ => text.extend([b'\\', b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10]),
                    }
                }
            }
            text.push(b'.');
        }
    }

    /// An owned copy.
    pub fn to_owned(self) -> NameBuf {
        NameBuf(self.0.into())
    }
}

impl fmt::Display for Name<'_> {
    /// Presentation form with its final dot (RFC 1035 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    // The same octets as miekg/dns escapes, so that log lines are alike.
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b' ' | b'\'' => {
                        write!(f, "\\{}", char::from(octet))?
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
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

/// Whether an octet of a label stands for itself in presentation form.
const fn is_plain(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'\'')
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
    /// Reads presentation form, with or without the final dot; `\.` and `\DDD` escape. `""` is an error, `.` the root.
    pub fn from_text(text: &str) -> Result<NameBuf, NameError> {
        if text == "." {
            return Ok(Name::ROOT.to_owned());
        }
        let mut wire = vec![0];
        let mut label_at = 0;
        let mut octets = text.bytes().peekable();
        if octets.peek().is_none() {
            return Err(NameError::Empty);
        }
        while let Some(octet) = octets.next() {
            match octet {
                b'.' => {
                    close_label(&mut wire, label_at)?;
                    label_at = wire.len();
                    wire.push(0);
                }
                b'\\' => {
                    let first = octets.next().ok_or(NameError::Escape)?;
                    if first.is_ascii_digit() {
                        let mut number = u16::from(first - b'0');
                        for _ in 0..2 {
                            let digit = octets.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape)?;
                            number = number * 10 + u16::from(digit - b'0');
                        }
                        wire.push(u8::try_from(number).map_err(|_| NameError::Escape)?);
                    } else {
                        wire.push(first);
                    }
                }
                _ => wire.push(octet),
            }
        }
        if label_at + 1 != wire.len() {
            close_label(&mut wire, label_at)?;
            wire.push(0);
        }
        if wire.len() > MAX_LEN { Err(NameError::Long) } else { Ok(NameBuf(wire.into())) }
    }

    /// The same name in lower case.
    pub fn to_lower(&self) -> NameBuf {
        NameBuf(self.0.to_ascii_lowercase().into())
    }

    /// A view of it.
    pub fn as_name(&self) -> Name<'_> {
        Name(&self.0)
    }

    /// The wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

/// Writes the length in front of the label that starts at `label_at` and reaches to the end of `wire`.
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
        let every = (1..=255).map(|octet| format!("\\{octet:03}")).collect::<Vec<_>>();
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
    fn text_that_is_no_name_is_refused() {
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
    fn a_zone_holds_itself_and_what_is_below_it() {
        assert!(n("a.B.c").as_name().is_within(n("b.C").as_name()));
        assert!(n("b.c").as_name().is_within(n("b.c").as_name()));
        assert!(n("b.c").as_name().is_within(Name::ROOT));
        assert!(!n("xb.c").as_name().is_within(n("b.c").as_name()));
        assert!(!n("c").as_name().is_within(n("b.c").as_name()));
    }
}
