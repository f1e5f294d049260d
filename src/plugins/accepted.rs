//! Directives that are read so that a Corefile of CoreDNS runs, and that change nothing here: *shed*, whose purpose is how
//! this server is made, and *pprof*, which is about Go.

use super::{Context, no_arguments};
use crate::corefile::{Arguments, Directive};

/// Reads *shed*. CoreDNS then writes answers newest first and drops the oldest; here answers are written by whoever made
/// them, batch by batch, so that none wait, and what is too much is shed where it would wait for other servers.
pub fn shed(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<()> {
    no_arguments(stanzas, context);
    Some(())
}

/// Reads *pprof*, and says that it does nothing.
pub fn pprof(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<()> {
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
    (errors == context.diagnostics.has_errors()).then_some(())
}
