//! The UDP sockets of a listener that a worker owns.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use crate::serve::Service;

/// RFC 863; no client sends from it.
const DISCARD: u16 = 9;

/// The UDP sockets of a listener that a worker owns, and what is served there.
pub(crate) struct UdpListener {
    /// The socket. Answers of pending queries leave by it, and keep it open until then.
    pub(crate) socket: Arc<UdpSocket>,
    /// More sockets of the same port, where there are more sockets than workers (*multisocket*).
    pub(crate) more: Vec<Arc<UdpSocket>>,
    /// Where they are bound.
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Service>,
}

impl UdpListener {
    /// All its sockets.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &Arc<UdpSocket>> {
        std::iter::once(&self.socket).chain(&self.more)
    }

    /// Returns one of its sockets by its place among them.
    pub(crate) fn socket(&self, index: usize) -> Option<&UdpSocket> {
        match index.checked_sub(1) {
            None => Some(&self.socket),
            Some(index) => self.more.get(index).map(|socket| &**socket),
        }
    }

    /// Has the kernel refuse packets from now on, but for those that it has taken already: a socket with a peer gets
    /// only what that peer sends, and no client has an address of this host and the port of *discard*. Answers still
    /// leave.
    pub(crate) fn refuse(&self) {
        let own = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        for socket in self.sockets() {
            if let Err(error) = socket.connect(SocketAddr::new(own, DISCARD)) {
                tracing::debug!(address = %self.address, %error, "packets are not refused while a socket closes");
            }
        }
    }
}
