//! The parser: builds the tree of blocks, directives and properties from tokens. After an error it continues at the
//! next line or brace.
//!
//! ```text
//! file      = { snippet | import | block }
//! snippet   = "(" name ")" "{" tokens "}"
//! block     = key { [","] key } ( "{" directives "}" | directives to the end of the file )
//! directive = name { arg } [ "{" properties "}" ]         ends with the line
//! ```
//!
//! `import` is allowed at the start of a line; `stream.rs` expands it. The rules are those of Caddy 1's
//! `caddyfile/parse.go`. What Caddy accepts only by accident is accepted with a warning, except for an unmatched `}`,
//! which Caddy parses as a zone.

use super::ast::{Block, Corefile, Directive, Property};
use super::diagnostic::{Diagnostic, Diagnostics, Stage};
use super::key::BlockKey;
use super::source::{Files, Span};
use super::stream::{Lookahead, TokenKind, TokenStream};
use super::token::Token;

/// The maximum number of zones that the keys of a Corefile, or the arguments of a directive, may expand to. A network
/// such as 10.0.0.0/9 expands to 128.
pub(super) const MAX_ZONES: usize = 65_536;

/// The maximum nesting of braces in a directive. No plugin of CoreDNS reads more than two levels.
const MAX_NESTING: usize = 32;

/// A directive whose name is also a zone that many networks have.
const ZONE_AND_DIRECTIVE: &str = "local";

/// What the caller knows about a name in the place of a directive.
#[derive(Clone, Debug)]
pub enum Known {
    /// This server implements the directive.
    Yes,
    /// CoreDNS implements it, this server does not; the text is the reason, or an alternative.
    Unsupported(Option<String>),
    /// A plugin from outside CoreDNS's tree; the text describes it, or is an alternative.
    External(Option<String>),
    /// CoreDNS had the directive; the text says until when, and what to use instead.
    Removed(String),
    /// A property of these directives, which is none itself.
    Property(String),
    /// Not a directive; finds the most similar name, if there is one (see [`suggest`]). A function, since the search is
    /// slow, a Corefile with many imports may have a million unknown names, and few of them are stored as errors.
    No(fn(&str) -> Option<String>),
}

impl Known {
    /// Returns whether this server implements the directive.
    fn is_implemented(&self) -> bool {
        matches!(self, Known::Yes)
    }
}

/// Parses a Corefile and everything that it imports.
pub(super) fn parse(
    name: &str, text: &str, files: &dyn Files, known: &dyn Fn(&str) -> Known, diagnostics: &mut Diagnostics,
) -> Corefile {
    let mut parser =
        Parser { stream: TokenStream::new(name, text, files, diagnostics), known, zones: 0, has_block: false };
    let mut blocks = Vec::new();
    if is_manifest(text)
        && let Some(first) = parser.stream.peek()
    {
        let message = "this is a manifest of Kubernetes, not a Corefile";
        let expected = "the text of '.data.Corefile', as of \"kubectl get configmap coredns -n kube-system -o \
                        jsonpath='{.data.Corefile}'\"";
        let error = Diagnostic::error(Stage::Syntax, Some(first.span), message).expected(expected);
        parser.stream.diagnostics.push(error);
        return Corefile { blocks, sources: parser.stream.sources };
    }
    while parser.stream.peek().is_some() {
        blocks.extend(parser.block());
    }
    Corefile { blocks, sources: parser.stream.sources }
}

/// Returns whether a text is a manifest of Kubernetes, in YAML or JSON.
fn is_manifest(text: &str) -> bool {
    let is_first = |line: &&str| !line.is_empty() && !line.starts_with('#') && *line != "---";
    let first = text.lines().map(str::trim_end).find(is_first).unwrap_or_default();
    let is_yaml = ["apiVersion:", "kind:", "data:", "metadata:"].iter().any(|field| first.starts_with(field))
        && text.lines().any(|line| line.starts_with("kind:") || line.trim_start().starts_with("Corefile:"));
    is_yaml || first.starts_with('{') && text.contains("\"apiVersion\"") && text.contains("\"kind\"")
}

/// The state of the parser.
pub(super) struct Parser<'a> {
    /// The remaining tokens.
    pub(super) stream: TokenStream<'a>,
    /// Decides which names are directives.
    known: &'a dyn Fn(&str) -> Known,
    /// The number of zones of all keys so far.
    zones: usize,
    /// Whether there has been a server block.
    has_block: bool,
}

impl Parser<'_> {
    /// Parses a server block or a snippet. Returns `None` for a snippet, and for a block without a zone.
    fn block(&mut self) -> Option<Block> {
        let (mut tokens, at_end) = self.keys();
        if !at_end && let [only] = tokens.as_slice() {
            let name = only.text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
            if let Some(name) = name {
                self.snippet(only.span, name.to_owned());
                return None;
            }
        }
        let start = tokens.first().map(|token| token.span).or(self.stream.peek().map(|ahead| ahead.span));
        let directive = tokens.first().filter(|key| self.is_directive_as_zone(key)).cloned();
        let is_braced = self.stream.peek().is_some_and(|ahead| ahead.kind == TokenKind::Open);
        if let Some(directive) = directive.as_ref().filter(|_| !is_braced) {
            self.report_directive_as_zone(directive, !self.has_block);
            if !self.has_block {
                // The next lines are checked as those of a block for all names.
                tokens = vec![Token { text: ".".to_owned(), written_at: None, ..directive.clone() }];
            }
        } else if at_end && let [first, ..] = tokens.as_slice() {
            let message =
                format!("'{}' is read as a server block without directives: its queries get REFUSED", first.text);
            let warning = Diagnostic::warning(Stage::Parse, Some(first.span), message);
            self.stream
                .diagnostics
                .push(warning.expected("'{' and directives after it, or the end of the file before it"));
        }
        let errors_before = self.stream.diagnostics.errors();
        let directives = if at_end { Vec::new() } else { self.contents(&tokens) };
        let is_odd = directives.is_empty() || self.stream.diagnostics.errors() > errors_before;
        if let Some(directive) = directive.filter(|_| is_braced && is_odd) {
            self.warn_of_braced_directive_as_zone(&directive);
        }
        let span = start?.to(self.stream.last.map_or(start?, |last| last.span));
        if tokens.is_empty() {
            if !directives.is_empty() {
                self.stream.diagnostics.warning(start?, "this block has no zone and is ignored");
            }
            return None;
        }
        let mut keys: Vec<BlockKey> = Vec::new();
        for token in tokens {
            if self.zones > MAX_ZONES {
                let message = format!("more than {MAX_ZONES} zones");
                let diagnostic = Diagnostic::error(Stage::Keys, Some(token.span), message);
                self.stream
                    .diagnostics
                    .push(diagnostic.expected("fewer or smaller networks: each expands to many zones"));
                break;
            }
            if let Some(key) = BlockKey::parse(token, self.stream.diagnostics) {
                self.zones += key.zones.len();
                keys.push(key);
            }
        }
        self.has_block = true;
        (!keys.is_empty()).then_some(Block { keys, directives, span })
    }

    /// Returns whether a key is the name of a directive, and not written as a zone: with a dot or a port.
    fn is_directive_as_zone(&self, key: &Token) -> bool {
        key.text != ZONE_AND_DIRECTIVE && matches!((self.known)(&key.text), Known::Yes | Known::Unsupported(_))
    }

    /// Parses the keys of a block. Also returns whether the file ends after them.
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
            // The first key of a block may be on the line of the previous block's closing brace.
            let continues = comma.is_some() || keys.is_empty() || !ahead.line_start;
            match ahead.kind {
                _ if !continues => return (keys, false),
                TokenKind::Import if ahead.line_start => self.stream.import(),
                TokenKind::Open => {
                    if comma.is_some() {
                        let message = "Expected another address but had '{' - check for extra comma";
                        self.stream.diagnostics.error(ahead.span, message);
                    }
                    return (keys, false);
                }
                TokenKind::Close => {
                    self.stream.next_raw();
                    self.error_unopened(ahead);
                }
                TokenKind::Import | TokenKind::Word => {
                    let Some(mut key) = self.stream.next() else { continue };
                    if keys.is_empty() && key.is_foreign_comment() {
                        self.report_foreign_comment(&key);
                        continue;
                    }
                    if key.text == "import" && key.line_start {
                        // The keyword came from an environment variable.
                        self.stream.import_after(key.span);
                        continue;
                    }
                    if key.text == "{" {
                        // It came from an environment variable; literal braces are handled above.
                        let diagnostic = Diagnostic::error(Stage::Parse, Some(key.span), "Unknown directive '{'");
                        self.stream
                            .diagnostics
                            .push(diagnostic.expected("a literal '{', not one from an environment variable"));
                        return (keys, false);
                    }
                    if key.text.is_empty() {
                        self.stream.diagnostics.warning(key.span, "an empty key is ignored");
                        // CoreDNS ignores the key, but not the end of its line.
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

    /// Stores the tokens of a snippet. They are not parsed before they are imported.
    fn snippet(&mut self, key: Span, name: String) {
        let Some(open) = self.stream.peek() else { return };
        if open.kind != TokenKind::Open {
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
            // Defined without its tokens, so that its uses are not reported as missing files.
            tokens.clear();
        }
        self.stream.define(name, tokens);
    }

    /// Parses the directives of a block, with or without braces.
    fn contents(&mut self, keys: &[Token]) -> Vec<Directive> {
        let open = self.stream.peek().filter(|ahead| ahead.kind == TokenKind::Open);
        if open.is_some() {
            self.stream.next_raw();
        }
        let mut directives = Vec::new();
        loop {
            let Some(ahead) = self.stream.peek() else {
                if let Some(open) = open {
                    self.block_ends_with_file(open, &directives);
                }
                return directives;
            };
            match ahead.kind {
                TokenKind::Close => {
                    self.stream.next_raw();
                    if open.is_none() {
                        let zone = keys.first().map_or("", |key| &key.text);
                        let message = format!("this '}}' closes the block of '{zone}', which has no '{{'");
                        self.stream.diagnostics.warning(ahead.span, message);
                    }
                    return directives;
                }
                TokenKind::Import => self.stream.import(),
                TokenKind::Open => {
                    let diagnostic = Diagnostic::error(Stage::Parse, Some(ahead.span), "Unknown directive '{'");
                    self.stream.diagnostics.push(diagnostic.expected("the name of a directive"));
                    self.stream.next_raw();
                    self.skip_braces();
                }
                TokenKind::Word => directives.extend(self.directive(open.is_some())),
            }
        }
    }

    /// Called when the file ends within a block. CoreDNS checks only that the last token is a `}`.
    fn block_ends_with_file(&mut self, open: Lookahead, directives: &[Directive]) {
        self.warn_of_unclosed_directive(directives);
        match self.stream.last {
            Some(last) if last.kind == TokenKind::Close && !self.stream.stopped => {
                self.stream.diagnostics.warning(open.span, "unclosed '{': the file ends before its '}'");
            }
            _ => self.error_unclosed(open.span),
        }
    }

    /// Warns of a directive whose closing brace seems to be missing: a line in its braces has the name of a directive,
    /// and is not indented further than the directive itself.
    fn warn_of_unclosed_directive(&mut self, directives: &[Directive]) {
        let sources = &self.stream.sources;
        let column = |token: &Token| sources.position(token.span).column;
        let unclosed = directives.iter().find_map(|directive| {
            let is_next =
                |property: &&Property| property.is_directive && column(&property.name) <= column(&directive.name);
            Some((directive, directive.body.as_ref()?.iter().find(is_next)?))
        });
        if let Some((directive, next)) = unclosed {
            let (name, line) = (&directive.name.text, sources.position(next.name.span).line);
            let message =
                format!("the braces of '{name}' seem to be unclosed: they contain '{}' of line {line}", next.name.text);
            let warning = Diagnostic::warning(Stage::Syntax, Some(directive.name.span), message);
            self.stream.diagnostics.push(warning.expected(format!("'}}' before line {line}")));
        }
    }

    /// Parses a directive with its arguments and body. Returns `None` if the name is not a known directive.
    fn directive(&mut self, braced: bool) -> Option<Directive> {
        let name = self.stream.next()?;
        if name.is_foreign_comment() {
            self.report_foreign_comment(&name);
            return None;
        }
        let known = (self.known)(&name.text);
        let is_implemented = known.is_implemented();
        if !is_implemented {
            self.error_unknown(&name, &known, braced);
        }
        let args = self.args();
        if !is_implemented && name.text.len() > 1 && name.text.ends_with('{') {
            // `log{` was meant to open a block; parsing its contents would only produce more errors.
            self.skip_braces();
            return None;
        }
        let body = match self.stream.peek() {
            Some(ahead) if ahead.kind == TokenKind::Open => {
                self.stream.next_raw();
                let body = self.body(ahead.span, &name.text, 1);
                if ahead.line_start && is_implemented {
                    self.report_brace_on_next_line(&name.text, ahead.span, body.is_empty());
                    None
                } else {
                    self.expect_end_of_line(&name.text);
                    Some(body)
                }
            }
            // As in CoreDNS, the directive in `. { log }` is not terminated, since only the end of a line does that.
            Some(ahead) if ahead.kind == TokenKind::Close && !ahead.line_start => {
                self.error_unopened(ahead);
                None
            }
            _ => None,
        };
        let span = name.span.to(self.stream.last.map_or(name.span, |last| last.span));
        is_implemented.then_some(Directive { name, args, body, span })
    }

    /// Returns the tokens up to the end of the line or a brace.
    fn args(&mut self) -> Vec<Token> {
        let mut args = Vec::new();
        while let Some(ahead) = self.stream.peek() {
            if ahead.line_start || matches!(ahead.kind, TokenKind::Open | TokenKind::Close) {
                break;
            }
            args.extend(self.stream.next());
        }
        self.warn_of_quotes(&args);
        if let Some(last) = args.last()
            && last.text.len() > 1
            && last.text.ends_with('{')
            && self.stream.sources.snippet(last.span) == last.text
            && self.stream.peek().is_none_or(|next| next.line_start)
        {
            let message = format!("'{}' is one word and does not open a block", last.text);
            let diagnostic = Diagnostic::warning(Stage::Syntax, Some(last.span), message);
            self.stream.diagnostics.push(diagnostic.expected("white space before '{'"));
        }
        args
    }

    /// Parses the properties of a body up to its closing brace. The opening brace has been consumed.
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
            match ahead.kind {
                TokenKind::Close => {
                    self.stream.next_raw();
                    if !ahead.line_start && !properties.is_empty() {
                        let message = "CoreDNS may parse this '}' as an argument";
                        let diagnostic = Diagnostic::warning(Stage::Syntax, Some(ahead.span), message);
                        self.stream.diagnostics.push(diagnostic.expected("'}' on a line of its own"));
                    }
                    return properties;
                }
                TokenKind::Import if ahead.line_start => self.stream.import(),
                TokenKind::Open => {
                    self.error_syntax(ahead.span, "a property");
                    self.stream.next_raw();
                    self.skip_braces();
                }
                TokenKind::Import | TokenKind::Word => {
                    let Some(name) = self.stream.next() else { continue };
                    let args = self.args();
                    let inner = self.stream.peek().filter(|next| next.kind == TokenKind::Open && !next.line_start);
                    let body = inner.map(|inner| {
                        self.stream.next_raw();
                        self.body(inner.span, &name.text, depth + 1)
                    });
                    let is_directive = (self.known)(&name.text).is_implemented();
                    properties.push(Property { name, args, is_directive, body });
                }
            }
        }
    }

    /// Reports tokens after a body's closing brace on the same line, including the closing brace of the block.
    fn expect_end_of_line(&mut self, name: &str) {
        let Some(ahead) = self.stream.peek().filter(|ahead| !ahead.line_start) else { return };
        if ahead.kind == TokenKind::Close {
            self.error_unopened(ahead);
            return;
        }
        self.report_words_after_brace(name, ahead.span);
        while let Some(ahead) = self.stream.peek().filter(|ahead| !ahead.line_start) {
            match ahead.kind {
                TokenKind::Close => return self.error_unopened(ahead),
                TokenKind::Open => {
                    self.stream.next_raw();
                    self.skip_braces();
                }
                TokenKind::Import | TokenKind::Word => drop(self.stream.next_raw()),
            }
        }
    }

    /// Skips the rest of the line.
    fn skip_line(&mut self) {
        self.stream.next_raw();
        while self.stream.peek().is_some_and(|ahead| !ahead.line_start) {
            self.stream.next_raw();
        }
    }

    /// Skips everything up to the brace that matches the one just consumed.
    fn skip_braces(&mut self) {
        let mut depth = 1usize;
        while depth > 0 {
            let Some(ahead) = self.stream.peek() else { return };
            match ahead.kind {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth -= 1,
                TokenKind::Import | TokenKind::Word => {}
            }
            self.stream.next_raw();
        }
    }
}
