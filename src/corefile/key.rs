//! Keys of server blocks, `[scheme://]zone[:port]`, and zones in keys and in arguments of plugins. A network in CIDR
//! notation expands to its reverse zones.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::diagnostic::{Diagnostic, Diagnostics, Stage, suggest};
use super::token::Token;

/// The maximum length of a zone's text in bytes (`plugin/normalize.go` `SplitHostPort`).
const MAX_ZONE: usize = 255;

/// The transport of a server block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// UDP and TCP.
    #[default]
    Dns,
    /// DNS over TLS.
    Tls,
    /// DNS over QUIC.
    Quic,
    /// gRPC.
    Grpc,
    /// DNS over HTTPS.
    Https,
    /// DNS over HTTP/3.
    Https3,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 6] = [Scheme::Dns, Scheme::Tls, Scheme::Quic, Scheme::Grpc, Scheme::Https, Scheme::Https3];

    /// Returns the name, without `://`.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Dns => "dns",
            Scheme::Tls => "tls",
            Scheme::Quic => "quic",
            Scheme::Grpc => "grpc",
            Scheme::Https => "https",
            Scheme::Https3 => "https3",
        }
    }

    /// Returns the port of a key without one. For [`Scheme::Dns`] the flag `-dns.port` overrides it.
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Dns => 53,
            Scheme::Tls | Scheme::Quic => 853,
            Scheme::Grpc | Scheme::Https | Scheme::Https3 => 443,
        }
    }

    /// Splits a text into scheme and rest. Schemes are case-sensitive; an unknown one is part of the name.
    pub fn split(text: &str) -> (Scheme, &str) {
        text.split_once("://")
            .and_then(|(name, rest)| Some((Scheme::ALL.into_iter().find(|scheme| scheme.name() == name)?, rest)))
            .unwrap_or((Scheme::Dns, text))
    }
}

/// A key of a server block.
#[derive(Clone, Debug)]
pub struct BlockKey {
    /// As written, without a trailing comma.
    pub token: Token,
    /// The transport.
    pub scheme: Scheme,
    /// Lower case and fully qualified, `cluster.local.`. At least one; several for a network that expands.
    pub zones: Vec<String>,
    /// The port, if the key has one.
    pub port: Option<u16>,
}

impl BlockKey {
    /// Returns the port to listen on; `dns_port` is the value of `-dns.port`.
    pub fn port_or_default(&self, dns_port: u16) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Dns => dns_port,
            other => other.default_port(),
        })
    }

    /// Parses a key. Returns `None`, and reports an error, for a key that CoreDNS rejects.
    pub(super) fn parse(token: Token, diagnostics: &mut Diagnostics) -> Option<BlockKey> {
        let (scheme, rest) = Scheme::split(&token.text);
        let (zones, port) = match split_port(rest).and_then(|(zone, port)| Ok((zones_of(zone)?, port))) {
            Ok(parsed) => parsed,
            Err(error) => {
                let diagnostic = Diagnostic::error(Stage::Keys, Some(token.span), error.to_string());
                diagnostics.push(diagnostic.expected(if token.text.ends_with('{') {
                    "white space before '{'"
                } else {
                    "a key of the form [SCHEME://]ZONE[:PORT]"
                }));
                return None;
            }
        };
        // CoreDNS notices this only when it opens the socket.
        let port = match port.map(|port| u16::try_from(port).map_err(|_| port)).transpose() {
            Ok(port) => port,
            Err(port) => {
                let diagnostic =
                    Diagnostic::error(Stage::Setup, Some(token.span), format!("address {port}: invalid port"));
                diagnostics.push(diagnostic.expected("a port from 1 to 65535"));
                return None;
            }
        };
        for zone in zones.iter().filter(|zone| !is_preferred(zone)) {
            let message = format!("Domain \"{zone}\" does not follow RFC1035 preferred syntax");
            let diagnostic = Diagnostic::warning(Stage::Keys, Some(token.span), message);
            diagnostics.push(match explain_zone(&token.text) {
                Some((expected, suggestion)) => diagnostic.expected(expected).suggestion(suggestion),
                None => diagnostic,
            });
        }
        Some(BlockKey { token, scheme, zones, port })
    }
}

/// Returns what a key that is an unusual zone was probably meant to be, and a suggestion.
fn explain_zone(key: &str) -> Option<(String, Option<String>)> {
    let schemes = || Scheme::ALL.into_iter().map(Scheme::name);
    if key.contains(['{', '}']) {
        Some(("white space around '{' and '}'".to_owned(), None))
    } else if let Some((name, rest)) = key.split_once("://").filter(|(name, _)| schemes().all(|scheme| scheme != *name))
    {
        let known: Vec<String> = schemes().map(|scheme| format!("{scheme}://")).collect();
        let suggestion = suggest(name, schemes()).map(|scheme| format!("{scheme}://{rest}"));
        Some((format!("one of {}: '{name}://' is read as a part of the zone", known.join(", ")), suggestion))
    } else if let Some(rest) = key.strip_prefix("*.") {
        Some((format!("'{rest}': a zone includes every name below it, and '*' only the name with a '*'"), None))
    } else if is_failed_network(split_port(key).map_or(key, |(zone, _)| zone)) {
        Some((NETWORK_EXPECTED.to_owned(), None))
    } else {
        None
    }
}

/// What is expected in the place of a network with an error.
pub(super) const NETWORK_EXPECTED: &str =
    "a network such as 10.96.0.0/16, or a reverse zone such as 96.10.in-addr.arpa";

/// Returns whether a text looks like a network and is none, so that it is read as a name. Zones of RFC 2317 such as
/// `0/25.2.0.192.in-addr.arpa` do not look so.
pub(super) fn is_failed_network(text: &str) -> bool {
    let is_address = |part: &str| {
        part.contains(['.', ':']) && part.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:".contains(&byte))
    };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let looks_so = text.split_once('/').is_some_and(|(address, length)| is_address(address) && is_number(length));
    looks_so && parse_cidr(text).is_none()
}

/// Why a text is not a zone, in CoreDNS's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// It is empty, or ends in a colon.
    #[error("expecting data after last colon: \"{0}\"")]
    NothingAfterColon(String),
    /// It has more than 255 bytes.
    #[error("specified zone is too long: {0} > {MAX_ZONE}")]
    TooLong(usize),
    /// A label is empty or too long, or the zone before the port is missing.
    #[error("zone is not a valid domain name: {0}")]
    NotAName(String),
    /// An IPv6 network whose text starts with `:` or `0`, which CoreDNS cannot distinguish from a port.
    #[error("invalid CIDR {0}")]
    InvalidCidr(String),
    /// A scheme that is valid for upstreams only.
    #[error("'unix://' is for upstreams only")]
    Unix,
}

/// Returns the zones of a key or of an argument of a plugin: scheme and port are removed, a network is expanded, and
/// names are lower-cased and fully qualified. CoreDNS's plugins ignore an invalid argument without a message.
pub fn normalize_zones(token: &Token) -> Result<Vec<String>, ZoneError> {
    let (_, rest) = Scheme::split(&token.text);
    split_port(rest).and_then(|(zone, _)| zones_of(zone))
}

/// Splits off the port: what follows the last colon, if it is a number.
fn split_port(text: &str) -> Result<(&str, Option<i64>), ZoneError> {
    if text.is_empty() || text.ends_with(':') {
        return Err(ZoneError::NothingAfterColon(text.to_owned()));
    }
    if text.starts_with("unix://") {
        return Err(ZoneError::Unix);
    }
    let split = text.rsplit_once(':').and_then(|(zone, port)| Some((zone, Some(port.parse().ok()?))));
    Ok(split.unwrap_or((text, None)))
}

/// Validates the name of a zone, and expands a network.
fn zones_of(zone: &str) -> Result<Vec<String>, ZoneError> {
    if zone.len() > MAX_ZONE {
        return Err(ZoneError::TooLong(zone.len()));
    }
    if !is_domain_name(zone) {
        return Err(ZoneError::NotAName(zone.to_owned()));
    }
    if let Some((address, length)) = parse_cidr(zone) {
        if zone.starts_with(':') || (zone.starts_with('0') && address.is_ipv6()) {
            return Err(ZoneError::InvalidCidr(zone.to_owned()));
        }
        return Ok(reverse_zones(address, length));
    }
    let qualified = if is_qualified(zone) { zone.to_owned() } else { format!("{zone}.") };
    // CoreDNS checks again with the final dot, which is one byte more; in wire format a name has yet another byte.
    if qualified.len() + 1 > MAX_ZONE {
        return Err(ZoneError::TooLong(qualified.len() + 1));
    }
    Ok(vec![qualified.to_lowercase()])
}

/// Parses a network as Go's `net.ParseCIDR` does: without a scope, and with a length of digits only.
fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let max = if address.is_ipv4() { 32 } else { 128 };
    length.parse().ok().filter(|length| *length <= max).map(|length| (address, length))
}

/// Returns the reverse zones of a network: one if its length is a multiple of 8 (IPv4) or 4 bits (IPv6), otherwise all
/// zones of the next such length, at most 128.
pub fn reverse_zones(address: IpAddr, length: u8) -> Vec<String> {
    // The address as labels of the reverse name, from the left: bytes or nibbles.
    let (digits, width): (Vec<u8>, u8) = match address {
        IpAddr::V4(address) => (address.octets().to_vec(), 8),
        IpAddr::V6(address) => (address.octets().iter().flat_map(|byte| [byte >> 4, byte & 15]).collect(), 4),
    };
    let used = usize::from(length.div_ceil(width)).min(digits.len());
    let free_bits = (width - length % width) % width;
    let (last, before) = match digits[..used].split_last() {
        Some((last, before)) => (Some(*last), before),
        None => (None, &digits[..0]),
    };
    // The zones differ in the free bits of the last digit; without a digit there is one zone.
    let first = last.map_or(0, |digit| digit >> free_bits << free_bits);
    let count = 1u16 << free_bits;
    (0..count)
        .map(|index| {
            let mut zone = String::new();
            let last = last.map(|_| u16::from(first) + index);
            for digit in last.into_iter().chain(before.iter().rev().map(|digit| u16::from(*digit))) {
                // Writing to a String cannot fail.
                let _ = if width == 8 { write!(zone, "{digit}.") } else { write!(zone, "{digit:x}.") };
            }
            zone + if width == 8 { "in-addr.arpa." } else { "ip6.arpa." }
        })
        .collect()
}

/// Returns whether a name ends in an unescaped dot.
fn is_qualified(name: &str) -> bool {
    name.strip_suffix('.').is_some_and(|rest| rest.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0)
}

/// Returns whether a text is a domain name as in `miekg/dns` `IsDomainName`: any characters, labels of 1 to 63 bytes,
/// and the root.
pub fn is_domain_name(name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    if name == "." {
        return true;
    }
    let qualified;
    let bytes = if is_qualified(name) {
        name.as_bytes()
    } else {
        qualified = format!("{name}.");
        qualified.as_bytes()
    };
    let (mut label, mut total, mut at) = (0usize, 0usize, 0usize);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\\' => {
                let digits = bytes.get(at..at + 3).is_some_and(|ddd| ddd.iter().all(u8::is_ascii_digit));
                at += if digits { 3 } else { 1 };
                label += 1;
            }
            b'.' => {
                total += 1 + label;
                if label == 0 || label > 63 || total > 256 {
                    return false;
                }
                label = 0;
            }
            _ => label += 1,
        }
    }
    // If a backslash escapes the last dot, a label is not terminated.
    label == 0
}

/// Returns whether a zone follows the preferred syntax (RFC 1035 2.3.1), or is the root or a reverse zone, so that
/// CoreDNS does not warn about it at start.
fn is_preferred(zone: &str) -> bool {
    if zone == "." || zone.ends_with("in-addr.arpa.") || zone.ends_with("ip6.arpa.") {
        return true;
    }
    zone.strip_suffix('.').unwrap_or(zone).split('.').all(|label| {
        label.starts_with(|c: char| c.is_ascii_alphabetic())
            && label.ends_with(|c: char| c.is_ascii_alphanumeric())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a token without a place.
    fn word(text: &str) -> Token {
        Token { text: text.to_owned(), span: Default::default(), written_at: None, line_start: false }
    }

    /// Returns a key as text, or the message about it.
    fn key(text: &str) -> String {
        let mut diagnostics = Diagnostics::new();
        match BlockKey::parse(word(text), &mut diagnostics) {
            Some(BlockKey { scheme, zones, port, .. }) => {
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("{}://{}{port}", scheme.name(), zones.join(","))
            }
            None => diagnostics.iter().map(|diagnostic| diagnostic.message.clone()).collect(),
        }
    }

    #[test]
    fn keys_are_parsed_as_in_coredns() {
        let label = "a".repeat(63);
        let long = "a.".repeat(127);
        for (text, expected) in [
            (".", "dns://."),
            ("Example.ORG", "dns://example.org."),
            ("example.org.:53", "dns://example.org.:53"),
            ("a:+5", "dns://a.:5"),
            (".:0", "dns://.:0"),
            ("tls://.", "tls://."),
            ("https3://a:1", "https3://a.:1"),
            ("DNS://x", "dns://dns://x."),
            ("http://x", "dns://http://x."),
            ("dns://tls://x", "dns://tls://x."),
            ("a:dns", "dns://a:dns."),
            ("a:99999999999999999999", "dns://a:99999999999999999999."),
            ("a\\.b", "dns://a\\.b."),
            ("2001:db8::1", "dns://2001:db8:.:1"),
            ("a..b", "zone is not a valid domain name: a..b"),
            (".a", "zone is not a valid domain name: .a"),
            (".:dns", "zone is not a valid domain name: .:dns"),
            ("a\\", "zone is not a valid domain name: a\\"),
            (":53", "zone is not a valid domain name: "),
            ("", "expecting data after last colon: \"\""),
            ("dns://", "expecting data after last colon: \"\""),
            ("a:", "expecting data after last colon: \"a:\""),
            (".:70000", "address 70000: invalid port"),
            (".:-5", "address -5: invalid port"),
            ("unix://x", "'unix://' is for upstreams only"),
            ("::/0", "invalid CIDR ::/0"),
            ("0:1::/64", "invalid CIDR 0:1::/64"),
            (&label, &format!("dns://{label}.")),
            (&long, &format!("dns://{long}")),
            (&format!("{label}a"), &format!("zone is not a valid domain name: {label}a")),
            (&"a".repeat(256), "specified zone is too long: 256 > 255"),
        ] {
            assert_eq!(key(text), expected, "{text}");
        }
    }

    #[test]
    fn networks_expand_to_reverse_zones() {
        for (text, first, last, count) in [
            ("10.0.0.0/8", "10.in-addr.arpa.", "10.in-addr.arpa.", 1),
            ("10.1.2.3/24", "2.1.10.in-addr.arpa.", "2.1.10.in-addr.arpa.", 1),
            ("10.1.2.3/32", "3.2.1.10.in-addr.arpa.", "3.2.1.10.in-addr.arpa.", 1),
            ("0.0.0.0/0", "in-addr.arpa.", "in-addr.arpa.", 1),
            ("10.96.0.0/12", "96.10.in-addr.arpa.", "111.10.in-addr.arpa.", 16),
            ("10.0.0.0/17", "0.0.10.in-addr.arpa.", "127.0.10.in-addr.arpa.", 128),
            ("10.0.0.0/08:53", "10.in-addr.arpa.", "10.in-addr.arpa.", 1),
            ("255.255.255.255/1", "128.in-addr.arpa.", "255.in-addr.arpa.", 128),
            ("2001:db8::/32", "8.b.d.0.1.0.0.2.ip6.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.", 1),
            ("2000::/3", "2.ip6.arpa.", "3.ip6.arpa.", 2),
            ("10.0.0.0/33", "10.0.0.0/33.", "10.0.0.0/33.", 1),
            ("010.0.0.0/8", "010.0.0.0/8.", "010.0.0.0/8.", 1),
        ] {
            let zones = normalize_zones(&word(text)).unwrap();
            assert_eq!(
                (zones[0].as_str(), zones[zones.len() - 1].as_str(), zones.len()),
                (first, last, count),
                "{text}"
            );
        }
    }

    #[test]
    fn unusual_names_are_reported() {
        for (zone, preferred) in [
            (".", true),
            ("a-b.c1.", true),
            ("10.in-addr.arpa.", true),
            ("_a.b.", false),
            ("a-.b.", false),
            ("1a.", false),
        ] {
            assert_eq!(is_preferred(zone), preferred, "{zone}");
        }
    }
}
