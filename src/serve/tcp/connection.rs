//! One connection of DNS over TCP or TLS.
//!
//! ```text
//!  bytes ─► complete messages ─► Service::answer ─┬─ Send ────────────────────────► output ─► socket
//!    ▲           │ rest                           └─ Pending ─► task ─ response ───▲  │
//!    └── unread ◄┘                                                                    └─► unsent: the socket is full
//! ```
//!
//! Responses are written in the order in which they are ready (RFC 7766 6.2.1.1). A connection that waits for its
//! client holds no buffer: reading and answering use buffers of the thread, and only an incomplete message and
//! responses that the socket did not accept are stored. While responses are unsent, nothing more is read.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::acceptor::Acceptor;
use super::limits::ConnectionPermit;
use super::stream::Stream;
use crate::chain::{Answer, Client, Pending, State, Transport};
use crate::net::Tlvs;
use crate::serve::framing::{PREFIX, first_message};
use crate::serve::pending;
use crate::serve::service::Packet;
use crate::serve::{LEAVE_TIME, ListenerPhase, Service, Settings, Shared};
use crate::wire::MAX_MESSAGE;

/// The maximum number of bytes that are read at once, including those that were left over before.
const INPUT: usize = 16 * 1024;
/// Responses are written when they have this number of bytes, or when there is nothing more to answer.
const OUTPUT: usize = 16 * 1024;
/// The maximum number of messages that are answered in a turn, before other connections of the thread have theirs.
const TURN: usize = 64;
/// The number of bytes of responses that ends a turn, however few messages were answered.
const TURN_OUTPUT: usize = 64 * 1024;
/// The time to wait for the client to close its side after this side was closed, when the server stops.
const LINGER: Duration = Duration::from_secs(1);
/// The time for which the kernel may continue to send the last responses of a connection that was closed.
const ORPHAN_TIME: Duration = Duration::from_secs(30);

thread_local! {
    /// The buffers of a thread. No connection uses them while it waits.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

/// The buffers that reading and answering need.
struct Scratch {
    input: [u8; INPUT],
    output: Output,
    state: State,
}

/// Responses that are ready, each preceded by its length.
struct Output {
    bytes: [u8; OUTPUT + PREFIX + MAX_MESSAGE],
    len: usize,
}

/// A connection of a client.
pub(crate) struct Connection {
    stream: Stream,
    client: Client,
    /// The TLVs of the header of a proxy.
    tlvs: Option<Arc<Tlvs>>,
    service: Arc<Service>,
    settings: Arc<Settings>,
    acceptor: Arc<Acceptor>,
    permit: ConnectionPermit,
    /// The maximum number of its pending queries.
    pending_limit: usize,
    /// Bytes that were read and not answered: the start of a message, or more while responses are unsent. At most
    /// [`INPUT`].
    unread: Vec<u8>,
    /// Bytes of responses that the socket did not accept, and how many of them were written since. At most [`OUTPUT`]
    /// and one response.
    unsent: (Vec<u8>, usize),
    /// Pending queries.
    pending: JoinSet<Option<Box<[u8]>>>,
    /// The number of messages that were read.
    messages: u32,
    /// The turn ended before all complete messages were answered.
    has_more: bool,
    /// No more bytes are read.
    reading_ended: bool,
    /// Unread bytes are ignored: the connection had the maximum number of queries, or a query that is too long.
    had_enough: bool,
    /// The client has closed its side.
    client_ended: bool,
    /// The server stops: the time until which the connection waits for a query.
    ending: Option<Instant>,
    /// The start of the current timeout: for the next message, for the rest of one, or for the client to read.
    since: Instant,
}

impl Connection {
    /// Creates a connection that was accepted.
    pub(crate) fn new(
        stream: Stream, remote: SocketAddr, local: SocketAddr, service: Arc<Service>, acceptor: Arc<Acceptor>,
        permit: ConnectionPermit,
    ) -> Connection {
        let transport = if matches!(stream, Stream::Tls(_)) { Transport::Tls } else { Transport::Tcp };
        Connection {
            stream,
            client: Client { remote, local, transport },
            tlvs: None,
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

    /// Sets the TLVs of the header of a proxy.
    pub(crate) fn with_tlvs(self, tlvs: Option<Arc<Tlvs>>) -> Connection {
        Connection { tlvs, ..self }
    }

    /// Serves the connection until the client or the server closes it, or a timeout expires.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<ListenerPhase>) {
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.deadline().into()));
        let activity = self.permit.activity.clone();
        while !self.is_over() {
            activity.set(!self.has_unsent() && (self.has_more || !self.pending.is_empty()), self.since);
            let deadline = self.deadline();
            // The timer may fire too early, and is reset then, so that it need not be reset for each query.
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
                    self.write_late(answer.ok().flatten())
                }
                _ = self.stream.readable(), if !self.reading_ended && !self.has_more && !self.is_stalled() => {
                    let before = self.messages;
                    let read = self.read(Stream::try_read).map(|_| ());
                    // The query that the connection waited for before its end.
                    let is_last = self.ending.is_some() && self.messages > before;
                    match read {
                        Ok(()) if is_last => self.last_read().await,
                        result => result,
                    }
                }
                () = tokio::task::yield_now(), if self.has_more && !self.is_stalled() => self.resume(),
                () = timer.as_mut() => {
                    if deadline > Instant::now() {
                        timer.as_mut().reset(deadline.into());
                        Ok(())
                    } else if self.ending.take().is_some() {
                        self.last_read().await
                    } else {
                        self.time_out()
                    }
                }
            };
            if result.is_err() {
                return;
            }
        }
        self.close(phase).await;
    }

    /// Returns the state that all connections share.
    fn shared(&self) -> &Arc<Shared> {
        &self.acceptor.shared
    }

    /// Returns whether the client must read before anything else is written.
    fn has_unsent(&self) -> bool {
        !self.unsent.0.is_empty() || self.stream.has_unwritten()
    }

    /// Returns whether no more queries may be answered now.
    fn is_stalled(&self) -> bool {
        self.has_unsent() || self.pending.len() >= self.pending_limit
    }

    /// Returns whether there is nothing left to do.
    fn is_over(&self) -> bool {
        self.reading_ended && !self.has_more && !self.has_unsent() && self.pending.is_empty()
    }

    /// Returns the time at which the current timeout expires.
    fn deadline(&self) -> Instant {
        let timeouts = &self.settings.timeouts;
        let time = if self.has_unsent() {
            timeouts.write
        } else if !self.reading_ended && (!self.unread.is_empty() && !self.is_stalled() || self.messages == 0) {
            timeouts.read
        } else if !self.pending.is_empty() {
            // The client waits for a response. Pending queries have timeouts of their own.
            let deadline = Instant::now() + timeouts.idle;
            return self.ending.map_or(deadline, |ending| deadline.min(ending));
        } else {
            timeouts.idle
        };
        let deadline = self.since + time;
        self.ending.map_or(deadline, |ending| deadline.min(ending))
    }

    /// Handles a timeout. If the client does not read its responses, the connection is reset. Otherwise no more is
    /// read, and the connection is closed after its last response.
    fn time_out(&mut self) -> io::Result<()> {
        if self.has_unsent() {
            self.shared().counters.connections_timed_out.add(1);
            self.reset();
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A query that has arrived in the meantime is answered.
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

    /// Makes the kernel reset the connection when it is dropped, and discard what the client has not read.
    fn reset(&self) {
        let _ = self.stream.options().set_linger(Some(Duration::ZERO));
    }

    /// Closes the connection at once, since it was evicted. The kernel still sends the responses that it has.
    fn leave(mut self) {
        if self.has_unsent() || self.stream.shut_down(ORPHAN_TIME).is_err() {
            self.reset();
        }
    }

    /// Reads and answers what has arrived. Returns whether there was anything.
    fn read(&mut self, read: fn(&mut Stream, &mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        with_scratch(|scratch| {
            let unread = self.unread.len();
            scratch.input[..unread].copy_from_slice(&self.unread);
            match read(&mut self.stream, &mut scratch.input[unread..]) {
                Ok(0) => {
                    self.client_ended = true;
                    self.reading_ended = true;
                }
                Ok(more) => return self.answer_all(scratch, unread + more).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            Ok(false)
        })
    }

    /// Called when the server stops. Answers the queries that have arrived, or else waits for one more.
    async fn begin_end(&mut self) -> io::Result<()> {
        self.ending = Some(Instant::now() + LEAVE_TIME);
        let before = self.messages;
        self.read_all().await?;
        if self.messages > before || self.is_stalled() {
            self.reading_ended = true;
        }
        Ok(())
    }

    /// Reads for the last time, until nothing more has arrived or the connection is stalled.
    async fn last_read(&mut self) -> io::Result<()> {
        self.read_all().await?;
        self.reading_ended = true;
        Ok(())
    }

    /// Reads and answers what has arrived, for a limited time: a client that sends without pause does not delay the
    /// end.
    async fn read_all(&mut self) -> io::Result<()> {
        let end = Instant::now() + LEAVE_TIME;
        // This reads from the socket even if the runtime does not yet know that it is readable.
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

    /// Continues with the bytes that were read before the connection was stalled or its turn ended.
    fn resume(&mut self) -> io::Result<()> {
        if self.unread.is_empty() || self.is_stalled() {
            return Ok(());
        }
        with_scratch(|scratch| {
            let unread = self.unread.len();
            scratch.input[..unread].copy_from_slice(&self.unread);
            self.answer_all(scratch, unread)
        })
    }

    /// Answers the complete messages in the first `len` bytes of the input, stores the rest, and writes the responses.
    fn answer_all(&mut self, scratch: &mut Scratch, len: usize) -> io::Result<()> {
        let Scratch { input, output, state } = scratch;
        let now = Instant::now();
        let router = self.service.router();
        let mut at = 0;
        let mut unanswered = 0;
        let mut turn = 0..TURN;
        let mut written = 0;
        let had_partial = !self.unread.is_empty();
        self.has_more = false;
        while !self.is_stalled() && !self.had_enough {
            let Some((message, end)) = first_message(&input[at..len]) else { break };
            if turn.next().is_none() || written >= TURN_OUTPUT {
                self.has_more = true;
                break;
            }
            // A query that is too long is not read: its header results in FORMERR, and the following bytes are ignored.
            self.had_enough |= end.is_none();
            self.messages = self.messages.saturating_add(1);
            self.had_enough |= self.settings.queries_per_connection.is_some_and(|limit| self.messages >= limit.get());
            at = end.map_or(len, |end| at + end);
            let packet = Packet { bytes: message, client: self.client, now, counters: &self.acceptor.shared.counters };
            let out = &mut output.bytes[output.len + PREFIX..][..MAX_MESSAGE];
            match self.service.answer_proxied(&router, packet, self.tlvs.as_ref(), state, out) {
                Answer::Send(len) => output.push(len),
                Answer::Drop => unanswered += 1,
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
        self.shared().counters.unanswered.add(unanswered);
        self.write(output)
    }

    /// Starts to wait for a pending query.
    fn wait_for(&mut self, pending: Pending) {
        let service = self.service.clone();
        let shared = self.shared().clone();
        let mut permit = shared.permit(self.client, None, &shared.counters);
        let packet = pending.query.packet().into();
        self.pending.spawn(async move {
            pending::answer(pending, &mut permit, packet, MAX_MESSAGE, service, &shared.counters).await
        });
    }

    /// Writes the response of a pending query, and continues if the connection was stalled.
    fn write_late(&mut self, answer: Option<Box<[u8]>>) -> io::Result<()> {
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

    /// Writes responses, and stores what the socket does not accept.
    fn write(&mut self, output: &mut Output) -> io::Result<()> {
        let bytes = &output.bytes[..std::mem::take(&mut output.len)];
        if bytes.is_empty() {
            return Ok(());
        }
        self.shared().counters.answered.add(count_messages(bytes));
        debug_assert!(!self.has_unsent(), "no query is answered while responses are unsent");
        let written = or_none(self.stream.try_write(bytes))?;
        if written < bytes.len() {
            self.unsent = (bytes[written..].to_vec(), 0);
        }
        if self.has_unsent() {
            self.since = Instant::now();
        }
        Ok(())
    }

    /// Writes unsent bytes. The timeout starts again if the socket accepts some.
    fn flush(&mut self) -> io::Result<()> {
        let mut has_progress = self.stream.flush()?;
        let (bytes, sent) = &mut self.unsent;
        if !bytes.is_empty() {
            let written = or_none(self.stream.try_write(&bytes[*sent..]))?;
            has_progress |= written > 0;
            *sent += written;
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

    /// Closes this side, and waits some time for the client to close its side: a close with unread bytes makes TCP
    /// reset the connection, and a reset can overtake responses. The wait has the write timeout, or [`LINGER`] when the
    /// server stops; the kernel sends the rest for [`ORPHAN_TIME`].
    async fn close(mut self, mut phase: watch::Receiver<ListenerPhase>) {
        // With TLS, a client that has closed its side may still wait for ours.
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
    /// Adds a response of `len` bytes, which was written after the space for its length.
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
        // A connection that failed may have left bytes.
        scratch.output.len = 0;
        run(scratch)
    })
}

/// Counts the responses in these bytes.
fn count_messages(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((prefix, rest)) = bytes.split_first_chunk() {
        bytes = rest.get(usize::from(u16::from_be_bytes(*prefix))..).unwrap_or_default();
        count += 1;
    }
    count
}

/// Returns 0 for a write that would block.
fn or_none(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
