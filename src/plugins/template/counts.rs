//! How often templates matched, and how often one made no answer (CoreDNS `plugin/template/metrics.go`).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::data::{go_class, go_type};
use crate::telemetry::metrics::{Cells, Family, Metric, MetricFamily, table};
use crate::wire::{Class, Section, Type};

/// The types that are told apart: those with a name, the lowest and the highest number, and all others.
const TYPES: usize = Type::KNOWN.len() + 3;
/// The classes that are told apart: those with a name, and all others.
const CLASSES: usize = Class::KNOWN.len() + 1;

/// How often templates matched names of a zone, on one socket. Its labels are those of CoreDNS.
pub struct ZoneCounts {
    server: String,
    zone: String,
    /// By class; most zones see one.
    classes: [OnceLock<Box<Cells<TYPES>>>; CLASSES],
    /// What went wrong. Held for a moment by queries that fail, and by who collects.
    failures: Mutex<BTreeMap<Failed, u64>>,
}

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Failed {
    /// The text is no record; else the template failed.
    record: bool,
    class: &'static str,
    rtype: &'static str,
    section: &'static str,
    template: String,
}

/// The counts of all sockets. They outlive a reload.
#[derive(Default)]
pub struct AllCounts(RwLock<Vec<Arc<ZoneCounts>>>);

impl AllCounts {
    /// The families that [`AllCounts::families`] makes.
    pub const METRICS: &'static [&'static Metric] =
        &[&table::TEMPLATE_MATCHES, &table::TEMPLATE_FAILURES, &table::TEMPLATE_RECORD_FAILURES];

    /// The counts of a zone on a socket.
    pub fn counts(&self, server: &str, zone: &str) -> Arc<ZoneCounts> {
        let mut all = self.0.write();
        if let Some(found) = all.iter().find(|counts| counts.server == server && counts.zone == zone) {
            return found.clone();
        }
        let counts = Arc::new(ZoneCounts {
            server: server.to_owned(),
            zone: zone.to_owned(),
            classes: [const { OnceLock::new() }; CLASSES],
            failures: Mutex::default(),
        });
        all.push(counts.clone());
        counts
    }

    /// What has been counted, for the registry.
    pub fn families(&self) -> Vec<MetricFamily> {
        let mut matches = Family::new(&table::TEMPLATE_MATCHES);
        let mut failures = [&table::TEMPLATE_FAILURES, &table::TEMPLATE_RECORD_FAILURES].map(Family::new);
        for counts in self.0.read().iter() {
            for (class, cells) in counts.classes.iter().enumerate() {
                let Some(cells) = cells.get() else { continue };
                for (rtype, count) in cells.sums().into_iter().enumerate().filter(|(_, count)| *count > 0) {
                    let labels = [class_name(class), &counts.server, type_name(rtype), "", &counts.zone];
                    matches.value(&labels, count as f64);
                }
            }
            for (failed, count) in counts.failures.lock().iter() {
                let Failed { record, class, rtype, section, template } = failed;
                let labels = [class, section, &*counts.server, template, rtype, "", &counts.zone];
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

impl ZoneCounts {
    /// Counts a query that matched.
    pub fn matched(&self, class: Class, rtype: Type) {
        let class = Class::KNOWN.iter().position(|known| *known == class).unwrap_or(CLASSES - 1);
        let rtype = match rtype {
            Type(0) => TYPES - 3,
            Type(u16::MAX) => TYPES - 2,
            // The common ones come first.
            rtype => Type::KNOWN.iter().position(|known| *known == rtype).unwrap_or(TYPES - 1),
        };
        self.classes[class].get_or_init(Box::default).mine().add(rtype, 1);
    }

    /// Counts a query whose answer could not be made. The labels come from the configuration, but for the names of class
    /// and type, of which there are few.
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
