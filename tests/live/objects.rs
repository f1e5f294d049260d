//! Builders for Kubernetes objects.

use serde_json::{Value, json};

use super::api::Api;

/// A port of a Service or a slice: name, which may be empty, number and protocol.
pub type Port = (&'static str, u16, &'static str);

/// A Namespace with labels.
pub fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A Node in a zone; the controllers ignore Pods of Nodes that do not exist.
pub fn node(name: &str, zone: &str) -> Value {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

/// A Service; `spec` has the fields other than ports.
pub fn service(ns: &str, name: &str, ports: &[Port], spec: &Value) -> Value {
    let mut spec = spec.clone();
    if !ports.is_empty() {
        spec["ports"] = ports_of(ports);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": ns, "name": name}, "spec": spec})
}

/// Returns the `spec` of a Service for the Pods of an app.
pub fn selects(app: &str) -> Value {
    json!({"selector": {"app": app}})
}

/// Returns the `spec` of a headless Service for the Pods of an app.
pub fn headless(app: &str) -> Value {
    json!({"clusterIP": "None", "selector": {"app": app}})
}

/// A slice of a Service, not managed by a controller.
pub fn slice(ns: &str, service: &str, name: &str, family: &str, endpoints: &Value, ports: &[Port]) -> Value {
    let labels = json!({"kubernetes.io/service-name": service});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": ns, "name": name, "labels": labels},
        "addressType": family, "endpoints": endpoints, "ports": ports_of(ports),
    })
}

fn ports_of(ports: &[Port]) -> Value {
    let ports = ports.iter().map(|&(name, port, protocol)| {
        let mut value = json!({"port": port, "protocol": protocol});
        if !name.is_empty() {
            value["name"] = name.into();
        }
        value
    });
    ports.collect()
}

/// Adds labels to an object.
pub fn labelled(mut object: Value, labels: &[(&str, &str)]) -> Value {
    for &(key, value) in labels {
        object["metadata"]["labels"][key] = value.into();
    }
    object
}

/// A Pod, with the status that a kubelet would report.
#[derive(Clone, Debug)]
pub struct Pod {
    pub ns: String,
    pub name: String,
    pub app: String,
    pub ips: Vec<String>,
    pub node: &'static str,
    /// Host name and subdomain, as a StatefulSet sets them.
    pub host: Option<(String, String)>,
    pub host_network: bool,
    pub ready: bool,
    pub phase: &'static str,
}

impl Pod {
    /// Creates a running and ready Pod.
    pub fn new(ns: &str, name: &str, app: &str, ips: &[&str]) -> Pod {
        let ips = ips.iter().map(|&ip| ip.to_owned()).collect();
        let ns = ns.to_owned();
        let name = name.to_owned();
        let app = app.to_owned();
        Pod { ns, name, app, ips, node: "node-a", host: None, host_network: false, ready: true, phase: "Running" }
    }

    /// Creates a Pod of a StatefulSet whose Service is named like its app.
    pub fn of_set(ns: &str, app: &str, number: u32, ips: &[&str]) -> Pod {
        let name = format!("{app}-{number}");
        let node = if number.is_multiple_of(2) { "node-a" } else { "node-b" };
        Pod { host: Some((name.clone(), app.to_owned())), node, ..Pod::new(ns, &name, app, ips) }
    }

    /// Returns the object, without status.
    pub fn object(&self) -> Value {
        let containers = json!([{"name": "main", "image": "registry.example/main"}]);
        let mut spec = json!({"containers": containers, "nodeName": self.node, "hostNetwork": self.host_network});
        if let Some((hostname, subdomain)) = &self.host {
            spec["hostname"] = hostname.as_str().into();
            spec["subdomain"] = subdomain.as_str().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"namespace": self.ns, "name": self.name, "labels": {"app": self.app}},
        })
    }

    /// Creates it and reports its status.
    pub fn apply(&self, api: &Api) {
        api.apply(&self.object());
        self.report(api);
    }

    /// Reports its status.
    pub fn report(&self, api: &Api) {
        api.set_status("Pod", &self.ns, &self.name, &self.status());
    }

    /// Returns its status.
    pub fn status(&self) -> Value {
        let condition = |kind: &str, is: bool| {
            let is = if is { "True" } else { "False" };
            json!({"type": kind, "status": is, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let ips: Vec<Value> = self.ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({
            "phase": self.phase, "podIP": self.ips[0], "podIPs": ips,
            "hostIP": "192.168.1.10", "hostIPs": [{"ip": "192.168.1.10"}],
            "conditions": [
                condition("Initialized", true), condition("PodScheduled", true),
                condition("ContainersReady", self.ready), condition("Ready", self.ready),
            ],
        })
    }
}
