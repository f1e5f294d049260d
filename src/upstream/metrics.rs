//! Metrics of upstreams: those of CoreDNS's *forward* and of its proxies, and our own.
//!
//! A forwarded query adds to cells of its own thread; a scrape sums them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::telemetry::metrics::{Cells, Collected, Family, Metric, MetricFamily, table};
use crate::upstream::group::{DropReason, GroupCounters, ShedReason};
use crate::wire::Rcode;

/// The response codes of a message without an OPT.
const RCODES: usize = 16;
/// Buckets of durations; the last is above all bounds.
const TIMES: usize = table::TIME_BOUNDS.len() + 1;
/// The cells of one code: buckets, and the sum of durations in nanoseconds.
const PER_CODE: usize = TIMES + 1;
/// The cells after those of the codes.
const REUSED: usize = RCODES * PER_CODE;
const OPENED: usize = REUSED + 1;
const NO_QUERY: usize = OPENED + 1;
const OTHER_QUESTION: usize = NO_QUERY + 1;
const ALL: usize = OTHER_QUESTION + 1;
/// The first bound of durations, in nanoseconds; each further one is twice the one before.
const FIRST_TIME: u64 = 250_000;

/// The metrics of one upstream.
pub struct UpstreamMetrics {
    /// The value of the label `to`.
    to: String,
    cells: Cells<ALL>,
    /// Failed health checks.
    checks_failed: AtomicU64,
    /// Exchanges over a connection that was open already, and over a new one.
    streams_reused: AtomicU64,
    streams_opened: AtomicU64,
}

/// The answers of an upstream with one code.
pub struct AnswerCounts {
    /// The code.
    pub rcode: Rcode,
    /// The numbers of answers by the time that they took; the last is above all bounds.
    pub buckets: Vec<u64>,
    /// The sum of these times in seconds.
    pub seconds: f64,
}

impl UpstreamMetrics {
    /// Creates the metrics of an upstream with this label.
    pub fn new(to: &str) -> UpstreamMetrics {
        UpstreamMetrics {
            to: to.to_owned(),
            cells: Cells::default(),
            checks_failed: AtomicU64::new(0),
            streams_reused: AtomicU64::new(0),
            streams_opened: AtomicU64::new(0),
        }
    }

    /// Returns the label.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// Returns the answers by code, without codes that no answer had.
    pub fn answers(&self) -> Vec<AnswerCounts> {
        answers(&self.cells.sums())
    }

    /// Returns whether there was an answer.
    pub(super) fn has_answered(&self) -> bool {
        !self.answers().is_empty()
    }

    /// Returns the number of failed health checks.
    pub fn failed_checks(&self) -> u64 {
        self.checks_failed.load(Ordering::Relaxed)
    }

    /// Records an answer and the time since its query was sent.
    pub fn record_answer(&self, rcode: Rcode, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = usize::from(rcode.0 & 0x0f) * PER_CODE;
        self.cells.mine().add_all([(at + bucket(nanoseconds), 1), (at + TIMES, nanoseconds)]);
    }

    /// Records that a query used a UDP socket that was open already, or a new one.
    pub(super) fn record_socket(&self, reused: bool) {
        self.cells.mine().add(if reused { REUSED } else { OPENED }, 1);
    }

    /// Records that an exchange used a connection that was open already, or a new one.
    pub(super) fn record_stream(&self, reused: bool) {
        if reused { &self.streams_reused } else { &self.streams_opened }.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a datagram that answers no query in flight.
    pub(super) fn record_dropped(&self, reason: DropReason) {
        let at = match reason {
            DropReason::NoQuery => NO_QUERY,
            DropReason::OtherQuestion => OTHER_QUESTION,
        };
        self.cells.mine().add(at, 1);
    }

    /// Records a failed health check.
    pub(super) fn record_failed_check(&self) {
        self.checks_failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the answers by code from the sums of cells.
fn answers(sums: &[u64; ALL]) -> Vec<AnswerCounts> {
    let codes = sums[..REUSED].chunks(PER_CODE).enumerate().map(|(rcode, counts)| AnswerCounts {
        rcode: Rcode(rcode as u16),
        buckets: counts[..TIMES].to_vec(),
        seconds: counts[TIMES] as f64 / 1e9,
    });
    codes.filter(|answers| answers.buckets.iter().any(|&count| count > 0)).collect()
}

/// Returns the bucket of a duration.
fn bucket(nanoseconds: u64) -> usize {
    let doubles = (nanoseconds.max(1) - 1) / FIRST_TIME;
    (u64::BITS - doubles.leading_zeros()).min(TIMES as u32 - 1) as usize
}

/// The metrics of all upstreams and groups. They outlive a reload.
#[derive(Default)]
pub struct Metrics {
    /// Written when a configuration is built, read by a scrape. No query touches it.
    upstreams: RwLock<Vec<Arc<UpstreamMetrics>>>,
    all_down: AtomicU64,
    over_limit: AtomicU64,
    /// By reason, in the order of [`SHED`].
    shed: [AtomicU64; 3],
}

impl GroupCounters for Arc<Metrics> {
    fn record_all_down(&self) {
        self.all_down.fetch_add(1, Ordering::Relaxed);
    }

    fn record_over_limit(&self) {
        self.over_limit.fetch_add(1, Ordering::Relaxed);
    }

    fn record_shed(&self, reason: ShedReason) {
        let at = match reason {
            ShedReason::Evicted => 0,
            ShedReason::Full => 1,
            ShedReason::Exchanges => 2,
        };
        self.shed[at].fetch_add(1, Ordering::Relaxed);
    }
}

/// The values of the label `reason`.
const SHED: [&str; 3] = ["evicted", "full", "exchanges"];

/// The label that CoreDNS gives proxies of *forward*.
const PROXY: &str = "forward";

impl Metrics {
    /// Returns the metrics of every upstream.
    pub fn upstreams(&self) -> Vec<Arc<UpstreamMetrics>> {
        self.upstreams.read().clone()
    }

    /// Returns the metrics of the upstream with this label.
    pub fn upstream(&self, to: &str) -> Arc<UpstreamMetrics> {
        let mut upstreams = self.upstreams.write();
        if let Some(found) = upstreams.iter().find(|metrics| metrics.to == to) {
            return found.clone();
        }
        let metrics = Arc::new(UpstreamMetrics::new(to));
        upstreams.push(metrics.clone());
        metrics
    }
}

impl Collected for Metrics {
    const METRICS: &'static [&'static Metric] = &[
        &table::PROXY_DURATION,
        &table::PROXY_CHECKS_FAILED,
        &table::PROXY_REUSED,
        &table::PROXY_OPENED,
        &table::FORWARD_REQUESTS,
        &table::FORWARD_RESPONSES,
        &table::FORWARD_DURATION,
        &table::FORWARD_CHECKS_FAILED,
        &table::FORWARD_BROKEN,
        &table::FORWARD_REJECTS,
        &table::FORWARD_SHED,
        &table::FORWARD_DROPPED,
    ];

    fn families(&self) -> Vec<MetricFamily> {
        // As in CoreDNS, there is no series for what has not happened.
        let [mut durations, mut checks, mut reused, mut opened, mut requests, mut responses] = [
            &table::PROXY_DURATION,
            &table::PROXY_CHECKS_FAILED,
            &table::PROXY_REUSED,
            &table::PROXY_OPENED,
            &table::FORWARD_REQUESTS,
            &table::FORWARD_RESPONSES,
        ]
        .map(Family::new);
        let (mut old_durations, mut old_checks) =
            (Family::new(&table::FORWARD_DURATION), Family::new(&table::FORWARD_CHECKS_FAILED));
        let mut dropped = Family::new(&table::FORWARD_DROPPED);
        for metrics in self.upstreams.read().iter() {
            let to = metrics.to.as_str();
            let sums = metrics.cells.sums();
            let mut all = 0;
            for AnswerCounts { rcode, buckets, seconds } in answers(&sums) {
                let (code, count) = (rcode.to_string(), buckets.iter().sum::<u64>());
                durations.buckets(&[PROXY, &code, to], &buckets, seconds);
                old_durations.buckets(&[&code, to], &buckets, seconds);
                responses.value(&[&code, to], count as f64);
                all += count;
            }
            let add = |family: &mut Family, labels: &[&str], count: u64| {
                if count > 0 {
                    family.value(labels, count as f64);
                }
            };
            add(&mut requests, &[to], all);
            add(&mut reused, &["udp", PROXY, to], sums[REUSED]);
            add(&mut opened, &["udp", PROXY, to], sums[OPENED]);
            add(&mut reused, &["tcp", PROXY, to], metrics.streams_reused.load(Ordering::Relaxed));
            add(&mut opened, &["tcp", PROXY, to], metrics.streams_opened.load(Ordering::Relaxed));
            add(&mut dropped, &["unknown", to], sums[NO_QUERY]);
            add(&mut dropped, &["question", to], sums[OTHER_QUESTION]);
            let failed = metrics.failed_checks();
            add(&mut checks, &[PROXY, to], failed);
            add(&mut old_checks, &[to], failed);
        }
        let [mut broken, mut rejects, mut shed] =
            [&table::FORWARD_BROKEN, &table::FORWARD_REJECTS, &table::FORWARD_SHED].map(Family::new);
        broken.value(&[], self.all_down.load(Ordering::Relaxed) as f64);
        rejects.value(&[], self.over_limit.load(Ordering::Relaxed) as f64);
        for (reason, count) in SHED.iter().zip(&self.shed) {
            shed.value(&[reason], count.load(Ordering::Relaxed) as f64);
        }
        let families = [durations, checks, reused, opened, requests, responses, old_durations, old_checks, dropped];
        families.into_iter().chain([broken, rejects, shed]).map(Family::done).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_of_its_bound() {
        for (at, bound) in table::TIME_BOUNDS.iter().enumerate() {
            let nanoseconds = (bound * 1e9) as u64;
            assert_eq!((bucket(nanoseconds), bucket(nanoseconds + 1)), (at, at + 1));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, TIMES - 1));
    }

    #[test]
    fn events_are_counted_under_both_names() {
        let metrics = Arc::new(Metrics::default());
        let upstream = metrics.upstream("10.0.0.1:53");
        upstream.record_answer(Rcode::NXDOMAIN, Duration::from_millis(3));
        metrics.upstream("10.0.0.1:53").record_failed_check();
        upstream.record_socket(true);
        metrics.record_shed(ShedReason::Full);
        let registry = crate::telemetry::metrics::Registry::new();
        let read = metrics.clone();
        let observed = crate::telemetry::metrics::Observed::new(Metrics::METRICS, move || read.families());
        crate::telemetry::metrics::register(&registry, observed);
        let text = crate::telemetry::metrics::text(&registry);
        for line in [
            "coredns_proxy_request_duration_seconds_bucket{proxy_name=\"forward\",rcode=\"NXDOMAIN\",to=\"10.0.0.1:53\",le=\"0.004\"} 1",
            "coredns_forward_responses_total{rcode=\"NXDOMAIN\",to=\"10.0.0.1:53\"} 1",
            "coredns_forward_requests_total{to=\"10.0.0.1:53\"} 1",
            "coredns_proxy_healthcheck_failures_total{proxy_name=\"forward\",to=\"10.0.0.1:53\"} 1",
            "coredns_proxy_conn_cache_hits_total{proto=\"udp\",proxy_name=\"forward\",to=\"10.0.0.1:53\"} 1",
            "coredns_forward_healthcheck_broken_total 0",
            "clusterdns_forward_shed_total{reason=\"full\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
