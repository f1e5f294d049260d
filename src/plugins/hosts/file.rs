//! The file behind *hosts*: read off the path of a query, published whole.

use std::io::BufReader;
use std::path::PathBuf;
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::table::Table;
use crate::plugins::changing::ChangingFile;
use crate::wire::NameBuf;
use std::sync::Arc;

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
    file: ChangingFile,
    /// It could not be read the last time, and the log says so already.
    failed: bool,
}

impl HostsFile {
    /// A file that is not read yet; call [`HostsFile::refresh`].
    pub(super) fn new(path: PathBuf, zones: Vec<NameBuf>, reverse: bool) -> HostsFile {
        let source = Mutex::new(Source { file: ChangingFile::new(path), failed: false });
        HostsFile { zones, reverse, table: ArcSwap::default(), source }
    }

    /// Reads the file again if it has changed. Where it cannot be read, what was read last stays, as in CoreDNS.
    ///
    /// Blocks on the file system: for a timer, not for a query.
    pub fn refresh(&self) {
        let mut source = self.source.lock();
        let read = match source.file.open_if_changed() {
            Ok(None) => return,
            Ok(Some(file)) => Table::read(BufReader::new(file), &self.zones, self.reverse),
            Err(error) => Err(error),
        };
        let path = source.file.path().display();
        match read {
            Ok((table, skipped)) => {
                debug!(plugin = "hosts", "parsed hosts file {path} into {} entries", table.entries());
                if skipped.names > 0 {
                    let count = skipped.names;
                    warn!(plugin = "hosts", "hosts file {path}: left out {count} words that are no names");
                }
                if skipped.rest {
                    warn!(plugin = "hosts", "hosts file {path} is too large, its end is left out");
                }
                self.table.store(Arc::new(table));
                source.failed = false;
            }
            // A file that does not exist is allowed; the Corefile's reader has warned.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound || source.failed => {}
            Err(error) => {
                warn!(plugin = "hosts", "cannot read hosts file {path}: {error}");
                source.failed = true;
            }
        }
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
