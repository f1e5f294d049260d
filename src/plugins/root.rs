//! *root*: the folder that relative file names of other directives start from. It makes no plugin.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::Context;
use super::build::Setting;
use super::path::path;
use crate::corefile::{Arguments, Directive};

/// The folder of relative file names. Other directives read it from [`Context::root`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder.
    pub folder: PathBuf,
}

impl Setting for Config {}

/// Reads the directive; the last of several counts.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut root = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let word = line.peek().unwrap_or(&stanza.name);
        if let Some(path) = path(&mut line, None, "a folder") {
            match std::fs::metadata(&path).map_err(|error| (error.kind(), error)) {
                Ok(_) => {}
                // It may come later, as in CoreDNS, but it may be a slip as well.
                Err((ErrorKind::NotFound, _)) => {
                    line.warning(word, format!("root path does not exist: {}", path.display()));
                }
                Err((_, error)) => {
                    let message = format!("unable to access root path '{}': {error}", path.display());
                    line.error_expected(word, message, "a folder");
                }
            }
            root = Some(path);
        }
        line.finish();
    }
    let folder = root.filter(|_| errors == context.diagnostics.has_errors())?;
    context.root = Some(folder.clone());
    Some(Config { folder })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::read;

    #[test]
    fn the_last_counts_and_one_that_is_not_there_is_told() {
        let told = ["root path does not exist: /no/such/folder"].map(str::to_owned);
        let last = Config { folder: "/no/such/folder".into() };
        assert_eq!(read("root /\nroot /no/such/folder", parse), (Some(last), told.to_vec()));
        let few = "Wrong argument count or unexpected line ending after 'root'";
        assert_eq!(read("root", parse), (None, vec![few.to_owned()]));
        let (root, said) = read("root /dev/null/x", parse);
        assert!(root.is_none() && said[0].starts_with("unable to access root path '/dev/null/x': "), "{said:?}");
        assert_eq!(read("root a\0b", parse), (None, vec!["invalid file name \"a\\0b\"".to_owned()]));
    }
}
