//! Regular expressions in Go's syntax (RE2), for directives that have them.
//!
//! The syntax of the `regex` crate is nearly the same. Where it differs, the expression is translated: in Go a brace
//! that starts no repetition is literal, and so are `[`, `&` and `~` in a class; `\Q…\E` quotes; `\d`, `\w`, `\s` and
//! `\b` are about ASCII only. Unlike Go, this accepts a repetition of a repetition (`a**`).

use parking_lot::Mutex;
use regex::{CaptureLocations, Regex, RegexBuilder};

/// The maximum length of an expression in bytes, as in CoreDNS.
const MAX_LEN: usize = 10_000;
/// The maximum size of a compiled expression in bytes: a short one such as `a{1000}{1000}` can be huge.
const MAX_COMPILED: usize = 4 * 1024 * 1024;
/// The minimum and maximum size of the states that a thread retains of an expression between matches, in bytes: what
/// suffices for a small one, and the limit of the `regex` crate.
const MIN_STATES: usize = 64 * 1024;
const MAX_STATES: usize = 2 * 1024 * 1024;
/// The number of buffers for groups that an expression retains: one for each thread that matches at the same time.
const MAX_BUFFERS: usize = 64;
/// The maximum nesting of groups; Go's is 1,000.
const MAX_NESTING: u32 = 250;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegexpError {
    /// The expression is longer than CoreDNS allows; its length in bytes.
    #[error("regex pattern too long: {0} > {MAX_LEN}")]
    Long(usize),
    /// The compiled expression needs too much memory.
    #[error("regex pattern needs more than {MAX_COMPILED} bytes when compiled")]
    Large,
    /// The expression is invalid, or uses a feature that the `regex` crate does not have.
    #[error("error parsing regexp: {reason} at character {at}")]
    Syntax {
        /// The reason.
        reason: String,
        /// The position in characters in the expression as written, from 1.
        at: usize,
    },
}

/// An expression with the text that it was read from, and with buffers for the places of its groups, so that a match
/// allocates nothing.
#[derive(Debug)]
pub struct Pattern {
    /// As written.
    pub text: String,
    /// Compiled.
    pub regex: Regex,
    /// Buffers that no match uses. Never waited for: a thread that does not get the lock makes a buffer of its own.
    buffers: Mutex<Vec<CaptureLocations>>,
}

/// The places of the groups of a match.
pub struct FoundGroups<'p> {
    pattern: &'p Pattern,
    /// `None` once the buffer is returned.
    places: Option<CaptureLocations>,
}

impl FoundGroups<'_> {
    /// Returns where a group starts and ends; 0 is the whole match. `None` if it did not take part.
    pub fn get(&self, group: usize) -> Option<(usize, usize)> {
        self.places.as_ref()?.get(group)
    }

    /// Returns the number of groups, with the whole match.
    pub fn count(&self) -> usize {
        self.places.as_ref().map_or(0, CaptureLocations::len)
    }
}

impl Drop for FoundGroups<'_> {
    fn drop(&mut self) {
        if let Some(places) = self.places.take()
            && let Some(mut buffers) = self.pattern.buffers.try_lock()
            && buffers.len() < MAX_BUFFERS
        {
            buffers.push(places);
        }
    }
}

impl Clone for Pattern {
    fn clone(&self) -> Pattern {
        Pattern::new(self.text.clone(), self.regex.clone())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// Compiles an expression.
    pub(super) fn compile(text: &str) -> Result<Pattern, RegexpError> {
        compile(text).map(|regex| Pattern::new(text.to_owned(), regex))
    }

    /// Creates a pattern of a compiled expression.
    pub(super) fn new(text: String, regex: Regex) -> Pattern {
        Pattern { text, regex, buffers: Mutex::default() }
    }

    /// Finds the first match in a text.
    pub fn find(&self, text: &str) -> Option<FoundGroups<'_>> {
        let unused = self.buffers.try_lock().and_then(|mut buffers| buffers.pop());
        let mut places = unused.unwrap_or_else(|| self.regex.capture_locations());
        let is_match = self.regex.captures_read(&mut places, text).is_some();
        let found = FoundGroups { pattern: self, places: Some(places) };
        is_match.then_some(found)
    }
}

/// Compiles an expression.
pub(super) fn compile(text: &str) -> Result<Regex, RegexpError> {
    compile_within(text, MAX_COMPILED)
}

/// Compiles an expression that takes at most `size` bytes when compiled, and about as much while it matches.
pub(super) fn compile_within(text: &str, size: usize) -> Result<Regex, RegexpError> {
    if text.len() > MAX_LEN {
        return Err(RegexpError::Long(text.len()));
    }
    let translated = translate(text);
    let mut builder = RegexBuilder::new(&translated);
    builder.octal(true).size_limit(size.min(MAX_COMPILED)).nest_limit(MAX_NESTING);
    builder.dfa_size_limit(size.clamp(MIN_STATES, MAX_STATES));
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => RegexpError::Large,
        error => syntax(text, &translated, &error.to_string()),
    })
}

/// Converts an error of the `regex` crate, which is a drawing of several lines: the last line has the reason, and the
/// line with carets the position.
fn syntax(text: &str, translated: &str, drawing: &str) -> RegexpError {
    let last = drawing.lines().last().unwrap_or_default();
    let reason = last.strip_prefix("error: ").unwrap_or(last).to_owned();
    // Below the expression, which may begin with one itself.
    let carets = drawing.lines().skip(2).find(|line| line.trim_start().starts_with('^'));
    let indent = drawing.lines().nth(1).map_or(0, |line| line.len() - line.trim_start().len());
    let at = carets.and_then(|line| line.find('^')).map_or(0, |at| at.saturating_sub(indent));
    // The position in the text as written is the length of the shortest prefix whose translation is that long.
    let shortest = |at| text.char_indices().position(|(end, _)| translate(&text[..end]).chars().count() >= at);
    let end = text.chars().count();
    let at = if text == translated { at.min(end) } else { shortest(at).unwrap_or(end) };
    RegexpError::Syntax { reason, at: at + 1 }
}

/// Translates an expression to the syntax of the `regex` crate.
fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text;
    let mut in_class = false;
    while let Some(first) = rest.chars().next() {
        let mut len = first.len_utf8();
        match first {
            '\\' if rest.starts_with("\\Q") && !in_class => {
                let quoted = &rest[2..];
                let end = quoted.find("\\E").unwrap_or(quoted.len());
                out.push_str(&regex::escape(&quoted[..end]));
                rest = quoted[end..].strip_prefix("\\E").unwrap_or_default();
                continue;
            }
            '\\' => {
                len += rest[len..].chars().next().map_or(0, char::len_utf8);
                // The braces of `\x{41}` and `\p{Greek}` are part of the escape.
                if matches!(&rest[1..len], "x" | "p" | "P") && rest[len..].starts_with('{') {
                    len += rest[len..].find('}').map_or(0, |end| end + 1);
                }
                out.push_str(match &rest[..len] {
                    "\\b" if !in_class => r"(?-u:\b)",
                    // The crate's beginning and end of a word.
                    r"\<" => "<",
                    r"\>" => ">",
                    escape => ascii_class(escape).unwrap_or(escape),
                });
            }
            '[' if !in_class => {
                in_class = true;
                // A closing bracket directly after the opening one is literal.
                len += usize::from(rest[len..].starts_with('^'));
                len += usize::from(rest[len..].starts_with(']'));
                out.push_str(&rest[..len]);
            }
            '[' if rest.starts_with("[:") => {
                len = rest.find(":]").map_or(1, |end| end + 2);
                out.push_str(&rest[..len]);
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', first]),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '{' if !in_class && !is_repetition(rest) => out.push_str("\\{"),
            _ => out.push(first),
        }
        rest = &rest[len..];
    }
    out
}

/// Returns Go's meaning of an escape for a class of characters. The `regex` crate allows a class within a class.
fn ascii_class(escape: &str) -> Option<&'static str> {
    Some(match escape {
        r"\d" => "[0-9]",
        r"\D" => "[^0-9]",
        r"\w" => "[0-9A-Za-z_]",
        r"\W" => "[^0-9A-Za-z_]",
        r"\s" => r"[\t\n\f\r ]",
        r"\S" => r"[^\t\n\f\r ]",
        _ => return None,
    })
}

/// Returns whether a text that starts with a brace starts with `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(text: &str) -> bool {
    let Some((inner, _)) = text[1..].split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && is_number(least) && is_number(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).expect("an expression").is_match(text)
    }

    #[test]
    fn the_syntax_is_that_of_go() {
        assert!(matches("^a{b}$", "a{b}"));
        assert!(matches("^{,5}x{2}$", "{,5}xx"));
        assert!(matches("^[[a]$", "["));
        assert!(matches("^[a&&b]+$", "a&b"));
        assert!(matches("^[]~~a^]+$", "]~^"));
        assert!(matches("^[[:digit:]_]+$", "1_"));
        assert!(matches(r"^\Qa.b*\E.$", "a.b*c"));
        assert!(matches(r"^\Qa.b", "a.b"));
        assert!(matches(r"^\x{41}\p{Greek}\012$", "A\u{3b1}\n"));
        assert!(matches(r"^(?i)ABC(?P<n>\d+)\z", "abc1"));
        assert!(matches(r"^\{$", "{"));
        assert!(matches(r"^\<a\>[\<]$", "<a><"));
        assert!(matches("é{1}[é]", "éé"));
        assert!(!matches(r"\d|\w|\b", "é\u{661}") && matches(r"^[\W]\D[^\d\s]$", "é\u{661}a"));
    }

    #[test]
    fn errors_have_a_reason_and_a_position() {
        let at = |pattern| match compile(pattern) {
            Err(RegexpError::Syntax { at, reason }) => (at, reason),
            other => panic!("{pattern}: {other:?}"),
        };
        assert_eq!(at("ab(c").0, 3);
        assert_eq!(at("{}(c").0, 3);
        assert_eq!(at("^a(c").0, 3);
        assert_eq!(at("&({\\x").0, 6);
        assert_eq!(at("*").1, "repetition operator missing expression");
        assert!(at(r"a(?=b)").1.contains("look-around"), "{}", at(r"a(?=b)").1);
        at(r"[a\");
        at("[a");
        at("[[:a");
        at("\\");
    }

    #[test]
    fn long_and_huge_expressions_are_refused() {
        assert_eq!(compile(&"a".repeat(10_001)).err(), Some(RegexpError::Long(10_001)));
        assert!(compile(&"a".repeat(10_000)).is_ok());
        assert_eq!(compile("((a{1000}){1000}){1000}").err(), Some(RegexpError::Large));
        assert!(compile(&"(".repeat(5_000)).is_err());
        assert!(compile(&format!("{}a{}", "(".repeat(1_000), ")".repeat(1_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_causes_a_panic(text in r"[\\\\QE\[\]{}(),:&~^a0xpé*\n-]{0,40}") {
            if let Err(RegexpError::Syntax { at, .. }) = compile(&text) {
                assert!(at <= text.chars().count() + 1, "{text}: {at}");
            }
        }

        #[test]
        fn quoted_text_matches_itself(text in r"[^\\]{0,40}") {
            assert!(matches(&format!(r"^\Q{text}\E$"), &text));
        }
    }
}
