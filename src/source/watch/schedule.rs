//! What comes next: a list or a watch, and after how long. Without a clock and without a connection.

use std::time::Duration;

use crate::source::watch::backoff::{Backoff, Pace};
use crate::source::watch::error::{Awaited, WatchError};

/// Times that a test would rather not wait for.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Waits after troubles.
    pub pace: Pace,
    /// How long a watch may last, from and to. Below the 240 s after which load balancers forget a silent flow.
    pub watch: (Duration, Duration),
    /// How much longer a watch may be silent than it may last.
    pub grace: Duration,
    /// How long a page of a list may take.
    pub page: Duration,
    /// How long all pages together may take: a list that has no end is none.
    pub pages: Duration,
    /// How long one of the initial events of a streaming list may take; then pages are tried.
    pub initial: Duration,
    /// How long they may take in all.
    pub initial_all: Duration,
    /// A watch that ends sooner than this without an event has not worked.
    pub brief: Duration,
    /// How often everything is listed anew, give or take a fifth, whatever the watch says.
    pub relist: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let seconds = Duration::from_secs;
        Timing {
            pace: Pace::default(),
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

/// Why a list is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing is known yet.
    Start,
    /// The version that the watch asked for is no longer kept (410).
    Expired,
    /// The API server does not know that version yet (504): its store may have been restored.
    TooLarge,
    /// An ERROR event, a refusal of the watch, or nonsense.
    Refused,
    /// The connection broke or there was none: the API server may have come back with another store.
    Outage,
    /// Watches end at once, again and again.
    Closed,
    /// The versions of a watch went back: the store was restored.
    Backwards,
    /// Time for it.
    Routine,
}

impl Why {
    /// As a metric's label.
    pub fn text(self) -> &'static str {
        match self {
            Why::Start => "start",
            Why::Expired => "expired",
            Why::TooLarge => "version_too_large",
            Why::Refused => "refused",
            Why::Outage => "outage",
            Why::Closed => "closed",
            Why::Backwards => "backwards",
            Why::Routine => "routine",
        }
    }
}

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A full list, then a watch.
    List(Why),
    /// A watch from this version on.
    Watch(String),
}

/// How a full list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As the first events of a watch, object by object.
    Streaming,
    /// Page by page.
    Pages,
    /// All at once, from the API server's cache: where the pages of a list expire faster than they can be read.
    Whole,
}

/// How far a list and watch got.
#[derive(Debug)]
pub struct Ended {
    /// The version that it reached; `None` if its list was not completed.
    pub version: Option<String>,
    /// It began with a list, in this style.
    pub listed: Option<Style>,
    /// The watch was answered, so that there was a connection.
    pub answered: bool,
    /// How long the watch lasted.
    pub lived: Duration,
    /// It carried an event.
    pub events: bool,
    /// Why it ended.
    pub how: How,
}

/// Why a watch ended.
#[derive(Debug)]
pub enum How {
    /// The API server closed it.
    Closed,
    /// The time for a full list has come.
    Due,
    /// Something went wrong.
    WatchError(WatchError),
}

/// Decides what comes next.
#[derive(Debug)]
pub struct Schedule {
    backoff: Backoff,
    timing: Timing,
    style: Style,
    /// How many lists in turn have failed in this style.
    failed: u32,
    /// How often in turn the pages of a list have expired.
    expired_pages: u32,
    /// The version of a watch that was left for a routine list, to go on from if that fails.
    left: Option<String>,
    /// How many watches in turn have ended at once without an event.
    brief: u32,
}

impl Schedule {
    /// A schedule at its start.
    pub fn new(timing: Timing) -> Schedule {
        Schedule {
            backoff: Backoff::new(timing.pace),
            timing,
            style: Style::Streaming,
            failed: 0,
            expired_pages: 0,
            left: None,
            brief: 0,
        }
    }

    /// A moment that differs from one to the next.
    pub fn moment(&self) -> Duration {
        self.backoff.spread()
    }

    /// How the next list is asked for.
    pub fn style(&self) -> Style {
        self.style
    }

    /// What comes after `ended`, and after how long.
    pub fn after(&mut self, was: &Next, ended: &Ended) -> (Next, Duration) {
        match &ended.version {
            None => {
                let why = if let Next::List(why) = was { *why } else { Why::Refused };
                let wait = self.list_failed(ended);
                // A watch that worked is not given up for a list that nobody needed.
                match self.left.take().filter(|_| why == Why::Routine) {
                    Some(version) => (Next::Watch(version), wait),
                    None => (Next::List(why), wait),
                }
            }
            Some(version) => {
                if ended.listed.is_some() {
                    (self.failed, self.expired_pages, self.left) = (0, 0, None);
                }
                self.backoff.lived(ended.lived);
                self.watch_ended(version, ended)
            }
        }
    }

    fn take_style(&mut self, style: Style) {
        (self.style, self.failed) = (style, 0);
    }

    /// The wait before the next list, whose style it chooses.
    fn list_failed(&mut self, ended: &Ended) -> Duration {
        let How::WatchError(error) = &ended.how else { return self.backoff.next(None) };
        self.failed += 1;
        // That nobody listens is seldom a matter of style.
        let nobody = matches!(error, WatchError::Connection(_) | WatchError::Configuration(_)) && !ended.answered;
        let enough = if nobody { 6 } else { 2 };
        match (ended.listed.unwrap_or(self.style), error) {
            // Servers before 1.32 refuse streaming lists, very old ones never end the initial events; a role may allow
            // `list` and not `watch`. Pages then say what is wrong, if anything is.
            (Style::Streaming, WatchError::Refused(refusal))
                if (400..500).contains(&refusal.code) && !matches!(refusal.code, 401 | 429) =>
            {
                self.take_style(Style::Pages);
                self.backoff.spread()
            }
            (Style::Streaming, WatchError::Silence { what: Awaited::Event | Awaited::InitialEventsEnd, .. }) => {
                self.take_style(Style::Pages);
                self.backoff.spread()
            }
            (Style::Pages, WatchError::Refused(refusal)) if refusal.code == 410 => {
                self.expired_pages += 1;
                if self.expired_pages >= 3 {
                    self.take_style(Style::Whole);
                }
                self.backoff.next(None)
            }
            // Whatever it is, it may be of this style alone.
            (style, _) if self.failed >= enough => {
                self.take_style(if style == Style::Streaming { Style::Pages } else { Style::Streaming });
                self.expired_pages = 0;
                self.wait_for(error)
            }
            _ => self.wait_for(error),
        }
    }

    /// What follows a watch that had a version.
    fn watch_ended(&mut self, version: &str, ended: &Ended) -> (Next, Duration) {
        let again = || Next::Watch(version.to_owned());
        if ended.lived >= self.timing.brief || ended.events {
            self.brief = 0;
        }
        match &ended.how {
            How::Due => {
                // The API server may have learnt it meanwhile.
                self.take_style(Style::Streaming);
                self.left = Some(version.to_owned());
                (Next::List(Why::Routine), Duration::ZERO)
            }
            How::Closed if ended.lived + self.timing.grace >= self.timing.watch.0 => (again(), Duration::ZERO),
            // Closed before its time: the API server is going away, and all its watches with it; or something between
            // here and there ends what lasts. It worked, so that there is nothing to wait for but the others.
            How::Closed if ended.lived >= self.timing.brief || ended.events => (again(), self.backoff.spread()),
            How::Closed => {
                self.brief += 1;
                if self.brief < 3 {
                    return (again(), self.backoff.next(None));
                }
                self.brief = 0;
                (Next::List(Why::Closed), self.backoff.next(None))
            }
            How::WatchError(error) => {
                let wait = self.wait_for(error);
                let next = match error.code() {
                    Some(410) => Next::List(Why::Expired),
                    Some(504) => Next::List(Why::TooLarge),
                    // These say nothing of the version.
                    Some(401 | 429) => again(),
                    // It is going away, or has been.
                    Some(502 | 503) => Next::List(Why::Outage),
                    Some(_) => Next::List(Why::Refused),
                    // What was there before an outage may not be there after it: a restored store counts its versions from
                    // an older one, and a watch from a version of its future is accepted and stays silent.
                    None if !ended.answered || matches!(error, WatchError::Connection(_)) => Next::List(Why::Outage),
                    None if matches!(error, WatchError::Backwards { .. }) => Next::List(Why::Backwards),
                    // It may say the same of this version for ever.
                    None if matches!(error, WatchError::Nonsense(_) | WatchError::TooLong(_)) => {
                        Next::List(Why::Refused)
                    }
                    None => again(),
                };
                (next, wait)
            }
        }
    }

    fn wait_for(&mut self, error: &WatchError) -> Duration {
        match error.code() {
            // A client that is not known is as good as nobody: its token may be renewed at any moment.
            Some(401) | None => self.backoff.reconnect(),
            _ => self.backoff.next(error.retry_after()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::watch::error::Refusal;

    fn refused(code: u16) -> How {
        How::WatchError(WatchError::Refused(Refusal { code, message: String::new(), retry_after: None }))
    }

    fn broken() -> How {
        How::WatchError(WatchError::Connection("reset".into()))
    }

    fn ended(listed: Option<Style>, version: Option<&str>, lived: u64, how: How) -> Ended {
        let version = version.map(str::to_owned);
        Ended { version, listed, answered: true, lived: Duration::from_secs(lived), events: false, how }
    }

    fn watching(lived: u64, how: How) -> Ended {
        ended(None, Some("7"), lived, how)
    }

    fn schedule() -> Schedule {
        Schedule::new(Timing::default())
    }

    fn watch() -> Next {
        Next::Watch("7".into())
    }

    // I08, K8: the history does not last as long as a list takes.
    #[test]
    fn lists_whose_watch_has_expired_at_once_become_rare() {
        let mut schedule = schedule();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (next, wait) =
                schedule.after(&Next::List(Why::Start), &ended(Some(Style::Streaming), Some("7"), 0, refused(410)));
            assert_eq!(next, Next::List(Why::Expired));
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
            (next, wait) = schedule.after(&next, &watching(0, How::Closed));
            time += wait;
            requests += 1;
        }
        assert!(requests < 10, "{requests}");
    }

    #[test]
    fn a_watch_that_ends_in_its_time_goes_on_at_once() {
        assert_eq!(schedule().after(&watch(), &watching(200, How::Closed)), (watch(), Duration::ZERO));
    }

    #[test]
    fn a_watch_that_ends_early_goes_on_soon_but_not_with_all_others() {
        let mut schedule = schedule();
        // Again and again: what worked is no reason to wait.
        for lived in [100, 5, 5, 5, 5, 5, 5, 5] {
            let (next, wait) = schedule.after(&watch(), &watching(lived, How::Closed));
            assert_eq!(next, watch());
            assert!(wait <= Duration::from_secs(1));
        }
    }

    #[test]
    fn only_what_speaks_of_the_version_or_follows_an_outage_lists_anew() {
        for (how, want) in [
            (refused(410), Some(Why::Expired)),
            (refused(504), Some(Why::TooLarge)),
            (refused(500), Some(Why::Refused)),
            (refused(403), Some(Why::Refused)),
            (refused(401), None),
            (refused(429), None),
            (refused(503), Some(Why::Outage)),
            (broken(), Some(Why::Outage)),
            (How::WatchError(WatchError::Silence { what: Awaited::Event, limit: Duration::from_secs(240) }), None),
            (How::Due, Some(Why::Routine)),
        ] {
            let (next, _) = schedule().after(&watch(), &watching(90, how));
            assert_eq!(next, want.map_or(watch(), Next::List));
        }
        let back = How::WatchError(WatchError::Backwards { old: 9, new: 2 });
        assert_eq!(schedule().after(&watch(), &watching(90, back)).0, Next::List(Why::Backwards));
        let nonsense = How::WatchError(WatchError::Nonsense("?".into()));
        assert_eq!(schedule().after(&watch(), &watching(90, nonsense)).0, Next::List(Why::Refused));
        let unanswered = Ended { answered: false, ..watching(0, broken()) };
        assert_eq!(schedule().after(&watch(), &unanswered).0, Next::List(Why::Outage));
    }

    #[test]
    fn a_list_that_failed_is_made_for_the_same_reason() {
        let mut schedule = schedule();
        let (next, _) = schedule.after(&Next::List(Why::Outage), &ended(Some(Style::Streaming), None, 0, refused(422)));
        assert_eq!((next, schedule.style()), (Next::List(Why::Outage), Style::Pages));
        for _ in 0..3 {
            schedule.after(&Next::List(Why::Outage), &ended(Some(Style::Pages), None, 0, refused(410)));
        }
        assert_eq!(schedule.style(), Style::Whole);
        // The next routine list tries what is best again.
        schedule.after(&watch(), &watching(1_800, How::Due));
        assert_eq!(schedule.style(), Style::Streaming);
    }

    #[test]
    fn a_style_that_fails_for_whatever_reason_is_changed() {
        for how in [
            refused(503),
            broken(),
            How::WatchError(WatchError::Cut),
            How::WatchError(WatchError::Nonsense("<html>".into())),
        ] {
            let mut schedule = schedule();
            let (mut failed, mut styles) = (ended(None, None, 0, how), Vec::new());
            for _ in 0..6 {
                failed.listed = Some(schedule.style());
                schedule.after(&Next::List(Why::Start), &failed);
                styles.push(schedule.style());
            }
            let pages = styles.iter().filter(|style| **style == Style::Pages).count();
            assert!((2..=4).contains(&pages), "{styles:?}");
        }
        // Neither is a whole list the end of it.
        let mut schedule = schedule();
        schedule.take_style(Style::Whole);
        for _ in 0..2 {
            schedule.after(&Next::List(Why::Start), &ended(Some(Style::Whole), None, 0, refused(500)));
        }
        assert_eq!(schedule.style(), Style::Streaming);
    }

    #[test]
    fn a_routine_list_that_fails_gives_up_no_watch() {
        let mut schedule = schedule();
        let (next, _) = schedule.after(&watch(), &watching(1_800, How::Due));
        let (next, _) = schedule.after(&next, &ended(Some(Style::Streaming), None, 0, refused(503)));
        assert_eq!(next, watch());
        let (next, _) = schedule.after(&next, &watching(90, refused(410)));
        let (next, _) = schedule.after(&next, &ended(Some(Style::Streaming), None, 0, refused(503)));
        assert_eq!(next, Next::List(Why::Expired), "this list is needed");
    }

    #[test]
    fn what_is_forbidden_is_asked_for_ever_more_seldom() {
        // An API server that has just started forbids everything for a moment.
        let (mut schedule, mut waits) = (schedule(), Vec::new());
        for _ in 0..7 {
            waits.push(schedule.after(&Next::List(Why::Start), &ended(Some(Style::Pages), None, 0, refused(403))).1);
        }
        assert!(waits[0] < Duration::from_secs(1) && waits[6] >= Duration::from_secs(15), "{waits:?}");
    }
}
