//! The Corefiles for the comparison with CoreDNS.

/// A stanza with the usual zones and these lines.
macro_rules! stanza {
    ($($line:literal)*) => {
        concat!(
            ".:$PORT {\n    bind 127.0.0.1\n    errors\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n        $API\n",
            $("        ", $line, "\n",)*
            "    }\n}\n"
        )
    };
}

/// A Corefile and facts about it. `$PORT` and `$API` are replaced.
#[derive(Clone, Copy)]
pub struct Corefile {
    pub name: &'static str,
    pub text: &'static str,
    /// The cluster's zones.
    pub zones: &'static [&'static str],
    /// Whether slices, Pods and all namespaces are visible.
    pub sees: Sees,
    /// Differences of this Corefile only, as lines of `docs/differences.allow`.
    pub differs: &'static [&'static str],
    /// CoreDNS has owners in lower case (`docs/differences.md`, 26).
    pub lowers: bool,
    /// Names that do not exist are passed to the next plugin, and there is none.
    pub falls_through: bool,
}

/// What is visible.
#[derive(Clone, Copy)]
pub struct Sees {
    pub slices: bool,
    pub pods: bool,
    pub namespaces: bool,
}

impl Corefile {
    /// Returns the text with an access to the API server, and a port.
    pub fn text(&self, api: &str, port: u16) -> String {
        self.text.replace("$API", api).replace("$PORT", &port.to_string())
    }
}

/// Returns a stanza with the usual zones and these lines, for a separate server.
pub fn with(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("        {line}\n")).collect();
    stanza!().replace("        $API\n", &format!("        $API\n{lines}"))
}

const ALL: Sees = Sees { slices: true, pods: false, namespaces: true };
const PODS: Sees = Sees { pods: true, ..ALL };

/// Returns a Corefile with a stanza.
const fn one(name: &'static str, sees: Sees, text: &'static str) -> Corefile {
    Corefile { name, text, zones: &["cluster.local"], sees, differs: &[], lowers: false, falls_through: false }
}

/// All Corefiles.
pub const COREFILES: [Corefile; 16] = [
    one("pods disabled", ALL, stanza!()),
    one("pods insecure", ALL, stanza!("pods insecure")),
    one("pods verified", PODS, stanza!("pods verified")),
    one("endpoint_pod_names", ALL, stanza!("endpoint_pod_names")),
    one("namespaces", Sees { namespaces: false, ..ALL }, stanza!("namespaces shop data" "pods insecure")),
    Corefile {
        // 4. A hidden namespace has no reverse names.
        differs: &[
            r"^(\d+\.){4}in-addr\.arpa PTR$ => rcode,answer,authority",
            r"^([0-9a-f]\.){32}ip6\.arpa PTR$ => rcode,answer,authority",
        ],
        ..one("namespace_labels", ALL, stanza!("namespace_labels team in (store)" "pods insecure"))
    },
    one("labels", PODS, stanza!("labels tier=front" "pods verified")),
    one("noendpoints", Sees { slices: false, ..ALL }, stanza!("noendpoints")),
    one("ignore empty_service", ALL, stanza!("ignore empty_service")),
    one("zonal", ALL, stanza!("zonal" "ttl 0")),
    one("ttl", ALL, stanza!("ttl 30")),
    Corefile {
        lowers: true,
        // 1, 7. The NODATA of a name that exists loses AA, with CoreDNS's *dns64* too.
        differs: &[
            r"^_(tcp|udp|sctp)?\.[^._]+\.[^._]+\.svc\.cluster\.local AAAA$ => rcode,flags",
            r"^(dns|ns\.dns)\.cluster\.local AAAA$ => rcode,flags",
            r"^(\d+\.){1,4}in-addr\.arpa AAAA$ => rcode,flags",
            r"^([0-9a-f]\.){1,32}ip6\.arpa AAAA$ => rcode,flags",
        ],
        ..one(
            "dns64",
            PODS,
            ".:$PORT {\n    bind 127.0.0.1\n    errors\n    dns64 {\n        allow_ipv4\n    }\n    \
             kubernetes cluster.local in-addr.arpa ip6.arpa {\n        $API\n        pods verified\n    }\n}\n",
        )
    },
    Corefile {
        falls_through: true,
        ..one("fallthrough of reverse zones", ALL, stanza!("pods insecure" "fallthrough in-addr.arpa ip6.arpa"))
    },
    Corefile { falls_through: true, ..one("fallthrough of all zones", ALL, stanza!("fallthrough" "ttl 60")) },
    Corefile {
        zones: &["cluster.local", "other.example"],
        ..one(
            "two zones in a block",
            PODS,
            ".:$PORT {\n    bind 127.0.0.1\n    errors\n    kubernetes cluster.local other.example in-addr.arpa ip6.arpa {\n        $API\n        \
             pods verified\n    }\n}\n",
        )
    },
    Corefile {
        zones: &["cluster.local", "other.example"],
        ..one(
            "two zones in two blocks",
            ALL,
            "cluster.local:$PORT in-addr.arpa:$PORT ip6.arpa:$PORT {\n    bind 127.0.0.1\n    errors\n    kubernetes {\n        $API\n        \
             ttl 7\n    }\n}\n\
             other.example:$PORT {\n    bind 127.0.0.1\n    errors\n    kubernetes {\n        $API\n        \
             pods insecure\n        endpoint_pod_names\n    }\n}\n",
        )
    },
];

/// Returns the Corefile with a name.
pub fn named(name: &str) -> Corefile {
    *COREFILES.iter().find(|corefile| corefile.name == name).expect("a Corefile of this name")
}
