//! Ways in which names of a cluster break, with the cause that the first line of `clusterdns explain` names. The
//! objects are those of `tests/data/explain/cluster.yaml`.

/// A Corefile with these options of *kubernetes* and these directives after it.
pub fn corefile(options: &str, directives: &str) -> String {
    format!(
        ".:53 {{\n    kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        {options}\n    }}\n    \
        {directives}\n}}\n"
    )
}

/// A broken situation.
struct Case {
    /// The title, which is the name of its Corefile.
    title: &'static str,
    /// Options of *kubernetes*.
    options: &'static str,
    /// Directives after it, or a whole Corefile if it begins with a zone.
    directives: &'static str,
    /// The words after the sources.
    words: &'static str,
    /// The result and the cause: parts of the first line.
    cause: &'static [&'static str],
}

/// Cases with the usual Corefile, [`usual`]: title, words, cause.
const USUAL: &[(&str, &str, &[&str])] = &[
    (
        "misspelt Service",
        "wbe.shop",
        &[": NXDOMAIN: no such Service: wbe in namespace shop; did you mean web.shop.svc"],
    ),
    (
        "longer name of a Service",
        "web-svc.shop",
        &["no such Service: web-svc in namespace shop; did you mean web.shop.svc"],
    ),
    (
        "wrong namespace",
        "web.default.svc.cluster.local",
        &["no such Service: web in namespace default; did you mean web.shop.svc"],
    ),
    (
        "short name from another namespace",
        "web",
        &["no such Service: web in namespace default; did you mean web.shop.svc"],
    ),
    (
        "misspelt namespace",
        "web.shpo",
        &["NXDOMAIN: no such namespace: shpo; did you mean web.shop.svc.cluster.local?"],
    ),
    ("swapped labels", "shop.web", &["no such namespace: web; did you mean web.shop.svc.cluster.local?"]),
    ("underscore in the name", "by_hand.shop", &["names of Services have no '_'; did you mean by-hand.shop.svc"]),
    (
        "underscore in the namespace",
        "web.sh_op",
        &["no such namespace: sh_op; names of namespaces have no '_'; did you mean web.shop.svc.cluster.local?"],
    ),
    (
        "port without protocol",
        "_http.web.shop SRV",
        &["NXDOMAIN: Service shop/web has no port for protocol http; expected _PORT._PROTOCOL.web.shop.svc.cluster.\
            local for a port; did you mean _http._tcp.web.shop.svc.cluster.local?"],
    ),
    (
        "protocol in the place of the Service",
        "web._tcp.shop",
        &["no such Service: _tcp in namespace shop; expected _PORT._tcp.SERVICE.shop.svc.cluster.local for a port"],
    ),
    (
        "selector matches nothing",
        "unmatched.shop",
        &["NXDOMAIN: the selector app=wbe of Service shop/unmatched matches no Pod in namespace shop; Pod web-1 \
            has app=web"],
    ),
    (
        "selector of a ClusterIP matches nothing",
        "unmatched-ip.shop",
        &["NOERROR: 10.0.0.2", "but connections to it fail: the selector app=wbe", "Pod web-1 has app=web"],
    ),
    (
        "Pods not ready",
        "unready.shop",
        &["NXDOMAIN: the only Pod of Service shop/unready is not ready: unready-1: its condition Ready is not True \
            (ContainersNotReady: containers with unready status: [app])"],
    ),
    (
        "Pods of a ClusterIP not ready",
        "unready-ip.shop",
        &["NOERROR: 10.0.0.3", "but connections to it fail: the only Pod", "unready-1"],
    ),
    ("readiness gate", "gated.shop", &["NXDOMAIN", "gated-1: its readiness gate example.com/warm is not True"]),
    ("Pods terminate", "leaving.shop", &["NXDOMAIN", "leaving-1: it is terminating"]),
    (
        "Pods pending",
        "waiting.shop",
        &["NXDOMAIN", "waiting-1: it is pending (Unschedulable: 0/3 nodes are available)"],
    ),
    ("Pods have finished", "done.shop", &["NXDOMAIN", "done-1: its phase is Succeeded"]),
    (
        "no endpoints by hand",
        "by-hand.shop",
        &["NXDOMAIN: Service shop/by-hand has no selector, and no EndpointSlice with the label \
            kubernetes.io/service-name=by-hand has an endpoint"],
    ),
    (
        "endpoints by hand not ready",
        "by-hand-unready.shop",
        &["NXDOMAIN: the only endpoint of Service shop/by-hand-unready is not ready"],
    ),
    (
        "wrong port name",
        "_htpt._tcp.web.shop SRV",
        &["NXDOMAIN: Service shop/web has no port named htpt for protocol tcp; did you mean _http._tcp.web.shop.svc"],
    ),
    (
        "wrong protocol",
        "_http._udp.web.shop SRV",
        &["NXDOMAIN: Service shop/web has no port named http for protocol udp; did you mean _http._tcp.web.shop.svc"],
    ),
    (
        "wrong endpoint name",
        "db-7.db.shop",
        &["NXDOMAIN: no ready endpoint of Service shop/db is named db-7; did you mean db-0.db.shop.svc"],
    ),
    ("endpoint not ready", "db-1.db.shop", &["NXDOMAIN: Pod db-1 is not ready: its condition Ready is not True"]),
    (
        "Pod name without hostname",
        "web-1.web.shop",
        &["NXDOMAIN: no ready endpoint of Service shop/web is named web-1", "only with spec.hostname"],
    ),
    ("IPv6 only", "six.shop", &["NODATA: the Service has only IPv6 addresses"]),
    ("IPv4 only", "web.shop AAAA", &["NODATA: the Service has only IPv4 addresses"]),
    ("no address yet", "new.shop", &["NODATA: the Service has no address yet"]),
    ("type without records", "web.shop MX", &["NODATA: names of the cluster have no record of this type"]),
    ("namespace itself", "shop.svc.cluster.local", &["NODATA: the name exists only above other names"]),
    (
        "ExternalName to a missing Service",
        "dangling.shop",
        &["NXDOMAIN: an alias of nope.shop.svc.cluster.local.: no such Service: nope in namespace shop"],
    ),
    (
        "ExternalName is an address",
        "numeric.shop",
        &["NXDOMAIN: externalName of the Service is an address or not a DNS name"],
    ),
    (
        "ExternalName is a URL",
        "with-scheme.shop",
        &["NXDOMAIN: Service shop/with-scheme is of type ExternalName, and its externalName is not a DNS name"],
    ),
    (
        "loop of ExternalNames",
        "ping.shop",
        &["NODATA: the aliases form a loop: ping.shop.svc.cluster.local. → pong.shop.svc.cluster.local. → ping.shop"],
    ),
    ("name below an ExternalName", "x.outside.shop", &["NXDOMAIN: an ExternalName Service has no names below its own"]),
    (
        "ExternalName to an external name",
        "outside.shop",
        &["forwarded: an alias of api.example.com.: an external name; its upstream decides: 192.0.2.53:53"],
    ),
    (
        "external name",
        "api.example.com",
        &[
            "api.example.com. A: forwarded: an external name; its upstream decides: 192.0.2.53:53 (DNS): state not known, it \
            has answered no query yet",
        ],
    ),
    (
        "trailing dot",
        "web.shop.",
        &["the final dot of 'web.shop.' turns off the search list", "did you mean web.shop.svc.cluster.local?"],
    ),
    (
        "wrong cluster domain",
        "web.shop.svc.cluster.lcoal",
        &["the domain of the cluster is cluster.local, not cluster.lcoal; did you mean web.shop.svc.cluster.local?"],
    ),
    (
        "svc left out",
        "web.shop.cluster.local",
        &["names of zone cluster.local. end with svc.cluster.local.", "did you mean web.shop.svc.cluster.local?"],
    ),
    (
        "too many labels",
        "a.b.c.web.shop.svc.cluster.local",
        &["NXDOMAIN: names of zone cluster.local. end with", "did you mean web.shop.svc.cluster.local?"],
    ),
    ("Pod name that is no address", "web-1.shop.pod.cluster.local", &["NXDOMAIN: the label is not an address"]),
    (
        "unknown address",
        "99.0.0.10.in-addr.arpa PTR",
        &["NXDOMAIN: no Service or ready endpoint has the address 10.0.0.99"],
    ),
    (
        "Pod in the host network",
        "-from shop/on-host web",
        &["Pod shop/on-host does not ask this server: its dnsPolicy is ClusterFirst in the host network, which \
            means Default"],
    ),
    (
        "search list without the cluster",
        "-from shop/own-dns web.shop",
        &["the search list of Pod shop/own-dns does not have svc.cluster.local.; did you mean \
            web.shop.svc.cluster.local?"],
    ),
    (
        "name that resolves",
        "-from shop/client web",
        &["web.shop.svc.cluster.local. A: NOERROR: 10.0.0.1 (from kubernetes)"],
    ),
];

/// Cases with Corefiles of their own.
const OTHERS: &[Case] = &[
    Case {
        title: "namespaces",
        options: "namespaces shop",
        directives: "",
        words: "secret.hidden",
        cause: &["NXDOMAIN: the option 'namespaces' of the stanza does not expose namespace hidden"],
    },
    Case {
        title: "namespace_labels",
        options: "namespace_labels team=shop",
        directives: "",
        words: "secret.hidden",
        cause: &[
            "NXDOMAIN: namespace hidden exists, but the option 'namespace_labels' of the stanza does not select it",
        ],
    },
    Case {
        title: "labels",
        options: "labels tier=front",
        directives: "",
        words: "db.shop",
        cause: &["NXDOMAIN: Service shop/db exists, but the option 'labels' of the stanza does not select it"],
    },
    Case {
        title: "noendpoints",
        options: "noendpoints",
        directives: "",
        words: "db.shop",
        cause: &["NXDOMAIN: the option 'noendpoints' of the stanza hides all endpoints"],
    },
    Case {
        title: "empty_service",
        options: "ignore empty_service",
        directives: "",
        words: "unready-ip.shop",
        cause: &["NXDOMAIN: the only Pod of Service shop/unready-ip is not ready: unready-1", "(ignore empty_service)"],
    },
    Case {
        title: "pods disabled",
        options: "pods disabled",
        directives: "",
        words: "10-1-0-1.shop.pod.cluster.local",
        cause: &["NXDOMAIN: Pod names are disabled"],
    },
    Case {
        title: "pods verified",
        options: "pods verified",
        directives: "",
        words: "10-1-0-200.shop.pod.cluster.local",
        cause: &["NXDOMAIN: no Pod of the namespace has this address"],
    },
    Case {
        title: "no forward",
        options: "",
        directives: "",
        words: "api.example.com",
        cause: &["SERVFAIL: no plugin of the server block answers the name; the last one is kubernetes"],
    },
    Case {
        title: "fallthrough without another plugin",
        options: "fallthrough",
        directives: "",
        words: "wbe.shop.svc.cluster.local",
        cause: &[
            "SERVFAIL: no such Service: wbe in namespace shop, it falls through, and no plugin",
            "did you mean web.shop.svc.cluster.local?",
        ],
    },
    Case {
        title: "fallthrough to an upstream",
        options: "fallthrough",
        directives: "forward . 192.0.2.53",
        words: "wbe.shop.svc.cluster.local",
        cause: &[
            "forwarded: no such Service: wbe in namespace shop, so that it is forwarded",
            "did you mean web.shop.svc.cluster.local?",
        ],
    },
    Case {
        title: "acl block",
        options: "",
        directives: "acl {\n block net 10.1.0.0/16\n }",
        words: "-from shop/client web",
        cause: &["REFUSED: acl blocks queries of the client 10.1.0.99 in zone ."],
    },
    Case {
        title: "acl filter",
        options: "",
        directives: "acl {\n filter net 10.1.0.99\n }",
        words: "-client 10.1.0.99 web.shop",
        cause: &["NODATA: acl filters queries of the client 10.1.0.99 in zone ."],
    },
    Case {
        title: "acl drop",
        options: "",
        directives: "acl {\n drop net *\n }",
        words: "web.shop",
        cause: &["dropped: acl drops queries of the client 127.0.0.1 in zone ."],
    },
    Case {
        title: "no block",
        options: "",
        directives: "cluster.local:53 {\n kubernetes cluster.local\n}\n",
        words: "api.example.com.",
        cause: &["REFUSED: no server block serves a zone that contains the name"],
    },
    Case {
        title: "two blocks",
        options: "",
        directives: ".:53 {\n kubernetes cluster.local\n}\nshop.svc.cluster.local:53 {\n whoami\n}\n",
        words: "web.shop.svc.cluster.local AAAA",
        cause: &["NODATA: whoami has no record of this type"],
    },
    Case {
        title: "no view",
        options: "",
        directives: ".:53 {\n view inner {\n expr incidr(client_ip(), '10.1.0.0/16')\n }\n kubernetes \
        cluster.local\n}\n",
        words: "-client 192.0.2.1 web.shop",
        cause: &["REFUSED: no view of the server blocks admits the query: .:53 view inner"],
    },
    Case {
        title: "rewrite",
        options: "",
        directives: "rewrite name exact web.shop.svc.cluster.local wbe.shop.svc.cluster.local",
        words: "web.shop.svc.cluster.local",
        cause: &["NXDOMAIN: no such Service: wbe in namespace shop"],
    },
    Case {
        title: "template",
        options: "",
        directives: "template IN A example.com {\n rcode NXDOMAIN\n }",
        words: "api.example.com",
        cause: &["NXDOMAIN: template is configured with 'rcode NXDOMAIN' for the name"],
    },
    Case {
        title: "template with an extended error",
        options: "",
        directives: "template IN A example.com {\n rcode NXDOMAIN\n ederror 15 \"blocked by policy\"\n }",
        words: "api.example.com",
        cause: &["NXDOMAIN: template: blocked by policy"],
    },
    Case {
        title: "template that does not match",
        options: "",
        directives: "template IN A example.com {\n match ^x\n answer \"{{ .Name }} 60 IN A 10.0.0.1\"\n }",
        words: "api.example.com",
        cause: &["SERVFAIL: 'match' or 'expr' of template does not fit the name, and there is no fallthrough for it"],
    },
    Case {
        title: "template that makes no record",
        options: "",
        directives: "template IN A example.com {\n answer \"{{ .Name }} 60 IN A 10.1.2.300\"\n }",
        words: "api.example.com",
        cause: &["SERVFAIL: template fails: ", "10.1.2.300"],
    },
    Case {
        title: "hosts without fallthrough",
        options: "",
        directives: "hosts {\n 192.0.2.80 printer.example.com\n }",
        words: "api.example.com",
        cause: &["SERVFAIL: hosts: the name has no entry, and there is no fallthrough for it"],
    },
    Case {
        title: "hosts without fallthrough after kubernetes",
        options: "fallthrough",
        directives: "hosts {\n 192.0.2.80 printer.example.com\n }",
        words: "wbe.shop.svc.cluster.local",
        cause: &["SERVFAIL: hosts: the name has no entry, and there is no fallthrough for it"],
    },
    Case {
        title: "except",
        options: "",
        directives: "forward . 192.0.2.53 {\n except example.com\n }",
        words: "api.example.com",
        cause: &["SERVFAIL: no plugin of the server block answers the name"],
    },
    Case {
        title: "hosts",
        options: "",
        directives: "hosts {\n 192.0.2.80 printer.example.com\n }",
        words: "printer.example.com AAAA",
        cause: &["NODATA: hosts has no record of this type"],
    },
];

/// The usual Corefile.
pub fn usual() -> String {
    corefile("pods insecure", "cache 30\n    forward . 192.0.2.53")
}

/// Calls `check` with each case: title, Corefile, words, cause. Returns the number of cases.
pub fn for_each_case(mut check: impl FnMut(&str, &str, &str, &[&str])) -> usize {
    for (title, words, cause) in USUAL {
        check(title, &usual(), words, cause);
    }
    for Case { title, options, directives, words, cause } in OTHERS {
        let is_whole = directives.contains(":53 {");
        let text = if is_whole { (*directives).to_owned() } else { corefile(options, directives) };
        check(title, &text, words, cause);
    }
    USUAL.len() + OTHERS.len()
}
