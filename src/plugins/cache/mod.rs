//! *cache*: keeps what plugins behind it say of a name, and answers with that (CoreDNS `plugin/cache`).
//!
//! ```text
//! query ─► Memory::find ─┬─ good ─► the item's octets ─► reply, with the seconds that are left
//!                        ├─ over, of use ─► the same, and a refresh before, beside or behind it (stale.rs)
//!                        └─ none ─► the next plugin
//! reply ─► judge.rs: its sort and its TTL ─► Item ─► Store
//! ```
//!
//! An item is a message in wire form; its question, DO and CD are the key, and are compared whole. What is said of the
//! cluster ([`Origin::Live`]) is never kept, only its TTLs are those that a kept answer would have. Where names that the
//! cluster does not have go on to other plugins, it is asked before an item of theirs is used ([`Plugin::claims`]).

mod classify;
mod config;
mod counts;
mod item;
mod stale;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::chain::{Exchange, Failure, Origin, Plugin, Step, Transport, Wait, Zones};
use crate::upstream;
use crate::wire::header::flag;
use crate::wire::{NameBuf, Query, Question, Rcode};
use classify::Sort;
use counts::{DROPS, MISSES, PREFETCHES, REQUESTS};
use item::{Bits, Item};
use store::{Place, Store};

pub use config::{Config, Limits, Prefetch, Stale, Verify, parse};
pub use counts::{Caches, Counts};

/// What is kept for a server block, on all its sockets.
pub struct Memory {
    config: Config,
    /// Names in these are kept,
    zones: Zones,
    /// but for those whose answers are not, or whose denials.
    no_success: Zones,
    no_denial: Zones,
    /// What is said of names in these is always [`Origin::Live`], so that nothing need be looked for. They are within
    /// `zones`.
    live: Zones,
    /// Names in these may come to be answered live by a plugin behind the cache, whatever another one has said of them.
    shared: Zones,
    store: Arc<Store>,
}

impl Memory {
    /// Nothing yet. Every name in the `live` zones is answered by a plugin that makes its replies [`Origin::Live`], and of
    /// the `shared` zones those that it claims.
    pub fn new(config: Config, live: &[NameBuf], shared: &[NameBuf]) -> Memory {
        fn index<'a>(names: impl IntoIterator<Item = &'a NameBuf>) -> Zones {
            let mut zones = Zones::default();
            for name in names {
                zones.add(name, 0);
            }
            zones
        }
        let is_covered = |name: &&NameBuf| config.zones.iter().any(|zone| name.as_name().is_within(zone.as_name()));
        Memory {
            zones: index(&config.zones),
            no_success: index(&config.success.except),
            no_denial: index(&config.denial.except),
            live: index(live.iter().filter(is_covered)),
            shared: index(shared),
            store: Arc::new(Store::new(&config.success, &config.denial)),
            config,
        }
    }

    /// The counts of this memory on a socket.
    pub fn counts(&self, caches: &Caches, server: &str) -> Arc<Counts> {
        let zones: Vec<String> = self.config.zones.iter().map(ToString::to_string).collect();
        caches.counts(server, &zones.join(","), &self.store)
    }

    /// The item that answers a question: one that is good, or of use though it no longer is.
    fn find(&self, asked: Asked<'_>, now: Instant) -> Option<(Arc<Item>, Place)> {
        let Asked { question, bits, key } = asked;
        let up_to = self.config.stale.as_ref().map_or(0, |stale| i64::from(stale.up_to));
        let is_of_use = |item: &Item| {
            let remaining = item.remaining(now);
            (remaining > 0 || -remaining < up_to) && item.is_of(question, bits)
        };
        let get = |place| self.store.get(place, key);
        if self.config.stale.as_ref().is_some_and(|stale| stale.prefer_positive)
            && let Some(item) = get(Place::Success).and_then(|item| item.good()).filter(|item| is_of_use(item))
        {
            return Some((item, Place::Success));
        }
        let success = || get(Place::Success).filter(|item| is_of_use(item)).map(|item| (item, Place::Success));
        match get(Place::Denial).filter(|item| is_of_use(item)) {
            // A failure passes: it hides no answer.
            Some(item) if item.rcode() == Rcode::SERVFAIL => success().or(Some((item, Place::Denial))),
            Some(item) => Some((item, Place::Denial)),
            None => success(),
        }
    }
}

/// What is asked for in a memory.
#[derive(Clone, Copy)]
struct Asked<'a> {
    question: &'a Question,
    bits: Bits,
    key: u64,
}

/// The plugin, for a block on one socket.
#[derive(Clone)]
pub struct Cache {
    memory: Arc<Memory>,
    counts: Arc<Counts>,
}

impl Cache {
    /// The plugin that answers from this memory.
    pub fn new(memory: Arc<Memory>, counts: Arc<Counts>) -> Cache {
        Cache { memory, counts }
    }

    fn asked<'a>(&self, query: &'a Query<'_>) -> Asked<'a> {
        let (question, bits) = (&query.question, Bits::of(query));
        Asked { question, bits, key: self.memory.store.key(question, bits) }
    }

    fn covers(&self, question: &Question) -> bool {
        self.memory.zones.longest(question).is_some()
    }

    /// Whether a plugin behind answers the question live.
    fn is_claimed(&self, exchange: &Exchange<'_>) -> bool {
        self.memory.shared.longest(exchange.question()).is_some() && exchange.is_claimed()
    }

    /// Makes the exchange's reply what an item says.
    fn fill(&self, exchange: &mut Exchange<'_>, item: &Item, ttl: u32) {
        let question = exchange.question();
        item.fill(exchange.reply(), question, ttl);
        self.conclude(exchange);
        exchange.state.origin = Origin::Kept;
    }

    /// AD is for who has asked for it (RFC 6840 5.8).
    fn conclude(&self, exchange: &mut Exchange<'_>) {
        let query = exchange.query;
        if exchange.reply().authentic_data && query.flags() & flag::AD == 0 {
            exchange.reply().authentic_data = Bits::of(query).dnssec_ok;
        }
    }

    /// Whether an item that is good should be renewed (CoreDNS `shouldPrefetch`).
    fn wants_prefetch(&self, item: &Item, remaining: u32, now: Instant) -> bool {
        let Some(prefetch) = &self.memory.config.prefetch else { return false };
        let hits = item.count_hit(prefetch.gap, now);
        let threshold = (u64::from(item.ttl) * u64::from(prefetch.percentage)).div_ceil(100);
        hits >= prefetch.amount && u64::from(remaining) <= threshold
    }

    /// Refreshes an item beside the answers, unless somebody does.
    fn refresh_beside(&self, exchange: &mut Exchange<'_>, item: &Arc<Item>) {
        let Some(refreshing) = item.begin_refresh(exchange.now) else { return };
        self.counts.cells.mine().add(PREFETCHES, 1);
        exchange.state.asked.add(flag::AD, true);
        // Nobody waits for it, and over TCP it comes whole.
        let refresh = exchange.refresh(Transport::Tcp);
        exchange.spawn(Box::pin(async move {
            refresh.await;
            drop(refreshing);
        }));
    }

    /// Keeps a reply of this sort and TTL, if it may be kept; `old` is what it refreshes.
    fn keep(&self, exchange: &mut Exchange<'_>, asked: Asked<'_>, sort: Sort, ttl: u32, old: Option<&Arc<Item>>) {
        let memory = &*self.memory;
        let (place, except) = match sort {
            Sort::Answer | Sort::Delegation => (Place::Success, &memory.no_success),
            Sort::NameError | Sort::NoData | Sort::Failure => (Place::Denial, &memory.no_denial),
            Sort::Other => return,
        };
        let Asked { question, key, .. } = asked;
        if ttl == 0 || !sort.may_be_kept(exchange.reply(), question) || except.longest(question).is_some() {
            return;
        }
        let answers = classify::answers(exchange.reply(), question);
        let now = exchange.now;
        let Some(mut item) = Item::new(exchange.query, exchange.reply(), ttl, answers, now) else {
            return self.counts.cells.mine().add(DROPS, 1);
        };
        if let Some(old) = old {
            item.inherit_hits(old);
        }
        let prefers_positive = memory.config.stale.as_ref().is_some_and(|stale| stale.prefer_positive);
        if place == Place::Success {
            if prefers_positive && !answers {
                let good = memory.store.get(place, key).and_then(|previous| previous.good());
                item.last_good = good.filter(|good| good.is_of(question, asked.bits));
            }
            // What a refresh brings is the newest that is known of the name.
            let takes_over = if prefers_positive { answers } else { exchange.is_refresh() };
            if takes_over {
                memory.store.remove(Place::Denial, key);
            }
        }
        let gone = memory.store.put(place, key, item);
        if gone > 0 {
            self.counts.cells.mine().add(counts::evictions(place), gone);
        }
    }

    /// Keeps that there was no answer at all, so that its clients do not all ask again (RFC 9520 2.2).
    fn keep_failure(&self, exchange: &mut Exchange<'_>) {
        use upstream::Error;
        match &exchange.state.failure {
            // The server had too much to do, which says nothing of the name.
            Some(Failure::Overload(_) | Failure::Upstream(Error::Limit(_) | Error::Full | Error::Ending)) | None => {}
            Some(_) if exchange.state.reply.rcode != Rcode::SERVFAIL => {}
            Some(_) => {
                let asked = self.asked(exchange.query);
                self.keep(exchange, asked, Sort::Failure, self.memory.failure_ttl(), None);
            }
        }
    }
}

impl Memory {
    /// Whole seconds that a failure is kept.
    fn failure_ttl(&self) -> u32 {
        self.config.servfail.as_secs() as u32
    }
}

impl Plugin for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let is_live = self.memory.live.longest(exchange.question()).is_some();
        if !is_live && !self.covers(exchange.question()) {
            return Step::Next;
        }
        let (now, cells) = (exchange.now, self.counts.cells.mine());
        let found = if is_live { None } else { self.memory.find(self.asked(exchange.query), now) };
        // What has come into the cluster since is newer than what another plugin has said of it.
        let found = found.filter(|_| !self.is_claimed(exchange));
        let Some((item, place)) = found else {
            cells.add_all([(REQUESTS, 1), (MISSES, 1)]);
            exchange.state.asked.add(flag::AD, true);
            return Step::Next;
        };
        cells.add_all([(REQUESTS, 1), (counts::hits(place), 1)]);
        let remaining = match u32::try_from(item.remaining(now)) {
            Ok(remaining @ 1..) => remaining,
            _ => return self.serve_stale(exchange, &item),
        };
        if self.wants_prefetch(&item, remaining, now) {
            self.refresh_beside(exchange, &item);
        }
        let ttl = if self.memory.config.keep_ttl { item.ttl } else { remaining };
        self.fill(exchange, &item, ttl);
        Step::Answered
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let (question, is_refresh) = (exchange.question(), exchange.is_refresh());
        let is_done = match exchange.state.origin {
            Origin::Made => false,
            // Nearly every answer of the cluster may go as it is.
            Origin::Live => !is_refresh && classify::has_good_ttl(exchange.reply(), &self.memory.config),
            Origin::Kept => true,
        };
        if is_done || !self.covers(question) {
            return None;
        }
        if is_refresh {
            self.refreshed(exchange);
            return None;
        }
        if exchange.state.bare {
            self.keep_failure(exchange);
            return None;
        }
        let (sort, ttl) = self.judge(exchange);
        if exchange.state.origin == Origin::Made && self.memory.live.longest(question).is_none() {
            let asked = self.asked(exchange.query);
            self.keep(exchange, asked, sort, ttl, None);
        }
        self.conclude(exchange);
        None
    }
}

impl Cache {
    /// What a reply is. Its records get the TTL that those of the kept one will have, so that it does not jump.
    fn judge(&self, exchange: &mut Exchange<'_>) -> (Sort, u32) {
        let (question, config) = (exchange.question(), &self.memory.config);
        let dnssec_ok = Bits::of(exchange.query).dnssec_ok;
        let reply = exchange.reply();
        let sort = Sort::of(reply, question, dnssec_ok.then_some(time_of_day as fn() -> u32));
        let ttl = sort.ttl(reply, &config.success, &config.denial, self.memory.failure_ttl());
        reply.records_mut().iter_mut().for_each(|record| record.ttl = ttl);
        (sort, ttl)
    }
}

/// Seconds since 1970, modulo 2³², by which signatures are dated (RFC 4034 3.1.5). Nothing else here is.
fn time_of_day() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}
