//! Tests of stanzas, answers and counters.

use std::sync::Arc;

use super::*;
use crate::chain::Fallthrough;
use crate::plugins::testing::{ask, code, config, n, read};
use crate::telemetry::metrics::{Collected, Observed, Registry, register, text};

#[test]
fn stanzas_are_read() {
    let config = config(
        "template IN A {\n match a b\n match c\n answer \"x. A 10.0.0.1\"\n rcode NXDOMAIN\n fallthrough x.example\n}
         template ANY ANY Foo.example 10.0.0.0/8 {\n authority \"x. A 10.0.0.1\" \"y. A 10.0.0.1\"
         additional \"z. A 10.0.0.1\"\n ederror 21 \"a text\"\n var a 1\n expr a + 1 == 2\n}",
        parse,
    );
    let [first, second] = &config.stanzas[..] else { panic!("two stanzas") };
    assert_eq!((first.class, first.rtype), (Class::IN, Type::A));
    assert_eq!(first.zones, [n("example"), n("example.org")], "those of the block");
    let patterns: Vec<&str> = first.patterns.iter().map(|pattern| &*pattern.text).collect();
    assert_eq!(patterns, ["a", "b", "c"]);
    assert_eq!(first.rcode, Rcode::NXDOMAIN);
    assert_eq!(first.fallthrough, Fallthrough::Within(vec![n("x.example")]));
    assert_eq!((second.class, second.rtype), (Class::ANY, Type::ANY));
    assert_eq!(second.zones, [n("foo.example"), n("10.in-addr.arpa")]);
    assert_eq!(second.extended_error, Some((21, "a text".into())));
    assert_eq!(second.fallthrough, Fallthrough::Never);
    assert_eq!((second.variables.len(), second.conditions.len()), (1, 1));
    let sections: Vec<Section> = second.records.iter().map(|(section, _)| *section).collect();
    assert_eq!(sections, [Section::Additional, Section::Authority, Section::Authority], "as CoreDNS makes them");
}

#[test]
fn what_cannot_be_read_says_why() {
    let errors = |lines: &str| read(&format!("template IN A {{\n{lines}\n}}"), parse).1;
    for (lines, message) in [
        ("match ^(ip", "could not parse regex: ^(ip, error parsing regexp: unclosed group at character 2"),
        (
            "answer \"{{ nothing }}\"",
            "could not compile template: {{ nothing }}, template: answer:1: function \"nothing\" not defined",
        ),
        (
            "additional \"{{ if }}{{ end }}\"",
            "could not compile template: {{ if }}{{ end }}, template: additional:1: missing value for if",
        ),
        ("authority", "Wrong argument count or unexpected line ending after 'authority'"),
        ("rcode nxdomain", "unknown rcode nxdomain (NXDOMAIN?)"),
        ("rcode NXDOMAIM", "unknown rcode NXDOMAIM (NXDOMAIN?)"),
        ("rcode 3", "unknown rcode 3"),
        ("rcode NXDOMAIN answers", "Wrong argument count or unexpected line ending after 'answers'"),
        ("ederror", "Wrong argument count or unexpected line ending after 'ederror'"),
        ("ederror 65536", "error parsing extended DNS error code 65536"),
        ("ederror +1", "error parsing extended DNS error code +1"),
        ("ederror 1 a b", "Wrong argument count or unexpected line ending after 'b'"),
        ("var a", "Wrong argument count or unexpected line ending after 'a'"),
        ("var 1a 1", "invalid variable name \"1a\""),
        ("var name 1", "variable name \"name\" is reserved"),
        ("var a 1\nvar a 2", "variable name \"a\" is reserved"),
        ("expr", "Wrong argument count or unexpected line ending after 'expr'"),
        ("var a b + 1", "could not compile expression: a, unknown name b"),
        ("expr incidr(a)", "could not compile expression: unknown name a"),
        ("expr 'a' +  1", "could not compile expression: invalid operation: + (mismatched types string and int)"),
        (
            "answer \"{{ define `t` }}é\"",
            "could not compile template: {{ define `t` }}é, template: answer:1: unexpected EOF",
        ),
        ("anser x", "unknown property 'anser' (answer?)"),
    ] {
        let errors = errors(lines);
        let messages: Vec<&str> = errors.iter().filter_map(|message| message.lines().next()).collect();
        assert_eq!(messages, [message], "{lines}");
    }
    for (line, message) in [
        ("template", "Wrong argument count or unexpected line ending after 'template'"),
        ("template IN", "Wrong argument count or unexpected line ending after 'IN'"),
        ("template in A", "invalid query class in (IN?)"),
        ("template XX A", "invalid query class XX"),
        ("template IN a", "invalid RR class a (A?)"),
        ("template IN TYPE1", "invalid RR class TYPE1"),
        ("template IN TYPE65280", "invalid RR class TYPE65280"),
    ] {
        assert_eq!(read(line, parse).1, [message], "{line}");
    }
}

#[test]
fn answers_that_are_never_records_are_warned_of() {
    let warnings = |lines: &str| {
        let (config, errors) = read(&format!("template IN A {{\n{lines}\n}}"), parse);
        assert!(config.is_some());
        errors
    };
    assert_eq!(warnings("answer \"example 60 IN A 10.0.0.1\""), [""; 0]);
    assert_eq!(warnings("answer \"{{ .Name }} 60 IN A 10.0.0.256\""), [""; 0], "this may depend on the query");
    assert_eq!(
        warnings("answer \"example 60 IN A 10.0.0.256\""),
        ["this is no record, queries that match get SERVFAIL: dns: bad A A: \"10.0.0.256\" at line: 1:26"]
    );
    assert_eq!(
        warnings("answer \"{{ .Nam }} A 10.0.0.1\""),
        ["the data of templates has no field 'Nam': queries that match get SERVFAIL (Name?)"]
    );
}

/// Returns a chain with a template of these lines, after which every query gets NOTIMP.
fn plugins(counts: &TemplateCounters, lines: &str) -> Vec<Arc<dyn Plugin>> {
    let template = Template::new(Arc::new(config(lines, parse)), counts, &BlockLabels::new("dns://:53", ""));
    vec![Arc::new(template), code(Rcode::NOTIMP, None)]
}

#[test]
fn a_code_may_have_a_property_in_its_line() {
    let lines = "template IN A {\n match ^a\n rcode NXDOMAIN fallthrough\n}";
    let counts = TemplateCounters::default();
    assert_eq!(ask(plugins(&counts, lines), "b.example", Type::A), "NOTIMP");
    assert_eq!(ask(plugins(&counts, lines), "a.example", Type::A), "NXDOMAIN aa");
}

#[test]
fn the_longest_zone_is_the_zone_of_a_name() {
    let lines = "template IN CNAME example a.example {\n answer \"{{ .Name }} CNAME {{ .Zone }}\"\n}";
    let counts = TemplateCounters::default();
    assert_eq!(ask(plugins(&counts, lines), "B.A.example", Type::CNAME), "NOERROR aa a.example.");
    assert_eq!(ask(plugins(&counts, lines), "b.example", Type::CNAME), "NOERROR aa example.");
    assert_eq!(ask(plugins(&counts, lines), "b.example.org", Type::CNAME), "NOTIMP");
}

#[test]
fn what_is_answered_and_what_fails_is_counted() {
    let counts = TemplateCounters::default();
    let lines = "template ANY ANY example {
        match ^a
        answer \"{{ .Name }} 60 IN A 10.0.0.1\"
        additional \"{{ if eq .Name `ab.example.` }}{{ index .Match 2 }}{{ end }}x.example 60 IN A 10.0.0.1\"
        authority \"x.example 60 IN A {{ if ne .Name `ac.example.` }}10.0.0.1{{ end }}\"
    }
    template IN TXT other.example.org {\n rcode SERVFAIL\n}";
    for (name, qtype, answer) in [
        ("a.example", Type::A, "NOERROR aa 10.0.0.1 10.0.0.1 10.0.0.1"),
        ("a.example", Type::A, "NOERROR aa 10.0.0.1 10.0.0.1 10.0.0.1"),
        ("a.example", Type(999), "NOERROR aa 10.0.0.1 10.0.0.1 10.0.0.1"),
        ("ab.example", Type::A, "SERVFAIL"),
        ("ac.example", Type::AAAA, "SERVFAIL"),
        ("b.example", Type::AAAA, "SERVFAIL"),
        ("a.example.org", Type::A, "NOTIMP"),
    ] {
        assert_eq!(ask(plugins(&counts, lines), name, qtype), answer, "{name}");
    }
    let registry = Registry::new();
    register(&registry, Observed::new(TemplateCounters::METRICS, move || counts.families()));
    let written = text(&registry);
    let values: Vec<&str> = written.lines().filter(|line| !line.starts_with('#')).collect();
    let zone = "view=\"\",zone=\"example.\"";
    let matches = |rtype: &str, count: u32| {
        format!("coredns_template_matches_total{{class=\"IN\",server=\"dns://:53\",type=\"{rtype}\",{zone}}} {count}")
    };
    let failures = |what: &str, section: &str, template: &str, rtype: &str| {
        format!(
            "coredns_template_{what}_failures_total{{class=\"IN\",section=\"{section}\",server=\"dns://:53\",\
             template=\"{template}\",type=\"{rtype}\",{zone}}} 1"
        )
    };
    let record = "x.example 60 IN A {{if ne .Name `ac.example.`}}10.0.0.1{{end}}";
    let template = "{{if eq .Name `ab.example.`}}{{index .Match 2}}{{end}}x.example 60 IN A 10.0.0.1";
    let expected = [
        matches("", 1),
        matches("A", 3),
        matches("AAAA", 1),
        failures("rr", "authority", record, "AAAA"),
        failures("template", "additional", template, "A"),
    ];
    assert_eq!(values, expected);
}

#[test]
fn a_template_of_the_deepest_nesting_runs_on_a_small_stack() {
    let deep = |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let nested = [
        deep("{{ if true }}", "{{ end }}", 99),
        format!("{{{{ {}1{} }}}}", "(print ".repeat(99), ")".repeat(99)),
        format!("{{{{ define `t` }}}}{{{{ template `t` }}}}{}{{{{ end }}}}{{{{ template `t` }}}}", "x".repeat(9)),
        format!(
            "{{{{ define `t` }}}}{}{{{{ template `t` }}}}{}{{{{ end }}}}{{{{ template `t` }}}}",
            "{{ if true }}".repeat(90),
            "{{ end }}".repeat(90)
        ),
    ];
    // The threads that answer queries have 2 MiB.
    let run = move || {
        for text in nested {
            let lines = format!("template IN A {{\n answer \"{text}\"\n}}");
            let (config, errors) = read(&lines, parse);
            let config = config.unwrap_or_else(|| panic!("{errors:?}"));
            let template = Template::new(Arc::new(config), &TemplateCounters::default(), &BlockLabels::default());
            assert_eq!(ask(vec![Arc::new(template)], "a.example", Type::A), "SERVFAIL");
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).expect("a thread").join().expect("no overflow");
}

/// Returns the response of a template, written by its prepared form or only by runs, and whether it has the former.
fn written_by(lines: &str, name: &str, is_prepared: bool) -> (Vec<u8>, bool) {
    let counts = TemplateCounters::default();
    let mut template = Template::new(Arc::new(config(lines, parse)), &counts, &BlockLabels::default());
    let has_prepared = template.stanzas.iter().all(|state| state.prepared.is_some());
    if !is_prepared {
        template.stanzas.iter_mut().for_each(|state| state.prepared = None);
    }
    let block = crate::chain::Block { zones: vec![n(".")], chain: crate::chain::Chain::new(vec![Arc::new(template)]) };
    let router = Arc::new(crate::chain::Router::new(vec![block], false));
    let (mut state, mut out, now) = (State::default(), [0; 4096], std::time::Instant::now());
    let client = crate::plugins::testing::client("192.0.2.1:4000");
    let packet = crate::plugins::testing::packet(name, Type::A, Some(1232));
    let crate::chain::Answer::Send(len) = router.answer(&packet, client, now, &mut state, &mut out) else {
        panic!("no plugin waits")
    };
    (out[..len].to_vec(), has_prepared)
}

#[test]
fn a_prepared_record_is_that_of_the_run() {
    let names = [
        "ip-10-0-0-1.example.",
        "ip-999-0-0-1.example.",
        "x.example.",
        "$ttl.example.",
        "@.example.",
        "a\\.b.example.",
        "a\\(b.example.",
        "5.example.",
        "a\\032b.example.",
        "IN.example.",
        "\\\".example.",
        "\\;x.example.",
        "1.2.3.example.",
    ];
    for (lines, is_prepared) in [
        ("answer \"{{ .Name }} 60 IN A 192.0.2.1\"", true),
        ("match ^ip-(?P<a>[0-9]+)-([0-9]+)-(?P<c>[0-9]+)-([0-9]+)[.]
          answer \"{{ .Name }} IN 60 A {{ .Group.a }}.{{ index .Match 2 }}.{{.Group.c}}.{{ index .Match 4 }}\"\n fallthrough", true),
        ("match ^(?P<n>[^.]*)[.] x(?P<n>y)\n answer \"{{ .Name }} 60 TXT a{{ .Group.n }}\"", true),
        ("match ^(.*)[.]example[.]$\n answer \"{{ .Name }}  5\tIN  CNAME {{ index .Match 1 }}.example.org.\"", true),
        ("match ^([^.]*)[.]\n answer \"{{ .Name }} AAAA 2001:db8::{{ index .Match 1 }}\"", true),
        ("answer \"{{ .Name }} 60 IN TXT \\\"a b; (c) {{ .Zone }}\\\" {{ .Type }}{{ .Class }} \\\"\\\"\"", true),
        ("answer \"{{ .Name }} 60 IN TXT \\\"a\\\"b\"", true),
        ("answer \"{{ .Name }} 60 IN TXT \\\"{{ .Name }}\"", true),
        ("answer \"{{ .Name }} 60 IN TXT \"", true),
        ("answer \"{{ .Name }} 60 IN MX 10 mail.{{ .Name }}\" \"{{ .Name }} 60 IN SRV 1 2 3 {{ .Name }}\"", true),
        ("answer \"{{ .Name }} 60 IN MX 65536 mail.{{ .Name }}\"", true),
        ("authority \"{{ .Zone }} 60 IN NS ns.{{ .Zone }}\" \"x.{{ .Name }} 60 IN NS @\"", true),
        ("additional \"relative 60 IN A 192.0.2.1 \" \"{{ .Name }} A 192.0.2.2 3\"", true),
        ("ederror 15 text\n rcode NXDOMAIN\n answer \"{{ .Name }} 60 IN PTR x.{{ .Name }}\"", true),
        ("answer \"{{ .Name }} 60 IN A 192.0.2.{{ len .Name }}\"", false),
        ("answer \"{{ .Name }} 60 IN A {{ .Group.none }}\"", false),
        ("answer \"{{ .Name }} 60 CH A 192.0.2.1\"", false),
        ("answer \"{{ .Name }} 4294967296 IN A 192.0.2.1\"", false),
        ("answer \"$TTL{{ .Name }} 60 IN A 192.0.2.1\"", false),
        ("answer \"{{ .Zone }} 60 IN SOA a. b. 1 2 3 4 5\"", false),
        ("expr true\n answer \"{{ .Name }} 60 IN A 192.0.2.1\"", false),
    ] {
        let lines = format!("template ANY ANY {{\n{lines}\n}}");
        for name in names {
            let (response, has_prepared) = written_by(&lines, name, true);
            assert_eq!(has_prepared, is_prepared, "{lines}");
            assert_eq!(response, written_by(&lines, name, false).0, "{lines} {name}");
        }
    }
}
