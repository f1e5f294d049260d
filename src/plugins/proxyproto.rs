//! *proxyproto*: the client's address is the one that a proxy in front of the server names in a header of the PROXY
//! protocol (CoreDNS `plugin/proxyproto`). Listeners read the headers; the plugin has their TLVs as metadata.

use std::fmt::Write as _;
use std::time::Duration;

use super::Context;
use super::build::{BlockBuilder, BlockOptions, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive};
use crate::net::{ProxyPolicy, ProxyRules, Tlvs};

/// The label of the TLVs.
const LABEL: &str = "proxyproto/tlv";

/// Parses the stanzas, which add up.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<ProxyRules> {
    let errors = context.diagnostics.has_errors();
    let mut rules = ProxyRules::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "allow" => {
                    while inner.more() {
                        rules.allowed.extend(inner.network());
                    }
                }
                "default" => rules.default = parse_policy(&mut inner).or(rules.default),
                "udp_session_tracking" => {
                    rules.session_time = inner.duration().unwrap_or(Duration::ZERO);
                    if inner.more() {
                        rules.max_sessions = inner.number(1..=usize::MAX).unwrap_or(rules.max_sessions);
                    }
                }
                "tlv_metadata" => rules.keeps_tlvs = true,
                _ => inner.unknown(["allow", "default", "udp_session_tracking", "tlv_metadata"]),
            }
            inner.finish();
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(rules)
}

/// Parses the policy for addresses that are not allowed, in any letter case.
fn parse_policy(line: &mut Arguments<'_, '_>) -> Option<ProxyPolicy> {
    line.parse("'use', 'ignore', 'reject' or 'skip'", |text| match text.to_ascii_lowercase().as_str() {
        "use" => Ok(ProxyPolicy::Use),
        "ignore" => Ok(ProxyPolicy::Ignore),
        "reject" => Ok(ProxyPolicy::Reject),
        "skip" => Ok(ProxyPolicy::Skip),
        _ => Err(format!("unexpected '{text}'")),
    })
}

impl Setting for ProxyRules {
    fn configure(&self, options: &mut BlockOptions) {
        options.proxy = Some(self.clone());
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        if self.keeps_tlvs {
            block.plugin(ProxyTlvs);
        }
        Ok(())
    }
}

/// The plugin of a block that has TLVs as metadata.
struct ProxyTlvs;

impl Plugin for ProxyTlvs {
    fn name(&self) -> &'static str {
        "proxyproto"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn metadata(&self, exchange: &Exchange<'_>, label: &str) -> Option<String> {
        if label != LABEL {
            return None;
        }
        let Tlvs(bytes) = exchange.state.notes.get()?;
        let mut text = String::with_capacity(2 * bytes.len());
        for byte in bytes {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn every_property_is_parsed() {
        assert_eq!(config("proxyproto", parse), ProxyRules::default());
        let lines = "proxyproto {\n allow 10.0.0.0/8 2001:db8::/32\n allow 192.0.2.1/32\n allow\n default REJECT\n \
                     udp_session_tracking 28s 20000\n tlv_metadata\n}";
        let rules = config(lines, parse);
        let allowed: Vec<String> = rules.allowed.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]);
        assert_eq!((rules.default, rules.keeps_tlvs), (Some(ProxyPolicy::Reject), true));
        assert_eq!((rules.session_time, rules.max_sessions), (Duration::from_secs(28), 20_000));
        assert_eq!(config("proxyproto {\n udp_session_tracking 5s\n}", parse).max_sessions, 10_240);
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for lines in [
            "proxyproto x",
            "proxyproto {\n allow 10.0.0.1\n}",
            "proxyproto {\n default\n}",
            "proxyproto {\n default require\n}",
            "proxyproto {\n default use use\n}",
            "proxyproto {\n udp_session_tracking\n}",
            "proxyproto {\n udp_session_tracking 28\n}",
            "proxyproto {\n udp_session_tracking 28s 0\n}",
            "proxyproto {\n udp_session_tracking 28s 5 6\n}",
            "proxyproto {\n tlv_metadata on\n}",
            "proxyproto {\n nothing\n}",
        ] {
            assert_eq!(read(lines, parse).0, None, "{lines}");
        }
    }
}
