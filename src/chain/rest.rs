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
use super::explain::DryRun;
use super::pending::{BoxFuture, Pending};
use super::{Client, Exchange, LookUp, Router, State, Trace};
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

/// The result of [`Rest::explain`].
pub struct ExplainedRest {
    /// What the plugins do.
    pub trace: Trace,
    /// The state with the reply; `None` if there is no response, or if a dry run does not know it.
    pub state: Option<Box<State>>,
}

/// How a run of plugins ends.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each name that is forwarded")]
enum RestEnd {
    Ready,
    Pending(Pending),
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
        let mut state = Box::new(State::with_query_change(self.change));
        let end = self.with_exchange(name, now, &mut state, |inner| match inner.chain.rest(inner) {
            Outcome::Answered => RestEnd::Ready,
            Outcome::Drop => RestEnd::Dropped,
            Outcome::Pending { at, wait } => RestEnd::Pending(inner.pend(self.block, at, wait)),
        });
        match end {
            Some(RestEnd::Ready) => RestReply::Ready(state),
            Some(RestEnd::Pending(pending)) => RestReply::Pending(Box::pin(async move {
                let query = pending.finish().await?;
                Some(Box::new(query.into_state()))
            })),
            Some(RestEnd::Dropped) | None => RestReply::Dropped,
        }
    }

    /// Runs the plugins for another name without any effect, for a dry run.
    pub fn explain(&self, name: Name<'_>, now: Instant) -> ExplainedRest {
        let mut state = Box::new(State { is_dry_run: true, ..State::with_query_change(self.change) });
        let mut run = DryRun::default();
        self.with_exchange(name, now, &mut state, |inner| inner.chain.explain(self.first, inner, &mut run));
        let is_known = run.reply.is_some();
        ExplainedRest { trace: run.trace, state: is_known.then_some(state) }
    }

    /// Calls `run` with the plugins and the query for another name; `None` if that is no query.
    fn with_exchange<T>(
        &self, name: Name<'_>, now: Instant, state: &mut State, run: impl FnOnce(&mut Exchange<'_>) -> T,
    ) -> Option<T> {
        let mut packet = Vec::new();
        // Both were parsed before.
        let asked = Query::parse(&self.packet).ok()?;
        let received = Query::parse(self.received.as_ref().unwrap_or(&self.packet)).ok()?;
        asked.write_changed(name, asked.question.qtype, asked.question.qclass, asked.edns.as_ref(), &mut packet);
        let query = Query::parse(&packet).ok()?;
        let mut inner = Exchange {
            query: &query,
            received: &received,
            client: self.client,
            now,
            started: self.started,
            state,
            look_up: self.look_up,
            first: self.first,
            refresh: false,
            at: self.first,
            router: &self.router,
            chain: &self.router.chains[self.block],
            block: self.block,
        };
        Some(run(&mut inner))
    }

    /// Returns the current time, for a run after others have waited.
    pub fn now(&self) -> Instant {
        self.router.surroundings().now()
    }
}
