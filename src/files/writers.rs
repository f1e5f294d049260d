//! The files that are being written, as far as the kernel reports it.
//!
//! `kubectl get … > dump.yaml` empties the file and fills it some seconds later, and any part of a dump may be valid. A
//! changed file is therefore not read until its writer closes it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

/// The time after its last write when a file no longer counts as open: some programs never close it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum number of open files in the table. Other programs may write many files into the same folders.
const MAX_FILES: usize = 1_000;

/// Files that were written to and not closed since, by absolute path, with the time of the last write.
///
/// The key is the path, not the inode: when an event arrives, the file may already have another name, and only the
/// event has the name to which it applies.
#[derive(Clone, Debug, Default)]
pub struct OpenFiles {
    /// Written by the thread that receives the events of the kernel; read by the timers that look at files.
    since: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl OpenFiles {
    /// Updates the table with an event of the kernel. Returns whether a file may have changed, which is not the case if
    /// it was only read.
    pub fn note(&self, event: &Event) -> bool {
        let paths = event.paths.iter();
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => paths.for_each(|path| self.record_write(path)),
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Create(_)
            | EventKind::Remove(_) => paths.for_each(|path| self.record_close(path)),
            EventKind::Access(_) => return false,
            _ => {}
        }
        true
    }

    /// Records a write to a file.
    fn record_write(&self, path: &Path) {
        let Ok(path) = absolute(path) else { return };
        let mut since = self.since.lock();
        if since.len() >= MAX_FILES {
            since.retain(|_, at| at.elapsed() < TIMEOUT);
        }
        if since.len() < MAX_FILES {
            since.insert(path, Instant::now());
        }
    }

    /// Records that a file was closed, replaced or removed.
    fn record_close(&self, path: &Path) {
        if let Ok(path) = absolute(path) {
            self.since.lock().remove(&path);
        }
    }

    /// Returns whether a file is being written.
    pub fn is_open(&self, path: &Path) -> bool {
        let Ok(path) = absolute(path) else { return false };
        self.since.lock().get(&path).is_some_and(|at| at.elapsed() < TIMEOUT)
    }
}

/// The watches on the folders of all polled files.
struct FolderWatches {
    open: OpenFiles,
    /// `None` if the kernel does not support watches; then a file is read as soon as it has been quiet. Locked during a
    /// system call, when a file is looked at.
    watcher: Mutex<Option<RecommendedWatcher>>,
    /// The number of followed files in each folder.
    folders: Mutex<HashMap<PathBuf, usize>>,
}

/// Returns the watches of the process. There is one watcher only, since the kernel limits their number, and during a
/// reload the files of two configurations exist.
fn watches() -> &'static FolderWatches {
    static WATCHES: OnceLock<FolderWatches> = OnceLock::new();
    WATCHES.get_or_init(|| {
        let open = OpenFiles::default();
        let recorder = open.clone();
        let handler = move |event: notify::Result<Event>| {
            if let Ok(event) = event {
                recorder.note(&event);
            }
        };
        let watcher = notify::recommended_watcher(handler);
        let watcher = watcher.inspect_err(|error| tracing::debug!(%error, "cannot watch for writers of files")).ok();
        FolderWatches { open, watcher: Mutex::new(watcher), folders: Mutex::default() }
    })
}

/// The watch on the folder of a file. It ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct WatchedFolder {
    folder: Option<PathBuf>,
}

impl WatchedFolder {
    /// Returns the files in watched folders that are being written.
    pub(super) fn open_files() -> OpenFiles {
        watches().open.clone()
    }

    /// Watches the folder of a file instead of the previous folder. Returns the path of the file without symbolic
    /// links.
    pub(super) fn follow(&mut self, path: &Path) -> PathBuf {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let folder = real.parent().filter(|folder| folder.is_dir());
        if folder != self.folder.as_deref() {
            self.leave();
            if let Some(folder) = folder {
                self.enter(folder);
            }
        }
        real
    }

    fn enter(&mut self, folder: &Path) {
        let FolderWatches { watcher, folders, .. } = watches();
        let mut folders = folders.lock();
        let files = folders.entry(folder.to_owned()).or_default();
        if *files == 0
            && let Some(watcher) = &mut *watcher.lock()
            && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
        {
            tracing::debug!(folder = %folder.display(), %error, "cannot watch for writers of files");
        }
        *files += 1;
        self.folder = Some(folder.to_owned());
    }

    fn leave(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let FolderWatches { watcher, folders, .. } = watches();
        let mut folders = folders.lock();
        let Some(files) = folders.get_mut(&folder) else { return };
        *files -= 1;
        if *files == 0 {
            folders.remove(&folder);
            if let Some(watcher) = &mut *watcher.lock() {
                // If the folder was removed, so was its watch.
                let _ = watcher.unwatch(&folder);
            }
        }
    }
}

impl Drop for WatchedFolder {
    fn drop(&mut self) {
        self.leave();
    }
}
