//! What a name means: the one place that knows the rules of the Kubernetes DNS specification and of CoreDNS's
//! `kubernetes` plugin (parse.go, kubernetes.go, reverse.go).
//!
//! A look-up says what there is, or why there is nothing; which records that makes is the plugin's business.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{ReverseName, parse_dashed};
use super::entry::{EndpointName, Entry, Row, Shape, Slice};
use super::index::{Index, ServiceKeys};
use super::model::Port;
use super::name::{ClusterName, PortName, ServiceName, ZoneName};
use super::reverse::ServiceKey;

/// What a stanza shows of the cluster. Several stanzas share one index and look at it each in its own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Names below `pod`.
    pub pods: PodMode,
    /// The namespaces that are shown, in lower case; all where `None`.
    pub namespaces: Option<Vec<Box<[u8]>>>,
    /// The index holds only some namespaces (`namespace_labels`), so that a reverse name must ask for its namespace too.
    pub filtered_namespaces: bool,
    /// Endpoints without a host name are called after their Pod.
    pub endpoint_pod_names: bool,
    /// Endpoints are shown; not with `noendpoints`.
    pub endpoints: bool,
    /// A ClusterIP Service without a ready endpoint does not exist.
    pub ignore_empty_service: bool,
    /// Zonal names exist.
    pub zonal: bool,
}

/// How names below `pod` are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// Not at all.
    #[default]
    Disabled,
    /// Any address that the name spells.
    Insecure,
    /// Only addresses of Pods in that namespace.
    Verified,
}

impl Default for View {
    fn default() -> View {
        View {
            pods: PodMode::Disabled,
            namespaces: None,
            filtered_namespaces: false,
            endpoint_pod_names: false,
            endpoints: true,
            ignore_empty_service: false,
            zonal: false,
        }
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Lookup<'a> {
    /// It exists and has no record of its own: the zone, a tree, a namespace, an empty non-terminal.
    Node,
    /// A Service with cluster addresses, or one port of it.
    ClusterIp(Found<'a>),
    /// Ready endpoints: all of a headless Service, or some of any.
    Endpoints(Found<'a>),
    /// Another name.
    ExternalName(Arc<Entry>),
    /// A Pod's address.
    Pod(IpAddr),
    /// `dns-version`.
    SchemaVersion,
    /// `ns.dns`.
    NameServer,
    /// It does not exist.
    Missing(Reason),
}

/// A Service, and what of it is meant.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// The Service and its endpoints.
    pub entry: Arc<Entry>,
    /// Which endpoints.
    pub endpoints: Endpoints<'a>,
    /// Which ports; all where `None`.
    pub port: Option<PortName<'a>>,
}

/// Which endpoints of a Service are meant.
#[derive(Clone, Copy, Debug)]
pub enum Endpoints<'a> {
    /// All.
    All,
    /// The one with this name.
    Named(EndpointName<'a>),
    /// Those of this topology zone, given as labels in wire form.
    InZone(&'a [u8]),
    /// None, though the name exists: `pin` to a zone without endpoints.
    None,
}

impl PortName<'_> {
    /// Whether a port is meant. Names are compared without regard to case; both are in lower case here.
    pub fn matches(self, port: &Port) -> bool {
        (self.name.is_empty() || self.name == port.name.as_bytes())
            && (self.protocol.is_empty() || self.protocol == port.protocol.label().as_bytes())
    }

    /// Whether every port is meant, even the lack of one.
    fn is_any(self) -> bool {
        self.name.is_empty() && self.protocol.is_empty()
    }
}

/// Why a name does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No name of a cluster has this form.
    NoSuchForm,
    /// The namespace does not exist, or this stanza does not show it.
    NoSuchNamespace,
    /// There is no such Service.
    NoSuchService,
    /// The headless Service has no ready endpoint.
    NoReadyEndpoint,
    /// The ClusterIP Service has no ready endpoint (`ignore empty_service`).
    EmptyService,
    /// No ready endpoint has this name.
    NoSuchEndpoint,
    /// The Service has no such port.
    NoSuchPort,
    /// Zonal names are off, or the Service is not headless.
    NotZonal,
    /// An ExternalName Service has no names below its own.
    BelowExternalName,
    /// `externalName` is an address or no name.
    BadExternalName,
    /// Names of Pods are off.
    PodsDisabled,
    /// The label spells no address.
    NotAnAddress,
    /// No Pod of that namespace has this address.
    NoSuchPod,
    /// Nothing in the cluster has this address.
    NoSuchAddress,
    /// A reverse zone has no forward names.
    NotReverse,
}

impl Reason {
    /// For a person: extended DNS errors, logs.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::NoSuchForm => "no name of a cluster has this form",
            Reason::NoSuchNamespace => "no such namespace",
            Reason::NoSuchService => "no such Service",
            Reason::NoReadyEndpoint => "the headless Service has no ready endpoint",
            Reason::EmptyService => "the Service has no ready endpoint",
            Reason::NoSuchEndpoint => "no ready endpoint has this name",
            Reason::NoSuchPort => "the Service has no such port",
            Reason::NotZonal => "zonal names are for headless Services, where they are on",
            Reason::BelowExternalName => "an ExternalName Service has no names below its own",
            Reason::BadExternalName => "externalName is not a DNS name",
            Reason::PodsDisabled => "names of Pods are disabled",
            Reason::NotAnAddress => "the label spells no address",
            Reason::NoSuchPod => "no Pod of the namespace has this address",
            Reason::NoSuchAddress => "nothing in the cluster has this address",
            Reason::NotReverse => "a reverse zone has no such name",
        }
    }
}

/// What a reverse name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReverseLookup {
    /// A Service's cluster address: its key.
    Service(ServiceKey),
    /// An endpoint's address: the keys of the Services that have it, in order.
    Endpoints(ServiceKeys),
    /// Nothing of its own, but something below it.
    Node,
    /// Nothing.
    Missing(Reason),
}

impl Index {
    /// What a forward name stands for. Independent of the type asked for: a name that exists for one type exists for
    /// all.
    pub fn lookup<'a>(&self, name: &ClusterName<'a>, view: &View) -> Lookup<'a> {
        match *name {
            ClusterName::Apex | ClusterName::ServiceTree | ClusterName::PodTree | ClusterName::Dns => Lookup::Node,
            ClusterName::SchemaVersion => Lookup::SchemaVersion,
            ClusterName::NameServer => Lookup::NameServer,
            ClusterName::Other => Lookup::Missing(Reason::NoSuchForm),
            ClusterName::Namespace(ns) => self.namespace(ns, view),
            ClusterName::PodNamespace(_) if view.pods == PodMode::Disabled => Lookup::Missing(Reason::PodsDisabled),
            ClusterName::PodNamespace(ns) => self.namespace(ns, view),
            ClusterName::Pod { ns, address } => self.pod(ns, address, view),
            ClusterName::Service(service) => self.service(service, view, |entry| whole_service(entry, view)),
            ClusterName::Endpoint(service, label) => self.service(service, view, |entry| endpoint(entry, label, view)),
            ClusterName::Port(service, port) => self.service(service, view, |entry| service_port(entry, port, view)),
            ClusterName::Zonal(service, zone) => self.service(service, view, |entry| zonal(entry, zone, view)),
        }
    }

    /// What a reverse name stands for.
    pub fn lookup_reverse(&self, name: ReverseName, view: &View) -> ReverseLookup {
        let address = match name {
            ReverseName::Address(address) => address,
            ReverseName::Prefix { first, last } if self.has_address_within(first, last) => return ReverseLookup::Node,
            ReverseName::Prefix { .. } | ReverseName::Other => return ReverseLookup::Missing(Reason::NoSuchAddress),
        };
        // A Service need not be in a known namespace unless the stanza shows only some (CoreDNS `serviceRecordForIP`).
        let exposed = |key: &[u8]| {
            let ns = &key[2 + usize::from(key[0])..];
            match &view.namespaces {
                Some(namespaces) => namespaces.iter().any(|have| **have == *ns),
                None => !view.filtered_namespaces || self.has_namespace(ns),
            }
        };
        if let Some(key) = self.cluster_owner(address, exposed) {
            return ReverseLookup::Service(key);
        }
        let mut keys = if view.endpoints { self.endpoint_owners(address) } else { ServiceKeys::new() };
        keys.retain(|key| exposed(key));
        if keys.is_empty() { ReverseLookup::Missing(Reason::NoSuchAddress) } else { ReverseLookup::Endpoints(keys) }
    }

    /// Whether a stanza shows a namespace. The namespace must exist, even where the stanza lists it.
    fn shows(&self, ns: &[u8], view: &View) -> bool {
        view.namespaces.as_ref().is_none_or(|shown| shown.iter().any(|have| **have == *ns)) && self.has_namespace(ns)
    }

    fn namespace(&self, ns: &[u8], view: &View) -> Lookup<'static> {
        if self.shows(ns, view) { Lookup::Node } else { Lookup::Missing(Reason::NoSuchNamespace) }
    }

    fn pod(&self, ns: &[u8], label: &[u8], view: &View) -> Lookup<'static> {
        if view.pods == PodMode::Disabled {
            return Lookup::Missing(Reason::PodsDisabled);
        }
        if !self.shows(ns, view) {
            return Lookup::Missing(Reason::NoSuchNamespace);
        }
        let Some(address) = parse_dashed(label) else { return Lookup::Missing(Reason::NotAnAddress) };
        if view.pods == PodMode::Verified {
            let mut found = false;
            self.pods_at(address, |pod| found |= pod.key.ns.as_bytes() == ns);
            if !found {
                return Lookup::Missing(Reason::NoSuchPod);
            }
        }
        Lookup::Pod(address)
    }

    fn service<'a>(
        &self, service: ServiceName<'_>, view: &View, then: impl FnOnce(Arc<Entry>) -> Lookup<'a>,
    ) -> Lookup<'a> {
        if !self.shows(service.ns, view) {
            return Lookup::Missing(Reason::NoSuchNamespace);
        }
        match self.entry(service.key) {
            Some(entry) if entry.service.is_some() => then(entry),
            _ => Lookup::Missing(Reason::NoSuchService),
        }
    }
}

/// `<svc>.<ns>.svc`.
fn whole_service(entry: Arc<Entry>, view: &View) -> Lookup<'static> {
    match shape(&entry) {
        Some(Shape::ExternalName(Some(_))) => Lookup::ExternalName(entry),
        Some(Shape::ExternalName(None)) => Lookup::Missing(Reason::BadExternalName),
        // Specification 2.4.1: no ready endpoint, NXDOMAIN.
        Some(Shape::Headless) if !view.endpoints || !entry.has_endpoints() => Lookup::Missing(Reason::NoReadyEndpoint),
        Some(Shape::Headless) => Lookup::Endpoints(Found { entry, endpoints: Endpoints::All, port: None }),
        Some(Shape::ClusterIp { .. }) if is_hidden(&entry, view) => Lookup::Missing(Reason::EmptyService),
        Some(Shape::ClusterIp { .. }) => Lookup::ClusterIp(Found { entry, endpoints: Endpoints::All, port: None }),
        None => Lookup::Missing(Reason::NoSuchService),
    }
}

/// `<endpoint>.<svc>.<ns>.svc`, of any Service but an ExternalName.
fn endpoint<'a>(entry: Arc<Entry>, label: &'a [u8], view: &View) -> Lookup<'a> {
    match shape(&entry) {
        Some(Shape::ExternalName(_)) => return Lookup::Missing(Reason::BelowExternalName),
        Some(Shape::ClusterIp { .. }) if is_hidden(&entry, view) => return Lookup::Missing(Reason::EmptyService),
        _ => {}
    }
    // `_tcp` is no endpoint but an empty non-terminal where `_http._tcp` exists (RFC 8020), and so is `_zone`. For want
    // of a name a port is still `_._tcp`, so that every port counts.
    if let Some(protocol) = label.strip_prefix(b"_") {
        let wanted = PortName { name: b"", protocol };
        let zonal = view.zonal && protocol == b"zone" && shape(&entry) == Some(&Shape::Headless);
        let exists = view.endpoints && zonal && entry.has_endpoints() || has_port(&entry, wanted, view);
        return if exists { Lookup::Node } else { Lookup::Missing(Reason::NoSuchPort) };
    }
    let name = EndpointName::new(label, view.endpoint_pod_names);
    if view.endpoints && entry.slices.iter().any(|slice| slice.rows_named(&name).next().is_some()) {
        Lookup::Endpoints(Found { entry, endpoints: Endpoints::Named(name), port: None })
    } else {
        Lookup::Missing(Reason::NoSuchEndpoint)
    }
}

/// `<port>.<protocol>.<svc>.<ns>.svc`.
fn service_port<'a>(entry: Arc<Entry>, wanted: PortName<'a>, view: &View) -> Lookup<'a> {
    let headless = match shape(&entry) {
        Some(Shape::ExternalName(_)) | None => return Lookup::Missing(Reason::BelowExternalName),
        Some(Shape::ClusterIp { .. }) if is_hidden(&entry, view) => return Lookup::Missing(Reason::EmptyService),
        Some(Shape::ClusterIp { .. }) => false,
        Some(Shape::Headless) => true,
    };
    if !has_port(&entry, wanted, view) {
        // `pin._zone` is above the zonal names.
        let zonal = view.zonal && wanted.protocol == b"zone" && matches!(wanted.name, b"pin" | b"prefer");
        let exists = zonal && headless && view.endpoints && entry.has_endpoints();
        return if exists { Lookup::Node } else { Lookup::Missing(Reason::NoSuchPort) };
    }
    let port = Some(wanted);
    if headless {
        Lookup::Endpoints(Found { entry, endpoints: Endpoints::All, port })
    } else {
        Lookup::ClusterIp(Found { entry, endpoints: Endpoints::All, port })
    }
}

/// `<topology zone>.pin._zone.<svc>.<ns>.svc`.
fn zonal<'a>(entry: Arc<Entry>, zone: ZoneName<'a>, view: &View) -> Lookup<'a> {
    if !view.zonal || shape(&entry) != Some(&Shape::Headless) {
        return Lookup::Missing(Reason::NotZonal);
    }
    // A headless Service has every zone's name, whatever endpoints it has: NODATA, so that a client's negative cache does
    // not deny the name for the other types (CoreDNS `findServices`).
    let in_zone = entry.slices.iter().any(|slice| slice.rows().any(|row| row.is_in_zone(zone.zone)));
    let endpoints = match (in_zone, zone.pin) {
        (true, _) => Endpoints::InZone(zone.zone),
        (false, true) => Endpoints::None,
        (false, false) => Endpoints::All,
    };
    Lookup::Endpoints(Found { entry, endpoints, port: None })
}

fn shape(entry: &Entry) -> Option<&Shape> {
    entry.service.as_deref().map(|service| &service.shape)
}

/// `ignore empty_service`. With `noendpoints` there is never an endpoint, which hides every ClusterIP Service, as in
/// CoreDNS.
fn is_hidden(entry: &Entry, view: &View) -> bool {
    view.ignore_empty_service && !(view.endpoints && entry.has_endpoints())
}

/// Whether a port is there: of the Service, or for a headless one of a slice with a ready endpoint. A Service or slice
/// without ports has one without a name, protocol or number (CoreDNS's sentinel −1).
fn has_port(entry: &Entry, wanted: PortName<'_>, view: &View) -> bool {
    let Some(service) = &entry.service else { return false };
    let any = |ports: &[Port]| ports.iter().any(|port| wanted.matches(port)) || ports.is_empty() && wanted.is_any();
    match service.shape {
        Shape::ClusterIp { .. } => any(&service.ports),
        Shape::Headless => view.endpoints && entry.slices.iter().any(|slice| !slice.is_empty() && any(&slice.ports)),
        Shape::ExternalName(_) => false,
    }
}

impl Found<'_> {
    /// Calls `visit` with each endpoint that is meant, slice by slice.
    pub fn rows<'e>(&'e self, mut visit: impl FnMut(Row<'e>)) {
        for slice in &self.entry.slices {
            if !self.wants_slice(slice) {
                continue;
            }
            match &self.endpoints {
                Endpoints::None => {}
                Endpoints::All => slice.rows().for_each(&mut visit),
                Endpoints::Named(name) => slice.rows_named(name).for_each(&mut visit),
                Endpoints::InZone(zone) => slice.rows().filter(|row| row.is_in_zone(zone)).for_each(&mut visit),
            }
        }
    }

    /// Whether a port is meant.
    pub fn wants_port(&self, port: &Port) -> bool {
        self.port.is_none_or(|wanted| wanted.matches(port))
    }

    /// How many of these ports are meant. Where there is none at all, a lack of ports counts as one (CoreDNS's
    /// sentinel −1), which the weights of SRV records include.
    pub fn count_ports(&self, ports: &[Port]) -> usize {
        match ports {
            [] => usize::from(self.port.is_none_or(PortName::is_any)),
            _ => ports.iter().filter(|port| self.wants_port(port)).count(),
        }
    }

    /// Whether all endpoints with all their ports are meant, so that the entry's merged addresses are the answer.
    pub fn is_whole(&self) -> bool {
        matches!(self.endpoints, Endpoints::All) && self.port.is_none()
    }

    fn wants_slice(&self, slice: &Slice) -> bool {
        self.port.is_none() || self.count_ports(&slice.ports) > 0
    }
}
