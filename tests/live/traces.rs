//! *trace*: a collector of Zipkin gets the same spans from this server as from CoreDNS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clusterdns::wire::Type;
use libtest_mimic::Failed;
use regex::Regex;
use serde_json::Value;

use super::Test;
use super::ask::{Question, ask};
use super::resolvers::Resolver;
use super::server::{Server, Software};
use super::wait::{SOON, eventually};
use super::{ports, shared};

pub fn tests() -> Vec<Test> {
    vec![Test::new("trace: a collector gets the spans of CoreDNS", spans)]
}

/// A collector, with the spans that it has got.
struct Collector {
    at: SocketAddr,
    spans: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    /// Starts a collector, which runs until the tests end.
    fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let at = listener.local_addr().expect("an address");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let collected = spans.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let collected = collected.clone();
                std::thread::spawn(move || while collect(&stream, &collected).is_some() {});
            }
        });
        Collector { at, spans }
    }
}

/// Reads a request, and responds. Returns `None` at the end of the connection.
fn collect(stream: &TcpStream, spans: &Mutex<Vec<Value>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut len, mut first) = (String::new(), 0, String::new());
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if first.is_empty() {
            first = line.clone();
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            len = value.trim().parse().ok()?;
        }
    }
    assert_eq!(first, "POST /api/v2/spans HTTP/1.1\r\n");
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    let list: Vec<Value> = serde_json::from_slice(&body).expect("a list of spans");
    spans.lock().expect("never poisoned").extend(list);
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").ok()
}

const QUESTIONS: [(&str, Type, bool); 6] = [
    ("a.out.example.", Type::A, false),
    // From the cache.
    ("A.out.example.", Type::A, true),
    ("nx.out.example.", Type::AAAA, false),
    ("one.t.example.", Type::A, false),
    ("refused.t.example.", Type::TXT, true),
    ("none.example.", Type::A, false),
];

fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = shared::folder().join(format!("traces-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn start(software: Software, upstream: SocketAddr, collector: SocketAddr) -> Server {
    let port = ports::free();
    let text = format!(
        r#".:{port} {{
    bind 127.0.0.1
    metadata
    trace {collector} {{
        service test
        zipkin_max_batch_interval 100ms
    }}
    errors
    log . "{{name}} trace={{/trace/traceid}}."
    cache 30
    template IN A t.example {{
        answer "{{{{ .Name }}}} 60 IN A 192.0.2.1"
    }}
    template IN TXT t.example {{
        rcode REFUSED
    }}
    forward out.example {upstream}
}}
"#
    );
    Server::start(software, &text, port, folder())
}

/// Returns the traces of the questions as text, in the order of the questions.
fn traces(collector: &Collector) -> Vec<String> {
    let spans = collector.spans.lock().expect("never poisoned").clone();
    let mut roots: Vec<&Value> = spans.iter().filter(|span| span["parentId"].is_null()).collect();
    roots.retain(|root| root["tags"]["coredns.io/name"].as_str().is_some_and(|name| name.ends_with("example.")));
    roots.sort_by_key(|root| root["timestamp"].as_u64());
    roots.iter().map(|root| show(root, &spans, 0)).collect()
}

/// Returns a span and those within it as text, without times and random numbers.
fn show(span: &Value, all: &[Value], depth: usize) -> String {
    let port = Regex::new(r#""port":\d+"#).expect("an expression");
    let endpoint = port.replace(&span["localEndpoint"].to_string(), r#""port":0"#).into_owned();
    let values: Vec<&Value> =
        span["annotations"].as_array().into_iter().flatten().map(|annotation| &annotation["value"]).collect();
    let mut text = format!(
        "{}{} {} {} {} {} {values:?}\n",
        "  ".repeat(depth),
        span["name"],
        span["kind"],
        span["tags"],
        span["shared"],
        endpoint
    );
    let is_within = |other: &&Value| other["traceId"] == span["traceId"] && other["parentId"] == span["id"];
    let mut inner: Vec<&Value> = all.iter().filter(is_within).collect();
    inner.sort_by_key(|span| span["timestamp"].as_u64());
    text.extend(inner.into_iter().map(|inner| show(inner, all, depth + 1)));
    text
}

fn spans() -> Result<(), Failed> {
    let knot = Resolver::knot(&folder());
    let [ours, theirs] = [Software::Clusterdns, Software::CoreDns].map(|software| {
        let collector = Collector::start();
        (start(software, knot.at, collector.at), collector)
    });
    for (server, _) in [&ours, &theirs] {
        for (name, rtype, tcp) in QUESTIONS {
            ask(server.at, &Question { tcp, ..Question::new(name, rtype) });
        }
    }
    eventually("the collectors get the same spans", SOON, || {
        let (ours, theirs) = (traces(&ours.1), traces(&theirs.1));
        if theirs.len() < QUESTIONS.len() || !theirs[0].contains("connect") {
            return Err(format!("CoreDNS has sent {theirs:?}"));
        }
        match ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs) {
            Some((ours, theirs)) => Err(format!("ours:\n{ours}\nCoreDNS:\n{theirs}")),
            None if ours.len() != theirs.len() => Err(format!("{} and {} traces", ours.len(), theirs.len())),
            None => Ok(()),
        }
    });
    // The label of metadata has the form of CoreDNS's.
    let label = Regex::new(r"a\.out\.example\. trace=([0-9a-f]{16})\.").expect("an expression");
    for (server, collector) in [&ours, &theirs] {
        let log = server.log();
        let id = label.captures(&log).ok_or_else(|| format!("no ID in {log}"))?[1].to_owned();
        let spans = collector.spans.lock().expect("never poisoned");
        if !spans.iter().any(|span| span["traceId"] == id.as_str()) {
            return Err(format!("no span has the ID {id}").into());
        }
    }
    Ok(())
}
