//! The OPT record of a query while rules change it, and what the response hides of that.

use smallvec::SmallVec;

use crate::wire::Edns;
use crate::wire::query::EdnsOptions;

/// The UDP payload size of an OPT record that a rule adds to a query without one.
const ADDED_SIZE: u16 = 4_096;
/// The maximum length of all options in bytes. A rule that would exceed it does not apply.
const MAX_OPTIONS: usize = 16_384;

/// The OPT record of a query while rules change it.
#[derive(Clone, Debug)]
pub(super) struct Opt {
    size: u16,
    dnssec_ok: bool,
    /// The options in wire form.
    options: SmallVec<[u8; 128]>,
    /// What the response hides, in the order of the rules.
    reverts: SmallVec<[Revert; 2]>,
}

/// What the response hides of a change.
#[derive(Clone, Debug)]
enum Revert {
    /// The option was added.
    Remove(u16),
    /// The option had this data.
    Restore(u16, Box<[u8]>),
}

impl Opt {
    /// Copies the OPT record of a query, or makes one.
    pub(super) fn of(edns: Option<&Edns<'_>>) -> Opt {
        let (size, dnssec_ok, options) =
            edns.map_or((ADDED_SIZE, false, &[][..]), |edns| (edns.size, edns.dnssec_ok, edns.options));
        Opt { size, dnssec_ok, options: SmallVec::from_slice(options), reverts: SmallVec::new() }
    }

    /// Returns the record for the changed query.
    pub(super) fn as_edns(&self) -> Edns<'_> {
        Edns { size: self.size, version: 0, dnssec_ok: self.dnssec_ok, options: &self.options }
    }

    /// Returns the place of the first option of a code.
    pub(super) fn find(&self, code: u16) -> Option<std::ops::Range<usize>> {
        let mut at = 0;
        for (have, data) in EdnsOptions::new(&self.options) {
            let end = at + 4 + data.len();
            if have == code {
                return Some(at..end);
            }
            at = end;
        }
        None
    }

    pub(super) fn remove_all(&mut self, code: u16) {
        while let Some(range) = self.find(code) {
            self.options.drain(range);
        }
    }

    /// Replaces the option at this place. Returns whether the options are not too long.
    pub(super) fn replace(&mut self, at: std::ops::Range<usize>, code: u16, data: &[u8], revert: bool) -> bool {
        if self.options.len() - at.len() + 4 + data.len() > MAX_OPTIONS {
            return false;
        }
        if revert {
            self.reverts.push(Revert::Restore(code, self.options[at.start + 4..at.end].into()));
        }
        self.put(at, code, data);
        true
    }

    pub(super) fn append(&mut self, code: u16, data: &[u8], revert: bool) -> bool {
        let end = self.options.len();
        if end + 4 + data.len() > MAX_OPTIONS {
            return false;
        }
        if revert {
            self.reverts.push(Revert::Remove(code));
        }
        self.put(end..end, code, data);
        true
    }

    pub(super) fn put(&mut self, at: std::ops::Range<usize>, code: u16, data: &[u8]) {
        let start = at.start;
        self.options.drain(at);
        let mut option: SmallVec<[u8; 64]> = SmallVec::from_slice(&code.to_be_bytes());
        // At most MAX_DATA, which is below 65,536.
        option.extend_from_slice(&(data.len() as u16).to_be_bytes());
        option.extend_from_slice(data);
        self.options.insert_from_slice(start, &option);
    }

    /// Writes the options that a response repeats: those of these codes, as they were before changes that it hides.
    pub(super) fn write_shown(&self, echoed: &[u16], out: &mut Vec<u8>) {
        let mut shown = self.clone();
        for revert in self.reverts.iter().rev() {
            match revert {
                Revert::Remove(code) => {
                    if let Some(at) = shown.find(*code) {
                        shown.options.drain(at);
                    }
                }
                Revert::Restore(code, data) => {
                    if let Some(at) = shown.find(*code) {
                        shown.put(at, *code, data);
                    }
                }
            }
        }
        for (code, data) in EdnsOptions::new(&shown.options).filter(|(code, _)| echoed.contains(code)) {
            out.extend_from_slice(&code.to_be_bytes());
            out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            out.extend_from_slice(data);
        }
    }
}
