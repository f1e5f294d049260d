//! The Kubernetes objects, reduced to what DNS needs of them.
//!
//! Sources convert API objects into these; everything that no record depends on is already gone. Names are lower-case
//! text as the API server guarantees it (RFC 1123 labels); what is not such a label never gets here.

use std::net::IpAddr;

use smallvec::SmallVec;

/// The kinds of objects that the index follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Pod; followed only where a stanza says `pods verified`.
    Pod,
}

impl Kind {
    /// Every kind, in the order in which a source lists them.
    pub const ALL: [Kind; 4] = [Kind::Namespace, Kind::Service, Kind::EndpointSlice, Kind::Pod];

    /// The name that manifests, messages and metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Pod => "Pod",
        }
    }
}

/// What identifies an object within its kind. `ns` is empty for a Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace that the object is in.
    pub ns: Box<str>,
    /// The object's name.
    pub name: Box<str>,
}

impl Key {
    /// A key from its two parts.
    pub fn new(ns: impl Into<Box<str>>, name: impl Into<Box<str>>) -> Key {
        Key { ns: ns.into(), name: name.into() }
    }
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace, which is nothing but its name.
    Namespace(Key),
    /// A Service.
    Service(Service),
    /// One slice of a Service's endpoints.
    EndpointSlice(EndpointSlice),
    /// A Pod that has addresses.
    Pod(Pod),
}

impl Object {
    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Pod(_) => Kind::Pod,
        }
    }

    /// The object's key.
    pub fn key(&self) -> &Key {
        match self {
            Object::Namespace(key) => key,
            Object::Service(service) => &service.key,
            Object::EndpointSlice(slice) => &slice.key,
            Object::Pod(pod) => &pod.key,
        }
    }
}

/// A `v1` Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: Key,
    /// What its name stands for.
    pub kind: ServiceKind,
    /// `spec.ports`, in their order; empty for a Service without ports.
    pub ports: Vec<Port>,
}

/// What the name of a Service stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// ClusterIP, NodePort or LoadBalancer: `spec.clusterIPs`, both families, in their order. Empty while the API
    /// server has not allocated an address.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: its ready endpoints.
    Headless,
    /// `type: ExternalName`: `spec.externalName` as written, without a final dot.
    ExternalName(Box<str>),
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// Lower-case name; empty for an unnamed port.
    pub name: Box<str>,
    /// The transport; compared without regard to case by DNS, stored as one of three.
    pub protocol: Protocol,
    /// 1–65535. A Service's port number, or the resolved target port in a slice. `None` in a slice means "all ports"
    /// (the API's nil), which has no SRV record.
    pub number: Option<u16>,
}

/// A port's transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the API's default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The label without its underscore.
    pub const fn label(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A `discovery.k8s.io/v1` EndpointSlice of one Service: its ready endpoints only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: Key,
    /// The Service that it belongs to (label `kubernetes.io/service-name`). A slice without that label belongs to
    /// nobody and never gets here.
    pub service: Box<str>,
    /// The ready endpoints (`conditions.ready` true or absent), in their order.
    pub endpoints: Vec<Endpoint>,
    /// The ports that each of them has; empty for a slice without ports.
    pub ports: Vec<Port>,
}

/// One ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses, of the slice's family; one as a rule.
    pub addresses: SmallVec<[IpAddr; 1]>,
    /// `hostname`, lower-case.
    pub hostname: Option<Box<str>>,
    /// `targetRef.name` where it is a valid label of at most 63 octets, lower-case (for `endpoint_pod_names`).
    pub pod: Option<Box<str>>,
    /// `zone`, lower-case (for `zonal`); may hold several labels.
    pub zone: Option<Box<str>>,
}

/// A Pod, for `pods verified` and for the metadata of a client. Finished and deleted Pods are not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// `status.podIPs`, both families.
    pub addresses: Vec<IpAddr>,
    /// `metadata.labels`, sorted by key, for metadata.
    pub labels: Vec<(Box<str>, Box<str>)>,
}
