//! Follows the files: a thread reads them again when they change, and sends the changes to the indexes.
//!
//! The kernel notifies about events in the folders (inotify); what has changed is found by reading. So an editor that
//! renames, a ConfigMap whose `..data` link moves, and a file that is deleted and written again are handled alike. The
//! times of the files are also checked twice a second: for file systems without notifications, and for files behind
//! links into other folders.

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
use crate::source::{EventSink, Selection};

/// The interval at which the files are checked without a notification.
const POLL: Duration = Duration::from_millis(500);
/// The time without notifications after which files are read: a writer's next write comes sooner.
const QUIET: Duration = Duration::from_millis(50);
/// The maximum time to wait for it.
const MAX_WAIT: Duration = Duration::from_millis(300);

/// The stack of the thread: the parser may need most of the usual 2 MiB.
const STACK: usize = 8 << 20;

/// A receiver of changes.
pub struct Subscriber {
    /// The selected objects.
    pub selection: Selection,
    /// Where events are sent.
    pub sink: Box<dyn EventSink>,
}

/// A thread that follows the files, until this is dropped.
#[derive(Debug)]
pub struct FollowerThread {
    wake: Sender<Wake>,
    /// `None` once it is stopped.
    thread: Option<JoinHandle<Manifests>>,
}

/// The reason why the thread wakes up.
enum Wake {
    /// Something changed in a folder.
    Changed,
    /// The thread is to stop.
    Stop,
}

impl Manifests {
    /// Sends the state to every subscriber before this returns, and changes from then on.
    pub fn follow(self, mut subscribers: Vec<Subscriber>) -> io::Result<FollowerThread> {
        for Subscriber { selection, sink } in &mut subscribers {
            self.snapshot.events(selection).for_each(|event| sink.apply(event));
        }
        let (wake, woken) = mpsc::channel();
        let notices = wake.clone();
        let body = move || run(self, &mut subscribers, notices, &woken);
        let thread = thread::Builder::new().name("manifests".into()).stack_size(STACK).spawn(body)?;
        Ok(FollowerThread { wake, thread: Some(thread) })
    }
}

impl FollowerThread {
    /// Stops the thread, after which no subscriber gets events. The returned state can be followed again, for other
    /// subscribers.
    pub fn stop(mut self) -> Manifests {
        let _ = self.wake.send(Wake::Stop);
        let thread = self.thread.take().expect("only stop and drop take it");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for FollowerThread {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

/// Runs the thread.
fn run(
    mut manifests: Manifests, subscribers: &mut [Subscriber], notices: Sender<Wake>, woken: &Receiver<Wake>,
) -> Manifests {
    let mut folders = WatchedFolders::new(notices, manifests.open.clone());
    loop {
        // Watch before reading, so that a change in between is noticed.
        folders.watch(&manifests);
        let previous = manifests.snapshot.clone();
        if manifests.refresh() {
            report(&previous, &manifests.snapshot);
            for Subscriber { selection, sink } in subscribers.iter_mut() {
                manifests.snapshot.changes(&previous, selection).for_each(|event| sink.apply(event));
            }
        }
        match woken.recv_timeout(POLL) {
            Ok(Wake::Changed) if !wait_until_quiet(woken) => return manifests,
            Ok(Wake::Changed) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return manifests,
        }
    }
}

/// Waits until there are no notifications for a while. Returns false if the thread is to stop.
fn wait_until_quiet(woken: &Receiver<Wake>) -> bool {
    let until = Instant::now() + MAX_WAIT;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match woken.recv_timeout(left.min(QUIET)) {
            Ok(Wake::Changed) => {}
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
        }
    }
    true
}

/// Logs new warnings.
fn report(previous: &Snapshot, next: &Snapshot) {
    let known: HashSet<_> = previous.warnings().iter().collect();
    for warning in next.warnings().iter().filter(|warning| !known.contains(warning)) {
        tracing::warn!(%warning, "manifest");
    }
    tracing::info!(warnings = next.warnings().len(), "manifests changed");
}

/// Device, inode, and time of creation, since inodes are reused.
type Identity = (u64, u64, Option<SystemTime>);

/// The folders that the kernel watches.
struct WatchedFolders {
    /// `None` if there are no notifications; then the times of the files are checked only.
    watcher: Option<RecommendedWatcher>,
    /// The watched folders with their identities: a folder that is deleted and created again is another one.
    watched: BTreeMap<PathBuf, Option<Identity>>,
}

impl WatchedFolders {
    /// Creates a set of no folders.
    fn new(notices: Sender<Wake>, open: OpenFiles) -> WatchedFolders {
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading the files causes notifications, too.
            if event.is_ok_and(|event| open.note(&event)) {
                let _ = notices.send(Wake::Changed);
            }
        };
        let watcher = notify::recommended_watcher(handler);
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "no notifications of changed manifests, polling")).ok();
        WatchedFolders { watcher, watched: BTreeMap::new() }
    }

    /// Watches exactly the folders that contain these manifests.
    fn watch(&mut self, manifests: &Manifests) {
        use std::os::unix::fs::MetadataExt;
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeMap::new();
        for path in manifests.paths() {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // The parent of a folder, too: the folder may be a link that is moved.
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
            // The folder may not exist, and its watch then neither.
            let _ = watcher.unwatch(folder);
        }
        for (folder, identity) in &wanted {
            let new = identity.is_some() && self.watched.get(folder) != Some(identity);
            if new && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %folder.display(), %error, "no notifications of changed manifests, polling");
            }
        }
        self.watched = wanted;
    }
}
