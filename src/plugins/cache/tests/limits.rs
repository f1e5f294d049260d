//! The limits of the cache, and its metrics.

use super::*;

#[test]
fn entries_are_limited_by_number_and_by_bytes() {
    let cache = TestCache::new("cache . {\n success 1024\n denial 1024\n}");
    for at in 0..5_000 {
        cache.ask(&format!("n{at}.example."));
    }
    let entries = cache.count("entries success");
    assert!((900..=1_024).contains(&entries), "{entries}");
    assert_eq!(cache.count("evictions_total success"), 5_000 - entries);
    // Ten KiB each.
    cache.respond(Box::new(|exchange| {
        let text = exchange.reply().store(&[b'x'; 10_000]);
        exchange.reply().answer(Type::A, 60, Rdata::A([1, 1, 1, 1]));
        exchange.reply().answer(Type::TXT, 60, Rdata::Bytes(text));
        Step::Answered
    }));
    for at in 0..1_000 {
        cache.ask(&format!("large{at}.example."));
    }
    let bytes = cache.block_cache.store.message_bytes(Partition::Success);
    assert!(bytes <= 1_024 * 1_024, "{bytes}");
    // More than a message can hold.
    cache.respond(Box::new(|exchange| {
        for _ in 0..7 {
            let text = exchange.reply().store(&[b'x'; 10_000]);
            exchange.reply().answer(Type::TXT, 60, Rdata::Bytes(text));
        }
        Step::Answered
    }));
    let huge = packet("huge.example.", Type::TXT, Class::IN, &[]);
    assert!(cache.send(&huge).ends_with('*') && cache.send(&huge).ends_with('*'));
    assert_eq!(cache.count("drops_total"), 2);
}

/// The overhead of an entry, without its message, is below 200 bytes.
#[test]
fn an_entry_has_a_small_overhead() {
    let cache = TestCache::new("cache .");
    for at in 0..9_000 {
        cache.ask(&format!("n{at}.example."));
    }
    let entries = cache.count("entries success") as usize;
    let each = cache.block_cache.store.overhead(Partition::Success) / entries;
    assert!(entries > 8_000 && each < 200, "{each} bytes for each of {entries}");
}

#[test]
fn metrics_have_the_names_and_labels_of_coredns() {
    let cache = TestCache::new("cache example example.org {\n prefetch 1 1m 90%\n}");
    cache.ask("a.example.");
    cache.at(30).ask("a.example.");
    // A reload asks for the counters of a store that stays.
    let labels = BlockLabels::new("dns://:53", "");
    cache.block_cache.counters(&cache.metrics, &labels);
    let registry = Registry::new();
    let metrics = cache.metrics.clone();
    register(&registry, Observed::new(CacheMetrics::METRICS, move || metrics.families()));
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
