//! `rcode`: changes the response code of a reply.

use super::matching::Matcher;
use super::words::{RuleError, Words};
use crate::wire::Rcode;

/// The largest code that may be written as a number.
const MAX_NUMBER: u32 = 23;

/// A rule about codes.
#[derive(Debug, PartialEq)]
pub(super) struct RcodeRule {
    /// The names of queries whose replies are changed.
    pub(super) matcher: Matcher,
    from: Rcode,
    to: Rcode,
}

impl RcodeRule {
    /// Returns the code in the place of another one.
    pub(super) fn change(&self, rcode: Rcode) -> Rcode {
        if rcode == self.from { self.to } else { rcode }
    }
}

/// Reads the words after `rcode` (CoreDNS `newRCodeRule`).
pub(super) fn parse(words: &mut Words<'_>) -> Result<RcodeRule, RuleError> {
    let count = words.rest().len();
    if count < 3 {
        let message = format!("too few ({count}) arguments for a rcode rule");
        return Err(words.missing(&message, "a name, a code and another code"));
    }
    if count > 4 {
        return Err(words.wrong(4, "many few arguments for a rcode rule", "end of the rule"));
    }
    let code = |at: usize, what: &str| {
        let text = words.text(at);
        read(text).ok_or_else(|| {
            let message = format!("invalid {what} RCODE '{text}' for a rcode rule");
            words.wrong(at, message, "a code, such as NXDOMAIN, or its number up to 23")
        })
    };
    let (from, to) = (code(count - 2, "matching")?, code(count - 1, "replacement")?);
    Ok(RcodeRule { matcher: super::ttl::matcher(words, count - 3, "rcode")?, from, to })
}

/// Parses a code.
fn read(text: &str) -> Option<Rcode> {
    let number =
        text.parse().ok().filter(|number: &u32| text.bytes().all(|b| b.is_ascii_digit()) && *number <= MAX_NUMBER);
    let named = || Rcode::COREFILE_NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    number.map(|number| Rcode(number as u16)).or_else(|| named().map(|(_, code)| *code))
}
