//! From API objects to the cluster's model: the fields that DNS needs, checked once.
//!
//! The structs here are what is deserialised from the API server's JSON and from manifests; unknown fields are skipped
//! and `null` is as good as absent. [`check`] names the field that does not fit its type. Nothing here guesses: what
//! the API server would have filled in (a namespace, `podIPs`) is filled in by whoever reads hand-written objects.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use smallvec::SmallVec;

use crate::cluster::entry::Keep;
use crate::cluster::model::{self, Key, ServiceKind};

mod annotations;
pub mod invalid;
mod labels;
#[cfg(test)]
mod tests;
mod text;

pub use annotations::Annotations;
pub use invalid::{Invalid, check};
pub use labels::Labels;
pub use text::Text;

/// The label by which an EndpointSlice belongs to a Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// `metadata.name`
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// `metadata.namespace`; empty for objects without one.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// `metadata.labels`
    #[serde(deserialize_with = "or_default")]
    pub labels: Labels,
    /// `metadata.resourceVersion`: which state of the cluster the object is of. Empty in hand-written objects.
    #[serde(deserialize_with = "or_default")]
    pub resource_version: String,
    /// `metadata.annotations`, those that count.
    #[serde(deserialize_with = "or_default")]
    pub annotations: Annotations,
    /// `metadata.deletionTimestamp`: set while the object is being deleted.
    deletion_timestamp: Option<IgnoredAny>,
}

/// A `v1` Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
}

/// A `v1` Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "or_default")]
    cluster_ips: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    external_name: String,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<Port>,
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
    port: Option<i64>,
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice<'a> {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(borrow)]
    address_type: Text<'a>,
    #[serde(deserialize_with = "or_default")]
    endpoints: Vec<Endpoint<'a>>,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(borrow, deserialize_with = "or_default")]
    addresses: SmallVec<[Text<'a>; 1]>,
    #[serde(deserialize_with = "or_default")]
    conditions: Conditions,
    hostname: Text<'a>,
    #[serde(deserialize_with = "or_default")]
    target_ref: TargetRef<'a>,
    zone: Text<'a>,
}

/// Of an endpoint's conditions only `ready` counts; `serving` and `terminating` are never read, as in CoreDNS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef<'a> {
    #[serde(borrow)]
    name: Text<'a>,
}

/// A `v1` Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    #[serde(deserialize_with = "or_default")]
    phase: String,
    #[serde(rename = "podIP", deserialize_with = "or_default")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "or_default")]
    pod_ips: Vec<PodIp>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    #[serde(deserialize_with = "or_default")]
    ip: String,
}

impl Metadata {
    /// Whether the object is being deleted.
    pub fn terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The key of an object that is in a namespace, its name checked by `check`.
    fn key(&self, check: fn(&str, &str) -> Result<(), Invalid>) -> Result<Key, Invalid> {
        if self.name.is_empty() {
            return Err(Invalid::Missing("metadata.name"));
        }
        check("metadata.name", &self.name)?;
        if self.namespace.is_empty() {
            return Err(Invalid::Missing("metadata.namespace"));
        }
        invalid::label("metadata.namespace", &self.namespace)?;
        Ok(Key::new(self.namespace.as_str(), self.name.as_str()))
    }
}

impl Namespace {
    /// The model's form.
    pub fn convert(&self) -> Result<Key, Invalid> {
        let name = self.metadata.name.as_str();
        if name.is_empty() {
            return Err(Invalid::Missing("metadata.name"));
        }
        invalid::label("metadata.name", name)?;
        Ok(Key::new("", name))
    }
}

impl Service {
    /// The model's form.
    pub fn convert(&self) -> Result<model::Service, Invalid> {
        let key = self.metadata.key(invalid::label)?;
        let ports = self.spec.ports.iter().enumerate().map(|(at, port)| {
            let converted = port.convert(|field| format!("spec.ports[{at}].{field}"))?;
            if converted.number.is_none() {
                return Err(Invalid::MissingAt(format!("spec.ports[{at}].port")));
            }
            Ok(converted)
        });
        Ok(model::Service { key, kind: self.spec.convert()?, ports: ports.collect::<Result<_, _>>()? })
    }
}

impl ServiceSpec {
    /// What the Service's name stands for. Type ExternalName wins over `clusterIP: None`, as in CoreDNS.
    fn convert(&self) -> Result<ServiceKind, Invalid> {
        if self.kind == "ExternalName" {
            let name = self.external_name.strip_suffix('.').unwrap_or(&self.external_name).to_ascii_lowercase();
            if self.external_name.is_empty() {
                return Err(Invalid::Missing("spec.externalName"));
            }
            // An address is no name, but what becomes of it is the plugin's decision.
            if !invalid::is_target(&name) && name.parse::<IpAddr>().is_err() {
                let field = "spec.externalName".to_owned();
                return Err(Invalid::Name { field, text: self.external_name.clone() });
            }
            return Ok(ServiceKind::ExternalName(name.into()));
        }
        let single = std::slice::from_ref(&self.cluster_ip);
        let plural = !self.cluster_ips.is_empty();
        let texts = if plural { self.cluster_ips.as_slice() } else { single };
        if texts[0] == "None" {
            return Ok(ServiceKind::Headless);
        }
        let addresses = texts.iter().enumerate().filter(|(_, text)| !text.is_empty()).map(|(at, text)| {
            let field = if plural { format!("spec.clusterIPs[{at}]") } else { "spec.clusterIP".to_owned() };
            invalid::address(field, text)
        });
        Ok(ServiceKind::ClusterIp(addresses.collect::<Result<_, _>>()?))
    }
}

impl Port {
    /// The model's form; `field` gives the path of a field of this port.
    fn convert(&self, field: impl Fn(&str) -> String) -> Result<model::Port, Invalid> {
        if !self.name.is_empty() {
            invalid::label(&field("name"), &self.name)?;
        }
        Ok(model::Port {
            name: self.name.as_str().into(),
            protocol: invalid::protocol(field("protocol"), &self.protocol)?,
            number: self.port.map(|number| invalid::port_number(field("port"), number)).transpose()?,
        })
    }
}

impl EndpointSlice<'_> {
    /// Namespace and name.
    pub fn key(&self) -> Result<Key, Invalid> {
        self.metadata.key(invalid::subdomain)
    }

    /// The Service that the slice says it belongs to.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME).filter(|service| !service.is_empty())
    }

    /// The model's form; `None` for a slice that gives no records: one of no Service, or one with names for addresses.
    /// Of what only some configurations want, it has what is to be kept. A field that is of no use, while the rest is,
    /// goes to `ignored`.
    pub fn convert(&self, keep: Keep, ignored: &mut Vec<Invalid>) -> Result<Option<model::EndpointSlice>, Invalid> {
        let Some(service) = self.service() else { return Ok(None) };
        if &*self.address_type == "FQDN" {
            return Ok(None);
        }
        let key = self.key()?;
        invalid::label("metadata.labels[kubernetes.io/service-name]", service)?;
        let ready = |endpoint: &&Endpoint<'_>| endpoint.conditions.ready.unwrap_or(true);
        let mut endpoints = Vec::with_capacity(self.endpoints.iter().filter(ready).count());
        for (at, endpoint) in self.endpoints.iter().enumerate().filter(|(_, endpoint)| ready(endpoint)) {
            endpoints.push(endpoint.convert(at, keep, ignored)?);
        }
        let ports =
            self.ports.iter().enumerate().map(|(at, port)| port.convert(|field| format!("ports[{at}].{field}")));
        Ok(Some(model::EndpointSlice {
            key,
            service: service.into(),
            endpoints,
            ports: ports.collect::<Result<_, _>>()?,
        }))
    }
}

impl Endpoint<'_> {
    /// The model's form of the endpoint at index `at`.
    fn convert(&self, at: usize, keep: Keep, ignored: &mut Vec<Invalid>) -> Result<model::Endpoint, Invalid> {
        let addresses = self.addresses.iter().enumerate().map(|(n, text)| {
            // The path is text only when it is needed: there are many endpoints.
            invalid::address("", text).map_err(|_| Invalid::Address {
                field: format!("endpoints[{at}].addresses[{n}]"),
                text: text.to_string(),
            })
        });
        let hostname = lower(&self.hostname);
        let named = invalid::is_label(&hostname);
        if !named && !hostname.is_empty() {
            // CoreDNS makes a name of it that no query reaches. The endpoint goes by its address instead.
            let field = format!("endpoints[{at}].hostname");
            ignored.push(Invalid::Label { field, text: self.hostname.to_string() });
        }
        let pod = lower(if keep.pods { &self.target_ref.name } else { "" });
        Ok(model::Endpoint {
            addresses: addresses.collect::<Result<_, _>>()?,
            hostname: named.then(|| hostname.into()),
            // A Pod's name may have 253 octets and dots; then it is no label, which is nobody's mistake.
            pod: invalid::is_label(&pod).then(|| pod.into()),
            zone: (keep.zones && !self.zone.is_empty()).then(|| lower(&self.zone).into()),
        })
    }
}

impl Pod {
    /// Whether the Pod has run to its end: such Pods are not listed, as by the field selector that CoreDNS sends.
    fn finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed" | "Unknown")
    }

    /// What the API server does on every write: a `podIP` without `podIPs` is the first of them.
    pub fn fill_addresses(&mut self) {
        if self.status.pod_ips.is_empty() && !self.status.pod_ip.is_empty() {
            self.status.pod_ips.push(PodIp { ip: self.status.pod_ip.clone() });
        }
    }

    /// `status.podIPs`.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Invalid> {
        let ips = self.status.pod_ips.iter().enumerate().filter(|(_, pod)| !pod.ip.is_empty());
        ips.map(|(at, pod)| invalid::address(format!("status.podIPs[{at}].ip"), &pod.ip)).collect()
    }

    /// Namespace and name.
    pub fn key(&self) -> Result<Key, Invalid> {
        self.metadata.key(invalid::subdomain)
    }

    /// The model's form; `None` for a Pod that is finished, is being deleted, or has no address.
    pub fn convert(&self) -> Result<Option<model::Pod>, Invalid> {
        let key = self.key()?;
        if self.finished() || self.metadata.terminating() {
            return Ok(None);
        }
        let addresses = self.addresses()?;
        let labels = self.metadata.labels.clone().into_inner();
        Ok((!addresses.is_empty()).then_some(model::Pod { key, addresses, labels }))
    }
}

/// A text in lower case, which nearly every one is already.
fn lower(text: &str) -> Cow<'_, str> {
    match text.bytes().any(|octet| octet.is_ascii_uppercase()) {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    }
}

/// `null` is as good as absent.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}
