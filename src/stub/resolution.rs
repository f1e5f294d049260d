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
    let as_it_is = format!("{}.", name.strip_suffix('.').unwrap_or(name));
    let mut codes: Vec<(bool, Vec<Code>)> = Vec::new();
    let mut is_list_left = false;
    for name in names {
        let is_as_it_is = name == as_it_is;
        if is_list_left && !is_as_it_is {
            continue;
        }
        let answers: Vec<(&str, Code, String)> = library
            .types(conf)
            .iter()
            .map(|qtype| {
                let (code, answer) = look_up(&name, qtype);
                (*qtype, code, answer)
            })
            .collect();
        let received: Vec<Code> = answers.iter().map(|(_, code, _)| *code).collect();
        let attempts = library.attempts(conf, &received);
        for attempt in 0..attempts.iter().copied().max().unwrap_or_default() {
            for ((qtype, _, answer), _) in answers.iter().zip(&attempts).filter(|(_, attempts)| attempt < **attempts) {
                if resolution.queries.len() < MAX_QUERIES {
                    let (qtype, answer) = ((*qtype).to_owned(), answer.clone());
                    resolution.queries.push(StubQuery { name: name.clone(), qtype, answer });
                }
            }
        }
        match library.verdict(&received) {
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
            StubVerdict::Next => {}
            // glibc tries the whole list after the name as it is.
            StubVerdict::LeavesList => is_list_left = !is_as_it_is,
            StubVerdict::Fails => {
                let answer = answers.iter().find(|(_, code, _)| *code != Code::Found);
                let answer = answer.map(|(_, _, answer)| answer.as_str()).unwrap_or_default();
                let waits = if library == Library::Musl && received.iter().any(|code| code.is_failure()) {
                    format!(" after {} s", conf.timeout())
                } else {
                    String::new()
                };
                resolution.result = format!("an error: {} stops{waits} at {name} {answer}", library.name());
                return resolution;
            }
        }
        codes.push((is_as_it_is, received));
    }
    resolution.result = match library.report(&codes) {
        Code::NoData => "an error: no name has an address (NODATA)",
        Code::ServerFailure | Code::Timeout | Code::Other => "a temporary error: a server failed for one of the names",
        Code::Found | Code::NameError => "an error: no name exists (NXDOMAIN)",
    }
    .to_owned();
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
        assert_eq!(check(Library::Musl, "web", &failing).0.split(' ').count(), 2 * 2 * 3);
        assert_eq!(check(Library::CAres, "web", &failing).0.split(' ').count(), 2 * 4);
        assert_eq!(check(Library::Glibc, "web", &failing).0.split(' ').count(), 2 * 2 + 3 * 2);
        let half = [("web.a.svc.c.", Code::Found, Code::ServerFailure)];
        assert_eq!(check(Library::Glibc, "web", &half).0, "web.a.svc.c./A web.a.svc.c./AAAA");
        assert_eq!(check(Library::Musl, "web", &half).0.matches("AAAA").count(), 2 * (1 + 4));
    }

    #[test]
    fn glibc_leaves_the_list_when_a_server_refuses() {
        let refused = [("web.a.svc.c.", Code::Other, Code::Other), ("web.svc.c.", Code::Found, Code::NoData)];
        let (names, found, _) = check(Library::Glibc, "web", &refused);
        assert_eq!(names.split(' ').skip(4).collect::<Vec<_>>(), ["web./A", "web./AAAA"]);
        assert_eq!(found, None);
        // The name as it is does not end the search.
        let refused = [("a.b.c.d.e.f.", Code::Other, Code::Other), ("a.b.c.d.e.f.c.", Code::Found, Code::NoData)];
        assert_eq!(check(Library::Glibc, "a.b.c.d.e.f", &refused).1.as_deref(), Some("a.b.c.d.e.f.c."));
        // musl repeats the query until its time is over.
        let refused = [("web.a.svc.c.", Code::Other, Code::Other)];
        assert_eq!(check(Library::Musl, "web", &refused).0.split(' ').count(), 2 * 2);
    }

    #[test]
    fn the_error_of_a_search_is_that_which_the_library_reports() {
        let result = |library: Library, name: &str, codes: &[(&str, Code)]| {
            let mut look_up = |name: &str, _: &str| {
                let code = codes.iter().find(|(of, _)| *of == name).map_or(Code::NameError, |(_, code)| *code);
                (code, format!("{code:?}"))
            };
            resolve(library, &StubConf::parse(POD), name, &mut look_up).result
        };
        let failure = ("web.a.svc.c.", Code::ServerFailure);
        let temporary = "a temporary error: a server failed for one of the names";
        let missing = "an error: no name exists (NXDOMAIN)";
        let empty = "an error: no name has an address (NODATA)";
        assert_eq!(result(Library::Glibc, "web", &[failure]), temporary);
        assert_eq!(result(Library::Glibc, "web", &[failure, ("web.svc.c.", Code::NoData)]), empty);
        assert_eq!(result(Library::Glibc, "web", &[("web.a.svc.c.", Code::Other)]), missing);
        assert_eq!(result(Library::Go, "web", &[failure]), missing);
        assert_eq!(result(Library::Go, "web", &[("web.c.", Code::ServerFailure)]), temporary);
        assert_eq!(
            result(Library::Musl, "web", &[failure]),
            "an error: musl stops after 5 s at web.a.svc.c. ServerFailure"
        );
        assert_eq!(result(Library::CAres, "web", &[failure]), "an error: c-ares stops at web.a.svc.c. ServerFailure");
        // The name as it is was first.
        let first = [("a.b.c.d.e.f.", Code::ServerFailure), ("a.b.c.d.e.f.c.", Code::NoData)];
        assert_eq!(result(Library::Glibc, "a.b.c.d.e.f", &first), temporary);
    }

    #[test]
    fn nothing_is_sent_for_an_address() {
        let (names, found, fewer) = check(Library::Glibc, "10.0.0.1", &[]);
        assert_eq!((names.as_str(), found.as_deref(), fewer.len()), ("", Some("10.0.0.1"), 0));
    }
}
