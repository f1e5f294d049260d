//! The directives: one table in CoreDNS's order, and for each that is built its configuration and its plugin.
//!
//! ```text
//! corefile::Directive ─ parse(..) ─► Config (typed, comparable) ─ the app builds ─► Plugin
//! ```

pub mod accepted;
pub mod acl;
pub mod any;
pub mod bind;
pub mod bufsize;
pub mod cache;
mod changing;
pub mod chaos;
pub mod debug;
pub mod dns64;
pub mod encrypted;
pub mod endpoint;
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
pub mod whoami;

use std::path::Path;

use crate::corefile::{Arguments, Block, Diagnostics, Directive, Known};

pub use table::{DIRECTIVES, Setting};

/// What a directive's reader may look at besides its own lines.
pub struct Context<'a> {
    /// The zones of the server block, in lower case with their final dot.
    pub zones: &'a [String],
    /// *root*'s folder, to which relative file names are joined.
    pub root: Option<&'a Path>,
    /// Where mistakes go.
    pub diagnostics: &'a mut Diagnostics,
}

/// Reads the directives of a server block: its settings in the order in which plugins run, whatever the file's.
pub fn settings(block: &Block, diagnostics: &mut Diagnostics) -> Vec<Setting> {
    let zones: Vec<String> = block.zones().map(str::to_owned).collect();
    let mut settings: Vec<Setting> = Vec::new();
    let mut root = None;
    for entry in DIRECTIVES {
        let mut stanzas: Vec<&Directive> = block.directives_named(entry.name).collect();
        let Some(read) = entry.read.filter(|_| !stanzas.is_empty()) else { continue };
        if entry.once {
            for again in stanzas.drain(1..) {
                let message = "this plugin can only be used once per Server Block";
                Arguments::of(again, diagnostics).error(&again.name, message);
            }
        }
        let mut context = Context { zones: &zones, root: root.as_deref(), diagnostics };
        let Some(setting) = read(&stanzas, &mut context) else { continue };
        if let Setting::Root(path) = &setting {
            root = Some(path.clone());
        }
        settings.push(setting);
    }
    settings
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

/// Zones given as arguments, or those of the server block.
fn zones_or_block(mut zones: Vec<String>, context: &Context<'_>) -> Vec<crate::wire::NameBuf> {
    if zones.is_empty() {
        zones = context.zones.to_vec();
    }
    // What the Corefile's reader took for a zone is a name.
    zones.iter().filter_map(|zone| crate::wire::NameBuf::from_text(zone).ok()).collect()
}

/// The arguments of `fallthrough`.
fn fallthrough(line: &mut Arguments<'_, '_>) -> crate::chain::Fallthrough {
    if !line.more() {
        return crate::chain::Fallthrough::Always;
    }
    let zones = line.zones();
    let zones: Vec<_> = zones.iter().filter_map(|zone| crate::wire::NameBuf::from_text(zone).ok()).collect();
    match zones.is_empty() {
        true => crate::chain::Fallthrough::Never,
        false => crate::chain::Fallthrough::Within(zones),
    }
}
