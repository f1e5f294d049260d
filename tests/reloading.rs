//! Another Corefile while the program serves: good ones are taken up between two queries, bad ones leave everything as
//! it was, and nothing is left behind.

mod running;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use running::api::Api;
use running::upstream::{Upstream, query};
use running::{PATIENCE, Running, file, folder, get, port_free_everywhere};

/// Waits until this holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server, and the ports that its Corefiles name.
struct Subject {
    server: Running,
    conf: String,
    dns: u16,
    pages: u16,
}

impl Subject {
    fn start(name: &str, extra: &str) -> Subject {
        let (dns, pages) = (port_free_everywhere(), port_free_everywhere());
        let folder = folder("reloading");
        let conf = file(&folder, name, &corefile(dns, pages, extra));
        let server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
        Subject { server, conf, dns, pages }
    }

    /// Writes another Corefile.
    fn write(&self, extra: &str) {
        std::fs::write(&self.conf, corefile(self.dns, self.pages, extra)).expect("a file");
    }

    fn reload(&self) {
        self.server.signal("-USR1");
    }

    fn page(&self, path: &str) -> (u16, String) {
        get(SocketAddr::from(([127, 0, 0, 1], self.pages)), path)
    }

    /// The value of a metric without labels.
    fn metric(&self, name: &str) -> f64 {
        let text = self.page("/metrics").1;
        let line = text.lines().find(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b' ');
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
    }

    /// The address that `name.example.` has.
    fn has(&self, address: &str) -> bool {
        self.server.ask("name.example.").1 == [address]
    }
}

/// A block with these lines, and pages.
fn corefile(dns: u16, pages: u16, extra: &str) -> String {
    format!(
        ".:{dns} {{\n    bind 127.0.0.1\n    errors\n    prometheus 127.0.0.1:{pages}\n    ready 127.0.0.1:{pages}\n    \
         health 127.0.0.1:{pages}\n    kubernetes cluster.local\n    cache 30\n    forward . 127.0.0.1:9\n{extra}}}\n"
    )
}

/// Lines by which `name.example.` has an address.
fn name(address: &str) -> String {
    format!("    hosts {{\n        {address} name.example\n        fallthrough\n    }}\n")
}

/// E04.
#[test]
fn good_ones_are_taken_up_and_bad_ones_are_not() {
    let subject = Subject::start("good", &name("10.0.0.1"));
    assert!(subject.has("10.0.0.1"));
    subject.write(&name("10.0.0.2"));
    subject.reload();
    eventually("the second is taken up", || subject.has("10.0.0.2"));
    assert_eq!(subject.metric("coredns_reload_failed_total"), 0.0);
    // Faults of every stage: a word that is none, a file that is not there, a port that is taken.
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("an address").port();
    let taken_page = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let page = taken_page.local_addr().expect("an address");
    let bad = [
        "    nonsense\n".to_owned(),
        "    forward . 127.0.0.1 {\n        tls /nowhere.pem\n    }\n".to_owned(),
        format!("}}\nother.example:{port} {{\n    bind 127.0.0.1\n    whoami\n"),
        "    }}}\n".to_owned(),
        // Nothing at all: an editor has emptied the file, and is about to write it.
        String::new(),
        format!("}}\nx.example:{} {{\n    bind 127.0.0.1\n    prometheus {page}\n    whoami\n", subject.dns),
    ];
    for (count, lines) in bad.iter().enumerate() {
        match lines.is_empty() {
            true => std::fs::write(&subject.conf, "# Wait.\n").expect("a file"),
            false => subject.write(&format!("{}{lines}", name("10.0.0.3"))),
        }
        subject.reload();
        let failed = (count + 1) as f64;
        eventually("a bad one is counted", || subject.metric("coredns_reload_failed_total") == failed);
        assert!(subject.has("10.0.0.2"), "{lines}");
        assert_eq!(subject.page("/ready").0, 200);
    }
    // Each is told in a line of its own, with the place where there is one.
    let count = || subject.server.log().lines().filter(|line| line.starts_with("[ERROR]")).count();
    eventually("each is told", || count() >= bad.len());
    let log = subject.server.log();
    let faults: Vec<&str> = log.lines().filter(|line| line.starts_with("[ERROR]")).collect();
    assert_eq!(faults.len(), bad.len(), "{log}");
    let start = format!("[ERROR] SIGUSR1: reload failed: {}:", subject.conf);
    assert!(faults[0].starts_with(&start) && faults[0].ends_with("Unknown directive 'nonsense'"), "{}", faults[0]);
    assert!(faults[1].contains("cannot read /nowhere.pem") && faults[2].contains("address already in use"), "{log}");
    // And a good one after them.
    subject.write(&name("10.0.0.4"));
    subject.reload();
    eventually("the last is taken up", || subject.has("10.0.0.4"));
    assert_eq!(subject.server.ask("db.data.svc.cluster.local.").0, 0);
}

#[test]
fn a_file_that_changes_is_noticed_as_configmaps_change() {
    let (dns, pages, folder) = (port_free_everywhere(), port_free_everywhere(), folder("reloading-map"));
    // As kubelet lays it out: Corefile → ..data/Corefile, ..data → a folder, and ..data is renamed over.
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
fn sockets_come_and_go() {
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

/// A block that is taken out answers what has come, also what waits for another server, and its port is there for
/// another at once.
#[test]
fn a_block_that_goes_answers_what_waits_for_another_server() {
    const QUERIES: u16 = 50;
    let (subject, upstream, other) =
        (Subject::start("goes", &name("10.0.0.1")), Upstream::start(), port_free_everywhere());
    let block = |directive: &str| format!("}}\nother.example:{other} {{\n    bind 127.0.0.1\n    {directive}\n");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.connect(("127.0.0.1", other)).expect("an address");
    subject.write(&format!("{}{}", name("10.0.0.2"), block(&format!("forward . {}", upstream.at()))));
    subject.reload();
    eventually("the block is there", || subject.has("10.0.0.2"));
    for id in 0..QUERIES {
        client.send(&query(id, &format!("slow-{id}.other.example."))).expect("sent");
    }
    eventually("they are on their way", || upstream.holds() == usize::from(QUERIES));
    subject.write(&name("10.0.0.3"));
    subject.reload();
    eventually("it is gone", || subject.has("10.0.0.3"));
    // The port is wanted while answers are still owed by it.
    subject.write(&format!("{}{}", name("10.0.0.4"), block("whoami")));
    subject.reload();
    eventually("the reload has begun", || subject.server.log().matches("SIGUSR1: Reloading").count() == 3);
    upstream.let_go();
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
    eventually("the port is taken up", || subject.has("10.0.0.4"));
    assert!(is_served(SocketAddr::from(([127, 0, 0, 1], other))));
    assert_eq!(subject.metric("coredns_reload_failed_total"), 0.0);
}

/// Whether anything answers there.
fn is_served(at: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x05other\x07example\0\0\x01\0\x01";
    socket.connect(at).is_ok() && socket.send(query).is_ok() && socket.recv(&mut [0; 512]).is_ok()
}

/// E02, E06.
#[test]
fn nothing_is_lost_and_nothing_is_left_behind() {
    // Each round has another address than the one before, so that it is seen when it has been taken up.
    let subject = Subject::start("load", &name("10.0.0.2"));
    let (ended, asked, unready) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0), AtomicUsize::new(0));
    let at = subject.server.at;
    let held = |path: &str| {
        std::fs::read_dir(Path::new("/proc").join(subject.server.child.id().to_string()).join(path))
            .map_or(0, Iterator::count)
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                socket.connect(at).expect("an address");
                let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x02db\x04data\x03svc\x07cluster\x05local\0\0\x01\0\x01";
                let mut answer = [0; 512];
                while !ended.load(Ordering::Relaxed) {
                    socket.send(query).expect("sent");
                    let len = socket.recv(&mut answer).expect("every query has its answer");
                    assert!(len > query.len() && answer[3] & 15 == 0, "{:?}", &answer[..len]);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                unready.fetch_add(usize::from(subject.page("/ready").0 != 200), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut kept = None;
        for round in 0..60 {
            let address = format!("10.0.0.{}", round % 2 + 1);
            subject.write(&name(&address));
            subject.reload();
            eventually("it is taken up", || subject.has(&address));
            subject.write("    nonsense\n");
            let failed = subject.metric("coredns_reload_failed_total");
            subject.reload();
            eventually("a bad one is counted", || subject.metric("coredns_reload_failed_total") > failed);
            if round == 5 {
                kept = Some((held("fd"), held("task")));
            }
        }
        ended.store(true, Ordering::Relaxed);
        let (descriptors, threads) = kept.expect("rounds");
        eventually("descriptors are given back", || held("fd") <= descriptors + 4);
        // Threads that look at files come and go.
        eventually("threads are given back", || held("task") <= threads + 4);
    });
    assert!(asked.load(Ordering::Relaxed) > 100);
    assert_eq!(unready.load(Ordering::Relaxed), 0, "it was not ready for a moment");
}

/// Every address and one of them overlap: queries to an address that is served before and after are all answered.
#[test]
fn addresses_of_one_port_may_overlap() {
    let (dns, pages) = (port_free_everywhere(), port_free_everywhere());
    let folder = folder("reloading-overlap");
    let corefile = |bind: &str, page: &str, address: &str| {
        format!(
            ".:{dns} {{\n{bind}    errors\n    health {page}:{pages}\n{}    kubernetes cluster.local\n}}\n",
            name(address)
        )
    };
    let conf = file(&folder, "Corefile", &corefile("    bind 127.0.0.1\n", "127.0.0.1", "10.0.0.1"));
    let server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    let (ended, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // As clients are that keep a socket, and as those that have a new one for each query.
        for keeps in [true, false] {
            let (ended, asked) = (&ended, &asked);
            scope.spawn(move || {
                let client = || {
                    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    client.connect(("127.0.0.1", dns)).expect("an address");
                    client
                };
                let mut socket = client();
                for id in 0.. {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    if !keeps {
                        socket = client();
                    }
                    socket.send(&query(id, "db.data.svc.cluster.local.")).expect("sent");
                    let mut answer = [0; 512];
                    socket.recv(&mut answer).expect("every query has its answer");
                    assert_eq!((&answer[..2], answer[3] & 15), (&id.to_be_bytes()[..], 0));
                    asked.fetch_add(1, Ordering::Relaxed);
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
            eventually("it is taken up", || server.ask("name.example.").1 == [address.as_str()]);
            // Over TCP, too: the last listener is there when its answers are.
            eventually("TCP is served", || over_tcp(dns));
            eventually("pages are served", || get(SocketAddr::from(([127, 0, 0, 1], pages)), "/health").0 == 200);
        }
        let so_far = asked.load(Ordering::Relaxed);
        eventually("queries go on", || asked.load(Ordering::Relaxed) > so_far + 10);
        ended.store(true, Ordering::Relaxed);
    });
    let log = server.log();
    assert_eq!(log.matches("Reloading complete").count(), 7, "{log}");
}

/// Whether a query over TCP is answered.
fn over_tcp(port: u16) -> bool {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<usize> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let query = query(7, "db.data.svc.cluster.local.");
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
        stream.read(&mut [0; 512])
    };
    ask().is_ok_and(|read| read > 2)
}

/// A reload that wants other objects of a cluster whose API server is away.
#[test]
fn a_cluster_that_was_known_stays_known() {
    let api = Api::start();
    let (dns, pages) = (port_free_everywhere(), port_free_everywhere());
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
    // Other kinds, other objects, and the same once more while nothing is known of them.
    for (round, property) in ["pods verified", "labels a=b", "labels a=b\n        ttl 7"].iter().enumerate() {
        let address = format!("10.0.1.{round}");
        std::fs::write(&conf, corefile(property, &address)).expect("a file");
        server.signal("-USR1");
        eventually("it is taken up", || server.ask("name.example.").1 == [address.as_str()]);
        assert_eq!(web(), known, "{property}");
        assert_eq!(server.ask("none.default.svc.cluster.local.").0, 3, "{property}");
        assert_eq!(get(SocketAddr::from(([127, 0, 0, 1], pages)), "/ready").0, 200, "{property}");
        if round == 0 {
            assert_eq!(pod(), 2, "Pods were not known before, which is no reason to deny one");
        }
    }
    assert!(server.log().contains("the cluster's state from before the reload is served"), "{}", server.log());
    api.set_away(false);
    let settled = "synced with the Kubernetes API after the reload";
    eventually("the new state takes over", || server.log().contains(settled));
    assert_eq!(web(), known);
}

/// The order to end comes while a reload waits for an API server.
#[test]
fn a_slow_reload_does_not_delay_the_end() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let dns = port_free_everywhere();
    let corefile = |more: &str| format!(".:{dns} {{\n    bind 127.0.0.1\n{}{more}}}\n", name("10.0.0.1"));
    let conf = file(&folder("reloading-slow"), "Corefile", &corefile(""));
    let mut server = Running::start(&["-conf", &conf]);
    let endpoint = silent.local_addr().expect("an address");
    let stanza =
        format!("    kubernetes {{\n        endpoint http://{endpoint}\n        startup_timeout 10m\n    }}\n");
    std::fs::write(&conf, corefile(&stanza)).expect("a file");
    server.signal("-USR1");
    eventually("the reload waits", || server.log().contains("waiting for Kubernetes API"));
    assert_eq!(server.ask("name.example.").1, ["10.0.0.1"]);
    server.signal("-TERM");
    assert_eq!(server.wait(), Some(0));
}

/// N40: what an import brings is a part of the Corefile.
#[test]
fn imported_files_are_followed() {
    let (dns, folder) = (port_free_everywhere(), folder("reloading-imports"));
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
    // The first match of a glob that had none; another text; the file of a file; and none again.
    file(&folder, "custom/a.override", &text("10.0.0.1"));
    eventually("a new file is read", || has("10.0.0.1"));
    file(&folder, "custom/a.override", &text("10.0.0.2"));
    eventually("a changed file is read", || has("10.0.0.2"));
    file(&folder, "custom/inner", &text("10.0.0.3"));
    file(&folder, "custom/a.override", "import inner\n");
    eventually("the file of a file is read", || has("10.0.0.3"));
    file(&folder, "custom/inner", &text("10.0.0.4"));
    eventually("a change of the file of a file is seen", || has("10.0.0.4"));
    file(
        &folder,
        "custom/b.server",
        &format!("b.example:{dns} {{\n    bind 127.0.0.1\n    hosts {{\n        10.0.0.9 x.b.example\n    }}\n}}\n"),
    );
    eventually("a new server block is served", || server.ask("x.b.example.").1 == ["10.0.0.9"]);
    std::fs::remove_file(folder.join("custom/a.override")).expect("removed");
    eventually("a file that is gone is missed", || server.ask("name.example.") == (0, vec![]));
}

/// N21: a directive that a block may have once comes a second time by an import.
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
    let said = || subject.server.log().contains(&line);
    eventually("the place is reported", said);
    assert!(subject.server.log().contains("this plugin can only be used once per Server Block"));
}
