//! From the pattern of an `import` to the files that it names.

use std::path::{Component, Path, PathBuf};

use super::source::Files;

/// Why a pattern cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    /// CoreDNS allows one `*` and one `?` in a path, since more can take for ever.
    #[error("Glob pattern may only contain one wildcard (*), but has others")]
    TooManyWildcards,
    /// A bracket that does not close, or a backslash at the end.
    #[error("syntax error in pattern")]
    Malformed,
}

/// The files that `pattern` means in `folder`, in lexical order. A plain path is given back whether it exists or not.
pub(super) fn resolve(folder: &Path, pattern: &str, files: &dyn Files) -> Result<Vec<PathBuf>, PatternError> {
    let path = if Path::new(pattern).is_absolute() { PathBuf::from(pattern) } else { clean(&folder.join(pattern)) };
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
    // From the first wildcard on, folders are listed, so that only what exists is found.
    let mut listing = false;
    for component in path.components() {
        let name = component.as_os_str().to_string_lossy();
        listing |= name.contains(['*', '?', '\\']);
        if !listing {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        }
        let glob = Glob::parse(&name)?;
        found = found.iter().flat_map(|folder| matching(folder, &glob, files)).collect();
    }
    Ok(found)
}

/// What in a folder matches, sorted. A folder that cannot be listed holds nothing, as Go's `filepath.Glob` has it.
fn matching(folder: &Path, glob: &Glob, files: &dyn Files) -> Vec<PathBuf> {
    let mut names = files.list(folder).unwrap_or_default();
    names.retain(|name| glob.matches(name));
    names.sort_unstable();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Removes `.` and resolves `..` by the letter, as Go's `filepath.Clean` does.
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

/// One component of a pattern: letters before and after its `*`. None stands for any letter, `?`.
struct Glob {
    /// What a name must start with.
    start: Vec<Option<char>>,
    /// What it must end with, if there was a `*`.
    end: Option<Vec<Option<char>>>,
}

impl Glob {
    /// Reads a component, in which `*` comes at most once.
    fn parse(text: &str) -> Result<Glob, PatternError> {
        let mut glob = Glob { start: Vec::new(), end: None };
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            let letter = match letter {
                '*' => {
                    glob.end = Some(Vec::new());
                    continue;
                }
                '?' => None,
                '\\' => Some(letters.next().ok_or(PatternError::Malformed)?),
                _ => Some(letter),
            };
            glob.end.as_mut().unwrap_or(&mut glob.start).push(letter);
        }
        Ok(glob)
    }

    /// Whether a name matches. A leading dot is a letter like others.
    fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let same = |(wanted, letter): (&Option<char>, &char)| wanted.is_none_or(|wanted| wanted == *letter);
        let start = self.start.iter().zip(&name).all(same);
        match &self.end {
            None => name.len() == self.start.len() && start,
            Some(end) => {
                name.len() >= self.start.len() + end.len() && start && end.iter().rev().zip(name.iter().rev()).all(same)
            }
        }
    }
}
