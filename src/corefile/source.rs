//! Where text comes from and how a place in it is named: files, spans, lines and columns.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The most bytes that one configuration may have, all imported files together.
pub(super) const MAX_SOURCE_BYTES: usize = 16 << 20;

/// A file of a [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub(super) u32);

/// A range of bytes in a file. `start <= end <=` the length of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file that the range is in.
    pub file: FileId,
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// From the start of `self` to the end of `other`; `self` alone when `other` is elsewhere (an imported file).
    pub fn to(self, other: Span) -> Span {
        if self.file == other.file && self.start <= other.end {
            Span { end: self.end.max(other.end), ..self }
        } else {
            self
        }
    }
}

/// A place as editors count it: both from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

/// The texts that a configuration was read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Indexed by [`FileId`].
    files: Vec<Source>,
}

/// One text.
#[derive(Clone, Debug)]
struct Source {
    /// The name as messages show it.
    name: String,
    /// The whole text.
    text: String,
    /// The byte at which each line starts; never empty.
    lines: Vec<u32>,
    /// The `import` that first asked for the file.
    imported_at: Option<Span>,
}

impl Sources {
    /// Takes in a text. One too long to be counted in 32 bits is cut.
    pub fn add(&mut self, name: &str, mut text: String, imported_at: Option<Span>) -> FileId {
        let mut limit = text.len().min(u32::MAX as usize);
        while !text.is_char_boundary(limit) {
            limit -= 1;
        }
        text.truncate(limit);
        let after_breaks = text.bytes().zip(1u32..).filter(|(byte, _)| *byte == b'\n').map(|(_, next)| next);
        let lines = std::iter::once(0).chain(after_breaks).collect();
        self.files.push(Source { name: name.to_owned(), text, lines, imported_at });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// The name of a file.
    pub fn name(&self, file: FileId) -> &str {
        self.get(file).map_or("", |source| &source.name)
    }

    /// The whole text of a file.
    pub fn text(&self, file: FileId) -> &str {
        self.get(file).map_or("", |source| &source.text)
    }

    /// The text under a span, as written.
    pub fn snippet(&self, span: Span) -> &str {
        self.text(span.file).get(span.start as usize..span.end as usize).unwrap_or("")
    }

    /// The `import` that first asked for a file; none for the Corefile itself.
    pub fn imported_at(&self, file: FileId) -> Option<Span> {
        self.get(file).and_then(|source| source.imported_at)
    }

    /// The files, in the order in which they were read.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        (0u32..).map(FileId).take(self.files.len())
    }

    /// Where a span begins, as messages name it: `FILE:LINE:COLUMN`.
    pub fn place(&self, span: Span) -> String {
        let position = self.position(span);
        format!("{}:{}:{}", self.name(span.file), position.line, position.column)
    }

    /// Where a span starts.
    pub fn position(&self, span: Span) -> Position {
        self.locate(span.file, span.start)
    }

    /// Where a span ends: the place right behind its last character.
    pub fn end_position(&self, span: Span) -> Position {
        self.locate(span.file, span.end)
    }

    /// The text of a line, counted from 1, without its end, and the byte at which it starts.
    pub fn line(&self, file: FileId, line: usize) -> (&str, usize) {
        let Some(source) = self.get(file) else { return ("", 0) };
        let start = source.lines.get(line.saturating_sub(1)).map_or(source.text.len(), |start| *start as usize);
        let end = source.lines.get(line).map_or(source.text.len(), |next| *next as usize);
        let text = source.text.get(start..end).unwrap_or("");
        (text.trim_end_matches(['\n', '\r']), start)
    }

    /// Where a byte is.
    fn locate(&self, file: FileId, offset: u32) -> Position {
        let Some(source) = self.get(file) else { return Position { line: 1, column: 1 } };
        let line = source.lines.partition_point(|start| *start <= offset);
        let start = source.lines.get(line.saturating_sub(1)).map_or(0, |start| *start as usize);
        let before = source.text.get(start..offset as usize).unwrap_or("");
        Position { line, column: before.chars().count() + 1 }
    }

    /// The file, if the number is one of ours.
    fn get(&self, file: FileId) -> Option<&Source> {
        self.files.get(file.0 as usize)
    }
}

/// The outside world of a Corefile: files that it imports and the environment.
pub trait Files {
    /// The text of a file; bytes that are not UTF-8 are replaced. An error for a folder.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// The names of what is in a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// An environment variable.
    fn env(&self, name: &str) -> Option<String>;
}

/// The files and the environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        if std::fs::metadata(path)?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        read_source(std::fs::File::open(path)?)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

/// Reads a text to its end, or one byte further than a configuration may be long, so that whoever parses it sees that
/// there is too much. Bytes that are not UTF-8 are replaced.
pub fn read_source(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_SOURCE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Files and environment held in memory, for tests, fuzzing and for reading a text that may import nothing.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    /// Path to text. Folders exist by the files in them.
    pub files: BTreeMap<PathBuf, String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        match self.files.get(path) {
            Some(text) => Ok(text.clone()),
            None if self.files.keys().any(|file| file.starts_with(path)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self
            .files
            .keys()
            .filter_map(|file| file.strip_prefix(folder).ok()?.components().next())
            .map(|first| AsRef::<OsStr>::as_ref(&first).to_string_lossy().into_owned())
            .collect();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }
}
