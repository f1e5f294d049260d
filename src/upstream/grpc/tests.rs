//! Tests of calls, against servers of HTTP/2 with every fault.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderMap, Response};

use super::*;
use crate::net::grpc::DnsPacket;
use crate::upstream::testing::{Http2Reply, http2_server, runtime};
use crate::upstream::{ConnectionReuse, Http2Address, Trust};

const LONG: Duration = Duration::from_secs(10);

fn client(runtime: &tokio::runtime::Runtime, address: Http2Address, pause: Duration) -> GrpcClient {
    let config = Http2Config { address, source: None, trust: None, reuse: ConnectionReuse::default(), pause };
    GrpcClient::new(&config, runtime.handle().clone()).expect("a client")
}

fn call(path: &'static str, time: Duration) -> GrpcCall {
    GrpcCall {
        client: IpAddr::from([10, 0, 0, 1]),
        path,
        body: grpc::encode(&DnsPacket { msg: vec![1, 2, 3] }),
        headers: vec![(HeaderName::from_static("token"), HeaderValue::from_static("secret"))],
        limit: 100,
        memory: None,
        until: Instant::now() + time,
    }
}

fn status(code: GrpcCode, text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    GrpcStatus::new(code, text).write(&mut headers);
    headers
}

fn reply(body: &[u8], trailers: HeaderMap) -> Option<Http2Reply> {
    let response = Response::builder().header(CONTENT_TYPE, grpc::CONTENT_TYPE).body(body.to_vec());
    Some((response.expect("a response"), trailers))
}

/// A server whose paths are its faults.
fn respond(request: Request<Vec<u8>>) -> Option<Http2Reply> {
    let ok = || status(GrpcCode::Ok, "");
    let message = |len| grpc::encode(&DnsPacket { msg: vec![7; len] });
    match request.uri().path() {
        "/echo" => {
            let headers = request.headers();
            assert_eq!(
                (&headers["te"], &headers["token"]),
                (&HeaderValue::from_static("trailers"), &"secret".parse().expect("a value"))
            );
            assert_eq!((request.method().as_str(), request.uri().scheme_str()), ("POST", Some("http")));
            reply(request.body(), ok())
        }
        "/not-found" => reply(&[], status(GrpcCode::NotFound, "no such 100 % name")),
        "/head" => {
            let (mut response, _) = reply(&[], HeaderMap::new())?;
            response.headers_mut().extend(status(GrpcCode::PermissionDenied, ""));
            Some((response, HeaderMap::new()))
        }
        "/none" => reply(&message(3), HeaderMap::new()),
        "/half" => reply(&message(3)[..6], ok()),
        "/large" => reply(&message(101), ok()),
        "/huge" => reply(&vec![0; 10_000_000], ok()),
        "/claims" => reply(&[0, 0xff, 0xff, 0xff, 0xff, 1], ok()),
        "/text" => Some((Response::new(b"hello".to_vec()), HeaderMap::new())),
        "/teapot" => {
            let response = Response::builder().status(503).body(Vec::new());
            Some((response.expect("a response"), HeaderMap::new()))
        }
        _ => None,
    }
}

#[test]
fn each_response_has_its_status_and_the_connection_stays() {
    let runtime = runtime();
    let (address, connections) = http2_server(&runtime, None, respond);
    let client = client(&runtime, Http2Address::Socket(address), Duration::ZERO);
    runtime.block_on(async {
        for (path, expected) in [
            ("/not-found", "code = NotFound desc = no such 100 % name"),
            ("/head", "code = PermissionDenied"),
            ("/none", "code = Internal desc = server closed the stream without sending trailers"),
            ("/half", "code = Internal desc = unexpected EOF"),
            ("/large", "code = ResourceExhausted"),
            ("/huge", "the response has more than 105 bytes"),
            ("/claims", "code = ResourceExhausted"),
            ("/text", "code = Unknown desc = unexpected content-type \"\""),
            ("/teapot", "code = Unavailable desc = unexpected HTTP status code received from server: 503"),
        ] {
            let error = client.call(call(path, LONG)).await.expect_err(path).to_string();
            assert!(error.contains(expected), "{path}: {error}");
            let echo = client.call(call("/echo", LONG)).await.expect("an echo").0;
            assert_eq!(DnsPacket::parse(&echo).expect("a packet").msg, [1, 2, 3]);
        }
    });
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[test]
fn a_server_that_says_nothing_costs_the_time_of_the_call_and_its_connection() {
    let runtime = runtime();
    let (address, connections) = http2_server(&runtime, None, respond);
    let client = client(&runtime, Http2Address::Socket(address), Duration::ZERO);
    runtime.block_on(async {
        let error = client.call(call("/never", Duration::from_millis(50))).await.expect_err("no response");
        assert_eq!(error.code, GrpcCode::DeadlineExceeded);
        client.call(call("/echo", LONG)).await.expect("an echo over another connection");
    });
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[test]
fn calls_without_a_response_keep_no_other_client_waiting() {
    let runtime = runtime();
    // The server answers 200 requests of a connection at once.
    let (address, connections) = http2_server(&runtime, None, respond);
    let client = client(&runtime, Http2Address::Socket(address), Duration::ZERO);
    runtime.block_on(async {
        let mut never = JoinSet::new();
        (0..450).for_each(|_| drop(never.spawn(client.call(call("/never", LONG)))));
        let echo = client.call(GrpcCall { client: IpAddr::from([10, 0, 0, 2]), ..call("/echo", LONG) });
        echo.await.expect("an echo");
        assert!(never.try_join_next().is_none(), "the calls of the other client still wait");
    });
    let connections = connections.load(Ordering::Relaxed);
    assert!((3..=5).contains(&connections), "{connections}");
}

#[test]
fn a_server_that_is_away_is_not_tried_for_each_call() {
    let runtime = runtime();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("an address");
    let waiting = client(&runtime, Http2Address::Socket(closed), Duration::from_secs(3_600));
    let trying = client(&runtime, Http2Address::Socket(closed), Duration::ZERO);
    let refused = format!("rpc error: code = Unavailable desc = {closed}: connection refused");
    for client in [&waiting, &trying] {
        let error = runtime.block_on(client.call(call("/echo", LONG))).expect_err("nothing listens");
        assert_eq!(error.to_string(), refused);
    }
    // It comes back.
    let server = std::net::TcpListener::bind(closed).expect("the port is free");
    server.set_nonblocking(true).expect("a socket");
    assert_eq!(runtime.block_on(waiting.call(call("/echo", LONG))).expect_err("a pause").to_string(), refused);
    let tried = runtime.block_on(trying.call(call("/echo", Duration::from_millis(100)))).expect_err("no HTTP/2");
    assert_eq!(tried.code, GrpcCode::DeadlineExceeded);
}

#[test]
fn servers_are_reached_by_name_and_by_unix_socket() {
    let runtime = runtime();
    let (address, _) = http2_server(&runtime, None, respond);
    let named = client(&runtime, Http2Address::Host("localhost".to_owned(), address.port()), Duration::ZERO);
    runtime.block_on(named.call(call("/echo", LONG))).expect("an echo");
    let path = std::env::temp_dir().join(format!("clusterdns-grpc-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let _entered = runtime.enter();
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    runtime.spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a connection");
        let mut server = tokio::net::TcpStream::connect(address).await.expect("connected");
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let unix = client(&runtime, Http2Address::Unix(path.clone()), Duration::ZERO);
    runtime.block_on(unix.call(call("/echo", LONG))).expect("an echo");
    std::fs::remove_file(path).expect("removed");
    // A server without TLS is not trusted.
    let config = Http2Config {
        address: Http2Address::Socket(address),
        source: None,
        trust: Some(Trust::default()),
        reuse: ConnectionReuse::default(),
        pause: Duration::ZERO,
    };
    let strict = GrpcClient::new(&config, runtime.handle().clone()).expect("a client");
    let error = runtime.block_on(strict.call(call("/echo", LONG))).expect_err("no TLS");
    assert_eq!(error.code, GrpcCode::Unavailable, "{error}");
}
