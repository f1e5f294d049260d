//! What exchanges with other servers are counted by: CoreDNS's metrics of *forward*, and those of its proxies.
//!
//! A forwarded query adds to cells of its own thread; whoever asks for the numbers sums them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::telemetry::metrics::{Cells, Family, Metric, MetricFamily, table};
use crate::upstream::group::{Counts, Dropped, Shed};
use crate::wire::Rcode;

/// Codes that a message without an OPT can have.
const RCODES: usize = 16;
/// Buckets of durations; the last is above all bounds.
const TIMES: usize = table::TIME_BOUNDS.len() + 1;
/// What one code takes: buckets and their sum in nanoseconds.
const PER_CODE: usize = TIMES + 1;
/// Where each thing stands behind the codes.
const KEPT: usize = RCODES * PER_CODE;
const OPENED: usize = KEPT + 1;
const UNKNOWN: usize = OPENED + 1;
const STRANGER: usize = UNKNOWN + 1;
const ALL: usize = STRANGER + 1;
/// The first bound of durations, in nanoseconds; each further one is twice the one before.
const FIRST_TIME: u64 = 250_000;

/// The counts of one server.
pub struct UpstreamMetrics {
    /// Its label.
    to: String,
    cells: Cells<ALL>,
    /// Health checks that failed.
    checks_failed: AtomicU64,
    /// Connections over a stream that were there already, and those that were made.
    streams_kept: AtomicU64,
    streams_opened: AtomicU64,
}

impl UpstreamMetrics {
    /// An answer with this code came after so long.
    pub(super) fn answered(&self, rcode: Rcode, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = usize::from(rcode.0 & 0x0f) * PER_CODE;
        self.cells.mine().add_all([(at + bucket(nanoseconds), 1), (at + TIMES, nanoseconds)]);
    }

    /// A UDP socket was there already, or was opened.
    pub(super) fn socket(&self, kept: bool) {
        self.cells.mine().add(if kept { KEPT } else { OPENED }, 1);
    }

    /// A stream was there already, or was opened.
    pub(super) fn stream(&self, kept: bool) {
        if kept { &self.streams_kept } else { &self.streams_opened }.fetch_add(1, Ordering::Relaxed);
    }

    /// A datagram was nobody's answer.
    pub(super) fn dropped(&self, why: Dropped) {
        let at = match why {
            Dropped::Unknown => UNKNOWN,
            Dropped::Stranger => STRANGER,
        };
        self.cells.mine().add(at, 1);
    }

    /// A health check failed.
    pub(super) fn check_failed(&self) {
        self.checks_failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The bucket of a duration.
fn bucket(nanoseconds: u64) -> usize {
    let doubles = (nanoseconds.max(1) - 1) / FIRST_TIME;
    (u64::BITS - doubles.leading_zeros()).min(TIMES as u32 - 1) as usize
}

/// The counts of all servers and groups. They outlive a reload.
#[derive(Default)]
pub struct Metrics {
    /// Written when a configuration is built, read when somebody asks. No query touches it.
    servers: RwLock<Vec<Arc<UpstreamMetrics>>>,
    all_down: AtomicU64,
    over_limit: AtomicU64,
    /// By reason, in the order of [`SHED`].
    shed: [AtomicU64; 3],
}

impl Counts for Arc<Metrics> {
    fn all_down(&self) {
        self.all_down.fetch_add(1, Ordering::Relaxed);
    }

    fn over_limit(&self) {
        self.over_limit.fetch_add(1, Ordering::Relaxed);
    }

    fn shed(&self, why: Shed) {
        let at = match why {
            Shed::Evicted => 0,
            Shed::Full => 1,
            Shed::Exchanges => 2,
        };
        self.shed[at].fetch_add(1, Ordering::Relaxed);
    }
}

/// Reasons as the label names them.
const SHED: [&str; 3] = ["evicted", "full", "exchanges"];

/// The label that CoreDNS gives proxies of *forward*.
const PROXY: &str = "forward";

impl Metrics {
    /// The families that [`Metrics::families`] makes.
    pub const METRICS: &'static [&'static Metric] = &[
        &table::PROXY_DURATION,
        &table::PROXY_CHECKS_FAILED,
        &table::PROXY_KEPT,
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

    /// The counts of the server with this label.
    pub fn upstream(&self, to: &str) -> Arc<UpstreamMetrics> {
        let mut servers = self.servers.write();
        if let Some(found) = servers.iter().find(|metrics| metrics.to == to) {
            return found.clone();
        }
        let zero = || AtomicU64::new(0);
        let (checks_failed, streams_kept, streams_opened) = (zero(), zero(), zero());
        let metrics =
            UpstreamMetrics { to: to.to_owned(), cells: Cells::default(), checks_failed, streams_kept, streams_opened };
        let metrics = Arc::new(metrics);
        servers.push(metrics.clone());
        metrics
    }

    /// What has been counted, for the registry. What has not happened is not shown, as in CoreDNS.
    pub fn families(&self) -> Vec<MetricFamily> {
        let [mut durations, mut checks, mut kept, mut opened, mut requests, mut responses] = [
            &table::PROXY_DURATION,
            &table::PROXY_CHECKS_FAILED,
            &table::PROXY_KEPT,
            &table::PROXY_OPENED,
            &table::FORWARD_REQUESTS,
            &table::FORWARD_RESPONSES,
        ]
        .map(Family::new);
        let (mut old_durations, mut old_checks) =
            (Family::new(&table::FORWARD_DURATION), Family::new(&table::FORWARD_CHECKS_FAILED));
        let mut dropped = Family::new(&table::FORWARD_DROPPED);
        for metrics in self.servers.read().iter() {
            let (to, sums) = (metrics.to.as_str(), metrics.cells.sums());
            let mut all = 0;
            for (rcode, counts) in sums[..KEPT].chunks(PER_CODE).enumerate() {
                let (buckets, sum) = (&counts[..TIMES], counts[TIMES] as f64 / 1e9);
                let count: u64 = buckets.iter().sum();
                if count > 0 {
                    let code = Rcode(rcode as u16).to_string();
                    durations.buckets(&[PROXY, &code, to], buckets, sum);
                    old_durations.buckets(&[&code, to], buckets, sum);
                    responses.value(&[&code, to], count as f64);
                }
                all += count;
            }
            let tell = |family: &mut Family, labels: &[&str], count: u64| {
                if count > 0 {
                    family.value(labels, count as f64);
                }
            };
            tell(&mut requests, &[to], all);
            tell(&mut kept, &["udp", PROXY, to], sums[KEPT]);
            tell(&mut opened, &["udp", PROXY, to], sums[OPENED]);
            tell(&mut kept, &["tcp", PROXY, to], metrics.streams_kept.load(Ordering::Relaxed));
            tell(&mut opened, &["tcp", PROXY, to], metrics.streams_opened.load(Ordering::Relaxed));
            tell(&mut dropped, &["unknown", to], sums[UNKNOWN]);
            tell(&mut dropped, &["question", to], sums[STRANGER]);
            let failed = metrics.checks_failed.load(Ordering::Relaxed);
            tell(&mut checks, &[PROXY, to], failed);
            tell(&mut old_checks, &[to], failed);
        }
        let [mut broken, mut rejects, mut shed] =
            [&table::FORWARD_BROKEN, &table::FORWARD_REJECTS, &table::FORWARD_SHED].map(Family::new);
        broken.value(&[], self.all_down.load(Ordering::Relaxed) as f64);
        rejects.value(&[], self.over_limit.load(Ordering::Relaxed) as f64);
        for (reason, count) in SHED.iter().zip(&self.shed) {
            shed.value(&[reason], count.load(Ordering::Relaxed) as f64);
        }
        let families = [durations, checks, kept, opened, requests, responses, old_durations, old_checks, dropped];
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
    fn what_has_happened_is_shown_under_both_names() {
        let metrics = Arc::new(Metrics::default());
        let upstream = metrics.upstream("10.0.0.1:53");
        upstream.answered(Rcode::NXDOMAIN, Duration::from_millis(3));
        metrics.upstream("10.0.0.1:53").check_failed();
        upstream.socket(true);
        metrics.shed(Shed::Full);
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
