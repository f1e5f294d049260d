//! A file that is read again when it has changed: what *hosts* and *loadbalance* look at by a timer.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// By what a change is seen. The inode tells of a file that was replaced by one as long and as old, as it is when a
/// mounted ConfigMap changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp { inode: metadata.ino(), len: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// A file and its state when it was last opened.
#[derive(Debug)]
pub(super) struct ChangingFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

impl ChangingFile {
    /// Not opened yet.
    pub(super) fn new(path: PathBuf) -> ChangingFile {
        ChangingFile { path, seen: None }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// When its content was written, as of the last time that it was opened.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.seen.and_then(|seen| seen.modified)
    }

    /// Opens it if it is not as it was when it was last opened; `None` if it is.
    pub(super) fn open_if_changed(&mut self) -> io::Result<Option<File>> {
        // Opening a pipe would wait for a writer, so look before.
        if !fs::metadata(&self.path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(&self.path)?;
        let stamp = Stamp::of(&file.metadata()?);
        if self.seen == Some(stamp) {
            return Ok(None);
        }
        self.seen = Some(stamp);
        Ok(Some(file))
    }
}

/// A file name of a Corefile: relative ones are in *root*'s folder, if there is one.
pub(super) fn rooted(root: Option<&Path>, file: &str) -> PathBuf {
    match root {
        // Joining an absolute path gives that path.
        Some(root) => root.join(file),
        None => PathBuf::from(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::Folder;

    #[test]
    fn a_file_is_opened_once_for_each_change() {
        let folder = Folder::new("changing");
        let path = folder.write("file", "a");
        let mut file = ChangingFile::new(path);
        assert!(file.open_if_changed().expect("readable").is_some());
        assert!(file.open_if_changed().expect("readable").is_none());
        folder.write("file", "ab");
        assert!(file.open_if_changed().expect("readable").is_some());
        assert!(file.modified().is_some());
        folder.replace("file", "ba");
        assert!(file.open_if_changed().expect("readable").is_some());
        assert!(ChangingFile::new(folder.path().to_owned()).open_if_changed().is_err());
        assert!(ChangingFile::new(folder.path().join("none")).open_if_changed().is_err());
    }

    #[test]
    fn relative_names_are_in_the_root() {
        assert_eq!(rooted(Some(Path::new("/r")), "a"), Path::new("/r/a"));
        assert_eq!(rooted(Some(Path::new("/r")), "/a"), Path::new("/a"));
        assert_eq!(rooted(None, "a"), Path::new("a"));
    }
}
