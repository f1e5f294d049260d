//! One kind of objects, followed for ever.
//!
//! ```text
//!          ┌────────── list (streaming, else by pages) ◄────────────┐
//!          ▼                                                        │ expired, too large a version, an ERROR, broken,
//!        watch ── closed, silent ──► the same version, a bit later  │ an outage, closed again and again,
//!          └────────────────────────────────────────────────────────┘ or every half hour
//! ```
//!
//! A list is applied object by object into the live index, and what it did not name is gone at its end; nothing is held
//! twice, and nothing is missing for a moment. [`Schedule`] decides what comes next.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::core::params::{ListParams, WatchParams};
use kube::core::request::Request as Resource;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::Connection;
use super::decode::{self, Change, NotJson, Said};
use super::lines::{Lines, MAX_EVENT, MAX_LIST, MAX_PAGE};
use super::status::Status;
use crate::cluster::entry::{EndpointFields, Shape};
use crate::cluster::index::service_key;
use crate::cluster::model::{Key, Kind, Object};
use crate::cluster::{Event, Index, IndexWriter};
use crate::source::convert::Ignored;
use crate::source::watch::error::{Awaited, WatchError};
use crate::source::watch::schedule::{Ended, How, Next, Schedule, Style, Timing, Why};
use crate::source::{Selection, unix_seconds};

/// Pods that have run to their end have no names (CoreDNS sends the same selector).
const LIVE_PODS: &str = "status.phase!=Failed,status.phase!=Succeeded,status.phase!=Unknown";

/// Follows one kind.
pub struct Follower {
    /// Which.
    pub kind: Kind,
    /// Of which objects.
    pub selection: Selection,
    /// What of endpoints is kept.
    pub keep: EndpointFields,
    /// Where.
    pub connection: Arc<Connection>,
    /// What is known. The kinds of a selection share it; held for one object at a time.
    pub writer: Arc<Mutex<IndexWriter>>,
    /// Where it is read.
    pub index: Arc<Index>,
    /// What is told of it.
    pub status: Status,
    /// How long things may take.
    pub timing: Timing,
}

/// How far a session has got.
struct Progress {
    version: Option<String>,
    /// Why its list is made, if it begins with one.
    why: Why,
    answered: bool,
    /// When the watch began.
    since: Instant,
    events: bool,
}

impl Progress {
    /// The watch has come to this version. Within a watch they only grow; a store that was restored counts from an older
    /// one, and then what is known of the time after that one is not true any more.
    fn reach(&mut self, version: String) -> Result<(), WatchError> {
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
    /// Follows it until the task is ended.
    pub async fn run(self: Arc<Follower>) {
        let mut schedule = Schedule::new(self.timing);
        let mut next = Next::List(Why::Start);
        let mut due = Instant::now() + self.routine();
        loop {
            let style = matches!(next, Next::List(_)).then(|| schedule.style());
            if style.is_some() {
                due = Instant::now() + self.routine();
            }
            let (version, why) = match &next {
                Next::List(why) => (None, *why),
                Next::Watch(version) => (Some(version.clone()), Why::Start),
            };
            let mut progress = Progress { version, why, answered: false, since: Instant::now(), events: false };
            let how = match self.session(style, due, &mut progress).await {
                Ok(how) => how,
                Err(error) => {
                    self.status.failed(&error, self.connection.host());
                    How::WatchError(error)
                }
            };
            let Progress { version, answered, since, events, .. } = progress;
            let ended = Ended { version, listed: style, answered, lived: since.elapsed(), events, how };
            let lost = matches!(&ended.how, How::WatchError(error) if matches!(error.code(), None | Some(401)));
            let wait;
            (next, wait) = schedule.after(&next, &ended);
            match lost {
                true => self.connection.pause(wait, schedule.moment()).await,
                false => tokio::time::sleep(wait).await,
            }
        }
    }

    /// The time to the next list that only time demands.
    fn routine(&self) -> Duration {
        self.timing.relist.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// A list, if a style is given, and a watch.
    async fn session(&self, style: Option<Style>, due: Instant, progress: &mut Progress) -> Result<How, WatchError> {
        match style {
            Some(Style::Streaming) => return self.watch(true, due, progress).await,
            Some(style) => {
                progress.version = Some(self.pages(style, progress.why).await?);
                progress.since = Instant::now();
            }
            None => {}
        }
        self.watch(false, due, progress).await
    }

    /// A list by pages, or whole; the version that it is of.
    async fn pages(&self, style: Style, why: Why) -> Result<String, WatchError> {
        self.tell(Event::Begin(self.kind));
        let (mut first, mut token) = (None, None);
        let begun = Instant::now();
        loop {
            if begun.elapsed() > self.timing.pages {
                return Err(WatchError::Silence { what: Awaited::LastPage, limit: self.timing.pages });
            }
            let limit = (style == Style::Pages).then(|| page_size(self.kind));
            let whole = (style == Style::Whole).then(|| "0".to_owned());
            let params = ListParams {
                label_selector: self.labels(),
                field_selector: self.fields(),
                limit,
                continue_token: token.clone(),
                resource_version: whole,
                ..ListParams::default()
            };
            let request = self.resource().list(&params).map_err(|error| WatchError::Nonsense(error.to_string()))?;
            let (permit, waited) = self.connection.limiter.admit().await;
            let body = self.connection.get(request, Some(waited)).await?;
            let most = if limit.is_some() { MAX_PAGE } else { MAX_LIST };
            let body = Lines::new(body, most).all(self.timing.page).await?;
            self.status.seen();
            drop(permit);
            // A body that was cut is no JSON; so is half a page.
            let page = decode::page(self.kind, self.keep, &body, |change| self.change(change, None));
            let page = page.map_err(|NotJson(error)| WatchError::Nonsense(error))?;
            let version = first.get_or_insert(page.version);
            match page.next {
                Some(next) if token.as_ref() == Some(&next) => {
                    return Err(WatchError::Nonsense("a page that leads to itself".to_owned()));
                }
                Some(next) => token = Some(next),
                None => {
                    self.listed(why);
                    return Ok(std::mem::take(version));
                }
            }
            // A large page is work of some milliseconds: others want to go on, too.
            tokio::task::yield_now().await;
        }
    }

    /// A watch from the version of `progress` on, or with initial events, which are a full list.
    async fn watch(&self, mut initial: bool, due: Instant, progress: &mut Progress) -> Result<How, WatchError> {
        let (least, most) = self.timing.watch;
        let lasts = least + (most - least).mul_f64(fastrand::f64());
        let params = WatchParams {
            label_selector: self.labels(),
            field_selector: self.fields(),
            timeout: Some((lasts.as_secs() as u32).max(1)),
            bookmarks: true,
            send_initial_events: initial,
        };
        let version = progress.version.clone().unwrap_or_default();
        let request =
            self.resource().watch(&params, &version).map_err(|error| WatchError::Nonsense(error.to_string()))?;
        // A streaming list is under way until its end.
        let (mut permit, mut waited) = (None, None);
        if initial {
            let (admitted, after) = self.connection.limiter.admit().await;
            (permit, waited) = (admitted, Some(after));
        }
        progress.since = Instant::now();
        let body = self.connection.get(request, waited).await?;
        progress.answered = true;
        self.status.seen();
        if !initial {
            self.status.going_on();
        }
        if initial {
            self.tell(Event::Begin(self.kind));
        }
        let mut lines = Lines::new(body, MAX_EVENT);
        let since = Instant::now();
        loop {
            let limit = match initial {
                true if since.elapsed() > self.timing.initial_all => {
                    let limit = self.timing.initial_all;
                    return Err(WatchError::Silence { what: Awaited::InitialEventsEnd, limit });
                }
                true => self.timing.initial,
                false => lasts + self.timing.grace,
            };
            let line = tokio::select! {
                line = lines.next(limit) => line?,
                () = tokio::time::sleep_until(due), if !initial => return Ok(How::Due),
            };
            let Some(line) = line else {
                return if initial { Err(WatchError::Cut) } else { Ok(How::Closed) };
            };
            self.status.seen();
            if line.is_empty() {
                continue;
            }
            match decode::event(self.kind, self.keep, line).map_err(|NotJson(error)| WatchError::Nonsense(error))? {
                Said::Change { change, version } => {
                    self.change(change, (!initial).then(SystemTime::now));
                    progress.events = true;
                    if !initial && !version.is_empty() {
                        progress.reach(version)?;
                    }
                }
                Said::Bookmark { version, initial_events_end } => {
                    if !version.is_empty() && (!initial || initial_events_end) {
                        progress.reach(version)?;
                    }
                    if initial && initial_events_end {
                        initial = false;
                        drop(permit.take());
                        progress.since = Instant::now();
                        progress.events = false;
                        self.listed(progress.why);
                    }
                }
                Said::Refused(refusal) => return Err(WatchError::Refused(refusal)),
            }
        }
    }

    /// Applies one change. `live`: now, unless it is part of a list.
    fn change(&self, change: Change, live: Option<SystemTime>) {
        match change {
            Change::Upsert { object, last_change, ignored } => {
                self.ignored(object.key(), &ignored);
                let service = match &object {
                    Object::EndpointSlice(slice) if live.is_some() => service_key(&slice.key.ns, &slice.service),
                    _ => None,
                };
                self.tell(Event::Upsert(object));
                if let (Some(service), Some(now), Some(at)) = (service, live, last_change) {
                    self.programmed(&service, now, &at);
                }
            }
            Change::Retain(key, ignored) => {
                self.ignored(&key, &ignored);
                self.tell(Event::Retain(self.kind, key));
            }
            Change::Remove(key, ignored) => {
                self.ignored(&key, &ignored);
                self.tell(Event::Remove(self.kind, key));
            }
            Change::Bad { key, invalid } => {
                let name = key.as_ref().map_or("without a name".to_owned(), |key| match &*key.ns {
                    "" => key.name.to_string(),
                    ns => format!("{ns}/{}", key.name),
                });
                self.status.bad_object(|| {
                    format!("{} {name} cannot be read, and is as it was before: {invalid}", self.kind.name())
                });
                // Whatever it was before is nearer the truth than nothing at all.
                if let Some(key) = key {
                    self.tell(Event::Retain(self.kind, key));
                }
            }
        }
    }

    /// Counts and reports the values of an object that are passed over.
    fn ignored(&self, key: &Key, ignored: &Ignored) {
        let Some(first) = ignored.first().first() else { return };
        self.status.ignored(ignored.count(), || {
            let slash = if key.ns.is_empty() { "" } else { "/" };
            let (kind, name) = (self.kind.name(), &key.name);
            let more = match ignored.count() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more of its values)"),
            };
            format!("{kind} {}{slash}{name} is served without a value: {first}{more}", key.ns)
        });
    }

    /// A list is complete.
    fn listed(&self, why: Why) {
        self.tell(Event::End(self.kind));
        if why != Why::Start {
            self.status.relisted(why.text());
            tracing::debug!(plugin = "kubernetes", kind = self.kind.name(), reason = why.text(), "listed anew");
        }
        self.status.synced();
    }

    /// Tells the index.
    fn tell(&self, event: Event) {
        let mut writer = self.writer.lock();
        writer.apply(event, unix_seconds());
        self.status.objects(writer.count(self.kind));
    }

    /// Measures how long a change of endpoints took to reach the answers.
    fn programmed(&self, service: &[u8], now: SystemTime, at: &str) {
        let Ok(at) = at.parse::<k8s_openapi::jiff::Timestamp>() else { return };
        let entry = self.index.entry(service);
        // Only where its one Service is known, as in CoreDNS.
        let Some(service) = entry.and_then(|entry| entry.service.clone()) else { return };
        let since = now.duration_since(SystemTime::from(at)).unwrap_or_default();
        self.status.metrics().programmed(service.shape == Shape::Headless, since);
    }

    fn resource(&self) -> Resource {
        Resource::new(super::path(self.kind))
    }

    fn labels(&self) -> Option<String> {
        self.selection.selector(self.kind).map(ToString::to_string).filter(|text| !text.is_empty())
    }

    fn fields(&self) -> Option<String> {
        (self.kind == Kind::Pod).then(|| LIVE_PODS.to_owned())
    }
}

/// Objects on a page: some megabytes of JSON at most.
fn page_size(kind: Kind) -> u32 {
    match kind {
        Kind::Namespace | Kind::Service => 500,
        Kind::EndpointSlice | Kind::Pod => 100,
    }
}
