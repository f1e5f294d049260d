//! Which replies are cached, for how long, and for which queries.

use super::*;

#[test]
fn an_answer_is_cached_for_its_lowest_ttl() {
    let cache = TestCache::new("cache .");
    cache.respond(Box::new(|exchange| {
        let reply = exchange.reply();
        (reply.authoritative, reply.recursion_available) = (true, true);
        reply.answer(Type::A, 300, Rdata::A([192, 0, 2, 1]));
        reply.answer(Type::A, 60, Rdata::A([192, 0, 2, 2]));
        Step::Answered
    }));
    assert_eq!(cache.ask("a.example."), "NOERROR aa ra 60:1 60:2 *");
    assert_eq!(cache.at(10).ask("a.example."), "NOERROR aa ra 50:1 50:2");
    assert_eq!(cache.at(59).ask("a.example."), "NOERROR aa ra 1:1 1:2");
    assert_eq!(cache.at(60).ask("a.example."), "NOERROR aa ra 60:1 60:2 *");
    // The clock of another worker may be slightly behind.
    assert_eq!(cache.at(59).ask("a.example."), "NOERROR aa ra 60:1 60:2");
}

#[test]
fn limits_of_ttls_apply_to_the_first_answer_too() {
    let cache = TestCache::new("cache 30 .");
    assert_eq!(cache.ask("a."), "NOERROR 30:1 *");
    cache.respond(address(0, 2));
    assert_eq!(cache.ask("b."), "NOERROR 5:2 *");
    assert_eq!(cache.at(4).ask("b."), "NOERROR 1:2");
    cache.respond(denial(Rcode::NXDOMAIN, 300));
    assert_eq!(cache.ask("c."), "NXDOMAIN 30:SOA *");
    assert_eq!(cache.at(5).ask("c."), "NXDOMAIN 29:SOA");
    let cache = TestCache::new("cache . {\n success 1024 3600 0\n denial 1024 10\n}");
    cache.respond(address(0, 2));
    assert_eq!(cache.ask("b."), "NOERROR 0:2 *");
    assert_eq!(cache.ask("b."), "NOERROR 0:2 *", "a reply with a TTL of zero is not cached");
    cache.respond(denial(Rcode::NOERROR, 300));
    assert_eq!(cache.ask("c."), "NOERROR 10:SOA *");
    assert_eq!(cache.at(3).ask("c."), "NOERROR 7:SOA");
}

/// C04, C05.
#[test]
fn names_types_classes_do_and_cd_are_parts_of_the_key() {
    let cache = TestCache::new("cache .");
    let mut number = 0;
    cache.respond(Box::new(move |exchange| {
        number += 1;
        let class = exchange.question().qclass;
        let rtype = exchange.question().qtype;
        let (section, owner, ttl) = (Section::Answer, NameRef::QUESTION, 60 + number);
        let rdata = Rdata::Bytes(exchange.reply().store(&[1, 2, 3, 4]));
        exchange.reply().push(Record { section, owner, rtype, class, ttl, rdata });
        Step::Answered
    }));
    let queries = [
        packet("a.", Type::A, Class::IN, &[]),
        packet("b.", Type::A, Class::IN, &[]),
        packet("a.", Type::TXT, Class::IN, &[]),
        packet("a.", Type::A, Class::CH, &[]),
        packet("a.", Type::A, Class::IN, &["+do"]),
        packet("a.", Type::A, Class::IN, &["+cd"]),
        packet("a.", Type::A, Class::IN, &["+do", "+cd"]),
    ];
    for (at, query) in (61..).zip(&queries) {
        let text = cache.send(query);
        assert!(text.starts_with(&format!("NOERROR {at}:")) && text.ends_with('*'), "{at} {text}");
    }
    for (at, query) in (61..).zip(&queries) {
        let text = cache.send(query);
        assert!(text.starts_with(&format!("NOERROR {at}:")) && !text.ends_with('*'), "{at} {text}");
    }
    // Other parts of a query are not in the key.
    assert_eq!(cache.send(&packet("A.", Type::A, Class::IN, &["+ad"])), "NOERROR 61:4");
}

/// A25.
#[test]
fn the_letter_case_of_the_query_is_preserved() {
    let cache = TestCache::new("cache .");
    cache.ask("web.example.");
    let (query, mut out) = (packet("wEb.EXample.", Type::A, Class::IN, &["+do"]), [0; 512]);
    cache.send(&packet("web.example.", Type::A, Class::IN, &["+do"]));
    let now = *cache.now.lock();
    let answer = cache.router.answer(&query, client("127.0.0.1:9"), now, &mut State::default(), &mut out);
    let Answer::Send(len) = answer else { panic!("an answer at once") };
    assert_eq!(out[12..query.len() - 11], query[12..query.len() - 11]);
    // The owner is a pointer to the question, and there is one OPT, that of this client.
    assert_eq!(out[query.len() - 11..][..2], [0xc0, 0x0c]);
    assert_eq!((len, out[6..12].to_vec()), (query.len() + 16, vec![0, 1, 0, 0, 0, 1]));
}

#[test]
fn a_hit_has_the_same_records_as_the_miss() {
    let cache = TestCache::new("cache .");
    cache.respond(Box::new(|exchange| {
        let reply = exchange.reply();
        let (alias, server) =
            (reply.store_name(n("b.cdn.example.").as_name()), reply.store_labels(&[b"\x02ns"], Some(4)));
        reply.answer(Type::CNAME, 60, Rdata::Name(alias));
        let text = reply.store(b"\x05hello");
        let target = reply.store_name(n("host.example.").as_name());
        let srv = Rdata::Srv { priority: 1, weight: 2, port: 3, target };
        for (section, owner, rtype, rdata) in [
            (Section::Answer, alias, Type::A, Rdata::A([192, 0, 2, 1])),
            (Section::Answer, alias, Type::AAAA, Rdata::Aaaa([7; 16])),
            (Section::Answer, alias, Type::TXT, Rdata::Bytes(text)),
            (Section::Authority, NameRef::question(4), Type::NS, Rdata::Name(server)),
            (Section::Additional, server, Type::SRV, srv),
        ] {
            reply.push(Record { section, owner, rtype, class: Class::IN, ttl: 60, rdata });
        }
        Step::Answered
    }));
    for query in [packet("www.example.", Type::A, Class::IN, &[]), packet("www.Example.", Type::A, Class::IN, &["+do"])]
    {
        let bytes = || {
            let (mut state, mut out) = (State::default(), vec![0; 4096]);
            let Answer::Send(len) =
                cache.router.answer(&query, client("127.0.0.1:9"), cache.start, &mut state, &mut out)
            else {
                panic!("an answer at once");
            };
            out[..len].to_vec()
        };
        assert_eq!((bytes(), cache.queries()), (bytes(), 1));
        assert_eq!(cache.queries(), 0);
    }
}

/// Names with the same hash do not get each other's answers.
#[test]
fn keys_are_compared_completely() {
    let cache = TestCache::new("cache .");
    cache.ask("a.");
    let other = packet("b.", Type::A, Class::IN, &[]);
    let query = Query::parse(&other).expect("a query");
    let hash = |text: &str| {
        let packet = packet(text, Type::A, Class::IN, &[]);
        cache.block_cache.store.hash(&Query::parse(&packet).expect("a query").question, KeyFlags::of(&query))
    };
    let mut key = CacheKey { question: &query.question, flags: KeyFlags::of(&query), hash: hash("a.") };
    assert!(cache.block_cache.find(key, cache.start).is_none());
    key.hash = hash("b.");
    assert!(cache.block_cache.find(key, cache.start).is_none());
}

/// C08, C10, A06.
#[test]
fn replies_that_are_not_cacheable_are_not_cached() {
    let cut: Responder = Box::new(|exchange| {
        exchange.reply().answer(Type::A, 60, Rdata::A([192, 0, 2, 1]));
        exchange.reply().truncated = true;
        Step::Answered
    });
    let alias: Responder = Box::new(|exchange| {
        let target = exchange.reply().store_name(n("b.").as_name());
        exchange.reply().answer(Type::CNAME, 60, Rdata::Name(target));
        Step::Answered
    });
    for responder in [cut, alias, code(Rcode::NXDOMAIN), code(Rcode::REFUSED), code(Rcode::FORMERR)] {
        let cache = TestCache::new("cache .");
        cache.respond(responder);
        let first = cache.ask("a.");
        assert!(first.ends_with('*'));
        assert_eq!(cache.ask("a."), first);
        assert_eq!((cache.count("entries success"), cache.count("entries denial")), (0, 0));
    }
    let cache = TestCache::new("cache .");
    cache.respond(Box::new(|exchange| {
        exchange.reply().answer(Type::AXFR, 60, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    let transfer = packet("a.", Type::AXFR, Class::IN, &[]);
    assert!(cache.send(&transfer).ends_with('*') && cache.send(&transfer).ends_with('*'));
}

/// C11.
#[test]
fn failures_are_cached_for_a_short_time_but_overload_is_not() {
    let cache = TestCache::new("cache .");
    cache.respond(timeout());
    assert_eq!(cache.ask("a."), "SERVFAIL *");
    cache.respond(address(60, 1));
    assert_eq!(cache.at(4).ask("a."), "SERVFAIL");
    assert_eq!(cache.at(5).ask("a."), "NOERROR 60:1 *");
    // *cancel* has ended the query.
    let given_up = TestCache::with_time_limit("cache .", Some(Duration::ZERO));
    given_up.respond(failure(Failure::Upstream(Error::NoHealthy)));
    assert_eq!((given_up.ask("a."), given_up.ask("a.")), ("SERVFAIL *".into(), "SERVFAIL *".into()));
    for rest in [Error::Limit(1), Error::Full, Error::Ending].map(Failure::Upstream) {
        cache.respond(failure(rest));
        assert_eq!(cache.ask("b."), "SERVFAIL *");
    }
    cache.respond(failure(Failure::Overload("kubernetes")));
    assert_eq!(cache.ask("b."), "SERVFAIL *");
    cache.respond(Box::new(|exchange| exchange.fail(Rcode::REFUSED, Failure::Upstream(Error::Limit(1)))));
    assert_eq!(cache.ask("b."), "REFUSED *");
    // *hosts* refuses without a failure.
    cache.respond(Box::new(|exchange| exchange.refuse(Rcode::SERVFAIL)));
    assert_eq!(cache.ask("b."), "SERVFAIL *");
    cache.respond(address(60, 1));
    assert_eq!(cache.ask("b."), "NOERROR 60:1 *");

    let cache = TestCache::new("cache . {\n servfail 10s\n}");
    cache.respond(code(Rcode::SERVFAIL));
    assert_eq!((cache.ask("a."), cache.at(9).ask("a.")), ("SERVFAIL *".into(), "SERVFAIL".into()));
    let cache = TestCache::new("cache . {\n servfail 0\n}");
    cache.respond(timeout());
    assert_eq!((cache.ask("a."), cache.ask("a.")), ("SERVFAIL *".into(), "SERVFAIL *".into()));
}

#[test]
fn zones_are_cached_as_configured() {
    let cache = TestCache::new("cache example {\n disable success a.example\n disable denial b.example\n}");
    cache.respond(address(60, 1));
    assert_eq!((cache.ask("c.example."), cache.ask("c.example.")), ("NOERROR 60:1 *".into(), "NOERROR 60:1".into()));
    assert_eq!(cache.ask("x.a.example."), cache.ask("x.a.example."));
    cache.respond(denial(Rcode::NXDOMAIN, 60));
    assert_eq!(
        (cache.ask("d.a.example."), cache.ask("d.a.example.").contains('*')),
        ("NXDOMAIN 60:SOA *".into(), false)
    );
    assert_eq!(cache.ask("x.b.example."), cache.ask("x.b.example."));
    // The cache does nothing outside of its zones: the backend is not asked for AD.
    let counted = cache.count("requests_total");
    let outside = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.ask("example.com.")));
    assert!(outside.is_err() && cache.count("requests_total") == counted);
}

#[test]
fn authentic_data_is_for_clients_that_request_it() {
    let cache = TestCache::new("cache .");
    cache.respond(Box::new(|exchange| {
        exchange.reply().authentic_data = true;
        exchange.reply().answer(Type::A, 60, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    assert_eq!(cache.ask("a."), "NOERROR 60:1 *");
    assert_eq!(cache.ask("a."), "NOERROR 60:1");
    assert_eq!(cache.send(&packet("a.", Type::A, Class::IN, &["+ad"])), "NOERROR ad 60:1");
    assert_eq!(cache.send(&packet("a.", Type::A, Class::IN, &["+do"])), "NOERROR ad 60:1 *");
    assert_eq!(cache.send(&packet("a.", Type::A, Class::IN, &["+do"])), "NOERROR ad 60:1");
}

#[test]
fn answers_of_the_cluster_are_not_cached() {
    let cache = TestCache::new("cache 10 .");
    cache.respond(Box::new(|exchange| {
        exchange.state.origin = Origin::Live;
        exchange.reply().answer(Type::A, 30, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    assert_eq!((cache.ask("a."), cache.at(3).ask("a.")), ("NOERROR 10:1 *".into(), "NOERROR 10:1 *".into()));
    assert_eq!((cache.count("requests_total"), cache.count("misses_total")), (2, 2));
    // In a zone that is always live nothing is cached, whichever plugin answers.
    cache.respond(address(30, 2));
    assert_eq!((cache.ask("a.live."), cache.at(4).ask("a.live.")), ("NOERROR 10:2 *".into(), "NOERROR 10:2 *".into()));
    assert_eq!((cache.count("requests_total"), cache.count("entries success")), (4, 0));
}

#[test]
fn live_ttls_have_the_limits_of_cached_ones() {
    for (lines, ttl, expected) in [
        ("cache .", 30, "NOERROR 30:1 *"),
        ("cache 10 .", 30, "NOERROR 10:1 *"),
        ("cache .", 0, "NOERROR 5:1 *"),
        ("cache . {\n denial 1024 10\n}", 30, "NOERROR 30:1 *"),
        ("cache . {\n success 1024 10\n}", 30, "NOERROR 10:1 *"),
    ] {
        let cache = TestCache::new(lines);
        cache.respond(Box::new(move |exchange| {
            exchange.state.origin = Origin::Live;
            exchange.reply().answer(Type::A, ttl, Rdata::A([192, 0, 2, 1]));
            Step::Answered
        }));
        assert_eq!(cache.ask("a."), expected, "{lines} {ttl}");
    }
}

#[test]
fn keepttl_keeps_ttls_constant() {
    let cache = TestCache::new("cache . {\n keepttl\n serve_stale\n}");
    cache.ask("a.");
    assert_eq!(cache.at(59).ask("a."), "NOERROR 60:1");
    assert_eq!(cache.at(61).ask("a."), "NOERROR 60:1 *");
}
