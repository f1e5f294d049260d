//! The way back of a reply in a dry run: what each plugin makes of it, last to first.
//!
//! ```text
//! plugin that answers ─► ReplyView ─► Plugin::explain_reply, last to first ─► ReplyView ─► lines about the differences
//! ```
//!
//! Most plugins need no words of their own: what they do is how the reply differs afterwards.

use std::collections::{HashMap, HashSet};

use super::chain::Chain;
use super::explain::{DryRun, MAX_RECORDS, format_data};
use super::{Exchange, TraceEnd, TraceStep};
use crate::wire::header::flag;
use crate::wire::{Question, Rcode, Record, Reply, Section, Type};

/// The maximum number of lines about what a plugin changes.
const MAX_CHANGES: usize = 10;

/// What a plugin makes of a reply in a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExplainedReply {
    /// The plugin before it gets the reply that is in the exchange.
    Known,
    /// The reply depends on other work, which a dry run does not do.
    Unknown,
}

/// A reply as text, as a client would see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplyView {
    rcode: Rcode,
    /// The flags that plugins set.
    flags: [(&'static str, bool); 4],
    truncated: bool,
    max_udp: Option<u16>,
    records: Vec<RecordView>,
}

/// A record as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RecordView {
    section: Section,
    owner: String,
    ttl: u32,
    rtype: Type,
    data: String,
}

impl ReplyView {
    /// Returns the reply that an exchange has now.
    pub(super) fn of(exchange: &Exchange<'_>) -> ReplyView {
        let (reply, question) = (&exchange.state.reply, exchange.question());
        let desired = reply.recursion_desired.unwrap_or(exchange.query.flags() & flag::RD != 0);
        ReplyView {
            rcode: reply.rcode,
            flags: [
                ("AA", reply.authoritative),
                ("RA", reply.recursion_available),
                ("RD", desired),
                ("AD", reply.authentic_data),
            ],
            truncated: reply.truncated,
            max_udp: reply.max_udp,
            records: record_views(reply, question),
        }
    }

    /// Returns the code.
    pub(super) fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Returns the answer records as lines of a zone file, not more than a trace has.
    pub(super) fn answers(&self) -> Vec<String> {
        let answers = self.records.iter().filter(|record| record.section == Section::Answer);
        answers.take(MAX_RECORDS).map(RecordView::line).collect()
    }

    /// Returns how another view differs, one fact a line.
    fn changes(&self, after: &ReplyView) -> Vec<String> {
        let mut lines = Vec::new();
        if self.rcode != after.rcode {
            lines.push(format!("changes the code from {} to {}", self.rcode, after.rcode));
        }
        for ((name, before), (_, after)) in self.flags.iter().zip(after.flags) {
            match (*before, after) {
                (false, true) => lines.push(format!("sets {name}")),
                (true, false) => lines.push(format!("clears {name}")),
                _ => {}
            }
        }
        if let (Some(size), true) = (after.max_udp, self.max_udp != after.max_udp) {
            lines.push(format!("limits the response over UDP to {size} bytes"));
        }
        lines.extend(record_changes(&self.records, &after.records));
        lines
    }
}

impl RecordView {
    fn line(&self) -> String {
        format!("{} {} {} {}", self.owner, self.ttl, self.rtype, self.data)
    }
}

/// Returns the records of a reply, by section.
fn record_views(reply: &Reply, question: &Question) -> Vec<RecordView> {
    let view = |record: &Record| RecordView {
        section: record.section,
        owner: reply.full_name(record.owner, question.name()).to_string(),
        ttl: record.ttl,
        rtype: record.rtype,
        data: format_data(reply, record, question),
    };
    let mut views: Vec<RecordView> = reply.records().iter().map(view).collect();
    views.sort_by_key(|view| view.section);
    views
}

/// Returns how records differ: of those of a section and type, equally many are changed, and others come or go.
fn record_changes(before: &[RecordView], after: &[RecordView]) -> Vec<String> {
    let (gone, come) = (without(before, after), without(after, before));
    if gone.is_empty() && come.is_empty() {
        return if before == after { Vec::new() } else { vec!["changes the order of the records".to_owned()] };
    }
    let mut lines = Vec::new();
    let mut groups: Vec<(Section, Type)> = Vec::new();
    for record in gone.iter().chain(&come) {
        let group = (record.section, record.rtype);
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    for group in groups {
        let of = |records: &[&RecordView]| -> Vec<RecordView> {
            records
                .iter()
                .filter(|record| (record.section, record.rtype) == group)
                .map(|record| (*record).clone())
                .collect()
        };
        let (old, new) = (of(&gone), of(&come));
        if old.len() == new.len() {
            lines.extend(old.iter().zip(&new).flat_map(|(old, new)| changed(old, new)));
        } else {
            lines.extend(old.iter().map(|record| format!("removes {}", record.line())));
            lines.extend(new.iter().map(|record| format!("adds {}", record.line())));
        }
    }
    // The name of many records changes in the same way.
    let mut seen = HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    if lines.len() > MAX_CHANGES {
        let more = lines.len() - MAX_CHANGES;
        lines.truncate(MAX_CHANGES);
        lines.push(format!("makes {more} more such changes"));
    }
    lines
}

/// Returns the records that others lack, in their order.
fn without<'v>(records: &'v [RecordView], others: &[RecordView]) -> Vec<&'v RecordView> {
    let mut counts: HashMap<&RecordView, usize> = HashMap::new();
    others.iter().for_each(|record| *counts.entry(record).or_default() += 1);
    let mut is_missing = |record: &&RecordView| match counts.get_mut(*record) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    records.iter().filter(|record| is_missing(record)).collect()
}

/// Returns how a record becomes another one of its type.
fn changed(old: &RecordView, new: &RecordView) -> Vec<String> {
    let mut lines = Vec::new();
    if old.owner != new.owner {
        lines.push(format!("changes the name {} to {}", old.owner, new.owner));
    }
    if old.ttl != new.ttl {
        lines.push(format!("changes the TTL of {} {} from {} to {} s", new.owner, new.rtype, old.ttl, new.ttl));
    }
    if old.data != new.data {
        lines.push(format!("changes {} {} to {}", new.rtype, old.data, new.data));
    }
    lines
}

impl Chain {
    /// Passes the reply to the plugins before `end`, last to first, as [`Chain::replies`] does, without any effect.
    pub(super) fn explain_replies(&self, end: usize, exchange: &mut Exchange<'_>, run: &mut DryRun) {
        let plugins = self.plugins();
        for at in (exchange.first..end).rev().filter(|at| plugins[*at].calls().reply) {
            let Some(before) = run.reply.take() else { return };
            exchange.at = at;
            let plugin = plugins[at].name();
            let mut lines = Vec::new();
            let explained = plugins[at].explain_reply(exchange, &mut lines);
            let after = ReplyView::of(exchange);
            if explained == ExplainedReply::Known {
                lines.extend(before.changes(&after));
                if before.answers().is_empty() && !after.answers().is_empty() {
                    // There is an answer where there was none.
                    (run.trace.denial, run.trace.by) = (None, plugin.to_owned());
                }
                run.reply = Some(after);
            } else {
                run.trace.ends(plugin, TraceEnd::Waits);
                // It was that of the reply before.
                run.trace.denial = None;
                run.trace.records.clear();
            }
            if !lines.is_empty() {
                run.trace.way_back.push(TraceStep { plugin: plugin.to_owned(), lines });
            }
        }
        if let Some(reply) = &run.reply {
            run.trace.rcode = Some(reply.rcode().to_string());
            run.trace.records = reply.answers();
        }
    }

    /// Returns a line about the plugins that get the reply of a plugin, whose content is not known; `None` if there
    /// are none.
    pub(super) fn describe_way_back(&self, by: usize) -> Option<String> {
        let names = self.plugins()[..=by].iter().rev().filter(|plugin| plugin.uses_replies());
        let names: Vec<&str> = names.map(|plugin| plugin.name()).collect();
        let first = names.first()?;
        Some(match &names[..] {
            [_] => format!("the reply then passes {first}, whose work depends on it"),
            _ => format!("the reply then passes {}, whose work depends on it", names.join(", ")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(section: Section, line: &str) -> RecordView {
        let mut parts = line.splitn(4, ' ');
        let mut next = || parts.next().expect("four parts").to_owned();
        let (owner, ttl, rtype, data) = (next(), next(), next(), next());
        let rtype = Type::from_mnemonic(&rtype).expect("a type");
        RecordView { section, owner, ttl: ttl.parse().expect("a number"), rtype, data }
    }

    #[track_caller]
    fn check(before: &[&str], after: &[&str], lines: &[&str]) {
        let views = |lines: &[&str]| lines.iter().map(|line| view(Section::Answer, line)).collect::<Vec<_>>();
        assert_eq!(record_changes(&views(before), &views(after)), lines);
    }

    #[test]
    fn differences_are_lines() {
        let two = ["a. 5 A 10.0.0.1", "a. 5 A 10.0.0.2"];
        check(&two, &two, &[]);
        check(&two, &["a. 5 A 10.0.0.2", "a. 5 A 10.0.0.1"], &["changes the order of the records"]);
        check(&two, &["b. 5 A 10.0.0.1", "b. 5 A 10.0.0.2"], &["changes the name a. to b."]);
        check(&two, &["a. 30 A 10.0.0.1", "a. 30 A 10.0.0.2"], &["changes the TTL of a. A from 5 to 30 s"]);
        check(&two, &["a. 5 A 10.0.0.1"], &["removes a. 5 A 10.0.0.2"]);
        check(&["a. 5 CNAME b."], &["a. 5 CNAME c."], &["changes CNAME b. to c."]);
        // The same record twice is not one.
        check(&[two[0], two[0]], &[two[0]], &["removes a. 5 A 10.0.0.1"]);
        check(&[two[0]], &["a. 5 AAAA ::1"], &["removes a. 5 A 10.0.0.1", "adds a. 5 AAAA ::1"]);
        let many: Vec<String> = (0..12).map(|number| format!("a. 5 A 10.0.0.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut lines = many[..10].iter().map(|line| format!("removes {line}")).collect::<Vec<_>>();
        lines.push("makes 2 more such changes".to_owned());
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        check(&many, &[], &lines);
        let sections = [view(Section::Answer, two[0]), view(Section::Additional, two[0])];
        assert_eq!(record_changes(&sections, &sections[..1]), ["removes a. 5 A 10.0.0.1"]);
    }
}
