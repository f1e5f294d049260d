//! Sends queries through a router, and compares the text of the metrics.

use std::net::SocketAddr;

use super::super::testing::{Answers, client, config, n, packet, read};
use super::*;
use crate::chain::{Answer, Block, Chain, Failure, Router, State, Transport};
use crate::telemetry::metrics::{Collected, MetricFamily, MetricKind, Observed, Registry, register, text};
use crate::wire::Type;

#[test]
fn the_directive_is_parsed() {
    let config_of = |lines: &str| {
        let config = config(lines, parse);
        format!("{} {:?}", config.address, config.tls)
    };
    assert_eq!(config_of("prometheus"), "localhost:9153 None");
    assert_eq!(config_of("prometheus 0.0.0.0:1 {\n tls web.yml\n}"), "0.0.0.0:1 Some(\"web.yml\")");
    assert_eq!(
        read("prometheus {\n runtime_metrics\n}", parse).1,
        ["'runtime_metrics' is about Go's runtime, which this server does not have"]
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

/// A server block for two zones whose plugins answer, fail or drop a query, by its name.
struct Bench {
    queries: Arc<Queries>,
    router: Arc<Router>,
}

impl Bench {
    fn new() -> Bench {
        let queries = Arc::new(Queries::default());
        let zones = vec![n("example."), n("sub.example.")];
        let prometheus = Prometheus::new(&queries, &BlockLabels::new("dns://:53", ""), &zones, "answers");
        let answers = Answers(|exchange: &mut Exchange<'_>| {
            if exchange.question().name().to_string().starts_with("bad.") {
                exchange.fail(Rcode::SERVFAIL, Failure::NoNextPlugin("answers"));
            }
        });
        let chain = Chain::new(vec![Arc::new(prometheus), Arc::new(Dropping), Arc::new(answers)]);
        let router = Router::new(vec![Block { zones, chain }], false);
        let router = Arc::new(router.observed_by(Arc::new(Refused::new(&queries, "dns://:53"))));
        Bench { queries, router }
    }

    fn ask(&self, packet: &[u8], remote: &str, transport: Transport) {
        let client = Client { transport, ..client(remote) };
        let _ = self.router.answer(packet, client, Instant::now(), &mut State::default(), &mut [0; 4096]);
    }

    /// Returns the lines of the metrics without comments, buckets and sums of durations.
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
        let is_dropped = exchange.question().name().to_string().starts_with("drop.");
        if is_dropped { Step::Drop } else { Step::Next }
    }
}

#[test]
fn queries_are_counted_by_zone_type_and_outcome() {
    let bench = Bench::new();
    assert!(bench.lines().is_empty(), "there are no samples before the first query");
    let v4 = "192.0.2.1:5";
    let v6 = "[2001:db8::1]:5";
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
    // This is not a query.
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

/// F12: 100,000 names with all types and codes create only a few series.
#[test]
fn the_number_of_series_is_limited_whatever_clients_query() {
    let queries = Queries::default();
    let prometheus = Prometheus::new(&queries, &BlockLabels::new("dns://:53", "inside"), &[n(".")], "answers");
    let answers = Answers(|exchange: &mut Exchange<'_>| {
        exchange.reply().rcode = Rcode(exchange.question().qtype.0 & 0xfff);
    });
    let chain = Chain::new(vec![Arc::new(prometheus), Arc::new(answers)]);
    let router = Arc::new(Router::new(vec![Block { zones: vec![n(".")], chain }], false));
    let (mut state, mut out) = (State::default(), [0; 4096]);
    for number in 0..100_000_u32 {
        let name = format!("x{number}.example.");
        let client = Client { remote: SocketAddr::from((number.to_be_bytes(), 9)), ..client("1.1.1.1:1") };
        let packet = packet(&name, Type(number as u16), Some(512));
        let answer = router.answer(&packet, client, Instant::now(), &mut state, &mut out);
        assert!(matches!(answer, Answer::Send(_)));
    }
    let of_view = |family: &MetricFamily| {
        let labels = family.get_metric().iter().flat_map(|metric| metric.get_label());
        labels.filter(|label| label.name() == "view").all(|label| label.value() == "inside")
    };
    assert!(queries.families().iter().all(of_view));
    let samples: usize = queries.families().iter().map(|family| family.get_metric().len()).sum();
    assert_eq!(samples, 20 + 25 + 3, "types, codes, and one of each histogram");
}

/// The file has the families on the `/metrics` page of CoreDNS 1.15.0 for these directives.
#[test]
fn families_have_the_names_and_help_texts_of_coredns() {
    let printed = include_str!("coredns-1.15.0.txt");
    for metric in Queries::METRICS {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        let (name, help) = (metric.name, metric.help);
        let header = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        assert!(printed.contains(&header), "{header}");
    }
}
