//! What holds for every history of a cluster, every reply and every packet. More cases: `PROPTEST_CASES=10000`.
//!
//! The same checks are driven by coverage in `fuzz/`.

#![expect(clippy::panic, reason = "a check fails by a panic; those in support stand outside of #[test]")]

mod support;

use std::net::IpAddr;

use clusterdns::chain::Transport;
use clusterdns::cluster::View;
use clusterdns::wire::Type;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use proptest::collection::vec;
use proptest::prelude::*;

use support::answers::Subject;
use support::cluster::{headless, sample, view};
use support::history::{STEP, Step, check_history};
use support::messages::{RECORD, check_answer, check_query, check_reply, check_truncation};
use support::upstream::check_upstream_answer;
use support::{Choices, names, template};

/// So many cases, or as many as `PROPTEST_CASES` says. Failures are printed with their input, not kept in a file.
fn cases(count: u32) -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { count };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A step of a cluster's history.
fn step() -> impl Strategy<Value = Step> {
    any::<[u8; STEP]>().prop_map(|octets| Step::new(&octets))
}

/// A query as hickory writes it.
fn hickory_query() -> impl Strategy<Value = Vec<u8>> {
    let label = "[a-zA-Z0-9_-]{1,12}";
    let edns = proptest::option::of((any::<u16>(), any::<bool>(), vec((any::<u16>(), vec(any::<u8>(), 0..20)), 0..3)));
    (vec(label, 0..6), any::<u16>(), edns, any::<[bool; 4]>()).prop_map(
        |(labels, qtype, edns, [ixfr, tsig, rd, cd])| {
            let name = Name::from_labels(labels.iter().map(String::as_bytes)).expect("a name");
            let mut message = Message::query();
            message.metadata.recursion_desired = rd;
            message.metadata.checking_disabled = cd;
            message.add_query(Query::query(name.clone(), RecordType::from(qtype)));
            if ixfr {
                let soa = rdata::SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, 5);
                message.add_authority(Record::from_rdata(name.clone(), 0, RData::SOA(soa)));
            }
            if let Some((size, dnssec_ok, options)) = edns {
                let mut edns = Edns::new();
                edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
                // The codes that hickory reads closely are left to mutations.
                let options = options.into_iter().filter(|(code, _)| *code > 20);
                options.for_each(|(code, data)| edns.options_mut().insert(EdnsOption::Unknown(code, data)));
                message.set_edns(edns);
            }
            let mut packet = message.to_vec().expect("a message");
            if tsig {
                // As `dig -y` adds it: class ANY, a name of its own, and data that nobody looks at.
                packet[11] += 1;
                packet.extend(b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x04mac!");
            }
            packet
        },
    )
}

/// A query, changed in a few places, cut or continued.
fn mutated_query() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (hickory_query(), changes, vec(any::<u8>(), 0..12), 0..8usize).prop_map(|(mut packet, changes, tail, cut)| {
        for (at, octet) in changes {
            let at = at.index(packet.len());
            packet[at] = octet;
        }
        packet.extend(tail);
        packet.truncate(packet.len() - cut.saturating_sub(4));
        packet
    })
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

/// A record of an answer: an owner that points somewhere, and data that may be of its type or not.
fn upstream_record() -> impl Strategy<Value = Vec<u8>> {
    let owner = prop_oneof![
        Just(vec![0xc0, 12]),
        (12_u8..80).prop_map(|at| vec![0xc0, at]),
        vec(b'a'..=b'z', 1..20).prop_map(|label| [&[label.len() as u8][..], &label, &[0]].concat()),
        vec(any::<u8>(), 1..4),
    ];
    let rtype = proptest::sample::select(vec![1_u16, 2, 5, 6, 12, 14, 15, 16, 17, 28, 33, 35, 39, 41, 46, 65, 65_280]);
    let data = prop_oneof![
        vec(any::<u8>(), 0..40),
        (12_u8..80).prop_map(|at| vec![0xc0, at]),
        (12_u8..80).prop_map(|at| vec![0, 10, 0xc0, at]),
        (12_u8..80, 12_u8..80).prop_map(|(one, other)| [&[0xc0, one, 1, b'x', 0xc0, other][..], &[9; 20]].concat()),
        Just(vec![10, 0, 0, 1]),
    ];
    (owner, rtype, any::<u32>(), data, 0_u8..20).prop_map(|(owner, rtype, ttl, data, lie)| {
        // One in twenty lies about its length.
        let len = data.len() as u16 + u16::from(lie == 0);
        let class = if rtype == 41 { 1_232_u16 } else { 1 };
        [&owner[..], &rtype.to_be_bytes(), &class.to_be_bytes(), &ttl.to_be_bytes(), &len.to_be_bytes(), &data].concat()
    })
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn whatever_an_upstream_sends_is_refused_or_passed_on_whole(
        first in any::<u8>(), counts in any::<[u8; 4]>(), records in vec(upstream_record(), 0..6), cut in 0_usize..300,
    ) {
        let mut records = records.concat();
        if cut < 20 {
            records.truncate(records.len().saturating_sub(cut));
        }
        check_upstream_answer(&[&[first & !1][..], &counts, &records].concat());
        check_upstream_answer(&[&[first | 1][..], &counts, &records].concat());
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn any_stanza_of_template_is_refused_or_answers(
        parts in vec(any::<u8>(), 0..40), lines in prop_oneof!["\\PC{0,60}", Just(String::new())],
    ) {
        let parts = template::stanza(&parts);
        template::check_stanza(&parts);
        template::check_stanza(&lines);
        template::check_stanza(&format!("answer \"{}\"\n", parts.replace(['"', '\n'], "")));
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_history_ends_in_the_answers_of_one_full_list(steps in vec(step(), 0..40), settings in vec(any::<u8>(), 24)) {
        check_history(&steps, &settings);
    }

    #[test]
    fn a_truncated_answer_is_part_of_the_whole(
        endpoints in 1..=300u16, size in prop_oneof![512..=4_096u16, any::<u16>()],
        qtype in prop_oneof![Just(Type::A), Just(Type::SRV)],
    ) {
        check_truncation(&Subject::new(&headless(endpoints), View::default()), qtype, size);
    }
}

proptest! {
    #![proptest_config(cases(768))]

    #[test]
    fn a_reply_is_what_hickory_decodes(settings in vec(any::<u8>(), 24), records in vec(any::<[u8; RECORD]>(), 0..60)) {
        check_reply(&settings, &records.concat());
    }

    #[test]
    fn a_query_that_hickory_writes_is_read(packet in hickory_query()) {
        prop_assert!(clusterdns::wire::Query::parse(&packet).is_ok());
        check_query(&packet);
    }

    #[test]
    fn a_query_that_hickory_accepts_is_accepted(packet in mutated_query()) {
        check_query(&packet);
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn any_packet_is_answered_within_its_limits(
        packet in prop_oneof![mutated_query(), vec(any::<u8>(), 0..80)], settings in any::<[u8; 4]>(), transport in transport(),
    ) {
        let subject = Subject::with_classes(&sample(), view(&mut Choices::new(&settings)), settings[3] & 1 == 1);
        check_answer(&subject, transport, &packet);
    }

    #[test]
    fn any_question_has_a_meaning(octets in vec(prop_oneof![0..8u8, any::<u8>()], 0..60)) {
        names::check_question(&octets, &sample());
    }

    #[test]
    fn an_address_is_found_by_its_label(address in any::<IpAddr>(), groups in any::<[bool; 8]>()) {
        names::check_dashed(address);
        if let IpAddr::V6(address) = address {
            let mut segments = address.segments();
            segments.iter_mut().zip(groups).for_each(|(segment, keep)| if !keep { *segment = 0 });
            names::check_dashed(segments.into());
        }
    }
}
