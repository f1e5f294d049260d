//! The order in which rules are compared with a query. With many rules about one name each, those that are about other
//! names are skipped.

use std::collections::HashMap;

use super::draft::Draft;
use super::matching::Matcher;
use super::rule::{Rule, RuleKind};

/// The number of rules about one name from which on they are found by their name.
const MANY: usize = 32;

/// The rules that are to be compared with a name, in file order.
pub(super) struct RuleOrder {
    /// The number of rules.
    len: usize,
    /// With many rules about one name.
    by_name: Option<ByName>,
}

/// Rules by the name that they are about.
struct ByName {
    /// The numbers of the rules about one name.
    exact: HashMap<Box<str>, Vec<u32>, foldhash::fast::RandomState>,
    /// The numbers of all other rules, in order.
    others: Vec<u32>,
}

impl RuleOrder {
    pub(super) fn new(rules: &[Rule]) -> RuleOrder {
        let names: Vec<Option<&str>> = rules.iter().map(exact_name).collect();
        let has_many = names.iter().flatten().count() >= MANY;
        let by_name = has_many.then(|| {
            let mut by_name = ByName { exact: HashMap::default(), others: Vec::new() };
            for (number, name) in (0..).zip(names) {
                match name {
                    Some(name) => by_name.exact.entry(name.into()).or_default().push(number),
                    None => by_name.others.push(number),
                }
            }
            by_name
        });
        RuleOrder { len: rules.len(), by_name }
    }

    /// Returns whether rules are found by the name that they are about.
    pub(super) fn is_by_name(&self) -> bool {
        self.by_name.is_some()
    }

    /// Returns the number of the first rule from `from` on that may apply to a query.
    pub(super) fn next(&self, from: usize, draft: &mut Draft<'_>) -> Option<usize> {
        let Some(ByName { exact, others }) = &self.by_name else { return (from < self.len).then_some(from) };
        let first = |numbers: &[u32]| numbers.get(numbers.partition_point(|number| (*number as usize) < from)).copied();
        let found = [exact.get(draft.text()).and_then(|numbers| first(numbers)), first(others)];
        found.into_iter().flatten().min().map(|number| number as usize)
    }
}

/// Returns the name that a rule is about, if it is about one.
fn exact_name(rule: &Rule) -> Option<&str> {
    let matcher = match &rule.kind {
        RuleKind::Name(rule) => &rule.matcher,
        RuleKind::Ttl(rule) => &rule.matcher,
        RuleKind::Rcode(rule) => &rule.matcher,
        RuleKind::Type(_) | RuleKind::Class(_) | RuleKind::Cname(_) | RuleKind::Edns(_) => return None,
    };
    match matcher {
        Matcher::Exact(name) => Some(name),
        Matcher::Prefix(_) | Matcher::Suffix(_) | Matcher::Substring(_) | Matcher::Regex(_) => None,
    }
}
