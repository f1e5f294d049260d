//! Files that other programs write while the server runs: when a changed file is read, and how long to wait for its
//! writer.
//!
//! ```text
//! look ─► the same stamp as before ───────────────────► Unchanged
//!      ─► written a moment ago, or still being written ► Unsettled: look again soon
//!      ─► read, and the stamp is the same afterwards ──► Changed, with the bytes
//! ```
//!
//! A file that is written in place is incomplete for a moment, and its first half may be valid. A change is therefore
//! read only after the file has not been written to for some time. The caller decides whether the content is valid, and
//! what to use if it is not.

mod resolv_conf;
mod stamp;
#[cfg(test)]
pub(crate) mod testing;
mod writers;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use resolv_conf::{MAX_RESOLV_CONF, ResolvConf};
use stamp::Stamp;
pub use writers::OpenFiles;
use writers::WatchedFolder;

/// The time without a write after which a polled file is read. Scripts pause between writes, and a change need not be
/// read sooner.
const QUIET: Duration = Duration::from_secs(1);
/// The maximum time to wait for a writer. A changed file is read even if its writer never stops.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);
/// A file that was written less than this before it was read is read again, since another write may have the same
/// modification time: the clock of a file system is coarse.
const RACY: Duration = Duration::from_secs(2);
/// The number of attempts to read a file that changes while it is read.
const ATTEMPTS: usize = 3;
/// The time after which to look again at a file that is being written.
pub const SOON: Duration = Duration::from_millis(250);

/// The result of [`FollowedFile::look`].
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// The file has not changed since it was last read.
    Unchanged,
    /// The file has changed and is still being written. Look again after [`SOON`].
    Unsettled,
    /// The file has changed; its new content.
    Changed(Vec<u8>),
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The path is a directory, a pipe or another kind of file.
    #[error("not a regular file")]
    NotAFile,
    /// The file is larger than the limit of its kind.
    #[error("longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size in bytes, or the limit and 1 if the file grew while it was read.
        size: u64,
    },
    /// The file changed during each attempt to read it.
    #[error("changed while it was read")]
    Unsettled,
    /// The file cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileError {
    /// Returns whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, FileError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A file that is read again when it has changed.
#[derive(Debug)]
pub struct FollowedFile {
    path: PathBuf,
    /// The maximum size in bytes.
    limit: u64,
    /// The time without a write after which the file is read.
    quiet: Duration,
    /// The files that are being written.
    open: OpenFiles,
    /// The watch on the folder of the file, unless the caller watches it.
    watched: Option<WatchedFolder>,
    /// The stamp of the file when it was last read; `None` to read the file again in any case.
    stamp: Option<Stamp>,
    /// The hash of the content that was last read; `None` if the file was never read.
    content_hash: Option<u64>,
    /// The modification time of the content that was last read.
    modified: Option<SystemTime>,
    /// Whether [`FollowedFile::look`] was called.
    has_looked: bool,
    /// The start of the wait for the writer of a change.
    waiting_since: Option<SystemTime>,
}

impl FollowedFile {
    /// Creates a file that a timer looks at. `limit` is its maximum size in bytes.
    pub fn new_polled(path: PathBuf, limit: u64) -> FollowedFile {
        FollowedFile {
            watched: Some(WatchedFolder::default()),
            quiet: QUIET,
            ..FollowedFile::new_watched(path, limit, WatchedFolder::open_files())
        }
    }

    /// Creates a file whose folder the caller watches. The caller looks at the file when no more events arrive, and
    /// `open` has the files that are being written according to the events. `limit` is the maximum size in bytes.
    pub fn new_watched(path: PathBuf, limit: u64, open: OpenFiles) -> FollowedFile {
        FollowedFile {
            path,
            limit,
            quiet: Duration::ZERO,
            open,
            watched: None,
            stamp: None,
            content_hash: None,
            modified: None,
            has_looked: false,
            waiting_since: None,
        }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the modification time of the content that was last read; `None` if the file was never read.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Reads the file if it has changed and is not being written. `now` is the time of day. The first call does not
    /// wait for a writer, since a start needs some content.
    ///
    /// Blocks on the file system.
    ///
    /// # Errors
    ///
    /// After an error, the file is read again as soon as that is possible, even if its stamp is the same.
    pub fn look(&mut self, now: SystemTime) -> Result<Look, FileError> {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let real = self.watched.as_mut().map(|watched| watched.follow(&self.path));
        let mut attempts = 0;
        loop {
            attempts += 1;
            // Opening a pipe would block until it has a writer.
            let metadata = self.clear_stamp_on_error(fs::metadata(&self.path))?;
            if !metadata.is_file() {
                self.stamp = None;
                return Err(FileError::NotAFile);
            }
            let stamp = Stamp::new(&metadata);
            if self.stamp == Some(stamp) {
                self.waiting_since = None;
                return Ok(Look::Unchanged);
            }
            if !is_first && self.must_wait(stamp, real.as_deref(), now) {
                return Ok(Look::Unsettled);
            }
            self.stamp = None;
            let bytes = self.read(metadata.len())?;
            if fs::metadata(&self.path).ok().as_ref().map(Stamp::new) != Some(stamp) {
                if attempts < ATTEMPTS {
                    continue;
                }
                return if self.content_hash.is_some() { Ok(Look::Unsettled) } else { Err(FileError::Unsettled) };
            }
            self.waiting_since = None;
            // The next write has another time than one in the future.
            let is_settled = now.duration_since(stamp.modified()).map_or(true, |age| age > RACY);
            self.stamp = is_settled.then_some(stamp);
            self.modified = metadata.modified().ok();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            let hash = Some(hasher.finish());
            return Ok(if std::mem::replace(&mut self.content_hash, hash) == hash {
                Look::Unchanged
            } else {
                Look::Changed(bytes)
            });
        }
    }

    /// Returns whether to wait for the writer before a changed file is read, and starts the wait.
    fn must_wait(&mut self, stamp: Stamp, real: Option<&Path>, now: SystemTime) -> bool {
        let since = *self.waiting_since.get_or_insert(now);
        if now.duration_since(since).is_ok_and(|waited| waited > WRITER_TIMEOUT) {
            return false;
        }
        // Without earlier content there is no time to wait until the writer closes the file.
        let is_open = self.content_hash.is_some() && self.open.is_open(real.unwrap_or(&self.path));
        // The age of a file whose time is in the future is unknown: another clock set it.
        is_open || now.duration_since(stamp.modified()).is_ok_and(|age| age < self.quiet)
    }

    /// Clears the stamp after an error, so that the file is read again in any case.
    fn clear_stamp_on_error<T>(&mut self, result: io::Result<T>) -> Result<T, FileError> {
        if result.is_err() {
            self.stamp = None;
        }
        Ok(result?)
    }

    /// Returns the content of the file, whose size is `size` bytes by its metadata.
    fn read(&self, size: u64) -> Result<Vec<u8>, FileError> {
        let too_large = |size| FileError::TooLarge { limit: self.limit, size };
        if size > self.limit {
            return Err(too_large(size));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        File::open(&self.path)?.take(self.limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.limit {
            return Err(too_large(self.limit + 1));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::testing::Folder;
    use super::*;

    /// Returns the time of day this many seconds from now.
    fn after(seconds: u64) -> SystemTime {
        SystemTime::now() + Duration::from_secs(seconds)
    }

    fn changed(text: &str) -> Look {
        Look::Changed(text.into())
    }

    /// Looks until the writer has closed the file, which the kernel reports a little later.
    fn look_until_settled(file: &mut FollowedFile, now: SystemTime) -> Look {
        for _ in 0..2_000 {
            match file.look(now).expect("readable") {
                Look::Unsettled => std::thread::sleep(Duration::from_millis(5)),
                look => return look,
            }
        }
        panic!("the file is still being written after 10 s");
    }

    #[test]
    fn a_changed_file_is_read_when_it_has_been_quiet() {
        let folder = Folder::new("files");
        let mut file = FollowedFile::new_polled(folder.write("file", "a"), 100);
        assert_eq!(file.look(SystemTime::now()).expect("readable"), changed("a"), "the first look does not wait");
        assert_eq!(file.look(SystemTime::now()).expect("readable"), Look::Unsettled, "it may be written again");
        assert_eq!(look_until_settled(&mut file, after(2)), Look::Unchanged);
        folder.write("file", "a b");
        assert_eq!(file.look(SystemTime::now()).expect("readable"), Look::Unsettled);
        folder.write("file", "a b c");
        assert_eq!(file.look(SystemTime::now()).expect("readable"), Look::Unsettled);
        assert_eq!(look_until_settled(&mut file, after(2)), changed("a b c"));
        assert_eq!(look_until_settled(&mut file, after(9)), Look::Unchanged);
    }

    /// The clock of a file system is coarse: a file may change without a change of its size and time.
    #[test]
    fn a_file_of_the_same_size_and_time_is_read_again() {
        let folder = Folder::new("files");
        let path = folder.write("file", "ab");
        let mut file = FollowedFile::new_watched(path.clone(), 100, OpenFiles::default());
        assert_eq!(look_until_settled(&mut file, SystemTime::now()), changed("ab"));
        let time = fs::metadata(&path).expect("a file").modified().expect("a time");
        folder.write("file", "ba");
        File::options().append(true).open(&path).expect("a file").set_modified(time).expect("a time");
        assert_eq!(look_until_settled(&mut file, SystemTime::now()), changed("ba"));
        // While the file is fresh, it is read again even if its stamp is the same.
        file.content_hash = None;
        assert_eq!(look_until_settled(&mut file, SystemTime::now()), changed("ba"));
        assert_eq!(look_until_settled(&mut file, after(3)), Look::Unchanged);
        file.content_hash = None;
        assert_eq!(look_until_settled(&mut file, after(3)), Look::Unchanged, "an old stamp is trusted");
    }

    #[test]
    fn the_wait_for_a_writer_has_a_timeout() {
        let folder = Folder::new("files");
        let path = folder.write("file", "0");
        let mut file = FollowedFile::new_polled(path.clone(), 100);
        assert_eq!(look_until_settled(&mut file, SystemTime::now()), changed("0"));
        let start = SystemTime::now();
        let mut writer = File::options().append(true).open(&path).expect("a file");
        for second in 0..=11 {
            writer.write_all(b"1").expect("written");
            let now = start + Duration::from_secs(second);
            writer.set_modified(now).expect("a time");
            let look = file.look(now).expect("readable");
            assert_eq!(look == Look::Unsettled, second <= 10, "after {second} s: {look:?}");
        }
    }

    /// `command > file` empties the file and may fill it much later.
    #[test]
    fn a_file_that_its_writer_has_open_is_not_read() {
        let folder = Folder::new("files");
        let path = folder.write("file", "whole");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("file", &link).expect("a link");
        let mut file = FollowedFile::new_polled(link, 100);
        assert_eq!(look_until_settled(&mut file, SystemTime::now()), changed("whole"));
        let real = fs::canonicalize(&path).expect("a file");
        let mut writer = File::create(&path).expect("a file");
        let until = |is_open: bool| {
            let start = std::time::Instant::now();
            while WatchedFolder::open_files().is_open(&real) != is_open {
                assert!(start.elapsed() < Duration::from_secs(10), "the kernel reports writers");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        writer.write_all(b"a").expect("written");
        until(true);
        assert_eq!(file.look(after(5)).expect("readable"), Look::Unsettled);
        writer.write_all(b"b").expect("written");
        drop(writer);
        until(false);
        assert_eq!(look_until_settled(&mut file, after(5)), changed("ab"));
    }

    #[test]
    fn an_unreadable_file_is_an_error_and_a_restored_one_is_read() {
        let folder = Folder::new("files");
        let error = |path: PathBuf| FollowedFile::new_polled(path, 3).look(after(5)).expect_err("no file").to_string();
        assert_eq!(error(folder.path().to_owned()), "not a regular file");
        assert_eq!(error(folder.write("long", "abcd")), "longer than 3 bytes");
        let path = folder.write("file", "a");
        let mut file = FollowedFile::new_polled(path.clone(), 3);
        assert_eq!(look_until_settled(&mut file, after(5)), changed("a"));
        assert!(file.modified().is_some());
        fs::remove_file(&path).expect("removed");
        assert!(file.look(after(5)).expect_err("no file").is_not_found());
        folder.write("file", "a");
        assert_eq!(look_until_settled(&mut file, after(5)), Look::Unchanged, "the same text as before");
        folder.write("file", "b");
        assert_eq!(look_until_settled(&mut file, after(5)), changed("b"));
    }
}
