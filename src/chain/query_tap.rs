//! An observer of a sample of the queries of clients, at the one place through which all of them go.

use std::cell::Cell;

use super::{Client, Router};
use crate::wire::{Question, Rcode};

thread_local! {
    /// The number of queries of this thread up to the next one that is recorded, included.
    static DISTANCE: Cell<u32> = const { Cell::new(1) };
}

/// A query of a client that was answered, refused or dropped.
pub struct FinishedQuery<'a> {
    /// The question as received.
    pub question: &'a Question,
    /// The client.
    pub client: Client,
    /// The response code; `None` for a query that was dropped.
    pub rcode: Option<Rcode>,
    /// The reason why there was no ordinary answer, as one word.
    pub reason: Option<&'static str>,
}

/// Records queries. The threads that answer queries call it, so it must not block.
pub trait QueryTap: Send + Sync {
    /// Records a query. Returns the distance to the next one that the same thread has to record; 1 is the next query.
    fn record(&self, query: &FinishedQuery<'_>) -> u32;
}

impl Router {
    /// Records the end of a query, if it is its turn.
    #[inline(always)]
    pub(super) fn tap<'a>(&self, ended: impl FnOnce() -> FinishedQuery<'a>) {
        let Some(tap) = &self.surroundings().tap else { return };
        match DISTANCE.get() {
            0 | 1 => record(&**tap, &ended()),
            more => DISTANCE.set(more - 1),
        }
    }
}

#[inline(never)]
fn record(tap: &dyn QueryTap, ended: &FinishedQuery<'_>) {
    DISTANCE.set(tap.record(ended));
}
