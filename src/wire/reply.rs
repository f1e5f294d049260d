//! A reply: the records and flags of a response, independent of its encoding.
//!
//! Each worker has a `Reply` that it clears for each query, so that filling it allocates nothing once it has grown.
//! Names and longer data are in one byte arena; a record is a small `Copy` value that refers to it.

use super::name::{MAX_LEN, Name};
use super::query::{Edns, Question};
use super::record::{NO_TAIL, NameRef, Rdata, Record, Section, SoaNumbers, StoredBytes};
use super::size::{MAX_MESSAGE, MAX_UDP, MIN_UDP};
use super::types::{Class, Rcode, Type};

/// The maximum number of records. A TCP message has 4,095 at most: each takes a pointer, ten fixed bytes and four of
/// data (16 of 65,535).
pub const MAX_RECORDS: usize = 4_096;
/// The maximum size of the arena in bytes. Further records would not fit into one message.
pub const MAX_ARENA: usize = 512 * 1024;
/// The capacity that [`Reply::clear`] retains, in records and in bytes: the largest headless Service that Kubernetes
/// supports, 250 endpoints, with two ports and both families.
const RETAINED_RECORDS: usize = 1_024;
const RETAINED_ARENA: usize = 32 * 1024;
/// An extended DNS error (RFC 8914), sent if the query has an OPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// The INFO-CODE; 0 is "Other".
    pub code: u16,
    /// The reason as one word, for log lines and scripts; empty if there is none. It is not sent.
    pub reason: &'static str,
    /// The EXTRA-TEXT: the reason, for people.
    pub text: ErrorText,
}

/// The EXTRA-TEXT of an [`ExtendedError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorText {
    /// A text of this server.
    Fixed(&'static str),
    /// A configured text, stored in the reply.
    Stored(StoredBytes),
}

/// The kind of a reply (CoreDNS `response.Typify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The reply has an answer, or is empty.
    NoError,
    /// The name does not exist.
    NameError,
    /// The name exists, but has no record of the type.
    NoData,
    /// The reply refers to other name servers.
    Delegation,
    /// The server failed, or does not implement the query.
    ServerError,
    /// Any other code, and an alias whose target does not exist.
    OtherError,
}

/// A reply that plugins fill and change.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The response code.
    pub rcode: Rcode,
    /// The AA flag: the answer is authoritative.
    pub authoritative: bool,
    /// The RA flag: recursion is available.
    pub recursion_available: bool,
    /// The AD flag: the data is authentic.
    pub authentic_data: bool,
    /// The RD flag, or `None` to copy it from the query.
    pub recursion_desired: Option<bool>,
    /// The TC flag: records are missing already, whatever fits.
    pub truncated: bool,
    /// The extended error to send.
    pub extended_error: Option<ExtendedError>,
    /// The EDNS options to send besides the extended error, in wire form, if the query has an OPT.
    options: Option<StoredBytes>,
    /// The message that this reply was read from had an OPT.
    pub had_opt: bool,
    /// The maximum length of a UDP response that *bufsize* sets, 512–4096 bytes.
    pub max_udp: Option<u16>,
    /// The name in which tails of names are offsets, in wire form, if it is not that of the question.
    base: Option<StoredBytes>,
    /// Whether the reply has been encoded, so that the arena holds offsets of its names.
    encoded: bool,
    /// The records; within each section in the order in which they are sent.
    records: Vec<Record>,
    /// The bytes of names and data.
    arena: Vec<u8>,
}

impl Default for Rcode {
    fn default() -> Rcode {
        Rcode::NOERROR
    }
}

impl Reply {
    /// Creates an empty reply.
    pub fn new() -> Reply {
        Reply::default()
    }

    /// Resets the reply. Its memory is retained, unless an unusual answer made it large.
    pub fn clear(&mut self) {
        self.records.clear();
        self.arena.clear();
        if self.records.capacity() > RETAINED_RECORDS || self.arena.capacity() > RETAINED_ARENA {
            self.records.shrink_to(RETAINED_RECORDS);
            self.arena.shrink_to(RETAINED_ARENA);
        }
        // Field by field, so that the vectors are not moved. The pattern makes the compiler notice a missing field.
        let Reply {
            rcode,
            authoritative,
            recursion_available,
            authentic_data,
            recursion_desired,
            truncated,
            extended_error,
            options,
            had_opt,
            max_udp,
            base,
            encoded,
            records: _,
            arena: _,
        } = self;
        *rcode = Rcode::NOERROR;
        (*authoritative, *recursion_available, *authentic_data, *truncated) = (false, false, false, false);
        (*extended_error, *options, *max_udp, *recursion_desired, *base) = (None, None, None, None, None);
        (*encoded, *had_opt) = (false, false);
    }

    /// Removes all records.
    pub fn clear_records(&mut self) {
        self.records.clear();
        self.arena.clear();
        (self.options, self.base) = (None, None);
        if self.extended_error.is_some_and(|error| matches!(error.text, ErrorText::Stored(_))) {
            self.extended_error = None;
        }
    }

    //--- Reading

    /// Returns the UDP payload size for the OPT of the response: the client's, limited by `max_udp`, and never below
    /// 512.
    pub fn udp_size(&self, edns: &Edns<'_>) -> u16 {
        edns.size.min(self.max_udp.unwrap_or(u16::MAX)).max(MIN_UDP as u16)
    }

    /// Returns the maximum length of a UDP response to this client, in bytes.
    pub fn udp_limit(&self, edns: Option<&Edns<'_>>) -> usize {
        edns.map_or(MIN_UDP, |edns| usize::from(self.udp_size(edns)).min(MAX_UDP))
    }

    /// Returns all records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Returns all records, to change or reorder them.
    pub fn records_mut(&mut self) -> &mut Vec<Record> {
        &mut self.records
    }

    /// Returns the records of a section.
    pub fn section(&self, section: Section) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.section == section)
    }

    /// Returns whether the answer section has a record.
    pub fn has_answer(&self) -> bool {
        self.section(Section::Answer).next().is_some()
    }

    /// Returns the kind of the reply.
    pub fn kind(&self) -> ReplyKind {
        let has_authority = |rtype| self.section(Section::Authority).any(|record| record.rtype == rtype);
        match self.rcode {
            Rcode::NOERROR if self.has_answer() => ReplyKind::NoError,
            Rcode::NOERROR if has_authority(Type::SOA) => ReplyKind::NoData,
            Rcode::NOERROR if has_authority(Type::NS) => ReplyKind::Delegation,
            Rcode::NOERROR => ReplyKind::NoError,
            // An alias whose target does not exist.
            Rcode::NXDOMAIN if self.has_answer() => ReplyKind::OtherError,
            Rcode::NXDOMAIN => ReplyKind::NameError,
            Rcode::SERVFAIL | Rcode::NOTIMP => ReplyKind::ServerError,
            _ => ReplyKind::OtherError,
        }
    }

    /// Returns the text of an extended error.
    pub fn error_text(&self, error: ExtendedError) -> &[u8] {
        match error.text {
            ErrorText::Fixed(text) => text.as_bytes(),
            ErrorText::Stored(text) => self.bytes(text),
        }
    }

    /// Returns stored bytes.
    pub fn bytes(&self, stored: StoredBytes) -> &[u8] {
        &self.arena[stored.range()]
    }

    /// Returns the EDNS options to send, in wire form.
    pub fn options(&self) -> &[u8] {
        self.options.map_or(&[], |options| self.bytes(options))
    }

    /// Returns the records, the arena, in which the encoder stores the offsets of names, and the place of
    /// [`Reply::set_base`] in it.
    pub(super) fn arena(&mut self) -> (&[Record], &mut [u8], Option<StoredBytes>) {
        (&self.records, &mut self.arena, self.base)
    }

    /// Marks the reply as encoded. Returns whether it was encoded before.
    pub(super) fn mark_encoded(&mut self) -> bool {
        std::mem::replace(&mut self.encoded, true)
    }

    /// Returns the labels of a name that are in the arena, in front of its tail.
    pub fn prefix(&self, name: NameRef) -> &[u8] {
        &self.arena[name.labels()]
    }

    /// Returns the last byte of the labels of a name that are in the arena.
    pub fn last_letter(&self, name: NameRef) -> Option<u8> {
        self.arena.get(name.labels().end.checked_sub(1)?).copied()
    }

    /// Returns the end of a name after its stored labels; `question` is the name of the question.
    fn end_of<'a>(&'a self, name: NameRef, question: Name<'a>) -> &'a [u8] {
        match name.tail() {
            None => &[0],
            Some(0) => question.as_wire(),
            Some(tail) => &self.base.map_or(question.as_wire(), |base| self.bytes(base))[usize::from(tail)..],
        }
    }

    /// Returns whether two names of this reply are equal, byte for byte.
    pub fn names_are_equal(&self, a: NameRef, b: NameRef) -> bool {
        a.tail == b.tail && self.prefix(a) == self.prefix(b)
    }

    /// Returns whether two names of this reply are equal ignoring case (RFC 4343); `question` is the name of the
    /// question.
    pub fn names_are_equal_ignoring_case(&self, a: NameRef, b: NameRef, question: Name<'_>) -> bool {
        let tail = |name: NameRef| self.end_of(name, question);
        let bytes = |name| self.prefix(name).iter().chain(tail(name)).map(u8::to_ascii_lowercase);
        let len = |name| self.prefix(name).len() + tail(name).len();
        // Length bytes are below `A`, so folding them changes nothing.
        a == b || len(a) == len(b) && bytes(a).eq(bytes(b))
    }

    /// Returns the name of these labels (wire form, no final zero) and this tail if it is the data of a record already.
    pub fn data_name(&self, labels: &[&[u8]], tail: Option<u8>) -> Option<NameRef> {
        let len: usize = labels.iter().map(|part| part.len()).sum();
        let tail = tail.unwrap_or(NO_TAIL);
        let is_equal = |name: &NameRef| {
            let mut rest = self.prefix(*name);
            let all = labels.iter().all(|part| rest.strip_prefix(*part).map(|after| rest = after).is_some());
            all && rest.is_empty()
        };
        let names = self.records.iter().filter_map(|record| match record.rdata {
            Rdata::Name(name) => Some(name),
            _ => None,
        });
        names.filter(|name| usize::from(name.len) == len && name.tail == tail).find(is_equal)
    }

    /// Writes a complete name into `wire`; `question` is the name of the question.
    pub fn expand<'w>(&self, name: NameRef, question: Name<'_>, wire: &'w mut [u8; MAX_LEN]) -> Name<'w> {
        let prefix = self.prefix(name);
        let tail = self.end_of(name, question);
        let len = prefix.len() + tail.len();
        wire[..prefix.len()].copy_from_slice(prefix);
        wire[prefix.len()..len].copy_from_slice(tail);
        Name::trusted(&wire[..len])
    }

    /// Returns a complete name; `question` is the name of the question as sent.
    pub fn full_name(&self, name: NameRef, question: Name<'_>) -> super::NameBuf {
        let mut wire = self.prefix(name).to_vec();
        wire.extend_from_slice(self.end_of(name, question));
        Name::trusted(&wire).to_owned()
    }

    //--- Building

    /// Stores a name that consists of labels (wire form, no final zero) and of the question's name from `tail` on, or
    /// the root.
    ///
    /// The caller ensures that the whole is a name: at most 255 bytes.
    pub fn store_labels(&mut self, labels: &[&[u8]], tail: Option<u8>) -> NameRef {
        self.arena.extend([0, 0]);
        let at = self.arena.len();
        for part in labels {
            self.arena.extend_from_slice(part);
        }
        let len = self.arena.len() - at;
        debug_assert!(len < MAX_LEN);
        NameRef { at: at as u32, len: len as u8, tail: tail.unwrap_or(NO_TAIL) }
    }

    /// Stores a complete name.
    pub fn store_name(&mut self, name: Name<'_>) -> NameRef {
        let wire = name.as_wire();
        self.store_labels(&[&wire[..wire.len() - 1]], None)
    }

    /// Makes the tails of all names, except that of [`NameRef::QUESTION`], offsets in another name than that of the
    /// question: the reply has been made for that name.
    #[inline]
    pub fn set_base(&mut self, name: Name<'_>) {
        self.base = Some(self.store(name.as_wire()));
    }

    /// Stores data, at most 65,535 bytes.
    #[inline(always)]
    pub fn store(&mut self, data: &[u8]) -> StoredBytes {
        debug_assert!(data.len() <= MAX_MESSAGE);
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(data);
        StoredBytes { at, len: data.len() as u16 }
    }

    /// Adds an EDNS option. It is left out if no message could hold all of them.
    pub fn add_option(&mut self, code: u16, data: &[u8]) {
        let (start, before) = (self.arena.len(), self.options.map_or(0..0, StoredBytes::range));
        let len = before.len() + 4 + data.len();
        if len > super::MAX_MESSAGE {
            return;
        }
        self.arena.extend_from_within(before);
        self.arena.extend(code.to_be_bytes());
        self.arena.extend((data.len() as u16).to_be_bytes());
        self.arena.extend_from_slice(data);
        self.options = Some(StoredBytes { at: start as u32, len: len as u16 });
    }

    /// Stores the numbers of an SOA.
    pub fn store_soa_numbers(&mut self, soa: SoaNumbers) -> StoredBytes {
        self.store(&soa.to_wire())
    }

    /// Stores the data of an SOA whose names are labels (wire form, no final zero) and the question's name from `tail`
    /// on. As one piece, since every denial has an SOA.
    #[inline(always)]
    pub fn store_soa<const M: usize, const R: usize>(
        &mut self, mname: &[u8; M], rname: &[u8; R], tail: u8, soa: SoaNumbers,
    ) -> Rdata {
        let mut piece = [0; 64];
        let (mname_at, rname_at) = (2, 2 + M + 2);
        let numbers_at = rname_at + R;
        piece[mname_at..mname_at + M].copy_from_slice(mname);
        piece[rname_at..numbers_at].copy_from_slice(rname);
        piece[numbers_at..numbers_at + SoaNumbers::LEN].copy_from_slice(&soa.to_wire());
        let start = self.arena.len();
        self.arena.extend_from_slice(&piece[..numbers_at + SoaNumbers::LEN]);
        let name = |at: usize, len: usize| NameRef { at: (start + at) as u32, len: len as u8, tail };
        Rdata::Soa {
            mname: name(mname_at, M),
            rname: name(rname_at, R),
            numbers: StoredBytes { at: (start + numbers_at) as u32, len: SoaNumbers::LEN as u16 },
        }
    }

    /// Adds a record. If no message could hold it, it is left out and the reply is marked as truncated.
    pub fn push(&mut self, record: Record) {
        if self.records.len() >= MAX_RECORDS || self.arena.len() > MAX_ARENA {
            self.truncated = true;
        } else {
            self.records.push(record);
        }
    }

    /// Returns whether no further record can be added. Code that adds many records stops then.
    pub fn is_full(&self) -> bool {
        self.truncated && (self.records.len() >= MAX_RECORDS || self.arena.len() > MAX_ARENA)
    }

    /// Adds an answer of class IN for the question's name.
    pub fn answer(&mut self, rtype: Type, ttl: u32, rdata: Rdata) {
        self.push(Record { section: Section::Answer, owner: NameRef::QUESTION, rtype, class: Class::IN, ttl, rdata });
    }

    /// Sorts the records from `first` on, each of which has a stored name as its data, by that name, and removes
    /// duplicates.
    pub fn sort_names(&mut self, first: usize) {
        let arena = &self.arena;
        let labels = |record: &Record| match record.rdata {
            Rdata::Name(name) => name.is_stored().then(|| &arena[name.labels()]),
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

    /// Returns this reply to `question` with all names stored completely, so that another question may get it.
    pub fn detached(&self, question: &Question) -> Reply {
        let mut reply = Reply {
            rcode: self.rcode,
            authoritative: self.authoritative,
            recursion_available: self.recursion_available,
            authentic_data: self.authentic_data,
            recursion_desired: self.recursion_desired,
            truncated: self.truncated,
            had_opt: self.had_opt,
            max_udp: self.max_udp,
            ..Reply::default()
        };
        reply.options = self.options.map(|options| reply.store(self.bytes(options)));
        reply.extended_error = self.extended_error.map(|error| match error.text {
            ErrorText::Fixed(_) => error,
            ErrorText::Stored(text) => {
                ExtendedError { text: ErrorText::Stored(reply.store(self.bytes(text))), ..error }
            }
        });
        for section in [Section::Answer, Section::Authority, Section::Additional] {
            reply.append(self, question, section, section);
        }
        reply
    }

    /// Appends the records of a section of the reply to another question. Names are stored completely.
    pub fn append(&mut self, other: &Reply, question: &Question, from: Section, into: Section) {
        for record in other.section(from) {
            let mut name = |name| {
                let full = other.full_name(name, question.name());
                self.store_name(full.as_name())
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
