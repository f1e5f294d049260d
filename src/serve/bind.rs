//! Binds sockets before anything is served, so that an error is reported at start.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::{has_no_ipv6, reason};

/// The number of ports that are tried, if any port will do, until one is free for UDP and TCP.
const PORT_ATTEMPTS: usize = 16;
/// The maximum number of TCP connections that wait to be accepted; the kernel limits it to `net.core.somaxconn`.
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
    /// The UDP sockets, all with the same port.
    pub(super) udp: Vec<UdpSocket>,
    /// The listening TCP socket, if one was wanted.
    pub(super) tcp: Option<TcpListener>,
    /// The address of the sockets, with the port that was bound.
    pub(super) address: SocketAddr,
}

/// The sockets that a listener needs.
pub(super) struct WantedSockets {
    /// The address and port. The unspecified address means all addresses of both families, and port 0 any port.
    pub(super) address: SocketAddr,
    /// The number of UDP sockets.
    pub(super) sockets: usize,
    /// Whether to bind a TCP socket.
    pub(super) tcp: bool,
    /// The receive buffer of a UDP socket in bytes.
    pub(super) receive_buffer: usize,
    /// The port is shared: another listener of this server has it at an overlapping address, or another process may
    /// have it.
    pub(super) shared: bool,
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
    // Connections inherit it. It limits the memory in the kernel that a client can occupy that never reads.
    socket.set_send_buffer_size(SEND_BUFFER)?;
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
