//! UDP: one thread, its sockets, and a loop of three steps: read a batch, answer each packet, send a batch.
//!
//! A worker shares nothing that it writes. Answers are written straight into the send buffers. Pending queries that do
//! not wait for an upstream are left to tokio, which sends their answers through the same sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::forward::{Forwarding, UPSTREAM, WorkerContext};
use super::listener::UdpListener;
use super::mailbox::Job;
use super::mmsg::{Batch, ReturnPath, SendOutcome, is_full};
use crate::chain::{Answer, Client, Pending, State, Transport, Wait};
use crate::serve::counts::Counters;
use crate::serve::pending::{self, PendingPermit, Seldom};
use crate::serve::service::Packet;
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
/// How long a worker pauses after a read that failed for a reason that may last.
const PAUSE: Duration = Duration::from_millis(10);
/// For how long the sockets of a listener that closes are read, so that what has already come is answered.
const LAST_READS: Duration = Duration::from_millis(500);
/// How long the sockets of a closed listener stay at least, so that queries that other workers hand over find them, and
/// how often is looked whether a query of theirs is pending.
const CLOSING: Duration = Duration::from_millis(20);
/// How often sending the answer of a pending query is tried again, a millisecond apart, when the socket is full.
const LATE_TRIES: usize = 5;

/// A worker: it owns one socket of each listener, or more.
pub(crate) struct UdpWorker {
    /// By number; those that are closed are gone.
    listeners: Vec<Option<UdpListener>>,
    /// Those that are closing, whose clients may wait for upstreams.
    closing: Vec<usize>,
    /// When is looked whether they do.
    look: Instant,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    epoll: Epoll,
    /// Queries of clients and their answers.
    batch: Batch,
    /// Responses of upstreams, and the answers made of them; there once one has come.
    inbox: Option<Batch>,
    forwarding: Forwarding,
    state: State,
}

/// When a failed read was last logged.
static LOGGED: Seldom = Seldom::new();

impl UdpWorker {
    /// Makes a worker without sockets, which come through the mailbox.
    pub(in crate::serve) fn new(
        shared: Arc<Shared>, counters: Arc<Counters>, forwarding: Forwarding,
    ) -> io::Result<UdpWorker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(forwarding.mailbox.event(), EpollEvent::new(EpollFlags::EPOLLIN, MAILBOX))?;
        Ok(UdpWorker {
            listeners: Vec::new(),
            closing: Vec::new(),
            look: Instant::now(),
            shared,
            counters,
            epoll,
            batch: Batch::new(),
            inbox: None,
            forwarding,
            state: State::default(),
        })
    }

    /// Serves until the server stops, then answers what has already come, and what is pending until the end.
    pub(crate) fn run(mut self) {
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
            tracing::error!("a UDP worker panicked; the process aborts");
            std::process::abort();
        }
    }

    /// Answers what has come to a listener, and no longer waits for more. The kernel refuses what comes later, so that
    /// its sender tries elsewhere at once.
    fn drain(&mut self, listener: usize) {
        let Some(Some(open)) = self.listeners.get(listener) else { return };
        open.refuse();
        // Where packets cannot be refused, a client that sends without pause does not hold up the end.
        let end = Instant::now() + LAST_READS;
        for socket in 0..1 + open.more.len() {
            while self.serve(listener, socket) > 0 && Instant::now() < end {}
        }
        if let Some(Some(listener)) = self.listeners.get(listener) {
            // They may be readable for ever, now that packets are refused.
            for socket in listener.sockets() {
                let _ = self.epoll.delete(socket);
            }
        }
    }

    /// Opens a listener, or closes one.
    fn control(&mut self, job: Job) {
        match job {
            Job::Open(number, listener) => {
                for (index, socket) in listener.sockets().enumerate() {
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64 | (index as u64) << SOCKET_SHIFT);
                    if let Err(error) = self.epoll.add(socket, event) {
                        tracing::error!(address = %listener.address, %error, "epoll does not take a UDP socket");
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

    /// Closes the sockets of closing listeners once no client waits for an answer by them. Upstreams take no longer
    /// than their clients wait.
    fn close_sockets(&mut self) {
        let UdpWorker { listeners, closing, forwarding, look, .. } = self;
        if closing.is_empty() || Instant::now() < *look {
            return;
        }
        *look = Instant::now() + CLOSING;
        closing.retain(|&number| {
            let has_pending = forwarding.has_client_of(number);
            if !has_pending && let Some(listener) = listeners.get_mut(number) {
                *listener = None;
            }
            has_pending
        });
    }

    /// Waits for events, and deals with them.
    fn serve_ready(&mut self, events: &mut [EpollEvent]) {
        self.close_sockets();
        let mut wait = self.forwarding.time_to_run(Instant::now());
        if !self.closing.is_empty() {
            wait = Some(wait.map_or(CLOSING, |wait| wait.min(CLOSING)));
        }
        let timeout = match wait {
            None => EpollTimeout::NONE,
            // Something is left to do from the last turn.
            Some(Duration::ZERO) => EpollTimeout::ZERO,
            // Rounded up, so that what is due within a millisecond is not looked for again and again.
            Some(wait) => EpollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX),
        };
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
                    forwarding.read_answers(
                        place,
                        inbox,
                        &mut WorkerContext { listeners, shared, counters, epoll, state, now },
                    );
                }
                socket => {
                    self.serve((socket & (UPSTREAM - 1)) as usize, (socket >> SOCKET_SHIFT) as usize);
                }
            }
        }
        self.turn(has_mail);
    }

    /// Does what is due for the queries in flight to upstreams.
    fn turn(&mut self, has_mail: bool) {
        let UdpWorker { listeners, shared, counters, epoll, forwarding, state, .. } = self;
        if !has_mail && forwarding.is_idle() {
            return;
        }
        let mut context = WorkerContext { listeners, shared, counters, epoll, state, now: Instant::now() };
        let controls = if has_mail { forwarding.do_jobs(&mut context) } else { Vec::new() };
        forwarding.run(&mut context);
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
                std::thread::sleep(PAUSE);
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
            // A truncated datagram is not read; its header alone makes FORMERR, or what else its bits ask for.
            let bytes = if datagram.truncated { &datagram.octets[..header::LEN] } else { datagram.octets };
            let local = datagram.local.unwrap_or(listener.address.ip());
            let local = SocketAddr::new(local, listener.address.port());
            let client = Client { remote: datagram.remote, local, transport: Transport::Udp };
            match listener.service.answer(&router, Packet { bytes, client, now, counters }, state, out) {
                Answer::Send(len) => batch.queue(slot, len),
                Answer::Silent => silent += 1,
                Answer::Pending(pending) => {
                    let from = (at, batch.return_path(slot));
                    let mut context = WorkerContext { listeners, shared, counters, epoll, state, now };
                    wait_for(forwarding, pending, from, &mut context);
                }
            }
        }
        let SendOutcome { sent, failed } = batch.send(socket.as_fd());
        counters.answered.add(sent as u64);
        counters.send_failed.add(failed as u64);
        counters.silent.add(silent);
        counters.bad_source.add(bad_source);
        answerable
    }
}

/// Takes a client's pending query: into the in-flight table, or onto the runtime. `from`: the listener's number, and
/// the way back.
pub(in crate::serve) fn wait_for(
    forwarding: &mut Forwarding, pending: Pending, from: (usize, ReturnPath), context: &mut WorkerContext<'_>,
) {
    let (at, path) = from;
    let pending = match pending {
        Pending { asked, at, wait: Wait::Upstream(ask) } => {
            context.counters.later.add(1);
            return forwarding.forward(asked, at, ask, from, context);
        }
        pending => pending,
    };
    let Some(listener) = context.listener(at) else { return };
    let permit = context.shared.permit(pending.asked.client(), None, context.counters);
    let (socket, service, shared) = (listener.socket.clone(), listener.service.clone(), context.shared.clone());
    context.shared.runtime.spawn(answer_later(pending, permit, path, socket, service, shared));
}

/// Waits for an answer and sends it the way its query came.
async fn answer_later(
    pending: Pending, mut permit: PendingPermit, path: ReturnPath, socket: Arc<UdpSocket>, service: Arc<Service>,
    shared: Arc<Shared>,
) {
    let packet = pending.asked.packet().into();
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

/// Whether this can be a client's address: what is sent to port 0, to nobody or to everybody reaches no client, and
/// such packets are forged (as hickory `sanitize_src_address`).
fn can_be_answered(remote: SocketAddr) -> bool {
    let ip = remote.ip();
    remote.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}
