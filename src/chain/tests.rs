//! Chains, what waits, and look-ups that the server makes of itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::chain::pending::{BoxFuture, Continue};
use crate::wire::encode::MAX_UDP;
use crate::wire::hickory::decode;
use crate::wire::{NameBuf, Rdata, Section};

/// What a test plugin does with a query.
enum Do {
    Pass,
    Address([u8; 4]),
    /// Answers with an address, later.
    AddressLater([u8; 4]),
    /// Passes on, later.
    PassLater,
    Drop,
    DropLater,
    /// Takes over the answers to another name.
    Alias(&'static str),
}

/// A plugin that notes when it is called.
struct Noted {
    name: &'static str,
    does: Do,
    notes: Arc<parking_lot::Mutex<Vec<String>>>,
    /// `reply` waits so many times.
    reply_waits: AtomicUsize,
}

impl Noted {
    fn note(&self, what: &str) {
        self.notes.lock().push(format!("{}.{what}", self.name));
    }
}

/// A future that ends at once, but on another turn.
fn later(make: impl FnOnce(&mut State) -> Continue + Send + 'static) -> Wait {
    let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let outcome = make(&mut state);
            (state, outcome)
        })
    };
    Wait::Work(Work { future: Box::new(future), overload: Rcode::REFUSED, plugin: "noted" })
}

impl Plugin for Noted {
    fn name(&self) -> &'static str {
        self.name
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.note("query");
        match self.does {
            Do::Pass => Step::Next,
            Do::Drop => Step::Drop,
            Do::DropLater => Step::Pending(later(|_| Continue::Drop)),
            Do::PassLater => Step::Pending(later(|_| Continue::Next)),
            Do::Address(address) => {
                exchange.reply().answer(Type::A, 5, Rdata::A(address));
                Step::Answered
            }
            Do::AddressLater(address) => Step::Pending(later(move |state| {
                state.reply.answer(Type::A, 5, Rdata::A(address));
                Continue::Answered
            })),
            Do::Alias(target) => {
                let target = NameBuf::from_text(target).expect("a name");
                let qtype = exchange.question().qtype;
                let question = Question::new(target.as_name(), qtype, crate::wire::Class::IN);
                match exchange.resolve(target.as_name(), qtype) {
                    Inner::Done(inner) => {
                        exchange.reply().append(&inner, &question, Section::Answer, Section::Answer);
                        Step::Answered
                    }
                    Inner::Pending(inner) => {
                        let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
                            Box::pin(async move {
                                let inner = inner.await;
                                state.reply.append(&inner, &question, Section::Answer, Section::Answer);
                                (state, Continue::Answered)
                            })
                        };
                        Step::Pending(Wait::Work(Work {
                            future: Box::new(future),
                            overload: Rcode::SERVFAIL,
                            plugin: "noted",
                        }))
                    }
                    Inner::None => exchange.fail(Rcode::SERVFAIL, Failure::TooDeep("noted")),
                }
            }
        }
    }

    fn reply(&self, _: &mut Exchange<'_>) -> Option<Wait> {
        self.note("reply");
        let waits = self.reply_waits.load(Ordering::Relaxed);
        self.reply_waits.store(waits.saturating_sub(1), Ordering::Relaxed);
        (waits > 0).then(|| later(|_| Continue::Answered))
    }

    fn sent(&self, _: &Exchange<'_>, sent: &Sent) {
        self.note(if sent.len >= 12 { "sent" } else { "?" });
    }
}

/// A listener with these blocks, and what its plugins noted.
fn listener(blocks: Vec<(&str, Vec<Do>)>) -> (Arc<Router>, Arc<parking_lot::Mutex<Vec<String>>>) {
    let notes = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let names = ["a", "b", "c", "d"];
    let blocks = blocks.into_iter().map(|(zone, plugins)| Block {
        zones: vec![NameBuf::from_text(zone).expect("a zone")],
        chain: Chain::new(
            plugins
                .into_iter()
                .zip(names)
                .map(|(does, name)| {
                    Arc::new(Noted { name, does, notes: notes.clone(), reply_waits: AtomicUsize::new(0) })
                        as Arc<dyn Plugin>
                })
                .collect(),
        ),
    });
    (Arc::new(Router::new(blocks.collect(), false)), notes)
}

fn packet(name: &str) -> Vec<u8> {
    let name = NameBuf::from_text(name).expect("a name");
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
}

fn client() -> Client {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Client { remote: at(4000), local: at(53), transport: Transport::Udp }
}

/// What a client is told: its rcode and addresses, or `silence`.
fn ask(router: &Arc<Router>, name: &str) -> String {
    let mut out = [0; MAX_UDP];
    let len = match router.answer(&packet(name), client(), Instant::now(), &mut State::default(), &mut out) {
        Answer::Send(len) => len,
        Answer::Silent => return "silence".to_owned(),
        Answer::Pending(pending) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            match runtime.block_on(pending.finish()) {
                Some(finished) => finished.encode(&mut out),
                None => return "silence".to_owned(),
            }
        }
    };
    tell(&out[..len])
}

fn tell(answer: &[u8]) -> String {
    let message = decode(answer).expect("an answer that hickory reads");
    let addresses: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    format!("{} {}", message.metadata.response_code.low(), addresses.join(" ")).trim_end().to_owned()
}

#[test]
fn plugins_run_in_order_and_see_the_reply_in_reverse() {
    let (router, notes) = listener(vec![(".", vec![Do::Pass, Do::Pass, Do::Address([1, 2, 3, 4]), Do::Pass])]);
    assert_eq!(ask(&router, "x."), "0 1.2.3.4");
    let expected = "a.query b.query c.query c.reply b.reply a.reply d.sent c.sent b.sent a.sent";
    assert_eq!(notes.lock().join(" "), expected);
}

#[test]
fn a_plan_is_taken_up_where_it_waited() {
    let (router, notes) = listener(vec![(".", vec![Do::PassLater, Do::AddressLater([1, 2, 3, 4]), Do::Pass])]);
    assert_eq!(ask(&router, "x."), "0 1.2.3.4");
    assert_eq!(notes.lock().join(" "), "a.query b.query b.reply a.reply c.sent b.sent a.sent");
}

#[test]
fn a_reply_may_wait_too() {
    let notes = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let plugin = |name, does, waits| -> Arc<dyn Plugin> {
        Arc::new(Noted { name, does, notes: notes.clone(), reply_waits: AtomicUsize::new(waits) })
    };
    let chain =
        Chain::new(vec![plugin("a", Do::Pass, 0), plugin("b", Do::Pass, 1), plugin("c", Do::Address([1, 1, 1, 1]), 0)]);
    let zones = vec![NameBuf::from_text(".").expect("a zone")];
    let router = Arc::new(Router::new(vec![Block { zones, chain }], false));
    assert_eq!(ask(&router, "x."), "0 1.1.1.1");
    assert_eq!(notes.lock().join(" "), "a.query b.query c.query c.reply b.reply a.reply c.sent b.sent a.sent");
}

#[test]
fn nothing_is_said_where_a_plugin_drops() {
    assert_eq!(ask(&listener(vec![(".", vec![Do::Drop])]).0, "x."), "silence");
    assert_eq!(ask(&listener(vec![(".", vec![Do::Pass, Do::DropLater])]).0, "x."), "silence");
}

#[test]
fn the_end_of_a_plan_is_servfail_and_an_empty_one_refuses() {
    assert_eq!(ask(&listener(vec![(".", vec![Do::Pass])]).0, "x."), "2");
    assert_eq!(ask(&listener(vec![(".", vec![])]).0, "x."), "5");
    assert_eq!(ask(&listener(vec![("example.", vec![Do::Pass])]).0, "x."), "5");
}

#[test]
fn too_many_that_wait_are_answered_at_once() {
    let (router, _) = listener(vec![(".", vec![Do::AddressLater([1, 2, 3, 4])])]);
    let mut out = [0; MAX_UDP];
    let answer = router.answer(&packet("x."), client(), Instant::now(), &mut State::default(), &mut out);
    let Answer::Pending(pending) = answer else { panic!("it waits") };
    let len = pending.overload().encode(&mut out);
    assert_eq!(tell(&out[..len]), "5");
}

#[test]
fn inner_look_ups_choose_their_own_block_and_may_wait() {
    let blocks = || vec![("in.", vec![Do::Alias("x.out.")]), ("out.", vec![Do::AddressLater([9, 9, 9, 9])])];
    assert_eq!(ask(&listener(blocks()).0, "a.in."), "0 9.9.9.9");
    let blocks = vec![("in.", vec![Do::Alias("x.out.")]), ("out.", vec![Do::Address([9, 9, 9, 8])])];
    let (router, notes) = listener(blocks);
    assert_eq!(ask(&router, "a.in."), "0 9.9.9.8");
    // The inner answer was not sent to anybody.
    assert_eq!(notes.lock().iter().filter(|note| note.ends_with("sent")).count(), 1);
}

#[test]
fn inner_look_ups_have_a_depth_limit() {
    let (router, notes) = listener(vec![(".", vec![Do::Alias("x.")])]);
    assert_eq!(ask(&router, "x."), "0");
    assert_eq!(notes.lock().iter().filter(|note| *note == "a.query").count(), usize::from(MAX_DEPTH) + 1);
}
