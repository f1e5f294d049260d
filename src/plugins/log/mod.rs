//! *log*: logs a line for each query that was answered or dropped (CoreDNS `plugin/log`).
//!
//! The line is written after the response was encoded, so that there is one for each response, bare codes included.
//! `{rsize}` is the length that was sent, where CoreDNS logs the length without compression and without OPT.

mod config;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use crate::chain::{Calls, Exchange, Plugin, Sent, Step};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::plugins::placeholders::{Format, Responded, Values};
use crate::telemetry::log::{LogFormat as LineFormat, Logger, Severity};
use crate::wire::header::opcode;

pub use config::{Class, Classes, Config, LogRule, parse};

/// The maximum capacity of the buffer that a thread reuses for its next line, in bytes.
const MAX_BUFFER: usize = 4 * 1024;
thread_local! {
    /// The buffer for a line, reused to avoid allocations.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let plugin = Log::new(self, block.resources().logger.clone());
        block.plugin(plugin);
        Ok(())
    }
}

/// The plugin of a server block. It changes no reply.
pub struct Log {
    rules: Vec<LogRule>,
    logger: Logger,
}

/// The data of a line.
struct LogLine<'a, 'e> {
    values: &'a Values<'a, 'e>,
    class: Class,
    /// The value of `{/log/type}`, which is more specific than the class.
    kind: &'static str,
}

impl Log {
    /// Creates the plugin of a block.
    pub fn new(config: &Config, logger: Logger) -> Log {
        Log { rules: config.rules.clone(), logger }
    }

    /// Logs a response, or a dropped query if `sent` is `None`.
    fn log(&self, exchange: &Exchange<'_>, sent: Option<&Sent<'_>>, duration: Duration) {
        let question = exchange.question();
        let Some(rule) = self.rules.iter().find(|rule| question.name().is_within(rule.scope.as_name())) else { return };
        let (class, kind) = match sent {
            Some(_) => Class::of(question, exchange.state),
            None => Class::NO_RESPONSE,
        };
        if !rule.classes.has(class) {
            return;
        }
        exchange.with_values(Some(Responded { sent, duration }), |values| {
            let line = LogLine { values, class, kind };
            LINE.with_borrow_mut(|text| {
                text.clear();
                match self.logger.format() {
                    LineFormat::Text => {
                        // Writing to a `String` cannot fail.
                        let _ = write!(text, "[{}] ", Severity::Info.text());
                        let _ = line.write(&rule.format, text);
                        self.logger.raw(text);
                    }
                    LineFormat::Json => {
                        let _ = line.write(&rule.format, text);
                        let fields = line.fields();
                        match exchange.state.reason() {
                            Some(reason) => {
                                let reason = ("reason", reason.into());
                                let with_reason: Vec<_> = fields.into_iter().chain([reason]).collect();
                                self.logger.line_with(Severity::Info, Some("log"), text, &with_reason);
                            }
                            None => self.logger.line_with(Severity::Info, Some("log"), text, &fields),
                        }
                    }
                }
                text.shrink_to(MAX_BUFFER);
            });
        });
    }
}

impl Plugin for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: false, sent: true }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, sent: &Sent<'_>) {
        self.log(exchange, Some(sent), exchange.started.elapsed());
    }

    fn dropped(&self, exchange: &Exchange<'_>) {
        self.log(exchange, None, exchange.started.elapsed());
    }
}

impl LogLine<'_, '_> {
    /// Writes the line in a format.
    fn write(&self, format: &Format, out: &mut String) -> std::fmt::Result {
        self.values.write(format, out, |label| self.metadata(label))
    }

    /// Returns the value of a metadata label. The labels of this plugin exist for all names if the block has
    /// *metadata*, regardless of its zones. `clusterdns/reason` exists without *metadata* too.
    fn metadata(&self, label: &str) -> Option<String> {
        match label {
            "clusterdns/reason" => self.values.exchange.state.reason().map(str::to_owned),
            _ if !self.values.exchange.has_metadata() => None,
            "log/class" => Some(self.class.name().to_owned()),
            "log/type" => Some(self.kind.to_owned()),
            _ => self.values.exchange.metadata(label),
        }
    }

    /// Returns the fields of a JSON line besides its text.
    fn fields(&self) -> [(&'static str, serde_json::Value); 14] {
        let Values { exchange, query, responded } = self.values;
        let client = &exchange.client;
        let sent = responded.and_then(|responded| responded.sent);
        // Without a response the code is null, as in CoreDNS.
        let rcode = sent.map(|_| {
            let mut rcode = String::new();
            // Writing to a `String` cannot fail.
            let _ = self.values.write_rcode(&mut rcode);
            rcode
        });
        let duration = responded.map_or(Duration::ZERO, |responded| responded.duration);
        [
            ("client_ip", client.remote.ip().to_canonical().to_string().into()),
            ("client_port", client.remote.port().into()),
            ("qname", exchange.question().name().to_string().into()),
            ("qtype", query.question.qtype.to_string().into()),
            ("qclass", query.question.qclass.to_string().into()),
            ("protocol", client.transport.name().into()),
            ("id", query.id().into()),
            ("opcode", opcode(query.packet()).0.into()),
            ("request_size", query.packet().len().into()),
            ("dnssec_ok", query.edns.is_some_and(|edns| edns.dnssec_ok).into()),
            ("bufsize", self.values.bufsize().into()),
            ("rcode", rcode.into()),
            ("response_size", sent.map_or(0, |sent| sent.len).into()),
            ("duration_seconds", duration.as_secs_f64().into()),
        ]
    }
}

#[cfg(test)]
mod tests;
