//! *etcd*: the same answers as CoreDNS from the same etcd, with random records and every kind of question, also after
//! an outage and with a password.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clusterdns::wire::Type;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::Test;
use super::ask::{Answer, Question, ask, ask_all};
use super::certificates::{Authority, Files};
use super::outside::same;
use super::ports::{self, on_loopback};
use super::process::Process;
use super::server::{Server, Software};
use super::templates::questions;
use super::wait::{LATER, SOON, eventually};
use super::{parts, shared};

const TYPES: &[Type] =
    &[Type::A, Type::AAAA, Type::TXT, Type::CNAME, Type::MX, Type::SRV, Type::PTR, Type::NS, Type::SOA, Type::HTTPS];

/// Names for questions, besides those of records.
const NAMES: &[&str] = &[
    "etcd.test.",
    "ETCD.test.",
    "none.etcd.test.",
    "*.etcd.test.",
    "any.a.etcd.test.",
    "*.b.etcd.test.",
    "a.*.etcd.test.",
    "apex.dns.etcd.test.",
    "dns.etcd.test.",
    "other.test.",
    "3.2.1.10.in-addr.arpa.",
    "9.2.1.10.in-addr.arpa.",
];

/// Properties of the stanza, with the number of the random records.
const STANZAS: &[(&str, u64)] = &[
    ("", 1),
    ("", 2),
    ("", 3),
    ("no_apex_fallback", 4),
    ("fallthrough", 5),
    ("fallthrough other.etcd.test 10.in-addr.arpa\n        path /skydns", 6),
    ("min-lease-ttl 10m\n        max-lease-ttl 20m", 7),
];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("etcd: as CoreDNS: random records", random),
        Test::new("etcd: as CoreDNS: an outage, and a password", outage),
        Test::new("etcd: as CoreDNS: certificates of both sides, and a password", encrypted),
    ]
}

fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = shared::folder().join(format!("etcd-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A running etcd; dropping it kills it.
struct Etcd {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    /// The port of the listener with TLS, the certificate of the server, and the authority of clients.
    tls: Option<(u16, Files, PathBuf)>,
}

impl Etcd {
    fn start() -> Etcd {
        let mut etcd = Etcd { process: None, folder: folder(), port: ports::free(), tls: None };
        etcd.restart();
        etcd
    }

    /// Starts one that has a listener with TLS too, whose clients need certificates.
    fn start_encrypted(server: Files, authority: PathBuf) -> Etcd {
        let tls = Some((ports::free(), server, authority));
        let mut etcd = Etcd { process: None, folder: folder(), port: ports::free(), tls };
        etcd.restart();
        etcd
    }

    /// Creates the user `root` with the password `secret`, and demands that clients are users.
    fn enable_users(&self) -> Result<(), String> {
        for (path, body) in [
            ("/v3/auth/user/add", json!({"name": "root", "password": "secret"})),
            ("/v3/auth/role/add", json!({"name": "root"})),
            ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
            ("/v3/auth/enable", json!({})),
        ] {
            self.request(path, &body)?;
        }
        Ok(())
    }

    fn restart(&mut self) {
        let (client, peer) = (self.port, ports::free());
        let mut urls = format!("http://127.0.0.1:{client}");
        let mut certificates = Vec::new();
        if let Some((port, server, authority)) = &self.tls {
            urls += &format!(",https://127.0.0.1:{port}");
            certificates = vec![
                format!("--cert-file={}", server.certificate.display()),
                format!("--key-file={}", server.key.display()),
                format!("--trusted-ca-file={}", authority.display()),
                "--client-cert-auth".to_owned(),
            ];
        }
        let mut arguments = vec![
            format!("--data-dir={}", self.folder.join("data").display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={urls}"),
            format!("--advertise-client-urls={urls}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster=default=http://127.0.0.1:{peer}"),
        ];
        arguments.append(&mut certificates);
        self.process = Some(Process::start(parts::path("etcd"), &arguments, self.folder.join("etcd.log")));
        eventually("etcd answers", SOON, || self.request("/v3/maintenance/status", &json!({})).map(drop));
    }

    /// Calls a method through etcd's gateway for JSON.
    fn request(&self, path: &str, body: &Value) -> Result<Value, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(on_loopback(self.port)).map_err(text)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(text)?;
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).map_err(text)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(text)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
        match head.split(' ').nth(1) {
            Some("200") => serde_json::from_str(body).map_err(|error| error.to_string()),
            _ => Err(answer),
        }
    }

    fn put(&self, key: &str, value: &str, lease: Option<&str>) {
        let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
        let body = json!({"key": key, "value": value, "lease": lease.unwrap_or("0")});
        self.request("/v3/kv/put", &body).expect("written");
    }

    fn clear(&self) {
        let body = json!({"key": STANDARD.encode("/"), "range_end": STANDARD.encode("0")});
        self.request("/v3/kv/deleterange", &body).expect("deleted");
    }

    /// Grants a lease of this number of seconds, and returns its ID.
    fn lease(&self, seconds: u32) -> String {
        let lease = self.request("/v3/lease/grant", &json!({"TTL": seconds.to_string()})).expect("a lease");
        lease["ID"].as_str().expect("an ID").to_owned()
    }
}

/// Starts a server with the plugin.
fn serve(software: Software, etcd: &Etcd, lines: &str) -> Server {
    serve_from(software, &format!("http://127.0.0.1:{}", etcd.port), lines)
}

/// Starts a server with the plugin and this endpoint.
fn serve_from(software: Software, endpoint: &str, lines: &str) -> Server {
    let port = ports::free();
    let text = format!(
        "test:{port} 10.in-addr.arpa:{port} {{\n    errors\n    bind 127.0.0.1\n    etcd etcd.test 10.in-addr.arpa {{\n        \
         endpoint {endpoint}\n        {lines}\n    }}\n    erratic {{\n        drop 0\n    }}\n}}\n\
         elsewhere:{port} {{\n    bind 127.0.0.1\n    hosts {{\n        192.0.2.77 host.elsewhere\n        \
         2001:db8::77 host.elsewhere\n    }}\n}}\n"
    );
    Server::start(software, &text, port, folder())
}

/// Writes random records. Returns the names of their keys.
fn write_records(etcd: &Etcd, seed: u64) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(seed);
    // They outlive the comparison.
    let leases = [etcd.lease(500), etcd.lease(900), etcd.lease(100_000)];
    let mut names = Vec::new();
    for _ in 0..28 {
        let mut labels: Vec<&str> = Vec::new();
        for _ in 0..random.usize(1..4) {
            labels.push(["a", "b", "c", "x1", "ns", "dns", "apex"][random.usize(..7)]);
        }
        let mut value = json!({});
        let host = match random.usize(..10) {
            0..=3 => format!("10.0.0.{}", random.usize(1..4)),
            4..=5 => format!("2001:db8::{}", random.usize(1..4)),
            6 => format!("{}.etcd.test", ["a", "b", "c.a", "none"][random.usize(..4)]),
            7 => ["host.elsewhere", "none.elsewhere."][random.usize(..2)].to_owned(),
            8 => "host.elsewhere".to_owned(),
            _ => String::new(),
        };
        if !host.is_empty() {
            value["host"] = json!(host);
        }
        if host.is_empty() || random.usize(..6) == 0 {
            value["text"] = json!(["a text", "with \"quotes\" and \\065", &"long ".repeat(70)][random.usize(..3)]);
        }
        for (field, most) in [("port", 9_000), ("priority", 3), ("weight", 5), ("targetstrip", 4)] {
            if random.bool() {
                value[field] = json!(random.i32(0..most));
            }
        }
        if random.usize(..3) == 0 {
            value["ttl"] = json!(random.u32(0..2_000));
        }
        if random.usize(..3) == 0 {
            value["mail"] = json!(true);
        }
        if random.usize(..4) == 0 {
            value["group"] = json!(["g1", "g2"][random.usize(..2)]);
        }
        let lease = (random.usize(..3) == 0).then(|| leases[random.usize(..3)].as_str());
        etcd.put(&format!("/skydns/test/etcd/{}", labels.join("/")), &value.to_string(), lease);
        labels.reverse();
        names.push(format!("{}.etcd.test.", labels.join(".")));
    }
    etcd.put("/skydns/arpa/in-addr/10/1/2/3", r#"{"host":"web.etcd.test."}"#, None);
    etcd.put("/skydns/arpa/in-addr/10/1/2/4", r#"{"host":"10.0.0.1"}"#, None);
    names.push("4.2.1.10.in-addr.arpa.".to_owned());
    names.extend(NAMES.iter().map(|&name| name.to_owned()));
    names.sort();
    names.dedup();
    names
}

/// Replaces the serial of SOA records, which is the time.
fn without_serial(answer: Answer) -> Answer {
    let replace = |line: String| {
        let mut words: Vec<&str> = line.split(' ').collect();
        if words.len() > 5 && words[2].eq_ignore_ascii_case("soa") {
            words[5] = "SERIAL";
        }
        words.join(" ")
    };
    let sections = answer.sections.clone().map(|lines| lines.into_iter().map(replace).collect());
    Answer { sections, ..answer }
}

/// Compares the answers to questions, of which at least this number must have records.
fn compare(ours: &Server, theirs: &Server, questions: &[Question], least: usize) -> Result<(), String> {
    let read = |answer: Option<Answer>| answer.map(|answer| without_serial(answer.in_lower_case()));
    // A few at a time: each query costs several requests to etcd.
    let ask = |server: &Server| -> Vec<Option<Answer>> {
        questions.chunks(8).flat_map(|some| ask_all(server.at, some)).map(read).collect()
    };
    let (ours, theirs) = (ask(ours), ask(theirs));
    // The times of leases pass between two answers.
    let is_same = |ours: &Option<Answer>, theirs: &Option<Answer>| same(ours, theirs, 60);
    let differing = questions.iter().zip(ours.iter().zip(&theirs)).filter(|(_, (ours, theirs))| !is_same(ours, theirs));
    let text = |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::to_string);
    let shown: Vec<String> = differing
        .map(|(question, (ours, theirs))| {
            format!("{question}\n    ours: {}\n    CoreDNS: {}\n", text(ours), text(theirs))
        })
        .collect();
    if !shown.is_empty() {
        let first: String = shown.iter().take(8).cloned().collect();
        return Err(format!("{} of {} differ\n{first}", shown.len(), questions.len()));
    }
    let answered = ours.iter().flatten().filter(|answer| !answer.sections[0].is_empty()).count();
    if answered < least { Err(format!("only {answered} of {} have answers", questions.len())) } else { Ok(()) }
}

fn random() -> Result<(), Failed> {
    let etcd = Etcd::start();
    for &(lines, seed) in STANZAS {
        etcd.clear();
        let names = write_records(&etcd, seed);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut questions = questions(&names, TYPES);
        // CoreDNS compresses the hosts of MX records, so that more of them fit into 512 bytes.
        questions.retain(|question| question.rtype != Type::MX || question.tcp || question.edns.is_some());
        let (ours, theirs) = (serve(Software::Clusterdns, &etcd, lines), serve(Software::CoreDns, &etcd, lines));
        let compared = compare(&ours, &theirs, &questions, questions.len() / 10);
        compared.map_err(|error| format!("{lines} ({seed}): {error}"))?;
        // A value that is not a record makes every name above it fail.
        etcd.put("/skydns/test/etcd/wrong/x", r#"{"host":17}"#, None);
        let wrong = self::questions(&["wrong.etcd.test.", "x.wrong.etcd.test.", "*.etcd.test."], &[Type::A, Type::TXT]);
        compare(&ours, &theirs, &wrong, 0)?;
    }
    Ok(())
}

fn outage() -> Result<(), Failed> {
    let mut etcd = Etcd::start();
    write_records(&etcd, 1);
    let names = ["a.etcd.test.", "b.etcd.test.", "none.etcd.test.", "etcd.test."];
    let questions = questions(&names, &[Type::A, Type::SRV, Type::TXT]);
    let (ours, theirs) = (serve(Software::Clusterdns, &etcd, ""), serve(Software::CoreDns, &etcd, ""));
    compare(&ours, &theirs, &questions, 10)?;
    etcd.process = None;
    // CoreDNS waits for longer than a client.
    ours.comes_to("a.etcd.test. A", "SERVFAIL");
    etcd.restart();
    eventually("both answer again", SOON, || compare(&ours, &theirs, &questions, 10));
    etcd.enable_users()?;
    let known =
        [Software::Clusterdns, Software::CoreDns].map(|software| serve(software, &etcd, "credentials root secret"));
    compare(&known[0], &known[1], &questions, 10)?;
    ours.comes_to("a.etcd.test. A", "SERVFAIL");
    Ok(())
}

fn encrypted() -> Result<(), Failed> {
    let (authority, other, folder) = (Authority::new("etcd"), Authority::new("other"), folder());
    let [trusted, foreign] = [(&authority, "ca.crt"), (&other, "other.crt")].map(|(authority, file)| {
        let path = folder.join(file);
        std::fs::write(&path, authority.pem()).expect("a file");
        path.display().to_string()
    });
    let etcd = Etcd::start_encrypted(authority.server(&folder, "server", &[]), folder.join("ca.crt"));
    let names = write_records(&etcd, 8);
    let names: Vec<&str> = names.iter().map(String::as_str).take(8).collect();
    let questions = questions(&names, &[Type::A, Type::SRV, Type::TXT]);
    let client = |by: &Authority, user: &str, file: &str| {
        let files = by.client(user, &folder, file);
        format!("{} {}", files.certificate.display(), files.key.display())
    };
    let [known, root, stranger] =
        [(&authority, "dns", "dns"), (&authority, "root", "root"), (&other, "dns", "stranger")]
            .map(|(by, user, file)| client(by, user, file));
    let endpoint = format!("https://127.0.0.1:{}", etcd.tls.as_ref().expect("TLS").0);
    let serve = |software, lines: &str| serve_from(software, &endpoint, lines);
    let same = |lines: &str| -> Result<(), Failed> {
        let [ours, theirs] = [Software::Clusterdns, Software::CoreDns].map(|software| serve(software, lines));
        compare(&ours, &theirs, &questions, 3).map_err(|error| format!("{lines}: {error}").into())
    };
    // The line for a query that fails has the reason, and the log has no other one about it.
    let fails = |lines: &str, reason: &str| -> Result<(), Failed> {
        // With TLS 1.3 the other side may close the connection before its reason is read, at which a write fails.
        let (answer, log) = eventually("the error is logged", LATER, || {
            let server = serve(Software::Clusterdns, lines);
            let answer = ask(server.at, &Question::new("a.etcd.test.", Type::A)).ok_or("no response")?;
            let log = eventually("an error is logged", SOON, || {
                let log = server.log();
                if log.contains("ERROR") { Ok(log) } else { Err(format!("{lines}: {answer}\n{log}")) }
            });
            if log.contains(reason) { Ok((answer, log)) } else { Err(format!("{lines}: {answer}\n{log}")) }
        });
        let about: Vec<&str> = log.lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).collect();
        let is_one = about.len() == 1 && about[0].contains("a.etcd.test. A: etcd: ");
        if is_one && answer.head().starts_with("SERVFAIL") { Ok(()) } else { Err(format!("{lines}: {log}").into()) }
    };
    same(&format!("tls {known} {trusted}"))?;
    fails(&format!("tls {known} {foreign}"), "certificate")?;
    fails(&format!("tls {known}"), "certificate")?;
    fails(&format!("tls {stranger} {trusted}"), "remote error: tls: ")?;
    fails(&format!("tls {trusted}"), "remote error: tls: certificate required")?;
    etcd.enable_users()?;
    same(&format!("tls {known} {trusted}\n        credentials root secret"))?;
    // The name in a certificate is that of a user, for clients without a password.
    same(&format!("tls {root} {trusted}"))?;
    fails(&format!("tls {known} {trusted}"), "etcdserver: permission denied")?;
    fails(&format!("tls {known} {trusted}\n        credentials root wrong"), "invalid user ID or password")?;
    fails(&format!("tls {known} {trusted}\n        credentials other secret"), "invalid user ID or password")?;
    fails(&format!("tls {known} {foreign}\n        credentials root secret"), "certificate")?;
    Ok(())
}
