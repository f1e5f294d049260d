//! The UDP sockets of a listener that a worker owns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::serve::Service;

/// RFC 863; no client sends from it.
const DISCARD: u16 = 9;

/// The UDP sockets of a listener that a worker owns, and the service of the listener.
pub(crate) struct UdpListener {
    /// The socket. Pending queries have references to it, so that it stays open until their responses are sent.
    pub(crate) socket: Arc<UdpSocket>,
    /// More sockets of the same port, if there are more sockets than workers (*multisocket*).
    pub(crate) more: Vec<Arc<UdpSocket>>,
    /// The address of the sockets.
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Service>,
}

impl UdpListener {
    /// Returns all sockets.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &Arc<UdpSocket>> {
        std::iter::once(&self.socket).chain(&self.more)
    }

    /// Returns a socket by its index.
    pub(crate) fn socket(&self, index: usize) -> Option<&UdpSocket> {
        match index.checked_sub(1) {
            None => Some(&self.socket),
            Some(index) => self.more.get(index).map(|socket| &**socket),
        }
    }

    /// Makes the kernel refuse packets from now on, except those that it has already accepted: a connected socket
    /// receives packets of its peer only, and no client has an address of this host and the port of *discard*.
    /// Responses can still be sent.
    pub(crate) fn refuse(&self) {
        let own = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        for socket in self.sockets() {
            if let Err(error) = socket.connect(SocketAddr::new(own, DISCARD)) {
                tracing::debug!(address = %self.address, %error, "cannot refuse packets at a closing socket: new ones are lost");
            }
        }
    }
}
