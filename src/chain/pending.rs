//! Pending queries: those that wait for an upstream or for work of a plugin, and internal look-ups.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use smallvec::SmallVec;

use super::rewritten::RewrittenSlot;
use super::{Answer, Client, Exchange, Failure, LookUp, MAX_DEPTH, Notes, Origin, Router, State, Transport};
use crate::chain::chain::{Outcome, Resume};
use crate::chain::router::Response;
use crate::upstream::{self, Attempts};
use crate::wire::encode::encode_error;
use crate::wire::header::flag;
use crate::wire::{Name, Query, QueryChange, Rcode, Reply, Type};

pub use crate::upstream::BoxFuture;

/// How the chain continues after [`Work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    /// With the next plugin.
    Next,
    /// The reply is complete.
    Answered,
    /// There is no response.
    Drop,
}

/// What a query waits for.
pub enum Wait {
    /// A response of an upstream; [`super::Plugin::answered`] gets the result.
    Upstream(UpstreamQuery),
    /// Asynchronous work.
    Work(Work),
}

/// A query to upstreams, sent as received. Its state so far is discarded.
pub struct UpstreamQuery {
    /// The attempts at upstreams.
    pub attempts: Attempts,
    /// How the query is changed on its way out.
    pub change: QueryChange,
}

/// Asynchronous work of a plugin. It owns what it needs.
pub struct Work {
    /// Receives the state of the query, and returns it.
    pub future: Box<dyn FnOnce(State) -> BoxFuture<(State, Continue)> + Send>,
    /// The response code if too many queries are pending.
    pub overload: Rcode,
    /// The plugin that waits.
    pub plugin: &'static str,
}

/// An owned query: everything that is needed to resume it.
pub struct OwnedQuery {
    /// Most queries are short enough to need no allocation.
    packet: SmallVec<[u8; 128]>,
    client: Client,
    /// When it was received.
    started: Instant,
    look_up: LookUp,
    /// The index of the first plugin that gets the reply.
    first: usize,
    /// This is a refresh that the plugin `first` requested.
    refresh: bool,
    router: Arc<Router>,
    /// The index of its server block.
    block: usize,
    /// What the state is made from when an upstream has answered. Tens of thousands of queries may wait, each of which
    /// needs little of its state. Empty once there is a state.
    retained: Retained,
    /// The state, unless the query waits for an upstream and has waited for nothing else.
    state: Option<Box<State>>,
}

/// What a query that waits for an upstream retains of its state.
#[derive(Default)]
struct Retained {
    change: QueryChange,
    /// What a plugin has made of the query, if one has changed it.
    rewritten: RewrittenSlot,
    notes: Notes,
}

impl Retained {
    /// Moves this into a state that has nothing but a reply.
    fn restore(&mut self, state: &mut State) {
        let Retained { change, rewritten, notes } = std::mem::take(self);
        (state.flag_changes, state.max_udp) = (change.flags, change.max_udp);
        state.take_rewritten(rewritten);
        state.notes = notes;
    }
}

/// A pending query.
pub struct Pending {
    /// The query.
    pub query: OwnedQuery,
    /// Where its chain resumes.
    pub at: Resume,
    /// What it waits for.
    pub wait: Wait,
}

impl Exchange<'_> {
    /// Calls `done` with the reply of an internal look-up of the plugin, at once or when it comes. Without a reply, the
    /// query fails.
    pub fn when_done(
        &mut self, look_up: Inner, plugin: &'static str, done: impl FnOnce(&mut State, Reply) + Send + 'static,
    ) -> Option<Wait> {
        match look_up {
            Inner::Done(inner) => {
                done(self.state, *inner);
                None
            }
            Inner::None => {
                self.fail(Rcode::SERVFAIL, Failure::TooDeep(plugin));
                None
            }
            Inner::Pending(inner) => {
                let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                    Box::pin(async move {
                        done(&mut state, *inner.await);
                        (state, Continue::Answered)
                    })
                };
                Some(Wait::Work(Work { future: Box::new(future), overload: Rcode::SERVFAIL, plugin }))
            }
        }
    }

    /// Makes the query pending. With an [`UpstreamQuery`] the state stays with the worker, except for what
    /// [`Retained`] has.
    pub(super) fn pend(&mut self, block: usize, at: Resume, wait: Wait) -> Pending {
        let (retained, state) = match &wait {
            Wait::Upstream(query) => {
                let (rewritten, notes) = (self.state.give_rewritten(), std::mem::take(&mut self.state.notes));
                (Retained { change: query.change, rewritten, notes }, None)
            }
            Wait::Work(_) => (Retained::default(), Some(Box::new(std::mem::take(self.state)))),
        };
        let query = OwnedQuery {
            packet: SmallVec::from_slice(self.query.packet()),
            client: self.client,
            started: self.started,
            look_up: self.look_up,
            first: self.first,
            refresh: self.refresh,
            router: self.router.clone(),
            block,
            retained,
            state,
        };
        Pending { query, at, wait }
    }
}

impl Pending {
    /// Waits, resumes the chain, and repeats this while plugins wait. Returns the query with its reply, or `None` if
    /// there is no response.
    pub async fn finish(self) -> Option<OwnedQuery> {
        self.finish_unless(std::future::pending()).await
    }

    /// Like [`Pending::finish`], but when `revoked` ends first, the query ends as with [`Pending::overload`].
    pub async fn finish_unless(self, revoked: impl Future<Output = ()>) -> Option<OwnedQuery> {
        let mut revoked = std::pin::pin!(revoked);
        let Pending { mut query, mut at, mut wait } = self;
        loop {
            let next = match wait {
                Wait::Work(Work { future, overload, plugin }) => {
                    // The work owns the state, which is lost if the work is dropped.
                    let state = query.state();
                    let cached = if at.is_query() { state.cached() } else { None };
                    let notes = state.notes.clone();
                    let work = future(std::mem::take(state));
                    let Some((state, outcome)) = unless(work, revoked.as_mut()).await else {
                        match cached {
                            Some(state) => query.answer_stale(state, at),
                            None => query.fail(overload, Failure::Overload(plugin)),
                        }
                        query.state().notes = notes;
                        return Some(query);
                    };
                    *query.state() = State { notes, ..state };
                    query.with_exchange(|exchange| exchange.chain.resume(at, outcome, exchange))
                }
                Wait::Upstream(upstream_query) => {
                    let dispatcher = upstream_query.attempts.group().dispatcher.clone();
                    let client = query.client.remote.ip();
                    let dispatched = dispatcher.dispatch(
                        query.upstream_packet().into(),
                        upstream_query.change,
                        client,
                        upstream_query.attempts,
                    );
                    let Some(answer) = unless(dispatched, revoked.as_mut()).await else {
                        query.fail(Rcode::SERVFAIL, Failure::Upstream(upstream::Error::Full));
                        return Some(query);
                    };
                    let outcome = answer.map(|reply| query.state().reply = *reply);
                    query.with_exchange(|exchange| exchange.chain.answered(at, outcome, exchange))
                }
            };
            match next? {
                Outcome::Answered => return Some(query),
                Outcome::Drop => return None,
                Outcome::Pending { at: next_at, wait: next_wait } => (at, wait) = (next_at, next_wait),
            }
        }
    }

    /// Ends the query at once because too many are pending: with the code of its plugin, or with a stale reply of the
    /// cache.
    pub fn overload(self) -> OwnedQuery {
        let Pending { mut query, at, wait } = self;
        let (rcode, failure) = match wait {
            // The cache waits for a newer reply than the one that it has.
            Wait::Work(_) if at.is_query() && query.state().origin == Origin::Cached => {
                let state = std::mem::take(query.state());
                query.answer_stale(state, at);
                return query;
            }
            Wait::Work(work) => (work.overload, Failure::Overload(work.plugin)),
            Wait::Upstream(_) => (Rcode::SERVFAIL, Failure::Upstream(upstream::Error::Full)),
        };
        query.fail(rcode, failure);
        query
    }
}

/// Waits for a future; returns `None` if `revoked` ends first.
async fn unless<T>(future: impl Future<Output = T>, mut revoked: Pin<&mut impl Future<Output = ()>>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => revoked.as_mut().poll(cx).map(|()| None),
    })
    .await
}

impl State {
    /// Returns a copy of a reply of the cache, while a newer one is requested.
    fn cached(&self) -> Option<State> {
        if self.origin != Origin::Cached {
            return None;
        }
        let notes = self.notes.clone();
        let mut state = State { reply: self.reply.clone(), origin: Origin::Cached, notes, ..State::default() };
        if let Some(rewritten) = self.rewritten() {
            *state.rewrite() = rewritten.clone();
        }
        Some(state)
    }
}

impl OwnedQuery {
    /// Answers with a reply of the cache that was to be replaced. A reply to a changed query is changed back.
    fn answer_stale(&mut self, state: State, at: Resume) {
        let is_rewritten = state.rewritten().is_some();
        *self.state() = state;
        if !is_rewritten {
            return;
        }
        let outcome = self.with_exchange(|exchange| exchange.chain.resume(at, Continue::Answered, exchange));
        if !matches!(outcome, Some(Outcome::Answered)) {
            self.fail(Rcode::SERVFAIL, Failure::Overload("rewrite"));
        }
    }

    /// Replaces the reply by a bare code, and records the reason.
    fn fail(&mut self, rcode: Rcode, failure: super::Failure) {
        let state = self.state();
        state.reply.clear();
        state.reply.rcode = rcode;
        state.bare = true;
        failure.describe(&mut state.reply);
        state.failure = Some(failure);
    }

    /// Returns the state.
    fn state(&mut self) -> &mut State {
        let retained = &mut self.retained;
        self.state.get_or_insert_with(|| {
            let mut state = Box::default();
            retained.restore(&mut state);
            state
        })
    }

    /// Returns the state, which has the reply once the query has been answered.
    pub fn into_state(mut self) -> State {
        std::mem::take(self.state())
    }

    /// Returns the packet of the query as received.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Returns the packet for upstreams: of the changed query, if a plugin has changed it.
    pub fn upstream_packet(&self) -> &[u8] {
        let rewritten = match &self.state {
            None => self.retained.rewritten.get(),
            Some(state) => state.rewritten(),
        };
        rewritten.map(|rewritten| &*rewritten.packet).filter(|packet| !packet.is_empty()).unwrap_or(&self.packet)
    }

    /// Moves what the chain needs to resume into the state of a worker, before [`OwnedQuery::answered`].
    pub fn restore(&mut self, state: &mut State) {
        self.retained.restore(state);
    }

    /// Returns the client.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Parses the query. This cannot fail, since an [`OwnedQuery`] is created from a parsed query.
    pub fn query(&self) -> Option<Query<'_>> {
        Query::parse(&self.packet).ok()
    }

    /// Resumes the chain of a query of a client after its upstream query. If `outcome` is `Ok`, the reply is in
    /// `state`, to which [`OwnedQuery::restore`] was applied.
    pub fn answered(
        &self, query: &Query<'_>, at: Resume, outcome: Result<(), upstream::Error>, now: Instant, state: &mut State,
        out: &mut [u8],
    ) -> Answer {
        let mut exchange = self.exchange(query, now, state);
        match exchange.chain.answered(at, outcome, &mut exchange) {
            Outcome::Answered => Answer::Send(exchange.encode(out)),
            Outcome::Drop => Answer::Drop,
            Outcome::Pending { at, wait } => Answer::Pending(exchange.pend(self.block, at, wait)),
        }
    }

    /// Encodes the response into `out`, notifies the plugins, and returns its length.
    pub fn encode(mut self, out: &mut [u8]) -> usize {
        let len = self.with_exchange(|exchange| exchange.encode(out));
        len.unwrap_or_else(|| encode_error(&self.packet, Rcode::SERVFAIL, out))
    }

    /// Calls a function with the exchange of the query. `None` if the packet is not a query, which cannot happen.
    fn with_exchange<T>(&mut self, run: impl FnOnce(&mut Exchange<'_>) -> T) -> Option<T> {
        let mut state = std::mem::take(self.state());
        let now = self.router.surroundings().now();
        let done = self.query().map(|query| run(&mut self.exchange(&query, now, &mut state)));
        *self.state() = state;
        done
    }

    fn exchange<'a>(&'a self, query: &'a Query<'a>, now: Instant, state: &'a mut State) -> Exchange<'a> {
        Exchange {
            query,
            received: query,
            client: self.client,
            now,
            started: self.started,
            state,
            look_up: self.look_up,
            first: self.first,
            refresh: self.refresh,
            at: self.first,
            router: &self.router,
            chain: &self.router.chains[self.block],
            block: self.block,
        }
    }
}

/// The result of an internal look-up.
pub enum Inner {
    /// The reply is complete.
    Done(Box<Reply>),
    /// The reply is pending.
    Pending(BoxFuture<Box<Reply>>),
    /// There is no reply: look-ups are nested too deeply, or a plugin dropped the query.
    None,
}

/// Internal look-ups for a pending query, by a plugin that works for it.
pub struct Resolver {
    /// The packet of the query.
    packet: Box<[u8]>,
    client: Client,
    look_up: LookUp,
    router: Arc<Router>,
}

impl Resolver {
    /// Creates the look-ups of a query.
    pub(super) fn new(exchange: &Exchange<'_>) -> Resolver {
        Resolver {
            packet: exchange.query.packet().into(),
            client: exchange.client,
            look_up: inner_look_up(exchange, exchange.look_up.is_translated),
            router: Arc::clone(exchange.router),
        }
    }

    /// Looks a name up as [`Exchange::resolve`] does. Returns `None` if look-ups are nested too deeply, or if a plugin
    /// dropped the query.
    pub fn resolve(&self, name: Name<'_>, qtype: Type) -> BoxFuture<Option<Box<Reply>>> {
        let now = self.router.surroundings().now();
        let inner = match Query::parse(&self.packet) {
            Ok(query) => look_up(&self.router, &query, self.client, now, self.look_up, name, qtype),
            Err(_) => Inner::None,
        };
        match inner {
            Inner::Done(reply) => Box::pin(std::future::ready(Some(reply))),
            Inner::Pending(reply) => Box::pin(async { Some(reply.await) }),
            Inner::None => Box::pin(std::future::ready(None)),
        }
    }
}

/// Implements [`Exchange::resolve`] and [`Exchange::resolve_to_translate`].
pub(super) fn resolve(exchange: &Exchange<'_>, name: Name<'_>, qtype: Type, is_translated: bool) -> Inner {
    // A dry run sends no query.
    if exchange.state.is_dry_run() {
        return Inner::None;
    }
    let Exchange { query, client, now, router, .. } = exchange;
    look_up(router, query, *client, *now, inner_look_up(exchange, is_translated), name, qtype)
}

/// Returns the nesting of an internal look-up of the current plugin.
pub(super) fn inner_look_up(exchange: &Exchange<'_>, is_translated: bool) -> LookUp {
    let mut before = exchange.chain.plugins()[..exchange.at].iter();
    LookUp {
        started: Some(exchange.started),
        depth: exchange.look_up.depth + 1,
        is_shared: exchange.look_up.is_shared || before.any(|plugin| plugin.stores_replies()),
        is_translated,
    }
}

/// Looks up a name for a query.
fn look_up(
    router: &Arc<Router>, query: &Query<'_>, client: Client, now: Instant, nesting: LookUp, name: Name<'_>, qtype: Type,
) -> Inner {
    if nesting.depth > MAX_DEPTH {
        return Inner::None;
    }
    let packet = inner_packet(query, name, qtype);
    let Ok(query) = Query::parse(&packet) else { return Inner::None };
    let mut state = State::default();
    match router.respond(&query, client, now, nesting, &mut state) {
        Response::Ready => Inner::Done(Box::new(state.reply)),
        Response::Drop => Inner::None,
        Response::Pending(pending) => Inner::Pending(Box::pin(async move {
            match pending.finish().await {
                Some(query) => Box::new(query.into_state().reply),
                None => servfail(),
            }
        })),
    }
}

/// Implements [`Exchange::refresh`].
pub(super) fn refresh(exchange: &Exchange<'_>, transport: Transport) -> BoxFuture<State> {
    let mut state = State::with_query_change(exchange.state.query_change());
    let client = Client { transport, ..exchange.client };
    let mut inner = Exchange {
        query: exchange.query,
        received: exchange.received,
        client,
        now: exchange.now,
        started: exchange.now,
        state: &mut state,
        look_up: LookUp { depth: exchange.look_up.depth.max(1), ..exchange.look_up },
        first: exchange.at,
        refresh: true,
        at: exchange.at,
        router: exchange.router,
        chain: exchange.chain,
        block: exchange.block,
    };
    match exchange.chain.refresh(&mut inner) {
        Outcome::Answered => Box::pin(std::future::ready(state)),
        Outcome::Drop => Box::pin(std::future::ready(no_reply())),
        Outcome::Pending { at, wait } => {
            let pending = inner.pend(exchange.block, at, wait);
            Box::pin(async move { pending.finish().await.map_or_else(no_reply, OwnedQuery::into_state) })
        }
    }
}

/// Returns the state of a refresh without a reply.
fn no_reply() -> State {
    State { reply: *servfail(), ..State::default() }
}

fn servfail() -> Box<Reply> {
    let mut reply = Reply::new();
    reply.rcode = Rcode::SERVFAIL;
    Box::new(reply)
}

/// Builds the query of an internal look-up, with ID, RD, CD and OPT of the outer query, as CoreDNS's
/// `request.NewWithQuestion` does.
pub(super) fn inner_packet(outer: &Query<'_>, name: Name<'_>, qtype: Type) -> Vec<u8> {
    let mut packet = Vec::with_capacity(12 + name.as_wire().len() + 4 + 11);
    packet.extend(outer.id().to_be_bytes());
    packet.extend((outer.flags() & (flag::RD | flag::CD)).to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 0, 0, u8::from(outer.edns.is_some())]);
    packet.extend(name.as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend([0, 1]);
    if let Some(edns) = &outer.edns {
        edns.write(&mut packet);
    }
    packet
}
