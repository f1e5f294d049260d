//! *cache*: stores the replies of the plugins after it, and answers from them (CoreDNS `plugin/cache`).
//!
//! ```text
//! query ─► BlockCache::find ─┬─ fresh ─► the bytes of the entry ─► reply, with the remaining TTL
//!                            ├─ stale ─► the same, and a refresh before or after the response (stale.rs)
//!                            └─ none ─► the next plugin
//! reply ─► classify.rs: its class and its TTL ─► CacheEntry ─► Store
//! ```
//!
//! An entry is a message in wire form. Its key is the question with DO and CD, and is compared completely. Answers from
//! the state of the cluster ([`Origin::Live`]) are never cached, but their TTLs are those that a cached answer would
//! have. Where names that do not exist in the cluster fall through to other plugins, the plugin of the cluster is
//! consulted before a cached answer is used ([`Plugin::claims`]).

mod classify;
mod config;
mod entry;
mod metrics;
mod stale;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::chain::{
    Calls, Exchange, ExplainNotes, Explained, ExplainedReply, Failure, Origin, Plugin, Step, TraceDenial, Transport,
    Wait, Zones,
};
use crate::plugins::build::{BlockBuilder, BuildError, Setting};
use crate::telemetry::metrics::BlockLabels;
use crate::upstream;
use crate::wire::header::flag;
use crate::wire::reply::{ErrorText, ExtendedError};
use crate::wire::{NameBuf, Query, Question, Rcode, Reply};
use classify::ResponseClass;
use entry::{CacheEntry, KeyFlags};
use metrics::{DROPS, MISSES, PREFETCHES, REQUESTS};
use store::{Partition, Store};

pub use config::{Config, PartitionLimits, Prefetch, Stale, Verify, parse};
pub use metrics::{CacheCounters, CacheMetrics};

/// The cache of a server block, shared by all its sockets.
pub struct BlockCache {
    config: Config,
    /// The zones whose names are cached.
    zones: Zones,
    /// The zones whose answers are not cached.
    no_success: Zones,
    /// The zones whose denials are not cached.
    no_denial: Zones,
    /// The zones whose answers are always [`Origin::Live`], so that no look-up is needed. They are within `zones`.
    live_zones: Zones,
    /// The zones in which a plugin after the cache may answer names live, whatever is cached for them.
    shared_zones: Zones,
    store: Arc<Store>,
}

impl BlockCache {
    /// Creates an empty cache. A plugin answers all names in the `live` zones with [`Origin::Live`], and those names in
    /// the `shared` zones that it claims.
    pub fn new<'a>(
        config: Config, live: impl IntoIterator<Item = &'a NameBuf>, shared: impl IntoIterator<Item = &'a NameBuf>,
    ) -> BlockCache {
        fn index<'a>(names: impl IntoIterator<Item = &'a NameBuf>) -> Zones {
            let mut zones = Zones::default();
            for name in names {
                zones.add(name, 0);
            }
            zones
        }
        let is_covered = |name: &&NameBuf| config.zones.iter().any(|zone| name.as_name().is_within(zone.as_name()));
        BlockCache {
            zones: index(&config.zones),
            no_success: index(&config.success.except),
            no_denial: index(&config.denial.except),
            live_zones: index(live.into_iter().filter(is_covered)),
            shared_zones: index(shared),
            store: Arc::new(Store::new(&config.success, &config.denial)),
            config,
        }
    }

    /// Returns the counters of this cache for a block on a socket.
    pub fn counters(&self, metrics: &CacheMetrics, labels: &BlockLabels) -> Arc<CacheCounters> {
        let zones: Vec<String> = self.config.zones.iter().map(ToString::to_string).collect();
        metrics.counters(labels, &zones.join(","), &self.store)
    }

    /// Finds the entry for a key, fresh or usable as a stale one.
    fn find(&self, key: CacheKey<'_>, now: Instant) -> Option<CacheHit> {
        let CacheKey { question, flags, hash } = key;
        let max_age = self.config.stale.as_ref().map_or(0, |stale| i64::from(stale.max_age));
        let hit = |partition, entry: Arc<CacheEntry>| {
            let remaining = entry.remaining(now);
            let is_usable = (remaining > 0 || -remaining < max_age) && entry.is_for(question, flags);
            is_usable.then_some(CacheHit { entry, partition, remaining })
        };
        let get = |partition| self.store.get(partition, hash);
        if self.config.stale.as_ref().is_some_and(|stale| stale.prefer_positive)
            && let Some(entry) = get(Partition::Success).and_then(|entry| entry.positive_entry())
            && let Some(hit) = hit(Partition::Success, entry)
        {
            return Some(hit);
        }
        let success = || get(Partition::Success).and_then(|entry| hit(Partition::Success, entry));
        match get(Partition::Denial).and_then(|entry| hit(Partition::Denial, entry)) {
            // A failure is temporary: it does not hide an answer.
            Some(denial) if denial.entry.rcode() == Rcode::SERVFAIL => success().or(Some(denial)),
            Some(denial) => Some(denial),
            None => success(),
        }
    }
}

/// An entry that answers a question.
struct CacheHit {
    entry: Arc<CacheEntry>,
    partition: Partition,
    /// The seconds until it expires; 0 or less if it is stale.
    remaining: i64,
}

/// The extended error of a failure that is cached (RFC 8914 4.14).
const CACHED_FAILURE: ExtendedError =
    ExtendedError { code: 13, reason: "cached-failure", text: ErrorText::Fixed("the failure is cached") };

/// The key of an entry.
#[derive(Clone, Copy)]
struct CacheKey<'a> {
    question: &'a Question,
    flags: KeyFlags,
    hash: u64,
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let zones = block.live_zones();
        let named = |is_whole: bool| zones.iter().filter(move |zone| zone.is_whole == is_whole).map(|zone| &zone.zone);
        let cache = block.carry_over(|| BlockCache::new(self.clone(), named(true), named(false)));
        let metrics = block.resources().metrics.get::<CacheMetrics>();
        block.plugin_per_listener(move |listener| Cache::new(cache.clone(), cache.counters(&metrics, listener.labels)));
        Ok(())
    }
}

/// The plugin, for a block on a socket.
#[derive(Clone)]
pub struct Cache {
    cache: Arc<BlockCache>,
    counters: Arc<CacheCounters>,
}

impl Cache {
    /// Creates the plugin.
    pub fn new(cache: Arc<BlockCache>, counters: Arc<CacheCounters>) -> Cache {
        Cache { cache, counters }
    }

    fn key<'a>(&self, query: &'a Query<'_>) -> CacheKey<'a> {
        let (question, flags) = (&query.question, KeyFlags::of(query));
        CacheKey { question, flags, hash: self.cache.store.hash(question, flags) }
    }

    fn covers(&self, question: &Question) -> bool {
        self.cache.zones.longest(question).is_some()
    }

    /// Returns whether a plugin after the cache answers the question live.
    fn is_claimed(&self, exchange: &Exchange<'_>) -> bool {
        self.cache.shared_zones.longest(exchange.question()).is_some() && exchange.is_claimed()
    }

    /// Fills the reply from an entry.
    fn fill(&self, exchange: &mut Exchange<'_>, entry: &CacheEntry, ttl: u32) {
        let question = exchange.question();
        entry.fill(exchange.reply(), question, ttl);
        self.set_authentic_data(exchange);
        exchange.state.origin = Origin::Cached;
    }

    /// Clears AD unless the client requested it (RFC 6840 5.8).
    fn set_authentic_data(&self, exchange: &mut Exchange<'_>) {
        let query = exchange.query;
        if exchange.reply().authentic_data && query.flags() & flag::AD == 0 {
            exchange.reply().authentic_data = KeyFlags::of(query).dnssec_ok;
        }
    }

    /// Returns whether a fresh entry is to be refreshed early (CoreDNS `shouldPrefetch`).
    fn wants_prefetch(&self, entry: &CacheEntry, remaining: u32, now: Instant) -> bool {
        let Some(prefetch) = &self.cache.config.prefetch else { return false };
        let hits = entry.count_hit(prefetch.gap, now);
        let threshold = (u64::from(entry.ttl) * u64::from(prefetch.percentage)).div_ceil(100);
        hits >= prefetch.amount && u64::from(remaining) <= threshold
    }

    /// Refreshes an entry in the background, unless a refresh is in progress.
    fn refresh_in_background(&self, exchange: &mut Exchange<'_>, entry: &Arc<CacheEntry>) {
        let Some(guard) = entry.begin_refresh(exchange.now) else { return };
        self.counters.cells.mine().add(PREFETCHES, 1);
        exchange.state.flag_changes.add(flag::AD, true);
        // No client waits for the refresh, and over TCP the response is complete.
        let refresh = exchange.refresh(Transport::Tcp);
        exchange.spawn(Box::pin(async move {
            refresh.await;
            drop(guard);
        }));
    }

    /// Stores a reply of this class with this TTL, if it may be cached; `old` is the entry that it refreshes.
    fn store_reply(
        &self, exchange: &mut Exchange<'_>, key: CacheKey<'_>, class: ResponseClass, ttl: u32,
        old: Option<&Arc<CacheEntry>>,
    ) {
        let cache = &*self.cache;
        let CacheKey { question, hash, .. } = key;
        let Some(partition) = cache.partition_for(exchange.reply(), question, class, ttl) else { return };
        let answers = classify::has_answer_record(exchange.reply(), question);
        let now = exchange.now;
        let Some(mut entry) = CacheEntry::new(exchange.query, exchange.reply(), ttl, answers, now) else {
            return self.counters.cells.mine().add(DROPS, 1);
        };
        if let Some(old) = old {
            entry.inherit_hits(old);
        }
        let prefers_positive = cache.config.stale.as_ref().is_some_and(|stale| stale.prefer_positive);
        if partition == Partition::Success {
            if prefers_positive && !answers {
                let good = cache.store.get(partition, hash).and_then(|previous| previous.positive_entry());
                entry.last_positive = good.filter(|good| good.is_for(question, key.flags));
            }
            // The reply of a refresh is newer than every entry of the name.
            let replaces_denial = if prefers_positive { answers } else { exchange.is_refresh() };
            if replaces_denial {
                cache.store.remove(Partition::Denial, hash);
            }
        }
        let evicted = cache.store.put(partition, hash, entry);
        if evicted > 0 {
            self.counters.cells.mine().add(metrics::evictions(partition), evicted);
        }
    }

    /// Stores that there was no answer, so that not every client causes another query (RFC 9520 2.2).
    fn store_failure(&self, exchange: &mut Exchange<'_>) {
        if is_failure_of_name(exchange) {
            let key = self.key(exchange.query);
            self.store_reply(exchange, key, ResponseClass::Failure, self.cache.failure_ttl(), None);
        }
    }

    /// Returns a line about what becomes of a reply that the cache has not made, without storing it.
    fn explain_storing(&self, exchange: &mut Exchange<'_>) -> Option<String> {
        let question = exchange.question();
        let (class, ttl) = match exchange.state.bare {
            true if !is_failure_of_name(exchange) => return None,
            true => (ResponseClass::Failure, self.cache.failure_ttl()),
            false => self.classify(exchange),
        };
        // An answer of the cluster is always current.
        let is_live = exchange.state.origin == Origin::Live || self.cache.live_zones.longest(question).is_some();
        if is_live && !exchange.state.bare {
            return None;
        }
        let is_stored = self.cache.partition_for(exchange.reply(), question, class, ttl).is_some();
        Some(if is_stored { format!("stores the reply for {ttl} s") } else { "does not store the reply".to_owned() })
    }
}

/// Returns whether the failure of a query says something of its name.
fn is_failure_of_name(exchange: &Exchange<'_>) -> bool {
    use upstream::Error;
    match &exchange.state.failure {
        // Overload of this server is not related to the name.
        Some(Failure::Overload(_) | Failure::Upstream(Error::Limit(_) | Error::Full | Error::Ending)) | None => false,
        Some(_) if exchange.state.reply.rcode != Rcode::SERVFAIL => false,
        // *cancel* has ended the query, which says nothing of the name either.
        Some(_) => exchange.deadline().is_none_or(|deadline| exchange.now < deadline),
    }
}

impl BlockCache {
    /// Returns where a reply of this class with this TTL is stored; `None` if it must not be cached.
    fn partition_for(&self, reply: &Reply, question: &Question, class: ResponseClass, ttl: u32) -> Option<Partition> {
        let (partition, except) = match class {
            ResponseClass::Answer | ResponseClass::Delegation => (Partition::Success, &self.no_success),
            ResponseClass::NameError | ResponseClass::NoData | ResponseClass::Failure => {
                (Partition::Denial, &self.no_denial)
            }
            ResponseClass::Other => return None,
        };
        let is_stored = ttl > 0 && class.is_cacheable(reply, question) && except.longest(question).is_none();
        is_stored.then_some(partition)
    }

    /// Returns the TTL of failures in seconds.
    fn failure_ttl(&self) -> u32 {
        self.config.servfail.as_secs() as u32
    }
}

impl Plugin for Cache {
    fn name(&self) -> &'static str {
        "cache"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, sent: false }
    }

    fn stores_replies(&self) -> bool {
        true
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        let is_live = self.cache.live_zones.longest(exchange.question()).is_some();
        if is_live || !self.covers(exchange.question()) {
            return Explained::Next;
        }
        let Some(CacheHit { entry, remaining, .. }) = self.cache.find(self.key(exchange.query), exchange.now) else {
            notes.lines.push("has no entry for the question".to_owned());
            return Explained::Next;
        };
        if self.is_claimed(exchange) {
            notes.lines.push("does not use its entry: a plugin after it answers the name from the cluster".to_owned());
            return Explained::Next;
        }
        let age = i64::from(entry.ttl) - remaining;
        let (ttl, freshness) = match u32::try_from(remaining) {
            Ok(ttl @ 1..) => (ttl, format!("valid for another {ttl} s")),
            _ => (0, format!("stale for {} s", -remaining)),
        };
        notes.lines.push(format!("has an entry: {}, {age} s old, {freshness}", entry.rcode()));
        self.fill(exchange, &entry, ttl);
        if !exchange.reply().has_answer() {
            let (code, is_stale) = (entry.rcode(), remaining <= 0);
            let kind = if code == Rcode::NOERROR { "NODATA".to_owned() } else { code.to_string() };
            let text = format!("the answer {kind} is from the cache, {age} s old, {freshness}");
            let reason = match code {
                _ if is_stale => "cached-stale",
                Rcode::SERVFAIL => "cached-failure",
                _ => "cached",
            };
            notes.denial = Some(TraceDenial { reason: reason.to_owned(), text, nearest: Vec::new() });
        }
        Explained::Answered
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        let is_live = self.cache.live_zones.longest(exchange.question()).is_some();
        if !is_live && !self.covers(exchange.question()) {
            return Step::Next;
        }
        let (now, cells) = (exchange.now, self.counters.cells.mine());
        let found = if is_live { None } else { self.cache.find(self.key(exchange.query), now) };
        // A name that was added to the cluster since is newer than a cached answer of another plugin.
        let found = found.filter(|_| !self.is_claimed(exchange));
        let Some(CacheHit { entry, partition, remaining }) = found else {
            cells.add_all([(REQUESTS, 1), (MISSES, 1)]);
            exchange.state.flag_changes.add(flag::AD, true);
            return Step::Next;
        };
        cells.add_all([(REQUESTS, 1), (metrics::hits(partition), 1)]);
        let remaining = match u32::try_from(remaining) {
            Ok(remaining @ 1..) => remaining,
            _ => return self.serve_stale(exchange, &entry),
        };
        if self.wants_prefetch(&entry, remaining, now) {
            self.refresh_in_background(exchange, &entry);
        }
        let ttl = if self.cache.config.keep_ttl { entry.ttl } else { remaining };
        self.fill(exchange, &entry, ttl);
        if entry.rcode() == Rcode::SERVFAIL {
            exchange.reply().extended_error = Some(CACHED_FAILURE);
        }
        Step::Answered
    }

    fn explain_reply(&self, exchange: &mut Exchange<'_>, lines: &mut Vec<String>) -> ExplainedReply {
        if exchange.state.origin != Origin::Cached && self.covers(exchange.question()) {
            lines.extend(self.explain_storing(exchange));
            self.set_authentic_data(exchange);
        }
        ExplainedReply::Known
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let (question, is_refresh) = (exchange.question(), exchange.is_refresh());
        let needs_no_change = match exchange.state.origin {
            Origin::Made => false,
            // Nearly every answer of the cluster needs no change.
            Origin::Live => !is_refresh && classify::has_good_ttl(exchange.reply(), &self.cache.config),
            Origin::Cached => true,
        };
        if needs_no_change || !self.covers(question) {
            return None;
        }
        if is_refresh {
            self.handle_refresh(exchange);
            return None;
        }
        if exchange.state.bare {
            self.store_failure(exchange);
            return None;
        }
        let (class, ttl) = self.classify(exchange);
        if exchange.state.origin == Origin::Made && self.cache.live_zones.longest(question).is_none() {
            let key = self.key(exchange.query);
            self.store_reply(exchange, key, class, ttl, None);
        }
        self.set_authentic_data(exchange);
        None
    }
}

impl Cache {
    /// Classifies a reply. Its records get the TTL of the cached reply, so that it does not change on a hit.
    fn classify(&self, exchange: &mut Exchange<'_>) -> (ResponseClass, u32) {
        let (question, config) = (exchange.question(), &self.cache.config);
        let dnssec_ok = KeyFlags::of(exchange.query).dnssec_ok;
        let reply = exchange.reply();
        let class = ResponseClass::of(reply, question, dnssec_ok.then_some(time_of_day as fn() -> u32));
        let ttl = class.ttl(reply, &config.success, &config.denial, self.cache.failure_ttl());
        reply.records_mut().iter_mut().for_each(|record| record.ttl = ttl);
        (class, ttl)
    }
}

/// Returns the Unix time modulo 2³², for the validity of signatures (RFC 4034 3.1.5); nothing else here depends on it.
fn time_of_day() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}
