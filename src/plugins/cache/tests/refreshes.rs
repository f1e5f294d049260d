//! Refreshes of entries before they expire, and the use of expired ones.

use super::*;

/// C12.
#[test]
fn a_popular_name_is_refreshed_once_before_it_expires() {
    let cache = TestCache::new("cache . {\n prefetch 2 10m 50%\n}");
    cache.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    cache.respond(later(&gate, Rdata::A([192, 0, 2, 2])));
    assert_eq!(cache.queries(), 1);
    assert_eq!((cache.at(10).ask("a."), cache.at(29).ask("a.")), ("NOERROR 50:1".into(), "NOERROR 31:1".into()));
    // At half of its TTL; the upstream is slow.
    for at in 30..60 {
        for _ in 0..30 {
            let text = cache.at(at).ask("a.");
            assert_eq!(text.trim_end_matches(" *"), format!("NOERROR {}:1", 60 - at));
        }
    }
    assert_eq!(cache.queries(), 1);
    gate.add_permits(1);
    assert_eq!(cache.run_background(), 1);
    assert_eq!((cache.ask("a."), cache.count("prefetch_total")), ("NOERROR 60:2".into(), 1));
    // It is still popular.
    assert_eq!(cache.at(59 + 30).ask("a."), "NOERROR 30:2 *");
}

#[test]
fn a_name_with_pauses_is_not_popular() {
    let cache = TestCache::new("cache . {\n prefetch 2 10s 90%\n}");
    cache.ask("a.");
    assert_eq!((cache.at(10).ask("a."), cache.at(21).ask("a.")), ("NOERROR 50:1".into(), "NOERROR 39:1".into()));
    assert_eq!((cache.at(31).ask("a."), cache.run_background()), ("NOERROR 29:1 *".into(), 1));
}

#[test]
fn a_dropped_refresh_is_repeated() {
    let cache = TestCache::new("cache . {\n prefetch 1 1m 90%\n}");
    cache.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    cache.respond(later(&gate, Rdata::A([192, 0, 2, 2])));
    assert_eq!((cache.at(30).ask("a."), cache.ask("a.")), ("NOERROR 30:1 *".into(), "NOERROR 30:1".into()));
    cache.background.lock().clear();
    assert_eq!(cache.ask("a."), "NOERROR 30:1 *");
}

/// C01.
#[test]
fn a_stale_denial_is_replaced_by_an_answer() {
    let cache = TestCache::new("cache . {\n serve_stale 1h\n}");
    cache.respond(denial(Rcode::NXDOMAIN, 60));
    cache.ask("a.");
    assert_eq!(cache.at(59).ask("a."), "NXDOMAIN 1:SOA");
    cache.respond(address(60, 1));
    assert_eq!(cache.at(61).ask("a."), "NXDOMAIN 0:SOA *");
    cache.run_background();
    assert_eq!((cache.ask("a."), cache.count("served_stale_total")), ("NOERROR 60:1".into(), 1));
    // The other direction.
    cache.respond(denial(Rcode::NXDOMAIN, 60));
    assert_eq!(cache.at(121).ask("a."), "NOERROR 0:1 *");
    assert_eq!(cache.ask("a."), "NXDOMAIN 60:SOA");
    // A denial that a denial replaces.
    assert_eq!(cache.at(181).ask("a."), "NXDOMAIN 0:SOA *");
    assert_eq!(cache.ask("a."), "NXDOMAIN 60:SOA");
}

/// C02.
#[test]
fn a_failure_does_not_hide_an_answer() {
    let cache = TestCache::new("cache . {\n serve_stale 1h\n}");
    cache.ask("a.");
    cache.respond(code(Rcode::SERVFAIL));
    for at in [61, 62, 3_659] {
        assert_eq!(cache.at(at).ask("a."), "NOERROR 0:1 *");
        cache.run_background();
    }
    assert_eq!(cache.at(3_660).ask("a."), "SERVFAIL *", "an hour is over");
    // A failure that is cached next to a fresh answer, which another worker stored later.
    let cache = TestCache::new("cache .");
    cache.respond(code(Rcode::SERVFAIL));
    cache.ask("a.");
    let query = packet("a.", Type::A, Class::IN, &[]);
    let query = Query::parse(&query).expect("a query");
    let mut reply = crate::wire::Reply::new();
    reply.answer(Type::A, 60, Rdata::A([192, 0, 2, 9]));
    let entry = CacheEntry::new(&query, &mut reply, 60, true, cache.start).expect("an entry");
    cache.block_cache.store.put(
        Partition::Success,
        cache.block_cache.store.hash(&query.question, KeyFlags::of(&query)),
        entry,
    );
    assert_eq!(cache.ask("a."), "NOERROR 60:9");
}

#[test]
fn a_failed_refresh_is_not_repeated_at_once() {
    let cache = TestCache::new("cache . {\n serve_stale 1h immediate 30s 10s\n}");
    cache.ask("a.");
    cache.respond(timeout());
    assert_eq!(cache.at(61).ask("a."), "NOERROR 30:1 *");
    cache.run_background();
    assert_eq!(cache.at(70).ask("a."), "NOERROR 30:1");
    assert_eq!(cache.at(71).ask("a."), "NOERROR 30:1 *");
}

#[test]
fn verify_waits_for_a_newer_answer() {
    let cache = TestCache::new("cache . {\n serve_stale 1h verify\n}");
    cache.ask("a.");
    cache.respond(address(60, 2));
    assert_eq!(cache.at(61).ask("a."), "NOERROR 60:2 *");
    assert_eq!(cache.at(62).ask("a."), "NOERROR 59:2");
    cache.respond(timeout());
    assert_eq!(cache.at(122).ask("a."), "NOERROR 0:2 *");
    cache.respond(denial(Rcode::NXDOMAIN, 60));
    assert_eq!(cache.at(123).ask("a."), "NXDOMAIN 60:SOA *");
    // An answer replaces a denial, and the denial is removed.
    cache.respond(address(60, 3));
    assert_eq!((cache.at(184).ask("a."), cache.ask("a.")), ("NOERROR 60:3 *".into(), "NOERROR 60:3".into()));
    assert_eq!(cache.count("served_stale_total"), 1);
}

#[test]
fn verify_waits_no_longer_than_its_timeout() {
    let cache = TestCache::new("cache . {\n serve_stale 1h verify 100ms 30s\n}");
    cache.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    cache.respond(later(&gate, Rdata::A([192, 0, 2, 2])));
    *cache.timers_fire.lock() = true;
    assert_eq!(cache.at(61).ask("a."), "NOERROR 30:1 *");
    assert_eq!(cache.ask("a."), "NOERROR 30:1", "the refresh continues");
    gate.add_permits(1);
    assert_eq!((cache.run_background(), cache.ask("a.")), (1, "NOERROR 60:2".into()));
    assert_eq!(cache.count("served_stale_total"), 2);
    // In time.
    *cache.timers_fire.lock() = false;
    assert_eq!(cache.at(122).ask("a."), "NOERROR 60:2 *");
}

#[test]
fn the_stale_answer_is_sent_over_the_limit_of_pending_queries() {
    let cache = TestCache::new("cache . {\n serve_stale 1h verify\n}");
    cache.ask("a.");
    cache.respond(address(60, 2));
    let (query, mut out) = (packet("a.", Type::A, Class::IN, &[]), [0; 512]);
    let now = cache.start + Duration::from_secs(61);
    let answer = cache.router.answer(&query, client("127.0.0.1:9"), now, &mut State::default(), &mut out);
    let Answer::Pending(pending) = answer else { panic!("it waits") };
    assert_eq!(show(&pending.overload().into_state()), "NOERROR 0:1");
    // The next query may refresh the entry.
    assert_eq!(cache.at(61).ask("a."), "NOERROR 60:2");
}

#[test]
fn a_preferred_answer_has_precedence_over_denials() {
    let cache = TestCache::new("cache . {\n serve_stale 1h\n serve_stale_policy prefer_positive\n}");
    cache.ask("a.");
    for responder in [denial(Rcode::NXDOMAIN, 600), denial(Rcode::NOERROR, 600), code(Rcode::NOERROR)] {
        cache.respond(responder);
        assert_eq!(cache.at(61).ask("a."), "NOERROR 0:1 *");
        assert_eq!(cache.run_background(), 1);
    }
    assert_eq!((cache.count("entries success"), cache.count("entries denial")), (1, 1));
    assert_eq!(cache.at(62).ask("a."), "NOERROR 0:1 *");
    cache.respond(address(60, 2));
    cache.run_background();
    assert_eq!(cache.at(63).ask("a."), "NOERROR 0:1 *");
    cache.run_background();
    assert_eq!((cache.ask("a."), cache.count("entries denial")), ("NOERROR 60:2".into(), 0));
    // Without an answer a denial is used.
    cache.respond(denial(Rcode::NXDOMAIN, 600));
    assert_eq!((cache.ask("b."), cache.ask("b.")), ("NXDOMAIN 600:SOA *".into(), "NXDOMAIN 600:SOA".into()));
}

#[test]
fn a_name_that_appears_in_the_cluster_is_removed() {
    let cache = TestCache::new("cache . {\n serve_stale 1h\n}");
    cache.ask("a.");
    cache.respond(Box::new(|exchange| {
        exchange.state.origin = Origin::Live;
        exchange.reply().answer(Type::A, 30, Rdata::A([192, 0, 2, 2]));
        Step::Answered
    }));
    assert_eq!(cache.at(61).ask("a."), "NOERROR 0:1 *");
    assert_eq!((cache.ask("a."), cache.ask("a.")), ("NOERROR 30:2 *".into(), "NOERROR 30:2 *".into()));
}

/// Many workers hit one entry that is to be refreshed.
#[test]
fn one_of_many_workers_refreshes() {
    let cache = TestCache::new("cache . {\n prefetch 1 1m 90%\n}");
    cache.ask("a.");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    cache.respond(later(&gate, Rdata::A([192, 0, 2, 2])));
    cache.at(30);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|_| assert!(cache.ask("a.").starts_with("NOERROR 30:1"))));
        }
    });
    assert_eq!((cache.queries(), cache.background.lock().len()), (2, 1));
}

#[test]
fn a_refresh_uses_tcp() {
    let cache = TestCache::new("cache . {\n prefetch 1 1m 90%\n}");
    cache.ask("a.");
    let seen: Arc<Mutex<Option<Client>>> = Arc::default();
    let recorded = seen.clone();
    cache.respond(Box::new(move |exchange| {
        *recorded.lock() = Some(exchange.client);
        exchange.reply().answer(Type::A, 60, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    cache.at(30).ask("a.");
    assert_eq!(seen.lock().map(|client| client.transport), Some(Transport::Tcp));
}
