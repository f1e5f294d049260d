//! The router of a listener: selects the chain for a query, and turns a packet into its response.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Client, Exchange, FinishedQuery, LookUp, QueryTap, Sent, State, Transport, Zones};
use crate::chain::chain::{Chain, Outcome};
use crate::chain::pending::{BoxFuture, Pending};
use crate::wire::encode::{encode, encode_error};
use crate::wire::{Class, MAX_MESSAGE, NameBuf, Query, Rcode, header};

/// A server block: its zones and its plugins.
pub struct Block {
    /// The zones.
    pub zones: Vec<NameBuf>,
    /// The plugins.
    pub chain: Chain,
}

/// The highest code that a response without an OPT record can carry (RFC 6891 6.1.3).
const MAX_PLAIN_RCODE: u16 = 15;

/// All server blocks of a listener.
#[derive(Default)]
pub struct Router {
    /// The block of each zone; a zone with several blocks has the number of chains plus an index of `candidates`.
    zones: Zones,
    /// The chain of each block.
    pub(super) chains: Vec<Chain>,
    /// The blocks of a zone in the order of the file, if they select their queries ([`super::Filter`]). The first that
    /// gets the query answers; a block that gets every query is the last.
    candidates: Vec<Vec<usize>>,
    /// A plugin of some block handles classes other than IN (*chaos*, *forward*).
    other_classes: bool,
    /// Notified of queries that no block serves.
    observer: Option<Arc<dyn Observer>>,
    /// The clock and timers for plugins.
    surroundings: Surroundings,
}

/// What a chain needs of the process: a clock, a timer, and a way to run futures in the background.
#[derive(Clone)]
pub struct Surroundings {
    /// The time.
    pub clock: Arc<dyn Fn() -> Instant + Send + Sync>,
    /// Runs a future in the background, or drops it if too many are running.
    pub spawner: Arc<dyn Fn(BoxFuture<()>) + Send + Sync>,
    /// Returns a future that ends after a time. It has to be awaited where the chain's own futures are.
    pub timer: Arc<dyn Fn(Duration) -> BoxFuture<()> + Send + Sync>,
    /// Records a sample of the queries of clients.
    pub tap: Option<Arc<dyn QueryTap>>,
}

impl Default for Surroundings {
    /// Returns the system's clock, without background futures; a timer never ends.
    fn default() -> Surroundings {
        let never: fn(Duration) -> BoxFuture<()> = |_| Box::pin(std::future::pending());
        Surroundings { clock: Arc::new(Instant::now), spawner: Arc::new(drop), timer: Arc::new(never), tap: None }
    }
}

impl Surroundings {
    pub(super) fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Runs a future in the background. It is dropped if too many are running.
    pub fn spawn(&self, future: BoxFuture<()>) {
        (self.spawner)(future);
    }

    /// Returns a future that ends after `time`.
    pub fn sleep(&self, time: Duration) -> BoxFuture<()> {
        (self.timer)(time)
    }
}

/// Notified of queries that no block serves.
pub trait Observer: Send + Sync {
    /// Called with a query that got this code, in a response of `len` bytes.
    fn refused(&self, query: &Query<'_>, client: Client, now: Instant, rcode: Rcode, len: usize);
}

/// The result of [`Router::respond`].
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
pub(super) enum Response {
    /// The reply is in the state.
    Ready,
    /// There is no response.
    Drop,
    /// The query is pending.
    Pending(Pending),
}

/// The result of [`Router::answer`].
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
pub enum Answer {
    /// Send this number of bytes from the buffer.
    Send(usize),
    /// Send nothing.
    Drop,
    /// The query is pending.
    Pending(Pending),
}

impl Router {
    /// Creates the router of these blocks. `other_classes`: some plugin handles classes other than IN.
    pub fn new(blocks: Vec<Block>, other_classes: bool) -> Router {
        let mut router = Router { other_classes, ..Router::default() };
        let mut zones: Vec<(NameBuf, Vec<usize>)> = Vec::new();
        let mut known: HashMap<NameBuf, usize> = HashMap::new();
        for Block { zones: of_block, chain } in blocks {
            for zone in of_block {
                let zone = zone.to_lower();
                let at = *known.entry(zone.clone()).or_insert_with(|| {
                    zones.push((zone, Vec::new()));
                    zones.len() - 1
                });
                zones[at].1.push(router.chains.len());
            }
            router.chains.push(chain);
        }
        for (zone, mut blocks) in zones {
            // Blocks after one that gets every query never get any.
            if let Some(last) = blocks.iter().position(|block| !router.chains[*block].is_filtered()) {
                blocks.truncate(last + 1);
            }
            let entry = match blocks[..] {
                [block] if !router.chains[block].is_filtered() => block,
                _ => {
                    router.candidates.push(blocks);
                    router.chains.len() + router.candidates.len() - 1
                }
            };
            router.zones.add(&zone, entry);
        }
        router
    }

    /// Sets the observer of queries that no block serves.
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Router {
        Router { observer: Some(observer), ..self }
    }

    /// Sets the clock and timers.
    pub fn surrounded_by(self, surroundings: Surroundings) -> Router {
        Router { surroundings, ..self }
    }

    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Answers a packet. Every transport calls this function. `out` has [`MAX_MESSAGE`] bytes, or
    /// [`crate::wire::MAX_UDP`] for UDP.
    pub fn answer(
        self: &Arc<Self>, packet: &[u8], client: Client, now: Instant, state: &mut State, out: &mut [u8],
    ) -> Answer {
        self.answer_noted(packet, client, now, state, out, |_| {})
    }

    /// Answers a packet. `note` adds to the state what the listener knows about the query.
    pub fn answer_noted(
        self: &Arc<Self>, packet: &[u8], client: Client, now: Instant, state: &mut State, out: &mut [u8],
        note: impl FnOnce(&mut State),
    ) -> Answer {
        match header::accept(packet) {
            header::Accept::Parse => {}
            header::Accept::Drop => return Answer::Drop,
            header::Accept::Refuse(rcode) => return Answer::Send(encode_error(packet, rcode, out)),
        }
        let mut query = Query::unread(packet);
        if query.read().is_err() {
            return Answer::Send(encode_error(packet, Rcode::FORMERR, out));
        }
        let query = &query;
        state.clear();
        note(state);
        let block = match self.select(query, client, now, state) {
            Ok(block) => block,
            Err(rcode) => {
                state.reply.rcode = rcode;
                let len = encode_within(query, client.transport, state, out);
                if let Some(observer) = &self.observer {
                    observer.refused(query, client, now, rcode, len);
                }
                let reason = (rcode == Rcode::REFUSED).then_some("no-block");
                self.tap(|| FinishedQuery { question: &query.question, client, rcode: Some(rcode), reason });
                return Answer::Send(len);
            }
        };
        let mut exchange = self.exchange(block, query, client, now, LookUp::default(), state);
        match exchange.respond() {
            Response::Ready => Answer::Send(exchange.encode(out)),
            Response::Drop => Answer::Drop,
            Response::Pending(pending) => Answer::Pending(pending),
        }
    }

    /// Answers the query of an internal look-up.
    pub(super) fn respond(
        self: &Arc<Self>, query: &Query<'_>, client: Client, now: Instant, look_up: LookUp, state: &mut State,
    ) -> Response {
        match self.select(query, client, now, state) {
            Ok(block) => {
                let mut exchange = self.exchange(block, query, client, now, look_up, state);
                exchange.respond()
            }
            Err(rcode) => {
                state.reply.rcode = rcode;
                Response::Ready
            }
        }
    }

    /// Creates the exchange of a query that has just been received.
    #[inline(always)]
    pub(super) fn exchange<'a>(
        self: &'a Arc<Self>, block: usize, query: &'a Query<'a>, client: Client, now: Instant, look_up: LookUp,
        state: &'a mut State,
    ) -> Exchange<'a> {
        Exchange {
            query,
            received: query,
            client,
            now,
            started: look_up.started.unwrap_or(now),
            state,
            look_up,
            first: 0,
            refresh: false,
            at: 0,
            router: self,
            chain: &self.chains[block],
            block,
        }
    }

    /// Selects the block for a query, or the code if there is none.
    #[inline(always)]
    fn select(
        self: &Arc<Self>, query: &Query<'_>, client: Client, now: Instant, state: &mut State,
    ) -> Result<usize, Rcode> {
        self.select_noting(query, client, now, state, &mut |_| {})
    }

    /// Selects the block for a query, or the code if there is none. Calls `note` with each block that does not admit
    /// the query. The order of checks is that of CoreDNS's `Server.ServeDNS`.
    #[inline(always)]
    pub(super) fn select_noting(
        self: &Arc<Self>, query: &Query<'_>, client: Client, now: Instant, state: &mut State,
        note: &mut dyn FnMut(&Chain),
    ) -> Result<usize, Rcode> {
        if query.question.qclass != Class::IN && !self.other_classes {
            return Err(Rcode::REFUSED);
        }
        if query.edns.as_ref().is_some_and(|edns| edns.version != 0) {
            return Err(Rcode::BADVERS);
        }
        match self.zones.find(&query.question) {
            Some(entry) if entry < self.chains.len() => Ok(entry),
            Some(entry) => self.select_filtered(entry, query, client, now, state, note).ok_or(Rcode::REFUSED),
            None => Err(Rcode::REFUSED),
        }
    }

    /// Selects the block for a query in a zone whose blocks select their queries; `entry` is that of the zone. If none
    /// of them gets the query, the next zone that contains the name is tried.
    #[inline(never)]
    fn select_filtered(
        self: &Arc<Self>, entry: usize, query: &Query<'_>, client: Client, now: Instant, state: &mut State,
        note: &mut dyn FnMut(&Chain),
    ) -> Option<usize> {
        let mut exchange = self.exchange(0, query, client, now, LookUp::default(), state);
        let mut first_that_admits = |entry: usize| {
            let candidates = &self.candidates[entry - self.chains.len()];
            candidates.iter().copied().find(|&block| {
                (exchange.block, exchange.chain) = (block, &self.chains[block]);
                let is_admitted = exchange.chain.admits(&exchange);
                if !is_admitted {
                    note(exchange.chain);
                }
                is_admitted
            })
        };
        first_that_admits(entry).or_else(|| {
            self.zones.find_map(&query.question, |other| match other {
                _ if other == entry => None,
                _ if other < self.chains.len() => Some(other),
                _ => first_that_admits(other),
            })
        })
    }
}

impl Exchange<'_> {
    /// Runs the query through its chain.
    fn respond(&mut self) -> Response {
        let outcome = self.chain.run(self);
        // Matched by reference, since moving the large variant of a pending query costs time.
        if matches!(outcome, Outcome::Answered) {
            return Response::Ready;
        }
        self.unanswered(outcome)
    }

    /// Handles an outcome other than an answer.
    #[inline(never)]
    fn unanswered(&mut self, outcome: Outcome) -> Response {
        match outcome {
            Outcome::Answered => Response::Ready,
            Outcome::Drop => {
                self.chain.dropped(self);
                Response::Drop
            }
            Outcome::Pending { at, wait } => Response::Pending(self.pend(self.block, at, wait)),
        }
    }

    /// Returns what is recorded of the query.
    pub(super) fn ended(&self, rcode: Option<Rcode>) -> FinishedQuery<'_> {
        FinishedQuery { question: &self.received.question, client: self.client, rcode, reason: self.state.reason() }
    }

    /// Encodes the reply, notifies the plugins, and returns its length.
    pub(super) fn encode(&mut self, out: &mut [u8]) -> usize {
        let len = encode_within(self.query, self.client.transport, self.state, out);
        self.chain.sent(self, &Sent { len, flags: u16::from_be_bytes([out[2], out[3]]), buffer: out });
        self.router.tap(|| self.ended(Some(self.state.reply.rcode)));
        len
    }
}

/// Encodes a reply within the limit of the transport and the client.
fn encode_within(query: &Query<'_>, transport: Transport, state: &mut State, out: &mut [u8]) -> usize {
    if state.reply.rcode.0 > MAX_PLAIN_RCODE && query.edns.is_none() {
        // Its low bits alone are another code, such as NOERROR.
        state.reply.clear();
        state.reply.rcode = Rcode::SERVFAIL;
    }
    let limit = if transport.is_datagram() { state.reply.udp_limit(query.edns.as_ref()) } else { MAX_MESSAGE };
    encode(query, &mut state.reply, limit.min(out.len()), out)
}
