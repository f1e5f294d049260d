//! The directives: one table in CoreDNS's order, and a configuration and a plugin for each that this server has.
//!
//! ```text
//! corefile::Directive ─ parse(..) ─► Config (typed, comparable; a `build::Setting`) ─ build(..) ─► Plugin
//! ```

pub mod accepted;
pub mod acl;
pub mod any;
pub mod autopath;
pub mod bind;
pub mod bufsize;
pub mod build;
pub mod cache;
pub mod cancel;
pub mod chaos;
mod context;
pub mod debug;
pub mod dns64;
pub mod encrypted;
pub mod erratic;
pub mod errors;
pub mod expression;
pub mod forward;
pub mod header;
pub mod health;
pub mod hosts;
pub mod kubernetes;
pub mod loadbalance;
pub mod local;
pub mod log;
pub mod loops;
pub mod metadata;
pub mod minimal;
pub mod multisocket;
pub mod nsid;
pub mod on;
pub mod page_address;
mod path;
pub mod prometheus;
pub mod ready;
mod regexp;
pub mod reload;
pub mod rewrite;
pub mod root;
mod table;
pub mod template;
#[cfg(test)]
mod testing;
pub mod timeouts;
pub mod tls;
pub mod view;
pub mod whoami;

use context::{fallthrough, names, no_arguments, zones_or_block, zones_or_block_or_none};

use crate::corefile::{Arguments, Block, Diagnostics, Directive, Known, Sources};
use crate::telemetry::metrics::SharedMetrics;

pub use build::ReadDirective;
pub use context::Context;
pub use table::DIRECTIVES;

/// Parses the directives of a server block. Returns them in the order in which plugins run, whatever their order in the
/// file.
pub fn read_directives(block: &Block, sources: &Sources, diagnostics: &mut Diagnostics) -> Vec<ReadDirective> {
    let zones: Vec<String> = block.zones().map(str::to_owned).collect();
    let mut context = Context { keys: &block.keys, zones: &zones, block: &block.directives, root: None, diagnostics };
    let mut directives = Vec::new();
    for entry in DIRECTIVES {
        let mut stanzas: Vec<&Directive> = block.directives_named(entry.name).collect();
        let Some(read) = entry.read.filter(|_| !stanzas.is_empty()) else { continue };
        if entry.once {
            let first = sources.place(stanzas[0].span);
            for again in stanzas.drain(1..) {
                let message = "this plugin can only be used once per Server Block";
                let expected = format!("no '{}' beside the one at {first}", entry.name);
                Arguments::of(again, context.diagnostics).error_expected(&again.name, message, &expected);
            }
        }
        let setting = read(&stanzas, &mut context);
        directives.extend(setting.map(|setting| ReadDirective::new(entry.name, setting)));
    }
    directives
}

/// Registers the metrics that are shown whether or not their directive is configured, as CoreDNS does.
pub fn register_metrics(metrics: &SharedMetrics) {
    DIRECTIVES.iter().filter_map(|entry| entry.register_metrics).for_each(|register| register(metrics));
}

/// Returns whether this server, CoreDNS or an external plugin has a directive of this name.
pub fn known(name: &str) -> Known {
    if let Some(entry) = DIRECTIVES.iter().find(|entry| entry.name == name) {
        return match entry.read {
            Some(_) => Known::Yes,
            None => Known::Unsupported(None),
        };
    }
    if let Some((_, what)) = table::EXTERNAL.iter().find(|(external, _)| *external == name) {
        return Known::External(Some((*what).to_owned()));
    }
    Known::No(crate::corefile::suggest(name, DIRECTIVES.iter().map(|entry| entry.name)))
}
