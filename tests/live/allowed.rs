//! Intended differences from CoreDNS, in the format of `docs/differences.allow`.

use std::sync::OnceLock;

use clusterdns::wire::Rcode;
use libtest_mimic::Failed;
use regex::Regex;

use super::Test;
use super::ask::{Answer, Part};

/// An intended difference: for some names and types, in some parts of the answer.
#[derive(Clone, Debug)]
pub struct Allowed {
    /// Searched for in `NAME TYPE`.
    questions: Regex,
    what: What,
    /// If the answer section may differ: it may only have more aliases than CoreDNS's.
    aliases_only: bool,
}

/// What may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// The rcode alone: CoreDNS's and this server's.
    Rcodes(Rcode, Rcode),
    /// These parts.
    Parts(Vec<Part>),
}

impl Allowed {
    /// Parses `REGEX => RCODE RCODE` or `REGEX => PART,PART`.
    pub fn parse(line: &str) -> Result<Allowed, String> {
        let (questions, what) = line.split_once(" => ").ok_or_else(|| format!("nothing after '=>': {line}"))?;
        let questions = Regex::new(questions.trim()).map_err(|error| error.to_string())?;
        let what = match what.split_whitespace().collect::<Vec<_>>()[..] {
            [theirs, ours] => What::Rcodes(rcode(theirs)?, rcode(ours)?),
            [parts] => {
                let parts = parts.split(',').map(|name| Part::of(name).ok_or_else(|| format!("no part: {name}")));
                What::Parts(parts.collect::<Result<_, _>>()?)
            }
            _ => return Err(format!("neither two codes nor parts: {what}")),
        };
        Ok(Allowed { questions, what, aliases_only: false })
    }

    /// Returns whether everything that differs between the answers to a question may differ.
    fn excuses(&self, question: &str, theirs: &Answer, ours: &Answer) -> bool {
        if !self.questions.is_match(question) {
            return false;
        }
        let differing = theirs.differing(ours);
        match &self.what {
            What::Rcodes(of_theirs, of_ours) => {
                differing == [Part::Rcode] && (theirs.rcode, ours.rcode) == (of_theirs.0, of_ours.0)
            }
            What::Parts(parts) => {
                !differing.is_empty()
                    && differing.iter().all(|part| parts.contains(part))
                    && (!self.aliases_only || has_more_aliases_only(theirs, ours))
            }
        }
    }
}

/// Returns whether this server's answer section is CoreDNS's, or has only more aliases.
fn has_more_aliases_only(theirs: &Answer, ours: &Answer) -> bool {
    let [theirs, ours] = [theirs, ours].map(|answer| &answer.sections[0]);
    let mut more = ours.iter().filter(|record| !theirs.contains(record));
    theirs.iter().all(|record| ours.contains(record)) && more.all(|record| is_alias(record))
}

/// Returns whether a record in presentation form is a CNAME.
pub fn is_alias(record: &str) -> bool {
    record.split(' ').nth(2).is_some_and(|rtype| rtype.eq_ignore_ascii_case("CNAME"))
}

/// Returns whether one of these lines allows a difference.
pub fn is_allowed(allowed: &[Allowed], question: &str, theirs: &Answer, ours: &Answer) -> bool {
    allowed.iter().any(|allowed| allowed.excuses(question, theirs, ours))
}

fn rcode(name: &str) -> Result<Rcode, String> {
    let known = [Rcode::NOERROR, Rcode::SERVFAIL, Rcode::NXDOMAIN, Rcode::REFUSED];
    known.into_iter().find(|rcode| rcode.to_string() == name).ok_or_else(|| format!("no rcode: {name}"))
}

/// Parses the lines of a text, without comments.
fn parse_all(text: &str) -> Vec<Allowed> {
    let lines = text.lines().map(|line| if line.starts_with('#') { "" } else { line.split(" #").next().unwrap_or("") });
    let lines = lines.map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| Allowed::parse(line).unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// Returns the lines of `docs/differences.allow`. The format cannot express it, but its lines allow only more aliases
/// in an answer section.
pub fn everywhere() -> &'static [Allowed] {
    static ALLOWED: OnceLock<Vec<Allowed>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let mut allowed = parse_all(include_str!("../../docs/differences.allow"));
        allowed.iter_mut().for_each(|allowed| allowed.aliases_only = true);
        allowed
    })
}

pub fn tests() -> Vec<Test> {
    vec![Test::new("allowed: only what a line names may differ", only_what_is_named)]
}

fn only_what_is_named() -> Result<(), Failed> {
    let answer = |rcode: Rcode, records: &[&str]| Answer {
        rcode: rcode.0,
        flags: "aa".to_owned(),
        edns: None,
        sections: [records.iter().map(|&record| record.to_owned()).collect(), Vec::new(), Vec::new()],
    };
    let (address, alias) = ("a. 5 A 10.0.0.1", "a. 5 CNAME b.");
    let (name_error, no_data) = (answer(Rcode::NXDOMAIN, &[]), answer(Rcode::NOERROR, &[]));
    let cut = Answer { flags: "aa tc".to_owned(), ..no_data.clone() };
    let [codes, parts] =
        ["^a A$ => NXDOMAIN NOERROR", "^a A$ => rcode,answer"].map(|line| Allowed::parse(line).expect(line));
    let aliases = Allowed { aliases_only: true, ..parts.clone() };
    for (line, question, theirs, ours, is_excused) in [
        (&codes, "a A", &name_error, &no_data, true),
        (&codes, "a AAAA", &name_error, &no_data, false),
        (&codes, "a A", &no_data, &name_error, false),
        (&codes, "a A", &name_error, &cut, false),
        (&codes, "a A", &name_error, &answer(Rcode::NOERROR, &[address]), false),
        (&codes, "a A", &name_error, &answer(Rcode::SERVFAIL, &[]), false),
        (&parts, "a A", &no_data, &answer(Rcode::NOERROR, &[address]), true),
        (&parts, "a A", &no_data, &cut, false),
        (&aliases, "a A", &no_data, &answer(Rcode::NXDOMAIN, &[alias]), true),
        (&aliases, "a A", &no_data, &answer(Rcode::NOERROR, &[alias, address]), false),
        (&aliases, "a A", &answer(Rcode::NOERROR, &[address]), &no_data, false),
    ] {
        let found = is_allowed(std::slice::from_ref(line), question, theirs, ours);
        assert_eq!(found, is_excused, "{line:?} {question}: {theirs} | {ours}");
    }
    for line in ["^a A$", "^a A$ => ", "^a A$ => NXDOMAIN NONE", "^a A$ => rcode,all", "( => rcode"] {
        assert!(Allowed::parse(line).is_err(), "{line}");
    }
    assert!(!everywhere().is_empty());
    Ok(())
}
