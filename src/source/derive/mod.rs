//! EndpointSlices from Services and Pods, as the endpoint slice controller would write them: a hand-written manifest has
//! Pods with addresses but nobody who makes slices of them.
//!
//! Follows `k8s.io/endpointslice` (`reconciler.go`, `utils.go`) and `k8s.io/kubernetes/pkg/api/v1/pod` (`FindPort`). What
//! no record depends on is left out: Nodes, topology hints, how many endpoints a slice may have.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;

use super::convert::field::{Value, maps};
use super::convert::{self, Field, Ignored, Invalid, Labels, elements, invalid, is_valid, valid};
use crate::cluster::model::{self, Key, Protocol, ServiceKind};

#[cfg(test)]
mod tests;

/// The label of a Pod that names its topology zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the controller reads of a Service, beside what [`convert::Service`] has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    spec: Field<ServiceSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    selector: Field<Labels>,
    publish_not_ready_addresses: Field<bool>,
    ip_families: Field<Vec<Field<Family>>>,
    ip_family_policy: Field<Policy>,
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
    /// A number. Zero is the default: the Service's own port number.
    Number(u16),
    /// The name of a port of a container.
    Name(String),
}

impl Value<'_> for TargetPort {
    const EXPECTED: &'static str = "a port number or the name of a container's port";
    fn from_text(text: Cow<'_, str>) -> Option<TargetPort> {
        (text.is_empty() || invalid::is_port_name(&text)).then(|| TargetPort::Name(text.into_owned()))
    }
    fn from_number(number: i64) -> Option<TargetPort> {
        u16::try_from(number).ok().map(TargetPort::Number)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Value<'_> for Family {
    const EXPECTED: &'static str = "IPv4 or IPv6";
    fn from_text(text: Cow<'_, str>) -> Option<Family> {
        match &*text {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        }
    }
}

/// How many families a Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Single,
    Dual,
}

impl Value<'_> for Policy {
    const EXPECTED: &'static str = "SingleStack, PreferDualStack or RequireDualStack";
    fn from_text(text: Cow<'_, str>) -> Option<Policy> {
        match &*text {
            "" | "SingleStack" => Some(Policy::Single),
            "PreferDualStack" | "RequireDualStack" => Some(Policy::Dual),
            _ => None,
        }
    }
}

/// What the controller reads of a Pod, beside what [`convert::Pod`] has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    spec: Field<PodSpec>,
    status: Field<PodStatus>,
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
struct PodStatus {
    phase: Field<Phase>,
    conditions: Field<Vec<Field<Condition>>>,
}

/// Where a Pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Finished,
    /// Not yet running, or not known.
    Other,
}

impl Value<'_> for Phase {
    const EXPECTED: &'static str = "Pending, Running, Succeeded, Failed or Unknown";
    fn from_text(text: Cow<'_, str>) -> Option<Phase> {
        match &*text {
            "Running" | "" => Some(Phase::Running),
            "Succeeded" | "Failed" => Some(Phase::Finished),
            "Pending" | "Unknown" => Some(Phase::Other),
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

maps!(ServiceSpec, ServicePort, PodSpec, Container, ContainerPort, PodStatus, Condition);

/// How a Service selects Pods.
#[derive(Clone, Debug)]
pub struct Selecting {
    selector: Labels,
    publish_not_ready: bool,
    /// Empty where the Service does not say.
    families: Vec<Family>,
    policy: Policy,
    /// The targets of the model's ports, in their order.
    targets: Vec<Option<TargetPort>>,
}

/// A Pod that may be selected.
#[derive(Clone, Debug)]
pub struct Selectable {
    key: Key,
    labels: Labels,
    /// Both families, in their order; at least one.
    addresses: Vec<IpAddr>,
    terminating: bool,
    /// Ready, by its own account.
    serving: bool,
    /// Empty where there is none.
    hostname: String,
    subdomain: String,
    /// Named ports of containers, by protocol: the first of each name.
    named_ports: HashMap<(String, Protocol), u16>,
}

impl Selecting {
    /// What the controller reads of this Service; `None` if it selects nothing.
    pub fn new(
        service: &convert::Service, model: &model::Service, rest: Service, ignored: &mut Ignored,
    ) -> Option<Selecting> {
        let spec = rest.spec.get()?;
        let selector = spec.selector.read(|| "spec.selector".to_owned(), ignored).cloned().unwrap_or_default();
        selector.check("spec.selector", ignored);
        // The controller leaves alone what is of type ExternalName or has no selector.
        if matches!(model.kind, ServiceKind::ExternalName(_)) || selector.is_empty() {
            return None;
        }
        let ports = spec.ports.get().map_or(&[][..], Vec::as_slice);
        let targets = service.ports_in_model().map(|at| {
            let port = ports.get(at).and_then(Field::get)?;
            port.target_port.read(|| format!("spec.ports[{at}].targetPort"), ignored).cloned()
        });
        let targets = targets.collect();
        let publish_not_ready =
            spec.publish_not_ready_addresses.read(|| "spec.publishNotReadyAddresses".to_owned(), ignored);
        let families = elements(&spec.ip_families, "spec.ipFamilies", ignored).map(|(_, family)| *family).collect();
        let policy = spec.ip_family_policy.read(|| "spec.ipFamilyPolicy".to_owned(), ignored);
        Some(Selecting {
            selector,
            publish_not_ready: publish_not_ready.copied().unwrap_or_default(),
            families,
            policy: policy.copied().unwrap_or(Policy::Single),
            targets,
        })
    }

    /// The slices that the controller would write for `service`, whose `pods` are those of its namespace. A slice
    /// without ready endpoints says nothing to DNS and is left out.
    pub fn slices<'a>(
        &self, service: &model::Service, pods: impl Iterator<Item = &'a Selectable>,
    ) -> Vec<model::EndpointSlice> {
        let pods: Vec<&Selectable> = pods.filter(|pod| self.selector.all_in(&pod.labels)).collect();
        let primary = pods.iter().find_map(|pod| pod.addresses.first());
        let families = self.families(service, primary.copied());
        let mut groups: BTreeMap<(Family, Vec<model::Port>), Vec<model::Endpoint>> = BTreeMap::new();
        for pod in pods.into_iter().filter(|pod| self.counts_as_ready(pod)) {
            // One Pod may have a named port at 8080 and another at 9090: the controller puts them in different slices.
            let ports = self.ports(service, pod);
            for &family in &families {
                let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
                let addresses: Vec<IpAddr> = pod.addresses.iter().filter(of_family).copied().collect();
                if !addresses.is_empty() {
                    groups.entry((family, ports.clone())).or_default().push(pod.endpoint(service, addresses));
                }
            }
        }
        let Key { ns, name } = &service.key;
        let slices = groups.into_iter().enumerate().map(|(at, ((_, ports), endpoints))| {
            // No API object has such a name: it is not a subdomain.
            let key = Key::new(ns.clone(), format!("{name}/{at}"));
            model::EndpointSlice { key, service: name.clone(), endpoints, ports }
        });
        slices.collect()
    }

    /// The families that the Service has (`getAddressTypesForService`). `primary`: the first address of its Pods, which
    /// stands for the cluster's first family.
    fn families(&self, service: &model::Service, primary: Option<IpAddr>) -> Vec<Family> {
        let family = |ip: &IpAddr| if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut families = self.families.clone();
        if let (true, ServiceKind::ClusterIp(ips)) = (families.is_empty(), &service.kind) {
            families.extend(ips.iter().map(family));
        }
        if families.is_empty() {
            // The API server makes a Service SingleStack, of the first family, unless it says otherwise.
            families = match (self.policy, primary) {
                (Policy::Single, Some(primary)) => vec![family(&primary)],
                _ => vec![Family::V4, Family::V6],
            };
        }
        families.sort_unstable();
        families.dedup();
        families
    }

    /// `ready` of the Pod's endpoint (`podToEndpoint`).
    fn counts_as_ready(&self, pod: &Selectable) -> bool {
        self.publish_not_ready || (pod.serving && !pod.terminating)
    }

    /// The Service's ports as this Pod has them, sorted; those that it has not are left out (`getEndpointPorts`).
    fn ports(&self, service: &model::Service, pod: &Selectable) -> Vec<model::Port> {
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

/// The labels of the slices of a Service with these labels.
pub fn slice_labels(service: &model::Service, labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.set(convert::SERVICE_NAME, &service.key.name);
    labels.set("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
    if service.kind == ServiceKind::Headless {
        labels.set("service.kubernetes.io/headless", "");
    }
    labels
}

impl Selectable {
    /// A Pod and what the controller reads of it; `None` if it can be nobody's endpoint (`ShouldPodBeInEndpoints`).
    /// What is passed over in what [`convert::Pod`] has was reported with that.
    pub fn new(pod: &convert::Pod, rest: Pod, ignored: &mut Ignored) -> Result<Option<Selectable>, Invalid> {
        let key = pod.key()?;
        let addresses = pod.addresses(&mut Ignored::default());
        let none = PodStatus::default();
        let status = rest.status.get().unwrap_or(&none);
        let phase = status.phase.read(|| "status.phase".to_owned(), ignored).copied().unwrap_or(Phase::Running);
        if addresses.is_empty() || phase == Phase::Finished {
            return Ok(None);
        }
        let none = PodSpec::default();
        let spec = rest.spec.read(|| "spec".to_owned(), ignored).unwrap_or(&none);
        let field = || "spec.hostname".to_owned();
        let hostname = spec.hostname.read(field, ignored).map_or("", String::as_str);
        let hostname = match hostname.is_empty() || is_valid(invalid::label(field, hostname), ignored) {
            true => hostname,
            false => "",
        };
        let subdomain = spec.subdomain.read(|| "spec.subdomain".to_owned(), ignored).map_or("", String::as_str);
        Ok(Some(Selectable {
            key,
            labels: pod.metadata.labels(),
            addresses,
            terminating: pod.metadata.terminating(),
            serving: status.serving(phase, ignored),
            hostname: hostname.to_owned(),
            subdomain: subdomain.to_owned(),
            named_ports: spec.named_ports(ignored),
        }))
    }

    /// The Pod's endpoint of one family.
    fn endpoint(&self, service: &model::Service, addresses: Vec<IpAddr>) -> model::Endpoint {
        let (name, hostname) = (&self.key.name, self.hostname.as_str());
        // `ShouldSetHostname`
        let named = !hostname.is_empty() && *self.subdomain == *service.key.name;
        model::Endpoint {
            addresses: addresses.into(),
            hostname: named.then(|| hostname.into()),
            pod: invalid::is_label(name).then(|| name.clone()),
            // The controller asks the Node. The API server copies its zone to the Pod's labels.
            zone: self.labels.get(ZONE).filter(|zone| !zone.is_empty()).map(|zone| zone.to_ascii_lowercase().into()),
        }
    }
}

impl PodSpec {
    /// The named ports (`FindPort`): containers first, then init containers that go on running. The first of a name
    /// counts, and is 0 where it has no number.
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
                    text => valid(invalid::protocol(|| field("protocol"), text), ignored),
                };
                let number = port.container_port.read(|| field("containerPort"), ignored);
                let number =
                    number.and_then(|&number| valid(invalid::port_number(|| field("containerPort"), number), ignored));
                named.entry((name.clone(), protocol.unwrap_or(Protocol::Tcp))).or_insert(number.unwrap_or(0));
            }
        }
        named
    }
}

impl PodStatus {
    /// Condition Ready. A hand-written Pod has no conditions at all: then it is ready unless its phase says otherwise.
    fn serving(&self, phase: Phase, ignored: &mut Ignored) -> bool {
        let mut conditions = elements(&self.conditions, "status.conditions", ignored).peekable();
        if conditions.peek().is_none() {
            return phase == Phase::Running;
        }
        let is = |field: &Field<String>, word: &str| field.get().is_some_and(|text| text == word);
        conditions.any(|(_, condition)| is(&condition.kind, "Ready") && is(&condition.status, "True"))
    }
}
