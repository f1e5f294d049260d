//! The plugin with readers on Unix sockets: what they get, and what happens while they are away.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::stream::Duplex;
use super::*;
use crate::chain::Chain;
use crate::net::{Credentials, TlsFiles};
use crate::plugins::testing::{Folder, client, code, config, n, packet, send_through};
use crate::upstream::{Error, Upstream, UpstreamTransport};
use crate::wire::{Rcode, Type};

/// The rest of a control frame after its length: the type and the content type.
const ACCEPT: &[u8] = b"\0\0\0\x01\0\0\0\x01\0\0\0\x16protobuf:dnstap.Dnstap";

/// The other side of a stream.
struct Reader(Box<dyn Duplex>);

impl Reader {
    /// Accepts the stream that the server begins.
    async fn begin(mut stream: Box<dyn Duplex>) -> Reader {
        assert_eq!(read_frame(&mut stream).await, Err(4), "READY");
        write_control(&mut stream, ACCEPT).await;
        assert_eq!(read_frame(&mut stream).await, Err(2), "START");
        Reader(stream)
    }

    /// Returns the next messages.
    async fn messages(&mut self, count: usize) -> Vec<Dnstap> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let frame = read_frame(&mut self.0).await.expect("a message");
            messages.push(Dnstap::decode(&frame[..]).expect("a valid message"));
        }
        messages
    }

    /// Waits until the server ends the stream.
    async fn finish(mut self) {
        assert_eq!(read_frame(&mut self.0).await, Err(3), "STOP");
        write_control(&mut self.0, b"\0\0\0\x05").await;
    }
}

async fn write_control(stream: &mut Box<dyn Duplex>, frame: &[u8]) {
    stream.write_u32(0).await.expect("written");
    stream.write_u32(frame.len() as u32).await.expect("written");
    stream.write_all(frame).await.expect("written");
}

/// Returns a data frame, or the type of a control frame.
async fn read_frame(stream: &mut Box<dyn Duplex>) -> Result<Vec<u8>, u32> {
    let len = stream.read_u32().await.expect("a frame");
    let is_control = len == 0;
    let len = if is_control { stream.read_u32().await.expect("a length") } else { len };
    let mut frame = vec![0; len as usize];
    stream.read_exact(&mut frame).await.expect("a whole frame");
    if is_control { Err(u32::from_be_bytes(frame[..4].try_into().expect("a type"))) } else { Ok(frame) }
}

/// Runs a test with a clock that moves when nothing else happens.
fn run<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime").block_on(test)
}

/// Returns the plugin of these lines, whose tasks run.
fn start(lines: &str) -> Arc<DnstapPlugin> {
    let configs = config(lines, parse).0;
    let taps = Arc::new(Taps::new(&configs, "host", "version", &Arc::default()));
    taps.take_tasks().into_iter().for_each(|task| drop(tokio::spawn(task)));
    Arc::new(DnstapPlugin { taps })
}

/// Sends a query through the plugin and one that answers NXDOMAIN.
fn query(plugin: &Arc<DnstapPlugin>, name: &str) -> Vec<u8> {
    let query = packet(name, Type::AAAA, None);
    let chain = Chain::new(vec![plugin.clone(), code(Rcode::NXDOMAIN, None)]).with_metadata(vec![n(".")]);
    send_through(chain, &query, client("[2001:db8::1]:4711"), Instant::now());
    query
}

fn message(envelope: &Dnstap) -> &TapMessage {
    envelope.message.as_ref().expect("a message")
}

#[test]
fn readers_get_queries_and_responses() {
    let folder = Folder::new("dnstap");
    let (full, brief) = (folder.path().join("full"), folder.path().join("brief"));
    run(async {
        let listeners = [&full, &brief].map(|path| UnixListener::bind(path).expect("a socket"));
        let lines = format!(
            "dnstap {} full {{\n identity me\n version v1\n extra \"{{type}} {{rcode}} {{/no/label}}\"\n}}\ndnstap unix://{}",
            full.display(),
            brief.display()
        );
        let plugin = start(&lines);
        let sent = query(&plugin, "a.example.");
        let mut readers = Vec::new();
        for listener in listeners {
            readers.push(Reader::begin(Box::new(listener.accept().await.expect("a connection").0)).await);
        }
        let messages = readers[0].messages(2).await;
        for envelope in &messages {
            let bytes = |field: &Option<Bytes>| String::from_utf8(field.as_deref().expect("set").to_vec());
            let texts = [&envelope.identity, &envelope.version, &envelope.extra].map(bytes);
            assert_eq!(texts.map(|text| text.expect("text")), ["me", "v1", "AAAA - -"]);
            let message = message(envelope);
            assert_eq!(
                (message.socket_family, message.socket_protocol, message.query_port),
                (Some(2), Some(1), Some(4711))
            );
            assert_eq!(
                message.query_address.as_deref(),
                Some(&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..])
            );
        }
        let (asked, responded) = (message(&messages[0]), message(&messages[1]));
        assert_eq!((asked.kind, responded.kind), (5, 6));
        assert_eq!((asked.query_message.as_deref(), &asked.response_message), (Some(&sent[..]), &None));
        let response = responded.response_message.as_deref().expect("a response");
        assert_eq!((&response[..2], response[3] & 15), (&sent[..2], 3));
        assert_eq!(
            (asked.query_time_sec, asked.query_time_nsec),
            (responded.query_time_sec, responded.query_time_nsec)
        );
        assert!(asked.response_time_sec.is_none() && responded.response_time_sec >= responded.query_time_sec);
        let brief = readers[1].messages(2).await;
        for envelope in &brief {
            assert_eq!(
                (envelope.identity.as_deref(), envelope.version.as_deref()),
                (Some(&b"host"[..]), Some(&b"version"[..]))
            );
            assert_eq!(
                (&envelope.extra, &message(envelope).query_message, &message(envelope).response_message),
                (&None, &None, &None)
            );
        }
        // The streams end when nothing uses the plugin any more.
        query(&plugin, "b.example.");
        drop(plugin);
        for mut reader in readers {
            assert_eq!(reader.messages(2).await.len(), 2);
            reader.finish().await;
        }
    });
}

#[test]
fn messages_without_a_reader_are_dropped_and_later_ones_arrive() {
    let folder = Folder::new("dnstap");
    let path = folder.path().join("socket");
    run(async {
        let plugin = start(&format!("dnstap {}", path.display()));
        let queue = plugin.taps.taps[0].queue.clone();
        while queue.accepts() {
            tokio::task::yield_now().await;
        }
        let before = queue.take_dropped();
        query(&plugin, "a.example.");
        assert_eq!((before, queue.take_dropped()), (1, 2));
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut reader = Reader::begin(Box::new(listener.accept().await.expect("a connection").0)).await;
        while !queue.accepts() {
            tokio::task::yield_now().await;
        }
        query(&plugin, "b.example.");
        assert_eq!(reader.messages(2).await.len(), 2);
        // The reader leaves, and another one comes.
        drop(reader);
        let mut reader = Reader::begin(Box::new(listener.accept().await.expect("a connection").0)).await;
        while !queue.accepts() {
            tokio::task::yield_now().await;
        }
        query(&plugin, "c.example.");
        assert_eq!(reader.messages(2).await.len(), 2);
    });
}

/// Waits for the socket of a listener.
async fn connected(path: &Path) -> Box<dyn Duplex> {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Box::new(stream),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[test]
fn readers_connect_and_leave() {
    let folder = Folder::new("dnstap");
    let path = folder.path().join("socket");
    run(async {
        // The file of a process that was killed.
        drop(UnixListener::bind(&path).expect("a socket"));
        let plugin = start(&format!("dnstap listen {} full", path.display()));
        let queue = plugin.taps.taps[0].queue.clone();
        let mut readers = Vec::new();
        for _ in 0..2 {
            readers.push(Reader::begin(connected(&path).await).await);
        }
        // A connection that begins no stream holds up no reader.
        let idle = connected(&path).await;
        let mut last = 0;
        // The server may not have noticed the readers yet.
        for reader in &mut readers {
            let mut got = Vec::new();
            while got.is_empty() {
                last += 1;
                query(&plugin, &format!("q{last}.example."));
                if queue.accepts() {
                    got = reader.messages(2).await;
                }
            }
        }
        drop((readers, idle));
        while queue.accepts() {
            query(&plugin, "gone.example.");
            tokio::task::yield_now().await;
        }
        let mut reader = Reader::begin(connected(&path).await).await;
        while !queue.accepts() {
            tokio::task::yield_now().await;
        }
        query(&plugin, "b.example.");
        assert_eq!(reader.messages(2).await.len(), 2);
        drop(plugin);
        reader.finish().await;
        while path.exists() {
            tokio::task::yield_now().await;
        }
    });
}

/// Writes a certificate for 127.0.0.1, which is its own authority. Returns the files.
fn certificate(folder: &Folder) -> (PathBuf, PathBuf) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let certificate = certificate.self_signed(&key).expect("a certificate");
    (folder.write("cert.pem", &certificate.pem()), folder.write("key.pem", &key.serialize_pem()))
}

#[test]
fn a_reader_over_tls_must_have_a_valid_certificate_unless_it_is_not_verified() {
    let folder = Folder::new("dnstap");
    let (certificate, key) = certificate(&folder);
    run(async {
        let files = TlsFiles { certificate, key, ..TlsFiles::default() };
        let credentials = Credentials::load(move || Ok(files.clone()), &[], "test").expect("credentials");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let at = listener.local_addr().expect("an address");
        let accept = async || {
            let stream = listener.accept().await.expect("a connection").0;
            TlsAcceptor::from(credentials.now()).accept(stream).await
        };
        let strict = start(&format!("dnstap tls://{at}"));
        assert!(accept().await.is_err(), "no authority of the machine has signed the certificate");
        drop(strict);
        let plugin = start(&format!("dnstap tls://{at} full {{\n skipverify\n}}"));
        query(&plugin, "a.example.");
        let mut reader = Reader::begin(Box::new(accept().await.expect("a handshake"))).await;
        assert_eq!(reader.messages(2).await.len(), 2);
    });
}

#[test]
fn attempts_at_upstreams_are_reported() {
    struct NoDriver;
    impl crate::upstream::UpstreamDriver for NoDriver {
        fn exchange(&self, _: Vec<u8>, _: std::net::IpAddr, _: Duration) -> BoxFuture<Result<Vec<u8>, Error>> {
            Box::pin(std::future::pending())
        }
        fn record_answer(&self, _: Rcode, _: Duration) {}
        fn record_failure(&self) {}
        fn has_answered(&self) -> bool {
            false
        }
        fn record_socket(&self, _: bool) {}
        fn record_dropped(&self, _: crate::upstream::DropReason) {}
    }
    let folder = Folder::new("dnstap");
    let path = folder.path().join("socket");
    run(async {
        let listener = UnixListener::bind(&path).expect("a socket");
        let plugin =
            start(&format!("dnstap {} full {{\n extra \"{{name}} {{/forward/upstream}}\"\n}}", path.display()));
        let address: SocketAddr = "192.0.2.1:53".parse().expect("an address");
        let fails = Arc::new(AtomicU32::new(0));
        let upstream = Upstream::new(address, UpstreamTransport::Dns, None, fails, Box::new(NoDriver));
        let taps = plugin.taps.clone();
        let observed = TappedQuery { taps, extras: vec![Some(format!("a.example. {UPSTREAM_MARK}"))] };
        let started = Instant::now();
        let local = "198.51.100.1:9".parse().ok();
        let attempt = TappedAttempt { upstream: &upstream, is_stream: false, local, started };
        observed.sent(&attempt, b"query");
        observed.ended(&attempt, None, started);
        observed.ended(&TappedAttempt { is_stream: true, local: None, ..attempt }, Some(b"response"), Instant::now());
        let mut reader = Reader::begin(Box::new(listener.accept().await.expect("a connection").0)).await;
        let messages = reader.messages(2).await;
        let extras: Vec<_> = messages.iter().map(|envelope| envelope.extra.as_deref()).collect();
        assert_eq!(extras, [Some(&b"a.example. 192.0.2.1:53"[..]); 2]);
        let (sent, came) = (message(&messages[0]), message(&messages[1]));
        assert_eq!(
            (sent.kind, sent.socket_protocol, sent.query_address.as_deref()),
            (7, Some(1), Some(&[198, 51, 100, 1][..]))
        );
        assert_eq!((came.kind, came.socket_protocol, &came.query_address), (8, Some(2), &None));
        assert_eq!((sent.response_port, sent.response_address.as_deref()), (Some(53), Some(&[192, 0, 2, 1][..])));
        assert_eq!(
            (sent.query_message.as_deref(), came.response_message.as_deref()),
            (Some(&b"query"[..]), Some(&b"response"[..]))
        );
    });
}
