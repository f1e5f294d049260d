//! The permit of a query for *max_concurrent* of its group.

use std::net::IpAddr;
use std::sync::Arc;

use super::Error;
use super::group::Group;
use super::permits::WaiterPlace;
use crate::net::Ticket;

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
