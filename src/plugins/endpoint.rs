//! Where *health*, *ready* and *prometheus* listen for HTTP: an address as Go's `net.SplitHostPort` takes it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::corefile::{Arguments, Diagnostic, Stage};

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address or a name; empty for every address.
    host: String,
    /// The port; 0 for any.
    port: u16,
}

/// What an address must look like.
const EXPECTED: &str = "an address and port such as :8080 or 127.0.0.1:8080";

impl Endpoint {
    /// Reads the next word of a line, if there is one.
    pub fn read(line: &mut Arguments<'_, '_>, default: &str) -> Option<Endpoint> {
        if line.more() {
            let word = line.next_word()?;
            return match Endpoint::parse(&word.text) {
                Ok(endpoint) => Some(endpoint),
                Err(message) => {
                    let is_port = word.text.parse::<u16>().is_ok();
                    let error = Diagnostic::error(Stage::Parse, Some(word.span), message).expected(EXPECTED);
                    line.push(error.suggestion(is_port.then(|| format!(":{}", word.text))));
                    None
                }
            };
        }
        Endpoint::parse(default).ok()
    }

    /// Takes host and port apart, with Go's words for what is wrong.
    pub fn parse(text: &str) -> Result<Endpoint, String> {
        let fault = |what: &str| Err(format!("address {text}: {what}"));
        let Some((host, port)) = text.rsplit_once(':') else { return fault("missing port in address") };
        let host = match host.strip_prefix('[') {
            Some(bracketed) => match bracketed.strip_suffix(']') {
                Some(host) => host,
                None => return fault("missing ']' in address"),
            },
            None if host.contains(':') => return fault("too many colons in address"),
            None => host,
        };
        if host.contains(['[', ']']) {
            return fault("unexpected bracket in address");
        }
        // Go looks at the port when it listens; an empty one is 0, which is any.
        let Ok(port) = (if port.is_empty() { Ok(0) } else { port.parse() }) else { return fault("invalid port") };
        Ok(Endpoint { host: host.to_owned(), port })
    }

    /// The address itself; a name is looked up, and its IPv4 address goes first, as in Go.
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

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_as_in_go() {
        for (text, address) in [
            (":8080", "[::]:8080"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:9153", "[::1]:9153"),
            ("localhost:9153", "127.0.0.1:9153"),
            ("127.0.0.1:", "127.0.0.1:0"),
        ] {
            let endpoint = Endpoint::parse(text).expect(text);
            assert_eq!(endpoint.resolve().expect(text).to_string(), address);
        }
        assert_eq!(Endpoint::parse("[::1]:1").expect("good").to_string(), "[::1]:1");
        assert_eq!(Endpoint::parse(":1").expect("good").to_string(), ":1");
        for (text, message) in [
            ("8080", "address 8080: missing port in address"),
            ("::1:80", "address ::1:80: too many colons in address"),
            ("[::1:80", "address [::1:80: missing ']' in address"),
            ("a]:80", "address a]:80: unexpected bracket in address"),
            (":http", "address :http: invalid port"),
            (":65536", "address :65536: invalid port"),
        ] {
            assert_eq!(Endpoint::parse(text).expect_err(text), message);
        }
    }
}
