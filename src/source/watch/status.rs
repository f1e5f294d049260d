//! Where a watch stands, and log lines about it that do not flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::WatchError;
use super::metrics::Metrics;
use crate::cluster::model::Kind;

/// The cause that all kinds share.
const CONNECTION: &str = "connection";
/// The cause of a complaint that no list ends.
const BAD_OBJECT: &str = "bad object";
/// A lasting error is told of this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Where one kind of one selection stands.
#[derive(Debug)]
pub struct Status {
    kind: Kind,
    metrics: Metrics,
    shared: Arc<Shared>,
    log: Arc<Complaints>,
    born: Instant,
}

/// What a scrape reads.
#[derive(Debug, Default)]
pub struct Shared {
    /// A list has been complete.
    pub synced: AtomicBool,
    /// When the API server was last heard of; `None` before. Written for each piece of a body, read by a scrape.
    pub seen: Mutex<Option<Instant>>,
    /// How many objects are known.
    pub objects: AtomicU64,
}

impl Status {
    /// Of something that has just begun.
    pub fn new(kind: Kind, metrics: Metrics, shared: Arc<Shared>, log: Arc<Complaints>) -> Status {
        Status { kind, metrics, shared, log, born: Instant::now() }
    }

    /// Something came from the API server.
    pub fn seen(&self) {
        *self.shared.seen.lock() = Some(Instant::now());
    }

    /// So many objects are known.
    pub fn objects(&self, count: usize) {
        self.shared.objects.store(count as u64, Ordering::Relaxed);
    }

    /// A list is complete.
    pub fn synced(&self) {
        self.shared.synced.store(true, Ordering::Relaxed);
        self.log.ended(self.kind);
    }

    /// A watch goes on from where one ended.
    pub fn going_on(&self) {
        self.log.ended(self.kind);
    }

    /// Whether a list has been complete.
    pub fn is_synced(&self) -> bool {
        self.shared.synced.load(Ordering::Relaxed)
    }

    /// A list is complete that was not the first.
    pub fn relisted(&self, reason: &str) {
        self.metrics.relists.with_label_values(&[self.kind.name(), reason]).inc();
    }

    /// A list or watch has failed.
    pub fn failed(&self, error: &WatchError, host: Option<String>) {
        self.metrics.errors.with_label_values(&[self.kind.name(), error.reason()]).inc();
        let age = self.shared.seen.lock().unwrap_or(self.born).elapsed();
        self.log.error(self.kind, error, host, self.is_synced().then_some(age));
    }

    /// An object could not be read.
    pub fn bad_object(&self, text: impl FnOnce() -> String) {
        self.metrics.bad_objects.with_label_values(&[self.kind.name()]).inc();
        self.log.bad_object(self.kind, text);
    }

    /// So many values of an object are passed over.
    pub fn ignored(&self, count: usize, text: impl FnOnce() -> String) {
        self.metrics.bad_values.with_label_values(&[self.kind.name()]).inc_by(count as u64);
        self.log.bad_object(self.kind, text);
    }

    /// The metrics of all.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// What has been told of, so that a lasting error is one line a minute. Shared by all that one API server is asked for.
#[derive(Debug, Default)]
pub struct Complaints {
    /// Short: kinds times causes.
    told: Mutex<Vec<Told>>,
}

#[derive(Debug)]
struct Told {
    /// What it is about; `None` where it concerns the connection, which all kinds share.
    kind: Option<Kind>,
    reason: &'static str,
    /// When it was told of last.
    at: Instant,
    /// The kinds that have this error now.
    kinds: Vec<Kind>,
    /// Since when there have been such.
    since: Instant,
}

impl Complaints {
    /// Tells of a error, if it has not been told of within the last minute. `age`: of the state that is served on.
    fn error(&self, kind: Kind, error: &WatchError, host: Option<String>, age: Option<Duration>) {
        // A refusal is about a resource; a broken connection, or a client that is not known, is the same for all of them.
        let (of, reason) = match error.code() {
            // That a list has become necessary is nobody's fault.
            Some(410 | 504) => return,
            Some(401) | None => (None, CONNECTION),
            Some(_) => (Some(kind), error.reason()),
        };
        if !self.due(of, reason, kind) {
            return;
        }
        let resource = super::resource(kind);
        let meanwhile = match age {
            Some(age) => format!("serving the last known state, {} s old", age.as_secs()),
            None => "cluster names are SERVFAIL until a list is complete".to_owned(),
        };
        let host = host.as_deref().unwrap_or("the API server");
        match error {
            WatchError::Configuration(error) => {
                tracing::error!(plugin = "kubernetes", "{error}; {meanwhile}; trying again");
            }
            WatchError::Refused(refusal) if of.is_some() => {
                tracing::error!(plugin = "kubernetes", "{host}: {resource}: {refusal}; {meanwhile}; trying again");
            }
            WatchError::Refused(refusal) => {
                let text = format!("{host}: {refusal}: it does not know this client's token or certificate");
                tracing::error!(plugin = "kubernetes", "{text}; {meanwhile}; trying again");
            }
            _ => tracing::warn!(plugin = "kubernetes", "{host}: {error}; {meanwhile}; trying again"),
        }
    }

    /// Tells of an object that is of no use, unless one of its kind has been told of within the last minute.
    fn bad_object(&self, kind: Kind, text: impl FnOnce() -> String) {
        if self.due(Some(kind), BAD_OBJECT, kind) {
            tracing::warn!(plugin = "kubernetes", "{}", text());
        }
    }

    /// Whether it is time to tell.
    fn due(&self, of: Option<Kind>, reason: &'static str, kind: Kind) -> bool {
        let (mut told, now) = (self.told.lock(), Instant::now());
        match told.iter_mut().find(|told| told.kind == of && told.reason == reason) {
            Some(told) => {
                if told.kinds.is_empty() {
                    told.since = now;
                }
                if !told.kinds.contains(&kind) {
                    told.kinds.push(kind);
                }
                let due = now - told.at >= TOLD_EVERY;
                if due {
                    told.at = now;
                }
                due
            }
            None => {
                told.push(Told { kind: of, reason, at: now, kinds: vec![kind], since: now });
                true
            }
        }
    }

    /// A kind goes on: what troubled it has ended. Said of what was told of, by the last of those that share it.
    fn ended(&self, kind: Kind) {
        for told in self.told.lock().iter_mut().filter(|told| told.kinds.contains(&kind)) {
            told.kinds.retain(|&other| other != kind);
            if told.kinds.is_empty() && told.at >= told.since && told.reason != BAD_OBJECT {
                let what = told.kind.map_or("all resources", super::resource);
                let seconds = told.since.elapsed().as_secs();
                tracing::info!(plugin = "kubernetes", "{what} in step again, {seconds} s after the first error");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lasting_trouble_is_told_of_once_a_minute_whichever_kind_has_it() {
        let log = Complaints::default();
        let mut told = 0;
        for second in 0..180 {
            let kind = Kind::ALL[second % 4];
            told += usize::from(log.due(None, "connection", kind));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_comes_and_goes_is_told_of_no_more_often() {
        let log = Complaints::default();
        let mut told = 0;
        for _ in 0..600 {
            told += usize::from(log.due(Some(Kind::Pod), "410", Kind::Pod));
            log.ended(Kind::Pod);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(told, 1);
        assert!(log.due(Some(Kind::Service), "410", Kind::Service), "another resource is another error");
        assert_eq!(log.told.lock().len(), 2);
    }
}
