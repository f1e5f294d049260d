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
    vec![
        Test::new("trace: a collector gets the spans of CoreDNS", spans),
        Test::new("trace: over HTTPS, the trace of a client is continued as by CoreDNS", continued),
    ]
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

/// Header fields of requests, one a line, each set with the trace of its number if it has one.
const FIELDS: [&str; 14] = [
    "X-B3-TraceId: 463ac35c9f6413ad0000000000000001\nX-B3-SpanId: a2fb4a1d1a96d312\nX-B3-ParentSpanId: 0000000020000001",
    "x-b3-traceid: 2\nx-b3-spanid: 2\nx-b3-sampled: 1",
    "b3: 463ac35c9f6413ad0000000000000003-a2fb4a1d1a96d312-d-0000000020000001",
    "b3: 0000000000000004-000000000000000b",
    "b3: zz\nX-B3-TraceId: 5\nX-B3-SpanId: 3",
    "X-B3-TraceId: 6\nX-B3-SpanId: 3\nX-B3-Sampled: 0",
    "X-B3-TraceId: 7\nX-B3-SpanId: 0",
    "X-B3-TraceId: 8",
    "X-B3-TraceId: zz\nX-B3-SpanId: 2",
    "X-B3-TraceId: 0\nX-B3-SpanId: 2\nX-B3-ParentSpanId: 5",
    "X-B3-Flags: 1",
    "b3: 0",
    "b3: 1",
    "accept: */*",
];

/// Sends a query over HTTP with these header fields, and reads the response.
fn post(at: SocketAddr, name: &str, fields: &str) {
    let query = Question::new(name, Type::A).packet(0);
    let mut stream = TcpStream::connect(at).expect("connected");
    let fields: String = fields.lines().map(|line| format!("{line}\r\n")).collect();
    let len = query.len();
    let head = format!(
        "POST /dns-query HTTP/1.1\r\nHost: test\r\nContent-Type: application/dns-message\r\nContent-Length: {len}\r\n{fields}\
         Connection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), &query].concat()).expect("written");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).expect("a response");
    assert!(response.starts_with(b"HTTP/1.1 200"), "{}", response.escape_ascii());
}

/// Returns the traces of [`FIELDS`] as text. Random IDs are left out.
fn continued_traces(collector: &Collector) -> Vec<String> {
    let spans = collector.spans.lock().expect("never poisoned").clone();
    let trace = |number: usize| {
        let name = format!("n{number}.example.");
        let query = spans.iter().find(|span| span["tags"]["coredns.io/name"] == name.as_str());
        let Some(query) = query else { return format!("{number}: not recorded") };
        let all: Vec<&Value> = spans.iter().filter(|span| span["traceId"] == query["traceId"]).collect();
        let known = |id: &Value| {
            let text = id.as_str().unwrap_or("none").to_owned();
            if text.starts_with("00000000") || text == "a2fb4a1d1a96d312" || text.len() != 16 {
                text
            } else {
                "random".into()
            }
        };
        let mut names: Vec<String> =
            all.iter().map(|s| format!("{} {} {}", s["name"], s["shared"], s["debug"])).collect();
        names.sort();
        let (trace, id, parent) = (&query["traceId"], &query["id"], &query["parentId"]);
        format!("{number}: {} {} within {} {names:?}", known(trace), known(id), known(parent))
    };
    (0..FIELDS.len()).map(trace).collect()
}

fn continued() -> Result<(), Failed> {
    for option in ["", "client_server", "client_server false"] {
        let servers = [Software::Clusterdns, Software::CoreDns].map(|software| {
            let collector = Collector::start();
            let (port, https) = (ports::free(), ports::free());
            let text = format!(
                ".:{port} https://.:{https} {{\n    bind 127.0.0.1\n    trace {} {{\n        {option}\n        \
                 zipkin_max_batch_interval 50ms\n    }}\n    any\n    whoami\n}}\n",
                collector.at
            );
            let server = Server::start(software, &text, port, folder());
            let at = ports::on_loopback(https);
            for (number, fields) in FIELDS.iter().enumerate() {
                post(at, &format!("n{number}.example."), fields);
            }
            // The spans of this one come after those of the others.
            post(at, "last.example.", "accept: */*");
            (server, collector)
        });
        let [ours, theirs] = servers.map(|(_server, collector)| {
            eventually("all spans have come", SOON, || {
                let spans = collector.spans.lock().expect("never poisoned");
                let last = spans.iter().any(|span| span["tags"]["coredns.io/name"] == "last.example.");
                if last { Ok(()) } else { Err("the last span is missing".to_owned()) }
            });
            continued_traces(&collector)
        });
        let recorded = theirs.iter().filter(|trace| !trace.ends_with("not recorded")).count();
        assert_eq!(recorded, FIELDS.len() - 2, "{theirs:?}");
        if let Some((ours, theirs)) = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs) {
            return Err(format!("'{option}'\nours:    {ours}\nCoreDNS: {theirs}").into());
        }
    }
    Ok(())
}
