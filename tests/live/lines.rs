//! Log lines compared with CoreDNS: the same Corefile and the same events cause the same lines, as text and as JSON.
//! Differences listed in docs/differences.md are removed from both before the comparison.

use std::fmt::Write as _;
use std::sync::OnceLock;

use clusterdns::wire::Type;
use libtest_mimic::Failed;
use regex::Regex;
use serde_json::Value;

use super::Test;
use super::ask::{Question, ask};
use super::server::{Server, Software};
use super::wait::{SOON, eventually};
use super::{ports, shared};

/// A Corefile without a cluster. Nothing listens at the upstream for `org`.
const COREFILE: &str = ".:$PORT org:$PORT {
    bind 127.0.0.1
    errors
    log
    health 127.0.0.1:$HEALTH {
        lameduck 100ms
    }
    any
    chaos one
    acl {
        block type TXT
        filter type MX
        drop type NAPTR
    }
    cache 30
    hosts {
        192.0.2.7 inline.example
        fallthrough inline.example org
    }
    forward org 127.0.0.1:$CLOSED {
        max_fails 0
        max_connect_attempts 1
    }
    reload 2s 0s
}
log.example:$PORT {
    bind 127.0.0.1
    metadata
    errors
    log other.example. \"{name}\"
    log . \"{remote} {local} {type} {name} {class} {proto} {size} {rcode} {>rflags} {>opcode} {>do} {>bufsize} {/log/type}\" {
        class success error
    }
    whoami
}
denials.example:$PORT {
    bind 127.0.0.1
    log . {combined} {
        class denial
    }
    hosts {
        192.0.2.8 denials.example
    }
}
";

/// A Corefile with an API server that does not exist.
const WITHOUT_API: &str = ".:$PORT {
    bind 127.0.0.1
    errors
    ready 127.0.0.1:$HEALTH
    kubernetes cluster.local {
        endpoint http://127.0.0.1:$CLOSED
        startup_timeout 2s
    }
}
";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("lines: as CoreDNS: text", || attempts("text")),
        Test::new("lines: as CoreDNS: json", || attempts("json")),
        Test::new("lines: as CoreDNS: without an API server", without_api),
    ]
}

/// A server, its ports and its Corefile.
struct Subject {
    software: Software,
    server: Server,
    /// The ports for `$PORT`, `$HEALTH` and `$CLOSED` in its Corefile.
    ports: [u16; 3],
    text: String,
}

impl Subject {
    fn start(software: Software, test: &str, corefile: &str, arguments: &[&str]) -> Subject {
        let folder = shared::folder().join(format!("lines-{test}-{software:?}"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let ports = std::array::from_fn(|_| ports::free());
        let mut text = corefile.to_owned();
        for (name, port) in ["$PORT", "$HEALTH", "$CLOSED"].into_iter().zip(ports) {
            text = text.replace(name, &port.to_string());
        }
        let server = Server::launch_with(software, &text, ports[0], folder, arguments);
        Subject { software, server, ports, text }
    }

    /// Replaces a text in its Corefile.
    fn change(&mut self, from: &str, to: &str) {
        self.text = self.text.replace(from, to);
        // Atomically, so that no reader gets half of it.
        let new = self.server.conf().with_extension("new");
        let conf = self.server.conf();
        std::fs::write(&new, &self.text).expect("a file");
        std::fs::rename(&new, conf).expect("a file");
    }

    /// Waits until it has written a number of lines with a text.
    fn writes(&self, count: usize, text: &str) {
        eventually(&format!("{:?} writes '{text}'", self.software), SOON, || {
            let log = self.server.log();
            if log.lines().filter(|line| line.contains(text)).count() >= count { Ok(()) } else { Err(log) }
        });
    }

    /// Returns its lines, without parts that are not compared.
    fn lines(&self) -> Vec<String> {
        let mut log = self.server.log().replace(&self.server.conf().display().to_string(), "Corefile");
        for (port, name) in self.ports.into_iter().zip(["PORT", "HEALTH", "CLOSED"]) {
            log = log.replace(&format!(":{port}"), &format!(":{name}"));
        }
        log.lines().filter_map(plain).collect()
    }
}

/// Normalises a line; returns `None` for a line that only one of the servers has.
fn plain(line: &str) -> Option<String> {
    let mut fields = serde_json::from_str::<Value>(line).unwrap_or_default();
    let Some(object) = fields.as_object_mut() else { return plain_text(line) };
    // The keys are compared, but not values that differ each time.
    for key in ["time", "client_port", "id", "duration_seconds", "response_size"] {
        object.entry(key).and_modify(|value| *value = "_".into());
    }
    // 292: the reason, and the fields of failures.
    object.remove("reason");
    if object.get("plugin").is_some_and(|plugin| plugin == "errors") {
        for key in ["client_ip", "qname", "qtype", "rcode", "upstream"] {
            object.remove(key);
        }
    }
    let text = object.get("msg")?.as_str()?.to_owned();
    // 46: CoreDNS repeats the level of lines about itself in the text.
    let (level, text) = match text.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((level, rest)) => (level.to_owned(), rest.to_owned()),
        None => (object.get("level")?.as_str()?.to_owned(), text),
    };
    // Lines without a level are joined into one object.
    let mut lines: Vec<String> = text.lines().filter_map(plain_text).collect();
    // The zones, or version and platform.
    lines.sort();
    let text = lines.join(" / ");
    if text.is_empty() {
        return None;
    }
    object.insert("msg".to_owned(), text.into());
    object.insert("level".to_owned(), level.into());
    Some(fields.to_string())
}

fn plain_text(line: &str) -> Option<String> {
    // 45: a failed reload is one line here. Lines about Go and CoreDNS's HTTP servers. 33:
    // warnings about a Corefile.
    const NOT_COMPARED: &[&str] = &["Restart failed: ", "maxprocs: ", "Failed to stop ", "[WARNING] Corefile:"];
    if NOT_COMPARED.iter().any(|text| line.contains(text)) {
        return None;
    }
    static RULES: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let rules = [
            (r"(127\.0\.0\.1):\d+ - \d+ ", "$1:_ - _ "),
            // 40: {rsize}; and the duration.
            (r#"("[^"]*" \S+ \S+) \d+ [\d.]+s"#, "$1 _ _"),
            // 42: the version.
            ("^.*CoreDNS-1.15.0.*$", "VERSION"),
            ("^linux/.*$", "PLATFORM"),
            (r"SHA512 = [0-9a-f]{128}\s*$", "SHA512 = _"),
            // 44: errors of upstreams.
            (r"read udp 127\.0\.0\.1:\d+->(\S+): read: ", "$1: "),
            // 45: a place has a column here.
            (r"Corefile:(\d+)(:\d+)? - ", "Corefile:$1 - "),
            ("(starting with listener file descriptors|SIGUSR1: reload failed): ", "SIGUSR1: "),
            ("SIGUSR1: SIGUSR1: ", "SIGUSR1: "),
            ("reload failed: SIGUSR1: ", "reload failed: "),
        ];
        rules.into_iter().map(|(rule, to)| (Regex::new(rule).expect("a regular expression"), to)).collect()
    });
    let mut line = line.to_owned();
    for (rule, to) in rules {
        line = rule.replace(&line, *to).into_owned();
    }
    Some(line)
}

/// The queries.
fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for (name, rtype) in [
        ("inline.example.", Type::A),
        ("INLINE.Example.", Type::AAAA),
        ("inline.example.", Type::MX),
        ("inline.example.", Type::TXT),
        ("inline.example.", Type::ANY),
        ("inline.example.", Type(4711)),
        ("refused.org.", Type::A),
        ("refused.org.", Type::A),
        ("nothing.test.", Type::A),
        (".", Type::NS),
        (r#"a\032b\"\\\.\228\010.c."#, Type::A),
        ("a.log.example.", Type::A),
        ("A.Log.Example.", Type::AXFR),
        ("denials.example.", Type::A),
        ("denials.example.", Type::AAAA),
        ("no.denials.example.", Type::A),
    ] {
        for (tcp, edns) in [(false, None), (false, Some(1_232)), (true, Some(400))] {
            questions.push(Question { tcp, edns, ..Question::new(name, rtype) });
        }
    }
    // It gets no response.
    questions.push(Question::new("inline.example.", Type::NAPTR));
    questions
}

/// Start, queries, successful and failed reloads, stop.
fn attempts(format: &'static str) -> Result<(), Failed> {
    let flag = format!("-log-format={format}");
    let all = [Software::Clusterdns, Software::CoreDns].map(|software| {
        let mut subject = Subject::start(software, format, COREFILE, &[&flag]);
        subject.writes(1, "linux/");
        for question in questions() {
            let answer = ask(subject.server.at, &question);
            assert_eq!(answer.is_none(), question.rtype == Type::NAPTR, "{question}");
        }
        subject.writes(1, "NAPTR");
        subject.change("chaos one", "chaos two");
        subject.writes(1, "Reloading complete");
        subject.change("chaos two", "invalid");
        subject.writes(1, "Corefile changed but reload failed");
        subject.server.signal("USR1");
        subject.writes(2, "SIGUSR1: ");
        subject.server.signal("TERM");
        eventually("it exits", SOON, || if subject.server.is_running() { Err("it runs".to_owned()) } else { Ok(()) });
        subject.lines()
    });
    compare(&all)
}

/// The lines that scripts wait for without an API server.
fn without_api() -> Result<(), Failed> {
    for software in [Software::Clusterdns, Software::CoreDns] {
        let subject = Subject::start(software, "api", WITHOUT_API, &[]);
        subject.writes(1, "[INFO] plugin/kubernetes: waiting for Kubernetes API before starting server");
        subject.writes(1, "[WARNING] plugin/kubernetes: starting server with unsynced Kubernetes API");
        subject.writes(1, "linux/");
        eventually("a line about readiness", SOON, || {
            let text = super::metrics::page(ports::on_loopback(subject.ports[1]), "/ready");
            if text.starts_with("kubernetes") { Ok(()) } else { Err(text) }
        });
        subject.writes(1, "[INFO] plugin/ready: Plugins not ready: \"kubernetes\"");
    }
    Ok(())
}

/// Compares the lines, and reports those that only one server has, or has in another place.
fn compare(all: &[Vec<String>; 2]) -> Result<(), Failed> {
    let [ours, theirs] = all.each_ref().map(|lines| {
        let mut lines = lines.clone();
        let first = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap_or(0);
        let zones = first("SHA512");
        let queries = first("PLATFORM") + 1..first("Reloading");
        // The order of zones does not matter; CoreDNS writes the line of a query after the next one has arrived.
        lines[..zones].sort();
        lines[queries].sort();
        lines
    });
    assert!(theirs.len() > questions().len(), "CoreDNS has written {} lines", theirs.len());
    let mut wrong = String::new();
    for at in 0..ours.len().max(theirs.len()) {
        let (here, there) = (ours.get(at), theirs.get(at));
        if here != there {
            let _ = writeln!(wrong, "here    {}\nCoreDNS {}", show(here), show(there));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

fn show(line: Option<&String>) -> &str {
    line.map_or("-", String::as_str)
}
