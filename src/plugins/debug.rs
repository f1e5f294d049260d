//! *debug*: log lines of level debug, and a panic in a plugin ends the process instead of becoming SERVFAIL.
//!
//! It holds for the whole process, so that it makes no plugin.

use super::build::{BlockOptions, Setting};
use super::{Context, no_arguments};
use crate::corefile::Directive;

/// The configuration, which has no options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config;

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    no_arguments(stanzas, context);
    Some(Config)
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.is_debug = true;
    }
}
