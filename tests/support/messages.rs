//! Messages compared with hickory: it decodes what is encoded, what it accepts is accepted, and limits hold.

use std::collections::BTreeSet;

use clusterdns::chain::{State, Transport};
use clusterdns::wire::header::{self, Accept, flag};
use clusterdns::wire::record::SoaNumbers;
use clusterdns::wire::reply::{ErrorText, ExtendedError};
use clusterdns::wire::{
    self, Class, MAX_MESSAGE, MIN_UDP, NameRef, Query, Question, Rcode, Rdata, Record, Reply, Section, Type,
};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use super::Choices;
use super::answers::{Subject, n, packet};
use super::decoded::{self, DecodedRecord};

//--- Replies

/// The number of bytes that a record of a reply is generated from.
pub const RECORD: usize = 24;

const LABELS: [&[u8]; 8] = [
    b"a",
    b"A",
    b"web",
    b"Web",
    b"svc",
    b"xn--0",
    b"_tcp",
    b"a-label-of-some-length-that-fills-answers-sooner-than-short-one",
];
const UNKNOWN: Type = Type(65_280);
const OPT_LEN: usize = 11;

/// Generates a query with any name, flags and OPT.
fn any_query(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut packet = choices.number().to_be_bytes().to_vec();
    let flags = choices.number() & (flag::RD | flag::CD | flag::AD | flag::RA | flag::TC | 0x40);
    packet.extend(flags.to_be_bytes());
    let edns = choices.byte();
    packet.extend([0, 1, 0, 0, 0, 0, 0, edns & 1]);
    packet.extend(some_labels(choices, 3));
    packet.extend([0, 0, 1, 0, 1]);
    if edns & 1 == 1 {
        packet.extend([0, 0, 41]);
        packet.extend(choices.number().to_be_bytes());
        packet.extend([0, 0, if edns & 2 == 2 { 0x80 } else { 0 }, 0, 0, 0]);
    }
    packet
}

/// Generates labels in wire form, few enough that three such lists fit into a name.
fn some_labels(choices: &mut Choices<'_>, most: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for _ in 0..choices.below(most + 1) {
        let label = choices.pick(&LABELS);
        wire.push(label.len() as u8);
        wire.extend(label);
    }
    wire
}

/// Generates a name of any kind, or repeats an earlier one.
fn any_name(choices: &mut Choices<'_>, reply: &mut Reply, question: &Question, made: &mut Vec<NameRef>) -> NameRef {
    let sort = choices.below(8);
    let tail = question.suffix_at(choices.below(question.labels() + 1));
    let name = match sort {
        0 => NameRef::QUESTION,
        1 => NameRef::question(tail),
        2 | 3 if !made.is_empty() => made[choices.below(made.len().min(256))],
        2..=4 => {
            let (first, second) = (some_labels(choices, 1), some_labels(choices, 1));
            // Labels have up to 64 bytes, and the question up to three of them.
            let tail = if question.labels() > 1 { question.suffix_at(1) } else { tail };
            reply.store_labels(&[&first, &second], Some(tail))
        }
        5 => {
            let labels = some_labels(choices, 3);
            reply.store_labels(&[&labels], None)
        }
        _ => {
            let wire = [some_labels(choices, 3), vec![0]].concat();
            reply.store_name(wire::Name::from_wire(&wire).expect("a name"))
        }
    };
    made.push(name);
    name
}

fn any_record(bytes: &[u8], reply: &mut Reply, question: &Question, made: &mut Vec<NameRef>) -> Record {
    let mut choices = Choices::new(bytes);
    let section = choices.pick(&[Section::Answer, Section::Authority, Section::Additional]);
    let sort = choices.below(8);
    let ttl = u32::from(choices.number()) << choices.below(16);
    let class = choices.pick(&[Class::IN, Class::CH]);
    let owner = any_name(&mut choices, reply, question, made);
    let mut name = |choices: &mut Choices<'_>| any_name(choices, reply, question, made);
    let (rtype, rdata) = match sort {
        0 => (Type::A, Rdata::A([choices.byte(); 4])),
        1 => (Type::AAAA, Rdata::Aaaa([choices.byte(); 16])),
        2 => (choices.pick(&[Type::CNAME, Type::NS, Type::PTR]), Rdata::Name(name(&mut choices))),
        3 => {
            let target = name(&mut choices);
            (
                Type::SRV,
                Rdata::Srv { priority: choices.number(), weight: choices.number(), port: choices.number(), target },
            )
        }
        4 => {
            let (mname, rname) = (name(&mut choices), name(&mut choices));
            let serial = u32::from(choices.number()) << 16;
            let numbers = SoaNumbers { serial, refresh: 7_200, retry: 1_800, expire: 86_400, minimum: 5 };
            (Type::SOA, Rdata::Soa { mname, rname, numbers: reply.store_soa_numbers(numbers) })
        }
        5 => {
            let text = vec![b'x'; choices.below(256)];
            (Type::TXT, Rdata::Bytes(reply.store(&[&[text.len() as u8], &text[..]].concat())))
        }
        // Without data, hickory would parse it as a prerequisite of an update.
        _ => {
            let len = 1 + usize::from(choices.byte()) * choices.pick(&[0, 1, 8]);
            (UNKNOWN, Rdata::Bytes(reply.store(&vec![0xc0; len])))
        }
    };
    Record { section, owner, rtype, class, ttl, rdata }
}

/// Returns a record as hickory should decode it.
fn expected(reply: &Reply, record: &Record, sent: wire::Name<'_>) -> DecodedRecord {
    let name = |name| reply.full_name(name, sent).as_wire().to_vec();
    let data = match record.rdata {
        Rdata::A(address) => address.to_vec(),
        Rdata::Aaaa(address) => address.to_vec(),
        Rdata::Name(target) => name(target),
        Rdata::Srv { priority, weight, port, target } => {
            [[priority, weight, port].map(u16::to_be_bytes).concat(), name(target)].concat()
        }
        Rdata::Soa { mname, rname, numbers } => [name(mname), name(rname), reply.bytes(numbers).to_vec()].concat(),
        Rdata::Bytes(bytes) => reply.bytes(bytes).to_vec(),
    };
    let (rtype, class) = (record.rtype.0, record.class.0);
    DecodedRecord { section: record.section as usize, owner: name(record.owner), rtype, class, ttl: record.ttl, data }
}

/// Checks that hickory decodes an encoded reply, and that records that do not fit are missing from the end, with TC.
/// The query and everything but the records are generated from `settings`, each record from [`RECORD`] bytes.
pub fn check_reply(settings: &[u8], records: &[u8]) {
    let mut choices = Choices::new(settings);
    let limit = match choices.below(4) {
        0 => MIN_UDP,
        1 => MAX_MESSAGE,
        _ => MIN_UDP + usize::from(choices.number()) % (4_096 - MIN_UDP + 1),
    };
    let mut reply = Reply::new();
    let bits = choices.byte();
    reply.authoritative = bits & 1 != 0;
    reply.recursion_available = bits & 2 != 0;
    reply.authentic_data = bits & 4 != 0;
    reply.truncated = bits & 8 != 0;
    reply.rcode = Rcode(u16::from(choices.byte()) % 24);
    reply.extended_error =
        (bits & 16 != 0).then_some(ExtendedError { code: 14, reason: "", text: ErrorText::Fixed("not ready") });
    if bits & 32 != 0 {
        let id = vec![b'n'; usize::from(choices.byte()) * choices.pick(&[1, 3, 300])];
        reply.add_option(3, &id);
    }
    reply.max_udp = (bits & 64 != 0).then_some(1_232);
    let packet = any_query(&mut choices);
    let query = Query::parse(&packet).expect("a query");
    let mut made = Vec::new();
    for bytes in records.chunks(RECORD) {
        let record = any_record(bytes, &mut reply, &query.question, &mut made);
        reply.push(record);
    }

    let mut all: Vec<DecodedRecord> =
        reply.records().iter().map(|record| expected(&reply, record, query.sent_name())).collect();
    all.sort_by_key(|record| record.section);
    let mut out = vec![0xee; limit + 2];
    let len = wire::encode(&query, &mut reply, limit, &mut out);
    assert!(len <= limit && out[limit..] == [0xee; 2]);
    let bytes = out[..len].to_vec();
    let again = wire::encode(&query, &mut reply, limit, &mut out);
    assert_eq!(out[..again], bytes, "the second encoding differs");

    let message = decoded::decode(&bytes);
    let records = decoded::records(&message);
    assert_eq!(records, all[..records.len()], "the decoded records differ");
    let complete = records.len() == all.len();
    let flags = u16::from_be_bytes([bytes[2], bytes[3]]);
    let has = |flag| flags & flag != 0;
    assert_eq!(has(flag::TC), reply.truncated || !complete);
    assert!(has(flag::QR) && has(flag::AA) == reply.authoritative && has(flag::RA) == reply.recursion_available);
    assert_eq!((has(flag::AD), flags & 0x7840), (reply.authentic_data, 0));
    assert_eq!(flags & (flag::RD | flag::CD), query.flags() & (flag::RD | flag::CD));
    assert_eq!(message.metadata.id, query.id());
    let question_end = header::LEN + query.question_wire().len();
    assert_eq!(bytes[header::LEN..question_end], *query.question_wire());
    check_counts(&bytes, &message);
    check_opt(&bytes, &message, &query, &reply, limit);
    if !complete {
        // No space was wasted: the next record would not fit even uncompressed.
        let next = &all[records.len()];
        let options = reply.options().len();
        let error = if reply.extended_error.is_some() { 4 + 2 + 9 } else { 0 };
        assert!(len + next.owner.len() + 10 + next.data.len() + options + error > limit, "{next:?} would fit");
    }
}

/// Checks that the header's counts are those of the records.
fn check_counts(bytes: &[u8], message: &Message) {
    let count = |at| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let additionals = message.additionals.len() + usize::from(message.edns.is_some());
    assert_eq!([count(6), count(8), count(10)], [message.answers.len(), message.authorities.len(), additionals]);
}

/// Checks that there is an OPT if the query had one, with the right content.
fn check_opt(bytes: &[u8], message: &Message, query: &Query<'_>, reply: &Reply, limit: usize) {
    let code = u16::from(message.metadata.response_code);
    assert_eq!(message.edns.is_some(), query.edns.is_some());
    let (Some(edns), Some(asked)) = (&message.edns, &query.edns) else {
        assert_eq!(code & 15, reply.rcode.0 & 15);
        return;
    };
    assert_eq!(u16::from(edns.rcode_high()) << 4 | code & 15, reply.rcode.0);
    assert_eq!((edns.version(), edns.flags().dnssec_ok), (0, asked.dnssec_ok));
    assert_eq!(edns.max_payload(), asked.size.min(reply.max_udp.unwrap_or(u16::MAX)).max(512));
    // OPT is the last record, so that its options are the end of the message.
    let option = |code: u16, parts: &[&[u8]]| {
        let data = parts.concat();
        [&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), &data].concat()
    };
    let options = reply.options().to_vec();
    let error = reply.extended_error.map(|error| option(15, &[&error.code.to_be_bytes(), reply.error_text(error)]));
    let error = error.unwrap_or_default();
    let space = limit - header::LEN - query.question_wire().len() - OPT_LEN;
    let options = if options.len() <= space { options } else { Vec::new() };
    let with_error = [&options[..], &error].concat();
    let rdata = |data: &[u8]| [&(data.len() as u16).to_be_bytes()[..], data].concat();
    let has_error = bytes.ends_with(&rdata(&with_error));
    assert!(has_error || bytes.ends_with(&rdata(&options)), "the options differ");
    assert!(has_error || bytes.len() + error.len() > limit, "there was space for the extended error");
}

//--- Queries

/// Checks that a query that hickory accepts is accepted with the same meaning.
///
/// Exceptions, where the standard demands FORMERR:
/// * a QNAME with a pointer, for which there is no earlier name in the message (RFC 1035 4.1.4);
/// * an OPT whose owner is not one zero byte (RFC 6891 6.1.2: "MUST be 0 (root domain)"), which hickory follows if it
///   is a pointer, or ignores;
/// * an OPT in another section than ADDITIONAL (RFC 6891 6.1.1), which is any record to hickory;
/// * an OPT with options that do not fill it exactly (RFC 6891 7: "If there is a problem with processing the OPT record
///   itself, such as an option value that is badly formatted [...], a FORMERR MUST be returned"), whose options hickory
///   ignores. Two OPT records (6.1.1) are rejected by hickory, too.
pub fn check_query(packet: &[u8]) {
    if header::accept(packet) != Accept::Parse || wire::Name::split_from(&packet[header::LEN..]).is_err() {
        return;
    }
    let Some(message) = wire::hickory::decode(packet) else { return };
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(_) => {
            let mut others = message.answers.iter().chain(&message.authorities);
            let is_misplaced = others.any(|record| record.record_type() == RecordType::OPT);
            assert!(is_misplaced || has_bad_opt(packet), "hickory accepts it, we do not: {message:?}");
            return;
        }
    };
    let [asked] = &message.queries[..] else { panic!("one question was accepted") };
    assert_eq!(decoded::name(&asked.name), query.sent_name().as_wire());
    assert_eq!(u16::from(asked.query_type), query.question.qtype.0);
    assert_eq!(u16::from(asked.query_class), query.question.qclass.0);
    assert_eq!(message.metadata.id, query.id());
    let ours = query.edns.map(|edns| (edns.size.max(512), edns.version, edns.dnssec_ok));
    let theirs =
        message.edns.as_ref().map(|edns| (edns.max_payload().max(512), edns.version(), edns.flags().dnssec_ok));
    assert_eq!(ours, theirs);
}

/// Returns whether some record may be an OPT with an owner or options that RFC 6891 forbids.
fn has_bad_opt(packet: &[u8]) -> bool {
    // At every offset, since an exact walk would only repeat the parser.
    let opts = packet.windows(2).enumerate().filter(|(_, two)| *two == [0, 41]).map(|(at, _)| at);
    opts.filter(|&at| at > header::LEN + 4).any(|at| {
        let pointed = packet[at - 2] >= 0xc0;
        let named = packet[at - 1] == 0 && at >= 2 && packet[at - 2] != 0;
        let options = packet.get(at + 10..).unwrap_or_default();
        let len = packet.get(at + 8..at + 10).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        pointed || named || !fills(options.get(..len).unwrap_or_default())
    })
}

/// Returns whether options fill their record exactly.
fn fills(mut options: &[u8]) -> bool {
    while let [_, _, high, low, rest @ ..] = options {
        let Some(rest) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        options = rest;
    }
    options.is_empty()
}

/// Checks that a packet gets a matching response within its limit, or none.
pub fn check_answer(subject: &Subject, transport: Transport, packet: &[u8]) {
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let len = subject.answer(packet, transport, &mut state, &mut out);
    let is_query = packet.len() >= header::LEN && packet[2] & 0x80 == 0;
    assert_eq!(len > 0, is_query, "queries get a response, responses do not");
    if !is_query {
        return;
    }
    let offered = Query::parse(packet).ok().and_then(|query| query.edns).map_or(0, |edns| usize::from(edns.size));
    let limit = if transport == Transport::Udp { offered.clamp(512, 4_096) } else { MAX_MESSAGE };
    assert!(len <= limit, "{len} bytes of {limit}");
    assert_eq!((&out[..2], out[2] & 0x80), (&packet[..2], 0x80));
    let message = decoded::decode(&out[..len]);
    check_counts(&out[..len], &message);
    if let Some(asked) = message.queries.first() {
        assert!(packet[header::LEN..].starts_with(&decoded::name(&asked.name)));
    }
}

//--- Truncation

/// Checks that the response over UDP is a part of the one over TCP, with TC if it is not complete.
pub fn check_truncation(subject: &Subject, qtype: Type, size: u16) {
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let query = packet(&n("many.a.svc.cluster.local"), qtype, Some(size));
    let whole_len = subject.answer(&query, Transport::Tcp, &mut state, &mut out);
    let whole = decoded::decode(&out[..whole_len]);
    assert!(!whole.metadata.truncation);
    let whole: BTreeSet<DecodedRecord> = decoded::records(&whole).into_iter().collect();
    let len = subject.answer(&query, Transport::Udp, &mut state, &mut out);
    let limit = usize::from(size.clamp(512, 4_096));
    assert!(len <= limit);
    let part = decoded::decode(&out[..len]);
    check_counts(&out[..len], &part);
    let records = decoded::records(&part);
    let distinct: BTreeSet<DecodedRecord> = records.iter().cloned().collect();
    assert_eq!(distinct.len(), records.len(), "a record is there twice");
    assert!(distinct.is_subset(&whole));
    assert_eq!(part.metadata.truncation, distinct.len() < whole.len());
    assert_eq!(part.metadata.truncation, whole_len > limit);
    assert!(part.edns.is_some());
}
