//! A flat list of plugins in their fixed order, and how it runs.

use std::sync::Arc;

use super::{Exchange, Failure, Plugin, Sent, Step};
use crate::chain::pending::{Continue, Wait};
use crate::upstream;
use crate::wire::{NameBuf, Rcode};

/// The plugins of a server block.
#[derive(Clone, Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
    /// The zones for whose names plugins may show what they know of a query; `None` without *metadata*.
    metadata: Option<Vec<NameBuf>>,
}

/// How a run ended. Its tag is a number of its own, since it is looked at for each query.
#[repr(u8)]
pub enum Outcome {
    /// The reply is in the exchange.
    Answered,
    /// Nothing is said.
    Drop,
    /// A plugin waits; take the chain up there when its future has ended.
    Pending {
        /// Where to go on.
        at: Resume,
        /// What is waited for.
        wait: Wait,
    },
}

/// Where a chain is taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// This plugin's `query` waits.
    Query(usize),
    /// This plugin's `reply` waits.
    Reply(usize),
}

impl Chain {
    /// A chain of these plugins, in this order.
    pub fn new(plugins: Vec<Arc<dyn Plugin>>) -> Chain {
        Chain { plugins, metadata: None }
    }

    /// The same with *metadata* for names in these zones.
    pub fn with_metadata(self, zones: Vec<NameBuf>) -> Chain {
        Chain { metadata: Some(zones), ..self }
    }

    /// The same with one more plugin, which becomes the `at`th.
    pub fn with_plugin(mut self, at: usize, plugin: Arc<dyn Plugin>) -> Chain {
        self.plugins.insert(at, plugin);
        self
    }

    /// The zones of *metadata*, where it is on.
    pub(super) fn metadata(&self) -> Option<&[NameBuf]> {
        self.metadata.as_deref()
    }

    /// Its plugins.
    pub fn plugins(&self) -> &[Arc<dyn Plugin>] {
        &self.plugins
    }

    /// Runs a query through the whole chain. Who gets [`Outcome::Drop`] tells [`Chain::dropped`].
    pub(super) fn run(&self, exchange: &mut Exchange<'_>) -> Outcome {
        self.queries(0, exchange)
    }

    /// Goes on where a plugin waited; `outcome` is what its future has made of it.
    pub(super) fn resume(&self, at: Resume, outcome: Continue, exchange: &mut Exchange<'_>) -> Outcome {
        let outcome = match (at, outcome) {
            (_, Continue::Drop) => Outcome::Drop,
            (Resume::Query(at), Continue::Next) => self.queries(at + 1, exchange),
            (Resume::Query(at), Continue::Answered) => self.replies(at + 1, exchange),
            (Resume::Reply(at), Continue::Next | Continue::Answered) => self.replies(at, exchange),
        };
        if let Outcome::Drop = outcome {
            self.dropped(exchange);
        }
        outcome
    }

    /// Goes on where a plugin waited for another server's answer, which the reply holds where there is one.
    pub(super) fn answered(
        &self, at: Resume, outcome: Result<(), upstream::Error>, exchange: &mut Exchange<'_>,
    ) -> Outcome {
        let outcome = match at {
            Resume::Reply(at) => self.replies(at, exchange),
            Resume::Query(at) => {
                exchange.at = at;
                match self.plugins[at].answered(exchange, outcome) {
                    Step::Next => self.queries(at + 1, exchange),
                    Step::Answered => self.replies(at + 1, exchange),
                    Step::Drop => Outcome::Drop,
                    Step::Pending(wait) => Outcome::Pending { at: Resume::Query(at), wait },
                }
            }
        };
        if let Outcome::Drop = outcome {
            self.dropped(exchange);
        }
        outcome
    }

    /// Asks the plugins behind the one that refreshes, and shows that one the reply.
    pub(super) fn behind(&self, exchange: &mut Exchange<'_>) -> Outcome {
        self.queries(exchange.refresher.map_or(0, |refresher| refresher + 1), exchange)
    }

    /// Tells every plugin what was sent, last to first, so that *log* writes before *errors*, as in CoreDNS.
    pub(super) fn sent(&self, exchange: &Exchange<'_>, sent: &Sent) {
        for plugin in self.plugins.iter().rev() {
            plugin.sent(exchange, sent);
        }
    }

    /// Tells every plugin that nothing is said.
    pub(super) fn dropped(&self, exchange: &Exchange<'_>) {
        // An inner look-up is no query of a client's.
        if exchange.depth == 0 {
            self.plugins.iter().rev().for_each(|plugin| plugin.dropped(exchange));
        }
    }

    /// Asks the plugins from `from` on.
    fn queries(&self, from: usize, exchange: &mut Exchange<'_>) -> Outcome {
        for at in from..self.plugins.len() {
            let plugin = &self.plugins[at];
            exchange.at = at;
            match plugin.query(exchange) {
                Step::Next => {}
                Step::Answered => return self.replies(at + 1, exchange),
                Step::Drop => return Outcome::Drop,
                Step::Pending(wait) => return Outcome::Pending { at: Resume::Query(at), wait },
            }
        }
        match self.plugins.last() {
            // CoreDNS `plugin.NextOrFailure`.
            Some(last) => exchange.fail(Rcode::SERVFAIL, Failure::NoNextPlugin(last.name())),
            // A block without plugins serves nothing.
            None => exchange.refuse(Rcode::REFUSED),
        };
        self.replies(self.plugins.len(), exchange)
    }

    /// Shows the reply to the plugins before `end` that the query concerns, last to first.
    fn replies(&self, end: usize, exchange: &mut Exchange<'_>) -> Outcome {
        for (at, plugin) in self.plugins[..end].iter().enumerate().skip(exchange.refresher.unwrap_or(0)).rev() {
            exchange.at = at;
            if let Some(wait) = plugin.reply(exchange) {
                return Outcome::Pending { at: Resume::Reply(at), wait };
            }
        }
        Outcome::Answered
    }
}
