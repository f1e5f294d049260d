//! What workers, connections and the server itself have in common.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tokio::runtime::Handle;

use super::counts::Counters;
use super::pending::{PendingLimit, PendingPermit};
use super::udp::forward::QueryOwners;
use super::udp::mailbox::Mailbox;
use crate::chain::Client;

/// What workers and connections have in common.
pub(crate) struct Shared {
    /// Where pending queries are waited for.
    pub(super) runtime: Handle,
    /// The limit on pending queries that are in no worker's in-flight table.
    pub(super) pending: Arc<PendingLimit>,
    /// Workers read no new queries. Set once, by [`super::Server::stop`].
    pub(super) stopping: AtomicBool,
    /// How many workers have answered all that had come when the server stopped.
    pub(super) drained: AtomicUsize,
    /// Workers exit. Set once, by [`super::Server::stop`].
    pub(super) ended: AtomicBool,
    /// Which worker has a query in flight.
    pub(super) owners: QueryOwners,
    /// The workers' mailboxes, in their order.
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    /// What connections and pending queries count; a worker has counters of its own.
    pub(super) counters: Counters,
}

impl Shared {
    /// Takes a permit for a pending query of a client, within a limit of the listener's own, too, if there is one.
    /// Another query may lose its permit for it, which `counters` count.
    pub(super) fn permit(&self, client: Client, own: Option<&Arc<PendingLimit>>, counters: &Counters) -> PendingPermit {
        let (permit, revoked) = PendingPermit::acquire(client.remote.ip(), [Some(&self.pending), own]);
        counters.later.add(1);
        counters.overloads.add(revoked);
        permit
    }

    /// The workers' mailboxes, in their order.
    pub(super) fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pending", &self.pending.held()).finish_non_exhaustive()
    }
}

/// How far a listener is on its way to the end, for its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ListenerPhase {
    /// It serves.
    Serving,
    /// It answers what it has read, and closes.
    Ending,
    /// It closes.
    Ended,
}

/// How long a client's next query is waited for when the server stops: the connection is closed behind the answer to
/// it, when the client is least likely to be sending. A query that crosses the end of a connection is lost (E01). Tests
/// run on machines that are busy.
pub(crate) const LEAVE_TIME: Duration = Duration::from_millis(if cfg!(test) { 1_500 } else { 250 });
