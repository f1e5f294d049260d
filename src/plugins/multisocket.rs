//! *multisocket*: the number of UDP sockets of each address (CoreDNS `plugin/multisocket`); without the directive, one
//! for each core. It starts no further workers: a worker serves several sockets.

use std::num::NonZeroUsize;

use super::Context;
use super::build::{BlockOptions, Setting};
use crate::corefile::{Arguments, Directive};

/// The maximum number of sockets.
const MAX: usize = 1_024;

/// The configuration of the directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The number of UDP sockets of each address; the number of cores if `None`.
    pub sockets: Option<NonZeroUsize>,
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.sockets = self.sockets;
    }
}

/// Parses the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let sockets = if line.more() { line.number(1..=MAX).and_then(NonZeroUsize::new) } else { None };
    line.finish();
    (errors == context.diagnostics.has_errors()).then_some(Config { sockets })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn numbers_have_the_range_of_coredns() {
        assert_eq!(config("multisocket", parse).sockets, None);
        assert_eq!(config("multisocket 3", parse).sockets, NonZeroUsize::new(3));
        for wrong in ["0", "-1", "1025", "some", "1 2"] {
            assert!(read(&format!("multisocket {wrong}"), parse).0.is_none(), "{wrong}");
        }
    }
}
