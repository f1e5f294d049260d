//! The chains of one listener: which plan serves which zone, and the way from a query to its reply.

use std::sync::Arc;
use std::time::Instant;

use super::later::{Continue, Later, Pending};
use super::plan::{Outcome, Plan, Resume};
use super::{Client, Exchange, Sent, State, Transport, Zones};
use crate::wire::encode::{encode, encode_error};
use crate::wire::{Class, MAX_MESSAGE, NameBuf, Query, Rcode, header};

/// One server block: the zones that it serves and the plugins that do it.
pub struct Block {
    /// Its zones.
    pub zones: Vec<NameBuf>,
    /// Its plugins.
    pub plan: Plan,
}

/// All server blocks of one listener.
#[derive(Default)]
pub struct Chains {
    zones: Zones,
    plans: Vec<Plan>,
    /// A plugin of some block wants other classes than IN (*chaos*, *forward*).
    other_classes: bool,
}

/// How [`Chains::respond`] ended.
pub(super) enum Response {
    /// The state holds the reply; `block` made it.
    Ready {
        /// The block, if one serves the name.
        block: Option<usize>,
    },
    /// Nothing is said.
    Silent,
    /// It waits.
    Later(Box<Pending>),
}

/// What [`Chains::answer`] made of a packet.
pub enum Answer {
    /// So many octets are in the buffer; send them.
    Send(usize),
    /// Send nothing.
    Silent,
    /// The answer comes later.
    Later(Box<Pending>),
}

impl Chains {
    /// The chains of these blocks. `other_classes`: some plugin wants other classes than IN.
    pub fn new(blocks: Vec<Block>, other_classes: bool) -> Chains {
        let mut chains = Chains { other_classes, ..Chains::default() };
        for block in blocks {
            for zone in &block.zones {
                chains.zones.add(zone, chains.plans.len());
            }
            chains.plans.push(block.plan);
        }
        chains
    }

    /// The one way from a packet to its answer, for every transport. `out` holds [`MAX_MESSAGE`] octets, or for UDP
    /// [`crate::wire::encode::MAX_UDP`].
    pub fn answer(self: &Arc<Self>, packet: &[u8], client: Client, now: Instant, state: &mut State, out: &mut [u8]) -> Answer {
        match header::accept(packet) {
            header::Accept::Parse => {}
            header::Accept::Drop => return Answer::Silent,
            header::Accept::Refuse(rcode) => return Answer::Send(encode_error(packet, rcode, out)),
        }
        // Borrowed where it lies: a query is large to move.
        let parsed = Query::parse(packet);
        let Ok(query) = &parsed else {
            return Answer::Send(encode_error(packet, Rcode::FORMERR, out));
        };
        state.clear();
        match self.respond(query, client, now, 0, state) {
            Response::Ready { block: Some(block) } => {
                Answer::Send(self.encode(block, query, client, now, 0, state, out))
            }
            Response::Ready { block: None } => Answer::Send(encode_within(query, client, state, out)),
            Response::Silent => Answer::Silent,
            Response::Later(pending) => Answer::Later(pending),
        }
    }

    /// From a query to its reply.
    pub(super) fn respond(
        self: &Arc<Self>, query: &Query<'_>, client: Client, now: Instant, depth: u8, state: &mut State,
    ) -> Response {
        // The order of these is CoreDNS's `Server.ServeDNS`.
        if query.question.qclass != Class::IN && !self.other_classes {
            state.reply.rcode = Rcode::REFUSED;
            return Response::Ready { block: None };
        }
        if query.edns.is_some_and(|edns| edns.version != 0) {
            state.reply.rcode = Rcode::BADVERS;
            return Response::Ready { block: None };
        }
        let Some(block) = self.zones.find(&query.question) else {
            state.reply.rcode = Rcode::REFUSED;
            return Response::Ready { block: None };
        };
        let plan = &self.plans[block];
        let mut exchange = Exchange { query, client, now, state, depth, chains: self, plan };
        match plan.run(&mut exchange) {
            Outcome::Answered => Response::Ready { block: Some(block) },
            Outcome::Drop => Response::Silent,
            Outcome::Later { at, later } => Response::Later(Box::new(self.pend(query, client, now, depth, state, block, at, later))),
        }
    }

    /// All that a waiting query needs.
    #[expect(clippy::too_many_arguments, reason = "it only moves them into a struct")]
    fn pend(
        self: &Arc<Self>, query: &Query<'_>, client: Client, started: Instant, depth: u8, state: &mut State,
        block: usize, at: Resume, later: Later,
    ) -> Pending {
        let state = std::mem::take(state);
        Pending { packet: query.packet().into(), client, started, depth, chains: self.clone(), block, at, later, state }
    }

    /// Takes a plan up again.
    #[expect(clippy::too_many_arguments, reason = "the parts of a `Pending`, of which some stay with the caller")]
    pub(super) fn resume(
        self: &Arc<Self>, block: usize, at: Resume, outcome: Continue, packet: &[u8], client: Client, now: Instant,
        depth: u8, state: &mut State,
    ) -> Outcome {
        // It was parsed before it waited.
        let Ok(query) = Query::parse(packet) else { return Outcome::Drop };
        let plan = &self.plans[block];
        let mut exchange = Exchange { query: &query, client, now, state, depth, chains: self, plan };
        plan.resume(at, outcome, &mut exchange)
    }

    /// Writes a reply and tells the plugins what was sent.
    #[expect(clippy::too_many_arguments, reason = "the parts of an exchange")]
    pub(super) fn encode(
        self: &Arc<Self>, block: usize, query: &Query<'_>, client: Client, now: Instant, depth: u8, state: &mut State,
        out: &mut [u8],
    ) -> usize {
        let len = encode_within(query, client, state, out);
        let plan = &self.plans[block];
        let sent = Sent { len, flags: u16::from_be_bytes([out[2], out[3]]) };
        plan.sent(&Exchange { query, client, now, state, depth, chains: self, plan }, &sent);
        len
    }
}

/// Writes a reply within what its transport and client take.
fn encode_within(query: &Query<'_>, client: Client, state: &mut State, out: &mut [u8]) -> usize {
    let limit = match client.transport {
        Transport::Udp => state.reply.udp_limit(query.edns.as_ref()),
        Transport::Tcp => MAX_MESSAGE,
    };
    encode(query, &mut state.reply, limit.min(out.len()), out)
}
