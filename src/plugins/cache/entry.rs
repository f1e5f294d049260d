//! A cached reply: a message to its own question, and the state of its use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::wire::encode::encode;
use crate::wire::header::{self, flag};
use crate::wire::{MAX_MESSAGE, Message, Query, Question, Rcode, Reply};

/// The size in bytes of the buffer on the stack, which nearly every message fits into.
const SHORT: usize = 2_048;
/// The value of a time in milliseconds that is not set.
const NEVER: u32 = u32::MAX;

/// The flags of a query that are part of its key (RFC 6840 5.9; CoreDNS's key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyFlags {
    /// DO: signatures are requested.
    pub(super) dnssec_ok: bool,
    /// CD: bogus data is requested too.
    checking_disabled: bool,
}

impl KeyFlags {
    /// Returns the flags of a query.
    pub(super) fn of(query: &Query<'_>) -> KeyFlags {
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        KeyFlags { dnssec_ok, checking_disabled: query.flags() & flag::CD != 0 }
    }

    /// Returns the flags as a number below 4.
    pub(super) fn number(self) -> u64 {
        u64::from(self.dnssec_ok) | u64::from(self.checking_disabled) << 1
    }
}

/// A cached reply.
pub(super) struct CacheEntry {
    /// The complete message without OPT, which is hop-by-hop. Its question, in lower case, is part of the key.
    message: Box<[u8]>,
    /// The time at which the reply was stored.
    stored: Instant,
    /// The TTL in seconds.
    pub(super) ttl: u32,
    flags: KeyFlags,
    /// Whether it has a record that answers the question.
    pub(super) has_answer: bool,
    /// The last entry with such a record, if this has none (*prefer_positive*).
    pub(super) last_positive: Option<Arc<CacheEntry>>,
    /// The number of hits without a pause. Written by every hit if *prefetch* is on; two concurrent ones may count
    /// once.
    hits: AtomicU32,
    /// The time of the last hit, in milliseconds after `stored`.
    last_hit: AtomicU32,
    /// The time before which it is not refreshed again, in milliseconds after `stored`.
    retry_at: AtomicU32,
    /// Whether a refresh is in progress. Set by the worker that starts it, cleared by its [`RefreshGuard`].
    refreshing: AtomicBool,
}

impl CacheEntry {
    /// Creates an entry from a reply whose records all have this TTL. Returns `None` if no message can hold it.
    pub(super) fn new(
        query: &Query<'_>, reply: &mut Reply, ttl: u32, has_answer: bool, now: Instant,
    ) -> Option<CacheEntry> {
        let mut bare = query.clone();
        bare.edns = None;
        let (mut short, mut long) = ([0; SHORT], Vec::new());
        let mut message = &mut short[..];
        let mut len = encode(&bare, reply, SHORT, message);
        let is_truncated = |message: &[u8]| message[2] & (flag::TC >> 8) as u8 != 0;
        if is_truncated(message) {
            long.resize(MAX_MESSAGE, 0);
            message = &mut long[..];
            len = encode(&bare, reply, MAX_MESSAGE, message);
            if is_truncated(message) {
                return None;
            }
        }
        // Names that end like the question are pointers into it, and so get the letter case of each client.
        let name = query.question.name().as_wire();
        message[header::LEN..header::LEN + name.len()].copy_from_slice(name);
        Some(CacheEntry {
            message: message[..len].into(),
            stored: now,
            ttl,
            flags: KeyFlags::of(query),
            has_answer,
            last_positive: None,
            hits: AtomicU32::new(0),
            last_hit: AtomicU32::new(NEVER),
            retry_at: AtomicU32::new(0),
            refreshing: AtomicBool::new(false),
        })
    }

    //--- Reading

    /// Returns the size of the message in bytes, including that of the last positive entry.
    pub(super) fn size(&self) -> usize {
        self.message.len() + self.last_positive.as_ref().map_or(0, |good| good.message.len())
    }

    /// Returns the last entry with an answer record: this one, or the one that it replaced.
    pub(super) fn positive_entry(self: Arc<Self>) -> Option<Arc<CacheEntry>> {
        if self.has_answer { Some(self) } else { self.last_positive.clone() }
    }

    /// Returns the response code. Cached replies have no code above four bits.
    pub(super) fn rcode(&self) -> Rcode {
        Rcode(u16::from(self.message[3] & 0x0f))
    }

    /// Returns whether this is the entry of a key.
    pub(super) fn is_for(&self, question: &Question, flags: KeyFlags) -> bool {
        let name = question.name().as_wire();
        let (end, [high, low], [high_class, low_class]) =
            (header::LEN + name.len(), question.qtype.0.to_be_bytes(), question.qclass.0.to_be_bytes());
        self.flags == flags
            && self.message.get(header::LEN..end) == Some(name)
            && self.message.get(end..end + 4) == Some(&[high, low, high_class, low_class])
    }

    /// Returns the remaining TTL in seconds; negative if it is expired.
    pub(super) fn remaining(&self, now: Instant) -> i64 {
        let age = now.saturating_duration_since(self.stored).as_secs();
        i64::from(self.ttl) - i64::try_from(age).unwrap_or(i64::MAX)
    }

    /// Fills `reply` from the message, with this TTL for every record.
    pub(super) fn fill(&self, reply: &mut Reply, question: &Question, ttl: u32) {
        let read = reply.read(&Message::trusted(&self.message, question));
        debug_assert!(read.is_ok(), "a message that this server wrote is valid");
        reply.records_mut().iter_mut().for_each(|record| record.ttl = ttl);
    }

    //--- Use

    /// Counts a hit, and returns the number of hits without a pause of `gap` (CoreDNS plugin/cache/freq).
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

    /// Copies the number of hits of the entry that this replaces.
    pub(super) fn inherit_hits(&mut self, old: &CacheEntry) {
        *self.hits.get_mut() = old.hits.load(Ordering::Relaxed);
        *self.last_hit.get_mut() = 0;
    }

    /// Starts a refresh, unless one is in progress or has failed recently.
    pub(super) fn begin_refresh(self: &Arc<Self>, now: Instant) -> Option<RefreshGuard> {
        let is_due = self.milliseconds(now) >= self.retry_at.load(Ordering::Acquire);
        let has_started = is_due && !self.refreshing.swap(true, Ordering::AcqRel);
        has_started.then(|| RefreshGuard(self.clone()))
    }

    /// Records that a refresh failed: none is started for this time.
    pub(super) fn record_failed_refresh(&self, now: Instant, recheck: Duration) {
        let recheck = u32::try_from(recheck.as_millis()).unwrap_or(NEVER);
        self.retry_at.store(self.milliseconds(now).saturating_add(recheck), Ordering::Release);
    }

    /// Returns the time since the entry was stored, in milliseconds. The range of seven weeks is sufficient.
    fn milliseconds(&self, now: Instant) -> u32 {
        let age = now.saturating_duration_since(self.stored).as_millis();
        u32::try_from(age).unwrap_or(NEVER - 1)
    }
}

/// Marks an entry as being refreshed until this is dropped.
pub(super) struct RefreshGuard(Arc<CacheEntry>);

impl Drop for RefreshGuard {
    fn drop(&mut self) {
        self.0.refreshing.store(false, Ordering::Release);
    }
}
