//! *errors*: logs a line for each query that failed, or one line for many similar failures (CoreDNS `plugin/errors`).
//!
//! The end of a counting period is noticed when the next error arrives, and by [`Errors::flush`], which a timer calls.
//! A pattern needs a number and a time, however many errors it counts.

mod config;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::chain::{Calls, Exchange, Failure, Plugin, Rewritten, Sent, Step};
use crate::corefile::GoDuration;
use crate::plugins::build::{BlockBuilder, BuildError, Chore, Setting};
use crate::telemetry::log::{LogFormat, Logger, Severity};

pub use config::{Config, Consolidate, parse};

/// The interval at which the counts of patterns are checked.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let resources = block.resources();
        let plugin = Arc::new(Errors::new(self, resources.logger.clone(), resources.debug.clone()));
        if plugin.consolidates() {
            let (flushed, stopped) = (plugin.clone(), plugin.clone());
            let run = Box::new(move |_| {
                flushed.flush(Instant::now());
                false
            });
            block.chore(Chore { every: FLUSH_INTERVAL, run, stop: Some(Box::new(move || stopped.stop())) });
        }
        block.shared_plugin(plugin);
        Ok(())
    }
}

/// The plugin of a server block. It logs failures after the response was sent, and changes no reply.
pub struct Errors {
    patterns: Vec<ErrorCounter>,
    /// [`Errors::stop`] was called: the counts are logged, and no more errors are counted.
    is_stopped: AtomicBool,
    /// A server block has *debug*. Otherwise lines of level debug are not written.
    is_debug: Arc<AtomicBool>,
    logger: Logger,
}

/// A pattern and its errors of the current period.
struct ErrorCounter {
    rule: Consolidate,
    /// Written by the workers for each error that matches, and by the timer; locked for a few instructions. Ordinary
    /// queries do not access it.
    count: Mutex<ErrorCount>,
}

/// The errors of a period.
#[derive(Clone, Copy, Default)]
struct ErrorCount {
    errors: u64,
    /// When the first one was counted; `None` if there is none.
    since: Option<Instant>,
}

impl Errors {
    /// Creates the plugin for a stanza. `debug` is set by the *debug* directive.
    pub fn new(config: &Config, logger: Logger, debug: Arc<AtomicBool>) -> Errors {
        let patterns = config.patterns.iter().cloned();
        let patterns = patterns.map(|rule| ErrorCounter { rule, count: Mutex::default() }).collect();
        Errors { patterns, is_stopped: AtomicBool::new(false), is_debug: debug, logger }
    }

    /// Logs the counts whose period is over. A timer calls this every second.
    pub fn flush(&self, now: Instant) {
        for counter in &self.patterns {
            let due = counter.take_due(now);
            self.log_count(counter, due);
        }
    }

    /// Logs all counts. After that, each error is logged on its own.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        for counter in &self.patterns {
            let rest = std::mem::take(&mut *counter.count.lock());
            self.log_count(counter, rest.errors);
        }
    }

    /// Returns whether errors are counted, so that a timer has to call [`Errors::flush`].
    pub fn consolidates(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Counts an error. Returns the level at which it has to be logged now, or `None` if it is only counted.
    fn count(&self, text: &str, now: Instant) -> Option<Severity> {
        let Some(counter) = self.patterns.iter().find(|counter| counter.rule.pattern.regex.is_match(text)) else {
            return Some(Severity::Error);
        };
        let due = counter.take_due(now);
        self.log_count(counter, due);
        let is_first = {
            let mut count = counter.count.lock();
            // Checked under the lock, so that `stop` logs every error that was counted.
            if self.is_stopped.load(Ordering::Acquire) {
                return Some(counter.rule.severity);
            }
            count.errors += 1;
            count.since.get_or_insert(now);
            count.errors == 1
        };
        (is_first && counter.rule.show_first).then_some(counter.rule.severity)
    }

    /// Logs the number of errors of a period.
    fn log_count(&self, counter: &ErrorCounter, errors: u64) {
        let Consolidate { period, pattern, severity, show_first } = &counter.rule;
        // A single error that has been logged needs no summary.
        if errors > u64::from(*show_first) {
            let text = format!("{errors} errors like '{}' occurred in last {}", pattern.text, GoDuration(*period));
            self.write_line(*severity, &text);
        }
    }

    fn write_line(&self, severity: Severity, text: &str) {
        if severity != Severity::Debug || self.is_debug.load(Ordering::Relaxed) {
            self.logger.line(severity, Some("errors"), text);
        }
    }
}

impl ErrorCounter {
    /// Starts a new period if the current one is over. Returns the number of errors of the one that is over, or 0.
    fn take_due(&self, now: Instant) -> u64 {
        let mut count = self.count.lock();
        match count.since {
            Some(since) if now.saturating_duration_since(since) >= self.rule.period => {
                std::mem::take(&mut *count).errors
            }
            _ => 0,
        }
    }
}

impl Errors {
    /// Logs a failure, unless a pattern counts it. Not inlined, to keep it out of the path of ordinary answers.
    #[inline(never)]
    fn log_failure(&self, exchange: &Exchange<'_>, failure: &Failure) {
        let text = failure.to_string();
        let Some(severity) = self.count(&text, exchange.now) else { return };
        // CoreDNS shows the query as *rewrite* has changed it, and the code that *rewrite* returns: 0 after it has
        // written the response itself.
        let rewritten = exchange.state.rewritten();
        let changed = rewritten.and_then(Rewritten::query);
        let question = changed.as_ref().map_or(exchange.question(), |query| &query.question);
        let rcode = match rewritten {
            Some(rewritten) if rewritten.writes_codes => 0,
            _ => exchange.state.reply.rcode.0,
        };
        if severity == Severity::Debug && !self.is_debug.load(Ordering::Relaxed) {
            return;
        }
        let line = format!("{rcode} {} {}: {text}", question.name(), question.qtype);
        if self.logger.format() == LogFormat::Text {
            return self.logger.line(severity, Some("errors"), &line);
        }
        let upstream = if let Failure::Upstream(error) = failure { error.upstream() } else { None };
        let fields = [
            ("client_ip", exchange.client.remote.ip().to_canonical().to_string().into()),
            ("qname", question.name().to_string().into()),
            ("qtype", question.qtype.to_string().into()),
            ("rcode", rcode.into()),
            ("reason", failure.reason().into()),
            ("upstream", upstream.into()),
        ];
        self.logger.line_with(severity, Some("errors"), &line, &fields);
    }
}

impl Plugin for Errors {
    fn name(&self) -> &'static str {
        "errors"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: false, sent: true }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, _: &Sent<'_>) {
        if let Some(failure) = &exchange.state.failure {
            self.log_failure(exchange, failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chain::Failure;
    use crate::plugins::testing::{client, code, config, packet, send};
    use crate::telemetry::log::LogFormat;
    use crate::wire::{Rcode, Type};

    const SECOND: Duration = Duration::from_secs(1);

    struct Bench {
        errors: Arc<Errors>,
        logger: Logger,
        start: Instant,
    }

    impl Bench {
        fn new(lines: &str) -> Bench {
            let logger = Logger::unwritten(LogFormat::Text);
            let errors = Errors::new(&config(lines, parse), logger.clone(), Arc::default());
            Bench { errors: Arc::new(errors), logger, start: Instant::now() }
        }

        /// Sends a query that fails with this reason, `seconds` after the start. Returns the lines that are logged.
        fn fail(&self, seconds: u32, failure: Option<Failure>) -> String {
            let now = self.start + SECOND * seconds;
            let plugins: Vec<Arc<dyn Plugin>> = vec![self.errors.clone(), code(Rcode::SERVFAIL, failure)];
            send(plugins, &packet("Web", Type::A, None), client("127.0.0.1:1"), now);
            self.logger.take()
        }

        fn flush(&self, seconds: u32) -> String {
            self.errors.flush(self.start + SECOND * seconds);
            self.logger.take()
        }
    }

    const OVERLOAD: Option<Failure> = Some(Failure::Overload("forward"));
    const LINE: &str = "[ERROR] plugin/errors: 2 web. A: plugin/forward: too many queries are pending\n";

    #[test]
    fn a_failure_is_logged_and_a_code_without_reason_is_not() {
        let bench = Bench::new("errors");
        assert_eq!(bench.fail(0, OVERLOAD), LINE);
        assert_eq!(bench.fail(0, OVERLOAD), LINE);
        assert_eq!(bench.fail(0, None), "");
        assert!(!bench.errors.consolidates());
    }

    #[test]
    fn json_lines_have_fields() {
        let logger = Logger::unwritten(LogFormat::Json);
        let errors = Arc::new(Errors::new(&config("errors", parse), logger.clone(), Arc::default()));
        let failure = Failure::Upstream(crate::upstream::Error::Timeout("192.0.2.1:53".into()));
        let plugins: Vec<Arc<dyn Plugin>> = vec![errors, code(Rcode::SERVFAIL, Some(failure))];
        send(plugins, &packet("Web", Type::A, None), client("10.0.0.9:1"), Instant::now());
        let line: serde_json::Value = serde_json::from_str(&logger.take()).expect("an object");
        assert_eq!(line["msg"], "2 web. A: 192.0.2.1:53: i/o timeout");
        let fields = ["client_ip", "qname", "qtype", "reason", "upstream"].map(|field| line[field].as_str());
        assert_eq!(fields, ["10.0.0.9", "web.", "A", "upstream-timeout", "192.0.2.1:53"].map(Some));
        assert_eq!(line["rcode"], 2);
    }

    #[test]
    fn errors_that_match_are_counted() {
        let bench = Bench::new("errors {\n consolidate 90s too.many warning\n consolidate 1s .* info\n}");
        assert_eq!(bench.fail(0, OVERLOAD), "");
        assert_eq!(bench.fail(89, OVERLOAD), "");
        assert_eq!(bench.flush(89), "");
        let sum = "[WARNING] plugin/errors: 2 errors like 'too.many' occurred in last 1m30s\n";
        assert_eq!(bench.flush(90), sum);
        assert_eq!(bench.flush(1000), "");
        // The next error starts the next period, and a later error finishes it.
        assert_eq!(bench.fail(1000, OVERLOAD), "");
        assert_eq!(
            bench.fail(1091, OVERLOAD),
            "[WARNING] plugin/errors: 1 errors like 'too.many' occurred in last 1m30s\n"
        );
        assert_eq!(bench.fail(1091, Some(Failure::NoNextPlugin("x"))), "");
        assert_eq!(bench.flush(1092), "[INFO] plugin/errors: 1 errors like '.*' occurred in last 1s\n");
    }

    #[test]
    fn the_first_error_is_logged_and_a_single_one_has_no_summary() {
        let bench = Bench::new("errors {\n consolidate 1m too.many show_first\n}");
        assert_eq!(bench.fail(0, OVERLOAD), LINE);
        assert_eq!(bench.flush(60), "");
        assert_eq!(bench.fail(60, OVERLOAD), LINE);
        assert_eq!(bench.fail(61, OVERLOAD), "");
        assert_eq!(bench.flush(120), "[ERROR] plugin/errors: 2 errors like 'too.many' occurred in last 1m0s\n");
    }

    #[test]
    fn stop_logs_the_counts_and_counts_no_more() {
        let bench = Bench::new("errors {\n consolidate 1h too.many\n}");
        assert_eq!(bench.fail(0, OVERLOAD), "");
        bench.errors.stop();
        assert_eq!(bench.logger.take(), "[ERROR] plugin/errors: 1 errors like 'too.many' occurred in last 1h0m0s\n");
        assert_eq!(bench.fail(1, OVERLOAD), LINE);
        bench.errors.stop();
        assert_eq!(bench.logger.take(), "");
    }

    #[test]
    fn debug_lines_need_debug() {
        let bench = Bench::new("errors {\n consolidate 1s .* debug\n}");
        bench.fail(0, OVERLOAD);
        assert_eq!(bench.flush(1), "");
        bench.errors.is_debug.store(true, Ordering::Relaxed);
        bench.fail(1, OVERLOAD);
        assert_eq!(bench.flush(2), "[DEBUG] plugin/errors: 1 errors like '.*' occurred in last 1s\n");
    }
}
