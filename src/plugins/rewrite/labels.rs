//! Changes of names in wire form, for rules whose texts are whole labels: no text is written or parsed.
//!
//! The result is that of the text form. Where the wire form does not decide, as in the middle of a label or at an
//! escaped dot, the caller has to use the text.

use super::matching::Matcher;
use super::replacement::Replacement;
use crate::wire::name::MAX_LEN;
use crate::wire::{Name, NameBuf};

/// A change of a name in wire form.
#[derive(Debug, PartialEq)]
pub(super) struct LabelChange {
    place: LabelPlace,
    /// What a name has at this place, in lower case; with the root where it is the end of the name.
    from: Box<[u8]>,
    /// What takes its place.
    to: Box<[u8]>,
    /// What comes before the whole.
    front: Box<[u8]>,
}

/// The part of a name that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LabelPlace {
    Whole,
    Start,
    Within {
        /// There is a label in front.
        is_below: bool,
    },
    End {
        /// There is a label in front.
        is_below: bool,
        /// A name that does not end like this may match as text.
        may_be_elsewhere: bool,
    },
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelMatch {
    /// The name does not match.
    No,
    /// Only the text decides.
    AsText,
    /// The name matches from this offset on.
    At(usize),
}

impl LabelChange {
    /// Returns the change of a rule, if its texts are whole labels.
    pub(super) fn of(matcher: &Matcher, to: &Replacement) -> Option<LabelChange> {
        let change = |place, from, to| Some(LabelChange { place, from, to, front: Box::default() });
        match matcher {
            Matcher::Exact(whole) => change(LabelPlace::Whole, labels(whole)?, labels(to.as_str())?),
            Matcher::Prefix(start) => {
                change(LabelPlace::Start, without_root(&labels(start)?), without_root(&labels(to.as_str())?))
            }
            Matcher::Suffix(end) => LabelChange::of_end(end, "", to.as_str(), false),
            Matcher::Substring(part) => {
                let (is_below, from, to) = below(part, to.as_str())?;
                // The digits may be those of an escape.
                if !is_below && starts_with_digit(from) {
                    return None;
                }
                change(LabelPlace::Within { is_below }, without_root(&labels(from)?), without_root(&to))
            }
            Matcher::Regex(expression) => {
                let (ending, is_anchored) = expression.ending()?;
                let (before, after) = to.around_first_group()?;
                let end = if ending.ends_with('.') || is_anchored { ending.to_owned() } else { format!("{ending}.") };
                LabelChange::of_end(&end, before, after, !is_anchored)
            }
        }
    }

    /// Returns the change of the end `from` to `to`, with `before` in front of the whole.
    pub(super) fn of_end(from: &str, before: &str, to: &str, may_be_elsewhere: bool) -> Option<LabelChange> {
        let (is_below, from, to) = below(from, to)?;
        // The digits may be those of an escape.
        let may_be_elsewhere = may_be_elsewhere || !is_below && starts_with_digit(from);
        let place = LabelPlace::End { is_below, may_be_elsewhere };
        let front = if before.is_empty() { Box::default() } else { without_root(&labels(before)?) };
        Some(LabelChange { place, from: labels(from)?, to, front })
    }

    /// Returns the length of what a name has to have, in bytes.
    pub(super) fn matched_len(&self) -> usize {
        self.from.len()
    }

    /// Compares a name in lower case.
    #[inline(always)]
    pub(super) fn find(&self, name: Name<'_>) -> LabelMatch {
        // Most names differ in the first byte already.
        self.find_by(name, |part, from| part.first() == from.first() && part == from)
    }

    /// Compares a name in any letter case.
    pub(super) fn find_ignoring_case(&self, name: Name<'_>) -> LabelMatch {
        self.find_by(name, |part, from| part.eq_ignore_ascii_case(from))
    }

    #[inline(always)]
    fn find_by(&self, name: Name<'_>, is_same: impl Fn(&[u8], &[u8]) -> bool) -> LabelMatch {
        let (wire, from) = (name.as_wire(), &*self.from);
        let Some(at) = wire.len().checked_sub(from.len()) else {
            let is_open = matches!(self.place, LabelPlace::End { may_be_elsewhere: true, .. });
            return if is_open { LabelMatch::AsText } else { LabelMatch::No };
        };
        match self.place {
            LabelPlace::Whole if at == 0 && is_same(wire, from) => LabelMatch::At(0),
            LabelPlace::Start if is_same(&wire[..from.len()], from) => LabelMatch::At(0),
            LabelPlace::Whole | LabelPlace::Start => LabelMatch::No,
            LabelPlace::Within { is_below } => find_within(wire, from, at, is_below),
            LabelPlace::End { is_below, may_be_elsewhere } => match is_same(&wire[at + 1..], &from[1..]) {
                // A label of this length has to start here.
                true if wire[at] == from[0] && name.has_label_at(at) && (at > 0 || !is_below) => LabelMatch::At(at),
                // The text may have an escaped dot here, or the end may start within a label.
                true if at > 0 => LabelMatch::AsText,
                _ if may_be_elsewhere => LabelMatch::AsText,
                _ => LabelMatch::No,
            },
        }
    }

    /// Returns the parts of the changed name; [`LabelChange::find`] has found `at` in `name`. Returns `None` if they
    /// are too long for a name.
    #[inline]
    pub(super) fn parts<'n>(&'n self, name: &'n [u8], at: usize) -> Option<[&'n [u8]; 4]> {
        let (from, to, front) = (&self.from, &*self.to, &*self.front);
        let len = front.len() + name.len() - from.len() + to.len();
        (len <= MAX_LEN).then(|| [front, &name[..at], to, &name[at + from.len()..]])
    }

    /// Writes the changed name, and returns its length; [`LabelChange::find`] has found `at` in `name`. Returns `None`
    /// if it is too long for a name.
    pub(super) fn write(&self, name: &[u8], at: usize, out: &mut [u8; MAX_LEN]) -> Option<usize> {
        let mut len = 0;
        for part in self.parts(name, at)? {
            out[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        Some(len)
    }
}

/// Finds labels in a name in wire form, where they may follow any label, or only be below one. At `end` and
/// behind it, there is no place for them and the root.
fn find_within(wire: &[u8], from: &[u8], end: usize, is_below: bool) -> LabelMatch {
    let (first_len, rest) = (usize::from(from[0]), &from[1..]);
    let (mut found, mut at) = (LabelMatch::No, 0);
    while at < end {
        let len = usize::from(wire[at]);
        // The text may start within a label, perhaps after an escaped dot, or be repeated.
        if len >= first_len && wire[at + 1 + len - first_len..].starts_with(rest) {
            if len > first_len || found != LabelMatch::No {
                return LabelMatch::AsText;
            }
            if at > 0 || !is_below {
                found = LabelMatch::At(at);
            }
        }
        at += 1 + len;
    }
    found
}

/// Returns whether both the text that is replaced and its replacement are below a label, and the labels of the one as
/// text and of the other in wire form, with the root.
fn below<'t>(from: &'t str, to: &str) -> Option<(bool, &'t str, Box<[u8]>)> {
    match (from.strip_prefix('.'), to.strip_prefix('.')) {
        (Some(from), Some("")) => Some((true, from, [0].into())),
        (Some(from), Some(to)) => Some((true, from, labels(to)?)),
        (None, None) => Some((false, from, labels(to)?)),
        _ => None,
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

/// Returns the wire form of a text that is a name other than the root, in lower case and with its final dot, without
/// bytes that the presentation form of a name escapes.
fn labels(text: &str) -> Option<Box<[u8]>> {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if text.len() < 2 || !text.ends_with('.') || !text.bytes().all(is_plain) {
        return None;
    }
    NameBuf::from_text(text).ok().map(|name| name.as_wire().into())
}

fn without_root(labels: &[u8]) -> Box<[u8]> {
    labels[..labels.len() - 1].into()
}

#[cfg(test)]
mod tests {
    use super::super::matching::{MatchExpression, MatchKind};
    use super::super::replacement::{NewText, normalize};
    use super::*;
    use crate::plugins::regexp::Pattern;
    use crate::wire::name::NameText;

    fn rule(kind: MatchKind, from: &str, to: &str) -> (Matcher, Replacement) {
        if kind != MatchKind::Regex {
            return (kind.literal(normalize(from)), Replacement::literal(&normalize(to)));
        }
        let expression = MatchExpression::new(Pattern::compile(from).expect("an expression"));
        let to = Replacement::new(&normalize(to), expression.groups());
        (Matcher::Regex(expression), to)
    }

    /// Returns the name that the text form makes: the error is a text that is no name.
    fn by_text((matcher, to): &(Matcher, Replacement), name: Name<'_>) -> Option<Result<Vec<u8>, ()>> {
        let mut text = NewText::new();
        let made = matcher.replace(NameText::new(name).as_str(), to, |_| None, &mut text)?;
        let name = made.map_err(|_| ()).and_then(|()| {
            let text = std::str::from_utf8(&text).map_err(|_| ())?;
            NameBuf::from_text(text).map_err(|_| ())
        });
        Some(name.map(|name| name.as_wire().to_vec()))
    }

    /// Compares both forms for a name. Returns whether the wire form decides.
    fn check(rule: &(Matcher, Replacement), change: &LabelChange, name: Name<'_>) -> bool {
        let expected = by_text(rule, name);
        match change.find(name) {
            LabelMatch::No => assert_eq!(expected, None, "{rule:?} {name}"),
            LabelMatch::AsText => return false,
            LabelMatch::At(at) => {
                let mut out = [0; MAX_LEN];
                match change.write(name.as_wire(), at, &mut out) {
                    Some(len) => assert_eq!(expected, Some(Ok(out[..len].to_vec())), "{rule:?} {name}"),
                    None => assert_eq!(expected, Some(Err(())), "{rule:?} {name}"),
                }
            }
        }
        true
    }

    #[test]
    fn rules_of_whole_labels_are_decided_in_wire_form() {
        for (kind, from, to, names) in [
            (MatchKind::Exact, "a.example", "b.test", &["a.example.", "x.a.example.", "example.", "."][..]),
            (MatchKind::Prefix, "a", "b.c", &["a.example.", "ab.example.", "a."]),
            (MatchKind::Suffix, "example", "test", &["a.example.", "example.", "a.other.", "example.a.", "."]),
            (MatchKind::Suffix, ".example", ".", &["a.example.", "example.", "a.b.example.", "a."]),
            (MatchKind::Substring, ".example", ".a.b", &["a.example.", "a.example.c.", "example.", "exampl.e.", "."]),
            (MatchKind::Substring, ".b.example", ".", &["a.b.example.c.", "b.example.", "a.b.example.", "a.b.c."]),
            (MatchKind::Substring, "example", "b", &["a.example.c.", "example.", "exampl.example2.a."]),
            (MatchKind::Regex, r"^(.*)\.example\.$", "{1}.svc.test", &["a.b.example.", "a.test.", "example."]),
            (MatchKind::Regex, r"(.*)\.example", "x.{1}.svc.test.", &["a.example."]),
        ] {
            let rule = rule(kind, from, to);
            let change = LabelChange::of(&rule.0, &rule.1).unwrap_or_else(|| panic!("{from}"));
            for name in names {
                let name = NameBuf::from_text(name).expect("a name");
                assert!(check(&rule, &change, name.as_name()), "{from} {name}");
            }
        }
        for (kind, from, to) in [
            (MatchKind::Suffix, ".example", "test"),
            (MatchKind::Suffix, "a\\.b", "test"),
            (MatchKind::Substring, ".a", "b"),
            (MatchKind::Substring, "1a", "b"),
            (MatchKind::Exact, ".", "b"),
            (MatchKind::Exact, "a..b", "b"),
            (MatchKind::Regex, r"(.*)\.example", "{0}.test"),
            (MatchKind::Regex, r"(.*)\.example", "{1}{1}.test"),
            (MatchKind::Regex, r"(.+)\.example", "{1}.test"),
        ] {
            let (matcher, to) = rule(kind, from, to);
            assert_eq!(LabelChange::of(&matcher, &to), None, "{from}");
        }
    }

    proptest::proptest! {
        #[test]
        fn both_forms_give_the_same_name(
            kind in 0..5_usize, from in r"\.?[ab0]{1,3}(\.[ab0]{1,2}){0,2}\.?", to in r"\.?[ab]{1,2}(\.[ab]{1,70}){0,3}",
            labels in proptest::collection::vec(proptest::collection::vec(
                proptest::prop_oneof![10 => 96..99_u8, 4 => 48..50_u8, 3 => 46..47_u8, 1 => 0..255_u8], 1..4,
            ), 0..70),
            ends_like_rule in proptest::bool::ANY,
        ) {
            let kind = [MatchKind::Exact, MatchKind::Prefix, MatchKind::Suffix, MatchKind::Substring, MatchKind::Regex][kind];
            let (from, to) = match kind {
                MatchKind::Regex => (format!("^(.*){}", from.replace('.', r"\.")), format!("x.{{1}}{to}")),
                _ => (from.clone(), to),
            };
            let rule = rule(kind, &from, &to);
            if let Some(change) = LabelChange::of(&rule.0, &rule.1) {
                let mut wire: Vec<u8> = Vec::new();
                for label in &labels {
                    wire.push(label.len() as u8);
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                }
                if kind == MatchKind::Prefix && ends_like_rule {
                    wire.splice(0..0, change.from.iter().copied());
                }
                if kind == MatchKind::Substring && ends_like_rule {
                    let middle: usize = labels[..labels.len() / 2].iter().map(|label| 1 + label.len()).sum();
                    wire.splice(middle..middle, change.from.iter().copied());
                }
                match kind {
                    MatchKind::Suffix | MatchKind::Regex if ends_like_rule => wire.extend_from_slice(&change.from),
                    MatchKind::Exact if ends_like_rule => wire = change.from.to_vec(),
                    _ => wire.push(0),
                }
                if let Ok(name) = Name::from_wire(&wire) {
                    check(&rule, &change, name);
                }
            }
        }
    }
}
