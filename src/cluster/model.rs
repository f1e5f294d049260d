//! The Kubernetes objects, reduced to the fields that DNS needs.
//!
//! Sources convert API objects into these types and drop all fields that no record depends on. Names are lower-case
//! text as the API server guarantees it (RFC 1123 labels); objects with invalid names are ignored before.

use std::net::IpAddr;

use smallvec::SmallVec;

/// The kinds of objects in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Pod; watched only if a stanza has `pods verified`.
    Pod,
}

impl Kind {
    /// Every kind, in the order in which a source lists them.
    pub const ALL: [Kind; 4] = [Kind::Namespace, Kind::Service, Kind::EndpointSlice, Kind::Pod];

    /// Returns the name as used in manifests, messages and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Pod => "Pod",
        }
    }
}

/// The identity of an object within its kind. `ns` is empty for a Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace of the object.
    pub ns: Box<str>,
    /// The name of the object.
    pub name: Box<str>,
}

impl ObjectKey {
    /// Creates a key from a namespace and a name.
    pub fn new(ns: impl Into<Box<str>>, name: impl Into<Box<str>>) -> ObjectKey {
        ObjectKey { ns: ns.into(), name: name.into() }
    }
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A namespace, of which only the name matters.
    Namespace(ObjectKey),
    /// A Service.
    Service(Service),
    /// A slice of the endpoints of a Service.
    EndpointSlice(EndpointSlice),
    /// A Pod that has addresses.
    Pod(Pod),
}

impl Object {
    /// Returns the kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Namespace(_) => Kind::Namespace,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Pod(_) => Kind::Pod,
        }
    }

    /// Returns the key of the object.
    pub fn key(&self) -> &ObjectKey {
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
    /// The namespace and name.
    pub key: ObjectKey,
    /// What the name resolves to.
    pub kind: ServiceKind,
    /// `spec.ports`, in their order; empty for a Service without ports.
    pub ports: Vec<Port>,
}

/// What the name of a Service resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// ClusterIP, NodePort or LoadBalancer: `spec.clusterIPs`, both families, in their order. Empty while the API
    /// server has not allocated an address.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: the ready endpoints.
    Headless,
    /// `type: ExternalName`: `spec.externalName` as written, without a final dot.
    ExternalName(Box<str>),
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The name in lower case; empty for an unnamed port.
    pub name: Box<str>,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port number of a Service, or the resolved target port of a slice: 1–65535. `None` in a slice means "all
    /// ports" (nil in the API), which has no SRV record.
    pub number: Option<u16>,
}

/// The transport protocol of a port.
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
    /// Returns the label of SRV names, without its underscore.
    pub const fn label(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

/// A `discovery.k8s.io/v1` EndpointSlice of one Service, reduced to its ready endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// The Service of the slice (label `kubernetes.io/service-name`). Slices without that label are ignored.
    pub service: Box<str>,
    /// The ready endpoints (`conditions.ready` true or absent), in their order.
    pub endpoints: Vec<Endpoint>,
    /// The ports of every endpoint; empty for a slice without ports.
    pub ports: Vec<Port>,
}

/// A ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The addresses, of the family of the slice; usually one.
    pub addresses: SmallVec<[IpAddr; 1]>,
    /// `hostname` in lower case.
    pub hostname: Option<Box<str>>,
    /// `targetRef.name` in lower case, if it is a valid label of at most 63 bytes (for `endpoint_pod_names`).
    pub pod: Option<Box<str>>,
    /// `zone` in lower case (for `zonal`); may consist of several labels.
    pub zone: Option<Box<str>>,
}

/// A Pod, for `pods verified` and for the metadata of clients. Pods that are finished or deleted are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The namespace and name.
    pub key: ObjectKey,
    /// `status.podIPs`, both families.
    pub addresses: Vec<IpAddr>,
    /// `metadata.labels`, sorted by key, for metadata.
    pub labels: Vec<(Box<str>, Box<str>)>,
    /// `spec.hostNetwork`: the addresses are those of the Node, which other Pods and the Node itself use too.
    pub host_network: bool,
    /// The Pod is being deleted ([`super::Event::Terminate`]). Its addresses may be given to another Pod soon.
    pub is_terminating: bool,
}
