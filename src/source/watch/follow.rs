//! Follows a kind of objects: lists and watches it in a loop.
//!
//! ```text
//!          ┌────────── list (streaming, else by pages) ◄────────────┐
//!          ▼                                                        │ expired, unknown version, an ERROR, an outage,
//!        watch ── closed, timeout ──► resume at the same version    │ closed several times,
//!          └────────────────────────────────────────────────────────┘ or every half hour
//! ```
//!
//! A list is applied object by object to the live index, and objects that it did not contain are removed at its end: no
//! state is duplicated, and no object is missing temporarily. [`Schedule`] decides the next step.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::core::params::{ListParams, WatchParams};
use kube::core::request::Request as Resource;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::ApiConnection;
use super::decode::{self, DecodeError, ObjectChange, WatchEvent};
use super::lines::{Lines, MAX_EVENT, MAX_LIST, MAX_PAGE};
use super::resource::path;
use super::status::WatchStatus;
use crate::cluster::entry::{EndpointFields, Shape};
use crate::cluster::index::service_key;
use crate::cluster::model::{Kind, Object, ObjectKey};
use crate::cluster::{Event, Index, IndexWriter};
use crate::source::convert::Ignored;
use crate::source::watch::error::{WaitTarget, WatchError};
use crate::source::watch::schedule::{ListReason, ListStyle, Schedule, SessionResult, Timing, WatchEnd, WatchStep};
use crate::source::{Selection, unix_seconds};

/// The field selector for Pods: finished Pods have no names (CoreDNS sends the same selector).
const LIVE_PODS: &str = "status.phase!=Failed,status.phase!=Succeeded,status.phase!=Unknown";

/// Follows a kind of a selection.
pub(super) struct Follower {
    /// The kind.
    pub kind: Kind,
    /// The selected objects.
    pub selection: Selection,
    /// The fields of endpoints to convert.
    pub endpoint_fields: EndpointFields,
    /// The connection to the API server.
    pub connection: Arc<ApiConnection>,
    /// The writer of the index. The kinds of a selection share it; locked for one object at a time.
    pub writer: Arc<Mutex<IndexWriter>>,
    /// The read side of the index.
    pub index: Arc<Index>,
    /// The status of the watch.
    pub status: WatchStatus,
    /// The timeouts and delays.
    pub timing: Timing,
}

/// The progress of a session.
struct SessionProgress {
    version: Option<String>,
    /// The reason for its list, if it starts with one.
    reason: ListReason,
    answered: bool,
    /// The start of the watch.
    since: Instant,
    events: bool,
}

impl SessionProgress {
    /// Advances to a resource version. Within a watch, versions only grow; a restored store continues from an older
    /// version, and then the state after that version is no longer valid.
    fn advance(&mut self, version: String) -> Result<(), WatchError> {
        let number = |version: &str| version.parse::<u64>().ok();
        if let (Some(old), Some(new)) = (self.version.as_deref().and_then(number), number(&version))
            && new < old
        {
            return Err(WatchError::Backwards { old, new });
        }
        self.version = Some(version);
        Ok(())
    }
}

impl Follower {
    /// Follows the kind until the task is aborted.
    pub(super) async fn run(self: Arc<Follower>) {
        let mut schedule = Schedule::new(self.timing);
        let mut next = WatchStep::List(ListReason::Start);
        let mut due = Instant::now() + self.relist_interval();
        loop {
            let style = matches!(next, WatchStep::List(_)).then(|| schedule.style());
            if style.is_some() {
                due = Instant::now() + self.relist_interval();
            }
            let (version, reason) = match &next {
                WatchStep::List(reason) => (None, *reason),
                WatchStep::Watch(version) => (Some(version.clone()), ListReason::Start),
            };
            let mut progress =
                SessionProgress { version, reason, answered: false, since: Instant::now(), events: false };
            let end = match self.run_session(style, due, &mut progress).await {
                Ok(end) => end,
                Err(error) => {
                    self.status.record_failure(&error, self.connection.host());
                    WatchEnd::Failed(error)
                }
            };
            let SessionProgress { version, answered, since, events, .. } = progress;
            let result = SessionResult { version, listed: style, answered, duration: since.elapsed(), events, end };
            let connection_failed =
                matches!(&result.end, WatchEnd::Failed(error) if matches!(error.code(), None | Some(401)));
            let wait;
            (next, wait) = schedule.next_step(&next, &result);
            if connection_failed {
                self.connection.wait_for_recovery(wait, schedule.jitter()).await;
            } else {
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// Returns the time until the next routine list.
    fn relist_interval(&self) -> Duration {
        self.timing.relist.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// Runs a list, if a style is given, and a watch.
    async fn run_session(
        &self, style: Option<ListStyle>, due: Instant, progress: &mut SessionProgress,
    ) -> Result<WatchEnd, WatchError> {
        match style {
            Some(ListStyle::Streaming) => return self.run_watch(true, due, progress).await,
            Some(style) => {
                progress.version = Some(self.list(style, progress.reason).await?);
                progress.since = Instant::now();
            }
            None => {}
        }
        self.run_watch(false, due, progress).await
    }

    /// Lists by pages or as a whole, and returns the resource version of the list.
    async fn list(&self, style: ListStyle, reason: ListReason) -> Result<String, WatchError> {
        self.apply(Event::Begin(self.kind));
        let (mut first, mut token) = (None, None);
        let begun = Instant::now();
        loop {
            if begun.elapsed() > self.timing.pages {
                return Err(WatchError::Timeout { waiting_for: WaitTarget::LastPage, limit: self.timing.pages });
            }
            let limit = (style == ListStyle::Pages).then(|| page_size(self.kind));
            let whole = (style == ListStyle::Whole).then(|| "0".to_owned());
            let params = ListParams {
                label_selector: self.label_selector(),
                field_selector: self.field_selector(),
                limit,
                continue_token: token.clone(),
                resource_version: whole,
                ..ListParams::default()
            };
            let request =
                self.resource().list(&params).map_err(|error| WatchError::InvalidResponse(error.to_string()))?;
            let (permit, waited) = self.connection.limiter.admit().await;
            let body = self.connection.get(request, Some(waited)).await?;
            let most = if limit.is_some() { MAX_PAGE } else { MAX_LIST };
            let body = Lines::new(body, most).read_all(self.timing.page).await?;
            self.status.record_data();
            drop(permit);
            // A truncated body is not valid JSON, nor is half a page.
            let page =
                decode::decode_page(self.kind, self.endpoint_fields, &body, |change| self.apply_change(change, None));
            let page = page.map_err(|DecodeError(error)| WatchError::InvalidResponse(error))?;
            let version = first.get_or_insert(page.version);
            match page.next {
                Some(next) if token.as_ref() == Some(&next) => {
                    return Err(WatchError::InvalidResponse("the continue token of a page is repeated".to_owned()));
                }
                Some(next) => token = Some(next),
                None => {
                    self.complete_list(reason);
                    return Ok(std::mem::take(version));
                }
            }
            // A large page takes some milliseconds: let other tasks run.
            tokio::task::yield_now().await;
        }
    }

    /// Watches from the version of `progress` on, or with initial events, which are a complete list.
    async fn run_watch(
        &self, mut is_initial: bool, due: Instant, progress: &mut SessionProgress,
    ) -> Result<WatchEnd, WatchError> {
        let (least, most) = self.timing.watch;
        let lasts = least + (most - least).mul_f64(fastrand::f64());
        let params = WatchParams {
            label_selector: self.label_selector(),
            field_selector: self.field_selector(),
            timeout: Some((lasts.as_secs() as u32).max(1)),
            bookmarks: true,
            send_initial_events: is_initial,
        };
        let version = progress.version.clone().unwrap_or_default();
        let request =
            self.resource().watch(&params, &version).map_err(|error| WatchError::InvalidResponse(error.to_string()))?;
        // A streaming list counts as in flight until its end.
        let (mut permit, mut waited) = (None, None);
        if is_initial {
            let (admitted, after) = self.connection.limiter.admit().await;
            (permit, waited) = (admitted, Some(after));
        }
        progress.since = Instant::now();
        let body = self.connection.get(request, waited).await?;
        progress.answered = true;
        self.status.record_data();
        if !is_initial {
            self.status.record_resumed();
        }
        if is_initial {
            self.apply(Event::Begin(self.kind));
        }
        let mut lines = Lines::new(body, MAX_EVENT);
        let since = Instant::now();
        loop {
            let limit = if !is_initial {
                lasts + self.timing.grace
            } else if since.elapsed() <= self.timing.initial_all {
                self.timing.initial
            } else {
                let limit = self.timing.initial_all;
                return Err(WatchError::Timeout { waiting_for: WaitTarget::InitialEventsEnd, limit });
            };
            let line = tokio::select! {
                line = lines.next_line(limit) => line?,
                () = tokio::time::sleep_until(due), if !is_initial => return Ok(WatchEnd::RelistDue),
            };
            let Some(line) = line else {
                return if is_initial { Err(WatchError::Truncated) } else { Ok(WatchEnd::Closed) };
            };
            self.status.record_data();
            if line.is_empty() {
                continue;
            }
            match decode::decode_event(self.kind, self.endpoint_fields, line)
                .map_err(|DecodeError(error)| WatchError::InvalidResponse(error))?
            {
                WatchEvent::Change { change, version } => {
                    self.apply_change(change, (!is_initial).then(SystemTime::now));
                    progress.events = true;
                    if !is_initial && !version.is_empty() {
                        progress.advance(version)?;
                    }
                }
                WatchEvent::Bookmark { version, initial_events_end } => {
                    if !version.is_empty() && (!is_initial || initial_events_end) {
                        progress.advance(version)?;
                    }
                    if is_initial && initial_events_end {
                        is_initial = false;
                        drop(permit.take());
                        progress.since = Instant::now();
                        progress.events = false;
                        self.complete_list(progress.reason);
                    }
                }
                WatchEvent::Refused(refusal) => return Err(WatchError::Refused(refusal)),
            }
        }
    }

    /// Applies a change. `live` is the current time, unless the change is part of a list.
    fn apply_change(&self, change: ObjectChange, live: Option<SystemTime>) {
        match change {
            ObjectChange::Upsert { object, last_change, ignored } => {
                self.report_ignored(object.key(), &ignored);
                let service = match &object {
                    Object::EndpointSlice(slice) if live.is_some() => service_key(&slice.key.ns, &slice.service),
                    _ => None,
                };
                self.apply(Event::Upsert(object));
                if let (Some(service), Some(now), Some(at)) = (service, live, last_change) {
                    self.observe_programming(&service, now, &at);
                }
            }
            ObjectChange::Terminate(key, ignored) => {
                self.report_ignored(&key, &ignored);
                self.apply(Event::Terminate(key));
            }
            ObjectChange::Remove(key, ignored) => {
                self.report_ignored(&key, &ignored);
                self.apply(Event::Remove(self.kind, key));
            }
            ObjectChange::Bad { key, invalid } => {
                let name = key.as_ref().map_or("without a name".to_owned(), |key| match &*key.ns {
                    "" => key.name.to_string(),
                    ns => format!("{ns}/{}", key.name),
                });
                self.status.report_bad_object(|| {
                    format!("{} {name} is invalid, and its last known state is served: {invalid}", self.kind.name())
                });
                // The last known state is closer to the truth than none.
                if let Some(key) = key {
                    self.apply(Event::Retain(self.kind, key));
                }
            }
        }
    }

    /// Counts and logs the ignored values of an object.
    fn report_ignored(&self, key: &ObjectKey, ignored: &Ignored) {
        let Some(first) = ignored.first().first() else { return };
        self.status.report_ignored(ignored.count(), || {
            let slash = if key.ns.is_empty() { "" } else { "/" };
            let (kind, name) = (self.kind.name(), &key.name);
            let more = match ignored.count() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more values)"),
            };
            format!("{kind} {}{slash}{name}: {first}; the value is ignored{more}", key.ns)
        });
    }

    /// Completes a list.
    fn complete_list(&self, reason: ListReason) {
        self.apply(Event::End(self.kind));
        if reason != ListReason::Start {
            self.status.count_relist(reason.text());
            tracing::debug!(plugin = "kubernetes", kind = self.kind.name(), reason = reason.text(), "listed again");
        }
        self.status.record_list();
    }

    /// Applies an event to the index.
    fn apply(&self, event: Event) {
        let mut writer = self.writer.lock();
        writer.apply(event, unix_seconds());
        self.status.set_objects(writer.count(self.kind));
    }

    /// Records the time that a change of endpoints took to reach the answers.
    fn observe_programming(&self, service: &[u8], now: SystemTime, at: &str) {
        let Ok(at) = at.parse::<k8s_openapi::jiff::Timestamp>() else { return };
        let entry = self.index.entry(service);
        // Only if the Service is known, as in CoreDNS.
        let Some(service) = entry.and_then(|entry| entry.service.clone()) else { return };
        let since = now.duration_since(SystemTime::from(at)).unwrap_or_default();
        self.status.metrics().observe_programming(service.shape == Shape::Headless, since);
    }

    fn resource(&self) -> Resource {
        Resource::new(path(self.kind))
    }

    fn label_selector(&self) -> Option<String> {
        self.selection.selector(self.kind).map(ToString::to_string).filter(|text| !text.is_empty())
    }

    fn field_selector(&self) -> Option<String> {
        (self.kind == Kind::Pod).then(|| LIVE_PODS.to_owned())
    }
}

/// Returns the number of objects of a page: some megabytes of JSON at most.
fn page_size(kind: Kind) -> u32 {
    match kind {
        Kind::Namespace | Kind::Service => 500,
        Kind::EndpointSlice | Kind::Pod => 100,
    }
}
