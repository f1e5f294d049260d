//! Tests over loopback.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Starts a listener with `/health`, and with `/ready`, which follows the switch.
fn start() -> (SocketAddr, Arc<AtomicBool>) {
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let ready = Arc::new(AtomicBool::new(false));
    let switch = ready.clone();
    let mut site = Site::default();
    site.add("/health", PageOrigin::CoreDns, Arc::new(|_: &PageVisit<'_>| PageContent::ok()));
    site.add(
        "/echo",
        PageOrigin::Added,
        Arc::new(|visit: &PageVisit<'_>| {
            let parameters: Vec<_> = visit.parameters().collect();
            PageContent::bad_request(format!("{parameters:?} {}", visit.is_local))
        }),
    );
    site.add(
        "/ready",
        PageOrigin::CoreDns,
        Arc::new(move |_: &PageVisit<'_>| match switch.load(Ordering::Relaxed) {
            true => PageContent::ok(),
            false => PageContent::unavailable("kubernetes\nkubernetes: Pod".to_owned()),
        }),
    );
    tokio::spawn(serve(listener, Arc::new(site), None));
    (address, ready)
}

/// Sends a request and reads the response to its end.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    // If the connection breaks, what was received before counts.
    let _ = stream.read_to_string(&mut response).await;
    response
}

#[tokio::test]
async fn pages_are_served_as_in_coredns() {
    let (address, ready) = start();
    let get = async |path: &str| exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    let response = get("/health").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.ends_with("\r\n\r\nOK"), "{response}");
    assert!(response.contains("content-type: text/plain; charset=utf-8\r\n"), "{response}");
    let response = get("/ready?verbose").await;
    assert!(
        response.starts_with("HTTP/1.1 503 ") && response.ends_with("\r\n\r\nkubernetes\nkubernetes: Pod"),
        "{response}"
    );
    ready.store(true, Ordering::Relaxed);
    assert!(get("/ready").await.ends_with("\r\n\r\nOK"));
    let response = get("/metrics").await;
    assert!(response.starts_with("HTTP/1.1 404 Not Found\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\n404 page not found\n") && response.contains("nosniff"), "{response}");
    let head = exchange(address, "HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.contains("content-length: 2\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post = exchange(address, "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    assert!(post.ends_with("\r\n\r\nOK"), "{post}");
    assert!(!post.contains("cache-control") && !post.contains("nosniff"), "{post}");
}

/// With as many threads as the server has. More of the other page are requested than there are threads.
#[test]
fn probes_do_not_wait_for_other_pages() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let gate = std::sync::Mutex::new(gate);
    runtime.expect("threads").block_on(async {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), false).expect("a socket");
        let address = listener.local_addr().expect("an address");
        let mut site = Site::default();
        site.add("/health", PageOrigin::CoreDns, Arc::new(|_: &PageVisit<'_>| PageContent::ok()));
        let slow = move |_: &PageVisit<'_>| {
            started.send(()).expect("the test waits");
            gate.lock().expect("a gate").recv().expect("the test goes on");
            PageContent::ok()
        };
        site.add("/metrics", PageOrigin::CoreDns, Arc::new(slow));
        tokio::spawn(serve(listener, Arc::new(site), None));
        let get = |path: &'static str| async move {
            exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
        };
        let slow: Vec<_> = (0..4).map(|_| tokio::spawn(get("/metrics"))).collect();
        starts.recv().await.expect("a page is written");
        let probe = tokio::time::timeout(TIMEOUT, get("/health")).await.expect("the probe does not wait");
        assert!(probe.ends_with("\r\n\r\nOK"), "{probe}");
        (0..4).for_each(|_| go.send(()).expect("a page waits"));
        for page in slow {
            assert!(page.await.expect("a response").ends_with("\r\n\r\nOK"));
        }
    });
}

#[tokio::test]
async fn pages_that_coredns_does_not_have_are_read_only_and_not_stored() {
    let (address, _) = start();
    let send = async |method: &str, path: &str, host: &str| {
        exchange(address, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")).await
    };
    let headers = ["cache-control: no-store\r\n", "x-content-type-options: nosniff\r\n"];
    for (host, is_local) in [("localhost", true), ("x", false), ("é", false)] {
        let response = send("GET", "/echo?a=b", host).await;
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(response.ends_with(&format!("[(\"a\", \"b\")] {is_local}")), "{response}");
        assert!(headers.iter().all(|header| response.contains(header)), "{response}");
    }
    // Decoded once: %2541 is %41, and not A.
    let response = send("GET", "/echo?%61=%2541+%26&&c", "x").await;
    assert!(response.ends_with(r#"[("a", "%41 &"), ("c", "")] false"#), "{response}");
    let head = send("HEAD", "/echo", "x").await;
    assert!(head.starts_with("HTTP/1.1 400 ") && head.ends_with("\r\n\r\n"), "{head}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "OTHER"] {
        let response = send(method, "/echo", "localhost").await;
        assert!(response.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{method}: {response}");
        assert!(response.contains("allow: GET, HEAD\r\n"), "{method}: {response}");
        assert!(headers.iter().all(|header| response.contains(header)), "{method}: {response}");
    }
}

#[tokio::test]
async fn invalid_and_large_requests_are_rejected() {
    let (address, _) = start();
    assert!(exchange(address, "invalid\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let large = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_LIMIT));
    let response = exchange(address, &large).await;
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 431 "), "{response}");
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    let response = exchange(address, &many).await;
    assert!(response.is_empty() || response.starts_with("HTTP/1.1 431 "), "{response}");
}

#[tokio::test]
async fn the_oldest_idle_connections_are_closed_over_the_limit() {
    let (address, _) = start();
    let mut idle = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        idle.push(TcpStream::connect(address).await.expect("connected"));
    }
    probe::probe(address, "/health").await.expect("a response");
    // The first ones are closed.
    assert_eq!(idle[0].read(&mut [0; 9]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_probe_reports_the_reason_for_its_failure() {
    let (address, _) = start();
    probe::probe(reachable(SocketAddr::from(([0, 0, 0, 0], address.port()))), "/health").await.expect("a response");
    let error = probe::probe(address, "/ready").await.expect_err("not ready");
    assert_eq!(error.to_string(), "response 'HTTP/1.1 503 Service Unavailable'");
    let error = listen(address, false).expect_err("taken");
    assert_eq!(crate::net::reason(&error), "address already in use");
}

/// A site whose name has been given the address of this machine (DNS rebinding) does not see what local visitors see.
#[test]
fn a_host_that_is_a_name_of_another_site_is_not_local() {
    for host in ["", "localhost", "LOCALHOST:9153", "127.0.0.1", "127.0.0.1:9153", "[::1]", "[::1]:9153", "10.0.0.1"] {
        assert!(is_own_host(host), "{host}");
    }
    for host in ["evil.example", "evil.example:9153", "localhost.evil.example", "127.0.0.1.evil.example:80", "x:y"] {
        assert!(!is_own_host(host), "{host}");
    }
}
