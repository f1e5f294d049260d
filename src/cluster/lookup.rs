//! Resolves names: the only place with the rules of the Kubernetes DNS specification and of CoreDNS's plugin
//! `kubernetes` (parse.go, kubernetes.go, reverse.go).
//!
//! A look-up returns what exists, or why nothing does; the plugin decides which records result from it.

use std::net::IpAddr;
use std::sync::Arc;

use super::address::{ReverseName, parse_dashed};
use super::entry::{EndpointName, Row, ServiceEntry, Shape, Slice};
use super::index::{Index, ServiceKeys};
use super::model::Port;
use super::name::{ClusterName, PortName, ServiceName, ZoneName};
use super::reverse::ServiceKey;

/// The part of the cluster that a stanza exposes. Several stanzas may share an index, each with its own view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// How names below `pod` are answered.
    pub pods: PodMode,
    /// The exposed namespaces in lower case, or `None` for all.
    pub namespaces: Option<Vec<Box<[u8]>>>,
    /// Whether the index has only some namespaces (`namespace_labels`), so that reverse look-ups must check the
    /// namespace too.
    pub filtered_namespaces: bool,
    /// Whether endpoints without a host name have the name of their Pod.
    pub endpoint_pod_names: bool,
    /// Whether endpoints are exposed; false with `noendpoints`.
    pub endpoints: bool,
    /// Whether a ClusterIP Service without a ready endpoint is hidden.
    pub ignore_empty_service: bool,
    /// Whether zonal names exist.
    pub zonal: bool,
}

impl View {
    /// Returns whether the option `namespaces` lists a namespace, or is missing.
    pub(super) fn lists_namespace(&self, ns: &[u8]) -> bool {
        self.namespaces.as_ref().is_none_or(|listed| listed.iter().any(|have| **have == *ns))
    }
}

/// How names below `pod` are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// They do not exist.
    #[default]
    Disabled,
    /// Every valid address resolves to itself.
    Insecure,
    /// Only addresses of Pods in that namespace resolve.
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

/// What a name resolves to.
#[derive(Clone, Debug)]
pub enum Lookup<'a> {
    /// The name exists and has no record of its own: the zone, a tree, a namespace, an empty non-terminal.
    Node,
    /// A Service with cluster addresses, or a port of it.
    ClusterIp(ServiceMatch<'a>),
    /// Ready endpoints: all of a headless Service, or some of any Service.
    Endpoints(ServiceMatch<'a>),
    /// The target of an ExternalName.
    ExternalName(Arc<ServiceEntry>),
    /// The address of a Pod, and how many Pods of the namespace have it, as far as Pods are known; at least 1.
    Pod(IpAddr, usize),
    /// `dns-version`.
    SchemaVersion,
    /// `ns.dns`.
    NameServer,
    /// The name does not exist.
    Missing(Reason),
}

/// A Service, and the part of it that a name refers to.
#[derive(Clone, Debug)]
pub struct ServiceMatch<'a> {
    /// The Service and its endpoints.
    pub entry: Arc<ServiceEntry>,
    /// The endpoints that the name refers to.
    pub endpoints: EndpointSelection<'a>,
    /// The port that the name refers to, or `None` for all.
    pub port: Option<PortName<'a>>,
}

/// A selection of the endpoints of a Service.
#[derive(Clone, Copy, Debug)]
pub enum EndpointSelection<'a> {
    /// All endpoints.
    All,
    /// The endpoint with this name.
    Named(EndpointName<'a>),
    /// The endpoints of this topology zone, given as labels in wire form.
    InZone(&'a [u8]),
    /// No endpoint, although the name exists: `pin` to a zone without endpoints.
    None,
}

impl PortName<'_> {
    /// Returns whether a port matches. Names are compared ignoring case; both are in lower case here.
    pub fn matches(self, port: &Port) -> bool {
        (self.name.is_empty() || self.name == port.name.as_bytes())
            && (self.protocol.is_empty() || self.protocol == port.protocol.label().as_bytes())
    }

    /// Returns whether every port matches, and the absence of ports too.
    fn is_any(self) -> bool {
        self.name.is_empty() && self.protocol.is_empty()
    }
}

/// The reason why a name does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Names of the cluster do not have this form.
    NoSuchForm,
    /// The namespace does not exist, or the stanza does not expose it.
    NoSuchNamespace,
    /// The Service does not exist.
    NoSuchService,
    /// The headless Service has no ready endpoint.
    NoReadyEndpoint,
    /// The ClusterIP Service has no ready endpoint (`ignore empty_service`).
    EmptyService,
    /// No ready endpoint has this name.
    NoSuchEndpoint,
    /// The Service has no such port.
    NoSuchPort,
    /// Zonal names are disabled, or the Service is not headless.
    NotZonal,
    /// An ExternalName Service has no names below its own.
    BelowExternalName,
    /// `externalName` is an address or not a name.
    BadExternalName,
    /// Names of Pods are disabled.
    PodsDisabled,
    /// The label is not an address.
    NotAnAddress,
    /// No Pod of that namespace has this address.
    NoSuchPod,
    /// No Service or endpoint has this address.
    NoSuchAddress,
    /// The name is a forward name in a reverse zone.
    NotReverse,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 15] = [
        Reason::NoSuchForm,
        Reason::NoSuchNamespace,
        Reason::NoSuchService,
        Reason::NoReadyEndpoint,
        Reason::EmptyService,
        Reason::NoSuchEndpoint,
        Reason::NoSuchPort,
        Reason::NotZonal,
        Reason::BelowExternalName,
        Reason::BadExternalName,
        Reason::PodsDisabled,
        Reason::NotAnAddress,
        Reason::NoSuchPod,
        Reason::NoSuchAddress,
        Reason::NotReverse,
    ];

    /// Returns the reason as one word, for scripts, log formats and metrics.
    pub const fn code(self) -> &'static str {
        match self {
            Reason::NoSuchForm => "no-such-form",
            Reason::NoSuchNamespace => "no-such-namespace",
            Reason::NoSuchService => "no-such-service",
            Reason::NoReadyEndpoint => "no-ready-endpoint",
            Reason::EmptyService => "empty-service",
            Reason::NoSuchEndpoint => "no-such-endpoint",
            Reason::NoSuchPort => "no-such-port",
            Reason::NotZonal => "not-zonal",
            Reason::BelowExternalName => "below-external-name",
            Reason::BadExternalName => "bad-external-name",
            Reason::PodsDisabled => "pods-disabled",
            Reason::NotAnAddress => "not-an-address",
            Reason::NoSuchPod => "no-such-pod",
            Reason::NoSuchAddress => "no-such-address",
            Reason::NotReverse => "not-reverse",
        }
    }

    /// Returns the text for people, for extended DNS errors and logs.
    pub const fn text(self) -> &'static str {
        match self {
            Reason::NoSuchForm => "names of the cluster do not have this form",
            Reason::NoSuchNamespace => "no such namespace",
            Reason::NoSuchService => "no such Service",
            Reason::NoReadyEndpoint => "the headless Service has no ready endpoint",
            Reason::EmptyService => "the Service has no ready endpoint",
            Reason::NoSuchEndpoint => "no ready endpoint has this name",
            Reason::NoSuchPort => "the Service has no such port",
            Reason::NotZonal => "zonal names are disabled, or the Service is not headless",
            Reason::BelowExternalName => "an ExternalName Service has no names below its own",
            Reason::BadExternalName => "externalName is not a DNS name",
            Reason::PodsDisabled => "Pod names are disabled",
            Reason::NotAnAddress => "the label is not an address",
            Reason::NoSuchPod => "no Pod of the namespace has this address",
            Reason::NoSuchAddress => "no Service or endpoint has this address",
            Reason::NotReverse => "a reverse zone has no such name",
        }
    }
}

/// What a reverse name resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReverseLookup {
    /// The cluster address of a Service, given by its key.
    Service(ServiceKey),
    /// The address of endpoints: the keys of the Services that have it, in order.
    Endpoints(ServiceKeys),
    /// The name has no record, but names below it have.
    Node,
    /// The name does not exist.
    Missing(Reason),
}

impl Index {
    /// Resolves a forward name. The result does not depend on the query type: a name that exists for one type exists
    /// for all.
    pub fn lookup<'a>(&self, name: &ClusterName<'a>, view: &View) -> Lookup<'a> {
        match *name {
            ClusterName::Apex | ClusterName::ServiceTree | ClusterName::PodTree | ClusterName::Dns => Lookup::Node,
            ClusterName::SchemaVersion => Lookup::SchemaVersion,
            ClusterName::NameServer => Lookup::NameServer,
            ClusterName::Other => Lookup::Missing(Reason::NoSuchForm),
            ClusterName::Namespace(ns) => self.lookup_namespace(ns, view),
            ClusterName::PodNamespace(_) if view.pods == PodMode::Disabled => Lookup::Missing(Reason::PodsDisabled),
            ClusterName::PodNamespace(ns) => self.lookup_namespace(ns, view),
            ClusterName::Pod { ns, address } => self.lookup_pod(ns, address, view),
            ClusterName::Service(service) => self.lookup_service(service, view, |entry| resolve_service(entry, view)),
            ClusterName::Endpoint(service, label) => {
                self.lookup_service(service, view, |entry| resolve_endpoint(entry, label, view))
            }
            ClusterName::Port(service, port) => {
                self.lookup_service(service, view, |entry| resolve_port(entry, port, view))
            }
            ClusterName::Zonal(service, zone) => {
                self.lookup_service(service, view, |entry| resolve_zonal(entry, zone, view))
            }
        }
    }

    /// Resolves a reverse name.
    pub fn lookup_reverse(&self, name: ReverseName, view: &View) -> ReverseLookup {
        let address = match name {
            ReverseName::Address(address) => address,
            ReverseName::Prefix { first, last } if self.has_address_within(first, last) => return ReverseLookup::Node,
            ReverseName::Prefix { .. } | ReverseName::Other => return ReverseLookup::Missing(Reason::NoSuchAddress),
        };
        // A Service need not be in a known namespace, unless the stanza exposes only some (CoreDNS
        // `serviceRecordForIP`).
        let is_exposed = |key: &[u8]| {
            let ns = &key[2 + usize::from(key[0])..];
            match &view.namespaces {
                Some(namespaces) => namespaces.iter().any(|have| **have == *ns),
                None => !view.filtered_namespaces || self.has_namespace(ns),
            }
        };
        if let Some(key) = self.cluster_owner(address, is_exposed) {
            return ReverseLookup::Service(key);
        }
        let mut keys = if view.endpoints { self.endpoint_owners(address) } else { ServiceKeys::new() };
        keys.retain(|key| is_exposed(key));
        if keys.is_empty() { ReverseLookup::Missing(Reason::NoSuchAddress) } else { ReverseLookup::Endpoints(keys) }
    }

    /// Returns whether the view exposes a namespace. The namespace must exist, even if the stanza lists it.
    pub(super) fn exposes(&self, ns: &[u8], view: &View) -> bool {
        view.lists_namespace(ns) && self.has_namespace(ns)
    }

    fn lookup_namespace(&self, ns: &[u8], view: &View) -> Lookup<'static> {
        if self.exposes(ns, view) { Lookup::Node } else { Lookup::Missing(Reason::NoSuchNamespace) }
    }

    fn lookup_pod(&self, ns: &[u8], label: &[u8], view: &View) -> Lookup<'static> {
        if view.pods == PodMode::Disabled {
            return Lookup::Missing(Reason::PodsDisabled);
        }
        if !self.exposes(ns, view) {
            return Lookup::Missing(Reason::NoSuchNamespace);
        }
        let Some(address) = parse_dashed(label) else { return Lookup::Missing(Reason::NotAnAddress) };
        let mut found = 1;
        if view.pods == PodMode::Verified {
            found = 0;
            self.pods_at(address, |pod| found += usize::from(pod.key.ns.as_bytes() == ns));
            if found == 0 {
                return Lookup::Missing(Reason::NoSuchPod);
            }
        }
        Lookup::Pod(address, found)
    }

    fn lookup_service<'a>(
        &self, service: ServiceName<'_>, view: &View, resolve: impl FnOnce(Arc<ServiceEntry>) -> Lookup<'a>,
    ) -> Lookup<'a> {
        if !self.exposes(service.ns, view) {
            return Lookup::Missing(Reason::NoSuchNamespace);
        }
        match self.entry(service.key) {
            Some(entry) if entry.service.is_some() => resolve(entry),
            _ => Lookup::Missing(Reason::NoSuchService),
        }
    }
}

/// Resolves `<svc>.<ns>.svc`.
fn resolve_service(entry: Arc<ServiceEntry>, view: &View) -> Lookup<'static> {
    match shape(&entry) {
        Some(Shape::ExternalName(Some(_))) => Lookup::ExternalName(entry),
        Some(Shape::ExternalName(None)) => Lookup::Missing(Reason::BadExternalName),
        // Specification 2.4.1: no ready endpoint, NXDOMAIN.
        Some(Shape::Headless) if !view.endpoints || !entry.has_endpoints() => Lookup::Missing(Reason::NoReadyEndpoint),
        Some(Shape::Headless) => {
            Lookup::Endpoints(ServiceMatch { entry, endpoints: EndpointSelection::All, port: None })
        }
        Some(Shape::ClusterIp { .. }) if is_hidden(&entry, view) => Lookup::Missing(Reason::EmptyService),
        Some(Shape::ClusterIp { .. }) => {
            Lookup::ClusterIp(ServiceMatch { entry, endpoints: EndpointSelection::All, port: None })
        }
        None => Lookup::Missing(Reason::NoSuchService),
    }
}

/// Resolves `<endpoint>.<svc>.<ns>.svc` of any Service except an ExternalName.
fn resolve_endpoint<'a>(entry: Arc<ServiceEntry>, label: &'a [u8], view: &View) -> Lookup<'a> {
    match shape(&entry) {
        Some(Shape::ExternalName(_)) => return Lookup::Missing(Reason::BelowExternalName),
        Some(Shape::ClusterIp { .. }) if is_hidden(&entry, view) => return Lookup::Missing(Reason::EmptyService),
        _ => {}
    }
    // `_tcp` is not an endpoint but an empty non-terminal if `_http._tcp` exists (RFC 8020), and so is `_zone`. A port
    // without a name is still `_._tcp`, so every port counts.
    if let Some(protocol) = label.strip_prefix(b"_") {
        let wanted = PortName { name: b"", protocol };
        let zonal = view.zonal && protocol == b"zone" && shape(&entry) == Some(&Shape::Headless);
        let exists = view.endpoints && zonal && entry.has_endpoints() || has_port(&entry, wanted, view);
        return if exists { Lookup::Node } else { Lookup::Missing(Reason::NoSuchPort) };
    }
    let name = EndpointName::new(label, view.endpoint_pod_names);
    if view.endpoints && entry.slices.iter().any(|slice| slice.rows_named(&name).next().is_some()) {
        Lookup::Endpoints(ServiceMatch { entry, endpoints: EndpointSelection::Named(name), port: None })
    } else {
        Lookup::Missing(Reason::NoSuchEndpoint)
    }
}

/// Resolves `<port>.<protocol>.<svc>.<ns>.svc`.
fn resolve_port<'a>(entry: Arc<ServiceEntry>, wanted: PortName<'a>, view: &View) -> Lookup<'a> {
    let headless = match shape(&entry) {
        Some(Shape::ExternalName(_)) | None => return Lookup::Missing(Reason::BelowExternalName),
        Some(Shape::ClusterIp { .. }) if is_hidden(&entry, view) => return Lookup::Missing(Reason::EmptyService),
        Some(Shape::ClusterIp { .. }) => false,
        Some(Shape::Headless) => true,
    };
    if !has_port(&entry, wanted, view) {
        // `pin._zone` is an empty non-terminal above the zonal names.
        let zonal = view.zonal && wanted.protocol == b"zone" && matches!(wanted.name, b"pin" | b"prefer");
        let exists = zonal && headless && view.endpoints && entry.has_endpoints();
        return if exists { Lookup::Node } else { Lookup::Missing(Reason::NoSuchPort) };
    }
    let port = Some(wanted);
    if headless {
        Lookup::Endpoints(ServiceMatch { entry, endpoints: EndpointSelection::All, port })
    } else {
        Lookup::ClusterIp(ServiceMatch { entry, endpoints: EndpointSelection::All, port })
    }
}

/// Resolves `<topology zone>.pin._zone.<svc>.<ns>.svc`.
fn resolve_zonal<'a>(entry: Arc<ServiceEntry>, zone: ZoneName<'a>, view: &View) -> Lookup<'a> {
    if !view.zonal || shape(&entry) != Some(&Shape::Headless) {
        return Lookup::Missing(Reason::NotZonal);
    }
    // A headless Service has the names of all zones, whatever endpoints it has: NODATA, so that a client's negative
    // cache does not deny the name for the other types (CoreDNS `findServices`).
    let in_zone = entry.slices.iter().any(|slice| slice.rows().any(|row| row.is_in_zone(zone.zone)));
    let endpoints = match (in_zone, zone.pin) {
        (true, _) => EndpointSelection::InZone(zone.zone),
        (false, true) => EndpointSelection::None,
        (false, false) => EndpointSelection::All,
    };
    Lookup::Endpoints(ServiceMatch { entry, endpoints, port: None })
}

fn shape(entry: &ServiceEntry) -> Option<&Shape> {
    entry.service.as_deref().map(|service| &service.shape)
}

/// Returns whether `ignore empty_service` hides a Service. With `noendpoints` there is never an endpoint, which hides
/// every ClusterIP Service, as in CoreDNS.
fn is_hidden(entry: &ServiceEntry, view: &View) -> bool {
    view.ignore_empty_service && !(view.endpoints && entry.has_endpoints())
}

/// Returns whether a port exists: of the Service, or for a headless Service of a slice with a ready endpoint. A Service
/// or slice without ports has one without a name, protocol or number (CoreDNS's sentinel −1).
fn has_port(entry: &ServiceEntry, wanted: PortName<'_>, view: &View) -> bool {
    let Some(service) = &entry.service else { return false };
    let any = |ports: &[Port]| ports.iter().any(|port| wanted.matches(port)) || ports.is_empty() && wanted.is_any();
    match service.shape {
        Shape::ClusterIp { .. } => any(&service.ports),
        Shape::Headless => view.endpoints && entry.slices.iter().any(|slice| !slice.is_empty() && any(&slice.ports)),
        Shape::ExternalName(_) => false,
    }
}

impl ServiceMatch<'_> {
    /// Calls `visit` with each selected endpoint, slice by slice.
    pub fn for_each_row<'e>(&'e self, mut visit: impl FnMut(Row<'e>)) {
        for slice in &self.entry.slices {
            if !self.includes_slice(slice) {
                continue;
            }
            match &self.endpoints {
                EndpointSelection::None => {}
                EndpointSelection::All => slice.rows().for_each(&mut visit),
                EndpointSelection::Named(name) => slice.rows_named(name).for_each(&mut visit),
                EndpointSelection::InZone(zone) => slice.rows().filter(|row| row.is_in_zone(zone)).for_each(&mut visit),
            }
        }
    }

    /// Returns whether a port is selected.
    pub fn includes_port(&self, port: &Port) -> bool {
        self.port.is_none_or(|wanted| wanted.matches(port))
    }

    /// Returns the number of selected ports. If there are no ports at all, their absence counts as one (CoreDNS's
    /// sentinel −1), which the weights of SRV records include.
    pub fn count_ports(&self, ports: &[Port]) -> usize {
        match ports {
            [] => usize::from(self.port.is_none_or(PortName::is_any)),
            _ => ports.iter().filter(|port| self.includes_port(port)).count(),
        }
    }

    /// Returns whether all endpoints and ports are selected, so that the merged addresses of the entry are the answer.
    pub fn is_whole(&self) -> bool {
        matches!(self.endpoints, EndpointSelection::All) && self.port.is_none()
    }

    fn includes_slice(&self, slice: &Slice) -> bool {
        self.port.is_none() || self.count_ports(&slice.ports) > 0
    }
}
