//! Changes a reply back: the reply is about the changed query, and the client gets one about its own.
//!
//! The rules that apply are used from the last to the first. Names that end like the changed name are stored as offsets
//! in it ([`NameRef::tail`]), so that all of them are converted, also those that no rule changes.

use smallvec::SmallVec;

use super::draft::InvalidName;
use super::labels::LabelMatch;
use super::name::{NameRule, RecordPart, TurnBack};
use super::replacement::{NewText, TooLong};
use super::rule::{Rule, RuleKind};
use crate::chain::Rewritten;
use crate::wire::name::{MAX_LEN, NameText};
use crate::wire::query::EdnsOptions;
use crate::wire::{Class, Name, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// The numbers before the names in the data of MX and NAPTR.
const MX_NUMBERS: usize = 2;
const NAPTR_NUMBERS: usize = 4;

/// What the changes need to know of the client's query.
pub(super) struct ClientQuery<'a> {
    /// The name, in any letter case.
    pub(super) name: Name<'a>,
    /// It has an OPT record.
    pub(super) has_edns: bool,
}

/// The answer to a CNAME whose target a rule has changed.
pub(super) struct ChangedTarget {
    /// The index of the CNAME in the reply.
    pub(super) record: usize,
    /// The target that the client sees.
    pub(super) shown: NameBuffer,
    /// The name that is looked up.
    pub(super) looked_up: NameBuffer,
}

/// A name that is being changed, in wire form.
#[derive(Clone)]
pub(super) struct NameBuffer {
    wire: [u8; MAX_LEN],
    len: usize,
    /// A text that a rule has made and that is not a name. The next rule may make a name of it.
    invalid: Option<Box<str>>,
}

impl NameBuffer {
    fn new(name: Name<'_>) -> NameBuffer {
        let mut buffer = NameBuffer { wire: [0; MAX_LEN], len: 0, invalid: None };
        buffer.set(name);
        buffer
    }

    fn set(&mut self, name: Name<'_>) {
        self.invalid = None;
        self.len = name.as_wire().len();
        self.wire[..self.len].copy_from_slice(name.as_wire());
    }

    /// Returns the name, or an error if the last rule has made something else.
    fn checked(&self) -> Result<Name<'_>, InvalidName> {
        match &self.invalid {
            Some(text) => Err(InvalidName(text.clone())),
            None => Ok(self.name()),
        }
    }

    /// Returns the name.
    pub(super) fn name(&self) -> Name<'_> {
        // Only names are stored.
        Name::trusted(&self.wire[..self.len])
    }

    /// Stores the name of a text. Returns whether it is another one.
    fn set_text(&mut self, text: &[u8]) -> bool {
        let mut wire = [0; MAX_LEN];
        let text = String::from_utf8_lossy(text);
        let Ok(name) = Name::from_text(&text, &mut wire) else {
            self.invalid = Some(text.into());
            return true;
        };
        let is_new = self.invalid.is_some() || name.as_wire() != self.name().as_wire();
        self.set(name);
        is_new
    }

    /// Stores `before`, and the labels of this name in front of `after`, which it ends with.
    fn replace_end(&mut self, after: Name<'_>, before: Name<'_>) -> Result<(), InvalidName> {
        let prefix_len = self.len - after.as_wire().len();
        let len = prefix_len + before.as_wire().len();
        if len > MAX_LEN {
            return Err(InvalidName(self.name().to_string().into()));
        }
        self.wire[prefix_len..len].copy_from_slice(before.as_wire());
        self.len = len;
        Ok(())
    }
}

/// Changes a reply back in which the rules turn back no name but that of the question. Returns `false` without a change
/// if another name may be turned back, or if the rules change more than names.
#[inline(always)]
pub(super) fn change_question_alone(
    rules: &[Rule], rewritten: &Rewritten, question: &Question, reply: &mut Reply,
) -> bool {
    let asked = rewritten.name().unwrap_or_else(|| question.name());
    let mut turned = None;
    for number in &rewritten.rules {
        match rules.get(*number as usize).map(|rule| &rule.kind) {
            Some(RuleKind::Name(rule)) if rule.answers.is_empty() => {
                turned = match (turned, TurnedEnd::of(rule, asked)) {
                    (None, first) => Some(first),
                    // The name of the question passes through all rules.
                    (Some(TurnedEnd::None), _) | (_, TurnedEnd::None) => return false,
                    (Some(_), _) => Some(TurnedEnd::ANY),
                };
            }
            Some(RuleKind::Type(_) | RuleKind::Class(_)) => {}
            _ => return false,
        }
    }
    if !rewritten.options.is_empty() {
        return false;
    }
    let Some(turned) = turned else { return true };
    let Some(mut has_tails) = turned.leaves_unchanged(reply, asked.as_wire()) else { return false };
    if turned == TurnedEnd::None && !asked.eq_ignore_case(question.name()) {
        has_tails |= store_question(reply, asked);
    }
    if has_tails {
        reply.set_base(asked);
    }
    true
}

/// Replaces the name of the question in a reply by the name that it is about. Returns whether that has a tail.
fn store_question(reply: &mut Reply, asked: Name<'_>) -> bool {
    let first = asked.parent().map_or(0, |parent| asked.as_wire().len() - parent.as_wire().len());
    let tail = (first > 0).then_some(first as u8);
    let stored = reply.store_labels(&[&asked.as_wire()[..first]], tail);
    for record in reply.records_mut() {
        let replace = |name: &mut NameRef| {
            if name.is_question() {
                *name = stored;
            }
        };
        replace(&mut record.owner);
        match &mut record.rdata {
            Rdata::A(_) | Rdata::Aaaa(_) | Rdata::Bytes(_) => {}
            Rdata::Name(name) | Rdata::Srv { target: name, .. } => replace(name),
            Rdata::Soa { mname, rname, .. } => {
                replace(mname);
                replace(rname);
            }
        }
    }
    tail.is_some()
}

/// The names of a reply that the rules may turn back, besides that of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnedEnd {
    /// None, and that of the question neither.
    None,
    /// Those that end like the name of the changed query from this offset on.
    From(usize),
}

impl TurnedEnd {
    /// Any name: an offset behind every tail, so that no name is known to be unchanged.
    const ANY: TurnedEnd = TurnedEnd::From(MAX_LEN);

    /// Returns the names that a rule turns back which has made the name `asked`.
    fn of(rule: &NameRule, asked: Name<'_>) -> TurnedEnd {
        match &rule.turn_back {
            TurnBack::No => TurnedEnd::None,
            TurnBack::Name => TurnedEnd::From(0),
            TurnBack::Suffix { labels: Some(labels), .. } => {
                asked.as_wire().len().checked_sub(labels.matched_len()).map_or(TurnedEnd::ANY, TurnedEnd::From)
            }
            TurnBack::Suffix { labels: None, .. } => TurnedEnd::ANY,
        }
    }

    /// Returns `None` if a name of the reply may be turned back; otherwise whether any name ends like `asked`, the name
    /// of the changed query, so that the reply needs it ([`Reply::set_base`]). That of the question becomes the
    /// client's without a change of the reply.
    #[inline(always)]
    fn leaves_unchanged(self, reply: &Reply, asked: &[u8]) -> Option<bool> {
        let TurnedEnd::From(from) = self else { return has_tails(reply) };
        let mut has_tails = false;
        let is_unchanged = |name: NameRef| has_other_labels(reply, name, asked, from) || name.is_question();
        for record in reply.records() {
            let are_unchanged = match record.rdata {
                Rdata::A(_) | Rdata::Aaaa(_) => true,
                Rdata::Name(name) | Rdata::Srv { target: name, .. } => {
                    has_tails |= !name.is_question();
                    is_unchanged(name)
                }
                Rdata::Soa { mname, rname, .. } => {
                    has_tails = true;
                    // No rule turns a mailbox back. The name of the question would become the client's.
                    is_unchanged(mname) && has_other_labels(reply, rname, asked, from)
                }
                Rdata::Bytes(bytes) => name_at(record.rtype, reply.bytes(bytes)).is_none(),
            };
            if !are_unchanged || !is_unchanged(record.owner) {
                return None;
            }
            // A name that is not that of the question, and not turned back, has a tail.
            has_tails = has_tails || !record.owner.is_question();
        }
        Some(has_tails)
    }
}

/// Returns whether a name ends like `asked`, and has other labels in front of its tail than `asked` has from the offset
/// `from` on: it is not turned back. Not so for the name of the question.
#[inline(always)]
fn has_other_labels(reply: &Reply, name: NameRef, asked: &[u8], from: usize) -> bool {
    let Some(tail) = name.tail().map(usize::from) else { return false };
    // The length of the first of these labels is not compared, since an end may start within a label.
    let first = from + 1;
    // Most names have fewer labels in front, or others. Of a letter in either case, one bit differs.
    if tail > first + name.labels_len() {
        return true;
    }
    if tail <= first {
        return false;
    }
    asked.get(tail - 1).zip(reply.last_letter(name)).is_some_and(|(one, other)| (one ^ other) & !0x20 != 0)
        || asked.get(first..tail).is_some_and(|labels| !ends_with(reply, name, labels))
}

/// Returns whether names of a reply end like that of the changed query; `None` if one of them is below the question's
/// name as the client sent it ([`Reply::set_base`]).
#[inline(never)]
fn has_tails(reply: &Reply) -> Option<bool> {
    let mut has_tails = false;
    for record in reply.records() {
        let names = match record.rdata {
            Rdata::A(_) | Rdata::Aaaa(_) | Rdata::Bytes(_) => [record.owner; 3],
            Rdata::Name(name) | Rdata::Srv { target: name, .. } => [record.owner, name, name],
            Rdata::Soa { mname, rname, .. } => [record.owner, mname, rname],
        };
        for name in names.iter().filter(|name| !name.is_question()) {
            has_tails |= match name.tail() {
                Some(0) => return None,
                tail => tail.is_some(),
            };
        }
    }
    Some(has_tails)
}

/// Returns whether the labels of a name in front of its tail end with others, ignoring case.
#[inline(never)]
fn ends_with(reply: &Reply, name: NameRef, end: &[u8]) -> bool {
    let labels = reply.prefix(name);
    labels.len().checked_sub(end.len()).is_some_and(|at| labels[at..].eq_ignore_ascii_case(end))
}

/// A rule about names that applies, and the name before and after it.
struct AppliedName<'a> {
    rule: &'a NameRule,
    before: Name<'a>,
    after: Name<'a>,
}

/// A change of a reply.
pub(super) struct ReplyChange<'a> {
    /// The rules that apply, first to last.
    rules: SmallVec<[&'a Rule; 8]>,
    /// Those about names, first to last.
    names: SmallVec<[AppliedName<'a>; 4]>,
    /// All of them turn the name of the changed query back by themselves, so that it becomes the client's.
    question_returns: bool,
    client: ClientQuery<'a>,
    /// The name that the reply is about.
    asked: Name<'a>,
    /// The reply is about another name than the client's.
    is_other_name: bool,
    options: &'a [u8],
    writes_codes: bool,
    /// The last owner and the last data that were converted, and what they became: most records have the same.
    converted: [Option<(NameRef, NameRef)>; 2],
}

impl<'a> ReplyChange<'a> {
    pub(super) fn new(all: &'a [Rule], rewritten: &'a Rewritten, client: ClientQuery<'a>) -> ReplyChange<'a> {
        let rules: SmallVec<[&Rule; 8]> = rewritten.rules.iter().filter_map(|at| all.get(*at as usize)).collect();
        let asked = rewritten.name().unwrap_or(client.name);
        let mut stored = rewritten.names.as_slice();
        let is_only_change = stored.is_empty();
        let mut next = || {
            let (name, rest) = Name::split_from(stored).unwrap_or((Name::ROOT, &[]));
            stored = rest;
            name
        };
        let names = rules.iter().filter_map(|rule| {
            let RuleKind::Name(rule) = &rule.kind else { return None };
            let (before, after) = match rule.turn_back {
                TurnBack::No => (Name::ROOT, Name::ROOT),
                TurnBack::Name | TurnBack::Suffix { .. } if is_only_change => (client.name, asked),
                TurnBack::Name | TurnBack::Suffix { .. } => (next(), next()),
            };
            Some(AppliedName { rule, before, after })
        });
        let names: SmallVec<[AppliedName<'_>; 4]> = names.collect();
        let turns_back = |name: &AppliedName<'_>| name.rule.turn_back != TurnBack::No && name.rule.answers.is_empty();
        let question_returns = names.iter().all(turns_back);
        let is_other_name = !names.is_empty() && !asked.eq_ignore_case(client.name);
        let (options, writes_codes) = (rewritten.options.as_slice(), rewritten.writes_codes);
        ReplyChange {
            rules,
            names,
            question_returns,
            client,
            asked,
            is_other_name,
            options,
            writes_codes,
            converted: [None; 2],
        }
    }

    /// Changes the reply. `bare`: it is only a code.
    pub(super) fn apply(
        mut self, reply: &mut Reply, bare: &mut bool, target: Option<(&ChangedTarget, &Reply)>,
    ) -> Result<(), InvalidName> {
        let mut changed = None;
        if let Some((target, _)) = target {
            // The answers after the CNAME are about the old target.
            let mut at = 0;
            reply.records_mut().retain(|record| {
                let stays = record.section != Section::Answer || at <= target.record;
                at += 1;
                stays
            });
            let name = reply.store_name(target.shown.name());
            reply.records_mut()[target.record].rdata = Rdata::Name(name);
            changed = Some(target.record);
        }
        for at in 0..reply.records().len() {
            let mut record = reply.records()[at];
            record.owner = self.convert(reply, record.owner, RecordPart::Owner)?;
            if changed != Some(at) {
                record.rdata = self.convert_data(reply, &record)?;
            }
            for rule in self.rules.iter().rev() {
                if let RuleKind::Ttl(rule) = &rule.kind {
                    record.ttl = rule.limit(record.ttl);
                }
            }
            reply.records_mut()[at] = record;
        }
        if let Some((target, inner)) = target {
            let question = Question::new(target.looked_up.name(), Type::A, Class::IN);
            reply.append(inner, &question, Section::Answer, Section::Answer);
            // A denial of the new target has the SOA of its zone.
            if inner.section(Section::Authority).any(|record| record.rtype == Type::SOA) {
                reply.records_mut().retain(|record| record.section != Section::Authority);
                reply.append(inner, &question, Section::Authority, Section::Authority);
            }
            reply.truncated = inner.truncated;
            // RFC 6604 3: the code is that of the last name.
            if reply.rcode == Rcode::NOERROR {
                reply.rcode = inner.rcode;
            }
        }
        self.change_code(reply);
        if self.client.has_edns && !reply.had_opt {
            EdnsOptions::new(self.options).for_each(|(code, data)| reply.add_option(code, data));
        }
        if self.writes_codes {
            *bare = false;
        }
        Ok(())
    }

    /// Changes the code. CoreDNS uses the rules once for each record.
    fn change_code(&self, reply: &mut Reply) {
        let rules: SmallVec<[_; 4]> = self
            .rules
            .iter()
            .rev()
            .filter_map(|rule| if let RuleKind::Rcode(rule) = &rule.kind { Some(rule) } else { None })
            .collect();
        if rules.is_empty() {
            return;
        }
        let times = if rules.len() == 1 { 1 } else { reply.records().len().max(1) };
        for rule in std::iter::repeat_n(&rules, times).flatten() {
            reply.rcode = rule.change(reply.rcode);
        }
        // The upper bits of a code are in the OPT record: without one, the code cannot be sent.
        if reply.rcode.0 > 15 && !self.client.has_edns {
            reply.rcode = Rcode::SERVFAIL;
        }
    }

    /// Returns the name for the client in the place of a name in the reply.
    fn convert(&mut self, reply: &mut Reply, name: NameRef, part: RecordPart) -> Result<NameRef, InvalidName> {
        if self.names.is_empty() || name == NameRef::QUESTION && self.question_returns {
            return Ok(name);
        }
        if let Some((before, after)) = self.converted[part as usize]
            && before == name
        {
            return Ok(after);
        }
        let mut wire = [0; MAX_LEN];
        let mut buffer = NameBuffer::new(reply.expand(name, self.asked, &mut wire));
        let is_changed = self.turn_back(&mut buffer, part)?;
        let converted = match name.tail() {
            _ if is_changed && buffer.name().eq_ignore_case(self.client.name) => NameRef::QUESTION,
            _ if is_changed => reply.store_name(buffer.name()),
            Some(tail) if self.is_other_name => self.with_tail_of_client(reply, name, tail),
            _ => name,
        };
        self.converted[part as usize] = Some((name, converted));
        Ok(converted)
    }

    /// Returns a name that ends like the changed name from an offset on, as one that ends like the client's name, or is
    /// stored completely if both names end differently.
    fn with_tail_of_client(&self, reply: &mut Reply, name: NameRef, tail: u8) -> NameRef {
        let (asked, client) = (self.asked.as_wire(), self.client.name);
        let end = asked.get(usize::from(tail)..).and_then(|end| Name::from_wire(end).ok());
        match end.filter(|end| client.is_within(*end)) {
            Some(end) => name.with_tail((client.as_wire().len() - end.as_wire().len()) as u8),
            None => {
                let mut wire = [0; MAX_LEN];
                let full = reply.expand(name, self.asked, &mut wire);
                reply.store_name(full)
            }
        }
    }

    /// Changes a name back. Returns whether a rule has changed it.
    fn turn_back(&self, name: &mut NameBuffer, part: RecordPart) -> Result<bool, InvalidName> {
        let mut is_changed = false;
        for applied in self.names.iter().rev() {
            is_changed |= applied.turn_back(name, part)?;
        }
        name.checked()?;
        Ok(is_changed)
    }

    /// Returns the data for the client, with the names that CoreDNS changes (`getRecordValueForRewrite`).
    fn convert_data(&mut self, reply: &mut Reply, record: &Record) -> Result<Rdata, InvalidName> {
        Ok(match record.rdata {
            Rdata::Name(name) => Rdata::Name(self.convert(reply, name, RecordPart::Data)?),
            Rdata::Srv { priority, weight, port, target } => {
                Rdata::Srv { priority, weight, port, target: self.convert(reply, target, RecordPart::Data)? }
            }
            Rdata::Soa { mname, rname, numbers } => {
                let mname = self.convert(reply, mname, RecordPart::Data)?;
                // No rule changes the mailbox.
                let rname = match rname.tail() {
                    Some(tail) if self.is_other_name => self.with_tail_of_client(reply, rname, tail),
                    _ => rname,
                };
                Rdata::Soa { mname, rname, numbers }
            }
            Rdata::Bytes(bytes) if !self.names.is_empty() => {
                let data = reply.bytes(bytes);
                let Some(at) = name_at(record.rtype, data) else { return Ok(record.rdata) };
                let Ok((name, rest)) = Name::split_from(&data[at..]) else { return Ok(record.rdata) };
                let mut buffer = NameBuffer::new(name);
                if !rest.is_empty() || !self.turn_back(&mut buffer, RecordPart::Data)? {
                    return Ok(record.rdata);
                }
                let mut changed = SmallVec::<[u8; 512]>::from_slice(&data[..at]);
                changed.extend_from_slice(buffer.name().as_wire());
                Rdata::Bytes(reply.store(&changed))
            }
            Rdata::A(_) | Rdata::Aaaa(_) | Rdata::Bytes(_) => record.rdata,
        })
    }

    /// Finds the first CNAME of the answer whose target a rule changes.
    pub(super) fn changed_target(&self, reply: &Reply) -> Result<Option<ChangedTarget>, InvalidName> {
        if !self.rules.iter().any(|rule| matches!(rule.kind, RuleKind::Cname(_))) {
            return Ok(None);
        }
        for (record, cname) in reply.records().iter().enumerate() {
            let Rdata::Name(target) = cname.rdata else { continue };
            if cname.section != Section::Answer || cname.rtype != Type::CNAME {
                continue;
            }
            let mut wire = [0; MAX_LEN];
            let mut shown = NameBuffer::new(reply.expand(target, self.asked, &mut wire));
            let mut looked_up = None;
            let mut names = self.names.iter().rev();
            for rule in self.rules.iter().rev() {
                match &rule.kind {
                    RuleKind::Name(_) => {
                        if let Some(applied) = names.next() {
                            applied.turn_back(&mut shown, RecordPart::Data)?;
                        }
                    }
                    RuleKind::Cname(rule) => {
                        let mut text = NewText::new();
                        let target = NameText::new(shown.checked()?).as_str().to_ascii_lowercase();
                        match rule.replace(&target, &mut text) {
                            None => {}
                            Some(Err(TooLong)) => return Err(InvalidName(target.into())),
                            Some(Ok(())) => {
                                shown.set_text(&text);
                                shown.checked()?;
                                looked_up = Some(shown.clone());
                            }
                        }
                    }
                    RuleKind::Type(_)
                    | RuleKind::Class(_)
                    | RuleKind::Ttl(_)
                    | RuleKind::Rcode(_)
                    | RuleKind::Edns(_) => {}
                }
            }
            if let Some(looked_up) = looked_up {
                shown.checked()?;
                return Ok(Some(ChangedTarget { record, shown, looked_up }));
            }
        }
        Ok(None)
    }
}

impl AppliedName<'_> {
    /// Changes a name back by this rule. Returns whether it has changed it.
    fn turn_back(&self, name: &mut NameBuffer, part: RecordPart) -> Result<bool, InvalidName> {
        let mut is_changed = false;
        for answer in self.rule.answers.iter().rev().filter(|answer| answer.part == part) {
            let written = NameText::new(name.name());
            let text = name.invalid.as_deref().unwrap_or(written.as_str());
            let mut changed = NewText::new();
            let expanded =
                answer.expression.with_groups(text, |groups| answer.to.expand(groups, |_| None, &mut changed));
            match expanded.flatten() {
                None => {}
                Some(Err(TooLong)) => return Err(InvalidName(text.into())),
                Some(Ok(())) => is_changed |= name.set_text(&changed),
            }
        }
        match &self.rule.turn_back {
            TurnBack::No => {}
            // What is not a name is not below the changed name either.
            TurnBack::Name if name.invalid.is_some() => {}
            TurnBack::Name | TurnBack::Suffix { .. }
                if name.invalid.is_none() && name.name().eq_ignore_case(self.after) =>
            {
                name.set(self.before);
                is_changed = true;
            }
            TurnBack::Name if self.after.is_root() => {}
            TurnBack::Name if name.name().is_within(self.after) => {
                name.replace_end(self.after, self.before)?;
                is_changed = true;
            }
            TurnBack::Name => {}
            TurnBack::Suffix { from, to, labels } => {
                let as_labels = labels.as_ref().filter(|_| name.invalid.is_none());
                match as_labels.map_or(LabelMatch::AsText, |labels| labels.find_ignoring_case(name.name())) {
                    LabelMatch::No => return Ok(is_changed),
                    LabelMatch::At(at) => {
                        let mut wire = [0; MAX_LEN];
                        let written =
                            labels.as_ref().and_then(|labels| labels.write(&name.wire[..name.len], at, &mut wire));
                        if let Some(len) = written {
                            name.set(Name::trusted(&wire[..len]));
                            return Ok(true);
                        }
                    }
                    LabelMatch::AsText => {}
                }
                let written = NameText::new(name.name());
                let text = name.invalid.as_deref().unwrap_or(written.as_str());
                let at = text.len().checked_sub(from.len());
                let rest = at.and_then(|at| text.split_at_checked(at));
                if let Some((rest, _)) = rest.filter(|(_, end)| end.eq_ignore_ascii_case(from)) {
                    let mut changed = NewText::from_slice(rest.as_bytes());
                    changed.extend_from_slice(to.as_bytes());
                    is_changed |= name.set_text(&changed);
                }
            }
        }
        Ok(is_changed)
    }
}

/// Returns the offset of the name in the data of types whose data is stored as bytes.
fn name_at(rtype: Type, data: &[u8]) -> Option<usize> {
    match rtype {
        Type::DNAME => Some(0),
        Type::MX => (data.len() > MX_NUMBERS).then_some(MX_NUMBERS),
        Type::NAPTR => {
            // Flags, services and an expression precede the name.
            let mut at = NAPTR_NUMBERS;
            for _ in 0..3 {
                at += 1 + usize::from(*data.get(at)?);
            }
            (at < data.len()).then_some(at)
        }
        _ => None,
    }
}
