//! Log lines, in CoreDNS's form: `[INFO] plugin/reload: …` or one JSON object a line.
//!
//! A line goes into a bounded buffer that a thread of its own empties. Where that thread cannot keep up, because whoever
//! reads standard output has stopped, lines are dropped and counted: a log never makes an answer wait.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// How many octets may wait to be written.
const BUFFER: usize = 1024 * 1024;
/// The longest line that is kept whole, in octets.
const MAX_LINE: usize = 16 * 1024;
/// How long lines are gathered before they are written: a busy server wakes the writer so many times a second at most.
const GATHER: Duration = Duration::from_millis(5);
/// How often a loss is told of.
const LOSS_INTERVAL: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `[LEVEL] plugin/x: text`.
    #[default]
    Text,
    /// An object with `time`, `level`, `msg`, `plugin` and more.
    Json,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For who looks for a fault.
    Debug,
    /// The ordinary course.
    Info,
    /// Something is not as it should be.
    Warning,
    /// Something failed.
    Error,
    /// The program ends for it.
    Fatal,
}

impl Severity {
    /// As a text line has it.
    pub const fn text(self) -> &'static str {
        match self {
            Severity::Debug => "DEBUG",
            Severity::Info => "INFO",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }

    /// As a JSON line has it.
    fn json(self) -> &'static str {
        match self {
            Severity::Warning => "WARN",
            other => other.text(),
        }
    }
}

/// What a JSON line says besides its message.
pub type Fields<'a> = &'a [(&'static str, serde_json::Value)];

/// Takes lines; cheap to clone.
#[derive(Clone)]
pub struct Logger {
    shared: Arc<Shared>,
}

struct Shared {
    format: Format,
    /// Lines that wait, with their line ends. Any thread appends; the writer thread takes the whole. Held for the time
    /// of one copy.
    waiting: Mutex<Waiting>,
    /// Something waits, or the writer has finished.
    changed: Condvar,
    /// Lines that found no room.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    octets: Vec<u8>,
    /// The writer holds lines that it has taken and not written yet.
    writing: bool,
}

impl Logger {
    /// A logger whose thread writes to `sink`.
    pub fn start(format: Format, sink: impl Write + Send + 'static) -> Logger {
        let logger = Logger::unwritten(format);
        let shared = logger.shared.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Without a thread the buffer fills and lines are dropped, which is counted; the server goes on.
        let _ = thread.spawn(move || write_loop(&shared, sink));
        logger
    }

    /// A logger that keeps its lines until [`Logger::take`], for tests.
    pub fn unwritten(format: Format) -> Logger {
        let waiting = Mutex::new(Waiting::default());
        Logger { shared: Arc::new(Shared { format, waiting, changed: Condvar::new(), dropped: AtomicU64::new(0) }) }
    }

    /// Takes the lines that wait.
    pub fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.shared.waiting.lock().octets)).into_owned()
    }

    /// How many lines found no room.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// How lines look.
    pub fn format(&self) -> Format {
        self.shared.format
    }

    /// Writes a line of a plugin, or of the server.
    pub fn line(&self, severity: Severity, plugin: Option<&str>, text: &str) {
        self.line_with(severity, plugin, text, &[]);
    }

    /// Writes a line whose JSON form has more fields.
    pub fn line_with(&self, severity: Severity, plugin: Option<&str>, text: &str, fields: Fields<'_>) {
        self.raw(&line(self.shared.format, severity, plugin, text, fields));
    }

    /// Writes a line as it is.
    pub fn raw(&self, line: &str) {
        let mut end = line.len().min(MAX_LINE);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let mut waiting = self.shared.waiting.lock();
        if waiting.octets.len() + end + 1 > BUFFER {
            drop(waiting);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let wake = waiting.octets.is_empty();
        waiting.octets.extend_from_slice(&line.as_bytes()[..end]);
        waiting.octets.push(b'\n');
        drop(waiting);
        if wake {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all is written, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut waiting = self.shared.waiting.lock();
        while !waiting.octets.is_empty() || waiting.writing {
            if self.shared.changed.wait_until(&mut waiting, deadline).timed_out() {
                return;
            }
        }
    }
}

/// A line in its form, without a line end.
pub fn line(format: Format, severity: Severity, plugin: Option<&str>, text: &str, fields: Fields<'_>) -> String {
    let mut line = String::with_capacity(text.len() + 32);
    match format {
        Format::Text => {
            let _ = write!(line, "[{}] ", severity.text());
            if let Some(plugin) = plugin {
                let _ = write!(line, "plugin/{plugin}: ");
            }
            // A name from a query is escaped already; a line end in other text must not forge a line.
            line.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
        Format::Json => {
            // Written piece by piece, in CoreDNS's order: a map would sort them, and who reads along looks for the time
            // first. Names of fields are words of this program.
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

/// Empties the buffer for ever.
fn write_loop(shared: &Shared, mut sink: impl Write) {
    let mut lines = Vec::new();
    let (mut told, mut told_at) = (0, None::<Instant>);
    loop {
        {
            let mut waiting = shared.waiting.lock();
            waiting.writing = false;
            shared.changed.notify_all();
            while waiting.octets.is_empty() {
                shared.changed.wait(&mut waiting);
            }
            // Not to be woken for each line of many: nobody who adds one to others wakes the writer.
            waiting.writing = true;
            drop(waiting);
            std::thread::sleep(GATHER);
            let mut waiting = shared.waiting.lock();
            lines.clear();
            std::mem::swap(&mut lines, &mut waiting.octets);
            waiting.writing = true;
        }
        // Nobody is left to be told where standard output is closed.
        let _ = sink.write_all(&lines);
        let dropped = shared.dropped.load(Ordering::Relaxed);
        if dropped > told && told_at.is_none_or(|at| at.elapsed() >= LOSS_INTERVAL) {
            let text = format!("{} log lines were dropped: standard output is read too slowly", dropped - told);
            let _ = writeln!(sink, "{}", line(shared.format, Severity::Warning, None, &text, &[]));
            (told, told_at) = (dropped, Some(Instant::now()));
        }
        let _ = sink.flush();
    }
}

/// A time as RFC 3339 with nanoseconds, in UTC.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a civil date: years start in March, so that the leap day is the last (Hinnant, "chrono-compatible
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

/// Takes `tracing` events as lines. Debug events only where `debug` says so (*debug*).
pub struct LogLayer {
    logger: Logger,
    debug: Arc<std::sync::atomic::AtomicBool>,
}

impl LogLayer {
    /// A layer that writes to `logger`; `debug` is set by the *debug* directive.
    pub fn new(logger: Logger, debug: Arc<std::sync::atomic::AtomicBool>) -> LogLayer {
        LogLayer { logger, debug }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // The API client's troubles are told of by the watch, once a minute.
        if event.metadata().target().starts_with("kube") {
            return;
        }
        let severity = match *event.metadata().level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            // Other crates' chatter is of no use to an operator.
            _ if !event.metadata().target().starts_with("clusterdns") => return,
            _ if !self.debug.load(Ordering::Relaxed) => return,
            _ => Severity::Debug,
        };
        let mut fields = Collected::default();
        event.record(&mut fields);
        let Collected { message, plugin, mut rest, json } = fields;
        if !rest.is_empty() && !message.is_empty() {
            rest.insert_str(0, ": ");
        }
        let text = if self.logger.format() == Format::Text { message + &rest } else { message };
        self.logger.line_with(severity, plugin.as_deref(), &text, &json);
    }
}

/// The fields of an event.
#[derive(Default)]
struct Collected {
    message: String,
    plugin: Option<String>,
    rest: String,
    json: Vec<(&'static str, serde_json::Value)>,
}

impl Collected {
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

impl Visit for Collected {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_coredns_form() {
        let logger = Logger::unwritten(Format::Text);
        logger.line(Severity::Info, Some("reload"), "done");
        logger.line(Severity::Warning, None, "two\nlines");
        assert_eq!(logger.take(), "[INFO] plugin/reload: done\n[WARNING] two lines\n");
    }

    #[test]
    fn json_lines_are_objects() {
        let logger = Logger::unwritten(Format::Json);
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
    fn a_full_buffer_drops_and_counts() {
        let logger = Logger::unwritten(Format::Text);
        let line = "x".repeat(MAX_LINE);
        for _ in 0..BUFFER / MAX_LINE + 9 {
            logger.raw(&line);
        }
        assert_eq!(logger.dropped(), 10);
        assert!(logger.take().len() <= BUFFER);
    }

    #[test]
    fn a_written_line_arrives() {
        let (sender, receiver) = std::sync::mpsc::channel();
        struct Sink(std::sync::mpsc::Sender<Vec<u8>>);
        impl Write for Sink {
            fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.send(octets.to_vec());
                Ok(octets.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let logger = Logger::start(Format::Text, Sink(sender));
        logger.raw("hello");
        logger.flush(Duration::from_secs(5));
        assert_eq!(receiver.try_recv().expect("flushed"), b"hello\n");
    }

    #[test]
    fn times_are_civil() {
        let at = |seconds: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 7));
        assert_eq!(at(0), "1970-01-01T00:00:00.007000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.007000000Z");
        assert_eq!(at(1_795_597_997), "2026-11-25T09:13:17.007000000Z");
    }
}
