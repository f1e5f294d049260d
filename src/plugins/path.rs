//! File names of a Corefile.

use std::path::{Path, PathBuf};

use crate::corefile::{Arguments, Token};

/// The next word as a file name, which must be there. `what` says what it is, for the message.
pub(super) fn path(line: &mut Arguments<'_, '_>, root: Option<&Path>, what: &str) -> Option<PathBuf> {
    let word = line.word(what)?;
    rooted(line, root, word)
}

/// A word as a file name: relative ones are in *root*'s folder, if there is one. What no file can be called is an
/// error: CoreDNS learns it from the kernel when it opens the file.
pub(super) fn rooted(line: &mut Arguments<'_, '_>, root: Option<&Path>, word: &Token) -> Option<PathBuf> {
    if word.text.contains('\0') {
        line.error_expected(word, format!("invalid file name {:?}", word.text), "a file name without the byte 0");
        return None;
    }
    // Joining an absolute path gives that path.
    Some(root.map_or_else(|| PathBuf::from(&word.text), |root| root.join(&word.text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::read;

    #[test]
    fn relative_names_are_in_the_root_and_one_with_a_zero_byte_is_none() {
        let read = |root: Option<&'static str>, lines: &str| {
            read(lines, |stanzas, context| {
                let mut line = Arguments::of(stanzas[0], context.diagnostics);
                path(&mut line, root.map(Path::new), "a file")
            })
        };
        assert_eq!(read(Some("/r"), "x a").0, Some("/r/a".into()));
        assert_eq!(read(Some("/r"), "x /a").0, Some("/a".into()));
        assert_eq!(read(None, "x a").0, Some("a".into()));
        assert_eq!(read(None, "x a\0b"), (None, vec!["invalid file name \"a\\0b\"".to_owned()]));
    }
}
