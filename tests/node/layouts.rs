//! The same with other network plugins: bridges with routes between nodes, and with VXLAN.

use super::Test;
use super::clients::{CLIENTS, Kind};
use super::net::{Layout, Node};
use super::proxy::Mode;
use super::world::{VIP, World, at};

pub fn tests() -> Vec<Test> {
    [
        ("bridges with routes between nodes, iptables", Layout::Bridge, Mode::Iptables),
        ("bridges with VXLAN between nodes, nftables", Layout::Vxlan, Mode::Nftables),
    ]
    .map(|(name, layout, mode)| {
        Test::new(format!("layout: {name}"), move || {
            let mut world = super::another_world(layout);
            let world = world.as_mut().expect("started");
            if world.mode() != mode {
                world.set_proxy(mode);
                world.wait_for_dns();
            }
            check(world);
        })
    })
    .into()
}

/// Every kind of path: to a server on the same node and on the other one, over UDP and TCP, with large responses.
fn check(world: &World) {
    let questions = [(Kind::Host, "web"), (Kind::Host, "many.lab.svc.cluster.local"), (Kind::Host, "www.example.org")];
    let file = world.folder.join("resolv.conf");
    std::fs::write(&file, super::policies::POLICIES[0].resolv_conf()).expect("a file");
    for client in
        CLIENTS.iter().filter(|client| ["glibc", "musl", "busybox nslookup", "Go", "dig"].contains(&client.name))
    {
        for pod in &world.clients {
            let seen = client.ask(pod, &file, &questions);
            let result = |name: &str| seen[&(Kind::Host, name.to_owned())].as_str();
            assert_eq!(result("web"), "10.96.10.20", "{}", client.name);
            let external = if client.name == "dig" { "192.0.2.80 2001:db8::80" } else { result("www.example.org") };
            assert_eq!(external, "192.0.2.80 2001:db8::80", "{}", client.name);
            if client.tcp {
                assert_eq!(result("many.lab.svc.cluster.local").split(' ').count(), 60, "{}", client.name);
            }
        }
    }
    // Both servers, from both nodes.
    let loads = [0, 1].map(|client| world.load(client, 300, 2));
    for load in loads {
        let outcome = load.outcome();
        assert_eq!((outcome.wrong, outcome.lost.len()), (0, 0), "{outcome:?}");
    }
    for node in Node::ALL {
        assert_eq!(
            at(&node.space(), &format!("dig @{VIP} +tcp +short web.shop.svc.cluster.local")).trim(),
            "10.96.10.20"
        );
    }
    if world.net.layout == Layout::Vxlan {
        // The nodes exchange nothing but packets of VXLAN, and those to the API server.
        let routes = at(&Node::A.space(), "ip route get 10.244.100.9");
        assert!(routes.contains("dev flannel.1"), "{routes}");
    }
}
