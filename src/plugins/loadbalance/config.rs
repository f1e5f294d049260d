//! The configuration of *loadbalance* (CoreDNS `plugin/loadbalance/setup.go`).

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::corefile::{Arguments, Diagnostic, Directive, Stage, suggest};
use crate::plugins::Context;
use crate::plugins::path::rooted;

/// The configuration of a block, from all its stanzas.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// How the first address is chosen.
    pub policy: BalancePolicy,
    /// Addresses in these networks come first, in this order. Empty with [`BalancePolicy::Weighted`].
    pub prefer: Vec<IpNet>,
}

/// How the first address is chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum BalancePolicy {
    /// At random, all with the same probability.
    #[default]
    RoundRobin,
    /// At random, with the weights of a file.
    Weighted {
        /// The path of the file.
        file: PathBuf,
        /// The interval between checks of the file; zero disables them.
        reload: Duration,
    },
}

/// Parses the stanzas. The policy is that of the last one; the networks of *prefer* are those of all stanzas after the
/// last `weighted`. Returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config::default();
    for stanza in stanzas {
        let root = context.root.clone();
        let mut line = Arguments::of(stanza, context.diagnostics);
        match line.next_word() {
            None => config.policy = BalancePolicy::RoundRobin,
            Some(word) if word.text == "round_robin" => {
                config.policy = BalancePolicy::RoundRobin;
                if let Some(extra) = line.peek() {
                    line.error_expected(extra, "unknown property for round_robin", "end of line");
                }
            }
            Some(word) if word.text == "weighted" => {
                let file = line.peek();
                if file.is_none() {
                    line.error_expected(word, "missing weight file argument", "a file name");
                }
                let file =
                    line.next_word().and_then(|file| rooted(&mut line, root.as_deref(), file)).unwrap_or_default();
                if let Some(extra) = line.peek() {
                    line.error_expected(extra, "unexpected argument(s)", "end of line");
                }
                config = Config {
                    policy: BalancePolicy::Weighted { file, reload: Duration::from_secs(30) },
                    prefer: Vec::new(),
                };
            }
            Some(word) => {
                let message = format!("unknown policy: {}", word.text);
                let error = Diagnostic::error(Stage::Parse, Some(word.span), message);
                let error = error.expected("round_robin, or weighted and a file");
                line.push(error.suggestion(suggest(&word.text, ["round_robin", "weighted"])));
            }
        }
        for property in line.body() {
            let mut line = line.enter(property);
            match (line.name(), &mut config.policy) {
                ("reload", BalancePolicy::Weighted { reload, .. }) => *reload = line.duration().unwrap_or(*reload),
                (_, BalancePolicy::Weighted { .. }) => line.unknown(["reload"]),
                // An empty list is accepted.
                ("prefer", BalancePolicy::RoundRobin) => {
                    while line.more() {
                        let Some(network) = line.network() else { break };
                        config.prefer.push(network);
                    }
                }
                (_, BalancePolicy::RoundRobin) => line.unknown(["prefer"]),
            }
            line.finish();
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn policies_and_networks_are_parsed() {
        assert_eq!(config("loadbalance", parse), Config::default());
        let two = config(
            "loadbalance round_robin {\n prefer 10.1.2.3/8 fd00::/8\n prefer\n}\nloadbalance {\n prefer 0.0.0.0/0\n}",
            parse,
        );
        let networks: Vec<String> = two.prefer.iter().map(|network| network.trunc().to_string()).collect();
        assert_eq!(networks, ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0"]);
        assert_eq!(two.policy, BalancePolicy::RoundRobin);
        let weighted = config("loadbalance {\n prefer 10.0.0.0/8\n}\nloadbalance weighted w {\n reload 1m\n}", parse);
        let policy = BalancePolicy::Weighted { file: "w".into(), reload: Duration::from_secs(60) };
        assert_eq!(weighted, Config { policy, prefer: Vec::new() });
        let off = config("loadbalance weighted /w {\n reload 0s\n}", parse);
        assert_eq!(off.policy, BalancePolicy::Weighted { file: "/w".into(), reload: Duration::ZERO });
        assert_eq!(config("loadbalance weighted w\nloadbalance", parse).policy, BalancePolicy::RoundRobin);
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for (lines, message) in [
            ("loadbalance roundrobin", "unknown policy: roundrobin (round_robin?)"),
            ("loadbalance round_robin x", "unknown property for round_robin"),
            ("loadbalance weighted", "missing weight file argument"),
            ("loadbalance weighted a b", "unexpected argument(s)"),
            ("loadbalance weighted a {\n prefer 10.0.0.0/8\n}", "unknown property 'prefer'"),
            ("loadbalance weighted a {\n reload\n}", "Wrong argument count or unexpected line ending after 'reload'"),
            ("loadbalance weighted a {\n reload 5s 5s\n}", "Wrong argument count or unexpected line ending after '5s'"),
            ("loadbalance weighted a {\n reload 5\n}", "time: missing unit in duration \"5\""),
            // CoreDNS panics.
            ("loadbalance weighted a {\n reload -5s\n}", "negative duration '-5s'"),
            ("loadbalance {\n reload 5s\n}", "unknown property 'reload'"),
            ("loadbalance {\n prefer 10.0.0.1\n}", "invalid CIDR '10.0.0.1'"),
            ("loadbalance {\n perfer 10.0.0.0/8\n}", "unknown property 'perfer' (prefer?)"),
        ] {
            let (config, messages) = read(lines, parse);
            assert_eq!(config, None, "{lines}");
            assert_eq!(messages[0], message, "{lines}");
        }
    }
}
