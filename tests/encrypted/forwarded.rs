//! How queries that came over an encrypted transport are forwarded.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use super::{Trust, port, prefixed, query, read, read_prefixed, runtime};

/// Answers with an address, or with no record and the flag TC.
fn answer(mut query: Vec<u8>, is_truncated: bool) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|&byte| byte == 0).expect("a name") + 5;
    query.truncate(end);
    (query[2], query[3], query[11]) = (0x81 | u8::from(is_truncated) << 1, 0x80, 0);
    if !is_truncated {
        query[7] = 1;
        query.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1]);
    }
    query
}

/// Starts an upstream whose answers over UDP are truncated for names that begin with "long". Returns its address and
/// the transports of the queries that have come.
fn upstream() -> (SocketAddr, Arc<Mutex<Vec<&'static str>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let at = listener.local_addr().expect("an address");
    let socket = UdpSocket::bind(at).expect("the same port over UDP");
    let queries = Arc::new(Mutex::new(Vec::new()));
    let (over_udp, over_tcp) = (queries.clone(), queries.clone());
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((len, client)) = socket.recv_from(&mut packet) {
            over_udp.lock().expect("not poisoned").push("UDP");
            let query = packet[..len].to_vec();
            let is_long = query[13..].starts_with(b"long");
            socket.send_to(&answer(query, is_long), client).expect("sent");
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            while let Ok(query) = read_prefixed(&mut stream) {
                over_tcp.lock().expect("not poisoned").push("TCP");
                stream.write_all(&prefixed(&answer(query, false))).expect("sent");
            }
        }
    });
    (at, queries)
}

/// Difference 393.
#[test]
fn a_query_over_quic_is_forwarded_over_udp_and_over_tcp_if_truncated() {
    let (upstream, queries) = upstream();
    let trust = Trust::new("quic-forwarded");
    let server = trust.start("quic://.:0", &format!("forward . {upstream}"));
    let at = port(&server, "quic");
    runtime().block_on(async {
        let (_endpoint, connection) = trust.quic(at, "doq").await;
        for (name, transports) in [("short.example", &["UDP"][..]), ("long.example", &["UDP", "TCP"][..])] {
            let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
            send.write_all(&prefixed(&query(0, name))).await.expect("written");
            send.finish().expect("finished");
            let answer = receive.read_to_end(70_000).await.expect("an answer");
            assert_eq!(read(&answer[2..]), (0, "192.0.2.1".to_owned()), "{name}");
            assert_eq!(std::mem::take(&mut *queries.lock().expect("not poisoned")), transports, "{name}");
        }
    });
}
