//! Mistakes in a configuration: collected, not thrown, so that one run shows them all. How they look is in `render.rs`.

use super::source::Span;

/// The most errors that are kept, and the most warnings; a file with more has been understood well enough.
const MAX_KEPT: usize = 200;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but hardly means what was written.
    Warning,
}

/// Which step found the mistake. It chooses the words that CoreDNS puts before the message, for which scripts look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Braces and line ends: `Syntax error: …`.
    Syntax,
    /// All else within blocks: `Error during parsing: …`.
    Parse,
    /// Server block keys: `error inspecting server blocks: …`.
    Keys,
    /// Anything later: no words before it.
    Setup,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which step found it.
    pub stage: Stage,
    /// The place; none when no text is at fault, as with a Corefile that does not exist.
    pub span: Option<Span>,
    /// The plugin that refused it.
    pub plugin: Option<String>,
    /// What is wrong, in CoreDNS's words where it has some.
    pub message: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// The nearest right word.
    pub suggestion: Option<String>,
}

impl Diagnostic {
    /// An error.
    pub fn error(stage: Stage, span: Option<Span>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            stage,
            span,
            plugin: None,
            message: message.into(),
            expected: None,
            suggestion: None,
        }
    }

    /// A warning.
    pub fn warning(stage: Stage, span: Option<Span>, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(stage, span, message) }
    }

    /// Adds the plugin.
    pub fn plugin(self, plugin: impl Into<String>) -> Diagnostic {
        Diagnostic { plugin: Some(plugin.into()), ..self }
    }

    /// Adds what would have been right.
    pub fn expected(self, expected: impl Into<String>) -> Diagnostic {
        Diagnostic { expected: Some(expected.into()), ..self }
    }

    /// Adds the nearest right word, if there is one.
    pub fn suggestion(self, suggestion: Option<String>) -> Diagnostic {
        Diagnostic { suggestion, ..self }
    }
}

/// The mistakes found so far. The same mistake at the same place is kept once (a snippet may be imported often), and
/// no more than 200 errors and 200 warnings are; the rest are counted.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// In the order in which they were found, until they are sorted.
    kept: Vec<Diagnostic>,
    /// How many were left away.
    dropped: usize,
    /// Whether any was an error, left away or not.
    has_errors: bool,
}

impl Diagnostics {
    /// None yet.
    pub fn new() -> Diagnostics {
        Diagnostics::default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.has_errors |= diagnostic.severity == Severity::Error;
        if self.kept.iter().filter(|kept| kept.severity == diagnostic.severity).count() >= MAX_KEPT {
            self.dropped = self.dropped.saturating_add(1);
        } else if !self.kept.contains(&diagnostic) {
            self.kept.push(diagnostic);
        }
    }

    /// Adds an error of the parsing kind.
    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.push(Diagnostic::error(Stage::Parse, Some(span), message));
    }

    /// Adds a warning.
    pub fn warning(&mut self, span: Span, message: impl Into<String>) {
        self.push(Diagnostic::warning(Stage::Parse, Some(span), message));
    }

    /// Whether the configuration cannot be used.
    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Whether nothing was found at all.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// How many were found beyond those that are kept.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Puts them into the order of the text, file by file; those without a place come last.
    pub fn sort(&mut self) {
        self.kept.sort_by_key(|found| found.span.map_or((true, 0, 0), |span| (false, span.file.0, span.start)));
    }

    /// Those that are kept, in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.kept.iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The candidate nearest to `word`, if one is near enough to be a slip of the finger: at most two edits, fewer for short
/// words, where two neighbours that change places count as one edit.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = word.chars().count();
    // The longest directive has 21 letters; a word far longer is no slip, and comparing it costs its square.
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
