//! The names that clients look up, and what each of them is.

use super::clients::Kind;

/// The records of the nodes' resolver, which knows nothing else except `many.example.org`.
pub const EXTERNAL: &[&str] = &[
    "www.example.org. 60 A 192.0.2.80",
    "www.example.org. 60 AAAA 2001:db8::80",
    "pay.example.com. 60 A 192.0.2.90",
    "intranet.corp.example. 60 A 192.0.2.70",
    "_sip._udp.example.org. 60 SRV 0 5 5060 www.example.org.",
    "80.2.0.192.in-addr.arpa. 60 PTR www.example.org.",
];

/// The number of addresses of `many.example.org`.
pub const MANY_OUTSIDE: usize = 50;
/// The number of addresses of the headless Service `many.lab`: more than 512 bytes.
const MANY: usize = 60;
/// The addresses of the headless Service `huge.lab`: more than 4,096 bytes.
pub const HUGE: usize = 300;

/// The questions, as a Pod of the namespace `shop` asks them, with what each of them shows.
pub const QUESTIONS: &[(Kind, &str, &str)] = &[
    (Kind::Host, "web", "a Service of the same namespace"),
    (Kind::Host, "web.shop", "with its namespace"),
    (Kind::Host, "web.shop.svc", ""),
    (Kind::Host, "web.shop.svc.cluster.local", "the whole name"),
    (Kind::Host, "web.shop.svc.cluster.local.", "with the final dot"),
    (Kind::Host, "kubernetes.default", "another namespace"),
    (Kind::Host, "db.data", "headless, three Pods"),
    (Kind::Host, "db-0.db.data", "a Pod of a StatefulSet"),
    (Kind::Host, "queue.data.svc.cluster.local", "headless, both families"),
    (Kind::Host, "10-244-1-5.shop.pod", "a Pod by its address"),
    (Kind::Host, "pay", "ExternalName outside of the cluster"),
    (Kind::Host, "alias", "ExternalName inside of it"),
    (Kind::Host, "dangling", "ExternalName to nothing"),
    (Kind::Host, "many.lab.svc.cluster.local", "headless, 60 endpoints: truncated at 512 bytes"),
    (Kind::Host, "huge.lab.svc.cluster.local", "headless, 300 endpoints: truncated at 4,096 bytes"),
    (Kind::Host, "www.example.org", "an external name"),
    (Kind::Host, "www.example.org.", ""),
    (Kind::Host, "many.example.org", "external, 50 addresses: truncated at 512 bytes"),
    (Kind::Host, "intranet", "in the search list of the nodes"),
    (Kind::Host, "nosuch", "missing"),
    (Kind::Host, "nosuch.shop.svc.cluster.local", "missing in the cluster"),
    (Kind::Host, "nosuch.example.org", "missing outside"),
    (Kind::Host, "shop", "a namespace, which is a name without addresses"),
    (Kind::Srv, "_http._tcp.web", "the port of a Service"),
    (Kind::Srv, "_http._tcp.web.shop.svc.cluster.local", ""),
    (Kind::Srv, "_pg._tcp.db.data.svc.cluster.local", "ports of a headless Service"),
    (Kind::Srv, "_sip._udp.example.org", "external"),
    (Kind::Srv, "_nosuch._tcp.web.shop.svc.cluster.local", "a port that does not exist"),
    (Kind::Ptr, "10.96.10.20", "the address of a Service"),
    (Kind::Ptr, "10.244.4.10", "the address of an endpoint"),
    (Kind::Ptr, "192.0.2.80", "external"),
    (Kind::Ptr, "10.96.0.99", "an address of nothing"),
    (Kind::Balancer, "balanced", "gRPC: a Service whose port is a balancer"),
];

/// The server that a question reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Cluster,
    /// The resolver of the nodes, which does not know the cluster.
    Nodes,
}

/// What a complete name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Data(Vec<String>),
    /// It exists, without such records.
    Nodata,
    Missing,
}

/// Returns what a complete name is, without its final dot; for [`Kind::Ptr`] an address.
pub fn truth(server: Server, kind: Kind, name: &str) -> Answer {
    let inside: &[&str] = match (kind, name) {
        (Kind::Host, "web.shop.svc.cluster.local" | "alias.shop.svc.cluster.local") => &["10.96.10.20"],
        (Kind::Host, "kubernetes.default.svc.cluster.local") => &["10.96.0.1"],
        (Kind::Host, "db.data.svc.cluster.local") => &["10.244.3.10", "10.244.3.11", "10.244.3.12"],
        (Kind::Host, "db-0.db.data.svc.cluster.local") => &["10.244.3.10"],
        (Kind::Host, "queue.data.svc.cluster.local") => {
            &["10.244.4.10", "10.244.4.11", "fd00:10:244:4::10", "fd00:10:244:4::11"]
        }
        (Kind::Host, "10-244-1-5.shop.pod.cluster.local") => &["10.244.1.5"],
        (Kind::Host, "pay.shop.svc.cluster.local") => &["192.0.2.90"],
        (Kind::Host, "many.lab.svc.cluster.local") if server == Server::Cluster => {
            return many("198.51.100", MANY);
        }
        (Kind::Host, "huge.lab.svc.cluster.local") if server == Server::Cluster => {
            return Answer::Data(sorted(huge()));
        }
        (Kind::Srv, "_http._tcp.web.shop.svc.cluster.local") => &["web.shop.svc.cluster.local:80"],
        (Kind::Srv, "_pg._tcp.db.data.svc.cluster.local") => &[
            "db-0.db.data.svc.cluster.local:5432",
            "db-1.db.data.svc.cluster.local:5432",
            "db-2.db.data.svc.cluster.local:5432",
        ],
        (Kind::Ptr, "10.96.10.20") => &["web.shop.svc.cluster.local"],
        (Kind::Ptr, "10.244.4.10") => &["queue-0.queue.data.svc.cluster.local"],
        (Kind::Balancer, "balanced.shop.svc.cluster.local") => &["10.96.10.60:8080"],
        (Kind::Host, "balanced.shop.svc.cluster.local") => &["10.96.10.60"],
        (
            Kind::Host | Kind::Srv,
            "shop.svc.cluster.local" | "svc.cluster.local" | "cluster.local" | "_tcp.web.shop.svc.cluster.local",
        ) => {
            return if server == Server::Cluster { Answer::Nodata } else { Answer::Missing };
        }
        _ => &[],
    };
    if server == Server::Cluster && !inside.is_empty() {
        return Answer::Data(owned(inside));
    }
    let outside: &[&str] = match (kind, name) {
        (Kind::Host, "www.example.org") => &["192.0.2.80", "2001:db8::80"],
        (Kind::Host, "intranet.corp.example") => &["192.0.2.70"],
        (Kind::Host, "many.example.org") => return many("198.18.0", MANY_OUTSIDE),
        (Kind::Srv, "_sip._udp.example.org") => &["www.example.org:5060"],
        (Kind::Ptr, "192.0.2.80") => &["www.example.org"],
        _ => return Answer::Missing,
    };
    Answer::Data(owned(outside))
}

/// Returns the addresses of `huge.lab`.
pub fn huge() -> Vec<String> {
    (0..HUGE).map(|number| format!("198.19.{}.{}", number / 100, 1 + number % 100)).collect()
}

fn many(network: &str, count: usize) -> Answer {
    Answer::Data(sorted((1..=count).map(|number| format!("{network}.{number}")).collect()))
}

fn sorted(mut addresses: Vec<String>) -> Vec<String> {
    addresses.sort();
    addresses
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}
