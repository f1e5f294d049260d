//! Start without an API server.

use super::Test;
use super::server::{Server, Software};
use super::shared::GUARDED;
use super::wait::{LATER, SOON, eventually};
use super::{corefiles, ports};

pub fn tests() -> Vec<Test> {
    vec![Test::new("start: without an API server", || {
        without();
        Ok(())
    })]
}

/// With and without `fallthrough`; the next plugin would answer everything.
const STANZAS: [&str; 2] = ["startup_timeout 1s", "startup_timeout 1s\nfallthrough"];
/// Names that the cluster has, and names that it could have.
const NAMES: [&str; 5] = [
    "web.shop.svc.cluster.local. A",
    "db-0.db.data.svc.cluster.local. A",
    "nosuch.shop.svc.cluster.local. A",
    "nosuch.nowhere.svc.cluster.local. AAAA",
    "20.10.96.10.in-addr.arpa. PTR",
];
/// The answers once it is synced.
const RIGHT: &str = "NOERROR 10.96.10.20";

fn without() {
    let mut cluster = GUARDED.lock();
    let access = cluster.access();
    cluster.kill_api_server();
    let servers = STANZAS.map(|lines| {
        let port = ports::free();
        let api = format!("kubeconfig {}", access.kubeconfig.display());
        let text = corefiles::with(lines).replace("$API", &api).replace("$PORT", &port.to_string());
        let behind = text.trim_end().trim_end_matches('}');
        Server::launch(Software::Clusterdns, &format!("{behind}    whoami\n}}\n"), port, cluster.folder())
    });
    for server in &servers {
        eventually("it serves", SOON, || server.ask(NAMES[0]).ok_or_else(|| server.last_words()));
        for name in NAMES {
            assert_eq!(server.ask(name).expect("an answer").brief(), "SERVFAIL", "{name}");
        }
        // Other names do not depend on the cluster.
        assert_eq!(server.ask("www.example. A").expect("an answer").rcode, 0);
    }
    cluster.heal();
    for server in &servers {
        eventually("it is synced", LATER, || match server.ask(NAMES[0]).ok_or("no response")?.brief() {
            answer if answer == RIGHT => Ok(()),
            // No other response is allowed meanwhile.
            answer => {
                assert_eq!(answer, "SERVFAIL");
                Err(server.last_words())
            }
        });
        server.comes_to("db-0.db.data.svc.cluster.local. A", "NOERROR 10.244.3.10");
    }
    servers[0].comes_to("nosuch.shop.svc.cluster.local. A", "NXDOMAIN");
}
