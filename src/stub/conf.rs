//! A resolv.conf, as stub resolvers read it.

use std::fmt::Write as _;

/// The largest `ndots` that resolvers accept.
const MAX_NDOTS: usize = 15;
/// The default and the largest `attempts` (`RES_DFLRETRY`, `RES_MAXRETRY`).
const DEFAULT_ATTEMPTS: usize = 2;
const MAX_ATTEMPTS: usize = 5;
/// The default and the largest `timeout`, in seconds (`RES_TIMEOUT`, `RES_MAXRETRANS`).
const DEFAULT_TIMEOUT: usize = 5;
const MAX_TIMEOUT: usize = 30;
/// The number of name servers that resolvers use (`MAXNS`).
pub(super) const MAX_SERVERS: usize = 3;

/// A resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StubConf {
    /// The name servers, as written.
    pub servers: Vec<String>,
    /// The search list, without final dots.
    pub search: Vec<String>,
    /// The options, such as `ndots:5`.
    pub options: Vec<String>,
}

impl StubConf {
    /// Parses a file. The last `search` or `domain` line counts, as in resolv.conf(5); unknown lines are ignored.
    pub fn parse(text: &str) -> StubConf {
        let mut conf = StubConf::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
                Some("search") => conf.search = words.map(without_dot).collect(),
                Some("domain") => conf.search = words.take(1).map(without_dot).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }

    /// Returns the text of the file, as container runtimes write it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }

    /// Returns the number of dots from which on a name is looked up as it is first. 1 by default.
    pub fn ndots(&self) -> usize {
        self.number("ndots:").unwrap_or(1).min(MAX_NDOTS)
    }

    /// Returns how often a resolver asks all of its servers. 2 by default.
    pub fn attempts(&self) -> usize {
        self.number("attempts:").unwrap_or(DEFAULT_ATTEMPTS).clamp(1, MAX_ATTEMPTS)
    }

    /// Returns the seconds that a resolver waits for one response; musl for the whole look-up. 5 by default.
    pub fn timeout(&self) -> usize {
        self.number("timeout:").unwrap_or(DEFAULT_TIMEOUT).clamp(1, MAX_TIMEOUT)
    }

    /// Returns the value of an option; the last one that begins with a digit counts. As in C libraries, what follows
    /// the digits is ignored, and a number that is too large is the largest one.
    pub(super) fn number(&self, option: &str) -> Option<usize> {
        self.options.iter().rev().find_map(|have| {
            let value = have.strip_prefix(option)?;
            let digits = value.bytes().take_while(u8::is_ascii_digit).count();
            (digits > 0).then(|| value[..digits].parse().unwrap_or(usize::MAX))
        })
    }

    /// Returns whether an option is set.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|have| have == option)
    }

    /// Returns the name servers that resolvers use: the first three.
    pub fn used_servers(&self) -> &[String] {
        &self.servers[..self.servers.len().min(MAX_SERVERS)]
    }
}

/// Returns a domain without its final dot; the root stays `.`.
fn without_dot(domain: &str) -> String {
    match domain.strip_suffix('.') {
        Some("") | None => domain.to_owned(),
        Some(domain) => domain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_parsed_and_written() {
        let text = "# a\nsearch x.y\ndomain d.\nsearch a.b. c\nnameserver 10.0.0.1\nnameserver fd00::1 x\noptions ndots:5 \
                    edns0\noptions ndots:20\nbogus\n";
        let conf = StubConf::parse(text);
        assert_eq!(conf.search, ["a.b", "c"]);
        assert_eq!(conf.servers, ["10.0.0.1", "fd00::1"]);
        assert_eq!((conf.ndots(), conf.has("edns0"), conf.has("rotate")), (15, true, false));
        assert_eq!(
            conf.to_text(),
            "search a.b c\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5 edns0 ndots:20\n"
        );
        assert_eq!((conf.attempts(), conf.timeout()), (2, 5));
        let changed = StubConf::parse("options attempts:3 timeout:1 timeout:0 attempts:99\n");
        assert_eq!((changed.attempts(), changed.timeout()), (5, 1));
        for (option, ndots) in [("5x", 5), ("99999999999999999999", 15), ("0", 0), ("x", 2), ("", 2), ("-1", 2)] {
            let conf = StubConf::parse(&format!("options ndots:2 ndots:{option}\n"));
            assert_eq!(conf.ndots(), ndots, "{option}");
        }
        assert_eq!(StubConf::parse("domain d.\n").search, ["d"]);
        assert_eq!(StubConf::default().ndots(), 1);
        assert_eq!(StubConf::default().to_text(), "");
    }
}
