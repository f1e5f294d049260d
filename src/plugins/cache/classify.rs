//! What a cache makes of a reply: whether it may be kept, as what, and for how long.
//!
//! The sorts are CoreDNS's (`response.Typify` and plugin/cache `cacheResponseType`, `key`): a denial needs an SOA to be
//! kept (RFC 2308 5), and an answer whose aliases lead nowhere is none.

use crate::plugins::cache::config::{Config, Limits, MIN_TTL};
use crate::wire::{Class, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// The longest chain of aliases that is followed. No resolver goes half as far.
const MAX_CHAIN: usize = 64;

/// What a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// An answer, or at least no denial.
    Answer,
    /// Other servers know.
    Delegation,
    /// The name does not exist.
    NameError,
    /// The name exists without such a record, and an SOA says so.
    NoData,
    /// The server failed, or does not do such a thing.
    Failure,
    /// Anything else; never kept.
    Other,
}

impl Sort {
    /// What this reply to a question is. `now` tells the time of day, where signatures are looked at.
    pub(super) fn of(reply: &Reply, question: &Question, now: Option<fn() -> u32>) -> Sort {
        let authority = |rtype| reply.section(Section::Authority).any(|record| record.rtype == rtype);
        // Transfers are no answers, and signatures that are over help nobody who asks for signatures.
        if matches!(question.qtype, Type::AXFR | Type::IXFR) || now.is_some_and(|now| has_expired(reply, now)) {
            return Sort::Other;
        }
        match (reply.rcode, reply.has_answer()) {
            (Rcode::NOERROR, true) if authority(Type::SOA) && !answers(reply, question) => Sort::NoData,
            (Rcode::NOERROR, true) => Sort::Answer,
            (Rcode::NXDOMAIN, true) => Sort::Other,
            (Rcode::NOERROR, false) if authority(Type::SOA) => Sort::NoData,
            (Rcode::NXDOMAIN, false) => Sort::NameError,
            (Rcode::SERVFAIL | Rcode::NOTIMP, _) => Sort::Failure,
            (Rcode::NOERROR, false) if authority(Type::NS) => Sort::Delegation,
            (Rcode::NOERROR, false) => Sort::Answer,
            _ => Sort::Other,
        }
    }

    /// Whether such a reply may be kept at all.
    pub(super) fn may_be_kept(self, reply: &Reply, question: &Question) -> bool {
        let has_soa = || reply.section(Section::Authority).any(|record| record.rtype == Type::SOA);
        !reply.truncated
            && match self {
                Sort::Answer => !reply.has_answer() || has_soa() || answers(reply, question),
                Sort::NameError => has_soa(),
                Sort::Delegation | Sort::NoData | Sort::Failure => true,
                Sort::Other => false,
            }
    }

    /// For how many seconds a reply of this sort may be kept.
    pub(super) fn ttl(self, reply: &Reply, success: &Limits, denial: &Limits, failure: u32) -> u32 {
        match self {
            Sort::Failure => failure,
            Sort::NameError | Sort::NoData => clamp(least(reply, denial.max), denial),
            Sort::Answer => clamp(least(reply, success.max), success),
            Sort::Delegation | Sort::Other => clamp(MIN_TTL, success),
        }
    }
}

/// Whether all records have one TTL that is within the bounds of answers and of denials alike, so that a denial or an
/// answer that is not kept may go as it is. It may say no of others, too.
pub(super) fn has_good_ttl(reply: &Reply, config: &Config) -> bool {
    let Some(first) = reply.records().first() else { return true };
    let is_plain = match reply.rcode {
        Rcode::NOERROR => first.section == Section::Answer || first.rtype == Type::SOA,
        Rcode::NXDOMAIN => first.rtype == Type::SOA,
        _ => false,
    };
    let is_within = |limits: &Limits| clamp(first.ttl, limits) == first.ttl;
    is_plain
        && reply.records().iter().all(|record| record.ttl == first.ttl)
        && is_within(&config.success)
        && is_within(&config.denial)
}

/// The least TTL of a reply's records (CoreDNS `dnsutil.MinimalTTLWithMaximum`).
fn least(reply: &Reply, max: u32) -> u32 {
    // CoreDNS looks at the TTL of a denial's SOA, not at its minimum, which the SOA's own server has put there.
    reply.records().iter().map(|record| record.ttl).min().map_or(MIN_TTL, |least| least.min(max))
}

fn clamp(ttl: u32, limits: &Limits) -> u32 {
    ttl.max(limits.min).min(limits.max)
}

/// Whether a record answers the question: one of its type, where the aliases that start at its name end.
pub(super) fn answers(reply: &Reply, question: &Question) -> bool {
    let of_class = |record: &&Record| question.qclass == Class::ANY || record.class == question.qclass;
    let records = || reply.section(Section::Answer).filter(of_class);
    let is_at = |record: &Record, name| reply.names_are_equal_ignoring_case(record.owner, name, question.name());
    if reply.rcode != Rcode::NOERROR {
        return false;
    }
    match question.qtype {
        Type::ANY => records().any(|record| is_at(record, NameRef::QUESTION)),
        Type::CNAME => matches!(target(reply, question, NameRef::QUESTION), Ok(Some(_))),
        qtype => {
            let end = end_of_chain(reply, question);
            end.is_some_and(|end| records().any(|record| record.rtype == qtype && is_at(record, end)))
        }
    }
}

/// Where the aliases that start at the question's name end; `None` where they do not.
fn end_of_chain(reply: &Reply, question: &Question) -> Option<NameRef> {
    let mut name = NameRef::QUESTION;
    for _ in 0..MAX_CHAIN {
        match target(reply, question, name) {
            Ok(Some(next)) => name = next,
            Ok(None) => return Some(name),
            Err(TwoTargets) => return None,
        }
    }
    None
}

/// A name has two CNAMEs (RFC 2181 10.1: an alias has one canonical name).
struct TwoTargets;

/// What a name is an alias of, if it is one.
fn target(reply: &Reply, question: &Question, name: NameRef) -> Result<Option<NameRef>, TwoTargets> {
    let same = |a, b| reply.names_are_equal_ignoring_case(a, b, question.name());
    let mut found = None;
    for record in reply.section(Section::Answer) {
        let Rdata::Name(target) = record.rdata else { continue };
        let of_class = question.qclass == Class::ANY || record.class == question.qclass;
        if record.rtype != Type::CNAME || !of_class || !same(record.owner, name) {
            continue;
        }
        if found.is_some_and(|found| !same(found, target)) {
            return Err(TwoTargets);
        }
        found = Some(target);
    }
    Ok(found)
}

/// Whether a signature is not valid at this time of day (RFC 4034 3.1.5: serial number arithmetic).
fn has_expired(reply: &Reply, now: impl Fn() -> u32) -> bool {
    let is_over = |record: &Record| {
        let now = now();
        let Rdata::Bytes(data) = record.rdata else { return false };
        let number = |at: usize| reply.bytes(data).get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
        let (Some(expiration), Some(inception)) = (number(8), number(12)) else { return false };
        (expiration.wrapping_sub(now) as i32) < 0 || (now.wrapping_sub(inception) as i32) < 0
    };
    reply.records().iter().any(|record| record.rtype == Type::RRSIG && is_over(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::n;

    /// A reply of these records, each `SECTION OWNER TYPE [TARGET]`, to `www.example. QTYPE`, judged.
    fn judged(qtype: Type, rcode: Rcode, records: &[&str]) -> (Sort, bool, bool) {
        let question = Question::new(n("www.example.").as_name(), qtype, Class::IN);
        let mut reply = Reply::new();
        reply.rcode = rcode;
        for record in records {
            let words: Vec<&str> = record.split(' ').collect();
            let section = match words[0] {
                "an" => Section::Answer,
                "ns" => Section::Authority,
                _ => Section::Additional,
            };
            let owner = reply.store_name(n(words[1]).as_name());
            let rtype = Type::from_mnemonic(words[2]).expect("a type");
            let rdata = match words.get(3) {
                Some(target) => Rdata::Name(reply.store_name(n(target).as_name())),
                None => Rdata::Bytes(reply.store(&[1, 2, 3, 4])),
            };
            reply.push(Record { section, owner, rtype, class: Class::IN, ttl: 60, rdata });
        }
        let sort = Sort::of(&reply, &question, None);
        (sort, sort.may_be_kept(&reply, &question), answers(&reply, &question))
    }

    #[test]
    fn replies_are_told_apart_as_coredns_does() {
        use Rcode as R;
        use Sort::{Answer, Delegation, Failure, NameError, NoData, Other};
        let soa = "ns example. SOA";
        for (rcode, records, expected) in [
            (R::NOERROR, &["an WWW.example. A"][..], (Answer, true, true)),
            (R::NOERROR, &["an www.example. CNAME a.b.", "an A.b. A"], (Answer, true, true)),
            // The order of records says nothing, and a repetition changes nothing.
            (
                R::NOERROR,
                &["an a.b. A", "an www.example. CNAME a.b.", "an www.example. CNAME A.B."],
                (Answer, true, true),
            ),
            // Aliases that lead nowhere: with an SOA a denial, without one nothing to keep (RFC 2308 2.2).
            (R::NOERROR, &["an www.example. CNAME a.b."], (Answer, false, false)),
            (R::NOERROR, &["an www.example. CNAME a.b.", soa], (NoData, true, false)),
            (R::NOERROR, &["an www.example. CNAME a.b.", "an www.example. A"], (Answer, false, false)),
            (R::NOERROR, &["an www.example. CNAME a.b.", "an a.b. CNAME www.example."], (Answer, false, false)),
            (
                R::NOERROR,
                &["an www.example. CNAME a.b.", "an www.example. CNAME c.d.", "an a.b. A"],
                (Answer, false, false),
            ),
            (R::NOERROR, &["an a.b. A"], (Answer, false, false)),
            // *whoami* answers in the additional section.
            (R::NOERROR, &["ad www.example. A"], (Answer, true, false)),
            (R::NOERROR, &[], (Answer, true, false)),
            (R::NOERROR, &[soa], (NoData, true, false)),
            (R::NOERROR, &["ns example. NS a.b."], (Delegation, true, false)),
            (R::NOERROR, &["ns example. NS a.b.", soa], (NoData, true, false)),
            // C08
            (R::NXDOMAIN, &[], (NameError, false, false)),
            (R::NXDOMAIN, &[soa], (NameError, true, false)),
            (R::NXDOMAIN, &["an www.example. CNAME a.b.", soa], (Other, false, false)),
            (R::SERVFAIL, &[], (Failure, true, false)),
            (R::NOTIMP, &[], (Failure, true, false)),
            (R::REFUSED, &[], (Other, false, false)),
            (R::FORMERR, &[], (Other, false, false)),
        ] {
            assert_eq!(judged(Type::A, rcode, records), expected, "{rcode} {records:?}");
        }
        let alias = ["an www.example. CNAME a.b."];
        assert_eq!(judged(Type::CNAME, R::NOERROR, &alias), (Answer, true, true));
        assert_eq!(judged(Type::ANY, R::NOERROR, &alias), (Answer, true, true));
        assert_eq!(judged(Type::ANY, R::NOERROR, &["an a.b. A"]), (Answer, false, false));
        assert_eq!(judged(Type::AXFR, R::NOERROR, &["an www.example. AXFR"]).0, Other);
    }

    #[test]
    fn an_endless_chain_ends() {
        let links: Vec<String> = (0..100).map(|n| format!("an n{n}. CNAME n{}.", n + 1)).collect();
        let mut records = vec!["an www.example. CNAME n0."];
        records.extend(links.iter().map(String::as_str));
        records.push("an n100. A");
        assert_eq!(judged(Type::A, Rcode::NOERROR, &records), (Sort::Answer, false, false));
    }

    #[test]
    fn a_reply_is_kept_for_its_least_ttl_within_bounds() {
        let limits = |min, max| Limits { capacity: 1_024, max, min, except: Vec::new() };
        let ttl = |sort: Sort, ttls: &[u32], min, max| {
            let mut reply = Reply::new();
            ttls.iter().for_each(|&ttl| reply.answer(Type::A, ttl, Rdata::A([1, 1, 1, 1])));
            sort.ttl(&reply, &limits(min, max), &limits(min, max / 2), 7)
        };
        assert_eq!(ttl(Sort::Answer, &[300, 60, 90], 5, 3_600), 60);
        assert_eq!(ttl(Sort::Answer, &[300], 5, 30), 30);
        assert_eq!(ttl(Sort::Answer, &[0], 5, 3_600), 5);
        assert_eq!(ttl(Sort::Answer, &[0], 0, 3_600), 0);
        assert_eq!(ttl(Sort::Answer, &[1], 5, 3), 3);
        assert_eq!(ttl(Sort::Answer, &[], 2, 3_600), 5);
        assert_eq!(ttl(Sort::NoData, &[300], 5, 60), 30);
        assert_eq!(ttl(Sort::NameError, &[20], 5, 60), 20);
        assert_eq!(ttl(Sort::Delegation, &[300], 5, 60), 5);
        assert_eq!(ttl(Sort::Failure, &[300], 5, 60), 7);
    }

    #[test]
    fn signatures_that_are_over_are_seen() {
        let is_over = |inception: u32, expiration: u32, now| {
            let mut data = vec![0, 1, 8, 2, 0, 0, 0, 60];
            data.extend(expiration.to_be_bytes());
            data.extend(inception.to_be_bytes());
            let mut reply = Reply::new();
            let rdata = Rdata::Bytes(reply.store(&data));
            reply.answer(Type::RRSIG, 60, rdata);
            has_expired(&reply, || now)
        };
        assert!(!is_over(100, 200, 100) && !is_over(100, 200, 200));
        assert!(is_over(100, 200, 99) && is_over(100, 200, 201));
        // Past 2106 the numbers start anew.
        assert!(!is_over(u32::MAX - 5, 5, 2) && is_over(u32::MAX - 5, 5, 6));
    }
}
