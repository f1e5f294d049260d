//! Rights, tokens and certificates: a missing right is logged, and renewed credentials are used without a restart.

use serde_json::json;

use super::Test;
use super::cluster::Cluster;
use super::corefiles;
use super::objects::service;
use super::server::Server;
use super::shared::GUARDED;
use super::wait::{LATER, SOON, eventually};

pub fn tests() -> Vec<Test> {
    [
        ("deploy/base/rbac.yaml is what is needed", needed as fn()),
        ("a right is missing from the start", missing_from_the_start),
        ("a right is revoked and granted again", revoked),
        ("B13 a new token in the file", new_token),
        ("B13 a new authority and certificate", new_authority),
        ("endpoint and tls", client_certificate),
    ]
    .map(|(name, run)| {
        Test::new(format!("access: {name}"), move || {
            run();
            Ok(())
        })
    })
    .into()
}

/// The name of the ServiceAccount's user in RBAC.
const USER: &str = "system:serviceaccount:kube-system:coredns";

/// Creates a Service with its own address; returns a question and the expected answer.
fn new_service(cluster: &Cluster, name: &str) -> (String, String) {
    let _ = cluster.api.delete("Service", "shop", name);
    let created = cluster.api.apply(&service("shop", name, &[("p", 80, "TCP")], &json!({})));
    let address = created["spec"]["clusterIP"].as_str().expect("an address");
    (format!("{name}.shop.svc.cluster.local. A"), format!("NOERROR {address}"))
}

/// Removes endpoint slices from the role.
fn revoke_slices(cluster: &Cluster) {
    let rules =
        json!([{"apiGroups": [""], "resources": ["namespaces", "services", "pods"], "verbs": ["list", "watch"]}]);
    cluster.api.merge("ClusterRole", "", "system:coredns", &json!({ "rules": rules }));
    // The API server learns of it by a watch of its own.
    let client = cluster.client(&cluster.access());
    eventually("the right is revoked", SOON, || {
        match client.text("/apis/discovery.k8s.io/v1/endpointslices?limit=1") {
            Err(refused) if refused.status == 403 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Waits for the log line about the missing right.
fn logs_the_missing_right(server: &Server) {
    let is_it = |line: &&str| {
        ["endpointslices", "discovery.k8s.io", "forbidden", USER].iter().all(|word| line.contains(word))
            && (line.contains("list") || line.contains("watch"))
    };
    eventually("a line about the missing right", SOON, || {
        let log = server.log();
        log.lines().find(is_it).map(|_| ()).ok_or(log)
    });
    // Not repeatedly.
    let count = server.log().lines().filter(is_it).count();
    assert!(count <= 3, "{count} lines:\n{}", server.log());
}

fn needed() {
    let cluster = GUARDED.lock();
    cluster.apply_rbac();
    let client = cluster.client(&cluster.access());
    for path in ["/api/v1/secrets", "/api/v1/configmaps", "/api/v1/nodes", "/api/v1/namespaces/shop/services/web"] {
        assert_eq!(client.text(path).expect_err("refused").status, 403, "{path}");
    }
    let server = cluster.serve(&corefiles::with("pods verified"));
    for (question, answer) in [
        ("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20"),
        ("db-0.db.data.svc.cluster.local. A", "NOERROR 10.244.3.10"),
        ("10-244-1-5.shop.pod.cluster.local. A", "NOERROR 10.244.1.5"),
        ("empty.svc.cluster.local. A", "NOERROR"),
    ] {
        server.comes_to(question, answer);
    }
    assert!(!server.log().contains("forbidden"), "{}", server.log());
}

fn missing_from_the_start() {
    let cluster = GUARDED.lock();
    revoke_slices(&cluster);
    let server = cluster.serve(&corefiles::with("startup_timeout 1s"));
    logs_the_missing_right(&server);
    // Names that depend on slices are not denied.
    let answer = server.ask("db.data.svc.cluster.local. A").expect("an answer");
    assert_eq!(answer.brief(), "SERVFAIL");
    cluster.apply_rbac();
    server.comes_to_within(LATER, "db-0.db.data.svc.cluster.local. A", "NOERROR 10.244.3.10");
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
}

fn revoked() {
    let mut cluster = GUARDED.lock();
    let server = cluster.serve(&corefiles::with("pods verified"));
    server.comes_to("db-0.db.data.svc.cluster.local. A", "NOERROR 10.244.3.10");
    revoke_slices(&cluster);
    // The API server does not check an open watch again.
    cluster.restart_api_server();
    logs_the_missing_right(&server);
    // Other kinds are followed; slices stay as they were.
    let (question, answer) = new_service(&cluster, "meanwhile");
    server.comes_to_within(LATER, &question, &answer);
    server.comes_to("db-0.db.data.svc.cluster.local. A", "NOERROR 10.244.3.10");
    let moved = json!({"endpoints": [{"addresses": ["192.0.2.91"]}]});
    cluster.api.merge("EndpointSlice", "shop", "handmade-1", &moved);
    cluster.apply_rbac();
    server.comes_to_within(
        LATER,
        "91.2.0.192.in-addr.arpa. PTR",
        "NOERROR 192-0-2-91.handmade.shop.svc.cluster.local.",
    );
}

fn new_token() {
    let mut cluster = GUARDED.lock();
    let access = cluster.access();
    let server = cluster.serve_with(&corefiles::with(""), &access);
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
    cluster.change_account_key();
    let old = cluster.client(&access);
    assert_eq!(old.text("/api/v1/services").expect_err("refused").status, 401);
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
    let (question, answer) = new_service(&cluster, "after-the-token");
    cluster.renew(&access);
    server.comes_to_within(LATER, &question, &answer);
}

fn new_authority() {
    let mut cluster = GUARDED.lock();
    let access = cluster.access();
    let server = cluster.serve_with(&corefiles::with(""), &access);
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
    cluster.change_authority();
    let (question, answer) = new_service(&cluster, "after-the-authority");
    // It does not trust the new certificate yet.
    assert_eq!(server.ask(&question).expect("an answer").brief(), "NXDOMAIN");
    cluster.renew(&access);
    server.comes_to_within(LATER, &question, &answer);
}

fn client_certificate() {
    let cluster = GUARDED.lock();
    let (files, authority) = cluster.client_certificate(USER);
    let url = cluster.url();
    let certificate = files.certificate.display();
    let key = files.key.display();
    let api = format!("endpoint {url}\n        tls {certificate} {key} {}", authority.display());
    let server = cluster.serve(&corefiles::with("pods verified").replace("$API", &api));
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
    server.comes_to("10-244-1-5.shop.pod.cluster.local. A", "NOERROR 10.244.1.5");
    let (question, answer) = new_service(&cluster, "by-certificate");
    server.comes_to(&question, &answer);
}
