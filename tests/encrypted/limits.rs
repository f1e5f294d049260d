//! Limits of encrypted listeners: connections, streams, and requests that have come in part.

use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clusterdns::net::grpc;
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc::UnboundedSender;

use super::running::{Running, TIMEOUT, file};
use super::{Trust, http, port, prefixed, query, read, runtime};

/// A body that has begun and does not end.
struct Half(Option<Bytes>);

impl hyper::body::Body for Half {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

/// Begins queries over a connection of QUIC. What becomes of each goes to `ends`.
async fn begin_over_quic(connection: &quinn::Connection, count: usize, ends: &UnboundedSender<String>) {
    for _ in 0..count {
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&prefixed(&query(0, "a.example"))[..20]).await.expect("written");
        let ends = ends.clone();
        tokio::spawn(async move {
            let end = receive.read_to_end(70_000).await;
            drop(send);
            let _ = ends.send(format!("{end:?}"));
        });
    }
}

/// Begins requests over a connection of HTTP/2: calls of gRPC, or DNS over HTTPS.
async fn begin_over_http2(at: SocketAddr, is_grpc: bool, count: usize, ends: &UnboundedSender<String>) {
    let socket = TokioIo::new(tokio::net::TcpStream::connect(at).await.expect("connected"));
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket);
    let (mut sender, connection) = client.await.expect("HTTP/2");
    tokio::spawn(connection);
    for _ in 0..count {
        let (path, content_type, body) = if is_grpc {
            (grpc::QUERY_PATH, grpc::CONTENT_TYPE, &[0, 0, 0, 0, 40, 10, 38, 0, 0][..])
        } else {
            ("/dns-query", "application/dns-message", &[0; 20][..])
        };
        let request = http::Request::post(format!("http://dns.example{path}")).header("content-type", content_type);
        let request = request.body(Half(Some(Bytes::from_static(body))));
        sender.ready().await.expect("ready");
        let (response, ends, sender) = (sender.send_request(request.expect("a request")), ends.clone(), sender.clone());
        tokio::spawn(async move {
            let response = response.await.expect("a response");
            let status = response.headers().get("grpc-status").map(|code| code.to_str().expect("a number").to_owned());
            let _ = ends.send(status.unwrap_or_else(|| response.status().as_str().to_owned()));
            drop(sender);
        });
    }
}

/// Begins requests over a connection of HTTP/3.
async fn begin_over_https3(connection: quinn::Connection, count: usize, ends: &UnboundedSender<String>) {
    let (mut driver, mut sender) = h3::client::new(h3_quinn::Connection::new(connection)).await.expect("HTTP/3");
    tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    for _ in 0..count {
        let request = http::Request::post("https://dns.example/dns-query").body(()).expect("a request");
        let mut stream = sender.send_request(request).await.expect("sent");
        stream.send_data(Bytes::from_static(&[0; 20])).await.expect("sent");
        let (ends, sender) = (ends.clone(), sender.clone());
        tokio::spawn(async move {
            let _ = ends.send(stream.recv_response().await.expect("a response").status().as_str().to_owned());
            drop(sender);
        });
    }
}

/// At the limit on requests that have come in part, the oldest of the client with the most are refused.
#[test]
fn unfinished_requests_of_a_client_keep_no_other_out() {
    const LIMIT: usize = 1_024;
    let trust = Trust::new("unfinished");
    // The timeout is not what ends them.
    let wait = "timeouts {\n        read 1h\n    }";
    let encrypted = trust.corefile("https3://.:0 quic://.:0", &format!("{wait}\n    whoami"));
    let plain = format!("https://.:0 grpc://.:0 {{\n    bind 127.0.0.1\n    {wait}\n    whoami\n}}\n");
    let conf = file(&trust.folder, "Corefile", &(encrypted + &plain));
    for (scheme, expected) in [("quic", "Err(Read(Reset(4)))"), ("https", "503"), ("https3", "503"), ("grpc", "14")] {
        let server = Running::start(&["-conf", &conf]);
        runtime().block_on(async {
            let modest = trust.quic_from(Ipv4Addr::new(127, 0, 0, 2), port(&server, "quic"), "doq").await;
            let (mut send, mut receive) = modest.1.open_bi().await.expect("a stream");
            let message = prefixed(&query(0, "a.example"));
            send.write_all(&message[..20]).await.expect("written");
            let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
            let (at, mut connections) = (port(&server, scheme), Vec::new());
            for _ in 0..5 {
                match scheme {
                    "https" | "grpc" => begin_over_http2(at, scheme == "grpc", 250, &ends).await,
                    _ => {
                        let connection = trust.quic(at, if scheme == "quic" { "doq" } else { "h3" }).await;
                        match scheme {
                            "quic" => begin_over_quic(&connection.1, 250, &ends).await,
                            _ => begin_over_https3(connection.1.clone(), 250, &ends).await,
                        }
                        connections.push(connection);
                    }
                }
            }
            for _ in 0..5 * 250 + 1 - LIMIT {
                let end = tokio::time::timeout(TIMEOUT, ended.recv()).await;
                assert_eq!(end.expect("one is refused").as_deref(), Some(expected), "{scheme}");
            }
            send.write_all(&message[20..]).await.expect("written");
            send.finish().expect("finished");
            let answer = receive.read_to_end(70_000).await.expect("an answer");
            assert_eq!(read(&answer[2..]), (0, "10.0.0.1".to_owned()), "{scheme}");
            assert!(ended.is_empty(), "{scheme}: {:?}", ended.recv().await);
        });
    }
}

/// A connection of QUIC starts with few streams, since each that may be opened takes memory, and has more when its
/// client uses them. The largest limit takes no memory in advance.
#[test]
fn a_client_of_quic_that_uses_its_streams_may_open_more() {
    let trust = Trust::new("streams");
    for (scheme, protocol) in [("quic", "doq"), ("https3", "h3")] {
        let most = format!("{scheme} {{\n        max_streams 4294967295\n    }}\n    whoami");
        let server = trust.start(&format!("{scheme}://.:0"), &most);
        runtime().block_on(async {
            let (_endpoint, quic) = trust.quic(port(&server, scheme), protocol).await;
            let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
            let begin = async {
                if protocol == "h3" {
                    return begin_over_https3(quic, 400, &ends).await;
                }
                let mut first = Vec::new();
                for _ in 0..16 {
                    first.push(quic.open_bi().await.expect("a stream"));
                }
                let another = tokio::time::timeout(Duration::from_millis(200), quic.open_bi()).await;
                assert!(another.is_err(), "the server does not know yet that the streams are used");
                for (send, _) in &mut first {
                    send.write_all(&[0]).await.expect("written");
                }
                begin_over_quic(&quic, 400, &ends).await;
            };
            tokio::time::timeout(TIMEOUT, begin).await.expect("more streams");
            assert_eq!(ended.try_recv().ok(), None, "{scheme}");
        });
    }
}

/// A frame of HTTP/3 may claim any length; the server does not buffer it until it is complete.
#[test]
fn a_frame_that_claims_much_is_not_read_over_http3() {
    let trust = Trust::new("frames");
    let server = trust.start("https3://.:0", "whoami");
    let at = port(&server, "https3");
    // A frame of 2^30 - 1 bytes: a request's head, and settings on the control stream.
    let len = [0xbf, 0xff, 0xff, 0xff];
    for (is_request, start) in [(true, [&[0x01][..], &len].concat()), (false, [&[0x00, 0x04][..], &len].concat())] {
        runtime().block_on(async {
            let (_endpoint, connection) = trust.quic(at, "h3").await;
            let mut send = if is_request {
                connection.open_bi().await.expect("a stream").0
            } else {
                connection.open_uni().await.expect("a stream")
            };
            send.write_all(&start).await.expect("written");
            let mut taken = 0;
            let writing = async {
                while taken < 8 << 20 && send.write_all(&[0; 16_384]).await.is_ok() {
                    taken += 16_384;
                }
            };
            writing.await;
            assert!(taken < 1 << 20, "{taken} bytes of {start:?}");
        });
    }
}

#[test]
fn connections_over_the_limit_replace_idle_ones() {
    let trust = Trust::new("limits");
    // They do not end by a timeout.
    let lines = "https {\n        max_connections 3\n    }\n    quic {\n        max_connections 2\n    }\n    \
                 timeouts {\n        read 1h\n    }\n    whoami";
    let mut server = trust.start("https://.:0 quic://.:0", lines);
    let at = port(&server, "https");
    let mut idle: Vec<_> = (0..20).map(|_| TcpStream::connect_timeout(&at, TIMEOUT).expect("connected")).collect();
    // Half of them begin a handshake and stop.
    idle.iter_mut().step_by(2).for_each(|client| client.write_all(&[22, 3, 1, 2, 0, 1]).expect("written"));
    let get =
        b"GET /dns-query?dns=AAABAAABAAAAAAAAAWEHZXhhbXBsZQAAAQAB HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(http(&trust, at, get).0, 200);
    // Connections with incomplete requests do not prevent it either.
    let head = b"POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n";
    let mut begun: Vec<_> = (0..3).map(|_| trust.tls(at)).collect();
    for stream in &mut begun {
        stream.write_all(head).expect("written");
    }
    assert_eq!(http(&trust, at, get).0, 200);
    // All but the last have been closed.
    for client in &mut idle[..17] {
        client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let closed = client.read(&mut [0; 1]);
        let is_closed = closed.as_ref().map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |&len| len == 0);
        assert!(is_closed, "{closed:?}");
    }
    let at = port(&server, "quic");
    runtime().block_on(async {
        let mut connections = Vec::new();
        let mut streams = Vec::new();
        for _ in 0..6 {
            let connection = trust.quic(at, "doq").await;
            // A connection with an incomplete query counts as idle.
            let (mut send, receive) = connection.1.open_bi().await.expect("a stream");
            send.write_all(&[0]).await.expect("written");
            connections.push(connection);
            streams.push((send, receive));
        }
        let (_, last) = connections.last().expect("one");
        let (mut send, mut receive) = last.open_bi().await.expect("a stream");
        send.write_all(&prefixed(&query(0, "a.example"))).await.expect("written");
        send.finish().expect("finished");
        receive.read_to_end(70_000).await.expect("an answer");
        let closed = tokio::time::timeout(TIMEOUT, connections[0].1.closed()).await.expect("it closes");
        assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
    });
    // They do not delay the stop.
    server.signal("-TERM");
    assert_eq!(server.wait(), Some(0));
}
