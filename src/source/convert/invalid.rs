//! What can be wrong with an object, and the checks of single values.

use std::net::IpAddr;

use super::field::Found;
use crate::cluster::model::Protocol;

/// Why an object, or a field of it, is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Invalid {
    /// The field does not have the type that the API gives it.
    #[error("{field}: {expected} belongs here, not {found}")]
    Type {
        /// The field, as a path from the object's root.
        field: String,
        /// What belongs there.
        expected: &'static str,
        /// What stands there.
        found: Found,
    },
    /// The object cannot be read at all.
    #[error("{0}")]
    Unreadable(String),
    /// A required field is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A required field of one element of a list is absent.
    #[error("{0} is missing")]
    MissingAt(String),
    /// A text that should be one of a few words.
    #[error("{field}: {text:?} is none of {words}")]
    Word {
        /// The field, as a path from the object's root.
        field: String,
        /// What stands there.
        text: String,
        /// The words.
        words: String,
    },
    /// A text that should be an address.
    #[error("{field}: {text:?} is not an IP address")]
    Address {
        /// The field, as a path from the object's root.
        field: String,
        /// What stands there.
        text: String,
    },
    /// A number that should be a port.
    #[error("{field}: {number} is not a port number (1 to 65535)")]
    PortNumber {
        /// The field, as a path from the object's root.
        field: String,
        /// What stands there.
        number: i64,
    },
    /// A text that should be a transport protocol.
    #[error("{field}: {text:?} is not a protocol (TCP, UDP or SCTP)")]
    Protocol {
        /// The field, as a path from the object's root.
        field: String,
        /// What stands there.
        text: String,
    },
    /// A text that should be one label of a name.
    #[error(
        "{field}: {text:?} is not a DNS label (at most 63 lower-case letters, digits and '-', a letter or digit first and last)"
    )]
    Label {
        /// The field, as a path from the object's root.
        field: String,
        /// What stands there.
        text: String,
    },
    /// A text that should be a name.
    #[error("{field}: {text:?} is not a DNS name")]
    Name {
        /// The field, as a path from the object's root.
        field: String,
        /// What stands there.
        text: String,
    },
}

/// Values of an object that are passed over while the rest of it is of use. Only the first few are remembered, however
/// many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    first: Vec<Invalid>,
    count: usize,
}

impl Ignored {
    /// How many are remembered.
    const MOST: usize = 8;

    /// Adds one.
    pub fn push(&mut self, make: impl FnOnce() -> Invalid) {
        self.count += 1;
        if self.first.len() < Ignored::MOST {
            self.first.push(make());
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first few.
    pub fn first(&self) -> &[Invalid] {
        &self.first
    }
}

/// The beginning of a text, as long as anyone reads.
fn excerpt(text: &str) -> String {
    const MOST: usize = 100;
    match text.len() {
        0..=MOST => text.to_owned(),
        _ => format!("{}…", &text[..text.floor_char_boundary(MOST)]),
    }
}

/// An address. Leading zeros are passed over and never mean octal (Kubernetes' `ParseIPSloppy`), and `::ffff:192.0.2.1` is
/// 192.0.2.1, as `net.IP.To4` has it in CoreDNS. A zone or a prefix length belongs to no address of an object.
pub fn address(field: impl FnOnce() -> String, text: &str) -> Result<IpAddr, Invalid> {
    let address = text.parse::<IpAddr>().ok().or_else(|| without_leading_zeros(text).parse().ok());
    let address = address.map(|address| address.to_canonical());
    address.ok_or_else(|| Invalid::Address { field: field(), text: excerpt(text) })
}

/// The text without leading zeros in the numbers of an address.
fn without_leading_zeros(text: &str) -> String {
    let mut shorter = String::with_capacity(text.len());
    for part in text.split_inclusive(['.', ':']) {
        let (number, separator) = match part.strip_suffix(['.', ':']) {
            Some(number) => (number, &part[number.len()..]),
            None => (part, ""),
        };
        let digits = number.trim_start_matches('0');
        let is_zero = digits.is_empty() && !number.is_empty();
        shorter.push_str(if is_zero { "0" } else { digits });
        shorter.push_str(separator);
    }
    shorter
}

/// A port number, 1 to 65535.
pub fn port_number(field: impl FnOnce() -> String, number: i64) -> Result<u16, Invalid> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Invalid::PortNumber { field: field(), number }),
    }
}

/// A protocol.
pub fn protocol(field: impl FnOnce() -> String, text: &str) -> Result<Protocol, Invalid> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let known = all.into_iter().find(|p| p.label().eq_ignore_ascii_case(text));
    known.ok_or_else(|| Invalid::Protocol { field: field(), text: excerpt(text) })
}

/// One of a few words.
pub fn one_of<T: Copy>(field: impl FnOnce() -> String, text: &str, words: &[(&'static str, T)]) -> Result<T, Invalid> {
    let known = words.iter().find(|(word, _)| *word == text);
    known.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        Invalid::Word { field: field(), text: excerpt(text), words: words.join(", ") }
    })
}

/// One label of a name.
pub fn label(field: impl FnOnce() -> String, text: &str) -> Result<(), Invalid> {
    if is_label(text) { Ok(()) } else { Err(Invalid::Label { field: field(), text: excerpt(text) }) }
}

/// A name of one or several labels.
pub fn subdomain(field: impl FnOnce() -> String, text: &str) -> Result<(), Invalid> {
    if crate::cluster::selector::is_subdomain(text) { Ok(()) } else { Err(name(field(), text)) }
}

/// A text that is no name.
pub fn name(field: String, text: &str) -> Invalid {
    Invalid::Name { field, text: excerpt(text) }
}

/// RFC 1123 label as Kubernetes has it: at most 63 lower-case letters, digits and '-', a letter or digit first and last.
pub fn is_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// The name of a container's port (RFC 6335 5.1 as Kubernetes has it): at most 15 lower-case letters, digits and '-', one
/// letter at least, a letter or digit first and last, and no two '-' in a row.
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15 && is_label(text) && !text.contains("--") && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A host name that fits into a DNS message; underscores are allowed, as in the targets of CNAME records.
pub fn is_target(text: &str) -> bool {
    let fits = |label: &str| (1..=63).contains(&label.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() <= 253 && text.split('.').all(|label| fits(label) && label.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n01_addresses_are_decimal_whatever_zeros_they_begin_with() {
        let read = |text: &str| address(String::new, text).ok().map(|address| address.to_string());
        for (text, want) in [
            ("10.96.011.012", "10.96.11.12"),
            ("010.244.003.007", "10.244.3.7"),
            ("0000010.0.00.000", "10.0.0.0"),
            ("010.009.08.255", "10.9.8.255"),
            ("::ffff:010.0.0.01", "10.0.0.1"),
            ("fd00:00000::00001", "fd00::1"),
            ("fd00::0", "fd00::"),
        ] {
            assert_eq!(read(text).as_deref(), Some(want), "{text}");
        }
        for text in [
            "",
            "0",
            "10.0.0",
            "10.0.0.0256",
            "10.0.0.0x1",
            "10.0.0.+1",
            "10..0.1",
            "fe80::1%eth0",
            "10.0.0.1/24",
            "None",
            ":::1",
            "fd00::00g",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn of_many_bad_values_a_few_are_remembered_and_all_are_counted() {
        let mut ignored = Ignored::default();
        (0..1_000).for_each(|_| ignored.push(|| Invalid::Missing("x")));
        assert_eq!((ignored.first().len(), ignored.count()), (Ignored::MOST, 1_000));
        let long = "ü".repeat(10_000);
        let Err(Invalid::Address { text, .. }) = address(String::new, &long) else { panic!("an address") };
        assert!(text.len() <= 104 && text.ends_with('…'), "{text}");
    }
}
