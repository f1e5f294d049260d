//! Resolves the pattern of an `import` to files.

use std::path::{Component, Path, PathBuf};

use super::source::Files;

/// Why a pattern is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    /// CoreDNS allows one `*` and one `?` in a path, because more could take very long.
    #[error("Glob pattern may only contain one wildcard (*), but has others")]
    TooManyWildcards,
    /// An unclosed bracket, or a backslash at the end.
    #[error("syntax error in pattern")]
    Malformed,
}

/// Returns the files that match `pattern` in `directory`, in lexical order. A plain path is returned whether it exists
/// or not.
pub(super) fn resolve(directory: &Path, pattern: &str, files: &dyn Files) -> Result<Vec<PathBuf>, PatternError> {
    let path = if Path::new(pattern).is_absolute() { PathBuf::from(pattern) } else { clean(&directory.join(pattern)) };
    let Some(text) = path.to_str() else { return Ok(vec![path]) };
    let count = |wildcard| text.matches(wildcard).count();
    if count('*') > 1 || count('?') > 1 || (text.contains('[') && text.contains(']')) {
        return Err(PatternError::TooManyWildcards);
    }
    if text.contains('[') {
        return Err(PatternError::Malformed);
    }
    if !text.contains(['*', '?', '\\']) {
        return Ok(vec![path]);
    }
    let mut found = vec![PathBuf::new()];
    // From the first wildcard on, directories are listed, so that only existing files are found.
    let mut listing = false;
    for component in path.components() {
        let name = component.as_os_str().to_string_lossy();
        listing |= name.contains(['*', '?', '\\']);
        if !listing {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        let glob = Glob::parse(&name)?;
        found = found.iter().flat_map(|directory| matching(directory, &glob, files)).collect();
    }
    Ok(found)
}

/// Returns the matching entries of a directory, sorted. A directory that cannot be listed counts as empty, as in Go's
/// `filepath.Glob`.
fn matching(directory: &Path, glob: &Glob, files: &dyn Files) -> Vec<PathBuf> {
    let mut names = files.list(directory).unwrap_or_default();
    names.retain(|name| glob.matches(name));
    names.sort_unstable();
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// Removes `.` and resolves `..` lexically, as Go's `filepath.Clean` does.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match cleaned.components().next_back() {
                Some(Component::Normal(_)) => {
                    cleaned.pop();
                }
                Some(Component::RootDir) => {}
                _ => cleaned.push(component),
            },
            _ => cleaned.push(component),
        }
    }
    cleaned
}

/// One component of a pattern: the characters before and after `*`. `None` is `?`, any character.
struct Glob {
    /// The prefix of matching names.
    start: Vec<Option<char>>,
    /// Their suffix, if the pattern has a `*`.
    end: Option<Vec<Option<char>>>,
}

impl Glob {
    /// Parses a component, which has at most one `*`.
    fn parse(text: &str) -> Result<Glob, PatternError> {
        let mut glob = Glob { start: Vec::new(), end: None };
        let mut chars = text.chars();
        while let Some(next) = chars.next() {
            let next = match next {
                '*' => {
                    glob.end = Some(Vec::new());
                    continue;
                }
                '?' => None,
                '\\' => Some(chars.next().ok_or(PatternError::Malformed)?),
                _ => Some(next),
            };
            glob.end.as_mut().unwrap_or(&mut glob.start).push(next);
        }
        Ok(glob)
    }

    /// Returns whether a name matches. A leading dot is not special.
    fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let same = |(expected, found): (&Option<char>, &char)| expected.is_none_or(|expected| expected == *found);
        let start = self.start.iter().zip(&name).all(same);
        match &self.end {
            None => name.len() == self.start.len() && start,
            Some(end) => {
                name.len() >= self.start.len() + end.len() && start && end.iter().rev().zip(name.iter().rev()).all(same)
            }
        }
    }
}
