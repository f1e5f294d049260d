//! A query: a view of a packet, plus its name folded to lower case, which every look-up works on.

use super::header::{self, Change};
use super::name::{MAX_LABEL, MAX_LEN, Name};
use super::types::{Class, Type};

/// The most labels that a name can have, without the root.
const MAX_LABELS: usize = 127;
/// How many octets are folded at once; divides 256.
const FOLD: usize = 16;

/// Why a packet with a good header is no query. Its answer is FORMERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryError;

/// What is asked: a name in lower case, a type and a class.
#[derive(Clone)]
pub struct Question {
    /// The name in wire form and lower case; valid up to `len`. One octet more than a name, to be whole in chunks.
    folded: [u8; MAX_LEN + 1],
    /// Where each label starts; valid up to `labels`. The root is not counted.
    starts: [u8; MAX_LABELS],
    /// The name's length with its final zero, 1–255.
    len: u8,
    /// How many labels there are, 0–127.
    labels: u8,
    /// The type asked for.
    pub qtype: Type,
    /// The class asked for.
    pub qclass: Class,
}

impl Question {
    /// A question that this server asks itself.
    pub fn new(name: Name<'_>, qtype: Type, qclass: Class) -> Question {
        let mut question = Question::empty();
        // A `Name` is valid, so that reading it cannot fail.
        let _ = question.read_name(name.as_wire());
        (question.qtype, question.qclass) = (qtype, qclass);
        question
    }

    /// The root, no type.
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

    /// Reads the name at the start of `bytes`, folds it and notes its labels; gives its length.
    ///
    /// No compression pointer is legal in the first name of a message: there is nothing earlier to point at.
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
            // One octet is left for the final zero; and so no name has more labels than `starts` holds.
            if end >= MAX_LEN {
                return Err(QueryError);
            }
            self.starts[labels] = at as u8;
            labels += 1;
            at = end;
        }
        let len = at + 1;
        self.folded[..len].copy_from_slice(&bytes[..len]);
        // Length octets are below `A`, so they may be folded along. Whole chunks are a few instructions each.
        for chunk in self.folded[..len.next_multiple_of(FOLD)].as_chunks_mut::<FOLD>().0 {
            chunk.make_ascii_lowercase();
        }
        self.len = len as u8;
        self.labels = labels as u8;
        Ok(len)
    }

    /// The name, in lower case.
    pub fn name(&self) -> Name<'_> {
        Name::trusted(&self.folded[..usize::from(self.len)])
    }

    /// How many labels the name has, without the root.
    pub fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// The `index`th label from the left, in lower case.
    ///
    /// # Panics
    /// When `index` is not below [`Question::labels`].
    pub fn label(&self, index: usize) -> &[u8] {
        assert!(index < self.labels());
        let at = usize::from(self.starts[index]);
        let len = usize::from(self.folded[at]);
        &self.folded[at + 1..at + 1 + len]
    }

    /// Where the name's last `labels` labels start, as an offset into the name. 0 labels is the root.
    ///
    /// # Panics
    /// When there are fewer labels.
    pub fn suffix_at(&self, labels: usize) -> u8 {
        let skip = self.labels().checked_sub(labels).expect("no more labels than the name has");
        if labels == 0 { self.len - 1 } else { self.starts[skip] }
    }

    /// The name's last `labels` labels, in lower case.
    pub fn suffix(&self, labels: usize) -> Name<'_> {
        Name::trusted(&self.folded[usize::from(self.suffix_at(labels))..usize::from(self.len)])
    }

    /// The wire form of `count` labels from the `index`th on, without a final zero: a key of the cluster index.
    pub fn slice(&self, index: usize, count: usize) -> &[u8] {
        let from = self.suffix_at(self.labels() - index);
        let to = self.suffix_at(self.labels() - index - count);
        &self.folded[usize::from(from)..usize::from(to)]
    }
}

/// The OPT record of a query (RFC 6891 6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns<'a> {
    /// The requestor's UDP payload size as sent.
    pub size: u16,
    /// The version; only 0 exists.
    pub version: u8,
    /// DNSSEC records are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// The options, as sent.
    pub options: &'a [u8],
}

impl<'a> Edns<'a> {
    /// The data of the first option with this code.
    pub fn option(&self, code: u16) -> Option<&'a [u8]> {
        let mut rest = self.options;
        while rest.len() >= 4 {
            let len = usize::from(header::u16_at(rest, 2));
            let data = rest.get(4..4 + len)?;
            if header::u16_at(rest, 0) == code {
                return Some(data);
            }
            rest = &rest[4 + len..];
        }
        None
    }
}

/// A query that has been read.
#[derive(Clone)]
pub struct Query<'a> {
    /// The whole packet.
    packet: &'a [u8],
    /// Where the question ends.
    question_end: u16,
    /// Where the last counted record ends.
    end: u16,
    /// What is asked.
    pub question: Question,
    /// The OPT record, if there is one.
    pub edns: Option<Edns<'a>>,
}

impl<'a> Query<'a> {
    /// Reads a packet whose header [`header::accept`] has passed.
    ///
    /// Octets behind the last counted record are passed over: some clients pad so.
    pub fn parse(packet: &'a [u8]) -> Result<Query<'a>, QueryError> {
        let mut query = Query::unread(packet);
        query.read()?;
        Ok(query)
    }

    /// A packet that [`Query::read`] is to read where it lies, since a query is large to move.
    pub(crate) fn unread(packet: &'a [u8]) -> Query<'a> {
        Query { packet, question_end: header::LEN as u16, end: 0, question: Question::empty(), edns: None }
    }

    /// Reads the packet; after an error only the packet is of use.
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

        // Three counts of 65,535 do not fit into 16 bits, should someone not have asked `accept`.
        let [answers, authorities, additionals] = [6, 8, 10].map(|at| u32::from(header::u16_at(packet, at)));
        let mut rest = &packet[question_end..];
        for index in 0..answers + authorities + additionals {
            let record = RawRecord::read(&mut rest)?;
            if record.rtype != Type::OPT {
                continue;
            }
            // RFC 6891 6.1.1: an OPT stands in ADDITIONAL, and there once, and its name is the root.
            if index < answers + authorities || self.edns.is_some() || !record.at_root {
                return Err(QueryError);
            }
            self.edns = Some(record.edns()?);
        }
        self.end = (packet.len() - rest.len()) as u16;
        Ok(())
    }

    /// The question of a packet that could not be read whole, to be echoed: name, type and class as sent.
    pub fn readable_question(packet: &[u8]) -> Option<&[u8]> {
        let mut question = Question::empty();
        let end = question.read_name(packet.get(header::LEN..)?).ok()? + 4;
        packet.get(header::LEN..header::LEN + end)
    }

    /// The packet as it came, without octets behind the last counted record.
    pub fn packet(&self) -> &'a [u8] {
        &self.packet[..usize::from(self.end)]
    }

    /// The message ID.
    pub fn id(&self) -> u16 {
        header::u16_at(self.packet, 0)
    }

    /// The 16 flag bits ([`header::flag`]).
    pub fn flags(&self) -> u16 {
        header::u16_at(self.packet, 2)
    }

    /// The question as sent, name, type and class, to be echoed octet for octet.
    pub fn question_wire(&self) -> &'a [u8] {
        &self.packet[header::LEN..usize::from(self.question_end)]
    }

    /// The name in the letter case in which it was sent.
    pub fn sent_name(&self) -> Name<'a> {
        Name::trusted(&self.packet[header::LEN..usize::from(self.question_end) - 4])
    }
}

/// How a query is changed where it goes to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct QueryChange {
    /// The flags.
    pub flags: Change,
    /// The largest UDP payload size that its OPT may offer, in bytes.
    pub max_udp: Option<u16>,
}

impl QueryChange {
    /// Changes a packet that [`Query::parse`] accepts.
    pub fn apply(self, packet: &mut [u8]) {
        let bits = self.flags.of(header::u16_at(packet, 2));
        packet[2..4].copy_from_slice(&bits.to_be_bytes());
        if let Some(max) = self.max_udp
            && let Some(at) = opt_class_at(packet)
            && header::u16_at(packet, at) > max
        {
            packet[at..at + 2].copy_from_slice(&max.to_be_bytes());
        }
    }
}

/// The offset of the class of the OPT record, which is the UDP payload size (RFC 6891 6.1.2).
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

/// A record of a query, of which only OPT is looked at.
struct RawRecord<'a> {
    at_root: bool,
    rtype: Type,
    class: u16,
    ttl: u32,
    rdata: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Reads the record that `rest` starts with and moves past it. Its owner is skipped, not followed.
    fn read(rest: &mut &'a [u8]) -> Result<RawRecord<'a>, QueryError> {
        let at_root = rest.first() == Some(&0);
        let mut at = 0;
        loop {
            match *rest.get(at).ok_or(QueryError)? {
                0 => break at += 1,
                len @ 1..=63 => at += 1 + usize::from(len),
                // A pointer ends a name. Where it points to is of no interest here.
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

    /// The record as an OPT; its options must fill it exactly.
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

    /// A packet with this name in wire form, type A, class IN, and these additional records.
    fn packet(name: &[u8], additional: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional.len() as u8];
        packet.extend(name);
        packet.extend([0, 1, 0, 1]);
        packet.extend(additional.concat());
        packet
    }

    const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];

    #[test]
    fn a_name_is_folded_and_its_labels_are_found() {
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
    fn what_is_no_query_is_refused() {
        let long = [[63; 64]; 4].concat();
        for name in [&b"\xc0\x0c"[..], b"\x01a\xc0\x0c", b"\x40a\0", b"\x05a", &long] {
            assert!(Query::parse(&packet(name, &[])).is_err(), "{name:?}");
        }
        let many = [1, b'a'].repeat(128);
        assert!(Query::parse(&packet(&many, &[])).is_err());
        assert!(Query::parse(&packet(b"\0", &[OPT, OPT])).is_err());
        // An OPT in ANSWER or AUTHORITY, alone or beside one in ADDITIONAL.
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
    fn a_forwarded_query_has_other_flags_and_offers_no_more_than_it_may() {
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
    fn any_octets_are_read_without_a_panic() {
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
