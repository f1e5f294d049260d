//! Following the files: a thread that reads them again when they change, and tells the indexes.
//!
//! The kernel says when something happens in the folders concerned (inotify); what happened is found by looking. So an
//! editor that renames, a ConfigMap whose `..data` link moves, and a file that is deleted and written again are all the
//! same. Beside that, the files' times are looked at twice a second: for file systems without notices, and for files
//! behind links whose own folders nobody watches.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::{Manifests, Snapshot};
use crate::files::OpenFiles;
use crate::source::{Selection, Sink};

/// How often the files are looked at without a notice.
const POLL: Duration = Duration::from_millis(500);
/// How long it has to be quiet before files are read: a writer's next write comes sooner.
const QUIET: Duration = Duration::from_millis(50);
/// How long to wait for quiet at most.
const PATIENCE: Duration = Duration::from_millis(300);

/// The thread's stack: the parser needs a good part of the usual 2 MiB at its deepest.
const STACK: usize = 8 << 20;

/// Somebody who wants to hear of changes.
pub struct Subscriber {
    /// What of them.
    pub selection: Selection,
    /// Where they go.
    pub sink: Box<dyn Sink>,
}

/// A thread that follows the files. It ends when this is dropped.
#[derive(Debug)]
pub struct Following {
    wake: Sender<Wake>,
    /// `None` once it is stopped.
    thread: Option<JoinHandle<Manifests>>,
}

/// Why the thread wakes up.
enum Wake {
    /// Something happened in a folder.
    Changed,
    /// The end.
    Stop,
}

impl Manifests {
    /// Tells every subscriber all of what was read, before this returns, and from then on what changes.
    pub fn follow(self, mut subscribers: Vec<Subscriber>) -> io::Result<Following> {
        for Subscriber { selection, sink } in &mut subscribers {
            self.snapshot.events(selection).for_each(|event| sink.apply(event));
        }
        let (wake, woken) = mpsc::channel();
        let notices = wake.clone();
        let body = move || run(self, &mut subscribers, notices, &woken);
        let thread = thread::Builder::new().name("manifests".into()).stack_size(STACK).spawn(body)?;
        Ok(Following { wake, thread: Some(thread) })
    }
}

impl Following {
    /// Ends the thread; no subscriber hears anything afterwards. What was read can be followed again, by others.
    pub fn stop(mut self) -> Manifests {
        let _ = self.wake.send(Wake::Stop);
        let thread = self.thread.take().expect("only stop and drop take it");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// The thread.
fn run(
    mut manifests: Manifests, subscribers: &mut [Subscriber], notices: Sender<Wake>, woken: &Receiver<Wake>,
) -> Manifests {
    let mut folders = Folders::new(notices, manifests.open.clone());
    loop {
        // Watch first, look afterwards: what happens between the two is seen.
        folders.watch(&manifests);
        let previous = manifests.snapshot.clone();
        if manifests.refresh() {
            report(&previous, &manifests.snapshot);
            for Subscriber { selection, sink } in subscribers.iter_mut() {
                manifests.snapshot.changes(&previous, selection).for_each(|event| sink.apply(event));
            }
        }
        match woken.recv_timeout(POLL) {
            Ok(Wake::Changed) if !quiet(woken) => return manifests,
            Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return manifests,
        }
    }
}

/// Waits until nothing has happened for a while; `false` at the end of all.
fn quiet(woken: &Receiver<Wake>) -> bool {
    let until = Instant::now() + PATIENCE;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match woken.recv_timeout(left.min(QUIET)) {
            Ok(Wake::Changed) => {}
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
        }
    }
    true
}

/// Logs what is wrong now and was not before.
fn report(previous: &Snapshot, next: &Snapshot) {
    let known: HashSet<_> = previous.warnings().iter().collect();
    for warning in next.warnings().iter().filter(|warning| !known.contains(warning)) {
        tracing::warn!(%warning, "manifest");
    }
    tracing::info!(warnings = next.warnings().len(), "manifests changed");
}

/// Device, inode, and time of birth, because inodes are used again.
type Identity = (u64, u64, Option<SystemTime>);

/// The folders that the kernel watches for us.
struct Folders {
    /// `None` where there is no such service; looking at the files' times has to do.
    watcher: Option<RecommendedWatcher>,
    /// Those that are watched, and which folder was there: one that is deleted and made again is another.
    watched: BTreeMap<PathBuf, Option<Identity>>,
}

impl Folders {
    /// No folders yet.
    fn new(notices: Sender<Wake>, open: OpenFiles) -> Folders {
        let handler = move |event: notify::Result<notify::Event>| {
            // We ourselves open the files to read them, which is an event too.
            if event.is_ok_and(|event| open.note(&event)) {
                let _ = notices.send(Wake::Changed);
            }
        };
        let watcher = notify::recommended_watcher(handler);
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "no notices of changed manifests, polling")).ok();
        Folders { watcher, watched: BTreeMap::new() }
    }

    /// Watches the folders in which these manifests are, and no others.
    fn watch(&mut self, manifests: &Manifests) {
        use std::os::unix::fs::MetadataExt;
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeMap::new();
        for path in manifests.paths() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // The parent of a folder too: it may be a link that is moved.
            let folders = [Some(parent), path.is_dir().then_some(path)];
            for folder in folders.into_iter().flatten() {
                let identity = fs::metadata(folder).ok().map(|found| (found.dev(), found.ino(), found.created().ok()));
                wanted.insert(folder.to_owned(), identity);
            }
        }
        if wanted == self.watched {
            return;
        }
        for (folder, _) in self.watched.iter().filter(|(folder, identity)| wanted.get(*folder) != Some(identity)) {
            // It may be gone, and its watch with it.
            let _ = watcher.unwatch(folder);
        }
        for (folder, identity) in &wanted {
            let new = identity.is_some() && self.watched.get(folder) != Some(identity);
            if new && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %folder.display(), %error, "no notices of changed manifests, polling");
            }
        }
        self.watched = wanted;
    }
}
