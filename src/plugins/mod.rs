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
pub mod dnstap;
mod embedded_ipv4;
pub mod encrypted;
pub mod erratic;
pub mod errors;
pub mod etcd;
pub mod expression;
pub mod forward;
pub mod geoip;
pub mod grpc;
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
pub mod placeholders;
pub mod prometheus;
pub mod proxyproto;
pub mod ready;
mod regexp;
pub mod reload;
pub mod rewrite;
pub mod root;
pub mod siit;
mod table;
pub mod template;
#[cfg(test)]
mod testing;
pub mod timeouts;
pub mod tls;
pub mod trace;
mod upstream_tls;
pub mod view;
pub mod whoami;

use context::{fallthrough, names, no_arguments, zones_or_block, zones_or_block_or_none};

use crate::corefile::{Arguments, Block, Diagnostic, Diagnostics, Directive, Known, Sources, Stage};
use crate::telemetry::metrics::SharedMetrics;
use crate::wire::NameBuf;

pub use build::ReadDirective;
pub use context::{BlockZones, Context};
pub use table::DIRECTIVES;

/// Parses the directives of a server block. Returns them in the order in which plugins run, whatever their order in the
/// file.
pub fn read_directives(block: &Block, sources: &Sources, diagnostics: &mut Diagnostics) -> Vec<ReadDirective> {
    let zones: Vec<String> = block.zones().map(str::to_owned).collect();
    let zones = BlockZones::new(&zones, &block.directives);
    let mut context = Context { keys: &block.keys, zones, block: &block.directives, root: None, diagnostics };
    let mut directives = Vec::new();
    for entry in DIRECTIVES {
        let mut stanzas: Vec<&Directive> = block.directives_named(entry.name).collect();
        let Some(read) = entry.read.filter(|_| !stanzas.is_empty()) else { continue };
        if entry.once {
            let first = sources.place(stanzas[0].span);
            for again in stanzas.drain(1..) {
                let message = "this plugin can only be used once per Server Block";
                let expected = format!("one '{}': delete this line, or the one at {first}", entry.name);
                Arguments::of(again, context.diagnostics).error_expected(&again.name, message, &expected);
            }
        }
        let setting = read(&stanzas, &mut context);
        if let Some(setting) = setting {
            warn_of_unreached(&directives, &stanzas, &mut context);
            directives.push(ReadDirective::new(entry.name, setting));
        }
    }
    directives
}

/// Warns of a directive that gets no query, since one before it answers all queries of the block.
fn warn_of_unreached(before: &[ReadDirective], stanzas: &[&Directive], context: &mut Context<'_>) {
    let Some(first) = stanzas.first().filter(|stanza| table::ANSWERING.contains(&&*stanza.name.text)) else { return };
    let zones = names(context.zones.names);
    let answers_all = |directive: &&ReadDirective| {
        let ended = directive.ended_zones();
        let is_within = |zone: &NameBuf| ended.iter().any(|ended| zone.as_name().is_within(ended.as_name()));
        !zones.is_empty() && zones.iter().all(is_within)
    };
    if let Some(before) = before.iter().find(answers_all) {
        let name = before.name;
        let message = format!(
            "no query reaches '{}': '{name}' runs before it and answers every query of this block",
            first.name.text
        );
        let warning = Diagnostic::warning(Stage::Setup, Some(first.name.span), message);
        let expected = match name {
            "hosts" | "kubernetes" | "template" => {
                format!("'fallthrough' in the braces of '{name}', or fewer zones for it")
            }
            _ => format!("one of the two, or a smaller zone for '{name}'"),
        };
        Arguments::of(first, context.diagnostics).push(warning.expected(expected));
    }
}

/// Registers the metrics that are shown whether or not their directive is configured, as CoreDNS does.
pub fn register_metrics(metrics: &SharedMetrics) {
    DIRECTIVES.iter().filter_map(|entry| entry.register_metrics).for_each(|register| register(metrics));
}

/// Returns whether this server, CoreDNS or an external plugin has a directive of this name.
pub fn known(name: &str) -> Known {
    let hint = |hints: &[(&str, &str)]| hints.iter().find(|(of, _)| *of == name).map(|(_, hint)| (*hint).to_owned());
    if let Some(entry) = DIRECTIVES.iter().find(|entry| entry.name == name) {
        return match entry.read {
            Some(_) => Known::Yes,
            None => Known::Unsupported(hint(table::WAYS_OUT)),
        };
    }
    if let Some((_, what)) = table::EXTERNAL.iter().find(|(external, _)| *external == name) {
        return Known::External(Some((*what).to_owned()));
    }
    if let Some(removed) = hint(table::REMOVED) {
        return Known::Removed(removed);
    }
    let of = table::PROPERTIES.iter().filter(|(_, properties)| properties.contains(&name));
    let of: Vec<String> = of.map(|(directive, _)| format!("'{directive}'")).collect();
    if !of.is_empty() {
        return Known::Property(of.join(" or "));
    }
    Known::No(|name| crate::corefile::suggest(name, DIRECTIVES.iter().map(|entry| entry.name)))
}
