//! *timeouts*: timeouts of connections, and the limit of queries on one (CoreDNS `plugin/timeouts`).

use std::num::NonZeroU32;
use std::time::Duration;

use super::Context;
use super::build::{BlockOptions, Setting, TimeoutOptions};
use crate::corefile::{Arguments, Directive, parse_duration};

/// The minimum of a timeout.
const MIN: Duration = Duration::from_secs(1);
/// The maximum of a timeout.
const MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Setting for TimeoutOptions {
    fn configure(&self, options: &mut BlockOptions) {
        options.timeouts = Some(*self);
    }
}

/// Parses the directive; later lines override earlier ones.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<TimeoutOptions> {
    let errors = context.diagnostics.has_errors();
    let mut config = TimeoutOptions::default();
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let Some(body) = line.required_body("timeouts") else {
            line.finish();
            continue;
        };
        if body.is_empty() {
            line.error(&stanza.name, "timeouts block with no timeouts specified");
        }
        for property in body {
            let mut inner = line.enter(property);
            match inner.name() {
                "read" => config.read = parse_timeout(&mut inner),
                "write" => config.write = parse_timeout(&mut inner),
                "idle" => config.idle = parse_timeout(&mut inner),
                "maxtcpqueries" => config.queries = parse_queries(&mut inner),
                _ => inner.unknown(["read", "write", "idle", "maxtcpqueries"]),
            }
            inner.finish();
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses a duration. A number without a unit is in seconds.
fn parse_timeout(line: &mut Arguments<'_, '_>) -> Option<Duration> {
    let word = line.word("a time from 1s to 24h")?;
    let is_number = word.text.bytes().all(|byte| byte.is_ascii_digit());
    let text = if is_number { format!("{}s", word.text) } else { word.text.clone() };
    match parse_duration(&text).ok().and_then(|time| u64::try_from(time).ok()).map(Duration::from_nanos) {
        Some(time) if (MIN..=MAX).contains(&time) => Some(time),
        Some(_) => {
            line.error(word, format!("timeout provided '{}' needs to be between 1 second and 24 hours", word.text));
            None
        }
        None => {
            line.error_expected(word, format!("invalid duration '{}'", word.text), "a time from 1s to 24h");
            None
        }
    }
}

/// Parses a positive number, or -1, for which the inner value is `None`.
fn parse_queries(line: &mut Arguments<'_, '_>) -> Option<Option<NonZeroU32>> {
    let word = line.word("-1 or a positive number")?;
    match word.text.parse::<i64>() {
        Ok(-1) => Some(None),
        Ok(number @ 1..) => Some(NonZeroU32::new(u32::try_from(number).unwrap_or(u32::MAX))),
        _ => {
            let message =
                format!("maxtcpqueries provided '{}' needs to be -1 (unlimited) or a positive integer", word.text);
            line.error(word, message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn durations_are_parsed_with_and_without_a_unit() {
        let parsed = config("timeouts {\n read 5\n write 1m\n idle 2h\n maxtcpqueries 128\n}", parse);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let expected = TimeoutOptions {
            read: seconds(5),
            write: seconds(60),
            idle: seconds(7_200),
            queries: Some(NonZeroU32::new(128)),
        };
        assert_eq!(parsed, expected);
        assert_eq!(config("timeouts {\n maxtcpqueries -1\n}", parse).queries, Some(None));
        for (lines, message) in [
            ("read 500ms", "timeout provided '500ms' needs to be between 1 second and 24 hours"),
            ("write 25h", "timeout provided '25h' needs to be between 1 second and 24 hours"),
            ("idle soon", "invalid duration 'soon'"),
            ("maxtcpqueries 0", "maxtcpqueries provided '0' needs to be -1 (unlimited) or a positive integer"),
        ] {
            assert_eq!(read(&format!("timeouts {{\n {lines}\n}}"), parse).1, [message]);
        }
        assert!(read("timeouts", parse).0.is_none());
    }
}
