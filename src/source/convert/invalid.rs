//! Errors in objects, and the checks of single values.

use std::fmt;
use std::net::IpAddr;

use crate::cluster::model::Protocol;
use crate::cluster::selector::{is_dns_label, is_subdomain};

/// An error in an object or in a field of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Invalid {
    /// The value of the field does not have the type of the API.
    #[error("{field}: expected {expected}, found {found}")]
    Type {
        /// The path of the field from the root of the object.
        field: String,
        /// The expected value.
        expected: &'static str,
        /// The JSON type of the value.
        found: JsonType,
    },
    /// The object cannot be deserialized.
    #[error("{0}")]
    Unreadable(String),
    /// A required field is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A required field of an element of a list is absent.
    #[error("{0} is missing")]
    MissingAt(String),
    /// A value that is not one of the allowed words.
    #[error("{field}: {text:?} is not one of {words}")]
    Word {
        /// The path of the field from the root of the object.
        field: String,
        /// The value.
        text: String,
        /// The allowed words.
        words: String,
    },
    /// A value that is not an IP address.
    #[error("{field}: {text:?} is not an IP address")]
    Address {
        /// The path of the field from the root of the object.
        field: String,
        /// The value.
        text: String,
    },
    /// A number that is not a port.
    #[error("{field}: {number} is not a port number (1 to 65535)")]
    PortNumber {
        /// The path of the field from the root of the object.
        field: String,
        /// The value.
        number: i64,
    },
    /// A value that is not a transport protocol.
    #[error("{field}: {text:?} is not a protocol (TCP, UDP or SCTP)")]
    Protocol {
        /// The path of the field from the root of the object.
        field: String,
        /// The value.
        text: String,
    },
    /// A value that is not a label of a name.
    #[error(
        "{field}: {text:?} is not a DNS label (at most 63 lower-case letters, digits and '-', a letter or digit first and last)"
    )]
    Label {
        /// The path of the field from the root of the object.
        field: String,
        /// The value.
        text: String,
    },
    /// A value that is not a name.
    #[error("{field}: {text:?} is not a DNS name")]
    Name {
        /// The path of the field from the root of the object.
        field: String,
        /// The value.
        text: String,
    },
}

/// The JSON type of an unexpected value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JsonType {
    /// A string.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A list.
    List,
    /// A map.
    Map,
}

impl fmt::Display for JsonType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JsonType::String => "a string",
            JsonType::Number => "a number",
            JsonType::Boolean => "true or false",
            JsonType::List => "a list",
            JsonType::Map => "a map",
        })
    }
}

/// The values of an object that are ignored while the rest of it is used. Only the first few are stored, however many
/// there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    first: Vec<Invalid>,
    count: usize,
}

impl Ignored {
    /// The maximum number of stored errors.
    const MAX: usize = 8;

    /// Adds an ignored value.
    pub fn push(&mut self, make: impl FnOnce() -> Invalid) {
        self.count += 1;
        if self.first.len() < Ignored::MAX {
            self.first.push(make());
        }
    }

    /// Returns the number of ignored values.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the first few errors.
    pub fn first(&self) -> &[Invalid] {
        &self.first
    }
}

/// Returns the start of a text, limited to a readable length.
fn excerpt(text: &str) -> String {
    const MAX: usize = 100;
    match text.len() {
        0..=MAX => text.to_owned(),
        _ => format!("{}…", &text[..text.floor_char_boundary(MAX)]),
    }
}

/// Parses an address. Leading zeros are ignored and never mean octal (`ParseIPSloppy` of Kubernetes), and
/// `::ffff:192.0.2.1` is 192.0.2.1, as with `net.IP.To4` in CoreDNS. An address with a zone or a prefix length is an
/// error.
pub fn parse_address(field: impl FnOnce() -> String, text: &str) -> Result<IpAddr, Invalid> {
    let address = text.parse::<IpAddr>().ok().or_else(|| without_leading_zeros(text).parse().ok());
    let address = address.map(|address| address.to_canonical());
    address.ok_or_else(|| Invalid::Address { field: field(), text: excerpt(text) })
}

/// Removes leading zeros from the numbers of an address.
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

/// Checks a port number, 1 to 65535.
pub fn check_port_number(field: impl FnOnce() -> String, number: i64) -> Result<u16, Invalid> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Invalid::PortNumber { field: field(), number }),
    }
}

/// Parses a protocol.
pub fn parse_protocol(field: impl FnOnce() -> String, text: &str) -> Result<Protocol, Invalid> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let known = all.into_iter().find(|p| p.label().eq_ignore_ascii_case(text));
    known.ok_or_else(|| Invalid::Protocol { field: field(), text: excerpt(text) })
}

/// Parses one of a few words.
pub fn parse_word<T: Copy>(
    field: impl FnOnce() -> String, text: &str, words: &[(&'static str, T)],
) -> Result<T, Invalid> {
    let known = words.iter().find(|(word, _)| *word == text);
    known.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).filter(|word| !word.is_empty()).collect();
        Invalid::Word { field: field(), text: excerpt(text), words: words.join(", ") }
    })
}

/// Checks a label of a name.
pub fn check_label(field: impl FnOnce() -> String, text: &str) -> Result<(), Invalid> {
    if is_dns_label(text) { Ok(()) } else { Err(Invalid::Label { field: field(), text: excerpt(text) }) }
}

/// Checks a name of one or several labels.
pub fn check_subdomain(field: impl FnOnce() -> String, text: &str) -> Result<(), Invalid> {
    if is_subdomain(text) { Ok(()) } else { Err(invalid_name(field(), text)) }
}

/// Returns the error for a text that is not a name.
pub fn invalid_name(field: String, text: &str) -> Invalid {
    Invalid::Name { field, text: excerpt(text) }
}

/// Returns whether a text is the name of a container port (RFC 6335 5.1 as in Kubernetes): at most 15 lower-case
/// letters, digits and '-', at least one letter, a letter or digit at both ends, and no two '-' in a row.
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15 && is_dns_label(text) && !text.contains("--") && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Returns whether a text is a host name that fits into a DNS message; underscores are allowed, as in the targets of
/// CNAME records.
pub fn is_host_name(text: &str) -> bool {
    let fits = |label: &str| (1..=63).contains(&label.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() <= 253 && text.split('.').all(|label| fits(label) && label.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n01_addresses_with_leading_zeros_are_decimal() {
        let read = |text: &str| parse_address(String::new, text).ok().map(|address| address.to_string());
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
    fn of_many_invalid_values_a_few_are_stored_and_all_are_counted() {
        let mut ignored = Ignored::default();
        (0..1_000).for_each(|_| ignored.push(|| Invalid::Missing("x")));
        assert_eq!((ignored.first().len(), ignored.count()), (Ignored::MAX, 1_000));
        let long = "ü".repeat(10_000);
        let Err(Invalid::Address { text, .. }) = parse_address(String::new, &long) else { panic!("an address") };
        assert!(text.len() <= 104 && text.ends_with('…'), "{text}");
    }
}
