//! The destinations of *forward*, which follow FROM in its first line (CoreDNS `plugin/pkg/parse` and
//! `plugin/forward/resolve.go`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::net::split_address;
use crate::upstream::UpstreamTransport;
use crate::wire::NameBuf;

/// A destination of the Corefile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// An address.
    Server(Target),
    /// A file in the format of resolv.conf. Its servers are upstreams of plain DNS.
    File(PathBuf),
    /// A host name. Its addresses are looked up once, at start.
    Host {
        /// The name, to which no search list is applied.
        name: String,
        /// The port of all its addresses.
        port: u16,
        /// The transport to all its addresses.
        transport: UpstreamTransport,
        /// The name that certificates have to be for, if it is given.
        server_name: Option<String>,
    },
}

/// A server with a known address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address and port.
    pub address: SocketAddr,
    /// The transport.
    pub transport: UpstreamTransport,
    /// The name that its certificate has to be for, if it is given.
    pub server_name: Option<String>,
}

impl Target {
    /// Creates a server of plain DNS.
    pub fn plain(address: SocketAddr) -> Target {
        Target { address, transport: UpstreamTransport::Dns, server_name: None }
    }
}

/// Why a word of the Corefile is no destination. The texts are CoreDNS's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DestinationError {
    #[error("'{protocol}' is not supported as a destination protocol in forward: {text}")]
    Protocol { protocol: String, text: String },
    #[error("invalid address: \"{0}\"")]
    Address(String),
    #[error("paths are not allowed in HTTPS upstream addresses (the /dns-query path is used by default): {0}")]
    Path(String),
    #[error("not an IP address, file, or valid domain: \"{0}\"")]
    Unknown(String),
}

/// Returns the default port of a transport.
fn default_port(transport: UpstreamTransport) -> u16 {
    match transport {
        UpstreamTransport::Dns => 53,
        UpstreamTransport::Tls | UpstreamTransport::Quic => 853,
        UpstreamTransport::Https => 443,
    }
}

/// Parses a destination. `rooted` turns the name of a file into its path.
pub(super) fn parse(text: &str, rooted: impl Fn(&str) -> PathBuf) -> Result<To, DestinationError> {
    let (transport, rest) = match text.split_once("://") {
        None => (UpstreamTransport::Dns, text),
        Some(("dns", rest)) => (UpstreamTransport::Dns, rest),
        Some(("tls", rest)) => (UpstreamTransport::Tls, rest),
        Some(("https", rest)) => (UpstreamTransport::Https, rest),
        Some(("quic", rest)) => (UpstreamTransport::Quic, rest),
        Some((other, _)) => {
            return Err(DestinationError::Protocol { protocol: other.to_owned(), text: text.to_owned() });
        }
    };
    if rest.is_empty() {
        return Err(DestinationError::Address(text.to_owned()));
    }
    if transport == UpstreamTransport::Https && rest.contains('/') {
        return Err(DestinationError::Path(text.to_owned()));
    }
    // `1.1.1.1%name:853`, `[::1%name]:853`: the name is that of a certificate, for plain DNS that of an interface.
    let (host, port, name) = split_address(rest).ok_or_else(|| DestinationError::Address(text.to_owned()))?;
    let server_name = name.filter(|_| matches!(transport, UpstreamTransport::Tls | UpstreamTransport::Quic));
    let port = port.unwrap_or(default_port(transport));
    if let Ok(ip) = host.parse::<IpAddr>() {
        let address = match (ip, name) {
            (IpAddr::V6(ip), Some(interface)) if transport == UpstreamTransport::Dns && ip.is_unicast_link_local() => {
                let scope = nix::net::if_::if_nametoindex(interface).unwrap_or(0);
                std::net::SocketAddrV6::new(ip, port, 0, scope).into()
            }
            _ => SocketAddr::new(ip, port),
        };
        return Ok(To::Server(Target { address, transport, server_name: server_name.map(str::to_owned) }));
    }
    let path = rooted(rest);
    if path.is_file() {
        return Ok(To::File(path));
    }
    let is_of_hosts = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') || !byte.is_ascii();
    let is_name = NameBuf::from_text(host).is_ok_and(|name| !name.as_name().is_root());
    if !is_name || !host.bytes().all(is_of_hosts) {
        return Err(DestinationError::Unknown(text.to_owned()));
    }
    let server_name = server_name.map(str::to_owned);
    Ok(To::Host { name: host.to_owned(), port, transport, server_name })
}

/// Returns what was probably meant by a text that is no destination: without punctuation, or with the syntax of
/// variables.
pub(super) fn suggestion(text: &str) -> Option<String> {
    if let Some(name) = text.strip_prefix('$') {
        return Some(format!("{{${}}}", name.trim_matches(['{', '}', '(', ')'])));
    }
    let trimmed = text.trim_matches([',', ';']);
    let is_address = parse(trimmed, |_| PathBuf::new()).is_ok();
    (trimmed != text && is_address).then(|| trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::Folder;

    fn read(text: &str) -> String {
        match parse(text, |name| PathBuf::from("/nowhere").join(name)) {
            Ok(To::Server(Target { address, transport, server_name })) => {
                format!("{address} {transport:?} {}", server_name.unwrap_or_default())
            }
            Ok(To::Host { name, port, transport, server_name }) => {
                format!("host {name} {port} {transport:?} {}", server_name.unwrap_or_default())
            }
            Ok(To::File(path)) => format!("file {}", path.display()),
            Err(error) => format!("error {error}"),
        }
    }

    #[test]
    fn destinations_are_parsed_as_in_coredns() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1:53 Dns "),
            ("10.0.0.1:5353", "10.0.0.1:5353 Dns "),
            ("dns://10.0.0.1", "10.0.0.1:53 Dns "),
            ("::1", "[::1]:53 Dns "),
            ("[::1]", "[::1]:53 Dns "),
            ("[::1]:54", "[::1]:54 Dns "),
            ("tls://9.9.9.9", "9.9.9.9:853 Tls "),
            ("tls://9.9.9.9%dns.quad9.net", "9.9.9.9:853 Tls dns.quad9.net"),
            ("tls://9.9.9.9%dns.quad9.net:8853", "9.9.9.9:8853 Tls dns.quad9.net"),
            ("tls://9.9.9.9:8853%dns.quad9.net", "9.9.9.9:8853 Tls dns.quad9.net"),
            ("tls://[2620:fe::fe%dns.quad9.net]:853", "[2620:fe::fe]:853 Tls dns.quad9.net"),
            ("tls://[2620:fe::fe]:8853%dns.quad9.net", "[2620:fe::fe]:8853 Tls dns.quad9.net"),
            ("tls://2620:fe::fe%dns.quad9.net", "[2620:fe::fe]:853 Tls dns.quad9.net"),
            ("quic://9.9.9.9%a.b:1", "9.9.9.9:1 Quic a.b"),
            ("https://1.1.1.1", "1.1.1.1:443 Https "),
            ("dns.example.org", "host dns.example.org 53 Dns "),
            ("dns.example.org:5353", "host dns.example.org 5353 Dns "),
            ("tls://dns.example.org", "host dns.example.org 853 Tls "),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in [
            "https://1.1.1.1/dns-query",
            "grpc://1.1.1.1",
            "tls://",
            "10.0.0.1:99999",
            "tls://10.0.0.1:x%a",
            "a..b",
            "/no/such/file",
        ] {
            assert!(read(text).starts_with("error "), "{text}: {}", read(text));
        }
    }

    #[test]
    fn a_file_that_exists_is_a_list_of_servers() {
        let folder = Folder::new("resolv");
        let path = folder.write("resolv.conf", "nameserver ::1\n");
        let parsed = parse("resolv.conf", |name| folder.path().join(name));
        assert_eq!(parsed.expect("a file"), To::File(path));
    }
}
