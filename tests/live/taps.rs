//! *dnstap*: a reader by dnstap's own library gets the same messages from this server as from CoreDNS, over Unix
//! sockets, TCP and TLS, from connections in both directions.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use clusterdns::wire::Type;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use super::Test;
use super::ask::{Question, ask};
use super::certificates::Authority;
use super::process::Process;
use super::resolvers::Resolver;
use super::server::{Server, Software};
use super::wait::{SOON, eventually};
use super::{parts, ports, shared};

pub fn tests() -> Vec<Test> {
    vec![Test::new("dnstap: readers get the messages of CoreDNS", messages)]
}

/// Returns a directory for a server.
fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = shared::folder().join(format!("taps-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A reader of messages.
struct Reader(Process);

impl Reader {
    /// Starts a reader with these arguments.
    fn start(folder: &std::path::Path, name: &str, arguments: &[&str]) -> Reader {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Reader(Process::start(parts::path("dnstap"), &arguments, folder.join(name)))
    }

    /// Returns what it has printed.
    fn lines(&self) -> Vec<Value> {
        self.0.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until its stream has begun.
    fn wait_until_begun(&self) {
        eventually("the stream begins", SOON, || match self.lines().iter().any(|line| line["begun"] == true) {
            true => Ok(()),
            false => Err(self.0.last_words()),
        });
    }

    /// Returns the messages about the questions of the test, in their order.
    fn messages(&self) -> Vec<Value> {
        let is_of_test = |line: &Value| line["extra"].as_str().is_some_and(|extra| extra.contains("example."));
        self.lines().into_iter().filter(is_of_test).collect()
    }
}

/// A server with its readers.
struct Tapped {
    server: Server,
    readers: Vec<Reader>,
}

const QUESTIONS: [(&str, Type, bool); 9] = [
    ("a.out.example.", Type::A, false),
    ("nx.out.example.", Type::AAAA, false),
    ("A.Out.example.", Type::TXT, false),
    ("a.out.example.", Type::A, true),
    ("one.t.example.", Type::A, false),
    ("one.t.example.", Type::A, true),
    ("refused.t.example.", Type::TXT, false),
    ("dropped.example.", Type::A, false),
    ("none.example.", Type::A, false),
];

fn start(software: Software, upstream: &Resolver, authority: &Authority) -> Tapped {
    let folder = folder();
    let shown = folder.display();
    let files = authority.server(&folder, "reader", &[]);
    let (certificate, key) = (files.certificate.display().to_string(), files.key.display().to_string());
    let [port, tcp, tls, listened] = [(); 4].map(|()| ports::free());
    let [tcp, tls, listened] = [tcp, tls, listened].map(|port| format!("127.0.0.1:{port}"));
    let (unix, incoming) = (folder.join("out.sock"), folder.join("in.sock"));
    let (unix, incoming) = (unix.display().to_string(), incoming.display().to_string());
    let mut readers = vec![
        Reader::start(&folder, "unix", &["listen", "unix", &unix]),
        Reader::start(&folder, "tcp", &["listen", "tcp", &tcp]),
        Reader::start(&folder, "tls", &["listen", "tls", &tls, &certificate, &key]),
    ];
    eventually("the readers listen", SOON, || {
        let is_open = |at: &String| std::net::TcpStream::connect(at).is_ok();
        if std::path::Path::new(&unix).exists() && is_open(&tcp) && is_open(&tls) { Ok(()) } else { Err("not".into()) }
    });
    let upstream = upstream.at;
    let text = format!(
        r#".:{port} {{
    bind 127.0.0.1
    metadata
    dnstap {unix} full {{
        identity this-server
        version 9.9
        extra "{{name}} {{type}} {{class}} {{proto}} {{remote}} {{rcode}} {{rsize}} {{duration}} {{/forward/upstream}} {{/no/label}}"
    }}
    dnstap tcp://{tcp} {{
        version ""
        extra "{{name}} only"
    }}
    dnstap tls://{tls} full 2 3 {{
        skipverify
        version 1
        extra "{{name}}"
    }}
    dnstap listen unix://{incoming} {{
        version 1
        extra "{{name}} {{type}}"
    }}
    dnstap listen tls://{listened} full {{
        version 1
        extra "{{name}}"
        tls {certificate} {key} {shown}/ca.pem
    }}
    acl dropped.example {{
        drop
    }}
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
    std::fs::write(folder.join("ca.pem"), authority.pem()).expect("a file");
    let client = authority.client("reader", &folder, "client");
    let (certificate, key) = (client.certificate.display().to_string(), client.key.display().to_string());
    let server = Server::start(software, &text, port, folder.clone());
    readers.push(Reader::start(&folder, "from-unix", &["dial", "unix", &incoming]));
    readers.push(Reader::start(&folder, "from-tls", &["dial", "tls", &listened, &certificate, &key]));
    readers.iter().for_each(Reader::wait_until_begun);
    Tapped { server, readers }
}

fn messages() -> Result<(), Failed> {
    let knot = Resolver::knot(&folder());
    let authority = Authority::new("taps");
    let (ours, theirs) = (start(Software::Clusterdns, &knot, &authority), start(Software::CoreDns, &knot, &authority));
    // A message reaches a new reader of CoreDNS only after the server has noticed it.
    for tapped in [&ours, &theirs] {
        eventually("the readers get messages", SOON, || {
            tapped.server.ask("ready.t.example. A");
            match tapped.readers.iter().position(|reader| reader.messages().is_empty()) {
                None => Ok(()),
                Some(number) => Err(format!("reader {number}: {}", tapped.server.last_words())),
            }
        });
    }
    for tapped in [&ours, &theirs] {
        for (name, rtype, tcp) in QUESTIONS {
            ask(tapped.server.at, &Question { tcp, ..Question::new(name, rtype) });
        }
    }
    for number in 0..ours.readers.len() {
        let of = |tapped: &Tapped| -> Vec<Value> {
            let messages = tapped.readers[number].messages().into_iter();
            let is_of_test = |message: &Value| !message["extra"].as_str().expect("a text").starts_with("ready.");
            let mut messages: Vec<Value> = messages.filter(is_of_test).map(comparable).collect();
            // CoreDNS sends the message about a response after the response, when the next query may have come.
            messages.sort_by_key(Value::to_string);
            messages
        };
        eventually(&format!("the messages of reader {number}"), SOON, || {
            let (ours, theirs) = (of(&ours), of(&theirs));
            // CoreDNS writes to readers that have connected from several queries at once, and loses messages then.
            let has_connected = number >= 3;
            // Two for each question, one for the one that is dropped, and two for each one that is forwarded.
            let expected = 2 * QUESTIONS.len() - 1 + 2 * 4;
            if has_connected && ours.len() == expected && theirs.iter().all(|message| ours.contains(message)) {
                return Ok(());
            }
            if theirs.len() != expected {
                return Err(format!("CoreDNS has {} messages: {theirs:#?}", theirs.len()));
            }
            let differing = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            match differing {
                Some((ours, theirs)) => Err(format!("ours: {ours:#}\nCoreDNS: {theirs:#}")),
                None if ours.len() != theirs.len() => Err(format!("{} and {}", ours.len(), theirs.len())),
                None => Ok(()),
            }
        });
    }
    // A stream is finished, not broken, when the server stops.
    ours.server.signal("TERM");
    eventually("the streams end", SOON, || {
        let ends: Vec<Value> = ours.readers.iter().filter_map(|reader| reader.lines().pop()).collect();
        if ends == vec![json!({"end": "finished"}); ours.readers.len()] { Ok(()) } else { Err(format!("{ends:?}")) }
    });
    Ok(())
}

/// Returns a message without what is different by intention (rows of docs/differences.md).
fn comparable(mut message: Value) -> Value {
    // 252: the address of this server is not known for streams to upstreams.
    if message["type"].as_str().is_some_and(|kind| kind.starts_with("FORWARDER")) && message["protocol"] == "TCP" {
        message["from"] = Value::Null;
        message["ported"] = Value::Null;
    }
    message
}
