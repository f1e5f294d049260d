//! Clients that break rules or use rare parts of the protocol, through the virtual address. Each runs in a Pod
//! ([`super::roles`]) and panics if the server does not do what it should.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::Test;
use super::clients::{self, Kind};
use super::roles;

/// A name that exists.
pub const NAME: &str = "web.shop.svc.cluster.local";
/// Its address.
const ADDRESS: [u8; 4] = [10, 96, 10, 20];
/// The server.
const VIP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);
/// The timeout of each response.
const SOON: Duration = Duration::from_secs(10);

/// The clients.
pub const CLIENTS: &[(&str, fn())] = &[
    ("two queries in one TCP segment", one_segment),
    ("a query byte by byte over TCP", byte_by_byte),
    ("half-closed TCP", half_closed),
    ("TCP without reading", never_reads),
    ("hundreds of connections with half a query", half_queries),
    ("source port 53", from_port_53),
    ("EDNS options to be returned", options),
    ("a name in mixed case", mixed_case),
    ("garbage, then a query from the same port", garbage),
    ("EDNS of a version that does not exist", newer_edns),
    ("one ID for different questions", same_id),
    ("TCP messages without length and of 65,535 bytes", odd_lengths),
    ("TCP connections that are reset", resets),
    ("TCP that reads late", reads_late),
    ("a flood, and a query over TCP beside it", flood),
];

pub fn tests() -> Vec<Test> {
    let odd_file = Test::new("bad clients: a resolv.conf with invalid lines", odd_resolv_conf);
    let odd_values = Test::new("bad clients: values that resolvers reject", odd_values);
    CLIENTS
        .iter()
        .map(|&(name, _)| {
            Test::new(format!("bad clients: {name}"), move || {
                let world = super::world();
                let world = world.as_ref().expect("started");
                for client in &world.clients {
                    roles::perform(client, name);
                }
            })
        })
        .chain([odd_file, odd_values])
        .collect()
}

/// Lines that no client understands, around those that all do.
const ODD_RESOLV_CONF: &str = "; a comment\n# another one\ngarbage here\n\n\
    search shop.svc.cluster.local svc.cluster.local cluster.local\n\
    options ndots:5 ndots:x timeout:-5 unknown-option unknown:3\nsortlist 10.0.0.0/255.0.0.0\nnameserver 10.96.0.10\n";

/// Most clients skip what they do not understand; nginx, hickory and dig report an error.
fn odd_resolv_conf() {
    let world = super::world();
    let world = world.as_ref().expect("started");
    let file = world.folder.join("resolv-odd");
    std::fs::write(&file, ODD_RESOLV_CONF).expect("a file");
    for client in clients::CLIENTS.iter().filter(|client| !["nginx", "hickory", "dig"].contains(&client.name)) {
        let name = "web.shop.svc.cluster.local.";
        let seen = client.ask(&world.clients[0], &file, &[(Kind::Host, name)]);
        assert_eq!(seen[&(Kind::Host, name.to_owned())], "10.96.10.20", "{}", client.name);
    }
}

/// The lines of files, a name, and the clients that do not find it, as `page.txt` says. The server is not to blame: all
/// others find it.
const ODD_VALUES: &[(&str, &str, &[&str])] = &[
    ("options ndots:0", "web", &["musl", "dig"]),
    ("options ndots:99999999999999999999", "web", &["dig"]),
    ("options ndots:5 attempts:0", "web", &["glibc", "musl"]),
    ("options ndots:5 attempts:x", "web", &["glibc", "dig"]),
    ("options ndots:5 timeout:0", "web", &["musl", "hickory"]),
    ("options ndots:5\r", "web", &[]),
    ("nameserver dns.example\noptions ndots:5", "web", &["busybox nslookup", "dig"]),
    ("nameserver 10.96.0.10:53\noptions ndots:5", "web", &["dig"]),
    ("nameserver\noptions ndots:5", "web", &["dig"]),
];

fn odd_values() {
    let world = super::world();
    let world = world.as_ref().expect("started");
    let names = ["glibc", "musl", "busybox nslookup", "dig", "Go", "c-ares", "adig", "hickory"];
    let clients: Vec<&clients::Client> =
        clients::CLIENTS.iter().filter(|client| names.contains(&client.name)).collect();
    assert_eq!(clients.len(), names.len());
    let tries = ODD_VALUES.iter().enumerate().map(|(number, (lines, name, failing))| {
        let file = world.folder.join(format!("resolv-{number}"));
        let search = "search shop.svc.cluster.local svc.cluster.local cluster.local";
        std::fs::write(&file, format!("{search}\n{lines}\nnameserver 10.96.0.10\n")).expect("a file");
        (file, lines, *name, *failing)
    });
    for (file, lines, name, failing) in tries {
        let failed: Vec<&str> = std::thread::scope(|scope| {
            let asked: Vec<_> = clients
                .iter()
                .map(|client| {
                    let (space, file) = (&world.clients[0], &file);
                    scope.spawn(move || client.ask(space, file, &[(Kind::Host, name)]).into_values().next())
                })
                .collect();
            let results = asked.into_iter().map(|asked| asked.join().expect("a result"));
            let found = clients.iter().zip(results).filter(|(_, result)| result.as_deref() != Some("10.96.10.20"));
            found.map(|(client, _)| client.name).collect()
        });
        assert_eq!(failed, failing, "{lines:?}");
    }
}

/// Plays one of the clients.
pub fn play(name: &str) {
    let client = CLIENTS.iter().find(|(known, _)| *known == name);
    client.unwrap_or_else(|| panic!("no role '{name}'")).1();
}

/// Returns a query.
pub fn query(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).expect("a label"));
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(rtype.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

/// Returns a query with an OPT that has these options.
fn query_with(id: u16, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut packet = query(id, NAME, 1);
    packet[11] = 1;
    let data: Vec<u8> = options
        .iter()
        .flat_map(|(code, value)| [&code.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat())
        .collect();
    packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
    packet.extend((data.len() as u16).to_be_bytes());
    packet.extend(data);
    packet
}

fn framed(packet: &[u8]) -> Vec<u8> {
    [&(packet.len() as u16).to_be_bytes()[..], packet].concat()
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect_timeout(&VIP, SOON).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.set_nodelay(true).expect("a setting");
    stream
}

fn read(stream: &mut TcpStream) -> Vec<u8> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).expect("a length");
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut bytes).expect("a response");
    bytes
}

/// Checks a response: its ID, its code, and the address.
fn check(id: u16, bytes: &[u8]) {
    assert_eq!(bytes[..2], id.to_be_bytes(), "{bytes:02x?}");
    assert_eq!(bytes[3] & 15, 0, "{bytes:02x?}");
    assert!(bytes.windows(4).any(|part| part == ADDRESS), "{bytes:02x?}");
}

fn one_segment() {
    let mut stream = connect();
    let both = [framed(&query(1, NAME, 1)), framed(&query(2, NAME, 1))].concat();
    stream.write_all(&both).expect("written");
    let mut ids: Vec<u16> = (0..2)
        .map(|_| {
            let bytes = read(&mut stream);
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            check(id, &bytes);
            id
        })
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
}

fn byte_by_byte() {
    let mut stream = connect();
    for byte in framed(&query(3, NAME, 1)) {
        stream.write_all(&[byte]).expect("written");
    }
    check(3, &read(&mut stream));
}

fn half_closed() {
    let mut stream = connect();
    stream.write_all(&framed(&query(4, NAME, 1))).expect("written");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    check(4, &read(&mut stream));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty(), "{rest:02x?}");
}

/// Queries until nothing can be written: the server must stop reading, and serve others.
fn never_reads() {
    let mut stream = connect();
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let many = framed(&query(5, "many.lab.svc.cluster.local", 1)).repeat(1_000);
    let mut written = 0;
    // Responses are 30 times as long as queries, so that buffers fill after some thousands.
    while written < 200 && stream.write_all(&many).is_ok() {
        written += 1;
    }
    assert!(written < 200, "the server reads without limit");
    let mut other = connect();
    other.write_all(&framed(&query(6, NAME, 1))).expect("written");
    check(6, &read(&mut other));
    udp(0, &query(7, NAME, 1));
}

/// Connections that never send the rest cost others nothing.
fn half_queries() {
    let whole = framed(&query(14, NAME, 1));
    let mut open: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    for stream in &mut open {
        stream.write_all(&whole[..whole.len() / 2]).expect("written");
    }
    check(15, &udp(0, &query(15, NAME, 1)));
    let mut other = connect();
    other.write_all(&framed(&query(16, NAME, 1))).expect("written");
    check(16, &read(&mut other));
}

fn from_port_53() {
    let bytes = udp(53, &query(8, NAME, 1));
    check(8, &bytes);
}

/// A cookie, padding, a name server identifier, keep-alive, and an unknown option: the query is answered, and unknown
/// options are not returned.
fn options() {
    let unknown: (u16, &[u8]) = (65_001, b"hello");
    let all: [(u16, &[u8]); 5] = [(10, b"12345678"), (12, &[0; 16]), (3, b""), (11, b""), unknown];
    for list in [&all[..], &all[..1], &all[4..]] {
        let bytes = udp(0, &query_with(9, list));
        check(9, &bytes);
        assert!(bytes[11] >= 1, "an OPT: {bytes:02x?}");
        assert!(!bytes.windows(5).any(|part| part == b"hello"), "{bytes:02x?}");
    }
    let mut stream = connect();
    stream.write_all(&framed(&query_with(10, &all))).expect("written");
    check(10, &read(&mut stream));
}

fn mixed_case() {
    let name = "WeB.shOp.Svc.CLUSTER.local";
    let bytes = udp(0, &query(11, name, 1));
    check(11, &bytes);
    assert_eq!(bytes[12..12 + name.len() + 2], query(0, name, 1)[12..12 + name.len() + 2], "the case of the question");
}

fn garbage() {
    let response = [&query(12, NAME, 1)[..2], &[0x80], &query(12, NAME, 1)[3..]].concat();
    exchange(0, |socket| {
        for packet in [&b""[..], b"\0", &[0xff; 11], &[0xff; 512], &response, &query(13, NAME, 1)] {
            socket.send_to(packet, VIP)?;
        }
        // Some of the others may have got a response that says FORMERR, none of them more than that.
        for _ in 0..6 {
            let bytes = receive(socket)?;
            if bytes[..2] == 13u16.to_be_bytes() {
                check(13, &bytes);
                return Ok(());
            }
        }
        panic!("no response to the query");
    });
}

/// RFC 6891 6.1.3: BADVERS, and version 0 in the OPT.
fn newer_edns() {
    let mut packet = query_with(20, &[(3, b"")]);
    // Behind the question and the root, type, size and extended code of the OPT.
    let version = query(20, NAME, 1).len() + 6;
    packet[version] = 1;
    let bytes = udp(0, &packet);
    assert_eq!((&bytes[..2], bytes[3] & 15, bytes[11]), (&[0, 20][..], 0, 1), "{bytes:02x?}");
    assert_eq!(bytes[version - 1..version + 1], [1, 0], "BADVERS of version 0: {bytes:02x?}");
    check(21, &udp(0, &query_with(21, &[])));
}

/// Each question gets its own answer.
fn same_id() {
    let names = [NAME, "cart.shop.svc.cluster.local", "www.example.org", "intranet.corp.example"];
    let mut stream = connect();
    for name in names {
        stream.write_all(&framed(&query(22, name, 1))).expect("written");
    }
    let over_udp = exchange(0, |socket| {
        for name in names {
            socket.send_to(&query(22, name, 1), VIP)?;
        }
        names.iter().map(|_| receive(socket)).collect::<io::Result<Vec<_>>>()
    });
    for responses in [over_udp, names.map(|_| read(&mut stream)).to_vec()] {
        for name in names {
            let question = &query(22, name, 1)[12..];
            let of_name = |bytes: &&Vec<u8>| bytes[..2] == [0, 22] && bytes[12..].starts_with(question);
            let found: Vec<&Vec<u8>> = responses.iter().filter(of_name).collect();
            assert!(found.len() == 1 && found[0][7] > 0, "{name}: {responses:02x?}");
        }
    }
}

/// Lengths that no query has cost other connections nothing.
fn odd_lengths() {
    let behind = framed(&query(23, NAME, 1));
    for odd in [vec![0, 0], [&[0, 1, 0][..], &behind].concat(), [&[0xff; 2][..], &[0; 65_535]].concat()] {
        let mut stream = connect();
        // The server may have closed the connection.
        let _ = stream.write_all(&[&odd[..], &behind].concat());
        let mut other = connect();
        other.write_all(&framed(&query(24, NAME, 1))).expect("written");
        check(24, &read(&mut other));
    }
}

/// Connections with queries in them that end by a reset, the way of a client that is killed.
fn resets() {
    for number in 0..100u16 {
        let mut stream = connect();
        let external = format!("reset-{number}.example.org");
        let both = [framed(&query(number, &external, 1)), framed(&query(number, NAME, 1))].concat();
        stream.write_all(&both).expect("written");
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).expect("a setting");
    }
    let mut other = connect();
    other.write_all(&framed(&query(25, NAME, 1))).expect("written");
    check(25, &read(&mut other));
    check(26, &udp(0, &query(26, NAME, 1)));
}

/// Responses of 200 KB wait for a client that does not read for some time; none is lost or cut.
fn reads_late() {
    let mut stream = connect();
    stream.write_all(&framed(&query(27, "huge.lab.svc.cluster.local", 1)).repeat(40)).expect("written");
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..40 {
        let bytes = read(&mut stream);
        assert_eq!((bytes[2] & 2, &bytes[6..8]), (0, &300u16.to_be_bytes()[..]), "TC, and all addresses");
    }
}

/// Queries as fast as a client can send them, whose responses it does not read.
fn flood() {
    let sockets: Vec<UdpSocket> = (0..8).map(|_| UdpSocket::bind("0.0.0.0:0").expect("a socket")).collect();
    let end = std::time::Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let packets = [NAME, "many.lab.svc.cluster.local", "www.example.org"].map(|name| query(28, name, 1));
            while std::time::Instant::now() < end {
                for (socket, packet) in sockets.iter().zip(packets.iter().cycle()) {
                    let _ = socket.send_to(packet, VIP);
                }
            }
        });
        let mut stream = connect();
        while std::time::Instant::now() < end {
            stream.write_all(&framed(&query(29, NAME, 1))).expect("written");
            check(29, &read(&mut stream));
        }
    });
}

/// Sends a query over UDP from a port, or from any with 0. Returns the response.
fn udp(port: u16, packet: &[u8]) -> Vec<u8> {
    exchange(port, |socket| {
        socket.send_to(packet, VIP)?;
        receive(socket)
    })
}

/// Runs an exchange over a socket with a port, or with any for 0. As a stub resolver does, the client begins again over
/// a new socket where a response is missing: beside a flood, a datagram may find the server's receive buffer full.
fn exchange<T>(port: u16, run: impl Fn(&UdpSocket) -> io::Result<T>) -> T {
    for _ in 0..4 {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a socket");
        socket.set_read_timeout(Some(SOON / 4)).expect("a timeout");
        match run(&socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.expect("an exchange"),
        }
    }
    panic!("no response");
}

/// Receives a datagram, which must come from the address asked.
fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 65_535];
    let (len, from) = socket.recv_from(&mut bytes)?;
    assert_eq!(from, VIP, "the response comes from another address");
    bytes.truncate(len);
    Ok(bytes)
}
