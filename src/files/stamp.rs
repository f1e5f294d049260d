//! The metadata of a file by which a change is noticed without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The metadata of a file that change with its content. The inode changes when another file with the same size and time
/// replaces it, as in a mounted ConfigMap; the change time of the inode changes when the modification time is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    /// Seconds and nanoseconds since 1970.
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of a file.
    pub(super) fn new(of: &Metadata) -> Stamp {
        Stamp {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }

    /// Returns the modification time.
    pub(super) fn modified(self) -> SystemTime {
        let (seconds, nanoseconds) = self.modified;
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        UNIX_EPOCH + since
    }
}
