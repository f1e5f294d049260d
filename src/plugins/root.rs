//! *root*: the directory to which relative file names of other directives are joined. It adds no plugin to the chain.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use super::Context;
use super::build::Setting;
use super::path::path;
use crate::corefile::{Arguments, Directive};

/// The configuration of the directive. Other directives get the directory from [`Context::root`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The directory.
    pub folder: PathBuf,
}

impl Setting for Config {}

/// Parses the directive; the last stanza of a server block is used.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut root = None;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let word = line.peek().unwrap_or(&stanza.name);
        if let Some(path) = path(&mut line, None, "a directory") {
            match fs::metadata(&path) {
                Ok(_) => {}
                // The directory may be created later, as in CoreDNS.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    line.warning(word, format!("root path does not exist: {}", path.display()));
                }
                Err(error) => {
                    let message = format!("unable to access root path '{}': {error}", path.display());
                    line.error_expected(word, message, "a directory");
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
    fn the_last_stanza_is_used_and_a_missing_directory_is_a_warning() {
        let missing = "root path does not exist: /no/such/folder".to_owned();
        let last = Config { folder: "/no/such/folder".into() };
        assert_eq!(read("root /\nroot /no/such/folder", parse), (Some(last), vec![missing]));
        let wrong_count = "Wrong argument count or unexpected line ending after 'root'".to_owned();
        assert_eq!(read("root", parse), (None, vec![wrong_count]));
        let (root, messages) = read("root /dev/null/x", parse);
        let is_reported = messages[0].starts_with("unable to access root path '/dev/null/x': ");
        assert!(root.is_none() && is_reported, "{messages:?}");
        assert_eq!(read("root a\0b", parse), (None, vec!["invalid file name \"a\\0b\"".to_owned()]));
    }
}
