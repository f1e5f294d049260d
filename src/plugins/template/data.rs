//! What CoreDNS's templates know of a query: `.Name`, `.Zone`, `.Class`, `.Type`, `.Match`, `.Group`, `.Regex`, `.Message`,
//! `.Question`, `.Remote`, `.Var` and `.Meta` (CoreDNS `plugin/template` `templateData`).
//!
//! [`super::message`] has what is behind `.Message` and `.Question`.

use std::borrow::Cow;
use std::rc::Rc;

use regex::CaptureLocations;

use super::language::{List, Map, Member, Object, Parameter, Sequence, Texts, Unsigned, Value};
use super::message::Message;
use crate::chain::Exchange;
use crate::plugins::expression;
use crate::plugins::regexp::Pattern;
use crate::wire::{Class, Type};

/// The fields and methods, for warnings.
pub const FIELDS: &[&str] =
    &["Zone", "Name", "Regex", "Match", "Group", "Class", "Type", "Message", "Question", "Remote", "Var", "Meta"];

/// The data of one query for one stanza.
pub struct Data<'q> {
    /// The query.
    pub exchange: &'q Exchange<'q>,
    /// The zone of the stanza that the name is in.
    pub zone: &'q str,
    /// The name in lower case.
    pub name: &'q str,
    /// What matched the name.
    pub matched: Matched<'q>,
    /// The class asked for; of any, that of the stanza.
    pub class: Class,
    /// The type asked for; of any, that of the stanza.
    pub rtype: Type,
    /// The variables of the stanza that have values so far.
    pub variables: Vec<(&'q str, expression::Value)>,
    /// The query as a message.
    pub message: Message<'q>,
}

/// Which pattern of a stanza matched.
pub enum Matched<'q> {
    /// None was given: the whole name.
    All,
    /// This one, with the places of its groups.
    Pattern(&'q Pattern, CaptureLocations),
}

/// The name of a type in Go's table; empty for a number that it has not.
pub fn go_type(rtype: Type) -> &'static str {
    match rtype.0 {
        0 => "None",
        u16::MAX => "Reserved",
        _ => rtype.mnemonic().unwrap_or(""),
    }
}

/// The name of a class in Go's table.
pub fn go_class(class: Class) -> &'static str {
    class.mnemonic().unwrap_or("")
}

impl<'q> Data<'q> {
    /// How many groups there are, the whole match included.
    fn groups(&self) -> usize {
        match &self.matched {
            Matched::All => 1,
            Matched::Pattern(_, groups) => groups.len(),
        }
    }

    /// What a group matched; nothing where it took no part.
    fn group(&self, at: usize) -> &'q str {
        match &self.matched {
            Matched::All => self.name,
            Matched::Pattern(_, groups) => groups.get(at).and_then(|(from, to)| self.name.get(from..to)).unwrap_or(""),
        }
    }

    /// The group of a name or number, if there is one. A name counts more than a number.
    fn group_named(&self, key: &str) -> Option<&'q str> {
        if let Matched::Pattern(pattern, _) = &self.matched
            && let Some(at) = pattern.regex.capture_names().position(|name| name == Some(key))
        {
            return Some(self.group(at));
        }
        // As Go writes numbers: without a sign or leading zeros.
        let is_number = key == "0" || key.starts_with(|first: char| matches!(first, '1'..='9'));
        let at: usize = key.parse().ok().filter(|_| is_number)?;
        (at < self.groups()).then(|| self.group(at))
    }
}

impl expression::Scope for Data<'_> {
    fn variable(&self, name: &str) -> expression::Value {
        let variable = self.variables.iter().rev().find(|(known, _)| *known == name);
        variable.map_or(expression::Value::Nil, |(_, value)| value.clone())
    }

    fn call(&self, name: &str, arguments: &[expression::Value]) -> Result<expression::Value, String> {
        let key = match (name, arguments) {
            ("group", [expression::Value::Text(name)]) => Cow::Borrowed(&**name),
            ("group", [expression::Value::Int(number)]) => Cow::Owned(number.to_string()),
            ("group", _) => Cow::Borrowed(""),
            _ => return expression::environment::call(self.exchange, name, arguments),
        };
        Ok(expression::Value::text(self.group_named(&key).unwrap_or_default()))
    }
}

impl<'a, 'q: 'a> Object<'a> for Data<'q> {
    fn type_name(&self) -> &'static str {
        "*template.templateData"
    }

    fn member(&'a self, name: &str) -> Member<'a> {
        Member::Value(match name {
            "Name" => Value::text(self.name),
            "Group" => Value::Map(Map::Texts(self)),
            "Match" => Value::List(List::given(self, "string")),
            "Zone" => Value::text(self.zone),
            "Class" => Value::text(go_class(self.class)),
            "Type" => Value::text(go_type(self.rtype)),
            "Remote" => Value::text(self.exchange.client.remote.ip().to_canonical().to_string()),
            "Regex" => Value::text(match &self.matched {
                Matched::All => ".*",
                Matched::Pattern(pattern, _) => &pattern.text,
            }),
            "Var" => Value::Map(Map::Values(Rc::new(
                self.variables.iter().map(|(name, value)| ((*name).into(), from_expression(value))).collect(),
            ))),
            "Question" => Value::Object(&self.message.question),
            "Message" => Value::Object(&self.message),
            "Meta" => return Member::Method(&[Parameter::Text]),
            "md" => return Member::Hidden,
            _ => return Member::None,
        })
    }

    fn call(&'a self, _: &str, arguments: &[Value<'a>]) -> Value<'a> {
        let label = match arguments {
            [Value::Text(label)] => std::str::from_utf8(label).unwrap_or(""),
            _ => "",
        };
        Value::text(self.exchange.metadata(label).unwrap_or_default())
    }

    fn text(&self, out: &mut Vec<u8>) {
        // Go prints all fields, with the places in memory of what is behind them.
        out.extend_from_slice(
            format!("{{{} {} {}}}", self.zone, self.name, self.message.question.written()).as_bytes(),
        );
    }
}

impl<'a, 'q: 'a> Sequence<'a> for Data<'q> {
    fn count(&self) -> usize {
        self.groups()
    }

    fn item(&'a self, at: usize) -> Value<'a> {
        Value::text(self.group(at))
    }
}

impl<'a, 'q: 'a> Texts<'a> for Data<'q> {
    fn get(&'a self, key: &[u8]) -> Option<Cow<'a, [u8]>> {
        let group = self.group_named(std::str::from_utf8(key).ok()?)?;
        Some(Cow::Borrowed(group.as_bytes()))
    }

    fn keys(&'a self) -> Vec<Cow<'a, str>> {
        let mut keys: Vec<Cow<'_, str>> = (0..self.groups()).map(|at| Cow::Owned(at.to_string())).collect();
        if let Matched::Pattern(pattern, _) = &self.matched {
            keys.extend(pattern.regex.capture_names().flatten().map(Cow::Borrowed));
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The value of a variable, for templates.
fn from_expression<'a>(value: &expression::Value) -> Value<'a> {
    match value {
        expression::Value::Nil => Value::Nil,
        expression::Value::Bool(value) => Value::Bool(*value),
        expression::Value::Int(number) => Value::Int(*number),
        expression::Value::Float(number) => Value::Float(*number),
        expression::Value::Text(text) => Value::text(text.to_string()),
        expression::Value::Bytes(bytes) => {
            let bytes = bytes.iter().map(|byte| Value::Uint((*byte).into(), Unsigned::Byte));
            Value::List(List::shared(bytes.collect(), "uint8"))
        }
        expression::Value::Array(items) => {
            Value::List(List::shared(items.iter().map(from_expression).collect(), "interface {}"))
        }
        expression::Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.to_string().into(), from_expression(value)));
            Value::Map(Map::Values(Rc::new(entries.collect())))
        }
    }
}
