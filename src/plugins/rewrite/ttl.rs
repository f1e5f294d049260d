//! `ttl`: keeps the TTLs of a reply within a range. The OPT record has no TTL (RFC 6891 6.1.3) and is left alone.

use super::matching::{MatchKind, Matcher};
use super::words::{RuleError, Words};

/// The maximum of a range without an upper end (RFC 2181 8).
const MAX_TTL: u32 = 0x7fff_ffff;
const EXPECTED: &str = "seconds, such as 30, or a range: 30-300, 30- or -300";

/// A rule about TTLs.
#[derive(Debug, PartialEq)]
pub(super) struct TtlRule {
    /// The names of queries whose replies are changed.
    pub(super) matcher: Matcher,
    min: u32,
    max: u32,
}

impl TtlRule {
    /// Returns the TTL in the place of another one.
    pub(super) fn limit(&self, ttl: u32) -> u32 {
        ttl.clamp(self.min, self.max)
    }
}

/// Reads the words after `ttl` (CoreDNS `newTTLRule`).
pub(super) fn parse(words: &mut Words<'_>) -> Result<TtlRule, RuleError> {
    let count = words.rest().len();
    if count < 2 {
        return Err(words.missing(&format!("too few ({count}) arguments for a ttl rule"), "a name and a TTL"));
    }
    if count > 3 {
        return Err(words.wrong(3, "many few arguments for a ttl rule", "end of the rule"));
    }
    let Some((min, max)) = range(words.text(count - 1)) else {
        let message = format!("invalid TTL '{}' for a ttl rule", words.text(count - 1));
        return Err(words.wrong(count - 1, message, EXPECTED));
    };
    Ok(TtlRule { matcher: matcher(words, count - 2, "ttl")?, min, max })
}

/// Reads the way to match and the name before the words at `name_at`, of `ttl` and `rcode`.
pub(super) fn matcher(words: &mut Words<'_>, name_at: usize, what: &str) -> Result<Matcher, RuleError> {
    if name_at == 0 {
        return Ok(Matcher::Exact(super::replacement::normalize(words.text(0))));
    }
    match MatchKind::of(words.text(0)) {
        Some(MatchKind::Regex) => Ok(Matcher::Regex(words.expression(1)?)),
        Some(kind) => Ok(kind.literal(super::replacement::normalize(words.text(1)))),
        None => {
            let message =
                format!("{what} rule supports only exact, prefix, suffix, substring, and regex name matching");
            Err(words.wrong(0, message, MatchKind::NAMES))
        }
    }
}

/// Parses a TTL or a range of them.
fn range(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (min, max) = match text.split_once('-') {
        None => (number(text)?, number(text)?),
        Some(("", "")) => return None,
        Some((min, "")) => (number(min)?, MAX_TTL),
        Some(("", max)) => (0, number(max)?),
        Some((min, max)) => (number(min)?, number(max)?),
    };
    (min <= max).then_some((min, max))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_has_one_or_two_ends() {
        let expected = [
            ("30", Some((30, 30))),
            ("30-300", Some((30, 300))),
            ("30-", Some((30, 0x7fff_ffff))),
            ("-300", Some((0, 300))),
            ("4294967295", Some((u32::MAX, u32::MAX))),
            ("4294967296", None),
            ("-", None),
            ("", None),
            ("5-4", None),
            ("1-2-3", None),
            ("+1", None),
            ("4294967295-", None),
        ];
        for (text, limits) in expected {
            assert_eq!(range(text), limits, "{text}");
        }
    }
}
