//! A worker's queries to other servers: sockets and the clock around an [`upstream::InFlight`].
//!
//! ```text
//! client ─ Wait::Upstream ─► begin ─► InFlight ─ NextStep::Udp ────► outbox ─► socket ─► server
//!                                   │   └ NextStep::Stream ─► a task ─► mailbox ─┐     │
//! client ◄─ chain ◄─ finish ◄────────┴───── judge ◄───────────────────────────┴─────┘
//! ```
//!
//! A query that waits is a slot of the table: no task, no allocation, no other thread. Queries that are alike wait for
//! one answer, also across workers: whoever comes second puts its query into the mailbox of the worker that was first.

use std::hash::{BuildHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use nix::sys::epoll::Epoll;

use super::upstream_sockets::UpstreamSockets;
use super::worker::Listener;
use crate::chain::{Answer, OwnedQuery, Resume, State, UpstreamQuery};
use crate::serve::Shared;
use crate::serve::counts::Counters;
use crate::serve::pending;
use crate::serve::udp::mailbox::{Client, Job, Mailbox, Waiting};
use crate::serve::udp::mmsg::{BATCH, Batch, Outbox};
use crate::upstream::inflight::Begun;
use crate::upstream::{Attempts, Dropped, Error, InFlight, Judgement, NextStep, Shed};
use crate::wire::encode::MAX_UDP;
use crate::wire::{Message, MessageError, Query, Reply};

/// Marks events of sockets to other servers.
pub(in crate::serve) const UPSTREAM: u64 = 1 << 32;
/// Where there is no slot left, a query that has waited so long gives way to a new one: its client has asked again, or
/// somebody else.
const GIVES_WAY: Duration = Duration::from_millis(2_500);
/// How often sockets that are spent are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// A stream tells of its end itself; so much later it is not waited for any more.
const STREAM_GRACE: Duration = Duration::from_millis(250);
/// How many sends of a query may fail at once before it is given up.
const MAX_ROUNDS: usize = 32;

/// Which worker has a query on its way, by what makes queries alike. Written when a query is sent to another server and
/// when it ends, never for one that is answered here.
pub(in crate::serve) type Flights = DashMap<u64, usize, foldhash::fast::RandomState>;

/// What a worker has on its way.
pub(in crate::serve) struct Forwarding {
    table: InFlight<Waiting>,
    sockets: UpstreamSockets,
    /// There once a query has gone out.
    outbox: Option<Outbox>,
    /// The slots whose queries lie in the outbox, and the place of the socket that they leave by.
    queued: Vec<u32>,
    queued_for: usize,
    /// Slots whose attempt has failed, to be moved on.
    failed: Vec<(u32, Error)>,
    /// Jobs that were taken out of the mailbox.
    jobs: Vec<Job>,
    pub(in crate::serve) mailbox: Arc<Mailbox>,
    /// Which worker this is.
    me: usize,
    /// There are others.
    shares: bool,
    hasher: foldhash::fast::RandomState,
    /// Goes up with each batch.
    pub(in crate::serve) round: u64,
    swept: Instant,
    /// Slots that were filled while another query ended, to be moved on.
    started: Vec<u32>,
    /// Where a client's answer is written that no batch has room for; absent while it is in use.
    scratch: Option<Box<[u8; MAX_UDP]>>,
    /// Where a query is written before it goes out.
    packet: Vec<u8>,
}

/// What forwarding needs of its worker.
pub(in crate::serve) struct Around<'a> {
    /// By number; those that were closed are gone.
    pub(in crate::serve) listeners: &'a [Option<Listener>],
    pub(in crate::serve) shared: &'a Arc<Shared>,
    pub(in crate::serve) counters: &'a Counters,
    pub(in crate::serve) epoll: &'a Epoll,
    pub(in crate::serve) state: &'a mut State,
    pub(in crate::serve) now: Instant,
}

impl Forwarding {
    /// Nothing is on its way. `hasher` is the same for all workers.
    pub(in crate::serve) fn new(
        me: usize, shares: bool, limit: usize, mailbox: Arc<Mailbox>, hasher: foldhash::fast::RandomState,
    ) -> Forwarding {
        let now = Instant::now();
        Forwarding {
            table: InFlight::new(limit, now),
            sockets: UpstreamSockets::default(),
            outbox: None,
            queued: Vec::new(),
            queued_for: 0,
            failed: Vec::new(),
            jobs: Vec::new(),
            mailbox,
            me,
            shares,
            hasher,
            round: 0,
            swept: now,
            started: Vec::new(),
            scratch: None,
            packet: Vec::new(),
        }
    }

    /// How long it takes until something is to be done; nothing where nothing is on its way.
    pub(in crate::serve) fn wait(&self, now: Instant) -> Option<Duration> {
        let sweep = (!self.sockets.is_empty()).then(|| (self.swept + SWEEP).saturating_duration_since(now));
        match (self.table.wait_for_due(now), sweep) {
            (Some(due), Some(sweep)) => Some(due.min(sweep)),
            (due, sweep) => due.or(sweep),
        }
    }

    /// Whether there is nothing to be done now or later.
    pub(in crate::serve) fn is_idle(&self) -> bool {
        self.table.is_empty() && self.sockets.is_empty() && self.mailbox.waiting.load(Ordering::Relaxed) == 0
    }

    /// Whether a client of this socket waits.
    pub(in crate::serve) fn waits_for(&self, number: usize) -> bool {
        self.table.waiters().any(|waiting| matches!(waiting, Waiting::Client(client) if client.listener == number))
    }

    //--- In: clients and jobs

    /// Takes a client's query that waits for another server.
    pub(in crate::serve) fn ask(
        &mut self, asked: OwnedQuery, at: Resume, ask: UpstreamQuery, from: (usize, super::mmsg::ReturnPath),
        around: &mut Around<'_>,
    ) {
        let UpstreamQuery { attempts, flags } = ask;
        let (listener, path) = from;
        let waiting = Waiting::Client(Client { asked, at, flags, listener, path });
        self.begin(waiting, attempts, around);
    }

    /// Does the jobs that others have left; gives those that are the worker's.
    pub(in crate::serve) fn work(&mut self, around: &mut Around<'_>) -> Vec<Job> {
        self.mailbox.take(&mut self.jobs);
        let mut left = Vec::new();
        for job in std::mem::take(&mut self.jobs) {
            match job {
                Job::UpstreamQuery(waiting, attempts) => self.begin(waiting, attempts, around),
                Job::Follow(_, waiting, attempts) => self.begin(waiting, attempts, around),
                Job::Came { slot, token, result } => self.came(slot, token, result, around),
                Job::Wake => {}
                Job::Open(..) | Job::Close(_) => left.push(job),
            }
        }
        left
    }

    /// Puts a query on its way, or behind one that is alike.
    fn begin(&mut self, waiting: Waiting, attempts: Attempts, around: &mut Around<'_>) {
        let key = self.key(&waiting, &attempts);
        if self.shares {
            match around.shared.flights.entry(key) {
                Entry::Occupied(of) if *of.get() != self.me => {
                    // Within the lock: the other takes its mail after it has given up the entry, and so finds this.
                    around.shared.mailboxes()[*of.get()].send(Job::Follow(key, waiting, attempts));
                    return;
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(vacant) => drop(vacant.insert(self.me)),
            }
        }
        let begun = match self.table.begin(key, attempts, waiting, around.now) {
            Begun::Full(waiting, attempts, Shed::Full) => match self.table.oldest(around.now) {
                Some((oldest, age)) if age >= GIVES_WAY => {
                    if let Some(query) = self.table.get_mut(oldest) {
                        let count = 1 + query.others.len();
                        (0..count).for_each(|_| query.attempts.group().counts.shed(Shed::Old));
                    }
                    self.finish(oldest, &Err(Error::Full), around);
                    self.table.begin(key, attempts, waiting, around.now)
                }
                _ => Begun::Full(waiting, attempts, Shed::Full),
            },
            begun => begun,
        };
        match begun {
            Begun::Slot(slot) => self.advance(slot, around),
            Begun::Merged => {}
            Begun::Full(waiting, attempts, why) => {
                self.release(key, around.shared);
                attempts.group().counts.shed(why);
                drop(attempts);
                self.deliver(waiting, &Err(Error::Full), around);
            }
        }
    }

    /// What makes queries alike, hashed: the group, the transport, and the packet but for its ID and letter case.
    fn key(&self, waiting: &Waiting, attempts: &Attempts) -> u64 {
        use crate::upstream::Waiter as _;
        let mut hasher = self.hasher.build_hasher();
        (Arc::as_ptr(attempts.group()) as usize, attempts.is_stream(), waiting.flags()).hash(&mut hasher);
        let packet = waiting.packet();
        let mut folded = [0; 512];
        let head = packet.len().min(folded.len());
        folded[..head].copy_from_slice(&packet[..head]);
        folded[..2].fill(0);
        folded[..head].make_ascii_lowercase();
        hasher.write(&folded[..head]);
        hasher.write(&packet[head..]);
        hasher.finish()
    }

    /// Lets other workers send such a query.
    fn release(&self, key: u64, shared: &Shared) {
        if self.shares {
            shared.flights.remove_if(&key, |_, of| *of == self.me);
        }
    }

    //--- Out: sockets and streams

    /// Makes the next move of a query.
    fn advance(&mut self, slot: u32, around: &mut Around<'_>) {
        let mut last = Error::NoHealthy;
        for _ in 0..MAX_ROUNDS {
            let Some(query) = self.table.get_mut(slot) else { return };
            match query.attempts.next(around.now) {
                NextStep::Udp(until) => match self.send(slot, until, around) {
                    Ok(()) => return,
                    Err(error) => {
                        let Some(query) = self.table.get_mut(slot) else { return };
                        last = Error::Connection(query.attempts.upstream().label.clone(), error.kind());
                        query.attempts.failed(last.clone());
                    }
                },
                NextStep::Stream(until) => return self.stream(slot, until, around),
                NextStep::End(error) => return self.finish(slot, &Err(error), around),
            }
        }
        self.finish(slot, &Err(last), around);
    }

    /// Puts a query into the outbox.
    fn send(&mut self, slot: u32, until: Instant, around: &mut Around<'_>) -> io::Result<()> {
        let Some(query) = self.table.get_mut(slot) else { return Ok(()) };
        let upstream = query.attempts.upstream();
        let (place, kept) = self.sockets.choose(upstream, self.round, around.epoll, UPSTREAM, around.now)?;
        upstream.care.socket(kept);
        if self.queued.len() == BATCH || !self.queued.is_empty() && self.queued_for != place {
            self.flush();
        }
        let Some(number) = self.sockets.used(place) else { return Ok(()) };
        let (id, left) = self.table.send(slot, number, around.now, until);
        if let Some(left) = left {
            self.sockets.left(left);
        }
        let Some(query) = self.table.get_mut(slot) else { return Ok(()) };
        put(&query.first, id, &mut self.packet);
        self.outbox.get_or_insert_with(Outbox::new).push(&self.packet);
        self.queued.push(slot);
        self.queued_for = place;
        Ok(())
    }

    /// Sends what is in the outbox.
    fn flush(&mut self) {
        if let (Some(outbox), Some(socket)) = (&mut self.outbox, self.sockets.at(self.queued_for)) {
            let (queued, failed, table) = (&self.queued, &mut self.failed, &mut self.table);
            outbox.send(socket.socket(), |at, error| {
                if let Some(query) = table.get_mut(queued[at]) {
                    let label = query.attempts.upstream().label.clone();
                    failed.push((queued[at], Error::Connection(label, error.kind())));
                }
            });
        }
        self.queued.clear();
    }

    /// Starts an exchange over a stream.
    fn stream(&mut self, slot: u32, until: Instant, around: &mut Around<'_>) {
        let token = self.table.wait(slot, around.now, until + STREAM_GRACE);
        let Some(query) = self.table.get_mut(slot) else { return };
        let upstream = query.attempts.upstream().clone();
        put(&query.first, 0, &mut self.packet);
        let (packet, mailbox) = (self.packet.clone(), self.mailbox.clone());
        around.shared.runtime.spawn(async move {
            let result = upstream.care.exchange(packet, until).await;
            mailbox.send(Job::Came { slot, token, result });
        });
    }

    /// Does what is due, moves on what has failed, and sends what is to be sent. To be called after each batch.
    pub(in crate::serve) fn turn(&mut self, around: &mut Around<'_>) {
        for slot in std::mem::take(&mut self.started) {
            self.advance(slot, around);
        }
        while let Some(slot) = self.table.due(around.now) {
            if let Some(query) = self.table.get_mut(slot) {
                let error = Error::Timeout(query.attempts.upstream().label.clone());
                query.attempts.failed(error);
                self.advance(slot, around);
            }
        }
        // What is moved on may fail again, but each query only so often.
        loop {
            self.flush();
            let mut failed = std::mem::take(&mut self.failed);
            if failed.is_empty() {
                break;
            }
            // A socket that is broken tells of it more than once.
            failed.sort_unstable_by_key(|(slot, _)| *slot);
            failed.dedup_by_key(|(slot, _)| *slot);
            for (slot, error) in failed {
                if let Some(query) = self.table.get_mut(slot) {
                    query.attempts.failed(error);
                    self.advance(slot, around);
                }
            }
        }
        if around.now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = around.now;
            self.sockets.sweep(around.now);
        }
        self.mailbox.waiting.store(self.table.len(), Ordering::Relaxed);
    }

    //--- In: answers

    /// Reads a batch of answers from the socket in a place and gives them to their clients.
    pub(in crate::serve) fn read(&mut self, place: usize, inbox: &mut Batch, around: &mut Around<'_>) {
        let Some(socket) = self.sockets.at(place) else { return };
        let number = socket.number;
        let received = match inbox.receive(socket.socket(), false) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return self.broke(number, error.kind()),
        };
        let mut listener = 0;
        for slot in 0..received {
            let (datagram, out) = inbox.slot(slot);
            let Some(datagram) = datagram else { continue };
            let Some((client, len)) = self.answer(number, datagram.octets, out, around) else { continue };
            if client.listener != listener {
                send(inbox, around, listener);
            }
            listener = client.listener;
            inbox.queue_to(slot, len, &client.path);
        }
        send(inbox, around, listener);
    }

    /// All queries whose last attempt went through a socket fail with it: an ICMP message says that nobody listens there.
    fn broke(&mut self, number: u32, kind: io::ErrorKind) {
        let mut slots = Vec::new();
        self.table.through(number, &mut slots);
        for slot in slots {
            if let Some(query) = self.table.get_mut(slot) {
                let label = query.attempts.upstream().label.clone();
                self.failed.push((slot, Error::Connection(label, kind)));
            }
        }
    }

    /// Takes a datagram. Gives the client that the answer in `out` is for, and its length; others that wait for the same
    /// are answered at once.
    fn answer(
        &mut self, number: u32, octets: &[u8], out: &mut [u8], around: &mut Around<'_>,
    ) -> Option<(Client, usize)> {
        let id = u16::from_be_bytes([*octets.first()?, *octets.get(1)?]);
        let Some(found) = self.table.find(number, id, around.now) else {
            if let Some(socket) = self.sockets.numbered(number) {
                socket.upstream.care.dropped(Dropped::Unknown);
            }
            return None;
        };
        self.came_whole(found.slot, found.took, octets, Some(out), around)
    }

    /// Takes what a stream has brought.
    fn came(&mut self, slot: u32, token: u64, result: Result<Vec<u8>, Error>, around: &mut Around<'_>) {
        let Some(took) = self.table.waited(slot, token, around.now) else { return };
        match result {
            Ok(octets) => {
                self.came_whole(slot, took, &octets, None, around);
            }
            // No server would do it.
            Err(error @ Error::Unsupported(_)) => self.finish(slot, &Err(error), around),
            Err(error) => {
                if let Some(query) = self.table.get_mut(slot) {
                    query.attempts.failed(error);
                    self.advance(slot, around);
                }
            }
        }
    }

    /// Looks whether a message answers a query, and ends it if it does. Gives what is written in `out`, if it is given.
    fn came_whole(
        &mut self, slot: u32, took: Duration, octets: &[u8], out: Option<&mut [u8]>, around: &mut Around<'_>,
    ) -> Option<(Client, usize)> {
        use crate::upstream::Waiter as _;
        let waiter = self.table.get_mut(slot)?;
        let query = Query::parse(waiter.first.packet()).ok()?;
        let Ok(message) = Message::parse(octets, &query.question) else {
            // RFC 5452 9.1: it is none of ours. A stream brings nothing else for this query.
            waiter.attempts.upstream().care.dropped(Dropped::Stranger);
            if out.is_none() {
                let error = Error::Malformed(waiter.attempts.upstream().label.clone());
                waiter.attempts.failed(error);
                self.advance(slot, around);
            }
            return None;
        };
        let read = around.state.reply.read(&message);
        if read == Err(MessageError::Malformed) {
            let error = Error::Malformed(waiter.attempts.upstream().label.clone());
            waiter.attempts.failed(error);
            self.advance(slot, around);
            return None;
        }
        if waiter.attempts.judge(&message, took) == Judgement::Again {
            self.advance(slot, around);
            return None;
        }
        cut(&mut around.state.reply, read);
        self.finish_with(slot, &Ok(octets), out, around)
    }

    //--- Back to whoever waits

    /// Ends a query.
    fn finish(&mut self, slot: u32, outcome: &Result<&[u8], Error>, around: &mut Around<'_>) {
        self.finish_with(slot, outcome, None, around);
    }

    /// Ends a query. Where `out` is given, the reply of the first who waits has been read already, and its answer is
    /// written there and not sent.
    fn finish_with(
        &mut self, slot: u32, outcome: &Result<&[u8], Error>, out: Option<&mut [u8]>, around: &mut Around<'_>,
    ) -> Option<(Client, usize)> {
        let key = self.table.get_mut(slot)?.key();
        self.release(key, around.shared);
        if self.shares {
            // Those who came second in other workers until just now.
            self.mailbox.take(&mut self.jobs);
            if !self.jobs.is_empty() {
                self.merge(key, around);
            }
        }
        let mut ended = self.table.finish(slot)?;
        for socket in ended.sockets() {
            self.sockets.left(socket);
        }
        let others = std::mem::take(&mut ended.others);
        drop(ended.attempts);
        let written = match (ended.first, out) {
            (Waiting::Client(client), Some(out)) => self.write(client, outcome.clone().map(drop), out, around),
            (first, _) => {
                self.deliver(first, outcome, around);
                None
            }
        };
        for (waiting, attempts) in others {
            drop(attempts);
            self.deliver(waiting, outcome, around);
        }
        written
    }

    /// Takes those out of the jobs that wait for the query with this key, which is about to end.
    fn merge(&mut self, key: u64, around: &Around<'_>) {
        let jobs = std::mem::take(&mut self.jobs);
        for job in jobs {
            match job {
                Job::Follow(of, waiting, attempts) if of == key => {
                    match self.table.begin(key, attempts, waiting, around.now) {
                        Begun::Merged => {}
                        // Another query with the same hash: it begins like any other.
                        Begun::Slot(other) => self.started.push(other),
                        Begun::Full(waiting, attempts, _) => self.jobs.push(Job::UpstreamQuery(waiting, attempts)),
                    }
                }
                job => self.jobs.push(job),
            }
        }
        // The rest is done in its turn.
        if !self.jobs.is_empty() {
            self.mailbox.send(Job::Wake);
        }
    }

    /// Gives somebody the outcome.
    fn deliver(&mut self, waiting: Waiting, outcome: &Result<&[u8], Error>, around: &mut Around<'_>) {
        let read = match outcome {
            Err(error) => Err(error.clone()),
            Ok(octets) => reread(&waiting, octets, &mut around.state.reply),
        };
        match waiting {
            Waiting::Channel { reply, .. } => {
                // Whoever has gone does not need it.
                let _ = reply.send(read.map(|()| Box::new(std::mem::take(&mut around.state.reply))));
            }
            Waiting::Client(client) => {
                let mut scratch = self.scratch.take().unwrap_or_else(|| Box::new([0; MAX_UDP]));
                if let Some((client, len)) = self.write(client, read, &mut scratch[..], around) {
                    let socket = around.listener(client.listener).map(|listener| &listener.socket);
                    match socket.map(|socket| client.path.send(socket.as_fd(), &scratch[..len])) {
                        Some(Ok(())) => around.counters.answered.add(1),
                        None | Some(Err(_)) => around.counters.send_failed.add(1),
                    }
                }
                self.scratch = Some(scratch);
            }
        }
    }

    /// Writes a client's answer into `out`, and gives its length, if there is one now.
    fn write(
        &mut self, client: Client, read: Result<(), Error>, out: &mut [u8], around: &mut Around<'_>,
    ) -> Option<(Client, usize)> {
        let service = around.listeners.get(client.listener)?.as_ref()?.service.clone();
        let Client { asked, at, .. } = &client;
        if read.is_err() {
            around.state.clear();
        }
        let state = &mut *around.state;
        state.forget_all_but_reply();
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let query = asked.query()?;
            Some(asked.answered(&query, *at, read, around.now, state, out))
        }));
        match answer {
            Ok(Some(Answer::Send(len))) => Some((client, len)),
            Ok(None | Some(Answer::Silent)) => {
                around.counters.silent.add(1);
                None
            }
            Ok(Some(Answer::Pending(pending))) => {
                let from = (client.listener, client.path);
                super::worker::wait_for(self, pending, from, out, around).map(|len| (client, len))
            }
            Err(panic) => {
                *around.state = State::default();
                let len = pending::panicked(&*panic, &service, around.counters, client.asked.packet(), out);
                Some((client, len))
            }
        }
    }
}

/// Writes the packet of whoever waits as it goes out.
fn put(waiting: &Waiting, id: u16, packet: &mut Vec<u8>) {
    use crate::upstream::Waiter as _;
    packet.clear();
    packet.extend_from_slice(waiting.packet());
    packet[..2].copy_from_slice(&id.to_be_bytes());
    let bits = u16::from_be_bytes([packet[2], packet[3]]);
    packet[2..4].copy_from_slice(&waiting.flags().of(bits).to_be_bytes());
}

/// Reads an answer for one of several who wait for it; its first reader has found it good.
fn reread(waiting: &Waiting, octets: &[u8], reply: &mut Reply) -> Result<(), Error> {
    use crate::upstream::Waiter as _;
    let malformed = |_| Error::Malformed("upstream".into());
    let query = Query::parse(waiting.packet()).map_err(|_| Error::Malformed("query".into()))?;
    let read = reply.read(&Message::parse(octets, &query.question).map_err(malformed)?);
    if read == Err(MessageError::Malformed) {
        return read.map_err(malformed);
    }
    cut(reply, read);
    Ok(())
}

/// What is cut off has no records and gets TC, as in CoreDNS `truncateResponse`: the client asks again over TCP.
fn cut(reply: &mut Reply, read: Result<(), MessageError>) {
    reply.truncated |= read == Err(MessageError::Cut);
}

/// Sends the answers that are queued, through the socket of this number if it is still there.
fn send(inbox: &mut Batch, around: &Around<'_>, listener: usize) {
    if let Some(listener) = around.listener(listener) {
        let outcome = inbox.send(listener.socket.as_fd());
        around.counters.answered.add(outcome.sent as u64);
        around.counters.send_failed.add(outcome.failed as u64);
    }
}

impl Around<'_> {
    /// The socket of this number, unless it was closed.
    pub(in crate::serve) fn listener(&self, number: usize) -> Option<&Listener> {
        self.listeners.get(number)?.as_ref()
    }
}
