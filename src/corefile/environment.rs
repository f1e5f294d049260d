//! `{$NAME}` and `{%NAME%}`: environment variables in tokens.

use super::source::Files;

/// The maximum length of a token after substitution, in bytes.
const MAX_WORD: usize = 64 << 10;

/// The maximum number of substitutions in a token. A value may refer to another variable, and in a cycle to itself.
const MAX_ROUNDS: usize = 100;

/// The result of a substitution.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Substituted {
    /// The token's text.
    pub text: String,
    /// Variables that are not set; they are replaced by nothing.
    pub unset: Vec<String>,
    /// A value refers to itself, or the text exceeded [`MAX_WORD`]; `text` is empty then.
    pub endless: bool,
}

/// Substitutes environment variables in `text`. Returns `None` if it has none, which is the usual case.
pub(super) fn substitute(text: &str, files: &dyn Files) -> Option<Substituted> {
    if !text.contains("{$") && !text.contains("{%") {
        return None;
    }
    let mut word = Substituted { text: text.to_owned(), ..Substituted::default() };
    word.replace("{%", "%}", files);
    word.replace("{$", "}", files);
    Some(word)
}

impl Substituted {
    /// Replaces references of one style until none is left. An empty or unclosed reference ends the replacement, and
    /// the rest stays as it is (`caddyfile/parse.go` `replaceEnvReferences`).
    fn replace(&mut self, open: &str, close: &str, files: &dyn Files) {
        for _ in 0..MAX_ROUNDS {
            let Some(start) = self.text.find(open) else { return };
            let rest = &self.text[start..];
            let Some(length) = rest.find(close) else { return };
            // `{$}` has no name; in `{%}` the delimiters overlap.
            if length <= open.len() {
                return;
            }
            let name = rest[open.len()..length].to_owned();
            let reference = rest[..length + close.len()].to_owned();
            let value = files.env(&name).unwrap_or_else(|| {
                self.unset.push(name);
                String::new()
            });
            let count = self.text.matches(&reference).count();
            if self.text.len().saturating_add(count.saturating_mul(value.len())) > MAX_WORD {
                break;
            }
            self.text = self.text.replace(&reference, &value);
        }
        self.text.clear();
        self.endless = true;
    }
}
