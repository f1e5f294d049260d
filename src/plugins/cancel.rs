//! *cancel*: limits the time of a query (CoreDNS `plugin/cancel`).
//!
//! The limit is a property of the chain ([`crate::chain::Plugin::time_limit`]), which *forward*, *grpc* and *etcd*
//! observe: no attempt at an upstream starts after it, and the one that has started ends with it.

use std::time::Duration;

use super::Context;
use super::build::{BlockBuilder, BuildError, Setting};
use crate::chain::{Exchange, Plugin, Step};
use crate::corefile::{Arguments, Directive, parse_duration};

/// The limit without an argument: resolvers give up after five seconds.
const DEFAULT: Duration = Duration::from_millis(5_001);

/// The configuration of a server block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The time from the arrival of a query until it is given up.
    pub timeout: Duration,
}

/// Parses the directive; later lines override earlier ones.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let had_errors = context.diagnostics.has_errors();
    let mut config = Config { timeout: DEFAULT };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        config.timeout = if line.more() { parse_timeout(&mut line).unwrap_or(DEFAULT) } else { DEFAULT };
        line.finish();
    }
    (had_errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses a duration above zero.
fn parse_timeout(line: &mut Arguments<'_, '_>) -> Option<Duration> {
    line.parse("a duration above 0, such as 5s or 500ms", |text| {
        let nanoseconds = parse_duration(text).map_err(|_| format!("invalid duration: \"{text}\""))?;
        let positive = u64::try_from(nanoseconds).ok().filter(|nanoseconds| *nanoseconds > 0);
        positive.map(Duration::from_nanos).ok_or(format!("invalid negative duration: \"{text}\""))
    })
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(Cancel { timeout: self.timeout });
        Ok(())
    }
}

/// The plugin.
pub struct Cancel {
    timeout: Duration,
}

impl Plugin for Cancel {
    fn name(&self) -> &'static str {
        "cancel"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn time_limit(&self) -> Option<Duration> {
        Some(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn durations_are_parsed_as_in_coredns() {
        assert_eq!(config("cancel", parse).timeout, DEFAULT);
        assert_eq!(config("cancel 1m30s", parse).timeout, Duration::from_secs(90));
        assert_eq!(config("cancel 1s\ncancel 2s", parse).timeout, Duration::from_secs(2));
        assert_eq!(config("cancel 1s\ncancel", parse).timeout, DEFAULT);
        for (line, message) in [
            ("cancel 0s", "invalid negative duration: \"0s\""),
            ("cancel -1s", "invalid negative duration: \"-1s\""),
            ("cancel 1", "invalid duration: \"1\""),
            ("cancel x", "invalid duration: \"x\""),
            ("cancel 1s 2s", "Wrong argument count or unexpected line ending after '2s'"),
        ] {
            assert_eq!(read(line, parse).1, [message], "{line}");
        }
    }
}
