//! The queries that a stub resolver sends for a name, with the answers, and how to send fewer.

use serde::{Deserialize, Serialize};

use super::conf::StubConf;
use super::library::{Code, Library, StubVerdict, UnsentName};

/// The maximum number of queries that are listed.
const MAX_QUERIES: usize = 200;

/// A query, and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StubQuery {
    /// The name, with its final dot.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub qtype: String,
    /// The answer for people.
    pub answer: String,
}

/// The look-up of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The queries, in their order.
    pub queries: Vec<StubQuery>,
    /// The name that has the addresses, if one has.
    pub found: Option<String>,
    /// The result for people.
    pub result: String,
    /// How to send fewer queries.
    pub fewer: Vec<String>,
}

/// Looks up one name: returns the code, and the answer for people.
pub type AddressLookUp<'a> = dyn FnMut(&str, &str) -> (Code, String) + 'a;

/// Returns the queries for a name, and its result.
pub fn resolve(library: Library, conf: &StubConf, name: &str, look_up: &mut AddressLookUp<'_>) -> Resolution {
    let mut resolution = run(library, conf, name, look_up);
    let spent = resolution.queries.len();
    let Some(found) = resolution.found.clone().filter(|_| spent > 0) else { return resolution };
    let types = library.types(conf).len();
    if spent > types {
        resolution.fewer.push(format!("look up {found} with its final dot: {types} queries instead of {spent}"));
    }
    let current = conf.ndots();
    for ndots in 1..current {
        let mut changed = conf.clone();
        changed.options.push(format!("ndots:{ndots}"));
        let other = run(library, &changed, name, look_up);
        if other.found.as_ref() == Some(&found) && other.queries.len() < spent {
            let text = format!("set ndots:{ndots} in dnsConfig: {} queries instead of {spent}", other.queries.len());
            resolution.fewer.push(text);
            break;
        }
    }
    if library == Library::Glibc && types == 2 {
        resolution
            .fewer
            .push("set the option no-aaaa (glibc 2.36) if no IPv6 address is needed: half of the queries".into());
    }
    resolution
}

/// Returns the queries for a name, and its result.
fn run(library: Library, conf: &StubConf, name: &str, look_up: &mut AddressLookUp<'_>) -> Resolution {
    let mut resolution = Resolution::default();
    let names = match library.names(conf, name) {
        Ok(names) => names,
        Err(error) => {
            resolution.result = error.to_string();
            if error == UnsentName::Address {
                resolution.found = Some(name.to_owned());
            }
            return resolution;
        }
    };
    let mut last = Code::NameError;
    for name in names {
        let answers: Vec<(&str, Code, String)> = library
            .types(conf)
            .iter()
            .map(|qtype| {
                let (code, answer) = look_up(&name, qtype);
                (*qtype, code, answer)
            })
            .collect();
        let codes: Vec<Code> = answers.iter().map(|(_, code, _)| *code).collect();
        let is_failure = codes.iter().all(|code| matches!(code, Code::ServerFailure | Code::Timeout));
        let attempts = if is_failure { library.attempts(conf.used_servers().len()) } else { 1 };
        for _ in 0..attempts {
            for (qtype, _, answer) in &answers {
                if resolution.queries.len() < MAX_QUERIES {
                    let (qtype, answer) = ((*qtype).to_owned(), answer.clone());
                    resolution.queries.push(StubQuery { name: name.clone(), qtype, answer });
                }
            }
        }
        match library.verdict(&codes) {
            StubVerdict::Found => {
                let mut found: Vec<&str> = answers
                    .iter()
                    .filter(|(_, code, _)| *code == Code::Found)
                    .map(|(_, _, answer)| answer.as_str())
                    .collect();
                // Both types may have the same words, as where an upstream decides.
                found.dedup();
                resolution.result = found.join(", ");
                resolution.found = Some(name);
                return resolution;
            }
            StubVerdict::Next => last = if codes.contains(&Code::NoData) { Code::NoData } else { last },
            StubVerdict::Fails => {
                let answer = answers.iter().find(|(_, code, _)| *code != Code::Found);
                let answer = answer.map(|(_, _, answer)| answer.as_str()).unwrap_or_default();
                resolution.result = format!("an error: {} stops at {name} {answer}", library.name());
                return resolution;
            }
        }
    }
    resolution.result = match last {
        Code::NoData => "an error: no name has an address (NODATA)".to_owned(),
        _ => "an error: no name exists (NXDOMAIN)".to_owned(),
    };
    resolution
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "search a.svc.c svc.c c\nnameserver 10.0.0.1\noptions ndots:5\n";

    /// Returns the names that are looked up, the result, and what is advised; `codes` has the codes of names other than
    /// NXDOMAIN, for A and AAAA.
    fn check(library: Library, name: &str, codes: &[(&str, Code, Code)]) -> (String, Option<String>, Vec<String>) {
        let mut look_up = |name: &str, qtype: &str| {
            let found = codes.iter().find(|(of, ..)| *of == name);
            let code = found.map_or(Code::NameError, |(_, a, aaaa)| if qtype == "A" { *a } else { *aaaa });
            (code, format!("{code:?}"))
        };
        let resolution = resolve(library, &StubConf::parse(POD), name, &mut look_up);
        let names: Vec<String> =
            resolution.queries.iter().map(|query| format!("{}/{}", query.name, query.qtype)).collect();
        (names.join(" "), resolution.found, resolution.fewer)
    }

    #[test]
    fn the_search_ends_with_the_first_answer() {
        let (names, found, fewer) = check(Library::Musl, "web.b", &[("web.b.svc.c.", Code::Found, Code::NoData)]);
        assert_eq!(names, "web.b.a.svc.c./A web.b.a.svc.c./AAAA web.b.svc.c./A web.b.svc.c./AAAA");
        assert_eq!(found.as_deref(), Some("web.b.svc.c."));
        assert_eq!(fewer, ["look up web.b.svc.c. with its final dot: 2 queries instead of 4"]);
    }

    #[test]
    fn an_external_name_costs_less_with_fewer_dots_required() {
        let (names, _, fewer) = check(Library::Go, "x.example", &[("x.example.", Code::Found, Code::Found)]);
        assert_eq!(names.split(' ').count(), 8);
        assert_eq!(fewer[1], "set ndots:1 in dnsConfig: 2 queries instead of 8");
    }

    #[test]
    fn a_failure_is_repeated_and_ends_the_search_of_some() {
        let failing = [("web.a.svc.c.", Code::ServerFailure, Code::ServerFailure)];
        assert_eq!(check(Library::Musl, "web", &failing).0.split(' ').count(), 2 * 3);
        assert_eq!(check(Library::CAres, "web", &failing).0.split(' ').count(), 2 * 3);
        assert_eq!(check(Library::Glibc, "web", &failing).0.split(' ').count(), 2 * 2 + 3 * 2);
    }

    #[test]
    fn nothing_is_sent_for_an_address() {
        let (names, found, fewer) = check(Library::Glibc, "10.0.0.1", &[]);
        assert_eq!((names.as_str(), found.as_deref(), fewer.len()), ("", Some("10.0.0.1"), 0));
    }
}
