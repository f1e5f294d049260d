//! `{$NAME}` and `{%NAME%}`: words from the environment.

use super::source::Files;

/// The longest word that a substitution may make.
const MAX_WORD: usize = 64 << 10;

/// How often a word is looked at again. A value may name another variable; one that names itself never ends.
const MAX_ROUNDS: usize = 100;

/// A word with the environment filled in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Substituted {
    /// The word.
    pub text: String,
    /// Variables that are not set, and read as empty.
    pub unset: Vec<String>,
    /// A value names itself, or the word grew too long; `text` is empty then.
    pub endless: bool,
}

/// Fills in `text`. None when it names no variable, which is almost always.
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
    /// Replaces the references of one style, again and again until none is left. One that is empty or not closed ends
    /// it, and what follows stays as it is (`caddyfile/parse.go` `replaceEnvReferences`).
    fn replace(&mut self, open: &str, close: &str, files: &dyn Files) {
        for _ in 0..MAX_ROUNDS {
            let Some(start) = self.text.find(open) else { return };
            let rest = &self.text[start..];
            let Some(length) = rest.find(close) else { return };
            // `{$}` names nothing; in `{%}` the two marks even overlap.
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
