//! Tests of records. The expected data and error texts are those of miekg/dns, which CoreDNS uses.

use std::fmt::Write as _;

use super::*;
use crate::wire::encode::encode;
use crate::wire::hickory::decode;
use crate::wire::{MAX_MESSAGE, Query};

/// A query for `a.example. A`, in mixed case.
const QUERY: &[u8] = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01A\x07exAmple\0\x00\x01\x00\x01";

/// Returns the record of a text as `OWNER TTL CLASS TYPE DATA`, with uncommon data in hexadecimal, or the error.
fn read(text: &str) -> String {
    let query = Query::parse(QUERY).expect("a query");
    let mut reply = Reply::new();
    let record = match add_record(text.as_bytes(), Section::Answer, &query.question, &mut reply) {
        Ok(record) => record,
        Err(error) => return error.to_string(),
    };
    let name = |name| reply.full_name(name, query.sent_name()).to_string();
    let mut shown = format!("{} {} {} {}", name(record.owner), record.ttl, record.class, record.rtype);
    match record.rdata {
        crate::wire::Rdata::A(address) => write!(shown, " {}", std::net::Ipv4Addr::from(address)),
        crate::wire::Rdata::Aaaa(address) => write!(shown, " {}", std::net::Ipv6Addr::from(address)),
        crate::wire::Rdata::Name(target) => write!(shown, " {}", name(target)),
        crate::wire::Rdata::Srv { priority, weight, port, target } => {
            write!(shown, " {priority} {weight} {port} {}", name(target))
        }
        crate::wire::Rdata::Soa { mname, rname, numbers } => {
            let numbers =
                reply.bytes(numbers).chunks(4).map(|number| u32::from_be_bytes(number.try_into().expect("4")));
            let numbers: String = numbers.map(|number| format!(" {number}")).collect();
            write!(shown, " {} {}{numbers}", name(mname), name(rname))
        }
        crate::wire::Rdata::Bytes(bytes) => {
            write!(shown, " ").and_then(|()| reply.bytes(bytes).iter().try_for_each(|byte| write!(shown, "{byte:02x}")))
        }
    }
    .expect("a string takes everything");
    // The record can be sent: hickory decodes it. Of CAA it takes only tags of letters and digits (RFC 8659 4.1), which
    // CoreDNS does not check.
    let is_decoded = match record.rdata {
        crate::wire::Rdata::Bytes(bytes) if record.rtype == Type::CAA => {
            let data = reply.bytes(bytes);
            let tag = data.get(1).and_then(|length| data.get(2..2 + usize::from(*length)));
            tag.is_some_and(|tag| !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric))
        }
        _ => true,
    };
    let mut out = vec![0; MAX_MESSAGE];
    let length = encode(&query, &mut reply, MAX_MESSAGE, &mut out);
    if is_decoded {
        assert_eq!(decode(&out[..length]).expect("a message").answers.len(), 1, "{text}");
    }
    shown
}

#[test]
fn owner_ttl_and_class_may_be_left_out_or_swapped() {
    for (text, expected) in [
        ("a.example. 60 IN A 10.0.0.1", "A.exAmple. 60 IN A 10.0.0.1"),
        ("a.example 60 in a 10.0.0.1\n", "A.exAmple. 60 IN A 10.0.0.1"),
        ("b. IN 60 A 10.0.0.1", "b. 60 IN A 10.0.0.1"),
        ("b. 60 A 10.0.0.1", "b. 60 IN A 10.0.0.1"),
        ("b. CH A 10.0.0.1", "b. 3600 CH A 10.0.0.1"),
        ("b.\tA\t10.0.0.1 ; a comment", "b. 3600 IN A 10.0.0.1"),
        ("b. 1h30m CLASS77 TYPE1 10.0.0.1", "b. 5400 CLASS77 A 10.0.0.1"),
        ("\n; a comment\nb. A 10.0.0.1\nc. A 10.0.0.2", "b. 3600 IN A 10.0.0.1"),
        ("$TTL 2m\n$ORIGIN c.\nb A 10.0.0.1", "b.c. 120 IN A 10.0.0.1"),
        ("@ A 10.0.0.1", ". 3600 IN A 10.0.0.1"),
        (r"x\.y\046z. A 10.0.0.1", r"x\.y\.z. 3600 IN A 10.0.0.1"),
        // The type is read as the owner.
        ("60 A 10.0.0.1", "60. 3600 IN A 10.0.0.1"),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn data_is_read_by_type() {
    for (text, expected) in [
        ("b. 5 AAAA 2001:db8::1", "b. 5 IN AAAA 2001:db8::1"),
        ("b. 5 CNAME A.Example.", "b. 5 IN CNAME A.exAmple."),
        ("b. 5 PTR c", "b. 5 IN PTR c."),
        ("b. 5 SRV 1 2 3 c.d.", "b. 5 IN SRV 1 2 3 c.d."),
        ("b. 5 SOA ns.b. h.b. (1 60 1h 1w 60)", "b. 5 IN SOA ns.b. h.b. 1 60 3600 604800 60"),
        ("b. 5 SOA ns.b. h.b. ( 1 ; serial\n 2 3\n 4 5 )", "b. 5 IN SOA ns.b. h.b. 1 2 3 4 5"),
        ("b. 5 MX 10 c.", "b. 5 IN MX 000a016300"),
        (r#"b. 5 TXT a "b c" "" "\"\065""#, "b. 5 IN TXT 01610362206300022241"),
        ("b. 5 HINFO \"x y\"", "b. 5 IN HINFO 01780179"),
        (r#"b. 5 CAA 0 issue "ca.example""#, "b. 5 IN CAA 0005697373756563612e6578616d706c65"),
        (r#"b. 5 NAPTR 1 2 "s" "x" "" c."#, "b. 5 IN NAPTR 000100020173017800016300"),
        ("b. 5 DS 1 RSASHA256 2 AB cd", "b. 5 IN DS 00010802abcd"),
        ("b. 5 DNSKEY 256 3 13 AQI D", "b. 5 IN DNSKEY 0100030d010203"),
        ("b. 5 TLSA 3 1 1 00ff", "b. 5 IN TLSA 03010100ff"),
        ("b. 5 SSHFP 1 2 00ff", "b. 5 IN SSHFP 010200ff"),
        ("b. 5 NSEC c. A TYPE300 MX", "b. 5 IN NSEC 016300000240010106000000000008"),
        ("b. 5 HTTPS 1 . port=443 alpn=\"h2,h3\"", "b. 5 IN HTTPS 000100000100060268320268330003000201bb"),
        ("b. 5 EUI48 00-00-5e-00-53-2a", "b. 5 IN EUI48 00005e00532a"),
        (r"b. 5 TYPE65280 \# 3 0a0B ff", "b. 5 IN TYPE65280 0a0bff"),
        (r"b. 5 A \# 4 0a000001", "b. 5 IN A 0a000001"),
        (
            "b. 5 RRSIG A 8 1 60 20300101000000 1700000000 7 c. AQID",
            "b. 5 IN RRSIG 000108010000003c70dbd8806553f1000007016300010203",
        ),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn long_text_is_cut_into_strings() {
    let text = format!("b. 5 TXT \"{}\"", "x".repeat(300));
    let read = read(&text);
    let data = read.strip_prefix("b. 5 IN TXT ").expect("a record");
    assert!(data.starts_with("ff78") && data.len() == 2 * (1 + 255 + 1 + 45), "{data}");
}

#[test]
fn what_is_no_record_says_why() {
    for (text, expected) in [
        ("b. 60 IN A 10.0.0.256", r#"dns: bad A A: "10.0.0.256" at line: 1:21"#),
        ("b. 60 IN A", r#"dns: no data: "" at line: 1:10"#),
        (r"b. A \# 0", r#"dns: bad RFC3597 Rdata: "\\#" at line: 1:8"#),
        (r"b. TYPE65280 \# 0", r#"dns: bad RFC3597 Rdata: "\\#" at line: 1:16"#),
        ("b. 60 IN A ::1", r#"dns: bad A A: "::1" at line: 1:14"#),
        ("b. 60 IN AAAA 10.0.0.1", r#"dns: bad AAAA AAAA: "10.0.0.1" at line: 1:22"#),
        ("b. 60 IN A 10.0.0.1 x", r#"dns: garbage after rdata: "x" at line: 1:21"#),
        ("b. x A 10.0.0.1", r#"dns: not a TTL: "x" at line: 1:5"#),
        ("a..b. A 10.0.0.1", r#"dns: bad owner name: "a..b." at line: 1:6"#),
        ("b. TYPE99999 x", r#"dns: unknown RR type: "unknown RR type" at line: 1:13"#),
        ("b. 60 IN NOTYPE x", r#"dns: unknown RR type: "NOTYPE" at line: 1:16"#),
        ("b. TXT (\"x\"", r#"dns: bad TXT field 1: "unbalanced brace" at line: 1:11"#),
        ("b. TXT x)", r#"dns: bad TXT field 1: "extra closing brace" at line: 1:9"#),
        ("$INCLUDE /etc/passwd", r#"dns: $INCLUDE directive not allowed: "/etc/passwd" at line: 1:20"#),
        ("$GENERATE 1-2 a$ A 10.0.0.$", r#"dns: $GENERATE directive not allowed: "1-2" at line: 1:14"#),
        ("", r#"dns: no record: "" at line: 1:0"#),
        (" A 10.0.0.1", r#"dns: no owner: " " at line: 1:3"#),
        (r"b. A \# 3 0a0000", r#"dns: bad RFC3597 Rdata: "\\#" at line: 1:8"#),
        (r"b. MX \# 2 0001", r#"dns: bad RFC3597 Rdata: "\\#" at line: 1:9"#),
        ("b. LOC 1 N 2 E 3m", r#"dns: LOC records are read as RFC 3597 writes them only: "1" at line: 1:9"#),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in r#"[ab.@$\\"(); \n\t019A-Z#é]{0,60}"#, rtype in "(A|TXT|SOA|MX|NSEC3|RRSIG|HTTPS|CAA|EUI48|HINFO|L64)") {
        read(&text);
        read(&format!("b. {rtype} {text}"));
    }
}

proptest::proptest! {
    #[test]
    fn plain_data_is_that_of_the_whole_reader(
        number in 0..9_usize,
        text in proptest::prop_oneof![
            proptest::string::string_regex("([0-9]{1,6}[ \t]){0,3}[ \t]?[a-c0-9.@]{0,12}[ \t]?").expect("an expression"),
            proptest::string::string_regex("([ab;(]|\"[ab ;\\\\)]{0,3}\"| |\t|\n){0,6}").expect("an expression"),
            proptest::string::string_regex("[0-9a-f:.]{0,12} ?").expect("an expression"),
        ],
    ) {
        let rtype = [
            Type::A, Type::AAAA, Type::CNAME, Type::NS, Type::PTR, Type::MX, Type::SRV, Type::TXT, Type::SPF,
        ][number];
        assert!(is_plain_type(rtype));
        let query = Query::parse(QUERY).expect("a query");
        let mut reply = Reply::new();
        if let Some(rdata) = plain_data(rtype, text.as_bytes(), &query.question, &mut reply) {
            let owner = plain_name(b"a.example", &query.question, &mut reply).expect("a name");
            reply.push(Record { section: Section::Answer, owner, rtype, class: Class::IN, ttl: 60, rdata });
            let mut whole = Reply::new();
            let record = format!("a.example 60 IN {rtype} {text}");
            add_record(record.as_bytes(), Section::Answer, &query.question, &mut whole).expect("a record");
            let [plain, whole] = [&mut reply, &mut whole].map(|reply| {
                let mut out = vec![0; MAX_MESSAGE];
                let len = encode(&query, reply, MAX_MESSAGE, &mut out);
                out.truncate(len);
                out
            });
            assert_eq!(plain, whole, "{rtype} {text:?}");
        }
    }
}
