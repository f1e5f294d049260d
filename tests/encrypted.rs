//! DNS over TLS, HTTPS, QUIC, HTTP/3 and gRPC: the program with certificates of the test's own authority, queried by
//! independent clients (kdig, curl, openssl) and by libraries.

#[path = "encrypted/certificates.rs"]
mod certificates;
#[path = "encrypted/forwarded.rs"]
mod forwarded;
#[path = "encrypted/limits.rs"]
mod limits;
mod running;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use clusterdns::net::grpc::{self, DnsPacket, GrpcBody, GrpcCode, GrpcStatus};
use clusterdns::wire::NameBuf;
use clusterdns::wire::hickory::decode;
use http_body_util::{BodyExt, Full};
use hyper::body::{Buf, Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::crypto::rustls::QuicClientConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use running::upstream::Upstream;
use running::{Running, TIMEOUT, file, folder, get};

/// An authority, and a directory with the certificates that it has signed.
struct Trust {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Trust {
    fn new(name: &str) -> Trust {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Not the name of the certificates that it signs, which would look self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("authority");
        let folder = folder(&format!("encrypted-{name}"));
        let trust = Trust { authority, folder };
        file(&trust.folder, "ca.pem", &trust.authority.pem());
        trust.sign("dns.example");
        trust
    }

    /// Replaces the certificate by one for a name and for loopback.
    fn sign(&self, name: &str) {
        let names = [name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &self.authority);
        file(&self.folder, "cert.pem", &certificate.expect("a certificate").pem());
        file(&self.folder, "key.pem", &key.serialize_pem());
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn client(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// Returns a Corefile with a block of these keys and lines.
    fn corefile(&self, keys: &str, lines: &str) -> String {
        let certificate = self.path("cert.pem");
        let key = self.path("key.pem");
        format!(
            ".:0 {keys} {{\n    bind 127.0.0.1\n    tls {certificate} {key}\n    hosts {{\n        10.0.0.1 a.example\n        \
             fallthrough\n    }}\n    {lines}\n}}\n"
        )
    }

    fn start(&self, keys: &str, lines: &str) -> Running {
        let conf = file(&self.folder, "Corefile", &self.corefile(keys, lines));
        Running::start(&["-conf", &conf])
    }

    fn tls(&self, at: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("dns.example").expect("a name");
        let session = ClientConnection::new(Arc::new(self.client(&[])), name).expect("a session");
        let socket = TcpStream::connect_timeout(&at, TIMEOUT).expect("connected");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        StreamOwned::new(session, socket)
    }

    async fn quic(&self, at: SocketAddr, protocol: &str) -> (quinn::Endpoint, quinn::Connection) {
        self.quic_from(Ipv4Addr::LOCALHOST, at, protocol).await
    }

    async fn quic_from(&self, ip: Ipv4Addr, at: SocketAddr, protocol: &str) -> (quinn::Endpoint, quinn::Connection) {
        let crypto = QuicClientConfig::try_from(self.client(&[protocol])).expect("QUIC");
        let endpoint = quinn::Endpoint::client((ip, 0).into()).expect("an endpoint");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connection = endpoint.connect_with(config, at, "dns.example").expect("begun").await.expect("connected");
        (endpoint, connection)
    }
}

/// Returns the address of a transport's listener, by the lines at start.
fn port(server: &Running, scheme: &str) -> SocketAddr {
    let start = format!("{scheme}://.:");
    let port = server.lines.iter().find_map(|line| line.strip_prefix(&start)?.split_whitespace().next()?.parse().ok());
    SocketAddr::from(([127, 0, 0, 1], port.expect("a line with the port")))
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let name = NameBuf::from_text(name).expect("a name");
    [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

/// Returns the ID and the first address of a response, or its code.
fn read(answer: &[u8]) -> (u16, String) {
    let message = decode(answer).expect("a message");
    let address = message.answers.first().map(|record| record.data.to_string());
    (message.metadata.id, address.unwrap_or_else(|| message.metadata.response_code.to_string()))
}

fn read_prefixed(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(prefix))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs a client, and returns its output; `None` if it is not installed.
fn run_client(program: &str, words: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(words).stdin(Stdio::null()).output() {
        Err(_) if std::env::var_os("CI").is_none() => return None,
        output => output.unwrap_or_else(|error| panic!("{program}: {error}")),
    };
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn independent_clients_get_answers() {
    let trust = Trust::new("independent");
    let server = trust.start("tls://.:0 https://.:0 quic://.:0 https3://.:0", "whoami");
    let authority = trust.path("ca.pem");
    for (scheme, flag) in [("tls", "+tls"), ("https", "+https"), ("https", "+https-get")] {
        let at = port(&server, scheme).port().to_string();
        let authority = format!("+tls-ca={authority}");
        let words = ["+short", "@127.0.0.1", "-p", &at, flag, &authority, "+tls-hostname=dns.example", "a.example"];
        if let Some(text) = run_client("kdig", &words) {
            assert_eq!(text, "10.0.0.1\n", "{flag}");
        }
    }
    // kdig 3.2 crashes with +tls-ca and +quic together.
    let at = port(&server, "quic").port().to_string();
    if let Some(text) = run_client("kdig", &["+short", "@127.0.0.1", "-p", &at, "+quic", "a.example"]) {
        assert_eq!(text, "10.0.0.1\n");
    }
    let at = port(&server, "https");
    let url = format!("https://dns.example:{}/dns-query?dns=AAABAAABAAAAAAAAAWEHZXhhbXBsZQAAAQAB", at.port());
    let resolve = format!("dns.example:{}:127.0.0.1", at.port());
    let body = trust.path("body");
    for version in ["--http2", "--http1.1"] {
        let words = ["-sS", "-D", "-", version, "--cacert", &authority, "--resolve", &resolve, "-o", &body, &url];
        if let Some(text) = run_client("curl", &words) {
            let text = text.to_lowercase();
            assert!(text.contains("content-type: application/dns-message"), "{text}");
            assert!(text.contains("cache-control: max-age=3600"), "{text}");
            assert_eq!(read(&std::fs::read(&body).expect("a body")), (0, "10.0.0.1".to_owned()));
        }
    }
    let at = port(&server, "tls").to_string();
    let words = ["s_client", "-connect", &at, "-CAfile", &authority, "-verify_hostname", "dns.example"];
    if let Some(text) = run_client("openssl", &words) {
        assert!(text.contains("Verify return code: 0 (ok)") && text.contains("TLSv1.3"), "{text}");
    }
    // TLS before 1.2 is refused.
    let words = ["s_client", "-connect", &at, "-tls1_1", "-cipher", "ALL@SECLEVEL=0"];
    if let Some(text) = run_client("openssl", &words) {
        assert!(text.contains("Cipher is (NONE)"), "{text}");
    }
}

#[test]
fn queries_over_tls_are_pipelined_and_may_come_in_pieces() {
    let trust = Trust::new("tls");
    let server = trust.start("tls://.:0", "whoami");
    let at = port(&server, "tls");
    let mut stream = trust.tls(at);
    let many: Vec<u8> = (1..=300).flat_map(|id| prefixed(&query(id, "a.example"))).collect();
    for piece in many.chunks(7) {
        stream.write_all(piece).expect("written");
    }
    for id in 1..=300 {
        let answer = read_prefixed(&mut stream).expect("an answer");
        assert_eq!(read(&answer), (id, "10.0.0.1".to_owned()));
    }
    // A client that does not speak TLS, or stops in a handshake, does not affect other clients.
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 200, 1][..], &[0xff; 4096][..]] {
        let mut socket = TcpStream::connect_timeout(&at, TIMEOUT).expect("connected");
        socket.write_all(junk).expect("written");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let _ = socket.read(&mut [0; 64]);
    }
    stream.write_all(&prefixed(&query(7, "a.example"))).expect("written");
    assert_eq!(read(&read_prefixed(&mut stream).expect("an answer")), (7, "10.0.0.1".to_owned()));
}

/// N12: two queries in one segment, and a length in two segments.
#[test]
fn a_slow_query_over_tls_delays_no_other() {
    let trust = Trust::new("slow");
    let upstream = Upstream::start();
    let server = trust.start("tls://.:0", &format!("forward . {} {{\n        prefer_udp\n    }}", upstream.at()));
    let mut stream = trust.tls(port(&server, "tls"));
    let slow = prefixed(&query(1, "slow.example"));
    for (id, split) in [(2, 0), (3, 1), (4, slow.len() + 1)] {
        let bytes = [slow.clone(), prefixed(&query(id, "a.example"))].concat();
        let (first, second) = bytes.split_at(split);
        // Each piece is a TLS record of its own.
        for piece in [first, second] {
            stream.write_all(piece).expect("written");
            stream.flush().expect("sent");
        }
        let answer = read_prefixed(&mut stream).expect("an answer");
        assert_eq!(read(&answer), (id, "10.0.0.1".to_owned()));
    }
    upstream.release();
    for _ in 0..3 {
        assert_eq!(read(&read_prefixed(&mut stream).expect("an answer")).0, 1);
    }
}

#[test]
fn a_stop_closes_connections_properly() {
    let trust = Trust::new("end");
    let mut server = trust.start("tls://.:0 quic://.:0", "whoami");
    let mut stream = trust.tls(port(&server, "tls"));
    stream.write_all(&prefixed(&query(1, "a.example"))).expect("written");
    read_prefixed(&mut stream).expect("an answer");
    let runtime = runtime();
    let (_endpoint, quic) = runtime.block_on(trust.quic(port(&server, "quic"), "doq"));
    // It is answered although it arrives together with SIGTERM.
    stream.write_all(&prefixed(&query(2, "a.example"))).expect("written");
    server.signal("-TERM");
    assert_eq!(read(&read_prefixed(&mut stream).expect("an answer")), (2, "10.0.0.1".to_owned()));
    // The connection ends with close_notify.
    assert_eq!(stream.read(&mut [0; 16]).expect("close_notify"), 0);
    let closed = runtime.block_on(quic.closed());
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 0u32.into()),
        "{closed}"
    );
    assert_eq!(server.wait(), Some(0));
}

/// Sends a request over HTTP/1.1 within TLS. Returns the status and the body.
fn http(trust: &Trust, at: SocketAddr, request: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = trust.tls(at);
    stream.write_all(request).expect("written");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer[end + 4..].to_vec())
}

#[test]
fn requests_over_https_are_answered_or_refused_with_a_status() {
    let trust = Trust::new("https");
    let server =
        trust.start("https://.:0", "acl {\n        drop type TXT\n    }\n    prometheus 127.0.0.1:0\n    whoami");
    let at = port(&server, "https");
    let post = |path: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: dns.example\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        http(&trust, at, &[head.as_bytes(), body].concat())
    };
    let (status, body) = post("/dns-query", &query(9, "a.example"));
    assert_eq!((status, read(&body)), (200, (9, "10.0.0.1".to_owned())));
    assert_eq!(post("/", &query(9, "a.example")).0, 404);
    // Not queries: too short, a response, a header that claims many questions.
    for bad in [&[0; 11][..], &[0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0], &[0, 0, 1, 0, 255, 255, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(post("/dns-query", bad).0, 400);
    }
    assert_eq!(post("/dns-query", &[0; 5_000]).0, 413);
    let long = format!("GET /dns-query?dns={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "A".repeat(60_000));
    assert_eq!(http(&trust, at, long.as_bytes()).0, 413);
    // *acl* drops it.
    let mut txt = query(9, "a.example");
    let at_type = txt.len() - 3;
    txt[at_type] = 16;
    assert_eq!(post("/dns-query", &txt).0, 500);
    assert_eq!(http(&trust, at, b"GET /dns-query HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").0, 400);
    assert_eq!(http(&trust, at, b"PUT /dns-query HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").0, 400);
    let metrics = get(server.page("prometheus"), "/metrics").1;
    for (status, count) in [(200, 1), (400, 5), (404, 1), (413, 2), (500, 1)] {
        let line = format!("https://127.0.0.1:0\",status=\"{status}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    let certificate = trust.path("cert.pem");
    let expiry = format!("clusterdns_tls_certificate_expiry_timestamp_seconds{{certificate=\"{certificate}\"}} ");
    assert!(metrics.contains(&expiry), "{expiry}{metrics}");
}

/// Sends a request over HTTP/2, and returns the status.
async fn status(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>, method: &str, path: &str, body: Vec<u8>,
) -> u16 {
    let request = http::Request::builder().method(method).uri(format!("http://dns.example{path}"));
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let response = tokio::time::timeout(TIMEOUT, sender.send_request(request)).await.expect("in time");
    response.expect("a response").status().as_u16()
}

#[test]
fn a_request_that_is_too_large_ends_no_connection_over_http2() {
    let conf = file(&folder("encrypted-large"), "Corefile", "https://.:0 .:0 {\n    bind 127.0.0.1\n    whoami\n}\n");
    let server = Running::start(&["-conf", &conf]);
    let at = port(&server, "https");
    runtime().block_on(async {
        let socket = TokioIo::new(tokio::net::TcpStream::connect(at).await.expect("connected"));
        let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket);
        let (mut sender, connection) = client.await.expect("HTTP/2");
        tokio::spawn(connection);
        for (body, uri) in [(5_000, 8_000), (70_000, 20_000), (300_000, 60_000)] {
            assert_eq!(status(&mut sender, "POST", "/dns-query", vec![0; body]).await, 413, "{body} bytes");
            let path = format!("/dns-query?dns={}", "A".repeat(uri));
            assert_eq!(status(&mut sender, "GET", &path, Vec::new()).await, 413, "{uri} bytes");
            let path = format!("/{}", "a".repeat(uri));
            assert_eq!(status(&mut sender, "GET", &path, Vec::new()).await, 404, "{uri} bytes");
            assert_eq!(status(&mut sender, "POST", "/dns-query", query(0, "a.example")).await, 200);
        }
    });
}

/// Opens a connection of HTTP/2, with TLS if there is an authority.
async fn http2(trust: Option<&Trust>, at: SocketAddr) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let socket = tokio::net::TcpStream::connect(at).await.expect("connected");
    let Some(trust) = trust else {
        let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
        let (sender, connection) = client.await.expect("HTTP/2");
        tokio::spawn(connection);
        return sender;
    };
    let name = ServerName::try_from("dns.example").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(trust.client(&["h2"]))).connect(name, socket).await;
    let stream = stream.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = client.await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// A call of gRPC: its request's method, path and content type, and the body.
type Call<'a> = (&'a str, &'a str, &'a str, Vec<u8>);

/// Calls a method of gRPC. Returns the status of HTTP, that of gRPC, and the ID and the first address of the response.
async fn call(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>, (method, path, content_type, body): Call<'_>,
) -> (u16, GrpcStatus, Option<(u16, String)>) {
    let request = http::Request::builder().method(method).uri(format!("http://dns.example{path}"));
    let request = request.header("content-type", content_type).body(Full::new(Bytes::from(body)));
    let response = tokio::time::timeout(TIMEOUT, sender.send_request(request.expect("a request"))).await;
    let (head, body) = response.expect("in time").expect("a response").into_parts();
    assert_eq!(head.headers["content-type"], grpc::CONTENT_TYPE);
    assert!(!head.headers.contains_key("content-length"));
    let body = body.collect().await.expect("a body");
    let status = body.trailers().and_then(GrpcStatus::read).or_else(|| GrpcStatus::read(&head.headers));
    let body = body.to_bytes();
    let answer = (!body.is_empty()).then(|| {
        let mut reader = GrpcBody::new(70_000);
        reader.push(&body).expect("a message");
        read(&DnsPacket::parse(&reader.finish().expect("a message")).expect("a packet").msg)
    });
    (head.status.as_u16(), status.expect("a status"), answer)
}

/// Returns the body of a call with a DNS message.
fn grpc_body(message: &[u8]) -> Vec<u8> {
    grpc::encode(&DnsPacket { msg: message.to_vec() })
}

#[test]
fn calls_of_grpc_are_answered_or_refused_with_a_status() {
    let trust = Trust::new("grpc");
    let lines = "acl {\n        drop type TXT\n    }\n    template IN HTTPS {\n        answer \"{{ .Name }} TYPE65 \\# 40000                  {{ printf `%080000d` 0 }}\"\n    }\n    prometheus 127.0.0.1:0\n    whoami";
    let encrypted = trust.corefile("grpc://.:0", lines);
    let plain = "grpc://.:0 {\n    bind 127.0.0.2\n    hosts {\n        10.0.0.1 a.example\n    }\n}\n";
    let server = Running::start(&["-conf", &file(&trust.folder, "Corefile", &(encrypted + plain))]);
    let ports: Vec<u16> = server
        .lines
        .iter()
        .filter_map(|line| line.strip_prefix("grpc://.:")?.split_whitespace().next()?.parse().ok())
        .collect();
    let (tls, plain) = (([127, 0, 0, 1], ports[0]).into(), SocketAddr::from(([127, 0, 0, 2], ports[1])));
    let mut txt = query(9, "a.example");
    let at_type = txt.len() - 3;
    txt[at_type] = 16;
    let content = grpc::CONTENT_TYPE;
    runtime().block_on(async {
        for (trust, at) in [(Some(&trust), tls), (None, plain)] {
            let mut sender = http2(trust, at).await;
            let good = || ("POST", grpc::QUERY_PATH, content, grpc_body(&query(7, "A.example")));
            let answered = (200, GrpcStatus::new(GrpcCode::Ok, ""), Some((7, "10.0.0.1".to_owned())));
            assert_eq!(call(&mut sender, good()).await, answered);
            for (name, (call, http, code)) in [
                ("path", (("POST", "/x.Y/Z", content, Vec::new()), 200, GrpcCode::Unimplemented)),
                ("method", (("GET", grpc::QUERY_PATH, content, Vec::new()), 405, GrpcCode::Internal)),
                ("type", (("POST", grpc::QUERY_PATH, "text/plain", Vec::new()), 415, GrpcCode::InvalidArgument)),
                ("no message", (("POST", grpc::QUERY_PATH, content, Vec::new()), 200, GrpcCode::Internal)),
                ("half", (("POST", grpc::QUERY_PATH, content, vec![0, 0, 0, 0, 9, 1]), 200, GrpcCode::Internal)),
                ("compressed", (("POST", grpc::QUERY_PATH, content, vec![1, 0, 0, 0, 0]), 200, GrpcCode::Internal)),
                ("no protobuf", (("POST", grpc::QUERY_PATH, content, vec![0, 0, 0, 0, 1, 7]), 200, GrpcCode::Internal)),
                (
                    "no query",
                    (("POST", grpc::QUERY_PATH, content, grpc_body(&[0; 11])), 200, GrpcCode::InvalidArgument),
                ),
                (
                    "too large",
                    (("POST", grpc::QUERY_PATH, content, grpc_body(&[0; 300_000])), 200, GrpcCode::ResourceExhausted),
                ),
            ] {
                let refused = refused_call(&mut sender, call).await;
                assert_eq!(refused, (http, code), "{name}");
                assert_eq!(self::call(&mut sender, good()).await, answered, "after {name}");
            }
        }
        let mut sender = http2(Some(&trust), tls).await;
        // *acl* drops it.
        let dropped = call(&mut sender, ("POST", grpc::QUERY_PATH, content, grpc_body(&txt))).await;
        assert_eq!((dropped.1.code, dropped.2), (GrpcCode::Internal, None));
        // A response may be much larger than a datagram.
        let mut large = query(3, "large.example");
        let at_type = large.len() - 3;
        large[at_type] = 65;
        let (_, status, answer) = call(&mut sender, ("POST", grpc::QUERY_PATH, content, grpc_body(&large))).await;
        assert_eq!((status.code, answer.map(|answer| answer.0)), (GrpcCode::Ok, Some(3)));
    });
    let metrics = get(server.page("prometheus"), "/metrics").1;
    let line = "coredns_dns_requests_total{family=\"1\",proto=\"tcp\",server=\"grpc://127.0.0.1:0\",type=\"A\",";
    assert!(metrics.contains(line), "{metrics}");
}

/// Calls a method of gRPC that is refused. Returns the status of HTTP and the code of gRPC.
async fn refused_call(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>, call: Call<'_>,
) -> (u16, GrpcCode) {
    let (http, status, answer) = self::call(sender, call).await;
    assert_eq!(answer, None);
    (http, status.code)
}

#[test]
fn queries_over_quic_have_streams_of_their_own() {
    let trust = Trust::new("quic");
    let server = trust.start("quic://.:0", "whoami");
    let at = port(&server, "quic");
    runtime().block_on(async {
        let (_endpoint, connection) = trust.quic(at, "doq").await;
        for _ in 0..50 {
            let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
            send.write_all(&prefixed(&query(0, "a.example"))).await.expect("written");
            send.finish().expect("finished");
            let answer = receive.read_to_end(70_000).await.expect("an answer");
            assert_eq!(read(&answer[2..]), (0, "10.0.0.1".to_owned()));
        }
        // RFC 9250 4.3.3: an ID, a message that ends early, an empty message, a response.
        let mut answer = query(0, "a.example");
        answer[2] |= 0x80;
        for bad in [prefixed(&query(1, "a.example")), vec![0, 50, 1, 2, 3], vec![0, 0], prefixed(&answer)] {
            let (_endpoint, connection) = trust.quic(at, "doq").await;
            let (mut send, _receive) = connection.open_bi().await.expect("a stream");
            send.write_all(&bad).await.expect("written");
            send.finish().expect("finished");
            let closed = tokio::time::timeout(TIMEOUT, connection.closed()).await.expect("it closes");
            let code = match &closed {
                quinn::ConnectionError::ApplicationClosed(close) => close.error_code,
                other => panic!("{other}"),
            };
            assert_eq!(code, 2u32.into(), "{bad:?}");
        }
        // A client may cancel a query.
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&[0]).await.expect("written");
        send.reset(3u32.into()).expect("reset");
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&prefixed(&query(0, "a.example"))).await.expect("written");
        send.finish().expect("finished");
        receive.read_to_end(70_000).await.expect("an answer");
    });
}

#[test]
fn requests_over_http3_are_answered_or_refused_with_a_status() {
    let trust = Trust::new("https3");
    let server = trust.start("https3://.:0", "whoami");
    let at = port(&server, "https3");
    runtime().block_on(async {
        let (_endpoint, quic) = trust.quic(at, "h3").await;
        let (mut driver, mut sender) = h3::client::new(h3_quinn::Connection::new(quic)).await.expect("HTTP/3");
        let ask = async {
            let get = "/dns-query?dns=AAABAAABAAAAAAAAAWEHZXhhbXBsZQAAAQAB";
            let long = format!("/dns-query?dns={}", "A".repeat(60_000));
            let cases: [(&str, &str, Vec<u8>, u16); 8] = [
                ("GET", get, vec![], 200),
                ("POST", "/dns-query", query(0, "a.example"), 200),
                ("POST", "/other", query(0, "a.example"), 404),
                ("POST", "/dns-query", vec![1, 2, 3], 400),
                ("POST", "/dns-query", vec![0; 5_000], 413),
                ("POST", "/dns-query", vec![0; 300_000], 413),
                ("GET", &long, vec![], 413),
                ("GET", get, vec![], 200),
            ];
            for (method, path, body, status) in cases {
                let request = http::Request::builder().method(method).uri(format!("https://dns.example{path}"));
                let mut stream = sender.send_request(request.body(()).expect("a request")).await.expect("sent");
                // The server may respond before it has read this.
                let _ = stream.send_data(Bytes::from(body)).await;
                let _ = stream.finish().await;
                let response = stream.recv_response().await.expect("a response");
                assert_eq!(response.status().as_u16(), status, "{method} {path}");
                let mut answer = Vec::new();
                while let Ok(Some(mut piece)) = stream.recv_data().await {
                    answer.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
                }
                if status == 200 {
                    assert_eq!(read(&answer), (0, "10.0.0.1".to_owned()));
                }
            }
        };
        tokio::select! {
            () = ask => {}
            error = std::future::poll_fn(|cx| driver.poll_close(cx)) => panic!("{error}"),
            () = tokio::time::sleep(TIMEOUT) => panic!("no answer"),
        }
    });
}

/// Returns the address of a proxy, which adds a header of the PROXY protocol for a client at 192.0.2.1 to the datagrams
/// of one client.
async fn proxy(server: SocketAddr) -> SocketAddr {
    const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x07\0\x35";
    let inner = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let outer = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    outer.connect(server).await.expect("connected");
    let at = inner.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut from_client, mut from_server) = ([0; 2_048], [0; 2_048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((len, from)) = inner.recv_from(&mut from_client) => {
                    client = Some(from);
                    outer.send(&[HEADER, &from_client[..len]].concat()).await.expect("sent");
                }
                Ok(len) = outer.recv(&mut from_server) => {
                    inner.send_to(&from_server[..len], client.expect("a client")).await.expect("sent");
                }
            }
        }
    });
    at
}

#[test]
fn clients_of_http3_behind_a_proxy_are_those_of_its_headers() {
    let trust = Trust::new("https3-proxy");
    let lines = "acl {\n        block net 192.0.2.0/24\n    }\n    proxyproto";
    for (allowed, is_blocked) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let server = trust.start("https3://.:0", &format!("{lines} {{\n        allow {allowed}\n    }}"));
        let at = port(&server, "https3");
        runtime().block_on(async {
            // The direct client, and the one behind the proxy.
            for (at, is_blocked) in [(at, false), (proxy(at).await, is_blocked)] {
                let (_endpoint, quic) = trust.quic(at, "h3").await;
                let (_driver, mut sender) = h3::client::new(h3_quinn::Connection::new(quic)).await.expect("HTTP/3");
                let get = "https://dns.example/dns-query?dns=AAABAAABAAAAAAAAAWEHZXhhbXBsZQAAAQAB";
                let request = http::Request::get(get).body(()).expect("a request");
                let mut stream = sender.send_request(request).await.expect("sent");
                stream.finish().await.expect("sent");
                stream.recv_response().await.expect("a response");
                let mut piece = stream.recv_data().await.expect("a body").expect("a body");
                let answer = piece.copy_to_bytes(piece.remaining());
                let expected = if is_blocked { "REFUSED" } else { "10.0.0.1" };
                assert!(read(&answer).1.to_uppercase().contains(expected), "{allowed}: {:?}", read(&answer));
            }
        });
    }
}

#[test]
fn clients_behind_a_proxy_connect_when_the_limit_is_near() {
    let trust = Trust::new("quic-proxy-limit");
    let lines = "proxyproto\n    quic {\n        max_connections 2\n    }";
    let server = trust.start("quic://.:0", lines);
    let at = port(&server, "quic");
    runtime().block_on(async {
        // From one connection on, direct clients have to show their address. The oldest idle connection is closed.
        let mut connections = Vec::new();
        for _ in 0..4 {
            connections.push(trust.quic(proxy(at).await, "doq").await);
        }
        connections.push(trust.quic(at, "doq").await);
        assert!(connections.iter().skip(3).all(|(_, connection)| connection.close_reason().is_none()));
    });
}
