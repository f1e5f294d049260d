//! The values of placeholders.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use super::format::{Format, FormatPart, Placeholder};
use crate::chain::{Exchange, Rewritten, Sent};
use crate::wire::header::{flag, opcode};
use crate::wire::{MAX_MESSAGE, MIN_UDP, Query, Rcode};

/// The text of a placeholder without a value.
const EMPTY: &str = "-";
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

/// What became of a query.
#[derive(Clone, Copy)]
pub(in crate::plugins) struct Responded<'a> {
    /// The response that was sent; `None` if a plugin dropped the query.
    pub sent: Option<&'a Sent<'a>>,
    /// The time since the query was received.
    pub duration: Duration,
}

/// The values of a query.
pub(in crate::plugins) struct Values<'a, 'e> {
    pub exchange: &'a Exchange<'e>,
    /// The query. Its name is shown as received; everything else is shown as *rewrite* has changed it, as in CoreDNS.
    pub query: &'a Query<'a>,
    /// `None` if the text is not about the response.
    pub responded: Option<Responded<'a>>,
}

impl Values<'_, '_> {
    /// Writes a text, with `metadata` for the values of labels.
    pub(in crate::plugins) fn write(
        &self, format: &Format, out: &mut String, metadata: impl Fn(&str) -> Option<String>,
    ) -> fmt::Result {
        for part in &format.parts {
            match part {
                FormatPart::Text(text) => out.push_str(text),
                FormatPart::Value(placeholder) => self.write_value(*placeholder, out)?,
                FormatPart::Metadata(label) => match metadata(label) {
                    // The value may come from a query, and must not produce a line that looks like another entry.
                    Some(value) => out.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c })),
                    None => out.push_str(EMPTY),
                },
            }
        }
        Ok(())
    }

    /// Writes the value of a placeholder.
    fn write_value(&self, placeholder: Placeholder, out: &mut String) -> fmt::Result {
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
            Placeholder::Rsize => match self.responded {
                Some(responded) => write!(out, "{}", responded.sent.map_or(0, |sent| sent.len)),
                None => out.write_str(EMPTY),
            },
            // The shortest decimal form without an exponent, as in Go.
            Placeholder::Duration => match self.responded {
                Some(responded) => write!(out, "{}s", responded.duration.as_secs_f64()),
                None => out.write_str(EMPTY),
            },
            Placeholder::Rflags => {
                let Some(sent) = self.sent() else { return out.write_str(EMPTY) };
                let set = FLAGS.iter().filter(|(bit, _)| sent.flags & bit != 0);
                for (index, (_, name)) in set.enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(name);
                }
                Ok(())
            }
        }
    }

    /// Returns the response that was sent.
    fn sent(&self) -> Option<&Sent<'_>> {
        self.responded?.sent
    }

    /// Returns the maximum length of a response in bytes (CoreDNS `request.Size`).
    pub(in crate::plugins) fn bufsize(&self) -> usize {
        match self.exchange.client.transport.name() {
            "tcp" => MAX_MESSAGE,
            _ => {
                let limit = self.exchange.state.reply.max_udp.unwrap_or(u16::MAX);
                self.query.edns.map_or(0, |edns| usize::from(edns.size.min(limit))).max(MIN_UDP)
            }
        }
    }

    /// Writes the name of the response code, or its number if it has no name (miekg/dns `RcodeToString`).
    pub(in crate::plugins) fn write_rcode(&self, out: &mut String) -> fmt::Result {
        if self.sent().is_none() {
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
}

impl<'a> Exchange<'a> {
    /// Calls `write` with the values of the query, as *rewrite* has changed it.
    pub(in crate::plugins) fn with_values<T>(
        &self, responded: Option<Responded<'_>>, write: impl FnOnce(&Values<'_, 'a>) -> T,
    ) -> T {
        let changed = self.state.rewritten().and_then(Rewritten::query);
        let query = changed.as_ref().unwrap_or(self.query);
        write(&Values { exchange: self, query, responded })
    }
}

/// Writes an address, with brackets if it is an IPv6 address (RFC 3986 3.2.2). Sockets for both families have
/// IPv4-mapped addresses, which are written as IPv4 addresses.
fn write_address(address: IpAddr, out: &mut String) -> fmt::Result {
    match address.to_canonical() {
        IpAddr::V4(address) => write!(out, "{address}"),
        IpAddr::V6(address) => write!(out, "[{address}]"),
    }
}
