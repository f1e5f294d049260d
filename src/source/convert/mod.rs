//! Converts API objects to the model of the cluster: the fields that DNS needs, checked once.
//!
//! The structs are deserialized from the JSON of the API server and from manifests; unknown fields are skipped. A value
//! that is invalid, because of its type, its range or its syntax, counts as absent and is added to [`Ignored`]; the
//! rest of the object is converted. Only an object without an identity or any usable content is [`Invalid`] as a whole.
//! There are no defaults here: the reader of manifests adds what the API server would have filled in (a namespace,
//! `podIPs`).

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Deserialize;
use smallvec::SmallVec;

use crate::cluster::entry::EndpointFields;
use crate::cluster::model::{self, ObjectKey, Protocol, ServiceKind};
use crate::cluster::selector::{is_dns_label, is_label_value};

mod annotations;
pub mod field;
pub mod invalid;
mod labels;
#[cfg(test)]
mod tests;

pub use annotations::Annotations;
pub use field::{Field, Text};
pub use invalid::{Ignored, Invalid};
pub use labels::ObjectLabels;

use field::{Time, impl_map_values, or_default};

/// The label with the Service of an EndpointSlice.
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
    labels: Field<ObjectLabels>,
    /// `metadata.resourceVersion`: the version of the cluster state that the object is from. Absent in manifests.
    resource_version: Field<String>,
    /// `metadata.annotations`, those that are used.
    annotations: Field<Annotations>,
    /// `metadata.deletionTimestamp`: set while the object is being deleted.
    deletion_timestamp: Field<Time>,
}

/// A `v1` Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiNamespace {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
}

/// A `v1` Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiService {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    spec: Field<ApiServiceSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ApiServiceSpec {
    #[serde(rename = "type")]
    kind: Field<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Field<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Field<Vec<Field<String>>>,
    external_name: Field<String>,
    ports: Field<Vec<Field<ApiPort>>>,
}

/// A port of a Service or of an EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ApiPort {
    name: Field<String>,
    protocol: Field<String>,
    port: Field<i64>,
}

/// A `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiEndpointSlice<'a> {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(borrow)]
    address_type: Field<Text<'a>>,
    #[serde(borrow)]
    endpoints: Field<Vec<Field<ApiEndpoint<'a>>>>,
    ports: Field<Vec<Field<ApiPort>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ApiEndpoint<'a> {
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

/// The conditions of an endpoint. Only `ready` matters; `serving` and `terminating` are not read, as in CoreDNS.
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
pub struct ApiPod {
    /// `metadata`
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    spec: Field<ApiPodSpec>,
    status: Field<ApiPodStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ApiPodSpec {
    host_network: Field<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ApiPodStatus {
    phase: Field<String>,
    #[serde(rename = "podIP")]
    pod_ip: Field<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Field<Vec<Field<ApiPodIp>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ApiPodIp {
    ip: Field<String>,
}

impl_map_values!(
    Metadata,
    ApiServiceSpec,
    ApiPort,
    ApiEndpoint<'a>,
    Conditions,
    TargetRef<'a>,
    ApiPodSpec,
    ApiPodStatus,
    ApiPodIp
);

/// A check of the name of an object; the arguments are its path and the name.
type NameCheck = fn(fn() -> String, &str) -> Result<(), Invalid>;

impl Metadata {
    /// Returns `metadata.name`, or `""`.
    pub fn name(&self) -> &str {
        self.name.get().map_or("", String::as_str)
    }

    /// Returns `metadata.namespace`, or `""`.
    pub fn namespace(&self) -> &str {
        self.namespace.get().map_or("", String::as_str)
    }

    /// Sets the namespace of the object, if it has none.
    pub fn fill_namespace(&mut self, namespace: &str) {
        if matches!(&self.namespace, Field::Absent) || self.namespace.get().is_some_and(String::is_empty) {
            self.namespace = Field::Valid(namespace.to_owned());
        }
    }

    /// Returns `metadata.labels`.
    pub fn labels(&self) -> ObjectLabels {
        self.labels.get().cloned().unwrap_or_default()
    }

    /// Returns the value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get()?.get(key)
    }

    /// Takes `metadata.resourceVersion`.
    pub fn take_version(&mut self) -> String {
        self.resource_version.take().unwrap_or_default()
    }

    /// Takes the annotations.
    pub fn take_annotations(&mut self) -> Annotations {
        self.annotations.take().unwrap_or_default()
    }

    /// Returns whether the object is being deleted.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.get().is_some()
    }

    /// Reports the invalid values of the metadata that every kind has.
    fn report_ignored(&self, ignored: &mut Ignored) {
        self.deletion_timestamp.read(|| "metadata.deletionTimestamp".to_owned(), ignored);
        if let Some(labels) = self.labels.read(|| "metadata.labels".to_owned(), ignored) {
            labels.report_ignored("metadata.labels", ignored);
        }
    }

    /// Returns `metadata.name`, checked by `check`. An object whose name is invalid does not exist.
    fn valid_name(&self, check: NameCheck) -> Result<&str, Invalid> {
        let field: fn() -> String = || "metadata.name".to_owned();
        if let Some(invalid) = self.name.error(field) {
            return Err(invalid);
        }
        if self.name().is_empty() {
            return Err(Invalid::Missing("metadata.name"));
        }
        check(field, self.name())?;
        Ok(self.name())
    }

    /// Returns the key of an object that is in a namespace, its name checked by `check`. An object whose namespace is
    /// invalid is not in the default namespace.
    fn key(&self, check: NameCheck) -> Result<ObjectKey, Invalid> {
        let name = self.valid_name(check)?;
        let field = || "metadata.namespace".to_owned();
        if let Some(invalid) = self.namespace.error(field) {
            return Err(invalid);
        }
        if self.namespace().is_empty() {
            return Err(Invalid::Missing("metadata.namespace"));
        }
        invalid::check_label(field, self.namespace())?;
        Ok(ObjectKey::new(self.namespace(), name))
    }
}

impl ApiNamespace {
    /// Converts to the model.
    pub fn convert(&self, ignored: &mut Ignored) -> Result<ObjectKey, Invalid> {
        let name = self.metadata.valid_name(invalid::check_label)?;
        self.metadata.report_ignored(ignored);
        Ok(ObjectKey::new("", name))
    }
}

impl ApiService {
    /// Converts to the model.
    pub fn convert(&self, ignored: &mut Ignored) -> Result<model::Service, Invalid> {
        let key = self.metadata.key(invalid::check_label)?;
        self.metadata.report_ignored(ignored);
        let none = ApiServiceSpec::default();
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
                // The invalid number has been reported.
                None => {}
            }
        }
        Ok(model::Service { key, kind, ports })
    }

    /// Returns the indexes of the elements of `spec.ports` that are ports in the model, in their order.
    pub fn valid_ports(&self) -> impl Iterator<Item = usize> {
        let ports = self.spec.get().and_then(|spec| spec.ports.get()).into_iter().flatten().enumerate();
        ports.filter(|(_, port)| port.get().is_some_and(|port| port.number().is_some())).map(|(at, _)| at)
    }
}

impl ApiServiceSpec {
    /// Returns what the name of the Service resolves to. Type ExternalName has precedence over `clusterIP: None`, as in
    /// CoreDNS.
    fn convert(&self, ignored: &mut Ignored) -> Result<ServiceKind, Invalid> {
        const TYPES: [(&str, bool); 5] =
            [("ExternalName", true), ("ClusterIP", false), ("NodePort", false), ("LoadBalancer", false), ("", false)];
        let field = || "spec.type".to_owned();
        let is_external =
            self.kind.read(field, ignored).and_then(|text| valid(invalid::parse_word(field, text, &TYPES), ignored));
        if is_external == Some(true) {
            return self.external_name().map(|name| ServiceKind::ExternalName(name.into()));
        }
        let single = self.cluster_ip.read(|| "spec.clusterIP".to_owned(), ignored).map_or("", String::as_str);
        let mut addresses = Vec::new();
        for (at, text) in elements(&self.cluster_ips, "spec.clusterIPs", ignored) {
            match text.as_str() {
                "" => {}
                // The API server has `None` as the only element.
                "None" if addresses.is_empty() => return Ok(ServiceKind::Headless),
                text => {
                    addresses.extend(valid(invalid::parse_address(|| format!("spec.clusterIPs[{at}]"), text), ignored))
                }
            }
        }
        let single = match single {
            "" => None,
            "None" if addresses.is_empty() => return Ok(ServiceKind::Headless),
            text => valid(invalid::parse_address(|| "spec.clusterIP".to_owned(), text), ignored),
        };
        if addresses.is_empty() {
            addresses.extend(single);
        }
        Ok(ServiceKind::ClusterIp(addresses))
    }

    /// Returns the target of an ExternalName, which is required.
    fn external_name(&self) -> Result<String, Invalid> {
        let field = || "spec.externalName".to_owned();
        if let Some(invalid) = self.external_name.error(field) {
            return Err(invalid);
        }
        let text = self.external_name.get().map_or("", String::as_str);
        if text.is_empty() {
            return Err(Invalid::Missing("spec.externalName"));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // An address is not a name, but the plugin decides what happens to it.
        if !invalid::is_host_name(&name) && name.parse::<IpAddr>().is_err() {
            return Err(invalid::invalid_name(field(), text));
        }
        Ok(name)
    }
}

/// Returns the elements of a list that have the type of the list, with their indexes.
pub(super) fn elements<'a, 'de, L, T>(
    list: &'a Field<L>, path: &'static str, ignored: &mut Ignored,
) -> impl Iterator<Item = (usize, &'a T)> + use<'a, 'de, L, T>
where
    L: field::FieldValue<'de> + AsRef<[Field<T>]>,
    T: field::FieldValue<'de> + 'a,
{
    let list = list.read(|| path.to_owned(), ignored).map_or(&[][..], AsRef::as_ref);
    for (at, element) in list.iter().enumerate() {
        element.read(|| format!("{path}[{at}]"), ignored);
    }
    list.iter().enumerate().filter_map(|(at, element)| Some((at, element.get()?)))
}

impl ApiPort {
    /// Returns the port number, if it is valid.
    fn number(&self) -> Option<u16> {
        invalid::check_port_number(String::new, *self.port.get()?).ok()
    }

    /// Converts to the model; `field` returns the path of a field of this port.
    fn convert(&self, field: impl Fn(&str) -> String, ignored: &mut Ignored) -> model::Port {
        let name = self.name.read(|| field("name"), ignored).map_or("", String::as_str);
        let has_name = !name.is_empty() && is_valid(invalid::check_label(|| field("name"), name), ignored);
        let name = if has_name { name } else { "" };
        // The default of the API is TCP.
        let protocol = match self.protocol.read(|| field("protocol"), ignored).map_or("", String::as_str) {
            "" => None,
            text => valid(invalid::parse_protocol(|| field("protocol"), text), ignored),
        };
        let number = self.port.read(|| field("port"), ignored);
        let number = number.and_then(|&number| valid(invalid::check_port_number(|| field("port"), number), ignored));
        model::Port { name: name.into(), protocol: protocol.unwrap_or(Protocol::Tcp), number }
    }
}

/// Returns a checked value, or adds the error to `ignored`.
pub(super) fn valid<T>(checked: Result<T, Invalid>, ignored: &mut Ignored) -> Option<T> {
    checked.map_err(|invalid| ignored.push(|| invalid)).ok()
}

/// Returns whether a check succeeded, or adds the error to `ignored`.
pub(super) fn is_valid(checked: Result<(), Invalid>, ignored: &mut Ignored) -> bool {
    valid(checked, ignored).is_some()
}

impl ApiEndpointSlice<'_> {
    /// Returns the namespace and name.
    pub fn key(&self) -> Result<ObjectKey, Invalid> {
        self.metadata.key(invalid::check_subdomain)
    }

    /// Returns the Service that the label of the slice names.
    pub fn service(&self) -> Option<&str> {
        self.metadata.label(SERVICE_NAME).filter(|service| is_dns_label(service))
    }

    /// Converts to the model. Returns `None` for a slice without records: one without a Service, or one with names
    /// instead of addresses. Fields that only some configurations need are converted if they are in `fields`.
    pub fn convert(
        &self, fields: EndpointFields, ignored: &mut Ignored,
    ) -> Result<Option<model::EndpointSlice>, Invalid> {
        const TYPES: [(&str, bool); 4] = [("FQDN", true), ("IPv4", false), ("IPv6", false), ("", false)];
        let key = self.key()?;
        self.metadata.report_ignored(ignored);
        let service = self.metadata.label(SERVICE_NAME).filter(|service| !service.is_empty());
        let field = || format!("metadata.labels[{SERVICE_NAME}]");
        let Some(service) = service.filter(|service| is_valid(invalid::check_label(field, service), ignored)) else {
            return Ok(None);
        };
        let has_names = self
            .address_type
            .read(|| "addressType".to_owned(), ignored)
            .and_then(|text| valid(invalid::parse_word(|| "addressType".to_owned(), text, &TYPES), ignored));
        if has_names == Some(true) {
            return Ok(None);
        }
        let mut endpoints = Vec::with_capacity(self.endpoints.get().map_or(0, Vec::len));
        for (at, endpoint) in elements(&self.endpoints, "endpoints", ignored) {
            if endpoint.is_ready(at, ignored) {
                endpoints.push(endpoint.convert(at, fields, ignored));
            }
        }
        endpoints.shrink_to_fit();
        let ports = elements(&self.ports, "ports", ignored);
        let ports = ports.map(|(at, port)| port.convert(|field| format!("ports[{at}].{field}"), ignored)).collect();
        Ok(Some(model::EndpointSlice { key, service: service.into(), endpoints, ports }))
    }
}

impl ApiEndpoint<'_> {
    /// Returns whether the endpoint at index `at` is ready, which is the default.
    fn is_ready(&self, at: usize, ignored: &mut Ignored) -> bool {
        let conditions = self.conditions.read(|| format!("endpoints[{at}].conditions"), ignored);
        let ready = conditions
            .and_then(|conditions| conditions.ready.read(|| format!("endpoints[{at}].conditions.ready"), ignored));
        ready.copied().unwrap_or(true)
    }

    /// Converts the endpoint at index `at` to the model.
    fn convert(&self, at: usize, fields: EndpointFields, ignored: &mut Ignored) -> model::Endpoint {
        let path = |field: &str| format!("endpoints[{at}].{field}");
        let list = self.addresses.read(|| path("addresses"), ignored).map_or(&[][..], |list| list);
        let mut addresses = SmallVec::new();
        for (n, text) in list.iter().enumerate() {
            let field = || format!("endpoints[{at}].addresses[{n}]");
            if let Some(text) = text.read(field, ignored) {
                addresses.extend(valid(invalid::parse_address(field, text), ignored));
            }
        }
        let hostname = to_lower(self.hostname.read(|| path("hostname"), ignored).map_or("", |text| text));
        // CoreDNS accepts any text as a name, which no query can reach unless it is a label. Here the name of the
        // endpoint is its address then.
        let has_hostname =
            !hostname.is_empty() && is_valid(invalid::check_label(|| path("hostname"), &hostname), ignored);
        let pod = self.target_ref.read(|| path("targetRef"), ignored).filter(|_| fields.pods);
        let pod = pod.and_then(|target| target.name.read(|| path("targetRef.name"), ignored));
        let pod = to_lower(pod.map_or("", |text| text));
        let zone = self.zone.read(|| path("zone"), ignored).map_or("", |text| text);
        // Zones are values of labels of Nodes.
        let zone = if is_label_value(zone) {
            zone
        } else {
            ignored.push(|| invalid::invalid_name(path("zone"), zone));
            ""
        };
        model::Endpoint {
            addresses,
            hostname: has_hostname.then(|| hostname.into()),
            // The name of a Pod may have 253 bytes and dots; then it is not a label, which is not an error.
            pod: is_dns_label(&pod).then(|| pod.into()),
            zone: (fields.zones && !zone.is_empty()).then(|| to_lower(zone).into()),
        }
    }
}

impl ApiPod {
    /// Returns whether the Pod has finished: such Pods are ignored, as by the field selector that CoreDNS sends.
    fn is_finished(&self) -> bool {
        let phase = self.status.get().and_then(|status| status.phase.get());
        matches!(phase.map(String::as_str), Some("Succeeded" | "Failed" | "Unknown"))
    }

    /// Returns whether the addresses are those of the Node. If the value cannot be read, they may be.
    fn uses_host_network(&self, ignored: &mut Ignored) -> bool {
        let Some(spec) = self.spec.get() else { return false };
        let field = || "spec.hostNetwork".to_owned();
        spec.host_network.error(field).is_some()
            || spec.host_network.read(field, ignored).is_some_and(|&is_host| is_host)
    }

    /// Adds `podIP` to `podIPs` if these are absent, as the API server does on every write.
    pub fn fill_addresses(&mut self) {
        let filled = !self.addresses(&mut Ignored::default()).is_empty();
        if let (false, Field::Valid(status)) = (filled, &mut self.status)
            && let Some(ip) = status.pod_ip.take()
        {
            // Invalid values in the list are reported with it.
            let mut ips = status.pod_ips.take().unwrap_or_default();
            ips.push(Field::Valid(ApiPodIp { ip: Field::Valid(ip) }));
            status.pod_ips = Field::Valid(ips);
        }
    }

    /// Returns `status.podIPs`.
    pub fn addresses(&self, ignored: &mut Ignored) -> Vec<IpAddr> {
        let Some(status) = self.status.read(|| "status".to_owned(), ignored) else { return Vec::new() };
        let mut addresses = Vec::new();
        for (at, pod) in elements(&status.pod_ips, "status.podIPs", ignored) {
            let field = || format!("status.podIPs[{at}].ip");
            if let Some(text) = pod.ip.read(field, ignored).filter(|text| !text.is_empty()) {
                addresses.extend(valid(invalid::parse_address(field, text), ignored));
            }
        }
        addresses
    }

    /// Returns the namespace and name.
    pub fn key(&self) -> Result<ObjectKey, Invalid> {
        self.metadata.key(invalid::check_subdomain)
    }

    /// Converts to the model. Returns `None` for a Pod that has finished, is being deleted, or has no address.
    pub fn convert(&self, ignored: &mut Ignored) -> Result<Option<model::Pod>, Invalid> {
        let key = self.key()?;
        self.metadata.report_ignored(ignored);
        if let Some(status) = self.status.get() {
            status.phase.read(|| "status.phase".to_owned(), ignored);
        }
        if self.is_finished() || self.metadata.is_terminating() {
            return Ok(None);
        }
        let addresses = self.addresses(ignored);
        let labels = self.metadata.labels().into_inner();
        let host_network = self.uses_host_network(ignored);
        let pod = model::Pod { key, addresses, labels, host_network, is_terminating: false };
        Ok((!pod.addresses.is_empty()).then_some(pod))
    }
}

/// Returns a text in lower case, which nearly every text already is.
fn to_lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}
