//! `clusterdns top`, the pages `/top` and `/`, and the metrics of the most frequent keys, for known queries.

mod running;

use std::net::UdpSocket;

use clusterdns::wire::NameBuf;
use running::{Running, TIMEOUT, file, folder, get, request, run, status_and_output};
use serde_json::Value;

/// Pods with loopback addresses, so that a test can send their queries.
const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop}
status: {phase: Running, podIP: 127.0.0.2, podIPs: [{ip: 127.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: job-1, namespace: batch}
status: {phase: Running, podIP: 127.0.0.3, podIPs: [{ip: 127.0.0.3}]}
";
/// A name as an attacker would choose it.
const ATTACK: &str = "<script>alert(1)</script>.shop.svc.cluster.local.";

/// Starts a server with pages at free ports.
fn start(name: &str, words: &[&str]) -> Running {
    let folder = folder(name);
    let closed = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let text = format!(
        ".:0 {{\n    bind 127.0.0.1\n    errors\n    health 127.0.0.1:0\n    prometheus 127.0.0.1:0\n    \
         kubernetes cluster.local {{\n        pods verified\n    }}\n    forward dead.example {closed} {{\n        \
         max_connect_attempts 1\n    }}\n}}\n"
    );
    let (conf, pods) = (file(&folder, "Corefile", &text), file(&folder, "pods.yaml", PODS));
    Running::start(&[&["-conf", &conf, "-manifests", &pods], words].concat())
}

/// Sends a query for an address a number of times from a client, one after the other.
fn ask(server: &Running, client: &str, name: &str, times: usize) {
    let name = NameBuf::from_text(name).expect("a name");
    let packet = [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat();
    let socket = UdpSocket::bind((client, 0)).expect("a socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    for _ in 0..times {
        socket.send_to(&packet, server.at).expect("sent");
        socket.recv(&mut [0; 512]).expect("an answer");
    }
}

/// Runs `clusterdns top` for a server.
fn top(server: &Running, words: &[&str]) -> (Option<i32>, String, String) {
    let process = server.child.id().to_string();
    status_and_output(&run(&[&["top", "-server", &process], words].concat()))
}

/// Returns `KEY QUERIES` of each row of a list.
fn rows(report: &Value, by: &str) -> Vec<String> {
    let rows = report["lists"][by].as_array().unwrap_or_else(|| panic!("{by} in {report}"));
    rows.iter().map(|row| format!("{} {}", row["key"].as_str().expect("a key"), row["queries"])).collect()
}

#[test]
fn known_queries_are_counted_shown_and_escaped() {
    let server = start("top", &["-top.metrics", "2"]);
    ask(&server, "127.0.0.2", "web.shop.svc.cluster.local.", 60);
    ask(&server, "127.0.0.3", "nope.SHOP.svc.cluster.local.", 30);
    ask(&server, "127.0.0.4", ATTACK, 9);
    ask(&server, "127.0.0.4", "x.dead.example.", 1);

    let (status, output, errors) = top(&server, &["-json"]);
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!((&report["queries"], &report["missed"], &report["one_in"]), (&100.into(), &0.into(), &1.into()));
    assert_eq!(rows(&report, "client"), ["127.0.0.2 60", "127.0.0.3 30", "127.0.0.4 10"]);
    assert_eq!(report["lists"]["client"][0]["pod"], "shop/web-1");
    assert_eq!(report["lists"]["client"][0]["share"], 0.6);
    assert_eq!(rows(&report, "pod"), ["shop/web-1 60", "batch/job-1 30"]);
    assert_eq!(rows(&report, "namespace"), ["shop 60", "batch 30"]);
    let names = rows(&report, "name");
    assert_eq!(names[..2], ["web.shop.svc.cluster.local. A 60", "nope.shop.svc.cluster.local. A 30"]);
    assert!(names[2].starts_with("<script>alert") && names[2].ends_with(" 9"), "{names:?}");
    assert_eq!(rows(&report, "rcode"), ["NOERROR 60", "NXDOMAIN 39", "SERVFAIL 1"]);
    assert_eq!(rows(&report, "reason")[0], "no-such-service 39");

    // A table, once, since standard output is no terminal.
    let (status, output, _) = top(&server, &["-by", "pod", "-n", "1"]);
    assert_eq!(status, Some(0));
    assert!(output.starts_with("last minute (") && output.contains(" s): 100 queries, "), "{output}");
    assert!(
        output.contains("\n\nPOD            QUERIES    SHARE      PER S\nshop/web-1          60   60.0 %  "),
        "{output}"
    );
    assert!(!output.contains("batch") && !output.contains('\x1b'), "{output}");

    let at = server.page("prometheus");
    let (status, page) = get(at, "/");
    assert_eq!(status, 200);
    assert!(page.contains("&lt;script&gt;alert") && !page.contains("<script"), "{page}");
    for text in [
        "<b class=\"good\">serving</b>",
        "<td>Pod</td><td class=\"good\">synced</td>",
        "127.0.0.2 <span class=\"dim\">shop/web-1</span>",
        "connection refused</td>",
        "<a href=\"/top\">/top</a><a href=\"/metrics\">/metrics</a>",
    ] {
        assert!(page.contains(text), "{text} in {page}");
    }
    let (status, text) = get(at, "/top?by=namespace&window=hour&n=1");
    assert_eq!(status, 200);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((rows(&report, "namespace"), &report["window"]), (vec!["shop 60".to_owned()], &"hour".into()));
    let (status, text) = get(at, "/top?by=n%61mespace&window=hour&n=1");
    let decoded: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (status, rows(&decoded, "namespace"), &decoded["window"]),
        (200, vec!["shop 60".to_owned()], &"hour".into())
    );
    assert_eq!(get(at, "/top?by=pods").0, 400);
    // Both pages can be read only, and are not stored; those of CoreDNS answer as in CoreDNS.
    for path in ["/", "/top"] {
        let (head, _) = request(at, "GET", path);
        assert!(head.contains("cache-control: no-store") && head.contains("nosniff"), "{head}");
        let (head, _) = request(at, "DELETE", path);
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("allow: GET, HEAD"), "{head}");
    }
    let (head, _) = request(at, "DELETE", "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("no-store"), "{head}");

    let (_, metrics) = get(at, "/metrics");
    let start = "clusterdns_top_queries_per_second{by=";
    let shown: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix(start)).collect();
    assert!(
        shown.iter().any(|line| line.starts_with("\"client\",key=\"127.0.0.2\",pod=\"shop/web-1\"} ")),
        "{shown:?}"
    );
    assert_eq!(shown.iter().filter(|line| line.starts_with("\"client\"")).count(), 2, "{shown:?}");
    // The listener for probes has no page for people.
    assert_eq!(get(server.page("health"), "/").0, 404);
}

#[test]
fn a_server_that_does_not_count_says_so() {
    let server = start("top-off", &["-top=false"]);
    let (status, output, errors) = top(&server, &[]);
    assert_eq!((status, output.as_str()), (Some(1), ""));
    assert_eq!(errors, "this server was started with -top=false, and does not count\n");
    let at = server.page("prometheus");
    assert_eq!(get(at, "/top").0, 404);
    let (status, page) = get(at, "/");
    assert!(status == 200 && !page.contains("of the last minute") && !page.contains("href=\"/top\""), "{page}");
}

#[test]
fn bad_input_is_one_line_and_status_1() {
    for (words, message) in [
        (vec!["top", "-server", "1"], "no clusterdns server with process ID 1 runs here\n"),
        (vec!["top", "-by", "names"], "-by: 'names' is not client, pod, "),
        (vec!["top", "x"], "unexpected 'x'; usage: clusterdns top [flags]\n"),
    ] {
        let (status, output, errors) = status_and_output(&run(&words));
        assert_eq!((status, output.as_str(), errors.lines().count()), (Some(1), "", 1), "{words:?}");
        assert!(errors.starts_with(message), "{errors}");
    }
}
