//! The connections of listeners with common limits: permits, handshakes and counters. The accept loops are in
//! `accept.rs`, and in `quic/endpoint.rs`.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::limits::{ConnectionPermit, Connections};
use crate::net::memory::MemoryLimit;
use crate::serve::log_limiter::LogLimiter;
use crate::serve::{LEAVE_TIME, ListenerPhase, Shared};

/// The connections of a group with limits of its own: DNS over TCP and TLS, or another encrypted listener.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) connections: Arc<Connections>,
    /// The group of the connections in the registry.
    group: usize,
    pub(crate) shared: Arc<Shared>,
    /// The limit on the memory for queries and responses of encrypted transports.
    pub(crate) memory: Arc<MemoryLimit>,
    /// The number of running accept loops.
    loops: AtomicUsize,
}

/// Limits the log lines about refused connections.
static REFUSED_LOGGED: LogLimiter = LogLimiter::new();

impl Acceptor {
    /// Creates an acceptor without connections.
    pub(crate) fn new(connections: Arc<Connections>, shared: Arc<Shared>, memory: Arc<MemoryLimit>) -> Acceptor {
        let group = connections.add_group();
        Acceptor { connections, group, shared, memory, loops: AtomicUsize::new(0) }
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.connections.open(self.group)
    }

    /// Acquires a permit for a connection of an address, where the group has at most `limit` connections. See
    /// [`Connections::acquire`].
    pub(crate) fn acquire(&self, limit: usize, address: IpAddr, has_socket: bool) -> Option<ConnectionPermit> {
        let (permit, evicted) = self.connections.acquire(self.group, limit, address, has_socket);
        let counters = &self.shared.counters;
        counters.connections_evicted.add(evicted);
        match &permit {
            Some(_) => counters.connections.add(1),
            None => {
                counters.connections_refused.add(1);
                if REFUSED_LOGGED.is_due() {
                    tracing::warn!(client = %address, limits = ?self.connections.limits(), "too many connections; this one is closed");
                }
            }
        }
        permit
    }

    /// Returns whether an accept loop runs or a connection is open.
    pub(crate) fn is_busy(&self) -> bool {
        self.loops.load(Ordering::Acquire) > 0 || self.open() > 0
    }

    /// Counts a running accept loop. Called before its task is spawned, since the server may stop before the task runs.
    pub(crate) fn record_start(&self) {
        self.loops.fetch_add(1, Ordering::AcqRel);
    }

    /// Called when an accept loop has stopped.
    pub(crate) fn record_end(&self) {
        self.loops.fetch_sub(1, Ordering::AcqRel);
    }

    /// Waits for the handshake of a client until the timeout `time` or the eviction of the connection; when the server
    /// stops, at most for [`LEAVE_TIME`]. Returns `None` if the handshake fails, after which the client has the reason.
    pub(crate) async fn handshake<T, E>(
        &self, permit: &ConnectionPermit, handshake: impl Future<Output = Result<T, E>>, time: Duration,
        phase: &watch::Receiver<ListenerPhase>,
    ) -> Option<T> {
        let mut phase = phase.clone();
        let end = async {
            let _ = phase.wait_for(|&phase| phase > ListenerPhase::Serving).await;
            let _ = tokio::time::timeout(LEAVE_TIME, phase.wait_for(|&phase| phase == ListenerPhase::Ended)).await;
        };
        tokio::select! {
            done = handshake => done.ok(),
            () = permit.activity.evicted() => None,
            () = end => None,
            () = tokio::time::sleep(time) => {
                self.shared.counters.connections_timed_out.add(1);
                None
            }
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.connections.remove_group(self.group);
    }
}
