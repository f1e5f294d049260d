//! Records of every type, in a message that compresses every name in them: they reach the client with the same meaning.

use clusterdns::wire::encode::encode;
use clusterdns::wire::{MAX_MESSAGE, Message, NameBuf, Query, Reply};

use super::Choices;
use super::decoded;

/// A part of a record's data.
enum Part {
    Bytes(Vec<u8>),
    /// Labels in front of a suffix of the question's name.
    Name {
        labels: &'static [u8],
        from: usize,
    },
}

/// The question's name.
const QUESTION: &str = "web.shop.example.";
/// The offsets of its labels and its root.
const SUFFIXES: [usize; 4] = [0, 4, 9, 17];
/// Labels in front of those.
const LABELS: [&[u8]; 4] = [b"", b"\x01t", b"\x02ns\x03dns", b"\x06_sip._"];

fn name(choices: &mut Choices<'_>) -> Part {
    let labels = choices.pick(&LABELS);
    Part::Name { labels, from: choices.pick(&SUFFIXES) }
}

/// Generates bytes, including ones that look like pointers.
fn bytes(choices: &mut Choices<'_>, len: usize) -> Part {
    Part::Bytes((0..len).map(|_| choices.pick(&[0xc0, 12, 0, 3, b'x'])).collect())
}

fn number(choices: &mut Choices<'_>) -> Part {
    Part::Bytes(choices.number().to_be_bytes().into())
}

/// Generates data of a type: of types whose data may be compressed, and of types whose data has no names.
fn data(choices: &mut Choices<'_>) -> (u16, Vec<Part>) {
    let c = choices;
    let text = |text: &[u8]| Part::Bytes([&[text.len() as u8], text].concat());
    let fixed = |bytes: &[u8]| Part::Bytes(bytes.to_vec());
    let bitmap = || fixed(&[0, 6, 0x40, 1, 0, 0, 0, 3]);
    match c.below(46) {
        0 => (1, vec![bytes(c, 4)]),
        1 => (28, vec![bytes(c, 16)]),
        at @ 2..10 => ([2, 3, 4, 5, 7, 8, 9, 12][at - 2], vec![name(c)]),
        10 => (39, vec![name(c)]),
        11 => (23, vec![name(c)]),
        12 => (6, vec![name(c), name(c), bytes(c, 20)]),
        at @ 13..16 => ([14, 17, 58][at - 13], vec![name(c), name(c)]),
        at @ 16..21 => ([15, 18, 21, 36, 107][at - 16], vec![number(c), name(c)]),
        21 => (26, vec![number(c), name(c), name(c)]),
        22 => (33, vec![number(c), number(c), number(c), name(c)]),
        23 => (35, vec![number(c), number(c), text(b"u"), text(b"E2U+sip"), text(b"\xc0\x0c"), name(c)]),
        // Not SIG, which hickory parses as the signature of the message.
        24 => (46, vec![bytes(c, 18), name(c), bytes(c, 40)]),
        25 => (249, vec![name(c), bytes(c, 20)]),
        at @ 26..28 => ([30, 47][at - 26], vec![name(c), bitmap()]),
        at @ 28..30 => {
            let port = fixed(&[0, 3, 0, 2, 1, 0xbb]);
            let hint = fixed(&[0, 4, 0, 4, 0xc0, 12, 0xc0, 12]);
            let alpn = fixed(&[0, 1, 0, 3, 2, b'h', b'2']);
            ([64, 65][at - 28], vec![fixed(&[0, 1]), name(c), alpn, port, hint])
        }
        at @ 30..32 => ([64, 65][at - 30], vec![fixed(&[0, 0]), name(c)]),
        32 => (16, vec![text(b"\xc0\x0c"), text(b"x")]),
        33 => (13, vec![text(b"\xc0\x0c"), text(b"os")]),
        34 => (257, vec![fixed(&[0]), text(b"issue"), fixed(b"ca.example")]),
        35 => (37, vec![number(c), number(c), fixed(&[8]), bytes(c, 20)]),
        36 => (62, vec![fixed(&[0, 0, 0, 7, 0, 3]), bitmap()]),
        37 => (61, vec![bytes(c, 30)]),
        at @ 38..40 => ([52, 53][at - 38], vec![fixed(&[3, 1, 1]), bytes(c, 32)]),
        40 => (44, vec![fixed(&[4, 2]), bytes(c, 32)]),
        41 => (10, vec![bytes(c, 9)]),
        42 => (65_280, vec![bytes(c, 12)]),
        43 => (66, vec![fixed(&[0, 59, 1, 0, 53]), name(c)]),
        44 => (55, vec![fixed(&[2, 2, 0, 2, 0xc0, 12, 0xc0, 12]), name(c), name(c)]),
        _ => (45, vec![fixed(&[10, 3, 2]), name(c), bytes(c, 16)]),
    }
}

/// Returns the data in full, and with compressed names.
fn write(parts: &[Part], question: &[u8]) -> [Vec<u8>; 2] {
    let (mut full, mut short) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Bytes(bytes) => {
                full.extend(bytes);
                short.extend(bytes);
            }
            Part::Name { labels, from } => {
                full.extend(*labels);
                full.extend(&question[*from..]);
                short.extend(*labels);
                // The root is shorter than a pointer to it.
                if question.len() - 1 == *from {
                    short.push(0);
                } else {
                    short.extend([0xc0, 12 + *from as u8]);
                }
            }
        }
    }
    [full, short]
}

/// Checks a response whose records are generated from bytes.
pub fn check_records(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let question = NameBuf::from_text(QUESTION).expect("a name");
    let question = question.as_name().as_wire();
    let head = |flags: u8, count: u8| {
        let header = [0x12, 0x34, flags, 0, 0, 1, 0, count, 0, 0, 0, 0];
        [&header[..], question, &[0, 255, 0, 1]].concat()
    };
    let count = 1 + choices.below(4) as u8;
    let mut messages = [head(0x81, count), head(0x81, count)];
    for _ in 0..count {
        let (rtype, parts) = data(&mut choices);
        for (message, data) in messages.iter_mut().zip(write(&parts, question)) {
            message.extend([0xc0, 12]);
            message.extend(rtype.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 30]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(data);
        }
    }
    let [full, short] = messages;
    let expected = decoded::records(&decoded::decode(&full));
    let query = head(1, 0);
    let query = Query::parse(&query).expect("a query");
    let mut received = short;
    // From the upstream, and again from a cache that stores the encoded response.
    for _ in 0..2 {
        let mut reply = Reply::new();
        reply.read(&Message::parse(&received, &query.question).expect("an answer")).expect("it can be parsed");
        let mut out = vec![0; MAX_MESSAGE];
        let len = encode(&query, &mut reply, MAX_MESSAGE, &mut out);
        received = out[..len].to_vec();
        assert_eq!(decoded::records(&decoded::decode(&received)), expected);
        assert_no_pointer_in_services(&received, query.question_wire().len() + 12);
    }
}

/// Checks that targets of SRV records, and all names of newer types, are not compressed (RFC 2782, RFC 3597 4).
fn assert_no_pointer_in_services(message: &[u8], mut at: usize) {
    while at < message.len() {
        // All owners here are pointers to the question.
        assert_eq!(message[at], 0xc0);
        let rtype = u16::from_be_bytes([message[at + 2], message[at + 3]]);
        let len = usize::from(u16::from_be_bytes([message[at + 10], message[at + 11]]));
        let data = &message[at + 12..at + 12 + len];
        if matches!(rtype, 33 | 35 | 39 | 64 | 65) {
            // The names end in the question's name or in the root, without a pointer before that.
            let from = match rtype {
                33 => 6,
                35 => 4 + 2 + 8 + 3,
                39 => 0,
                _ => 2,
            };
            let mut label = from;
            while data[label] != 0 {
                assert!(data[label] < 64, "a pointer in TYPE{rtype}: {data:02x?}");
                label += 1 + usize::from(data[label]);
            }
        }
        at += 12 + len;
    }
}
