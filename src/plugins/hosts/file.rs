//! The file behind *hosts*: read off the path of a query, published whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::table::{Skipped, Table};
use crate::files::{FileError, FollowedFile, Look};
use crate::wire::NameBuf;

/// The most bytes that are read; more than the table looks at.
const LIMIT: u64 = 128 << 20;

/// A hosts file.
#[derive(Debug)]
pub struct HostsFile {
    /// Names outside of these are not read.
    zones: Vec<NameBuf>,
    /// Addresses lead back to names.
    reverse: bool,
    /// Written by `refresh` alone; every query reads it.
    table: ArcSwap<Table>,
    /// Held while the file is read; only `refresh`, by its timer, and the metrics look at it.
    source: Mutex<Source>,
}

#[derive(Debug)]
struct Source {
    file: FollowedFile,
    /// It could not be read the last time, and the log says so already.
    failed: bool,
}

impl HostsFile {
    /// A file that is not read yet; call [`HostsFile::refresh`].
    pub(super) fn new(path: PathBuf, zones: Vec<NameBuf>, reverse: bool) -> HostsFile {
        let source = Mutex::new(Source { file: FollowedFile::polled(path, LIMIT), failed: false });
        HostsFile { zones, reverse, table: ArcSwap::default(), source }
    }

    /// Reads the file again if it has changed. Where it cannot be read, what was read last stays, as in CoreDNS. Returns
    /// whether it is being written, so that it is to be read again soon. `now` is the time of day.
    ///
    /// Blocks on the file system: for a timer, not for a query.
    pub fn refresh(&self, now: SystemTime) -> bool {
        let mut source = self.source.lock();
        let read = match source.file.look(now) {
            Ok(Look::Unchanged) => return false,
            Ok(Look::Unsettled) => return true,
            Ok(Look::Changed(bytes)) => Table::read(&bytes[..], &self.zones, self.reverse).map_err(FileError::Io),
            Err(error) => Err(error),
        };
        let path = source.file.path().display();
        match read {
            Ok((table, skipped)) => {
                debug!(plugin = "hosts", "parsed hosts file {path} into {} entries", table.entries());
                let Skipped { names, rest } = skipped;
                if names > 0 {
                    warn!(plugin = "hosts", "hosts file {path}: left out {names} words that are no names");
                }
                if rest {
                    warn!(plugin = "hosts", "hosts file {path} is too large, its end is left out");
                }
                self.table.store(Arc::new(table));
                source.failed = false;
            }
            // A file that does not exist is allowed; the Corefile's reader has warned.
            Err(error) if error.is_not_found() || source.failed => {}
            Err(error) => {
                warn!(plugin = "hosts", "cannot read hosts file {path}: {error}; its last good state is served");
                source.failed = true;
            }
        }
        false
    }

    /// Its path, the label of CoreDNS's `hosts_entries`.
    pub fn path(&self) -> PathBuf {
        self.source.lock().file.path().to_owned()
    }

    /// When what was read was written: CoreDNS's `hosts_reload_timestamp_seconds`.
    pub fn modified(&self) -> Option<SystemTime> {
        self.source.lock().file.modified()
    }

    /// What was read.
    pub(super) fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }
}
