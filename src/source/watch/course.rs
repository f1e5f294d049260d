//! What comes next: a list or a watch, and after how long. Without a clock and without a connection.

use std::time::Duration;

use super::backoff::{Backoff, Pace};
use super::trouble::Trouble;

/// Times that a test would rather not wait for.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Waits after troubles.
    pub pace: Pace,
    /// How long a watch may last, from and to. Below the 240 s after which load balancers forget a silent flow.
    pub watch: (Duration, Duration),
    /// How much longer a watch may be silent than it may last.
    pub grace: Duration,
    /// How long a page of a list may pause.
    pub page: Duration,
    /// How long all pages together may take: a list that has no end is none.
    pub pages: Duration,
    /// How long the initial events of a streaming list may pause; then pages are tried.
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
    /// The API server was gone for a while, and may have come back with another store.
    Outage,
    /// Watches end at once, again and again.
    Closed,
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
    Trouble(Trouble),
}

/// Decides what comes next.
#[derive(Debug)]
pub struct Course {
    backoff: Backoff,
    timing: Timing,
    style: Style,
    /// How often in turn the pages of a list have expired.
    expired_pages: u32,
    /// How many watches in turn have ended at once without an event.
    brief: u32,
}

impl Course {
    /// A course at its start.
    pub fn new(timing: Timing) -> Course {
        Course { backoff: Backoff::new(timing.pace), timing, style: Style::Streaming, expired_pages: 0, brief: 0 }
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
                (Next::List(why), self.list_failed(ended))
            }
            Some(version) => {
                if ended.listed.is_some() {
                    self.expired_pages = 0;
                }
                self.backoff.lived(ended.lived);
                self.watch_ended(version, ended)
            }
        }
    }

    /// The wait before the next list, and its style.
    fn list_failed(&mut self, ended: &Ended) -> Duration {
        let How::Trouble(trouble) = &ended.how else {
            // A watch that ends before the end of its initial events is of a server that does not know them.
            if ended.listed == Some(Style::Streaming) {
                self.style = Style::Pages;
            }
            return self.backoff.next(None);
        };
        match (ended.listed, trouble) {
            // Servers before 1.32 refuse streaming lists, very old ones never end the initial events; a role may allow
            // `list` and not `watch`. Pages then say what is wrong, if anything is.
            (Some(Style::Streaming), Trouble::Refused(refusal))
                if (400..500).contains(&refusal.code) && !matches!(refusal.code, 401 | 429) =>
            {
                self.style = Style::Pages;
                self.backoff.spread()
            }
            (Some(Style::Streaming), Trouble::Silence { what: "event" | "end of the initial events", .. }) => {
                self.style = Style::Pages;
                self.backoff.spread()
            }
            (Some(Style::Pages), Trouble::Refused(refusal)) if refusal.code == 410 => {
                self.expired_pages += 1;
                if self.expired_pages >= 3 {
                    self.style = Style::Whole;
                }
                self.backoff.next(None)
            }
            _ => self.wait_for(trouble),
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
                self.style = Style::Streaming;
                (Next::List(Why::Routine), Duration::ZERO)
            }
            How::Closed if ended.lived + self.timing.grace >= self.timing.watch.0 => (again(), Duration::ZERO),
            How::Closed if self.brief == 0 && (ended.lived >= self.timing.brief || ended.events) => {
                // Closed before its time: the API server is going away, and all its watches with it.
                let wait =
                    if ended.lived >= self.timing.pace.calm { self.backoff.spread() } else { self.backoff.next(None) };
                (again(), wait)
            }
            How::Closed => {
                self.brief += 1;
                if self.brief < 3 {
                    return (again(), self.backoff.next(None));
                }
                self.brief = 0;
                (Next::List(Why::Closed), self.backoff.next(None))
            }
            How::Trouble(trouble) => {
                let wait = self.wait_for(trouble);
                let next = match trouble.code() {
                    Some(410) => Next::List(Why::Expired),
                    Some(504) => Next::List(Why::TooLarge),
                    // These say nothing of the version.
                    Some(401 | 429 | 502 | 503) => again(),
                    Some(_) => Next::List(Why::Refused),
                    // What was there before an outage may not be there after it: a restored store counts its versions
                    // from an older one, and no watch would tell.
                    None if !ended.answered => Next::List(Why::Outage),
                    // It may say the same of this version for ever.
                    None if matches!(trouble, Trouble::Nonsense(_) | Trouble::TooLong(_)) => Next::List(Why::Refused),
                    None => again(),
                };
                (next, wait)
            }
        }
    }

    fn wait_for(&mut self, trouble: &Trouble) -> Duration {
        match trouble.code() {
            // Only a person can mend that.
            Some(403) => self.backoff.longest(),
            // A client that is not known is as good as nobody: its token may be renewed at any moment.
            Some(401) | None => self.backoff.reconnect(),
            _ => self.backoff.next(trouble.retry_after()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::trouble::Refusal;
    use super::*;

    fn refused(code: u16) -> How {
        How::Trouble(Trouble::Refused(Refusal { code, message: String::new(), retry_after: None }))
    }

    fn broken() -> How {
        How::Trouble(Trouble::Connection("reset".into()))
    }

    fn ended(listed: Option<Style>, version: Option<&str>, lived: u64, how: How) -> Ended {
        let version = version.map(str::to_owned);
        Ended { version, listed, answered: true, lived: Duration::from_secs(lived), events: false, how }
    }

    fn watching(lived: u64, how: How) -> Ended {
        ended(None, Some("7"), lived, how)
    }

    fn course() -> Course {
        Course::new(Timing::default())
    }

    fn watch() -> Next {
        Next::Watch("7".into())
    }

    // I08, K8: the history does not last as long as a list takes.
    #[test]
    fn lists_whose_watch_has_expired_at_once_become_rare() {
        let mut course = course();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (next, wait) =
                course.after(&Next::List(Why::Start), &ended(Some(Style::Streaming), Some("7"), 0, refused(410)));
            assert_eq!(next, Next::List(Why::Expired));
            waits.push(wait);
        }
        assert!(waits[7] >= Duration::from_secs(15), "{waits:?}");
    }

    // K3: at most ten requests in five seconds, and far fewer afterwards.
    #[test]
    fn watches_that_end_at_once_do_not_spin() {
        let (mut course, mut next, mut time, mut requests) = (course(), watch(), Duration::ZERO, 0);
        while time < Duration::from_secs(5) {
            let wait;
            (next, wait) = course.after(&next, &watching(0, How::Closed));
            time += wait;
            requests += 1;
        }
        assert!(requests < 10, "{requests}");
    }

    #[test]
    fn a_watch_that_ends_in_its_time_goes_on_at_once() {
        assert_eq!(course().after(&watch(), &watching(200, How::Closed)), (watch(), Duration::ZERO));
    }

    #[test]
    fn a_watch_that_ends_early_goes_on_soon_but_not_with_all_others() {
        let (next, wait) = course().after(&watch(), &watching(100, How::Closed));
        assert_eq!(next, watch());
        assert!(wait <= Duration::from_secs(1));
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
            (refused(503), None),
            (broken(), None),
            (How::Due, Some(Why::Routine)),
        ] {
            let (next, _) = course().after(&watch(), &watching(90, how));
            assert_eq!(next, want.map_or(watch(), Next::List));
        }
        let nonsense = How::Trouble(Trouble::Nonsense("?".into()));
        assert_eq!(course().after(&watch(), &watching(90, nonsense)).0, Next::List(Why::Refused));
        let unanswered = Ended { answered: false, ..watching(0, broken()) };
        assert_eq!(course().after(&watch(), &unanswered).0, Next::List(Why::Outage));
    }

    #[test]
    fn a_list_that_failed_is_made_for_the_same_reason() {
        let mut course = course();
        let (next, _) = course.after(&Next::List(Why::Outage), &ended(Some(Style::Streaming), None, 0, refused(422)));
        assert_eq!((next, course.style()), (Next::List(Why::Outage), Style::Pages));
        for _ in 0..3 {
            course.after(&Next::List(Why::Outage), &ended(Some(Style::Pages), None, 0, refused(410)));
        }
        assert_eq!(course.style(), Style::Whole);
        // The next routine list tries what is best again.
        course.after(&watch(), &watching(1_800, How::Due));
        assert_eq!(course.style(), Style::Streaming);
    }

    #[test]
    fn what_only_a_person_can_mend_is_asked_for_seldom() {
        let (_, wait) = course().after(&Next::List(Why::Start), &ended(Some(Style::Pages), None, 0, refused(403)));
        assert!(wait >= Duration::from_secs(15));
    }
}
