//! The table of metrics: names, help texts, labels and buckets. They are CoreDNS's where the meaning is the same.

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// The help text; CoreDNS's where it has the metric.
    pub help: &'static str,
    /// The type.
    pub kind: MetricKind,
    /// The names of the labels, in alphabetical order, as they are printed.
    pub labels: &'static [&'static str],
}

/// The type of a metric.
#[derive(Debug)]
pub enum MetricKind {
    /// A number that only increases.
    Counter,
    /// A number.
    Gauge,
    /// Counts of values by these upper bounds.
    Histogram(&'static [f64]),
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, help, kind: MetricKind::Counter, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, help, kind: MetricKind::Gauge, labels }
}

const fn histogram(
    name: &'static str, help: &'static str, bounds: &'static [f64], labels: &'static [&'static str],
) -> Metric {
    Metric { name, help, kind: MetricKind::Histogram(bounds), labels }
}

/// CoreDNS `plugin.TimeBuckets`, in seconds: powers of two times a quarter of a millisecond.
pub const TIME_BOUNDS: &[f64; 16] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
];
/// CoreDNS `plugin.SlimTimeBuckets`, in seconds.
pub const SLIM_TIME_BOUNDS: &[f64; 5] = &[0.00025, 0.0025, 0.025, 0.25, 2.5];
/// Sizes of messages in bytes (CoreDNS `plugin/metrics/vars`).
pub const SIZE_BOUNDS: &[f64; 14] =
    &[0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16_000.0, 32_000.0, 48_000.0, 64_000.0];

/// The limit of virtual memory.
pub const PROCESS_VIRTUAL_MAX: Metric =
    gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", &[]);
/// Bytes received in the network namespace, which is that of the Pod.
pub const PROCESS_RECEIVED: Metric =
    counter("process_network_receive_bytes_total", "Number of bytes received by the process over the network.", &[]);
/// Bytes sent in the network namespace.
pub const PROCESS_SENT: Metric =
    counter("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network.", &[]);
/// The memory limit of the control group, which is that of the container.
pub const MEMORY_LIMIT: Metric =
    gauge("clusterdns_memory_limit_bytes", "Memory limit of the control group of the process in bytes.", &[]);
/// Lines that the log could not take.
pub const LOG_DROPPED: Metric = counter(
    "clusterdns_log_dropped_lines_total",
    "Log lines that were dropped because standard output is read too slowly.",
    &[],
);
/// When the certificates of listeners expire, by file.
pub const CERTIFICATE_EXPIRY: Metric = gauge(
    "clusterdns_tls_certificate_expiry_timestamp_seconds",
    "When the certificate that a listener uses expires, in seconds since 1970.",
    &["certificate"],
);
/// Entries of *hosts*, by file.
pub const HOSTS_ENTRIES: Metric =
    gauge("coredns_hosts_entries", "The combined number of entries in hosts and Corefile.", &["hostsfile"]);
/// The modification time of the hosts file that was read last.
pub const HOSTS_RELOAD: Metric =
    gauge("coredns_hosts_reload_timestamp_seconds", "The timestamp of the last reload of hosts file.", &[]);
/// Responses that *dns64* has translated.
pub const DNS64_TRANSLATED: Metric =
    counter("coredns_dns64_requests_translated_total", "Counter of DNS requests translated by dns64.", &["server"]);
/// Queries that *autopath* has answered for another name of the client's search list.
pub const AUTOPATH_SUCCESS: Metric =
    counter("coredns_autopath_success_total", "Counter of requests that did autopath.", &["server"]);
/// Responses that *siit* has translated.
pub const SIIT_TRANSLATED: Metric =
    counter("coredns_siit_requests_translated_total", "Counter of DNS requests translated by siit.", &["server"]);
/// Queries of *local* for names with more labels than `localhost`.
pub const LOCALHOST_REQUESTS: Metric =
    counter("coredns_local_localhost_requests_total", "Counter of special localhost subdomain requests.", &[]);
/// Messages that *dnstap* has dropped.
pub const DNSTAP_DROPPED: Metric = counter(
    "clusterdns_dnstap_dropped_total",
    "Number of dnstap messages that were dropped because their reader was away or slow.",
    &[],
);
/// Spans that *trace* has dropped.
pub const TRACE_DROPPED: Metric = counter(
    "clusterdns_trace_dropped_total",
    "Number of spans that were dropped because their collector was away or slow.",
    &[],
);
/// This build.
pub const BUILD_INFO: Metric = gauge(
    "coredns_build_info",
    "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.",
    &["goversion", "revision", "version"],
);
/// Panics in plugins.
pub const PANICS: Metric = counter("coredns_panics_total", "A metrics that counts the number of panics.", &[]);
/// Connections that were closed at a limit, in favour of another.
pub const CONNECTIONS_EVICTED: Metric = counter(
    "clusterdns_connections_evicted_total",
    "Client connections that were closed because a limit was reached, in favour of a new one.",
    &[],
);
/// Connections that were refused at a limit.
pub const CONNECTIONS_REFUSED: Metric = counter(
    "clusterdns_connections_refused_total",
    "Client connections that were closed as soon as they were accepted, because a limit was reached.",
    &[],
);
/// Pending queries, and requests that had come in part, that lost their permits.
pub const PENDING_SHED: Metric = counter(
    "clusterdns_pending_shed_total",
    "Pending queries that were answered at once because a limit was reached, in favour of a new one.",
    &[],
);
/// The plugins of each server block.
pub const PLUGIN_ENABLED: Metric = gauge(
    "coredns_plugin_enabled",
    "A metric that indicates whether a plugin is enabled on per server and zone basis.",
    &["name", "server", "view", "zone"],
);
/// Queries.
pub const REQUESTS: Metric = counter(
    "coredns_dns_requests_total",
    "Counter of DNS requests made per zone, protocol and family.",
    &["family", "proto", "server", "type", "view", "zone"],
);
/// Time to respond.
pub const REQUEST_DURATION: Metric = histogram(
    "coredns_dns_request_duration_seconds",
    "Histogram of the time (in seconds) each request took per zone.",
    TIME_BOUNDS,
    &["server", "view", "zone"],
);
/// Sizes of queries. The help text is CoreDNS's, although CoreDNS counts the bytes of the message, too.
pub const REQUEST_SIZE: Metric = histogram(
    "coredns_dns_request_size_bytes",
    "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
    SIZE_BOUNDS,
    &["proto", "server", "view", "zone"],
);
/// Queries with the DO bit.
pub const DO_REQUESTS: Metric = counter(
    "coredns_dns_do_requests_total",
    "Counter of DNS requests with DO bit set per zone.",
    &["server", "view", "zone"],
);
/// Sizes of responses.
pub const RESPONSE_SIZE: Metric = histogram(
    "coredns_dns_response_size_bytes",
    "Size of the returned response in bytes.",
    SIZE_BOUNDS,
    &["proto", "server", "view", "zone"],
);
/// Responses by code.
pub const RESPONSES: Metric = counter(
    "coredns_dns_responses_total",
    "Counter of response status codes.",
    &["plugin", "rcode", "server", "view", "zone"],
);
/// Responses of DNS over HTTPS by status.
pub const HTTPS_RESPONSES: Metric = counter(
    "coredns_dns_https_responses_total",
    "Counter of DoH responses per server and http status code.",
    &["server", "status"],
);
/// Responses of DNS over HTTP/3 by status.
pub const HTTPS3_RESPONSES: Metric = counter(
    "coredns_dns_https3_responses_total",
    "Counter of DoH3 responses per server and http status code.",
    &["server", "status"],
);
/// Streams of DNS over QUIC by the code that ended them.
pub const QUIC_RESPONSES: Metric = counter(
    "coredns_dns_quic_responses_total",
    "Counter of DoQ responses per server and QUIC application code.",
    &["server", "status"],
);
/// Duration of the server's own requests for `/health`.
pub const HEALTH_DURATION: Metric = histogram(
    "coredns_health_request_duration_seconds",
    "Histogram of the time (in seconds) each request took.",
    SLIM_TIME_BOUNDS,
    &[],
);
/// The server's own requests for `/health` that failed.
pub const HEALTH_FAILURES: Metric =
    counter("coredns_health_request_failures_total", "The number of times the health check failed.", &[]);

/// Prometheus's own buckets for seconds (client_golang `DefBuckets`).
pub const DEFAULT_BOUNDS: &[f64; 11] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Powers of two milliseconds, up to nine minutes (CoreDNS plugin/kubernetes/object/metrics.go).
pub const PROGRAMMING_BOUNDS: &[f64; 20] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768,
    65.536, 131.072, 262.144, 524.288,
];

/// Time from a change of endpoints until answers contain it.
pub const PROGRAMMING: Metric = histogram(
    "coredns_kubernetes_dns_programming_duration_seconds",
    "Histogram of the time (in seconds) it took to program a dns instance.",
    PROGRAMMING_BOUNDS,
    &["service_kind"],
);
/// Time until the API server responded to a list.
pub const API_DURATION: Metric = histogram(
    "coredns_kubernetes_rest_client_request_duration_seconds",
    "Request latency in seconds. Broken down by verb and host.",
    DEFAULT_BOUNDS,
    &["host", "verb"],
);
/// Time that lists waited for the rate limits.
pub const API_WAIT: Metric = histogram(
    "coredns_kubernetes_rest_client_rate_limiter_duration_seconds",
    "Client side rate limiter latency in seconds. Broken down by verb and host.",
    DEFAULT_BOUNDS,
    &["host", "verb"],
);
/// Requests to the API server.
pub const API_REQUESTS: Metric = counter(
    "coredns_kubernetes_rest_client_requests_total",
    "Number of HTTP requests, partitioned by status code, method, and host.",
    &["code", "host", "method"],
);
/// Kinds that are synced.
pub const SYNCED: Metric =
    gauge("clusterdns_kubernetes_synced", "1 once every watch of the kind has received a complete list.", &["kind"]);
/// The age of the last news of a kind.
pub const LAST_SEEN: Metric = gauge(
    "clusterdns_kubernetes_last_seen_age_seconds",
    "Seconds since the API server last sent an event, a bookmark or a list of the kind.",
    &["kind"],
);
/// Objects by kind.
pub const OBJECTS: Metric = gauge("clusterdns_kubernetes_objects", "Objects of the kind in the index.", &["kind"]);
/// Complete lists after the first.
pub const RELISTS: Metric = counter(
    "clusterdns_kubernetes_relists_total",
    "Complete lists of the kind after the first, by reason.",
    &["kind", "reason"],
);
/// Failed lists and watches.
pub const API_ERRORS: Metric = counter(
    "clusterdns_kubernetes_errors_total",
    "Failed lists and watches of the kind, by reason.",
    &["kind", "reason"],
);
/// Objects that could not be decoded.
pub const BAD_OBJECTS: Metric =
    counter("clusterdns_kubernetes_bad_objects_total", "Objects of the kind that could not be decoded.", &["kind"]);
/// Invalid values in objects that are served without them.
pub const BAD_VALUES: Metric = counter(
    "clusterdns_kubernetes_bad_values_total",
    "Invalid values that were ignored in objects of the kind.",
    &["kind"],
);
/// Cache entries.
pub const CACHE_ENTRIES: Metric =
    gauge("coredns_cache_entries", "The number of elements in the cache.", &["server", "type", "view", "zones"]);
/// Queries that reached a cache.
pub const CACHE_REQUESTS: Metric =
    counter("coredns_cache_requests_total", "The count of cache requests.", &["server", "view", "zones"]);
/// Cache hits.
pub const CACHE_HITS: Metric =
    counter("coredns_cache_hits_total", "The count of cache hits.", &["server", "type", "view", "zones"]);
/// Cache misses.
pub const CACHE_MISSES: Metric = counter(
    "coredns_cache_misses_total",
    "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
    &["server", "view", "zones"],
);
/// Entries that were prefetched.
pub const CACHE_PREFETCHES: Metric = counter(
    "coredns_cache_prefetch_total",
    "The number of times the cache has prefetched a cached item.",
    &["server", "view", "zones"],
);
/// Replies that could not be cached.
pub const CACHE_DROPS: Metric = counter(
    "coredns_cache_drops_total",
    "The number responses that are not cached, because the reply is malformed.",
    &["server", "view", "zones"],
);
/// Answers from expired entries.
pub const CACHE_SERVED_STALE: Metric = counter(
    "coredns_cache_served_stale_total",
    "The number of requests served from stale cache entries.",
    &["server", "view", "zones"],
);
/// Evicted entries.
pub const CACHE_EVICTIONS: Metric =
    counter("coredns_cache_evictions_total", "The count of cache evictions.", &["server", "type", "view", "zones"]);

/// Time until an upstream responded.
pub const PROXY_DURATION: Metric = histogram(
    "coredns_proxy_request_duration_seconds",
    "Histogram of the time each request took.",
    TIME_BOUNDS,
    &["proxy_name", "rcode", "to"],
);
/// Failed health checks of upstreams.
pub const PROXY_CHECKS_FAILED: Metric = counter(
    "coredns_proxy_healthcheck_failures_total",
    "Counter of the number of failed healthchecks.",
    &["proxy_name", "to"],
);
/// Queries over connections to upstreams that were already open.
pub const PROXY_REUSED: Metric = counter(
    "coredns_proxy_conn_cache_hits_total",
    "Counter of connection cache hits per upstream and protocol.",
    &["proto", "proxy_name", "to"],
);
/// Connections to upstreams that were opened.
pub const PROXY_OPENED: Metric = counter(
    "coredns_proxy_conn_cache_misses_total",
    "Counter of connection cache misses per upstream and protocol.",
    &["proto", "proxy_name", "to"],
);
/// Responses of upstreams over gRPC.
pub const GRPC_REQUESTS: Metric =
    counter("coredns_grpc_requests_total", "Counter of requests made per upstream.", &["to"]);
/// Responses of upstreams over gRPC by code. The help text is CoreDNS's.
pub const GRPC_RESPONSES: Metric =
    counter("coredns_grpc_responses_total", "Counter of requests made per upstream.", &["rcode", "to"]);
/// Time until an upstream responded over gRPC.
pub const GRPC_DURATION: Metric = histogram(
    "coredns_grpc_request_duration_seconds",
    "Histogram of the time each request took.",
    TIME_BOUNDS,
    &["to"],
);
/// Queries to upstreams, under the name of CoreDNS before 1.11.
pub const FORWARD_REQUESTS: Metric =
    counter("coredns_forward_requests_total", "Counter of requests made per upstream.", &["to"]);
/// Responses of upstreams, under the name of CoreDNS before 1.11.
pub const FORWARD_RESPONSES: Metric =
    counter("coredns_forward_responses_total", "Counter of responses received per upstream.", &["rcode", "to"]);
/// Time until an upstream responded, under the name of CoreDNS before 1.11.
pub const FORWARD_DURATION: Metric = histogram(
    "coredns_forward_request_duration_seconds",
    "Histogram of the time each request took.",
    TIME_BOUNDS,
    &["rcode", "to"],
);
/// Failed health checks, under the name of CoreDNS before 1.11.
pub const FORWARD_CHECKS_FAILED: Metric =
    counter("coredns_forward_healthcheck_failures_total", "Counter of the number of failed healthchecks.", &["to"]);
/// Queries that found all upstreams unhealthy.
pub const FORWARD_BROKEN: Metric = counter(
    "coredns_forward_healthcheck_broken_total",
    "Counter of the number of complete failures of the healthchecks.",
    &[],
);
/// Queries over the limit `max_concurrent`.
pub const FORWARD_REJECTS: Metric = counter(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
    &[],
);
/// Queries over a limit of *forward*.
pub const FORWARD_SHED: Metric = counter(
    "clusterdns_forward_shed_total",
    "Queries that got SERVFAIL because a limit on queries in flight was reached, by reason.",
    &["reason"],
);
/// Datagrams that answer no query in flight.
pub const FORWARD_DROPPED: Metric = counter(
    "clusterdns_forward_dropped_answers_total",
    "Datagrams from upstreams that answered no query in flight, by reason.",
    &["reason", "to"],
);

/// Failed reloads.
pub const RELOAD_FAILED: Metric =
    counter("coredns_reload_failed_total", "Counter of the number of failed reload attempts.", &[]);
/// The digest of the configuration in use.
pub const RELOAD_VERSION: Metric = gauge(
    "coredns_reload_version_info",
    "A metric with a constant '1' value labeled by hash, and value which type of hash generated.",
    &["hash", "value"],
);

/// Queries that *acl* allowed.
pub const ACL_ALLOWED: Metric =
    counter("coredns_acl_allowed_requests_total", "Counter of DNS requests being allowed.", &["server", "view"]);
/// Queries that *acl* refused.
pub const ACL_BLOCKED: Metric = counter(
    "coredns_acl_blocked_requests_total",
    "Counter of DNS requests being blocked.",
    &["server", "view", "zone"],
);
/// Queries that *acl* answered without a record.
pub const ACL_FILTERED: Metric = counter(
    "coredns_acl_filtered_requests_total",
    "Counter of DNS requests being filtered.",
    &["server", "view", "zone"],
);
/// Queries that *acl* dropped.
pub const ACL_DROPPED: Metric = counter(
    "coredns_acl_dropped_requests_total",
    "Counter of DNS requests being dropped.",
    &["server", "view", "zone"],
);

/// Names of the cluster that were denied.
pub const DENIALS: Metric = counter(
    "clusterdns_kubernetes_denials_total",
    "Names of the cluster that were denied (NXDOMAIN or NODATA), by reason.",
    &["reason"],
);
/// Queries that a stanza of *template* matched.
pub const TEMPLATE_MATCHES: Metric = counter(
    "coredns_template_matches_total",
    "Counter of template regex matches.",
    &["class", "server", "type", "view", "zone"],
);
/// Templates that failed.
pub const TEMPLATE_FAILURES: Metric = counter(
    "coredns_template_template_failures_total",
    "Counter of go template failures.",
    &["class", "section", "server", "template", "type", "view", "zone"],
);
/// Templates whose text is not a record.
pub const TEMPLATE_RECORD_FAILURES: Metric = counter(
    "coredns_template_rr_failures_total",
    "Counter of mis-templated RRs.",
    &["class", "section", "server", "template", "type", "view", "zone"],
);

/// The most frequent clients, names and others; only with the flag `-top.metrics`.
pub const TOP_QUERIES: Metric = gauge(
    "clusterdns_top_queries_per_second",
    "Queries per second of the most frequent clients, names and others, over the last minute.",
    &["by", "key", "pod"],
);

/// Every metric of this table, in its order. `process_*` has more, from the library.
pub const ALL: &[&Metric] = &[
    &PROCESS_VIRTUAL_MAX,
    &PROCESS_RECEIVED,
    &PROCESS_SENT,
    &MEMORY_LIMIT,
    &LOG_DROPPED,
    &CERTIFICATE_EXPIRY,
    &HOSTS_ENTRIES,
    &HOSTS_RELOAD,
    &DNS64_TRANSLATED,
    &AUTOPATH_SUCCESS,
    &SIIT_TRANSLATED,
    &LOCALHOST_REQUESTS,
    &DNSTAP_DROPPED,
    &TRACE_DROPPED,
    &BUILD_INFO,
    &PANICS,
    &CONNECTIONS_EVICTED,
    &CONNECTIONS_REFUSED,
    &PENDING_SHED,
    &PLUGIN_ENABLED,
    &REQUESTS,
    &REQUEST_DURATION,
    &REQUEST_SIZE,
    &DO_REQUESTS,
    &RESPONSE_SIZE,
    &RESPONSES,
    &HTTPS_RESPONSES,
    &HTTPS3_RESPONSES,
    &QUIC_RESPONSES,
    &HEALTH_DURATION,
    &HEALTH_FAILURES,
    &PROGRAMMING,
    &API_DURATION,
    &API_WAIT,
    &API_REQUESTS,
    &SYNCED,
    &LAST_SEEN,
    &OBJECTS,
    &RELISTS,
    &API_ERRORS,
    &BAD_OBJECTS,
    &BAD_VALUES,
    &CACHE_ENTRIES,
    &CACHE_REQUESTS,
    &CACHE_HITS,
    &CACHE_MISSES,
    &CACHE_PREFETCHES,
    &CACHE_DROPS,
    &CACHE_SERVED_STALE,
    &CACHE_EVICTIONS,
    &PROXY_DURATION,
    &PROXY_CHECKS_FAILED,
    &PROXY_REUSED,
    &PROXY_OPENED,
    &GRPC_REQUESTS,
    &GRPC_RESPONSES,
    &GRPC_DURATION,
    &FORWARD_REQUESTS,
    &FORWARD_RESPONSES,
    &FORWARD_DURATION,
    &FORWARD_CHECKS_FAILED,
    &FORWARD_BROKEN,
    &FORWARD_REJECTS,
    &FORWARD_SHED,
    &FORWARD_DROPPED,
    &RELOAD_FAILED,
    &RELOAD_VERSION,
    &ACL_ALLOWED,
    &ACL_BLOCKED,
    &ACL_FILTERED,
    &ACL_DROPPED,
    &DENIALS,
    &TEMPLATE_MATCHES,
    &TEMPLATE_FAILURES,
    &TEMPLATE_RECORD_FAILURES,
    &TOP_QUERIES,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A metric that is defined but not listed in [`ALL`] would be neither checked nor documented.
    #[test]
    fn every_metric_is_listed() {
        let defined = include_str!("table.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": Metric ="));
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), ALL.len()), (defined.count(), names.len()));
    }

    #[test]
    fn names_and_labels_follow_prometheus_conventions() {
        for metric in ALL {
            // The prefix shows whether CoreDNS has the metric as well.
            let prefixes = ["coredns_", "clusterdns_", "process_"];
            assert!(prefixes.iter().any(|prefix| metric.name.starts_with(prefix)), "{metric:?}");
            assert_eq!(metric.name.ends_with("_total"), matches!(metric.kind, MetricKind::Counter), "{metric:?}");
            assert!(metric.labels.is_sorted() && !metric.help.is_empty(), "{metric:?}");
            if let MetricKind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted_by(|one, other| one < other), "{metric:?}");
            }
            // Panics if the name or a label is invalid.
            let _ = metric.desc();
        }
    }
}
