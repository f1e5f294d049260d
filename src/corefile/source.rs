//! Source texts and places in them: files, spans, lines and columns.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The maximum size of a configuration in bytes, including imported files.
pub(super) const MAX_SOURCE_BYTES: usize = 16 << 20;

/// Identifies a file of [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub(super) u32);

/// A range of bytes in a file, with `start <= end <=` the length of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// Returns the span from the start of `self` to the end of `other`, or `self` if `other` is in another file.
    pub fn to(self, other: Span) -> Span {
        if self.file == other.file && self.start <= other.end {
            Span { end: self.end.max(other.end), ..self }
        } else {
            self
        }
    }
}

/// A place in a file, counted as editors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

/// The texts of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Indexed by [`FileId`].
    files: Vec<SourceFile>,
}

/// A text.
#[derive(Clone, Debug)]
struct SourceFile {
    /// The name in messages.
    name: String,
    /// The whole text.
    text: String,
    /// The offset at which each line starts; never empty.
    lines: Vec<u32>,
    /// The first `import` of the file.
    imported_at: Option<Span>,
}

impl Sources {
    /// Adds a text. It is truncated where offsets would exceed 32 bits.
    pub fn add(&mut self, name: &str, mut text: String, imported_at: Option<Span>) -> FileId {
        let mut limit = text.len().min(u32::MAX as usize);
        while !text.is_char_boundary(limit) {
            limit -= 1;
        }
        text.truncate(limit);
        let after_breaks = text.bytes().zip(1u32..).filter(|(byte, _)| *byte == b'\n').map(|(_, next)| next);
        let lines = std::iter::once(0).chain(after_breaks).collect();
        self.files.push(SourceFile { name: name.to_owned(), text, lines, imported_at });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// Returns the name of a file.
    pub fn name(&self, file: FileId) -> &str {
        self.get(file).map_or("", |source| &source.name)
    }

    /// Returns the text of a file.
    pub fn text(&self, file: FileId) -> &str {
        self.get(file).map_or("", |source| &source.text)
    }

    /// Returns the text of a span.
    pub fn snippet(&self, span: Span) -> &str {
        self.text(span.file).get(span.start as usize..span.end as usize).unwrap_or("")
    }

    /// Returns the first `import` of a file; `None` for the Corefile itself.
    pub fn imported_at(&self, file: FileId) -> Option<Span> {
        self.get(file).and_then(|source| source.imported_at)
    }

    /// Returns the files, in the order in which they were read.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        (0u32..).map(FileId).take(self.files.len())
    }

    /// Where a span begins, as messages name it: `FILE:LINE:COLUMN`.
    pub fn place(&self, span: Span) -> String {
        let position = self.position(span);
        format!("{}:{}:{}", self.name(span.file), position.line, position.column)
    }

    /// Returns the start of a span.
    pub fn position(&self, span: Span) -> Position {
        self.locate(span.file, span.start)
    }

    /// Returns the end of a span: one past its last character.
    pub fn end_position(&self, span: Span) -> Position {
        self.locate(span.file, span.end)
    }

    /// Returns the text of a line, counted from 1, without its line break, and the offset at which it starts.
    pub fn line(&self, file: FileId, line: usize) -> (&str, usize) {
        let Some(source) = self.get(file) else { return ("", 0) };
        let start = source.lines.get(line.saturating_sub(1)).map_or(source.text.len(), |start| *start as usize);
        let end = source.lines.get(line).map_or(source.text.len(), |next| *next as usize);
        let text = source.text.get(start..end).unwrap_or("");
        (text.trim_end_matches(['\n', '\r']), start)
    }

    /// Returns the position of an offset.
    fn locate(&self, file: FileId, offset: u32) -> Position {
        let Some(source) = self.get(file) else { return Position { line: 1, column: 1 } };
        let line = source.lines.partition_point(|start| *start <= offset);
        let start = source.lines.get(line.saturating_sub(1)).map_or(0, |start| *start as usize);
        let before = source.text.get(start..offset as usize).unwrap_or("");
        Position { line, column: before.chars().count() + 1 }
    }

    /// Returns a file, if the ID is valid.
    fn get(&self, file: FileId) -> Option<&SourceFile> {
        self.files.get(file.0 as usize)
    }
}

/// What a Corefile may refer to: files and environment variables.
pub trait Files {
    /// Returns the text of a file; bytes that are not UTF-8 are replaced. A directory is an error.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Returns the names of the entries of a directory, in any order.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Returns an environment variable.
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

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn env(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }
}

/// Reads a text to its end, or to one byte over the limit of a configuration, so that the parser notices that it is too
/// long. Bytes that are not UTF-8 are replaced.
pub fn read_source(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_SOURCE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Files and environment variables in memory, for tests, for fuzzing, and for a text that must not import anything.
#[derive(Clone, Debug, Default)]
pub struct MemoryFiles {
    /// Texts by path. A directory exists if it contains a file.
    pub files: BTreeMap<PathBuf, String>,
    /// The environment variables.
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

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = self
            .files
            .keys()
            .filter_map(|file| file.strip_prefix(directory).ok()?.components().next())
            .map(|first| AsRef::<OsStr>::as_ref(&first).to_string_lossy().into_owned())
            .collect();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }

    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }
}
