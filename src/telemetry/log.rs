//! Log lines, in CoreDNS's form: `[INFO] plugin/reload: …` or one JSON object a line.
//!
//! Lines are appended to a bounded buffer, which a separate thread writes out. If that thread cannot keep up, because
//! standard output is not read, lines are dropped and counted: logging never delays a response.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The size of the buffer in bytes.
const BUFFER: usize = 1024 * 1024;
/// The maximum length of a line in bytes; longer lines are truncated.
const MAX_LINE: usize = 16 * 1024;
/// How long lines are collected before they are written, which limits how often a busy server wakes the writer.
const GATHER: Duration = Duration::from_millis(5);
/// The minimum interval between reports of dropped lines.
const DROP_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The format of lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `[LEVEL] plugin/x: text`.
    #[default]
    Text,
    /// An object with `time`, `level`, `msg`, `plugin` and more.
    Json,
}

/// The level of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For debugging.
    Debug,
    /// Normal operation.
    Info,
    /// A problem that does not prevent operation.
    Warning,
    /// A failure.
    Error,
    /// A failure that ends the program.
    Fatal,
}

impl Severity {
    /// Returns the level as in a text line.
    pub const fn text(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }

    /// Returns the level as in a JSON line.
    fn json(self) -> &'static str {
        match self {
            Severity::Warning => "WARN",
            other => other.text(),
        }
    }
}

/// Additional fields of a JSON line.
pub type Fields<'a> = &'a [(&'static str, serde_json::Value)];

/// The number of errors and warnings that a logger remembers.
const RECENT: usize = 20;
/// The maximum length of such a text in bytes.
const RECENT_TEXT: usize = 400;

/// An error or a warning that was logged.
#[derive(Clone, Debug)]
pub struct RecentError {
    /// When it was logged.
    pub time: SystemTime,
    /// The level.
    pub severity: Severity,
    /// The plugin, if it is that of one, and the text.
    pub text: String,
}

/// Writes log lines; cheap to clone.
#[derive(Clone)]
pub struct Logger {
    shared: Arc<LoggerState>,
}

/// The state that a logger, its copies and the writer thread share.
struct LoggerState {
    format: LogFormat,
    /// Lines that are not written yet. Any thread appends, and the writer thread takes all; locked for the time of a
    /// copy.
    buffer: Mutex<Buffer>,
    /// Signalled when the buffer is no longer empty, and when the writer has written all of it.
    changed: Condvar,
    /// The number of lines dropped because the buffer was full.
    dropped: AtomicU64,
    /// The last errors and warnings, newest last. Locked for the time of a copy, by a line of that level and by a page.
    recent: Mutex<VecDeque<RecentError>>,
}

#[derive(Default)]
struct Buffer {
    /// Lines with their line ends.
    bytes: Vec<u8>,
    /// The writer has taken lines that it has not written yet.
    writing: bool,
}

impl Logger {
    /// Creates a logger whose thread writes to `sink`.
    pub fn start(format: LogFormat, sink: impl Write + Send + 'static) -> Logger {
        let logger = Logger::unwritten(format);
        let shared = logger.shared.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Without a thread the buffer fills up and lines are dropped and counted; the server continues.
        let _ = thread.spawn(move || write_loop(&shared, sink));
        logger
    }

    /// Creates a logger that stores its lines until [`Logger::take`], for tests.
    pub fn unwritten(format: LogFormat) -> Logger {
        let buffer = Mutex::new(Buffer::default());
        let (changed, dropped, recent) = (Condvar::new(), AtomicU64::new(0), Mutex::default());
        Logger { shared: Arc::new(LoggerState { format, buffer, changed, dropped, recent }) }
    }

    /// Returns the lines that are not written yet, and removes them.
    pub fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.shared.buffer.lock().bytes)).into_owned()
    }

    /// Returns the number of dropped lines.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Returns the format of lines.
    pub fn format(&self) -> LogFormat {
        self.shared.format
    }

    /// Logs a line of a plugin, or of the server itself.
    pub fn line(&self, severity: Severity, plugin: Option<&str>, text: &str) {
        self.line_with(severity, plugin, text, &[]);
    }

    /// Logs a line that has additional fields in JSON.
    pub fn line_with(&self, severity: Severity, plugin: Option<&str>, text: &str, fields: Fields<'_>) {
        self.remember(severity, plugin, text);
        self.raw(&line(self.shared.format, severity, plugin, text, fields));
    }

    /// Remembers an error or a warning.
    fn remember(&self, severity: Severity, plugin: Option<&str>, text: &str) {
        if matches!(severity, Severity::Debug | Severity::Info) {
            return;
        }
        let mut recent = self.shared.recent.lock();
        // The memory of the oldest one is reused.
        let oldest = if recent.len() < RECENT { None } else { recent.pop_front() };
        let mut memory = oldest.map(|oldest| oldest.text).unwrap_or_default();
        memory.clear();
        let _ = plugin.map(|plugin| write!(memory, "plugin/{plugin}: "));
        let mut end = text.len().min(RECENT_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        memory.push_str(&text[..end]);
        recent.push_back(RecentError { time: SystemTime::now(), severity, text: memory });
    }

    /// Returns the last errors and warnings, newest first.
    pub fn recent_errors(&self) -> Vec<RecentError> {
        self.shared.recent.lock().iter().rev().cloned().collect()
    }

    /// Logs a line that is already formatted.
    pub fn raw(&self, line: &str) {
        let mut end = line.len().min(MAX_LINE);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let mut buffer = self.shared.buffer.lock();
        if buffer.bytes.len() + end + 1 > BUFFER {
            drop(buffer);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let wake = buffer.bytes.is_empty();
        buffer.bytes.extend_from_slice(&line.as_bytes()[..end]);
        buffer.bytes.push(b'\n');
        drop(buffer);
        if wake {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all lines are written, for `limit` at most.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut buffer = self.shared.buffer.lock();
        while !buffer.bytes.is_empty() || buffer.writing {
            if self.shared.changed.wait_until(&mut buffer, deadline).timed_out() {
                return;
            }
        }
    }
}

/// Formats a line, without a line end.
pub fn line(format: LogFormat, severity: Severity, plugin: Option<&str>, text: &str, fields: Fields<'_>) -> String {
    let mut line = String::with_capacity(text.len() + 32);
    match format {
        LogFormat::Text => {
            let _ = write!(line, "[{}] ", severity.text());
            if let Some(plugin) = plugin {
                let _ = write!(line, "plugin/{plugin}: ");
            }
            // Names of queries are escaped already; a line end in other text must not start a forged line.
            line.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        LogFormat::Json => {
            // Written field by field, in CoreDNS's order, since a map would sort them and readers expect the time
            // first. Names of fields are constants of this program and need no escaping.
            let (time, level, text) = (timestamp(SystemTime::now()), severity.json(), serde_json::Value::from(text));
            let _ = write!(line, r#"{{"time":"{time}","level":"{level}","msg":{text}"#);
            if let Some(plugin) = plugin {
                let _ = write!(line, r#","plugin":{}"#, serde_json::Value::from(plugin));
            }
            for (name, value) in fields {
                let _ = write!(line, r#","{name}":{value}"#);
            }
            line.push('}');
        }
    }
    line
}

/// Writes out the buffer, until the process ends.
fn write_loop(shared: &LoggerState, mut sink: impl Write) {
    let mut lines = Vec::new();
    let (mut reported, mut reported_at) = (0, None::<Instant>);
    loop {
        {
            let mut buffer = shared.buffer.lock();
            buffer.writing = false;
            shared.changed.notify_all();
            while buffer.bytes.is_empty() {
                shared.changed.wait(&mut buffer);
            }
            // Collect more lines: appending to a buffer that is not empty does not wake the writer.
            buffer.writing = true;
            drop(buffer);
            std::thread::sleep(GATHER);
            let mut buffer = shared.buffer.lock();
            lines.clear();
            std::mem::swap(&mut lines, &mut buffer.bytes);
            buffer.writing = true;
        }
        // If standard output is closed, the error cannot be reported anywhere.
        let _ = sink.write_all(&lines);
        let dropped = shared.dropped.load(Ordering::Relaxed);
        if dropped > reported && reported_at.is_none_or(|at| at.elapsed() >= DROP_REPORT_INTERVAL) {
            let text = format!("{} log lines were dropped: standard output is read too slowly", dropped - reported);
            let _ = writeln!(sink, "{}", line(shared.format, Severity::Warning, None, &text, &[]));
            (reported, reported_at) = (dropped, Some(Instant::now()));
        }
        let _ = sink.flush();
    }
}

/// Formats a time as RFC 3339 in UTC, with nanoseconds.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // From days to a date. Years start in March, so that the leap day is the last one (Hinnant, "chrono-compatible
    // low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Logs `tracing` events as lines; events of level debug only if `debug` is set.
pub struct LogLayer {
    logger: Logger,
    debug: Arc<std::sync::atomic::AtomicBool>,
}

impl LogLayer {
    /// Creates a layer that writes to `logger`; the directive *debug* sets `debug`.
    pub fn new(logger: Logger, debug: Arc<std::sync::atomic::AtomicBool>) -> LogLayer {
        LogLayer { logger, debug }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // The watch reports failures of the API client, once a minute.
        if event.metadata().target().starts_with("kube") {
            return;
        }
        let severity = match *event.metadata().level() {
            Level::ERROR => Severity::Error,
            // Events of libraries below errors do not help an operator, and clients can cause any number of them.
            _ if !event.metadata().target().starts_with("clusterdns") => return,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            _ if !self.debug.load(Ordering::Relaxed) => return,
            _ => Severity::Debug,
        };
        let mut fields = EventFields::default();
        event.record(&mut fields);
        let EventFields { message, plugin, mut rest, json } = fields;
        if !rest.is_empty() && !message.is_empty() {
            rest.insert_str(0, ": ");
        }
        let text = if self.logger.format() == LogFormat::Text { message + &rest } else { message };
        self.logger.line_with(severity, plugin.as_deref(), &text, &json);
    }
}

/// The fields of an event.
#[derive(Default)]
struct EventFields {
    message: String,
    plugin: Option<String>,
    rest: String,
    json: Vec<(&'static str, serde_json::Value)>,
}

impl EventFields {
    fn add(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.message = text,
            "plugin" => self.plugin = Some(text),
            name => {
                let space = if self.rest.is_empty() { "" } else { " " };
                let _ = write!(self.rest, "{space}{name}={text}");
                self.json.push((name, text.into()));
            }
        }
    }
}

impl Visit for EventFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn lines_have_coredns_format() {
        let logger = Logger::unwritten(LogFormat::Text);
        logger.line(Severity::Info, Some("reload"), "done");
        logger.line(Severity::Warning, None, "two\nlines");
        assert_eq!(logger.take(), "[INFO] plugin/reload: done\n[WARNING] two lines\n");
    }

    /// A client can make libraries emit warnings, such as h2's of reset streams.
    #[test]
    fn events_of_libraries_below_errors_are_not_logged() {
        let logger = Logger::unwritten(LogFormat::Text);
        let layer = LogLayer::new(logger.clone(), Arc::new(AtomicBool::new(true)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(target: "h2::proto", "reset");
            tracing::info!(target: "quinn", "connected");
            tracing::error!(target: "rustls", "broken");
            tracing::warn!("own");
        });
        assert_eq!(logger.take(), "[ERROR] broken\n[WARNING] own\n");
    }

    #[test]
    fn json_lines_are_objects() {
        let logger = Logger::unwritten(LogFormat::Json);
        logger.line_with(Severity::Error, Some("errors"), "a \"b\"", &[("qtype", "A".into())]);
        let text = logger.take();
        let line: serde_json::Value = serde_json::from_str(&text).expect("an object");
        assert_eq!(
            (&line["level"], &line["msg"], &line["plugin"]),
            (&"ERROR".into(), &"a \"b\"".into(), &"errors".into())
        );
        assert_eq!(line["qtype"], "A");
        let keys = [r#"{"time":""#, r#"","level":""#, r#"","msg":""#, r#"","plugin":""#, r#"","qtype":"A"}"#];
        let places: Vec<_> = keys.iter().map(|key| text.find(key)).collect();
        assert!(places.is_sorted() && !places.contains(&None), "{text}");
    }

    #[test]
    fn a_full_buffer_drops_lines_and_counts_them() {
        let logger = Logger::unwritten(LogFormat::Text);
        let line = "x".repeat(MAX_LINE);
        for _ in 0..BUFFER / MAX_LINE + 9 {
            logger.raw(&line);
        }
        assert_eq!(logger.dropped(), 10);
        assert!(logger.take().len() <= BUFFER);
    }

    #[test]
    fn the_last_errors_are_remembered() {
        let logger = Logger::unwritten(LogFormat::Text);
        logger.line(Severity::Info, None, "fine");
        for number in 0..3 * RECENT {
            logger.line(Severity::Error, Some("errors"), &format!("{number} {}", "é".repeat(RECENT_TEXT)));
        }
        logger.line(Severity::Warning, None, "last");
        let recent = logger.recent_errors();
        assert_eq!((recent.len(), recent[0].text.as_str()), (RECENT, "last"));
        assert!(recent[1].text.starts_with(&format!("plugin/errors: {} é", 3 * RECENT - 1)), "{recent:?}");
        assert!(recent.iter().all(|error| error.text.len() <= RECENT_TEXT + 20), "{recent:?}");
    }

    #[test]
    fn a_flushed_line_is_written() {
        let (sender, receiver) = std::sync::mpsc::channel();
        struct Sink(std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.send(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let logger = Logger::start(LogFormat::Text, Sink(sender));
        logger.raw("hello");
        logger.flush(Duration::from_secs(5));
        assert_eq!(receiver.try_recv().expect("flushed"), b"hello\n");
    }

    #[test]
    fn timestamps_are_dates_in_utc() {
        let at = |seconds: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.007000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007000000Z");
        assert_eq!(at(1_795_597_997), "2026-11-25T09:13:17.007000000Z");
    }
}
