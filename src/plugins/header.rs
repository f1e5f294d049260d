//! *header*: sets and clears flags of queries, for those behind it, and of answers (CoreDNS `plugin/header`).

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step, Wait};
use crate::corefile::{Arguments, Directive};
use crate::wire::header::{Change, flag};

/// The flags.
const FLAGS: &[(&str, u16)] = &[("aa", flag::AA), ("ra", flag::RA), ("rd", flag::RD)];

/// What the directive says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Of queries.
    pub query: Change,
    /// Of answers.
    pub response: Change,
}

/// Reads the directive; of several the first that says something counts, as in CoreDNS.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if config.is_some() {
            // CoreDNS does not even look at it.
            line.warning(&stanza.name, "only the first 'header' of a server block counts");
            line.ignore_rest();
            continue;
        }
        // CoreDNS passes over what follows the name.
        line.rest();
        let mut read = Config::default();
        for property in line.body() {
            let mut inner = line.enter(property);
            let of = match inner.name().to_ascii_lowercase().as_str() {
                "query" => &mut read.query,
                "response" => &mut read.response,
                _ => {
                    inner.unknown(["query", "response"]);
                    continue;
                }
            };
            rule(&mut inner, of);
            inner.finish();
        }
        line.finish();
        if read != Config::default() {
            config = Some(read);
        }
    }
    if config.is_none()
        && errors == context.diagnostics.has_errors()
        && let Some(stanza) = stanzas.last()
    {
        let mut line = Arguments::of(stanza, context.diagnostics);
        line.ignore_rest();
        line.error_expected(&stanza.name, "no rule", "query or response, set or clear, and flags, in braces");
    }
    config.filter(|_| errors == context.diagnostics.has_errors())
}

/// Reads `set` or `clear` and the flags behind it.
fn rule(line: &mut Arguments<'_, '_>, change: &mut Change) {
    let Some(action) = line.word("set or clear") else { return };
    let state = match action.text.to_ascii_lowercase().as_str() {
        "set" => true,
        "clear" => false,
        _ => return line.error_expected(action, format!("unknown flag action '{}'", action.text), "set or clear"),
    };
    let Some(words) = line.words("one or more of aa, ra and rd") else { return };
    for word in words {
        match FLAGS.iter().find(|(name, _)| word.text.eq_ignore_ascii_case(name)) {
            Some((_, bits)) => change.add(*bits, state),
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

/// The plugin.
pub struct Header {
    /// What the directive says.
    pub config: Config,
}

impl Plugin for Header {
    fn name(&self) -> &'static str {
        "header"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        for (_, bits) in FLAGS {
            let Change { set, clear } = self.config.query;
            if (set | clear) & bits != 0 {
                exchange.state.asked.add(*bits, set & bits != 0);
            }
        }
        Step::Next
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let Config { query, response } = self.config;
        // Whoever answers echoes RD as it came to them.
        let asked = query.apply(exchange.query.flags());
        let reply = exchange.reply();
        let mut bits = asked & flag::RD;
        bits |= if reply.authoritative { flag::AA } else { 0 } | if reply.recursion_available { flag::RA } else { 0 };
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
    fn rules_are_read_as_coredns_reads_them() {
        let made = config("header {\n Query clear RD\n response set aa ra\n response CLEAR ra\n}", parse);
        let expected =
            Config { query: Change { set: 0, clear: flag::RD }, response: Change { set: flag::AA, clear: flag::RA } };
        assert_eq!(made, expected);
        let (first, said) = read("header {\n query set aa\n}\nheader {\n query set tc\n}", parse);
        assert_eq!(first.map(|config| config.query.set), Some(flag::AA));
        assert_eq!(said, ["only the first 'header' of a server block counts"]);
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
