//! The queries that a worker has sent to upstreams and that are not answered.
//!
//! ```text
//!  key ──────────┐                          ┌─► waiter (client A) ─► waiter (client B) ─► …
//!  socket, ID ───┴─► query: attempts, timer ┘     each counts towards the limit and for its client
//! ```
//!
//! The table has a limit on waiters, of which identical queries share one query, and allocates nothing once it has
//! grown. It does no I/O: its caller reports what was sent and what came in. An answer belongs to a query only if it
//! came through the socket that the query left by, has its random ID and repeats its question (RFC 5452 9.1); anything
//! else is dropped.
//!
//! A query that has ended stays until the last of its waiters is removed, so that the many waiters of one query are
//! answered little by little, and count towards the limit until then.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::query_permit::QueryPermit;
use super::timer_wheel::TimerWheel;
use super::{Attempts, Error, Group, RevokedPermit, WaiterPlace};
use crate::net::{Shares, Ticket};
use crate::wire::QueryChange;

/// Attempts over UDP of one query whose answers are still accepted: a slow upstream may answer when the next one was
/// queried already.
const MAX_OPEN_ATTEMPTS: usize = 4;
/// The number of waiters of a query, the oldest ones, that a retransmission is compared with.
const MAX_COMPARED: usize = 8;
/// No query, or no waiter.
const NONE: u32 = u32::MAX;

/// A client, or a task of this server, that waits for an answer.
pub trait Waiter {
    /// Returns the query as received: a complete packet that was parsed before.
    fn packet(&self) -> &[u8];

    /// Returns the changes of the query when it is sent.
    fn change(&self) -> QueryChange;

    /// Returns the address of the client, for which the waiter counts.
    fn client(&self) -> IpAddr;

    /// Returns whether this is the same query of the same client, sent again.
    fn is_repeated_by(&self, other: &Self) -> bool;
}

/// A table of queries in flight with waiters `W`. `O` is the outcome that all waiters of a query get.
pub struct InFlight<W, O> {
    queries: Slab<InFlightQuery<O>>,
    waiters: Slab<WaiterEntry<W>>,
    /// The waiters' shares of the limit, by client.
    shares: Shares<u32>,
    /// The most waiters.
    limit: usize,
    /// The number of the worker that has this table.
    worker: usize,
    /// Queries by what makes queries identical.
    by_key: HashMap<u64, u32, foldhash::fast::RandomState>,
    /// Queries by socket and ID.
    by_id: HashMap<(u32, u16), u32, foldhash::fast::RandomState>,
    timers: TimerWheel,
    /// Queries that have ended and have waiters.
    ended: VecDeque<AttemptId>,
    /// The last serial number of an attempt.
    serial: u64,
    random: Random,
}

/// A query in the table.
pub struct InFlightQuery<O> {
    /// Its attempts.
    pub attempts: Attempts,
    /// What makes queries identical, hashed.
    key: u64,
    /// The serial number of the last attempt.
    serial: u64,
    /// The last attempt goes over UDP; it is the last one of `open`.
    is_udp: bool,
    /// When the last attempt started.
    started: Instant,
    /// The attempts over UDP whose answers are accepted. Nearly all queries have one, and thousands may be in flight.
    open: SmallVec<[OpenAttempt; 1]>,
    /// The waiters, a list in the order in which they came.
    first: u32,
    last: u32,
    /// There once the query has ended.
    outcome: Option<O>,
}

/// An attempt over UDP whose answer is accepted.
#[derive(Clone, Copy)]
struct OpenAttempt {
    socket: u32,
    id: u16,
    upstream: u8,
    sent: Instant,
}

/// A waiter in the table.
struct WaiterEntry<W> {
    waiter: W,
    /// What it holds of `max_concurrent`; `None` where there is no limit.
    permit: Option<QueryPermit>,
    query: u32,
    /// Where it counts for its client.
    ticket: Ticket,
    previous: u32,
    next: u32,
}

/// Names an attempt of a query. It is stale once another attempt has started or the query has ended, even when another
/// query has the same place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptId {
    /// The query's place in the table.
    pub query: u32,
    serial: u64,
}

/// What became of a new query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is in the table; its first attempt is to be made.
    Started(AttemptId),
    /// It waits for the answer of an identical query.
    Merged,
    /// It is a retransmission of a query that waits already, and was dropped.
    Repeated,
}

/// What a query that has ended or was abandoned leaves to its caller.
pub struct EndedQuery {
    /// The key that it began with.
    pub key: u64,
    /// The sockets of its open attempts.
    pub sockets: SmallVec<[u32; MAX_OPEN_ATTEMPTS]>,
}

/// A waiter that was evicted.
pub struct Evicted<W, O> {
    /// The waiter.
    pub waiter: W,
    /// Where its query went.
    pub group: Arc<Group>,
    /// The outcome of its query, if that has ended.
    pub outcome: Option<O>,
    /// Its query, if it has no other waiter.
    pub abandoned: Option<EndedQuery>,
}

/// An attempt that a message may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The query's place in the table.
    pub query: u32,
    /// The number of its upstream, see [`Attempts::upstream_at`].
    pub upstream: u8,
    /// The time since the attempt.
    pub took: Duration,
    /// No other attempt has started since.
    pub is_last: bool,
}

/// Unpredictable numbers, fetched many at a time.
struct Random {
    bytes: [u8; 1_024],
    used: usize,
}

impl Random {
    fn number(&mut self) -> u16 {
        if self.used + 2 > self.bytes.len() {
            getrandom::fill(&mut self.bytes).expect("the kernel has random numbers");
            self.used = 0;
        }
        self.used += 2;
        u16::from_ne_bytes([self.bytes[self.used - 2], self.bytes[self.used - 1]])
    }
}

impl<W: Waiter, O: Clone> InFlight<W, O> {
    /// Creates a table with this limit on waiters, for the worker of this number.
    pub fn new(worker: usize, limit: usize, now: Instant) -> InFlight<W, O> {
        InFlight {
            queries: Slab::with_capacity(limit + 1),
            waiters: Slab::with_capacity(limit + 1),
            shares: Shares::default(),
            limit,
            worker,
            by_key: HashMap::default(),
            by_id: HashMap::default(),
            timers: TimerWheel::new(now),
            ended: VecDeque::new(),
            serial: 0,
            random: Random { bytes: [0; 1_024], used: 1_024 },
        }
    }

    //--- Waiters

    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Returns whether there is no waiter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether there are more waiters than the limit allows, so that [`InFlight::evict`] is due.
    pub fn is_over_limit(&self) -> bool {
        self.len() > self.limit
    }

    /// Returns all waiters. This visits each place of the table.
    pub fn waiters(&self) -> impl Iterator<Item = &W> {
        self.waiters.iter().map(|entry| &entry.waiter)
    }

    /// Returns whether a query with this key is in flight.
    pub fn has(&self, key: u64) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Adds a query, which may bring the table over its limit by one waiter. `key` is equal for identical queries, and
    /// rarely for others. Returns also the waiter of this or another table that has lost its permit to this one, and
    /// which is to be evicted; or the waiter and the error with which the limit of its group refuses it.
    pub fn begin(
        &mut self, key: u64, attempts: Attempts, waiter: W, now: Instant,
    ) -> Result<(Admission, Option<RevokedPermit>), (W, Error)> {
        let identical = self.find_identical(key, &attempts, &waiter);
        if identical.is_some_and(|number| self.is_repeated(number, &waiter)) {
            return Ok((Admission::Repeated, None));
        }
        let place = WaiterPlace { worker: self.worker, waiter: self.waiters.next_place() };
        let (permit, revoked) = match QueryPermit::acquire(attempts.group(), waiter.client(), place) {
            Ok(permit) => permit,
            Err(error) => return Err((waiter, error)),
        };
        if let Some(number) = identical {
            self.add_waiter(number, waiter, permit);
            return Ok((Admission::Merged, revoked));
        }
        let serial = self.next_serial();
        let query = self.queries.insert(InFlightQuery {
            attempts,
            key,
            serial,
            is_udp: false,
            started: now,
            open: SmallVec::new(),
            first: NONE,
            last: NONE,
            outcome: None,
        });
        self.by_key.insert(key, query);
        self.add_waiter(query, waiter, permit);
        Ok((Admission::Started(AttemptId { query, serial }), revoked))
    }

    /// Evicts a waiter for one of this client: the oldest one of the client with the most.
    pub fn evict(&mut self, client: IpAddr) -> Option<Evicted<W, O>> {
        let &at = self.shares.get(self.shares.victim_for(client.to_canonical())?)?;
        self.evict_waiter(at)
    }

    /// Evicts the waiter that has lost this permit, if it still waits.
    pub fn revoke(&mut self, revoked: &RevokedPermit) -> Option<Evicted<W, O>> {
        let at = revoked.place.waiter;
        let permit = self.waiters.get(at)?.permit.as_ref();
        if permit.is_some_and(|permit| permit.is(revoked)) { self.evict_waiter(at) } else { None }
    }

    fn evict_waiter(&mut self, at: u32) -> Option<Evicted<W, O>> {
        let number = self.waiters.get(at)?.query;
        let query = self.queries.get(number)?;
        let group = query.attempts.group().clone();
        let outcome = query.outcome.clone();
        let waiter = self.remove_waiter(at)?;
        let is_abandoned = self.queries.get(number).is_some_and(|query| query.first == NONE);
        let abandoned = if is_abandoned { self.forget(number).filter(|_| outcome.is_none()) } else { None };
        Some(Evicted { waiter, group, outcome, abandoned })
    }

    fn find_identical(&self, key: u64, attempts: &Attempts, waiter: &W) -> Option<u32> {
        let &number = self.by_key.get(&key)?;
        let query = self.queries.get(number)?;
        let first = &self.waiters.get(query.first)?.waiter;
        let is_identical = std::ptr::eq(&**query.attempts.group(), &**attempts.group())
            && query.attempts.transport() == attempts.transport()
            && first.change() == waiter.change()
            && are_identical(first.packet(), waiter.packet());
        is_identical.then_some(number)
    }

    fn is_repeated(&self, number: u32, waiter: &W) -> bool {
        let mut at = self.queries.get(number).map_or(NONE, |query| query.first);
        for _ in 0..MAX_COMPARED {
            let Some(entry) = self.waiters.get(at) else { return false };
            if entry.waiter.is_repeated_by(waiter) {
                return true;
            }
            at = entry.next;
        }
        false
    }

    fn add_waiter(&mut self, number: u32, waiter: W, permit: Option<QueryPermit>) {
        let Some(query) = self.queries.get_mut(number) else { return };
        let previous = query.last;
        // The entry will have the next free place.
        let ticket = self.shares.add(waiter.client().to_canonical(), self.waiters.next_place());
        let at = self.waiters.insert(WaiterEntry { waiter, permit, query: number, ticket, previous, next: NONE });
        query.last = at;
        match self.waiters.get_mut(previous) {
            Some(entry) => entry.next = at,
            None => query.first = at,
        }
    }

    fn remove_waiter(&mut self, at: u32) -> Option<W> {
        let WaiterEntry { waiter, permit: _, query, ticket, previous, next } = self.waiters.remove(at)?;
        self.shares.remove(ticket);
        let query = self.queries.get_mut(query)?;
        match self.waiters.get_mut(previous) {
            Some(entry) => entry.next = next,
            None => query.first = next,
        }
        match self.waiters.get_mut(next) {
            Some(entry) => entry.previous = previous,
            None => query.last = previous,
        }
        Some(waiter)
    }

    //--- Attempts

    /// Returns the query that an attempt belongs to, unless the attempt is stale.
    pub fn current(&mut self, id: AttemptId) -> Option<&mut InFlightQuery<O>> {
        self.queries.get_mut(id.query).filter(|query| query.serial == id.serial)
    }

    /// Returns a query in flight and its first waiter.
    pub fn get_mut(&mut self, number: u32) -> Option<(&mut InFlightQuery<O>, &W)> {
        let query = self.queries.get_mut(number).filter(|query| query.outcome.is_none())?;
        let first = &self.waiters.get(query.first)?.waiter;
        Some((query, first))
    }

    /// Returns the last attempt of a query.
    pub fn last_attempt(&self, number: u32) -> Option<AttemptId> {
        self.queries.get(number).map(|query| AttemptId { query: number, serial: query.serial })
    }

    /// Returns the key of a query, as given to [`InFlight::begin`].
    pub fn key(&self, number: u32) -> Option<u64> {
        self.queries.get(number).map(|query| query.key)
    }

    /// Records that a query is sent through this socket now, and until when its answer is waited for. Returns the ID to
    /// send and the attempt. An early attempt may have to be closed; then its socket is returned, too.
    pub fn start_udp(
        &mut self, number: u32, socket: u32, now: Instant, until: Instant,
    ) -> Option<(u16, AttemptId, Option<u32>)> {
        let serial = self.next_serial();
        let query = self.queries.get_mut(number)?;
        let id = loop {
            let id = self.random.number();
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_id.entry((socket, id)) {
                vacant.insert(number);
                break id;
            }
        };
        (query.started, query.serial, query.is_udp) = (now, serial, true);
        let mut closed = None;
        if query.open.len() == MAX_OPEN_ATTEMPTS {
            let earliest = query.open.remove(0);
            self.by_id.remove(&(earliest.socket, earliest.id));
            closed = Some(earliest.socket);
        }
        query.open.push(OpenAttempt { socket, id, upstream: query.attempts.current(), sent: now });
        self.timers.set(number, until, now);
        Some((id, AttemptId { query: number, serial }, closed))
    }

    /// Records that a query is sent over a stream now, and until when its outcome is waited for.
    pub fn start_stream(&mut self, number: u32, now: Instant, until: Instant) -> Option<AttemptId> {
        let serial = self.next_serial();
        let query = self.queries.get_mut(number)?;
        (query.started, query.serial, query.is_udp) = (now, serial, false);
        self.timers.set(number, until, now);
        Some(AttemptId { query: number, serial })
    }

    /// Returns the attempt that a message with this ID answers, if it arrived through this socket.
    pub fn find(&self, socket: u32, id: u16, now: Instant) -> Option<Found> {
        let &number = self.by_id.get(&(socket, id))?;
        let query = self.queries.get(number)?;
        let place = query.open.iter().position(|attempt| (attempt.socket, attempt.id) == (socket, id))?;
        let OpenAttempt { upstream, sent, .. } = query.open[place];
        let is_last = query.is_udp && place + 1 == query.open.len();
        Some(Found { query: number, upstream, took: now.saturating_duration_since(sent), is_last })
    }

    /// Accepts no more answers for an attempt.
    pub fn close(&mut self, socket: u32, id: u16) {
        let Some(number) = self.by_id.remove(&(socket, id)) else { return };
        if let Some(query) = self.queries.get_mut(number)
            && let Some(place) = query.open.iter().position(|attempt| (attempt.socket, attempt.id) == (socket, id))
        {
            query.is_udp &= place + 1 < query.open.len();
            query.open.remove(place);
        }
    }

    /// Returns the time since an attempt over a stream started, unless the attempt is stale.
    pub fn time_since(&self, id: AttemptId, now: Instant) -> Option<Duration> {
        let query = self.queries.get(id.query)?;
        (query.serial == id.serial).then(|| now.saturating_duration_since(query.started))
    }

    /// Appends the attempts that wait for an answer through this socket, which has broken.
    pub fn through(&self, socket: u32, attempts: &mut Vec<AttemptId>) {
        for (&(of, id), &number) in &self.by_id {
            if let Some(query) = self.queries.get(number).filter(|query| of == socket && query.is_udp)
                && query.open.last().is_some_and(|last| (last.socket, last.id) == (of, id))
            {
                attempts.push(AttemptId { query: number, serial: query.serial });
            }
        }
    }

    /// Removes and returns an attempt that has timed out. Called until there is none.
    pub fn pop_timed_out(&mut self, now: Instant) -> Option<AttemptId> {
        let query = self.timers.pop_expired(now)?;
        let serial = self.queries.get(query)?.serial;
        Some(AttemptId { query, serial })
    }

    /// Returns the time until an attempt may time out.
    pub fn time_to_next(&self, now: Instant) -> Option<Duration> {
        self.timers.time_to_next(now)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    //--- Ends

    /// Ends a query. [`InFlight::pop_answered`] returns its waiters.
    pub fn end(&mut self, number: u32, outcome: O) -> Option<EndedQuery> {
        let ended = self.detach(number)?;
        let serial = self.next_serial();
        let query = self.queries.get_mut(number)?;
        (query.outcome, query.serial) = (Some(outcome), serial);
        self.ended.push_back(AttemptId { query: number, serial });
        Some(ended)
    }

    /// Ends a query and returns its first waiter. The outcome is for the others, and made only if there are any.
    pub fn end_and_pop(&mut self, number: u32, outcome: impl FnOnce() -> O) -> Option<(W, EndedQuery)> {
        let first = self.queries.get(number)?.first;
        let ended = self.detach(number)?;
        let waiter = self.remove_waiter(first)?;
        if self.queries.get(number).is_some_and(|query| query.first == NONE) {
            self.queries.remove(number);
        } else {
            let serial = self.next_serial();
            let query = self.queries.get_mut(number)?;
            (query.outcome, query.serial) = (Some(outcome()), serial);
            self.ended.push_back(AttemptId { query: number, serial });
        }
        Some((waiter, ended))
    }

    /// Returns whether [`InFlight::pop_answered`] may return a waiter.
    pub fn has_answered(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Removes and returns the next waiter of the queries that have ended, with the outcome.
    pub fn pop_answered(&mut self) -> Option<(W, O)> {
        loop {
            let &id = self.ended.front()?;
            let Some(query) = self.queries.get(id.query).filter(|query| query.serial == id.serial) else {
                // Its last waiter was evicted.
                self.ended.pop_front();
                continue;
            };
            let first = query.first;
            let outcome = query.outcome.clone();
            let waiter = self.remove_waiter(first);
            if self.queries.get(id.query).is_some_and(|query| query.first == NONE) {
                self.queries.remove(id.query);
                self.ended.pop_front();
            }
            return waiter.zip(outcome);
        }
    }

    /// Removes a query without waiters.
    fn forget(&mut self, number: u32) -> Option<EndedQuery> {
        let ended = self.detach(number);
        self.queries.remove(number);
        ended
    }

    /// Removes a query from all indexes: it merges with no other, does not time out and accepts no answer.
    fn detach(&mut self, number: u32) -> Option<EndedQuery> {
        let query = self.queries.get_mut(number)?;
        let key = query.key;
        let open = std::mem::take(&mut query.open);
        for attempt in &open {
            self.by_id.remove(&(attempt.socket, attempt.id));
        }
        if self.by_key.get(&key) == Some(&number) {
            self.by_key.remove(&key);
        }
        self.timers.clear(number);
        Some(EndedQuery { key, sockets: open.iter().map(|attempt| attempt.socket).collect() })
    }
}

/// Values in numbered places, which are reused.
struct Slab<T> {
    all: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// Creates a slab with this capacity. Unused capacity needs no memory, and no value is moved when the slab grows.
    fn with_capacity(capacity: usize) -> Slab<T> {
        Slab { all: Vec::with_capacity(capacity), free: Vec::with_capacity(capacity) }
    }

    fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    fn get(&self, at: u32) -> Option<&T> {
        self.all.get(at as usize)?.as_ref()
    }

    fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.all.get_mut(at as usize)?.as_mut()
    }

    /// Returns the place of the next value.
    fn next_place(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.all.len() as u32)
    }

    fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(at) => {
                self.all[at as usize] = Some(value);
                at
            }
            None => {
                self.all.push(Some(value));
                (self.all.len() - 1) as u32
            }
        }
    }

    fn remove(&mut self, at: u32) -> Option<T> {
        let value = self.all.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(value)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().flatten()
    }
}

/// Returns whether two packets are the same query, that is, equal except for the ID and the letter case of the name.
fn are_identical(one: &[u8], other: &[u8]) -> bool {
    // The letter case of options counts, since two clients whose options differ in it only are rare.
    one.len() == other.len() && one.len() > 2 && {
        let name_end =
            12 + crate::wire::Name::split_from(&one[12.min(one.len())..]).map_or(0, |(name, _)| name.as_wire().len());
        one[2..12.min(one.len())] == other[2..12.min(one.len())]
            && one.get(12..name_end).zip(other.get(12..name_end)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
            && one[name_end..] == other[name_end..]
    }
}

#[cfg(test)]
mod tests;
