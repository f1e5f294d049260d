//! Directives that are accepted so that a Corefile of CoreDNS runs, and that have no effect: *shed*, because this
//! server always sheds load, and *pprof*, because it is Go's profiler.

use super::build::Setting;
use super::{Context, no_arguments};
use crate::corefile::{Arguments, Directive, Scheme};

/// The configuration, which has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config;

impl Setting for Config {}

/// Parses *shed*. With it, CoreDNS writes the newest answer first and drops the oldest ones. Here a worker writes its
/// own answers, batch by batch, so that no answer waits; the limit on pending queries sheds load.
pub fn shed(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    no_arguments(stanzas, context);
    let encrypted = context.keys.iter().find(|key| key.scheme != Scheme::Dns);
    if let (Some(key), Some(stanza)) = (encrypted, stanzas.first()) {
        let (text, transport) = (&key.token.text, key.scheme.name());
        let message = format!("only plain DNS server blocks are supported; \"{text}\" uses transport \"{transport}\"");
        let mut line = Arguments::of(stanza, context.diagnostics);
        line.error_expected(&stanza.name, message, "no 'shed' in this server block");
    }
    (errors == context.diagnostics.has_errors()).then_some(Config)
}

/// Parses *pprof*, and warns that it has no effect.
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
        line.warning(&stanza.name, "'pprof' has no effect: it is Go's profiler; use perf");
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
        let (config, messages) = read_in("example tls://example.org:853", "shed", shed);
        assert!(config.is_none());
        let message = "only plain DNS server blocks are supported; \"tls://example.org:853\" uses transport \"tls\"";
        assert_eq!(messages, [message]);
    }
}
