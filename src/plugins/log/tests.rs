//! Tests of the lines that are logged for queries.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::chain::{Chain, Client, Failure, Transport};
use crate::plugins::testing::{Answers, client, code, config, n, packet, send, send_through};
use crate::wire::Rcode;
use crate::wire::{NameRef, Rdata, Record, Section, Type};

/// A plugin with metadata.
struct Known;

impl Plugin for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn metadata(&self, _: &Exchange<'_>, label: &str) -> Option<String> {
        match label {
            "known/empty" => Some(String::new()),
            "known/forged" => Some("a\n[INFO] b".to_owned()),
            _ => None,
        }
    }
}

/// Returns the lines that are logged for a query.
fn logged(lines: &str, answer: Arc<dyn Plugin>, packet: &[u8], client: Client, format: LineFormat) -> String {
    let logger = Logger::unwritten(format);
    let log = Log::new(&config(lines, parse), logger.clone());
    let chain = Chain::new(vec![Arc::new(log), Arc::new(Known), answer]).with_metadata(vec![n("web.")]);
    send_through(chain, packet, client, Instant::now());
    logger.take()
}

/// Returns the line for a query for `web. A` from 127.0.0.1:53342.
fn line(lines: &str, answer: Arc<dyn Plugin>) -> String {
    logged(lines, answer, &packet("Web", Type::A, None), client("127.0.0.1:53342"), LineFormat::Text)
}

/// Returns the line without the duration at its end, which has to be valid.
fn without_duration(line: &str) -> &str {
    let (rest, duration) = line.trim_end().rsplit_once(' ').expect("a duration");
    let seconds = duration.strip_suffix('s').expect("a unit");
    assert!(seconds.parse::<f64>().is_ok_and(|seconds| seconds < 60.0) && !seconds.contains('e'), "{duration}");
    rest
}

fn address() -> Arc<dyn Plugin> {
    Arc::new(Answers(|exchange: &mut Exchange<'_>| {
        exchange.reply().authoritative = true;
        exchange.reply().answer(Type::A, 30, Rdata::A([10, 0, 0, 1]));
    }))
}

fn soa(rcode: Rcode) -> Arc<dyn Plugin> {
    Arc::new(Answers(move |exchange: &mut Exchange<'_>| {
        let reply = exchange.reply();
        reply.rcode = rcode;
        let rtype = Type::SOA;
        let class = crate::wire::Class::IN;
        let rdata = Rdata::Bytes(reply.store(&[0; 22]));
        reply.push(Record { section: Section::Authority, owner: NameRef::QUESTION, rtype, class, ttl: 0, rdata });
    }))
}

#[test]
fn the_default_line_is_coredns_s() {
    let expected = r#"[INFO] 127.0.0.1:53342 - 1234 "A IN web. udp 21 false 512" NOERROR qr,aa,rd 37"#;
    assert_eq!(without_duration(&line("log", address())), expected);
    let combined = line("log . {combined}", address());
    assert!(combined.starts_with(expected) && combined.ends_with("s \"0\"\n"), "{combined}");
}

#[test]
fn a_bare_code_has_one_line() {
    let failure = Some(Failure::NoNextPlugin("x"));
    for (rcode, name) in
        [(Rcode::SERVFAIL, "SERVFAIL"), (Rcode::REFUSED, "REFUSED"), (Rcode(11), "DSOTYPENI"), (Rcode(12), "12")]
    {
        let expected = format!(r#"[INFO] 127.0.0.1:53342 - 1234 "A IN web. udp 21 false 512" {name} qr,rd 21"#);
        let got = line("log", code(rcode, failure.clone()));
        assert_eq!(got.lines().count(), 1);
        assert_eq!(without_duration(&got), expected);
    }
}

/// A plugin that drops every query.
struct Dropping;

impl Plugin for Dropping {
    fn name(&self) -> &'static str {
        "dropping"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Drop
    }
}

#[test]
fn a_dropped_query_is_logged() {
    let got = line("log", Arc::new(Dropping));
    assert_eq!(without_duration(&got), r#"[INFO] 127.0.0.1:53342 - 1234 "A IN web. udp 21 false 512" - - 0"#);
    let classes = "log . \"{/log/class} {/log/type}\" {\n class error\n}";
    assert_eq!(line(classes, Arc::new(Dropping)), "[INFO] error OTHERERROR\n");
    assert_eq!(line("log . {\n class success denial\n}", Arc::new(Dropping)), "");
    let query = packet("web", Type::A, None);
    let got = logged("log", Arc::new(Dropping), &query, client("127.0.0.1:53342"), LineFormat::Json);
    let got: serde_json::Value = serde_json::from_str(&got).expect("an object");
    assert_eq!((&got["rcode"], &got["response_size"]), (&serde_json::Value::Null, &0.into()));
}

#[test]
fn every_placeholder_has_its_value() {
    let format = "log . \"{type}|{class}|{name}|{proto}|{size}|{remote}|{port}|{local}|{>id}|{>opcode}|{>do}|{>bufsize}|{rcode}|{>rflags}|{rsize}\"";
    let mut query = packet("a.b", Type(65280), Some(1232));
    let do_bit = query.len() - 4;
    query[do_bit] = 0x80;
    let got = logged(format, address(), &query, client("[fd00::1]:4242"), LineFormat::Text);
    assert_eq!(got, "[INFO] TYPE65280|IN|a.b.|udp|32|[fd00::1]|4242|127.0.0.53|1234|0|true|1232|NOERROR|qr,aa,rd|48\n");
    let tcp = Client { transport: Transport::Tcp, ..client("[::ffff:10.0.0.1]:4242") };
    let got = logged("log . \"{remote} {proto} {>bufsize}\"", address(), &query, tcp, LineFormat::Text);
    assert_eq!(got, "[INFO] 10.0.0.1 tcp 65535\n");
}

#[test]
fn metadata_is_logged_if_the_block_has_it() {
    let format = "log . \"{/known/empty}|{/known/none}|{/known/forged}|{/log/class}|{/log/type}\"";
    assert_eq!(line(format, code(Rcode::NXDOMAIN, None)), "[INFO] |-|a [INFO] b|denial|NXDOMAIN\n");
    // Outside the zones of *metadata* there are only the labels of *log* itself.
    let outside = packet("a", Type::A, None);
    let got = logged(format, address(), &outside, client("127.0.0.1:1"), LineFormat::Text);
    assert_eq!(got, "[INFO] -|-|-|success|NOERROR\n");
    let logger = Logger::unwritten(LineFormat::Text);
    let log = Log::new(&config(format, parse), logger.clone());
    let query = packet("a", Type::A, None);
    send(vec![Arc::new(log), Arc::new(Known), address()], &query, client("127.0.0.1:1"), Instant::now());
    assert_eq!(logger.take(), "[INFO] -|-|-|-|-\n");
}

#[test]
fn the_first_matching_scope_and_its_classes_apply() {
    let rules = "log web \"1{rcode}\" {\n class denial\n}\nlog . \"2{rcode}\"";
    assert_eq!(line(rules, address()), "");
    assert_eq!(line(rules, soa(Rcode::NOERROR)), "[INFO] 1NOERROR\n");
    assert_eq!(line(rules, soa(Rcode::NXDOMAIN)), "[INFO] 1NXDOMAIN\n");
    let other = packet("b.web.c", Type::A, None);
    let got = logged(rules, address(), &other, client("127.0.0.1:1"), LineFormat::Text);
    assert_eq!(got, "[INFO] 2NOERROR\n");
    let errors = "log . \"{rcode}\" {\n class error\n}";
    assert_eq!(line(errors, address()), "");
    assert_eq!(line(errors, code(Rcode::SERVFAIL, None)), "[INFO] SERVFAIL\n");
    let transfer = packet("web", Type::AXFR, None);
    let got = logged(errors, address(), &transfer, client("127.0.0.1:1"), LineFormat::Text);
    assert_eq!(got, "[INFO] NOERROR\n");
    assert_eq!(line("log example.org", address()), "");
}

#[test]
fn a_json_line_has_coredns_s_fields() {
    let query = packet("web", Type::A, None);
    let got = logged("log . \"{name}\"", address(), &query, client("[fd00::1]:53342"), LineFormat::Json);
    let mut line: serde_json::Value = serde_json::from_str(&got).expect("an object");
    let line = line.as_object_mut().expect("an object");
    assert!(line.remove("time").is_some());
    assert!(line.remove("duration_seconds").is_some_and(|seconds| seconds.is_f64()));
    let expected = serde_json::json!({
        "level": "INFO", "msg": "web.", "plugin": "log", "client_ip": "fd00::1", "client_port": 53342,
        "qname": "web.", "qtype": "A", "qclass": "IN", "protocol": "udp", "id": 1234, "opcode": 0,
        "request_size": 21, "dnssec_ok": false, "bufsize": 512, "rcode": "NOERROR", "response_size": 37,
    });
    assert_eq!(serde_json::Value::Object(line.clone()), expected);
}
