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
use crate::net::split_address;
use crate::plugins::build::{Lifecycle, PageRequest, Phase};
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
        let others: Vec<PageLink> = requests.iter().map(PageLink::of).collect();
        for (at, request) in requests.iter_mut().enumerate().filter(|(_, request)| request.path == "/metrics") {
            let own = PageLink { path: "/top", is_own: true, ..PageLink::of(request) };
            let is_own = |(number, link): (usize, &PageLink)| PageLink {
                // Listeners at port 0 have different ports.
                is_own: number == at || (link.address == own.address && link.port() != "0"),
                ..link.clone()
            };
            let others: Vec<PageLink> = others.iter().enumerate().map(is_own).collect();
            let page = self.clone();
            let root: Page = Arc::new(move |visit: &PageVisit<'_>| {
                let top = page.top.iter().filter(|_| visit.is_local).map(|_| &own);
                page.content(&links(top.chain(&others), visit.host), visit.is_local)
            });
            request.more.push(("/", root));
            if let Some(top) = self.top.clone() {
                let page: Page = Arc::new(move |visit: &PageVisit<'_>| top_page(&top, visit));
                request.more.push(("/top", page));
            }
        }
    }

    fn content(&self, pages: &[[String; 2]], is_local: bool) -> PageContent {
        let body = html::page(&self.status(pages, is_local));
        PageContent { status: 200, content_type: "text/html; charset=utf-8", body }
    }

    /// Returns the state of the server; what clients look up, and errors, which name it, only for local visitors.
    fn status(&self, pages: &[[String; 2]], is_local: bool) -> ServerStatus {
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
            pages: pages.to_vec(),
        }
    }
}

/// Another page.
#[derive(Clone)]
struct PageLink {
    address: String,
    path: &'static str,
    is_tls: bool,
    /// It is at the listener of the page for people.
    is_own: bool,
}

impl PageLink {
    fn of(request: &PageRequest) -> PageLink {
        let (address, is_tls) = (request.address.to_string(), request.tls.is_some());
        PageLink { address, path: request.path, is_tls, is_own: false }
    }

    /// Returns the name and the port.
    fn parts(&self) -> (&str, &str) {
        self.address.rsplit_once(':').unwrap_or((&self.address, ""))
    }

    fn port(&self) -> &str {
        self.parts().1
    }
}

/// Returns the addresses of other pages, for a reader who knows this server as `host`.
fn links<'l>(all: impl IntoIterator<Item = &'l PageLink>, host: &str) -> Vec<[String; 2]> {
    // Without the port, and only if it is a name or an address.
    let host = split_address(host).map_or("", |(name, _, _)| name);
    let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c));
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut found: Vec<[String; 2]> = Vec::new();
    for link in all {
        let PageLink { path, is_tls, is_own, .. } = link;
        let (name, port) = link.parts();
        let scheme = if *is_tls { "https" } else { "http" };
        let link = match name {
            _ if *is_own => (*path).to_owned(),
            // Another port each time.
            _ if port == "0" => continue,
            "" | "0.0.0.0" | "[::]" if is_host => format!("{scheme}://{host}:{port}{path}"),
            "" | "0.0.0.0" | "[::]" => continue,
            name => format!("{scheme}://{name}:{port}{path}"),
        };
        if found.iter().all(|[known, _]| *known != link) {
            found.push([link, (*path).to_owned()]);
        }
    }
    found
}

/// Returns the page `/top`: the lists as JSON, for local visitors. Its parameters are those of `clusterdns top`.
fn top_page(top: &LiveTop, visit: &PageVisit<'_>) -> PageContent {
    if !visit.is_local {
        return PageContent::forbidden(
            "who asks what is shown to visitors on the server's own address only, such as kubectl port-forward\n",
        );
    }
    match parse_query(visit.query) {
        Ok(ask) => PageContent { status: 200, content_type: "application/json", body: top.report(&ask).to_json() },
        Err(error) => PageContent::bad_request(error),
    }
}

fn parse_query(query: &str) -> Result<TopAsk, String> {
    let mut ask = TopAsk { number: TOP_ROWS, ..TopAsk::default() };
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let is_good = match name {
            "window" => value.parse().map(|window| ask.window = window).is_ok(),
            "by" => value.parse().map(|by| ask.by = Some(by)).is_ok(),
            "n" => parse_rows(value).map(|number| ask.number = number).is_some(),
            _ => return Err(format!("there is no parameter '{name}': expected window, by or n\n")),
        };
        if !is_good {
            let words = TopBy::WORDS;
            return Err(format!("'{part}': expected window=minute or hour, n=1 to {MAX_ROWS}, or by={words}\n"));
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

    #[test]
    fn other_pages_are_linked_where_they_can_be_reached() {
        let link = |address: &str, path| PageLink {
            address: address.to_owned(),
            path,
            is_tls: false,
            is_own: address == ":9153",
        };
        let own = [link(":9153", "/top"), link(":9153", "/metrics")];
        let others = [link(":8080", "/health"), link("127.0.0.1:8181", "/ready"), link(":0", "/x")];
        let all = [&own[..], &others].concat();
        let links_for = |host: &str| links(&all, host).into_iter().map(|[link, _]| link).collect::<Vec<_>>();
        let expected = ["/top", "/metrics", "http://10.0.0.1:8080/health", "http://127.0.0.1:8181/ready"];
        assert_eq!(links_for("10.0.0.1:9153"), expected);
        assert_eq!(links_for("[2001:db8::1]:9153")[2], "http://[2001:db8::1]:8080/health");
        for host in ["", "\"><script>", "a/b"] {
            assert_eq!(links_for(host), [expected[0], expected[1], expected[3]], "{host}");
        }
    }

    #[test]
    fn parameters_of_top_are_parsed() {
        let ask = parse_query("window=hour&by=name&n=200").expect("right");
        assert_eq!((ask.window, ask.by, ask.number), (TopWindow::Hour, Some(TopBy::Name), 200));
        assert_eq!(parse_query("").expect("right").number, TOP_ROWS);
        for (query, error) in [
            ("window=day", "'window=day': expected"),
            ("x", "there is no parameter 'x'"),
            ("n=-1", "'n=-1'"),
            ("n=0", "'n=0'"),
            ("n=201", "'n=201': expected"),
        ] {
            assert!(parse_query(query).expect_err(query).starts_with(error), "{query}");
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
