//! *multisocket*: how many UDP sockets each address has (CoreDNS `plugin/multisocket`). Without it there is one for
//! each core. It never starts more workers than there are cores: a worker serves several sockets.

use std::num::NonZeroUsize;

use super::Context;
use crate::corefile::{Arguments, Directive};

/// The most.
const MOST: usize = 1_024;

/// Reads the directive: how many, where it says so.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Option<NonZeroUsize>> {
    let errors = context.diagnostics.has_errors();
    let mut line = Arguments::of(stanzas.first()?, context.diagnostics);
    let count = if line.more() { line.number(1..=MOST).and_then(NonZeroUsize::new) } else { None };
    line.finish();
    (errors == context.diagnostics.has_errors()).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, read};

    #[test]
    fn numbers_have_coredns_bounds() {
        assert_eq!(config("multisocket", parse), None);
        assert_eq!(config("multisocket 3", parse), NonZeroUsize::new(3));
        for wrong in ["0", "-1", "1025", "some", "1 2"] {
            assert!(read(&format!("multisocket {wrong}"), parse).0.is_none(), "{wrong}");
        }
    }
}
