//! *debug*: enables log lines of level debug, and a panic in a plugin stops the process instead of resulting in
//! SERVFAIL.
//!
//! It applies to the whole process and adds no plugin to the chain.

use super::build::{BlockOptions, Setting};
use super::{Context, no_arguments};
use crate::corefile::Directive;

/// The configuration, which has no options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config;

/// Parses the directive, which has no arguments.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    no_arguments(stanzas, context);
    Some(Config)
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.is_debug = true;
    }
}
