//! One message and its answer, for transports that bring each in a request or a stream of its own.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{Service, Shared};
use crate::chain::{Answer, Client, Pending, State};
use crate::serve::pending::{self, PendingLimit, PendingPermit};
use crate::wire::MAX_MESSAGE;

thread_local! {
    /// The buffers of a thread.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

struct Scratch {
    state: State,
    out: [u8; MAX_MESSAGE],
}

/// What is to be done for a message.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment")]
enum Todo {
    Send(Box<[u8]>),
    Silent,
    Pending(Pending, PendingPermit),
}

/// Answers a message; nothing where nothing is to be said.
pub(crate) async fn answer(
    packet: &[u8], client: Client, service: &Arc<Service>, shared: &Shared,
) -> Option<Box<[u8]>> {
    answer_within(packet, client, service, shared, None).await
}

/// As [`answer`], within a limit on pending queries of the listener's own besides the one for all.
pub(crate) async fn answer_within(
    packet: &[u8], client: Client, service: &Arc<Service>, shared: &Shared, limit: Option<&Arc<PendingLimit>>,
) -> Option<Box<[u8]>> {
    let todo = SCRATCH.with_borrow_mut(|scratch| {
        let scratch =
            scratch.get_or_insert_with(|| Box::new(Scratch { state: State::default(), out: [0; MAX_MESSAGE] }));
        begin(packet, client, service, shared, limit, scratch)
    });
    let answer = match todo {
        Todo::Send(answer) => Some(answer),
        Todo::Silent => None,
        Todo::Pending(pending, mut permit) => {
            shared.counters.later.add(1);
            let (packet, service) = (packet.into(), service.clone());
            pending::answer(pending, &mut permit, packet, MAX_MESSAGE, service, &shared.counters).await
        }
    };
    let counter = if answer.is_some() { &shared.counters.answered } else { &shared.counters.silent };
    counter.add(1);
    answer
}

fn begin(
    packet: &[u8], client: Client, service: &Arc<Service>, shared: &Shared, limit: Option<&Arc<PendingLimit>>,
    scratch: &mut Scratch,
) -> Todo {
    let router = service.router();
    let Scratch { state, out } = scratch;
    // A panic leaves nothing behind that is used again: `state` is replaced, and `out` is written anew.
    let todo =
        catch_unwind(AssertUnwindSafe(|| match router.answer(packet, client, Instant::now(), state, &mut out[..]) {
            Answer::Send(len) => Todo::Send(out[..len].into()),
            Answer::Silent => Todo::Silent,
            Answer::Pending(pending) => Todo::Pending(pending, shared.permit(client, limit, &shared.counters)),
        }));
    todo.unwrap_or_else(|panic| {
        *state = State::default();
        let len = pending::panicked(&*panic, service, &shared.counters, packet, &mut out[..]);
        Todo::Send(out[..len].into())
    })
}

/// Octets of queries and answers that encrypted transports hold for their clients: of one connection and of all. They
/// bound what clients cost that ask much and read little.
#[derive(Debug)]
pub(crate) struct Room {
    held: AtomicUsize,
    limit: usize,
    /// That of all connections.
    within: Option<Arc<Room>>,
}

impl Room {
    pub(crate) fn new(limit: usize, within: Option<Arc<Room>>) -> Arc<Room> {
        Arc::new(Room { held: AtomicUsize::new(0), limit, within })
    }

    /// Room for so many octets, if there is.
    pub(crate) fn take(self: &Arc<Self>, octets: usize) -> Option<Held> {
        let mut held = Held { room: self.clone(), octets: 0 };
        held.resize(octets).then_some(held)
    }

    fn add(&self, octets: usize) -> bool {
        if self.held.fetch_add(octets, Ordering::Relaxed) + octets > self.limit {
            self.held.fetch_sub(octets, Ordering::Relaxed);
            return false;
        }
        if self.within.as_ref().is_some_and(|within| !within.add(octets)) {
            self.held.fetch_sub(octets, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn give_back(&self, octets: usize) {
        self.held.fetch_sub(octets, Ordering::Relaxed);
        if let Some(within) = &self.within {
            within.give_back(octets);
        }
    }
}

/// Room that is taken; free again when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    octets: usize,
}

impl Held {
    /// Takes another amount instead; says whether there is room.
    pub(crate) fn resize(&mut self, octets: usize) -> bool {
        if octets > self.octets && !self.room.add(octets - self.octets) {
            return false;
        }
        if octets < self.octets {
            self.room.give_back(self.octets - octets);
        }
        self.octets = octets;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.give_back(self.octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_for_one_and_for_all() {
        let all = Room::new(100, None);
        let (one, other) = (Room::new(80, Some(all.clone())), Room::new(80, Some(all.clone())));
        let mut held = one.take(70).expect("room");
        assert!(one.take(20).is_none());
        assert!(other.take(40).is_none());
        assert!(held.resize(20) && !held.resize(90));
        let more = other.take(80).expect("room");
        drop((held, more));
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
        assert_eq!(one.held.load(Ordering::Relaxed), 0);
    }
}
