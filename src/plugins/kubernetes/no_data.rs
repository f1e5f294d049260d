//! Why a name that exists has no record of the type of a query.

use crate::cluster::Lookup;
use crate::cluster::entry::Shape;
use crate::cluster::lookup::ServiceMatch;
use crate::wire::Type;

/// Why a name that exists has no record of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoData {
    /// The name is one above others, such as that of a namespace.
    Node,
    /// The Service has only IPv4 addresses.
    OnlyIpv4,
    /// The Service has only IPv6 addresses.
    OnlyIpv6,
    /// The address of the Pod is of the other family.
    PodFamily,
    /// The Service has no address yet.
    NoAddress,
    /// There are no SRV records, since no port has a number.
    NoPort,
    /// No record of the cluster has this type.
    Type,
}

impl NoData {
    /// Every reason.
    pub(super) const ALL: [NoData; 7] = [
        NoData::Node,
        NoData::OnlyIpv4,
        NoData::OnlyIpv6,
        NoData::PodFamily,
        NoData::NoAddress,
        NoData::NoPort,
        NoData::Type,
    ];

    /// Returns the reason for a name that resolves to this.
    pub(super) fn of(qtype: Type, found: &Lookup<'_>) -> NoData {
        let (has_v4, has_v6) = match found {
            Lookup::ClusterIp(found) => cluster_families(found),
            Lookup::Endpoints(found) => endpoint_families(found),
            Lookup::Pod(..) if matches!(qtype, Type::A | Type::AAAA) => return NoData::PodFamily,
            Lookup::Node => return NoData::Node,
            _ => return NoData::Type,
        };
        match qtype {
            Type::A | Type::AAAA | Type::SRV if !has_v4 && !has_v6 => NoData::NoAddress,
            Type::AAAA => NoData::OnlyIpv4,
            Type::A => NoData::OnlyIpv6,
            Type::SRV => NoData::NoPort,
            _ => NoData::Type,
        }
    }

    /// Returns the reason as one word, for log lines, metrics and scripts.
    pub(super) const fn code(self) -> &'static str {
        match self {
            NoData::Node => "no-record",
            NoData::OnlyIpv4 => "only-ipv4",
            NoData::OnlyIpv6 => "only-ipv6",
            NoData::PodFamily => "other-family",
            NoData::NoAddress => "no-address",
            NoData::NoPort => "no-port",
            NoData::Type => "no-such-type",
        }
    }

    /// Returns the reason for people.
    pub(super) const fn text(self) -> &'static str {
        match self {
            NoData::Node => "the name exists only above other names",
            NoData::OnlyIpv4 => "the Service has only IPv4 addresses",
            NoData::OnlyIpv6 => "the Service has only IPv6 addresses",
            NoData::PodFamily => "the address of the Pod is of the other family",
            NoData::NoAddress => "the Service has no address yet",
            NoData::NoPort => "the Service has no port with a number",
            NoData::Type => "the name exists, without a record of this type",
        }
    }
}

/// Returns whether a ClusterIP Service has IPv4 and IPv6 addresses.
fn cluster_families(found: &ServiceMatch<'_>) -> (bool, bool) {
    match found.entry.service.as_deref().map(|service| &service.shape) {
        Some(Shape::ClusterIp { v4, v6 }) => (!v4.is_empty(), !v6.is_empty()),
        _ => (false, false),
    }
}

/// Returns whether endpoints have IPv4 and IPv6 addresses.
fn endpoint_families(found: &ServiceMatch<'_>) -> (bool, bool) {
    if found.is_whole() {
        return (!found.entry.v4.is_empty(), !found.entry.v6.is_empty());
    }
    let mut families = (false, false);
    found.for_each_row(|row| if row.address().is_ipv4() { families.0 = true } else { families.1 = true });
    families
}
