//! Opens listening sockets for HTTP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::net::has_no_ipv6;

/// The maximum number of connections that are not accepted yet.
const BACKLOG: i32 = 128;

/// Opens a listening socket. `[::]` is every address of both families, as in Go, or of IPv4 if the kernel has no IPv6.
/// With `shared`, another listener of this server may have the same port. Must be called within a tokio runtime.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = match bind(address, shared) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && has_no_ipv6(&error) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), shared)?
        }
        other => other?,
    };
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Connections of a server that has just ended are in TIME-WAIT, and must not prevent the next one from starting.
    socket.set_reuse_address(true)?;
    // CoreDNS always shares its ports, so that two servers on one machine answer each other's probes.
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    // It was bound alone, so that a port in use is noticed. From now on a reload may open another listener there.
    socket.set_reuse_port(true)?;
    Ok(socket)
}
