//! The rest of a chain: the plugins after one of them, run for other names than the one of the query.
//!
//! ```text
//! query for a ─► … autopath ─ Rest::run(b) ─► acl, cache, kubernetes, forward … ─► a reply about b, for autopath
//!                           └ Rest::run(c) ─► acl, cache, kubernetes, forward … ─► a reply about c
//! ```
//!
//! Such a run is not a query of its own: it is not sent, logged or counted, and its limit is that of the query.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::chain::Outcome;
use super::pending::BoxFuture;
use super::{Client, Exchange, LookUp, Router, State};
use crate::wire::{Name, Query, QueryChange};

/// The plugins after the one that has created this, and the query that they are run for.
pub struct Rest {
    /// The query that the plugins would get.
    packet: SmallVec<[u8; 128]>,
    /// The query as received, unless it is the same.
    received: Option<SmallVec<[u8; 128]>>,
    change: QueryChange,
    client: Client,
    started: Instant,
    look_up: LookUp,
    /// The index of the first of the plugins.
    first: usize,
    router: Arc<Router>,
    block: usize,
}

/// The result of [`Rest::run`].
pub enum RestReply {
    /// The reply is in the state.
    Ready(Box<State>),
    /// A plugin waits. The future has to be awaited as a [`super::Work`]; it ends with `None` if there is no response.
    Pending(BoxFuture<Option<Box<State>>>),
    /// There is no response.
    Dropped,
}

impl Exchange<'_> {
    /// Returns the plugins after the current one, to run them for other names.
    pub fn rest(&self) -> Rest {
        let is_received = std::ptr::eq(self.query, self.received);
        Rest {
            packet: SmallVec::from_slice(self.query.packet()),
            received: (!is_received).then(|| SmallVec::from_slice(self.received.packet())),
            change: self.state.query_change(),
            client: self.client,
            started: self.started,
            // The plugins get no query of a client, as in a refresh.
            look_up: LookUp { depth: self.look_up.depth.max(1), ..self.look_up },
            first: self.at + 1,
            router: self.router.clone(),
            block: self.block,
        }
    }
}

impl Rest {
    /// Runs the plugins for another name. Type, class, flags and EDNS are those of the query.
    pub fn run(&self, name: Name<'_>, now: Instant) -> RestReply {
        let mut packet = Vec::new();
        // Both were parsed before.
        let Ok(asked) = Query::parse(&self.packet) else { return RestReply::Dropped };
        let Ok(received) = Query::parse(self.received.as_ref().unwrap_or(&self.packet)) else {
            return RestReply::Dropped;
        };
        asked.write_changed(name, asked.question.qtype, asked.question.qclass, asked.edns.as_ref(), &mut packet);
        let Ok(query) = Query::parse(&packet) else { return RestReply::Dropped };
        let mut state = Box::new(State::with_query_change(self.change));
        let chain = &self.router.chains[self.block];
        let mut inner = Exchange {
            query: &query,
            received: &received,
            client: self.client,
            now,
            started: self.started,
            state: &mut state,
            look_up: self.look_up,
            first: self.first,
            refresh: false,
            at: self.first,
            router: &self.router,
            chain,
            block: self.block,
        };
        match chain.rest(&mut inner) {
            Outcome::Answered => RestReply::Ready(state),
            Outcome::Drop => RestReply::Dropped,
            Outcome::Pending { at, wait } => {
                let pending = inner.pend(self.block, at, wait);
                RestReply::Pending(Box::pin(async move {
                    let query = pending.finish().await?;
                    Some(Box::new(query.state))
                }))
            }
        }
    }

    /// Returns the current time, for a run after others have waited.
    pub fn now(&self) -> Instant {
        self.router.surroundings().now()
    }
}
