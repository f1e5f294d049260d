//! The spans that a collector gets, and what happens without a collector.

use std::future::Future;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::chain::{Chain, Failure, State};
use crate::net::Sampling;
use crate::plugins::testing::{client, code, config, n, packet, send_noted};
use crate::wire::{Rcode, Type};

/// A plugin that passes queries on.
struct Passes;

impl Plugin for Passes {
    fn name(&self) -> &'static str {
        "passes"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime").block_on(test)
}

/// Returns the plugin of these lines, whose task runs.
fn start(lines: &str, address: Option<SocketAddr>) -> Arc<TracePlugin> {
    let config = config(lines, parse);
    let sending = Arc::new(Sending::new(&config, address, Arc::default()));
    tokio::spawn(sending.task.lock().take().expect("a task"));
    Arc::new(TracePlugin::new(&config, sending))
}

/// Sends a query through the plugin, one that passes, and one that answers. Returns the label `trace/traceid`.
fn query(plugin: &Arc<TracePlugin>, failure: Option<Failure>) -> Option<String> {
    query_within(plugin, failure, None)
}

/// Sends a query like [`query`], whose request names this span of the client.
fn query_within(plugin: &Arc<TracePlugin>, failure: Option<Failure>, span: Option<ClientSpan>) -> Option<String> {
    let wrap = |number, plugin| -> Arc<dyn Plugin> { Arc::new(TracedPlugin { number, plugin }) };
    let answers = code(if failure.is_some() { Rcode::SERVFAIL } else { Rcode::NXDOMAIN }, failure);
    let chain = Chain::new(vec![plugin.clone(), wrap(1, Arc::new(Passes)), wrap(2, answers)]);
    let chain = chain.with_metadata(vec![n(".")]);
    let query = packet("A.example.", Type::AAAA, None);
    let note = |state: &mut State| {
        if let Some(span) = span {
            state.notes.add(Arc::new(span));
        }
    };
    let state = send_noted(chain, &query, client("[2001:db8::1]:4711"), Instant::now(), note);
    state.notes.get::<QueryTrace>().map(|trace| encode::trace_text(trace.id))
}

/// Reads a request, and responds with this status. Returns its first line, the header fields, and the body.
async fn serve(stream: &mut TcpStream, status: &str) -> (String, Value) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; len.parse().expect("a number")];
    stream.read_exact(&mut body).await.expect("a body");
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(response.as_bytes()).await.expect("written");
    (head, serde_json::from_slice(&body).expect("JSON"))
}

#[test]
fn a_collector_gets_the_spans_of_a_query_and_its_plugins() {
    run(async {
        let collector = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = collector.local_addr().expect("an address");
        let plugin =
            start(&format!("trace {at} {{\n service dns\n zipkin_max_batch_size 3\n}}"), "192.0.2.1:53".parse().ok());
        let id = query(&plugin, None).expect("a trace");
        let mut stream = collector.accept().await.expect("a connection").0;
        let (head, spans) = serve(&mut stream, "202 Accepted").await;
        assert!(head.starts_with("post /api/v2/spans http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {at}\r\n")) && head.contains("content-type: application/json\r\n"));
        let spans = spans.as_array().expect("a list");
        let by_name = |name: &str| spans.iter().find(|span| span["name"] == name).expect("a span");
        let (root, outer, inner) = (by_name("servedns"), by_name("passes"), by_name("answers"));
        assert_eq!(spans.len(), 3);
        assert!(spans.iter().all(|span| span["traceId"] == id.as_str()));
        assert_eq!((&root["id"], &root["kind"], &root["parentId"]), (&json!(id), &json!("SERVER"), &Value::Null));
        assert_eq!((&outer["parentId"], &inner["parentId"]), (&root["id"], &outer["id"]));
        assert_eq!(root["localEndpoint"], json!({"serviceName": "dns", "ipv4": "192.0.2.1", "port": 53}));
        let tags = json!({
            "coredns.io/name": "a.example.", "coredns.io/type": "AAAA", "coredns.io/proto": "udp",
            "coredns.io/remote": "2001:db8::1", "coredns.io/rcode": "NXDOMAIN",
        });
        assert_eq!((&root["tags"], &root["annotations"]), (&tags, &Value::Null));
        for span in [outer, inner] {
            let times = |span: &Value| {
                let start = span["timestamp"].as_u64().expect("a time");
                (start, start + span["duration"].as_u64().expect("a duration"))
            };
            let ((start, end), (from, to)) = (times(span), times(root));
            assert!(from <= start && end <= to + 1, "{span} {root}");
            assert_eq!((&span["kind"], &span["tags"]), (&Value::Null, &Value::Null));
        }
        // The connection is used again.
        query(&plugin, Some(Failure::LookUp("x"))).expect("a trace");
        let (_, spans) = serve(&mut stream, "202 Accepted").await;
        let root = spans.as_array().and_then(|spans| spans.iter().find(|span| span["name"] == "servedns"));
        let root = root.expect("the span of the query");
        assert_eq!((&root["tags"]["error"], &root["tags"]["coredns.io/rcode"]), (&json!("true"), &json!("SERVFAIL")));
        let values: Vec<_> = root["annotations"].as_array().expect("a list").iter().map(|a| &a["value"]).collect();
        assert_eq!(values, ["event:error", "error.object:plugin/x: an internal look-up failed"]);
        // What is left is sent at the end.
        query(&plugin, None);
        drop(plugin);
        assert_eq!(serve(&mut stream, "202 Accepted").await.1.as_array().map(Vec::len), Some(3));
    });
}

#[test]
fn the_trace_of_a_client_is_continued() {
    let span = |trace, parent, sampling| ClientSpan { trace, span: 0xab, parent, sampling };
    let trace = 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124;
    let show = |spans: &Value, id: &str| {
        let spans = spans.as_array().expect("a list").clone();
        let root = spans.iter().find(|span| span["name"] == "servedns").expect("the span of the query").clone();
        let outer = spans.iter().find(|span| span["name"] == "passes").expect("the span of a plugin");
        assert!(spans.iter().all(|span| span["traceId"] == id && span["debug"] == root["debug"]), "{spans:?}");
        assert_eq!((&outer["parentId"], &outer["shared"]), (&root["id"], &Value::Null));
        let is_client = if root["id"] == "00000000000000ab" { " client's" } else { "" };
        format!("{} {} {}{is_client}", root["parentId"], root["shared"], root["debug"])
    };
    run(async {
        let collector = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = collector.local_addr().expect("an address");
        let long = "463ac35c9f6413ad48485a3953bb6124";
        for (option, client, id, expected) in [
            ("", span(trace, Some(3), Sampling::Yes), long, r#""00000000000000ab" null null"#),
            ("", span(1, None, Sampling::Debug), "0000000000000001", r#""00000000000000ab" null true"#),
            ("client_server", span(trace, Some(3), Sampling::Yes), long, r#""0000000000000003" true null client's"#),
            ("client_server", span(1, None, Sampling::Undecided), "0000000000000001", "null true null client's"),
            // Without a trace, a new one begins.
            ("client_server", span(0, None, Sampling::Debug), "", "null null true"),
        ] {
            let plugin = start(&format!("trace {at} {{\n {option}\n zipkin_max_batch_size 3\n}}"), None);
            let found = query_within(&plugin, None, Some(client)).expect("a trace");
            assert_eq!(found, if id.is_empty() { &found } else { id });
            // The client does not want this one.
            let unwanted = ClientSpan { sampling: Sampling::No, ..client };
            assert!(query_within(&plugin, None, Some(unwanted)).is_some());
            drop(plugin);
            let mut stream = collector.accept().await.expect("a connection").0;
            let spans = serve(&mut stream, "202 Accepted").await.1;
            assert_eq!(show(&spans, &found), expected, "{option} {client:?}");
            // The next request would have the spans of the other query.
            assert!(stream.read_u8().await.is_err(), "{option} {client:?}");
        }
        // Datadog's traces begin here.
        let plugin = start(&format!("trace datadog {at}"), None);
        let found = query_within(&plugin, None, Some(span(1, None, Sampling::No))).expect("a trace");
        let mut stream = collector.accept().await.expect("a connection").0;
        let traces = serve(&mut stream, "200 OK").await.1;
        assert_eq!(traces[0][0]["trace_id"], u64::from_str_radix(&found, 16).expect("a number"));
    });
}

#[test]
fn one_query_of_a_number_is_traced() {
    run(async {
        let plugin = start("trace 127.0.0.1:1 {\n every 3\n}", None);
        let traced: Vec<bool> = (0..7).map(|_| query(&plugin, None).is_some()).collect();
        assert_eq!(traced, [false, false, true, false, false, true, false]);
        let plugin = start("trace 127.0.0.1:1 {\n every 0\n}", None);
        assert!((0..5).all(|_| query(&plugin, None).is_none()));
    });
}

#[test]
fn spans_without_a_collector_are_not_recorded_and_the_backlog_has_a_limit() {
    run(async {
        let collector = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = collector.local_addr().expect("an address");
        drop(collector);
        let plugin =
            start(&format!("trace {at} {{\n zipkin_max_backlog_size 10\n zipkin_max_batch_interval 1ms\n}}"), None);
        (0..20).for_each(|_| drop(query(&plugin, None)));
        assert_eq!(plugin.sending.backlog.waiting(), 10);
        while plugin.sending.backlog.is_open() {
            tokio::task::yield_now().await;
        }
        // The ID is there nevertheless.
        let before = plugin.sending.backlog.waiting();
        assert!(query(&plugin, None).is_some());
        assert_eq!(plugin.sending.backlog.waiting(), before);
        // The collector comes back.
        let collector = TcpListener::bind(at).await.expect("a socket");
        while !plugin.sending.backlog.is_open() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        query(&plugin, None);
        let mut stream = collector.accept().await.expect("a connection").0;
        assert_eq!(serve(&mut stream, "202 Accepted").await.1.as_array().map(Vec::len), Some(3));
    });
}

#[test]
fn datadogs_agent_gets_the_span_of_the_query() {
    run(async {
        let agent = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = agent.local_addr().expect("an address");
        let plugin = start(&format!("trace datadog {at} {{\n datadog_analytics_rate 0.5\n}}"), None);
        query(&plugin, Some(Failure::LookUp("x")));
        let mut stream = agent.accept().await.expect("a connection").0;
        let (head, traces) = serve(&mut stream, "200 OK").await;
        assert!(head.starts_with("post /v0.4/traces http/1.1\r\n") && head.contains("x-datadog-trace-count: 1\r\n"));
        let [traces] = traces.as_array().expect("traces").as_slice() else { panic!("{traces}") };
        let [span] = traces.as_array().expect("spans").as_slice() else { panic!("{traces}") };
        assert_eq!(
            (&span["name"], &span["service"], &span["type"]),
            (&json!("servedns"), &json!("coredns"), &json!("dns"))
        );
        assert_eq!((&span["parent_id"], &span["error"]), (&json!(0), &json!(1)));
        assert_eq!(
            (&span["meta"]["coredns.io@name"], &span["meta"]["coredns.io@rcode"]),
            (&json!("a.example."), &json!("SERVFAIL"))
        );
        assert_eq!(span["metrics"]["_dd1.sr.eausr"], 0.5);
    });
}
