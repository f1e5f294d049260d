//! Pending queries: the limit on their number, which query loses its permit at the limit, and how they are finished.

use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::counts::Counters;
use super::service::Service;
use crate::chain::Pending;
use crate::net::{Shares, Ticket};
use crate::wire::MAX_MESSAGE;

/// The limit on pending queries of all transports. At the limit, the client that holds the most permits loses its
/// oldest one.
#[derive(Debug)]
pub(crate) struct PendingLimit {
    /// The permits that are held. Locked for a moment when a query becomes pending and when it is answered, by workers
    /// and by tokio's threads. It is shared, since shares of clients are compared over all threads.
    held: Mutex<HeldPermits>,
    limit: usize,
}

/// The permits of a limit.
#[derive(Debug, Default)]
struct HeldPermits {
    /// Those that may be revoked, by client.
    shares: Shares<oneshot::Sender<()>>,
    /// The number of all, with those that are revoked and whose queries are still being answered.
    count: usize,
}

impl PendingLimit {
    /// Creates a limit; 0 counts as 1.
    pub(crate) fn new(limit: usize) -> Arc<PendingLimit> {
        Arc::new(PendingLimit { held: Mutex::default(), limit: limit.max(1) })
    }

    /// Returns the number of permits that are held, with revoked ones whose queries are still being answered.
    pub(crate) fn held(&self) -> usize {
        self.held.lock().count
    }

    /// Revokes all permits, so that their queries end.
    pub(crate) fn revoke_all(&self) {
        let shares = &mut self.held.lock().shares;
        while let Some(ticket) = shares.victim_for(Ipv4Addr::UNSPECIFIED.into()) {
            shares.remove(ticket);
        }
    }

    /// Acquires a permit for a query of this client. Returns whether another query lost its permit for it.
    fn acquire(&self, client: IpAddr, revoke: oneshot::Sender<()>) -> (Ticket, bool) {
        let held = &mut *self.held.lock();
        held.count += 1;
        let shares = &mut held.shares;
        let evicted = (shares.len() >= self.limit).then(|| shares.victim_for(client)).flatten();
        // The other query is notified when the sender is dropped.
        let has_revoked = evicted.and_then(|ticket| shares.remove(ticket)).is_some();
        (shares.add(client, revoke), has_revoked)
    }
}

/// The right of a query to be pending. It is released when this is dropped.
pub(crate) struct PendingPermit {
    /// A permit of each limit that applies.
    parts: SmallVec<[PermitPart; 1]>,
}

/// A permit of one limit.
struct PermitPart {
    limit: Arc<PendingLimit>,
    ticket: Ticket,
    /// Resolves when the permit is revoked.
    revoked: oneshot::Receiver<()>,
}

impl PendingPermit {
    /// Acquires permits of these limits for a query of a client. Also returns the number of other queries that lost
    /// theirs.
    pub(crate) fn acquire<'a>(
        client: IpAddr, limits: impl IntoIterator<Item = Option<&'a Arc<PendingLimit>>>,
    ) -> (PendingPermit, u64) {
        let client = client.to_canonical();
        let mut revoked = 0;
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
            let held = &mut *limit.held.lock();
            held.shares.remove(*ticket);
            held.count -= 1;
        }
    }
}

/// Why a request has not been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Its time is over.
    TimedOut,
    /// Too many requests have come in part, and its client has the most of them.
    Evicted,
}

/// Reads a request or a stream of a client, within a time. One that has come whole needs no permit; `limit` is on those
/// that have come in part.
pub(crate) async fn read<T>(
    client: IpAddr, limit: &Arc<PendingLimit>, time: Duration, counters: &Counters, reading: impl Future<Output = T>,
) -> Result<T, Unread> {
    let mut reading = std::pin::pin!(reading);
    let first = std::future::poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
    if let Poll::Ready(done) = first {
        return Ok(done);
    }
    let (mut permit, evicted) = PendingPermit::acquire(client, [Some(limit)]);
    counters.overloads.add(evicted);
    tokio::select! {
        biased;
        done = reading => Ok(done),
        () = permit.revoked() => Err(Unread::Evicted),
        () = tokio::time::sleep(time) => Err(Unread::TimedOut),
    }
}

thread_local! {
    /// The buffer for responses, reused to avoid allocations.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Waits for the reply, or until the permit is revoked, and returns the response of at most `limit` bytes, or `None` if
/// there is none. `packet` is the query, for the case that a plugin panics.
pub(crate) async fn answer(
    pending: Pending, permit: &mut PendingPermit, packet: Box<[u8]>, limit: usize, service: Arc<Service>,
    counters: &Counters,
) -> Option<Box<[u8]>> {
    let mut future = std::pin::pin!(pending.finish_unless(permit.revoked()));
    // The state of a future that panicked is dropped with it, and not used again.
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
            Err(panic) => service.handle_panic(&*panic, counters, &packet, out),
        };
        Some(out[..len].into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_that_have_come_in_part_have_a_limit_with_shares() {
        let (limit, counters) = (PendingLimit::new(3), Counters::default());
        let client = |number| IpAddr::from([10, 0, 0, number]);
        let read = |number, (sender, rest): (oneshot::Sender<u32>, oneshot::Receiver<u32>)| {
            let (limit, client) = (limit.clone(), client(number));
            let reading = async move { super::read(client, &limit, Duration::MAX, &Counters::default(), rest).await };
            (tokio::spawn(reading), sender)
        };
        // Whole requests need no permit.
        for _ in 0..5 {
            let done = super::read(client(1), &limit, Duration::MAX, &counters, std::future::ready(7)).await;
            assert_eq!((done, limit.held()), (Ok(7), 0));
        }
        let mut halves = Vec::new();
        for number in [1, 2, 1, 3, 1] {
            halves.push(read(number, oneshot::channel()));
            tokio::task::yield_now().await;
            assert!(limit.held() <= 3);
        }
        let mut ends = Vec::new();
        for (half, sender) in halves {
            let _ = sender.send(8);
            ends.push(half.await.expect("no panic").map(|done| done.expect("sent")));
        }
        let (whole, evicted) = (Ok(8), Err(Unread::Evicted));
        assert_eq!(ends, [evicted, whole, evicted, whole, whole]);
        let late = super::read(client(1), &limit, Duration::ZERO, &counters, std::future::pending::<()>()).await;
        assert_eq!((late, limit.held()), (Err(Unread::TimedOut), 0));
    }
}
