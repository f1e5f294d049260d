//! Requests over loopback.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// A site with `/health`, and `/ready` by a switch.
fn start() -> (SocketAddr, Arc<AtomicBool>) {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let ready = Arc::new(AtomicBool::new(false));
    let switch = ready.clone();
    let mut site = Site::default();
    site.add("/health", Arc::new(Said::ok));
    site.add(
        "/ready",
        Arc::new(move || match switch.load(Ordering::Relaxed) {
            true => Said::ok(),
            false => Said::unavailable("kubernetes\nkubernetes: Pod".to_owned()),
        }),
    );
    tokio::spawn(serve(listener, Arc::new(site), None));
    (address, ready)
}

/// Sends this and reads until the end.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    // A connection that is cut gives what came before.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn pages_are_answered_as_in_coredns() {
    let (address, ready) = start();
    let get = async |path: &str| exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let answer = get("/health").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK"), "{answer}");
    assert!(answer.contains("content-type: text/plain; charset=utf-8\r\n"), "{answer}");
    let answer = get("/ready?verbose").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nkubernetes\nkubernetes: Pod"), "{answer}");
    ready.store(true, Ordering::Relaxed);
    assert!(get("/ready").await.ends_with("\r\n\r\nOK"));
    let answer = get("/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n404 page not found\n") && answer.contains("nosniff"), "{answer}");
    let head = exchange(address, "HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.contains("content-length: 2\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post = exchange(address, "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(post.ends_with("\r\n\r\nOK"), "{post}");
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let (address, _) = start();
    assert!(exchange(address, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let large = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_LIMIT));
    let answer = exchange(address, &large).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    let answer = exchange(address, &many).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn silent_connections_make_room() {
    let (address, _) = start();
    let mut silent = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        silent.push(TcpStream::connect(address).await.expect("connected"));
    }
    probe::probe(address, "/health").await.expect("an answer");
    // The first ones are closed.
    assert_eq!(silent[0].read(&mut [0; 9]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_probe_tells_what_is_wrong() {
    let (address, _) = start();
    probe::probe(reachable(SocketAddr::from(([0, 0, 0, 0], address.port()))), "/health").await.expect("an answer");
    let error = probe::probe(address, "/ready").await.expect_err("not ready");
    assert_eq!(error.to_string(), "answer 'HTTP/1.1 503 Service Unavailable'");
    let error = listen(address, false).expect_err("taken");
    assert_eq!(crate::net::reason(&error), "address already in use");
}
