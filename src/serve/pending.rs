//! Pending queries: how many there may be, whose give way, and how they are finished.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::Service;
use super::counts::Counters;
use crate::chain::Pending;
use crate::net::{Shares, Ticket};
use crate::wire::MAX_MESSAGE;

/// The limit on pending queries, over all transports. Where all its permits are taken, the client that holds the most
/// loses its oldest one.
#[derive(Debug)]
pub(crate) struct PendingLimit {
    /// The permits that are taken. Locked for a moment when a query becomes pending and when it is answered, by workers
    /// and by tokio's threads; books of each thread's own could not compare clients.
    held: Mutex<Shares<oneshot::Sender<()>>>,
    limit: usize,
}

impl PendingLimit {
    /// A limit of so many, of one at least.
    pub(crate) fn new(limit: usize) -> Arc<PendingLimit> {
        Arc::new(PendingLimit { held: Mutex::default(), limit: limit.max(1) })
    }

    /// How many permits are taken.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// Takes a permit for a query of this client. Says whether another query has lost its permit for it.
    fn acquire(&self, client: IpAddr, revoke: oneshot::Sender<()>) -> (Ticket, bool) {
        let held = &mut *self.held.lock();
        let evicted = (held.len() >= self.limit).then(|| held.victim_for(client)).flatten();
        // Dropping the sender tells the other.
        let has_revoked = evicted.and_then(|ticket| held.remove(ticket)).is_some();
        (held.add(client, revoke), has_revoked)
    }
}

/// Lets a query be pending; given back when dropped.
pub(crate) struct PendingPermit {
    /// One of each limit that applies.
    parts: SmallVec<[PermitPart; 1]>,
}

/// A permit of one limit.
struct PermitPart {
    limit: Arc<PendingLimit>,
    ticket: Ticket,
    /// Ends when the permit is revoked.
    revoked: oneshot::Receiver<()>,
}

impl PendingPermit {
    /// Takes permits of these limits for a query of a client. Returns also how many other queries have lost theirs.
    pub(crate) fn acquire<'a>(
        client: IpAddr, limits: impl IntoIterator<Item = Option<&'a Arc<PendingLimit>>>,
    ) -> (PendingPermit, u64) {
        let (client, mut revoked) = (client.to_canonical(), 0);
        let parts = limits.into_iter().flatten().map(|limit| {
            let (revoke, is_revoked) = oneshot::channel();
            let (ticket, has_revoked) = limit.acquire(client, revoke);
            revoked += u64::from(has_revoked);
            PermitPart { limit: limit.clone(), ticket, revoked: is_revoked }
        });
        let parts = parts.collect();
        (PendingPermit { parts }, revoked)
    }

    /// Waits until the permit is revoked.
    async fn revoked(&mut self) {
        std::future::poll_fn(|cx| {
            let is_revoked = |part: &mut PermitPart| Pin::new(&mut part.revoked).poll(cx).is_ready();
            if self.parts.iter_mut().any(is_revoked) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for PendingPermit {
    fn drop(&mut self) {
        for PermitPart { limit, ticket, .. } in &self.parts {
            limit.held.lock().remove(*ticket);
        }
    }
}

thread_local! {
    /// Where answers are written before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Waits for an answer, or until the permit is revoked, and writes it, `limit` bytes at most. Returns `None` where the
/// client gets nothing. `packet` is the query, for the case that a plugin panics.
pub(crate) async fn answer(
    pending: Pending, permit: &mut PendingPermit, packet: Box<[u8]>, limit: usize, service: Arc<Service>,
    counters: &Counters,
) -> Option<Box<[u8]>> {
    let mut future = std::pin::pin!(pending.finish_unless(permit.revoked()));
    // What a panic leaves half done is dropped with the future, so that it is not used again.
    let finished = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    });
    let finished = finished.await;
    SCRATCH.with_borrow_mut(|out| {
        out.resize(MAX_MESSAGE, 0);
        let written = finished.and_then(|finished| {
            catch_unwind(AssertUnwindSafe(|| finished.map(|finished| finished.encode(&mut out[..limit]))))
        });
        let len = match written {
            Ok(len) => len?,
            Err(panic) => service.panicked(&*panic, counters, &packet, out),
        };
        Some(out[..len].into())
    })
}

/// Limits log lines about a problem that may recur for each packet: one in ten seconds.
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// None logged yet.
    pub(crate) const fn new() -> Seldom {
        Seldom(Mutex::new(None))
    }

    /// Whether to log now.
    pub(crate) fn now(&self) -> bool {
        let (mut last, now) = (self.0.lock(), Instant::now());
        let due = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(10));
        if due {
            *last = Some(now);
        }
        due
    }
}
