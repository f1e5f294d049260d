//! The chain: the plugins of a server block in their fixed order.

use std::sync::Arc;
use std::time::Duration;

use super::{Calls, Exchange, Failure, Plugin, Sent, Step};
use crate::chain::pending::{Continue, Wait};
use crate::upstream;
use crate::wire::{NameBuf, Query, Rcode};

/// The plugins of a server block.
#[derive(Clone, Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
    /// The plugins that each step of a query calls.
    queried: PluginSet,
    replied: PluginSet,
    sent: PluginSet,
    /// The indexes of the plugins that select the queries of the block.
    filters: Vec<usize>,
    /// The zones in which metadata is available; `None` without *metadata*.
    metadata: Option<Vec<NameBuf>>,
    /// The server block for people, with its place in the Corefile.
    place: Option<Arc<str>>,
    /// The time after which a query is given up.
    time_limit: Option<Duration>,
}

/// The plugins of a chain that need a call. A chain may have any number of plugins: each stanza of *forward* is one.
#[derive(Clone, Default)]
struct PluginSet {
    /// For each index, the first plugin from it on.
    next: Box<[Option<usize>]>,
    /// For each index, the last plugin before it.
    previous: Box<[Option<usize>]>,
}

impl PluginSet {
    /// Returns the plugins that need a call.
    fn of(plugins: &[Arc<dyn Plugin>], needs: impl Fn(Calls) -> bool) -> PluginSet {
        let mut next = vec![None; plugins.len() + 1];
        let mut previous = next.clone();
        for at in 0..plugins.len() {
            previous[at + 1] = if needs(plugins[at].calls()) { Some(at) } else { previous[at] };
        }
        for at in (0..plugins.len()).rev() {
            next[at] = previous[at + 1].filter(|needing| *needing == at).or(next[at + 1]);
        }
        PluginSet { next: next.into(), previous: previous.into() }
    }

    /// Returns the first plugin from an index on.
    #[inline(always)]
    fn first_from(&self, at: usize) -> Option<usize> {
        *self.next.get(at)?
    }

    /// Returns the last plugin before an index.
    #[inline(always)]
    fn last_before(&self, end: usize) -> Option<usize> {
        *self.previous.get(end)?
    }
}

/// The result of running a chain. The tag is a separate number, since it is read for each query.
#[repr(u8)]
pub(super) enum Outcome {
    /// The reply is in the exchange.
    Answered,
    /// There is no response.
    Drop,
    /// A plugin waits; resume there when the wait is over.
    Pending {
        /// Where to resume.
        at: Resume,
        /// What the plugin waits for.
        wait: Wait,
    },
}

/// Where a chain resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// This plugin's `query` waits.
    Query(usize),
    /// This plugin's `reply` waits.
    Reply(usize),
    /// The `query` of this plugin waits, which has got a changed query.
    RewrittenQuery(usize),
    /// The `reply` of this plugin waits, which has got a changed query.
    RewrittenReply(usize),
}

impl Resume {
    /// Returns whether the plugin waits before it has a reply, or to replace one of the cache.
    pub(super) fn is_query(self) -> bool {
        matches!(self, Resume::Query(_) | Resume::RewrittenQuery(_))
    }

    /// Returns the same place among the plugins that have got a changed query.
    fn of_rewritten(self) -> Resume {
        match self {
            Resume::Query(at) | Resume::RewrittenQuery(at) => Resume::RewrittenQuery(at),
            Resume::Reply(at) | Resume::RewrittenReply(at) => Resume::RewrittenReply(at),
        }
    }
}

impl Chain {
    /// Creates a chain of plugins, in this order.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Chain {
        let time_limit = plugins.iter().find_map(|plugin| plugin.time_limit());
        let queried = PluginSet::of(&plugins, |calls| calls.query);
        let replied = PluginSet::of(&plugins, |calls| calls.reply);
        let sent = PluginSet::of(&plugins, |calls| calls.sent);
        Chain {
            queried,
            replied,
            sent,
            filters: filters_of(&plugins),
            plugins,
            metadata: None,
            place: None,
            time_limit,
        }
    }

    /// Enables metadata for names in these zones.
    pub fn with_metadata(self, zones: Vec<NameBuf>) -> Chain {
        Chain { metadata: Some(zones), ..self }
    }

    /// Sets the text that describes the server block to people.
    pub fn with_place(self, place: &str) -> Chain {
        Chain { place: Some(place.into()), ..self }
    }

    /// Returns the text that describes the server block.
    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Returns the time after which a query is given up, if a plugin limits it.
    pub(super) fn time_limit(&self) -> Option<Duration> {
        self.time_limit
    }

    /// Returns the zones of *metadata*, if the block has it.
    pub(super) fn metadata(&self) -> Option<&[NameBuf]> {
        self.metadata.as_deref()
    }

    /// Returns the plugins.
    pub fn plugins(&self) -> &[Arc<dyn Plugin>] {
        &self.plugins
    }

    /// Whether some plugin selects the queries of the block.
    pub(super) fn is_filtered(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Whether the block gets a query.
    pub(super) fn admits(&self, exchange: &Exchange<'_>) -> bool {
        self.filters.iter().all(|at| self.plugins[*at].filter().is_none_or(|filter| filter.admits(exchange)))
    }

    /// Runs a query through the whole chain. After [`Outcome::Drop`] the caller has to call [`Chain::dropped`].
    pub(super) fn run(&self, exchange: &mut Exchange<'_>) -> Outcome {
        self.queries(0, exchange)
    }

    /// Resumes after a plugin's [`super::Work`], which ended with `outcome`.
    pub(super) fn resume(&self, at: Resume, outcome: Continue, exchange: &mut Exchange<'_>) -> Outcome {
        let outcome = match (at, outcome) {
            (_, Continue::Drop) => Outcome::Drop,
            (Resume::Query(at), Continue::Next) => self.queries(at + 1, exchange),
            (Resume::Query(at), Continue::Answered) => self.replies(at + 1, exchange),
            (Resume::Reply(at), Continue::Next | Continue::Answered) => self.replies(at, exchange),
            (Resume::RewrittenQuery(at), Continue::Next) => {
                self.rewritten(exchange, |chain, inner| chain.queries(at + 1, inner))
            }
            (Resume::RewrittenQuery(at), Continue::Answered) => {
                self.rewritten(exchange, |chain, inner| chain.replies(at + 1, inner))
            }
            (Resume::RewrittenReply(at), Continue::Next | Continue::Answered) => {
                self.rewritten(exchange, |chain, inner| chain.replies(at, inner))
            }
        };
        if let Outcome::Drop = outcome {
            self.dropped(exchange);
        }
        outcome
    }

    /// Resumes after a plugin waited for an upstream. If `outcome` is `Ok`, the reply is in the exchange.
    pub(super) fn answered(
        &self, at: Resume, outcome: Result<(), upstream::Error>, exchange: &mut Exchange<'_>,
    ) -> Outcome {
        let outcome = match at {
            Resume::Reply(at) => self.replies(at, exchange),
            Resume::Query(at) => self.answered_at(at, outcome, exchange),
            Resume::RewrittenReply(at) => self.rewritten(exchange, |chain, inner| chain.replies(at, inner)),
            Resume::RewrittenQuery(at) => {
                self.rewritten(exchange, |chain, inner| chain.answered_at(at, outcome, inner))
            }
        };
        if let Outcome::Drop = outcome {
            self.dropped(exchange);
        }
        outcome
    }

    /// Calls [`Plugin::answered`] of a plugin, and continues.
    fn answered_at(&self, at: usize, outcome: Result<(), upstream::Error>, exchange: &mut Exchange<'_>) -> Outcome {
        exchange.at = at;
        match self.plugins[at].answered(exchange, outcome) {
            Step::Next => self.queries(at + 1, exchange),
            Step::Answered => self.replies(at + 1, exchange),
            Step::Drop => Outcome::Drop,
            Step::Pending(wait) => Outcome::Pending { at: Resume::Query(at), wait },
            Step::Rewritten => self.rewritten_by(at, exchange),
        }
    }

    /// Continues with the query that the plugin `by` has changed.
    #[inline(never)]
    fn rewritten_by(&self, by: usize, exchange: &mut Exchange<'_>) -> Outcome {
        if let Some(rewritten) = exchange.state.slot.get_mut() {
            rewritten.by = by;
        }
        self.rewritten(exchange, |chain, inner| chain.queries(by + 1, inner))
    }

    /// Runs plugins that get a changed query, and then the replies of the one that has changed it and of those before.
    pub(super) fn rewritten(
        &self, exchange: &mut Exchange<'_>, run: impl FnOnce(&Chain, &mut Exchange<'_>) -> Outcome,
    ) -> Outcome {
        // It is taken out of the slot while its packet is borrowed, and put back for the plugin's reply.
        let Some(rewritten) = exchange.state.slot.lend() else { return self.replies(self.plugins.len(), exchange) };
        let mut query = Query::unread(&rewritten.packet);
        if rewritten.is_name_alone {
            query.read_changed(rewritten.name_len, exchange.query);
        } else if query.read().is_err() {
            debug_assert!(false, "a plugin has made a packet that is no query");
            exchange.refuse(Rcode::SERVFAIL);
            return self.replies(rewritten.by, exchange);
        }
        let first = rewritten.by + 1;
        let Exchange { received, client, now, started, look_up, refresh, router, chain, block, .. } = *exchange;
        let state = &mut *exchange.state;
        let query = &query;
        let mut inner = Exchange {
            query,
            received,
            client,
            now,
            started,
            state,
            look_up,
            first,
            refresh,
            at: first,
            router,
            chain,
            block,
        };
        let outcome = run(self, &mut inner);
        exchange.state.slot.take_back(rewritten);
        match outcome {
            Outcome::Answered => self.replies(first, exchange),
            Outcome::Drop => Outcome::Drop,
            Outcome::Pending { at, wait } => Outcome::Pending { at: at.of_rewritten(), wait },
        }
    }

    /// Runs the plugins from the first one that gets the reply on.
    pub(super) fn rest(&self, exchange: &mut Exchange<'_>) -> Outcome {
        self.queries(exchange.first, exchange)
    }

    /// Runs the plugins after the one that requested a refresh, and passes the reply to that one.
    pub(super) fn refresh(&self, exchange: &mut Exchange<'_>) -> Outcome {
        self.queries(exchange.first + 1, exchange)
    }

    /// Calls [`Plugin::sent`] of every plugin that needs it, last to first, so that *log* writes before *errors*, as in
    /// CoreDNS.
    pub(super) fn sent(&self, exchange: &Exchange<'_>, sent: &Sent<'_>) {
        let mut end = self.plugins.len();
        while let Some(at) = self.sent.last_before(end) {
            self.plugins[at].sent(exchange, sent);
            end = at;
        }
    }

    /// Calls [`Plugin::dropped`] of every plugin.
    pub(super) fn dropped(&self, exchange: &Exchange<'_>) {
        // An internal look-up is not a query of a client.
        if exchange.look_up.depth == 0 {
            self.plugins.iter().rev().for_each(|plugin| plugin.dropped(exchange));
            exchange.router.tap(|| exchange.ended(None));
        }
    }

    /// Calls [`Plugin::query`] of the plugins from `from` on.
    fn queries(&self, mut from: usize, exchange: &mut Exchange<'_>) -> Outcome {
        while let Some(at) = self.queried.first_from(from) {
            exchange.at = at;
            match self.plugins[at].query(exchange) {
                Step::Next => from = at + 1,
                Step::Answered => return self.replies(at + 1, exchange),
                Step::Drop => return Outcome::Drop,
                Step::Pending(wait) => return Outcome::Pending { at: Resume::Query(at), wait },
                Step::Rewritten => return self.rewritten_by(at, exchange),
            }
        }
        match self.plugins.last() {
            // CoreDNS `plugin.NextOrFailure`.
            Some(last) => exchange.fail(Rcode::SERVFAIL, Failure::NoNextPlugin(last.name())),
            // A block without plugins refuses everything.
            None => exchange.refuse(Rcode::REFUSED),
        };
        self.replies(self.plugins.len(), exchange)
    }

    /// Calls [`Plugin::reply`] of the plugins before `end`, last to first, down to the first one that gets the reply.
    fn replies(&self, mut end: usize, exchange: &mut Exchange<'_>) -> Outcome {
        while let Some(at) = self.replied.last_before(end).filter(|at| *at >= exchange.first) {
            exchange.at = at;
            if let Some(wait) = self.plugins[at].reply(exchange) {
                return Outcome::Pending { at: Resume::Reply(at), wait };
            }
            end = at;
        }
        Outcome::Answered
    }
}

/// Returns the indexes of the plugins that select the queries of their block.
fn filters_of(plugins: &[Arc<dyn Plugin>]) -> Vec<usize> {
    (0..plugins.len()).filter(|at| plugins[*at].filter().is_some()).collect()
}
