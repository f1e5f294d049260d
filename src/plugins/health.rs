//! *health*: the address of the HTTP page for liveness probes, and the time that the server goes on after SIGTERM.
//!
//! It adds no plugin to the chain. The page always responds with OK. To detect overload, the server requests it from
//! itself once a second and measures the time (CoreDNS `plugin/health/overloaded.go`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Context;
use super::build::{BlockBuilder, BlockOptions, BuildError, PageRequest, Setting};
use super::page_address::PageAddress;
use crate::admin::{self, PageContent, PageVisit, probe};
use crate::chain::pending::BoxFuture;
use crate::corefile::{Arguments, Directive, parse_duration};
use crate::telemetry::metrics::{Histogram, IntCounter, Registry, SharedMetrics, table};

/// The interval at which the server requests its own page; CoreDNS's.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A probe that takes longer is logged.
const SLOW: Duration = Duration::from_secs(1);

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address of the page.
    pub address: PageAddress,
    /// How long queries and pages are still served after SIGTERM or SIGINT.
    pub lameduck: Duration,
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.lameduck = self.lameduck;
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        // The process is alive if it can answer.
        let page = Arc::new(|_: &PageVisit<'_>| PageContent::ok());
        let (address, metrics) = (self.address.clone(), metrics(&block.resources().metrics));
        let text = address.to_string();
        let task = Arc::new(move |address: SocketAddr| -> BoxFuture<()> {
            Box::pin(probe_itself(address, text.clone(), metrics.clone()))
        });
        block.page(PageRequest { task: Some(task), ..PageRequest::new("health", address, "/health", page) });
        Ok(())
    }
}

/// The duration and the failures of probes.
struct ProbeMetrics {
    duration: Histogram,
    failures: IntCounter,
}

/// Registers the metrics of this directive, which CoreDNS shows without it too.
pub fn register_metrics(metrics: &SharedMetrics) {
    self::metrics(metrics);
}

fn metrics(metrics: &SharedMetrics) -> Arc<ProbeMetrics> {
    metrics.get_or_make(|registry: &Registry| {
        let (duration, failures) =
            (table::HEALTH_DURATION.histogram(registry), table::HEALTH_FAILURES.counter(registry));
        Arc::new(ProbeMetrics { duration, failures })
    })
}

/// Requests `/health` once a second, as CoreDNS does: a server that answers itself slowly is overloaded.
async fn probe_itself(address: SocketAddr, text: String, metrics: Arc<ProbeMetrics>) {
    loop {
        tokio::time::sleep(PROBE_INTERVAL).await;
        let start = Instant::now();
        let result = probe::probe(admin::reachable(address), "/health").await;
        let duration = start.elapsed();
        metrics.duration.observe(duration.as_secs_f64());
        if let Err(error) = result {
            metrics.failures.inc();
            tracing::warn!(plugin = "health", "Local health request to \"http://{text}/health\" failed: {error}");
        } else if duration > SLOW {
            let text = format!("Local health request to \"http://{text}/health\" took more than 1s: {duration:?}");
            tracing::warn!(plugin = "health", "{text}");
        }
    }
}

/// Parses the directive; the last stanza of a server block is used, as in CoreDNS.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = None;
    let mut lameduck = Duration::ZERO;
    for (index, stanza) in stanzas.iter().enumerate() {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if index > 0 {
            line.warning(&stanza.name, "only the last 'health' of a server block is used");
        }
        let address = PageAddress::read(&mut line, ":8080");
        for property in line.body() {
            let mut inner = line.enter(property);
            match inner.name() {
                "lameduck" => lameduck = parse_lameduck(&mut inner).unwrap_or_default(),
                _ => inner.unknown(["lameduck"]),
            }
            inner.finish();
        }
        line.finish();
        config = address.map(|address| Config { address, lameduck });
    }
    config.filter(|_| errors == context.diagnostics.has_errors())
}

/// Parses the duration of `lameduck`. As in CoreDNS, a negative one is 0.
fn parse_lameduck(line: &mut Arguments<'_, '_>) -> Option<Duration> {
    let word = line.peek();
    let nanoseconds = line.parse("a duration such as 5s", |text| {
        parse_duration(text).map_err(|error| format!("unable to parse lameduck duration value: '{text}' : {error}"))
    })?;
    if let (true, Some(word)) = (nanoseconds < 0, word) {
        line.warning(word, "a negative duration counts as 0s");
    }
    Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config, read};
    use super::*;

    #[test]
    fn the_directive_is_parsed() {
        let text = |lines: &str| {
            let config = config(lines, parse);
            format!("{} {:?}", config.address, config.lameduck)
        };
        assert_eq!(text("health"), ":8080 0ns");
        assert_eq!(text("health 127.0.0.1:1 {\n lameduck 1m5s\n}"), "127.0.0.1:1 65s");
        let (config, messages) = read("health {\n lameduck 5s\n}\nhealth :1", parse);
        assert_eq!(config.expect("good").address.to_string(), ":1");
        assert_eq!(messages, ["only the last 'health' of a server block is used"]);
        assert_eq!(read("health {\n lameduck -5s\n}", parse).0.expect("good").lameduck, Duration::ZERO);
    }

    #[test]
    fn errors_are_reported() {
        for (lines, message) in [
            ("health 8080", "address 8080: missing port in address (:8080?)"),
            ("health :1 :2", "Wrong argument count or unexpected line ending after ':2'"),
            ("health {\n lameduck\n}", "Wrong argument count or unexpected line ending after 'lameduck'"),
            (
                "health {\n lameduck 5\n}",
                "unable to parse lameduck duration value: '5' : time: missing unit in duration \"5\"",
            ),
            ("health {\n lameduk 5s\n}", "unknown property 'lameduk' (lameduck?)"),
        ] {
            assert_eq!(read(lines, parse).1, [message], "{lines}");
        }
    }
}
