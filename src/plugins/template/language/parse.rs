//! Parses tokens into a tree (Go `text/template/parse/parse.go`); errors have Go's texts.

use std::borrow::Cow;

use super::functions::TemplateFunction;
use super::lex::{ActionToken, Keyword, TemplateToken, lex};
use super::quote::{quote, unquote, unquote_character};
use super::tree::{
    Arms, Call, Command, FieldPath, Literal, NodeList, Number, Operand, Pipe, Range, TemplateNode, Term,
};

/// The limit on the nesting of actions and parentheses. Each level needs stack when the template runs.
pub(super) const MAX_NESTING: usize = 100;
/// The limit on the text, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// An error in the text of a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: {name}:{line}: {reason}")]
pub struct ParseError {
    /// The name of the template.
    pub name: String,
    /// The line, from 1.
    pub line: usize,
    /// The position in the text, in bytes.
    pub at: usize,
    /// The reason, with Go's text.
    pub reason: String,
}

/// A parsed text: its tree, and the templates that it defines.
pub(super) struct Parsed {
    pub list: NodeList,
    pub defined: Vec<(Box<str>, NodeList)>,
}

/// Parses a template with this name.
pub(super) fn parse(name: &str, text: &str) -> Result<Parsed, ParseError> {
    let error = |line, at, reason| ParseError { name: name.to_owned(), line, at, reason };
    if text.len() > MAX_TEXT {
        return Err(error(1, 0, format!("template is longer than {MAX_TEXT} bytes")));
    }
    let tokens = lex(text);
    let mut parser =
        TemplateParser { tokens: &tokens, next: 0, furthest: 0, depth: 0, action_line: 0, defined: Vec::new() };
    let parsed = parser.text();
    let place = &tokens[parser.furthest];
    let list = parsed
        .and_then(|list| parser.root(name, list))
        .map_err(|reason| error(place.line, place.at, reason.0.replace("{NAME}", name)))?;
    Ok(Parsed { list, defined: parser.defined })
}

/// The action that ended [`TemplateParser::items`].
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

/// A node, or the action that ends the list.
enum ParsedItem {
    Node(TemplateNode),
    Closing(Closing),
}

/// The scope of a template that is being parsed.
struct TemplateScope {
    /// The names of variables, with their dollar signs.
    variables: Vec<Box<str>>,
    /// The number of open `range` actions.
    loops: usize,
}

impl TemplateScope {
    fn new() -> TemplateScope {
        TemplateScope { variables: vec!["$".into()], loops: 0 }
    }
}

/// The reason for an error at the current token, with Go's text. `{NAME}` is replaced by the template's name.
struct SyntaxMessage(String);

impl<T: Into<String>> From<T> for SyntaxMessage {
    fn from(text: T) -> SyntaxMessage {
        SyntaxMessage(text.into())
    }
}

/// The variables of a pipeline.
struct Declared {
    /// Whether they are assigned, not declared.
    assigns: bool,
    variables: Box<[Box<str>]>,
}

struct TemplateParser<'t, 'a> {
    tokens: &'t [TemplateToken<'a>],
    next: usize,
    /// The last token that was read or peeked at; errors have its line.
    furthest: usize,
    /// The number of open actions and parentheses.
    depth: usize,
    /// The line of the current action; 0 outside of actions.
    action_line: usize,
    defined: Vec<(Box<str>, NodeList)>,
}

impl<'t, 'a> TemplateParser<'t, 'a> {
    //--- Tokens

    fn next(&mut self) -> &'t TemplateToken<'a> {
        let token = self.peek();
        // The last token remains.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn peek(&mut self) -> &'t TemplateToken<'a> {
        self.furthest = self.furthest.max(self.next);
        &self.tokens[self.next]
    }

    fn next_non_space(&mut self) -> &'t TemplateToken<'a> {
        loop {
            let token = self.next();
            if token.kind != ActionToken::Space {
                return token;
            }
        }
    }

    fn peek_non_space(&mut self) -> &'t TemplateToken<'a> {
        while self.peek().kind == ActionToken::Space {
            self.next();
        }
        self.peek()
    }

    fn expect(&mut self, kind: ActionToken, context: &str) -> Result<&'t TemplateToken<'a>, SyntaxMessage> {
        let token = self.next_non_space();
        if token.kind == kind { Ok(token) } else { Err(self.unexpected(token, context)) }
    }

    fn unexpected(&self, token: &TemplateToken<'_>, context: &str) -> SyntaxMessage {
        if token.kind != ActionToken::Error {
            return format!("unexpected {} in {context}", shown(token)).into();
        }
        let mut extra = String::new();
        if self.action_line != 0 && self.action_line != token.line {
            let action = if token.text.ends_with(" action") { "" } else { " in action" };
            // `parse` adds the template's name.
            extra = format!("{action} started at {{NAME}}:{}", self.action_line);
        }
        format!("{}{extra}", token.text).into()
    }

    /// Enters a level of nesting.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, SyntaxMessage>) -> Result<T, SyntaxMessage> {
        if self.depth >= MAX_NESTING {
            return Err("max expression depth exceeded".into());
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    //--- Lists

    /// Parses the whole text.
    fn text(&mut self) -> Result<Vec<TemplateNode>, SyntaxMessage> {
        let mut scope = TemplateScope::new();
        let mut list = Vec::new();
        while self.peek().kind != ActionToken::End {
            let start = self.next;
            if self.peek().kind == ActionToken::LeftDelimiter {
                self.next();
                if self.next_non_space().kind == ActionToken::Keyword(Keyword::Define) {
                    self.definition()?;
                    continue;
                }
                self.next = start;
            }
            match self.item(&mut scope)? {
                ParsedItem::Node(node) => list.push(node),
                ParsedItem::Closing(closing) => return Err(format!("unexpected {}", closing.written()).into()),
            }
        }
        Ok(list)
    }

    /// Returns the tree of the text; a definition of the same name may replace it.
    fn root(&mut self, name: &str, list: Vec<TemplateNode>) -> Result<NodeList, SyntaxMessage> {
        match self.defined.iter().find(|(defined, _)| **defined == *name).filter(|(_, defined)| !is_empty(defined)) {
            None => Ok(list.into()),
            Some((_, defined)) if is_empty(&list) => Ok(defined.clone()),
            Some(_) => Err(multiple(name)),
        }
    }

    fn definition(&mut self) -> Result<(), SyntaxMessage> {
        const CONTEXT: &str = "define clause";
        let token = self.next_non_space();
        let name = self.template_name(token, CONTEXT)?;
        self.expect(ActionToken::RightDelimiter, CONTEXT)?;
        self.define(name, CONTEXT)
    }

    /// Parses the list of a definition or block up to its end.
    fn define(&mut self, name: Box<str>, context: &str) -> Result<(), SyntaxMessage> {
        let (list, closing) = self.nested(|parser| parser.items(&mut TemplateScope::new()))?;
        if closing != Closing::End {
            return Err(format!("unexpected {} in {context}", closing.written()).into());
        }
        match self.defined.iter_mut().find(|(defined, _)| *defined == name) {
            None => self.defined.push((name, list)),
            Some((_, defined)) if is_empty(defined) => *defined = list,
            Some(_) if is_empty(&list) => {}
            Some(_) => return Err(multiple(&name)),
        }
        Ok(())
    }

    /// Parses text and actions up to `end` or `else`.
    fn items(&mut self, scope: &mut TemplateScope) -> Result<(NodeList, Closing), SyntaxMessage> {
        let mut list = Vec::new();
        while self.peek_non_space().kind != ActionToken::End {
            match self.item(scope)? {
                ParsedItem::Node(node) => list.push(node),
                ParsedItem::Closing(closing) => return Ok((list.into(), closing)),
            }
        }
        Err("unexpected EOF".into())
    }

    fn item(&mut self, scope: &mut TemplateScope) -> Result<ParsedItem, SyntaxMessage> {
        let token = self.next_non_space();
        match token.kind {
            ActionToken::Text => Ok(ParsedItem::Node(TemplateNode::Text((&*token.text).into()))),
            ActionToken::LeftDelimiter => {
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

    fn action(&mut self, scope: &mut TemplateScope) -> Result<ParsedItem, SyntaxMessage> {
        let start = self.next;
        let token = self.next_non_space();
        let ActionToken::Keyword(keyword) = token.kind else {
            self.next = start;
            return Ok(ParsedItem::Node(TemplateNode::Action(self.pipeline(
                "command",
                ActionToken::RightDelimiter,
                scope,
            )?)));
        };
        Ok(ParsedItem::Node(match keyword {
            Keyword::Block => self.block(scope)?,
            Keyword::Break => self.jump("{{break}}", TemplateNode::Break, scope)?,
            Keyword::Continue => self.jump("{{continue}}", TemplateNode::Continue, scope)?,
            Keyword::If => TemplateNode::If(self.arms("if", Keyword::If, scope)?),
            Keyword::With => TemplateNode::With(self.arms("with", Keyword::With, scope)?),
            Keyword::Range => self.range(scope)?,
            Keyword::Template => self.call(scope)?,
            Keyword::End => {
                self.expect(ActionToken::RightDelimiter, "end")?;
                return Ok(ParsedItem::Closing(Closing::End));
            }
            Keyword::Else => {
                let next = self.peek_non_space().kind;
                if !matches!(next, ActionToken::Keyword(Keyword::If | Keyword::With)) {
                    self.expect(ActionToken::RightDelimiter, "else")?;
                }
                return Ok(ParsedItem::Closing(Closing::Else));
            }
            Keyword::Define => return Err(self.unexpected(token, "command")),
        }))
    }

    fn jump(
        &mut self, written: &str, node: TemplateNode, scope: &TemplateScope,
    ) -> Result<TemplateNode, SyntaxMessage> {
        self.expect(ActionToken::RightDelimiter, written)?;
        if scope.loops == 0 { Err(format!("{written} outside {{{{range}}}}").into()) } else { Ok(node) }
    }

    /// Parses a condition with its `else if` or `else with`.
    fn arms(&mut self, context: &str, keyword: Keyword, scope: &mut TemplateScope) -> Result<Arms, SyntaxMessage> {
        let variables = scope.variables.len();
        let (mut arms, mut otherwise) = (Vec::new(), None);
        loop {
            let pipe = self.pipeline(context, ActionToken::RightDelimiter, scope)?;
            let (list, closing) = self.items(scope)?;
            arms.push((pipe, list));
            if closing == Closing::End {
                break;
            }
            if self.peek().kind == ActionToken::Keyword(keyword) {
                self.next();
                continue;
            }
            otherwise = Some(self.otherwise(scope)?);
            break;
        }
        scope.variables.truncate(variables);
        Ok(Arms { arms: arms.into(), otherwise })
    }

    fn otherwise(&mut self, scope: &mut TemplateScope) -> Result<NodeList, SyntaxMessage> {
        let (list, closing) = self.items(scope)?;
        if closing == Closing::End {
            Ok(list)
        } else {
            Err(format!("expected end; found {}", closing.written()).into())
        }
    }

    fn range(&mut self, scope: &mut TemplateScope) -> Result<TemplateNode, SyntaxMessage> {
        let variables = scope.variables.len();
        let pipe = self.pipeline("range", ActionToken::RightDelimiter, scope)?;
        scope.loops += 1;
        let (list, closing) = self.items(scope)?;
        scope.loops -= 1;
        let otherwise = if closing == Closing::Else { Some(self.otherwise(scope)?) } else { None };
        scope.variables.truncate(variables);
        Ok(TemplateNode::Range(Box::new(Range { pipe, list, otherwise })))
    }

    fn block(&mut self, scope: &mut TemplateScope) -> Result<TemplateNode, SyntaxMessage> {
        const CONTEXT: &str = "block clause";
        let token = self.next_non_space();
        let name = self.template_name(token, CONTEXT)?;
        let pipe = self.pipeline(CONTEXT, ActionToken::RightDelimiter, scope)?;
        self.define(name.clone(), CONTEXT)?;
        Ok(TemplateNode::Template(Box::new(Call { at: place(token), name, pipe: Some(pipe) })))
    }

    fn call(&mut self, scope: &mut TemplateScope) -> Result<TemplateNode, SyntaxMessage> {
        const CONTEXT: &str = "template clause";
        let token = self.next_non_space();
        let name = self.template_name(token, CONTEXT)?;
        let start = self.next;
        let mut pipe = None;
        if self.next_non_space().kind != ActionToken::RightDelimiter {
            self.next = start;
            pipe = Some(self.pipeline(CONTEXT, ActionToken::RightDelimiter, scope)?);
        }
        Ok(TemplateNode::Template(Box::new(Call { at: place(token), name, pipe })))
    }

    fn template_name(&self, token: &TemplateToken<'_>, context: &str) -> Result<Box<str>, SyntaxMessage> {
        match token.kind {
            ActionToken::String | ActionToken::RawString => {
                let name = unquote(&token.text).ok_or("invalid syntax")?;
                Ok(String::from_utf8_lossy(&name).into())
            }
            _ => Err(self.unexpected(token, context)),
        }
    }

    //--- Pipelines

    fn pipeline(&mut self, context: &str, end: ActionToken, scope: &mut TemplateScope) -> Result<Pipe, SyntaxMessage> {
        let at = place(self.peek_non_space());
        let Declared { assigns, variables } = self.declarations(context, scope)?;
        let mut commands = Vec::new();
        loop {
            let start = self.next;
            let token = self.next_non_space();
            match token.kind {
                kind if kind == end => break,
                ActionToken::Bool
                | ActionToken::CharacterConstant
                | ActionToken::Complex
                | ActionToken::Dot
                | ActionToken::Field
                | ActionToken::Identifier
                | ActionToken::Number
                | ActionToken::Nil
                | ActionToken::RawString
                | ActionToken::String
                | ActionToken::Variable
                | ActionToken::LeftParenthesis => {
                    self.next = start;
                    commands.push(self.command(scope)?);
                }
                _ => return Err(self.unexpected(token, context)),
            }
        }
        if commands.is_empty() {
            return Err(format!("missing value for {context}").into());
        }
        let is_value = |command: &Command| {
            matches!(command.first.term, Term::Bool(_) | Term::Dot | Term::Nil | Term::Number(_) | Term::Text(_))
        };
        if let Some(stage) = commands.iter().skip(1).position(is_value) {
            return Err(format!("non executable command in pipeline stage {}", stage + 2).into());
        }
        Ok(Pipe { at, assigns, variables, commands: commands.into() })
    }

    /// Parses `$a :=`, `$a =`, or in a loop `$a, $b :=`.
    fn declarations(&mut self, context: &str, scope: &mut TemplateScope) -> Result<Declared, SyntaxMessage> {
        let mut variables: Vec<Box<str>> = Vec::new();
        let mut assigns = false;
        while self.peek_non_space().kind == ActionToken::Variable {
            let start = self.next;
            let variable: Box<str> = (&*self.next().text).into();
            let next = self.peek_non_space();
            let is_comma = next.kind == ActionToken::Character && next.text == ",";
            if !is_comma && !matches!(next.kind, ActionToken::Assign | ActionToken::Declare) {
                self.next = start;
                break;
            }
            self.next();
            scope.variables.push(variable.clone());
            variables.push(variable);
            if !is_comma {
                assigns = next.kind == ActionToken::Assign;
                break;
            }
            if context != "range" || variables.len() >= 2 {
                return Err(format!("too many declarations in {context}").into());
            }
            if !matches!(
                self.peek_non_space().kind,
                ActionToken::Variable | ActionToken::RightDelimiter | ActionToken::RightParenthesis
            ) {
                return Err("range can only initialize variables".into());
            }
        }
        Ok(Declared { assigns, variables: variables.into() })
    }

    /// Parses operands up to the pipe or the end of the pipeline, which is not consumed.
    fn command(&mut self, scope: &mut TemplateScope) -> Result<Command, SyntaxMessage> {
        let at = place(self.peek_non_space());
        let mut operands = Vec::new();
        loop {
            self.peek_non_space();
            operands.extend(self.operand(scope)?);
            let start = self.next;
            let token = self.next();
            match token.kind {
                ActionToken::Space => continue,
                ActionToken::RightDelimiter | ActionToken::RightParenthesis => self.next = start,
                ActionToken::Pipe => {}
                _ => return Err(self.unexpected(token, "operand")),
            }
            break;
        }
        let mut operands = operands.into_iter();
        let first = operands.next().ok_or("empty command")?;
        Ok(Command { at, first, arguments: operands.collect() })
    }

    /// Parses a term with its fields; returns `None` if the next token begins no operand.
    fn operand(&mut self, scope: &mut TemplateScope) -> Result<Option<Operand>, SyntaxMessage> {
        let Some(mut operand) = self.term(scope)? else { return Ok(None) };
        if self.peek().kind != ActionToken::Field {
            return Ok(Some(operand));
        }
        let at = place(self.peek());
        let mut names: Vec<Box<str>> = Vec::new();
        while self.peek().kind == ActionToken::Field {
            names.push(self.next().text[1..].into());
        }
        let joined = |fields: FieldPath, names| -> FieldPath { fields.into_iter().chain(names).collect() };
        operand = match operand.term {
            Term::Field(fields) => Operand { at, term: Term::Field(joined(fields, names)) },
            Term::Variable(name, fields) => Operand { at, term: Term::Variable(name, joined(fields, names)) },
            Term::Bool(_) | Term::Text(_) | Term::Number(_) | Term::Nil | Term::Dot => {
                return Err(format!("unexpected . after term {}", quote(operand.to_string().as_bytes())).into());
            }
            _ => Operand { at, term: Term::Chain(Box::new(operand), names.into()) },
        };
        Ok(Some(operand))
    }

    fn term(&mut self, scope: &mut TemplateScope) -> Result<Option<Operand>, SyntaxMessage> {
        let start = self.next;
        let token = self.next_non_space();
        let term =
            match token.kind {
                ActionToken::Identifier => {
                    let function = TemplateFunction::named(&token.text);
                    let name = || format!("function {} not defined", quote(token.text.as_bytes()));
                    Term::Function(function.ok_or_else(name)?)
                }
                ActionToken::Dot => Term::Dot,
                ActionToken::Nil => Term::Nil,
                ActionToken::Variable => {
                    if !scope.variables.iter().any(|variable| **variable == *token.text) {
                        return Err(format!("undefined variable {}", quote(token.text.as_bytes())).into());
                    }
                    Term::Variable((&*token.text).into(), Box::default())
                }
                ActionToken::Field => Term::Field([token.text[1..].into()].into()),
                ActionToken::Bool => Term::Bool(token.text == "true"),
                ActionToken::CharacterConstant | ActionToken::Complex | ActionToken::Number => {
                    Term::Number(Box::new(number(token)?))
                }
                ActionToken::LeftParenthesis => Term::Pipe(Box::new(self.nested(|parser| {
                    parser.pipeline("parenthesized pipeline", ActionToken::RightParenthesis, scope)
                })?)),
                ActionToken::String | ActionToken::RawString => {
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

fn multiple(name: &str) -> SyntaxMessage {
    format!("template: multiple definition of template {}", quote(name.as_bytes())).into()
}

/// Returns the first byte of a token; the limit of texts is far below 32 bits.
fn place(token: &TemplateToken<'_>) -> u32 {
    token.at as u32
}

/// Formats a token for a message.
fn shown(token: &TemplateToken<'_>) -> String {
    let short = |text: &str| match text.char_indices().nth(10) {
        Some((end, _)) if text.len() > 10 => format!("{}...", quote(&text.as_bytes()[..end])),
        _ if text.len() > 10 => format!("{}...", quote(text.as_bytes())),
        _ => quote(text.as_bytes()),
    };
    match token.kind {
        ActionToken::End => "EOF".into(),
        ActionToken::Keyword(_) | ActionToken::Dot | ActionToken::Nil => format!("<{}>", token.text),
        _ => short(&token.text),
    }
}

/// Whether a list has only white space (Go `IsEmptyTree`).
fn is_empty(list: &[TemplateNode]) -> bool {
    list.iter().all(|node| matches!(node, TemplateNode::Text(text) if text.trim().is_empty()))
}

/// Returns the values of a constant, by kind.
fn number(token: &TemplateToken<'_>) -> Result<Number, SyntaxMessage> {
    let text: Cow<'_, str> = Cow::Borrowed(&token.text);
    let written = (&*text).into();
    match token.kind {
        ActionToken::CharacterConstant => {
            let (character, rest) = unquote_character(&text[1..], '\'').ok_or("invalid syntax")?;
            if rest != "'" {
                return Err(format!("malformed character constant: {text}").into());
            }
            let value = character.value();
            let (int, uint) = (Some(value.into()), Some(value.into()));
            return Ok(Number { written, int, uint, float: Some(value.into()) });
        }
        ActionToken::Complex => return Err(format!("complex numbers are not supported: {text}").into()),
        _ if text.ends_with('i') => return Err(format!("complex numbers are not supported: {text}").into()),
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
                return Err(format!("integer overflow: {}", quote(text.as_bytes())).into());
            }
            if let Some(float) = float {
                // Outside of this range a conversion does not return to the same number.
                int = (float as i64 as f64 == float && float < 9_223_372_036_854_775_808.0).then_some(float as i64);
                uint = (float as u64 as f64 == float && (0.0..18_446_744_073_709_551_616.0).contains(&float))
                    .then_some(float as u64);
            }
            float
        }
    };
    if float.is_none() {
        return Err(format!("illegal number syntax: {}", quote(text.as_bytes())).into());
    }
    Ok(Number { written, int, uint, float })
}

/// Parses as Go's `strconv.ParseUint(text, 0, 64)`.
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

/// Whether underscores are only between digits, or between a prefix and a digit (Go `underscoreOK`).
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

/// Parses as Go's `strconv.ParseInt(text, 0, 64)`.
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

/// Parses as Go's `strconv.ParseFloat(text, 64)`, for texts that the lexer reads as numbers.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['+', '-']);
    if let Some(hexadecimal) = unsigned.strip_prefix("0x") {
        return parse_hexadecimal(hexadecimal).map(|value| if lower.starts_with('-') { -value } else { value });
    }
    // Only numbers with a prefix may have underscores.
    if lower.contains('_') || !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    lower.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Parses `1.8p3`, in which the exponent is required. Beyond 53 bits the result is not rounded as in Go.
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
