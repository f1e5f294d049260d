//! The tokens of a configuration in the order in which the parser reads them, with imports and environment variables
//! expanded.
//!
//! Caddy splices the tokens of an import into its list, and decides by file and line number which tokens share a line.
//! Here each import is a frame on a stack; its first token, and the first one after it, always start a line. A snippet
//! that is imported twice therefore yields two lines, where Caddy joins them, which is never intended.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::diagnostic::{Diagnostic, Diagnostics, Stage, suggest};
use super::environment::substitute;
use super::import::{PatternError, resolve};
use super::source::{Files, MAX_SOURCE_BYTES, Sources, Span};
use super::token::{Token, lex};

/// The maximum number of expanded snippets, as in Caddy.
const MAX_SNIPPET_EXPANSIONS: usize = 10_000;
/// The maximum number of imported files, as in Caddy.
const MAX_FILE_EXPANSIONS: usize = 100_000;
/// The maximum number of tokens, after expansion.
const MAX_TOKENS: usize = 1_000_000;
/// The maximum size of all tokens in bytes, after expansion.
const MAX_TOKEN_BYTES: usize = 64 << 20;
/// A file with more bytes that are 0 than its length divided by this number is not text. In UTF-16, nearly half of the
/// bytes are 0; in a text, such a byte is an error of the word that contains it.
const MAX_ZERO_SHARE: usize = 8;
/// The maximum nesting of imports.
const MAX_DEPTH: usize = 1000;
/// How often a file or snippet may be open at the same time. Imports are unconditional, so a cycle never ends; Caddy
/// continues until another limit is reached.
const MAX_SELF_IMPORT: usize = 64;

/// The syntactic kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// `{`.
    Open,
    /// `}`.
    Close,
    /// `import`.
    Import,
    /// Anything else.
    Word,
}

impl TokenKind {
    /// Quoted braces are braces, since the lexer removes quotes; those from environment variables are not.
    fn of(text: &str) -> TokenKind {
        match text {
            "{" => TokenKind::Open,
            "}" => TokenKind::Close,
            "import" => TokenKind::Import,
            _ => TokenKind::Word,
        }
    }
}

/// The next token, without its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookahead {
    /// Its kind.
    pub kind: TokenKind,
    /// Whether it starts a line.
    pub line_start: bool,
    /// Where it is.
    pub span: Span,
}

/// A file or snippet that is being read.
struct Frame {
    /// Its tokens.
    tokens: Rc<[Token]>,
    /// The index of the next token.
    at: usize,
    /// Further files of the same import, the next one last.
    rest: Vec<Rc<[Token]>>,
    /// An import has just ended here, so the next token starts a line.
    resumed: bool,
}

/// The files that match a pattern.
type Matches = Result<Rc<[PathBuf]>, PatternError>;

/// The remaining tokens, and the state that is needed to expand them.
pub(super) struct TokenStream<'a> {
    /// The files and the environment.
    files: &'a dyn Files,
    /// Receives errors and warnings.
    pub diagnostics: &'a mut Diagnostics,
    /// The texts read so far.
    pub sources: Sources,
    /// The files and snippets being read, the innermost import last.
    frames: Vec<Frame>,
    /// Snippets defined so far.
    snippets: HashMap<String, Rc<[Token]>>,
    /// Files read so far; `None` for files that could not be read.
    lexed: HashMap<PathBuf, Option<Rc<[Token]>>>,
    /// Patterns resolved so far.
    patterns: HashMap<(PathBuf, String), Matches>,
    /// The token that was consumed last.
    pub last: Option<Lookahead>,
    /// The tokens end early, which has been reported: a limit was exceeded, or a brace is not closed.
    pub stopped: bool,
    /// What has been used of each limit.
    used: Used,
}

/// Counters for the limits above.
#[derive(Default)]
struct Used {
    /// Expanded snippets.
    snippets: usize,
    /// Imported files.
    imports: usize,
    /// Bytes of source.
    source_bytes: usize,
    /// Tokens of sources.
    lexed: usize,
    /// Tokens consumed, and imports opened.
    tokens: usize,
    /// Bytes of consumed tokens.
    token_bytes: usize,
}

impl<'a> TokenStream<'a> {
    /// Starts with the text of the Corefile.
    pub(super) fn new(
        name: &str, text: &str, files: &'a dyn Files, diagnostics: &'a mut Diagnostics,
    ) -> TokenStream<'a> {
        let mut stream = TokenStream {
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

    /// Returns the next token without consuming it.
    pub(super) fn peek(&mut self) -> Option<Lookahead> {
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
        Some(Lookahead { kind: TokenKind::of(&token.text), line_start, span: token.span })
    }

    /// Consumes the next token, without expanding environment variables.
    pub(super) fn next_raw(&mut self) -> Option<Token> {
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

    /// Consumes the next token and expands environment variables.
    pub(super) fn next(&mut self) -> Option<Token> {
        let mut token = self.next_raw()?;
        if let Some(word) = substitute(&token.text, self.files) {
            if word.endless {
                // Each such token is expensive, so the first one ends the run.
                self.stop(token.span, "the environment variables in this word refer to themselves".to_owned());
                return None;
            }
            for name in word.unset {
                let message = format!("environment variable '{name}' is not set and is replaced by nothing");
                self.diagnostics.warning(token.span, message);
            }
            self.used.token_bytes += word.text.len();
            (token.text, token.written_at) = (word.text, None);
        }
        Some(token)
    }

    /// Defines a snippet. The caller has checked that the name is new.
    pub(super) fn define(&mut self, name: String, tokens: Vec<Token>) {
        self.snippets.insert(name, tokens.into());
    }

    /// Returns whether a snippet is defined.
    pub(super) fn is_defined(&self, name: &str) -> bool {
        self.snippets.contains_key(name)
    }

    /// Expands the `import` that is the next token.
    pub(super) fn import(&mut self) {
        if let Some(keyword) = self.next_raw() {
            self.import_after(keyword.span);
        }
    }

    /// Expands an `import` whose keyword has been consumed.
    pub(super) fn import_after(&mut self, keyword: Span) {
        if !self.line_continues() {
            let message = "Wrong argument count or unexpected line ending after 'import'";
            self.diagnostics.push(
                Diagnostic::error(Stage::Parse, Some(keyword), message)
                    .expected("the name of a snippet, or a file or pattern"),
            );
            return;
        }
        let Some(pattern) = self.next() else { return };
        if self.line_continues() {
            let message = "Import takes only one argument (glob pattern or file)";
            let extra = self.peek().map_or(pattern.span, |ahead| ahead.span);
            self.diagnostics.error(extra, message);
            while self.line_continues() && self.next_raw().is_some() {}
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

    /// Returns whether the next token is on the line of the one consumed last.
    fn line_continues(&self) -> bool {
        let next = self.frames.last().and_then(|frame| frame.tokens.get(frame.at));
        next.is_some_and(|token| !token.line_start)
    }

    /// Returns the files that match an import; reports if there are none.
    fn find(&mut self, pattern: &Token) -> Rc<[PathBuf]> {
        let directory = Path::new(self.sources.name(pattern.span.file)).parent().unwrap_or(Path::new("")).to_owned();
        let key = (directory, pattern.text.clone());
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

    /// Reports an import without a match: a warning for a pattern, an error for a file.
    fn import_not_found(&mut self, pattern: &Token) {
        let text = &pattern.text;
        if text.contains(['*', '?', '[', ']']) {
            self.diagnostics.warning(pattern.span, format!("No files matching import glob pattern: {text}"));
        } else {
            let message = format!("File to import not found: {text}");
            let error = Diagnostic::error(Stage::Parse, Some(pattern.span), message);
            // An error that is only counted needs no search through thousands of snippets.
            if self.diagnostics.is_full() {
                self.diagnostics.push(error);
                return;
            }
            let mut snippets: Vec<&str> = self.snippets.keys().map(String::as_str).collect();
            snippets.sort_unstable();
            self.diagnostics.push(match self.definition_below(pattern) {
                Some(place) => error.expected(format!("the snippet ({text}) above its first import, not at {place}")),
                None => error
                    .expected("a snippet that is defined above, or a file; paths start at the directory of this file")
                    .suggestion(suggest(text, snippets)),
            });
        }
    }

    /// Returns where the file defines a snippet of this name after its import.
    fn definition_below(&self, pattern: &Token) -> Option<String> {
        let tokens = self.lexed.get(Path::new(self.sources.name(pattern.span.file)))?.as_ref()?;
        let name = format!("({})", pattern.text);
        let is_definition =
            |pair: &&[Token]| matches!(pair, [name_token, open] if name_token.text == name && open.text == "{");
        tokens.windows(2).find(is_definition).map(|pair| self.sources.place(pair[0].span))
    }

    /// Returns the tokens of a file, which is read at its first use. Reports an error, and returns `None`, if it cannot
    /// be read.
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

    /// Splits a text into tokens, and stores both.
    fn lex(&mut self, path: &Path, text: String, imported_at: Option<Span>) -> Option<Rc<[Token]>> {
        self.used.source_bytes = self.used.source_bytes.saturating_add(text.len());
        if self.used.source_bytes > MAX_SOURCE_BYTES {
            let message = format!("the configuration is longer than {MAX_SOURCE_BYTES} bytes, imports included");
            // Only the name is stored, so that the message has a place.
            let file = self.sources.add(&path.display().to_string(), String::new(), imported_at);
            self.stop(imported_at.unwrap_or(Span { file, start: 0, end: 0 }), message);
            return None;
        }
        if text.bytes().filter(|byte| *byte == 0).count() > text.len() / MAX_ZERO_SHARE {
            self.error_not_text(path, &text, imported_at);
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
            self.diagnostics.warning(quote, "unclosed quote: it contains the rest of the file");
        }
        for comment in lexed.glued_comments {
            let message = "'#' within a word begins a comment, so that the rest of the word is ignored";
            let expected = "a space before the '#' of a comment, quotes around a word that contains '#'";
            self.diagnostics.push(Diagnostic::warning(Stage::Syntax, Some(comment), message).expected(expected));
        }
        self.used.lexed += lexed.tokens.len();
        let tokens: Rc<[Token]> = lexed.tokens.into();
        self.lexed.insert(path.to_owned(), Some(Rc::clone(&tokens)));
        Some(tokens)
    }

    /// Reports a file that is not text in UTF-8, once instead of for each of its words.
    fn error_not_text(&mut self, path: &Path, text: &str, imported_at: Option<Span>) {
        // Only the name is stored, so that the message has a place, but no bytes that a terminal cannot show.
        let file = self.sources.add(&path.display().to_string(), String::new(), imported_at);
        // The two bytes of a byte order mark in UTF-16 are not UTF-8.
        let (message, expected) = if text.starts_with("\u{fffd}\u{fffd}") {
            (
                "this file is in UTF-16, as '>' of Windows PowerShell writes it",
                "UTF-8, as of 'Out-File -Encoding ascii'",
            )
        } else {
            ("this file is not a text: it has many bytes that are 0", "a Corefile in UTF-8")
        };
        let error = Diagnostic::error(Stage::Syntax, Some(Span { file, start: 0, end: 0 }), message);
        self.diagnostics.push(error.expected(expected));
        self.lexed.insert(path.to_owned(), None);
    }

    /// Continues with the tokens of an import.
    fn open(&mut self, pattern: &Token, mut lists: Vec<Rc<[Token]>>) {
        if let Some(frame) = self.frames.last_mut() {
            frame.resumed = true;
        }
        let times_open = |tokens| self.frames.iter().filter(|frame| Rc::ptr_eq(&frame.tokens, tokens)).count();
        if lists.iter().any(|tokens| times_open(tokens) >= MAX_SELF_IMPORT) {
            return self.stop(pattern.span, format!("import cycle: '{}' imports itself", pattern.text));
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

    /// Reports an error, and ends the tokens.
    fn stop(&mut self, span: Span, message: String) {
        self.diagnostics.error(span, message);
        self.frames.clear();
        self.stopped = true;
    }
}
