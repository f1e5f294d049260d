//! A reply: what will be said, not yet in which octets.
//!
//! A `Reply` is kept by its worker and cleared for each query, so that filling it allocates nothing once it has grown.
//! Names and longer data lie in one byte arena; a record is a small `Copy` value that refers to it.

use super::encode::{MAX_UDP, MIN_UDP};
use super::name::Name;
use super::query::{Edns, Question};
use super::types::{Class, Rcode, Type};

/// A TCP message holds 4,095 records at most: each takes a pointer, ten fixed octets and four of data (16 of 65,535).
pub const MAX_RECORDS: usize = 4_096;
/// What the arena may hold. Records past it could not be sent in one message anyhow.
pub const MAX_ARENA: usize = 512 * 1024;
/// What a worker's reply keeps from answer to answer, in records and in octets: the largest headless Service that
/// Kubernetes supports, 250 endpoints, with two ports and both families.
const KEPT_RECORDS: usize = 1_024;
const KEPT_ARENA: usize = 32 * 1024;
/// `NameRef::tail` of a name that ends at the root and not in the question.
const NO_TAIL: u8 = u8::MAX;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who says so; the SOA of a denial.
    Authority,
    /// What the client would ask next.
    Additional,
}

/// A name in a reply: labels from the arena, followed by the end of the question's name or by the root.
///
/// Nearly every name in an answer ends like the question, which makes it short to hold and cheap to compress, and keeps
/// the letter case that the client sent (CoreDNS reuses the zone as typed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRef {
    /// Where the labels start in the arena; two octets in front of them are the encoder's.
    at: u32,
    /// Their length, 0–254.
    len: u8,
    /// Offset into the question's name where the rest starts, or [`NO_TAIL`].
    tail: u8,
}

impl NameRef {
    /// The question's name.
    pub const QUESTION: NameRef = NameRef::question(0);

    /// The end of the question's name from this offset on ([`Question::suffix_at`]).
    pub const fn question(offset: u8) -> NameRef {
        NameRef { at: 0, len: 0, tail: offset }
    }

    /// Where the tail starts in the question's name, if there is one.
    pub(super) fn tail(self) -> Option<u8> {
        (self.tail != NO_TAIL).then_some(self.tail)
    }

    /// The range of the labels in the arena, and of the encoder's two octets in front of them.
    pub(super) fn stored(self) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let at = self.at as usize;
        (self.len > 0).then(|| (at..at + usize::from(self.len), at - 2..at))
    }
}

/// A record's data. What has no form of its own is `Bytes`, already in wire form and without names to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rdata {
    /// A.
    A([u8; 4]),
    /// AAAA.
    Aaaa([u8; 16]),
    /// One name that may be compressed (RFC 3597 4): CNAME, NS, PTR.
    Name(NameRef),
    /// SRV (RFC 2782); its target is never compressed.
    Srv {
        /// Lower is tried first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: NameRef,
    },
    /// SOA.
    Soa {
        /// The primary server.
        mname: NameRef,
        /// The mailbox of who is responsible.
        rname: NameRef,
        /// Serial, refresh, retry, expire, minimum: twenty octets of the arena.
        numbers: Stored,
    },
    /// Anything else.
    Bytes(Stored),
}

/// Octets of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    at: u32,
    len: u16,
}

impl Stored {
    /// Where they lie.
    pub(super) fn range(self) -> std::ops::Range<usize> {
        self.at as usize..self.at as usize + usize::from(self.len)
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub section: Section,
    /// Whose it is.
    pub owner: NameRef,
    /// Its type.
    pub rtype: Type,
    /// Its class.
    pub class: Class,
    /// Seconds that it may be kept.
    pub ttl: u32,
    /// Its data.
    pub rdata: Rdata,
}

/// The numbers of an SOA, in seconds but for the serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoaNumbers {
    /// Grows with each change of the zone.
    pub serial: u32,
    /// How often a secondary asks.
    pub refresh: u32,
    /// How soon it asks again.
    pub retry: u32,
    /// When it gives up.
    pub expire: u32,
    /// How long a denial may be kept (RFC 2308 4).
    pub minimum: u32,
}

/// An extended error (RFC 8914), sent where the client sent an OPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// The code; 0 is "other".
    pub code: u16,
    /// Why, for a person.
    pub text: ErrorText,
}

/// The text of an [`ExtendedError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorText {
    /// One of this server.
    Fixed(&'static str),
    /// One that was configured, in the reply's arena.
    Stored(Stored),
}

/// What a reply amounts to (CoreDNS `response.Typify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An answer.
    NoError,
    /// The name does not exist.
    NameError,
    /// The name exists without such a record.
    NoData,
    /// Other servers know.
    Delegation,
    /// The server failed, or does not do such a thing.
    ServerError,
    /// Any other code, and an alias that leads to no name.
    OtherError,
}

/// A reply in the making.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The outcome.
    pub rcode: Rcode,
    /// Set AA.
    pub authoritative: bool,
    /// Set RA.
    pub recursion_available: bool,
    /// Set AD.
    pub authentic_data: bool,
    /// Set or clear RD, whatever the query has.
    pub recursion_desired: Option<bool>,
    /// Set TC: something is missing already.
    pub truncated: bool,
    /// Why it was denied.
    pub extended_error: Option<ExtendedError>,
    /// The name server identifier to send (RFC 5001), where one is configured and was asked for.
    pub nsid: Option<Stored>,
    /// The most that a UDP answer may hold, where *bufsize* says so: 512–4096 octets.
    pub max_udp: Option<u16>,
    /// It was written once, so that the arena holds where its names then stood.
    encoded: bool,
    /// The records, each section in the order in which it will be sent.
    records: Vec<Record>,
    /// Names and data.
    arena: Vec<u8>,
}

impl Default for Rcode {
    fn default() -> Rcode {
        Rcode::NOERROR
    }
}

impl Reply {
    /// An empty reply.
    pub fn new() -> Reply {
        Reply::default()
    }

    /// Makes it as new, but keeps its memory unless an unusual answer made it large.
    pub fn clear(&mut self) {
        self.records.clear();
        self.arena.clear();
        if self.records.capacity() > KEPT_RECORDS || self.arena.capacity() > KEPT_ARENA {
            self.records.shrink_to(KEPT_RECORDS);
            self.arena.shrink_to(KEPT_ARENA);
        }
        // Field by field, so that the lists stay where they are. The compiler notices a field that is missing here.
        let Reply {
            rcode,
            authoritative,
            recursion_available,
            authentic_data,
            recursion_desired,
            truncated,
            extended_error,
            nsid,
            max_udp,
            encoded,
            records: _,
            arena: _,
        } = self;
        *rcode = Rcode::NOERROR;
        (*authoritative, *recursion_available, *authentic_data, *truncated) = (false, false, false, false);
        (*extended_error, *nsid, *max_udp, *recursion_desired) = (None, None, None, None);
        *encoded = false;
    }

    /// Takes all records out.
    pub fn forget_records(&mut self) {
        self.records.clear();
        self.arena.clear();
        self.nsid = None;
        if self.extended_error.is_some_and(|error| matches!(error.text, ErrorText::Stored(_))) {
            self.extended_error = None;
        }
    }

    //--- Look

    /// The UDP payload size that the answer's OPT names: the client's, lowered by `max_udp`; never below 512.
    pub fn udp_size(&self, edns: &Edns<'_>) -> u16 {
        edns.size.min(self.max_udp.unwrap_or(u16::MAX)).max(MIN_UDP as u16)
    }

    /// How long a UDP answer to this client may be.
    pub fn udp_limit(&self, edns: Option<&Edns<'_>>) -> usize {
        edns.map_or(MIN_UDP, |edns| usize::from(self.udp_size(edns)).min(MAX_UDP))
    }

    /// All records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// All records, to be changed or put into another order.
    pub fn records_mut(&mut self) -> &mut Vec<Record> {
        &mut self.records
    }

    /// The records of one section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.section == section)
    }

    /// Whether there is an answer record.
    pub fn has_answer(&self) -> bool {
        self.section(Section::Answer).next().is_some()
    }

    /// What it amounts to.
    pub fn kind(&self) -> Kind {
        let has_authority = |rtype| self.section(Section::Authority).any(|record| record.rtype == rtype);
        match self.rcode {
            Rcode::NOERROR if self.has_answer() => Kind::NoError,
            Rcode::NOERROR if has_authority(Type::SOA) => Kind::NoData,
            Rcode::NOERROR if has_authority(Type::NS) => Kind::Delegation,
            Rcode::NOERROR => Kind::NoError,
            // An alias that leads to no name.
            Rcode::NXDOMAIN if self.has_answer() => Kind::OtherError,
            Rcode::NXDOMAIN => Kind::NameError,
            Rcode::SERVFAIL | Rcode::NOTIMP => Kind::ServerError,
            _ => Kind::OtherError,
        }
    }

    /// The text of an extended error.
    pub fn error_text(&self, error: ExtendedError) -> &[u8] {
        match error.text {
            ErrorText::Fixed(text) => text.as_bytes(),
            ErrorText::Stored(text) => self.bytes(text),
        }
    }

    /// The stored octets.
    pub fn bytes(&self, stored: Stored) -> &[u8] {
        &self.arena[stored.range()]
    }

    /// The arena, for the encoder, which notes in it where it has written a name.
    pub(super) fn arena(&mut self) -> (&[Record], &mut [u8]) {
        (&self.records, &mut self.arena)
    }

    /// Whether it was encoded before; from now on it was.
    pub(super) fn mark_encoded(&mut self) -> bool {
        std::mem::replace(&mut self.encoded, true)
    }

    /// The labels that a name holds in the arena.
    pub(super) fn prefix(&self, name: NameRef) -> &[u8] {
        name.stored().map_or(&[], |(labels, _)| &self.arena[labels])
    }

    /// Whether two names of this reply are the same, octet for octet.
    pub fn same_name(&self, a: NameRef, b: NameRef) -> bool {
        a.tail == b.tail && self.prefix(a) == self.prefix(b)
    }

    /// Whether two names of this reply are the same as DNS means it (RFC 4343), for whom `question` is the question's
    /// name.
    pub fn same_name_in_any_case(&self, a: NameRef, b: NameRef, question: Name<'_>) -> bool {
        let tail = |name: NameRef| name.tail().map_or(&[0][..], |tail| &question.as_wire()[usize::from(tail)..]);
        let octets = |name| self.prefix(name).iter().chain(tail(name)).map(u8::to_ascii_lowercase);
        let len = |name| self.prefix(name).len() + tail(name).len();
        // Length octets are below `A`, so folding them changes nothing.
        a == b || len(a) == len(b) && octets(a).eq(octets(b))
    }

    /// The name of these labels (wire form, no final zero) and this tail, where it is some record's data already.
    pub fn data_name(&self, labels: &[&[u8]], tail: Option<u8>) -> Option<NameRef> {
        let len: usize = labels.iter().map(|part| part.len()).sum();
        let tail = tail.unwrap_or(NO_TAIL);
        let is_that = |name: &NameRef| {
            let mut rest = self.prefix(*name);
            let all = labels.iter().all(|part| rest.strip_prefix(*part).map(|after| rest = after).is_some());
            all && rest.is_empty()
        };
        let names = self.records.iter().filter_map(|record| match record.rdata {
            Rdata::Name(name) => Some(name),
            _ => None,
        });
        names.filter(|name| usize::from(name.len) == len && name.tail == tail).find(is_that)
    }

    /// A name in full, for whom `question` is the question's name as sent.
    pub fn full_name(&self, name: NameRef, question: Name<'_>) -> super::NameBuf {
        let mut wire = self.prefix(name).to_vec();
        match name.tail() {
            Some(tail) => wire.extend(&question.as_wire()[usize::from(tail)..]),
            None => wire.push(0),
        }
        Name::trusted(&wire).to_owned()
    }

    //--- Make

    /// Stores a name made of labels (wire form, no final zero) and the question's name from `tail` on, or the root.
    ///
    /// The caller sees to it that the whole is a name: at most 255 octets.
    pub fn name(&mut self, labels: &[&[u8]], tail: Option<u8>) -> NameRef {
        self.arena.extend([0, 0]);
        let at = self.arena.len();
        for part in labels {
            self.arena.extend_from_slice(part);
        }
        let len = self.arena.len() - at;
        debug_assert!(len < super::name::MAX_LEN);
        NameRef { at: at as u32, len: len as u8, tail: tail.unwrap_or(NO_TAIL) }
    }

    /// Stores a whole name.
    pub fn whole_name(&mut self, name: Name<'_>) -> NameRef {
        let wire = name.as_wire();
        self.name(&[&wire[..wire.len() - 1]], None)
    }

    /// Stores data, at most 65,535 octets.
    pub fn store(&mut self, data: &[u8]) -> Stored {
        debug_assert!(data.len() <= super::MAX_MESSAGE);
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(data);
        Stored { at, len: data.len() as u16 }
    }

    /// Stores the numbers of an SOA.
    pub fn soa_numbers(&mut self, soa: SoaNumbers) -> Stored {
        let mut numbers = [0; 20];
        let fields = [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum];
        for (octets, field) in numbers.chunks_exact_mut(4).zip(fields) {
            octets.copy_from_slice(&field.to_be_bytes());
        }
        self.store(&numbers)
    }

    /// Adds a record. Past what any message can hold it is left out, and the reply says that it is cut.
    pub fn push(&mut self, record: Record) {
        if self.records.len() >= MAX_RECORDS || self.arena.len() > MAX_ARENA {
            self.truncated = true;
        } else {
            self.records.push(record);
        }
    }

    /// Whether another record could be sent at all. A maker of many stops here.
    pub fn is_full(&self) -> bool {
        self.truncated && (self.records.len() >= MAX_RECORDS || self.arena.len() > MAX_ARENA)
    }

    /// Adds an answer of class IN for the question's name.
    pub fn answer(&mut self, rtype: Type, ttl: u32, rdata: Rdata) {
        self.push(Record { section: Section::Answer, owner: NameRef::QUESTION, rtype, class: Class::IN, ttl, rdata });
    }

    /// Sorts the records from `first` on, each of which holds one stored name, by that name; one of equal ones is kept.
    pub fn sort_names(&mut self, first: usize) {
        let arena = &self.arena;
        let labels = |record: &Record| match record.rdata {
            Rdata::Name(name) => name.stored().map(|(labels, _)| &arena[labels]),
            _ => None,
        };
        self.records[first..].sort_unstable_by(|a, b| labels(a).cmp(&labels(b)));
        let mut at = 0;
        let mut previous: Option<Record> = None;
        self.records.retain(|record| {
            at += 1;
            if at <= first {
                return true;
            }
            let repeats = previous.is_some_and(|previous| labels(&previous) == labels(record));
            previous = Some(*record);
            !repeats
        });
    }

    /// Takes over the records of an answer to another question, as one section's end: names are stored in full.
    pub fn append(&mut self, other: &Reply, question: &Question, from: Section, into: Section) {
        for record in other.section(from) {
            let mut name = |name| {
                let full = other.full_name(name, question.name());
                self.whole_name(full.as_name())
            };
            let owner = name(record.owner);
            let rdata = match record.rdata {
                Rdata::A(_) | Rdata::Aaaa(_) => record.rdata,
                Rdata::Name(target) => Rdata::Name(name(target)),
                Rdata::Srv { priority, weight, port, target } => {
                    Rdata::Srv { priority, weight, port, target: name(target) }
                }
                Rdata::Soa { mname, rname, numbers } => {
                    let (mname, rname) = (name(mname), name(rname));
                    Rdata::Soa { mname, rname, numbers: self.store(other.bytes(numbers)) }
                }
                Rdata::Bytes(bytes) => Rdata::Bytes(self.store(other.bytes(bytes))),
            };
            self.push(Record { section: into, owner, rdata, ..*record });
        }
    }
}
