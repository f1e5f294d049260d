//! Files that others write while the server runs: when a change is taken, and when its writer is waited for.
//!
//! ```text
//! look ─► stamp as before ──────────────────────────► Unchanged
//!      ─► written a moment ago, or still being written ► Unsettled: look again soon
//!      ─► read, and the stamp is the same afterwards ──► Changed, with the bytes
//! ```
//!
//! A file that is written in place is half written for a moment, and half of it may parse. So a change is taken once
//! the file has been quiet. What the last good state was, and what a bad one means, is the business of the caller.

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

/// How long nobody must have written to a file that is looked at by a timer. Scripts pause between the pieces that they
/// write; nobody waits for a change that closely.
const QUIET: Duration = Duration::from_secs(1);
/// How long a writer is waited for. One that never stops must not keep its changes from us for ever.
const MOST_WAITING: Duration = Duration::from_secs(10);
/// A file written less than this before it was read may be written again within the resolution of its time stamp: it is
/// read once more.
const RACY: Duration = Duration::from_secs(2);
/// How often a file is read at once when it changes while it is read.
const TRIES: usize = 3;
/// When to look again at a file that is being written.
pub const SOON: Duration = Duration::from_millis(250);

/// What a look at a file shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// It is as it was when it was last taken.
    Unchanged,
    /// It has changed and somebody is still writing it. Look again [`SOON`].
    Unsettled,
    /// It has changed, to this.
    Changed(Vec<u8>),
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is something else, such as a folder or a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// It is larger than any such file.
    #[error("longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The size in bytes, as far as it is known.
        size: u64,
    },
    /// It kept changing while it was read.
    #[error("changed while it was read")]
    Unsettled,
    /// It cannot be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, FileError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// A file that is read again when it has changed.
#[derive(Debug)]
pub struct FollowedFile {
    path: PathBuf,
    /// The most bytes that are read.
    limit: u64,
    /// How long nobody must have written to it.
    quiet: Duration,
    /// Which files somebody is writing now.
    open: OpenFiles,
    /// Holds the folder of the file watched, where nobody else does that.
    watched: Option<WatchedFolder>,
    /// What the file looked like when it was last taken; `None` to read it again in any case.
    stamp: Option<Stamp>,
    /// The hash of what was last taken.
    taken: Option<u64>,
    /// When what was last taken was written.
    modified: Option<SystemTime>,
    /// Whether it has been looked at.
    has_looked: bool,
    /// Since when a change waits for its writer.
    waiting: Option<SystemTime>,
}

impl FollowedFile {
    /// A file that is looked at by a timer.
    pub fn polled(path: PathBuf, limit: u64) -> FollowedFile {
        FollowedFile {
            watched: Some(WatchedFolder::default()),
            quiet: QUIET,
            ..FollowedFile::noticed(path, limit, WatchedFolder::open())
        }
    }

    /// A file whose folder the caller watches; it looks once notices have ceased to come. `open` knows from them which
    /// files are being written.
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

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When what was last taken was written.
    pub fn modified(&self) -> Option<SystemTime> {
        self.modified
    }

    /// Reads the file if it has changed and nobody is writing it. `now` is the time of day. The first look takes what
    /// is there: whoever starts needs something.
    ///
    /// Blocks on the file system.
    pub fn look(&mut self, now: SystemTime) -> Result<Look, FileError> {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let real = self.watched.as_mut().map(|watched| watched.follow(&self.path));
        let mut tries = 0;
        loop {
            tries += 1;
            // Opening a pipe would wait for a writer, so look before.
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
            if !is_first && self.is_waited_for(stamp, real.as_deref(), now) {
                return Ok(Look::Unsettled);
            }
            self.stamp = None;
            let bytes = self.read(metadata.len())?;
            if fs::metadata(&self.path).ok().as_ref().map(Stamp::new) != Some(stamp) {
                match (tries < TRIES, self.taken) {
                    (true, _) => continue,
                    (false, Some(_)) => return Ok(Look::Unsettled),
                    (false, None) => return Err(FileError::Unsettled),
                }
            }
            self.waiting = None;
            // A time to come is none that the next write has too.
            let is_settled = now.duration_since(stamp.written()).map_or(true, |age| age > RACY);
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

    /// Whether a change waits for its writer.
    fn is_waited_for(&mut self, stamp: Stamp, real: Option<&Path>, now: SystemTime) -> bool {
        let since = *self.waiting.get_or_insert(now);
        if now.duration_since(since).is_ok_and(|waited| waited > MOST_WAITING) {
            return false;
        }
        // While there is a good state there is time to wait for the writer.
        let is_open = self.taken.is_some() && self.open.is_open(real.unwrap_or(&self.path));
        // A file from the future has a clock of its own.
        is_open || now.duration_since(stamp.written()).is_ok_and(|age| age < self.quiet)
    }

    /// A file that cannot be looked at is read again whatever it looks like later.
    fn forget_unless<T>(&mut self, found: io::Result<T>) -> Result<T, FileError> {
        if found.is_err() {
            self.stamp = None;
        }
        Ok(found?)
    }

    /// The bytes of the file.
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

    /// A folder that is removed with this.
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

    /// A time of day so long after now.
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
    fn a_change_is_taken_once_the_file_has_been_quiet() {
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
    fn a_writer_that_never_stops_is_not_waited_for_for_ever() {
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
    fn a_file_that_its_writer_holds_open_is_left_alone() {
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
                assert!(start.elapsed() < Duration::from_secs(10), "the kernel tells of writers");
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
