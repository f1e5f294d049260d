//! Configuration of *template* (CoreDNS `plugin/template/setup.go`).

use super::data::{FIELDS, go_class, go_type};
use super::language::GoTemplate;
use crate::chain::Fallthrough;
use crate::corefile::{Arguments, Diagnostic, Directive, Stage, Token, suggest};
use crate::plugins::expression::{ExprFunction, Expression, KnownNames, Simple, environment, is_free_name};
use crate::plugins::regexp::{Pattern, RegexpError};
use crate::plugins::{Context, zones_or_block};
use crate::wire::presentation::add_record;
use crate::wire::{Class, Name, NameBuf, Question, Rcode, Reply, Section, Type};

/// The properties.
const PROPERTIES: [&str; 10] =
    ["match", "var", "expr", "answer", "additional", "authority", "rcode", "ederror", "fallthrough", "upstream"];

/// `group('name')` or `group(1)` of expressions.
static GROUP: ExprFunction = ExprFunction { name: "group", parameters: &[Simple::Any], result: Simple::Text };

/// The stanzas of a block, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The stanzas.
    pub stanzas: Vec<TemplateStanza>,
}

/// A stanza.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateStanza {
    /// The class of queries; `ANY` for all.
    pub class: Class,
    /// The type of queries; `ANY` for all.
    pub rtype: Type,
    /// The zones of names.
    pub zones: Vec<NameBuf>,
    /// Patterns of names, of which the first that matches is used. Without patterns all names match.
    pub patterns: Vec<Pattern>,
    /// Names and values of variables, in the order in which they are set.
    pub variables: Vec<(Box<str>, Expression)>,
    /// Conditions that must hold besides.
    pub conditions: Vec<Expression>,
    /// The records, in the order in which they are added.
    pub records: Vec<(Section, GoTemplate)>,
    /// The response code.
    pub rcode: Rcode,
    /// The extended DNS error: code and text.
    pub extended_error: Option<(u16, Box<str>)>,
    /// The zones whose names continue with the next plugin if they do not match.
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
        let zones = zones_or_block(&mut line, context.zones);
        let mut reader = StanzaReader::new(class, rtype, zones);
        for property in line.body() {
            let mut inner = line.enter(property);
            reader.property(inner.name_token(), &mut inner);
            inner.finish();
        }
        line.finish();
        let read = reader.stanza();
        if let Some(before) = config.stanzas.iter().find(|before| before.covers(&read)) {
            let (class, rtype) = (go_class(before.class), go_type(before.rtype));
            let message =
                format!("no query reaches this stanza: 'template {class} {rtype}' before it answers all of them");
            let warning = Diagnostic::warning(Stage::Setup, Some(stanza.name.span), message);
            let expected = "'match' and 'fallthrough' in the stanza before, or the stanza with the smaller zone first";
            Arguments::of(stanza, context.diagnostics).push(warning.expected(expected));
        }
        config.stanzas.push(read);
    }
    (errors == context.diagnostics.has_errors()).then_some(config)
}

impl TemplateStanza {
    /// Returns whether every query of the class, the type and the zones is answered, if only by SERVFAIL.
    pub(super) fn answers_all(&self) -> bool {
        self.fallthrough == Fallthrough::Never || self.patterns.is_empty() && self.conditions.is_empty()
    }

    /// Returns whether this stanza answers every query of another one behind it.
    fn covers(&self, other: &TemplateStanza) -> bool {
        let is_within = |zone: &NameBuf| self.zones.iter().any(|outer| zone.as_name().is_within(outer.as_name()));
        self.answers_all()
            && (self.class == Class::ANY || self.class == other.class)
            && (self.rtype == Type::ANY || self.rtype == other.rtype)
            && !other.zones.is_empty()
            && other.zones.iter().all(is_within)
    }
}

/// Reads `CLASS TYPE`, in capitals.
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

/// A stanza that is being read.
struct StanzaReader {
    stanza: TemplateStanza,
    /// The names that expressions may use: functions, and the variables so far.
    names: KnownNames,
}

impl StanzaReader {
    fn new(class: Class, rtype: Type, zones: Vec<NameBuf>) -> StanzaReader {
        let stanza = TemplateStanza {
            class,
            rtype,
            zones,
            patterns: Vec::new(),
            variables: Vec::new(),
            conditions: Vec::new(),
            records: Vec::new(),
            rcode: Rcode::NOERROR,
            extended_error: None,
            fallthrough: Fallthrough::Never,
        };
        StanzaReader { stanza, names: KnownNames::of(environment::FUNCTIONS.iter().chain([&GROUP])) }
    }

    /// Returns the stanza. As in CoreDNS, answers are added first, then additional records, then those of the authority
    /// section.
    fn stanza(self) -> TemplateStanza {
        let mut records = self.stanza.records;
        let order = |section| match section {
            Section::Answer => 0,
            Section::Additional => 1,
            Section::Authority => 2,
        };
        records.sort_by_key(|(section, _)| order(*section));
        TemplateStanza { records, ..self.stanza }
    }

    /// Reads a property and its arguments.
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
                let Some((_, code)) = Rcode::COREFILE_NAMES.iter().find(|(known, _)| *known == word.text) else {
                    let error =
                        Diagnostic::error(Stage::Parse, Some(word.span), format!("unknown rcode {}", word.text));
                    let names = Rcode::COREFILE_NAMES.iter().map(|(name, _)| *name);
                    let same = names.clone().find(|name| name.eq_ignore_ascii_case(&word.text)).map(str::to_owned);
                    line.push(error.expected(WHAT).suggestion(same.or_else(|| suggest(&word.text, names))));
                    return;
                };
                self.stanza.rcode = *code;
                // CoreDNS reads the next word as a property.
                if let Some(next) = line.next_word() {
                    self.property(next, line);
                }
            }
            "ederror" => self.extended_error(line),
            "fallthrough" => self.stanza.fallthrough = crate::plugins::fallthrough(line, &self.stanza.zones),
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
                let span = at.map_or(word.span, |at| word.span_at(at));
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

    /// Compiles an expression, which may consist of several words.
    fn expression(&self, words: &[Token], name: &str, line: &mut Arguments<'_, '_>) -> Option<Expression> {
        Expression::read(words, &self.names, &format!("could not compile expression: {name}"), line)
    }

    fn templates(&mut self, name: &str, section: Section, line: &mut Arguments<'_, '_>) {
        for word in line.words("records, each as one word in quotes").unwrap_or_default() {
            match GoTemplate::parse(name, &word.text) {
                Ok(template) => {
                    warn_of_record(&template, word, line);
                    self.stanza.records.push((section, template));
                }
                Err(error) => {
                    let message = format!("could not compile template: {}, {error}", word.text);
                    line.push(Diagnostic::error(Stage::Parse, Some(word.span_at(error.at)), message));
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

/// Warns of a text that is the same for each query and not a record.
fn warn_of_record(template: &GoTemplate, word: &Token, line: &mut Arguments<'_, '_>) {
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

/// Returns the byte of a character.
fn byte_of(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}
