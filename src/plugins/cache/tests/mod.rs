//! Queries through a cache and a backend plugin with a given response; the time is an argument.

mod cached;
mod limits;
mod refreshes;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::testing::{client, config, n};
use super::*;
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Answer, Block, Chain, Client, Router, State, Surroundings, Work};
use crate::telemetry::metrics::{Collected, Observed, Registry, register, text};
use crate::upstream::Error;
use crate::wire::record::SoaNumbers;
use crate::wire::{Class, NameRef, Rdata, Record, Section, Type};

/// The response of the backend.
type Responder = Box<dyn FnMut(&mut Exchange<'_>) -> Step + Send>;

/// Background tasks that have not run yet.
type BackgroundTasks = Arc<Mutex<Vec<BoxFuture<()>>>>;

/// A cache with a backend plugin, and its environment.
struct TestCache {
    router: Arc<Router>,
    block_cache: Arc<BlockCache>,
    metrics: Arc<CacheMetrics>,
    responder: Arc<Mutex<Responder>>,
    /// The number of queries that reached the backend.
    queries: Arc<AtomicUsize>,
    start: Instant,
    now: Arc<Mutex<Instant>>,
    background: BackgroundTasks,
    /// Whether timers end at once.
    timers_fire: Arc<Mutex<bool>>,
}

/// The backend plugin.
struct Backend {
    responder: Arc<Mutex<Responder>>,
    queries: Arc<AtomicUsize>,
    time_limit: Option<Duration>,
}

impl Plugin for Backend {
    fn name(&self) -> &'static str {
        "backend"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.queries.fetch_add(1, Ordering::Relaxed);
        assert!(exchange.state.flag_changes.set & flag::AD != 0, "the cache requests AD");
        (self.responder.lock())(exchange)
    }

    fn time_limit(&self) -> Option<Duration> {
        self.time_limit
    }
}

impl TestCache {
    /// Creates a cache with these lines, and a backend with A records, 192.0.2.1 with a TTL of 60.
    fn new(lines: &str) -> TestCache {
        TestCache::with_time_limit(lines, None)
    }

    /// Like [`TestCache::new`], for queries that are given up after a time.
    fn with_time_limit(lines: &str, time_limit: Option<Duration>) -> TestCache {
        let block_cache = Arc::new(BlockCache::new(config(lines, parse), &[n("live.")], &[n("shared.")]));
        let metrics = Arc::new(CacheMetrics::default());
        let counters = block_cache.counters(&metrics, &BlockLabels::new("dns://:53", ""));
        let responder: Arc<Mutex<Responder>> = Arc::new(Mutex::new(address(60, 1)));
        let queries = Arc::<AtomicUsize>::default();
        let backend = Backend { responder: responder.clone(), queries: queries.clone(), time_limit };
        let cache = Cache::new(block_cache.clone(), counters);
        let chain = Chain::new(vec![Arc::new(cache), Arc::new(backend)]);
        let start = Instant::now();
        let now = Arc::new(Mutex::new(start));
        let background = BackgroundTasks::default();
        let timers_fire = Arc::<Mutex<bool>>::default();
        let (clock, spawned, fire) = (now.clone(), background.clone(), timers_fire.clone());
        let surroundings = Surroundings {
            clock: Arc::new(move || *clock.lock()),
            spawner: Arc::new(move |future| spawned.lock().push(future)),
            timer: Arc::new(move |_| {
                if *fire.lock() { Box::pin(std::future::ready(())) } else { Box::pin(std::future::pending()) }
            }),
            tap: None,
        };
        let router = Router::new(vec![Block { zones: vec![n(".")], chain }], true).surrounded_by(surroundings);
        let router = Arc::new(router);
        TestCache { router, block_cache, metrics, responder, queries, start, now, background, timers_fire }
    }

    /// Sets the response of the backend.
    fn respond(&self, responder: Responder) {
        *self.responder.lock() = responder;
    }

    /// Sets the time to this number of seconds after the start.
    fn at(&self, seconds: u64) -> &TestCache {
        *self.now.lock() = self.start + Duration::from_secs(seconds);
        self
    }

    /// Sends a query, and shows the response: code, flags, TTL and data of each record, and `*` if the query reached
    /// the backend.
    fn ask(&self, name: &str) -> String {
        self.send(&packet(name, Type::A, Class::IN, &[]))
    }

    fn send(&self, packet: &[u8]) -> String {
        let before = self.queries.load(Ordering::Relaxed);
        let state = self.state(packet);
        let mut text = show(&state);
        if self.queries.load(Ordering::Relaxed) > before {
            text.push_str(" *");
        }
        text
    }

    /// Returns the state after the response.
    fn state(&self, packet: &[u8]) -> State {
        let (mut state, mut out) = (State::default(), [0; 4096]);
        let now = *self.now.lock();
        match self.router.answer(packet, client("127.0.0.1:9"), now, &mut state, &mut out) {
            Answer::Send(_) => state,
            Answer::Drop => panic!("an answer"),
            Answer::Pending(pending) => block_on(pending.finish()).expect("an answer").into_state(),
        }
    }

    /// Runs background tasks, and returns their number.
    fn run_background(&self) -> usize {
        let futures = std::mem::take(&mut *self.background.lock());
        let count = futures.len();
        futures.into_iter().for_each(block_on);
        count
    }

    /// Returns the number of queries that reached the backend since the last call.
    fn queries(&self) -> usize {
        self.queries.swap(0, Ordering::Relaxed)
    }

    /// Returns a metric by its name and type without prefix, or 0 if it is absent.
    fn count(&self, name: &str) -> u64 {
        let registry = Registry::new();
        let metrics = self.metrics.clone();
        register(&registry, Observed::new(CacheMetrics::METRICS, move || metrics.families()));
        let text = text(&registry);
        let (name, rtype) = name.split_once(' ').unwrap_or((name, ""));
        let fits = |line: &&str| line.starts_with(&format!("coredns_cache_{name}{{")) && line.contains(rtype);
        text.lines().find(fits).map_or(0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Builds a query; `+do`, `+cd` and `+ad` are its flags.
fn packet(name: &str, qtype: Type, class: Class, flags: &[&str]) -> Vec<u8> {
    let dnssec_ok = flags.contains(&"+do");
    let bits = if flags.contains(&"+cd") { 0x10 } else { 0 } | if flags.contains(&"+ad") { 0x20 } else { 0 };
    let mut packet = vec![0x04, 0xd2, 1, bits, 0, 1, 0, 0, 0, 0, 0, u8::from(dnssec_ok)];
    packet.extend(n(name).as_wire());
    packet.extend(qtype.0.to_be_bytes());
    packet.extend(class.0.to_be_bytes());
    if dnssec_ok {
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
    }
    packet
}

fn show(state: &State) -> String {
    let reply = &state.reply;
    let flag = |is_set, text: &'static str| if is_set { text } else { "" };
    let mut text = format!(
        "{}{}{}{}",
        reply.rcode,
        flag(reply.authoritative, " aa"),
        flag(reply.recursion_available, " ra"),
        flag(reply.authentic_data, " ad")
    );
    for record in reply.records() {
        text.push_str(&match record.rdata {
            Rdata::A(bytes) => format!(" {}:{}", record.ttl, bytes[3]),
            _ => format!(" {}:{}", record.ttl, record.rtype),
        });
    }
    text
}

//--- Responses of the backend

/// Responds with 192.0.2.`last`.
fn address(ttl: u32, last: u8) -> Responder {
    Box::new(move |exchange| {
        exchange.reply().answer(Type::A, ttl, Rdata::A([192, 0, 2, last]));
        Step::Answered
    })
}

/// Responds with a denial with an SOA.
fn denial(rcode: Rcode, ttl: u32) -> Responder {
    Box::new(move |exchange| {
        let reply = exchange.reply();
        reply.rcode = rcode;
        let name = reply.store_name(n("example.").as_name());
        let numbers = SoaNumbers { serial: 1, refresh: 2, retry: 3, expire: 4, minimum: 5 };
        let rdata = Rdata::Soa { mname: name, rname: name, numbers: reply.store_soa_numbers(numbers) };
        let (section, rtype, class) = (Section::Authority, Type::SOA, Class::IN);
        reply.push(Record { section, owner: name, rtype, class, ttl, rdata });
        Step::Answered
    })
}

/// Responds with a code only, as of an upstream.
fn code(rcode: Rcode) -> Responder {
    Box::new(move |exchange| {
        exchange.reply().rcode = rcode;
        Step::Answered
    })
}

/// Fails.
fn failure(failure: Failure) -> Responder {
    Box::new(move |exchange| exchange.fail(Rcode::SERVFAIL, failure.clone()))
}

fn timeout() -> Responder {
    failure(Failure::Upstream(Error::Timeout("192.0.2.53:53".into())))
}

/// Responds once `gate` is open.
fn later(gate: &Arc<tokio::sync::Semaphore>, reply: Rdata) -> Responder {
    let gate = gate.clone();
    Box::new(move |_| {
        let gate = gate.clone();
        let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
            Box::pin(async move {
                let _open = gate.acquire().await;
                state.reply.answer(Type::A, 60, reply);
                (state, Continue::Answered)
            })
        };
        Step::Pending(Wait::Work(Work { future: Box::new(future), overload: Rcode::SERVFAIL, plugin: "backend" }))
    })
}
