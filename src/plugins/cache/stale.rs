//! Expired entries that are still used (*serve_stale*, RFC 8767), and the results of refreshes.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::config::Verify;
use super::entry::{CacheEntry, RefreshGuard};
use super::metrics::SERVED_STALE;
use super::store::Partition;
use super::{Cache, CacheKey};
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, Origin, State, Step, Wait, Work};
use crate::plugins::cache::classify::{self, ResponseClass};
use crate::wire::header::flag;
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{Rcode, Reply};

/// The extended errors of expired answers, with their reasons (RFC 8914 4.4, 4.20).
const STALE_ANSWER: (u16, &str) = (3, "stale");
const STALE_NAME_ERROR: (u16, &str) = (19, "stale-nxdomain");

impl Cache {
    /// Answers from an expired entry, or with a newer answer if the client is to wait for it.
    #[cold]
    pub(super) fn serve_stale(&self, exchange: &mut Exchange<'_>, entry: &Arc<CacheEntry>) -> Step {
        let config = &self.cache.config;
        // Expired entries are found only if they are to be used.
        let Some(stale) = &config.stale else { return Step::Next };
        let guard = match stale.verify {
            Verify::Immediate => {
                self.refresh_in_background(exchange, entry);
                None
            }
            Verify::Wait(_) => entry.begin_refresh(exchange.now),
        };
        let ttl = match stale.ttl {
            0 if config.keep_ttl => entry.ttl,
            ttl => ttl,
        };
        self.fill(exchange, entry, ttl);
        let (code, reason) = if entry.rcode() == Rcode::NXDOMAIN { STALE_NAME_ERROR } else { STALE_ANSWER };
        let text = ErrorText::Fixed("");
        exchange.reply().extended_error = Some(ExtendedError { code, reason, text });
        match (stale.verify, guard) {
            (Verify::Wait(timeout), Some(guard)) => Step::Pending(self.verify(exchange, guard, timeout)),
            // Another client waits for a refresh, or one has failed recently.
            _ => {
                self.counters.cells.mine().add(SERVED_STALE, 1);
                Step::Answered
            }
        }
    }

    /// Waits for a newer answer than the expired one in the reply.
    fn verify(&self, exchange: &mut Exchange<'_>, guard: RefreshGuard, timeout: Option<Duration>) -> Wait {
        exchange.state.flag_changes.add(flag::AD, true);
        let mut refresh = exchange.refresh(exchange.client.transport);
        let surroundings = exchange.surroundings().clone();
        let counters = self.counters.clone();
        let future = move |mut stale: State| -> BoxFuture<(State, Continue)> {
            Box::pin(async move {
                let refreshed = match timeout {
                    None => Some(refresh.await),
                    Some(timeout) => with_timeout(&mut refresh, surroundings.sleep(timeout)).await.or_else(|| {
                        // The refresh continues, and the next client gets its result.
                        surroundings.spawn(Box::pin(async move {
                            refresh.await;
                            drop(guard);
                        }));
                        None
                    }),
                };
                match refreshed {
                    Some(newer) if newer.origin == Origin::Cached => stale.take_reply(newer),
                    _ => counters.cells.mine().add(SERVED_STALE, 1),
                }
                (stale, Continue::Answered)
            })
        };
        // Over the limit of pending queries, the expired answer is sent.
        Wait::Work(Work { future: Box::new(future), overload: Rcode::SERVFAIL, plugin: "cache" })
    }

    /// Handles the reply of a refresh: stores it, and marks it [`Origin::Cached`] if it is good enough to be sent
    /// instead of the expired one.
    pub(super) fn handle_refresh(&self, exchange: &mut Exchange<'_>) {
        let (key, now) = (self.key(exchange.query), exchange.now);
        let old = self.cache.find(key, now).map(|hit| hit.entry);
        let expired = old.as_ref().filter(|old| old.remaining(now) <= 0);
        let is_good = self.store_refreshed(exchange, key, old.as_ref(), expired.is_some());
        if is_good {
            self.set_authentic_data(exchange);
            exchange.state.origin = Origin::Cached;
        } else if let (Some(old), Some(stale)) = (expired, &self.cache.config.stale) {
            old.record_failed_refresh(now, stale.recheck);
        }
    }

    /// Stores the reply if it is better than `old`, and returns whether it is.
    fn store_refreshed(
        &self, exchange: &mut Exchange<'_>, key: CacheKey<'_>, old: Option<&Arc<CacheEntry>>, is_stale: bool,
    ) -> bool {
        if exchange.state.bare {
            return false;
        }
        let prefers_positive = self.cache.config.stale.as_ref().is_some_and(|stale| stale.prefer_positive);
        let (class, ttl) = self.classify(exchange);
        if exchange.state.origin == Origin::Live {
            // The name is in the cluster now.
            [Partition::Success, Partition::Denial]
                .into_iter()
                .for_each(|partition| self.cache.store.remove(partition, key.hash));
            return true;
        }
        let is_good = !is_stale || is_newer(exchange.reply(), key, class, prefers_positive);
        if is_good || prefers_positive && !exchange.reply().truncated {
            self.store_reply(exchange, key, class, ttl, old);
        }
        is_good
    }
}

/// Returns whether a reply replaces an expired entry (RFC 8767 4: NoError or NXDOMAIN; CoreDNS
/// `verifyStaleResponseWriter`).
fn is_newer(reply: &Reply, key: CacheKey<'_>, class: ResponseClass, prefers_positive: bool) -> bool {
    !reply.truncated
        && match class {
            ResponseClass::Answer => !prefers_positive || classify::has_answer_record(reply, key.question),
            ResponseClass::Delegation | ResponseClass::NameError | ResponseClass::NoData => !prefers_positive,
            ResponseClass::Failure | ResponseClass::Other => false,
        }
}

/// Returns the result of a future, or `None` once `timer` ends; the future may be polled further.
async fn with_timeout<T>(future: &mut BoxFuture<T>, mut timer: BoxFuture<()>) -> Option<T> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.as_mut().poll(cx).map(|()| None),
    })
    .await
}
