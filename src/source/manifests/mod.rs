//! The cluster from YAML or JSON files (`-manifests PATH`): for trying things out, for tests, and for clusters that a
//! dump stands for.
//!
//! ```text
//!  paths ── files ── document ── item ─┐            ┌─ events(selection)  ── Sink
//!           (last good state of each)  ├─ Snapshot ─┤
//!                           derive ────┘            └─ changes(selection) ── Sink
//! ```
//!
//! This does a little of what a control plane does, so that hand-written files work: defaults, endpoints of Pods,
//! Namespaces that nobody wrote down. It allocates no addresses and runs no Pods.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

mod document;
mod files;
mod follow;
mod item;
mod snapshot;
#[cfg(test)]
pub mod tests;
mod warning;

pub use follow::{Following, Subscriber};
pub use snapshot::Snapshot;
pub use warning::{MAX_FILE_MIB, Problem, Warning};

use crate::files::OpenFiles;
use files::Manifest;

/// Manifests on disk, and what was last read of them.
#[derive(Debug)]
pub struct Manifests {
    /// The paths as they were given. What a later one holds wins.
    roots: Vec<Root>,
    /// What all of them say together.
    snapshot: Arc<Snapshot>,
    /// Which files somebody is writing now.
    open: OpenFiles,
}

/// One of the paths.
#[derive(Debug)]
struct Root {
    /// A file or a folder.
    path: PathBuf,
    /// The file, or the folder's files.
    files: Vec<Manifest>,
    /// Why the path cannot be looked at now. What it held goes on being served.
    fault: Option<Problem>,
}

/// Why nothing can be loaded from a path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("manifests: {}{}: {problem}", .path.display(), line(.problem))]
pub struct LoadError {
    /// The path as it was given, or the file of a folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// The line that a problem is in, as it stands behind a file's name.
fn line(problem: &Problem) -> String {
    match problem {
        Problem::Syntax { line: Some(line), .. } => format!(":{line}"),
        _ => String::new(),
    }
}

impl Manifests {
    /// Reads files and folders. What is wrong within a file is a warning of the [`Snapshot`]; a path of which nothing
    /// can be used is an error, and so are paths that hold no object: every name of the cluster would be denied with
    /// authority.
    pub fn load(paths: &[PathBuf]) -> Result<Manifests, LoadError> {
        let roots = paths.iter().map(|path| Root { path: path.clone(), files: Vec::new(), fault: None }).collect();
        let mut manifests = Manifests { roots, snapshot: Arc::default(), open: OpenFiles::default() };
        manifests.refresh();
        for root in &mut manifests.roots {
            root.check()?;
        }
        let mut files = manifests.roots.iter().flat_map(|root| &root.files);
        if files.clone().any(|file| !file.items.is_empty()) {
            return Ok(manifests);
        }
        // What is wrong with the first object, if anything is, says more than that there is none.
        let trouble = files.find_map(|file| Some((file, &file.troubles.first()?.1)));
        let (path, problem) = match (trouble, paths) {
            (Some((file, problem)), _) => (file.path.clone(), problem.clone()),
            (None, [path, ..]) => (path.clone(), Problem::NoObject),
            (None, []) => return Ok(manifests),
        };
        Err(LoadError { path, problem })
    }

    /// What was last read.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The paths as they were given.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(|root| root.path.as_path())
    }

    /// Reads what changed since; whether the snapshot is a new one.
    pub fn refresh(&mut self) -> bool {
        let now = SystemTime::now();
        // Not `any`: every path has its turn.
        let open = &self.open;
        let changed = self.roots.iter_mut().fold(false, |changed, root| root.refresh(now, open) | changed);
        if changed {
            self.snapshot = Arc::new(self.merge());
        }
        changed
    }

    /// Puts together what the files say.
    fn merge(&self) -> Snapshot {
        let mut warnings = Vec::new();
        // A file may be given by name and with its folder: the later place counts.
        let files = || self.roots.iter().flat_map(|root| &root.files);
        let places: BTreeMap<&Path, usize> = files().enumerate().map(|(at, file)| (file.path.as_path(), at)).collect();
        let once = || files().enumerate().filter(|(at, file)| places[file.path.as_path()] == *at).map(|(_, file)| file);
        for root in &self.roots {
            let (file, kept) = (root.path.clone(), root.files.iter().any(|file| file.loaded));
            warnings.extend(root.fault.clone().map(|problem| Warning { file, object: None, problem, kept }));
        }
        for Manifest { path, troubles, fault, loaded, .. } in once() {
            let warn = |object, problem, kept| Warning { file: path.clone(), object, problem, kept };
            warnings.extend(fault.iter().map(|fault| warn(None, fault.clone(), *loaded)));
            warnings.extend(troubles.iter().cloned().map(|(object, problem)| warn(object, problem, false)));
        }
        Snapshot::merge(once().map(|file| (file.path.as_path(), file.items.as_slice())), warnings)
    }
}

impl Root {
    /// Why nothing can be used of the path.
    fn check(&self) -> Result<(), LoadError> {
        if let Some(problem) = self.fault.clone() {
            return Err(LoadError { path: self.path.clone(), problem });
        }
        if self.files.iter().any(|file| file.loaded) {
            return Ok(());
        }
        match self.files.first() {
            None => Err(LoadError { path: self.path.clone(), problem: Problem::NoFile }),
            Some(file) => {
                Err(LoadError { path: file.path.clone(), problem: file.fault.clone().unwrap_or(Problem::NoObject) })
            }
        }
    }

    /// Reads what changed since; whether anything is different now.
    fn refresh(&mut self, now: SystemTime, open: &OpenFiles) -> bool {
        let paths = match files::list(&self.path) {
            Ok(paths) => paths,
            Err(problem) => {
                // A path that was asked for and is gone is in the middle of being replaced, or a mistake.
                let new = self.fault.as_ref() != Some(&problem);
                self.fault = Some(problem);
                return new;
            }
        };
        let mut changed = self.fault.take().is_some();
        let mut known: BTreeMap<PathBuf, Manifest> =
            self.files.drain(..).map(|file| (file.path.clone(), file)).collect();
        for path in paths {
            let mut file = known.remove(&path).unwrap_or_else(|| Manifest::new(path, open.clone()));
            changed |= file.refresh(now);
            self.files.push(file);
        }
        changed | !known.is_empty()
    }
}
