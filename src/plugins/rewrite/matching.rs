//! Which names a rule is about: the five ways to match that most kinds of rules have.

use super::groups::{Groups, Places};
use super::replacement::{NewText, Replacement, TooLong, append};
use crate::plugins::regexp::Pattern;

/// Matches the presentation form of a name.
#[derive(Debug, PartialEq)]
pub(super) enum Matcher {
    /// The whole name.
    Exact(String),
    /// The beginning of the name.
    Prefix(String),
    /// The end of the name, which may start within a label.
    Suffix(String),
    /// Any part of the name.
    Substring(String),
    /// A regular expression, which may match a part of the name.
    Regex(MatchExpression),
}

/// A way to match, as the Corefile names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatchKind {
    Exact,
    Prefix,
    Suffix,
    Substring,
    Regex,
}

impl MatchKind {
    /// The words, for messages.
    pub(super) const NAMES: &'static str = "exact, prefix, suffix, substring or regex";

    /// Returns the kind of this name, in any letter case.
    pub(super) fn of(text: &str) -> Option<MatchKind> {
        let kinds = [
            ("exact", MatchKind::Exact),
            ("prefix", MatchKind::Prefix),
            ("suffix", MatchKind::Suffix),
            ("substring", MatchKind::Substring),
            ("regex", MatchKind::Regex),
        ];
        kinds.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, kind)| kind)
    }

    /// Returns the matcher of this kind for a text that is no expression.
    pub(super) fn literal(self, text: String) -> Matcher {
        match self {
            MatchKind::Exact | MatchKind::Regex => Matcher::Exact(text),
            MatchKind::Prefix => Matcher::Prefix(text),
            MatchKind::Suffix => Matcher::Suffix(text),
            MatchKind::Substring => Matcher::Substring(text),
        }
    }
}

impl Matcher {
    /// Returns whether a name matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Matcher::Exact(whole) => name == whole,
            Matcher::Prefix(start) => name.starts_with(start.as_str()),
            Matcher::Suffix(end) => name.ends_with(end.as_str()),
            Matcher::Substring(part) => name.contains(part.as_str()),
            Matcher::Regex(expression) => expression.pattern.regex.is_match(name),
        }
    }
}

impl Matcher {
    /// Writes what takes the place of a matching name into `out`: of an expression, the whole name is replaced; else
    /// the part that matches. Returns `None` if the name does not match or metadata has no value.
    pub(super) fn replace(
        &self, name: &str, to: &Replacement, metadata: impl Fn(&str) -> Option<String>, out: &mut NewText,
    ) -> Option<Result<(), TooLong>> {
        let text = to.as_str();
        let mut join = |parts: &[&str]| parts.iter().try_for_each(|part| append(out, part));
        match self {
            Matcher::Exact(whole) => (name == whole).then(|| join(&[text])),
            Matcher::Prefix(start) => name.strip_prefix(start.as_str()).map(|rest| join(&[text, rest])),
            Matcher::Suffix(end) => name.strip_suffix(end.as_str()).map(|rest| join(&[rest, text])),
            Matcher::Substring(part) => name.contains(part.as_str()).then(|| {
                let mut pieces = name.split(part.as_str());
                join(&[pieces.next().unwrap_or_default()])?;
                pieces.try_for_each(|piece| join(&[text, piece]))
            }),
            Matcher::Regex(expression) => expression.with_groups(name, |groups| to.expand(groups, metadata, out))?,
        }
    }
}

/// A regular expression.
#[derive(Debug, PartialEq)]
pub(super) struct MatchExpression {
    pattern: Pattern,
    /// How to match without the automaton, if the expression is of the most common form.
    ending: Option<Ending>,
}

impl MatchExpression {
    pub(super) fn new(pattern: Pattern) -> MatchExpression {
        MatchExpression { ending: Ending::of(&pattern.text), pattern }
    }

    /// Returns the number of groups, without the whole match.
    pub(super) fn groups(&self) -> usize {
        self.pattern.regex.captures_len() - 1
    }

    /// Returns `TEXT` of an expression `(.*)TEXT`, and whether it has to be at the end of the name.
    pub(super) fn ending(&self) -> Option<(&str, bool)> {
        self.ending.as_ref().map(|ending| (ending.text.as_str(), ending.is_anchored))
    }

    /// Calls a function with the groups of the first match, if there is one.
    pub(super) fn with_groups<T>(&self, text: &str, run: impl FnOnce(&Groups<'_>) -> T) -> Option<T> {
        if let Some(ending) = &self.ending {
            return ending.find(text).map(|places| run(&Groups { text, places }));
        }
        let places = self.pattern.find(text)?;
        Some(run(&Groups { text, places: Places::Found(&places) }))
    }
}

/// An expression `(.*)TEXT`, perhaps with `^` in front and `$` at the end, where `TEXT` stands for itself: a name that
/// ends like a zone, which most rules are about.
#[derive(Debug, PartialEq)]
struct Ending {
    text: String,
    /// The text has to be at the end of the name.
    is_anchored: bool,
}

impl Ending {
    /// Parses an expression, if it is of this form.
    fn of(expression: &str) -> Option<Ending> {
        let rest = expression.strip_prefix('^').unwrap_or(expression).strip_prefix("(.*)")?;
        let (rest, is_anchored) = rest.strip_suffix('$').map_or((rest, false), |rest| (rest, true));
        let mut text = String::new();
        let mut chars = rest.chars();
        while let Some(next) = chars.next() {
            match next {
                '\\' => text.push(chars.next().filter(|escaped| matches!(escaped, '.' | '-'))?),
                'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => text.push(next),
                _ => return None,
            }
        }
        Some(Ending { text, is_anchored })
    }

    /// Finds the text. The group takes as much as it can, so that the last occurrence counts.
    fn find(&self, name: &str) -> Option<Places<'static>> {
        let at = match self.is_anchored {
            true => name.strip_suffix(self.text.as_str())?.len(),
            false => name.rfind(self.text.as_str())?,
        };
        Some(Places::Ending(at, at + self.text.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::regexp;

    proptest::proptest! {
        #[test]
        fn the_most_common_form_matches_as_the_automaton_does(
            start in r"\^?", text in r"(\\\.|\\-|[ab._$*]){0,5}", end in r"\$?", name in r"[ab._-]{0,9}",
        ) {
            let expression = format!("{start}(.*){text}{end}");
            let Ok(regex) = regexp::compile(&expression) else { return Ok(()) };
            let groups = regex.captures(&name).map(|found| (found[0].to_owned(), found[1].to_owned()));
            let pattern = Pattern::new(expression.clone(), regex);
            let expression_found = MatchExpression::new(pattern)
                .with_groups(&name, |groups| (groups.get(0).to_owned(), groups.get(1).to_owned()));
            assert_eq!(expression_found, groups, "{expression} {name}");
        }
    }

    #[test]
    fn only_the_most_common_form_is_matched_without_the_automaton() {
        for expression in [r"(.*)\.a\.test", r"^(.*)\.a-b\.$", "(.*)", "^(.*)$"] {
            assert!(Ending::of(expression).is_some(), "{expression}");
        }
        for expression in [r"(.*)a.test", r"(.+)\.a", r"x(.*)", r"(.*)\d", r"(.*)(a)", r"(.*)a+", r"(.*)\", "(?i)(.*)a"]
        {
            assert!(Ending::of(expression).is_none(), "{expression}");
        }
    }
}
