//! *debug*: log lines of level debug, and a panic in a plugin ends the process instead of becoming SERVFAIL.
//!
//! It holds for the whole process, so that it makes no plugin.

use super::{Context, no_arguments};
use crate::corefile::Directive;

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<()> {
    no_arguments(stanzas, context);
    Some(())
}
