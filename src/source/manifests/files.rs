//! The files of the paths, and their content.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::document::{self, TextFormat};
use super::object::{ManifestObject, ObjectProblem};
use super::warning::{MAX_FILE_MIB, Problem};
use crate::files::{FileError, FollowedFile, Look, OpenFiles};

/// A file and its last good state.
#[derive(Debug)]
pub(super) struct Manifest {
    /// The path, as given or with the given folder as its prefix.
    pub path: PathBuf,
    /// The objects of the last good state.
    pub items: Vec<Arc<ManifestObject>>,
    /// The problems of objects of that state.
    pub problems: Vec<ObjectProblem>,
    /// Why the present state is not a good one.
    pub fault: Option<Problem>,
    /// Whether there has been a good state.
    pub loaded: bool,
    /// The problem of the text that was read last.
    text_fault: Option<Problem>,
    file: FollowedFile,
}

/// Returns the files of a path: itself, or the files of the folder by name. As in `kubectl apply -f`, subfolders are
/// not searched; hidden files are ignored (`..data` of a mounted ConfigMap, the swap file of an editor).
pub(super) fn list(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(&error))?;
    if metadata.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !metadata.is_dir() {
        return Err(Problem::NotAFile);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| unreadable(&error))? {
        let file = entry.map_err(|error| unreadable(&error))?.path();
        let is_hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && !is_hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the objects of a file as they are written; none if it cannot be read.
pub(super) fn read_objects(path: &Path) -> Vec<document::RawObject> {
    let mut file = FollowedFile::new_watched(path.to_owned(), MAX_FILE_MIB << 20, OpenFiles::default());
    let Ok(Look::Changed(bytes)) = file.look(SystemTime::now()) else { return Vec::new() };
    let text = String::from_utf8(bytes).unwrap_or_default();
    document::parse(&text, format_of(path)).map(|(objects, _)| objects).unwrap_or_default()
}

/// Returns the format of a file by its name.
fn format_of(path: &Path) -> TextFormat {
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json { TextFormat::Json } else { TextFormat::Yaml }
}

impl Manifest {
    /// Creates a file that has not been read. `open` knows which files are being written.
    pub(super) fn new(path: PathBuf, open: OpenFiles) -> Manifest {
        let file = FollowedFile::new_watched(path.clone(), MAX_FILE_MIB << 20, open);
        let (items, problems) = (Vec::new(), Vec::new());
        Manifest { path, items, problems, fault: None, loaded: false, text_fault: None, file }
    }

    /// Reads the file if it has changed and is not being written. Returns whether anything is different. `now` is the
    /// time of day.
    pub(super) fn refresh(&mut self, now: SystemTime) -> bool {
        match self.file.look(now) {
            Ok(Look::Unsettled) => false,
            Ok(Look::Unchanged) => {
                let is_new = self.fault != self.text_fault;
                self.fault.clone_from(&self.text_fault);
                is_new
            }
            Ok(Look::Changed(bytes)) => {
                let (before, loaded) = (self.fault.clone(), self.loaded);
                let taken = match String::from_utf8(bytes) {
                    Ok(text) => self.load_text(&text),
                    Err(_) => self.fail(Problem::NotUtf8),
                };
                self.text_fault.clone_from(&self.fault);
                taken || self.fault != before || self.loaded != loaded
            }
            Err(error) => self.fail(file_problem(error)),
        }
    }

    /// Creates a manifest from a text instead of a file.
    pub(super) fn of_text(path: PathBuf, text: &str) -> Manifest {
        let mut manifest = Manifest::new(path, OpenFiles::default());
        manifest.load_text(text);
        manifest
    }

    /// Parses a new text, and returns whether anything is different.
    fn load_text(&mut self, text: &str) -> bool {
        let (objects, problems) = match document::parse(text, format_of(&self.path)) {
            Ok(parsed) => parsed,
            Err(problem) => return self.fail(problem),
        };
        // The start of a dump has objects without the `kind: List` at its end.
        let is_incomplete = problems.iter().any(|problem| matches!(problem, Problem::NoKind));
        if is_incomplete && self.loaded {
            return self.fail(Problem::Syntax { line: None, reason: Problem::NoKind.to_string() });
        }
        let mut all: Vec<ObjectProblem> = problems.into_iter().map(|problem| (None, problem)).collect();
        self.items = objects.iter().filter_map(|raw| ManifestObject::new(raw, &mut all)).map(Arc::new).collect();
        self.problems = all;
        self.fault = None;
        self.loaded = true;
        true
    }

    /// Records why the state is not a good one, and returns whether that is new.
    fn fail(&mut self, problem: Problem) -> bool {
        let new = self.fault.as_ref() != Some(&problem);
        self.fault = Some(problem);
        new
    }
}

/// Converts the error of a file.
fn file_problem(error: FileError) -> Problem {
    match error {
        FileError::NotAFile => Problem::NotAFile,
        FileError::TooLarge { size, .. } => Problem::TooLarge { mib: size.div_ceil(1 << 20) },
        FileError::Unsettled => Problem::Unsettled,
        FileError::Io(error) => unreadable(&error),
    }
}

/// Converts an error of the system, with plain words for the common ones.
fn unreadable(error: &io::Error) -> Problem {
    Problem::Unreadable(match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    })
}
