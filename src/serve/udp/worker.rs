//! UDP: one thread, its sockets, and a loop of three steps: read a batch, answer each packet, send a batch.
//!
//! A worker shares nothing that it writes. Answers are written straight into the send buffers. An answer that comes
//! later is left to tokio, which sends it through the same socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::mailbox::Job;
use crate::chain::{Answer, Client, Pending, State, Transport, Wait};
use crate::serve::counts::Counters;
use crate::serve::pending::{self, PendingPermit, Seldom};
use crate::serve::udp::forward::{Around, Forwarding, UPSTREAM};
use crate::serve::udp::mmsg::{Batch, Outcome, ReturnPath, is_full};
use crate::serve::{Service, Shared};
use crate::wire::encode::MAX_UDP;
use crate::wire::header;

/// Marks events of the mailbox.
const MAILBOX: u64 = u64::MAX;
/// In the event of a client socket the listener's number stands below [`UPSTREAM`], which is not set, and which of its
/// sockets it is above.
const SOCKET_SHIFT: u32 = UPSTREAM.trailing_zeros() + 1;
/// How many events are taken at once.
const EVENTS: usize = 64;
/// How long a worker rests after a read that failed for a reason that may last.
const REST: Duration = Duration::from_millis(10);
/// For how long sockets are read at the end, so that what has already come is answered, and no longer.
const LAST_READS: Duration = Duration::from_millis(500);
/// RFC 863; nobody sends from it.
const DISCARD: u16 = 9;
/// How long a socket that is served no more stays at least, so that a query that another worker hands over finds it, and how
/// often it is looked whether it has any left.
const CLOSING: Duration = Duration::from_millis(20);
/// How often a late answer that finds the socket full is tried again, a millisecond apart.
const LATE_TRIES: usize = 5;

/// The UDP sockets of a listener that a worker owns, and what is served there.
pub(in crate::serve) struct Listener {
    /// The socket. Late answers leave by it, and keep it open until then.
    pub(in crate::serve) socket: Arc<UdpSocket>,
    /// More sockets of the same port, where there are more sockets than workers (*multisocket*).
    pub(in crate::serve) more: Vec<Arc<UdpSocket>>,
    /// Where it is bound.
    pub(in crate::serve) address: SocketAddr,
    /// Who answers.
    pub(in crate::serve) service: Arc<Service>,
}

/// A worker: it owns one socket of each listener, or more.
pub(in crate::serve) struct UdpWorker {
    /// By number; those that were closed are gone.
    listeners: Vec<Option<Listener>>,
    /// Those that are served no more, whose clients may wait for other servers.
    closing: Vec<usize>,
    /// When it is looked whether they do.
    look: Instant,
    pub(in crate::serve) shared: Arc<Shared>,
    pub(in crate::serve) counters: Arc<Counters>,
    epoll: Epoll,
    /// Queries of clients and their answers.
    batch: Batch,
    /// Answers of other servers, and what becomes of them; there once one has come.
    inbox: Option<Batch>,
    forwarding: Forwarding,
    state: State,
}

/// When a failed read was last logged.
static LOGGED: Seldom = Seldom::new();

impl UdpWorker {
    /// A worker without sockets; they come by mail.
    pub(in crate::serve) fn new(
        shared: Arc<Shared>, counters: Arc<Counters>, forwarding: Forwarding,
    ) -> io::Result<UdpWorker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(forwarding.mailbox.event(), EpollEvent::new(EpollFlags::EPOLLIN, MAILBOX))?;
        let (batch, inbox, state) = (Batch::new(), None, State::default());
        let (listeners, closing, look) = (Vec::new(), Vec::new(), Instant::now());
        Ok(UdpWorker { listeners, closing, look, shared, counters, epoll, batch, inbox, forwarding, state })
    }

    /// Serves until the server stops, then answers what has already come, and what it waits for until the end.
    pub(in crate::serve) fn run(mut self) {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut events = vec![EpollEvent::empty(); EVENTS];
            while !self.shared.stopping.load(Ordering::Acquire) {
                self.serve_ready(&mut events);
            }
            self.turn(true);
            for listener in 0..self.listeners.len() {
                self.drain(listener);
            }
            self.turn(true);
            self.shared.drained.fetch_add(1, Ordering::Release);
            while !self.shared.ended.load(Ordering::Acquire) {
                self.serve_ready(&mut events);
            }
        }));
        if ended.is_err() {
            // The kernel would go on to give this worker its share of the packets, and nobody would answer them.
            tracing::error!("a UDP worker panicked; the process ends");
            std::process::abort();
        }
    }

    /// Answers what has come to a socket, and is not woken for it any more. What comes later is refused by the kernel, so
    /// that its sender tries elsewhere at once.
    fn drain(&mut self, listener: usize) {
        let Some(Some(open)) = self.listeners.get(listener) else { return };
        open.refuse();
        let end = Instant::now() + LAST_READS;
        for socket in 0..1 + open.more.len() {
            while self.serve(listener, socket) > 0 && Instant::now() < end {}
        }
        if let Some(Some(listener)) = self.listeners.get(listener) {
            // They may be readable for ever, now that they were woken.
            for socket in listener.sockets() {
                let _ = self.epoll.delete(socket);
            }
        }
    }

    /// Takes a socket, or gives it up.
    fn control(&mut self, job: Job) {
        match job {
            Job::Open(number, listener) => {
                for (index, socket) in listener.sockets().enumerate() {
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64 | (index as u64) << SOCKET_SHIFT);
                    if let Err(error) = self.epoll.add(socket, event) {
                        tracing::error!(address = %listener.address, %error, "a UDP socket cannot be waited for");
                        return;
                    }
                }
                while self.listeners.len() <= number {
                    self.listeners.push(None);
                }
                self.listeners[number] = Some(listener);
            }
            Job::Close(number) => {
                self.drain(number);
                self.closing.push(number);
                self.look = Instant::now() + CLOSING;
            }
            _ => {}
        }
    }

    /// Lets go of sockets that are served no more, once nobody waits for an answer by them. Other servers take no longer
    /// than their clients wait.
    fn let_go(&mut self) {
        let UdpWorker { listeners, closing, forwarding, look, .. } = self;
        if closing.is_empty() || Instant::now() < *look {
            return;
        }
        *look = Instant::now() + CLOSING;
        closing.retain(|&number| {
            let is_waited_for = forwarding.waits_for(number);
            if !is_waited_for && let Some(listener) = listeners.get_mut(number) {
                *listener = None;
            }
            is_waited_for
        });
    }

    /// Waits until there is something, and does it.
    fn serve_ready(&mut self, events: &mut [EpollEvent]) {
        self.let_go();
        let mut wait = self.forwarding.wait(Instant::now());
        if !self.closing.is_empty() {
            wait = Some(wait.map_or(CLOSING, |wait| wait.min(CLOSING)));
        }
        // Rounded up: what is due within the millisecond is not asked for again and again.
        let timeout = wait.map_or(EpollTimeout::NONE, |wait| {
            EpollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
        });
        let ready = match self.epoll.wait(events, timeout) {
            Err(Errno::EINTR) => 0,
            ready => ready.expect("an epoll of our own"),
        };
        self.forwarding.round += 1;
        let mut has_mail = false;
        for event in &events[..ready] {
            // A socket that still has something is ready again at once.
            match event.data() {
                MAILBOX => has_mail = true,
                socket if socket & UPSTREAM != 0 => {
                    let place = (socket & !UPSTREAM) as usize;
                    let UdpWorker { listeners, shared, counters, epoll, inbox, forwarding, state, .. } = self;
                    let now = Instant::now();
                    let inbox = inbox.get_or_insert_with(Batch::new);
                    forwarding.read(place, inbox, &mut Around { listeners, shared, counters, epoll, state, now });
                }
                socket => {
                    self.serve((socket & (UPSTREAM - 1)) as usize, (socket >> SOCKET_SHIFT) as usize);
                }
            }
        }
        self.turn(has_mail);
    }

    /// Does for the queries to other servers what is due.
    fn turn(&mut self, has_mail: bool) {
        let UdpWorker { listeners, shared, counters, epoll, forwarding, state, .. } = self;
        if !has_mail && forwarding.is_idle() {
            return;
        }
        let mut around = Around { listeners, shared, counters, epoll, state, now: Instant::now() };
        let controls = if has_mail { forwarding.work(&mut around) } else { Vec::new() };
        forwarding.turn(&mut around);
        controls.into_iter().for_each(|job| self.control(job));
    }

    /// Reads a batch from one socket of a listener and answers it. Returns how many packets it had.
    fn serve(&mut self, at: usize, socket: usize) -> usize {
        let UdpWorker { listeners, shared, counters, epoll, batch, forwarding, state, .. } = self;
        let Some(Some(listener)) = listeners.get(at) else { return 0 };
        let Some(socket) = listener.socket(socket) else { return 0 };
        let received = match batch.receive(socket.as_fd(), false) {
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
        let router = listener.service.router();
        let (mut answerable, mut silent, mut bad_source) = (0, 0, 0);
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
            let answer = catch_unwind(AssertUnwindSafe(|| router.answer(packet, client, now, state, out)));
            match answer {
                Ok(Answer::Send(len)) => batch.queue(slot, len),
                Ok(Answer::Silent) => silent += 1,
                Ok(Answer::Pending(pending)) => {
                    let from = (at, batch.return_path(slot));
                    let mut around = Around { listeners, shared, counters, epoll, state, now };
                    let (_, out) = batch.slot(slot);
                    if let Some(len) = wait_for(forwarding, pending, from, out, &mut around) {
                        batch.queue(slot, len);
                    }
                }
                Err(panic) => {
                    let len = pending::panicked(&*panic, &listener.service, counters, packet, out);
                    *state = State::default();
                    batch.queue(slot, len);
                }
            }
        }
        let Outcome { sent, failed } = batch.send(socket.as_fd());
        counters.answered.add(sent as u64);
        counters.send_failed.add(failed as u64);
        counters.silent.add(silent);
        counters.bad_source.add(bad_source);
        answerable
    }
}

/// Takes a client's query that is pending. Returns the length of the answer in `out` where there is one at once.
pub(in crate::serve) fn wait_for(
    forwarding: &mut Forwarding, pending: Pending, from: (usize, ReturnPath), _out: &mut [u8], around: &mut Around<'_>,
) -> Option<usize> {
    let (at, path) = from;
    around.counters.later.add(1);
    let pending = match pending {
        Pending { asked, at, wait: Wait::Upstream(ask) } => {
            forwarding.ask(asked, at, ask, from, around);
            return None;
        }
        pending => pending,
    };
    let (listener, shared) = (around.listener(at)?, around.shared);
    let permit = shared.permit(pending.asked.client(), None, around.counters);
    let (packet, socket, service) = (pending.asked.packet().into(), listener.socket.clone(), listener.service.clone());
    shared.runtime.spawn(answer_later(pending, permit, packet, path, socket, service, shared.clone()));
    None
}

/// Waits for an answer and sends it the way its query came.
async fn answer_later(
    pending: Pending, mut permit: PendingPermit, packet: Box<[u8]>, path: ReturnPath, socket: Arc<UdpSocket>,
    service: Arc<Service>, shared: Arc<Shared>,
) {
    let answer = pending::answer(pending, &mut permit, packet, MAX_UDP, service, &shared.counters).await;
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
    // The server waits for permits when it stops, so that this one is held until the answer is sent.
    drop(permit);
}

impl Listener {
    /// All its sockets.
    fn sockets(&self) -> impl Iterator<Item = &Arc<UdpSocket>> {
        std::iter::once(&self.socket).chain(&self.more)
    }

    /// Returns one of its sockets by its place among them.
    fn socket(&self, index: usize) -> Option<&UdpSocket> {
        match index.checked_sub(1) {
            None => Some(&self.socket),
            Some(index) => self.more.get(index).map(|socket| &**socket),
        }
    }

    /// Has the kernel refuse packets from now on, but for those that it has taken already: to a socket with a peer comes
    /// what this sends, and nobody else has an own address and the port of *discard*. Answers still leave it.
    fn refuse(&self) {
        let own = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        };
        for socket in self.sockets() {
            if let Err(error) = socket.connect(SocketAddr::new(own, DISCARD)) {
                tracing::debug!(address = %self.address, %error, "packets are not refused while a socket ends");
            }
        }
    }
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
