//! An answer as it is kept: octets, as a message to its own question, and what is known of its use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::wire::encode::encode;
use crate::wire::header::{self, flag};
use crate::wire::{MAX_MESSAGE, Message, Query, Question, Rcode, Reply};

/// Nearly every answer fits into this.
const SHORT: usize = 2_048;
/// Milliseconds that have not been set.
const NEVER: u32 = u32::MAX;

/// What of a query is part of its key besides the question (RFC 6840 5.9; CoreDNS's key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    /// DO: signatures are wanted.
    pub(super) dnssec_ok: bool,
    /// CD: what is bogus is wanted, too.
    checking_disabled: bool,
}

impl Bits {
    /// Those of a query.
    pub(super) fn of(query: &Query<'_>) -> Bits {
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        Bits { dnssec_ok, checking_disabled: query.flags() & flag::CD != 0 }
    }

    /// As a number below 4.
    pub(super) fn number(self) -> u64 {
        u64::from(self.dnssec_ok) | u64::from(self.checking_disabled) << 1
    }
}

/// An answer that is kept.
pub(super) struct Item {
    /// A whole answer without OPT, which is between two neighbours only. Its question, in lower case, is the key.
    message: Box<[u8]>,
    /// When it came.
    stored: Instant,
    /// Seconds that it is good for.
    pub(super) ttl: u32,
    bits: Bits,
    /// It has a record that answers the question.
    pub(super) answers: bool,
    /// The last answer that had one, where this has none (*prefer_positive*).
    pub(super) last_good: Option<Arc<Item>>,
    /// How often it was asked for without a pause. Written by every hit where *prefetch* is on; two that come at once may
    /// count as one.
    hits: AtomicU32,
    /// Milliseconds after `stored` when it was last asked for.
    last_hit: AtomicU32,
    /// Milliseconds after `stored` before which it is not refreshed again.
    retry_at: AtomicU32,
    /// Somebody refreshes it. Set by whoever does, freed by its [`Refreshing`].
    refreshing: AtomicBool,
}

impl Item {
    /// A reply as it is kept, all of whose records have this TTL; `None` where no message holds it.
    pub(super) fn new(query: &Query<'_>, reply: &mut Reply, ttl: u32, answers: bool, now: Instant) -> Option<Item> {
        let mut bare = query.clone();
        bare.edns = None;
        let (mut short, mut long) = ([0; SHORT], Vec::new());
        let mut message = &mut short[..];
        let mut len = encode(&bare, reply, SHORT, message);
        let is_cut = |message: &[u8]| message[2] & (flag::TC >> 8) as u8 != 0;
        if is_cut(message) {
            long.resize(MAX_MESSAGE, 0);
            message = &mut long[..];
            len = encode(&bare, reply, MAX_MESSAGE, message);
            if is_cut(message) {
                return None;
            }
        }
        // Names that end like the question point there, and get the letter case of whoever asks.
        let name = query.question.name().as_wire();
        message[header::LEN..header::LEN + name.len()].copy_from_slice(name);
        Some(Item {
            message: message[..len].into(),
            stored: now,
            ttl,
            bits: Bits::of(query),
            answers,
            last_good: None,
            hits: AtomicU32::new(0),
            last_hit: AtomicU32::new(NEVER),
            retry_at: AtomicU32::new(0),
            refreshing: AtomicBool::new(false),
        })
    }

    //--- Look

    /// How many octets it holds, those of the last good one with it.
    pub(super) fn size(&self) -> usize {
        self.message.len() + self.last_good.as_ref().map_or(0, |good| good.message.len())
    }

    /// The last one that had an answer: itself, or the one in whose place it came.
    pub(super) fn good(self: Arc<Self>) -> Option<Arc<Item>> {
        if self.answers { Some(self) } else { self.last_good.clone() }
    }

    /// The code. None that is kept has more than four bits.
    pub(super) fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.message[3] & 0x0f))
    }

    /// Whether it is an answer to this question.
    pub(super) fn is_of(&self, question: &Question, bits: Bits) -> bool {
        let name = question.name().as_wire();
        let (end, [high, low], [high_class, low_class]) =
            (header::LEN + name.len(), question.qtype.0.to_be_bytes(), question.qclass.0.to_be_bytes());
        self.bits == bits
            && self.message.get(header::LEN..end) == Some(name)
            && self.message.get(end..end + 4) == Some(&[high, low, high_class, low_class])
    }

    /// The seconds that it is still good for; negative where it no longer is.
    pub(super) fn remaining(&self, now: Instant) -> i64 {
        let age = now.saturating_duration_since(self.stored).as_secs();
        i64::from(self.ttl) - i64::try_from(age).unwrap_or(i64::MAX)
    }

    /// Makes `reply` the answer again, with this TTL for every record.
    pub(super) fn fill(&self, reply: &mut Reply, question: &Question, ttl: u32) {
        let read = reply.read(&Message::trusted(&self.message, question));
        debug_assert!(read.is_ok(), "what this server has written can be read");
        reply.records_mut().iter_mut().for_each(|record| record.ttl = ttl);
    }

    //--- Use

    /// Counts a hit; gives how many there were without a pause of `gap` (CoreDNS plugin/cache/freq).
    pub(super) fn count_hit(&self, gap: Duration, now: Instant) -> u32 {
        let now = self.milliseconds(now);
        let last = self.last_hit.swap(now, Ordering::Relaxed);
        let gap = u32::try_from(gap.as_millis()).unwrap_or(NEVER);
        if last == NEVER || now.saturating_sub(last) > gap {
            self.hits.store(1, Ordering::Relaxed);
            return 1;
        }
        self.hits.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Takes over how often an item was asked for whose place this takes.
    pub(super) fn inherit_hits(&mut self, old: &Item) {
        *self.hits.get_mut() = old.hits.load(Ordering::Relaxed);
        *self.last_hit.get_mut() = 0;
    }

    /// Begins to refresh it, unless somebody does, or has tried too short a time ago.
    pub(super) fn begin_refresh(self: &Arc<Self>, now: Instant) -> Option<Refreshing> {
        let is_due = self.milliseconds(now) >= self.retry_at.load(Ordering::Acquire);
        let begun = is_due && !self.refreshing.swap(true, Ordering::AcqRel);
        begun.then(|| Refreshing(self.clone()))
    }

    /// A refresh has failed: none is begun for this time.
    pub(super) fn refresh_failed(&self, now: Instant, recheck: Duration) {
        let recheck = u32::try_from(recheck.as_millis()).unwrap_or(NEVER);
        self.retry_at.store(self.milliseconds(now).saturating_add(recheck), Ordering::Release);
    }

    /// The time since it came. Seven weeks are enough for an item.
    fn milliseconds(&self, now: Instant) -> u32 {
        let age = now.saturating_duration_since(self.stored).as_millis();
        u32::try_from(age).unwrap_or(NEVER - 1)
    }
}

/// An item is refreshed as long as this lives, however that ends.
pub(super) struct Refreshing(Arc<Item>);

impl Drop for Refreshing {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Release);
    }
}
