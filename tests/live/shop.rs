//! A small cluster with one object of every kind that DNS distinguishes.

use serde_json::{Value, json};

use super::api::Api;
use super::objects::{Pod, headless, labelled, namespace, node, selects, service, slice};
use super::wait::{SOON, eventually};

/// Fills a new cluster, and waits until the controllers have created the slices.
pub fn open(api: &Api) {
    for object in [spaces(), services(), slices()].concat() {
        api.apply(&object);
    }
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.80"}]}});
    api.set_status("Service", "shop", "edge", &ingress);
    let pods = pods();
    pods.iter().for_each(|pod| pod.apply(api));
    api.terminate("data", "leaving-0");
    let selected: Vec<&str> = pods.iter().filter(|pod| pod.phase == "Running").map(|pod| &*pod.app).collect();
    let services = api.list("Service");
    let selected: Vec<&str> = selected.into_iter().filter(|app| selects_app(&services, app)).collect();
    eventually("the controllers have created slices for all Pods", SOON, || {
        let slices = api.list("EndpointSlice");
        let made = pods.iter().filter(|pod| selected.contains(&&*pod.app)).find(|pod| !targets(&slices, &pod.name));
        // One is created from an Endpoints object.
        let mirrored = slices.iter().any(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "legacy");
        match made {
            Some(pod) => Err(format!("no slice for {}", pod.name)),
            None if !mirrored => Err("no mirror of an Endpoints object".to_owned()),
            None => Ok(()),
        }
    });
}

fn selects_app(services: &[Value], app: &str) -> bool {
    services.iter().any(|service| service["spec"]["selector"]["app"] == app)
}

fn targets(slices: &[Value], pod: &str) -> bool {
    let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
    endpoints.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str()).any(|name| name == pod)
}

/// Both families.
fn dual(mut spec: Value) -> Value {
    spec["ipFamilyPolicy"] = "RequireDualStack".into();
    spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
    spec
}

/// Returns a `spec` with a given ClusterIP.
fn at(address: &str, mut spec: Value) -> Value {
    spec["clusterIP"] = address.into();
    spec
}

fn alias(target: &str) -> Value {
    json!({"type": "ExternalName", "externalName": target})
}

fn spaces() -> Vec<Value> {
    vec![
        node("node-a", "zone-a"),
        node("node-b", "zone-b"),
        namespace("shop", &json!({"team": "store"})),
        namespace("data", &json!({"team": "db"})),
        namespace("lab", &json!({"team": "store", "stage": "test"})),
        namespace("empty", &json!({})),
    ]
}

fn services() -> Vec<Value> {
    let front = [("tier", "front")];
    let http = [("http", 80, "TCP")];
    let dns = [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", 9153, "TCP")];
    vec![
        service("kube-system", "kube-dns", &dns, &at("10.96.0.10", selects("dns"))),
        labelled(service("shop", "web", &[http[0], ("https", 443, "TCP")], &at("10.96.10.20", selects("web"))), &front),
        service("shop", "cart", &[("", 80, "TCP")], &at("10.96.10.21", selects("cart"))),
        labelled(service("shop", "api", &http, &dual(selects("api"))), &front),
        service("shop", "six", &http, &json!({"ipFamilies": ["IPv6"], "selector": {"app": "api"}})),
        service("shop", "node", &http, &json!({"type": "NodePort", "selector": {"app": "web"}})),
        service(
            "shop",
            "edge",
            &http,
            &json!({
                "type": "LoadBalancer", "selector": {"app": "web"}, "externalIPs": ["203.0.113.7"],
            }),
        ),
        service("shop", "idle", &http, &at("10.96.10.30", selects("none"))),
        service("shop", "handmade", &http, &at("10.96.10.40", json!({}))),
        service("shop", "legacy", &http, &at("10.96.10.50", json!({}))),
        labelled(service("shop", "pay", &[], &alias("pay.example.com")), &front),
        service("shop", "alias", &[], &alias("web.shop.svc.cluster.local")),
        service("shop", "dangling", &[], &alias("nothing.shop.svc.cluster.local")),
        service("shop", "number", &[], &alias("192.0.2.44")),
        service("data", "db", &[("pg", 5432, "TCP")], &headless("db")),
        labelled(
            service("data", "queue", &[("amqp", 5672, "TCP"), ("epmd", 4369, "TCP")], &dual(headless("queue"))),
            &front,
        ),
        service(
            "data",
            "boot",
            &[("peer", 2380, "TCP")],
            &json!({
                "clusterIP": "None", "selector": {"app": "boot"}, "publishNotReadyAddresses": true,
            }),
        ),
        service("data", "cold", &[("peer", 2380, "TCP")], &headless("cold")),
        service("data", "leaving", &[("peer", 2380, "TCP")], &headless("leaving")),
        service("data", "manual", &[("x", 9000, "TCP")], &json!({"clusterIP": "None"})),
        service("data", "bare", &[], &headless("db")),
        service("lab", "twins", &[("t", 7000, "TCP"), ("u", 7000, "UDP")], &headless("twins")),
        labelled(service("lab", "many", &http, &json!({"clusterIP": "None"})), &front),
        service("lab", "web", &http, &selects("lab-web")),
    ]
}

fn slices() -> Vec<Value> {
    let x = [("x", 9000, "TCP")];
    let manual = json!([
        {"addresses": ["192.0.2.10"], "hostname": "one", "zone": "zone-a"},
        {"addresses": ["192.0.2.11"]},
        {"addresses": ["192.0.2.12"], "conditions": {"ready": false}},
        {"addresses": ["192.0.2.13"], "conditions": {"ready": false, "serving": true, "terminating": true}},
    ]);
    let six = json!([{"addresses": ["2001:db8::10"], "hostname": "one"}, {"addresses": ["2001:db8::b"]}]);
    let many: Value = (1..=60).map(|n| json!({"addresses": [format!("198.51.100.{n}")]})).collect();
    let subset = json!({"addresses": [{"ip": "192.0.2.60"}], "ports": [{"name": "http", "port": 80}]});
    vec![
        slice("data", "manual", "manual-1", "IPv4", &manual, &x),
        slice("data", "manual", "manual-2", "IPv6", &six, &x),
        labelled(slice("lab", "many", "many-1", "IPv4", &many, &[("http", 8080, "TCP")]), &[("tier", "front")]),
        slice(
            "shop",
            "handmade",
            "handmade-1",
            "IPv4",
            &json!([{"addresses": ["192.0.2.50"]}]),
            &[("http", 80, "TCP")],
        ),
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": "shop", "name": "legacy"},
            "subsets": [subset],
        }),
    ]
}

fn pods() -> Vec<Pod> {
    let mut pods = vec![
        Pod::new("kube-system", "dns-0", "dns", &["10.244.0.2"]),
        Pod::new("shop", "web-6d4b75cb6d-hx2vk", "web", &["10.244.1.5"]),
        Pod { node: "node-b", ..Pod::new("shop", "web-6d4b75cb6d-p9q4n", "web", &["10.244.1.6"]) },
        Pod::new("shop", "cart-7c9d8-abcde", "cart", &["10.244.2.6"]),
        Pod::new("shop", "api-5f6-xyz12", "api", &["10.244.2.7", "fd00:10:244:2::7"]),
        Pod { ready: false, ..Pod::of_set("data", "boot", 0, &["10.244.5.10"]) },
        Pod { ready: false, ..Pod::of_set("data", "cold", 0, &["10.244.5.20"]) },
        Pod::of_set("data", "leaving", 0, &["10.244.5.30"]),
        Pod { host_network: true, ..Pod::new("data", "agent-a", "agent", &["192.168.1.10"]) },
        Pod { phase: "Succeeded", ready: false, ..Pod::new("data", "job-done", "job", &["10.244.6.9"]) },
        // The next Pod has the address of the finished one.
        Pod::new("lab", "job-next", "job", &["10.244.6.9"]),
        Pod::new("lab", "lab-web-1", "lab-web", &["10.244.6.20"]),
        Pod::new("lab", "six", "six", &["fd00:10:244:6::1"]),
    ];
    for n in 0..3 {
        pods.push(Pod::of_set("data", "db", n, &[&format!("10.244.3.{}", 10 + n)]));
    }
    for n in 0..2 {
        let six = format!("fd00:10:244:4::{}", 10 + n);
        pods.push(Pod::of_set("data", "queue", n, &[&format!("10.244.4.{}", 10 + n), &six]));
        pods.push(Pod::of_set("lab", "twins", n, &[&format!("10.244.7.{}", 10 + n)]));
    }
    pods
}
