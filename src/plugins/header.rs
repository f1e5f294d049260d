//! *header*: sets and clears flags of queries, as later plugins see them, and of responses (CoreDNS `plugin/header`).

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Calls, Exchange, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};
use crate::wire::header::{Change, flag};

/// The flags that can be changed: name and bit.
const FLAGS: &[(&str, u16)] = &[("aa", flag::AA), ("ra", flag::RA), ("rd", flag::RD)];

/// The configuration of the directive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Changes of queries.
    pub query: Change,
    /// Changes of responses.
    pub response: Change,
}

/// Parses the directive; the first stanza with a rule is used, as in CoreDNS.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if config.is_some() {
            // CoreDNS does not parse it.
            line.warning(&stanza.name, "only the first 'header' of a server block is used");
            line.ignore_rest();
            continue;
        }
        // CoreDNS ignores arguments after the name.
        line.rest();
        let mut parsed = Config::default();
        for property in line.body() {
            let mut inner = line.enter(property);
            let change = match inner.name().to_ascii_lowercase().as_str() {
                "query" => &mut parsed.query,
                "response" => &mut parsed.response,
                _ => {
                    inner.unknown(["query", "response"]);
                    continue;
                }
            };
            parse_rule(&mut inner, change);
            inner.finish();
        }
        line.finish();
        if parsed != Config::default() {
            config = Some(parsed);
        }
    }
    if config.is_none()
        && errors == context.diagnostics.has_errors()
        && let Some(stanza) = stanzas.last()
    {
        let mut line = Arguments::of(stanza, context.diagnostics);
        line.ignore_rest();
        line.error_expected(&stanza.name, "no rule", "rules in braces, such as 'response set aa'");
    }
    config.filter(|_| errors == context.diagnostics.has_errors())
}

/// Parses `set FLAG...` or `clear FLAG...`, and adds it to `change`.
fn parse_rule(line: &mut Arguments<'_, '_>, change: &mut Change) {
    let Some(action) = line.word("set or clear") else { return };
    let is_set = match action.text.to_ascii_lowercase().as_str() {
        "set" => true,
        "clear" => false,
        _ => return line.error_expected(action, format!("unknown flag action '{}'", action.text), "set or clear"),
    };
    let Some(words) = line.words("one or more of aa, ra and rd") else { return };
    for word in words {
        match FLAGS.iter().find(|(name, _)| word.text.eq_ignore_ascii_case(name)) {
            Some((_, bits)) => change.add(*bits, is_set),
            None => line.error_expected(word, format!("unknown or unsupported flag '{}'", word.text), "aa, ra or rd"),
        }
    }
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(Header { config: *self });
        Ok(())
    }
}

/// Changes the flags of queries and responses.
pub struct Header {
    /// The configuration.
    pub config: Config,
}

impl Plugin for Header {
    fn name(&self) -> &'static str {
        "header"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, sent: false }
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let Change { set, clear } = self.config.query;
        for (_, bits) in FLAGS {
            if (set | clear) & bits != 0 {
                exchange.state.flag_changes.add(*bits, set & bits != 0);
            }
        }
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let Config { query, response } = self.config;
        // A response echoes RD of the changed query, which is what the later plugins have seen.
        let mut bits = query.apply(exchange.query.flags()) & flag::RD;
        let reply = exchange.reply();
        if reply.authoritative {
            bits |= flag::AA;
        }
        if reply.recursion_available {
            bits |= flag::RA;
        }
        let bits = response.apply(bits);
        reply.authoritative = bits & flag::AA != 0;
        reply.recursion_available = bits & flag::RA != 0;
        reply.recursion_desired = Some(bits & flag::RD != 0);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn rules_are_parsed_as_in_coredns() {
        let parsed = config("header {\n Query clear RD\n response set aa ra\n response CLEAR ra\n}", parse);
        let expected =
            Config { query: Change { set: 0, clear: flag::RD }, response: Change { set: flag::AA, clear: flag::RA } };
        assert_eq!(parsed, expected);
        let (first, messages) = read("header {\n query set aa\n}\nheader {\n query set tc\n}", parse);
        assert_eq!(first.map(|config| config.query.set), Some(flag::AA));
        assert_eq!(messages, ["only the first 'header' of a server block is used"]);
        for (lines, message) in [
            ("header", "no rule"),
            ("header {\n}", "no rule"),
            ("header {\n set aa\n}", "unknown property 'set'"),
            ("header {\n query\n}", "Wrong argument count or unexpected line ending after 'query'"),
            ("header {\n query flip aa\n}", "unknown flag action 'flip'"),
            ("header {\n query set\n}", "Wrong argument count or unexpected line ending after 'set'"),
            ("header {\n query set tc\n}", "unknown or unsupported flag 'tc'"),
        ] {
            assert_eq!(read(lines, parse).1, [message], "{lines}");
        }
    }
}
