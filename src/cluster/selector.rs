//! Label selectors, as `kubectl -l` and the `labels` directive write them: `app=web,tier in (front,back),!canary`.
//!
//! The grammar and the rules for keys and values are those of `k8s.io/apimachinery/pkg/labels` (`Parse`, lexer and parser
//! in `selector.go`), oddities included: `a in (,b)` holds the empty value, `a=` wants the empty value, and an empty
//! text selects everything. Only `<`, `>` and `!=` are refused here: `metav1.ParseToLabelSelector`, through which CoreDNS
//! reads its directives, refuses them too.

use std::fmt;

/// A parsed selector: a conjunction of requirements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// All of these hold for what is selected.
    requirements: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// The label's key.
    key: Box<str>,
    /// What is asked of its value.
    test: Test,
}

/// What a requirement asks of the label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    /// `key`
    Exists,
    /// `!key`
    Absent,
    /// `key = v`, `key == v`, `key in (…)`: the label exists and has one of these values.
    In(Vec<Box<str>>),
    /// `key notin (…)`: the label has none of these values, or does not exist.
    NotIn(Vec<Box<str>>),
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A token that the grammar does not want here.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// The token as written, quoted, or "the end".
        found: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// A key that cannot be the key of a label.
    #[error(
        "{0:?} is not a label key: a name of at most 63 letters, digits, '-', '_' and '.', with a DNS name and '/' before it if any prefix"
    )]
    Key(String),
    /// A value that cannot be the value of a label.
    #[error(
        "{0:?} is not a label value: at most 63 letters, digits, '-', '_' and '.', a letter or digit first and last"
    )]
    Value(String),
    /// `in ()`.
    #[error("the list of values after '{0}' is empty")]
    NoValues(&'static str),
    /// `<` and `>`.
    #[error("'{0}' does not work in label selectors; in, notin, =, ==, key and !key do")]
    Comparison(char),
}

impl Selector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let mut tokens = Tokens { rest: text };
        let mut requirements = Vec::new();
        if tokens.peek() == Token::End {
            return Ok(Selector { requirements });
        }
        loop {
            requirements.push(tokens.requirement()?);
            match tokens.next() {
                Token::End => return Ok(Selector { requirements }),
                Token::Comma => {}
                other => return Err(other.unexpected("',' or the end")),
            }
        }
    }

    /// Whether the selector picks an object, of whose labels `label` gives the value of one.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = label(&requirement.key);
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.iter().any(|v| **v == *value)),
                Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| **v != *value)),
            }
        })
    }
}

impl fmt::Display for Selector {
    /// As the API server reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Requirement { key, test }) in self.requirements.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match test {
                Test::Exists => write!(f, "{comma}{key}")?,
                Test::Absent => write!(f, "{comma}!{key}")?,
                // One value may be empty, which a list in brackets cannot hold alone.
                Test::In(values) if values.len() == 1 => write!(f, "{comma}{key}={}", values[0])?,
                Test::NotIn(values) if values.len() == 1 => write!(f, "{comma}{key}!={}", values[0])?,
                Test::In(values) => write!(f, "{comma}{key} in ({})", values.join(","))?,
                Test::NotIn(values) => write!(f, "{comma}{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

/// A token of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A key, a value, or one of the words `in` and `notin`, which are words only where an operator stands.
    Word(&'a str),
    Open,
    Close,
    Comma,
    Not,
    /// `=` or `==`
    Equal(&'a str),
    NotEqual,
    /// `<` or `>`
    Compare(char),
    End,
}

impl Token<'_> {
    /// The error for this token in the place of another.
    fn unexpected(self, expected: &'static str) -> SelectorError {
        let found = match self {
            Token::Word(text) | Token::Equal(text) => format!("'{text}'"),
            Token::Open => "'('".into(),
            Token::Close => "')'".into(),
            Token::Comma => "','".into(),
            Token::Not => "'!'".into(),
            Token::NotEqual => "'!='".into(),
            Token::Compare(sign) => format!("'{sign}'"),
            Token::End => "the end".into(),
        };
        SelectorError::Unexpected { found, expected }
    }
}

/// The text that is still to be read.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// The next token, left in place.
    fn peek(&self) -> Token<'a> {
        self.clone_next().0
    }

    /// The next token, taken.
    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.clone_next();
        self.rest = rest;
        token
    }

    /// The next token and the text behind it.
    fn clone_next(&self) -> (Token<'a>, &'a str) {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let two = rest.get(..2).unwrap_or_default();
        let (token, len) = match rest.chars().next() {
            // The lexer of apimachinery takes a NUL for the end of the text.
            None | Some('\0') => (Token::End, 0),
            Some('(') => (Token::Open, 1),
            Some(')') => (Token::Close, 1),
            Some(',') => (Token::Comma, 1),
            Some('!') if two == "!=" => (Token::NotEqual, 2),
            Some('!') => (Token::Not, 1),
            Some('=') if two == "==" => (Token::Equal("=="), 2),
            Some('=') => (Token::Equal("="), 1),
            Some(sign @ ('<' | '>')) => (Token::Compare(sign), 1),
            Some(_) => {
                let special =
                    |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<' | ' ' | '\t' | '\r' | '\n' | '\0');
                let len = rest.find(special).unwrap_or(rest.len());
                (Token::Word(&rest[..len]), len)
            }
        };
        (token, &rest[len..])
    }

    /// One requirement.
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == Token::Not;
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) if is_key(key) => key.into(),
            Token::Word(key) => return Err(SelectorError::Key(key.to_owned())),
            other if absent => return Err(other.unexpected("a label key")),
            other => return Err(other.unexpected("a label key or '!'")),
        };
        if absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = match self.next() {
            Token::Equal(_) => Test::In(vec![self.value()?]),
            // `metav1.ParseToLabelSelector` knows no such operator, so that CoreDNS refuses it.
            Token::NotEqual => {
                return Err(Token::NotEqual.unexpected("in, notin, = or ==; 'key notin (value)' says it"));
            }
            Token::Word("in") => Test::In(self.values("in")?),
            Token::Word("notin") => Test::NotIn(self.values("notin")?),
            Token::Compare(sign) => return Err(SelectorError::Comparison(sign)),
            other => return Err(other.unexpected("in, notin, = or ==")),
        };
        Ok(Requirement { key, test })
    }

    /// The value after `=` or `==`; nothing there is the empty value.
    fn value(&mut self) -> Result<Box<str>, SelectorError> {
        match self.peek() {
            Token::End | Token::Comma => Ok("".into()),
            Token::Word(text) => {
                self.next();
                value(text)
            }
            other => Err(other.unexpected("a label value")),
        }
    }

    /// The list after `in` or `notin`; nothing between two commas is the empty value.
    fn values(&mut self, operator: &'static str) -> Result<Vec<Box<str>>, SelectorError> {
        match self.next() {
            Token::Open => {}
            other => return Err(other.unexpected("'('")),
        }
        if self.peek() == Token::Close {
            return Err(SelectorError::NoValues(operator));
        }
        let mut values: Vec<Box<str>> = Vec::new();
        loop {
            let text = match self.peek() {
                Token::Word(text) => {
                    self.next();
                    text
                }
                Token::Comma | Token::Close => "",
                other => return Err(other.unexpected("a label value, ',' or ')'")),
            };
            let value = value(text)?;
            if !values.contains(&value) {
                values.push(value);
            }
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(other.unexpected("',' or ')'")),
            }
        }
    }
}

/// A checked label value.
fn value(text: &str) -> Result<Box<str>, SelectorError> {
    if text.is_empty() || is_qualified_part(text) {
        Ok(text.into())
    } else {
        Err(SelectorError::Value(text.to_owned()))
    }
}

/// `validation.IsQualifiedName`: an optional DNS subdomain and a slash, then a name.
fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_qualified_part(text),
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_part(name),
    }
}

/// The value of a label: empty, or as its name.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_part(text)
}

/// The name of a label, and a value that is not empty: at most 63 of `[A-Za-z0-9._-]`, a letter or digit first and last.
fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 1123 subdomain: lower-case labels with dots between them, 253 octets at most.
pub fn is_subdomain(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(|b| edge(*b))
                && bytes.last().is_some_and(|b| edge(*b))
                && bytes.iter().all(|b| edge(*b) || *b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `selector` picks an object with `labels` (`a=b c=d`).
    fn picks(selector: &str, labels: &str) -> bool {
        let labels: Vec<(&str, &str)> = labels.split_whitespace().map(|l| l.split_once('=').unwrap()).collect();
        let label = |key: &str| labels.iter().find(|(have, _)| *have == key).map(|(_, value)| *value);
        Selector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}")).matches(label)
    }

    #[test]
    fn a_selector_is_written_as_the_api_server_reads_it() {
        for text in ["", "a=b,c=", "x.y/z in (b,c),!d,e", "f notin (g,h),i in (,j)"] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Selector::parse("a notin (b), c == d").unwrap().to_string(), "a!=b,c=d");
    }

    #[test]
    fn requirements_match_as_in_kubernetes() {
        for (selector, labels, want) in [
            ("", "a=b", true),
            (" \t\n", "", true),
            ("a=b", "a=b", true),
            ("a==b", "a=b c=d", true),
            ("a = b , c = d", "a=b c=d", true),
            ("a=b", "a=c", false),
            ("a=b", "", false),
            ("a in (b,c)", "a=c", true),
            ("a in (b,c)", "a=d", false),
            ("a in (b,c)", "", false),
            ("a notin (b,c)", "a=d", true),
            ("a notin (b,c)", "", true),
            ("a notin (b,c)", "a=b", false),
            ("a", "a=", true),
            ("a", "b=c", false),
            ("!a", "b=c", true),
            ("! a", "a=c", false),
            ("a,!b,c in (x)", "a=1 c=x", true),
            ("a=", "a=", true),
            ("a=,b", "a= b=1", true),
            ("a in (,b)", "a=", true),
            ("a in (b,)", "a=", true),
            ("a in (b,,c)", "a=c", true),
            ("a in(b)", "a=b", true),
            // The words are words only where an operator stands.
            ("in", "in=1", true),
            ("in in (in)", "in=in", true),
            ("notin=notin", "notin=notin", true),
            ("a in (in,notin)", "a=notin", true),
            ("app.kubernetes.io/name=web", "app.kubernetes.io/name=web", true),
        ] {
            assert_eq!(picks(selector, labels), want, "{selector:?} on {labels:?}");
        }
    }

    #[test]
    fn what_kubernetes_rejects_is_rejected_with_a_reason() {
        let long = format!("a={}", "x".repeat(64));
        for (selector, want) in [
            (",", "found ',', expected a label key or '!'"),
            ("a,", "found the end, expected a label key or '!'"),
            ("a,,b", "found ',', expected a label key or '!'"),
            ("!", "found the end, expected a label key"),
            ("!!a", "found '!', expected a label key"),
            ("!a=b", "found '=', expected ',' or the end"),
            ("=b", "found '=', expected a label key or '!'"),
            ("a b", "found 'b', expected in, notin, = or =="),
            ("a=b c", "found 'c', expected ',' or the end"),
            ("a===b", "found '=', expected a label value"),
            ("a=(b)", "found '(', expected a label value"),
            ("a in b", "found 'b', expected '('"),
            ("a in ()", "the list of values after 'in' is empty"),
            ("a notin ()", "the list of values after 'notin' is empty"),
            ("a in (b", "found the end, expected ',' or ')'"),
            ("a in (b,", "found the end, expected a label value, ',' or ')'"),
            ("a in (b c)", "found 'c', expected ',' or ')'"),
            ("a in (b))", "found ')', expected ',' or the end"),
            ("a in (b) c", "found 'c', expected ',' or the end"),
            ("a>1", "'>' does not work in label selectors; in, notin, =, ==, key and !key do"),
            ("a!=b", "found '!=', expected in, notin, = or ==; 'key notin (value)' says it"),
        ] {
            assert_eq!(Selector::parse(selector).unwrap_err().to_string(), want, "{selector:?}");
        }
        for selector in ["-a=b", "a/b/c=d", "/a", "a/", "A.io/b", "ä=b", "a..b/c=d", "a@b"] {
            assert!(matches!(Selector::parse(selector), Err(SelectorError::Key(_))), "{selector:?}");
        }
        for selector in ["a=-b", "a=b-", "a=b/c", "a in (ü)", &long] {
            assert!(matches!(Selector::parse(selector), Err(SelectorError::Value(_))), "{selector:?}");
        }
    }
}
