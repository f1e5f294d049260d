//! gRPC to both sides: queries through a server's *grpc* to a `grpc://` block, of this program and of CoreDNS in every
//! combination, have the answers that CoreDNS gives without it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use clusterdns::wire::Type;
use libtest_mimic::Failed;

use super::Test;
use super::ask::{Answer, Question, ask_all};
use super::certificates::Authority;
use super::server::{Server, Software};
use super::templates::questions;
use super::{ports, shared};

/// The plugins behind gRPC.
const PLUGINS: &str = r#"
    hosts {
        192.0.2.1 web.test
        2001:db8::1 web.test
        fallthrough
    }
    template IN TXT test {
        match ^large[.]
        answer "{{ .Name }} 60 TXT {{ printf `%0200d` 1 }}" "{{ .Name }} 60 TXT {{ printf `%0200d` 2 }}" "{{ .Name }} 60 TXT {{ printf `%0200d` 3 }}"
        additional "x.test. 60 A 192.0.2.2"
        fallthrough
    }
    template ANY ANY test {
        rcode NXDOMAIN
        authority "test 20 SOA ns.test. h.test. (1 2h 3m 4 5)"
    }
"#;

const NAMES: &[&str] = &["web.test.", "WEB.test.", "large.test.", "none.test.", "a.except.test."];
const TYPES: &[Type] = &[Type::A, Type::AAAA, Type::TXT, Type::MX];

pub fn tests() -> Vec<Test> {
    [false, true]
        .map(|tls| Test::new(format!("grpc: as CoreDNS{}", if tls { ", over TLS" } else { "" }), move || alike(tls)))
        .into()
}

fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = shared::folder().join(format!("grpc-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Starts a server with a `grpc://` block, and one that forwards to it. Returns both.
fn pair(front: Software, back: Software, tls: Option<(&str, &str)>) -> [Server; 2] {
    let (inner, grpc, port) = (ports::free(), ports::free(), ports::free());
    let (server_tls, client_tls) = tls.unwrap_or_default();
    let text = format!("test:{inner} grpc://test:{grpc} {{\n    bind 127.0.0.1\n{server_tls}{PLUGINS}}}\n");
    let back = Server::start(back, &text, inner, folder());
    let text = format!(
        "test:{port} {{\n    errors\n    bind 127.0.0.1\n    grpc . 127.0.0.1:{grpc} {{\n        except except.test\n{client_tls}        \
         fallthrough none.test\n    }}\n    erratic {{\n        drop 0\n    }}\n}}\n"
    );
    [Server::start(front, &text, port, folder()), back]
}

fn alike(with_tls: bool) -> Result<(), Failed> {
    let authority = Authority::new("grpc");
    let certificates = folder();
    let files = authority.server(&certificates, "grpc", &[]);
    let trusted = certificates.join("authority.crt");
    std::fs::write(&trusted, authority.pem()).expect("a file");
    let server_tls = format!("    tls {} {}\n", files.certificate.display(), files.key.display());
    let client_tls = format!("        tls {}\n        tls_servername localhost\n", trusted.display());
    let tls = with_tls.then_some((server_tls.as_str(), client_tls.as_str()));
    let questions = questions(NAMES, TYPES);
    let lower = |answers: Vec<Option<Answer>>| -> Vec<Option<Answer>> {
        answers.into_iter().map(|answer| answer.as_ref().map(Answer::in_lower_case)).collect()
    };
    let ask = |front, back| {
        let [front, _back] = pair(front, back, tls);
        lower(ask_all(front.at, &questions))
    };
    let theirs = ask(Software::CoreDns, Software::CoreDns);
    assert!(theirs.iter().all(Option::is_some), "CoreDNS answers everything");
    for (front, back) in [
        (Software::Clusterdns, Software::CoreDns),
        (Software::CoreDns, Software::Clusterdns),
        (Software::Clusterdns, Software::Clusterdns),
    ] {
        let ours = ask(front, back);
        let differing = questions.iter().zip(ours.iter().zip(&theirs)).filter(|(_, (ours, theirs))| ours != theirs);
        let text = |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::to_string);
        let show = |(question, (ours, theirs)): (&Question, (_, _))| {
            format!("{question}\n    {front:?} to {back:?}: {}\n    CoreDNS: {}\n", text(ours), text(theirs))
        };
        let shown: Vec<String> = differing.map(show).collect();
        if !shown.is_empty() {
            let first: String = shown.iter().take(6).cloned().collect();
            return Err(format!("{} of {} differ\n{first}", shown.len(), questions.len()).into());
        }
    }
    Ok(())
}
