//! The directives: one table in CoreDNS's order, and a configuration and a plugin for each that this server has.
//!
//! ```text
//! corefile::Directive ─ parse(..) ─► Config (typed, comparable; a `build::Setting`) ─ build(..) ─► Plugin
//! ```

pub mod accepted;
pub mod acl;
pub mod any;
pub mod bind;
pub mod bufsize;
pub mod build;
pub mod cache;
pub mod chaos;
pub mod debug;
pub mod dns64;
pub mod encrypted;
pub mod endpoint;
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
mod path;
pub mod prometheus;
pub mod ready;
mod regexp;
pub mod reload;
pub mod root;
mod table;
pub mod template;
#[cfg(test)]
mod testing;
pub mod timeouts;
pub mod tls;
pub mod view;
pub mod whoami;

use std::path::PathBuf;

use crate::corefile::{Arguments, Block, BlockKey, Diagnostics, Directive, Known, Sources};
use crate::telemetry::metrics::SharedMetrics;
use crate::wire::NameBuf;

pub use build::ReadDirective;
pub use table::DIRECTIVES;

/// What the parser of a directive may use besides the lines of the directive.
pub struct Context<'a> {
    /// The keys of the server block.
    pub keys: &'a [BlockKey],
    /// The zones of the keys, in lower case with a final dot.
    pub zones: &'a [String],
    /// The directory of *root*, to which relative file names are joined.
    pub root: Option<PathBuf>,
    /// The errors and warnings.
    pub diagnostics: &'a mut Diagnostics,
}

/// Parses the directives of a server block. Returns them in the order in which plugins run, whatever their order in the
/// file.
pub fn read_directives(block: &Block, sources: &Sources, diagnostics: &mut Diagnostics) -> Vec<ReadDirective> {
    let zones: Vec<String> = block.zones().map(str::to_owned).collect();
    let mut context = Context { keys: &block.keys, zones: &zones, root: None, diagnostics };
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

/// Parses a directive without arguments.
fn no_arguments(stanzas: &[&Directive], context: &mut Context<'_>) {
    for stanza in stanzas {
        Arguments::of(stanza, context.diagnostics).finish();
    }
}

/// Returns the zones that follow in the line, or those of the server block if nothing follows. If no word is a valid
/// zone, the result is empty, and the directive applies to no name (CoreDNS `plugin.OriginsFromArgsOrServerBlock`).
fn zones_or_block(line: &mut Arguments<'_, '_>, block: &[String]) -> Vec<NameBuf> {
    if !line.more() {
        return names(block);
    }
    names(&line.zones())
}

/// Returns the same as [`zones_or_block`], with a warning if the result is empty.
fn zones_or_block_or_none(line: &mut Arguments<'_, '_>, block: &[String]) -> Vec<NameBuf> {
    let zones = zones_or_block(line, block);
    if zones.is_empty() {
        line.warning(line.name_token(), format!("no valid zone: '{}' applies to no name", line.name()));
    }
    zones
}

/// Converts zones to names. Every zone that the parser of the Corefile accepts is a valid name.
fn names(zones: &[String]) -> Vec<NameBuf> {
    zones.iter().filter_map(|zone| NameBuf::from_text(zone).ok()).collect()
}

/// Parses the arguments of `fallthrough` in a stanza for the zones `of`.
fn fallthrough(line: &mut Arguments<'_, '_>, of: &[NameBuf]) -> crate::chain::Fallthrough {
    let Some(first) = line.peek() else { return crate::chain::Fallthrough::Always };
    let zones = names(&line.zones());
    let overlaps = |one: &NameBuf, other: &NameBuf| {
        one.as_name().is_within(other.as_name()) || other.as_name().is_within(one.as_name())
    };
    // Many Corefiles name the reverse trees without need, which is harmless.
    let is_reverse_tree = |zone: &NameBuf| matches!(zone.to_string().as_str(), "in-addr.arpa." | "ip6.arpa.");
    for zone in zones.iter().filter(|zone| !is_reverse_tree(zone) && !of.iter().any(|of| overlaps(of, zone))) {
        let message = format!("no zone of this stanza overlaps '{zone}': 'fallthrough' has no effect for it");
        line.warning(first, message);
    }
    if zones.is_empty() {
        return crate::chain::Fallthrough::Never;
    }
    crate::chain::Fallthrough::Within(zones)
}
