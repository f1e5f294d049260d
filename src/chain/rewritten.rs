//! A query that a plugin has changed for the plugins after it.
//!
//! ```text
//! query ─► prometheus, log … ─► rewrite ─ Step::Rewritten ─► cache, kubernetes, forward …  see the changed query
//! reply ◄─ prometheus, log … ◄─ rewrite ◄──────────────────────────┘
//!          see the query as received
//! ```

use crate::wire::{Name, Query, header};

/// The largest sum of the capacities of [`Rewritten`] that stays reserved.
const MAX_RESERVED: usize = 8 * 1024;

/// A query that a plugin has changed, and what the plugin needs to change the reply back.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// The query for the plugins after it, in wire form. Empty if it is the one that was received.
    pub packet: Vec<u8>,
    /// The length of the name in that packet, in bytes.
    pub name_len: usize,
    /// The name in that packet is in lower case, and its OPT record is that of the query as received.
    pub is_name_alone: bool,
    /// The numbers of the plugin's rules that apply, in their order.
    pub rules: Vec<u32>,
    /// Names that the plugin changes back, in a form of its own.
    pub names: Vec<u8>,
    /// EDNS options that a response without an OPT of its own repeats, in wire form.
    pub options: Vec<u8>,
    /// The plugin writes the response itself where the plugins after it only report a code.
    pub writes_codes: bool,
    /// The index of the plugin in its chain.
    pub(super) by: usize,
}

impl Rewritten {
    /// Returns the query for the plugins after it, unless it is the one that was received.
    pub fn query(&self) -> Option<Query<'_>> {
        if self.packet.is_empty() { None } else { Query::parse(&self.packet).ok() }
    }

    /// Returns the name of that query.
    pub fn name(&self) -> Option<Name<'_>> {
        self.packet.get(header::LEN..header::LEN + self.name_len).filter(|name| !name.is_empty()).map(Name::trusted)
    }

    /// Removes the content. The memory stays reserved, unless it is more than [`MAX_RESERVED`].
    #[inline]
    fn clear(&mut self) {
        let Rewritten { packet, name_len, is_name_alone, rules, names, options, writes_codes, by } = self;
        packet.clear();
        names.clear();
        options.clear();
        rules.clear();
        if packet.capacity() + names.capacity() + options.capacity() + rules.capacity() > MAX_RESERVED {
            (*packet, *names, *options, *rules) = Default::default();
        }
        (*name_len, *is_name_alone, *writes_codes, *by) = (0, false, false, 0);
    }
}

/// The place for a rewritten query in the state of a query. Its memory is reused for the next one.
#[derive(Debug, Default)]
pub(super) struct RewrittenSlot {
    rewritten: Option<Box<Rewritten>>,
}

impl RewrittenSlot {
    /// Clears the memory for another query.
    #[inline]
    pub(super) fn begin(&mut self) -> &mut Rewritten {
        let rewritten = self.rewritten.get_or_insert_default();
        rewritten.clear();
        rewritten
    }

    /// Returns the content, whether or not it is of the current query.
    pub(super) fn get(&self) -> Option<&Rewritten> {
        self.rewritten.as_deref()
    }

    /// Lends the content, whether or not it is of the current query, until [`RewrittenSlot::take_back`].
    pub(super) fn lend(&mut self) -> Option<Box<Rewritten>> {
        self.rewritten.take()
    }

    /// Takes the content back.
    pub(super) fn take_back(&mut self, rewritten: Box<Rewritten>) {
        self.rewritten = Some(rewritten);
    }

    /// Returns the content, whether or not it is of the current query, to change it.
    pub(super) fn get_mut(&mut self) -> Option<&mut Rewritten> {
        self.rewritten.as_deref_mut()
    }
}
