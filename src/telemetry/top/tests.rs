//! Traces with known counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// Pods have addresses below 10.1.0.0: 10.0.3.7 is that of Pod `ns-3/pod-7`.
struct Pods;

impl TopTexts for Pods {
    fn pod(&self, client: IpAddr, visit: &mut dyn FnMut(&str, &str)) {
        if let IpAddr::V4(address) = client
            && let [10, 0, ns, pod] = address.octets()
        {
            visit(&format!("ns-{ns}"), &format!("pod-{pod}"));
        }
    }

    fn name(&self, labels: &[u8], is_cut: bool, qtype: u16) -> String {
        format!("{}{} {qtype}", if is_cut { "…" } else { "" }, String::from_utf8_lossy(labels))
    }

    fn rcode(&self, rcode: u16) -> String {
        if rcode == NO_RESPONSE { "dropped".to_owned() } else { rcode.to_string() }
    }
}

fn sample(client: u32, name: &str) -> Sample<'_> {
    Sample {
        client: Ipv4Addr::from(client).into(),
        name_hash: foldhash::fast::FixedState::default().hash_one(name),
        name: name.as_bytes(),
        is_cut: false,
        qtype: 1,
        rcode: if client.is_multiple_of(4) { 3 } else { 0 },
        reason: if client.is_multiple_of(4) { "no-such-service" } else { "" },
        weight: 1,
    }
}

/// Returns a number from 1 on, the smaller the more often (Zipf's law with this exponent, cut at `most`).
fn zipf(random: &mut fastrand::Rng, exponent: f64, most: f64) -> u32 {
    // The inverse of the distribution, as if numbers were continuous.
    let at = random.f64();
    let number = if (exponent - 1.0).abs() < 1e-9 {
        most.powf(at)
    } else {
        let power = 1.0 - exponent;
        (at * (most.powf(power) - 1.0) + 1.0).powf(1.0 / power)
    };
    number as u32
}

/// Checks that every key with more than 0.5 % is listed, with at most 10 % error.
fn check_against(exact: &BTreeMap<String, u64>, rows: &[TopRow], total: u64, what: &str) {
    let mut heavy = 0;
    for (key, &expected) in exact.iter().filter(|(_, count)| **count * 200 > total) {
        let row = rows.iter().find(|row| row.key == *key);
        let row = row.unwrap_or_else(|| panic!("{what}: {key} with {expected} of {total} is missing"));
        let error = row.queries.abs_diff(expected) as f64 / expected as f64;
        assert!(error <= 0.1, "{what}: {key}: {} of {expected}", row.queries);
        heavy += 1;
    }
    assert!(heavy >= 3, "{what}: the trace has only {heavy} heavy keys");
}

/// Clients and names of Zipf's law, with a part of the names used once, over a window of 50 s and samples as they are
/// taken under load.
#[test]
fn heavy_keys_of_a_trace_are_listed_with_their_counts() {
    for seed in 0..5 {
        let mut random = fastrand::Rng::with_seed(seed);
        let exponent = [0.8, 1.0, 1.2][seed as usize % 3];
        let noise = [0.0, 0.3, 0.7, 0.5, 0.9][seed as usize % 5];
        // Every query, and once samples of a distance of 4.
        let (distance, queries) = if seed == 3 { (4_u32, 800_000_u32) } else { (1, 100_000) };
        let (mut top, mut clients, mut names) = (Top::default(), BTreeMap::new(), BTreeMap::new());
        let mut next = 1;
        for number in 0..queries {
            let client = 0x0b00_0000 + zipf(&mut random, exponent, 20_000.0);
            let name = match random.f64() < noise {
                true => format!("random-{number}"),
                false => format!("name-{}", zipf(&mut random, exponent, 1_000.0)),
            };
            *clients.entry(Ipv4Addr::from(client).to_string()).or_insert(0) += 1;
            next -= 1;
            if next == 0 {
                let sample = Sample { weight: distance, ..sample(client, &name) };
                top.add([sample], &Pods, Duration::from_millis(u64::from(number) * 50_000 / u64::from(queries)));
                next = if distance == 1 { 1 } else { random.u32(1..2 * distance) };
            }
            *names.entry(format!("{name} 1")).or_insert(0) += 1;
        }
        let (now, what) = (Duration::from_secs(50), format!("seed {seed}"));
        for window in [TopWindow::Minute, TopWindow::Hour] {
            let total = top.total(window, now).queries;
            assert!(total.abs_diff(u64::from(queries)) * 50 < u64::from(queries), "{what}: {total}");
            check_against(&clients, &top.list(window, TopBy::Client, 200, now), queries.into(), &what);
            if noise < 0.9 {
                check_against(&names, &top.list(window, TopBy::Name, 200, now), queries.into(), &what);
            }
        }
    }
}

#[test]
fn queries_are_grouped_by_each_dimension() {
    let mut top = Top::default();
    let now = Duration::from_secs(10);
    for (client, queries) in [(0x0a00_0307, 30), (0x0a00_0308, 10), (0x0a00_0404, 5), (0x0b00_0001, 5)] {
        (0..queries).for_each(|_| top.add([sample(client, "a.example")], &Pods, now));
    }
    top.add_upstream("192.0.2.1:53", 7, now);
    top.add([Sample { rcode: NO_RESPONSE, ..sample(0x0b00_0001, "b.example") }], &Pods, now);
    let mut list = |by| {
        let rows = top.list(TopWindow::Minute, by, 3, now).into_iter();
        rows.map(|row| {
            format!("{}{} {}", row.key, row.pod.map(|pod| format!(" {pod}")).unwrap_or_default(), row.queries)
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(list(TopBy::Client), ["10.0.3.7 ns-3/pod-7 30", "10.0.3.8 ns-3/pod-8 10", "11.0.0.1 6"]);
    assert_eq!(list(TopBy::Pod), ["ns-3/pod-7 30", "ns-3/pod-8 10", "ns-4/pod-4 5"]);
    assert_eq!(list(TopBy::Namespace), ["ns-3 40", "ns-4 5"]);
    assert_eq!(list(TopBy::Name), ["a.example 1 50", "b.example 1 1"]);
    assert_eq!(list(TopBy::Upstream), ["192.0.2.1:53 7"]);
    assert_eq!(list(TopBy::Rcode), ["0 35", "3 15", "dropped 1"]);
    assert_eq!(list(TopBy::Reason), ["no-such-service 15"]);
    let row = top.list(TopWindow::Minute, TopBy::Client, 1, now).remove(0);
    assert!((row.share - 30.0 / 51.0).abs() < 1e-9 && (row.per_second - 3.0).abs() < 1e-9, "{row:?}");
    // The minute is over, the hour is not.
    let later = Duration::from_secs(200);
    assert_eq!(top.total(TopWindow::Minute, later).queries, 0);
    assert!(top.list(TopWindow::Minute, TopBy::Client, 9, later).is_empty());
    assert_eq!(top.total(TopWindow::Hour, later).queries, 51);
    assert_eq!(top.total(TopWindow::Hour, Duration::from_secs(4_600)).queries, 0);
}

/// The hour has the slices of the minute that are over, and the one that is not.
#[test]
fn the_hour_is_the_sum_of_its_minutes() {
    let (mut top, mut random) = (Top::default(), fastrand::Rng::with_seed(7));
    let (mut exact, mut total) = (BTreeMap::new(), 0);
    // Half an hour with a pause; the last second is in a slice that has just begun.
    for second in (0..600).chain(1_500..1_801) {
        for _ in 0..100 {
            let name = match random.u32(0..2) {
                0 => format!("random-{total}"),
                _ => format!("name-{}", zipf(&mut random, 1.0, 1_000.0)),
            };
            top.add([sample(0x0b00_0001, &name)], &Pods, Duration::from_secs(second));
            *exact.entry(format!("{name} 1")).or_insert(0) += 1;
            total += 1;
        }
    }
    let now = Duration::from_secs(1_800);
    for _ in 0..2 {
        assert_eq!(top.total(TopWindow::Hour, now).queries, total);
        assert_eq!(top.list(TopWindow::Hour, TopBy::Rcode, 9, now)[0].queries, total);
        check_against(&exact, &top.list(TopWindow::Hour, TopBy::Name, 200, now), total, "hour");
    }
    assert!(top.names.hour.slices_table() <= 5 * NAMES, "{}", top.names.hour.slices_table());
    // The last slice ends, and an hour later everything is forgotten.
    assert_eq!(top.total(TopWindow::Hour, Duration::from_secs(2_000)).queries, total);
    for (slices, left) in [(3, total - 60_000), (4, 100), (5, 0)] {
        assert_eq!(top.total(TopWindow::Hour, Duration::from_secs(1_800 + slices * 900)).queries, left);
    }
}

/// Texts are those of keys that matter, however many names there are.
#[test]
fn texts_of_heavy_names_outlive_many_others() {
    let mut top = Top::default();
    let mut name = 0_u32;
    for second in 0..70 {
        for _ in 0..1_000 {
            name += 1;
            let name = if name.is_multiple_of(100) { "heavy".to_owned() } else { format!("{}-{name}", "x".repeat(60)) };
            top.add([sample(name.len() as u32, &name)], &Pods, Duration::from_secs(second));
        }
    }
    let rows = top.list(TopWindow::Minute, TopBy::Name, 1, Duration::from_secs(70));
    assert_eq!((rows[0].key.as_str(), rows[0].queries), ("heavy 1", 700));
    assert!(top.names.texts.bytes() <= 2_048 * 64, "{}", top.names.texts.bytes());
}

#[test]
fn the_words_of_errors_are_all_dimensions() {
    let words: Vec<&str> = TopBy::WORDS.split([',', ' ']).filter(|word| !["", "or"].contains(word)).collect();
    assert_eq!(words, TopBy::ALL.map(TopBy::name));
}
