//! Metrics compared with CoreDNS: with the same Corefile, cluster and queries, every family of CoreDNS exists here with
//! the same type, help text, labels and buckets, no other family has CoreDNS's prefix, and comparable values are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use clusterdns::wire::Type;
use libtest_mimic::Failed;
use serde_json::json;

use super::Test;
use super::api::Api;
use super::ask::{Question, ask};
use super::cluster::Cluster;
use super::objects::{Pod, headless, namespace, service};
use super::ports;
use super::resolvers::Resolver;
use super::server::{Server, Software};
use super::shared::{self, CALM};
use super::wait::{SOON, eventually};

/// Directives that both have. The zones of the cluster are not cached, as with kubeadm, since this server never caches
/// them.
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
    bufsize 1232
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
six.out.example:$PORT {
    bind 127.0.0.1
    prometheus 127.0.0.1:$METRICS
    autopath $HOSTS
    cache 30
    forward . $UP
}
# Without prometheus: CoreDNS counts the look-ups that it makes of itself as queries.
both.out.example:$PORT {
    bind 127.0.0.1
    dns64 {
        allow_ipv4
        translate_all
    }
    forward . $UP
}
";

/// Families of CoreDNS that do not exist here; docs/differences.md has the reasons.
const ABSENT: &[&str] = &["go_*", "promhttp_*"];
/// Families with CoreDNS's prefix that it does not have.
const MORE: &[&str] = &[
    // Earlier versions had them, and dashboards still use them.
    "coredns_forward_healthcheck_failures_total",
    "coredns_forward_request_duration_seconds",
    "coredns_forward_requests_total",
    "coredns_forward_responses_total",
    // They are empty while CoreDNS streams its lists.
    "coredns_kubernetes_rest_client_rate_limiter_duration_seconds",
    "coredns_kubernetes_rest_client_request_duration_seconds",
    // The Prometheus libraries for Go and Rust differ in it.
    "process_threads",
];

/// Families with equal samples.
const EQUAL: &[&str] = &[
    "coredns_acl_allowed_requests_total",
    "coredns_acl_blocked_requests_total",
    "coredns_acl_dropped_requests_total",
    "coredns_acl_filtered_requests_total",
    "coredns_autopath_success_total",
    "coredns_cache_entries",
    "coredns_cache_hits_total",
    "coredns_cache_misses_total",
    "coredns_cache_requests_total",
    "coredns_dns64_requests_translated_total",
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
/// Histograms with equal numbers of samples.
const COUNTED: &[&str] = &[
    "coredns_dns_request_duration_seconds",
    "coredns_dns_response_size_bytes",
    "coredns_proxy_request_duration_seconds",
];

pub fn tests() -> Vec<Test> {
    vec![Test::new("metrics: as CoreDNS", as_coredns)]
}

/// A family: its help text, its type, and its samples by name and labels.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    samples: BTreeMap<String, f64>,
}

impl Family {
    /// Returns the names of labels, which for buckets include `le`.
    fn labels(&self) -> BTreeSet<String> {
        let names = self.samples.keys().flat_map(|head| {
            let labels = head.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect::<Vec<_>>()
        });
        names.collect()
    }

    /// Returns the bounds of its buckets.
    fn bounds(&self) -> BTreeSet<String> {
        let bounds = self.samples.keys().filter_map(|head| {
            let (_, bound) = head.split_once("le=\"")?;
            let bound = bound.split('"').next()?;
            Some(bound.parse::<f64>().map_or(bound.to_owned(), |bound| bound.to_string()))
        });
        bounds.collect()
    }

    /// Returns the samples that are counts.
    fn counts(&self) -> BTreeMap<&str, f64> {
        let counts =
            self.samples.iter().filter(|(head, _)| head.split('{').next().is_some_and(|name| name.ends_with("_count")));
        counts.map(|(head, value)| (head.as_str(), *value)).collect()
    }
}

/// Returns the text of a page; empty without a response.
pub fn page(at: SocketAddr, path: &str) -> String {
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

    /// Returns its families; different ports are replaced.
    fn families(&self) -> BTreeMap<String, Family> {
        let text = page(self.metrics, "/metrics").replace(&format!(":{}\"", self.port), ":53\"");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                families.entry(name.to_owned()).or_default().help = help.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
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

/// The queries, in this order.
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
        ("both.out.example.", Type::AAAA),
        ("six.out.example.", Type::AAAA),
        ("six.out.example.", Type::A),
        ("x.six.out.example.", Type::A),
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

/// Changes the endpoints of a headless Service until both have measured how long that took. A server that learns of the
/// Service after the change does not measure it.
fn see_a_change(api: &Api, subjects: &[&Subject; 2]) {
    api.apply(&namespace("metrics", &json!({})));
    api.apply(&service("metrics", "changing", &[("x", 80, "TCP")], &headless("changing")));
    let mut pods = 0_u8..200;
    eventually("both have measured a change", SOON, || {
        let pod = pods.next().ok_or("none of 200 changes was measured")?;
        Pod::new("metrics", &format!("changing-{pod}"), "changing", &[&format!("10.244.9.{pod}")]).apply(api);
        for subject in subjects {
            let families = subject.families();
            let latencies = families.get("coredns_kubernetes_dns_programming_duration_seconds");
            if latencies.is_none_or(|family| family.samples.is_empty()) {
                return Err(subject.server.last_words());
            }
        }
        Ok(())
    });
    for pod in 0..pods.start {
        let _ = api.delete("Pod", "metrics", &format!("changing-{pod}"));
    }
    api.delete("Namespace", "", "metrics").expect("deleted");
}

fn as_coredns() -> Result<(), Failed> {
    let cluster = CALM.lock();
    let folder = shared::folder().join("metrics");
    std::fs::create_dir_all(&folder)?;
    let knot = Resolver::knot(&folder);
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, "192.0.2.8 file.example\n2001:db8::8 six.example\nsearch out.example\n")?;
    let hosts = hosts.display().to_string();
    let [ours, theirs] =
        [Software::Clusterdns, Software::CoreDns].map(|software| Subject::start(software, &cluster, knot.at, &hosts));
    let subjects = [&ours, &theirs];
    for subject in subjects {
        eventually("it is synced", SOON, || {
            let text = page(subject.metrics, "/metrics");
            let answer = subject.server.ask("kubernetes.default.svc.cluster.local. A");
            match (text.is_empty(), answer) {
                (false, Some(answer)) if answer.rcode == 0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    see_a_change(&cluster.api, &subjects);
    // Both may have got more than one query until then.
    let before = subjects.map(Subject::families);
    for question in questions() {
        for subject in subjects {
            assert!(ask(subject.server.at, &question).is_some(), "{question}: no response");
        }
    }
    let after = subjects.map(Subject::families);
    let mut wrong = Vec::new();
    let differences = include_str!("../../docs/differences.md");
    for absent in ABSENT {
        assert!(differences.contains(&format!("`{absent}`")), "docs/differences.md does not have {absent}");
    }
    for (name, ours) in &after[0] {
        let is_theirs = name.starts_with("clusterdns_") || after[1].contains_key(name) || MORE.contains(&&**name);
        // CoreDNS omits families without samples.
        if !is_theirs && !ours.samples.is_empty() {
            wrong.push(format!("{name} is not CoreDNS's"));
        }
    }
    for (name, theirs) in &after[1] {
        if ABSENT.iter().any(|absent| name.starts_with(absent.trim_end_matches('*'))) {
            continue;
        }
        let Some(ours) = after[0].get(name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        let [here, there] = [ours, theirs].map(|of| (&of.kind, &of.help, of.labels(), of.bounds()));
        if here != there {
            wrong.push(format!("{name}: {here:?} here, {there:?} in CoreDNS"));
        }
    }
    // The increase by the queries, sample by sample.
    let added = |of: usize, name: &str, counted: bool| -> BTreeMap<String, f64> {
        let Some(now) = after[of].get(name) else { return BTreeMap::new() };
        let is_gauge = now.kind == "gauge";
        let samples = now.samples.iter().filter(|(head, _)| {
            if counted {
                now.counts().contains_key(head.as_str())
            } else {
                // Sums of sizes and times are not counts.
                !head.split('{').next().is_some_and(|name| name.ends_with("_sum"))
            }
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
    assert!(after[1].len() > 30, "CoreDNS shows {} families", after[1].len());
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
