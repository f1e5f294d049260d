//! UDP: one thread, its sockets, and a loop of three steps: read a batch, answer each packet, send a batch.
//!
//! A worker shares nothing that it writes. Answers are written straight into the send buffers. An answer that comes
//! later is left to tokio, which sends it through the same socket.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::counts::Counters;
use super::mmsg::{Batch, Outcome, ReturnPath, is_full};
use super::waiting::{self, Place, Seldom};
use super::{Service, Shared};
use crate::chain::{Answer, Client, Pending, State, Transport};
use crate::wire::encode::MAX_UDP;
use crate::wire::header;

/// How long a worker rests after a read that failed for a reason that may last.
const REST: Duration = Duration::from_millis(10);
/// How many batches are read from a socket at the end, so that what has already come is answered.
const LAST_BATCHES: usize = 1_024;
/// How often a late answer that finds the socket full is tried again, a millisecond apart.
const LATE_TRIES: usize = 5;

/// One UDP socket of a worker and what is served there.
pub(super) struct Listener {
    /// The socket. Late answers hold on to it.
    pub(super) socket: Arc<UdpSocket>,
    /// Where it is bound.
    pub(super) address: SocketAddr,
    /// Who answers.
    pub(super) service: Arc<Service>,
}

/// A worker: it owns one socket of each listener.
pub(super) struct UdpWorker {
    pub(super) listeners: Vec<Listener>,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    /// Where several sockets are waited for. One needs none: the read itself waits, which saves a system call for each
    /// batch.
    epoll: Option<Epoll>,
    batch: Batch,
    state: State,
}

/// When a failed read was last logged.
static LOGGED: Seldom = Seldom::new();

/// What is to be done for a packet.
enum Todo {
    /// Send so many octets.
    Send(usize),
    /// Send so many octets, since too many wait.
    Overload(usize),
    /// Send nothing.
    Silent,
    /// Wait.
    Later(Pending, Place),
}

impl UdpWorker {
    /// A worker with these sockets, one at least.
    pub(super) fn new(listeners: Vec<Listener>, shared: Arc<Shared>, counters: Arc<Counters>) -> io::Result<UdpWorker> {
        let epoll = (listeners.len() > 1).then(|| Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)).transpose()?;
        if let Some(epoll) = &epoll {
            for (index, listener) in listeners.iter().enumerate() {
                epoll.add(&listener.socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            }
        }
        Ok(UdpWorker { listeners, shared, counters, epoll, batch: Batch::new(), state: State::default() })
    }

    /// Serves until the server stops, then answers what has already come.
    pub(super) fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut events = vec![EpollEvent::empty(); self.listeners.len()];
            while !self.shared.stopping.load(Ordering::Acquire) {
                self.serve_ready(&mut events);
            }
            for listener in 0..self.listeners.len() {
                for _ in 0..LAST_BATCHES {
                    if self.serve(listener, false) == 0 {
                        break;
                    }
                }
            }
        }));
        if ended.is_err() {
            // The kernel would go on to give this worker its share of the packets, and nobody would answer them.
            tracing::error!("a UDP worker panicked; the process ends");
            std::process::abort();
        }
    }

    /// Waits until there is something, and serves it.
    fn serve_ready(&mut self, events: &mut [EpollEvent]) {
        let Some(epoll) = &self.epoll else {
            self.serve(0, true);
            return;
        };
        let ready = match epoll.wait(events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            ready => ready.expect("an epoll of our own"),
        };
        for event in &events[..ready] {
            // A socket that still has something is ready again at once.
            self.serve(event.data() as usize, false);
        }
    }

    /// Reads a batch from one socket and answers it; gives how many packets it had.
    fn serve(&mut self, listener: usize, wait: bool) -> usize {
        let UdpWorker { listeners, shared, counters, batch, state, .. } = self;
        let listener = &listeners[listener];
        let received = match batch.receive(listener.socket.as_fd(), wait) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
            Err(error) => {
                counters.receive_failed.add(1);
                if LOGGED.now() {
                    tracing::warn!(address = %listener.address, %error, "UDP read failed");
                }
                std::thread::sleep(REST);
                return 0;
            }
        };
        let now = Instant::now();
        let chains = listener.service.chains();
        let (mut answerable, mut silent, mut bad_source, mut later, mut overloads) = (0, 0, 0, 0, 0);
        for slot in 0..received {
            let (datagram, out) = batch.slot(slot);
            // A socket that was shut down reads as a datagram from nowhere.
            let Some(datagram) = datagram else { continue };
            answerable += 1;
            if !can_be_answered(datagram.remote) {
                bad_source += 1;
                continue;
            }
            // What is cut is not read; its header alone makes FORMERR, or what else its bits ask for.
            let packet = if datagram.truncated { &datagram.octets[..header::LEN] } else { datagram.octets };
            let local = datagram.local.unwrap_or(listener.address.ip());
            let local = SocketAddr::new(local, listener.address.port());
            let client = Client { remote: datagram.remote, local, transport: Transport::Udp };
            // A panic leaves nothing behind that is used again: `state` is replaced, and `out` is written anew.
            let todo = catch_unwind(AssertUnwindSafe(|| match chains.answer(packet, client, now, state, out) {
                Answer::Send(len) => Todo::Send(len),
                Answer::Silent => Todo::Silent,
                Answer::Later(pending) => match shared.waiting.enter() {
                    Some(place) => Todo::Later(pending, place),
                    None => Todo::Overload(pending.overload().encode(out)),
                },
            }));
            match todo {
                Ok(Todo::Send(len)) => batch.queue(slot, len),
                Ok(Todo::Silent) => silent += 1,
                Ok(Todo::Overload(len)) => {
                    overloads += 1;
                    batch.queue(slot, len);
                }
                Ok(Todo::Later(pending, place)) => {
                    later += 1;
                    let packet = Box::from(packet);
                    let path = batch.return_path(slot);
                    let (socket, service) = (listener.socket.clone(), listener.service.clone());
                    shared.runtime.spawn(answer_later(pending, place, packet, path, socket, service, shared.clone()));
                }
                Err(panic) => {
                    let len = waiting::panicked(&*panic, &listener.service, counters, packet, out);
                    *state = State::default();
                    batch.queue(slot, len);
                }
            }
        }
        let Outcome { sent, failed } = batch.send(listener.socket.as_fd());
        counters.answered.add(sent as u64);
        counters.send_failed.add(failed as u64);
        counters.silent.add(silent);
        counters.bad_source.add(bad_source);
        counters.later.add(later);
        counters.overloads.add(overloads);
        answerable
    }
}

/// Waits for an answer and sends it the way its query came.
async fn answer_later(
    pending: Pending, place: Place, packet: Box<[u8]>, path: ReturnPath, socket: Arc<UdpSocket>, service: Arc<Service>,
    shared: Arc<Shared>,
) {
    let answer = waiting::answer(pending, packet, MAX_UDP, service, &shared.counters).await;
    if let Some(answer) = answer {
        let mut result = path.send(socket.as_fd(), &answer);
        for _ in 0..LATE_TRIES {
            if !result.as_ref().is_err_and(is_full) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            result = path.send(socket.as_fd(), &answer);
        }
        match result {
            Ok(()) => shared.counters.answered.add(1),
            Err(_) => shared.counters.send_failed.add(1),
        }
    } else {
        shared.counters.silent.add(1);
    }
    drop(place);
}

/// Wakes a worker that waits for this socket. Linux says ENOTCONN of a socket without a peer and wakes its readers all
/// the same (`inet_shutdown`); what comes in is still kept and can be read without waiting.
pub(super) fn wake(socket: &UdpSocket) {
    let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Read);
}

/// Whether this can be a client's address: what is sent to port 0, to nobody or to everybody reaches no client, and
/// such packets are forged (as hickory `sanitize_src_address`).
fn can_be_answered(remote: SocketAddr) -> bool {
    let ip = remote.ip();
    remote.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}
