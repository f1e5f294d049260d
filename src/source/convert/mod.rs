//! From API objects to the cluster's model: the fields that DNS needs, checked once.
//!
//! The structs here are what is deserialised from the API server's JSON and from manifests; unknown fields are skipped.
//! A value that cannot be used, be it of another type, out of range or garbage, counts as absent and goes to [`Ignored`];
//! the rest of the object is converted. Only an object without an identity or without any meaning is [`Invalid`] as a
//! whole. Nothing here guesses: what the API server would have filled in (a namespace, `podIPs`) is filled in by whoever
//! reads hand-written objects.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;
use smallvec::SmallVec;

use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{self, Key, Protocol, ServiceKind};
use crate::cluster::selector::is_label_value;

mod annotations;
pub mod field;
pub mod invalid;
mod labels;
#[cfg(test)]
mod tests;

pub use annotations::Annotations;
pub use field::{Field, Text};
pub use invalid::{Ignored, Invalid};
pub use labels::Labels;

use field::{Time, maps, or_default};

/// The label by which an EndpointSlice belongs to a Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// `metadata.name`
    name: Field<String>,
    /// `metadata.namespace`; absent for objects without one.
    namespace: Field<String>,
    /// `metadata.labels`
    labels: Field<Labels>,
    /// `metadata.resourceVersion`: which state of the cluster the object is of. Absent in hand-written objects.
    resource_version: Field<String>,
    /// `metadata.annotations`, those that count.
    annotations: Field<Annotations>,
    /// `metadata.deletionTimestamp`: set while the object is being deleted.
    deletion_timestamp: Field<Time>,
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
    spec: Field<ServiceSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Field<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Field<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Field<Vec<Field<String>>>,
    external_name: Field<String>,
    ports: Field<Vec<Field<Port>>>,
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Field<String>,
    protocol: Field<String>,
    port: Field<i64>,
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice<'a> {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(borrow)]
    address_type: Field<Text<'a>>,
    #[serde(borrow)]
    endpoints: Field<Vec<Field<Endpoint<'a>>>>,
    ports: Field<Vec<Field<Port>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint<'a> {
    #[serde(borrow)]
    addresses: Field<SmallVec<[Field<Text<'a>>; 1]>>,
    conditions: Field<Conditions>,
    #[serde(borrow)]
    hostname: Field<Text<'a>>,
    #[serde(borrow)]
    target_ref: Field<TargetRef<'a>>,
    #[serde(borrow)]
    zone: Field<Text<'a>>,
}

/// Of an endpoint's conditions only `ready` counts; `serving` and `terminating` are never read, as in CoreDNS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Field<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef<'a> {
    #[serde(borrow)]
    name: Field<Text<'a>>,
}

/// A `v1` Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    status: Field<PodStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    phase: Field<String>,
    #[serde(rename = "podIP")]
    pod_ip: Field<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Field<Vec<Field<PodIp>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Field<String>,
}

maps!(Metadata, ServiceSpec, Port, Endpoint<'a>, Conditions, TargetRef<'a>, PodStatus, PodIp);

/// How the name of an object is checked: given its path and itself.
type NameCheck = fn(fn() -> String, &str) -> Result<(), Invalid>;

impl Metadata {
    /// `metadata.name`, as far as there is one.
    pub fn name(&self) -> &str {
        self.name.get().map_or("", String::as_str)
    }

    /// `metadata.namespace`, as far as there is one.
    pub fn namespace(&self) -> &str {
        self.namespace.get().map_or("", String::as_str)
    }

    /// Puts the object into this namespace, if it names none.
    pub fn fill_namespace(&mut self, namespace: &str) {
        if matches!(&self.namespace, Field::Absent) || self.namespace.get().is_some_and(String::is_empty) {
            self.namespace = Field::Is(namespace.to_owned());
        }
    }

    /// `metadata.labels`
    pub fn labels(&self) -> Labels {
        self.labels.get().cloned().unwrap_or_default()
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get()?.get(key)
    }

    /// Takes `metadata.resourceVersion` out.
    pub fn take_version(&mut self) -> String {
        self.resource_version.take().unwrap_or_default()
    }

    /// Takes the annotations out.
    pub fn take_annotations(&mut self) -> Annotations {
        self.annotations.take().unwrap_or_default()
    }

    /// Whether the object is being deleted.
    pub fn terminating(&self) -> bool {
        self.deletion_timestamp.get().is_some()
    }

    /// Reports what is passed over in it for every kind.
    fn check(&self, ignored: &mut Ignored) {
        self.deletion_timestamp.read(|| "metadata.deletionTimestamp".to_owned(), ignored);
        if let Some(labels) = self.labels.read(|| "metadata.labels".to_owned(), ignored) {
            labels.check("metadata.labels", ignored);
        }
    }

    /// `metadata.name`, checked by `check`. An object whose name cannot be used is none.
    fn valid_name(&self, check: NameCheck) -> Result<&str, Invalid> {
        let field: fn() -> String = || "metadata.name".to_owned();
        if let Some(invalid) = self.name.odd(field) {
            return Err(invalid);
        }
        if self.name().is_empty() {
            return Err(Invalid::Missing("metadata.name"));
        }
        check(field, self.name())?;
        Ok(self.name())
    }

    /// The key of an object that is in a namespace, its name checked by `check`. Nor is an object whose namespace cannot
    /// be used one of the namespace that objects without one are in.
    fn key(&self, check: NameCheck) -> Result<Key, Invalid> {
        let name = self.valid_name(check)?;
        let field = || "metadata.namespace".to_owned();
        if let Some(invalid) = self.namespace.odd(field) {
            return Err(invalid);
        }
        if self.namespace().is_empty() {
            return Err(Invalid::Missing("metadata.namespace"));
        }
        invalid::label(field, self.namespace())?;
        Ok(Key::new(self.namespace(), name))
    }
}

impl Namespace {
    /// The model's form.
    pub fn convert(&self, ignored: &mut Ignored) -> Result<Key, Invalid> {
        let name = self.metadata.valid_name(invalid::label)?;
        self.metadata.check(ignored);
        Ok(Key::new("", name))
    }
}

impl Service {
    /// The model's form.
    pub fn convert(&self, ignored: &mut Ignored) -> Result<model::Service, Invalid> {
        let key = self.metadata.key(invalid::label)?;
        self.metadata.check(ignored);
        let none = ServiceSpec::default();
        let spec = self.spec.read(|| "spec".to_owned(), ignored).unwrap_or(&none);
        let kind = spec.convert(ignored)?;
        let mut ports = Vec::new();
        for (at, port) in elements(&spec.ports, "spec.ports", ignored) {
            let converted = port.convert(|field| format!("spec.ports[{at}].{field}"), ignored);
            match converted.number {
                Some(_) => ports.push(converted),
                None if port.port == Field::Absent => {
                    ignored.push(|| Invalid::MissingAt(format!("spec.ports[{at}].port")));
                }
                // What stands there has been reported.
                None => {}
            }
        }
        Ok(model::Service { key, kind, ports })
    }

    /// Which of the elements of `spec.ports` are ports of the model's form, in their order.
    pub fn ports_in_model(&self) -> impl Iterator<Item = usize> {
        let ports = self.spec.get().and_then(|spec| spec.ports.get()).into_iter().flatten().enumerate();
        ports.filter(|(_, port)| port.get().is_some_and(|port| port.number().is_some())).map(|(at, _)| at)
    }
}

impl ServiceSpec {
    /// What the Service's name stands for. Type ExternalName wins over `clusterIP: None`, as in CoreDNS.
    fn convert(&self, ignored: &mut Ignored) -> Result<ServiceKind, Invalid> {
        const TYPES: [(&str, bool); 5] =
            [("ExternalName", true), ("ClusterIP", false), ("NodePort", false), ("LoadBalancer", false), ("", false)];
        let field = || "spec.type".to_owned();
        let is_external =
            self.kind.read(field, ignored).and_then(|text| valid(invalid::one_of(field, text, &TYPES), ignored));
        if is_external == Some(true) {
            return self.external_name().map(|name| ServiceKind::ExternalName(name.into()));
        }
        let single = self.cluster_ip.read(|| "spec.clusterIP".to_owned(), ignored).map_or("", String::as_str);
        let mut addresses = Vec::new();
        for (at, text) in elements(&self.cluster_ips, "spec.clusterIPs", ignored) {
            match text.as_str() {
                "" => {}
                // The API server has it there alone.
                "None" if addresses.is_empty() => return Ok(ServiceKind::Headless),
                text => addresses.extend(valid(invalid::address(|| format!("spec.clusterIPs[{at}]"), text), ignored)),
            }
        }
        let single = match single {
            "" => None,
            "None" if addresses.is_empty() => return Ok(ServiceKind::Headless),
            text => valid(invalid::address(|| "spec.clusterIP".to_owned(), text), ignored),
        };
        if addresses.is_empty() {
            addresses.extend(single);
        }
        Ok(ServiceKind::ClusterIp(addresses))
    }

    /// The target of an ExternalName, without which there is nothing to serve.
    fn external_name(&self) -> Result<String, Invalid> {
        let field = || "spec.externalName".to_owned();
        if let Some(invalid) = self.external_name.odd(field) {
            return Err(invalid);
        }
        let text = self.external_name.get().map_or("", String::as_str);
        if text.is_empty() {
            return Err(Invalid::Missing("spec.externalName"));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // An address is no name, but what becomes of it is the plugin's decision.
        if !invalid::is_target(&name) && name.parse::<IpAddr>().is_err() {
            return Err(invalid::name(field(), text));
        }
        Ok(name)
    }
}

/// The elements of a list that have the list's type, with their places.
pub(super) fn elements<'a, 'de, L, T>(
    list: &'a Field<L>, path: &'static str, ignored: &mut Ignored,
) -> impl Iterator<Item = (usize, &'a T)> + use<'a, 'de, L, T>
where
    L: field::Value<'de> + AsRef<[Field<T>]>,
    T: field::Value<'de> + 'a,
{
    let list = list.read(|| path.to_owned(), ignored).map_or(&[][..], AsRef::as_ref);
    for (at, element) in list.iter().enumerate() {
        element.read(|| format!("{path}[{at}]"), ignored);
    }
    list.iter().enumerate().filter_map(|(at, element)| Some((at, element.get()?)))
}

impl Port {
    /// Its number, if that is one.
    fn number(&self) -> Option<u16> {
        invalid::port_number(String::new, *self.port.get()?).ok()
    }

    /// The model's form; `field` makes the path of a field of this port.
    fn convert(&self, field: impl Fn(&str) -> String, ignored: &mut Ignored) -> model::Port {
        let name = self.name.read(|| field("name"), ignored).map_or("", String::as_str);
        let name = match name.is_empty() || is_valid(invalid::label(|| field("name"), name), ignored) {
            true => name,
            false => "",
        };
        // The API's default is TCP.
        let protocol = match self.protocol.read(|| field("protocol"), ignored).map_or("", String::as_str) {
            "" => None,
            text => valid(invalid::protocol(|| field("protocol"), text), ignored),
        };
        let number = self.port.read(|| field("port"), ignored);
        let number = number.and_then(|&number| valid(invalid::port_number(|| field("port"), number), ignored));
        model::Port { name: name.into(), protocol: protocol.unwrap_or(Protocol::Tcp), number }
    }
}

/// What was checked, unless it is invalid.
pub(super) fn valid<T>(checked: Result<T, Invalid>, ignored: &mut Ignored) -> Option<T> {
    checked.map_err(|invalid| ignored.push(|| invalid)).ok()
}

/// Whether what was checked is valid.
pub(super) fn is_valid(checked: Result<(), Invalid>, ignored: &mut Ignored) -> bool {
    valid(checked, ignored).is_some()
}

impl EndpointSlice<'_> {
    /// Namespace and name.
    pub fn key(&self) -> Result<Key, Invalid> {
        self.metadata.key(invalid::subdomain)
    }

    /// The Service that the slice says it belongs to.
    pub fn service(&self) -> Option<&str> {
        self.metadata.label(SERVICE_NAME).filter(|service| invalid::is_label(service))
    }

    /// The model's form; `None` for a slice that gives no records: one of no Service, or one with names for addresses.
    /// Of what only some configurations want, it has what is to be kept.
    pub fn convert(
        &self, keep: EndpointFields, ignored: &mut Ignored,
    ) -> Result<Option<model::EndpointSlice>, Invalid> {
        const TYPES: [(&str, bool); 4] = [("FQDN", true), ("IPv4", false), ("IPv6", false), ("", false)];
        let key = self.key()?;
        self.metadata.check(ignored);
        let service = self.metadata.label(SERVICE_NAME).filter(|service| !service.is_empty());
        let field = || format!("metadata.labels[{SERVICE_NAME}]");
        let Some(service) = service.filter(|service| is_valid(invalid::label(field, service), ignored)) else {
            return Ok(None);
        };
        let of_names = self
            .address_type
            .read(|| "addressType".to_owned(), ignored)
            .and_then(|text| valid(invalid::one_of(|| "addressType".to_owned(), text, &TYPES), ignored));
        if of_names == Some(true) {
            return Ok(None);
        }
        let mut endpoints = Vec::with_capacity(self.endpoints.get().map_or(0, Vec::len));
        for (at, endpoint) in elements(&self.endpoints, "endpoints", ignored) {
            if endpoint.is_ready(at, ignored) {
                endpoints.push(endpoint.convert(at, keep, ignored));
            }
        }
        endpoints.shrink_to_fit();
        let ports = elements(&self.ports, "ports", ignored);
        let ports = ports.map(|(at, port)| port.convert(|field| format!("ports[{at}].{field}"), ignored)).collect();
        Ok(Some(model::EndpointSlice { key, service: service.into(), endpoints, ports }))
    }
}

impl Endpoint<'_> {
    /// Whether the endpoint at index `at` is ready, which it is unless it says that it is not.
    fn is_ready(&self, at: usize, ignored: &mut Ignored) -> bool {
        let conditions = self.conditions.read(|| format!("endpoints[{at}].conditions"), ignored);
        let ready = conditions
            .and_then(|conditions| conditions.ready.read(|| format!("endpoints[{at}].conditions.ready"), ignored));
        ready.copied().unwrap_or(true)
    }

    /// The model's form of the endpoint at index `at`.
    fn convert(&self, at: usize, keep: EndpointFields, ignored: &mut Ignored) -> model::Endpoint {
        let path = |field: &str| format!("endpoints[{at}].{field}");
        let list = self.addresses.read(|| path("addresses"), ignored).map_or(&[][..], |list| list);
        let mut addresses = SmallVec::new();
        for (n, text) in list.iter().enumerate() {
            let field = || format!("endpoints[{at}].addresses[{n}]");
            if let Some(text) = text.read(field, ignored) {
                addresses.extend(valid(invalid::address(field, text), ignored));
            }
        }
        let hostname = lower(self.hostname.read(|| path("hostname"), ignored).map_or("", |text| text));
        // CoreDNS makes a name of any text, which no query reaches where it is no label. The endpoint goes by its address
        // instead.
        let named = !hostname.is_empty() && is_valid(invalid::label(|| path("hostname"), &hostname), ignored);
        let pod = self.target_ref.read(|| path("targetRef"), ignored).filter(|_| keep.pods);
        let pod = pod.and_then(|target| target.name.read(|| path("targetRef.name"), ignored));
        let pod = lower(pod.map_or("", |text| text));
        let zone = self.zone.read(|| path("zone"), ignored).map_or("", |text| text);
        // Zones are labels of Nodes.
        let zone = match is_label_value(zone) {
            true => zone,
            false => {
                ignored.push(|| invalid::name(path("zone"), zone));
                ""
            }
        };
        model::Endpoint {
            addresses,
            hostname: named.then(|| hostname.into()),
            // A Pod's name may have 253 octets and dots; then it is no label, which is nobody's mistake.
            pod: invalid::is_label(&pod).then(|| pod.into()),
            zone: (keep.zones && !zone.is_empty()).then(|| lower(zone).into()),
        }
    }
}

impl Pod {
    /// Whether the Pod has run to its end: such Pods are not listed, as by the field selector that CoreDNS sends.
    fn finished(&self) -> bool {
        let phase = self.status.get().and_then(|status| status.phase.get());
        matches!(phase.map(String::as_str), Some("Succeeded" | "Failed" | "Unknown"))
    }

    /// What the API server does on every write: a `podIP` without `podIPs` is the first of them.
    pub fn fill_addresses(&mut self) {
        let filled = !self.addresses(&mut Ignored::default()).is_empty();
        if let (false, Field::Is(status)) = (filled, &mut self.status)
            && let Some(ip) = status.pod_ip.take()
        {
            // What stands in the list already is reported with it.
            let mut ips = status.pod_ips.take().unwrap_or_default();
            ips.push(Field::Is(PodIp { ip: Field::Is(ip) }));
            status.pod_ips = Field::Is(ips);
        }
    }

    /// `status.podIPs`.
    pub fn addresses(&self, ignored: &mut Ignored) -> Vec<IpAddr> {
        let Some(status) = self.status.read(|| "status".to_owned(), ignored) else { return Vec::new() };
        let mut addresses = Vec::new();
        for (at, pod) in elements(&status.pod_ips, "status.podIPs", ignored) {
            let field = || format!("status.podIPs[{at}].ip");
            if let Some(text) = pod.ip.read(field, ignored).filter(|text| !text.is_empty()) {
                addresses.extend(valid(invalid::address(field, text), ignored));
            }
        }
        addresses
    }

    /// Namespace and name.
    pub fn key(&self) -> Result<Key, Invalid> {
        self.metadata.key(invalid::subdomain)
    }

    /// The model's form; `None` for a Pod that is finished, is being deleted, or has no address.
    pub fn convert(&self, ignored: &mut Ignored) -> Result<Option<model::Pod>, Invalid> {
        let key = self.key()?;
        self.metadata.check(ignored);
        if let Some(status) = self.status.get() {
            status.phase.read(|| "status.phase".to_owned(), ignored);
        }
        if self.finished() || self.metadata.terminating() {
            return Ok(None);
        }
        let addresses = self.addresses(ignored);
        let labels = self.metadata.labels().into_inner();
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
