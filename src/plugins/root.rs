//! *root*: the folder that relative file names of other directives start from. It makes no plugin.

use std::path::PathBuf;

use super::Context;
use crate::corefile::{Arguments, Directive};

/// Reads the directive; the last of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<PathBuf> {
    let mut root = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        root = line.word("a folder").map(|word| PathBuf::from(&word.text));
        line.finish();
    }
    root
}
