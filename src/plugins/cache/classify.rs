//! Classifies replies: whether they may be cached, in which class, and for how long.
//!
//! The classes are CoreDNS's (`response.Typify` and plugin/cache `cacheResponseType`, `key`): a denial needs an SOA to
//! be cached (RFC 2308 5), and a reply whose aliases have no target is not an answer.

use crate::plugins::cache::config::{Config, MIN_TTL, PartitionLimits};
use crate::wire::{Class, NameRef, Question, Rcode, Rdata, Record, Reply, Section, Type};

/// The maximum length of a chain of aliases. No resolver follows half as many.
const MAX_CHAIN: usize = 64;

/// The class of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseClass {
    /// An answer, or at least not a denial.
    Answer,
    /// The reply refers to other name servers.
    Delegation,
    /// The name does not exist.
    NameError,
    /// The name exists without such a record, as proven by an SOA.
    NoData,
    /// The server failed, or does not implement the query.
    Failure,
    /// Any other reply; never cached.
    Other,
}

impl ResponseClass {
    /// Classifies the reply to a question. `now` returns the time of day, if signatures are to be checked.
    pub(super) fn of(reply: &Reply, question: &Question, now: Option<fn() -> u32>) -> ResponseClass {
        let authority = |rtype| reply.section(Section::Authority).any(|record| record.rtype == rtype);
        // Transfers are not answers, and expired signatures are useless to a client that requests signatures.
        if matches!(question.qtype, Type::AXFR | Type::IXFR) || now.is_some_and(|now| has_invalid_signature(reply, now))
        {
            return ResponseClass::Other;
        }
        match (reply.rcode, reply.has_answer()) {
            (Rcode::NOERROR, true) if authority(Type::SOA) && !has_answer_record(reply, question) => {
                ResponseClass::NoData
            }
            (Rcode::NOERROR, true) => ResponseClass::Answer,
            (Rcode::NXDOMAIN, true) => ResponseClass::Other,
            (Rcode::NOERROR, false) if authority(Type::SOA) => ResponseClass::NoData,
            (Rcode::NXDOMAIN, false) => ResponseClass::NameError,
            (Rcode::SERVFAIL | Rcode::NOTIMP, _) => ResponseClass::Failure,
            (Rcode::NOERROR, false) if authority(Type::NS) => ResponseClass::Delegation,
            (Rcode::NOERROR, false) => ResponseClass::Answer,
            _ => ResponseClass::Other,
        }
    }

    /// Returns whether a reply of this class may be cached.
    pub(super) fn is_cacheable(self, reply: &Reply, question: &Question) -> bool {
        let has_soa = || reply.section(Section::Authority).any(|record| record.rtype == Type::SOA);
        !reply.truncated
            && match self {
                ResponseClass::Answer => !reply.has_answer() || has_soa() || has_answer_record(reply, question),
                ResponseClass::NameError => has_soa(),
                ResponseClass::Delegation | ResponseClass::NoData | ResponseClass::Failure => true,
                ResponseClass::Other => false,
            }
    }

    /// Returns the TTL of a reply of this class in seconds.
    pub(super) fn ttl(self, reply: &Reply, success: &PartitionLimits, denial: &PartitionLimits, failure: u32) -> u32 {
        match self {
            ResponseClass::Failure => failure,
            ResponseClass::NameError | ResponseClass::NoData => clamp(lowest_ttl(reply, denial.max), denial),
            ResponseClass::Answer => clamp(lowest_ttl(reply, success.max), success),
            ResponseClass::Delegation | ResponseClass::Other => clamp(MIN_TTL, success),
        }
    }
}

/// Returns whether all records have the same TTL, which is within the limits for answers and for denials, so that a
/// denial or an answer that is not cached needs no change. May be false for other such replies, too.
pub(super) fn has_good_ttl(reply: &Reply, config: &Config) -> bool {
    let Some(first) = reply.records().first() else { return true };
    let is_plain = match reply.rcode {
        Rcode::NOERROR => first.section == Section::Answer || first.rtype == Type::SOA,
        Rcode::NXDOMAIN => first.rtype == Type::SOA,
        _ => false,
    };
    let is_within = |limits: &PartitionLimits| clamp(first.ttl, limits) == first.ttl;
    is_plain
        && reply.records().iter().all(|record| record.ttl == first.ttl)
        && is_within(&config.success)
        && is_within(&config.denial)
}

/// Returns the lowest TTL of the records of a reply (CoreDNS `dnsutil.MinimalTTLWithMaximum`).
fn lowest_ttl(reply: &Reply, max: u32) -> u32 {
    // CoreDNS uses the TTL of the SOA of a denial, not its minimum, which the server of the zone has applied already.
    reply.records().iter().map(|record| record.ttl).min().map_or(MIN_TTL, |lowest_ttl| lowest_ttl.min(max))
}

fn clamp(ttl: u32, limits: &PartitionLimits) -> u32 {
    ttl.max(limits.min).min(limits.max)
}

/// Returns whether a record answers the question: it has the query type and belongs to the name at the end of the chain
/// of aliases.
pub(super) fn has_answer_record(reply: &Reply, question: &Question) -> bool {
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

/// Returns the end of the chain of aliases that starts at the question's name, or `None` if it does not end.
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

/// The error of a name with two CNAMEs (RFC 2181 10.1: an alias has one canonical name).
struct TwoTargets;

/// Returns the target of the CNAME of a name, if it has one.
fn target(reply: &Reply, question: &Question, name: NameRef) -> Result<Option<NameRef>, TwoTargets> {
    let are_equal = |a, b| reply.names_are_equal_ignoring_case(a, b, question.name());
    let mut found = None;
    for record in reply.section(Section::Answer) {
        let Rdata::Name(target) = record.rdata else { continue };
        let of_class = question.qclass == Class::ANY || record.class == question.qclass;
        if record.rtype != Type::CNAME || !of_class || !are_equal(record.owner, name) {
            continue;
        }
        if found.is_some_and(|found| !are_equal(found, target)) {
            return Err(TwoTargets);
        }
        found = Some(target);
    }
    Ok(found)
}

/// Returns whether a signature is not valid at this time of day (RFC 4034 3.1.5: serial number arithmetic).
fn has_invalid_signature(reply: &Reply, now: impl Fn() -> u32) -> bool {
    let is_invalid = |record: &Record| {
        let now = now();
        let Rdata::Bytes(data) = record.rdata else { return false };
        let number = |at: usize| reply.bytes(data).get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
        let (Some(expiration), Some(inception)) = (number(8), number(12)) else { return false };
        (expiration.wrapping_sub(now) as i32) < 0 || (now.wrapping_sub(inception) as i32) < 0
    };
    reply.records().iter().any(|record| record.rtype == Type::RRSIG && is_invalid(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::n;

    /// Classifies the reply with these records, each `SECTION OWNER TYPE [TARGET]`, to `www.example. QTYPE`: its class,
    /// whether it is cacheable, and whether it has an answer record.
    fn classify(qtype: Type, rcode: Rcode, records: &[&str]) -> (ResponseClass, bool, bool) {
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
        let class = ResponseClass::of(&reply, &question, None);
        (class, class.is_cacheable(&reply, &question), has_answer_record(&reply, &question))
    }

    #[test]
    fn replies_are_classified_as_in_coredns() {
        use Rcode as R;
        use ResponseClass::{Answer, Delegation, Failure, NameError, NoData, Other};
        let soa = "ns example. SOA";
        for (rcode, records, expected) in [
            (R::NOERROR, &["an WWW.example. A"][..], (Answer, true, true)),
            (R::NOERROR, &["an www.example. CNAME a.b.", "an A.b. A"], (Answer, true, true)),
            // The order of records and repetitions have no effect.
            (
                R::NOERROR,
                &["an a.b. A", "an www.example. CNAME a.b.", "an www.example. CNAME A.B."],
                (Answer, true, true),
            ),
            // Aliases without a target: with an SOA a denial, without one not cacheable (RFC 2308 2.2).
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
            assert_eq!(classify(Type::A, rcode, records), expected, "{rcode} {records:?}");
        }
        let alias = ["an www.example. CNAME a.b."];
        assert_eq!(classify(Type::CNAME, R::NOERROR, &alias), (Answer, true, true));
        assert_eq!(classify(Type::ANY, R::NOERROR, &alias), (Answer, true, true));
        assert_eq!(classify(Type::ANY, R::NOERROR, &["an a.b. A"]), (Answer, false, false));
        assert_eq!(classify(Type::AXFR, R::NOERROR, &["an www.example. AXFR"]).0, Other);
    }

    #[test]
    fn the_length_of_a_chain_is_limited() {
        let links: Vec<String> = (0..100).map(|n| format!("an n{n}. CNAME n{}.", n + 1)).collect();
        let mut records = vec!["an www.example. CNAME n0."];
        records.extend(links.iter().map(String::as_str));
        records.push("an n100. A");
        assert_eq!(classify(Type::A, Rcode::NOERROR, &records), (ResponseClass::Answer, false, false));
    }

    #[test]
    fn a_reply_is_cached_for_its_lowest_ttl_within_limits() {
        let limits = |min, max| PartitionLimits { capacity: 1_024, max, min, except: Vec::new() };
        let ttl = |class: ResponseClass, ttls: &[u32], min, max| {
            let mut reply = Reply::new();
            ttls.iter().for_each(|&ttl| reply.answer(Type::A, ttl, Rdata::A([1, 1, 1, 1])));
            class.ttl(&reply, &limits(min, max), &limits(min, max / 2), 7)
        };
        assert_eq!(ttl(ResponseClass::Answer, &[300, 60, 90], 5, 3_600), 60);
        assert_eq!(ttl(ResponseClass::Answer, &[300], 5, 30), 30);
        assert_eq!(ttl(ResponseClass::Answer, &[0], 5, 3_600), 5);
        assert_eq!(ttl(ResponseClass::Answer, &[0], 0, 3_600), 0);
        assert_eq!(ttl(ResponseClass::Answer, &[1], 5, 3), 3);
        assert_eq!(ttl(ResponseClass::Answer, &[], 2, 3_600), 5);
        assert_eq!(ttl(ResponseClass::NoData, &[300], 5, 60), 30);
        assert_eq!(ttl(ResponseClass::NameError, &[20], 5, 60), 20);
        assert_eq!(ttl(ResponseClass::Delegation, &[300], 5, 60), 5);
        assert_eq!(ttl(ResponseClass::Failure, &[300], 5, 60), 7);
    }

    #[test]
    fn invalid_signatures_are_detected() {
        let is_invalid = |inception: u32, expiration: u32, now| {
            let mut data = vec![0, 1, 8, 2, 0, 0, 0, 60];
            data.extend(expiration.to_be_bytes());
            data.extend(inception.to_be_bytes());
            let mut reply = Reply::new();
            let rdata = Rdata::Bytes(reply.store(&data));
            reply.answer(Type::RRSIG, 60, rdata);
            has_invalid_signature(&reply, || now)
        };
        assert!(!is_invalid(100, 200, 100) && !is_invalid(100, 200, 200));
        assert!(is_invalid(100, 200, 99) && is_invalid(100, 200, 201));
        // The numbers wrap in 2106.
        assert!(!is_invalid(u32::MAX - 5, 5, 2) && is_invalid(u32::MAX - 5, 5, 6));
    }
}
