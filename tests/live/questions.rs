//! The queries for a cluster: every name of its objects in every form, near misses, many types, and various letter
//! cases, transports and EDNS sizes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use clusterdns::wire::Type;
use serde_json::Value;

use super::api::Api;
use super::ask::Question;

/// The types for every name.
const TYPES: [Type; 11] = [
    Type::A,
    Type::AAAA,
    Type::SRV,
    Type::TXT,
    Type::CNAME,
    Type::NS,
    Type::SOA,
    Type::MX,
    Type::HTTPS,
    Type::ANY,
    Type::PTR,
];

/// A cluster's objects, by kind.
pub struct Objects {
    namespaces: Vec<Value>,
    services: Vec<Value>,
    slices: Vec<Value>,
    pods: Vec<Value>,
}

impl Objects {
    /// Returns the objects of the API server.
    pub fn of(api: &Api) -> Objects {
        let [namespaces, services, slices, pods] =
            ["Namespace", "Service", "EndpointSlice", "Pod"].map(|kind| api.list(kind));
        Objects { namespaces, services, slices, pods }
    }

    /// Returns all queries about them in these zones.
    pub fn questions(&self, zones: &[&str]) -> Vec<Question> {
        let mut questions = Vec::new();
        let plain = |name: &str, rtype| Question::new(name, rtype);
        let names: BTreeSet<String> = zones.iter().flat_map(|zone| self.names(zone)).collect();
        let reverse = self.reverse_names();
        for name in names.iter().chain(&reverse) {
            questions.extend(TYPES.map(|rtype| plain(name, rtype)));
            let mixed = mixed(name);
            questions.extend(
                [Type::A, Type::AAAA, Type::SRV].map(|rtype| Question { edns: Some(1_232), ..plain(&mixed, rtype) }),
            );
        }
        for name in &names {
            questions.extend([Type::A, Type::SRV].map(|rtype| Question { tcp: true, ..plain(name, rtype) }));
            questions.push(Question { edns: Some(4_096), ..plain(name, Type::A) });
        }
        questions.retain(Question::is_encodable);
        questions
    }

    fn names(&self, zone: &str) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = [
            "",
            "svc.",
            "pod.",
            "nons.svc.",
            "web.nons.svc.",
            "1-2-3-4.nons.pod.",
            "dns-version.",
            "dns.",
            "ns.dns.",
            "nosuch.",
            "a.b.c.d.e.f.svc.",
            "*.shop.svc.",
            "any.any.svc.",
        ]
        .map(|name| format!("{name}{zone}"))
        .into();
        for object in &self.namespaces {
            let ns = text(&object["metadata"]["name"]);
            for form in ["{ns}.svc", "{ns}.pod", "nosuch.{ns}.svc", "1-2-3-4.{ns}.pod", "x.{ns}.pod", "{ns}"] {
                names.insert(format!("{}.{zone}", form.replace("{ns}", ns)));
            }
        }
        self.services.iter().for_each(|service| service_names(service, zone, &mut names));
        self.slices.iter().for_each(|slice| slice_names(slice, zone, &mut names));
        for pod in &self.pods {
            let ns = text(&pod["metadata"]["namespace"]);
            for ip in list(&pod["status"]["podIPs"]) {
                let dashed = dashed(text(&ip["ip"]));
                names.insert(format!("{dashed}.{ns}.pod.{zone}"));
                names.insert(format!("{dashed}.default.pod.{zone}"));
            }
        }
        names
    }

    /// Returns the reverse names of all addresses, and their parents.
    fn reverse_names(&self) -> BTreeSet<String> {
        let mut addresses: BTreeSet<&str> = ["10.99.99.99", "fd00::9999"].into();
        for service in &self.services {
            let spec = &service["spec"];
            let all = list(&spec["clusterIPs"]).chain(list(&spec["externalIPs"])).map(text);
            addresses.extend(all.filter(|address| *address != "None"));
            addresses.extend(list(&service["status"]["loadBalancer"]["ingress"]).map(|ingress| text(&ingress["ip"])));
        }
        for endpoint in self.slices.iter().flat_map(|slice| list(&slice["endpoints"])) {
            addresses.extend(list(&endpoint["addresses"]).map(text));
        }
        for pod in &self.pods {
            addresses.extend(list(&pod["status"]["podIPs"]).map(|ip| text(&ip["ip"])));
        }
        let reverse = addresses.into_iter().filter_map(|address| address.parse().ok()).map(reverse);
        let reverse: BTreeSet<String> = reverse.collect();
        let above = reverse.iter().filter_map(|name| name.split_once('.')).map(|(_, above)| above.to_owned());
        above.chain(reverse.iter().cloned()).collect()
    }
}

fn service_names(service: &Value, zone: &str, names: &mut BTreeSet<String>) {
    let name = text(&service["metadata"]["name"]);
    let ns = text(&service["metadata"]["namespace"]);
    let base = format!("{name}.{ns}.svc.{zone}");
    names.insert(base.clone());
    for prefix in [
        "nosuch",
        "_tcp",
        "_udp",
        "_nosuch._tcp",
        "x.y",
        "a.b.c",
        "_._tcp",
        "zone-a.pin._zone",
        "zone-b.prefer._zone",
        "nozone.pin._zone",
        "_zone",
        "pin._zone",
    ] {
        names.insert(format!("{prefix}.{base}"));
    }
    for port in list(&service["spec"]["ports"]) {
        let Some(port_name) = port["name"].as_str() else { continue };
        for protocol in [&*text(&port["protocol"]).to_lowercase(), "udp"] {
            names.insert(format!("_{port_name}._{protocol}.{base}"));
            names.insert(format!("{port_name}.{protocol}.{base}"));
            names.insert(format!("_{port_name}._{protocol}.{base}").to_uppercase());
        }
    }
}

fn slice_names(slice: &Value, zone: &str, names: &mut BTreeSet<String>) {
    let metadata = &slice["metadata"];
    let service = text(&metadata["labels"]["kubernetes.io/service-name"]);
    let base = format!("{service}.{}.svc.{zone}", text(&metadata["namespace"]));
    for endpoint in list(&slice["endpoints"]) {
        names.extend(list(&endpoint["addresses"]).map(|address| format!("{}.{base}", dashed(text(address)))));
        names.extend(endpoint["targetRef"]["name"].as_str().map(|name| format!("{name}.{base}")));
        let Some(hostname) = endpoint["hostname"].as_str() else { continue };
        names.insert(format!("{hostname}.{base}"));
        let ports = list(&slice["ports"]).map(|port| text(&port["name"]));
        names.extend(ports.map(|port| format!("_{port}._tcp.{hostname}.{base}")));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Returns an address as the label of a Pod or an endpoint.
fn dashed(address: &str) -> String {
    address.replace(['.', ':'], "-")
}

/// Returns the reverse name of an address.
pub fn reverse(address: IpAddr) -> String {
    let (mut labels, zone): (Vec<String>, _) = match address {
        IpAddr::V4(address) => (address.octets().iter().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), "ip6.arpa")
        }
    };
    labels.reverse();
    format!("{}.{zone}", labels.join("."))
}

/// Capitalises every other letter.
fn mixed(name: &str) -> String {
    name.chars().enumerate().map(|(at, c)| if at % 2 == 1 { c.to_ascii_uppercase() } else { c }).collect()
}
