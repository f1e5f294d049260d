//! A stop under load: every query that arrives before the sockets close is answered (E01). The test asserts counts;
//! `benches/lifecycle.py` does the same with more load and measures times.

mod running;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use running::upstream::{Upstream, query};
use running::{Running, TIMEOUT, file, folder, get};

/// Clients of each transport that send one query after the other.
const CLIENTS: u16 = 16;
/// Queries of each transport that are in flight when the server stops.
const SLOW: u16 = 100;

/// Sends queries over UDP until the port is closed. Returns their number. A query without a response fails.
fn query_over_udp(at: SocketAddr, names: &[&str]) -> usize {
    let client = udp_client(at);
    for asked in 0.. {
        let id = asked as u16;
        let mut answer = [0; 512];
        match client.send(&query(id, names[asked % names.len()])).and_then(|_| client.recv(&mut answer)) {
            Ok(_) => assert_eq!(&answer[..2], id.to_be_bytes()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return asked,
            Err(error) => unreachable!("query {asked}: {error}"),
        }
    }
    unreachable!("the program exits before that")
}

/// Sends queries over TCP until the server closes the connection. Returns their number. A closed connection instead of
/// a response fails, and so does a reset.
fn query_over_tcp(at: SocketAddr, names: &[&str]) -> usize {
    let mut client = tcp_client(at);
    for asked in 0.. {
        client.write_all(&framed(&query(asked as u16, names[asked % names.len()]))).expect("sent");
        let answer = next(&mut client).expect("a response before the end of the connection");
        assert_eq!(answer[..2], (asked as u16).to_be_bytes());
        // The server closes the connection between two queries.
        client.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        match client.peek(&mut [0]) {
            Ok(0) => return asked + 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => unreachable!("between queries: {other:?}"),
        }
        client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    }
    unreachable!("the program exits before that")
}

fn udp_client(at: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    client.connect(at).expect("an address");
    client
}

fn tcp_client(at: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(at).expect("connected");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    client.set_nodelay(true).expect("an option");
    client
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Reads the next message of a connection. Returns `None` at its end. A reset fails.
fn next(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    if client.read(&mut length[..1]).expect("no reset") == 0 {
        return None;
    }
    client.read_exact(&mut length[1..]).expect("a length");
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    client.read_exact(&mut message).expect("a message");
    Some(message)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_that_came_before_the_end_is_lost() {
    let upstream = Upstream::start();
    let upstream_address = upstream.at();
    let corefile = format!(
        ".:0 {{\n    bind 127.0.0.1\n    errors\n    health 127.0.0.1:0 {{\n        lameduck 300ms\n    }}\n    \
         ready 127.0.0.1:0\n    kubernetes cluster.local\n    cache 30\n    forward . {upstream_address} {{\n        prefer_udp\n    }}\n}}\n"
    );
    let conf = file(&folder("stopping"), "Corefile", &corefile);
    let mut server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    let [health, ready] = ["health", "ready"].map(|directive| server.page(directive));
    let at = server.at;
    // Names of the cluster, and a cached one of an upstream.
    let names = [
        "db.data.svc.cluster.local.",
        "none.data.svc.cluster.local.",
        "cached.example.",
        "web.shop.svc.cluster.local.",
    ];
    std::thread::scope(|scope| {
        let udp: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| query_over_udp(at, &names))).collect();
        let tcp: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| query_over_tcp(at, &names))).collect();
        let slow_udp = udp_client(at);
        let mut slow_tcp = tcp_client(at);
        let mut idle = tcp_client(at);
        idle.write_all(&framed(&query(0, names[0]))).expect("sent");
        assert!(next(&mut idle).is_some());
        for id in 0..SLOW {
            slow_udp.send(&query(id, &format!("slow-{id}.example."))).expect("sent");
            slow_tcp.write_all(&framed(&query(id, &format!("slow-too-{id}.example.")))).expect("sent");
        }
        eventually("they are in flight", || upstream.held_names() == usize::from(2 * SLOW));

        server.signal("-TERM");
        eventually("/ready is 503", || get(ready, "/ready").0 == 503);
        assert_eq!(get(health, "/health").0, 200);
        assert_eq!(server.ask(names[0]).0, 0);
        // An idle connection is closed first, which shows the end of lameduck.
        assert!(next(&mut idle).is_none());
        upstream.release();
        let mut ids: Vec<u16> = Vec::new();
        while ids.len() < usize::from(SLOW) {
            let mut answer = [0; 512];
            slow_udp.recv(&mut answer).expect("a response of the upstream");
            assert_eq!(answer[3] & 15, 0, "no failure");
            ids.push(u16::from_be_bytes([answer[0], answer[1]]));
        }
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..SLOW));
        let mut ids: Vec<u16> = std::iter::from_fn(|| next(&mut slow_tcp))
            .inspect(|answer| assert_eq!(answer[3] & 15, 0, "no failure"))
            .map(|answer| u16::from_be_bytes([answer[0], answer[1]]))
            .collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..SLOW), "over TCP, before the connection is closed");
        drop((slow_tcp, idle));
        for client in udp.into_iter().chain(tcp) {
            assert!(client.join().expect("a response to each query") > 0);
        }
    });
    assert_eq!(server.wait(), Some(0));
}
