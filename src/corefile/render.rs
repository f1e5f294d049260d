//! How diagnostics look: for people, with the line and a caret; for programs, as JSON.

use std::fmt::Write as _;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::diagnostic::{Diagnostic, Diagnostics, Severity, Stage};
use super::source::{Sources, Span};

/// The longest line that is shown with its caret; longer ones are no help.
const MAX_SHOWN_LINE: usize = 1000;

/// All diagnostics, each with a first line of CoreDNS's form (`FILE:LINE:COL - Error during parsing: …`), the line of
/// the source with a caret, what was expected, and the nearest right word.
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

/// The first line of a diagnostic, for a log that has room for one line only.
pub fn headline(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let place = diagnostic.span.map(|span| place(span, sources) + " - ").unwrap_or_default();
    let kind = match (diagnostic.severity, diagnostic.stage) {
        (Severity::Warning, _) => "Warning: ",
        (Severity::Error, Stage::Syntax) => "Syntax error: ",
        (Severity::Error, Stage::Parse) => "Error during parsing: ",
        (Severity::Error, Stage::Keys) => "error inspecting server blocks: ",
        (Severity::Error, Stage::Setup) => "",
    };
    let plugin = diagnostic.plugin.as_ref().map(|plugin| format!("plugin/{plugin}: ")).unwrap_or_default();
    // A word from the file may hold a line break, which would break this line in two.
    let message = diagnostic.message.replace(|c: char| c.is_control(), " ");
    format!("{place}{kind}{plugin}{message}")
}

/// `FILE:LINE:COL` of the start of a span.
fn place(span: Span, sources: &Sources) -> String {
    let position = sources.position(span);
    format!("{}:{}:{}", sources.name(span.file), position.line, position.column)
}

/// The first line of a span, with a caret under what of the span is in it.
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

/// A diagnostic as JSON has it.
#[derive(Serialize)]
struct Row<'a> {
    /// `error` or `warning`.
    severity: &'static str,
    /// The file's name, if a place is known.
    file: Option<&'a str>,
    /// From 1.
    line: Option<usize>,
    /// From 1, in characters.
    column: Option<usize>,
    /// Where the text at fault ends: one past its last character.
    end_line: Option<usize>,
    /// As `column`.
    end_column: Option<usize>,
    /// The plugin that refused it.
    plugin: Option<&'a str>,
    /// What is wrong.
    message: &'a str,
    /// What would have been right.
    expected: Option<&'a str>,
    /// The nearest right word.
    suggestion: Option<&'a str>,
}

/// All diagnostics as a JSON array; what is not known is null.
pub fn render_json(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let rows: Vec<Row<'_>> = diagnostics
        .iter()
        .map(|diagnostic| {
            let start = diagnostic.span.map(|span| sources.position(span));
            let end = diagnostic.span.map(|span| sources.end_position(span));
            Row {
                severity: match diagnostic.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
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
    // Strings and numbers always serialise.
    serde_json::to_string_pretty(&rows).unwrap_or_default()
}
