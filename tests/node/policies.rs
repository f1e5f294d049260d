//! The resolv.conf of a Pod, as kubelet writes it for a `dnsPolicy` and a `dnsConfig`, and how a client reads it.

use clusterdns::stub::{ClusterDns, PodDns, StubConf};
use serde_json::{Value, json};

use super::clients::{Client, Kind, Search};
use super::names::{Answer, Server, truth};
use super::net::RESOLVER;
use super::world::{VIP, node_resolv_conf};

/// A `dnsPolicy` with its `dnsConfig`.
pub struct Policy {
    pub name: &'static str,
    /// What to know about it, for the page.
    pub text: &'static str,
    /// The names that are looked up, if not all of them are: some clients need seconds for each.
    only: Option<&'static [&'static str]>,
    /// The fields of the Pod's specification that DNS depends on.
    spec: fn() -> Value,
}

/// All that are tried.
pub const POLICIES: &[Policy] = &[
    Policy {
        name: "ClusterFirst",
        text: "The default. The search list of the node follows that of the cluster.",
        only: None,
        spec: || json!({"dnsPolicy": "ClusterFirst"}),
    },
    Policy {
        name: "ClusterFirstWithHostNet",
        text: "The same file for a Pod with `hostNetwork: true`: its queries leave the node's own network.",
        only: None,
        spec: || json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
    },
    Policy {
        name: "Default",
        text: "The file of the node. The cluster's names do not exist there.",
        only: None,
        spec: || json!({"dnsPolicy": "Default"}),
    },
    Policy {
        name: "None: nameservers, searches, ndots 2",
        text: "`dnsPolicy: None` with `nameservers: [10.96.0.10]`, `searches: [svc.cluster.local, shop.svc.cluster.local]`\n\
            and `ndots: 2`.",
        only: None,
        spec: || {
            let searches = ["svc.cluster.local", "shop.svc.cluster.local"];
            let config = json!({"nameservers": [VIP], "searches": searches, "options": options("ndots:2")});
            json!({"dnsPolicy": "None", "dnsConfig": config})
        },
    },
    Policy {
        name: "None: nameservers only",
        text: "`dnsPolicy: None` with `nameservers: [10.96.0.10]`: no search list, and `ndots` is 1.",
        only: None,
        spec: || json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": [VIP]}}),
    },
    Policy {
        name: "ndots 1",
        text: "ClusterFirst with the option `ndots: 1`: a name with a dot is first tried as it is.",
        only: None,
        spec: || cluster_first("ndots:1"),
    },
    Policy {
        name: "timeout 1, attempts 1, rotate",
        text: "ClusterFirst with these options: a client that does not wait.",
        only: None,
        spec: || cluster_first("timeout:1 attempts:1 rotate"),
    },
    Policy {
        name: "single-request-reopen",
        text: "ClusterFirst with this option: glibc sends A and AAAA one after the other, from two sockets.",
        only: None,
        spec: || cluster_first("single-request-reopen"),
    },
    Policy {
        name: "use-vc",
        text: "ClusterFirst with this option: glibc, Go and newer c-ares (1.34 in Node 20 and in adig) use TCP only; c-ares\n\
            1.18, musl, Netty and the others ignore it. Over TCP, the stub of systemd-resolved says NXDOMAIN for names without\n\
            a dot, where it has an error over UDP.",
        only: None,
        spec: || cluster_first("use-vc"),
    },
    Policy {
        name: "edns0, trust-ad",
        text: "ClusterFirst with these options: glibc adds EDNS with 1200 bytes, and AD.",
        only: None,
        spec: || cluster_first("edns0 trust-ad"),
    },
    Policy {
        name: "more than six searches and 256 characters",
        text: "ClusterFirst with seven `searches` of 40 characters each, which follow those of the cluster and of the node.\n\
            musl does not read a line of this length.",
        only: None,
        spec: || {
            let more: Vec<String> = (1..=7).map(|number| format!("{}{number}.example.net", "x".repeat(27))).collect();
            json!({"dnsPolicy": "ClusterFirst", "dnsConfig": {"searches": more}})
        },
    },
    Policy {
        name: "searches with a dot and an underscore",
        text: "`dnsPolicy: None` with `searches: [., _sip._tcp.abc_d.example.com, shop.svc.cluster.local]` and `ndots: 5`.\n\
            musl needs five seconds for each name with fewer dots than `ndots`, and finds none of them; it looks up two here.",
        only: None,
        spec: || {
            let searches = [".", "_sip._tcp.abc_d.example.com", "shop.svc.cluster.local"];
            let config = json!({"nameservers": [VIP], "searches": searches, "options": options("ndots:5")});
            json!({"dnsPolicy": "None", "dnsConfig": config})
        },
    },
    Policy {
        name: "a first name server that refuses",
        text: "`dnsPolicy: None` with a first name server whose port is closed, and this one as the second. Some clients wait\n\
            for a timeout in each case, so that only these names are looked up.",
        only: Some(&["web", "web.shop", "web.shop.svc.cluster.local", "www.example.org."]),
        spec: || {
            let searches = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
            let servers = ["192.168.1.1", VIP];
            let config = json!({"nameservers": servers, "searches": searches, "options": options("ndots:5")});
            json!({"dnsPolicy": "None", "dnsConfig": config})
        },
    },
];

/// The names with fewer dots than `ndots` that musl looks up although the search list has the root: it sends broken
/// queries until its timeout.
const ROOT_WITH_MUSL: [&str; 2] = ["web", "web.shop.svc.cluster.local"];

/// What a client reads from resolv.conf.
#[derive(Debug)]
pub struct Conf {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub ndots: usize,
    /// The option `use-vc`.
    use_vc: bool,
}

impl Policy {
    /// Returns the file that kubelet writes for a Pod in the namespace `shop`.
    pub fn resolv_conf(&self) -> String {
        let cluster = ClusterDns { servers: vec![VIP.to_owned()], domain: "cluster.local".to_owned() };
        let rendered = self.pod().render(&cluster, &StubConf::parse(&node_resolv_conf()));
        assert!(rendered.omitted.is_empty(), "{:?}", rendered.omitted);
        rendered.conf.to_text()
    }

    fn pod(&self) -> PodDns {
        PodDns::of(&json!({"metadata": {"namespace": "shop"}, "spec": (self.spec)()}))
    }

    /// Returns whether the Pod uses the network of its node.
    pub fn is_on_host(&self) -> bool {
        self.pod().host_network
    }

    /// Returns whether a client gets a question that it can ask.
    pub fn asks(&self, client: &Client, kind: Kind, name: &str) -> bool {
        let Some(search) = client.search(kind) else { return false };
        let conf = self.conf();
        let is_slow = client.name == "musl" && conf.has_root() && conf.needs_list(kind, search, name);
        self.only.is_none_or(|names| names.contains(&name)) && (!is_slow || ROOT_WITH_MUSL.contains(&name))
    }

    /// Returns the file, as a client reads it.
    pub fn conf(&self) -> Conf {
        let text = self.resolv_conf();
        let mut conf = Conf { servers: Vec::new(), searches: Vec::new(), ndots: 1, use_vc: text.contains("use-vc") };
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("nameserver", server)) => conf.servers.push(server.to_owned()),
                Some(("search", list)) => conf.searches = list.split(' ').map(str::to_owned).collect(),
                Some(("options", list)) => {
                    // The last one counts.
                    let ndots = list.split(' ').filter_map(|option| option.strip_prefix("ndots:")).next_back();
                    conf.ndots = ndots.map_or(conf.ndots, |number| number.parse().expect("a number"));
                }
                other => panic!("{other:?}"),
            }
        }
        conf
    }
}

/// Returns the specification of ClusterFirst with options of a `dnsConfig`, given as in the file.
fn cluster_first(list: &str) -> Value {
    json!({"dnsPolicy": "ClusterFirst", "dnsConfig": {"options": options(list)}})
}

/// Returns the `options` of a `dnsConfig`, given as in the file.
fn options(list: &str) -> Vec<Value> {
    let option = |word: &str| match word.split_once(':') {
        Some((name, value)) => json!({"name": name, "value": value}),
        None => json!({"name": word}),
    };
    list.split(' ').map(option).collect()
}

impl Conf {
    /// Leaves what a client uses of the search list.
    pub fn limit(&mut self, (domains, bytes): (usize, usize)) {
        if self.searches.join(" ").len() > bytes {
            self.searches.clear();
        }
        self.searches.truncate(domains);
    }

    /// Returns whether the search list has the root.
    pub fn has_root(&self) -> bool {
        self.searches.iter().any(|domain| domain == ".")
    }

    /// Returns whether a client looks at the search list before it has an answer.
    pub fn needs_list(&self, kind: Kind, search: Search, name: &str) -> bool {
        if name.ends_with('.') || search == Search::Never || search == Search::NoDots && name.contains('.') {
            return false;
        }
        if !self.has_enough_dots(kind, name) {
            return true;
        }
        search == Search::Full && !matches!(truth(self.server(), kind, name), Answer::Data(_))
    }

    /// Returns whether the stub of systemd-resolved has an error for a name: it gives names without a dot, and those
    /// below `local` that no domain of the search list covers, to other protocols only.
    fn is_refused_by_stub(&self, name: &str) -> bool {
        let covers = |domain: &String| domain == "." || name == domain || name.ends_with(&format!(".{domain}"));
        let is_covered = self.searches.iter().any(covers);
        // Over TCP the stub says NXDOMAIN for names without a dot.
        !name.contains('.') && !self.use_vc || name.ends_with(".local") && !is_covered
    }

    /// Returns whether glibc reports an error for a name behind the stub of systemd-resolved: one of the candidates was
    /// an error, and none exists.
    pub fn fails_behind_stub(&self, kind: Kind, name: &str) -> bool {
        if kind == Kind::Ptr {
            return false;
        }
        // The first candidate is an error, after which the others are not tried.
        if self.has_root() && !name.contains('.') {
            return true;
        }
        let mut failed = false;
        for candidate in self.candidates(kind, Search::Full, name) {
            if self.is_refused_by_stub(&candidate) {
                failed = true;
            } else if truth(self.server(), kind, &candidate) != Answer::Missing {
                return false;
            }
        }
        failed
    }

    fn has_enough_dots(&self, kind: Kind, name: &str) -> bool {
        // A balancer's name has two labels more.
        name.matches('.').count() + if kind == Kind::Balancer { 2 } else { 0 } >= self.ndots
    }

    fn server(&self) -> Server {
        if self.servers.iter().any(|server| *server == RESOLVER.to_string()) { Server::Nodes } else { Server::Cluster }
    }

    /// Returns what a client gets for a name.
    pub fn look(&self, kind: Kind, search: Search, name: &str) -> Answer {
        let server = self.server();
        let mut result = Answer::Missing;
        for name in self.candidates(kind, search, name) {
            match truth(server, kind, &name) {
                Answer::Missing => {}
                // The search goes on, in most clients.
                Answer::Nodata => result = Answer::Nodata,
                data => return data,
            }
        }
        result
    }

    /// Returns the complete names that a client tries, in order.
    fn candidates(&self, kind: Kind, search: Search, name: &str) -> Vec<String> {
        if let Some(complete) = name.strip_suffix('.') {
            return vec![complete.to_owned()];
        }
        let as_it_is = vec![name.to_owned()];
        let join = |domain: &String| match domain.as_str() {
            "." => name.to_owned(),
            domain => format!("{name}.{domain}"),
        };
        let listed: Vec<String> = self.searches.iter().map(join).collect();
        let enough = self.has_enough_dots(kind, name);
        match search {
            Search::Never => as_it_is,
            Search::NoDots if name.contains('.') => as_it_is,
            Search::NotBehind if enough => as_it_is,
            Search::Full if enough => [as_it_is, listed].concat(),
            Search::Full | Search::NotBehind | Search::NoDots => [listed, as_it_is].concat(),
        }
    }
}
