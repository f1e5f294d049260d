//! What must wait: a query that goes to other servers, a future that a plugin hands over, and the look-ups that this
//! server makes of itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::{Answer, Client, Exchange, MAX_DEPTH, Origin, Router, State, Transport};
use crate::chain::chain::{Outcome, Resume};
use crate::upstream::{self, Attempts};
use crate::wire::encode::encode_error;
use crate::wire::header::{Change, flag};
use crate::wire::{Name, Query, Rcode, Reply, Type};

/// What a finished [`Work`] says to the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    /// UpstreamQuery the next plugin.
    Next,
    /// The reply is made.
    Answered,
    /// Say nothing.
    Drop,
}

/// What a query waits for.
pub enum Wait {
    /// An answer of another server; the plugin is told by [`super::Plugin::answered`].
    Upstream(UpstreamQuery),
    /// Work that ends wait.
    Work(Work),
}

/// A query that goes to other servers as it came. What it has collected until then is forgotten.
pub struct UpstreamQuery {
    /// Where it goes.
    pub attempts: Attempts,
    /// How its flags are changed.
    pub flags: Change,
}

/// Work that ends wait. It owns what it needs.
pub struct Work {
    /// Gets what the query has collected so far, and gives it back.
    pub future: Box<dyn FnOnce(State) -> BoxFuture<(State, Continue)> + Send>,
    /// The answer if there is too much of such work already.
    pub overload: Rcode,
    /// The plugin that waits.
    pub plugin: &'static str,
}

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A query, owned: all that is needed to go on with it once it has waited.
pub struct OwnedQuery {
    /// Queries are short, and few of those that wait need an allocation.
    packet: SmallVec<[u8; 128]>,
    client: Client,
    /// When it was read.
    started: Instant,
    depth: u8,
    /// The plugin that refreshes, if one does.
    refresher: Option<usize>,
    router: Arc<Router>,
    /// The block that answers it.
    block: usize,
    /// What it has collected.
    pub state: State,
}

/// A query whose chain waits.
pub struct Pending {
    /// The query.
    pub asked: OwnedQuery,
    /// Where its chain is taken up again.
    pub at: Resume,
    /// What it waits for.
    pub wait: Wait,
}

impl Exchange<'_> {
    /// All that a waiting query needs. An [`UpstreamQuery`] leaves the worker its state.
    pub(super) fn pend(&mut self, block: usize, at: Resume, wait: Wait) -> Pending {
        let state = match &wait {
            Wait::Upstream(_) => State::default(),
            Wait::Work(_) => std::mem::take(self.state),
        };
        let asked = OwnedQuery {
            packet: SmallVec::from_slice(self.query.packet()),
            client: self.client,
            started: self.started,
            depth: self.depth,
            refresher: self.refresher,
            router: self.router.clone(),
            block,
            state,
        };
        Pending { asked, at, wait }
    }
}

impl Pending {
    /// Waits, takes the chain up again, and waits again where another plugin needs it. Gives the query with its reply, or
    /// nothing where nothing is to be said.
    pub async fn finish(self) -> Option<OwnedQuery> {
        let Pending { mut asked, mut at, mut wait } = self;
        loop {
            let next = match wait {
                Wait::Work(work) => {
                    let (state, outcome) = (work.future)(asked.state).await;
                    asked.state = state;
                    asked.with_exchange(|exchange| exchange.chain.resume(at, outcome, exchange))
                }
                Wait::Upstream(ask) => {
                    let carriers = ask.attempts.group().carriers.clone();
                    let answer = carriers.carry(asked.packet().into(), ask.flags, ask.attempts).await;
                    let outcome = answer.map(|reply| asked.state.reply = *reply);
                    asked.with_exchange(|exchange| exchange.chain.answered(at, outcome, exchange))
                }
            };
            match next? {
                Outcome::Answered => return Some(asked),
                Outcome::Drop => return None,
                Outcome::Pending { at: next_at, wait: next_later } => (at, wait) = (next_at, next_later),
            }
        }
    }

    /// Ends it at once because too much waits already: the answer that its directive has for that, or a kept one.
    pub fn overload(self) -> OwnedQuery {
        let Pending { mut asked, wait, .. } = self;
        let (rcode, failure) = match wait {
            // A cache waits for something newer than what it has.
            Wait::Work(_) if asked.state.origin == Origin::Kept => return asked,
            Wait::Work(work) => (work.overload, super::Failure::Overload(work.plugin)),
            Wait::Upstream(_) => (Rcode::SERVFAIL, super::Failure::Upstream(upstream::Error::Full)),
        };
        asked.state.reply.clear();
        asked.state.reply.rcode = rcode;
        asked.state.bare = true;
        asked.state.failure = Some(failure);
        asked
    }
}

impl OwnedQuery {
    /// The query as it came: a whole packet.
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// The query. An [`OwnedQuery`] is made of one that was read, so that reading it again does not fail.
    pub fn query(&self) -> Option<Query<'_>> {
        Query::parse(&self.packet).ok()
    }

    /// Goes on with the chain of a query from outside that asked another server; `state` holds the answer where there is
    /// one.
    pub fn answered(
        &self, query: &Query<'_>, at: Resume, outcome: Result<(), upstream::Error>, now: Instant, state: &mut State,
        out: &mut [u8],
    ) -> Answer {
        let mut exchange = self.exchange(query, now, state);
        match exchange.chain.answered(at, outcome, &mut exchange) {
            Outcome::Answered => Answer::Send(exchange.encode(out)),
            Outcome::Drop => Answer::Silent,
            Outcome::Pending { at, wait } => Answer::Pending(exchange.pend(self.block, at, wait)),
        }
    }

    /// Writes the answer into `out` and tells the plugins; gives its length.
    pub fn encode(mut self, out: &mut [u8]) -> usize {
        let len = self.with_exchange(|exchange| exchange.encode(out));
        len.unwrap_or_else(|| encode_error(&self.packet, Rcode::SERVFAIL, out))
    }

    /// Goes on with it as the exchange that it was. `None` where the packet is no query, which it was before it waited.
    fn with_exchange<T>(&mut self, go_on: impl FnOnce(&mut Exchange<'_>) -> T) -> Option<T> {
        let mut state = std::mem::take(&mut self.state);
        let now = self.router.surroundings().now();
        let done = self.query().map(|query| go_on(&mut self.exchange(&query, now, &mut state)));
        self.state = state;
        done
    }

    fn exchange<'a>(&'a self, query: &'a Query<'a>, now: Instant, state: &'a mut State) -> Exchange<'a> {
        let OwnedQuery { client, started, depth, refresher, router, block, .. } = self;
        let (client, started, depth, refresher, block) = (*client, *started, *depth, *refresher, *block);
        let (at, chain) = (refresher.unwrap_or(0), &router.chains[block]);
        Exchange { query, client, now, started, state, depth, refresher, at, router, chain, block }
    }
}

/// The outcome of an inner look-up.
pub enum Inner {
    /// The answer is there.
    Done(Box<Reply>),
    /// It comes wait.
    Pending(BoxFuture<Box<Reply>>),
    /// There is none: inner look-ups are nested too deeply, or a plugin drops the query.
    None,
}

/// Asks this server itself. See [`Exchange::resolve`].
pub(super) fn resolve(exchange: &Exchange<'_>, name: Name<'_>, qtype: Type) -> Inner {
    let depth = exchange.depth + 1;
    if depth > MAX_DEPTH {
        return Inner::None;
    }
    let packet = inner_packet(exchange.query, name, qtype);
    let Ok(query) = Query::parse(&packet) else { return Inner::None };
    let mut state = State::default();
    match exchange.router.respond(&query, exchange.client, exchange.now, depth, &mut state) {
        super::router::Response::Ready => Inner::Done(Box::new(state.reply)),
        super::router::Response::Silent => Inner::None,
        super::router::Response::Pending(pending) => Inner::Pending(Box::pin(async move {
            match pending.finish().await {
                Some(asked) => Box::new(asked.state.reply),
                None => servfail(),
            }
        })),
    }
}

/// Asks the plugins behind the one at work again. See [`Exchange::refresh`].
pub(super) fn refresh(exchange: &Exchange<'_>, transport: Transport) -> BoxFuture<State> {
    let mut state = State { asked: exchange.state.asked, ..State::default() };
    let (refresher, client) = (Some(exchange.at), Client { transport, ..exchange.client });
    let Exchange { query, now, at, router, chain, block, .. } = *exchange;
    let depth = exchange.depth.max(1);
    let mut inner =
        Exchange { query, client, now, started: now, state: &mut state, depth, refresher, at, router, chain, block };
    match chain.behind(&mut inner) {
        Outcome::Answered => Box::pin(std::future::ready(state)),
        Outcome::Drop => Box::pin(std::future::ready(failed())),
        Outcome::Pending { at, wait } => {
            let pending = inner.pend(exchange.block, at, wait);
            Box::pin(async move { pending.finish().await.map_or_else(failed, |asked| asked.state) })
        }
    }
}

/// What there is when nothing is said.
fn failed() -> State {
    State { reply: *servfail(), ..State::default() }
}

fn servfail() -> Box<Reply> {
    let mut reply = Reply::new();
    reply.rcode = Rcode::SERVFAIL;
    Box::new(reply)
}

/// A query packet for an inner look-up, with the outer one's ID, RD, CD and OPT.
fn inner_packet(outer: &Query<'_>, name: Name<'_>, qtype: Type) -> Vec<u8> {
    let mut packet = Vec::with_capacity(12 + name.as_wire().len() + 4 + 11);
    packet.extend(outer.id().to_be_bytes());
    packet.extend((outer.flags() & (flag::RD | flag::CD)).to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 0, 0, u8::from(outer.edns.is_some())]);
    packet.extend(name.as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend([0, 1]);
    if let Some(edns) = &outer.edns {
        packet.extend([0, 0, 41]);
        packet.extend(edns.size.to_be_bytes());
        packet.extend([0, 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
    }
    packet
}
