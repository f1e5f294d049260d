//! Jobs of other threads for a worker: queries for its table, outcomes of streams, sockets to serve.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::listener::Listener;
use super::mmsg::ReturnPath;
use crate::chain::{OwnedQuery, Resume};
use crate::upstream::inflight::AttemptId;
use crate::upstream::{Attempts, BoxFuture, Dispatch, Error, ReplyResult, ShedReason, Waiter};
use crate::wire::QueryChange;

/// The most queries in a mailbox. The worker empties it in each turn.
const MAX_QUERIES: usize = 4_096;

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
/// Who waits for an upstream's answer.
pub(in crate::serve) enum UpstreamWaiter {
    /// A UDP client.
    Client(UdpClient),
    /// A task of the runtime: for a client of another transport, or for a look-up of this server.
    Task { packet: Box<[u8]>, change: QueryChange, client: IpAddr, reply: oneshot::Sender<ReplyResult> },
}

/// A UDP client that waits for an upstream's answer.
pub(in crate::serve) struct UdpClient {
    pub(in crate::serve) query: OwnedQuery,
    /// Where its chain goes on.
    pub(in crate::serve) resume: Resume,
    pub(in crate::serve) change: QueryChange,
    /// The listener that it asked. All workers have the same ones under the same numbers.
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
    /// Forward this query, which has this key; an identical one was in flight here when it came.
    Follow(u64, UpstreamWaiter, Attempts),
    /// The outcome of an attempt over a stream.
    Came { attempt: AttemptId, result: Result<Vec<u8>, Error> },
    /// Serve another socket, under this number.
    Open(usize, Listener),
    /// Stop serving this one, once what has come is answered.
    Close(usize),
    /// Nothing; check whether the server stops.
    Wake,
}

/// The jobs for one worker.
pub(in crate::serve) struct Mailbox {
    /// Written by other threads, emptied by the worker. Locked for a push or a swap.
    jobs: Mutex<Vec<Job>>,
    /// Wakes the worker.
    event: EventFd,
    /// How many queries were left here that the worker has not begun. Written with each of them by both sides.
    queries: AtomicUsize,
    /// How many waiters the worker's table has. Written by the worker.
    pub(in crate::serve) waiting: AtomicUsize,
}

impl Mailbox {
    pub(in crate::serve) fn new() -> io::Result<Arc<Mailbox>> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let (queries, waiting) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Arc::new(Mailbox { jobs: Mutex::default(), event, queries, waiting }))
    }

    /// Becomes readable when there are jobs.
    pub(in crate::serve) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Puts a job in and wakes the worker.
    pub(in crate::serve) fn send(&self, job: Job) {
        let mut jobs = self.jobs.lock();
        jobs.push(job);
        // The worker takes all of them at once, and needs one call only.
        if jobs.len() == 1 {
            let _ = self.event.write(1);
        }
    }

    /// Puts a query in and wakes the worker. Returns the query where too many lie there already.
    #[expect(clippy::result_large_err, reason = "it is moved either way")]
    pub(in crate::serve) fn send_query(&self, query: Job) -> Result<(), Job> {
        if self.queries.fetch_add(1, Ordering::Relaxed) >= MAX_QUERIES {
            self.queries.fetch_sub(1, Ordering::Relaxed);
            return Err(query);
        }
        self.send(query);
        Ok(())
    }

    /// Records that the worker has begun a query that [`Mailbox::send_query`] has put in.
    pub(in crate::serve) fn record_begun(&self) {
        self.queries.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes the jobs out.
    pub(in crate::serve) fn take(&self, into: &mut Vec<Job>) {
        let mut jobs = self.jobs.lock();
        if !jobs.is_empty() {
            let _ = self.event.read();
            into.append(&mut jobs);
        }
    }
}

/// All workers, for queries that no UDP worker has read.
pub(in crate::serve) struct Workers {
    pub(in crate::serve) mailboxes: Vec<Arc<Mailbox>>,
    /// Counts up; the next worker is the remainder.
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
