//! Counters of HTTP requests by status, and of QUIC streams by code.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ListenerKind;

/// The HTTP statuses that are counted.
const STATUSES: &[(u16, &str)] =
    &[(200, "200"), (400, "400"), (404, "404"), (408, "408"), (413, "413"), (500, "500"), (503, "503")];
/// The codes of DNS over QUIC (RFC 9250 4.3), as CoreDNS writes them.
const CODES: &[(u16, &str)] = &[(0, "0x0"), (1, "0x1"), (2, "0x2")];

/// A counter for each status or code.
pub(crate) struct StatusCounters {
    of: &'static [(u16, &'static str)],
    counts: Vec<AtomicU64>,
}

impl StatusCounters {
    /// Creates the counters of a listener.
    pub(crate) fn of(kind: ListenerKind) -> StatusCounters {
        let of = match kind {
            ListenerKind::Dns | ListenerKind::Tls | ListenerKind::Grpc => &[],
            ListenerKind::Https | ListenerKind::Https3 => STATUSES,
            ListenerKind::Quic => CODES,
        };
        StatusCounters { of, counts: of.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// Counts a request or stream with this status or code.
    pub(crate) fn count(&self, end: u16) {
        if let Some(at) = self.of.iter().position(|(number, _)| *number == end) {
            self.counts[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the labels with their counts, without those that are 0.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        self.of.iter().map(|(_, label)| *label).zip(counts).filter(|(_, count)| *count > 0)
    }
}
