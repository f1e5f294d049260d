//! Reloads with a real API server: the index stays, and nothing is requested again (E06).

use super::Test;
use super::cluster::Access;
use super::metrics::page;
use super::ports;
use super::server::{Server, Software};
use super::shared::CALM;
use super::wait::{SOON, eventually};

pub fn tests() -> Vec<Test> {
    vec![Test::new("reloads: no list and no watch more", || {
        a_reload_reuses_the_watches();
        Ok(())
    })]
}

/// A Corefile. Each version of `.` has another TTL, and an answer for `name.example.` that identifies the version in
/// use.
fn corefile(access: &Access, port: u16, metrics: u16, round: usize, more: &str) -> String {
    let api = access.kubeconfig.display();
    format!(
        ".:{port} {{\n    bind 127.0.0.1\n    errors\n    prometheus 127.0.0.1:{metrics}\n    ready 127.0.0.1:{metrics}\n    \
         hosts {{\n        192.0.2.{round} name.example\n        fallthrough\n    }}\n    \
         kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        kubeconfig {api}\n        ttl {}\n        {more}\n    \
         }}\n    cache 30\n    forward . 127.0.0.1:9\n}}\n",
        round % 2 + 5
    )
}

fn a_reload_reuses_the_watches() {
    let cluster = CALM.lock();
    let port = ports::free();
    let metrics = ports::free();
    let access = cluster.access();
    let text = |round, more| corefile(&access, port, metrics, round, more);
    let mut server = Server::start(Software::Clusterdns, &text(1, ""), port, cluster.folder());
    let at = ports::on_loopback(metrics);
    // The sum of the metrics with a name.
    let sum = |name: &str| -> f64 {
        let page = page(at, "/metrics");
        let lines = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let requests = || sum("coredns_kubernetes_rest_client_requests_total");
    let name = |round: usize| format!("NOERROR 192.0.2.{round}");
    server.comes_to("name.example. A", &name(1));
    server.comes_to("web.shop.svc.cluster.local. A", "NOERROR 10.96.10.20");
    eventually("all watches are open", SOON, || if requests() >= 3.0 { Ok(()) } else { Err(server.last_words()) });
    let before = requests();
    for round in 2..=30 {
        server.rewrite(&text(round, "invalid"));
        let failed = sum("coredns_reload_failed_total");
        server.reload();
        eventually("the bad one is counted", SOON, || match sum("coredns_reload_failed_total") {
            now if now == failed + 1.0 => Ok(()),
            now => Err(format!("{now} have failed")),
        });
        server.rewrite(&text(round, ""));
        server.reload();
        server.comes_to("name.example. A", &name(round));
        assert_eq!(server.ask("web.shop.svc.cluster.local. A").expect("an answer").brief(), "NOERROR 10.96.10.20");
        assert_eq!(page(at, "/ready"), "OK", "after reload {round}");
    }
    assert_eq!(sum("coredns_reload_failed_total"), 29.0);
    assert_eq!(requests(), before, "there were more requests to the API server: {}", server.last_words());
    assert_eq!(sum("clusterdns_kubernetes_relists_total"), 0.0);
    // Requests for Pods show that the numbers do change.
    server.rewrite(&text(31, "pods verified"));
    server.reload();
    server.comes_to("name.example. A", &name(31));
    assert!(requests() > before);
    assert!(server.is_running());
}
