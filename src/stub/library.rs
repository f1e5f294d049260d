//! Which names a C library or runtime looks up for a name, in which order, and when it stops.
//!
//! Each looks up A and AAAA of a name together (`getaddrinfo` for any family). Sources: glibc 2.36
//! `resolv/res_query.c`, musl 1.2 `src/network/lookup_name.c`, Go 1.22 `net/dnsclient_unix.go`, c-ares 1.18 and 1.34
//! `src/lib/ares_getaddrinfo.c`.

use super::conf::StubConf;

/// The maximum length of a line of resolv.conf that musl reads, in bytes with the line end.
const MUSL_LINE: usize = 255;
/// How often c-ares 1.18 asks all of its servers.
const CARES_TRIES: usize = 4;
/// The maximum length of a name in text, without its final dot.
const MAX_NAME: usize = 253;

/// A C library or runtime with a stub resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Library {
    /// The GNU C library: Debian, Ubuntu, Red Hat.
    #[default]
    Glibc,
    /// musl: Alpine.
    Musl,
    /// Go's own resolver (without cgo).
    Go,
    /// c-ares: curl, Envoy and gRPC in some builds, Node's `dns.resolve`.
    CAres,
}

/// The result of a query, as stub resolvers distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// NOERROR with an address.
    Found,
    /// NOERROR without an address.
    NoData,
    /// NXDOMAIN.
    NameError,
    /// SERVFAIL.
    ServerFailure,
    /// Another code.
    Other,
    /// No response.
    Timeout,
}

/// What a resolver does after the responses for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StubVerdict {
    /// It returns the addresses.
    Found,
    /// It looks up the next name.
    Next,
    /// It leaves the search list; the name as it is follows, if it has not been looked up.
    LeavesList,
    /// It returns an error, whatever names are left.
    Fails,
}

/// Why a resolver sends no query for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsentName {
    /// The name is an address.
    #[error("it is an address, which needs no query")]
    Address,
    /// The name is empty, too long or has an empty label.
    #[error("it is not a DNS name, so that no query is sent")]
    Invalid,
}

impl Library {
    /// Every library.
    pub const ALL: [Library; 4] = [Library::Glibc, Library::Musl, Library::Go, Library::CAres];

    /// Returns the name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Library::Glibc => "glibc",
            Library::Musl => "musl",
            Library::Go => "go",
            Library::CAres => "c-ares",
        }
    }

    /// Returns the library with this name.
    pub fn named(name: &str) -> Option<Library> {
        let name = if name == "cares" { "c-ares" } else { name };
        Library::ALL.into_iter().find(|library| library.name() == name)
    }

    /// Returns the full names that are looked up for a name, in their order, with their final dots.
    pub fn names(self, conf: &StubConf, name: &str) -> Result<Vec<String>, UnsentName> {
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(UnsentName::Address);
        }
        let bare = name.strip_suffix('.').unwrap_or(name);
        if bare.is_empty() || bare.len() > MAX_NAME || bare.split('.').any(|label| !is_label(label)) {
            return Err(UnsentName::Invalid);
        }
        let is_rooted = bare.len() < name.len();
        let dots = bare.matches('.').count();
        let as_it_is = format!("{bare}.");
        if is_rooted {
            return Ok(vec![as_it_is]);
        }
        let has_ndots = dots >= conf.ndots();
        if self == Library::Musl && has_ndots {
            // musl never searches after a name with enough dots.
            return Ok(vec![as_it_is]);
        }
        // Resolvers treat a root in the search list as the name itself: glibc looks it up once, at that place; others
        // skip it.
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: String| {
            if name.len() <= MAX_NAME + 1 {
                names.push(name);
            }
        };
        if has_ndots {
            add(as_it_is.clone());
        }
        let mut is_root_searched = false;
        for domain in self.search(conf) {
            match domain.as_str() {
                "." if self == Library::Glibc && has_ndots => is_root_searched = true,
                "." if self == Library::Glibc => {
                    is_root_searched = true;
                    add(as_it_is.clone());
                }
                "." => {}
                domain => add(format!("{bare}.{domain}.")),
            }
        }
        if !has_ndots && !is_root_searched {
            add(as_it_is);
        }
        Ok(names)
    }

    /// Returns the search list that the library reads.
    fn search(self, conf: &StubConf) -> &[String] {
        let line = "search ".len() + conf.search.iter().map(|domain| domain.len() + 1).sum::<usize>();
        if self == Library::Musl && line > MUSL_LINE { &[] } else { &conf.search }
    }

    /// Returns what the library does with options that keep it from finding anything, for people.
    pub fn fatal_options(self, conf: &StubConf) -> Vec<String> {
        let last = |option: &str| conf.options.iter().rev().find(|have| have.starts_with(option));
        let mut notes = Vec::new();
        match (self, last("attempts:")) {
            // It reads any text as a 32-bit number: without digits it is 0, and too large a number is -1.
            (Library::Glibc, Some(option)) => {
                let value = option.trim_start_matches("attempts:").trim_start_matches('+');
                let digits = value.bytes().take_while(u8::is_ascii_digit).count();
                if value[..digits].parse::<i32>().unwrap_or(0) == 0 {
                    notes.push(format!("glibc sends no query with '{option}': it reads the value as no attempt"));
                }
            }
            (Library::Musl, Some(option)) if conf.number("attempts:") == Some(0) => {
                notes.push(format!("musl crashes with '{option}': it divides by the value"));
            }
            _ => {}
        }
        if self == Library::Musl && conf.number("timeout:") == Some(0) {
            notes.push("musl does not wait for any response with 'timeout:0'".to_owned());
        }
        notes
    }

    /// Returns the types that are looked up for each name.
    pub fn types(self, conf: &StubConf) -> &'static [&'static str] {
        match self {
            Library::Glibc if conf.has("no-aaaa") => &["A"],
            _ => &["A", "AAAA"],
        }
    }

    /// Returns how many queries are sent for each type of a name. Queries that musl sends to all servers at once count
    /// once if one of them is answered.
    pub fn attempts(self, conf: &StubConf, codes: &[Code]) -> Vec<usize> {
        let servers = conf.used_servers().len().max(1);
        let failed = codes.iter().filter(|code| code.is_failure()).count();
        let attempts = |code: &Code| match self {
            _ if !code.is_failure() => 1,
            // The answer to one of the types is enough.
            Library::Glibc if failed < codes.len() => 1,
            Library::Glibc | Library::Go => conf.attempts() * servers,
            // A server that has failed is not asked again, unless it is the only one.
            Library::CAres if servers > 1 && *code != Code::Timeout => servers,
            Library::CAres => CARES_TRIES * servers,
            // Responses other than NOERROR and NXDOMAIN are dropped. SERVFAIL is answered by the same query, as often
            // as twice the number of types in each attempt.
            Library::Musl => {
                let again = if *code == Code::ServerFailure { 2 * codes.len() / failed } else { 0 };
                conf.attempts() * (servers + again)
            }
        };
        codes.iter().map(attempts).collect()
    }

    /// Returns what follows after the responses for a name, one for each type.
    pub fn verdict(self, codes: &[Code]) -> StubVerdict {
        if self == Library::Musl {
            // Its responses are examined in the order A, AAAA.
            for code in codes {
                match code {
                    Code::ServerFailure | Code::Timeout | Code::Other => return StubVerdict::Fails,
                    Code::NameError => return StubVerdict::Next,
                    Code::Found | Code::NoData => {}
                }
            }
            // NODATA ends the search too.
            return if codes.contains(&Code::Found) { StubVerdict::Found } else { StubVerdict::Fails };
        }
        if codes.contains(&Code::Found) {
            return StubVerdict::Found;
        }
        match self {
            // SERVFAIL does not end the search.
            Library::Glibc if codes.iter().all(|code| matches!(code, Code::Timeout | Code::Other)) => {
                StubVerdict::LeavesList
            }
            Library::CAres if codes.iter().any(|code| code.is_failure()) => StubVerdict::Fails,
            _ => StubVerdict::Next,
        }
    }

    /// Returns the code that an unsuccessful search reports. `codes` has those of each name, and whether it was the
    /// name as it is.
    pub fn report(self, codes: &[(bool, Vec<Code>)]) -> Code {
        let worst = |codes: &[Code]| {
            let order = [Code::ServerFailure, Code::Timeout, Code::Other, Code::NoData];
            order.into_iter().find(|code| codes.contains(code)).unwrap_or(Code::NameError)
        };
        let has = |code: Code| codes.iter().any(|(_, codes)| codes.contains(&code));
        let last = codes.last().map_or(Code::NameError, |(_, codes)| worst(codes));
        match (self, codes) {
            // The name as it is decides if it was first; then any NODATA, then any SERVFAIL, then the last name.
            (Library::Glibc, [(true, first), _, ..]) => worst(first),
            // The last name of the list decides.
            (Library::Go, _) => {
                let listed = codes.iter().rev().find(|(as_it_is, _)| !as_it_is);
                listed.map_or(last, |(_, codes)| worst(codes))
            }
            _ if has(Code::NoData) => Code::NoData,
            _ if has(Code::ServerFailure) => Code::ServerFailure,
            _ => last,
        }
    }
}

impl Code {
    /// Returns whether another server, or the same one later, could have an answer.
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Code::ServerFailure | Code::Timeout | Code::Other)
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= 63
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(library: Library, text: &str, name: &str) -> String {
        match library.names(&StubConf::parse(text), name) {
            Ok(names) => names.join(" "),
            Err(error) => format!("{error:?}"),
        }
    }

    const POD: &str = "search a.svc.c svc.c c\noptions ndots:5\n";

    #[test]
    fn the_search_list_is_applied_below_ndots() {
        for library in Library::ALL {
            assert_eq!(names(library, POD, "web"), "web.a.svc.c. web.svc.c. web.c. web.");
            assert_eq!(names(library, POD, "x.example"), "x.example.a.svc.c. x.example.svc.c. x.example.c. x.example.");
            assert_eq!(names(library, POD, "x.example."), "x.example.");
            assert_eq!(names(library, "", "web"), "web.");
            assert_eq!(names(library, POD, "10.0.0.1"), "Address");
            assert_eq!(names(library, POD, "a..b"), "Invalid");
            assert_eq!(names(library, POD, "."), "Invalid");
            assert_eq!(names(library, POD, &"x".repeat(64)), "Invalid");
        }
    }

    #[test]
    fn a_name_with_enough_dots_is_first_as_it_is() {
        let conf = "search c d\noptions ndots:1\n";
        for library in [Library::Glibc, Library::Go, Library::CAres] {
            assert_eq!(names(library, conf, "x.y"), "x.y. x.y.c. x.y.d.");
        }
        assert_eq!(names(Library::Musl, conf, "x.y"), "x.y.");
    }

    #[test]
    fn musl_ignores_a_long_search_line_and_others_do_not() {
        let domains: Vec<String> = (0..20).map(|n| format!("domain-{n:02}.example")).collect();
        let conf = format!("search {}\n", domains.join(" "));
        assert_eq!(names(Library::Musl, &conf, "web"), "web.");
        assert_eq!(names(Library::Glibc, &conf, "web").split(' ').count(), 21);
    }

    #[test]
    fn musl_reads_a_search_line_of_255_bytes() {
        for (domains, read) in [(247, true), (248, false)] {
            let conf = format!("search {}\n", "x".repeat(domains));
            assert_eq!(Library::Musl.search(&StubConf::parse(&conf)).len() == 1, read, "{domains}");
        }
    }

    #[test]
    fn options_without_which_a_library_works_are_named() {
        let notes = |library: Library, options: &str| {
            library.fatal_options(&StubConf::parse(&format!("options {options}\n"))).join("; ")
        };
        for attempts in
            ["attempts:0", "attempts:x", "attempts:", "attempts:-1", "attempts:9999999999", "attempts:3 attempts:0"]
        {
            assert!(notes(Library::Glibc, attempts).starts_with("glibc sends no query"), "{attempts}");
        }
        for works in ["attempts:1", "attempts:0 attempts:9", "attempts:2x", "timeout:0", "timeout:x ndots:0"] {
            assert_eq!(notes(Library::Glibc, works), "", "{works}");
        }
        let both = "musl crashes with 'attempts:0': it divides by the value; musl does not wait for any response with \
                    'timeout:0'";
        assert_eq!(notes(Library::Musl, "attempts:0 timeout:0"), both);
        assert_eq!(notes(Library::Musl, "attempts:x timeout:x"), "");
        assert_eq!(notes(Library::Go, "attempts:0 timeout:0"), "");
    }

    #[test]
    fn a_root_in_the_search_list_is_the_name_itself() {
        assert_eq!(names(Library::Glibc, "search c . d\n", "web"), "web.c. web. web.d.");
        assert_eq!(names(Library::Go, "search c . d\n", "web"), "web.c. web.d. web.");
    }

    #[test]
    fn libraries_stop_at_different_responses() {
        use Code::*;
        for (codes, glibc, musl, go, cares) in [
            (&[Found, NoData][..], StubVerdict::Found, StubVerdict::Found, StubVerdict::Found, StubVerdict::Found),
            (&[NoData, NoData], StubVerdict::Next, StubVerdict::Fails, StubVerdict::Next, StubVerdict::Next),
            (&[NameError, NameError], StubVerdict::Next, StubVerdict::Next, StubVerdict::Next, StubVerdict::Next),
            (
                &[ServerFailure, ServerFailure],
                StubVerdict::Next,
                StubVerdict::Fails,
                StubVerdict::Next,
                StubVerdict::Fails,
            ),
            (&[Found, ServerFailure], StubVerdict::Found, StubVerdict::Fails, StubVerdict::Found, StubVerdict::Found),
            (&[NoData, NameError], StubVerdict::Next, StubVerdict::Next, StubVerdict::Next, StubVerdict::Next),
            (&[Other, Other], StubVerdict::LeavesList, StubVerdict::Fails, StubVerdict::Next, StubVerdict::Fails),
            (&[Timeout, Timeout], StubVerdict::LeavesList, StubVerdict::Fails, StubVerdict::Next, StubVerdict::Fails),
        ] {
            let verdicts = Library::ALL.map(|library| library.verdict(codes));
            assert_eq!(verdicts, [glibc, musl, go, cares], "{codes:?}");
        }
    }
}
