//! Metrics of *template*: matches and failures (CoreDNS `plugin/template/metrics.go`).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::data::{go_class, go_type};
use crate::telemetry::metrics::{BlockLabels, Cells, Collected, Family, Metric, MetricFamily, table};
use crate::wire::{Class, Section, Type};

/// The number of types with a counter: those with a name, the lowest and the highest number, and all others together.
const TYPES: usize = Type::KNOWN.len() + 3;
/// The number of classes with a counter: those with a name, and all others together.
const CLASSES: usize = Class::KNOWN.len() + 1;

/// Counters of a zone on one socket. The labels are those of CoreDNS.
pub struct TemplateMatches {
    labels: BlockLabels,
    zone: String,
    /// Matches, by class; most zones have one.
    classes: [OnceLock<Box<Cells<TYPES>>>; CLASSES],
    /// Failures. Queries that fail write, the registry reads; neither is frequent.
    failures: Mutex<BTreeMap<Failed, u64>>,
}

/// The labels of a failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Failed {
    /// Whether the text is not a record; otherwise the template failed.
    record: bool,
    class: &'static str,
    rtype: &'static str,
    section: &'static str,
    template: String,
}

/// The counters of all sockets. They survive a reload.
#[derive(Default)]
pub struct TemplateCounters(RwLock<Vec<Arc<TemplateMatches>>>);

impl TemplateCounters {
    /// Returns the counters of a zone on a socket.
    pub fn counts(&self, labels: &BlockLabels, zone: &str) -> Arc<TemplateMatches> {
        let mut all = self.0.write();
        if let Some(found) = all.iter().find(|counts| counts.labels == *labels && counts.zone == zone) {
            return found.clone();
        }
        let counts = Arc::new(TemplateMatches {
            labels: labels.clone(),
            zone: zone.to_owned(),
            classes: [const { OnceLock::new() }; CLASSES],
            failures: Mutex::default(),
        });
        all.push(counts.clone());
        counts
    }
}

impl Collected for TemplateCounters {
    const METRICS: &'static [&'static Metric] =
        &[&table::TEMPLATE_MATCHES, &table::TEMPLATE_FAILURES, &table::TEMPLATE_RECORD_FAILURES];

    fn families(&self) -> Vec<MetricFamily> {
        let mut matches = Family::new(&table::TEMPLATE_MATCHES);
        let mut failures = [&table::TEMPLATE_FAILURES, &table::TEMPLATE_RECORD_FAILURES].map(Family::new);
        for counts in self.0.read().iter() {
            let BlockLabels { server, view } = &counts.labels;
            for (class, cells) in counts.classes.iter().enumerate() {
                let Some(cells) = cells.get() else { continue };
                for (rtype, count) in cells.sums().into_iter().enumerate().filter(|(_, count)| *count > 0) {
                    let labels = [class_name(class), server, type_name(rtype), view, &counts.zone];
                    matches.value(&labels, count as f64);
                }
            }
            for (failed, count) in counts.failures.lock().iter() {
                let Failed { record, class, rtype, section, template } = failed;
                let labels = [*class, section, server, template, rtype, view, &counts.zone];
                failures[usize::from(*record)].value(&labels, *count as f64);
            }
        }
        std::iter::once(matches).chain(failures).map(Family::done).collect()
    }
}

fn class_name(at: usize) -> &'static str {
    Class::KNOWN.get(at).map_or("", |class| go_class(*class))
}

fn type_name(at: usize) -> &'static str {
    match at.checked_sub(Type::KNOWN.len()) {
        None => go_type(Type::KNOWN[at]),
        Some(0) => go_type(Type(0)),
        Some(1) => go_type(Type(u16::MAX)),
        Some(_) => "",
    }
}

impl TemplateMatches {
    /// Counts a query that matched.
    pub fn matched(&self, class: Class, rtype: Type) {
        let class = Class::KNOWN.iter().position(|known| *known == class).unwrap_or(CLASSES - 1);
        let rtype = match rtype {
            Type(0) => TYPES - 3,
            Type(u16::MAX) => TYPES - 2,
            // The common types come first.
            rtype => Type::KNOWN.iter().position(|known| *known == rtype).unwrap_or(TYPES - 1),
        };
        self.classes[class].get_or_init(Box::default).mine().add(rtype, 1);
    }

    /// Counts a failed query. The labels come from the configuration, except the names of class and type, whose number
    /// is limited.
    pub fn failed(&self, record: bool, class: Class, rtype: Type, section: Section, template: String) {
        let section = match section {
            Section::Answer => "answer",
            Section::Authority => "authority",
            Section::Additional => "additional",
        };
        let (class, rtype) = (go_class(class), go_type(rtype));
        *self.failures.lock().entry(Failed { record, class, rtype, section, template }).or_default() += 1;
    }
}
