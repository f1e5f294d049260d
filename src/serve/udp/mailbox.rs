//! The mailbox of a worker, for jobs of other threads: queries to forward, results of streams, sockets to serve.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::listener::UdpListener;
use super::mmsg::ReturnPath;
use crate::chain::{OwnedQuery, Resume};
use crate::upstream::inflight::AttemptId;
use crate::upstream::{Attempts, BoxFuture, Dispatch, Error, ReplyResult, RevokedPermit, ShedReason, Waiter};
use crate::wire::QueryChange;

/// The maximum number of queries in a mailbox. The worker empties it in each turn.
const MAX_QUERIES: usize = 4_096;

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
/// A client that waits for a response of an upstream.
pub(in crate::serve) enum UpstreamWaiter {
    /// A UDP client.
    Client(UdpClient),
    /// A task of the runtime, for a client of another transport or a look-up of this server itself.
    Task { packet: Box<[u8]>, change: QueryChange, client: IpAddr, reply: oneshot::Sender<ReplyResult> },
}

/// A UDP client that waits for a response of an upstream.
pub(in crate::serve) struct UdpClient {
    pub(in crate::serve) query: OwnedQuery,
    /// Where its chain resumes.
    pub(in crate::serve) resume: Resume,
    pub(in crate::serve) change: QueryChange,
    /// The number of the listener of the query, which is the same in all workers.
    pub(in crate::serve) listener: usize,
    pub(in crate::serve) path: ReturnPath,
}

impl Waiter for UpstreamWaiter {
    fn packet(&self) -> &[u8] {
        match self {
            UpstreamWaiter::Client(client) => client.query.upstream_packet(),
            UpstreamWaiter::Task { packet, .. } => packet,
        }
    }

    fn change(&self) -> QueryChange {
        match self {
            UpstreamWaiter::Client(client) => client.change,
            UpstreamWaiter::Task { change, .. } => *change,
        }
    }

    fn client(&self) -> IpAddr {
        match self {
            UpstreamWaiter::Client(client) => client.query.client().remote.ip(),
            UpstreamWaiter::Task { client, .. } => *client,
        }
    }

    fn is_repeated_by(&self, other: &UpstreamWaiter) -> bool {
        match (self, other) {
            (UpstreamWaiter::Client(one), UpstreamWaiter::Client(other)) => {
                one.listener == other.listener
                    && one.query.client() == other.query.client()
                    && one.query.packet().get(..2) == other.query.packet().get(..2)
            }
            _ => false,
        }
    }
}

/// A job for a worker.
pub(in crate::serve) enum Job {
    /// Forward this query.
    UpstreamQuery(UpstreamWaiter, Attempts),
    /// Forward this query, which has this key; an identical one was in flight in this worker when it arrived.
    Follow(u64, UpstreamWaiter, Attempts),
    /// The result of an attempt over a stream.
    Came { attempt: AttemptId, result: Result<Vec<u8>, Error> },
    /// Evict a waiter of this worker: it has lost its permit to a query of another one.
    Revoked(RevokedPermit),
    /// Serve another socket, under this number.
    Open(usize, UdpListener),
    /// Close the socket with this number after the queries that have arrived are answered.
    Close(usize),
    /// Only wakes the worker, which then checks whether the server stops.
    Wake,
}

/// The jobs for one worker.
pub(in crate::serve) struct Mailbox {
    /// Written by other threads, emptied by the worker. Locked for a push or a swap.
    jobs: Mutex<Vec<Job>>,
    /// Wakes the worker.
    event: EventFd,
    /// The number of queries that the worker has not begun. Written for each of them by both sides.
    queries: AtomicUsize,
    /// The number of waiters in the worker's table. Written by the worker.
    pub(in crate::serve) waiting: AtomicUsize,
}

impl Mailbox {
    pub(in crate::serve) fn new() -> io::Result<Arc<Mailbox>> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let queries = AtomicUsize::new(0);
        let waiting = AtomicUsize::new(0);
        Ok(Arc::new(Mailbox { jobs: Mutex::default(), event, queries, waiting }))
    }

    /// Returns the descriptor that is readable when there are jobs.
    pub(in crate::serve) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Adds a job and wakes the worker.
    pub(in crate::serve) fn send(&self, job: Job) {
        let mut jobs = self.jobs.lock();
        jobs.push(job);
        // The worker takes all jobs at once, so that one call per batch is enough.
        if jobs.len() == 1 {
            let _ = self.event.write(1);
        }
    }

    /// Adds a query and wakes the worker. Returns the query if the mailbox is full.
    #[expect(clippy::result_large_err, reason = "it is moved either way")]
    pub(in crate::serve) fn send_query(&self, query: Job) -> Result<(), Job> {
        if self.queries.fetch_add(1, Ordering::Relaxed) >= MAX_QUERIES {
            self.queries.fetch_sub(1, Ordering::Relaxed);
            return Err(query);
        }
        self.send(query);
        Ok(())
    }

    /// Records that the worker has begun a query of [`Mailbox::send_query`].
    pub(in crate::serve) fn record_begun(&self) {
        self.queries.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes all jobs.
    pub(in crate::serve) fn take(&self, into: &mut Vec<Job>) {
        let mut jobs = self.jobs.lock();
        if !jobs.is_empty() {
            let _ = self.event.read();
            into.append(&mut jobs);
        }
    }
}

/// The workers, to forward queries that no UDP worker has read.
pub(in crate::serve) struct Workers {
    pub(in crate::serve) mailboxes: Vec<Arc<Mailbox>>,
    /// The number of dispatched queries; its remainder selects the next worker.
    pub(in crate::serve) turn: AtomicUsize,
}

impl Dispatch for Workers {
    fn dispatch(
        &self, packet: Box<[u8]>, change: QueryChange, client: IpAddr, attempts: Attempts,
    ) -> BoxFuture<ReplyResult> {
        let (reply, answer) = oneshot::channel();
        let at = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(mailbox) = self.mailboxes.get(at % self.mailboxes.len().max(1)) {
            let group = attempts.group().clone();
            let waiter = UpstreamWaiter::Task { packet, change, client, reply };
            if mailbox.send_query(Job::UpstreamQuery(waiter, attempts)).is_err() {
                group.counters.record_shed(ShedReason::Full);
                return Box::pin(std::future::ready(Err(Error::Full)));
            }
        }
        Box::pin(async move { answer.await.unwrap_or(Err(Error::Ending)) })
    }
}
