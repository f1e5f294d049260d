//! *autopath* beside CoreDNS, in the same cluster: random stanzas and questions, from clients that are Pods of two
//! namespaces or no Pods. Addresses of Pods are on loopback, so that the tests can send from them.
//!
//! `SEED=N` chooses other stanzas and questions. A difference is shown with its server block, to be run by hand.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use clusterdns::wire::{Query, Type};
use fastrand::Rng;
use libtest_mimic::Failed;
use serde_json::json;

use super::Test;
use super::ask::{Answer, Question};
use super::cluster::Cluster;
use super::objects::{Pod, namespace, service};
use super::ports::{self, on_loopback};
use super::rewrites::Upstream;
use super::server::{Server, Software};
use super::shared::{self, CALM};
use super::wait::SOON;

/// The number of server blocks, each with a stanza of its own.
const BLOCKS: usize = 64;
/// The number of questions for each.
const QUESTIONS: usize = 40;
/// The timeout after which a query counts as unanswered and is repeated.
const TIMEOUT: Duration = Duration::from_millis(500);

const NAMESPACES: [&str; 2] = ["path-a", "path-b"];
/// A Pod of each namespace, and two clients that are no Pods.
const CLIENTS: [[u8; 4]; 4] = [[127, 77, 0, 1], [127, 77, 0, 2], [127, 77, 0, 3], [127, 0, 0, 1]];
/// The first labels mean something to the upstream.
const BASES: [&str; 14] = [
    "web",
    "web.path-a",
    "web.path-b",
    "out",
    "www",
    "www.b.test",
    "cx.a",
    "dx",
    "nx",
    "nx.github.com",
    "fail.x",
    "ref",
    "empty.y",
    "_http._tcp.web",
];
const FIRST: [&str; 8] = [
    "path-a.svc.cluster.local",
    "path-a.svc.cluster.local",
    "path-b.svc.cluster.local",
    "svc.cluster.local",
    "corp.test",
    "corp.test",
    "a.example.org",
    "b.test",
];
const TYPES: [Type; 8] = [Type::A, Type::A, Type::A, Type::AAAA, Type::TXT, Type::MX, Type::SRV, Type::CNAME];
const FILES: [&str; 5] = [
    "search corp.test a.test b.test\n",
    "domain corp.test\n",
    "nameserver 192.0.2.1\nsearch Corp.Test Cluster.Local\nsearch a.Example.org corp.test cluster.local\n",
    "search path-a.svc.cluster.local svc.cluster.local cluster.local\n",
    "nameserver 192.0.2.1\noptions ndots:5\n",
];

pub fn tests() -> Vec<Test> {
    vec![Test::new("autopath: as CoreDNS", as_coredns), Test::new("autopath: the same errors as CoreDNS", same_errors)]
}

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// Creates the objects that the questions are about.
fn create(cluster: &Cluster) {
    for (ns, client) in NAMESPACES.into_iter().zip(CLIENTS) {
        cluster.api.apply(&namespace(ns, &json!({})));
        cluster.api.apply(&service(ns, "web", &[("http", 80, "TCP")], &json!({})));
        let out = json!({"type": "ExternalName", "externalName": "www.b.test"});
        cluster.api.apply(&service(ns, "out", &[], &out));
        Pod::new(ns, "client", "client", &[&Ipv4Addr::from(client).to_string()]).apply(&cluster.api);
    }
}

/// Returns the lines of a server block without its port; `$API` is the access to the API server.
fn block(rng: &mut Rng, folder: &Path, upstream: &str) -> String {
    let mut text = "    bind 127.0.0.1\n    errors\n".to_owned();
    if rng.u8(..4) == 0 {
        text += "    loadbalance\n";
    }
    // Not both: CoreDNS then returns the changed question.
    match rng.u8(..10) {
        0 | 1 => text += "    dns64 {\n        allow_ipv4\n    }\n",
        2 | 3 => text += "    rewrite name suffix .other.test .cluster.local answer auto\n",
        _ => {}
    }
    let mut may = |rng: &mut Rng, of: u8, lines: &str| {
        if rng.u8(..of) == 0 {
            text += lines;
        }
    };
    let zones = pick(rng, &["", "", "", "cluster.local ", "test cluster.local ", "path-a.svc.cluster.local "]);
    let source = match rng.u8(..8) {
        0..=4 => "@kubernetes".to_owned(),
        5 | 6 => folder.join(format!("resolv-{}", rng.usize(..FILES.len()))).display().to_string(),
        _ => "@erratic".to_owned(),
    };
    may(rng, 1, &format!("    autopath {zones}{source}\n"));
    may(rng, 6, "    acl www.b.test {\n        block type A\n    }\n");
    may(rng, 6, "    acl svc.cluster.local {\n        filter type A\n    }\n");
    may(rng, 2, "    cache 30 {\n        keepttl\n    }\n");
    may(rng, 6, "    minimal\n");
    may(rng, 3, "    template ANY ANY corp.test {\n        rcode NXDOMAIN\n    }\n");
    may(rng, 3, "    template ANY ANY a.test a.example.org {\n        rcode NXDOMAIN\n    }\n");
    may(rng, 6, "    template IN A b.example.org {\n        answer \"{{ .Name }} 60 IN A 192.0.2.60\"\n    }\n");
    may(rng, 3, "    hosts {\n        192.0.2.77 www.corp.test www.cluster.local\n        fallthrough\n    }\n");
    if source == "@kubernetes" || rng.bool() {
        let pods = pick(rng, &["verified", "verified", "verified", "verified", "insecure"]);
        let fallthrough = pick(rng, &["", "", "        fallthrough\n"]);
        let namespaces = pick(rng, &["", "", "", "        namespaces path-a\n"]);
        let zones =
            pick(rng, &["cluster.local", "cluster.local in-addr.arpa", "cluster.local path-a.svc.cluster.local"]);
        text +=
            &format!("    kubernetes {zones} {{\n        $API\n        pods {pods}\n{fallthrough}{namespaces}    }}\n");
    }
    let forwarded = if source == "@erratic" { pick(rng, &["test", "."]) } else { "." };
    text += &format!("    forward {forwarded} {upstream}\n");
    if source == "@erratic" {
        text += "    erratic {\n        drop 0\n    }\n";
    }
    text
}

/// A question, and the client that sends it.
fn question(rng: &mut Rng) -> (Question, Ipv4Addr) {
    let first = pick(rng, &FIRST);
    let mut name = match rng.u8(..10) {
        0 => format!("{}.", pick(rng, &BASES)),
        1 => format!("{}.path-a.svc.other.test.", pick(rng, &BASES)),
        _ => format!("{}.{first}.", pick(rng, &BASES)),
    };
    if rng.u8(..4) == 0 {
        name = name.chars().map(|c| if rng.bool() { c.to_ascii_uppercase() } else { c }).collect();
    }
    let edns = rng.bool().then_some(1_232);
    let rtype = TYPES[rng.usize(..TYPES.len())];
    (Question { edns, ..Question::new(&name, rtype) }, CLIENTS[rng.usize(..CLIENTS.len())].into())
}

/// Sends a query from an address, several times if there is no response. The question must come back as it was sent,
/// ignoring case in CoreDNS's response (row 243).
fn ask(from: Ipv4Addr, port: u16, question: &Question, is_coredns: bool) -> Option<Answer> {
    let socket = UdpSocket::bind((from, 0)).expect("an address on loopback");
    socket.connect(on_loopback(port)).expect("an address");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let packet = question.packet(fastrand::u16(..));
    let sent = Query::readable_question(&packet).expect("a question");
    let mut bytes = [0; 4_096];
    for _ in 0..8 {
        let _ = socket.send(&packet);
        while let Ok(len) = socket.recv(&mut bytes) {
            if bytes[..2] == packet[..2] {
                let returned = Query::readable_question(&bytes[..len]).expect("a question");
                assert!(returned == sent || is_coredns && returned.eq_ignore_ascii_case(sent), "{question}");
                return Some(Answer::read(&bytes[..len]).in_lower_case());
            }
        }
    }
    None
}

/// Removes what is known to differ (`docs/differences.md`).
fn without_known(ours: &mut Answer, theirs: &mut Answer, question: &Question) {
    // 91, 187: a client without EDNS gets no OPT.
    if ours.edns.is_none() {
        theirs.edns = None;
    }
    // 242: an alias that exists under the name of the query gets no second CNAME.
    let name = question.name.to_lowercase();
    let is_alias = |line: &String| line.starts_with(&format!("{name} ")) && line.split(' ').nth(2) == Some("cname");
    let aliases = theirs.sections[0].iter().filter(|line| is_alias(line)).count();
    if aliases > 1 {
        let of_ours = ours.sections[0].clone();
        let mut has_alias = false;
        theirs.sections[0].retain(|line| {
            let stays = !is_alias(line) || !has_alias && of_ours.contains(line);
            has_alias |= stays && is_alias(line);
            stays
        });
    }
}

fn as_coredns() -> Result<(), Failed> {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut rng = Rng::with_seed(seed);
    let cluster = CALM.lock();
    create(&cluster);
    let upstream = Upstream::start();
    let folder = shared::folder().join(format!("autopath-{seed}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    for (at, text) in FILES.iter().enumerate() {
        std::fs::write(folder.join(format!("resolv-{at}")), text).expect("a file");
    }
    let blocks: Vec<String> = (0..BLOCKS).map(|_| block(&mut rng, &folder, &upstream.at.to_string())).collect();
    let start = |software| {
        let ports: Vec<u16> = blocks.iter().map(|_| ports::free()).collect();
        let api = format!("kubeconfig {}", cluster.access().kubeconfig.display());
        let text = |(lines, port): (&String, &u16)| format!(".:{port} {{\n{}}}\n", lines.replace("$API", &api));
        let text: String = blocks.iter().zip(&ports).map(text).collect();
        (Server::start(software, &text, ports[0], cluster.folder()), ports)
    };
    let (ours, our_ports) = start(Software::Clusterdns);
    let (theirs, their_ports) = start(Software::CoreDns);
    let (mut different, mut asked, mut completed) = (Vec::new(), 0, 0);
    for (at, lines) in blocks.iter().enumerate() {
        for _ in 0..QUESTIONS {
            let (mut question, client) = question(&mut rng);
            // 280: CoreDNS does not turn back names of a response that is cached in another letter case.
            if lines.contains("answer auto") {
                question.name = question.name.to_lowercase();
            }
            asked += 1;
            let started = Instant::now();
            // A server may be a moment behind.
            let difference = loop {
                let (first, second) =
                    (ask(client, our_ports[at], &question, false), ask(client, their_ports[at], &question, true));
                let text =
                    |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::to_string);
                let shown = format!("    ours: {}\n    CoreDNS: {}\n", text(&first), text(&second));
                let is_same = match (first, second) {
                    (Some(mut ours), Some(mut theirs)) => {
                        without_known(&mut ours, &mut theirs, &question);
                        let name = question.name.to_lowercase();
                        let alias = |line: &&String| line.starts_with(&name) && line.contains(" cname ");
                        let is_completed = ours.sections[0].iter().find(alias).is_some();
                        completed += usize::from(ours == theirs && is_completed);
                        ours == theirs
                    }
                    (first, second) => first == second,
                };
                if is_same {
                    break None;
                }
                if started.elapsed() > SOON / 4 {
                    break Some(format!("{question} from {client}\n{lines}{shown}"));
                }
            };
            different.extend(difference);
        }
    }
    drop((ours, theirs));
    if !different.is_empty() {
        let first: String = different.iter().take(12).cloned().collect();
        return Err(format!("SEED={seed}: {} of {asked} differ\n{first}", different.len()).into());
    }
    assert!(completed * 20 > asked, "only {completed} of {asked} names were completed");
    Ok(())
}

/// Stanzas, right and wrong.
const STANZAS: &[&str] = &[
    "",
    "@kubernetes",
    "@erratic",
    "@whoami",
    "example.org @erratic",
    "10.0.0.0/8 @erratic",
    "a..b @erratic",
    "$FILE",
    "example.org $FILE",
    "$FILE example.org",
    "/nonexistent/file",
    "\"\"",
    "@erratic {\n    }",
    "@erratic\n    autopath $FILE",
];

/// Stanzas are accepted or refused as by CoreDNS.
fn same_errors() -> Result<(), Failed> {
    let folder = shared::folder().join("autopath-errors");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("resolv");
    std::fs::write(&file, "search a.b\n").expect("a file");
    let is_accepted = |software, stanza: &str| {
        let port = ports::free();
        let folder = folder.join(port.to_string());
        std::fs::create_dir_all(&folder).expect("a folder");
        let stanza = stanza.replace("$FILE", &file.display().to_string());
        let text = format!(
            ".:{port} {{\n    bind 127.0.0.1\n    autopath {stanza}\n    erratic {{\n        drop 0\n    }}\n    whoami\n}}\n"
        );
        let mut server = Server::launch(software, &text, port, folder);
        for _ in 0..500 {
            if !server.is_running() {
                return false;
            }
            if server.ask("localhost. A").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("neither refused nor served: {stanza}\n{}", server.last_words());
    };
    let mut different = String::new();
    for stanza in STANZAS {
        let (ours, theirs) = (is_accepted(Software::Clusterdns, stanza), is_accepted(Software::CoreDns, stanza));
        if ours != theirs {
            different += &format!("{stanza}: accepted {ours}, by CoreDNS {theirs}\n");
        }
    }
    if different.is_empty() { Ok(()) } else { Err(different.into()) }
}
