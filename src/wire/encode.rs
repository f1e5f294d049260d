//! The only place that writes responses: compression, EDNS and truncation.
//!
//! * The question is echoed byte for byte, so that the letter case that a client mixed in is preserved (0x20).
//! * Space for OPT is reserved before records are written: a truncated response has its OPT (RFC 6891 7).
//! * A record is written completely or not at all. Answers go first, so that a client that ignores TC still gets
//!   addresses.
//! * TC is set if any record is left out, as in miekg/dns `Truncate`.

use super::header::{self, flag};
use super::name::Name;
use super::query::{Edns, Query};
use super::record::{NameRef, Rdata, Record, Section, StoredBytes};
use super::reply::Reply;
use super::size::MIN_UDP;
use super::types::{Rcode, Type};

/// The length of an OPT record without options.
const OPT_LEN: usize = 11;
/// The maximum number of compression targets. Responses with more distinct names compress a little less.
const MAX_TARGETS: usize = 24;

/// Writes the response to `query` into `out` and returns its length, at most `limit` bytes.
///
/// # Panics
/// If `out` is shorter than `limit`, or `limit` is below [`MIN_UDP`].
pub fn encode(query: &Query<'_>, reply: &mut Reply, limit: usize, out: &mut [u8]) -> usize {
    assert!(limit >= MIN_UDP && limit <= out.len());
    let opt_len = query.edns.map_or(0, |_| OPT_LEN + reply.options().len());
    let question = query.question_wire();
    let is_encoded_again = reply.mark_encoded();
    let (records, arena, base) = reply.arena();
    if is_encoded_again {
        records.iter().for_each(|record| record.clear_positions(arena));
    }
    // The longest question leaves 241 of 512 bytes, so it always fits together with an OPT. Long options may not fit,
    // and are then left out.
    let with_options = header::LEN + question.len() + opt_len <= limit;
    let opt_len = if with_options { opt_len } else { OPT_LEN };
    let sent_name = query.sent_name().as_wire();
    let (at, end) = (header::LEN, limit - opt_len);
    let targets = CompressionTargets::default();
    let written = WrittenEnd::of_question(sent_name, base.is_none());
    let mut writer =
        Writer { out: &mut out[..limit], at, end, sent_name, base, base_in_question: None, written, targets };
    writer.put(question);

    let (mut counts, mut left) = ([0u16; 3], records.len());
    let mut complete = true;
    for section in [Section::Answer, Section::Authority, Section::Additional] {
        // Most responses have records in one section only.
        if left == 0 {
            break;
        }
        for record in records.iter().filter(|record| record.section == section) {
            let start = writer.at;
            if writer.record(record, arena).is_none() {
                writer.at = start;
                complete = false;
                break;
            }
            counts[section as usize] += 1;
            left -= 1;
        }
        if !complete {
            break;
        }
    }
    writer.end = limit;
    if let Some(edns) = &query.edns {
        writer.opt(edns, reply, with_options);
        counts[2] += 1;
    }
    let len = writer.at;
    let bits = response_bits(query.flags(), reply.rcode)
        | if reply.authoritative { flag::AA } else { 0 }
        | if reply.truncated || !complete { flag::TC } else { 0 }
        | if reply.recursion_available { flag::RA } else { 0 }
        | if reply.authentic_data { flag::AD } else { 0 };
    let bits = match reply.recursion_desired {
        None => bits,
        Some(true) => bits | flag::RD,
        Some(false) => bits & !flag::RD,
    };
    put_header(out, query.id(), bits, [1, counts[0], counts[1], counts[2]]);
    len
}

/// Writes the response to a packet that is not a valid query: its code, and its question if that is readable.
pub fn encode_error(packet: &[u8], rcode: Rcode, out: &mut [u8]) -> usize {
    // Only a message with exactly one question has a question to echo.
    let question = match header::u16_at(packet, 4) {
        1 => Query::readable_question(packet).unwrap_or_default(),
        _ => &[],
    };
    let flags = header::u16_at(packet, 2);
    let bits = response_bits(flags, rcode);
    put_header(out, header::u16_at(packet, 0), bits, [u16::from(!question.is_empty()), 0, 0, 0]);
    out[header::LEN..header::LEN + question.len()].copy_from_slice(question);
    header::LEN + question.len()
}

/// Returns the flags of a response: the operation code, RD and CD of the query, and the low four bits of the code.
fn response_bits(flags: u16, rcode: Rcode) -> u16 {
    flag::QR | flags & (0x7800 | flag::RD | flag::CD) | rcode.0 & 0x0f
}

/// Returns whether two names have no end in common but the root, by their last letters: of a letter in either case, one
/// bit differs. Most names that are not equal in the end do.
#[inline(always)]
fn ends_differently(one: &[u8], other: &[u8]) -> bool {
    matches!((one, other), ([.., one, _], [.., other, _]) if (one ^ other) & !0x20 != 0)
}

/// Returns a compression pointer.
fn pointer_to(target: u16) -> [u8; 2] {
    (target | 0xc000).to_be_bytes()
}

/// Writes the header.
fn put_header(out: &mut [u8], id: u16, bits: u16, counts: [u16; 4]) {
    let mut header = [0; header::LEN];
    for (bytes, number) in
        header.as_chunks_mut::<2>().0.iter_mut().zip([id, bits, counts[0], counts[1], counts[2], counts[3]])
    {
        *bytes = number.to_be_bytes();
    }
    out[..header::LEN].copy_from_slice(&header);
}

/// A cursor over the response.
struct Writer<'a> {
    /// The buffer for the response.
    out: &'a mut [u8],
    /// The offset of the next byte.
    at: usize,
    /// The offset up to which may be written now.
    end: usize,
    /// The name of the question as sent.
    sent_name: &'a [u8],
    /// The name in which tails of names, except 0, are offsets, if it is not that of the question.
    base: Option<StoredBytes>,
    /// The offset in that name from which on it ends like the question's name, and where that is in the message.
    base_in_question: Option<(u8, u16)>,
    /// What needs no more than a pointer.
    written: WrittenEnd,
    /// The names that pointers may refer to.
    targets: CompressionTargets,
}

/// The bytes of the question's name, or of the base, that are in the message: `len` of them, from the offset `from` on.
/// A tail ([`NameRef::tail`]) in this range needs only a pointer. The final zero, which is shorter, is not included.
#[derive(Clone, Copy)]
struct WrittenEnd {
    from: u8,
    len: u8,
    /// The offset in the message.
    at: u16,
}

impl WrittenEnd {
    /// Returns those of the question's name as sent: all, or only the first, so that its tail is the whole name.
    fn of_question(sent_name: &[u8], all: bool) -> WrittenEnd {
        let len = sent_name.len() as u8 - 1;
        WrittenEnd { from: 0, len: if all { len } else { len.min(1) }, at: header::LEN as u16 }
    }

    /// Returns where the name from `tail` on is in the message.
    #[inline(always)]
    fn pointer_to(self, tail: u8) -> Option<u16> {
        let behind = tail.wrapping_sub(self.from);
        (behind < self.len).then(|| self.at + u16::from(behind))
    }

    /// Returns whether these are bytes of the base.
    fn is_of_base(self) -> bool {
        self.from > 0
    }
}

/// Offsets of labels in the message that later names may point to. All are below 16,384, the limit of a pointer.
#[derive(Default)]
struct CompressionTargets {
    at: [u16; MAX_TARGETS],
    len: usize,
}

impl Writer<'_> {
    /// Writes bytes that are known to fit.
    fn put(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    /// Writes bytes if they fit. For a constant length this is a comparison and a store or two.
    #[inline(always)]
    fn try_put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at + bytes.len();
        if end > self.end {
            return None;
        }
        self.out[self.at..end].copy_from_slice(bytes);
        self.at = end;
        Some(())
    }

    /// Writes a record, or returns `None` if it does not fit; the caller then discards what was written of it.
    fn record(&mut self, record: &Record, arena: &mut [u8]) -> Option<()> {
        self.name(record.owner, arena, true)?;
        let mut fixed = [0; 10];
        fixed[..2].copy_from_slice(&record.rtype.0.to_be_bytes());
        fixed[2..4].copy_from_slice(&record.class.0.to_be_bytes());
        fixed[4..8].copy_from_slice(&record.ttl.to_be_bytes());
        match record.rdata {
            // The most common data is written together with its fixed fields.
            Rdata::A(address) => {
                fixed[9] = 4;
                self.try_put(&fixed)?;
                return self.try_put(&address);
            }
            Rdata::Aaaa(address) => {
                fixed[9] = 16;
                self.try_put(&fixed)?;
                return self.try_put(&address);
            }
            _ => self.try_put(&fixed)?,
        }
        let start = self.at;
        match record.rdata {
            Rdata::A(_) | Rdata::Aaaa(_) => {}
            Rdata::Name(name) => self.name(name, arena, true)?,
            Rdata::Srv { priority, weight, port, target } => {
                let mut head = [0; 6];
                for (bytes, number) in head.chunks_exact_mut(2).zip([priority, weight, port]) {
                    bytes.copy_from_slice(&number.to_be_bytes());
                }
                self.try_put(&head)?;
                // RFC 2782: "Name compression is not to be used for this field."
                self.name(target, arena, false)?;
            }
            Rdata::Soa { mname, rname, numbers } => {
                self.name(mname, arena, true)?;
                self.name(rname, arena, true)?;
                self.try_put(numbers.of(arena))?;
            }
            Rdata::Bytes(bytes) => self.try_put(bytes.of(arena))?,
        }
        let len = (self.at - start) as u16;
        self.out[start - 2..start].copy_from_slice(&len.to_be_bytes());
        Some(())
    }

    /// Writes a name, or a pointer to an earlier occurrence of it or of its end. Most owners are the question's name or
    /// an end of it, for which this makes no call.
    #[inline(always)]
    fn name(&mut self, name: NameRef, arena: &mut [u8], compress: bool) -> Option<()> {
        if name.is_stored() { self.stored_name(name, arena, compress) } else { self.tail(name, arena, compress) }
    }

    /// Writes a name with labels in the arena.
    #[inline(never)]
    fn stored_name(&mut self, name: NameRef, arena: &mut [u8], compress: bool) -> Option<()> {
        let (position, labels) = name.in_arena(arena)?;
        let earlier = u16::from_be_bytes(*position);
        if compress && earlier != 0 {
            return self.pointer(earlier);
        }
        let start = self.at;
        // A pointer has 14 bits. The two bytes are zero until the name is written, which is never at offset 0.
        if start < 0x4000 {
            *position = (start as u16).to_be_bytes();
        }
        // Most names end like the question: labels and a pointer, which need one comparison.
        if compress && let Some(target) = self.written.pointer_to(name.tail) {
            let pointer_at = start + labels.len();
            let end = pointer_at + 2;
            if end > self.end {
                return None;
            }
            let (front, pointer) = self.out[start..end].split_at_mut(labels.len());
            front.copy_from_slice(labels);
            pointer.copy_from_slice(&pointer_to(target));
            self.at = end;
            return Some(());
        }
        match name.tail() {
            Some(tail) => {
                self.try_put(labels)?;
                self.other_tail(tail, arena, compress)
            }
            None => self.literal(labels, compress),
        }
    }

    /// Writes the end of the question's name that `name` ends with.
    #[inline(always)]
    fn tail(&mut self, name: NameRef, arena: &[u8], compress: bool) -> Option<()> {
        if compress && let Some(target) = self.written.pointer_to(name.tail) {
            return self.pointer(target);
        }
        match name.tail() {
            Some(tail) => self.other_tail(tail, arena, compress),
            None => self.try_put(&[0]),
        }
    }

    /// Writes a tail that is not a pointer to [`Writer::written`].
    #[inline(always)]
    fn other_tail(&mut self, tail: u8, arena: &[u8], compress: bool) -> Option<()> {
        match self.base {
            Some(base) if tail > 0 => self.tail_of_base(tail, base.of(arena), compress),
            // That of the question's name as sent, where `written` is about another name.
            Some(_) if compress && self.sent_name.len() > 1 => self.pointer(header::LEN as u16),
            _ => self.try_put(&self.sent_name[usize::from(tail)..]),
        }
    }

    /// Writes the end of another name than the question's, from `tail` on.
    #[inline(never)]
    fn tail_of_base(&mut self, tail: u8, base: &[u8], compress: bool) -> Option<()> {
        let rest = &base[usize::from(tail)..];
        if !compress || rest.len() == 1 {
            return self.try_put(rest);
        }
        let start = self.at;
        if self.written.is_of_base() || !ends_differently(self.sent_name, rest) {
            return self.labels_of_base(tail, rest);
        }
        self.try_put(rest)?;
        self.record_written(tail, rest.len() as u8 - 1, start);
        Some(())
    }

    /// Writes the end of the base where it may share an end with the question, or where a part of it was written.
    #[inline(never)]
    fn labels_of_base(&mut self, tail: u8, rest: &[u8]) -> Option<()> {
        let base_len = tail + rest.len() as u8;
        let (shared, in_question) = match self.base_in_question {
            Some(known) => known,
            None => *self.base_in_question.insert(self.end_in_question(tail, rest)),
        };
        if tail >= shared {
            return self.pointer(in_question + u16::from(tail - shared));
        }
        let start = self.at;
        let labels = |end: u8| &rest[..usize::from(end - tail)];
        if self.written.is_of_base() {
            self.try_put(labels(self.written.from))?;
            return self.pointer(self.written.at);
        }
        self.try_put(labels(shared))?;
        if in_question > 0 {
            self.pointer(in_question)?;
        }
        self.record_written(tail, shared.min(base_len - 1) - tail, start);
        Some(())
    }

    /// Records that `len` bytes of the base are in the message at this offset.
    #[inline(always)]
    fn record_written(&mut self, from: u8, len: u8, at: usize) {
        // A pointer has 14 bits, also one to the last of these labels.
        if at + usize::from(len) < 0x4000 {
            self.written = WrittenEnd { from, len, at: at as u16 };
        }
    }

    /// Finds the longest end of `rest`, which begins at the offset `tail` of its name, that is an end of the question's
    /// name too. Returns its offset in the name and in the message; the end of the name and 0 if there is none.
    fn end_in_question(&self, tail: u8, rest: &[u8]) -> (u8, u16) {
        let (sent, mut at) = (Name::trusted(self.sent_name), 0);
        while rest[at] != 0 {
            let end = &rest[at..];
            if sent.is_within(Name::trusted(end)) {
                return (tail + at as u8, (header::LEN + sent.as_wire().len() - end.len()) as u16);
            }
            at += 1 + usize::from(rest[at]);
        }
        (tail + rest.len() as u8, 0)
    }

    /// Writes a pointer.
    #[inline(always)]
    fn pointer(&mut self, target: u16) -> Option<()> {
        self.try_put(&pointer_to(target))
    }

    /// Writes labels and the root; the longest end of them that the message already has becomes a pointer.
    fn literal(&mut self, labels: &[u8], compress: bool) -> Option<()> {
        if self.targets.len == 0 {
            self.targets.record_labels(self.out, header::LEN);
        }
        let start = self.at;
        let mut rest = labels;
        while !rest.is_empty() {
            if compress && let Some(target) = self.targets.find(self.out, rest) {
                self.pointer(target)?;
                self.targets.record_labels(self.out, start);
                return Some(());
            }
            let label = &rest[..=usize::from(rest[0])];
            self.try_put(label)?;
            rest = &rest[label.len()..];
        }
        self.try_put(&[0])?;
        self.targets.record_labels(self.out, start);
        Some(())
    }

    /// Writes the OPT record, for which space was reserved.
    fn opt(&mut self, edns: &Edns<'_>, reply: &Reply, with_options: bool) {
        let start = self.at;
        let mut opt = [0; OPT_LEN];
        opt[1..3].copy_from_slice(&Type::OPT.0.to_be_bytes());
        opt[3..5].copy_from_slice(&reply.udp_size(edns).to_be_bytes());
        opt[5] = (reply.rcode.0 >> 4) as u8;
        // RFC 3225 3: the DO bit is copied.
        opt[7] = if edns.dnssec_ok { 0x80 } else { 0 };
        self.put(&opt);
        if with_options {
            self.put(reply.options());
        }
        if let Some(error) = reply.extended_error {
            self.option(15, &[&error.code.to_be_bytes(), reply.error_text(error)]);
        }
        let len = (self.at - start - OPT_LEN) as u16;
        self.out[start + 9..start + 11].copy_from_slice(&len.to_be_bytes());
    }

    /// Writes an EDNS option if it fits.
    fn option(&mut self, code: u16, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if 4 + len <= self.end - self.at {
            self.put(&code.to_be_bytes());
            self.put(&(len as u16).to_be_bytes());
            parts.iter().for_each(|part| self.put(part));
        }
    }
}

impl CompressionTargets {
    /// Records the offset of each label of the name at `at`, up to its pointer or end.
    fn record_labels(&mut self, out: &[u8], mut at: usize) {
        while self.len < MAX_TARGETS && at < 0x4000 && (1..=63).contains(&out[at]) {
            self.at[self.len] = at as u16;
            self.len += 1;
            at += 1 + usize::from(out[at]);
        }
    }

    /// Returns the offset of an earlier name that consists of these labels, in the same letter case.
    fn find(&self, out: &[u8], labels: &[u8]) -> Option<u16> {
        // A length and a letter distinguish most names, and no recorded name starts with a pointer.
        let head = labels.first_chunk::<2>();
        self.at[..self.len].iter().copied().find(|&at| {
            let at = usize::from(at);
            out[at..].first_chunk() == head && is_name_at(out, at, labels)
        })
    }
}

/// Returns whether the name at `at` consists of exactly these labels. Its pointers were written here and lead
/// backwards.
fn is_name_at(out: &[u8], mut at: usize, mut labels: &[u8]) -> bool {
    loop {
        match out[at] {
            0 => return labels.is_empty(),
            pointer @ 192.. => at = usize::from(pointer & 0x3f) << 8 | usize::from(out[at + 1]),
            len => {
                let end = 1 + usize::from(len);
                if labels.len() < end || out[at..at + end] != labels[..end] {
                    return false;
                }
                at += end;
                labels = &labels[end..];
            }
        }
    }
}

impl StoredBytes {
    /// Returns the bytes in the arena.
    fn of(self, arena: &[u8]) -> &[u8] {
        &arena[self.range()]
    }
}

impl Record {
    /// Clears the offsets of this record's names that an earlier encoding stored.
    fn clear_positions(&self, arena: &mut [u8]) {
        let mut clear = |name: NameRef| {
            if name.is_stored()
                && let Some((position, _)) = name.in_arena(arena)
            {
                *position = [0; 2];
            }
        };
        clear(self.owner);
        match self.rdata {
            Rdata::A(_) | Rdata::Aaaa(_) | Rdata::Bytes(_) => {}
            Rdata::Name(name) | Rdata::Srv { target: name, .. } => clear(name),
            Rdata::Soa { mname, rname, .. } => {
                clear(mname);
                clear(rname);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::hickory::decode;
    use crate::wire::{Class, MAX_MESSAGE, NameBuf};

    /// A reply about another name than the question's, in which that name is written first where only its first label
    /// is in reach of a pointer.
    #[test]
    fn no_pointer_leads_behind_its_14_bits() {
        let label = "b".repeat(63);
        let about = NameBuf::from_text(&format!("a.{label}.c.test.")).expect("a name");
        let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01q\0\x00\x01\x00\x01";
        let mut reply = Reply::new();
        reply.set_base(about.as_name());
        // 19 bytes of header and question, and 16 of each record: the next one is at 16,371.
        for _ in 0..1_022 {
            reply.answer(Type::A, 5, Rdata::A([10, 0, 0, 1]));
        }
        let (rdata, after_first) = (Rdata::A([10, 0, 0, 2]), 2);
        for owner in [after_first, after_first + 64, after_first + 64, after_first + 66] {
            let owner = NameRef::question(owner);
            reply.push(Record { section: Section::Answer, owner, rtype: Type::A, class: Class::IN, ttl: 5, rdata });
        }
        let mut out = vec![0; MAX_MESSAGE];
        let len = encode(&Query::parse(query).expect("a query"), &mut reply, MAX_MESSAGE, &mut out);
        let message = decode(&out[..len]).expect("a message");
        let names: Vec<String> = message.answers[1_022..].iter().map(|record| record.name.to_string()).collect();
        assert_eq!(names, [&format!("{label}.c.test."), "c.test.", "c.test.", "test."]);
    }

    /// Every end of the name that a reply is about, in any order and with labels in front of it, is itself in the
    /// message, whatever that name and the question's have in common.
    #[test]
    fn ends_of_another_name_than_the_question_are_written() {
        let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01q\x04test\0\x00\x01\x00\x01";
        for about in ["a.b.c.other.", "a.b.c.test.", "a.b.q.test."] {
            let about = NameBuf::from_text(about).expect("a name");
            let root = about.as_wire().len() as u8 - 1;
            let rdata = Rdata::A([10, 0, 0, 2]);
            for order in [[2, 4, 6, root], [root, 6, 4, 2], [4, root, 2, 6], [6, 2, root, 4]] {
                let mut reply = Reply::new();
                reply.set_base(about.as_name());
                let mut expected = Vec::new();
                for tail in order {
                    let end = Name::trusted(&about.as_wire()[usize::from(tail)..]).to_string();
                    let below = reply.store_labels(&[b"\x01x"], Some(tail));
                    for owner in [NameRef::question(tail), below, below, NameRef::question(tail)] {
                        let in_front = if owner == below { "x." } else { "" };
                        expected.push(if end == "." && owner == below {
                            "x.".to_owned()
                        } else {
                            format!("{in_front}{end}")
                        });
                        reply.push(Record {
                            section: Section::Answer,
                            owner,
                            rtype: Type::A,
                            class: Class::IN,
                            ttl: 5,
                            rdata,
                        });
                    }
                }
                let mut out = vec![0; MAX_MESSAGE];
                let len = encode(&Query::parse(query).expect("a query"), &mut reply, MAX_MESSAGE, &mut out);
                let message = decode(&out[..len]).expect("a message");
                let names: Vec<String> = message.answers.iter().map(|record| record.name.to_string()).collect();
                assert_eq!(names, expected, "{} {order:?}", about.as_name());
            }
        }
    }
}
