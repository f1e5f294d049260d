//! Parses responses of upstreams into [`Reply`].
//!
//! * The header and the question are checked first ([`Message::parse`]), which suffices to decide whether the message
//!   answers the question.
//! * Pointers are followed backwards only, and a limited number of times; nothing is reserved for the counts that the
//!   message claims.
//! * Names in data are expanded for every type, so that a record is valid anywhere in a response of ours.

use super::header::{self, flag, u16_at};
use super::name::{MAX_LABEL, MAX_LEN};
use super::query::Question;
use super::record::{NameRef, Rdata, Record, Section};
use super::reply::Reply;
use super::size::MAX_MESSAGE;
use super::types::{Class, Rcode, Type};

/// The maximum number of pointers in a name. A name of 255 bytes has at most 127 labels.
const MAX_JUMPS: usize = 127;
/// The number of offsets of names that are remembered, so that a name that is the target of many pointers is stored
/// once.
const REMEMBERED: usize = 16;
/// The maximum TTL in seconds (RFC 2181 8: "a 31 bit number"). A larger value counts as zero.
const MAX_TTL: u32 = 0x7fff_ffff;

/// An error in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The message is not a response to the question.
    #[error("it is not a response to the question")]
    WrongQuestion,
    /// The message ends before its records.
    #[error("it is cut off")]
    Short,
    /// The data of a record does not match its type.
    #[error("a record in it is malformed")]
    Malformed,
}

/// A response whose header and question have been checked.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// The offset of the first record.
    records_at: usize,
}

impl<'a> Message<'a> {
    /// Checks a message that may be a response to `question`. The ID is not compared.
    ///
    /// An error may come without the question: servers that do not understand a query respond so.
    pub fn parse(bytes: &'a [u8], question: &Question) -> Result<Message<'a>, MessageError> {
        let flags = u16_at(bytes, 2);
        if bytes.len() < header::LEN || flags & flag::QR == 0 || header::opcode(bytes).0 != 0 {
            return Err(MessageError::WrongQuestion);
        }
        let message = Message { bytes, records_at: header::LEN };
        match u16_at(bytes, 4) {
            1 => {}
            0 if message.counts() == [0; 3] && matches!(message.rcode().0, 1 | 2 | 4 | 5) => return Ok(message),
            _ => return Err(MessageError::WrongQuestion),
        }
        let name = question.name().as_wire();
        let sent = bytes.get(header::LEN..header::LEN + name.len()).ok_or(MessageError::WrongQuestion)?;
        let numbers_at = header::LEN + name.len();
        let numbers = [u16_at(bytes, numbers_at), u16_at(bytes, numbers_at + 2)];
        // Length bytes are below `A`, so folding them changes nothing.
        if !sent.eq_ignore_ascii_case(name)
            || bytes.len() < numbers_at + 4
            || numbers != [question.qtype.0, question.qclass.0]
        {
            return Err(MessageError::WrongQuestion);
        }
        Ok(Message { bytes, records_at: numbers_at + 4 })
    }

    /// Returns a message that is known to answer `question`, because this server built it.
    pub fn trusted(bytes: &'a [u8], question: &Question) -> Message<'a> {
        debug_assert!(Message::parse(bytes, question).is_ok());
        Message { bytes, records_at: header::LEN + question.name().as_wire().len() + 4 }
    }

    /// Returns the bytes of the message.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the flag bits.
    pub fn flags(&self) -> u16 {
        u16_at(self.bytes, 2)
    }

    /// Returns whether TC is set.
    pub fn is_truncated(&self) -> bool {
        self.flags() & flag::TC != 0
    }

    /// Returns the response code, without the bits that an OPT may add.
    pub fn rcode(&self) -> Rcode {
        Rcode(self.flags() & 0x0f)
    }

    /// Returns the number of records that the header claims, by section.
    fn counts(&self) -> [u16; 3] {
        [6, 8, 10].map(|at| u16_at(self.bytes, at))
    }

    /// Returns whether the header claims answer records.
    pub fn has_answer(&self) -> bool {
        self.counts()[0] > 0
    }
}

impl Reply {
    /// Replaces this reply by the content of a message, except its OPT, which is hop-by-hop. After
    /// [`MessageError::Short`] the reply has the header only; after another error it is empty.
    pub fn read(&mut self, message: &Message<'_>) -> Result<(), MessageError> {
        self.clear();
        let read = self.read_records(message);
        match read {
            Ok(()) => {}
            Err(MessageError::Short) => self.clear_records(),
            Err(_) => self.clear(),
        }
        read
    }

    fn read_records(&mut self, message: &Message<'_>) -> Result<(), MessageError> {
        let flags = message.flags();
        self.rcode = message.rcode();
        self.authoritative = flags & flag::AA != 0;
        self.truncated = flags & flag::TC != 0;
        self.recursion_available = flags & flag::RA != 0;
        self.authentic_data = flags & flag::AD != 0;
        let mut reader = MessageReader {
            bytes: message.bytes,
            at: message.records_at,
            question_name_end: message.records_at.saturating_sub(4),
            remembered: [(0, NameRef::QUESTION); REMEMBERED],
            known: 0,
        };
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        for (section, count) in sections.into_iter().zip(message.counts()) {
            for _ in 0..count {
                if self.is_full() {
                    return Ok(());
                }
                reader.record(section, self)?;
            }
        }
        Ok(())
    }
}

/// Returns the lowest TTL in a message that this server wrote, its OPT excepted, in seconds. `None` without records.
pub fn lowest_ttl(message: &[u8]) -> Option<u32> {
    let (mut at, mut lowest) = (header::LEN, None);
    for _ in 0..u16_at(message, 4) {
        at = name_end(message, at)? + 4;
    }
    let records: usize = [6, 8, 10].iter().map(|&at| usize::from(u16_at(message, at))).sum();
    for _ in 0..records {
        let end = name_end(message, at)?;
        let fixed = message.get(end..end + 10)?;
        if Type(u16_at(fixed, 0)) != Type::OPT {
            let ttl = u32::from(u16_at(fixed, 4)) << 16 | u32::from(u16_at(fixed, 6));
            lowest = Some(lowest.map_or(ttl, |lowest: u32| lowest.min(ttl)));
        }
        at = end + 10 + usize::from(u16_at(fixed, 8));
    }
    lowest
}

/// Returns the offset after the name at `at`, after its root or its pointer.
fn name_end(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            192.. => return Some(at + 2),
            label => at += 1 + usize::from(label),
        }
    }
}

/// A cursor over a message.
struct MessageReader<'a> {
    bytes: &'a [u8],
    /// The offset of the next record.
    at: usize,
    /// The offset after the question's name.
    question_name_end: usize,
    /// Offsets of names that are already stored.
    remembered: [(u16, NameRef); REMEMBERED],
    /// The number of remembered names.
    known: usize,
}

impl MessageReader<'_> {
    /// Reads a record and adds it to the reply.
    fn record(&mut self, section: Section, reply: &mut Reply) -> Result<(), MessageError> {
        let (owner, at) = self.name(self.at, reply)?;
        let fixed = self.bytes.get(at..at + 10).ok_or(MessageError::Short)?;
        let rtype = Type(u16_at(fixed, 0));
        let class = Class(u16_at(fixed, 2));
        let ttl = u32::from(u16_at(fixed, 4)) << 16 | u32::from(u16_at(fixed, 6));
        let start = at + 10;
        let end = start + usize::from(u16_at(fixed, 8));
        let data = self.bytes.get(start..end).ok_or(MessageError::Short)?;
        self.at = end;
        if rtype == Type::OPT {
            // RFC 6891 6.1.3: the upper eight bits of the code.
            if section == Section::Additional {
                reply.rcode = Rcode(reply.rcode.0 & 0x0f | (ttl >> 24 << 4) as u16);
                reply.had_opt = true;
            }
            return Ok(());
        }
        let rdata = match (rtype, data.len()) {
            (_, 0) => Rdata::Bytes(reply.store(&[])),
            (Type::A, 4) if class == Class::IN => Rdata::A(data.try_into().map_err(|_| MessageError::Malformed)?),
            (Type::AAAA, 16) if class == Class::IN => {
                Rdata::Aaaa(data.try_into().map_err(|_| MessageError::Malformed)?)
            }
            (Type::A | Type::AAAA, _) if class == Class::IN => return Err(MessageError::Malformed),
            (Type::CNAME | Type::NS | Type::PTR, _) => Rdata::Name(self.data_name(start, end, reply)?),
            (Type::SOA, _) => {
                let (mname, at) = self.name(start, reply)?;
                let (rname, at) = self.name(at, reply)?;
                if at + 20 != end {
                    return Err(MessageError::Malformed);
                }
                Rdata::Soa { mname, rname, numbers: reply.store(&self.bytes[at..end]) }
            }
            (Type::SRV, ..7) => return Err(MessageError::Malformed),
            (Type::SRV, _) => {
                let [priority, weight, port] = [0, 2, 4].map(|at| u16_at(data, at));
                Rdata::Srv { priority, weight, port, target: self.data_name(start + 6, end, reply)? }
            }
            _ => self.opaque(rtype, start, end, reply)?,
        };
        let ttl = if ttl > MAX_TTL { 0 } else { ttl };
        reply.push(Record { section, owner, rtype, class, ttl, rdata });
        Ok(())
    }

    /// Stores data as bytes, with its names expanded.
    fn opaque(&self, rtype: Type, start: usize, end: usize, reply: &mut Reply) -> Result<Rdata, MessageError> {
        let Some(fields) = fields(rtype, &self.bytes[start..end]).ok_or(MessageError::Malformed)? else {
            return Ok(Rdata::Bytes(reply.store(&self.bytes[start..end])));
        };
        let mut data = smallvec::SmallVec::<[u8; 512]>::new();
        let mut at = start;
        for part in fields {
            let len = match part {
                RdataField::Name => {
                    at = self.append_name(at, &mut data)?;
                    0
                }
                RdataField::Names => {
                    while at < end && data.len() <= MAX_MESSAGE {
                        at = self.append_name(at, &mut data)?;
                    }
                    0
                }
                RdataField::Bytes(len) => len,
                RdataField::Text => 1 + usize::from(*self.bytes[..end].get(at).ok_or(MessageError::Malformed)?),
                RdataField::Rest => end.saturating_sub(at),
            };
            data.extend_from_slice(self.bytes[..end].get(at..at + len).ok_or(MessageError::Malformed)?);
            at += len;
        }
        // Expanded names may exceed the length of a record.
        if at != end || data.len() > MAX_MESSAGE {
            return Err(MessageError::Malformed);
        }
        Ok(Rdata::Bytes(reply.store(&data)))
    }

    /// Appends the name at `at`, expanded, and returns the offset after it.
    fn append_name(&self, at: usize, data: &mut smallvec::SmallVec<[u8; 512]>) -> Result<usize, MessageError> {
        let mut labels = [0; MAX_LEN];
        let expanded = self.expand(at, &mut labels)?;
        data.extend_from_slice(&labels[..expanded.len]);
        match expanded.tail {
            // The rest of the question's name is in this message, including its root.
            Some(tail) => data.extend_from_slice(&self.bytes[header::LEN + usize::from(tail)..self.question_name_end]),
            None => data.push(0),
        }
        Ok(expanded.end)
    }

    /// Stores a name that ends exactly where its data ends.
    fn data_name(&mut self, at: usize, end: usize, reply: &mut Reply) -> Result<NameRef, MessageError> {
        let (name, after) = self.name(at, reply)?;
        if after == end { Ok(name) } else { Err(MessageError::Malformed) }
    }

    /// Stores the name at `at` and returns it with the offset after it.
    fn name(&mut self, at: usize, reply: &mut Reply) -> Result<(NameRef, usize), MessageError> {
        // Most owners are a single pointer: to the question, or to a name that is already stored.
        let target = match self.bytes.get(at..at + 2) {
            Some(&[high, low]) if high >= 192 => usize::from(high & 0x3f) << 8 | usize::from(low),
            _ => at,
        };
        if target == header::LEN && self.question_name_end > header::LEN && target != at {
            return Ok((NameRef::QUESTION, at + 2));
        }
        let known = self.remembered[..self.known].iter().find(|(place, _)| usize::from(*place) == target);
        if let (Some(&(_, name)), true) = (known, target != at) {
            return Ok((name, at + 2));
        }
        let mut labels = [0; MAX_LEN];
        let expanded = self.expand(at, &mut labels)?;
        let name = match expanded {
            Expanded { len: 0, tail: Some(tail), .. } => NameRef::question(tail),
            Expanded { len, tail, .. } => reply.store_labels(&[&labels[..len]], tail),
        };
        // A pointer has 14 bits.
        if target < 0x4000 && self.known < REMEMBERED {
            self.remembered[self.known] = (target as u16, name);
            self.known += 1;
        }
        Ok((name, expanded.end))
    }

    /// Copies the labels of the name at `at`, up to its root or to a label of the question.
    fn expand(&self, at: usize, labels: &mut [u8; MAX_LEN]) -> Result<Expanded, MessageError> {
        let (mut from, mut len, mut end, mut jumps) = (at, 0, None, 0);
        loop {
            let byte = *self.bytes.get(from).ok_or(MessageError::Short)?;
            match byte {
                0 => return Ok(Expanded { len, tail: None, end: end.unwrap_or(from + 1) }),
                192.. => {
                    let low = *self.bytes.get(from + 1).ok_or(MessageError::Short)?;
                    let target = usize::from(byte & 0x3f) << 8 | usize::from(low);
                    end.get_or_insert(from + 2);
                    jumps += 1;
                    // Backwards only: a pointer forwards, or to itself, might never end.
                    if target >= from || target < header::LEN || jumps > MAX_JUMPS {
                        return Err(MessageError::Malformed);
                    }
                    if target < self.question_name_end {
                        let tail = target - header::LEN;
                        let rest = self.question_name_end - target;
                        if !self.is_label_of_question(tail) || len + rest > MAX_LEN {
                            return Err(MessageError::Malformed);
                        }
                        let end = end.unwrap_or(from + 2);
                        return Ok(Expanded { len, tail: Some(tail as u8), end });
                    }
                    from = target;
                }
                label if usize::from(label) <= MAX_LABEL => {
                    let size = 1 + usize::from(label);
                    let bytes = self.bytes.get(from..from + size).ok_or(MessageError::Short)?;
                    // One byte is left for the root.
                    if len + size >= MAX_LEN {
                        return Err(MessageError::Malformed);
                    }
                    labels[len..len + size].copy_from_slice(bytes);
                    (len, from) = (len + size, from + size);
                }
                _ => return Err(MessageError::Malformed),
            }
        }
    }

    /// Returns whether a label of the question's name starts at this offset in it; the root counts as a label.
    fn is_label_of_question(&self, tail: usize) -> bool {
        let mut at = 0;
        while at < tail {
            at += 1 + usize::from(self.bytes[header::LEN + at]);
        }
        at == tail
    }
}

/// A part of a record's data.
#[derive(Clone, Copy, Debug)]
enum RdataField {
    /// This number of bytes.
    Bytes(usize),
    /// A character string: its length, then its bytes.
    Text,
    /// A name.
    Name,
    /// Names, up to the end.
    Names,
    /// The remaining bytes.
    Rest,
}

/// Returns the fields of data that may contain names. The inner `None` is for data without names, or of an unknown type
/// (RFC 3597 3: it is opaque). The outer `None` means that the data is malformed.
///
/// Only a few types may be compressed (RFC 3597 4), but a sender may do so with any type that it knows, and a pointer
/// copied into another message would refer to another name: the names of every type are expanded, as in miekg/dns.
fn fields(rtype: Type, data: &[u8]) -> Option<Option<smallvec::SmallVec<[RdataField; 5]>>> {
    use RdataField::{Bytes, Name, Names, Rest, Text};
    let fields: &[RdataField] = match rtype.0 {
        // MD, MF, MB, MG, MR, NSAP-PTR, DNAME.
        3 | 4 | 7..=9 | 23 | 39 => &[Name],
        // MINFO, RP, TALINK.
        14 | 17 | 58 => &[Name, Name],
        // MX, AFSDB, RT, KX, LP: a preference or subtype.
        15 | 18 | 21 | 36 | 107 => &[Bytes(2), Name],
        // PX: a preference.
        26 => &[Bytes(2), Name, Name],
        // SIG, RRSIG: seven numbers, the signer, the signature.
        24 | 46 => &[Bytes(18), Name, Rest],
        // NXT, NSEC: a bitmap of types. TKEY, TSIG: the algorithm is a name.
        30 | 47 | 249 | 250 => &[Name, Rest],
        // NAPTR: order, preference, flags, services, regular expression.
        35 => &[Bytes(4), Text, Text, Text, Name],
        // A6 (RFC 2874): the length of the prefix, the rest of the address, and the name that has the prefix.
        38 => match *data.first()? {
            0 => &[Rest],
            prefix @ 1..=128 => {
                return Some(Some([Bytes(1 + (128 - usize::from(prefix)).div_ceil(8)), Name].into_iter().collect()));
            }
            _ => return None,
        },
        // IPSECKEY: precedence, gateway type, algorithm. AMTRELAY: precedence, discovery bit and relay type.
        45 if *data.get(1)? == 3 => &[Bytes(3), Name, Rest],
        260 if *data.get(1)? & 0x7f == 3 => &[Bytes(2), Name],
        // HIP: the lengths of tag and key, which follow, and rendezvous servers.
        55 => {
            let key = usize::from(u16_at(data.get(..4)?, 2));
            return Some(Some([Bytes(4 + usize::from(data[0]) + key), Names].into_iter().collect()));
        }
        // SVCB, HTTPS: a priority, the target, parameters.
        64 | 65 => &[Bytes(2), Name, Rest],
        // DSYNC (RFC 9859): a type, a scheme and a port.
        66 => &[Bytes(5), Name],
        _ => return Some(None),
    };
    Some(Some(fields.iter().copied().collect()))
}

/// An expanded name.
struct Expanded {
    /// The length of the copied labels in bytes.
    len: usize,
    /// The offset in the question's name at which the rest is, unless the name ends at its own root.
    tail: Option<u8>,
    /// The offset after the name in the message.
    end: usize,
}

#[cfg(test)]
mod tests;
