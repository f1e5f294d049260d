//! *trace*: sends spans of queries to a collector: a span of the query, one for each plugin that gets it, and one for
//! each attempt at an upstream (CoreDNS `plugin/trace`). Blocks with it have every later plugin in a [`TracedPlugin`].

mod config;
mod encode;
mod reporter;
mod span;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::chain::pending::BoxFuture;
use crate::chain::{
    Calls, Exchange, ExplainNotes, Explained, ExplainedReply, Filter, Plugin, Sent, Step, UpstreamTap, Wait,
};
use crate::net::ClientSpan;
use crate::plugins::build::{BlockBuilder, BuildError, Chore, Phase, Setting};
use crate::telemetry::metrics::{Collected, Family, Metric, MetricFamily, table};
use crate::telemetry::wall_clock::since_1970;
use crate::upstream::{AttemptTap, Error};
use crate::wire::{NameBuf, Question};

pub use config::{CollectorKind, TraceConfig, parse};
use encode::TracedService;
use reporter::{Backlog, Reporter};
use span::{QueryTrace, TracedAttempts};

/// The label of *metadata*.
const LABEL: &str = "trace/traceid";
/// The time to send the last spans.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

impl Setting for TraceConfig {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let address = block.first_address();
        let dropped = block.resources().metrics.get::<DroppedSpans>();
        let sending = block.carry_over(|| Sending::new(self, address, dropped.0.clone()));
        if let Some(task) = sending.task.lock().take() {
            block.task(|| task);
        }
        let (lifecycle, stopped) = (block.resources().lifecycle.clone(), sending.clone());
        block.chore(Chore {
            every: Duration::from_secs(3600),
            run: Box::new(|_| false),
            stop: Some(Box::new(move || {
                if lifecycle.phase() == Phase::Ending {
                    stopped.stop();
                }
            })),
        });
        let plugin = Arc::new(TracePlugin::new(self, sending));
        block.tap_upstreams(plugin.clone());
        block.shared_plugin(plugin);
        if self.kind == CollectorKind::Zipkin {
            block.wrap_later_plugins(|number, plugin| Arc::new(TracedPlugin { number, plugin }));
        }
        Ok(())
    }
}

/// The number of dropped spans of the process.
#[derive(Default)]
pub struct DroppedSpans(Arc<AtomicU64>);

impl Collected for DroppedSpans {
    const METRICS: &'static [&'static Metric] = &[&table::TRACE_DROPPED];

    fn families(&self) -> Vec<MetricFamily> {
        let mut family = Family::new(&table::TRACE_DROPPED);
        family.value(&[], self.0.load(Ordering::Relaxed) as f64);
        vec![family.done()]
    }
}

/// The backlog of a block and the task that sends it. The task ends when this is dropped.
struct Sending {
    backlog: Arc<Backlog>,
    /// The task, until it is started.
    task: Mutex<Option<BoxFuture<()>>>,
    stop: watch::Sender<bool>,
    has_ended: Arc<(Mutex<bool>, Condvar)>,
}

impl Sending {
    fn new(config: &TraceConfig, address: Option<SocketAddr>, dropped: Arc<AtomicU64>) -> Sending {
        let (stop, stops) = watch::channel(false);
        let backlog = Arc::new(Backlog::new(config, dropped));
        let has_ended = Arc::new((Mutex::new(false), Condvar::new()));
        let service = TracedService {
            kind: config.kind,
            name: config.service.clone(),
            address,
            analytics_rate: config.analytics_rate,
        };
        let url = config.url.parse().expect("parsed with the configuration");
        let reporter = Reporter { service, url, interval: config.interval };
        let (of_task, ended) = (backlog.clone(), has_ended.clone());
        let task: BoxFuture<()> = Box::pin(async move {
            reporter.run(&of_task, stops).await;
            *ended.0.lock() = true;
            ended.1.notify_all();
        });
        Sending { backlog, task: Mutex::new(Some(task)), stop, has_ended }
    }

    /// Sends the last spans. Blocks for a limited time.
    fn stop(&self) {
        self.stop.send_replace(true);
        let (has_ended, changed) = &*self.has_ended;
        let mut has_ended = has_ended.lock();
        if !*has_ended {
            changed.wait_for(&mut has_ended, STOP_TIMEOUT);
        }
    }
}

/// The plugin of a server block.
struct TracePlugin {
    /// One query of this number is traced; 0 traces none.
    every: u64,
    /// The traces that clients name in header fields are continued, in Zipkin's form only.
    continues_traces: bool,
    /// The span of a query has the ID that the client gives it.
    shares_spans: bool,
    count: AtomicU64,
    sending: Arc<Sending>,
}

impl TracePlugin {
    fn new(config: &TraceConfig, sending: Arc<Sending>) -> TracePlugin {
        TracePlugin {
            every: config.every,
            continues_traces: config.kind == CollectorKind::Zipkin,
            shares_spans: config.shares_spans,
            count: AtomicU64::new(0),
            sending,
        }
    }

    /// Ends the trace of a query, if it has one.
    fn finish(&self, exchange: &Exchange<'_>, rcode: String) {
        let Some(trace) = exchange.state.notes.get::<QueryTrace>() else { return };
        let spans = trace.finish(|span, now| {
            span.start = since_1970(exchange.started);
            span.duration = now.saturating_duration_since(exchange.started);
            span.tags = vec![
                ("coredns.io/name", exchange.question().name().to_string()),
                ("coredns.io/type", exchange.question().qtype.to_string()),
                ("coredns.io/proto", exchange.client.transport.name().to_owned()),
                ("coredns.io/remote", exchange.client.remote.ip().to_canonical().to_string()),
                ("coredns.io/rcode", rcode),
            ];
            span.error = exchange.state.failure.as_ref().map(ToString::to_string);
        });
        if let Some(spans) = spans {
            self.sending.backlog.push(spans);
        }
    }
}

impl Plugin for TracePlugin {
    fn name(&self) -> &'static str {
        "trace"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: false, sent: true }
    }

    fn explain(&self, _: &mut Exchange<'_>, _: &mut ExplainNotes) -> Explained {
        Explained::Next
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        // An internal look-up is not a query of a client.
        if self.every > 0 && exchange.depth() == 0 {
            let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
            if number.is_multiple_of(self.every) {
                let client = exchange.state.notes.get::<ClientSpan>().filter(|_| self.continues_traces);
                let trace = QueryTrace::new(self.sending.backlog.is_open(), client, self.shares_spans);
                exchange.state.notes.add(Arc::new(trace));
            }
        }
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, _: &Sent<'_>) {
        self.finish(exchange, exchange.state.reply.rcode.to_string());
    }

    fn dropped(&self, exchange: &Exchange<'_>) {
        // CoreDNS has the code of a response that was not written.
        self.finish(exchange, "NOERROR".to_owned());
    }

    fn metadata(&self, exchange: &Exchange<'_>, label: &str) -> Option<String> {
        if label != LABEL {
            return None;
        }
        let trace = exchange.state.notes.get::<QueryTrace>()?;
        Some(encode::trace_text(trace.id))
    }
}

impl UpstreamTap for TracePlugin {
    fn begin(&self, exchange: &Exchange<'_>) -> Option<Box<dyn AttemptTap>> {
        let trace = exchange.state.notes.find::<QueryTrace>().filter(|trace| trace.is_recorded())?;
        Some(Box::new(TracedAttempts(trace)))
    }
}

/// A plugin after *trace*, which records the span of the plugin.
struct TracedPlugin {
    /// The number of the plugin, which no other one of the chain has.
    number: usize,
    plugin: Arc<dyn Plugin>,
}

impl TracedPlugin {
    /// Ends the span of the plugin.
    fn end(&self, exchange: &Exchange<'_>) {
        if let Some(trace) = exchange.state.notes.get::<QueryTrace>() {
            trace.end(self.number);
        }
    }
}

impl Plugin for TracedPlugin {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    // The span begins with the query and ends with the reply, even if the plugin needs neither.
    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, ..self.plugin.calls() }
    }

    fn explain(&self, exchange: &mut Exchange<'_>, notes: &mut ExplainNotes) -> Explained {
        self.plugin.explain(exchange, notes)
    }

    fn explain_reply(&self, exchange: &mut Exchange<'_>, lines: &mut Vec<String>) -> ExplainedReply {
        self.plugin.explain_reply(exchange, lines)
    }

    fn uses_replies(&self) -> bool {
        self.plugin.uses_replies()
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if let Some(trace) = exchange.state.notes.get::<QueryTrace>() {
            trace.begin(self.number, self.plugin.name());
        }
        self.plugin.query(exchange)
    }

    fn answered(&self, exchange: &mut Exchange<'_>, outcome: Result<(), Error>) -> Step {
        self.plugin.answered(exchange, outcome)
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        let wait = self.plugin.reply(exchange);
        if wait.is_none() {
            self.end(exchange);
        }
        wait
    }

    fn sent(&self, exchange: &Exchange<'_>, sent: &Sent<'_>) {
        self.plugin.sent(exchange, sent);
    }

    fn dropped(&self, exchange: &Exchange<'_>) {
        self.plugin.dropped(exchange);
    }

    fn claims(&self, question: &Question) -> bool {
        self.plugin.claims(question)
    }

    fn stores_replies(&self) -> bool {
        self.plugin.stores_replies()
    }

    fn search_list(&self, exchange: &Exchange<'_>) -> Option<Vec<NameBuf>> {
        self.plugin.search_list(exchange)
    }

    fn unready(&self) -> Option<String> {
        self.plugin.unready()
    }

    fn time_limit(&self) -> Option<Duration> {
        self.plugin.time_limit()
    }

    fn filter(&self) -> Option<&dyn Filter> {
        self.plugin.filter()
    }

    fn metadata(&self, exchange: &Exchange<'_>, label: &str) -> Option<String> {
        self.plugin.metadata(exchange, label)
    }
}

#[cfg(test)]
mod tests;
