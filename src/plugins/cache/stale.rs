//! Items that have ended but are of use (*serve_stale*, RFC 8767), and what a refresh brings.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::config::Verify;
use super::counts::SERVED_STALE;
use super::item::{Item, Refreshing};
use super::store::Place;
use super::{Asked, Cache};
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Origin, State, Step, Wait, Work};
use crate::plugins::cache::classify::{self, Sort};
use crate::wire::header::flag;
use crate::wire::{Rcode, Reply};

impl Cache {
    /// Answers with an item that has ended, or with a newer answer where the client is to wait for it.
    #[cold]
    pub(super) fn serve_stale(&self, exchange: &mut Exchange<'_>, item: &Arc<Item>) -> Step {
        let config = &self.memory.config;
        // What has ended is found only where it is of use.
        let Some(stale) = &config.stale else { return Step::Next };
        let refreshing = match stale.verify {
            Verify::Immediate => {
                self.refresh_beside(exchange, item);
                None
            }
            Verify::Wait(_) => item.begin_refresh(exchange.now),
        };
        let ttl = match stale.ttl {
            0 if config.keep_ttl => item.ttl,
            ttl => ttl,
        };
        self.fill(exchange, item, ttl);
        match (stale.verify, refreshing) {
            (Verify::Wait(patience), Some(refreshing)) => Step::Pending(self.verify(exchange, refreshing, patience)),
            // Somebody waits already, or has in vain.
            _ => {
                self.counts.cells.mine().add(SERVED_STALE, 1);
                Step::Answered
            }
        }
    }

    /// Waits for a newer answer than the stale one that the reply holds.
    fn verify(&self, exchange: &mut Exchange<'_>, refreshing: Refreshing, patience: Option<Duration>) -> Wait {
        exchange.state.asked.add(flag::AD, true);
        let mut refresh = exchange.refresh(exchange.client.transport);
        let surroundings = exchange.surroundings().clone();
        let counts = self.counts.clone();
        let future = move |stale: State| -> BoxFuture<(State, Continue)> {
            Box::pin(async move {
                let refreshed = match patience {
                    None => Some(refresh.await),
                    Some(patience) => within(&mut refresh, surroundings.sleep(patience)).await.or_else(|| {
                        // It goes on, and the next client has the use of it.
                        surroundings.spawn(Box::pin(async move {
                            refresh.await;
                            drop(refreshing);
                        }));
                        None
                    }),
                };
                match refreshed {
                    Some(newer) if newer.origin == Origin::Kept => (newer, Continue::Answered),
                    _ => {
                        counts.cells.mine().add(SERVED_STALE, 1);
                        (stale, Continue::Answered)
                    }
                }
            })
        };
        // Where too much waits already the stale answer, which is there, is given.
        Wait::Work(Work { future: Box::new(future), overload: Rcode::SERVFAIL, plugin: "cache" })
    }

    /// Is shown what a refresh has brought: keeps it, and makes it [`Origin::Kept`] if it is good enough to be answered
    /// with in the place of what was there.
    pub(super) fn refreshed(&self, exchange: &mut Exchange<'_>) {
        let (asked, now) = (self.asked(exchange.query), exchange.now);
        let old = self.memory.find(asked, now).map(|(item, _)| item);
        let has_ended = old.as_ref().filter(|old| old.remaining(now) <= 0);
        let is_good = self.takes_over(exchange, asked, old.as_ref(), has_ended.is_some());
        if is_good {
            self.conclude(exchange);
            exchange.state.origin = Origin::Kept;
        } else if let (Some(old), Some(stale)) = (has_ended, &self.memory.config.stale) {
            old.refresh_failed(now, stale.recheck);
        }
    }

    /// Keeps what came, if that is better than `old`; says whether it is.
    fn takes_over(&self, exchange: &mut Exchange<'_>, asked: Asked<'_>, old: Option<&Arc<Item>>, stale: bool) -> bool {
        if exchange.state.bare {
            return false;
        }
        let prefers_positive = self.memory.config.stale.as_ref().is_some_and(|stale| stale.prefer_positive);
        let (sort, ttl) = self.judge(exchange);
        if exchange.state.origin == Origin::Live {
            // The name is the cluster's now.
            [Place::Success, Place::Denial].into_iter().for_each(|place| self.memory.store.remove(place, asked.key));
            return true;
        }
        let is_good = !stale || is_newer(exchange.reply(), asked, sort, prefers_positive);
        if is_good || prefers_positive && !exchange.reply().truncated {
            self.keep(exchange, asked, sort, ttl, old);
        }
        is_good
    }
}

/// Whether a reply refreshes data that have ended (RFC 8767 4: NoError or NXDOMAIN; CoreDNS
/// `verifyStaleResponseWriter`).
fn is_newer(reply: &Reply, asked: Asked<'_>, sort: Sort, prefers_positive: bool) -> bool {
    !reply.truncated
        && match sort {
            Sort::Answer => !prefers_positive || classify::answers(reply, asked.question),
            Sort::Delegation | Sort::NameError | Sort::NoData => !prefers_positive,
            Sort::Failure | Sort::Other => false,
        }
}

/// What a future gives before a time is over; it may be awaited further.
async fn within<T>(future: &mut BoxFuture<T>, mut timer: BoxFuture<()>) -> Option<T> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}
