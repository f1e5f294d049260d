//! The hosts file of a stanza. It is read outside the path of a query, and its table is replaced as a whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::table::{Skipped, Table};
use crate::files::{FileError, FollowedFile, Look};
use crate::wire::NameBuf;

/// The maximum size of a file in bytes; a larger file is an error. The table uses fewer.
const LIMIT: u64 = 128 << 20;

/// A hosts file.
#[derive(Debug)]
pub struct HostsFile {
    /// Entries outside these zones are ignored.
    zones: Vec<NameBuf>,
    /// The table has the names of addresses too.
    has_reverse: bool,
    /// Written by `refresh` only; read for every query.
    table: ArcSwap<Table>,
    /// Locked while the file is read. Used by `refresh`, which a timer calls, and for metrics.
    state: Mutex<FileState>,
}

#[derive(Debug)]
struct FileState {
    file: FollowedFile,
    /// The last attempt to read the file failed, and a warning was logged.
    is_reported: bool,
}

impl HostsFile {
    /// Creates an empty table. [`HostsFile::refresh`] reads the file.
    pub(super) fn new(path: PathBuf, zones: Vec<NameBuf>, reverse: bool) -> HostsFile {
        let state = Mutex::new(FileState { file: FollowedFile::new_polled(path, LIMIT), is_reported: false });
        HostsFile { zones, has_reverse: reverse, table: ArcSwap::default(), state }
    }

    /// Reads the file if it has changed. If it cannot be read, the previous table stays in use, as in CoreDNS. Returns
    /// whether the file is being written, so that the next call should come soon ([`crate::files::SOON`]). `now` is the
    /// time of day.
    ///
    /// Blocks on the file system: a timer calls it, never a query.
    pub fn refresh(&self, now: SystemTime) -> bool {
        let mut state = self.state.lock();
        let table = match state.file.look(now) {
            Ok(Look::Unchanged) => return false,
            Ok(Look::Unsettled) => return true,
            Ok(Look::Changed(bytes)) => Table::read(&bytes[..], &self.zones, self.has_reverse).map_err(FileError::Io),
            Err(error) => Err(error),
        };
        let path = state.file.path().display();
        match table {
            Ok((table, skipped)) => {
                debug!(plugin = "hosts", "parsed hosts file {path} into {} entries", table.entries());
                let Skipped { names, rest } = skipped;
                if names > 0 {
                    warn!(plugin = "hosts", "hosts file {path}: {names} words are ignored, they are not names");
                }
                if rest {
                    warn!(plugin = "hosts", "hosts file {path} is too large, its end is ignored");
                }
                self.table.store(Arc::new(table));
                state.is_reported = false;
            }
            // A file that does not exist is allowed. There was a warning when the Corefile was parsed.
            Err(error) if error.is_not_found() || state.is_reported => {}
            Err(error) => {
                warn!(plugin = "hosts", "cannot read hosts file {path}: {error}; its last good state is served");
                state.is_reported = true;
            }
        }
        false
    }

    /// Returns the path of the file, the label of CoreDNS's `hosts_entries`.
    pub fn path(&self) -> PathBuf {
        self.state.lock().file.path().to_owned()
    }

    /// Returns the modification time of the file that was read last, for CoreDNS's `hosts_reload_timestamp_seconds`.
    pub fn modified(&self) -> Option<SystemTime> {
        self.state.lock().file.modified()
    }

    /// Returns the table of the file that was read last.
    pub(super) fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }
}
