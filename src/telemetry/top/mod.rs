//! Who asks what: the most frequent clients, Pods, namespaces, names, upstreams, codes and reasons of the last minute
//! and hour, in memory of a fixed size.
//!
//! ```text
//! answering thread ─ 1 query in N ─► its buffer ─┐  by one thread, when a buffer is half full, and twice a second
//! answering thread ─ 1 query in N ─► its buffer ─┴─► Top: sketches for each dimension, of 20 s ─► of 15 min
//! ```
//!
//! Nothing is looked up or converted to text while a query is answered. A sample costs little after that, too: a key is
//! counted in one sketch, which is added to the hour when its 20 s are over; equal clients and codes of a buffer are
//! counted together; and a text is made when its key is new.

mod recent;
mod samples;
mod sketch;
mod slices;
mod texts;

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use recent::Recent;
pub use samples::{NO_RESPONSE, SAMPLE_NAME, Sample, SampleList, Samples};
use slices::{Slices, WindowCount, WindowSum};
use texts::{KeyText, KeyTexts};

/// The slices of a window: their length and number.
const MINUTE: (Duration, u64) = (Duration::from_secs(20), 4);
const HOUR: (Duration, u64) = (Duration::from_secs(15 * 60), 5);
/// The counters of a slice. A table of counters is full at 7/8 of a power of two. There are more for names: while all
/// have one, none has to be evicted, which costs more than to count it.
const NAMES: usize = 1_792;
const MANY: usize = 896;
const SOME: usize = 448;
const FEW: usize = 56;
/// In each slice, the texts of this number of keys are certain to be known. A key with more than 0.5 % of the queries
/// is among them.
const HEAVIEST: usize = 200;

/// What queries are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopBy {
    /// The address of the client.
    Client,
    /// The Pod of the client, where Pods are watched.
    Pod,
    /// The namespace of that Pod.
    Namespace,
    /// The name and type.
    Name,
    /// The upstream that answered.
    Upstream,
    /// The response code.
    Rcode,
    /// The reason why there was no ordinary answer.
    Reason,
}

/// The time that is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopWindow {
    /// The last 60 to 80 seconds.
    #[default]
    Minute,
    /// The last 60 to 75 minutes.
    Hour,
}

impl TopBy {
    /// Every dimension, in the order of reports.
    pub const ALL: [TopBy; 7] =
        [TopBy::Client, TopBy::Pod, TopBy::Namespace, TopBy::Name, TopBy::Upstream, TopBy::Rcode, TopBy::Reason];

    /// The words for users, as errors have them.
    pub const WORDS: &str = "client, pod, namespace, name, upstream, rcode or reason";

    /// Returns the word for users.
    pub const fn name(self) -> &'static str {
        match self {
            TopBy::Client => "client",
            TopBy::Pod => "pod",
            TopBy::Namespace => "namespace",
            TopBy::Name => "name",
            TopBy::Upstream => "upstream",
            TopBy::Rcode => "rcode",
            TopBy::Reason => "reason",
        }
    }
}

impl FromStr for TopBy {
    type Err = ();

    fn from_str(text: &str) -> Result<TopBy, ()> {
        TopBy::ALL.into_iter().find(|by| by.name() == text).ok_or(())
    }
}

impl TopWindow {
    /// Returns the word for users.
    pub const fn name(self) -> &'static str {
        match self {
            TopWindow::Minute => "minute",
            TopWindow::Hour => "hour",
        }
    }
}

impl FromStr for TopWindow {
    type Err = ();

    fn from_str(text: &str) -> Result<TopWindow, ()> {
        [TopWindow::Minute, TopWindow::Hour].into_iter().find(|window| window.name() == text).ok_or(())
    }
}

/// A key and its queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopRow {
    /// An address, `NAMESPACE/NAME` of a Pod, a namespace, a name and its type, an upstream, a code or a reason.
    pub key: String,
    /// For a client, its Pod.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// The number of queries.
    pub queries: u64,
    /// The most that `queries` can lack because the key was not among the most frequent ones all the time.
    pub missed: u64,
    /// The share of all queries, from 0 to 1.
    pub share: f64,
    /// Queries in a second.
    pub per_second: f64,
}

/// The queries of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopTotal {
    /// The time that the window covers, in seconds.
    pub seconds: f64,
    /// The number of queries.
    pub queries: u64,
}

/// What the texts of a report need of the rest of the server.
pub trait TopTexts {
    /// Calls `visit` with the namespace and the name of the Pod that has an address, if that is certain.
    fn pod(&self, client: IpAddr, visit: &mut dyn FnMut(&str, &str));
    /// Returns a name, whose last labels are in wire form, and a type.
    fn name(&self, labels: &[u8], is_cut: bool, qtype: u16) -> String;
    /// Returns a response code, or the word for [`NO_RESPONSE`].
    fn rcode(&self, rcode: u16) -> String;
}

/// The windows of all dimensions.
pub struct Top {
    clients: Dimension,
    namespaces: Dimension,
    names: Dimension,
    upstreams: Dimension,
    rcodes: Dimension,
    reasons: Dimension,
    /// Seeded at random, so that no client can choose names or addresses with the same hash.
    hasher: foldhash::quality::RandomState,
}

impl Default for Top {
    fn default() -> Top {
        Top {
            clients: Dimension::new(MANY),
            namespaces: Dimension::new(SOME),
            names: Dimension::new(NAMES),
            upstreams: Dimension::new(FEW),
            rcodes: Dimension::new(FEW),
            reasons: Dimension::new(FEW),
            hasher: foldhash::quality::RandomState::default(),
        }
    }
}

impl Top {
    /// Counts samples. `now` is the time since the start.
    pub fn add<'a>(&mut self, samples: impl IntoIterator<Item = Sample<'a>>, texts: &impl TopTexts, now: Duration) {
        let (mut clients, mut rcodes, mut reasons) = (Recent::default(), Recent::default(), Recent::default());
        for Sample { client, name_hash, name, is_cut, qtype, rcode, reason, weight } in samples {
            // The hash of the name is seeded at random.
            let key = name_hash ^ u64::from(qtype).wrapping_mul(TYPE_FACTOR);
            self.names.add(key, weight, now, || plain(&texts.name(name, is_cut, qtype)));
            let place = match client {
                IpAddr::V4(address) => address.octets()[3],
                IpAddr::V6(address) => address.octets()[15],
            };
            if let Some((client, weight)) = clients.add(client, place.into(), weight) {
                self.add_client(client, weight, texts, now);
            }
            if let Some((rcode, weight)) = rcodes.add(rcode, rcode.into(), weight) {
                self.add_rcode(rcode, weight, texts, now);
            }
            if !reason.is_empty()
                && let Some((reason, weight)) = reasons.add(reason, reason.len(), weight)
            {
                self.add_reason(reason, weight, now);
            }
        }
        clients.rest().for_each(|(client, weight)| self.add_client(client, weight, texts, now));
        rcodes.rest().for_each(|(rcode, weight)| self.add_rcode(rcode, weight, texts, now));
        reasons.rest().for_each(|(reason, weight)| self.add_reason(reason, weight, now));
    }

    fn add_client(&mut self, client: IpAddr, weight: u32, texts: &impl TopTexts, now: Duration) {
        let Top { clients, namespaces, hasher, .. } = self;
        let mut has_pod = false;
        texts.pod(client, &mut |ns, name| {
            has_pod = true;
            // A Pod and one that has had its address before are two clients.
            let key = hasher.hash_one((client, ns, name));
            clients.add(key, weight, now, || KeyText {
                key: client.to_string().into(),
                pod: Some(format!("{ns}/{name}").into()),
            });
            namespaces.add(hasher.hash_one(ns), weight, now, || plain(ns));
        });
        if !has_pod {
            clients.add(hasher.hash_one(client), weight, now, || plain(&client.to_string()));
        }
    }

    fn add_rcode(&mut self, rcode: u16, weight: u32, texts: &impl TopTexts, now: Duration) {
        self.rcodes.add(u64::from(rcode), weight, now, || plain(&texts.rcode(rcode)));
    }

    fn add_reason(&mut self, reason: &str, weight: u32, now: Duration) {
        self.reasons.add(self.hasher.hash_one(reason), weight, now, || plain(reason));
    }

    /// Counts answers of an upstream.
    pub fn add_upstream(&mut self, upstream: &str, answers: u32, now: Duration) {
        self.upstreams.add(self.hasher.hash_one(upstream), answers, now, || plain(upstream));
    }

    /// Returns the number of queries of a window.
    pub fn total(&mut self, window: TopWindow, now: Duration) -> TopTotal {
        let seconds = self.rcodes.slices(window).covered(now).as_secs_f64();
        TopTotal { seconds, queries: self.rcodes.sum(window, now).total }
    }

    /// Returns the most frequent keys of a dimension, most frequent first, at most `number`.
    pub fn list(&mut self, window: TopWindow, by: TopBy, number: usize, now: Duration) -> Vec<TopRow> {
        let TopTotal { seconds, queries } = self.total(window, now);
        let dimension = match by {
            TopBy::Client | TopBy::Pod => &mut self.clients,
            TopBy::Namespace => &mut self.namespaces,
            TopBy::Name => &mut self.names,
            TopBy::Upstream => &mut self.upstreams,
            TopBy::Rcode => &mut self.rcodes,
            TopBy::Reason => &mut self.reasons,
        };
        let mut sums: HashMap<KeyText, WindowCount> = HashMap::new();
        for (text, WindowCount { count, missed }) in dimension.counts(window, now) {
            let text = match (by, text.pod) {
                (TopBy::Pod, None) => continue,
                // A Pod can have several addresses.
                (TopBy::Pod, Some(pod)) => KeyText { key: pod, pod: None },
                (_, pod) => KeyText { key: text.key, pod },
            };
            let sum = sums.entry(text).or_default();
            sum.count += count;
            sum.missed += missed;
        }
        let row = |(KeyText { key, pod }, WindowCount { count, missed }): (KeyText, WindowCount)| TopRow {
            key: key.into(),
            pod: pod.map(Into::into),
            queries: count,
            missed,
            share: count as f64 / queries.max(1) as f64,
            per_second: count as f64 / seconds.max(1.0),
        };
        let mut rows: Vec<TopRow> = sums.into_iter().map(row).collect();
        rows.sort_by(|one, other| other.queries.cmp(&one.queries).then_with(|| one.key.cmp(&other.key)));
        rows.truncate(number);
        rows
    }
}

/// Spreads types over the keys of a name.
const TYPE_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the text of a key that has no Pod.
fn plain(text: &str) -> KeyText {
    KeyText { key: text.into(), pod: None }
}

/// The windows of a dimension.
struct Dimension {
    minute: Slices,
    /// Has the slices of the minute that are over.
    hour: Slices,
    /// The hour lacks the last slice of the minute.
    is_open: bool,
    texts: KeyTexts,
}

impl Dimension {
    fn new(capacity: usize) -> Dimension {
        let slices = |(length, number)| Slices::new(length, number, capacity);
        Dimension { minute: slices(MINUTE), hour: slices(HOUR), is_open: false, texts: KeyTexts::default() }
    }

    #[inline]
    fn add(&mut self, key: u64, weight: u32, now: Duration, text: impl FnOnce() -> KeyText) {
        if self.minute.is_over(now) {
            self.close(now);
            self.is_open = true;
            // In the next slice, every key is new.
            self.texts.begin();
        }
        if self.minute.add(key, weight, now) || self.texts.is_partial() {
            self.store_text(key, text);
        }
    }

    #[inline(never)]
    fn store_text(&mut self, key: u64, text: impl FnOnce() -> KeyText) {
        let Dimension { minute, hour, texts, .. } = self;
        texts.store(key, text, |wanted| {
            for slices in [minute, hour] {
                slices.for_heaviest(HEAVIEST, |key| wanted.extend([key]));
            }
        });
    }

    /// Adds the last slice of the minute to the hour, if it is over.
    #[cold]
    fn close(&mut self, now: Duration) {
        if self.is_open
            && self.minute.is_over(now)
            && let Some((start, sketch)) = self.minute.last()
        {
            self.hour.merge(sketch, start);
            self.is_open = false;
        }
    }

    fn slices(&self, window: TopWindow) -> &Slices {
        match window {
            TopWindow::Minute => &self.minute,
            TopWindow::Hour => &self.hour,
        }
    }

    /// Returns the sum of a window.
    fn sum(&mut self, window: TopWindow, now: Duration) -> WindowSum {
        self.close(now);
        let Dimension { minute, hour, is_open, .. } = self;
        match window {
            TopWindow::Minute => minute.sum(now, None),
            TopWindow::Hour => hour.sum(now, minute.last().filter(|_| *is_open).map(|(_, sketch)| sketch)),
        }
    }

    /// Returns the keys whose texts are known.
    fn counts(&mut self, window: TopWindow, now: Duration) -> Vec<(KeyText, WindowCount)> {
        let WindowSum { counts, .. } = self.sum(window, now);
        let texts = &self.texts;
        counts.into_iter().filter_map(|(key, count)| Some((texts.get(key)?.clone(), count))).collect()
    }
}

impl fmt::Display for TopBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
