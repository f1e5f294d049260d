//! The program without an API server: what it serves and what it logs.

mod running;

use std::net::TcpListener;
use std::time::Instant;

use running::{Running, TIMEOUT, file, folder, get};

/// Returns a port without a listener: connections are refused.
fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

// B06, B07, B15
#[test]
fn cluster_names_get_servfail_and_external_names_are_resolved() {
    let corefile = format!(
        "
.:0 {{
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:0
    health 127.0.0.1:0
    ready 127.0.0.1:0
    kubernetes cluster.local 10.in-addr.arpa {{
        endpoint http://127.0.0.1:{}
        startup_timeout 700ms
        pods verified
        fallthrough
    }}
    hosts {{
        192.0.2.7 external.example
        fallthrough
    }}
    whoami
}}
",
        unused_port()
    );
    let conf = file(&folder("without_api"), "alone", &corefile);
    let server = Running::start(&["-conf", &conf]);
    // It logs what it waits for, why, and that it starts anyway.
    let lines = server.lines.concat();
    for text in [
        "plugin/kubernetes: waiting for Kubernetes API before starting server: no full list yet of Namespace, Service, EndpointSlice, Pod",
        "Connection refused",
        "plugin/kubernetes: starting server with unsynced Kubernetes API",
    ] {
        assert_eq!(lines.matches(text).count(), 1, "{text}: {lines}");
    }
    // The next plugin would answer any name.
    assert_eq!(server.ask("anything.example.").0, 0);
    for name in ["web.default.svc.cluster.local.", "1.0.96.10.in-addr.arpa."] {
        assert_eq!(server.ask(name).0, 2, "{name}");
    }
    assert_eq!(server.ask("external.example."), (0, vec!["192.0.2.7".to_owned()]));
    assert_eq!(get(server.page("health"), "/health").0, 200);
    let (status, body) = get(server.page("ready"), "/ready");
    assert_eq!(status, 503);
    assert_eq!(body.lines().next(), Some("kubernetes"), "{body}");
    assert!(body.contains("Namespace, Service, EndpointSlice, Pod"), "{body}");
    let (_, metrics) = get(server.page("prometheus"), "/metrics");
    for line in [
        "clusterdns_kubernetes_synced{kind=\"Service\"} 0",
        "clusterdns_kubernetes_objects{kind=\"Pod\"} 0",
        "clusterdns_kubernetes_errors_total{kind=\"Service\",reason=\"connection\"} ",
        "coredns_kubernetes_rest_client_requests_total{code=\"<error>\",host=\"127.0.0.1:",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

// B06: the stanzas wait concurrently.
#[test]
fn many_stanzas_wait_concurrently() {
    let port = unused_port();
    let block = |n: u32| {
        format!(
            "z{n}.local:0 {{\n bind 127.0.0.1\n kubernetes {{\n endpoint http://127.0.0.1:{port}\n labels n={n}\n startup_timeout 2s\n }}\n}}\n"
        )
    };
    let corefile: String = (0..20).map(block).chain([".:0 {\n bind 127.0.0.1\n whoami\n}\n".to_owned()]).collect();
    let conf = file(&folder("without_api"), "many", &corefile);
    let start = Instant::now();
    let server = Running::start(&["-conf", &conf]);
    // Sequential waits would take twice that.
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    assert_eq!(server.ask("web.default.svc.z7.local.").0, 2);
}
