//! The pages of the program (`/metrics`, `/health`, `/ready`), and its behaviour at signals that stop it.

mod running;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use running::{Running, TIMEOUT, file, folder, get, run, status_and_output};

/// A block with every page, on free ports.
const COREFILE: &str = "
.:0 {
    bind 127.0.0.1
    errors
    prometheus 127.0.0.1:0
    health 127.0.0.1:0 {
        lameduck 1s
    }
    ready 127.0.0.1:0
    kubernetes cluster.local in-addr.arpa ip6.arpa
}
";

fn start(name: &str, corefile: &str) -> Running {
    let conf = file(&folder("operations"), name, corefile);
    Running::start(&["-conf", &conf, "-manifests", "deploy/sample"])
}

#[test]
fn pages_show_the_state_of_the_server() {
    let server = start("pages", COREFILE);
    let [metrics, health, ready] = ["prometheus", "health", "ready"].map(|directive| server.page(directive));
    assert_eq!(get(health, "/health"), (200, "OK".to_owned()));
    assert_eq!(get(ready, "/ready"), (200, "OK".to_owned()));
    for (address, path) in
        [(metrics, "/x"), (health, "/"), (metrics, "/health"), (health, "/ready"), (ready, "/metrics")]
    {
        assert_eq!(get(address, path), (404, "404 page not found\n".to_owned()), "{path}");
    }
    for _ in 0..3 {
        assert_eq!(server.ask("web.shop.svc.cluster.local.").0, 0);
    }
    assert_eq!(server.ask("web.nowhere.svc.cluster.local.").0, 3);
    // No plugin answers it.
    assert_eq!(server.ask("example.org.").0, 2);
    let (status, text) = get(metrics, "/metrics");
    assert_eq!(status, 200);
    let of = "server=\"dns://127.0.0.1:0\",";
    for line in [
        format!("coredns_dns_requests_total{{family=\"1\",proto=\"udp\",{of}type=\"A\",view=\"\",zone=\".\"}} 5"),
        format!("coredns_dns_responses_total{{plugin=\"errors\",rcode=\"NOERROR\",{of}view=\"\",zone=\".\"}} 3"),
        format!("coredns_dns_responses_total{{plugin=\"errors\",rcode=\"NXDOMAIN\",{of}view=\"\",zone=\".\"}} 1"),
        format!("coredns_dns_responses_total{{plugin=\"\",rcode=\"SERVFAIL\",{of}view=\"\",zone=\".\"}} 1"),
        format!("coredns_dns_request_duration_seconds_count{{{of}view=\"\",zone=\".\"}} 5"),
        format!("coredns_plugin_enabled{{name=\"kubernetes\",{of}view=\"\",zone=\".\"}} 1"),
        "coredns_panics_total 0".to_owned(),
        "clusterdns_log_dropped_lines_total 0".to_owned(),
        "coredns_build_info{goversion=\"\",revision=\"\",version=\"clusterdns-0.1.0\"} 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.contains("\ncoredns_health_request_failures_total 0\n"), "{text}");
}

/// The families that CoreDNS 1.15.0 prints for these directives, except those about Go.
#[test]
fn families_are_those_of_coredns() {
    const MISSING: &[&str] = &[
        // Appears after the first query with DO.
        "coredns_dns_do_requests_total",
        // Needs the directive.
        "coredns_hosts_entries",
    ];
    let server = start("families", COREFILE);
    assert_eq!(server.ask("web.shop.svc.cluster.local.").0, 0);
    let (_, text) = get(server.page("prometheus"), "/metrics");
    let printed = include_str!("../src/plugins/prometheus/coredns-1.15.0.txt");
    let types = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ").map(str::to_owned)).collect()
    };
    let ours = types(&text);
    let missing: Vec<String> = types(printed).into_iter().filter(|line| !ours.contains(line)).collect();
    let missing: Vec<&str> = missing.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(missing, MISSING);
}

#[test]
fn sigterm_makes_it_unready_before_it_stops() {
    let mut server = start("lameduck", COREFILE);
    let [health, ready] = ["health", "ready"].map(|directive| server.page(directive));
    assert_eq!(get(ready, "/ready").0, 200);
    let start = Instant::now();
    server.signal("-TERM");
    while get(ready, "/ready") != (503, "Shutting down".to_owned()) {
        assert!(start.elapsed() < Duration::from_secs(1), "/ready is 503 at once");
    }
    assert_eq!(get(health, "/health"), (200, "OK".to_owned()));
    assert_eq!(server.ask("web.shop.svc.cluster.local.").0, 0);
    assert_eq!(server.wait(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1), "it has waited");
}

/// B06, B07: the API server does not answer.
#[test]
fn a_server_without_its_cluster_lives_and_is_not_ready() {
    // It accepts connections and does not respond.
    let unanswering = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let endpoint = unanswering.local_addr().expect("an address");
    let stanza = format!("cluster.local {{\n        endpoint http://{endpoint}\n        startup_timeout 100ms\n    }}");
    let corefile = COREFILE.replace("cluster.local in-addr.arpa ip6.arpa", &stanza);
    let conf = file(&folder("operations"), "waits", &corefile);
    let server = Running::start(&["-conf", &conf]);
    assert_eq!(get(server.page("health"), "/health"), (200, "OK".to_owned()));
    let (status, body) = get(server.page("ready"), "/ready");
    assert_eq!((status, body.as_str()), (503, "kubernetes\nkubernetes: Namespace, Service, EndpointSlice"));
    // The first lines are those of the pages, which open before the server waits for the cluster.
    let first = server.lines.iter().position(|line| line.contains("listening at")).expect("a page");
    let waits = server.lines.iter().position(|line| line.contains("waiting for Kubernetes API"));
    assert!(waits.is_none_or(|waits| first < waits), "{:?}", server.lines);
}

/// A timer of a plugin is started by a thread without a runtime, and polled by one with it.
#[test]
fn a_delayed_response_is_sent_over_udp() {
    let conf = file(&folder("operations"), "delayed", ".:0 {\n    erratic {\n        delay 1 20ms\n    }\n}\n");
    let server = Running::start(&["-conf", &conf]);
    assert_eq!(server.ask("name.example."), (0, vec!["192.0.2.53".to_owned()]));
}

#[test]
fn signals_stop_it_as_they_stop_coredns() {
    let long = COREFILE.replace("lameduck 1s", "lameduck 1h");
    // The first signal waits for lameduck, and the server answers meanwhile; a second SIGINT does not wait.
    for first in ["-TERM", "-INT"] {
        let mut server = start("interrupt", &long);
        server.signal(first);
        while get(server.page("ready"), "/ready").0 != 503 {}
        if first == "-TERM" {
            server.signal("-INT");
        }
        assert_eq!(server.ask("web.shop.svc.cluster.local.").0, 0, "{first}");
        // The kernel merges two signals that arrive at once.
        std::thread::sleep(Duration::from_millis(100));
        server.signal("-INT");
        assert_eq!(server.wait(), Some(2), "{first}");
    }
    let mut server = start("interrupt", COREFILE);
    let begin = Instant::now();
    server.signal("-INT");
    assert_eq!(server.wait(), Some(0));
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    // SIGQUIT waits for nothing.
    for first in [None, Some("-TERM")] {
        let mut server = start("interrupt", &long);
        first.iter().for_each(|signal| server.signal(signal));
        server.signal("-QUIT");
        assert_eq!(server.wait(), Some(0));
    }
}

#[test]
fn blocks_share_an_address_and_a_conflict_is_an_error() {
    let folder = folder("operations");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("an address");
    for directive in ["health", "ready", "prometheus"] {
        let conf = file(&folder, "taken", &format!(".:0 {{\n    {directive} {address}\n    whoami\n}}\n"));
        let (status, _, errors) = status_and_output(&run(&["-conf", &conf]));
        assert_eq!(status, Some(1));
        assert_eq!(errors, format!("plugin/{directive}: listen tcp {address}: address already in use\n"));
    }
    drop(taken);
    let directives = format!("health {address}\n    ready {address}\n    prometheus {address}\n    whoami");
    let two = format!(".:0 {{\n    {directives}\n}}\na.example:0 {{\n    {directives}\n}}\n");
    let server = start("shared", &two);
    for path in ["/health", "/ready", "/metrics"] {
        assert_eq!(get(address, path).0, 200, "{path}");
    }
    let (_, text) = get(address, "/metrics");
    assert!(
        text.contains("coredns_plugin_enabled{name=\"whoami\",server=\"dns://:0\",view=\"\",zone=\"a.example.\"} 1")
    );
    drop(server);
}

/// `openssl` creates the certificates and is the client; without it the test does nothing.
#[test]
fn metrics_over_tls() {
    let folder = folder("operations-tls");
    let openssl = |words: &str| {
        let mut command = std::process::Command::new("openssl");
        command.args(words.split(' ')).current_dir(&folder).stdin(std::process::Stdio::null());
        command.output()
    };
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
                -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem";
    if !openssl(make).is_ok_and(|output| output.status.success()) {
        return;
    }
    // A self-signed certificate is not accepted from a client.
    let client = "req -x509 -CA cert.pem -CAkey key.pem -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
                  -subj /CN=client -addext basicConstraints=critical,CA:FALSE -keyout client-key.pem -out client.pem";
    assert!(openssl(client).is_ok_and(|output| output.status.success()));
    let web = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";
    let path = file(&folder, "web.yml", web);
    let stanza = format!("prometheus 127.0.0.1:0 {{\n        tls {path}\n    }}");
    let corefile = format!(".:0 {{\n    {stanza}\n    whoami\n}}\n");
    let conf = file(&folder, "Corefile", &corefile);
    let ask = |server: &Running, more: &str| {
        let at = server.page("prometheus");
        let mut command = std::process::Command::new("openssl");
        let words = format!("s_client -quiet -no_ign_eof -verify_return_error -CAfile cert.pem -connect {at}{more}");
        command.args(words.split(' ')).current_dir(&folder);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("openssl runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut stdin, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        // openssl would exit before the response if its input ended.
        let mut answer = String::new();
        let mut stdout = child.stdout.take().expect("a pipe");
        let _ = std::io::Read::read_to_string(&mut stdout, &mut answer);
        drop(stdin);
        let _ = child.wait();
        answer
    };
    let server = Running::start(&["-conf", &conf]);
    let answer = ask(&server, "");
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("coredns_build_info"), "{answer}");
    drop(server);
    // Clients must show a certificate.
    let clients = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n";
    file(&folder, "web.yml", &format!("{web}{clients}"));
    let server = Running::start(&["-conf", &conf]);
    assert_eq!(ask(&server, ""), "");
    assert!(ask(&server, " -cert client.pem -key client-key.pem").contains("coredns_build_info"));
    drop(server);
    file(&folder, "web.yml", "basic_auth_users:\n  a: b\n");
    let (status, _, errors) = status_and_output(&run(&["-conf", &conf]));
    assert_eq!((status, errors.lines().count()), (Some(1), 1), "{errors}");
    assert!(errors.starts_with("plugin/prometheus: tls: ") && errors.contains("basic_auth_users"), "{errors}");
}

#[test]
fn a_check_reports_errors_of_pages() {
    let stanzas = "
. {
    health 8080
    ready {
        monitor always
    }
    prometheus {
        tsl web.yml
    }
    prometheus
}
";
    let conf = file(&folder("operations"), "bad", stanzas);
    let (status, text, _) = status_and_output(&run(&["-check", "-conf", &conf]));
    assert_eq!(status, Some(1));
    for part in [
        "plugin/health: address 8080: missing port in address",
        "expected: an address and port such as :8080 or 127.0.0.1:8080",
        "plugin/ready: unexpected 'always'",
        "plugin/prometheus: unknown property 'tsl'",
        "did you mean 'tls'?",
        "plugin/prometheus: this plugin can only be used once per Server Block",
        "4 errors, 0 warnings",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// N41: an address without a host is served on both families, as Go's `:PORT`.
#[test]
fn pages_are_there_on_both_families() {
    let port = running::port_free_everywhere();
    let corefile = format!(".:0 {{\n    bind 127.0.0.1\n    health :{port}\n    ready :{port}\n    whoami\n}}\n");
    let _server = start("families-of-pages", &corefile);
    for host in ["127.0.0.1", "::1"] {
        let at = std::net::SocketAddr::new(host.parse().expect("an address"), port);
        assert_eq!((get(at, "/health").0, get(at, "/ready").0), (200, 200), "{host}");
    }
}

/// The commands of *on* run at the start and at the stop, while queries are answered.
#[test]
fn commands_run_at_the_start_and_at_the_stop() {
    let folder = folder("on");
    let path = |name: &str| folder.join(name).display().to_string();
    for name in ["started", "stopped", "never"] {
        let _ = std::fs::remove_file(path(name));
    }
    let corefile = format!(
        ".:0 {{
    bind 127.0.0.1
    on startup clusterdns-no-such-command
    on startup touch {started}
    on startup sleep 5 &
    on shutdown touch {stopped}
    on shutdown sleep 8
    on shutdown touch {never}
    whoami
}}
",
        started = path("started"),
        stopped = path("stopped"),
        never = path("never")
    );
    let mut server = start("on", &corefile);
    let exists = |name: &str| {
        let since = Instant::now();
        while !folder.join(name).exists() {
            assert!(since.elapsed() < TIMEOUT, "{name} was not made");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    exists("started");
    assert_eq!(server.ask("x.test.").0, 0);
    server.signal("-TERM");
    exists("stopped");
    // Queries are answered while the second command runs.
    assert_eq!(server.ask("x.test.").0, 0);
    // SIGQUIT does not wait for it.
    server.signal("-QUIT");
    assert_eq!(server.wait(), Some(0));
    assert!(!folder.join("never").exists());
    let log = server.lines.concat() + &server.log();
    assert!(log.contains("cannot run \"clusterdns-no-such-command\""), "{log}");
}

/// N45: of several lameducks the longest counts, and all pages and DNS are served until then.
#[test]
fn the_longest_lameduck_counts() {
    let block = |zone: &str, lameduck: &str| {
        format!("{zone}:0 {{\n    bind 127.0.0.1\n    health 127.0.0.1:0 {lameduck}\n    whoami\n}}\n")
    };
    let corefile = [
        block(".", "{\n        lameduck 200ms\n    }"),
        block("a.example", "{\n        lameduck 1s\n    }"),
        block("b.example", ""),
    ]
    .concat();
    let mut server = start("lameducks", &corefile);
    let pages: Vec<std::net::SocketAddr> = server
        .lines
        .iter()
        .filter_map(|line| line.strip_prefix("[INFO] plugin/health: listening at ")?.trim().parse().ok())
        .collect();
    assert_eq!(pages.len(), 3);
    let start = Instant::now();
    server.signal("-TERM");
    while start.elapsed() < Duration::from_millis(600) {
        for page in &pages {
            assert_eq!(get(*page, "/health").0, 200);
        }
        assert_eq!(server.ask("x.example.").0, 0);
    }
    assert_eq!(server.wait(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(server.log().contains("Going into lameduck mode for 1s"), "{}", server.log());
}
