//! IPv6 addresses that contain an IPv4 address (RFC 6052), for *dns64* and *siit*.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::wire::{Reply, Section, Type};

/// The well-known prefix (RFC 6052 2.1).
pub(super) const WELL_KNOWN: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// The allowed lengths of a prefix, in bits (RFC 6052 2.2).
pub(super) const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// The index of the reserved byte, which is always zero (RFC 6052 2.2).
pub(super) const RESERVED: usize = 8;
/// The maximum TTL of a synthesized record in seconds, if the reply without addresses has no SOA (RFC 6147 5.1.7).
const TTL: u32 = 600;

/// Returns the indexes of the bytes of an address with this prefix that contain the IPv4 address; those after the
/// fourth are the suffix.
pub(super) fn ipv4_indexes(prefix: &Ipv6Net) -> impl Iterator<Item = usize> + use<> {
    (usize::from(prefix.prefix_len() / 8)..16).filter(|&at| at != RESERVED)
}

/// Returns the maximum TTL of records that replace a reply without addresses (RFC 6147 5.1.7).
pub(super) fn max_ttl(reply: &Reply) -> u32 {
    let soas = reply.section(Section::Authority).filter(|record| record.rtype == Type::SOA);
    soas.last().map_or(TTL, |soa| soa.ttl)
}
