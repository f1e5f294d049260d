//! What is served at a listener: its router and settings, which a reload replaces, and the one way from a packet to its
//! answer for every transport.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::ListenerKind;
use super::counts::Counters;
use super::pending::{self, PendingLimit, Seldom};
use super::shared::Shared;
use super::statuses::StatusCounters;
use crate::chain::{Answer, Client, Router, State};
use crate::net::Credentials;
use crate::wire::encode::encode_error;
use crate::wire::{MAX_MESSAGE, Rcode};

/// What is served at one listener.
pub struct Service {
    kind: ListenerKind,
    /// Who answers. Written by a reload; read once for each batch and each read of a connection.
    router: ArcSwap<Router>,
    /// How. Written by a reload; read when a connection starts, or a plugin panics.
    settings: ArcSwap<Settings>,
    /// Certificate and key of an encrypted transport. Written by a reload, read when a connection starts.
    credentials: ArcSwapOption<Credentials>,
    /// How requests of HTTP and streams of QUIC ended.
    replies: StatusCounters,
}

impl Service {
    /// A service of UDP and TCP with this router.
    pub fn new(router: Arc<Router>, settings: Settings) -> Arc<Service> {
        Service::of(ListenerKind::Dns, router, settings, None)
    }

    /// A service of a transport. QUIC needs credentials; other transports are not encrypted without them.
    pub fn of(
        kind: ListenerKind, router: Arc<Router>, settings: Settings, credentials: Option<Arc<Credentials>>,
    ) -> Arc<Service> {
        Arc::new(Service {
            kind,
            router: ArcSwap::new(router),
            settings: ArcSwap::from_pointee(settings),
            credentials: ArcSwapOption::new(credentials),
            replies: StatusCounters::of(kind),
        })
    }

    /// Answers by another router from the next batch on. Pending queries go on with the router that they came to, and
    /// connections with the settings that they began with.
    pub fn replace(&self, router: Arc<Router>, settings: Settings, credentials: Option<Arc<Credentials>>) {
        self.credentials.store(credentials);
        self.settings.store(Arc::new(settings));
        self.router.store(router);
    }

    /// How often requests of HTTP ended with each status, and streams of QUIC with each code, with CoreDNS's labels.
    pub fn replies(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.replies.counts()
    }

    pub(crate) fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// The credentials now.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.load_full()
    }

    /// The router now.
    pub(crate) fn router(&self) -> Guard<Arc<Router>> {
        self.router.load()
    }

    /// The settings now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Counts the end of a request or stream with this status or code.
    pub(crate) fn count_reply(&self, end: u16) {
        self.replies.count(end);
    }

    /// Answers a packet by this router, which is the service's own: the one way for every transport. `out` holds
    /// [`MAX_MESSAGE`] bytes, or [`crate::wire::encode::MAX_UDP`] for UDP.
    pub(crate) fn answer(&self, router: &Arc<Router>, packet: Packet<'_>, state: &mut State, out: &mut [u8]) -> Answer {
        let Packet { bytes, client, now, counters } = packet;
        self.recover(bytes, counters, state, out, |state, out| router.answer(bytes, client, now, state, out))
    }

    /// Runs plugins for a query. A panic of theirs becomes SERVFAIL.
    pub(crate) fn recover(
        &self, packet: &[u8], counters: &Counters, state: &mut State, out: &mut [u8],
        run: impl FnOnce(&mut State, &mut [u8]) -> Answer,
    ) -> Answer {
        // What a panic leaves half done is not used again: `state` is replaced, and `out` is written from its start.
        let answer = catch_unwind(AssertUnwindSafe(|| run(state, out)));
        answer.unwrap_or_else(|panic| {
            *state = State::default();
            Answer::Send(self.panicked(&*panic, counters, packet, out))
        })
    }

    /// Answers the packet of a request or a stream. Returns `None` where the client gets nothing. `limit`: a limit on
    /// pending queries of the listener's own, besides the one for all.
    pub(crate) async fn answer_request(
        self: &Arc<Self>, bytes: &[u8], client: Client, shared: &Shared, limit: Option<&Arc<PendingLimit>>,
    ) -> Option<Box<[u8]>> {
        let counters = &shared.counters;
        let mut waits = None;
        let answer = SCRATCH.with_borrow_mut(|scratch| {
            let AnswerBuffers { state, out } = &mut **scratch
                .get_or_insert_with(|| Box::new(AnswerBuffers { state: State::default(), out: [0; MAX_MESSAGE] }));
            let packet = Packet { bytes, client, now: Instant::now(), counters };
            match self.answer(&self.router(), packet, state, out) {
                Answer::Send(len) => return Some(Box::from(&out[..len])),
                Answer::Silent => {}
                Answer::Pending(pending) => waits = Some(pending),
            }
            None
        });
        let answer = match waits {
            None => answer,
            Some(pending) => {
                let mut permit = shared.permit(client, limit, counters);
                pending::answer(pending, &mut permit, bytes.into(), MAX_MESSAGE, self.clone(), counters).await
            }
        };
        let counter = if answer.is_some() { &counters.answered } else { &counters.silent };
        counter.add(1);
        answer
    }

    /// Turns a plugin's panic into SERVFAIL, as CoreDNS's `Server.ServeDNS` recovers. Returns the answer's length.
    ///
    /// Where the configuration does not recover (*debug*), the process aborts, as an unrecovered panic does in Go.
    pub(crate) fn panicked(
        &self, panic: &(dyn Any + Send), counters: &Counters, packet: &[u8], out: &mut [u8],
    ) -> usize {
        counters.panics.add(1);
        let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let recover = self.settings().recover;
        // The panic hook has logged where.
        if LOGGED.now() || !recover {
            tracing::error!(panic = what.unwrap_or("unknown"), "a plugin panicked");
        }
        if !recover {
            std::process::abort();
        }
        encode_error(packet, Rcode::SERVFAIL, out)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// When a panic was last logged.
static LOGGED: Seldom = Seldom::new();

/// A packet that is to be answered.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) client: Client,
    pub(crate) now: Instant,
    /// Where a panic is counted.
    pub(crate) counters: &'a Counters,
}

thread_local! {
    /// The buffers of a thread, for requests and streams.
    static SCRATCH: RefCell<Option<Box<AnswerBuffers>>> = const { RefCell::new(None) };
}

struct AnswerBuffers {
    state: State,
    out: [u8; MAX_MESSAGE],
}

/// What directives say of a listener's transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a TCP client may take.
    pub timeouts: Timeouts,
    /// How many queries a TCP connection may bring before it is closed, so that long-lived ones spread over replicas.
    /// Any number where there is none (CoreDNS's −1).
    pub queries_per_connection: Option<NonZeroU32>,
    /// Answer SERVFAIL where a plugin panics. Otherwise (*debug*) the process aborts.
    pub recover: bool,
    /// Connections to a listener of HTTPS, QUIC or HTTP/3. 200.
    pub connections: usize,
    /// Requests or streams that such a connection may have open. As many as the library accepts where there is none.
    pub streams: Option<u32>,
    /// Pending queries of a listener of QUIC.
    pub at_once: Option<u32>,
}

impl Settings {
    /// The defaults.
    pub const DEFAULT: Settings = Settings {
        timeouts: Timeouts::DEFAULT,
        queries_per_connection: None,
        recover: true,
        connections: 200,
        streams: Some(250),
        at_once: None,
    };
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::DEFAULT
    }
}

/// How long a TCP client may take. The defaults are CoreDNS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the first query, and for the rest of a query whose first byte has come. 3 s.
    pub read: Duration,
    /// To take some of what it is sent. 5 s.
    pub write: Duration,
    /// Between an answer and the next query. 10 s.
    pub idle: Duration,
}

impl Timeouts {
    /// The defaults.
    pub const DEFAULT: Timeouts =
        Timeouts { read: Duration::from_secs(3), write: Duration::from_secs(5), idle: Duration::from_secs(10) };
}
