//! A worker's own sockets to other servers.
//!
//! Each has one peer, so that the kernel drops what others send, and a port that the kernel draws at random. A server has
//! several at a time; each serves so many queries, or so long, and then makes room for one with another port (RFC 5452
//! 9.2). One is chosen for a whole batch of queries, so that they leave with one system call.

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

/// Sockets of one server at a time.
const SOCKETS: usize = 4;
/// Queries that a socket serves.
const USES: u32 = 512;
/// How long a socket serves. Past it, it only waits for its last answers.
const AGE: Duration = Duration::from_secs(10);

/// A socket.
pub(in crate::serve) struct UpstreamSocket {
    socket: UdpSocket,
    /// Unlike its place, its own for ever.
    pub(in crate::serve) number: u32,
    /// Whom it leads to.
    pub(in crate::serve) upstream: Arc<Upstream>,
    /// Queries that went through it.
    uses: u32,
    /// Attempts whose answer would still be taken.
    pub(in crate::serve) open: u32,
    opened: Instant,
}

impl UpstreamSocket {
    pub(in crate::serve) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it serves no more new queries.
    fn is_spent(&self, now: Instant) -> bool {
        self.uses >= USES || now.saturating_duration_since(self.opened) >= AGE
    }
}

/// The sockets of a worker.
#[derive(Default)]
pub(in crate::serve) struct UpstreamSockets {
    /// By place.
    all: Vec<Option<UpstreamSocket>>,
    free: Vec<usize>,
    /// Places by number.
    places: HashMap<u32, usize, foldhash::fast::RandomState>,
    /// The sockets that serve a server, and which of them does so in this round.
    pools: HashMap<u32, Pool, foldhash::fast::RandomState>,
    next_number: u32,
}

#[derive(Default)]
struct Pool {
    places: SmallVec<[usize; SOCKETS]>,
    chosen: Option<(u64, usize)>,
}

impl UpstreamSockets {
    /// Whether there is none.
    pub(in crate::serve) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The socket in a place.
    pub(in crate::serve) fn at(&self, place: usize) -> Option<&UpstreamSocket> {
        self.all.get(place)?.as_ref()
    }

    /// The socket with a number.
    pub(in crate::serve) fn numbered(&mut self, number: u32) -> Option<&mut UpstreamSocket> {
        self.all[*self.places.get(&number)?].as_mut()
    }

    /// The place of the socket for a query to this server; in one round it is the same as long as it is not spent. Says
    /// whether it was there already.
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

    /// Notes a query through the socket in a place; gives its number.
    pub(in crate::serve) fn used(&mut self, place: usize) -> Option<u32> {
        let socket = self.all.get_mut(place)?.as_mut()?;
        socket.uses += 1;
        socket.open += 1;
        Some(socket.number)
    }

    /// Notes that an attempt through a socket waits no more.
    pub(in crate::serve) fn left(&mut self, number: u32) {
        if let Some(socket) = self.numbered(number) {
            socket.open = socket.open.saturating_sub(1);
        }
    }

    /// Closes sockets that are spent and wait for nothing. To be called now and then.
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

/// A socket to a server.
fn connect(upstream: &Upstream) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(upstream.address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    // Port 0 is any, which the kernel draws at random.
    let any = match upstream.address.ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    socket.bind(&SocketAddr::new(upstream.source.unwrap_or(any), 0).into())?;
    socket.connect(&upstream.address.into())?;
    Ok(socket.into())
}
