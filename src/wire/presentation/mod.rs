//! A record in presentation form (RFC 1035 5.1) to a record of a [`Reply`].
//!
//! ```text
//! text ─ tokens ─► owner, TTL, class, type ─ data ─► Rdata
//! ```
//!
//! What is a record is what miekg/dns `NewRR` takes for one, with its defaults (class IN, a TTL of 3600 s, names relative
//! to the root) and the texts of its errors; the first record of the text counts. Not here: `$INCLUDE`, which would read
//! files of this machine, `$GENERATE`, and the data of a few rare types, which can be written as RFC 3597 says. SVCB and
//! HTTPS are read by hickory-proto.

mod data;
mod name;
#[cfg(test)]
mod tests;
mod tokens;

use super::name::MAX_LEN;
use super::query::Question;
use super::reply::{NameRef, Rdata, Record, Reply, Section};
use super::types::{Class, Type};

use tokens::{Directive, Kind, Token, Tokens};

/// The TTL of a record that has none, in seconds.
const DEFAULT_TTL: u32 = 3600;

/// Why a text is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// What is wrong.
    reason: std::borrow::Cow<'static, str>,
    /// At which word.
    word: Box<[u8]>,
    line: u32,
    column: u32,
}

impl std::error::Error for RecordError {}

impl std::fmt::Display for RecordError {
    /// As miekg/dns `ParseError`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RecordError { reason, word, line, column } = self;
        write!(f, "dns: {reason}: \"{}\" at line: {line}:{column}", word.escape_ascii())
    }
}

impl RecordError {
    #[cold]
    fn at(reason: impl Into<std::borrow::Cow<'static, str>>, token: &Token) -> RecordError {
        let Token { text, line, column, .. } = token;
        RecordError { reason: reason.into(), word: text.as_slice().into(), line: *line, column: *column }
    }
}

type Result<T> = std::result::Result<T, RecordError>;

/// What is read of a line before its data.
struct Head {
    owner: Option<NameRef>,
    class: Class,
    ttl: u32,
}

/// The state of a text that is read.
struct Reader<'t, 'r> {
    tokens: Tokens<'t>,
    reply: &'r mut Reply,
    question: &'r Question,
    /// What names end in that do not end in a dot; with its final zero.
    origin: smallvec::SmallVec<[u8; 16]>,
    /// `$TTL`
    ttl: u32,
}

/// What may come next in a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// An owner, or what may stand without one.
    Line,
    /// A blank behind the owner.
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

/// Adds the first record of `text` to a section of a reply, and returns it. `question` is the reply's: names that
/// are its name refer to it. After an error the reply is of no use.
pub fn add_record(text: &[u8], section: Section, question: &Question, reply: &mut Reply) -> Result<Record> {
    let tokens = Tokens::new(text);
    let mut reader = Reader { tokens, reply, question, origin: smallvec::SmallVec::from_slice(&[0]), ttl: DEFAULT_TTL };
    let record = reader.record(section)?;
    reply.push(record);
    Ok(record)
}

impl Reader<'_, '_> {
    /// The states are those of miekg/dns `ZoneParser.Next`.
    fn record(&mut self, section: Section) -> Result<Record> {
        let mut expect = Expect::Line;
        let mut head = Head { owner: None, class: Class::IN, ttl: self.ttl };
        loop {
            let token = self.tokens.next();
            if let Kind::Error(reason) = token.kind {
                return Err(RecordError::at(reason, &token));
            }
            if let Expect::Data(rtype) = expect {
                // Without an owner, miekg/dns makes a record that cannot be read.
                let owner = head.owner.ok_or_else(|| RecordError::at("no owner", &token))?;
                let rdata = self.data(rtype, head.class, &token)?;
                // A quote may be open to the end of the text and hold nothing.
                if matches!(rdata, Rdata::Bytes(bytes) if self.reply.bytes(bytes).is_empty()) {
                    return Err(RecordError::at("no data", &token));
                }
                return Ok(Record { section, owner, rtype, class: head.class, ttl: head.ttl, rdata });
            }
            if token.kind == Kind::End {
                return Err(RecordError::at("no record", &token));
            }
            expect = self.word(expect, &token, &mut head)?;
        }
    }

    /// A word before the data; returns what comes next.
    fn word(&mut self, expect: Expect, token: &Token, head: &mut Head) -> Result<Expect> {
        let blank = |next, reason: &'static str| match token.kind {
            Kind::Blank => Ok(next),
            _ => Err(RecordError::at(reason, token)),
        };
        match expect {
            Expect::Line => {
                (head.ttl, head.class) = (self.ttl, Class::IN);
                match token.kind {
                    Kind::LineEnd | Kind::Blank => Ok(Expect::Line),
                    Kind::Owner => {
                        head.owner = Some(self.name(token, "bad owner name")?);
                        Ok(Expect::BlankBeforeAny)
                    }
                    Kind::Directive(directive) => self.directive(directive).map(|()| Expect::Line),
                    Kind::Type(rtype) => Ok(Expect::Data(rtype)),
                    Kind::Class(class) => {
                        head.class = class;
                        Ok(Expect::BlankBeforeNoClass)
                    }
                    Kind::Word => {
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
                Kind::Type(rtype) => Ok(Expect::Data(rtype)),
                Kind::Class(class) if matches!(expect, Expect::Any | Expect::NoTtl) => {
                    head.class = class;
                    Ok(if expect == Expect::Any { Expect::BlankBeforeNoClass } else { Expect::BlankBeforeType })
                }
                Kind::Word if matches!(expect, Expect::Any | Expect::NoClass) => {
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

    /// A line that is no record.
    fn directive(&mut self, directive: Directive) -> Result<()> {
        let (name, no_blank, no_value) = match directive {
            Directive::Ttl => ("$TTL", "no blank after $TTL-directive", "expecting $TTL value, not this..."),
            Directive::Origin => {
                ("$ORIGIN", "no blank after $ORIGIN-directive", "expecting $ORIGIN value, not this...")
            }
            Directive::Include => ("$INCLUDE", "no blank after $INCLUDE-directive", "$INCLUDE directive not allowed"),
            Directive::Generate => {
                ("$GENERATE", "no blank after $GENERATE-directive", "$GENERATE directive not allowed")
            }
        };
        let blank = self.tokens.next();
        if blank.kind != Kind::Blank {
            return Err(RecordError::at(no_blank, &blank));
        }
        let value = self.tokens.next();
        if value.kind != Kind::Word || matches!(directive, Directive::Include | Directive::Generate) {
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

    /// Nothing more in the line (`slurpRemainder`).
    fn rest(&mut self) -> Result<()> {
        let mut token = self.tokens.next();
        if token.kind == Kind::Blank {
            token = self.tokens.next();
        }
        match token.kind {
            Kind::LineEnd | Kind::End => Ok(()),
            _ => Err(RecordError::at("garbage after rdata", &token)),
        }
    }

    /// A word as a name in the reply.
    fn name(&mut self, token: &Token, reason: &'static str) -> Result<NameRef> {
        let mut wire = [0; MAX_LEN];
        let text = if let Kind::Error(_) = token.kind { &[] } else { token.text.as_slice() };
        let name = name::wire(text, &self.origin, &mut wire).ok_or_else(|| RecordError::at(reason, token))?;
        let question = self.question.name().as_wire();
        // Length bytes are below `A`, so folding them changes nothing.
        if name.eq_ignore_ascii_case(question) {
            return Ok(NameRef::QUESTION);
        }
        Ok(self.reply.name(&[&name[..name.len() - 1]], None))
    }
}

fn ttl(token: &Token) -> Result<u32> {
    seconds(&token.text).ok_or_else(|| RecordError::at("not a TTL", token))
}

/// `1h30m`, or seconds.
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
