//! Reloads while the program serves: a valid Corefile replaces the one in use without a lost query, an invalid one
//! changes nothing, and no resource leaks.

mod running;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use running::api::Api;
use running::upstream::{Upstream, query};
use running::{Running, TIMEOUT, file, folder, get, port_free_everywhere};

/// Waits until a condition holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server, and the ports in its Corefiles.
struct Subject {
    server: Running,
    conf: String,
    dns: u16,
    pages: u16,
}

impl Subject {
    fn start(name: &str, extra: &str) -> Subject {
        let dns = port_free_everywhere();
        let pages = port_free_everywhere();
        let folder = folder("reloading");
        let conf = file(&folder, name, &corefile(dns, pages, extra));
        let server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
        Subject { server, conf, dns, pages }
    }

    /// Replaces the Corefile.
    fn write(&self, extra: &str) {
        std::fs::write(&self.conf, corefile(self.dns, self.pages, extra)).expect("a file");
    }

    fn reload(&self) {
        self.server.signal("-USR1");
    }

    fn page(&self, path: &str) -> (u16, String) {
        get(SocketAddr::from(([127, 0, 0, 1], self.pages)), path)
    }

    /// Returns the value of a metric without labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.page("/metrics").1;
        let line = text.lines().find(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b' ');
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
    }

    /// Returns whether `name.example.` has this address.
    fn has(&self, address: &str) -> bool {
        self.server.ask("name.example.").1 == [address]
    }
}

/// Returns a Corefile with pages and these lines.
fn corefile(dns: u16, pages: u16, extra: &str) -> String {
    format!(
        ".:{dns} {{\n    bind 127.0.0.1\n    errors\n    prometheus 127.0.0.1:{pages}\n    ready 127.0.0.1:{pages}\n    \
         health 127.0.0.1:{pages}\n    kubernetes cluster.local\n    cache 30\n    forward . 127.0.0.1:9\n{extra}}}\n"
    )
}

/// Returns a *hosts* stanza with `name.example.` and its address.
fn name(address: &str) -> String {
    format!("    hosts {{\n        {address} name.example\n        fallthrough\n    }}\n")
}

/// E04
/// An emptied or removed Corefile is reported once it has been so for two checks, and changes nothing.
#[test]
fn a_corefile_that_stays_empty_is_reported_once() {
    let subject = Subject::start("emptied", "    reload 2s 0s\n    hosts {\n        192.0.2.1 name.example\n    }\n");
    std::fs::write(&subject.conf, "# nothing\n").expect("a file");
    let reported = format!("reload failed: {} has no server block; the configuration is unchanged", subject.conf);
    eventually("reported", || subject.server.log().contains(&reported));
    assert_eq!(subject.metric("coredns_reload_failed_total"), 1.0);
    assert!(subject.has("192.0.2.1"));
    std::fs::remove_file(&subject.conf).expect("removed");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(subject.server.log().matches("has no server block").count(), 1);
    subject.write("    reload 2s 0s\n    hosts {\n        192.0.2.2 name.example\n    }\n");
    eventually("reloaded", || subject.has("192.0.2.2"));
}

#[test]
fn valid_corefiles_are_applied_and_invalid_ones_are_not() {
    let subject = Subject::start("good", &name("10.0.0.1"));
    assert!(subject.has("10.0.0.1"));
    subject.write(&name("10.0.0.2"));
    subject.reload();
    eventually("the second is in use", || subject.has("10.0.0.2"));
    assert_eq!(subject.metric("coredns_reload_failed_total"), 0.0);
    // Errors of every stage: an unknown directive, a missing file, a port in use.
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("an address").port();
    let taken_page = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let page = taken_page.local_addr().expect("an address");
    let bad = [
        "    cahce\n".to_owned(),
        "    forward . 127.0.0.1 {\n        tls /nowhere.pem\n    }\n".to_owned(),
        format!("}}\nother.example:{port} {{\n    bind 127.0.0.1\n    whoami\n"),
        "    }}}\n".to_owned(),
        // An empty file: an editor has truncated it and is going to write it.
        String::new(),
        format!("}}\nx.example:{} {{\n    bind 127.0.0.1\n    prometheus {page}\n    whoami\n", subject.dns),
    ];
    for (count, lines) in bad.iter().enumerate() {
        if lines.is_empty() {
            std::fs::write(&subject.conf, "# Wait.\n").expect("a file");
        } else {
            subject.write(&format!("{}{lines}", name("10.0.0.3")));
        }
        subject.reload();
        let failed = (count + 1) as f64;
        eventually("a bad one is counted", || subject.metric("coredns_reload_failed_total") == failed);
        assert!(subject.has("10.0.0.2"), "{lines}");
        assert_eq!(subject.page("/ready").0, 200);
    }
    // Each has a line of its own, with its place if it has one.
    let count = || subject.server.log().lines().filter(|line| line.starts_with("[ERROR]")).count();
    eventually("each is logged", || count() >= bad.len());
    let log = subject.server.log();
    let faults: Vec<&str> = log.lines().filter(|line| line.starts_with("[ERROR]")).collect();
    assert_eq!(faults.len(), bad.len(), "{log}");
    let start = format!("[ERROR] SIGUSR1: reload failed: {}:", subject.conf);
    assert!(faults[0].starts_with(&start) && faults[0].ends_with("'cahce'; did you mean 'cache'?"), "{}", faults[0]);
    assert!(faults[1].contains("cannot read /nowhere.pem") && faults[2].contains("address already in use"), "{log}");
    // A valid Corefile after them is applied.
    subject.write(&name("10.0.0.4"));
    subject.reload();
    eventually("the last is in use", || subject.has("10.0.0.4"));
    assert_eq!(subject.server.ask("db.data.svc.cluster.local.").0, 0);
}

/// Blocks that select their queries are replaced like others, and their metrics have the name of the view.
#[test]
fn views_are_reloaded_and_named_in_metrics() {
    let (dns, pages) = (port_free_everywhere(), port_free_everywhere());
    let block = |view: &str, address: &str| {
        format!(
            ".:{dns} {{\n    bind 127.0.0.1\n{view}    prometheus 127.0.0.1:{pages}\n    ready 127.0.0.1:{pages}\n    \
             cache 30\n{}}}\n",
            name(address)
        )
    };
    let blocks = |view: &str, expression: &str| {
        let view = format!("    view {view} {{\n        expr {expression}\n    }}\n");
        block(&view, "192.0.2.1") + &block("", "192.0.2.2")
    };
    let conf = file(&folder("reloading"), "views", &blocks("office", "client_ip() == '127.0.0.1'"));
    let subject = Subject { server: Running::start(&["-conf", &conf]), conf, dns, pages };
    let has = |metric: &str, view: &str| {
        let (text, view) = (subject.page("/metrics").1, format!("view=\"{view}\""));
        text.lines().any(|line| line.starts_with(metric) && line.contains(&view))
    };
    assert!(subject.has("192.0.2.1") && subject.page("/ready").0 == 200);
    for metric in ["coredns_dns_requests_total", "coredns_cache_requests_total", "coredns_plugin_enabled{name=\"view\""]
    {
        assert!(has(metric, "office"), "{metric}: {}", subject.page("/metrics").1);
    }
    std::fs::write(&subject.conf, blocks("site", "client_ip() == '192.0.2.77'")).expect("a file");
    subject.reload();
    eventually("the other block answers", || subject.has("192.0.2.2"));
    assert_eq!(subject.page("/ready").0, 200);
    assert!(has("coredns_plugin_enabled", "site") && !has("coredns_plugin_enabled", "office"));
    assert!(has("coredns_dns_requests_total", "") && !has("coredns_dns_requests_total", "site"));
    // A view that cannot be compiled changes nothing.
    std::fs::write(&subject.conf, blocks("broken", "no_such_function()")).expect("a file");
    subject.reload();
    eventually("the reload fails", || subject.metric("coredns_reload_failed_total") == 1.0);
    assert!(subject.has("192.0.2.2") && has("coredns_plugin_enabled", "site"));
}

#[test]
fn a_file_that_changes_is_noticed_as_configmaps_change() {
    let dns = port_free_everywhere();
    let pages = port_free_everywhere();
    let folder = folder("reloading-map");
    // As kubelet mounts it: Corefile → ..data/Corefile, ..data → a directory; a rename replaces ..data.
    let version = |name: &str, address: &str| {
        std::fs::create_dir_all(folder.join(name)).expect("a folder");
        let extra = format!("    reload 2s 0s\n{}", self::name(address));
        file(&folder.join(name), "Corefile", &corefile(dns, pages, &extra));
    };
    let link = |target: &str, name: &str| {
        let _ = std::fs::remove_file(folder.join(name));
        std::os::unix::fs::symlink(target, folder.join(name)).expect("a link");
    };
    version("..1", "10.0.0.1");
    link("..1", "..data");
    link("..data/Corefile", "Corefile");
    let conf = folder.join("Corefile").display().to_string();
    let server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    assert_eq!(server.ask("name.example.").1, ["10.0.0.1"]);
    version("..2", "10.0.0.2");
    link("..2", "..data_tmp");
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("renamed");
    eventually("the change is noticed", || server.ask("name.example.").1 == ["10.0.0.2"]);
}

#[test]
fn sockets_are_opened_and_closed() {
    let subject = Subject::start("sockets", "");
    let other = port_free_everywhere();
    let block = format!("}}\nother.example:{other} {{\n    bind 127.0.0.1\n    whoami\n");
    let at = SocketAddr::from(([127, 0, 0, 1], other));
    for _ in 0..3 {
        subject.write(&block);
        subject.reload();
        eventually("another port is served", || is_served(at));
        subject.write("");
        subject.reload();
        eventually("it is closed", || UdpSocket::bind(at).is_ok() && TcpListener::bind(at).is_ok());
        assert_eq!(subject.server.ask("db.data.svc.cluster.local.").0, 0);
    }
}

/// A block that a reload removes answers its pending queries, including those in flight, and its port can be bound
/// again at once.
#[test]
fn a_removed_block_answers_its_pending_queries() {
    const QUERIES: u16 = 50;
    let subject = Subject::start("goes", &name("10.0.0.1"));
    let upstream = Upstream::start();
    let other = port_free_everywhere();
    let block = |directive: &str| format!("}}\nother.example:{other} {{\n    bind 127.0.0.1\n    {directive}\n");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    client.connect(("127.0.0.1", other)).expect("an address");
    subject.write(&format!("{}{}", name("10.0.0.2"), block(&format!("forward . {}", upstream.at()))));
    subject.reload();
    eventually("the block is there", || subject.has("10.0.0.2"));
    for id in 0..QUERIES {
        client.send(&query(id, &format!("slow-{id}.other.example."))).expect("sent");
    }
    eventually("they are in flight", || upstream.held_names() == usize::from(QUERIES));
    subject.write(&name("10.0.0.3"));
    subject.reload();
    eventually("it is gone", || subject.has("10.0.0.3"));
    // Another block needs the port while queries are still pending.
    subject.write(&format!("{}{}", name("10.0.0.4"), block("whoami")));
    subject.reload();
    eventually("the reload has begun", || subject.server.log().matches("SIGUSR1: Reloading").count() == 3);
    upstream.release();
    let mut ids: Vec<u16> = (0..QUERIES)
        .map(|_| {
            let mut answer = [0; 512];
            client.recv(&mut answer).expect("an answer");
            assert_eq!(answer[3] & 15, 0, "no failure");
            u16::from_be_bytes([answer[0], answer[1]])
        })
        .collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..QUERIES));
    eventually("the port is in use again", || subject.has("10.0.0.4"));
    assert!(is_served(SocketAddr::from(([127, 0, 0, 1], other))));
    assert_eq!(subject.metric("coredns_reload_failed_total"), 0.0);
}

/// Returns whether a server responds at an address.
fn is_served(at: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x05other\x07example\0\0\x01\0\x01";
    socket.connect(at).is_ok() && socket.send(query).is_ok() && socket.recv(&mut [0; 512]).is_ok()
}

/// E02, E06
#[test]
fn nothing_is_lost_and_nothing_is_left_behind() {
    // Each round has another address than the one before, which shows when the reload is complete.
    let subject = Subject::start("load", &name("10.0.0.2"));
    let stopped = Arc::new(AtomicBool::new(false));
    let queries = AtomicUsize::new(0);
    let unready = AtomicUsize::new(0);
    let at = subject.server.at;
    let count = |path: &str| {
        std::fs::read_dir(Path::new("/proc").join(subject.server.child.id().to_string()).join(path))
            .map_or(0, Iterator::count)
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
                socket.connect(at).expect("an address");
                let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02db\x04data\x03svc\x07cluster\x05local\0\0\x01\0\x01";
                let mut answer = [0; 512];
                while !stopped.load(Ordering::Relaxed) {
                    socket.send(query).expect("sent");
                    let len = socket.recv(&mut answer).expect("a response to every query");
                    assert!(len > query.len() && answer[3] & 15 == 0, "{:?}", &answer[..len]);
                    queries.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                unready.fetch_add(usize::from(subject.page("/ready").0 != 200), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut early = None;
        for round in 0..60 {
            let address = format!("10.0.0.{}", round % 2 + 1);
            subject.write(&name(&address));
            subject.reload();
            eventually("it is in use", || subject.has(&address));
            subject.write("    unknown\n");
            let failed = subject.metric("coredns_reload_failed_total");
            subject.reload();
            eventually("a bad one is counted", || subject.metric("coredns_reload_failed_total") > failed);
            if round == 5 {
                early = Some((count("fd"), count("task")));
            }
        }
        stopped.store(true, Ordering::Relaxed);
        let (descriptors, threads) = early.expect("rounds");
        eventually("descriptors are closed", || count("fd") <= descriptors + 4);
        // Some threads that read files exit only when they are idle.
        eventually("threads exit", || count("task") <= threads + 4);
    });
    assert!(queries.load(Ordering::Relaxed) > 100);
    assert_eq!(unready.load(Ordering::Relaxed), 0, "it was unready at some time");
}

/// The wildcard address and one address overlap. Queries to an address that is served before and after a reload are all
/// answered.
#[test]
fn addresses_of_one_port_may_overlap() {
    let dns = port_free_everywhere();
    let pages = port_free_everywhere();
    let folder = folder("reloading-overlap");
    let corefile = |bind: &str, page: &str, address: &str| {
        format!(
            ".:{dns} {{\n{bind}    errors\n    health {page}:{pages}\n{}    kubernetes cluster.local\n}}\n",
            name(address)
        )
    };
    let conf = file(&folder, "Corefile", &corefile("    bind 127.0.0.1\n", "127.0.0.1", "10.0.0.1"));
    let server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    let stopped = AtomicBool::new(false);
    let queries = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // A client with one socket, and one with a new socket for each query.
        for reuses_socket in [true, false] {
            let stopped = &stopped;
            let queries = &queries;
            scope.spawn(move || {
                let client = || {
                    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
                    client.connect(("127.0.0.1", dns)).expect("an address");
                    client
                };
                let mut socket = client();
                for id in 0.. {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    if !reuses_socket {
                        socket = client();
                    }
                    socket.send(&query(id, "db.data.svc.cluster.local.")).expect("sent");
                    let mut answer = [0; 512];
                    socket.recv(&mut answer).expect("a response to every query");
                    assert_eq!((&answer[..2], answer[3] & 15), (&id.to_be_bytes()[..], 0));
                    queries.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let binds = [
            ("", ""),
            ("    bind 127.0.0.1\n", "127.0.0.1"),
            ("    bind lo\n", ""),
            ("", "127.0.0.1"),
            ("    bind 127.0.0.1 127.0.0.2\n", ""),
            ("", ""),
            ("    bind lo\n", "127.0.0.1"),
        ];
        for (round, (bind, page)) in binds.into_iter().enumerate() {
            let address = format!("10.0.1.{round}");
            std::fs::write(&conf, corefile(bind, page, &address)).expect("a file");
            server.signal("-USR1");
            eventually("it is in use", || server.ask("name.example.").1 == [address.as_str()]);
            // The TCP listener opens after the UDP one.
            eventually("TCP is served", || is_served_over_tcp(dns));
            eventually("pages are served", || get(SocketAddr::from(([127, 0, 0, 1], pages)), "/health").0 == 200);
        }
        let so_far = queries.load(Ordering::Relaxed);
        eventually("queries continue", || queries.load(Ordering::Relaxed) > so_far + 10);
        stopped.store(true, Ordering::Relaxed);
    });
    let log = server.log();
    assert_eq!(log.matches("Reloading complete").count(), 7, "{log}");
}

/// Returns whether a query over TCP gets a response.
fn is_served_over_tcp(port: u16) -> bool {
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let query = query(7, "db.data.svc.cluster.local.");
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
        stream.read(&mut [0; 512])
    };
    ask().is_ok_and(|read| read > 2)
}

/// A reload needs other objects of the cluster while the API server is away.
#[test]
fn the_last_known_cluster_state_answers_until_a_reload_is_synced() {
    let api = Api::start();
    let dns = port_free_everywhere();
    let pages = port_free_everywhere();
    let corefile = |property: &str, address: &str| {
        format!(
            ".:{dns} {{\n    bind 127.0.0.1\n    ready 127.0.0.1:{pages}\n{}    kubernetes cluster.local {{\n        \
             endpoint http://{}\n        startup_timeout 300ms\n        {property}\n    }}\n}}\n",
            name(address),
            api.at
        )
    };
    let conf = file(&folder("reloading-away"), "Corefile", &corefile("pods insecure", "10.0.0.1"));
    let server = Running::start(&["-conf", &conf]);
    let web = || server.ask("web.default.svc.cluster.local.");
    let pod = || server.ask("10-1-2-3.default.pod.cluster.local.").0;
    let known = (0, vec!["10.96.0.5".to_owned()]);
    eventually("the cluster is known", || (web(), pod()) == (known.clone(), 0));
    api.set_away(true);
    // Another kind, other objects, and the same objects again before they are synced.
    for (round, property) in ["pods verified", "labels a=b", "labels a=b\n        ttl 7"].iter().enumerate() {
        let address = format!("10.0.1.{round}");
        std::fs::write(&conf, corefile(property, &address)).expect("a file");
        server.signal("-USR1");
        eventually("it is in use", || server.ask("name.example.").1 == [address.as_str()]);
        assert_eq!(web(), known, "{property}");
        assert_eq!(server.ask("none.default.svc.cluster.local.").0, 3, "{property}");
        assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], pages)), "/ready").0, 200, "{property}");
        if round == 0 {
            assert_eq!(pod(), 2, "Pods were not known before, so that a Pod's name is not denied");
        }
    }
    assert!(server.log().contains("the cluster state from before the reload is served"), "{}", server.log());
    api.set_away(false);
    let settled = "synced with the Kubernetes API after the reload";
    eventually("the new state takes over", || server.log().contains(settled));
    assert_eq!(web(), known);
}

/// SIGTERM arrives while a reload waits for an API server.
#[test]
fn a_slow_reload_does_not_delay_a_stop() {
    let unanswering = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let dns = port_free_everywhere();
    let corefile = |more: &str| format!(".:{dns} {{\n    bind 127.0.0.1\n{}{more}}}\n", name("10.0.0.1"));
    let conf = file(&folder("reloading-slow"), "Corefile", &corefile(""));
    let mut server = Running::start(&["-conf", &conf]);
    let endpoint = unanswering.local_addr().expect("an address");
    let stanza =
        format!("    kubernetes {{\n        endpoint http://{endpoint}\n        startup_timeout 10m\n    }}\n");
    std::fs::write(&conf, corefile(&stanza)).expect("a file");
    server.signal("-USR1");
    eventually("the reload waits", || server.log().contains("waiting for Kubernetes API"));
    assert_eq!(server.ask("name.example.").1, ["10.0.0.1"]);
    server.signal("-TERM");
    assert_eq!(server.wait(), Some(0));
}

/// N40: imported files are parts of the Corefile.
#[test]
fn imported_files_are_followed() {
    let dns = port_free_everywhere();
    let folder = folder("reloading-imports");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("custom")).expect("a folder");
    let text = |address: &str| format!("hosts {{\n    {address} name.example\n    fallthrough\n}}\n");
    let corefile = format!(
        ".:{dns} {{\n    bind 127.0.0.1\n    reload 2s 0s\n    errors\n    import custom/*.override\n    whoami\n}}\n\
         import custom/*.server\n"
    );
    let conf = file(&folder, "Corefile", &corefile);
    let server = Running::start(&["-conf", &conf]);
    let has = |address: &str| server.ask("name.example.").1 == [address];
    assert_eq!(server.ask("name.example."), (0, vec![]), "no file is a match yet");
    // The first match of a glob without a match; another text; an import within an imported file; no match again.
    file(&folder, "custom/a.override", &text("10.0.0.1"));
    eventually("a new file is read", || has("10.0.0.1"));
    file(&folder, "custom/a.override", &text("10.0.0.2"));
    eventually("a changed file is read", || has("10.0.0.2"));
    file(&folder, "custom/inner", &text("10.0.0.3"));
    file(&folder, "custom/a.override", "import inner\n");
    eventually("an import of an imported file is read", || has("10.0.0.3"));
    file(&folder, "custom/inner", &text("10.0.0.4"));
    eventually("a change of that file is read", || has("10.0.0.4"));
    file(
        &folder,
        "custom/b.server",
        &format!("b.example:{dns} {{\n    bind 127.0.0.1\n    hosts {{\n        10.0.0.9 x.b.example\n    }}\n}}\n"),
    );
    eventually("a new server block is served", || server.ask("x.b.example.").1 == ["10.0.0.9"]);
    std::fs::remove_file(folder.join("custom/a.override")).expect("removed");
    eventually("a removed file is noticed", || server.ask("name.example.") == (0, vec![]));
}

/// N21: an import repeats a directive that a block may have once.
#[test]
fn an_import_that_repeats_a_directive_changes_nothing() {
    let subject = Subject::start("import", &name("10.0.0.1"));
    let folder = Path::new(&subject.conf).parent().expect("a folder").to_owned();
    file(&folder, "again.override", &name("10.0.0.2"));
    subject.write(&format!("{}    import again.override\n", name("10.0.0.1")));
    subject.reload();
    eventually("it is refused", || subject.metric("coredns_reload_failed_total") == 1.0);
    assert!(subject.has("10.0.0.1"));
    let line = format!("{}:1:5 - ", folder.join("again.override").display());
    let is_logged = || subject.server.log().contains(&line);
    eventually("the place is reported", is_logged);
    assert!(subject.server.log().contains("this plugin can only be used once per Server Block"));
}
