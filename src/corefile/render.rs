//! Formats diagnostics: as text with the source line and a caret, or as JSON.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::diagnostic::{Diagnostic, DiagnosticSeverity, Diagnostics, Stage};
use super::source::{Sources, Span};

/// The maximum length of a source line that is shown, in bytes. Longer lines do not help.
const MAX_SHOWN_LINE: usize = 1000;

/// Formats all diagnostics. Each has a first line in CoreDNS's format (`FILE:LINE:COL - Error during parsing: …`), the
/// source line with a caret, what was expected, and the most similar valid word.
pub fn render_text(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&headline(diagnostic, sources));
        out.push('\n');
        if let Some(span) = diagnostic.span {
            out.push_str(&snippet(span, sources));
            if let Some(import) = sources.imported_at(span.file) {
                let _ = writeln!(out, "  imported at {}", place(import, sources));
            }
        }
        if let Some(expected) = &diagnostic.expected {
            let _ = writeln!(out, "  expected: {expected}");
        }
        if let Some(suggestion) = &diagnostic.suggestion {
            let _ = writeln!(out, "  did you mean '{suggestion}'?");
        }
    }
    if diagnostics.dropped() > 0 {
        let _ = writeln!(out, "… and {} more", diagnostics.dropped());
    }
    out
}

/// Returns the first line of a diagnostic, for a log.
pub fn headline(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let place = diagnostic.span.map(|span| place(span, sources) + " - ").unwrap_or_default();
    let kind = match (diagnostic.severity, diagnostic.stage) {
        (DiagnosticSeverity::Warning, _) => "Warning: ",
        (DiagnosticSeverity::Error, Stage::Syntax) => "Syntax error: ",
        (DiagnosticSeverity::Error, Stage::Parse) => "Error during parsing: ",
        (DiagnosticSeverity::Error, Stage::Keys) => "error inspecting server blocks: ",
        (DiagnosticSeverity::Error, Stage::Setup) => "",
    };
    let plugin = diagnostic.plugin.as_ref().map(|plugin| format!("plugin/{plugin}: ")).unwrap_or_default();
    // A token may contain a line break, which would split this line.
    let message = diagnostic.message.replace(|c: char| c.is_control(), " ");
    format!("{place}{kind}{plugin}{message}")
}

/// Returns a diagnostic on one line, for a log: the first line, what was expected, and the most similar valid word.
pub fn one_line(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let mut line = headline(diagnostic, sources);
    if let Some(expected) = &diagnostic.expected {
        let _ = write!(line, "; expected: {expected}");
    }
    if let Some(suggestion) = &diagnostic.suggestion {
        let _ = write!(line, "; did you mean '{suggestion}'?");
    }
    line.replace(|c: char| c.is_control(), " ")
}

/// Returns `FILE:LINE:COL` of the start of a span.
fn place(span: Span, sources: &Sources) -> String {
    let position = sources.position(span);
    format!("{}:{}:{}", sources.name(span.file), position.line, position.column)
}

/// Returns the first line of a span, with carets under the part of the span that is on it.
fn snippet(span: Span, sources: &Sources) -> String {
    let position = sources.position(span);
    let (line, start) = sources.line(span.file, position.line);
    let from = (span.start as usize).saturating_sub(start).min(line.len());
    let to = (span.end as usize).saturating_sub(start).clamp(from, line.len());
    if line.len() > MAX_SHOWN_LINE || !line.is_char_boundary(from) || !line.is_char_boundary(to) {
        return String::new();
    }
    let source = Snippet::source(line).line_start(position.line).annotation(AnnotationKind::Primary.span(from..to));
    let report = [Group::with_level(Level::ERROR).element(source)];
    let mut text = Renderer::plain().render(&report);
    text.push('\n');
    text
}

/// A diagnostic in the JSON output.
#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    /// `error` or `warning`.
    severity: &'static str,
    /// The name of the file, if there is a place.
    file: Option<&'a str>,
    /// From 1.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
    /// The end of the span: one past its last character.
    end_line: Option<usize>,
    /// As `column`, at the end of the span.
    end_column: Option<usize>,
    /// The plugin that reported it.
    plugin: Option<&'a str>,
    /// The problem.
    message: &'a str,
    /// What was expected.
    expected: Option<&'a str>,
    /// The most similar valid word.
    suggestion: Option<&'a str>,
}

/// Formats all diagnostics as a JSON array; fields without a value are null.
pub fn render_json(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let rows: Vec<JsonDiagnostic<'_>> = diagnostics
        .iter()
        .map(|diagnostic| {
            let start = diagnostic.span.map(|span| sources.position(span));
            let end = diagnostic.span.map(|span| sources.end_position(span));
            JsonDiagnostic {
                severity: match diagnostic.severity {
                    DiagnosticSeverity::Error => "error",
                    DiagnosticSeverity::Warning => "warning",
                },
                file: diagnostic.span.map(|span| sources.name(span.file)),
                line: start.map(|position| position.line),
                column: start.map(|position| position.column),
                end_line: end.map(|position| position.line),
                end_column: end.map(|position| position.column),
                plugin: diagnostic.plugin.as_deref(),
                message: &diagnostic.message,
                expected: diagnostic.expected.as_deref(),
                suggestion: diagnostic.suggestion.as_deref(),
            }
        })
        .collect();
    // Serialising strings and numbers cannot fail.
    serde_json::to_string_pretty(&rows).unwrap_or_default()
}
