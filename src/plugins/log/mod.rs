//! *log*: logs a line for each query that was answered or dropped (CoreDNS `plugin/log`).
//!
//! The line is written after the response was encoded, so that there is one for each response, bare codes included.
//! `{rsize}` is the length that was sent, where CoreDNS logs the length without compression and without OPT.

mod config;
mod format;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::chain::{Exchange, Plugin, Rewritten, Sent, Step};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::telemetry::log::{LogFormat as LineFormat, Logger, Severity};
use crate::wire::header::{flag, opcode};
use crate::wire::{MAX_MESSAGE, MIN_UDP, Query, Rcode};

pub use config::{Class, Classes, Config, LogRule, parse};
pub use format::Format;
use format::{FormatPart, Placeholder};

/// The text of a placeholder without a value.
const EMPTY: &str = "-";
/// The maximum capacity of the buffer that a thread reuses for its next line, in bytes.
const MAX_BUFFER: usize = 4 * 1024;
/// The flags of a response, in the order of `{>rflags}`. Z is the reserved bit (RFC 1035 4.1.1).
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
    exchange: &'a Exchange<'e>,
    /// The query. Its name is shown as received; everything else is shown as *rewrite* has changed it, as in CoreDNS.
    query: &'a Query<'a>,
    /// The response that was sent; `None` if a plugin dropped the query.
    sent: Option<&'a Sent>,
    class: Class,
    /// The value of `{/log/type}`, which is more specific than the class.
    kind: &'static str,
    duration: Duration,
}

impl Log {
    /// Creates the plugin of a block.
    pub fn new(config: &Config, logger: Logger) -> Log {
        Log { rules: config.rules.clone(), logger }
    }

    /// Logs a response, or a dropped query if `sent` is `None`.
    fn log(&self, exchange: &Exchange<'_>, sent: Option<&Sent>, duration: Duration) {
        let question = exchange.question();
        let Some(rule) = self.rules.iter().find(|rule| question.name().is_within(rule.scope.as_name())) else { return };
        let (class, kind) = match sent {
            Some(_) => Class::of(question, exchange.state),
            None => Class::NO_RESPONSE,
        };
        if !rule.classes.has(class) {
            return;
        }
        let changed = exchange.state.rewritten().and_then(Rewritten::query);
        let query = changed.as_ref().unwrap_or(exchange.query);
        let line = LogLine { exchange, query, sent, class, kind, duration };
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
                            let with_reason: Vec<_> = fields.into_iter().chain([("reason", reason.into())]).collect();
                            self.logger.line_with(Severity::Info, Some("log"), text, &with_reason);
                        }
                        None => self.logger.line_with(Severity::Info, Some("log"), text, &fields),
                    }
                }
            }
            text.shrink_to(MAX_BUFFER);
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

impl LogLine<'_, '_> {
    /// Writes the line in a format.
    fn write(&self, format: &Format, out: &mut String) -> std::fmt::Result {
        for part in &format.parts {
            match part {
                FormatPart::Text(text) => out.push_str(text),
                FormatPart::Value(placeholder) => self.write_value(*placeholder, out)?,
                FormatPart::Metadata(label) => match self.metadata(label) {
                    // The value may come from a query, and must not produce a line that looks like another entry.
                    Some(value) => out.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c })),
                    None => out.push_str(EMPTY),
                },
            }
        }
        Ok(())
    }

    /// Writes the value of a placeholder.
    fn write_value(&self, placeholder: Placeholder, out: &mut String) -> std::fmt::Result {
        let query = self.query;
        let client = &self.exchange.client;
        match placeholder {
            Placeholder::Type => write!(out, "{}", query.question.qtype),
            Placeholder::Name => write!(out, "{}", self.exchange.question().name()),
            Placeholder::Class => write!(out, "{}", query.question.qclass),
            Placeholder::Proto => out.write_str(client.transport.name()),
            Placeholder::Size => write!(out, "{}", query.packet().len()),
            Placeholder::Remote => write_address(client.remote.ip(), out),
            Placeholder::Port => write!(out, "{}", client.remote.port()),
            Placeholder::Local => write_address(client.local.ip(), out),
            Placeholder::Id => write!(out, "{}", query.id()),
            Placeholder::Opcode => write!(out, "{}", opcode(query.packet()).0),
            Placeholder::Do => write!(out, "{}", query.edns.is_some_and(|edns| edns.dnssec_ok)),
            Placeholder::Bufsize => write!(out, "{}", self.bufsize()),
            Placeholder::Rcode => self.write_rcode(out),
            Placeholder::Rsize => write!(out, "{}", self.response_size()),
            // The shortest decimal form without an exponent, as in Go.
            Placeholder::Duration => write!(out, "{}s", self.duration.as_secs_f64()),
            Placeholder::Rflags => {
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

    /// Returns the maximum length of a response in bytes (CoreDNS `request.Size`).
    fn bufsize(&self) -> usize {
        match self.exchange.client.transport.name() {
            "tcp" => MAX_MESSAGE,
            _ => {
                let limit = self.exchange.state.reply.max_udp.unwrap_or(u16::MAX);
                self.query.edns.map_or(0, |edns| usize::from(edns.size.min(limit))).max(MIN_UDP)
            }
        }
    }

    /// Returns the length of the response in bytes; 0 if there is none.
    fn response_size(&self) -> usize {
        self.sent.map_or(0, |sent| sent.len)
    }

    /// Writes the name of the response code, or its number if it has no name (miekg/dns `RcodeToString`).
    fn write_rcode(&self, out: &mut String) -> std::fmt::Result {
        if self.sent.is_none() {
            return out.write_str(EMPTY);
        }
        let Rcode(number) = self.exchange.state.reply.rcode;
        let extended = ["BADSIG", "BADKEY", "BADTIME", "BADMODE", "BADNAME", "BADALG", "BADTRUNC", "BADCOOKIE"];
        match (number, Rcode(number).mnemonic()) {
            (11, _) => out.write_str("DSOTYPENI"),
            (16..=23, _) => out.write_str(extended[usize::from(number) - 16]),
            (_, Some(name)) => out.write_str(name),
            (_, None) => write!(out, "{number}"),
        }
    }

    /// Returns the value of a metadata label. The labels of this plugin exist for all names if the block has
    /// *metadata*, regardless of its zones. `clusterdns/reason` exists without *metadata* too.
    fn metadata(&self, label: &str) -> Option<String> {
        match label {
            "clusterdns/reason" => self.exchange.state.reason().map(str::to_owned),
            _ if !self.exchange.has_metadata() => None,
            "log/class" => Some(self.class.name().to_owned()),
            "log/type" => Some(self.kind.to_owned()),
            _ => self.exchange.metadata(label),
        }
    }

    /// Returns the fields of a JSON line besides its text.
    fn fields(&self) -> [(&'static str, serde_json::Value); 14] {
        let query = self.query;
        let client = &self.exchange.client;
        // Without a response the code is null, as in CoreDNS.
        let rcode = self.sent.map(|_| {
            let mut rcode = String::new();
            // Writing to a `String` cannot fail.
            let _ = self.write_rcode(&mut rcode);
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
            ("response_size", self.response_size().into()),
            ("duration_seconds", self.duration.as_secs_f64().into()),
        ]
    }
}

/// Writes an address, with brackets if it is an IPv6 address (RFC 3986 3.2.2). Sockets for both families have
/// IPv4-mapped addresses, which are written as IPv4 addresses.
fn write_address(address: IpAddr, out: &mut String) -> std::fmt::Result {
    match address.to_canonical() {
        IpAddr::V4(address) => write!(out, "{address}"),
        IpAddr::V6(address) => write!(out, "[{address}]"),
    }
}

#[cfg(test)]
mod tests;
