//! *prometheus*: counts queries and responses, and configures the address of `/metrics` (CoreDNS `plugin/metrics`).
//!
//! ```text
//! sent(..) ─► ZoneCounters of the zone ─► cells of this thread ─── Queries ─► Registry ─► /metrics
//! ```

mod counts;
mod queries;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::Context;
use super::build::{BlockBuilder, BuildError, PageRequest, Setting};
use super::page_address::PageAddress;
use super::path::rooted;
use crate::admin::{PageContent, PageVisit};
use crate::chain::{Calls, Client, Exchange, Observer, Plugin, Sent, Step, Zones};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics::{self, BlockLabels};
use crate::wire::{NameBuf, Query, Rcode, Type};
use counts::{CountedQuery, ZoneCounters};

pub use queries::Queries;

/// The configuration of the directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address of `/metrics`.
    pub address: PageAddress,
    /// A web configuration file of the Prometheus exporter toolkit, for HTTPS.
    pub tls: Option<PathBuf>,
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let address = PageAddress::read(&mut line, "localhost:9153");
    let mut tls = None;
    for property in line.body() {
        let mut inner = line.enter(property);
        match inner.name() {
            "runtime_metrics" => {
                let message = "'runtime_metrics' is about Go's runtime, which this server does not have";
                inner.warning(&property.name, message);
            }
            "tls" if tls.is_some() => {
                inner.error(&property.name, "tls block already specified");
                inner.ignore_rest();
            }
            "tls" => {
                let file = inner.exactly::<1>("a web configuration file");
                tls = file.and_then(|[file]| rooted(&mut inner, None, file));
            }
            _ => inner.unknown(["runtime_metrics", "tls"]),
        }
        inner.finish();
    }
    line.finish();
    let config = Config { address: address?, tls };
    (errors == context.diagnostics.has_errors()).then_some(config)
}

impl Setting for Config {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let metrics = &block.resources().metrics;
        let (queries, registry) = (metrics.get::<Queries>(), metrics.registry().clone());
        let page = Arc::new(move |_: &PageVisit<'_>| PageContent {
            status: 200,
            content_type: metrics::CONTENT_TYPE,
            body: metrics::text(&registry),
        });
        let (address, tls) = (self.address.clone(), self.tls.clone());
        block.page(PageRequest { tls, ..PageRequest::new("prometheus", address, "/metrics", page) });
        let all = queries.clone();
        block.observe(move |server| Arc::new(Refused::new(&all, server)));
        block.plugin_per_listener(move |listener| {
            Prometheus::new(&queries, listener.labels, listener.zones, listener.next)
        });
        Ok(())
    }
}

/// Counts the queries of a server block on a socket.
pub struct Prometheus {
    /// The index of each zone in `counters`.
    zones: Zones,
    /// The counters of each zone.
    counters: Vec<Arc<ZoneCounters>>,
}

impl Prometheus {
    /// Creates the plugin for the zones of a server block. `next_plugin` is the name of the plugin after this one.
    pub fn new(queries: &Queries, labels: &BlockLabels, zones: &[NameBuf], next_plugin: &'static str) -> Prometheus {
        let mut index = Zones::default();
        for (at, zone) in zones.iter().enumerate() {
            index.add(zone, at);
        }
        let counters = zones.iter().map(|zone| queries.counters(labels, &zone.to_string(), next_plugin));
        Prometheus { zones: index, counters: counters.collect() }
    }

    /// Counts a query with the code and length of its response.
    fn record(&self, exchange: &Exchange<'_>, rcode: Rcode, len: usize, by_server: bool) {
        let Exchange { query, client, started: start, .. } = *exchange;
        let (qtype, dnssec_ok) = type_and_do(exchange);
        self.count(&CountedQuery { query, qtype, dnssec_ok, client, start, rcode, len, by_server });
    }

    fn count(&self, counted: &CountedQuery<'_>) {
        let counters = match self.counters.as_slice() {
            [] => return,
            [only] => only,
            several => match self.zones.longest(&counted.query.question) {
                Some(at) => &several[at],
                None => return,
            },
        };
        counters.add(counted);
    }
}

impl Plugin for Prometheus {
    fn name(&self) -> &'static str {
        "prometheus"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: false, sent: true }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, sent: &Sent<'_>) {
        self.record(exchange, exchange.state.reply.rcode, sent.len, exchange.state.bare);
    }

    fn dropped(&self, exchange: &Exchange<'_>) {
        // CoreDNS counts the code of the reply that it does not send.
        self.record(exchange, Rcode::NOERROR, 0, true);
    }
}

/// Returns the query type and DO as *rewrite* has changed them, as CoreDNS counts them.
fn type_and_do(exchange: &Exchange<'_>) -> (Type, bool) {
    let of = |query: &Query<'_>| (query.question.qtype, query.edns.is_some_and(|edns| edns.dnssec_ok));
    match exchange.state.rewritten() {
        None => of(exchange.query),
        Some(rewritten) => rewritten.query().as_ref().map_or_else(|| of(exchange.query), of),
    }
}

/// Counts the queries of a socket that no server block answers. Their zone is `dropped`.
pub struct Refused(Arc<ZoneCounters>);

impl Refused {
    /// Creates the observer of the socket with this label.
    pub fn new(queries: &Queries, server: &str) -> Refused {
        Refused(queries.counters(&BlockLabels::new(server, ""), "dropped", ""))
    }
}

impl Observer for Refused {
    fn refused(&self, query: &Query<'_>, client: Client, start: Instant, rcode: Rcode, len: usize) {
        // CoreDNS `Server.ServeDNS` does not count queries with another version of EDNS.
        if rcode != Rcode::BADVERS {
            let (qtype, dnssec_ok) = (query.question.qtype, query.edns.is_some_and(|edns| edns.dnssec_ok));
            self.0.add(&CountedQuery { query, qtype, dnssec_ok, client, start, rcode, len, by_server: true });
        }
    }
}

#[cfg(test)]
mod tests;
