//! EndpointSlices from Services and Pods, as the endpoint slice controller would write them: a hand-written manifest has
//! Pods with addresses but nobody who makes slices of them.
//!
//! Follows `k8s.io/endpointslice` (`reconciler.go`, `utils.go`) and `k8s.io/kubernetes/pkg/api/v1/pod` (`FindPort`). What
//! no record depends on is left out: Nodes, topology hints, how many endpoints a slice may have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::convert::{self, Invalid, Labels, invalid, or_default};
use crate::cluster::model::{self, Key, Protocol, ServiceKind};

#[cfg(test)]
mod tests;

/// The label of a Pod that names its topology zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the controller reads of a Service, beside what [`convert::Service`] has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    #[serde(deserialize_with = "or_default")]
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(deserialize_with = "or_default")]
    selector: Labels,
    #[serde(deserialize_with = "or_default")]
    publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "or_default")]
    ip_families: Vec<Family>,
    #[serde(deserialize_with = "or_default")]
    ip_family_policy: String,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServicePort {
    target_port: Option<TargetPort>,
}

/// `IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a port number or the name of a container's port")]
enum TargetPort {
    /// A number.
    Number(i64),
    /// The name of a port of a container.
    Name(String),
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

/// What the controller reads of a Pod, beside what [`convert::Pod`] has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    #[serde(deserialize_with = "or_default")]
    spec: PodSpec,
    #[serde(deserialize_with = "or_default")]
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodSpec {
    #[serde(deserialize_with = "or_default")]
    hostname: String,
    #[serde(deserialize_with = "or_default")]
    subdomain: String,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    #[serde(deserialize_with = "or_default")]
    ports: Vec<ContainerPort>,
    #[serde(deserialize_with = "or_default")]
    restart_policy: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    protocol: String,
    container_port: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    #[serde(deserialize_with = "or_default")]
    phase: String,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
}

/// How a Service selects Pods.
#[derive(Clone, Debug)]
pub struct Selecting(ServiceSpec);

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
    spec: PodSpec,
}

impl Selecting {
    /// What the controller reads of this Service; `None` if it selects nothing.
    pub fn new(service: &model::Service, rest: Service) -> Result<Option<Selecting>, Invalid> {
        // The controller leaves alone what is of type ExternalName or has no selector.
        if matches!(service.kind, ServiceKind::ExternalName(_)) || rest.spec.selector.is_empty() {
            return Ok(None);
        }
        for (at, port) in rest.spec.ports.iter().enumerate() {
            // Zero is the default: the Service's own port number.
            if let Some(TargetPort::Number(number @ ..=-1 | number @ 1..)) = port.target_port {
                invalid::port_number(format!("spec.ports[{at}].targetPort"), number)?;
            }
        }
        Ok(Some(Selecting(rest.spec)))
    }

    /// The slices that the controller would write for `service`, whose `pods` are those of its namespace. A slice
    /// without ready endpoints says nothing to DNS and is left out.
    pub fn slices<'a>(
        &self, service: &model::Service, pods: impl Iterator<Item = &'a Selectable>,
    ) -> Vec<model::EndpointSlice> {
        let pods: Vec<&Selectable> = pods.filter(|pod| self.0.selector.all_in(&pod.labels)).collect();
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
        let mut families = self.0.ip_families.clone();
        if let (true, ServiceKind::ClusterIp(ips)) = (families.is_empty(), &service.kind) {
            families.extend(ips.iter().map(family));
        }
        if families.is_empty() {
            // The API server makes a Service SingleStack, of the first family, unless it says otherwise.
            families = match (self.0.ip_family_policy.as_str(), primary) {
                ("" | "SingleStack", Some(primary)) => vec![family(&primary)],
                _ => vec![Family::V4, Family::V6],
            };
        }
        families.sort_unstable();
        families.dedup();
        families
    }

    /// `ready` of the Pod's endpoint (`podToEndpoint`).
    fn counts_as_ready(&self, pod: &Selectable) -> bool {
        self.0.publish_not_ready_addresses || (pod.serving && !pod.terminating)
    }

    /// The Service's ports as this Pod has them, sorted; those that it has not are left out (`getEndpointPorts`).
    fn ports(&self, service: &model::Service, pod: &Selectable) -> Vec<model::Port> {
        let targets = self.0.ports.iter().map(|port| port.target_port.as_ref());
        let pairs = service.ports.iter().zip(targets);
        let mut ports: Vec<model::Port> = pairs
            .filter_map(|(port, target)| {
                let number = match target {
                    None | Some(TargetPort::Number(0)) => port.number,
                    Some(TargetPort::Number(number)) => u16::try_from(*number).ok(),
                    Some(TargetPort::Name(name)) if name.is_empty() => port.number,
                    Some(TargetPort::Name(name)) => Some(pod.named_port(name, port.protocol)?),
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
    pub fn new(pod: &convert::Pod, rest: Pod) -> Result<Option<Selectable>, Invalid> {
        let key = pod.key()?;
        let addresses = pod.addresses()?;
        if addresses.is_empty() || matches!(rest.status.phase.as_str(), "Succeeded" | "Failed") {
            return Ok(None);
        }
        if !rest.spec.hostname.is_empty() {
            invalid::label("spec.hostname", &rest.spec.hostname)?;
        }
        let labels = pod.metadata.labels.clone();
        let (serving, terminating) = (rest.status.serving(), pod.metadata.terminating());
        Ok(Some(Selectable { key, labels, addresses, terminating, serving, spec: rest.spec }))
    }

    /// The Pod's endpoint of one family.
    fn endpoint(&self, service: &model::Service, addresses: Vec<IpAddr>) -> model::Endpoint {
        let (name, hostname) = (&self.key.name, self.spec.hostname.as_str());
        // `ShouldSetHostname`
        let named = !hostname.is_empty() && *self.spec.subdomain == *service.key.name;
        model::Endpoint {
            addresses: addresses.into(),
            hostname: named.then(|| hostname.into()),
            pod: invalid::is_label(name).then(|| name.clone()),
            // The controller asks the Node. The API server copies its zone to the Pod's labels.
            zone: self.labels.get(ZONE).filter(|zone| !zone.is_empty()).map(|zone| zone.to_ascii_lowercase().into()),
        }
    }

    /// The number of a named port (`FindPort`): containers first, then init containers that go on running.
    fn named_port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let sidecars = self.spec.init_containers.iter().filter(|container| container.restart_policy == "Always");
        let mut ports = self.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
        let same = |port: &&ContainerPort| port.name == name && invalid::protocol("", &port.protocol) == Ok(protocol);
        invalid::port_number("", ports.find(same)?.container_port).ok()
    }
}

impl PodStatus {
    /// Condition Ready. A hand-written Pod has no conditions at all: then it is ready unless its phase says otherwise.
    fn serving(&self) -> bool {
        if self.conditions.is_empty() {
            return matches!(self.phase.as_str(), "" | "Running");
        }
        self.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}
