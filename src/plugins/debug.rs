//! *debug*: enables log lines of level debug, and a panic in a plugin stops the process instead of resulting in
//! SERVFAIL.
//!
//! It applies to the whole process and adds no plugin to the chain.

use super::{Context, no_arguments};
use crate::corefile::Directive;

/// Parses the directive, which has no arguments.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<()> {
    no_arguments(stanzas, context);
    Some(())
}
