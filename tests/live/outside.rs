//! External names: the same answers as CoreDNS with the same upstream, and queries while an upstream is killed, paused,
//! restarted or loses packets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clusterdns::wire::Type;
use libtest_mimic::Failed;

use super::Test;
use super::ask::{Answer, Question, ask, ask_all};
use super::certificates::Authority;
use super::resolvers::{Lossy, NAMES, Resolver, TYPES};
use super::server::{Server, Software};
use super::wait::{SOON, eventually};
use super::{ports, shared};

/// Corefiles for both, with `UP` for the upstream.
const COREFILES: &[(&str, &str)] = &[
    ("forward", "    forward . UP\n"),
    ("forward and cache", "    forward . UP\n    cache 30\n"),
    ("long cache", "    forward . UP\n    cache\n"),
    ("loadbalance, minimal and cache", "    forward . UP\n    cache 3600\n    loadbalance\n    minimal\n"),
    ("bufsize", "    bufsize 512\n    forward . UP\n"),
    ("force_tcp", "    forward . UP {\n        force_tcp\n    }\n    cache 20\n"),
    ("prefer_udp", "    forward . UP {\n        prefer_udp\n    }\n"),
    ("except", "    forward . UP {\n        except wild.out.example sub.out.example\n    }\n"),
    ("a zone", "    forward wild.out.example UP\n    forward out.example UP {\n        policy sequential\n    }\n"),
    ("next", "    forward . UP {\n        next NXDOMAIN REFUSED\n        next_on_nodata\n    }\n    forward . UP\n"),
    ("failover", "    forward . UP UP2 {\n        failover REFUSED NXDOMAIN\n        policy sequential\n    }\n"),
];

pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = COREFILES
        .iter()
        .map(|(name, text)| Test::new(format!("outside: as CoreDNS: {name}"), move || alike(text)))
        .collect();
    tests.extend([
        Test::new("outside: over TLS, HTTPS and QUIC", encrypted),
        Test::new("outside: D01 an upstream is killed and comes back", killed),
        Test::new("outside: D18 an upstream is paused", stopped),
        Test::new("outside: idle connections survive a restart of the upstream", idle_connections),
        Test::new("outside: a path loses packets", lossy),
        Test::new("outside: D02 all upstreams are down", all_down),
        Test::new("outside: D13 sockets to upstreams that are down are closed", leak),
        Test::new("outside: D21 a server that forwards to itself exits", looped),
    ]);
    tests
}

/// Returns a directory for a test.
fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = shared::folder().join(format!("outside-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Starts a server with the body of a Corefile.
fn serve(software: Software, body: &str) -> Server {
    let port = ports::free();
    let text = format!(".:{port} {{\n    errors\n    bind 127.0.0.1\n{body}}}\n");
    Server::start(software, &text, port, folder())
}

fn alike(body: &str) -> Result<(), Failed> {
    let knot = Resolver::knot(&folder());
    let second = Resolver::knot(&folder());
    let body = body.replace("UP2", &second.at.to_string()).replace("UP", &knot.at.to_string());
    let (ours, theirs) = (serve(Software::Clusterdns, &body), serve(Software::CoreDns, &body));
    let mut questions = Vec::new();
    for name in NAMES {
        for &rtype in TYPES {
            for (tcp, edns) in
                [(false, None), (false, Some(1_232)), (false, Some(4_096)), (true, None), (true, Some(512))]
            {
                questions.push(Question { tcp, edns, ..Question::new(&format!("{name}out.example."), rtype) });
            }
        }
    }
    questions.push(Question::new("elsewhere.test.", Type::A));
    questions.push(Question::new("localhost.", Type::A));
    // The second time, answers come from the cache, if there is one.
    let start = Instant::now();
    for time in ["first", "second"] {
        let (ours, theirs) = (ask_all(ours.at, &questions), ask_all(theirs.at, &questions));
        // Their ages may differ by the duration of the comparison.
        let age = start.elapsed().as_secs() as i64 + 2;
        let different =
            questions.iter().zip(ours.iter().zip(&theirs)).filter(|(_, (ours, theirs))| !same(ours, theirs, age));
        let shown: Vec<String> = different
            .map(|(question, (ours, theirs))| {
                let text =
                    |answer: &Option<Answer>| answer.as_ref().map_or("no response".to_owned(), Answer::to_string);
                format!("{question}\n    ours: {}\n    CoreDNS: {}\n", text(ours), text(theirs))
            })
            .collect();
        if !shown.is_empty() {
            let first: String = shown.iter().take(12).cloned().collect();
            return Err(format!("{time} time: {} of {} differ\n{first}", shown.len(), questions.len()).into());
        }
        let answered = ours.iter().flatten().filter(|answer| !answer.sections[0].is_empty()).count();
        assert!(answered > 50, "only {answered} have answers");
    }
    Ok(())
}

/// Returns whether two responses are equal, except for a number of seconds in TTLs.
pub fn same(ours: &Option<Answer>, theirs: &Option<Answer>, age: i64) -> bool {
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return false };
    ours.head() == theirs.head()
        && ours.sections.iter().zip(&theirs.sections).all(|(ours, theirs)| {
            let (ours, theirs) = (by_data(ours), by_data(theirs));
            let is_same = |(ours, theirs): (&Line, &Line)| {
                ours.0 == theirs.0 && ours.1 == theirs.1 && (ours.2 - theirs.2).abs() <= age
            };
            ours.len() == theirs.len() && ours.iter().zip(&theirs).all(is_same)
        })
}

/// The owner of a record, its type and data, and its TTL.
type Line = (String, String, i64);

/// Parses lines `OWNER TTL TYPE DATA`, and sorts them so that their order does not depend on TTLs. The letter case of
/// names in data is ignored, since compression may change it.
fn by_data(lines: &[String]) -> Vec<Line> {
    let parts = |line: &str| -> Option<Line> {
        let (owner, rest) = line.split_once(' ')?;
        let (ttl, data) = rest.split_once(' ')?;
        Some((owner.to_lowercase(), data.to_lowercase(), ttl.parse().ok()?))
    };
    let mut lines: Vec<Line> =
        lines.iter().map(|line| parts(line).unwrap_or((line.clone(), String::new(), 0))).collect();
    lines.sort();
    lines
}

fn encrypted() -> Result<(), Failed> {
    let folder = folder();
    let authority = Authority::new("resolvers");
    let knot = Resolver::knot(&folder);
    let (_unbound, tls, https) = Resolver::unbound(&folder, knot.at, &authority);
    let trusted = folder.join("authority.crt");
    std::fs::write(&trusted, authority.pem()).expect("a file");
    // CoreDNS serves DNS over QUIC, and forwards to Knot.
    let files = authority.server(&folder, "quic", &[]);
    let quic = ports::free();
    let certificate = files.certificate.display();
    let key = files.key.display();
    let text = format!(
        "quic://.:{quic} {{\n    bind 127.0.0.1\n    tls {certificate} {key}\n    forward . {} {{\n        force_tcp\n    }}\n}}\n",
        knot.at
    );
    let _quic = Server::launch(Software::CoreDns, &text, quic, self::folder());
    let trusted = trusted.display();
    for (name, to, lines) in [
        ("TLS by address", format!("tls://{tls}"), String::new()),
        ("TLS by name", format!("tls://{tls}"), "        tls_servername localhost\n".to_owned()),
        ("HTTPS", format!("https://{https}"), String::new()),
        ("HTTPS by GET", format!("https://{https}"), "        doh_method GET\n".to_owned()),
        ("QUIC", format!("quic://127.0.0.1:{quic}"), "        tls_servername localhost\n".to_owned()),
    ] {
        let server =
            serve(Software::Clusterdns, &format!("    forward . {to} {{\n        tls {trusted}\n{lines}    }}\n"));
        server.comes_to("a.out.example. A", "NOERROR 192.0.2.1");
        for number in 0..20 {
            server.comes_to(&format!("x{number}.wild.out.example. A"), "NOERROR 192.0.2.11");
        }
        // CoreDNS truncates responses over QUIC to the size in EDNS.
        let long = Question { tcp: true, edns: Some(4_096), ..Question::new("long.out.example.", Type::TXT) };
        let answer = ask(server.at, &long).ok_or(format!("{name}: no response"))?;
        assert_eq!(answer.sections[0].len(), 1, "{name}: {answer}");
    }
    // A server with another certificate, or another name, is not trusted.
    for (to, lines) in [
        (format!("tls://{tls}"), String::new()),
        (format!("tls://{tls}"), format!("        tls {trusted}\n        tls_servername other.example\n")),
        (format!("https://{https}"), String::new()),
        (format!("quic://127.0.0.1:{quic}"), String::new()),
    ] {
        let server = serve(Software::Clusterdns, &format!("    forward . {to} {{\n{lines}    }}\n"));
        server.comes_to("a.out.example. A", "SERVFAIL");
    }
    Ok(())
}

fn killed() -> Result<(), Failed> {
    let (mut first, second) = (Resolver::knot(&folder()), Resolver::knot(&folder()));
    let body = format!("    forward . {} {} {{\n        policy sequential\n    }}\n", first.at, second.at);
    let server = serve(Software::Clusterdns, &body);
    server.comes_to("a.out.example. A", "NOERROR 192.0.2.1");
    first.kill();
    // No query fails: a closed port is noticed immediately, and the second upstream is used.
    for number in 0..200 {
        let answer = server.ask(&format!("x{number}.wild.out.example. A")).ok_or("no response")?;
        assert_eq!(answer.brief(), "NOERROR 192.0.2.11", "query {number}");
    }
    // A single upstream that stops and comes back.
    let alone = serve(Software::Clusterdns, &format!("    forward . {}\n", first.at));
    alone.comes_to("a.out.example. A", "SERVFAIL");
    first.restart("a.out.example. A");
    alone.comes_to("a.out.example. A", "NOERROR 192.0.2.1");
    Ok(())
}

fn stopped() -> Result<(), Failed> {
    let (first, second) = (Resolver::knot(&folder()), Resolver::knot(&folder()));
    let body = format!(
        "    forward . {} {} {{\n        policy sequential\n        read_timeout 200ms\n    }}\n",
        first.at, second.at
    );
    let server = serve(Software::Clusterdns, &body);
    server.comes_to("a.out.example. A", "NOERROR 192.0.2.1");
    first.signal("STOP");
    let mut slow = 0;
    for number in 0..60 {
        let start = Instant::now();
        let answer = server.ask(&format!("x{number}.wild.out.example. A")).ok_or("no response")?;
        assert_eq!(answer.brief(), "NOERROR 192.0.2.11", "query {number}");
        slow += usize::from(start.elapsed() > Duration::from_millis(150));
        std::thread::sleep(Duration::from_millis(50));
    }
    // The upstream is unhealthy after the third failed health check, after about three seconds.
    assert!(slow < 60, "the upstream that is down still gets queries");
    first.signal("CONT");
    server.comes_to("a.out.example. A", "NOERROR 192.0.2.1");
    Ok(())
}

fn idle_connections() -> Result<(), Failed> {
    let mut knot = Resolver::knot(&folder());
    let server = serve(Software::Clusterdns, &format!("    forward . {} {{\n        force_tcp\n    }}\n", knot.at));
    for round in 0..3 {
        for number in 0..10 {
            let answer = server.ask(&format!("r{round}-{number}.wild.out.example. A")).ok_or("no response")?;
            assert_eq!(answer.brief(), "NOERROR 192.0.2.11", "round {round}, query {number}");
        }
        knot.kill();
        knot.restart("a.out.example. A");
    }
    Ok(())
}

fn lossy() -> Result<(), Failed> {
    let knot = Resolver::knot(&folder());
    let path = Lossy::to(knot.at, 30);
    let body = format!(
        "    forward . {} {{\n        read_timeout 100ms\n        max_connect_attempts 20\n        max_fails 0\n    }}\n",
        path.at
    );
    let server = serve(Software::Clusterdns, &body);
    let questions: Vec<Question> =
        (0..500).map(|number| Question::new(&format!("x{number}.wild.out.example."), Type::A)).collect();
    let answers = ask_all(server.at, &questions);
    let good = answers.iter().flatten().filter(|answer| answer.brief() == "NOERROR 192.0.2.11").count();
    assert_eq!(good, 500);
    Ok(())
}

fn all_down() -> Result<(), Failed> {
    let closed = ports::free();
    let server =
        serve(Software::Clusterdns, &format!("    forward . 127.0.0.1:{closed} 127.0.0.1:{closed}\n    cache 30\n"));
    // An upstream that never responds: a socket that is not read.
    let unread = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let unresponsive: SocketAddr = unread.local_addr().expect("an address");
    let slow = serve(Software::Clusterdns, &format!("    forward . {unresponsive}\n"));
    let fast = serve(
        Software::Clusterdns,
        &format!("    forward . {unresponsive} {{\n        failfast_all_unhealthy_upstreams\n    }}\n"),
    );
    for (server, most) in [(&server, Duration::from_secs(2)), (&slow, Duration::from_millis(5_200))] {
        let start = Instant::now();
        let question = Question { tcp: false, ..Question::new("a.out.example.", Type::A) };
        let answer = ask_repeatedly(server.at, &question).ok_or("no response")?;
        assert_eq!(answer.brief(), "SERVFAIL");
        assert!(start.elapsed() <= most, "{:?}", start.elapsed());
    }
    // After the health checks have failed, no query waits.
    let deadline = Instant::now() + SOON;
    loop {
        let start = Instant::now();
        let answer = ask_repeatedly(fast.at, &Question::new("a.out.example.", Type::A)).ok_or("no response")?;
        assert_eq!(answer.brief(), "SERVFAIL");
        if start.elapsed() < Duration::from_millis(100) {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "queries still wait for the unhealthy upstream");
    }
}

/// Sends a query and waits up to ten seconds.
fn ask_repeatedly(at: SocketAddr, question: &Question) -> Option<Answer> {
    (0..5).find_map(|_| ask(at, question))
}

/// Fifty stanzas with upstreams that never respond, over both transports: the number of sockets is limited while
/// queries are pending, and they are closed afterwards.
fn leak() -> Result<(), Failed> {
    let sockets: Vec<std::net::UdpSocket> =
        (0..50).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
    let stanzas = sockets.iter().enumerate().map(|(number, socket)| {
        let at = socket.local_addr().expect("an address");
        format!("    forward z{number}.example {at} {{\n        read_timeout 200ms\n        max_connect_attempts 2\n    }}\n")
    });
    let server = serve(Software::Clusterdns, &stanzas.collect::<String>());
    let before = server.descriptors();
    let questions = |tcp: bool| -> Vec<Question> {
        let names = (0..1_000).map(|number| format!("x{number}.z{}.example.", number % 50));
        names.map(|name| Question { tcp, ..Question::new(&name, Type::A) }).collect()
    };
    let mut most = before;
    for tcp in [false, true] {
        let questions = questions(tcp);
        let answers = ask_all(server.at, &questions);
        most = most.max(server.descriptors());
        let failed = answers.iter().flatten().filter(|answer| answer.brief() == "SERVFAIL").count();
        assert_eq!(failed, questions.len(), "every query fails");
    }
    // A pool for each upstream, and not a socket for each query.
    assert!(most < before + 600, "{most} descriptors, {before} before");
    eventually("sockets are closed", Duration::from_secs(60), || match server.descriptors() {
        now if now <= before + 16 => Ok(()),
        now => Err(format!("{now} descriptors, {before} before, {most} at most")),
    });
    Ok(())
}

fn looped() -> Result<(), Failed> {
    let folder = folder();
    let port = ports::free();
    let text = format!(".:{port} {{\n    errors\n    loop\n    forward . 127.0.0.1:{port}\n}}\n");
    let mut server = Server::launch(Software::Clusterdns, &text, port, folder);
    let deadline = Instant::now() + SOON;
    while server.is_running() {
        assert!(Instant::now() < deadline, "it still runs:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = server.log();
    assert!(log.contains("[FATAL] plugin/loop: Loop (127.0.0.1:"), "{log}");
    // A server with another upstream continues, also if a client repeats its probe.
    let knot = Resolver::knot(&self::folder());
    let mut good = serve(Software::Clusterdns, &format!("    loop\n    forward . {}\n", knot.at));
    good.comes_to("a.out.example. A", "NOERROR 192.0.2.1");
    assert!(good.is_running());
    Ok(())
}
