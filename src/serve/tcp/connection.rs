//! One TCP connection.
//!
//! ```text
//!  octets ─► whole messages ─► Router::answer ─┬─ Send ──────────────────────► output ─► socket
//!     ▲           │ rest                       └─ Later ─► task ─ when it ends ──▲  │
//!     └── unread ◄┘                                                               └─► unsent, if it takes no more
//! ```
//!
//! Answers are written in the order in which they are ready (RFC 7766 6.2.1.1). A connection that waits for its client
//! holds no buffer: reading and answering use buffers of the thread, and only what is left over is kept, an incomplete
//! message or answers that the client does not take. While answers are unsent, nothing more is read.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::accept::Acceptor;
use super::limits::ConnectionPermit;
use super::stream::Stream;
use crate::chain::{Answer, Client, Pending, State, Transport};
use crate::serve::framing::{PREFIX, first_message};
use crate::serve::pending::{self, PendingPermit};
use crate::serve::{LEAVE_TIME, Phase, Service, Settings, Shared};
use crate::wire::MAX_MESSAGE;

/// What is read at once, with what was left over before.
const INPUT: usize = 16 * 1024;
/// Answers are written when they come to this, or when there is nothing more to answer.
const OUTPUT: usize = 16 * 1024;
/// How many messages are answered before other connections of the thread have their turn.
const TURN: usize = 64;
/// How many octets of answers end a turn, however few messages they answer.
const TURN_OUTPUT: usize = 64 * 1024;
/// How long the client's end is waited for once this side has ended and the server stops.
const LINGER: Duration = Duration::from_secs(1);
/// How long the kernel may go on to send the last answers of a connection that has been closed.
const ORPHAN_TIME: Duration = Duration::from_secs(30);

thread_local! {
    /// The buffers of a thread; no connection holds them while it waits.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// What reading and answering need.
struct Scratch {
    input: [u8; INPUT],
    output: Output,
    state: State,
}

/// Answers that are ready, each behind its length.
struct Output {
    octets: [u8; OUTPUT + PREFIX + MAX_MESSAGE],
    len: usize,
}

/// What is to be done for a message.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each query that waits")]
enum Todo {
    /// So many octets are the answer.
    Send(usize),
    /// Nothing.
    Silent,
    /// Wait.
    Pending(Pending, PendingPermit),
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
    waiting_limit: usize,
    /// Octets that were read and not looked at: the start of a message, or more while answers are unsent. At most
    /// [`INPUT`].
    unread: Vec<u8>,
    /// Octets of answers that the socket did not take, and how many of them it has taken since. At most [`OUTPUT`] and
    /// one answer.
    unsent: (Vec<u8>, usize),
    /// Answers that wait.
    waiting: JoinSet<Option<Box<[u8]>>>,
    /// Messages that were read.
    messages: u32,
    /// The turn ended before the unread octets did.
    has_more: bool,
    /// Nothing more is read.
    reading_ended: bool,
    /// What is unread stays so: it has brought as many queries as it may, or one that is too long.
    had_enough: bool,
    /// The client has ended its side.
    client_ended: bool,
    /// The server ends: until when a query is waited for.
    ending: Option<Instant>,
    /// Since when the client has been given time: for its next message, for the rest of one, or to take answers.
    since: Instant,
}

impl Connection {
    /// A connection that was accepted.
    pub(crate) fn new(
        stream: Stream, remote: SocketAddr, local: SocketAddr, service: Arc<Service>, acceptor: Arc<Acceptor>,
        permit: ConnectionPermit,
    ) -> Connection {
        let transport = if matches!(stream, Stream::Tls(_)) { Transport::Tls } else { Transport::Tcp };
        Connection {
            stream,
            client: Client { remote, local, transport },
            settings: service.settings.load_full(),
            service,
            waiting_limit: acceptor.connections.limits().waiting_per_connection.max(1),
            acceptor,
            permit,
            unread: Vec::new(),
            unsent: (Vec::new(), 0),
            waiting: JoinSet::new(),
            messages: 0,
            has_more: false,
            reading_ended: false,
            had_enough: false,
            client_ended: false,
            ending: None,
            since: Instant::now(),
        }
    }

    /// Serves it until the client or the server ends it, or the client takes too long.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.deadline().into()));
        let activity = self.permit.activity.clone();
        while !self.is_over() {
            activity.set(!self.has_unsent() && (self.has_more || !self.waiting.is_empty()), self.since);
            let deadline = self.deadline();
            // A timer that is early is set when it goes off, so that a query does not touch it.
            if deadline < timer.deadline().into_std() {
                timer.as_mut().reset(deadline.into());
            }
            let result = tokio::select! {
                biased;
                changed = phase.changed() => {
                    let current = *phase.borrow_and_update();
                    match current {
                        Phase::Ending if changed.is_ok() => self.begin_end().await,
                        Phase::Serving if changed.is_ok() => Ok(()),
                        _ => return,
                    }
                }
                () = activity.evicted() => return self.leave(),
                _ = self.stream.writable(), if self.has_unsent() => self.flush(),
                Some(answer) = self.waiting.join_next(), if !self.has_unsent() => {
                    self.take_late(answer.ok().flatten())
                }
                _ = self.stream.readable(), if !self.reading_ended && !self.has_more && !self.is_stalled() => {
                    let before = self.messages;
                    let read = self.read(Stream::try_read).map(|_| ());
                    // The query that was waited for.
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

    /// Whether the client owes us reading.
    fn has_unsent(&self) -> bool {
        !self.unsent.0.is_empty() || self.stream.has_unwritten()
    }

    /// Whether nothing more may be answered now.
    fn is_stalled(&self) -> bool {
        self.has_unsent() || self.waiting.len() >= self.waiting_limit
    }

    /// Whether all is said.
    fn is_over(&self) -> bool {
        self.reading_ended && !self.has_more && !self.has_unsent() && self.waiting.is_empty()
    }

    /// When the client has had its time.
    fn deadline(&self) -> Instant {
        let timeouts = &self.settings.timeouts;
        let time = if self.has_unsent() {
            timeouts.write
        } else if !self.reading_ended && (!self.unread.is_empty() && !self.is_stalled() || self.messages == 0) {
            timeouts.read
        } else if !self.waiting.is_empty() {
            // It waits for us. What we wait for has bounds of its own; look again in a while.
            let deadline = Instant::now() + timeouts.idle;
            return self.ending.map_or(deadline, |ending| deadline.min(ending));
        } else {
            timeouts.idle
        };
        let deadline = self.since + time;
        self.ending.map_or(deadline, |ending| deadline.min(ending))
    }

    /// The client has had its time. One that does not take its answers is cut off; of any other nothing more is read, and
    /// the connection ends once it has its answers.
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
            // One that was merely idle has done nothing wrong.
            if !self.unread.is_empty() {
                self.shared().counters.connections_timed_out.add(1);
            }
            self.reading_ended = true;
        }
        Ok(())
    }

    /// Has the kernel end the connection at once, with what the client has not taken (a reset).
    fn reset(&self) {
        let _ = self.stream.options().set_linger(Some(Duration::ZERO));
    }

    /// Ends the connection at once, since another takes its place. What the kernel has of answers is still sent.
    fn leave(mut self) {
        if self.has_unsent() || self.stream.shut_down(ORPHAN_TIME).is_err() {
            self.reset();
        }
    }

    /// Reads what is there and answers it; says whether there was anything.
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

    /// The server ends: answers what is there, or else the next query, and reads no more.
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

    /// Reads and answers what is there, for a time: a client that sends as fast as it is read does not hold up the end.
    async fn read_all(&mut self) -> io::Result<()> {
        let end = Instant::now() + LEAVE_TIME;
        // The kernel is asked, not the runtime, whose notice may be late.
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

    /// Goes on with what was read before the connection stalled.
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

    /// Answers the whole messages in the first `len` octets of the input, keeps the rest, and writes the answers.
    fn answer_all(&mut self, scratch: &mut Scratch, len: usize) -> io::Result<()> {
        let Scratch { input, output, state } = scratch;
        let now = Instant::now();
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
            if !self.answer(message, now, state, output) {
                silent += 1;
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

    /// Answers one message; says whether anything will be said.
    fn answer(&mut self, message: &[u8], now: Instant, state: &mut State, output: &mut Output) -> bool {
        let shared = &self.acceptor.shared;
        let router = self.service.router();
        let out = &mut output.octets[output.len + PREFIX..][..MAX_MESSAGE];
        // A panic leaves nothing behind that is used again: `state` is replaced, and `out` is written anew.
        let todo = catch_unwind(AssertUnwindSafe(|| match router.answer(message, self.client, now, state, out) {
            Answer::Send(len) => Todo::Send(len),
            Answer::Silent => Todo::Silent,
            Answer::Pending(pending) => Todo::Pending(pending, shared.permit(self.client, None, &shared.counters)),
        }));
        match todo {
            Ok(Todo::Send(len)) => output.push(len),
            Ok(Todo::Silent) => return false,
            Ok(Todo::Pending(pending, mut permit)) => {
                shared.counters.later.add(1);
                let (packet, service, shared) = (Box::from(message), self.service.clone(), shared.clone());
                self.waiting.spawn(async move {
                    pending::answer(pending, &mut permit, packet, MAX_MESSAGE, service, &shared.counters).await
                });
            }
            Err(panic) => {
                let len = pending::panicked(&*panic, &self.service, &shared.counters, message, out);
                *state = State::default();
                output.push(len);
            }
        }
        true
    }

    /// Writes an answer that waited, and goes on where it had to wait for that.
    fn take_late(&mut self, answer: Option<Box<[u8]>>) -> io::Result<()> {
        self.since = Instant::now();
        if let Some(answer) = answer {
            with_scratch(|scratch| {
                scratch.output.octets[PREFIX..PREFIX + answer.len()].copy_from_slice(&answer);
                scratch.output.push(answer.len());
                self.write(&mut scratch.output)
            })?;
        }
        self.resume()
    }

    /// Writes answers, and keeps what the socket does not take.
    fn write(&mut self, output: &mut Output) -> io::Result<()> {
        let octets = &output.octets[..std::mem::take(&mut output.len)];
        if octets.is_empty() {
            return Ok(());
        }
        self.shared().counters.answered.add(count_messages(octets));
        debug_assert!(!self.has_unsent(), "nothing is answered while answers are unsent");
        let written = or_none(self.stream.try_write(octets))?;
        if written < octets.len() {
            self.unsent = (octets[written..].to_vec(), 0);
        }
        if self.has_unsent() {
            self.since = Instant::now();
        }
        Ok(())
    }

    /// Writes what is unsent. A client that takes some of it has its time again for the rest.
    fn flush(&mut self) -> io::Result<()> {
        let mut has_progress = self.stream.flush()?;
        let (octets, sent) = &mut self.unsent;
        if !octets.is_empty() {
            let taken = or_none(self.stream.try_write(&octets[*sent..]))?;
            has_progress |= taken > 0;
            *sent += taken;
        }
        if has_progress {
            self.since = Instant::now();
        }
        if *sent < octets.len() || self.stream.has_unwritten() {
            return Ok(());
        }
        self.unsent = (Vec::new(), 0);
        self.since = Instant::now();
        self.resume()
    }

    /// Ends this side, and waits a little for the client's end: closing with octets unread makes TCP reset the
    /// connection, and a reset can overtake answers. Where the server goes on, a client that reads slowly has as long as
    /// it may take for answers; what it has not taken then, the kernel goes on to send for [`ORPHAN_TIME`].
    async fn close(mut self, mut phase: watch::Receiver<Phase>) {
        // Within TLS a client that has ended may still wait for our end.
        let is_ended = self.stream.shut_down(ORPHAN_TIME).is_err() || self.client_ended;
        if is_ended {
            return;
        }
        let time = self.settings.timeouts.write;
        let Connection { mut stream, permit, acceptor: _acceptor, .. } = self;
        permit.activity.set(false, Instant::now());
        let ended = async {
            let mut octets = [0; 512];
            while stream.readable().await.is_ok() {
                match stream.try_read(&mut octets) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        };
        let time_limit = async {
            let stops = phase.wait_for(|&phase| phase > Phase::Serving);
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
    /// Takes an answer that was written behind the room for its length.
    fn push(&mut self, len: usize) {
        self.octets[self.len..self.len + PREFIX].copy_from_slice(&(len as u16).to_be_bytes());
        self.len += PREFIX + len;
    }
}

/// Runs with this thread's buffers.
fn with_scratch<T>(run: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let scratch = scratch.get_or_insert_with(|| {
            let output = Output { octets: [0; OUTPUT + PREFIX + MAX_MESSAGE], len: 0 };
            Box::new(Scratch { input: [0; INPUT], output, state: State::default() })
        });
        // A connection that failed may have left some.
        scratch.output.len = 0;
        run(scratch)
    })
}

/// How many answers there are in these octets.
fn count_messages(mut octets: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((prefix, rest)) = octets.split_first_chunk() {
        octets = rest.get(usize::from(u16::from_be_bytes(*prefix))..).unwrap_or_default();
        count += 1;
    }
    count
}

/// A write that would block has written nothing.
fn or_none(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
