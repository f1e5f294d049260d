//! Real stub resolvers against the prediction of `clusterdns resolve`: the queries of glibc, musl, Go and c-ares for
//! many names and files that arrive at a server are the predicted ones.
//!
//! Each library runs in a mount namespace of its own, with a resolv.conf that names a server on loopback. That takes
//! root, `unshare`, `cc`, `musl-gcc`, `go` and the header of c-ares. Without them a test is skipped, except in CI.

mod running;

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use clusterdns::stub::{Code, Library, StubConf, resolve};
use clusterdns::wire::{Query, Type};
use running::{file, folder};

/// The names that exist, and whether they have an A and an AAAA record.
const ZONE: &[(&str, bool, bool)] = &[
    ("web.shop.svc.cluster.local.", true, false),
    ("six.shop.svc.cluster.local.", false, true),
    ("both.shop.svc.cluster.local.", true, true),
    ("nothing.shop.svc.cluster.local.", false, false),
    ("db-0.db.shop.svc.cluster.local.", true, false),
    ("api.example.com.", true, true),
    ("four.example.com.", true, false),
    ("host.corp.example.", true, false),
    ("a.b.c.d.e.f.", true, false),
    ("shop.svc.cluster.local.", false, false),
];

/// The names that fail, with the codes for A and AAAA. What follows them in the list exists.
const FAILING: &[(&str, Code, Code)] = &[
    ("fails.shop.svc.cluster.local.", Code::ServerFailure, Code::ServerFailure),
    ("half.shop.svc.cluster.local.", Code::Found, Code::ServerFailure),
    ("refuses.shop.svc.cluster.local.", Code::Other, Code::Other),
    ("fails.svc.cluster.local.", Code::Found, Code::NoData),
    ("refuses.svc.cluster.local.", Code::Found, Code::NoData),
    ("fails.outside.", Code::ServerFailure, Code::ServerFailure),
    ("refused.outside.", Code::Other, Code::Other),
];

/// Options with which musl needs a second for a name that fails.
const BRIEF: &str = "timeout:1 attempts:4";

/// The names of [`FAILING`] that are looked up with files with these options.
const NAMES_THAT_FAIL: [&str; 5] = ["fails", "half", "refuses", "fails.outside", "refused.outside"];

/// The names that are looked up.
const NAMES: [&str; 24] = [
    "web",
    "web.shop",
    "web.shop.svc",
    "web.shop.svc.cluster.local",
    "web.shop.svc.cluster.local.",
    "web.",
    "WEB.Shop",
    "six",
    "both.shop",
    "nothing",
    "nothing.shop.svc.cluster.local.",
    "db-0.db.shop",
    "missing",
    "missing.shop",
    "api.example.com",
    "api.example.com.",
    "four.example.com",
    "missing.example.com",
    "host",
    "a.b.c.d.e.f",
    "a.b.c.d.e",
    "with_underscore.shop",
    "xn--bcher-kva.example",
    "shop.svc.cluster.local",
];

/// The lines of the files after the name server.
fn files() -> Vec<String> {
    let pod = "search shop.svc.cluster.local svc.cluster.local cluster.local";
    // A line of this length with its end; the limit of musl is 255.
    let filled = |bytes: usize| {
        let more: Vec<String> = (0..9).map(|n| format!("{n}.domain.example")).collect();
        let line = format!("{pod} {}", more.join(" "));
        format!("{line} {}", "x".repeat(bytes - line.len() - 2))
    };
    let long: Vec<String> = (0..12).map(|n| format!("domain-number-{n:02}.corp.example")).collect();
    vec![
        format!("{pod}\noptions ndots:5\n"),
        format!("{pod} corp.example\noptions ndots:2\n"),
        String::new(),
        "domain corp.example\n".to_owned(),
        format!("{pod} {}\noptions ndots:5\n", long.join(" ")),
        format!("{pod}\noptions ndots:1 timeout:3\n"),
        format!("{pod}\noptions ndots:0\n"),
        format!("{pod}\noptions ndots:99999999999999999999\n"),
        format!("{pod}\noptions ndots:2x timeout:1x\n"),
        format!("{pod}\noptions ndots:5 {BRIEF}\n"),
        format!("{pod}\noptions ndots:1 {BRIEF}\n"),
        format!("{}\noptions ndots:5\n", filled(255)),
        format!("{}\noptions ndots:5\n", filled(256)),
    ]
}

/// Returns the code for a question.
fn code(name: &str, qtype: &str) -> Code {
    if let Some((_, a, aaaa)) = FAILING.iter().find(|(of, ..)| of.eq_ignore_ascii_case(name)) {
        return if qtype == "A" { *a } else { *aaaa };
    }
    match ZONE.iter().find(|(of, ..)| of.eq_ignore_ascii_case(name)) {
        None => Code::NameError,
        Some((_, a, aaaa)) if if qtype == "A" { *a } else { *aaaa } => Code::Found,
        Some(_) => Code::NoData,
    }
}

/// A query: name in lower case, and type.
type Seen = (String, String);

/// A server that records its queries.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts it at port 53 of an address of its own; `None` without the permission for that.
    fn start(number: u8) -> Option<Server> {
        let address = format!("127.{number}.{}.53", 1 + std::process::id() % 250);
        let socket = UdpSocket::bind((address.as_str(), 53)).ok()?;
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let record = seen.clone();
        std::thread::spawn(move || {
            let mut packet = [0; 1024];
            while let Ok((len, client)) = socket.recv_from(&mut packet) {
                let Ok(query) = Query::parse(&packet[..len]) else { continue };
                let (name, qtype) = (query.sent_name().to_string().to_lowercase(), query.question.qtype);
                record.lock().expect("not poisoned").push((name.clone(), qtype.to_string()));
                let _ = socket.send_to(&respond(&query, code(&name, &qtype.to_string())), client);
            }
        });
        Some(Server { address, seen })
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().expect("not poisoned"))
    }
}

/// Returns the response to a query.
fn respond(query: &Query<'_>, code: Code) -> Vec<u8> {
    let [high, low] = query.id().to_be_bytes();
    let rcode = match code {
        Code::NameError => 0x83,
        Code::ServerFailure => 0x82,
        Code::Other => 0x85,
        Code::Found | Code::NoData | Code::Timeout => 0x80,
    };
    let answers = u8::from(code == Code::Found);
    let mut message = vec![high, low, 0x81, rcode, 0, 1, 0, answers, 0, 0, 0, 0];
    message.extend(query.question_wire());
    if code == Code::Found {
        let data: &[u8] = if query.question.qtype == Type::A {
            &[192, 0, 2, 1]
        } else {
            &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        };
        message.extend([0xc0, 12]);
        message.extend(query.question.qtype.0.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 30, 0, data.len() as u8]);
        message.extend(data);
    }
    message
}

/// Runs a compiler. Returns `None` if it does not work here.
fn compile(command: &mut Command, program: &Path) -> Option<PathBuf> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(program.to_owned())
}

/// Compiles the program that uses a library.
fn program(library: Library, folder: &Path) -> Option<PathBuf> {
    let out = folder.join(library.name());
    let source = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stub").join(name);
    let mut command = match library {
        Library::Glibc => Command::new("cc"),
        Library::Musl => Command::new("musl-gcc"),
        Library::CAres => Command::new("cc"),
        Library::Go => Command::new("go"),
    };
    match library {
        Library::Glibc => command.arg(source("getaddrinfo.c")).arg("-o").arg(&out),
        Library::Musl => command.arg("-static").arg(source("getaddrinfo.c")).arg("-o").arg(&out),
        Library::CAres => command.arg(source("cares.c")).arg("-o").arg(&out).arg("-lcares"),
        Library::Go => {
            command.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod").current_dir(folder);
            command.args(["build", "-o"]).arg(&out).arg(source("lookup.go"))
        }
    };
    compile(&mut command, &out)
}

/// Groups queries by name, in their order; the types of a name are sorted, since some libraries send them at once.
fn grouped(queries: impl IntoIterator<Item = Seen>) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (name, qtype) in queries {
        match groups.last_mut().filter(|(last, _)| *last == name) {
            Some((_, types)) => types.push(qtype),
            None => groups.push((name, vec![qtype])),
        }
    }
    groups.iter_mut().for_each(|(_, types)| types.sort());
    groups
}

/// Compares the queries of a library with the prediction. Returns `None` if that is not possible here.
fn compare(library: Library, number: u8) -> Option<()> {
    let folder = folder(&format!("stub-{}", library.name()));
    let server = Server::start(number)?;
    let program = program(library, &folder)?;
    let switch = file(&folder, "nsswitch.conf", "hosts: dns\n");
    let mut differences = Vec::new();
    for (at, lines) in files().into_iter().enumerate() {
        let text = format!("nameserver {}\n{lines}", server.address);
        let conf = file(&folder, &format!("resolv-{at}.conf"), &text);
        let script = "mount --bind \"$1\" /etc/resolv.conf && mount --bind \"$2\" /etc/nsswitch.conf && exec \"$3\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", &conf, &switch]).arg(&program);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.ok()?;
        let (mut stdin, stdout) = (child.stdin.take()?, child.stdout.take()?);
        let mut answers = BufReader::new(stdout).lines();
        let failing: &[&str] = if lines.contains(BRIEF) { &NAMES_THAT_FAIL } else { &[] };
        for name in NAMES.iter().chain(failing) {
            if writeln!(stdin, "{name}").is_err() {
                return None;
            }
            // The namespace may be denied.
            let Some(Ok(result)) = answers.next() else { return None };
            let seen = grouped(server.take());
            let mut look_up = |name: &str, qtype: &str| (code(name, qtype), String::new());
            let predicted = resolve(library, &StubConf::parse(&text), name, &mut look_up);
            let queries = predicted.queries.into_iter().map(|query| (query.name.to_lowercase(), query.qtype));
            let expected = grouped(queries);
            if seen != expected {
                differences.push(format!("{name} with {lines:?}\n  sent      {seen:?}\n  predicted {expected:?}"));
            }
            if (result == "found") != predicted.found.is_some() {
                differences.push(format!("{name} with {lines:?}: {result}, predicted {:?}", predicted.found));
            }
        }
        drop(stdin);
        let _ = child.wait();
    }
    assert!(differences.is_empty(), "{}: {}\n{}", library.name(), differences.len(), differences.join("\n"));
    Some(())
}

/// Compares, or fails in CI if that is not possible.
fn check(library: Library, number: u8) {
    let is_compared = compare(library, number).is_some();
    assert!(is_compared || std::env::var_os("CI").is_none(), "{} cannot be tested here", library.name());
    if !is_compared {
        eprintln!("skipped: {} cannot be tested here", library.name());
    }
}

#[test]
fn glibc_sends_the_predicted_queries() {
    check(Library::Glibc, 61);
}

#[test]
fn musl_sends_the_predicted_queries() {
    check(Library::Musl, 62);
}

#[test]
fn go_sends_the_predicted_queries() {
    check(Library::Go, 63);
}

#[test]
fn cares_sends_the_predicted_queries() {
    check(Library::CAres, 64);
}
