//! All counts of queries, as the registry collects them.

use std::sync::Arc;

use parking_lot::RwLock;

use super::counts::{Counts, FAMILIES, PROTOS, RCODES, Sums, TYPES};
use crate::telemetry::metrics::{Collected, Family, Metric, MetricFamily, table};

/// The counts of every socket and zone. They outlive a reload.
#[derive(Default)]
pub struct Queries {
    /// Written when a configuration is built, read when somebody asks. No query touches it.
    counts: RwLock<Vec<Arc<Counts>>>,
}

impl Queries {
    /// The counts with these labels.
    pub(super) fn counts(&self, server: &str, zone: &str, behind: &'static str) -> Arc<Counts> {
        let mut all = self.counts.write();
        let same = |counts: &&Arc<Counts>| counts.server == server && counts.zone == zone && counts.behind == behind;
        if let Some(found) = all.iter().find(same) {
            return found.clone();
        }
        let counts = Arc::new(Counts::new(server, zone, behind));
        all.push(counts.clone());
        counts
    }

    /// The counts of each socket and zone.
    fn by_zone(&self) -> Vec<(String, String, Vec<Arc<Counts>>)> {
        let mut all = self.counts.read().clone();
        all.sort_by(|one, other| (&one.server, &one.zone).cmp(&(&other.server, &other.zone)));
        let groups = all.chunk_by(|one, other| (&one.server, &one.zone) == (&other.server, &other.zone));
        groups.map(|group| (group[0].server.clone(), group[0].zone.clone(), group.to_vec())).collect()
    }
}

impl Collected for Queries {
    const METRICS: &'static [&'static Metric] = &[
        &table::REQUESTS,
        &table::REQUEST_DURATION,
        &table::REQUEST_SIZE,
        &table::DO_REQUESTS,
        &table::RESPONSE_SIZE,
        &table::RESPONSES,
    ];

    fn families(&self) -> Vec<MetricFamily> {
        let mut requests = Family::new(&table::REQUESTS);
        let mut durations = Family::new(&table::REQUEST_DURATION);
        let mut request_sizes = Family::new(&table::REQUEST_SIZE);
        let mut dnssec_ok = Family::new(&table::DO_REQUESTS);
        let mut response_sizes = Family::new(&table::RESPONSE_SIZE);
        let mut responses = Family::new(&table::RESPONSES);
        // After a reload another plugin may stand behind *prometheus*; only codes are told apart by it.
        for (server, zone, of_plugins) in self.by_zone() {
            let sums: Vec<(&str, Sums)> = of_plugins.iter().map(|counts| (counts.behind, counts.sums())).collect();
            let total = Sums::total(sums.iter().map(|(_, sums)| sums));
            // What has not happened is not shown, as in CoreDNS.
            let mut all = 0;
            for (proto, proto_name) in PROTOS.iter().enumerate() {
                let mut of_proto = 0;
                for (family, family_name) in FAMILIES.iter().enumerate() {
                    for (rtype, type_name) in TYPES.iter().enumerate() {
                        let count = total.requests(proto, family, rtype);
                        if count > 0 {
                            requests.value(&[family_name, proto_name, &server, type_name, "", &zone], count as f64);
                        }
                        of_proto += count;
                    }
                }
                if of_proto > 0 {
                    let labels = [*proto_name, &server, "", &zone];
                    let (buckets, sum) = total.request_sizes(proto);
                    request_sizes.buckets(&labels, buckets, sum);
                    let (buckets, sum) = total.response_sizes(proto);
                    response_sizes.buckets(&labels, buckets, sum);
                }
                all += of_proto;
            }
            let labels = [server.as_str(), "", &zone];
            if all > 0 {
                let (buckets, sum) = total.durations();
                durations.buckets(&labels, buckets, sum);
            }
            if total.dnssec_ok() > 0 {
                dnssec_ok.value(&labels, total.dnssec_ok() as f64);
            }
            for (rcode, rcode_name) in RCODES.iter().enumerate() {
                let by_server = total.responses(true, rcode);
                if by_server > 0 {
                    responses.value(&["", rcode_name, &server, "", &zone], by_server as f64);
                }
                for (plugin, sums) in &sums {
                    let by_plugin = sums.responses(false, rcode);
                    if by_plugin > 0 {
                        responses.value(&[plugin, rcode_name, &server, "", &zone], by_plugin as f64);
                    }
                }
            }
        }
        [requests, durations, request_sizes, dnssec_ok, response_sizes, responses].map(Family::done).into()
    }
}
