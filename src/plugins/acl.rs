//! *acl*: which clients may ask for what (CoreDNS `plugin/acl`).
//!
//! It stands before *cache*, so that what one client may ask is not given to another that may not.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, zones_or_block_or_none};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{Cells, Collected, Family, Metric, MetricFamily, table};
use crate::wire::reply::ExtendedError;
use crate::wire::{NameBuf, Rcode, Type};

/// RFC 8914 4.16, 4.18: why there is no answer.
const BLOCKED: ExtendedError = ExtendedError { code: 15, text: "" };
const FILTERED: ExtendedError = ExtendedError { code: 17, text: "" };

/// The rules of a block, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Each stanza.
    pub rules: Vec<Rule>,
}

/// A stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The names that it is about.
    pub zones: Vec<NameBuf>,
    /// Its lines; the first that fits counts.
    pub policies: Vec<Policy>,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What is done.
    pub action: Action,
    /// The types; all without.
    pub types: Vec<Type>,
    /// The networks of clients; all without.
    pub networks: Vec<IpNet>,
}

/// What is done with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on, whatever later stanzas say.
    Allow,
    /// REFUSED.
    Block,
    /// No record.
    Filter,
    /// Silence.
    Drop,
}

/// Reads the stanzas.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let zones = zones_or_block_or_none(&mut line, context.zones);
        let mut policies = Vec::new();
        for property in line.body() {
            let mut inner = line.enter(property);
            policies.extend(policy(&mut inner));
            inner.finish();
        }
        line.finish();
        config.rules.push(Rule { zones, policies });
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// `ACTION [type QTYPE...|*] [net NETWORK...|*]`.
fn policy(line: &mut Arguments<'_, '_>) -> Option<Policy> {
    let action = match line.name().to_ascii_lowercase().as_str() {
        "allow" => Action::Allow,
        "block" => Action::Block,
        "filter" => Action::Filter,
        "drop" => Action::Drop,
        _ => {
            line.unknown(["allow", "block", "filter", "drop"]);
            return None;
        }
    };
    let (mut types, mut networks) = (Vec::new(), Vec::new());
    let is_section = |text: &str| text.eq_ignore_ascii_case("type") || text.eq_ignore_ascii_case("net");
    while let Some(section) = line.next_word() {
        if !is_section(&section.text) {
            line.error_expected(section, format!("unexpected '{}'", section.text), "'type' or 'net'");
            return None;
        }
        let (mut all, mut count) = (false, 0);
        while let Some(word) = line.peek().filter(|word| !is_section(&word.text)) {
            line.next_word();
            count += 1;
            if word.text == "*" {
                all = true;
            } else if section.text.eq_ignore_ascii_case("type") {
                match Type::from_mnemonic(&word.text) {
                    Some(rtype) => types.push(rtype),
                    None => line.error_expected(word, format!("unexpected '{}'", word.text), "a type such as A"),
                }
            } else {
                let network = word.text.parse::<IpNet>().or_else(|_| word.text.parse::<IpAddr>().map(IpNet::from));
                match network {
                    Ok(network) => networks.push(network.trunc()),
                    Err(_) => {
                        let message = format!("illegal CIDR notation '{}'", word.text);
                        line.error_expected(word, message, "a network such as 10.0.0.0/8, or an address");
                    }
                }
            }
        }
        if count == 0 {
            let message = format!("no token specified in '{}' section", section.text);
            line.error_expected(section, message, "types, networks or *");
        }
        if all {
            // The whole section says nothing more.
            match section.text.eq_ignore_ascii_case("type") {
                true => types.clear(),
                false => networks.clear(),
            }
        }
    }
    Some(Policy { action, types, networks })
}

/// What has become of queries, on one socket.
pub struct Counts {
    server: String,
    zones: Vec<String>,
    /// Allowed, and for each zone those that were blocked, filtered and dropped.
    cells: Cells<COUNTS>,
}

/// Zones that have counts of their own; those of others are in the last one's.
const ZONES: usize = 16;
const COUNTS: usize = 1 + 3 * ZONES;

/// The counts of all sockets. They outlive a reload.
#[derive(Default)]
pub struct AllCounts(parking_lot::RwLock<Vec<Arc<Counts>>>);

impl AllCounts {
    /// The counts of a configuration on a socket.
    pub fn counts(&self, config: &Config, server: &str) -> Arc<Counts> {
        let mut zones: Vec<String> =
            config.rules.iter().flat_map(|rule| &rule.zones).map(|zone| zone.to_lower().to_string()).collect();
        zones.dedup();
        zones.truncate(ZONES);
        let mut all = self.0.write();
        if let Some(found) = all.iter().find(|counts| counts.server == server && counts.zones == zones) {
            return found.clone();
        }
        let counts = Arc::new(Counts { server: server.to_owned(), zones, cells: Cells::default() });
        all.push(counts.clone());
        counts
    }
}

impl Collected for AllCounts {
    const METRICS: &'static [&'static Metric] =
        &[&table::ACL_ALLOWED, &table::ACL_BLOCKED, &table::ACL_FILTERED, &table::ACL_DROPPED];

    fn families(&self) -> Vec<MetricFamily> {
        let mut allowed = Family::new(&table::ACL_ALLOWED);
        let mut others = [&table::ACL_BLOCKED, &table::ACL_FILTERED, &table::ACL_DROPPED].map(Family::new);
        for counts in self.0.read().iter() {
            let sums = counts.cells.sums();
            if sums[0] > 0 {
                allowed.value(&[&counts.server, ""], sums[0] as f64);
            }
            for (at, zone) in counts.zones.iter().enumerate() {
                for (kind, family) in others.iter_mut().enumerate() {
                    let count = sums[1 + 3 * at + kind];
                    if count > 0 {
                        family.value(&[&counts.server, "", zone], count as f64);
                    }
                }
            }
        }
        std::iter::once(allowed).chain(others).map(Family::done).collect()
    }
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (config, all) = (self.clone(), block.resources().metrics.get::<AllCounts>());
        block.plugin_per_listener(move |listener| Acl::new(config.clone(), all.counts(&config, listener.server)));
        Ok(())
    }
}

/// The plugin, for a block on one socket.
pub struct Acl {
    config: Config,
    counts: Arc<Counts>,
}

impl Acl {
    /// The plugin of these rules.
    pub fn new(config: Config, counts: Arc<Counts>) -> Acl {
        Acl { config, counts }
    }

    /// What the rules say of a query, and the zone that they say it of.
    fn judge(&self, exchange: &Exchange<'_>) -> Option<(Action, &NameBuf)> {
        let (question, client) = (exchange.question(), exchange.client.remote.ip().to_canonical());
        for rule in &self.config.rules {
            // The longest zone, as CoreDNS `plugin.Zones.Matches`.
            let fits = rule.zones.iter().filter(|zone| question.name().is_within(zone.as_name()));
            let Some(zone) = fits.max_by_key(|zone| zone.as_name().as_wire().len()) else { continue };
            let policy = rule.policies.iter().find(|policy| {
                (policy.types.is_empty() || policy.types.contains(&question.qtype))
                    && (policy.networks.is_empty() || policy.networks.iter().any(|network| network.contains(&client)))
            });
            if let Some(policy) = policy {
                return Some((policy.action, zone));
            }
        }
        None
    }

    fn count(&self, zone: &NameBuf, kind: usize) {
        let zone = zone.to_lower().to_string();
        let at = self.counts.zones.iter().position(|of| *of == zone).unwrap_or(ZONES - 1);
        self.counts.cells.mine().add(1 + 3 * at + kind, 1);
    }
}

impl Plugin for Acl {
    fn name(&self) -> &'static str {
        "acl"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        match self.judge(exchange) {
            None | Some((Action::Allow, _)) => {
                self.counts.cells.mine().add(0, 1);
                Step::Next
            }
            Some((Action::Block, zone)) => {
                self.count(zone, 0);
                let reply = exchange.reply();
                (reply.rcode, reply.extended_error) = (Rcode::REFUSED, Some(BLOCKED));
                Step::Answered
            }
            Some((Action::Filter, zone)) => {
                self.count(zone, 1);
                exchange.reply().extended_error = Some(FILTERED);
                Step::Answered
            }
            Some((Action::Drop, zone)) => {
                self.count(zone, 2);
                Step::Drop
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::plugins::testing::{client, code, config, packet, read, send};

    /// What becomes of a query.
    fn ask(lines: &str, from: &str, name: &str, qtype: Type) -> String {
        let (config, all) = (config(lines, parse), AllCounts::default());
        let counts = all.counts(&config, "dns://:53");
        let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(Acl::new(config, counts)), code(Rcode::NXDOMAIN, None)];
        let state = send(plugins, &packet(name, qtype, None), client(from), Instant::now());
        let error = state.reply.extended_error.map(|error| format!(" {}", error.code)).unwrap_or_default();
        format!("{}{error}", state.reply.rcode)
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let lines = "acl {\n allow net 10.0.1.0/24 fd00::1\n block type A AAAA net 10.0.0.0/8\n filter type TXT\n}";
        for (from, qtype, expected) in [
            ("10.0.1.9:1", Type::A, "NXDOMAIN"),
            ("10.0.2.9:1", Type::A, "REFUSED 15"),
            ("10.0.2.9:1", Type::MX, "NXDOMAIN"),
            ("192.0.2.1:1", Type::A, "NXDOMAIN"),
            ("192.0.2.1:1", Type::TXT, "NOERROR 17"),
            ("[fd00::1]:1", Type::TXT, "NXDOMAIN"),
            ("[::ffff:10.0.2.9]:1", Type::A, "REFUSED 15"),
        ] {
            assert_eq!(ask(lines, from, "x.example.", qtype), expected, "{from} {qtype}");
        }
        assert_eq!(ask("acl example.org {\n block\n}", "10.0.0.1:1", "x.example.", Type::A), "NXDOMAIN");
        assert_eq!(ask("acl {\n block type * net *\n}", "10.0.0.1:1", "x.example.", Type::A), "REFUSED 15");
        // An allowing stanza ends the search.
        let two = "acl {\n allow net 10.0.0.1\n}\nacl {\n block\n}";
        assert_eq!(ask(two, "10.0.0.1:1", "x.example.", Type::A), "NXDOMAIN");
        assert_eq!(ask(two, "10.0.0.2:1", "x.example.", Type::A), "REFUSED 15");
    }

    #[test]
    fn mistakes_are_told() {
        for (line, message) in [
            ("deny", "unknown property 'deny'"),
            ("block what", "unexpected 'what'"),
            ("block type", "no token specified in 'type' section"),
            ("block type NONSENSE", "unexpected 'NONSENSE'"),
            ("block net 10.0.0.0/33", "illegal CIDR notation '10.0.0.0/33'"),
        ] {
            let said = read(&format!("acl {{\n {line}\n}}"), parse).1;
            assert!(said[0].starts_with(message), "{said:?}");
        }
    }
}
