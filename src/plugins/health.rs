//! *health*: the address of the HTTP page for liveness probes, and the time that the server goes on after SIGTERM.
//!
//! It adds no plugin to the chain. The page always responds with OK. To detect overload, the server requests it from
//! itself once a second and measures the time (CoreDNS `plugin/health/overloaded.go`).

use std::time::Duration;

use super::Context;
use super::endpoint::Endpoint;
use crate::corefile::{Arguments, Directive, parse_duration};

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address of the page.
    pub address: Endpoint,
    /// How long queries and pages are still served after SIGTERM or SIGINT.
    pub lameduck: Duration,
}

/// Parses the directive; the last stanza of a server block is used, as in CoreDNS.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = None;
    let mut lameduck = Duration::ZERO;
    for (index, stanza) in stanzas.iter().enumerate() {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if index > 0 {
            line.warning(&stanza.name, "only the last 'health' of a server block is used");
        }
        let address = Endpoint::read(&mut line, ":8080");
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "lameduck" => lameduck = parse_lameduck(&mut inner).unwrap_or_default(),
                _ => inner.unknown(["lameduck"]),
            }
            inner.finish();
        }
        line.finish();
        config = address.map(|address| Config { address, lameduck });
    }
    config.filter(|_| errors == context.diagnostics.has_errors())
}

/// Parses the duration of `lameduck`. As in CoreDNS, a negative one is 0.
fn parse_lameduck(line: &mut Arguments<'_, '_>) -> Option<Duration> {
    let word = line.peek();
    let nanoseconds = line.parse("a duration such as 5s", |text| {
        parse_duration(text).map_err(|error| format!("unable to parse lameduck duration value: '{text}' : {error}"))
    })?;
    if let (true, Some(word)) = (nanoseconds < 0, word) {
        line.warning(word, "a negative duration counts as 0s");
    }
    Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config, read};
    use super::*;

    #[test]
    fn the_directive_is_parsed() {
        let text = |lines: &str| {
            let config = config(lines, parse);
            format!("{} {:?}", config.address, config.lameduck)
        };
        assert_eq!(text("health"), ":8080 0ns");
        assert_eq!(text("health 127.0.0.1:1 {\n lameduck 1m5s\n}"), "127.0.0.1:1 65s");
        let (config, messages) = read("health {\n lameduck 5s\n}\nhealth :1", parse);
        assert_eq!(config.expect("good").address.to_string(), ":1");
        assert_eq!(messages, ["only the last 'health' of a server block is used"]);
        assert_eq!(read("health {\n lameduck -5s\n}", parse).0.expect("good").lameduck, Duration::ZERO);
    }

    #[test]
    fn errors_are_reported() {
        for (lines, message) in [
            ("health 8080", "address 8080: missing port in address (:8080?)"),
            ("health :1 :2", "Wrong argument count or unexpected line ending after ':2'"),
            ("health {\n lameduck\n}", "Wrong argument count or unexpected line ending after 'lameduck'"),
            (
                "health {\n lameduck 5\n}",
                "unable to parse lameduck duration value: '5' : time: missing unit in duration \"5\"",
            ),
            ("health {\n lameduk 5s\n}", "unknown property 'lameduk' (lameduck?)"),
        ] {
            assert_eq!(read(lines, parse).1, [message], "{lines}");
        }
    }
}
