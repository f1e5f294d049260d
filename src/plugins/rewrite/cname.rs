//! `cname`: changes the target of a CNAME in the answer, and looks up the new target.

use super::matching::{MatchKind, Matcher};
use super::replacement::{NewText, Replacement, TooLong, normalize};
use super::words::{RuleError, Words};

/// A rule about targets of CNAMEs.
#[derive(Debug, PartialEq)]
pub(super) struct CnameRule {
    matcher: Matcher,
    to: Replacement,
}

impl CnameRule {
    /// Writes what takes the place of a target into `out`, if the target matches.
    pub(super) fn replace(&self, target: &str, out: &mut NewText) -> Option<Result<(), TooLong>> {
        self.matcher.replace(target, &self.to, |_| None, out)
    }
}

/// Reads the words after `cname` (CoreDNS `newCNAMERule`).
pub(super) fn parse(words: &mut Words<'_>) -> Result<CnameRule, RuleError> {
    let count = words.rest().len();
    let kind = match count {
        2 => MatchKind::Exact,
        3 => MatchKind::of(words.text(0)).ok_or_else(|| {
            let message = format!("unknown cname rewrite type: {}", words.text(0).to_lowercase());
            words.wrong(0, message, MatchKind::NAMES)
        })?,
        _ => {
            let message = format!("too few ({count}) arguments for a cname rule");
            return Err(words.wrong_count(3, message, "a target and another one"));
        }
    };
    let (from, to) = (words.text(count - 2).to_lowercase(), words.text(count - 1).to_lowercase());
    Ok(match kind {
        MatchKind::Exact => {
            words.check_name(count - 1, &normalize(&to))?;
            CnameRule { matcher: Matcher::Exact(normalize(&from)), to: Replacement::literal(&normalize(&to)) }
        }
        MatchKind::Regex => {
            let expression = words.expression_of(count - 2, &from)?;
            let to = Replacement::new(&to, expression.groups());
            CnameRule { matcher: Matcher::Regex(expression), to }
        }
        kind => CnameRule { matcher: kind.literal(from), to: Replacement::literal(&to) },
    })
}
