//! The spans of a query: of the query itself, of each plugin that gets it, and of each attempt at an upstream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::net::{ClientSpan, Sampling};
use crate::telemetry::wall_clock::since_1970;
use crate::upstream::{AttemptTap, TappedAttempt};

/// The name of the span of a query (CoreDNS `defaultTopLevelSpanName`).
const QUERY_SPAN: &str = "servedns";
/// The most spans of a query. One has as many as there are plugins and attempts.
const MAX_SPANS: usize = 256;

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TraceSpan {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    /// The span is that of the query.
    pub(super) is_query: bool,
    /// The client's span has the same ID.
    pub(super) is_shared: bool,
    /// The client wants the trace to be recorded, also by collectors that drop some traces.
    pub(super) is_debug: bool,
    pub(super) name: &'static str,
    /// The time since 1970.
    pub(super) start: Duration,
    pub(super) duration: Duration,
    pub(super) tags: Vec<(&'static str, String)>,
    /// The error of a query.
    pub(super) error: Option<String>,
}

/// The trace of a query, a note in its state.
pub(super) struct QueryTrace {
    pub(super) id: u128,
    /// The ID of the span of the query.
    query: u64,
    /// The ID of the span around it, which is the client's.
    parent: Option<u64>,
    is_shared: bool,
    is_debug: bool,
    /// The spans; `None` once the query has ended. Locked for a moment by each plugin, one after the other.
    open: Mutex<Option<Vec<OpenSpan>>>,
}

/// A span that may not have ended.
struct OpenSpan {
    id: u64,
    parent: u64,
    name: &'static str,
    start: Instant,
    end: Option<Instant>,
    /// The number of the plugin; `None` for an attempt.
    plugin: Option<usize>,
    peer: Option<SocketAddr>,
}

impl QueryTrace {
    /// Starts a trace, or continues that of a client. The span of the query is within the client's span, or the same
    /// span if `shares_spans`. Without `is_recorded` the trace has an ID and no spans.
    pub(super) fn new(is_recorded: bool, client: Option<&ClientSpan>, shares_spans: bool) -> QueryTrace {
        let client = client.copied().unwrap_or_default();
        let is_recorded = is_recorded && client.sampling != Sampling::No;
        let continues = client.trace != 0;
        let is_shared = continues && shares_spans;
        let query = if is_shared { client.span } else { new_id() };
        QueryTrace {
            // As in zipkin-go, the ID of a new trace is that of its first span.
            id: if continues { client.trace } else { query.into() },
            query,
            parent: if continues && !is_shared { Some(client.span) } else { client.parent },
            is_shared,
            is_debug: client.sampling == Sampling::Debug,
            open: Mutex::new(is_recorded.then(Vec::new)),
        }
    }

    /// Returns whether spans are recorded.
    pub(super) fn is_recorded(&self) -> bool {
        self.open.lock().is_some()
    }

    /// Begins the span of a plugin, within that of the plugin before it.
    pub(super) fn begin(&self, plugin: usize, name: &'static str) {
        self.push(|parent| OpenSpan {
            id: new_id(),
            parent,
            name,
            start: Instant::now(),
            end: None,
            plugin: Some(plugin),
            peer: None,
        });
    }

    /// Ends the span of a plugin.
    pub(super) fn end(&self, plugin: usize) {
        let mut open = self.open.lock();
        let Some(spans) = open.as_mut() else { return };
        if let Some(span) = spans.iter_mut().rev().find(|span| span.plugin == Some(plugin)) {
            span.end = Some(Instant::now());
        }
    }

    /// Adds the span of an attempt, within that of the last plugin that has not ended.
    fn add_attempt(&self, peer: SocketAddr, start: Instant, end: Instant) {
        self.push(|parent| OpenSpan {
            id: new_id(),
            parent,
            name: "connect",
            start,
            end: Some(end),
            plugin: None,
            peer: Some(peer),
        });
    }

    fn push(&self, span: impl FnOnce(u64) -> OpenSpan) {
        let mut open = self.open.lock();
        let Some(spans) = open.as_mut().filter(|spans| spans.len() < MAX_SPANS) else { return };
        let parent = spans.iter().rev().find(|span| span.end.is_none()).map_or(self.query, |span| span.id);
        spans.push(span(parent));
    }

    /// Ends the trace with the span of the query, which `describe` completes. Returns all spans, unless they are not
    /// recorded.
    pub(super) fn finish(&self, describe: impl FnOnce(&mut TraceSpan, Instant)) -> Option<Vec<TraceSpan>> {
        let spans = self.open.lock().take()?;
        let now = Instant::now();
        let inner = spans.into_iter().map(|span| TraceSpan {
            trace: self.id,
            id: span.id,
            parent: Some(span.parent),
            is_query: false,
            is_shared: false,
            is_debug: self.is_debug,
            name: span.name,
            start: since_1970(span.start),
            duration: span.end.unwrap_or(now).saturating_duration_since(span.start),
            tags: span.peer.map(|peer| ("peer.address", peer.to_string())).into_iter().collect(),
            error: None,
        });
        // As in CoreDNS, the spans that end first are first.
        let mut all: Vec<TraceSpan> = inner.collect();
        all.reverse();
        let mut query = TraceSpan {
            trace: self.id,
            id: self.query,
            parent: self.parent,
            is_query: true,
            is_shared: self.is_shared,
            is_debug: self.is_debug,
            name: QUERY_SPAN,
            start: Duration::ZERO,
            duration: Duration::ZERO,
            tags: Vec::new(),
            error: None,
        };
        describe(&mut query, now);
        all.push(query);
        Some(all)
    }
}

/// Adds the attempts of a query to its trace.
pub(super) struct TracedAttempts(pub(super) Arc<QueryTrace>);

impl AttemptTap for TracedAttempts {
    fn sent(&self, _attempt: &TappedAttempt<'_>, _query: &[u8]) {}

    fn ended(&self, attempt: &TappedAttempt<'_>, _response: Option<&[u8]>, now: Instant) {
        self.0.add_attempt(attempt.upstream.address, attempt.started, now);
    }
}

/// Returns a random ID, which is not 0.
fn new_id() -> u64 {
    fastrand::u64(1..)
}
