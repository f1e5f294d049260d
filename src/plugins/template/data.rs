//! The data of templates about a query: `.Name`, `.Zone`, `.Class`, `.Type`, `.Match`, `.Group`, `.Regex`, `.Message`,
//! `.Question`, `.Remote`, `.Var` and `.Meta` (CoreDNS `plugin/template` `templateData`).
//!
//! [`super::message`] has `.Message` and `.Question`.

use std::borrow::Cow;
use std::rc::Rc;

use super::language::{ListValue, Map, ObjectMember, Parameter, Sequence, Structure, TemplateValue, TextMap, Unsigned};
use super::message::QueryMessage;
use crate::chain::Exchange;
use crate::plugins::expression;
use crate::plugins::regexp::{FoundGroups, Pattern};
use crate::wire::{Class, Type};

/// The fields and methods, for warnings.
pub(super) const FIELDS: &[&str] =
    &["Zone", "Name", "Regex", "Match", "Group", "Class", "Type", "Message", "Question", "Remote", "Var", "Meta"];

/// The data of one query for one stanza.
pub(super) struct Data<'q> {
    /// The query.
    pub exchange: &'q Exchange<'q>,
    /// The zone of the stanza that has the name.
    pub zone: &'q str,
    /// The name in lower case.
    pub name: &'q str,
    /// The match of the name.
    pub matched: &'q Matched<'q>,
    /// The class of the query; for ANY, that of the stanza.
    pub class: Class,
    /// The type of the query; for ANY, that of the stanza.
    pub rtype: Type,
    /// The variables of the stanza that have values so far.
    pub variables: Vec<(&'q str, expression::ExprValue)>,
    /// The query as a message.
    pub message: QueryMessage<'q>,
}

/// The match of a name.
pub(super) enum Matched<'q> {
    /// The stanza has no pattern: the whole name matches.
    All,
    /// A pattern matches.
    Pattern {
        /// The pattern.
        pattern: &'q Pattern,
        /// Its index in the stanza.
        index: usize,
        /// The positions of its groups.
        groups: FoundGroups<'q>,
    },
}

/// Returns the name of a type in the table of miekg/dns; empty for other numbers.
pub(super) fn go_type(rtype: Type) -> &'static str {
    match rtype.0 {
        0 => "None",
        u16::MAX => "Reserved",
        _ => rtype.mnemonic().unwrap_or(""),
    }
}

/// Returns the name of a class in the table of miekg/dns; empty for other numbers.
pub(super) fn go_class(class: Class) -> &'static str {
    class.mnemonic().unwrap_or("")
}

impl<'q> Data<'q> {
    /// Returns the number of groups, with the whole match.
    fn groups(&self) -> usize {
        match self.matched {
            Matched::All => 1,
            Matched::Pattern { groups, .. } => groups.count(),
        }
    }

    /// Returns the match of a group; empty if the group did not take part.
    fn group(&self, at: usize) -> &'q str {
        match self.matched {
            Matched::All => self.name,
            Matched::Pattern { groups, .. } => {
                groups.get(at).and_then(|(from, to)| self.name.get(from..to)).unwrap_or("")
            }
        }
    }

    /// Returns the match of the group with this name or number, if there is one. A name has precedence.
    fn group_named(&self, key: &str) -> Option<&'q str> {
        if let Matched::Pattern { pattern, .. } = self.matched
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

impl expression::ExprScope for Data<'_> {
    fn variable(&self, name: &str) -> expression::ExprValue {
        let variable = self.variables.iter().rev().find(|(known, _)| *known == name);
        variable.map_or(expression::ExprValue::Nil, |(_, value)| value.clone())
    }

    fn call(
        &self, name: &str, arguments: &[expression::ExprValue],
    ) -> Result<expression::ExprValue, expression::EvaluationError> {
        let key = match (name, arguments) {
            ("group", [expression::ExprValue::Text(name)]) => Cow::Borrowed(&**name),
            ("group", [expression::ExprValue::Int(number)]) => Cow::Owned(number.to_string()),
            ("group", _) => Cow::Borrowed(""),
            _ => return expression::environment::call(self.exchange, name, arguments),
        };
        Ok(expression::ExprValue::text(self.group_named(&key).unwrap_or_default()))
    }
}

impl<'a, 'q: 'a> Structure<'a> for Data<'q> {
    fn type_name(&self) -> &'static str {
        "*template.templateData"
    }

    fn member(&'a self, name: &str) -> ObjectMember<'a> {
        ObjectMember::Value(match name {
            "Name" => TemplateValue::text(self.name),
            "Group" => TemplateValue::Map(Map::Texts(self)),
            "Match" => TemplateValue::List(ListValue::given(self, "string")),
            "Zone" => TemplateValue::text(self.zone),
            "Class" => TemplateValue::text(go_class(self.class)),
            "Type" => TemplateValue::text(go_type(self.rtype)),
            "Remote" => TemplateValue::text(self.exchange.client.remote.ip().to_canonical().to_string()),
            "Regex" => TemplateValue::text(match self.matched {
                Matched::All => ".*",
                Matched::Pattern { pattern, .. } => &pattern.text,
            }),
            "Var" => TemplateValue::Map(Map::Values(Rc::new(
                self.variables.iter().map(|(name, value)| ((*name).into(), from_expression(value))).collect(),
            ))),
            "Question" => TemplateValue::Object(&self.message.question),
            "Message" => TemplateValue::Object(&self.message),
            "Meta" => return ObjectMember::Method(&[Parameter::Text]),
            "md" => return ObjectMember::Hidden,
            _ => return ObjectMember::None,
        })
    }

    fn call(&'a self, _: &str, arguments: &[TemplateValue<'a>]) -> TemplateValue<'a> {
        let label = match arguments {
            [TemplateValue::Text(label)] => std::str::from_utf8(label).unwrap_or(""),
            _ => "",
        };
        TemplateValue::text(self.exchange.metadata(label).unwrap_or_default())
    }

    fn text(&self, out: &mut Vec<u8>) {
        // Go prints all fields, with addresses of memory for pointers.
        out.extend_from_slice(
            format!("{{{} {} {}}}", self.zone, self.name, self.message.question.written()).as_bytes(),
        );
    }
}

impl<'a, 'q: 'a> Sequence<'a> for Data<'q> {
    fn count(&self) -> usize {
        self.groups()
    }

    fn item(&'a self, at: usize) -> TemplateValue<'a> {
        TemplateValue::text(self.group(at))
    }
}

impl<'a, 'q: 'a> TextMap<'a> for Data<'q> {
    fn get(&'a self, key: &[u8]) -> Option<Cow<'a, [u8]>> {
        let group = self.group_named(std::str::from_utf8(key).ok()?)?;
        Some(Cow::Borrowed(group.as_bytes()))
    }

    fn keys(&'a self) -> Vec<Cow<'a, str>> {
        let mut keys: Vec<Cow<'_, str>> = (0..self.groups()).map(|at| Cow::Owned(at.to_string())).collect();
        if let Matched::Pattern { pattern, .. } = self.matched {
            keys.extend(pattern.regex.capture_names().flatten().map(Cow::Borrowed));
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Converts the value of a variable for templates.
fn from_expression<'a>(value: &expression::ExprValue) -> TemplateValue<'a> {
    match value {
        expression::ExprValue::Nil => TemplateValue::Nil,
        expression::ExprValue::Bool(value) => TemplateValue::Bool(*value),
        expression::ExprValue::Int(number) => TemplateValue::Int(*number),
        expression::ExprValue::Float(number) => TemplateValue::Float(*number),
        expression::ExprValue::Text(text) => TemplateValue::text(text.to_string()),
        expression::ExprValue::Bytes(bytes) => {
            let bytes = bytes.iter().map(|byte| TemplateValue::Uint((*byte).into(), Unsigned::Byte));
            TemplateValue::List(ListValue::shared(bytes.collect(), "uint8"))
        }
        expression::ExprValue::Array(items) => {
            TemplateValue::List(ListValue::shared(items.iter().map(from_expression).collect(), "interface {}"))
        }
        expression::ExprValue::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.to_string().into(), from_expression(value)));
            TemplateValue::Map(Map::Values(Rc::new(entries.collect())))
        }
    }
}
