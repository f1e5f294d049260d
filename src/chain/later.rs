//! What must wait: a future that a plugin hands over, and the look-ups that this server makes of itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::plan::Resume;
use super::{Chains, Client, Exchange, MAX_DEPTH, State};
use crate::wire::header::flag;
use crate::wire::{Name, Query, Rcode, Reply, Type};

/// What a finished [`Later`] says to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continue {
    /// Ask the next plugin.
    Next,
    /// The reply is made.
    Answered,
    /// Say nothing.
    Drop,
}

/// Work that ends later. It owns what it needs.
pub struct Later {
    /// Gets what the query has collected so far, and gives it back.
    pub future: Box<dyn FnOnce(State) -> BoxFuture<(State, Continue)> + Send>,
    /// The answer if there is too much of such work already.
    pub overload: Rcode,
    /// The plugin that waits.
    pub plugin: &'static str,
}

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A query whose plan waits, with all that is needed to take it up again.
pub struct Pending {
    pub(super) packet: Box<[u8]>,
    pub(super) client: Client,
    pub(super) started: Instant,
    pub(super) depth: u8,
    pub(super) chains: Arc<Chains>,
    pub(super) block: usize,
    pub(super) at: Resume,
    pub(super) later: Later,
    pub(super) state: State,
}

impl Pending {
    /// Waits, takes the plan up again, and waits again where another plugin needs it. Gives the state with the reply
    /// and the query's packet, or nothing where nothing is to be said.
    pub async fn finish(self) -> Option<Finished> {
        let Pending { packet, client, started, depth, chains, block, mut at, mut later, mut state } = self;
        loop {
            let (back, outcome) = (later.future)(state).await;
            state = back;
            let next = chains.resume(block, at, outcome, &packet, client, started, depth, &mut state);
            match next {
                super::plan::Outcome::Answered => break,
                super::plan::Outcome::Drop => return None,
                super::plan::Outcome::Later { at: next_at, later: next_later } => {
                    (at, later) = (next_at, next_later);
                }
            }
        }
        Some(Finished { packet, client, started, depth, chains, block, state })
    }

    /// Ends it at once because too much waits already: the answer that its directive has for that.
    pub fn overload(self) -> Finished {
        let Pending { packet, client, started, depth, chains, block, later, mut state, .. } = self;
        state.reply.clear();
        state.reply.rcode = later.overload;
        state.failure = Some(super::Failure::Overload(later.plugin));
        Finished { packet, client, started, depth, chains, block, state }
    }
}

/// A query that waited and now has its reply.
pub struct Finished {
    packet: Box<[u8]>,
    client: Client,
    started: Instant,
    depth: u8,
    chains: Arc<Chains>,
    block: usize,
    /// What it has collected.
    pub state: State,
}

impl Finished {
    /// Who asked.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Writes the answer into `out` and tells the plugins; gives its length.
    pub fn encode(mut self, out: &mut [u8]) -> usize {
        let Ok(query) = Query::parse(&self.packet) else {
            // It was parsed before it waited.
            return crate::wire::encode::encode_error(&self.packet, Rcode::SERVFAIL, out);
        };
        self.chains.encode(self.block, &query, self.client, self.started, self.depth, &mut self.state, out)
    }
}

/// The outcome of an inner look-up.
pub enum Inner {
    /// The answer is there.
    Done(Box<Reply>),
    /// It comes later.
    Later(BoxFuture<Box<Reply>>),
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
    match exchange.chains.respond(&query, exchange.client, exchange.now, depth, &mut state) {
        super::chains::Response::Ready => Inner::Done(Box::new(state.reply)),
        super::chains::Response::Silent => Inner::None,
        super::chains::Response::Later(pending) => Inner::Later(Box::pin(async move {
            match pending.finish().await {
                Some(finished) => Box::new(finished.state.reply),
                None => {
                    let mut reply = Reply::new();
                    reply.rcode = Rcode::SERVFAIL;
                    Box::new(reply)
                }
            }
        })),
    }
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
