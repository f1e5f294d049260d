//! The configuration of *trace* (CoreDNS `plugin/trace/setup.go`).

use std::time::Duration;

use crate::corefile::{Arguments, Directive};
use crate::plugins::Context;

/// The properties.
const PROPERTIES: [&str; 7] = [
    "every",
    "service",
    "client_server",
    "datadog_analytics_rate",
    "zipkin_max_backlog_size",
    "zipkin_max_batch_size",
    "zipkin_max_batch_interval",
];
/// The values of `client_server`, as Go's `strconv.ParseBool` reads them.
const SWITCHES: [(&str, bool); 12] = [
    ("true", true),
    ("false", false),
    ("1", true),
    ("t", true),
    ("T", true),
    ("TRUE", true),
    ("True", true),
    ("0", false),
    ("f", false),
    ("F", false),
    ("FALSE", false),
    ("False", false),
];

/// The configuration of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceConfig {
    /// The protocol of the collector.
    pub kind: CollectorKind,
    /// The URL to which spans are sent.
    pub url: String,
    /// One query of this number is traced; 0 traces none.
    pub every: u64,
    /// The name of this service in spans.
    pub service: String,
    /// The span of a query has the ID that the client gives it (`client_server`).
    pub shares_spans: bool,
    /// The rate of analysed traces of Datadog.
    pub analytics_rate: f64,
    /// The most spans that wait for the collector.
    pub backlog: usize,
    /// The number of spans that are sent together.
    pub batch: usize,
    /// The time after which fewer spans are sent.
    pub interval: Duration,
}

/// The protocol of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectorKind {
    /// Zipkin's JSON, version 2.
    Zipkin,
    /// The traces of Datadog's agent.
    Datadog,
}

impl CollectorKind {
    /// Returns the URL of a collector; `endpoint` may be empty.
    fn url(self, endpoint: &str) -> String {
        let lower = endpoint.to_ascii_lowercase();
        match self {
            CollectorKind::Zipkin if lower.starts_with("http://") || lower.starts_with("https://") => {
                endpoint.to_owned()
            }
            CollectorKind::Zipkin if endpoint.is_empty() => CollectorKind::Zipkin.url("localhost:9411"),
            CollectorKind::Zipkin => format!("http://{endpoint}/api/v2/spans"),
            CollectorKind::Datadog if endpoint.is_empty() => CollectorKind::Datadog.url("localhost:8126"),
            CollectorKind::Datadog => format!("http://{endpoint}/v0.4/traces"),
        }
    }
}

/// Parses the stanzas, of which the last one names the collector; returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<TraceConfig> {
    let errors = context.diagnostics.has_errors();
    let mut config = TraceConfig {
        kind: CollectorKind::Zipkin,
        url: String::new(),
        every: 1,
        service: "coredns".to_owned(),
        shares_spans: false,
        analytics_rate: 0.0,
        backlog: 1_000,
        batch: 100,
        interval: Duration::from_secs(1),
    };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        config.kind = CollectorKind::Zipkin;
        if line.remaining() > 1 {
            config.kind = line
                .parse("'zipkin' or 'datadog'", |text| match text.to_ascii_lowercase().as_str() {
                    "zipkin" => Ok(CollectorKind::Zipkin),
                    "datadog" => Ok(CollectorKind::Datadog),
                    other => Err(format!("tracing endpoint type '{other}' is not supported")),
                })
                .unwrap_or(config.kind);
        }
        let endpoint = line.next_word();
        config.url = config.kind.url(endpoint.map_or("", |word| &word.text));
        let is_valid = config.url.parse::<http::Uri>().is_ok_and(|url| url.host().is_some());
        if let Some(word) = endpoint.filter(|_| !is_valid) {
            line.error_expected(word, format!("invalid address '{}'", word.text), "HOST:PORT or a URL");
        }
        for property in line.body() {
            let mut inner = line.enter(property);
            parse_property(&mut inner, &mut config);
            inner.finish();
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

fn parse_property(line: &mut Arguments<'_, '_>, config: &mut TraceConfig) {
    match line.name() {
        "every" => config.every = line.number(0..=u64::MAX).unwrap_or(1),
        "service" => {
            if let Some(word) = line.word("a name") {
                config.service = word.text.clone();
            }
        }
        "client_server" => config.shares_spans = !line.more() || line.one_of(&SWITCHES).unwrap_or(false),
        "datadog_analytics_rate" => {
            if line.more() {
                let rate = line.parse("a number from 0 to 1", |text| {
                    text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate)).ok_or(format!("invalid rate '{text}'"))
                });
                config.analytics_rate = rate.unwrap_or(0.0);
            }
        }
        // 0 is the default, as in CoreDNS.
        "zipkin_max_backlog_size" => config.backlog = line.number(0..=1_000_000).filter(|&n| n > 0).unwrap_or(1_000),
        "zipkin_max_batch_size" => config.batch = line.number(0..=100_000).filter(|&n| n > 0).unwrap_or(100),
        "zipkin_max_batch_interval" => {
            let default = Duration::from_secs(1);
            config.interval = line.duration().filter(|time| !time.is_zero()).unwrap_or(default);
        }
        _ => line.unknown(PROPERTIES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn every_form_is_parsed() {
        for (lines, kind, url) in [
            ("trace", CollectorKind::Zipkin, "http://localhost:9411/api/v2/spans"),
            ("trace host:9253", CollectorKind::Zipkin, "http://host:9253/api/v2/spans"),
            ("trace zipkin host:1", CollectorKind::Zipkin, "http://host:1/api/v2/spans"),
            ("trace HTTP://host:1/a", CollectorKind::Zipkin, "HTTP://host:1/a"),
            ("trace zipkin https://host/a", CollectorKind::Zipkin, "https://host/a"),
            ("trace DataDog host:8126", CollectorKind::Datadog, "http://host:8126/v0.4/traces"),
        ] {
            let config = config(lines, parse);
            assert_eq!((config.kind, config.url.as_str(), config.every), (kind, url, 1), "{lines}");
            assert_eq!((config.backlog, config.batch, config.interval), (1_000, 100, Duration::from_secs(1)));
        }
        let lines = "trace {\n every 100\n service x\n client_server\n client_server false\n datadog_analytics_rate 0.5\n \
                     zipkin_max_backlog_size 5\n zipkin_max_batch_size 6\n zipkin_max_batch_interval 50ms\n}";
        let parsed = config(lines, parse);
        assert_eq!((parsed.every, parsed.service.as_str(), parsed.analytics_rate), (100, "x", 0.5));
        assert_eq!((parsed.backlog, parsed.batch, parsed.interval), (5, 6, Duration::from_millis(50)));
        for (lines, shares_spans) in [
            (lines, false),
            ("trace", false),
            ("trace {\n client_server\n}", true),
            ("trace {\n client_server T\n}", true),
            ("trace {\n client_server\n client_server 0\n}", false),
        ] {
            assert_eq!(config(lines, parse).shares_spans, shares_spans, "{lines}");
        }
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for lines in [
            "trace a b c",
            "trace footype localhost:9411",
            "trace zipkin \"not a host\"",
            "trace {\n every\n}",
            "trace {\n every -1\n}",
            "trace {\n every 1 2\n}",
            "trace {\n service\n}",
            "trace {\n client_server dont\n}",
            "trace {\n datadog_analytics_rate 2\n}",
            "trace {\n datadog_analytics_rate x\n}",
            "trace {\n zipkin_max_backlog_size x\n}",
            "trace {\n zipkin_max_batch_interval 5\n}",
            "trace {\n nothing\n}",
        ] {
            assert_eq!(read(lines, parse).0, None, "{lines}");
        }
    }
}
