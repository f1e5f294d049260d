//! Reads the most common data of records without tokens: words of ordinary characters, and strings in quotes.
//!
//! The result is that of [`super::add_record`]. For any other text there is none, and the caller has to use that
//! function.

use std::net::{Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use super::name::wire;
use super::tokens::{IS_SPECIAL, decimal};
use super::{MAX_STRING, store_name};
use crate::wire::name::MAX_LEN;
use crate::wire::query::Question;
use crate::wire::record::{NameRef, Rdata};
use crate::wire::reply::Reply;
use crate::wire::types::Type;

/// Returns whether the data of a type can be read here.
pub fn is_plain_type(rtype: Type) -> bool {
    matches!(
        rtype,
        Type::A | Type::AAAA | Type::CNAME | Type::NS | Type::PTR | Type::MX | Type::SRV | Type::TXT | Type::SPF
    )
}

/// Stores the name of a text in the reply to a question. Returns `None` if its text has special characters or is no
/// name.
pub fn plain_name(text: &[u8], question: &Question, reply: &mut Reply) -> Option<NameRef> {
    let mut buffer = [0; MAX_LEN];
    Some(store_name(name_of(text, &mut buffer)?, question, reply))
}

/// Returns the data of a record of this type, and stores what it refers to in the reply. Returns `None` for a text with
/// special characters, or with an error.
pub fn plain_data(rtype: Type, text: &[u8], question: &Question, reply: &mut Reply) -> Option<Rdata> {
    if matches!(rtype, Type::TXT | Type::SPF) {
        return strings(text, reply);
    }
    let mut words = text.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let mut word = || words.next();
    let number = |word: Option<&[u8]>| decimal(word?, u16::MAX.into()).map(|number| number as u16);
    let data = match rtype {
        Type::A => Rdata::A(std::str::from_utf8(word()?).ok()?.parse::<Ipv4Addr>().ok()?.octets()),
        Type::AAAA => Rdata::Aaaa(std::str::from_utf8(word()?).ok()?.parse::<Ipv6Addr>().ok()?.octets()),
        Type::CNAME | Type::NS | Type::PTR => Rdata::Name(plain_name(word()?, question, reply)?),
        Type::SRV => {
            let [priority, weight, port] = [number(word())?, number(word())?, number(word())?];
            Rdata::Srv { priority, weight, port, target: plain_name(word()?, question, reply)? }
        }
        Type::MX => {
            let preference = number(word())?.to_be_bytes();
            let (mut buffer, mut data) = ([0; MAX_LEN], SmallVec::<[u8; 256]>::new());
            data.extend_from_slice(&preference);
            data.extend_from_slice(name_of(word()?, &mut buffer)?);
            Rdata::Bytes(reply.store(&data))
        }
        _ => return None,
    };
    word().is_none().then_some(data)
}

/// Reads a name whose characters stand for themselves.
fn name_of<'w>(text: &[u8], buffer: &'w mut [u8; MAX_LEN]) -> Option<&'w [u8]> {
    let is_special = text.iter().any(|byte| IS_SPECIAL[usize::from(*byte)]);
    if is_special || text == b"@" { None } else { wire(text, &[0], buffer) }
}

/// Reads character strings.
fn strings(text: &[u8], reply: &mut Reply) -> Option<Rdata> {
    let mut data = SmallVec::<[u8; 256]>::new();
    let mut rest = text;
    loop {
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        rest = &rest[blanks..];
        let Some(first) = rest.first() else { break };
        let string = if *first == b'"' {
            let end = rest[1..].iter().position(|byte| matches!(byte, b'"' | b'\\' | b'\n' | b'\r'))?;
            let (string, after) = rest[1..].split_at(end);
            // The next word starts after a blank.
            if after[0] != b'"' || !matches!(after.get(1), None | Some(b' ' | b'\t')) {
                return None;
            }
            rest = &after[1..];
            string
        } else {
            let end = rest.iter().position(|byte| IS_SPECIAL[usize::from(*byte)]).unwrap_or(rest.len());
            let (string, after) = rest.split_at(end);
            if !matches!(after.first(), None | Some(b' ' | b'\t')) {
                return None;
            }
            rest = after;
            string
        };
        data.push(u8::try_from(string.len()).ok().filter(|len| usize::from(*len) <= MAX_STRING)?);
        data.extend_from_slice(string);
    }
    if data.is_empty() { None } else { Some(Rdata::Bytes(reply.store(&data))) }
}
