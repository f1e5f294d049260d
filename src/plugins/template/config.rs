//! The lines of *template* (CoreDNS `plugin/template/setup.go`).

use super::data::{FIELDS, go_class, go_type};
use super::language::Template;
use crate::chain::Fallthrough;
use crate::corefile::{Arguments, Diagnostic, Directive, Span, Stage, Token, suggest};
use crate::plugins::expression::{CompileError, Expression, Function, Names, Simple, environment, is_free_name};
use crate::plugins::regexp::{Pattern, RegexpError};
use crate::plugins::{Context, zones_or_block};
use crate::wire::presentation::add_record;
use crate::wire::{Class, Name, NameBuf, Question, Rcode, Reply, Section, Type};

/// The properties.
const PROPERTIES: [&str; 10] =
    ["match", "var", "expr", "answer", "additional", "authority", "rcode", "ederror", "fallthrough", "upstream"];

/// The codes by miekg/dns's names.
const RCODES: &[(&str, u16)] = &[
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("NOTIMPL", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
    ("DSOTYPENI", 11),
    ("BADSIG", 16),
    ("BADKEY", 17),
    ("BADTIME", 18),
    ("BADMODE", 19),
    ("BADNAME", 20),
    ("BADALG", 21),
    ("BADTRUNC", 22),
    ("BADCOOKIE", 23),
];

/// `group('name')` or `group(1)` of expressions.
static GROUP: Function = Function { name: "group", parameters: &[Simple::Any], result: Simple::Text };

/// The stanzas of a block, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Each stanza.
    pub stanzas: Vec<Stanza>,
}

/// A stanza.
#[derive(Clone, Debug, PartialEq)]
pub struct Stanza {
    /// The class that it answers; `ANY` is all.
    pub class: Class,
    /// The type that it answers; `ANY` is all.
    pub rtype: Type,
    /// The zones whose names it answers.
    pub zones: Vec<NameBuf>,
    /// What names look like; without any, all names match. The first that matches counts.
    pub patterns: Vec<Pattern>,
    /// Variables, by name, in the order in which they are set.
    pub variables: Vec<(Box<str>, Expression)>,
    /// What has to be true besides.
    pub conditions: Vec<Expression>,
    /// The records, in the order in which they are made.
    pub records: Vec<(Section, Template)>,
    /// The code of the answer.
    pub rcode: Rcode,
    /// The extended error of the answer: code and text.
    pub extended_error: Option<(u16, Box<str>)>,
    /// Which names that do not match go on.
    pub fallthrough: Fallthrough,
}

/// Reads the stanzas.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut config = Config { stanzas: Vec::new() };
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        let Some((class, rtype)) = class_and_type(&mut line) else {
            line.ignore_rest();
            continue;
        };
        let zones = line.zones();
        let mut reader = Reader::new(class, rtype);
        for property in line.body() {
            let mut inner = line.enter(property);
            reader.property(inner.name_token(), &mut inner);
            inner.finish();
        }
        line.finish();
        let zones = zones_or_block(zones, context);
        config.stanzas.push(reader.stanza(zones));
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

/// `CLASS TYPE`, in capitals.
fn class_and_type(line: &mut Arguments<'_, '_>) -> Option<(Class, Type)> {
    const CLASS: &str = "a class such as IN or ANY";
    const TYPE: &str = "a record type such as A, or ANY";
    let token = line.word(CLASS)?;
    let Some(class) = Class::named(&token.text).filter(|class| go_class(*class) == token.text) else {
        return misspelled(line, token, "invalid query class", CLASS, Class::named(&token.text).map(go_class));
    };
    let token = line.word(TYPE)?;
    let named = Type::named(&token.text);
    let numbered = [Type(0), Type(u16::MAX)].into_iter().find(|rtype| go_type(*rtype) == token.text);
    match named.or(numbered).filter(|rtype| go_type(*rtype) == token.text) {
        Some(rtype) => Some((class, rtype)),
        None => misspelled(line, token, "invalid RR class", TYPE, named.map(go_type)),
    }
}

fn misspelled<T>(
    line: &mut Arguments<'_, '_>, token: &Token, message: &str, expected: &str, right: Option<&str>,
) -> Option<T> {
    let message = format!("{message} {}", token.text);
    let error = Diagnostic::error(Stage::Parse, Some(token.span), message).expected(expected);
    line.push(error.suggestion(right.map(str::to_owned)));
    None
}

/// What is read of a stanza.
struct Reader {
    stanza: Stanza,
    /// What expressions may use: functions, and the variables so far.
    names: Names,
}

impl Reader {
    fn new(class: Class, rtype: Type) -> Reader {
        let stanza = Stanza {
            class,
            rtype,
            zones: Vec::new(),
            patterns: Vec::new(),
            variables: Vec::new(),
            conditions: Vec::new(),
            records: Vec::new(),
            rcode: Rcode::NOERROR,
            extended_error: None,
            fallthrough: Fallthrough::Never,
        };
        Reader { stanza, names: Names::of(environment::FUNCTIONS.iter().chain([&GROUP])) }
    }

    /// The stanza. The answers of CoreDNS are made before the additional records, and those before the authority's.
    fn stanza(self, zones: Vec<NameBuf>) -> Stanza {
        let mut records = self.stanza.records;
        let order = |section| match section {
            Section::Answer => 0,
            Section::Additional => 1,
            Section::Authority => 2,
        };
        records.sort_by_key(|(section, _)| order(*section));
        Stanza { zones, records, ..self.stanza }
    }

    /// Reads a property and its words.
    fn property(&mut self, name: &Token, line: &mut Arguments<'_, '_>) {
        match &*name.text {
            "match" => {
                for word in line.words("regular expressions").unwrap_or_default() {
                    self.pattern(word, line);
                }
            }
            "var" => self.variable(line),
            "expr" => {
                if let Some(words) = line.words("an expression") {
                    self.stanza.conditions.extend(self.expression(words, "", line));
                }
            }
            "answer" => self.templates(&name.text, Section::Answer, line),
            "additional" => self.templates(&name.text, Section::Additional, line),
            "authority" => self.templates(&name.text, Section::Authority, line),
            "rcode" => {
                const WHAT: &str = "a code such as NXDOMAIN";
                let Some(word) = line.word(WHAT) else { return };
                let Some((_, code)) = RCODES.iter().find(|(known, _)| *known == word.text) else {
                    let error =
                        Diagnostic::error(Stage::Parse, Some(word.span), format!("unknown rcode {}", word.text));
                    let names = RCODES.iter().map(|(name, _)| *name);
                    let same = names.clone().find(|name| name.eq_ignore_ascii_case(&word.text)).map(str::to_owned);
                    line.push(error.expected(WHAT).suggestion(same.or_else(|| suggest(&word.text, names))));
                    return;
                };
                self.stanza.rcode = Rcode(*code);
                // CoreDNS takes what follows for a property of its own.
                if let Some(next) = line.next_word() {
                    self.property(next, line);
                }
            }
            "ederror" => self.extended_error(line),
            "fallthrough" => self.stanza.fallthrough = crate::plugins::fallthrough(line),
            "upstream" => {
                line.rest();
            }
            text if line.name() == text => line.unknown(PROPERTIES),
            text => {
                let message = format!("Wrong argument count or unexpected line ending after '{text}'");
                line.error_expected(name, message, "end of line");
            }
        }
    }

    fn pattern(&mut self, word: &Token, line: &mut Arguments<'_, '_>) {
        match Pattern::compile(&word.text) {
            Ok(pattern) => self.stanza.patterns.push(pattern),
            Err(error) => {
                let message = match &error {
                    RegexpError::Long(_) | RegexpError::Large => error.to_string(),
                    RegexpError::Syntax { .. } => format!("could not parse regex: {}, {error}", word.text),
                };
                let at = match error {
                    RegexpError::Syntax { at, .. } => Some(byte_of(&word.text, at - 1)),
                    _ => None,
                };
                let span = at.map_or(word.span, |at| within(word, at));
                line.push(Diagnostic::error(Stage::Parse, Some(span), message).expected("a regular expression of Go"));
            }
        }
    }

    fn variable(&mut self, line: &mut Arguments<'_, '_>) {
        let words = line.rest();
        let Some((name, words)) = words.split_first().filter(|(_, words)| !words.is_empty()) else {
            let last = words.last().unwrap_or(line.name_token());
            let message = format!("Wrong argument count or unexpected line ending after '{}'", last.text);
            return line.error_expected(last, message, "a name and an expression");
        };
        let is_identifier = name.text.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
            && !name.text.starts_with(|first: char| first.is_ascii_digit())
            && !name.text.is_empty();
        if !is_identifier {
            let message = format!("invalid variable name {:?}", name.text);
            return line.error_expected(name, message, "letters, digits and underscores");
        }
        if !is_free_name(&name.text, &self.names) {
            return line.error(name, format!("variable name {:?} is reserved", name.text));
        }
        let Some(expression) = self.expression(words, &format!("{}, ", name.text), line) else { return };
        self.names.add(&name.text, expression.result.clone());
        self.stanza.variables.push((name.text.as_str().into(), expression));
    }

    /// Compiles an expression, which may be several words.
    fn expression(&self, words: &[Token], name: &str, line: &mut Arguments<'_, '_>) -> Option<Expression> {
        let text = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        match Expression::compile(&text, &self.names) {
            Ok(expression) => Some(expression),
            Err(CompileError { at, message }) => {
                let span = place(words, byte_of(&text, at));
                let message = format!("could not compile expression: {name}{message}");
                line.push(Diagnostic::error(Stage::Parse, span, message));
                None
            }
        }
    }

    fn templates(&mut self, name: &str, section: Section, line: &mut Arguments<'_, '_>) {
        for word in line.words("records, each as one word in quotes").unwrap_or_default() {
            match Template::parse(name, &word.text) {
                Ok(template) => {
                    warn_of_record(&template, word, line);
                    self.stanza.records.push((section, template));
                }
                Err(error) => {
                    let message = format!("could not compile template: {}, {error}", word.text);
                    line.push(Diagnostic::error(Stage::Parse, Some(within(word, error.at)), message));
                }
            }
        }
    }

    fn extended_error(&mut self, line: &mut Arguments<'_, '_>) {
        const WHAT: &str = "a code of RFC 8914, 0 to 65535, and perhaps a text";
        let Some(word) = line.word(WHAT) else { return };
        let is_number = word.text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(code) = word.text.parse().ok().filter(|_| is_number) else {
            let message = format!("error parsing extended DNS error code {}", word.text);
            return line.error_expected(word, message, WHAT);
        };
        let text = line.next_word().map(|word| word.text.as_str().into()).unwrap_or_default();
        self.stanza.extended_error = Some((code, text));
    }
}

/// Warns of a record that is the same for each query and is none.
fn warn_of_record(template: &Template, word: &Token, line: &mut Arguments<'_, '_>) {
    if let Some(unknown) = template.unknown_field(FIELDS) {
        let message = format!("the data of templates has no field '{unknown}': queries that match get SERVFAIL");
        line.push(
            Diagnostic::warning(Stage::Parse, Some(word.span), message)
                .suggestion(suggest(&unknown, FIELDS.iter().copied())),
        );
    }
    let Some(text) = template.constant() else { return };
    let question = Question::new(Name::ROOT, Type::A, Class::IN);
    if let Err(error) = add_record(text.as_bytes(), Section::Answer, &question, &mut Reply::new()) {
        line.warning(word, format!("this is no record, queries that match get SERVFAIL: {error}"));
    }
}

/// The byte of a character.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

/// The place of a byte of a word; the whole word where it is not written as it reads.
fn within(word: &Token, at: usize) -> Span {
    let (span, length) = (word.span, word.text.len());
    let written = (span.end - span.start) as usize;
    let quote = match written.checked_sub(length) {
        Some(0) => 0,
        Some(2) => 1,
        _ => return span,
    };
    // The end of the text is its last character.
    let last = word.text.char_indices().next_back().map_or(0, |(at, _)| at);
    let at = at.min(last);
    let end = word.text.get(at..).and_then(|rest| rest.chars().next()).map_or(at, |first| at + first.len_utf8());
    let offset = |at: usize| span.start + (quote + at) as u32;
    Span { start: offset(at), end: offset(end).max(offset(at)), ..span }
}

/// The place of a byte of words that are joined with spaces.
fn place(words: &[Token], at: usize) -> Option<Span> {
    let mut rest = at;
    for word in words {
        if rest <= word.text.len() {
            return Some(within(word, rest));
        }
        rest -= word.text.len() + 1;
    }
    words.last().map(|word| word.span)
}
