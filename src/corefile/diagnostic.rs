//! Errors and warnings about a configuration, collected so that one run reports all of them. `render.rs` formats them.

use super::source::Span;

/// The maximum number of errors that are stored, and of warnings. More would not help anyone.
const MAX_ENTRIES: usize = 200;

/// The severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiagnosticSeverity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but probably does not do what was intended.
    Warning,
}

/// The step that found the problem. It selects CoreDNS's prefix of the message, which scripts look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Braces and ends of lines: `Syntax error: …`.
    Syntax,
    /// Everything else within blocks: `Error during parsing: …`.
    Parse,
    /// Keys of server blocks: `error inspecting server blocks: …`.
    Keys,
    /// Later steps: no prefix.
    Setup,
}

/// An error or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: DiagnosticSeverity,
    /// The step that found it.
    pub stage: Stage,
    /// The place; `None` where it is not about a text, as for a Corefile that does not exist.
    pub span: Option<Span>,
    /// The plugin that reported it.
    pub plugin: Option<String>,
    /// The problem, in CoreDNS's words where it has a message for it.
    pub message: String,
    /// What was expected.
    pub expected: Option<String>,
    /// The most similar valid word.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// Creates an error.
    pub fn error(stage: Stage, span: Option<Span>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: DiagnosticSeverity::Error,
            stage,
            span,
            plugin: None,
            message: message.into(),
            expected: None,
            suggestion: None,
        }
    }

    /// Creates a warning.
    pub fn warning(stage: Stage, span: Option<Span>, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: DiagnosticSeverity::Warning, ..Diagnostic::error(stage, span, message) }
    }

    /// Sets the plugin.
    pub fn plugin(self, plugin: impl Into<String>) -> Diagnostic {
        Diagnostic { plugin: Some(plugin.into()), ..self }
    }

    /// Sets what was expected.
    pub fn expected(self, expected: impl Into<String>) -> Diagnostic {
        Diagnostic { expected: Some(expected.into()), ..self }
    }

    /// Sets the most similar valid word, if there is one.
    pub fn suggestion(self, suggestion: Option<String>) -> Diagnostic {
        Diagnostic { suggestion, ..self }
    }
}

/// The diagnostics of a run. Identical ones are stored once, since a snippet may be imported several times. Up to 200
/// errors and 200 warnings are stored; the rest is counted.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// In the order in which they were found, until they are sorted.
    entries: Vec<Diagnostic>,
    /// The number of diagnostics over the limit.
    dropped: usize,
    /// Whether any was an error, stored or not.
    has_errors: bool,
}

impl Diagnostics {
    /// Creates an empty collection.
    pub fn new() -> Diagnostics {
        Diagnostics::default()
    }

    /// Adds a diagnostic.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.has_errors |= diagnostic.severity == DiagnosticSeverity::Error;
        if self.entries.iter().filter(|entry| entry.severity == diagnostic.severity).count() >= MAX_ENTRIES {
            self.dropped = self.dropped.saturating_add(1);
        } else if !self.entries.contains(&diagnostic) {
            self.entries.push(diagnostic);
        }
    }

    /// Adds an error of [`Stage::Parse`].
    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.push(Diagnostic::error(Stage::Parse, Some(span), message));
    }

    /// Adds a warning of [`Stage::Parse`].
    pub fn warning(&mut self, span: Span, message: impl Into<String>) {
        self.push(Diagnostic::warning(Stage::Parse, Some(span), message));
    }

    /// Returns whether there was an error, so that the configuration cannot be used.
    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Returns the suggestion for an error: that of the same error at the same place, since a snippet may be imported
    /// many times, none if the error is only counted, or the result of a search.
    pub fn suggestion_for(&self, error: &Diagnostic, search: impl FnOnce() -> Option<String>) -> Option<String> {
        let is_same = |entry: &&Diagnostic| {
            entry.span == error.span
                && entry.plugin == error.plugin
                && entry.message == error.message
                && (error.expected.is_none() || entry.expected == error.expected)
        };
        match self.entries.iter().find(is_same) {
            Some(entry) => entry.suggestion.clone(),
            None if self.is_full() => None,
            None => search(),
        }
    }

    /// Returns whether further errors are only counted.
    pub fn is_full(&self) -> bool {
        self.errors() >= MAX_ENTRIES
    }

    /// Returns the number of stored errors.
    pub fn errors(&self) -> usize {
        self.entries.iter().filter(|entry| entry.severity == DiagnosticSeverity::Error).count()
    }

    /// Returns whether there is no diagnostic.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of stored diagnostics.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of diagnostics that were not stored.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Sorts by file and position; diagnostics without a place come last.
    pub fn sort(&mut self) {
        self.entries.sort_by_key(|found| found.span.map_or((true, 0, 0), |span| (false, span.file.0, span.start)));
    }

    /// Iterates over the stored diagnostics.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.entries.iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Returns the candidate that is most similar to `word`, if it is similar enough to be a typo: at most two edits, fewer
/// for short words. Two adjacent letters that are swapped count as one edit.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = word.chars().count();
    // The longest directive has 21 letters. A much longer word is no typo, and the comparison takes quadratic time.
    if length > 64 {
        return None;
    }
    let allowed = match length {
        0..=1 => 0,
        2..=4 => 1,
        _ => 2,
    };
    let folded = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&folded, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *candidate != word)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}
