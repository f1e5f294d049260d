//! What holds for everything that an upstream may send: it is rejected, or the response to the client answers the
//! question, is within its limit, and can be parsed again.

use clusterdns::wire::encode::encode;
use clusterdns::wire::{Message, MessageError, NameBuf, Query, Reply, Type};

/// Query types; each has data of another form.
const TYPES: [Type; 8] = [Type::A, Type::AAAA, Type::CNAME, Type::SOA, Type::MX, Type::SRV, Type::NAPTR, Type::TXT];

/// Checks a response. The first byte chooses the question, and whether the rest is a whole message, or counts and
/// records to append to a header and a question.
pub fn check_upstream_answer(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let name = NameBuf::from_text("Web.Example.").expect("a name");
    let qtype = TYPES[usize::from(first >> 1) % TYPES.len()];
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(name.as_name().as_wire());
    query.extend(qtype.0.to_be_bytes());
    query.extend([0, 1]);
    let bytes = if first & 1 == 1 {
        rest.to_vec()
    } else {
        let Some((counts, records)) = rest.split_at_checked(4) else { return };
        let mut answer = query.clone();
        (answer[2], answer[3]) = (0x81, counts[3]);
        for (at, count) in [6, 8, 10].into_iter().zip(counts) {
            answer[at + 1] = *count % 8;
        }
        answer.extend(records);
        answer
    };
    let query = Query::parse(&query).expect("a query");
    let Ok(message) = Message::parse(&bytes, &query.question) else { return };
    let mut reply = Reply::new();
    match reply.read(&message) {
        Ok(()) => {}
        Err(MessageError::Cut) => assert!(reply.records().is_empty()),
        Err(_) => return assert!(reply.records().is_empty()),
    }
    let before = reply.records().to_vec();
    for limit in [512, 1_232, 65_535] {
        let mut out = vec![0xff; limit];
        let len = encode(&query, &mut reply, limit, &mut out);
        assert!(len <= limit);
        let written = &out[..len];
        // It answers this question, in its letter case, whatever else the upstream has sent.
        assert_eq!(written[..2], [0x12, 0x34]);
        assert_eq!(&written[12..12 + query.question_wire().len()], query.question_wire());
        let again = Message::parse(written, &query.question).expect("an answer to the question");
        let mut reread = Reply::new();
        reread.read(&again).expect("an encoded message can be parsed");
        let truncated = reread.truncated;
        assert!(truncated || reread.records().len() == before.len(), "records are lost without TC");
        for (one, other) in before.iter().zip(reread.records()) {
            // Records keep their order within a section, and a section is written to its end before the next.
            if !truncated && before.is_sorted_by_key(|record| record.section) {
                assert_eq!(
                    (one.section, one.rtype, one.class, one.ttl),
                    (other.section, other.rtype, other.class, other.ttl)
                );
                assert!(
                    reply
                        .full_name(one.owner, query.sent_name())
                        .as_name()
                        .eq_ignore_case(reread.full_name(other.owner, query.sent_name()).as_name())
                );
            }
        }
    }
}
