//! The configuration of *forward* (CoreDNS `plugin/forward/setup.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::address::{self, Target, To};
use crate::corefile::{Arguments, BlockKey, Diagnostic, Directive, Scheme, Stage, Token};
use crate::files::ResolvConf;
use crate::plugins::context::{except, forwarded_zone};
use crate::plugins::path::rooted;
use crate::plugins::{Context, upstream_tls};
use crate::upstream::{ConnectionReuse, GroupRules, HealthCheck, Trust, UpstreamPolicy, UpstreamTransport};
use crate::wire::{NameBuf, Rcode};

/// The names of the properties.
const PROPERTIES: [&str; 21] = [
    "except",
    "force_tcp",
    "prefer_udp",
    "expire",
    "max_age",
    "max_idle_conns",
    "read_timeout",
    "max_fails",
    "max_connect_attempts",
    "doh_method",
    "tls",
    "tls_servername",
    "policy",
    "health_check",
    "max_concurrent",
    "next",
    "next_on_nodata",
    "failfast_all_unhealthy_upstreams",
    "failover",
    "source_address",
    "resolver",
];

/// The maximum number of destinations in a stanza (CoreDNS `plugin/forward` `max`). A file or a host may have any
/// number of servers.
const MAX_TO: usize = 15;

/// The configuration of a stanza.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The zone whose names are forwarded.
    pub from: NameBuf,
    /// Names in these zones are not forwarded, except `from` itself.
    pub except: Vec<NameBuf>,
    /// The destinations, without duplicates, in the order of the stanza.
    pub to: Vec<To>,
    /// The policy, timeouts and limits of upstreams.
    pub rules: GroupRules,
    /// How long connections stay open for reuse, and how many.
    pub reuse: ConnectionReuse,
    /// The health check of the upstreams.
    pub check: HealthCheck,
    /// Which certificates encrypted upstreams may have. A destination may have a server name of its own.
    pub trust: Trust,
    /// Queries over HTTPS are sent by GET.
    pub get: bool,
    /// The source address of queries.
    pub source: Option<IpAddr>,
    /// Replies with these codes are discarded, and the next *forward* of the block answers.
    pub next: Vec<Rcode>,
    /// The same for NODATA.
    pub next_on_nodata: bool,
    /// The servers that look up hosts; those of `/etc/resolv.conf` if empty.
    pub resolvers: Vec<SocketAddr>,
}

/// The stanzas of a block, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Stanzas(pub Vec<Config>);

/// Parses the stanzas, each of which has a configuration of its own. Returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Stanzas> {
    let errors = context.diagnostics.has_errors();
    let configs: Vec<Config> = stanzas.iter().filter_map(|stanza| parse_stanza(stanza, context)).collect();
    if configs.len() == stanzas.len() {
        check_reach(stanzas, &configs, context);
    }
    (errors == context.diagnostics.has_errors() && configs.len() == stanzas.len()).then_some(Stanzas(configs))
}

/// Returns whether the host of a destination has only digits and dots: no host name has a number as its last label.
fn is_like_address(text: &str) -> bool {
    let host = text.split_once("://").map_or(text, |(_, host)| host);
    let host = host.split([':', '%']).next().unwrap_or_default();
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Returns whether a destination is a port that the server block itself listens at. With *bind* or a *view* this may be
/// another server or block, and with *rewrite* the query is another one.
fn is_own_port(to: &To, keys: &[BlockKey], block: &[Directive]) -> bool {
    let To::Server(Target { address, transport: UpstreamTransport::Dns, .. }) = to else { return false };
    let is_local = address.ip() == Ipv4Addr::LOCALHOST || address.ip() == Ipv6Addr::LOCALHOST;
    let may_differ = |directive: &Directive| ["bind", "view", "rewrite"].contains(&&*directive.name.text);
    is_local
        && keys.iter().any(|key| key.scheme == Scheme::Dns && key.port == Some(address.port()))
        && !block.iter().any(may_differ)
}

/// Parses one stanza.
fn parse_stanza(stanza: &Directive, context: &mut Context<'_>) -> Option<Config> {
    let root = context.root.clone();
    let (keys, block) = (context.keys, context.block);
    let mut line = Arguments::of(stanza, context.diagnostics);
    let from = line.peek();
    let zone = forwarded_zone(&mut line, context.zones)?;
    let words = line.words("an address, a file or a host name")?;
    let mut config = Config {
        from: zone,
        except: Vec::new(),
        to: Vec::new(),
        rules: GroupRules::default(),
        reuse: ConnectionReuse::default(),
        check: HealthCheck {
            interval: Duration::from_millis(500),
            recursion: true,
            domain: crate::wire::Name::ROOT.to_owned(),
            tcp: false,
        },
        trust: Trust::default(),
        get: false,
        source: None,
        next: Vec::new(),
        next_on_nodata: false,
        resolvers: Vec::new(),
    };
    let mut hosts = Vec::new();
    for word in words {
        if rooted(&mut line, root.as_deref(), word).is_none() {
            continue;
        }
        let in_root = |name: &str| root.as_deref().map_or_else(|| PathBuf::from(name), |root| root.join(name));
        match address::parse(&word.text, in_root) {
            Ok(to) => {
                let has_name = matches!(&to, To::Server(target) if target.server_name.is_some())
                    || matches!(&to, To::Host { server_name: Some(_), .. });
                if has_name && stanza.body.iter().flatten().any(|property| property.name.text == "tls_servername") {
                    line.error(word, "both forward and proxy level TLS servernames are set for this upstream");
                }
                if is_own_port(&to, keys, block) {
                    let message = format!("'{}' is this server block itself: it queries itself without end", word.text);
                    let warning = Diagnostic::warning(Stage::Setup, Some(word.span), message);
                    line.push(warning.expected("the address of another server"));
                }
                hosts.extend(matches!(to, To::Host { .. }).then_some(word));
                if !config.to.contains(&to) {
                    config.to.push(to);
                }
            }
            Err(error) => {
                let expected =
                    "an address, tls://, https:// or quic:// with one, a file such as /etc/resolv.conf, or a host name";
                let error = Diagnostic::error(Stage::Parse, Some(word.span), error.to_string());
                line.push(error.expected(expected).suggestion(address::suggestion(&word.text)));
            }
        }
    }
    if let Some(word) = words.get(MAX_TO) {
        line.error(word, format!("more than {MAX_TO} TOs configured: {}", words.len()));
    }
    check_files(&config.to, &words[0], &mut line);
    for property in line.body() {
        let mut inner = line.enter(property);
        let _ = config.parse_property(&mut inner, root.as_deref());
        inner.finish();
    }
    for word in hosts.into_iter().filter(|_| config.resolvers.is_empty()) {
        if is_like_address(&word.text) {
            let message = format!("'{}' is not an address, and is looked up as a host name at start", word.text);
            let warning = Diagnostic::warning(Stage::Setup, Some(word.span), message);
            line.push(warning.expected("an address of four numbers from 0 to 255, such as 192.0.2.53"));
            continue;
        }
        let message = format!(
            "'{}' is looked up once, at start, by the servers of /etc/resolv.conf: without an answer there is no start",
            word.text
        );
        let warning = Diagnostic::warning(Stage::Setup, Some(word.span), message);
        line.push(warning.expected("an address, or 'resolver ADDRESS' in braces for the look-up"));
    }
    let ConnectionReuse { expire, max_age, .. } = config.reuse;
    if !max_age.is_zero() && max_age < expire {
        line.error(from?, format!("max_age ({max_age:?}) must not be less than expire ({expire:?})"));
    }
    line.finish();
    config.check.tcp = config.rules.force_tcp;
    Some(config)
}

impl Config {
    /// Returns whether every query for a name in the zone is answered, and none is passed on.
    pub(super) fn answers_all(&self) -> bool {
        self.except.is_empty() && self.next.is_empty() && !self.next_on_nodata
    }
}

/// Warns of stanzas that no query reaches: the first stanza whose zone has the name answers, even if a later one has a
/// longer zone.
fn check_reach(stanzas: &[&Directive], configs: &[Config], context: &mut Context<'_>) {
    for (at, config) in configs.iter().enumerate() {
        let answers_all =
            |before: &&Config| before.answers_all() && config.from.as_name().is_within(before.from.as_name());
        if let Some(before) = configs[..at].iter().find(answers_all) {
            let message = format!(
                "no query reaches this stanza: 'forward {}' before it answers every name of '{}'",
                before.from, config.from
            );
            let warning = Diagnostic::warning(Stage::Parse, Some(stanzas[at].name.span), message);
            let expected = match before.from == config.from {
                true => "all upstreams in one stanza".to_owned(),
                false => format!("this stanza before it, or 'except {}' in its braces", config.from),
            };
            Arguments::of(stanzas[at], context.diagnostics).push(warning.expected(expected));
        }
    }
}

/// Reports files that cannot be read, and warns if no destination has a server. CoreDNS refuses to start without a
/// server; here the file may be written later, since it is followed.
fn check_files(to: &[To], word: &Token, line: &mut Arguments<'_, '_>) {
    let mut empty = Vec::new();
    for to in to {
        let To::File(path) = to else { continue };
        match ResolvConf::read(path) {
            Ok(conf) if conf.servers.is_empty() => empty.push(path),
            Ok(_) => {}
            Err(error) => line.error(word, format!("cannot read {}: {error}", path.display())),
        }
    }
    if !empty.is_empty() && empty.len() == to.len() {
        let message = format!("{} names no server: queries fail until it does", empty[0].display());
        let warning = Diagnostic::warning(Stage::Setup, Some(word.span), message);
        line.push(warning.expected("a line 'nameserver ADDRESS' in the file"));
    }
}

impl Config {
    /// Checks that the certificates can be used. Like CoreDNS, it does so even if no upstream is encrypted.
    pub fn check_trust(&self) -> Result<(), String> {
        upstream_tls::check(&self.trust)
    }

    /// Parses a property; returns `None` after an error.
    fn parse_property(&mut self, line: &mut Arguments<'_, '_>, root: Option<&std::path::Path>) -> Option<()> {
        match line.name() {
            "except" => self.except.extend(except(line)?),
            "force_tcp" => self.rules.force_tcp = true,
            "prefer_udp" => self.rules.prefer_udp = true,
            "expire" => self.reuse.expire = line.duration()?,
            "max_age" => self.reuse.max_age = line.duration()?,
            "max_idle_conns" => self.reuse.max_idle = line.number(0..=1_000_000)?,
            "read_timeout" => {
                let word = line.peek();
                self.rules.read_timeout = line.duration()?;
                if let Some(word) = word.filter(|_| self.rules.read_timeout.is_zero()) {
                    line.error(word, "read_timeout must be positive");
                }
            }
            "max_fails" => self.rules.max_fails = line.number(0..=u32::MAX)?,
            "max_connect_attempts" => self.rules.max_attempts = Some(line.number(0..=u32::MAX)?),
            "doh_method" => {
                self.get = line.one_of(&[("POST", false), ("GET", true)])?;
            }
            "tls" => upstream_tls::parse(line, root, &mut self.trust),
            "tls_servername" => self.trust.server_name = Some(line.word("a server name")?.text.clone()),
            "policy" => {
                self.rules.policy = line.one_of(&[
                    ("random", UpstreamPolicy::Random),
                    ("round_robin", UpstreamPolicy::RoundRobin),
                    ("sequential", UpstreamPolicy::Sequential),
                ])?;
            }
            "health_check" => self.parse_health_check(line)?,
            "max_concurrent" => self.rules.max_concurrent = line.number(0..=usize::MAX)?,
            "next" => self.next.extend(parse_codes(line)?),
            "next_on_nodata" => self.next_on_nodata = true,
            "failfast_all_unhealthy_upstreams" => self.rules.failfast = true,
            "failover" => {
                let word = line.peek();
                let codes = parse_codes(line)?;
                if let Some(word) = word.filter(|_| codes.contains(&Rcode::NOERROR)) {
                    line.error(word, "NoError cannot be used in failover");
                }
                self.rules.failover.extend(codes);
            }
            "source_address" => self.source = Some(line.ip()?),
            "resolver" => {
                for word in line.words("an address of a resolver")? {
                    let ip = word.text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                    match ip.map(|ip| SocketAddr::new(ip, 53)).or_else(|_| word.text.parse()) {
                        Ok(address) => self.resolvers.push(address),
                        Err(_) => {
                            line.error(word, format!("resolver must be an IP address or IP:port: \"{}\"", word.text))
                        }
                    }
                }
            }
            _ => line.unknown(PROPERTIES),
        }
        Some(())
    }

    /// Parses `health_check DURATION [no_rec] [domain NAME]`.
    fn parse_health_check(&mut self, line: &mut Arguments<'_, '_>) -> Option<()> {
        self.check.interval = line.duration()?;
        while let Some(word) = line.next_word() {
            match word.text.as_str() {
                "no_rec" => self.check.recursion = false,
                "domain" => {
                    let parse = |text: &str| NameBuf::from_text(text).map(|name| name.to_lower());
                    self.check.domain = line.parse("a domain name", parse)?;
                }
                other => {
                    let message = format!("health_check: unknown option {other}");
                    line.error_expected(word, message, "'no_rec' or 'domain NAME'");
                }
            }
        }
        Some(())
    }
}

/// Parses at least one name of a response code.
fn parse_codes(line: &mut Arguments<'_, '_>) -> Option<Vec<Rcode>> {
    let mut codes = Vec::new();
    for word in line.words("a response code such as NXDOMAIN")? {
        match Rcode::from_mnemonic(&word.text) {
            Some(code) => codes.push(code),
            None => line.error(word, format!("{} is not a valid rcode", word.text)),
        }
    }
    Some(codes)
}
