//! Parses tokens into a tree (expr-lang `parser`); errors have expr-lang's texts.

use std::sync::Arc;

use super::error::CompileError;
use super::functions::Builtin;
use super::lex::{ExprToken, Lexeme, lex};
use super::tree::{Binary, ExprKind, ExprNode, MemberAccess, Unary, operator};
use super::value::ExprValue;

/// The limit on nesting. Each level needs stack.
const MAX_NESTING: usize = 80;
/// The limit on the length of an expression, in bytes.
const MAX_TEXT: usize = 16 * 1024;
/// The limit on the depth of the tree: that of `a + b + c` is three. Each level needs stack, too.
const MAX_DEPTH: usize = 150;

/// Parses an expression.
pub(super) fn parse(text: &str) -> Result<ExprNode, CompileError> {
    if text.len() > MAX_TEXT {
        return Err(CompileError { at: 0, message: format!("expression is longer than {MAX_TEXT} bytes") });
    }
    let tokens = lex(text);
    let mut parser = ExprParser { tokens: &tokens, next: 0, predicates: 0, depth: 0 };
    let node = parser.sequence()?;
    match parser.peek().kind {
        Lexeme::End => Ok(node),
        _ => Err(parser.unexpected()),
    }
}

/// Whether a word can be the name of a variable: it is neither an operator nor a constant.
pub(super) fn is_name(word: &str) -> bool {
    matches!(parse(word), Ok(ExprNode { kind: ExprKind::Name(name), .. }) if *name == *word)
}

struct ExprParser<'t> {
    tokens: &'t [ExprToken],
    next: usize,
    /// The number of predicates around the current token.
    predicates: usize,
    depth: usize,
}

impl<'t> ExprParser<'t> {
    fn peek(&self) -> &'t ExprToken {
        &self.tokens[self.next]
    }

    fn next(&mut self) -> &'t ExprToken {
        let token = self.peek();
        // The last token remains.
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, kind: Lexeme, text: &str) -> bool {
        self.peek().is(kind, text)
    }

    fn accept(&mut self, kind: Lexeme, text: &str) -> bool {
        let found = self.is(kind, text);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, kind: Lexeme, text: &str) -> Result<(), CompileError> {
        if self.accept(kind, text) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn unexpected(&self) -> CompileError {
        let token = self.peek();
        let kind = match token.kind {
            Lexeme::Identifier => "Identifier",
            Lexeme::Number => "Number",
            Lexeme::String => "String",
            Lexeme::Bytes => "Bytes",
            Lexeme::Operator => "Operator",
            Lexeme::Bracket => "Bracket",
            Lexeme::End => return self.error("unexpected token EOF"),
            Lexeme::Error => return self.error(token.text.clone()),
        };
        self.error(format!("unexpected token {kind}({:?})", token.text))
    }

    fn error(&self, message: impl Into<String>) -> CompileError {
        CompileError { at: self.peek().at, message: message.into() }
    }

    /// Returns a node, or an error if the tree becomes too deep.
    fn node(&self, at: usize, kind: ExprKind) -> Result<ExprNode, CompileError> {
        let node = ExprNode::new(at, kind);
        if node.depth > MAX_DEPTH { Err(self.error("expression is nested too deeply")) } else { Ok(node) }
    }

    fn identifier(&mut self) -> Result<&'t ExprToken, CompileError> {
        if self.peek().kind == Lexeme::Identifier { Ok(self.next()) } else { Err(self.unexpected()) }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, CompileError>) -> Result<T, CompileError> {
        if self.depth >= MAX_NESTING {
            return Err(self.error("expression is nested too deeply"));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// Parses expressions separated by semicolons.
    fn sequence(&mut self) -> Result<ExprNode, CompileError> {
        let first = self.expression(0)?;
        let at = first.at;
        let mut nodes = vec![first];
        while self.accept(Lexeme::Operator, ";") {
            if self.peek().kind == Lexeme::End {
                break;
            }
            nodes.push(self.expression(0)?);
        }
        Ok(match nodes.len() {
            1 => nodes.remove(0),
            _ => self.node(at, ExprKind::Sequence(nodes))?,
        })
    }

    fn expression(&mut self, precedence: u16) -> Result<ExprNode, CompileError> {
        self.nested(|parser| parser.operators(precedence))
    }

    fn operators(&mut self, precedence: u16) -> Result<ExprNode, CompileError> {
        if precedence == 0 && self.is(Lexeme::Operator, "let") {
            return self.declaration();
        }
        if precedence == 0 && self.is(Lexeme::Operator, "if") {
            return self.condition();
        }
        let mut left = self.primary()?;
        let mut previous = "";
        while self.peek().kind == Lexeme::Operator {
            let start = self.next;
            let mut token = self.peek();
            let negated = token.text == "not";
            if negated {
                self.next();
                token = self.peek();
                if !matches!(&*token.text, "contains" | "matches" | "startsWith" | "endsWith" | "in") {
                    return Err(self.unexpected());
                }
            }
            let Some(found) = operator(&token.text).filter(|operator| operator.precedence >= precedence) else {
                self.next = start;
                break;
            };
            self.next();
            if token.text == "|" {
                let name = self.identifier()?;
                left = self.call(name, vec![left])?;
                previous = &token.text;
                continue;
            }
            if previous == "??" && token.text != "??" {
                return Err(CompileError {
                    at: token.at,
                    message: format!(
                        "Operator ({}) and coalesce expressions (??) cannot be mixed. Wrap either by parentheses.",
                        token.text
                    ),
                });
            }
            left = self.binary(left, token, found.binary, found.precedence)?;
            if negated {
                left = self.node(token.at, ExprKind::Unary(Unary::Not, Box::new(left)))?;
            }
            previous = &token.text;
        }
        if precedence == 0 { self.ternary(left) } else { Ok(left) }
    }

    /// Parses the right side of an operator.
    fn binary(
        &mut self, left: ExprNode, token: &ExprToken, binary: Option<Binary>, precedence: u16,
    ) -> Result<ExprNode, CompileError> {
        let at = token.at;
        let Some(binary) = binary else {
            let right = self.expression(precedence + 1)?;
            return self.node(at, ExprKind::Matches(Box::new(left), Box::new(right), None));
        };
        if !binary.is_comparison() {
            let right = self.expression(if binary == Binary::Power { precedence } else { precedence + 1 })?;
            return self.node(at, ExprKind::Binary(binary, Arc::new(left), Arc::new(right)));
        }
        // `a < b < c` is `a < b && b < c`.
        let (mut left, mut binary, mut all) = (Arc::new(left), binary, None);
        loop {
            let right = Arc::new(self.expression(precedence + 1)?);
            let next = self.node(at, ExprKind::Binary(binary, left, right.clone()))?;
            all = Some(match all {
                None => next,
                Some(all) => self.node(at, ExprKind::Binary(Binary::And, Arc::new(all), Arc::new(next)))?,
            });
            left = right;
            let token = self.peek();
            let following = operator(&token.text).filter(|_| token.kind == Lexeme::Operator);
            match following.and_then(|operator| operator.binary).filter(|binary| binary.is_comparison()) {
                Some(following) => binary = following,
                None => break,
            }
            self.next();
        }
        all.ok_or_else(|| self.unexpected())
    }

    fn declaration(&mut self) -> Result<ExprNode, CompileError> {
        self.expect(Lexeme::Operator, "let")?;
        let name = self.identifier()?;
        self.expect(Lexeme::Operator, "=")?;
        let value = self.expression(0)?;
        self.expect(Lexeme::Operator, ";")?;
        let rest = self.nested(Self::sequence)?;
        let text: &str = &name.text;
        self.node(name.at, ExprKind::Let(text.into(), Box::new(value), Box::new(rest)))
    }

    fn condition(&mut self) -> Result<ExprNode, CompileError> {
        let at = self.next().at;
        let condition = self.expression(0)?;
        self.expect(Lexeme::Bracket, "{")?;
        let first = self.sequence()?;
        self.expect(Lexeme::Bracket, "}")?;
        self.expect(Lexeme::Operator, "else")?;
        let second = if self.is(Lexeme::Operator, "if") {
            self.nested(Self::condition)?
        } else {
            self.expect(Lexeme::Bracket, "{")?;
            let second = self.sequence()?;
            self.expect(Lexeme::Bracket, "}")?;
            second
        };
        self.node(at, ExprKind::If(Box::new(condition), Box::new(first), Box::new(second)))
    }

    /// Parses the rest of `a ? b : c` or `a ?: c`.
    fn ternary(&mut self, node: ExprNode) -> Result<ExprNode, CompileError> {
        let mut node = node;
        loop {
            if !self.accept(Lexeme::Operator, "?") {
                return Ok(node);
            }
            let first = if self.is(Lexeme::Operator, ":") { None } else { Some(Box::new(self.expression(0)?)) };
            self.expect(Lexeme::Operator, ":")?;
            let (node_before, second) = (Box::new(node), Box::new(self.expression(0)?));
            let kind = match first {
                Some(first) => ExprKind::If(node_before, first, second),
                None => ExprKind::Or(node_before, second),
            };
            node = self.node(self.peek().at, kind)?;
        }
    }

    fn primary(&mut self) -> Result<ExprNode, CompileError> {
        let token = self.peek();
        if token.kind == Lexeme::Operator {
            let unary = match &*token.text {
                "not" | "!" => Some((Unary::Not, 50)),
                "-" => Some((Unary::Minus, 90)),
                "+" => Some((Unary::Plus, 90)),
                _ => None,
            };
            if let Some((unary, precedence)) = unary {
                self.next();
                let node = self.expression(precedence)?;
                let node = self.node(token.at, ExprKind::Unary(unary, Box::new(node)))?;
                return self.postfix(node);
            }
        }
        if self.accept(Lexeme::Bracket, "(") {
            let node = self.nested(Self::sequence)?;
            self.expect(Lexeme::Bracket, ")")?;
            return self.postfix(node);
        }
        if self.predicates > 0 && token.kind == Lexeme::Operator && matches!(&*token.text, "#" | ".") {
            let mut name = "";
            if token.text == "#" {
                self.next();
                if self.peek().kind == Lexeme::Identifier {
                    name = &self.next().text;
                }
            }
            return self.postfix(ExprNode::new(token.at, ExprKind::Pointer(name.into())));
        }
        if self.accept(Lexeme::Operator, "::") {
            let name = self.identifier()?;
            let node = self.call(name, Vec::new())?;
            return self.postfix(node);
        }
        self.secondary()
    }

    fn secondary(&mut self) -> Result<ExprNode, CompileError> {
        let token = self.peek();
        let at = token.at;
        let constant = |value| ExprNode::new(at, ExprKind::Constant(value));
        let node = match token.kind {
            Lexeme::Identifier => {
                self.next();
                match &*token.text {
                    "true" => return Ok(constant(ExprValue::Bool(true))),
                    "false" => return Ok(constant(ExprValue::Bool(false))),
                    "nil" => return Ok(constant(ExprValue::Nil)),
                    _ if self.is(Lexeme::Bracket, "(") => self.call(token, Vec::new())?,
                    name => ExprNode::new(at, ExprKind::Name(name.into())),
                }
            }
            Lexeme::Number => {
                self.next();
                let value = number(&token.text);
                return value.map(constant).map_err(|message| CompileError { at, message });
            }
            Lexeme::String => {
                self.next();
                constant(ExprValue::text(&*token.text))
            }
            Lexeme::Bytes => {
                self.next();
                constant(ExprValue::Bytes(token.bytes.as_slice().into()))
            }
            _ if token.is(Lexeme::Bracket, "[") => self.array()?,
            _ if token.is(Lexeme::Bracket, "{") => self.map()?,
            _ => return Err(self.unexpected()),
        };
        self.postfix(node)
    }

    /// Parses a call of `token`. A pipe supplies the first argument.
    fn call(&mut self, token: &ExprToken, arguments: Vec<ExprNode>) -> Result<ExprNode, CompileError> {
        let at = token.at;
        let Some(builtin) = Builtin::named(&token.text) else {
            let callee = ExprNode::new(at, ExprKind::Name((&*token.text).into()));
            let arguments = self.arguments(arguments)?;
            return self.node(at, ExprKind::Call(Box::new(callee), arguments));
        };
        let Some((required, optional)) = builtin.predicate_arguments() else {
            let arguments = self.arguments(arguments)?;
            return self.node(at, ExprKind::Builtin(builtin, arguments));
        };
        let mut arguments = arguments;
        let given = arguments.len();
        self.expect(Lexeme::Bracket, "(")?;
        for place in given..required + optional {
            if self.is(Lexeme::Bracket, ")") {
                if place >= required {
                    break;
                }
                return Err(self.error(format!("expected at least {} arguments", required + optional - given)));
            }
            if place > given {
                self.expect(Lexeme::Operator, ",")?;
            }
            arguments.push(if place == 1 { self.predicate()? } else { self.expression(0)? });
        }
        self.accept(Lexeme::Operator, ",");
        self.expect(Lexeme::Bracket, ")")?;
        self.node(at, ExprKind::Builtin(builtin, arguments))
    }

    fn arguments(&mut self, mut arguments: Vec<ExprNode>) -> Result<Vec<ExprNode>, CompileError> {
        self.expect(Lexeme::Bracket, "(")?;
        self.items(")", |parser| {
            arguments.push(parser.expression(0)?);
            Ok(())
        })?;
        Ok(arguments)
    }

    /// Parses items separated by commas, up to a closing bracket.
    fn items(
        &mut self, close: &str, mut read: impl FnMut(&mut Self) -> Result<(), CompileError>,
    ) -> Result<(), CompileError> {
        let mut is_first = true;
        while !self.accept(Lexeme::Bracket, close) {
            if !is_first {
                self.expect(Lexeme::Operator, ",")?;
                if self.accept(Lexeme::Bracket, close) {
                    break;
                }
            }
            is_first = false;
            read(self)?;
        }
        Ok(())
    }

    fn predicate(&mut self) -> Result<ExprNode, CompileError> {
        let at = self.peek().at;
        let braced = self.accept(Lexeme::Bracket, "{");
        self.predicates += 1;
        let node = if braced { self.nested(Self::sequence) } else { self.expression(0) };
        self.predicates -= 1;
        let node = node?;
        if braced {
            self.expect(Lexeme::Bracket, "}")?;
        } else if self.is(Lexeme::Operator, ";") {
            return Err(self.error("wrap predicate with brackets { and }"));
        }
        self.node(at, ExprKind::Predicate(Box::new(node)))
    }

    fn array(&mut self) -> Result<ExprNode, CompileError> {
        let at = self.next().at;
        let mut nodes = Vec::new();
        self.items("]", |parser| {
            nodes.push(parser.expression(0)?);
            Ok(())
        })?;
        self.node(at, ExprKind::Array(nodes))
    }

    fn map(&mut self) -> Result<ExprNode, CompileError> {
        let at = self.next().at;
        let mut pairs = Vec::new();
        self.items("}", |parser| {
            let token = parser.peek();
            let key = match token.kind {
                Lexeme::Number | Lexeme::String | Lexeme::Identifier => {
                    parser.next();
                    ExprNode::new(token.at, ExprKind::Constant(ExprValue::text(&*token.text)))
                }
                _ if token.is(Lexeme::Bracket, "(") => parser.expression(0)?,
                _ => {
                    return Err(parser.error(
                        "a map key must be a quoted string, a number, a identifier, or an expression enclosed in \
                         parentheses",
                    ));
                }
            };
            parser.expect(Lexeme::Operator, ":")?;
            pairs.push((key, parser.expression(0)?));
            Ok(())
        })?;
        self.node(at, ExprKind::Map(pairs))
    }

    /// Parses the fields, indexes and slices after a value.
    fn postfix(&mut self, node: ExprNode) -> Result<ExprNode, CompileError> {
        let mut node = node;
        loop {
            let token = self.peek();
            let is_operator = token.kind == Lexeme::Operator;
            let mut optional = is_operator && token.text == "?.";
            if optional && self.tokens.get(self.next + 1).is_some_and(|next| next.is(Lexeme::Bracket, "[")) {
                self.next();
            } else if is_operator && matches!(&*token.text, "." | "?.") {
                node = self.field(node, optional)?;
                continue;
            } else {
                optional = false;
            }
            if !self.accept(Lexeme::Bracket, "[") {
                return Ok(node);
            }
            node = self.index(node, token.at, optional)?;
        }
    }

    /// Parses `.name` or `?.name`, with the arguments of a call if there are any.
    fn field(&mut self, node: ExprNode, optional: bool) -> Result<ExprNode, CompileError> {
        self.next();
        let token = self.next();
        let is_name = token.text.starts_with(|first: char| first == '_' || first == '$' || first.is_alphabetic());
        if !matches!(token.kind, Lexeme::Identifier | Lexeme::Operator) || !is_name {
            return Err(CompileError { at: token.at, message: "expected name".into() });
        }
        let at = token.at;
        let (of, is_chain) = match node.kind {
            ExprKind::Chain(inner) => (*inner, true),
            _ => (node, false),
        };
        let property = ExprNode::new(at, ExprKind::Constant(ExprValue::text(&*token.text)));
        let method = self.is(Lexeme::Bracket, "(");
        let mut node = self.node(at, ExprKind::Member(Box::new(MemberAccess { of, property, optional, method })))?;
        if method {
            let arguments = self.arguments(Vec::new())?;
            node = self.node(at, ExprKind::Call(Box::new(node), arguments))?;
        }
        if is_chain || optional { self.node(at, ExprKind::Chain(Box::new(node))) } else { Ok(node) }
    }

    /// Parses `[index]`, or `[from:to]` of which either may be missing.
    fn index(&mut self, node: ExprNode, at: usize, optional: bool) -> Result<ExprNode, CompileError> {
        let from = if self.is(Lexeme::Operator, ":") { None } else { Some(self.expression(0)?) };
        if !self.accept(Lexeme::Operator, ":") {
            let Some(property) = from else { return Err(self.unexpected()) };
            self.expect(Lexeme::Bracket, "]")?;
            let member = MemberAccess { of: node, property, optional, method: false };
            let node = self.node(at, ExprKind::Member(Box::new(member)))?;
            return if optional { self.node(at, ExprKind::Chain(Box::new(node))) } else { Ok(node) };
        }
        let to = if self.is(Lexeme::Bracket, "]") { None } else { Some(self.expression(0)?) };
        self.expect(Lexeme::Bracket, "]")?;
        self.node(at, ExprKind::Slice(Box::new(node), from.map(Box::new), to.map(Box::new)))
    }
}

/// Parses a number.
fn number(text: &str) -> Result<ExprValue, String> {
    let digits = text.replace('_', "").to_ascii_lowercase();
    let whole = |kind: &str, prefix: usize, radix| {
        let number = i64::from_str_radix(&digits[prefix..], radix).map(ExprValue::Int);
        number.map_err(|_| format!("invalid {kind} literal: {text}"))
    };
    match digits.get(..2) {
        Some("0x") => whole("hex", 2, 16),
        _ if digits.contains(['.', 'e']) => {
            let number = digits.parse().ok().filter(|number: &f64| number.is_finite());
            number.map(ExprValue::Float).ok_or_else(|| format!("invalid float literal: {text}"))
        }
        Some("0b") => whole("binary", 2, 2),
        Some("0o") => whole("octal", 2, 8),
        _ => whole("integer", 0, 10),
    }
}
