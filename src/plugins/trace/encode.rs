//! The bodies of requests to collectors.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use super::config::CollectorKind;
use super::span::TraceSpan;

/// What all spans of this server have in common.
pub(super) struct TracedService {
    pub(super) kind: CollectorKind,
    pub(super) name: String,
    /// The address of this server, if the block listens on one.
    pub(super) address: Option<SocketAddr>,
    pub(super) analytics_rate: f64,
}

/// A span of Zipkin (<https://zipkin.io/zipkin-api>, version 2).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    debug: bool,
    /// Microseconds since 1970.
    timestamp: u64,
    /// Microseconds, at least one.
    duration: u64,
    local_endpoint: ZipkinEndpoint<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<ZipkinAnnotation>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinEndpoint<'a> {
    service_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Serialize)]
struct ZipkinAnnotation {
    timestamp: u64,
    value: String,
}

/// A span of Datadog's agent (`/v0.4/traces`).
#[derive(Serialize)]
struct DatadogSpan<'a> {
    service: &'a str,
    name: &'static str,
    resource: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    trace_id: u64,
    span_id: u64,
    parent_id: u64,
    /// Nanoseconds since 1970.
    start: u64,
    duration: u64,
    error: i32,
    meta: BTreeMap<&'static str, &'a str>,
    metrics: BTreeMap<&'static str, f64>,
}

impl TracedService {
    /// Returns the body of a request with these spans.
    pub(super) fn encode(&self, spans: &[TraceSpan]) -> Vec<u8> {
        let body = match self.kind {
            CollectorKind::Zipkin => {
                let spans: Vec<_> = spans.iter().map(|span| self.zipkin(span)).collect();
                serde_json::to_vec(&spans)
            }
            // Datadog's traces have the span of the query only, as in CoreDNS.
            CollectorKind::Datadog => {
                let queries = spans.iter().filter(|span| span.is_query);
                let traces: Vec<_> = queries.map(|span| [self.datadog(span)]).collect();
                serde_json::to_vec(&traces)
            }
        };
        body.expect("spans are valid JSON")
    }

    fn zipkin<'a>(&'a self, span: &'a TraceSpan) -> ZipkinSpan<'a> {
        let hex = |id: u64| format!("{id:016x}");
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let ip = self.address.map(|address| address.ip().to_canonical());
        let mut tags: BTreeMap<&str, &str> = span.tags.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if span.error.is_some() {
            tags.insert("error", "true");
        }
        let timestamp = micros(span.start + span.duration);
        let annotations = span.error.iter().flat_map(|error| {
            let values = ["event:error".to_owned(), format!("error.object:{error}")];
            values.map(|value| ZipkinAnnotation { timestamp, value })
        });
        ZipkinSpan {
            trace_id: trace_text(span.trace),
            id: hex(span.id),
            parent_id: span.parent.map(hex),
            name: span.name,
            kind: span.is_query.then_some("SERVER"),
            shared: span.is_shared,
            debug: span.is_debug,
            timestamp: micros(span.start),
            duration: micros(span.duration).max(1),
            local_endpoint: ZipkinEndpoint {
                service_name: &self.name,
                ipv4: ip.filter(|ip| ip.is_ipv4()).map(|ip| ip.to_string()),
                ipv6: ip.filter(|ip| ip.is_ipv6()).map(|ip| ip.to_string()),
                port: self.address.map(|address| address.port()),
            },
            annotations: annotations.collect(),
            tags,
        }
    }

    fn datadog<'a>(&'a self, span: &'a TraceSpan) -> DatadogSpan<'a> {
        let nanos = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut meta: BTreeMap<&str, &str> =
            span.tags.iter().map(|(name, value)| (datadog_tag(name), value.as_str())).collect();
        if let Some(error) = &span.error {
            meta.extend([("error.message", error.as_str()), ("error.type", "dns_error")]);
        }
        let mut metrics = BTreeMap::from([("_sampling_priority_v1", 1.0)]);
        if self.analytics_rate > 0.0 {
            metrics.insert("_dd1.sr.eausr", self.analytics_rate);
        }
        DatadogSpan {
            service: &self.name,
            name: span.name,
            resource: span.name,
            kind: "dns",
            // The agent's IDs have 64 bits, as those of traces that begin here.
            trace_id: span.trace as u64,
            span_id: span.id,
            parent_id: 0,
            start: nanos(span.start),
            duration: nanos(span.duration),
            error: span.error.is_some().into(),
            meta,
            metrics,
        }
    }
}

/// Returns the ID of a trace as text, of 64 bits if it fits.
pub(super) fn trace_text(id: u128) -> String {
    if id >> 64 == 0 { format!("{id:016x}") } else { format!("{id:032x}") }
}

/// Returns the name that a tag has at Datadog.
fn datadog_tag(name: &'static str) -> &'static str {
    match name {
        "coredns.io/name" => "coredns.io@name",
        "coredns.io/type" => "coredns.io@type",
        "coredns.io/rcode" => "coredns.io@rcode",
        "coredns.io/proto" => "coredns.io@proto",
        "coredns.io/remote" => "coredns.io@remote",
        other => other,
    }
}
