//! *acl*: allows, blocks, filters or drops queries by zone, type and client network (CoreDNS `plugin/acl`).
//!
//! It comes before *cache* in the chain, so that a cached answer to one client is not sent to another one whose queries
//! are blocked.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::RwLock;

use super::build::{BlockBuilder, BuildError, Setting};
use super::{Context, zones_or_block_or_none};
use crate::chain::{Exchange, ExplainNotes, Explained, Plugin, Step, TraceDenial};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{BlockLabels, Cells, Collected, Family, Metric, MetricFamily, table};
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{NameBuf, Rcode, Type};

/// The extended errors of answers (RFC 8914 4.16, 4.18).
const BLOCKED: ExtendedError = ExtendedError { code: 15, reason: "acl-blocked", text: ErrorText::Fixed("") };
const FILTERED: ExtendedError = ExtendedError { code: 17, reason: "acl-filtered", text: ErrorText::Fixed("") };
/// The reason of a dropped query, for log lines and counters: there is no response that has it.
const DROPPED: ExtendedError = ExtendedError { code: 15, reason: "acl-dropped", text: ErrorText::Fixed("") };

/// The configuration of a server block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The stanzas, in the order of the file.
    pub rules: Vec<AclRule>,
}

/// A stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// The stanza applies to names in these zones.
    pub zones: Vec<NameBuf>,
    /// The lines of the stanza; the first one that matches a query applies.
    pub policies: Vec<AclPolicy>,
}

/// A line of a stanza.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AclPolicy {
    /// The action for matching queries.
    pub action: Action,
    /// The query types that match; empty for all types.
    pub types: Vec<Type>,
    /// The client networks that match; empty for all clients.
    pub networks: Vec<IpNet>,
}

/// The action for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The query continues in the chain; later stanzas are ignored.
    Allow,
    /// The response is REFUSED.
    Block,
    /// The response is NOERROR without a record.
    Filter,
    /// There is no response.
    Drop,
}

/// Parses the stanzas.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let zones = zones_or_block_or_none(&mut line, context.zones);
        let mut policies = Vec::new();
        for property in line.body() {
            let mut inner = line.enter(property);
            policies.extend(parse_policy(&mut inner));
            inner.finish();
        }
        line.finish();
        config.rules.push(AclRule { zones, policies });
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses `ACTION [type QTYPE...|*] [net NETWORK...|*]`.
fn parse_policy(line: &mut Arguments<'_, '_>) -> Option<AclPolicy> {
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
        let is_type_section = section.text.eq_ignore_ascii_case("type");
        let mut has_asterisk = false;
        let mut count = 0;
        while let Some(word) = line.peek().filter(|word| !is_section(&word.text)) {
            line.next_word();
            count += 1;
            if word.text == "*" {
                has_asterisk = true;
            } else if is_type_section {
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
        if has_asterisk {
            // An asterisk makes the other words of the section irrelevant.
            if is_type_section {
                types.clear();
            } else {
                networks.clear();
            }
        }
    }
    Some(AclPolicy { action, types, networks })
}

/// The counters of a configuration on a socket.
pub struct AclCounters {
    /// The label of the socket, such as `dns://:53`.
    labels: BlockLabels,
    zones: Vec<String>,
    /// Allowed queries, then blocked, filtered and dropped queries of each zone.
    cells: Cells<COUNTS>,
}

/// The maximum number of zones with counters of their own. Further zones share the counters of the last one.
const ZONES: usize = 16;
const COUNTS: usize = 1 + 3 * ZONES;

/// The counters of all sockets. They outlive a reload.
#[derive(Default)]
pub struct AclMetrics(RwLock<Vec<Arc<AclCounters>>>);

impl AclMetrics {
    /// Returns the counters of a configuration on a socket, and adds them if they are new.
    pub fn counts(&self, config: &Config, labels: &BlockLabels) -> Arc<AclCounters> {
        let mut zones: Vec<String> =
            config.rules.iter().flat_map(|rule| &rule.zones).map(|zone| zone.to_lower().to_string()).collect();
        zones.dedup();
        zones.truncate(ZONES);
        let mut all = self.0.write();
        if let Some(found) = all.iter().find(|counters| counters.labels == *labels && counters.zones == zones) {
            return found.clone();
        }
        let counters = Arc::new(AclCounters { labels: labels.clone(), zones, cells: Cells::default() });
        all.push(counters.clone());
        counters
    }
}

impl Collected for AclMetrics {
    const METRICS: &'static [&'static Metric] =
        &[&table::ACL_ALLOWED, &table::ACL_BLOCKED, &table::ACL_FILTERED, &table::ACL_DROPPED];

    fn families(&self) -> Vec<MetricFamily> {
        let mut allowed = Family::new(&table::ACL_ALLOWED);
        let mut rejected = [&table::ACL_BLOCKED, &table::ACL_FILTERED, &table::ACL_DROPPED].map(Family::new);
        for counters in self.0.read().iter() {
            let sums = counters.cells.sums();
            let BlockLabels { server, view } = &counters.labels;
            if sums[0] > 0 {
                allowed.value(&[server, view], sums[0] as f64);
            }
            for (at, zone) in counters.zones.iter().enumerate() {
                for (kind, family) in rejected.iter_mut().enumerate() {
                    let count = sums[1 + 3 * at + kind];
                    if count > 0 {
                        family.value(&[server, view, zone], count as f64);
                    }
                }
            }
        }
        std::iter::once(allowed).chain(rejected).map(Family::done).collect()
    }
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (config, all) = (self.clone(), block.resources().metrics.get::<AclMetrics>());
        block.plugin_per_listener(move |listener| Acl::new(config.clone(), all.counts(&config, listener.labels)));
        Ok(())
    }
}

/// The plugin, for a server block on a socket.
pub struct Acl {
    config: Config,
    counters: Arc<AclCounters>,
}

impl Acl {
    /// Creates the plugin.
    pub fn new(config: Config, counters: Arc<AclCounters>) -> Acl {
        Acl { config, counters }
    }

    /// Returns the action of the first matching line, and the zone through which its stanza applies; `None` if no line
    /// matches.
    fn find_action(&self, exchange: &Exchange<'_>) -> Option<(Action, &NameBuf)> {
        let question = exchange.question();
        let client = exchange.client.remote.ip().to_canonical();
        for rule in &self.config.rules {
            // The longest matching zone, as in CoreDNS `plugin.Zones.Matches`.
            let matching = rule.zones.iter().filter(|zone| question.name().is_within(zone.as_name()));
            let Some(zone) = matching.max_by_key(|zone| zone.as_name().as_wire().len()) else { continue };
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

    /// Counts a query in this zone that was blocked (`kind` 0), filtered (1) or dropped (2).
    fn count(&self, zone: &NameBuf, kind: usize) {
        let zone = zone.to_lower().to_string();
        let at = self.counters.zones.iter().position(|of| *of == zone).unwrap_or(ZONES - 1);
        self.counters.cells.mine().add(1 + 3 * at + kind, 1);
    }
}

impl Plugin for Acl {
    fn name(&self) -> &'static str {
        "acl"
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        let client = exchange.client.remote.ip().to_canonical();
        let (verb, explained, found) = match self.find_action(exchange) {
            None => return Explained::Next,
            Some((Action::Allow, zone)) => {
                notes.lines.push(format!("allows the client {client} in zone {zone}"));
                return Explained::Next;
            }
            Some((Action::Block, zone)) => ("blocks", Explained::Answered, zone),
            Some((Action::Filter, zone)) => ("filters", Explained::Answered, zone),
            Some((Action::Drop, zone)) => ("drops", Explained::Dropped, zone),
        };
        let text = format!("acl {verb} queries of the client {client} in zone {found}");
        let reason = match verb {
            "blocks" => "acl-blocked",
            "filters" => "acl-filtered",
            _ => "acl-dropped",
        };
        notes.denial = Some(TraceDenial { reason: reason.to_owned(), text, nearest: Vec::new() });
        exchange.reply().rcode = if verb == "blocks" { Rcode::REFUSED } else { Rcode::NOERROR };
        explained
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        match self.find_action(exchange) {
            None | Some((Action::Allow, _)) => {
                self.counters.cells.mine().add(0, 1);
                Step::Next
            }
            Some((Action::Block, zone)) => {
                self.count(zone, 0);
                let reply = exchange.reply();
                reply.rcode = Rcode::REFUSED;
                reply.extended_error = Some(BLOCKED);
                Step::Answered
            }
            Some((Action::Filter, zone)) => {
                self.count(zone, 1);
                exchange.reply().extended_error = Some(FILTERED);
                Step::Answered
            }
            Some((Action::Drop, zone)) => {
                self.count(zone, 2);
                exchange.reply().extended_error = Some(DROPPED);
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

    /// Returns the code and the extended error of the response to a query of this client.
    fn query(lines: &str, from: &str, name: &str, qtype: Type) -> String {
        let config = config(lines, parse);
        let counters = AclMetrics::default().counts(&config, &BlockLabels::new("dns://:53", ""));
        let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(Acl::new(config, counters)), code(Rcode::NXDOMAIN, None)];
        let state = send(plugins, &packet(name, qtype, None), client(from), Instant::now());
        let error = state.reply.extended_error.map(|error| format!(" {}", error.code)).unwrap_or_default();
        format!("{}{error}", state.reply.rcode)
    }

    #[test]
    fn the_first_matching_line_applies() {
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
            assert_eq!(query(lines, from, "x.example.", qtype), expected, "{from} {qtype}");
        }
        assert_eq!(query("acl example.org {\n block\n}", "10.0.0.1:1", "x.example.", Type::A), "NXDOMAIN");
        assert_eq!(query("acl {\n block type * net *\n}", "10.0.0.1:1", "x.example.", Type::A), "REFUSED 15");
        // A line that allows the query ends the search.
        let two = "acl {\n allow net 10.0.0.1\n}\nacl {\n block\n}";
        assert_eq!(query(two, "10.0.0.1:1", "x.example.", Type::A), "NXDOMAIN");
        assert_eq!(query(two, "10.0.0.2:1", "x.example.", Type::A), "REFUSED 15");
    }

    #[test]
    fn errors_are_reported() {
        for (line, message) in [
            ("deny", "unknown property 'deny'"),
            ("block what", "unexpected 'what'"),
            ("block type", "no token specified in 'type' section"),
            ("block type INVALID", "unexpected 'INVALID'"),
            ("block net 10.0.0.0/33", "illegal CIDR notation '10.0.0.0/33'"),
        ] {
            let messages = read(&format!("acl {{\n {line}\n}}"), parse).1;
            assert!(messages[0].starts_with(message), "{messages:?}");
        }
    }
}
