//! NodeLocal DNSCache on a node: CoreDNS in the role of `node-cache` with this server behind it, and this server in
//! that role, with the same Corefile. As the agent does, the addresses are on an interface of the node and packets to
//! them are not tracked, so that kube-proxy does not translate them.

use std::path::Path;

use serde_json::json;

use super::Test;
use super::clients::{CLIENTS, Kind};
use super::live::objects::service;
use super::live::parts;
use super::live::process::Process;
use super::live::wait::{SOON, eventually};
use super::machine::find;
use super::net::{Node, RESOLVER};
use super::world::{VIP, World, at};

/// The link-local address of the agent.
const LOCAL: &str = "169.254.20.10";
/// The address of `kube-dns-upstream`, the Service that the agent forwards to.
const UPSTREAM: &str = "10.96.0.11";
/// The node with the agent.
const NODE: Node = Node::A;

pub fn tests() -> Vec<Test> {
    [("CoreDNS as the agent, this server behind it", true), ("this server as the agent, and behind it", false)]
        .map(|(name, is_coredns)| {
            Test::new(format!("node-local: {name}"), move || {
                let world = super::world();
                check(world.as_ref().expect("started"), is_coredns);
            })
        })
        .into()
}

/// The Corefile of Kubernetes' manifest, with the agent's values.
fn corefile() -> String {
    let block = |zone: &str, cache: &str, more: &str, upstream: &str| {
        format!(
            "{zone}:53 {{\n    errors\n    cache {cache}\n    reload\n    loop\n    bind {LOCAL} {VIP}\n    \
             forward . {upstream}\n    prometheus :9253\n{more}}}\n"
        )
    };
    let cluster = format!("{UPSTREAM} {{\n        force_tcp\n    }}");
    let health = format!("    health {LOCAL}:8080\n");
    let cluster_cache = "{\n        success 9984 30\n        denial 9984 5\n    }";
    [
        block("cluster.local", cluster_cache, &health, &cluster),
        block("in-addr.arpa", "30", "", &cluster),
        block("ip6.arpa", "30", "", &cluster),
        block(".", "30", "", &RESOLVER.to_string()),
    ]
    .concat()
}

/// The addresses and rules of the agent on its node; dropping it removes them.
struct Taken;

impl Taken {
    fn take() -> Taken {
        for address in [LOCAL, VIP] {
            at(&NODE.space(), &format!("ip addr add {address}/32 dev lo"));
        }
        Taken::rules("-I");
        // Flows that kube-proxy has translated before.
        let _ = NODE.space().command("conntrack").arg("-F").output();
        Taken
    }

    fn rules(action: &str) {
        for address in [LOCAL, VIP] {
            for proto in ["udp", "tcp"] {
                for rule in [
                    format!("PREROUTING -d {address} -p {proto} --dport 53"),
                    format!("OUTPUT -s {address} -p {proto} --sport 53"),
                    format!("OUTPUT -d {address} -p {proto} --dport 53"),
                ] {
                    at(&NODE.space(), &format!("iptables -w -t raw {action} {rule} -j NOTRACK"));
                }
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        Taken::rules("-D");
        for address in [LOCAL, VIP] {
            at(&NODE.space(), &format!("ip addr del {address}/32 dev lo"));
        }
    }
}

fn check(world: &World, is_coredns: bool) {
    let ports = [("dns", 53, "UDP"), ("dns-tcp", 53, "TCP")];
    let spec = json!({"clusterIP": UPSTREAM, "selector": {"k8s-app": "kube-dns"}});
    world.cluster.api.apply(&service("kube-system", "kube-dns-upstream", &ports, &spec));
    let client = &world.clients[NODE as usize];
    eventually("the Service of the agent answers", SOON, || {
        let question = format!("@{UPSTREAM} +tcp +short +tries=1 +time=1 web.shop.svc.cluster.local");
        let output = client.command("dig").args(question.split(' ')).output().expect("dig runs");
        if output.stdout.starts_with(b"10.96.10.20") { Ok(()) } else { Err(world.report()) }
    });
    let _taken = Taken::take();
    let file = world.folder.join("node-cache.corefile");
    std::fs::write(&file, corefile()).expect("a file");
    let program = if is_coredns { parts::path("coredns") } else { Path::new(env!("CARGO_BIN_EXE_clusterdns")) };
    let arguments = [
        format!("--net={}", NODE.space().file()),
        "--".to_owned(),
        program.display().to_string(),
        "-conf".to_owned(),
        file.display().to_string(),
    ];
    let log = world.folder.join(format!("node-cache-{is_coredns}.log"));
    let _ = std::fs::remove_file(&log);
    let agent = Process::start(&find("nsenter").expect("checked at the start"), &arguments, log);
    eventually("the agent answers", SOON, || {
        let question = format!("@{LOCAL} +short +tries=1 +time=1 web.shop.svc.cluster.local");
        let output = client.command("dig").args(question.split(' ')).output().expect("dig runs");
        if output.stdout.starts_with(b"10.96.10.20") { Ok(()) } else { Err(agent.last_words()) }
    });
    // Clients of both addresses: those whose kubelet has the link-local one, and those that were there before.
    for server in [LOCAL, VIP] {
        let file = world.folder.join("resolv-local");
        let text = super::policies::POLICIES[0].resolv_conf().replace(VIP, server);
        std::fs::write(&file, text).expect("a file");
        let questions = [
            (Kind::Host, "web", "10.96.10.20"),
            (Kind::Host, "db.data", "10.244.3.10 10.244.3.11 10.244.3.12"),
            (Kind::Host, "pay", "192.0.2.90"),
            (Kind::Host, "www.example.org", "192.0.2.80 2001:db8::80"),
            (Kind::Host, "nosuch", "-"),
            (Kind::Srv, "_http._tcp.web", "web.shop.svc.cluster.local:80"),
            (Kind::Ptr, "10.96.10.20", "web.shop.svc.cluster.local"),
        ];
        let asked: Vec<(Kind, &str)> = questions.iter().map(|&(kind, name, _)| (kind, name)).collect();
        for program in CLIENTS.iter().filter(|client| ["glibc", "Go", "dig", "c-ares"].contains(&client.name)) {
            for space in [client.clone(), NODE.space()] {
                let seen = program.ask(&space, &file, &asked);
                for (kind, name, wanted) in questions {
                    let result = &seen[&(kind, name.to_owned())];
                    assert_eq!(result, wanted, "{} at {server}: {name}\n{}", program.name, agent.last_words());
                }
            }
        }
    }
    // The VIP leads to the agent on its node, and the agent asks over TCP.
    let metrics = |space: &super::net::Space, url: &str| at(space, &format!("busybox wget -q -O - {url}"));
    let seen = metrics(&NODE.space(), "http://127.0.0.1:9253/metrics");
    let wanted = format!("server=\"dns://{VIP}:53\"");
    assert!(
        seen.lines().any(|line| line.starts_with("coredns_dns_requests_total") && line.contains(&wanted)),
        "{seen}"
    );
    let flows = at(&NODE.space(), &format!("conntrack -L --orig-dst {UPSTREAM}"));
    assert!(flows.contains("tcp ") && !flows.contains("udp "), "{flows}");
    let flows = at(&NODE.space(), &format!("conntrack -L --orig-dst {VIP}"));
    assert!(!flows.contains("dport=53"), "queries to the agent are tracked: {flows}");
    let health = metrics(&NODE.space(), &format!("http://{LOCAL}:8080/health"));
    assert_eq!(health.trim(), "OK");
}
