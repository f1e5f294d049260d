//! The Kubernetes objects around a name, with the fields that an explanation needs, and how they are read.
//!
//! A field with an unexpected value counts as absent: an explanation does its best, and the server has warned.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::stub::PodDns;
use crate::wire::NameBuf;

/// The maximum number of objects that a query returns.
pub(super) const MAX_OBJECTS: usize = 200;

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// Namespaces.
    Namespace,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// Pods.
    Pod,
}

/// Which objects to read.
#[derive(Clone, Debug)]
pub struct ObjectQuery {
    /// The kind.
    pub kind: ObjectKind,
    /// The namespace; empty for Namespaces.
    pub namespace: String,
    /// The name, or any.
    pub name: Option<String>,
    /// The labels that they have.
    pub labels: Vec<(String, String)>,
    /// The maximum number.
    pub limit: usize,
}

/// Reads objects, from an API server or from manifests.
pub trait ObjectReader {
    /// Returns the objects, or a line that says why they cannot be read.
    fn read(&self, query: &ObjectQuery) -> Result<Vec<Value>, String>;
}

/// There are no objects but those of the index.
pub struct NoObjects(pub String);

impl ObjectReader for NoObjects {
    fn read(&self, _: &ObjectQuery) -> Result<Vec<Value>, String> {
        Err(self.0.clone())
    }
}

/// Labels or a selector.
pub(super) type LabelMap = BTreeMap<String, String>;

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceObject {
    /// The name.
    pub name: String,
    /// `spec.type`.
    pub kind: String,
    /// `spec.clusterIPs`.
    pub addresses: Vec<String>,
    /// `spec.externalName`.
    pub external_name: Option<String>,
    /// `spec.selector`.
    pub selector: LabelMap,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// The ports, such as `http 80/TCP`.
    pub ports: Vec<String>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceObject {
    /// The name.
    pub name: String,
    /// The endpoints.
    pub endpoints: Vec<EndpointObject>,
    /// The ports, such as `http 80/TCP`.
    pub ports: Vec<String>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointObject {
    /// The addresses.
    pub addresses: Vec<String>,
    /// The condition `ready`; absent counts as true.
    pub is_ready: bool,
    /// The condition `serving`.
    pub is_serving: Option<bool>,
    /// The condition `terminating`.
    pub is_terminating: bool,
    /// The object that it is about, such as `Pod web-1`.
    pub target: Option<String>,
    /// The host name.
    pub hostname: Option<String>,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodObject {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: LabelMap,
    /// `status.phase`.
    pub phase: String,
    /// `status.podIPs`.
    pub addresses: Vec<String>,
    /// The conditions: type to whether it is true, reason and message.
    pub conditions: BTreeMap<String, (bool, String)>,
    /// The conditions of `spec.readinessGates`.
    pub gates: Vec<String>,
    /// The Pod is being deleted.
    pub is_terminating: bool,
    /// Why its containers wait, such as `CrashLoopBackOff`.
    pub waiting: Vec<String>,
    /// The fields for its resolv.conf.
    pub dns: PodDns,
}

fn text<'a>(value: &'a Value, at: &str) -> Option<&'a str> {
    value.pointer(at).and_then(Value::as_str)
}

fn list<'a>(value: &'a Value, at: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(at).and_then(Value::as_array).into_iter().flatten()
}

fn texts(value: &Value, at: &str) -> Vec<String> {
    list(value, at).filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn labels(value: &Value, at: &str) -> LabelMap {
    let map = value.pointer(at).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn ports(value: &Value, at: &str) -> Vec<String> {
    let ports = list(value, at).map(|port| {
        let number = port.get("port").map_or("any".to_owned(), ToString::to_string);
        let protocol = text(port, "/protocol").unwrap_or("TCP");
        match text(port, "/name").filter(|name| !name.is_empty()) {
            Some(name) => format!("{name} {number}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    ports.collect()
}

/// Returns the name of an object.
fn name(value: &Value) -> String {
    text(value, "/metadata/name").unwrap_or_default().to_owned()
}

impl ServiceObject {
    /// Returns whether the Service is an alias of something that is no name, so that the server leaves it out.
    pub fn has_invalid_external_name(&self) -> bool {
        let name = self.external_name.as_deref().unwrap_or_default();
        self.kind == "ExternalName"
            && (name.is_empty() || NameBuf::from_text(name).is_err() || name.contains([':', '/']))
    }

    /// Reads a Service of the API.
    pub fn of(value: &Value) -> ServiceObject {
        let mut addresses = texts(value, "/spec/clusterIPs");
        if addresses.is_empty() {
            addresses.extend(text(value, "/spec/clusterIP").filter(|ip| !ip.is_empty()).map(str::to_owned));
        }
        ServiceObject {
            name: name(value),
            kind: text(value, "/spec/type").unwrap_or("ClusterIP").to_owned(),
            addresses,
            external_name: text(value, "/spec/externalName").map(str::to_owned),
            selector: labels(value, "/spec/selector"),
            publish_not_ready: value
                .pointer("/spec/publishNotReadyAddresses")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            ports: ports(value, "/spec/ports"),
        }
    }

    /// Returns whether the Service has no cluster address.
    pub fn is_headless(&self) -> bool {
        self.addresses.iter().any(|address| address == "None")
    }

    /// Returns a line about the Service.
    pub(super) fn line(&self, ns: &str) -> String {
        let mut line = format!("Service {ns}/{}: ", self.name);
        match &self.external_name {
            Some(target) if self.kind == "ExternalName" => return line + "ExternalName " + target,
            _ if self.is_headless() => line.push_str("headless"),
            _ if self.addresses.is_empty() => line.push_str(&format!("{} without a cluster address", self.kind)),
            _ => line.push_str(&format!("{} {}", self.kind, self.addresses.join(", "))),
        }
        line.push_str(&match &self.selector {
            selector if selector.is_empty() => ", no selector".to_owned(),
            selector => format!(", selector {}", format_labels(selector)),
        });
        if self.publish_not_ready {
            line.push_str(", publishNotReadyAddresses");
        }
        match &self.ports[..] {
            [] => line + ", no ports",
            ports => line + ", ports " + &ports.join(", "),
        }
    }
}

impl SliceObject {
    /// Reads a slice of the API.
    pub fn of(value: &Value) -> SliceObject {
        let endpoints = list(value, "/endpoints").map(|endpoint| {
            let condition = |name: &str| endpoint.pointer(&format!("/conditions/{name}")).and_then(Value::as_bool);
            let target = text(endpoint, "/targetRef/name");
            EndpointObject {
                addresses: texts(endpoint, "/addresses"),
                is_ready: condition("ready").unwrap_or(true),
                is_serving: condition("serving"),
                is_terminating: condition("terminating").unwrap_or_default(),
                target: target.map(|name| format!("{} {name}", text(endpoint, "/targetRef/kind").unwrap_or("Pod"))),
                hostname: text(endpoint, "/hostname").map(str::to_owned),
            }
        });
        SliceObject { name: name(value), endpoints: endpoints.collect(), ports: ports(value, "/ports") }
    }

    /// Returns a line about the slice, and one about each endpoint.
    pub(super) fn lines(&self, ns: &str) -> Vec<String> {
        let ready = self.endpoints.iter().filter(|endpoint| endpoint.is_ready).count();
        let ports = if self.ports.is_empty() { "none".to_owned() } else { self.ports.join(", ") };
        let total = self.endpoints.len();
        let mut lines = vec![format!("EndpointSlice {ns}/{}: {ready} of {total} ready, ports {ports}", self.name)];
        for endpoint in self.endpoints.iter().take(20) {
            let mut line = format!("  endpoint {}: ", endpoint.addresses.join(", "));
            line.push_str(if endpoint.is_ready { "ready" } else { "not ready" });
            match endpoint.is_serving {
                Some(true) if !endpoint.is_ready => line.push_str(", serving"),
                Some(false) if endpoint.is_ready => line.push_str(", not serving"),
                _ => {}
            }
            if endpoint.is_terminating {
                line.push_str(", terminating");
            }
            if let Some(hostname) = &endpoint.hostname {
                line.push_str(&format!(", host name {hostname}"));
            }
            if let Some(target) = &endpoint.target {
                line.push_str(&format!(", {target}"));
            }
            lines.push(line);
        }
        if total > 20 {
            lines.push(format!("  … {} more endpoints", total - 20));
        }
        lines
    }
}

impl PodObject {
    /// Reads a Pod of the API.
    pub fn of(value: &Value) -> PodObject {
        let conditions = list(value, "/status/conditions").filter_map(|condition| {
            let is_true = text(condition, "/status") == Some("True");
            let parts = [text(condition, "/reason"), text(condition, "/message")];
            let why: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
            Some((text(condition, "/type")?.to_owned(), (is_true, why.join(": "))))
        });
        let mut addresses: Vec<String> =
            list(value, "/status/podIPs").filter_map(|ip| text(ip, "/ip").map(str::to_owned)).collect();
        if addresses.is_empty() {
            addresses.extend(text(value, "/status/podIP").filter(|ip| !ip.is_empty()).map(str::to_owned));
        }
        let gates = list(value, "/spec/readinessGates").filter_map(|gate| text(gate, "/conditionType"));
        let waiting =
            list(value, "/status/containerStatuses").filter_map(|status| text(status, "/state/waiting/reason"));
        PodObject {
            name: name(value),
            labels: labels(value, "/metadata/labels"),
            phase: text(value, "/status/phase").unwrap_or("Running").to_owned(),
            addresses,
            conditions: conditions.collect(),
            gates: gates.map(str::to_owned).collect(),
            is_terminating: value.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()),
            waiting: waiting.map(str::to_owned).collect(),
            dns: PodDns::of(value),
        }
    }

    /// Returns why the Pod is not ready, or `None` if it is.
    pub fn not_ready(&self) -> Option<String> {
        let is_true = |condition: &str| self.conditions.get(condition).is_some_and(|(is_true, _)| *is_true);
        let why =
            |condition: &str| self.conditions.get(condition).map(|(_, why)| why.as_str()).filter(|why| !why.is_empty());
        if self.is_terminating {
            return Some("it is terminating".to_owned());
        }
        if matches!(self.phase.as_str(), "Succeeded" | "Failed") {
            return Some(format!("its phase is {}", self.phase));
        }
        if self.phase == "Pending" {
            let why = why("PodScheduled").filter(|_| !is_true("PodScheduled"));
            let waiting = (!self.waiting.is_empty()).then(|| self.waiting.join(", "));
            let why = waiting.or(why.map(str::to_owned));
            return Some(why.map_or("it is pending".to_owned(), |why| format!("it is pending ({why})")));
        }
        if let Some(gate) = self.gates.iter().find(|gate| !is_true(gate)) {
            return Some(format!("its readiness gate {gate} is not True"));
        }
        if self.addresses.is_empty() {
            return Some("it has no address yet".to_owned());
        }
        if self.conditions.contains_key("Ready") && !is_true("Ready") {
            let waiting = (!self.waiting.is_empty()).then(|| self.waiting.join(", "));
            let why = waiting.or(why("ContainersReady").or(why("Ready")).map(str::to_owned));
            return Some(why.map_or("its condition Ready is not True".to_owned(), |why| {
                format!("its condition Ready is not True ({why})")
            }));
        }
        None
    }

    /// Returns a line about the Pod.
    pub(super) fn line(&self, ns: &str) -> String {
        let addresses = if self.addresses.is_empty() { "no address".to_owned() } else { self.addresses.join(", ") };
        let state = self.not_ready().map_or("ready".to_owned(), |why| format!("not ready: {why}"));
        format!("Pod {ns}/{}: {}, {addresses}, {state}", self.name, self.phase)
    }
}

/// Returns labels as in `kubectl -l`.
pub(super) fn format_labels(labels: &LabelMap) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
