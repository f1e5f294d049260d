//! UDP.

use super::*;
use crate::serve::Spread;

/// Sends a packet.
fn send(socket: &UdpSocket, packet: &[u8], to: SocketAddr) {
    socket.send_to(packet, to).expect("sent");
}

/// Sends a query from this address to that one, and checks that the answer comes from there.
fn check_source(rig: &Rig, from: &str, at: &str, name: &str) {
    let socket = udp_client(from);
    send(&socket, &query(7, name), rig.at(at));
    if name.starts_with("later") {
        rig.wait_until("a query is pending", |server| server.waiting() == 1);
        rig.gate.add_permits(1);
    }
    let (answer, source) = receive(&socket);
    assert_eq!(read(&answer), (7, Rcode::NOERROR, 1));
    assert_eq!(source, rig.at(at));
}

#[test]
fn a_response_comes_from_the_address_of_its_query() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let rig = start(&[listen], Settings::default(), |_| ());
        for name in ["a.", "later."] {
            check_source(&rig, "127.0.0.1", "127.0.0.1", name);
            check_source(&rig, "127.0.0.1", "127.0.0.2", name);
            if udp_socket_v6() {
                check_source(&rig, "::1", "::1", name);
            }
        }
    }
    let rig = start(&["127.0.0.3:0"], Settings::default(), |_| ());
    check_source(&rig, "127.0.0.1", "127.0.0.3", "a.");
    check_source(&rig, "127.0.0.1", "127.0.0.3", "later.");
    if udp_socket_v6() {
        check_source(&start(&["[::1]:0"], Settings::default(), |_| ()), "::1", "::1", "a.");
    }
}

/// Returns whether this machine has IPv6.
fn udp_socket_v6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

#[test]
fn a_burst_is_answered_whole() {
    for spread in [Spread::Flow, Spread::Random] {
        for listen in [&["127.0.0.1:0"][..], &["127.0.0.1:0", "127.0.0.2:0"]] {
            let rig = start(listen, Settings::default(), |options| options.spread = spread);
            let clients: Vec<_> = (0..8).map(|_| udp_client("127.0.0.1")).collect();
            for id in 0..200 {
                for (index, client) in clients.iter().enumerate() {
                    let addresses = rig.server().local_addresses();
                    send(client, &query(id, "a."), addresses[index % addresses.len()]);
                }
                if id % 25 == 24 {
                    // A client's own buffer holds some 270 small packets.
                    for client in &clients {
                        (0..25).for_each(|_| assert_eq!(read(&receive(client).0).1, Rcode::NOERROR));
                    }
                }
            }
            rig.wait_until("all are counted", |server| server.counts().answered == 1_600);
            assert_eq!(rig.server().counts().send_failed, 0);
        }
    }
}

#[test]
fn two_hundred_queries_at_once_are_answered() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let client = udp_client("127.0.0.1");
    (0..200).for_each(|id| send(&client, &query(id, "a."), rig.at("127.0.0.1")));
    let mut ids: Vec<u16> = (0..200).map(|_| read(&receive(&client).0).0).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..200));
}

#[test]
fn pending_queries_are_limited_and_the_oldest_is_evicted() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| options.waiting = 3);
    let client = udp_client("127.0.0.1");
    (0..3).for_each(|id| {
        send(&client, &query(id, "later."), rig.at("127.0.0.1"));
        rig.wait_until("it is pending", |server| server.waiting() == usize::from(id) + 1);
    });
    for id in 3..10 {
        send(&client, &query(id, "later."), rig.at("127.0.0.1"));
        assert_eq!(read(&receive(&client).0), (id - 3, Rcode::SERVFAIL, 0));
        send(&client, &query(id, "a."), rig.at("127.0.0.1"));
        assert_eq!(read(&receive(&client).0), (id, Rcode::NOERROR, 1));
    }
    rig.gate.add_permits(3);
    let mut ids: Vec<_> = (0..3).map(|_| read(&receive(&client).0)).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq((7..10).map(|id| (id, Rcode::NOERROR, 1))));
    rig.wait_until("none is pending", |server| server.waiting() == 0);
    let counts = rig.server().counts();
    assert_eq!((counts.later, counts.overloads, counts.answered), (10, 7, 17));
}

/// A plugin may panic when it sees what was sent, also where a query is shed.
#[test]
fn a_panic_while_a_query_is_shed_is_a_servfail() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| options.waiting = 1);
    let client = udp_client("127.0.0.1");
    for id in 0..3 {
        send(&client, &query(id, "latesent."), rig.at("127.0.0.1"));
        rig.wait_until("it is pending", |server| server.counts().later == u64::from(id) + 1);
        if id > 0 {
            assert_eq!(read(&receive(&client).0), (id - 1, Rcode::SERVFAIL, 0));
        }
    }
    rig.gate.add_permits(1);
    assert_eq!(read(&receive(&client).0), (2, Rcode::SERVFAIL, 0));
    assert_eq!(rig.server().counts().panics, 3);
}

/// One client with slow names does not keep out others, over any transport.
#[test]
fn the_client_with_the_most_pending_queries_loses_its_oldest() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| {
        (options.waiting, options.tcp.waiting_per_connection) = (8, 4);
    });
    let at = rig.at("127.0.0.1");
    let mut heavy = [tcp_client(at), tcp_client(at)];
    for stream in &mut heavy {
        super::send(stream, &framed(&[(); 4].map(|()| query(1, "later."))));
    }
    rig.wait_until("all permits are taken", |server| server.waiting() == 8);
    let light = udp_client("127.0.0.2");
    let mut stream = super::tcp::connect_from([127, 0, 0, 3], at);
    send(&light, &query(2, "later."), at);
    super::send(&mut stream, &framed(&[query(3, "later."), query(4, "later.")]));
    // Their SERVFAIL comes before the gate opens, which would else let them through, too.
    rig.wait_until("three are evicted", |server| server.counts().overloads == 3 && server.counts().answered == 3);
    rig.gate.add_permits(8);
    assert_eq!(read(&receive(&light).0), (2, Rcode::NOERROR, 1));
    assert!((0..2).all(|_| read(&next(&mut stream).expect("an answer")).1 == Rcode::NOERROR));
    let codes = heavy.iter_mut().flat_map(|stream| (0..4).map(|_| next(stream)).collect::<Vec<_>>());
    let failed = codes.filter(|answer| read(answer.as_ref().expect("an answer")).1 == Rcode::SERVFAIL);
    assert_eq!(failed.count(), 3);
}

/// More sockets than workers, as *multisocket* has them.
#[test]
fn a_worker_serves_several_sockets() {
    for spread in [Spread::Flow, Spread::Random] {
        let mut rig = start(&["127.0.0.1:0", "127.0.0.2:0"], Settings::default(), |options| {
            (options.sockets, options.spread) = (NonZeroUsize::new(7), spread);
        });
        let clients: Vec<_> = (0..100).map(|_| udp_client("127.0.0.1")).collect();
        let addresses = rig.server().local_addresses();
        let ask = |id| {
            for (index, client) in clients.iter().enumerate() {
                let name = if index % 10 == 9 { "later." } else { "a." };
                send(client, &query(id, name), addresses[index % 2]);
            }
        };
        ask(1);
        rig.gate.add_permits(20);
        clients.iter().for_each(|client| assert_eq!(read(&receive(client).0), (1, Rcode::NOERROR, 1)));
        // What has come to any of them is answered when the server stops.
        ask(2);
        rig.stop(TIMEOUT);
        clients.iter().for_each(|client| assert_eq!(read(&receive(client).0), (2, Rcode::NOERROR, 1)));
    }
}

#[test]
fn a_panic_is_a_servfail_and_no_more() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let client = udp_client("127.0.0.1");
    for id in 0..20 {
        for (name, rcode) in [("panic.", Rcode::SERVFAIL), ("latepanic.", Rcode::SERVFAIL), ("a.", Rcode::NOERROR)] {
            send(&client, &query(id, name), rig.at("127.0.0.1"));
            let answer = receive(&client).0;
            assert_eq!((read(&answer).0, read(&answer).1), (id, rcode));
            // The question comes back, or stub resolvers pass over the answer.
            assert_eq!(answer[4..6], [0, 1]);
        }
    }
    assert_eq!(rig.server().counts().panics, 40);
    rig.wait_until("none waits", |server| server.waiting() == 0);
}

#[test]
fn bad_packets_get_their_code_or_no_response() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let client = udp_client("127.0.0.1");
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = query(9, "a.");
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let mut long = query(9, "a.");
    long.resize(5_000, 0);
    let pointer = [&query(9, ".")[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    let cases = [
        ("header only, 65535 questions", [&[0, 9, 0, 0, 0xff, 0xff][..], &[0; 6]].concat(), Some(Rcode::FORMERR)),
        ("no question", with(4, &[0, 0]), Some(Rcode::FORMERR)),
        ("update", with(2, &[5 << 3]), Some(Rcode::NOTIMP)),
        ("cut in the name", query(9, "a.")[..13].to_vec(), Some(Rcode::FORMERR)),
        ("a pointer as the name", pointer, Some(Rcode::FORMERR)),
        ("longer than is read", long, Some(Rcode::FORMERR)),
        ("an answer", with(2, &[0x80]), None),
        ("an answer longer than is read", with(2, &[0x80]).into_iter().chain([0; 5_000]).collect(), None),
        ("eleven bytes", query(9, "a.")[..11].to_vec(), None),
        ("no byte", Vec::new(), None),
        ("a query that a plugin drops", query(9, "drop."), None),
    ];
    let mut unanswered = 0;
    for (what, packet, rcode) in cases {
        send(&client, &packet, rig.at("127.0.0.1"));
        match rcode {
            Some(rcode) => assert_eq!(read(&receive(&client).0), (9, rcode, 0), "{what}"),
            None => {
                unanswered += 1;
                rig.wait_until(what, |server| server.counts().unanswered == unanswered);
            }
        }
    }
    send(&client, &query(10, "a."), rig.at("127.0.0.1"));
    assert_eq!(read(&receive(&client).0), (10, Rcode::NOERROR, 1));
}

#[test]
fn routers_are_replaced_between_two_queries() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let client = udp_client("127.0.0.1");
    for mark in 1..50 {
        rig.service.replace(router(&rig.gate, mark), Settings::default(), None);
        send(&client, &query(1, "a."), rig.at("127.0.0.1"));
        assert_eq!(receive(&client).0.last(), Some(&mark));
    }
}

#[test]
fn a_port_in_use_is_an_error() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let address = rig.at("127.0.0.1").to_string();
    let error = |address: &str| try_start(&[address], Settings::default(), |_| ()).err().expect("an error").to_string();
    assert_eq!(error(&address), format!("listen udp {address}: address already in use"));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = tcp.local_addr().expect("an address").to_string();
    assert_eq!(error(&address), format!("listen tcp {address}: address already in use"));
    assert_eq!(error("192.0.2.1:0"), "listen udp 192.0.2.1:0: no interface has this address");
}

#[test]
fn a_port_may_be_shared_where_that_is_wanted() {
    let rig = start(&["127.0.0.1:0"], Settings::default(), |options| options.share_port = true);
    let address = rig.at("127.0.0.1").to_string();
    try_start(&[&address], Settings::default(), |options| options.share_port = true).expect("a second server");
    // One server's listeners may include one another.
    let port = rig.at("127.0.0.1").port();
    drop(rig);
    let all = format!("0.0.0.0:{port}");
    let one = format!("127.0.0.1:{port}");
    let rig = start(&[&all, &one], Settings::default(), |_| ());
    check_source(&rig, "127.0.0.1", "127.0.0.1", "a.");
    check_source(&rig, "127.0.0.1", "127.0.0.2", "a.");
}

#[test]
fn a_server_stops_at_once_and_answers_what_has_come() {
    for listen in [&["127.0.0.1:0"][..], &["127.0.0.1:0", "127.0.0.2:0"]] {
        let mut rig = start(listen, Settings::default(), |_| ());
        let client = udp_client("127.0.0.1");
        let at = rig.at("127.0.0.1");
        send(&client, &query(999, "later."), at);
        rig.wait_until("one waits", |server| server.waiting() == 1);
        (0..200).for_each(|id| send(&client, &query(id, "a."), at));
        let gate = rig.gate.clone();
        rig.runtime.spawn(async move { gate.add_permits(1) });
        assert!(rig.stop(TIMEOUT) < TIMEOUT);
        let mut ids: Vec<u16> = (0..201).map(|_| read(&receive(&client).0).0).collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq((0..200).chain([999])));
        let mut idle = start(listen, Settings::default(), |_| ());
        assert!(idle.stop(TIMEOUT) < Duration::from_secs(1));
    }
}

/// E01: a query that comes while a server stops is answered, or refused by the kernel at once. A query without either
/// costs its client seconds.
#[test]
fn no_query_remains_without_a_reply_while_a_server_stops() {
    for listen in ["0.0.0.0:0", "127.0.0.1:0"] {
        let mut rig = start(&[listen], Settings::default(), |_| ());
        let mut ips = vec!["127.0.0.1"];
        if listen.starts_with("0.0.0.0") {
            ips.extend(["127.0.0.2", "127.0.0.3"]);
            if UdpSocket::bind("[::1]:0").is_ok() {
                ips.push("::1");
            }
        }
        // A late answer each, which leaves by the socket that refuses already.
        let late: Vec<UdpSocket> = ips.iter().map(|ip| udp_client(ip)).collect();
        for (client, ip) in late.iter().zip(&ips) {
            send(client, &query(7, "later."), rig.at(ip));
        }
        rig.wait_until("they wait", |server| server.waiting() == ips.len());
        let askers: Vec<_> = ips.iter().cycle().take(12).map(|ip| (udp_client(ip), rig.at(ip))).collect();
        let askers = askers.into_iter().map(|(client, at)| {
            std::thread::spawn(move || {
                client.connect(at).expect("connected");
                for id in 0.. {
                    let mut answer = [0; 512];
                    let len = match client.send(&query(id, "a.")).and_then(|_| client.recv(&mut answer)) {
                        Ok(len) => len,
                        Err(error) => return (id, error.kind()),
                    };
                    assert_eq!(read(&answer[..len]).0, id);
                }
                unreachable!("the server stops before the last ID")
            })
        });
        let askers: Vec<_> = askers.collect();
        rig.wait_until("they ask", |server| server.counts().answered > 500);
        let gate = rig.gate.clone();
        let permits = ips.len();
        rig.runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            gate.add_permits(permits);
        });
        rig.stop(TIMEOUT);
        for asker in askers {
            let (asked, end) = asker.join().expect("answers to each");
            assert_eq!(end, std::io::ErrorKind::ConnectionRefused, "after {asked} at {listen}");
        }
        for client in &late {
            assert_eq!(read(&receive(client).0).0, 7);
        }
    }
}

#[test]
fn a_pending_query_without_an_answer_fails_at_the_end() {
    let mut rig = start(&["127.0.0.1:0"], Settings::default(), |_| ());
    let client = udp_client("127.0.0.1");
    send(&client, &query(1, "later."), rig.at("127.0.0.1"));
    rig.wait_until("one waits", |server| server.waiting() == 1);
    let took = rig.stop(Duration::from_millis(400));
    assert!(took >= Duration::from_millis(350) && took < TIMEOUT);
    // The process may exit now: the response has been sent.
    client.set_nonblocking(true).expect("an option");
    assert_eq!(read(&receive(&client).0), (1, Rcode::SERVFAIL, 0));
}
