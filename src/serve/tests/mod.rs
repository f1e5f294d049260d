//! Sockets on loopback: what a client sees. One plugin does what the first label of a name says.

mod forward;
mod tcp;
mod udp;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::{ListenSpec, ServeError, Server, ServerOptions, Service, Settings};
use crate::chain::pending::Continue;
use crate::chain::{Block, Calls, Chain, Exchange, Plugin, Router, Step, Wait, Work};
use crate::wire::{NameBuf, Rcode, Rdata, Type};

/// How long a test waits for what should come at once.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Does what the first label of the name says.
struct Puppet {
    /// Queries that wait do so until this has a permit.
    gate: Arc<Semaphore>,
    /// The last byte of the address that is answered.
    mark: u8,
}

impl Plugin for Puppet {
    fn name(&self) -> &'static str {
        "puppet"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: false, sent: true }
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let address = Rdata::A([10, 0, 0, self.mark]);
        match exchange.question().label(0) {
            b"later" | b"latesent" => {
                let gate = self.gate.clone();
                let future = Box::new(move |mut state: crate::chain::State| -> crate::chain::pending::BoxFuture<_> {
                    Box::pin(async move {
                        gate.acquire().await.expect("an open gate").forget();
                        state.reply.answer(Type::A, 5, address);
                        (state, Continue::Answered)
                    })
                });
                return Step::Pending(Wait::Work(Work { future, overload: Rcode::SERVFAIL, plugin: "puppet" }));
            }
            b"latepanic" => {
                let future =
                    Box::new(|_| -> crate::chain::pending::BoxFuture<_> { Box::pin(async { panic!("late") }) });
                return Step::Pending(Wait::Work(Work { future, overload: Rcode::SERVFAIL, plugin: "puppet" }));
            }
            b"panic" => panic!("on purpose"),
            b"drop" => return Step::Drop,
            b"big" => (0..2_000).for_each(|_| exchange.reply().answer(Type::A, 5, address)),
            _ => exchange.reply().answer(Type::A, 5, address),
        }
        Step::Answered
    }

    fn sent(&self, exchange: &Exchange<'_>, _: &crate::chain::Sent) {
        assert!(exchange.question().label(0) != b"latesent", "on purpose");
    }
}

/// A server and what it runs on.
struct Rig {
    server: Option<Server>,
    service: Arc<Service>,
    gate: Arc<Semaphore>,
    runtime: Runtime,
}

/// Router of one puppet.
fn router(gate: &Arc<Semaphore>, mark: u8) -> Arc<Router> {
    let chain = Chain::new(vec![Arc::new(Puppet { gate: gate.clone(), mark })]);
    Arc::new(Router::new(vec![Block { zones: vec![NameBuf::from_text(".").expect("the root")], chain }], false))
}

/// A server at these addresses.
fn start(addresses: &[&str], settings: Settings, change: impl FnOnce(&mut ServerOptions)) -> Rig {
    try_start(addresses, settings, change).expect("a server")
}

/// A server at these addresses, or why not.
fn try_start(
    addresses: &[&str], settings: Settings, change: impl FnOnce(&mut ServerOptions),
) -> Result<Rig, ServeError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let gate = Arc::new(Semaphore::new(0));
    let service = Service::new(router(&gate, 1), settings);
    let mut options = ServerOptions::new(runtime.handle().clone());
    options.workers = NonZeroUsize::new(2);
    change(&mut options);
    let spec = |address: &&str| ListenSpec { address: address.parse().expect("an address"), service: service.clone() };
    let server = Server::start(addresses.iter().map(spec).collect(), options)?;
    Ok(Rig { server: Some(server), service, gate, runtime })
}

impl Rig {
    /// Returns the server.
    fn server(&self) -> &Server {
        self.server.as_ref().expect("not stopped")
    }

    /// Returns the first listener's address, reached through this IP address.
    fn at(&self, ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("an address"), self.server().local_addresses()[0].port())
    }

    /// Stops the server; gives how long it took.
    fn stop(&mut self, grace: Duration) -> Duration {
        let start = Instant::now();
        self.server.take().expect("not stopped").stop(grace);
        start.elapsed()
    }

    /// Waits until this holds.
    fn wait_until(&self, what: &str, holds: impl Fn(&Server) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds(self.server()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.server().counts());
            std::thread::yield_now();
        }
    }
}

/// A query for A.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend(NameBuf::from_text(name).expect("a name").as_name().as_wire());
    packet.extend([0, 1, 0, 1]);
    packet
}

/// ID, code, count of answers.
fn read(answer: &[u8]) -> (u16, Rcode, u16) {
    assert!(answer[2] & 0x80 != 0, "not an answer");
    let number = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    (number(0), Rcode(u16::from(answer[3] & 0x0f)), number(6))
}

/// A UDP client.
fn udp_client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("a socket");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

/// Returns the next answer and where it came from.
fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 4_096];
    let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
    (buffer[..len].to_vec(), from)
}

/// A TCP client.
fn tcp_client(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    stream
}

/// Messages behind their lengths.
fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    messages.iter().flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat()).collect()
}

/// Returns the next answer, or nothing at the end.
fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 2];
    match stream.read_exact(&mut prefix) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither an answer nor an end"),
        Err(_) => return None,
    }
    let mut answer = vec![0; usize::from(u16::from_be_bytes(prefix))];
    stream.read_exact(&mut answer).expect("a whole answer");
    Some(answer)
}

/// Sends bytes.
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("sent");
}
