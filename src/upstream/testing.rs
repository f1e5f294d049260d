//! Upstreams for tests: they are not there, and record what they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::{BoxFuture, Care, Carriers, Counts, Dropped, Error, Group, Rules, Shed, Transport, Upstream};
use crate::wire::Rcode;

/// What upstreams and their group were told.
#[derive(Default)]
pub struct Notes {
    /// Answers: the upstream's number in the group, and how long the answer took.
    pub answered: Vec<(usize, Duration)>,
    /// Failures: the upstream's number.
    pub failed: Vec<usize>,
    /// Datagrams that were dropped.
    pub dropped: Vec<Dropped>,
    /// Queries that were shed.
    pub shed: Vec<Shed>,
    /// Exchanges over streams.
    pub exchanges: usize,
}

/// Records what one upstream, or the group, is told.
pub struct Noted {
    /// The upstream's number in the group.
    pub number: usize,
    /// Where it is recorded.
    pub notes: Arc<Mutex<Notes>>,
    /// What an exchange brings.
    pub exchange: fn(Vec<u8>) -> Result<Vec<u8>, Error>,
}

impl Care for Noted {
    fn exchange(&self, packet: Vec<u8>, _: Duration) -> BoxFuture<Result<Vec<u8>, Error>> {
        self.notes.lock().exchanges += 1;
        Box::pin(std::future::ready((self.exchange)(packet)))
    }

    fn answered(&self, _: Rcode, took: Duration) {
        self.notes.lock().answered.push((self.number, took));
    }

    fn failed(&self) {
        self.notes.lock().failed.push(self.number);
    }

    fn socket(&self, _: bool) {}

    fn dropped(&self, why: Dropped) {
        self.notes.lock().dropped.push(why);
    }
}

impl Counts for Noted {
    fn all_down(&self) {}

    fn over_limit(&self) {}

    fn shed(&self, why: Shed) {
        self.notes.lock().shed.push(why);
    }
}

/// A group of upstreams at these addresses, and what they are told. An exchange is never answered.
pub fn group(addresses: &[SocketAddr], rules: Rules) -> (Arc<Group>, Arc<Mutex<Notes>>) {
    group_with(addresses, rules, Carriers::default(), |_| Err(Error::Full))
}

/// A group of upstreams whose exchanges bring this.
pub fn group_with(
    addresses: &[SocketAddr], rules: Rules, carriers: Carriers, exchange: fn(Vec<u8>) -> Result<Vec<u8>, Error>,
) -> (Arc<Group>, Arc<Mutex<Notes>>) {
    let notes = Arc::new(Mutex::new(Notes::default()));
    let noted = |number| Box::new(Noted { number, notes: notes.clone(), exchange });
    let upstreams = addresses.iter().enumerate().map(|(number, &address)| {
        Arc::new(Upstream::new(address, Transport::Dns, None, Arc::default(), noted(number)))
    });
    let group = Group::new(upstreams.collect(), rules, carriers, noted(0));
    (Arc::new(group), notes)
}

/// Makes an upstream of a group be down or up.
pub fn set_down(group: &Group, number: usize, down: bool) {
    group.upstreams()[number].fails.store(if down { group.rules.max_fails + 1 } else { 0 }, Ordering::Relaxed);
}
