//! *siit*: synthesizes A records for names without IPv4 addresses, from IPv6 addresses that stand for IPv4 addresses
//! (RFC 6052, RFC 7757, RFC 7915; CoreDNS `plugin/siit`). It is the opposite of *dns64*.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use super::embedded_ipv4::{LENGTHS, RESERVED, WELL_KNOWN, ipv4_indexes, max_ttl};
use crate::chain::{Calls, Exchange, ExplainedReply, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{Metric, ServerCounter, ServerCounters, ServerMetric, table};
use crate::wire::reply::ReplyKind;
use crate::wire::{Class, Rcode, Rdata, Reply, Section, Type};

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The prefix of addresses that contain an IPv4 address.
    pub prefix: Ipv6Net,
    /// Pairs of addresses (RFC 7757), in the order of the IPv6 addresses. They have precedence over the prefix.
    pub pairs: Vec<(Ipv6Addr, Ipv4Addr)>,
}

/// Parses the directive; later lines override earlier ones.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config { prefix: WELL_KNOWN, pairs: Vec::new() };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "ipv6_prefix" => config.prefix = parse_prefix(&mut inner).unwrap_or(WELL_KNOWN),
                "eam" => {
                    if let Some((ipv4, ipv6)) = parse_pair(&mut inner) {
                        config.pairs.retain(|(known, _)| *known != ipv6);
                        config.pairs.push((ipv6, ipv4));
                    }
                }
                _ => inner.unknown(["ipv6_prefix", "eam"]),
            }
            inner.finish();
        }
        line.finish();
    }
    config.pairs.sort_unstable();
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses an IPv6 network of an allowed length whose reserved byte is zero.
fn parse_prefix(line: &mut Arguments<'_, '_>) -> Option<Ipv6Net> {
    const WHAT: &str =
        "an IPv6 network of 32, 40, 48, 56, 64 or 96 bits whose ninth byte is zero, such as 64:ff9b::/96";
    let word = line.word(WHAT)?;
    let message = match word.text.parse::<IpNet>() {
        Err(_) => format!("invalid CIDR address: {}", word.text),
        Ok(IpNet::V4(network)) => format!("invalid netmask 32 IPv6 address: \"{}\"", network.trunc()),
        Ok(IpNet::V6(network)) => match network.trunc() {
            network if !LENGTHS.contains(&network.prefix_len()) => {
                format!("invalid prefix length \"{network}\": must be one of /32, /40, /48, /56, /64, /96")
            }
            network if network.network().octets()[RESERVED] != 0 => {
                format!("invalid prefix \"{network}\": the reserved byte 8 must be zero")
            }
            network => return Some(network),
        },
    };
    line.error_expected(word, message, WHAT);
    None
}

/// Parses an IPv4 address and the IPv6 address that stands for it.
fn parse_pair(line: &mut Arguments<'_, '_>) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let [first, second] = line.exactly("an IPv4 address and an IPv6 address")?;
    let mut address = |word: &crate::corefile::Token, expected| {
        let address = word.text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        if address.is_none() {
            line.error_expected(word, format!("invalid IP address: \"{}\"", word.text), expected);
        }
        address
    };
    let (ipv4, ipv6) = (address(first, "an IPv4 address"), address(second, "an IPv6 address"));
    match (ipv4?, ipv6?) {
        (IpAddr::V4(ipv4), IpAddr::V6(ipv6)) => Some((ipv4, ipv6)),
        (IpAddr::V6(wrong), _) => {
            line.error_expected(first, format!("invalid IPv4 address: \"{wrong}\""), "an IPv4 address");
            None
        }
        (_, IpAddr::V4(wrong)) => {
            line.error_expected(second, format!("invalid IPv6 address: \"{wrong}\""), "an IPv6 address");
            None
        }
    }
}

impl Config {
    /// Returns the IPv4 address that an IPv6 address stands for.
    fn translated(&self, ipv6: [u8; 16]) -> Option<[u8; 4]> {
        let address = Ipv6Addr::from(ipv6);
        if let Ok(at) = self.pairs.binary_search_by_key(&address, |(ipv6, _)| *ipv6) {
            return Some(self.pairs[at].1.octets());
        }
        // The reserved byte is a part of the address if the prefix is short.
        if !self.prefix.contains(&address) || ipv6[RESERVED] != 0 {
            return None;
        }
        let mut ipv4 = [0; 4];
        for (byte, at) in ipv4.iter_mut().zip(ipv4_indexes(&self.prefix)) {
            *byte = ipv6[at];
        }
        Some(ipv4)
    }

    /// Returns whether synthesized addresses may replace this reply to a query for IPv4 addresses.
    fn is_replaceable(reply: &Reply) -> bool {
        let has_addresses = || reply.section(Section::Answer).any(|record| record.rtype == Type::A);
        !reply.truncated && reply.kind() != ReplyKind::NameError && !has_addresses()
    }

    /// Replaces the reply by `inner`, the reply for IPv6 addresses. Its AAAA records become A records; those that stand
    /// for no IPv4 address are left out. If none does, the reply remains. Returns whether there is one.
    fn translate(&self, reply: &mut Reply, mut inner: Reply) -> bool {
        inner.authentic_data = false;
        if inner.rcode != Rcode::NOERROR {
            *reply = inner;
            return false;
        }
        let max_ttl = max_ttl(reply);
        let mut is_translated = false;
        inner.records_mut().retain_mut(|record| {
            let Rdata::Aaaa(ipv6) = record.rdata else { return true };
            if record.section != Section::Answer {
                return true;
            }
            let Some(ipv4) = self.translated(ipv6) else { return false };
            record.rtype = Type::A;
            record.rdata = Rdata::A(ipv4);
            record.ttl = record.ttl.min(max_ttl);
            is_translated = true;
            true
        });
        if is_translated {
            *reply = inner;
        }
        is_translated
    }
}

/// The metric of synthesized replies.
pub enum SiitMetric {}

impl ServerMetric for SiitMetric {
    const METRIC: &'static Metric = &table::SIIT_TRANSLATED;
}

/// The counters of synthesized replies.
pub type SiitMetrics = ServerCounters<SiitMetric>;

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (config, all) = (Arc::new(self.clone()), block.resources().metrics.get::<SiitMetrics>());
        block.plugin_per_listener(move |listener| Siit {
            config: config.clone(),
            counters: all.of(&listener.labels.server),
        });
        Ok(())
    }
}

/// The plugin, for a server block on a socket.
pub struct Siit {
    config: Arc<Config>,
    counters: Arc<ServerCounter>,
}

/// Returns whether IPv6 addresses are looked up to replace the reply.
fn translates(exchange: &mut Exchange<'_>) -> bool {
    let question = exchange.question();
    question.qtype == Type::A
        && question.qclass == Class::IN
        // A bare code is an error of the server, not an answer without addresses.
        && !exchange.state.bare
        && !exchange.is_translated()
        && Config::is_replaceable(exchange.reply())
}

impl Plugin for Siit {
    fn name(&self) -> &'static str {
        "siit"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: true, sent: false }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn explain_reply(&self, exchange: &mut Exchange<'_>, lines: &mut Vec<String>) -> ExplainedReply {
        if !translates(exchange) {
            return ExplainedReply::Known;
        }
        let Some(inner) = exchange.explain_look_up(exchange.question().name(), Type::AAAA, true) else {
            lines.push("looks up the IPv6 addresses of the name, which a dry run does not know".to_owned());
            return ExplainedReply::Unknown;
        };
        let line = match self.config.translate(exchange.reply(), inner) {
            true => "looks up the IPv6 addresses of the name, and answers with the IPv4 addresses that they stand for",
            false => "looks up the IPv6 addresses of the name, none of which stands for an IPv4 address",
        };
        lines.push(line.to_owned());
        ExplainedReply::Known
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        if !translates(exchange) {
            return None;
        }
        let (config, counters) = (self.config.clone(), self.counters.clone());
        let inner = exchange.resolve_to_translate(exchange.question().name(), Type::AAAA);
        exchange.when_done(inner, "siit", move |state, inner| {
            if config.translate(&mut state.reply, inner) {
                counters.increment();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn properties_are_parsed_as_in_coredns() {
        assert_eq!(config("siit", parse), Config { prefix: WELL_KNOWN, pairs: Vec::new() });
        let lines = "siit {\n ipv6_prefix 64:1337::1/96\n eam 192.0.2.1 2001:db8::2\n eam 192.0.2.2 2001:db8::1\n
            eam 192.0.2.3 2001:db8:0::2\n}";
        let parsed = config(lines, parse);
        assert_eq!(parsed.prefix.to_string(), "64:1337::/96");
        let pair = |ipv6: &str, ipv4: &str| (ipv6.parse().expect("IPv6"), ipv4.parse().expect("IPv4"));
        assert_eq!(parsed.pairs, [pair("2001:db8::1", "192.0.2.2"), pair("2001:db8::2", "192.0.2.3")]);
        for (line, message) in [
            ("siit x", "Wrong argument count or unexpected line ending after 'x'"),
            ("siit {\n ipv6_prefix\n}", "Wrong argument count or unexpected line ending after 'ipv6_prefix'"),
            ("siit {\n ipv6_prefix nothing\n}", "invalid CIDR address: nothing"),
            ("siit {\n ipv6_prefix 192.0.2.0/24\n}", "invalid netmask 32 IPv6 address: \"192.0.2.0/24\""),
            (
                "siit {\n ipv6_prefix 64:ff9b::/95\n}",
                "invalid prefix length \"64:ff9b::/95\": must be one of /32, /40, /48, /56, /64, /96",
            ),
            (
                "siit {\n ipv6_prefix 64:ff9b:0:0:ff00::/96\n}",
                "invalid prefix \"64:ff9b:0:0:ff00::/96\": the reserved byte 8 must be zero",
            ),
            ("siit {\n eam 192.0.2.1\n}", "Wrong argument count or unexpected line ending after '192.0.2.1'"),
            ("siit {\n eam nothing 2001:db8::1\n}", "invalid IP address: \"nothing\""),
            ("siit {\n eam 192.0.2.1 nothing\n}", "invalid IP address: \"nothing\""),
            ("siit {\n eam 2001:db8::1 2001:db8::1\n}", "invalid IPv4 address: \"2001:db8::1\""),
            ("siit {\n eam 192.0.2.1 ::ffff:192.0.2.1\n}", "invalid IPv6 address: \"192.0.2.1\""),
            ("siit {\n mumble\n}", "unknown property 'mumble'"),
        ] {
            assert_eq!(read(line, parse).1, [message], "{line}");
        }
    }

    #[test]
    fn addresses_are_extracted_as_in_the_rfc() {
        // The examples of RFC 6052 2.4 for 192.0.2.33.
        for (prefix, address) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let config = Config { prefix: prefix.parse().expect("a network"), pairs: Vec::new() };
            let address: Ipv6Addr = address.parse().expect("an address");
            assert_eq!(config.translated(address.octets()), Some([192, 0, 2, 33]), "{prefix}");
        }
        let config = Config { prefix: "2001:db8::/32".parse().expect("a network"), pairs: Vec::new() };
        let with_reserved = Ipv6Addr::new(0x2001, 0xdb8, 0xc000, 0x221, 0x100, 0, 0, 0);
        assert_eq!(config.translated(with_reserved.octets()), None);
        assert_eq!(config.translated(Ipv6Addr::LOCALHOST.octets()), None);
    }
}
