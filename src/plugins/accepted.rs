//! Directives that are read so that a Corefile of CoreDNS runs, and that change nothing here: *shed*, whose purpose is how
//! this server is made, and *pprof*, which is about Go.

use super::build::Setting;
use super::{Context, no_arguments};
use crate::corefile::{Arguments, Directive, Scheme};

/// The configuration, which changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config;

impl Setting for Config {}

/// Reads *shed*. CoreDNS then writes answers newest first and drops the oldest; here answers are written by whoever made
/// them, batch by batch, so that none wait, and what is too much is shed where it would wait for other servers.
pub fn shed(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    no_arguments(stanzas, context);
    let encrypted = context.keys.iter().find(|key| key.scheme != Scheme::Dns);
    if let (Some(key), Some(stanza)) = (encrypted, stanzas.first()) {
        let (text, transport) = (&key.token.text, key.scheme.name());
        let message = format!("only plain DNS server blocks are supported; \"{text}\" uses transport \"{transport}\"");
        let mut line = Arguments::of(stanza, context.diagnostics);
        line.error_expected(&stanza.name, message, "no 'shed' in this block");
    }
    (errors == context.diagnostics.has_errors()).then_some(Config)
}

/// Reads *pprof*, and says that it does nothing.
pub fn pprof(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if let Some(word) = line.next_word()
            && !word.text.contains(':')
        {
            line.error_expected(word, format!("invalid address '{}'", word.text), "an address with a port");
        }
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "block" if inner.more() => drop(inner.number(0..=i32::MAX)),
                "block" => {}
                _ => inner.unknown(["block"]),
            }
            inner.finish();
        }
        line.warning(&stanza.name, "'pprof' is Go's profiler, which is not in this server: nothing listens; use perf");
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(Config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read_in};

    /// CoreDNS plugin/shed `setup`.
    #[test]
    fn shed_is_for_plain_dns() {
        config("shed", shed);
        let (read, said) = read_in("example tls://example.org:853", "shed", shed);
        assert!(read.is_none());
        let message = "only plain DNS server blocks are supported; \"tls://example.org:853\" uses transport \"tls\"";
        assert_eq!(said, [message]);
    }
}
