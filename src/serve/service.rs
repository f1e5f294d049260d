//! The service of a listener: its router and settings, which a reload replaces, and the path from a packet to its
//! response, which is the same for every transport.

use std::any::Any;
use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::counts::Counters;
use super::log_limiter::LogLimiter;
use super::statuses::StatusCounters;
use super::transport::ListenerKind;
use crate::chain::{Answer, Client, Router, State};
use crate::net::{Credentials, ProxyProtocol, ProxyRules, Tlvs};
use crate::wire::Rcode;
use crate::wire::encode::encode_error;

/// The service of a listener.
pub struct Service {
    kind: ListenerKind,
    /// Written by a reload; read once for each batch and each read of a connection.
    router: ArcSwap<Router>,
    /// Written by a reload; read when a connection starts, or a plugin panics.
    settings: ArcSwap<Settings>,
    /// Certificate and key of an encrypted transport. Written by a reload; read when a connection starts.
    credentials: ArcSwapOption<Credentials>,
    /// Counters of HTTP requests by status, and of QUIC streams by code.
    replies: StatusCounters,
    /// Whether there is a `proxy`, so that a listener without one reads a flag only.
    is_proxied: AtomicBool,
    /// Headers of proxies. Written by a reload; read once for each batch, and when a connection starts.
    proxy: ArcSwapOption<ProxyProtocol>,
}

impl Service {
    /// Creates the service of a listener on UDP and TCP.
    pub fn new(router: Arc<Router>, settings: Settings) -> Arc<Service> {
        Service::of(ListenerKind::Dns, router, settings, None)
    }

    /// Creates the service of a listener. QUIC needs credentials; other transports are not encrypted without them.
    pub fn of(
        kind: ListenerKind, router: Arc<Router>, settings: Settings, credentials: Option<Arc<Credentials>>,
    ) -> Arc<Service> {
        Arc::new(Service {
            kind,
            router: ArcSwap::new(router),
            settings: ArcSwap::from_pointee(settings),
            credentials: ArcSwapOption::new(credentials),
            replies: StatusCounters::of(kind),
            is_proxied: AtomicBool::new(false),
            proxy: ArcSwapOption::empty(),
        })
    }

    /// Replaces the router from the next batch on. Pending queries continue with the router that received them, and
    /// connections with the settings of their start.
    pub fn replace(&self, router: Arc<Router>, settings: Settings, credentials: Option<Arc<Credentials>>) {
        self.credentials.store(credentials);
        self.settings.store(Arc::new(settings));
        self.router.store(router);
    }

    /// Sets the rules for headers of proxies. What was remembered by the same rules stays.
    pub fn set_proxy(&self, rules: Option<&ProxyRules>) {
        let before = self.proxy.load_full();
        if before.as_ref().map(|proxy| proxy.rules()) != rules {
            self.proxy.store(rules.cloned().map(|rules| Arc::new(ProxyProtocol::new(rules))));
        }
        self.is_proxied.store(rules.is_some(), Ordering::Release);
    }

    /// Returns what reads the headers of proxies, if there may be any.
    #[inline]
    pub(crate) fn proxy(&self) -> Option<Arc<ProxyProtocol>> {
        if self.is_proxied.load(Ordering::Relaxed) { self.proxy.load_full() } else { None }
    }

    /// Returns the number of HTTP requests by status, and of QUIC streams by code, with CoreDNS's labels.
    pub fn replies(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.replies.counts()
    }

    pub(crate) fn kind(&self) -> ListenerKind {
        self.kind
    }

    /// Returns the current credentials.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.load_full()
    }

    /// Returns the current router.
    pub(crate) fn router(&self) -> Guard<Arc<Router>> {
        self.router.load()
    }

    /// Returns the current settings.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Counts the end of a request or stream with this status or code.
    pub(crate) fn count_reply(&self, end: u16) {
        self.replies.count(end);
    }

    /// Answers a packet with this router, which is the service's own. Every transport calls this function. `out` has
    /// [`crate::wire::MAX_MESSAGE`] bytes, or [`crate::wire::MAX_UDP`] for UDP.
    pub(crate) fn answer(&self, router: &Arc<Router>, packet: Packet<'_>, state: &mut State, out: &mut [u8]) -> Answer {
        let Packet { bytes, client, now, counters } = packet;
        self.recover(bytes, counters, state, out, |state, out| router.answer(bytes, client, now, state, out))
    }

    /// Answers a packet like [`Service::answer`]; the plugins may read the TLVs of its proxy.
    pub(crate) fn answer_proxied(
        &self, router: &Arc<Router>, packet: Packet<'_>, tlvs: Option<&Arc<Tlvs>>, state: &mut State, out: &mut [u8],
    ) -> Answer {
        let Some(tlvs) = tlvs else { return self.answer(router, packet, state, out) };
        self.answer_noted(router, packet, state, out, |state| state.notes.add(tlvs.clone()))
    }

    /// Answers a packet like [`Service::answer`]. `note` adds to the state what plugins may read about the client.
    pub(crate) fn answer_noted(
        &self, router: &Arc<Router>, packet: Packet<'_>, state: &mut State, out: &mut [u8],
        note: impl FnOnce(&mut State),
    ) -> Answer {
        let Packet { bytes, client, now, counters } = packet;
        self.recover(bytes, counters, state, out, |state, out| {
            router.answer_noted(bytes, client, now, state, out, note)
        })
    }

    /// Runs plugins for a query. If one panics, the response is SERVFAIL.
    pub(crate) fn recover(
        &self, packet: &[u8], counters: &Counters, state: &mut State, out: &mut [u8],
        run: impl FnOnce(&mut State, &mut [u8]) -> Answer,
    ) -> Answer {
        // Nothing that a panic left incomplete is used again: `state` is replaced, and `out` is written from its start.
        let answer = catch_unwind(AssertUnwindSafe(|| run(state, out)));
        answer.unwrap_or_else(|panic| {
            *state = State::default();
            Answer::Send(self.handle_panic(&*panic, counters, packet, out))
        })
    }

    /// Handles a plugin's panic with SERVFAIL, as CoreDNS's `Server.ServeDNS` does. Returns the length of the response.
    ///
    /// If the configuration does not recover from panics (*debug*), the process aborts, as with a panic in Go.
    pub(crate) fn handle_panic(
        &self, panic: &(dyn Any + Send), counters: &Counters, packet: &[u8], out: &mut [u8],
    ) -> usize {
        counters.panics.add(1);
        let what = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let recover = self.settings().recover;
        // The panic hook has logged the location.
        if LOGGED.is_due() || !recover {
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

/// Limits the log lines about panics.
static LOGGED: LogLimiter = LogLimiter::new();

/// A packet with what is needed to answer it.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) client: Client,
    pub(crate) now: Instant,
    /// The counters for a panic.
    pub(crate) counters: &'a Counters,
}

/// The settings of a listener, from its directives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The timeouts of TCP connections.
    pub timeouts: Timeouts,
    /// The maximum number of queries of a TCP connection, which is closed after that, so that the connections of
    /// clients are distributed over replicas. `None` is no limit (CoreDNS's −1).
    pub queries_per_connection: Option<NonZeroU32>,
    /// If a plugin panics, the response is SERVFAIL. Otherwise (*debug*) the process aborts.
    pub recover: bool,
    /// The maximum number of connections of a listener of HTTPS, QUIC, HTTP/3 or gRPC. Default: 200.
    pub connections: usize,
    /// The maximum number of open requests or streams of such a connection. `None` is the limit of the library.
    pub streams: Option<u32>,
    /// The maximum number of pending queries of a listener of QUIC.
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

/// The timeouts of TCP connections. The defaults are CoreDNS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the first query, and for the rest of a query after its first byte. Default: 3 s.
    pub read: Duration,
    /// For the client to read some of the responses. Default: 5 s.
    pub write: Duration,
    /// Between a response and the next query. Default: 10 s.
    pub idle: Duration,
}

impl Timeouts {
    /// The defaults.
    pub const DEFAULT: Timeouts =
        Timeouts { read: Duration::from_secs(3), write: Duration::from_secs(5), idle: Duration::from_secs(10) };
}
