//! The Corefile: parses text into a typed tree with spans, and reports every error in one run. Pure, except for the
//! files and environment variables that a Corefile refers to, which are read through [`Files`].
//!
//! ```text
//! text ── token::lex ──▶ tokens ── stream (import, snippets, environment) ──▶ parse ──▶ ast ──▶ args (for the plugins)
//!                                                                                 └─ key (zones, ports)
//!                        every step ──▶ Diagnostics ──▶ render_text | render_json
//! ```
//!
//! It accepts what CoreDNS accepts; what CoreDNS accepts only by accident gets a warning. It has no knowledge of
//! plugins: the caller decides which names are directives ([`Known`]), and each plugin parses the contents of its own
//! directive through [`Arguments`]. An empty tree is not an error here. CoreDNS then serves `whoami` and `log` on
//! `.:53`; the caller has to do the same.

mod args;
#[cfg(test)]
mod args_tests;
mod ast;
mod diagnostic;
mod duration;
mod environment;
mod import;
mod key;
mod overlap;
mod parse;
mod refuse;
mod render;
mod source;
mod stream;
#[cfg(test)]
mod tests;
mod token;

use std::path::Path;

pub use args::Arguments;
pub use ast::{Block, Corefile, Directive, Property};
pub use diagnostic::{Diagnostic, DiagnosticSeverity, Diagnostics, Stage, suggest};
pub use duration::{DurationError, GoDuration, parse_duration};
pub use key::{BlockKey, Scheme, ZoneError, is_domain_name, normalize_zones, reverse_zones};
pub use overlap::{Listen, check_keys};
pub use parse::Known;
pub use render::{headline, one_line, render_json, render_text};
pub use source::{FileId, Files, MemoryFiles, Position, RealFiles, Sources, Span, read_source};
pub use token::Token;

/// Parses the Corefile at `path`, including its imports. Returns what could be parsed; errors go to `diagnostics`.
pub fn load(path: &Path, files: &dyn Files, known: &dyn Fn(&str) -> Known, diagnostics: &mut Diagnostics) -> Corefile {
    match files.read(path) {
        Ok(text) => parse_text(&path.display().to_string(), &text, files, known, diagnostics),
        Err(error) => {
            diagnostics.push(Diagnostic::error(
                Stage::Setup,
                None,
                format!("cannot read the Corefile '{}': {error}", path.display()),
            ));
            Corefile::default()
        }
    }
}

/// Parses the text of a Corefile, for instance of standard input. Imports are relative to the directory of `name`.
pub fn parse_text(
    name: &str, text: &str, files: &dyn Files, known: &dyn Fn(&str) -> Known, diagnostics: &mut Diagnostics,
) -> Corefile {
    parse::parse(name, text, files, known, diagnostics)
}
