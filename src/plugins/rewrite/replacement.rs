//! The text that takes the place of a name, with groups of a regular expression and with metadata.

use smallvec::SmallVec;

use super::groups::Groups;

/// The maximum length of a text in bytes. A name in presentation form has 1,016 at most, so that a longer text is none.
const MAX_TEXT: usize = 1_024;

/// A text that is to become a name. Most fit into the inline buffer.
pub(super) type NewText = SmallVec<[u8; 256]>;

/// The text became too long for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// The replacement of a rule.
#[derive(Debug, PartialEq)]
pub(super) struct Replacement {
    /// As written, in lower case and with a final dot.
    text: String,
    parts: Vec<Part>,
    /// A replaced group may result in another placeholder, since there are further braces.
    nests: bool,
}

#[derive(Debug, PartialEq)]
enum Part {
    Literal(String),
    /// A group of the expression; 0 is the whole match.
    Group(usize),
    /// A metadata label.
    Label(String),
}

/// Appends to a text, up to its maximum length.
pub(super) fn append(text: &mut NewText, more: &str) -> Result<(), TooLong> {
    if text.len() + more.len() > MAX_TEXT {
        return Err(TooLong);
    }
    text.extend_from_slice(more.as_bytes());
    Ok(())
}

impl Replacement {
    /// Returns a replacement without placeholders.
    pub(super) fn literal(text: &str) -> Replacement {
        Replacement { text: text.to_owned(), parts: Vec::new(), nests: false }
    }

    /// Parses a replacement for an expression with this number of groups. A number in braces that is no group stays as
    /// it is.
    pub(super) fn new(text: &str, groups: usize) -> Replacement {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match group_at(rest).filter(|(group, _)| *group <= groups) {
                Some((group, len)) => {
                    push_literal(&mut parts, &mut literal);
                    parts.push(Part::Group(group));
                    rest = &rest[len..];
                }
                None => {
                    literal.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        push_literal(&mut parts, &mut literal);
        let nests = parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains(['{', '}'])));
        Replacement { text: text.to_owned(), parts, nests }
    }

    /// Parses a replacement with metadata labels (CoreDNS `parseNameReplacement`).
    pub(super) fn with_metadata(text: &str, groups: usize) -> Result<Replacement, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) = rest.split_once('{').map_or((rest, None), |(before, after)| (before, Some(after)));
            if before.contains('}') {
                return Err("unmatched closing brace in metadata name replacement".to_owned());
            }
            if !before.is_empty() {
                parts.push(Part::Literal(before.to_lowercase()));
            }
            let Some(after) = after else { break };
            let Some((label, after)) = after.split_once('}') else {
                return Err("unclosed placeholder in metadata name replacement".to_owned());
            };
            parts.push(match label.parse::<i64>() {
                Ok(group) => match usize::try_from(group).ok().filter(|group| *group <= groups) {
                    Some(group) => Part::Group(group),
                    None => return Err(format!("capture group {label} does not exist in name matching pattern")),
                },
                Err(_) if !is_label(label) || label.contains('{') => {
                    return Err(format!("invalid metadata label \"{label}\" in name replacement"));
                }
                Err(_) => Part::Label(label.to_owned()),
            });
            rest = after;
        }
        Ok(Replacement { text: text.to_owned(), parts, nests: false })
    }

    /// Returns the text as written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the texts before and after the first group, if the replacement has no other placeholder.
    pub(super) fn around_first_group(&self) -> Option<(&str, &str)> {
        match self.parts.as_slice() {
            _ if self.nests => None,
            [Part::Group(1), Part::Literal(after)] => Some(("", after)),
            [Part::Literal(before), Part::Group(1), Part::Literal(after)] => Some((before, after)),
            _ => None,
        }
    }

    /// Writes the replacement for a match into `out`. Returns `None` if a metadata label has no value.
    pub(super) fn expand(
        &self, groups: &Groups<'_>, metadata: impl Fn(&str) -> Option<String>, out: &mut NewText,
    ) -> Option<Result<(), TooLong>> {
        let has_labels = self.parts.iter().any(|part| matches!(part, Part::Label(_)));
        let has_braces = || (0..groups.len()).any(|group| groups.get(group).contains(['{', '}']));
        if !has_labels && (self.nests || has_braces()) {
            return Some(self.expand_in_turn(groups, out));
        }
        for part in &self.parts {
            let appended = match part {
                Part::Literal(text) => append(out, text),
                Part::Group(group) => append(out, groups.get(*group)),
                Part::Label(label) => {
                    let value = metadata(label).filter(|value| !value.is_empty())?;
                    append(out, &value.to_lowercase())
                }
            };
            if appended.is_err() {
                return Some(appended);
            }
        }
        Some(Ok(()))
    }

    /// Replaces one group after the other, so that the text of a group may become a placeholder of the next, as in
    /// CoreDNS.
    fn expand_in_turn(&self, groups: &Groups<'_>, out: &mut NewText) -> Result<(), TooLong> {
        let mut text = self.text.clone();
        for group in 0..groups.len() {
            text = text.replace(&format!("{{{group}}}"), groups.get(group));
            if text.len() > MAX_TEXT {
                return Err(TooLong);
            }
        }
        append(out, &text)
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &mut String) {
    if !literal.is_empty() {
        parts.push(Part::Literal(std::mem::take(literal)));
    }
}

/// Returns the number in braces at the start of a text, and its length with the braces. Go writes a number without
/// leading zeros.
fn group_at(text: &str) -> Option<(usize, usize)> {
    let (digits, _) = text.strip_prefix('{')?.split_once('}')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let group = digits.parse().ok().filter(|_| is_number)?;
    Some((group, digits.len() + 2))
}

/// Returns the number of different placeholders `{0}` to `{100}` in a text (CoreDNS `getSubExprUsage`).
pub(super) fn placeholders(text: &str) -> usize {
    (0..=100).filter(|group| text.contains(&format!("{{{group}}}"))).count()
}

/// Returns whether a text is a metadata label: something, a slash, and something (CoreDNS `metadata.IsLabel`).
pub(super) fn is_label(text: &str) -> bool {
    text.find('/').is_some_and(|at| at > 0 && at + 1 < text.len())
}

/// Returns a name in lower case and with a final dot (CoreDNS `plugin.Name.Normalize`).
pub(super) fn normalize(name: &str) -> String {
    qualify(name).to_lowercase()
}

/// Returns a name with a final dot. A dot after a backslash is part of a label (miekg/dns `Fqdn`).
pub(super) fn qualify(name: &str) -> String {
    let escapes = name.strip_suffix('.').map(|rest| rest.bytes().rev().take_while(|byte| *byte == b'\\').count());
    match escapes {
        Some(escapes) if escapes % 2 == 0 => name.to_owned(),
        _ => format!("{name}."),
    }
}
