//! `name`: changes the name of a query, and names of the reply back.

use super::draft::{Draft, InvalidName};
use super::labels::LabelChange;
use super::matching::{MatchExpression, MatchKind, Matcher};
use super::replacement::{NewText, Replacement, TooLong, normalize, placeholders, qualify};
use super::words::{RuleError, Words};
use crate::chain::Exchange;
use crate::plugins::regexp;

/// A rule about names.
#[derive(Debug, PartialEq)]
pub(super) struct NameRule {
    /// The names of queries that are changed.
    pub(super) matcher: Matcher,
    /// The replacement of what matches; of an expression, that of the whole name.
    to: Replacement,
    /// The same change in wire form, if that is possible.
    pub(super) labels: Option<LabelChange>,
    /// How names of the reply are changed back without expressions of the user.
    pub(super) turn_back: TurnBack,
    /// Further changes of the reply, in file order.
    pub(super) answers: Vec<AnswerRule>,
}

/// How a rule changes names of the reply back by itself.
#[derive(Debug, PartialEq)]
pub(super) enum TurnBack {
    /// Not at all.
    No,
    /// The changed name, and names below it, become the name before the change.
    Name,
    /// The end of a name that the rule has put there becomes the end that it has replaced.
    Suffix {
        /// The end that the rule puts there.
        from: String,
        /// The end that it replaces.
        to: String,
        /// The same change in wire form, if that is possible.
        labels: Option<LabelChange>,
    },
}

/// A change of the reply's names that a rule asks for with `answer name` or `answer value`.
#[derive(Debug, PartialEq)]
pub(super) struct AnswerRule {
    /// Which names are changed.
    pub(super) part: RecordPart,
    /// Which of them.
    pub(super) expression: MatchExpression,
    /// Their replacement.
    pub(super) to: Replacement,
}

/// The part of a record that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordPart {
    /// The owner.
    Owner,
    /// The data.
    Data,
}

impl NameRule {
    /// Changes the name of a query if it matches. Returns whether it does.
    pub(super) fn apply(&self, draft: &mut Draft<'_>, exchange: &Exchange<'_>) -> Result<bool, InvalidName> {
        let turns_back = self.turn_back != TurnBack::No;
        let applies = match self.labels.as_ref().and_then(|change| draft.change_labels(change, turns_back)) {
            Some(applies) => applies,
            None => self.apply_to_text(draft, exchange)?,
        };
        draft.has_response_rules |= applies && (turns_back || !self.answers.is_empty());
        Ok(applies)
    }

    /// Changes the name of a query in presentation form, if it matches. Returns whether it does.
    #[inline(never)]
    fn apply_to_text(&self, draft: &mut Draft<'_>, exchange: &Exchange<'_>) -> Result<bool, InvalidName> {
        let mut text = NewText::new();
        let metadata = |label: &str| exchange.metadata(label);
        match self.matcher.replace(draft.text(), &self.to, metadata, &mut text) {
            None => return Ok(false),
            // The rest does not fit; what is shown of it is enough to find the rule.
            Some(Err(TooLong)) => return Err(InvalidName(String::from_utf8_lossy(&text).into())),
            Some(Ok(())) => {}
        }
        draft.set_name(&text, self.turn_back != TurnBack::No)?;
        Ok(true)
    }
}

/// Reads the words after `name` (CoreDNS `newNameRule`).
pub(super) fn parse(words: &mut Words<'_>) -> Result<NameRule, RuleError> {
    let args = words.rest();
    let kind = match args.len() {
        0 | 1 => return Err(words.missing("too few arguments for a name rule", "a name and another name")),
        2 => MatchKind::Exact,
        _ => match MatchKind::of(words.text(0)) {
            Some(kind) => kind,
            None => {
                let message = format!(
                    "name rule supports only exact, prefix, suffix, substring, and regex name matching, received: {}",
                    words.text(0)
                );
                return Err(words.wrong(0, message, MatchKind::NAMES));
            }
        },
    };
    let (from_at, to_at) = if args.len() == 2 { (0, 1) } else { (1, 2) };
    let (from, to) = (words.text(from_at), words.text(to_at));
    let with_metadata = args.len() > 3 && words.text(3) == "metadata";
    if with_metadata && kind != MatchKind::Regex {
        let message = "metadata is only supported for regex name rules";
        return Err(words.wrong(3, message, "'answer', or nothing"));
    }
    let answers_at = if with_metadata { 4 } else { 3 };
    let (auto, answers) =
        if args.len() > answers_at { parse_answers(words, answers_at, kind)? } else { (false, vec![]) };
    let turn_back = match kind {
        MatchKind::Exact => TurnBack::Name,
        MatchKind::Suffix if auto => {
            let (from, to) = (normalize(to), normalize(from));
            TurnBack::Suffix { labels: LabelChange::of_end(&from, "", &to, false), from, to }
        }
        _ if auto => TurnBack::Name,
        _ => TurnBack::No,
    };
    let (matcher, to) = match kind {
        MatchKind::Exact => {
            // CoreDNS takes the target for an expression here, and refuses some that are none.
            let groups = words.groups_of(to_at, &normalize(to))?;
            words.check_groups(from_at, &normalize(from), &normalize(to), groups)?;
            words.check_name(to_at, &normalize(to))?;
            (Matcher::Exact(normalize(from)), Replacement::literal(&normalize(to)))
        }
        MatchKind::Prefix | MatchKind::Suffix | MatchKind::Substring => {
            (kind.literal(normalize(from)), Replacement::literal(&normalize(to)))
        }
        MatchKind::Regex => {
            let expression = words.expression(from_at)?;
            let to = match with_metadata {
                true => Replacement::with_metadata(&qualify(to), expression.groups())
                    .map_err(|message| words.wrong(to_at, message, "text, {0}, {1} …, and {plugin/label}"))?,
                false => {
                    words.check_groups(to_at, to, from, expression.groups())?;
                    Replacement::new(&normalize(to), expression.groups())
                }
            };
            (Matcher::Regex(expression), to)
        }
    };
    let labels = LabelChange::of(&matcher, &to);
    Ok(NameRule { matcher, to, labels, turn_back, answers })
}

/// Reads `answer …` from the word at `at` on (CoreDNS `parseAnswerRules`). Returns whether `auto` is among it.
fn parse_answers(words: &mut Words<'_>, mut at: usize, kind: MatchKind) -> Result<(bool, Vec<AnswerRule>), RuleError> {
    const EXPECTED: &str = "'answer auto', 'answer name FROM TO' or 'answer value FROM TO'";
    let kind = format!("{kind:?}").to_lowercase();
    let len = words.rest().len();
    if len - at < 2 {
        return Err(words.wrong(at, format!("invalid arguments for {kind} rule"), EXPECTED));
    }
    if words.text(at) != "answer" {
        let message = format!("exceeded the number of arguments for a non-answer rule argument for {kind} rule");
        return Err(words.wrong(at, message, EXPECTED));
    }
    let (start, mut auto, mut answers) = (at, false, Vec::new());
    while at < len {
        if words.text(at) == "answer" {
            at += 1;
        }
        if at == len {
            return Err(words.missing(&format!("type missing for answer rule for {kind} rule"), EXPECTED));
        }
        let (word, word_at) = (words.text(at), at);
        at += 1;
        let part = match word {
            "auto" => {
                auto = true;
                continue;
            }
            "name" => RecordPart::Owner,
            "value" => RecordPart::Data,
            _ => {
                let message = format!("invalid type \"{word}\" for answer rule for {kind} rule");
                return Err(words.wrong(word_at, message, "auto, name or value"));
            }
        };
        if len - at < 2 {
            let message = format!("{word} answer rule for {kind} rule: 2 arguments required");
            return Err(words.wrong(word_at, message, "an expression and its replacement"));
        }
        let expression = words.expression(at)?;
        let (from, to) = (words.text(at), words.text(at + 1));
        words.check_groups(at + 1, to, from, expression.groups())?;
        let to = Replacement::new(&normalize(to), expression.groups());
        answers.push(AnswerRule { part, expression, to });
        at += 2;
    }
    if auto && answers.iter().any(|answer| answer.part == RecordPart::Owner) {
        let message = "auto name answer rule cannot be combined with explicit name anwer rules";
        return Err(words.wrong(start, message, "'answer auto' or 'answer name'"));
    }
    Ok((auto, answers))
}

impl Words<'_> {
    /// Checks that a replacement uses no more groups than its expression has (CoreDNS `isValidRegexPattern`).
    fn check_groups(&self, at: usize, to: &str, from: &str, groups: usize) -> Result<(), RuleError> {
        if placeholders(to) <= groups {
            return Ok(());
        }
        let message = format!(
            "the rewrite regex pattern ({to}) uses more subexpressions than its corresponding matching regex pattern \
             ({from})"
        );
        Err(self.wrong(at, message, "groups that the expression has"))
    }

    /// Returns the number of groups of a text that is not used as an expression, but must be one.
    fn groups_of(&self, at: usize, text: &str) -> Result<usize, RuleError> {
        if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Ok(0);
        }
        match regexp::compile(text) {
            Ok(regex) => Ok(regex.captures_len() - 1),
            Err(error) => Err(self.wrong(at, error.to_string(), "a text that is a regular expression too")),
        }
    }
}
