//! Tests of replies and failures of upstreams.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use http::{HeaderMap, Request, Response};

use super::*;
use crate::plugins::testing::{self, client, code, config, n, packet, show};
use crate::telemetry::metrics::Collected as _;
use crate::telemetry::metrics::{Observed, Registry, register, text};
use crate::upstream::testing::{Http2Reply, http2_server, runtime};
use crate::upstream::{Metrics, UpstreamRegistry};
use crate::wire::{Class, Type};

/// Answers with the code that the first label of the name is, or does something wrong.
fn respond(request: Request<Vec<u8>>) -> Option<Http2Reply> {
    let body = request.body();
    let mut packet = DnsPacket::parse(&body[5..]).expect("a packet");
    let label = String::from_utf8_lossy(&packet.msg[13..13 + usize::from(packet.msg[12])]).into_owned();
    packet.msg[2] |= 0x80;
    let mut status = GrpcStatus::new(GrpcCode::Ok, "");
    match label.as_str() {
        "nx" => packet.msg[3] |= 3,
        "away" => status = GrpcStatus::new(GrpcCode::Unavailable, "away"),
        "absent" => status = GrpcStatus::new(GrpcCode::NotFound, ""),
        "short" => packet.msg.truncate(5),
        "query" => packet.msg[2] &= 0x7f,
        "other" => packet.msg[13] = b'x',
        _ => {}
    }
    let mut trailers = HeaderMap::new();
    status.write(&mut trailers);
    let body = if status.code == GrpcCode::Ok { grpc::encode(&packet) } else { Vec::new() };
    let response = Response::builder().header("content-type", grpc::CONTENT_TYPE).body(body);
    Some((response.expect("a response"), trailers))
}

/// Sends a query through the plugin with upstreams at these addresses, before one that answers with REFUSED.
fn ask(
    runtime: &tokio::runtime::Runtime, servers: &[SocketAddr], lines: &str, name: &str,
) -> (String, Option<String>, Arc<GrpcMetrics>) {
    let to: String = servers.iter().map(|server| format!(" {server}")).collect();
    let config = config(&format!("grpc example{to} {{\n policy sequential\n {lines}\n}}"), parse);
    let registry = UpstreamRegistry::new(runtime.handle().clone(), Arc::<Metrics>::default());
    let metrics = Arc::new(GrpcMetrics::default());
    let group = GrpcGroup::new(&config, &registry, &metrics).expect("upstreams");
    let Config { from, except, fallthrough, .. } = config;
    let plugin = Grpc { from, except, fallthrough, group };
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(plugin), code(Rcode::REFUSED, None)];
    let packet = packet(name, Type::A, None);
    let state = runtime.block_on(testing::send_and_wait(plugins, &packet, client("127.0.0.1:5353")));
    let question = Question::new(n(name).as_name(), Type::A, Class::IN);
    (show(&state, &question), state.failure.map(|failure| failure.to_string()), metrics)
}

#[test]
fn replies_and_failures_are_those_of_coredns() {
    let runtime = runtime();
    let (server, _) = http2_server(&runtime, None, respond);
    let all = "fallthrough";
    for (lines, name, expected, failure) in [
        ("", "a.example", "NOERROR", None),
        ("", "elsewhere.test", "REFUSED", None),
        ("except sub.example", "nx.sub.example", "REFUSED", None),
        ("", "nx.example", "NXDOMAIN", None),
        (all, "nx.example", "REFUSED", None),
        ("fallthrough other.example", "nx.example", "NXDOMAIN", None),
        ("", "absent.example", "NXDOMAIN", None),
        (all, "absent.example", "REFUSED", None),
        ("", "other.example", "FORMERR", None),
        ("", "query.example", "FORMERR", None),
        ("", "away.example", "SERVFAIL", Some("rpc error: code = Unavailable desc = away")),
        (all, "away.example", "REFUSED", None),
        ("", "short.example", "SERVFAIL", Some("rpc error: code = Internal desc = the response is not a DNS message")),
    ] {
        let (reply, failed, _) = ask(&runtime, &[server], lines, name);
        assert_eq!((reply.as_str(), failed.as_deref()), (expected, failure), "{name}: {lines}");
    }
}

#[test]
fn the_next_upstream_answers_for_one_that_fails() {
    let runtime = runtime();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let (server, connections) = http2_server(&runtime, None, respond);
    let (reply, failure, metrics) = ask(&runtime, &[closed, server], "", "nx.example");
    assert_eq!((reply.as_str(), failure), ("NXDOMAIN", None));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let registry = Registry::new();
    register(&registry, Observed::new(GrpcMetrics::METRICS, move || metrics.families()));
    let text = text(&registry);
    for line in [
        format!("coredns_grpc_requests_total{{to=\"{server}\"}} 1"),
        format!("coredns_grpc_responses_total{{rcode=\"NXDOMAIN\",to=\"{server}\"}} 1"),
        format!("coredns_grpc_request_duration_seconds_count{{to=\"{server}\"}} 1"),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
    assert!(!text.contains(&closed.to_string()), "{text}");
    let (reply, failure, _) = ask(&runtime, &[closed, closed], "", "a.example");
    let refused = format!("rpc error: code = Unavailable desc = {closed}: connection refused");
    assert_eq!((reply.as_str(), failure), ("SERVFAIL", Some(refused)));
}
