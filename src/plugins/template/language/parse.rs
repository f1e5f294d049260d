//! Tokens to a tree (Go `text/template/parse/parse.go`), with the texts of Go's errors.

use std::borrow::Cow;

use super::functions::Function;
use super::lex::{Keyword, Kind, Token, lex};
use super::quote::{quote, unquote, unquote_character};
use super::tree::{Arms, Call, Command, Fields, List, Literal, Node, Number, Operand, Pipe, Range, Term};

/// How deep actions and parentheses may be nested. Each level costs stack when the template is run.
pub(super) const MAX_NESTING: usize = 100;
/// The longest text. A Corefile's words are hardly longer.
const MAX_TEXT: usize = 64 * 1024;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: {name}:{line}: {reason}")]
pub struct ParseError {
    /// What the template is called.
    pub name: String,
    /// The line, from 1.
    pub line: usize,
    /// The byte of the text.
    pub at: usize,
    /// What is wrong, in Go's words.
    pub reason: String,
}

/// A parsed text: its tree, and the templates that it defines.
pub(super) struct Parsed {
    pub list: List,
    pub defined: Vec<(Box<str>, List)>,
}

/// Parses a template that is called `name`.
pub(super) fn parse(name: &str, text: &str) -> Result<Parsed, ParseError> {
    let error = |line, at, reason| ParseError { name: name.to_owned(), line, at, reason };
    if text.len() > MAX_TEXT {
        return Err(error(1, 0, format!("template is longer than {MAX_TEXT} bytes")));
    }
    let tokens = lex(text);
    let mut parser = Parser { tokens: &tokens, next: 0, furthest: 0, depth: 0, action_line: 0, defined: Vec::new() };
    let parsed = parser.text();
    let place = &tokens[parser.furthest];
    let list = parsed
        .and_then(|list| parser.root(name, list))
        .map_err(|reason| error(place.line, place.at, reason.replace("{NAME}", name)))?;
    Ok(Parsed { list, defined: parser.defined })
}

/// What [`Parser::items`] ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    End,
    Else,
}

impl Closing {
    const fn written(self) -> &'static str {
        match self {
            Closing::End => "{{end}}",
            Closing::Else => "{{else}}",
        }
    }
}

/// A node, or what closes the list that it would be in.
enum Item {
    Node(Node),
    Closing(Closing),
}

/// What a template knows while it is parsed.
struct Scope {
    /// The names of variables, with their dollar signs.
    variables: Vec<Box<str>>,
    /// How many `range` are open.
    loops: usize,
}

impl Scope {
    fn new() -> Scope {
        Scope { variables: vec!["$".into()], loops: 0 }
    }
}

type Result<T, E = String> = std::result::Result<T, E>;

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    next: usize,
    /// The last token that was looked at; errors name its line.
    furthest: usize,
    /// How many actions and parentheses are open.
    depth: usize,
    /// The line of the action that is being read; 0 outside of actions.
    action_line: usize,
    defined: Vec<(Box<str>, List)>,
}

impl<'t, 'a> Parser<'t, 'a> {
    //--- Tokens

    fn next(&mut self) -> &'t Token<'a> {
        let token = self.peek();
        // The last token stays, however often it is asked for.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn peek(&mut self) -> &'t Token<'a> {
        self.furthest = self.furthest.max(self.next);
        &self.tokens[self.next]
    }

    fn next_non_space(&mut self) -> &'t Token<'a> {
        loop {
            let token = self.next();
            if token.kind != Kind::Space {
                return token;
            }
        }
    }

    fn peek_non_space(&mut self) -> &'t Token<'a> {
        while self.peek().kind == Kind::Space {
            self.next();
        }
        self.peek()
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<&'t Token<'a>> {
        let token = self.next_non_space();
        if token.kind == kind { Ok(token) } else { Err(self.unexpected(token, context)) }
    }

    fn unexpected(&self, token: &Token<'_>, context: &str) -> String {
        if token.kind != Kind::Error {
            return format!("unexpected {} in {context}", shown(token));
        }
        let mut extra = String::new();
        if self.action_line != 0 && self.action_line != token.line {
            let action = if token.text.ends_with(" action") { "" } else { " in action" };
            // The template's name is filled in by `parse`.
            extra = format!("{action} started at {{NAME}}:{}", self.action_line);
        }
        format!("{}{extra}", token.text)
    }

    /// Goes a level deeper.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_NESTING {
            return Err("max expression depth exceeded".into());
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    //--- Lists

    /// The whole text.
    fn text(&mut self) -> Result<Vec<Node>> {
        let mut scope = Scope::new();
        let mut list = Vec::new();
        while self.peek().kind != Kind::End {
            let start = self.next;
            if self.peek().kind == Kind::LeftDelimiter {
                self.next();
                if self.next_non_space().kind == Kind::Keyword(Keyword::Define) {
                    self.definition()?;
                    continue;
                }
                self.next = start;
            }
            match self.item(&mut scope)? {
                Item::Node(node) => list.push(node),
                Item::Closing(closing) => return Err(format!("unexpected {}", closing.written())),
            }
        }
        Ok(list)
    }

    /// The tree of the text, which may also be given by a definition of the same name.
    fn root(&mut self, name: &str, list: Vec<Node>) -> Result<List> {
        match self.defined.iter().find(|(defined, _)| **defined == *name).filter(|(_, defined)| !is_empty(defined)) {
            None => Ok(list.into()),
            Some((_, defined)) if is_empty(&list) => Ok(defined.clone()),
            Some(_) => Err(multiple(name)),
        }
    }

    fn definition(&mut self) -> Result<()> {
        const CONTEXT: &str = "define clause";
        let token = self.next_non_space();
        let name = self.template_name(token, CONTEXT)?;
        self.expect(Kind::RightDelimiter, CONTEXT)?;
        self.define(name, CONTEXT)
    }

    /// The list of a definition or block up to its end.
    fn define(&mut self, name: Box<str>, context: &str) -> Result<()> {
        let (list, closing) = self.nested(|parser| parser.items(&mut Scope::new()))?;
        if closing != Closing::End {
            return Err(format!("unexpected {} in {context}", closing.written()));
        }
        match self.defined.iter_mut().find(|(defined, _)| *defined == name) {
            None => self.defined.push((name, list)),
            Some((_, defined)) if is_empty(defined) => *defined = list,
            Some(_) if is_empty(&list) => {}
            Some(_) => return Err(multiple(&name)),
        }
        Ok(())
    }

    /// Text and actions up to an end or else.
    fn items(&mut self, scope: &mut Scope) -> Result<(List, Closing)> {
        let mut list = Vec::new();
        while self.peek_non_space().kind != Kind::End {
            match self.item(scope)? {
                Item::Node(node) => list.push(node),
                Item::Closing(closing) => return Ok((list.into(), closing)),
            }
        }
        Err("unexpected EOF".into())
    }

    fn item(&mut self, scope: &mut Scope) -> Result<Item> {
        let token = self.next_non_space();
        match token.kind {
            Kind::Text => Ok(Item::Node(Node::Text((&*token.text).into()))),
            Kind::LeftDelimiter => {
                self.action_line = token.line;
                let item = self.nested(|parser| parser.action(scope));
                if item.is_ok() {
                    self.action_line = 0;
                }
                item
            }
            _ => Err(self.unexpected(token, "input")),
        }
    }

    //--- Actions

    fn action(&mut self, scope: &mut Scope) -> Result<Item> {
        let start = self.next;
        let token = self.next_non_space();
        let Kind::Keyword(keyword) = token.kind else {
            self.next = start;
            return Ok(Item::Node(Node::Action(self.pipeline("command", Kind::RightDelimiter, scope)?)));
        };
        Ok(Item::Node(match keyword {
            Keyword::Block => self.block(scope)?,
            Keyword::Break => self.jump("{{break}}", Node::Break, scope)?,
            Keyword::Continue => self.jump("{{continue}}", Node::Continue, scope)?,
            Keyword::If => Node::If(self.arms("if", Keyword::If, scope)?),
            Keyword::With => Node::With(self.arms("with", Keyword::With, scope)?),
            Keyword::Range => self.range(scope)?,
            Keyword::Template => self.call(scope)?,
            Keyword::End => {
                self.expect(Kind::RightDelimiter, "end")?;
                return Ok(Item::Closing(Closing::End));
            }
            Keyword::Else => {
                let next = self.peek_non_space().kind;
                if !matches!(next, Kind::Keyword(Keyword::If | Keyword::With)) {
                    self.expect(Kind::RightDelimiter, "else")?;
                }
                return Ok(Item::Closing(Closing::Else));
            }
            Keyword::Define => return Err(self.unexpected(token, "command")),
        }))
    }

    fn jump(&mut self, written: &str, node: Node, scope: &Scope) -> Result<Node> {
        self.expect(Kind::RightDelimiter, written)?;
        if scope.loops == 0 { Err(format!("{written} outside {{{{range}}}}")) } else { Ok(node) }
    }

    /// A condition with its `else if` or `else with`.
    fn arms(&mut self, context: &str, keyword: Keyword, scope: &mut Scope) -> Result<Arms> {
        let variables = scope.variables.len();
        let (mut arms, mut otherwise) = (Vec::new(), None);
        loop {
            let pipe = self.pipeline(context, Kind::RightDelimiter, scope)?;
            let (list, closing) = self.items(scope)?;
            arms.push((pipe, list));
            if closing == Closing::End {
                break;
            }
            if self.peek().kind == Kind::Keyword(keyword) {
                self.next();
                continue;
            }
            otherwise = Some(self.otherwise(scope)?);
            break;
        }
        scope.variables.truncate(variables);
        Ok(Arms { arms: arms.into(), otherwise })
    }

    fn otherwise(&mut self, scope: &mut Scope) -> Result<List> {
        let (list, closing) = self.items(scope)?;
        if closing == Closing::End { Ok(list) } else { Err(format!("expected end; found {}", closing.written())) }
    }

    fn range(&mut self, scope: &mut Scope) -> Result<Node> {
        let variables = scope.variables.len();
        let pipe = self.pipeline("range", Kind::RightDelimiter, scope)?;
        scope.loops += 1;
        let (list, closing) = self.items(scope)?;
        scope.loops -= 1;
        let otherwise = if closing == Closing::Else { Some(self.otherwise(scope)?) } else { None };
        scope.variables.truncate(variables);
        Ok(Node::Range(Box::new(Range { pipe, list, otherwise })))
    }

    fn block(&mut self, scope: &mut Scope) -> Result<Node> {
        const CONTEXT: &str = "block clause";
        let token = self.next_non_space();
        let name = self.template_name(token, CONTEXT)?;
        let pipe = self.pipeline(CONTEXT, Kind::RightDelimiter, scope)?;
        self.define(name.clone(), CONTEXT)?;
        Ok(Node::Template(Box::new(Call { at: place(token), name, pipe: Some(pipe) })))
    }

    fn call(&mut self, scope: &mut Scope) -> Result<Node> {
        const CONTEXT: &str = "template clause";
        let token = self.next_non_space();
        let name = self.template_name(token, CONTEXT)?;
        let start = self.next;
        let mut pipe = None;
        if self.next_non_space().kind != Kind::RightDelimiter {
            self.next = start;
            pipe = Some(self.pipeline(CONTEXT, Kind::RightDelimiter, scope)?);
        }
        Ok(Node::Template(Box::new(Call { at: place(token), name, pipe })))
    }

    fn template_name(&self, token: &Token<'_>, context: &str) -> Result<Box<str>> {
        match token.kind {
            Kind::String | Kind::RawString => {
                let name = unquote(&token.text).ok_or("invalid syntax")?;
                Ok(String::from_utf8_lossy(&name).into())
            }
            _ => Err(self.unexpected(token, context)),
        }
    }

    //--- Pipelines

    fn pipeline(&mut self, context: &str, end: Kind, scope: &mut Scope) -> Result<Pipe> {
        let at = place(self.peek_non_space());
        let (assigns, variables) = self.declarations(context, scope)?;
        let mut commands = Vec::new();
        loop {
            let start = self.next;
            let token = self.next_non_space();
            match token.kind {
                kind if kind == end => break,
                Kind::Bool
                | Kind::CharacterConstant
                | Kind::Complex
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParenthesis => {
                    self.next = start;
                    commands.push(self.command(scope)?);
                }
                _ => return Err(self.unexpected(token, context)),
            }
        }
        if commands.is_empty() {
            return Err(format!("missing value for {context}"));
        }
        let is_value = |command: &Command| {
            matches!(command.first.term, Term::Bool(_) | Term::Dot | Term::Nil | Term::Number(_) | Term::Text(_))
        };
        if let Some(stage) = commands.iter().skip(1).position(is_value) {
            return Err(format!("non executable command in pipeline stage {}", stage + 2));
        }
        Ok(Pipe { at, assigns, variables, commands: commands.into() })
    }

    /// `$a :=`, `$a =`, or in a loop `$a, $b :=`.
    fn declarations(&mut self, context: &str, scope: &mut Scope) -> Result<(bool, Box<[Box<str>]>)> {
        let mut variables: Vec<Box<str>> = Vec::new();
        let mut assigns = false;
        while self.peek_non_space().kind == Kind::Variable {
            let start = self.next;
            let variable: Box<str> = (&*self.next().text).into();
            let next = self.peek_non_space();
            let is_comma = next.kind == Kind::Character && next.text == ",";
            if !is_comma && !matches!(next.kind, Kind::Assign | Kind::Declare) {
                self.next = start;
                break;
            }
            self.next();
            scope.variables.push(variable.clone());
            variables.push(variable);
            if !is_comma {
                assigns = next.kind == Kind::Assign;
                break;
            }
            if context != "range" || variables.len() >= 2 {
                return Err(format!("too many declarations in {context}"));
            }
            if !matches!(self.peek_non_space().kind, Kind::Variable | Kind::RightDelimiter | Kind::RightParenthesis) {
                return Err("range can only initialize variables".into());
            }
        }
        Ok((assigns, variables.into()))
    }

    /// Operands up to the bar or the end of the pipeline, which is left.
    fn command(&mut self, scope: &mut Scope) -> Result<Command> {
        let at = place(self.peek_non_space());
        let mut operands = Vec::new();
        loop {
            self.peek_non_space();
            operands.extend(self.operand(scope)?);
            let start = self.next;
            let token = self.next();
            match token.kind {
                Kind::Space => continue,
                Kind::RightDelimiter | Kind::RightParenthesis => self.next = start,
                Kind::Pipe => {}
                _ => return Err(self.unexpected(token, "operand")),
            }
            break;
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or("empty command")?;
        Ok(Command { at, first, arguments: operands.collect() })
    }

    /// A term with its fields; `None` where the next token begins no operand.
    fn operand(&mut self, scope: &mut Scope) -> Result<Option<Operand>> {
        let Some(mut operand) = self.term(scope)? else { return Ok(None) };
        if self.peek().kind != Kind::Field {
            return Ok(Some(operand));
        }
        let at = place(self.peek());
        let mut names: Vec<Box<str>> = Vec::new();
        while self.peek().kind == Kind::Field {
            names.push(self.next().text[1..].into());
        }
        let joined = |fields: Fields, names| -> Fields { fields.into_iter().chain(names).collect() };
        operand = match operand.term {
            Term::Field(fields) => Operand { at, term: Term::Field(joined(fields, names)) },
            Term::Variable(name, fields) => Operand { at, term: Term::Variable(name, joined(fields, names)) },
            Term::Bool(_) | Term::Text(_) | Term::Number(_) | Term::Nil | Term::Dot => {
                return Err(format!("unexpected . after term {}", quote(operand.to_string().as_bytes())));
            }
            _ => Operand { at, term: Term::Chain(Box::new(operand), names.into()) },
        };
        Ok(Some(operand))
    }

    fn term(&mut self, scope: &mut Scope) -> Result<Option<Operand>> {
        let start = self.next;
        let token = self.next_non_space();
        let term = match token.kind {
            Kind::Identifier => {
                let function = Function::named(&token.text);
                let name = || format!("function {} not defined", quote(token.text.as_bytes()));
                Term::Function(function.ok_or_else(name)?)
            }
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Variable => {
                if !scope.variables.iter().any(|variable| **variable == *token.text) {
                    return Err(format!("undefined variable {}", quote(token.text.as_bytes())));
                }
                Term::Variable((&*token.text).into(), Box::default())
            }
            Kind::Field => Term::Field([token.text[1..].into()].into()),
            Kind::Bool => Term::Bool(token.text == "true"),
            Kind::CharacterConstant | Kind::Complex | Kind::Number => Term::Number(Box::new(number(token)?)),
            Kind::LeftParenthesis => Term::Pipe(Box::new(
                self.nested(|parser| parser.pipeline("parenthesized pipeline", Kind::RightParenthesis, scope))?,
            )),
            Kind::String | Kind::RawString => {
                let value = unquote(&token.text).ok_or("invalid syntax")?.into();
                Term::Text(Box::new(Literal { written: (&*token.text).into(), value }))
            }
            _ => {
                self.next = start;
                return Ok(None);
            }
        };
        Ok(Some(Operand { at: place(token), term }))
    }
}

fn multiple(name: &str) -> String {
    format!("template: multiple definition of template {}", quote(name.as_bytes()))
}

/// Where a token starts; texts are limited to far less than 32 bits.
fn place(token: &Token<'_>) -> u32 {
    token.at as u32
}

/// A token in a message.
fn shown(token: &Token<'_>) -> String {
    let short = |text: &str| match text.char_indices().nth(10) {
        Some((end, _)) if text.len() > 10 => format!("{}...", quote(&text.as_bytes()[..end])),
        _ if text.len() > 10 => format!("{}...", quote(text.as_bytes())),
        _ => quote(text.as_bytes()),
    };
    match token.kind {
        Kind::End => "EOF".into(),
        Kind::Keyword(_) | Kind::Dot | Kind::Nil => format!("<{}>", token.text),
        _ => short(&token.text),
    }
}

/// Whether a list holds nothing but white space (Go `IsEmptyTree`).
fn is_empty(list: &[Node]) -> bool {
    list.iter().all(|node| matches!(node, Node::Text(text) if text.trim().is_empty()))
}

/// The values that a constant can have.
fn number(token: &Token<'_>) -> Result<Number> {
    let text: Cow<'_, str> = Cow::Borrowed(&token.text);
    let written = (&*text).into();
    match token.kind {
        Kind::CharacterConstant => {
            let (character, rest) = unquote_character(&text[1..], '\'').ok_or("invalid syntax")?;
            if rest != "'" {
                return Err(format!("malformed character constant: {text}"));
            }
            let value = character.value();
            let (int, uint) = (Some(value.into()), Some(value.into()));
            return Ok(Number { written, int, uint, float: Some(value.into()) });
        }
        Kind::Complex => return Err(format!("complex numbers are not supported: {text}")),
        _ if text.ends_with('i') => return Err(format!("complex numbers are not supported: {text}")),
        _ => {}
    }
    let mut uint = parse_uint(&text);
    let mut int = parse_int(&text);
    if int == Some(0) {
        uint = Some(0);
    }
    let float = match (int, uint) {
        (Some(int), _) => Some(int as f64),
        (None, Some(uint)) => Some(uint as f64),
        (None, None) => {
            let float = parse_float(&text);
            if float.is_some() && !text.contains(['.', 'e', 'E', 'p', 'P']) {
                return Err(format!("integer overflow: {}", quote(text.as_bytes())));
            }
            if let Some(float) = float {
                // Beyond these bounds a conversion does not come back to the same number.
                int = (float as i64 as f64 == float && float < 9_223_372_036_854_775_808.0).then_some(float as i64);
                uint = (float as u64 as f64 == float && (0.0..18_446_744_073_709_551_616.0).contains(&float))
                    .then_some(float as u64);
            }
            float
        }
    };
    if float.is_none() {
        return Err(format!("illegal number syntax: {}", quote(text.as_bytes())));
    }
    Ok(Number { written, int, uint, float })
}

/// Go's `strconv.ParseUint(text, 0, 64)`.
fn parse_uint(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    if !are_underscores_good(&lower, radix != 10)
        || !digits.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'_')
    {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// Underscores stand between digits, or between a prefix and a digit (Go `underscoreOK`).
fn are_underscores_good(text: &str, has_prefix: bool) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let after_prefix = |at: usize| has_prefix && (at == 1 || at == 2 && !bytes[1].is_ascii_digit());
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'_')
        .all(|(at, _)| at > 0 && (is_digit(at - 1) || after_prefix(at)) && is_digit(at + 1))
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = parse_uint(digits)?;
    match negative {
        true => 0_i64.checked_sub_unsigned(value),
        false => i64::try_from(value).ok(),
    }
}

/// Go's `strconv.ParseFloat(text, 64)` of what the lexer takes for a number.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['+', '-']);
    if let Some(hexadecimal) = unsigned.strip_prefix("0x") {
        return parse_hexadecimal(hexadecimal).map(|value| if lower.starts_with('-') { -value } else { value });
    }
    // Underscores are for numbers with a prefix only.
    if lower.contains('_') || !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    lower.parse().ok().filter(|value: &f64| value.is_finite())
}

/// `1.8p3`, whose exponent must be there. Beyond 53 bits it is not rounded as Go rounds it.
fn parse_hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once('p')?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mantissa = u64::from_str_radix(&digits, 16).ok()? as f64;
    let exponent: i32 = exponent.parse().ok()?;
    let scale = exponent.checked_sub(4 * i32::try_from(fraction.len()).ok()?)?;
    Some(mantissa * 2_f64.powi(scale)).filter(|value| value.is_finite())
}
