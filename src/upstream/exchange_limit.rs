//! The limit on exchanges over streams with one upstream, of which each client has a share.

use std::net::IpAddr;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Error;
use crate::net::{Shares, Ticket, descriptor_limit};

/// The most exchanges with one upstream at once.
pub(super) const MAX_EXCHANGES: usize = 1_000;
/// The fewest, whatever the number of descriptors.
const MIN_EXCHANGES: usize = 8;

/// Returns the limit on exchanges with one upstream. Each may hold a descriptor: an eighth of all leaves enough for
/// other upstreams, sockets of UDP, the API server and pages.
fn limit_within(descriptors: usize) -> usize {
    (descriptors / 8).clamp(MIN_EXCHANGES, MAX_EXCHANGES)
}

/// The permits for exchanges with an upstream. Where all are taken, the oldest exchange of the client with the most
/// ends for one of a client that has fewer even with it; otherwise the new exchange fails.
pub(super) struct ExchangeLimit {
    limit: usize,
    /// Locked for a moment when an exchange starts and when it has ended. A sender that is dropped ends an exchange.
    held: Mutex<Shares<oneshot::Sender<()>>>,
}

impl ExchangeLimit {
    /// Creates the limit that fits this process.
    pub(super) fn of_process() -> ExchangeLimit {
        ExchangeLimit::new(limit_within(descriptor_limit()))
    }

    fn new(limit: usize) -> ExchangeLimit {
        ExchangeLimit { limit, held: Mutex::default() }
    }

    /// Runs an exchange for a client, unless there are too many.
    pub(super) async fn run<T>(
        &self, client: IpAddr, exchange: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let (revoke, mut revoked) = oneshot::channel();
        let _permit = self.acquire(client.to_canonical(), revoke).ok_or(Error::Full)?;
        tokio::select! {
            biased;
            result = exchange => result,
            _ = &mut revoked => Err(Error::Full),
        }
    }

    fn acquire(&self, client: IpAddr, revoke: oneshot::Sender<()>) -> Option<ExchangePermit<'_>> {
        let mut held = self.held.lock();
        if held.len() >= self.limit {
            let victim = held.victim_of_heavier(client)?;
            drop(held.remove(victim));
        }
        Some(ExchangePermit { limit: self, ticket: held.add(client, revoke) })
    }
}

/// Lets an exchange run; given back when dropped.
struct ExchangePermit<'a> {
    limit: &'a ExchangeLimit,
    ticket: Ticket,
}

impl Drop for ExchangePermit<'_> {
    fn drop(&mut self) {
        self.limit.held.lock().remove(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_limit_leaves_descriptors_for_others() {
        assert_eq!([64, 256, 1_024, 1 << 20].map(limit_within), [8, 32, 128, 1_000]);
    }

    #[tokio::test]
    async fn exchanges_of_a_client_keep_no_other_out() {
        let limit = Arc::new(ExchangeLimit::new(2));
        let client = |number| IpAddr::from([10, 0, 0, number]);
        let slow = |number| {
            let (limit, client) = (limit.clone(), client(number));
            tokio::spawn(async move { limit.run(client, pending::<Result<(), Error>>()).await })
        };
        let (first, second) = (slow(1), slow(1));
        tokio::task::yield_now().await;
        assert_eq!(limit.run(client(1), ready(Ok(()))).await, Err(Error::Full), "a client alone is refused");
        assert_eq!(limit.run(client(2), ready(Ok(7))).await, Ok(7));
        assert_eq!(first.await.expect("no panic"), Err(Error::Full), "the oldest exchange has ended for it");
        let third = slow(2);
        tokio::task::yield_now().await;
        assert_eq!(limit.run(client(3), ready(Ok(()))).await, Err(Error::Full), "no client has more than one");
        second.abort();
        third.abort();
        while limit.held.lock().len() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
