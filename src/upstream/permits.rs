//! The permits of *max_concurrent*: how many queries of a group may be in flight, and which one is evicted for another.
//!
//! The limit is the operator's and holds for all clients together. Where all permits are taken, the oldest query of the
//! client with the most is evicted, if that client has more than the newcomer has with the new query; otherwise the new
//! query is refused. So a client with many slow queries keeps no other client out, a client alone is refused as by
//! CoreDNS, and clients with equal shares do not evict each other's queries.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Error, Group};
use crate::net::{Shares, Ticket};

/// Where a waiter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterPlace {
    /// The number of the worker that has it in its table.
    pub worker: usize,
    /// Its place in the table.
    pub waiter: u32,
}

/// The permits of a group.
#[derive(Debug)]
pub(super) struct Permits {
    limit: usize,
    /// Those that are taken, by client. Locked for a moment when a query is sent to an upstream and when it has ended;
    /// permits of each worker's own could not be compared.
    held: Mutex<Shares<WaiterPlace>>,
    /// How many are taken. Written with `held` locked; read without it, to decide early.
    taken: AtomicUsize,
}

impl Permits {
    /// Permits of a limit; `None` if it is 0, which is no limit.
    pub(super) fn new(limit: usize) -> Option<Permits> {
        (limit > 0).then(|| Permits { limit, held: Mutex::default(), taken: AtomicUsize::new(0) })
    }

    /// Whether a query of this client would get a permit now.
    pub(super) fn admits(&self, client: IpAddr) -> bool {
        self.taken.load(Ordering::Relaxed) < self.limit || {
            let held = self.held.lock();
            held.len() < self.limit || held.victim_of_heavier(client.to_canonical()).is_some()
        }
    }

    /// Takes a permit, also from another waiter, which is returned. `None` if the query is refused.
    fn acquire(&self, client: IpAddr, place: WaiterPlace) -> Option<(Ticket, Option<(WaiterPlace, Ticket)>)> {
        let (client, held) = (client.to_canonical(), &mut *self.held.lock());
        let mut revoked = None;
        if held.len() >= self.limit {
            let ticket = held.victim_of_heavier(client)?;
            revoked = held.remove(ticket).map(|victim| (victim, ticket));
        }
        let ticket = held.add(client, place);
        self.taken.store(held.len(), Ordering::Relaxed);
        Some((ticket, revoked))
    }

    fn release(&self, ticket: Ticket) {
        let mut held = self.held.lock();
        held.remove(ticket);
        self.taken.store(held.len(), Ordering::Relaxed);
    }
}

/// A waiter's permit; given back when dropped.
pub(super) struct QueryPermit {
    group: Arc<Group>,
    ticket: Ticket,
}

/// A waiter that has lost its permit to another client's query.
pub struct RevokedPermit {
    /// Where it was.
    pub place: WaiterPlace,
    group: Arc<Group>,
    ticket: Ticket,
}

impl QueryPermit {
    /// Takes a permit of the query's group for the waiter in this place. Returns none if the group has no limit, and
    /// the waiter that has lost its permit to this one, if any; or the error with which the query is refused.
    pub(super) fn acquire(
        group: &Arc<Group>, client: IpAddr, place: WaiterPlace,
    ) -> Result<(Option<QueryPermit>, Option<RevokedPermit>), Error> {
        let Some(permits) = &group.permits else { return Ok((None, None)) };
        let (ticket, revoked) = permits.acquire(client, place).ok_or_else(|| group.refuse())?;
        let revoked = revoked.map(|(place, ticket)| RevokedPermit { place, group: group.clone(), ticket });
        Ok((Some(QueryPermit { group: group.clone(), ticket }), revoked))
    }

    /// Whether this is the permit that was revoked. The place of its waiter may belong to another one by now.
    pub(super) fn is(&self, revoked: &RevokedPermit) -> bool {
        Arc::ptr_eq(&self.group, &revoked.group) && self.ticket == revoked.ticket
    }
}

impl Drop for QueryPermit {
    fn drop(&mut self) {
        if let Some(permits) = &self.group.permits {
            permits.release(self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// Takes a permit for a client's waiter. Returns whether it got one, and the waiter that lost its own.
    fn take(permits: &Permits, number: u8, waiter: u32) -> (bool, Option<u32>) {
        let admits = permits.admits(client(number));
        let acquired = permits.acquire(client(number), WaiterPlace { worker: 0, waiter });
        assert_eq!(admits, acquired.is_some());
        (admits, acquired.and_then(|(_, revoked)| revoked).map(|(place, _)| place.waiter))
    }

    #[test]
    fn the_oldest_query_of_a_heavier_client_is_evicted() {
        let permits = Permits::new(4).expect("a limit");
        for waiter in 0..4 {
            assert_eq!(take(&permits, 1, waiter), (true, None));
        }
        assert_eq!(take(&permits, 1, 4), (false, None), "a client alone is refused");
        assert_eq!(take(&permits, 2, 5), (true, Some(0)));
        assert_eq!(take(&permits, 2, 6), (true, Some(1)));
        // Both have two.
        assert_eq!(take(&permits, 2, 7), (false, None));
        assert_eq!(take(&permits, 1, 8), (false, None));
        assert_eq!(take(&permits, 3, 9), (true, Some(2)));
        assert_eq!(take(&permits, 3, 10), (false, None), "client 2 would have fewer");
        assert_eq!(permits.held.lock().len(), 4);
        assert!(Permits::new(0).is_none());
    }
}
