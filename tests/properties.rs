//! Properties of every history of a cluster, every reply and every packet. More cases: `PROPTEST_CASES=10000`.
//!
//! The fuzz targets in `fuzz/` run the same checks.

#![expect(clippy::panic, reason = "a check fails by a panic; those in support are outside of #[test]")]

mod support;

use std::net::IpAddr;
use std::path::Path;

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
use support::history::{Depth, STEP, Step, check_history};
use support::messages::{RECORD, check_answer, check_query, check_reply, check_truncation};
use support::objects::check_bad_value;
use support::rdata::check_records;
use support::targets::{TARGETS, run};
use support::upstream::check_upstream_answer;
use support::{Choices, files, log_lines, names, requests, sources, template};

/// Returns the configuration for this number of cases, or the number in `PROPTEST_CASES`. A failure is printed with its
/// input, and not stored in a file.
fn cases(count: u32) -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { count };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Generates a step of the history of a cluster.
fn step() -> impl Strategy<Value = Step> {
    any::<[u8; STEP]>().prop_map(|bytes| Step::new(&bytes))
}

/// Generates a query encoded by hickory.
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
                // Codes that hickory parses are left to mutations.
                let options = options.into_iter().filter(|(code, _)| *code > 20);
                options.for_each(|(code, data)| edns.options_mut().insert(EdnsOption::Unknown(code, data)));
                message.set_edns(edns);
            }
            let mut packet = message.to_vec().expect("a message");
            if tsig {
                // As in `dig -y`: class ANY, a name of its own, and data that is not parsed.
                packet[11] += 1;
                packet.extend(b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x04mac!");
            }
            packet
        },
    )
}

/// Generates a query that is changed in a few places, truncated or continued.
fn mutated_query() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (hickory_query(), changes, vec(any::<u8>(), 0..12), 0..8usize).prop_map(|(mut packet, changes, tail, cut)| {
        for (at, byte) in changes {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet.extend(tail);
        packet.truncate(packet.len() - cut.saturating_sub(4));
        packet
    })
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

/// Generates a record of a response: an owner that is a pointer, and data that may be valid for its type or not.
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
    (owner, rtype, any::<u32>(), data, 0_u8..20).prop_map(|(owner, rtype, ttl, data, error)| {
        // One in twenty has a wrong length.
        let len = data.len() as u16 + u16::from(error == 0);
        let class = if rtype == 41 { 1_232_u16 } else { 1 };
        [&owner[..], &rtype.to_be_bytes(), &class.to_be_bytes(), &ttl.to_be_bytes(), &len.to_be_bytes(), &data].concat()
    })
}

/// Every seed of every fuzz target, including inputs that found a fault.
#[test]
fn seeds_of_the_fuzz_targets_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    let expected: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let files: Vec<String> = expected.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&folder.join("fuzz_targets")), files);
    assert_eq!(names(&folder.join("seeds")), expected);
    for target in &expected {
        let folder = folder.join("seeds").join(target);
        for seed in names(&folder) {
            eprintln!("{target}/{seed}");
            run(target, &std::fs::read(folder.join(seed)).expect("a seed"));
        }
    }
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn a_response_of_an_upstream_is_rejected_or_returned_completely(
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

    // N02
    #[test]
    fn records_of_every_type_keep_their_meaning(bytes in vec(any::<u8>(), 0..200)) {
        check_records(&bytes);
    }

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
    fn any_history_results_in_the_answers_of_a_complete_list(steps in vec(step(), 0..40), settings in vec(any::<u8>(), 24)) {
        check_history(&steps, &settings, Depth::Answers);
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
    #![proptest_config(cases(1_500))]

    #[test]
    fn an_invalid_value_does_not_affect_the_others(objects in vec(any::<u8>(), 16..400), settings in vec(any::<u8>(), 8)) {
        check_bad_value(&objects, &settings);
    }
}

proptest! {
    #![proptest_config(cases(768))]

    #[test]
    fn any_history_results_in_the_state_of_a_complete_list(steps in vec(step(), 0..40), settings in vec(any::<u8>(), 24)) {
        check_history(&steps, &settings, Depth::State);
    }

    #[test]
    fn hickory_decodes_a_reply_to_the_same_records(settings in vec(any::<u8>(), 24), records in vec(any::<[u8; RECORD]>(), 0..60)) {
        check_reply(&settings, &records.concat());
    }

    #[test]
    fn a_query_encoded_by_hickory_is_parsed(packet in hickory_query()) {
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
    fn the_response_to_any_packet_is_within_its_limits(
        packet in prop_oneof![mutated_query(), vec(any::<u8>(), 0..80)], settings in any::<[u8; 4]>(), transport in transport(),
    ) {
        let subject = Subject::with_classes(&sample(), view(&mut Choices::new(&settings)), settings[3] & 1 == 1);
        check_answer(&subject, transport, &packet);
    }

    #[test]
    fn any_question_is_resolved(bytes in vec(prop_oneof![0..8u8, any::<u8>()], 0..60)) {
        names::check_question(&bytes, &sample());
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

/// Generates the text of a file that is parsed line by line, from these words.
fn words(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        6 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        2 => proptest::sample::select(&[" ", "\t", "\n", "\n", "\r\n", "#"][..]).prop_map(|word| word.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..3),
    ];
    vec(word, 0..40).prop_map(|words| words.concat())
}

/// Generates a format of *log*, a zero byte and a packet.
fn log_line() -> impl Strategy<Value = Vec<u8>> {
    let format = words(&[
        "{type}",
        "{name}",
        "{class}",
        "{proto}",
        "{size}",
        "{remote}",
        "{port}",
        "{local}",
        "{>id}",
        "{>opcode}",
        "{>do}",
        "{>bufsize}",
        "{rcode}",
        "{rsize}",
        "{duration}",
        "{>rflags}",
        "{common}",
        "{combined}",
        "{",
        "}",
        "{/kubernetes/kind}",
        "{/kubernetes/namespace}",
        "{/kubernetes/client-label/app}",
        "{/log/class}",
        "{/x}",
        "{foo}",
    ]);
    let packet = prop_oneof![mutated_query(), vec(any::<u8>(), 0..80)];
    let format = format.prop_map(|format| format.into_iter().filter(|&byte| byte != 0).collect::<Vec<u8>>());
    (format, packet).prop_map(|(format, packet)| [&format[..], &[0], &packet].concat())
}

/// Generates events of a watch, or pages of a list, with some bytes changed.
fn watch_body() -> impl Strategy<Value = Vec<u8>> {
    let object = proptest::sample::select(OBJECTS);
    let line = (object, 0..6_usize).prop_map(|(object, form)| match form {
        0 => format!("{object}\n"),
        1 => format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n"),
        2 => format!("{{\"type\":\"ERROR\",\"object\":{object}}}\n"),
        3 => {
            format!("{{\"metadata\":{{\"resourceVersion\":\"7\",\"continue\":\"x\"}},\"items\":[{object},{object}]}}\n")
        }
        _ => format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"),
    });
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (vec(line, 1..4), any::<[u8; 4]>(), changes).prop_map(|(lines, settings, changes)| {
        let mut body = lines.concat().into_bytes();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        [&settings[..], &body].concat()
    })
}

/// Objects of each kind with the fields that are read, and other values.
const OBJECTS: &[&str] = &[
    r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"7","labels":{"x":"y"}}}"#,
    r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"a","resourceVersion":"7"},"spec":{"type":"ClusterIP","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1","fd00::1"],"selector":{"app":"x"},"ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":"web"}],"externalName":null}}"#,
    r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"out","namespace":"a"},"spec":{"type":"ExternalName","externalName":"Example.org."}}"#,
    r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"a"},"spec":{"clusterIP":"None","selector":{"app":"x"},"publishNotReadyAddresses":true}}"#,
    r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{"name":"web-1","namespace":"a","labels":{"kubernetes.io/service-name":"web"},"annotations":{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"addressType":"IPv4","endpoints":[{"addresses":["10.1.0.1"],"conditions":{"ready":true},"hostname":"h","targetRef":{"kind":"Pod","name":"p"},"zone":"z"},{"addresses":["10.1.0.2"],"conditions":{"ready":false}}],"ports":[{"name":"","port":null}]}"#,
    r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"a","labels":{"app":"x"},"deletionTimestamp":null},"spec":{"hostname":"h","subdomain":"web","containers":[{"ports":[{"name":"web","containerPort":8080}]}]},"status":{"phase":"Running","podIP":"10.1.0.1","podIPs":[{"ip":"10.1.0.1"}],"conditions":[{"type":"Ready","status":"True"}]}}"#,
    r#"{"kind":"Status","status":"Failure","message":"gone","code":410,"details":{"retryAfterSeconds":3}}"#,
    r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"ServiceList","items":[{"metadata":{"name":"x","namespace":"a"},"spec":{"clusterIP":"10.0.0.2"}}]}]}"#,
    "{}",
    "[1,null]",
];

/// Generates documents of a manifest as JSON, with some bytes changed.
fn manifest() -> impl Strategy<Value = Vec<u8>> {
    let changes =
        vec((any::<prop::sample::Index>(), proptest::sample::select(&b" \n\t:-[]{},\"&*!#%@?|>0a.~\\"[..])), 0..4);
    let joint = proptest::sample::select(&["\n", "\n---\n", " "][..]);
    (any::<u8>(), vec(proptest::sample::select(OBJECTS), 0..4), joint, changes).prop_map(
        |(first, objects, joint, changes)| {
            let mut text = objects.join(joint).into_bytes();
            for (at, byte) in changes {
                if !text.is_empty() {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
            }
            [&[first][..], &text].concat()
        },
    )
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_hosts_file_resolves_names_and_addresses(
        first in any::<u8>(),
        text in words(&["10.0.0.1", "10.0.0.2", "fd00::1", "fe80::1%eth0", "::ffff:10.0.0.3", "a", "B.a", "*.a", "*", "a..b", "."]),
    ) {
        files::check_hosts(&[&[first][..], &text].concat());
    }

    #[test]
    fn weights_are_rejected_or_stored(
        text in words(&["a\n", "B.a\n", "10.0.0.1 3\n", "10.0.0.1 255\n", "fd00::1 1\n", "::ffff:10.0.0.3 7\n", "10.0.0.1 0\n", "a..b\n"]),
    ) {
        files::check_weights(&text);
    }

    #[test]
    fn name_servers_are_read_from_a_resolv_conf(
        text in words(&["nameserver ", "nameserver 10.0.0.1\n", "fd00::1", "fe80::1%eth0", "search a.b\n", "options ndots:5\n", "; "]),
    ) {
        files::check_resolv_conf(&text);
    }

    #[test]
    fn a_log_line_has_its_format_and_cannot_be_forged(data in log_line()) {
        log_lines::check_log_line(&data);
    }

    #[test]
    fn lists_and_watches_result_in_the_same_objects(data in watch_body()) {
        sources::check_watch(&data);
    }

    #[test]
    fn a_manifest_has_the_same_meaning_as_yaml_and_json(data in manifest()) {
        sources::check_manifest(&data);
    }
}

/// Generates messages of a stream, each after its length or a wrong length.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let message = prop_oneof![mutated_query(), vec(any::<u8>(), 0..40), Just(vec![0; 12])];
    let message = (message, any::<bool>(), 0..20_u8).prop_map(|(mut message, is_zero, error)| {
        if is_zero {
            message.iter_mut().take(2).for_each(|byte| *byte = 0);
        }
        let len = if error == 0 { 0xfff0 } else { message.len() as u16 + u16::from(error == 1) };
        [&len.to_be_bytes()[..], &message].concat()
    });
    vec(message, 0..12).prop_map(|messages| messages.concat())
}

/// Generates a request of DNS over HTTPS.
fn doh_request() -> impl Strategy<Value = Vec<u8>> {
    let method = proptest::sample::select(&["GET", "POST", "HEAD", "get"][..]);
    let path = proptest::sample::select(&["/dns-query", "/dns-query/", "/", "https://h/dns-query", "*"][..]);
    let parameter = proptest::sample::select(&["dns", "dns", "dns", "x", "dn", "DNS"][..]);
    let value = prop_oneof!["[A-Za-z0-9_-]{0,24}={0,2}", "[A-Z+/=%&-]{0,8}", Just("A".repeat(5_500))];
    let parameters = vec((parameter, value), 0..3);
    let length = proptest::option::of(prop_oneof!["[0-9+-]{1,6}", Just("4096".to_owned()), Just("4097".to_owned())]);
    (method, path, parameters, length).prop_map(|(method, path, parameters, length)| {
        let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let length = length.map_or(String::new(), |length| format!("\nContent-Length:{length}"));
        format!("{method} {path}?{}{length}", parameters.join("&")).into_bytes()
    })
}

/// Generates a request to a listener for operators.
fn admin_request() -> impl Strategy<Value = Vec<u8>> {
    words(&[
        "GET /health HTTP/1.1\r\n",
        "GET /ready HTTP/1.0\r\n",
        "POST /metrics HTTP/1.1\r\n",
        "HEAD /health HTTP/1.1\r\n",
        "Host: x\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "\r\n",
        "3\r\nabc\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "Connection: keep-alive\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
    ])
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_stream_is_split_into_its_messages(id in any::<[u8; 2]>(), stream in stream()) {
        requests::check_stream(&stream);
        let id = stream.get(2..4).map_or(id, |first| if id[0] & 1 == 0 { [first[0], first[1]] } else { id });
        requests::check_stream(&[&id[..], &stream].concat());
    }

    #[test]
    fn a_query_over_https_is_extracted(request in doh_request(), packet in mutated_query()) {
        requests::check_doh(&request);
        requests::check_doh(&packet);
    }

    #[test]
    fn any_http_request_gets_at_most_one_page(request in admin_request()) {
        requests::check_admin(&request);
    }
}
