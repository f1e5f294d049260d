//! The files that are being written, as far as the kernel reports it.
//!
//! `kubectl get … > dump.yaml` truncates the file and writes it some seconds later, and the first part of a dump may be
//! a valid document. Therefore a changed file is not read until its writer closes it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

/// The timeout for a writer after its last write, since it may never close the file.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on stored files. The directories may have other files that are written.
const MAX_FILES: usize = 1_000;

/// The files that were written and not closed since, by absolute path, with the time of the last write.
///
/// The key is the path, not the inode: when an event arrives, the file may already have another name, and only the
/// event has the name that it is about.
#[derive(Clone, Debug, Default)]
pub struct OpenFiles {
    /// Written by the thread that receives the kernel's events, read by the threads that follow files.
    since: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl OpenFiles {
    /// Records the writes and closes of an event of the kernel. Returns whether the event may be a change: a read is
    /// not.
    pub fn note(&self, event: &Event) -> bool {
        let paths = event.paths.iter();
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => paths.for_each(|path| self.record_write(path)),
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Create(_)
            | EventKind::Remove(_) => paths.for_each(|path| self.forget(path)),
            EventKind::Access(_) => return false,
            _ => {}
        }
        true
    }

    /// Records a write to the file with this path.
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

    /// Removes a path whose file was closed, replaced or removed.
    fn forget(&self, path: &Path) {
        if let Ok(path) = absolute(path) {
            self.since.lock().remove(&path);
        }
    }

    /// Returns whether the file with this path is being written.
    pub fn is_open(&self, path: &Path) -> bool {
        let Ok(path) = absolute(path) else { return false };
        self.since.lock().get(&path).is_some_and(|at| at.elapsed() < TIMEOUT)
    }
}

/// The kernel's events about the directories of all polled files.
struct Notices {
    open: OpenFiles,
    /// `None` if the kernel does not report events; a file is then complete when it has been unchanged for a while.
    /// Locked for the time of a system call, when a file is checked.
    watcher: Mutex<Option<RecommendedWatcher>>,
    /// The number of followed files in each directory.
    folders: Mutex<HashMap<PathBuf, usize>>,
}

/// Returns the events of the process. There is one watcher, since the kernel limits their number, and a reload creates
/// the new files before the old ones are dropped.
fn notices() -> &'static Notices {
    static NOTICES: OnceLock<Notices> = OnceLock::new();
    NOTICES.get_or_init(|| {
        let open = OpenFiles::default();
        let noted = open.clone();
        let handler = move |event: notify::Result<Event>| {
            if let Ok(event) = event {
                noted.note(&event);
            }
        };
        let watcher = notify::recommended_watcher(handler);
        let watcher =
            watcher.inspect_err(|error| tracing::debug!(%error, "the kernel does not report writes to files")).ok();
        Notices { open, watcher: Mutex::new(watcher), folders: Mutex::default() }
    })
}

/// The watched directory of a file. Dropping it ends the watch, if no other file needs it.
#[derive(Debug, Default)]
pub(super) struct WatchedFolder {
    folder: Option<PathBuf>,
}

impl WatchedFolder {
    /// Returns the files of watched directories that are being written.
    pub(super) fn open() -> OpenFiles {
        notices().open.clone()
    }

    /// Watches the directory of this file from now on. Returns the path of the file without symbolic links.
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
        let Notices { watcher, folders, .. } = notices();
        let mut folders = folders.lock();
        let files = folders.entry(folder.to_owned()).or_default();
        if *files == 0
            && let Some(watcher) = &mut *watcher.lock()
            && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
        {
            tracing::debug!(folder = %folder.display(), %error, "the kernel does not report writes to files");
        }
        *files += 1;
        self.folder = Some(folder.to_owned());
    }

    fn leave(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let Notices { watcher, folders, .. } = notices();
        let mut folders = folders.lock();
        let Some(files) = folders.get_mut(&folder) else { return };
        *files -= 1;
        if *files == 0 {
            folders.remove(&folder);
            if let Some(watcher) = &mut *watcher.lock() {
                // It fails if the directory was removed, and the watch with it.
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
