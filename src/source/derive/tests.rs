//! Derivation of endpoints: Services and Pods in, derived endpoints as text out, compared with those of the real
//! controller.

use std::fmt::Write as _;

use super::*;
use crate::cluster::Event;
use crate::cluster::model::Object;
use crate::source::{Manifests, Selection};

/// Returns the endpoints of a manifest, sorted: a line for each endpoint, with the ports of its slice.
fn endpoints(yaml: &str) -> String {
    let folder = crate::source::manifests::tests::Folder::make();
    let manifests = Manifests::load(&[folder.write("all.yaml", yaml)]).unwrap();
    assert_eq!(manifests.snapshot().warnings(), []);
    let selection = Selection { endpoints: true, ..Selection::default() };
    let mut lines = Vec::new();
    for event in manifests.snapshot().events(&selection) {
        let Event::Upsert(Object::EndpointSlice(slice)) = event else { continue };
        let mut ports: Vec<String> = slice.ports.iter().map(port).collect();
        ports.sort();
        for endpoint in &slice.endpoints {
            let mut line = format!("{}/{}", slice.key.ns, slice.service);
            let parts = [&endpoint.hostname, &endpoint.pod, &endpoint.zone];
            endpoint.addresses.iter().for_each(|ip| write!(line, " {ip}").unwrap());
            parts.into_iter().for_each(|part| write!(line, " {}", part.as_deref().unwrap_or("-")).unwrap());
            lines.push(format!("{line} {}", ports.join(" ")).trim_end().to_owned());
        }
    }
    lines.sort();
    lines.join("\n")
}

/// Formats a port.
fn port(port: &model::Port) -> String {
    format!("{}:{}/{}", port.name, port.number.map_or("any".into(), |number| number.to_string()), port.protocol.label())
}

/// Checks the endpoints of a Service `s` with this spec and of Pods with these specs and statuses; all Pods have the
/// label `app: s`.
fn check(service: &str, pods: &[(&str, &str, &str)], want: &str) {
    let mut yaml = format!("kind: Service\nmetadata: {{name: s}}\nspec: {{selector: {{app: s}}, {service}}}\n");
    for (name, spec, status) in pods {
        let metadata = format!("{{name: {name}, labels: {{app: s, x: z}}}}");
        write!(yaml, "---\nkind: Pod\nmetadata: {metadata}\nspec: {{{spec}}}\nstatus: {{{status}}}\n").unwrap();
    }
    assert_eq!(endpoints(&yaml), want.replace("            ", "").trim(), "{service}");
}

#[test]
fn derived_endpoints_equal_those_of_the_real_controller() {
    let shop = include_str!("../../../tests/data/shop.yaml");
    // The slices of a Service without selector are written by the user.
    let mut dump: serde_json::Value = serde_saphyr::from_str(shop).unwrap();
    let items = dump["items"].as_array_mut().unwrap();
    let written = |item: &serde_json::Value| item["metadata"]["labels"]["kubernetes.io/service-name"] == "manual";
    let before = items.len();
    items.retain(|item| item["kind"] != "EndpointSlice" || written(item));
    assert_eq!(before - items.len(), 14);
    let real = endpoints(shop);
    assert_eq!(endpoints(&dump.to_string()), real);
    assert_eq!(real.lines().count(), 24, "{real}");
}

#[test]
fn a_pod_without_conditions_is_ready_while_it_runs() {
    let pods = [
        ("a", "", "podIP: 10.0.0.1"),
        ("b", "", "phase: Running, podIPs: [{ip: 10.0.0.2}]"),
        ("c", "", "phase: Pending, podIP: 10.0.0.3"),
        ("d", "", "podIP: 10.0.0.4, conditions: [{type: Initialized, status: 'True'}]"),
        ("e", "", "podIP: 10.0.0.5, conditions: [{type: Ready, status: 'False'}]"),
        ("f", "", "phase: Failed, podIP: 10.0.0.6"),
        ("g", "", "phase: Running"),
    ];
    check(
        "clusterIP: None",
        &pods,
        "default/s 10.0.0.1 - a -
            default/s 10.0.0.2 - b -",
    );
    check(
        "clusterIP: None, publishNotReadyAddresses: true",
        &pods,
        "default/s 10.0.0.1 - a -
            default/s 10.0.0.2 - b -
            default/s 10.0.0.3 - c -
            default/s 10.0.0.4 - d -
            default/s 10.0.0.5 - e -",
    );
}

#[test]
fn target_ports_are_resolved_for_each_pod() {
    let pods = [
        ("a", "containers: [{ports: [{name: web, containerPort: 8080}]}]", "podIP: 10.0.0.1"),
        ("b", "containers: [{ports: [{name: web, containerPort: 9090}]}]", "podIP: 10.0.0.2"),
        ("c", "containers: [{ports: [{name: web, protocol: UDP, containerPort: 7070}]}]", "podIP: 10.0.0.3"),
        (
            "d",
            "initContainers: [{restartPolicy: Always, ports: [{name: web, containerPort: 6060}]}]",
            "podIP: 10.0.0.4",
        ),
    ];
    check(
        "clusterIP: None, ports: [{name: http, port: 80, targetPort: web}, {name: dns, protocol: UDP, port: 53}, {name: m, port: 1, targetPort: 2}]",
        &pods,
        "default/s 10.0.0.1 - a - dns:53/udp http:8080/tcp m:2/tcp
            default/s 10.0.0.2 - b - dns:53/udp http:9090/tcp m:2/tcp
            default/s 10.0.0.3 - c - dns:53/udp m:2/tcp
            default/s 10.0.0.4 - d - dns:53/udp http:6060/tcp m:2/tcp",
    );
}

#[test]
fn families_are_those_of_the_service() {
    let pods = [("a", "", "podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]")];
    let (v4, v6) = ("default/s 10.0.0.1 - a -", "default/s fd00::1 - a -");
    check("clusterIP: None", &pods, v4);
    check("clusterIP: None, ipFamilyPolicy: PreferDualStack", &pods, &format!("{v4}\n{v6}"));
    check("clusterIP: None, ipFamilies: [IPv6]", &pods, v6);
    check("clusterIP: 10.96.0.1", &pods, v4);
    check("clusterIPs: [10.96.0.1, 'fd01::1']", &pods, &format!("{v4}\n{v6}"));
    check("type: ExternalName, externalName: a.example", &pods, "");
}

#[test]
fn a_hostname_needs_the_subdomain_of_the_service() {
    let pods = [
        ("a", "hostname: h, subdomain: s", "podIP: 10.0.0.1"),
        ("b", "hostname: h, subdomain: t", "podIP: 10.0.0.2"),
        ("c", "hostname: h", "podIP: 10.0.0.3"),
    ];
    check(
        "clusterIP: None",
        &pods,
        "default/s 10.0.0.1 h a -
            default/s 10.0.0.2 - b -
            default/s 10.0.0.3 - c -",
    );
}

#[test]
fn existing_slices_are_not_supplemented() {
    let pod = "---\nkind: Pod\nmetadata: {name: a, labels: {app: s}}\nstatus: {podIP: 10.0.0.1}\n";
    let service = "kind: Service\nmetadata: {name: s}\nspec: {clusterIP: None, selector: {app: s}}\n";
    let slice = "---\nkind: EndpointSlice\nmetadata: {name: s-1, labels: {kubernetes.io/service-name: s}}\nendpoints: [{addresses: [10.0.0.9]}]\n";
    let elsewhere = pod.replace("name: a,", "name: a, namespace: other,");
    assert_eq!(endpoints(&format!("{service}{pod}{slice}")), "default/s 10.0.0.9 - - -");
    assert_eq!(endpoints(&format!("{service}{elsewhere}")), "");
}

#[test]
fn a_pod_that_is_being_deleted_is_published_only_with_not_ready_ones() {
    let service = |more: &str| {
        format!("kind: Service\nmetadata: {{name: s}}\nspec: {{clusterIP: None, selector: {{app: s}}, {more}}}\n")
    };
    let pod = "---\nkind: Pod\nmetadata: {name: a, labels: {app: s}, deletionTimestamp: 2026-01-01T00:00:00Z}\nstatus: {podIP: 10.0.0.1}\n";
    assert_eq!(endpoints(&(service("") + pod)), "");
    assert_eq!(endpoints(&(service("publishNotReadyAddresses: true") + pod)), "default/s 10.0.0.1 - a -");
}
