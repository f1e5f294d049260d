//! The names of a cluster: parses the labels before the zone.
//!
//! ```text
//! web.default.svc                    a Service
//! db-0.db.default.svc                an endpoint of it
//! _http._tcp.web.default.svc         a port of it
//! zone-a.pin._zone.db.default.svc    its endpoints in a topology zone
//! 10-1-2-3.default.pod               a Pod
//! ```

use crate::wire::Question;

/// A name below the zone of a stanza. Labels are in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterName<'a> {
    /// The zone itself.
    Apex,
    /// `svc`.
    ServiceTree,
    /// `pod`.
    PodTree,
    /// `<ns>.svc`.
    Namespace(&'a [u8]),
    /// `<ns>.pod`.
    PodNamespace(&'a [u8]),
    /// `<svc>.<ns>.svc`.
    Service(ServiceName<'a>),
    /// `<endpoint>.<svc>.<ns>.svc`.
    Endpoint(ServiceName<'a>, &'a [u8]),
    /// `<port>.<protocol>.<svc>.<ns>.svc`.
    Port(ServiceName<'a>, PortName<'a>),
    /// `<topology zone>.pin._zone.<svc>.<ns>.svc` or `prefer`.
    Zonal(ServiceName<'a>, ZoneName<'a>),
    /// `<address>.<ns>.pod`; up to two labels before it are ignored, as in CoreDNS.
    Pod {
        /// The namespace.
        ns: &'a [u8],
        /// The address with dashes.
        address: &'a [u8],
    },
    /// `dns-version`: the version of the naming schema.
    SchemaVersion,
    /// `dns`, an empty non-terminal above `ns.dns`.
    Dns,
    /// `ns.dns`: the name server.
    NameServer,
    /// Any other form.
    Other,
}

/// The name of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName<'a> {
    /// `\3web\7default`: the Service's and the namespace's label in wire form, the key of the index.
    pub key: &'a [u8],
    /// The namespace.
    pub ns: &'a [u8],
}

/// The name of a port. An empty part, which a single `_` results in, matches any (a remnant of CoreDNS's wildcards).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortName<'a> {
    /// The port's name, without a leading underscore.
    pub name: &'a [u8],
    /// The protocol, without a leading underscore.
    pub protocol: &'a [u8],
}

/// The zonal part of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneName<'a> {
    /// Only endpoints of the zone (`pin`), or all endpoints if the zone has none (`prefer`).
    pub pin: bool,
    /// The topology zone in wire form without a final zero; may consist of several labels.
    pub zone: &'a [u8],
}

impl<'a> ClusterName<'a> {
    /// Parses the labels before the question's last `zone_labels` labels.
    ///
    /// # Panics
    /// If the question has fewer labels than that.
    pub fn parse(question: &'a Question, zone_labels: usize) -> ClusterName<'a> {
        let count = question.labels().checked_sub(zone_labels).expect("the zone is a suffix of the question");
        // The label at this position, counted from the right and from the zone.
        let label = |from_right: usize| question.label(count - 1 - from_right);
        let service = || ServiceName { key: question.slice(count - 3, 2), ns: label(1) };
        let is = |from_right: usize, text: &[u8]| label(from_right) == text;
        match count {
            0 => ClusterName::Apex,
            _ if is(0, b"svc") => match count {
                1 => ClusterName::ServiceTree,
                2 => ClusterName::Namespace(label(1)),
                3 => ClusterName::Service(service()),
                4 => ClusterName::Endpoint(service(), label(3)),
                5 => {
                    let port = PortName { name: without_underscore(label(4)), protocol: without_underscore(label(3)) };
                    ClusterName::Port(service(), port)
                }
                _ if is(3, b"_zone") && (is(4, b"pin") || is(4, b"prefer")) => {
                    let zone = ZoneName { pin: is(4, b"pin"), zone: question.slice(0, count - 5) };
                    ClusterName::Zonal(service(), zone)
                }
                _ => ClusterName::Other,
            },
            _ if is(0, b"pod") => match count {
                1 => ClusterName::PodTree,
                2 => ClusterName::PodNamespace(label(1)),
                3..=5 => ClusterName::Pod { ns: label(1), address: label(2) },
                _ => ClusterName::Other,
            },
            1 if is(0, b"dns-version") => ClusterName::SchemaVersion,
            1 if is(0, b"dns") => ClusterName::Dns,
            2 if is(0, b"dns") && is(1, b"ns") => ClusterName::NameServer,
            _ => ClusterName::Other,
        }
    }
}

/// Removes one leading underscore. CoreDNS accepts `http.tcp.web` as `_http._tcp.web`.
fn without_underscore(label: &[u8]) -> &[u8] {
    label.strip_prefix(b"_").unwrap_or(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, NameBuf, Type};

    fn check(name: &str, expected: ClusterName<'_>) {
        let name = NameBuf::from_text(&format!("{name}cluster.local.")).expect("a name");
        let question = Question::new(name.as_name(), Type::A, Class::IN);
        assert_eq!(ClusterName::parse(&question, 2), expected, "{name}");
    }

    #[test]
    fn each_form_is_parsed() {
        let web = ServiceName { key: b"\x03web\x01a", ns: b"a" };
        check("", ClusterName::Apex);
        check("SVC.", ClusterName::ServiceTree);
        check("pod.", ClusterName::PodTree);
        check("a.svc.", ClusterName::Namespace(b"a"));
        check("a.pod.", ClusterName::PodNamespace(b"a"));
        check("Web.A.svc.", ClusterName::Service(web));
        check("e.web.a.svc.", ClusterName::Endpoint(web, b"e"));
        let http = PortName { name: b"http", protocol: b"tcp" };
        check("_http._tcp.web.a.svc.", ClusterName::Port(web, http));
        check("HTTP.tcp.web.a.svc.", ClusterName::Port(web, http));
        check("_.__tcp.web.a.svc.", ClusterName::Port(web, PortName { name: b"", protocol: b"_tcp" }));
        let zone = ZoneName { pin: true, zone: b"\x02eu\x011" };
        check("eu.1.pin._zone.web.a.svc.", ClusterName::Zonal(web, zone));
        check("eu.1.pin._zones.web.a.svc.", ClusterName::Other);
        check("a.b.c.web.a.svc.", ClusterName::Other);
        let pod = ClusterName::Pod { ns: b"a", address: b"1-2-3-4" };
        check("1-2-3-4.a.pod.", pod);
        check("x.y.1-2-3-4.a.pod.", pod);
        check("x.y.z.1-2-3-4.a.pod.", ClusterName::Other);
        check("dns-version.", ClusterName::SchemaVersion);
        check("x.dns-version.", ClusterName::Other);
        check("dns.", ClusterName::Dns);
        check("ns.dns.", ClusterName::NameServer);
        check("x.", ClusterName::Other);
        check("x.services.", ClusterName::Other);
    }
}
