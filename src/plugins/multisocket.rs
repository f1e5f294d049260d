//! *multisocket*: the number of UDP sockets of each address (CoreDNS `plugin/multisocket`); without the directive, one
//! for each core. It starts no further workers: a worker serves several sockets.

use std::num::NonZeroUsize;

use super::Context;
use crate::corefile::{Arguments, Directive};

/// The maximum number of sockets.
const MAX: usize = 1_024;

/// Parses the directive. Returns the number of sockets; an inner `None` is the number of cores.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Option<NonZeroUsize>> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let count = if line.more() { line.number(1..=MAX).and_then(NonZeroUsize::new) } else { None };
    line.finish();
    (errors == context.diagnostics.has_errors()).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn numbers_have_the_range_of_coredns() {
        assert_eq!(config("multisocket", parse), None);
        assert_eq!(config("multisocket 3", parse), NonZeroUsize::new(3));
        for wrong in ["0", "-1", "1025", "some", "1 2"] {
            assert!(read(&format!("multisocket {wrong}"), parse).0.is_none(), "{wrong}");
        }
    }
}
