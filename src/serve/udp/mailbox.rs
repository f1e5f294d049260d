//! What other threads have for a worker's table of queries.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::mmsg::ReturnPath;
use super::worker::Listener;
use crate::chain::{OwnedQuery, Resume};
use crate::upstream::{Attempts, BoxFuture, Carrier, Error, Outcome, Waiter};
use crate::wire::header::Change;

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that is forwarded")]
/// Who waits for an answer of another server.
pub(in crate::serve) enum Waiting {
    /// A UDP client.
    Client(Client),
    /// Somebody on tokio's side.
    Channel { packet: Box<[u8]>, flags: Change, reply: oneshot::Sender<Outcome> },
}

/// A UDP client that waits.
pub(in crate::serve) struct Client {
    pub(in crate::serve) asked: OwnedQuery,
    /// Where its chain goes on.
    pub(in crate::serve) at: Resume,
    pub(in crate::serve) flags: Change,
    /// Which of the worker's sockets it asked, and the way back. All workers have the same in the same order.
    pub(in crate::serve) listener: usize,
    pub(in crate::serve) path: ReturnPath,
}

impl Waiter for Waiting {
    fn packet(&self) -> &[u8] {
        match self {
            Waiting::Client(client) => client.asked.packet(),
            Waiting::Channel { packet, .. } => packet,
        }
    }

    fn flags(&self) -> Change {
        match self {
            Waiting::Client(client) => client.flags,
            Waiting::Channel { flags, .. } => *flags,
        }
    }
}

/// Something for a worker.
pub(in crate::serve) enum Job {
    /// Send this.
    UpstreamQuery(Waiting, Attempts),
    /// The same question is on its way here already; `key` is what makes them alike.
    Follow(u64, Waiting, Attempts),
    /// A stream has brought an answer, or has failed.
    Came { slot: u32, token: u64, result: Result<Vec<u8>, Error> },
    /// Serve another socket, under this number.
    Open(usize, Listener),
    /// Serve this one no more, once what has come is answered.
    Close(usize),
    /// Nothing; look whether the server ends.
    Wake,
}

/// Where jobs for one worker lie.
pub(in crate::serve) struct Mailbox {
    /// Written by whoever has a job, emptied by the worker. Held for a push or a swap.
    jobs: Mutex<Vec<Job>>,
    /// Wakes the worker.
    event: EventFd,
    /// How many queries wait in the worker's table. Written by the worker.
    pub(in crate::serve) waiting: AtomicUsize,
}

impl Mailbox {
    pub(in crate::serve) fn new() -> io::Result<Arc<Mailbox>> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Mailbox { jobs: Mutex::default(), event, waiting: AtomicUsize::new(0) }))
    }

    /// What is readable when there are jobs.
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

    /// Takes the jobs out.
    pub(in crate::serve) fn take(&self, into: &mut Vec<Job>) {
        let mut jobs = self.jobs.lock();
        if !jobs.is_empty() {
            let _ = self.event.read();
            into.append(&mut jobs);
        }
    }
}

/// All workers, as the carrier of what comes from elsewhere.
pub(in crate::serve) struct Workers {
    pub(in crate::serve) mailboxes: Vec<Arc<Mailbox>>,
    /// Whose turn it is.
    pub(in crate::serve) turn: AtomicUsize,
}

impl Carrier for Workers {
    fn carry(&self, packet: Box<[u8]>, flags: Change, attempts: Attempts) -> BoxFuture<Outcome> {
        let (reply, answer) = oneshot::channel();
        let at = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(mailbox) = self.mailboxes.get(at % self.mailboxes.len().max(1)) {
            mailbox.send(Job::UpstreamQuery(Waiting::Channel { packet, flags, reply }, attempts));
        }
        Box::pin(async move { answer.await.unwrap_or(Err(Error::Ending)) })
    }
}
