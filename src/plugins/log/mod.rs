//! *log*: a line for each query that was answered, or dropped (CoreDNS `plugin/log`).
//!
//! The line is written when the answer has been, so that there is one whatever the answer came from, and one that is
//! nothing but a code too. `{rsize}` is what was sent: CoreDNS shows the length that the answer would have had without
//! compression and without OPT, which is no length that anybody saw.

mod config;
mod format;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::chain::{Exchange, Plugin, Rewritten, Sent, Step};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::telemetry::log::{Format as LineFormat, Logger, Severity};
use crate::wire::encode::MIN_UDP;
use crate::wire::header::{flag, opcode};
use crate::wire::{MAX_MESSAGE, Query, Rcode};

pub use config::{Class, Classes, Config, Rule, parse};
pub use format::Format;
use format::{Part, Value};

/// What stands where there is nothing to show.
const EMPTY: &str = "-";
/// The octets that a thread keeps for its next line.
const KEPT_LINE: usize = 4 * 1024;
/// The flags of an answer, in the order in which a line shows them; Z is the bit that RFC 1035 leaves.
const FLAGS: [(u16, &str); 8] = [
    (flag::QR, "qr"),
    (flag::AA, "aa"),
    (flag::TC, "tc"),
    (flag::RD, "rd"),
    (flag::RA, "ra"),
    (0x0040, "z"),
    (flag::AD, "ad"),
    (flag::CD, "cd"),
];

thread_local! {
    /// The line in the making, so that a line allocates nothing.
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let plugin = Log::new(self, block.resources().logger.clone());
        block.plugin(plugin);
        Ok(())
    }
}

/// The plugin.
pub struct Log {
    rules: Vec<Rule>,
    logger: Logger,
}

/// What a line is made of.
struct Line<'a, 'e> {
    exchange: &'a Exchange<'e>,
    /// The query. Its name is shown as received; everything else is shown as *rewrite* has changed it, as in CoreDNS.
    query: &'a Query<'a>,
    /// What went out; nothing where a plugin has dropped the query.
    sent: Option<&'a Sent>,
    class: Class,
    /// The finer name of the class.
    kind: &'static str,
    took: Duration,
}

impl Log {
    /// The plugin of a block.
    pub fn new(config: &Config, logger: Logger) -> Log {
        Log { rules: config.rules.clone(), logger }
    }

    /// Logs one answer that took so long, or that there was none.
    fn log(&self, exchange: &Exchange<'_>, sent: Option<&Sent>, took: Duration) {
        let question = exchange.question();
        let Some(rule) = self.rules.iter().find(|rule| question.name().is_within(rule.scope.as_name())) else { return };
        let (class, kind) = match sent {
            Some(_) => Class::of(question, exchange.state),
            None => Class::SILENCE,
        };
        if !rule.classes.has(class) {
            return;
        }
        let changed = exchange.state.rewritten().and_then(Rewritten::query);
        let query = changed.as_ref().unwrap_or(exchange.query);
        let line = Line { exchange, query, sent, class, kind, took };
        LINE.with_borrow_mut(|text| {
            text.clear();
            match self.logger.format() {
                LineFormat::Text => {
                    let _ = write!(text, "[{}] ", Severity::Info.text());
                    // Writing to a `String` does not fail.
                    let _ = line.write(&rule.format, text);
                    self.logger.raw(text);
                }
                LineFormat::Json => {
                    let _ = line.write(&rule.format, text);
                    self.logger.line_with(Severity::Info, Some("log"), text, &line.fields());
                }
            }
            text.shrink_to(KEPT_LINE);
        });
    }
}

impl Plugin for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, sent: &Sent) {
        self.log(exchange, Some(sent), exchange.started.elapsed());
    }

    fn dropped(&self, exchange: &Exchange<'_>) {
        self.log(exchange, None, exchange.started.elapsed());
    }
}

impl Line<'_, '_> {
    /// Writes it in text form.
    fn write(&self, format: &Format, out: &mut String) -> std::fmt::Result {
        for part in &format.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(value) => self.value(*value, out)?,
                Part::Metadata(label) => match self.label(label) {
                    // It may come from a query: a line end would forge a line.
                    Some(value) => out.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c })),
                    None => out.push_str(EMPTY),
                },
            }
        }
        Ok(())
    }

    /// Writes the value of one placeholder.
    fn value(&self, value: Value, out: &mut String) -> std::fmt::Result {
        let query = self.query;
        let client = &self.exchange.client;
        match value {
            Value::Type => write!(out, "{}", query.question.qtype),
            Value::Name => write!(out, "{}", self.exchange.question().name()),
            Value::Class => write!(out, "{}", query.question.qclass),
            Value::Proto => out.write_str(client.transport.name()),
            Value::Size => write!(out, "{}", query.packet().len()),
            Value::Remote => bracketed(client.remote.ip(), out),
            Value::Port => write!(out, "{}", client.remote.port()),
            Value::Local => bracketed(client.local.ip(), out),
            Value::Id => write!(out, "{}", query.id()),
            Value::Opcode => write!(out, "{}", opcode(query.packet()).0),
            Value::Do => write!(out, "{}", query.edns.is_some_and(|edns| edns.dnssec_ok)),
            Value::Bufsize => write!(out, "{}", self.bufsize()),
            Value::Rcode => self.rcode(out),
            Value::Rsize => write!(out, "{}", self.size()),
            // Both Go's shortest form without an exponent and Rust's own.
            Value::Duration => write!(out, "{}s", self.took.as_secs_f64()),
            Value::Rflags => {
                let Some(sent) = self.sent else { return out.write_str(EMPTY) };
                let set = FLAGS.iter().filter(|(bit, _)| sent.flags & bit != 0);
                for (index, (_, name)) in set.enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(name);
                }
                Ok(())
            }
        }
    }

    /// How long an answer the client takes (CoreDNS `request.Size`).
    fn bufsize(&self) -> usize {
        match self.exchange.client.transport.name() {
            "tcp" => MAX_MESSAGE,
            _ => {
                let limit = self.exchange.state.reply.max_udp.unwrap_or(u16::MAX);
                self.query.edns.map_or(0, |edns| usize::from(edns.size.min(limit))).max(MIN_UDP)
            }
        }
    }

    /// How many octets went out.
    fn size(&self) -> usize {
        self.sent.map_or(0, |sent| sent.len)
    }

    /// Writes the code's name, or its number where it has none (miekg/dns `RcodeToString`).
    fn rcode(&self, out: &mut String) -> std::fmt::Result {
        if self.sent.is_none() {
            return out.write_str(EMPTY);
        }
        let Rcode(number) = self.exchange.state.reply.rcode;
        let more = ["BADSIG", "BADKEY", "BADTIME", "BADMODE", "BADNAME", "BADALG", "BADTRUNC", "BADCOOKIE"];
        match (number, Rcode(number).mnemonic()) {
            (11, _) => out.write_str("DSOTYPENI"),
            (16..=23, _) => out.write_str(more[usize::from(number) - 16]),
            (_, Some(name)) => out.write_str(name),
            (_, None) => write!(out, "{number}"),
        }
    }

    /// The value of a metadata label. This plugin's own are there wherever *metadata* is on, whatever its zones.
    fn label(&self, label: &str) -> Option<String> {
        match label {
            _ if !self.exchange.has_metadata() => None,
            "log/class" => Some(self.class.name().to_owned()),
            "log/type" => Some(self.kind.to_owned()),
            _ => self.exchange.metadata(label),
        }
    }

    /// What a JSON line says besides its text.
    fn fields(&self) -> [(&'static str, serde_json::Value); 14] {
        let query = self.query;
        let client = &self.exchange.client;
        // No code is not a code: null, as in CoreDNS.
        let rcode = self.sent.map(|_| {
            let mut rcode = String::new();
            // Writing to a `String` does not fail.
            let _ = self.rcode(&mut rcode);
            rcode
        });
        [
            ("client_ip", client.remote.ip().to_canonical().to_string().into()),
            ("client_port", client.remote.port().into()),
            ("qname", self.exchange.question().name().to_string().into()),
            ("qtype", query.question.qtype.to_string().into()),
            ("qclass", query.question.qclass.to_string().into()),
            ("protocol", client.transport.name().into()),
            ("id", query.id().into()),
            ("opcode", opcode(query.packet()).0.into()),
            ("request_size", query.packet().len().into()),
            ("dnssec_ok", query.edns.is_some_and(|edns| edns.dnssec_ok).into()),
            ("bufsize", self.bufsize().into()),
            ("rcode", rcode.into()),
            ("response_size", self.size().into()),
            ("duration_seconds", self.took.as_secs_f64().into()),
        ]
    }
}

/// Writes an address, an IPv6 one in brackets (RFC 3986 3.2.2). A socket for both families shows IPv4 as IPv6.
fn bracketed(address: IpAddr, out: &mut String) -> std::fmt::Result {
    match address.to_canonical() {
        IpAddr::V4(address) => write!(out, "{address}"),
        IpAddr::V6(address) => write!(out, "[{address}]"),
    }
}

#[cfg(test)]
mod tests;
