//! *https*, *https3*, *quic* and *grpc_server*: limits of listeners over HTTP, QUIC and gRPC (CoreDNS `plugin/https`,
//! `https3`, `quic`, `grpc_server`).

use super::Context;
use super::build::{BlockOptions, ListenerLimits, Setting};
use crate::corefile::{Arguments, Directive, Scheme};

/// The limits of the listeners of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The transport.
    pub scheme: Scheme,
    /// The limits of each listener.
    pub limits: ListenerLimits,
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.limits.insert(self.scheme, self.limits);
    }
}

/// Parses *https*.
pub fn https(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let limits = parse(stanzas, context, &["max_connections", "max_streams"], 0)?;
    Some(Config { scheme: Scheme::Https, limits })
}

/// Parses *https3*.
pub fn https3(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    Some(Config { scheme: Scheme::Https3, ..https(stanzas, context)? })
}

/// Parses *grpc_server*.
pub fn grpc_server(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    Some(Config { scheme: Scheme::Grpc, ..https(stanzas, context)? })
}

/// Parses *quic*.
pub fn quic(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let limits = parse(stanzas, context, &["max_connections", "max_streams", "worker_pool_size"], 1)?;
    Some(Config { scheme: Scheme::Quic, limits })
}

/// Parses a directive with these properties; `min_streams` is the minimum of `max_streams`.
fn parse(
    stanzas: &[&Directive], context: &mut Context<'_>, names: &[&str], min_streams: u32,
) -> Option<ListenerLimits> {
    let errors = context.diagnostics.has_errors();
    let mut limits = ListenerLimits::default();
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
        let limits = config("https {\n max_connections 0\n max_streams 10\n}", https).limits;
        assert_eq!(limits, ListenerLimits { connections: Some(0), streams: Some(10), at_once: None });
        let defaults = Config { scheme: Scheme::Https3, limits: ListenerLimits::default() };
        assert_eq!(config("https3", https3), defaults);
        let limits = config("grpc_server {\n max_streams 0\n}", grpc_server);
        assert_eq!((limits.scheme, limits.limits.streams), (Scheme::Grpc, Some(0)));
        let limits = config("quic {\n max_streams 1\n worker_pool_size 2\n}", quic).limits;
        assert_eq!(limits, ListenerLimits { connections: None, streams: Some(1), at_once: Some(2) });
        for lines in ["max_streams -1", "max_streams x", "max_streams", "max_streams 1 2", "worker_pool_size 3"] {
            assert!(read(&format!("https {{\n {lines}\n}}"), https).0.is_none(), "{lines}");
        }
        for lines in ["max_streams 0", "max_connections -1", "worker_pool_size 0"] {
            assert!(read(&format!("quic {{\n {lines}\n}}"), quic).0.is_none(), "{lines}");
        }
        let (_, messages) = read("https {\n max_streams 1\n max_streams 2\n}", https);
        assert_eq!(messages, ["max_streams already defined for this server block"]);
        assert!(read("https 443", https).0.is_none());
    }
}
