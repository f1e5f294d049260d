//! The program with few file descriptors and many connections.

mod running;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use running::upstream::{Upstream, query};
use running::{Running, TIMEOUT, file, folder, get};

/// Writes a Corefile with a local name, an upstream for all other names, and a page.
fn corefile(name: &str, lines: &str) -> String {
    let upstream = Upstream::start().at();
    let text = format!(
        ".:0 {{\n    bind 127.0.0.1\n    health 127.0.0.1:0\n    hosts {{\n        10.0.0.1 a.example\n        \
         fallthrough\n    }}\n    forward . {upstream}\n    {lines}\n}}\n"
    );
    file(&folder("limits"), name, &text)
}

/// Connects from an address of this machine.
fn connect_from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("an address");
    socket.connect_timeout(&to.into(), TIMEOUT).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    stream
}

/// Sends a query, and returns the ID of the response.
fn ask(stream: &mut TcpStream, id: u16, name: &str) -> std::io::Result<u16> {
    let query = query(id, name);
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(prefix))];
    stream.read_exact(&mut answer)?;
    Ok(u16::from_be_bytes([answer[0], answer[1]]))
}

/// Returns the program's soft limit on descriptors, and how many it has open.
fn descriptors(server: &Running) -> (usize, usize) {
    let of = format!("/proc/{}", server.child.id());
    let limits = std::fs::read_to_string(format!("{of}/limits")).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let soft = line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).expect("a number");
    (soft, std::fs::read_dir(format!("{of}/fd")).expect("descriptors").count())
}

#[test]
fn the_soft_limit_on_descriptors_is_raised_to_the_hard_one() {
    let server = Running::start_within("-Sn 256", &["-conf", &corefile("raised", "")]);
    assert!(descriptors(&server).0 > 256);
}

#[test]
fn many_connections_of_one_client_leave_descriptors_for_everything_else() {
    for limit in [256, 1_024] {
        let server = Running::start_within(&format!("-n {limit}"), &["-conf", &corefile(&format!("of-{limit}"), "")]);
        let health = server.page("health");
        // Half of them have sent part of a query.
        let mut flood: Vec<_> = (0..1_000).map(|_| connect_from([127, 0, 0, 2], server.at)).collect();
        for stream in flood.iter_mut().step_by(2) {
            let _ = stream.write_all(&[0, 40, 1]);
        }
        for id in 0..7 {
            // A local name, and one of the upstream.
            let mut stream = connect_from([127, 0, 0, 1], server.at);
            assert_eq!(ask(&mut stream, id, "a.example").expect("an answer"), id);
            assert_eq!(ask(&mut stream, id, &format!("b{id}.example")).expect("an answer"), id);
            assert_eq!(server.ask(&format!("c{id}.example")).0, 0);
            assert_eq!(get(health, "/health").0, 200);
            // The client itself is served as well.
            let mut stream = connect_from([127, 0, 0, 2], server.at);
            assert_eq!(ask(&mut stream, id, "a.example").expect("an answer"), id);
        }
        assert!(descriptors(&server).1 < limit * 3 / 4, "{:?}", descriptors(&server));
    }
}

#[test]
fn many_sockets_do_not_mean_more_workers() {
    let server = Running::start(&["-conf", &corefile("sockets", "multisocket 64")]);
    for id in 0..200 {
        assert_eq!(server.ask(if id % 10 == 0 { "b.example" } else { "a.example" }).0, 0);
    }
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.child.id())).expect("threads");
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let workers = tasks.flatten().map(name).filter(|name| name.starts_with("udp-")).count();
    assert!(workers <= std::thread::available_parallelism().expect("cores").get(), "{workers} workers");
}
