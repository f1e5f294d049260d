//! The counts of a running server: takes the samples of the threads that answer, and completes them by what only other
//! parts of the server know: the Pods of clients, and the answers of upstreams.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::report::{TopAsk, TopReport};
use crate::chain::{FinishedQuery, QueryTap};
use crate::cluster::CurrentIndex;
use crate::cluster::model::Kind;
use crate::telemetry::top::{NO_RESPONSE, SAMPLE_NAME, Sample, SampleList, Samples, Top, TopBy, TopTexts};
use crate::upstream;
use crate::wire::{Name, Question, Rcode, Type};

/// How often samples are taken that are too few to wake the thread.
const INTERVAL: Duration = Duration::from_millis(500);
/// The time for which queries are counted until the distance of samples is adapted.
const ADAPT: Duration = Duration::from_millis(50);
/// How often the answers of upstreams are counted.
const UPSTREAM_INTERVAL: Duration = Duration::from_secs(1);

/// Who asks this server what.
pub(crate) struct LiveTop {
    samples: Samples,
    /// Locked by the thread that takes samples, and by reports.
    counts: Mutex<TopCounts>,
    /// The indexes that answer and have Pods. Written when a configuration is applied.
    indexes: RwLock<Vec<CurrentIndex>>,
    upstreams: Arc<upstream::Metrics>,
    started: Instant,
    /// Hashes names. Seeded at random, so that no client can choose names with the same hash.
    hasher: foldhash::quality::RandomState,
}

/// The counts, and what is needed to continue them.
struct TopCounts {
    top: Top,
    /// The memory of samples that were taken.
    spare: Option<SampleList>,
    /// Queries since the distance of samples was adapted last, and when that was.
    queries: u64,
    adapted: Instant,
    /// The answers of each upstream that are counted already, and when that was.
    answers: HashMap<String, u64>,
    answers_at: Instant,
}

impl LiveTop {
    /// Starts to count, on a thread of its own.
    pub(crate) fn start(upstreams: Arc<upstream::Metrics>) -> Arc<LiveTop> {
        let top = Arc::new(LiveTop::new(upstreams));
        let taken = top.clone();
        let run = move || {
            taken.samples.take_here();
            loop {
                taken.take();
                std::thread::park_timeout(INTERVAL);
            }
        };
        // Without the thread, samples are taken by reports only.
        if let Err(error) = std::thread::Builder::new().name("top".to_owned()).spawn(run) {
            tracing::error!(%error, "cannot start the thread that counts queries for 'clusterdns top'");
        }
        top
    }

    fn new(upstreams: Arc<upstream::Metrics>) -> LiveTop {
        let now = Instant::now();
        let counts = TopCounts {
            top: Top::default(),
            spare: None,
            queries: 0,
            adapted: now,
            answers: HashMap::new(),
            answers_at: now,
        };
        LiveTop {
            samples: Samples::default(),
            counts: Mutex::new(counts),
            indexes: RwLock::default(),
            upstreams,
            started: now,
            hasher: foldhash::quality::RandomState::default(),
        }
    }

    /// Sets the indexes of the configuration that is in use.
    pub(crate) fn follow(&self, indexes: &[CurrentIndex]) {
        *self.indexes.write() = indexes.iter().filter(|index| index.get().lists(Kind::Pod)).cloned().collect();
    }

    /// Counts the samples that there are.
    fn take(&self) {
        self.take_into(&mut self.counts.lock(), Instant::now());
    }

    fn take_into(&self, counts: &mut TopCounts, now: Instant) {
        let since = now.saturating_duration_since(self.started);
        let indexes = self.indexes.read();
        let texts = LiveTexts { indexes: &indexes, now };
        let TopCounts { top, spare, queries, adapted, answers, answers_at } = counts;
        self.samples.take(spare, |list| {
            *queries += list.weight();
            top.add(list.iter(), &texts, since);
        });
        let time = now.saturating_duration_since(*adapted);
        if time >= ADAPT {
            self.samples.adapt(*queries, time);
            (*queries, *adapted) = (0, now);
        }
        if now.saturating_duration_since(*answers_at) >= UPSTREAM_INTERVAL {
            *answers_at = now;
            count_upstreams(&self.upstreams, answers, top, since);
        }
    }

    /// Returns the lists of a window.
    pub(crate) fn report(&self, ask: &TopAsk) -> TopReport {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.started);
        let mut counts = self.counts.lock();
        self.take_into(&mut counts, now);
        let TopCounts { top, answers, .. } = &mut *counts;
        count_upstreams(&self.upstreams, answers, top, since);
        let wanted = |by: &TopBy| ask.by.is_none_or(|only| only == *by);
        let lists: BTreeMap<_, _> =
            TopBy::ALL.into_iter().filter(wanted).map(|by| (by, top.list(ask.window, by, ask.number, since))).collect();
        let total = top.total(ask.window, since);
        TopReport {
            window: ask.window,
            seconds: total.seconds,
            queries: total.queries,
            missed: self.samples.missed(),
            one_in: self.samples.period(),
            has_pods: !self.indexes.read().is_empty(),
            lists,
        }
    }
}

/// Counts the answers of upstreams since the last call. They are exact, and need no sample.
fn count_upstreams(upstreams: &upstream::Metrics, answers: &mut HashMap<String, u64>, top: &mut Top, since: Duration) {
    for upstream in upstreams.upstreams() {
        let all: u64 = upstream.answers().iter().flat_map(|answers| &answers.buckets).sum();
        let counted = match answers.get_mut(upstream.to()) {
            Some(counted) => counted,
            None => answers.entry(upstream.to().to_owned()).or_default(),
        };
        let new = u32::try_from(all.saturating_sub(*counted)).unwrap_or(u32::MAX);
        if new > 0 {
            top.add_upstream(upstream.to(), new, since);
        }
        *counted = all;
    }
}

impl QueryTap for LiveTop {
    fn record(&self, query: &FinishedQuery<'_>) -> u32 {
        self.samples.record(|| {
            let wire = query.question.name().as_wire();
            let name = last_labels(query.question);
            let mut hasher = self.hasher.build_hasher();
            hasher.write(wire);
            Sample {
                client: query.client.remote.ip().to_canonical(),
                name_hash: hasher.finish(),
                name,
                is_cut: name.len() < wire.len(),
                qtype: query.question.qtype.0,
                rcode: query.rcode.map_or(NO_RESPONSE, |rcode| rcode.0),
                reason: query.reason.unwrap_or_default(),
                // Set by `record`.
                weight: 1,
            }
        })
    }
}

/// Returns the last labels of a name, as many as a sample can have.
fn last_labels(question: &Question) -> &[u8] {
    let name = question.name().as_wire();
    if name.len() <= SAMPLE_NAME {
        return name;
    }
    let lengths = (0..=question.labels()).rev().map(|labels| question.suffix_len(labels));
    let len = lengths.into_iter().find(|len| *len <= SAMPLE_NAME).unwrap_or(0);
    &name[name.len() - len..]
}

/// The texts of keys.
struct LiveTexts<'a> {
    indexes: &'a [CurrentIndex],
    now: Instant,
}

impl TopTexts for LiveTexts<'_> {
    fn pod(&self, client: IpAddr, visit: &mut dyn FnMut(&str, &str)) {
        let pod = self.indexes.iter().find_map(|index| index.get().client_pod(client, self.now));
        if let Some(pod) = pod {
            visit(&pod.key.ns, &pod.key.name);
        }
    }

    fn name(&self, labels: &[u8], is_cut: bool, qtype: u16) -> String {
        let name = Name::from_wire(labels).map(|name| name.to_string()).unwrap_or_default();
        format!("{}{name} {}", if is_cut { "…" } else { "" }, Type(qtype))
    }

    fn rcode(&self, rcode: u16) -> String {
        if rcode == NO_RESPONSE { "dropped".to_owned() } else { Rcode(rcode).to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::chain::{Client, Transport};
    use crate::telemetry::top::TopWindow;
    use crate::wire::{Class, NameBuf};

    fn live() -> LiveTop {
        LiveTop::new(Arc::default())
    }

    fn record(top: &LiveTop, client: &str, name: &str, rcode: Option<Rcode>, reason: Option<&'static str>) {
        let name = NameBuf::from_text(name).expect("a name");
        let question = Question::new(name.as_name(), Type(28), Class::IN);
        let remote = SocketAddr::new(client.parse().expect("an address"), 4);
        let client = Client { remote, local: remote, transport: Transport::Udp };
        assert_eq!(top.record(&FinishedQuery { question: &question, client, rcode, reason }), 1);
    }

    #[test]
    fn queries_become_rows() {
        let top = live();
        let long = format!("{}.{}.example.org.", "a".repeat(60), "b".repeat(60));
        record(&top, "::ffff:192.0.2.1", "a b.Example.org.", Some(Rcode::NOERROR), None);
        record(&top, "192.0.2.1", &long, Some(Rcode::NXDOMAIN), Some("no-such-service"));
        record(&top, "192.0.2.2", "a b.example.org.", None, None);
        top.upstreams.upstream("192.0.2.53:53").record_answer(Rcode::NOERROR, Duration::from_millis(1));
        let report = top.report(&TopAsk { window: TopWindow::Minute, by: None, number: 10 });
        let rows = |by| report.lists[&by].iter().map(|row| format!("{} {}", row.key, row.queries)).collect::<Vec<_>>();
        assert_eq!(rows(TopBy::Client), ["192.0.2.1 2", "192.0.2.2 1"]);
        let cut = format!("…{}.example.org. AAAA 1", "b".repeat(60));
        assert_eq!(rows(TopBy::Name), ["a\\ b.example.org. AAAA 2".to_owned(), cut]);
        assert_eq!(rows(TopBy::Rcode), ["NOERROR 1", "NXDOMAIN 1", "dropped 1"]);
        assert_eq!(rows(TopBy::Reason), ["no-such-service 1"]);
        assert_eq!(rows(TopBy::Upstream), ["192.0.2.53:53 1"]);
        assert_eq!((report.queries, report.missed, report.has_pods), (3, 0, false));
        let report = top.report(&TopAsk { window: TopWindow::Hour, by: Some(TopBy::Client), number: 1 });
        assert_eq!((report.lists.len(), report.lists[&TopBy::Client].len()), (1, 1));
    }
}
