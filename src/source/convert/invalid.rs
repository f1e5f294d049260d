//! What can be wrong with an object, and the checks of single values.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::Deserializer;

use crate::cluster::model::Protocol;

/// Why an object, or a field of it, is of no use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Invalid {
    /// The field does not have the type that the API gives it.
    #[error("{field}: {reason}")]
    Type {
        /// The field, as a path from the object's root.
        field: String,
        /// The deserialiser's words.
        reason: String,
    },
    /// A required field is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A required field of one element of a list is absent.
    #[error("{0} is missing")]
    MissingAt(String),
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

/// Deserialises with the field's path in the error. Slower than doing without: for text that has failed once already,
/// and for manifests.
pub fn check<'de, T: Deserialize<'de>>(from: impl Deserializer<'de>) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(from).map_err(|error| {
        let field = match error.path().to_string() {
            root if root == "." => "the object".to_owned(),
            path => path,
        };
        Invalid::Type { field, reason: error.into_inner().to_string() }
    })
}

/// An address. `::ffff:192.0.2.1` is 192.0.2.1, as `net.IP.To4` has it in CoreDNS.
pub fn address(field: impl Into<String>, text: &str) -> Result<IpAddr, Invalid> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(Invalid::Address { field: field.into(), text: text.to_owned() }),
    }
}

/// A port number, 1 to 65535.
pub fn port_number(field: impl Into<String>, number: i64) -> Result<u16, Invalid> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Invalid::PortNumber { field: field.into(), number }),
    }
}

/// A protocol; the API's default is TCP.
pub fn protocol(field: impl Into<String>, text: &str) -> Result<Protocol, Invalid> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    if text.is_empty() {
        return Ok(Protocol::Tcp);
    }
    let known = all.into_iter().find(|p| p.label().eq_ignore_ascii_case(text));
    known.ok_or_else(|| Invalid::Protocol { field: field.into(), text: text.to_owned() })
}

/// One label of a name.
pub fn label(field: &str, text: &str) -> Result<(), Invalid> {
    if is_label(text) { Ok(()) } else { Err(Invalid::Label { field: field.to_owned(), text: text.to_owned() }) }
}

/// A name of one or several labels.
pub fn subdomain(field: &str, text: &str) -> Result<(), Invalid> {
    if crate::cluster::selector::is_subdomain(text) {
        Ok(())
    } else {
        Err(Invalid::Name { field: field.to_owned(), text: text.to_owned() })
    }
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

/// A host name that fits into a DNS message; underscores are allowed, as in the targets of CNAME records.
pub fn is_target(text: &str) -> bool {
    let fits = |label: &str| (1..=63).contains(&label.len());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() <= 253 && text.split('.').all(|label| fits(label) && label.bytes().all(plain))
}
