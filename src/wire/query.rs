//! A query: a view of a packet, with its name folded to lower case for every look-up.

use super::header::{self, Change};
use super::name::{MAX_LABEL, MAX_LEN, Name};
use super::types::{Class, Type};

/// The maximum number of labels of a name, without the root.
const MAX_LABELS: usize = 127;
/// The number of bytes folded at a time; divides 256.
const FOLD: usize = 16;

/// The error for a packet with a valid header that is not a valid query. The response is FORMERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryError;

/// A question: a name in lower case, a type and a class.
#[derive(Clone)]
pub struct Question {
    /// The name in wire form and lower case, valid up to `len`. One byte longer than a name, so that chunks divide it.
    folded: [u8; MAX_LEN + 1],
    /// The offset of each label, valid up to `labels`. The root is not counted.
    starts: [u8; MAX_LABELS],
    /// The length of the name in bytes, with its final zero: 1–255.
    len: u8,
    /// The number of labels, 0–127.
    labels: u8,
    /// The query type.
    pub qtype: Type,
    /// The query class.
    pub qclass: Class,
}

impl Question {
    /// Creates a question of this server itself.
    pub fn new(name: Name<'_>, qtype: Type, qclass: Class) -> Question {
        let mut question = Question::empty();
        // A `Name` is valid, so reading it cannot fail.
        let _ = question.read_name(name.as_wire());
        (question.qtype, question.qclass) = (qtype, qclass);
        question
    }

    /// Returns the root without a type.
    fn empty() -> Question {
        Question {
            folded: [0; MAX_LEN + 1],
            starts: [0; MAX_LABELS],
            len: 1,
            labels: 0,
            qtype: Type(0),
            qclass: Class::IN,
        }
    }

    /// Reads the name at the start of `bytes`, folds it and records its labels. Returns its length.
    ///
    /// A compression pointer is an error in the first name of a message: there is no earlier name.
    fn read_name(&mut self, bytes: &[u8]) -> Result<usize, QueryError> {
        let (mut at, mut labels) = (0, 0);
        loop {
            let len = usize::from(*bytes.get(at).ok_or(QueryError)?);
            if len == 0 {
                break;
            }
            if len > MAX_LABEL {
                return Err(QueryError);
            }
            let end = at + 1 + len;
            // One byte is left for the final zero. This also limits the number of labels to the length of `starts`.
            if end >= MAX_LEN {
                return Err(QueryError);
            }
            self.starts[labels] = at as u8;
            labels += 1;
            at = end;
        }
        let len = at + 1;
        self.folded[..len].copy_from_slice(&bytes[..len]);
        // Length bytes are below `A`, so folding them changes nothing. Whole chunks are a few instructions each.
        for chunk in self.folded[..len.next_multiple_of(FOLD)].as_chunks_mut::<FOLD>().0 {
            chunk.make_ascii_lowercase();
        }
        self.len = len as u8;
        self.labels = labels as u8;
        Ok(len)
    }

    /// Reads a valid name in lower case.
    fn read_lower(&mut self, name: &[u8]) {
        debug_assert!(Name::from_wire(name).is_ok() && !name.iter().any(u8::is_ascii_uppercase));
        self.folded[..name.len()].copy_from_slice(name);
        let (mut at, mut labels) = (0, 0);
        while let Some(&len) = name.get(at).filter(|len| **len > 0) {
            self.starts[labels] = at as u8;
            labels += 1;
            at += 1 + usize::from(len);
        }
        (self.len, self.labels) = (name.len() as u8, labels as u8);
    }

    /// Returns the name in lower case.
    pub fn name(&self) -> Name<'_> {
        Name::trusted(&self.folded[..usize::from(self.len)])
    }

    /// Returns the number of labels of the name, without the root.
    pub fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// Returns the `index`th label from the left, in lower case.
    ///
    /// # Panics
    /// If `index` is not below [`Question::labels`].
    pub fn label(&self, index: usize) -> &[u8] {
        assert!(index < self.labels());
        let at = usize::from(self.starts[index]);
        let len = usize::from(self.folded[at]);
        &self.folded[at + 1..at + 1 + len]
    }

    /// Returns the offset in the name at which its last `labels` labels start. 0 labels are the root.
    ///
    /// # Panics
    /// If the name has fewer labels.
    pub fn suffix_at(&self, labels: usize) -> u8 {
        let skip = self.labels().checked_sub(labels).expect("no more labels than the name has");
        if labels == 0 { self.len - 1 } else { self.starts[skip] }
    }

    /// Returns the length of the last `labels` labels of the name in bytes, with the root.
    ///
    /// # Panics
    /// If the name has fewer labels.
    #[inline(always)]
    pub fn suffix_len(&self, labels: usize) -> usize {
        usize::from(self.len - self.suffix_at(labels))
    }

    /// Returns the last `labels` labels of the name, in lower case.
    pub fn suffix(&self, labels: usize) -> Name<'_> {
        Name::trusted(&self.folded[usize::from(self.suffix_at(labels))..usize::from(self.len)])
    }

    /// Returns the wire form of `count` labels from the `index`th on, without a final zero: a key of the cluster index.
    pub fn slice(&self, index: usize, count: usize) -> &[u8] {
        let from = self.suffix_at(self.labels() - index);
        let to = self.suffix_at(self.labels() - index - count);
        &self.folded[usize::from(from)..usize::from(to)]
    }
}

/// The OPT record of a query (RFC 6891 6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns<'a> {
    /// The requestor's UDP payload size in bytes, as sent.
    pub size: u16,
    /// The version; only 0 exists.
    pub version: u8,
    /// The DO bit: DNSSEC records are requested (RFC 3225).
    pub dnssec_ok: bool,
    /// The options, as sent.
    pub options: &'a [u8],
}

/// The codes and the data of the options of an OPT record, one after the other.
#[derive(Clone)]
pub struct EdnsOptions<'a>(&'a [u8]);

impl<'a> EdnsOptions<'a> {
    /// Reads options in wire form, up to one that is cut off.
    pub fn new(options: &'a [u8]) -> EdnsOptions<'a> {
        EdnsOptions(options)
    }
}

impl<'a> Iterator for EdnsOptions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let (code, len) = (header::u16_at(self.0, 0), usize::from(header::u16_at(self.0, 2)));
        let data = self.0.get(4..4 + len)?;
        self.0 = &self.0[4 + len..];
        Some((code, data))
    }
}

impl<'a> Edns<'a> {
    /// Returns the codes and the data of all options.
    pub fn options(&self) -> EdnsOptions<'a> {
        EdnsOptions::new(self.options)
    }

    /// Appends the OPT record to a packet.
    pub(crate) fn write(&self, packet: &mut Vec<u8>) {
        let ([s0, s1], dnssec_ok) = (self.size.to_be_bytes(), if self.dnssec_ok { 0x80 } else { 0 });
        // A message is shorter than 65,536 bytes, and so are its options.
        let [l0, l1] = (self.options.len() as u16).to_be_bytes();
        packet.extend_from_slice(&[0, 0, Type::OPT.0 as u8, s0, s1, 0, self.version, dnssec_ok, 0, l0, l1]);
        packet.extend_from_slice(self.options);
    }

    /// Returns the data of the first option with this code.
    pub fn option(&self, code: u16) -> Option<&'a [u8]> {
        self.options().find(|(have, _)| *have == code).map(|(_, data)| data)
    }
}

/// A parsed query.
#[derive(Clone)]
pub struct Query<'a> {
    /// The whole packet.
    packet: &'a [u8],
    /// The offset at which the question ends.
    question_end: u16,
    /// The offset at which the last counted record ends.
    end: u16,
    /// The question.
    pub question: Question,
    /// The OPT record, if present.
    pub edns: Option<Edns<'a>>,
}

impl<'a> Query<'a> {
    /// Parses a packet that [`header::accept`] accepts.
    ///
    /// Bytes after the last counted record are ignored: some clients use them as padding.
    pub fn parse(packet: &'a [u8]) -> Result<Query<'a>, QueryError> {
        let mut query = Query::unread(packet);
        query.read()?;
        Ok(query)
    }

    /// Reads a packet of [`Query::write_name`] in place, whose name has this length and is in lower case. All else is
    /// that of the query which was changed.
    #[inline]
    pub(crate) fn read_changed(&mut self, name_len: usize, original: &Query<'a>) {
        self.question.read_lower(&self.packet[header::LEN..header::LEN + name_len]);
        (self.question.qtype, self.question.qclass) = (original.question.qtype, original.question.qclass);
        let question_end = header::LEN + name_len + 4;
        (self.question_end, self.end, self.edns) = (question_end as u16, self.packet.len() as u16, original.edns);
    }

    /// Returns a query that [`Query::read`] parses in place, since a query is large to move.
    pub(crate) fn unread(packet: &'a [u8]) -> Query<'a> {
        Query { packet, question_end: header::LEN as u16, end: 0, question: Question::empty(), edns: None }
    }

    /// Parses the packet. After an error only the packet is valid.
    pub(crate) fn read(&mut self) -> Result<(), QueryError> {
        let (packet, question) = (self.packet, &mut self.question);
        let name_len = question.read_name(packet.get(header::LEN..).ok_or(QueryError)?)?;
        let question_end = header::LEN + name_len + 4;
        if packet.len() < question_end {
            return Err(QueryError);
        }
        question.qtype = Type(header::u16_at(packet, question_end - 4));
        question.qclass = Class(header::u16_at(packet, question_end - 2));
        self.question_end = question_end as u16;

        // The sum of three counts may exceed 16 bits, if the caller has not called `accept`.
        let [answers, authorities, additionals] = [6, 8, 10].map(|at| u32::from(header::u16_at(packet, at)));
        let mut rest = &packet[question_end..];
        for index in 0..answers + authorities + additionals {
            let record = RawRecord::read(&mut rest)?;
            if record.rtype != Type::OPT {
                continue;
            }
            // RFC 6891 6.1.1: OPT is in the additional section, once at most, and its name is the root.
            if index < answers + authorities || self.edns.is_some() || !record.at_root {
                return Err(QueryError);
            }
            self.edns = Some(record.edns()?);
        }
        self.end = (packet.len() - rest.len()) as u16;
        Ok(())
    }

    /// Returns the question of a packet that is not valid as a whole, to be echoed: name, type and class as sent.
    pub fn readable_question(packet: &[u8]) -> Option<&[u8]> {
        let mut question = Question::empty();
        let end = question.read_name(packet.get(header::LEN..)?).ok()? + 4;
        packet.get(header::LEN..header::LEN + end)
    }

    /// Returns the packet as received, without bytes after the last counted record.
    pub fn packet(&self) -> &'a [u8] {
        &self.packet[..usize::from(self.end)]
    }

    /// Returns the message ID.
    pub fn id(&self) -> u16 {
        header::u16_at(self.packet, 0)
    }

    /// Returns the 16 flag bits ([`header::flag`]).
    pub fn flags(&self) -> u16 {
        header::u16_at(self.packet, 2)
    }

    /// Returns the question as sent, name, type and class, to be echoed byte for byte.
    pub fn question_wire(&self) -> &'a [u8] {
        &self.packet[header::LEN..usize::from(self.question_end)]
    }

    /// Returns the name in the letter case in which it was sent.
    pub fn sent_name(&self) -> Name<'a> {
        Name::trusted(&self.packet[header::LEN..usize::from(self.question_end) - 4])
    }
}

impl Query<'_> {
    /// Writes this query with another name into `packet`, as [`Query::write_changed`] does, and returns the name's
    /// length. `parts` are the parts of the name.
    pub fn write_name(&self, parts: [&[u8]; 4], packet: &mut Vec<u8>) -> usize {
        packet.clear();
        packet.extend_from_slice(&self.head_of_changed());
        // One after the other, since most parts are empty: a loop costs as much as a copy.
        let mut put = |part: &[u8]| {
            if !part.is_empty() {
                packet.extend_from_slice(part);
            }
        };
        let [first, second, third, last] = parts;
        put(first);
        put(second);
        put(third);
        put(last);
        let name_len = packet.len() - header::LEN;
        write_types(self.question.qtype, self.question.qclass, packet);
        if let Some(edns) = &self.edns {
            edns.write(packet);
        }
        name_len
    }

    /// Returns the header of this query with one question and perhaps an OPT record.
    #[inline]
    fn head_of_changed(&self) -> [u8; header::LEN] {
        let mut head = [0; header::LEN];
        head[..4].copy_from_slice(&self.packet[..4]);
        (head[5], head[11]) = (1, u8::from(self.edns.is_some()));
        head
    }

    /// Writes this query with another question and another OPT record into `packet`. Other records are left out: a
    /// signature would not match, and a compression pointer would refer to another name.
    pub fn write_changed(
        &self, name: Name<'_>, qtype: Type, qclass: Class, edns: Option<&Edns<'_>>, packet: &mut Vec<u8>,
    ) {
        packet.clear();
        packet.extend_from_slice(&self.head_of_changed());
        packet[header::LEN - 1] = u8::from(edns.is_some());
        packet.extend_from_slice(name.as_wire());
        write_types(qtype, qclass, packet);
        if let Some(edns) = edns {
            edns.write(packet);
        }
    }
}

/// Appends the type and the class of a question.
fn write_types(qtype: Type, qclass: Class, packet: &mut Vec<u8>) {
    let ([t0, t1], [c0, c1]) = (qtype.0.to_be_bytes(), qclass.0.to_be_bytes());
    packet.extend_from_slice(&[t0, t1, c0, c1]);
}

/// The changes of a query that is forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueryChange {
    /// The changes of its flags.
    pub flags: Change,
    /// The maximum UDP payload size that its OPT may offer, in bytes.
    pub max_udp: Option<u16>,
}

impl QueryChange {
    /// Applies the changes to a packet that [`Query::parse`] accepts.
    pub fn apply(self, packet: &mut [u8]) {
        let bits = self.flags.apply(header::u16_at(packet, 2));
        packet[2..4].copy_from_slice(&bits.to_be_bytes());
        if let Some(max) = self.max_udp
            && let Some(at) = opt_class_at(packet)
            && header::u16_at(packet, at) > max
        {
            packet[at..at + 2].copy_from_slice(&max.to_be_bytes());
        }
    }
}

/// Returns the offset of the class of the OPT record, which is the UDP payload size (RFC 6891 6.1.2).
fn opt_class_at(packet: &[u8]) -> Option<usize> {
    let question = Query::readable_question(packet)?;
    let mut rest = packet.get(header::LEN + question.len()..)?;
    while !rest.is_empty() {
        let record = RawRecord::read(&mut rest).ok()?;
        if record.rtype == Type::OPT {
            // The class and the TTL, 2 and 4 bytes, and the length of the data precede the data.
            return Some(packet.len() - rest.len() - record.rdata.len() - 8);
        }
    }
    None
}

/// A record of a query. Only OPT is used.
struct RawRecord<'a> {
    at_root: bool,
    rtype: Type,
    class: u16,
    ttl: u32,
    rdata: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Reads the record at the start of `rest` and moves `rest` past it. Pointers of its owner are not followed.
    fn read(rest: &mut &'a [u8]) -> Result<RawRecord<'a>, QueryError> {
        let at_root = rest.first() == Some(&0);
        let mut at = 0;
        loop {
            match *rest.get(at).ok_or(QueryError)? {
                0 => break at += 1,
                len @ 1..=63 => at += 1 + usize::from(len),
                // A pointer ends a name; its target does not matter here.
                192.. => break at += 2,
                _ => return Err(QueryError),
            }
            if at > MAX_LEN {
                return Err(QueryError);
            }
        }
        let fixed = rest.get(at..at + 10).ok_or(QueryError)?;
        let len = usize::from(header::u16_at(fixed, 8));
        let rdata = rest.get(at + 10..at + 10 + len).ok_or(QueryError)?;
        *rest = &rest[at + 10 + len..];
        Ok(RawRecord {
            at_root,
            rtype: Type(header::u16_at(fixed, 0)),
            class: header::u16_at(fixed, 2),
            ttl: u32::from(header::u16_at(fixed, 4)) << 16 | u32::from(header::u16_at(fixed, 6)),
            rdata,
        })
    }

    /// Returns the record as an OPT. Its options must fill it exactly.
    fn edns(&self) -> Result<Edns<'a>, QueryError> {
        let mut options = self.rdata;
        while !options.is_empty() {
            if options.len() < 4 {
                return Err(QueryError);
            }
            options = options.get(4 + usize::from(header::u16_at(options, 2))..).ok_or(QueryError)?;
        }
        Ok(Edns {
            size: self.class,
            version: (self.ttl >> 16) as u8,
            dnssec_ok: self.ttl & 0x8000 != 0,
            options: self.rdata,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a packet with this name in wire form, type A, class IN and these additional records.
    fn packet(name: &[u8], additional: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional.len() as u8];
        packet.extend(name);
        packet.extend([0, 1, 0, 1]);
        packet.extend(additional.concat());
        packet
    }

    const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];

    #[test]
    fn a_name_is_folded_and_split_into_labels() {
        let packet = packet(b"\x03WeB\x01a\x03sVc\0", &[OPT]);
        let query = Query::parse(&packet).expect("a query");
        let question = &query.question;
        assert_eq!(question.name().to_string(), "web.a.svc.");
        assert_eq!(query.sent_name().to_string(), "WeB.a.sVc.");
        assert_eq!(question.labels(), 3);
        assert_eq!(question.label(0), b"web");
        assert_eq!(question.slice(0, 2), b"\x03web\x01a");
        assert_eq!(question.suffix(1).to_string(), "svc.");
        assert_eq!(question.suffix(0).to_string(), ".");
        assert_eq!(query.edns.expect("an OPT").size, 1232);
        assert!(query.edns.expect("an OPT").dnssec_ok);
        assert_eq!(Question::new(query.sent_name(), Type::A, Class::IN).name().as_wire(), question.name().as_wire());
    }

    #[test]
    fn a_packet_that_is_not_a_query_is_an_error() {
        let long = [[63; 64]; 4].concat();
        for name in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0c", b"\x40a\0", b"\x05a", &long] {
            assert!(Query::parse(&packet(name, &[])).is_err(), "{name:?}");
        }
        let many = [1, b'a'].repeat(128);
        assert!(Query::parse(&packet(&many, &[])).is_err());
        assert!(Query::parse(&packet(b"\0", &[OPT, OPT])).is_err());
        // An OPT in the answer or authority section, alone or in addition to one in the additional section.
        for counts in [[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1]] {
            let count = counts.iter().sum::<u8>();
            let mut packet = packet(b"\0", &vec![OPT; usize::from(count)]);
            (packet[7], packet[9], packet[11]) = (counts[0], counts[1], counts[2]);
            assert!(Query::parse(&packet).is_err(), "{counts:?}");
        }
        assert!(Query::parse(&packet(b"\0", &[&OPT[..10]])).is_err());
        assert!(Query::parse(&packet(b"\0", &[&[1, b'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]])).is_err());
        assert!(Query::parse(&packet(b"\0", &[&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 3, 0, 9]])).is_err());
    }

    #[test]
    fn the_longest_name_is_accepted() {
        let mut name = [&[63][..], &[b'a'; 63]].concat().repeat(3);
        name.extend([&[61][..], &[b'a'; 61], &[0]].concat());
        assert_eq!(name.len(), MAX_LEN);
        assert!(Query::parse(&packet(&name, &[])).is_ok());
        let most = [&[1, b'a'].repeat(127)[..], &[0]].concat();
        assert_eq!(Query::parse(&packet(&most, &[])).expect("a query").question.labels(), 127);
    }

    #[test]
    fn a_forwarded_query_has_changed_flags_and_a_limited_udp_size() {
        let change =
            QueryChange { flags: Change { set: header::flag::AD, clear: header::flag::RD }, max_udp: Some(700) };
        let authority = [&b"\x01a\0\0\x02\0\x01\0\0\0\x3c\0\x03\x01b\0"[..]].concat();
        for (size, expected) in [(4_096_u16, 700), (700, 700), (512, 512), (0, 0)] {
            let mut opt = OPT.to_vec();
            opt[3..5].copy_from_slice(&size.to_be_bytes());
            opt[10] = 5;
            opt.extend([0, 3, 0, 1, 9]);
            let mut packet = packet(b"\x03web\x01a\0", &[&authority, &opt]);
            (packet[9], packet[11]) = (1, 1);
            let before = packet.clone();
            change.apply(&mut packet);
            let query = Query::parse(&packet).expect("a query");
            assert_eq!((query.edns.expect("an OPT").size, query.flags()), (expected, header::flag::AD));
            let changed = before.iter().zip(&packet).filter(|(before, after)| before != after).count();
            assert!(changed <= 4, "the flags and the size only");
        }
        let mut without = packet(b"\0", &[]);
        change.apply(&mut without);
        assert_eq!(without[12..], packet(b"\0", &[])[12..]);
    }

    #[test]
    fn a_changed_query_has_the_new_question_and_options() {
        let before = packet(b"\x03web\x01a\0", &[OPT]);
        let query = Query::parse(&before).expect("a query");
        let mut changed = Vec::new();
        let edns = Edns { options: &[0xff, 0xee, 0, 1, 7, 0, 3, 0, 0], ..query.edns.expect("an OPT") };
        let name = Name::from_wire(b"\x01B\0").expect("a name");
        query.write_changed(name, Type::AAAA, Class::CH, Some(&edns), &mut changed);
        let query = Query::parse(&changed).expect("a query");
        assert_eq!((query.id(), query.flags()), (0x1234, 0x0100));
        let question = &query.question;
        assert_eq!(
            (query.sent_name().to_string().as_str(), question.qtype, question.qclass),
            ("B.", Type::AAAA, Class::CH)
        );
        let read = query.edns.expect("an OPT");
        assert_eq!(read, edns);
        assert_eq!(read.options().collect::<Vec<_>>(), [(0xffee, &[7][..]), (3, &[])]);
        assert_eq!((read.option(3), read.option(4)), (Some(&[][..]), None));
        let mut without = Vec::new();
        query.write_changed(name, Type::A, Class::IN, None, &mut without);
        assert_eq!(without.len(), header::LEN + 3 + 4);
        assert!(Query::parse(&without).expect("a query").edns.is_none());
    }

    #[test]
    fn no_bytes_cause_a_panic() {
        let whole = packet(b"\x03web\x01a\0", &[OPT]);
        for cut in 0..whole.len() {
            let _ = Query::parse(&whole[..cut]);
            let _ = Query::readable_question(&whole[..cut]);
        }
        let mut counts = whole;
        counts[6..12].fill(0xff);
        assert!(Query::parse(&counts).is_err());
    }
}
