//! A worker's queries to upstreams: sockets and the clock for an [`upstream::InFlight`](InFlight).
//!
//! ```text
//! client ─ Wait::Upstream ─► begin ─► InFlight ─ NextStep::Udp ────► outbox ─► socket ─► upstream
//!                                     │      └ NextStep::Stream ─► a task ─► mailbox ─┐     │
//! client ◄─ chain ◄─ deliver ◄─────────┴───── take_answer ◄─────────────────────────────┴─────┘
//! ```
//!
//! A query in flight is an entry of the table: no task, no allocation, no other thread. Identical queries wait for one
//! answer, also across workers: the worker that gets the second one leaves it in the mailbox of the worker that got the
//! first.
//!
//! A turn does a limited amount of work, however many responses and timeouts are due, so that the clients' sockets are
//! read in between and cluster names are answered in the meantime.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dashmap::mapref::entry::Entry;
use nix::sys::epoll::Epoll;

use super::late;
use super::listener::UdpListener;
use super::upstream_sockets::{UpstreamSocket, UpstreamSockets};
use crate::chain::{Answer, OwnedQuery, Pending, Resume, State, UpstreamQuery, Wait};
use crate::serve::Shared;
use crate::serve::counts::Counters;
use crate::serve::udp::mailbox::{Job, Mailbox, UdpClient, UpstreamWaiter};
use crate::serve::udp::mmsg::{BATCH, Batch, Outbox, ReturnPath};
use crate::upstream::inflight::{Admission, AttemptId, EndedQuery, Evicted};
use crate::upstream::{
    Answered, Attempts, DropReason, Error, Group, InFlight, NextStep, RevokedPermit, ShedReason, Verdict, Waiter as _,
    max_exchange_time,
};
use crate::wire::{MAX_UDP, Message, MessageError, Query, Reply};

/// The bit that marks events of upstream sockets.
pub(in crate::serve) const UPSTREAM: u64 = 1 << 32;
/// The interval of checks for sockets that are spent.
const SWEEP: Duration = Duration::from_secs(1);
/// The maximum number of failed sends of a query in a turn, after which the query fails.
const MAX_ROUNDS: usize = 32;
/// The maximum number of queries of the mailbox that are begun in a turn.
const MAX_BEGUN: usize = 256;
/// The maximum number of attempts that time out in a turn.
const MAX_TIMEOUTS: usize = 256;
/// The maximum number of waiters that are answered in a turn after their queries have ended.
const MAX_DELIVERED: usize = BATCH;

/// The outcome of a query for its waiters.
#[derive(Clone)]
enum QueryOutcome {
    Failed(Error),
    /// A message that answers the question.
    Answered(Arc<[u8]>),
}

impl QueryOutcome {
    fn as_bytes(&self) -> Result<&[u8], Error> {
        match self {
            QueryOutcome::Failed(error) => Err(error.clone()),
            QueryOutcome::Answered(bytes) => Ok(bytes),
        }
    }
}

/// A worker's queries in flight.
pub(in crate::serve) struct Forwarding {
    table: InFlight<UpstreamWaiter, QueryOutcome>,
    sockets: UpstreamSockets,
    /// Allocated when the first query is sent.
    outbox: Option<Outbox>,
    /// The attempts whose packets are in the outbox, and the place of their socket.
    queued: Vec<AttemptId>,
    queued_for: usize,
    /// Attempts that have failed, whose queries need another attempt.
    failed: Vec<(AttemptId, Error)>,
    /// Queries that were added while another one ended and have no attempt yet.
    started: Vec<AttemptId>,
    /// Permits that waiters of this worker have lost, which are evicted in this turn or the next.
    revoked: Vec<RevokedPermit>,
    /// Waiters that were evicted or refused, and are answered in this turn or the next one.
    shed: Vec<(UpstreamWaiter, QueryOutcome)>,
    /// Jobs that were taken out of the mailbox and not done.
    jobs: VecDeque<Job>,
    /// The mailbox has a [`Job::Wake`] for these jobs.
    is_woken: bool,
    /// The buffer for jobs that are taken out of the mailbox.
    mail: Vec<Job>,
    pub(in crate::serve) mailbox: Arc<Mailbox>,
    /// This worker's number.
    me: usize,
    /// There are other workers.
    has_others: bool,
    hasher: foldhash::fast::RandomState,
    /// The number of batches.
    pub(in crate::serve) round: u64,
    swept: Instant,
    /// More attempts may have timed out than the last turn handled.
    has_timed_out: bool,
    /// The buffer for a response that is not part of a batch; `None` while it is in use.
    scratch: Option<Box<[u8; MAX_UDP]>>,
    /// The buffer for a query before it is sent.
    packet: Vec<u8>,
}

/// The parts of a worker that forwarding needs, borrowed for one call.
pub(in crate::serve) struct WorkerContext<'a> {
    /// The listeners by number; `None` for a closed one.
    pub(in crate::serve) listeners: &'a [Option<UdpListener>],
    pub(in crate::serve) shared: &'a Arc<Shared>,
    pub(in crate::serve) counters: &'a Counters,
    pub(in crate::serve) epoll: &'a Epoll,
    pub(in crate::serve) state: &'a mut State,
    pub(in crate::serve) now: Instant,
}

impl Forwarding {
    /// Creates an empty table with a limit on waiters. `hasher` is the same for all workers.
    pub(in crate::serve) fn new(
        me: usize, has_others: bool, limit: usize, mailbox: Arc<Mailbox>, hasher: foldhash::fast::RandomState,
    ) -> Forwarding {
        let now = Instant::now();
        Forwarding {
            table: InFlight::new(me, limit, now),
            sockets: UpstreamSockets::default(),
            outbox: None,
            queued: Vec::new(),
            queued_for: 0,
            failed: Vec::new(),
            started: Vec::new(),
            revoked: Vec::new(),
            shed: Vec::new(),
            jobs: VecDeque::new(),
            is_woken: false,
            mail: Vec::new(),
            mailbox,
            me,
            has_others,
            hasher,
            round: 0,
            swept: now,
            has_timed_out: false,
            scratch: None,
            packet: Vec::new(),
        }
    }

    /// Returns the time until [`Forwarding::run`] is due; `None` while nothing is in flight.
    pub(in crate::serve) fn time_to_run(&self, now: Instant) -> Option<Duration> {
        let is_due = self.has_timed_out
            || self.table.has_answered()
            || !self.shed.is_empty()
            || !self.failed.is_empty()
            || !self.started.is_empty()
            || !self.revoked.is_empty();
        if is_due {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.sockets.is_empty()).then(|| (self.swept + SWEEP).saturating_duration_since(now));
        match (self.table.time_to_next(now), sweep) {
            (Some(timeout), Some(sweep)) => Some(timeout.min(sweep)),
            (timeout, sweep) => timeout.or(sweep),
        }
    }

    /// Returns whether there is nothing to do now or later.
    pub(in crate::serve) fn is_idle(&self) -> bool {
        self.table.is_empty()
            && self.shed.is_empty()
            && self.sockets.is_empty()
            && self.mailbox.waiting.load(Ordering::Relaxed) == 0
    }

    /// Returns whether a client of this listener waits for an upstream.
    pub(in crate::serve) fn has_client_of(&self, listener: usize) -> bool {
        let shed = self.shed.iter().map(|(waiter, _)| waiter);
        self.table
            .waiters()
            .chain(shed)
            .any(|waiter| matches!(waiter, UpstreamWaiter::Client(client) if client.listener == listener))
    }

    //--- In: clients and jobs

    /// Forwards a client's query.
    pub(in crate::serve) fn forward(
        &mut self, query: OwnedQuery, resume: Resume, upstream_query: UpstreamQuery, from: (usize, ReturnPath),
        context: &mut WorkerContext<'_>,
    ) {
        let UpstreamQuery { attempts, change } = upstream_query;
        let (listener, path) = from;
        let client = UdpClient { query, resume, change, listener, path };
        self.begin(UpstreamWaiter::Client(client), attempts, context);
    }

    /// Does the jobs of the mailbox. Returns those that the worker has to do.
    pub(in crate::serve) fn do_jobs(&mut self, context: &mut WorkerContext<'_>) -> Vec<Job> {
        self.is_woken = false;
        self.sort_mail(context);
        let mut of_worker = Vec::new();
        let mut begun = 0;
        while begun < MAX_BEGUN
            && let Some(job) = self.jobs.pop_front()
        {
            match job {
                Job::UpstreamQuery(waiter, attempts) | Job::Follow(_, waiter, attempts) => {
                    begun += 1;
                    self.mailbox.record_begun();
                    self.begin(waiter, attempts, context);
                }
                Job::Came { attempt, result } => self.take_exchange(attempt, result, context),
                Job::Revoked(permit) => self.revoked.push(permit),
                Job::Wake => {}
                Job::Open(..) | Job::Close(_) => of_worker.push(job),
            }
        }
        if self.jobs.is_empty() {
            self.jobs.shrink_to(MAX_BEGUN);
        }
        self.wake_for_jobs();
        of_worker
    }

    /// Takes the jobs out of the mailbox and has queries wait for identical ones that are in flight here. Each job is
    /// looked at once.
    fn sort_mail(&mut self, context: &WorkerContext<'_>) {
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox.take(&mut mail);
        for job in mail.drain(..) {
            match job {
                Job::Follow(key, waiter, attempts) if self.table.has(key) => {
                    self.mailbox.record_begun();
                    match self.admit(key, waiter, attempts, context) {
                        None | Some(Admission::Merged) => {}
                        // Another query has the same hash.
                        Some(Admission::Started(attempt)) => self.started.push(attempt),
                        Some(Admission::Repeated) => context.counters.unanswered.add(1),
                    }
                }
                // The worker's own sign may be among the mail: jobs that are left need another one.
                Job::Wake => self.is_woken = false,
                job => self.jobs.push_back(job),
            }
        }
        // A burst must not hold memory for ever.
        mail.shrink_to(MAX_BEGUN);
        self.mail = mail;
    }

    /// Has the worker call [`Forwarding::do_jobs`] again while jobs are left.
    fn wake_for_jobs(&mut self) {
        if !self.jobs.is_empty() && !std::mem::replace(&mut self.is_woken, true) {
            self.mailbox.send(Job::Wake);
        }
    }

    /// Puts a query into the table and makes its first attempt, or has it wait for an identical one.
    fn begin(&mut self, waiter: UpstreamWaiter, attempts: Attempts, context: &mut WorkerContext<'_>) {
        let key = self.key(&waiter, &attempts);
        if self.has_others {
            match context.shared.owners.entry(key) {
                Entry::Occupied(of) if *of.get() != self.me => {
                    // Within the lock: the other worker takes its mail after it has given up the entry, and so finds
                    // this.
                    let mailbox = &context.shared.mailboxes()[*of.get()];
                    if let Err(Job::Follow(_, waiter, attempts)) =
                        mailbox.send_query(Job::Follow(key, waiter, attempts))
                    {
                        attempts.group().counters.record_shed(ShedReason::Full);
                        self.shed.push((waiter, QueryOutcome::Failed(Error::Full)));
                    }
                    return;
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(vacant) => drop(vacant.insert(self.me)),
            }
        }
        let client = waiter.client();
        match self.admit(key, waiter, attempts, context) {
            Some(Admission::Started(attempt)) => {
                self.evict_over_limit(client, context.shared);
                self.advance(attempt, context);
            }
            Some(Admission::Merged) => self.evict_over_limit(client, context.shared),
            Some(Admission::Repeated) => context.counters.unanswered.add(1),
            None if self.table.has(key) => {}
            None => self.release(key, context.shared),
        }
    }

    /// Puts a query into the table, unless its group refuses it, and has the waiter evicted that lost its permit to it.
    fn admit(
        &mut self, key: u64, waiter: UpstreamWaiter, attempts: Attempts, context: &WorkerContext<'_>,
    ) -> Option<Admission> {
        match self.table.begin(key, attempts, waiter, context.now) {
            Ok((admission, revoked)) => {
                match revoked {
                    None => {}
                    // Not at once: its query may be the one that is ending.
                    Some(permit) if permit.place.worker == self.me => self.revoked.push(permit),
                    Some(permit) => context.shared.mailboxes()[permit.place.worker].send(Job::Revoked(permit)),
                }
                Some(admission)
            }
            Err((waiter, error)) => {
                self.shed.push((waiter, QueryOutcome::Failed(error)));
                None
            }
        }
    }

    /// Evicts the waiters that have lost their permits.
    fn evict_revoked(&mut self, shared: &Shared) {
        for permit in std::mem::take(&mut self.revoked) {
            if let Some(evicted) = self.table.revoke(&permit) {
                self.shed_evicted(evicted, shared, Group::refuse);
            }
        }
    }

    /// Evicts waiters for this client while there are more than the limit.
    fn evict_over_limit(&mut self, client: IpAddr, shared: &Shared) {
        while self.table.is_over_limit()
            && let Some(evicted) = self.table.evict(client)
        {
            self.shed_evicted(evicted, shared, |group| {
                group.counters.record_shed(ShedReason::Evicted);
                Error::Full
            });
        }
    }

    /// Evicts all waiters, since the server stops.
    pub(in crate::serve) fn fail_all(&mut self, shared: &Shared) {
        while let Some(evicted) = self.table.evict(Ipv4Addr::UNSPECIFIED.into()) {
            self.shed_evicted(evicted, shared, |_| Error::Ending);
        }
    }

    /// Has an evicted waiter answered, with an error if its query has no outcome yet.
    fn shed_evicted(
        &mut self, evicted: Evicted<UpstreamWaiter, QueryOutcome>, shared: &Shared, error: impl Fn(&Group) -> Error,
    ) {
        if let Some(ended) = evicted.abandoned {
            self.settle(&ended, shared);
        }
        let outcome = evicted.outcome.unwrap_or_else(|| QueryOutcome::Failed(error(&evicted.group)));
        self.shed.push((evicted.waiter, outcome));
    }

    /// Returns the hash that identical queries share: of the group, the transport, and the packet without its ID and
    /// letter case.
    fn key(&self, waiter: &UpstreamWaiter, attempts: &Attempts) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        (Arc::as_ptr(attempts.group()) as usize, attempts.transport(), waiter.change()).hash(&mut hasher);
        let packet = waiter.packet();
        let mut folded = [0; 512];
        let head = packet.len().min(folded.len());
        folded[..head].copy_from_slice(&packet[..head]);
        folded[..2].fill(0);
        folded[..head].make_ascii_lowercase();
        hasher.write(&folded[..head]);
        hasher.write(&packet[head..]);
        hasher.finish()
    }

    /// Removes this worker as the owner of a query, so that other workers may send an identical one.
    fn release(&self, key: u64, shared: &Shared) {
        if self.has_others {
            shared.owners.remove_if(&key, |_, of| *of == self.me);
        }
    }

    /// Releases the resources of a query that is no longer in flight.
    fn settle(&mut self, ended: &EndedQuery, shared: &Shared) {
        self.release(ended.key, shared);
        ended.sockets.iter().for_each(|&socket| self.sockets.close_attempt(socket));
    }

    //--- Out: sockets and streams

    /// Makes the next attempt of a query, unless this attempt is stale.
    fn advance(&mut self, attempt: AttemptId, context: &mut WorkerContext<'_>) {
        let mut last = Error::NoHealthy;
        for _ in 0..MAX_ROUNDS {
            let Some(query) = self.table.current(attempt) else { return };
            match query.attempts.next(context.now) {
                NextStep::Udp(until) => match self.send(attempt.query, until, context) {
                    Ok(()) => return,
                    Err(error) => {
                        let Some(query) = self.table.current(attempt) else { return };
                        last = Error::Connection(query.attempts.upstream().label.clone(), error.kind());
                        query.attempts.record_failure(last.clone());
                    }
                },
                NextStep::Stream(read_timeout) => return self.start_exchange(attempt.query, read_timeout, context),
                NextStep::End(error) => return self.end(attempt.query, error, context),
            }
        }
        self.end(attempt.query, last, context);
    }

    /// Records a failure of an attempt and makes the next one, unless the attempt is stale.
    fn fail(&mut self, attempt: AttemptId, error: Error, context: &mut WorkerContext<'_>) {
        let took = self.table.time_since(attempt, context.now);
        if let Some(query) = self.table.current(attempt) {
            if query.attempts.is_tapped() {
                query.attempts.record_unanswered(took.unwrap_or_default(), context.now);
            }
            query.attempts.record_failure(error);
            self.advance(attempt, context);
        }
    }

    /// Puts a query into the outbox.
    fn send(&mut self, number: u32, until: Instant, context: &mut WorkerContext<'_>) -> io::Result<()> {
        let Some((query, _)) = self.table.get_mut(number) else { return Ok(()) };
        let upstream = query.attempts.upstream();
        let (place, reused) = self.sockets.choose(upstream, self.round, context.epoll, UPSTREAM, context.now)?;
        upstream.driver.record_socket(reused);
        if self.queued.len() == BATCH || !self.queued.is_empty() && self.queued_for != place {
            self.flush();
        }
        let Some(socket) = self.sockets.record_use(place) else { return Ok(()) };
        let Some((id, attempt, closed)) = self.table.start_udp(number, socket, context.now, until) else {
            return Ok(());
        };
        if let Some(closed) = closed {
            self.sockets.close_attempt(closed);
        }
        let Some((query, first)) = self.table.get_mut(number) else { return Ok(()) };
        write_query(first, id, &mut self.packet);
        if query.attempts.is_tapped() {
            let local = self.sockets.at(place).and_then(UpstreamSocket::local_address);
            query.attempts.record_sent(false, local, &self.packet, context.now);
        }
        self.outbox.get_or_insert_with(Outbox::new).push(&self.packet);
        self.queued.push(attempt);
        self.queued_for = place;
        Ok(())
    }

    /// Sends what is in the outbox.
    fn flush(&mut self) {
        if let (Some(outbox), Some(socket)) = (&mut self.outbox, self.sockets.at(self.queued_for)) {
            let queued = &self.queued;
            let failed = &mut self.failed;
            let label = &socket.upstream.label;
            outbox.send(socket.socket(), |at, error| {
                failed.push((queued[at], Error::Connection(label.clone(), error.kind())));
            });
        }
        self.queued.clear();
    }

    /// Starts an exchange over a stream.
    fn start_exchange(&mut self, number: u32, read_timeout: Duration, context: &mut WorkerContext<'_>) {
        // The exchange has timeouts of its own; this timer is for the case that they fail, and for the deadline of the
        // query.
        let Some((query, _)) = self.table.get_mut(number) else { return };
        let until = query.attempts.no_later(context.now + max_exchange_time(read_timeout));
        let Some(attempt) = self.table.start_stream(number, context.now, until) else { return };
        let Some((query, first)) = self.table.get_mut(number) else { return };
        let upstream = query.attempts.upstream().clone();
        write_query(first, 0, &mut self.packet);
        if query.attempts.is_tapped() {
            query.attempts.record_sent(true, None, &self.packet, context.now);
        }
        let (packet, client) = (self.packet.clone(), first.client());
        let mailbox = self.mailbox.clone();
        context.shared.runtime.spawn(async move {
            let result = upstream.driver.exchange(packet, client, read_timeout).await;
            mailbox.send(Job::Came { attempt, result });
        });
    }

    /// Makes the next attempts of queries whose attempts have timed out or failed, answers waiters, and sends packets.
    /// Called after each batch.
    pub(in crate::serve) fn run(&mut self, context: &mut WorkerContext<'_>) {
        self.evict_revoked(context.shared);
        // Those that were added while another query ended.
        self.evict_over_limit(Ipv4Addr::UNSPECIFIED.into(), context.shared);
        for attempt in std::mem::take(&mut self.started) {
            self.advance(attempt, context);
        }
        self.has_timed_out = true;
        for _ in 0..MAX_TIMEOUTS {
            let Some(attempt) = self.table.pop_timed_out(context.now) else {
                self.has_timed_out = false;
                break;
            };
            if let Some(query) = self.table.current(attempt) {
                let error = Error::Timeout(query.attempts.upstream().label.clone());
                self.fail(attempt, error, context);
            }
        }
        self.send_and_fail(context);
        self.deliver_some(context);
        self.send_and_fail(context);
        if context.now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = context.now;
            self.sockets.sweep(context.now);
        }
        let waiting = self.table.len() + self.shed.len() + self.jobs.len();
        self.mailbox.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Sends packets, and makes the next attempts of queries whose attempts have failed.
    fn send_and_fail(&mut self, context: &mut WorkerContext<'_>) {
        // The next attempt of a query may fail again, but only a limited number of times.
        loop {
            self.flush();
            if self.failed.is_empty() {
                break;
            }
            for (attempt, error) in std::mem::take(&mut self.failed) {
                self.fail(attempt, error, context);
            }
        }
    }

    //--- In: answers

    /// Reads a batch of responses from the socket in a place, and answers their clients.
    pub(in crate::serve) fn read_answers(&mut self, place: usize, inbox: &mut Batch, context: &mut WorkerContext<'_>) {
        let Some(socket) = self.sockets.at(place) else { return };
        let number = socket.number;
        let received = match inbox.receive(socket.socket(), false) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => return self.fail_through(place, error.kind()),
        };
        let mut listener = 0;
        for slot in 0..received {
            let (datagram, out) = inbox.slot(slot);
            let Some(datagram) = datagram else { continue };
            let Some((client, len)) = self.take_datagram(number, datagram.bytes, out, context) else { continue };
            if client.listener != listener {
                send(inbox, context, listener);
            }
            listener = client.listener;
            inbox.queue_to(slot, len, &client.path);
        }
        send(inbox, context, listener);
    }

    /// Fails the attempts that wait for a response through a socket, since an ICMP message has reported a closed port.
    fn fail_through(&mut self, place: usize, kind: io::ErrorKind) {
        let Some(socket) = self.sockets.at(place) else { return };
        let number = socket.number;
        let label = socket.upstream.label.clone();
        let mut attempts = Vec::new();
        self.table.through(number, &mut attempts);
        self.failed.extend(attempts.into_iter().map(|attempt| (attempt, Error::Connection(label.clone(), kind))));
    }

    /// Handles a datagram. Returns the client of the response in `out`, and the length of the response.
    fn take_datagram(
        &mut self, socket: u32, bytes: &[u8], out: &mut [u8], context: &mut WorkerContext<'_>,
    ) -> Option<(UdpClient, usize)> {
        let id = u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
        let Some(found) = self.table.find(socket, id, context.now) else {
            if let Some(socket) = self.sockets.numbered(socket) {
                socket.upstream.driver.record_dropped(DropReason::NoQuery);
            }
            return None;
        };
        let (query, first) = self.table.get_mut(found.query)?;
        let parsed = Query::parse(first.packet()).ok()?;
        let Ok(message) = Message::parse(bytes, &parsed.question) else {
            // RFC 5452 9.1: the message is forged or late, and the response may still arrive.
            query.attempts.upstream_at(found.upstream).driver.record_dropped(DropReason::OtherQuestion);
            return None;
        };
        let answered = Answered { upstream: found.upstream, took: found.took, over_udp: true, is_last: found.is_last };
        if query.attempts.is_tapped() {
            let local = self.sockets.numbered(socket).and_then(|socket| socket.local_address());
            query.attempts.record_response(answered, local, bytes, context.now);
        }
        // The same datagram may arrive twice.
        self.table.close(socket, id);
        self.sockets.close_attempt(socket);
        self.take_answer(found.query, &message, answered, bytes, Some(out), context)
    }

    /// Handles the result of an exchange over a stream.
    fn take_exchange(&mut self, attempt: AttemptId, result: Result<Vec<u8>, Error>, context: &mut WorkerContext<'_>) {
        let Some(took) = self.table.time_since(attempt, context.now) else { return };
        let Some((query, first)) = self.table.get_mut(attempt.query) else { return };
        let bytes = match result {
            Ok(bytes) => bytes,
            // No upstream of this kind supports it.
            Err(error @ Error::Unsupported(_)) => return self.end(attempt.query, error, context),
            Err(Error::Full) => {
                query.attempts.group().counters.record_shed(ShedReason::Exchanges);
                query.attempts.record_unsent(Error::Full);
                return self.advance(attempt, context);
            }
            Err(error) => return self.fail(attempt, error, context),
        };
        let upstream = query.attempts.upstream();
        let parsed = Query::parse(first.packet());
        let Some(message) = parsed.ok().and_then(|parsed| Message::parse(&bytes, &parsed.question).ok()) else {
            // The stream has no other message for this query.
            upstream.driver.record_dropped(DropReason::OtherQuestion);
            let error = Error::Malformed(upstream.label.clone());
            return self.fail(attempt, error, context);
        };
        let answered = Answered { upstream: query.attempts.current(), took, over_udp: false, is_last: true };
        if query.attempts.is_tapped() {
            query.attempts.record_response(answered, None, &bytes, context.now);
        }
        self.take_answer(attempt.query, &message, answered, &bytes, None, context);
    }

    /// Handles a message that answers the question of a query. Returns the client of the response in `out`, and the
    /// length of the response, if there is one.
    fn take_answer(
        &mut self, number: u32, message: &Message<'_>, answered: Answered, bytes: &[u8], out: Option<&mut [u8]>,
        context: &mut WorkerContext<'_>,
    ) -> Option<(UdpClient, usize)> {
        let attempt = self.table.last_attempt(number)?;
        let (query, _) = self.table.get_mut(number)?;
        let read = context.state.reply.read(message);
        let is_short = read == Err(MessageError::Short);
        // A message that ends early was cut on its way over UDP; a stream carries all of it.
        if read == Err(MessageError::Malformed) || is_short && !answered.over_udp {
            if answered.is_last {
                let error = Error::Malformed(query.attempts.upstream().label.clone());
                self.fail(attempt, error, context);
            }
            return None;
        }
        match query.attempts.judge(message.rcode(), message.is_truncated() || is_short, answered) {
            Verdict::Ignore => return None,
            Verdict::Retry => {
                self.advance(attempt, context);
                return None;
            }
            Verdict::Deliver => {}
        }
        mark_cut(&mut context.state.reply, read);
        self.collect_followers(number, context);
        let (first, ended) = self.table.end_and_pop(number, || QueryOutcome::Answered(bytes.into()))?;
        self.settle(&ended, context.shared);
        match (first, out) {
            (UpstreamWaiter::Client(client), Some(out)) => self.write(client, Ok(()), out, context),
            (first, _) => {
                self.deliver(first, Ok(()), context);
                None
            }
        }
    }

    //--- Back to the waiters

    /// Ends a query without an answer. Its waiters are answered in this turn and the next ones.
    fn end(&mut self, number: u32, error: Error, context: &WorkerContext<'_>) {
        self.collect_followers(number, context);
        if let Some(ended) = self.table.end(number, QueryOutcome::Failed(error)) {
            self.settle(&ended, context.shared);
        }
    }

    /// Makes identical queries, which other workers have received until now, wait for this one.
    fn collect_followers(&mut self, number: u32, context: &WorkerContext<'_>) {
        if self.has_others
            && let Some(key) = self.table.key(number)
        {
            self.release(key, context.shared);
            self.sort_mail(context);
            self.wake_for_jobs();
        }
    }

    /// Answers evicted waiters, and some of those whose queries have ended.
    fn deliver_some(&mut self, context: &mut WorkerContext<'_>) {
        for (waiter, outcome) in std::mem::take(&mut self.shed) {
            self.deliver_outcome(waiter, &outcome, context);
        }
        for _ in 0..MAX_DELIVERED {
            let Some((waiter, outcome)) = self.table.pop_answered() else { break };
            self.deliver_outcome(waiter, &outcome, context);
        }
    }

    fn deliver_outcome(&mut self, waiter: UpstreamWaiter, outcome: &QueryOutcome, context: &mut WorkerContext<'_>) {
        let read = outcome.as_bytes().and_then(|bytes| read_again(&waiter, bytes, &mut context.state.reply));
        self.deliver(waiter, read, context);
    }

    /// Answers a waiter with the reply that was read, or the error.
    fn deliver(&mut self, waiter: UpstreamWaiter, read: Result<(), Error>, context: &mut WorkerContext<'_>) {
        match waiter {
            UpstreamWaiter::Task { reply, .. } => {
                // The task may have ended.
                let _ = reply.send(read.map(|()| Box::new(std::mem::take(&mut context.state.reply))));
            }
            UpstreamWaiter::Client(client) => {
                let mut scratch = self.scratch.take().unwrap_or_else(|| Box::new([0; MAX_UDP]));
                if let Some((client, len)) = self.write(client, read, &mut scratch[..], context) {
                    let socket = context.listener(client.listener).map(|listener| &listener.socket);
                    match socket.map(|socket| client.path.send(socket.as_fd(), &scratch[..len])) {
                        Some(Ok(())) => context.counters.answered.add(1),
                        None | Some(Err(_)) => context.counters.send_failed.add(1),
                    }
                }
                self.scratch = Some(scratch);
            }
        }
    }

    /// Writes the response to a client into `out`. Returns its length, unless there is none or the query is pending
    /// again.
    fn write(
        &mut self, mut client: UdpClient, read: Result<(), Error>, out: &mut [u8], context: &mut WorkerContext<'_>,
    ) -> Option<(UdpClient, usize)> {
        let service = context.listeners.get(client.listener)?.as_ref()?.service.clone();
        if read.is_err() {
            context.state.clear();
        }
        context.state.forget_all_but_reply();
        client.query.restore(context.state);
        let UdpClient { query, resume, .. } = &client;
        let now = context.now;
        let answer = service.recover(client.query.packet(), context.counters, context.state, out, |state, out| {
            query.query().map_or(Answer::Drop, |parsed| query.answered(&parsed, *resume, read, now, state, out))
        });
        match answer {
            Answer::Send(len) => return Some((client, len)),
            Answer::Drop => context.counters.unanswered.add(1),
            Answer::Pending(pending) => wait_for(self, pending, (client.listener, client.path), context),
        }
        None
    }
}

/// Writes a waiter's query as it goes out.
fn write_query(waiter: &UpstreamWaiter, id: u16, packet: &mut Vec<u8>) {
    packet.clear();
    packet.extend_from_slice(waiter.packet());
    packet[..2].copy_from_slice(&id.to_be_bytes());
    waiter.change().apply(packet);
}

/// Reads an answer for one of several waiters; it was read for the first one without an error.
fn read_again(waiter: &UpstreamWaiter, bytes: &[u8], reply: &mut Reply) -> Result<(), Error> {
    let malformed = |_| Error::Malformed("upstream".into());
    let query = Query::parse(waiter.packet()).map_err(|_| Error::Malformed("query".into()))?;
    let read = reply.read(&Message::parse(bytes, &query.question).map_err(malformed)?);
    if read == Err(MessageError::Malformed) {
        return read.map_err(malformed);
    }
    mark_cut(reply, read);
    Ok(())
}

/// Sets TC on a reply to a message that was cut off, which has no records, as CoreDNS `truncateResponse` does: the
/// client asks again over TCP.
fn mark_cut(reply: &mut Reply, read: Result<(), MessageError>) {
    reply.truncated |= read == Err(MessageError::Short);
}

/// Sends the answers that are queued, through the socket of this listener if it is still there.
fn send(inbox: &mut Batch, context: &WorkerContext<'_>, listener: usize) {
    if let Some(listener) = context.listener(listener) {
        let outcome = inbox.send(listener.socket.as_fd());
        context.counters.answered.add(outcome.sent as u64);
        context.counters.send_failed.add(outcome.failed as u64);
    }
}

impl WorkerContext<'_> {
    /// Returns the listener of this number, unless it was closed.
    pub(in crate::serve) fn listener(&self, number: usize) -> Option<&UdpListener> {
        self.listeners.get(number)?.as_ref()
    }
}

/// Puts a client's pending query into the in-flight table, or spawns it on the runtime. `from` is the number of the
/// listener, and the return path.
pub(in crate::serve) fn wait_for(
    forwarding: &mut Forwarding, pending: Pending, from: (usize, ReturnPath), context: &mut WorkerContext<'_>,
) {
    let (at, path) = from;
    let pending = match pending {
        Pending { query, at, wait: Wait::Upstream(upstream_query) } => {
            context.counters.later.add(1);
            return forwarding.forward(query, at, upstream_query, from, context);
        }
        pending => pending,
    };
    let Some(listener) = context.listener(at) else { return };
    let permit = context.shared.permit(pending.query.client(), None, context.counters);
    let socket = listener.socket.clone();
    let service = listener.service.clone();
    let shared = context.shared.clone();
    context.shared.runtime.spawn(late::answer(pending, permit, path, socket, service, shared));
}
