//! Words to tree: which are keys, directives, properties. After a mistake it goes on at the next line or brace.
//!
//! ```text
//! file      = { snippet | import | block }
//! snippet   = "(" name ")" "{" words "}"
//! block     = key { [","] key } ( "{" directives "}" | directives to the end of the file )
//! directive = name { arg } [ "{" properties "}" ]         the line ends it
//! ```
//!
//! `import` may stand where a line may start; `stream.rs` follows it. The rules are those of Caddy 1's
//! `caddyfile/parse.go`. Where that accepts something only by accident, so does this, with a warning, except for a `}`
//! that closes nothing, which Caddy takes for a zone.

use super::Known;
use super::ast::{Block, Corefile, Directive, Property};
use super::diagnostic::{Diagnostic, Diagnostics, Stage};
use super::key::Key;
use super::source::{Files, Span};
use super::stream::{Ahead, Shape, Stream};
use super::token::Token;

/// How many zones the keys of a Corefile, or the arguments of a directive, may stand for. A network such as 10.0.0.0/9
/// stands for 128.
pub(super) const MAX_ZONES: usize = 65_536;

/// How deep braces may be nested in a directive. No plugin of CoreDNS reads more than two levels.
const MAX_NESTING: usize = 32;

/// Reads a Corefile and all that it imports.
pub(super) fn parse(
    name: &str, text: &str, files: &dyn Files, known: &dyn Fn(&str) -> Known, diagnostics: &mut Diagnostics,
) -> Corefile {
    let mut parser = Parser { stream: Stream::new(name, text, files, diagnostics), known, zones: 0 };
    let mut blocks = Vec::new();
    while parser.stream.peek().is_some() {
        blocks.extend(parser.block());
    }
    Corefile { blocks, sources: parser.stream.sources }
}

/// The state of [`parse`].
pub(super) struct Parser<'a> {
    /// The words still to come.
    pub(super) stream: Stream<'a>,
    /// Tells directives from other words.
    known: &'a dyn Fn(&str) -> Known,
    /// How many zones the keys so far stand for.
    zones: usize,
}

impl Parser<'_> {
    /// A server block or a snippet. None for a snippet, and for a block that serves nothing.
    fn block(&mut self) -> Option<Block> {
        let (tokens, at_end) = self.keys();
        if !at_end && let [only] = tokens.as_slice() {
            let name = only.text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            if let Some(name) = name {
                self.snippet(only.span, name.to_owned());
                return None;
            }
        }
        let start = tokens.first().map(|token| token.span).or(self.stream.peek().map(|ahead| ahead.span));
        let directives = if at_end { Vec::new() } else { self.contents(&tokens) };
        let span = start?.to(self.stream.last.map_or(start?, |last| last.span));
        if tokens.is_empty() {
            if !directives.is_empty() {
                self.stream.diagnostics.warning(start?, "this block has no zone and is left away");
            }
            return None;
        }
        let mut keys: Vec<Key> = Vec::new();
        for token in tokens {
            if self.zones > MAX_ZONES {
                let message = format!("more than {MAX_ZONES} zones");
                let diagnostic = Diagnostic::error(Stage::Keys, Some(token.span), message);
                self.stream
                    .diagnostics
                    .push(diagnostic.expected("fewer or shorter networks: each stands for many zones"));
                break;
            }
            if let Some(key) = Key::parse(token, self.stream.diagnostics) {
                self.zones += key.zones.len();
                keys.push(key);
            }
        }
        (!keys.is_empty()).then_some(Block { keys, directives, span })
    }

    /// The keys of a block, and whether the file ends with them.
    fn keys(&mut self) -> (Vec<Token>, bool) {
        let mut keys = Vec::new();
        let mut comma: Option<Span> = None;
        loop {
            let Some(ahead) = self.stream.peek() else {
                if let Some(comma) = comma {
                    self.error_eof(comma, "another zone after the comma");
                }
                return (keys, true);
            };
            // The first word of a block may follow another block's brace on its line.
            let goes_on = comma.is_some() || keys.is_empty() || !ahead.line_start;
            match ahead.shape {
                _ if !goes_on => return (keys, false),
                Shape::Import if ahead.line_start => self.stream.import(),
                Shape::Open => {
                    if comma.is_some() {
                        let message = "Expected another address but had '{' - check for extra comma";
                        self.stream.diagnostics.error(ahead.span, message);
                    }
                    return (keys, false);
                }
                Shape::Close => {
                    self.stream.next_raw();
                    self.error_unopened(ahead);
                }
                Shape::Import | Shape::Word => {
                    let Some(mut key) = self.stream.next() else { continue };
                    if key.text == "import" && key.line_start {
                        // From the environment, as below.
                        self.stream.import_after(key.span);
                        continue;
                    }
                    if key.text == "{" {
                        // From the environment; written braces were seen above.
                        let diagnostic = Diagnostic::error(Stage::Parse, Some(key.span), "Unknown directive '{'");
                        self.stream.diagnostics.push(diagnostic.expected("'{' written out, not from the environment"));
                        return (keys, false);
                    }
                    if key.text.is_empty() {
                        self.stream.diagnostics.warning(key.span, "an empty key is left away");
                        // CoreDNS leaves the key out but not the end of the line that it stands on.
                        if comma.is_none() && self.stream.peek().is_some_and(|next| next.line_start) {
                            return (keys, false);
                        }
                        continue;
                    }
                    comma = key.text.ends_with(',').then_some(key.span);
                    if comma.is_some() {
                        key.text.pop();
                    }
                    keys.push(key);
                }
            }
        }
    }

    /// Keeps the words of a snippet for later; they are not looked at before something imports them.
    fn snippet(&mut self, key: Span, name: String) {
        let Some(open) = self.stream.peek() else { return };
        if open.shape != Shape::Open {
            self.error_syntax(open.span, "{");
            if !open.line_start {
                self.skip_line();
            }
            return;
        }
        self.stream.next_raw();
        let mut tokens = Vec::new();
        let mut depth = 1usize;
        while let Some(token) = self.stream.next_raw() {
            match token.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            tokens.push(token);
        }
        if depth > 0 {
            self.error_unclosed(open.span);
        }
        let imports_itself = tokens.windows(2).find(|pair| {
            matches!(pair, [keyword, pattern] if keyword.text == "import" && keyword.line_start && pattern.text == name)
        });
        if self.stream.is_defined(&name) {
            let message = format!("redeclaration of previously declared snippet {name}");
            self.stream.diagnostics.error(key, message);
            return;
        }
        if let Some([_, pattern]) = imports_itself {
            let message = format!("snippet '{name}' imports itself");
            self.stream.diagnostics.error(pattern.span, message);
            // Defined all the same, so that its uses are not called missing files, but without its words.
            tokens.clear();
        }
        self.stream.define(name, tokens);
    }

    /// What a block holds, with or without braces.
    fn contents(&mut self, keys: &[Token]) -> Vec<Directive> {
        let open = self.stream.peek().filter(|ahead| ahead.shape == Shape::Open);
        if open.is_some() {
            self.stream.next_raw();
        }
        let mut directives = Vec::new();
        loop {
            let Some(ahead) = self.stream.peek() else {
                if let Some(open) = open {
                    self.block_ends_with_file(open);
                }
                return directives;
            };
            match ahead.shape {
                Shape::Close => {
                    self.stream.next_raw();
                    if open.is_none() {
                        let zone = keys.first().map_or("", |key| &key.text);
                        let message = format!("this '}}' closes the block of '{zone}', which no '{{' opened");
                        self.stream.diagnostics.warning(ahead.span, message);
                    }
                    return directives;
                }
                Shape::Import => self.stream.import(),
                Shape::Open => {
                    let diagnostic = Diagnostic::error(Stage::Parse, Some(ahead.span), "Unknown directive '{'");
                    self.stream.diagnostics.push(diagnostic.expected("the name of a directive"));
                    self.stream.next_raw();
                    self.skip_braces();
                }
                Shape::Word => directives.extend(self.directive(open.is_some())),
            }
        }
    }

    /// The file ends within a block's braces. CoreDNS looks only at the last word, so any `}` will do.
    fn block_ends_with_file(&mut self, open: Ahead) {
        match self.stream.last {
            Some(last) if last.shape == Shape::Close && !self.stream.stopped => {
                self.stream.diagnostics.warning(open.span, "this '{' is never closed; the file ends first");
            }
            _ => self.error_unclosed(open.span),
        }
    }

    /// A directive with its arguments and body. None for a name that is no directive of this server.
    fn directive(&mut self, braced: bool) -> Option<Directive> {
        let name = self.stream.next()?;
        let known = (self.known)(&name.text);
        if known != Known::Yes {
            self.error_unknown(&name, &known, braced);
        }
        let args = self.args();
        if known != Known::Yes && name.text.len() > 1 && name.text.ends_with('{') {
            // `log{` was meant to open a block; to read on in it would only bring more errors.
            self.skip_braces();
            return None;
        }
        let body = match self.stream.peek() {
            Some(ahead) if ahead.shape == Shape::Open => {
                self.stream.next_raw();
                let body = self.body(ahead.span, &name.text, 1);
                if ahead.line_start && known == Known::Yes {
                    self.brace_on_next_line(&name.text, ahead.span, body.is_empty());
                    None
                } else {
                    self.line_must_end(&name.text);
                    Some(body)
                }
            }
            // CoreDNS: `. { log }` on one line has no end of line to end the directive.
            Some(ahead) if ahead.shape == Shape::Close && !ahead.line_start => {
                self.error_unopened(ahead);
                None
            }
            _ => None,
        };
        let span = name.span.to(self.stream.last.map_or(name.span, |last| last.span));
        (known == Known::Yes).then_some(Directive { name, args, body, span })
    }

    /// The words up to the end of the line or a brace.
    fn args(&mut self) -> Vec<Token> {
        let mut args = Vec::new();
        while let Some(ahead) = self.stream.peek() {
            if ahead.line_start || matches!(ahead.shape, Shape::Open | Shape::Close) {
                break;
            }
            args.extend(self.stream.next());
        }
        if let Some(last) = args.last()
            && last.text.len() > 1
            && last.text.ends_with('{')
            && self.stream.sources.snippet(last.span) == last.text
            && self.stream.peek().is_none_or(|next| next.line_start)
        {
            let message = format!("'{}' is one word and opens no block", last.text);
            let diagnostic = Diagnostic::warning(Stage::Syntax, Some(last.span), message);
            self.stream.diagnostics.push(diagnostic.expected("white space before '{'"));
        }
        args
    }

    /// The properties of a body, whose brace was just taken, and its closing brace.
    fn body(&mut self, open: Span, owner: &str, depth: usize) -> Vec<Property> {
        let mut properties = Vec::new();
        if depth > MAX_NESTING {
            let message = format!("braces are nested more than {MAX_NESTING} deep");
            self.stream.diagnostics.error(open, message);
            self.skip_braces();
            return properties;
        }
        loop {
            let Some(ahead) = self.stream.peek() else {
                self.error_eof(open, format!("'}}' to close the '{{' of '{owner}'"));
                return properties;
            };
            match ahead.shape {
                Shape::Close => {
                    self.stream.next_raw();
                    if !ahead.line_start && !properties.is_empty() {
                        let message = "CoreDNS may take this '}' for an argument";
                        let diagnostic = Diagnostic::warning(Stage::Syntax, Some(ahead.span), message);
                        self.stream.diagnostics.push(diagnostic.expected("'}' on a line of its own"));
                    }
                    return properties;
                }
                Shape::Import if ahead.line_start => self.stream.import(),
                Shape::Open => {
                    self.error_syntax(ahead.span, "a property");
                    self.stream.next_raw();
                    self.skip_braces();
                }
                Shape::Import | Shape::Word => {
                    let Some(name) = self.stream.next() else { continue };
                    let args = self.args();
                    let inner = self.stream.peek().filter(|next| next.shape == Shape::Open && !next.line_start);
                    let body = inner.map(|inner| {
                        self.stream.next_raw();
                        self.body(inner.span, &name.text, depth + 1)
                    });
                    properties.push(Property { name, args, body });
                }
            }
        }
    }

    /// Behind a body's closing brace nothing may stand on its line, not even the block's own closing brace.
    fn line_must_end(&mut self, name: &str) {
        let Some(ahead) = self.stream.peek().filter(|ahead| !ahead.line_start) else { return };
        if ahead.shape == Shape::Close {
            self.error_unopened(ahead);
            return;
        }
        self.words_after_brace(name, ahead.span);
        while let Some(ahead) = self.stream.peek().filter(|ahead| !ahead.line_start) {
            match ahead.shape {
                Shape::Close => return self.error_unopened(ahead),
                Shape::Open => {
                    self.stream.next_raw();
                    self.skip_braces();
                }
                Shape::Import | Shape::Word => drop(self.stream.next_raw()),
            }
        }
    }

    /// Passes the rest of the line.
    fn skip_line(&mut self) {
        self.stream.next_raw();
        while self.stream.peek().is_some_and(|ahead| !ahead.line_start) {
            self.stream.next_raw();
        }
    }

    /// Passes everything up to the brace that closes the one just taken.
    fn skip_braces(&mut self) {
        let mut depth = 1usize;
        while depth > 0 {
            let Some(ahead) = self.stream.peek() else { return };
            match ahead.shape {
                Shape::Open => depth += 1,
                Shape::Close => depth -= 1,
                Shape::Import | Shape::Word => {}
            }
            self.stream.next_raw();
        }
    }
}
