//! A dry run of a query: what each plugin would do with it, for `clusterdns explain`.
//!
//! Nothing is counted, cached, logged or sent: a plugin whose `query` does more than that has a [`Plugin::explain`] of
//! its own. `way_back.rs` has the way back of the reply.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Outcome};
use super::way_back::ReplyView;
use super::{Client, Exchange, Failure, LookUp, MAX_DEPTH, Router, State, Step, Wait, pending};
use crate::wire::{Name, Query, Question, Rcode, Rdata, Record, Reply, Type};

/// The maximum number of records in a trace.
pub(super) const MAX_RECORDS: usize = 50;

/// What a plugin would do with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explained {
    /// The next plugin gets the query.
    Next,
    /// The reply is in the exchange.
    Answered,
    /// There is no response.
    Dropped,
    /// The plugins after it get a changed query.
    Rewritten,
    /// The query goes to an upstream.
    Upstream,
    /// The answer is an alias, whose target is in [`ExplainNotes::alias`].
    Alias,
    /// The answer depends on other work, which a dry run does not do.
    Waits,
}

impl From<Step> for Explained {
    fn from(step: Step) -> Explained {
        match step {
            Step::Next => Explained::Next,
            Step::Answered => Explained::Answered,
            Step::Drop => Explained::Dropped,
            Step::Rewritten => Explained::Rewritten,
            Step::Pending(Wait::Upstream(_)) => Explained::Upstream,
            Step::Pending(Wait::Work(_)) => Explained::Waits,
        }
    }
}

/// What a plugin says about a query.
#[derive(Clone, Debug, Default)]
pub struct ExplainNotes {
    /// What the plugin does, one fact a line.
    pub lines: Vec<String>,
    /// Why the answer has no record, if the plugin knows.
    pub denial: Option<TraceDenial>,
    /// The Kubernetes object that the name belongs to.
    pub subject: Option<Subject>,
    /// The target of an alias.
    pub alias: Option<String>,
}

/// Why an answer has no record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceDenial {
    /// The reason as one word, such as `no-such-service`. It never changes, for scripts.
    pub reason: String,
    /// The reason for people.
    pub text: String,
    /// Existing names that are similar, the most similar first.
    pub nearest: Vec<String>,
}

/// The Kubernetes object that a name belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The zone of the stanza.
    pub zone: String,
    /// The namespace.
    pub namespace: String,
    /// The Service.
    pub service: Option<String>,
    /// The endpoint, if the name is of one.
    pub endpoint: Option<String>,
    /// Name and protocol of the port, if the name is of one.
    pub port: Option<(String, String)>,
}

/// How a dry run ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceEnd {
    /// No server block serves the name.
    #[default]
    NoBlock,
    /// A plugin answers.
    Answered,
    /// A plugin drops the query.
    Dropped,
    /// The query goes to an upstream.
    Upstream,
    /// The answer is an alias.
    Alias,
    /// The answer depends on other work.
    Waits,
    /// No plugin takes the query.
    NoPlugin,
}

/// A plugin, and what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// The name of the directive.
    pub plugin: String,
    /// What it does.
    pub lines: Vec<String>,
}

/// The dry run of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The name of the question, with its final dot.
    pub name: String,
    /// The type of the question.
    pub qtype: String,
    /// The server block, with its place in the Corefile.
    pub block: Option<String>,
    /// Server blocks of the zone whose *view* does not admit the query.
    pub not_admitted: Vec<String>,
    /// The plugins that do something.
    pub steps: Vec<TraceStep>,
    /// The plugins that do something with the reply on its way back, in that order.
    pub way_back: Vec<TraceStep>,
    /// How the run ends.
    pub end: TraceEnd,
    /// The plugin at which it ends.
    pub by: String,
    /// The response code that the client gets, if it is known.
    pub rcode: Option<String>,
    /// The answer records that the client gets.
    pub records: Vec<String>,
    /// Why there is no record.
    pub denial: Option<TraceDenial>,
    /// The plugin that has made the denial. If another one ends the run, the name has fallen through.
    pub denied_by: String,
    /// The Kubernetes object that the name belongs to.
    pub subject: Option<Subject>,
    /// The target, if the answer is an alias.
    pub alias: Option<String>,
}

impl Trace {
    /// Returns whether the answer has a record, or is an alias.
    pub fn has_answer(&self) -> bool {
        self.end == TraceEnd::Answered && !self.records.is_empty() || self.end == TraceEnd::Alias
    }

    pub(super) fn ends(&mut self, by: &str, end: TraceEnd) {
        self.by = by.to_owned();
        self.end = end;
    }
}

/// A dry run and the reply that it has so far.
#[derive(Default)]
pub(super) struct DryRun {
    pub(super) trace: Trace,
    /// The reply as the last plugin has left it; `None` if there is none, or if it is not known.
    pub(super) reply: Option<ReplyView>,
}

impl Router {
    /// Runs a query without any effect. `packet` is a query that this program has made.
    pub fn explain(self: &Arc<Self>, packet: &[u8], client: Client, now: Instant) -> Trace {
        let mut state = State { is_dry_run: true, ..State::default() };
        self.explain_look_up(packet, client, now, LookUp::default(), &mut state).trace
    }

    /// Runs the query of a client or of an internal look-up without any effect. If the reply is known, it is in
    /// `state` then.
    fn explain_look_up(
        self: &Arc<Self>, packet: &[u8], client: Client, now: Instant, look_up: LookUp, state: &mut State,
    ) -> DryRun {
        let mut run = DryRun::default();
        let Ok(query) = Query::parse(packet) else { return run };
        let name = query.sent_name();
        run.trace.name = name.to_string();
        run.trace.qtype = query.question.qtype.to_string();
        let mut not_admitted = Vec::new();
        let selected = self.select_noting(&query, client, now, state, &mut |chain: &Chain| {
            not_admitted.extend(chain.place().map(str::to_owned));
        });
        run.trace.not_admitted = not_admitted;
        match selected {
            Ok(block) => {
                let mut exchange = self.exchange(block, &query, client, now, look_up, state);
                run.trace.block = exchange.chain.place().map(str::to_owned);
                exchange.chain.explain(0, &mut exchange, &mut run);
            }
            Err(rcode) => run.trace.rcode = Some(rcode.to_string()),
        }
        run
    }

    /// Returns the places of all server blocks.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        self.chains.iter().filter_map(Chain::place)
    }
}

impl Exchange<'_> {
    /// Runs an internal look-up of the plugin without any effect: that of [`Exchange::resolve`] or, with
    /// `is_translated`, of [`Exchange::resolve_to_translate`]. `None` if a dry run does not know the reply, as where an
    /// upstream answers.
    pub fn explain_look_up(&self, name: Name<'_>, qtype: Type, is_translated: bool) -> Option<Reply> {
        let look_up = pending::inner_look_up(self, is_translated);
        if look_up.depth > MAX_DEPTH {
            return None;
        }
        let packet = pending::inner_packet(self.query, name, qtype);
        let mut state = State { is_dry_run: true, ..State::default() };
        let run = self.router.explain_look_up(&packet, self.client, self.now, look_up, &mut state);
        run.reply.map(|_| state.reply)
    }

    /// Returns why the reply of this plugin is not an ordinary answer: the failure, or the extended DNS error.
    fn denial(&self, plugin: &str) -> Option<TraceDenial> {
        let reply = &self.state.reply;
        let (reason, text) = match (&self.state.failure, reply.extended_error) {
            (Some(failure), _) => (failure.reason(), format!("{plugin} fails: {failure}")),
            (None, Some(error)) => match String::from_utf8_lossy(reply.error_text(error)) {
                text if text.is_empty() => {
                    (error.reason, format!("{plugin} answers with the extended DNS error {}", error.code))
                }
                text => (error.reason, format!("{plugin}: {text}")),
            },
            (None, None) => return None,
        };
        Some(TraceDenial { reason: reason.to_owned(), text, nearest: Vec::new() })
    }
}

impl Chain {
    /// Runs the plugins from `from` on without any effect.
    pub(super) fn explain(&self, from: usize, exchange: &mut Exchange<'_>, run: &mut DryRun) {
        for (at, plugin) in self.plugins().iter().enumerate().skip(from) {
            exchange.at = at;
            let mut notes = ExplainNotes::default();
            let explained = plugin.explain(exchange, &mut notes);
            let (trace, name) = (&mut run.trace, plugin.name());
            if explained == Explained::Answered && notes.denial.is_none() {
                notes.denial = exchange.denial(name);
            }
            let place = trace.add(name, notes);
            let end = match explained {
                Explained::Next => continue,
                Explained::Answered => {
                    let reply = ReplyView::of(exchange);
                    trace.say(place, name, &format_answer(reply.rcode(), reply.answers().len()));
                    if plugin.stores_replies() && reply.rcode() == Rcode::SERVFAIL {
                        // The plugins after a cache have made the failure.
                        trace.say(place, name, "the plugins after it, which get the query when the entry expires:");
                        let name = exchange.query.sent_name();
                        trace.steps.extend(exchange.rest().explain(name, exchange.now).trace.steps);
                    }
                    trace.ends(name, TraceEnd::Answered);
                    run.reply = Some(reply);
                    return self.explain_replies(at + 1, exchange, run);
                }
                Explained::Rewritten => return self.explain_rewritten(at, place, exchange, run),
                Explained::Dropped => {
                    trace.say(place, name, "drops the query: the client gets no response");
                    return trace.ends(name, TraceEnd::Dropped);
                }
                Explained::Waits => {
                    trace.say(place, name, "answers after other look-ups");
                    TraceEnd::Waits
                }
                Explained::Upstream => TraceEnd::Upstream,
                Explained::Alias => TraceEnd::Alias,
            };
            trace.ends(name, end);
            if let Some(line) = self.describe_way_back(at) {
                trace.say(place, name, &line);
            }
            return;
        }
        let by = self.plugins().last().map_or("", |plugin| plugin.name());
        match by {
            "" => exchange.refuse(Rcode::REFUSED),
            by => exchange.fail(Rcode::SERVFAIL, Failure::NoNextPlugin(by)),
        };
        run.trace.ends(by, TraceEnd::NoPlugin);
        run.reply = Some(ReplyView::of(exchange));
        self.explain_replies(self.plugins().len(), exchange, run);
    }

    /// Runs the plugins after `by` with the query that it has changed.
    fn explain_rewritten(&self, by: usize, place: Option<usize>, exchange: &mut Exchange<'_>, run: &mut DryRun) {
        if let Some(rewritten) = exchange.state.slot.get_mut() {
            rewritten.by = by;
        }
        let plugin = self.plugins()[by].name();
        self.rewritten(exchange, |chain, inner| {
            let Question { qtype, .. } = *inner.question();
            let name = inner.query.sent_name();
            run.trace.say(place, plugin, &format!("changes the query to {name} {qtype}"));
            chain.explain(by + 1, inner, run);
            // The plugins before get the reply below.
            Outcome::Drop
        });
        self.explain_replies(by + 1, exchange, run);
    }
}

impl Trace {
    /// Adds what a plugin says. Returns the place of its step, if it has one.
    fn add(&mut self, plugin: &str, notes: ExplainNotes) -> Option<usize> {
        if notes.denial.is_some() {
            (self.denial, self.denied_by) = (notes.denial, plugin.to_owned());
        }
        self.subject = notes.subject.or(self.subject.take());
        self.alias = notes.alias.or(self.alias.take());
        if notes.lines.is_empty() {
            return None;
        }
        self.steps.push(TraceStep { plugin: plugin.to_owned(), lines: notes.lines });
        Some(self.steps.len() - 1)
    }

    /// Adds a line to the step of a plugin.
    fn say(&mut self, place: Option<usize>, plugin: &str, line: &str) {
        match place.and_then(|at| self.steps.get_mut(at)) {
            Some(step) => step.lines.push(line.to_owned()),
            None => self.steps.push(TraceStep { plugin: plugin.to_owned(), lines: vec![line.to_owned()] }),
        }
    }
}

/// Returns a line about an answer.
fn format_answer(rcode: Rcode, records: usize) -> String {
    match (rcode, records) {
        (Rcode::NOERROR, 0) => "answers NOERROR without a record (NODATA)".to_owned(),
        (_, 0) => format!("answers {rcode}"),
        (_, 1) => format!("answers {rcode} with 1 record"),
        _ => format!("answers {rcode} with {records} records"),
    }
}

/// Returns the data of a record as a zone file has it.
pub(super) fn format_data(reply: &Reply, record: &Record, question: &Question) -> String {
    let name = |name| reply.full_name(name, question.name()).to_string();
    let mut text = String::new();
    let _ = match record.rdata {
        Rdata::A(bytes) => write!(text, "{}", Ipv4Addr::from(bytes)),
        Rdata::Aaaa(bytes) => write!(text, "{}", Ipv6Addr::from(bytes)),
        Rdata::Name(target) => write!(text, "{}", name(target)),
        Rdata::Srv { priority, weight, port, target } => {
            write!(text, "{priority} {weight} {port} {}", name(target))
        }
        Rdata::Soa { mname, rname, numbers } => {
            let numbers =
                reply.bytes(numbers).as_chunks().0.iter().map(|number| u32::from_be_bytes(*number).to_string());
            write!(text, "{} {} {}", name(mname), name(rname), numbers.collect::<Vec<_>>().join(" "))
        }
        Rdata::Bytes(stored) => write_data(&mut text, record.rtype, reply.bytes(stored)),
    };
    text
}

/// Writes the data of a record: character strings of the types that consist of them, the exchange of MX, and the
/// general form of RFC 3597 of all others.
fn write_data(text: &mut String, rtype: Type, data: &[u8]) -> std::fmt::Result {
    if let (Type::MX, [high, low, exchange @ ..]) = (rtype, data)
        && let Ok((exchange, [])) = Name::split_from(exchange)
    {
        return write!(text, "{} {exchange}", u16::from_be_bytes([*high, *low]));
    }
    if let (Type::TXT | Type::HINFO | Type::SPF, Some(strings)) = (rtype, character_strings(data)) {
        let shown: Vec<String> = strings.into_iter().map(quote).collect();
        return text.write_str(&shown.join(" "));
    }
    write!(text, "\\# {} ", data.len())?;
    data.iter().try_for_each(|byte| write!(text, "{byte:02x}"))
}

/// Returns a character string as a zone file has it (RFC 1035 5.1).
fn quote(string: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in string {
        let _ = match byte {
            b'"' | b'\\' => write!(text, "\\{}", char::from(byte)),
            b' '..=b'~' => write!(text, "{}", char::from(byte)),
            _ => write!(text, "\\{byte:03}"),
        };
    }
    text.push('"');
    text
}

/// Splits data into character strings (RFC 1035 3.3); `None` if it is something else.
fn character_strings(mut data: &[u8]) -> Option<Vec<&[u8]>> {
    let mut strings = Vec::new();
    while let [len, rest @ ..] = data {
        let (string, after) = rest.split_at_checked(usize::from(*len))?;
        strings.push(string);
        data = after;
    }
    Some(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn character_strings_are_those_of_a_zone_file() {
        let mut text = String::new();
        write_data(&mut text, Type::TXT, b"\x08v=1 \"\\;\n\x01\xff").expect("a text");
        assert_eq!(text, r#""v=1 \"\\;\010" "\255""#);
    }
}
