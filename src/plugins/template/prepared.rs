//! Records whose templates only insert fields into the usual form `OWNER [TTL] [IN] TYPE DATA`: their form is read when
//! the plugin is created, and a query needs neither a run of the template nor a parser of the whole record.
//!
//! The result is that of the template's run. For values with special characters, and for texts that are no record,
//! nothing is added, and the run decides.

use smallvec::SmallVec;

use super::data::{Matched, go_class, go_type};
use super::language::{GoTemplate, SimplePart};
use crate::plugins::regexp::Pattern;
use crate::wire::presentation::{DEFAULT_TTL, is_plain_type, plain_data, plain_name};
use crate::wire::{Class, NameRef, Question, Record, Reply, Section, Type};

/// The limit on the length of an owner's or a record's data in presentation form, in bytes.
const MAX_TEXT: usize = 1_024;

/// A prepared record.
pub(super) struct PreparedRecord {
    section: Section,
    /// The owner; without pieces, it is the name of the question.
    owner: Box<[Piece]>,
    ttl: u32,
    rtype: Type,
    data: Box<[Piece]>,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<[u8]>),
    Name,
    Zone,
    Class,
    Type,
    /// A group: its number in each pattern of the stanza.
    Group(Box<[usize]>),
}

/// The values of a query.
pub(super) struct PreparedValues<'q> {
    pub name: &'q str,
    pub zone: &'q str,
    pub class: Class,
    pub rtype: Type,
    pub matched: &'q Matched<'q>,
}

impl PreparedRecord {
    /// Prepares a record, if its template has the usual form.
    pub(super) fn of(section: Section, template: &GoTemplate, patterns: &[Pattern]) -> Option<PreparedRecord> {
        let mut pieces = Vec::new();
        for part in template.simple_parts()? {
            pieces.push(Piece::of(part, patterns)?);
        }
        // The owner ends at the first blank, which is in a text.
        let at = pieces.iter().position(|piece| matches!(piece, Piece::Text(text) if text.iter().any(is_blank)))?;
        let Piece::Text(text) = &pieces[at] else { return None };
        let text = text.clone();
        let blank = text.iter().position(is_blank)?;
        let mut owner = pieces[..at].to_vec();
        if blank > 0 {
            owner.push(Piece::Text(text[..blank].into()));
        }
        match owner.first()? {
            // A dollar sign begins a directive.
            Piece::Text(text) if text.first() == Some(&b'$') => return None,
            Piece::Text(_) | Piece::Name | Piece::Zone => {}
            Piece::Class | Piece::Type | Piece::Group(_) => return None,
        }
        if owner == [Piece::Name] {
            owner.clear();
        }
        let (ttl, rtype, first) = head(&text[blank..])?;
        let mut data = vec![Piece::Text(first.into())];
        data.extend_from_slice(&pieces[at + 1..]);
        Some(PreparedRecord { section, owner: owner.into(), ttl, rtype, data: data.into() })
    }

    /// Adds the record to the reply, and returns it. Returns `None` if the template has to run.
    pub(super) fn add(&self, values: &PreparedValues<'_>, question: &Question, reply: &mut Reply) -> Option<Record> {
        let mut text = SmallVec::<[u8; 256]>::new();
        let owner = if self.owner.is_empty() {
            NameRef::QUESTION
        } else {
            values.write(&self.owner, &mut text)?;
            plain_name(&text, question, reply)?
        };
        text.clear();
        values.write(&self.data, &mut text)?;
        let rdata = plain_data(self.rtype, &text, question, reply)?;
        let record = Record { section: self.section, owner, rtype: self.rtype, class: Class::IN, ttl: self.ttl, rdata };
        reply.push(record);
        Some(record)
    }
}

impl Piece {
    fn of(part: SimplePart<'_>, patterns: &[Pattern]) -> Option<Piece> {
        let (fields, index) = match part {
            SimplePart::Text(text) => return Some(Piece::Text(text.as_bytes().into())),
            SimplePart::Field(fields) => (fields, None),
            SimplePart::Index(fields, index) => (fields, Some(index)),
        };
        let fields: SmallVec<[&str; 2]> = fields.iter().map(|field| &**field).collect();
        Some(match (&fields[..], index) {
            (["Name"], None) => Piece::Name,
            (["Zone"], None) => Piece::Zone,
            (["Class"], None) => Piece::Class,
            (["Type"], None) => Piece::Type,
            (["Match"], Some(index)) => {
                if patterns.is_empty() || patterns.iter().any(|pattern| index >= pattern.regex.captures_len()) {
                    return None;
                }
                Piece::Group(patterns.iter().map(|_| index).collect())
            }
            (["Group", name], None) => {
                let number = |pattern: &Pattern| pattern.regex.capture_names().position(|known| known == Some(*name));
                let numbers: Option<Box<[usize]>> = patterns.iter().map(number).collect();
                Piece::Group(numbers.filter(|numbers| !numbers.is_empty())?)
            }
            _ => return None,
        })
    }
}

impl PreparedValues<'_> {
    /// Writes the text of pieces. Returns `None` if it is too long.
    fn write(&self, pieces: &[Piece], out: &mut SmallVec<[u8; 256]>) -> Option<()> {
        for piece in pieces {
            let text = match piece {
                Piece::Text(text) => text,
                Piece::Name => self.name.as_bytes(),
                Piece::Zone => self.zone.as_bytes(),
                Piece::Class => go_class(self.class).as_bytes(),
                Piece::Type => go_type(self.rtype).as_bytes(),
                Piece::Group(numbers) => match self.matched {
                    Matched::All => return None,
                    Matched::Pattern { groups, index, .. } => {
                        let place = groups.get(*numbers.get(*index)?);
                        place.and_then(|(from, to)| self.name.get(from..to)).unwrap_or("").as_bytes()
                    }
                },
            };
            if out.len() + text.len() > MAX_TEXT {
                return None;
            }
            out.extend_from_slice(text);
        }
        Some(())
    }
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Reads what is between the owner and the data. Returns the TTL, the type, and the beginning of the data.
fn head(text: &[u8]) -> Option<(u32, Type, &[u8])> {
    let (mut ttl, mut has_class, mut rest) = (None, false, text);
    loop {
        rest = &rest[rest.iter().position(|byte| !is_blank(byte))?..];
        let (word, after) = rest.split_at(rest.iter().position(is_blank)?);
        rest = after;
        let word = std::str::from_utf8(word).ok()?;
        if word.bytes().all(|byte| byte.is_ascii_digit()) && ttl.is_none() {
            ttl = Some(word.parse().ok()?);
        } else if word == "IN" && !has_class {
            has_class = true;
        } else {
            let rtype = Type::named(word).filter(|rtype| is_plain_type(*rtype))?;
            return Some((ttl.unwrap_or(DEFAULT_TTL), rtype, rest));
        }
    }
}
