//! The router of one listener: which chain serves which zone, and the way from a query to its reply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Client, Exchange, Sent, State, Transport, Zones};
use crate::chain::chain::{Chain, Outcome};
use crate::chain::pending::{BoxFuture, Pending};
use crate::wire::encode::{encode, encode_error};
use crate::wire::{Class, MAX_MESSAGE, NameBuf, Query, Rcode, header};

/// One server block: the zones that it serves and the plugins that do it.
pub struct Block {
    /// Its zones.
    pub zones: Vec<NameBuf>,
    /// Its plugins.
    pub chain: Chain,
}

/// All server blocks of one listener.
#[derive(Default)]
pub struct Router {
    zones: Zones,
    /// The chain of each block.
    pub(super) chains: Vec<Chain>,
    /// A plugin of some block wants other classes than IN (*chaos*, *forward*).
    other_classes: bool,
    /// Who is told of queries that no block takes.
    observer: Option<Arc<dyn Observer>>,
    /// What plugins need besides.
    surroundings: Surroundings,
}

/// What a chain needs of the process that it runs in: its clock, a timer, and somebody who runs what no client waits for.
#[derive(Clone)]
pub struct Surroundings {
    /// The time.
    pub clock: Arc<dyn Fn() -> Instant + Send + Sync>,
    /// Runs a future, or drops it where too many run.
    pub spawner: Arc<dyn Fn(BoxFuture<()>) + Send + Sync>,
    /// Waits so long. Its futures end where the chain's own are run.
    pub timer: Arc<dyn Fn(Duration) -> BoxFuture<()> + Send + Sync>,
}

impl Default for Surroundings {
    /// The machine's clock, and nobody; waiting has no end.
    fn default() -> Surroundings {
        let never: fn(Duration) -> BoxFuture<()> = |_| Box::pin(std::future::pending());
        Surroundings { clock: Arc::new(Instant::now), spawner: Arc::new(drop), timer: Arc::new(never) }
    }
}

impl Surroundings {
    pub(super) fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Lets a future run beside the answers. Where too many run already it is dropped.
    pub fn spawn(&self, future: BoxFuture<()>) {
        (self.spawner)(future);
    }

    /// Waits so long.
    pub fn sleep(&self, time: Duration) -> BoxFuture<()> {
        (self.timer)(time)
    }
}

/// Is told of queries that are refused before any block has them.
pub trait Observer: Send + Sync {
    /// A query that got this code, in an answer of `len` octets.
    fn refused(&self, query: &Query<'_>, client: Client, now: Instant, rcode: Rcode, len: usize);
}

/// How [`Router::respond`] ended.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
pub(super) enum Response {
    /// The state holds the reply.
    Ready,
    /// Nothing is said.
    Silent,
    /// It waits.
    Pending(Pending),
}

/// What [`Router::answer`] made of a packet.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
pub enum Answer {
    /// So many octets are in the buffer; send them.
    Send(usize),
    /// Send nothing.
    Silent,
    /// The answer comes later.
    Pending(Pending),
}

impl Router {
    /// The router of these blocks. `other_classes`: some plugin wants other classes than IN.
    pub fn new(blocks: Vec<Block>, other_classes: bool) -> Router {
        let mut router = Router { other_classes, ..Router::default() };
        for block in blocks {
            for zone in &block.zones {
                router.zones.add(zone, router.chains.len());
            }
            router.chains.push(block.chain);
        }
        router
    }

    /// The same with somebody who is told of queries that no block takes.
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Router {
        Router { observer: Some(observer), ..self }
    }

    /// The same in a process.
    pub fn surrounded_by(self, surroundings: Surroundings) -> Router {
        Router { surroundings, ..self }
    }

    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// The one way from a packet to its answer, for every transport. `out` holds [`MAX_MESSAGE`] octets, or for UDP
    /// [`crate::wire::encode::MAX_UDP`].
    pub fn answer(
        self: &Arc<Self>, packet: &[u8], client: Client, now: Instant, state: &mut State, out: &mut [u8],
    ) -> Answer {
        match header::accept(packet) {
            header::Accept::Parse => {}
            header::Accept::Drop => return Answer::Silent,
            header::Accept::Refuse(rcode) => return Answer::Send(encode_error(packet, rcode, out)),
        }
        let mut query = Query::unread(packet);
        if query.read().is_err() {
            return Answer::Send(encode_error(packet, Rcode::FORMERR, out));
        }
        let query = &query;
        state.clear();
        let block = match self.select(query) {
            Ok(block) => block,
            Err(rcode) => {
                state.reply.rcode = rcode;
                let len = encode_within(query, client.transport, state, out);
                if let Some(observer) = &self.observer {
                    observer.refused(query, client, now, rcode, len);
                }
                return Answer::Send(len);
            }
        };
        let chain = &self.chains[block];
        let (depth, refresher) = (0, None);
        let mut exchange =
            Exchange { query, client, now, started: now, state, depth, refresher, at: 0, router: self, chain, block };
        match exchange.respond() {
            Response::Ready => Answer::Send(exchange.encode(out)),
            Response::Silent => Answer::Silent,
            Response::Pending(pending) => Answer::Pending(pending),
        }
    }

    /// From a query of an inner look-up to its reply.
    pub(super) fn respond(
        self: &Arc<Self>, query: &Query<'_>, client: Client, now: Instant, depth: u8, state: &mut State,
    ) -> Response {
        match self.select(query) {
            Ok(block) => {
                let chain = &self.chains[block];
                let (refresher, at, router) = (None, 0, self);
                Exchange { query, client, now, started: now, state, depth, refresher, at, router, chain, block }
                    .respond()
            }
            Err(rcode) => {
                state.reply.rcode = rcode;
                Response::Ready
            }
        }
    }

    /// The block that answers a query, or the code where none does. The order is CoreDNS's `Server.ServeDNS`.
    fn select(&self, query: &Query<'_>) -> Result<usize, Rcode> {
        if query.question.qclass != Class::IN && !self.other_classes {
            return Err(Rcode::REFUSED);
        }
        if query.edns.as_ref().is_some_and(|edns| edns.version != 0) {
            return Err(Rcode::BADVERS);
        }
        self.zones.find(&query.question).ok_or(Rcode::REFUSED)
    }
}

impl Exchange<'_> {
    /// Runs the query through its chain.
    fn respond(&mut self) -> Response {
        let outcome = self.chain.run(self);
        // Looked at where it lies: it is large, for the sake of what waits.
        if matches!(outcome, Outcome::Answered) {
            return Response::Ready;
        }
        self.unanswered(outcome)
    }

    /// What comes of an outcome that is no answer.
    #[inline(never)]
    fn unanswered(&mut self, outcome: Outcome) -> Response {
        match outcome {
            Outcome::Answered => Response::Ready,
            Outcome::Drop => {
                self.chain.dropped(self);
                Response::Silent
            }
            Outcome::Pending { at, wait } => Response::Pending(self.pend(self.block, at, wait)),
        }
    }

    /// Writes the reply and tells the plugins what was sent; gives its length.
    pub(super) fn encode(&mut self, out: &mut [u8]) -> usize {
        let len = encode_within(self.query, self.client.transport, self.state, out);
        self.chain.sent(self, &Sent { len, flags: u16::from_be_bytes([out[2], out[3]]) });
        len
    }
}

/// Writes a reply within what its transport and client take.
fn encode_within(query: &Query<'_>, transport: Transport, state: &mut State, out: &mut [u8]) -> usize {
    let limit = match transport.is_datagram() {
        true => state.reply.udp_limit(query.edns.as_ref()),
        false => MAX_MESSAGE,
    };
    encode(query, &mut state.reply, limit.min(out.len()), out)
}
