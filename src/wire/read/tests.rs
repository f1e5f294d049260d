//! Tests of messages from upstreams.

use super::*;
use crate::wire::encode::encode;
use crate::wire::hickory::decode;
use crate::wire::{NameBuf, Query};

fn question(name: &str, qtype: Type) -> Question {
    Question::new(NameBuf::from_text(name).expect("a name").as_name(), qtype, Class::IN)
}

/// Builds a response to `web.example. A` with these flags, counts and records.
fn message(flags: u16, counts: [u16; 3], records: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![9, 9];
    bytes.extend((flag::QR | flags).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    bytes.extend(b"\x03wEb\x07eXample\0\x00\x01\x00\x01");
    bytes.extend(records.concat());
    bytes
}

/// Reads a message, writes it as the response to a query in another letter case, and shows what hickory reads.
fn read_and_write(bytes: &[u8]) -> String {
    let question = question("web.example.", Type::A);
    let mut reply = Reply::new();
    reply.read(&Message::parse(bytes, &question).expect("an answer")).expect("readable");
    let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WEB\x07example\0\x00\x01\x00\x01";
    let mut out = [0; 4096];
    let len = encode(&Query::parse(query).expect("a query"), &mut reply, 4096, &mut out);
    let decoded = decode(&out[..len]).expect("hickory reads it");
    let records =
        |records: &[hickory_proto::rr::Record]| records.iter().map(|record| format!("{record}\n")).collect::<String>();
    let (answers, rest) = (records(&decoded.answers), records(&decoded.authorities));
    format!("{answers}{rest}{}", records(&decoded.additionals))
}

#[test]
fn records_are_read_and_written_again() {
    // www.example CNAME of the question, its A by a pointer to the CNAME's data, an MX with a compressed name.
    let bytes = message(
        0,
        [2, 1, 1],
        &[
            b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x1e\x00\x06\x03www\xc0\x10",
            b"\xc0\x29\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01",
            b"\xc0\x10\x00\x06\x00\x01\x00\x00\x00\x05\x00\x1d\x02ns\xc0\x10\x01h\xc0\x10\
              \x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x05",
            b"\xc0\x10\x00\x0f\x00\x01\xff\x00\x00\x05\x00\x09\x00\x0a\x04mail\xc0\x10",
        ],
    );
    let expected = "WEB.example. 30 IN CNAME www.example.\n\
        www.example. 30 IN A 10.0.0.1\n\
        example. 5 IN SOA ns.example. h.example. 1 2 3 4 5\n\
        example. 0 IN MX 10 mail.eXample.\n";
    assert_eq!(read_and_write(&bytes), expected);
}

#[test]
fn a_response_to_another_question_is_an_error() {
    let good = message(0, [0; 3], &[]);
    let expected = question("web.example.", Type::A);
    assert!(Message::parse(&good, &expected).is_ok());
    for other in [question("web.example.", Type::AAAA), question("wec.example.", Type::A), question(".", Type::A)] {
        assert_eq!(Message::parse(&good, &other).expect_err("another"), MessageError::WrongQuestion);
    }
    let mut query = good.clone();
    query[2] = 0;
    assert!(Message::parse(&query, &expected).is_err());
    // Without a question only an error is a response.
    let bare = |rcode: u8, answers| [9, 9, 0x80, rcode, 0, 0, 0, answers, 0, 0, 0, 0];
    assert!(Message::parse(&bare(1, 0), &expected).is_ok());
    assert!(Message::parse(&bare(0, 0), &expected).is_err());
    assert!(Message::parse(&bare(3, 0), &expected).is_err());
    assert!(Message::parse(&bare(1, 1), &expected).is_err());
}

#[test]
fn short_and_malformed_messages_are_different_errors() {
    let expected = question("web.example.", Type::A);
    let read = |bytes: &[u8]| Reply::new().read(&Message::parse(bytes, &expected)?);
    let a = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01";
    assert_eq!(read(&message(0, [1, 0, 0], &[a])), Ok(()));
    assert_eq!(read(&message(0, [2, 0, 0], &[a])), Err(MessageError::Short));
    assert_eq!(read(&message(0, [1, 0, 0], &[&a[..14]])), Err(MessageError::Short));
    for bad in [
        // An A of three bytes, a CNAME that ends early, a pointer to itself, one into a label, an unknown label.
        &b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x03\x0a\x00\x00"[..],
        b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x1e\x00\x04\x01a\0\0",
        b"\xc0\x1d\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01",
        b"\xc0\x0d\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01",
        b"\xc0\x02\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01",
        b"\x80\x0c\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\x0a\x00\x00\x01",
    ] {
        assert_eq!(read(&message(0, [1, 0, 0], &[bad])), Err(MessageError::Malformed), "{bad:?}");
    }
}

/// Data of each type that may contain names; an empty part is replaced by a name.
const WITH_NAMES: &[(u16, &[&[u8]])] = &[
    (3, &[b""]),
    (4, &[b""]),
    (7, &[b""]),
    (8, &[b""]),
    (9, &[b""]),
    (14, &[b"", b""]),
    (15, &[b"\0\x0a", b""]),
    (17, &[b"", b""]),
    (18, &[b"\0\x01", b""]),
    (21, &[b"\0\x01", b""]),
    (23, &[b""]),
    (24, &[&[1; 18], b"", b"\xc0\x0c signature"]),
    (26, &[b"\0\x01", b"", b""]),
    (30, &[b"", b"\xc0\x0c"]),
    (35, &[b"\0\x01\0\x02\x01u\x07E2U+sip\x02\xc0\x0c", b""]),
    (36, &[b"\0\x01", b""]),
    (38, &[b"\x00", &[9; 16]]),
    (38, &[b"\x41", &[9; 8], b""]),
    (38, &[b"\x80", b""]),
    (39, &[b""]),
    (45, &[b"\x0a\x03\x02", b"", b"\xc0\x0c key"]),
    (45, &[b"\x0a\x01\x02\xc0\x0c\xc0\x0c key"]),
    (46, &[&[1; 18], b"", b"\xc0\x0c signature"]),
    (47, &[b"", b"\0\x06\x40\x01\0\0\0\x03"]),
    (55, &[b"\x02\x02\0\x02\xc0\x0c\xc0\x0c"]),
    (55, &[b"\x02\x02\0\x02\xc0\x0c\xc0\x0c", b"", b"", b""]),
    (58, &[b"", b""]),
    (64, &[b"\0\x01", b"", b"\0\x01\0\x03\x02h2"]),
    (65, &[b"\0\x00", b""]),
    (65, &[b"\0\x01", b"", b"\0\x04\0\x04\xc0\x0c\xc0\x0c"]),
    (66, &[b"\0\x3b\x01\0\x35", b""]),
    (107, &[b"\0\x01", b""]),
    (249, &[b"", b"\xc0\x0c"]),
    (260, &[b"\x01\x83", b""]),
    (260, &[b"\x01\x02", &[0xc0; 16]]),
    // Opaque data that looks like a pointer.
    (16, &[b"\x02\xc0\x0c"]),
    (43, &[b"\xc0\x0c\xc0\x0c"]),
    (65_280, &[b"\xc0\x0c"]),
];

/// Builds a record of the question's name with this data.
fn record(rtype: u16, data: &[u8]) -> Vec<u8> {
    let head = [b"\xc0\x0c", &rtype.to_be_bytes()[..], b"\0\x01\0\0\0\x1e"].concat();
    [&head[..], &(data.len() as u16).to_be_bytes(), data].concat()
}

#[test]
fn n02_names_in_data_are_expanded_whatever_the_type() {
    let expected = question("web.example.", Type::A);
    let fill = |fields: &[&[u8]], name: &[u8]| -> Vec<u8> {
        fields.iter().flat_map(|part| if part.is_empty() { name } else { part }).copied().collect()
    };
    for &(rtype, fields) in WITH_NAMES {
        let bytes = message(0, [1, 0, 0], &[&record(rtype, &fill(fields, b"\x01t\xc0\x10"))]);
        let mut reply = Reply::new();
        reply.read(&Message::parse(&bytes, &expected).expect("an answer")).expect("readable");
        let Rdata::Bytes(data) = reply.records()[0].rdata else { panic!("TYPE{rtype}") };
        assert_eq!(reply.bytes(data), fill(fields, b"\x01t\x07eXample\0"), "TYPE{rtype}");
    }
}

#[test]
fn data_that_does_not_end_with_its_fields_is_malformed() {
    let expected = question("web.example.", Type::A);
    let read = |rtype, data: &[u8]| {
        let bytes = message(0, [1, 0, 0], &[&record(rtype, data), &[0; 300]]);
        Reply::new().read(&Message::parse(&bytes, &expected).expect("an answer"))
    };
    for (rtype, data) in [
        (47, &b"\x01"[..]),
        (47, b"\xc0\x50"),
        (39, b"\xc0\x0c\0"),
        (46, &[1; 18]),
        (46, &[1; 4]),
        (65, b"\0\x01"),
        (65, b"\0\x01\x05a"),
        (35, b"\0\x01\0\x02\x09u"),
        (55, b"\x02\x02\0"),
        (55, b"\x02\x02\0\x09\xc0\x0c"),
        (38, b"\x81\0"),
        (33, b"\0\x01\0\x02\0\x03"),
        // Longer than a record allows, once expanded.
        (55, &[&[0; 4][..], &b"\xc0\x0c".repeat(6_000)].concat()),
    ] {
        assert_eq!(read(rtype, data), Err(MessageError::Malformed), "TYPE{rtype} {data:02x?}");
    }
}

#[test]
fn the_upper_bits_of_the_code_are_in_the_opt() {
    let bytes = message(0, [0, 0, 1], &[b"\0\x00\x29\x04\xd0\x01\x00\x00\x00\x00\x00"]);
    let mut reply = Reply::new();
    reply.read(&Message::parse(&bytes, &question("web.example.", Type::A)).expect("an answer")).expect("read");
    assert_eq!((reply.rcode, reply.records().len()), (Rcode::BADVERS, 0));
}
