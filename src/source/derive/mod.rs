//! Derives EndpointSlices from Services and Pods, as the endpoint slice controller does: a manifest has Pods with
//! addresses, but there is no controller that creates slices for them.
//!
//! Follows `k8s.io/endpointslice` (`reconciler.go`, `utils.go`) and `k8s.io/kubernetes/pkg/api/v1/pod` (`FindPort`).
//! Parts that no record depends on are left out: Nodes, topology hints, the maximum number of endpoints in a slice.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;

use super::convert::field::{FieldValue, impl_map_values};
use super::convert::{self, Field, Ignored, Invalid, ObjectLabels, elements, invalid, is_valid, valid};
use crate::cluster::model::{self, ObjectKey, Protocol, ServiceKind};
use crate::cluster::selector::is_dns_label;

#[cfg(test)]
mod tests;

/// The label of a Pod with its topology zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The fields of a Service that the controller uses in addition to those of [`convert::ApiService`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerService {
    spec: Field<ControllerServiceSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ControllerServiceSpec {
    selector: Field<ObjectLabels>,
    publish_not_ready_addresses: Field<bool>,
    ip_families: Field<Vec<Field<IpFamily>>>,
    ip_family_policy: Field<IpFamilyPolicy>,
    ports: Field<Vec<Field<ServicePort>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    target_port: Field<TargetPort>,
}

/// `IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TargetPort {
    /// A number. Zero is the default: the port number of the Service.
    Number(u16),
    /// The name of a container port.
    Name(String),
}

impl FieldValue<'_> for TargetPort {
    const EXPECTED: &'static str = "a port number or the name of a container port";
    fn from_text(text: Cow<'_, str>) -> Option<TargetPort> {
        (text.is_empty() || invalid::is_port_name(&text)).then(|| TargetPort::Name(text.into_owned()))
    }
    fn from_number(number: i64) -> Option<TargetPort> {
        u16::try_from(number).ok().map(TargetPort::Number)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum IpFamily {
    V4,
    V6,
}

impl FieldValue<'_> for IpFamily {
    const EXPECTED: &'static str = "IPv4 or IPv6";
    fn from_text(text: Cow<'_, str>) -> Option<IpFamily> {
        match &*text {
            "IPv4" => Some(IpFamily::V4),
            "IPv6" => Some(IpFamily::V6),
            _ => None,
        }
    }
}

/// The number of families of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IpFamilyPolicy {
    Single,
    Dual,
}

impl FieldValue<'_> for IpFamilyPolicy {
    const EXPECTED: &'static str = "SingleStack, PreferDualStack or RequireDualStack";
    fn from_text(text: Cow<'_, str>) -> Option<IpFamilyPolicy> {
        match &*text {
            "" | "SingleStack" => Some(IpFamilyPolicy::Single),
            "PreferDualStack" | "RequireDualStack" => Some(IpFamilyPolicy::Dual),
            _ => None,
        }
    }
}

/// The fields of a Pod that the controller uses in addition to those of [`convert::ApiPod`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ControllerPod {
    spec: Field<PodSpec>,
    status: Field<ControllerPodStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    hostname: Field<String>,
    subdomain: Field<String>,
    containers: Field<Vec<Field<Container>>>,
    init_containers: Field<Vec<Field<Container>>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    ports: Field<Vec<Field<ContainerPort>>>,
    restart_policy: Field<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Field<String>,
    protocol: Field<String>,
    container_port: Field<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ControllerPodStatus {
    phase: Field<PodPhase>,
    conditions: Field<Vec<Field<Condition>>>,
}

/// The phase of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodPhase {
    Running,
    Finished,
    /// The Pod is pending, or its phase is unknown.
    Other,
}

impl FieldValue<'_> for PodPhase {
    const EXPECTED: &'static str = "Pending, Running, Succeeded, Failed or Unknown";
    fn from_text(text: Cow<'_, str>) -> Option<PodPhase> {
        match &*text {
            "Running" | "" => Some(PodPhase::Running),
            "Succeeded" | "Failed" => Some(PodPhase::Finished),
            "Pending" | "Unknown" => Some(PodPhase::Other),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: Field<String>,
    status: Field<String>,
}

impl_map_values!(ControllerServiceSpec, ServicePort, PodSpec, Container, ContainerPort, ControllerPodStatus, Condition);

/// The selection of Pods by a Service.
#[derive(Clone, Debug)]
pub struct ServiceSelector {
    selector: ObjectLabels,
    publish_not_ready: bool,
    /// The families of the Service; empty if it has none.
    families: Vec<IpFamily>,
    policy: IpFamilyPolicy,
    /// The target ports of the ports in the model, in their order.
    targets: Vec<Option<TargetPort>>,
}

/// A Pod that Services may select.
#[derive(Clone, Debug)]
pub struct CandidatePod {
    key: ObjectKey,
    labels: ObjectLabels,
    /// The addresses of both families, in their order; at least one.
    addresses: Vec<IpAddr>,
    is_terminating: bool,
    /// Whether the Pod is ready according to its status.
    is_serving: bool,
    /// The host name; empty if there is none.
    hostname: String,
    subdomain: String,
    /// The named ports of containers by name and protocol: the first one of each.
    named_ports: HashMap<(String, Protocol), u16>,
}

impl ServiceSelector {
    /// Returns the selection of a Service, or `None` if it selects nothing.
    pub fn new(
        service: &convert::ApiService, model: &model::Service, rest: ControllerService, ignored: &mut Ignored,
    ) -> Option<ServiceSelector> {
        let spec = rest.spec.get()?;
        let selector = spec.selector.read(|| "spec.selector".to_owned(), ignored).cloned().unwrap_or_default();
        selector.report_ignored("spec.selector", ignored);
        // The controller ignores Services of type ExternalName and without selector.
        if matches!(model.kind, ServiceKind::ExternalName(_)) || selector.is_empty() {
            return None;
        }
        let ports = spec.ports.get().map_or(&[][..], Vec::as_slice);
        let targets = service.valid_ports().map(|at| {
            let port = ports.get(at).and_then(Field::get)?;
            port.target_port.read(|| format!("spec.ports[{at}].targetPort"), ignored).cloned()
        });
        let targets = targets.collect();
        let publish_not_ready =
            spec.publish_not_ready_addresses.read(|| "spec.publishNotReadyAddresses".to_owned(), ignored);
        let families = elements(&spec.ip_families, "spec.ipFamilies", ignored).map(|(_, family)| *family).collect();
        let policy = spec.ip_family_policy.read(|| "spec.ipFamilyPolicy".to_owned(), ignored);
        Some(ServiceSelector {
            selector,
            publish_not_ready: publish_not_ready.copied().unwrap_or_default(),
            families,
            policy: policy.copied().unwrap_or(IpFamilyPolicy::Single),
            targets,
        })
    }

    /// Returns the slices that the controller would create for `service`; `pods` are those of its namespace. A slice
    /// without ready endpoints has no records and is left out.
    pub fn slices<'a>(
        &self, service: &model::Service, pods: impl Iterator<Item = &'a CandidatePod>,
    ) -> Vec<model::EndpointSlice> {
        let pods: Vec<&CandidatePod> = pods.filter(|pod| self.selector.is_subset_of(&pod.labels)).collect();
        let primary = pods.iter().find_map(|pod| pod.addresses.first());
        let families = self.families(service, primary.copied());
        let mut groups: BTreeMap<(IpFamily, Vec<model::Port>), Vec<model::Endpoint>> = BTreeMap::new();
        for pod in pods.into_iter().filter(|pod| self.is_endpoint_ready(pod)) {
            // A named port may have different numbers in different Pods: the controller puts these into different
            // slices.
            let ports = self.ports(service, pod);
            for &family in &families {
                let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == IpFamily::V4);
                let addresses: Vec<IpAddr> = pod.addresses.iter().filter(of_family).copied().collect();
                if !addresses.is_empty() {
                    groups.entry((family, ports.clone())).or_default().push(pod.endpoint(service, addresses));
                }
            }
        }
        let ObjectKey { ns, name } = &service.key;
        let slices = groups.into_iter().enumerate().map(|(at, ((_, ports), endpoints))| {
            // No API object has such a name, since it is not a subdomain.
            let key = ObjectKey::new(ns.clone(), format!("{name}/{at}"));
            model::EndpointSlice { key, service: name.clone(), endpoints, ports }
        });
        slices.collect()
    }

    /// Returns the families of the Service (`getAddressTypesForService`). `primary` is the first address of its Pods,
    /// whose family represents the first family of the cluster.
    fn families(&self, service: &model::Service, primary: Option<IpAddr>) -> Vec<IpFamily> {
        let family = |ip: &IpAddr| if ip.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
        let mut families = self.families.clone();
        if let (true, ServiceKind::ClusterIp(ips)) = (families.is_empty(), &service.kind) {
            families.extend(ips.iter().map(family));
        }
        if families.is_empty() {
            // The default of the API server is SingleStack with the first family.
            families = match (self.policy, primary) {
                (IpFamilyPolicy::Single, Some(primary)) => vec![family(&primary)],
                _ => vec![IpFamily::V4, IpFamily::V6],
            };
        }
        families.sort_unstable();
        families.dedup();
        families
    }

    /// Returns the condition `ready` of the endpoint of the Pod (`podToEndpoint`).
    fn is_endpoint_ready(&self, pod: &CandidatePod) -> bool {
        self.publish_not_ready || (pod.is_serving && !pod.is_terminating)
    }

    /// Returns the ports of the Service for this Pod, sorted; ports that the Pod does not have are left out
    /// (`getEndpointPorts`).
    fn ports(&self, service: &model::Service, pod: &CandidatePod) -> Vec<model::Port> {
        let pairs = service.ports.iter().zip(&self.targets);
        let mut ports: Vec<model::Port> = pairs
            .filter_map(|(port, target)| {
                let number = match target {
                    None | Some(TargetPort::Number(0)) => port.number,
                    Some(TargetPort::Number(number)) => Some(*number),
                    Some(TargetPort::Name(name)) if name.is_empty() => port.number,
                    Some(TargetPort::Name(name)) => {
                        Some(*pod.named_ports.get(&(name.clone(), port.protocol)).filter(|number| **number > 0)?)
                    }
                };
                Some(model::Port { number, ..port.clone() })
            })
            .collect();
        ports.sort_unstable();
        ports
    }
}

/// Returns the labels of the slices of a Service with these labels.
pub fn slice_labels(service: &model::Service, labels: &ObjectLabels) -> ObjectLabels {
    let mut labels = labels.clone();
    labels.set(convert::SERVICE_NAME, &service.key.name);
    labels.set("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
    if service.kind == ServiceKind::Headless {
        labels.set("service.kubernetes.io/headless", "");
    }
    labels
}

impl CandidatePod {
    /// Returns the Pod, or `None` if it cannot be an endpoint (`ShouldPodBeInEndpoints`). Invalid values of
    /// [`convert::ApiPod`] are not reported again.
    pub fn new(
        pod: &convert::ApiPod, rest: ControllerPod, ignored: &mut Ignored,
    ) -> Result<Option<CandidatePod>, Invalid> {
        let key = pod.key()?;
        let addresses = pod.addresses(&mut Ignored::default());
        let none = ControllerPodStatus::default();
        let status = rest.status.get().unwrap_or(&none);
        let phase = status.phase.read(|| "status.phase".to_owned(), ignored).copied().unwrap_or(PodPhase::Running);
        if addresses.is_empty() || phase == PodPhase::Finished {
            return Ok(None);
        }
        let none = PodSpec::default();
        let spec = rest.spec.read(|| "spec".to_owned(), ignored).unwrap_or(&none);
        let field = || "spec.hostname".to_owned();
        let hostname = spec.hostname.read(field, ignored).map_or("", String::as_str);
        let has_hostname = !hostname.is_empty() && is_valid(invalid::check_label(field, hostname), ignored);
        let hostname = if has_hostname { hostname } else { "" };
        let subdomain = spec.subdomain.read(|| "spec.subdomain".to_owned(), ignored).map_or("", String::as_str);
        Ok(Some(CandidatePod {
            key,
            labels: pod.metadata.labels(),
            addresses,
            is_terminating: pod.metadata.is_terminating(),
            is_serving: status.is_serving(phase, ignored),
            hostname: hostname.to_owned(),
            subdomain: subdomain.to_owned(),
            named_ports: spec.named_ports(ignored),
        }))
    }

    /// Returns the endpoint of the Pod for one family.
    fn endpoint(&self, service: &model::Service, addresses: Vec<IpAddr>) -> model::Endpoint {
        let (name, hostname) = (&self.key.name, self.hostname.as_str());
        // `ShouldSetHostname`
        let has_hostname = !hostname.is_empty() && *self.subdomain == *service.key.name;
        model::Endpoint {
            addresses: addresses.into(),
            hostname: has_hostname.then(|| hostname.into()),
            pod: is_dns_label(name).then(|| name.clone()),
            // The controller uses the zone of the Node. The API server copies it to the labels of the Pod.
            zone: self.labels.get(ZONE).filter(|zone| !zone.is_empty()).map(|zone| zone.to_ascii_lowercase().into()),
        }
    }
}

impl PodSpec {
    /// Returns the named ports (`FindPort`): of containers first, then of init containers that continue to run. The
    /// first port with a name counts, and its number is 0 if it is invalid.
    fn named_ports(&self, ignored: &mut Ignored) -> HashMap<(String, Protocol), u16> {
        let mut named = HashMap::new();
        let containers = elements(&self.containers, "spec.containers", ignored)
            .map(|(at, container)| (format!("spec.containers[{at}]"), container));
        let is_sidecar =
            |container: &Container| container.restart_policy.get().is_some_and(|policy| policy == "Always");
        let sidecars = elements(&self.init_containers, "spec.initContainers", ignored);
        let sidecars = sidecars.filter(|(_, container)| is_sidecar(container));
        let sidecars = sidecars.map(|(at, container)| (format!("spec.initContainers[{at}]"), container));
        for (path, container) in containers.chain(sidecars) {
            let list = container.ports.read(|| format!("{path}.ports"), ignored).map_or(&[][..], Vec::as_slice);
            for (at, port) in list.iter().enumerate() {
                let Some(port) = port.read(|| format!("{path}.ports[{at}]"), ignored) else { continue };
                let field = |field: &str| format!("{path}.ports[{at}].{field}");
                let Some(name) = port.name.read(|| field("name"), ignored).filter(|name| !name.is_empty()) else {
                    continue;
                };
                let protocol = match port.protocol.read(|| field("protocol"), ignored).map_or("", String::as_str) {
                    "" => None,
                    text => valid(invalid::parse_protocol(|| field("protocol"), text), ignored),
                };
                let number = port.container_port.read(|| field("containerPort"), ignored);
                let number = number
                    .and_then(|&number| valid(invalid::check_port_number(|| field("containerPort"), number), ignored));
                named.entry((name.clone(), protocol.unwrap_or(Protocol::Tcp))).or_insert(number.unwrap_or(0));
            }
        }
        named
    }
}

impl ControllerPodStatus {
    /// Returns the condition Ready. A Pod in a manifest usually has no conditions: then it is ready unless its phase is
    /// not Running.
    fn is_serving(&self, phase: PodPhase, ignored: &mut Ignored) -> bool {
        let mut conditions = elements(&self.conditions, "status.conditions", ignored).peekable();
        if conditions.peek().is_none() {
            return phase == PodPhase::Running;
        }
        let is = |field: &Field<String>, word: &str| field.get().is_some_and(|text| text == word);
        conditions.any(|(_, condition)| is(&condition.kind, "Ready") && is(&condition.status, "True"))
    }
}
