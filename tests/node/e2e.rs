//! The DNS cases of Kubernetes' own end-to-end suite (`test/e2e/network/dns.go`), by their names, with its probes: dig
//! over UDP and TCP in a Pod of the same namespace. Those that check what kubelet or the container runtime does are
//! left out: the entries of /etc/hosts, the contents of resolv.conf, host names of Pods. The suite's other files are in
//! `configs.rs` and `scale.rs`.

use std::net::Ipv4Addr;

use http::Method;
use serde_json::{Value, json};

use super::Test;
use super::clients::in_pod;
use super::live::objects::{Pod, service};
use super::live::wait::{SOON, eventually};
use super::net::{Node, Space};
use super::policies::POLICIES;
use super::world::World;

/// A policy for Pods of `shop`, as kubelet writes it.
const CLUSTER_FIRST: &str = "ClusterFirst";

pub fn tests() -> Vec<Test> {
    [
        ("should provide DNS for the cluster", cluster as fn(&World)),
        ("should resolve DNS of partial qualified names for the cluster [LinuxOnly]", partial_cluster),
        ("should provide DNS for services", services),
        ("should resolve DNS of partial qualified names for services [LinuxOnly]", partial_services),
        ("should provide DNS for pods for Hostname", host_name),
        ("should provide DNS for pods for Subdomain", subdomain),
        ("should provide DNS for ExternalName services", external_name),
        (
            "should work with the pod containing more than 6 DNS search paths and longer than 256 search list characters",
            many_searches,
        ),
        ("should work with a search path containing an underscore and a search path with a single dot", odd_searches),
        (
            "should resolve DNS of partial qualified names for services on hostNetwork pods with dnsPolicy: \
             ClusterFirstWithHostNet [LinuxOnly]",
            host_network,
        ),
    ]
    .map(|(name, run)| {
        Test::new(format!("e2e: {name}"), move || {
            let world = super::world();
            run(world.as_ref().expect("started"));
        })
    })
    .into()
}

/// The suite's probe of a name: some records of a type, over both transports.
fn probe(world: &World, space: &Space, policy: &str, name: &str, rtype: &str) -> String {
    let policy = POLICIES.iter().find(|known| known.name == policy).expect("a policy");
    let file = world.folder.join("resolv-e2e");
    std::fs::write(&file, policy.resolv_conf()).expect("a file");
    let mut last = String::new();
    for tcp in ["+notcp", "+tcp"] {
        eventually(&format!("{name} {rtype} {tcp}"), SOON, || {
            let mut command = in_pod(space, &file);
            command.args(["dig", tcp, "+short", "+search", "+tries=1", "+time=2", name, rtype]);
            let text = String::from_utf8_lossy(&command.output().expect("dig runs").stdout).trim().to_owned();
            if text.is_empty() || text.contains(";;") {
                return Err(format!("'{text}'"));
            }
            last = text;
            Ok(())
        });
    }
    last
}

/// Probes names from Pods on both nodes.
fn resolve(world: &World, names: &[(&str, &str)]) {
    for client in &world.clients {
        for (name, rtype) in names {
            probe(world, client, CLUSTER_FIRST, name, rtype);
        }
    }
}

/// Creates a Service with the port `http`, and returns it.
fn create(world: &World, name: &str, spec: &Value) -> Value {
    let _ = world.cluster.api.delete("Service", "shop", name);
    world.cluster.api.apply(&service("shop", name, &[("http", 80, "TCP")], spec))
}

/// Creates the Pod behind the headless Service of the cases of Hostname and Subdomain.
fn querier(world: &World) {
    let selector = json!({"clusterIP": "None", "selector": {"app": "dns-querier"}});
    create(world, "dns-test-service-2", &selector);
    let mut pod = Pod::new("shop", "dns-querier-2", "dns-querier", &["10.244.9.9"]);
    pod.host = Some(("dns-querier-2".to_owned(), "dns-test-service-2".to_owned()));
    pod.apply(&world.cluster.api);
}

fn cluster(world: &World) {
    resolve(world, &[("kubernetes.default.svc.cluster.local", "A")]);
}

fn partial_cluster(world: &World) {
    resolve(world, &[("kubernetes.default", "A"), ("kubernetes.default.svc", "A")]);
}

fn services(world: &World) {
    let headless = json!({"clusterIP": "None", "selector": {"app": "db-like"}});
    create(world, "dns-test-service", &headless);
    Pod::new("shop", "dns-test", "db-like", &["10.244.9.10"]).apply(&world.cluster.api);
    let regular = create(world, "test-service-2", &json!({"selector": {"app": "db-like"}}));
    let address: Ipv4Addr =
        regular["spec"]["clusterIP"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let [a, b, c, d] = address.octets();
    resolve(
        world,
        &[
            ("dns-test-service", "A"),
            ("dns-test-service.shop", "A"),
            ("dns-test-service.shop.svc", "A"),
            ("_http._tcp.dns-test-service.shop.svc", "SRV"),
            ("_http._tcp.test-service-2.shop.svc", "SRV"),
            (&format!("{d}.{c}.{b}.{a}.in-addr.arpa."), "PTR"),
        ],
    );
}

fn partial_services(world: &World) {
    services(world);
}

fn host_name(world: &World) {
    querier(world);
    resolve(world, &[("dns-querier-2.dns-test-service-2.shop.svc.cluster.local", "A")]);
}

fn subdomain(world: &World) {
    querier(world);
    resolve(world, &[("dns-test-service-2.shop.svc.cluster.local", "A")]);
}

fn external_name(world: &World) {
    let name = "dns-test-service-3";
    let whole = format!("{name}.shop.svc.cluster.local");
    let _ = world.cluster.api.delete("Service", "shop", name);
    let spec = json!({"type": "ExternalName", "externalName": "foo.example.com"});
    world.cluster.api.apply(&service("shop", name, &[], &spec));
    let comes_to = |rtype: &str, wanted: &str| {
        eventually(&format!("{whole} {rtype} is {wanted}"), SOON, || {
            let seen = probe(world, &world.clients[0], CLUSTER_FIRST, &whole, rtype);
            if seen == wanted { Ok(()) } else { Err(seen) }
        });
    };
    comes_to("CNAME", "foo.example.com.");
    let change = |fields: Value| {
        let path = format!("/api/v1/namespaces/shop/services/{name}");
        let api = &world.cluster.api;
        api.send(Method::PATCH, &path, "application/merge-patch+json", Some(&fields)).expect("changed")
    };
    change(json!({"spec": {"externalName": "bar.example.com"}}));
    comes_to("CNAME", "bar.example.com.");
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    let changed = change(json!({"spec": {"type": "ClusterIP", "externalName": null, "ports": ports}}));
    let address = changed["spec"]["clusterIP"].as_str().expect("an address");
    comes_to("A", address);
}

fn many_searches(world: &World) {
    let policy = "more than six searches and 256 characters";
    assert!(POLICIES.iter().any(|known| known.name == policy && known.conf().searches.join(" ").len() > 256));
    probe(world, &world.clients[0], policy, "kubernetes.default", "A");
}

fn odd_searches(world: &World) {
    probe(
        world,
        &world.clients[0],
        "searches with a dot and an underscore",
        "kubernetes.default.svc.cluster.local",
        "A",
    );
}

fn host_network(world: &World) {
    for node in Node::ALL {
        for name in ["web", "web.shop", "web.shop.svc"] {
            probe(world, &node.space(), "ClusterFirstWithHostNet", name, "A");
        }
    }
}
