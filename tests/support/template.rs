//! Checks of arbitrary text as a stanza of *template*: it is accepted, or rejected with places in the text, and every
//! answer is a valid message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use clusterdns::chain::{Answer, Block, Chain, Client, Router, State, Transport};
use clusterdns::corefile::{Diagnostics, Known, MemoryFiles, parse_text, render_text};
use clusterdns::plugins::template::language::{self, MAX_OUTPUT, TemplateValue};
use clusterdns::plugins::template::{Template, TemplateCounters, parse};
use clusterdns::plugins::{BlockZones, Context};
use clusterdns::telemetry::metrics::BlockLabels;
use clusterdns::wire::presentation::add_record;
use clusterdns::wire::{MAX_MESSAGE, NameBuf, Query, Rcode, Reply, Section, Type, encode};

use super::answers::{n, packet};
use super::decoded;

/// Parts of stanzas, for random texts.
#[rustfmt::skip]
const PARTS: &[&str] = &[
    "match ", "answer \"", "additional \"", "authority \"", "\"\n", "\n", " ", "rcode ", "ederror ", "fallthrough\n", "var v ",
    "expr ", "expr \"", "^(?P<a>[a-z]*)-?([0-9]+)?", "(?i)", "[.]", "\\d", "NXDOMAIN", "REFUSED", "BADSIG", "21 ", "text",
    "{{ .Name }} 60 IN ", "{{ .Name }}", "{{ .Type }} ", "{{ .Group.a }}", "{{ .Group }}", "{{ index .Match 1 }}", "{{ .Var.v }}",
    "{{ if ", "{{ range ", "{{ with ", "{{ else }}", "{{ end }}", "{{ define `t` }}", "{{ template `t` . }}", "{{ $x := ", "$x", "}}",
    "{{ ", " }}", "{{- ", " -}}", ".Message.", ".Question", ".Match ", "| len", "| printf `%0*d|%q`", "5000 ", "eq .Type `A` ",
    "parseInt .Group.a 16 8", "A 10.0.0.1", "AAAA fd00::1", "CNAME a.", "TXT ", "MX 10 ", "SRV 1 2 3 ", "SOA a. b. (1 2 3 4 5)",
    "HTTPS 1 . alpn=h2", "CAA 0 issue a", "NSEC b. A NS TYPE300", "DS 1 8 2 00ff", "TYPE65280 \\\\# 2 0001", "\\\\\"a b\\\\\" ", "NAPTR ",
    "name()", "group(1)", "group('a')", "type()", "incidr(client_ip(), '10.0.0.0/8')", " + ", " == ", " and ", " in ", "[1, 2]",
    "map(1..3, # * 2)", "{a: 1}", "split(name(), '.')", "repeat('x', 1000)", "'a'", "1", "-", "(", ")", "*", ".", "\\\\", "\u{e9}", ";",
];

/// Returns a text of parts of stanzas, one for each byte.
pub fn stanza(choices: &[u8]) -> String {
    choices.iter().map(|choice| PARTS[usize::from(*choice) % PARTS.len()]).collect()
}

/// Checks any lines as a stanza, and after a form feed any text as the name of queries.
pub fn check_stanza(text: &str) {
    let mut parts = text.splitn(2, '\u{c}');
    let lines = parts.next().unwrap_or_default();
    let name = parts.next().and_then(|text| NameBuf::from_text(text).ok()).unwrap_or_else(|| n("a-1.b.example"));
    check_language(lines);
    check_record(lines, &name);
    let mut diagnostics = Diagnostics::new();
    let text = format!("example {{\n template ANY ANY . {{\n{lines}\n }}\n}}\n");
    let known = |_: &str| Known::Yes;
    let corefile = parse_text("Corefile", &text, &MemoryFiles::default(), &known, &mut diagnostics);
    let directives = corefile.blocks.iter().flat_map(|block| &block.directives);
    let stanzas: Vec<_> = directives.filter(|directive| directive.name.text == "template").collect();
    let zones = ["example.".to_owned()];
    let config = parse(
        &stanzas,
        &mut Context {
            keys: &[],
            zones: BlockZones::new(&zones, &[]),
            block: &[],
            root: None,
            diagnostics: &mut diagnostics,
        },
    );
    for diagnostic in &diagnostics {
        let span = diagnostic.span.expect("each error has a place");
        let text = corefile.sources.text(span.file);
        assert!(span.start <= span.end && text.get(span.start as usize..span.end as usize).is_some(), "{diagnostic:?}");
    }
    render_text(&diagnostics, &corefile.sources);
    let Some(config) = config else { return };
    let template = Template::new(Arc::new(config), &TemplateCounters::default(), &BlockLabels::default());
    let block = Block { zones: vec![n(".")], chain: Chain::new(vec![Arc::new(template)]) };
    let router = Arc::new(Router::new(vec![block], true));
    for (qtype, edns) in [(Type::A, None), (Type::TXT, Some(1_232)), (Type::ANY, Some(4_096)), (Type(65_280), None)] {
        check_answer(&router, &packet(&name, qtype, edns), usize::from(edns.unwrap_or(512)));
    }
}

/// Checks that a query has an answer at once, which is a message within the client's limit.
fn check_answer(router: &Arc<Router>, packet: &[u8], limit: usize) {
    let (mut state, mut out) = (State::default(), vec![0; MAX_MESSAGE]);
    let client = Client {
        remote: SocketAddr::from(([10, 0, 0, 1], 53_000)),
        local: SocketAddr::from(([10, 0, 0, 9], 53)),
        transport: Transport::Udp,
    };
    let Answer::Send(len) = router.answer(packet, client, Instant::now(), &mut state, &mut out) else {
        panic!("each query has an answer, at once");
    };
    assert!(len <= limit, "{len} of {limit}");
    let message = decoded::decode(&out[..len]);
    let rcode = Rcode(message.metadata.response_code.into());
    let records = decoded::records(&message);
    assert!(rcode != Rcode::SERVFAIL || records.is_empty(), "{rcode} with {records:?}");
}

/// Checks any text as a template: an error has a position, and a run is limited.
fn check_language(text: &str) {
    match language::GoTemplate::parse("answer", text) {
        Err(error) => assert!(error.at <= text.len() && text.is_char_boundary(error.at), "{error} at {}", error.at),
        Ok(template) => {
            let mut out = Vec::new();
            let _ = template.run(TemplateValue::text("a text"), &mut out);
            assert!(out.len() <= MAX_OUTPUT, "{} bytes", out.len());
            template.written();
        }
    }
}

/// Checks any text as a record: what is accepted can be sent.
fn check_record(text: &str, name: &NameBuf) {
    let packet = packet(name, Type::A, None);
    let query = Query::parse(&packet).expect("a query");
    let mut reply = Reply::new();
    let Ok(record) = add_record(text.as_bytes(), Section::Answer, &query.question, &mut reply) else { return };
    let mut out = vec![0; MAX_MESSAGE];
    let len = encode(&query, &mut reply, MAX_MESSAGE, &mut out);
    let message = decoded::decode(&out[..len]);
    // Data of 64 KiB fit into no message.
    if message.metadata.truncation {
        return;
    }
    let records = decoded::records(&message);
    let [sent] = &records[..] else { panic!("one record, not {records:?}") };
    assert_eq!((sent.rtype, sent.class, sent.ttl), (record.rtype.0, record.class.0, record.ttl));
}
