//! *https*, *https3* and *quic*: limits of encrypted listeners (CoreDNS `plugin/https`, `https3`, `quic`).

use super::Context;
use crate::corefile::{Arguments, Directive};

/// The limits of a listener. `None` selects the default of the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Open connections of the listener; 0 for the built-in maximum.
    pub connections: Option<u32>,
    /// Requests in flight on a connection; 0 for the default of the HTTP library.
    pub streams: Option<u32>,
    /// Pending queries of the listener.
    pub at_once: Option<u32>,
}

/// Parses *https* or *https3*.
pub fn http(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Limits> {
    parse(stanzas, context, &["max_connections", "max_streams"], 0)
}

/// Parses *quic*.
pub fn quic(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Limits> {
    parse(stanzas, context, &["max_connections", "max_streams", "worker_pool_size"], 1)
}

/// Parses a directive with these properties; `min_streams` is the minimum of `max_streams`.
fn parse(stanzas: &[&Directive], context: &mut Context<'_>, names: &[&str], min_streams: u32) -> Option<Limits> {
    let errors = context.diagnostics.has_errors();
    let mut limits = Limits::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        for property in line.body() {
            let mut inner = line.enter(property);
            let (limit, min) = match inner.name() {
                "max_connections" => (&mut limits.connections, 0),
                "max_streams" => (&mut limits.streams, min_streams),
                "worker_pool_size" if names.contains(&"worker_pool_size") => (&mut limits.at_once, 1),
                _ => {
                    inner.unknown(names.iter().copied());
                    inner.finish();
                    continue;
                }
            };
            match inner.number(min..=u32::MAX) {
                Some(_) if limit.is_some() => {
                    let message = format!("{} already defined for this server block", inner.name());
                    inner.error(&property.name, message);
                }
                number => *limit = number,
            }
            inner.finish();
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn limits_are_parsed_as_in_coredns() {
        let limits = config("https {\n max_connections 0\n max_streams 10\n}", http);
        assert_eq!(limits, Limits { connections: Some(0), streams: Some(10), at_once: None });
        assert_eq!(config("https3", http), Limits::default());
        let limits = config("quic {\n max_streams 1\n worker_pool_size 2\n}", quic);
        assert_eq!(limits, Limits { connections: None, streams: Some(1), at_once: Some(2) });
        for lines in ["max_streams -1", "max_streams x", "max_streams", "max_streams 1 2", "worker_pool_size 3"] {
            assert!(read(&format!("https {{\n {lines}\n}}"), http).0.is_none(), "{lines}");
        }
        for lines in ["max_streams 0", "max_connections -1", "worker_pool_size 0"] {
            assert!(read(&format!("quic {{\n {lines}\n}}"), quic).0.is_none(), "{lines}");
        }
        let (_, messages) = read("https {\n max_streams 1\n max_streams 2\n}", http);
        assert_eq!(messages, ["max_streams already defined for this server block"]);
        assert!(read("https 443", http).0.is_none());
    }
}
