//! The files behind the paths: which there are, and what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::document::{self, Format};
use super::item::{Item, Trouble};
use super::warning::{MAX_FILE_MIB, Problem};
use crate::files::{FileError, FollowedFile, Look, OpenFiles};

/// One file and its last good state.
#[derive(Debug)]
pub struct Manifest {
    /// Its path, as it was given or with the given folder before it.
    pub path: PathBuf,
    /// The objects of its last good state.
    pub items: Vec<Arc<Item>>,
    /// What is wrong with objects of that state.
    pub troubles: Vec<Trouble>,
    /// Why its present state is not a good one.
    pub fault: Option<Problem>,
    /// Whether it ever had a good one.
    pub loaded: bool,
    /// What was wrong with the text that was read last.
    text_fault: Option<Problem>,
    file: FollowedFile,
}

/// The files that a path stands for: itself, or those in the folder, by name. As `kubectl apply -f` has it, the
/// folder's folders are not looked into; hidden files are none of ours (`..data` of a mounted ConfigMap, an editor's
/// swap file).
pub fn list(path: &Path) -> Result<Vec<PathBuf>, Problem> {
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
        let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest && !hidden && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

impl Manifest {
    /// A file that was not read yet. `open` knows which files are being written.
    pub fn new(path: PathBuf, open: OpenFiles) -> Manifest {
        let file = FollowedFile::noticed(path.clone(), MAX_FILE_MIB << 20, open);
        let (items, troubles) = (Vec::new(), Vec::new());
        Manifest { path, items, troubles, fault: None, loaded: false, text_fault: None, file }
    }

    /// Reads the file if it changed and nobody is writing it; whether anything is different now. `now` is the time of
    /// day.
    pub fn refresh(&mut self, now: SystemTime) -> bool {
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
                    Ok(text) => self.take(&text),
                    Err(_) => self.fail(Problem::NotUtf8),
                };
                self.text_fault.clone_from(&self.fault);
                taken || self.fault != before || self.loaded != loaded
            }
            Err(error) => self.fail(problem(error)),
        }
    }

    /// A file that is no file: this text, under this name.
    pub fn of_text(path: PathBuf, text: &str) -> Manifest {
        let mut manifest = Manifest::new(path, OpenFiles::default());
        manifest.take(text);
        manifest
    }

    /// Takes a new text.
    fn take(&mut self, text: &str) -> bool {
        let json = self.path.extension().is_some_and(|extension| extension == "json");
        let (objects, problems) = match document::parse(text, if json { Format::Json } else { Format::Yaml }) {
            Ok(parsed) => parsed,
            Err(problem) => return self.fail(problem),
        };
        // The beginning of a dump has objects without the `kind: List` that stands at its end.
        let cut = problems.iter().any(|problem| matches!(problem, Problem::NoKind));
        if cut && self.loaded {
            return self.fail(Problem::Syntax { line: None, reason: Problem::NoKind.to_string() });
        }
        let mut troubles: Vec<Trouble> = problems.into_iter().map(|problem| (None, problem)).collect();
        self.items = objects.iter().filter_map(|raw| Item::new(raw, &mut troubles)).map(Arc::new).collect();
        self.troubles = troubles;
        self.fault = None;
        self.loaded = true;
        true
    }

    /// Notes why the file's state is not a good one.
    fn fail(&mut self, problem: Problem) -> bool {
        let new = self.fault.as_ref() != Some(&problem);
        self.fault = Some(problem);
        new
    }
}

/// Why a file cannot be read.
fn problem(error: FileError) -> Problem {
    match error {
        FileError::NotAFile => Problem::NotAFile,
        FileError::TooLarge { size, .. } => Problem::TooLarge { mib: size.div_ceil(1 << 20) },
        FileError::Unsettled => Problem::Unsettled,
        FileError::Io(error) => unreadable(&error),
    }
}

/// An error of the system, in plain words where they are the common ones.
fn unreadable(error: &io::Error) -> Problem {
    Problem::Unreadable(match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    })
}
