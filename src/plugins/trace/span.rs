//! The spans of a query: of the query itself, of each plugin that gets it, and of each attempt at an upstream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::telemetry::wall_clock::since_1970;
use crate::upstream::{AttemptTap, TappedAttempt};

/// The most spans of a query. One has as many as there are plugins and attempts.
const MAX_SPANS: usize = 256;

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TraceSpan {
    pub(super) trace: u64,
    pub(super) id: u64,
    /// `None` for the span of a query.
    pub(super) parent: Option<u64>,
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
    pub(super) id: u64,
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
    /// Starts a trace. Without `is_recorded` it has an ID and no spans.
    pub(super) fn new(is_recorded: bool) -> QueryTrace {
        QueryTrace { id: new_id(), open: Mutex::new(is_recorded.then(Vec::new)) }
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
        let parent = spans.iter().rev().find(|span| span.end.is_none()).map_or(self.id, |span| span.id);
        spans.push(span(parent));
    }

    /// Ends the trace with the span of the query. Returns all spans, unless they are not recorded.
    pub(super) fn finish(&self, root: impl FnOnce(u64, Instant) -> TraceSpan) -> Option<Vec<TraceSpan>> {
        let spans = self.open.lock().take()?;
        let now = Instant::now();
        let inner = spans.into_iter().map(|span| TraceSpan {
            trace: self.id,
            id: span.id,
            parent: Some(span.parent),
            name: span.name,
            start: since_1970(span.start),
            duration: span.end.unwrap_or(now).saturating_duration_since(span.start),
            tags: span.peer.map(|peer| ("peer.address", peer.to_string())).into_iter().collect(),
            error: None,
        });
        // As in CoreDNS, the spans that end first are first.
        let mut all: Vec<TraceSpan> = inner.collect();
        all.reverse();
        all.push(root(self.id, now));
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
