//! The Corefile: text in, spanned typed tree out, and every mistake at once. Pure but for the files and the environment
//! that a Corefile names, which come through [`Files`].
//!
//! ```text
//! text ── token::lex ──▶ tokens ── stream (import, snippets, environment) ──▶ parse ──▶ ast ──▶ args (for the plugins)
//!                                                                                 └─ key (zones, ports)
//!                        every step ──▶ Diagnostics ──▶ render_text | render_json
//! ```
//!
//! It accepts what CoreDNS accepts; what CoreDNS accepts by accident gets a warning. It knows no plugin: which names
//! are directives is told by the caller ([`Known`]), what stands inside a directive is read by its plugin through
//! [`Arguments`]. An empty tree is no error here; CoreDNS then serves `whoami` and `log` on `.:53`, which is for the
//! caller to make.

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
pub use diagnostic::{Diagnostic, Diagnostics, Severity, Stage, suggest};
pub use duration::{DurationError, GoDuration, parse_duration};
pub use key::{Key, Scheme, ZoneError, is_domain_name, normalize_zones, reverse_zones};
pub use overlap::{Listen, check_keys};
pub use render::{headline, render_json, render_text};
pub use source::{FileId, Files, MemoryFiles, Position, RealFiles, Sources, Span, read_source};
pub use token::Token;

/// What the caller knows about a name that stands where a directive must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// A directive of this server.
    Yes,
    /// CoreDNS has it, this server does not; the text says why, or what to use instead.
    Unsupported(Option<String>),
    /// A plugin that is not in CoreDNS's own tree; the text says what it is, or what to use instead.
    External(Option<String>),
    /// No directive at all; perhaps with the nearest right name, see [`suggest`].
    No(Option<String>),
}

/// Reads the Corefile at `path`, with what it imports. Gives whatever could be read; the mistakes are in `diagnostics`.
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

/// Reads a Corefile that is already text, standard input for instance. Imports are relative to the folder of `name`.
pub fn parse_text(
    name: &str, text: &str, files: &dyn Files, known: &dyn Fn(&str) -> Known, diagnostics: &mut Diagnostics,
) -> Corefile {
    parse::parse(name, text, files, known, diagnostics)
}
