//! The queries that a worker has sent to other servers and that wait for an answer.
//!
//! A table is bounded and allocates nothing once it has grown. It does no I/O: it is told what was sent through which
//! socket and what came in, and says whose it is. What comes in belongs to a query only if it came through the socket
//! that the query left by, has its random ID and repeats its question (RFC 5452 9.1); anything else is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Attempts;
use super::group::Shed;
use super::timer_wheel::TimerWheel;
use crate::wire::header::Change;

/// Answers to earlier attempts that are still welcome: a slow server's answer comes when another was asked already.
const WELCOME: usize = 4;
/// No query.
const NONE: u32 = u32::MAX;

/// Somebody who waits for an answer.
pub trait Waiter {
    /// The query as it came: a whole packet.
    fn packet(&self) -> &[u8];

    /// How its flags are changed as it goes out.
    fn flags(&self) -> Change;
}

/// A query in the table.
pub struct Slot<W> {
    /// Where it is on its way.
    pub attempts: Attempts,
    /// The client whose query was sent.
    pub first: W,
    /// Those that asked the same meanwhile.
    pub others: Vec<(W, Attempts)>,
    /// What makes queries alike, hashed.
    key: u64,
    /// When the last attempt began.
    sent: Instant,
    /// When the query began.
    begun: Instant,
    /// Tells this wait from others in the same slot.
    token: u64,
    /// The sockets and IDs of its attempts, the last one last.
    sent_as: smallvec::SmallVec<[(u32, u16); WELCOME]>,
    /// Its neighbours in the order in which queries began.
    older: u32,
    newer: u32,
}

/// What became of a new query.
pub enum Begun<W> {
    /// It has a slot.
    Slot(u32),
    /// The same is on its way already.
    Merged,
    /// There is no slot for it.
    Full(W, Attempts, Shed),
}

/// Queries that wait.
pub struct InFlight<W> {
    slots: Vec<Option<Slot<W>>>,
    free: Vec<u32>,
    /// The most slots.
    limit: usize,
    /// Slots by what makes queries alike.
    by_key: HashMap<u64, u32, foldhash::fast::RandomState>,
    /// How many slots each group has, by its address. There are as many as stanzas.
    by_group: Vec<(usize, usize)>,
    /// Slots by socket and ID.
    by_id: HashMap<(u32, u16), u32, foldhash::fast::RandomState>,
    wheel: TimerWheel,
    oldest: u32,
    newest: u32,
    /// The last token.
    tokens: u64,
    random: Random,
}

/// Unpredictable numbers, fetched many at a time.
struct Random {
    octets: [u8; 1_024],
    used: usize,
}

impl Random {
    fn number(&mut self) -> u16 {
        if self.used + 2 > self.octets.len() {
            getrandom::fill(&mut self.octets).expect("the kernel has random numbers");
            self.used = 0;
        }
        self.used += 2;
        u16::from_ne_bytes([self.octets[self.used - 2], self.octets[self.used - 1]])
    }
}

impl<W: Waiter> InFlight<W> {
    /// A table for at most so many queries.
    pub fn new(limit: usize, now: Instant) -> InFlight<W> {
        InFlight {
            // What is not used takes no memory, and growing takes none twice.
            slots: Vec::with_capacity(limit),
            free: Vec::with_capacity(limit),
            limit,
            by_key: HashMap::default(),
            by_group: Vec::new(),
            by_id: HashMap::default(),
            wheel: TimerWheel::new(now),
            oldest: NONE,
            newest: NONE,
            tokens: 0,
            random: Random { octets: [0; 1_024], used: 1_024 },
        }
    }

    /// How many queries wait, those that ask the same counted once.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everybody who waits. It looks at each slot.
    pub fn waiters(&self) -> impl Iterator<Item = &W> {
        let slots = self.slots.iter().flatten();
        slots.flat_map(|slot| std::iter::once(&slot.first).chain(slot.others.iter().map(|(waiter, _)| waiter)))
    }

    /// The query that began first, and how long ago.
    pub fn oldest(&self, now: Instant) -> Option<(u32, Duration)> {
        let slot = self.slots.get(self.oldest as usize)?.as_ref()?;
        Some((self.oldest, now.saturating_duration_since(slot.begun)))
    }

    /// Takes a query. `key` is equal for queries that are alike, and rarely for others.
    pub fn begin(&mut self, key: u64, attempts: Attempts, waiter: W, now: Instant) -> Begun<W> {
        if let Some(&slot) = self.by_key.get(&key)
            && let Some(slot) = &mut self.slots[slot as usize]
            && std::ptr::eq(&**slot.attempts.group(), &**attempts.group())
            && slot.attempts.is_stream() == attempts.is_stream()
            && slot.first.flags() == waiter.flags()
            && are_alike(slot.first.packet(), waiter.packet())
        {
            // Its attempts counts towards `max_concurrent` as long as it waits.
            slot.others.push((waiter, attempts));
            return Begun::Merged;
        }
        let group = Arc::as_ptr(attempts.group()).addr();
        let of_group = match self.by_group.iter().position(|(of, _)| *of == group) {
            Some(of_group) => of_group,
            None => {
                self.by_group.push((group, 0));
                self.by_group.len() - 1
            }
        };
        // One that is slow leaves room for the others.
        if self.by_group[of_group].1 >= self.limit - self.limit / 4 {
            return Begun::Full(waiter, attempts, Shed::Share);
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.slots.len() < self.limit => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return Begun::Full(waiter, attempts, Shed::Full),
        };
        self.by_group[of_group].1 += 1;
        let older = std::mem::replace(&mut self.newest, at);
        match self.slots.get_mut(older as usize) {
            Some(Some(slot)) => slot.newer = at,
            _ => self.oldest = at,
        }
        let (sent_as, others) = (smallvec::SmallVec::new(), Vec::new());
        let (sent, begun, newer, token) = (now, now, NONE, 0);
        let slot = Slot { attempts, first: waiter, others, key, sent, begun, token, sent_as, older, newer };
        self.slots[at as usize] = Some(slot);
        self.by_key.insert(key, at);
        Begun::Slot(at)
    }

    /// A query in its slot.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Slot<W>> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Notes that a query goes out through this socket now, and when its time is over; gives the ID to send. An attempt of
    /// long ago may have to give way; then the socket that it went through is given, too.
    ///
    /// # Panics
    /// When the slot is empty.
    pub fn send(&mut self, slot: u32, socket: u32, now: Instant, until: Instant) -> (u16, Option<u32>) {
        let id = loop {
            let id = self.random.number();
            if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_id.entry((socket, id)) {
                vacant.insert(slot);
                break id;
            }
        };
        let query = self.slots[slot as usize].as_mut().expect("a slot that is taken");
        (query.sent, query.token) = (now, 0);
        let mut left = None;
        if query.sent_as.len() == WELCOME {
            let earliest = query.sent_as.remove(0);
            self.by_id.remove(&earliest);
            left = Some(earliest.0);
        }
        query.sent_as.push((socket, id));
        self.wheel.set(slot, until);
        (id, left)
    }

    /// Notes when a query's time is over that waits for something else than a socket; gives a token for it.
    pub fn wait(&mut self, slot: u32, now: Instant, until: Instant) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        if let Some(query) = self.get_mut(slot) {
            (query.sent, query.token) = (now, token);
            self.wheel.set(slot, until);
        }
        token
    }

    /// After how long what this token stands for has come, if somebody still waits for it.
    pub fn waited(&self, slot: u32, token: u64, now: Instant) -> Option<Duration> {
        let query = self.slots.get(slot as usize)?.as_ref()?;
        (query.token == token).then(|| now.saturating_duration_since(query.sent))
    }

    /// Whose a message with this ID is that came through this socket, and after how long; `late` if another attempt was
    /// made meanwhile.
    pub fn find(&self, socket: u32, id: u16, now: Instant) -> Option<Found> {
        let &slot = self.by_id.get(&(socket, id))?;
        let query = self.slots[slot as usize].as_ref()?;
        let late = query.sent_as.last() != Some(&(socket, id));
        Some(Found { slot, took: now.saturating_duration_since(query.sent), late })
    }

    /// The queries whose last attempt went through this socket, which has broken.
    pub fn through(&self, socket: u32, slots: &mut Vec<u32>) {
        for (&(of, id), &slot) in &self.by_id {
            let last = self.slots[slot as usize].as_ref().and_then(|query| query.sent_as.last());
            if of == socket && last == Some(&(of, id)) {
                slots.push(slot);
            }
        }
    }

    /// A query whose time is over. To be called until there is none.
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        self.wheel.due(now)
    }

    /// How long it takes until one may be due.
    pub fn wait_for_due(&self, now: Instant) -> Option<Duration> {
        self.wheel.wait(now)
    }

    /// Ends a query; gives those who wait.
    pub fn finish(&mut self, slot: u32) -> Option<Slot<W>> {
        let query = self.slots.get_mut(slot as usize)?.take()?;
        self.wheel.clear(slot);
        for attempt in &query.sent_as {
            self.by_id.remove(attempt);
        }
        if self.by_key.get(&query.key) == Some(&slot) {
            self.by_key.remove(&query.key);
        }
        match self.slots.get_mut(query.older as usize) {
            Some(Some(older)) => older.newer = query.newer,
            _ => self.oldest = query.newer,
        }
        match self.slots.get_mut(query.newer as usize) {
            Some(Some(newer)) => newer.older = query.older,
            _ => self.newest = query.older,
        }
        self.free.push(slot);
        let group = Arc::as_ptr(query.attempts.group()).addr();
        if let Some(of_group) = self.by_group.iter().position(|(of, _)| *of == group) {
            self.by_group[of_group].1 -= 1;
            if self.by_group[of_group].1 == 0 {
                self.by_group.swap_remove(of_group);
            }
        }
        Some(query)
    }
}

impl<W> Slot<W> {
    /// The key that it was begun with.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The sockets of its attempts.
    pub fn sockets(&self) -> impl Iterator<Item = u32> {
        self.sent_as.iter().map(|&(socket, _)| socket)
    }
}

/// A query that a message may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its slot.
    pub slot: u32,
    /// How long it took since the last attempt.
    pub took: Duration,
    /// It answers an attempt before the last one.
    pub late: bool,
}

/// Whether two packets ask the same in the same way: all is equal but the ID and letter case in the name.
fn are_alike(one: &[u8], other: &[u8]) -> bool {
    // Options hold letters, too, but two clients whose options differ in case alone are not worth a rule.
    one.len() == other.len() && one.len() > 2 && {
        let name_end =
            12 + crate::wire::Name::split_from(&one[12.min(one.len())..]).map_or(0, |(name, _)| name.as_wire().len());
        one[2..12.min(one.len())] == other[2..12.min(one.len())]
            && one.get(12..name_end).zip(other.get(12..name_end)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
            && one[name_end..] == other[name_end..]
    }
}
