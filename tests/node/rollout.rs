//! Changes of the Deployment under load: a new Pod in the place of an old one, a drained node, a Corefile that does not
//! load, and the change from CoreDNS to this server and back by `deploy/image-only`.

use std::time::Duration;

use serde_json::{Value, json};

use super::Test;
use super::live::wait::{LATER, eventually};
use super::net::Node;
use super::roles::Outcome;
use super::table::{Table, check_page};
use super::world::{COREDNS, OURS, World, at};

/// CoreDNS's Deployment, as kubeadm creates it, in the fields that matter here.
const STOCK: &str = include_str!("coredns.yaml");
/// The results that differ between the two servers, by client and name, as `page.txt` explains.
const EXPLAINED: &[(&str, &str)] = &[("systemd-resolved", "dangling")];
/// The load, in queries per second.
const LOAD: u64 = 1_000;
/// The most seconds of a change under load.
const SECONDS: u64 = 120;

pub fn tests() -> Vec<Test> {
    [
        ("the table of clients, and changes under load, beside CoreDNS", beside as fn(&mut World)),
        ("rollout: a Corefile that does not load", bad_corefile),
        ("rollout: image-only, there and back", image_only),
    ]
    .map(|(name, run)| {
        Test::new(name, move || {
            let mut world = super::world();
            run(world.as_mut().expect("started"));
        })
    })
    .into()
}

impl World {
    /// Replaces the image of the Deployment, and waits for the rollout.
    pub fn set_image(&self, image: &str) {
        let set = format!("coredns={image}");
        self.kubectl(&["set", "image", "-n", "kube-system", "deployment/coredns", &set], "");
        self.wait_for_rollout();
        let pods = self.kubelet.pods();
        assert!(pods.iter().all(|pod| pod.image == image), "{pods:?}");
        self.wait_for_dns();
    }

    /// Deletes the Deployment with its Pods; no garbage collector runs.
    fn delete_deployment(&self) {
        for kind in ["deployment", "replicaset", "pod"] {
            self.kubectl(&["delete", "-n", "kube-system", kind, "-l", "k8s-app=kube-dns", "--wait=false"], "");
        }
        eventually("the Pods are gone", LATER, || match self.kubelet.pods().as_slice() {
            [] => Ok(()),
            _ => Err(self.report()),
        });
    }

    /// Returns the image of this server, with its tag.
    fn our_image(&self) -> String {
        let text = include_str!("../../deploy/image-only/patch.yaml");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("image: ")).expect("an image");
        assert!(line.starts_with(OURS));
        line.to_owned()
    }
}

/// Fills the table and changes the Deployment under load, with this server and then with CoreDNS.
fn beside(world: &mut World) {
    let ours = Table::fill(world);
    let errors = ours.errors();
    assert!(errors.is_empty(), "{} of {} are wrong:\n{}", errors.len(), ours.len(), errors.join("\n"));
    let changed = changes(world);
    let image = world.our_image();
    world.set_image(COREDNS);
    let theirs = Table::fill(world);
    let changed_theirs = changes(world);
    world.set_image(&image);
    let differing = ours.differing(&theirs);
    let is_explained = |client: &str, name: &str| EXPLAINED.contains(&(client, name));
    let unexplained: Vec<&str> = differing
        .iter()
        .filter(|(client, name, _)| !is_explained(client, name))
        .map(|(_, _, line)| line.as_str())
        .collect();
    assert!(unexplained.is_empty(), "docs/clients.md must explain:\n{}", unexplained.join("\n"));
    for (client, name) in EXPLAINED {
        let occurs = differing.iter().any(|(known, text, _)| (known, text) == (client, name));
        assert!(occurs, "docs/clients.md explains a difference that is none: {client}, {name}");
    }
    check_page(&ours.page());
    for ((what, ours), (_, theirs)) in changed.iter().zip(&changed_theirs) {
        let [ours_lost, theirs_lost] = [ours, theirs].map(|outcome| outcome.lost.len());
        println!("{what}: {ours_lost} of {} lost; with CoreDNS {theirs_lost} of {}", ours.sent, theirs.sent);
        assert_eq!((ours.wrong, ours_lost), (0, 0), "{what}: {ours:?}");
    }
}

/// Changes the Deployment under load, in two ways.
fn changes(world: &World) -> [(&'static str, Outcome); 2] {
    [("new Pods", restart as fn(&World)), ("a drained node", drain)].map(|(name, change)| {
        // Flows of earlier clients lead to Pods that are about to go, and a client that gets the port of such a flow
        // loses its query, whatever the server does. The load uses no port twice.
        for node in Node::ALL {
            at(&node.space(), "conntrack -F");
        }
        let load = world.load(0, LOAD, SECONDS);
        std::thread::sleep(Duration::from_secs(1));
        change(world);
        (name, load.finish())
    })
}

/// Replaces both Pods.
fn restart(world: &World) {
    let before: Vec<String> = world.two_pods().into_iter().map(|pod| pod.name).collect();
    world.kubectl(&["rollout", "restart", "-n", "kube-system", "deployment/coredns"], "");
    world.wait_for_rollout();
    let after = world.two_pods();
    assert!(after.iter().all(|pod| !before.contains(&pod.name)), "{before:?}, {after:?}");
}

/// Drains the node of one of the Pods: what `kubectl drain` does for the Pods of the Deployment.
fn drain(world: &World) {
    let pods = world.two_pods();
    let (node, name) = (pods[0].node, &pods[0].name);
    world.kubectl(&["cordon", node.name()], "");
    eventually("the budget allows the eviction", LATER, || {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"namespace": "kube-system", "name": name}});
        let path = format!("/api/v1/namespaces/kube-system/pods/{name}/eviction");
        let result = world.cluster.api.send(http::Method::POST, &path, "application/json", Some(&eviction));
        result.map(|_| ()).map_err(|refused| format!("{refused:?}"))
    });
    eventually("the Pod is gone", LATER, || {
        let pods = world.kubelet.pods();
        if pods.iter().all(|pod| pod.name != *name) { Ok(()) } else { Err(world.report()) }
    });
    world.wait_for_rollout();
    assert!(world.two_pods().iter().all(|pod| pod.node != node || pods[1].node == node), "{}", world.report());
    world.kubectl(&["uncordon", node.name()], "");
}

fn bad_corefile(world: &mut World) {
    let get = ["get", "-n", "kube-system", "configmap", "coredns", "-o", "json"];
    let good: Value = serde_json::from_str(&world.kubectl(&get, "")).expect("JSON");
    let corefile = good["data"]["Corefile"].as_str().expect("a Corefile");
    let before: Vec<String> = world.two_pods().into_iter().map(|pod| pod.name).collect();
    let load = world.load(0, 200, SECONDS);
    let set = |text: &str| {
        world.cluster.api.send(
            http::Method::PATCH,
            "/api/v1/namespaces/kube-system/configmaps/coredns",
            "application/merge-patch+json",
            Some(&json!({"data": {"Corefile": text}})),
        )
    };
    set(&corefile.replace("ready\n", "raedy\n")).expect("changed");
    world.kubectl(&["rollout", "restart", "-n", "kube-system", "deployment/coredns"], "");
    // New Pods fail and say why; an old one stays, and is ready.
    eventually("a new Pod fails", LATER, || {
        let pods = world.kubelet.pods();
        let new = pods.iter().find(|pod| !before.contains(&pod.name) && pod.restarts > 0);
        match new {
            Some(pod) if pod.log().contains("raedy") => Ok(()),
            _ => Err(world.report()),
        }
    });
    let outcome = load.finish();
    assert_eq!((outcome.wrong, outcome.lost.len()), (0, 0), "{outcome:?}");
    let pods = world.kubelet.pods();
    let (old, new): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| before.contains(&pod.name));
    assert!(!old.is_empty() && old.iter().any(|pod| pod.ready), "{pods:?}");
    assert!(!new.is_empty() && new.iter().all(|pod| !pod.ready), "{pods:?}");
    let status = world.deployment()["status"].clone();
    assert_ne!(status["updatedReplicas"], status["readyReplicas"], "{status}");
    // The right file, and the rollout goes on by itself.
    set(corefile).expect("changed");
    world.wait_for_rollout();
    world.wait_for_dns();
}

/// Replaces CoreDNS in its own Deployment, and returns.
fn image_only(world: &mut World) {
    let kubectl = |arguments: &[&str]| world.kubectl(arguments, "");
    let answers = || -> Vec<String> {
        let names = [
            "web.shop.svc.cluster.local A",
            "db.data.svc.cluster.local A",
            "queue.data.svc.cluster.local AAAA",
            "_pg._tcp.db.data.svc.cluster.local SRV",
            "pay.shop.svc.cluster.local A",
            "nosuch.shop.svc.cluster.local A",
            "web.shop.svc.cluster.local MX",
            "www.example.org A",
            "cluster.local NS",
        ];
        let ask = |name: &&str| {
            let text = at(&world.clients[1], &format!("dig @10.96.0.10 +noall +answer +authority +comments {name}"));
            // IDs and cookies differ, the order of records and the serial of the zone too. CoreDNS has no extended
            // errors.
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| !line.contains("COOKIE") && !line.contains("EDE") && !line.is_empty())
                .map(|line| line.split(", id:").next().unwrap_or(line))
                .map(|line| line.split(" hostmaster.").next().unwrap_or(line))
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            lines.sort();
            lines.join("\n")
        };
        names.iter().map(ask).collect()
    };
    world.delete_deployment();
    world.kubectl(&["apply", "--server-side", "--validate=strict", "-f", "-"], STOCK);
    world.wait_for_rollout();
    world.wait_for_dns();
    let before = answers();
    let stock = world.deployment()["spec"].clone();
    let load = world.load(0, 200, SECONDS);
    kubectl(&["patch", "-n", "kube-system", "deployment", "coredns", "--patch-file=deploy/image-only/patch.yaml"]);
    world.wait_for_rollout();
    let pods = world.two_pods();
    assert!(pods.iter().all(|pod| pod.image == world.our_image()), "{pods:?}");
    world.wait_for_dns();
    similar(&before, &answers());
    kubectl(&["rollout", "undo", "-n", "kube-system", "deployment/coredns"]);
    world.wait_for_rollout();
    world.wait_for_dns();
    similar(&before, &answers());
    let mut after = world.deployment()["spec"].clone();
    after["template"]["metadata"] = stock["template"]["metadata"].clone();
    assert_eq!(after, stock);
    let outcome = load.finish();
    assert_eq!((outcome.wrong, outcome.lost.len()), (0, 0), "{outcome:?}");
    // The next test expects deploy/base.
    world.delete_deployment();
    let objects = kubectl(&["kustomize", "deploy/base"]);
    world.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &objects);
    world.wait_for_rollout();
    world.wait_for_dns();
}

/// Compares answers.
fn similar(before: &[String], after: &[String]) {
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before, after);
    }
}
