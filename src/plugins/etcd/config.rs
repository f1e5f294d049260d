//! The configuration of *etcd* (CoreDNS `plugin/etcd/setup.go`).

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::chain::Fallthrough;
use crate::corefile::{Arguments, Directive, parse_duration};
use crate::net::split_address;
use crate::plugins::context::{fallthrough, zones_or_block_or_none};
use crate::plugins::{Context, upstream_tls};
use crate::upstream::{Http2Address, Trust};
use crate::wire::NameBuf;

/// The properties.
const PROPERTIES: [&str; 11] = [
    "fallthrough",
    "path",
    "endpoint",
    "credentials",
    "tls",
    "no_apex_fallback",
    "min-lease-ttl",
    "max-lease-ttl",
    "stubzones",
    "debug",
    "upstream",
];
/// The default of `endpoint`.
const ENDPOINT: &str = "http://localhost:2379";

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The zones.
    pub zones: Vec<NameBuf>,
    /// Names that do not exist and for which the next plugin gets the query.
    pub fallthrough: Fallthrough,
    /// The parts of the path below which the records are.
    pub path: Vec<String>,
    /// The servers.
    pub endpoints: Vec<EtcdEndpoint>,
    /// The user and the password.
    pub credentials: Option<(String, String)>,
    /// The certificates of encrypted connections.
    pub trust: Option<Trust>,
    /// A query for a zone itself does not read the whole zone.
    pub no_apex_fallback: bool,
    /// The range of TTLs that follow from leases, in seconds.
    pub lease_ttl: LeaseTtl,
}

/// A server of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdEndpoint {
    /// Its address.
    pub address: Http2Address,
    /// Connections use TLS; `None`: if certificates are configured.
    pub tls: Option<bool>,
}

/// The range of TTLs that follow from leases, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTtl {
    /// The minimum.
    pub min: u32,
    /// The maximum, unless the minimum is larger.
    pub max: u32,
}

impl LeaseTtl {
    /// The defaults (CoreDNS `defaultLeaseMinTTL`, `defaultLeaseMaxTTL`), which 0 stands for, too.
    pub const DEFAULT: LeaseTtl = LeaseTtl { min: 30, max: 86_400 };

    /// Returns the TTL for a lease that ends after this number of seconds.
    pub fn limit(self, seconds: i64) -> u32 {
        let or = |value, default| i64::from(if value == 0 { default } else { value });
        let (min, max) = (or(self.min, LeaseTtl::DEFAULT.min), or(self.max, LeaseTtl::DEFAULT.max));
        let limited = if seconds < min { min } else { seconds.min(max) };
        u32::try_from(limited).unwrap_or(u32::MAX)
    }
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let (root, zones) = (context.root.clone(), context.zones);
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let mut config = Config {
        zones: zones_or_block_or_none(&mut line, zones),
        fallthrough: Fallthrough::Never,
        path: vec!["skydns".to_owned()],
        endpoints: parse_endpoint(ENDPOINT).into_iter().collect(),
        credentials: None,
        trust: None,
        no_apex_fallback: false,
        lease_ttl: LeaseTtl::DEFAULT,
    };
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
            "fallthrough" => self.fallthrough = fallthrough(line, &self.zones),
            "path" => {
                let path = line.word("a path in etcd")?;
                self.path = path.text.split('/').filter(|part| !matches!(*part, "" | ".")).map(str::to_owned).collect();
                if self.path.iter().any(|part| part == "..") {
                    line.error_expected(path, "'..' in a path in etcd", "a path without it");
                }
            }
            "endpoint" => {
                let words = line.words("the URL of an etcd server")?;
                self.endpoints.clear();
                for word in words {
                    match parse_endpoint(&word.text) {
                        Some(endpoint) => self.endpoints.push(endpoint),
                        None => {
                            let message = format!("invalid endpoint \"{}\"", word.text);
                            line.error_expected(word, message, "http://HOST:PORT, https://HOST:PORT or unix://PATH");
                        }
                    }
                }
            }
            "credentials" => {
                let words = line.words("a user name and a password")?;
                match words {
                    [name, password] if !name.text.is_empty() && !password.text.is_empty() => {
                        self.credentials = Some((name.text.clone(), password.text.clone()));
                    }
                    [_, _] => self.credentials = None,
                    _ => line.error(&words[0], "credentials requires 2 arguments, username and password"),
                }
            }
            "tls" => upstream_tls::parse(line, root, self.trust.get_or_insert_default()),
            "no_apex_fallback" => self.no_apex_fallback = true,
            "min-lease-ttl" => self.lease_ttl.min = parse_ttl(line)?,
            "max-lease-ttl" => self.lease_ttl.max = parse_ttl(line)?,
            // CoreDNS ignores them, too.
            "stubzones" | "debug" | "upstream" => {
                let word = line.name_token();
                line.warning(word, format!("'{}' has no effect", word.text));
                line.ignore_rest();
            }
            _ => line.unknown(PROPERTIES),
        }
        Some(())
    }
}

/// Parses an endpoint: a URL, or an address with a port.
fn parse_endpoint(text: &str) -> Option<EtcdEndpoint> {
    let (tls, rest) = match text.split_once("://") {
        None => (None, text),
        Some(("http", rest)) => (Some(false), rest),
        Some(("https", rest)) => (Some(true), rest),
        Some(("unix", path)) if !path.is_empty() && !path.contains('\0') => {
            return Some(EtcdEndpoint { address: Http2Address::Unix(PathBuf::from(path)), tls: None });
        }
        Some(_) => return None,
    };
    let (host, port, scope) = split_address(rest.trim_end_matches('/'))?;
    let port = port?;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return scope.is_none().then(|| EtcdEndpoint { address: Http2Address::Socket(SocketAddr::new(ip, port)), tls });
    }
    let is_name = NameBuf::from_text(host).is_ok_and(|name| !name.as_name().is_root());
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    (is_name && is_plain && scope.is_none())
        .then(|| EtcdEndpoint { address: Http2Address::Host(host.to_owned(), port), tls })
}

/// Parses a number of seconds, or a duration.
fn parse_ttl(line: &mut Arguments<'_, '_>) -> Option<u32> {
    let property = line.name().to_owned();
    let error = |what: &str| format!("invalid {property} value: {what}");
    line.parse("a number of seconds, or a duration such as 30s or 1h", |text| {
        let text = text.trim();
        if text.is_empty() {
            return Ok(0);
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let nanoseconds = parse_duration(&if is_number { format!("{text}s") } else { text.to_owned() });
        let Ok(nanoseconds) = nanoseconds else {
            return Err(error("invalid TTL format, use format like '30', '30s', '5m', '1h', or '2h30m'"));
        };
        let seconds = u64::try_from(nanoseconds).map_err(|_| error("TTL must be non-negative"))? / 1_000_000_000;
        u32::try_from(seconds).map_err(|_| error("TTL too large, maximum is 4294967295 seconds"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn defaults_are_those_of_coredns() {
        let plain = config("etcd", parse);
        assert_eq!(plain.zones.iter().map(ToString::to_string).collect::<Vec<_>>(), ["example.", "example.org."]);
        assert_eq!((&plain.path[..], plain.fallthrough), (&["skydns".to_owned()][..], Fallthrough::Never));
        assert_eq!(plain.endpoints[0].address, Http2Address::Host("localhost".to_owned(), 2_379));
        assert_eq!((plain.endpoints[0].tls, plain.lease_ttl), (Some(false), LeaseTtl { min: 30, max: 86_400 }));
        assert!(plain.trust.is_none() && plain.credentials.is_none() && !plain.no_apex_fallback);
    }

    #[test]
    fn properties_are_parsed_as_in_coredns() {
        let full = config(
            "etcd a.example {\n path /a//b/\n endpoint https://10.0.0.1:1 http://[::1]:2 e:3 unix:///run/e\n \
             credentials user secret\n tls /ca\n no_apex_fallback\n min-lease-ttl 1m\n max-lease-ttl 90\n fallthrough\n}",
            parse,
        );
        assert_eq!((full.path, full.fallthrough), (vec!["a".to_owned(), "b".to_owned()], Fallthrough::Always));
        let endpoints: Vec<_> = full.endpoints.iter().map(|one| (one.address.label(), one.tls)).collect();
        let expected = [("10.0.0.1:1", Some(true)), ("[::1]:2", Some(false)), ("e:3", None), ("unix:///run/e", None)];
        assert_eq!(endpoints, expected.map(|(label, tls)| (label.to_owned(), tls)));
        assert_eq!(full.lease_ttl, LeaseTtl { min: 60, max: 90 });
        assert_eq!([0, 60, 70, 100].map(|seconds| full.lease_ttl.limit(seconds)), [60, 60, 70, 90]);
        assert_eq!(LeaseTtl { min: 0, max: 0 }.limit(i64::MAX), 86_400);
        assert!(full.no_apex_fallback && full.trust.is_some() && full.credentials.is_some());
        for (lines, message) in [
            ("endpoint", "Wrong argument count"),
            ("endpoint ftp://a:1", "invalid endpoint"),
            ("endpoint http://a", "invalid endpoint"),
            ("endpoint http://a:b", "invalid endpoint"),
            ("endpoint http://a/b:1", "invalid endpoint"),
            ("path", "Wrong argument count"),
            ("path /a/../b", "'..' in a path"),
            ("credentials user", "credentials requires 2 arguments"),
            ("min-lease-ttl -1s", "TTL must be non-negative"),
            ("min-lease-ttl 4294967296", "TTL too large"),
            ("max-lease-ttl x", "invalid max-lease-ttl value: invalid TTL format"),
            ("no_apex_fallback x", "Wrong argument count"),
            ("ttl 5", "unknown property 'ttl'"),
        ] {
            let (config, messages) = read(&format!("etcd {{\n {lines}\n}}"), parse);
            assert!(config.is_none() && messages.concat().contains(message), "{lines}: {messages:?}");
        }
        let (config, messages) = read("etcd {\n stubzones\n debug\n upstream 1.2.3.4\n}", parse);
        assert!(config.is_some() && messages.len() == 3, "{messages:?}");
    }
}
