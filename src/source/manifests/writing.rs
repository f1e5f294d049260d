//! Which files somebody is writing now, as far as the kernel tells.
//!
//! `kubectl get … > dump.yaml` empties the file and fills it some seconds later, and every beginning of a dump may well be
//! a good text. So a file that has changed is left alone until its writer closes it.

use std::collections::HashMap;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a writer is waited for after what it wrote last. One that keeps the file open is not waited for for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many files are remembered. The folders may hold other files that somebody writes.
const MOST: usize = 1_000;

/// Files by absolute path, with the time of the last write to each that has not been closed since.
///
/// By path and not by inode: when a notice is heard of, the file may have another name already, and only the notice
/// itself says which one it was about.
#[derive(Clone, Debug, Default)]
pub struct Writing {
    /// Written by the thread of the kernel's notices, read by the thread that follows the files.
    since: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl Writing {
    /// Somebody has written to the file of this name.
    pub fn written(&self, path: &Path) {
        let Ok(path) = absolute(path) else { return };
        let mut since = self.since.lock();
        if since.len() >= MOST {
            since.retain(|_, at| at.elapsed() < PATIENCE);
        }
        if since.len() < MOST {
            since.insert(path, Instant::now());
        }
    }

    /// The file of this name is closed, or is another one or none now.
    pub fn ended(&self, path: &Path) {
        if let Ok(path) = absolute(path) {
            self.since.lock().remove(&path);
        }
    }

    /// Whether the writer of the file of this name should be waited for.
    pub fn is_open(&self, path: &Path) -> bool {
        let Ok(path) = absolute(path) else { return false };
        self.since.lock().get(&path).is_some_and(|at| at.elapsed() < PATIENCE)
    }
}
