//! `.Message` and `.Question` of templates: the query with the fields of miekg/dns.
//!
//! There are the header, the question and the OPT. Other records of a query, which are rare, and the methods that
//! change a message are not supported.

use std::net::IpAddr;

use super::language::{ListValue, ObjectMember, Sequence, Structure, TemplateValue, Unsigned};
use crate::chain::Exchange;
use crate::wire::header::{self, flag};

/// The message.
pub(super) struct QueryMessage<'q> {
    /// Its question.
    pub question: MessageQuestion<'q>,
    header: MessageHeader<'q>,
    opt: Option<MessageOpt<'q>>,
    nothing: Nothing,
}

/// Its question.
pub(super) struct MessageQuestion<'q>(&'q Exchange<'q>);

/// Its header.
struct MessageHeader<'q>(&'q Exchange<'q>);

/// Its OPT record.
struct MessageOpt<'q> {
    exchange: &'q Exchange<'q>,
    options: Vec<EdnsOption<'q>>,
}

/// An option of the OPT.
struct EdnsOption<'q> {
    code: u16,
    data: &'q [u8],
}

/// A section without records.
struct Nothing;

impl<'q> QueryMessage<'q> {
    /// Returns the message of a query.
    pub(super) fn of(exchange: &'q Exchange<'q>) -> QueryMessage<'q> {
        let opt = exchange.query.edns.is_some().then(|| MessageOpt { exchange, options: options(exchange) });
        QueryMessage { question: MessageQuestion(exchange), header: MessageHeader(exchange), opt, nothing: Nothing }
    }
}

/// Returns the options of a query's OPT.
fn options<'q>(exchange: &'q Exchange<'q>) -> Vec<EdnsOption<'q>> {
    let mut rest = exchange.query.edns.map_or(&[][..], |edns| edns.options);
    let mut options = Vec::new();
    while let Some(head) = rest.first_chunk::<4>() {
        let [code, length] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_be_bytes);
        let end = 4 + usize::from(length);
        let Some(data) = rest.get(4..end) else { break };
        options.push(EdnsOption { code, data });
        rest = &rest[end..];
    }
    options
}

impl MessageQuestion<'_> {
    /// Formats the question as miekg/dns does.
    pub(super) fn written(&self) -> String {
        let question = self.0.question();
        format!(";{}\t{}\t {}", self.0.query.sent_name(), question.qclass, question.qtype)
    }
}

/// Returns a number of 16 bits.
fn short<'a>(number: u16) -> TemplateValue<'a> {
    TemplateValue::Uint(number.into(), Unsigned::Short)
}

impl<'a, 'q: 'a> Structure<'a> for QueryMessage<'q> {
    fn type_name(&self) -> &'static str {
        "*dns.Msg"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        ObjectMember::Value(match name {
            "MsgHdr" => TemplateValue::Object(&self.header),
            "Compress" => TemplateValue::Bool(false),
            "Question" => TemplateValue::List(ListValue::given(self, "dns.Question")),
            "Answer" | "Ns" => TemplateValue::List(ListValue::given(&self.nothing, "dns.RR")),
            "Extra" => match &self.opt {
                Some(opt) => TemplateValue::List(ListValue::shared([TemplateValue::Object(opt)].into(), "dns.RR")),
                None => TemplateValue::List(ListValue::given(&self.nothing, "dns.RR")),
            },
            "IsEdns0" => self.opt.as_ref().map_or(TemplateValue::Nil, |opt| TemplateValue::Object(opt)),
            "IsTsig" => TemplateValue::Nil,
            "Len" => TemplateValue::Int(self.question.0.query.packet().len() as i64),
            _ => return self.header.member(name),
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        self.header.text(out);
        out.extend_from_slice(format!("\n;; QUESTION SECTION:\n{}\n", self.question.written()).as_bytes());
    }
}

impl<'a, 'q: 'a> Sequence<'a> for QueryMessage<'q> {
    fn count(&self) -> usize {
        1
    }

    fn item(&'a self, _: usize) -> TemplateValue<'a> {
        TemplateValue::Object(&self.question)
    }
}

impl<'a, 'q: 'a> Structure<'a> for MessageHeader<'q> {
    fn type_name(&self) -> &'static str {
        "dns.MsgHdr"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        let (query, flags) = (self.0.query, self.0.query.flags());
        let is_set = |bits| TemplateValue::Bool(flags & bits != 0);
        ObjectMember::Value(match name {
            "Id" => short(query.id()),
            "Opcode" => TemplateValue::Int(header::opcode(query.packet()).0.into()),
            "Rcode" => TemplateValue::Int((flags & 15).into()),
            "Response" => is_set(flag::QR),
            "Authoritative" => is_set(flag::AA),
            "Truncated" => is_set(flag::TC),
            "RecursionDesired" => is_set(flag::RD),
            "RecursionAvailable" => is_set(flag::RA),
            "Zero" => is_set(0x40),
            "AuthenticatedData" => is_set(flag::AD),
            "CheckingDisabled" => is_set(flag::CD),
            _ => return ObjectMember::None,
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        let query = self.0.query;
        let opcode = header::opcode(query.packet());
        let rd = if query.flags() & flag::RD != 0 { " rd" } else { "" };
        let text = format!(";; opcode: {opcode}, status: NOERROR, id: {}\n;; flags:{rd}; QUERY: 1\n", query.id());
        out.extend_from_slice(text.as_bytes());
    }
}

impl<'a, 'q: 'a> Structure<'a> for MessageQuestion<'q> {
    fn type_name(&self) -> &'static str {
        "*dns.Question"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        ObjectMember::Value(match name {
            "Name" => TemplateValue::text(self.0.query.sent_name().to_string()),
            "Qtype" => short(self.0.question().qtype.0),
            "Qclass" => short(self.0.question().qclass.0),
            "String" => TemplateValue::text(self.written()),
            _ => return ObjectMember::None,
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.written().as_bytes());
    }
}

impl<'a, 'q: 'a> Structure<'a> for MessageOpt<'q> {
    fn type_name(&self) -> &'static str {
        "*dns.OPT"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        let Some(edns) = &self.exchange.query.edns else { return ObjectMember::None };
        ObjectMember::Value(match name {
            "Do" => TemplateValue::Bool(edns.dnssec_ok),
            "UDPSize" => short(edns.size),
            "Version" => TemplateValue::Uint(edns.version.into(), Unsigned::Byte),
            "ExtendedRcode" => TemplateValue::Int(0),
            "Option" => TemplateValue::List(ListValue::given(self, "dns.EDNS0")),
            _ => return ObjectMember::None,
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        let size = self.exchange.query.edns.map_or(0, |edns| edns.size);
        out.extend_from_slice(format!("\n;; OPT PSEUDOSECTION:\n; EDNS: version 0; flags:; udp: {size}").as_bytes());
    }
}

impl<'a, 'q: 'a> Sequence<'a> for MessageOpt<'q> {
    fn count(&self) -> usize {
        self.options.len()
    }

    fn item(&'a self, at: usize) -> TemplateValue<'a> {
        TemplateValue::Object(&self.options[at])
    }
}

impl<'a, 'q: 'a> Structure<'a> for EdnsOption<'q> {
    fn type_name(&self) -> &'static str {
        "dns.EDNS0"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        ObjectMember::Value(match name {
            "Option" => short(self.code),
            _ => return ObjectMember::None,
        })
    }

    fn text(&self, out: &mut Vec<u8>) {
        out.extend(self.written().into_bytes());
    }
}

impl EdnsOption<'_> {
    /// Formats the option as miekg/dns does.
    fn written(&self) -> String {
        let hex = || self.data.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        match (self.code, self.data) {
            // Also options that miekg/dns has words for, which clients rarely send (row 345 of docs/differences.md).
            (1..=7 | option::COOKIE | 15 | 18 | 19, _) => hex(),
            (option::SUBNET, [family_high, family_low, source, scope, address @ ..]) => {
                let mut bytes = [0; 16];
                let len = address.len().min(bytes.len());
                bytes[..len].copy_from_slice(&address[..len]);
                let ip = match u16::from_be_bytes([*family_high, *family_low]) {
                    2 => IpAddr::from(bytes).to_canonical(),
                    _ => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
                };
                let ip = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
                format!("{ip}/{source}/{scope}")
            }
            (option::EXPIRE, []) => String::new(),
            (option::EXPIRE, [a, b, c, d, ..]) => u32::from_be_bytes([*a, *b, *c, *d]).to_string(),
            (option::KEEPALIVE, [high, low, ..]) if (*high, *low) != (0, 0) => {
                format!("use tcp keep-alive, timeout {}ms", u32::from(u16::from_be_bytes([*high, *low])) * 100)
            }
            (option::KEEPALIVE, _) => "use tcp keep-alive, timeout omitted".to_owned(),
            (option::PADDING, _) => hex().to_uppercase(),
            (code, _) => format!("{code}:0x{}", hex()),
        }
    }
}

/// Codes of EDNS options.
mod option {
    pub(super) const SUBNET: u16 = 8;
    pub(super) const EXPIRE: u16 = 9;
    pub(super) const COOKIE: u16 = 10;
    pub(super) const KEEPALIVE: u16 = 11;
    pub(super) const PADDING: u16 = 12;
}

impl<'a> Sequence<'a> for Nothing {
    fn count(&self) -> usize {
        0
    }

    fn item(&'a self, _: usize) -> TemplateValue<'a> {
        TemplateValue::Nil
    }
}
