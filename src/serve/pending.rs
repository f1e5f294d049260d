//! Answers that come later: how many may wait, and what happens when one panics.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Service;
use super::counts::Counters;
use crate::chain::Pending;
use crate::wire::encode::encode_error;
use crate::wire::{MAX_MESSAGE, Rcode};

/// A bound on how many answers may wait, over all transports.
#[derive(Debug)]
pub(in crate::serve) struct Waiting {
    /// How many wait. Every worker and connection writes it, but only for a query that waits.
    open: AtomicUsize,
    /// How many may.
    limit: usize,
}

impl Waiting {
    /// Room for `limit`.
    pub(in crate::serve) fn new(limit: usize) -> Arc<Waiting> {
        Arc::new(Waiting { open: AtomicUsize::new(0), limit })
    }

    /// A place for one more, if there is one; it is free again when dropped.
    pub(in crate::serve) fn enter(self: &Arc<Self>) -> Option<Place> {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        (open < self.limit).then_some(place)
    }

    /// How many wait.
    pub(in crate::serve) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A taken place.
pub(in crate::serve) struct Place(Arc<Waiting>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// Where answers are written before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Waits for an answer and writes it, `limit` octets at most; nothing where nothing is to be said. `packet` is the
/// query, for the case that a plugin panics.
pub(in crate::serve) async fn answer(
    pending: Pending, packet: Box<[u8]>, limit: usize, service: Arc<Service>, counters: &Counters,
) -> Option<Box<[u8]>> {
    let mut future = std::pin::pin!(pending.finish());
    // What a panic leaves half done is dropped with the future, so that nobody sees it.
    let finished = std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => std::task::Poll::Ready(Err(panic)),
    });
    let finished = finished.await;
    SCRATCH.with_borrow_mut(|out| {
        out.resize(MAX_MESSAGE, 0);
        let written = finished.and_then(|finished| {
            catch_unwind(AssertUnwindSafe(|| finished.map(|finished| finished.encode(&mut out[..limit]))))
        });
        let len = match written {
            Ok(len) => len?,
            Err(panic) => panicked(&*panic, &service, counters, &packet, out),
        };
        Some(out[..len].into())
    })
}

/// When a panic was last logged.
static LOGGED: Seldom = Seldom::new();

/// What a plugin's panic comes to: SERVFAIL, as CoreDNS `Server.ServeDNS` recovers; gives the answer's length.
///
/// Where the configuration wants no recovery (*debug*) this ends the process, as an unrecovered panic does in Go.
pub(in crate::serve) fn panicked(
    panic: &(dyn Any + Send), service: &Service, counters: &Counters, packet: &[u8], out: &mut [u8],
) -> usize {
    counters.panics.add(1);
    let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let recover = service.settings().recover;
    // The panic hook has told where.
    if LOGGED.now() || !recover {
        tracing::error!(panic = what.unwrap_or("unknown"), "a plugin panicked");
    }
    if !recover {
        std::process::abort();
    }
    encode_error(packet, Rcode::SERVFAIL, out)
}

/// A brake on log lines about a problem that may recur for each packet: one in ten seconds.
pub(in crate::serve) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// None logged yet.
    pub(in crate::serve) const fn new() -> Seldom {
        Seldom(Mutex::new(None))
    }

    /// Whether to log now.
    pub(in crate::serve) fn now(&self) -> bool {
        let (mut last, now) = (self.0.lock(), Instant::now());
        let due = last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(10));
        if due {
            *last = Some(now);
        }
        due
    }
}
