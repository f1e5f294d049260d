//! What is counted of the queries of one zone on one socket, and where in the cells it stands.
//!
//! No float is touched: durations are whole nanoseconds, and their buckets the length of a binary number.

use std::time::Instant;

use crate::chain::{Client, Transport};
use crate::telemetry::metrics::{Cells, table};
use crate::wire::{Query, Rcode, Type};

/// The types that have a count of their own (CoreDNS `vars.monitorType`); the last one is all others.
pub(super) const TYPES: [&str; 20] = [
    "A", "AAAA", "PTR", "SRV", "CNAME", "MX", "TXT", "SOA", "NS", "HTTPS", "SVCB", "DS", "DNSKEY", "RRSIG", "NSEC",
    "NSEC3", "IXFR", "AXFR", "ANY", "other",
];
/// The codes that have a count of their own, as CoreDNS names them; the last one is all others.
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
/// The transports.
pub(super) const PROTOS: [&str; 2] = [Transport::Udp.name(), Transport::Tcp.name()];
/// The families by CoreDNS's numbers.
pub(super) const FAMILIES: [&str; 2] = ["1", "2"];

/// Buckets of durations; the last is above all bounds.
const TIMES: usize = table::TIME_BOUNDS.len() + 1;
/// Buckets of sizes, likewise.
const SIZES: usize = table::SIZE_BOUNDS.len() + 1;

/// Where each thing stands.
const DURATIONS: usize = PROTOS.len() * FAMILIES.len() * TYPES.len();
const DURATION_SUM: usize = DURATIONS + TIMES;
const DNSSEC_OK: usize = DURATION_SUM + 1;
const REQUEST_SIZES: usize = DNSSEC_OK + 1;
const RESPONSE_SIZES: usize = REQUEST_SIZES + PROTOS.len() * (SIZES + 1);
const RESPONSES: usize = RESPONSE_SIZES + PROTOS.len() * (SIZES + 1);
const ALL: usize = RESPONSES + 2 * RCODES.len();

/// The bounds of sizes in octets.
const SIZE_BOUNDS: [u32; SIZES - 1] = {
    let mut bounds = [0; SIZES - 1];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = table::SIZE_BOUNDS[at] as u32;
        at += 1;
    }
    bounds
};
/// The buckets of sizes below 512, as nearly all messages have: two cache lines of it are used.
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
/// The first bound of durations, in nanoseconds; each further one is twice the one before.
const FIRST_TIME: u64 = 250_000;

/// The counts of a zone on a socket.
pub(super) struct Counts {
    /// The socket, `dns://:53`.
    pub(super) server: String,
    /// The zone, or `dropped`.
    pub(super) zone: String,
    /// The plugin behind *prometheus*.
    pub(super) behind: &'static str,
    cells: Cells<ALL>,
}

/// A query that has its answer.
pub(super) struct Seen<'a> {
    pub(super) query: &'a Query<'a>,
    /// The query type.
    pub(super) qtype: Type,
    /// DNSSEC records are requested.
    pub(super) dnssec_ok: bool,
    pub(super) client: Client,
    /// When it was read.
    pub(super) start: Instant,
    pub(super) rcode: Rcode,
    /// The octets of the answer.
    pub(super) len: usize,
    /// No plugin wrote the answer.
    pub(super) by_server: bool,
}

impl Counts {
    pub(super) fn new(server: &str, zone: &str, behind: &'static str) -> Counts {
        Counts { server: server.to_owned(), zone: zone.to_owned(), behind, cells: Cells::default() }
    }

    /// Counts a query.
    pub(super) fn add(&self, seen: &Seen<'_>) {
        let proto = usize::from(seen.client.transport.name() == PROTOS[1]);
        // A transport gives IPv4 clients as such, whatever its socket.
        let family = usize::from(seen.client.remote.is_ipv6());
        let rcode = usize::from(seen.rcode.0).min(RCODES.len() - 1);
        let took = seen.start.elapsed();
        let nanoseconds = took.as_secs() * 1_000_000_000 + u64::from(took.subsec_nanos());
        let (asked, answered) = (seen.query.packet().len(), seen.len);
        let (asked_at, answered_at) = (REQUEST_SIZES + proto * (SIZES + 1), RESPONSE_SIZES + proto * (SIZES + 1));
        let mine = self.cells.mine();
        mine.add_all([
            (request(proto, family, type_index(seen.qtype)), 1),
            (DURATIONS + time_bucket(nanoseconds), 1),
            (DURATION_SUM, nanoseconds),
            (asked_at + size_bucket(asked), 1),
            (asked_at + SIZES, asked as u64),
            (answered_at + size_bucket(answered), 1),
            (answered_at + SIZES, answered as u64),
            (response(seen.by_server, rcode), 1),
        ]);
        if seen.dnssec_ok {
            mine.add_all([(DNSSEC_OK, 1)]);
        }
    }

    /// What has been counted.
    pub(super) fn sums(&self) -> Sums {
        Sums(self.cells.sums())
    }
}

/// What all threads have counted.
pub(super) struct Sums([u64; ALL]);

impl Sums {
    /// All of them together.
    pub(super) fn total<'a>(sums: impl Iterator<Item = &'a Sums>) -> Sums {
        let mut total = [0; ALL];
        for sums in sums {
            total.iter_mut().zip(&sums.0).for_each(|(total, more)| *total += more);
        }
        Sums(total)
    }

    /// Queries by indexes into [`PROTOS`], [`FAMILIES`] and [`TYPES`].
    pub(super) fn requests(&self, proto: usize, family: usize, rtype: usize) -> u64 {
        self.0[request(proto, family, rtype)]
    }

    /// The buckets of durations, and their sum in seconds.
    pub(super) fn durations(&self) -> (&[u64], f64) {
        (&self.0[DURATIONS..][..TIMES], self.0[DURATION_SUM] as f64 / 1e9)
    }

    /// Queries with DO.
    pub(super) fn dnssec_ok(&self) -> u64 {
        self.0[DNSSEC_OK]
    }

    /// The buckets of the queries' sizes, and their sum.
    pub(super) fn request_sizes(&self, proto: usize) -> (&[u64], f64) {
        self.sizes(REQUEST_SIZES, proto)
    }

    /// The buckets of the answers' sizes, and their sum.
    pub(super) fn response_sizes(&self, proto: usize) -> (&[u64], f64) {
        self.sizes(RESPONSE_SIZES, proto)
    }

    /// Answers by whether the server itself wrote them, and by an index into [`RCODES`].
    pub(super) fn responses(&self, by_server: bool, rcode: usize) -> u64 {
        self.0[response(by_server, rcode)]
    }

    fn sizes(&self, sizes: usize, proto: usize) -> (&[u64], f64) {
        let sizes = &self.0[sizes + proto * (SIZES + 1)..][..SIZES + 1];
        (&sizes[..SIZES], sizes[SIZES] as f64)
    }
}

fn request(proto: usize, family: usize, rtype: usize) -> usize {
    (proto * FAMILIES.len() + family) * TYPES.len() + rtype
}

fn response(by_server: bool, rcode: usize) -> usize {
    RESPONSES + usize::from(by_server) * RCODES.len() + rcode
}

/// The bucket of a duration.
fn time_bucket(nanoseconds: u64) -> usize {
    let multiple = nanoseconds.saturating_sub(1) / FIRST_TIME;
    ((u64::BITS - multiple.leading_zeros()) as usize).min(TIMES - 1)
}

/// The bucket of a size.
fn size_bucket(size: usize) -> usize {
    match SMALL_SIZES.get(size) {
        Some(&bucket) => usize::from(bucket),
        None => SIZE_BOUNDS.partition_point(|&bound| (bound as usize) < size),
    }
}

/// The index of a type in [`TYPES`].
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
    fn types_have_their_names() {
        for number in 0..=u16::MAX {
            let rtype = Type(number);
            let name = TYPES[type_index(rtype)];
            assert!(name == "other" || name == rtype.to_string(), "{rtype}");
        }
    }

    #[test]
    fn codes_have_their_names() {
        for (code, name) in RCODES.iter().enumerate().filter(|(code, _)| ![11, 16].contains(code) && *code < 17) {
            assert_eq!(Rcode(code as u16).to_string(), *name);
        }
    }

    /// A value is in the bucket of the first bound that it does not exceed.
    #[test]
    fn buckets_are_those_of_the_bounds() {
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
