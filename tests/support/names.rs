//! Parsing names is total: every question has a meaning, and an address survives its form as a label.

use std::net::IpAddr;

use clusterdns::cluster::address::{Dashed, ReverseName, parse_dashed};
use clusterdns::cluster::{ClusterName, Index};
use clusterdns::wire::{Class, Name, Question, Type};

use super::Choices;
use super::cluster::view;

/// Parses the name of a question in every way, with every suffix as the zone, and looks it up.
pub fn check_question(bytes: &[u8], index: &Index) {
    let mut choices = Choices::new(bytes);
    let view = view(&mut choices);
    let qtype = Type(choices.number());
    let Ok((name, _)) = Name::split_from(choices.rest()) else { return };
    let question = Question::new(name, qtype, Class::IN);
    assert!(question.name().eq_ignore_case(name));
    assert_eq!(question.labels(), name.labels().count());
    for zone in 0..=question.labels() {
        assert!(question.name().is_within(question.suffix(zone)));
        let parsed = ClusterName::parse(&question, zone);
        assert_eq!(parsed == ClusterName::Apex, zone == question.labels());
        let _ = index.lookup(&parsed, &view);
    }
    if let Some(reverse) = ReverseName::parse(&question) {
        let _ = index.lookup_reverse(reverse, &view);
    }
    for at in 0..question.labels() {
        if let Some(address) = parse_dashed(question.label(at)) {
            check_dashed(address);
        }
    }
}

/// Checks that the label of an endpoint's address is parsed to the address, and is a valid host name.
pub fn check_dashed(address: IpAddr) {
    let dashed = Dashed::endpoint(address);
    let label = dashed.as_label();
    assert_eq!(parse_dashed(label), Some(address), "{}", String::from_utf8_lossy(label));
    assert!(label.len() <= 63 && label.last() != Some(&b'-'));
    assert!(label.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-')));
}
