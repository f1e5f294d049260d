//! The cursor with which a plugin parses its lines: it reads the tokens of one directive or property, and reports each
//! error with its place, what was expected and the most similar valid word.
//!
//! ```text
//! let mut line = Arguments::of(directive, diagnostics);
//! let ttl = if line.more() { line.number(1..=86400) } else { None };
//! for property in line.body() {
//!     let mut line = line.enter(property);
//!     match line.name() {
//!         "prefetch" => config.prefetch = line.number(1..=u32::MAX),
//!         _ => line.unknown(["prefetch"]),
//!     }
//!     line.finish();
//! }
//! line.finish();
//! ```
//!
//! A method that reports an error returns `None`, so that a plugin needs nothing but `if let Some(..)`.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::ast::{Directive, Property};
use super::diagnostic::{Diagnostic, DiagnosticSeverity, Diagnostics, Stage, suggest};
use super::duration::parse_duration;
use super::key::{NETWORK_EXPECTED, is_failed_network, normalize_zones};
use super::parse::MAX_ZONES;
use super::refuse::FOREIGN_COMMENT_EXPECTED;
use super::token::Token;

/// The tokens of a line, read from left to right.
pub struct Arguments<'a, 'd> {
    /// The plugin, for messages.
    plugin: &'a str,
    /// The first token of the line.
    name: &'a Token,
    /// The tokens after it.
    args: &'a [Token],
    /// The index of the next argument.
    at: usize,
    /// The properties in braces after the line.
    body: Option<&'a [Property]>,
    /// Whether the line is a property with the name of a directive.
    is_directive: bool,
    /// What [`Arguments::finish`] does not have to check.
    done: Done,
    /// Receives errors and warnings.
    diagnostics: &'d mut Diagnostics,
}

/// What has been read, or must not be checked after an error.
#[derive(Clone, Copy, Default)]
struct Done {
    /// The arguments.
    words: bool,
    /// The braces.
    body: bool,
}

impl<'a, 'd> Arguments<'a, 'd> {
    /// Starts with the line of a directive.
    pub fn of(directive: &'a Directive, diagnostics: &'d mut Diagnostics) -> Arguments<'a, 'd> {
        Arguments {
            plugin: &directive.name.text,
            name: &directive.name,
            args: &directive.args,
            at: 0,
            body: directive.body.as_deref(),
            is_directive: false,
            done: Done::default(),
            diagnostics,
        }
    }

    /// Starts with the line of a property. The outer line can be used again afterwards.
    pub fn enter<'s>(&'s mut self, property: &'a Property) -> Arguments<'a, 's> {
        Arguments {
            plugin: self.plugin,
            name: &property.name,
            args: &property.args,
            at: 0,
            body: property.body.as_deref(),
            is_directive: property.is_directive,
            done: Done::default(),
            diagnostics: self.diagnostics,
        }
    }

    /// Returns the first token of the line.
    pub fn name(&self) -> &'a str {
        &self.name.text
    }

    /// Returns the first token with its place.
    pub fn name_token(&self) -> &'a Token {
        self.name
    }

    /// Returns whether there is another argument.
    pub fn more(&self) -> bool {
        self.at < self.args.len()
    }

    /// Returns the number of remaining arguments.
    pub fn remaining(&self) -> usize {
        self.args.len().saturating_sub(self.at)
    }

    /// Returns the next argument without consuming it.
    pub fn peek(&self) -> Option<&'a Token> {
        self.args.get(self.at)
    }

    /// Consumes the next argument, if there is one.
    pub fn next_word(&mut self) -> Option<&'a Token> {
        let token = self.args.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    /// Consumes all remaining arguments, of which there may be none.
    pub fn rest(&mut self) -> &'a [Token] {
        let rest = self.args.get(self.at..).unwrap_or(&[]);
        self.at = self.args.len();
        rest
    }

    /// Consumes the next argument, which is required. `what` describes it in the message.
    pub fn word(&mut self, what: &str) -> Option<&'a Token> {
        let token = self.next_word();
        if token.is_none() {
            self.error_missing(what);
        }
        token
    }

    /// Consumes all remaining arguments, of which at least one is required.
    pub fn words(&mut self, what: &str) -> Option<&'a [Token]> {
        let rest = self.rest();
        if rest.is_empty() {
            self.error_missing(what);
            return None;
        }
        Some(rest)
    }

    /// Consumes the remaining arguments, which must be exactly `N`.
    pub fn exactly<const N: usize>(&mut self, what: &str) -> Option<[&'a Token; N]> {
        let rest = self.rest();
        if let Some(extra) = rest.get(N) {
            self.error_expected(extra, wrong_count(&extra.text), what);
            return None;
        }
        let words = rest.iter().collect::<Vec<_>>().try_into();
        if words.is_err() {
            self.error_missing(what);
        }
        words.ok()
    }

    /// Consumes the next argument and parses it with `read`, whose error becomes the message.
    pub fn parse<T, E: Display>(&mut self, what: &str, read: impl FnOnce(&'a str) -> Result<T, E>) -> Option<T> {
        let token = self.word(what)?;
        match read(&token.text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error_expected(token, error.to_string(), what);
                None
            }
        }
    }

    /// Consumes an integer within a range.
    pub fn number<T: FromStr + PartialOrd + Display>(&mut self, range: RangeInclusive<T>) -> Option<T> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        self.parse(&what, |text| {
            text.parse().ok().filter(|number| range.contains(number)).ok_or(format!("invalid number '{text}'"))
        })
    }

    /// Consumes a duration that is not negative.
    pub fn duration(&mut self) -> Option<Duration> {
        self.parse("a duration such as 5s, 500ms or 1h30m", |text| {
            let nanoseconds = parse_duration(text).map_err(|error| error.to_string())?;
            u64::try_from(nanoseconds).map(Duration::from_nanos).map_err(|_| format!("negative duration '{text}'"))
        })
    }

    /// Consumes a duration within a range.
    pub fn duration_in(&mut self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let token = self.peek();
        let duration = self.duration()?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let token = token?;
        let what = format!("a duration from {:?} to {:?}", range.start(), range.end());
        self.error_expected(token, format!("duration '{}' is out of range", token.text), &what);
        None
    }

    /// Consumes an IP address.
    pub fn ip(&mut self) -> Option<IpAddr> {
        self.parse("an IP address", |text| text.parse().map_err(|_| format!("invalid IP address '{text}'")))
    }

    /// Consumes a network. A bare address is an error; see [`Arguments::network_or_ip`].
    pub fn network(&mut self) -> Option<IpNet> {
        self.parse("a network such as 10.0.0.0/8", |text| text.parse().map_err(|_| format!("invalid CIDR '{text}'")))
    }

    /// Consumes a network; a bare address is the network that contains only itself.
    pub fn network_or_ip(&mut self) -> Option<IpNet> {
        self.parse("a network such as 10.0.0.0/8, or an address", |text| {
            let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            network.ok_or(format!("invalid CIDR '{text}'"))
        })
    }

    /// Consumes one of several words, and returns its value.
    pub fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        let names = || choices.iter().map(|(name, _)| *name);
        let what = one_of(names());
        let token = self.word(&what)?;
        let found = choices.iter().find(|(name, _)| *name == token.text).map(|(_, value)| *value);
        if found.is_none() {
            let message = format!("unexpected '{}'", token.text);
            let diagnostic = Diagnostic::error(Stage::Parse, Some(token.span), message);
            self.push(diagnostic.expected(what).suggestion(suggest(&token.text, names())));
        }
        found
    }

    /// Consumes all remaining arguments as zones, and expands networks. An invalid zone is ignored as in CoreDNS, with
    /// a warning.
    pub fn zones(&mut self) -> Vec<String> {
        let words = self.rest();
        self.zones_of(words)
    }

    /// Consumes all remaining arguments: zones as in [`Arguments::zones`], and a last word, which is required and which
    /// `what` describes in the message. The zones are `None` if there is no other word.
    pub fn zones_and_word(&mut self, what: &str) -> Option<(Option<Vec<String>>, &'a Token)> {
        let (last, zones) = self.words(what)?.split_last()?;
        Some(((!zones.is_empty()).then(|| self.zones_of(zones)), last))
    }

    /// Returns the zones of words.
    fn zones_of(&mut self, words: &'a [Token]) -> Vec<String> {
        let mut zones = Vec::new();
        for token in words {
            if zones.len() > MAX_ZONES {
                self.error_expected(token, format!("more than {MAX_ZONES} zones"), "fewer or smaller networks");
                break;
            }
            if token.text == "//" {
                // `push` adds what was expected.
                self.warning(token, "'//' does not begin a comment: it and the words after it are read as zones");
            }
            if is_failed_network(&token.text) {
                let warning = Diagnostic::warning(
                    Stage::Parse,
                    Some(token.span),
                    format!("'{}' is no network, and is read as a name", token.text),
                );
                self.push(warning.expected(NETWORK_EXPECTED));
            }
            match normalize_zones(token) {
                Ok(found) => zones.extend(found),
                Err(error) => self.warning(token, format!("'{}' is ignored: {error}", token.text)),
            }
        }
        zones
    }

    /// Returns the properties in braces; empty without braces. If this is never called, braces are an error.
    pub fn body(&mut self) -> &'a [Property] {
        self.done.body = true;
        self.body.unwrap_or(&[])
    }

    /// Returns the properties in braces, which are required.
    pub fn required_body(&mut self, what: &str) -> Option<&'a [Property]> {
        self.done.body = true;
        if self.body.is_none() {
            let message = format!("'{}' needs a block", self.name.text);
            self.error_expected(self.name, message, what);
        }
        self.body
    }

    /// Reports that the line's name is not one of these properties. The rest of the line is skipped.
    pub fn unknown<'n>(&mut self, names: impl IntoIterator<Item = &'n str, IntoIter: Clone>) {
        let names = names.into_iter();
        let text = &self.name.text;
        let error = Diagnostic::error(Stage::Parse, Some(self.name.span), format!("unknown property '{text}'"))
            .plugin(self.plugin);
        self.push(if self.is_directive {
            error.expected(format!("'{text}' after the '}}' of '{}': it is a directive", self.plugin))
        } else {
            let error = error.expected(one_of(names.clone()));
            let suggestion = self.diagnostics.suggestion_for(&error, || suggest(text, names));
            error.suggestion(suggestion)
        });
        self.done = Done { words: true, body: true };
    }

    /// Skips the rest of the line and its braces, as CoreDNS does for some properties.
    pub fn ignore_rest(&mut self) {
        self.done = Done { words: true, body: true };
    }

    /// Ends the line: reports arguments and braces that were not read.
    pub fn finish(mut self) {
        if let Some(extra) = self.peek().filter(|_| !self.done.words) {
            self.error_expected(extra, wrong_count(&extra.text), "end of line");
        }
        if self.body.is_some() && !self.done.body {
            let message = "Unexpected token '{', expecting argument";
            self.error_expected(self.name, message.to_owned(), &format!("no block after '{}'", self.name.text));
        }
    }

    /// Reports an error at a token.
    pub fn error(&mut self, token: &Token, message: impl Into<String>) {
        self.push(Diagnostic::error(Stage::Parse, Some(token.span), message));
    }

    /// Reports an error at a token, with what was expected.
    pub fn error_expected(&mut self, token: &Token, message: impl Into<String>, expected: &str) {
        self.push(Diagnostic::error(Stage::Parse, Some(token.span), message).expected(expected));
    }

    /// Reports a warning at a token.
    pub fn warning(&mut self, token: &Token, message: impl Into<String>) {
        self.push(Diagnostic::warning(Stage::Parse, Some(token.span), message));
    }

    /// Reports a diagnostic with the name of the plugin. After an error, the rest of the line is not checked.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.done.words |= diagnostic.severity == DiagnosticSeverity::Error;
        let is_comment = |word: &Token| diagnostic.span == Some(word.span) && word.text == "//";
        let diagnostic = if std::iter::once(self.name).chain(self.args).any(is_comment) {
            diagnostic.expected(FOREIGN_COMMENT_EXPECTED)
        } else {
            diagnostic
        };
        self.diagnostics.push(diagnostic.plugin(self.plugin));
    }

    /// Reports a missing argument.
    fn error_missing(&mut self, what: &str) {
        let last = self.args.last().unwrap_or(self.name);
        self.error_expected(last, wrong_count(&last.text), what);
    }
}

/// Returns CoreDNS's message for too many or too few arguments.
fn wrong_count(text: &str) -> String {
    format!("Wrong argument count or unexpected line ending after '{text}'")
}

/// Returns `one of a, b, c`.
fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [only] => format!("'{only}'"),
        many => format!("one of {}", many.join(", ")),
    }
}
