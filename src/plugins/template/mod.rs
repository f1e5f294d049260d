//! *template*: answers with records that templates write (CoreDNS `plugin/template`).
//!
//! ```text
//! name ─ zone, class, type ─ match ─ var, expr ─► Data ─ language ─► text ─ wire::presentation ─► record
//! ```
//!
//! A template runs for each query; `language` limits its cost. If a template fails or writes no valid record, the query
//! gets SERVFAIL and is counted, and *errors* logs the reason.

mod config;
mod counts;
mod data;
pub mod language;
mod message;
mod prepared;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Exchange, ExplainNotes, Explained, Failure, Inner, Plugin, State, Step, TraceDenial, Wait, Work};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::plugins::expression;
use crate::telemetry::metrics::BlockLabels;
use crate::wire::name::NameText;
use crate::wire::presentation::add_record;
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{Class, Name, NameBuf, Question, Rcode, Rdata, Record, Reply, Section, Type};

pub use config::{Config, TemplateStanza, parse};
pub use counts::TemplateCounters;
use counts::TemplateMatches;
use data::{Data, Matched};
use language::TemplateValue;
use message::QueryMessage;
use prepared::{PreparedRecord, PreparedValues};

/// The initial capacity for the text of a record; most are shorter.
const USUAL_RECORD: usize = 128;

/// The plugin, for a block on one socket.
pub struct Template {
    config: Arc<Config>,
    /// What each stanza needs besides.
    stanzas: Vec<StanzaState>,
}

/// What a stanza needs besides its configuration.
struct StanzaState {
    zones: Vec<TemplateZone>,
    /// The records, if all of them can be written without running their templates.
    prepared: Option<Box<[PreparedRecord]>>,
}

/// A zone of a stanza.
struct TemplateZone {
    name: NameBuf,
    /// In presentation form.
    text: Box<str>,
    counts: Arc<TemplateMatches>,
}

/// The reason for no answer.
enum Unmade {
    /// No pattern matches, or a condition is false. `fallthrough` decides whether the query continues.
    NoMatch,
    /// An expression has no value.
    Failed,
}

/// A CNAME whose target is looked up: the index after it in the reply's records, and the target.
type Alias = (usize, NameBuf);

impl Setting for Config {
    fn ended_zones(&self) -> Vec<NameBuf> {
        let all = |stanza: &&TemplateStanza| {
            matches!(stanza.class, Class::IN | Class::ANY) && stanza.rtype == Type::ANY && stanza.answers_all()
        };
        self.stanzas.iter().filter(all).flat_map(|stanza| stanza.zones.iter().cloned()).collect()
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let (config, counters) = (Arc::new(self.clone()), block.resources().metrics.get::<TemplateCounters>());
        block.plugin_per_listener(move |listener| Template::new(config.clone(), &counters, listener.labels));
        Ok(())
    }
}

impl Template {
    /// Creates the plugin of these stanzas.
    pub fn new(config: Arc<Config>, counts: &TemplateCounters, labels: &BlockLabels) -> Template {
        let zone = |name: &NameBuf| {
            let text = name.to_lower().to_string();
            TemplateZone { counts: counts.counts(labels, &text), name: name.clone(), text: text.into() }
        };
        let state = |stanza: &TemplateStanza| {
            let prepared = |(section, template): &(_, _)| PreparedRecord::of(*section, template, &stanza.patterns);
            // A condition or variable may refer to the whole query.
            let has_expressions = !stanza.variables.is_empty() || !stanza.conditions.is_empty();
            let prepared = if has_expressions { None } else { stanza.records.iter().map(prepared).collect() };
            StanzaState { zones: stanza.zones.iter().map(zone).collect(), prepared }
        };
        let stanzas = config.stanzas.iter().map(state).collect();
        Template { config, stanzas }
    }

    /// Answers with a stanza. Returns `None` if the next stanza decides.
    fn try_stanza(&self, stanza: &TemplateStanza, state: &StanzaState, exchange: &mut Exchange<'_>) -> Option<Step> {
        let question = exchange.question();
        let fits = state.zones.iter().filter(|zone| question.name().is_within(zone.name.as_name()));
        // The longest zone, as in CoreDNS `plugin.Zones.Matches`.
        let zone = fits.max_by_key(|zone| zone.name.as_wire().len())?;
        let (class, rtype) = (question.qclass, question.qtype);
        if stanza.class != Class::ANY && class != Class::ANY && class != stanza.class
            || stanza.rtype != Type::ANY && rtype != Type::ANY && rtype != stanza.rtype
        {
            return None;
        }
        // The data of templates borrow the exchange while the reply is filled.
        let mut reply = std::mem::take(&mut exchange.state.reply);
        let made = make(stanza, state, zone, exchange, &mut reply);
        exchange.state.reply = reply;
        match made {
            Ok(Ok(aliases)) if aliases.is_empty() => Some(Step::Answered),
            Ok(Ok(aliases)) => Some(follow(aliases, exchange)),
            Ok(Err(failure)) => Some(exchange.fail(Rcode::SERVFAIL, failure)),
            Err(Unmade::NoMatch) if stanza.fallthrough.covers(question) => None,
            Err(Unmade::NoMatch | Unmade::Failed) => Some(exchange.refuse(Rcode::SERVFAIL)),
        }
    }
}

impl Plugin for Template {
    fn name(&self) -> &'static str {
        "template"
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        for (stanza, state) in self.config.stanzas.iter().zip(&self.stanzas) {
            let Some(step) = self.try_stanza(stanza, state, exchange) else { continue };
            let has_reason = exchange.state.reason().is_some() || exchange.reply().has_answer();
            if !has_reason && matches!(step, Step::Answered) {
                let rcode = exchange.reply().rcode;
                let text = if rcode == stanza.rcode {
                    format!("template is configured with 'rcode {rcode}' for the name")
                } else {
                    "'match' or 'expr' of template does not fit the name, and there is no fallthrough for it".to_owned()
                };
                notes.denial = Some(TraceDenial { reason: "answered".to_owned(), text, nearest: Vec::new() });
            }
            return step.into();
        }
        Explained::Next
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        for (stanza, state) in self.config.stanzas.iter().zip(&self.stanzas) {
            if let Some(step) = self.try_stanza(stanza, state, exchange) {
                return step;
            }
        }
        Step::Next
    }
}

/// Fills the reply of a stanza. Returns the CNAMEs to follow, or the reason why a record cannot be added.
fn make(
    stanza: &TemplateStanza, state: &StanzaState, zone: &TemplateZone, exchange: &Exchange<'_>, reply: &mut Reply,
) -> Result<Result<Vec<Alias>, Failure>, Unmade> {
    let question = exchange.question();
    let name_text = NameText::new(question.name());
    let name = name_text.as_str();
    let matched = matching(stanza, name).ok_or(Unmade::NoMatch)?;
    let class = if question.qclass == Class::ANY { stanza.class } else { question.qclass };
    let rtype = if question.qtype == Type::ANY { stanza.rtype } else { question.qtype };
    // In the text of a record, such a name does not stand for itself.
    let is_plain_name = name_text.is_plain() && !name.starts_with('$');
    let prepared = state.prepared.as_ref().filter(|_| is_plain_name);
    let counts = (!exchange.state.is_dry_run()).then_some(&zone.counts);
    let mut aliases = Vec::new();
    if let Some(records) = prepared
        && stanza.rcode != Rcode::SERVFAIL
    {
        let values = PreparedValues { name, zone: &zone.text, class, rtype, matched: &matched };
        let mut add = |record: &PreparedRecord| {
            record.add(&values, question, reply).inspect(|record| note_alias(record, question, reply, &mut aliases))
        };
        if records.iter().all(|record| add(record).is_some()) {
            if let Some(counts) = counts {
                counts.matched(class, rtype);
            }
            finish(stanza, reply);
            return Ok(Ok(aliases));
        }
        reply.clear_records();
        aliases.clear();
    }
    let message = QueryMessage::of(exchange);
    let variables = Vec::new();
    let mut data = Data { exchange, zone: &zone.text, name, matched: &matched, class, rtype, variables, message };
    evaluate(stanza, &mut data)?;
    if let Some(counts) = counts {
        counts.matched(class, rtype);
    }
    if stanza.rcode == Rcode::SERVFAIL {
        return Err(Unmade::Failed);
    }
    let mut text = Vec::with_capacity(if stanza.records.is_empty() { 0 } else { USUAL_RECORD });
    for (section, template) in &stanza.records {
        text.clear();
        let failed = |record| {
            if let Some(counts) = counts {
                counts.failed(record, class, rtype, *section, template.written());
            }
        };
        if let Err(error) = template.run(TemplateValue::Object(&data), &mut text) {
            failed(false);
            return Ok(Err(Failure::Answer(error.to_string().into())));
        }
        match add_record(&text, *section, question, reply) {
            Ok(record) => note_alias(&record, question, reply, &mut aliases),
            Err(error) => {
                failed(true);
                return Ok(Err(Failure::Answer(error.to_string().into())));
            }
        }
    }
    finish(stanza, reply);
    Ok(Ok(aliases))
}

/// Notes the record that has just been added, if its target is to be looked up.
fn note_alias(record: &Record, question: &Question, reply: &Reply, aliases: &mut Vec<Alias>) {
    let is_alias = record.section == Section::Answer && record.rtype == Type::CNAME;
    if is_alias
        && matches!(question.qtype, Type::A | Type::AAAA)
        && let Rdata::Name(target) = record.rdata
    {
        aliases.push((reply.records().len(), reply.full_name(target, question.name())));
    }
}

/// Sets what a stanza's reply has besides records.
fn finish(stanza: &TemplateStanza, reply: &mut Reply) {
    reply.authoritative = true;
    reply.rcode = stanza.rcode;
    if let Some((code, text)) = &stanza.extended_error {
        let text = ErrorText::Stored(reply.store(text.as_bytes()));
        reply.extended_error = Some(ExtendedError { code: *code, reason: "template", text });
    }
}

/// Returns the first pattern that matches a name.
fn matching<'s>(stanza: &'s TemplateStanza, name: &str) -> Option<Matched<'s>> {
    if stanza.patterns.is_empty() {
        return Some(Matched::All);
    }
    stanza.patterns.iter().enumerate().find_map(|(index, pattern)| {
        let groups = pattern.find(name)?;
        Some(Matched::Pattern { pattern, index, groups })
    })
}

/// Sets the variables of a stanza and checks its conditions.
fn evaluate<'q>(stanza: &'q TemplateStanza, data: &mut Data<'q>) -> Result<(), Unmade> {
    for (name, expression) in &stanza.variables {
        let value = expression.run(data).map_err(|_| Unmade::Failed)?;
        data.variables.push((name, value));
    }
    for condition in &stanza.conditions {
        match condition.run(data) {
            Ok(expression::ExprValue::Bool(true)) => {}
            Ok(_) => return Err(Unmade::NoMatch),
            Err(_) => return Err(Unmade::Failed),
        }
    }
    Ok(())
}

/// Looks up the targets of CNAMEs at this server, and adds the answers after each CNAME.
fn follow(aliases: Vec<Alias>, exchange: &mut Exchange<'_>) -> Step {
    let qtype = exchange.question().qtype;
    let mut found: Vec<(Alias, Inner)> = Vec::with_capacity(aliases.len());
    for alias in aliases {
        let inner = exchange.resolve(alias.1.as_name(), qtype);
        found.push((alias, inner));
    }
    let name = exchange.question().name().to_owned();
    if !found.iter().any(|(_, inner)| matches!(inner, Inner::Pending(_))) {
        let mut moved = 0;
        for (alias, inner) in found {
            if let Inner::Done(inner) = inner {
                moved += insert(exchange.reply(), name.as_name(), alias, moved, qtype, &inner);
            }
        }
        return Step::Answered;
    }
    let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
        Box::pin(async move {
            let mut moved = 0;
            for (alias, inner) in found {
                let inner = match inner {
                    Inner::Done(inner) => inner,
                    Inner::Pending(inner) => inner.await,
                    Inner::None => continue,
                };
                moved += insert(&mut state.reply, name.as_name(), alias, moved, qtype, &inner);
            }
            (state, Continue::Answered)
        })
    };
    Step::Pending(Wait::Work(Work { future: Box::new(future), overload: Rcode::SERVFAIL, plugin: "template" }))
}

/// Inserts the answers about the target of a CNAME after it, and returns their number. `moved` records have been
/// inserted before. A CNAME that the reply has already is left out, so that a loop has each of its CNAMEs once.
fn insert(reply: &mut Reply, name: Name<'_>, (at, target): Alias, moved: usize, qtype: Type, inner: &Reply) -> usize {
    let question = Question::new(target.as_name(), qtype, Class::IN);
    let end = reply.records().len();
    reply.append(inner, &question, Section::Answer, Section::Answer);
    reply.truncated |= inner.truncated;
    let mut added = reply.records_mut().split_off(end);
    let same = |a, b| reply.names_are_equal_ignoring_case(a, b, name);
    added.retain(|record| {
        let Rdata::Name(target) = record.rdata else { return true };
        let is_it = |known: &Record| match known.rdata {
            Rdata::Name(known_target) => {
                known.rtype == Type::CNAME && same(known.owner, record.owner) && same(known_target, target)
            }
            _ => false,
        };
        record.rtype != Type::CNAME || !reply.records().iter().any(is_it)
    });
    let (at, count) = (at + moved, added.len());
    reply.records_mut().splice(at..at, added);
    count
}
