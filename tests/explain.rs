//! `clusterdns explain` and `clusterdns resolve`: the true cause is in the first line, for each way in which names
//! break.

mod running;

use std::ffi::OsString;
use std::process::Output;
use std::time::{Duration, Instant};

use clusterdns::app::explain;
use running::api::Api;
use running::upstream::Upstream;
use running::{Running, TIMEOUT, file, folder, get, program, run, status_and_output};

/// The manifests of a cluster in which much is broken.
const CLUSTER: &str = "tests/data/explain/cluster.yaml";

/// A Corefile with these options of *kubernetes* and these directives after it.
fn corefile(options: &str, directives: &str) -> String {
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

/// Cases with the usual Corefile: title, words, cause.
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
        &["NXDOMAIN: none of the 1 endpoint(s) of Service shop/by-hand-unready is ready"],
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
        &["api.example.com. A: forwarded: an external name; its upstream decides: 192.0.2.53:53"],
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
        cause: &["NXDOMAIN: template answers so"],
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

/// Explains a name. Returns what is printed.
fn explain_with(conf: &str, words: &str) -> Result<String, String> {
    let sources = ["-conf", conf, "-manifests", CLUSTER];
    let words = sources.into_iter().chain(words.split_whitespace());
    explain::run(words.map(OsString::from))
}

#[test]
fn the_first_line_names_the_true_cause() {
    let folder = folder("explain-causes");
    let usual = file(&folder, "usual", &corefile("pods insecure", "cache 30\n    forward . 192.0.2.53"));
    let mut failures = Vec::new();
    let mut check = |title: &str, conf: &str, words: &str, cause: &[&str]| {
        let text = explain_with(conf, words).unwrap_or_else(|error| format!("error: {error}"));
        let first = text.lines().next().unwrap_or_default();
        if let Some(missing) = cause.iter().find(|part| !first.contains(**part)) {
            failures.push(format!("{title}: explain {words}\n  is      {first}\n  without {missing}"));
        }
    };
    for (title, words, cause) in USUAL {
        check(title, &usual, words, cause);
    }
    for (number, Case { title, options, directives, words, cause }) in OTHERS.iter().enumerate() {
        let is_whole = directives.contains(":53 {");
        let text = if is_whole { (*directives).to_owned() } else { corefile(options, directives) };
        check(title, &file(&folder, &format!("other-{number}"), &text), words, cause);
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), USUAL.len() + OTHERS.len(), failures.join("\n"));
    assert!(USUAL.len() + OTHERS.len() >= 40);
}

/// An address is explained by its reverse name.
#[test]
fn an_address_is_looked_up_in_reverse() {
    let conf = file(&folder("explain-address"), "usual", &corefile("pods insecure", "forward . 192.0.2.53"));
    let text = explain_with(&conf, "10.0.0.1").expect("a report");
    assert!(text.starts_with("1.0.0.10.in-addr.arpa. PTR: NOERROR: web.shop.svc.cluster.local."), "{text}");
    let text = explain_with(&conf, "fd00::9").expect("a report");
    let name = format!("9.{}d.f.ip6.arpa. PTR: NXDOMAIN", "0.".repeat(29));
    assert!(text.starts_with(&name), "{text}");
}

/// The commands can be pasted: those of clusterdns explain the name that is suggested.
#[test]
fn a_suggested_name_resolves() {
    let conf = file(&folder("explain-suggested"), "usual", &corefile("pods insecure", "forward . 192.0.2.53"));
    let text = explain_with(&conf, "wbe.shop").expect("a report");
    let command = text.lines().find_map(|line| line.trim().strip_prefix("clusterdns explain ")).expect("a command");
    let text = explain_with(&conf, command).expect("a report");
    assert!(text.starts_with("web.shop.svc.cluster.local. A: NOERROR: 10.0.0.1"), "{text}");
}

#[test]
fn json_has_the_whole_report() {
    let conf = file(&folder("explain-json"), "usual", &corefile("pods insecure", "forward . 192.0.2.53"));
    let text = explain_with(&conf, "-json unready.shop").expect("a report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["reason"], "pods-not-ready");
    assert_eq!(report["result"], "NXDOMAIN");
    assert_eq!(report["traces"][0]["subject"]["service"], "unready");
    assert_eq!(report["traces"][0]["steps"][0]["plugin"], "kubernetes");
    assert!(report["objects"][0].as_str().is_some_and(|line| line.starts_with("Service shop/unready: headless")));
    assert!(report["next"].as_array().is_some_and(|commands| !commands.is_empty()));
}

#[test]
fn bad_input_is_one_line_and_status_1() {
    let empty = file(&folder("explain-errors"), "empty.yaml", "");
    for (words, message) in [
        (vec!["explain"], "a name is missing; usage: clusterdns explain [flags] NAME [TYPE]"),
        (vec!["explain", "a..b", "-manifests", CLUSTER], "'a..b' is not a DNS name"),
        (
            vec!["explain", "http://web.shop:80/x", "-manifests", CLUSTER],
            "'http://web.shop:80/x' is a URL and not a DNS name; its name is 'web.shop'",
        ),
        (
            vec!["resolve", "web.shop:80", "-manifests", CLUSTER],
            "'web.shop:80' is a name with port 80; its name is 'web.shop'",
        ),
        (vec!["explain", "web", "BOGUS", "-manifests", CLUSTER], "'BOGUS' is not a record type such as A, AAAA or SRV"),
        (vec!["explain", "web", "A", "x"], "unexpected 'x'; usage: clusterdns explain [flags] NAME [TYPE]"),
        (vec!["explain", "web", "-form", "x"], "there is no flag -form, did you mean -from?"),
        (
            vec!["explain", "web", "-from", "shop/clinet", "-manifests", CLUSTER],
            "there is no Pod shop/clinet, did you mean shop/client?",
        ),
        (vec!["explain", "web", "-client", "x"], "-client: 'x' is not an IP address"),
        (vec!["explain", "web", "-manifests", &empty], "no Namespace, Service, EndpointSlice or Pod"),
        (
            vec!["explain", "web", "-kubeconfig", "/nowhere/config"],
            "kubeconfig /nowhere/config: failed to read kubeconfig",
        ),
        (vec!["explain", "web", "-server", "1"], "no clusterdns server with process ID 1 runs here"),
        (vec!["resolve"], "a name is missing; usage: clusterdns resolve [flags] NAME"),
        (
            vec!["resolve", "-policy", "x", "web"],
            "-policy: 'x' is none of ClusterFirst, ClusterFirstWithHostNet, Default, None",
        ),
        (vec!["resolve", "-library", "x", "web"], "-library: 'x' is none of glibc, musl, go, c-ares"),
        (vec!["resolve", "-pod", "shop/nope", "web", "-manifests", CLUSTER], "there is no Pod shop/nope"),
    ] {
        let (status, output, errors) = status_and_output(&run(&words));
        assert_eq!((status, output.as_str()), (Some(1), ""), "{words:?}");
        assert!(errors.contains(message) && errors.lines().count() == 1, "{words:?}: {errors}");
    }
}

/// Asks a running server.
fn ask(server: &Running, words: &[&str]) -> Output {
    let process = server.child.id().to_string();
    program().args(words).args(["-server", &process]).output().expect("the program runs")
}

fn first_line(server: &Running, words: &[&str]) -> String {
    let (status, output, errors) = status_and_output(&ask(server, words));
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{words:?}");
    output.lines().next().unwrap_or_default().to_owned()
}

/// Repeats a check until it holds.
fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The running server answers from its own state: its cache, and the health of its upstreams. No query is counted.
#[test]
fn a_running_server_explains_itself() {
    let upstream = Upstream::start();
    // There is no socket.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let text = format!(
        ".:0 {{\n    bind 127.0.0.1\n    prometheus 127.0.0.1:0\n    kubernetes cluster.local\n    cache 30\n    \
         forward dead.example {dead} {{\n        health_check 20ms\n        \
         max_fails 1\n    }}\n    forward . {}\n}}\n",
        upstream.at()
    );
    let conf = file(&folder("explain-running"), "Corefile", &text);
    let server = Running::start(&["-conf", &conf, "-manifests", CLUSTER]);
    let line = first_line(&server, &["explain", "wbe.shop"]);
    assert!(line.contains("did you mean web.shop.svc.cluster.local?"), "{line}");
    let metrics = || {
        let text = get(server.page("prometheus"), "/metrics").1;
        let counted = text.lines().filter(|line| {
            ["coredns_dns_request", "coredns_cache_", "coredns_forward_", "coredns_proxy_"]
                .into_iter()
                .any(|prefix| line.starts_with(prefix))
        });
        counted.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = metrics();
    for words in
        [["explain", "web.shop"], ["explain", "x.example"], ["explain", "x.dead.example"], ["resolve", "web.shop"]]
    {
        first_line(&server, &words);
    }
    assert_eq!(metrics(), before);
    // A cached denial.
    assert_eq!(server.ask("nothing.example.").0, 0);
    let line = first_line(&server, &["explain", "nothing.example."]);
    assert!(line.contains("NODATA: the answer NODATA is from the cache, 0 s old, valid for another"), "{line}");
    // Queries fail, and then health checks.
    assert_eq!(server.ask("a.dead.example.").0, 2);
    eventually("the upstream is down", || {
        let line = first_line(&server, &["explain", "b.dead.example."]);
        line.contains(&format!("SERVFAIL: every upstream of 'forward dead.example.' is down: {dead}"))
    });
}

/// Objects are read from the API server when the command runs; without it, the index is enough for the cause.
#[test]
fn objects_come_from_the_api_server() {
    let api = Api::start();
    let text = format!(
        ".:0 {{\n    bind 127.0.0.1\n    kubernetes cluster.local {{\n        endpoint http://{}\n    }}\n}}\n",
        api.at
    );
    let conf = file(&folder("explain-api"), "Corefile", &text);
    let server = Running::start(&["-conf", &conf]);
    let (status, output, _) = status_and_output(&ask(&server, &["explain", "web.default"]));
    assert_eq!(status, Some(0));
    assert!(output.starts_with("web.default.svc.cluster.local. A: NOERROR: 10.96.0.5"), "{output}");
    assert!(
        output.contains("\n  Service default/web: ClusterIP 10.96.0.5, no selector, ports http 80/TCP\n"),
        "{output}"
    );
    // The command alone follows the same API server.
    let (status, output, errors) = status_and_output(&run(&["explain", "wbe.default", "-conf", &conf]));
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    assert!(output.contains("no such Service: wbe in namespace default; did you mean web.default.svc"), "{output}");
    api.set_away(true);
    let (status, output, _) = status_and_output(&ask(&server, &["explain", "wbe.default"]));
    assert_eq!(status, Some(0));
    assert!(output.contains("no such Service: wbe in namespace default; did you mean web.default.svc"), "{output}");
    assert!(output.contains("cannot read the Service from the API server: no response within 3 s"), "{output}");
    let (status, output, errors) = status_and_output(&run(&["explain", "wbe.default", "-conf", &conf]));
    assert_eq!((status, output.as_str()), (Some(1), ""));
    assert!(errors.starts_with("cannot read the Namespace from the API server: no response within 3 s"), "{errors}");
    assert_eq!(errors.lines().count(), 1);
}

#[test]
fn a_server_that_is_not_synced_says_so() {
    let unanswering = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let text = format!(
        ".:0 {{\n    bind 127.0.0.1\n    kubernetes cluster.local {{\n        endpoint http://{}\n        \
         startup_timeout 10ms\n    }}\n}}\n",
        unanswering.local_addr().expect("an address")
    );
    let conf = file(&folder("explain-unsynced"), "Corefile", &text);
    let server = Running::start(&["-conf", &conf]);
    let line = first_line(&server, &["explain", "web.shop"]);
    assert!(
        line.contains("SERVFAIL: the cluster state is not synced yet: no full list of Namespace, Service"),
        "{line}"
    );
}

/// Two servers of one user: the user chooses.
#[test]
fn one_of_several_servers_is_chosen() {
    let start = || Running::start(&["-conf", "Corefile.example", "-manifests", CLUSTER]);
    let (first, second) = (start(), start());
    let (status, _, errors) = status_and_output(&run(&["explain", "web.shop"]));
    assert_eq!(status, Some(1));
    let processes = [first.child.id(), second.child.id()].map(|id| id.to_string());
    assert!(errors.starts_with("several servers run here: choose one with -server"), "{errors}");
    assert!(processes.iter().all(|process| errors.contains(process.as_str())), "{errors}");
    assert!(first_line(&second, &["explain", "web.shop"]).contains("10.0.0.1"));
}

/// Resolves a name. Returns what is printed.
fn resolve_with(words: &str) -> String {
    explain::resolve::run(words.split_whitespace().map(OsString::from)).expect("an answer")
}

#[test]
fn resolve_prints_the_file_and_the_queries() {
    let folder = folder("resolve");
    let conf = file(&folder, "usual", &corefile("pods insecure", "forward . 192.0.2.53"));
    let node = file(&folder, "node.conf", "search corp.example\nnameserver 192.0.2.53\n");
    let sources = format!("-conf {conf} -manifests {CLUSTER} -node-resolv-conf {node} -cluster-dns 10.96.0.10");
    let text = resolve_with(&format!("{sources} -pod shop/client web"));
    let expected = "resolv.conf of Pod shop/client (dnsPolicy ClusterFirst):\n  \
                    search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n  \
                    nameserver 10.96.0.10\n  options ndots:5\n\nglibc looks up web:\n   \
                    1  web.shop.svc.cluster.local. A  10.0.0.1\n   2  web.shop.svc.cluster.local. AAAA  NODATA\n\n\
                    result: 10.0.0.1\nqueries: 2\n";
    assert!(text.starts_with(expected), "{text}");
    let text = resolve_with(&format!("{sources} -pod shop/client -library musl api.example.com"));
    assert!(text.contains("  10  api.example.com. AAAA  an upstream decides; assumed: an address"), "{text}");
    assert!(text.contains("queries: 10\n"), "{text}");
    assert!(text.contains("fewer: look up api.example.com. with its final dot: 2 queries instead of 10\n"), "{text}");
    assert!(text.contains("fewer: set ndots:1 in dnsConfig: 2 queries instead of 10\n"), "{text}");
    let text = resolve_with(&format!("{sources} -pod shop/few-dots web.shop"));
    assert!(text.contains("options ndots:1\n"), "{text}");
    let text = resolve_with(&format!("{sources} -policy None -namespace shop web.shop.svc.cluster.local"));
    assert!(text.contains("queries: 2\n") && text.contains("nameserver 10.96.0.10\n"), "{text}");
    let text = resolve_with(&format!("{sources} -resolv-conf {node} -json web"));
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["queries"][0]["name"], "web.corp.example.");
    assert_eq!(value["found"], serde_json::Value::Null);
}
