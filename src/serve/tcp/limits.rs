//! Limits on the connections of clients: of all listeners, of one listener, and of one client address.
//!
//! At a limit, a new connection replaces an idle one, preferably of the address with the most connections. A connection
//! is busy only from a complete query to its response. Clients that send nothing, that stop in the middle of a query,
//! or that do not read cannot keep other clients out. If the address with the most connections is busy with all of
//! them, its oldest one is evicted, provided that the new client has fewer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::net::{Shares, Ticket};

/// Limits on TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// The maximum number of connections, reduced if the process may have fewer descriptors. Default: 10,000, which
    /// need about 20 MB when all are idle.
    pub connections: usize,
    /// The maximum number of connections of a client address, reduced to a quarter of all. Default: 1,000. IPv6
    /// addresses are counted one by one, too, since the Pods of a node share a /64.
    pub connections_per_address: usize,
    /// The maximum number of pending queries of a connection; at the limit nothing more is read. Default: 256.
    pub waiting_per_connection: usize,
}

impl Default for TcpLimits {
    fn default() -> TcpLimits {
        TcpLimits { connections: 10_000, connections_per_address: 1_000, waiting_per_connection: 256 }
    }
}

/// The maximum number of descriptors that are reserved for other uses: upstream sockets, the API server, files, and the
/// pages for operators.
const RESERVE: usize = 4_096;
/// The minimum of [`TcpLimits::connections_per_address`], however few descriptors there are.
const MIN_PER_ADDRESS: usize = 8;
/// The maximum number of connections of an address that are examined to find one to evict.
const EXAMINED: usize = 64;

impl TcpLimits {
    /// Returns the limits for a process that may have `descriptors` descriptors and has `open` ones open, without those
    /// of client connections. Half of the rest, up to [`RESERVE`], stays free.
    fn within(self, descriptors: usize, open: usize) -> TcpLimits {
        let free = descriptors.saturating_sub(open);
        let connections = self.connections.min(free - RESERVE.min(free / 2)).max(1);
        let connections_per_address = self.connections_per_address.min((connections / 4).max(MIN_PER_ADDRESS));
        TcpLimits { connections, connections_per_address, ..self }
    }
}

/// Returns the number of open descriptors of this process, or an estimate without `/proc`.
fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(64, Iterator::count)
}

/// All client connections of a server.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Locked when a connection starts and when it ends.
    registry: Mutex<Registry>,
    next_group: AtomicUsize,
}

#[derive(Debug)]
struct Registry {
    limits: TcpLimits,
    /// The connections of all listeners that have a descriptor. Connections of QUIC have none.
    sockets: Shares<ListedConnection>,
    /// The connections by group. A group has a limit of its own: DNS over TCP and TLS, or another encrypted listener.
    groups: HashMap<usize, Shares<ListedConnection>, foldhash::fast::RandomState>,
}

/// A connection in the list of its address.
#[derive(Debug)]
struct ListedConnection {
    activity: Arc<ConnectionActivity>,
    /// The time at which it was the newest of the list.
    listed: Instant,
}

/// The activity of a connection, by which connections are chosen for eviction.
#[derive(Debug)]
pub(crate) struct ConnectionActivity {
    opened: Instant,
    group: usize,
    /// The number of complete queries without a response. Written by the connection, read when another one starts.
    queries: AtomicUsize,
    /// The time of the last activity in milliseconds after `opened`. Written by the connection, read when another one
    /// starts.
    last: AtomicU64,
    /// Notified when the connection is evicted.
    evicted: Notify,
    /// The entries of the connection in the registry.
    tickets: OnceLock<Tickets>,
}

#[derive(Debug)]
struct Tickets {
    socket: Option<Ticket>,
    group: Ticket,
}

impl ConnectionActivity {
    /// Sets whether the client waits for a response, and the time of the last activity.
    pub(crate) fn set(&self, is_busy: bool, last: Instant) {
        self.queries.store(is_busy.into(), Ordering::Relaxed);
        self.touch(last);
    }

    /// Counts a complete query, until the guard is dropped.
    pub(crate) fn start_query(self: &Arc<Self>) -> BusyGuard {
        self.queries.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    /// Waits until the connection is evicted.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    fn touch(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.opened).as_millis();
        self.last.store(millis.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the start of the time without a query, or `None` if the connection is busy.
    fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.queries.load(Ordering::Relaxed) == 0;
        is_idle.then(|| self.opened + Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// A query without a response, for the activity of its connection.
pub(crate) struct BusyGuard(Arc<ConnectionActivity>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.touch(Instant::now());
        self.0.queries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connections {
    /// Creates a registry without connections.
    pub(crate) fn new(limits: TcpLimits) -> Arc<Connections> {
        let registry = Registry { limits, sockets: Shares::default(), groups: HashMap::default() };
        Arc::new(Connections { registry: Mutex::new(registry), next_group: AtomicUsize::new(0) })
    }

    /// Reduces the limits to what the descriptors allow. Called when listeners have been opened, each time.
    pub(crate) fn fit(&self, limits: TcpLimits, descriptors: usize) {
        let open = open_descriptors();
        let registry = &mut *self.registry.lock();
        registry.limits = limits.within(descriptors, open.saturating_sub(registry.sockets.len()));
        tracing::debug!(limits = ?registry.limits, descriptors, open, "limits on TCP connections");
    }

    /// Returns the current limits.
    pub(crate) fn limits(&self) -> TcpLimits {
        self.registry.lock().limits
    }

    /// Adds a group of connections, which has a limit of its own. Returns its number.
    pub(crate) fn add_group(&self) -> usize {
        let group = self.next_group.fetch_add(1, Ordering::Relaxed);
        self.registry.lock().groups.insert(group, Shares::default());
        group
    }

    /// Removes a group that has no more connections.
    pub(crate) fn remove_group(&self, group: usize) {
        self.registry.lock().groups.remove(&group);
    }

    /// Returns the number of connections of a group.
    pub(crate) fn open(&self, group: usize) -> usize {
        self.registry.lock().groups.get(&group).map_or(0, Shares::len)
    }

    /// Acquires a permit for a connection of an address, in a group with at most `limit` connections. At a limit, other
    /// connections are evicted; the permit is `None` if none can be. `has_socket`: the connection has a descriptor.
    ///
    /// Also returns the number of evicted connections.
    pub(crate) fn acquire(
        self: &Arc<Self>, group: usize, limit: usize, address: IpAddr, has_socket: bool,
    ) -> (Option<ConnectionPermit>, u64) {
        let mut evicted = 0;
        let permit = self.acquire_counted(group, limit, address, has_socket, &mut evicted);
        (permit, evicted)
    }

    fn acquire_counted(
        self: &Arc<Self>, group: usize, limit: usize, address: IpAddr, has_socket: bool, count: &mut u64,
    ) -> Option<ConnectionPermit> {
        let registry = &mut *self.registry.lock();
        while let Some(reached) = registry.limit_reached(group, limit, address, has_socket) {
            let of_group = registry.groups.get_mut(&group)?;
            let evicted = match reached {
                ConnectionLimit::Address => idlest(of_group, address),
                ConnectionLimit::Group => choose_victim(of_group, address),
                ConnectionLimit::Sockets => choose_victim(&mut registry.sockets, address),
            };
            let evicted = evicted?;
            registry.evict(&evicted);
            *count += 1;
        }
        let opened = Instant::now();
        let activity = Arc::new(ConnectionActivity {
            opened,
            group,
            queries: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            evicted: Notify::new(),
            tickets: OnceLock::new(),
        });
        let listed = || ListedConnection { activity: activity.clone(), listed: opened };
        let socket = has_socket.then(|| registry.sockets.add(address, listed()));
        let tickets = Tickets { socket, group: registry.groups.get_mut(&group)?.add(address, listed()) };
        activity.tickets.set(tickets).expect("set once, here");
        Some(ConnectionPermit { connections: self.clone(), activity })
    }

    /// Evicts a connection to free its descriptor. Returns whether there was one.
    pub(crate) fn free_descriptor(&self) -> bool {
        let registry = &mut *self.registry.lock();
        let evicted = choose_victim(&mut registry.sockets, IpAddr::from([0, 0, 0, 0]));
        evicted.is_some_and(|evicted| {
            registry.evict(&evicted);
            true
        })
    }
}

/// A limit that a new connection would exceed.
enum ConnectionLimit {
    Address,
    Group,
    Sockets,
}

impl Registry {
    /// Returns the first limit that another connection would exceed. `limit` is that of the group.
    fn limit_reached(&self, group: usize, limit: usize, address: IpAddr, has_socket: bool) -> Option<ConnectionLimit> {
        let of_group = self.groups.get(&group)?;
        if of_group.held_by(address) >= self.limits.connections_per_address.max(1) {
            Some(ConnectionLimit::Address)
        } else if of_group.len() >= limit.max(1) {
            Some(ConnectionLimit::Group)
        } else if has_socket && self.sockets.len() >= self.limits.connections.max(1) {
            Some(ConnectionLimit::Sockets)
        } else {
            None
        }
    }

    /// Removes a connection from the registry, and notifies it.
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

/// Returns the idle connection of an address to evict, or `None` if the examined ones are busy. It is the one that has
/// been idle for the longest time, of at most [`EXAMINED`] connections: a client that opens connections in a loop has
/// up to 1,000, and each new one evicts another.
///
/// The connections of an address are listed in the order in which they were opened. One that was used since it was
/// listed becomes the newest when it is examined ("second chance"), and the first one that was not ends the search.
fn idlest(connections: &mut Shares<ListedConnection>, address: IpAddr) -> Option<Arc<ConnectionActivity>> {
    let now = Instant::now();
    let mut idlest: Option<(Instant, Arc<ConnectionActivity>)> = None;
    for _ in 0..connections.held_by(address).min(EXAMINED) {
        let (ticket, oldest) = connections.of(address).next()?;
        let (activity, listed) = (oldest.activity.clone(), oldest.listed);
        let since = activity.idle_since();
        if let Some(since) = since.filter(|since| idlest.as_ref().is_none_or(|(other, _)| since < other)) {
            idlest = Some((since, activity));
        }
        if since.is_some_and(|since| since <= listed) {
            break;
        }
        connections.renew(ticket)?.listed = now;
    }
    idlest.map(|(_, activity)| activity)
}

/// Returns the connection to evict for another one of this address, or `None` if no connection can be evicted.
fn choose_victim(connections: &mut Shares<ListedConnection>, address: IpAddr) -> Option<Arc<ConnectionActivity>> {
    let own = connections.held_by(address);
    let (heaviest, most) = connections.clients().next()?;
    if own >= most {
        return idlest(connections, address);
    }
    // Before those that are examined become the newest.
    let oldest = connections.of(heaviest).next().map(|(_, oldest)| oldest.activity.clone());
    if let Some(idle) = idlest(connections, heaviest) {
        return Some(idle);
    }
    if most > own + 1 {
        return oldest;
    }
    idlest(connections, address).or_else(|| {
        let has_idle = |other: &IpAddr| {
            connections.of(*other).take(EXAMINED).any(|(_, listed)| listed.activity.idle_since().is_some())
        };
        let heavier = connections.clients().take_while(|(_, count)| *count > own);
        let other = heavier.skip(1).map(|(other, _)| other).find(has_idle)?;
        idlest(connections, other)
    })
}

/// The right of a connection to exist. It is released when this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    connections: Arc<Connections>,
    pub(crate) activity: Arc<ConnectionActivity>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        // An evicted connection is not in the registry any more.
        self.connections.registry.lock().remove(&self.activity);
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

    /// Returns whether the connection was evicted.
    fn is_evicted(permit: &ConnectionPermit) -> bool {
        permit.connections.registry.lock().groups.values().all(|shares| {
            let mut entries = shares.of(address(1)).chain(shares.of(address(2)));
            !entries.any(|(_, entry)| Arc::ptr_eq(&entry.activity, &permit.activity))
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
    fn the_idlest_connection_of_the_heaviest_address_is_evicted() {
        let (connections, group) = connections(TcpLimits::default());
        let acquire = |number| connections.acquire(group, 4, address(number), true).0.expect("a permit");
        let heavy: Vec<_> = (0..3).map(|_| acquire(1)).collect();
        let later = Instant::now() + Duration::from_secs(1);
        heavy[0].activity.set(false, later);
        let _busy = heavy[1].activity.start_query();
        let light = acquire(2);
        let _another = acquire(2);
        assert_eq!([0, 1, 2].map(|at| is_evicted(&heavy[at])), [false, false, true]);
        assert!(!is_evicted(&light));
        // The new client has as many: its own idle connection is evicted.
        let _third = acquire(2);
        assert!(is_evicted(&light) && !is_evicted(&heavy[0]));
    }

    #[test]
    fn connections_that_were_used_are_evicted_after_those_that_were_not() {
        let (connections, group) = connections(TcpLimits { connections_per_address: 100, ..TcpLimits::default() });
        let acquire = || connections.acquire(group, 1_000, address(1), true).0;
        let mut open: Vec<_> = (0..100).map(|_| acquire().expect("a permit")).collect();
        let later = Instant::now() + Duration::from_secs(1);
        open[..60].iter().for_each(|permit| permit.activity.touch(later));
        for expected in [60, 61] {
            open.push(acquire().expect("a permit"));
            assert!(is_evicted(&open[expected]));
        }
        assert_eq!(open.iter().filter(|permit| is_evicted(permit)).count(), 2);
    }

    #[test]
    fn a_connection_that_was_used_long_ago_is_evicted_before_a_new_one() {
        let (connections, group) = connections(TcpLimits { connections_per_address: 2, ..TcpLimits::default() });
        let acquire = || connections.acquire(group, 1_000, address(1), true).0.expect("a permit");
        let used = acquire();
        std::thread::sleep(Duration::from_millis(10));
        used.activity.touch(Instant::now());
        std::thread::sleep(Duration::from_millis(10));
        let open = [used, acquire(), acquire()];
        assert_eq!(open.each_ref().map(is_evicted), [true, false, false]);
    }

    #[test]
    fn a_limited_number_of_connections_is_examined() {
        let limit = EXAMINED + 1;
        let (connections, group) = connections(TcpLimits { connections_per_address: limit, ..TcpLimits::default() });
        let acquire = || connections.acquire(group, 1_000, address(1), true).0;
        let open: Vec<_> = (0..limit).map(|_| acquire().expect("a permit")).collect();
        let busy: Vec<_> = open[..EXAMINED].iter().map(|permit| permit.activity.start_query()).collect();
        // The examined ones are busy, and become the newest: the next search begins with the idle one.
        assert!(acquire().is_none());
        let next = acquire().expect("a permit");
        assert!(is_evicted(&open[EXAMINED]) && !is_evicted(&next));
        drop(busy);
    }

    #[test]
    fn busy_connections_are_evicted_for_an_address_with_fewer() {
        let (connections, group) = connections(TcpLimits::default());
        let acquire = |number| connections.acquire(group, 3, address(number), false).0;
        let heavy: Vec<_> = (0..3).map(|_| acquire(1).expect("a permit")).collect();
        let busy: Vec<_> = heavy.iter().map(|permit| permit.activity.start_query()).collect();
        assert!(acquire(1).is_none());
        let light = acquire(2).expect("a permit");
        let _busy_too = light.activity.start_query();
        assert_eq!([0, 1, 2].map(|at| is_evicted(&heavy[at])), [true, false, false]);
        // With two and one connections, an eviction would only exchange the numbers.
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
