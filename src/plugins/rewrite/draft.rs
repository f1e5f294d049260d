//! The query while rules change it, and what the rules note for the reply.

use smallvec::SmallVec;

use super::labels::{LabelChange, LabelMatch};
use super::opt::Opt;
use crate::chain::Rewritten;
use crate::wire::name::{MAX_LEN, NameText};
use crate::wire::{Class, Name, Query, Type};

/// A rule has made a text that is not a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InvalidName(pub(super) Box<str>);

/// A query that rules change.
pub(super) struct Draft<'e> {
    query: &'e Query<'e>,
    /// The name in wire form, valid up to `len`, once a rule has changed it.
    wire: [u8; MAX_LEN],
    /// The length of the changed name; 0 if no rule has changed it.
    len: usize,
    /// The name in presentation form and lower case, once a rule has looked at it. `None` again after a change.
    text: Option<NameText>,
    /// The query type.
    pub(super) qtype: Type,
    /// The query class.
    pub(super) qclass: Class,
    /// The OPT record, once a rule has looked at it.
    opt: Option<Opt>,
    /// The numbers of the rules that apply.
    rules: SmallVec<[u32; 16]>,
    /// The name before and after each rule that turns names back by itself, in wire form. Empty if only one rule has
    /// changed the name: it has changed the client's name into that of the query.
    names: Vec<u8>,
    /// That one turns names back by itself.
    only_change_turns_back: bool,
    /// A rule changes the reply.
    pub(super) has_response_rules: bool,
    /// A rule that applies is the last one.
    pub(super) is_stopped: bool,
}

impl<'e> Draft<'e> {
    pub(super) fn new(query: &'e Query<'e>) -> Draft<'e> {
        Draft {
            query,
            wire: [0; MAX_LEN],
            len: 0,
            text: None,
            qtype: query.question.qtype,
            qclass: query.question.qclass,
            opt: None,
            rules: SmallVec::new(),
            names: Vec::new(),
            only_change_turns_back: false,
            has_response_rules: false,
            is_stopped: false,
        }
    }

    /// Returns the name in presentation form and lower case.
    pub(super) fn text(&mut self) -> &str {
        let name = if self.len == 0 { self.query.question.name() } else { Name::trusted(&self.wire[..self.len]) };
        self.text.get_or_insert_with(|| NameText::new(name)).as_str()
    }

    /// Returns the name in lower case.
    fn name(&self) -> Name<'_> {
        match self.len {
            0 => self.query.question.name(),
            len => Name::trusted(&self.wire[..len]),
        }
    }

    /// Returns the name of the query as a rule has written it, or in the letter case of the client.
    pub(super) fn sent_text(&mut self) -> String {
        match self.len {
            0 => self.query.sent_name().to_string(),
            _ => self.text().to_owned(),
        }
    }

    /// Changes the name to that of a text. If `turns_back`, the reply's names are changed back by this change.
    pub(super) fn set_name(&mut self, text: &[u8], turns_back: bool) -> Result<(), InvalidName> {
        let invalid = || InvalidName(String::from_utf8_lossy(text).into());
        let text = std::str::from_utf8(text).map_err(|_| invalid())?;
        let mut wire = [0; MAX_LEN];
        let len = Name::from_text(text, &mut wire).map_err(|_| invalid())?.as_wire().len();
        if len == 1 {
            // The root is not written.
            wire[0] = 0;
        }
        self.note_change(turns_back, &wire[..len]);
        (self.wire, self.len) = (wire, len);
        Ok(())
    }

    /// Changes the name in wire form. Returns whether it matches, or `None` if only its text decides.
    pub(super) fn change_labels(&mut self, change: &LabelChange, turns_back: bool) -> Option<bool> {
        let name = self.name();
        let at = match change.find(name) {
            LabelMatch::No => return Some(false),
            LabelMatch::AsText => return None,
            LabelMatch::At(at) => at,
        };
        let mut wire = [0; MAX_LEN];
        let len = change.write(name.as_wire(), at, &mut wire)?;
        self.note_change(turns_back, &wire[..len]);
        (self.wire, self.len) = (wire, len);
        Some(true)
    }

    /// Notes a change of the name, and for the reply the names before and after it.
    fn note_change(&mut self, turns_back: bool, after: &[u8]) {
        self.text = None;
        if self.len == 0 {
            self.only_change_turns_back = turns_back;
            return;
        }
        if std::mem::take(&mut self.only_change_turns_back) {
            self.names.extend_from_slice(self.query.question.name().as_wire());
            self.names.extend_from_slice(&self.wire[..self.len]);
        }
        if turns_back {
            self.names.extend_from_slice(&self.wire[..self.len]);
            self.names.extend_from_slice(after);
        }
    }

    /// Returns the OPT record. A query without one gets one (CoreDNS `setupEdns0Opt`).
    pub(super) fn opt(&mut self) -> &mut Opt {
        self.opt.get_or_insert_with(|| Opt::of(self.query.edns.as_ref()))
    }

    /// Notes that a rule applies.
    pub(super) fn note_rule(&mut self, number: usize) {
        self.rules.push(number as u32);
    }

    /// Returns whether the plugins after *rewrite* get another query.
    pub(super) fn is_changed(&self) -> bool {
        let question = &self.query.question;
        self.len > 0 || self.opt.is_some() || (self.qtype, self.qclass) != (question.qtype, question.qclass)
    }

    /// Returns whether any rule applies, to the query or to its reply.
    pub(super) fn is_noted(&self) -> bool {
        !self.rules.is_empty() || self.is_changed()
    }

    /// Writes the changed query, and what the reply needs. `echoed`: the codes of options that a response repeats.
    pub(super) fn write(&self, echoed: &[u16], rewritten: &mut Rewritten) {
        let name = if self.len == 0 { self.query.sent_name() } else { self.name() };
        if self.is_changed() {
            let opt = self.opt.as_ref().map(Opt::as_edns);
            let edns = opt.as_ref().or(self.query.edns.as_ref());
            self.query.write_changed(name, self.qtype, self.qclass, edns, &mut rewritten.packet);
            rewritten.name_len = name.as_wire().len();
        }
        rewritten.rules.extend_from_slice(&self.rules);
        rewritten.names.extend_from_slice(&self.names);
        if let Some(edns) = self.query.edns.as_ref().filter(|_| !echoed.is_empty()) {
            match &self.opt {
                Some(opt) => opt.write_shown(echoed, &mut rewritten.options),
                None => Opt::of(Some(edns)).write_shown(echoed, &mut rewritten.options),
            }
        }
        rewritten.writes_codes = self.is_stopped || self.has_response_rules;
    }
}
