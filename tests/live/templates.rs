//! *template*: the same answers as CoreDNS, for each Corefile.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use clusterdns::wire::Type;
use libtest_mimic::Failed;

use super::Test;
use super::ask::{Answer, Question, ask_all};
use super::server::{Server, Software};
use super::{ports, shared};

/// Stanzas for both.
const STANZAS: &[(&str, &str)] = &[
    (
        "groups of a pattern",
        r#"
    template IN A test {
        match ^(?P<h>[a-z]+)-(?P<a>[0-9]+)-(?P<b>[0-9]+)[.] ^ten[.](?P<h>[a-z]+)(?P<a>)(?P<b>)[.]
        answer "{{ .Name }} 60 IN A 10.{{ if .Group.a }}{{ .Group.a }}{{ else }}9{{ end }}.{{ len .Group.h }}.{{ len .Match }}"
        fallthrough
    }
    template IN TXT test {
        match "^(?P<x>[^.]*)[.](.*)$"
        answer "{{ .Name }} IN TXT \"{{ .Group.x }}|{{ index .Match 2 }}\" {{ range $k, $v := .Group }}\"{{ $k }}={{ $v }}\" {{ end }}"
    }
"#,
    ),
    (
        "all sections, codes and fallthrough",
        r#"
    template IN MX sub.test {
        answer "{{ .Name }} 30 MX 10 mx.{{ .Zone }}" "{{ .Name }} 30 MX 20 {{ .Name }}"
        additional "mx.{{ .Zone }} 1h A 192.0.2.1" "mx.{{ .Zone }} AAAA 2001:db8::{{ len .Name }}"
        authority "{{ .Zone }} NS ns.{{ .Zone }}"
    }
    template ANY A test {
        match "^nx"
        rcode NXDOMAIN
        authority "test 20 {{ .Class }} SOA ns.test. h.test. (1 2h 3m 4 5)"
        fallthrough test
    }
    template IN AAAA {
        rcode NOERROR
    }
    template IN HTTPS {
        answer "{{ .Name }} 5 HTTPS 1 . alpn=h2,h3 port=8443" "{{ .Name }} 5 TYPE65 \\# 3 0001 00"
    }
"#,
    ),
    (
        "conditions and variables",
        r#"
    template IN A test {
        var labels split(name(), '.')
        var total "reduce(map(labels, len(#)), #acc + #, 0)"
        expr len(labels) > 2 and not (name() startsWith 'x')
        answer "{{ .Name }} 60 A 10.0.{{ len .Var.labels }}.{{ .Var.total }}"
        fallthrough
    }
    template IN TXT test {
        expr bufsize() > 512 or proto() == 'tcp'
        answer "{{ .Name }} TXT \"{{ .Message.RecursionDesired }} {{ with .Message.IsEdns0 }}{{ .UDPSize }}{{ else }}plain{{ end }}\""
        fallthrough
    }
    template IN TXT test {
        answer "{{ .Name }} TXT {{ printf `%q %05d` .Type 42 | printf `%q` }}"
    }
"#,
    ),
    (
        "aliases",
        r#"
    template IN A test {
        match ^alias[.]
        answer "{{ .Name }} 60 CNAME a.sub.test." "{{ .Name }} 60 A 192.0.2.9"
        fallthrough
    }
    template IN ANY sub.test {
        answer "{{ .Name }} 30 {{ .Type }} {{ if eq .Type `A` }}192.0.2.1{{ else }}2001:db8::1{{ end }}"
    }
    template IN CNAME test {
        answer "{{ .Name }} CNAME a.sub.test"
    }
    cache 30
    hosts {
        192.0.2.7 web.test x.web.test
        fallthrough
    }
"#,
    ),
];

const NAMES: &[&str] = &[
    "test.",
    "web.test.",
    "WEB-1-2.test.",
    "ten.x.test.",
    "x.web.test.",
    "nx.test.",
    "nx.sub.test.",
    "alias.test.",
    "a.sub.test.",
    "sub.test.",
    "*.test.",
    "a.b.c.d.test.",
    "other.",
    ".",
];
const TYPES: &[Type] = &[Type::A, Type::AAAA, Type::TXT, Type::MX, Type::CNAME, Type::HTTPS, Type::SRV, Type::ANY];

pub fn tests() -> Vec<Test> {
    let test =
        |(name, text): &'static (&str, &str)| Test::new(format!("template: as CoreDNS: {name}"), move || alike(text));
    STANZAS.iter().map(test).collect()
}

fn alike(stanzas: &str) -> Result<(), Failed> {
    let questions = questions(NAMES, TYPES);
    let text = |port| format!("test:{port} other:{port} {{\n    errors\n    bind 127.0.0.1\n{stanzas}}}\n");
    compare(text, &questions, questions.len() / 20)
}

/// Returns queries of these names and types, with and without EDNS.
pub fn questions(names: &[&str], types: &[Type]) -> Vec<Question> {
    let mut questions = Vec::new();
    for name in names {
        for &rtype in types {
            for (tcp, edns) in [(false, None), (false, Some(4_096)), (true, Some(1_232))] {
                questions.push(Question { tcp, edns, ..Question::new(name, rtype) });
            }
        }
    }
    questions
}

/// Starts both servers with a Corefile for a port, and compares their answers, of which this number must have records.
pub fn compare(text: impl Fn(u16) -> String, questions: &[Question], least: usize) -> Result<(), Failed> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let start = |software| {
        let folder: PathBuf = shared::folder().join(format!("written-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder).expect("a folder");
        let port = ports::free();
        Server::start(software, &text(port), port, folder)
    };
    let (ours, theirs) = (start(Software::Clusterdns), start(Software::CoreDns));
    let (ours, theirs) = (ask_all(ours.at, questions), ask_all(theirs.at, questions));
    let lower = |answer: &Option<Answer>| answer.as_ref().map(Answer::in_lower_case);
    let differing = questions.iter().zip(ours.iter().zip(&theirs));
    // Row 26 of docs/differences.md: names have the letter case of the question.
    let differing = differing.filter(|(_, (ours, theirs))| lower(ours) != lower(theirs));
    let shown: Vec<String> = differing
        .map(|(question, (ours, theirs))| {
            let text = |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::to_string);
            format!("{question}\n    ours: {}\n    CoreDNS: {}\n", text(ours), text(theirs))
        })
        .collect();
    if !shown.is_empty() {
        let first: String = shown.iter().take(12).cloned().collect();
        return Err(format!("{} of {} differ\n{first}", shown.len(), questions.len()).into());
    }
    let answered = ours.iter().flatten().filter(|answer| !answer.sections.concat().is_empty()).count();
    if answered < least { Err(format!("only {answered} have records").into()) } else { Ok(()) }
}
