//! *proxyproto*: headers of the PROXY protocol have the same effect as in CoreDNS, over UDP, TCP and QUIC.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use quinn::crypto::rustls::QuicClientConfig;

use super::Test;
use super::ask::Answer;
use super::certificates::Authority;
use super::server::{Server, Software};
use super::wait::SOON;
use super::{ports, shared};

/// Bodies of *proxyproto*.
const BODIES: [&str; 8] = [
    "",
    "{\n        allow 127.0.0.0/8 ::1/128\n    }",
    "{\n        allow 10.0.0.0/8\n    }",
    "{\n        allow 10.0.0.0/8\n        default reject\n    }",
    "{\n        allow 10.0.0.0/8\n        default Skip\n    }",
    "{\n        allow 10.0.0.0/8\n        default use\n        tlv_metadata\n    }",
    "{\n        default ignore\n    }",
    "{\n        udp_session_tracking 60s 100\n        tlv_metadata\n    }",
];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("proxyproto: headers are handled as by CoreDNS", alike),
        Test::new("proxyproto: headers over QUIC are handled as by CoreDNS", alike_over_quic),
    ]
}

fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder: PathBuf = shared::folder().join(format!("proxies-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn start(software: Software, body: &str) -> Server {
    start_with(software, body, "", "")
}

/// Starts a server with more lines, and keys before that of DNS. CoreDNS applies *proxyproto* to the first key only.
fn start_with(software: Software, body: &str, keys: &str, lines: &str) -> Server {
    let port = ports::free();
    let text = format!(
        r#"{keys} .:{port} {{
    bind 127.0.0.1
    {lines}
    metadata
    proxyproto {body}
    acl blocked.test {{
        block net 192.0.2.0/24
    }}
    template IN TXT test {{
        answer "{{{{ .Name }}}} 60 IN TXT \"{{{{ .Remote }}}} {{{{ .Meta `proxyproto/tlv` }}}}\""
    }}
    whoami
}}
"#
    );
    Server::start(software, &text, port, folder())
}

/// Returns a query.
fn query(name: &str, rtype: u8) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, rtype, 0, 1]);
    packet
}

/// Returns a header of version 2 for a client.
fn header(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend((rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

const IPV4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0x11, 0x22, 0, 53];
const IPV6: [u8; 36] = {
    let mut block = [0; 36];
    (block[0], block[1], block[2], block[3], block[15]) = (0x20, 1, 0xd, 0xb8, 7);
    (block[16], block[17], block[31], block[33], block[35]) = (0x20, 1, 8, 9, 53);
    block
};

/// Sends a datagram, and returns the response as text. A query without a header is answered after it, so that there is
/// not long to wait for a response that does not come.
fn exchange(socket: &UdpSocket, datagram: &[u8]) -> String {
    socket.send(datagram).expect("sent");
    let mut bytes = [0; 4_096];
    let later = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    later.connect(socket.peer_addr().expect("an address")).expect("connected");
    later.set_read_timeout(Some(SOON)).expect("a timeout");
    later.send(&query("later.test", 16)).expect("sent");
    later.recv(&mut bytes).expect("a response to a query without a header");
    match socket.recv(&mut bytes) {
        Ok(len) => show(&bytes[..len]),
        Err(_) => "no response".to_owned(),
    }
}

/// Returns a response as text, without the port of a client that sent no header.
fn show(bytes: &[u8]) -> String {
    if bytes.len() < 17 { format!("{bytes:x?}") } else { Answer::read(bytes).to_string() }
}

/// Sends these bytes over TCP and closes the sending side; returns the responses as text.
fn stream(server: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(bytes).expect("written");
    let _ = stream.shutdown(Shutdown::Write);
    let mut response = Vec::new();
    // A reset is the end, too.
    let _ = stream.read_to_end(&mut response);
    match response.get(2..) {
        Some(message) if !message.is_empty() => show(message),
        _ => "no response".to_owned(),
    }
}

/// Row 91 of docs/differences.md: a refusal has no OPT record for a client without EDNS.
fn without_edns(response: String) -> String {
    response.replace("REFUSED  edns=4096", "REFUSED ")
}

/// Returns what a server does with every kind of header.
fn results(server: SocketAddr) -> Vec<(String, String)> {
    let tlvs: &[u8] = &[0xea, 0, 3, b'a', b'b', 0xff, 4, 0, 1, 0];
    let headers: Vec<(&str, Vec<u8>)> = vec![
        ("none", Vec::new()),
        ("IPv4 over UDP", header(0x21, 0x12, &[IPV4])),
        ("IPv4 over UDP with TLVs", header(0x21, 0x12, &[IPV4, tlvs])),
        ("IPv4 over UDP with a TLV that is cut off", header(0x21, 0x12, &[IPV4, &tlvs[..4]])),
        ("IPv6 over UDP", header(0x21, 0x22, &[&IPV6])),
        ("IPv4 over TCP", header(0x21, 0x11, &[IPV4])),
        ("IPv6 over TCP with TLVs", header(0x21, 0x21, &[&IPV6, tlvs])),
        ("local UDP", header(0x20, 0x12, &[IPV4])),
        ("local", header(0x20, 0x00, &[])),
        ("unspecified", header(0x21, 0x00, &[])),
        ("unknown family", header(0x21, 0x13, &[IPV4])),
        ("unknown command", header(0x22, 0x12, &[IPV4])),
        ("short block", header(0x21, 0x12, &[&IPV4[1..]])),
        ("line", b"PROXY TCP4 192.0.2.9 198.51.100.1 4386 53\r\n".to_vec()),
        ("line for IPv6", b"PROXY TCP6 2001:db8::9 2001:db8::1 4386 53\r\n".to_vec()),
        ("unknown line", b"PROXY UNKNOWN\r\n".to_vec()),
        ("wrong line", b"PROXY TCP4 192.0.2.9\r\n".to_vec()),
    ];
    let mut results = Vec::new();
    for (name, header) in &headers {
        for (kind, question) in [("TXT", query("x.test", 16)), ("blocked", query("x.blocked.test", 16))] {
            // A socket for each, since headers may hold for later datagrams.
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect(server).expect("connected");
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
            let datagram = [&header[..], &question].concat();
            results.push((format!("UDP {name} {kind}"), without_edns(exchange(&socket, &datagram))));
            let framed = [&header[..], &(question.len() as u16).to_be_bytes(), &question].concat();
            results.push((format!("TCP {name} {kind}"), without_edns(stream(server, &framed))));
            if kind == "TXT" && name.contains("UDP") {
                // The header alone, and then datagrams without one.
                let alone = exchange(&socket, header);
                let later = [exchange(&socket, &question), exchange(&socket, &question)];
                results.push((format!("UDP {name} first"), format!("{alone} {later:?}")));
            }
        }
    }
    results
}

fn alike() -> Result<(), Failed> {
    let mut seen = String::new();
    for body in BODIES {
        let [ours, theirs] =
            [Software::Clusterdns, Software::CoreDns].map(|software| (start(software, body), software));
        let (ours, theirs) = (results(ours.0.at), results(theirs.0.at));
        // Without a look at headers, a line is a message like any other invalid one, which other tests compare.
        let is_compared = |name: &str| !(body.contains("Skip") && name.contains("line"));
        let differing = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs && is_compared(&ours.0));
        let shown: Vec<String> = differing
            .map(|((name, ours), (_, theirs))| format!("{name}\n    ours: {ours}\n    CoreDNS: {theirs}\n"))
            .collect();
        if !shown.is_empty() {
            return Err(format!("proxyproto {body}\n{}", shown.concat()).into());
        }
        ours.iter().for_each(|(_, result)| seen += result);
    }
    // The comparison has seen addresses of headers, TLVs, and datagrams that are dropped.
    for expected in ["192.0.2.1", "2001:db8::7", "192.0.2.9", "ea0003", "REFUSED", "no response"] {
        if !seen.contains(expected) {
            return Err(format!("no result has {expected}").into());
        }
    }
    Ok(())
}

/// Which datagrams of a connection get the header.
#[derive(Clone, Copy, Debug)]
enum Headers {
    /// All of them.
    All,
    /// The first one.
    First,
    /// None, but a datagram of its own comes before them.
    Before,
}

/// Starts a proxy for one client, which adds a header to the client's datagrams. Returns its address. It ends when the
/// client has sent nothing for a time.
fn proxy(server: SocketAddr, header: Vec<u8>, which: Headers) -> SocketAddr {
    let [inner, outer] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    let at = inner.local_addr().expect("an address");
    outer.connect(server).expect("connected");
    for socket in [&inner, &outer] {
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    }
    std::thread::spawn(move || {
        let mut bytes = [0; 2_048];
        let (mut client, mut last, mut count) = (None, Instant::now(), 0);
        while last.elapsed() < SOON {
            if let Ok((len, from)) = inner.recv_from(&mut bytes) {
                (client, last) = (Some(from), Instant::now());
                let has_header = match which {
                    Headers::All => true,
                    Headers::First => count == 0,
                    Headers::Before => {
                        if count == 0 {
                            outer.send(&header).expect("sent");
                        }
                        false
                    }
                };
                count += 1;
                let header = if has_header { &header[..] } else { &[] };
                outer.send(&[header, &bytes[..len]].concat()).expect("sent");
            }
            if let (Some(client), Ok(len)) = (client, outer.recv(&mut bytes)) {
                inner.send_to(&bytes[..len], client).expect("sent");
            }
        }
    });
    at
}

/// Sends queries over a connection of QUIC. Returns the responses as text.
async fn over_quic(server: SocketAddr, config: quinn::ClientConfig) -> String {
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("an endpoint");
    let connecting = endpoint.connect_with(config, server, "localhost").expect("begun");
    let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_secs(2), connecting).await else {
        return "no connection".to_owned();
    };
    let mut responses = Vec::new();
    for question in [query("x.test", 16), query("x.blocked.test", 16)] {
        let Ok((mut send, mut receive)) = connection.open_bi().await else {
            responses.push("closed".to_owned());
            continue;
        };
        // The ID is 0 over QUIC.
        let question = [&[0, 0], &question[2..]].concat();
        let framed = [&(question.len() as u16).to_be_bytes()[..], &question].concat();
        // The connection may be closed by now, which the response shows.
        let _ = send.write_all(&framed).await;
        let _ = send.finish();
        let response = receive.read_to_end(4_096).await.unwrap_or_default();
        responses.push(response.get(2..).map_or("no response".to_owned(), show));
    }
    connection.close(0_u32.into(), b"");
    responses.join(" | ")
}

fn alike_over_quic() -> Result<(), Failed> {
    let authority = Authority::new("proxies");
    let files = authority.server(&folder(), "quic", &[]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().into()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut tls = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"doq".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("QUIC")));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let lines = format!("tls {} {}", files.certificate.display(), files.key.display());
    let cases: Vec<(&str, Vec<u8>, Headers)> = vec![
        ("none", Vec::new(), Headers::All),
        ("IPv4", header(0x21, 0x12, &[IPV4]), Headers::All),
        ("IPv4 with TLVs", header(0x21, 0x12, &[IPV4, &[0xea, 0, 3, b'a', b'b', 0xff]]), Headers::All),
        ("IPv6", header(0x21, 0x22, &[&IPV6]), Headers::All),
        ("IPv4 over TCP", header(0x21, 0x11, &[IPV4]), Headers::All),
        ("local", header(0x20, 0x12, &[IPV4]), Headers::All),
        ("first", header(0x21, 0x12, &[IPV4]), Headers::First),
        ("before", header(0x21, 0x12, &[IPV4]), Headers::Before),
    ];
    let (mut seen, mut differing) = (String::new(), String::new());
    for body in BODIES {
        let [ours, theirs] = [Software::Clusterdns, Software::CoreDns].map(|software| {
            let port = ports::free();
            let server = start_with(software, body, &format!("quic://.:{port}"), &lines);
            let at = ports::on_loopback(port);
            let clients = cases.iter().map(|(_, header, which)| {
                let through = proxy(at, header.clone(), *which);
                runtime.spawn(over_quic(through, config.clone()))
            });
            (server, clients.collect::<Vec<_>>())
        });
        let [ours, theirs] = [ours, theirs].map(|(_server, clients)| {
            let results = clients.into_iter().map(|client| runtime.block_on(client).expect("a result"));
            results.map(without_edns).collect::<Vec<String>>()
        });
        for ((name, _, which), (ours, theirs)) in cases.iter().zip(ours.iter().zip(&theirs)) {
            // Row 342 of docs/differences.md.
            let is_compared = !matches!(which, Headers::First) || body.contains("udp_session_tracking");
            if is_compared && ours != theirs {
                differing += &format!("proxyproto {body}\n{name}\n    ours: {ours}\n    CoreDNS: {theirs}\n");
            }
            seen += ours;
        }
    }
    if !differing.is_empty() {
        return Err(differing.into());
    }
    for expected in ["192.0.2.1", "2001:db8::7", "127.0.0.1", "ea0003", "REFUSED", "no connection"] {
        if !seen.contains(expected) {
            return Err(format!("no result has {expected}").into());
        }
    }
    Ok(())
}
