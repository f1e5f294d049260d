//! Outages of the control plane, and a restore of its store. Known names are answered meanwhile, and afterwards the
//! answers are those of the cluster, without a restart.

use std::time::Duration;

use serde_json::json;

use super::Test;
use super::compare::{Depth, Pair};
use super::corefiles::{self, Corefile, named};
use super::marker::Marker;
use super::objects::{Pod, namespace, service, slice};
use super::questions::Objects;
use super::shared::ROUGH;
use super::stream::Stream;
use super::wait::{LATER, SOON};

/// How long the control plane is unavailable.
const AWAY: Duration = Duration::from_secs(20);

pub fn tests() -> Vec<Test> {
    [
        ("the API server is killed and started again", killed as fn()),
        ("the API server is paused", paused),
        ("API server and etcd are down", away),
        ("etcd is restored from an older snapshot", restored),
    ]
    .map(|(name, run)| {
        Test::new(format!("outage: {name}"), move || {
            run();
            Ok(())
        })
    })
    .into()
}

fn chosen() -> [Corefile; 2] {
    [named("pods verified"), named("endpoint_pod_names")]
}

fn killed() {
    let mut cluster = ROUGH.lock();
    let mut pair = Pair::start(&cluster, &chosen());
    let stream = Stream::start(pair.ours.at);
    cluster.kill_api_server();
    stream.run_for(Duration::ZERO);
    cluster.heal();
    let marker = Marker::set(&cluster.api);
    pair.wait_for_ours(&marker, LATER);
    stream.end();
    pair.renew_theirs(&cluster);
    pair.compare(&Objects::of(&cluster.api), Depth::Some(4_000)).expect("alike");
    marker.remove(&cluster.api);
}

fn paused() {
    let cluster = ROUGH.lock();
    let pair = Pair::start(&cluster, &chosen());
    let stream = Stream::start(pair.ours.at);
    cluster.pause_api_server();
    stream.run_for(Duration::from_secs(2));
    cluster.resume_api_server();
    let marker = Marker::set(&cluster.api);
    pair.wait_for_ours(&marker, LATER);
    stream.end();
    marker.remove(&cluster.api);
}

fn away() {
    let mut cluster = ROUGH.lock();
    let mut pair = Pair::start(&cluster, &chosen());
    let stream = Stream::start(pair.ours.at);
    cluster.kill_etcd();
    cluster.kill_api_server();
    stream.run_for(AWAY);
    // For a moment, the API server has no store.
    cluster.launch_api_server();
    stream.run_for(Duration::from_secs(1));
    cluster.heal();
    let marker = Marker::set(&cluster.api);
    pair.wait_for_ours(&marker, LATER);
    stream.end();
    pair.renew_theirs(&cluster);
    pair.compare(&Objects::of(&cluster.api), Depth::Some(4_000)).expect("alike");
    marker.remove(&cluster.api);
}

fn restored() {
    let mut cluster = ROUGH.lock();
    let api = cluster.api.clone();
    let x = [("x", 9000, "TCP")];
    let endpoints = json!([{"addresses": ["192.0.2.81"], "hostname": "h"}]);
    let spec = |address: &str| json!({"clusterIP": address});
    // Objects that stay, are changed and are deleted after the snapshot.
    api.apply(&namespace("past", &json!({})));
    api.apply(&service("past", "stays", &x, &spec("10.96.78.1")));
    api.apply(&service("past", "changes", &x, &spec("None")));
    api.apply(&slice("past", "changes", "changes-1", "IPv4", &endpoints, &x));
    api.apply(&service("past", "goes", &x, &spec("10.96.78.3")));
    Pod::new("past", "goes", "goes", &["10.244.79.3"]).apply(&api);
    let mut pair = Pair::start(&cluster, &chosen());
    // This server's requests are never rejected, which would cause a list: only broken watches indicate the restore.
    let unrefused = cluster.serve_with(&corefiles::with("pods verified"), &cluster.unlimited_access());
    let servers = [&pair.ours, &unrefused];
    for server in servers {
        server.comes_to("10-244-79-3.past.pod.cluster.local. A", "NOERROR 10.244.79.3");
    }
    let snapshot = cluster.snapshot();

    api.apply(&namespace("future", &json!({})));
    api.apply(&service("future", "new", &x, &spec("10.96.78.4")));
    api.apply(&service("past", "new", &x, &spec("10.96.78.5")));
    api.apply(&slice("past", "stays", "new-1", "IPv4", &json!([{"addresses": ["192.0.2.82"]}]), &x));
    Pod::new("past", "new", "new", &["10.244.79.4"]).apply(&api);
    let other = json!({"endpoints": [{"addresses": ["192.0.2.83"]}]});
    api.merge("EndpointSlice", "past", "changes-1", &other);
    api.delete("Service", "past", "goes").expect("deleted");
    api.delete("Pod", "past", "goes").expect("deleted");
    // It knows the last change of each kind.
    for (question, answer) in [
        ("new.future.svc.cluster.local. A", "NOERROR 10.96.78.4"),
        ("new.past.svc.cluster.local. A", "NOERROR 10.96.78.5"),
        ("82.2.0.192.in-addr.arpa. PTR", "NOERROR 192-0-2-82.stays.past.svc.cluster.local."),
        ("10-244-79-4.past.pod.cluster.local. A", "NOERROR 10.244.79.4"),
        ("changes.past.svc.cluster.local. A", "NOERROR 192.0.2.83"),
        ("goes.past.svc.cluster.local. A", "NXDOMAIN"),
        ("10-244-79-3.past.pod.cluster.local. A", "NXDOMAIN"),
    ] {
        servers.iter().for_each(|server| server.comes_to_within(LATER, question, answer));
    }

    let stream = Stream::start(pair.ours.at);
    cluster.restore(&snapshot);
    for (question, answer) in [
        ("new.future.svc.cluster.local. A", "NXDOMAIN"),
        ("future.svc.cluster.local. A", "NXDOMAIN"),
        ("new.past.svc.cluster.local. A", "NXDOMAIN"),
        ("82.2.0.192.in-addr.arpa. PTR", "NXDOMAIN"),
        ("10-244-79-4.past.pod.cluster.local. A", "NXDOMAIN"),
        ("h.changes.past.svc.cluster.local. A", "NOERROR 192.0.2.81"),
        ("changes.past.svc.cluster.local. A", "NOERROR 192.0.2.81"),
        ("goes.past.svc.cluster.local. A", "NOERROR 10.96.78.3"),
        ("10-244-79-3.past.pod.cluster.local. A", "NOERROR 10.244.79.3"),
        ("stays.past.svc.cluster.local. A", "NOERROR 10.96.78.1"),
    ] {
        servers.iter().for_each(|server| server.comes_to_within(LATER, question, answer));
    }
    stream.end();
    // It continues with every kind, although the versions are older than those that it has seen.
    let marker = Marker::set(&api);
    pair.wait_for_ours(&marker, SOON);
    pair.renew_theirs(&cluster);
    pair.compare(&Objects::of(&api), Depth::Some(4_000)).expect("alike");
    marker.remove(&api);
}
