//! Explanations by a running server, over its local socket.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Output;
use std::time::{Duration, Instant};

use super::CLUSTER;
use super::running::api::Api;
use super::running::upstream::Upstream;
use super::running::{Running, TIMEOUT, file, folder, get, program, run, status_and_output};

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
        ".:0 {{\n    bind 127.0.0.1\n    prometheus 127.0.0.1:0\n    kubernetes cluster.local\n    cache 30\n    dns64\n    \
         hosts {{\n        192.0.2.7 h.example\n        fallthrough\n    }}\n    \
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
            ["coredns_dns_request", "coredns_dns64_", "coredns_cache_", "coredns_forward_", "coredns_proxy_"]
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
    // The way back of a reply has no effect, either.
    let line = first_line(&server, &["explain", "web.shop", "AAAA", "-client", "fd00::1"]);
    assert!(line.contains("64:ff9b::a00:1 (from dns64)"), "{line}");
    for _ in 0..2 {
        let (_, text, _) = status_and_output(&ask(&server, &["explain", "h.example."]));
        assert!(text.contains("cache: has no entry") && text.contains("cache: stores the reply for 30 s"), "{text}");
    }
    assert_eq!(metrics(), before);
    // An upstream is up when it has answered.
    let state = || status_and_output(&ask(&server, &["explain", "other.example."])).1;
    assert!(state().contains(&format!("{} (DNS): state not known, it has answered no query yet\n", upstream.at())));
    // A cached denial.
    assert_eq!(server.ask("nothing.example.").0, 0);
    let line = first_line(&server, &["explain", "nothing.example."]);
    assert!(line.contains("NODATA: the answer NODATA is from the cache, 0 s old, valid for another"), "{line}");
    assert!(state().contains(&format!("{} (DNS): up, no failed health check\n", upstream.at())), "{}", state());
    // Queries fail, and then health checks.
    assert_eq!(server.ask("a.dead.example.").0, 2);
    let (_, text, _) = status_and_output(&ask(&server, &["explain", "a.dead.example."]));
    assert!(text.contains("SERVFAIL: the answer SERVFAIL is from the cache, 0 s old, valid for another"), "{text}");
    assert!(text.contains(&format!("; the upstreams: {dead} (DNS): ")), "{text}");
    assert!(text.contains(&format!("\n  forward: upstream {dead} (DNS): ")), "{text}");
    let command = format!("dig @127.0.0.1 -p {} a.dead.example. A\n", dead.port());
    assert!(text.contains(&command), "{text}");
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
    let flags = "(-conf Corefile.example -manifests tests/data/explain/cluster.yaml";
    assert!(processes.iter().all(|process| errors.contains(&format!("{process} {flags}"))), "{errors}");
    assert!(first_line(&second, &["explain", "web.shop"]).contains("10.0.0.1"));
}

/// Connections with half a question take all places. Others learn that, and get answers when the time of the slow
/// clients is over.
#[test]
fn slow_clients_of_the_socket_are_not_waited_for() {
    let server = Running::start(&["-conf", "Corefile.example", "-manifests", CLUSTER]);
    let process = server.child.id();
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
    let end = format!("/{process}");
    let mut names = sockets.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    let name = names.find(|name| name.ends_with(&end)).expect("the socket of the server");
    let address = SocketAddr::from_abstract_name(name).expect("a name");
    let slow: Vec<UnixStream> = (0..4)
        .map(|_| {
            let mut stream = UnixStream::connect_addr(&address).expect("connected");
            stream.write_all(b"{").expect("sent");
            stream
        })
        .collect();
    let (status, output, errors) = status_and_output(&ask(&server, &["explain", "web.shop"]));
    let busy = "the server is busy with other questions: try again\n";
    assert_eq!((status, output.as_str(), errors.as_str()), (Some(1), "", busy));
    eventually("the slow clients have had their time", || {
        status_and_output(&ask(&server, &["explain", "web.shop"])).1.contains("10.0.0.1")
    });
    drop(slow);
}
