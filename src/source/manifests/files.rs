//! The files behind the paths: which there are, whether they changed, and what is in them.

use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::document::{self, Format};
use super::item::{Item, Trouble};
use super::warning::{MAX_FILE_MIB, Problem};
use super::writing::Writing;

/// A file written this long before it was read may be written again without its time telling: it is read once more.
const RACY: Duration = Duration::from_secs(2);

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
    /// What the file looked like when it was read; `None` to read it again in any case.
    stamp: Option<Stamp>,
    /// A hash of its text.
    hash: u64,
}

/// By what one knows that a file is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file.
    pub fn new(of: &Metadata) -> Stamp {
        Stamp {
            device: of.dev(),
            inode: of.ino(),
            size: of.size(),
            modified: (of.mtime(), of.mtime_nsec()),
            changed: (of.ctime(), of.ctime_nsec()),
        }
    }
}

/// The files that a path stands for: itself, or those in the folder, by name. As `kubectl apply -f` has it, the folder's
/// folders are not looked into; hidden files are none of ours (`..data` of a mounted ConfigMap, an editor's swap file).
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
    /// A file that was not read yet.
    pub fn new(path: PathBuf) -> Manifest {
        let (items, troubles) = (Vec::new(), Vec::new());
        Manifest { path, items, troubles, fault: None, loaded: false, stamp: None, hash: 0 }
    }

    /// Reads the file if it changed and nobody is writing it; whether anything is different now. `now` is the time of day.
    pub fn refresh(&mut self, now: SystemTime, writing: &Writing) -> bool {
        let before = match fs::metadata(&self.path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return self.fail(Problem::NotAFile),
            Err(error) => return self.fail(unreadable(&error)),
        };
        let stamp = Stamp::new(&before);
        // While there is a good state there is time to wait for the writer.
        if self.stamp == Some(stamp) || self.loaded && writing.is_open(&self.path) {
            return false;
        }
        self.stamp = None;
        let text = match read(&self.path, before.size()) {
            Ok(text) => text,
            Err(problem) => return self.fail(problem),
        };
        if fs::metadata(&self.path).ok().as_ref().map(Stamp::new) != Some(stamp) {
            // Somebody is writing. What was read may be half of it and parse nevertheless.
            return self.fail(Problem::Unsettled);
        }
        // A time to come is none that the next write has too.
        let settled = before.modified().is_ok_and(|at| now.duration_since(at).map_or(true, |age| age > RACY));
        self.stamp = settled.then_some(stamp);
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        let known = self.loaded && self.fault.is_none() || matches!(self.fault, Some(Problem::Syntax { .. }));
        if known && hash == self.hash {
            return false;
        }
        self.hash = hash;
        self.take(&text)
    }

    /// A file that is no file: this text, under this name.
    pub fn of_text(path: PathBuf, text: &str) -> Manifest {
        let mut manifest = Manifest::new(path);
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

/// The text of a file.
fn read(path: &Path, size: u64) -> Result<String, Problem> {
    let too_large = |bytes: u64| Problem::TooLarge { mib: bytes.div_ceil(1 << 20) };
    let limit = MAX_FILE_MIB << 20;
    if size > limit {
        return Err(too_large(size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > limit {
        return Err(too_large(limit + 1));
    }
    String::from_utf8(bytes).map_err(|_| Problem::NotUtf8)
}

/// An error of the system, in plain words where they are the common ones.
fn unreadable(error: &io::Error) -> Problem {
    Problem::Unreadable(match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    })
}
