//! Metrics beside CoreDNS's: with the same Corefile, cluster and questions every family that CoreDNS shows is here, with the
//! same type, labels and buckets, and what can be equal is equal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use clusterdns::wire::Type;
use libtest_mimic::Failed;
use serde_json::json;

use super::Test;
use super::ask::{Question, ask};
use super::cluster::Cluster;
use super::objects::{namespace, service, slice};
use super::patience::{SOON, eventually};
use super::ports;
use super::resolvers::Resolver;
use super::server::{Server, Software};
use super::shared::{self, CALM};

/// As much as both have. The cluster's zones are not kept, as kubeadm has it: this server never keeps them.
const COREFILE: &str = ".:$PORT {
    bind 127.0.0.1
    errors
    log . {
        class error
    }
    health 127.0.0.1:$HEALTH
    ready 127.0.0.1:$READY
    prometheus 127.0.0.1:$METRICS
    local
    any
    acl {
        block type TXT net 127.0.0.1
        filter type MX
        drop type NAPTR
    }
    cache 30 {
        disable success cluster.local in-addr.arpa
        disable denial cluster.local in-addr.arpa
    }
    header {
        response set ra
    }
    hosts $HOSTS {
        192.0.2.7 inline.example
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        $API
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . $UP {
        max_concurrent 1000
    }
    loadbalance
    reload
    loop
}
";

/// Families of CoreDNS's that are not here; docs/differences.md says why.
const ABSENT: &[&str] = &["go_", "promhttp_"];

/// Families whose samples are the same, whole.
const EQUAL: &[&str] = &[
    "coredns_acl_allowed_requests_total",
    "coredns_acl_blocked_requests_total",
    "coredns_acl_dropped_requests_total",
    "coredns_acl_filtered_requests_total",
    "coredns_cache_entries",
    "coredns_cache_hits_total",
    "coredns_cache_misses_total",
    "coredns_cache_requests_total",
    "coredns_dns_do_requests_total",
    "coredns_dns_request_size_bytes",
    "coredns_dns_requests_total",
    "coredns_dns_responses_total",
    "coredns_forward_max_concurrent_rejects_total",
    "coredns_hosts_entries",
    "coredns_hosts_reload_timestamp_seconds",
    "coredns_local_localhost_requests_total",
    "coredns_panics_total",
    "coredns_plugin_enabled",
];
/// Histograms whose numbers of samples are.
const COUNTED: &[&str] = &[
    "coredns_dns_request_duration_seconds",
    "coredns_dns_response_size_bytes",
    "coredns_proxy_request_duration_seconds",
];

pub fn tests() -> Vec<Test> {
    vec![Test::new("metrics: as CoreDNS", as_coredns)]
}

/// A family: its type, and its samples by their lines' heads.
#[derive(Default)]
struct Family {
    kind: String,
    samples: BTreeMap<String, f64>,
}

impl Family {
    /// The names of labels of its samples; buckets have `le`.
    fn labels(&self) -> BTreeSet<String> {
        let names = self.samples.keys().flat_map(|head| {
            let labels = head.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect::<Vec<_>>()
        });
        names.collect()
    }

    /// The bounds of its buckets, as numbers.
    fn bounds(&self) -> BTreeSet<String> {
        let bounds = self.samples.keys().filter_map(|head| {
            let (_, bound) = head.split_once("le=\"")?;
            let bound = bound.split('"').next()?;
            Some(bound.parse::<f64>().map_or(bound.to_owned(), |bound| bound.to_string()))
        });
        bounds.collect()
    }

    /// The samples that say how many there have been.
    fn counts(&self) -> BTreeMap<&str, f64> {
        let counts =
            self.samples.iter().filter(|(head, _)| head.split('{').next().is_some_and(|name| name.ends_with("_count")));
        counts.map(|(head, value)| (head.as_str(), *value)).collect()
    }
}

/// What a page says; nothing where it is not there.
fn page(at: SocketAddr, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(at) else { return String::new() };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n");
    let mut answer = String::new();
    let read = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    read.map_or(String::new(), |_| answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

/// A server and its metrics.
struct Subject {
    server: Server,
    metrics: SocketAddr,
    port: u16,
}

impl Subject {
    fn start(software: Software, cluster: &Cluster, up: SocketAddr, hosts: &str) -> Subject {
        let [port, health, ready, metrics] = std::array::from_fn(|_| ports::free());
        let api = format!("kubeconfig {}", cluster.access().kubeconfig.display());
        let mut text = COREFILE.replace("$API", &api).replace("$UP", &up.to_string()).replace("$HOSTS", hosts);
        for (name, port) in [("$PORT", port), ("$HEALTH", health), ("$READY", ready), ("$METRICS", metrics)] {
            text = text.replace(name, &port.to_string());
        }
        let server = Server::launch(software, &text, port, cluster.folder());
        Subject { server, metrics: ports::on_loopback(metrics), port }
    }

    /// What it shows; ports that differ are called the same.
    fn families(&self) -> BTreeMap<String, Family> {
        let text = page(self.metrics, "/metrics").replace(&format!(":{}\"", self.port), ":53\"");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                current = name.to_owned();
                families.entry(current.clone()).or_default().kind = kind.to_owned();
            } else if !line.starts_with('#') && !line.is_empty() {
                let (head, value) = line.rsplit_once(' ').expect("a sample");
                let samples = &mut families.get_mut(&current).expect("a type before its samples").samples;
                samples.insert(head.to_owned(), value.parse().expect("a number"));
            }
        }
        families
    }
}

/// What both are asked, in this order.
fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for (name, rtype) in [
        ("kubernetes.default.svc.cluster.local.", Type::A),
        ("kubernetes.default.svc.cluster.local.", Type::AAAA),
        ("nothing.default.svc.cluster.local.", Type::A),
        ("_https._tcp.kubernetes.default.svc.cluster.local.", Type::SRV),
        ("cluster.local.", Type::SOA),
        ("1.0.96.10.in-addr.arpa.", Type::PTR),
        ("1-2-3-4.default.pod.cluster.local.", Type::A),
        ("wild.out.example.", Type::A),
        ("a.out.example.", Type::A),
        ("a.out.example.", Type::AAAA),
        ("nothing.nowhere.example.", Type::A),
        ("inline.example.", Type::A),
        ("file.example.", Type::A),
        ("file.example.", Type::AAAA),
        ("localhost.", Type::A),
        ("x.localhost.", Type::A),
        ("localhost.svc.", Type::AAAA),
        ("a.out.example.", Type::TXT),
        ("a.out.example.", Type::MX),
        ("a.out.example.", Type::HTTPS),
        ("a.out.example.", Type::ANY),
        ("a.out.example.", Type(4711)),
    ] {
        for (tcp, edns) in [(false, None), (false, Some(1_232)), (true, None)] {
            questions.push(Question { tcp, edns, ..Question::new(name, rtype) });
        }
    }
    questions
}

fn as_coredns() -> Result<(), Failed> {
    let cluster = CALM.lock();
    let folder = shared::folder().join("metrics");
    std::fs::create_dir_all(&folder)?;
    let knot = Resolver::knot(&folder);
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, "192.0.2.8 file.example\n2001:db8::8 six.example\n")?;
    let hosts = hosts.display().to_string();
    let [ours, theirs] =
        [Software::Clusterdns, Software::CoreDns].map(|software| Subject::start(software, &cluster, knot.at, &hosts));
    let subjects = [&ours, &theirs];
    for subject in subjects {
        eventually("it is in step", SOON, || {
            let text = page(subject.metrics, "/metrics");
            let answer = subject.server.ask("kubernetes.default.svc.cluster.local. A");
            match (text.is_empty(), answer) {
                (false, Some(answer)) if answer.rcode == 0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    // A change of endpoints, whose time both take.
    let api = &cluster.api;
    let port = [("http", 80, "TCP")];
    api.apply(&namespace("metrics", &json!({})));
    api.apply(&service("metrics", "late", &port, &json!({"clusterIP": "10.97.77.7"})));
    for subject in subjects {
        subject.server.comes_to("late.metrics.svc.cluster.local. A", "NOERROR 10.97.77.7");
    }
    let mut changed = slice("metrics", "late", "late-1", "IPv4", &json!([{"addresses": ["192.0.2.71"]}]), &port);
    let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
    changed["metadata"]["annotations"] = json!({annotation: "2026-01-01T00:00:00Z"});
    api.apply(&changed);
    for subject in subjects {
        subject.server.comes_to("192-0-2-71.late.metrics.svc.cluster.local. A", "NOERROR 192.0.2.71");
    }
    // Both may have been asked more than once until then.
    let before = subjects.map(Subject::families);
    for question in questions() {
        for subject in subjects {
            assert!(ask(subject.server.at, &question).is_some(), "{question}: silence");
        }
    }
    let after = subjects.map(Subject::families);
    let mut wrong = Vec::new();
    for (name, theirs) in &after[1] {
        if ABSENT.iter().any(|absent| name.starts_with(absent)) {
            continue;
        }
        let Some(ours) = after[0].get(name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        if (&ours.kind, ours.labels(), ours.bounds()) != (&theirs.kind, theirs.labels(), theirs.bounds()) {
            wrong.push(format!(
                "{name}: {} {:?} {:?} here, {} {:?} {:?} in CoreDNS",
                ours.kind,
                ours.labels(),
                ours.bounds(),
                theirs.kind,
                theirs.labels(),
                theirs.bounds()
            ));
        }
    }
    // What has been added by the questions, sample by sample.
    let added = |of: usize, name: &str, counted: bool| -> BTreeMap<String, f64> {
        let Some(now) = after[of].get(name) else { return BTreeMap::new() };
        let is_gauge = now.kind == "gauge";
        let samples = now.samples.iter().filter(|(head, _)| match counted {
            true => now.counts().contains_key(head.as_str()),
            // Sums of sizes and times are no counts.
            false => !head.split('{').next().is_some_and(|name| name.ends_with("_sum")),
        });
        let samples = samples.map(|(head, value)| {
            let before = before[of].get(name).and_then(|family| family.samples.get(head)).copied().unwrap_or_default();
            (head.clone(), if is_gauge { *value } else { value - before })
        });
        samples.filter(|(_, value)| *value != 0.0).collect()
    };
    for (names, counted) in [(EQUAL, false), (COUNTED, true)] {
        for name in names {
            let [ours, theirs] = [0, 1].map(|of| added(of, name, counted));
            for head in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
                let (here, there) = (ours.get(head).copied(), theirs.get(head).copied());
                if here != there {
                    wrong.push(format!("{head}: {here:?} here, {there:?} in CoreDNS"));
                }
            }
        }
    }
    for (kind, name) in [("EndpointSlice", "late-1"), ("Service", "late")] {
        api.delete(kind, "metrics", name).expect("deleted");
    }
    api.delete("Namespace", "", "metrics").expect("deleted");
    assert!(after[1].len() > 30, "CoreDNS shows {} families", after[1].len());
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}
