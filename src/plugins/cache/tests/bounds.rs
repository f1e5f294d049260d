//! How much there may be, and what is counted.

use super::*;

#[test]
fn items_are_bounded_by_number_and_by_octets() {
    let bench = Bench::new("cache . {\n success 1024\n denial 1024\n}");
    for at in 0..5_000 {
        bench.ask(&format!("n{at}.example."));
    }
    let entries = bench.count("entries success");
    assert!((900..=1_024).contains(&entries), "{entries}");
    assert_eq!(bench.count("evictions_total success"), 5_000 - entries);
    // Ten KiB each.
    bench.say(Box::new(|exchange| {
        let text = exchange.reply().store(&[b'x'; 10_000]);
        exchange.reply().answer(Type::A, 60, Rdata::A([1, 1, 1, 1]));
        exchange.reply().answer(Type::TXT, 60, Rdata::Bytes(text));
        Step::Answered
    }));
    for at in 0..1_000 {
        bench.ask(&format!("large{at}.example."));
    }
    let octets = bench.memory.store.octets(Place::Success);
    assert!(octets <= 1_024 * 1_024, "{octets}");
    // More than a message holds.
    bench.say(Box::new(|exchange| {
        for _ in 0..7 {
            let text = exchange.reply().store(&[b'x'; 10_000]);
            exchange.reply().answer(Type::TXT, 60, Rdata::Bytes(text));
        }
        Step::Answered
    }));
    let huge = packet("huge.example.", Type::TXT, Class::IN, &[]);
    assert!(bench.send(&huge).ends_with('*') && bench.send(&huge).ends_with('*'));
    assert_eq!(bench.count("drops_total"), 2);
}

/// The bound: 400 octets beside the answer's own.
#[test]
fn an_item_takes_few_octets_beside_its_own() {
    let bench = Bench::new("cache .");
    for at in 0..9_000 {
        bench.ask(&format!("n{at}.example."));
    }
    let entries = bench.count("entries success") as usize;
    let each = bench.memory.store.overhead(Place::Success) / entries;
    assert!(entries > 8_000 && each < 200, "{each} octets for each of {entries}");
}

#[test]
fn what_is_counted_has_coredns_names_and_labels() {
    let bench = Bench::new("cache example example.org {\n prefetch 1 1m 90%\n}");
    bench.ask("a.example.");
    bench.at(30).ask("a.example.");
    let registry = Registry::new();
    let caches = bench.caches.clone();
    register(&registry, Observed::new(Caches::METRICS, move || caches.families()));
    let text = text(&registry);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        lines,
        [
            "coredns_cache_entries{server=\"dns://:53\",type=\"denial\",view=\"\",zones=\"example.,example.org.\"} 0",
            "coredns_cache_entries{server=\"dns://:53\",type=\"success\",view=\"\",zones=\"example.,example.org.\"} 1",
            "coredns_cache_hits_total{server=\"dns://:53\",type=\"success\",view=\"\",zones=\"example.,example.org.\"} 1",
            "coredns_cache_misses_total{server=\"dns://:53\",view=\"\",zones=\"example.,example.org.\"} 1",
            "coredns_cache_prefetch_total{server=\"dns://:53\",view=\"\",zones=\"example.,example.org.\"} 1",
            "coredns_cache_requests_total{server=\"dns://:53\",view=\"\",zones=\"example.,example.org.\"} 2",
        ]
    );
}
