//! The configuration of *errors* (CoreDNS `plugin/errors/setup.go`).

use std::time::Duration;

use crate::corefile::{Arguments, Directive, parse_duration};
use crate::plugins::Context;
use crate::plugins::regexp::Pattern;
use crate::telemetry::log::Severity;

/// The configuration of a stanza.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The log entry of a panic has a stack trace.
    pub stacktrace: bool,
    /// The patterns, in the order of the stanza. The first one that matches an error counts it.
    pub patterns: Vec<Consolidate>,
}

/// A rule for errors that are counted instead of logged one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct Consolidate {
    /// How long errors are counted before a line reports their number.
    pub period: Duration,
    /// The pattern of their texts.
    pub pattern: Pattern,
    /// The level of that line.
    pub severity: Severity,
    /// The first error of a period is logged at once.
    pub show_first: bool,
}

/// Parses the first stanza; returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let stanza = stanzas.first()?;
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanza, context.diagnostics);
    let mut config = Config::default();
    if let Some(word) = line.next_word().filter(|word| word.text != "stdout") {
        line.error_expected(word, format!("invalid log file: {}", word.text), "'stdout' or nothing");
    }
    for property in line.body() {
        let mut line = line.enter(property);
        match line.name() {
            "stacktrace" => config.stacktrace = true,
            "consolidate" => config.patterns.extend(parse_consolidate(&mut line)),
            _ => line.unknown(["stacktrace", "consolidate"]),
        }
        line.finish();
    }
    line.finish();
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses `consolidate DURATION REGEXP [LEVEL] [show_first]`; returns `None` after an error.
fn parse_consolidate(line: &mut Arguments<'_, '_>) -> Option<Consolidate> {
    // A period that is not positive is over at once, as Go's timers are.
    let period = line.parse("a duration such as 5s, 500ms or 1h30m", |text| {
        parse_duration(text).map(|nanoseconds| Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
    })?;
    let pattern = line.parse("a regular expression", Pattern::compile)?;
    let mut severity = None;
    let mut show_first = false;
    const LEVELS: [(&str, Option<Severity>); 5] = [
        ("warning", Some(Severity::Warning)),
        ("error", Some(Severity::Error)),
        ("info", Some(Severity::Info)),
        ("debug", Some(Severity::Debug)),
        ("show_first", None),
    ];
    // At most two words; `finish` reports a third one.
    for _ in 0..2 {
        let Some(word) = line.peek() else { break };
        match line.one_of(&LEVELS)? {
            None => show_first = true,
            Some(_) if severity.is_some() => {
                line.error(word, "multiple log levels specified in consolidate");
                return None;
            }
            Some(_) if show_first => {
                line.error(word, "log level must come before show_first in consolidate");
                return None;
            }
            level => severity = level,
        }
    }
    Some(Consolidate { period, pattern, severity: severity.unwrap_or(Severity::Error), show_first })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn every_property_is_parsed() {
        assert_eq!(config("errors", parse), Config::default());
        let config = config(
            "errors stdout {
                stacktrace
                consolidate 5m \".* i/o timeout$\" warning
                consolidate 30s ^Failed show_first
                consolidate -1s a debug show_first
                consolidate 0 b show_first show_first
            }",
            parse,
        );
        assert!(config.stacktrace);
        let read = |p: &Consolidate| (p.period.as_secs(), p.pattern.text.clone(), p.severity, p.show_first);
        let expected = [
            (300, ".* i/o timeout$", Severity::Warning, false),
            (30, "^Failed", Severity::Error, true),
            (0, "a", Severity::Debug, true),
            (0, "b", Severity::Error, true),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(p, t, s, f)| (p, t.to_owned(), s, f)).collect();
        assert_eq!(config.patterns.iter().map(read).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for (lines, message) in [
            ("errors stderr", "invalid log file: stderr"),
            ("errors stdout x", "Wrong argument count or unexpected line ending after 'x'"),
            ("errors {\n stacktrace x\n}", "Wrong argument count or unexpected line ending after 'x'"),
            ("errors {\n consolidated\n}", "unknown property 'consolidated' (consolidate?)"),
            ("errors {\n consolidate\n}", "Wrong argument count or unexpected line ending after 'consolidate'"),
            ("errors {\n consolidate 1m\n}", "Wrong argument count or unexpected line ending after '1m'"),
            ("errors {\n consolidate 1 a\n}", "time: missing unit in duration \"1\""),
            ("errors {\n consolidate 1m a info error\n}", "multiple log levels specified in consolidate"),
            ("errors {\n consolidate 1m a show_first error\n}", "log level must come before show_first in consolidate"),
            ("errors {\n consolidate 1m a warn\n}", "unexpected 'warn'"),
            (
                "errors {\n consolidate 1m a error show_first x\n}",
                "Wrong argument count or unexpected line ending after 'x'",
            ),
            ("errors {\n consolidate 1m a(\n}", "error parsing regexp: unclosed group at character 2"),
        ] {
            let (config, messages) = read(lines, parse);
            assert_eq!(config, None, "{lines}");
            assert_eq!(messages[0], message, "{lines}");
        }
        let long = format!("errors {{\n consolidate 1m {}\n}}", "a".repeat(10_001));
        assert_eq!(read(&long, parse).1, ["regex pattern too long: 10001 > 10000"]);
    }
}
