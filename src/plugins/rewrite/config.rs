//! The stanzas of *rewrite* (CoreDNS `plugin/rewrite`, `newRule`).

use std::sync::Arc;

use super::rule::{Rule, RuleKind};
use super::words::{MAX_EXPRESSIONS, RuleError, Words};
use super::{cname, edns0, name, question, rcode, ttl};
use crate::corefile::{Arguments, Directive, Property, Token};
use crate::plugins::Context;

/// The maximum number of rules of a server block. Each query is compared with all of them.
const MAX_RULES: usize = 100_000;
/// The rules of a server block, in file order.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Shared with the plugins of all sockets.
    pub(super) rules: Arc<[Rule]>,
}

/// Reads the stanzas.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let errors = context.diagnostics.has_errors();
    let mut rules = Vec::new();
    let mut left = MAX_EXPRESSIONS;
    for stanza in stanzas {
        let mut line = Arguments::of(stanza, context.diagnostics);
        if rules.len() == MAX_RULES {
            line.ignore_rest();
            line.error_expected(&stanza.name, format!("more than {MAX_RULES} rules"), "fewer rules");
            break;
        }
        let mut all: Vec<&Token> = line.rest().iter().collect();
        // CoreDNS looks into the braces only where the line has no rule.
        if all.len() < 2 {
            line.body().iter().for_each(|property| flatten(property, &mut all));
        }
        let mut words = Words::new(all, &mut left);
        match rule(&mut words) {
            Ok(rule) => rules.push(rule),
            Err(error) => {
                let at = words.all.get(words.start + error.at).or(words.all.last());
                line.error_expected(at.copied().unwrap_or(&stanza.name), error.message, &error.expected);
                line.ignore_rest();
            }
        }
        line.finish();
    }
    (errors == context.diagnostics.has_errors()).then(|| Config { rules: rules.into() })
}

/// Adds the words of a line and of the lines in its braces.
fn flatten<'a>(property: &'a Property, all: &mut Vec<&'a Token>) {
    all.push(&property.name);
    all.extend(&property.args);
    property.body.iter().flatten().for_each(|property| flatten(property, all));
}

/// Reads one rule (CoreDNS `newRule`).
fn rule(words: &mut Words<'_>) -> Result<Rule, RuleError> {
    const KINDS: &str = "name, type, class, ttl, rcode, cname or edns0";
    let Some(first) = words.all.first() else {
        return Err(words.missing("no rule type specified for rewrite", KINDS));
    };
    let mode = first.text.to_lowercase();
    let (stops, kind) = match mode.as_str() {
        "continue" | "stop" => {
            let Some(kind) = words.all.get(1) else {
                return Err(words.missing(&format!("{mode} rule must begin with a rule type"), KINDS));
            };
            words.start = 2;
            (mode == "stop", kind.text.to_lowercase())
        }
        _ => {
            words.start = 1;
            (true, mode)
        }
    };
    let kind = match kind.as_str() {
        "name" => RuleKind::Name(Box::new(name::parse(words)?)),
        "type" => RuleKind::Type(question::parse_type(words)?),
        "class" => RuleKind::Class(question::parse_class(words)?),
        "ttl" => RuleKind::Ttl(ttl::parse(words)?),
        "rcode" => RuleKind::Rcode(rcode::parse(words)?),
        "cname" => RuleKind::Cname(Box::new(cname::parse(words)?)),
        "edns0" => RuleKind::Edns(Box::new(edns0::parse(words)?)),
        "answer" => {
            words.start -= 1;
            return Err(words.wrong(0, "response rewrites must begin with a name rule", KINDS));
        }
        _ => {
            let message = format!("invalid rule type \"{}\"", words.all[0].text);
            words.start -= 1;
            return Err(words.wrong(0, message, KINDS));
        }
    };
    Ok(Rule { stops, kind })
}
