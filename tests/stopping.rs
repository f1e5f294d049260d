//! The end of the program under load: what has come before its sockets close is answered (E01). What is asserted are
//! counts; `benches/lifecycle.py` has the same with more load, and times.

mod running;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use running::upstream::{Upstream, query};
use running::{PATIENCE, Running, file, folder, get};

/// Clients of each transport that ask again and again, one query at a time.
const CLIENTS: u16 = 16;
/// Queries of each transport that are on their way to another server when the end comes.
const SLOW: u16 = 100;

/// Asks over UDP until nobody is there. Silence fails.
fn asks_over_udp(at: SocketAddr, names: &[&str]) -> usize {
    let client = udp_client(at);
    for asked in 0.. {
        let (id, mut answer) = (asked as u16, [0; 512]);
        match client.send(&query(id, names[asked % names.len()])).and_then(|_| client.recv(&mut answer)) {
            Ok(_) => assert_eq!(&answer[..2], id.to_be_bytes()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return asked,
            Err(error) => unreachable!("query {asked}: {error}"),
        }
    }
    unreachable!("the program ends before so many queries")
}

/// Asks over TCP until the server ends the connection. Its end in the place of an answer fails, and so does a reset.
fn asks_over_tcp(at: SocketAddr, names: &[&str]) -> usize {
    let mut client = tcp_client(at);
    for asked in 0.. {
        client.write_all(&framed(&query(asked as u16, names[asked % names.len()]))).expect("sent");
        let answer = next(&mut client).expect("an answer, and then the end");
        assert_eq!(answer[..2], (asked as u16).to_be_bytes());
        // Clients take their time between queries. It is then that a farewell comes.
        client.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        match client.peek(&mut [0]) {
            Ok(0) => return asked + 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => unreachable!("between queries: {other:?}"),
        }
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    unreachable!("the program ends before so many queries")
}

fn udp_client(at: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.connect(at).expect("an address");
    client
}

fn tcp_client(at: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(at).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.set_nodelay(true).expect("an option");
    client
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// The next message of a connection, or nothing at its end. A reset fails.
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
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn nothing_that_came_before_the_end_is_lost() {
    let upstream = Upstream::start();
    let outside = upstream.at();
    let corefile = format!(
        ".:0 {{\n    bind 127.0.0.1\n    errors\n    health 127.0.0.1:0 {{\n        lameduck 300ms\n    }}\n    \
         ready 127.0.0.1:0\n    kubernetes cluster.local\n    cache 30\n    forward . {outside} {{\n        prefer_udp\n    }}\n}}\n"
    );
    let conf = file(&folder("stopping"), "Corefile", &corefile);
    let mut server = Running::start(&["-conf", &conf, "-manifests", "deploy/sample"]);
    let [health, ready] = ["health", "ready"].map(|directive| server.page(directive));
    let at = server.at;
    // Of the cluster, kept by the cache, and of another server.
    let names =
        ["db.data.svc.cluster.local.", "none.data.svc.cluster.local.", "kept.example.", "web.shop.svc.cluster.local."];
    std::thread::scope(|scope| {
        let udp: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| asks_over_udp(at, &names))).collect();
        let tcp: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| asks_over_tcp(at, &names))).collect();
        let (slow_udp, mut slow_tcp, mut idle) = (udp_client(at), tcp_client(at), tcp_client(at));
        idle.write_all(&framed(&query(0, names[0]))).expect("sent");
        assert!(next(&mut idle).is_some());
        for id in 0..SLOW {
            slow_udp.send(&query(id, &format!("slow-{id}.example."))).expect("sent");
            slow_tcp.write_all(&framed(&query(id, &format!("slow-too-{id}.example.")))).expect("sent");
        }
        eventually("they are on their way", || upstream.holds() == usize::from(2 * SLOW));

        server.signal("-TERM");
        eventually("/ready says no", || get(ready, "/ready").0 == 503);
        assert_eq!(get(health, "/health").0, 200);
        assert_eq!(server.ask(names[0]).0, 0);
        // A connection that nothing is due to hears of the end first, by which the end of the lameduck is known.
        assert!(next(&mut idle).is_none());
        upstream.let_go();
        let mut ids: Vec<u16> = Vec::new();
        while ids.len() < usize::from(SLOW) {
            let mut answer = [0; 512];
            slow_udp.recv(&mut answer).expect("an answer of the other server");
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
        assert!(ids.into_iter().eq(0..SLOW), "over TCP, too, and then a farewell");
        drop((slow_tcp, idle));
        for client in udp.into_iter().chain(tcp) {
            assert!(client.join().expect("each query has its answer") > 0);
        }
    });
    assert_eq!(server.wait(), Some(0));
}
