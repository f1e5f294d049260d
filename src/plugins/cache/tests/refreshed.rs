//! What is fetched again before it ends, and what is of use after that.

use super::*;

/// C12.
#[test]
fn a_popular_name_is_fetched_once_before_it_ends() {
    let bench = Bench::new("cache . {\n prefetch 2 10m 50%\n}");
    bench.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    bench.say(later(&gate, Rdata::A([192, 0, 2, 2])));
    assert_eq!(bench.asked(), 1);
    assert_eq!((bench.at(10).ask("a."), bench.at(29).ask("a.")), ("NOERROR 50:1".into(), "NOERROR 31:1".into()));
    // At half its time; the upstream is slow.
    for at in 30..60 {
        for _ in 0..30 {
            let said = bench.at(at).ask("a.");
            assert_eq!(said.trim_end_matches(" *"), format!("NOERROR {}:1", 60 - at));
        }
    }
    assert_eq!(bench.asked(), 1);
    gate.add_permits(1);
    assert_eq!(bench.run_beside(), 1);
    assert_eq!((bench.ask("a."), bench.count("prefetch_total")), ("NOERROR 60:2".into(), 1));
    // It is still popular.
    assert_eq!(bench.at(59 + 30).ask("a."), "NOERROR 30:2 *");
}

#[test]
fn a_name_with_pauses_is_not_popular() {
    let bench = Bench::new("cache . {\n prefetch 2 10s 90%\n}");
    bench.ask("a.");
    assert_eq!((bench.at(10).ask("a."), bench.at(21).ask("a.")), ("NOERROR 50:1".into(), "NOERROR 39:1".into()));
    assert_eq!((bench.at(31).ask("a."), bench.run_beside()), ("NOERROR 29:1 *".into(), 1));
}

#[test]
fn a_refresh_that_is_dropped_is_begun_again() {
    let bench = Bench::new("cache . {\n prefetch 1 1m 90%\n}");
    bench.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    bench.say(later(&gate, Rdata::A([192, 0, 2, 2])));
    assert_eq!((bench.at(30).ask("a."), bench.ask("a.")), ("NOERROR 30:1 *".into(), "NOERROR 30:1".into()));
    bench.beside.lock().clear();
    assert_eq!(bench.ask("a."), "NOERROR 30:1 *");
}

/// C01.
#[test]
fn a_stale_denial_gives_way_to_an_answer() {
    let bench = Bench::new("cache . {\n serve_stale 1h\n}");
    bench.say(denial(Rcode::NXDOMAIN, 60));
    bench.ask("a.");
    assert_eq!(bench.at(59).ask("a."), "NXDOMAIN 1:SOA");
    bench.say(address(60, 1));
    assert_eq!(bench.at(61).ask("a."), "NXDOMAIN 0:SOA *");
    bench.run_beside();
    assert_eq!((bench.ask("a."), bench.count("served_stale_total")), ("NOERROR 60:1".into(), 1));
    // And the other way.
    bench.say(denial(Rcode::NXDOMAIN, 60));
    assert_eq!(bench.at(121).ask("a."), "NOERROR 0:1 *");
    assert_eq!(bench.ask("a."), "NXDOMAIN 60:SOA");
    // A denial that a denial has renewed.
    assert_eq!(bench.at(181).ask("a."), "NXDOMAIN 0:SOA *");
    assert_eq!(bench.ask("a."), "NXDOMAIN 60:SOA");
}

/// C02.
#[test]
fn a_failure_hides_no_answer() {
    let bench = Bench::new("cache . {\n serve_stale 1h\n}");
    bench.ask("a.");
    bench.say(code(Rcode::SERVFAIL));
    for at in [61, 62, 3_659] {
        assert_eq!(bench.at(at).ask("a."), "NOERROR 0:1 *");
        bench.run_beside();
    }
    assert_eq!(bench.at(3_660).ask("a."), "SERVFAIL *", "an hour is over");
    // A failure that is kept beside an answer that is good: another worker had none yet.
    let bench = Bench::new("cache .");
    bench.say(code(Rcode::SERVFAIL));
    bench.ask("a.");
    let query = packet("a.", Type::A, Class::IN, &[]);
    let query = Query::parse(&query).expect("a query");
    let mut reply = crate::wire::Reply::new();
    reply.answer(Type::A, 60, Rdata::A([192, 0, 2, 9]));
    let item = Item::new(&query, &mut reply, 60, true, bench.start).expect("an item");
    bench.memory.store.put(Place::Success, bench.memory.store.key(&query.question, Bits::of(&query)), item);
    assert_eq!(bench.ask("a."), "NOERROR 60:9");
}

#[test]
fn a_failed_refresh_is_not_tried_again_at_once() {
    let bench = Bench::new("cache . {\n serve_stale 1h immediate 30s 10s\n}");
    bench.ask("a.");
    bench.say(timeout());
    assert_eq!(bench.at(61).ask("a."), "NOERROR 30:1 *");
    bench.run_beside();
    assert_eq!(bench.at(70).ask("a."), "NOERROR 30:1");
    assert_eq!(bench.at(71).ask("a."), "NOERROR 30:1 *");
}

#[test]
fn verify_waits_for_a_newer_answer() {
    let bench = Bench::new("cache . {\n serve_stale 1h verify\n}");
    bench.ask("a.");
    bench.say(address(60, 2));
    assert_eq!(bench.at(61).ask("a."), "NOERROR 60:2 *");
    assert_eq!(bench.at(62).ask("a."), "NOERROR 59:2");
    bench.say(timeout());
    assert_eq!(bench.at(122).ask("a."), "NOERROR 0:2 *");
    bench.say(denial(Rcode::NXDOMAIN, 60));
    assert_eq!(bench.at(123).ask("a."), "NXDOMAIN 60:SOA *");
    // An answer is found where a denial was, and the denial is gone.
    bench.say(address(60, 3));
    assert_eq!((bench.at(184).ask("a."), bench.ask("a.")), ("NOERROR 60:3 *".into(), "NOERROR 60:3".into()));
    assert_eq!(bench.count("served_stale_total"), 1);
}

#[test]
fn verify_waits_no_longer_than_it_is_told() {
    let bench = Bench::new("cache . {\n serve_stale 1h verify 100ms 30s\n}");
    bench.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    bench.say(later(&gate, Rdata::A([192, 0, 2, 2])));
    *bench.impatient.lock() = true;
    assert_eq!(bench.at(61).ask("a."), "NOERROR 30:1 *");
    assert_eq!(bench.ask("a."), "NOERROR 30:1", "it goes on");
    gate.add_permits(1);
    assert_eq!((bench.run_beside(), bench.ask("a.")), (1, "NOERROR 60:2".into()));
    assert_eq!(bench.count("served_stale_total"), 2);
    // In time.
    *bench.impatient.lock() = false;
    assert_eq!(bench.at(122).ask("a."), "NOERROR 60:2 *");
}

#[test]
fn the_stale_answer_is_what_there_is_where_too_much_waits() {
    let bench = Bench::new("cache . {\n serve_stale 1h verify\n}");
    bench.ask("a.");
    bench.say(address(60, 2));
    let (query, mut out) = (packet("a.", Type::A, Class::IN, &[]), [0; 512]);
    let now = bench.start + Duration::from_secs(61);
    let answer = bench.router.answer(&query, client("127.0.0.1:9"), now, &mut State::default(), &mut out);
    let Answer::Pending(pending) = answer else { panic!("it waits") };
    assert_eq!(show(&pending.overload().state), "NOERROR 0:1");
    // The item may be refreshed by the next one.
    assert_eq!(bench.at(61).ask("a."), "NOERROR 60:2");
}

#[test]
fn an_answer_goes_before_denials_where_it_is_preferred() {
    let bench = Bench::new("cache . {\n serve_stale 1h\n serve_stale_policy prefer_positive\n}");
    bench.ask("a.");
    for says in [denial(Rcode::NXDOMAIN, 600), denial(Rcode::NOERROR, 600), code(Rcode::NOERROR)] {
        bench.say(says);
        assert_eq!(bench.at(61).ask("a."), "NOERROR 0:1 *");
        assert_eq!(bench.run_beside(), 1);
    }
    assert_eq!((bench.count("entries success"), bench.count("entries denial")), (1, 1));
    assert_eq!(bench.at(62).ask("a."), "NOERROR 0:1 *");
    bench.say(address(60, 2));
    bench.run_beside();
    assert_eq!(bench.at(63).ask("a."), "NOERROR 0:1 *");
    bench.run_beside();
    assert_eq!((bench.ask("a."), bench.count("entries denial")), ("NOERROR 60:2".into(), 0));
    // Without an answer a denial is what there is.
    bench.say(denial(Rcode::NXDOMAIN, 600));
    assert_eq!((bench.ask("b."), bench.ask("b.")), ("NXDOMAIN 600:SOA *".into(), "NXDOMAIN 600:SOA".into()));
}

#[test]
fn a_name_that_becomes_the_clusters_is_forgotten() {
    let bench = Bench::new("cache . {\n serve_stale 1h\n}");
    bench.ask("a.");
    bench.say(Box::new(|exchange| {
        exchange.state.origin = Origin::Live;
        exchange.reply().answer(Type::A, 30, Rdata::A([192, 0, 2, 2]));
        Step::Answered
    }));
    assert_eq!(bench.at(61).ask("a."), "NOERROR 0:1 *");
    assert_eq!((bench.ask("a."), bench.ask("a.")), ("NOERROR 30:2 *".into(), "NOERROR 30:2 *".into()));
}

/// Many workers, one item that is to be refreshed.
#[test]
fn one_worker_of_many_refreshes() {
    let bench = Bench::new("cache . {\n prefetch 1 1m 90%\n}");
    bench.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    bench.say(later(&gate, Rdata::A([192, 0, 2, 2])));
    bench.at(30);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| assert!(bench.ask("a.").starts_with("NOERROR 30:1"))));
        }
    });
    assert_eq!((bench.asked(), bench.beside.lock().len()), (2, 1));
}

#[test]
fn a_refresh_comes_over_tcp() {
    let bench = Bench::new("cache . {\n prefetch 1 1m 90%\n}");
    bench.ask("a.");
    let seen: Arc<Mutex<Option<Client>>> = Arc::default();
    let noted = seen.clone();
    bench.say(Box::new(move |exchange| {
        *noted.lock() = Some(exchange.client);
        exchange.reply().answer(Type::A, 60, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    bench.at(30).ask("a.");
    assert_eq!(seen.lock().map(|client| client.transport), Some(Transport::Tcp));
}
