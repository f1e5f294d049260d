//! Binds sockets before anything is served, so that an error is reported at start, and sets the programs in the kernel
//! that choose the socket of a packet or a connection.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{has_no_ipv6, reason};

/// The number of ports that are tried, if any port will do, until one is free for UDP and TCP.
const PORT_ATTEMPTS: usize = 16;
/// The maximum number of TCP sockets of a listener. A client's connections wait to be accepted at one of them, chosen
/// by its address: a client that opens connections faster than they are accepted delays those few clients that share
/// its socket, and no others.
const MAX_ACCEPT_QUEUES: usize = 16;
/// The part of all descriptors that the sockets of accept queues may use.
const ACCEPT_QUEUE_SHARE: usize = 8;
/// The maximum number of TCP connections that wait to be accepted at a socket; the kernel limits it to
/// `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 1_024;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket could not be bound to this address.
    #[error("listen {transport} {address}: {}", reason(.source))]
    Listen {
        /// `udp` or `tcp`.
        transport: &'static str,
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// A worker could not be started.
    #[error("start of UDP worker {worker}: {source}")]
    Worker {
        /// The worker's number, from 0.
        worker: usize,
        /// The reason.
        source: io::Error,
    },
}

/// The sockets of one listener.
pub(super) struct Bound {
    /// The UDP sockets, all with the same port.
    pub(super) udp: Vec<UdpSocket>,
    /// The listening TCP sockets, all with the same port; empty if none were wanted.
    pub(super) tcp: Vec<TcpListener>,
    /// The address of the sockets, with the port that was bound.
    pub(super) address: SocketAddr,
}

/// The sockets that a listener needs.
pub(super) struct WantedSockets {
    /// The address and port. The unspecified address means all addresses of both families, and port 0 any port.
    pub(super) address: SocketAddr,
    /// The number of UDP sockets.
    pub(super) sockets: usize,
    /// The number of TCP sockets.
    pub(super) accept_queues: usize,
    /// The receive buffer of a UDP socket in bytes.
    pub(super) receive_buffer: usize,
    /// The port is shared: another listener of this server has it at an overlapping address, or another process may
    /// have it.
    pub(super) shared: bool,
}

/// Returns the number of TCP sockets of each of this many listeners. It is smaller if the process may open
/// few descriptors.
pub(super) fn accept_queues(listeners: usize, descriptors: usize) -> usize {
    (descriptors / ACCEPT_QUEUE_SHARE / listeners.max(1)).clamp(1, MAX_ACCEPT_QUEUES)
}

/// Binds one listener.
pub(super) fn bind(wanted: &WantedSockets) -> Result<Bound, ServeError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match bind_once(wanted) {
            // A port that is free for UDP may not be free for TCP.
            Err(ServeError::Listen { transport: "tcp", source, .. })
                if wanted.address.port() == 0
                    && attempts < PORT_ATTEMPTS
                    && source.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
}

/// Binds one listener, UDP first.
fn bind_once(wanted: &WantedSockets) -> Result<Bound, ServeError> {
    let mut address = wanted.address;
    if address.ip().is_unspecified() {
        // As Go's `net.Listen`, for which `0.0.0.0` and `::` mean both families.
        address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    }
    let bound = bind_at(address, wanted);
    let is_without_ipv6 =
        |error: &ServeError| matches!(error, ServeError::Listen { source, .. } if has_no_ipv6(source));
    if address.ip().is_unspecified() && bound.as_ref().is_err_and(is_without_ipv6) {
        return bind_at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), wanted);
    }
    bound
}

fn bind_at(mut address: SocketAddr, wanted: &WantedSockets) -> Result<Bound, ServeError> {
    let failed = |transport, address| move |source| ServeError::Listen { transport, address, source };
    let mut sockets = Vec::new();
    if wanted.sockets > 0 {
        let first = udp(address, wanted).map_err(failed("udp", address))?;
        address = first.local_addr().map_err(failed("udp", address))?;
        // Unless the port is shared, the first socket is bound without SO_REUSEPORT, so that a port in use is an error:
        // otherwise two servers of one user would share its queries without notice. After that it may be shared.
        setsockopt(&first, sockopt::ReusePort, &true).map_err(|errno| failed("udp", address)(errno.into()))?;
        sockets.push(first);
    }
    while sockets.len() < wanted.sockets {
        sockets.push(udp(address, &WantedSockets { shared: true, ..*wanted }).map_err(failed("udp", address))?);
    }
    let mut listeners = Vec::new();
    if wanted.accept_queues > 0 {
        let first = tcp(address, wanted).map_err(failed("tcp", address))?;
        address = first.local_addr().map_err(failed("tcp", address))?;
        listeners.push(first);
        // As with UDP: after the first one, the port is shared.
        let more = || tcp(address, &WantedSockets { shared: true, ..*wanted }).map_err(failed("tcp", address));
        while listeners.len() < wanted.accept_queues {
            listeners.push(more()?);
        }
    }
    Ok(Bound { udp: sockets, tcp: listeners, address })
}

/// Binds a UDP socket.
fn udp(address: SocketAddr, wanted: &WantedSockets) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP, wanted)?;
    // A larger buffer than the default survives bursts. The kernel may limit it (`net.core.rmem_max`).
    let _ = socket.set_recv_buffer_size(wanted.receive_buffer);
    if address.ip().is_unspecified() {
        // A response must be sent from the address that its query was sent to.
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Binds a non-blocking, listening TCP socket.
fn tcp(address: SocketAddr, wanted: &WantedSockets) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP, wanted)?;
    // Connections of a server that has just stopped are in TIME-WAIT and must not keep the next one from starting.
    socket.set_reuse_address(true)?;
    // Connections inherit both. The size limits the memory in the kernel that a client can occupy that never reads. A
    // response is written at once; the kernel would only delay it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    // As with UDP: after that, another listener of this server may have an overlapping address.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The size of the kernel's send buffer of a TCP connection in bytes, which the kernel doubles for its own use. The
/// largest response fits.
const SEND_BUFFER: usize = 64 * 1024;

/// Creates a socket of the address's family. A socket for `[::]` is for both families.
fn socket(address: SocketAddr, kind: Type, protocol: Protocol, wanted: &WantedSockets) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if wanted.shared {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

/// Distributes packets over the sockets of a port at random, and not by the addresses and ports of both sides.
///
/// Any socket can answer any packet, and the few flows of a node-local agent may otherwise all reach one worker (E15).
pub(super) fn spread_at_random(sockets: &[UdpSocket]) -> io::Result<()> {
    // A = random; A %= sockets; return A.
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let filter = [load(random), modulo(sockets.len()), RETURN_A];
    select_socket(sockets, filter)
}

/// Gives all connections of a client the same socket of a port, chosen by its IPv4 address, or by the first 64 bits of
/// its IPv6 address, which are those of a client's network.
pub(super) fn spread_by_source(sockets: &[TcpListener]) -> io::Result<()> {
    /// The start of the IP header.
    const IP: u32 = libc::SKF_NET_OFF as u32;
    /// Knuth's multiplicative hash: neighbouring addresses differ in the upper bits of the product.
    const FACTOR: u32 = 0x9e37_79b1;
    let filter = [
        // A = the version.
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, IP),
        step(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4),
        // A = the address: 4 bytes from 12 on for IPv4; for IPv6 the sum of twice 4 bytes, the first one multiplied.
        libc::sock_filter { jf: 2, ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 4) },
        load(IP + 12),
        step(libc::BPF_JMP | libc::BPF_JA, 5),
        load(IP + 8),
        multiply(FACTOR),
        step(libc::BPF_MISC | libc::BPF_TAX, 0),
        load(IP + 12),
        step(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
        // A = its hash; A %= sockets; return A.
        multiply(FACTOR),
        step(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 16),
        modulo(sockets.len()),
        RETURN_A,
    ];
    select_socket(sockets, filter)
}

const RETURN_A: libc::sock_filter = step(libc::BPF_RET | BPF_A, 0);
/// The accumulator, as the source of a return value (`linux/filter.h`).
const BPF_A: u32 = 0x10;

/// Returns an instruction of classic BPF.
const fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// A = the 4 bytes at this offset.
const fn load(offset: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

const fn multiply(factor: u32) -> libc::sock_filter {
    step(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, factor)
}

const fn modulo(count: usize) -> libc::sock_filter {
    step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count as u32)
}

/// Sets the program that chooses a socket of a port, by its index, for each packet or new connection.
fn select_socket<const N: usize>(sockets: &[impl AsFd], mut filter: [libc::sock_filter; N]) -> io::Result<()> {
    let Some(first) = sockets.first() else { return Ok(()) };
    let program = libc::sock_fprog { len: N as u16, filter: filter.as_mut_ptr() };
    Ok(setsockopt(first, sockopt::AttachReusePortCbpf, &program)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    /// Connects from an address, and returns the number of the socket at which the connection waits.
    fn queue_of(source: &str, target: SocketAddr, listeners: &[TcpListener]) -> usize {
        let source: SocketAddr = format!("{source}:0").parse().expect("an address");
        let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).expect("a socket");
        socket.bind(&source.into()).expect("an address of the loopback interface");
        socket.connect(&target.into()).expect("a connection");
        let _connected = TcpStream::from(socket);
        let accepted = |at: usize| Some((at, listeners[at].accept().ok()?.0));
        let accepted: Vec<(usize, TcpStream)> = (0..listeners.len()).filter_map(accepted).collect();
        assert_eq!(accepted.len(), 1, "{accepted:?}");
        assert!(accepted[0].1.nodelay().expect("an option"), "inherited from the listener");
        accepted[0].0
    }

    #[test]
    fn many_listeners_have_fewer_accept_queues() {
        for (listeners, descriptors, expected) in [(1, 1_024, 16), (8, 1_024, 16), (60, 1_024, 2), (400, 1_024, 1)] {
            assert_eq!(accept_queues(listeners, descriptors), expected, "{listeners} {descriptors}");
        }
        assert_eq!(accept_queues(400, 1 << 20), 16);
        assert_eq!(accept_queues(0, 0), 1);
    }

    #[test]
    fn the_address_of_a_client_chooses_its_accept_queue() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let address = address.parse().expect("an address");
            let accept_queues = accept_queues(1, 1_024);
            let wanted = WantedSockets { address, sockets: 0, accept_queues, receive_buffer: 0, shared: false };
            let bound = bind(&wanted).expect("a free port");
            spread_by_source(&bound.tcp).expect("the kernel has classic BPF");
            let target = SocketAddr::from((Ipv4Addr::LOCALHOST, bound.address.port()));
            let queue = |source: &str| queue_of(source, target, &bound.tcp);
            let hostile = queue("127.0.0.2");
            assert!((0..40).all(|_| queue("127.0.0.2") == hostile));
            // Few others share it.
            let sharing = (1..=160).filter(|host| queue(&format!("127.0.1.{host}")) == hostile).count();
            assert!(sharing < 20, "{sharing}");
            let target = SocketAddr::from((Ipv6Addr::LOCALHOST, bound.address.port()));
            if bound.address.is_ipv6() && !has_no_ipv6_loopback() {
                let queue = || queue_of("[::1]", target, &bound.tcp);
                let first = queue();
                assert!((0..10).all(|_| queue() == first));
            }
        }
    }

    fn has_no_ipv6_loopback() -> bool {
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err()
    }
}
