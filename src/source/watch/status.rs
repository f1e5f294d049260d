//! The status of a watch, and log lines about it at a limited rate.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::WatchError;
use super::metrics::{Metrics, WatchState};
use super::resource::resource;
use crate::cluster::model::Kind;

/// The reason of errors that all kinds share.
const CONNECTION: &str = "connection";
/// The reason of errors that a list does not resolve.
const BAD_OBJECT: &str = "bad object";
/// The interval of log lines about a persistent error.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The status of a kind of a selection.
#[derive(Debug)]
pub(super) struct WatchStatus {
    kind: Kind,
    metrics: Metrics,
    shared: Arc<WatchState>,
    log: Arc<ErrorLog>,
    created: Instant,
}

impl WatchStatus {
    /// Creates the status of a watch that starts.
    pub(super) fn new(kind: Kind, metrics: Metrics, log: Arc<ErrorLog>) -> WatchStatus {
        let shared = metrics.add_watch(kind);
        WatchStatus { kind, metrics, shared, log, created: Instant::now() }
    }

    /// Records that data arrived from the API server.
    pub(super) fn record_data(&self) {
        *self.shared.seen.lock() = Some(Instant::now());
    }

    /// Sets the number of known objects.
    pub(super) fn set_objects(&self, count: usize) {
        self.shared.objects.store(count as u64, Ordering::Relaxed);
    }

    /// Records that a list was completed.
    pub(super) fn record_list(&self) {
        self.shared.synced.store(true, Ordering::Relaxed);
        self.log.record_recovery(self.kind);
    }

    /// Records that a watch continues where the previous one ended.
    pub(super) fn record_resumed(&self) {
        self.log.record_recovery(self.kind);
    }

    /// Returns whether a list has been completed.
    pub(super) fn is_synced(&self) -> bool {
        self.shared.synced.load(Ordering::Relaxed)
    }

    /// Counts a list after the first one.
    pub(super) fn count_relist(&self, reason: &str) {
        self.metrics.relists.with_label_values(&[self.kind.name(), reason]).inc();
    }

    /// Records that a list or watch failed.
    pub(super) fn record_failure(&self, error: &WatchError, host: Option<String>) {
        self.metrics.errors.with_label_values(&[self.kind.name(), error.reason()]).inc();
        let age = self.shared.seen.lock().unwrap_or(self.created).elapsed();
        self.log.log_error(self.kind, error, host, self.is_synced().then_some(age));
    }

    /// Counts and logs an invalid object.
    pub(super) fn report_bad_object(&self, text: impl FnOnce() -> String) {
        self.metrics.bad_objects.with_label_values(&[self.kind.name()]).inc();
        self.log.log_bad_object(self.kind, text);
    }

    /// Counts and logs ignored values of an object.
    pub(super) fn report_ignored(&self, count: usize, text: impl FnOnce() -> String) {
        self.metrics.bad_values.with_label_values(&[self.kind.name()]).inc_by(count as u64);
        self.log.log_bad_object(self.kind, text);
    }

    /// Returns the metrics of all watches.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// The logged errors of an API server, so that a persistent error is logged once a minute.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    /// The errors: few, by kind and reason.
    errors: Mutex<Vec<LoggedError>>,
}

#[derive(Debug)]
struct LoggedError {
    /// The kind of the error, or `None` for the connection, which all kinds share.
    kind: Option<Kind>,
    reason: &'static str,
    /// The time of the last log line.
    logged: Instant,
    /// The kinds that have this error now.
    kinds: Vec<Kind>,
    /// The time since when kinds have had this error.
    since: Instant,
}

impl ErrorLog {
    /// Logs an error, unless it was logged within the last minute. `age` is that of the state that is served.
    fn log_error(&self, kind: Kind, error: &WatchError, host: Option<String>, age: Option<Duration>) {
        // An error status is about a resource; a broken connection or rejected credentials affect all resources.
        let (of, reason) = match error.code() {
            // The need for a list is not an error.
            Some(410 | 504) => return,
            Some(401) | None => (None, CONNECTION),
            Some(_) => (Some(kind), error.reason()),
        };
        if !self.is_due(of, reason, kind) {
            return;
        }
        let resource = resource(kind);
        let meanwhile = match age {
            Some(age) => format!("serving the last known state, {} s old", age.as_secs()),
            None => "queries for cluster names get SERVFAIL until a list is complete".to_owned(),
        };
        let host = host.as_deref().unwrap_or("the API server");
        match error {
            WatchError::Configuration(error) => {
                tracing::error!(plugin = "kubernetes", "{error}; {meanwhile}; retrying");
            }
            WatchError::Refused(refusal) if of.is_some() => {
                tracing::error!(plugin = "kubernetes", "{host}: {resource}: {refusal}; {meanwhile}; retrying");
            }
            WatchError::Refused(refusal) => {
                let text = format!("{host}: {refusal}: the token or certificate of this client is rejected");
                tracing::error!(plugin = "kubernetes", "{text}; {meanwhile}; retrying");
            }
            _ => tracing::warn!(plugin = "kubernetes", "{host}: {error}; {meanwhile}; retrying"),
        }
    }

    /// Logs an invalid object, unless one of its kind was logged within the last minute.
    fn log_bad_object(&self, kind: Kind, text: impl FnOnce() -> String) {
        if self.is_due(Some(kind), BAD_OBJECT, kind) {
            tracing::warn!(plugin = "kubernetes", "{}", text());
        }
    }

    /// Returns whether an error is to be logged now, and records it.
    fn is_due(&self, of: Option<Kind>, reason: &'static str, kind: Kind) -> bool {
        let (mut errors, now) = (self.errors.lock(), Instant::now());
        match errors.iter_mut().find(|error| error.kind == of && error.reason == reason) {
            Some(error) => {
                if error.kinds.is_empty() {
                    error.since = now;
                }
                if !error.kinds.contains(&kind) {
                    error.kinds.push(kind);
                }
                let is_due = now - error.logged >= LOG_INTERVAL;
                if is_due {
                    error.logged = now;
                }
                is_due
            }
            None => {
                errors.push(LoggedError { kind: of, reason, logged: now, kinds: vec![kind], since: now });
                true
            }
        }
    }

    /// Records that the errors of a kind are resolved. Logs this for logged errors, when the last kind that had the
    /// error has recovered.
    fn record_recovery(&self, kind: Kind) {
        for error in self.errors.lock().iter_mut().filter(|error| error.kinds.contains(&kind)) {
            error.kinds.retain(|&other| other != kind);
            if error.kinds.is_empty() && error.logged >= error.since && error.reason != BAD_OBJECT {
                let what = error.kind.map_or("all resources", resource);
                let seconds = error.since.elapsed().as_secs();
                tracing::info!(plugin = "kubernetes", "{what} synced again, {seconds} s after the first error");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_persistent_error_is_logged_once_a_minute_for_all_kinds() {
        let log = ErrorLog::default();
        let mut logged = 0;
        for second in 0..180 {
            let kind = Kind::ALL[second % 4];
            logged += usize::from(log.is_due(None, "connection", kind));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(logged, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_intermittent_error_is_logged_once_a_minute() {
        let log = ErrorLog::default();
        let mut logged = 0;
        for _ in 0..600 {
            logged += usize::from(log.is_due(Some(Kind::Pod), "410", Kind::Pod));
            log.record_recovery(Kind::Pod);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(logged, 1);
        assert!(log.is_due(Some(Kind::Service), "410", Kind::Service), "another resource is another error");
        assert_eq!(log.errors.lock().len(), 2);
    }
}
