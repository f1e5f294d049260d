//! File names in a Corefile, relative to the directory of *root*.

use std::path::{Path, PathBuf};

use crate::corefile::{Arguments, Token};

/// Parses the next word, which is required, as a file name. `what` describes the file, for the error.
pub(super) fn path(line: &mut Arguments<'_, '_>, root: Option<&Path>, what: &str) -> Option<PathBuf> {
    let word = line.word(what)?;
    rooted(line, root, word)
}

/// Returns a word as a file name. A relative name is joined to the directory of *root*, if there is one. Reports an
/// error for a name that no file can have; CoreDNS gets that error from the kernel when it opens the file.
pub(super) fn rooted(line: &mut Arguments<'_, '_>, root: Option<&Path>, word: &Token) -> Option<PathBuf> {
    if word.text.contains('\0') {
        line.error_expected(word, format!("invalid file name {:?}", word.text), "a file name without the byte 0");
        return None;
    }
    // The result of joining an absolute path is that path.
    Some(root.map_or_else(|| PathBuf::from(&word.text), |root| root.join(&word.text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::read;

    #[test]
    fn relative_names_are_joined_to_the_root_and_a_zero_byte_is_an_error() {
        let read = |root: Option<&'static str>, lines: &str| {
            read(lines, |stanzas, context| {
                let mut line = Arguments::of(stanzas[0], context.diagnostics);
                path(&mut line, root.map(Path::new), "a file")
            })
        };
        assert_eq!(read(Some("/r"), "hosts a").0, Some("/r/a".into()));
        assert_eq!(read(Some("/r"), "hosts /a").0, Some("/a".into()));
        assert_eq!(read(None, "hosts a").0, Some("a".into()));
        assert_eq!(read(None, "hosts a\0b"), (None, vec!["invalid file name \"a\\0b\"".to_owned()]));
    }
}
