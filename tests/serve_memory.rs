//! The memory that slow TCP clients take (G05). The test has a process of its own, since it measures the memory of the
//! process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clusterdns::chain::{Block, Chain, Exchange, Plugin, Router, Step};
use clusterdns::serve::{ListenSpec, Server, ServerOptions, Service, Settings, TcpLimits};
use clusterdns::wire::{NameBuf, Rdata, Type};

/// The time limit of every operation.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A query for A of `a.`, after its length.
const QUERY: &[u8] = b"\0\x13\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

/// Answers with 32 KB.
struct Big;

impl Plugin for Big {
    fn name(&self) -> &'static str {
        "big"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let data = exchange.reply().store(&[0; 32_000]);
        exchange.reply().answer(Type::A, 5, Rdata::Bytes(data));
        Step::Answered
    }
}

/// Returns the resident memory of this process in bytes.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<usize>().ok()).expect("a number") * 1_024
}

/// Returns how many files this process may open.
fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(1 << 20)
}

/// Waits until a condition holds.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Opens a number of connections to the server.
fn connect(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).expect("a connection")).collect()
}

#[test]
fn slow_clients_are_cheap() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let chain = Chain::new(vec![Arc::new(Big)]);
    let router = Router::new(vec![Block { zones: vec![NameBuf::from_text(".").expect("the root")], chain }], false);
    let mut settings = Settings::default();
    settings.timeouts.read = Duration::from_secs(60);
    let service = Service::new(Arc::new(router), settings);
    let mut options = ServerOptions::new(runtime.handle().clone());
    options.tcp = TcpLimits { connections_per_address: 10_000, ..TcpLimits::default() };
    let spec = ListenSpec { address: SocketAddr::from(([127, 0, 0, 1], 0)), service };
    let server = Server::start(vec![spec], options).expect("a server");
    let address = server.local_addresses()[0];

    // The thread allocates its buffers before the measurement.
    let mut first = TcpStream::connect(address).expect("a connection");
    first.write_all(QUERY).expect("sent");
    first.read_exact(&mut [0; 1_000]).expect("an answer");
    drop(first);

    // Idle after the first bytes of a message. Each connection takes two descriptors of this process.
    let count = 5_000.min(open_files().saturating_sub(200) / 2);
    let before = rss();
    let mut idle = connect(address, count);
    idle.iter_mut().for_each(|stream| stream.write_all(&[0xff, 0xff]).expect("sent"));
    let mut last = TcpStream::connect(address).expect("a connection");
    last.write_all(QUERY).expect("sent");
    last.read_exact(&mut [0; 1_000]).expect("an answer");
    let each = rss().saturating_sub(before) / count;
    println!("{count} idle connections: {each} bytes each");
    assert!(each < 16 * 1_024);
    drop((idle, last));
    wait_until("the idle ones are closed", || server.open_connections() == 0);

    // Clients that never read: 64 MB of responses each, more than the buffers of the kernel.
    let count = count.min(200);
    // Compared with the start, since memory that the idle ones have freed is used again.
    let mut unreading = connect(address, count);
    for stream in &mut unreading {
        stream.set_write_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        // The server stops reading at some point, so that this may time out.
        let _ = stream.write_all(&QUERY.repeat(2_000));
    }
    wait_until("the first are closed", || server.counts().connections_timed_out > 0);
    let each = rss().saturating_sub(before) / count;
    println!("{count} connections that never read: {each} bytes each");
    assert!(each < 128 * 1_024);
    wait_until("all are closed", || server.counts().connections_timed_out == count as u64);
    server.stop(TIMEOUT);
}
