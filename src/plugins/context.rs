//! What the parsers of directives share: the server block, the place for errors, and arguments that several have.

use std::path::PathBuf;

use crate::chain::Fallthrough;
use crate::corefile::{Arguments, BlockKey, Diagnostics, Directive};
use crate::wire::NameBuf;

/// What the parser of a directive may use besides the lines of the directive.
pub struct Context<'a> {
    /// The keys of the server block.
    pub keys: &'a [BlockKey],
    /// The zones of the keys, in lower case with a final dot.
    pub zones: &'a [String],
    /// All stanzas of the server block.
    pub block: &'a [Directive],
    /// The directory of *root*, to which relative file names are joined.
    pub root: Option<PathBuf>,
    /// The errors and warnings.
    pub diagnostics: &'a mut Diagnostics,
}

/// Parses a directive without arguments.
pub(super) fn no_arguments(stanzas: &[&Directive], context: &mut Context<'_>) {
    for stanza in stanzas {
        Arguments::of(stanza, context.diagnostics).finish();
    }
}

/// Returns the zones that follow in the line, or those of the server block if nothing follows. If no word is a valid
/// zone, the result is empty, and the directive applies to no name (CoreDNS `plugin.OriginsFromArgsOrServerBlock`).
pub(super) fn zones_or_block(line: &mut Arguments<'_, '_>, block: &[String]) -> Vec<NameBuf> {
    if !line.more() {
        return names(block);
    }
    names(&line.zones())
}

/// Returns the same as [`zones_or_block`], with a warning if the result is empty.
pub(super) fn zones_or_block_or_none(line: &mut Arguments<'_, '_>, block: &[String]) -> Vec<NameBuf> {
    let zones = zones_or_block(line, block);
    if zones.is_empty() {
        line.warning(line.name_token(), format!("no valid zone: '{}' applies to no name", line.name()));
    }
    zones
}

/// Converts zones to names. Every zone that the parser of the Corefile accepts is a valid name.
pub(super) fn names(zones: &[String]) -> Vec<NameBuf> {
    zones.iter().filter_map(|zone| NameBuf::from_text(zone).ok()).collect()
}

/// Parses the arguments of `fallthrough` in a stanza for the zones `of`.
pub(super) fn fallthrough(line: &mut Arguments<'_, '_>, of: &[NameBuf]) -> Fallthrough {
    let Some(first) = line.peek() else { return Fallthrough::Always };
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
        return Fallthrough::Never;
    }
    Fallthrough::Within(zones)
}
