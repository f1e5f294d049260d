//! The counters of a zone on a socket, and their layout in the cells.
//!
//! Counting uses no floating-point numbers: durations are whole nanoseconds, and the bucket of a duration is the bit
//! length of a number.

use std::time::Instant;

use crate::chain::{Client, Transport};
use crate::telemetry::metrics::{BlockLabels, Cells, table};
use crate::wire::{Query, Rcode, Type};

/// The types with counters of their own (CoreDNS `vars.monitorType`); the last one is for all other types.
pub(super) const TYPES: [&str; 20] = [
    "A", "AAAA", "PTR", "SRV", "CNAME", "MX", "TXT", "SOA", "NS", "HTTPS", "SVCB", "DS", "DNSKEY", "RRSIG", "NSEC",
    "NSEC3", "IXFR", "AXFR", "ANY", "other",
];
/// The codes with counters of their own, as CoreDNS names them; the last one is for all other codes.
pub(super) const RCODES: [&str; 25] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "RCODE12",
    "RCODE13",
    "RCODE14",
    "RCODE15",
    "BADSIG",
    "BADKEY",
    "BADTIME",
    "BADMODE",
    "BADNAME",
    "BADALG",
    "BADTRUNC",
    "BADCOOKIE",
    "other",
];
/// The values of the label `proto`.
pub(super) const PROTOS: [&str; 2] = [Transport::Udp.name(), Transport::Tcp.name()];
/// The values of the label `family`, which are CoreDNS's: IPv4 and IPv6.
pub(super) const FAMILIES: [&str; 2] = ["1", "2"];

/// The number of buckets of durations; the last one is above all bounds.
const TIMES: usize = table::TIME_BOUNDS.len() + 1;
/// The number of buckets of sizes; the last one is above all bounds.
const SIZES: usize = table::SIZE_BOUNDS.len() + 1;

// The indexes of the cells. The number of queries by transport, family and type comes first.
const DURATIONS: usize = PROTOS.len() * FAMILIES.len() * TYPES.len();
const DURATION_SUM: usize = DURATIONS + TIMES;
const DNSSEC_OK: usize = DURATION_SUM + 1;
const REQUEST_SIZES: usize = DNSSEC_OK + 1;
const RESPONSE_SIZES: usize = REQUEST_SIZES + PROTOS.len() * (SIZES + 1);
const RESPONSES: usize = RESPONSE_SIZES + PROTOS.len() * (SIZES + 1);
const ALL: usize = RESPONSES + 2 * RCODES.len();

/// The bounds of sizes in bytes.
const SIZE_BOUNDS: [u32; SIZES - 1] = {
    let mut bounds = [0; SIZES - 1];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = table::SIZE_BOUNDS[at] as u32;
        at += 1;
    }
    bounds
};
/// The bucket of each size below 512, which nearly all messages have. Usually two cache lines of it are used.
static SMALL_SIZES: [u8; 512] = {
    let mut buckets = [0; 512];
    let mut size = 0;
    while size < buckets.len() {
        let mut bucket = 0;
        while (SIZE_BOUNDS[bucket] as usize) < size {
            bucket += 1;
        }
        buckets[size] = bucket as u8;
        size += 1;
    }
    buckets
};
/// The first bound of durations in nanoseconds. Each further bound is twice the one before it.
const FIRST_TIME: u64 = 250_000;

/// The counters of a zone on a socket.
pub(super) struct ZoneCounters {
    /// The labels of the socket and the view.
    pub(super) labels: BlockLabels,
    /// The zone, or `dropped`.
    pub(super) zone: String,
    /// The plugin after *prometheus*.
    pub(super) next_plugin: &'static str,
    cells: Cells<ALL>,
}

/// A query that was answered or dropped.
pub(super) struct CountedQuery<'a> {
    pub(super) query: &'a Query<'a>,
    /// The query type.
    pub(super) qtype: Type,
    /// DNSSEC records are requested.
    pub(super) dnssec_ok: bool,
    pub(super) client: Client,
    /// When the query was received.
    pub(super) start: Instant,
    pub(super) rcode: Rcode,
    /// The length of the response in bytes.
    pub(super) len: usize,
    /// Whether the server wrote the response, not a plugin.
    pub(super) by_server: bool,
}

impl ZoneCounters {
    pub(super) fn new(labels: &BlockLabels, zone: &str, next_plugin: &'static str) -> ZoneCounters {
        ZoneCounters { labels: labels.clone(), zone: zone.to_owned(), next_plugin, cells: Cells::default() }
    }

    /// Counts a query.
    pub(super) fn add(&self, counted: &CountedQuery<'_>) {
        let proto = usize::from(counted.client.transport.name() == PROTOS[1]);
        // The address of an IPv4 client is never an IPv4-mapped one, whatever the socket.
        let family = usize::from(counted.client.remote.is_ipv6());
        let rcode = usize::from(counted.rcode.0).min(RCODES.len() - 1);
        let duration = counted.start.elapsed();
        let nanoseconds = duration.as_secs() * 1_000_000_000 + u64::from(duration.subsec_nanos());
        let request_len = counted.query.packet().len();
        let request_sizes = REQUEST_SIZES + proto * (SIZES + 1);
        let response_sizes = RESPONSE_SIZES + proto * (SIZES + 1);
        let mine = self.cells.mine();
        mine.add_all([
            (request(proto, family, type_index(counted.qtype)), 1),
            (DURATIONS + time_bucket(nanoseconds), 1),
            (DURATION_SUM, nanoseconds),
            (request_sizes + size_bucket(request_len), 1),
            (request_sizes + SIZES, request_len as u64),
            (response_sizes + size_bucket(counted.len), 1),
            (response_sizes + SIZES, counted.len as u64),
            (response(counted.by_server, rcode), 1),
        ]);
        if counted.dnssec_ok {
            mine.add_all([(DNSSEC_OK, 1)]);
        }
    }

    /// Returns the values, summed up over all threads.
    pub(super) fn sums(&self) -> Sums {
        Sums(self.cells.sums())
    }
}

/// The values of counters, summed up over all threads.
pub(super) struct Sums([u64; ALL]);

impl Sums {
    /// Returns the sum of several sets of values.
    pub(super) fn total<'a>(sums: impl Iterator<Item = &'a Sums>) -> Sums {
        let mut total = [0; ALL];
        for sums in sums {
            total.iter_mut().zip(&sums.0).for_each(|(total, more)| *total += more);
        }
        Sums(total)
    }

    /// Returns the number of queries, by indexes into [`PROTOS`], [`FAMILIES`] and [`TYPES`].
    pub(super) fn requests(&self, proto: usize, family: usize, rtype: usize) -> u64 {
        self.0[request(proto, family, rtype)]
    }

    /// Returns the buckets of durations, and the sum of the durations in seconds.
    pub(super) fn durations(&self) -> (&[u64], f64) {
        (&self.0[DURATIONS..][..TIMES], self.0[DURATION_SUM] as f64 / 1e9)
    }

    /// Returns the number of queries with DO.
    pub(super) fn dnssec_ok(&self) -> u64 {
        self.0[DNSSEC_OK]
    }

    /// Returns the buckets of the lengths of queries, and the sum of the lengths in bytes.
    pub(super) fn request_sizes(&self, proto: usize) -> (&[u64], f64) {
        self.sizes(REQUEST_SIZES, proto)
    }

    /// Returns the buckets of the lengths of responses, and the sum of the lengths in bytes.
    pub(super) fn response_sizes(&self, proto: usize) -> (&[u64], f64) {
        self.sizes(RESPONSE_SIZES, proto)
    }

    /// Returns the number of responses, by whether the server itself wrote them, and by an index into [`RCODES`].
    pub(super) fn responses(&self, by_server: bool, rcode: usize) -> u64 {
        self.0[response(by_server, rcode)]
    }

    fn sizes(&self, sizes: usize, proto: usize) -> (&[u64], f64) {
        let sizes = &self.0[sizes + proto * (SIZES + 1)..][..SIZES + 1];
        (&sizes[..SIZES], sizes[SIZES] as f64)
    }
}

/// Returns the index of the cell of queries.
fn request(proto: usize, family: usize, rtype: usize) -> usize {
    (proto * FAMILIES.len() + family) * TYPES.len() + rtype
}

/// Returns the index of the cell of responses.
fn response(by_server: bool, rcode: usize) -> usize {
    RESPONSES + usize::from(by_server) * RCODES.len() + rcode
}

/// Returns the bucket of a duration.
fn time_bucket(nanoseconds: u64) -> usize {
    let multiple = nanoseconds.saturating_sub(1) / FIRST_TIME;
    ((u64::BITS - multiple.leading_zeros()) as usize).min(TIMES - 1)
}

/// Returns the bucket of a size in bytes.
fn size_bucket(size: usize) -> usize {
    match SMALL_SIZES.get(size) {
        Some(&bucket) => usize::from(bucket),
        None => SIZE_BOUNDS.partition_point(|&bound| (bound as usize) < size),
    }
}

/// Returns the index of a type in [`TYPES`].
fn type_index(rtype: Type) -> usize {
    match rtype {
        Type::A => 0,
        Type::AAAA => 1,
        Type::PTR => 2,
        Type::SRV => 3,
        Type::CNAME => 4,
        Type::MX => 5,
        Type::TXT => 6,
        Type::SOA => 7,
        Type::NS => 8,
        Type::HTTPS => 9,
        Type::SVCB => 10,
        Type::DS => 11,
        Type::DNSKEY => 12,
        Type::RRSIG => 13,
        Type::NSEC => 14,
        Type::NSEC3 => 15,
        Type::IXFR => 16,
        Type::AXFR => 17,
        Type::ANY => 18,
        _ => 19,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_of_types_match_their_names() {
        for number in 0..=u16::MAX {
            let rtype = Type(number);
            let name = TYPES[type_index(rtype)];
            assert!(name == "other" || name == rtype.to_string(), "{rtype}");
        }
    }

    #[test]
    fn indexes_of_codes_match_their_names() {
        for (code, name) in RCODES.iter().enumerate().filter(|(code, _)| ![11, 16].contains(code) && *code < 17) {
            assert_eq!(Rcode(code as u16).to_string(), *name);
        }
    }

    #[test]
    fn a_value_is_in_the_bucket_of_the_first_bound_that_it_does_not_exceed() {
        for (at, bound) in table::TIME_BOUNDS.iter().enumerate() {
            let nanoseconds = (bound * 1e9).round() as u64;
            assert_eq!((time_bucket(nanoseconds), time_bucket(nanoseconds + 1)), (at, at + 1), "{bound}");
        }
        assert_eq!((time_bucket(0), time_bucket(u64::MAX)), (0, TIMES - 1));
        for size in 0..=65_535 {
            let bucket = SIZE_BOUNDS.iter().position(|&bound| size <= bound as usize).unwrap_or(SIZES - 1);
            assert_eq!(size_bucket(size), bucket, "{size}");
        }
    }
}
