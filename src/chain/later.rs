//! What must wait: a future that a plugin hands over, and the look-ups that this server makes of itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use super::plan::{Outcome, Resume};
use super::{Chains, Client, Exchange, MAX_DEPTH, State};
use crate::wire::encode::encode_error;
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

/// A query, owned, with what it has collected: all that is needed to go on with it once it has waited.
pub struct Asked {
    pub(super) packet: Box<[u8]>,
    pub(super) client: Client,
    /// When it was read.
    pub(super) started: Instant,
    pub(super) depth: u8,
    pub(super) chains: Arc<Chains>,
    /// The block that answers it.
    pub(super) block: usize,
    /// What it has collected.
    pub state: State,
}

/// A query whose plan waits.
pub struct Pending {
    pub(super) asked: Asked,
    pub(super) at: Resume,
    pub(super) later: Later,
}

impl Pending {
    /// Waits, takes the plan up again, and waits again where another plugin needs it. Gives the query with its reply, or
    /// nothing where nothing is to be said.
    pub async fn finish(self) -> Option<Asked> {
        let Pending { mut asked, mut at, mut later } = self;
        loop {
            let (state, outcome) = (later.future)(asked.state).await;
            asked.state = state;
            let next = asked.with_exchange(|exchange| exchange.plan.resume(at, outcome, exchange));
            match next? {
                Outcome::Answered => return Some(asked),
                Outcome::Drop => return None,
                Outcome::Later { at: next_at, later: next_later } => (at, later) = (next_at, next_later),
            }
        }
    }

    /// Ends it at once because too much waits already: the answer that its directive has for that.
    pub fn overload(self) -> Asked {
        let Pending { mut asked, later, .. } = self;
        asked.state.reply.clear();
        asked.state.reply.rcode = later.overload;
        asked.state.bare = true;
        asked.state.failure = Some(super::Failure::Overload(later.plugin));
        asked
    }
}

impl Asked {
    /// Writes the answer into `out` and tells the plugins; gives its length.
    pub fn encode(mut self, out: &mut [u8]) -> usize {
        let len = self.with_exchange(|exchange| exchange.encode(out));
        len.unwrap_or_else(|| encode_error(&self.packet, Rcode::SERVFAIL, out))
    }

    /// Goes on with it as the exchange that it was. `None` where the packet is no query, which it was before it waited.
    fn with_exchange<T>(&mut self, go_on: impl FnOnce(&mut Exchange<'_>) -> T) -> Option<T> {
        let Asked { packet, client, started, depth, chains, block, state } = self;
        let query = Query::parse(packet).ok()?;
        let plan = &chains.plans[*block];
        Some(go_on(&mut Exchange { query: &query, client: *client, now: *started, state, depth: *depth, chains, plan }))
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
                Some(asked) => Box::new(asked.state.reply),
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
