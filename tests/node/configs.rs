//! The cases of Kubernetes' end-to-end suite that change the ConfigMap (`test/e2e/network/dns_configmap.go`), by their
//! names. The suite has two of each, one for each address family; here one case looks up the records of both families.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::Test;
use super::live::objects::service;
use super::live::parts;
use super::live::process::Process;
use super::live::wait::{SOON, eventually};
use super::machine::find;
use super::net::{Node, Space};
use super::world::{VIP, World};

pub fn tests() -> Vec<Test> {
    [
        ("should be able to change stubDomain configuration", stub_domain as fn(&World)),
        ("should forward PTR records lookup to upstream nameserver", forward_ptr),
        ("should forward externalname lookup to upstream nameserver", forward_external_name),
    ]
    .map(|(name, run)| {
        Test::new(format!("e2e: {name}"), move || {
            let world = super::world();
            run(world.as_ref().expect("started"));
        })
    })
    .into()
}

/// A DNS server in a Pod, which has some names; removed when dropped.
struct Upstream {
    space: Space,
    _process: Process,
}

impl Upstream {
    fn start(world: &World, hosts: &[(&str, &str)]) -> Upstream {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let space = world.net.pod(Node::B, &format!("upstream-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = world.folder.join("upstream.corefile");
        let lines: String = hosts.iter().map(|(name, address)| format!("        {address} {name}\n")).collect();
        std::fs::write(&file, format!(".:53 {{\n    hosts {{\n{lines}    }}\n}}\n")).expect("a file");
        let mut arguments = vec![format!("--net={}", space.file()), "--".to_owned()];
        arguments.extend([parts::path("coredns").display().to_string(), "-conf".to_owned()]);
        arguments.push(file.display().to_string());
        let log = world.folder.join("upstream.log");
        let _ = std::fs::remove_file(&log);
        let process = Process::start(&find("nsenter").expect("checked at the start"), &arguments, log);
        Upstream { space, _process: process }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.space.remove();
    }
}

/// Returns the suite's Corefile, which forwards to an upstream, and more stanzas.
fn corefile(upstream: &Upstream, more: &str) -> String {
    let address = upstream.space.address;
    format!(
        ".:53 {{\n        health\n        ready\n        kubernetes cluster.local in-addr.arpa ip6.arpa {{\n\
         \x20          pods insecure\n           fallthrough in-addr.arpa ip6.arpa\n           ttl 30\n        }}\n\
         \x20       forward . {address}\n    }}\n{more}"
    )
}

/// Runs a part of a case with another Corefile, and restores the first one. As in the suite, new Pods read it.
fn with_corefile(world: &World, text: &str, part: impl FnOnce()) {
    let get = ["get", "-n", "kube-system", "configmap", "coredns", "-o", "json"];
    let before: Value = serde_json::from_str(&world.kubectl(&get, "")).expect("JSON");
    let replace = |text: &Value| {
        let path = "/api/v1/namespaces/kube-system/configmaps/coredns";
        let fields = json!({"data": {"Corefile": text}});
        let api = &world.cluster.api;
        api.send(http::Method::PATCH, path, "application/merge-patch+json", Some(&fields)).expect("changed");
        let old: Vec<String> = world.kubelet.pods().into_iter().map(|pod| pod.name).collect();
        let select = ["delete", "pod", "-n", "kube-system", "-l", "k8s-app=kube-dns"];
        world.kubectl(&[&select[..], &["--grace-period=0", "--force"]].concat(), "");
        eventually("all Pods are new", SOON, || {
            let pods = world.kubelet.pods();
            if pods.iter().any(|pod| old.contains(&pod.name)) { Err(world.report()) } else { Ok(()) }
        });
        world.wait_for_rollout();
    };
    replace(&json!(text));
    part();
    replace(&before["data"]["Corefile"]);
    world.wait_for_dns();
}

/// Waits until dig's short form for a question is these lines, on both nodes.
fn shows(world: &World, question: &str, wanted: &[&str]) {
    for client in &world.clients {
        eventually(&format!("{question} is {wanted:?}"), SOON, || {
            let mut command = client.command("dig");
            command.arg(format!("@{VIP}")).args(["+short", "+tries=1", "+time=2"]).args(question.split(' '));
            let text = String::from_utf8_lossy(&command.output().expect("dig runs").stdout).into_owned();
            if text.lines().eq(wanted.iter().copied()) { Ok(()) } else { Err(text) }
        });
    }
}

fn stub_domain(world: &World) {
    let hosts = [
        ("abc.acme.local", "192.0.2.1"),
        ("abc.acme.local", "2001:db8::1"),
        ("def.acme.local", "192.0.2.2"),
        ("def.acme.local", "2001:db8::2"),
        ("widget.local", "192.0.2.3"),
        ("widget.local", "2001:db8::3"),
    ];
    let upstream = Upstream::start(world, &hosts);
    let stub = format!("     acme.local:53 {{\n       forward . {}\n    }}", upstream.space.address);
    with_corefile(world, &corefile(&upstream, &stub), || {
        for (name, address) in hosts {
            let rtype = if address.contains(':') { "AAAA" } else { "A" };
            shows(world, &format!("{name} {rtype}"), &[address]);
        }
        // The cluster's own names are as before.
        shows(world, "web.shop.svc.cluster.local A", &["10.96.10.20"]);
    });
    shows(world, "abc.acme.local A", &[]);
}

fn forward_ptr(world: &World) {
    let hosts = [("my.test", "192.0.2.123"), ("my.test", "2001:db8::29")];
    let upstream = Upstream::start(world, &hosts);
    // Without the upstream: the nodes' resolver knows another address.
    shows(world, "-x 192.0.2.80", &["www.example.org."]);
    with_corefile(world, &corefile(&upstream, ""), || {
        for (name, address) in hosts {
            shows(world, &format!("-x {address}"), &[&format!("{name}.")]);
        }
        shows(world, "-x 10.96.10.20", &["web.shop.svc.cluster.local."]);
    });
    for (_, address) in hosts {
        shows(world, &format!("-x {address}"), &[]);
    }
}

fn forward_external_name(world: &World) {
    let hosts = [("foo.example.com", "192.0.2.123"), ("foo.example.com", "2001:db8::29")];
    let upstream = Upstream::start(world, &hosts);
    let create = |name: &str, target: &str| {
        let spec = json!({"type": "ExternalName", "externalName": target});
        world.cluster.api.apply(&service("shop", name, &[], &spec));
        format!("{name}.shop.svc.cluster.local")
    };
    let known_to_nodes = create("dns-externalname-upstream-test", "www.example.org");
    let local = create("dns-externalname-upstream-local", "foo.example.com");
    shows(world, &format!("{known_to_nodes} A"), &["www.example.org.", "192.0.2.80"]);
    with_corefile(world, &corefile(&upstream, ""), || {
        shows(world, &format!("{local} A"), &["foo.example.com.", "192.0.2.123"]);
        shows(world, &format!("{local} AAAA"), &["foo.example.com.", "2001:db8::29"]);
    });
    for name in ["dns-externalname-upstream-test", "dns-externalname-upstream-local"] {
        world.cluster.api.delete("Service", "shop", name).expect("deleted");
    }
}
