//! Tests of chains, pending queries and internal look-ups.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::chain::pending::{BoxFuture, Continue};
use crate::wire::hickory::decode;
use crate::wire::{MAX_UDP, NameBuf, Rdata, Section};

/// What a test plugin action with a query.
enum Action {
    Pass,
    Address([u8; 4]),
    /// Answers with an address and this code.
    Code(u16),
    /// Answers with an address after waiting.
    AddressLater([u8; 4]),
    /// Passes the query on after waiting.
    PassLater,
    Drop,
    DropLater,
    /// Copies the answers of an internal look-up.
    Alias(&'static str),
}

/// A plugin that records its calls.
struct Recorder {
    name: &'static str,
    action: Action,
    calls: Arc<parking_lot::Mutex<Vec<String>>>,
    /// How many times `reply` waits.
    reply_waits: AtomicUsize,
}

impl Recorder {
    fn record(&self, call: &str) {
        self.calls.lock().push(format!("{}.{call}", self.name));
    }
}

/// Returns a wait that ends with the next poll.
fn wait(make: impl FnOnce(&mut State) -> Continue + Send + 'static) -> Wait {
    let future = move |mut state: State| -> BoxFuture<(State, Continue)> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let outcome = make(&mut state);
            (state, outcome)
        })
    };
    Wait::Work(Work { future: Box::new(future), overload: Rcode::REFUSED, plugin: "recorder" })
}

impl Plugin for Recorder {
    fn name(&self) -> &'static str {
        self.name
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, sent: true }
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        self.record("query");
        match self.action {
            Action::Pass => Step::Next,
            Action::Drop => Step::Drop,
            Action::DropLater => Step::Pending(wait(|_| Continue::Drop)),
            Action::PassLater => Step::Pending(wait(|_| Continue::Next)),
            Action::Code(rcode) => {
                exchange.reply().answer(Type::A, 5, Rdata::A([1, 2, 3, 4]));
                exchange.reply().rcode = Rcode(rcode);
                Step::Answered
            }
            Action::Address(address) => {
                exchange.reply().answer(Type::A, 5, Rdata::A(address));
                Step::Answered
            }
            Action::AddressLater(address) => Step::Pending(wait(move |state| {
                state.reply.answer(Type::A, 5, Rdata::A(address));
                Continue::Answered
            })),
            Action::Alias(target) => {
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
                            plugin: "recorder",
                        }))
                    }
                    Inner::None => exchange.fail(Rcode::SERVFAIL, Failure::TooDeep("recorder")),
                }
            }
        }
    }

    fn reply(&self, _: &mut Exchange<'_>) -> Option<Wait> {
        self.record("reply");
        let waits = self.reply_waits.load(Ordering::Relaxed);
        self.reply_waits.store(waits.saturating_sub(1), Ordering::Relaxed);
        (waits > 0).then(|| wait(|_| Continue::Answered))
    }

    fn sent(&self, _: &Exchange<'_>, sent: &Sent<'_>) {
        self.record(if sent.len >= 12 { "sent" } else { "?" });
    }
}

/// Returns a router with these blocks, and the recorded calls of its plugins.
fn build_router(blocks: Vec<(&str, Vec<Action>)>) -> (Arc<Router>, Arc<parking_lot::Mutex<Vec<String>>>) {
    let calls = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let names = ["a", "b", "c", "d"];
    let blocks = blocks.into_iter().map(|(zone, plugins)| Block {
        zones: vec![NameBuf::from_text(zone).expect("a zone")],
        chain: Chain::new(
            plugins
                .into_iter()
                .zip(names)
                .map(|(action, name)| {
                    Arc::new(Recorder { name, action, calls: calls.clone(), reply_waits: AtomicUsize::new(0) })
                        as Arc<dyn Plugin>
                })
                .collect(),
        ),
    });
    (Arc::new(Router::new(blocks.collect(), false)), calls)
}

fn packet(name: &str) -> Vec<u8> {
    let name = NameBuf::from_text(name).expect("a name");
    [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[0, 1, 0, 1]].concat()
}

fn client() -> Client {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Client { remote: at(4000), local: at(53), transport: Transport::Udp }
}

/// Returns the code and addresses of the response, or `no response`.
fn ask(router: &Arc<Router>, name: &str) -> String {
    let mut out = [0; MAX_UDP];
    let len = match router.answer(&packet(name), client(), Instant::now(), &mut State::default(), &mut out) {
        Answer::Send(len) => len,
        Answer::Drop => return "no response".to_owned(),
        Answer::Pending(pending) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            match runtime.block_on(pending.finish()) {
                Some(finished) => finished.encode(&mut out),
                None => return "no response".to_owned(),
            }
        }
    };
    show(&out[..len])
}

fn show(answer: &[u8]) -> String {
    let message = decode(answer).expect("a message");
    let addresses: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    format!("{} {}", message.metadata.response_code.low(), addresses.join(" ")).trim_end().to_owned()
}

#[test]
fn plugins_get_queries_in_order_and_replies_in_reverse() {
    let (router, calls) =
        build_router(vec![(".", vec![Action::Pass, Action::Pass, Action::Address([1, 2, 3, 4]), Action::Pass])]);
    assert_eq!(ask(&router, "x."), "0 1.2.3.4");
    let expected = "a.query b.query c.query c.reply b.reply a.reply d.sent c.sent b.sent a.sent";
    assert_eq!(calls.lock().join(" "), expected);
}

#[test]
fn a_chain_resumes_where_it_waited() {
    let (router, calls) =
        build_router(vec![(".", vec![Action::PassLater, Action::AddressLater([1, 2, 3, 4]), Action::Pass])]);
    assert_eq!(ask(&router, "x."), "0 1.2.3.4");
    assert_eq!(calls.lock().join(" "), "a.query b.query b.reply a.reply c.sent b.sent a.sent");
}

#[test]
fn a_plugin_may_wait_in_reply() {
    let calls = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let plugin = |name, action, waits| -> Arc<dyn Plugin> {
        Arc::new(Recorder { name, action, calls: calls.clone(), reply_waits: AtomicUsize::new(waits) })
    };
    let chain = Chain::new(vec![
        plugin("a", Action::Pass, 0),
        plugin("b", Action::Pass, 1),
        plugin("c", Action::Address([1, 1, 1, 1]), 0),
    ]);
    let zones = vec![NameBuf::from_text(".").expect("a zone")];
    let router = Arc::new(Router::new(vec![Block { zones, chain }], false));
    assert_eq!(ask(&router, "x."), "0 1.1.1.1");
    assert_eq!(calls.lock().join(" "), "a.query b.query c.query c.reply b.reply a.reply c.sent b.sent a.sent");
}

/// Its low four bits would be NOERROR.
#[test]
fn a_code_that_needs_an_opt_record_is_servfail_without_one() {
    let router = build_router(vec![(".", vec![Action::Code(4080)])]).0;
    assert_eq!(ask(&router, "x."), "2");
    let mut with_opt = [&packet("x.")[..], &[0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0]].concat();
    with_opt[11] = 1;
    let mut out = [0; MAX_UDP];
    let answer = router.answer(&with_opt, client(), Instant::now(), &mut State::default(), &mut out);
    let Answer::Send(len) = answer else { panic!("no response") };
    let message = decode(&out[..len]).expect("a message");
    assert_eq!((u16::from(message.metadata.response_code), message.answers.len()), (4080, 1));
}

#[test]
fn a_dropped_query_gets_no_response() {
    assert_eq!(ask(&build_router(vec![(".", vec![Action::Drop])]).0, "x."), "no response");
    assert_eq!(ask(&build_router(vec![(".", vec![Action::Pass, Action::DropLater])]).0, "x."), "no response");
}

#[test]
fn the_end_of_a_chain_is_servfail_and_an_empty_chain_refuses() {
    assert_eq!(ask(&build_router(vec![(".", vec![Action::Pass])]).0, "x."), "2");
    assert_eq!(ask(&build_router(vec![(".", vec![])]).0, "x."), "5");
    assert_eq!(ask(&build_router(vec![("example.", vec![Action::Pass])]).0, "x."), "5");
}

#[test]
fn a_query_over_the_limit_of_pending_ones_is_answered_at_once() {
    let (router, _) = build_router(vec![(".", vec![Action::AddressLater([1, 2, 3, 4])])]);
    let mut out = [0; MAX_UDP];
    let answer = router.answer(&packet("x."), client(), Instant::now(), &mut State::default(), &mut out);
    let Answer::Pending(pending) = answer else { panic!("it is not pending") };
    let len = pending.overload().encode(&mut out);
    assert_eq!(show(&out[..len]), "5");
}

#[test]
fn internal_look_ups_select_their_own_block_and_may_wait() {
    let blocks = || vec![("in.", vec![Action::Alias("x.out.")]), ("out.", vec![Action::AddressLater([9, 9, 9, 9])])];
    assert_eq!(ask(&build_router(blocks()).0, "a.in."), "0 9.9.9.9");
    let blocks = vec![("in.", vec![Action::Alias("x.out.")]), ("out.", vec![Action::Address([9, 9, 9, 8])])];
    let (router, calls) = build_router(blocks);
    assert_eq!(ask(&router, "a.in."), "0 9.9.9.8");
    // The internal reply was not sent.
    assert_eq!(calls.lock().iter().filter(|call| call.ends_with("sent")).count(), 1);
}

#[test]
fn internal_look_ups_have_a_depth_limit() {
    let (router, calls) = build_router(vec![(".", vec![Action::Alias("x.")])]);
    assert_eq!(ask(&router, "x."), "0");
    assert_eq!(calls.lock().iter().filter(|call| *call == "a.query").count(), usize::from(MAX_DEPTH) + 1);
}
