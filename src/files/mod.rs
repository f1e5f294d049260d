//! Files that other programs write while the server runs: when a change is read, and how long to wait for its writer.
//!
//! ```text
//! look ─► stamp as before ──────────────────────────► Unchanged
//!      ─► written a moment ago, or still being written ► Unsettled: look again soon
//!      ─► read, and the stamp is the same afterwards ──► Changed, with the bytes
//! ```
//!
//! A file that is written in place is incomplete for a moment, and its first half may be valid. Therefore a change is
//! read when the file has been unchanged for a while. The caller stores the last valid state, and decides about invalid
//! ones.

mod resolv_conf;
mod stamp;
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

/// How long a polled file must be unchanged before it is read. Scripts may pause between their writes, and no change is
/// urgent to the second.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// The timeout for a writer. Changes by a writer that never stops are read after this time.
const WRITER_TIMEOUT: Duration = Duration::from_secs(10);
/// A file that was written less than this before it was read may be written again within the resolution of its time
/// stamp, so that it is read once more.
const RACY_TIME: Duration = Duration::from_secs(2);
/// How many times in a row a file is read if it changes during the read.
const MAX_READS: usize = 3;
/// When to look again at a file that is being written.
pub const SOON: Duration = Duration::from_millis(250);

/// The result of [`FollowedFile::look`].
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// The file is as it was when it was last read.
    Unchanged,
    /// The file has changed and is still being written. Look again [`SOON`].
    Unsettled,
    /// The file has changed; its new content.
    Changed(Vec<u8>),
}

/// An error of reading a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not a file, but a directory or a pipe, for example.
    #[error("not a regular file")]
    NotAFile,
    /// It is larger than the limit.
    #[error("longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size in bytes, as far as it is known.
        size: u64,
    },
    /// It changed during each read.
    #[error("changed while it was read")]
    Unsettled,
    /// It cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileError {
    /// Returns whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, FileError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A file that is read again when it has changed.
#[derive(Debug)]
pub struct FollowedFile {
    path: PathBuf,
    /// The limit on its size in bytes.
    limit: u64,
    /// How long it must be unchanged before it is read.
    quiet: Duration,
    /// The files that are being written.
    open: OpenFiles,
    /// Watches the directory of the file, unless the caller does.
    watched: Option<WatchedFolder>,
    /// The stamp of the file when it was last read; `None` if it must be read again.
    stamp: Option<Stamp>,
    /// The hash of the last content.
    taken: Option<u64>,
    /// The modification time of the last content.
    modified: Option<SystemTime>,
    /// [`FollowedFile::look`] has been called.
    has_looked: bool,
    /// The time since which a change waits for its writer.
    waiting: Option<SystemTime>,
}

impl FollowedFile {
    /// Creates a file that is checked periodically.
    pub fn polled(path: PathBuf, limit: u64) -> FollowedFile {
        FollowedFile {
            watched: Some(WatchedFolder::default()),
            quiet: QUIET_TIME,
            ..FollowedFile::noticed(path, limit, WatchedFolder::open())
        }
    }

    /// Creates a file whose directory the caller watches; it is checked when there have been no more events for a
    /// while. `open` learns from the events which files are being written.
    pub fn noticed(path: PathBuf, limit: u64, open: OpenFiles) -> FollowedFile {
        FollowedFile {
            path,
            limit,
            quiet: Duration::ZERO,
            open,
            watched: None,
            stamp: None,
            taken: None,
            modified: None,
            has_looked: false,
            waiting: None,
        }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the modification time of the last content.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Reads the file if it has changed and is not being written. `now` is the time of day. The first call reads the
    /// file in any case, since a start cannot wait.
    ///
    /// Blocks on the file system.
    pub fn look(&mut self, now: SystemTime) -> Result<Look, FileError> {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let real = self.watched.as_mut().map(|watched| watched.follow(&self.path));
        let mut reads = 0;
        loop {
            reads += 1;
            // Checked first, since opening a pipe would wait for a writer.
            let metadata = self.forget_unless(fs::metadata(&self.path))?;
            if !metadata.is_file() {
                self.stamp = None;
                return Err(FileError::NotAFile);
            }
            let stamp = Stamp::new(&metadata);
            if self.stamp == Some(stamp) {
                self.waiting = None;
                return Ok(Look::Unchanged);
            }
            if !is_first && self.must_wait(stamp, real.as_deref(), now) {
                return Ok(Look::Unsettled);
            }
            self.stamp = None;
            let bytes = self.read(metadata.len())?;
            if fs::metadata(&self.path).ok().as_ref().map(Stamp::new) != Some(stamp) {
                match (reads < MAX_READS, self.taken) {
                    (true, _) => continue,
                    (false, Some(_)) => return Ok(Look::Unsettled),
                    (false, None) => return Err(FileError::Unsettled),
                }
            }
            self.waiting = None;
            // The next write cannot have the same time if this time is in the future.
            let is_settled = now.duration_since(stamp.written()).map_or(true, |age| age > RACY_TIME);
            self.stamp = is_settled.then_some(stamp);
            self.modified = metadata.modified().ok();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            let hash = Some(hasher.finish());
            return Ok(if std::mem::replace(&mut self.taken, hash) == hash {
                Look::Unchanged
            } else {
                Look::Changed(bytes)
            });
        }
    }

    /// Returns whether a change has to wait for its writer.
    fn must_wait(&mut self, stamp: Stamp, real: Option<&Path>, now: SystemTime) -> bool {
        let since = *self.waiting.get_or_insert(now);
        if now.duration_since(since).is_ok_and(|waited| waited > WRITER_TIMEOUT) {
            return false;
        }
        // If there is an earlier content, there is time to wait for the writer.
        let is_open = self.taken.is_some() && self.open.is_open(real.unwrap_or(&self.path));
        // A modification time in the future comes from another clock, and does not delay the read.
        is_open || now.duration_since(stamp.written()).is_ok_and(|age| age < self.quiet)
    }

    /// Forgets the stamp after an error, so that the file is read again later.
    fn forget_unless<T>(&mut self, found: io::Result<T>) -> Result<T, FileError> {
        if found.is_err() {
            self.stamp = None;
        }
        Ok(found?)
    }

    /// Reads the file.
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory that is removed when this is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("clusterdns-files-{}-{count}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Folder(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).expect("a file");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Returns the time of day in this number of seconds.
    fn after(seconds: u64) -> SystemTime {
        SystemTime::now() + Duration::from_secs(seconds)
    }

    fn changed(text: &str) -> Look {
        Look::Changed(text.into())
    }

    /// Looks until the writer has closed the file: the kernel reports that a little later.
    fn settled(file: &mut FollowedFile, now: SystemTime) -> Look {
        for _ in 0..2_000 {
            match file.look(now).expect("readable") {
                Look::Unsettled => std::thread::sleep(Duration::from_millis(5)),
                look => return look,
            }
        }
        panic!("the file is still being written after 10 s");
    }

    #[test]
    fn a_change_is_read_when_the_file_has_been_unchanged_for_a_while() {
        let folder = Folder::new();
        let mut file = FollowedFile::polled(folder.write("file", "a"), 100);
        assert_eq!(file.look(SystemTime::now()).expect("readable"), changed("a"), "the first look takes what is there");
        assert_eq!(file.look(SystemTime::now()).expect("readable"), Look::Unsettled, "it may be written again");
        assert_eq!(settled(&mut file, after(2)), Look::Unchanged);
        folder.write("file", "a b");
        assert_eq!(file.look(SystemTime::now()).expect("readable"), Look::Unsettled);
        folder.write("file", "a b c");
        assert_eq!(file.look(SystemTime::now()).expect("readable"), Look::Unsettled);
        assert_eq!(settled(&mut file, after(2)), changed("a b c"));
        assert_eq!(settled(&mut file, after(9)), Look::Unchanged);
    }

    /// The clock of a file system is coarse: a file may change and have the size and the time that it had.
    #[test]
    fn a_file_of_the_same_size_and_time_is_read_again() {
        let folder = Folder::new();
        let path = folder.write("file", "ab");
        let mut file = FollowedFile::noticed(path.clone(), 100, OpenFiles::default());
        assert_eq!(settled(&mut file, SystemTime::now()), changed("ab"));
        let time = fs::metadata(&path).expect("a file").modified().expect("a time");
        folder.write("file", "ba");
        File::options().append(true).open(&path).expect("a file").set_modified(time).expect("a time");
        assert_eq!(settled(&mut file, SystemTime::now()), changed("ba"));
        // So it is where even the stamp is the same, as long as the file is fresh.
        file.taken = None;
        assert_eq!(settled(&mut file, SystemTime::now()), changed("ba"));
        assert_eq!(settled(&mut file, after(3)), Look::Unchanged);
        file.taken = None;
        assert_eq!(settled(&mut file, after(3)), Look::Unchanged, "it is old enough to trust its stamp");
    }

    #[test]
    fn a_change_by_a_writer_that_never_stops_is_read_after_the_timeout() {
        let folder = Folder::new();
        let path = folder.write("file", "0");
        let mut file = FollowedFile::polled(path.clone(), 100);
        assert_eq!(settled(&mut file, SystemTime::now()), changed("0"));
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
    fn a_file_that_is_being_written_is_not_read() {
        let folder = Folder::new();
        let path = folder.write("file", "whole");
        let link = folder.0.join("link");
        std::os::unix::fs::symlink("file", &link).expect("a link");
        let mut file = FollowedFile::polled(link, 100);
        assert_eq!(settled(&mut file, SystemTime::now()), changed("whole"));
        let real = fs::canonicalize(&path).expect("a file");
        let mut writer = File::create(&path).expect("a file");
        let until = |is_open: bool| {
            let start = std::time::Instant::now();
            while WatchedFolder::open().is_open(&real) != is_open {
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
        assert_eq!(settled(&mut file, after(5)), changed("ab"));
    }

    #[test]
    fn what_is_no_file_is_an_error_and_one_that_comes_back_is_looked_at() {
        let folder = Folder::new();
        let error = |path: PathBuf| FollowedFile::polled(path, 3).look(after(5)).expect_err("no file").to_string();
        assert_eq!(error(folder.0.clone()), "not a regular file");
        assert_eq!(error(folder.write("long", "abcd")), "longer than 3 bytes");
        let path = folder.write("file", "a");
        let mut file = FollowedFile::polled(path.clone(), 3);
        assert_eq!(settled(&mut file, after(5)), changed("a"));
        assert!(file.modified().is_some());
        fs::remove_file(&path).expect("removed");
        assert!(file.look(after(5)).expect_err("no file").is_not_found());
        folder.write("file", "a");
        assert_eq!(settled(&mut file, after(5)), Look::Unchanged, "the same text as before");
        folder.write("file", "b");
        assert_eq!(settled(&mut file, after(5)), changed("b"));
    }
}
