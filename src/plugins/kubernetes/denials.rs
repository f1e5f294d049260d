//! Counts of denied names by their reason, for the whole process.

use super::no_data::NoData;
use crate::cluster::Reason;
use crate::telemetry::metrics::{Cells, Collected, Family, Metric, MetricFamily, table};

/// A cell for each reason of NXDOMAIN, and then for each of NODATA.
const REASONS: usize = Reason::ALL.len() + NoData::ALL.len();

/// The counters. They outlive a reload.
#[derive(Default)]
pub struct DenialCounts(Cells<REASONS>);

impl DenialCounts {
    /// Counts a name that does not exist.
    pub(super) fn count_name_error(&self, reason: Reason) {
        self.0.mine().add(reason as usize, 1);
    }

    /// Counts a name without a record of the type.
    pub(super) fn count_no_data(&self, reason: NoData) {
        self.0.mine().add(Reason::ALL.len() + reason as usize, 1);
    }
}

impl Collected for DenialCounts {
    const METRICS: &'static [&'static Metric] = &[&table::DENIALS];

    fn families(&self) -> Vec<MetricFamily> {
        let mut family = Family::new(&table::DENIALS);
        let sums = self.0.sums();
        let codes = Reason::ALL.into_iter().map(Reason::code).chain(NoData::ALL.into_iter().map(NoData::code));
        for (reason, count) in codes.zip(sums) {
            if count > 0 {
                family.value(&[reason], count as f64);
            }
        }
        vec![family.done()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a reason is its place in the list.
    #[test]
    fn each_reason_has_its_own_cell_and_word() {
        assert!(Reason::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
        assert!(NoData::ALL.iter().enumerate().all(|(at, reason)| *reason as usize == at));
        let mut codes: Vec<&str> = Reason::ALL.into_iter().map(Reason::code).collect();
        codes.extend(NoData::ALL.into_iter().map(NoData::code));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), REASONS);
    }
}
