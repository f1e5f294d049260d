//! The resolv.conf of a Pod, as kubelet writes it for a `dnsPolicy` and a `dnsConfig`, and how a client reads it.

use super::clients::{Kind, Search};
use super::names::{Answer, Server, truth};
use super::net::RESOLVER;
use super::world::{NODE_DOMAIN, VIP, node_resolv_conf};

/// A `dnsPolicy` with its `dnsConfig`.
pub struct Policy {
    pub name: &'static str,
    /// What to know about it, for the page.
    pub text: &'static str,
    /// Whether the Pod uses the network of its node.
    pub on_host: bool,
    /// The number of questions for each client: some clients need seconds for each.
    pub questions: usize,
    resolv_conf: fn() -> String,
}

/// The namespaces of the search list of a Pod in `shop`.
const SHOP: &str = "shop.svc.cluster.local svc.cluster.local cluster.local";

/// All that are tried.
pub const POLICIES: &[Policy] = &[
    Policy {
        name: "ClusterFirst",
        text: "The default. The search list of the node follows that of the cluster.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || cluster_first(""),
    },
    Policy {
        name: "ClusterFirstWithHostNet",
        text: "The same file for a Pod with `hostNetwork: true`: its queries leave the node's own network.",
        on_host: true,
        questions: usize::MAX,
        resolv_conf: || cluster_first(""),
    },
    Policy {
        name: "Default",
        text: "The file of the node. The cluster's names do not exist there.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: node_resolv_conf,
    },
    Policy {
        name: "None: nameservers, searches, ndots 2",
        text: "`dnsPolicy: None` with `nameservers: [10.96.0.10]`, `searches: [svc.cluster.local, shop.svc.cluster.local]`\n\
            and `ndots: 2`.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || format!("nameserver {VIP}\nsearch svc.cluster.local shop.svc.cluster.local\noptions ndots:2\n"),
    },
    Policy {
        name: "None: nameservers only",
        text: "`dnsPolicy: None` with `nameservers: [10.96.0.10]`: no search list, and `ndots` is 1.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || format!("nameserver {VIP}\n"),
    },
    Policy {
        name: "ndots 1",
        text: "ClusterFirst with the option `ndots: 1`: a name with a dot is first tried as it is.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || cluster_first("ndots:1"),
    },
    Policy {
        name: "timeout 1, attempts 1, rotate",
        text: "ClusterFirst with these options: a client that does not wait.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || cluster_first("timeout:1 attempts:1 rotate"),
    },
    Policy {
        name: "single-request-reopen",
        text: "ClusterFirst with this option: glibc sends A and AAAA from two sockets.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || cluster_first("single-request-reopen"),
    },
    Policy {
        name: "use-vc",
        text: "ClusterFirst with this option: glibc, Go and c-ares use TCP only.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || cluster_first("use-vc"),
    },
    Policy {
        name: "edns0, trust-ad",
        text: "ClusterFirst with these options: glibc adds EDNS with 1200 bytes, and AD.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || cluster_first("edns0 trust-ad"),
    },
    Policy {
        name: "more than six searches and 256 characters",
        text: "ClusterFirst with seven more `searches` of 40 characters each.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || {
            let more: Vec<String> = (1..=7).map(|number| format!("{}{number}.example.net", "x".repeat(27))).collect();
            format!("nameserver {VIP}\nsearch {SHOP} {} {NODE_DOMAIN}\noptions ndots:5\n", more.join(" "))
        },
    },
    Policy {
        name: "searches with a dot and an underscore",
        text: "`searches: [., _sip._tcp.abc_d.example.com, shop.svc.cluster.local]` and `ndots: 5`.",
        on_host: false,
        questions: usize::MAX,
        resolv_conf: || {
            format!("nameserver {VIP}\nsearch . _sip._tcp.abc_d.example.com shop.svc.cluster.local\noptions ndots:5\n")
        },
    },
    Policy {
        name: "a first name server that refuses",
        text: "`dnsPolicy: None` with a first name server whose port is closed, and this one as the second.\n\
            busybox, kdig and c-ares wait for a timeout.",
        on_host: false,
        questions: 2,
        resolv_conf: || format!("nameserver 192.168.1.1\nnameserver {VIP}\nsearch {SHOP}\noptions ndots:5\n"),
    },
];

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
    /// Returns the file.
    pub fn resolv_conf(&self) -> String {
        (self.resolv_conf)()
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

/// Returns the file of ClusterFirst; options of a `dnsConfig` follow kubelet's own.
fn cluster_first(options: &str) -> String {
    let options = if options.contains("ndots") { options.to_owned() } else { format!("ndots:5 {options}") };
    format!("nameserver {VIP}\nsearch {SHOP} {NODE_DOMAIN}\noptions {}\n", options.trim_end())
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
