//! What a plugin is, and how a list of them answers a query.
//!
//! ```text
//! Query ─► Router::respond ─ Zones::find ─► Chain::run ─┬ query() of each plugin, first to last
//!                                                      └ reply() of those, last to first, once one has answered
//! ```
//!
//! A plugin is synchronous. What must wait is a [`Wait`]: the worker goes on with the next packet, and the chain is
//! taken up again where it stopped when the future has ended.

#[expect(clippy::module_inception, reason = "the chain is what the module is about")]
mod chain;
pub mod pending;
mod router;
mod zones;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::upstream;
use crate::wire::header::Change;
use crate::wire::{Name, Query, Question, Rcode, Reply, Type};

pub use chain::{Chain, Resume};
pub use pending::{Inner, OwnedQuery, Pending, UpstreamQuery, Wait, Work};
pub use router::{Answer, Block, Observer, Router, Surroundings};
pub use zones::{Fallthrough, Zones};

/// How many inner look-ups may stand in each other: an ExternalName that leads to one that leads to one.
pub const MAX_DEPTH: u8 = 8;

/// One directive at work.
pub trait Plugin: Send + Sync {
    /// The directive's name.
    fn name(&self) -> &'static str;

    /// Looks at a query on its way in.
    fn query(&self, exchange: &mut Exchange<'_>) -> Step;

    /// Is told what came of its [`Wait::Upstream`]: the answer is in the exchange, or there is none.
    fn answered(&self, exchange: &mut Exchange<'_>, outcome: Result<(), upstream::Error>) -> Step {
        match outcome {
            Ok(()) => Step::Answered,
            Err(error) => exchange.fail(Rcode::SERVFAIL, Failure::Upstream(error)),
        }
    }

    /// Looks at the reply on its way out; called in reverse order, only where `query` said [`Step::Next`] or
    /// [`Step::Answered`].
    fn reply(&self, _exchange: &mut Exchange<'_>) -> Option<Wait> {
        None
    }

    /// Is told what was sent, once for each query from outside that its chain has answered.
    fn sent(&self, _exchange: &Exchange<'_>, _sent: &Sent) {}

    /// Is told of a query from outside that nothing is said to, since a plugin dropped it.
    fn dropped(&self, _exchange: &Exchange<'_>) {}

    /// What is missing until it can answer, for *ready*; nothing where it can.
    fn unready(&self) -> Option<String> {
        None
    }

    /// The value of a metadata label such as `kubernetes/namespace`, where this plugin knows it.
    fn metadata(&self, _exchange: &Exchange<'_>, _label: &str) -> Option<String> {
        None
    }
}

/// What a plugin makes of a query. Its tag is a number of its own, since it is looked at for each plugin.
#[repr(u8)]
pub enum Step {
    /// Not mine: ask the next plugin.
    Next,
    /// The reply is in the exchange.
    Answered,
    /// Say nothing at all.
    Drop,
    /// The answer comes later.
    Pending(Wait),
}

/// What went out.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// The message's length in octets.
    pub len: usize,
    /// Its flag bits, as written.
    pub flags: u16,
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain UDP.
    Udp,
    /// Plain TCP.
    Tcp,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
    /// DNS over HTTP/3.
    Https3,
}

impl Transport {
    /// As logs and metrics name it: by the protocol below, as CoreDNS does.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Udp | Transport::Quic | Transport::Https3 => "udp",
            Transport::Tcp | Transport::Tls | Transport::Https => "tcp",
        }
    }

    /// An answer must fit into a datagram, of the size that the client says. Other transports carry any message.
    pub const fn is_datagram(self) -> bool {
        matches!(self, Transport::Udp)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address.
    pub remote: SocketAddr,
    /// The address that it asked.
    pub local: SocketAddr,
    /// How.
    pub transport: Transport,
}

/// Why there is no better answer than an rcode; the *errors* plugin writes it down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A plugin passed the query on, and there was none behind it.
    #[error("plugin/{0}: no next plugin found")]
    NoNextPlugin(&'static str),
    /// Inner look-ups led to ever more inner look-ups.
    #[error("plugin/{0}: inner look-ups are nested too deeply")]
    TooDeep(&'static str),
    /// Too much work is waiting already.
    #[error("plugin/{0}: too many queries are waiting for an answer")]
    Overload(&'static str),
    /// Another server gave no answer.
    #[error("{0}")]
    Upstream(upstream::Error),
    /// A plugin could not make the answer that it is configured to make; its own words.
    #[error("{0}")]
    Answer(Box<str>),
}

/// What a query collects on its way. A worker keeps one and uses it for query after query.
#[derive(Debug, Default)]
pub struct State {
    /// The reply.
    pub reply: Reply,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The reply is nothing but a code that a plugin gave up with, and that the server writes for it.
    pub bare: bool,
    /// Where the reply comes from, as far as a cache must know.
    pub origin: Origin,
    /// How flags of the query are changed where it goes to another server. Who keeps answers for others asks whether they
    /// are authentic, whatever this client wants to know (RFC 6840 5.7).
    pub asked: Change,
    /// A list that a plugin may use within one call, kept so that it need not be allocated each time.
    pub scratch: Vec<u64>,
}

/// Where a reply comes from, as far as a cache must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A plugin made it, or another server; it may be kept.
    #[default]
    Made,
    /// It is as new as the last event of the cluster, which a kept one would not be.
    Live,
    /// A cache has had it.
    Kept,
}

impl State {
    /// Makes it as new.
    pub fn clear(&mut self) {
        self.reply.clear();
        self.forget_all_but_reply();
    }

    /// Makes it as new, with a reply that has just been read.
    pub fn forget_all_but_reply(&mut self) {
        self.failure = None;
        self.bare = false;
        self.origin = Origin::Made;
        self.asked = Change::default();
        // An unusual answer must not hold memory for ever.
        self.scratch.clear();
        self.scratch.shrink_to(4 * 1024);
    }
}

/// One query on its way through a chain.
pub struct Exchange<'a> {
    /// The query as sent.
    pub query: &'a Query<'a>,
    /// Who asks.
    pub client: Client,
    /// The time now. Taken once for a batch.
    pub now: Instant,
    /// When the query was read, which is earlier where it has waited.
    pub started: Instant,
    /// What it has collected.
    pub state: &'a mut State,
    /// How many inner look-ups this one is in; 0 for a query from outside.
    pub(crate) depth: u8,
    /// The plugin that has asked for this refresh, if it is one; those before it are not concerned.
    pub(crate) refresher: Option<usize>,
    /// The plugin at work.
    pub(crate) at: usize,
    /// The router of this listener, for inner look-ups.
    pub(crate) router: &'a Arc<Router>,
    /// The chain that it runs through.
    pub(crate) chain: &'a Chain,
    /// Which of the router' chains that is.
    pub(crate) block: usize,
}

impl<'a> Exchange<'a> {
    /// What is asked.
    pub fn question(&self) -> &'a Question {
        &self.query.question
    }

    /// The reply in the making.
    pub fn reply(&mut self) -> &mut Reply {
        &mut self.state.reply
    }

    /// How many inner look-ups this one is in; 0 for a query from outside.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// Gives up: the answer is a bare code, and *errors* learns why.
    pub fn fail(&mut self, rcode: Rcode, failure: Failure) -> Step {
        self.state.failure = Some(failure);
        self.refuse(rcode)
    }

    /// Answers with a bare code.
    pub fn refuse(&mut self, rcode: Rcode) -> Step {
        self.state.reply.clear();
        self.state.reply.rcode = rcode;
        self.state.bare = true;
        Step::Answered
    }

    /// Asks this server itself, through zone selection and every plugin, with the EDNS of the query.
    pub fn resolve(&self, name: Name<'_>, qtype: Type) -> Inner {
        pending::resolve(self, name, qtype)
    }

    /// Asks the plugins behind the one at work once more, for this one alone, whose `reply` is shown what comes. No client
    /// gets it, nor is it logged or counted. To be awaited, or given to [`Exchange::spawn`]. They are told that the query
    /// came over this transport.
    pub fn refresh(&self, transport: Transport) -> pending::BoxFuture<State> {
        pending::refresh(self, transport)
    }

    /// Whether this is a refresh that the plugin at work has asked for, and no client waits for the reply.
    pub fn is_refresh(&self) -> bool {
        self.refresher == Some(self.at)
    }

    /// Lets a future run beside the answers. Where too many run already it is dropped.
    pub fn spawn(&self, future: pending::BoxFuture<()>) {
        self.surroundings().spawn(future);
    }

    /// What there is around the router, for a future of a plugin.
    pub fn surroundings(&self) -> &Surroundings {
        self.router.surroundings()
    }

    /// Whether *metadata* is on in this chain.
    pub fn has_metadata(&self) -> bool {
        self.chain.metadata().is_some()
    }

    /// The value of a metadata label, if *metadata* covers the name asked for and a plugin of this chain knows it.
    pub fn metadata(&self, label: &str) -> Option<String> {
        let name = self.question().name();
        if !self.chain.metadata()?.iter().any(|zone| name.is_within(zone.as_name())) {
            return None;
        }
        self.chain.plugins().iter().find_map(|plugin| plugin.metadata(self, label))
    }
}
