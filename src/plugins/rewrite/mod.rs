//! *rewrite*: changes queries for the plugins after it, and their replies back (CoreDNS `plugin/rewrite`).
//!
//! ```text
//! query ─► rules, first to last ─► Draft ─► the changed query ─► the plugins after it
//! reply ◄─ rules that apply, last to first (reply.rs) ◄───────────── their reply
//! ```
//!
//! The client gets its own question back, in its letter case. The changed query does not select another server block.

mod cname;
mod config;
mod draft;
mod edns0;
mod groups;
mod labels;
mod matching;
mod name;
mod opt;
mod order;
mod question;
mod rcode;
mod replacement;
mod reply;
mod rule;
#[cfg(test)]
mod tests;
mod ttl;
mod words;

use std::sync::Arc;

use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Calls, Exchange, ExplainedReply, Failure, Inner, Plugin, State, Step, Wait, Work};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::wire::{Question, Rcode, Reply, Type};
use draft::{Draft, InvalidName};
use labels::LabelMatch;
use order::RuleOrder;
use reply::{ChangedTarget, ClientQuery, ReplyChange, change_question_alone};
use rule::{Rule, RuleKind};

pub use config::{Config, parse};

/// The plugin.
pub struct Rewrite {
    rules: Arc<[Rule]>,
    order: RuleOrder,
    /// A rule changes targets of CNAMEs.
    has_cname: bool,
    /// The first rule is about whole labels of names, and there are few rules: they are compared with names in wire
    /// form first.
    has_labels_alone: bool,
    /// The codes of EDNS options that `edns0 local` rules name: a response of this server repeats those of the query.
    echoed: Vec<u16>,
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(Rewrite::new(self));
        Ok(())
    }
}

impl Rewrite {
    /// Creates the plugin of a server block.
    pub fn new(config: &Config) -> Rewrite {
        let codes = config.rules.iter().filter_map(|rule| match &rule.kind {
            RuleKind::Edns(rule) => rule.echoed(),
            _ => None,
        });
        let mut echoed: Vec<u16> = codes.collect();
        echoed.sort_unstable();
        echoed.dedup();
        let has_cname = config.rules.iter().any(|rule| matches!(rule.kind, RuleKind::Cname(_)));
        let order = RuleOrder::new(&config.rules);
        let is_first_of_labels =
            matches!(config.rules.first(), Some(Rule { kind: RuleKind::Name(name), .. }) if name.labels.is_some());
        let has_labels_alone = is_first_of_labels && echoed.is_empty() && !order.is_by_name();
        Rewrite { rules: config.rules.clone(), order, has_cname, has_labels_alone, echoed }
    }
}

impl Plugin for Rewrite {
    fn name(&self) -> &'static str {
        "rewrite"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, sent: false }
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.apply_labels(exchange).unwrap_or_else(|| self.apply_rules(exchange))
    }

    fn explain_reply(&self, exchange: &mut Exchange<'_>, lines: &mut Vec<String>) -> ExplainedReply {
        let query = exchange.query;
        let (question, has_edns) = (&query.question, query.edns.is_some());
        let Ok(Some((target, qtype))) = self.find_target(exchange.state, question, has_edns) else {
            // Nothing is looked up.
            self.reply(exchange);
            return ExplainedReply::Known;
        };
        let name = target.looked_up.name();
        let Some(inner) = exchange.explain_look_up(name, qtype, exchange.is_translated()) else {
            lines.push(format!("looks up {name} {qtype}, the new target of the alias, which a dry run does not know"));
            return ExplainedReply::Unknown;
        };
        lines.push(format!("looks up {name} {qtype}, the new target of the alias"));
        change(&self.rules, question, has_edns, exchange.state, Some((&target, &inner)));
        ExplainedReply::Known
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        if self.has_cname {
            return self.turn_back_with_target(exchange);
        }
        self.turn_back(exchange);
        None
    }
}

impl Rewrite {
    /// Applies the first rule that matches, if it is about whole labels of names and is the last one to apply, and no
    /// rule before it needs more than the name in wire form. Returns `None` without a change otherwise.
    fn apply_labels(&self, exchange: &mut Exchange<'_>) -> Option<Step> {
        if !self.has_labels_alone {
            return None;
        }
        let query = exchange.query;
        for (number, rule) in self.rules.iter().enumerate() {
            let RuleKind::Name(name) = &rule.kind else { return None };
            let change = name.labels.as_ref()?;
            match change.find(query.question.name()) {
                LabelMatch::No => {}
                LabelMatch::AsText => return None,
                LabelMatch::At(at) => {
                    if !rule.stops {
                        return None;
                    }
                    let parts = change.parts(query.question.name().as_wire(), at)?;
                    let rewritten = exchange.state.rewrite();
                    rewritten.name_len = query.write_name(parts, &mut rewritten.packet);
                    rewritten.rules.push(number as u32);
                    (rewritten.is_name_alone, rewritten.writes_codes) = (true, true);
                    return Some(Step::Rewritten);
                }
            }
        }
        Some(Step::Next)
    }

    /// Applies all rules, in their order.
    #[inline(never)]
    fn apply_rules(&self, exchange: &mut Exchange<'_>) -> Step {
        let mut draft = Draft::new(exchange.query);
        let mut from = 0;
        while let Some(number) = self.order.next(from, &mut draft) {
            from = number + 1;
            let rule = &self.rules[number];
            match rule.kind.apply(&mut draft, exchange) {
                Ok(false) => {}
                Ok(true) => {
                    draft.note_rule(number);
                    if rule.stops {
                        draft.is_stopped = true;
                        break;
                    }
                }
                Err(InvalidName(name)) => return exchange.fail(Rcode::SERVFAIL, Failure::InvalidName(name)),
            }
        }
        let echoes = !self.echoed.is_empty() && exchange.query.edns.is_some();
        if !draft.is_noted() && !echoes {
            return Step::Next;
        }
        draft.write(&self.echoed, exchange.state.rewrite());
        if draft.is_changed() { Step::Rewritten } else { Step::Next }
    }

    /// Changes the reply back. Without a rewritten query, the rules themselves have failed.
    #[inline(always)]
    fn turn_back(&self, exchange: &mut Exchange<'_>) {
        let question = &exchange.query.question;
        let Some((reply, bare, rewritten)) = exchange.state.reply_and_rewritten() else { return };
        if change_question_alone(&self.rules, rewritten, question, reply) {
            *bare &= !rewritten.writes_codes;
        } else {
            let has_edns = exchange.query.edns.is_some();
            change(&self.rules, &exchange.query.question, has_edns, exchange.state, None);
        }
    }

    /// Changes the reply back, with rules that change targets of CNAMEs.
    #[inline(never)]
    fn turn_back_with_target(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let query = exchange.query;
        match self.find_target(exchange.state, &query.question, query.edns.is_some()) {
            Ok(None) => {
                self.turn_back(exchange);
                None
            }
            Ok(Some((target, qtype))) => self.look_up(exchange, target, qtype),
            Err(InvalidName(name)) => {
                exchange.fail(Rcode::SERVFAIL, Failure::InvalidName(name));
                None
            }
        }
    }

    /// Finds the CNAME whose target a rule changes, and the type that its new target is looked up with.
    fn find_target(
        &self, state: &State, question: &Question, has_edns: bool,
    ) -> Result<Option<(ChangedTarget, Type)>, InvalidName> {
        let Some(rewritten) = state.rewritten() else { return Ok(None) };
        let client = ClientQuery { name: question.name(), has_edns };
        let target = ReplyChange::new(&self.rules, rewritten, client).changed_target(&state.reply)?;
        let qtype = || rewritten.query().map_or(question.qtype, |query| query.question.qtype);
        Ok(target.map(|target| (target, qtype())))
    }

    /// Looks up the new target of a CNAME, and then changes the reply.
    fn look_up(&self, exchange: &mut Exchange<'_>, target: ChangedTarget, qtype: Type) -> Option<Wait> {
        let (question, has_edns) = (&exchange.query.question, exchange.query.edns.is_some());
        match exchange.resolve(target.looked_up.name(), qtype) {
            Inner::Done(inner) => {
                change(&self.rules, question, has_edns, exchange.state, Some((&target, &inner)));
                None
            }
            // The rules lead in a circle.
            Inner::None => {
                exchange.fail(Rcode::SERVFAIL, Failure::TooDeep("rewrite"));
                None
            }
            Inner::Pending(inner) => {
                let (rules, question) = (self.rules.clone(), Box::new(question.clone()));
                let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                    Box::pin(async move {
                        let inner = inner.await;
                        change(&rules, &question, has_edns, &mut state, Some((&target, &inner)));
                        (state, Continue::Answered)
                    })
                };
                let future = Box::new(future);
                Some(Wait::Work(Work { future, overload: Rcode::SERVFAIL, plugin: "rewrite" }))
            }
        }
    }
}

/// Changes a reply back, whatever the rules.
#[inline(never)]
fn change(
    rules: &[Rule], question: &Question, has_edns: bool, state: &mut State, target: Option<(&ChangedTarget, &Reply)>,
) {
    if target.is_some_and(|(_, inner)| inner.rcode == Rcode::SERVFAIL) {
        // Also where the rules lead in a circle: the innermost look-up fails.
        state.reply.clear();
        state.reply.rcode = Rcode::SERVFAIL;
        (state.bare, state.failure) = (true, Some(Failure::LookUp("rewrite")));
        return;
    }
    let Some((reply, bare, rewritten)) = state.reply_and_rewritten() else { return };
    let change = ReplyChange::new(rules, rewritten, ClientQuery { name: question.name(), has_edns });
    if let Err(InvalidName(name)) = change.apply(reply, bare, target) {
        reply.clear();
        reply.rcode = Rcode::SERVFAIL;
        (state.bare, state.failure) = (true, Some(Failure::InvalidName(name)));
    }
}
