//! *root*: the folder that relative file names of other directives start from. It makes no plugin.

use std::path::PathBuf;

use super::Context;
use crate::corefile::{Arguments, Directive};

/// Reads the directive; the last of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<PathBuf> {
    let mut root = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if let Some(word) = line.word("a folder") {
            let path = PathBuf::from(&word.text);
            // It may come later, as in CoreDNS, but it may be a slip as well.
            if !path.exists() {
                line.warning(word, format!("root path does not exist: {}", path.display()));
            }
            root = Some(path);
        }
        line.finish();
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::read;

    #[test]
    fn the_last_counts_and_one_that_is_not_there_is_told() {
        let told = ["root path does not exist: /no/such/folder"].map(str::to_owned);
        assert_eq!(read("root /\nroot /no/such/folder", parse), (Some("/no/such/folder".into()), told.to_vec()));
        let few = "Wrong argument count or unexpected line ending after 'root'";
        assert_eq!(read("root", parse), (None, vec![few.to_owned()]));
    }
}
