//! Reads the data of a record from its words, by type. Each type is a list of fields.

use smallvec::SmallVec;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::name::{three_digits, wire};
use super::tokens::{RecordToken, WordKind, decimal};
use super::{MAX_STRING, RecordError, RecordReader, seconds};
use crate::wire::hickory;
use crate::wire::name::{MAX_LEN, Name};
use crate::wire::record::{Rdata, SoaNumbers};
use crate::wire::types::{Class, Type};

/// Character strings as written, with their escapes.
type Strings = SmallVec<[SmallVec<[u8; 64]>; 2]>;

/// The data of one record.
type Bytes = SmallVec<[u8; 256]>;

/// The limit on the length of data.
const MAX_DATA: usize = 65_535;

/// A part of a record's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataField {
    /// Numbers of this number of bits.
    U8,
    U16,
    U32,
    /// A name that is never compressed.
    Name,
    /// A DNSSEC algorithm, by number or name.
    Algorithm,
    /// The type of a certificate, by number or name.
    CertificateType,
    /// A type, by name or number.
    Covered,
    /// Seconds since 1970, or a date and time.
    Time,
    /// An IPv4 address.
    Address,
    /// Four groups of four hexadecimal digits.
    Groups,
    /// Six or eight bytes in hexadecimal, with dashes.
    Eui(usize),
    /// A character string that must be quoted.
    Quoted,
    /// A word as a character string.
    Word,
    /// A word as hexadecimal after its length; a dash is empty.
    Salt,
    /// A word as base32hex after its length.
    Hash,
    /// The rest of the line: character strings.
    Strings,
    /// The rest: the first character string.
    FirstString,
    /// The rest: two character strings.
    TwoStrings,
    /// The rest: one string without its length.
    RawString,
    /// The rest: hexadecimal.
    Hex,
    /// The rest: base64.
    Base64,
    /// The rest: types, as a bit map (RFC 4034 4.1.2).
    Types,
}

/// Returns the fields of a type's data, or `None` for types that are not read by fields.
fn fields(rtype: Type) -> Option<&'static [DataField]> {
    use DataField::*;
    Some(match rtype {
        Type::DNAME | Type::MB | Type::MD | Type::MF | Type::MG | Type::MR | Type::NSAP_PTR => &[Name],
        Type::MX | Type::RT | Type::AFSDB | Type::KX | Type::LP => &[U16, Name],
        Type::PX => &[U16, Name, Name],
        Type::RP | Type::MINFO | Type::TALINK => &[Name, Name],
        Type::TXT | Type::SPF | Type::AVC | Type::NINFO | Type::RESINFO => &[Strings],
        Type::HINFO | Type::ISDN => &[TwoStrings],
        Type::UINFO => &[FirstString],
        Type::X25 => &[Word],
        Type::NAPTR => &[U16, U16, Quoted, Quoted, Quoted, Name],
        Type::CAA => &[U8, Word, RawString],
        Type::URI => &[U16, U16, RawString],
        Type::DS | Type::CDS | Type::DLV | Type::TA => &[U16, Algorithm, U8, Hex],
        Type::DNSKEY | Type::CDNSKEY | Type::KEY | Type::RKEY => &[U16, U8, U8, Base64],
        Type::TLSA | Type::SMIMEA => &[U8, U8, U8, Hex],
        Type::SSHFP => &[U8, U8, Hex],
        Type::ZONEMD => &[U32, U8, U8, Hex],
        Type::OPENPGPKEY | Type::DHCID => &[Base64],
        Type::EID | Type::NIMLOC => &[Hex],
        Type::CERT => &[CertificateType, U16, Algorithm, Base64],
        Type::NSEC | Type::NXT => &[Name, Types],
        Type::CSYNC => &[U32, U16, Types],
        Type::NSEC3 => &[U8, U8, U16, Salt, Hash, Types],
        Type::NSEC3PARAM => &[U8, U8, U16, Salt],
        Type::RRSIG | Type::SIG => &[Covered, Algorithm, U8, U32, Time, Time, U16, Name, Base64],
        Type::UID | Type::GID => &[U32],
        Type::NID | Type::L64 => &[U16, Groups],
        Type::L32 => &[U16, Address],
        Type::EUI48 => &[Eui(6)],
        Type::EUI64 => &[Eui(8)],
        _ => return None,
    })
}

impl DataField {
    /// Whether the field takes the rest of the line.
    fn is_rest(self) -> bool {
        use DataField::*;
        matches!(self, Strings | FirstString | TwoStrings | RawString | Hex | Base64 | Types)
    }
}

impl RecordReader<'_, '_> {
    /// Reads the data of a type; `last` is the token after the type.
    pub(super) fn data(&mut self, rtype: Type, class: Class, last: &RecordToken) -> Result<Rdata, RecordError> {
        let first = self.tokens.peek();
        if first.text.is_empty() && !matches!(first.kind, WordKind::Error(_)) {
            // miekg/dns accepts empty data, for records of updates. A client could not read the answer.
            return Err(RecordError::at("no data", first));
        }
        if last.kind == WordKind::LineEnd {
            return Err(RecordError::at("unexpected newline", last));
        }
        if *first.text == *b"\\#" {
            return self.generic(rtype, class);
        }
        match rtype {
            Type::A => {
                let token = self.tokens.next();
                let address = ascii(&token).and_then(|text| text.parse::<Ipv4Addr>().ok());
                let address = address.ok_or_else(|| RecordError::at("bad A A", &token))?;
                self.rest()?;
                Ok(Rdata::A(address.octets()))
            }
            Type::AAAA => {
                let token = self.tokens.next();
                let address = ascii(&token).and_then(|text| text.parse::<Ipv6Addr>().ok());
                let address = address.ok_or_else(|| RecordError::at("bad AAAA AAAA", &token))?;
                self.rest()?;
                Ok(Rdata::Aaaa(address.octets()))
            }
            Type::CNAME | Type::NS | Type::PTR => {
                let token = self.tokens.next();
                let name = self.name(
                    &token,
                    match rtype {
                        Type::CNAME => "bad CNAME Target",
                        Type::NS => "bad NS Ns",
                        _ => "bad PTR Ptr",
                    },
                )?;
                self.rest()?;
                Ok(Rdata::Name(name))
            }
            Type::SRV => {
                let mut numbers = [0; 3];
                for (number, reason) in numbers.iter_mut().zip(["bad SRV Priority", "bad SRV Weight", "bad SRV Port"]) {
                    let token = self.tokens.next();
                    let value = decimal(&token.text, u16::MAX.into());
                    *number = value.ok_or_else(|| RecordError::at(reason, &token))? as u16;
                    self.tokens.next();
                }
                let token = self.tokens.next();
                let target = self.name(&token, "bad SRV Target")?;
                self.rest()?;
                let [priority, weight, port] = numbers;
                Ok(Rdata::Srv { priority, weight, port, target })
            }
            Type::SOA => self.soa(),
            Type::SVCB | Type::HTTPS => self.service(rtype),
            _ => self.by_fields(rtype),
        }
    }

    fn soa(&mut self) -> Result<Rdata, RecordError> {
        let token = self.tokens.next();
        let mname = self.name(&token, "bad SOA Ns")?;
        self.tokens.next();
        let token = self.tokens.next();
        let rname = self.name(&token, "bad SOA Mbox")?;
        let mut numbers = [0; 5];
        for (at, number) in numbers.iter_mut().enumerate() {
            self.tokens.next();
            let token = self.tokens.next();
            let value = decimal(&token.text, u32::MAX.into()).map(|value| value as u32);
            // All numbers except the serial may have units; a missing one at the end is zero.
            let value = value.or_else(|| if at > 0 { seconds(&token.text) } else { None });
            *number = value.ok_or_else(|| RecordError::at("bad SOA zone parameter", &token))?;
        }
        self.rest()?;
        let [serial, refresh, retry, expire, minimum] = numbers;
        let numbers = self.reply.store_soa_numbers(SoaNumbers { serial, refresh, retry, expire, minimum });
        Ok(Rdata::Soa { mname, rname, numbers })
    }

    /// Reads data of any type in hexadecimal (RFC 3597 5).
    fn generic(&mut self, rtype: Type, class: Class) -> Result<Rdata, RecordError> {
        let mark = self.tokens.next();
        self.tokens.next();
        let length = self.tokens.next();
        let count = decimal(&length.text, MAX_DATA as u64);
        let count = count.ok_or_else(|| RecordError::at("bad RFC3597 Rdata ", &length))?;
        let mut data = Bytes::new();
        self.hex("bad RFC3597 Rdata", &mut data)?;
        let is_good = match fields(rtype) {
            Some(fields) => !data.is_empty() && fits(fields, &data),
            None => hickory::is_data(rtype.0, class.0, &data),
        };
        let is_good = is_good && data.len() as u64 == count;
        if !is_good {
            return Err(RecordError::at("bad RFC3597 Rdata", &mark));
        }
        Ok(Rdata::Bytes(self.reply.store(&data)))
    }

    /// Reads the data of SVCB and HTTPS.
    fn service(&mut self, rtype: Type) -> Result<Rdata, RecordError> {
        let mut text = String::new();
        let first = self.tokens.peek().clone();
        loop {
            let token = self.tokens.next();
            match token.kind {
                WordKind::LineEnd | WordKind::End => break,
                WordKind::Error(reason) => return Err(RecordError::at(reason, &token)),
                _ => text.push_str(std::str::from_utf8(&token.text).unwrap_or("\u{fffd}")),
            }
        }
        let data = hickory::service_data(rtype.0, &text);
        let data = data.ok_or_else(|| RecordError::at(format!("bad {rtype} value"), &first))?;
        Ok(Rdata::Bytes(self.reply.store(&data)))
    }

    fn by_fields(&mut self, rtype: Type) -> Result<Rdata, RecordError> {
        let Some(fields) = fields(rtype) else {
            let token = self.tokens.next();
            return Err(RecordError::at(format!("{rtype} records are read as RFC 3597 writes them only"), &token));
        };
        let mut data = Bytes::new();
        for (at, field) in fields.iter().enumerate() {
            let reason = || format!("bad {rtype} field {}", at + 1);
            if field.is_rest() {
                self.rest_field(*field, reason, &mut data)?;
            } else {
                if at > 0 {
                    self.tokens.next();
                }
                self.field(*field, reason, &mut data)?;
            }
            if data.len() > MAX_DATA {
                let token = self.tokens.next();
                return Err(RecordError::at(reason(), &token));
            }
        }
        if !fields.last().is_some_and(|field| field.is_rest()) {
            self.rest()?;
        }
        Ok(Rdata::Bytes(self.reply.store(&data)))
    }

    /// Reads a field that is a word.
    fn field(&mut self, field: DataField, reason: impl Fn() -> String, data: &mut Bytes) -> Result<(), RecordError> {
        let token = self.tokens.next();
        if field == DataField::Quoted {
            return self.quoted(&token, reason, data);
        }
        self.word_field(field, &token, data).ok_or_else(|| RecordError::at(reason(), &token))
    }

    fn word_field(&self, field: DataField, token: &RecordToken, data: &mut Bytes) -> Option<()> {
        if matches!(token.kind, WordKind::Error(_)) {
            return None;
        }
        let text = &token.text;
        match field {
            DataField::U8 => data.push(decimal(text, u8::MAX.into())? as u8),
            DataField::U16 => data.extend((decimal(text, u16::MAX.into())? as u16).to_be_bytes()),
            DataField::U32 => data.extend((decimal(text, u32::MAX.into())? as u32).to_be_bytes()),
            DataField::Name => {
                let mut buffer = [0; MAX_LEN];
                data.extend_from_slice(wire(text, &self.origin, &mut buffer)?);
            }
            DataField::Algorithm => {
                let number = decimal(text, u8::MAX.into()).map(|number| number as u8);
                data.push(number.or_else(|| by_name(text, ALGORITHMS))?);
            }
            DataField::CertificateType => {
                let number = decimal(text, u16::MAX.into()).map(|number| number as u16);
                let number = number.or_else(|| by_name(text, CERTIFICATES).map(u16::from))?;
                data.extend(number.to_be_bytes());
            }
            DataField::Covered => data.extend(ascii(token).and_then(Type::from_mnemonic)?.0.to_be_bytes()),
            DataField::Time => data.extend(time(text)?.to_be_bytes()),
            DataField::Address => data.extend(ascii(token)?.parse::<Ipv4Addr>().ok()?.octets()),
            DataField::Groups => data.extend(groups(text)?.to_be_bytes()),
            DataField::Eui(length) => {
                let bytes = text.chunks(3).take(length);
                let is_good =
                    text.len() == length * 3 - 1 && text.chunks(3).all(|chunk| matches!(chunk, [_, _] | [_, _, b'-']));
                for pair in bytes.filter(|_| is_good) {
                    data.push(hex_pair(pair[0], pair[1])?);
                }
                is_good.then_some(())?;
            }
            DataField::Word => {
                (token.kind == WordKind::Word).then_some(())?;
                string(text, MAX_STRING, data)?;
            }
            DataField::Salt => {
                let salt: &[u8] = if **text == *b"-" { &[] } else { text };
                (!text.is_empty() && salt.len().is_multiple_of(2)).then_some(())?;
                data.push(u8::try_from(salt.len() / 2).ok()?);
                for pair in salt.chunks(2) {
                    data.push(hex_pair(pair[0], pair[1])?);
                }
            }
            DataField::Hash => {
                let hash = base32(text)?;
                data.push(u8::try_from(hash.len()).ok().filter(|length| *length > 0)?);
                data.extend_from_slice(&hash);
            }
            _ => return None,
        }
        Some(())
    }

    /// Reads a character string in quotes; `token` is the opening quote.
    fn quoted(
        &mut self, token: &RecordToken, reason: impl Fn() -> String, data: &mut Bytes,
    ) -> Result<(), RecordError> {
        let fail = |token: &RecordToken| RecordError::at(reason(), token);
        if token.kind != WordKind::Quote {
            return Err(fail(token));
        }
        let text = self.tokens.next();
        match text.kind {
            WordKind::Quote => data.push(0),
            WordKind::Word => {
                string(&text.text, MAX_STRING, data).ok_or_else(|| fail(&text))?;
                let close = self.tokens.next();
                if close.kind != WordKind::Quote {
                    return Err(fail(&close));
                }
            }
            _ => return Err(fail(&text)),
        }
        Ok(())
    }

    /// Reads a field that takes the rest of the line.
    fn rest_field(
        &mut self, field: DataField, reason: impl Fn() -> String, data: &mut Bytes,
    ) -> Result<(), RecordError> {
        match field {
            DataField::Hex => return self.hex(&reason(), data),
            DataField::Base64 => {
                let (text, last) = self.ending(&reason())?;
                let decoded = base64(&text).ok_or_else(|| RecordError::at(reason(), &last))?;
                data.extend_from_slice(&decoded);
                return Ok(());
            }
            DataField::Types => return self.types(&reason(), data),
            _ => {}
        }
        let (strings, last) = self.strings(&reason())?;
        let fail = || RecordError::at(reason(), &last);
        match (field, strings.as_slice()) {
            (DataField::RawString, [only]) => raw_string(only, data).ok_or_else(fail)?,
            (DataField::RawString, _) => return Err(fail()),
            (DataField::FirstString, [first, ..]) => string(first, MAX_STRING, data).ok_or_else(fail)?,
            (DataField::FirstString, []) => data.push(0),
            (DataField::TwoStrings, []) => data.extend_from_slice(&[0, 0]),
            (DataField::TwoStrings, strings) => {
                // One string with spaces counts as several.
                let words = match strings {
                    [only] => only.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect(),
                    _ => Vec::new(),
                };
                let strings: Vec<&[u8]> = match words.len() {
                    0 | 1 => strings.iter().map(|string| &**string).collect(),
                    _ => words,
                };
                string(strings[0], MAX_STRING, data).ok_or_else(fail)?;
                string(&strings[1..].join(&b' '), MAX_STRING, data).ok_or_else(fail)?;
            }
            (_, strings) => {
                for text in strings {
                    string(text, MAX_STRING, data).ok_or_else(fail)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the strings up to the end of the line, with their escapes; words longer than 255 bytes are split.
    fn strings(&mut self, reason: &str) -> Result<(Strings, RecordToken), RecordError> {
        let mut strings = SmallVec::new();
        let (mut quoted, mut empty) = (false, false);
        loop {
            let token = self.tokens.next();
            match token.kind {
                WordKind::LineEnd | WordKind::End if quoted => return Err(RecordError::at(reason.to_owned(), &token)),
                WordKind::LineEnd | WordKind::End => return Ok((strings, token)),
                // An escape has to have a byte after it.
                WordKind::Word if token.text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1 => {
                    return Err(RecordError::at(reason.to_owned(), &token));
                }
                WordKind::Word => {
                    empty = false;
                    let mut rest = &*token.text;
                    while let Some(end) = string_end(rest).filter(|end| *end < rest.len()) {
                        strings.push(SmallVec::from_slice(&rest[..end]));
                        rest = &rest[end..];
                    }
                    strings.push(SmallVec::from_slice(rest));
                }
                WordKind::Blank if !quoted => {}
                WordKind::Quote => {
                    if empty && quoted {
                        strings.push(SmallVec::new());
                    }
                    (quoted, empty) = (!quoted, true);
                }
                _ => return Err(RecordError::at(reason.to_owned(), &token)),
            }
        }
    }

    /// Reads the words up to the end of the line, joined.
    fn ending(&mut self, reason: &str) -> Result<(Vec<u8>, RecordToken), RecordError> {
        let mut text = Vec::new();
        loop {
            let token = self.tokens.next();
            match token.kind {
                WordKind::LineEnd | WordKind::End => return Ok((text, token)),
                WordKind::Word => text.extend_from_slice(&token.text),
                WordKind::Blank => {}
                _ => return Err(RecordError::at(reason.to_owned(), &token)),
            }
        }
    }

    fn hex(&mut self, reason: &str, data: &mut Bytes) -> Result<(), RecordError> {
        let (text, last) = self.ending(reason)?;
        for pair in text.chunks(2) {
            let byte = match pair {
                [high, low] => hex_pair(*high, *low),
                _ => None,
            };
            data.push(byte.ok_or_else(|| RecordError::at(reason.to_owned(), &last))?);
        }
        Ok(())
    }

    fn types(&mut self, reason: &str, data: &mut Bytes) -> Result<(), RecordError> {
        let mut types: Vec<u16> = Vec::new();
        loop {
            let token = self.tokens.next();
            match token.kind {
                WordKind::LineEnd | WordKind::End => break,
                WordKind::Blank => {}
                WordKind::Word => {
                    let rtype = ascii(&token).and_then(Type::from_mnemonic);
                    types.push(rtype.ok_or_else(|| RecordError::at(reason.to_owned(), &token))?.0);
                }
                _ => return Err(RecordError::at(reason.to_owned(), &token)),
            }
        }
        types.sort_unstable();
        for window in types.chunk_by(|one, other| one >> 8 == other >> 8) {
            let mut bits = [0_u8; 32];
            for rtype in window {
                bits[usize::from(rtype & 0xff) / 8] |= 0x80 >> (rtype & 7);
            }
            let length = bits.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            data.extend_from_slice(&[(window[0] >> 8) as u8, length as u8]);
            data.extend_from_slice(&bits[..length]);
        }
        Ok(())
    }
}

/// Whether data in wire form consists of these fields.
fn fits(fields: &[DataField], data: &[u8]) -> bool {
    let mut rest = data;
    let mut is_good = true;
    for field in fields {
        let after = match field {
            DataField::U8 | DataField::Algorithm => rest.get(1..),
            DataField::U16 | DataField::CertificateType | DataField::Covered => rest.get(2..),
            DataField::U32 | DataField::Time | DataField::Address => rest.get(4..),
            DataField::Groups => rest.get(8..),
            DataField::Eui(length) => rest.get(*length..),
            DataField::Name => Name::split_from(rest).ok().map(|(_, after)| after),
            DataField::Quoted | DataField::Word | DataField::Salt | DataField::Hash | DataField::FirstString => {
                after_string(rest)
            }
            DataField::TwoStrings => after_string(rest).and_then(after_string),
            DataField::Strings => {
                while let Some(after) = after_string(rest) {
                    rest = after;
                }
                Some(rest)
            }
            DataField::RawString | DataField::Hex | DataField::Base64 => Some(&[][..]),
            DataField::Types => {
                // The number of a window, its length of 1 to 32, and its bytes.
                while let Some(after) =
                    rest.get(1..).filter(|rest| matches!(rest.first(), Some(1..=32))).and_then(after_string)
                {
                    rest = after;
                }
                Some(rest)
            }
        };
        is_good &= after.is_some();
        rest = after.unwrap_or_default();
    }
    is_good && rest.is_empty()
}

/// Returns the rest after the character string at the start of data.
fn after_string(data: &[u8]) -> Option<&[u8]> {
    data.get(1 + usize::from(*data.first()?)..)
}

/// Returns a word as text, which must be ASCII.
fn ascii(token: &RecordToken) -> Option<&str> {
    std::str::from_utf8(&token.text).ok().filter(|_| !matches!(token.kind, WordKind::Error(_)))
}

/// Appends a string without its length, with its escapes resolved.
fn raw_string(text: &[u8], data: &mut Bytes) -> Option<()> {
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let byte = match (first, three_digits(rest)) {
            (b'\\', Some(byte)) => {
                rest = &rest[3..];
                byte
            }
            (b'\\', None) => {
                let Some((&escaped, after)) = rest.split_first() else { break };
                rest = after;
                escaped
            }
            (byte, _) => byte,
        };
        data.push(byte);
    }
    (data.len() <= MAX_DATA).then_some(())
}

/// Appends a character string of at most `most` bytes after its length.
fn string(text: &[u8], most: usize, data: &mut Bytes) -> Option<()> {
    let at = data.len();
    data.push(0);
    raw_string(text, data)?;
    let length = data.len() - at - 1;
    data[at] = u8::try_from(length).ok().filter(|_| length <= most)?;
    Some(())
}

/// Returns the end of the first 255 bytes of a string, or `None` if it is shorter or ends in a backslash.
fn string_end(text: &[u8]) -> Option<usize> {
    if text.len() <= MAX_STRING {
        return None;
    }
    let mut at = 0;
    for _ in 0..MAX_STRING {
        at += match text.get(at)? {
            b'\\' if three_digits(&text[at + 1..]).is_some() => 4,
            b'\\' => 2,
            _ => 1,
        };
    }
    (at <= text.len()).then_some(at)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    Some(hex_digit(high)? << 4 | hex_digit(low)?)
}

/// Decodes Base64 with its padding (RFC 4648 4).
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits = match text {
        [digits @ .., b'=', b'='] | [digits @ .., b'='] => digits,
        digits => digits,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    bits(digits, 6, digit)
}

/// Decodes Base32 with the extended hexadecimal alphabet, with or without padding (RFC 4648 7).
fn base32(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => Some(digit - b'0'),
        digit @ b'A'..=b'V' => Some(digit - b'A' + 10),
        _ => None,
    };
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |at| at + 1);
    bits(&text[..end], 5, digit)
}

/// Joins digits of this number of bits to bytes; bits that do not fill a byte are dropped.
fn bits(digits: &[u8], width: u32, digit: impl Fn(u8) -> Option<u8>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(digits.len() * width as usize / 8);
    let (mut value, mut held) = (0_u32, 0);
    for byte in digits {
        value = value << width | u32::from(digit(*byte)?);
        held += width;
        if held >= 8 {
            held -= 8;
            out.push((value >> held) as u8);
            value &= (1 << held) - 1;
        }
    }
    // A digit that completes no byte is an error.
    (held < width).then_some(out)
}

/// Reads `0014:4fff:ff20:ee64`.
fn groups(text: &[u8]) -> Option<u64> {
    let text = text.get(..19)?;
    let is_good = [4, 9, 14].iter().any(|at| text[*at] == b':');
    let digits = text.chunks(5).flat_map(|group| &group[..4]);
    let mut value = 0;
    for digit in digits.filter(|_| is_good) {
        value = value << 4 | u64::from(hex_digit(*digit)?);
    }
    is_good.then_some(value)
}

/// Reads `YYYYMMDDHHmmSS`, or seconds since 1970 modulo 2^32.
fn time(text: &[u8]) -> Option<u32> {
    if text.len() != 14 {
        return decimal(text, u32::MAX.into()).map(|seconds| seconds as u32);
    }
    let number = |range: std::ops::Range<usize>| decimal(&text[range], 9_999).map(|number| number as i64);
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(8..10)?, number(10..12)?, number(12..14)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let is_good = (1..=days_of_month).contains(&day) && hour < 24 && minute < 60 && second < 60;
    // Days since 1970-03-01 of the proleptic Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
            - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    is_good.then_some(seconds as u32)
}

/// Returns the number of a name in a table.
fn by_name(text: &[u8], names: &[(&str, u8)]) -> Option<u8> {
    names.iter().find(|(name, _)| text.eq_ignore_ascii_case(name.as_bytes())).map(|(_, number)| *number)
}

/// DNSSEC algorithms (RFC 8624, IANA).
const ALGORITHMS: &[(&str, u8)] = &[
    ("RSAMD5", 1),
    ("DH", 2),
    ("DSA", 3),
    ("RSASHA1", 5),
    ("DSA-NSEC3-SHA1", 6),
    ("RSASHA1-NSEC3-SHA1", 7),
    ("RSASHA256", 8),
    ("RSASHA512", 10),
    ("ECC-GOST", 12),
    ("ECDSAP256SHA256", 13),
    ("ECDSAP384SHA384", 14),
    ("ED25519", 15),
    ("ED448", 16),
    ("INDIRECT", 252),
    ("PRIVATEDNS", 253),
    ("PRIVATEOID", 254),
];

/// Types of certificates (RFC 4398 2.1).
const CERTIFICATES: &[(&str, u8)] = &[
    ("PKIX", 1),
    ("SPKI", 2),
    ("PGP", 3),
    ("IPIX", 4),
    ("ISPKI", 5),
    ("IPGP", 6),
    ("ACPKIX", 7),
    ("IACPKIX", 8),
    ("URI", 253),
    ("OID", 254),
];
