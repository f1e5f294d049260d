//! A rule of any kind, and how it changes a query.

use super::cname::CnameRule;
use super::draft::{Draft, InvalidName};
use super::edns0::EdnsRule;
use super::name::NameRule;
use super::question::QuestionChange;
use super::rcode::RcodeRule;
use super::ttl::TtlRule;
use crate::chain::Exchange;
use crate::wire::{Class, Type};

/// A rule.
#[derive(Debug, PartialEq)]
pub(super) struct Rule {
    /// No further rule is used if this one applies.
    pub(super) stops: bool,
    pub(super) kind: RuleKind,
}

/// What a rule does.
#[derive(Debug, PartialEq)]
pub(super) enum RuleKind {
    Name(Box<NameRule>),
    Type(QuestionChange<Type>),
    Class(QuestionChange<Class>),
    Ttl(TtlRule),
    Rcode(RcodeRule),
    Cname(Box<CnameRule>),
    Edns(Box<EdnsRule>),
}

impl RuleKind {
    /// Changes the query. Returns whether the rule applies to it, or will apply to its reply.
    pub(super) fn apply(&self, draft: &mut Draft<'_>, exchange: &Exchange<'_>) -> Result<bool, InvalidName> {
        Ok(match self {
            RuleKind::Name(rule) => rule.apply(draft, exchange)?,
            RuleKind::Type(change) => change.apply(&mut draft.qtype),
            RuleKind::Class(change) => change.apply(&mut draft.qclass),
            RuleKind::Edns(rule) => rule.apply(draft, exchange),
            RuleKind::Ttl(TtlRule { matcher, .. }) | RuleKind::Rcode(RcodeRule { matcher, .. }) => {
                let applies = matcher.matches(draft.text());
                draft.has_response_rules |= applies;
                applies
            }
            // Any reply may have a CNAME.
            RuleKind::Cname(_) => {
                draft.has_response_rules = true;
                true
            }
        })
    }
}
