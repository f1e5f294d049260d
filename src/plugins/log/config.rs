//! The configuration of *log* (CoreDNS `plugin/log/setup.go`).

use crate::chain::State;
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token, suggest};
use crate::plugins::Context;
use crate::plugins::placeholders::{Format, Placeholder};
use crate::wire::reply::ReplyKind;
use crate::wire::{NameBuf, Question, Type};

/// The configuration of a block, from all its stanzas.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The rules. The first one whose scope contains the name applies, and no other.
    pub rules: Vec<LogRule>,
}

/// How queries for some names are logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRule {
    /// The zone of the names.
    pub scope: NameBuf,
    /// The format of a line.
    pub format: Format,
    /// The classes of replies that are logged.
    pub classes: Classes,
}

/// The class of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An answer or a delegation.
    Success,
    /// NXDOMAIN or NODATA.
    Denial,
    /// Anything else.
    Error,
}

impl Class {
    /// The class of a query without a response, and its type (CoreDNS `response.Typify`).
    pub(super) const NO_RESPONSE: (Class, &'static str) = (Class::Error, "OTHERERROR");

    /// Returns the name in the Corefile and in `{/log/class}`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Denial => "denial",
            Class::Error => "error",
        }
    }

    /// Returns the class of a reply, and its type for `{/log/type}` (CoreDNS `pkg/response`).
    pub(super) fn of(question: &Question, state: &State) -> (Class, &'static str) {
        if matches!(question.qtype, Type::AXFR | Type::IXFR) {
            return (Class::Error, "META");
        }
        match state.reply.kind() {
            ReplyKind::NoError => (Class::Success, "NOERROR"),
            ReplyKind::Delegation => (Class::Success, "DELEGATION"),
            ReplyKind::NoData => (Class::Denial, "NODATA"),
            ReplyKind::NameError => (Class::Denial, "NXDOMAIN"),
            ReplyKind::ServerError => (Class::Error, "SERVERERROR"),
            ReplyKind::OtherError => (Class::Error, "OTHERERROR"),
        }
    }
}

/// A set of classes, with a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u8);

impl Classes {
    /// No class.
    const NONE: Classes = Classes(0);
    /// All classes.
    pub const ALL: Classes = Classes(0b111);

    /// Returns the set with another class.
    #[must_use]
    pub const fn with(self, class: Class) -> Classes {
        Classes(self.0 | 1 << class as u8)
    }

    /// Returns whether the class is in the set.
    pub const fn has(self, class: Class) -> bool {
        self.0 & 1 << class as u8 != 0
    }
}

/// Parses the stanzas; returns `None` after an error.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config { rules: Vec::new() };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let (scopes, format) = parse_line(&mut line);
        let classes = parse_classes(&mut line);
        config.rules.extend(scopes.into_iter().map(|scope| LogRule { scope, format: format.clone(), classes }));
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Parses `[NAMES...] [FORMAT]`. The last word is a format if it contains a brace and is not the only word; a single
/// word is a name.
fn parse_line(line: &mut Arguments<'_, '_>) -> (Vec<NameBuf>, Format) {
    let words = line.rest();
    let (names, format) = match words {
        [names @ .., last] if !names.is_empty() && last.text.contains('{') => {
            for unknown in Format::unknown_placeholders(&last.text) {
                let message = format!("'{unknown}' is not a placeholder and is logged as it is");
                let warning = Diagnostic::warning(Stage::Parse, Some(last.span), message);
                line.push(warning.suggestion(suggest(unknown, Placeholder::NAMES.iter().copied())));
            }
            (names, Format::new(&last.text))
        }
        _ => (words, Format::default()),
    };
    if names.is_empty() {
        return (vec![crate::wire::Name::ROOT.to_owned()], format);
    }
    (names.iter().filter_map(|name| parse_scope(name, words, line)).collect(), format)
}

/// Returns the line that was probably meant by words of which one with a brace is no format: names, and the rest as the
/// format.
fn with_quotes(words: &[&str]) -> String {
    let start = words.iter().position(|word| word.contains('{')).unwrap_or(words.len());
    let (names, format) = words.split_at(start);
    let names = if names.is_empty() { ".".to_owned() } else { names.join(" ") };
    format!("'log {names} \"{}\"'", format.join(" "))
}

/// Parses a word of a line as a scope. As in CoreDNS any word is accepted; there is a warning if no query can match it.
fn parse_scope(word: &Token, words: &[Token], line: &mut Arguments<'_, '_>) -> Option<NameBuf> {
    if word.text.contains('{') {
        let message = format!("'{}' is read as a name, and not as a part of the format", word.text);
        let warning = Diagnostic::warning(Stage::Parse, Some(word.span), message);
        let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        line.push(warning.expected(with_quotes(&words)));
    }
    if matches!(word.text.as_str(), "stdout" | "stderr") {
        let text = &word.text;
        line.warning(word, format!("'{text}' is read as a name, so that no other name is logged: write 'log'"));
    }
    match word.text.as_str() {
        "" => Some(crate::wire::Name::ROOT.to_owned()),
        text => match NameBuf::from_text(text) {
            Ok(name) => Some(name.to_lower()),
            Err(error) => {
                line.warning(word, format!("'{text}' is not a name and is ignored: {error}"));
                None
            }
        },
    }
}

/// Parses the properties.
fn parse_classes(line: &mut Arguments<'_, '_>) -> Classes {
    const CLASSES: [(&str, Classes); 4] = [
        ("all", Classes::ALL),
        (Class::Success.name(), Classes::NONE.with(Class::Success)),
        (Class::Denial.name(), Classes::NONE.with(Class::Denial)),
        (Class::Error.name(), Classes::NONE.with(Class::Error)),
    ];
    let mut classes = Classes::NONE;
    for property in line.body() {
        let mut line = line.enter(property);
        if line.name() == "class" {
            // At least one class.
            while let Some(Classes(bits)) = line.one_of(&CLASSES) {
                classes.0 |= bits;
                if !line.more() {
                    break;
                }
            }
        } else {
            line.unknown(["class"]);
        }
        line.finish();
    }
    if classes == Classes::NONE { Classes::ALL } else { classes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{config, n, read};

    fn scopes(config: &Config) -> Vec<String> {
        config.rules.iter().map(|rule| rule.scope.to_string()).collect()
    }

    #[test]
    fn names_formats_and_classes_are_parsed() {
        let default = config("log", parse);
        assert_eq!(default.rules, [LogRule { scope: n("."), format: Format::default(), classes: Classes::ALL }]);
        let lines = "log A.example b.example \"{combined} x\" {\n class denial\n class error error\n}\nlog . {\n class all success\n}";
        let config = config(lines, parse);
        assert_eq!(scopes(&config), ["a.example.", "b.example.", "."]);
        assert_eq!(config.rules[1].format, Format::new("{combined} x"));
        let classes = config.rules[0].classes;
        assert!(classes.has(Class::Denial) && classes.has(Class::Error) && !classes.has(Class::Success));
        assert_eq!(config.rules[2].classes, Classes::ALL);
    }

    #[test]
    fn errors_that_coredns_accepts_get_warnings() {
        let (config, messages) = read("log {combined}", parse);
        assert_eq!(scopes(&config.expect("accepted")), ["{combined}."]);
        assert!(messages[0].contains("'{combined}' is read as a name"), "{messages:?}");
        let (config, messages) = read("log . {combined} {rcode}", parse);
        assert_eq!(scopes(&config.expect("accepted")), [".", "{combined}."]);
        assert!(messages[0].contains("'{combined}' is read as a name"), "{messages:?}");
        let (config, messages) = read("log . \"{tipe}\"\nlog a..b", parse);
        assert_eq!(scopes(&config.expect("accepted")), ["."]);
        assert_eq!(messages[0], "'{tipe}' is not a placeholder and is logged as it is ({type}?)");
        assert_eq!(messages[1], "'a..b' is not a name and is ignored: the name has an empty label");
    }

    #[test]
    fn a_format_without_quotes_is_suggested_with_quotes() {
        for (words, meant) in [
            (&["{combined}"][..], "'log . \"{combined}\"'"),
            (&["a.example", "{remote}", "-", "{rcode}"], "'log a.example \"{remote} - {rcode}\"'"),
        ] {
            assert_eq!(with_quotes(words), meant);
        }
    }

    #[test]
    fn what_coredns_refuses_is_refused() {
        for body in ["class", "class x", "class error x", "clas error", "class denial {\n}"] {
            assert_eq!(read(&format!("log . {{\n {body}\n}}"), parse).0, None, "{body}");
        }
        assert_eq!(read("log {\n clas error\n}", parse).1, ["unknown property 'clas' (class?)"]);
        assert_eq!(read("log {\n class denail\n}", parse).1, ["unexpected 'denail' (denial?)"]);
    }
}
