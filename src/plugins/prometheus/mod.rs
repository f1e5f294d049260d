//! *prometheus*: counts queries and answers, and names where `/metrics` is (CoreDNS `plugin/metrics`).
//!
//! ```text
//! sent(..) ─► the zone's `Counts` ─► cells of this thread ─── Queries ─► Registry ─► /metrics
//! ```

mod counts;
mod queries;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::Context;
use super::build::{BlockBuilder, BuildError, PageRequest, Setting};
use super::endpoint::Endpoint;
use super::path::rooted;
use crate::admin::PageContent;
use crate::chain::{Client, Exchange, Observer, Plugin, Sent, Step, Zones};
use crate::corefile::{Arguments, Directive};
use crate::telemetry::metrics;
use crate::wire::{NameBuf, Query, Rcode, Type};
use counts::{Counts, Seen};

pub use queries::Queries;

/// What the directive says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where `/metrics` is.
    pub address: Endpoint,
    /// A web configuration of the Prometheus exporter toolkit.
    pub tls: Option<PathBuf>,
}

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let address = Endpoint::read(&mut line, "localhost:9153");
    let mut tls = None;
    for property in line.body() {
        let mut inner = line.enter(property);
        match inner.name() {
            "runtime_metrics" => {
                inner.warning(&property.name, "'runtime_metrics' tells of Go's runtime, which is not in this server");
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
        let page = Arc::new(move || PageContent {
            status: 200,
            content_type: metrics::CONTENT_TYPE,
            body: metrics::text(&registry),
        });
        let (address, tls) = (self.address.clone(), self.tls.clone());
        block.page(PageRequest { directive: "prometheus", address, path: "/metrics", page, tls, task: None });
        let all = queries.clone();
        block.observe(move |server| Arc::new(Refused::new(&all, server)));
        block.plugin_per_listener(move |listener| {
            Prometheus::new(&queries, listener.server, listener.zones, listener.next)
        });
        Ok(())
    }
}

/// The plugin of a server block on one socket.
pub struct Prometheus {
    /// Which of `counts` a name belongs to, where there are several.
    zones: Zones,
    /// One for each zone; not empty.
    counts: Vec<Arc<Counts>>,
}

impl Prometheus {
    /// The plugin for these zones of a block. `server` is the socket, `behind` the plugin that comes next.
    pub fn new(queries: &Queries, server: &str, zones: &[NameBuf], behind: &'static str) -> Prometheus {
        let mut index = Zones::default();
        for (at, zone) in zones.iter().enumerate() {
            index.add(zone, at);
        }
        let counts = zones.iter().map(|zone| queries.counts(server, &zone.to_string(), behind));
        Prometheus { zones: index, counts: counts.collect() }
    }

    fn count(&self, seen: &Seen<'_>) {
        let counts = match self.counts.as_slice() {
            [] => return,
            [only] => only,
            several => match self.zones.longest(&seen.query.question) {
                Some(at) => &several[at],
                None => return,
            },
        };
        counts.add(seen);
    }
}

impl Plugin for Prometheus {
    fn name(&self) -> &'static str {
        "prometheus"
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, sent: &Sent) {
        let (qtype, dnssec_ok) = type_and_do(exchange);
        self.count(&Seen {
            query: exchange.query,
            qtype,
            dnssec_ok,
            client: exchange.client,
            start: exchange.started,
            rcode: exchange.state.reply.rcode,
            len: sent.len,
            by_server: exchange.state.bare,
        });
    }

    fn dropped(&self, exchange: &Exchange<'_>) {
        // CoreDNS counts the code of a reply that is not there.
        let (query, client, start) = (exchange.query, exchange.client, exchange.started);
        let (qtype, dnssec_ok) = type_and_do(exchange);
        self.count(&Seen { query, qtype, dnssec_ok, client, start, rcode: Rcode::NOERROR, len: 0, by_server: true });
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

/// Counts the queries of a socket that no block takes, as zone `dropped`.
pub struct Refused(Arc<Counts>);

impl Refused {
    /// For this socket.
    pub fn new(queries: &Queries, server: &str) -> Refused {
        Refused(queries.counts(server, "dropped", ""))
    }
}

impl Observer for Refused {
    fn refused(&self, query: &Query<'_>, client: Client, start: Instant, rcode: Rcode, len: usize) {
        // CoreDNS `Server.ServeDNS` answers another version of EDNS without counting it.
        if rcode != Rcode::BADVERS {
            let (qtype, dnssec_ok) = (query.question.qtype, query.edns.is_some_and(|edns| edns.dnssec_ok));
            self.0.add(&Seen { query, qtype, dnssec_ok, client, start, rcode, len, by_server: true });
        }
    }
}

#[cfg(test)]
mod tests;
