//! Which files somebody is writing now, as far as the kernel tells.
//!
//! `kubectl get … > dump.yaml` empties the file and fills it some seconds later, and every beginning of a dump may well be
//! a good text. So a file that has changed is left alone until its writer closes it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a writer is waited for after what it wrote last. One that keeps the file open is not waited for for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many files are remembered. The folders may hold other files that somebody writes.
const MOST: usize = 1_000;

/// Files by device and inode, with the time of the last write to each that has not been closed since.
#[derive(Clone, Debug, Default)]
pub struct Writing {
    /// Written by the thread of the kernel's notices, read by the thread that follows the files.
    since: Arc<Mutex<HashMap<(u64, u64), Instant>>>,
}

impl Writing {
    /// Somebody has written to a file.
    pub fn written(&self, path: &Path) {
        let Some(file) = identity(path) else { return };
        let mut since = self.since.lock();
        if since.len() >= MOST {
            since.retain(|_, at| at.elapsed() < PATIENCE);
        }
        if since.len() < MOST {
            since.insert(file, Instant::now());
        }
    }

    /// A file that was open for writing is closed.
    pub fn closed(&self, path: &Path) {
        if let Some(file) = identity(path) {
            self.since.lock().remove(&file);
        }
    }

    /// Whether a file's writer should be waited for.
    pub fn is_open(&self, device: u64, inode: u64) -> bool {
        self.since.lock().get(&(device, inode)).is_some_and(|at| at.elapsed() < PATIENCE)
    }
}

/// Which file it is, whatever its path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
