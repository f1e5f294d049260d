//! Reads the state of the server for the page, and answers the requests for it and for `/top`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;

use super::html::{self, ROWS};
use super::status::{CacheStatus, KindStatus, ServerStatus, UpstreamStatus};
use crate::admin::{Page, PageContent, PageVisit};
use crate::app::sockets::ListenerAddress;
use crate::app::top::{LiveTop, MAX_ROWS, TopAsk, parse_rows};
use crate::app::version::{REVISION, VERSION, platform};
use crate::cluster::CurrentIndex;
use crate::cluster::model::Kind;
use crate::explain::printable;
use crate::plugins::build::{Lifecycle, PageRequest, Phase};
use crate::plugins::page_address::PageAddress;
use crate::telemetry::log::{Logger, timestamp};
use crate::telemetry::metrics::{Metric, MetricFamily, Registry, table};
use crate::telemetry::top::{TopBy, TopWindow};
use crate::upstream::UpstreamRegistry;
use crate::wire::Rcode;

/// The number of rows of a list of `/top` without the parameter `n`.
const TOP_ROWS: usize = 20;

/// The page for people.
pub(crate) struct StatusPage {
    started: (SystemTime, Instant),
    host: String,
    logger: Logger,
    registry: Registry,
    lifecycle: Arc<Lifecycle>,
    upstreams: Arc<UpstreamRegistry>,
    top: Option<Arc<LiveTop>>,
    /// Written when a configuration is applied.
    applied: RwLock<Applied>,
}

/// What a configuration serves.
#[derive(Default)]
struct Applied {
    listeners: Vec<(String, Vec<String>)>,
    indexes: Vec<CurrentIndex>,
}

/// What the page needs of the process.
pub(crate) struct StatusPageParts {
    pub host: String,
    pub logger: Logger,
    pub registry: Registry,
    pub lifecycle: Arc<Lifecycle>,
    pub upstreams: Arc<UpstreamRegistry>,
    pub top: Option<Arc<LiveTop>>,
}

impl StatusPage {
    /// Creates the page of the process.
    pub(crate) fn new(parts: StatusPageParts) -> Arc<StatusPage> {
        let StatusPageParts { host, logger, registry, lifecycle, upstreams, top } = parts;
        let started = (SystemTime::now(), Instant::now());
        Arc::new(StatusPage { started, host, logger, registry, lifecycle, upstreams, top, applied: RwLock::default() })
    }

    /// Sets what the configuration in use serves.
    pub(crate) fn apply<'a>(
        &self, listeners: impl Iterator<Item = (ListenerAddress, &'a [String])>, indexes: &[CurrentIndex],
    ) {
        let listeners = listeners.map(|(address, zones)| (address.server_name(), zones.to_vec())).collect();
        *self.applied.write() = Applied { listeners, indexes: indexes.to_vec() };
    }

    /// Adds `/` and `/top` to the listeners of `/metrics`, which are there for operators. The listeners of *health* and
    /// *ready* are there for probes, and stay as they are.
    pub(crate) fn add_to(self: &Arc<Self>, requests: &mut [PageRequest]) {
        let all: Vec<(PageAddress, bool, &str)> =
            requests.iter().map(|request| (request.address.clone(), request.tls.is_some(), request.path)).collect();
        for (at, request) in requests.iter_mut().enumerate().filter(|(_, request)| request.path == "/metrics") {
            let places = PagePlaces::of(&all, at);
            let page = self.clone();
            let root: Page = Arc::new(move |visit: &PageVisit<'_>| page.content(&places, visit.is_local));
            request.added.push(("/", root));
            if let Some(top) = self.top.clone() {
                let page: Page = Arc::new(move |visit: &PageVisit<'_>| top_page(&top, visit));
                request.added.push(("/top", page));
            }
        }
    }

    fn content(&self, places: &PagePlaces, is_local: bool) -> PageContent {
        let body = html::page(&self.status(places, is_local));
        PageContent { status: 200, content_type: "text/html; charset=utf-8", body }
    }

    /// Returns the state of the server; what clients look up, and errors, which name it, only for local visitors.
    fn status(&self, places: &PagePlaces, is_local: bool) -> ServerStatus {
        let families = self.registry.gather();
        let applied = self.applied.read();
        let phase = match self.lifecycle.phase() {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Ending => "stopping",
        };
        let errors = if is_local { self.logger.recent_errors() } else { Vec::new() };
        let top = self.top.as_ref().filter(|_| is_local);
        ServerStatus {
            version: VERSION.to_owned(),
            commit: REVISION.to_owned(),
            platform: platform(),
            host: self.host.clone(),
            up_since: to_seconds(self.started.0),
            up_for: format_duration(self.started.1.elapsed()),
            phase,
            listeners: applied.listeners.clone(),
            kinds: kinds(&applied.indexes, &families),
            upstreams: upstreams(&self.upstreams),
            cache: cache(&families),
            is_local,
            top: top.map(|top| top.report(&TopAsk { window: TopWindow::Minute, by: None, number: ROWS })),
            errors: errors
                .into_iter()
                .map(|error| [to_seconds(error.time), error.severity.text().to_owned(), error.text])
                .collect(),
            pages: top.iter().map(|_| "/top").chain(places.here.iter().copied()).collect(),
            pages_elsewhere: places.elsewhere.clone(),
            port: places.port,
            ports_elsewhere: places.ports.clone(),
        }
    }
}

/// Where the pages of the server are, seen from one listener.
///
/// A visitor may have come through a forwarded port or a Service, which have the port of this listener only. So there
/// are links to the pages of this listener, and the addresses of others are shown as text.
#[derive(Debug, Default)]
struct PagePlaces {
    /// The port of this listener; 0 if it is another one each time.
    port: u16,
    /// The paths of the pages of this listener.
    here: Vec<&'static str>,
    /// Address and path of the pages of other listeners.
    elsewhere: Vec<String>,
    /// The ports of those that `kubectl port-forward` reaches, which connects to the loopback address.
    ports: Vec<u16>,
}

impl PagePlaces {
    /// Sorts pages, each with its address, whether it is served over TLS, and its path. The listener is that of the
    /// page at `own`.
    fn of(pages: &[(PageAddress, bool, &'static str)], own: usize) -> PagePlaces {
        let own_address = &pages[own].0;
        let mut places = PagePlaces { port: own_address.port(), ..PagePlaces::default() };
        for (at, (address, is_tls, path)) in pages.iter().enumerate() {
            // Listeners at port 0 have different ports, which are not known in advance.
            match address.port() {
                _ if at == own => places.here.push(path),
                0 => {}
                _ if address == own_address => places.here.push(path),
                port => {
                    let over = if *is_tls { " (TLS)" } else { "" };
                    places.elsewhere.push(format!("{address}{path}{over}"));
                    places.ports.extend(address.includes_loopback().then_some(port));
                }
            }
        }
        // Each server block may have its own pages at the same address.
        remove_repeated(&mut places.here);
        remove_repeated(&mut places.elsewhere);
        remove_repeated(&mut places.ports);
        places
    }
}

/// Removes all but the first of equal values.
fn remove_repeated<T: PartialEq>(values: &mut Vec<T>) {
    let mut seen = 0;
    while let Some(value) = values.get(seen) {
        if values[..seen].contains(value) {
            values.remove(seen);
        } else {
            seen += 1;
        }
    }
}

/// Returns the page `/top`: the lists as JSON, for local visitors. Its parameters are those of `clusterdns top`.
fn top_page(top: &LiveTop, visit: &PageVisit<'_>) -> PageContent {
    if !visit.is_local {
        return PageContent::forbidden(
            "who asks what is shown to visitors on the server's own address only, such as kubectl port-forward\n",
        );
    }
    match parse_parameters(visit) {
        Ok(ask) => PageContent { status: 200, content_type: "application/json", body: top.report(&ask).to_json() },
        Err(error) => PageContent::bad_request(error + "\n"),
    }
}

fn parse_parameters(visit: &PageVisit<'_>) -> Result<TopAsk, String> {
    let mut ask = TopAsk { number: TOP_ROWS, ..TopAsk::default() };
    for (name, value) in visit.parameters() {
        let is_good = match &*name {
            "window" => value.parse().map(|window| ask.window = window).is_ok(),
            "by" => value.parse().map(|by| ask.by = Some(by)).is_ok(),
            "n" => parse_rows(&value).map(|number| ask.number = number).is_some(),
            _ => return Err(format!("there is no parameter '{}': expected window, by or n", printable(&name))),
        };
        if !is_good {
            let words = TopBy::WORDS;
            let value = printable(&value);
            return Err(format!("'{name}={value}': expected window=minute or hour, n=1 to {MAX_ROWS}, or by={words}"));
        }
    }
    Ok(ask)
}

/// Returns the values of a metric, by the value of a label; without that label, the sum.
fn values(families: &[MetricFamily], metric: &Metric, label: &str) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for sample in families.iter().filter(|family| family.name() == metric.name).flat_map(MetricFamily::get_metric) {
        let key = sample.get_label().iter().find(|pair| pair.name() == label).map(|pair| pair.value().to_owned());
        let value = sample.get_gauge().get_value() + sample.get_counter().get_value();
        *values.entry(key.unwrap_or_default()).or_insert(0.0) += value;
    }
    values
}

fn kinds(indexes: &[CurrentIndex], families: &[MetricFamily]) -> Vec<KindStatus> {
    let (objects, seen) = (values(families, &table::OBJECTS, "kind"), values(families, &table::LAST_SEEN, "kind"));
    let kinds = Kind::ALL.into_iter().filter(|kind| indexes.iter().any(|index| index.get().lists(*kind)));
    kinds
        .map(|kind| KindStatus {
            kind: kind.name(),
            is_synced: !indexes.iter().any(|index| index.get().unsynced().any(|of| of == kind)),
            objects: objects.get(kind.name()).map(|number| *number as u64),
            seen: seen.get(kind.name()).copied(),
        })
        .collect()
}

fn upstreams(registry: &UpstreamRegistry) -> Vec<UpstreamStatus> {
    let metrics = registry.metrics().upstreams();
    let mut found: Vec<UpstreamStatus> = registry
        .upstreams()
        .iter()
        .map(|upstream| {
            let counted = metrics.iter().find(|metrics| metrics.to() == &*upstream.label);
            let codes = counted.map(|metrics| metrics.answers()).unwrap_or_default();
            let mut buckets = vec![0_u64; table::TIME_BOUNDS.len() + 1];
            for code in &codes {
                buckets.iter_mut().zip(&code.buckets).for_each(|(sum, more)| *sum += more);
            }
            let answers: u64 = buckets.iter().sum();
            let seconds: f64 = codes.iter().map(|code| code.seconds).sum();
            let failures =
                codes.iter().filter(|code| code.rcode == Rcode::SERVFAIL).flat_map(|code| &code.buckets).sum();
            let mut below = 0;
            let p99 = buckets.iter().position(|bucket| {
                below += bucket;
                below * 100 >= answers * 99
            });
            let p99 = p99.map(|at| table::TIME_BOUNDS.get(at).map_or(f64::INFINITY, |bound| bound * 1e3));
            UpstreamStatus {
                address: upstream.label.to_string(),
                fails: upstream.fails.load(Ordering::Relaxed),
                failed_checks: counted.map_or(0, |metrics| metrics.failed_checks()),
                answers,
                failures,
                mean: (answers > 0).then(|| seconds * 1e3 / answers as f64),
                p99: p99.filter(|_| answers > 0),
            }
        })
        .collect();
    found.sort_by(|one, other| one.address.cmp(&other.address));
    found
}

fn cache(families: &[MetricFamily]) -> Option<CacheStatus> {
    let sum = |metric| -> Option<u64> {
        let values = values(families, metric, "");
        values.values().next().map(|sum| *sum as u64)
    };
    let requests = sum(&table::CACHE_REQUESTS)?;
    let (hits, entries) = (sum(&table::CACHE_HITS).unwrap_or(0), sum(&table::CACHE_ENTRIES).unwrap_or(0));
    Some(CacheStatus { entries, requests, hits })
}

/// Formats a time in UTC, without parts of a second.
fn to_seconds(time: SystemTime) -> String {
    let text = timestamp(time);
    let text = text.split_once('.').map_or(&*text, |(seconds, _)| seconds);
    format!("{} UTC", text.replace('T', " "))
}

/// Formats a duration by its two largest units.
fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link to another port would lead to nowhere through `kubectl port-forward`, or to another program.
    #[test]
    fn pages_of_the_same_listener_are_linked() {
        let page = |address: &str, path| (PageAddress::parse(address).expect("an address"), false, path);
        let pages = [
            page(":8080", "/health"),
            page(":9153", "/metrics"),
            page("127.0.0.1:8181", "/ready"),
            (PageAddress::parse("192.0.2.1:9153").expect("an address"), true, "/metrics"),
            page(":9153", "/health"),
            // Another server block.
            page(":9153", "/metrics"),
            page(":8080", "/health"),
            page(":0", "/ready"),
        ];
        let places = PagePlaces::of(&pages, 1);
        assert_eq!((places.port, &places.here[..]), (9153, &["/metrics", "/health"][..]));
        assert_eq!(places.elsewhere, [":8080/health", "127.0.0.1:8181/ready", "192.0.2.1:9153/metrics (TLS)"]);
        assert_eq!(places.ports, [8080, 8181]);
        let places = PagePlaces::of(&pages, 7);
        assert_eq!((places.port, &places.here[..]), (0, &["/ready"][..]));
    }

    #[test]
    fn parameters_of_top_are_parsed() {
        let parse = |query: &str| parse_parameters(&PageVisit { query, is_local: true });
        for query in ["window=hour&by=name&n=200", "%77indow=h%6fur&b%79=name&n=%32%30%30"] {
            let ask = parse(query).expect(query);
            assert_eq!((ask.window, ask.by, ask.number), (TopWindow::Hour, Some(TopBy::Name), 200));
        }
        assert_eq!(parse("").expect("right").number, TOP_ROWS);
        for (query, error) in [
            ("window=day", "'window=day': expected"),
            ("x", "there is no parameter 'x'"),
            ("x%0d%0a%1b=1", "there is no parameter 'x\\r\\n\\u{1b}'"),
            ("by=%2563lient%07", "'by=%63lient\\u{7}': expected"),
            ("n=-1", "'n=-1'"),
            ("n=0", "'n=0'"),
            ("n=201", "'n=201': expected"),
        ] {
            assert!(parse(query).expect_err(query).starts_with(error), "{query}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [(59, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (200_000, "2 d 7 h")] {
            assert_eq!(format_duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(to_seconds(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00 UTC");
    }
}
