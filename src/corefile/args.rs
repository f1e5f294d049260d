//! How a plugin reads its lines: a cursor over the words of one directive or property that reports each mistake with
//! its place, what was expected and the nearest right word, and goes on.
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
//! A reader gives `None` after it has reported, so that `if let Some(..)` is all the care that a plugin needs.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::ast::{Directive, Property};
use super::diagnostic::{Diagnostic, Diagnostics, Severity, Stage, suggest};
use super::duration::parse_duration;
use super::key::normalize_zones;
use super::parse::MAX_ZONES;
use super::token::Token;

/// The words of one line, read from left to right.
pub struct Arguments<'a, 'd> {
    /// The plugin, for messages.
    plugin: &'a str,
    /// The first word of the line.
    name: &'a Token,
    /// All words after it.
    args: &'a [Token],
    /// The next one.
    at: usize,
    /// What stands in the line's braces.
    body: Option<&'a [Property]>,
    /// The line reported a mistake that makes the count of its words meaningless, or took its body.
    done: Done,
    /// Where mistakes go.
    diagnostics: &'d mut Diagnostics,
}

/// What [`Arguments::finish`] need not check any more.
#[derive(Clone, Copy, Default)]
struct Done {
    /// Whether all words are read.
    words: bool,
    /// Whether the braces are read.
    body: bool,
}

impl<'a, 'd> Arguments<'a, 'd> {
    /// Starts with a directive's line.
    pub fn of(directive: &'a Directive, diagnostics: &'d mut Diagnostics) -> Arguments<'a, 'd> {
        Arguments {
            plugin: &directive.name.text,
            name: &directive.name,
            args: &directive.args,
            at: 0,
            body: directive.body.as_deref(),
            done: Done::default(),
            diagnostics,
        }
    }

    /// Goes into a property. The outer line can be used again when the inner one is gone.
    pub fn enter<'s>(&'s mut self, property: &'a Property) -> Arguments<'a, 's> {
        Arguments {
            plugin: self.plugin,
            name: &property.name,
            args: &property.args,
            at: 0,
            body: property.body.as_deref(),
            done: Done::default(),
            diagnostics: self.diagnostics,
        }
    }

    /// The first word of the line.
    pub fn name(&self) -> &'a str {
        &self.name.text
    }

    /// The first word with its place.
    pub fn name_token(&self) -> &'a Token {
        self.name
    }

    /// Whether another word follows.
    pub fn more(&self) -> bool {
        self.at < self.args.len()
    }

    /// How many words follow.
    pub fn remaining(&self) -> usize {
        self.args.len().saturating_sub(self.at)
    }

    /// The next word, left in its place.
    pub fn peek(&self) -> Option<&'a Token> {
        self.args.get(self.at)
    }

    /// The next word, if there is one.
    pub fn next_word(&mut self) -> Option<&'a Token> {
        let token = self.args.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    /// All words that follow; perhaps none.
    pub fn rest(&mut self) -> &'a [Token] {
        let rest = self.args.get(self.at..).unwrap_or(&[]);
        self.at = self.args.len();
        rest
    }

    /// The next word, which must be there. `what` says what it is, for the message.
    pub fn word(&mut self, what: &str) -> Option<&'a Token> {
        let token = self.next_word();
        if token.is_none() {
            self.error_missing(what);
        }
        token
    }

    /// All words that follow, of which there must be one at least.
    pub fn words(&mut self, what: &str) -> Option<&'a [Token]> {
        let rest = self.rest();
        if rest.is_empty() {
            self.error_missing(what);
            return None;
        }
        Some(rest)
    }

    /// Exactly `N` words, no more and no fewer, up to the end of the line.
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

    /// The next word, read by `read`; its error becomes the message.
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

    /// The next word as a whole number within bounds.
    pub fn number<T: FromStr + PartialOrd + Display>(&mut self, range: RangeInclusive<T>) -> Option<T> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        self.parse(&what, |text| {
            text.parse().ok().filter(|number| range.contains(number)).ok_or(format!("invalid number '{text}'"))
        })
    }

    /// The next word as a duration that is not negative.
    pub fn duration(&mut self) -> Option<Duration> {
        self.parse("a duration such as 5s, 500ms or 1h30m", |text| {
            let nanoseconds = parse_duration(text).map_err(|error| error.to_string())?;
            u64::try_from(nanoseconds).map(Duration::from_nanos).map_err(|_| format!("negative duration '{text}'"))
        })
    }

    /// The next word as a duration within bounds.
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

    /// The next word as an address.
    pub fn ip(&mut self) -> Option<IpAddr> {
        self.parse("an IP address", |text| text.parse().map_err(|_| format!("invalid IP address '{text}'")))
    }

    /// The next word as a network. A bare address is none; see [`Arguments::network_or_ip`].
    pub fn network(&mut self) -> Option<IpNet> {
        self.parse("a network such as 10.0.0.0/8", |text| text.parse().map_err(|_| format!("invalid CIDR '{text}'")))
    }

    /// The next word as a network; a bare address is the network of itself.
    pub fn network_or_ip(&mut self) -> Option<IpNet> {
        self.parse("a network such as 10.0.0.0/8, or an address", |text| {
            let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            network.ok_or(format!("invalid CIDR '{text}'"))
        })
    }

    /// The next word as one of a few, for which there are values.
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

    /// All words that follow as zones, networks expanded; perhaps none. Like CoreDNS it goes on without one that is
    /// none, but it says so.
    pub fn zones(&mut self) -> Vec<String> {
        let mut zones = Vec::new();
        for token in self.rest() {
            if zones.len() > MAX_ZONES {
                self.error_expected(token, format!("more than {MAX_ZONES} zones"), "fewer or shorter networks");
                break;
            }
            match normalize_zones(token) {
                Ok(found) => zones.extend(found),
                Err(error) => self.warning(token, format!("'{}' is left away: {error}", token.text)),
            }
        }
        zones
    }

    /// What stands in the line's braces; empty without braces. A line that never asks may have none.
    pub fn body(&mut self) -> &'a [Property] {
        self.done.body = true;
        self.body.unwrap_or(&[])
    }

    /// What stands in the line's braces, which must be there.
    pub fn required_body(&mut self, what: &str) -> Option<&'a [Property]> {
        self.done.body = true;
        if self.body.is_none() {
            let message = format!("'{}' needs a block", self.name.text);
            self.error_expected(self.name, message, what);
        }
        self.body
    }

    /// Reports that the line's name is no property here. The rest of the line is passed over.
    pub fn unknown<'n>(&mut self, names: impl IntoIterator<Item = &'n str, IntoIter: Clone>) {
        let names = names.into_iter();
        let text = &self.name.text;
        let diagnostic = Diagnostic::error(Stage::Parse, Some(self.name.span), format!("unknown property '{text}'"));
        let suggestion = suggest(text, names.clone());
        self.push(diagnostic.expected(one_of(names)).suggestion(suggestion));
        self.done = Done { words: true, body: true };
    }

    /// Passes over the rest of the line and its braces, as CoreDNS does with some properties.
    pub fn ignore_rest(&mut self) {
        self.done = Done { words: true, body: true };
    }

    /// The end of the line: reports words and braces that nothing asked for.
    pub fn finish(mut self) {
        if let Some(extra) = self.peek().filter(|_| !self.done.words) {
            self.error_expected(extra, wrong_count(&extra.text), "end of line");
        }
        if self.body.is_some() && !self.done.body {
            let message = "Unexpected token '{', expecting argument";
            self.error_expected(self.name, message.to_owned(), &format!("no block after '{}'", self.name.text));
        }
    }

    /// Reports an error at a word.
    pub fn error(&mut self, token: &Token, message: impl Into<String>) {
        self.push(Diagnostic::error(Stage::Parse, Some(token.span), message));
    }

    /// Reports an error at a word, with what was expected there.
    pub fn error_expected(&mut self, token: &Token, message: impl Into<String>, expected: &str) {
        self.push(Diagnostic::error(Stage::Parse, Some(token.span), message).expected(expected));
    }

    /// Reports a warning at a word.
    pub fn warning(&mut self, token: &Token, message: impl Into<String>) {
        self.push(Diagnostic::warning(Stage::Parse, Some(token.span), message));
    }

    /// Reports anything; the plugin's name is added. After an error no more is said about the rest of the line.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.done.words |= diagnostic.severity == Severity::Error;
        self.diagnostics.push(diagnostic.plugin(self.plugin));
    }

    /// Reports that the line ends too early.
    fn error_missing(&mut self, what: &str) {
        let last = self.args.last().unwrap_or(self.name);
        self.error_expected(last, wrong_count(&last.text), what);
    }
}

/// CoreDNS's words for too many or too few arguments.
fn wrong_count(text: &str) -> String {
    format!("Wrong argument count or unexpected line ending after '{text}'")
}

/// `one of a, b, c`.
fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [only] => format!("'{only}'"),
        many => format!("one of {}", many.join(", ")),
    }
}
