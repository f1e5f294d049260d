//! Label selectors as in `kubectl -l` and in the option `labels`: `app=web,tier in (front,back),!canary`.
//!
//! The grammar and the rules for keys and values are those of `k8s.io/apimachinery/pkg/labels` (`Parse`, lexer and
//! parser in `selector.go`), oddities included: `a in (,b)` contains the empty value, `a=` matches the empty value, and
//! an empty text matches everything. Only `<`, `>` and `!=` are errors here: `metav1.ParseToLabelSelector`, with which
//! CoreDNS parses its directives, refuses them too.

use std::fmt;

/// A parsed selector: a conjunction of requirements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The requirements, all of which a selected object fulfils.
    requirements: Vec<Requirement>,
}

/// A requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    /// The key of the label.
    key: Box<str>,
    /// The test of its value.
    test: LabelTest,
}

/// The test of the value of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTest {
    /// `key`
    Exists,
    /// `!key`
    Absent,
    /// `key = v`, `key == v`, `key in (…)`: the label exists and has one of these values.
    In(Vec<Box<str>>),
    /// `key notin (…)`: the label has none of these values, or does not exist.
    NotIn(Vec<Box<str>>),
}

/// An error in the text of a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A token that is not valid at its position.
    #[error("found {token}, expected {expected}")]
    Unexpected {
        /// The token as written, quoted, or "the end".
        token: String,
        /// What is valid there.
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
        if tokens.peek() == SelectorToken::End {
            return Ok(Selector { requirements });
        }
        loop {
            requirements.push(tokens.parse_requirement()?);
            match tokens.next() {
                SelectorToken::End => return Ok(Selector { requirements }),
                SelectorToken::Comma => {}
                other => return Err(other.unexpected("',' or the end")),
            }
        }
    }

    /// Returns whether the selector selects an object; `label` returns the value of one of its labels.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = label(&requirement.key);
            match &requirement.test {
                LabelTest::Exists => value.is_some(),
                LabelTest::Absent => value.is_none(),
                LabelTest::In(values) => value.is_some_and(|value| values.iter().any(|v| **v == *value)),
                LabelTest::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| **v != *value)),
            }
        })
    }
}

impl fmt::Display for Selector {
    /// Writes the form that the API server parses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Requirement { key, test }) in self.requirements.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match test {
                LabelTest::Exists => write!(f, "{comma}{key}")?,
                LabelTest::Absent => write!(f, "{comma}!{key}")?,
                // A single value may be empty, which a list in parentheses cannot express.
                LabelTest::In(values) if values.len() == 1 => write!(f, "{comma}{key}={}", values[0])?,
                LabelTest::NotIn(values) if values.len() == 1 => write!(f, "{comma}{key}!={}", values[0])?,
                LabelTest::In(values) => write!(f, "{comma}{key} in ({})", values.join(","))?,
                LabelTest::NotIn(values) => write!(f, "{comma}{key} notin ({})", values.join(","))?,
            }
        }
        Ok(())
    }
}

/// A token of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SelectorToken<'a> {
    /// A key, a value, or one of the words `in` and `notin`, which are operators only in the position of one.
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

impl SelectorToken<'_> {
    /// Returns the error for this token.
    fn unexpected(self, expected: &'static str) -> SelectorError {
        let token = match self {
            SelectorToken::Word(text) | SelectorToken::Equal(text) => format!("'{text}'"),
            SelectorToken::Open => "'('".into(),
            SelectorToken::Close => "')'".into(),
            SelectorToken::Comma => "','".into(),
            SelectorToken::Not => "'!'".into(),
            SelectorToken::NotEqual => "'!='".into(),
            SelectorToken::Compare(sign) => format!("'{sign}'"),
            SelectorToken::End => "the end".into(),
        };
        SelectorError::Unexpected { token, expected }
    }
}

/// The remaining text.
#[derive(Clone, Copy)]
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    /// Returns the next token without consuming it.
    fn peek(&self) -> SelectorToken<'a> {
        self.split_token().0
    }

    /// Returns the next token and consumes it.
    fn next(&mut self) -> SelectorToken<'a> {
        let (token, rest) = self.split_token();
        self.rest = rest;
        token
    }

    /// Returns the next token and the text after it.
    fn split_token(&self) -> (SelectorToken<'a>, &'a str) {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let two = rest.get(..2).unwrap_or_default();
        let (token, len) = match rest.chars().next() {
            // The lexer of apimachinery interprets NUL as the end of the text.
            None | Some('\0') => (SelectorToken::End, 0),
            Some('(') => (SelectorToken::Open, 1),
            Some(')') => (SelectorToken::Close, 1),
            Some(',') => (SelectorToken::Comma, 1),
            Some('!') if two == "!=" => (SelectorToken::NotEqual, 2),
            Some('!') => (SelectorToken::Not, 1),
            Some('=') if two == "==" => (SelectorToken::Equal("=="), 2),
            Some('=') => (SelectorToken::Equal("="), 1),
            Some(sign @ ('<' | '>')) => (SelectorToken::Compare(sign), 1),
            Some(_) => {
                let special =
                    |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<' | ' ' | '\t' | '\r' | '\n' | '\0');
                let len = rest.find(special).unwrap_or(rest.len());
                (SelectorToken::Word(&rest[..len]), len)
            }
        };
        (token, &rest[len..])
    }

    /// Parses a requirement.
    fn parse_requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == SelectorToken::Not;
        if absent {
            self.next();
        }
        let key = match self.next() {
            SelectorToken::Word(key) if is_key(key) => key.into(),
            SelectorToken::Word(key) => return Err(SelectorError::Key(key.to_owned())),
            other if absent => return Err(other.unexpected("a label key")),
            other => return Err(other.unexpected("a label key or '!'")),
        };
        if absent {
            return Ok(Requirement { key, test: LabelTest::Absent });
        }
        if matches!(self.peek(), SelectorToken::End | SelectorToken::Comma) {
            return Ok(Requirement { key, test: LabelTest::Exists });
        }
        let test = match self.next() {
            SelectorToken::Equal(_) => LabelTest::In(vec![self.parse_value()?]),
            // `metav1.ParseToLabelSelector` does not have this operator, so CoreDNS refuses it.
            SelectorToken::NotEqual => {
                return Err(SelectorToken::NotEqual.unexpected("in, notin, = or ==; write 'key notin (value)'"));
            }
            SelectorToken::Word("in") => LabelTest::In(self.parse_values("in")?),
            SelectorToken::Word("notin") => LabelTest::NotIn(self.parse_values("notin")?),
            SelectorToken::Compare(sign) => return Err(SelectorError::Comparison(sign)),
            other => return Err(other.unexpected("in, notin, = or ==")),
        };
        Ok(Requirement { key, test })
    }

    /// Parses the value after `=` or `==`; the value may be empty.
    fn parse_value(&mut self) -> Result<Box<str>, SelectorError> {
        match self.peek() {
            SelectorToken::End | SelectorToken::Comma => Ok("".into()),
            SelectorToken::Word(text) => {
                self.next();
                check_value(text)
            }
            other => Err(other.unexpected("a label value")),
        }
    }

    /// Parses the list after `in` or `notin`; values may be empty.
    fn parse_values(&mut self, operator: &'static str) -> Result<Vec<Box<str>>, SelectorError> {
        match self.next() {
            SelectorToken::Open => {}
            other => return Err(other.unexpected("'('")),
        }
        if self.peek() == SelectorToken::Close {
            return Err(SelectorError::NoValues(operator));
        }
        let mut values: Vec<Box<str>> = Vec::new();
        loop {
            let text = match self.peek() {
                SelectorToken::Word(text) => {
                    self.next();
                    text
                }
                SelectorToken::Comma | SelectorToken::Close => "",
                other => return Err(other.unexpected("a label value, ',' or ')'")),
            };
            let value = check_value(text)?;
            if !values.contains(&value) {
                values.push(value);
            }
            match self.next() {
                SelectorToken::Comma => {}
                SelectorToken::Close => return Ok(values),
                other => return Err(other.unexpected("',' or ')'")),
            }
        }
    }
}

/// Checks the value of a label.
fn check_value(text: &str) -> Result<Box<str>, SelectorError> {
    if text.is_empty() || is_qualified_part(text) {
        Ok(text.into())
    } else {
        Err(SelectorError::Value(text.to_owned()))
    }
}

/// Returns whether a text is a label key (`validation.IsQualifiedName`): an optional DNS subdomain and a slash, then a
/// name.
fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_qualified_part(text),
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_part(name),
    }
}

/// Returns whether a text is a label value: empty, or as the name of a label.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_qualified_part(text)
}

/// Returns whether a text is the name of a label, or a value that is not empty: at most 63 of `[A-Za-z0-9._-]`, with a
/// letter or digit at both ends.
fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Returns whether a text is an RFC 1123 label as in Kubernetes, such as the name of a namespace: at most 63 lower-case
/// letters, digits and '-', with a letter or digit at both ends.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_part_of_subdomain(text)
}

/// Returns whether a text is an RFC 1123 subdomain: lower-case labels separated by dots, at most 253 bytes.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part_of_subdomain)
}

/// Returns whether a text is a label of a subdomain, whose length Kubernetes does not limit.
fn is_part_of_subdomain(label: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = label.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| edge(Some(b)) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether `selector` selects an object with `labels` (`a=b c=d`).
    fn selects(selector: &str, labels: &str) -> bool {
        let labels: Vec<(&str, &str)> = labels.split_whitespace().map(|l| l.split_once('=').unwrap()).collect();
        let label = |key: &str| labels.iter().find(|(have, _)| *have == key).map(|(_, value)| *value);
        Selector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}")).matches(label)
    }

    #[test]
    fn a_selector_is_written_in_the_form_of_the_api_server() {
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
            // The words are operators only in the position of one.
            ("in", "in=1", true),
            ("in in (in)", "in=in", true),
            ("notin=notin", "notin=notin", true),
            ("a in (in,notin)", "a=notin", true),
            ("app.kubernetes.io/name=web", "app.kubernetes.io/name=web", true),
        ] {
            assert_eq!(selects(selector, labels), want, "{selector:?} on {labels:?}");
        }
    }

    #[test]
    fn errors_of_kubernetes_are_errors_with_a_reason() {
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
            ("a!=b", "found '!=', expected in, notin, = or ==; write 'key notin (value)'"),
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
