//! The directives: one table in CoreDNS's order, and for each that is built its configuration and its plugin.
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
pub mod errors;
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
pub mod rewrite;
pub mod root;
mod table;
#[cfg(test)]
mod testing;
pub mod timeouts;
pub mod tls;
pub mod whoami;

use std::path::PathBuf;

use crate::corefile::{Arguments, Block, Diagnostics, Directive, Key, Known, Sources};
use crate::telemetry::metrics::SharedMetrics;
use crate::wire::NameBuf;

pub use build::ReadDirective;
pub use table::DIRECTIVES;

/// What a directive's reader may look at besides its own lines.
pub struct Context<'a> {
    /// The keys of the server block.
    pub keys: &'a [Key],
    /// Their zones, in lower case with their final dot.
    pub zones: &'a [String],
    /// *root*'s folder, to which relative file names are joined.
    pub root: Option<PathBuf>,
    /// Where mistakes go.
    pub diagnostics: &'a mut Diagnostics,
}

/// Reads the directives of a server block, in the order in which plugins run, whatever the order of the file.
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

/// What the Corefile's reader must know of a directive's name.
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

/// Reads the lines of a directive that takes nothing.
fn no_arguments(stanzas: &[&Directive], context: &mut Context<'_>) {
    for stanza in stanzas {
        Arguments::of(stanza, context.diagnostics).finish();
    }
}

/// The zones that follow in the line, or those of the server block where none follow. Words of which none is a zone
/// leave none: the directive is about no name (CoreDNS `plugin.OriginsFromArgsOrServerBlock`).
fn zones_or_block(line: &mut Arguments<'_, '_>, block: &[String]) -> Vec<NameBuf> {
    if !line.more() {
        return names(block);
    }
    names(&line.zones())
}

/// The same, with a warning where no zone is left.
fn zones_or_block_or_none(line: &mut Arguments<'_, '_>, block: &[String]) -> Vec<NameBuf> {
    let zones = zones_or_block(line, block);
    if zones.is_empty() {
        line.warning(line.name_token(), format!("no zone is left: '{}' applies to no name", line.name()));
    }
    zones
}

/// Zones as names. What the Corefile's reader took for a zone is a name.
fn names(zones: &[String]) -> Vec<NameBuf> {
    zones.iter().filter_map(|zone| NameBuf::from_text(zone).ok()).collect()
}

/// The arguments of `fallthrough`,
/// of a stanza that answers for these zones.
fn fallthrough(line: &mut Arguments<'_, '_>, of: &[NameBuf]) -> crate::chain::Fallthrough {
    let Some(first) = line.peek() else { return crate::chain::Fallthrough::Always };
    let zones = names(&line.zones());
    let overlap = |one: &NameBuf, other: &NameBuf| {
        one.as_name().is_within(other.as_name()) || other.as_name().is_within(one.as_name())
    };
    // The reverse trees are copied from one Corefile to the next, and do no harm.
    let is_tree = |zone: &NameBuf| matches!(zone.to_string().as_str(), "in-addr.arpa." | "ip6.arpa.");
    for zone in zones.iter().filter(|zone| !is_tree(zone) && !of.iter().any(|of| overlap(of, zone))) {
        line.warning(
            first,
            format!("no zone of this stanza overlaps '{zone}': 'fallthrough' passes nothing on for it"),
        );
    }
    match zones.is_empty() {
        true => crate::chain::Fallthrough::Never,
        false => crate::chain::Fallthrough::Within(zones),
    }
}
