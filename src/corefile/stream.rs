//! The words of a configuration in the order in which the parser sees them: imports are opened on the way, and the
//! environment is filled in.
//!
//! Caddy splices the words of an import into its list and judges by file and line what shares a line. Here each import
//! is a frame on a stack, and its first word, like the first one after it, always starts a line. So a snippet that is
//! imported twice gives two lines, where Caddy glues them together; nobody can have meant that.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diagnostic::{Diagnostic, Diagnostics, Stage};
use super::environment::substitute;
use super::import::{PatternError, resolve};
use super::source::{Files, MAX_SOURCE_BYTES, Sources, Span};
use super::token::{Token, lex};

/// How many snippets may be put in, as in Caddy.
const MAX_SNIPPET_EXPANSIONS: usize = 10_000;
/// How many imports of files may be followed, as in Caddy.
const MAX_FILE_EXPANSIONS: usize = 100_000;
/// How many words a configuration may have, written or put in.
const MAX_TOKENS: usize = 1_000_000;
/// How many bytes all words together may have.
const MAX_TOKEN_BYTES: usize = 64 << 20;
/// How deep imports may be nested.
const MAX_DEPTH: usize = 1000;
/// How often a file or snippet may be open at the same time. Nothing in it is conditional, so one that imports itself
/// never ends; Caddy goes on to its other limits.
const MAX_SELF_IMPORT: usize = 64;

/// What a word is to the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{`.
    Open,
    /// `}`.
    Close,
    /// `import`.
    Import,
    /// Anything else.
    Word,
}

impl Shape {
    /// Braces count even when quoted, since the lexer takes the quotes off; from the environment they do not.
    fn of(text: &str) -> Shape {
        match text {
            "{" => Shape::Open,
            "}" => Shape::Close,
            "import" => Shape::Import,
            _ => Shape::Word,
        }
    }
}

/// The next word, seen from afar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// What it is.
    pub shape: Shape,
    /// Whether it starts a line.
    pub line_start: bool,
    /// Where it is.
    pub span: Span,
}

/// An import that is being read.
struct Frame {
    /// The words of its file or snippet.
    tokens: Rc<[Token]>,
    /// The next one.
    at: usize,
    /// What else the import named, the next one last.
    rest: Vec<Rc<[Token]>>,
    /// An import has just ended here, so the next word starts a line.
    resumed: bool,
}

/// The files that a pattern means.
type Matches = Result<Rc<[PathBuf]>, PatternError>;

/// The words still to come, and all that is needed to find them.
pub(super) struct Stream<'a> {
    /// The outside world.
    files: &'a dyn Files,
    /// Where mistakes go.
    pub diagnostics: &'a mut Diagnostics,
    /// The texts read so far.
    pub sources: Sources,
    /// What is being read, the innermost import last.
    frames: Vec<Frame>,
    /// Snippets defined so far.
    snippets: HashMap<String, Rc<[Token]>>,
    /// Files read so far; none for one that could not be.
    lexed: HashMap<PathBuf, Option<Rc<[Token]>>>,
    /// Patterns resolved so far.
    patterns: HashMap<(PathBuf, String), Matches>,
    /// The word that was taken last.
    pub last: Option<Ahead>,
    /// The words end too early, and an error says so: a limit was passed, or something is not closed.
    pub stopped: bool,
    /// What was used of each limit.
    used: Used,
}

/// Counts against the limits above.
#[derive(Default)]
struct Used {
    /// Snippets put in.
    snippets: usize,
    /// Imports of files.
    imports: usize,
    /// Bytes of source.
    source_bytes: usize,
    /// Words read from sources.
    lexed: usize,
    /// Words handed out, and imports opened.
    tokens: usize,
    /// Bytes of words handed out.
    token_bytes: usize,
}

impl<'a> Stream<'a> {
    /// Starts with the Corefile itself.
    pub fn new(name: &str, text: &str, files: &'a dyn Files, diagnostics: &'a mut Diagnostics) -> Stream<'a> {
        let mut stream = Stream {
            files,
            diagnostics,
            sources: Sources::default(),
            frames: Vec::new(),
            snippets: HashMap::new(),
            lexed: HashMap::new(),
            patterns: HashMap::new(),
            last: None,
            stopped: false,
            used: Used::default(),
        };
        let tokens = stream.lex(Path::new(name), text.to_owned(), None);
        stream.frames.extend(tokens.map(|tokens| Frame { tokens, at: 0, rest: Vec::new(), resumed: false }));
        stream
    }

    /// Looks at the next word.
    pub fn peek(&mut self) -> Option<Ahead> {
        let frame = loop {
            let frame = self.frames.last_mut()?;
            if frame.at < frame.tokens.len() {
                break frame;
            }
            match frame.rest.pop() {
                Some(tokens) => (frame.tokens, frame.at) = (tokens, 0),
                None => drop(self.frames.pop()),
            }
        };
        let token = frame.tokens.get(frame.at)?;
        let line_start = token.line_start || frame.resumed || frame.at == 0;
        Some(Ahead { shape: Shape::of(&token.text), line_start, span: token.span })
    }

    /// Takes the next word as it is written.
    pub fn next_raw(&mut self) -> Option<Token> {
        let ahead = self.peek()?;
        let frame = self.frames.last_mut()?;
        let mut token = frame.tokens.get(frame.at)?.clone();
        token.line_start = ahead.line_start;
        frame.at += 1;
        frame.resumed = false;
        self.last = Some(ahead);
        self.used.tokens += 1;
        self.used.token_bytes += token.text.len();
        if self.used.tokens > MAX_TOKENS || self.used.token_bytes > MAX_TOKEN_BYTES {
            self.stop(token.span, format!("the configuration has more than {MAX_TOKENS} words, imports included"));
            return None;
        }
        Some(token)
    }

    /// Takes the next word and fills in the environment.
    pub fn next(&mut self) -> Option<Token> {
        let mut token = self.next_raw()?;
        if let Some(word) = substitute(&token.text, self.files) {
            if word.endless {
                // Each such word is costly, so the first is the last.
                self.stop(token.span, "the environment variables in this word never end".to_owned());
                return None;
            }
            for name in word.unset {
                let message = format!("environment variable '{name}' is not set and reads as empty");
                self.diagnostics.warning(token.span, message);
            }
            self.used.token_bytes += word.text.len();
            token.text = word.text;
        }
        Some(token)
    }

    /// Remembers a snippet. The caller has checked that the name is new.
    pub fn define(&mut self, name: String, tokens: Vec<Token>) {
        self.snippets.insert(name, tokens.into());
    }

    /// Whether there is a snippet of that name.
    pub fn is_defined(&self, name: &str) -> bool {
        self.snippets.contains_key(name)
    }

    /// Follows an `import`, which is the next word: what it names comes next.
    pub fn import(&mut self) {
        if let Some(keyword) = self.next_raw() {
            self.import_after(keyword.span);
        }
    }

    /// Follows an `import` whose keyword has been taken.
    pub fn import_after(&mut self, keyword: Span) {
        if !self.line_goes_on() {
            let message = "Wrong argument count or unexpected line ending after 'import'";
            self.diagnostics.push(
                Diagnostic::error(Stage::Parse, Some(keyword), message)
                    .expected("the name of a snippet, or a file or pattern"),
            );
            return;
        }
        let Some(pattern) = self.next() else { return };
        if self.line_goes_on() {
            let message = "Import takes only one argument (glob pattern or file)";
            let extra = self.peek().map_or(pattern.span, |ahead| ahead.span);
            self.diagnostics.error(extra, message);
            while self.line_goes_on() && self.next_raw().is_some() {}
            return;
        }
        if pattern.text.is_empty() {
            self.diagnostics.error(pattern.span, "Import requires a non-empty filepath");
        } else if let Some(tokens) = self.snippets.get(&pattern.text).cloned() {
            self.used.snippets += 1;
            if self.used.snippets > MAX_SNIPPET_EXPANSIONS {
                let message = format!("maximum snippet import depth ({MAX_SNIPPET_EXPANSIONS}) exceeded");
                self.stop(pattern.span, message);
            } else {
                self.open(&pattern, vec![tokens]);
            }
        } else {
            self.used.imports += 1;
            if self.used.imports > MAX_FILE_EXPANSIONS {
                let message = format!("maximum file import depth ({MAX_FILE_EXPANSIONS}) exceeded");
                self.stop(pattern.span, message);
            } else {
                let found = self.find(&pattern);
                let tokens = found.iter().filter_map(|path| self.file(path, &pattern)).collect();
                self.open(&pattern, tokens);
            }
        }
    }

    /// Whether another word stands on the line of the one taken last.
    fn line_goes_on(&self) -> bool {
        let next = self.frames.last().and_then(|frame| frame.tokens.get(frame.at));
        next.is_some_and(|token| !token.line_start)
    }

    /// The files that an import means, with a message if there are none.
    fn find(&mut self, pattern: &Token) -> Rc<[PathBuf]> {
        let folder = Path::new(self.sources.name(pattern.span.file)).parent().unwrap_or(Path::new("")).to_owned();
        let key = (folder, pattern.text.clone());
        let result = match self.patterns.get(&key) {
            Some(result) => result.clone(),
            None => {
                let result = resolve(&key.0, &key.1, self.files).map(Rc::from);
                self.patterns.insert(key, result.clone());
                result
            }
        };
        let text = &pattern.text;
        match result {
            Ok(found) => {
                if found.is_empty() {
                    self.import_not_found(pattern);
                }
                return found;
            }
            Err(error @ PatternError::TooManyWildcards) => {
                self.diagnostics.error(pattern.span, format!("{error}: {text}"));
            }
            Err(error @ PatternError::Malformed) => {
                self.diagnostics.error(pattern.span, format!("Failed to use import pattern {text}: {error}"));
            }
        }
        Rc::from([])
    }

    /// An import names nothing: no harm if it looks like a pattern.
    fn import_not_found(&mut self, pattern: &Token) {
        let text = &pattern.text;
        if text.contains(['*', '?', '[', ']']) {
            self.diagnostics.warning(pattern.span, format!("No files matching import glob pattern: {text}"));
        } else {
            self.diagnostics.error(pattern.span, format!("File to import not found: {text}"));
        }
    }

    /// The words of a file, read on first use. None, with a message, if it cannot be.
    fn file(&mut self, path: &Path, pattern: &Token) -> Option<Rc<[Token]>> {
        if let Some(known) = self.lexed.get(path) {
            return known.clone();
        }
        let shown = path.display();
        match self.files.read(path) {
            Ok(text) => return self.lex(path, text, Some(pattern.span)),
            Err(error) if error.kind() == ErrorKind::NotFound && !pattern.text.contains(['*', '?']) => {
                self.import_not_found(pattern);
            }
            Err(error) if error.kind() == ErrorKind::IsADirectory => {
                self.diagnostics.error(pattern.span, format!("Could not import {shown}: is a directory"));
            }
            Err(error) => self.diagnostics.error(pattern.span, format!("Could not import {shown}: {error}")),
        }
        self.lexed.insert(path.to_owned(), None);
        None
    }

    /// Splits a text into words and remembers both.
    fn lex(&mut self, path: &Path, text: String, imported_at: Option<Span>) -> Option<Rc<[Token]>> {
        self.used.source_bytes = self.used.source_bytes.saturating_add(text.len());
        if self.used.source_bytes > MAX_SOURCE_BYTES {
            let message = format!("the configuration is longer than {MAX_SOURCE_BYTES} bytes, imports included");
            // The text is not kept, but its name is, so that the message has a place.
            let file = self.sources.add(&path.display().to_string(), String::new(), imported_at);
            self.stop(imported_at.unwrap_or(Span { file, start: 0, end: 0 }), message);
            return None;
        }
        let file = self.sources.add(&path.display().to_string(), text, imported_at);
        let lexed = lex(file, self.sources.text(file), MAX_TOKENS.saturating_sub(self.used.lexed));
        if lexed.overflow {
            let message = format!("the configuration has more than {MAX_TOKENS} words, imports included");
            self.stop(Span { file, start: 0, end: 0 }, message);
            return None;
        }
        if let Some(span) = lexed.open_quote {
            let quote = Span { end: span.start + 1, ..span };
            self.diagnostics.warning(quote, "this quote is never closed; it takes in the rest of the file");
        }
        self.used.lexed += lexed.tokens.len();
        let tokens: Rc<[Token]> = lexed.tokens.into();
        self.lexed.insert(path.to_owned(), Some(Rc::clone(&tokens)));
        Some(tokens)
    }

    /// Puts lists of words in the place of an import.
    fn open(&mut self, pattern: &Token, mut lists: Vec<Rc<[Token]>>) {
        if let Some(frame) = self.frames.last_mut() {
            frame.resumed = true;
        }
        let times_open = |tokens| self.frames.iter().filter(|frame| Rc::ptr_eq(&frame.tokens, tokens)).count();
        if lists.iter().any(|tokens| times_open(tokens) >= MAX_SELF_IMPORT) {
            return self.stop(pattern.span, format!("'{}' imports itself without end", pattern.text));
        }
        if self.frames.len() >= MAX_DEPTH {
            return self.stop(pattern.span, format!("imports are nested more than {MAX_DEPTH} deep"));
        }
        self.used.tokens += lists.len();
        lists.reverse();
        if let Some(tokens) = lists.pop() {
            self.frames.push(Frame { tokens, at: 0, rest: lists, resumed: false });
        }
    }

    /// Reports that a limit was passed, and lets no more words come.
    fn stop(&mut self, span: Span, message: String) {
        self.diagnostics.error(span, message);
        self.frames.clear();
        self.stopped = true;
    }
}
