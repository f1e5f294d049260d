//! A UDP worker: a thread with its own sockets, which reads a batch, answers each packet, and sends the responses.
//!
//! A worker shares nothing that it writes. Responses are written into the send buffers directly. Pending queries that
//! do not wait for an upstream run on tokio, which sends their responses through the same sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::forward::{Forwarding, UPSTREAM, WorkerContext, wait_for};
use super::listener::UdpListener;
use super::mailbox::Job;
use super::mmsg::{Batch, SendOutcome};
use crate::chain::{Answer, Client, State, Transport};
use crate::serve::Shared;
use crate::serve::counts::Counters;
use crate::serve::log_limiter::LogLimiter;
use crate::serve::proxied_datagram::read_proxied;
use crate::serve::service::Packet;
use crate::wire::header;

/// The data of events of the mailbox.
const MAILBOX: u64 = u64::MAX;
/// The data of an event of a client socket has the number of the listener in the bits below [`UPSTREAM`], which is not
/// set, and the index of the socket in the bits from this one on.
const SOCKET_SHIFT: u32 = UPSTREAM.trailing_zeros() + 1;
/// The maximum number of events of a call of `epoll_wait`.
const EVENTS: usize = 64;
/// The pause after a read that failed for a reason that may persist.
const PAUSE: Duration = Duration::from_millis(10);
/// The maximum time for which the sockets of a closing listener are read, to answer what has arrived.
const LAST_READS: Duration = Duration::from_millis(500);
/// The minimum time for which the sockets of a closed listener stay open, so that they are there for queries that other
/// workers hand over; also the interval of checks whether a query of the listener is pending.
const CLOSING: Duration = Duration::from_millis(20);
/// A worker. It owns at least one socket of each listener.
pub(crate) struct UdpWorker {
    /// The listeners by number; `None` for a closed one.
    listeners: Vec<Option<UdpListener>>,
    /// The numbers of closing listeners, whose clients may wait for upstreams.
    closing: Vec<usize>,
    /// The time of the next check whether they do.
    next_check: Instant,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    epoll: Epoll,
    /// Queries of clients and their responses.
    batch: Batch,
    /// Responses of upstreams, and those to clients; allocated when the first one arrives.
    inbox: Option<Batch>,
    forwarding: Forwarding,
    state: State,
}

/// Limits the log lines about failed reads.
static LOGGED: LogLimiter = LogLimiter::new();

impl UdpWorker {
    /// Creates a worker without sockets. It gets them through the mailbox.
    pub(in crate::serve) fn new(
        shared: Arc<Shared>, counters: Arc<Counters>, forwarding: Forwarding,
    ) -> io::Result<UdpWorker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(forwarding.mailbox.event(), EpollEvent::new(EpollFlags::EPOLLIN, MAILBOX))?;
        Ok(UdpWorker {
            listeners: Vec::new(),
            closing: Vec::new(),
            next_check: Instant::now(),
            shared,
            counters,
            epoll,
            batch: Batch::new(),
            inbox: None,
            forwarding,
            state: State::default(),
        })
    }

    /// Serves until the server stops, then answers the queries that have arrived, and pending ones until the end,
    /// when those that are left get SERVFAIL.
    pub(crate) fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| {
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
                if self.shared.failing.load(Ordering::Acquire) {
                    self.forwarding.fail_all(&self.shared);
                }
            }
        }));
        if result.is_err() {
            // The kernel would continue to assign packets to the sockets of this worker, and they would have no
            // response.
            tracing::error!("a UDP worker panicked; the process aborts");
            std::process::abort();
        }
    }

    /// Answers the packets that have arrived at a listener, and stops to read from it. The kernel refuses later
    /// packets, so that their senders try another server at once.
    fn drain(&mut self, listener: usize) {
        let Some(Some(open)) = self.listeners.get(listener) else { return };
        open.refuse();
        // If packets cannot be refused, a client that sends without pause must not delay the end.
        let end = Instant::now() + LAST_READS;
        for socket in 0..1 + open.more.len() {
            while self.serve(listener, socket) > 0 && Instant::now() < end {}
        }
        if let Some(Some(listener)) = self.listeners.get(listener) {
            // Sockets that refuse packets may be readable for ever.
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
                        tracing::error!(address = %listener.address, %error, "cannot add a UDP socket to epoll");
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
                self.next_check = Instant::now() + CLOSING;
            }
            _ => {}
        }
    }

    /// Closes the sockets of closing listeners that have no more pending queries. Queries to upstreams have a timeout,
    /// so that this happens eventually.
    fn close_sockets(&mut self) {
        let UdpWorker { listeners, closing, forwarding, next_check, .. } = self;
        if closing.is_empty() || Instant::now() < *next_check {
            return;
        }
        *next_check = Instant::now() + CLOSING;
        closing.retain(|&number| {
            let has_pending = forwarding.has_client_of(number);
            if !has_pending && let Some(listener) = listeners.get_mut(number) {
                *listener = None;
            }
            has_pending
        });
    }

    /// Waits for events, and handles them.
    fn serve_ready(&mut self, events: &mut [EpollEvent]) {
        self.close_sockets();
        let mut wait = self.forwarding.time_to_run(Instant::now());
        if !self.closing.is_empty() {
            wait = Some(wait.map_or(CLOSING, |wait| wait.min(CLOSING)));
        }
        let timeout = match wait {
            None => EpollTimeout::NONE,
            // The last turn left work.
            Some(Duration::ZERO) => EpollTimeout::ZERO,
            // Rounded up, so that the loop does not spin while less than a millisecond is left.
            Some(wait) => EpollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX),
        };
        let ready = match self.epoll.wait(events, timeout) {
            Err(Errno::EINTR) => 0,
            ready => ready.expect("an epoll of our own"),
        };
        self.forwarding.round += 1;
        let mut has_mail = false;
        for event in &events[..ready] {
            // A socket with more packets is ready again at once.
            match event.data() {
                MAILBOX => has_mail = true,
                socket if socket & UPSTREAM != 0 => {
                    let index = (socket & !UPSTREAM) as usize;
                    let UdpWorker { listeners, shared, counters, epoll, inbox, forwarding, state, .. } = self;
                    let now = Instant::now();
                    let inbox = inbox.get_or_insert_with(Batch::new);
                    forwarding.read_answers(
                        index,
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

    /// Does the jobs of the mailbox, and what is due for the queries in flight.
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

    /// Reads a batch from a socket of a listener and answers it. Returns the number of packets.
    fn serve(&mut self, at: usize, socket: usize) -> usize {
        let UdpWorker { listeners, shared, counters, epoll, batch, forwarding, state, .. } = self;
        let Some(Some(listener)) = listeners.get(at) else { return 0 };
        let Some(socket) = listener.socket(socket) else { return 0 };
        let received = match batch.receive(socket.as_fd(), false) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
            Err(error) => {
                counters.receive_failed.add(1);
                if LOGGED.is_due() {
                    tracing::warn!(address = %listener.address, %error, "UDP read failed");
                }
                std::thread::sleep(PAUSE);
                return 0;
            }
        };
        let now = Instant::now();
        let router = listener.service.router();
        let proxy = listener.service.proxy();
        let mut answerable = 0;
        let mut unanswered = 0;
        let mut bad_source = 0;
        for slot in 0..received {
            let (datagram, out) = batch.slot(slot);
            // A read from a socket that was shut down results in a datagram without an address.
            let Some(datagram) = datagram else { continue };
            answerable += 1;
            if !can_be_answered(datagram.remote) {
                bad_source += 1;
                continue;
            }
            let (start, proxied) = match &proxy {
                None => (0, None),
                Some(proxy) => match read_proxied(proxy, datagram.bytes, datagram.remote, now) {
                    Some(read) => read,
                    None => {
                        unanswered += 1;
                        continue;
                    }
                },
            };
            // A truncated datagram is not parsed: its header alone decides, in general with FORMERR.
            let bytes = &datagram.bytes[start..];
            let bytes = if datagram.truncated { &bytes[..header::LEN.min(bytes.len())] } else { bytes };
            let local = datagram.local.unwrap_or(listener.address.ip());
            let local = SocketAddr::new(local, listener.address.port());
            let mut client = Client { remote: datagram.remote, local, transport: Transport::Udp };
            if let Some(proxied) = &proxied {
                client.remote = proxied.client;
            }
            let packet = Packet { bytes, client, now, counters };
            let tlvs = proxied.as_ref().and_then(|proxied| proxied.tlvs.as_ref());
            match listener.service.answer_proxied(&router, packet, tlvs, state, out) {
                Answer::Send(len) => batch.queue(slot, len),
                Answer::Drop => unanswered += 1,
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
        counters.unanswered.add(unanswered);
        counters.bad_source.add(bad_source);
        answerable
    }
}

/// Returns whether this can be the address of a client. Port 0 and unspecified, multicast or broadcast addresses are
/// forged, and a response to them would reach no client (as in hickory `sanitize_src_address`).
fn can_be_answered(remote: SocketAddr) -> bool {
    let ip = remote.ip();
    remote.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}
