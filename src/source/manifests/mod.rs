//! The cluster from YAML or JSON files (`-manifests PATH`): for experiments, for tests, and for clusters represented by
//! a dump.
//!
//! ```text
//!  paths ── files ── document ── object ─┐            ┌─ events(selection)  ── EventSink
//!           (last good state of each)    ├─ Snapshot ─┤
//!                             derive ────┘            └─ changes(selection) ── EventSink
//! ```
//!
//! Some functions of a control plane are included, so that manifests need not be complete: defaults, endpoints of Pods,
//! Namespaces that are not listed. Addresses are not allocated and Pods are not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

mod document;
mod files;
mod follow;
mod object;
mod snapshot;
#[cfg(test)]
pub mod tests;
mod warning;

pub use follow::{FollowerThread, Subscriber};
pub use snapshot::Snapshot;
pub use warning::{MAX_FILE_MIB, Problem, Warning};

use serde_json::Value;

use crate::cluster::model::Kind;
use crate::files::OpenFiles;
use files::Manifest;

/// Manifests on disk, and their last good state.
#[derive(Debug)]
pub struct Manifests {
    /// The paths as given. Later ones have precedence.
    roots: Vec<Root>,
    /// The merged state of all of them.
    snapshot: Arc<Snapshot>,
    /// Knows which files are being written.
    open: OpenFiles,
}

/// A path of the command line.
#[derive(Debug)]
struct Root {
    /// A file or a folder.
    path: PathBuf,
    /// The file, or the files of the folder.
    files: Vec<Manifest>,
    /// Why the path cannot be read now. Its previous state continues to be served.
    fault: Option<Problem>,
}

/// Why nothing can be loaded from a path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("manifests: {}{}: {problem}", .path.display(), line(.problem))]
pub struct LoadError {
    /// The path as given, or the file of a folder.
    pub path: PathBuf,
    /// The problem.
    pub problem: Problem,
}

/// Returns the line of a problem, for the text after the name of the file.
fn line(problem: &Problem) -> String {
    match problem {
        Problem::Syntax { line: Some(line), .. } => format!(":{line}"),
        _ => String::new(),
    }
}

impl Manifests {
    /// Loads files and folders. A problem within a file is a warning of the [`Snapshot`]. A path without any usable
    /// content is an error, and so are paths without any object: every name of the cluster would be denied with
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
        // A problem of the first object is more precise than the absence of objects.
        let first_problem = files.find_map(|file| Some((file, &file.problems.first()?.1)));
        let (path, problem) = match (first_problem, paths) {
            (Some((file, problem)), _) => (file.path.clone(), problem.clone()),
            (None, [path, ..]) => (path.clone(), Problem::NoObject),
            (None, []) => return Ok(manifests),
        };
        Err(LoadError { path, problem })
    }

    /// Reads the objects of files and folders as they are written, with the fields that this server or an explanation
    /// needs. Files that cannot be read have no objects.
    pub fn read_objects(paths: &[PathBuf]) -> Vec<(Kind, Value)> {
        let files = paths.iter().flat_map(|path| files::list(path).unwrap_or_default());
        files.flat_map(|file| files::read_objects(&file)).map(|raw| (raw.kind, raw.value)).collect()
    }

    /// Returns the last good state.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the paths as given.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().map(|root| root.path.as_path())
    }

    /// Reads the files that have changed, and returns whether the snapshot is a new one.
    pub fn refresh(&mut self) -> bool {
        let now = SystemTime::now();
        // Not `any`: every path is read.
        let open = &self.open;
        let changed = self.roots.iter_mut().fold(false, |changed, root| root.refresh(now, open) | changed);
        if changed {
            self.snapshot = Arc::new(self.merge());
        }
        changed
    }

    /// Merges the states of the files.
    fn merge(&self) -> Snapshot {
        let mut warnings = Vec::new();
        // A file may be given by name and with its folder: the later position counts.
        let files = || self.roots.iter().flat_map(|root| &root.files);
        let places: BTreeMap<&Path, usize> = files().enumerate().map(|(at, file)| (file.path.as_path(), at)).collect();
        let once = || files().enumerate().filter(|(at, file)| places[file.path.as_path()] == *at).map(|(_, file)| file);
        for root in &self.roots {
            let (file, serves_previous) = (root.path.clone(), root.files.iter().any(|file| file.loaded));
            warnings.extend(root.fault.clone().map(|problem| Warning { file, object: None, problem, serves_previous }));
        }
        for Manifest { path, problems, fault, loaded, .. } in once() {
            let warn =
                |object, problem, serves_previous| Warning { file: path.clone(), object, problem, serves_previous };
            warnings.extend(fault.iter().map(|fault| warn(None, fault.clone(), *loaded)));
            warnings.extend(problems.iter().cloned().map(|(object, problem)| warn(object, problem, false)));
        }
        Snapshot::merge(once().map(|file| (file.path.as_path(), file.items.as_slice())), warnings)
    }
}

impl Root {
    /// Returns an error if the path has no usable content.
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

    /// Reads the files that have changed, and returns whether anything is different.
    fn refresh(&mut self, now: SystemTime, open: &OpenFiles) -> bool {
        let paths = match files::list(&self.path) {
            Ok(paths) => paths,
            Err(problem) => {
                // A path that does not exist is in the middle of a replacement, or an error.
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
