//! Reads a record in presentation form (RFC 1035 5.1) into a [`Reply`].
//!
//! ```text
//! text ─ tokens ─► owner, TTL, class, type ─ data ─► Rdata
//! ```
//!
//! Accepts the texts that miekg/dns `NewRR` accepts, with its defaults (class IN, a TTL of 3600 s, names relative to
//! the root) and the texts of its errors; only the first record is read. Not supported: `$INCLUDE`, which reads files
//! of this machine, `$GENERATE`, and the data of a few rare types, which can be written in the form of RFC 3597.
//! hickory-proto reads SVCB and HTTPS.

mod data;
mod name;
mod plain;
#[cfg(test)]
mod tests;
mod tokens;

use super::name::MAX_LEN;
use super::query::Question;
use super::record::{NameRef, Rdata, Record, Section};
use super::reply::Reply;
use super::types::{Class, Type};

pub use plain::{is_plain_type, plain_data, plain_name};
use tokens::{RecordToken, RecordTokens, WordKind, ZoneDirective};

/// The TTL of a record whose text has none, in seconds.
pub const DEFAULT_TTL: u32 = 3600;
/// The limit on the length of a character string in bytes (RFC 1035 3.3).
const MAX_STRING: usize = 255;

/// An error in the text of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The reason.
    reason: std::borrow::Cow<'static, str>,
    /// The word.
    word: Box<[u8]>,
    line: u32,
    column: u32,
}

impl std::error::Error for RecordError {}

impl std::fmt::Display for RecordError {
    /// Formats the error as miekg/dns `ParseError`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RecordError { reason, word, line, column } = self;
        write!(f, "dns: {reason}: \"{}\" at line: {line}:{column}", word.escape_ascii())
    }
}

impl RecordError {
    #[cold]
    fn at(reason: impl Into<std::borrow::Cow<'static, str>>, token: &RecordToken) -> RecordError {
        let RecordToken { text, line, column, .. } = token;
        RecordError { reason: reason.into(), word: text.as_slice().into(), line: *line, column: *column }
    }
}

/// The fields of a line before its data.
struct Head {
    owner: Option<NameRef>,
    class: Class,
    ttl: u32,
}

/// The state of the reader.
struct RecordReader<'t, 'r> {
    tokens: RecordTokens<'t>,
    reply: &'r mut Reply,
    question: &'r Question,
    /// The suffix of names that do not end in a dot, in wire form.
    origin: smallvec::SmallVec<[u8; 16]>,
    /// `$TTL`
    ttl: u32,
}

/// The tokens that may come next in a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// An owner, or a token that may come without one.
    Line,
    /// A blank after the owner.
    BlankBeforeAny,
    Any,
    BlankBeforeNoTtl,
    NoTtl,
    BlankBeforeNoClass,
    NoClass,
    BlankBeforeType,
    Type,
    Data(Type),
}

/// Adds the first record of `text` to a section of a reply, and returns it. `question` is that of the reply: equal
/// names refer to it. After an error the contents of the reply are undefined.
pub fn add_record(
    text: &[u8], section: Section, question: &Question, reply: &mut Reply,
) -> Result<Record, RecordError> {
    let tokens = RecordTokens::new(text);
    let mut reader =
        RecordReader { tokens, reply, question, origin: smallvec::SmallVec::from_slice(&[0]), ttl: DEFAULT_TTL };
    let record = reader.record(section)?;
    reply.push(record);
    Ok(record)
}

impl RecordReader<'_, '_> {
    /// The states are those of miekg/dns `ZoneParser.Next`.
    fn record(&mut self, section: Section) -> Result<Record, RecordError> {
        let mut expect = Expect::Line;
        let mut head = Head { owner: None, class: Class::IN, ttl: self.ttl };
        loop {
            let token = self.tokens.next();
            if let WordKind::Error(reason) = token.kind {
                return Err(RecordError::at(reason, &token));
            }
            if let Expect::Data(rtype) = expect {
                // Without an owner, miekg/dns makes a record that clients cannot read.
                let owner = head.owner.ok_or_else(|| RecordError::at("no owner", &token))?;
                let rdata = self.data(rtype, head.class, &token)?;
                // An open quote at the end of the text may be empty.
                if matches!(rdata, Rdata::Bytes(bytes) if self.reply.bytes(bytes).is_empty()) {
                    return Err(RecordError::at("no data", &token));
                }
                return Ok(Record { section, owner, rtype, class: head.class, ttl: head.ttl, rdata });
            }
            if token.kind == WordKind::End {
                return Err(RecordError::at("no record", &token));
            }
            expect = self.word(expect, &token, &mut head)?;
        }
    }

    /// Reads a word before the data; returns the tokens that may come next.
    fn word(&mut self, expect: Expect, token: &RecordToken, head: &mut Head) -> Result<Expect, RecordError> {
        let blank = |next, reason: &'static str| match token.kind {
            WordKind::Blank => Ok(next),
            _ => Err(RecordError::at(reason, token)),
        };
        match expect {
            Expect::Line => {
                (head.ttl, head.class) = (self.ttl, Class::IN);
                match token.kind {
                    WordKind::LineEnd | WordKind::Blank => Ok(Expect::Line),
                    WordKind::Owner => {
                        head.owner = Some(self.name(token, "bad owner name")?);
                        Ok(Expect::BlankBeforeAny)
                    }
                    WordKind::Directive(directive) => self.directive(directive).map(|()| Expect::Line),
                    WordKind::Type(rtype) => Ok(Expect::Data(rtype)),
                    WordKind::Class(class) => {
                        head.class = class;
                        Ok(Expect::BlankBeforeNoClass)
                    }
                    WordKind::Word => {
                        head.ttl = ttl(token)?;
                        Ok(Expect::BlankBeforeNoTtl)
                    }
                    _ => Err(RecordError::at("syntax error at beginning", token)),
                }
            }
            Expect::BlankBeforeAny => blank(Expect::Any, "no blank after owner"),
            Expect::BlankBeforeNoClass => blank(Expect::NoClass, "no blank before class"),
            Expect::BlankBeforeNoTtl => blank(Expect::NoTtl, "no blank before TTL"),
            Expect::BlankBeforeType => blank(Expect::Type, "no blank before RR type"),
            Expect::Any | Expect::NoTtl | Expect::NoClass | Expect::Type => match token.kind {
                WordKind::Type(rtype) => Ok(Expect::Data(rtype)),
                WordKind::Class(class) if matches!(expect, Expect::Any | Expect::NoTtl) => {
                    head.class = class;
                    Ok(if expect == Expect::Any { Expect::BlankBeforeNoClass } else { Expect::BlankBeforeType })
                }
                WordKind::Word if matches!(expect, Expect::Any | Expect::NoClass) => {
                    head.ttl = ttl(token)?;
                    Ok(if expect == Expect::Any { Expect::BlankBeforeNoTtl } else { Expect::BlankBeforeType })
                }
                _ => Err(RecordError::at(
                    match expect {
                        Expect::Any => "expecting RR type, TTL or class, not this...",
                        Expect::NoTtl => "expecting RR type or class, not this...",
                        Expect::NoClass => "expecting RR type or TTL, not this...",
                        _ => "unknown RR type",
                    },
                    token,
                )),
            },
            Expect::Data(_) => Err(RecordError::at("unexpected data", token)),
        }
    }

    /// Reads a line that is not a record.
    fn directive(&mut self, directive: ZoneDirective) -> Result<(), RecordError> {
        let (name, no_blank, no_value) = match directive {
            ZoneDirective::Ttl => ("$TTL", "no blank after $TTL-directive", "expecting $TTL value, not this..."),
            ZoneDirective::Origin => {
                ("$ORIGIN", "no blank after $ORIGIN-directive", "expecting $ORIGIN value, not this...")
            }
            ZoneDirective::Include => {
                ("$INCLUDE", "no blank after $INCLUDE-directive", "$INCLUDE directive not allowed")
            }
            ZoneDirective::Generate => {
                ("$GENERATE", "no blank after $GENERATE-directive", "$GENERATE directive not allowed")
            }
        };
        let blank = self.tokens.next();
        if blank.kind != WordKind::Blank {
            return Err(RecordError::at(no_blank, &blank));
        }
        let value = self.tokens.next();
        if value.kind != WordKind::Word || matches!(directive, ZoneDirective::Include | ZoneDirective::Generate) {
            return Err(RecordError::at(no_value, &value));
        }
        self.rest()?;
        if name == "$TTL" {
            self.ttl = seconds(&value.text).ok_or_else(|| RecordError::at(no_value, &value))?;
        } else {
            let mut wire = [0; MAX_LEN];
            let origin = name::wire(&value.text, &self.origin, &mut wire);
            self.origin = origin.ok_or_else(|| RecordError::at("bad origin name", &value))?.into();
        }
        Ok(())
    }

    /// Checks that the line ends (`slurpRemainder`).
    fn rest(&mut self) -> Result<(), RecordError> {
        let mut token = self.tokens.next();
        if token.kind == WordKind::Blank {
            token = self.tokens.next();
        }
        match token.kind {
            WordKind::LineEnd | WordKind::End => Ok(()),
            _ => Err(RecordError::at("garbage after rdata", &token)),
        }
    }

    /// Stores a word as a name in the reply.
    fn name(&mut self, token: &RecordToken, reason: &'static str) -> Result<NameRef, RecordError> {
        let mut wire = [0; MAX_LEN];
        let text = if let WordKind::Error(_) = token.kind { &[] } else { token.text.as_slice() };
        let name = name::wire(text, &self.origin, &mut wire).ok_or_else(|| RecordError::at(reason, token))?;
        Ok(store_name(name, self.question, self.reply))
    }
}

/// Stores a name in wire form in the reply to a question.
fn store_name(name: &[u8], question: &Question, reply: &mut Reply) -> NameRef {
    // Length bytes are below `A`, so folding does not change them.
    if name.eq_ignore_ascii_case(question.name().as_wire()) {
        return NameRef::QUESTION;
    }
    reply.store_labels(&[&name[..name.len() - 1]], None)
}

fn ttl(token: &RecordToken) -> Result<u32, RecordError> {
    seconds(&token.text).ok_or_else(|| RecordError::at("not a TTL", token))
}

/// Reads a TTL such as `1h30m`, or seconds.
fn seconds(text: &[u8]) -> Option<u32> {
    let (mut sum, mut number): (u64, u64) = (0, 0);
    for byte in text {
        let unit = match byte.to_ascii_lowercase() {
            digit @ b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add((digit - b'0').into())?;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 60 * 60,
            b'd' => 24 * 60 * 60,
            b'w' => 7 * 24 * 60 * 60,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(unit)?)?;
        number = 0;
    }
    u32::try_from(sum.checked_add(number)?).ok()
}
