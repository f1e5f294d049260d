//! The counters of queries of all sockets and zones, as the registry collects them.

use std::sync::Arc;

use parking_lot::RwLock;

use super::counts::{FAMILIES, PROTOS, RCODES, Sums, TYPES, ZoneCounters};
use crate::telemetry::metrics::{BlockLabels, Collected, Family, Metric, MetricFamily, table};

/// The counters of all sockets and zones. They outlive a reload.
#[derive(Default)]
pub struct Queries {
    /// Written when a configuration is built, read at each scrape. Queries do not use it.
    counters: RwLock<Vec<Arc<ZoneCounters>>>,
}

impl Queries {
    /// Returns the counters with these labels, and adds them if they are new.
    pub(super) fn counters(&self, labels: &BlockLabels, zone: &str, next_plugin: &'static str) -> Arc<ZoneCounters> {
        let mut all = self.counters.write();
        let is_same = |counters: &&Arc<ZoneCounters>| {
            counters.labels == *labels && counters.zone == zone && counters.next_plugin == next_plugin
        };
        if let Some(found) = all.iter().find(is_same) {
            return found.clone();
        }
        let counters = Arc::new(ZoneCounters::new(labels, zone, next_plugin));
        all.push(counters.clone());
        counters
    }

    /// Returns the labels of the block, the zone and the counters of each zone on each socket.
    fn by_zone(&self) -> Vec<(BlockLabels, String, Vec<Arc<ZoneCounters>>)> {
        let mut all = self.counters.read().clone();
        all.sort_by(|one, other| (&one.labels, &one.zone).cmp(&(&other.labels, &other.zone)));
        let groups = all.chunk_by(|one, other| (&one.labels, &one.zone) == (&other.labels, &other.zone));
        groups.map(|group| (group[0].labels.clone(), group[0].zone.clone(), group.to_vec())).collect()
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
        // After a reload the plugin after *prometheus* may be another one. It is a label of the responses only.
        for (BlockLabels { server, view }, zone, of_plugins) in self.by_zone() {
            let sums: Vec<(&str, Sums)> =
                of_plugins.iter().map(|counters| (counters.next_plugin, counters.sums())).collect();
            let total = Sums::total(sums.iter().map(|(_, sums)| sums));
            // As in CoreDNS, there is no sample with the value 0.
            let mut all = 0;
            for (proto, proto_name) in PROTOS.iter().enumerate() {
                let mut of_proto = 0;
                for (family, family_name) in FAMILIES.iter().enumerate() {
                    for (rtype, type_name) in TYPES.iter().enumerate() {
                        let count = total.requests(proto, family, rtype);
                        if count > 0 {
                            requests.value(&[family_name, proto_name, &server, type_name, &view, &zone], count as f64);
                        }
                        of_proto += count;
                    }
                }
                if of_proto > 0 {
                    let labels = [*proto_name, &server, &view, &zone];
                    let (buckets, sum) = total.request_sizes(proto);
                    request_sizes.buckets(&labels, buckets, sum);
                    let (buckets, sum) = total.response_sizes(proto);
                    response_sizes.buckets(&labels, buckets, sum);
                }
                all += of_proto;
            }
            let labels = [server.as_str(), &view, &zone];
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
                    responses.value(&["", rcode_name, &server, &view, &zone], by_server as f64);
                }
                for (plugin, sums) in &sums {
                    let by_plugin = sums.responses(false, rcode);
                    if by_plugin > 0 {
                        responses.value(&[plugin, rcode_name, &server, &view, &zone], by_plugin as f64);
                    }
                }
            }
        }
        [requests, durations, request_sizes, dnssec_ok, response_sizes, responses].map(Family::done).into()
    }
}
