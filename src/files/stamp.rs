//! What a file looks like from outside: by it a change is seen without reading the file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The inode reveals a file that was replaced by one as long and as old, as it is when a mounted ConfigMap changes;
/// the time of the inode's change of one whose time was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file.
    pub(super) fn new(of: &Metadata) -> Stamp {
        Stamp {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }

    /// When its content was written.
    pub(super) fn written(self) -> SystemTime {
        let (seconds, nanoseconds) = self.modified;
        let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
        UNIX_EPOCH + since
    }
}
