//! *dnstap*: sends queries and responses of clients and of upstreams to readers of dnstap (CoreDNS `plugin/dnstap`).
//!
//! ```text
//! query, sent, attempts at upstreams ─► message ─► Queue ─► a task: Frame Streams over unix, TCP or TLS ─► reader
//!                                                    └ full, or without a reader: dropped and counted
//! ```

mod config;
mod frames;
mod listener;
mod message;
mod queue;
mod sender;
mod stream;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::watch;

use crate::chain::pending::BoxFuture;
use crate::chain::{Calls, Exchange, ExplainNotes, Explained, Plugin, Sent, Step, UpstreamTap};
use crate::plugins::build::{BlockBuilder, BuildError, Chore, Phase, Setting};
use crate::plugins::placeholders::Format;
use crate::telemetry::metrics::{Collected, Family, Metric, MetricFamily, table};
use crate::telemetry::wall_clock::since_1970;
use crate::upstream::{AttemptTap, TappedAttempt};

pub use config::{Config, Sink, TapEndpoint, TapStanzas, parse};
use listener::Broadcaster;
use message::{Dnstap, TapKind, TapMessage};
use queue::Queue;
use sender::Sender;
use stream::STOP_TIMEOUT;

/// The interval of log lines about dropped messages (CoreDNS `errorCheckInterval`).
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// The maximum capacity of the buffer that a thread reuses for its next message, in bytes.
const MAX_BUFFER: usize = 4 * 1024;
/// The label of *metadata* that *forward* knows only when it sends the query.
const UPSTREAM_LABEL: &str = "forward/upstream";
/// What takes the place of that label's value until it is known: a code point that no text has.
const UPSTREAM_MARK: &str = "\u{fdd0}";

thread_local! {
    /// The buffer for an encoded message, reused to avoid allocations.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Setting for TapStanzas {
    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        let resources = block.resources();
        let dropped = resources.metrics.get::<Dropped>();
        let taps = block.carry_over(|| Taps::new(&self.0, &resources.hostname, resources.version, &dropped.0));
        for task in taps.take_tasks() {
            block.task(|| task);
        }
        let lifecycle = resources.lifecycle.clone();
        let (reported, stopped) = (taps.clone(), taps.clone());
        block.chore(Chore {
            every: REPORT_INTERVAL,
            run: Box::new(move |_| {
                reported.report();
                false
            }),
            // After a reload, the tasks end when nothing uses the taps any more.
            stop: Some(Box::new(move || {
                if lifecycle.phase() == Phase::Ending {
                    stopped.stop();
                }
            })),
        });
        let plugin = Arc::new(DnstapPlugin { taps });
        block.tap_upstreams(plugin.clone());
        block.shared_plugin(plugin);
        Ok(())
    }
}

/// The number of dropped messages of the process.
#[derive(Default)]
pub struct Dropped(Arc<AtomicU64>);

impl Collected for Dropped {
    const METRICS: &'static [&'static Metric] = &[&table::DNSTAP_DROPPED];

    fn families(&self) -> Vec<MetricFamily> {
        let mut family = Family::new(&table::DNSTAP_DROPPED);
        family.value(&[], self.0.load(Ordering::Relaxed) as f64);
        vec![family.done()]
    }
}

/// The plugin of a server block.
pub struct DnstapPlugin {
    taps: Arc<Taps>,
}

/// The stanzas of a block with their tasks. The tasks end when this is dropped.
struct Taps {
    taps: Vec<Tap>,
    /// The tasks that have not been started.
    tasks: Mutex<Vec<BoxFuture<()>>>,
    running: Arc<RunningTasks>,
    stop: watch::Sender<bool>,
}

/// A stanza.
struct Tap {
    is_full: bool,
    identity: Bytes,
    version: Bytes,
    extra: Option<Format>,
    queue: Arc<Queue>,
}

/// The number of tasks that run.
#[derive(Default)]
struct RunningTasks {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Taps {
    fn new(configs: &[Config], hostname: &str, version: &str, dropped: &Arc<AtomicU64>) -> Taps {
        let (stop, stops) = watch::channel(false);
        let running = Arc::new(RunningTasks::default());
        let (mut taps, mut tasks) = (Vec::new(), Vec::<BoxFuture<()>>::new());
        for config in configs {
            let queue = Arc::new(Queue::new(config.queue, dropped.clone()));
            let text = |configured: &Option<String>, default: &str| {
                Bytes::copy_from_slice(configured.as_deref().unwrap_or(default).as_bytes())
            };
            taps.push(Tap {
                is_full: config.is_full,
                identity: text(&config.identity, hostname),
                version: text(&config.version, version),
                extra: config.extra.clone(),
                queue: queue.clone(),
            });
            let (config, stops, running) = (config.clone(), stops.clone(), running.clone());
            tasks.push(Box::pin(async move {
                *running.count.lock() += 1;
                match &config.sink {
                    Sink::Connect { endpoint, is_verified } => {
                        let (write_buffer, is_verified) = (config.write_buffer, *is_verified);
                        Sender { endpoint, write_buffer, is_verified, queue: &queue }.run(stops).await;
                    }
                    Sink::Listen { endpoint, tls } => {
                        Broadcaster { endpoint, tls: tls.as_ref(), queue: &queue }.run(stops).await;
                    }
                }
                *running.count.lock() -= 1;
                running.changed.notify_all();
            }));
        }
        Taps { taps, tasks: Mutex::new(tasks), running, stop }
    }

    /// Returns the tasks, the first time.
    fn take_tasks(&self) -> Vec<BoxFuture<()>> {
        std::mem::take(&mut self.tasks.lock())
    }

    /// Logs the number of dropped messages, if there are any.
    fn report(&self) {
        for tap in &self.taps {
            let dropped = tap.queue.take_dropped();
            if dropped > 0 {
                tracing::warn!(plugin = "dnstap", "Dropped dnstap messages: {dropped}");
            }
        }
    }

    /// Ends the tasks, after they have written the messages that they have. Blocks for a limited time.
    fn stop(&self) {
        self.stop.send_replace(true);
        let end = Instant::now() + STOP_TIMEOUT + STOP_TIMEOUT;
        let mut count = self.running.count.lock();
        while *count > 0 && !self.running.changed.wait_until(&mut count, end).timed_out() {}
    }
}

impl Tap {
    /// Sends a message with this extra field.
    fn send(&self, message: TapMessage, extra: Option<String>) {
        let envelope = Dnstap {
            identity: Some(self.identity.clone()),
            version: Some(self.version.clone()),
            extra: extra.map(Bytes::from),
            message: Some(message),
            kind: message::MESSAGE,
        };
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            // Encoding into a vector cannot fail.
            let _ = envelope.encode(encoded);
            self.queue.push(encoded);
            encoded.shrink_to(MAX_BUFFER);
        });
    }

    /// Returns the extra field of messages about a query, with `upstream` as the value of its label.
    fn extra_of(&self, exchange: &Exchange<'_>, upstream: Option<&str>) -> Option<String> {
        let format = self.extra.as_ref()?;
        let mut text = String::new();
        // Writing to a `String` cannot fail. Placeholders about the response have no value, as in CoreDNS.
        let _ = exchange.with_values(None, |values| {
            values.write(format, &mut text, |label| match (label, upstream) {
                (UPSTREAM_LABEL, Some(upstream)) if exchange.has_metadata() => Some(upstream.to_owned()),
                _ => exchange.metadata(label),
            })
        });
        Some(text)
    }
}

impl DnstapPlugin {
    /// Sends a message about a client to every reader. `add` adds the wire form.
    fn send(&self, exchange: &Exchange<'_>, make: impl Fn() -> TapMessage, add: impl Fn(&mut TapMessage)) {
        for tap in self.taps.taps.iter().filter(|tap| tap.queue.accepts()) {
            let mut message = make();
            message.set_query_address(exchange.client.remote);
            message.set_query_time(since_1970(exchange.started));
            if tap.is_full {
                add(&mut message);
            }
            tap.send(message, tap.extra_of(exchange, None));
        }
    }
}

impl Plugin for DnstapPlugin {
    fn name(&self) -> &'static str {
        "dnstap"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: false, sent: true }
    }

    fn explain(&self, _: &mut Exchange<'_>, _: &mut ExplainNotes) -> Explained {
        Explained::Next
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        // No client has sent an internal look-up.
        if exchange.depth() == 0 {
            let is_udp = exchange.client.transport.name() == "udp";
            let add = |message: &mut TapMessage| message.query_message = Some(wire(exchange.query.packet()));
            self.send(exchange, || TapMessage::new(TapKind::ClientQuery, is_udp), add);
        }
        Step::Next
    }

    fn sent(&self, exchange: &Exchange<'_>, sent: &Sent<'_>) {
        let is_udp = exchange.client.transport.name() == "udp";
        let make = || {
            let mut message = TapMessage::new(TapKind::ClientResponse, is_udp);
            message.set_response_time(since_1970(Instant::now()));
            message
        };
        self.send(exchange, make, |message| message.response_message = Some(wire(sent.message())));
    }
}

impl UpstreamTap for DnstapPlugin {
    fn begin(&self, exchange: &Exchange<'_>) -> Option<Box<dyn AttemptTap>> {
        let extras = self.taps.taps.iter().map(|tap| tap.extra_of(exchange, Some(UPSTREAM_MARK))).collect();
        Some(Box::new(TappedQuery { taps: self.taps.clone(), extras }))
    }
}

/// A query that *forward* sends.
struct TappedQuery {
    taps: Arc<Taps>,
    /// The extra field for each stanza.
    extras: Vec<Option<String>>,
}

impl TappedQuery {
    fn send(&self, attempt: &TappedAttempt<'_>, make: impl Fn(bool) -> TapMessage) {
        for (tap, extra) in self.taps.taps.iter().zip(&self.extras).filter(|(tap, _)| tap.queue.accepts()) {
            let mut message = make(tap.is_full);
            if let Some(local) = attempt.local {
                message.set_query_address(local);
            }
            message.set_response_address(attempt.upstream.address);
            message.set_query_time(since_1970(attempt.started));
            let extra = extra.as_ref().map(|extra| extra.replace(UPSTREAM_MARK, &attempt.upstream.label));
            tap.send(message, extra);
        }
    }
}

impl AttemptTap for TappedQuery {
    fn sent(&self, attempt: &TappedAttempt<'_>, query: &[u8]) {
        self.send(attempt, |is_full| TapMessage {
            query_message: is_full.then(|| wire(query)),
            ..TapMessage::new(TapKind::ForwarderQuery, !attempt.is_stream)
        });
    }

    fn ended(&self, attempt: &TappedAttempt<'_>, response: Option<&[u8]>, now: Instant) {
        let Some(response) = response else { return };
        self.send(attempt, |is_full| {
            let mut message = TapMessage::new(TapKind::ForwarderResponse, !attempt.is_stream);
            message.response_message = is_full.then(|| wire(response));
            message.set_response_time(since_1970(now));
            message
        });
    }
}

/// Returns a message in wire form.
fn wire(message: &[u8]) -> Bytes {
    Bytes::copy_from_slice(message)
}

#[cfg(test)]
mod tests;
