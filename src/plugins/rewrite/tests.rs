//! Tests of *rewrite* with plugins that record the query that they get. `tests/scenarios/rewrite.dns` has most others.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::chain::{Block, Calls, Chain, Origin, Rewritten, Router};
use crate::plugins::testing::{Answers, client, config, n, packet, read};
use crate::wire::record::SoaNumbers;
use crate::wire::{Class, NameRef, Query, Rdata, Record, Section};

/// Sends a query through these rules. Returns the question that the next plugin gets, and the response.
fn send(lines: &str, packet: &[u8]) -> (String, Vec<u8>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let record = seen.clone();
    let answers = Answers(move |exchange: &mut Exchange<'_>| {
        let question = exchange.question();
        *record.lock() = format!("{} {} {}", exchange.query.sent_name(), question.qtype, question.qclass);
        exchange.reply().answer(Type::A, 5, Rdata::A([192, 0, 2, 1]));
    });
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(Rewrite::new(&config(lines, parse))), Arc::new(answers)];
    let router = Arc::new(Router::new(vec![Block { zones: vec![n(".")], chain: Chain::new(plugins) }], true));
    let (mut state, mut out) = (State::default(), [0; 4096]);
    let answer = router.answer(packet, client("127.0.0.1:53342"), Instant::now(), &mut state, &mut out);
    let crate::chain::Answer::Send(len) = answer else { panic!("no plugin waits") };
    let seen = seen.lock().clone();
    (seen, out[..len].to_vec())
}

/// Returns the question that the next plugin gets.
fn seen(lines: &str, name: &str) -> String {
    let sent = packet(name, Type::A, None);
    let (seen, response) = send(lines, &sent);
    let question = Query::parse(&sent).expect("a query").question_wire().to_vec();
    assert_eq!(response[12..12 + question.len()], question, "the question is the client's");
    seen
}

#[test]
fn every_way_to_match_replaces_what_coredns_replaces() {
    for (rule, name, expected) in [
        ("name a.example b.example", "A.Example", "b.example. A IN"),
        ("name exact a.example b.example", "x.a.example", "x.a.example. A IN"),
        ("name prefix a b", "a.example", "b.example. A IN"),
        // A prefix is a name, so that it ends with a label.
        ("name prefix a b", "ab.example", "ab.example. A IN"),
        ("name suffix example test", "a.example", "a.test. A IN"),
        ("name suffix ample test", "a.example", "a.extest. A IN"),
        ("name suffix .example .", "a.example", "a. A IN"),
        ("name substring a. b.", "a.a.example", "b.b.example. A IN"),
        ("name regex (.*)-(.*)\\.example {2}.{1}.test", "a-b.example", "b.a.test. A IN"),
        ("name regex (a)(.) {0}{9}", "a.example", "a.{9}. A IN"),
        ("name regex (.)(.*) {{1}}", "2x.example", "x.example.. A IN"),
        ("name regex b {0", "b", "{0. A IN"),
        ("type A AAAA", "a.example", "a.example. AAAA IN"),
        ("class IN CH", "a.example", "a.example. A CH"),
        ("ttl a.example 5", "A.example", "A.example. A IN"),
        ("name a.example a\\.b.example", "a.example", "a\\.b.example. A IN"),
    ] {
        let expected = if expected.contains("..") { String::new() } else { expected.to_owned() };
        assert_eq!(seen(&format!("rewrite {rule}"), name), expected, "{rule}");
    }
}

#[test]
fn rules_continue_or_stop() {
    let lines = "rewrite continue name a b\nrewrite name c d\nrewrite name b c\nrewrite name c e";
    assert_eq!(seen(lines, "a"), "c. A IN");
    let lines = "rewrite CONTINUE {\n NAME exact a b\n}\nrewrite stop {\n type A TXT\n}";
    assert_eq!(seen(lines, "a"), "b. TXT IN");
}

#[test]
fn many_rules_are_used_in_the_same_order_as_few() {
    let few =
        "rewrite continue name 7 x\nrewrite continue name regex ^x y\nrewrite continue name y 9\nrewrite name 9 z\n";
    let many: String = (20..80).map(|at| format!("rewrite name {at} none\nrewrite ttl {at} 5\n")).collect();
    for lines in [few.to_owned(), format!("{few}{many}"), format!("{many}{few}")] {
        assert_eq!(seen(&lines, "7"), "z. A IN");
        assert_eq!(seen(&lines, "x"), "z. A IN");
        assert_eq!(seen(&lines, "8"), "8. A IN");
    }
    assert_eq!(seen(&many, "40"), "none. A IN");
    // A rule before the one that has made the name is not used.
    let lines = format!("rewrite continue name b c\nrewrite continue name a b\n{many}");
    assert_eq!(seen(&lines, "a"), "b. A IN");
}

#[test]
fn a_query_that_no_rule_matches_is_not_copied() {
    let rewrite = Rewrite::new(&config("rewrite name a b\nrewrite ttl c 5", parse));
    let next = Answers(|exchange: &mut Exchange<'_>| {
        let is_copied = !std::ptr::eq(exchange.query, exchange.received);
        // It is lent to the copy.
        let is_noted = is_copied || exchange.state.rewritten().is_some();
        exchange.reply().answer(Type::A, 5, Rdata::A([u8::from(is_copied), u8::from(is_noted), 0, 0]));
    });
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(rewrite), Arc::new(next)];
    for (name, expected) in [("a", "NOERROR 1.1.0.0"), ("b", "NOERROR 0.0.0.0"), ("c", "NOERROR 0.1.0.0")] {
        assert_eq!(crate::plugins::testing::ask(plugins.clone(), name, Type::A), expected, "{name}");
    }
}

/// Answers after a wait, and waits in `reply` too.
struct Slow;

impl Plugin for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn calls(&self) -> Calls {
        Calls { query: true, reply: true, sent: false }
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        assert_eq!(exchange.question().name().to_string(), "b.");
        let future = |mut state: State| -> BoxFuture<(State, Continue)> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                state.reply.answer(Type::A, 5, Rdata::A([192, 0, 2, 7]));
                (state, Continue::Answered)
            })
        };
        Step::Pending(Wait::Work(Work { future: Box::new(future), overload: Rcode::REFUSED, plugin: "slow" }))
    }

    fn reply(&self, exchange: &mut Exchange<'_>) -> Option<Wait> {
        assert_eq!(exchange.question().name().to_string(), "b.");
        assert_eq!(exchange.received.question.name().to_string(), "a.");
        if exchange.reply().records().len() == 2 {
            return None;
        }
        let future = |mut state: State| -> BoxFuture<(State, Continue)> {
            Box::pin(async move {
                let owner = state.reply.store_name(n("x.b").as_name());
                let first = state.reply.records()[0];
                state.reply.push(crate::wire::Record { owner, ..first });
                (state, Continue::Answered)
            })
        };
        Some(Wait::Work(Work { future: Box::new(future), overload: Rcode::REFUSED, plugin: "slow" }))
    }
}

#[test]
fn a_changed_query_may_wait_in_query_and_in_reply() {
    let rewrite = Arc::new(Rewrite::new(&config("rewrite name a b", parse)));
    let chain = Chain::new(vec![rewrite, Arc::new(Slow)]);
    let router = Arc::new(Router::new(vec![Block { zones: vec![n(".")], chain }], false));
    let (mut state, mut out) = (State::default(), [0; 4096]);
    let answer = |state: &mut State, out: &mut [u8]| {
        router.answer(&packet("A", Type::A, None), client("127.0.0.1:1"), Instant::now(), state, out)
    };
    let crate::chain::Answer::Pending(pending) = answer(&mut state, &mut out) else { panic!("it waits") };
    assert_eq!(pending.query.packet()[12..15], [1, b'A', 0]);
    assert_eq!(pending.query.upstream_packet()[12..15], [1, b'b', 0]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let query = runtime.block_on(pending.finish()).expect("an answer");
    let len = query.encode(&mut out);
    let message = crate::wire::hickory::decode(&out[..len]).expect("a message");
    let owners: Vec<String> = message.answers.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(owners, ["A.", "x.a."]);
    // While too many queries are pending, the query ends with the code of the plugin that waits.
    let crate::chain::Answer::Pending(pending) = answer(&mut state, &mut out) else { panic!("it waits") };
    let len = pending.overload().encode(&mut out);
    assert_eq!((out[3] & 15, &out[12..15]), (Rcode::REFUSED.0 as u8, &[1, b'A', 0][..]), "{len}");
}

/// Answers with an old reply of the cache while a newer one is requested.
struct Stale;

impl Plugin for Stale {
    fn name(&self) -> &'static str {
        "stale"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        exchange.state.origin = Origin::Cached;
        let target = exchange.reply().store_labels(&[b"\x01x"], Some(0));
        exchange.reply().answer(Type::CNAME, 5, Rdata::Name(target));
        let future = |_: State| -> BoxFuture<(State, Continue)> { Box::pin(std::future::pending()) };
        Step::Pending(Wait::Work(Work { future: Box::new(future), overload: Rcode::REFUSED, plugin: "stale" }))
    }
}

/// Ends a query that waits, as at the limit of pending queries: at once, or after it has become pending. Returns the
/// response.
fn end_early(chain: &[Arc<dyn Plugin>], name: &str, revoked: bool) -> hickory_proto::op::Message {
    let chain = Chain::new(chain.to_vec());
    let router = Arc::new(Router::new(vec![Block { zones: vec![n(".")], chain }], false));
    let (mut state, mut out) = (State::default(), [0; 4096]);
    let packet = packet(name, Type::A, None);
    let answer = router.answer(&packet, client("127.0.0.1:1"), Instant::now(), &mut state, &mut out);
    let crate::chain::Answer::Pending(pending) = answer else { panic!("it waits") };
    let query = if revoked {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(pending.finish_unless(async {})).expect("an answer")
    } else {
        pending.overload()
    };
    let len = query.encode(&mut out);
    crate::wire::hickory::decode(&out[..len]).expect("a message")
}

#[test]
fn a_stale_reply_is_changed_back_when_too_many_queries_are_pending() {
    let rewrite = Arc::new(Rewrite::new(&config("rewrite name aaa.example b", parse)));
    let chain: [Arc<dyn Plugin>; 2] = [rewrite, Arc::new(Stale)];
    for revoked in [false, true] {
        let message = end_early(&chain, "AAA.example", revoked);
        let shown: Vec<String> = message.answers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["AAA.example. 5 IN CNAME x.aaa.example."], "revoked: {revoked}");
    }
}

/// Answers with an alias from the cache, and waits without end for its target.
struct CachedAlias;

impl Plugin for CachedAlias {
    fn name(&self) -> &'static str {
        "cached"
    }

    fn query(&self, exchange: &mut Exchange<'_>) -> Step {
        if exchange.question().name().as_wire() == n("b.example").as_wire() {
            exchange.state.origin = Origin::Cached;
            let target = exchange.reply().store_labels(&[b"\x01x"], Some(2));
            exchange.reply().answer(Type::CNAME, 5, Rdata::Name(target));
            return Step::Answered;
        }
        let future = |_: State| -> BoxFuture<(State, Continue)> { Box::pin(std::future::pending()) };
        Step::Pending(Wait::Work(Work { future: Box::new(future), overload: Rcode::REFUSED, plugin: "cached" }))
    }
}

/// The reply is that of the cache, but it is *rewrite* that waits: the reply cannot be sent without the new target.
#[test]
fn a_cached_alias_whose_new_target_is_pending_is_no_stale_reply() {
    let rules = "rewrite continue name aaaa.example b.example\nrewrite cname exact x.example. y.example.";
    let rewrite = Arc::new(Rewrite::new(&config(rules, parse)));
    let chain: [Arc<dyn Plugin>; 2] = [rewrite, Arc::new(CachedAlias)];
    for revoked in [false, true] {
        let message = end_early(&chain, "aaaa.example", revoked);
        let rcode: u16 = message.metadata.response_code.into();
        assert_eq!((rcode, message.answers.len()), (Rcode::SERVFAIL.0, 0), "revoked: {revoked}");
    }
}

#[test]
fn names_in_the_data_of_all_types_of_coredns_are_turned_back() {
    // Numbers and texts in front of the name, and the name.
    const MX: &[u8] = &[0, 10];
    const NAPTR: &[u8] = &[0, 1, 0, 2, 1, b'S', 3, b'S', b'I', b'P', 0];
    let name = n("x.b.example");
    for (rtype, head) in [(Type::DNAME, &[][..]), (Type::MX, MX), (Type::NAPTR, NAPTR), (Type::TXT, &[0])] {
        let answers = move |exchange: &mut Exchange<'_>| {
            let data = [head, n("x.b.example").as_wire()].concat();
            let stored = exchange.reply().store(&data);
            exchange.reply().answer(rtype, 5, Rdata::Bytes(stored));
        };
        let rules = "rewrite name suffix .example .b.example answer auto\n";
        let plugins: Vec<Arc<dyn Plugin>> =
            vec![Arc::new(Rewrite::new(&config(rules, parse))), Arc::new(Answers(answers))];
        let sent = packet("a.example", rtype, None);
        let state = crate::plugins::testing::send(plugins, &sent, client("127.0.0.1:1"), Instant::now());
        let Rdata::Bytes(stored) = state.reply.records()[0].rdata else { panic!("the same kind of data") };
        let expected = if rtype == Type::TXT { name.clone() } else { n("x.example") };
        assert_eq!(state.reply.bytes(stored), [head, expected.as_wire()].concat(), "{rtype}");
        assert_eq!(state.reply.records()[0].owner, crate::wire::NameRef::QUESTION);
    }
}

#[test]
fn a_name_that_is_too_long_for_a_message_is_an_error() {
    let long = "a".repeat(60);
    let rule = "rewrite name regex (.*) {1}{1}.{1}.{1}.{1}.{1}";
    let (seen, response) = send(rule, &packet(&long, Type::A, None));
    assert_eq!((seen.as_str(), response[3] & 15), ("", 2));
    // The text of a match does not grow without a limit.
    let rule = format!("rewrite name regex (.*) {}", "{1}".repeat(3_000));
    let (seen, response) = send(&rule, &packet(&long, Type::A, None));
    assert_eq!((seen.as_str(), response[3] & 15), ("", 2));
    let rule = format!("rewrite name substring a. {}.", "b".repeat(9_000));
    let name = "a.".repeat(100);
    assert_eq!(send(&rule, &packet(&name, Type::A, None)).1[3] & 15, 2);
}

#[test]
fn expressions_have_a_limit_in_all() {
    // Two small expressions, and not a third.
    let mut left = 40_000;
    let mut words = words::Words::new(vec![], &mut left);
    assert!(words.expression_of(0, "(a)").is_ok() && words.expression_of(0, "b|c").is_ok());
    let error = words.expression_of(0, "d").expect_err("no bytes are left");
    assert_eq!(error.message, "the regular expressions of 'rewrite' take more than 67108864 bytes when compiled");
    // Nothing is compiled any more, not even what is too large or invalid.
    assert_eq!(words.expression_of(0, "(a{1000}){1000}").expect_err("no bytes are left").message, error.message);
    assert_eq!(words.expression_of(0, "(").expect_err("no bytes are left").message, error.message);
    // One that is refused counts as the largest.
    let (mut left, largest) = (5 << 20, "regex pattern needs more than 4194304 bytes when compiled");
    let mut words = words::Words::new(vec![], &mut left);
    assert_eq!(words.expression_of(0, "(a{1000}){1000}").expect_err("too large").message, largest);
    assert!(words.expression_of(0, "a").is_ok());
    assert_eq!(words.expression_of(0, "(a{1000}){1000}").expect_err("no bytes are left").message, error.message);
    // A larger one counts for more.
    let mut left = 40_000;
    assert!(words::Words::new(vec![], &mut left).expression_of(0, "a{900}").is_err());
    assert_eq!(read("rewrite name regex ((a{1000}){1000}){1000} b", parse).1.len(), 1);
}

#[test]
fn rules_have_a_limit() {
    let mut lines = "rewrite name a b\n".repeat(100_000);
    assert!(read(&lines, parse).0.is_some());
    lines.push_str(&"rewrite name a b\n".repeat(10));
    assert_eq!(read(&lines, parse).1, ["more than 100000 rules"]);
}

/// Returns the response to a query through these rules, when the next plugin answers with all kinds of names.
/// `at_once`: the reply may be changed without a look at each name.
fn response(lines: &str, name: &str, at_once: bool) -> Vec<u8> {
    let config = config(lines, parse);
    let rules = config.rules.clone();
    let plugin = Rewrite::new(&config);
    let sent = packet(name, Type::A, None);
    let query = Query::parse(&sent).expect("a query");
    let router = Arc::new(Router::new(vec![Block { zones: vec![n(".")], chain: Chain::new(Vec::new()) }], true));
    let (mut state, now) = (State::default(), Instant::now());
    let chain = Chain::new(Vec::new());
    let mut exchange = Exchange {
        query: &query,
        received: &query,
        client: client("127.0.0.1:53342"),
        now,
        started: now,
        state: &mut state,
        look_up: Default::default(),
        first: 0,
        refresh: false,
        at: 0,
        router: &router,
        chain: &chain,
        block: 0,
    };
    assert!(matches!(plugin.query(&mut exchange), Step::Rewritten), "{lines}");
    let asked = state.rewritten().and_then(Rewritten::name).expect("a changed name").to_owned();
    let question = Question::new(asked.as_name(), Type::A, Class::IN);
    let reply = &mut state.reply;
    let mut names = vec![NameRef::QUESTION];
    for labels in 0..question.labels() {
        let tail = question.suffix_at(labels);
        names.push(NameRef::question(tail));
        names.extend(
            [&b"\x01x"[..], b"\x02ns\x03dns", b"\x03svc", b"\x04xsvc"]
                .map(|prefix| reply.store_labels(&[prefix], Some(tail))),
        );
    }
    let soa = SoaNumbers { serial: 1, refresh: 2, retry: 3, expire: 4, minimum: 5 };
    for (at, owner) in names.iter().copied().enumerate() {
        let (mname, rname) = (names[(at + 1) % names.len()], names[(at + 2) % names.len()]);
        let numbers = reply.store_soa_numbers(soa);
        let srv = Rdata::Srv { priority: 1, weight: 2, port: 3, target: mname };
        for (rtype, rdata) in [
            (Type::A, Rdata::A([192, 0, 2, 1])),
            (Type::SRV, srv),
            (Type::SOA, Rdata::Soa { mname, rname, numbers }),
            (Type::CNAME, Rdata::Name(rname)),
        ] {
            let (section, class) = (Section::Answer, Class::IN);
            reply.push(Record { section, owner, rtype, class, ttl: 5, rdata });
        }
    }
    // Each record alone, since one that a rule turns back has all of them looked at.
    let records = std::mem::take(state.reply.records_mut());
    let mut all = Vec::new();
    for record in records {
        let mut one = State::default();
        one.reply = state.reply.clone();
        one.reply.records_mut().push(record);
        let rewritten = state.rewritten().expect("a changed query");
        if at_once {
            let is_done = change_question_alone(&rules, rewritten, &query.question, &mut one.reply);
            if !is_done {
                let client = ClientQuery { name: query.question.name(), has_edns: false };
                let change = ReplyChange::new(&rules, rewritten, client);
                change.apply(&mut one.reply, &mut false, None).expect("names");
            }
            all.push(u8::from(is_done));
        } else {
            let client = ClientQuery { name: query.question.name(), has_edns: false };
            ReplyChange::new(&rules, rewritten, client).apply(&mut one.reply, &mut false, None).expect("names");
        }
        let mut out = vec![0; 4096];
        let len = crate::wire::encode::encode(&query, &mut one.reply, 4096, &mut out);
        let message = crate::wire::hickory::decode(&out[..len]).expect("a message");
        all.extend(format!("{:?}\n", message.answers).to_lowercase().into_bytes());
    }
    all
}

#[test]
fn a_reply_changed_at_once_is_the_reply_changed_name_by_name() {
    for (rule, name, least) in [
        ("name suffix .a.test .svc.cluster.local answer auto", "x.ns.a.test", 40),
        ("name suffix .a.test .svc.cluster.local", "x.ns.a.test", 90),
        ("name suffix a.test svc.cluster.local answer auto", "a.test", 20),
        ("name suffix .a.local .svc.cluster.local answer auto", "x.ns.A.local", 40),
        ("name exact a.test svc.cluster.local", "a.test", 20),
        ("name prefix a b.c answer auto", "a.test", 20),
        ("name regex ^(.*)\\.a\\.test\\.$ {1}.svc.cluster.local answer auto", "x.a.test", 30),
        ("name regex ^(.*)\\.a\\.test\\.$ {1}.svc.cluster.local", "x.a.test", 80),
        ("name substring a b answer auto", "a.test", 10),
    ] {
        let lines = format!("rewrite {rule}");
        let at_once = response(&lines, name, true);
        let done = at_once.iter().filter(|byte| **byte == 1).count();
        let at_once: Vec<u8> = at_once.into_iter().filter(|byte| *byte > 1).collect();
        assert_eq!(
            String::from_utf8_lossy(&at_once),
            String::from_utf8_lossy(&response(&lines, name, false)),
            "{rule}"
        );
        assert!(done >= least, "{rule}: {done}");
    }
}
