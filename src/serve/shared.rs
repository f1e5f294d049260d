//! The state that workers, connections and the server share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use dashmap::DashMap;
use tokio::runtime::Handle;

use super::counts::Counters;
use super::pending::{self, PendingLimit, PendingPermit, Unread};
use super::udp::mailbox::Mailbox;
use crate::chain::Client;

/// The state that workers and connections share.
pub(crate) struct Shared {
    /// The runtime for connections and pending queries.
    pub(super) runtime: Handle,
    /// The limit on pending queries that are in no worker's in-flight table.
    pub(super) pending: Arc<PendingLimit>,
    /// The limit on requests over HTTP and streams of QUIC that have come in part.
    pub(super) unread: Arc<PendingLimit>,
    /// Workers read no new queries. Set once, by [`super::Server::stop`].
    pub(super) stopping: AtomicBool,
    /// The number of workers that have answered all packets that had arrived when the server stopped.
    pub(super) drained: AtomicUsize,
    /// Workers end their queries in flight with SERVFAIL. Set once, by [`super::Server::stop`].
    pub(super) failing: AtomicBool,
    /// Workers exit. Set once, by [`super::Server::stop`].
    pub(super) ended: AtomicBool,
    /// The worker that has a query in flight.
    pub(super) owners: QueryOwners,
    /// The workers' mailboxes, in their order.
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    /// The counters of connections and pending queries. Workers have counters of their own.
    pub(super) counters: Counters,
}

impl Shared {
    /// Acquires a permit for a pending query of a client, and one of the limit of the listener if it has one.
    /// Other queries may lose their permits for it, which is counted.
    pub(super) fn permit(&self, client: Client, own: Option<&Arc<PendingLimit>>, counters: &Counters) -> PendingPermit {
        let (permit, revoked) = PendingPermit::acquire(client.remote.ip(), [Some(&self.pending), own]);
        counters.later.add(1);
        counters.overloads.add(revoked);
        permit
    }

    /// Reads a request or a stream of a client, within a time and the limit on those that have come in part.
    pub(super) async fn read<T>(
        &self, client: Client, time: Duration, reading: impl Future<Output = T>,
    ) -> Result<T, Unread> {
        pending::read(client.remote.ip(), &self.unread, time, &self.counters, reading).await
    }

    /// Returns the workers' mailboxes, in their order.
    pub(super) fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }
}

/// The workers of queries in flight, by the hash that identical queries share. Written when a query is sent to an
/// upstream and when it ends, never for a query that this server answers itself.
pub(super) type QueryOwners = DashMap<u64, usize, foldhash::fast::RandomState>;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pending", &self.pending.held()).finish_non_exhaustive()
    }
}

/// The phase of a listener, which its connections follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ListenerPhase {
    /// The listener serves.
    Serving,
    /// Connections answer the queries that have arrived, and are closed.
    Ending,
    /// Connections are closed at once.
    Ended,
}

/// The maximum time to wait for the next query of a client when the server stops: the connection is closed after its
/// response, when it is least likely that the client sends another one. A query that crosses the end of a connection is
/// lost (E01). The time is long enough for tests on busy machines.
pub(crate) const LEAVE_TIME: Duration = Duration::from_millis(if cfg!(test) { 1_500 } else { 250 });
