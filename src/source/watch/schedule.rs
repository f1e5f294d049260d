//! Decides the next step of a watch: a list or a watch, and the delay before it. Has neither a clock nor a connection.

use std::time::Duration;

use crate::source::watch::backoff::{Backoff, BackoffConfig};
use crate::source::watch::error::{WaitTarget, WatchError};

/// Timeouts and delays, which tests shorten.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The delays after errors.
    pub backoff: BackoffConfig,
    /// The range of the duration of a watch. It is below the 240 s after which load balancers drop idle flows.
    pub watch: (Duration, Duration),
    /// The additional time without an event before a watch times out.
    pub grace: Duration,
    /// The timeout of a page of a list.
    pub page: Duration,
    /// The timeout of all pages of a list, which limits lists without an end.
    pub pages: Duration,
    /// The timeout of each of the initial events of a streaming list; after it, pages are requested.
    pub initial: Duration,
    /// The timeout of all initial events.
    pub initial_all: Duration,
    /// The duration below which a watch that ended without an event counts as failed.
    pub brief: Duration,
    /// The interval of routine lists, varied by a fifth.
    pub relist: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let seconds = Duration::from_secs;
        Timing {
            backoff: BackoffConfig::default(),
            watch: (seconds(200), seconds(230)),
            grace: seconds(10),
            page: seconds(30),
            pages: seconds(10 * 60),
            initial: seconds(10),
            initial_all: seconds(60),
            brief: seconds(1),
            relist: seconds(30 * 60),
        }
    }
}

/// The reason for a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListReason {
    /// Nothing is known yet.
    Start,
    /// The requested resource version has expired (410).
    Expired,
    /// The API server does not know that resource version yet (504): its store may have been restored.
    TooLarge,
    /// An ERROR event, an error status of the watch, or an invalid response.
    Refused,
    /// The connection broke or there was none: the API server may have returned with another store.
    Outage,
    /// Watches ended at once several times.
    Closed,
    /// The resource versions of a watch went back: the store was restored.
    Backwards,
    /// The interval of routine lists has passed.
    Routine,
}

impl ListReason {
    /// Returns the label in metrics.
    pub(super) fn text(self) -> &'static str {
        match self {
            ListReason::Start => "start",
            ListReason::Expired => "expired",
            ListReason::TooLarge => "version_too_large",
            ListReason::Refused => "refused",
            ListReason::Outage => "outage",
            ListReason::Closed => "closed",
            ListReason::Backwards => "backwards",
            ListReason::Routine => "routine",
        }
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WatchStep {
    /// A complete list, then a watch.
    List(ListReason),
    /// A watch from this version on.
    Watch(String),
}

/// The way a complete list is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListStyle {
    /// As the first events of a watch, object by object.
    Streaming,
    /// Page by page.
    Pages,
    /// At once, from the cache of the API server: for lists whose pages expire faster than they can be read.
    Whole,
}

/// The result of a list and watch.
#[derive(Debug)]
pub(super) struct SessionResult {
    /// The resource version that was reached, or `None` if the list was not completed.
    pub version: Option<String>,
    /// The style of the list, if there was one.
    pub listed: Option<ListStyle>,
    /// Whether the watch got a response, so that there was a connection.
    pub answered: bool,
    /// The duration of the watch.
    pub duration: Duration,
    /// Whether the watch received an event.
    pub events: bool,
    /// How the watch ended.
    pub end: WatchEnd,
}

/// How a watch ended.
#[derive(Debug)]
pub(super) enum WatchEnd {
    /// The API server closed it.
    Closed,
    /// A routine list is due.
    RelistDue,
    /// It failed.
    Failed(WatchError),
}

/// Decides the next steps.
#[derive(Debug)]
pub(super) struct Schedule {
    backoff: Backoff,
    timing: Timing,
    style: ListStyle,
    /// The number of consecutive failed lists in this style.
    failed_lists: u32,
    /// The number of consecutive lists whose pages expired.
    expired_pages: u32,
    /// The resource version of a watch that was stopped for a routine list, to resume from if the list fails.
    resume_version: Option<String>,
    /// The number of consecutive watches that ended at once without an event.
    brief_watches: u32,
}

impl Schedule {
    /// Creates a schedule that starts with a streaming list.
    pub(super) fn new(timing: Timing) -> Schedule {
        Schedule {
            backoff: Backoff::new(timing.backoff),
            timing,
            style: ListStyle::Streaming,
            failed_lists: 0,
            expired_pages: 0,
            resume_version: None,
            brief_watches: 0,
        }
    }

    /// Returns a short random delay.
    pub(super) fn jitter(&self) -> Duration {
        self.backoff.jitter()
    }

    /// Returns the style of the next list.
    pub(super) fn style(&self) -> ListStyle {
        self.style
    }

    /// Returns the step after `result`, and the delay before it.
    pub(super) fn next_step(&mut self, step: &WatchStep, result: &SessionResult) -> (WatchStep, Duration) {
        match &result.version {
            None => {
                let reason = if let WatchStep::List(reason) = step { *reason } else { ListReason::Refused };
                let wait = self.delay_after_list(result);
                // A watch that worked is not abandoned because a routine list failed.
                match self.resume_version.take().filter(|_| reason == ListReason::Routine) {
                    Some(version) => (WatchStep::Watch(version), wait),
                    None => (WatchStep::List(reason), wait),
                }
            }
            Some(version) => {
                if result.listed.is_some() {
                    (self.failed_lists, self.expired_pages, self.resume_version) = (0, 0, None);
                }
                self.backoff.record_healthy(result.duration);
                self.step_after_watch(version, result)
            }
        }
    }

    fn set_style(&mut self, style: ListStyle) {
        (self.style, self.failed_lists) = (style, 0);
    }

    /// Chooses the style of the next list, and returns the delay before it.
    fn delay_after_list(&mut self, result: &SessionResult) -> Duration {
        let WatchEnd::Failed(error) = &result.end else { return self.backoff.next_delay(None) };
        self.failed_lists += 1;
        // A missing connection is seldom a matter of style.
        let no_connection =
            matches!(error, WatchError::Connection(_) | WatchError::Configuration(_)) && !result.answered;
        let max_failures = if no_connection { 6 } else { 2 };
        match (result.listed.unwrap_or(self.style), error) {
            // Servers before 1.32 reject streaming lists, very old ones never end the initial events; a role may allow
            // `list` and not `watch`. An error of pages is then more precise, if there is one.
            (ListStyle::Streaming, WatchError::Refused(refusal))
                if (400..500).contains(&refusal.code) && !matches!(refusal.code, 401 | 429) =>
            {
                self.set_style(ListStyle::Pages);
                self.backoff.jitter()
            }
            (
                ListStyle::Streaming,
                WatchError::Timeout { waiting_for: WaitTarget::Event | WaitTarget::InitialEventsEnd, .. },
            ) => {
                self.set_style(ListStyle::Pages);
                self.backoff.jitter()
            }
            (ListStyle::Pages, WatchError::Refused(refusal)) if refusal.code == 410 => {
                self.expired_pages += 1;
                if self.expired_pages >= 3 {
                    self.set_style(ListStyle::Whole);
                }
                self.backoff.next_delay(None)
            }
            // The error may be specific to this style.
            (style, _) if self.failed_lists >= max_failures => {
                self.set_style(if style == ListStyle::Streaming { ListStyle::Pages } else { ListStyle::Streaming });
                self.expired_pages = 0;
                self.delay_after(error)
            }
            _ => self.delay_after(error),
        }
    }

    /// Returns the step after a watch that had a version.
    fn step_after_watch(&mut self, version: &str, result: &SessionResult) -> (WatchStep, Duration) {
        let again = || WatchStep::Watch(version.to_owned());
        if result.duration >= self.timing.brief || result.events {
            self.brief_watches = 0;
        }
        match &result.end {
            WatchEnd::RelistDue => {
                // The API server may support streaming lists by now.
                self.set_style(ListStyle::Streaming);
                self.resume_version = Some(version.to_owned());
                (WatchStep::List(ListReason::Routine), Duration::ZERO)
            }
            WatchEnd::Closed if result.duration + self.timing.grace >= self.timing.watch.0 => (again(), Duration::ZERO),
            // Closed early: the API server is stopping, and all its watches with it; or a proxy limits the duration of
            // requests. The watch worked, so the delay only separates the replicas.
            WatchEnd::Closed if result.duration >= self.timing.brief || result.events => {
                (again(), self.backoff.jitter())
            }
            WatchEnd::Closed => {
                self.brief_watches += 1;
                if self.brief_watches < 3 {
                    return (again(), self.backoff.next_delay(None));
                }
                self.brief_watches = 0;
                (WatchStep::List(ListReason::Closed), self.backoff.next_delay(None))
            }
            WatchEnd::Failed(error) => {
                let wait = self.delay_after(error);
                let next = match error.code() {
                    Some(410) => WatchStep::List(ListReason::Expired),
                    Some(504) => WatchStep::List(ListReason::TooLarge),
                    // These errors are unrelated to the version.
                    Some(401 | 429) => again(),
                    // The API server is stopping or restarting.
                    Some(502 | 503) => WatchStep::List(ListReason::Outage),
                    Some(_) => WatchStep::List(ListReason::Refused),
                    // A known object may not exist after an outage: a restored store continues from an older version,
                    // and a watch from a version of its future is accepted and receives no events.
                    None if !result.answered || matches!(error, WatchError::Connection(_)) => {
                        WatchStep::List(ListReason::Outage)
                    }
                    None if matches!(error, WatchError::Backwards { .. }) => WatchStep::List(ListReason::Backwards),
                    // The error may be the same for this version every time.
                    None if matches!(error, WatchError::InvalidResponse(_) | WatchError::TooLong(_)) => {
                        WatchStep::List(ListReason::Refused)
                    }
                    None => again(),
                };
                (next, wait)
            }
        }
    }

    fn delay_after(&mut self, error: &WatchError) -> Duration {
        match error.code() {
            // Rejected credentials are treated like a missing connection: the token may be renewed at any moment.
            Some(401) | None => self.backoff.next_reconnect_delay(),
            _ => self.backoff.next_delay(error.retry_after()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::watch::error::Refusal;

    fn refused(code: u16) -> WatchEnd {
        WatchEnd::Failed(WatchError::Refused(Refusal { code, message: String::new(), retry_after: None }))
    }

    fn broken() -> WatchEnd {
        WatchEnd::Failed(WatchError::Connection("reset".into()))
    }

    fn result(listed: Option<ListStyle>, version: Option<&str>, duration: u64, end: WatchEnd) -> SessionResult {
        let version = version.map(str::to_owned);
        SessionResult { version, listed, answered: true, duration: Duration::from_secs(duration), events: false, end }
    }

    fn watch_result(duration: u64, end: WatchEnd) -> SessionResult {
        result(None, Some("7"), duration, end)
    }

    fn schedule() -> Schedule {
        Schedule::new(Timing::default())
    }

    fn watch() -> WatchStep {
        WatchStep::Watch("7".into())
    }

    // I08, K8: the history is shorter than the duration of a list.
    #[test]
    fn lists_whose_watch_expires_at_once_become_rare() {
        let mut schedule = schedule();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (next, wait) = schedule.next_step(
                &WatchStep::List(ListReason::Start),
                &result(Some(ListStyle::Streaming), Some("7"), 0, refused(410)),
            );
            assert_eq!(next, WatchStep::List(ListReason::Expired));
            waits.push(wait);
        }
        assert!(waits[7] >= Duration::from_secs(15), "{waits:?}");
    }

    // K3: at most ten requests in five seconds, and far fewer afterwards.
    #[test]
    fn watches_that_end_at_once_do_not_spin() {
        let (mut schedule, mut next, mut time, mut requests) = (schedule(), watch(), Duration::ZERO, 0);
        while time < Duration::from_secs(5) {
            let wait;
            (next, wait) = schedule.next_step(&next, &watch_result(0, WatchEnd::Closed));
            time += wait;
            requests += 1;
        }
        assert!(requests < 10, "{requests}");
    }

    #[test]
    fn a_watch_that_ends_in_its_time_is_resumed_at_once() {
        assert_eq!(schedule().next_step(&watch(), &watch_result(200, WatchEnd::Closed)), (watch(), Duration::ZERO));
    }

    #[test]
    fn a_watch_that_ends_early_is_resumed_after_a_random_delay() {
        let mut schedule = schedule();
        // Repeatedly: a watch that worked is no reason for a longer delay.
        for duration in [100, 5, 5, 5, 5, 5, 5, 5] {
            let (next, wait) = schedule.next_step(&watch(), &watch_result(duration, WatchEnd::Closed));
            assert_eq!(next, watch());
            assert!(wait <= Duration::from_secs(1));
        }
    }

    #[test]
    fn only_version_errors_and_outages_cause_lists() {
        for (end, want) in [
            (refused(410), Some(ListReason::Expired)),
            (refused(504), Some(ListReason::TooLarge)),
            (refused(500), Some(ListReason::Refused)),
            (refused(403), Some(ListReason::Refused)),
            (refused(401), None),
            (refused(429), None),
            (refused(503), Some(ListReason::Outage)),
            (broken(), Some(ListReason::Outage)),
            (
                WatchEnd::Failed(WatchError::Timeout {
                    waiting_for: WaitTarget::Event,
                    limit: Duration::from_secs(240),
                }),
                None,
            ),
            (WatchEnd::RelistDue, Some(ListReason::Routine)),
        ] {
            let (next, _) = schedule().next_step(&watch(), &watch_result(90, end));
            assert_eq!(next, want.map_or(watch(), WatchStep::List));
        }
        let back = WatchEnd::Failed(WatchError::Backwards { old: 9, new: 2 });
        assert_eq!(schedule().next_step(&watch(), &watch_result(90, back)).0, WatchStep::List(ListReason::Backwards));
        let invalid = WatchEnd::Failed(WatchError::InvalidResponse("?".into()));
        assert_eq!(schedule().next_step(&watch(), &watch_result(90, invalid)).0, WatchStep::List(ListReason::Refused));
        let unanswered = SessionResult { answered: false, ..watch_result(0, broken()) };
        assert_eq!(schedule().next_step(&watch(), &unanswered).0, WatchStep::List(ListReason::Outage));
    }

    #[test]
    fn a_failed_list_is_repeated_for_the_same_reason() {
        let mut schedule = schedule();
        let (next, _) = schedule.next_step(
            &WatchStep::List(ListReason::Outage),
            &result(Some(ListStyle::Streaming), None, 0, refused(422)),
        );
        assert_eq!((next, schedule.style()), (WatchStep::List(ListReason::Outage), ListStyle::Pages));
        for _ in 0..3 {
            schedule.next_step(
                &WatchStep::List(ListReason::Outage),
                &result(Some(ListStyle::Pages), None, 0, refused(410)),
            );
        }
        assert_eq!(schedule.style(), ListStyle::Whole);
        // The next routine list starts with the best style again.
        schedule.next_step(&watch(), &watch_result(1_800, WatchEnd::RelistDue));
        assert_eq!(schedule.style(), ListStyle::Streaming);
    }

    #[test]
    fn a_style_that_fails_for_any_reason_is_changed() {
        for end in [
            refused(503),
            broken(),
            WatchEnd::Failed(WatchError::Truncated),
            WatchEnd::Failed(WatchError::InvalidResponse("<html>".into())),
        ] {
            let mut schedule = schedule();
            let (mut failed, mut styles) = (result(None, None, 0, end), Vec::new());
            for _ in 0..6 {
                failed.listed = Some(schedule.style());
                schedule.next_step(&WatchStep::List(ListReason::Start), &failed);
                styles.push(schedule.style());
            }
            let pages = styles.iter().filter(|style| **style == ListStyle::Pages).count();
            assert!((2..=4).contains(&pages), "{styles:?}");
        }
        // This includes whole lists.
        let mut schedule = schedule();
        schedule.set_style(ListStyle::Whole);
        for _ in 0..2 {
            schedule
                .next_step(&WatchStep::List(ListReason::Start), &result(Some(ListStyle::Whole), None, 0, refused(500)));
        }
        assert_eq!(schedule.style(), ListStyle::Streaming);
    }

    #[test]
    fn a_watch_is_resumed_after_a_failed_routine_list() {
        let mut schedule = schedule();
        let (next, _) = schedule.next_step(&watch(), &watch_result(1_800, WatchEnd::RelistDue));
        let (next, _) = schedule.next_step(&next, &result(Some(ListStyle::Streaming), None, 0, refused(503)));
        assert_eq!(next, watch());
        let (next, _) = schedule.next_step(&next, &watch_result(90, refused(410)));
        let (next, _) = schedule.next_step(&next, &result(Some(ListStyle::Streaming), None, 0, refused(503)));
        assert_eq!(next, WatchStep::List(ListReason::Expired), "this list is needed");
    }

    #[test]
    fn forbidden_requests_become_rare() {
        // An API server that has just started forbids everything for a moment.
        let (mut schedule, mut waits) = (schedule(), Vec::new());
        for _ in 0..7 {
            waits.push(
                schedule
                    .next_step(
                        &WatchStep::List(ListReason::Start),
                        &result(Some(ListStyle::Pages), None, 0, refused(403)),
                    )
                    .1,
            );
        }
        assert!(waits[0] < Duration::from_secs(1) && waits[6] >= Duration::from_secs(15), "{waits:?}");
    }
}
