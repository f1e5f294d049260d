//! What the connections of a QUIC listener share, and how they end when the server stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, VarInt};

use super::proxied::{ConnectionOrigin, ProxiedSocket};
use crate::chain::{Client, Transport};
use crate::net::Proxied;
use crate::serve::pending::PendingLimit;
use crate::serve::request::Requester;
use crate::serve::tcp::acceptor::Acceptor;
use crate::serve::{LEAVE_TIME, Service};

/// The time after the last query or response for which a closing connection stays open: queries may be in the kernel's
/// buffers, and responses in those of QUIC.
pub(super) const LAST: Duration = Duration::from_millis(50);

/// The state that the connections of a listener share.
pub(crate) struct QuicListener {
    /// The limits on the connections.
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) service: Arc<Service>,
    pub(super) transport: Transport,
    pub(super) socket: Arc<ProxiedSocket>,
    /// The address of the endpoint.
    pub(super) local: SocketAddr,
    /// The limit on the pending queries of this listener, if there is one.
    pub(crate) pending: Option<Arc<PendingLimit>>,
}

impl QuicListener {
    /// Returns the client of a connection.
    pub(super) fn requester(&self, connection: &Connection, origin: ConnectionOrigin) -> Requester {
        let transport = self.transport;
        match origin {
            ConnectionOrigin::Direct(remote) => {
                let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
                let ip = connection.local_ip().unwrap_or(self.local.ip()).to_canonical();
                Client { remote, local: SocketAddr::new(ip, self.local.port()), transport }.into()
            }
            ConnectionOrigin::Proxied(Proxied { client, server, tlvs }) => {
                let client = Client { remote: client, local: server, transport };
                Requester { tlvs, ..Requester::from(client) }
            }
        }
    }
}

/// The state of a connection when the server stops.
#[derive(Default)]
pub(crate) struct Stopping {
    /// The time until which new queries are answered; `None` while the server runs.
    until: Option<Instant>,
    is_quiet: bool,
}

impl Stopping {
    /// Called when the server stops.
    pub(crate) fn begin(&mut self) {
        self.until.get_or_insert_with(|| Instant::now() + LEAVE_TIME);
    }

    /// Returns whether new queries are still answered. The time is limited, so that a client that continues to send
    /// does not delay the end.
    pub(crate) fn accepts(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Waits for [`LAST`], or for ever while the server runs.
    pub(crate) async fn wait(&self) {
        match self.until {
            Some(_) => tokio::time::sleep(LAST).await,
            None => std::future::pending().await,
        }
    }

    /// Called when nothing has arrived for [`LAST`].
    pub(crate) fn set_quiet(&mut self) {
        self.is_quiet = true;
    }

    /// Returns whether the connection can be closed. `is_idle`: no query is pending. The last response also has
    /// [`LAST`] to reach the client: what is not sent yet is lost when the connection is closed.
    pub(crate) fn is_over(&mut self, is_idle: bool) -> bool {
        std::mem::take(&mut self.is_quiet) && is_idle
    }
}

/// Converts an error code of HTTP/3.
pub(crate) const fn code(code: u32) -> VarInt {
    VarInt::from_u32(code)
}
