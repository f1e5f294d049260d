//! `clusterdns explain` and `clusterdns resolve`: the true cause is in the first line, for each way in which names
//! break.

#[path = "support/broken_names.rs"]
mod broken_names;
mod running;
#[path = "explain/server.rs"]
mod server;

use std::ffi::OsString;

use broken_names::{corefile, for_each_case};
use clusterdns::app::explain;
use running::{file, folder, program, run, status_and_output};

/// The manifests of a cluster in which much is broken.
const CLUSTER: &str = "tests/data/explain/cluster.yaml";

/// Explains a name. Returns what is printed.
fn explain_with(conf: &str, words: &str) -> Result<String, String> {
    let sources = ["-conf", conf, "-manifests", CLUSTER];
    let words = sources.into_iter().chain(words.split_whitespace());
    explain::run(words.map(OsString::from))
}

#[test]
fn the_first_line_names_the_true_cause() {
    let folder = folder("explain-causes");
    let mut failures = Vec::new();
    let mut number = 0;
    let count = for_each_case(|title, corefile, words, cause| {
        number += 1;
        let conf = file(&folder, &format!("Corefile-{number}"), corefile);
        let text = explain_with(&conf, words).unwrap_or_else(|error| format!("error: {error}"));
        let first = text.lines().next().unwrap_or_default();
        if let Some(missing) = cause.iter().find(|part| !first.contains(**part)) {
            failures.push(format!("{title}: explain {words}\n  is      {first}\n  without {missing}"));
        }
    });
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
    assert!(count >= 40);
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

/// A server block at another port is named, and explained with `-port`.
#[test]
fn the_blocks_of_each_port_are_explained() {
    let blocks = ".:53 {\n kubernetes cluster.local\n}\nonly.example:1053 {\n whoami\n}\n\
                  far.example:1054 {\n whoami\n}\n";
    let conf = file(&folder("explain-ports"), "Corefile", blocks);
    let text = explain_with(&conf, "x.only.example. AAAA").expect("a report");
    assert!(text.contains("SERVFAIL: no plugin") && text.contains("listener dns://:53"), "{text}");
    assert!(text.contains("  at port 1053, server block only.example.:1053 ("), "{text}");
    assert!(text.contains(" gets the query: -port 1053 explains it\n") && !text.contains("1054"), "{text}");
    let text = explain_with(&conf, "x.only.example. AAAA -port 1053").expect("a report");
    assert!(text.contains("NODATA: whoami has no record") && !text.contains("at port"), "{text}");
    let text = explain_with(&conf, "x.only.example. AAAA -port 1054").expect("a report");
    assert!(text.contains("REFUSED: no server block") && text.contains("1054"), "{text}");
}

/// What the sample cluster has, works.
#[test]
fn the_api_server_of_the_sample_has_an_endpoint() {
    let words = ["-conf", "Corefile.example", "-manifests", "deploy/sample", "kubernetes"];
    let text = explain::run(words.into_iter().map(OsString::from)).expect("a report");
    assert!(
        text.starts_with("kubernetes.default.svc.cluster.local. A: NOERROR: 10.96.0.1 (from kubernetes)\n"),
        "{text}"
    );
}

/// A name cannot become a command of the shell into which a suggestion is pasted.
#[test]
fn commands_are_quoted() {
    let conf = file(&folder("explain-quoted"), "usual", &corefile("pods insecure", "forward . 192.0.2.53"));
    for (name, command) in [
        ("$(id).shop", "metadata.name='$(id)'"),
        ("a;id.shop", "metadata.name='a;id'"),
        ("a`id`.example.com.", "dig @192.0.2.53 -p 53 'a`id`.example.com.' A"),
    ] {
        let text = explain_with(&conf, name).expect("a report");
        assert!(text.contains(command), "{name}: {text}");
    }
}

/// The command that queries an upstream uses the transport of *forward*.
#[test]
fn commands_for_upstreams_have_their_transport() {
    for (to, command) in [
        ("tls://192.0.2.53%dns.example", "dig @192.0.2.53 -p 853 +tls a.example.com. A"),
        ("https://192.0.2.53", "dig @192.0.2.53 -p 443 +https a.example.com. A"),
        ("quic://192.0.2.53", "kdig @192.0.2.53 -p 853 +quic a.example.com. A"),
    ] {
        let forward = format!("forward . {to}");
        let conf = file(&folder("explain-transport"), "usual", &corefile("pods insecure", &forward));
        let text = explain_with(&conf, "a.example.com.").expect("a report");
        assert!(text.contains(&format!("  {command}\n")), "{to}: {text}");
    }
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
        (
            vec!["explain", "a..b", "-manifests", CLUSTER],
            "'a..b' is not a DNS name: the name has an empty label; expected labels with dots between them, such as web",
        ),
        (
            vec!["explain", "we\x1b[2Jb\r\n.shop", "-manifests", CLUSTER],
            r"'we\u{1b}[2Jb\r\n.shop' is not a DNS name: the name has white space; expected",
        ),
        (
            vec!["explain", "web\u{7f}.shop", "-manifests", CLUSTER],
            r"'web\u{7f}.shop' is not a DNS name: the name has a control character; expected",
        ),
        (vec!["explain", "web", "\x1b[31mA"], r"'\u{1b}[31mA' is not a record type"),
        (vec!["resolve", "-fo\x1brm", "web"], r"there is no flag -fo\u{1b}rm"),
        (vec!["top", "\x1b[2J"], r"unexpected '\u{1b}[2J'; usage: clusterdns top"),
        (vec!["-conf", "x", "\x1b[2J"], r"extra command line arguments: [\u{1b}[2J]"),
        (
            vec!["explain", "web.shop/x", "-manifests", CLUSTER],
            "a part of a URL is not a DNS name; its name is 'web.shop'\n",
        ),
        (
            vec!["explain", "me:secret@web.shop:80/x?y#z", "-manifests", CLUSTER],
            "a part of a URL is not a DNS name; its name is 'web.shop'\n",
        ),
        (vec!["resolve", "web.shop?x=1", "-manifests", CLUSTER], "its name is 'web.shop'\n"),
        (
            vec!["explain", "shop/web", "-manifests", CLUSTER],
            "'shop/web' is not a DNS name; expected 'web.shop' if it is NAMESPACE/NAME of a Service, 'shop' if it is a \
             host with a path\n",
        ),
        (vec!["explain", "/", "-manifests", CLUSTER], "'/' is not a DNS name; expected labels with dots between them"),
        (vec!["explain", "https://", "-manifests", CLUSTER], "a URL is not a DNS name; expected labels with dots"),
        (
            vec!["explain", "10.0.0.0/24", "-manifests", CLUSTER],
            "'10.0.0.0/24' is a network; expected a DNS name, or one address for its reverse name\n",
        ),
        (
            vec!["explain", "web", "-from", "shop/web/x", "-manifests", CLUSTER],
            "'shop/web/x' is not a Pod: expected NAMESPACE/NAME, or NAME in namespace default\n",
        ),
        (
            vec!["explain", "http://me:secret@web.shop:80/x", "-manifests", CLUSTER],
            "a URL is not a DNS name; its name is 'web.shop'\n",
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
        (
            vec!["explain", "web", "-from", "shop/web", "-manifests", CLUSTER],
            "there is no Pod shop/web, did you mean shop/web-1?",
        ),
        (vec!["explain", "web", "-client", "x"], "-client: 'x' is not an IP address"),
        (vec!["explain", "web", "-manifests", &empty], "no Namespace, Service, EndpointSlice or Pod"),
        (
            vec!["explain", "web", "-kubeconfig", "/nowhere/config"],
            "kubeconfig /nowhere/config: failed to read kubeconfig",
        ),
        (vec!["explain", "web", "-server", "1"], "no clusterdns server with process ID 1 runs here"),
        (vec!["explain", "web", "-server", "1", "-manifests", CLUSTER], "-server and -manifests exclude each other\n"),
        (
            vec!["explain", "web", "-server", "1", "-dns.port", "5353"],
            "-dns.port is for the Corefile of -conf, -manifests or -kubeconfig; -port chooses a port of the running",
        ),
        (vec!["explain", "web", "-server", "one"], "-server: 'one' is not a number\n"),
        (vec!["explain", "web", "-port", "70000"], "-port: '70000' is not a port\n"),
        (vec!["explain", "web", "-port", "54", "-manifests", CLUSTER], "-port: no listener has port 54, only 53\n"),
        (vec!["resolve", "web", "-port", "54", "-manifests", CLUSTER], "-port: no listener has port 54, only 53\n"),
        (vec!["resolve", "web", "-ask", "127.0.0.1", "-server", "1"], "-ask and -server exclude each other\n"),
        (vec!["resolve", "web", "-pod", "a", "-policy", "None"], "-pod and -policy exclude each other\n"),
        (vec!["resolve", "web", "-pod", "a", "-namespace", "b"], "-pod and -namespace exclude each other\n"),
        (
            vec!["resolve", "web", "-resolv-conf", "/dev/null", "-cluster-dns", "10.0.0.10"],
            "-resolv-conf and -cluster-dns exclude each other\n",
        ),
        (vec!["resolve"], "a name is missing; usage: clusterdns resolve [flags] NAME"),
        (
            vec!["resolve", "-policy", "x", "web"],
            "-policy: 'x' is none of ClusterFirst, ClusterFirstWithHostNet, Default, None",
        ),
        (
            vec!["resolve", "-policy", "None", "web"],
            "-policy: None leaves the resolv.conf to the dnsConfig of the Pod; choose the Pod with -pod, or the file with",
        ),
        (
            vec!["resolve", "-cluster-dns", "1.2.3", "web"],
            "-cluster-dns: '1.2.3' is not an IP address such as 10.96.0.10",
        ),
        (
            vec!["resolve", "-cluster-domain", "a..b", "web"],
            "-cluster-domain: 'a..b' is not a domain such as cluster.local",
        ),
        (vec!["resolve", "-library", "x", "web"], "-library: 'x' is none of glibc, musl, go, c-ares"),
        (vec!["resolve", "-pod", "shop/nope", "web", "-manifests", CLUSTER], "there is no Pod shop/nope"),
    ] {
        let (status, output, errors) = status_and_output(&run(&words));
        assert_eq!((status, output.as_str()), (Some(1), ""), "{words:?}");
        assert!(errors.contains(message) && errors.lines().count() == 1, "{words:?}: {errors}");
    }
}

/// What cannot be written is an error; a reader that has read enough, such as `head`, is none.
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let conf = file(&folder("explain-full"), "Corefile", ". {\n    whoami\n}\n");
    let pod = ["resolve", "web", "-policy", "Default", "-manifests", CLUSTER];
    let commands: [&[&str]; 9] = [
        &["explain", "web.shop", "-manifests", CLUSTER],
        &["explain", "web.shop", "-manifests", CLUSTER, "-json"],
        &pod,
        &["top", "-help"],
        &["-help"],
        &["-version"],
        &["-plugins"],
        &["-check", "-conf", &conf],
        &["-check=json", "-conf", &conf],
    ];
    for words in commands {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let output = program().args(words).stdout(full).output().expect("the program runs");
        let (status, _, errors) = status_and_output(&output);
        assert_eq!(
            (status, errors.as_str()),
            (Some(1), "cannot write to standard output: No space left on device\n"),
            "{words:?}"
        );
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = program().args(words).stdout(writer).output().expect("the program runs");
        assert_eq!(status_and_output(&output), (Some(0), String::new(), String::new()), "{words:?}");
    }
}

/// Text of flags and files reaches the terminal without control characters.
#[test]
fn output_obeys_no_text_of_the_user() {
    let resolv = file(&folder("explain-controls"), "resolv.conf", "nameserver 10.0.0.1\nsearch a\x1b[2Jb\n");
    for (flags, shown) in [
        (["-namespace", "a\x1b[2Jb"], r"a Pod in namespace a\u{1b}[2Jb (dnsPolicy"),
        (["-resolv-conf", &resolv], r"search a\u{1b}[2Jb"),
    ] {
        let words = [&["resolve", "web", "-manifests", CLUSTER][..], &flags].concat();
        let (status, output, errors) = status_and_output(&run(&words));
        assert_eq!((status, errors.as_str()), (Some(0), ""), "{words:?}");
        assert!(output.contains(shown) && !output.contains('\x1b'), "{output}");
    }
}

/// What the plugins make of a reply on its way back, and the result that the client gets.
#[test]
fn the_way_back_of_a_reply_is_shown() {
    let hosts =
        "hosts {\n 192.0.2.1 x.example\n 10.244.0.2 x.example\n 64:ff9b::c000:209 y.example\n fallthrough\n }\n";
    let no_aaaa = "template IN AAAA example {\n rcode NOERROR\n }\n forward . 192.0.2.53\n";
    let alias = "template IN A alias.example {\n answer \"{{ .Name }} 60 IN CNAME old.example.\"\n }\n \
                 rewrite cname exact old.example. web.shop.svc.cluster.local.\n";
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "rewrite name suffix .corp. .svc.cluster.local. answer auto",
            "web.shop.corp.",
            &[
                "web.shop.corp. A: NOERROR: 10.0.0.1",
                "on the way back, rewrite: changes the name web.shop.svc.cluster.local. to web.shop.corp.\n",
            ],
        ),
        (
            "rewrite ttl suffix cluster.local. 60",
            "web.shop",
            &["on the way back, rewrite: changes the TTL of web.shop.svc.cluster.local. A from 5 to 60 s\n"],
        ),
        (
            "rewrite rcode suffix cluster.local. NXDOMAIN NOERROR",
            "nope.shop",
            &[
                "nope.shop.svc.cluster.local. A: NODATA: no such Service: nope in namespace shop",
                "kubernetes: answers NXDOMAIN\n",
                "on the way back, rewrite: changes the code from NXDOMAIN to NOERROR\n",
            ],
        ),
        (
            alias,
            "alias.example.",
            &[
                "alias.example. A: NOERROR: web.shop.svc.cluster.local., 10.0.0.1",
                "rewrite: looks up web.shop.svc.cluster.local. A, the new target of the alias\n",
                "rewrite: changes CNAME old.example. to web.shop.svc.cluster.local.\n",
            ],
        ),
        (
            "dns64",
            "web.shop AAAA -client fd00::1",
            &[
                "web.shop.svc.cluster.local. AAAA: NOERROR: 64:ff9b::a00:1 (from dns64)",
                "dns64: looks up the IPv4 addresses of the name, and embeds them in 64:ff9b::/96\n",
                "dns64: adds web.shop.svc.cluster.local. 5 AAAA 64:ff9b::a00:1\n",
            ],
        ),
        ("dns64", "web.shop AAAA -client 10.0.0.9", &["AAAA: NODATA: "]),
        (
            &format!("dns64\n {no_aaaa}"),
            "z.example. AAAA -client fd00::1",
            &[
                "z.example. AAAA: pending: dns64 answers after other look-ups\n",
                "dns64: looks up the IPv4 addresses of the name, which a dry run does not know\n",
            ],
        ),
        (
            &format!("siit {{\n ipv6_prefix 64:ff9b::/96\n }}\n {hosts}"),
            "y.example.",
            &[
                "y.example. A: NOERROR: 192.0.2.9 (from siit)",
                "siit: looks up the IPv6 addresses of the name, and answers with the IPv4 addresses that they stand for\n",
            ],
        ),
        (
            "minimal\n header {\n response set ra\n }\n bufsize 1232",
            "_http._tcp.web.shop SRV",
            &["on the way back, minimal: removes web.shop.svc.cluster.local. 5 A 10.0.0.1\n  \
                 on the way back, header: sets RA\n  \
                 on the way back, bufsize: limits the response over UDP to 1232 bytes\n"],
        ),
        (
            &format!("cache 30\n loadbalance\n {hosts}"),
            "x.example.",
            &[
                "A: NOERROR: 192.0.2.1, 10.244.0.2 (from hosts)",
                "cache: stores the reply for 30 s\n",
                "cache: changes the TTL of x.example. A from 3600 to 30 s\n",
                "loadbalance: shuffles the 2 records of each response\n",
            ],
        ),
        (
            &format!("loadbalance round_robin {{\n prefer 10.244.0.0/16\n }}\n {hosts}"),
            "x.example.",
            &["A: NOERROR: 10.244.0.2, 192.0.2.1", "loadbalance: then puts addresses in 10.244.0.0/16 first\n"],
        ),
        (
            "cache 30\n loadbalance\n rewrite name a.example b.example\n errors\n forward . 192.0.2.53",
            "a.example.",
            &["forward: the reply then passes cache, rewrite, loadbalance, whose work depends on it\n"],
        ),
        (
            "trace zipkin 127.0.0.1:9411\n cache 30\n errors\n forward . 192.0.2.53",
            "a.example.",
            &["forward: the reply then passes cache, whose work depends on it\n"],
        ),
        ("cache 30", "a.example.", &["SERVFAIL: no plugin", "on the way back, cache: stores the reply for 5 s\n"]),
    ];
    let folder = folder("explain-way-back");
    for (number, (directives, words, lines)) in cases.iter().enumerate() {
        let conf = file(&folder, &format!("Corefile-{number}"), &corefile("pods insecure", directives));
        let text = explain_with(&conf, words).expect(words);
        for line in *lines {
            assert!(text.contains(line), "{directives}\nexplain {words}\n{line} is not in\n{text}");
        }
    }
    // Where nothing changes, nothing is shown.
    let conf = file(&folder, "plain", &corefile("pods insecure", "cache 30\n loadbalance\n minimal"));
    let text = explain_with(&conf, "web.shop").expect("a report");
    assert!(!text.contains("way back"), "{text}");
    let conf = file(&folder, "json", &corefile("pods insecure", "rewrite ttl suffix cluster.local. 60"));
    let report = explain_with(&conf, "-json web.shop").expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["traces"][0]["way_back"][0]["plugin"], "rewrite");
    assert_eq!(report["traces"][0]["records"][0], "web.shop.svc.cluster.local. 60 A 10.0.0.1");
}

/// The names that *autopath* tries for a Pod.
#[test]
fn autopath_is_part_of_the_dry_run() {
    let folder = folder("explain-autopath");
    let directives = "autopath @kubernetes\n hosts {\n 192.0.2.1 registry.example\n fallthrough\n }\n \
                      forward . 192.0.2.53";
    let conf = file(&folder, "Corefile", &corefile("pods verified", directives));
    let node = file(&folder, "node.conf", "nameserver 192.0.2.53\n");
    for (words, first) in [
        ("registry.example.shop.svc.cluster.local.", " A: NOERROR: registry.example., 192.0.2.1 (from autopath)"),
        ("web.shop.shop.svc.cluster.local.", " A: NOERROR: web.shop.svc.cluster.local., 10.0.0.1 (from autopath)"),
        ("registry.example.shop.svc.cluster.local. AAAA", " AAAA: NODATA: autopath has no record of this type"),
        (
            "api.example.com.shop.svc.cluster.local.",
            " A: forwarded: an external name; its upstream decides: 192.0.2.53",
        ),
        ("web.shop.svc.cluster.local.", " A: NOERROR: 10.0.0.1 (from kubernetes)"),
        ("wbe.shop.svc.cluster.local.", " A: NXDOMAIN: no such Service: wbe in namespace shop; did you mean web.shop"),
    ] {
        let text = explain_with(&conf, &format!("{words} -from shop/client")).expect(words);
        let line = text.lines().next().unwrap_or_default();
        assert!(line.contains(first), "{text}");
    }
    let sources = format!("-conf {conf} -manifests {CLUSTER} -node-resolv-conf {node} -pod shop/client");
    for (name, result) in [
        ("registry.example", "result: registry.example., 192.0.2.1\nqueries: 2\n"),
        ("api.example.com", "result: an upstream decides; assumed: an address\nqueries: 2\n"),
    ] {
        let text = resolve_with(&format!("{sources} {name}"));
        assert!(text.contains(result), "{text}");
    }
    // Of another client, the search list is not known.
    let text = explain_with(&conf, "registry.example.shop.svc.cluster.local.").expect("a report");
    assert!(text.contains(" A: NXDOMAIN: ") && !text.contains("autopath: "), "{text}");
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
    assert!(text.contains("\nresult: an upstream decides; assumed: an address\n"), "{text}");
    assert!(text.contains("fewer: look up api.example.com. with its final dot: 2 queries instead of 10\n"), "{text}");
    assert!(text.contains("fewer: set ndots:1 in dnsConfig: 2 queries instead of 10\n"), "{text}");
    let text = resolve_with(&format!("{sources} -pod shop/few-dots web.shop"));
    assert!(text.contains("options ndots:1\n"), "{text}");
    let text = resolve_with(&format!("{sources} -namespace shop web.shop.svc.cluster.local."));
    assert!(text.contains("queries: 2\n") && !text.contains("note:"), "{text}");
    let text = resolve_with(&format!("{sources} -namespace shpo web.shop.svc.cluster.local."));
    assert!(text.contains("\nnote: the cluster has no namespace shpo\n"), "{text}");
    let text = resolve_with(&format!("-conf {conf} -manifests {CLUSTER} -resolv-conf {node} -json web"));
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["queries"][0]["name"], "web.corp.example.");
    assert_eq!(value["found"], serde_json::Value::Null);
}
