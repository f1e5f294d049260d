//! The configuration of *grpc* (CoreDNS `plugin/grpc/setup.go`).

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

use crate::chain::Fallthrough;
use crate::corefile::{Arguments, Directive};
use crate::files::ResolvConf;
use crate::net::split_address;
use crate::plugins::context::{except, fallthrough, forwarded_zone};
use crate::plugins::{Context, upstream_tls};
use crate::upstream::{Http2Address, Trust, UpstreamPolicy};
use crate::wire::NameBuf;

/// The maximum number of upstreams (CoreDNS `plugin/grpc` `max`).
const MAX_TO: usize = 15;
/// The port of addresses without one, and with `grpc://` (CoreDNS `plugin/pkg/transport`).
const PORT: u16 = 53;
const GRPC_PORT: u16 = 443;

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The zone whose names are forwarded.
    pub from: NameBuf,
    /// Names in these zones are not forwarded, except `from` itself.
    pub except: Vec<NameBuf>,
    /// The upstreams, in the order of the stanza.
    pub to: Vec<Http2Address>,
    /// Which certificates upstreams may have; without, connections are not encrypted.
    pub trust: Option<Trust>,
    /// The order in which upstreams are tried.
    pub policy: UpstreamPolicy,
    /// Names for which the next plugin gets the query after NXDOMAIN or a failure.
    pub fallthrough: Fallthrough,
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let root = context.root.clone();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let zone = forwarded_zone(&mut line, context.zones)?;
    let words = line.words("an address, a Unix domain socket or a file")?;
    let mut config = Config {
        from: zone,
        except: Vec::new(),
        to: Vec::new(),
        trust: None,
        policy: UpstreamPolicy::Random,
        fallthrough: Fallthrough::Never,
    };
    for word in words {
        match parse_to(&word.text, root.as_deref()) {
            Ok(to) => config.to.extend(to),
            Err(error) => {
                let expected = "an address, grpc:// with one, unix:// with a path, or a file such as /etc/resolv.conf";
                line.error_expected(word, error, expected);
            }
        }
    }
    if config.to.len() > MAX_TO {
        line.error(&words[0], format!("more than {MAX_TO} TOs configured: {}", config.to.len()));
    }
    for property in line.body() {
        let mut inner = line.enter(property);
        let _ = config.parse_property(&mut inner, root.as_deref());
        inner.finish();
    }
    line.finish();
    (errors == context.diagnostics.has_errors()).then_some(config)
}

impl Config {
    /// Parses a property; returns `None` after an error.
    fn parse_property(&mut self, line: &mut Arguments<'_, '_>, root: Option<&Path>) -> Option<()> {
        match line.name() {
            "except" => self.except.extend(except(line)?),
            "tls" => upstream_tls::parse(line, root, self.trust.get_or_insert_default()),
            "tls_servername" => {
                let name = line.word("a server name")?.text.clone();
                self.trust.get_or_insert_default().server_name = Some(name);
            }
            "policy" => {
                self.policy = line.one_of(&[
                    ("random", UpstreamPolicy::Random),
                    ("round_robin", UpstreamPolicy::RoundRobin),
                    ("sequential", UpstreamPolicy::Sequential),
                ])?;
            }
            "fallthrough" => self.fallthrough = fallthrough(line, std::slice::from_ref(&self.from)),
            _ => line.unknown(["except", "tls", "tls_servername", "policy", "fallthrough"]),
        }
        Some(())
    }
}

/// Parses a destination: one server, or those that a file names. The file is read now.
fn parse_to(text: &str, root: Option<&Path>) -> Result<Vec<Http2Address>, String> {
    let (default_port, rest) = match text.split_once("://") {
        None => (PORT, text),
        Some(("dns", rest)) => (PORT, rest),
        Some(("grpc", rest)) => (GRPC_PORT, rest),
        Some(("unix", path)) if !path.is_empty() && !path.contains('\0') => {
            return Ok(vec![Http2Address::Unix(PathBuf::from(path))]);
        }
        Some(("unix", _)) => return Err(format!("invalid address: \"{text}\"")),
        Some((other, _)) => return Err(format!("'{other}' is not a transport of grpc: {text}")),
    };
    if rest.is_empty() {
        return Err(format!("invalid address: \"{text}\""));
    }
    if let Some((host, port, interface)) = split_address(rest)
        && let Ok(ip) = host.parse::<IpAddr>()
    {
        let port = port.unwrap_or(default_port);
        let address = match (ip, interface) {
            (IpAddr::V6(ip), Some(interface)) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, nix::net::if_::if_nametoindex(interface).unwrap_or(0)).into()
            }
            _ => SocketAddr::new(ip, port),
        };
        return Ok(vec![Http2Address::Socket(address)]);
    }
    let path = root.map_or_else(|| PathBuf::from(rest), |root| root.join(rest));
    match ResolvConf::read(&path) {
        Ok(conf) if conf.servers.is_empty() => Err(format!("{} names no server", path.display())),
        Ok(conf) => Ok(conf.servers.into_iter().map(Http2Address::Socket).collect()),
        Err(error) => Err(format!("not an IP address or file \"{rest}\": {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Folder, config, read};

    fn labels(lines: &str) -> Vec<String> {
        config(lines, parse).to.iter().map(Http2Address::label).collect()
    }

    #[test]
    fn destinations_are_parsed_as_in_coredns() {
        let servers =
            "grpc . 127.0.0.1 127.0.0.1:8080 [::1]:54 ::1 [2003::1] grpc://10.0.0.1 dns://10.0.0.2 unix:///run/g";
        let expected = [
            "127.0.0.1:53",
            "127.0.0.1:8080",
            "[::1]:54",
            "[::1]:53",
            "[2003::1]:53",
            "10.0.0.1:443",
            "10.0.0.2:53",
            "unix:///run/g",
        ];
        assert_eq!(labels(servers), expected);
        let folder = Folder::new("grpc");
        let path = folder.write("resolv.conf", "nameserver 10.0.0.1\nnameserver 10.0.0.2\n");
        assert_eq!(labels(&format!("grpc . {}", path.display())), ["10.0.0.1:53", "10.0.0.2:53"]);
        let empty = folder.write("empty", "").display().to_string();
        let many = format!("grpc .{}", " 10.0.0.1".repeat(16));
        for (lines, message) in [
            ("grpc", "Wrong argument count"),
            ("grpc .", "Wrong argument count"),
            ("grpc . a27.0.0.1", "not an IP address or file \"a27.0.0.1\""),
            ("grpc . tls://10.0.0.1", "'tls' is not a transport of grpc"),
            ("grpc . grpc://", "invalid address"),
            ("grpc . unix://", "invalid address"),
            ("grpc . 10.0.0.1:99999", "not an IP address or file"),
            (&format!("grpc . {empty}"), "names no server"),
            (&many, "more than 15 TOs configured: 16"),
            ("grpc . 10.0.0.1 {\n policy random2\n}", "unexpected 'random2'"),
            ("grpc . 10.0.0.1 {\n blaatl\n}", "unknown property 'blaatl'"),
            ("grpc . 10.0.0.1 {\n except\n}", "Wrong argument count"),
            ("grpc . 10.0.0.1 {\n tls a b c d\n}", "too many files"),
        ] {
            let (config, messages) = read(lines, parse);
            assert!(config.is_none() && messages.concat().contains(message), "{lines}: {messages:?}");
        }
    }

    #[test]
    fn properties_are_parsed() {
        let plain = config("grpc example.org 10.0.0.1", parse);
        assert_eq!((plain.trust, plain.policy, plain.fallthrough), (None, UpstreamPolicy::Random, Fallthrough::Never));
        let full = config(
            "grpc . 10.0.0.1 {\n except a.example b.example\n tls /c /k /ca\n tls_servername dns\n policy sequential\n \
             fallthrough example.org\n}",
            parse,
        );
        assert_eq!(full.except.len(), 2);
        let trust = full.trust.expect("certificates");
        assert_eq!(trust.server_name.as_deref(), Some("dns"));
        assert_eq!(trust.authorities, Some("/ca".into()));
        assert_eq!(full.policy, UpstreamPolicy::Sequential);
        assert_eq!(full.fallthrough, Fallthrough::Within(vec![NameBuf::from_text("example.org").expect("a name")]));
    }
}
