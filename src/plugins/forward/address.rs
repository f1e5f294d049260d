//! Where queries go: what stands behind FROM in the first line (CoreDNS plugin/pkg/parse and
//! plugin/forward/resolve.go).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::upstream::Transport;
use crate::wire::NameBuf;

/// A destination as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// An address.
    Server(Target),
    /// A file of the form of resolv.conf, whose servers are asked in plain DNS.
    File(PathBuf),
    /// A name, whose addresses are looked up at start.
    Host {
        /// The name; no search list is applied to it.
        name: String,
        /// The port of each address.
        port: u16,
        /// How they are spoken to.
        transport: Transport,
        /// The name in their certificate.
        server_name: Option<String>,
    },
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
    /// The name in its certificate.
    pub server_name: Option<String>,
}

impl Target {
    /// A server of plain DNS.
    pub fn plain(address: SocketAddr) -> Target {
        Target { address, transport: Transport::Dns, server_name: None }
    }
}

/// The port of a transport.
fn port_of(transport: Transport) -> u16 {
    match transport {
        Transport::Dns => 53,
        Transport::Tls | Transport::Quic => 853,
        Transport::Https => 443,
    }
}

/// Reads a destination. `rooted` makes a path of a file's name.
pub(super) fn parse(text: &str, rooted: impl Fn(&str) -> PathBuf) -> Result<To, String> {
    let (transport, rest) = match text.split_once("://") {
        None => (Transport::Dns, text),
        Some(("dns", rest)) => (Transport::Dns, rest),
        Some(("tls", rest)) => (Transport::Tls, rest),
        Some(("https", rest)) => (Transport::Https, rest),
        Some(("quic", rest)) => (Transport::Quic, rest),
        Some((other, _)) => {
            return Err(format!("'{other}' is not supported as a destination protocol in forward: {text}"));
        }
    };
    if rest.is_empty() {
        return Err(format!("invalid address: \"{text}\""));
    }
    if transport == Transport::Https && rest.contains('/') {
        return Err(format!(
            "paths are not allowed in HTTPS upstream addresses (the /dns-query path is used by default): {text}"
        ));
    }
    // `1.1.1.1%name:853`, `[::1%name]:853`: the name is of a certificate, or of an interface in plain DNS.
    let (host, port, name) = split(rest).ok_or_else(|| format!("invalid address: \"{text}\""))?;
    let server_name = name.filter(|_| matches!(transport, Transport::Tls | Transport::Quic));
    let port = port.unwrap_or(port_of(transport));
    if let Ok(ip) = host.parse::<IpAddr>() {
        let address = match (ip, name) {
            (IpAddr::V6(ip), Some(interface)) if transport == Transport::Dns && ip.is_unicast_link_local() => {
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
    let is_name = NameBuf::from_text(host).is_ok_and(|name| !name.as_name().is_root());
    if !is_name || host.contains(['/', ' ']) {
        return Err(format!("not an IP address, file, or valid domain: \"{text}\""));
    }
    let server_name = server_name.map(str::to_owned);
    Ok(To::Host { name: host.to_owned(), port, transport, server_name })
}

/// Host, port and the name behind `%`. Nothing where the port is none.
fn split(text: &str) -> Option<(&str, Option<u16>, Option<&str>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return None,
        }
    } else {
        // More than one colon is an IPv6 address without brackets; a name of a certificate has none.
        let (address, name) = text.split_once('%').map_or((text, None), |(address, name)| (address, Some(name)));
        match name.unwrap_or(address).rsplit_once(':') {
            Some((_, port)) if name.is_some() || address.matches(':').nth(1).is_none() => {
                (&text[..text.len() - port.len() - 1], Some(port))
            }
            _ => (text, None),
        }
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    match host.split_once('%') {
        Some((host, name)) => Some((host, port, Some(name).filter(|name| !name.is_empty()))),
        None => Some((host, port, None)),
    }
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
    fn destinations_are_read_as_in_coredns() {
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
            ("tls://[2620:fe::fe%dns.quad9.net]:853", "[2620:fe::fe]:853 Tls dns.quad9.net"),
            ("tls://2620:fe::fe%dns.quad9.net", "[2620:fe::fe]:853 Tls dns.quad9.net"),
            ("quic://9.9.9.9%a.b:1", "9.9.9.9:1 Quic a.b"),
            ("https://1.1.1.1", "1.1.1.1:443 Https "),
            ("dns.example.org", "host dns.example.org 53 Dns "),
            ("dns.example.org:5353", "host dns.example.org 5353 Dns "),
            ("tls://dns.example.org", "host dns.example.org 853 Tls "),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in ["https://1.1.1.1/dns-query", "grpc://1.1.1.1", "tls://", "10.0.0.1:99999", "a..b", "/no/such/file"]
        {
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
