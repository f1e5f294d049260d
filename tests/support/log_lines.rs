//! What holds for the lines of *log*: they have their format, and no query can forge one.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use clusterdns::chain::{Answer, Block, Chain, Client, Router, State, Transport};
use clusterdns::cluster::{PodMode, View};
use clusterdns::plugins::kubernetes::{Answers, Kubernetes};
use clusterdns::plugins::log::{Classes, Config, Log, LogRule};
use clusterdns::plugins::placeholders::Format;
use clusterdns::telemetry::log::{LogFormat as LineFormat, Logger};
use clusterdns::wire::{MAX_MESSAGE, NameBuf, Type};

use super::answers::{n, packet};
use super::cluster::sample;

/// The longest line that a logger takes, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// What each placeholder shows of [`plain_query`].
const SHOWN: [(&str, &str); 16] = [
    ("{type}", "AAAA"),
    ("{name}", "nope.a.svc.cluster.local."),
    ("{class}", "IN"),
    ("{proto}", "udp"),
    ("{size}", "53"),
    ("{remote}", "10.0.0.1"),
    ("{port}", "53000"),
    ("{local}", "10.0.0.9"),
    ("{>id}", "4660"),
    ("{>opcode}", "0"),
    ("{>do}", "false"),
    ("{>bufsize}", "1232"),
    ("{rcode}", "NXDOMAIN"),
    ("{rsize}", "SIZE"),
    ("{duration}", "0s"),
    ("{>rflags}", "qr,aa,rd"),
];
const COMMON: &str = r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration}"#;

/// Checks the lines of a format: `FORMAT`, a zero byte and a packet.
pub fn check_log_line(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let format = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let query = plain_query();
    let (line, sent) = logged(&format, LineFormat::Text, &query);
    let line = line.expect("the plain query is answered");
    let expected = format!("[INFO] {}", expected(&format, &sent.to_string()));
    assert_eq!(line, format!("{}\n", truncated(&expected)), "{format:?}");

    let Some(packet) = parts.next() else { return };
    let (Some(text), _) = logged(&format, LineFormat::Text, packet) else { return };
    let controls = |text: &str| text.chars().filter(|c| c.is_control()).count();
    let own = controls(&expanded(&format).replace(['\n', '\r'], " "));
    assert!(text.ends_with('\n') && text.matches('\n').count() == 1, "{text:?}");
    assert!(controls(&text) <= own + 1, "the query has put control characters into {text:?}");
    let (json, _) = logged(&format, LineFormat::Json, packet);
    let json = json.expect("both forms are logged");
    assert!(json.matches('\n').count() == 1);
    if json.len() <= MAX_LINE {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).expect("an object");
        assert!(object["msg"].is_string() && object["qname"].is_string() && object["response_size"].is_u64());
    }
}

/// A query of which every placeholder is known.
fn plain_query() -> Vec<u8> {
    packet(&n("Nope.a.svc.cluster.local"), Type::AAAA, Some(1_232))
}

/// Expands `{common}` and `{combined}` of a format.
fn expanded(format: &str) -> String {
    format.replace("{common}", COMMON).replace("{combined}", &format!("{COMMON} \"{{>opcode}}\""))
}

/// What a line shows of the plain query: each innermost pair of braces that is a placeholder, by its value.
fn expected(format: &str, size: &str) -> String {
    let (text, mut out) = (expanded(format).replace(['\n', '\r'], " "), String::new());
    let mut rest = text.as_str();
    while let Some(end) = rest.find('}') {
        let (head, tail) = rest.split_at(end + 1);
        let (before, word) = head.rfind('{').map_or((head, ""), |open| head.split_at(open));
        out += before;
        out += match SHOWN.iter().find(|(placeholder, _)| *placeholder == word) {
            Some((_, "SIZE")) => size,
            Some((_, value)) => value,
            None if word.starts_with("{/") => metadata(&word[2..word.len() - 1]),
            None => word,
        };
        rest = tail;
    }
    out + rest
}

/// What a metadata label shows of the plain query.
fn metadata(label: &str) -> &'static str {
    match label {
        "kubernetes/kind" => "svc",
        "kubernetes/namespace" => "a",
        "kubernetes/service" => "nope",
        "kubernetes/endpoint" | "kubernetes/port-name" | "kubernetes/protocol" | "kubernetes/zone" => "",
        "kubernetes/client-namespace" => "a",
        "kubernetes/client-pod-name" => "p0",
        "log/class" => "denial",
        "log/type" => "NXDOMAIN",
        _ => "-",
    }
}

/// Returns the part of a line that a logger writes.
fn truncated(line: &str) -> &str {
    &line[..line.floor_char_boundary(MAX_LINE)]
}

/// The line for a packet, if there is one, and the length of its answer.
fn logged(format: &str, form: LineFormat, packet: &[u8]) -> (Option<String>, usize) {
    static KUBERNETES: LazyLock<Arc<Kubernetes>> = LazyLock::new(|| {
        let view = View { pods: PodMode::Verified, zonal: true, ..View::default() };
        let answers = Answers { zones: zones(), view, ttl: 5, fallthrough: Default::default() };
        Arc::new(Kubernetes::new(answers, sample(), Vec::new()))
    });
    let logger = Logger::unwritten(form);
    let rule = LogRule { scope: n("."), format: Format::new(format), classes: Classes::ALL };
    let log = Log::new(&Config { rules: vec![rule] }, logger.clone());
    let chain = Chain::new(vec![Arc::new(log), KUBERNETES.clone()]).with_metadata(vec![n(".")]);
    let router = Arc::new(Router::new(vec![Block { zones: zones(), chain }], true));
    let client = Client {
        remote: SocketAddr::from(([10, 0, 0, 1], 53_000)),
        local: SocketAddr::from(([10, 0, 0, 9], 53)),
        transport: Transport::Udp,
    };
    // A query from the future has a duration of zero.
    let now = Instant::now() + Duration::from_secs(3_600);
    let mut state = State::default();
    let mut out = vec![0; MAX_MESSAGE];
    let sent = match router.answer(packet, client, now, &mut state, &mut out) {
        Answer::Send(len) => len,
        Answer::Drop => 0,
        Answer::Pending(_) => panic!("no plugin of this server waits"),
    };
    (Some(logger.take()).filter(|line| !line.is_empty()), sent)
}

fn zones() -> Vec<NameBuf> {
    ["cluster.local", "in-addr.arpa", "ip6.arpa"].map(n).into()
}
