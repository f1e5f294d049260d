//! Binds sockets, so that an error shows at start, in one line.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{has_no_ipv6, reason};

/// How many ports are tried until one is free for UDP and TCP, where any port is asked for.
const PORT_TRIES: usize = 16;
/// TCP connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4_096;

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
    /// As many as were wanted, all of one port.
    pub(super) udp: Vec<UdpSocket>,
    /// The listening one, if it was wanted.
    pub(super) tcp: Option<TcpListener>,
    /// Their address, with the real port.
    pub(super) address: SocketAddr,
}

/// What sockets a listener needs.
pub(super) struct WantedSockets {
    /// The address, where unspecified means every address of both families, and the port, where 0 means any.
    pub(super) address: SocketAddr,
    /// How many UDP sockets.
    pub(super) sockets: usize,
    /// Whether there is a TCP socket.
    pub(super) tcp: bool,
    /// The bytes that a UDP socket may hold unread.
    pub(super) receive_buffer: usize,
    /// Another listener of this server has the same port at an address that this one includes or that includes it, or
    /// another process may have it.
    pub(super) shared: bool,
}

/// Binds one listener.
pub(super) fn bind(wanted: &WantedSockets) -> Result<Bound, ServeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_once(wanted) {
            // A port that is free for UDP may not be free for TCP.
            Err(ServeError::Listen { transport: "tcp", source, .. })
                if wanted.address.port() == 0 && tries < PORT_TRIES && source.kind() == io::ErrorKind::AddrInUse => {}
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
        // Unless the port is shared, the first socket was bound alone, so that a port in use is an error: with
        // SO_REUSEPORT two servers of one user would share its queries in silence. From now on it may be shared.
        setsockopt(&first, sockopt::ReusePort, &true).map_err(|errno| failed("udp", address)(errno.into()))?;
        sockets.push(first);
    }
    while sockets.len() < wanted.sockets {
        sockets.push(udp(address, &WantedSockets { shared: true, ..*wanted }).map_err(failed("udp", address))?);
    }
    let mut listener = None;
    if wanted.tcp {
        let bound = tcp(address, wanted).map_err(failed("tcp", address))?;
        address = bound.local_addr().map_err(failed("tcp", address))?;
        listener = Some(bound);
    }
    Ok(Bound { udp: sockets, tcp: listener, address })
}

/// Binds a UDP socket.
fn udp(address: SocketAddr, wanted: &WantedSockets) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP, wanted)?;
    // More than the default outlasts a burst; less than asked for is no error (`net.core.rmem_max`).
    let _ = socket.set_recv_buffer_size(wanted.receive_buffer);
    if address.ip().is_unspecified() {
        // So that an answer leaves from the address that its query was sent to.
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Binds a listening TCP socket, not blocking.
fn tcp(address: SocketAddr, wanted: &WantedSockets) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP, wanted)?;
    // Connections of a server that has just stopped are in TIME-WAIT and must not keep the next one from starting.
    socket.set_reuse_address(true)?;
    // Connections inherit it: a client that never reads holds so much of the kernel's memory, no more.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    // As with UDP: from now on another listener of this server may take an address that overlaps.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// What the kernel may hold of a TCP connection's answers, in bytes; it doubles the number for its own use. One answer
/// of the largest size fits.
const SEND_BUFFER: usize = 64 * 1024;

/// Makes a socket of the address's family; `[::]` is for both families.
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

/// Spreads packets over the sockets of a port at random, not by the addresses and ports of both sides.
///
/// Any socket can answer any packet, and the few flows of a node-local agent otherwise meet in one worker (E15).
pub(super) fn spread_at_random(sockets: &[UdpSocket]) -> io::Result<()> {
    let Some(first) = sockets.first() else { return Ok(()) };
    // Classic BPF: A = random; A %= sockets; return A.
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, sockets.len() as u32),
        step(libc::BPF_RET | 0x10, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    Ok(setsockopt(first, sockopt::AttachReusePortCbpf, &program)?)
}
