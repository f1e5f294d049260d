//! What is kept, for how long, and for whom.

use super::*;

#[test]
fn an_answer_is_kept_for_its_least_ttl() {
    let bench = Bench::new("cache .");
    bench.say(Box::new(|exchange| {
        let reply = exchange.reply();
        (reply.authoritative, reply.recursion_available) = (true, true);
        reply.answer(Type::A, 300, Rdata::A([192, 0, 2, 1]));
        reply.answer(Type::A, 60, Rdata::A([192, 0, 2, 2]));
        Step::Answered
    }));
    assert_eq!(bench.ask("a.example."), "NOERROR aa ra 60:1 60:2 *");
    assert_eq!(bench.at(10).ask("a.example."), "NOERROR aa ra 50:1 50:2");
    assert_eq!(bench.at(59).ask("a.example."), "NOERROR aa ra 1:1 1:2");
    assert_eq!(bench.at(60).ask("a.example."), "NOERROR aa ra 60:1 60:2 *");
    // A clock of another worker may be a little behind.
    assert_eq!(bench.at(59).ask("a.example."), "NOERROR aa ra 60:1 60:2");
}

#[test]
fn bounds_of_ttls_hold_for_the_first_answer_too() {
    let bench = Bench::new("cache 30 .");
    assert_eq!(bench.ask("a."), "NOERROR 30:1 *");
    bench.say(address(0, 2));
    assert_eq!(bench.ask("b."), "NOERROR 5:2 *");
    assert_eq!(bench.at(4).ask("b."), "NOERROR 1:2");
    bench.say(denial(Rcode::NXDOMAIN, 300));
    assert_eq!(bench.ask("c."), "NXDOMAIN 30:SOA *");
    assert_eq!(bench.at(5).ask("c."), "NXDOMAIN 29:SOA");
    let bench = Bench::new("cache . {\n success 1024 3600 0\n denial 1024 10\n}");
    bench.say(address(0, 2));
    assert_eq!(bench.ask("b."), "NOERROR 0:2 *");
    assert_eq!(bench.ask("b."), "NOERROR 0:2 *", "what is good for no time is not kept");
    bench.say(denial(Rcode::NOERROR, 300));
    assert_eq!(bench.ask("c."), "NOERROR 10:SOA *");
    assert_eq!(bench.at(3).ask("c."), "NOERROR 7:SOA");
}

/// C04, C05.
#[test]
fn names_types_classes_do_and_cd_are_kept_apart() {
    let bench = Bench::new("cache .");
    let mut number = 0;
    bench.say(Box::new(move |exchange| {
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
        let said = bench.send(query);
        assert!(said.starts_with(&format!("NOERROR {at}:")) && said.ends_with('*'), "{at} {said}");
    }
    for (at, query) in (61..).zip(&queries) {
        let said = bench.send(query);
        assert!(said.starts_with(&format!("NOERROR {at}:")) && !said.ends_with('*'), "{at} {said}");
    }
    // What a client sends besides is not in the key.
    assert_eq!(bench.send(&packet("A.", Type::A, Class::IN, &["+ad"])), "NOERROR 61:4");
}

/// A25.
#[test]
fn letters_come_back_as_they_were_sent() {
    let bench = Bench::new("cache .");
    bench.ask("web.example.");
    let (query, mut out) = (packet("wEb.EXample.", Type::A, Class::IN, &["+do"]), [0; 512]);
    bench.send(&packet("web.example.", Type::A, Class::IN, &["+do"]));
    let now = *bench.now.lock();
    let answer = bench.router.answer(&query, client("127.0.0.1:9"), now, &mut State::default(), &mut out);
    let Answer::Send(len) = answer else { panic!("an answer at once") };
    assert_eq!(out[12..query.len() - 11], query[12..query.len() - 11]);
    // The owner points there, and there is one OPT, this client's.
    assert_eq!(out[query.len() - 11..][..2], [0xc0, 0x0c]);
    assert_eq!((len, out[6..12].to_vec()), (query.len() + 16, vec![0, 1, 0, 0, 0, 1]));
}

#[test]
fn what_comes_back_is_what_came() {
    let bench = Bench::new("cache .");
    bench.say(Box::new(|exchange| {
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
        let octets = || {
            let (mut state, mut out) = (State::default(), vec![0; 4096]);
            let Answer::Send(len) =
                bench.router.answer(&query, client("127.0.0.1:9"), bench.start, &mut state, &mut out)
            else {
                panic!("an answer at once");
            };
            out[..len].to_vec()
        };
        assert_eq!((octets(), bench.asked()), (octets(), 1));
        assert_eq!(bench.asked(), 0);
    }
}

/// A key that two names share gives neither the other's answer.
#[test]
fn a_key_says_nothing_alone() {
    let bench = Bench::new("cache .");
    bench.ask("a.");
    let other = packet("b.", Type::A, Class::IN, &[]);
    let query = Query::parse(&other).expect("a query");
    let of = |text: &str| {
        let packet = packet(text, Type::A, Class::IN, &[]);
        bench.memory.store.key(&Query::parse(&packet).expect("a query").question, Bits::of(&query))
    };
    let mut asked = Asked { question: &query.question, bits: Bits::of(&query), key: of("a.") };
    assert!(bench.memory.find(asked, bench.start).is_none());
    asked.key = of("b.");
    assert!(bench.memory.find(asked, bench.start).is_none());
}

/// C08, C10, A06.
#[test]
fn what_may_not_be_kept_is_asked_for_again() {
    let cut: Says = Box::new(|exchange| {
        exchange.reply().answer(Type::A, 60, Rdata::A([192, 0, 2, 1]));
        exchange.reply().truncated = true;
        Step::Answered
    });
    let alias: Says = Box::new(|exchange| {
        let target = exchange.reply().store_name(n("b.").as_name());
        exchange.reply().answer(Type::CNAME, 60, Rdata::Name(target));
        Step::Answered
    });
    for says in [cut, alias, code(Rcode::NXDOMAIN), code(Rcode::REFUSED), code(Rcode::FORMERR)] {
        let bench = Bench::new("cache .");
        bench.say(says);
        let first = bench.ask("a.");
        assert!(first.ends_with('*'));
        assert_eq!(bench.ask("a."), first);
        assert_eq!((bench.count("entries success"), bench.count("entries denial")), (0, 0));
    }
    let bench = Bench::new("cache .");
    bench.say(Box::new(|exchange| {
        exchange.reply().answer(Type::AXFR, 60, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    let transfer = packet("a.", Type::AXFR, Class::IN, &[]);
    assert!(bench.send(&transfer).ends_with('*') && bench.send(&transfer).ends_with('*'));
}

/// C11.
#[test]
fn failures_are_kept_for_a_short_time_but_overload_is_not() {
    let bench = Bench::new("cache .");
    bench.say(timeout());
    assert_eq!(bench.ask("a."), "SERVFAIL *");
    bench.say(address(60, 1));
    assert_eq!(bench.at(4).ask("a."), "SERVFAIL");
    assert_eq!(bench.at(5).ask("a."), "NOERROR 60:1 *");
    for rest in [Error::Limit(1), Error::Full, Error::Ending].map(Failure::Upstream) {
        bench.say(failure(rest));
        assert_eq!(bench.ask("b."), "SERVFAIL *");
    }
    bench.say(failure(Failure::Overload("kubernetes")));
    assert_eq!(bench.ask("b."), "SERVFAIL *");
    bench.say(Box::new(|exchange| exchange.fail(Rcode::REFUSED, Failure::Upstream(Error::Limit(1)))));
    assert_eq!(bench.ask("b."), "REFUSED *");
    // *hosts* gives up without a reason.
    bench.say(Box::new(|exchange| exchange.refuse(Rcode::SERVFAIL)));
    assert_eq!(bench.ask("b."), "SERVFAIL *");
    bench.say(address(60, 1));
    assert_eq!(bench.ask("b."), "NOERROR 60:1 *");

    let bench = Bench::new("cache . {\n servfail 10s\n}");
    bench.say(code(Rcode::SERVFAIL));
    assert_eq!((bench.ask("a."), bench.at(9).ask("a.")), ("SERVFAIL *".into(), "SERVFAIL".into()));
    let bench = Bench::new("cache . {\n servfail 0\n}");
    bench.say(timeout());
    assert_eq!((bench.ask("a."), bench.ask("a.")), ("SERVFAIL *".into(), "SERVFAIL *".into()));
}

#[test]
fn zones_are_kept_or_not_as_the_lines_say() {
    let bench = Bench::new("cache example {\n disable success a.example\n disable denial b.example\n}");
    bench.say(address(60, 1));
    assert_eq!((bench.ask("c.example."), bench.ask("c.example.")), ("NOERROR 60:1 *".into(), "NOERROR 60:1".into()));
    assert_eq!(bench.ask("x.a.example."), bench.ask("x.a.example."));
    bench.say(denial(Rcode::NXDOMAIN, 60));
    assert_eq!(
        (bench.ask("d.a.example."), bench.ask("d.a.example.").contains('*')),
        ("NXDOMAIN 60:SOA *".into(), false)
    );
    assert_eq!(bench.ask("x.b.example."), bench.ask("x.b.example."));
    // Outside of its zones the cache does nothing: the plugin behind is not told of it.
    let counted = bench.count("requests_total");
    let outside = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bench.ask("example.com.")));
    assert!(outside.is_err() && bench.count("requests_total") == counted);
}

#[test]
fn authentic_data_is_for_who_asks_for_it() {
    let bench = Bench::new("cache .");
    bench.say(Box::new(|exchange| {
        exchange.reply().authentic_data = true;
        exchange.reply().answer(Type::A, 60, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    assert_eq!(bench.ask("a."), "NOERROR 60:1 *");
    assert_eq!(bench.ask("a."), "NOERROR 60:1");
    assert_eq!(bench.send(&packet("a.", Type::A, Class::IN, &["+ad"])), "NOERROR ad 60:1");
    assert_eq!(bench.send(&packet("a.", Type::A, Class::IN, &["+do"])), "NOERROR ad 60:1 *");
    assert_eq!(bench.send(&packet("a.", Type::A, Class::IN, &["+do"])), "NOERROR ad 60:1");
}

#[test]
fn what_is_said_of_the_cluster_is_not_kept() {
    let bench = Bench::new("cache 10 .");
    bench.say(Box::new(|exchange| {
        exchange.state.origin = Origin::Live;
        exchange.reply().answer(Type::A, 30, Rdata::A([192, 0, 2, 1]));
        Step::Answered
    }));
    assert_eq!((bench.ask("a."), bench.at(3).ask("a.")), ("NOERROR 10:1 *".into(), "NOERROR 10:1 *".into()));
    assert_eq!((bench.count("requests_total"), bench.count("misses_total")), (2, 2));
    // In a zone that is all live nothing is kept, whoever says it.
    bench.say(address(30, 2));
    assert_eq!((bench.ask("a.live."), bench.at(4).ask("a.live.")), ("NOERROR 10:2 *".into(), "NOERROR 10:2 *".into()));
    assert_eq!((bench.count("requests_total"), bench.count("entries success")), (4, 0));
}

#[test]
fn live_ttls_are_bounded_as_kept_ones_are() {
    for (lines, ttl, expected) in [
        ("cache .", 30, "NOERROR 30:1 *"),
        ("cache 10 .", 30, "NOERROR 10:1 *"),
        ("cache .", 0, "NOERROR 5:1 *"),
        ("cache . {\n denial 1024 10\n}", 30, "NOERROR 30:1 *"),
        ("cache . {\n success 1024 10\n}", 30, "NOERROR 10:1 *"),
    ] {
        let bench = Bench::new(lines);
        bench.say(Box::new(move |exchange| {
            exchange.state.origin = Origin::Live;
            exchange.reply().answer(Type::A, ttl, Rdata::A([192, 0, 2, 1]));
            Step::Answered
        }));
        assert_eq!(bench.ask("a."), expected, "{lines} {ttl}");
    }
}

#[test]
fn ttls_stay_where_they_are_to() {
    let bench = Bench::new("cache . {\n keepttl\n serve_stale\n}");
    bench.ask("a.");
    assert_eq!(bench.at(59).ask("a."), "NOERROR 60:1");
    assert_eq!(bench.at(61).ask("a."), "NOERROR 60:1 *");
}
