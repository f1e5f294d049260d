//! What the virtual address promises, with kube-proxy in each mode: UDP and TCP, responses from the address asked, and
//! queries that go on while one of two servers is frozen, dead or gone.

use std::time::Duration;

use super::Test;
use super::kubelet::{Seen, restarts};
use super::live::wait::{LATER, SOON, eventually};
use super::proxy::Mode;
use super::roles::{Load, Outcome};
use super::world::{VIP, World, at};

pub fn tests() -> Vec<Test> {
    [Mode::Iptables, Mode::Nftables, Mode::Ipvs]
        .into_iter()
        .flat_map(|mode| {
            [
                ("UDP and TCP, from the address asked", promises as fn(&World)),
                ("a flow whose Pod is gone", stale_flow),
                ("one of two is frozen", frozen),
                ("both are frozen for a moment", both_frozen),
                ("one of two dies and comes back", dead),
            ]
            .map(|(name, run)| {
                Test::new(format!("{}: {name}", mode.name()), move || {
                    let mut world = super::world();
                    let world = world.as_mut().expect("started");
                    if world.mode() != mode {
                        world.set_proxy(mode);
                        world.wait_for_dns();
                    }
                    run(world);
                })
                .unless(mode.missing())
            })
        })
        .collect()
}

impl World {
    /// Starts a load in the Pod of a node.
    pub fn load(&self, client: usize, per_second: u64, seconds: u64) -> Load {
        Load::start(&self.clients[client], per_second, seconds, self.folder.join(format!("load-{client}")))
    }

    /// Returns the Pods of the server, two of which are ready.
    pub fn two_pods(&self) -> Vec<Seen> {
        self.wait_for_rollout();
        let pods = self.kubelet.pods();
        assert_eq!(pods.len(), 2, "{pods:?}");
        pods
    }

    /// Waits until the virtual address leads to this many servers, on both nodes.
    fn wait_for_endpoints(&self, count: usize) {
        eventually("kube-proxy knows the endpoints", LATER, || {
            let slices = self.cluster.api.list("EndpointSlice");
            let ready: usize = slices
                .iter()
                .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns")
                .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
                .filter(|endpoint| endpoint["conditions"]["ready"] == true)
                .count();
            if ready == count { Ok(()) } else { Err(format!("{ready} ready endpoints\n{}", self.report())) }
        });
    }
}

/// Checks that every query has got its response, from the address asked.
fn all_answered(outcome: &Outcome) {
    assert_eq!((outcome.wrong, outcome.lost.len()), (0, 0), "{outcome:?}");
    assert_eq!(outcome.answered, outcome.sent);
}

fn promises(world: &World) {
    let loads = [0, 1].map(|client| world.load(client, 300, 2));
    for load in loads {
        all_answered(&load.outcome());
    }
    for client in &world.clients {
        for tcp in ["+notcp", "+tcp"] {
            let text = at(client, &format!("dig @{VIP} {tcp} +noedns many.lab.svc.cluster.local"));
            // The response names the server that it came from; dig rejects those from others.
            assert!(text.contains(&format!("SERVER: {VIP}#53")), "{text}");
            assert!(text.contains("ANSWER: 60"), "{text}");
        }
    }
    // The size that the client accepts decides on TC, up to 4,096 bytes.
    for (name, options, is_truncated) in [
        ("many", "+noedns", true),
        ("many", "+bufsize=1232", false),
        ("huge", "+bufsize=1232", true),
        ("huge", "+bufsize=4096", true),
        ("huge", "+bufsize=65000", true),
    ] {
        let question = format!("{options} +notcp +ignore {name}.lab.svc.cluster.local");
        let text = at(&world.clients[0], &format!("dig @{VIP} {question}"));
        let flags = text.lines().find(|line| line.starts_with(";; flags:")).expect("flags");
        assert_eq!(flags.contains(" tc"), is_truncated, "{question}: {text}");
    }
    for node in super::net::Node::ALL {
        let text = at(&node.space(), &format!("dig @{VIP} +short web.shop.svc.cluster.local"));
        assert_eq!(text.trim(), "10.96.10.20");
    }
    // Both servers get queries.
    for pod in world.two_pods() {
        let metrics = at(&world.clients[0], &format!("busybox wget -q -O - http://{}:9153/metrics", pod.address));
        for proto in ["udp", "tcp"] {
            let wanted = format!("proto=\"{proto}\"");
            let asked =
                metrics.lines().any(|line| line.starts_with("coredns_dns_requests_total") && line.contains(&wanted));
            assert!(asked, "{}: {proto}", pod.name);
        }
    }
}

/// A client with a fixed source port, whose Pod disappears: kube-proxy removes the flow from connection tracking, and
/// the client reaches the other Pod.
fn stale_flow(world: &World) {
    let pods = world.two_pods();
    let ask = || {
        let line = format!("dig @{VIP} -b 0.0.0.0#5353 +tries=1 +time=1 +short web.shop.svc.cluster.local");
        let mut words = line.split(' ');
        let output = world.clients[0].command(words.next().expect("a program")).args(words).output().expect("dig runs");
        String::from_utf8_lossy(&output.stdout).trim() == "10.96.10.20"
    };
    assert!(ask());
    let flows = at(&super::net::Node::A.space(), "conntrack -L -p udp --orig-port-src 5353");
    let pod = pods.iter().find(|pod| flows.contains(&format!("src={} ", pod.address)));
    let pod = pod.unwrap_or_else(|| panic!("a flow to one of the Pods: {flows}"));
    world.kubectl(&["delete", "pod", "-n", "kube-system", &pod.name, "--grace-period=0", "--force"], "");
    eventually("the same port reaches another Pod", SOON, || if ask() { Ok(()) } else { Err(world.report()) });
    world.wait_for_rollout();
    world.wait_for_endpoints(2);
}

/// Returns the time of the last lost query.
fn last_lost(outcome: &Outcome) -> Duration {
    Duration::from_millis(outcome.lost.last().copied().unwrap_or(0))
}

fn frozen(world: &World) {
    let pods = world.two_pods();
    let seconds = 16;
    let load = world.load(0, 200, seconds);
    std::thread::sleep(Duration::from_secs(1));
    pods[0].signal("STOP");
    world.wait_for_endpoints(1);
    let outcome = load.outcome();
    pods[0].signal("CONT");
    world.wait_for_endpoints(2);
    assert_eq!(outcome.wrong, 0, "{outcome:?}");
    // Its share is lost until its probe has failed three times, and the other Pod has the rest.
    let lost = outcome.lost.len() as u64;
    assert!(lost > 0 && lost < outcome.sent / 2, "{outcome:?}");
    assert!(last_lost(&outcome) < Duration::from_secs(seconds - 2), "{outcome:?}");
    println!("frozen: {lost} of {} lost, the last after {:?}", outcome.sent, last_lost(&outcome));
    all_answered(&world.load(1, 200, 1).outcome());
}

/// Shorter than their probes need to fail: queries wait in the sockets of the servers, and get their responses.
fn both_frozen(world: &World) {
    let pods = world.two_pods();
    let load = world.load(0, 100, 5);
    std::thread::sleep(Duration::from_secs(1));
    pods.iter().for_each(|pod| pod.signal("STOP"));
    std::thread::sleep(Duration::from_secs(1));
    pods.iter().for_each(|pod| pod.signal("CONT"));
    let outcome = load.outcome();
    world.wait_for_endpoints(2);
    assert_eq!(restarts(&pods), restarts(&world.two_pods()));
    all_answered(&outcome);
    all_answered(&world.load(1, 200, 1).outcome());
}

fn dead(world: &World) {
    let pods = world.two_pods();
    let load = world.load(0, 200, 8);
    std::thread::sleep(Duration::from_secs(1));
    pods[0].signal("KILL");
    let outcome = load.outcome();
    assert_eq!(outcome.wrong, 0, "{outcome:?}");
    let lost = outcome.lost.len() as u64;
    println!("dead: {lost} of {} lost, the last after {:?}", outcome.sent, last_lost(&outcome));
    assert!(lost < outcome.sent / 2, "{outcome:?}");
    eventually("the container is started again", SOON, || {
        let pod = world.kubelet.pods().into_iter().find(|pod| pod.name == pods[0].name);
        match pod {
            Some(pod) if pod.restarts > pods[0].restarts && pod.ready => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    world.wait_for_endpoints(2);
    all_answered(&world.load(1, 200, 1).outcome());
}
