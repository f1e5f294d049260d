//! Tests of the order of records in replies.

use std::collections::HashMap;
use std::time::SystemTime;

use super::*;
use crate::plugins::testing::{Answers, Folder, ask, client, config, n, packet, send, until_settled};
use crate::wire::Class;

/// Returns a record of the question's name: `A1`, `61` (AAAA), `C1` (CNAME), `M1` (MX), `P1` (PTR), `T1` (TXT).
fn record(section: Section, text: &str) -> Record {
    let number: u8 = text[1..].parse().expect("a number");
    let rdata = Rdata::A([10, 0, text.as_bytes()[0], number]);
    let (rtype, rdata) = match &text[..1] {
        "A" => (Type::A, Rdata::A([10, 0, 0, number])),
        "6" => (Type::AAAA, Rdata::Aaaa([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number])),
        "C" => (Type::CNAME, rdata),
        "M" => (Type::MX, rdata),
        "P" => (Type::PTR, rdata),
        _ => (Type::TXT, rdata),
    };
    Record { section, owner: NameRef::QUESTION, rtype, class: Class::IN, ttl: 30, rdata }
}

/// Returns the records of a reply; `|` separates sections.
fn records(text: &str) -> Vec<Record> {
    let sections = [Section::Answer, Section::Authority, Section::Additional];
    let sections = text.split('|').zip(sections);
    sections.flat_map(|(words, section)| words.split_whitespace().map(move |word| record(section, word))).collect()
}

fn show(records: &[Record]) -> String {
    let mut out = String::new();
    for (index, section) in [Section::Answer, Section::Authority, Section::Additional].into_iter().enumerate() {
        out.push_str(if index > 0 { "|" } else { "" });
        let words = records.iter().filter(|record| record.section == section).map(|record| {
            let (letter, number) = match record.rdata {
                Rdata::A([_, _, 0, number]) => ('A', number),
                Rdata::A([_, _, letter, number]) => (char::from(letter), number),
                Rdata::Aaaa(address) => ('6', address[15]),
                _ => ('?', 0),
            };
            format!("{letter}{number}")
        });
        out.push_str(&words.collect::<Vec<_>>().join(" "));
    }
    out
}

/// The number of replies that are counted.
const RUNS: u32 = 1_800;

/// Counts the orders of records in `RUNS` replies.
fn orders(balance: &Arc<LoadBalance>, text: &str, qtype: Type, rcode: Rcode) -> HashMap<String, u32> {
    // The same numbers in each run of the test.
    fastrand::seed(53);
    let given = records(text);
    let mut orders = HashMap::new();
    for _ in 0..RUNS {
        let given = given.clone();
        let answer = Answers(move |exchange: &mut Exchange<'_>| {
            exchange.reply().rcode = rcode;
            given.iter().for_each(|record| exchange.reply().push(*record));
        });
        let packet = packet("wWw.example", qtype, None);
        let now = std::time::Instant::now();
        let state = send(vec![balance.clone(), Arc::new(answer)], &packet, client("127.0.0.1:1"), now);
        *orders.entry(show(state.reply.records())).or_default() += 1;
    }
    orders
}

fn balance(lines: &str) -> Arc<LoadBalance> {
    Arc::new(LoadBalance::new(&config(lines, parse)).expect("a plugin"))
}

/// Asserts that replies have exactly these orders, each with about the same frequency.
fn check(lines: &str, text: &str, expected: &[&str]) {
    let orders = orders(&balance(lines), text, Type::A, Rcode::NOERROR);
    let share = RUNS / expected.len() as u32;
    assert_eq!(orders.len(), expected.len(), "{orders:?}");
    for order in expected {
        let count = orders.get(*order).copied().unwrap_or_default();
        assert!(count.abs_diff(share) < share / 3, "{order}: {orders:?}");
    }
}

#[test]
fn addresses_and_mail_exchangers_are_shuffled_behind_the_rest() {
    check(
        "loadbalance",
        "A1 A2 A3",
        &["A1 A2 A3||", "A1 A3 A2||", "A2 A1 A3||", "A2 A3 A1||", "A3 A1 A2||", "A3 A2 A1||"],
    );
    check("loadbalance", "A1 T1 C1 T2 62", &["C1 T1 T2 A1 62||", "C1 T1 T2 62 A1||"]);
    check("loadbalance", "M1 A1 M2", &["A1 M1 M2||", "A1 M2 M1||"]);
    check("loadbalance", "C2 C1 A1|T1|", &["C2 C1 A1|T1|"]);
}

#[test]
fn n16_aliases_come_first_in_their_order() {
    check("loadbalance", "A1 A2 C2 C1", &["C2 C1 A1 A2||", "C2 C1 A2 A1||"]);
}

#[test]
fn each_section_has_its_own_order() {
    check("loadbalance", "T1|A1 A2|A3 T2", &["T1|A1 A2|T2 A3", "T1|A2 A1|T2 A3"]);
    let mut mixed = records("A1|T1|A2 T3");
    mixed.reverse();
    shuffle(&mut mixed);
    assert_eq!(show(&mixed), "A1|T1|T3 A2");
}

#[test]
fn pointers_errors_and_transfers_keep_their_order() {
    check("loadbalance", "P2 P1 P3", &["P2 P1 P3||"]);
    let balance = balance("loadbalance");
    for (qtype, rcode) in [(Type::AXFR, Rcode::NOERROR), (Type::IXFR, Rcode::NOERROR), (Type::A, Rcode::NXDOMAIN)] {
        assert_eq!(orders(&balance, "A1 C1 A2", qtype, rcode).len(), 1);
    }
    assert_eq!(ask(vec![balance], "www.example", Type::A), "SERVFAIL");
}

#[test]
fn preferred_networks_come_first_in_their_order() {
    let lines = "loadbalance {\n prefer 10.0.0.2/32 fd00::/8\n}";
    check(lines, "T1 A1 61 A2 C1", &["C1 A2 61 A1 T1||"]);
    check(
        lines,
        "A2 A3 A1|A1 A2|T1 A3 A2",
        &["A2 A3 A1|A1 A2|A2 A3 T1", "A2 A1 A3|A1 A2|A2 A3 T1", "A2 A3 A1|A2 A1|A2 A3 T1", "A2 A1 A3|A2 A1|A2 A3 T1"],
    );
    check("loadbalance {\n prefer\n}", "A1 T1", &["T1 A1||"]);
}

#[test]
fn weights_choose_the_first() {
    let folder = Folder::new("weights");
    let path = folder.write("w", "WWW.example\n10.0.0.1 3\n10.0.0.3 2\n");
    let balance = balance(&format!("loadbalance weighted {}", path.display()));
    let orders = |text, qtype| orders(&balance, text, qtype, Rcode::NOERROR);
    let counts = orders("C1 A1 T1 A2 A3|A1 C1|M1 T1", Type::A);
    for (order, share) in [("A1 A2 A3", 3), ("A2 A1 A3", 1), ("A3 A2 A1", 2)] {
        let count = counts[&format!("C1 T1 {order}|A1 C1|M1 T1")];
        assert!(u32::abs_diff(count, RUNS / 6 * share) < RUNS / 20, "{counts:?}");
    }
    assert_eq!(orders("A1 C1 A2", Type::MX).len(), 1);
    assert_eq!(orders("T1||A1 A2", Type::SRV).len(), 2);
    // A refresh reads a changed file; the previous weights stay if the file is invalid.
    let later = SystemTime::now() + Duration::from_secs(3);
    let refresh = || until_settled(|| balance.file().expect("a file").refresh(later), |is_unsettled| !is_unsettled);
    folder.write("w", "www.example\n10.0.0.1 255\n10.0.0.1 1\n");
    refresh();
    assert!(orders("A2 A1", Type::A)["A1 A2||"] > RUNS - RUNS / 30);
    folder.write("w", "www.example\n10.0.0.1\n");
    refresh();
    assert!(orders("A2 A1", Type::A)["A1 A2||"] > RUNS - RUNS / 30);
    assert_eq!(balance.reload(), Duration::from_secs(30));
}

#[test]
fn the_weights_of_another_owner_count() {
    let weights = Weights::read("other.example\n10.0.0.1 255\n").expect("weights");
    let mut reply = Reply::new();
    let other = reply.store_name(n("Other.example").as_name());
    for text in ["A2", "A1"] {
        reply.push(Record { owner: other, ..record(Section::Additional, text) });
    }
    let question = Question::new(n("www.example").as_name(), Type::SRV, Class::IN);
    let first: Vec<String> = (0..200)
        .map(|_| {
            move_weighted_first(&mut reply, &question, &weights);
            show(reply.records())
        })
        .collect();
    assert!(first.iter().filter(|order| *order == "||A1 A2").count() > 180);
}

#[test]
fn a_weight_file_that_does_not_exist_may_be_created_later() {
    let missing = |lines| LoadBalance::new(&config(lines, parse));
    assert!(missing("loadbalance weighted /no/such").is_ok());
    assert!(matches!(missing("loadbalance weighted /no/such {\n reload 0\n}"), Err(WeightError::Open(_))));
    let folder = Folder::new("weights");
    let path = folder.write("w", "10.0.0.1 1\n");
    assert!(matches!(
        missing(&format!("loadbalance weighted {}", path.display())),
        Err(WeightError::NoName { line: 1 })
    ));
}

#[test]
fn fewer_than_two_records_are_unchanged() {
    let mut one = records("A1");
    shuffle(&mut one);
    assert_eq!(show(&one), "A1||");
    shuffle(&mut []);
}

#[test]
fn sorting_in_place_is_stable() {
    let mut random = fastrand::Rng::with_seed(7);
    for len in 0..200 {
        let record = |ttl| Record { ttl, ..record(Section::Answer, "A1") };
        let mut sorted: Vec<Record> = (0..len).map(|at| record(random.u32(0..8) << 16 | at)).collect();
        let mut expected = sorted.clone();
        super::sort(&mut sorted, |record| record.ttl >> 16);
        expected.sort_by_key(|record| record.ttl >> 16);
        assert_eq!(sorted, expected);
    }
}
