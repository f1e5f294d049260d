//! The HTTP listen address of *health*, *ready* and *prometheus*, in the format of Go's `net.SplitHostPort`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::corefile::{Arguments, Diagnostic, Stage};

/// A host and a port to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageAddress {
    /// An IP address or a host name; empty for all addresses of the machine.
    host: String,
    /// The port; 0 for a free one.
    port: u16,
}

/// Why a text is not an address and a port. The message is Go's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {text}: {problem}")]
pub struct PageAddressError {
    text: String,
    problem: &'static str,
}

/// The expected format, for errors.
const EXPECTED: &str = "an address and port such as :8080 or 127.0.0.1:8080";

impl PageAddress {
    /// Parses the next word of a line, or `default` if there is none.
    pub fn read(line: &mut Arguments<'_, '_>, default: &str) -> Option<PageAddress> {
        if line.more() {
            let word = line.next_word()?;
            return match PageAddress::parse(&word.text) {
                Ok(address) => Some(address),
                Err(error) => {
                    let is_port = word.text.parse::<u16>().is_ok();
                    let diagnostic = Diagnostic::error(Stage::Parse, Some(word.span), error.to_string());
                    let suggestion = is_port.then(|| format!(":{}", word.text));
                    line.push(diagnostic.expected(EXPECTED).suggestion(suggestion));
                    None
                }
            };
        }
        PageAddress::parse(default).ok()
    }

    /// Parses `HOST:PORT`, where an IPv6 address is in brackets.
    pub fn parse(text: &str) -> Result<PageAddress, PageAddressError> {
        let error = |problem| PageAddressError { text: text.to_owned(), problem };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error("missing port in address"))?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']').ok_or_else(|| error("missing ']' in address"))?,
            None if host.contains(':') => return Err(error("too many colons in address")),
            None => host,
        };
        if host.contains(['[', ']']) {
            return Err(error("unexpected bracket in address"));
        }
        // Go parses the port only when it listens. An empty port is 0.
        let port: u16 = if port.is_empty() { 0 } else { port.parse().map_err(|_| error("invalid port"))? };
        Ok(PageAddress { host: host.to_owned(), port })
    }

    /// Returns the port; 0 for a free one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether a visitor reaches the page at the loopback address, as far as that is known without a look-up.
    pub fn includes_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_unspecified() || ip.is_loopback(),
            Err(_) => self.host.is_empty() || self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Returns the socket address. Looks up a host name, which blocks, and prefers its IPv4 address, as in Go.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        if self.host.is_empty() {
            return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port)));
        }
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, self.port));
        }
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
        first.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))
    }
}

impl fmt::Display for PageAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PageAddress { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_as_in_go() {
        for (text, address) in [
            (":8080", "[::]:8080"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:9153", "[::1]:9153"),
            ("localhost:9153", "127.0.0.1:9153"),
            ("127.0.0.1:", "127.0.0.1:0"),
        ] {
            let parsed = PageAddress::parse(text).expect(text);
            assert_eq!(parsed.resolve().expect(text).to_string(), address);
        }
        for (text, includes) in [(":1", true), ("0.0.0.0:1", true), ("localhost:1", true), ("192.0.2.1:1", false)] {
            assert_eq!(PageAddress::parse(text).expect(text).includes_loopback(), includes, "{text}");
        }
        assert_eq!(PageAddress::parse("[::1]:1").expect("good").to_string(), "[::1]:1");
        assert_eq!(PageAddress::parse(":1").expect("good").to_string(), ":1");
        for (text, message) in [
            ("8080", "address 8080: missing port in address"),
            ("::1:80", "address ::1:80: too many colons in address"),
            ("[::1:80", "address [::1:80: missing ']' in address"),
            ("a]:80", "address a]:80: unexpected bracket in address"),
            (":http", "address :http: invalid port"),
            (":65536", "address :65536: invalid port"),
        ] {
            assert_eq!(PageAddress::parse(text).expect_err(text).to_string(), message);
        }
    }
}
