//! A real Prometheus scrapes the program, and evaluates the alert rules and the queries of the dashboard of `deploy`.

mod running;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use running::{Running, TIMEOUT, file, folder};
use serde_json::Value;

/// A process that is killed when this is dropped.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests a page of Prometheus's API. Returns `None` while it starts.
fn api(at: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(at).ok()?;
    // HTTP/1.0, so that the response ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| serde_json::from_str(body).expect("JSON"))
}

/// Returns the result of a PromQL query.
fn query(at: SocketAddr, text: &str) -> Option<Value> {
    let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = api(at, &format!("/api/v1/query?query={encoded}"))?;
    assert_eq!(answer["status"], "success", "{text}: {answer}");
    Some(answer["data"]["result"].clone())
}

fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(start.elapsed() < 3 * TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn prometheus_scrapes_it_and_evaluates_the_rules() {
    let folder = folder("scraped");
    let conf = "    bind 127.0.0.1\n    errors\n    prometheus 127.0.0.1:0\n    kubernetes cluster.local\n    cache 30\n    \
                forward . 192.0.2.53\n    reload\n";
    let conf = file(&folder, "Corefile", &format!(".:0 {{\n{conf}}}\n"));
    let server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    let target = server.page("prometheus");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let rules = format!("{}/deploy/prometheus/rules.yaml", env!("CARGO_MANIFEST_DIR"));
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{rules}']\nscrape_configs:\n- job_name: \
         kube-dns\n  static_configs: [{{targets: ['{target}']}}]\n"
    );
    let config = file(&folder, "prometheus.yml", &config);
    let data = folder.join("data");
    let _ = std::fs::remove_dir_all(&data);
    let started = Command::new("prometheus")
        .arg(format!("--config.file={config}"))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={at}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _prometheus = match started {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            println!("not run, since prometheus is not installed");
            return;
        }
        started => KilledOnDrop(started.expect("prometheus")),
    };
    eventually("it scrapes", || query(at, "up{job=\"kube-dns\"} == 1")?.get(0).cloned());
    assert_eq!(server.ask("db.data.svc.cluster.local.").0, 0);
    let counted = eventually("it has counted", || query(at, "coredns_dns_requests_total")?.get(0).cloned());
    assert_eq!((&counted["metric"]["type"], &counted["metric"]["proto"]), (&"A".into(), &"udp".into()), "{counted}");
    let rules = eventually("rules are evaluated", || {
        let rules = api(at, "/api/v1/rules")?["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(rules.len() >= 10, "{rules:?}");
    for rule in &rules {
        assert_eq!((&rule["health"], &rule["state"]), (&"ok".into(), &"inactive".into()), "{rule}");
    }
    let dashboard: Value = serde_json::from_str(include_str!("../deploy/grafana/dashboard.json")).expect("JSON");
    let targets = dashboard["panels"].as_array().expect("panels").iter().flat_map(|panel| panel["targets"].as_array());
    let mut queries = 0;
    for target in targets.flatten() {
        let mut text = target["expr"].as_str().expect("text").replace("$__rate_interval", "5s");
        for variable in ["$namespace", "$job", "$instance"] {
            text = text.replace(variable, ".*");
        }
        query(at, &text).expect("an answer");
        queries += 1;
    }
    assert!(queries > 10, "{queries}");
}
