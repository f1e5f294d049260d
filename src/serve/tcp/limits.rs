//! Limits on the connections of clients: in all, of a listener, and of one client address.
//!
//! Where a limit is reached, a new connection takes the place of an idle one, of the address with the most connections
//! first. A connection is busy only from a whole query on to its answer: clients that are silent, that stop halfway
//! through a query, or that do not read keep nobody out. Where the address with the most connections is busy with all
//! of them, its oldest one gives way as long as the newcomer has fewer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::net::{Shares, Ticket};

/// Limits on TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections in all, fewer where there are not so many descriptors. 10,000: some 20 MB when all of them are idle.
    pub connections: usize,
    /// Connections of one client address; at most a quarter of all. 1,000. Addresses are counted singly in IPv6, too:
    /// the Pods of a node share a /64.
    pub connections_per_address: usize,
    /// Pending queries of one connection; at the limit nothing more is read from it. 256.
    pub waiting_per_connection: usize,
}

impl Default for TcpLimits {
    fn default() -> TcpLimits {
        TcpLimits { connections: 10_000, connections_per_address: 1_000, waiting_per_connection: 256 }
    }
}

/// The most descriptors that client connections leave to all else that opens one: upstream sockets, the API server,
/// files, and the pages for operators.
const RESERVE: usize = 4_096;
/// What one address may have at least, however few descriptors there are.
const LEAST_PER_ADDRESS: usize = 8;

impl TcpLimits {
    /// The limits where a process may have so many descriptors and has so many open, without client connections. Half
    /// of the rest, up to [`RESERVE`], stays free.
    fn within(self, descriptors: usize, open: usize) -> TcpLimits {
        let free = descriptors.saturating_sub(open);
        let connections = self.connections.min(free - RESERVE.min(free / 2)).max(1);
        let connections_per_address = self.connections_per_address.min((connections / 4).max(LEAST_PER_ADDRESS));
        TcpLimits { connections, connections_per_address, ..self }
    }
}

/// How many descriptors this process may have open: its soft limit.
pub(crate) fn descriptor_limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// How many descriptors this process has open. A guess where `/proc` is not there.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(64, Iterator::count)
}

/// The books of all client connections of a server. Locked when a connection starts and when it ends.
#[derive(Debug)]
pub(crate) struct Connections {
    books: Mutex<Books>,
    next_group: AtomicUsize,
}

#[derive(Debug)]
struct Books {
    limits: TcpLimits,
    /// Those that hold a descriptor, of all listeners. QUIC's connections do not.
    sockets: Shares<Arc<ConnectionActivity>>,
    /// Those that share a limit of their own: of DNS over TCP and TLS, or of another encrypted listener.
    groups: HashMap<usize, Shares<Arc<ConnectionActivity>>, foldhash::fast::RandomState>,
}

/// What a connection does, as far as others must know.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    opened: Instant,
    group: usize,
    /// Queries that have come whole and have no answer yet. Written by the connection.
    queries: AtomicUsize,
    /// How many milliseconds after `opened` it did something last. Likewise.
    last: AtomicU64,
    /// It must end: another takes its place.
    evicted: Notify,
    /// Its entries in the books.
    tickets: OnceLock<Tickets>,
}

#[derive(Debug)]
struct Tickets {
    socket: Option<Ticket>,
    group: Ticket,
}

impl ConnectionActivity {
    /// Notes whether an answer is due to the client, and when it did something last.
    pub(crate) fn set(&self, is_busy: bool, last: Instant) {
        self.queries.store(is_busy.into(), Ordering::Relaxed);
        self.touch(last);
    }

    /// Notes that a whole query has come, until the guard is dropped.
    pub(crate) fn query(self: &Arc<Self>) -> BusyGuard {
        self.queries.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    /// Ends when the connection must.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn touch(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.opened).as_millis();
        self.last.store(millis.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Since when it has been idle, if it is.
    fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.queries.load(Ordering::Relaxed) == 0;
        is_idle.then(|| self.opened + Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// A query of a connection that has no answer yet.
pub(crate) struct BusyGuard(Arc<ConnectionActivity>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.touch(Instant::now());
        self.0.queries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// None yet.
    pub(crate) fn new(limits: TcpLimits) -> Arc<Connections> {
        let (sockets, groups) = (Shares::default(), HashMap::default());
        Arc::new(Connections { books: Mutex::new(Books { limits, sockets, groups }), next_group: AtomicUsize::new(0) })
    }

    /// Derives the limits from what descriptors there are. To be called once listeners are open, and again after
    /// others.
    pub(crate) fn fit(&self, limits: TcpLimits, descriptors: usize) {
        let open = open_descriptors();
        let books = &mut *self.books.lock();
        books.limits = limits.within(descriptors, open.saturating_sub(books.sockets.len()));
        tracing::debug!(limits = ?books.limits, descriptors, open, "TCP connections");
    }

    /// The limits.
    pub(crate) fn limits(&self) -> TcpLimits {
        self.books.lock().limits
    }

    /// Starts a group of connections that share a limit of their own. Returns its number.
    pub(crate) fn add_group(&self) -> usize {
        let group = self.next_group.fetch_add(1, Ordering::Relaxed);
        self.books.lock().groups.insert(group, Shares::default());
        group
    }

    /// Ends a group, which has no connections any more.
    pub(crate) fn remove_group(&self, group: usize) {
        self.books.lock().groups.remove(&group);
    }

    /// How many connections a group has.
    pub(crate) fn open(&self, group: usize) -> usize {
        self.books.lock().groups.get(&group).map_or(0, Shares::len)
    }

    /// Takes a permit for one more connection of an address, in a group of at most so many. `None` where no other can
    /// make room for it. Returns also how many had to. `has_socket`: it holds a descriptor of its own.
    pub(crate) fn acquire(
        self: &Arc<Self>, group: usize, most: usize, address: IpAddr, has_socket: bool,
    ) -> (Option<ConnectionPermit>, u64) {
        let mut evicted = 0;
        let permit = self.acquire_counted(group, most, address, has_socket, &mut evicted);
        (permit, evicted)
    }

    fn acquire_counted(
        self: &Arc<Self>, group: usize, most: usize, address: IpAddr, has_socket: bool, count: &mut u64,
    ) -> Option<ConnectionPermit> {
        let books = &mut *self.books.lock();
        while let Some(limit) = books.reached(group, most, address, has_socket) {
            let of_group = books.groups.get(&group)?;
            let evicted = match limit {
                Limit::Address => idlest(of_group, address),
                Limit::Group => gives_way(of_group, address),
                Limit::Sockets => gives_way(&books.sockets, address),
            };
            let evicted = evicted?;
            books.evict(&evicted);
            *count += 1;
        }
        let activity = Arc::new(ConnectionActivity {
            opened: Instant::now(),
            group,
            queries: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            evicted: Notify::new(),
            tickets: OnceLock::new(),
        });
        let socket = has_socket.then(|| books.sockets.add(address, activity.clone()));
        let tickets = Tickets { socket, group: books.groups.get_mut(&group)?.add(address, activity.clone()) };
        activity.tickets.set(tickets).expect("set once, here");
        Some(ConnectionPermit { connections: self.clone(), activity })
    }

    /// Ends a connection to have its descriptor. Says whether there was one.
    pub(crate) fn free_descriptor(&self) -> bool {
        let books = &mut *self.books.lock();
        let evicted = gives_way(&books.sockets, IpAddr::from([0, 0, 0, 0]));
        evicted.is_some_and(|evicted| {
            books.evict(&evicted);
            true
        })
    }
}

/// A limit that a new connection would exceed.
enum Limit {
    Address,
    Group,
    Sockets,
}

impl Books {
    /// The first limit that one more connection would exceed.
    fn reached(&self, group: usize, most: usize, address: IpAddr, has_socket: bool) -> Option<Limit> {
        let of_group = self.groups.get(&group)?;
        if of_group.held_by(address) >= self.limits.connections_per_address.max(1) {
            Some(Limit::Address)
        } else if of_group.len() >= most.max(1) {
            Some(Limit::Group)
        } else if has_socket && self.sockets.len() >= self.limits.connections.max(1) {
            Some(Limit::Sockets)
        } else {
            None
        }
    }

    /// Takes a connection out of the books and tells it to end.
    fn evict(&mut self, activity: &ConnectionActivity) {
        self.remove(activity);
        activity.evicted.notify_one();
    }

    fn remove(&mut self, activity: &ConnectionActivity) {
        let Some(Tickets { socket, group }) = activity.tickets.get() else { return };
        if let Some(socket) = socket {
            self.sockets.remove(*socket);
        }
        if let Some(of_group) = self.groups.get_mut(&activity.group) {
            of_group.remove(*group);
        }
    }
}

/// The connection of an address that has been idle for longest.
fn idlest(connections: &Shares<Arc<ConnectionActivity>>, address: IpAddr) -> Option<Arc<ConnectionActivity>> {
    let idle = connections.of(address).filter_map(|(_, activity)| Some((activity.idle_since()?, activity)));
    idle.min_by_key(|(since, _)| *since).map(|(_, activity)| activity.clone())
}

/// The connection that gives way to one more of this address.
fn gives_way(connections: &Shares<Arc<ConnectionActivity>>, address: IpAddr) -> Option<Arc<ConnectionActivity>> {
    let own = connections.held_by(address);
    let (heaviest, most) = connections.clients().next()?;
    if own >= most {
        return idlest(connections, address);
    }
    let oldest = || connections.of(heaviest).next().map(|(_, activity)| activity.clone());
    let heavier = connections.clients().take_while(|(_, count)| *count > own);
    idlest(connections, heaviest)
        .or_else(|| if most > own + 1 { oldest() } else { None })
        .or_else(|| idlest(connections, address))
        .or_else(|| heavier.skip(1).find_map(|(other, _)| idlest(connections, other)))
}

/// Lets a connection exist; given back when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    connections: Arc<Connections>,
    pub(crate) activity: Arc<ConnectionActivity>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // One that was evicted has been taken out already.
        self.connections.books.lock().remove(&self.activity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(limits: TcpLimits) -> (Arc<Connections>, usize) {
        let connections = Connections::new(limits);
        let group = connections.add_group();
        (connections, group)
    }

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// Whether the connection was told to end.
    fn is_evicted(permit: &ConnectionPermit) -> bool {
        permit.connections.books.lock().groups.values().all(|shares| {
            let mut entries = shares.of(address(1)).chain(shares.of(address(2)));
            !entries.any(|(_, activity)| Arc::ptr_eq(activity, &permit.activity))
        })
    }

    #[test]
    fn limits_follow_from_descriptors() {
        let limits = |descriptors, open| {
            let limits = TcpLimits::default().within(descriptors, open);
            (limits.connections, limits.connections_per_address)
        };
        assert_eq!(limits(1 << 20, 100), (10_000, 1_000));
        assert_eq!(limits(usize::MAX, 100), (10_000, 1_000));
        assert_eq!(limits(10_000, 100), (5_804, 1_000));
        assert_eq!(limits(1_024, 64), (480, 120));
        assert_eq!(limits(256, 56), (100, 25));
        assert_eq!(limits(64, 80), (1, 8));
    }

    #[test]
    fn the_idlest_connection_of_the_heaviest_address_gives_way() {
        let (connections, group) = connections(TcpLimits::default());
        let acquire = |number| connections.acquire(group, 4, address(number), true).0.expect("a permit");
        let heavy: Vec<_> = (0..3).map(|_| acquire(1)).collect();
        let later = Instant::now() + Duration::from_secs(1);
        heavy[0].activity.set(false, later);
        let _busy = heavy[1].activity.query();
        let light = acquire(2);
        let _another = acquire(2);
        assert_eq!([0, 1, 2].map(|at| is_evicted(&heavy[at])), [false, false, true]);
        assert!(!is_evicted(&light));
        // As many as the newcomer has: its own idle one goes.
        let _third = acquire(2);
        assert!(is_evicted(&light) && !is_evicted(&heavy[0]));
    }

    #[test]
    fn busy_connections_give_way_to_an_address_with_fewer() {
        let (connections, group) = connections(TcpLimits::default());
        let acquire = |number| connections.acquire(group, 3, address(number), false).0;
        let heavy: Vec<_> = (0..3).map(|_| acquire(1).expect("a permit")).collect();
        let busy: Vec<_> = heavy.iter().map(|permit| permit.activity.query()).collect();
        assert!(acquire(1).is_none());
        let light = acquire(2).expect("a permit");
        let _busy_too = light.activity.query();
        assert_eq!([0, 1, 2].map(|at| is_evicted(&heavy[at])), [true, false, false]);
        // Two and one: nothing is gained by one and two.
        assert!(acquire(2).is_none());
        drop(busy);
        assert!(acquire(2).is_some() && is_evicted(&heavy[1]));
    }

    #[test]
    fn sockets_of_all_groups_share_the_descriptors() {
        let (connections, first) = connections(TcpLimits { connections: 2, ..TcpLimits::default() });
        let second = connections.add_group();
        let acquire = |group, number, has_socket| connections.acquire(group, 10, address(number), has_socket);
        let permits = [first, second].map(|group| acquire(group, 1, true).0.expect("a permit"));
        let (third, evicted) = acquire(second, 2, true);
        assert_eq!((third.is_some(), evicted), (true, 1));
        assert_eq!((connections.open(first), connections.open(second)), (0, 2));
        let (fourth, evicted) = acquire(second, 2, false);
        assert_eq!((fourth.is_some(), evicted), (true, 0));
        assert!(connections.free_descriptor() && connections.free_descriptor() && !connections.free_descriptor());
        drop((permits, fourth));
        assert_eq!((connections.open(first), connections.open(second)), (0, 0));
    }
}
