//! *dns64*: synthesizes AAAA records for names without IPv6 addresses, from their IPv4 addresses and the prefix of a
//! NAT64 (RFC 6147, RFC 6052; CoreDNS `plugin/dns64`).

use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use super::embedded_ipv4::{LENGTHS, WELL_KNOWN, ipv4_indexes, max_ttl};
use crate::chain::{Calls, Exchange, ExplainedReply, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{Metric, ServerCounter, ServerCounters, ServerMetric, table};
use crate::wire::reply::ReplyKind;
use crate::wire::{Class, Rdata, Reply, Section, Type};

/// The configuration of the directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The prefix of the NAT64.
    pub prefix: Ipv6Net,
    /// Names that have IPv6 addresses also get synthesized ones.
    pub translate_all: bool,
    /// Queries over IPv4 also get synthesized addresses.
    pub allow_ipv4: bool,
}

/// Parses the directive; later lines override earlier ones.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config { prefix: WELL_KNOWN, translate_all: false, allow_ipv4: false };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if line.more() {
            config.prefix = parse_prefix(&mut line).unwrap_or(WELL_KNOWN);
        }
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "prefix" => config.prefix = parse_prefix(&mut inner).unwrap_or(WELL_KNOWN),
                "translate_all" => config.translate_all = true,
                "allow_ipv4" => config.allow_ipv4 = true,
                _ => inner.unknown(["prefix", "translate_all", "allow_ipv4"]),
            }
            inner.finish();
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses an IPv6 network of an allowed length.
fn parse_prefix(line: &mut Arguments<'_, '_>) -> Option<Ipv6Net> {
    const WHAT: &str = "an IPv6 network of 32, 40, 48, 56, 64 or 96 bits, such as 64:ff9b::/96";
    let word = line.word(WHAT)?;
    match word.text.parse::<IpNet>() {
        Ok(IpNet::V6(network)) if LENGTHS.contains(&network.prefix_len()) => Some(network.trunc()),
        Ok(_) => {
            line.error_expected(word, format!("invalid prefix '{}'", word.text), WHAT);
            None
        }
        Err(_) => {
            line.error_expected(word, format!("invalid CIDR address: {}", word.text), WHAT);
            None
        }
    }
}

impl Config {
    /// Embeds an IPv4 address in the prefix (RFC 6052 2.2).
    fn embed(&self, ipv4: [u8; 4]) -> [u8; 16] {
        let mut address = self.prefix.network().octets();
        for (at, byte) in ipv4_indexes(&self.prefix).zip(ipv4) {
            address[at] = byte;
        }
        address
    }

    /// Returns whether the query may get synthesized addresses.
    fn is_eligible(&self, exchange: &Exchange<'_>) -> bool {
        let question = exchange.question();
        question.qtype == Type::AAAA
            && question.qclass == Class::IN
            && (self.allow_ipv4 || exchange.client.remote.ip().to_canonical().is_ipv6())
    }

    /// Returns whether synthesized addresses replace this reply (RFC 6147 5.1.1, 5.1.2). The IPv4 addresses of an alias
    /// are looked up even if its target does not exist, as in CoreDNS.
    fn is_replaceable(&self, reply: &Reply) -> bool {
        let has_addresses = || reply.section(Section::Answer).any(|record| record.rtype == Type::AAAA);
        reply.kind() != ReplyKind::NameError && (self.translate_all || !has_addresses())
    }

    /// Replaces the reply by `inner`, a reply with A records, which become AAAA records (RFC 6147 5.1.7, 5.3). The
    /// flags are reset, as in CoreDNS.
    fn translate(&self, reply: &mut Reply, mut inner: Reply) {
        let max_ttl = max_ttl(reply);
        for record in inner.records_mut().iter_mut().filter(|record| record.section == Section::Answer) {
            if let Rdata::A(address) = record.rdata {
                record.rtype = Type::AAAA;
                record.rdata = Rdata::Aaaa(self.embed(address));
                record.ttl = record.ttl.min(max_ttl);
            }
        }
        inner.authoritative = false;
        inner.recursion_available = false;
        inner.authentic_data = false;
        *reply = inner;
    }
}

/// The metric of synthesized replies.
pub enum Dns64Metric {}

impl ServerMetric for Dns64Metric {
    const METRIC: &'static Metric = &table::DNS64_TRANSLATED;
}

/// The counters of synthesized replies.
pub type Dns64Metrics = ServerCounters<Dns64Metric>;

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (config, all) = (*self, block.resources().metrics.get::<Dns64Metrics>());
        block.plugin_per_listener(move |listener| Dns64::new(config, all.of(&listener.labels.server)));
        Ok(())
    }
}

/// The plugin, for a server block on a socket.
pub struct Dns64 {
    config: Config,
    counters: Arc<ServerCounter>,
}

impl Dns64 {
    /// Creates the plugin.
    pub fn new(config: Config, counters: Arc<ServerCounter>) -> Dns64 {
        Dns64 { config, counters }
    }
}

impl Dns64 {
    /// Returns whether the plugin replaces the reply.
    fn translates(&self, exchange: &mut Exchange<'_>) -> bool {
        // A bare code is an error of the server, not an answer without addresses.
        !exchange.state.bare && self.config.is_eligible(exchange) && self.config.is_replaceable(exchange.reply())
    }
}

impl Plugin for Dns64 {
    fn name(&self) -> &'static str {
        "dns64"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: true, sent: false }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn explain_reply(&self, exchange: &mut Exchange<'_>, lines: &mut Vec<String>) -> ExplainedReply {
        if !self.translates(exchange) {
            return ExplainedReply::Known;
        }
        let name = exchange.question().name();
        let Some(inner) = exchange.explain_look_up(name, Type::A, false) else {
            lines.push("looks up the IPv4 addresses of the name, which a dry run does not know".to_owned());
            return ExplainedReply::Unknown;
        };
        lines.push(format!("looks up the IPv4 addresses of the name, and embeds them in {}", self.config.prefix));
        self.config.translate(exchange.reply(), inner);
        ExplainedReply::Known
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        if !self.translates(exchange) {
            return None;
        }
        let (config, counters) = (self.config, self.counters.clone());
        let inner = exchange.resolve(exchange.question().name(), Type::A);
        exchange.when_done(inner, "dns64", move |state, inner| {
            config.translate(&mut state.reply, inner);
            counters.increment();
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn properties_are_parsed_as_in_coredns() {
        assert_eq!(config("dns64", parse), Config { prefix: WELL_KNOWN, translate_all: false, allow_ipv4: false });
        let parsed = config("dns64 2001:db8::1/48 {\n translate_all\n allow_ipv4\n}", parse);
        let expected =
            Config { prefix: "2001:db8::/48".parse().expect("a network"), translate_all: true, allow_ipv4: true };
        assert_eq!(parsed, expected);
        assert_eq!(config("dns64 {\n prefix 64:ff9b:1::/64\n}", parse).prefix.prefix_len(), 64);
        for (line, message) in [
            ("dns64 1.2.3.0/24", "invalid prefix '1.2.3.0/24'"),
            ("dns64 64:ff9b::/95", "invalid prefix '64:ff9b::/95'"),
            ("dns64 64:ff9b::/72", "invalid prefix '64:ff9b::/72'"),
            ("dns64 nothing", "invalid CIDR address: nothing"),
            ("dns64 64:ff9b::/96 x", "Wrong argument count or unexpected line ending after 'x'"),
            ("dns64 {\n prefix\n}", "Wrong argument count or unexpected line ending after 'prefix'"),
            ("dns64 {\n mumble\n}", "unknown property 'mumble'"),
        ] {
            assert_eq!(read(line, parse).1, [message], "{line}");
        }
    }

    #[test]
    fn addresses_are_embedded_as_in_the_rfc() {
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
            let prefix = prefix.parse().expect("a network");
            let config = Config { prefix, translate_all: false, allow_ipv4: false };
            let address: Ipv6Addr = address.parse().expect("an address");
            assert_eq!(Ipv6Addr::from(config.embed([192, 0, 2, 33])), address, "{prefix}");
        }
    }
}
