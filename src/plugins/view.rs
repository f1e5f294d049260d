//! *view*: selects the queries of a server block by expressions (CoreDNS `plugin/view`).
//!
//! Blocks with the same zone and port are tried in the order of the file. The router asks each block's filter, and
//! passes the query to the first block whose conditions all hold.

use super::Context;
use super::build::{BlockBuilder, BlockOptions, BuildError, Setting};
use super::expression::environment::QueryScope;
use super::expression::{Expression, QueryCondition, Type};
use crate::chain::{Calls, Exchange, Filter, Plugin, Step};
use crate::corefile::{Arguments, Directive};

/// The view of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name, for metrics and metadata.
    pub name: String,
    /// The conditions, which must all hold.
    pub conditions: Vec<QueryCondition>,
}

/// Reads the directive.
pub fn parse(stanzas: &[&Directive], context: &mut Context<'_>) -> Option<Config> {
    let stanza = stanzas.first()?;
    let mut line = Arguments::of(stanza, context.diagnostics);
    let [name] = line.exactly("the name of the view")?;
    let mut config = Config { name: name.text.clone(), conditions: Vec::new() };
    let mut is_valid = true;
    for property in line.body() {
        let mut inner = line.enter(property);
        if inner.name() == "expr" {
            let words = inner.rest();
            match Expression::read(words, &QueryScope::names(), "", &mut inner) {
                Some(expression) => {
                    if !matches!(expression.result, Type::Bool | Type::Unknown | Type::Opaque) {
                        let message = format!("the value is never true but of type {}", expression.result);
                        inner.warning(words.first().unwrap_or(inner.name_token()), message);
                    }
                    config.conditions.push(QueryCondition::of(expression));
                }
                None => is_valid = false,
            }
        } else {
            inner.unknown(["expr"]);
            is_valid = false;
        }
        inner.finish();
    }
    line.finish();
    is_valid.then_some(config)
}

impl Setting for Config {
    fn configure(&self, options: &mut BlockOptions) {
        options.view = Some(self.name.clone());
    }

    fn build(&self, block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        block.plugin(ViewFilter::new(self.clone()));
        Ok(())
    }
}

/// The plugin.
pub struct ViewFilter {
    config: Config,
}

impl ViewFilter {
    /// Creates the plugin.
    pub fn new(config: Config) -> ViewFilter {
        ViewFilter { config }
    }
}

impl Filter for ViewFilter {
    fn admits(&self, exchange: &Exchange<'_>) -> bool {
        // Most views have one condition.
        if let [only] = &self.config.conditions[..] {
            return only.holds(exchange);
        }
        self.config.conditions.iter().all(|condition| condition.holds(exchange))
    }
}

impl Plugin for ViewFilter {
    fn name(&self) -> &'static str {
        "view"
    }

    fn calls(&self) -> Calls {
        Calls { query: false, reply: false, sent: false }
    }

    fn query(&self, _: &mut Exchange<'_>) -> Step {
        Step::Next
    }

    fn filter(&self) -> Option<&dyn Filter> {
        Some(self)
    }

    fn metadata(&self, _: &Exchange<'_>, label: &str) -> Option<String> {
        (label == "view/name").then(|| self.config.name.clone())
    }
}
