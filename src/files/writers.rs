//! Which files are being written, as far as the kernel reports it.
//!
//! `kubectl get … > dump.yaml` empties the file and fills it some seconds later, and every beginning of a dump may well
//! be a good text. So a file that has changed is left alone until its writer closes it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

/// How long a writer is waited for after what it wrote last. One that keeps the file open is not waited for for ever.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many files are remembered. The folders may hold other files that somebody writes.
const MAX_FILES: usize = 1_000;

/// Files by absolute path, with the time of the last write to each that has not been closed since.
///
/// By path and not by inode: when a notice is heard of, the file may have another name already, and only the notice
/// itself says which one it was about.
#[derive(Clone, Debug, Default)]
pub struct OpenFiles {
    /// Written by the thread of the kernel's notices, read by those who follow files.
    since: Arc<Mutex<HashMap<PathBuf, Instant>>>,
}

impl OpenFiles {
    /// Learns from a notice of the kernel who writes, and who has ended. Returns whether the notice says that something
    /// may have changed: that files are read is no change.
    pub fn note(&self, event: &Event) -> bool {
        let paths = event.paths.iter();
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => paths.for_each(|path| self.written(path)),
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Create(_)
            | EventKind::Remove(_) => paths.for_each(|path| self.ended(path)),
            EventKind::Access(_) => return false,
            _ => {}
        }
        true
    }

    /// The file of this name has been written to.
    fn written(&self, path: &Path) {
        let Ok(path) = absolute(path) else { return };
        let mut since = self.since.lock();
        if since.len() >= MAX_FILES {
            since.retain(|_, at| at.elapsed() < TIMEOUT);
        }
        if since.len() < MAX_FILES {
            since.insert(path, Instant::now());
        }
    }

    /// The file of this name is closed, or is another one or none now.
    fn ended(&self, path: &Path) {
        if let Ok(path) = absolute(path) {
            self.since.lock().remove(&path);
        }
    }

    /// Whether the writer of the file of this name should be waited for.
    pub fn is_open(&self, path: &Path) -> bool {
        let Ok(path) = absolute(path) else { return false };
        self.since.lock().get(&path).is_some_and(|at| at.elapsed() < TIMEOUT)
    }
}

/// The kernel's notices about the folders of all files that are looked at by a timer.
struct Notices {
    open: OpenFiles,
    /// `None` where the kernel has no such service; then a file counts as written once it has been quiet. Locked for
    /// the time of a system call, when a file is looked at.
    watcher: Mutex<Option<RecommendedWatcher>>,
    /// How many files are followed in each folder.
    folders: Mutex<HashMap<PathBuf, usize>>,
}

/// There is one for the process: the kernel bounds them, and a reload builds the next files beside the last.
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
        let watcher = watcher.inspect_err(|error| tracing::debug!(%error, "no notices of files that are written")).ok();
        Notices { open, watcher: Mutex::new(watcher), folders: Mutex::default() }
    })
}

/// Holds the folder watched that a file is in.
#[derive(Debug, Default)]
pub(super) struct WatchedFolder {
    folder: Option<PathBuf>,
}

impl WatchedFolder {
    /// The files of watched folders that are being written.
    pub(super) fn open() -> OpenFiles {
        notices().open.clone()
    }

    /// Watches the folder of this file from now on; gives the file's path behind all links.
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
            tracing::debug!(folder = %folder.display(), %error, "no notices of files that are written");
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
                // It may be gone, and its watch with it.
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
