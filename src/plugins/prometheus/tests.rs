//! Queries through router, and the text that becomes of them.

use std::net::SocketAddr;

use super::super::testing::{Answers, client, config, n, packet, read};
use super::*;
use crate::chain::{Answer, Block, Chain, Failure, Router, State, Transport};
use crate::telemetry::metrics::{Collected, Observed, Registry, register, text};
use crate::wire::Type;

#[test]
fn it_is_read() {
    let config_of = |lines: &str| {
        let config = config(lines, parse);
        format!("{} {:?}", config.address, config.tls)
    };
    assert_eq!(config_of("prometheus"), "localhost:9153 None");
    assert_eq!(config_of("prometheus 0.0.0.0:1 {\n tls web.yml\n}"), "0.0.0.0:1 Some(\"web.yml\")");
    assert_eq!(
        read("prometheus {\n runtime_metrics\n}", parse).1,
        ["'runtime_metrics' tells of Go's runtime, which is not in this server"]
    );
    for (lines, message) in [
        ("prometheus x", "address x: missing port in address"),
        ("prometheus :1 :2", "Wrong argument count or unexpected line ending after ':2'"),
        ("prometheus {\n tls\n}", "Wrong argument count or unexpected line ending after 'tls'"),
        ("prometheus {\n tls a b\n}", "Wrong argument count or unexpected line ending after 'b'"),
        ("prometheus {\n tls a\n tls b\n}", "tls block already specified"),
        ("prometheus {\n runtime\n}", "unknown property 'runtime'"),
    ] {
        assert_eq!(read(lines, parse).1, [message], "{lines}");
    }
}

/// A block for two zones whose plugin answers, fails or drops, by the name asked for.
struct Bench {
    queries: Arc<Queries>,
    router: Arc<Router>,
}

impl Bench {
    fn new() -> Bench {
        let queries = Arc::new(Queries::default());
        let zones = vec![n("example."), n("sub.example.")];
        let counting = Prometheus::new(&queries, "dns://:53", &zones, "answers");
        let answers = Answers(|exchange: &mut Exchange<'_>| {
            if exchange.question().name().to_string().starts_with("bad.") {
                exchange.fail(Rcode::SERVFAIL, Failure::NoNextPlugin("answers"));
            }
        });
        let chain = Chain::new(vec![Arc::new(counting), Arc::new(Dropping), Arc::new(answers)]);
        let router = Router::new(vec![Block { zones, chain }], false);
        let router = Arc::new(router.observed_by(Arc::new(Refused::new(&queries, "dns://:53"))));
        Bench { queries, router }
    }

    fn ask(&self, packet: &[u8], remote: &str, transport: Transport) {
        let client = Client { transport, ..client(remote) };
        let _ = self.router.answer(packet, client, Instant::now(), &mut State::default(), &mut [0; 4096]);
    }

    /// The lines of the text but comments, buckets and sums.
    fn lines(&self) -> Vec<String> {
        let registry = Registry::new();
        let queries = self.queries.clone();
        register(&registry, Observed::new(Queries::METRICS, move || queries.families()));
        let text = text(&registry);
        let lines = text.lines().filter(|line| {
            !line.starts_with('#') && !line.contains("_bucket") && !line.contains("duration_seconds_sum")
        });
        lines.map(|line| line.trim_start_matches("coredns_dns_").replace("server=\"dns://:53\",", "")).collect()
    }
}

/// Drops names that start with `drop`.
struct Dropping;

impl Plugin for Dropping {
    fn name(&self) -> &'static str {
        "dropping"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        match exchange.question().name().to_string().starts_with("drop.") {
            true => Step::Drop,
            false => Step::Next,
        }
    }
}

#[test]
fn queries_are_counted_by_zone_type_and_outcome() {
    let bench = Bench::new();
    assert!(bench.lines().is_empty(), "what has not happened is not shown");
    let (v4, v6) = ("192.0.2.1:5", "[2001:db8::1]:5");
    bench.ask(&packet("a.example.", Type::A, None), v4, Transport::Udp);
    bench.ask(&packet("A.EXAMPLE.", Type::A, None), v4, Transport::Udp);
    bench.ask(&packet("a.sub.example.", Type::CAA, Some(1232)), v6, Transport::Tcp);
    bench.ask(&packet("bad.example.", Type::TXT, None), v4, Transport::Udp);
    bench.ask(&packet("drop.example.", Type::TXT, None), v4, Transport::Udp);
    bench.ask(&packet("example.org.", Type::A, None), v4, Transport::Udp);
    let mut dnssec = packet("a.sub.example.", Type::A, Some(1232));
    let flags = dnssec.len() - 4;
    dnssec[flags] = 0x80;
    bench.ask(&dnssec, v4, Transport::Udp);
    // No query at all.
    bench.ask(&[0; 12], v4, Transport::Udp);
    assert_eq!(
        bench.lines(),
        [
            "do_requests_total{view=\"\",zone=\"sub.example.\"} 1",
            "request_duration_seconds_count{view=\"\",zone=\"dropped\"} 1",
            "request_duration_seconds_count{view=\"\",zone=\"example.\"} 4",
            "request_duration_seconds_count{view=\"\",zone=\"sub.example.\"} 2",
            "request_size_bytes_sum{proto=\"tcp\",view=\"\",zone=\"sub.example.\"} 42",
            "request_size_bytes_count{proto=\"tcp\",view=\"\",zone=\"sub.example.\"} 1",
            "request_size_bytes_sum{proto=\"udp\",view=\"\",zone=\"dropped\"} 29",
            "request_size_bytes_count{proto=\"udp\",view=\"\",zone=\"dropped\"} 1",
            "request_size_bytes_sum{proto=\"udp\",view=\"\",zone=\"example.\"} 113",
            "request_size_bytes_count{proto=\"udp\",view=\"\",zone=\"example.\"} 4",
            "request_size_bytes_sum{proto=\"udp\",view=\"\",zone=\"sub.example.\"} 42",
            "request_size_bytes_count{proto=\"udp\",view=\"\",zone=\"sub.example.\"} 1",
            "requests_total{family=\"1\",proto=\"udp\",type=\"A\",view=\"\",zone=\"dropped\"} 1",
            "requests_total{family=\"1\",proto=\"udp\",type=\"A\",view=\"\",zone=\"example.\"} 2",
            "requests_total{family=\"1\",proto=\"udp\",type=\"A\",view=\"\",zone=\"sub.example.\"} 1",
            "requests_total{family=\"1\",proto=\"udp\",type=\"TXT\",view=\"\",zone=\"example.\"} 2",
            "requests_total{family=\"2\",proto=\"tcp\",type=\"other\",view=\"\",zone=\"sub.example.\"} 1",
            "response_size_bytes_sum{proto=\"tcp\",view=\"\",zone=\"sub.example.\"} 42",
            "response_size_bytes_count{proto=\"tcp\",view=\"\",zone=\"sub.example.\"} 1",
            "response_size_bytes_sum{proto=\"udp\",view=\"\",zone=\"dropped\"} 29",
            "response_size_bytes_count{proto=\"udp\",view=\"\",zone=\"dropped\"} 1",
            "response_size_bytes_sum{proto=\"udp\",view=\"\",zone=\"example.\"} 83",
            "response_size_bytes_count{proto=\"udp\",view=\"\",zone=\"example.\"} 4",
            "response_size_bytes_sum{proto=\"udp\",view=\"\",zone=\"sub.example.\"} 42",
            "response_size_bytes_count{proto=\"udp\",view=\"\",zone=\"sub.example.\"} 1",
            "responses_total{plugin=\"\",rcode=\"NOERROR\",view=\"\",zone=\"example.\"} 1",
            "responses_total{plugin=\"\",rcode=\"REFUSED\",view=\"\",zone=\"dropped\"} 1",
            "responses_total{plugin=\"\",rcode=\"SERVFAIL\",view=\"\",zone=\"example.\"} 1",
            "responses_total{plugin=\"answers\",rcode=\"NOERROR\",view=\"\",zone=\"example.\"} 2",
            "responses_total{plugin=\"answers\",rcode=\"NOERROR\",view=\"\",zone=\"sub.example.\"} 2",
        ]
    );
}

/// F12: a hundred thousand names and all types and codes make no more lines than a few.
#[test]
fn labels_are_bounded_whatever_is_asked() {
    let queries = Queries::default();
    let counting = Prometheus::new(&queries, "dns://:53", &[n(".")], "answers");
    let answers = Answers(|exchange: &mut Exchange<'_>| {
        exchange.reply().rcode = Rcode(exchange.question().qtype.0 & 0xfff);
    });
    let chain = Chain::new(vec![Arc::new(counting), Arc::new(answers)]);
    let router = Arc::new(Router::new(vec![Block { zones: vec![n(".")], chain }], false));
    let (mut state, mut out) = (State::default(), [0; 4096]);
    for number in 0..100_000_u32 {
        let name = format!("x{number}.example.");
        let client = Client { remote: SocketAddr::from((number.to_be_bytes(), 9)), ..client("1.1.1.1:1") };
        let packet = packet(&name, Type(number as u16), Some(512));
        let answer = router.answer(&packet, client, Instant::now(), &mut state, &mut out);
        assert!(matches!(answer, Answer::Send(_)));
    }
    let samples: usize = queries.families().iter().map(|family| family.get_metric().len()).sum();
    assert_eq!(samples, 20 + 25 + 3, "types, codes, and one of each histogram");
}

/// The families that CoreDNS 1.15.0 prints for these directives, as its `/metrics` says them.
#[test]
fn families_are_named_as_coredns_prints_them() {
    let printed = include_str!("coredns-1.15.0.txt");
    for metric in Queries::METRICS {
        let kind = match metric.kind {
            crate::telemetry::metrics::Kind::Counter => "counter",
            crate::telemetry::metrics::Kind::Gauge => "gauge",
            crate::telemetry::metrics::Kind::Histogram(_) => "histogram",
        };
        let (name, help) = (metric.name, metric.help);
        let header = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        assert!(printed.contains(&header), "{header}");
    }
}
