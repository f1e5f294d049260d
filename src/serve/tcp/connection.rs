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
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::stream::Stream;
use crate::chain::{Answer, Client, Pending, State, Transport};
use crate::serve::pending::{self, Place};
use crate::serve::tcp::accept::{Seat, TcpLimits};
use crate::serve::udp::mmsg::MAX_QUESTION;
use crate::serve::{FAREWELL, Phase, Service, Settings, Shared};
use crate::wire::{MAX_MESSAGE, header};

/// The octets in front of a message, its length (RFC 1035 4.2.2).
const PREFIX: usize = 2;
/// What is read at once, with what was left over before.
const INPUT: usize = 16 * 1024;
/// Answers are written when they come to this, or when there is nothing more to answer.
const OUTPUT: usize = 16 * 1024;
/// How many messages are answered before other connections of the thread have their turn.
const TURN: usize = 64;
/// How many octets of answers end a turn, however few messages they answer.
const TURN_OUTPUT: usize = 64 * 1024;
/// How long the client's end is waited for once this side has ended. Closing with octets unread makes TCP reset the
/// connection, and a reset can overtake answers.
const LINGER: Duration = Duration::from_secs(1);

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
    Pending(Pending, Place),
}

/// A connection.
pub(in crate::serve) struct Connection {
    stream: Stream,
    client: Client,
    service: Arc<Service>,
    settings: Arc<Settings>,
    seat: Seat,
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
    pub(in crate::serve) fn new(
        stream: Stream, remote: SocketAddr, local: SocketAddr, service: Arc<Service>, seat: Seat,
    ) -> Connection {
        let transport = if matches!(stream, Stream::Tls(_)) { Transport::Tls } else { Transport::Tcp };
        Connection {
            stream,
            client: Client { remote, local, transport },
            settings: service.settings.load_full(),
            service,
            seat,
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
    pub(in crate::serve) async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.deadline().into()));
        let ticket = self.seat.ticket.clone();
        while !self.is_over() {
            ticket.at_work.store(!self.has_unsent() && (self.has_more || !self.waiting.is_empty()), Ordering::Relaxed);
            let deadline = self.deadline();
            // A timer that is early is set when it goes off, so that a query does not touch it.
            if deadline < timer.deadline().into_std() {
                timer.as_mut().reset(deadline.into());
            }
            let result = tokio::select! {
                biased;
                changed = phase.changed() => match *phase.borrow_and_update() {
                    Phase::Ending if changed.is_ok() => self.begin_end(),
                    Phase::Serving if changed.is_ok() => Ok(()),
                    _ => return,
                },
                () = ticket.evicted.notified() => return self.cut(),
                _ = self.stream.writable(), if self.has_unsent() => self.flush(),
                Some(answer) = self.waiting.join_next(), if !self.has_unsent() => {
                    self.take_late(answer.ok().flatten())
                }
                _ = self.stream.readable(), if !self.reading_ended && !self.has_more && !self.is_stalled() => {
                    let before = self.messages;
                    let read = self.read(Stream::try_read).map(|_| ());
                    // The query that was waited for.
                    let is_last = self.ending.is_some() && self.messages > before;
                    read.and_then(|()| if is_last { self.last_read() } else { Ok(()) })
                }
                () = tokio::task::yield_now(), if self.has_more && !self.is_stalled() => self.resume(),
                () = timer.as_mut() => {
                    match deadline <= Instant::now() {
                        true if self.ending.take().is_some() => self.last_read(),
                        true => return self.timed_out(),
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
        self.close().await;
    }

    /// What all connections have in common.
    fn shared(&self) -> &Arc<Shared> {
        &self.seat.tcp.shared
    }

    /// The bounds.
    fn limits(&self) -> &TcpLimits {
        &self.seat.tcp.limits
    }

    /// Whether the client owes us reading.
    fn has_unsent(&self) -> bool {
        !self.unsent.0.is_empty() || self.stream.has_unwritten()
    }

    /// Whether nothing more may be answered now.
    fn is_stalled(&self) -> bool {
        self.has_unsent() || self.waiting.len() >= self.limits().waiting_per_connection.max(1)
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
        } else if !self.unread.is_empty() && !self.is_stalled() || self.messages == 0 {
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

    /// Counts a client that took too long; one that was merely idle has done nothing wrong.
    fn timed_out(&self) {
        if self.has_unsent() || !self.unread.is_empty() {
            self.shared().counters.connections_timed_out.add(1);
        }
        self.cut();
    }

    /// Ends the connection at once: what its client has not taken is not kept for it (a reset, not an orphan in
    /// FIN-WAIT-1 with a full send queue).
    fn cut(&self) {
        let _ = self.stream.options().set_linger(Some(Duration::ZERO));
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
    fn begin_end(&mut self) -> io::Result<()> {
        self.ending = Some(Instant::now() + FAREWELL);
        let before = self.messages;
        self.read_all()?;
        if self.messages > before || self.is_stalled() {
            self.reading_ended = true;
        }
        Ok(())
    }

    /// Reads a last time: until nothing more is there, or until the client must take answers first.
    fn last_read(&mut self) -> io::Result<()> {
        self.read_all()?;
        self.reading_ended = true;
        Ok(())
    }

    fn read_all(&mut self) -> io::Result<()> {
        // The kernel is asked, not the runtime, whose notice may be late.
        while !self.reading_ended && !self.is_stalled() {
            if self.has_more {
                self.resume()?;
            } else if !self.read(Stream::read_now)? {
                break;
            }
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
            let Some((message, end)) = message(&input[at..len]) else { break };
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
        let shared = &self.seat.tcp.shared;
        let router = self.service.router();
        let out = &mut output.octets[output.len + PREFIX..][..MAX_MESSAGE];
        // A panic leaves nothing behind that is used again: `state` is replaced, and `out` is written anew.
        let todo = catch_unwind(AssertUnwindSafe(|| match router.answer(message, self.client, now, state, out) {
            Answer::Send(len) => Todo::Send(len),
            Answer::Silent => Todo::Silent,
            Answer::Pending(pending) => match shared.waiting.enter() {
                Some(place) => Todo::Pending(pending, place),
                None => {
                    shared.counters.overloads.add(1);
                    Todo::Send(pending.overload().encode(out))
                }
            },
        }));
        match todo {
            Ok(Todo::Send(len)) => output.push(len),
            Ok(Todo::Silent) => return false,
            Ok(Todo::Pending(pending, place)) => {
                shared.counters.later.add(1);
                let (packet, service, shared) = (Box::from(message), self.service.clone(), shared.clone());
                self.waiting.spawn(async move {
                    let answer = pending::answer(pending, packet, MAX_MESSAGE, service, &shared.counters).await;
                    drop(place);
                    answer
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

    /// Writes what is unsent.
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()?;
        let (octets, sent) = &mut self.unsent;
        if !octets.is_empty() {
            *sent += or_none(self.stream.try_write(&octets[*sent..]))?;
        }
        if *sent < octets.len() || self.stream.has_unwritten() {
            return Ok(());
        }
        self.unsent = (Vec::new(), 0);
        self.since = Instant::now();
        self.resume()
    }

    /// Ends this side, and waits a little for the client's end.
    async fn close(mut self) {
        // Within TLS a client that has ended may still wait for our farewell.
        let is_ended = self.stream.shut_down().is_err() || self.client_ended;
        if is_ended {
            return;
        }
        let Connection { mut stream, seat: _seat, .. } = self;
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
        let _ = tokio::time::timeout(LINGER, ended).await;
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

/// The first message, if it is whole, and where it ends; of one that is too long the header, without an end.
fn message(octets: &[u8]) -> Option<(&[u8], Option<usize>)> {
    let len = usize::from(u16::from_be_bytes([*octets.first()?, *octets.get(1)?]));
    if len > MAX_QUESTION {
        return Some((octets.get(PREFIX..PREFIX + header::LEN)?, None));
    }
    Some((octets.get(PREFIX..PREFIX + len)?, Some(PREFIX + len)))
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
