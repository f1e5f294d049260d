//! Plugins, and the chain of plugins that answers a query.
//!
//! ```text
//! Query ─► Router::respond ─ Zones::find ─► Chain::run ─┬ query() of each plugin, first to last
//!                                                      └ reply() of those, last to first, after one has answered
//! ```
//!
//! Plugins are synchronous. A plugin that has to wait returns a [`Wait`]: the worker continues with the next packet,
//! and the chain resumes at that plugin when the wait is over.

#[expect(clippy::module_inception, reason = "the chain is what the module is about")]
mod chain;
mod explain;
mod notes;
pub mod pending;
mod query_tap;
pub mod rest;
mod rewritten;
mod router;
mod way_back;
mod zones;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::upstream::{self, PlainTransport};
use crate::wire::header::Change;
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{Name, NameBuf, Query, QueryChange, Question, Rcode, Reply, Type};

pub use chain::{Chain, Resume};
pub use explain::{ExplainNotes, Explained, Subject, Trace, TraceDenial, TraceEnd, TraceStep};
pub use notes::Notes;
pub use pending::{Inner, OwnedQuery, Pending, Resolver, UpstreamQuery, Wait, Work};
pub use query_tap::{FinishedQuery, QueryTap};
pub use rest::{ExplainedRest, Rest, RestReply};
pub use rewritten::Rewritten;
use rewritten::RewrittenSlot;
pub use router::{Answer, Block, Observer, Router, Surroundings};
pub use way_back::ExplainedReply;
pub use zones::{Fallthrough, Zones};

/// The maximum nesting of internal look-ups, for instance of ExternalNames that refer to ExternalNames.
pub const MAX_DEPTH: u8 = 8;

/// A directive that takes part in answering queries.
pub trait Plugin: Send + Sync {
    /// Returns the name of the directive.
    fn name(&self) -> &'static str;

    /// Returns the calls that the plugin needs for each query. A chain leaves out the others, so that a plugin that has
    /// a `reply` or a `sent` of its own must name it here.
    fn calls(&self) -> Calls {
        Calls { query: true, reply: false, sent: false }
    }

    /// Called with each query, first plugin to last.
    fn query(&self, exchange: &mut Exchange<'_>) -> Step;

    /// Describes what the plugin would do with the query, for `clusterdns explain`, and does it without any effect: no
    /// counter, cache entry or query to an upstream. A plugin whose `query` has such effects must override this.
    fn explain(&self, exchange: &mut Exchange<'_>, _notes: &mut ExplainNotes) -> Explained {
        self.query(exchange).into()
    }

    /// Called with the result of the plugin's [`Wait::Upstream`]. If it is `Ok`, the reply is in the exchange.
    fn answered(&self, exchange: &mut Exchange<'_>, outcome: Result<(), upstream::Error>) -> Step {
        match outcome {
            Ok(()) => Step::Answered,
            Err(error) => exchange.fail(error.rcode(), Failure::Upstream(error)),
        }
    }

    /// Called with each reply, last plugin to first, for the plugins whose `query` returned [`Step::Next`] or
    /// [`Step::Answered`].
    fn reply(&self, _exchange: &mut Exchange<'_>) -> Option<Wait> {
        None
    }

    /// Makes of the reply what [`Plugin::reply`] does, without any effect, for `clusterdns explain`, which describes
    /// how the reply differs then. A plugin whose `reply` has effects, or changes the reply at random, must override
    /// this; one may add lines about what the reply does not show.
    fn explain_reply(&self, exchange: &mut Exchange<'_>, _lines: &mut Vec<String>) -> ExplainedReply {
        if self.reply(exchange).is_none() { ExplainedReply::Known } else { ExplainedReply::Unknown }
    }

    /// Returns whether [`Plugin::reply`] does something, for `clusterdns explain`, which names these plugins where a
    /// reply is not known. A wrapper returns that of the plugin that it wraps.
    fn uses_replies(&self) -> bool {
        self.calls().reply
    }

    /// Called after the response was encoded, once for each query of a client that the chain answered.
    fn sent(&self, _exchange: &Exchange<'_>, _sent: &Sent<'_>) {}

    /// Called for a query of a client that a plugin dropped, so that there is no response.
    fn dropped(&self, _exchange: &Exchange<'_>) {}

    /// Returns whether the plugin answers this question itself, from a state that changes while answers are cached, so
    /// that a cached answer of another plugin must not be used. A cache in front of the plugin calls this before it
    /// answers.
    fn claims(&self, _question: &Question) -> bool {
        false
    }

    /// Returns whether the plugin stores replies and answers other clients from them, so that a reply of a plugin after
    /// it must not depend on the client.
    fn stores_replies(&self) -> bool {
        false
    }

    /// Returns the search list of the client, if the plugin knows it and the name of the question is below its first
    /// element (CoreDNS `autopath.AutoPather`). The last element is the root.
    fn search_list(&self, _exchange: &Exchange<'_>) -> Option<Vec<NameBuf>> {
        None
    }

    /// Returns what is missing until the plugin is ready, for *ready*; `None` if it is ready.
    fn unready(&self) -> Option<String> {
        None
    }

    /// Returns the time after the arrival of a query at which it is given up, if the plugin limits it.
    fn time_limit(&self) -> Option<Duration> {
        None
    }

    /// Returns the plugin's condition for queries of its server block, if it has one. A query for which it does not
    /// hold is answered by another block.
    fn filter(&self) -> Option<&dyn Filter> {
        None
    }

    /// Returns the value of a metadata label such as `kubernetes/namespace`, if this plugin defines it.
    fn metadata(&self, _exchange: &Exchange<'_>, _label: &str) -> Option<String> {
        None
    }
}

/// Calls of a plugin for each query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// [`Plugin::query`]; without it, the query goes on to the next plugin.
    pub query: bool,
    /// [`Plugin::reply`].
    pub reply: bool,
    /// [`Plugin::sent`].
    pub sent: bool,
}

/// Observes the attempts at upstreams for the queries of a server block.
pub trait UpstreamTap: Send + Sync {
    /// Returns the observer of the attempts of a query that is about to be sent; `None` if they are not observed.
    fn begin(&self, exchange: &Exchange<'_>) -> Option<Box<dyn upstream::AttemptTap>>;
}

/// Decides which queries a server block gets.
pub trait Filter: Send + Sync {
    /// Whether the block of this exchange's chain gets the query. Nothing has been answered yet.
    fn admits(&self, exchange: &Exchange<'_>) -> bool;
}

/// The result of [`Plugin::query`]. The tag is a separate number, since it is read for each plugin.
#[repr(u8)]
pub enum Step {
    /// The plugin does not answer: continue with the next one.
    Next,
    /// The reply is in the exchange.
    Answered,
    /// There is no response.
    Drop,
    /// The plugin waits.
    Pending(Wait),
    /// The plugin has changed the query ([`State::rewrite`]): the plugins after it get the changed one, and the reply
    /// that they make is about that.
    Rewritten,
}

/// The response that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The length of the message in bytes.
    pub len: usize,
    /// The flags of its header.
    pub flags: u16,
    /// The buffer that begins with the message.
    pub(crate) buffer: &'a [u8],
}

impl<'a> Sent<'a> {
    /// Returns the message.
    pub fn message(&self) -> &'a [u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

/// The transport of a query.
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
    /// DNS over gRPC.
    Grpc,
}

impl Transport {
    /// Returns the name in logs and metrics, which is the protocol below, as in CoreDNS.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Udp | Transport::Quic | Transport::Https3 => "udp",
            Transport::Tcp | Transport::Tls | Transport::Https | Transport::Grpc => "tcp",
        }
    }

    /// Returns whether a response must fit into a datagram, of the size that the client offers. Other transports carry
    /// any message.
    pub const fn is_datagram(self) -> bool {
        matches!(self, Transport::Udp)
    }

    /// Returns the transport on which a query is forwarded: UDP or TCP like that of the client, as in CoreDNS. A client
    /// over QUIC or HTTP/3 has no TCP to retry over when a response is truncated, so this server retries for it.
    pub const fn forwarded_over(self) -> PlainTransport {
        match self {
            Transport::Udp => PlainTransport::Udp,
            Transport::Quic | Transport::Https3 => PlainTransport::UdpThenTcp,
            Transport::Tcp | Transport::Tls | Transport::Https | Transport::Grpc => PlainTransport::Tcp,
        }
    }
}

/// The client of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client's address.
    pub remote: SocketAddr,
    /// The address that the query was sent to.
    pub local: SocketAddr,
    /// The transport.
    pub transport: Transport,
}

/// Why a query failed; *errors* logs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The last plugin passed the query on.
    #[error("plugin/{0}: no next plugin found")]
    NoNextPlugin(&'static str),
    /// Internal look-ups exceeded [`MAX_DEPTH`].
    #[error("plugin/{0}: internal look-ups are nested too deeply")]
    TooDeep(&'static str),
    /// An internal look-up has ended with SERVFAIL.
    #[error("plugin/{0}: an internal look-up failed")]
    LookUp(&'static str),
    /// Too many queries are pending.
    #[error("plugin/{0}: too many queries are pending")]
    Overload(&'static str),
    /// No upstream responded.
    #[error("{0}")]
    Upstream(upstream::Error),
    /// *rewrite* has made a text from the name of the query or of a record that is not a name.
    #[error("invalid name after rewrite: {0}")]
    InvalidName(Box<str>),
    /// A plugin failed to create the answer that it is configured for; the reason.
    #[error("{0}")]
    Answer(Box<str>),
}

impl Failure {
    /// Returns the reason as one word, for log lines.
    pub const fn reason(&self) -> &'static str {
        match self {
            Failure::NoNextPlugin(_) => "no-plugin",
            Failure::TooDeep(_) => "look-ups-too-deep",
            Failure::LookUp(_) => "look-up-failed",
            Failure::Overload(_) => "overload",
            Failure::Upstream(error) => error.reason(),
            Failure::InvalidName(_) => "invalid-name",
            Failure::Answer(_) => "answer-failed",
        }
    }

    /// Adds the reason to a reply, as an extended DNS error with the upstream and its error.
    #[cold]
    fn describe(&self, reply: &mut Reply) {
        let Failure::Upstream(error) = self else { return };
        let text = ErrorText::Stored(reply.store(error.to_string().as_bytes()));
        reply.extended_error = Some(ExtendedError { code: error.extended_code(), reason: error.reason(), text });
    }
}

/// The mutable state of a query. A worker has one, and reuses it for each query.
#[derive(Debug, Default)]
pub struct State {
    /// The reply.
    pub reply: Reply,
    /// Why the query failed, if it did.
    pub failure: Option<Failure>,
    /// The reply is only a code, which the server encodes in place of the plugin.
    pub bare: bool,
    /// A plugin has changed the query, or will change the reply: the slot is of this query.
    is_rewritten: bool,
    /// This is a dry run ([`Router::explain`]), which has a state of its own.
    is_dry_run: bool,
    /// The origin of the reply, for the cache.
    pub origin: Origin,
    /// Changes of the query's flags towards an upstream. A cache asks for authentic data on behalf of all clients,
    /// whatever this client wants (RFC 6840 5.7).
    pub flag_changes: Change,
    /// The largest UDP payload size that is offered to upstreams, in bytes.
    pub max_udp: Option<u16>,
    /// A list that a plugin may use within a call, reused to avoid allocations.
    pub scratch: Vec<u64>,
    /// Notes of plugins about the query, which it keeps while it is pending.
    pub notes: Notes,
    /// The query as a plugin has changed it.
    slot: RewrittenSlot,
}

/// The origin of a reply, for the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A plugin or an upstream; it may be cached.
    #[default]
    Made,
    /// The index of the cluster: it is current, and must not be cached.
    Live,
    /// A cache.
    Cached,
}

impl State {
    /// Returns the changes of the query towards an upstream.
    pub fn query_change(&self) -> QueryChange {
        QueryChange { flags: self.flag_changes, max_udp: self.max_udp }
    }

    /// Starts to change the query for the plugins after the current one. A plugin calls this at most once for a query.
    #[inline]
    pub fn rewrite(&mut self) -> &mut Rewritten {
        self.is_rewritten = true;
        self.slot.begin()
    }

    /// Returns why there is no ordinary answer, as one word: the reason of a failure, or of the extended DNS error.
    pub fn reason(&self) -> Option<&'static str> {
        let of_reply = || self.reply.extended_error.map(|error| error.reason).filter(|reason| !reason.is_empty());
        self.failure.as_ref().map(Failure::reason).or_else(of_reply)
    }

    /// Returns whether nothing is counted, since this is a dry run ([`Plugin::explain`]).
    pub fn is_dry_run(&self) -> bool {
        self.is_dry_run
    }

    /// Returns what a plugin has made of the query, if one has changed it or will change the reply.
    pub fn rewritten(&self) -> Option<&Rewritten> {
        if self.is_rewritten { self.slot.get() } else { None }
    }

    /// Returns the reply, whether it is only a code, and what a plugin has made of the query, to change the reply.
    pub fn reply_and_rewritten(&mut self) -> Option<(&mut Reply, &mut bool, &Rewritten)> {
        let rewritten = if self.is_rewritten { self.slot.get() } else { None };
        Some((&mut self.reply, &mut self.bare, rewritten?))
    }

    /// Returns what a plugin has made of the query, for [`State::take_rewritten`]; nothing if none has changed it.
    fn give_rewritten(&mut self) -> RewrittenSlot {
        if self.is_rewritten { std::mem::take(&mut self.slot) } else { RewrittenSlot::default() }
    }

    /// Takes what a plugin has made of the query.
    fn take_rewritten(&mut self, rewritten: RewrittenSlot) {
        if rewritten.get().is_some() {
            (self.is_rewritten, self.slot) = (true, rewritten);
        }
    }

    /// Takes the reply of other plugins to the same query, with what is known of it. What is known of the query stays:
    /// the other state is not that of the client's query, and does not have what a plugin before has made of it.
    pub fn take_reply(&mut self, from: State) {
        let State { reply, failure, bare, origin, .. } = from;
        (self.reply, self.failure, self.bare, self.origin) = (reply, failure, bare, origin);
    }

    /// Returns a new state with these changes.
    pub fn with_query_change(change: QueryChange) -> State {
        State { flag_changes: change.flags, max_udp: change.max_udp, ..State::default() }
    }

    /// Resets the state.
    pub fn clear(&mut self) {
        self.reply.clear();
        self.forget_all_but_reply();
    }

    /// Resets everything but the reply, which has just been parsed.
    pub fn forget_all_but_reply(&mut self) {
        self.failure = None;
        self.bare = false;
        self.is_rewritten = false;
        self.origin = Origin::Made;
        self.flag_changes = Change::default();
        self.max_udp = None;
        self.notes.clear();
        // An unusually large reply must not hold memory forever.
        self.scratch.clear();
        self.scratch.shrink_to(4 * 1024);
    }
}

/// What an exchange has of the internal look-up that it is part of. The default is that of a query of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LookUp {
    /// When the query of the client was received; `None` for that query itself.
    pub(crate) started: Option<Instant>,
    /// The nesting of look-ups; 0 for a query of a client.
    pub(crate) depth: u8,
    /// The reply may be stored for other clients ([`Plugin::stores_replies`]).
    pub(crate) is_shared: bool,
    /// One of the look-ups is for addresses that a plugin translates ([`Exchange::resolve_to_translate`]).
    pub(crate) is_translated: bool,
}

/// A query in a chain.
pub struct Exchange<'a> {
    /// The query; for plugins after one that has changed it, the changed one.
    pub query: &'a Query<'a>,
    /// The query as received.
    pub received: &'a Query<'a>,
    /// The client.
    pub client: Client,
    /// The current time, the same for a batch of queries.
    pub now: Instant,
    /// When the query was received; earlier than `now` if it was pending.
    pub started: Instant,
    /// The mutable state.
    pub state: &'a mut State,
    /// What it has of the internal look-up that it is part of.
    pub(crate) look_up: LookUp,
    /// The index of the first plugin that gets the reply: 0 for a query of a client, the plugin that requested it for a
    /// refresh, and the plugin after the one that has changed the query for a changed query.
    pub(crate) first: usize,
    /// This is a refresh that the plugin `first` requested.
    pub(crate) refresh: bool,
    /// The index of the current plugin.
    pub(crate) at: usize,
    /// The router of the listener, for internal look-ups.
    pub(crate) router: &'a Arc<Router>,
    /// The chain of the server block.
    pub(crate) chain: &'a Chain,
    /// The index of the chain in the router.
    pub(crate) block: usize,
}

impl<'a> Exchange<'a> {
    /// Returns the question.
    pub fn question(&self) -> &'a Question {
        &self.query.question
    }

    /// Returns the reply that is being built.
    pub fn reply(&mut self) -> &mut Reply {
        &mut self.state.reply
    }

    /// Returns the nesting of internal look-ups; 0 for a query of a client.
    pub fn depth(&self) -> u8 {
        self.look_up.depth
    }

    /// Returns this time, or that at which the query is given up if it is earlier.
    pub fn no_later(&self, time: Instant) -> Instant {
        self.deadline().map_or(time, |deadline| time.min(deadline))
    }

    /// Returns the time at which the query is given up, if a plugin of the chain limits it ([`Plugin::time_limit`]).
    pub fn deadline(&self) -> Option<Instant> {
        self.started.checked_add(self.chain.time_limit()?)
    }

    /// Returns whether this is an internal look-up whose reply may be stored for other clients, so that it must not
    /// depend on the client.
    pub fn is_shared(&self) -> bool {
        self.look_up.is_shared
    }

    /// Returns the search list of the client that the plugin with this name knows ([`Plugin::search_list`]).
    pub fn search_list(&self, plugin: &str) -> Option<Vec<NameBuf>> {
        let mut named = self.chain.plugins().iter().filter(|known| known.name() == plugin);
        named.find_map(|known| known.search_list(self))
    }

    /// Responds with a bare code, and records the reason for *errors*. The client gets it as an extended DNS error.
    pub fn fail(&mut self, rcode: Rcode, failure: Failure) -> Step {
        let step = self.refuse(rcode);
        failure.describe(&mut self.state.reply);
        self.state.failure = Some(failure);
        step
    }

    /// Responds with a bare code.
    pub fn refuse(&mut self, rcode: Rcode) -> Step {
        self.state.reply.clear();
        self.state.reply.rcode = rcode;
        self.state.bare = true;
        Step::Answered
    }

    /// Starts an internal look-up: a query to this server itself, through zone selection and all plugins, with the EDNS
    /// of this query.
    pub fn resolve(&self, name: Name<'_>, qtype: Type) -> Inner {
        pending::resolve(self, name, qtype, self.look_up.is_translated)
    }

    /// Starts an internal look-up of addresses that the current plugin translates. Plugins that translate the same way
    /// leave its reply, and those of look-ups within it, as they are ([`Exchange::is_translated`]): two that translate
    /// in opposite directions would otherwise start each other's look-ups without an end.
    pub fn resolve_to_translate(&self, name: Name<'_>, qtype: Type) -> Inner {
        pending::resolve(self, name, qtype, true)
    }

    /// Returns whether this is a look-up of addresses to translate, or one within it.
    pub fn is_translated(&self) -> bool {
        self.look_up.is_translated
    }

    /// Returns what makes internal look-ups for this query while it is pending.
    pub fn resolver(&self) -> Resolver {
        Resolver::new(self)
    }

    /// Runs the plugins after the current one again, and passes the reply to the current plugin only. It is not sent,
    /// logged or counted. `transport` is the transport that those plugins see. The future has to be awaited, or passed
    /// to [`Exchange::spawn`].
    pub fn refresh(&self, transport: Transport) -> pending::BoxFuture<State> {
        pending::refresh(self, transport)
    }

    /// Returns whether this is a refresh that the current plugin requested, so that no client waits for the reply.
    pub fn is_refresh(&self) -> bool {
        self.refresh && self.first == self.at
    }

    /// Returns whether a plugin after the current one answers the question itself ([`Plugin::claims`]).
    pub fn is_claimed(&self) -> bool {
        self.chain.plugins()[self.at + 1..].iter().any(|plugin| plugin.claims(self.question()))
    }

    /// Runs a future in the background. It is dropped if too many are running.
    pub fn spawn(&self, future: pending::BoxFuture<()>) {
        self.surroundings().spawn(future);
    }

    /// Returns the clock and timers of the process, for a future of a plugin.
    pub fn surroundings(&self) -> &Surroundings {
        self.router.surroundings()
    }

    /// Returns whether the server block has *metadata*.
    pub fn has_metadata(&self) -> bool {
        self.chain.metadata().is_some()
    }

    /// Returns the value of a metadata label, if *metadata* covers the name and a plugin of this chain defines the
    /// label. Metadata is about the query as received.
    pub fn metadata(&self, label: &str) -> Option<String> {
        let name = self.received.question.name();
        if !self.chain.metadata()?.iter().any(|zone| name.is_within(zone.as_name())) {
            return None;
        }
        self.chain.plugins().iter().find_map(|plugin| plugin.metadata(self, label))
    }
}
