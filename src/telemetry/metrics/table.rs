//! The one table of metrics: names, words, labels and buckets, CoreDNS's where the meaning is the same.

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it counts; CoreDNS's words.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, in the order of the alphabet, as they are printed.
    pub labels: &'static [&'static str],
}

/// What a metric is.
#[derive(Debug)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number.
    Gauge,
    /// How many fell below each of these bounds.
    Histogram(&'static [f64]),
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, help, kind: Kind::Counter, labels }
}

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, help, kind: Kind::Gauge, labels }
}

const fn histogram(
    name: &'static str, help: &'static str, bounds: &'static [f64], labels: &'static [&'static str],
) -> Metric {
    Metric { name, help, kind: Kind::Histogram(bounds), labels }
}

/// CoreDNS `plugin.TimeBuckets`, in seconds: a quarter of a millisecond and its doubles.
pub const TIME_BOUNDS: &[f64; 16] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
];
/// CoreDNS `plugin.SlimTimeBuckets`, in seconds.
pub const SLIM_TIME_BOUNDS: &[f64; 5] = &[0.00025, 0.0025, 0.025, 0.25, 2.5];
/// Of messages, in octets (CoreDNS `plugin/metrics/vars`).
pub const SIZE_BOUNDS: &[f64; 14] =
    &[0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16_000.0, 32_000.0, 48_000.0, 64_000.0];

/// How much address space the process may have.
pub const PROCESS_VIRTUAL_MAX: Metric =
    gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes.", &[]);
/// What has come over the network, to every process of the Pod.
pub const PROCESS_RECEIVED: Metric =
    counter("process_network_receive_bytes_total", "Number of bytes received by the process over the network.", &[]);
/// What has gone out, likewise.
pub const PROCESS_SENT: Metric =
    counter("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network.", &[]);
/// Entries of *hosts*, by file.
pub const HOSTS_ENTRIES: Metric =
    gauge("coredns_hosts_entries", "The combined number of entries in hosts and Corefile.", &["hostsfile"]);
/// When the file of *hosts* that was read last was written.
pub const HOSTS_RELOAD: Metric =
    gauge("coredns_hosts_reload_timestamp_seconds", "The timestamp of the last reload of hosts file.", &[]);
/// Answers that *dns64* has made.
pub const DNS64_TRANSLATED: Metric =
    counter("coredns_dns64_requests_translated_total", "Counter of DNS requests translated by dns64.", &["server"]);
/// What *local* has answered below `localhost`, and above it.
pub const LOCALHOST_REQUESTS: Metric =
    counter("coredns_local_localhost_requests_total", "Counter of special localhost subdomain requests.", &[]);
/// This build.
pub const BUILD_INFO: Metric = gauge(
    "coredns_build_info",
    "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.",
    &["goversion", "revision", "version"],
);
/// Plugins that panicked.
pub const PANICS: Metric = counter("coredns_panics_total", "A metrics that counts the number of panics.", &[]);
/// Which plugins a server block has.
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
/// How long answers took.
pub const REQUEST_DURATION: Metric = histogram(
    "coredns_dns_request_duration_seconds",
    "Histogram of the time (in seconds) each request took per zone.",
    TIME_BOUNDS,
    &["server", "view", "zone"],
);
/// How large queries were. The words are CoreDNS's, though it counts the octets of the message as well.
pub const REQUEST_SIZE: Metric = histogram(
    "coredns_dns_request_size_bytes",
    "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
    SIZE_BOUNDS,
    &["proto", "server", "view", "zone"],
);
/// Queries that want DNSSEC records.
pub const DO_REQUESTS: Metric = counter(
    "coredns_dns_do_requests_total",
    "Counter of DNS requests with DO bit set per zone.",
    &["server", "view", "zone"],
);
/// How large answers were.
pub const RESPONSE_SIZE: Metric = histogram(
    "coredns_dns_response_size_bytes",
    "Size of the returned response in bytes.",
    SIZE_BOUNDS,
    &["proto", "server", "view", "zone"],
);
/// Answers by their code.
pub const RESPONSES: Metric = counter(
    "coredns_dns_responses_total",
    "Counter of response status codes.",
    &["plugin", "rcode", "server", "view", "zone"],
);
/// Requests of DNS over HTTPS by the status that they got.
pub const HTTPS_RESPONSES: Metric = counter(
    "coredns_dns_https_responses_total",
    "Counter of DoH responses per server and http status code.",
    &["server", "status"],
);
/// The same of HTTP/3.
pub const HTTPS3_RESPONSES: Metric = counter(
    "coredns_dns_https3_responses_total",
    "Counter of DoH3 responses per server and http status code.",
    &["server", "status"],
);
/// Streams of DNS over QUIC by the code that they ended with.
pub const QUIC_RESPONSES: Metric = counter(
    "coredns_dns_quic_responses_total",
    "Counter of DoQ responses per server and QUIC application code.",
    &["server", "status"],
);
/// How long `/health` took when this server asked itself.
pub const HEALTH_DURATION: Metric = histogram(
    "coredns_health_request_duration_seconds",
    "Histogram of the time (in seconds) each request took.",
    SLIM_TIME_BOUNDS,
    &[],
);
/// How often it failed.
pub const HEALTH_FAILURES: Metric =
    counter("coredns_health_request_failures_total", "The number of times the health check failed.", &[]);

/// Prometheus's own buckets for seconds (client_golang `DefBuckets`).
pub const DEFAULT_BOUNDS: &[f64; 11] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// From a millisecond to nine minutes, doubling (CoreDNS plugin/kubernetes/object/metrics.go).
pub const PROGRAMMING_BOUNDS: &[f64; 20] = &[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768,
    65.536, 131.072, 262.144, 524.288,
];

/// How long a change of endpoints took to reach the answers.
pub const PROGRAMMING: Metric = histogram(
    "coredns_kubernetes_dns_programming_duration_seconds",
    "Histogram of the time (in seconds) it took to program a dns instance.",
    PROGRAMMING_BOUNDS,
    &["service_kind"],
);
/// How long lists took to be answered.
pub const API_DURATION: Metric = histogram(
    "coredns_kubernetes_rest_client_request_duration_seconds",
    "Request latency in seconds. Broken down by verb and host.",
    DEFAULT_BOUNDS,
    &["host", "verb"],
);
/// How long lists waited for their turn.
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
/// Kinds that are in step.
pub const SYNCED: Metric =
    gauge("clusterdns_kubernetes_synced", "1 once every watch of the kind has had a full list.", &["kind"]);
/// How old the state of a kind may be.
pub const LAST_SEEN: Metric = gauge(
    "clusterdns_kubernetes_last_seen_age_seconds",
    "Seconds since the API server was last heard of, by event, bookmark or list.",
    &["kind"],
);
/// Objects by kind.
pub const OBJECTS: Metric = gauge("clusterdns_kubernetes_objects", "Objects that answers are made of.", &["kind"]);
/// Full lists.
pub const RELISTS: Metric = counter(
    "clusterdns_kubernetes_relists_total",
    "Full lists of a kind after the first, by what made them necessary.",
    &["kind", "reason"],
);
/// Lists and watches that failed.
pub const API_ERRORS: Metric = counter(
    "clusterdns_kubernetes_errors_total",
    "Lists and watches of a kind that failed, by cause.",
    &["kind", "reason"],
);
/// Objects that are of no use.
pub const BAD_OBJECTS: Metric =
    counter("clusterdns_kubernetes_bad_objects_total", "Objects that could not be read.", &["kind"]);
/// Items of caches.
pub const CACHE_ENTRIES: Metric =
    gauge("coredns_cache_entries", "The number of elements in the cache.", &["server", "type", "view", "zones"]);
/// Queries that came to a cache.
pub const CACHE_REQUESTS: Metric =
    counter("coredns_cache_requests_total", "The count of cache requests.", &["server", "view", "zones"]);
/// Those that it had an item for.
pub const CACHE_HITS: Metric =
    counter("coredns_cache_hits_total", "The count of cache hits.", &["server", "type", "view", "zones"]);
/// Those that it had none for.
pub const CACHE_MISSES: Metric = counter(
    "coredns_cache_misses_total",
    "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
    &["server", "view", "zones"],
);
/// Items that were refreshed beside the answers.
pub const CACHE_PREFETCHES: Metric = counter(
    "coredns_cache_prefetch_total",
    "The number of times the cache has prefetched a cached item.",
    &["server", "view", "zones"],
);
/// Replies that could not be kept.
pub const CACHE_DROPS: Metric = counter(
    "coredns_cache_drops_total",
    "The number responses that are not cached, because the reply is malformed.",
    &["server", "view", "zones"],
);
/// Answers from items that had ended.
pub const CACHE_SERVED_STALE: Metric = counter(
    "coredns_cache_served_stale_total",
    "The number of requests served from stale cache entries.",
    &["server", "view", "zones"],
);
/// Items that had to make room.
pub const CACHE_EVICTIONS: Metric =
    counter("coredns_cache_evictions_total", "The count of cache evictions.", &["server", "type", "view", "zones"]);

/// How long other servers took.
pub const PROXY_DURATION: Metric = histogram(
    "coredns_proxy_request_duration_seconds",
    "Histogram of the time each request took.",
    TIME_BOUNDS,
    &["proxy_name", "rcode", "to"],
);
/// Health checks of other servers that failed.
pub const PROXY_CHECKS_FAILED: Metric = counter(
    "coredns_proxy_healthcheck_failures_total",
    "Counter of the number of failed healthchecks.",
    &["proxy_name", "to"],
);
/// Connections to other servers that were there already.
pub const PROXY_KEPT: Metric = counter(
    "coredns_proxy_conn_cache_hits_total",
    "Counter of connection cache hits per upstream and protocol.",
    &["proto", "proxy_name", "to"],
);
/// Connections to other servers that had to be made.
pub const PROXY_OPENED: Metric = counter(
    "coredns_proxy_conn_cache_misses_total",
    "Counter of connection cache misses per upstream and protocol.",
    &["proto", "proxy_name", "to"],
);
/// Queries to other servers, under the name of CoreDNS before 1.11.
pub const FORWARD_REQUESTS: Metric =
    counter("coredns_forward_requests_total", "Counter of requests made per upstream.", &["to"]);
/// Their answers, likewise.
pub const FORWARD_RESPONSES: Metric =
    counter("coredns_forward_responses_total", "Counter of responses received per upstream.", &["rcode", "to"]);
/// How long they took, likewise.
pub const FORWARD_DURATION: Metric = histogram(
    "coredns_forward_request_duration_seconds",
    "Histogram of the time each request took.",
    TIME_BOUNDS,
    &["rcode", "to"],
);
/// Health checks that failed, likewise.
pub const FORWARD_CHECKS_FAILED: Metric =
    counter("coredns_forward_healthcheck_failures_total", "Counter of the number of failed healthchecks.", &["to"]);
/// Every server of a stanza was down.
pub const FORWARD_BROKEN: Metric = counter(
    "coredns_forward_healthcheck_broken_total",
    "Counter of the number of complete failures of the healthchecks.",
    &[],
);
/// Queries past `max_concurrent`.
pub const FORWARD_REJECTS: Metric = counter(
    "coredns_forward_max_concurrent_rejects_total",
    "Counter of the number of queries rejected because the concurrent queries were at maximum.",
    &[],
);
/// Queries that found no place.
pub const FORWARD_SHED: Metric =
    counter("clusterdns_forward_shed_total", "Queries that were not forwarded since too many waited.", &["reason"]);
/// Datagrams that were nobody's answer.
pub const FORWARD_DROPPED: Metric = counter(
    "clusterdns_forward_dropped_answers_total",
    "Datagrams from upstreams that answered nothing that was asked: late or forged.",
    &["reason", "to"],
);

/// Configurations that failed while another served.
pub const RELOAD_FAILED: Metric =
    counter("coredns_reload_failed_total", "Counter of the number of failed reload attempts.", &[]);
/// The configuration that was loaded last.
pub const RELOAD_VERSION: Metric = gauge(
    "coredns_reload_version_info",
    "A metric with a constant '1' value labeled by hash, and value which type of hash generated.",
    &["hash", "value"],
);

/// Queries that *acl* let pass.
pub const ACL_ALLOWED: Metric =
    counter("coredns_acl_allowed_requests_total", "Counter of DNS requests being allowed.", &["server", "view"]);
/// Queries that it refused.
pub const ACL_BLOCKED: Metric = counter(
    "coredns_acl_blocked_requests_total",
    "Counter of DNS requests being blocked.",
    &["server", "view", "zone"],
);
/// Queries that it answered without a record.
pub const ACL_FILTERED: Metric = counter(
    "coredns_acl_filtered_requests_total",
    "Counter of DNS requests being filtered.",
    &["server", "view", "zone"],
);
/// Queries that it dropped.
pub const ACL_DROPPED: Metric = counter(
    "coredns_acl_dropped_requests_total",
    "Counter of DNS requests being dropped.",
    &["server", "view", "zone"],
);

/// Queries that a template matched.
pub const TEMPLATE_MATCHES: Metric = counter(
    "coredns_template_matches_total",
    "Counter of template regex matches.",
    &["class", "server", "type", "view", "zone"],
);
/// Queries whose template failed.
pub const TEMPLATE_FAILURES: Metric = counter(
    "coredns_template_template_failures_total",
    "Counter of go template failures.",
    &["class", "section", "server", "template", "type", "view", "zone"],
);
/// Queries whose template wrote no record.
pub const TEMPLATE_RECORD_FAILURES: Metric = counter(
    "coredns_template_rr_failures_total",
    "Counter of mis-templated RRs.",
    &["class", "section", "server", "template", "type", "view", "zone"],
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of the table.
    const ALL: &[&Metric] = &[
        &BUILD_INFO,
        &PANICS,
        &PLUGIN_ENABLED,
        &REQUESTS,
        &REQUEST_DURATION,
        &REQUEST_SIZE,
        &DO_REQUESTS,
        &RESPONSE_SIZE,
        &RESPONSES,
        &HOSTS_ENTRIES,
        &HOSTS_RELOAD,
        &LOCALHOST_REQUESTS,
        &DNS64_TRANSLATED,
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
        &PROXY_DURATION,
        &PROXY_CHECKS_FAILED,
        &PROXY_KEPT,
        &PROXY_OPENED,
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
        &CACHE_ENTRIES,
        &CACHE_REQUESTS,
        &CACHE_HITS,
        &CACHE_MISSES,
        &CACHE_PREFETCHES,
        &CACHE_DROPS,
        &CACHE_SERVED_STALE,
        &CACHE_EVICTIONS,
        &TEMPLATE_MATCHES,
        &TEMPLATE_FAILURES,
        &TEMPLATE_RECORD_FAILURES,
    ];

    #[test]
    fn names_and_labels_are_as_prometheus_wants_them() {
        for metric in ALL {
            // What CoreDNS has not is told from what it has.
            assert!(metric.name.starts_with("coredns_") || metric.name.starts_with("clusterdns_"), "{metric:?}");
            assert_eq!(metric.name.ends_with("_total"), matches!(metric.kind, Kind::Counter), "{metric:?}");
            assert!(metric.labels.is_sorted() && !metric.help.is_empty(), "{metric:?}");
            if let Kind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted_by(|one, other| one < other), "{metric:?}");
            }
            // Would panic.
            let _ = metric.desc();
        }
    }
}
