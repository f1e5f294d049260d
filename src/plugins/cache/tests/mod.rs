//! Queries through a cache and a plugin behind it that says what a test wants, with the time as an argument.

mod bounds;
mod kept;
mod refreshed;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::testing::{client, config, n};
use super::*;
use crate::chain::pending::{BoxFuture, Continue};
use crate::chain::{Answer, Block, Chain, Client, Router, State, Surroundings, Work};
use crate::telemetry::metrics::{Observed, Registry, register, text};
use crate::upstream::Error;
use crate::wire::reply::SoaNumbers;
use crate::wire::{Class, NameRef, Rdata, Record, Section, Type};

/// What is said behind the cache.
type Says = Box<dyn FnMut(&mut Exchange<'_>) -> Step + Send>;

/// What runs beside the answers, and has not run yet.
type Beside = Arc<Mutex<Vec<BoxFuture<()>>>>;

/// A cache with a plugin behind it, and the world around.
struct Bench {
    router: Arc<Router>,
    memory: Arc<Memory>,
    caches: Arc<Caches>,
    says: Arc<Mutex<Says>>,
    /// How often the plugin behind was asked.
    asked: Arc<AtomicUsize>,
    start: Instant,
    now: Arc<Mutex<Instant>>,
    beside: Beside,
    /// A timer ends at once.
    impatient: Arc<Mutex<bool>>,
}

/// The plugin behind.
struct Behind {
    says: Arc<Mutex<Says>>,
    asked: Arc<AtomicUsize>,
}

impl Plugin for Behind {
    fn name(&self) -> &'static str {
        "behind"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(exchange.state.asked.set & flag::AD != 0, "the cache wants to know whether answers are authentic");
        (self.says.lock())(exchange)
    }
}

impl Bench {
    /// A cache of these lines, and A records behind it, 192.0.2.1 with a TTL of 60.
    fn new(lines: &str) -> Bench {
        let memory = Arc::new(Memory::new(config(lines, parse), &[n("live.")], &[n("shared.")]));
        let caches = Arc::new(Caches::default());
        let counts = memory.counts(&caches, "dns://:53");
        let (says, asked): (Arc<Mutex<Says>>, _) = (Arc::new(Mutex::new(address(60, 1))), Arc::default());
        let behind = Behind { says: says.clone(), asked: Arc::clone(&asked) };
        let cache = Cache::new(memory.clone(), counts);
        let chain = Chain::new(vec![Arc::new(cache), Arc::new(behind)]);
        let start = Instant::now();
        let now = Arc::new(Mutex::new(start));
        let (beside, impatient): (Beside, Arc<Mutex<bool>>) = Default::default();
        let (clock, spawned, hurry) = (now.clone(), beside.clone(), impatient.clone());
        let surroundings = Surroundings {
            clock: Arc::new(move || *clock.lock()),
            spawner: Arc::new(move |future| spawned.lock().push(future)),
            timer: Arc::new(move |_| match *hurry.lock() {
                true => Box::pin(std::future::ready(())),
                false => Box::pin(std::future::pending()),
            }),
        };
        let router = Router::new(vec![Block { zones: vec![n(".")], chain }], true).surrounded_by(surroundings);
        Bench { router: Arc::new(router), memory, caches, says, asked, start, now, beside, impatient }
    }

    /// From now on the plugin behind says this.
    fn say(&self, says: Says) {
        *self.says.lock() = says;
    }

    /// It is so many seconds after the start.
    fn at(&self, seconds: u64) -> &Bench {
        *self.now.lock() = self.start + Duration::from_secs(seconds);
        self
    }

    /// What is answered: the code, flags, TTL and data of each record, and `*` if the plugin behind was asked.
    fn ask(&self, name: &str) -> String {
        self.send(&packet(name, Type::A, Class::IN, &[]))
    }

    fn send(&self, packet: &[u8]) -> String {
        let before = self.asked.load(Ordering::Relaxed);
        let state = self.state(packet);
        let mut said = show(&state);
        if self.asked.load(Ordering::Relaxed) > before {
            said.push_str(" *");
        }
        said
    }

    /// The state after the answer.
    fn state(&self, packet: &[u8]) -> State {
        let (mut state, mut out) = (State::default(), [0; 4096]);
        let now = *self.now.lock();
        match self.router.answer(packet, client("127.0.0.1:9"), now, &mut state, &mut out) {
            Answer::Send(_) => state,
            Answer::Silent => panic!("an answer"),
            Answer::Pending(pending) => block_on(pending.finish()).expect("an answer").state,
        }
    }

    /// Runs what runs beside the answers; gives how much that was.
    fn run_beside(&self) -> usize {
        let futures = std::mem::take(&mut *self.beside.lock());
        let count = futures.len();
        futures.into_iter().for_each(block_on);
        count
    }

    /// How often the plugin behind was asked since the last time.
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    /// A number by its name and type without prefix, 0 where it is not shown.
    fn count(&self, name: &str) -> u64 {
        let registry = Registry::new();
        let caches = self.caches.clone();
        register(&registry, Observed::new(Caches::METRICS, move || caches.families()));
        let text = text(&registry);
        let (name, rtype) = name.split_once(' ').unwrap_or((name, ""));
        let fits = |line: &&str| line.starts_with(&format!("coredns_cache_{name}{{")) && line.contains(rtype);
        text.lines().find(fits).map_or(0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// A query packet; `+do`, `+cd`, `+ad` are its flags.
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
    let mut said = format!(
        "{}{}{}{}",
        reply.rcode,
        flag(reply.authoritative, " aa"),
        flag(reply.recursion_available, " ra"),
        flag(reply.authentic_data, " ad")
    );
    for record in reply.records() {
        said.push_str(&match record.rdata {
            Rdata::A(octets) => format!(" {}:{}", record.ttl, octets[3]),
            _ => format!(" {}:{}", record.ttl, record.rtype),
        });
    }
    said
}

//--- What is said behind

/// 192.0.2.`last`.
fn address(ttl: u32, last: u8) -> Says {
    Box::new(move |exchange| {
        exchange.reply().answer(Type::A, ttl, Rdata::A([192, 0, 2, last]));
        Step::Answered
    })
}

/// A denial with an SOA.
fn denial(rcode: Rcode, ttl: u32) -> Says {
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

/// A code alone, which another server has said.
fn code(rcode: Rcode) -> Says {
    Box::new(move |exchange| {
        exchange.reply().rcode = rcode;
        Step::Answered
    })
}

/// No answer.
fn failure(failure: Failure) -> Says {
    Box::new(move |exchange| exchange.fail(Rcode::SERVFAIL, failure.clone()))
}

fn timeout() -> Says {
    failure(Failure::Upstream(Error::Timeout("192.0.2.53:53".into())))
}

/// The same, later: once `gate` is open.
fn later(gate: &Arc<tokio::sync::Semaphore>, reply: Rdata) -> Says {
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
        Step::Pending(Wait::Work(Work { future: Box::new(future), overload: Rcode::SERVFAIL, plugin: "behind" }))
    })
}
