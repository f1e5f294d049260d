//! The lines of *log* (CoreDNS `plugin/log/setup.go`).

use super::format::{Format, Value};
use crate::chain::State;
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token, suggest};
use crate::plugins::Context;
use crate::wire::reply::ReplyKind;
use crate::wire::{NameBuf, Question, Type};

/// What all stanzas of a block say.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The first one whose scope holds the name decides, alone.
    pub rules: Vec<Rule>,
}

/// What is logged of some names.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The names.
    pub scope: NameBuf,
    /// What a line shows.
    pub format: Format,
    /// Which answers are logged.
    pub classes: Classes,
}

/// What an answer amounts to, coarsely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An answer, or where to find one.
    Success,
    /// There is no such name, or no such record.
    Denial,
    /// Anything else.
    Error,
}

impl Class {
    /// Of no reply at all (CoreDNS `response.Typify`).
    pub(super) const SILENCE: (Class, &'static str) = (Class::Error, "OTHERERROR");

    /// As the Corefile and `{/log/class}` have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Class::Success => "success",
            Class::Denial => "denial",
            Class::Error => "error",
        }
    }

    /// The class of a reply, and its finer name for `{/log/type}` (CoreDNS `pkg/response`).
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

/// Some of the classes, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u8);

impl Classes {
    /// None of them.
    const NONE: Classes = Classes(0);
    /// All of them.
    pub const ALL: Classes = Classes(0b111);

    /// These and one more.
    #[must_use]
    pub const fn with(self, class: Class) -> Classes {
        Classes(self.0 | 1 << class as u8)
    }

    /// Whether this class is one of them.
    pub const fn has(self, class: Class) -> bool {
        self.0 & 1 << class as u8 != 0
    }
}

/// Reads the stanzas.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config { rules: Vec::new() };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let (scopes, format) = scopes_and_format(&mut line);
        let classes = classes(&mut line);
        config.rules.extend(scopes.into_iter().map(|scope| Rule { scope, format: format.clone(), classes }));
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// Reads `[NAMES...] [FORMAT]`. What holds a brace is a format, but only behind a name: alone it is taken for a name.
fn scopes_and_format(line: &mut Arguments<'_, '_>) -> (Vec<NameBuf>, Format) {
    let words = line.rest();
    let (names, format) = match words {
        [names @ .., last] if !names.is_empty() && last.text.contains('{') => {
            for unknown in Format::unknown(&last.text) {
                let message = format!("'{unknown}' is no placeholder and stands in the line as it is");
                let warning = Diagnostic::warning(Stage::Parse, Some(last.span), message);
                line.push(warning.suggestion(suggest(unknown, Value::NAMES.iter().copied())));
            }
            (names, Format::new(&last.text))
        }
        _ => (words, Format::default()),
    };
    if names.is_empty() {
        return (vec![crate::wire::Name::ROOT.to_owned()], format);
    }
    (names.iter().filter_map(|name| scope(name, line)).collect(), format)
}

/// A word as a scope. One that no name is in is accepted, as in CoreDNS, but said.
fn scope(word: &Token, line: &mut Arguments<'_, '_>) -> Option<NameBuf> {
    if word.text.contains('{') {
        let text = &word.text;
        line.warning(
            word,
            format!("'{text}' is taken for a name, so that nothing is logged: write 'log . \"{text}\"'"),
        );
    }
    if matches!(word.text.as_str(), "stdout" | "stderr") {
        let text = &word.text;
        line.warning(word, format!("'{text}' is taken for a name, so that no other one is logged: write 'log'"));
    }
    match word.text.as_str() {
        "" => Some(crate::wire::Name::ROOT.to_owned()),
        text => match NameBuf::from_text(text) {
            Ok(name) => Some(name.to_lower()),
            Err(error) => {
                line.warning(word, format!("'{text}' is no name and is left away: {error}"));
                None
            }
        },
    }
}

/// Reads the lines in braces.
fn classes(line: &mut Arguments<'_, '_>) -> Classes {
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
            // One at least.
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
    fn names_formats_and_classes_are_read() {
        let default = config("log", parse);
        assert_eq!(default.rules, [Rule { scope: n("."), format: Format::default(), classes: Classes::ALL }]);
        let lines = "log A.example b.example \"{combined} x\" {\n class denial\n class error error\n}\nlog . {\n class all success\n}";
        let config = config(lines, parse);
        assert_eq!(scopes(&config), ["a.example.", "b.example.", "."]);
        assert_eq!(config.rules[1].format, Format::new("{combined} x"));
        let classes = config.rules[0].classes;
        assert!(classes.has(Class::Denial) && classes.has(Class::Error) && !classes.has(Class::Success));
        assert_eq!(config.rules[2].classes, Classes::ALL);
    }

    #[test]
    fn slips_that_coredns_accepts_are_said() {
        let (config, said) = read("log {combined}", parse);
        assert_eq!(scopes(&config.expect("accepted")), ["{combined}."]);
        assert!(said[0].contains("is taken for a name"), "{said:?}");
        let (config, said) = read("log . \"{tipe}\"\nlog a..b", parse);
        assert_eq!(scopes(&config.expect("accepted")), ["."]);
        assert_eq!(said[0], "'{tipe}' is no placeholder and stands in the line as it is ({type}?)");
        assert_eq!(said[1], "'a..b' is no name and is left away: the name has an empty label");
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
