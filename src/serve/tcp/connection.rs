//! One connection of DNS over TCP or TLS.
//!
//! ```text
//!  bytes ─► whole messages ─► Service::answer ─┬─ Send ────────────────────────► output ─► socket
//!    ▲           │ rest                        └─ Pending ─► task ─ its answer ──▲  │
//!    └── unread ◄┘                                                                  └─► unsent, if it takes no more
//! ```
//!
//! Answers are written in the order in which they are ready (RFC 7766 6.2.1.1). A connection that waits for its client
//! holds no buffer: reading and answering use buffers of the thread, and only what is left over is stored, an
//! incomplete message or answers that the client does not take. While answers are unsent, nothing more is read.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::accept::Acceptor;
use super::limits::ConnectionPermit;
use super::stream::Stream;
use crate::chain::{Answer, Client, Pending, State, Transport};
use crate::serve::framing::{PREFIX, first_message};
use crate::serve::pending;
use crate::serve::service::Packet;
use crate::serve::{LEAVE_TIME, ListenerPhase, Service, Settings, Shared};
use crate::wire::MAX_MESSAGE;

/// The most bytes that are read at once, with what was left over before.
const INPUT: usize = 16 * 1024;
/// Answers are written when they come to so many bytes, or when there is nothing more to answer.
const OUTPUT: usize = 16 * 1024;
/// How many messages are answered before other connections of the thread have their turn.
const TURN: usize = 64;
/// How many bytes of answers end a turn, however few messages they answer.
const TURN_OUTPUT: usize = 64 * 1024;
/// How long the client's end is waited for once this side has ended and the server stops.
const LINGER: Duration = Duration::from_secs(1);
/// How long the kernel may go on to send the last answers of a connection that has been closed.
const ORPHAN_TIME: Duration = Duration::from_secs(30);

thread_local! {
    /// The buffers of a thread; no connection holds them while it waits.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// The buffers that reading and answering need.
struct Scratch {
    input: [u8; INPUT],
    output: Output,
    state: State,
}

/// Answers that are ready, each behind its length.
struct Output {
    bytes: [u8; OUTPUT + PREFIX + MAX_MESSAGE],
    len: usize,
}

/// A connection.
pub(crate) struct Connection {
    stream: Stream,
    client: Client,
    service: Arc<Service>,
    settings: Arc<Settings>,
    acceptor: Arc<Acceptor>,
    permit: ConnectionPermit,
    /// The limit on its pending queries.
    pending_limit: usize,
    /// Bytes that were read and not answered: the start of a message, or more while answers are unsent. At most
    /// [`INPUT`].
    unread: Vec<u8>,
    /// Bytes of answers that the socket did not take, and how many of them it has taken since. At most [`OUTPUT`] and
    /// one answer.
    unsent: (Vec<u8>, usize),
    /// Pending queries.
    pending: JoinSet<Option<Box<[u8]>>>,
    /// Messages that were read.
    messages: u32,
    /// The turn ended before the unread bytes did.
    has_more: bool,
    /// Nothing more is read.
    reading_ended: bool,
    /// What is unread stays unread: the connection has brought as many queries as it may, or one that is too long.
    had_enough: bool,
    /// The client has ended its side.
    client_ended: bool,
    /// The server stops: until when a query is waited for.
    ending: Option<Instant>,
    /// When the client's time began: for its next message, for the rest of one, or to take answers.
    since: Instant,
}

impl Connection {
    /// Makes a connection that was accepted.
    pub(crate) fn new(
        stream: Stream, remote: SocketAddr, local: SocketAddr, service: Arc<Service>, acceptor: Arc<Acceptor>,
        permit: ConnectionPermit,
    ) -> Connection {
        let transport = if matches!(stream, Stream::Tls(_)) { Transport::Tls } else { Transport::Tcp };
        Connection {
            stream,
            client: Client { remote, local, transport },
            settings: service.settings(),
            service,
            pending_limit: acceptor.connections.limits().waiting_per_connection.max(1),
            acceptor,
            permit,
            unread: Vec::new(),
            unsent: (Vec::new(), 0),
            pending: JoinSet::new(),
            messages: 0,
            has_more: false,
            reading_ended: false,
            had_enough: false,
            client_ended: false,
            ending: None,
            since: Instant::now(),
        }
    }

    /// Serves it until the client or the server ends it, or a timeout passes.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<ListenerPhase>) {
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.deadline().into()));
        let activity = self.permit.activity.clone();
        while !self.is_over() {
            activity.set(!self.has_unsent() && (self.has_more || !self.pending.is_empty()), self.since);
            let deadline = self.deadline();
            // A timer that fires early is set anew when it fires, so that a query does not touch it.
            if deadline < timer.deadline().into_std() {
                timer.as_mut().reset(deadline.into());
            }
            let result = tokio::select! {
                biased;
                changed = phase.changed() => {
                    let current = *phase.borrow_and_update();
                    match current {
                        ListenerPhase::Ending if changed.is_ok() => self.begin_end().await,
                        ListenerPhase::Serving if changed.is_ok() => Ok(()),
                        _ => return,
                    }
                }
                () = activity.evicted() => return self.leave(),
                _ = self.stream.writable(), if self.has_unsent() => self.flush(),
                Some(answer) = self.pending.join_next(), if !self.has_unsent() => {
                    self.take_late(answer.ok().flatten())
                }
                _ = self.stream.readable(), if !self.reading_ended && !self.has_more && !self.is_stalled() => {
                    let before = self.messages;
                    let read = self.read(Stream::try_read).map(|_| ());
                    // The query that the end waited for.
                    let is_last = self.ending.is_some() && self.messages > before;
                    match read {
                        Ok(()) if is_last => self.last_read().await,
                        read => read,
                    }
                }
                () = tokio::task::yield_now(), if self.has_more && !self.is_stalled() => self.resume(),
                () = timer.as_mut() => {
                    match deadline <= Instant::now() {
                        true if self.ending.take().is_some() => self.last_read().await,
                        true => self.time_out(),
                        false => {
                            timer.as_mut().reset(deadline.into());
                            Ok(())
                        }
                    }
                }
            };
            if result.is_err() {
                return;
            }
        }
        self.close(phase).await;
    }

    /// What all connections have in common.
    fn shared(&self) -> &Arc<Shared> {
        &self.acceptor.shared
    }

    /// Whether the client must read before anything else is written.
    fn has_unsent(&self) -> bool {
        !self.unsent.0.is_empty() || self.stream.has_unwritten()
    }

    /// Whether nothing more may be answered now.
    fn is_stalled(&self) -> bool {
        self.has_unsent() || self.pending.len() >= self.pending_limit
    }

    /// Whether there is nothing left to do.
    fn is_over(&self) -> bool {
        self.reading_ended && !self.has_more && !self.has_unsent() && self.pending.is_empty()
    }

    /// When the client's time is over.
    fn deadline(&self) -> Instant {
        let timeouts = &self.settings.timeouts;
        let time = if self.has_unsent() {
            timeouts.write
        } else if !self.reading_ended && (!self.unread.is_empty() && !self.is_stalled() || self.messages == 0) {
            timeouts.read
        } else if !self.pending.is_empty() {
            // The client waits for us. Pending queries have timeouts of their own; look again in a while.
            let deadline = Instant::now() + timeouts.idle;
            return self.ending.map_or(deadline, |ending| deadline.min(ending));
        } else {
            timeouts.idle
        };
        let deadline = self.since + time;
        self.ending.map_or(deadline, |ending| deadline.min(ending))
    }

    /// The client's time is over. A connection whose client does not take its answers is reset; from any other nothing
    /// more is read, and it ends behind its last answer.
    fn time_out(&mut self) -> io::Result<()> {
        if self.has_unsent() {
            self.shared().counters.connections_timed_out.add(1);
            self.reset();
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A query that has come in this very moment is answered.
        let messages = self.messages;
        self.read(Stream::read_now)?;
        if self.messages == messages {
            // An idle client has not exceeded a timeout.
            if !self.unread.is_empty() {
                self.shared().counters.connections_timed_out.add(1);
            }
            self.reading_ended = true;
        }
        Ok(())
    }

    /// Has the kernel reset the connection when it is dropped, and discard what the client has not taken.
    fn reset(&self) {
        let _ = self.stream.options().set_linger(Some(Duration::ZERO));
    }

    /// Ends the connection at once, to make room for another. The kernel still sends what it has of answers.
    fn leave(mut self) {
        if self.has_unsent() || self.stream.shut_down(ORPHAN_TIME).is_err() {
            self.reset();
        }
    }

    /// Reads what is there and answers it. Says whether there was anything.
    fn read(&mut self, read: fn(&mut Stream, &mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        with_scratch(|scratch| {
            let kept = self.unread.len();
            scratch.input[..kept].copy_from_slice(&self.unread);
            match read(&mut self.stream, &mut scratch.input[kept..]) {
                Ok(0) => (self.client_ended, self.reading_ended) = (true, true),
                Ok(more) => return self.answer_all(scratch, kept + more).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            Ok(false)
        })
    }

    /// The server stops: answers what is there, or else the next query, and reads no more.
    async fn begin_end(&mut self) -> io::Result<()> {
        self.ending = Some(Instant::now() + LEAVE_TIME);
        let before = self.messages;
        self.read_all().await?;
        if self.messages > before || self.is_stalled() {
            self.reading_ended = true;
        }
        Ok(())
    }

    /// Reads a last time: until nothing more is there, or until the client must take answers first.
    async fn last_read(&mut self) -> io::Result<()> {
        self.read_all().await?;
        self.reading_ended = true;
        Ok(())
    }

    /// Reads and answers what is there, for a limited time: a client that sends without pause does not hold up the end.
    async fn read_all(&mut self) -> io::Result<()> {
        let end = Instant::now() + LEAVE_TIME;
        // This asks the kernel, not the runtime, whose notice may be late.
        while !self.reading_ended && !self.is_stalled() && Instant::now() < end {
            if self.has_more {
                self.resume()?;
            } else if !self.read(Stream::read_now)? {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Goes on with what was read before the connection stalled or its turn ended.
    fn resume(&mut self) -> io::Result<()> {
        if self.unread.is_empty() || self.is_stalled() {
            return Ok(());
        }
        with_scratch(|scratch| {
            let kept = self.unread.len();
            scratch.input[..kept].copy_from_slice(&self.unread);
            self.answer_all(scratch, kept)
        })
    }

    /// Answers the whole messages in the first `len` bytes of the input, stores the rest, and writes the answers.
    fn answer_all(&mut self, scratch: &mut Scratch, len: usize) -> io::Result<()> {
        let Scratch { input, output, state } = scratch;
        let (now, router) = (Instant::now(), self.service.router());
        let (mut at, mut silent, mut turn, mut written) = (0, 0, 0..TURN, 0);
        let had_partial = !self.unread.is_empty();
        self.has_more = false;
        while !self.is_stalled() && !self.had_enough {
            let Some((message, end)) = first_message(&input[at..len]) else { break };
            if turn.next().is_none() || written >= TURN_OUTPUT {
                self.has_more = true;
                break;
            }
            // A query that is too long is not read: its header alone makes FORMERR, and what follows is lost.
            self.had_enough |= end.is_none();
            self.messages = self.messages.saturating_add(1);
            self.had_enough |= self.settings.queries_per_connection.is_some_and(|limit| self.messages >= limit.get());
            at = end.map_or(len, |end| at + end);
            let packet = Packet { bytes: message, client: self.client, now, counters: &self.acceptor.shared.counters };
            let out = &mut output.bytes[output.len + PREFIX..][..MAX_MESSAGE];
            match self.service.answer(&router, packet, state, out) {
                Answer::Send(len) => output.push(len),
                Answer::Silent => silent += 1,
                Answer::Pending(pending) => self.wait_for(pending),
            }
            if output.len >= OUTPUT {
                written += output.len;
                self.write(output)?;
            }
        }
        if self.had_enough {
            self.reading_ended = true;
            at = len;
        }
        if at > 0 || !had_partial {
            self.since = now;
        }
        self.unread = input[at..len].to_vec();
        self.shared().counters.silent.add(silent);
        self.write(output)
    }

    /// Waits for the answer of a pending query.
    fn wait_for(&mut self, pending: Pending) {
        let (service, shared) = (self.service.clone(), self.shared().clone());
        let mut permit = shared.permit(self.client, None, &shared.counters);
        let packet = pending.asked.packet().into();
        self.pending.spawn(async move {
            pending::answer(pending, &mut permit, packet, MAX_MESSAGE, service, &shared.counters).await
        });
    }

    /// Writes the answer of a pending query, and goes on if the connection stalled for it.
    fn take_late(&mut self, answer: Option<Box<[u8]>>) -> io::Result<()> {
        self.since = Instant::now();
        if let Some(answer) = answer {
            with_scratch(|scratch| {
                scratch.output.bytes[PREFIX..PREFIX + answer.len()].copy_from_slice(&answer);
                scratch.output.push(answer.len());
                self.write(&mut scratch.output)
            })?;
        }
        self.resume()
    }

    /// Writes answers, and stores what the socket does not take.
    fn write(&mut self, output: &mut Output) -> io::Result<()> {
        let bytes = &output.bytes[..std::mem::take(&mut output.len)];
        if bytes.is_empty() {
            return Ok(());
        }
        self.shared().counters.answered.add(count_messages(bytes));
        debug_assert!(!self.has_unsent(), "nothing is answered while answers are unsent");
        let written = or_none(self.stream.try_write(bytes))?;
        if written < bytes.len() {
            self.unsent = (bytes[written..].to_vec(), 0);
        }
        if self.has_unsent() {
            self.since = Instant::now();
        }
        Ok(())
    }

    /// Writes what is unsent. When the client has taken some of it, its time begins again.
    fn flush(&mut self) -> io::Result<()> {
        let mut has_progress = self.stream.flush()?;
        let (bytes, sent) = &mut self.unsent;
        if !bytes.is_empty() {
            let taken = or_none(self.stream.try_write(&bytes[*sent..]))?;
            has_progress |= taken > 0;
            *sent += taken;
        }
        if has_progress {
            self.since = Instant::now();
        }
        if *sent < bytes.len() || self.stream.has_unwritten() {
            return Ok(());
        }
        self.unsent = (Vec::new(), 0);
        self.since = Instant::now();
        self.resume()
    }

    /// Ends this side, and waits a little for the client's end: closing with bytes unread makes TCP reset the
    /// connection, and a reset can overtake answers. While the server goes on, the client has the time that it has for
    /// answers; the kernel goes on to send the rest for [`ORPHAN_TIME`].
    async fn close(mut self, mut phase: watch::Receiver<ListenerPhase>) {
        // Within TLS a client that has ended its side may still wait for ours.
        let is_ended = self.stream.shut_down(ORPHAN_TIME).is_err() || self.client_ended;
        if is_ended {
            return;
        }
        let time = self.settings.timeouts.write;
        let Connection { mut stream, permit, acceptor: _acceptor, .. } = self;
        permit.activity.set(false, Instant::now());
        let ended = async {
            let mut bytes = [0; 512];
            while stream.readable().await.is_ok() {
                match stream.try_read(&mut bytes) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        };
        let time_limit = async {
            let stops = phase.wait_for(|&phase| phase > ListenerPhase::Serving);
            if tokio::time::timeout(time, stops).await.is_ok() {
                tokio::time::sleep(LINGER).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = time_limit => {}
            () = permit.activity.evicted() => {}
        }
    }
}

impl Output {
    /// Adds an answer that was written behind the place of its length.
    fn push(&mut self, len: usize) {
        self.bytes[self.len..self.len + PREFIX].copy_from_slice(&(len as u16).to_be_bytes());
        self.len += PREFIX + len;
    }
}

/// Runs with this thread's buffers.
fn with_scratch<T>(run: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let scratch = scratch.get_or_insert_with(|| {
            let output = Output { bytes: [0; OUTPUT + PREFIX + MAX_MESSAGE], len: 0 };
            Box::new(Scratch { input: [0; INPUT], output, state: State::default() })
        });
        // A connection that failed may have left some.
        scratch.output.len = 0;
        run(scratch)
    })
}

/// Counts the answers in these bytes.
fn count_messages(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((prefix, rest)) = bytes.split_first_chunk() {
        bytes = rest.get(usize::from(u16::from_be_bytes(*prefix))..).unwrap_or_default();
        count += 1;
    }
    count
}

/// Returns 0 for a write that would block.
fn or_none(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
