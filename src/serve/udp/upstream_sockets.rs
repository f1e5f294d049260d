//! A worker's own sockets towards upstreams.
//!
//! Each is connected, so that the kernel drops packets of other peers, and has a random port, which the kernel chooses.
//! An upstream has several at a time. Each is replaced by one with another port after a number of queries, or a time
//! (RFC 5452 9.2). The same one is used for a whole batch of queries, so that they are sent with one system call.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use smallvec::SmallVec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::upstream::Upstream;

/// The number of sockets of an upstream at a time.
const SOCKETS: usize = 4;
/// The maximum number of queries through a socket.
const MAX_USES: u32 = 512;
/// The age after which a socket is not used for new queries.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A socket towards an upstream.
pub(in crate::serve) struct UpstreamSocket {
    socket: UdpSocket,
    /// The number of the socket. Unlike its place, it is never reused.
    pub(in crate::serve) number: u32,
    /// The upstream that it is connected to.
    pub(in crate::serve) upstream: Arc<Upstream>,
    /// The number of queries that were sent through it.
    uses: u32,
    /// The number of attempts whose responses are still accepted.
    pub(in crate::serve) open: u32,
    opened: Instant,
}

impl UpstreamSocket {
    pub(in crate::serve) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns the address that queries are sent from.
    pub(in crate::serve) fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    /// Returns whether the socket must not be used for new queries.
    fn is_spent(&self, now: Instant) -> bool {
        self.uses >= MAX_USES || now.saturating_duration_since(self.opened) >= MAX_AGE
    }
}

/// The sockets of a worker.
#[derive(Default)]
pub(in crate::serve) struct UpstreamSockets {
    /// The sockets by place.
    all: Vec<Option<UpstreamSocket>>,
    free: Vec<usize>,
    /// The places by number.
    places: HashMap<u32, usize, foldhash::fast::RandomState>,
    /// The sockets of each upstream, by its number.
    pools: HashMap<u32, SocketSet, foldhash::fast::RandomState>,
    next_number: u32,
}

/// The sockets of an upstream that are used for new queries.
#[derive(Default)]
struct SocketSet {
    places: SmallVec<[usize; SOCKETS]>,
    /// The last round, and the place of the socket that was chosen in it.
    chosen: Option<(u64, usize)>,
}

impl UpstreamSockets {
    /// Returns whether there are no sockets.
    pub(in crate::serve) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the socket in a place.
    pub(in crate::serve) fn at(&self, place: usize) -> Option<&UpstreamSocket> {
        self.all.get(place)?.as_ref()
    }

    /// Returns the socket with a number.
    pub(in crate::serve) fn numbered(&mut self, number: u32) -> Option<&mut UpstreamSocket> {
        self.all[*self.places.get(&number)?].as_mut()
    }

    /// Returns the place of the socket for a query to this upstream, and whether it was open already. In one round it
    /// is the same one as long as it is not spent.
    pub(in crate::serve) fn choose(
        &mut self, upstream: &Arc<Upstream>, round: u64, epoll: &Epoll, tag: u64, now: Instant,
    ) -> io::Result<(usize, bool)> {
        let pool = self.pools.entry(upstream.number).or_default();
        let spent = |all: &[Option<UpstreamSocket>], place: usize| {
            all[place].as_ref().is_none_or(|socket| socket.is_spent(now))
        };
        if let Some((of, place)) = pool.chosen
            && of == round
            && !spent(&self.all, place)
        {
            return Ok((place, true));
        }
        pool.places.retain(|&mut place| !spent(&self.all, place));
        let at = fastrand::usize(..SOCKETS);
        if let Some(&place) = pool.places.get(at) {
            pool.chosen = Some((round, place));
            return Ok((place, true));
        }
        let socket = connect(upstream)?;
        let place = self.free.pop().unwrap_or(self.all.len());
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, tag | place as u64))?;
        self.next_number = self.next_number.wrapping_add(1);
        let number = self.next_number;
        let socket = UpstreamSocket { socket, number, upstream: upstream.clone(), uses: 0, open: 0, opened: now };
        if place == self.all.len() {
            self.all.push(None);
        }
        self.all[place] = Some(socket);
        self.places.insert(number, place);
        pool.places.push(place);
        pool.chosen = Some((round, place));
        Ok((place, false))
    }

    /// Records a query through the socket in a place. Returns its number.
    pub(in crate::serve) fn record_use(&mut self, place: usize) -> Option<u32> {
        let socket = self.all.get_mut(place)?.as_mut()?;
        socket.uses += 1;
        socket.open += 1;
        Some(socket.number)
    }

    /// Records that a response to an attempt through a socket is not accepted any more.
    pub(in crate::serve) fn close_attempt(&mut self, number: u32) {
        if let Some(socket) = self.numbered(number) {
            socket.open = socket.open.saturating_sub(1);
        }
    }

    /// Closes sockets that are spent and have no open attempts. Called from time to time.
    pub(in crate::serve) fn sweep(&mut self, now: Instant) {
        for place in 0..self.all.len() {
            if let Some(socket) = &self.all[place]
                && socket.open == 0
                && socket.is_spent(now)
            {
                self.places.remove(&socket.number);
                if let Some(pool) = self.pools.get_mut(&socket.upstream.number) {
                    pool.places.retain(|&mut of| of != place);
                    pool.chosen = None;
                }
                self.all[place] = None;
                self.free.push(place);
            }
        }
        self.pools.retain(|_, pool| !pool.places.is_empty());
    }
}

/// Opens a socket towards an upstream.
fn connect(upstream: &Upstream) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(upstream.address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Port 0: the kernel chooses a random port.
    let any = match upstream.address.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    socket.bind(&SocketAddr::new(upstream.source.unwrap_or(any), 0).into())?;
    socket.connect(&upstream.address.into())?;
    Ok(socket.into())
}
