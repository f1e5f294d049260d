//! The network of two nodes and their Pods, as network plugins lay it out.
//!
//! ```text
//!   client-a  dns…            dns…  client-b       Pods, 10.244.0.0/24 and 10.244.100.0/24
//!       └──┬───┘                └──┬───┘
//!       node-a 192.168.1.10     node-b 192.168.1.11
//!          └────────── lan ────────┘
//!        192.168.1.1 the API server, 192.168.1.2 the resolver of the nodes
//! ```

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::machine::{output, run};

/// The address of the API server.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The address of the resolver that the nodes use.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The address of every Pod's gateway in a routed network.
const GATEWAY: &str = "169.254.1.1";

/// How Pods are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A route to every Pod, no bridge (Calico).
    Routed,
    /// A bridge on every node, routes between nodes (Flannel `host-gw`, and the CNI plugin `bridge`).
    Bridge,
    /// A bridge on every node, VXLAN between nodes (Flannel's default).
    Vxlan,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    A,
    B,
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Space {
    name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// The network.
#[derive(Debug)]
pub struct Net {
    pub layout: Layout,
    next: [AtomicU32; 2],
}

impl Node {
    pub const ALL: [Node; 2] = [Node::A, Node::B];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Node::A => "node-a",
            Node::B => "node-b",
        }
    }

    /// Returns the node with a name.
    pub fn named(name: &str) -> Option<Node> {
        Node::ALL.into_iter().find(|node| node.name() == name)
    }

    /// Returns its namespace.
    pub fn space(self) -> Space {
        Space { name: self.name().to_owned(), address: Ipv4Addr::new(192, 168, 1, 10 + self as u8) }
    }

    /// Returns an address of its Pods.
    fn pod(self, number: u8) -> Ipv4Addr {
        let third = match self {
            Node::A => 0,
            Node::B => 100,
        };
        Ipv4Addr::new(10, 244, third, number)
    }

    fn other(self) -> Node {
        match self {
            Node::A => Node::B,
            Node::B => Node::A,
        }
    }
}

impl Net {
    /// Creates the nodes and their connections.
    pub fn up(layout: Layout) -> Net {
        run("ip link add name lan type bridge");
        for address in [CONTROL, RESOLVER] {
            run(&format!("ip addr add {address}/24 dev lan"));
        }
        run("ip link set lan up");
        // A closed port is always reported, however often it is tried.
        run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000");
        for node in Node::ALL {
            let Space { name, address } = node.space();
            run(&format!("ip netns add {name}"));
            run(&format!("ip link add name lan-{name} type veth peer name eth0 netns {name}"));
            run(&format!("ip link set lan-{name} master lan up"));
            node.ip("link set lo up");
            node.ip(&format!("addr add {address}/24 dev eth0"));
            node.ip("link set eth0 up");
            node.ip(&format!("route add default via {CONTROL}"));
            run(&format!("ip route add {}/24 via {address}", node.pod(0)));
            node.sysctl("net.ipv4.ip_forward=1");
        }
        for node in Node::ALL {
            let other = node.other();
            let there = format!("{}/24", other.pod(0));
            match layout {
                Layout::Routed => node.ip(&format!("route add {there} via {}", other.space().address)),
                Layout::Bridge => {
                    node.bridge();
                    node.ip(&format!("route add {there} via {}", other.space().address));
                }
                Layout::Vxlan => {
                    node.bridge();
                    node.vxlan();
                }
            }
        }
        Net { layout, next: [2, 2].map(AtomicU32::new) }
    }

    /// Creates the namespace of a Pod, with the next address of its node.
    pub fn pod(&self, node: Node, name: &str) -> Space {
        let number = self.next[node as usize].fetch_add(1, Ordering::Relaxed);
        let address = node.pod(u8::try_from(number).expect("fewer than 250 Pods on a node"));
        // Interfaces have short names.
        let host_side = format!("veth{number}");
        run(&format!("ip netns add {name}"));
        node.ip(&format!("link add name {host_side} type veth peer name eth0 netns {name}"));
        let space = Space { name: name.to_owned(), address };
        space.ip("link set lo up");
        match self.layout {
            Layout::Routed => {
                space.ip(&format!("addr add {address}/32 dev eth0"));
                space.ip("link set eth0 up");
                space.ip(&format!("route add {GATEWAY} dev eth0"));
                space.ip(&format!("route add default via {GATEWAY}"));
                node.sysctl(&format!("net.ipv4.conf.{host_side}.proxy_arp=1"));
                node.ip(&format!("link set {host_side} up"));
                node.ip(&format!("addr add {GATEWAY}/32 dev {host_side}"));
                node.ip(&format!("route add {address}/32 dev {host_side}"));
            }
            Layout::Bridge | Layout::Vxlan => {
                space.ip(&format!("addr add {address}/24 dev eth0"));
                space.ip("link set eth0 up");
                space.ip(&format!("route add default via {}", node.pod(1)));
                node.ip(&format!("link set {host_side} master cni0 up"));
            }
        }
        space
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in Node::ALL {
            // The kernel removes it with the namespace too, but later, and the next layout adds one of the same name.
            let link = format!("lan-{}", node.space().name);
            let _ = std::process::Command::new("ip").args(["link", "delete", &link]).output();
            node.space().remove();
        }
        run("ip link delete lan");
    }
}

impl Node {
    fn ip(self, words: &str) {
        self.space().ip(words);
    }

    fn sysctl(self, setting: &str) {
        output(self.space().command("sysctl").args(["-qw", setting]));
    }

    fn bridge(self) {
        self.ip("link add name cni0 type bridge");
        self.ip(&format!("addr add {}/24 dev cni0", self.pod(1)));
        self.ip("link set cni0 up");
        // Without it a reply between two Pods of a node passes the bridge, past kube-proxy's translation.
        self.sysctl("net.bridge.bridge-nf-call-iptables=1");
    }

    /// As Flannel: one peer, whose addresses are entered by hand.
    fn vxlan(self) {
        let other = self.other();
        let (here, there) = (self.space().address, other.space().address);
        let mac = |node: Node| format!("02:00:00:00:00:{:02x}", 0x0a + node as u8);
        self.ip(&format!(
            "link add name flannel.1 address {} type vxlan id 1 local {here} dev eth0 dstport 8472 nolearning",
            mac(self)
        ));
        self.ip(&format!("addr add {}/32 dev flannel.1", self.pod(0)));
        self.ip("link set flannel.1 up mtu 1450");
        self.ip(&format!("route add {}/24 via {} dev flannel.1 onlink", other.pod(0), other.pod(0)));
        self.ip(&format!("neigh add {} lladdr {} dev flannel.1", other.pod(0), mac(other)));
        let entry = format!("fdb append {} dev flannel.1 dst {there}", mac(other));
        output(self.space().command("bridge").args(entry.split(' ')));
    }
}

impl Space {
    /// Returns its file, for nsenter(1).
    pub fn file(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Returns a command that runs in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.file())).arg("--").arg(program);
        command
    }

    /// Changes its interfaces and routes.
    pub fn ip(&self, words: &str) {
        let mut command = Command::new("ip");
        output(command.args(["-n", &self.name]).args(words.split(' ')));
    }

    /// Removes it.
    pub fn remove(&self) {
        run(&format!("ip netns delete {}", self.name));
    }
}
